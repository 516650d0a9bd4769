package apitest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// mayNot is a Policy and a Standing that a test changes: it refuses the modes that
// are in it.
type mayNot map[apikey.Mode]bool

func (p mayNot) Authorize(_ context.Context, _ apikey.Actor, act apikey.Action, k apikey.Info) error {
	if act != apikey.ActionRead && p[k.Mode] {
		return fmt.Errorf("not in mode %s", k.Mode)
	}
	return nil
}

func (p mayNot) Allowed(_ string, m apikey.Mode) error {
	if p[m] {
		return fmt.Errorf("not in mode %s", m)
	}
	return nil
}

func (e *env) keys() []apikey.Info {
	e.t.Helper()
	list, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.NoError(e.t, err)
	return list.Keys
}

// A Policy that lets developers have no live key is asked about each mode.
func TestFound11ProvisionAsksPolicyInEachMode(t *testing.T) {
	for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
		policy := mayNot{mode: true}
		e := newEnv(t, func(e *env) { e.mc.Policy = policy })
		_, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.ErrorIs(t, err, apikey.ErrForbidden, mode)
		require.Empty(t, e.keys(), "%s is refused, and nothing is made", mode)

		policy[mode] = false
		first, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.NoError(t, err)
		policy[mode] = true
		_, err = e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.ErrorIs(t, err, apikey.ErrForbidden, "nor is it shown")
		policy[mode] = false
		again, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.NoError(t, err)
		require.Equal(t, first.Live.Key.ID, again.Live.Key.ID)
	}
}

// A mode that Standing refuses is left out, and made by a later call.
func TestFound11ProvisionLeavesOutWhatStandingRefuses(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		account := mayNot{apikey.Live: true, apikey.Test: true}
		e := newEnv(t, on, func(e *env) { e.settings.Standing = account })
		_, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.ErrorIs(t, err, apikey.ErrStanding)
		require.Empty(t, e.keys())

		account[apikey.Test] = false // it has signed up
		first, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.NoError(t, err)
		require.Equal(t, apikey.Issued{}, first.Live)
		require.Equal(t, apikey.Test, first.Test.Token.Mode())
		require.Len(t, e.keys(), 1)

		account[apikey.Live] = false
		second, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.NoError(t, err)
		require.Equal(t, apikey.Live, second.Live.Token.Mode())
		require.Equal(t, first.Test.Token.Reveal(), second.Test.Token.Reveal())
		require.Len(t, e.keys(), 2)

		account[apikey.Live], account[apikey.Test] = true, true // what is there is shown as before
		third, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.NoError(t, err)
		require.Equal(t, second.Live.Token.Reveal(), third.Live.Token.Reveal())
		require.Equal(t, second.Test.Token.Reveal(), third.Test.Token.Reveal())
	})
}

// StepUp is asked in the modes in which a key is to be made, and only where it
// names ActionProvision.
func TestFound11ProvisionAsksStepUp(t *testing.T) {
	var f *factors
	account := mayNot{}
	e := newEnv(t, withFactors(&f, func(act apikey.Action, m apikey.Mode) []string {
		if act == apikey.ActionProvision && m == apikey.Live {
			return []string{"password"}
		}
		return nil
	}), func(e *env) { e.settings.Standing = account })
	req := apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}}
	_, err := e.manager.Provision(e.ctx, req)
	var ask *apikey.ChallengeError
	require.ErrorAs(t, err, &ask)
	require.Equal(t, apikey.ActionProvision, ask.Action)
	require.Empty(t, e.keys())

	account[apikey.Live] = true // then nothing that is guarded is made
	first, err := e.manager.Provision(e.ctx, req)
	require.NoError(t, err)
	require.Len(t, e.keys(), 1)
	_, err = e.manager.Challenge(e.ctx, "password", req)
	require.ErrorIs(t, err, apikey.ErrInvalid, "nobody proves themselves for nothing")
	account[apikey.Live] = false

	grant := e.approve(f, e.ctx, "password", req)
	other := apikey.ProvisionRequest{Name: "another", Abilities: req.Abilities, Grant: grant}
	_, err = e.manager.Provision(e.ctx, other)
	require.ErrorIs(t, err, apikey.ErrGrant, "a grant is for the very request")
	req.Grant = grant
	second, err := e.manager.Provision(e.ctx, req)
	require.NoError(t, err)
	require.Equal(t, first.Test.Key.ID, second.Test.Key.ID)
	require.Len(t, e.keys(), 2)
	req.Grant = apikey.Grant{}
	_, err = e.manager.Provision(e.ctx, req)
	require.NoError(t, err, "nothing is made any more")
	_, err = e.manager.Provision(as("acc_2", "admin"), apikey.ProvisionRequest{Grant: grant})
	require.ErrorIs(t, err, apikey.ErrGrant, "it was used")
}

func TestFound11NoPresetNamesProvision(t *testing.T) {
	for _, guard := range []apikey.StepUp{
		apikey.GuardCreateAndDelete("password"), apikey.GuardRevealAndRotate("password"), apikey.GuardRotate("password"),
		apikey.GuardIssueAndReveal("password"), apikey.GuardWiden("password"),
	} {
		var f *factors
		e := newEnv(t, withFactors(&f, guard))
		_, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.NoError(t, err)
	}
}

// One request makes a key in each mode, so one factor has to approve both.
func TestFound11OneFactorApprovesBothModes(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	c := e.mc
	c.StepUp = func(act apikey.Action, m apikey.Mode) []string {
		if act != apikey.ActionProvision {
			return nil
		}
		return map[apikey.Mode][]string{apikey.Live: {"password"}, apikey.Test: {"email"}}[m]
	}
	_, err := apikey.NewManager(background, e.settings, c)
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.ErrorContains(t, err, "no factor approves both")
}

