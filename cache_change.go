package apikey

import (
	"math/rand/v2"
	"sync"
	"time"
)

// news is a record that was read or written, and how this Verifier learned of it.
type news struct {
	record *StoreRecord
	readAt instant // when the read or the write began
	from   via
	did    Action       // toldHere: what was done, now or before; empty: nothing
	id     CredentialID // toldHere: done to this credential; readNow: read by it
	begun  uint64       // readNow: the last change of anything when the read began
}

// via is how this Verifier learned of a record.
type via uint8

const (
	toldHere via = iota // a Manager of this process wrote it, or had nothing to write
	fed                 // the change feed
	readNow             // a read of the store; nothing has changed since it began
)

// take applies a record to every cached token of its key. The cached proofs stay valid;
// only the record behind them is replaced.
func (v *Verifier) take(n news) {
	damage := sync.OnceValue(func() error { return v.believe(n.record) })
	v.cache.change(n, func(id CredentialID, said claims) *cachedKey {
		return v.live(n.record, id, said, damage())
	})
}

// change raises the fence for a record's credentials, and renews the entries of its key
// with the record. live builds a cachedKey for one credential.
func (c *cache) change(n news, live func(CredentialID, claims) *cachedKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := n.record
	// If the key changed while this record was being read, the record may be stale: treat
	// it like one from the feed. Check the key's generation too: if the record has dropped
	// the credential, the credential's own generation does not show the change.
	if n.from == readNow && max(c.generation(n.id), c.keys[r.ID]) > n.begun {
		n.from = fed
	}
	c.gen++
	c.keys[r.ID] = c.gen
	for _, cred := range r.Credentials {
		c.changed[cred.ID] = c.gen
		if a := c.slot(cred.ID); a.id == cred.ID {
			*a = absence{}
		}
	}
	if c.active == 0 || len(c.changed) > maxChanged || len(c.keys) > maxChanged {
		c.forget()
	}
	all := c.affected(r.ID, n.id)
	for _, e := range all {
		known := e.key
		if known == nil {
			continue // evicted when the entry before was put
		}
		seen := live(known.id, e.claims)
		if len(all) > maxSiblings && dropped(known, seen) {
			c.remove(e)
			continue
		}
		c.renew(e, seen, n)
	}
}

// maxSiblings bounds the tokens of one key that are followed, including those that its
// record has dropped.
const maxSiblings = 32

// damaged marks a key's entries: the store has a row of the key that cannot be read. by
// is the credential whose lookup found that row (zero: none).
func (c *cache) damaged(err *CorruptError, by CredentialID, readAt instant, from via) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.affected(err.Key, by) {
		if old := e.key; old != nil {
			c.renew(e, old.with(trouble{damage: err}), news{readAt: readAt, from: from})
		}
	}
}

// doubt has every record read again before it is answered, and fences every lookup
// under way: history was rewritten.
func (c *cache) doubt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.forget()
	clear(c.negative[:])
	c.epoch.Add(1)
}

// doubtKey is doubt for one key, after a write whose outcome is not known. It fences
// only that key's credentials: a caller who aborts writes of their own must not hold up
// the verifications of others.
func (c *cache) doubtKey(r *StoreRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.keys[r.ID] = c.gen
	for _, cred := range r.Credentials {
		c.changed[cred.ID] = c.gen
	}
	all := c.warm.siblings(r.ID)
	for _, e := range all {
		c.changed[e.key.id] = c.gen
	}
	for _, e := range all {
		if old := e.key; old != nil { // else it was evicted when the one before was put
			c.put(e, old.copied(), instant{})
		}
	}
	if c.active == 0 || len(c.changed) > maxChanged || len(c.keys) > maxChanged {
		c.forget()
	}
}

// affected returns a key's entries. by is the credential by which the key's record was
// found (zero: none). Its entry is included: somebody may have moved that credential to
// the key by hand.
func (c *cache) affected(key KeyID, by CredentialID) []*entry {
	all := c.warm.siblings(key)
	if e := c.warm.entry(by); e != nil && e.key.info.ID != key {
		all = append(all, e)
	}
	return all
}

// renew puts what mergeSameToken decides beside an existing proof. If the cached record
// is in doubt, it stays in doubt until a read during which nothing changes.
func (c *cache) renew(e *entry, seen *cachedKey, n news) {
	m, was := mergeSameToken(e.key, seen, n), c.readAt(e.key)
	inDoubt := was == (instant{}) && n.from != readNow
	if m.doubt || inDoubt {
		c.put(e, m.key, instant{})
		return
	}
	c.put(e, m.key, later(was, n.readAt, c.maxAge))
}

// put replaces an entry's record. If readAt is zero, the record is read again before
// the next answer, so that a repaired row works at once.
func (c *cache) put(e *entry, k *cachedKey, readAt instant) {
	old := e.key
	k.proof, k.readAt, k.epoch = old.proof, readAt, c.epoch.Load()
	k.usedUntil.Store(old.usedUntil.Load())
	k.flags.Store(old.flags.Load() & flagTouched)
	c.warm.replace(e, k)
	c.warm.sort(e, c.idle(k, c.now().wall))
	c.bytes -= int64(e.size)
	e.size = sizeOf(k)
	c.bytes += int64(e.size)
	c.evict(e)
}

// later returns the later of two read times. So a read that began earlier never moves
// the time back.
func later(was, readAt instant, maxAge time.Duration) instant {
	if readAt == (instant{}) {
		return was
	}
	if readAt = jitter(readAt, maxAge); was == (instant{}) || readAt.mono > was.mono {
		return readAt
	}
	return was
}

// jitter makes a record look up to a tenth of MaxAge older, so that keys that became
// warm together are not all read again together.
func jitter(readAt instant, maxAge time.Duration) instant {
	d := rand.N(maxAge/10 + 1)
	return instant{readAt.wall - d.Microseconds(), readAt.mono - d}
}
