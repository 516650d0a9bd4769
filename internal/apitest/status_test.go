package apitest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// What a page says of a key is what Verify decides at that instant, for each token of
// the key, in every state and around every instant at which something begins or ends.
func TestStatusAgreesWithVerify(t *testing.T) {
	rotate := func(e *env, id apikey.KeyID, at, overlap time.Duration) apikey.Token {
		req := apikey.RotateRequest{Key: id, Overlap: overlap}
		if at > 0 {
			req.At = e.clock.now().Add(at)
		}
		next, err := e.manager.Rotate(e.ctx, req)
		require.NoError(t, err)
		return next.Token
	}
	retire := func(e *env, id apikey.KeyID, token apikey.Token) {
		require.NoError(t, e.manager.Retire(e.ctx, apikey.RetireRequest{Key: id, Credential: token.Credential()}))
	}
	seen := map[apikey.Status]int{}
	for name, prepare := range map[string]func(e *env, id apikey.KeyID, old apikey.Token) []apikey.Token{
		"one token": func(*env, apikey.KeyID, apikey.Token) []apikey.Token { return nil },
		"suspended": func(e *env, id apikey.KeyID, _ apikey.Token) []apikey.Token {
			require.NoError(t, e.manager.Suspend(e.ctx, id))
			return nil
		},
		"revoked": func(e *env, id apikey.KeyID, _ apikey.Token) []apikey.Token {
			require.NoError(t, e.manager.Suspend(e.ctx, id))
			require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: id}))
			return nil
		},
		"rotated": func(e *env, id apikey.KeyID, _ apikey.Token) []apikey.Token {
			return []apikey.Token{rotate(e, id, 0, 0)}
		},
		"rotated with overlap": func(e *env, id apikey.KeyID, _ apikey.Token) []apikey.Token {
			return []apikey.Token{rotate(e, id, 0, time.Hour)}
		},
		"scheduled": func(e *env, id apikey.KeyID, _ apikey.Token) []apikey.Token {
			return []apikey.Token{rotate(e, id, 2*time.Hour, time.Hour)}
		},
		"scheduled, the current token retired": func(e *env, id apikey.KeyID, old apikey.Token) []apikey.Token {
			next := rotate(e, id, 2*time.Hour, 0)
			retire(e, id, old)
			return []apikey.Token{next}
		},
		"scheduled, the current token retired, suspended": func(e *env, id apikey.KeyID, old apikey.Token) []apikey.Token {
			next := rotate(e, id, 2*time.Hour, 0)
			retire(e, id, old)
			require.NoError(t, e.manager.Suspend(e.ctx, id))
			return []apikey.Token{next}
		},
		"scheduled for after the expiry, the current token retired": func(e *env, id apikey.KeyID, old apikey.Token) []apikey.Token {
			next := rotate(e, id, 2*time.Hour, 0)
			retire(e, id, old)
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: id, ExpiresAt: apikey.Set(e.clock.now().Add(time.Hour))})
			require.NoError(t, err)
			return []apikey.Token{next}
		},
		"every token retired": func(e *env, id apikey.KeyID, old apikey.Token) []apikey.Token {
			retire(e, id, old)
			return nil
		},
	} {
		for _, expiry := range []time.Duration{0, 3*time.Hour + time.Microsecond} {
			e := newEnv(t)
			key := e.issue(func(r *apikey.IssueRequest) {
				if expiry > 0 {
					r.ExpiresAt = e.clock.now().Add(expiry)
				}
			})
			tokens := append(prepare(e, key.Key.ID, key.Token), key.Token)
			info, err := e.manager.Get(e.ctx, key.Key.ID)
			require.NoError(t, err)
			for _, at := range instants(info, e.clock.now()) {
				e.clock.move(at.Sub(e.clock.now()))
				status := info.Status(at, 0)
				seen[status]++
				var verdicts []error
				for _, token := range tokens {
					verdicts = append(verdicts, e.verify(token))
				}
				what := fmt.Sprintf("%s, expires after %v, at %v: %s, %v", name, expiry, at, status, verdicts)
				each := func(err error) bool { return !slices.ContainsFunc(verdicts, func(v error) bool { return v != err }) }
				some := func(err error) bool { return slices.Contains(verdicts, err) }
				require.Equal(t, each(apikey.ErrRevoked), status == apikey.StatusRevoked, what)
				require.Equal(t, each(apikey.ErrSuspended), status == apikey.StatusSuspended, what)
				switch status {
				case apikey.StatusExpired:
					require.False(t, some(nil), what)
					require.False(t, info.ExpiresAt.After(at), what)
				case apikey.StatusNotYetValid:
					require.True(t, some(apikey.ErrNotYetValid), what)
					require.False(t, some(nil), what)
					require.False(t, some(apikey.ErrExpired), what)
				case apikey.StatusActive:
					require.True(t, some(nil) || each(apikey.ErrCredentialEnded), what)
				}
				if some(apikey.ErrExpired) {
					require.Equal(t, apikey.StatusExpired, status, what)
				}
				if some(nil) {
					require.Equal(t, apikey.StatusActive, status, what)
				}
				soon := status
				if status == apikey.StatusActive && !info.ExpiresAt.IsZero() {
					soon = apikey.StatusExpiring
				}
				require.Equal(t, soon, info.Status(at, 24*time.Hour), what)
				fresh, err := e.manager.Get(e.ctx, key.Key.ID)
				require.NoError(t, err)
				require.Equal(t, status, fresh.Status(at, 0), what)
			}
		}
	}
	for _, status := range []apikey.Status{apikey.StatusRevoked, apikey.StatusSuspended, apikey.StatusExpired, apikey.StatusNotYetValid, apikey.StatusActive} {
		require.Greater(t, seen[status], 2, status)
	}
	t.Logf("instants by status: %v", seen)
}

