package apitest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// requireNotDone requires an error that says that nothing was done, or one that does not.
func requireNotDone(t *testing.T, certain bool, err error, name string) {
	t.Helper()
	require.ErrorIs(t, err, apikey.ErrUnavailable, name)
	require.Equal(t, certain, errors.Is(err, apikey.ErrNotDone), "%s: %v", name, err)
	p := httpauth.Refused(err)
	require.Equal(t, 503, p.Status, name)
	require.Equal(t, "unavailable", p.Code, name)
	require.Equal(t, httpauth.Refused(map[bool]error{true: apikey.ErrNotDone, false: apikey.ErrUnavailable}[certain]).Detail, p.Detail, name)
	if certain {
		require.Contains(t, p.Detail, "nothing was done", name)
	} else {
		require.Contains(t, p.Detail, "may have been done", name)
	}
	requireForPeople(t, p)
}

var errDown = errors.New("connection refused")

// away makes reads, writes or both of a store fail.
func away(p *proxy, reads, writes bool) {
	p.hook(func(p *proxy) {
		p.get, p.list, p.apply = nil, nil, nil
		if reads {
			p.get, p.list = func() error { return errDown }, func() error { return errDown }
		}
		if writes {
			p.apply = func(func() error, []apikey.StoreChange) error { return errDown }
		}
	})
}

// What fails before it is written was not done. What fails while it is written may have
// been.
func TestNothingWasDone(t *testing.T) {
	var p *proxy
	var f *factors
	e := newEnv(t, withFactors(&f, guardedBy("password", "email")), through(&p), func(e *env) { e.mc.InsecureRevealWithoutStepUp = true })
	free := e.newManager(func(c *managerConfig) { c.StepUp = nil })
	issued, err := free.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
	require.NoError(t, err)
	key := issued.Key.ID
	hasty := func() context.Context { // Suspend and Revoke try until it ends
		ctx, cancel := context.WithTimeout(e.ctx, 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	changes := map[string]func() error{
		"Issue":  func() error { return drop(free.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})) },
		"Update": func() error { return drop(free.Update(e.ctx, apikey.UpdateRequest{Key: key, Name: apikey.Set("n")})) },
		"Rotate": func() error { return drop(free.Rotate(e.ctx, apikey.RotateRequest{Key: key})) },
		"Reveal": func() error { return drop(free.Reveal(e.ctx, apikey.RevealRequest{Key: key})) },
		"Revoke": func() error { return free.Revoke(hasty(), apikey.RevokeRequest{Key: key}) },
	}
	reads := map[string]func() error{
		"Get":    func() error { return drop(free.Get(e.ctx, key)) },
		"List":   func() error { return drop(free.List(e.ctx, apikey.ListRequest{})) },
		"Remac":  func() error { return drop(free.Remac(staff(), 0)) },
		"Reseal": func() error { return drop(free.Reseal(staff(), 0)) },
	}
	away(p, true, false)
	for name, call := range changes {
		requireNotDone(t, true, call(), name+", which could not read")
	}
	for name, call := range reads {
		requireNotDone(t, name == "Get" || name == "List", call(), name)
	}
	away(p, false, true)
	for name, call := range changes {
		requireNotDone(t, false, call(), name+", which could not write")
	}
	failed, err := free.RevokeAll(hasty(), apikey.RevokeAllRequest{All: true})
	require.Zero(t, failed.Revoked)
	requireNotDone(t, false, err, "RevokeAll")

	away(p, false, false)
	f.kek.set(func(k *brokenKEK) {
		k.wrap = func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, errKMS }
		k.unwrap = k.wrap
	})
	requireNotDone(t, true, drop(free.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})), "Issue without the KEK")
	requireNotDone(t, true, changes["Rotate"](), "Rotate without the KEK")
	requireNotDone(t, true, changes["Reveal"](), "Reveal without the KEK")

	req := apikey.RotateRequest{Key: key}
	f.fail(errKMS)
	requireNotDone(t, true, drop(e.manager.Challenge(e.ctx, "email", req)), "Challenge without mail")
	f.fail(nil)
	away(p, false, true)
	requireNotDone(t, true, drop(e.manager.Challenge(e.ctx, "email", req)), "Challenge that could not be written")
	away(p, true, false)
	requireNotDone(t, true, drop(e.manager.Challenge(e.ctx, "email", req)), "Challenge that could not read")

	away(p, false, false)
	require.NoError(t, free.Close(background))
	requireNotDone(t, true, changes["Rotate"](), "Rotate of a closed Manager")
}

// If a first try may have been committed, a later one that could not even read says
// nothing else.
func TestAnEarlierTryMayHaveDoneIt(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	key := e.issue().Key.ID
	p.hook(func(p *proxy) {
		p.apply = func(next func() error, _ []apikey.StoreChange) error {
			away(p, true, false)
			next()
			return errDown
		}
	})
	ctx, cancel := context.WithTimeout(e.ctx, 100*time.Millisecond)
	defer cancel()
	requireNotDone(t, false, e.manager.Suspend(ctx, key), "Suspend")
	away(p, false, false)
	info, err := e.manager.Get(e.ctx, key)
	require.NoError(t, err)
	require.Equal(t, apikey.Suspended, info.State)
}

// An answer that was charged, and whose charge could not be given back, was done. One that
// the factor could not compare was given back.
func TestAnswersThatWereCharged(t *testing.T) {
	var p *proxy
	var f *factors
	e := newEnv(t, withFactors(&f, guardedBy("password")), through(&p))
	c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
	require.NoError(t, err)
	away(p, true, false)
	requireNotDone(t, true, drop(e.manager.Confirm(e.ctx, c.ID, "1")), "could not be charged")
	away(p, false, false)
	f.fail(errKMS)
	requireNotDone(t, true, drop(e.manager.Confirm(e.ctx, c.ID, "1")), "could not be compared")
	f.fail(nil)
	p.hook(func(p *proxy) {
		p.apply = func(next func() error, _ []apikey.StoreChange) error {
			defer away(p, true, false)
			return next()
		}
	})
	requireNotDone(t, false, drop(e.manager.Confirm(e.ctx, c.ID, "1")), "was charged")
}

// A Policy that could not ask its own database refuses: the error is about the actor.
func TestCauseOfARefusalIsNoOutage(t *testing.T) {
	e := newEnv(t, func(e *env) {
		e.mc.Policy = policyFunc(func(apikey.Action) error { return fmt.Errorf("%w: no roles", apikey.ErrUnavailable) })
	})
	_, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	require.NotErrorIs(t, err, apikey.ErrNotDone)
	require.Equal(t, 403, httpauth.Refused(err).Status)
}
