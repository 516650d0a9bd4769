package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// cache is the warm cache: for tokens that were proven, the proof and the
// newest record. Three rules hold in this file, in cache_change.go and in
// cache_merge.go, and nowhere else:
//
//   - Only a proven token makes an entry, so junk can neither fill it nor drive
//     anything out of it.
//   - The fence: whatever began before the last change of a credential or of its
//     key neither fills the cache nor is answered (enter, settle).
//   - A change replaces the record and keeps the proof. A record older than the one
//     that is here revives nothing, whichever of the key's tokens it came by: what
//     either of the two forbids is forbidden (cache_merge.go).
//
// A hit takes no lock: it reads the table, and then one pointer, which a change
// replaces before it returns.
type cache struct {
	process [16]byte // keys the digests: a proof is worthless outside this process
	warm    *warm
	// epoch moves when every record is in doubt. It comes round after 2³² calls of
	// the store, when no record is left that is not too old.
	epoch atomic.Uint32

	mu       sync.Mutex // for everything else, and for writing
	bytes    int64
	maxCount int
	maxBytes int64
	maxAge   time.Duration
	mode     Mode
	now      func() instant

	// The fence. A change gets the next generation; who looks a credential up
	// notes its generation at the start and compares at the end.
	gen     uint64
	changed map[CredentialID]uint64 // since anyone began who is still at it
	keys    map[KeyID]uint64        // likewise: its record may have dropped what is looked up
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

func newCache(c VerifierConfig, now func() instant) *cache {
	return &cache{
		process: newProcessKey(), warm: newWarm(newProcessKey()),
		changed: map[CredentialID]uint64{}, keys: map[KeyID]uint64{},
		maxCount: c.MaxEntries, maxBytes: c.MaxBytes, maxAge: c.MaxAge, mode: c.Mode, now: now,
	}
}

func newProcessKey() (k [16]byte) {
	rand.Read(k[:])
	return k
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
// to be equal, compared in constant time. If the ID is not here, nothing is hashed.
func (c *cache) get(p *parsed) (*cachedKey, found) {
	s := c.warm.keys.Search(c.warm.hash(&p.id))
	k := s.Next()
	if k == nil {
		return nil, miss
	}
	proof := k.proof // is on its way while the token is hashed
	digest := c.digest(p.text)
	for subtle.ConstantTimeCompare(proof[:], digest[:len(proof)]) != 1 {
		if k.id == p.id {
			return nil, mismatch
		}
		if k = s.Next(); k == nil {
			return nil, miss
		}
		proof = k.proof
	}
	if k.marks.Load()&markTouched == 0 { // most are: reading shares the memory, writing does not
		k.marks.Or(markTouched)
	}
	return k, hit
}

// readAt is when the reading of a record began, zero if it is in doubt.
func (c *cache) readAt(k *cachedKey) instant {
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

// newest is the generation of the last change of anything.
func (c *cache) newest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gen
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
	clear(c.keys)
	c.all = c.gen
}

// outcome is what a cold lookup found: a proven key, the absence of a
// credential, or neither (an error, which is never remembered).
type outcome struct {
	key    *cachedKey
	claims claims
	digest [32]byte
	readAt instant
	begun  uint64 // the last change of anything when the read began
	absent bool
}

// settle ends what enter began. It reports whether the outcome may be answered:
// false if the credential or its key changed meanwhile, and then nothing is
// remembered either, because a row read before a revocation must not outlive it.
// What is to be answered is k, which knows what others have found out.
func (c *cache) settle(id CredentialID, gen uint64, o outcome, now instant) (k *cachedKey, current bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	current = c.generation(id) == gen && (o.key == nil || c.keys[o.key.info.ID] <= o.begun)
	c.left()
	if !current {
		return nil, false
	}
	if o.absent {
		n := c.slot(id)
		*n = absence{id, now.mono + negativeTime}
	}
	if o.key != nil && o.key.trouble().damage == nil {
		return c.fill(id, o, now), true
	}
	return o.key, true
}

// fill makes an entry, and returns what is to be answered. That takes into account
// an entry that another flight has made meanwhile, and the key's other tokens.
func (c *cache) fill(id CredentialID, o outcome, now instant) *cachedKey {
	if c.maxCount < 0 {
		return o.key
	}
	if e := c.warm.entry(id); e != nil {
		c.renew(e, o.key, news{readAt: o.readAt, from: readNow})
		return e.key
	}
	m := c.compare(o.key)
	k := m.key
	k.epoch = c.epoch.Load()
	if !m.doubt {
		k.readAt = jitter(o.readAt, c.maxAge)
	}
	k.proof = [16]byte(o.digest[:])
	e := &entry{key: k, claims: o.claims, size: sizeOf(k)}
	e.idle = c.idle(k, now.wall)
	c.warm.add(e)
	c.bytes += int64(e.size)
	c.evict(e)
	return k
}

// compare merges the first record of a token with the records of the key's other warm
// tokens. It puts what those tokens are to be judged by, and returns what this token
// is to be judged by: if several other records count beside its own, the newest.
func (c *cache) compare(row *cachedKey) merged {
	m := merged{key: row}
	for _, e := range c.warm.siblings(row.info.ID) {
		known := e.key
		if known == nil {
			continue // evicted for the one before
		}
		forRow, forKnown := mergeOtherToken(row, known)
		switch {
		case forKnown.doubt:
			c.put(e, forKnown.key, instant{})
		case forKnown.key != known:
			c.put(e, forKnown.key, c.readAt(known))
		case forRow.key.state == Revoked: // it counts for the tokens after this one too
			row, m = forRow.key, forRow
		case forRow.doubt && forRow.key.outranks(m.key):
			m = forRow
		}
	}
	return m
}

// claim lets one caller read an entry again, unless that was done since they looked
// at k; unclaim ends it, and lets nobody before a time.
func (c *cache) claim(id CredentialID, k *cachedKey, now instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.warm.entry(id)
	if e == nil || e.key != k || now.mono < e.notBefore {
		return false
	}
	e.notBefore = never
	return true
}

func (c *cache) unclaim(id CredentialID, notBefore time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.warm.entry(id); e != nil {
		e.notBefore = notBefore
	}
}

// drop forgets a credential that the store no longer has. What power was seen to
// be taken away stays: a backup may be coming back table by table, and next it
// brings the key as it was alive.
func (c *cache) drop(id CredentialID, readAt instant, gen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.warm.entry(id)
	if e == nil || c.generation(id) != gen {
		return
	}
	old := e.key
	k := old.copied()
	if old.state == Active && !old.ended { // as if it were unknown, for as long as absence is remembered
		k.set(trouble{ErrInvalidToken, k.trouble().also})
		until := 2*c.maxAge - negativeTime
		readAt = instant{readAt.wall - until.Microseconds(), readAt.mono - until}
	}
	c.put(e, k, readAt)
}

// idle reports whether no request can be answered with a key as it is: it is revoked,
// suspended or ended, or of another mode than this Verifier's, or its record is not to
// be believed.
func (c *cache) idle(k *cachedKey, now int64) bool {
	t, err := k.trouble(), k.unusable(now)
	return err != nil && err != ErrNotYetValid || t.damage != nil || c.mode != AnyMode && k.mode != c.mode ||
		t.also != nil && c.idle(t.also, now)
}

// expired has a key leave before those that are of use: a request found that its
// time was over.
func (c *cache) expired(k *cachedKey) {
	if k.marks.Or(markExpired)&markExpired != 0 { // said before
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.warm.entry(k.id); e != nil && e.key == k {
		c.warm.sort(e, true)
	}
}

// evict makes room. The entry that is about to be used stays, whatever its size; if
// it is idle, that is one entry more than the bounds allow, until the next comes.
func (c *cache) evict(keep *entry) {
	for c.warm.keys.Len() > 1 && (c.warm.keys.Len() > c.maxCount || c.bytes > c.maxBytes) {
		e := c.warm.victim(keep, c.now().wall)
		if e == nil {
			return
		}
		c.remove(e)
	}
}

func (c *cache) remove(e *entry) {
	c.warm.remove(e)
	c.bytes -= int64(e.size)
}

// sizeOf estimates an entry's memory: the cachedKey, what it is about, the entry, its
// place among all and among those of its key, and what only this key has.
func sizeOf(k *cachedKey) int32 {
	n := 128 + 384 + 48 + 60 + len(k.info.Name) + len(k.info.Account) + 32*k.info.Networks.Len()
	if !k.abilities.shared {
		for _, a := range k.abilities.held {
			n += 32 + len(a.String())
		}
	}
	for _, o := range k.info.Origins.s {
		n += 16 + len(o)
	}
	if k.info.Metadata.Len() > 0 {
		n += 48
	}
	for name, value := range k.info.Metadata.m {
		n += 64 + len(name) + len(value)
	}
	if k.troubled {
		n += 48
	}
	return int32(min(n, math.MaxInt32))
}
