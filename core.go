package apikey

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// core is what Manager and Verifier share: how a token is proven against a record, and
// when a record is believed.
type core struct {
	prefix         string
	catalog        *Catalog
	hashers        []Hasher // the first is current
	ring           ring
	acceptUntagged bool
	forms          *forms
	skew           time.Duration // of a Manager; 0 in a Verifier
}

// newCore checks the part of a configuration that both constructors have.
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

// sampleOf returns a hash in the form of a Hasher's own, of zeros and without its cost.
// If the Hasher is one of the program's own, only its name is known.
func sampleOf(h Hasher) string {
	switch h := h.(type) {
	case *Argon2id:
		return argonHash{h.memory, h.time, h.lanes, make([]byte, argonSaltLen), make([]byte, argonKeyLen)}.String()
	case *HMACSHA256:
		return encodeHMAC(h.ring.minting.slot, make([]byte, sha256.Size))
	}
	return "$" + h.Name() + "$x"
}

// canRead reports whether a Hasher can read what another one of its name makes. If the
// Hasher is one of the program's own, only the names can be compared.
func canRead(h, minting Hasher) bool {
	switch h := h.(type) {
	case *Argon2id:
		m, is := minting.(*Argon2id)
		return !is || m.memory <= h.maxMemory
	case *HMACSHA256:
		m, is := minting.(*HMACSHA256)
		return !is || samePepper(m.ring.minting, h.ring.at(m.ring.minting.slot))
	}
	return true
}

func samePepper(a, b *pepperKeys) bool {
	return a != nil && b != nil && sameText(string(markOf(a)), string(markOf(b)))
}

// validHashers refuses a Hasher that could never work. Otherwise its hashes would be
// called damaged only when requests come.
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
