package apitest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

const skew = 5 * time.Second // ManagerConfig's default

// rotate asks for a new token of a key.
func (e *env) rotate(key apikey.KeyID, options ...func(*apikey.RotateRequest)) (apikey.Token, error) {
	e.t.Helper()
	req := apikey.RotateRequest{Key: key}
	for _, o := range options {
		o(&req)
	}
	issued, err := e.manager.Rotate(e.ctx, req)
	return issued.Token, err
}

func overlap(d time.Duration) func(*apikey.RotateRequest) {
	return func(r *apikey.RotateRequest) { r.Overlap = d }
}

func replace(r *apikey.RotateRequest) { r.Replace = true }

func (e *env) at(d time.Duration) func(*apikey.RotateRequest) {
	return func(r *apikey.RotateRequest) { r.At = e.clock.now().Add(d) }
}

// accepts says what a warm and a cold Verifier think of a token, which has to
// be the same.
func (e *env) accepts(token apikey.Token) error {
	e.t.Helper()
	warm := e.verify(token)
	cold := e.newVerifier(func(c *verifierConfig) { c.ReadOnly = true })
	_, err := cold.Verify(background, token.Reveal(), apikey.Request{})
	require.Equal(e.t, err, warm, "warm and cold disagree")
	return warm
}

// The table of RotateRequest, at each edge and a nanosecond before it.
func TestRotationWindows(t *testing.T) {
	const hour, day = time.Hour, 24 * time.Hour
	for _, c := range []struct {
		name             string
		at, overlap      time.Duration
		newFrom, oldTill time.Duration // from the rotation on; 0: at once
	}{
		{"now", 0, 0, 0, 0},
		{"now, overlap", 0, day, 0, day},
		{"at T", hour, 0, hour - skew, hour + skew},
		{"at T, overlap", hour, day, hour - skew, hour + day},
		{"at T, overlap shorter than the skew", hour, time.Second, hour - skew, hour + skew},
		{"in 90 days", 90 * day, 0, 90*day - skew, 90*day + skew},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t)
			e.clock.t = e.clock.t.Truncate(time.Microsecond)
			key := e.issue()
			require.NoError(t, e.verify(key.Token))
			start := e.clock.now()
			req := apikey.RotateRequest{Key: key.Key.ID, Overlap: c.overlap}
			if c.at > 0 {
				req.At = start.Add(c.at)
			}
			issued, err := e.manager.Rotate(e.ctx, req)
			require.NoError(t, err)
			require.Equal(t, key.Key.ID, issued.Key.ID)
			require.NotEqual(t, key.Token.Reveal(), issued.Token.Reveal())

			to := func(d time.Duration) { e.clock.move(start.Add(d).Sub(e.clock.now())) }
			if c.newFrom > 0 {
				require.ErrorIs(t, e.accepts(issued.Token), apikey.ErrNotYetValid)
				to(c.newFrom - time.Nanosecond)
				require.ErrorIs(t, e.accepts(issued.Token), apikey.ErrNotYetValid)
				require.NoError(t, e.accepts(key.Token))
			}
			to(c.newFrom)
			require.NoError(t, e.accepts(issued.Token))
			if c.oldTill > 0 {
				to(c.oldTill - time.Nanosecond)
				require.NoError(t, e.accepts(key.Token))
				require.NoError(t, e.accepts(issued.Token))
			}
			to(c.oldTill)
			require.ErrorIs(t, e.accepts(key.Token), apikey.ErrCredentialEnded)
			require.NoError(t, e.accepts(issued.Token))
			to(100 * day)
			require.NoError(t, e.accepts(issued.Token))
			report, err := e.manager.VerifyEvents(e.ctx, key.Key.ID)
			require.NoError(t, err)
			require.Equal(t, apikey.ChainReport{Events: 2}, report)
		})
	}
}

