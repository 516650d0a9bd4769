// Package table has a hash table that readers use without a lock.
package table

import (
	"math/bits"
	"sync/atomic"
)

// A Table finds values by a 64-bit hash. Readers use no lock, because every request of
// every merchant reads the table: a lock's memory would be written by all processors,
// even if there were many locks, and that costs more than the lookup. Search and Next
// may be called from any goroutine at any time. Callers of the other methods need a
// lock of their own.
//
// Two values may have the same hash: the reader has to compare each value that a Search
// yields. If attackers choose the values, the hash must be keyed with a secret.
// Otherwise they could choose values that all fall into one group.
//
// The table is open-addressed, and its slots are in groups of eight. Each group has one
// word, with one byte of the hash for each slot; the byte is zero if the slot is free.
// The words are small enough to stay in the processor's cache; the values are not. A
// search for a hash that no value has usually reads only words: about one in forty such
// searches reads a value.
//
// A slot is used once. After its value was removed, the slot stays in use, so that a
// reader never has to look at it again. When seven of eight slots are in use, a new set
// of slots replaces the old one. A reader that still uses the old slots may miss changes
// that are made after the reader began.
type Table[V any] struct {
	hash  func(*V) uint64
	slots atomic.Pointer[slots[V]]
	taken int // slots in use, including the slots of removed values
	count int // values in the table
}

// slots holds the slots of a table. Their number is a power of two, at least groupSize.
type slots[V any] struct {
	tags   []atomic.Uint64 // one word for each group; its slots are used from the lowest byte up
	values []atomic.Pointer[V]
}

const (
	groupSize = 8
	minSlots  = 64
	eachByte  = 0x0101010101010101
)

// tagByte returns the byte of a hash that is stored in the word of its group. It is never
// zero. It comes from the high end of the hash, and the group from the low end.
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

// Search finds the values of one hash, group by group.
type Search[V any] struct {
	*slots[V]
	tag     uint64 // the tag byte, repeated in all eight bytes
	group   uint64
	word    uint64 // the current group's word
	matches uint64 // top bits of the bytes of word that may equal the tag, not looked at yet
}

// Search begins a search for the values of a hash. The search ends when Next returns
// nil.
func (t *Table[V]) Search(hash uint64) Search[V] {
	s := Search[V]{slots: t.slots.Load(), tag: tagByte(hash) * eachByte, group: hash}
	s.look()
	return s
}

// Next returns the next value that may have the hash. It returns nil if there are no more.
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

// slot does the work of Next, and also returns the slots of removed values.
func (s *Search[V]) slot() *atomic.Pointer[V] {
	for s.matches == 0 {
		if s.word>>56 == 0 { // the group's last slot is free, so no value is in a later group
			return nil
		}
		s.group++
		s.look()
	}
	i := bits.TrailingZeros64(s.matches) / groupSize
	s.matches &= s.matches - 1
	return &s.values[s.group*groupSize+uint64(i)]
}

// look reads the current group's word. It sets in matches the bits of all bytes that
// equal the tag. Rarely it also sets the bit of the byte above such a byte.
func (s *Search[V]) look() {
	s.group &= uint64(len(s.tags) - 1)
	s.word = s.tags[s.group].Load()
	x := s.word ^ s.tag
	s.matches = (x - eachByte) &^ x & (eachByte << 7)
}

// Len returns the number of values.
func (t *Table[V]) Len() int { return t.count }

// Add adds a value that is not in the table yet.
func (t *Table[V]) Add(v *V) {
	if p := t.slots.Load(); 8*(t.taken+1) > 7*len(p.values) {
		t.rebuild()
	}
	t.slots.Load().put(t.hash(v), v)
	t.taken++
	t.count++
}

// Replace replaces a value of the table by another value with the same hash.
func (t *Table[V]) Replace(old, v *V) { t.slotOf(old).Store(v) }

// Remove removes a value. The value's slot stays in use.
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

// rebuild copies the values into new slots, without the slots of removed values. It
// leaves enough free slots that the next rebuild is not soon.
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

// put stores a value in the first free slot. It writes the slot's byte last, so a reader
// that sees the byte also sees the value.
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
