package storetest

import (
	"bytes"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

var items = []testCase{
	{"round trip", "every column of an item comes back as it was written; Data is up to 64 KiB of any bytes", itemRoundTrip},
	{"versions", "a new version replaces the whole item", itemVersions},
	{"delete", "a deletion is a compare-and-swap too, and the item then starts again at Version 1", itemDelete},
	{"expired", "a store never judges an expiry: an expired item is returned and goes on from its version", itemExpired},
	{"one by ID", "a filter with an ID returns at most that item, and that only if it matches otherwise", itemByID},
	{"SealedKEKNot", "SealedKEKNot selects what some KEK sealed, but not this one", itemsByKEK},
	{"with a record", "items are written in the Apply of the record that they belong to", itemWithRecord},
}

func itemRoundTrip(e *env) {
	var all []apikey.StoreItem
	for i, data := range [][]byte{nil, {0}, {0xFF, 0, '\'', '\\', 0x80}, bytes.Repeat([]byte{0, 1, 0xFE}, 64<<10/3), bytes.Repeat([]byte{0}, 64<<10)} {
		it := item(fmt.Sprint(i), 1, "")
		it.Data, it.ExpiresAt, it.SealedKEK = data, e.tick(), "kek"
		all = append(all, it)
	}
	e.apply(writeItems(all...))
	e.equal("Items", e.items(apikey.StoreItemFilter{Kind: "test"}), all)
}

func itemVersions(e *env) {
	it := item("x", 1, "first")
	it.ExpiresAt, it.SealedKEK = e.tick(), "kek"
	e.apply(writeItems(it))
	for version := uint64(2); version < 6; version++ {
		it = item("x", version, "")
		if version%2 == 0 {
			it.Data, it.SealedKEK, it.ExpiresAt = []byte("even"), "another", e.tick()
		}
		e.apply(writeItems(it))
		got, _ := e.item("x")
		e.equal(fmt.Sprintf("version %d", version), got, it)
	}
}

func itemDelete(e *env) {
	e.apply(writeItems(item("x", 1, "x"), item("y", 1, "y")))
	gone := item("x", 2, "")
	gone.Delete = true
	e.apply(writeItems(gone))
	if got, ok := e.item("x"); ok {
		e.Errorf("after its deletion the item is there, version %d", got.Version)
	}
	e.conflicts("deleting it again", writeItems(gone))
	e.conflicts("going on from the deleted version", writeItems(item("x", 3, "")))
	e.apply(writeItems(item("x", 1, "again")))
	e.equal("Items", e.items(apikey.StoreItemFilter{Kind: "test"}), []apikey.StoreItem{item("x", 1, "again"), item("y", 1, "y")})
}

func itemExpired(e *env) {
	it := item("x", 1, "data")
	it.ExpiresAt = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	e.apply(writeItems(it))
	for range 3 {
		e.equal("page", e.items(apikey.StoreItemFilter{Kind: "test"}), []apikey.StoreItem{it})
		got, _ := e.item("x")
		e.equal("by ID", got, it)
		e.conflicts("starting again", writeItems(item("x", 1, "")))
		it.Version++
		e.apply(writeItems(it))
	}
}

func itemByID(e *env) {
	sealed := item("b", 1, "")
	sealed.SealedKEK = "kek"
	e.apply(writeItems(item("a", 1, ""), sealed, item("c", 1, "")))
	for _, c := range []struct {
		f    apikey.StoreItemFilter
		want int
	}{
		{apikey.StoreItemFilter{ID: "b"}, 1},
		{apikey.StoreItemFilter{ID: "b", Limit: 1}, 1},
		{apikey.StoreItemFilter{ID: "b", After: "a"}, 1},
		{apikey.StoreItemFilter{ID: "b", SealedKEKNot: "other"}, 1},
		{apikey.StoreItemFilter{ID: "b", After: "b"}, 0},
		{apikey.StoreItemFilter{ID: "b", SealedKEKNot: "kek"}, 0},
		{apikey.StoreItemFilter{ID: "a", SealedKEKNot: "kek"}, 0}, // no KEK has sealed this item
		{apikey.StoreItemFilter{ID: "bb"}, 0},
	} {
		c.f.Kind = "test"
		e.equal(fmt.Sprintf("Items with %+v", c.f), len(e.items(c.f)), c.want)
	}
}

func itemsByKEK(e *env) {
	var all, want []apikey.StoreItem
	for i := range 40 {
		it := item(fmt.Sprintf("%02d", i), 1, "")
		it.SealedKEK = []string{"", "old", "new", "older"}[i%4]
		if all = append(all, it); i%4 == 1 || i%4 == 3 {
			want = append(want, it)
		}
	}
	e.apply(writeItems(all...))
	for _, limit := range []int{1, 7, 20, 0} {
		f := apikey.StoreItemFilter{Kind: "test", SealedKEKNot: "new", Limit: limit}
		e.equal(fmt.Sprintf("by %d", limit), e.items(f), want)
	}
	// To find the items that are still to be resealed, callers list from the start again.
	for _, it := range want {
		it.Version, it.SealedKEK = 2, "new"
		e.apply(writeItems(it))
	}
	e.equal("after resealing", len(e.items(apikey.StoreItemFilter{Kind: "test", SealedKEKNot: "new"})), 0)
}

func itemWithRecord(e *env) {
	r := e.record("acct")
	c := e.write(r)
	c.Items = []apikey.StoreItem{item("quota", 1, "1"), item("grant", 1, "")}
	e.apply(c)
	c = e.write(next(r))
	grant := item("grant", 2, "")
	grant.Delete = true
	c.Items = []apikey.StoreItem{item("quota", 2, "2"), grant}
	e.apply(c)
	e.equal("Items", e.items(apikey.StoreItemFilter{Kind: "test"}), []apikey.StoreItem{item("quota", 2, "2")})

	c = e.write(next(next(r)))
	c.Items = []apikey.StoreItem{grant} // the grant was redeemed already
	e.conflicts("a grant redeemed twice", c)
	e.equal("version", e.get(r.ID).Version, uint64(2))
}