// instants are those at which something of a key begins or ends, from now on, with the
// instants just before and after each.
func instants(info apikey.Info, now time.Time) (all []time.Time) {
	turns := []time.Time{now, info.ExpiresAt}
	for c := range info.Credentials.All() {
		turns = append(turns, c.NotBefore, c.NotAfter)
	}
	for _, turn := range turns {
		for _, d := range []time.Duration{-time.Microsecond, -1, 0, 1, time.Microsecond} {
			if at := turn.Add(d); !at.Before(now) {
				all = append(all, at)
			}
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	return slices.CompactFunc(all, time.Time.Equal)
}

// The order of precedence, and what soon means.
func TestStatusPrecedence(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	waiting := apikey.NewView(apikey.CredentialInfo{NotBefore: now.Add(1)}, apikey.CredentialInfo{Ended: true})
	for _, c := range []struct {
		want apikey.Status
		info apikey.Info
		soon time.Duration
	}{
		{apikey.StatusActive, apikey.Info{}, time.Hour},
		{apikey.StatusActive, apikey.Info{State: apikey.Active}, time.Hour},
		{apikey.StatusRevoked, apikey.Info{State: apikey.Revoked, ExpiresAt: now, Credentials: waiting}, time.Hour},
		{apikey.StatusSuspended, apikey.Info{State: apikey.Suspended, ExpiresAt: now, Credentials: waiting}, time.Hour},
		{apikey.StatusExpired, apikey.Info{ExpiresAt: now, Credentials: waiting}, time.Hour},
		{apikey.StatusNotYetValid, apikey.Info{ExpiresAt: now.Add(1), Credentials: waiting}, time.Hour},
		{apikey.StatusExpiring, apikey.Info{ExpiresAt: now.Add(1)}, time.Hour},
		{apikey.StatusExpiring, apikey.Info{ExpiresAt: now.Add(time.Hour - 1)}, time.Hour},
		{apikey.StatusActive, apikey.Info{ExpiresAt: now.Add(time.Hour)}, time.Hour},
		{apikey.StatusActive, apikey.Info{ExpiresAt: now.Add(1)}, 0},
		{apikey.StatusActive, apikey.Info{ExpiresAt: now.Add(1)}, -time.Hour},
		{apikey.StatusExpired, apikey.Info{ExpiresAt: now.In(time.FixedZone("", 3600))}, 0},
	} {
		require.Equal(t, c.want, c.info.Status(now, c.soon), "%+v, %v", c.info, c.soon)
	}
}
