package apikey

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// knownNeeds are the feature bits of StoreRecord.Needs that this version knows. If a
// newer version writes something that this one would skip, the newer version sets a
// bit.
const knownNeeds = 0

// parse reads a token of this program. Every fault gives the same ErrInvalidToken.
func (c *core) parse(text string) (p parsed, err error) {
	if !c.locate(text, &p) || !p.wellFormed() {
		return parsed{}, ErrInvalidToken
	}
	return p, nil
}

// locate is parse without checking the form of what only a proof needs; see
// parsed.read.
func (c *core) locate(text string, p *parsed) bool {
	return p.read(text) && p.prefix() == c.settings.Prefix
}

// tagged refuses, without a store, a token that no pepper of ours has minted.
func (c *core) tagged(p *parsed) error {
	if p.slot == 0 {
		if c.ring.has() && !c.settings.AcceptUntagged {
			return ErrInvalidToken
		}
		return nil
	}
	k := c.ring.at(p.slot)
	if k == nil || !p.tagHolds(k) {
		return ErrInvalidToken
	}
	return nil
}

// proveRow decides whether p is a token of the record that its ID led to. Every proof
// of a token passes here, whoever asks. byCheck accepts the check, if there is one, as
// the whole proof. Without a pepper that is 32 bits: enough for a caller who only
// learns that there is nothing to do.
func (c *core) proveRow(ctx context.Context, p parsed, r *StoreRecord, byCheck bool) (renew bool, err error) {
	cred := r.credential(p.id)
	if cred == nil {
		return false, notListed(r.ID)
	}
	if p.slot != cred.Pepper && c.ring.has() && c.authentic(r) == nil {
		return false, ErrInvalidToken // the holder changed the slot: the row is authentic
	}
	if traits(r.Kind).sealed && cred.Hash == "" && len(cred.Check) == 0 {
		return false, &CorruptError{Key: r.ID, Detail: "the credential has neither hash nor check"}
	}
	renew, err = c.prove(ctx, p, cred, byCheck)
	switch {
	case err == nil:
		return renew && traits(p.kind).sealed, nil
	case errors.Is(err, ErrCorrupt):
		return false, &CorruptError{Key: r.ID, Detail: "the stored hash or check is unreadable, too costly, or of an algorithm that none of Settings.Hashers is for"}
	case errors.Is(err, ErrInvalidToken):
		return false, err
	}
	return false, unavailable(err) // an error of the program's own Hasher
}

// notListed is the error for a lookup by a credential that led to a record which does
// not list it.
func notListed(key KeyID) *CorruptError {
	return &CorruptError{Key: key, Detail: "lookup by a credential that the record does not list"}
}

// prove decides whether p is the token of cred. renew says that hash and check should
// be made anew from the token. The comparisons are constant-time. A stored hash, check
// or ID can never pass as a token, because what is compared is always derived from the
// presented text.
func (c *core) prove(ctx context.Context, p parsed, cred *StoreCredential, byCheck bool) (renew bool, err error) {
	if traits(p.kind).published { // not a secret: its text is stored
		if !sameText(p.text, cred.Public) {
			return false, ErrInvalidToken
		}
		return false, nil
	}
	// Anybody can write "sk" before the public ID of a publishable key. That is a
	// wrong token, not a damaged record.
	if cred.Hash == "" && len(cred.Check) == 0 {
		return false, ErrInvalidToken
	}
	proven := false
	if len(cred.Check) > 0 {
		slot := cred.Check[0]
		k := c.ring.at(slot)
		if slot == 0 || k != nil {
			check := makeCheck(k, p)
			if len(check) != len(cred.Check) {
				return false, fmt.Errorf("%w: stored check has another length", ErrCorrupt)
			}
			if subtle.ConstantTimeCompare(check, cred.Check) != 1 {
				return false, ErrInvalidToken
			}
			proven = byCheck || slot != 0 // 32 bits only refuse; a whole HMAC decides
		}
	}
	if !proven {
		h := pickHasher(c.settings.Hashers, cred.Hash)
		if h == nil {
			return false, fmt.Errorf("%w: stored hash has an unknown algorithm", ErrCorrupt)
		}
		ok, err := h.Verify(ctx, cred.Hash, bytesOf(p.proven()))
		if err != nil {
			return false, err
		}
		if !ok {
			return false, ErrInvalidToken
		}
	}
	return c.weak(cred.Check) || c.settings.Hashers[0].Outdated(cred.Hash), nil
}

// hash makes the stored hash of a token. It refuses a hash that this Hasher would not
// recognize: if such a hash were stored, its record would be called damaged.
func (c *core) hash(ctx context.Context, p parsed) (string, error) {
	h := c.settings.Hashers[0]
	encoded, err := h.Hash(ctx, bytesOf(p.proven()))
	if err == nil && pickHasher(c.settings.Hashers[:1], encoded) == nil {
		err = invalid("the Hasher of Name %s made a hash that does not begin with \"$%s$\": nothing was stored", quote(h.Name()), h.Name())
	}
	return encoded, err
}

