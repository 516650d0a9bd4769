package apikey

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// usage collects when credentials were last used, so that a verification
// writes to memory and the store hears of it in batches. A killed process loses
// flushEvery of it at most, and nothing else.
type usage struct {
	mu     sync.Mutex
	last   map[CredentialID]time.Time
	marked []*liveKey // that were used; each says when
	most   int        // of marked: a key that is not in the cache is another at every verification
}

const (
	flushEvery = 3 * time.Second
	flushBatch = 500
	// flushFailures is how many batches fail before it is the store that is away.
	flushFailures = 3
	// usageGrain is what a last use may be off by, beside the time until it is
	// written. A key in heavy use is marked ten times a second, not a million
	// times: all processors share the line of memory that a mark writes.
	usageGrain = 100 * time.Millisecond
	// foldMarked is how many marked keys are let go of at once when there are too
	// many. Verifications wait for it, so it is no more than a fraction of a
	// millisecond's work.
	foldMarked = 1 << 10
)

// mark notes the use of a key, at so many microseconds since 1970.
func (u *usage) mark(k *liveKey, at int64) {
	if at < k.usedAt.Load()+usageGrain.Microseconds() {
		return
	}
	k.usedAt.Store(at)
	// Who drains clears the flag before it reads the time, so this mark is either
	// read now or listed again.
	if !k.marked.Swap(true) {
		u.mu.Lock()
		if u.marked = append(u.marked, k); len(u.marked) >= u.most {
			rest := len(u.marked) - foldMarked
			u.last = fold(u.last, u.marked[rest:])
			clear(u.marked[rest:])
			u.marked = u.marked[:rest]
		}
		u.mu.Unlock()
	}
}

// drain takes what was collected. Verifications do not wait while it is counted.
func (u *usage) drain() map[CredentialID]time.Time {
	u.mu.Lock()
	last, marked := u.last, u.marked
	u.last, u.marked = nil, nil
	u.mu.Unlock()
	return fold(last, marked)
}

// fold adds the IDs and times of marked keys, which are not needed after that.
func fold(last map[CredentialID]time.Time, marked []*liveKey) map[CredentialID]time.Time {
	if last == nil {
		last = make(map[CredentialID]time.Time, len(marked))
	}
	for _, k := range marked {
		k.marked.Store(false)
		keepLatest(last, k.info.Credential, time.UnixMicro(k.usedAt.Load()))
	}
	return last
}

// restore keeps what could not be written for the next time.
func (u *usage) restore(last map[CredentialID]time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, at := range u.last {
		keepLatest(last, id, at)
	}
	u.last = last
}

func keepLatest(m map[CredentialID]time.Time, id CredentialID, at time.Time) {
	if at.After(m[id]) {
		m[id] = at
	}
}

// flush writes what was collected. What cannot be written, because somebody's
// transaction has had one of its keys for long, keeps nothing else back.
func (v *Verifier) flush(ctx context.Context) error {
	if v.cfg.ReadOnly {
		return nil
	}
	last := v.usage.drain()
	ids := slices.SortedFunc(maps.Keys(last), func(a, b CredentialID) int { // one order for all nodes: no deadlocks
		return slices.Compare(a[:], b[:])
	})
	var failed error
	failures := 0
	for batch := range slices.Chunk(ids, flushBatch) {
		ups := make([]Upkeep, len(batch))
		for i, id := range batch {
			ups[i] = Upkeep{Credential: id, LastUsed: micros(last[id])}
		}
		if err := v.cfg.Store.Upkeep(ctx, ups); err != nil {
			failed = unavailable(err)
			if failures++; failures == flushFailures || ctx.Err() != nil {
				break
			}
			continue
		}
		for _, id := range batch {
			delete(last, id)
		}
	}
	if failed != nil {
		v.usage.restore(last)
	}
	return failed
}

func (v *Verifier) flushNow() {
	_, err := v.flushes.do(v.tasks.ctx, struct{}{}, func(ctx context.Context) (struct{}, error) { return struct{}{}, v.flush(ctx) })
	if err != nil && v.tasks.ctx.Err() == nil {
		v.cfg.Logger.Warn("apikey: last used could not be written", "error", err)
	}
}
