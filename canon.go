package apikey

import (
	"encoding/binary"
	"time"
)

// canon writes values so that different values never write the same bytes:
// what a MAC or a hash covers must have one reading. Text and lists carry their
// length; numbers and times are eight bytes.
type canon struct{ b []byte }

func (c *canon) uint(v uint64) { c.b = binary.BigEndian.AppendUint64(c.b, v) }

func (c *canon) bool(v bool) {
	if v {
		c.uint(1)
	} else {
		c.uint(0)
	}
}

func (c *canon) text(s string) {
	c.uint(uint64(len(s)))
	c.b = append(c.b, s...)
}

func (c *canon) bytes(b []byte) { c.text(string(b)) }

func (c *canon) texts(list []string) {
	c.uint(uint64(len(list)))
	for _, s := range list {
		c.text(s)
	}
}

// time writes microseconds since 1970, and the least number for the zero time,
// which no real time has.
func (c *canon) time(t time.Time) {
	if t.IsZero() {
		c.uint(1 << 63)
		return
	}
	c.uint(uint64(t.UnixMicro()))
}

// uncanon reads what canon wrote. After the first value that is not there it
// returns zero values and ok stays false.
type uncanon struct {
	b  []byte
	ok bool
}

func (u *uncanon) uint() uint64 {
	if len(u.b) < 8 {
		u.ok, u.b = false, nil
		return 0
	}
	v := binary.BigEndian.Uint64(u.b)
	u.b = u.b[8:]
	return v
}

func (u *uncanon) text() string {
	n := u.uint()
	if n > uint64(len(u.b)) {
		u.ok, u.b = false, nil
		return ""
	}
	s := string(u.b[:n])
	u.b = u.b[n:]
	return s
}

func (u *uncanon) texts() []string {
	n := u.uint()
	if n > uint64(len(u.b)/8) { // each takes at least its length
		u.ok, u.b = false, nil
		return nil
	}
	var list []string
	for range n {
		list = append(list, u.text())
	}
	return list
}

// time takes the years that RFC 3339 can write, and of the zero time only its
// own spelling.
func (u *uncanon) time() time.Time {
	v := u.uint()
	if v == 1<<63 || !u.ok {
		return time.Time{}
	}
	t := time.UnixMicro(int64(v)).UTC()
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		u.ok, u.b = false, nil
		return time.Time{}
	}
	return t
}

// into fills a fixed-size array.
func (u *uncanon) into(dst []byte) {
	if len(u.b) < len(dst) {
		u.ok, u.b = false, nil
		return
	}
	copy(dst, u.b)
	u.b = u.b[len(dst):]
}