// Rotate now, without overlap, while an overlap is running and a switch is
// pending: one token verifies, and no other ever does again.
func TestRotateNowEndsEveryOther(t *testing.T) {
	e := newEnv(t)
	first := e.issue()
	second, err := e.rotate(first.Key.ID, overlap(time.Hour))
	require.NoError(t, err)
	_, err = e.rotate(first.Key.ID, e.at(time.Hour))
	require.ErrorIs(t, err, apikey.ErrOverlapRunning, "the first would still be there at T")
	third, err := e.rotate(first.Key.ID, e.at(2*time.Hour), overlap(time.Hour))
	require.NoError(t, err)
	require.NoError(t, e.accepts(first.Token), "outgoing")
	require.NoError(t, e.accepts(second), "current")
	require.ErrorIs(t, e.accepts(third), apikey.ErrNotYetValid, "pending")
	fourth, err := e.rotate(first.Key.ID, e.at(3*time.Hour), replace)
	require.NoError(t, err)
	require.NoError(t, e.accepts(first.Token), "what is not in the way is not ended")
	require.ErrorIs(t, e.accepts(third), apikey.ErrCredentialEnded)
	last, err := e.rotate(first.Key.ID)
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, e.accepts(last))
		for _, old := range []apikey.Token{first.Token, second, third, fourth} {
			require.ErrorIs(t, e.accepts(old), apikey.ErrCredentialEnded)
		}
		e.clock.move(time.Hour)
	}
}

func TestRotationRefusesWhatStandsInTheWay(t *testing.T) {
	e := newEnv(t)
	key := e.issue().Key.ID
	_, err := e.rotate(key, e.at(time.Hour))
	require.NoError(t, err)
	_, err = e.rotate(key, e.at(2*time.Hour))
	require.ErrorIs(t, err, apikey.ErrRotationPending)
	_, err = e.rotate(key, overlap(time.Minute))
	require.ErrorIs(t, err, apikey.ErrRotationPending)
	require.Contains(t, err.Error(), "2026-03-01T12:59:55Z", "says when")
	later, err := e.rotate(key, e.at(2*time.Hour), replace)
	require.NoError(t, err)
	e.clock.move(2 * time.Hour)
	require.NoError(t, e.accepts(later))

	e = newEnv(t)
	key = e.issue().Key.ID
	_, err = e.rotate(key, overlap(time.Hour))
	require.NoError(t, err)
	_, err = e.rotate(key, overlap(time.Hour))
	require.ErrorIs(t, err, apikey.ErrOverlapRunning)
	require.Contains(t, err.Error(), "until 2026-03-01T13:00:00Z", "says until when")
	_, err = e.rotate(key, overlap(time.Hour), replace)
	require.NoError(t, err)
	live := 0
	info, err := e.manager.Get(e.ctx, key)
	require.NoError(t, err)
	for c := range info.Credentials.All() {
		if !c.Ended {
			live++
		}
	}
	require.Equal(t, 2, live)
}

