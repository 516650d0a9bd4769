package apitest

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// peppered configures a Manager and a Verifier with these peppers. The hashers
// verify with the last generation's too.
func peppered(t *testing.T, accept bool, peppers ...apikey.Pepper) (func(*managerConfig), func(*verifierConfig)) {
	var hasher apikey.Hasher = argon(t, apikey.Argon2idConfig{Memory: 7168, Time: 1})
	set := func(s *apikey.Settings) {
		s.Hashers, s.Peppers, s.AcceptUntagged = []apikey.Hasher{hasher}, peppers, accept
	}
	return func(c *managerConfig) { set(&c.Settings) }, func(c *verifierConfig) { set(&c.Settings) }
}

// starts tries to start a Manager and a Verifier, and wants the same of both.
func (e *env) starts(t *testing.T, accept bool, peppers ...apikey.Pepper) error {
	t.Helper()
	mc, vc := peppered(t, accept, peppers...)
	m, v := managerConfig{e.settings, e.mc}, verifierConfig{e.settings, e.vc}
	mc(&m)
	vc(&v)
	_, errM := apikey.NewManager(background, m.Settings, m.ManagerConfig)
	verifier, errV := apikey.NewVerifier(background, v.Settings, v.VerifierConfig)
	if errV == nil {
		require.NoError(t, verifier.Close(background))
		require.NoError(t, errM)
		return nil
	}
	require.Error(t, errM)
	require.Nil(t, verifier)
	require.EqualError(t, errM, errV.Error())
	return errors.Join(errM, errV)
}

// A wrong or forgotten pepper fails the start, not the traffic.
func TestWrongPepperFailsTheStart(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		one, two, three := pepperOf(t, 1, 10), pepperOf(t, 2, 20), pepperOf(t, 3, 30)
		e := newEnv(t, on, noPepper)
		require.NoError(t, e.starts(t, false), "a fresh database, no pepper")
		require.NoError(t, e.starts(t, false, one), "a fresh database, its first pepper")

		for name, c := range map[string]struct {
			peppers []apikey.Pepper
			text    string
		}{
			"none any more":                 {nil, "slot 1, and none of those is configured"},
			"another key in the slot":       {[]apikey.Pepper{pepperOf(t, 1, 11)}, "slot 1 is not the one"},
			"only one that is new":          {[]apikey.Pepper{two}, "slot 1, and none of those is configured"},
			"a new one and a wrong old one": {[]apikey.Pepper{two, pepperOf(t, 1, 12)}, "slot 1 is not the one"},
		} {
			err := e.starts(t, false, c.peppers...)
			require.ErrorIs(t, err, apikey.ErrPepper, name)
			require.ErrorContains(t, err, c.text, name)
			require.ErrorIs(t, e.starts(t, true, c.peppers...), apikey.ErrPepper, "%s: AcceptUntagged is about tokens", name)
		}
		require.NoError(t, e.starts(t, false, one))
		require.NoError(t, e.starts(t, false, two, one), "a second one is introduced")
		require.NoError(t, e.starts(t, false, one, two), "either mints")
		require.NoError(t, e.starts(t, false, two), "and takes over alone")
		require.NoError(t, e.starts(t, false, three, two))
		err := e.starts(t, false)
		require.ErrorIs(t, err, apikey.ErrPepper)
		require.ErrorContains(t, err, "slot 1, 2, 3")
		require.ErrorIs(t, e.starts(t, false, three, pepperOf(t, 2, 99)), apikey.ErrPepper)
	})
}

// Two Managers that introduce two different peppers in one slot at the same
// time: one of them does not start.
func TestTwoPeppersRaceForASlot(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p), noPepper)
		p.meet(2)
		errs := together(2, func(i int) error {
			c := e.settings
			c.Peppers = []apikey.Pepper{pepperOf(t, 1, byte(10+i))}
			_, err := apikey.NewManager(background, c, e.mc)
			return err
		})
		require.Equal(t, 1, count(errs, nil), errs)
		require.Equal(t, 1, count(errs, apikey.ErrPepper), errs)
		winner := pepperOf(t, 1, byte(10+slices.Index(errs, nil)))
		p.meet(2)
		errs = together(2, func(int) error { // two nodes of one program
			c := e.settings
			c.Peppers = []apikey.Pepper{pepperOf(t, 2, 20), winner}
			_, err := apikey.NewManager(background, c, e.mc)
			return err
		})
		require.Equal(t, 2, count(errs, nil), errs)
	})
}

