package apikey

import (
	"crypto/sha256"
	"crypto/subtle"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// cache is the warm cache: for tokens that were proven, the proof and the
// newest record. Three rules hold here and nowhere else:
//
//   - Only a proven token makes an entry, so junk can neither fill it nor drive
//     anything out of it.
//   - The fence: whatever began before the last change of a credential neither
//     fills the cache nor is answered (enter, settle).
//   - A change replaces the record and keeps the proof. A record older than the
//     one that is here revives nothing: of the two, what either forbids is
//     forbidden (renew).
//
// A hit takes no lock: it reads the table, and then one pointer, which a change
// replaces before it returns.
type cache struct {
	process [16]byte // keys the digests: a proof is worthless outside this process
	warm    warm
	epoch   atomic.Uint64 // moves when every record is in doubt

	mu       sync.Mutex       // for everything else, and for writing
	byKey    map[KeyID]*entry // and its siblings
	bytes    int64
	maxCount int
	maxBytes int64
	maxAge   time.Duration

	// The fence. A change gets the next generation; who looks a credential up
	// notes its generation at the start and compares at the end.
	gen     uint64
	changed map[CredentialID]uint64 // since anyone began who is still at it
	all     uint64                  // a change of everything
	active  int                     // those at it

	// negative is a fixed-size memory of IDs that the store does not have. Its
	// own memory, so that junk displaces only junk.
	negative [4096]absence
}

type absence struct {
	id    CredentialID
	until time.Duration // as instant.mono
}

const (
	negativeTime = 2 * time.Second
	maxChanged   = 1 << 16
)

func newCache(maxCount int, maxBytes int64, maxAge time.Duration) *cache {
	c := &cache{
		process: newProcessKey(), byKey: map[KeyID]*entry{}, changed: map[CredentialID]uint64{},
		maxCount: maxCount, maxBytes: maxBytes, maxAge: maxAge,
	}
	c.warm.init(newProcessKey())
	return c
}

// digest is what the cache keeps of a token: useless to whoever reads a core
// dump of another process, and never looked up by the bare ID alone.
func (c *cache) digest(token string) [32]byte {
	var buf [len(c.process) + maxToken]byte
	n := copy(buf[:], c.process[:])
	n += copy(buf[n:], token)
	return sha256.Sum256(buf[:n])
}

type found uint8

const (
	miss found = iota
	mismatch
	hit
)

// get looks a token up. A bare ID never hits: the digest of the whole token has
// to be equal, compared in constant time. Of an ID that is not here nothing is
// hashed.
func (c *cache) get(p *parsed) (*liveKey, found) {
	at, k := c.warm.find(&p.id)
	if k == nil {
		return nil, miss
	}
	digest := c.digest(p.text)
	if subtle.ConstantTimeCompare(at.digest[:], digest[:]) != 1 {
		return nil, mismatch
	}
	if !k.touched.Load() { // most are: reading shares the memory, writing does not
		k.touched.Store(true)
	}
	return k, hit
}

// readAt is when the reading of a record began, zero if it is in doubt.
func (c *cache) readAt(k *liveKey) instant {
	if k.epoch != c.epoch.Load() {
		return instant{}
	}
	return k.readAt
}

// absent reports whether the store said, at most two seconds ago, that it has
// no such credential.
func (c *cache) absent(id CredentialID, now instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.slot(id)
	return n.id == id && now.mono < n.until
}

func (c *cache) slot(id CredentialID) *absence {
	return &c.negative[(uint(id[0]^c.process[0])|uint(id[1]^c.process[1])<<8)%uint(len(c.negative))]
}

// enter notes that somebody begins to look a credential up, and returns the
// generation of its last change.
func (c *cache) enter(id CredentialID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active++
	return c.generation(id)
}

// since is the generation of a credential's last change.
func (c *cache) since(id CredentialID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation(id)
}

func (c *cache) generation(id CredentialID) uint64 { return max(c.changed[id], c.all) }

// leave ends what enter began, without a result.
func (c *cache) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left()
}

func (c *cache) left() {
	if c.active--; c.active == 0 {
		c.forget()
	}
}

// forget drops the names of what changed, when nobody is left who could have
// missed a change, or when they are too many. Everything counts as changed
// then: whoever is still reading carries an older generation, and must never
// meet it again.
func (c *cache) forget() {
	clear(c.changed)
	c.all = c.gen
}

