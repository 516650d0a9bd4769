package apikey

import (
	"math/rand/v2"
	"sync"
	"time"
)

// news is a record that was read or written, and how it came to be known.
type news struct {
	record *StoreRecord
	readAt instant // the start of the reading or writing
	from   via
	did    Action       // toldHere: what was done, or was so already; empty: nothing
	id     CredentialID // toldHere: to which credential; readNow: the one it was read by
	begun  uint64       // readNow: the last change of anything when the read began
}

// via is how a record came to be known.
type via uint8

const (
	toldHere via = iota // a Manager of this process has written it, or found nothing left to write
	fed                 // the change feed
	readNow             // read just now, and nothing has changed meanwhile
)

// take has what is warm follow a record: the record is replaced, the proof stays.
func (v *Verifier) take(n news) {
	damage := sync.OnceValue(func() error { return v.believe(n.record) })
	v.cache.change(n, func(id CredentialID, said claims) *liveKey {
		return v.live(n.record, id, said, damage())
	})
}

// change raises the fence for a record's credentials and puts the record beside
// the proofs that are here. live builds a liveKey of one credential.
func (c *cache) change(n news, live func(CredentialID, claims) *liveKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := n.record
	// A reading during which the key changed is hearsay. The credential's own
	// generation does not show that once the record has dropped the credential, so
	// the key's is asked too.
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
			continue // evicted for the one before
		}
		id := known.id
		k := live(id, e.claims)
		switch damaged := k.trouble().damage != nil; {
		case !damaged && k.unlisted && (known.info.ID != r.ID || k.same(known) && !known.unlisted):
			k.set(trouble{damage: notListed(r)})
		case damaged || !k.unlisted || k.info.Version < known.info.Version || known.state == Revoked:
			// like any other
		case len(all) > maxSiblings:
			c.remove(e)
			continue
		default: // dropped from a record that is believed: long ended, which is not forgotten
			k.set(trouble{damage: ErrInvalidToken})
			c.put(e, k, instant{})
			continue
		}
		if k.trouble().damage != nil && n.from == toldHere {
			k.onlyWhatWasDone(n.did, id == n.id)
		}
		c.renew(e, k, n)
	}
}

// maxSiblings bounds the tokens of one key that are followed, those included that
// its record has dropped.
const maxSiblings = 32

// damaged marks a key's entries: the store has a row that cannot be read, which
// was found by that credential (zero: by none).
func (c *cache) damaged(err *CorruptError, by CredentialID, readAt instant, from via) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.affected(err.Key, by) {
		if old := e.key; old != nil {
			k := &liveKey{view: old.view}
			k.set(trouble{damage: err})
			c.renew(e, k, news{readAt: readAt, from: from})
		}
	}
}

// doubt makes every record be read again before it is answered, and fences
// whatever is under way: history was rewritten.
func (c *cache) doubt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.forget()
	clear(c.negative[:])
	c.epoch.Add(1)
}

// doubtKey is doubt for one key: a write whose outcome is not known. It fences
// that key's credentials alone: whoever hangs up on writes of their own must not
// hold up the verifications of others.
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
		if old := e.key; old != nil { // else it was evicted for the one before
			c.put(e, &liveKey{view: old.view}, instant{})
		}
	}
	if c.active == 0 || len(c.changed) > maxChanged || len(c.keys) > maxChanged {
		c.forget()
	}
}

// affected are a key's entries, and that of the credential by which its record was
// found (zero: none), which somebody may have moved there by hand.
func (c *cache) affected(key KeyID, by CredentialID) []*entry {
	all := c.warm.siblings(key)
	if e := c.warm.entry(by); e != nil && e.key.info.ID != key {
		all = append(all, e)
	}
	return all
}

// renew puts a record beside an existing proof.
//
// If a record disagrees with a newer one that was here before, either the record comes
// late, or history was rewritten: a backup restored, a failover, a row put back
// by hand. Nothing here can tell which, so both count: what either forbids is
// forbidden (trouble.also), until a read of the store decides. After a revocation was
// seen, only a record that is revoked takes its place.
func (c *cache) renew(e *entry, k *liveKey, n news) {
	old, readAt, from := e.key, n.readAt, n.from
	known := &liveKey{view: old.view} // which is not changed, but replaced
	known.set(trouble{})
	damage := k.trouble().damage
	was := c.readAt(old)
	if was == (instant{}) && from != readNow {
		readAt = instant{} // in doubt: only a read that nothing has overtaken ends that
	}
	death := known.info.State == Revoked
	if damage == nil && !k.unlisted { // an end is for ever, whichever version says so
		known.ended = known.ended || k.ended
		k.ended = known.ended
	}
	same := k.same(known)
	switch {
	case damage != nil && death: // damage never hides a death that was seen
		c.put(e, known, later(was, readAt, c.maxAge))
	case damage != nil:
		known.set(trouble{damage: damage}) // what was believed last stays, to compare with
		if from == toldHere && !k.unlisted {
			known.ended = known.ended || k.ended
		}
		if from == toldHere && k.info.State > known.info.State {
			known.own()
			known.state, known.info.State, known.info.RevokedAt = k.state, k.info.State, k.info.RevokedAt // our own revocation of a damaged key
		}
		c.put(e, known, instant{})
	case death && k.info.State != Revoked:
		c.put(e, known, later(was, readAt, c.maxAge))
	case !death && k.info.State == Revoked: // so is a death
		c.put(e, k, later(was, readAt, c.maxAge))
	case same && known.info.State > k.info.State && n.did != ActionResume: // a state that was raised above stays until Resume or a newer version
		c.put(e, known, later(was, readAt, c.maxAge))
	case same || k.info.Version > known.info.Version:
		c.put(e, k, later(was, readAt, c.maxAge))
	case from == readNow:
		known.set(trouble{also: k})
		c.put(e, known, later(was, readAt, c.maxAge))
	default:
		known.set(trouble{also: k})
		c.put(e, known, instant{})
	}
}

// put replaces an entry's record. A zero readAt has it read again before the
// next answer, so that a repaired row works at once.
func (c *cache) put(e *entry, k *liveKey, readAt instant) {
	old := e.key
	k.proof, k.readAt, k.epoch = old.proof, readAt, c.epoch.Load()
	k.usedUntil.Store(old.usedUntil.Load())
	k.marks.Store(old.marks.Load() & markTouched)
	c.warm.replace(e, k)
	c.warm.sort(e, c.idle(k, c.now().wall))
	c.bytes -= int64(e.size)
	e.size = sizeOf(k)
	c.bytes += int64(e.size)
	c.evict(e)
}

// later is the later of two readings. A record in doubt stays in doubt until it
// is read (see renew), and no reading takes an earlier one back.
func later(was, readAt instant, maxAge time.Duration) instant {
	if readAt == (instant{}) {
		return was
	}
	if readAt = jitter(readAt, maxAge); was == (instant{}) || readAt.mono > was.mono {
		return readAt
	}
	return was
}

// jitter makes a record look up to a tenth of MaxAge older, so that keys that
// became warm together are not read again together.
func jitter(readAt instant, maxAge time.Duration) instant {
	d := rand.N(maxAge/10 + 1)
	return instant{readAt.wall - d.Microseconds(), readAt.mono - d}
}
