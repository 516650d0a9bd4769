package apitest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

var everyAction = []apikey.Action{
	apikey.ActionIssue, apikey.ActionProvision, apikey.ActionRead, apikey.ActionUpdate, apikey.ActionSuspend, apikey.ActionResume,
	apikey.ActionRevoke, apikey.ActionRevokeToken, apikey.ActionRemac, apikey.ActionReadEvents, apikey.ActionPepper,
	apikey.ActionRotate, apikey.ActionCancelRotation, apikey.ActionRetire, apikey.ActionReveal, apikey.ActionReseal, apikey.ActionWiden,
	apikey.ActionConfirm, apikey.ActionEnroll, apikey.ActionConfirmEnrollment, apikey.ActionAllowEnrollment, apikey.ActionDisable,
	apikey.ActionLock, apikey.ActionLiftLock,
}

func TestRolePolicy(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy apikey.RolePolicy
		actor  apikey.Actor
		want   bool
	}{
		{"superadmin", apikey.RolePolicy{}, apikey.Actor{ID: "u", Account: "a", Role: "superadmin"}, true},
		{"admin", apikey.RolePolicy{}, apikey.Actor{ID: "u", Account: "a", Role: "admin"}, true},
		{"operator", apikey.RolePolicy{}, apikey.Operator("ops"), true},
		{"viewer", apikey.RolePolicy{}, apikey.Actor{ID: "u", Account: "a", Role: "viewer"}, false},
		{"no role", apikey.RolePolicy{}, apikey.Actor{ID: "u", Account: "a"}, false},
		{"operator by name", apikey.RolePolicy{}, apikey.Actor{ID: "u", Account: "a", Role: "operator"}, false},
		{"another spelling", apikey.RolePolicy{}, apikey.Actor{ID: "u", Account: "a", Role: "Admin"}, false},
		{"role with a space", apikey.RolePolicy{}, apikey.Actor{ID: "u", Account: "a", Role: "admin "}, false},
		{"a role that is listed", apikey.RolePolicy{Roles: []string{"cto"}}, apikey.Actor{ID: "u", Account: "a", Role: "cto"}, true},
		{"the default where others are listed", apikey.RolePolicy{Roles: []string{"cto"}}, apikey.Actor{ID: "u", Account: "a", Role: "admin"}, false},
		{"operator where others are listed", apikey.RolePolicy{Roles: []string{"cto"}}, apikey.Operator("ops"), true},
		{"nobody is listed", apikey.RolePolicy{Roles: []string{}}, apikey.Actor{ID: "u", Account: "a", Role: "admin"}, false},
	} {
		for _, act := range everyAction {
			err := c.policy.Authorize(background, c.actor, act, apikey.Info{})
			require.Equal(t, c.want, err == nil, "%s: %s: %v", c.name, act, err)
		}
	}
}

// Whoever may not, may not by any method: nothing is read and nothing changes.
func TestPolicyStandsBeforeEveryMethod(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	free := []string{
		"RevokeToken by token",                                                      // having the token is the right
		"Confirm by challenge", "Enroll by nothing", "ConfirmEnrollment by nothing", // about the actor alone
	}
	key := e.issue()
	own := target{key: key.Key.ID, account: "acc_1"}
	refused := e.newManager(func(c *managerConfig) { c.Policy = nobody{} })
	before, err := e.store.Get(background, key.Key.ID)
	require.NoError(t, err)
	tried := 0
	for _, c := range []calls{managerCalls(refused), txCalls(refused.Tx(unsaid{e.store}))} {
		c.each(func(name string, call func(context.Context, target) error) {
			if slices.Contains(free, name) {
				return
			}
			err := call(e.ctx, own)
			require.ErrorIs(t, err, apikey.ErrForbidden, name)
			require.ErrorIs(t, err, apikey.ErrDenied, name)
			tried++
		})
	}
	require.Greater(t, tried, 20)
	after, err := e.store.Get(background, key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, before, after)
	list, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.NoError(t, err)
	require.Len(t, list.Keys, 1)
}

// A refusal says why, and the program finds its own error in it.
func TestPolicyErrorIsWrapped(t *testing.T) {
	night := errors.New("not at night")
	e := newEnv(t, func(e *env) {
		e.mc.Policy = policyFunc(func(apikey.Action) error { return fmt.Errorf("shift 3: %w", night) })
	})
	_, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	require.ErrorIs(t, err, night)
	require.EqualError(t, err, "apikey: action is not allowed for this actor: shift 3: not at night")
}

