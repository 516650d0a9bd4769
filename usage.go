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
	most   int        // of marked: one that is not in the cache is another at every verification
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
	// maxMarked bounds the keys that are held on to for their use alone, where the
	// cache is no larger: to collect them more often than flushes do costs every
	// verification a place in a map.
	maxMarked = 1 << 14
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
			u.collect()
		}
		u.mu.Unlock()
	}
}

// collect keeps the IDs and times of the marked keys, and lets go of the keys.
func (u *usage) collect() {
	if u.last == nil {
		u.last = make(map[CredentialID]time.Time, len(u.marked))
	}
	for _, k := range u.marked {
		k.marked.Store(false)
		keepLatest(u.last, k.info.Credential, time.UnixMicro(k.usedAt.Load()))
	}
	clear(u.marked)
	u.marked = u.marked[:0]
}

// drain takes what was collected.
func (u *usage) drain() map[CredentialID]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.collect()
	last := u.last
	u.last, u.marked = nil, nil
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
