package apitest

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
		return e.manager.Suspend(ctx, id)
	}, apikey.Suspended, apikey.ErrSuspended},
	"revoke": {func(e *env, ctx context.Context, id apikey.KeyID) error {
		return e.manager.Revoke(ctx, apikey.RevokeRequest{Key: id})
	}, apikey.Revoked, apikey.ErrRevoked},
}

// However many edit a key at that moment, the one who ends it is never told to
// try again, and nobody's edit brings it back.
func TestEndingAKeyWinsOverRacingUpdates(t *testing.T) {
	t.Parallel()
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
					info, err := e.manager.Get(e.ctx, key.Key.ID)
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
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
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
			p.apply = func(func() error, []apikey.StoreChange) error { return apikey.ErrConflict }
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
			once, err := e.manager.Get(e.ctx, key.Key.ID)
			require.NoError(t, err)
			e.clock.move(time.Minute)
			require.NoError(t, end.call(e, e.ctx, key.Key.ID))
			twice, err := e.manager.Get(e.ctx, key.Key.ID)
			require.NoError(t, err)
			require.Equal(t, once, twice, name)
			require.Len(t, e.allEvents(apikey.EventsRequest{Key: key.Key.ID}), 2, "%s: issued and ended", name)
			require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
			require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID), "of a dead key")
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
		info, err := e.manager.Get(e.ctx, key.Key.ID)
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
			require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID))
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
			tamper := func(r *apikey.StoreRecord) {
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
			_, err = e.manager.Get(e.ctx, key.Key.ID)
			require.ErrorIs(t, err, apikey.ErrCorrupt, name)
			_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("clean")})
			require.ErrorIs(t, err, apikey.ErrCorrupt)
			require.ErrorIs(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}), apikey.ErrCorrupt, "it stays down")
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrCorrupt)
			require.ErrorIs(t, e.newVerifierOf(key.Token), apikey.ErrCorrupt, "in a new process too")
			report, err := e.manager.VerifyEvents(e.ctx, key.Key.ID)
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
		first, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{All: true, Limit: 3, Reason: apikey.ReasonUnused})
		require.NoError(t, err)
		require.Equal(t, 3, first.Revoked)
		require.NotEmpty(t, first.Next)
		require.NoError(t, e.verify(keys[0].Token), "newest first")
		require.ErrorIs(t, e.verify(keys[6].Token), apikey.ErrRevoked)

		// The process died here, and its successor has no cursor.
		total, req := first.Revoked, apikey.RevokeAllRequest{All: true, Limit: 3, Reason: apikey.ReasonUnused}
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
		info, err := e.manager.Get(e.ctx, k.Key.ID)
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
		p.apply = func(next func() error, changes []apikey.StoreChange) error {
			if r := changes[0].Record; r != nil && r.ID == stuck.Key.ID {
				return fmt.Errorf("%w: this row is odd", apikey.ErrInvalid)
			}
			return next()
		}
	})
	done, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{All: true, Limit: 3})
	require.ErrorContains(t, err, stuck.Key.ID.String()+": apikey: invalid request: this row is odd")
	require.NotEmpty(t, done.Next)
	require.Equal(t, 2, done.Revoked, "the one before it and the one behind it")
	done, err = e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{All: true, Limit: 3, Cursor: done.Next})
	require.NoError(t, err)
	require.Equal(t, 1, done.Revoked)
	p.hook(func(p *proxy) { p.apply = nil })
	done, err = e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{All: true})
	require.NoError(t, err)
	require.Equal(t, 1, done.Revoked)
}

// Another node has revoked the key a moment ago. RevokeAll of this node passes it
// over, and tells this node's Verifier before it returns that all is done.
func TestRevokeAllTellsOfWhatIsDeadAlready(t *testing.T) {
	e := newEnv(t)
	k := e.issue()
	require.NoError(t, e.verify(k.Token))
	other := e.newManager()
	require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}))
	done, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{All: true, Reason: apikey.ReasonCompromised})
	require.NoError(t, err)
	require.Empty(t, done.Next, "all are done")
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
}

// RevokeAll by a pepper passes over a key that this pepper has signed and not minted.
// Nobody has revoked it, also in the eyes of a Verifier that cannot believe it now.
func TestRevokeAllKillsNothingThatItPassesOver(t *testing.T) {
	one, two := pepperOf(t, 1, 10), pepperOf(t, 2, 20)
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) {
		e.settings.Hashers = []apikey.Hasher{hmacHasher(t, two, one)}
		e.settings.Peppers = []apikey.Pepper{two, one}
	})
	e.verifier = e.newVerifier(func(c *verifierConfig) { // the leaked one is taken out here
		c.Hashers, c.Peppers = []apikey.Hasher{hmacHasher(t, two)}, []apikey.Pepper{two}
	})
	k := e.issue()
	require.NoError(t, e.verify(k.Token))
	// another node still mints and signs with 1
	old := e.newManager(func(c *managerConfig) {
		c.Hashers, c.Peppers = []apikey.Hasher{hmacHasher(t, one, two)}, []apikey.Pepper{one, two}
	})
	_, err := old.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, Name: apikey.Set("signed with 1")})
	require.NoError(t, err)
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrCorrupt, "its MAC is of a pepper that this Verifier has not")
	op := apikey.WithActor(background, apikey.Operator("ops"))
	done, err := e.manager.RevokeAll(op, apikey.RevokeAllRequest{Pepper: 1, Reason: apikey.ReasonCompromised})
	require.NoError(t, err)
	require.Zero(t, done.Revoked, "pepper 1 has minted nothing")
	n, err := e.manager.Remac(op, 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, e.verifier.Sync(background))
	e.clock.move(3 * e.maxAge())
	require.NoError(t, e.verifier.Sync(background))
	require.NoError(t, verifyBy(e.newVerifier(), k.Token), "a process that starts now")
	require.NoError(t, e.verify(k.Token), "nobody has revoked it")
}
