// Package totp computes one-time passwords: HOTP (RFC 4226) and TOTP (RFC
// 6238).
package totp

import (
	"crypto/hmac"
	"crypto/sha1" // RFC 4226 and authenticator apps use SHA-1; HMAC does not need collision resistance
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"time"
)

// Period is the length of a time step.
const Period = 30 * time.Second

// Step returns the number of t's time step.
func Step(t time.Time) uint64 { return uint64(t.Unix() / int64(Period/time.Second)) }

// Code returns the six-digit HMAC-SHA-1 code of a counter.
func Code(seed []byte, counter uint64) string { return HOTP(sha1.New, seed, counter, 6) }

// HOTP returns the code of a counter by RFC 4226, with a hash function that RFC 4226 or
// RFC 6238 allows, and 6 to 9 digits.
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

// Match finds the time step that code belongs to. It tries the current step, the step
// before it and the step after it (RFC 6238, section 5.2). Steps up to and including used
// never match, so that no code works twice. Match takes the same time whichever step
// matches, and if none does.
func Match(seed []byte, code string, now time.Time, used uint64) (step uint64, ok bool) {
	for _, s := range []uint64{Step(now) - 1, Step(now), Step(now) + 1} {
		same := subtle.ConstantTimeCompare([]byte(Code(seed, s)), []byte(code)) == 1
		if same && s > used {
			step, ok = s, true
		}
	}
	return step, ok
}
