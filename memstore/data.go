package memstore

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

// data holds everything that a Store keeps. Rows are replaced, never changed in place,
// so a copy of the maps is a copy of the store.
type data struct {
	records map[apikey.KeyID]row
	owners  map[apikey.CredentialID]apikey.KeyID
	order   []place // of records, by CreatedAt

	events map[[16]byte]apikey.StoreEvent
	log    []place // of events, by Time
	chains map[apikey.KeyID][]place

	items   map[itemName]apikey.StoreItem
	itemIDs map[apikey.StoreItemKind][]string // sorted

	feed []written
}

// row is a record. feed is the number of its newest write in the feed.
type row struct {
	apikey.StoreRecord
	feed int
}

// written is an entry of the feed: one write of a record. The first entry is number 1.
type written struct {
	key   apikey.KeyID
	event [16]byte
}

type itemName struct {
	kind apikey.StoreItemKind
	id   string
}

func newData() data {
	return data{
		records: map[apikey.KeyID]row{},
		owners:  map[apikey.CredentialID]apikey.KeyID{},
		events:  map[[16]byte]apikey.StoreEvent{},
		chains:  map[apikey.KeyID][]place{},
		items:   map[itemName]apikey.StoreItem{},
		itemIDs: map[apikey.StoreItemKind][]string{},
	}
}

func (d *data) clone() data {
	c := data{
		records: maps.Clone(d.records),
		owners:  maps.Clone(d.owners),
		order:   slices.Clone(d.order),
		events:  maps.Clone(d.events),
		log:     slices.Clone(d.log),
		chains:  maps.Clone(d.chains),
		items:   maps.Clone(d.items),
		itemIDs: maps.Clone(d.itemIDs),
		feed:    slices.Clone(d.feed),
	}
	for key, chain := range c.chains {
		c.chains[key] = slices.Clone(chain)
	}
	for kind, ids := range c.itemIDs {
		c.itemIDs[kind] = slices.Clone(ids)
	}
	return c
}

func (d *data) putRecord(r row) {
	d.deleteRecord(r.ID)
	d.records[r.ID] = r
	d.order = insert(d.order, placeAt(r.CreatedAt, r.ID))
	for _, c := range r.Credentials {
		d.owners[c.ID] = r.ID
	}
}

func (d *data) deleteRecord(id apikey.KeyID) {
	old, ok := d.records[id]
	if !ok {
		return
	}
	for _, c := range old.Credentials {
		delete(d.owners, c.ID)
	}
	d.order = remove(d.order, placeAt(old.CreatedAt, id))
	delete(d.records, id)
}

func (d *data) putEvent(e apikey.StoreEvent) {
	d.events[e.ID] = e
	d.log = insert(d.log, placeAt(e.Time, e.ID))
	if e.Seq != 0 {
		d.chains[e.Key] = insert(d.chains[e.Key], place{int64(e.Seq), e.ID})
	}
}

func (d *data) putItem(it apikey.StoreItem) {
	d.items[itemName{it.Kind, it.ID}] = it
	ids := d.itemIDs[it.Kind]
	if i, found := slices.BinarySearch(ids, it.ID); !found {
		d.itemIDs[it.Kind] = slices.Insert(ids, i, it.ID)
	}
}

func (d *data) deleteItem(name itemName) {
	delete(d.items, name)
	ids := d.itemIDs[name.kind]
	if i, found := slices.BinarySearch(ids, name.id); found {
		d.itemIDs[name.kind] = slices.Delete(ids, i, i+1)
	}
}

// feedPlace returns the place of the feed's entry n: its number and the ID of its event.
// Number 0 is before the first entry and has no event.
func (d *data) feedPlace(n int) place {
	if n == 0 {
		return place{}
	}
	return place{int64(n), d.feed[n-1].event}
}

// The clone functions copy each value that a caller passes in or gets back, so that the
// caller shares no memory with the Store.

func cloneRecord(r apikey.StoreRecord) apikey.StoreRecord {
	r.MAC = bytes.Clone(r.MAC)
	r.Abilities = slices.Clone(r.Abilities)
	r.Networks = slices.Clone(r.Networks)
	r.Origins = slices.Clone(r.Origins)
	r.Metadata = maps.Clone(r.Metadata)
	r.CreatedAt, r.ExpiresAt = canonical(r.CreatedAt), canonical(r.ExpiresAt)
	r.RevokedAt, r.RotateDue = canonical(r.RevokedAt), canonical(r.RotateDue)
	r.Credentials = slices.Clone(r.Credentials)
	for i := range r.Credentials {
		c := &r.Credentials[i]
		c.NotBefore, c.NotAfter, c.LastUsed = canonical(c.NotBefore), canonical(c.NotAfter), canonical(c.LastUsed)
		c.Check = bytes.Clone(c.Check)
		c.Sealed = bytes.Clone(c.Sealed)
	}
	return r
}

func cloneItem(it apikey.StoreItem) apikey.StoreItem {
	it.ExpiresAt = canonical(it.ExpiresAt)
	it.Data = bytes.Clone(it.Data)
	return it
}

func cloneEvent(e apikey.StoreEvent) apikey.StoreEvent {
	e.Time = canonical(e.Time)
	e.Body = bytes.Clone(e.Body)
	return e
}

// canonical returns t as every database returns it: in UTC, in microseconds. So a caller
// who forgot to truncate a time notices in their unit tests, and not in production.
func canonical(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
