package apikey

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	runs  flights[struct{}, int64] // one at a time; the number of the run
	begun atomic.Int64             // runs that have begun
	good  atomic.Pointer[instant]  // start of the last good run

	// mu: a run that was left behind may return beside the next one. It finds its
	// context ended, and applies nothing.
	mu     sync.Mutex
	cursor Cursor
	midway bool            // the last run did not end its walk
	walked instant         // when the walk began that the cursor is in
	shown  map[KeyID]shown // what the last run was shown
}

// shown is a version of a record. A feed may show one again and again, while
// some transaction is open for instance; to take each anew would fence what is
// under way each time, and valid keys would be busy.
type shown struct {
	version uint64
	head    [32]byte
}

// maxShown bounds what a run remembers: more than that is taken again.
const maxShown = 10_000

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
		// One that had begun before the call may have read before, or have failed
		// while the process was stopped. None (0) began where nobody could wait.
		if run == 0 || run > asked {
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
// frozen for minutes, and what it has in memory may be revoked by now. It waits a
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
	f := &v.feed
	f.mu.Lock()
	// What commits behind the cursor shows only in the next walk (PostgreSQL,
	// MariaDB). So a run that ends the walk of one that failed walks once more before
	// it counts as a sync, and the walk for what it is: as old as its beginning.
	again := f.midway
	if !f.midway {
		f.walked = start
	}
	w := walk{cursor: f.cursor, before: f.shown, now: map[KeyID]shown{}}
	f.shown = nil // unless the run ends well
	f.mu.Unlock()
	for range 1_000 {
		changes, err := v.cfg.Store.Changed(ctx, w.cursor, 1000)
		if ctx.Err() != nil { // nobody waits for it, and another may be under way
			return n, unavailable(ctx.Err())
		}
		f.mu.Lock()
		more, err := v.page(&w, changes, err, start)
		f.cursor = w.cursor
		if err == nil {
			f.midway = more
		}
		if err == nil && !more {
			began := f.walked
			f.good.Store(&began)
			f.walked = v.now()
			f.shown, w.before = w.now, w.now
			again, more = false, again
		}
		f.mu.Unlock()
		n += len(changes.Records)
		if err != nil || !more {
			return n, err
		}
	}
	return n, fmt.Errorf("%w: the change feed does not end", ErrUnavailable)
}

// walk is one run's way through the feed.
type walk struct {
	cursor      Cursor
	before, now map[KeyID]shown // by the run before, and by this one
}

// page applies what the store has answered.
func (v *Verifier) page(w *walk, changes StoreChanges, err error, start instant) (more bool, _ error) {
	switch {
	case errors.Is(err, ErrCursorLost) && w.cursor == "": // which is no position
		return false, joined(ErrUnavailable, err)
	case errors.Is(err, ErrCursorLost):
		v.cfg.Logger.Error("apikey: the store's history was rewritten; every key is read again")
		w.cursor, w.before = "", nil
		v.cache.doubt()
		return true, nil
	case err != nil:
		return false, unavailable(err)
	case !changes.Current:
		return false, fmt.Errorf("%w: the store answered from a node that lags behind", ErrUnavailable)
	}
	for i := range changes.Records {
		r := &changes.Records[i]
		is := shown{r.Version, r.Head}
		if was, again := w.before[r.ID]; !again || was != is {
			v.take(news{record: r, readAt: start, from: fed})
		}
		if len(w.now) < maxShown {
			w.now[r.ID] = is
		}
	}
	for _, damaged := range changes.Damaged {
		if damaged == nil {
			continue
		}
		v.cfg.Logger.Error("apikey: damaged record in the change feed", "key", damaged.Key, "detail", damaged.Detail)
		v.cache.damaged(damaged, CredentialID{}, instant{}, fed)
	}
	if w.cursor == "" { // a new position: what was read before it may be older
		v.cache.doubt()
	}
	w.cursor = changes.Next
	return changes.More, nil
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

// listen polls when a Notifier says so, at most so often: whoever may connect to
// the database may notify. While its connection is down the polling goes on as
// if there were none.
func (v *Verifier) listen() {
	for v.tasks.ctx.Err() == nil {
		rest := time.Second
		if err := v.cfg.Notifier.Wait(v.tasks.ctx); err == nil {
			v.poll()
			rest = listenRest
		}
		pause(v.tasks.ctx, rest)
	}
}

// listenRest is between two polls that were asked for.
const listenRest = 20 * time.Millisecond
