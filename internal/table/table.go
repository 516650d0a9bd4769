// Package table is a hash table that is read without a lock.
package table

import (
	"math/bits"
	"sync/atomic"
)

// A Table finds values by a hash of 64 bits. It is read without a lock, because every
// request of every merchant reads it. All processors would write the memory of a lock,
// or of one of many locks, and that costs more than the lookup. Search may be called
// from any goroutine at any time. A caller of any other method holds a lock of their
// own.
//
// Two values may have one hash: the reader looks at each value that a Search yields,
// and decides. If others choose the values, the hash has to be keyed with a secret.
// Otherwise they could choose values that are all in one group.
//
// The table is open-addressed, and its slots are in groups of eight. Each group has one
// word, with a byte of the hash for each slot, zero if the slot is free. The words are
// few enough to stay in the processor's cache; the values are not. A search for a hash
// that no value has ends at a word, except once in forty times or so.
//
// A slot is taken once, and stays taken after its value was removed, so that a reader
// never has to look twice. When seven of eight slots are taken, a new set of slots
// replaces the old one. A reader of the old slots sees what was true when the reader
// began.
type Table[V any] struct {
	hash  func(*V) uint64
	slots atomic.Pointer[slots[V]]
	taken int // slots, including those of removed values
	count int // values
}

// slots are a power of two in number, at least groupSize.
type slots[V any] struct {
	tags   []atomic.Uint64 // one for each group; its bytes are taken from the lowest
	values []atomic.Pointer[V]
}

const (
	groupSize = 8
	minSlots  = 64
	eachByte  = 0x0101010101010101
)

// tagByte returns the byte of a hash that is put into the word of its group; never
// zero. The other end of the hash chooses the group.
func tagByte(hash uint64) uint64 { return max(1, hash>>56) }

// New returns an empty Table. The hash of a value never changes.
func New[V any](hash func(*V) uint64) *Table[V] {
	t := &Table[V]{hash: hash}
	t.slots.Store(newSlots[V](minSlots))
	return t
}

func newSlots[V any](n int) *slots[V] {
	return &slots[V]{make([]atomic.Uint64, n/groupSize), make([]atomic.Pointer[V], n)}
}

// Search walks from group to group to the values of one hash.
type Search[V any] struct {
	*slots[V]
	tag     uint64 // the tag byte, in every byte
	group   uint64
	word    uint64 // of the group
	matches uint64 // top bits of the bytes of word that may be tag, not looked at yet
}

// Search begins a search for the values of a hash. The search ends when Next returns
// nil.
func (t *Table[V]) Search(hash uint64) Search[V] {
	s := Search[V]{slots: t.slots.Load(), tag: tagByte(hash) * eachByte, group: hash}
	s.look()
	return s
}

// Next returns the next value that may have the hash, nil if there is no more.
func (s *Search[V]) Next() *V {
	for {
		at := s.slot()
		if at == nil {
			return nil
		}
		if v := at.Load(); v != nil {
			return v
		}
	}
}

// slot is Next, but returns the slots of removed values too.
func (s *Search[V]) slot() *atomic.Pointer[V] {
	for s.matches == 0 {
		if s.word>>56 == 0 { // the group's last slot is free: no value was put further on
			return nil
		}
		s.group++
		s.look()
	}
	i := bits.TrailingZeros64(s.matches) / groupSize
	s.matches &= s.matches - 1
	return &s.values[s.group*groupSize+uint64(i)]
}

// look reads the group that the search has come to. The bits in matches are those of
// the bytes that equal the tag, and rarely of a byte above such a byte.
func (s *Search[V]) look() {
	s.group &= uint64(len(s.tags) - 1)
	s.word = s.tags[s.group].Load()
	x := s.word ^ s.tag
	s.matches = (x - eachByte) &^ x & (eachByte << 7)
}

// Len returns the number of values.
func (t *Table[V]) Len() int { return t.count }

// Add puts a value into the table that is not there yet.
func (t *Table[V]) Add(v *V) {
	if p := t.slots.Load(); 8*(t.taken+1) > 7*len(p.values) {
		t.rebuild()
	}
	t.slots.Load().put(t.hash(v), v)
	t.taken++
	t.count++
}

// Replace puts another value of the same hash in the place of one that is there.
func (t *Table[V]) Replace(old, v *V) { t.slotOf(old).Store(v) }

// Remove takes a value out. The value's slot stays taken.
func (t *Table[V]) Remove(old *V) {
	t.slotOf(old).Store(nil)
	t.count--
}

func (t *Table[V]) slotOf(v *V) *atomic.Pointer[V] {
	s := t.Search(t.hash(v))
	for {
		if at := s.slot(); at.Load() == v {
			return at
		}
	}
}

// rebuild leaves the slots of removed values behind. It makes room for enough more
// values that the next rebuild is not due at once.
func (t *Table[V]) rebuild() {
	n := minSlots
	for 16*(t.count+1) > 13*n {
		n *= 2
	}
	p := newSlots[V](n)
	for i := range t.slots.Load().values {
		if v := t.slots.Load().values[i].Load(); v != nil {
			p.put(t.hash(v), v)
		}
	}
	t.taken = t.count
	t.slots.Store(p)
}

// put takes the first free slot. It writes the byte last: a reader who sees the byte
// sees the value.
func (p *slots[V]) put(hash uint64, v *V) {
	for group := hash; ; group++ {
		group &= uint64(len(p.tags) - 1)
		taken := (bits.Len64(p.tags[group].Load()) + 7) / 8
		if taken < groupSize {
			p.values[group*groupSize+uint64(taken)].Store(v)
			p.tags[group].Or(tagByte(hash) << (8 * taken))
			return
		}
	}
}