// outcome is what a cold lookup found: a proven key, the absence of a
// credential, or neither (an error, which is never remembered).
type outcome struct {
	key    *liveKey
	claims claims
	digest [32]byte
	readAt instant
	absent bool
}

// settle ends what enter began. It reports whether the outcome may be answered:
// false if the credential changed meanwhile, and then nothing is remembered
// either, because a row read before a revocation must not outlive it.
func (c *cache) settle(id CredentialID, gen uint64, o outcome, now instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	current := c.generation(id) == gen
	c.left()
	if !current {
		return false
	}
	if o.absent {
		n := c.slot(id)
		*n = absence{id, now.mono + negativeTime}
	}
	if o.key != nil && o.key.damage == nil {
		c.fill(id, o)
	}
	return true
}

func (c *cache) fill(id CredentialID, o outcome) {
	if c.maxCount < 0 {
		return
	}
	if e := c.warm.entry(id); e != nil {
		c.renew(e, o.key, o.readAt, readNow)
		return
	}
	o.key.readAt, o.key.epoch = jitter(o.readAt, c.maxAge), c.epoch.Load()
	e := &entry{claims: o.claims, size: sizeOf(o.key)}
	c.warm.add(id, o.digest, e, o.key)
	c.link(e)
	c.bytes += e.size
	c.evict(e)
}

// link and unlink keep the entries of one key together.
func (c *cache) link(e *entry) {
	id := e.key().info.ID
	e.sibling, c.byKey[id] = c.byKey[id], e
}

func (c *cache) unlink(e *entry) {
	id := e.key().info.ID
	if first := c.byKey[id]; first != e {
		for first.sibling != e {
			first = first.sibling
		}
		first.sibling = e.sibling
	} else if e.sibling != nil {
		c.byKey[id] = e.sibling
	} else {
		delete(c.byKey, id)
	}
	e.sibling = nil
}

func (c *cache) siblings(id KeyID) (all []*entry) {
	for e := c.byKey[id]; e != nil; e = e.sibling {
		all = append(all, e)
	}
	return all
}

// affected are a key's entries, and that of the credential by which its record was
// found (zero: none), which somebody may have moved there by hand.
func (c *cache) affected(key KeyID, by CredentialID) []*entry {
	all := c.siblings(key)
	if e := c.warm.entry(by); e != nil && e.key().info.ID != key {
		all = append(all, e)
	}
	return all
}

// origin is where a record comes from.
type origin uint8

const (
	toldHere origin = iota // a Manager of this process has written it
	fed                    // the change feed
	readNow                // read just now, and nothing has changed meanwhile
)

// renew puts a record beside an existing proof.
//
// When a record disagrees with a newer one that was here before, somebody is
// late, or history was rewritten: a backup restored, a failover, a row put back
// by hand. Nobody can tell which, so both count: what either forbids is
// forbidden (liveKey.also), until a read of the store decides. And no record
// but a dead one follows a death.
func (c *cache) renew(e *entry, k *liveKey, readAt instant, from origin) {
	old := e.key()
	known := &liveKey{view: old.view} // which is not changed, but replaced
	known.also = nil
	was := c.readAt(old)
	if was == (instant{}) && from != readNow {
		readAt = instant{} // in doubt: only a read that nothing has overtaken ends that
	}
	death := known.info.State == Revoked
	agrees := k.info.Version == known.info.Version && k.head == known.head
	switch {
	case k.damage != nil && death:
		return // damage never hides a death that was seen
	case k.damage != nil:
		known.damage = k.damage // what was believed last stays, to compare with
		if from == toldHere && k.info.State > known.info.State {
			known.about = &about{known.info, known.head}
			known.state, known.info.State, known.info.RevokedAt = k.state, k.info.State, k.info.RevokedAt // our own revocation of a damaged key
		}
		c.put(e, known, instant{})
	case death && k.info.State != Revoked:
		known.damage = nil
		c.put(e, known, later(was, readAt, c.maxAge))
	case agrees && known.info.State != k.info.State: // a state that was raised above stays
		known.damage = nil
		c.put(e, known, later(was, readAt, c.maxAge))
	case agrees || k.info.Version > known.info.Version:
		c.put(e, k, later(was, readAt, c.maxAge))
	case from == readNow:
		known.damage, known.also = nil, k
		c.put(e, known, later(was, readAt, c.maxAge))
	default:
		known.damage, known.also = nil, k
		c.put(e, known, instant{})
	}
}

