package apitest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// seeing is a ChangePolicy that remembers what it was shown.
type seeing struct {
	refuse func(act apikey.Action, before, after apikey.Info) error
	seen   []string
}

func (p *seeing) Authorize(context.Context, apikey.Actor, apikey.Action, apikey.Info) error {
	panic("AuthorizeChange is asked instead")
}

func (p *seeing) AuthorizeChange(_ context.Context, _ apikey.Actor, act apikey.Action, before, after apikey.Info) error {
	p.seen = append(p.seen, fmt.Sprintf("%s: %s -> %s", act, sketch(before), sketch(after)))
	if p.refuse != nil {
		return p.refuse(act, before, after)
	}
	return nil
}

// sketch is what a Policy may look at, in short.
func sketch(k apikey.Info) string {
	var has []string
	for a := range k.Abilities.All() {
		has = append(has, a.String())
	}
	for n := range k.Networks.All() {
		has = append(has, n.String())
	}
	for o := range k.Origins.All() {
		has = append(has, o)
	}
	bounded := 0
	for c := range k.Credentials.All() {
		if c.Ended || !c.NotAfter.IsZero() {
			bounded++
		}
	}
	id := "key"
	if k.ID.IsZero() {
		id = "new"
	}
	return fmt.Sprintf("%s %s %s %s/%s %q %v end=%v bounded=%d", id, k.Account, k.State, k.Mode, k.Kind, k.Name, has, !k.ExpiresAt.IsZero(), bounded)
}