func TestRotationBadInput(t *testing.T) {
	e := newEnv(t)
	e.clock.t = e.clock.t.Truncate(time.Microsecond)
	now := e.clock.now()
	plain := e.issue().Key.ID
	expiring := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = now.Add(24 * time.Hour) }).Key.ID
	revoked, suspended, expired := e.issue().Key.ID, e.issue().Key.ID, e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = now.Add(time.Second) }).Key.ID
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: revoked}))
	require.NoError(t, e.manager.Suspend(e.ctx, suspended))
	e.clock.move(time.Second)
	now = e.clock.now()
	for _, c := range []struct {
		name string
		req  apikey.RotateRequest
		want error
	}{
		{"revoked", apikey.RotateRequest{Key: revoked}, apikey.ErrRevoked},
		{"suspended", apikey.RotateRequest{Key: suspended}, apikey.ErrSuspended},
		{"expired", apikey.RotateRequest{Key: expired}, apikey.ErrExpired},
		{"unknown", apikey.RotateRequest{Key: storetest.NewKeyID()}, apikey.ErrNotFound},
		{"no key", apikey.RotateRequest{}, apikey.ErrNotFound},
		{"T is now", apikey.RotateRequest{Key: plain, At: now}, apikey.ErrInvalid},
		{"T in the past", apikey.RotateRequest{Key: plain, At: now.Add(-time.Hour)}, apikey.ErrInvalid},
		{"T at the expiry", apikey.RotateRequest{Key: expiring, At: now.Add(24*time.Hour - time.Second)}, apikey.ErrInvalid},
		{"overlap past the expiry", apikey.RotateRequest{Key: expiring, Overlap: 24 * time.Hour}, apikey.ErrInvalid},
		{"T and overlap past the expiry", apikey.RotateRequest{Key: expiring, At: now.Add(23 * time.Hour), Overlap: time.Hour}, apikey.ErrInvalid},
		{"negative overlap", apikey.RotateRequest{Key: plain, Overlap: -1}, apikey.ErrInvalid},
		{"overlap of more than 7 days", apikey.RotateRequest{Key: plain, Overlap: 7*24*time.Hour + 1}, apikey.ErrInvalid},
		{"another version", apikey.RotateRequest{Key: plain, IfVersion: 7}, apikey.ErrConflict},
	} {
		before, _ := e.store.Get(background, c.req.Key)
		issued, err := e.manager.Rotate(e.ctx, c.req)
		require.ErrorIs(t, err, c.want, c.name)
		require.True(t, issued.Token.IsZero(), c.name)
		after, _ := e.store.Get(background, c.req.Key)
		require.Equal(t, before, after, "%s left something behind", c.name)
	}
	_, err := e.rotate(plain, overlap(7*24*time.Hour))
	require.NoError(t, err)
	_, err = e.rotate(expiring, overlap(24*time.Hour-time.Second))
	require.NoError(t, err)
}

func TestCancelRotation(t *testing.T) {
	e := newEnv(t)
	e.clock.t = e.clock.t.Truncate(time.Microsecond)
	key := e.issue()
	cancel := func() error {
		return e.manager.CancelRotation(e.ctx, key.Key.ID)
	}
	require.ErrorIs(t, cancel(), apikey.ErrInvalid, "nothing is pending")
	for _, when := range []time.Duration{0, time.Hour - skew, time.Hour - time.Nanosecond} {
		next, err := e.rotate(key.Key.ID, e.at(time.Hour))
		require.NoError(t, err)
		e.clock.move(when)
		require.NoError(t, cancel())
		e.clock.move(48 * time.Hour)
		require.NoError(t, e.accepts(key.Token), "the current token got its time back")
		require.ErrorIs(t, e.accepts(next), apikey.ErrCredentialEnded)
	}
	next, err := e.rotate(key.Key.ID, e.at(time.Hour))
	require.NoError(t, err)
	e.clock.move(time.Hour)
	require.ErrorIs(t, cancel(), apikey.ErrInvalid, "T has come")
	require.NoError(t, e.accepts(next))
	e.clock.move(skew)
	require.ErrorIs(t, e.accepts(key.Token), apikey.ErrCredentialEnded)
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	require.ErrorIs(t, cancel(), apikey.ErrRevoked)
}

// Ending the pending token, by its ID or by its holder, must not leave a key
// whose only token ends at T.
func TestEndingThePendingTokenKeepsTheCurrentOne(t *testing.T) {
	for name, end := range map[string]func(*env, apikey.KeyID, apikey.Token) error{
		"Retire": func(e *env, key apikey.KeyID, token apikey.Token) error {
			return e.manager.Retire(e.ctx, apikey.RetireRequest{Key: key, Credential: token.Credential()})
		},
		"RevokeToken": func(e *env, _ apikey.KeyID, token apikey.Token) error {
			return e.manager.RevokeToken(background, token.Reveal(), apikey.ReasonCompromised)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			key := e.issue()
			next, err := e.rotate(key.Key.ID, e.at(time.Hour))
			require.NoError(t, err)
			require.NoError(t, end(e, key.Key.ID, next))
			e.clock.move(2 * time.Hour)
			require.NoError(t, e.accepts(key.Token))
			require.ErrorIs(t, e.accepts(next), apikey.ErrCredentialEnded)
		})
	}
}

