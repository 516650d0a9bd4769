package apitest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

func (e *env) maxAge() time.Duration {
	if e.vc.MaxAge != 0 {
		return e.vc.MaxAge
	}
	return 5 * time.Minute
}

// realTime lets the program run by time.Now and its own polling, which in a
// synctest bubble is a clock that waits for nobody.
func realTime(e *env) {
	e.settings.Now, e.settings.Now, e.vc.Sync = nil, nil, 0
}

// Two nodes: what one changes the other refuses within a poll.
func TestOtherNodesFollowWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, realTime)
		defer e.verifier.Close(background)
		key := e.issue()
		other := e.newManager()
		require.NoError(t, e.verify(key.Token))
		require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		time.Sleep(time.Second + time.Millisecond)
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	})
}

// A Notifier says only "ask now".
func TestNotifierShortensTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &bell{c: make(chan struct{}, 1)}
		e := newEnv(t, realTime, func(e *env) { e.settings.Notifier, e.vc.Sync = n, time.Hour })
		defer e.verifier.Close(background)
		key := e.issue()
		other := e.newManager(func(c *managerConfig) { c.Notifier = n })
		require.NoError(t, e.verify(key.Token))
		time.Sleep(time.Second) // past the pause after the poll that Issue caused
		require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		time.Sleep(time.Millisecond)
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	})
}

type bell struct{ c chan struct{} }

func (b *bell) Notify(context.Context) error { b.c <- struct{}{}; return nil }

func (b *bell) Wait(ctx context.Context) error {
	select {
	case <-b.c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// blackHole swallows every call until its context ends.
func blackHole(s *spy) {
	s.set(func(s *spy) {
		s.lookup = func(ctx context.Context, _ apikey.CredentialID, _ func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			<-ctx.Done()
			return apikey.StoreRecord{}, ctx.Err()
		}
		s.changed = func(ctx context.Context, _ apikey.Cursor, _ func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			<-ctx.Done()
			return apikey.StoreChanges{}, ctx.Err()
		}
		s.upkeep = func(ctx context.Context, _ []apikey.StoreUpkeep, _ func() error) error {
			<-ctx.Done()
			return ctx.Err()
		}
	})
}

// While the store is a black hole warm keys verify for MaxStale, counted from
// the start of the last good sync, and not a moment longer; every answer comes
// in bounded time.
func TestBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		e := newEnv(t, realTime, watch(&s))
		defer e.verifier.Close(background)
		warm, cold := e.issue(), e.issue()
		require.NoError(t, e.verify(warm.Token))
		time.Sleep(10*time.Second + 500*time.Millisecond) // last good sync: at 10 s
		blackHole(s)
		last := time.Now().Add(-500 * time.Millisecond)

		time.Sleep(time.Until(last.Add(120 * time.Second)))
		require.NoError(t, e.verify(warm.Token), "exactly MaxStale after the last good sync began")
		start := time.Now()
		require.ErrorIs(t, e.verify(cold.Token), apikey.ErrUnavailable)
		require.LessOrEqual(t, time.Since(start), 5*time.Second)

		start = time.Now()
		require.ErrorIs(t, e.verify(warm.Token), apikey.ErrUnavailable)
		require.LessOrEqual(t, time.Since(start), time.Second)

		s.set(func(s *spy) { s.lookup, s.changed, s.upkeep = nil, nil, nil })
		time.Sleep(6 * time.Second) // what hangs ends, and the next poll is good
		require.NoError(t, e.verify(warm.Token))
		require.NoError(t, e.verify(cold.Token))
	})
}

// A frozen process (SIGSTOP, a suspended machine) wakes up minutes later with
// everything warm. It asks before it answers.
func TestFrozenVerifierAcceptsNothingStale(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	key, fine := e.issue(), e.issue()
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.verify(fine.Token))
	other := e.newManager()
	require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	require.NoError(t, e.verify(key.Token), "nobody has told it yet")
	e.clock.move(120*time.Second + time.Microsecond)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	require.NoError(t, e.verify(fine.Token))

	down := errors.New("no route to host")
	s.set(func(s *spy) {
		s.changed = func(context.Context, apikey.Cursor, func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			return apikey.StoreChanges{}, down
		}
	})
	e.clock.move(120 * time.Second)
	require.NoError(t, e.verify(fine.Token))
	e.clock.move(time.Microsecond)
	err := e.verify(fine.Token)
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorIs(t, err, down)
}

