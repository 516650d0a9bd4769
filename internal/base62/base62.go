// Package base62 writes numbers as fixed-width text of 0-9, A-Z, a-z.
//
// Each number has only one spelling: the caller chooses the width, and a text whose value
// is too large is refused. So if a text can be decoded, encoding the number gives the
// same text again.
package base62

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// Alphabet lists the digits by value. The values are in the order of the digits' bytes,
// so encoded numbers of the same width sort like the numbers.
const Alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// IDLen is the number of digits of a 128-bit ID: 62^22 is the first power above 2^128.
const IDLen = 22

const (
	chunk = 10                 // digits whose value always fits a uint64
	base  = 839299365868340224 // 62^10
)

// values maps each byte to its value as a digit, and bytes outside the alphabet to 0xFF.
var values = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xFF
	}
	for i := range len(Alphabet) {
		t[Alphabet[i]] = byte(i)
	}
	return t
}()

// Append appends v to dst, in exactly width digits. The value must fit.
func Append(dst []byte, v uint64, width int) []byte {
	n := len(dst)
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; i >= n; i-- {
		dst[i] = Alphabet[v%62]
		v /= 62
	}
	return dst
}

// Uint decodes a text of 1 to 11 digits. It returns false if the length is wrong, if a
// character is outside the alphabet, or if the value needs more than bitSize bits.
func Uint(s string, bitSize int) (uint64, bool) {
	if len(s) == 0 || len(s) > chunk+1 {
		return 0, false
	}
	v, ok := digits(s[:min(len(s), chunk)])
	if len(s) > chunk { // one more digit, with which the value may overflow
		d := uint64(values[s[chunk]])
		hi, lo := bits.Mul64(v, 62)
		sum, carry := bits.Add64(lo, d, 0)
		v, ok = sum, ok && d < 62 && hi|carry == 0
	}
	if !ok || bitSize < 64 && v>>bitSize != 0 {
		return 0, false
	}
	return v, true
}

// digits decodes at most chunk digits, whose value cannot overflow. It returns false if a
// character is outside the alphabet.
func digits(s string) (v uint64, ok bool) {
	var bad byte
	for i := range len(s) {
		d := values[s[i]]
		bad |= d
		v = v*62 + uint64(d)
	}
	return v, bad < 0x80
}

// AppendID appends id to dst, as [IDLen] digits.
func AppendID(dst []byte, id [16]byte) []byte {
	hi, lo := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	hi, lo, low := divmod(hi, lo)
	_, high, mid := divmod(hi, lo)
	dst = Append(dst, high, IDLen-2*chunk)
	dst = Append(dst, mid, chunk)
	return Append(dst, low, chunk)
}

// ID decodes exactly [IDLen] digits. It returns false if the length is wrong, if a
// character is outside the alphabet, or if the value needs more than 128 bits.
func ID(s string) (id [16]byte, ok bool) {
	if len(s) != IDLen {
		return id, false
	}
	high, ok1 := digits(s[:IDLen-2*chunk])
	mid, ok2 := digits(s[IDLen-2*chunk : IDLen-chunk])
	low, ok3 := digits(s[IDLen-chunk:])
	if !ok1 || !ok2 || !ok3 {
		return id, false
	}
	// The value is (high·62^10 + mid)·62^10 + low. The term in brackets fits 72 bits.
	hi, lo := bits.Mul64(high, base)
	lo, carry := bits.Add64(lo, mid, 0)
	hi += carry
	over, hi2 := bits.Mul64(hi, base)
	mulHi, lo2 := bits.Mul64(lo, base)
	hi2, carry = bits.Add64(hi2, mulHi, 0)
	over += carry
	lo2, carry = bits.Add64(lo2, low, 0)
	hi2, carry = bits.Add64(hi2, 0, carry)
	if over+carry != 0 {
		return id, false
	}
	binary.BigEndian.PutUint64(id[:8], hi2)
	binary.BigEndian.PutUint64(id[8:], lo2)
	return id, true
}

// Digit decodes one digit. It returns false if c is outside the alphabet.
func Digit(c byte) (v uint8, ok bool) {
	v = values[c]
	return v, v < 62
}

// Valid reports whether every byte of s is a digit.
func Valid(s string) bool {
	var bad byte
	for i := range len(s) {
		bad |= values[s[i]] & 0x80
	}
	return bad == 0
}

// AppendRandom appends n random digits from crypto/rand. Random bytes of 248 and more are
// discarded, so that all digits are equally likely.
func AppendRandom(dst []byte, n int) []byte {
	var buf [64]byte
	for n > 0 {
		rand.Read(buf[:]) // never fails: crypto/rand ends the program instead
		for _, b := range buf {
			if b < 4*62 && n > 0 {
				dst = append(dst, Alphabet[b%62])
				n--
			}
		}
	}
	return dst
}

// divmod divides a 128-bit number by 62^10.
func divmod(hi, lo uint64) (qhi, qlo, rem uint64) {
	qhi, rem = hi/base, hi%base
	qlo, rem = bits.Div64(rem, lo, base)
	return qhi, qlo, rem
}