// A pepper comes to a database that had none. The order of the steps: every
// Verifier takes it and accepts untagged tokens still; then the Manager takes
// it, and what it issues is tagged; then Remac signs the old records; then
// whoever holds a token without a tag gets a new one; and at last nobody accepts
// the old ones any more, which until then anybody who writes to the database
// could forge.
func TestPepperIsIntroduced(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on, noPepper)
		var old []apikey.Issued
		for range 5 {
			old = append(old, e.issue())
		}
		suspended := e.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
		one := pepperOf(t, 1, 10)
		mc, vc := peppered(t, true, one)
		verify := func(v *apikey.Verifier, k apikey.Issued) error {
			_, err := v.Verify(background, k.Token.Reveal(), apikey.Request{})
			return err
		}

		// 1. The Verifiers, also those that are in the process of a Manager. Processes that
		// have no pepper yet verify what it makes.
		v := e.newVerifier(vc)
		first := e.newManager(mc, func(c *managerConfig) { c.MintUntagged = true })
		untaggedKey, err := first.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		for _, k := range append(old, untaggedKey) {
			require.NoError(t, verify(v, k))
			require.NoError(t, verify(e.verifierOf(first), k))
			require.NoError(t, verify(e.verifier, k))
		}
		old = append(old, untaggedKey)
		items, err := e.store.Items(background, apikey.StoreItemFilter{Kind: "pepper"})
		require.NoError(t, err)
		require.Empty(t, items.Items)
		// 2. The Manager.
		m := e.newManager(mc)
		v = e.verifierOf(m)
		fresh, err := m.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		require.NoError(t, verify(v, fresh))
		require.Equal(t, uint8(1), fresh.Key.Credentials.At(0).Pepper)
		require.NoError(t, verify(v, old[0]))
		_, err = m.Update(e.ctx, apikey.UpdateRequest{Key: old[4].Key.ID, Name: apikey.Set("signed by its update")})
		require.NoError(t, err)
		require.NoError(t, verify(v, old[4]))
		// 3. Remac, until it returns 0.
		require.Equal(t, 6, remacAll(t, m, 2))
		require.NoError(t, m.Resume(e.ctx, apikey.ResumeRequest{Key: suspended.Key.ID}))
		require.NoError(t, verify(v, suspended))
		for _, k := range old {
			require.NoError(t, verify(v, k))
			report, err := m.VerifyEvents(staff(), k.Key.ID)
			require.NoError(t, err)
			require.Equal(t, apikey.ChainReport{Events: 2}, report)
		}
		// 4. Who still has a token without a tag?
		list, err := m.List(staff(), apikey.ListRequest{})
		require.NoError(t, err)
		untagged := 0
		for _, k := range list.Keys {
			for c := range k.Credentials.All() {
				if !c.Ended && c.Pepper == 0 {
					untagged++
				}
			}
		}
		require.Equal(t, 7, untagged)
		// 5. Off.
		mc, vc = peppered(t, false, one)
		v = e.newVerifier(vc)
		for _, k := range append(old, suspended) {
			require.ErrorIs(t, verify(v, k), apikey.ErrInvalidToken, "its holder needs a new one")
		}
		require.NoError(t, verify(v, fresh))
		m = e.newManager(mc)
		for _, k := range old {
			_, err := m.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, Name: apikey.Set("still managed")})
			require.NoError(t, err, "the records are signed")
			require.NoError(t, m.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}))
		}
	})
}

