package apitest

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// What the ready-made policies ask for.
func TestGuards(t *testing.T) {
	for name, c := range map[string]struct {
		guard apikey.StepUp
		want  []apikey.Action
	}{
		"create and delete": {apikey.GuardCreateAndDelete("f"), []apikey.Action{apikey.ActionIssue, apikey.ActionRevoke}},
		"reveal and rotate": {apikey.GuardRevealAndRotate("f"), []apikey.Action{apikey.ActionReveal, apikey.ActionRotate}},
		"rotate":            {apikey.GuardRotate("f"), []apikey.Action{apikey.ActionRotate}},
		"issue and reveal":  {apikey.GuardIssueAndReveal("f"), []apikey.Action{apikey.ActionIssue, apikey.ActionReveal}},
		"widen":             {apikey.GuardWiden("f"), []apikey.Action{apikey.ActionResume, apikey.ActionWiden}},
		"for another":       {apikey.GuardForAnother("f"), nil},
	} {
		// Whatever is guarded, so is what one admin does for another that could undo it.
		c.want = append(c.want, apikey.ActionAllowEnrollment, apikey.ActionDisable, apikey.ActionLiftLock)
		for _, act := range everyAction {
			for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
				require.Equal(t, slices.Contains(c.want, act), len(c.guard(act, mode)) > 0, "%s: %s", name, act)
			}
		}
	}
}

