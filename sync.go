package apikey

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// A Notifier carries "ask now" between nodes, so that they learn of a change
// before the next poll. A message says nothing else, so a forged one can revive
// nothing, and a lost one costs one poll interval.
type Notifier interface {
	// Notify tells other nodes that something changed.
	Notify(ctx context.Context) error
	// Wait returns nil when another node has notified since the last Wait
	// returned, and an error when it cannot know or ctx is done.
	Wait(ctx context.Context) error
}

// feed is a Verifier's place in the store's change feed.
type feed struct {
	runs   flights[struct{}, int64] // one at a time; the number of the run
	begun  atomic.Int64             // runs that have begun
	cursor Cursor                   // touched by the run alone
	good   atomic.Pointer[instant]  // start of the last good run
}

// freshAt reports whether the last good sync began at most maxStale ago.
func (f *feed) freshAt(now instant, maxStale time.Duration) bool {
	good := f.good.Load()
	return good != nil && elapsed(now, *good) <= maxStale
}

// Sync asks the store now what changed, and returns when all of it is applied.
// Programs rarely call it: the Verifier polls by itself. Errors: ErrUnavailable,
// ErrClosed, ctx.Err().
func (v *Verifier) Sync(ctx context.Context) error {
	asked := v.feed.begun.Load()
	for {
		run, err := v.runSync(ctx)
		if err != nil || run > asked { // one that had begun before may have read before
			return err
		}
	}
}

// runSync joins the run that is under way, or begins one.
func (v *Verifier) runSync(ctx context.Context) (int64, error) {
	return v.feed.runs.do(ctx, struct{}{}, func(ctx context.Context) (int64, error) {
		run := v.feed.begun.Add(1)
		start := v.now()
		n, err := v.pull(ctx, start)
		if err == nil {
			v.feed.good.Store(&start)
		}
		age := time.Duration(-1)
		if good := v.feed.good.Load(); good != nil {
			age = elapsed(v.now(), *good)
		}
		v.cfg.Trace.synced(n, age, err)
		return run, err
	})
}

// freshen is Sync for a request that found the Verifier stale: it may have been
// frozen for minutes, and what it has in memory may be dead by now. It waits a
// second at most, then says that we cannot know.
func (v *Verifier) freshen(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := v.Sync(bounded); err != nil {
		return unavailable(err)
	}
	if v.feed.freshAt(v.now(), v.cfg.MaxStale) {
		return nil
	}
	return fmt.Errorf("%w: last good sync is older than MaxStale", ErrUnavailable)
}

// pull fetches and applies pages until there is no more.
func (v *Verifier) pull(ctx context.Context, start instant) (n int, err error) {
	for range 1_000 {
		from := v.feed.cursor
		changes, err := v.cfg.Store.Changed(ctx, from, 1000)
		if errors.Is(err, ErrCursorLost) {
			v.cfg.Logger.Error("apikey: the store's history was rewritten; every key is read again")
			v.feed.cursor = ""
			v.cache.doubt()
			continue
		}
		if err != nil {
			return n, unavailable(err)
		}
		if !changes.Current {
			return n, fmt.Errorf("%w: the store answered from a node that lags behind", ErrUnavailable)
		}
		for i := range changes.Records {
			v.take(&changes.Records[i], start, fed, CredentialID{}, 0)
		}
		for _, damaged := range changes.Damaged {
			v.cfg.Logger.Error("apikey: damaged record in the change feed", "key", damaged.Key, "detail", damaged.Detail)
			v.cache.damaged(damaged, CredentialID{})
		}
		n += len(changes.Records)
		v.feed.cursor = changes.Next
		if from == "" { // a new position: what was read before it may be older
			v.cache.doubt()
		}
		if !changes.More {
			return n, nil
		}
	}
	return n, fmt.Errorf("%w: the change feed does not end", ErrUnavailable)
}

// start begins the background work; Close ends it.
func (v *Verifier) start() {
	if v.cfg.Sync > 0 {
		v.tasks.forever(func() { v.every(v.cfg.Sync, v.poll) })
	}
	if !v.cfg.ReadOnly {
		v.tasks.forever(func() { v.every(flushEvery, v.flushNow) })
	}
	if v.cfg.Notifier != nil {
		v.tasks.forever(v.listen)
	}
}

func (v *Verifier) every(interval time.Duration, work func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-v.tasks.ctx.Done():
			return
		case <-ticker.C:
			work()
		}
	}
}

func (v *Verifier) poll() {
	if err := v.Sync(v.tasks.ctx); err != nil && v.tasks.ctx.Err() == nil {
		v.cfg.Logger.Warn("apikey: sync failed", "error", err)
	}
}

// listen polls when a Notifier says so. While its connection is down the
// polling goes on as if there were none.
func (v *Verifier) listen() {
	for v.tasks.ctx.Err() == nil {
		if err := v.cfg.Notifier.Wait(v.tasks.ctx); err == nil {
			v.poll()
			continue
		}
		select {
		case <-v.tasks.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// instant is a time by both clocks, as numbers: four comparisons of them are on
// the way of every request. The zero instant is no time.
type instant struct {
	wall int64         // microseconds since 1970
	mono time.Duration // since the Verifier was made; by the wall clock where Config.Now has no other
}

func (v *Verifier) now() instant { return v.instantOf(v.cfg.Now()) }

func (v *Verifier) instantOf(t time.Time) instant { return instant{t.UnixMicro(), t.Sub(v.made)} }

// elapsed is by the wall or the monotonic clock, whichever says more: a
// suspended machine's monotonic clock stands still, and a wall clock can be set
// back.
func elapsed(now, then instant) time.Duration {
	return max(now.mono-then.mono, time.Duration(now.wall-then.wall)*time.Microsecond)
}