// What a Policy is shown is what the key is, and what it would be, in the form in
// which it is stored.
func TestFound12PolicySeesWhatIsAskedFor(t *testing.T) {
	policy := &seeing{}
	var f *factors
	e := newEnv(t, withFactors(&f, nil), func(e *env) { e.mc.Policy, e.mc.InsecureRevealWithoutStepUp = policy, true })
	key := e.issue(func(r *apikey.IssueRequest) {
		r.Abilities, r.Networks = []string{"payment:verify", "payment:refund", "payment:verify"}, nets("203.0.113.77/24")
		r.Origins, r.Recoverable = []string{"HTTPS://B.example:443"}, true
	})
	id := key.Key.ID
	const is = `key acc_1 active live/secret "Website" [payment:refund payment:verify 203.0.113.0/24 https://b.example] end=false bounded=0`
	of := func(has string) string { return strings.Replace(is, "payment:refund payment:verify", has, 1) }
	require.Equal(t, []string{
		`key.issue: new acc_1 state(0) live/secret "Website" [] end=false bounded=0 -> ` + strings.Replace(is, "key", "new", 1),
	}, policy.seen)

	update := func(req apikey.UpdateRequest) func() error {
		return func() error {
			req.Key = id
			_, err := e.manager.Update(e.ctx, req)
			return err
		}
	}
	at := e.clock.now().Add(time.Hour)
	for _, c := range []struct {
		name string
		call func() error
		want []string
	}{
		{"get", func() error { _, err := e.manager.Get(e.ctx, id); return err }, []string{"key.read: " + is + " -> " + is}},
		{"reveal", func() error { _, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: id}); return err }, []string{"key.reveal: " + is + " -> " + is}},
		{"narrow", update(apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:verify"})}),
			[]string{"key.update: " + is + " -> " + of("payment:verify")}},
		{"widen", update(apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:verify", "payment:refund"})}),
			[]string{"key.update: " + of("payment:verify") + " -> " + is}},
		{"every network", update(apikey.UpdateRequest{Networks: apikey.Set(nets("203.0.113.77/0"))}),
			[]string{"key.update: " + is + " -> " + strings.Replace(is, "203.0.113.0/24", "0.0.0.0/0", 1)}},
		{"and back", update(apikey.UpdateRequest{Networks: apikey.Set(nets("::ffff:203.0.113.1/120"))}),
			[]string{"key.update: " + strings.Replace(is, "203.0.113.0/24", "0.0.0.0/0", 1) + " -> " + is}},
		{"invalid", func() error {
			err := update(apikey.UpdateRequest{Abilities: apikey.Set([]string{"no:such"})})()
			require.ErrorIs(t, err, apikey.ErrInvalid)
			return nil
		}, []string{"key.update: " + is + " -> " + is}},
		{"suspend by update", update(apikey.UpdateRequest{Disabled: apikey.Set(true)}), []string{
			"key.update: " + is + " -> " + strings.Replace(is, "active", "suspended", 1),
			"key.suspend: " + is + " -> " + strings.Replace(is, "active", "suspended", 1),
		}},
		{"resume", func() error { return e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: id}) },
			[]string{"key.resume: " + strings.Replace(is, "active", "suspended", 1) + " -> " + is}},
		{"suspend", func() error { return e.manager.Suspend(e.ctx, id) },
			[]string{"key.suspend: " + is + " -> " + strings.Replace(is, "active", "suspended", 1)}},
		{"resume by update", update(apikey.UpdateRequest{Disabled: apikey.Set(false)}), []string{
			"key.update: " + strings.Replace(is, "active", "suspended", 1) + " -> " + is,
			"key.resume: " + strings.Replace(is, "active", "suspended", 1) + " -> " + is,
		}},
		{"rotate later", func() error {
			_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: id, At: at})
			return err
		}, []string{"key.rotate: " + is + " -> " + strings.Replace(is, "bounded=0", "bounded=1", 1)}},
		{"cancel", func() error {
			return e.manager.CancelRotation(e.ctx, id)
		}, []string{"key.cancel_rotation: " + strings.Replace(is, "bounded=0", "bounded=1", 1) + " -> " + strings.Replace(is, "bounded=0", "bounded=1", 1)}},
		{"retire", func() error {
			return e.manager.Retire(e.ctx, apikey.RetireRequest{Key: id, Credential: key.Key.Credential})
		}, []string{"key.retire: " + strings.Replace(is, "bounded=0", "bounded=1", 1) + " -> " + strings.Replace(is, "bounded=0", "bounded=2", 1)}},
		{"revoke", func() error { return e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: id}) }, []string{
			"key.revoke: " + strings.Replace(is, "bounded=0", "bounded=2", 1) + " -> " + strings.Replace(strings.Replace(is, "bounded=0", "bounded=2", 1), "active", "revoked", 1)}},
		{"list", func() error {
			_, err := e.manager.List(e.ctx, apikey.ListRequest{Mode: apikey.Test})
			return err
		}, []string{`key.read: new acc_1 state(0) test/kind(0) "" [] end=false bounded=0 -> new acc_1 state(0) test/kind(0) "" [] end=false bounded=0`}},
		{"provision", func() error {
			_, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}})
			return err
		}, []string{
			`key.provision: new acc_1 state(0) live/publishable "Publishable key" [] end=false bounded=0 -> new acc_1 active live/publishable "Publishable key" [card:tokenise] end=false bounded=0`,
			`key.provision: new acc_1 state(0) test/publishable "Publishable key" [] end=false bounded=0 -> new acc_1 active test/publishable "Publishable key" [card:tokenise] end=false bounded=0`,
		}},
	} {
		policy.seen = nil
		require.NoError(t, c.call(), c.name)
		require.Equal(t, c.want, policy.seen, c.name)
	}
}

var errNoRefunds = errors.New("only the owner gives refunds away")

// noRefunds lets nobody make or widen a key so that it may refund.
func noRefunds(_ apikey.Action, before, after apikey.Info) error {
	refunds := func(k apikey.Info) bool {
		return slices.ContainsFunc(slices.Collect(k.Abilities.All()), func(a apikey.Ability) bool { return a.Allows(apikey.Scope("payment:refund")) })
	}
	if refunds(after) && !refunds(before) {
		return errNoRefunds
	}
	return nil
}

