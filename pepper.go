package apikey

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"sync"
)

// Pepper is a secret of the program, kept outside the database, in a slot from 1 to 61.
// Every value that is made with a pepper begins with its slot, so several peppers can
// verify while the first of a list makes new values. A Pepper prints as its slot.
//
// To introduce the first pepper: add it to every Verifier and then to every Manager,
// both with AcceptUntagged while older keys have none. Rotate the keys that
// [ListRequest.Untagged] selects: nothing else can put a tag into their tokens. Renew
// the MACs with [Manager.Remac], and take AcceptUntagged away.
//
// To replace a leaked pepper: add a new one in another slot to every Verifier and then,
// as the first of its list, to every Manager. Rotate the keys that [ListRequest.Pepper]
// selects, call Remac, and take the old one out. From then on every token that it made
// is refused, and its events are Unverifiable. docs/operations.md has both procedures,
// step by step.
type Pepper struct {
	slot uint8
	v    *pepperKeys
}

// MaxPepperSlot is the last slot: a slot is one base62 digit, and 0 means no pepper.
const MaxPepperSlot = 61

// NewPepper makes a pepper of 32 secret random bytes. Take them from a secret manager,
// or from a file that the database's backup does not contain. A slot out of range, or a
// key of zeros, is ErrInvalid.
func NewPepper(slot uint8, key [32]byte) (Pepper, error) {
	if slot < 1 || slot > MaxPepperSlot {
		return Pepper{}, invalid("pepper slot %d: want 1 to %d", slot, MaxPepperSlot)
	}
	if key == [32]byte{} {
		return Pepper{}, invalid("pepper of slot %d is all zeros: want 32 random bytes", slot)
	}
	return Pepper{slot, newPepperKeys(slot, key)}, nil
}

// Slot returns the slot; 0 for the zero Pepper.
func (p Pepper) Slot() uint8 { return p.slot }

// String names the slot only.
func (p Pepper) String() string { return fmt.Sprintf("pepper(slot %d)", p.slot) }

// GoString is String.
func (p Pepper) GoString() string { return p.String() }

// Format writes String for every verb.
func (p Pepper) Format(s fmt.State, _ rune) { io.WriteString(s, p.String()) }

// LogValue is String.
func (p Pepper) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalText is String.
func (p Pepper) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// A purpose separates what one pepper is used for: a value made for one can
// never pass for another.
type purpose uint8

const (
	purposeTag   purpose = iota // 64 bits in the token
	purposeProof                // StoreCredential.Check
	purposeHash                 // HMACSHA256, the Hasher
	purposeCode                 // e-mailed codes
	purposeRow                  // StoreRecord.MAC
	purposeEvent                // the activity log's chain
	purposeItem                 // challenges and grants
	purposeMark                 // the check values in the store, and what vouches for them
)

// purposes are the names that subkeys are derived under: never to be changed.
var purposes = [...]string{"tag", "proof", "hash", "code", "row", "event", "item", "mark"}

// pepperKeys computes HMACs under subkeys that nothing else can reach: they
// live in a closure, where no printer follows.
type pepperKeys struct {
	slot uint8
	mac  func(purpose, []byte) [32]byte
}

func markOf(k *pepperKeys) []byte {
	sum := k.mac(purposeMark, []byte("apikey pepper mark v1"))
	return sum[:]
}

// keyedMAC is an HMAC that has its key already, and room for its result. They
// are pooled, because a forged tag must cost no memory, and because setting a
// key costs as much as a short message.
type keyedMAC struct {
	hash.Hash
	sum [32]byte
}

func newPepperKeys(slot uint8, key [32]byte) *pepperKeys {
	var macs [len(purposes)]sync.Pool
	for p, name := range purposes {
		// HKDF-SHA-256, RFC 5869. It fails for lengths beyond 255 blocks only.
		sub, err := hkdf.Key(sha256.New, key[:], nil, "apikey pepper v1 "+name, 32)
		if err != nil {
			panic(err)
		}
		macs[p].New = func() any { return &keyedMAC{Hash: hmac.New(sha256.New, sub)} }
	}
	return &pepperKeys{slot, func(p purpose, msg []byte) [32]byte {
		pool := &macs[p]
		m := pool.Get().(*keyedMAC)
		m.Reset()
		m.Write(msg)
		m.Sum(m.sum[:0])
		sum := m.sum
		pool.Put(m)
		return sum
	}}
}

// ring is the peppers of one Manager or Verifier. The zero ring has none.
type ring struct {
	minting *pepperKeys // mints
	slots   [MaxPepperSlot + 1]*pepperKeys
}

func newRing(peppers []Pepper) (r ring, err error) {
	for _, p := range peppers {
		switch {
		case p.v == nil:
			return r, invalid("a pepper in the list is the zero Pepper: make it with NewPepper")
		case r.slots[p.slot] != nil:
			return r, invalid("two peppers are in slot %d", p.slot)
		}
		r.slots[p.slot] = p.v
		if r.minting == nil {
			r.minting = p.v
		}
	}
	return r, nil
}

// has reports whether any pepper is configured.
func (r *ring) has() bool { return r.minting != nil }

// at returns the pepper of a slot, nil if it is not configured.
func (r *ring) at(slot uint8) *pepperKeys {
	if slot > MaxPepperSlot {
		return nil
	}
	return r.slots[slot]
}
