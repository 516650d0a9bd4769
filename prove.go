package apikey

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
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

// knownNeeds are the feature bits of StoreRecord.Needs that this version knows. A
// newer version that writes something this one would skip sets a bit.
const knownNeeds = 0

// parse reads a token of this program. Every fault is the same ErrInvalidToken.
func (c *core) parse(text string) (p parsed, err error) {
	if !c.locate(text, &p) || !p.wellFormed() {
		return parsed{}, ErrInvalidToken
	}
	return p, nil
}

// locate is parse without the form of what only a proof needs; see parsed.read.
func (c *core) locate(text string, p *parsed) bool { return p.read(text) && p.prefix() == c.prefix }

// tagged refuses, without a store, what no pepper of ours has minted.
func (c *core) tagged(p *parsed) error {
	if p.slot == 0 {
		if c.ring.has() && !c.acceptUntagged {
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

// proveRow decides whether p is a token of the record that its ID led to. It is
// passed by every token that is proven, whoever asks. byCheck takes the check for
// the whole proof, where there is one: 32 bits without a pepper, which is enough to
// be told that there is nothing to do.
func (c *core) proveRow(ctx context.Context, p parsed, r *StoreRecord, byCheck bool) (renew bool, err error) {
	cred := r.credential(p.id)
	if cred == nil {
		return false, notListed(r)
	}
	if p.slot != cred.Pepper && c.ring.has() && c.authentic(r) == nil {
		return false, ErrInvalidToken // relabelled by its holder; a changed row is not authentic
	}
	if r.Kind == Secret && cred.Hash == "" && len(cred.Check) == 0 {
		return false, &CorruptError{Key: r.ID, Detail: "the credential has neither hash nor check"}
	}
	renew, err = c.prove(ctx, p, cred, byCheck)
	switch {
	case err == nil:
		return renew && p.kind == Secret, nil
	case errors.Is(err, ErrCorrupt):
		return false, &CorruptError{Key: r.ID, Detail: "the stored hash or check is unreadable, too costly, or of an algorithm that none of Config.Hashers is for"}
	case errors.Is(err, ErrInvalidToken):
		return false, err
	}
	return false, unavailable(err) // a Hasher of the program's own may fail in its own words
}

// notListed: a lookup by a credential led to a record that does not list it.
func notListed(r *StoreRecord) *CorruptError {
	return &CorruptError{Key: r.ID, Detail: "lookup by a credential that the record does not list"}
}

// prove decides whether p is the token of cred. renew says that hash and check
// should be made anew from it. The comparisons are constant-time; a stored
// hash, check or ID can never pass, because what is compared is always derived
// from the presented text.
func (c *core) prove(ctx context.Context, p parsed, cred *StoreCredential, byCheck bool) (renew bool, err error) {
	if p.kind == Publishable { // not a secret: its text is stored
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
			proven = byCheck || slot != 0 // 32 bits only turn junk away; a whole HMAC decides
		}
	}
	if !proven {
		h := pickHasher(c.hashers, cred.Hash)
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
	return c.weak(cred.Check) || c.hashers[0].Outdated(cred.Hash), nil
}

// weak reports whether a check should be made anew: there is none, it is that
// of no pepper while there is one, or its pepper is gone. Of two peppers that
// are both configured neither is better, so that nodes which list them in a
// different order do not undo each other.
func (c *core) weak(check []byte) bool {
	return len(check) == 0 || c.ring.has() && c.ring.at(check[0]) == nil
}

// believe checks that a record is what a Manager wrote, and that this version
// knows all of it. What a newer version wrote is refused, never skipped.
func (c *core) believe(r *StoreRecord) error {
	if err := c.authentic(r); err != nil {
		return err
	}
	return c.understood(r)
}

// authentic checks a record's MAC. A database writer who moves a key to another
// account, prolongs it or adds an ability is found here.
func (c *core) authentic(r *StoreRecord) error {
	bad := func(detail string) error { return &CorruptError{Key: r.ID, Detail: detail} }
	if c.ring.has() {
		switch {
		case len(r.MAC) == 0:
			if !c.acceptUntagged || slices.ContainsFunc(r.Credentials, func(c StoreCredential) bool { return c.Pepper != 0 }) {
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
	case r.Kind != Secret && r.Kind != Publishable:
		return bad(fmt.Sprintf("kind %d is unknown to this version", r.Kind))
	case r.Mode != Live && r.Mode != Test:
		return bad(fmt.Sprintf("mode %d is unknown", r.Mode))
	}
	if _, all := c.abilities(r.Abilities); !all {
		return bad("an ability's form is unknown to this version")
	}
	return nil
}

// sign renews the MAC. Without a pepper there is none.
func (c *core) sign(r *StoreRecord) {
	r.MAC = nil
	if c.ring.has() {
		r.MAC = recordMAC(c.ring.first, r)
	}
}

// recordMAC covers everything that says what a key may do, and its place in its
// chain. What Upkeep swaps is outside, because it changes without a version,
// and protects itself: tag and check need the pepper, the sealed copy its KEK.
func recordMAC(k *pepperKeys, r *StoreRecord) []byte {
	c := canon.NewWriter(512) // room for most records: it is on the way of every cold verification
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

// clone copies a record, all but the bytes inside its credentials, which nobody
// changes in place, so that a job can edit it.
func (r StoreRecord) clone() StoreRecord {
	r.MAC = slices.Clone(r.MAC)
	r.Abilities = slices.Clone(r.Abilities)
	r.Networks = slices.Clone(r.Networks)
	r.Origins = slices.Clone(r.Origins)
	r.Metadata = maps.Clone(r.Metadata)
	r.Credentials = slices.Clone(r.Credentials)
	return r
}

// credential finds one by its ID, nil if the record does not list it.
func (r *StoreRecord) credential(id CredentialID) *StoreCredential {
	for i := range r.Credentials {
		if r.Credentials[i].ID == id {
			return &r.Credentials[i]
		}
	}
	return nil
}

// live reports whether the key works at now: what the limit of live keys
// counts.
func (r *StoreRecord) live(now time.Time) bool {
	return r.State() == Active && (r.ExpiresAt.IsZero() || now.Before(r.ExpiresAt))
}

// describe makes the Info of a record. It shares the record's slices, so the
// record must not be changed afterwards. Abilities of an unknown form are left
// out: such a record is never believed, only shown.
func (c *core) describe(r *StoreRecord, presented CredentialID) Info {
	list, _ := c.abilities(r.Abilities)
	info := describe(r, presented, list.held)
	info.RotateDue = shownTime(r.due(c.skew))
	return info
}

func describe(r *StoreRecord, presented CredentialID, abilities []Ability) Info {
	info := Info{
		ID: r.ID, Name: r.Name, Credential: presented, Account: r.Account, Mode: r.Mode, Kind: r.Kind,
		State: r.State(), Recoverable: r.Recoverable, Version: r.Version, Metadata: Metadata{r.Metadata},
		Networks: View[netip.Prefix]{r.Networks}, Origins: View[string]{r.Origins},
		CreatedAt: shownTime(r.CreatedAt), ExpiresAt: shownTime(r.ExpiresAt), RevokedAt: shownTime(r.RevokedAt),
		RevokeReason: r.RevokeReason, RotateMonths: r.RotateMonths, RotateDue: shownTime(r.due(0)),
	}
	info.Abilities.s = abilities
	for _, cred := range r.Credentials {
		if cred.LastUsed.After(info.LastUsed) {
			info.LastUsed = shownTime(cred.LastUsed)
		}
	}
	return info
}

// describeAll is describe for management: with the list of credentials, and the
// current one in Credential.
func (c *core) describeAll(r *StoreRecord, now time.Time) Info {
	info := c.describe(r, r.current(now))
	for _, cred := range r.Credentials {
		ci := CredentialInfo{
			ID: cred.ID, Hint: cred.Hint, NotBefore: shownTime(cred.NotBefore), NotAfter: shownTime(cred.NotAfter),
			LastUsed: shownTime(cred.LastUsed), Ended: cred.Ended, Pepper: cred.Pepper,
		}
		if cred.Public != "" {
			ci.Public = newToken(cred.Public)
		}
		info.Credentials.s = append(info.Credentials.s, ci)
	}
	return info
}

// current is the newest credential that is valid now; failing that, the newest.
func (r *StoreRecord) current(now time.Time) CredentialID {
	for _, c := range r.Credentials {
		if !c.Ended && !now.Before(c.NotBefore) && (c.NotAfter.IsZero() || now.Before(c.NotAfter)) {
			return c.ID
		}
	}
	if len(r.Credentials) > 0 {
		return r.Credentials[0].ID
	}
	return CredentialID{}
}
