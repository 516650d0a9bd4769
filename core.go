package apikey

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// core is what Manager and Verifier share: how a token is proven against a
// record, and when a record is believed.
type core struct {
	prefix         string
	catalog        *Catalog
	hashers        []Hasher // the first is current
	ring           ring
	acceptUntagged bool
	forms          *forms
	skew           time.Duration // a Manager's; a Verifier has none
}

// newCore is the part of a configuration that both constructors check.
func newCore(prefix string, catalog *Catalog, hashers []Hasher, peppers []Pepper, untagged bool) (core, error) {
	if err := checkPrefix(prefix); err != nil {
		return core{}, err
	}
	r, err := newRing(peppers)
	if err != nil {
		return core{}, err
	}
	if len(hashers) == 0 {
		argon, err := NewArgon2id(Argon2idConfig{})
		if err != nil {
			return core{}, err
		}
		hashers = []Hasher{argon}
	}
	if err := validHashers(hashers, r); err != nil {
		return core{}, err
	}
	return core{
		prefix: prefix, catalog: catalog, hashers: hashers, ring: r, acceptUntagged: untagged,
		forms: &forms{lists: map[string]*abilities{}},
	}, nil
}

// matches fails the start where a Verifier of this process could not accept what this
// Manager issues, would read it otherwise, or would hash it anew: before anything is
// written.
func (c *core) matches(local []*Verifier) error {
	for i, v := range local {
		switch {
		case v.prefix != c.prefix:
			return invalid("ManagerConfig.Local[%d] has prefix %q, the Manager has %q", i, v.prefix, c.prefix)
		case c.ring.has() && v.ring.at(c.ring.first.slot) == nil:
			return invalid("ManagerConfig.Local[%d] has not the pepper of slot %d, with which the Manager mints", i, c.ring.first.slot)
		case c.ring.has() && !samePepper(c.ring.first, v.ring.at(c.ring.first.slot)):
			return fmt.Errorf("%w: ManagerConfig.Local[%d] has another pepper in slot %d than the Manager", ErrPepper, i, c.ring.first.slot)
		case !c.ring.has() && v.ring.has() && !v.acceptUntagged:
			return invalid("ManagerConfig.Local[%d] has a pepper, and the Manager mints without one: give it the same, or set AcceptUntagged while it is introduced", i)
		case c.catalog.forms() > v.catalog.forms():
			return invalid("ManagerConfig.Local[%d] has not the Catalog's forms of ability that the Manager gives to keys: set VerifierConfig.Catalog to the same", i)
		}
		if why := hashesOf(c.hashers[0], v); why != "" {
			return invalid("ManagerConfig.Local[%d] %s: share the Hasher of ManagerConfig with VerifierConfig.Hashers", i, why)
		}
	}
	return nil
}

// hashesOf says why a Verifier does not fit what a Manager's Hasher makes; "" if it
// does.
func hashesOf(minting Hasher, v *Verifier) string {
	made := sampleOf(minting)
	reader := pickHasher(v.hashers, made)
	switch {
	case reader == nil:
		return fmt.Sprintf("has no Hasher for %s, with which the Manager hashes", minting.Name())
	case !canRead(reader, minting):
		return fmt.Sprintf("has a Hasher for %s that cannot read what the Manager hashes, by its MaxMemory or its peppers", minting.Name())
	case v.cfg.ReadOnly || !v.hashers[0].Outdated(made):
		return ""
	}
	for _, h := range v.hashers { // a list that names it means to replace what it makes
		if sampleOf(h) == made {
			return ""
		}
	}
	return fmt.Sprintf("would hash anew, as %s, whatever the Manager hashes", v.hashers[0].Name())
}

// sampleOf is a hash in the form of a Hasher's own, made of nothing and without its
// cost. Of one of the program's own only the name is known.
func sampleOf(h Hasher) string {
	switch h := h.(type) {
	case *Argon2id:
		return argonHash{h.memory, h.time, h.lanes, make([]byte, argonSaltLen), make([]byte, argonKeyLen)}.String()
	case *HMACSHA256:
		return encodeHMAC(h.ring.first.slot, make([]byte, sha256.Size))
	}
	return "$" + h.Name() + "$x"
}

// canRead reports whether a Hasher can read what another one of its name makes. Of one
// of the program's own nobody can say more than that the names agree.
func canRead(h, minting Hasher) bool {
	switch h := h.(type) {
	case *Argon2id:
		m, is := minting.(*Argon2id)
		return !is || m.memory <= h.maxMemory
	case *HMACSHA256:
		m, is := minting.(*HMACSHA256)
		return !is || samePepper(m.ring.first, h.ring.at(m.ring.first.slot))
	}
	return true
}

func samePepper(a, b *pepperKeys) bool {
	return a != nil && b != nil && sameText(string(markOf(a)), string(markOf(b)))
}

// validHashers finds a Hasher that could never work: its hashes would be called
// damaged in the traffic.
func validHashers(hashers []Hasher, peppers ring) error {
	for _, h := range hashers {
		switch h := h.(type) {
		case nil:
			return invalid("a Hasher in the list is nil")
		case *Argon2id:
			if h == nil || h.gate == nil {
				return invalid("make an Argon2id with NewArgon2id")
			}
		case *HMACSHA256:
			if h == nil || !h.ring.has() {
				return invalid("make an HMACSHA256 with NewHMACSHA256")
			}
			for slot, k := range h.ring.slots {
				if other := peppers.at(uint8(slot)); k != nil && other != nil && !samePepper(k, other) {
					return fmt.Errorf("%w: the HMAC Hasher has another pepper in slot %d than Peppers", ErrPepper, slot)
				}
			}
		default:
			if name := h.Name(); name == "" || strings.Contains(name, "$") {
				return invalid("a Hasher's Name is %s: want one that can stand between two '$'", quote(name))
			}
		}
	}
	return nil
}
