package apikey

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// feed is a Verifier's place in the store's change feed.
type feed struct {
	runs  flights[struct{}, int64] // one at a time; the number of the run
	begun atomic.Int64             // runs that have begun
	good  atomic.Pointer[instant]  // start of the last good run

	// mu: a run that was left behind may return while the next one runs. Its context has
	// ended by then, so it applies nothing.
	mu     sync.Mutex
	state  feedState
	cursor Cursor          // empty: unplaced or lost
	walked instant         // when the walk of the cursor began
	shown  map[KeyID]shown // versions that the last run was shown
}

// feedState is how far a Verifier has read the change feed. A walk reads page after
// page until the store has no more. A page leads to following if it is the last one,
// and to behind if there are more. A cursor that the store does not know leads to lost.
// Any other error leaves the state as it is.
type feedState uint8

const (
	unplaced  feedState = iota // no position yet: the first page brings one
	following                  // the last walk has ended: the next run begins a walk
	behind                     // in a walk: the next run ends it, and walks once more
	lost                       // history was rewritten: as behind, from a new position
)

// shown is a version of a record. The feed may show one version again and again, for
// instance while some transaction is open. If each repeat were applied, it would fence
// the lookups under way each time, and valid keys would get ErrBusy.
type shown struct {
	version uint64
	head    [32]byte
}

// maxShown bounds the versions that a run remembers. Those beyond it are applied again.
const maxShown = 10_000

// freshAt reports whether the last good sync began at most maxStale ago.
func (f *feed) freshAt(now instant, maxStale time.Duration) bool {
	good := f.good.Load()
	return good != nil && elapsed(now, *good) <= maxStale
}

// Sync asks the store now what changed, and returns when every change is applied.
// Programs rarely call Sync: the Verifier polls by itself. Errors: ErrUnavailable,
// ErrClosed, ctx.Err().
func (v *Verifier) Sync(ctx context.Context) error {
	asked := v.feed.begun.Load()
	for {
		run, err := v.runSync(ctx)
		// A run that had begun before the call may have read before it, or have failed while
		// the process was stopped. Run 0: the wait has ended without an answer.
		if run == 0 || run > asked {
			return err
		}
	}
}

// runSync joins the run that is under way, or begins one, and returns its number.
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
		v.settings.Trace.synced(n, age, err)
		return run, err
	})
}

// freshen is Sync for a request that found the Verifier stale: the process may have
// been frozen for minutes, and what it has in memory may be revoked by now. freshen
// waits a second at most, then returns ErrUnavailable: this node cannot know.
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

// pull is one run: it reads and applies pages until the feed has no more.
func (v *Verifier) pull(ctx context.Context, start instant) (n int, err error) {
	w := v.feed.walkOn(start)
	for range 1_000 {
		changes, err := v.settings.Store.Changed(ctx, w.cursor, 1000)
		if ctx.Err() != nil { // nobody waits for this run, and another may be under way
			return n, unavailable(ctx.Err())
		}
		more, err := v.step(&w, changes, err, start)
		n += len(changes.Records)
		if err != nil || !more {
			return n, err
		}
	}
	return n, fmt.Errorf("%w: the change feed does not end", ErrUnavailable)
}

// walk is the position of one run in the feed.
type walk struct {
	cursor      Cursor
	before, now map[KeyID]shown // shown to the run before, and to this one
	resumed     bool            // a run that failed began this walk
}

// walkOn goes on with the walk of a run that failed, or begins one.
func (f *feed) walkOn(start instant) walk {
	f.mu.Lock()
	defer f.mu.Unlock()
	resumed := f.state == behind || f.state == lost
	if !resumed {
		f.walked = start
	}
	w := walk{cursor: f.cursor, before: f.shown, now: map[KeyID]shown{}, resumed: resumed}
	f.shown = nil // unless the run ends well
	return w
}

// step applies one answer of the store, moves the feed to its next state, and reports
// whether this run has to ask for more.
func (v *Verifier) step(w *walk, changes StoreChanges, err error, start instant) (more bool, _ error) {
	f := &v.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	next, err := v.page(w, changes, err, start)
	f.cursor = w.cursor
	if err != nil {
		return false, err
	}
	if f.state = next; next == following {
		return f.walkEnded(w, v.now()), nil
	}
	return true, nil
}

// walkEnded counts a walk that was read to its end as a sync of the time when the walk
// began. It reports whether the run has to walk once more. A change that commits behind
// the cursor shows only in the next walk (PostgreSQL, MariaDB). So a run that ended the
// walk of a failed run walks once more before the run itself counts as a sync.
func (f *feed) walkEnded(w *walk, now instant) (again bool) {
	began := f.walked
	f.good.Store(&began)
	f.walked = now
	f.shown, w.before = w.now, w.now
	again, w.resumed = w.resumed, false
	return again
}

// page applies one answer of the store, and returns the state that the answer leads to.
func (v *Verifier) page(w *walk, changes StoreChanges, err error, start instant) (next feedState, _ error) {
	placed := w.cursor != ""
	switch {
	case errors.Is(err, ErrCursorLost) && !placed: // no cursor was given
		return 0, joined(ErrUnavailable, err)
	case errors.Is(err, ErrCursorLost):
		v.settings.Logger.Error("apikey: the store's history was rewritten; every key is read again")
		w.cursor, w.before = "", nil
		v.cache.doubt()
		return lost, nil
	case err != nil:
		return 0, unavailable(err)
	case !changes.Current:
		return 0, fmt.Errorf("%w: the store answered from a node that lags behind", ErrUnavailable)
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
		v.settings.Logger.Error("apikey: damaged record in the change feed", "key", damaged.Key, "detail", damaged.Detail)
		v.cache.damaged(damaged, CredentialID{}, instant{}, fed)
	}
	if !placed { // a new position: records that were read before may be stale
		v.cache.doubt()
	}
	w.cursor = changes.Next
	if changes.More {
		return behind, nil
	}
	return following, nil
}

// start begins the background work; Close ends it.
func (v *Verifier) start() {
	if v.cfg.Sync > 0 {
		v.tasks.forever(func() { v.every(v.cfg.Sync, v.poll) })
	}
	if !v.cfg.ReadOnly {
		v.tasks.forever(func() { v.every(flushEvery, v.flushNow) })
	}
	if v.settings.Notifier != nil {
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
		v.settings.Logger.Warn("apikey: sync failed", "error", err)
	}
}

// listen polls when a Notifier says so, but pauses after each poll: anyone who may
// connect to the database may notify. While the connection of the Notifier is down,
// polling goes on as if there were no Notifier.
func (v *Verifier) listen() {
	for v.tasks.ctx.Err() == nil {
		rest := time.Second
		if err := v.settings.Notifier.Wait(v.tasks.ctx); err == nil {
			v.poll()
			rest = listenRest
		}
		pause(v.tasks.ctx, rest)
	}
}

// listenRest is the pause after a poll that a Notifier asked for.
const listenRest = 20 * time.Millisecond