func TestRetire(t *testing.T) {
	e := newEnv(t)
	key, other := e.issue(), e.issue()
	next, err := e.rotate(key.Key.ID, overlap(time.Hour))
	require.NoError(t, err)
	retire := func(c apikey.CredentialID) error {
		return e.manager.Retire(e.ctx, apikey.RetireRequest{Key: key.Key.ID, Credential: c})
	}
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, retire(key.Token.Credential()))
	require.ErrorIs(t, e.accepts(key.Token), apikey.ErrCredentialEnded)
	require.NoError(t, e.accepts(next))
	require.NoError(t, retire(key.Token.Credential()), "ended already")
	require.ErrorIs(t, retire(other.Token.Credential()), apikey.ErrNotFound)
	require.ErrorIs(t, retire(storetest.NewCredentialID()), apikey.ErrNotFound)
	require.NoError(t, retire(next.Credential()))
	require.ErrorIs(t, e.accepts(next), apikey.ErrCredentialEnded)
	again, err := e.rotate(key.Key.ID)
	require.NoError(t, err, "a key that nothing proves is rotated back to life")
	require.NoError(t, e.accepts(again))
}

// An overlap never gives a token more time than it had.
func TestOverlapNeverProlongs(t *testing.T) {
	e := newEnv(t)
	e.clock.t = e.clock.t.Truncate(time.Microsecond)
	key := e.issue()
	second, err := e.rotate(key.Key.ID, overlap(time.Hour))
	require.NoError(t, err)
	require.NoError(t, e.manager.Retire(e.ctx, apikey.RetireRequest{Key: key.Key.ID, Credential: second.Credential()}))
	_, err = e.rotate(key.Key.ID, overlap(24*time.Hour)) // the first token is the current one now
	require.NoError(t, err)
	e.clock.move(time.Hour - 1)
	require.NoError(t, e.accepts(key.Token))
	e.clock.move(1)
	require.ErrorIs(t, e.accepts(key.Token), apikey.ErrCredentialEnded)
}

// A record lists what is live and the eight last that ended; the events of the
// others stay.
func TestLongHistoryIsTrimmed(t *testing.T) {
	e := newEnv(t)
	key := e.issue()
	token := key.Token
	for range 30 {
		old := token
		var err error
		token, err = e.rotate(key.Key.ID)
		require.NoError(t, err)
		require.ErrorIs(t, e.verify(old), apikey.ErrCredentialEnded)
		require.NoError(t, e.verify(token))
	}
	info, err := e.manager.Get(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, 9, info.Credentials.Len())
	require.Equal(t, token.Credential(), info.Credential)
	require.Equal(t, apikey.ErrInvalidToken, e.verify(key.Token), "long forgotten")
	report, err := e.manager.VerifyEvents(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, apikey.ChainReport{Events: 31}, report)
}

// Of racing rotations with an overlap one is first; of racing ones without, the
// last one stands. Never do two tokens stand that nobody asked for.
func TestRacingRotations(t *testing.T) {
	for _, d := range []time.Duration{0, time.Hour} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			e := newEnv(t)
			key := e.issue()
			var wg sync.WaitGroup
			var won atomic.Int64
			tokens := make(chan apikey.Token, 8)
			for range 8 {
				wg.Go(func() {
					token, err := e.rotate(key.Key.ID, overlap(d))
					if err == nil {
						won.Add(1)
						tokens <- token
					}
				})
			}
			wg.Wait()
			close(tokens)
			valid := 0
			for token := range tokens {
				if e.verify(token) == nil {
					valid++
				}
			}
			require.Equal(t, 1, valid)
			if d > 0 {
				require.EqualValues(t, 1, won.Load())
				require.NoError(t, e.verify(key.Token))
			} else {
				require.ErrorIs(t, e.verify(key.Token), apikey.ErrCredentialEnded)
			}
		})
	}
}

