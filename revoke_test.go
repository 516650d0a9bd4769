package apikey_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// ends are the two ways to take a key's power away by its ID.
var ends = map[string]struct {
	call  func(e *env, ctx context.Context, id apikey.KeyID) error
	state apikey.State
	want  error
}{
	"suspend": {func(e *env, ctx context.Context, id apikey.KeyID) error {
		return e.manager.Suspend(ctx, apikey.SuspendRequest{Key: id})
	}, apikey.Suspended, apikey.ErrSuspended},
	"revoke": {func(e *env, ctx context.Context, id apikey.KeyID) error {
		return e.manager.Revoke(ctx, apikey.RevokeRequest{Key: id})
	}, apikey.Revoked, apikey.ErrRevoked},
}

// However many edit a key at that moment, the one who ends it is never told to
// try again, and nobody's edit brings it back.
func TestEndingAKeyWinsOverRacingUpdates(t *testing.T) {
	const rounds, editors = 50, 16
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				e := newEnv(t, on, func(e *env) { e.mc.Limits.LiveKeys = 2 * rounds })
				for round := range rounds {
					key := e.issue()
					require.NoError(t, e.verify(key.Token))
					errs := together(editors+1, func(i int) error {
						if i == editors {
							if err := end.call(e, e.ctx, key.Key.ID); err != nil {
								return err
							}
							if err := e.verify(key.Token); !errors.Is(err, end.want) { // it returned: now
								return fmt.Errorf("after it returned: %v", err)
							}
							return nil
						}
						_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(fmt.Sprint("editor ", i))})
						if errors.Is(err, apikey.ErrConflict) || errors.Is(err, apikey.ErrRevoked) {
							return nil
						}
						return err
					})
					require.Equal(t, editors+1, count(errs, nil), "round %d: %v", round, errs)
					info, err := e.manager.Get(e.ctx, apikey.GetRequest{Key: key.Key.ID})
					require.NoError(t, err)
					require.Equal(t, end.state, info.State, "round %d", round)
					require.ErrorIs(t, e.verify(key.Token), end.want, "round %d", round)
				}
			})
		})
	}
}

// A store that refuses the comparison a hundred times does not wear them out:
// they are not bounded by attempts but by time.
func TestEndingAKeyIsTriedUntilItCommits(t *testing.T) {
	for name, end := range ends {
		var p *proxy
		e := newEnv(t, through(&p))
		key := e.issue()
		left := 100
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.Change) error {
				if left--; left >= 0 {
					return apikey.ErrConflict
				}
				return next()
			}
		})
		begin := time.Now()
		require.NoError(t, end.call(e, e.ctx, key.Key.ID), name)
		require.Less(t, time.Since(begin), time.Second, "%s: again at once, without the pauses of others", name)
		require.ErrorIs(t, e.verify(key.Token), end.want)

		p.hook(func(p *proxy) { p.apply = nil })
		key = e.issue()
		p.hook(func(p *proxy) {
			p.apply = func(func() error, []apikey.Change) error { return apikey.ErrConflict }
		})
		ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond)
		require.Error(t, end.call(e, ctx, key.Key.ID), "%s: until its time is over", name)
		cancel()
	}
}

func TestEndingTwiceIsNothing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		for name, end := range ends {
			e := newEnv(t, on)
			key := e.issue()
			require.NoError(t, end.call(e, e.ctx, key.Key.ID))
			once, err := e.manager.Get(e.ctx, apikey.GetRequest{Key: key.Key.ID})
			require.NoError(t, err)
			e.clock.move(time.Minute)
			require.NoError(t, end.call(e, e.ctx, key.Key.ID))
			twice, err := e.manager.Get(e.ctx, apikey.GetRequest{Key: key.Key.ID})
			require.NoError(t, err)
			require.Equal(t, once, twice, name)
			require.Len(t, e.allEvents(apikey.EventsRequest{Key: key.Key.ID}), 2, "%s: issued and ended", name)
			require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
			require.NoError(t, e.manager.Suspend(e.ctx, apikey.SuspendRequest{Key: key.Key.ID}), "of a dead key")
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
		}
	})
}

func TestEndingUnderRacingIsOneEvent(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		for name, end := range ends {
			var p *proxy
			e := newEnv(t, on, through(&p))
			key := e.issue()
			p.meet(16)
			errs := together(16, func(int) error { return end.call(e, e.ctx, key.Key.ID) })
			require.Equal(t, 16, count(errs, nil), "%s: %v", name, errs)
			require.Len(t, e.allEvents(apikey.EventsRequest{Key: key.Key.ID}), 2, name)
			require.NoError(t, e.chain(key.Key.ID))
		}
	})
}

