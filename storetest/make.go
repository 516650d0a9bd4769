package storetest

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

// NewKeyID returns a new key ID. It is a UUID of version 7 (RFC 9562), like the IDs that
// a Manager makes. If keys are made one after the other, their IDs are neighbours in an
// index, and databases also lock the neighbours of a row. Random IDs would hide this.
func NewKeyID() (id apikey.KeyID) {
	rand.Read(id[8:])
	now := time.Now()
	within := uint64(now.Nanosecond()) % 1e6 >> 8 // 12 bits for the time within the millisecond
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16|0x7000|within)
	id[8] = id[8]&0x3F | 0x80
	return id
}

// NewCredentialID returns a new credential ID.
func NewCredentialID() (id apikey.CredentialID) {
	rand.Read(id[:])
	return id
}

// epoch is the time at which the clock of every case starts. It is long enough ago to be
// purged, and has microseconds, which a less precise column would lose.
var epoch = time.Date(2024, 5, 6, 7, 8, 9, 123457000, time.UTC)

// tick moves the clock on by one microsecond and returns its time.
func (e *env) tick() time.Time {
	return epoch.Add(time.Duration(e.ticks.Add(1)) * time.Microsecond)
}

// record returns a new key with one credential, at Version 1.
func (e *env) record(account string) apikey.StoreRecord {
	return apikey.StoreRecord{
		ID:          NewKeyID(),
		Account:     account,
		Name:        "a key",
		Mode:        apikey.Live,
		Kind:        apikey.Secret,
		Version:     1,
		CreatedAt:   e.tick(),
		Credentials: []apikey.StoreCredential{newCredential()},
	}
}

// full returns a new key with a value in every column.
func (e *env) full(account string) apikey.StoreRecord {
	r := e.record(account)
	r.Name = "billing, Köln"
	r.Head = [32]byte{0, 1, 0xFF, 31: 0x80}
	r.Needs = 1<<63 | 1 // two of the bits, among them the highest
	r.MAC = []byte{7, 0, 0xFF, 0x80, '\'', '\\', 0}
	r.Abilities = []string{"payment:refund", "balance=read", "a:*"}
	r.Networks = []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("10.1.2.3/8"), // has host bits: a store does not remove them
		netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("0.0.0.0/0"),
		netip.MustParsePrefix("::1/128"),
	}
	r.Origins = []string{"https://b.example", "https://a.example:8443"}
	r.Metadata = map[string]string{"order": "17", "": "", "b": "x=y&z"}
	r.Disabled = true
	r.RevokeReason = apikey.ReasonUnused
	r.RotateMonths = 12
	r.Recoverable = true
	r.ExpiresAt, r.RotateDue = e.tick(), e.tick()
	c := newCredential()
	c.NotBefore, c.NotAfter, c.LastUsed = e.tick(), e.tick(), e.tick()
	c.Hint = "WXyz"
	c.Public = "acme_pk_live_0000"
	c.Pepper = 61
	c.Check = []byte{61, 0, 0xFF}
	c.Sealed, c.SealedKEK = []byte{0, 1, 2, 0xFE}, "kek/2024"
	ended := newCredential()
	ended.Ended = true
	r.Credentials = []apikey.StoreCredential{c, r.Credentials[0], ended}
	return r
}

func newCredential() apikey.StoreCredential {
	id := NewCredentialID()
	return apikey.StoreCredential{ID: id, Hint: "hint", Hash: "$test$" + id.String(), Check: []byte{0, id[0]}}
}

// next returns the next version of r, changed by edits.
func next(r apikey.StoreRecord, edits ...func(*apikey.StoreRecord)) apikey.StoreRecord {
	r.Version++
	r.Credentials = slices.Clone(r.Credentials)
	for _, edit := range edits {
		edit(&r)
	}
	return r
}

// named returns an edit that sets the name, so that a reader can see the change.
func named(name string) func(*apikey.StoreRecord) {
	return func(r *apikey.StoreRecord) { r.Name = name }
}

// write returns a change that writes r, with its event.
func (e *env) write(r apikey.StoreRecord) apikey.StoreChange {
	c := e.note(r.Account)
	c.Record = &r
	c.Event.Mode, c.Event.Key, c.Event.Seq = r.Mode, r.ID, r.Version
	if len(r.Credentials) > 0 {
		c.Event.Credential = r.Credentials[0].ID
	}
	return c
}

// writes returns a change for each record.
func (e *env) writes(records ...apikey.StoreRecord) (changes []apikey.StoreChange) {
	for _, r := range records {
		changes = append(changes, e.write(r))
	}
	return changes
}

// note returns a change that has only an event, as for a refused action.
func (e *env) note(account string) apikey.StoreChange {
	id := [16]byte(NewKeyID())
	return apikey.StoreChange{ID: id, Event: &apikey.StoreEvent{
		ID:      id,
		Time:    e.tick(),
		Account: account,
		Mode:    apikey.Live,
		Actor:   "actor",
		Action:  "key.test",
		Body:    fmt.Appendf(nil, "body of %x", id),
		Hash:    [32]byte(slices.Concat(id[:], id[:])),
	}}
}

// writeItems returns a change that has only items, and no event.
func writeItems(items ...apikey.StoreItem) apikey.StoreChange {
	return apikey.StoreChange{ID: [16]byte(NewKeyID()), Items: items}
}

func item(id string, version uint64, data string) apikey.StoreItem {
	return apikey.StoreItem{Kind: "test", ID: id, Version: version, Data: []byte(data)}
}