// A Policy decides on the key as it is stored, and on what is known of a key
// that is not there yet.
func TestPolicySeesTheKey(t *testing.T) {
	policy := &asked{Policy: anything{}}
	e := newEnv(t, func(e *env) { e.mc.Policy = policy })
	key := e.issue(func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"team": "till"} })
	require.Equal(t, []apikey.Action{apikey.ActionIssue}, policy.acts)
	require.Equal(t, apikey.Info{Account: "acc_1", Mode: apikey.Live, Kind: apikey.Secret, Name: "Website"}, policy.about[0])

	for _, c := range []struct {
		call func() error
		want []apikey.Action
	}{
		{func() error { _, err := e.manager.Get(e.ctx, key.Key.ID); return err }, []apikey.Action{apikey.ActionRead}},
		{func() error {
			_, err := e.manager.VerifyEvents(e.ctx, key.Key.ID)
			return err
		}, []apikey.Action{apikey.ActionReadEvents}},
		{func() error {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("Shop")})
			return err
		}, []apikey.Action{apikey.ActionUpdate}},
		{func() error { return e.manager.Suspend(e.ctx, key.Key.ID) }, []apikey.Action{apikey.ActionSuspend}},
		{func() error { return e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}) }, []apikey.Action{apikey.ActionResume}},
		{func() error { return e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}) }, []apikey.Action{apikey.ActionRevoke}},
	} {
		before, err := e.store.Get(background, key.Key.ID)
		require.NoError(t, err)
		policy.about, policy.acts = nil, nil
		require.NoError(t, c.call())
		require.Equal(t, c.want, policy.acts)
		about := policy.about[0]
		require.Equal(t, key.Key.ID, about.ID)
		require.Equal(t, before.Version, about.Version, "%s: before the change", c.want)
		require.Equal(t, before.Name, about.Name)
		require.Equal(t, before.State(), about.State)
		require.Equal(t, "till", about.Metadata.Get("team"))
	}

	policy.about, policy.acts = nil, nil
	_, err := e.manager.List(e.ctx, apikey.ListRequest{Mode: apikey.Test, Kind: apikey.Publishable})
	require.NoError(t, err)
	_, err = e.manager.Events(staff(), apikey.EventsRequest{Account: "acc_9", Mode: apikey.Live})
	require.NoError(t, err)
	_, err = e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
	require.NoError(t, err)
	require.Equal(t, []apikey.Info{
		{Account: "acc_1", Mode: apikey.Test, Kind: apikey.Publishable}, {Account: "acc_9", Mode: apikey.Live},
		{Account: "acc_1", Mode: apikey.Live, Kind: apikey.Publishable, Name: "Publishable key"},
		{Account: "acc_1", Mode: apikey.Test, Kind: apikey.Publishable, Name: "Publishable key"},
	}, policy.about)
}

// A Policy is asked again at every attempt: what it allowed of the key as it was
// is no word on what another made of it.
func TestPolicyIsAskedAgainAfterAConflict(t *testing.T) {
	var p *proxy
	policy := &onlyUntouched{}
	e := newEnv(t, through(&p), func(e *env) { e.mc.Policy = policy })
	key := e.issue()
	rival := e.newManager(func(c *managerConfig) { c.Policy = nil })
	first := true
	p.hook(func(p *proxy) {
		p.apply = func(next func() error, _ []apikey.StoreChange) error {
			if first {
				first = false
				_, err := rival.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("touched")})
				require.NoError(t, err)
			}
			return next()
		}
	})
	_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, RotateMonths: apikey.Set(3)})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	info, err := rival.Get(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.Zero(t, info.RotateMonths)
}

// onlyUntouched lets nobody change a key that was changed before.
type onlyUntouched struct{}

func (*onlyUntouched) Authorize(_ context.Context, _ apikey.Actor, act apikey.Action, k apikey.Info) error {
	if act == apikey.ActionUpdate && k.Version > 1 {
		return errors.New("was touched")
	}
	return nil
}

// Trace hears of every refusal: by Policy, by Standing, and of a key that is
// somebody else's or nobody's. A store that is down is no refusal.
func TestTraceDenied(t *testing.T) {
	var p *proxy
	var got []string
	bad := errors.New("unpaid")
	var standingIs error
	e := newEnv(t, through(&p), func(e *env) {
		e.settings.Standing = standing(func(string, apikey.Mode) error { return standingIs })
		e.settings.Trace = &apikey.Trace{Denied: func(a apikey.Actor, act apikey.Action, key apikey.KeyID, err error) {
			require.Error(t, err)
			got = append(got, fmt.Sprintf("%s %s %s", a.ID, act, key))
		}}
	})
	key := e.issue()
	theirs, _, _ := victim(e)
	require.Empty(t, got)
	viewer := as("acc_1", "viewer")

	_, err := e.manager.Get(viewer, key.Key.ID)
	require.ErrorIs(t, err, apikey.ErrForbidden)
	_, err = e.manager.Get(e.ctx, theirs.Key.ID)
	require.ErrorIs(t, err, apikey.ErrNotFound)
	_, err = e.manager.List(e.ctx, apikey.ListRequest{Account: "acc_2"})
	require.ErrorIs(t, err, apikey.ErrNotFound)
	standingIs = bad
	_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrStanding)
	standingIs = nil
	_, err = e.manager.Remac(e.ctx, 0)
	require.ErrorIs(t, err, apikey.ErrForbidden)
	want := []string{
		fmt.Sprint("usr_of_acc_1 key.read ", key.Key.ID), fmt.Sprint("usr_1 key.read ", theirs.Key.ID), fmt.Sprint("usr_1 key.read ", apikey.KeyID{}),
		fmt.Sprint("usr_1 key.issue ", apikey.KeyID{}), fmt.Sprint("usr_1 key.remac ", apikey.KeyID{}),
	}
	require.Equal(t, want, got)

	p.hook(func(p *proxy) { p.get = func() error { return errCable } })
	_, err = e.manager.Get(e.ctx, key.Key.ID)
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.Equal(t, want, got)
}