func TestRevokeReasons(t *testing.T) {
	e := newEnv(t)
	for given, want := range map[apikey.Reason]apikey.Reason{
		"": apikey.ReasonRequested, apikey.ReasonCompromised: "compromised", "seen on GitHub": "seen on GitHub",
		apikey.Reason(strings.Repeat("r", 200)): apikey.Reason(strings.Repeat("r", 200)),
	} {
		key := e.issue()
		now := e.clock.now().Truncate(time.Microsecond)
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID, Reason: given}))
		info, err := e.manager.Get(e.ctx, apikey.GetRequest{Key: key.Key.ID})
		require.NoError(t, err)
		require.Equal(t, want, info.RevokeReason)
		require.True(t, info.RevokedAt.Equal(now), info.RevokedAt)
		events := e.allEvents(apikey.EventsRequest{Key: key.Key.ID})
		require.Equal(t, want, events[1].Reason)
	}
	key := e.issue()
	for _, bad := range []apikey.Reason{apikey.Reason(strings.Repeat("r", 201)), "\xff", "a\x00"} {
		require.ErrorIs(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID, Reason: bad}), apikey.ErrInvalid)
		_, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{Reason: bad})
		require.ErrorIs(t, err, apikey.ErrInvalid)
		require.ErrorIs(t, e.manager.RevokeToken(background, key.Token.Reveal(), bad), apikey.ErrInvalid)
	}
	require.NoError(t, e.verify(key.Token))
}

func TestSuspendAndResume(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		key := e.issue()
		for range 3 {
			require.NoError(t, e.verify(key.Token))
			require.NoError(t, e.manager.Suspend(e.ctx, apikey.SuspendRequest{Key: key.Key.ID}))
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrSuspended)
			require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}))
		}
		require.NoError(t, e.verify(key.Token))
		require.NoError(t, e.chain(key.Key.ID))
	})
}

// A record that was changed behind the library's back can still be suspended
// and revoked, and comes out as damaged as it went in: its MAC is not made new.
func TestEndingADamagedKeyLaundersNothing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		for name, end := range ends {
			var p *proxy
			e := newEnv(t, on, through(&p))
			key := e.issue()
			tamper := func(r *apikey.Record) {
				if r.ID == key.Key.ID {
					r.Abilities = []string{"balance=write"}
				}
			}
			p.hook(func(p *proxy) { p.out = tamper })
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrCorrupt)
			require.NoError(t, end.call(e, e.ctx, key.Key.ID), name)
			p.hook(func(p *proxy) { p.out = nil }) // what was tampered with is stored now

			r, err := e.store.Get(background, key.Key.ID)
			require.NoError(t, err)
			require.Equal(t, end.state, r.State(), name)
			require.Equal(t, []string{"balance=write"}, r.Abilities, "the premise")
			_, err = e.manager.Get(e.ctx, apikey.GetRequest{Key: key.Key.ID})
			require.ErrorIs(t, err, apikey.ErrCorrupt, name)
			_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("clean")})
			require.ErrorIs(t, err, apikey.ErrCorrupt)
			require.ErrorIs(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}), apikey.ErrCorrupt, "it stays down")
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrCorrupt)
			require.ErrorIs(t, e.newVerifierOf(key.Token), apikey.ErrCorrupt, "in a new process too")
			report, err := e.manager.VerifyEvents(e.ctx, apikey.VerifyEventsRequest{Key: key.Key.ID})
			require.NoError(t, err)
			require.Equal(t, &apikey.BrokenLink{Seq: 2, Detail: "the record itself is damaged"}, report.Broken)
			require.NoError(t, end.call(e, e.ctx, key.Key.ID), "%s: again", name)
		}
	})
}

// newVerifierOf verifies in a process that has just begun.
func (e *env) newVerifierOf(token apikey.Token) error {
	_, err := e.newVerifier().Verify(background, token.Reveal(), apikey.Request{})
	return err
}

// An account that leaves: all of its keys, by chunks, and again from the start
// after a crash; nobody else's.
func TestRevokeAll(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		theirs, _, _ := victim(e)
		var keys []apikey.Issued
		for i := range 7 {
			keys = append(keys, e.issue(func(r *apikey.IssueRequest) { r.Disabled = i == 3 }))
		}
		first, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{Limit: 3, Reason: apikey.ReasonUnused})
		require.NoError(t, err)
		require.Equal(t, 3, first.Revoked)
		require.NotEmpty(t, first.Next)
		require.NoError(t, e.verify(keys[0].Token), "newest first")
		require.ErrorIs(t, e.verify(keys[6].Token), apikey.ErrRevoked)

		// The process died here, and its successor has no cursor.
		total, req := first.Revoked, apikey.RevokeAllRequest{Limit: 3, Reason: apikey.ReasonUnused}
		for range 10 {
			done, err := e.manager.RevokeAll(e.ctx, req)
			require.NoError(t, err)
			if total += done.Revoked; done.Next == "" {
				break
			}
			req.Cursor = done.Next
		}
		require.Equal(t, 7, total)
		for i, k := range keys {
			require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked, i)
			events := e.allEvents(apikey.EventsRequest{Key: k.Key.ID})
			require.Len(t, events, 2, "one revocation each")
			require.Equal(t, apikey.ReasonUnused, events[1].Reason)
		}
		require.NoError(t, e.verify(theirs.Token))
	})
}

