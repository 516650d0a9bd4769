// Package canon encodes values as bytes. The library uses this one encoding for the data
// under its MACs, for the event chain, for stored items and for the data that a grant is
// bound to.
//
// Different values never have the same encoding, because the bytes under a MAC or a hash
// must have only one meaning. A number or a time takes eight bytes, big endian. A text,
// or a list of texts, begins with its length. The encoding has no names of fields or
// types, so a reader has to read the values in the order in which they were written. The
// encoding never changes, because stored bytes must stay readable.
package canon

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// A Writer encodes values, one after the other. The zero Writer is empty.
type Writer struct{ b []byte }

// NewWriter returns a Writer with room for size bytes.
func NewWriter(size int) Writer { return Writer{make([]byte, 0, size)} }

// Encoded returns the bytes that were written. The slice is valid only until
// the next write.
func (w *Writer) Encoded() []byte { return w.b }

// Sum returns the SHA-256 of the bytes that were written.
func (w *Writer) Sum() [32]byte { return sha256.Sum256(w.b) }

// Uint writes a number.
func (w *Writer) Uint(v uint64) { w.b = binary.BigEndian.AppendUint64(w.b, v) }

// Bool writes 1 or 0, as a number.
func (w *Writer) Bool(v bool) {
	if v {
		w.Uint(1)
	} else {
		w.Uint(0)
	}
}

// Text writes the length of s, and s.
func (w *Writer) Text(s string) {
	w.Uint(uint64(len(s)))
	w.b = append(w.b, s...)
}

// Bytes writes the length of b, and b, as Text does.
func (w *Writer) Bytes(b []byte) {
	w.Uint(uint64(len(b)))
	w.b = append(w.b, b...)
}

// Fixed writes b without its length. Use Fixed only for arrays, whose length the reader
// knows.
func (w *Writer) Fixed(b []byte) { w.b = append(w.b, b...) }

// Texts writes the number of texts, and each text.
func (w *Writer) Texts(list []string) {
	w.Uint(uint64(len(list)))
	for _, s := range list {
		w.Text(s)
	}
}

// noTime encodes the zero time: the least int64, which no real time has.
const noTime = 1 << 63

// Time writes t as microseconds since 1970.
func (w *Writer) Time(t time.Time) {
	if t.IsZero() {
		w.Uint(noTime)
		return
	}
	w.Uint(uint64(t.UnixMicro()))
}

// A Reader reads the values that a Writer wrote. If a value is missing or invalid, the
// Reader returns zero for it and for all later values, and OK returns false. So a caller
// can check OK once, at the end.
type Reader struct {
	b      []byte
	failed bool
}

// NewReader returns a Reader of b. Do not change b while the Reader is used.
func NewReader(b []byte) Reader { return Reader{b: b} }

// OK reports whether every value so far could be read.
func (r *Reader) OK() bool { return !r.failed }

// More reports whether there are bytes left to read.
func (r *Reader) More() bool { return len(r.b) > 0 }

// Complete reports whether every value could be read, and no bytes are left.
func (r *Reader) Complete() bool { return r.OK() && !r.More() }

func (r *Reader) fail() { r.failed, r.b = true, nil }

// take returns the next n bytes. It returns nil if there are fewer.
func (r *Reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// Uint reads a number.
func (r *Reader) Uint() uint64 {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// Text reads a text.
func (r *Reader) Text() string { return string(r.take(r.Uint())) }

// Texts reads a list of texts. An empty list is nil.
func (r *Reader) Texts() []string {
	n := r.Uint()
	// Each text has at least the eight bytes of its length. So a forged count is refused
	// here, before anything is allocated for it.
	if n > uint64(len(r.b)/8) {
		r.fail()
		return nil
	}
	var list []string
	for range n {
		list = append(list, r.Text())
	}
	return list
}

// Time reads a time in UTC, of the years 1 to 9999, which RFC 3339 can write. Time fails
// for any other time, and for a second encoding of the zero time.
func (r *Reader) Time() time.Time {
	v := r.Uint()
	if v == noTime || r.failed {
		return time.Time{}
	}
	t := time.UnixMicro(int64(v)).UTC()
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		r.fail()
		return time.Time{}
	}
	return t
}

// Fixed fills dst with the bytes that Writer.Fixed wrote.
func (r *Reader) Fixed(dst []byte) { copy(dst, r.take(uint64(len(dst)))) }
