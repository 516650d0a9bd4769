package apitest

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// What a Verifier does while its store is away, hangs, or repeats itself.

// History was rewritten, so every record is to be read again. A reading that had
// begun before shows what was true before, and does not count as that.
func TestADoubtOutlivesAnOlderRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		e := newEnv(t, watch(&s), realTime, func(e *env) { e.vc.Sync = -1 })
		defer e.verifier.Close(background)
		key := e.issue()
		require.NoError(t, e.verifier.Sync(background))
		require.NoError(t, e.verify(key.Token))
		time.Sleep(5*time.Minute + time.Second)
		require.NoError(t, e.verifier.Sync(background))
		read, release := hold(t, s)
		require.NoError(t, e.verify(key.Token), "and read again behind it")
		<-read
		s.set(func(s *spy) { s.lookup = nil })

		other := e.newManager()
		require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		var lost atomic.Bool
		s.set(func(s *spy) {
			s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
				if lost.CompareAndSwap(false, true) {
					return apikey.StoreChanges{}, apikey.ErrCursorLost
				}
				return next()
			}
		})
		require.NoError(t, e.verifier.Sync(background))
		release()
		synctest.Wait()
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	})
}

// PostgreSQL's feed shows a record again while some transaction is open, and
// MariaDB's for two minutes; whoever may connect to the database may have the
// feed asked all the time. No valid key is busy for that.
func TestARepeatedRecordFencesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		e := newEnv(t, watch(&s), realTime, func(e *env) { e.vc.Sync, e.vc.MaxEntries = -1, -1 })
		defer e.verifier.Close(background)
		key := e.issue()
		require.NoError(t, e.verifier.Sync(background))
		shown, err := s.Store.Get(background, key.Key.ID)
		require.NoError(t, err)
		s.set(func(s *spy) {
			s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
				time.Sleep(2 * time.Millisecond)
				return next()
			}
			s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
				time.Sleep(time.Millisecond)
				c, err := next()
				c.Records = append(c.Records, shown)
				return c, err
			}
		})
		ctx, stop := context.WithCancel(background)
		go func() {
			for ctx.Err() == nil {
				_ = e.verifier.Sync(background)
			}
		}()
		err = e.verify(key.Token)
		stop()
		require.NoError(t, err)
	})
}

// One call that hangs, in a store that does not look at its context, holds up
// neither the feed for ever nor a key, nor who closes or gives up.
func TestOneCallThatHangs(t *testing.T) {
	hangs := func(gate <-chan struct{}, first *atomic.Bool) {
		if first.CompareAndSwap(false, true) {
			<-gate
		}
	}
	bubble := func(name string, test func(t *testing.T, e *env, key apikey.Issued, hang func())) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s *spy
				e := newEnv(t, watch(&s), realTime, func(e *env) { e.vc.MaxStale = 3 * time.Minute })
				key := e.issue()
				require.NoError(t, e.verifier.Sync(background))
				require.NoError(t, e.verify(key.Token))
				gate := make(chan struct{})
				defer e.verifier.Close(background)
				defer close(gate)
				var read, asked atomic.Bool
				test(t, e, key, func() {
					s.set(func(s *spy) {
						s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
							hangs(gate, &read)
							return next()
						}
						s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
							hangs(gate, &asked)
							return next()
						}
					})
				})
			})
		})
	}
	bubble("a poll", func(t *testing.T, e *env, key apikey.Issued, hang func()) {
		hang()
		time.Sleep(4 * time.Minute)
		require.NoError(t, e.verify(key.Token))
	})
	bubble("a second reading", func(t *testing.T, e *env, key apikey.Issued, hang func()) {
		time.Sleep(5*time.Minute + time.Second)
		hang()
		require.NoError(t, e.verify(key.Token))
		time.Sleep(6 * time.Minute)
		require.NoError(t, e.verify(key.Token))
	})
	bubble("closing", func(t *testing.T, e *env, _ apikey.Issued, hang func()) {
		hang()
		time.Sleep(2 * time.Second)
		begun := time.Now()
		_ = e.verifier.Close(background)
		require.LessOrEqual(t, time.Since(begun), 5*time.Second)
	})
	bubble("a start", func(t *testing.T, e *env, _ apikey.Issued, hang func()) {
		hang()
		ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
		defer cancel()
		begun := time.Now()
		_, err := apikey.NewVerifier(ctx, e.settings, e.vc)
		require.ErrorIs(t, err, apikey.ErrUnavailable)
		require.LessOrEqual(t, time.Since(begun), time.Second)
	})
}

// Who joins a reading that is nearly out of time does not fail with it.
func TestNobodyFailsByAnothersDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		e := newEnv(t, watch(&s), realTime, func(e *env) { e.vc.Sync = -1 })
		defer e.verifier.Close(background)
		key := e.issue()
		require.NoError(t, e.verifier.Sync(background))
		var slow atomic.Bool
		s.set(func(s *spy) {
			s.lookup = func(ctx context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
				d := 200 * time.Millisecond
				if slow.CompareAndSwap(false, true) {
					d = 4900 * time.Millisecond
				}
				select {
				case <-time.After(d):
					return next()
				case <-ctx.Done():
					return apikey.StoreRecord{}, ctx.Err()
				}
			}
		})
		go func() { _ = e.verify(key.Token) }()
		time.Sleep(time.Second)
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("x")})
		require.NoError(t, err) // so that the row has to be read once more, 100 ms before the end
		time.Sleep(3950 * time.Millisecond)
		require.NoError(t, e.verify(key.Token))
	})
}

// A store that is failing over is not asked by every hit of every merchant whose
// record is due to be read again.
func TestAnOutageIsNotAskedByEveryHit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		var lines lineCount
		e := newEnv(t, watch(&s), realTime, func(e *env) { e.vc.Sync, e.settings.Logger = -1, slog.New(&lines) })
		defer e.verifier.Close(background)
		keys := []apikey.Issued{e.issue(), e.issue(), e.issue()}
		require.NoError(t, e.verifier.Sync(background))
		for _, k := range keys {
			require.NoError(t, e.verify(k.Token))
		}
		time.Sleep(5*time.Minute + time.Second)
		require.NoError(t, e.verifier.Sync(background))
		s.set(func(s *spy) {
			s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
				return apikey.StoreRecord{}, errors.New("connection refused")
			}
		})
		before := s.lookups.Load()
		for range 10_000 { // ten seconds
			for _, k := range keys {
				require.NoError(t, e.verify(k.Token))
			}
			time.Sleep(time.Millisecond)
		}
		asked := s.lookups.Load() - before
		require.GreaterOrEqual(t, asked, int64(3*9), "and goes on asking")
		require.LessOrEqual(t, asked, int64(3*11))
		require.LessOrEqual(t, lines.Load(), int64(11))
	})
}

// lineCount is a slog.Handler that counts.
type lineCount struct{ atomic.Int64 }

func (c *lineCount) Enabled(context.Context, slog.Level) bool  { return true }
func (c *lineCount) Handle(context.Context, slog.Record) error { c.Add(1); return nil }
func (c *lineCount) WithAttrs([]slog.Attr) slog.Handler        { return c }
func (c *lineCount) WithGroup(string) slog.Handler             { return c }