// An answer from a node that lags is no sync: neither at the start nor later.
func TestLaggingReplicaIsNoSync(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	key, cold := e.issue(), e.issue()
	require.NoError(t, e.verify(key.Token))
	s.set(func(s *spy) {
		s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			c, err := next()
			c.Current = false
			return c, err
		}
	})
	require.ErrorIs(t, e.verifier.Sync(background), apikey.ErrUnavailable)
	e.clock.move(121 * time.Second)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrUnavailable)
	require.ErrorIs(t, e.verify(cold.Token), apikey.ErrUnavailable, "its rows are as old as its feed")
	_, err := apikey.NewVerifier(background, e.settings, e.vc)
	require.ErrorIs(t, err, apikey.ErrUnavailable)
}

// Past MaxAge a hit is answered and read again behind, once; past twice that it
// is read before the answer. The feed is an accelerator: here it is broken.
func TestMaxAge(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	require.EqualValues(t, 1, s.lookups.Load())
	s.set(func(s *spy) {
		s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			c, err := next()
			c.Records = nil // a feed that skips
			return c, err
		}
	})
	other := e.newManager()
	require.NoError(t, other.Suspend(e.ctx, key.Key.ID))
	e.clock.move(5*time.Minute + time.Second)
	require.NoError(t, e.verify(key.Token), "answered from memory")
	require.Eventually(t, func() bool { return errors.Is(e.verify(key.Token), apikey.ErrSuspended) }, time.Second, time.Millisecond)
	require.EqualValues(t, 2, s.lookups.Load(), "read again behind the answer, once")

	require.NoError(t, other.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}))
	e.clock.move(10*time.Minute + time.Second)
	require.NoError(t, e.verify(key.Token), "read before the answer")
	require.EqualValues(t, 3, s.lookups.Load())

	s.set(func(s *spy) {
		s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			return apikey.StoreRecord{}, errors.New("down")
		}
	})
	e.clock.move(10*time.Minute + time.Second)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrUnavailable)
}

// A backup is restored under a running Verifier.
func TestRestoredDatabaseIsNoticed(t *testing.T) {
	var s *spy
	store := memstore.New()
	e := newEnv(t, func(e *env) { e.store = store }, watch(&s))
	dead, renamed, lost := e.issue(), e.issue(), e.issue()
	other := e.newManager()
	require.NoError(t, other.Suspend(e.ctx, lost.Key.ID))
	require.NoError(t, e.verifier.Sync(background))
	for _, k := range []apikey.Issued{dead, renamed} {
		require.NoError(t, e.verify(k.Token))
	}
	require.ErrorIs(t, e.verify(lost.Token), apikey.ErrSuspended)
	restore := store.Snapshot()
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: dead.Key.ID}))
	later := e.issue()
	require.NoError(t, e.verify(later.Token))
	require.NoError(t, e.verifier.Sync(background))
	restore()
	require.NoError(t, other.Resume(e.ctx, apikey.ResumeRequest{Key: lost.Key.ID})) // history goes on, differently
	_, err := other.Update(e.ctx, apikey.UpdateRequest{Key: renamed.Key.ID, Disabled: apikey.Set(true)})
	require.NoError(t, err)

	before := s.lookups.Load()
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, e.verify(renamed.Token), apikey.ErrSuspended)
	require.NoError(t, e.verify(lost.Token))
	require.ErrorIs(t, e.verify(dead.Token), apikey.ErrRevoked, "it saw that key die")
	require.Equal(t, apikey.ErrInvalidToken, e.verify(later.Token), "the restored database never had it")
	require.GreaterOrEqual(t, s.lookups.Load()-before, int64(4), "every key is read again")
}

// A damaged row is refused, loudly, and works again as soon as it is repaired.
func TestDamagedRowIsRefusedUntilItIsRepaired(t *testing.T) {
	var s *spy
	var corrupt []*apikey.CorruptError
	e := newEnv(t, watch(&s), func(e *env) {
		e.settings.Trace = &apikey.Trace{Corrupt: func(err *apikey.CorruptError) { corrupt = append(corrupt, err) }}
	})
	key, cold := e.issue(), e.issue()
	require.NoError(t, e.verify(key.Token))
	s.set(func(s *spy) {
		s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			r, err := next()
			r.Account = "acc_2"
			return r, err
		}
		s.changed = func(_ context.Context, after apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			c, err := next()
			c.Damaged = []*apikey.CorruptError{{Key: key.Key.ID, Detail: "not JSON"}}
			return c, err
		}
	})
	require.ErrorIs(t, e.verify(cold.Token), apikey.ErrCorrupt)
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrCorrupt)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrCorrupt)
	require.Equal(t, key.Key.ID, corrupt[len(corrupt)-1].Key)
	s.set(func(s *spy) { s.lookup, s.changed = nil, nil })
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.verify(cold.Token))
}

