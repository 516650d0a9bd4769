package apitest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// The limit of live keys is exact, however many come at once.
func TestLiveKeysUnderRacing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		for range 49 {
			e.issue()
		}
		p.meet(64)
		errs := together(64, func(int) error {
			issued, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
			if err != nil && !issued.Key.ID.IsZero() {
				return fmt.Errorf("%s described, which is no key", issued.Key.ID)
			}
			return err
		})
		require.Equal(t, 1, count(errs, nil), errs)
		require.Equal(t, 63, count(errs, apikey.ErrLimit), errs)
		list, err := e.manager.List(e.ctx, apikey.ListRequest{Limit: 1000, State: apikey.Active})
		require.NoError(t, err)
		require.Len(t, list.Keys, 50)
	})
}

// Only keys that work are counted, each mode and account for itself; and what
// frees a place asks nobody.
func TestWhatLiveKeysCounts(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on, func(e *env) { e.mc.Limits.LiveKeys = 2 })
		full := func() error {
			_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
			return err
		}
		a, b := e.issue(), e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().Add(time.Hour) })
		require.ErrorIs(t, full(), apikey.ErrLimit)
		require.ErrorContains(t, full(), "2 live keys in mode live, at most 2")
		e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
		_, err := e.manager.Issue(as("acc_2", "admin"), apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)

		require.NoError(t, e.manager.Suspend(e.ctx, a.Key.ID))
		c := e.issue()
		require.ErrorIs(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: a.Key.ID}), apikey.ErrLimit)
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: c.Key.ID}))
		require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: a.Key.ID}))
		require.ErrorIs(t, full(), apikey.ErrLimit)
		e.clock.move(time.Hour) // b has expired
		require.ErrorIs(t, e.verify(b.Token), apikey.ErrExpired)
		e.issue()
		require.ErrorIs(t, full(), apikey.ErrLimit)
		_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: b.Key.ID, ExpiresAt: apikey.Clear[time.Time]()})
		require.ErrorIs(t, err, apikey.ErrLimit, "an update may not bring one back beyond it")
		require.ErrorIs(t, e.verify(b.Token), apikey.ErrExpired)
	})
}

// Eight suspended keys, two places: two of eight racing Resumes find one.
func TestResumesShareTheLimit(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p), func(e *env) { e.mc.Limits.LiveKeys = 2 })
	var keys []apikey.KeyID
	for range 8 {
		keys = append(keys, e.issue(func(r *apikey.IssueRequest) { r.Disabled = true }).Key.ID)
	}
	p.meet(8)
	errs := together(8, func(i int) error { return e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: keys[i]}) })
	require.Equal(t, 2, count(errs, nil), errs)
	require.Equal(t, 6, count(errs, apikey.ErrLimit), errs)
}
