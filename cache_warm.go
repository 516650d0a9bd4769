package apikey

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/go-apikey/apikey/internal/table"
)

// warm is what is known of proven tokens: their keys, which every request reads
// without a lock, and what writers keep beside each. Whoever writes holds cache.mu.
type warm struct {
	seed  [2]uint64 // nobody outside the process knows which IDs are neighbours
	keys  *table.Table[cachedKey]
	byKey map[KeyID]*entry // and its siblings

	// For victim: entries of use, and idle ones, which nobody can use as they are.
	useful, idle queue
	hand         *entry // in useful: how far victim has come
	broom        *entry // likewise: how far sweep has come
}

// entry is what writers keep of a proven token.
type entry struct {
	key          *cachedKey    // the newest record; nil when the entry was removed
	older, newer *entry        // in its queue
	sibling      *entry        // another token of the same key
	notBefore    time.Duration // by the monotonic clock: nobody reads the record again until then; never: somebody is at it
	size         int32
	claims       claims // what the token says of itself
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

// entry returns what writers keep of an ID, nil if it is not here.
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

// siblings are the entries of one key.
func (w *warm) siblings(id KeyID) (all []*entry) {
	for e := w.byKey[id]; e != nil; e = e.sibling {
		all = append(all, e)
	}
	return all
}

// add puts a token that is not there at the young end.
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

// sort has an entry be in the queue where it belongs.
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
	moved := e.key.info.ID != k.info.ID // to another key, by hand
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

// victim chooses what to evict, never the entry to be kept; nil if there is nothing.
//
// Idle entries leave first, the oldest of them before the others, and an idle one
// never makes a useful one leave: whoever has thousands of suspended keys, and
// presents their tokens, would empty the cache of other merchants' keys.
//
// Of the useful ones it is SIEVE (Zhang et al., NSDI 2024): a hand walks from old
// to young, spares once whatever was hit since it passed, and stops at the first
// that was not. So a hit writes one bit and moves nothing; keys that are used once
// go before those that come back; and only proven tokens are here at all, so junk
// evicts nobody. The walk is bounded, because others wait for the lock meanwhile.
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
		if e != keep && e.key.marks.And(^markTouched)&markTouched == 0 {
			return e
		}
	}
	if e := w.useful.next(&w.hand); e != keep {
		return e
	}
	return w.useful.next(&w.hand)
}

// sweep looks for entries whose time is over, a few at each eviction: those that
// are presented again are found without it.
func (w *warm) sweep(now int64) {
	for range 8 {
		if e := w.useful.next(&w.broom); e != nil && e.key.until <= now {
			w.sort(e, true)
			return
		}
	}
}

// next is the entry under a hand, which moves on, and after the newest begins
// again with the oldest.
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

// cachedKey is a verified key, shared by all who hold it: immutable but for the
// marks of its use. What a hit reads is small and lies together; the rest is
// elsewhere.
//
// It is two lines of memory, of 64 bytes each, and begins where one does.
type cachedKey struct {
	usedUntil atomic.Int64 // see usage.mark
	view
	marks atomic.Uint32 // markTouched and the other
	epoch uint32        // readAt counts while cache.epoch is this
}

// It does not build with a larger one.
const _ = 128 - unsafe.Sizeof(cachedKey{})

// The marks of a cachedKey.
const (
	markTouched uint32 = 1 << iota // hit since warm's hand passed
	markExpired                    // see cache.expired
)

// view is what is known of a key.
type view struct {
	proof  [16]byte // what cache.digest makes of the token; zero while it is not warm
	id     CredentialID
	readAt instant // start of the read; zero: read again before the next answer
	terms
	*about
}

// about is what judging a request rarely needs. It is never changed: see own.
type about struct {
	info     Info
	head     [32]byte
	notAfter int64    // the end of the credential; see terms.until
	unlisted bool     // ended for that alone that the record does not list it
	wrong    *trouble // nil unless terms.troubled
}

// trouble is what few keys have.
type trouble struct {
	damage error      // the record is not to be believed
	also   *cachedKey // a record that disagrees: what it forbids is forbidden too
}

// trouble returns that of a key, which for most is none.
func (k *cachedKey) trouble() trouble {
	if !k.troubled {
		return trouble{}
	}
	return *k.wrong
}

// set gives a key that nobody else has yet other trouble, or none.
func (k *cachedKey) set(t trouble) {
	if k.troubled || t != (trouble{}) {
		k.own()
		k.wrong, k.troubled = &t, t != (trouble{})
	}
}

// own gives a key that nobody else has yet an about that is not shared, so that it
// can be changed.
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
