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

// cache is the warm cache: the proof and the newest record of each token that was
// proven. Three rules hold in this file, in cache_change.go and in cache_merge.go, and
// nowhere else:
//
//   - Only a proven token makes an entry. So made-up tokens can neither fill the cache
//     nor drive an entry out of it.
//   - The fence: a read that began before the last change of its credential or of the
//     key neither fills the cache nor is answered (enter, settle).
//   - A change replaces the record and keeps the proof. A record older than the cached
//     one never gives power back, through whichever token of the key it was read: what
//     either record forbids is forbidden (cache_merge.go).
//
// A hit takes no lock: it reads the table, and then one pointer. A change replaces that
// pointer before the change returns.
type cache struct {
	process [16]byte // keys the digests: a proof is worthless in another process
	warm    *warm
	// epoch advances when every record is in doubt. The counter wraps after at least 2³²
	// calls of the store. By then, no record is left that is not too old.
	epoch atomic.Uint32

	mu       sync.Mutex // for the fields below, and for every write
	bytes    int64
	maxCount int
	maxBytes int64
	maxAge   time.Duration
	mode     Mode
	now      func() instant

	// The fence. Each change gets the next generation. A lookup notes the generation of
	// its credential when it starts, and compares it when it ends.
	gen     uint64
	changed map[CredentialID]uint64 // changes since lookups that still run began
	keys    map[KeyID]uint64        // the same: a record may have dropped the credential
	all     uint64                  // the last change that counts for everything
	active  int                     // lookups that run now

	// negative remembers IDs that the store does not have. Its size is fixed, and it is
	// apart from warm, so that a made-up ID displaces only another made-up ID.
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

// digest returns what the cache stores of a token: a hash under the key of this
// process, worthless in any other process. The cache never trusts the bare ID alone.
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

// get looks a token up. The ID alone never makes a hit: the digest of the whole token
// must be equal, compared in constant time. If the ID is not cached, nothing is hashed.
func (c *cache) get(p *parsed) (*cachedKey, found) {
	s := c.warm.keys.Search(c.warm.hash(&p.id))
	k := s.Next()
	if k == nil {
		return nil, miss
	}
	proof := k.proof // loads from memory while the token is hashed
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
	// Most keys have the flag already. Reading it shares the cache line, writing does not.
	if k.flags.Load()&flagTouched == 0 {
		k.flags.Or(flagTouched)
	}
	return k, hit
}

// readAt returns when the read of a record began; zero if the record is in doubt.
func (c *cache) readAt(k *cachedKey) instant {
	if k.epoch != c.epoch.Load() {
		return instant{}
	}
	return k.readAt
}

// absent reports whether the store said, at most two seconds ago, that it has no such
// credential.
func (c *cache) absent(id CredentialID, now instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.slot(id)
	return n.id == id && now.mono < n.until
}

func (c *cache) slot(id CredentialID) *absence {
	return &c.negative[(uint(id[0]^c.process[0])|uint(id[1]^c.process[1])<<8)%uint(len(c.negative))]
}

// enter starts a lookup of a credential, and returns the generation of the credential's
// last change.
func (c *cache) enter(id CredentialID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active++
	return c.generation(id)
}

// newest returns the generation of the last change of anything.
func (c *cache) newest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gen
}

// since returns the generation of a credential's last change.
func (c *cache) since(id CredentialID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation(id)
}

func (c *cache) generation(id CredentialID) uint64 { return max(c.changed[id], c.all) }

// leave ends a lookup that enter started, without a result.
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

// forget drops the names of what changed, when no lookup is left that could have missed
// a change, or when there are too many names. After that, everything counts as changed:
// a lookup that still runs has an older generation, and that generation must never be
// current again.
func (c *cache) forget() {
	clear(c.changed)
	clear(c.keys)
	c.all = c.gen
}

// outcome is what a cold lookup found: a proven key, the absence of a credential, or
// neither (an error, which is never cached).
type outcome struct {
	key    *cachedKey
	claims claims
	digest [32]byte
	readAt instant
	begun  uint64 // the last change of anything when the read began
	absent bool
}

// settle ends a lookup that enter started, and reports whether its outcome may be
// answered. If the credential or its key changed meanwhile, settle returns false and
// caches nothing: a row that was read before a revocation must not be used after it.
// The caller answers with k, which includes what other lookups have found out.
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

// fill makes an entry, and returns the record to answer with. That record takes into
// account an entry that another flight has made meanwhile, and the key's other tokens.
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
// tokens. If a merge changes the record of such a token, compare puts the new one into
// its entry. It returns what this token is judged by: if several other records count
// besides its own, the newest of them.
func (c *cache) compare(row *cachedKey) merged {
	m := merged{key: row}
	for _, e := range c.warm.siblings(row.info.ID) {
		known := e.key
		if known == nil {
			continue // evicted when the entry before was put
		}
		forRow, forKnown := mergeOtherToken(row, known)
		switch {
		case forKnown.doubt:
			c.put(e, forKnown.key, instant{})
		case forKnown.key != known:
			c.put(e, forKnown.key, c.readAt(known))
		case forRow.key.state == Revoked: // which counts for the next tokens too
			row, m = forRow.key, forRow
		case forRow.doubt && forRow.key.outranks(m.key):
			m = forRow
		}
	}
	return m
}

// claim lets one caller at a time read an entry's record again, unless the record was
// replaced since the caller looked at k. unclaim ends the claim, and allows no other
// claim before a time.
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

// drop handles a credential that the store no longer has. If the key was seen revoked
// or suspended, or the token ended, that stays: a backup may be coming back table by
// table, and next it may bring the key back as it was when it was active.
func (c *cache) drop(id CredentialID, readAt instant, gen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.warm.entry(id)
	if e == nil || c.generation(id) != gen {
		return
	}
	old := e.key
	k := old.copied()
	// Refuse the token like an unknown one, for as long as an absence is remembered.
	if old.state == Active && !old.ended {
		k.set(trouble{ErrInvalidToken, k.trouble().also})
		until := 2*c.maxAge - negativeTime
		readAt = instant{readAt.wall - until.Microseconds(), readAt.mono - until}
	}
	c.put(e, k, readAt)
}

// idle reports whether no request can use a key as it is: the key is revoked, suspended
// or ended, or of another mode than this Verifier's, or its record is not believed.
func (c *cache) idle(k *cachedKey, now int64) bool {
	t, err := k.trouble(), k.unusable(now)
	return err != nil && err != ErrNotYetValid || t.damage != nil || c.mode != AnyMode && k.mode != c.mode ||
		t.also != nil && c.idle(t.also, now)
}

// expired moves the entry of a key to the idle queue, which is evicted first: a request
// found that the key or its token has expired.
func (c *cache) expired(k *cachedKey) {
	if k.flags.Or(flagExpired)&flagExpired != 0 { // done before
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.warm.entry(k.id); e != nil && e.key == k {
		c.warm.sort(e, true)
	}
}

// evict makes room. The entry that is about to be used stays, whatever its size. If
// that entry is idle, the cache has one entry more than its bounds allow, until the
// next one is added.
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

// sizeOf estimates an entry's memory: the cachedKey, its about, the entry, their places
// in the table and in byKey, and the texts and lists that only this key has.
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