// Nothing that a Verifier started outlives it: synctest fails a bubble in which
// a goroutine is left.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		n := &bell{c: make(chan struct{}, 1)}
		e := newEnv(t, realTime, watch(&s), func(e *env) { e.settings.Notifier = n })
		warm, cold := e.issue(), e.issue()
		require.NoError(t, e.verify(warm.Token))
		blackHole(s)
		answer := make(chan error)
		go func() { answer <- e.verify(cold.Token) }()
		synctest.Wait()
		require.ErrorIs(t, e.verifier.Close(background), apikey.ErrUnavailable)
		require.ErrorIs(t, <-answer, apikey.ErrUnavailable)
		require.ErrorIs(t, e.verify(warm.Token), apikey.ErrClosed)
	})
}

// A process is stopped while its feed is asked. When it goes on, that run fails;
// the first request, which finds the Verifier stale, is not answered with that.
func TestAnOlderRunSaysNothing(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k := e.issue()
	require.NoError(t, e.verify(k.Token))
	begun, end := make(chan struct{}), make(chan struct{})
	hang := sync.OnceFunc(func() {
		close(begun)
		<-end
	})
	failed := false
	s.set(func(s *spy) {
		s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			hang()
			if !failed {
				failed = true
				return apikey.StoreChanges{}, errors.New("connection reset while we were stopped")
			}
			return next()
		}
	})
	old, answer := make(chan error, 1), make(chan error, 1)
	go func() { old <- e.verifier.Sync(background) }()
	<-begun
	e.clock.move(3 * time.Minute)
	go func() { answer <- e.verify(k.Token) }()
	time.Sleep(20 * time.Millisecond) // it has joined; if not, it asks by itself, which is as good
	close(end)
	require.ErrorIs(t, <-old, apikey.ErrUnavailable)
	require.NoError(t, <-answer)
}

// A store that has lost even the beginning is broken, and is asked no more often
// than another that is.
func TestTheBeginningCannotBeLost(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	asked := 0
	s.set(func(s *spy) {
		s.changed = func(context.Context, apikey.Cursor, func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			asked++
			return apikey.StoreChanges{}, apikey.ErrCursorLost
		}
	})
	require.ErrorIs(t, e.verifier.Sync(background), apikey.ErrUnavailable)
	require.Equal(t, 2, asked, "with its cursor, and from the beginning")
}

// A walk through the feed is interrupted, and goes on where it was. What was
// committed behind it meanwhile shows in the next walk (the window feeds of PostgreSQL
// and MariaDB), and Sync returns when that is applied.
func TestARunThatGoesOnIsNoSync(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k := e.issue()
	require.NoError(t, e.verify(k.Token))
	require.NoError(t, e.verifier.Sync(background))
	other := e.newManager()
	down := true
	s.set(func(s *spy) {
		s.changed = func(_ context.Context, after apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			switch after {
			case "middle":
				if down {
					return apikey.StoreChanges{}, errors.New("connection reset")
				}
				return apikey.StoreChanges{Current: true, Next: "floor"}, nil // the rest of the walk
			case "floor": // the next walk, from the floor that the first page found
				r, err := s.Store.Get(background, k.Key.ID)
				return apikey.StoreChanges{Current: true, Next: "floor", Records: []apikey.StoreRecord{r}}, err
			default: // a first page, of a thousand others
				return apikey.StoreChanges{Current: true, More: true, Next: "middle"}, nil
			}
		}
	})
	require.Error(t, e.verifier.Sync(background))
	require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID})) // its transaction began before
	down = false
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked, "Sync returns when all of it is applied")
}

// The feed is longer than one run may take: the runs after it go on, and what the walk has
// seen counts.
func TestLongWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		e := newEnv(t, watch(&s), func(e *env) { e.settings.Now, e.settings.Now, e.vc.Sync = nil, nil, 0 })
		defer e.verifier.Close(background)
		k := e.issue()
		require.NoError(t, e.verify(k.Token))
		s.set(func(s *spy) {
			s.changed = func(ctx context.Context, after apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return apikey.StoreChanges{}, ctx.Err()
				}
				n := 0
				fmt.Sscanf(string(after), "p%d", &n)
				if n == 6 {
					return apikey.StoreChanges{Current: true, Next: "p0"}, nil
				}
				return apikey.StoreChanges{Current: true, More: true, Next: apikey.Cursor(fmt.Sprintf("p%d", n+1))}, nil
			}
		})
		for i := range 20 {
			time.Sleep(30 * time.Second)
			require.NoError(t, e.verify(k.Token), "after %d s", 30*(i+1))
		}
	})
}
