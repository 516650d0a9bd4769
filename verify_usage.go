package apikey

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"time"
)

// usage collects when credentials were last used. So a verification writes only to
// memory, and the store is written in batches. If a process is killed, it loses the
// uses of flushEvery at most, and nothing else.
//
// A credential's time is divided into windows of VerifierConfig.LastUsedEvery, the same
// ones on every node. For the first use in each window, a node asks the store to write
// it. The store writes it if it has no use in that window yet. So if a key is in use
// all the time, all nodes together write it once a window, and the stored time is off
// by less than a window.
type usage struct {
	every int64 // the length of a window, in microseconds

	mu   sync.Mutex
	last map[CredentialID]int64 // uses to write, in microseconds since 1970
}

const (
	flushEvery = 3 * time.Second
	flushBatch = 500
	// flushFailures is how many batches may fail before flush stops: the store is away.
	flushFailures = 3
)

func newUsage(every time.Duration) usage {
	return usage{every: max(1, every.Microseconds()), last: map[CredentialID]int64{}}
}

// window returns the start of the window that a use is in. The windows of different
// credentials begin at different times, so that a node does not ask for all its keys in
// the same second.
func (u *usage) window(id CredentialID, at int64) int64 {
	offset := int64(binary.BigEndian.Uint64(id[:]) >> 1)
	into := (at - offset%u.every) % u.every
	if into < 0 {
		into += u.every
	}
	return at - into
}

// mark notes the use of a key, at a time in microseconds since 1970. All processors
// share the cache line that mark writes, so mark writes it once a window, not a million
// times a second.
func (u *usage) mark(k *cachedKey, at int64) {
	// Is the use in the window that was noted last? The unsigned comparison checks both
	// sides: a use before the window is outside too. Then a clock was ahead, and was set
	// back.
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

// drain returns the collected uses, and begins to collect anew.
func (u *usage) drain() map[CredentialID]int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	last := u.last
	u.last = map[CredentialID]int64{}
	return last
}

// restore keeps uses that could not be written, for the next flush.
func (u *usage) restore(last map[CredentialID]int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, at := range last {
		u.last[id] = max(at, u.last[id])
	}
}

// flush writes the collected uses. If a batch cannot be written, because somebody's
// transaction has locked one of its keys for long, the other batches are written all
// the same.
func (v *Verifier) flush(ctx context.Context) error {
	if v.cfg.ReadOnly {
		return nil
	}
	last := v.usage.drain()
	// All nodes write in one order, so that they do not deadlock.
	ids := slices.SortedFunc(maps.Keys(last), func(a, b CredentialID) int {
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
		if err := v.settings.Store.Upkeep(ctx, ups); err != nil {
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
		v.settings.Logger.Warn("apikey: last used could not be written", "error", err)
	}
}