// put replaces an entry's record. A zero readAt has it read again before the
// next answer, so that a repaired row works at once.
func (c *cache) put(e *entry, k *liveKey, readAt instant) {
	old := e.key()
	moved := old.info.ID != k.info.ID // to another key, by hand
	if moved {
		c.unlink(e)
	}
	k.readAt, k.epoch = readAt, c.epoch.Load()
	k.usedAt.Store(old.usedAt.Load())
	k.touched.Store(old.touched.Load())
	e.place.key.Store(k)
	if moved {
		c.link(e)
	}
	c.bytes -= e.size
	e.size = sizeOf(k)
	c.bytes += e.size
	c.evict(e)
}

// evict makes room. The entry used last stays, whatever its size.
func (c *cache) evict(last *entry) {
	for c.warm.count > 1 && (c.warm.count > c.maxCount || c.bytes > c.maxBytes) {
		c.remove(c.warm.victim(last))
	}
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

// change raises the fence for a record's credentials and puts the record beside
// the proofs that are here. make builds a liveKey of one credential.
//
// from is readNow only if the credential of the read has not changed since
// generation gen.
func (c *cache) change(r *Record, readAt instant, from origin, id CredentialID, gen uint64, make func(CredentialID, claims) *liveKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from == readNow && c.generation(id) != gen {
		from = fed
	}
	c.gen++
	for _, cred := range r.Credentials {
		c.changed[cred.ID] = c.gen
		if n := c.slot(cred.ID); n.id == cred.ID {
			*n = absence{}
		}
	}
	if c.active == 0 || len(c.changed) > maxChanged {
		c.forget()
	}
	for _, e := range c.affected(r.ID, id) {
		if e.key() == gone {
			continue // evicted for the one before
		}
		k := make(e.place.id, e.claims)
		if r.credential(e.place.id) == nil && k.info.Version >= e.key().info.Version {
			c.remove(e) // dropped from the record: long ended
			continue
		}
		c.renew(e, k, readAt, from)
	}
}

// damaged marks a key's entries: the store has a row that cannot be read, which
// was found by that credential (zero: by none).
func (c *cache) damaged(err *CorruptError, by CredentialID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.affected(err.Key, by) {
		if old := e.key(); old != gone {
			k := &liveKey{view: old.view}
			k.damage = err
			c.renew(e, k, instant{}, fed)
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
// that key's credentials alone: whoever hangs up on writes of his own must not
// hold up the verifications of others.
func (c *cache) doubtKey(r *Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for _, cred := range r.Credentials {
		c.changed[cred.ID] = c.gen
	}
	for _, e := range c.siblings(r.ID) {
		c.changed[e.place.id] = c.gen
		if old := e.key(); old != gone {
			c.put(e, &liveKey{view: old.view}, instant{})
		}
	}
	if c.active == 0 || len(c.changed) > maxChanged {
		c.forget()
	}
}

// claim lets one caller read an entry again; unclaim ends that, and lets nobody
// before a time.
func (c *cache) claim(id CredentialID, now instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.warm.entry(id)
	if e == nil || e.again || now.mono < e.notBefore {
		return false
	}
	e.again = true
	return true
}

func (c *cache) unclaim(id CredentialID, notBefore time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.warm.entry(id); e != nil {
		e.again, e.notBefore = false, notBefore
	}
}

// drop forgets a credential that the store no longer has. What power was seen to
// be taken away stays: a backup may be coming back table by table, and next it
// brings the key as it was alive.
func (c *cache) drop(id CredentialID, readAt instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.warm.entry(id)
	if e == nil {
		return
	}
	if old := e.key(); old.state != Active || old.ended {
		c.put(e, &liveKey{view: old.view}, readAt)
		return
	}
	c.remove(e)
}

func (c *cache) remove(e *entry) {
	c.unlink(e)
	c.warm.remove(e)
	c.bytes -= e.size
}

// sizeOf estimates an entry's memory.
func sizeOf(k *liveKey) int64 {
	n := 900 + len(k.info.Name) + len(k.info.Account) + 40*k.info.Networks.Len()
	for a := range k.info.Abilities.All() {
		n += 32 + len(a.String())
	}
	for _, o := range k.info.Origins.s {
		n += 16 + len(o)
	}
	for name, value := range k.info.Metadata.m {
		n += 64 + len(name) + len(value)
	}
	return int64(n)
}
