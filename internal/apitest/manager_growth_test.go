package apitest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// What an account has in keys is bounded: those that are not revoked, whatever their
// mode, and those made in an hour. What takes power away, and rotation, never is.
func TestFound08KeysAreBounded(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on, func(e *env) { e.mc.Limits.Keys = 6 })
		make := func(ctx context.Context, m apikey.Mode, asleep bool) (apikey.Issued, error) {
			return e.manager.Issue(ctx, apikey.IssueRequest{Account: "acc_1", Mode: m, Disabled: asleep})
		}
		var keys []apikey.Issued
		for i := range 6 {
			issued, err := make(e.ctx, apikey.Live+apikey.Mode(i%2), i%3 > 0)
			require.NoError(t, err)
			keys = append(keys, issued)
		}
		for _, m := range []apikey.Mode{apikey.Live, apikey.Test} {
			for _, asleep := range []bool{true, false} {
				issued, err := make(e.ctx, m, asleep)
				require.ErrorIs(t, err, apikey.ErrLimit)
				require.ErrorContains(t, err, "6 keys that are not revoked, at most 6")
				require.Zero(t, issued)
			}
		}
		_, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.ErrorIs(t, err, apikey.ErrLimit)
		_, err = e.manager.Issue(as("acc_2", "admin"), apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err, "another account")

		extra, err := make(staff(), apikey.Live, false)
		require.NoError(t, err, "an Operator")
		e.rotateAs(e.ctx, extra.Key.ID)
		require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: keys[2].Key.ID}), "it counted already")
		for range 2 { // an account above the limit keeps what it has, until it is below
			_, err = make(e.ctx, apikey.Live, true)
			require.ErrorIs(t, err, apikey.ErrLimit)
			require.NoError(t, e.manager.Suspend(e.ctx, keys[0].Key.ID))
			require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: keys[0].Key.ID}))
			keys = keys[1:]
		}
		_, err = make(e.ctx, apikey.Live, true)
		require.NoError(t, err, "one may follow for each that is revoked")
		_, err = make(e.ctx, apikey.Live, true)
		require.ErrorIs(t, err, apikey.ErrLimit)
		e.clock.move(24 * time.Hour)
		_, err = make(e.ctx, apikey.Live, true)
		require.ErrorIs(t, err, apikey.ErrLimit, "time alone makes no room")
	})
}

// Issuing and revoking for ever fills no database, because a revoked key stays as a
// tombstone with its events.
func TestFound08IssuesAnHourAreBounded(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on, func(e *env) { e.mc.Limits.IssuesAnHour = 4 })
		churn := func(ctx context.Context) error {
			issued, err := e.manager.Issue(ctx, apikey.IssueRequest{Account: "acc_1", Mode: apikey.Test, IdempotencyKey: fmt.Sprint(e.clock.now(), ctx == e.ctx)})
			if err == nil || errors.Is(err, apikey.ErrAlreadyIssued) {
				require.NoError(t, e.manager.Revoke(ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
			}
			return err
		}
		for range 2 {
			require.NoError(t, churn(e.ctx))
			require.ErrorIs(t, churn(e.ctx), apikey.ErrAlreadyIssued, "a repeated request makes no key")
			e.clock.move(20 * time.Minute)
		}
		_, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{}) // two keys
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, churn(staff()), "an Operator is not bound, and takes nothing of it")
			e.clock.move(time.Second)
		}
		again, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.NoError(t, err, "it makes nothing")
		require.ErrorIs(t, churn(e.ctx), apikey.ErrLimit)
		require.ErrorContains(t, churn(e.ctx), "4 keys were issued in the last hour, at most 4: wait for 19m57s")
		for range 10 {
			e.rotateAs(e.ctx, again.Live.Key.ID)
		}
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: again.Live.Key.ID}))
		e.clock.move(20 * time.Minute)
		require.NoError(t, churn(e.ctx), "the first one was made an hour ago")
		e.clock.move(time.Second)
		require.ErrorIs(t, churn(e.ctx), apikey.ErrLimit)
	})
}

