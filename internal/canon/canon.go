// Package canon is the one encoding under the library's MACs, its event chain, its
// stored items and the data that a grant is bound to.
//
// Different values never write the same bytes: the bytes under a MAC or a hash must
// have one reading. Numbers and times take eight bytes, big endian. Texts, and lists of
// texts, begin with their length. Nothing names a field or a type, so a reader has to
// ask for the values in the order in which they were written. The encoding does not
// change, because stored bytes must be readable for ever.
package canon

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// A Writer encodes one value after the other. The zero Writer is empty.
type Writer struct{ b []byte }

// NewWriter returns a Writer with room for size bytes.
func NewWriter(size int) Writer { return Writer{make([]byte, 0, size)} }

// Encoded returns the bytes that were written. The next value may overwrite them.
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

// Bytes is Text for bytes.
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

// noTime is how the zero time is written: the least number, which no real time has.
const noTime = 1 << 63

// Time writes microseconds since 1970.
func (w *Writer) Time(t time.Time) {
	if t.IsZero() {
		w.Uint(noTime)
		return
	}
	w.Uint(uint64(t.UnixMicro()))
}

// A Reader reads the values that a Writer wrote. After the first value that is missing,
// all values are zero and OK is false, so a caller asks once, at the end.
type Reader struct {
	b      []byte
	failed bool
}

// NewReader returns a Reader of b. Nobody may change b meanwhile.
func NewReader(b []byte) Reader { return Reader{b: b} }

// OK reports whether every value so far was there.
func (r *Reader) OK() bool { return !r.failed }

// More reports whether there is something left to read.
func (r *Reader) More() bool { return len(r.b) > 0 }

// Complete reports whether every value was there, and nothing is left.
func (r *Reader) Complete() bool { return r.OK() && !r.More() }

func (r *Reader) fail() { r.failed, r.b = true, nil }

// take returns the next n bytes; nil if there are fewer.
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
	// Each text takes its length at least, so a forged number allocates nothing.
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

// Time reads a time of the years that RFC 3339 can write, 1 to 9999, in UTC. Any other
// time fails, and so does a second way to write the zero time.
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