// While the second step of introducing a pepper is deployed, Managers of the first step
// still run, and start again. They do no harm to keys that have the pepper, and end them.
func TestStepsOfIntroducingAPepperOverlap(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on, noPepper)
		mc, _ := peppered(t, true, pepperOf(t, 1, 10))
		untagged := func(c *managerConfig) { c.MintUntagged = true }
		e.newManager(mc, untagged)
		next := e.newManager(mc)
		first := e.newManager(mc, untagged) // it was started again
		v := e.verifierOf(next)
		verify := func(token apikey.Token) error {
			require.NoError(t, v.Sync(background))
			_, err := v.Verify(background, token.Reveal(), apikey.Request{})
			return err
		}
		sound := func(key apikey.KeyID, events int) {
			for _, m := range []*apikey.Manager{first, next} {
				report, err := m.VerifyEvents(staff(), key)
				require.NoError(t, err)
				require.Equal(t, apikey.ChainReport{Events: events}, report)
			}
		}
		key, err := next.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		for i, m := range []*apikey.Manager{first, next, first} {
			_, err := m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(fmt.Sprint("name ", i))})
			require.NoError(t, err)
			require.NoError(t, verify(key.Token))
		}
		sound(key.Key.ID, 4)
		require.NoError(t, first.Suspend(e.ctx, key.Key.ID))
		require.ErrorIs(t, verify(key.Token), apikey.ErrSuspended)
		require.NoError(t, next.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}))
		rotated, err := first.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, Overlap: time.Hour})
		require.NoError(t, err)
		require.NoError(t, verify(rotated.Token))
		require.NoError(t, verify(key.Token))
		require.NoError(t, first.RevokeToken(background, key.Token.Reveal(), apikey.ReasonCompromised))
		require.ErrorIs(t, verify(key.Token), apikey.ErrCredentialEnded)
		require.NoError(t, verify(rotated.Token))
		sound(key.Key.ID, 8)

		// What the first step makes has no pepper, and its own keys get none by its changes.
		old, err := first.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		_, err = first.Update(e.ctx, apikey.UpdateRequest{Key: old.Key.ID, Name: apikey.Set("x")})
		require.NoError(t, err)
		r, err := e.store.Get(background, old.Key.ID)
		require.NoError(t, err)
		require.Empty(t, r.MAC)
		require.Zero(t, old.Key.Credentials.At(0).Pepper)
		_, err = first.Remac(staff(), 0)
		require.ErrorIs(t, err, apikey.ErrInvalid)

		other := func(c *managerConfig) { c.Peppers = []apikey.Pepper{pepperOf(t, 1, 99)} }
		c := managerConfig{e.settings, e.mc}
		for _, o := range []func(*managerConfig){mc, untagged, other} {
			o(&c)
		}
		_, err = apikey.NewManager(background, c.Settings, c.ManagerConfig)
		require.ErrorIs(t, err, apikey.ErrPepper, "the wrong pepper is found in the first step too")
	})
}

// Without AcceptUntagged a record without a MAC is damaged, from the first
// start: nobody can take the MAC away and have it signed anew.
func TestUnsignedRecordsAreRefusedByDefault(t *testing.T) {
	e := newEnv(t, noPepper)
	old := e.issue()
	mc, vc := peppered(t, false, pepperOf(t, 1, 10))
	m := e.newManager(mc)
	_, err := e.newVerifier(vc).Verify(background, old.Token.Reveal(), apikey.Request{})
	require.ErrorIs(t, err, apikey.ErrInvalidToken)
	_, err = m.Update(e.ctx, apikey.UpdateRequest{Key: old.Key.ID, Name: apikey.Set("x")})
	require.ErrorIs(t, err, apikey.ErrCorrupt)
	n, err := m.Remac(staff(), 0)
	require.ErrorIs(t, err, apikey.ErrCorrupt)
	require.ErrorContains(t, err, old.Key.ID.String())
	require.Zero(t, n)
}

