// Package totp computes one-time passwords: HOTP (RFC 4226) and TOTP (RFC
// 6238).
package totp

import (
	"crypto/hmac"
	"crypto/sha1" // what RFC 4226 and every authenticator app use; HMAC does not need its collision resistance
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"time"
)

// Period is the length of a time step.
const Period = 30 * time.Second

// Step is the number of the time step of t.
func Step(t time.Time) uint64 { return uint64(t.Unix() / int64(Period/time.Second)) }

// Code is the six-digit HMAC-SHA-1 code of a counter.
func Code(seed []byte, counter uint64) string { return HOTP(sha1.New, seed, counter, 6) }

// HOTP is RFC 4226, with the hash functions that RFC 6238 adds; digits from 6
// to 9.
func HOTP(h func() hash.Hash, seed []byte, counter uint64, digits int) string {
	mac := hmac.New(h, seed)
	mac.Write(binary.BigEndian.AppendUint64(nil, counter))
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0x0F // dynamic truncation, section 5.3
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7FFFFFFF
	mod := uint32(1)
	for range digits {
		mod *= 10
	}
	return fmt.Sprintf("%0*d", digits, n%mod)
}

// Match finds the step around now whose code was given: the one before, the
// present one, the one after (RFC 6238, section 5.2). Steps up to and including
// used never match, so that no code works twice. It takes the same time
// whichever matches, or none.
func Match(seed []byte, code string, now time.Time, used uint64) (step uint64, ok bool) {
	for _, s := range []uint64{Step(now) - 1, Step(now), Step(now) + 1} {
		same := subtle.ConstantTimeCompare([]byte(Code(seed, s)), []byte(code)) == 1
		if same && s > used {
			step, ok = s, true
		}
	}
	return step, ok
}