func TestRevokeAllSelects(t *testing.T) {
	e := newEnv(t)
	live := e.issue()
	e.clock.move(time.Hour)
	used := e.issue()
	test := e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
	public := e.issue(publishable())
	require.NoError(t, e.verify(used.Token))
	require.NoError(t, e.verifier.Close(background))
	revoked := func(k apikey.Issued) bool {
		info, err := e.manager.Get(e.ctx, apikey.GetRequest{Key: k.Key.ID})
		require.NoError(t, err)
		return info.State == apikey.Revoked
	}
	for _, step := range []struct {
		req  apikey.RevokeAllRequest
		dies apikey.Issued
	}{
		{apikey.RevokeAllRequest{Kind: apikey.Publishable}, public},
		{apikey.RevokeAllRequest{Mode: apikey.Test}, test},
		{apikey.RevokeAllRequest{UnusedSince: e.clock.now()}, live},
	} {
		done, err := e.manager.RevokeAll(e.ctx, step.req)
		require.NoError(t, err)
		require.Equal(t, 1, done.Revoked, "%+v", step.req)
		require.True(t, revoked(step.dies), "%+v", step.req)
	}
	done, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{NeverUsed: true})
	require.NoError(t, err)
	require.Zero(t, done.Revoked)
	require.False(t, revoked(used))
}

// A key that fails holds up no other: the rest are revoked, the error names it,
// and the next chunk can be asked for.
func TestRevokeAllGoesOnAfterAFailure(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	keys := []apikey.Issued{e.issue(), e.issue(), e.issue(), e.issue()}
	stuck := keys[2]
	p.hook(func(p *proxy) {
		p.apply = func(next func() error, changes []apikey.Change) error {
			if r := changes[0].Record; r != nil && r.ID == stuck.Key.ID {
				return fmt.Errorf("%w: this row is odd", apikey.ErrInvalid)
			}
			return next()
		}
	})
	done, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{Limit: 3})
	require.ErrorContains(t, err, stuck.Key.ID.String()+": apikey: invalid request: this row is odd")
	require.NotEmpty(t, done.Next)
	require.Equal(t, 2, done.Revoked, "the one before it and the one behind it")
	done, err = e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{Limit: 3, Cursor: done.Next})
	require.NoError(t, err)
	require.Equal(t, 1, done.Revoked)
	p.hook(func(p *proxy) { p.apply = nil })
	done, err = e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{})
	require.NoError(t, err)
	require.Equal(t, 1, done.Revoked)
}

// Whoever holds a token can end it: from anywhere, without account or actor.
func TestRevokeTokenByPossession(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		key, other := e.issue(), e.issue()
		asleep := e.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
		expired := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().Add(time.Hour) })
		sandbox := e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
		dead := e.issue()
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: dead.Key.ID}))
		require.NoError(t, e.verify(key.Token))
		e.clock.move(2 * time.Hour)
		m := e.newManager(func(c *apikey.ManagerConfig) { c.Policy = nobody{} }) // not even he asks
		for name, k := range map[string]apikey.Issued{"live": key, "suspended": asleep, "expired": expired, "test": sandbox} {
			before := len(e.allEvents(apikey.EventsRequest{Key: k.Key.ID}))
			require.NoError(t, m.RevokeToken(background, k.Token.Reveal(), apikey.ReasonCompromised), name)
			require.NoError(t, m.RevokeToken(background, k.Token.Reveal(), apikey.ReasonCompromised), "%s: ended already", name)
			events := e.allEvents(apikey.EventsRequest{Key: k.Key.ID})
			require.Len(t, events, before+1, name)
			last := events[before]
			require.Equal(t, apikey.ActionRevokeToken, last.Action)
			require.Equal(t, "credential:"+k.Token.Credential().String(), last.Actor.ID, "the credential is the actor")
			require.Equal(t, "acc_1", last.Account)
			require.Equal(t, k.Token.Credential(), last.Credential)
			require.Equal(t, apikey.ReasonCompromised, last.Reason)
			require.Equal(t, []string{"credentials"}, last.Changed)
			require.NoError(t, e.chain(k.Key.ID))
			info, err := e.manager.Get(e.ctx, apikey.GetRequest{Key: k.Key.ID})
			require.NoError(t, err)
			require.True(t, info.Credentials.At(0).Ended)
			require.NotEqual(t, apikey.Revoked, info.State, "the key itself lives: it gets a new token by rotation")
		}
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrCredentialEnded, "now")
		require.NoError(t, m.RevokeToken(background, dead.Token.Reveal(), ""))
		require.Len(t, e.allEvents(apikey.EventsRequest{Key: dead.Key.ID}), 2)
		require.NoError(t, e.verify(other.Token))
	})
}

