package apikey

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"time"
)

// usage collects when credentials were last used, so that a verification
// writes to memory and the store hears of it in batches. A killed process loses
// flushEvery of it at most, and nothing else.
//
// A credential's time is divided into windows of VerifierConfig.LastUsedEvery,
// the same ones on every node. A node asks for the first use of each window to
// be written, and the store writes it if it has none of that window yet. So a
// key that is in use all the time is written once a window by all nodes
// together, and what is stored is off by less than a window.
type usage struct {
	every int64 // a window, in microseconds

	mu   sync.Mutex
	last map[CredentialID]int64 // what is to be written, in microseconds since 1970
}

const (
	flushEvery = 3 * time.Second
	flushBatch = 500
	// flushFailures is how many batches fail before it is the store that is away.
	flushFailures = 3
)

func newUsage(every time.Duration) usage {
	return usage{every: max(1, every.Microseconds()), last: map[CredentialID]int64{}}
}

// window is the beginning of the window that a use is in. The windows of
// different credentials begin at different times, so that a node does not ask for
// all its keys in the same second.
func (u *usage) window(id CredentialID, at int64) int64 {
	offset := int64(binary.BigEndian.Uint64(id[:]) >> 1)
	into := (at - offset%u.every) % u.every
	if into < 0 {
		into += u.every
	}
	return at - into
}

// mark notes the use of a key, at so many microseconds since 1970. All
// processors share the line of memory that it writes, so it does that once a
// window, not a million times a second.
func (u *usage) mark(k *cachedKey, at int64) {
	// Of the window that was noted? Unsigned, so that one beyond it, which a clock
	// has left that was ahead, is another one too.
	end := k.usedUntil.Load()
	if uint64(end-1-at) < uint64(u.every) {
		return
	}
	id := k.id
	if k.usedUntil.CompareAndSwap(end, u.window(id, at)+u.every) {
		u.mu.Lock()
		u.last[id] = max(at, u.last[id])
		u.mu.Unlock()
	}
}

// drain takes what was collected.
func (u *usage) drain() map[CredentialID]int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	last := u.last
	u.last = map[CredentialID]int64{}
	return last
}

// restore keeps what could not be written for the next time.
func (u *usage) restore(last map[CredentialID]int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, at := range last {
		u.last[id] = max(at, u.last[id])
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
		ups := make([]StoreUpkeep, len(batch))
		for i, id := range batch {
			at := last[id]
			ups[i] = StoreUpkeep{Credential: id, LastUsed: time.UnixMicro(at).UTC(), UsedBefore: time.UnixMicro(v.usage.window(id, at)).UTC()}
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