// A pepper has leaked. A new one is added and mints; List shows who depends on
// the old one; their keys are made anew and the MACs renewed; the old one is
// taken out. From then on everything that it minted is refused, and nothing
// else.
func TestLeakedPepperIsReplaced(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on, noPepper)
		leaked, good := pepperOf(t, 1, 10), pepperOf(t, 2, 20)
		mc, _ := peppered(t, false, leaked)
		m := e.newManager(mc)
		issue := func(m *apikey.Manager, kind apikey.Kind) apikey.Issued {
			k, err := m.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Kind: kind})
			require.NoError(t, err)
			return k
		}
		old := []apikey.Issued{issue(m, 0), issue(m, 0), issue(m, apikey.Publishable)}
		dead := issue(m, 0)
		require.NoError(t, m.Revoke(e.ctx, apikey.RevokeRequest{Key: dead.Key.ID}))

		// Every Verifier first, then the Manager.
		mc, _ = peppered(t, false, good, leaked)
		m = e.newManager(mc)
		v := e.verifierOf(m)
		verify := func(v *apikey.Verifier, k apikey.Issued) error {
			_, err := v.Verify(background, k.Token.Reveal(), apikey.Request{AllowPublishable: true})
			return err
		}
		for _, k := range old {
			require.NoError(t, verify(v, k))
		}
		fresh := []apikey.Issued{issue(m, 0), issue(m, apikey.Publishable)}

		dependants := func() (ids []apikey.KeyID) {
			list, err := m.List(staff(), apikey.ListRequest{Pepper: 1})
			require.NoError(t, err)
			for _, k := range list.Keys {
				ids = append(ids, k.ID)
			}
			return ids
		}
		require.Equal(t, []apikey.KeyID{dead.Key.ID, old[2].Key.ID, old[1].Key.ID, old[0].Key.ID}, dependants())
		require.Equal(t, 4, remacAll(t, m, 3))
		require.Len(t, dependants(), 4, "their tokens still depend on it, also the dead one's")
		replacement := issue(m, 0)
		require.NoError(t, m.RevokeToken(background, old[0].Token.Reveal(), apikey.ReasonSuperseded))
		require.Equal(t, []apikey.KeyID{dead.Key.ID, old[2].Key.ID, old[1].Key.ID}, dependants())

		// Taken out.
		mc, _ = peppered(t, false, good)
		m = e.newManager(mc)
		v = e.verifierOf(m)
		for _, k := range append(old, dead) {
			require.ErrorIs(t, verify(v, k), apikey.ErrInvalidToken)
			require.ErrorIs(t, m.RevokeToken(background, k.Token.Reveal(), ""), apikey.ErrInvalidToken)
			info, err := m.Get(e.ctx, k.Key.ID)
			require.NoError(t, err, "the key itself is managed on")
			require.Equal(t, k.Key.ID, info.ID)
		}
		for _, k := range append(fresh, replacement) {
			require.NoError(t, verify(v, k))
		}
		// What the thief makes with the leaked pepper is worth nothing.
		require.Equal(t, old[1].Token.Reveal(), retagAs(t, 10, old[1].Token.Reveal()), "the premise")
		forged := retagAs(t, 10, spliceSecret(old[1].Token.Reveal()))
		_, err := v.Verify(background, forged, apikey.Request{})
		require.ErrorIs(t, err, apikey.ErrInvalidToken)
	})
}

// retagAs is retag with the key that pepperOf makes of fill.
func retagAs(t *testing.T, fill byte, text string) string {
	t.Helper()
	p, err := apikey.NewPepper(fill, [32]byte{1})
	require.NoError(t, err)
	return retag(t, p, text) // which fills by the slot
}

// A record whose MAC was never renewed is refused when its pepper is taken out:
// loudly, because a merchant may stand before a closed door.
func TestPepperTakenOutTooEarly(t *testing.T) {
	e := newEnv(t, noPepper)
	one, two := pepperOf(t, 1, 10), pepperOf(t, 2, 20)
	mc, _ := peppered(t, false, one)
	m := e.newManager(mc)
	key, err := m.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(t, err)
	mc, _ = peppered(t, false, two, one)
	e.newManager(mc)
	mc, _ = peppered(t, false, two)
	m = e.newManager(mc)
	_, err = m.Get(e.ctx, key.Key.ID)
	require.ErrorIs(t, err, apikey.ErrCorrupt)
	require.ErrorContains(t, err, "pepper slot 1, which is not configured")
	require.NoError(t, m.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}), "it can be ended all the same")
	list, err := m.List(e.ctx, apikey.ListRequest{})
	require.NoError(t, err)
	require.Len(t, list.Damaged, 1)
	require.Equal(t, key.Key.ID, list.Damaged[0].Key)
}