// What only takes power away waits for no factor, whatever is configured, and
// a guard that could not be passed fails the start.
func TestStepUpThatCannotWork(t *testing.T) {
	only := func(act apikey.Action, names ...string) apikey.StepUp {
		return func(a apikey.Action, m apikey.Mode) []string {
			if a == act && m == apikey.Test {
				return names
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		change func(*managerConfig)
		text   string
	}{
		"guards Suspend":            {stepUp(only(apikey.ActionSuspend, "password")), "key.suspend"},
		"guards Retire":             {stepUp(only(apikey.ActionRetire, "password")), "key.retire"},
		"guards CancelRotation":     {stepUp(only(apikey.ActionCancelRotation, "password")), "key.cancel_rotation"},
		"guards RevokeToken":        {stepUp(only(apikey.ActionRevokeToken, "password")), "key.revoke_token"},
		"guards what is never":      {stepUp(only(apikey.ActionRead, "password")), "never guarded"},
		"names an unknown factor":   {stepUp(only(apikey.ActionReveal, "password", "fax")), `"fax"`},
		"no factor for both":        {stepUp(either), "no factor approves each"},
		"a factor without a name":   {func(c *managerConfig) { c.Factors[""] = c.Factors["totp"] }, "1 to 64"},
		"a factor that is nil":      {func(c *managerConfig) { c.Factors["nil"] = nil }, "nil"},
		"TOTP without a KEK":        {func(c *managerConfig) { c.KEKs = nil }, "needs a KEK"},
		"two KEKs of one ID":        {func(c *managerConfig) { c.KEKs = append(c.KEKs, c.KEKs...) }, "ID of its own"},
		"a KEK that is nil":         {func(c *managerConfig) { c.KEKs = append(c.KEKs, nil) }, "KEKs"},
		"everything that is needed": {func(*managerConfig) {}, ""},
	} {
		var f *factors
		e := newEnv(t, withFactors(&f, nil))
		config := managerConfig{e.settings, e.mc}
		config.Factors = f.all(e.settings.Peppers...)
		c.change(&config)
		_, err := apikey.NewManager(background, config.Settings, config.ManagerConfig)
		if c.text == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
		require.ErrorContains(t, err, c.text, name)
	}
}

func stepUp(s apikey.StepUp) func(*managerConfig) {
	return func(c *managerConfig) { c.StepUp = s }
}

// either guards an update by one factor, and one that widens by another.
func either(a apikey.Action, _ apikey.Mode) []string {
	switch a {
	case apikey.ActionUpdate:
		return []string{"email"}
	case apikey.ActionWiden:
		return []string{"password"}
	}
	return nil
}

func TestConstructorsOfFactors(t *testing.T) {
	for name, construct := range map[string]func() error{
		"TOTP without issuer":    func() error { _, err := apikey.NewTOTP("", nil); return err },
		"TOTP with a colon":      func() error { _, err := apikey.NewTOTP("a:b", nil); return err },
		"password without check": func() error { _, err := apikey.NewPassword(nil); return err },
		"e-mail without sender":  func() error { _, err := apikey.NewEmailCode(nil, pepper(t, 1)); return err },
		"e-mail without pepper":  func() error { _, err := apikey.NewEmailCode(&factors{}); return err },
		"KEK of zeros":           func() error { _, err := apikey.NewLocalKEK("k", make([]byte, 32)); return err },
		"KEK without ID":         func() error { _, err := apikey.NewLocalKEK("", bytes.Repeat([]byte{1}, 32)); return err },
		"KEK that is too short":  func() error { _, err := apikey.NewLocalKEK("k", bytes.Repeat([]byte{1}, 31)); return err },
		"KEK that is too long":   func() error { _, err := apikey.NewLocalKEK("k", bytes.Repeat([]byte{1}, 33)); return err },
		"KEK of nothing":         func() error { _, err := apikey.NewLocalKEK("k", nil); return err },
	} {
		require.ErrorIs(t, construct(), apikey.ErrInvalid, name)
	}
}

// An update that widens is asked about, and one that narrows is not.
func TestGuardWiden(t *testing.T) {
	nets := func(list ...string) (p []netip.Prefix) {
		for _, n := range list {
			p = append(p, netip.MustParsePrefix(n))
		}
		return p
	}
	soon, later := newClock().now().Add(time.Hour), newClock().now().Add(2*time.Hour)
	full := apikey.IssueRequest{
		Mode: apikey.Live, Abilities: []string{"payment:verify", "balance=read"}, ExpiresAt: soon,
		Networks: nets("203.0.113.0/24"), Origins: []string{"https://a.example", "https://b.example"},
	}
	open := apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:*", "balance=write"}}
	for name, c := range map[string]struct {
		key    apikey.IssueRequest
		update apikey.UpdateRequest
		widens bool
	}{
		"name":                      {full, apikey.UpdateRequest{Name: apikey.Set("x")}, false},
		"metadata":                  {full, apikey.UpdateRequest{Metadata: apikey.Set(map[string]string{"a": "b"})}, false},
		"an ability more":           {full, apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:verify", "balance=read", "payment:refund"})}, true},
		"a wildcard":                {full, apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:*", "balance=read"})}, true},
		"a higher level":            {full, apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:verify", "balance=write"})}, true},
		"an ability less":           {full, apikey.UpdateRequest{Abilities: apikey.Set([]string{"balance=read"})}, false},
		"no abilities":              {full, apikey.UpdateRequest{Abilities: apikey.Clear[[]string]()}, false},
		"out of a wildcard":         {open, apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:refund", "balance=read"})}, false},
		"a later end":               {full, apikey.UpdateRequest{ExpiresAt: apikey.Set(later)}, true},
		"no end":                    {full, apikey.UpdateRequest{ExpiresAt: apikey.Clear[time.Time]()}, true},
		"an earlier end":            {full, apikey.UpdateRequest{ExpiresAt: apikey.Set(soon.Add(-time.Minute))}, false},
		"a first end":               {open, apikey.UpdateRequest{ExpiresAt: apikey.Set(soon)}, false},
		"another network":           {full, apikey.UpdateRequest{Networks: apikey.Set(nets("203.0.113.0/24", "192.0.2.1/32"))}, true},
		"a larger network":          {full, apikey.UpdateRequest{Networks: apikey.Set(nets("203.0.112.0/23"))}, true},
		"any network":               {full, apikey.UpdateRequest{Networks: apikey.Clear[[]netip.Prefix]()}, true},
		"a smaller network":         {full, apikey.UpdateRequest{Networks: apikey.Set(nets("203.0.113.128/25"))}, false},
		"a first network":           {open, apikey.UpdateRequest{Networks: apikey.Set(nets("203.0.113.0/24"))}, false},
		"another origin":            {full, apikey.UpdateRequest{Origins: apikey.Set([]string{"https://c.example"})}, true},
		"any origin":                {full, apikey.UpdateRequest{Origins: apikey.Clear[[]string]()}, true},
		"an origin less":            {full, apikey.UpdateRequest{Origins: apikey.Set([]string{"https://a.example"})}, false},
		"disabled":                  {full, apikey.UpdateRequest{Disabled: apikey.Set(true)}, false},
		"what it is already":        {full, apikey.UpdateRequest{Abilities: apikey.Set(full.Abilities)}, false},
		"narrower, and one network": {full, apikey.UpdateRequest{Abilities: apikey.Clear[[]string](), Networks: apikey.Set(nets("0.0.0.0/0"))}, true},
	} {
		var f *factors
		e := newEnv(t, withFactors(&f, apikey.GuardWiden("password")))
		key, err := e.manager.Issue(e.ctx, c.key)
		require.NoError(t, err, name)
		c.update.Key = key.Key.ID
		_, err = e.manager.Update(e.ctx, c.update)
		if !c.widens {
			require.NoError(t, err, name)
			continue
		}
		var ask *apikey.ChallengeError
		require.ErrorAs(t, err, &ask, name)
		require.Equal(t, apikey.ActionWiden, ask.Action, name)
		c.update.Grant = e.approve(f, e.ctx, "password", c.update)
		_, err = e.manager.Update(e.ctx, c.update)
		require.NoError(t, err, name)
	}
}

// A suspended key works again by Resume or by Update: both are asked about.
func TestGuardWidenAsksBeforeResume(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardWiden("password")))
	key := e.issue().Key.ID
	require.NoError(t, e.manager.Suspend(e.ctx, key), "free")
	resume, update := apikey.ResumeRequest{Key: key}, apikey.UpdateRequest{Key: key, Disabled: apikey.Set(false)}
	require.ErrorIs(t, e.manager.Resume(e.ctx, resume), apikey.ErrStepUpRequired)
	_, err := e.manager.Update(e.ctx, update)
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)
	update.Grant = e.approve(f, e.ctx, "password", update)
	_, err = e.manager.Update(e.ctx, update)
	require.NoError(t, err)
}

// The error names the first of what is guarded, never what is free.
func TestChallengeErrorNamesWhatIsGuarded(t *testing.T) {
	widen, resume := apikey.Set([]string{"payment:*"}), apikey.Set(false)
	for name, c := range map[string]struct {
		guarded []apikey.Action
		update  apikey.UpdateRequest
		want    apikey.Action
	}{
		"widening":                       {[]apikey.Action{apikey.ActionWiden}, apikey.UpdateRequest{Abilities: widen}, apikey.ActionWiden},
		"an update that widens":          {[]apikey.Action{apikey.ActionUpdate, apikey.ActionWiden}, apikey.UpdateRequest{Abilities: widen}, apikey.ActionUpdate},
		"resuming":                       {[]apikey.Action{apikey.ActionResume}, apikey.UpdateRequest{Disabled: resume}, apikey.ActionResume},
		"resuming, which widens":         {[]apikey.Action{apikey.ActionResume, apikey.ActionWiden}, apikey.UpdateRequest{Disabled: resume}, apikey.ActionResume},
		"widening, of one that resumes":  {[]apikey.Action{apikey.ActionWiden}, apikey.UpdateRequest{Disabled: resume}, apikey.ActionWiden},
		"an update, of one that resumes": {[]apikey.Action{apikey.ActionUpdate}, apikey.UpdateRequest{Disabled: resume}, apikey.ActionUpdate},
	} {
		var f *factors
		e := newEnv(t, withFactors(&f, func(a apikey.Action, _ apikey.Mode) []string {
			if slices.Contains(c.guarded, a) {
				return []string{"password"}
			}
			return nil
		}))
		c.update.Key = e.issue().Key.ID
		require.NoError(t, e.manager.Suspend(e.ctx, c.update.Key), name)
		_, err := e.manager.Update(e.ctx, c.update)
		var ask *apikey.ChallengeError
		require.ErrorAs(t, err, &ask, name)
		require.Equal(t, apikey.ChallengeError{Action: c.want, Key: c.update.Key, Factors: []string{"password"}}, *ask, name)
	}
}

// Where an update is guarded by some factors and one that widens by fewer, a
// grant of any of the former does not widen.
func TestWideningNeedsAFactorOfBoth(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, func(a apikey.Action, _ apikey.Mode) []string {
		switch a {
		case apikey.ActionUpdate:
			return []string{"email", "password"}
		case apikey.ActionWiden:
			return []string{"email"}
		}
		return nil
	}))
	key := e.issue().Key.ID
	rename := apikey.UpdateRequest{Key: key, Name: apikey.Set("x")}
	rename.Grant = e.approve(f, e.ctx, "password", rename)
	_, err := e.manager.Update(e.ctx, rename)
	require.NoError(t, err)
	widen := apikey.UpdateRequest{Key: key, Abilities: apikey.Set([]string{"payment:*"})}
	widen.Grant = e.approve(f, e.ctx, "password", widen)
	_, err = e.manager.Update(e.ctx, widen)
	var ask *apikey.ChallengeError
	require.ErrorAs(t, err, &ask)
	require.Equal(t, []string{"email"}, ask.Factors)
	widen.Grant = e.approve(f, e.ctx, "email", widen)
	_, err = e.manager.Update(e.ctx, widen)
	require.NoError(t, err)
}

// Live can be guarded without Test.
func TestGuardByMode(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, func(a apikey.Action, m apikey.Mode) []string {
		if a == apikey.ActionIssue && m == apikey.Live {
			return []string{"password"}
		}
		return nil
	}))
	_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Test})
	require.NoError(t, err)
	_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)
}