// Whatever makes a key, shows its token or lets it do more asks Standing; whatever
// takes power away does not.
func TestFound11StandingIsAskedWhereverAKeyIsEmpowered(t *testing.T) {
	var f *factors
	refused := errors.New("invoices are unpaid")
	var is error
	e := newEnv(t, withFactors(&f, nil), func(e *env) {
		e.mc.InsecureRevealWithoutStepUp = true
		e.settings.Standing = standing(func(string, apikey.Mode) error { return is })
	})
	narrow := func(r *apikey.IssueRequest) {
		r.Abilities, r.Networks, r.Origins = []string{"payment:refund", "payment:verify"}, nets("203.0.113.0/24"), []string{"https://shop.example"}
		r.ExpiresAt, r.Recoverable = e.clock.now().Add(48*time.Hour), true
	}
	update := func(set apikey.UpdateRequest) func(apikey.KeyID) error {
		return func(id apikey.KeyID) error {
			set.Key = id
			_, err := e.manager.Update(e.ctx, set)
			return err
		}
	}
	at := e.clock.now().Add(time.Hour)
	for _, c := range []struct {
		name     string
		off      bool // the key is suspended before
		call     func(apikey.KeyID) error
		empowers bool
	}{
		{"issue", false, func(apikey.KeyID) error {
			_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
			return err
		}, true},
		{"provision", false, func(apikey.KeyID) error {
			_, err := e.manager.Provision(as("acc_5", "admin"), apikey.ProvisionRequest{})
			return err
		}, true},
		{"rotate", false, func(id apikey.KeyID) error {
			_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: id})
			return err
		}, true},
		{"reveal", false, func(id apikey.KeyID) error {
			_, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: id})
			return err
		}, true},
		{"resume", true, func(id apikey.KeyID) error { return e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: id}) }, true},
		{"resume by update", true, update(apikey.UpdateRequest{Disabled: apikey.Set(false)}), true},
		{"an ability more", false, update(apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:*"})}), true},
		{"any network", false, update(apikey.UpdateRequest{Networks: apikey.Clear[[]netip.Prefix]()}), true},
		{"another origin", false, update(apikey.UpdateRequest{Origins: apikey.Set([]string{"https://b.example"})}), true},
		{"a later end", false, update(apikey.UpdateRequest{ExpiresAt: apikey.Set(e.clock.now().Add(96 * time.Hour))}), true},
		{"no end", false, update(apikey.UpdateRequest{ExpiresAt: apikey.Clear[time.Time]()}), true},

		{"another name", false, update(apikey.UpdateRequest{Name: apikey.Set("x")}), false},
		{"an ability less", false, update(apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:verify"})}), false},
		{"a smaller network", false, update(apikey.UpdateRequest{Networks: apikey.Set(nets("203.0.113.9/32"))}), false},
		{"a sooner end", false, update(apikey.UpdateRequest{ExpiresAt: apikey.Set(at)}), false},
		{"suspend by update", false, update(apikey.UpdateRequest{Disabled: apikey.Set(true)}), false},
		{"suspend", false, func(id apikey.KeyID) error { return e.manager.Suspend(e.ctx, id) }, false},
		{"revoke", false, func(id apikey.KeyID) error { return e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: id}) }, false},
		{"retire", false, func(id apikey.KeyID) error {
			return e.manager.Retire(e.ctx, apikey.RetireRequest{Key: id, Credential: e.info(id).Credential})
		}, false},
		{"read", false, func(id apikey.KeyID) error {
			_, err := e.manager.Get(e.ctx, id)
			return err
		}, false},
	} {
		is = nil
		key := e.issue(narrow, func(r *apikey.IssueRequest) { r.Disabled = c.off })
		before := e.info(key.Key.ID)
		is = refused
		err := c.call(key.Key.ID)
		if !c.empowers {
			require.NoError(t, err, c.name)
			continue
		}
		require.ErrorIs(t, err, apikey.ErrStanding, c.name)
		require.ErrorIs(t, err, refused, c.name)
		require.Equal(t, before, e.info(key.Key.ID), "%s: nothing changed", c.name)
		is = nil
		require.NoError(t, c.call(key.Key.ID), c.name)
	}
}

func (e *env) info(id apikey.KeyID) apikey.Info {
	e.t.Helper()
	info, err := e.manager.Get(e.ctx, id)
	require.NoError(e.t, err)
	return info
}

// To retire the token of a pending rotation is to call the rotation off: the old
// token goes on. Who may not do the one may not do the other.
func TestFound11RetireIsNoWayAroundCancelRotation(t *testing.T) {
	e := newEnv(t, func(e *env) {
		e.mc.Policy = policyFunc(func(a apikey.Action) error {
			if a == apikey.ActionCancelRotation {
				return errors.New("not you")
			}
			return nil
		})
	})
	key := e.issue()
	next, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, At: e.clock.now().Add(time.Hour)})
	require.NoError(t, err)
	before := e.info(key.Key.ID)
	pending := next.Key.Credentials.At(0).ID
	require.ErrorIs(t, e.manager.Retire(e.ctx, apikey.RetireRequest{Key: key.Key.ID, Credential: pending}), apikey.ErrForbidden)
	require.Equal(t, before, e.info(key.Key.ID))
	require.NoError(t, e.manager.Retire(e.ctx, apikey.RetireRequest{Key: key.Key.ID, Credential: before.Credential}), "the current one is another matter")
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrCredentialEnded)
}
