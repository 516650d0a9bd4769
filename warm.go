package apikey

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
	"time"
)

// warm is the table of proven tokens. Every request of every merchant reads it,
// so it is read without a lock: a lock, or one of many, is memory that all
// processors write, and it costs more than the lookup. Whoever writes holds
// cache.mu.
//
// It is an open-addressed table. A place is taken once, and stays taken after
// its token is gone, so that a reader never has to look twice; a new table
// without the graves replaces it when half of the places are taken, so that a
// miss, which is what junk does, looks at one place and a half. A reader of
// the old table sees what was true when it began.
type warm struct {
	key   [2]uint64 // nobody outside the process knows which IDs are neighbours
	table atomic.Pointer[table]
	taken int
	count int

	// Entries in the order of their arrival, for victim.
	oldest, newest *entry
	hand           *entry
}

// table has a power of two places, and a bit for each that is taken. The bits
// are few enough to stay near the processor, where the places are not: most junk
// ends at a bit.
type table struct {
	places []place
	taken  []atomic.Uint64
}

func newTable(n int) *table {
	return &table{make([]place, n), make([]atomic.Uint64, n/64)}
}

// at is the place where a search has come to, nil if it is over.
func (t *table) at(i uint64) *place {
	i &= uint64(len(t.places) - 1)
	if t.taken[i/64].Load()>>(i%64)&1 == 0 {
		return nil
	}
	return &t.places[i]
}

// place is the proof of one token: a line of the processor's cache. What is in
// it is written before its bit is, and not again; only the key changes.
type place struct {
	id     CredentialID
	digest [32]byte
	key    atomic.Pointer[liveKey] // gone: a grave
	entry  *entry                  // for writers
}

// gone is no key: its place is a grave.
var gone = new(liveKey)

// entry is what writers keep of a proven token.
type entry struct {
	place  *place // in the newest table
	claims claims // what the token says of itself
	size   int64

	again     bool          // somebody is reading the record again
	notBefore time.Duration // by the monotonic clock: nobody does until then

	older, newer *entry
	sibling      *entry // another token of the same key
}

// key is the newest record of the token.
func (e *entry) key() *liveKey { return e.place.key.Load() }

const minPlaces = 64

func (w *warm) init(key [16]byte) {
	w.key = [2]uint64{binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])}
	w.table.Store(newTable(minPlaces))
}

// first is where the search for an ID begins.
func (w *warm) first(id *CredentialID) uint64 {
	hi, lo := bits.Mul64(binary.LittleEndian.Uint64(id[:8])^w.key[0], binary.LittleEndian.Uint64(id[8:])^w.key[1])
	return hi ^ lo
}

// find returns the place and the key of an ID, nil if there is none.
func (w *warm) find(id *CredentialID) (*place, *liveKey) {
	t := w.table.Load()
	for i := w.first(id); ; i++ {
		p := t.at(i)
		if p == nil {
			return nil, nil
		}
		if k := p.key.Load(); p.id == *id && k != gone {
			return p, k
		}
	}
}

// entry returns what writers keep of an ID, nil if there is none.
func (w *warm) entry(id CredentialID) *entry {
	if p, _ := w.find(&id); p != nil {
		return p.entry
	}
	return nil
}

// add puts a token that is not there at the young end.
func (w *warm) add(id CredentialID, digest [32]byte, e *entry, k *liveKey) {
	if 2*(w.taken+1) > len(w.table.Load().places) {
		w.rebuild()
	}
	w.put(w.table.Load(), &place{id: id, digest: digest, entry: e}, k)
	w.taken++
	w.count++
	if e.older = w.newest; e.older != nil {
		e.older.newer = e
	} else {
		w.oldest = e
	}
	w.newest = e
}

// rebuild leaves the graves behind, and room for as many more that it is not due
// again at once.
func (w *warm) rebuild() {
	n := minPlaces
	for 7*n < 16*(w.count+1) {
		n *= 2
	}
	t := newTable(n)
	for e := w.oldest; e != nil; e = e.newer {
		w.put(t, e.place, e.key())
	}
	w.taken = w.count
	w.table.Store(t)
}

// put takes the first free place. Its bit comes last: who sees it sees the rest.
func (w *warm) put(t *table, from *place, k *liveKey) {
	i := w.first(&from.id)
	for t.at(i) != nil {
		i++
	}
	i &= uint64(len(t.places) - 1)
	p := &t.places[i]
	p.id, p.digest, p.entry = from.id, from.digest, from.entry
	p.entry.place = p
	p.key.Store(k)
	t.taken[i/64].Or(1 << (i % 64))
}

// remove digs a token's grave.
func (w *warm) remove(e *entry) {
	e.place.key.Store(gone)
	w.count--
	if w.hand == e {
		w.hand = e.newer
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		w.oldest = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		w.newest = e.older
	}
	e.older, e.newer = nil, nil
}

// victim chooses what to evict, never the entry to be kept. It is SIEVE (Zhang
// et al., NSDI 2024): a hand walks from old to young, spares once whatever was
// hit since it passed, and stops at the first that was not. So a hit writes one
// bit and moves nothing; keys that are used once go before those that come back;
// and only proven tokens are here at all, so junk evicts nobody. The walk is
// bounded, because others wait for the lock meanwhile.
func (w *warm) victim(keep *entry) *entry {
	for range 64 {
		e := w.next()
		if e != keep && !e.key().touched.Swap(false) {
			return e
		}
	}
	if e := w.next(); e != keep {
		return e
	}
	return w.next()
}

// next is the entry under the hand, which moves on.
func (w *warm) next() *entry {
	e := w.hand
	if e == nil {
		e = w.oldest
	}
	w.hand = e.newer
	return e
}
