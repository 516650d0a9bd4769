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
	marked []*entry // warm tokens that were used; each says when
}

const (
	flushEvery = 3 * time.Second
	flushBatch = 500
	// usageGrain is what a last use may be off by, beside the time until it is
	// written. A key in heavy use is marked ten times a second, not a million
	// times: all processors share the line of memory that a mark writes.
	usageGrain = 100 * time.Millisecond
)

// mark notes the use of a warm token.
func (u *usage) mark(e *entry, now time.Time) {
	at := now.UnixMicro()
	if at < e.usedAt.Load()+usageGrain.Microseconds() {
		return
	}
	e.usedAt.Store(at)
	// Who drains clears the flag before it reads the time, so this mark is either
	// read now or listed again.
	if !e.marked.Swap(true) {
		u.mu.Lock()
		u.marked = append(u.marked, e)
		u.mu.Unlock()
	}
}

// note is mark for a credential that is not warm.
func (u *usage) note(id CredentialID, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.noted(id, now)
}

func (u *usage) noted(id CredentialID, now time.Time) {
	if u.last == nil {
		u.last = map[CredentialID]time.Time{}
	}
	if now.After(u.last[id]) {
		u.last[id] = now
	}
}

func (u *usage) drain() map[CredentialID]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range u.marked {
		e.marked.Store(false)
		u.noted(e.id, time.UnixMicro(e.usedAt.Load()))
	}
	last := u.last
	u.last, u.marked = nil, nil
	return last
}

// flush writes what was collected. What could not be written is kept for the
// next time.
func (v *Verifier) flush(ctx context.Context) error {
	if v.cfg.ReadOnly {
		return nil
	}
	last := v.usage.drain()
	ids := slices.SortedFunc(maps.Keys(last), func(a, b CredentialID) int { // one order for all nodes: no deadlocks
		return slices.Compare(a[:], b[:])
	})
	for batch := range slices.Chunk(ids, flushBatch) {
		ups := make([]Upkeep, len(batch))
		for i, id := range batch {
			ups[i] = Upkeep{Credential: id, LastUsed: micros(last[id])}
		}
		if err := v.cfg.Store.Upkeep(ctx, ups); err != nil {
			for id, t := range last {
				v.usage.note(id, t)
			}
			return unavailable(err)
		}
		for _, id := range batch {
			delete(last, id)
		}
	}
	return nil
}

func (v *Verifier) flushNow() {
	ctx, cancel := context.WithTimeout(v.tasks.ctx, flightTime)
	defer cancel()
	if err := v.flush(ctx); err != nil && v.tasks.ctx.Err() == nil {
		v.cfg.Logger.Warn("apikey: last used could not be written", "error", err)
	}
}
