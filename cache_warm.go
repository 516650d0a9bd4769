package apikey

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/go-apikey/apikey/internal/table"
)

// warm is what the Verifier knows of proven tokens: the cachedKeys, which every request
// reads without a lock, and an entry beside each, for writers. A writer holds cache.mu.
type warm struct {
	seed  [2]uint64 // keys the hash: nobody can choose IDs that share a group
	keys  *table.Table[cachedKey]
	byKey map[KeyID]*entry // the first entry; see entry.sibling

	// For victim: entries that a request can use, and idle ones, which none can use now.
	useful, idle queue
	hand         *entry // in useful: where victim goes on
	broom        *entry // in useful: where sweep goes on
}

// entry is what only writers need of a proven token.
type entry struct {
	key          *cachedKey    // the newest record; nil when the entry was removed
	older, newer *entry        // in its queue
	sibling      *entry        // another token of the same key
	notBefore    time.Duration // no re-read before this (monotonic); never: one runs now
	size         int32
	claims       claims // what the token's text says
	idle         bool   // which queue it is in
}

// queue holds entries in the order in which they came.
type queue struct{ oldest, newest *entry }

func (q *queue) push(e *entry) {
	if e.older = q.newest; e.older != nil {
		e.older.newer = e
	} else {
		q.oldest = e
	}
	q.newest = e
}

func (q *queue) cut(e *entry) {
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		q.oldest = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		q.newest = e.older
	}
	e.older, e.newer = nil, nil
}

func newWarm(seed [16]byte) *warm {
	w := &warm{
		seed:  [2]uint64{binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])},
		byKey: map[KeyID]*entry{},
	}
	w.keys = table.New(func(k *cachedKey) uint64 { return w.hash(&k.id) })
	return w
}

func (w *warm) hash(id *CredentialID) uint64 {
	hi, lo := bits.Mul64(binary.LittleEndian.Uint64(id[:8])^w.seed[0], binary.LittleEndian.Uint64(id[8:])^w.seed[1])
	return hi ^ lo
}

// entry returns the entry of an ID, nil if there is none.
func (w *warm) entry(id CredentialID) *entry {
	s := w.keys.Search(w.hash(&id))
	for k := s.Next(); k != nil; k = s.Next() {
		if k.id != id {
			continue
		}
		for e := w.byKey[k.info.ID]; e != nil; e = e.sibling {
			if e.key == k {
				return e
			}
		}
	}
	return nil
}

// siblings returns the entries of one key.
func (w *warm) siblings(id KeyID) (all []*entry) {
	for e := w.byKey[id]; e != nil; e = e.sibling {
		all = append(all, e)
	}
	return all
}

// add puts a token that is not cached at the newest end of its queue.
func (w *warm) add(e *entry) {
	w.keys.Add(e.key)
	w.link(e)
	w.queueOf(e).push(e)
}

func (w *warm) queueOf(e *entry) *queue {
	if e.idle {
		return &w.idle
	}
	return &w.useful
}

// sort moves an entry into the queue where it belongs.
func (w *warm) sort(e *entry, idle bool) {
	if e.idle != idle {
		w.cut(e)
		e.idle = idle
		w.queueOf(e).push(e)
	}
}

// cut takes an entry out of its queue.
func (w *warm) cut(e *entry) {
	if w.hand == e {
		w.hand = e.newer
	}
	if w.broom == e {
		w.broom = e.newer
	}
	w.queueOf(e).cut(e)
}

// replace gives an entry another record of its token.
func (w *warm) replace(e *entry, k *cachedKey) {
	moved := e.key.info.ID != k.info.ID // the credential was moved to another key by hand
	if moved {
		w.unlink(e)
	}
	w.keys.Replace(e.key, k)
	e.key = k
	if moved {
		w.link(e)
	}
}

func (w *warm) remove(e *entry) {
	w.unlink(e)
	w.keys.Remove(e.key)
	w.cut(e)
	e.key = nil
}

// link and unlink keep the entries of one key together.
func (w *warm) link(e *entry) {
	id := e.key.info.ID
	e.sibling, w.byKey[id] = w.byKey[id], e
}

func (w *warm) unlink(e *entry) {
	id := e.key.info.ID
	if first := w.byKey[id]; first != e {
		for first.sibling != e {
			first = first.sibling
		}
		first.sibling = e.sibling
	} else if e.sibling != nil {
		w.byKey[id] = e.sibling
	} else {
		delete(w.byKey, id)
	}
	e.sibling = nil
}