// With the HMAC hasher and two peppers each key is hashed by the one that minted
// it. Taken out, it takes its own keys with it and no others.
func TestHMACHasherWithTwoPeppers(t *testing.T) {
	e := newEnv(t)
	first := e.issue()
	one, two := e.settings.Peppers[0], pepper(t, 2)
	both := hmacHasher(t, two, one)
	m := e.newManager(func(c *managerConfig) {
		c.Peppers, c.Hashers = []apikey.Pepper{two, one}, []apikey.Hasher{both}
	})
	v := e.verifierOf(m)
	second, err := m.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(t, err)
	for i, k := range []apikey.Issued{first, second} {
		_, err := v.Verify(background, k.Token.Reveal(), apikey.Request{})
		require.NoError(t, err)
		r, err := e.store.Get(background, k.Key.ID)
		require.NoError(t, err)
		require.Contains(t, r.Credentials[0].Hash, fmt.Sprintf("$hmac-sha256$%d$", i+1))
	}
	require.Equal(t, 1, remacAll(t, m, 10))
	alone := hmacHasher(t, two)
	v = e.newVerifier(func(c *verifierConfig) { c.Peppers, c.Hashers = []apikey.Pepper{two}, []apikey.Hasher{alone} })
	_, err = v.Verify(background, first.Token.Reveal(), apikey.Request{})
	require.ErrorIs(t, err, apikey.ErrInvalidToken)
	_, err = v.Verify(background, second.Token.Reveal(), apikey.Request{})
	require.NoError(t, err)
}

// The introduction of a pepper is in the activity log, by its slot alone.
func TestPepperIntroductionIsLogged(t *testing.T) {
	e := newEnv(t)
	e.newManager(func(c *managerConfig) { c.Peppers = append([]apikey.Pepper{pepper(t, 7)}, c.Peppers...) })
	e.newManager()
	log := e.allEvents(apikey.EventsRequest{})
	require.Len(t, log, 2, "once each")
	for i, slot := range []string{"01", "07"} {
		require.Equal(t, apikey.ActionPepper, log[i].Action)
		require.Equal(t, []string{slot}, log[i].Changed)
		require.Equal(t, e.clock.now().UTC().Truncate(time.Microsecond), log[i].Time)
		require.True(t, log[i].Actor.IsOperator())
		require.Zero(t, log[i].Account)
	}
}

// A first pepper on a database that has tokens without one says so: they are refused,
// and merchants' errors would be all that tells.
func TestAFirstPepperWarnsOfUntaggedTokens(t *testing.T) {
	for name, c := range map[string]struct {
		issue, accept bool
		says          bool
	}{
		"tokens":                     {issue: true, says: true},
		"tokens that stay accepted":  {issue: true, accept: true},
		"a database without any key": {},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, noPepper)
			if c.issue {
				e.issue()
			}
			var log strings.Builder
			settings := e.settings
			settings.AcceptUntagged, settings.Logger = c.accept, slog.New(slog.NewTextHandler(&log, nil))
			settings.Peppers = []apikey.Pepper{pepperOf(t, 1, 10)}
			for start := range 3 { // the others find the mark, also of another pepper, and have nothing to say
				if start == 2 {
					settings.Peppers = append(settings.Peppers, pepperOf(t, 2, 20))
				}
				m, err := apikey.NewManager(background, settings, e.mc)
				require.NoError(t, err)
				require.NoError(t, m.Close(background))
			}
			want := 0
			if c.says {
				want = 1
			}
			require.Equal(t, want, strings.Count(log.String(), "AcceptUntagged"), log.String())
		})
	}
}
