package apikey

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"time"
)

// terms are the fields that judge compares at every verification. They are together,
// apart from the other fields of the key: if a key was not used just now, the processor
// waits for every cache line that it reads.
type terms struct {
	state    State
	kind     Kind
	mode     Mode
	ended    bool  // the credential has ended
	bound    uint8 // 0: to no network; 4 or 6: the IP version of network
	bits     uint8 // of network
	origins  bool  // bound to origins
	troubled bool  // see about.trouble

	until     int64  // microseconds since 1970: the end of credential or key, the earlier
	notBefore int64  // microseconds since 1970
	network   uint64 // the first; most keys have no second: see topBits
	account   string
	abilities *abilities
}

// always and never are before and after all times.
const (
	always = math.MinInt64
	never  = math.MaxInt64
)

// microsOr returns a time in microseconds since 1970; for the zero time, it returns the
// argument zero. Every stored time is in whole microseconds.
func microsOr(t time.Time, zero int64) int64 {
	if t.IsZero() {
		return zero
	}
	return t.UnixMicro()
}

// judgedBy puts the terms of a described record, and of its credential, into a
// cachedKey. If the credential ended long ago, its record no longer lists it: then cred
// is nil.
func (k *cachedKey) judgedBy(cred *StoreCredential, list *abilities) {
	info := &k.info
	k.terms = terms{
		state: info.State, kind: info.Kind, mode: info.Mode, account: info.Account,
		abilities: list, origins: len(info.Origins.s) > 0,
	}
	if n := info.Networks.s; len(n) > 0 {
		k.network, k.bound = topBits(n[0].Addr())
		k.bits = uint8(n[0].Bits())
	}
	if cred == nil {
		k.ended, k.unlisted = true, true
		cred = &StoreCredential{}
	}
	k.ended = k.ended || cred.Ended
	k.notBefore, k.notAfter = microsOr(cred.NotBefore, always), microsOr(cred.NotAfter, never)
	k.until = min(k.notAfter, microsOr(info.ExpiresAt, never))
}

// judge decides, on every request and against the clock, what the proven key may do
// now. The order is part of the contract: whether the key can be used at all comes
// first, then whether it may be used for this request.
func (v *Verifier) judge(k *cachedKey, r *Request, now int64) error {
	if also := k.trouble().also; also != nil {
		if err := v.judge(also, r, now); err != nil {
			return err
		}
	}
	if err := k.unusable(now); err != nil {
		return err
	}
	switch {
	case k.kind == Publishable && !r.AllowPublishable:
		return ErrKind
	case v.cfg.Mode != AnyMode && k.mode != v.cfg.Mode:
		return ErrMode
	}
	if v.settings.Standing != nil {
		if err := v.settings.Standing.Allowed(k.account, k.mode); err != nil {
			return joined(ErrStanding, err)
		}
	}
	if k.bound != 0 && !k.addrAllowed(r.Addr) {
		return ErrAddr
	}
	// A browser sends the origin in canonical form already.
	if k.origins && !slices.Contains(k.info.Origins.s, r.Origin) && !slices.Contains(k.info.Origins.s, canonicalOrigin(r.Origin)) {
		return ErrOrigin
	}
	if missing := canAll(k.abilities.held, r.Require); missing != nil {
		return &AbilityError{missing}
	}
	return nil
}

// unusable returns why no request can use a key at a time; nil if some request can.
func (k *cachedKey) unusable(now int64) error {
	switch {
	case k.state == Revoked:
		return ErrRevoked
	case k.state == Suspended:
		return ErrSuspended
	case k.ended:
		return ErrCredentialEnded
	case now < k.notBefore:
		return ErrNotYetValid
	case now >= k.until && now >= k.notAfter:
		return ErrCredentialEnded
	case now >= k.until:
		return ErrExpired
	}
	return nil
}

// addrAllowed reports whether the key's networks contain an address. An unknown address
// is in no network. A 4-in-6 address counts as the IPv4 address that it stands for:
// ::/0 is no list of IPv4 addresses. A zone names an interface of this machine. No
// network contains an address with a zone, so the zone is removed.
func (k *cachedKey) addrAllowed(addr netip.Addr) bool {
	if !addr.IsValid() {
		return false
	}
	addr = addr.Unmap().WithZone("")
	if top, version := topBits(addr); version == k.bound && k.bits <= 64 && (top^k.network)>>(64-k.bits) == 0 {
		return true
	}
	return slices.ContainsFunc(k.info.Networks.s, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// topBits returns an address's first 64 bits and its IP version. For IPv4, the bits
// after the address are zero.
func topBits(addr netip.Addr) (bits uint64, version uint8) {
	if addr.Is4() {
		b := addr.As4()
		return uint64(binary.BigEndian.Uint32(b[:])) << 32, 4
	}
	b := addr.As16()
	return binary.BigEndian.Uint64(b[:8]), 6
}

// instant is a time by both clocks, as numbers, because every request makes four
// comparisons of instants. The zero instant is no time.
type instant struct {
	wall int64         // microseconds since 1970
	mono time.Duration // since NewVerifier; the wall clock if Settings.Now has no other
}

func (v *Verifier) now() instant { return v.instantOf(v.settings.Now()) }

func (v *Verifier) instantOf(t time.Time) instant { return instant{t.UnixMicro(), t.Sub(v.made)} }

// elapsed returns the time by the wall clock or by the monotonic clock, whichever is
// longer: the monotonic clock of a suspended machine stands still, and a wall clock can
// be set back.
func elapsed(now, then instant) time.Duration {
	return max(now.mono-then.mono, time.Duration(now.wall-then.wall)*time.Microsecond)
}