// While everything else is guarded, what takes power away is free: for a role,
// without a factor, a mail or a KEK.
func TestTakingPowerAwayIsFree(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	keys := []apikey.KeyID{e.issue().Key.ID, e.issue().Key.ID, e.issue().Key.ID}
	token := e.issue().Token
	pending, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: keys[0], At: e.clock.now().Add(time.Hour)})
	require.NoError(t, err)
	m := e.newManager(func(c *managerConfig) { c.StepUp = guardAll })
	f.fail(errKMS)
	require.NoError(t, m.CancelRotation(e.ctx, keys[0]))
	require.NoError(t, m.Retire(e.ctx, apikey.RetireRequest{Key: keys[0], Credential: pending.Key.Credential}))
	require.NoError(t, m.Suspend(e.ctx, keys[0]))
	require.NoError(t, m.Revoke(e.ctx, apikey.RevokeRequest{Key: keys[1], Reason: apikey.ReasonCompromised}))
	require.NoError(t, m.RevokeToken(background, token.Reveal(), ""))
	require.ErrorIs(t, m.Revoke(e.ctx, apikey.RevokeRequest{Key: keys[2]}), apikey.ErrStepUpRequired, "for another reason")
	done, err := m.RevokeAll(e.ctx, apikey.RevokeAllRequest{All: true})
	require.ErrorIs(t, err, apikey.ErrStepUpRequired, "nor many at once")
	require.Zero(t, done.Revoked)
	done, err = m.RevokeAll(e.ctx, apikey.RevokeAllRequest{All: true, Reason: apikey.ReasonCompromised})
	require.NoError(t, err)
	require.Equal(t, 3, done.Revoked)
}
