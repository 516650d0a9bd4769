package apitest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// farTimes are beyond what a column of some engine holds; the last one of each end
// also beyond 64 bits of microseconds.
func farTimes() (past, future []time.Time) {
	for _, year := range []int{0, -5_000, -300_000} {
		past = append(past, time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))
	}
	for _, year := range []int{10_000, 200_000, 294_277, 300_000} {
		future = append(future, time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))
	}
	return append(past, time.Unix(-1<<60, 0)), append(future, time.Unix(1<<60, 0))
}

// A page's "before" is whatever a caller typed. What every store answers is what the
// words mean, not what is left of the time in a column.
func TestFound15FarTimesInAList(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		expires := e.issue(func(r *apikey.IssueRequest) {
			r.Name, r.ExpiresAt, r.RotateMonths = "expires", e.clock.now().AddDate(1, 0, 0), 6
		}).Key.ID
		never := e.issue(func(r *apikey.IssueRequest) { r.Name = "never" }).Key.ID
		past, future := farTimes()
		ask := func(what string, req apikey.ListRequest, want ...apikey.KeyID) {
			t.Helper()
			list, err := e.manager.List(e.ctx, req)
			require.NoError(t, err, "%s: %+v", what, req)
			var got []apikey.KeyID
			for _, k := range list.Keys {
				got = append(got, k.ID)
			}
			require.ElementsMatch(t, want, got, "%s: %+v", what, req)
		}
		for _, at := range future {
			ask("all that expire", apikey.ListRequest{ExpiringBefore: at}, expires)
			ask("all that are due some day", apikey.ListRequest{DueBefore: at}, expires)
			ask("those that never expire", apikey.ListRequest{NotExpiredAt: at}, never)
			ask("all of them", apikey.ListRequest{UnusedSince: at}, expires, never)
		}
		for _, at := range past {
			ask("none expires so early", apikey.ListRequest{ExpiringBefore: at})
			ask("none was due", apikey.ListRequest{DueBefore: at})
			ask("none had expired", apikey.ListRequest{NotExpiredAt: at}, expires, never)
			ask("none was there", apikey.ListRequest{UnusedSince: at})
		}
		for _, at := range past {
			t.Run(fmt.Sprint(at.Year()), func(t *testing.T) {
				_, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{UnusedSince: at, Kind: apikey.Publishable})
				require.NoError(t, err)
			})
		}
		for _, at := range future {
			t.Run(fmt.Sprint(at.Year()), func(t *testing.T) {
				_, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{UnusedSince: at, Kind: apikey.Publishable})
				require.ErrorIs(t, err, apikey.ErrInvalid, "every key is unused since then")
			})
		}
	})
}