// The limits hold to the key when many ask at once, with an account that is counted
// for the first time too.
func TestFound08BoundsUnderRacing(t *testing.T) {
	for name, limits := range map[string]apikey.Limits{
		"keys": {Keys: 5}, "issues": {IssuesAnHour: 5}, "live keys": {LiveKeys: 5},
	} {
		t.Run(name, func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				e := newEnv(t, on, func(e *env) { e.mc.Limits = limits })
				for range 3 {
					e.issue()
				}
				var made atomic.Int64
				together(12, func(int) error {
					_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
					if err == nil {
						made.Add(1)
					} else if !errors.Is(err, apikey.ErrLimit) && !errors.Is(err, apikey.ErrConflict) {
						t.Error(err)
					}
					return err
				})
				list, err := e.manager.List(e.ctx, apikey.ListRequest{State: apikey.Active})
				require.NoError(t, err)
				require.Len(t, list.Keys, 3+int(made.Load()))
				require.LessOrEqual(t, len(list.Keys), 5)
				for len(list.Keys) < 5 { // who gave up after conflicts may ask again
					e.issue()
					list.Keys = append(list.Keys, apikey.Info{})
				}
				_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
				require.ErrorIs(t, err, apikey.ErrLimit)
			})
		})
	}
}

// A full account that asks again and again costs no hash.
func TestFound08AFullAccountCostsNoHash(t *testing.T) {
	var m *mintCounter
	e := newEnv(t, noPepper, func(e *env) {
		m = &mintCounter{Hasher: e.settings.Hashers[0]}
		e.settings.Hashers[0], e.mc.Limits = m, apikey.Limits{LiveKeys: 2, Keys: 4}
	})
	e.issue()
	e.issue()
	issue := func(asleep bool) error {
		_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Disabled: asleep})
		return err
	}
	require.ErrorIs(t, issue(false), apikey.ErrLimit)
	require.NoError(t, issue(true))
	require.NoError(t, issue(true))
	require.ErrorIs(t, issue(true), apikey.ErrLimit)
	require.EqualValues(t, 4, m.runs.Load())
}

type mintCounter struct {
	apikey.Hasher
	begun, runs atomic.Int64
}

func (h *mintCounter) Hash(ctx context.Context, secret []byte) (string, error) {
	h.begun.Add(1)
	defer h.runs.Add(1)
	return h.Hasher.Hash(ctx, secret)
}

// Counting does not walk: an account's keys are listed once, and again only when it
// is at its limit.
func TestFound08CountingDoesNotWalk(t *testing.T) {
	lists := &listCounter{}
	e := newEnv(t, func(e *env) {
		lists.Store, e.store = e.store, lists
		e.mc.Limits.LiveKeys = 200
	})
	e.issue()
	lists.calls.Store(0)
	for range 199 {
		e.issue()
	}
	require.Zero(t, lists.calls.Load())
	_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrLimit)
	require.EqualValues(t, 1, lists.calls.Load(), "before anybody is refused")
}

type listCounter struct {
	apikey.Store
	calls atomic.Int64
}

func (s *listCounter) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	s.calls.Add(1)
	return s.Store.List(ctx, f)
}

// A process of the version before counts nothing when it makes a key live: it swaps
// the item, and passes on what is in it. Then the keys are counted again.
func TestFound08OldProcessesAreNoticed(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, quickly, on, func(e *env) { e.mc.Limits.LiveKeys = 4 })
		e.issue()
		e.issue()
		asleep := e.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
		r, err := e.store.Get(background, asleep.Key.ID)
		require.NoError(t, err)
		page, err := e.store.Items(background, apikey.StoreItemFilter{Kind: "quota"})
		require.NoError(t, err)
		require.Len(t, page.Items, 1)
		quota := page.Items[0]
		quota.Version++
		r.Version, r.Disabled = r.Version+1, false
		event := apikey.StoreEvent{ID: [16]byte(storetest.NewCredentialID()), Account: r.Account, Mode: r.Mode, Key: r.ID, Seq: r.Version, Time: e.clock.now()}
		require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: event.ID, Record: &r, Event: &event, Items: []apikey.StoreItem{quota}}))
		e.issue()
		_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.ErrorIs(t, err, apikey.ErrLimit)
	})
}