// victim chooses the entry to evict, never keep; nil if there is none.
//
// Idle entries leave first, the oldest of them before the others, and an idle entry
// never makes a useful one leave. Otherwise somebody who has thousands of suspended
// keys, and presents their tokens, would empty the cache of other merchants' keys.
//
// Among the useful entries, victim is SIEVE (Zhang et al., NSDI 2024). A hand walks
// from old to new. It skips once each entry that was hit since the hand passed, and
// stops at the first that was not hit. So a hit writes one bit and moves nothing. Keys
// that are used once leave before keys that come back. Only proven tokens are here at
// all, so made-up tokens evict no entry. The walk is bounded, because others wait for
// the lock meanwhile.
func (w *warm) victim(keep *entry, now int64) *entry {
	if w.idle.oldest == nil {
		w.sweep(now)
	}
	for e := w.idle.oldest; e != nil; e = e.newer {
		if e != keep {
			return e
		}
	}
	if keep.idle {
		return nil
	}
	for range 64 {
		e := w.useful.next(&w.hand)
		if e != keep && e.key.flags.And(^flagTouched)&flagTouched == 0 {
			return e
		}
	}
	if e := w.useful.next(&w.hand); e != keep {
		return e
	}
	return w.useful.next(&w.hand)
}

// sweep looks at a few useful entries on each eviction, for one that has expired. If
// the token of such an entry is presented again, cache.expired finds it without sweep.
func (w *warm) sweep(now int64) {
	for range 8 {
		if e := w.useful.next(&w.broom); e != nil && e.key.until <= now {
			w.sort(e, true)
			return
		}
	}
}

// next returns the entry under a hand, and moves the hand on to the next newer entry.
// After the newest entry, the hand starts again at the oldest.
func (q *queue) next(hand **entry) *entry {
	e := *hand
	if e == nil {
		e = q.oldest
	}
	if *hand = nil; e != nil {
		*hand = e.newer
	}
	return e
}

// cachedKey is a verified key. All its holders share it. It is immutable except for
// usedUntil and flags. The fields that a hit reads come first and are small; the others
// are behind the about pointer.
//
// A cachedKey is two cache lines of 64 bytes, and starts where a line starts.
type cachedKey struct {
	usedUntil atomic.Int64 // see usage.mark
	view
	flags atomic.Uint32 // flagTouched and flagExpired
	epoch uint32        // readAt is valid while cache.epoch is equal
}

// The build fails if a cachedKey is larger.
const _ = 128 - unsafe.Sizeof(cachedKey{})

// The flags of a cachedKey.
const (
	flagTouched uint32 = 1 << iota // hit since warm.hand passed
	flagExpired                    // see cache.expired
)

// view is what the Verifier knows of a key through one token.
type view struct {
	proof  [16]byte // cache.digest of the token; zero while the token is not warm
	id     CredentialID
	readAt instant // start of the read; zero: read again before the next answer
	terms
	*about
}

// about is what judge rarely needs. It is never changed: see own.
type about struct {
	info     Info
	head     [32]byte
	notAfter int64    // the end of the credential; see terms.until
	unlisted bool     // ended only because the record does not list the token
	wrong    *trouble // nil unless terms.troubled
}

// trouble is what is wrong with a record; few records have any.
type trouble struct {
	damage error      // the record is not believed
	also   *cachedKey // a record that disagrees: what it forbids is forbidden too
}

// trouble returns the trouble of a key; for most keys, none.
func (k *cachedKey) trouble() trouble {
	if !k.troubled {
		return trouble{}
	}
	return *k.wrong
}

// set gives k other trouble, or none. No other goroutine may have k yet.
func (k *cachedKey) set(t trouble) {
	if k.troubled || t != (trouble{}) {
		k.own()
		k.wrong, k.troubled = &t, t != (trouble{})
	}
}

// own gives k an about of its own, so that the caller can change it. No other goroutine
// may have k yet.
func (k *cachedKey) own() {
	a := *k.about
	k.about = &a
}

// Info implements [Key].
func (k *cachedKey) Info() Info { return k.info }

// Can implements [Key].
func (k *cachedKey) Can(required ...Ability) bool {
	also := k.trouble().also
	return canAll(k.abilities.held, required) == nil && (also == nil || also.Can(required...))
}