// What a Policy refuses by what is asked for is refused before anything is written
// and before anybody has to prove anything, by a wildcard too, in a transaction too.
func TestFound12PolicyRefusesByWhatIsAskedFor(t *testing.T) {
	var f *factors
	policy := &seeing{refuse: noRefunds}
	e := newEnv(t, withFactors(&f, guardAll), func(e *env) { e.mc.Policy = policy })
	verify := apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:verify"}}
	verify.Grant = e.approve(f, e.ctx, "password", verify)
	key, err := e.manager.Issue(e.ctx, verify)
	require.NoError(t, err)
	before := e.info(key.Key.ID)
	for _, has := range []string{"payment:refund", "payment:*"} {
		issue := apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:verify", has}}
		update := apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:verify", has})}
		for name, call := range map[string]func() error{
			"issue":                func() error { _, err := e.manager.Issue(e.ctx, issue); return err },
			"issue in a tx":        func() error { _, err := e.manager.Tx(unsaid{e.store}).Issue(e.ctx, issue); return err },
			"update":               func() error { _, err := e.manager.Update(e.ctx, update); return err },
			"update in a tx":       func() error { _, err := e.manager.Tx(unsaid{e.store}).Update(e.ctx, update); return err },
			"challenge for issue":  func() error { _, err := e.manager.Challenge(e.ctx, "password", issue); return err },
			"challenge for update": func() error { _, err := e.manager.Challenge(e.ctx, "password", update); return err },
		} {
			err := call()
			require.ErrorIs(t, err, apikey.ErrForbidden, name)
			require.ErrorIs(t, err, errNoRefunds, name)
		}
	}
	require.Equal(t, before, e.info(key.Key.ID))
	require.Len(t, e.keys(), 1)
	log, err := e.manager.Events(e.ctx, apikey.EventsRequest{})
	require.NoError(t, err)
	refused := map[apikey.Action]int{}
	for _, ev := range log.Events {
		if ev.Outcome == apikey.OutcomeRefused {
			refused[ev.Action]++
		}
	}
	require.Equal(t, map[apikey.Action]int{apikey.ActionIssue: 1, apikey.ActionUpdate: 1}, refused, "once a minute, as other refusals")
}

// Who refuses everything is asked by every method, and by AuthorizeChange alone.
func TestFound12EveryMethodAsksAuthorizeChange(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	free := []string{
		"RevokeToken by token", "Confirm by challenge", "Enroll by nothing", "ConfirmEnrollment by nothing",
	}
	key := e.issue()
	policy := &seeing{refuse: func(apikey.Action, apikey.Info, apikey.Info) error { return errNoRefunds }}
	refused := e.newManager(func(c *managerConfig) { c.Policy = policy })
	tried := 0
	for _, c := range []calls{managerCalls(refused), txCalls(refused.Tx(unsaid{e.store}))} {
		c.each(func(name string, call func(context.Context, target) error) {
			if slices.Contains(free, name) {
				return
			}
			err := call(e.ctx, target{key: key.Key.ID, account: "acc_1"})
			require.ErrorIs(t, err, apikey.ErrForbidden, name)
			if !strings.Contains(err.Error(), "is for an Operator") { // whatever a Policy says
				require.ErrorIs(t, err, errNoRefunds, name)
				tried++
			}
		})
	}
	require.Greater(t, tried, 20)
	require.Len(t, policy.seen, tried)
}

// What a Policy allowed of a key as it was is no word on what became of it
// meanwhile: before and after are of the attempt that is written.
func TestFound12PolicyIsShownTheNewestKey(t *testing.T) {
	var p *proxy
	policy := &seeing{refuse: noRefunds}
	e := newEnv(t, through(&p), func(e *env) { e.mc.Policy = policy })
	rival := e.newManager(func(c *managerConfig) { c.Policy = nil })
	key, err := rival.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refund"}})
	require.NoError(t, err)
	first := true
	p.hook(func(p *proxy) {
		p.apply = func(next func() error, _ []apikey.StoreChange) error {
			if first {
				first = false
				_, err := rival.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:verify"})})
				require.NoError(t, err)
			}
			return next()
		}
	})
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:refund", "balance=read"})})
	require.ErrorIs(t, err, errNoRefunds, "the second attempt would give it a refund that was taken away")
}
