package apikey

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
)

// warm is the table of proven tokens. Every request of every merchant reads it,
// so it is read without a lock: a lock, or one of many, is memory that all
// processors write, and it costs more than the lookup. Whoever writes holds
// cache.mu.
//
// It is an open-addressed table. A place is taken once, and stays taken after
// its entry is gone, so that a reader never has to go back; a new array without
// the graves replaces it when half of the places are taken. A reader of the old
// array sees what was true when it began.
type warm struct {
	key    [2]uint64 // nobody outside the process knows which IDs are neighbours
	places atomic.Pointer[[]place]
	taken  int
	count  int

	// Entries in the order of their arrival, for evict.
	oldest, newest *entry
	hand           *entry
}

// place is where an entry lies. The mark is that of its ID, 0 where no entry
// ever was; it spares a miss the way to the entries of others.
type place struct {
	mark  atomic.Uint64
	entry atomic.Pointer[entry]
}

// entry is one proven token.
type entry struct {
	id      CredentialID
	digest  [32]byte
	key     atomic.Pointer[liveKey] // the newest record; replaced, never changed
	usedAt  atomic.Int64            // see usage.mark
	marked  atomic.Bool
	touched atomic.Bool // hit since the hand passed
	again   bool        // somebody is reading it again
	claims  claims      // what the token says of itself
	size    int64

	older, newer *entry
	sibling      *entry // another token of the same key
}

const minPlaces = 64

func (w *warm) init(key [16]byte) {
	w.key = [2]uint64{binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])}
	places := make([]place, minPlaces)
	w.places.Store(&places)
}

func (w *warm) mark(id *CredentialID) uint64 {
	hi, lo := bits.Mul64(binary.LittleEndian.Uint64(id[:8])^w.key[0], binary.LittleEndian.Uint64(id[8:])^w.key[1])
	return hi ^ lo | 1<<63
}

// find returns the entry of an ID, nil if there is none.
func (w *warm) find(id *CredentialID) *entry {
	mark, places := w.mark(id), *w.places.Load()
	for i := mark; ; i++ {
		p := &places[i&uint64(len(places)-1)]
		switch p.mark.Load() {
		case mark:
			if e := p.entry.Load(); e != nil && e.id == *id {
				return e
			}
		case 0:
			return nil
		}
	}
}

// add puts an entry, whose ID is not there, at the young end.
func (w *warm) add(e *entry) {
	if places := *w.places.Load(); 2*(w.taken+1) > len(places) {
		w.rebuild()
	}
	w.put(*w.places.Load(), e)
	w.taken++
	w.count++
	if e.older = w.newest; e.older != nil {
		e.older.newer = e
	} else {
		w.oldest = e
	}
	w.newest = e
}

// rebuild leaves the graves behind, and room for as many entries again.
func (w *warm) rebuild() {
	n := minPlaces
	for n < 4*(w.count+1) {
		n *= 2
	}
	places := make([]place, n)
	for e := w.oldest; e != nil; e = e.newer {
		w.put(places, e)
	}
	w.taken = w.count
	w.places.Store(&places)
}

// put takes the first free place. Its mark comes last: who sees that finds the
// entry.
func (w *warm) put(places []place, e *entry) {
	mark := w.mark(&e.id)
	for i := mark; ; i++ {
		if p := &places[i&uint64(len(places)-1)]; p.mark.Load() == 0 {
			p.entry.Store(e)
			p.mark.Store(mark)
			return
		}
	}
}

// remove takes an entry out.
func (w *warm) remove(e *entry) {
	mark, places := w.mark(&e.id), *w.places.Load()
	for i := mark; ; i++ {
		if p := &places[i&uint64(len(places)-1)]; p.entry.Load() == e {
			p.entry.Store(nil)
			break
		}
	}
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
		if e != keep && !e.touched.Swap(false) {
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