// What happens now is a state, not a time: a Manager whose clock is 3 s ahead
// issues and rotates tokens that work at once on a Verifier that is not.
func TestAManagerAheadOfItsVerifiers(t *testing.T) {
	e := newEnv(t)
	ahead := e.newManager(func(c *managerConfig) {
		c.Now = func() time.Time { return e.clock.now().Add(3 * time.Second) }
	})
	issued, err := ahead.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(t, err)
	require.NoError(t, e.accepts(issued.Token))
	rotated, err := ahead.Rotate(e.ctx, apikey.RotateRequest{Key: issued.Key.ID})
	require.NoError(t, err)
	require.NoError(t, e.accepts(rotated.Token))
	require.ErrorIs(t, e.accepts(issued.Token), apikey.ErrCredentialEnded)
}

// The eight verifiers and the client of a scheduled switch have clocks up to
// 2 s apart. The client changes tokens at T by its own clock: nobody refuses it,
// and nobody takes the old token later than T + skew by its own clock.
func TestScheduledSwitchAcrossSkewedClocks(t *testing.T) {
	e := newEnv(t)
	e.clock.t = e.clock.t.Truncate(time.Microsecond)
	key := e.issue()
	var verifiers []*apikey.Verifier
	for i := range 8 {
		off := time.Duration(i-4) * 500 * time.Millisecond // -2 s to +1.5 s
		if i == 7 {
			off = 2 * time.Second
		}
		verifiers = append(verifiers, e.newVerifier(func(c *verifierConfig) {
			c.Now = func() time.Time { return e.clock.now().Add(off) }
		}))
	}
	T := e.clock.now().Add(90 * 24 * time.Hour)
	next, err := e.rotate(key.Key.ID, func(r *apikey.RotateRequest) { r.At = T })
	require.NoError(t, err)
	e.clock.move(T.Sub(e.clock.now()) - 12*time.Second)
	refused, late, asked := 0, 0, 0
	for ; e.clock.now().Before(T.Add(12 * time.Second)); e.clock.move(100 * time.Millisecond) {
		for _, client := range []time.Duration{-2 * time.Second, 0, 2 * time.Second} {
			token := key.Token
			if !e.clock.now().Add(client).Before(T) {
				token = next
			}
			for _, v := range verifiers {
				asked++
				if _, err := v.Verify(background, token.Reveal(), apikey.Request{}); err != nil {
					refused++
				}
				if e.clock.now().After(T.Add(skew + 2*time.Second)) {
					if _, err := v.Verify(background, key.Token.Reveal(), apikey.Request{}); err == nil {
						late++
					}
				}
			}
		}
	}
	t.Logf("%d requests around T: %d refused; old token accepted later than T + skew + 2 s: %d", asked, refused, late)
	require.Zero(t, refused)
	require.Zero(t, late)
	require.Greater(t, asked, 5000)
}

// RotateMonths makes keys due; List finds them; nothing is rotated behind
// anyone's back.
func TestRotationBecomesDue(t *testing.T) {
	e := newEnv(t)
	key := e.issue(func(r *apikey.IssueRequest) { r.RotateMonths = 6 })
	e.issue()
	due := func() int {
		list, err := e.manager.List(e.ctx, apikey.ListRequest{DueBefore: e.clock.now()})
		require.NoError(t, err)
		return len(list.Keys)
	}
	require.Zero(t, due())
	e.clock.move(185 * 24 * time.Hour)
	require.Equal(t, 1, due())
	require.NoError(t, e.accepts(key.Token), "due is a reminder")
	_, err := e.rotate(key.Key.ID)
	require.NoError(t, err)
	require.Zero(t, due())
}

// One sees which token is still in use, and so when retiring is safe.
func TestWhichTokenWasUsedLast(t *testing.T) {
	e := newEnv(t)
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	next, err := e.rotate(key.Key.ID, overlap(time.Hour))
	require.NoError(t, err)
	used := e.clock.now()
	e.clock.move(time.Minute)
	require.NoError(t, e.verify(next))
	require.NoError(t, e.verifier.Close(background))
	info, err := e.manager.Get(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, used.Add(time.Minute).Truncate(time.Microsecond), info.Credentials.At(0).LastUsed)
	require.Equal(t, used.Truncate(time.Microsecond), info.Credentials.At(1).LastUsed)
}