// weak reports whether a check should be made anew: there is none, or it was made
// without a pepper while there is one now, or its pepper is gone. If two peppers are
// both configured, neither is better. So nodes that list them in a different order do
// not undo each other's checks.
func (c *core) weak(check []byte) bool {
	return len(check) == 0 || c.ring.has() && c.ring.at(check[0]) == nil
}

// believe checks that a record is what a Manager wrote, and that this version knows all
// that the record uses. If a newer version wrote something unknown, the record is
// refused; nothing is skipped.
func (c *core) believe(r *StoreRecord) error {
	if err := c.authentic(r); err != nil {
		return err
	}
	return c.understood(r)
}

// authentic checks a record's MAC. The MAC does not match if somebody with write access
// to the database moved the key to another account, prolonged it or added an ability.
func (c *core) authentic(r *StoreRecord) error {
	bad := func(detail string) error { return &CorruptError{Key: r.ID, Detail: detail} }
	if c.ring.has() {
		switch {
		case len(r.MAC) == 0:
			if !c.settings.AcceptUntagged || r.tagged() {
				return bad("record has no MAC")
			}
		case c.ring.at(r.MAC[0]) == nil:
			return bad(fmt.Sprintf("record's MAC is of pepper slot %d, which is not configured", r.MAC[0]))
		case subtle.ConstantTimeCompare(r.MAC, recordMAC(c.ring.at(r.MAC[0]), r)) != 1:
			return bad("record's MAC does not match its contents")
		}
	}
	return nil
}

func (c *core) understood(r *StoreRecord) error {
	bad := func(detail string) error { return &CorruptError{Key: r.ID, Detail: detail} }
	switch {
	case r.Needs&^knownNeeds != 0:
		return bad(fmt.Sprintf("record needs features %#x that this version does not know", r.Needs&^knownNeeds))
	case !traits(r.Kind).bearer:
		return bad(fmt.Sprintf("kind %d is unknown to this version", r.Kind))
	case r.Mode != Live && r.Mode != Test:
		return bad(fmt.Sprintf("mode %d is unknown", r.Mode))
	}
	if _, all := c.abilities(r.Abilities); !all {
		return bad("an ability's form is unknown to this version")
	}
	return nil
}

// minting returns the pepper of new tokens and items, and of events that are about no
// key; nil: none.
func (c *core) minting() *pepperKeys {
	if c.plain {
		return nil
	}
	return c.ring.minting
}

// signing returns the pepper of a record's next MAC and event; nil: none. A Manager that
// mints without a pepper signs what another one has signed already: without its MAC the
// record of a tagged token is damaged, and an event without a pepper cannot follow one
// that has it.
func (c *core) signing(r *StoreRecord) *pepperKeys {
	if c.plain && len(r.MAC) == 0 && !r.tagged() {
		return nil
	}
	return c.ring.minting
}

// tagged reports whether a token of the record was made with a pepper.
func (r *StoreRecord) tagged() bool {
	return slices.ContainsFunc(r.Credentials, func(c StoreCredential) bool { return c.Pepper != 0 })
}

// sign renews the MAC of a record. Without a pepper, there is no MAC.
func (c *core) sign(r *StoreRecord) {
	k := c.signing(r)
	r.MAC = nil
	if k != nil {
		r.MAC = recordMAC(k, r)
	}
}

// recordMAC covers every field that says what a key may do, and the key's place in its
// chain. The fields that Upkeep swaps are not covered, because they change without a
// new version. They protect themselves: tag and check need the pepper, the sealed copy
// needs its KEK.
func recordMAC(k *pepperKeys, r *StoreRecord) []byte {
	c := canon.NewWriter(512) // enough for most records: each cold verification needs one
	c.Text("apikey record v1")
	c.Bytes(r.ID[:])
	c.Text(r.Account)
	c.Text(r.Name)
	c.Uint(uint64(r.Mode))
	c.Uint(uint64(r.Kind))
	c.Uint(r.Version)
	c.Bytes(r.Head[:])
	c.Uint(r.Needs)
	c.Texts(r.Abilities)
	c.Uint(uint64(len(r.Networks)))
	for _, n := range r.Networks {
		c.Text(n.String())
	}
	c.Texts(r.Origins)
	c.Uint(uint64(len(r.Metadata)))
	for _, name := range slices.Sorted(maps.Keys(r.Metadata)) {
		c.Text(name)
		c.Text(r.Metadata[name])
	}
	c.Bool(r.Disabled)
	c.Text(string(r.RevokeReason))
	c.Uint(uint64(r.RotateMonths))
	c.Bool(r.Recoverable)
	for _, t := range []time.Time{r.CreatedAt, r.ExpiresAt, r.RevokedAt, r.RotateDue} {
		c.Time(t)
	}
	c.Uint(uint64(len(r.Credentials)))
	for _, cred := range r.Credentials {
		c.Bytes(cred.ID[:])
		c.Time(cred.NotBefore)
		c.Time(cred.NotAfter)
		c.Bool(cred.Ended)
		c.Text(cred.Hint)
		c.Text(cred.Public)
		c.Uint(uint64(cred.Pepper))
	}
	sum := k.mac(purposeRow, c.Encoded())
	return append([]byte{k.slot}, sum[:]...)
}
