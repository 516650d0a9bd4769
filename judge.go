package apikey

import (
	"math"
	"net/netip"
	"slices"
)

// terms are what a key is judged by, at every verification. They lie together,
// apart from the rest of what is known of it, in the order of liveKey's lines of
// memory: of a key that was not used just now, every line is waited for.
type terms struct {
	notBefore int64 // microseconds since 1970, as all three
	notAfter  int64
	expires   int64
	state     State
	kind      Kind
	mode      Mode
	ended     bool         // the credential
	unlisted  bool         // ended for that alone that the record does not list it
	bound     bool         // to networks
	network   netip.Prefix // the first, which is mostly the one

	abilities []Ability
	origins   []string
	account   string

	networks []netip.Prefix
}

// termsOf reads them out of a record that was described. Times are whole
// microseconds wherever they are stored.
func termsOf(info *Info, cred *Credential) terms {
	t := terms{
		notBefore: math.MinInt64, notAfter: math.MaxInt64, expires: math.MaxInt64,
		state: info.State, kind: info.Kind, mode: info.Mode, account: info.Account,
		networks: info.Networks.s, abilities: info.Abilities.s, origins: info.Origins.s,
	}
	if !info.ExpiresAt.IsZero() {
		t.expires = info.ExpiresAt.UnixMicro()
	}
	if len(t.networks) > 0 {
		t.bound, t.network = true, t.networks[0]
	}
	if cred == nil { // a record drops what ended long ago
		t.ended, t.unlisted = true, true
		return t
	}
	t.ended = cred.Ended
	if !cred.NotBefore.IsZero() {
		t.notBefore = cred.NotBefore.UnixMicro()
	}
	if !cred.NotAfter.IsZero() {
		t.notAfter = cred.NotAfter.UnixMicro()
	}
	return t
}

// judge is asked on every hit, against the clock: what the proven key may do now.
// The order is part of the contract: dead before denied.
func (v *Verifier) judge(k *liveKey, r *Request, now int64) error {
	if k.also != nil {
		if err := v.judge(k.also, r, now); err != nil {
			return err
		}
	}
	switch {
	case k.state == Revoked:
		return ErrRevoked
	case k.state == Suspended:
		return ErrSuspended
	case k.ended:
		return ErrCredentialEnded
	case now < k.notBefore:
		return ErrNotYetValid
	case now >= k.notAfter:
		return ErrCredentialEnded
	case now >= k.expires:
		return ErrExpired
	case k.kind == Publishable && !r.AllowPublishable:
		return ErrKind
	case v.cfg.Mode != AnyMode && k.mode != v.cfg.Mode:
		return ErrMode
	}
	if v.cfg.Standing != nil {
		if err := v.cfg.Standing.Allowed(k.account, k.mode); err != nil {
			return joined(ErrStanding, err)
		}
	}
	if k.bound && !k.addrAllowed(r.Addr) {
		return ErrAddr
	}
	if len(k.origins) > 0 && !slices.Contains(k.origins, canonicalOrigin(r.Origin)) {
		return ErrOrigin
	}
	if missing := canAll(k.abilities, r.Require); missing != nil {
		return &AbilityError{missing}
	}
	return nil
}

// addrAllowed asks a list, which allows nobody whose address is unknown. A 4-in-6
// address is the IPv4 address that it stands for: ::/0 is no list of IPv4 addresses.
// A zone names an interface of this machine, and no network contains an address
// that has one.
func (t *terms) addrAllowed(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return addr.IsValid() && (t.network.Contains(addr) ||
		slices.ContainsFunc(t.networks, func(n netip.Prefix) bool { return n.Contains(addr) }))
}