type nobody struct{}

func (nobody) Authorize(context.Context, apikey.Actor, apikey.Action, apikey.Info) error {
	return errors.New("nobody may do anything")
}

// Whoever does not hold the secret ends nothing and learns nothing.
func TestRevokeTokenRefuses(t *testing.T) {
	for program, option := range map[string]func(*env){"peppered": func(*env) {}, "plain": noPepper} {
		t.Run(program, func(t *testing.T) {
			e := newEnv(t, option)
			key, public := e.issue(), e.issue(publishable())
			text := key.Token.Reveal()
			sealed := func(text string) string { // as good as an attacker can make it
				if program == "peppered" {
					return retag(t, e.mc.Peppers[0], text)
				}
				return recrc(text)
			}
			require.Equal(t, text, sealed(text))
			r, err := e.store.Get(background, key.Key.ID)
			require.NoError(t, err)
			for name, presented := range map[string]string{
				"empty":                        "",
				"redacted":                     key.Token.String(),
				"the key's ID":                 key.Key.ID.String(),
				"the credential":               key.Token.Credential().String(),
				"the hash":                     r.Credentials[0].Hash,
				"cut short":                    text[:len(text)-1],
				"with a space":                 text + " ",
				"wrong secret":                 sealed(spliceSecret(text)),
				"unknown":                      sealed(spliceID(text)),
				"forged checksum":              recrc(spliceSecret(text)),
				"another prefix":               sealed("evil" + text[4:]),
				"the other mode":               sealed(strings.Replace(text, "_live_", "_test_", 1)),
				"the other kind":               sealed(strings.Replace(text, "_sk_", "_pk_", 1)),
				"a public one as a secret one": sealed(strings.Replace(public.Token.Reveal(), "_pk_", "_sk_", 1)),
				"a megabyte":                   strings.Repeat("a", 1<<20),
			} {
				err := e.manager.RevokeToken(background, presented, "")
				require.ErrorIs(t, err, apikey.ErrInvalidToken, name)
				require.EqualError(t, err, apikey.ErrInvalidToken.Error(), "%s: one answer for all", name)
			}
			require.NoError(t, e.verify(key.Token))
			require.ErrorIs(t, e.manager.RevokeToken(background, public.Token.Reveal(), ""), apikey.ErrKind, "everybody has it")
			_, err = e.verifier.Verify(background, public.Token.Reveal(), apikey.Request{AllowPublishable: true})
			require.NoError(t, err)
			require.Len(t, e.allEvents(apikey.EventsRequest{Account: "acc_1"}), 2)
		})
	}
}

// Anybody may call it, so what it costs is bounded: at most eight lookups at a
// time, however many come, and with a pepper none at all for what is forged.
func TestRevokeTokenBoundsJunk(t *testing.T) {
	var running, most, lookups atomic.Int64
	full, open := make(chan struct{}), make(chan struct{})
	var once sync.Once
	store := &lookupHook{before: func() {
		lookups.Add(1)
		n := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if n == 8 {
			once.Do(func() { close(full) })
		}
		<-open
	}}
	e := newEnv(t, func(e *env) {
		store.Store = e.store
		e.store = store
	})
	text := e.issue().Token.Reveal()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if err := e.manager.RevokeToken(background, retag(t, e.mc.Peppers[0], spliceID(text)), ""); !errors.Is(err, apikey.ErrInvalidToken) {
				t.Error(err)
			}
		})
	}
	<-full
	for range 1000 { // forged: answered while the others wait, without a read
		require.ErrorIs(t, e.manager.RevokeToken(background, recrc(spliceID(text)), ""), apikey.ErrInvalidToken)
	}
	require.Equal(t, int64(8), lookups.Load())
	close(open)
	wg.Wait()
	require.Equal(t, int64(8), most.Load())
	require.Equal(t, int64(100), lookups.Load())
}

type lookupHook struct {
	apikey.Store
	before func()
}

func (s *lookupHook) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.Record, error) {
	s.before()
	return s.Store.Lookup(ctx, id)
}

// Two holders at once, one of whom is the merchant who revokes the whole key.
func TestRevokeTokenUnderRacing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		for range 20 {
			key := e.issue()
			errs := together(8, func(i int) error {
				if i%2 == 0 {
					return e.manager.RevokeToken(background, key.Token.Reveal(), "")
				}
				return e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID})
			})
			require.Equal(t, 8, count(errs, nil), errs)
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
			require.NoError(t, e.chain(key.Key.ID))
		}
	})
}
