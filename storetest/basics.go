package storetest

import (
	"slices"

	"github.com/go-apikey/apikey"
)

var basics = []testCase{
	{"record", "every column of a record and its credentials comes back as it was written, from Get, Lookup and List, in the order given", roundTrip},
	{"sparse record", "a record with nothing optional in it comes back with nothing in it", sparse},
	{"nil is empty", "nil and empty slices and maps are the same", nilIsEmpty},
	{"update", "a new version replaces every column that is not Upkeep's, also by nothing", updateAll},
	{"other node", "what one node has acknowledged every node answers", otherNode},
	{"refused changes", "a StoreRecord without its Event, an Event of another change, an item without Kind or ID and a chain of no key are ErrInvalid, and leave nothing", refusedChanges},
	{"several changes", "one Apply commits several records, items and events", severalChanges},
	{"nothing to do", "an Apply without changes and an empty batch of Upkeep are no errors", nothingToDo},
}

func roundTrip(e *env) {
	r := e.full("acct")
	e.apply(e.write(r))
	e.equal("Get", e.get(r.ID), r)
	for _, c := range r.Credentials { // both live and ended credentials
		got, err := e.Store.Lookup(e.ctx, c.ID)
		e.ok(err)
		e.equal("Lookup", got, r)
	}
	e.equal("List", e.list(apikey.StoreFilter{}), []apikey.StoreRecord{r})
}

func sparse(e *env) {
	r := apikey.StoreRecord{
		ID: NewKeyID(), Account: "acct", Mode: apikey.Test, Kind: apikey.Publishable,
		Version: 1, CreatedAt: e.tick(),
		Credentials: []apikey.StoreCredential{{ID: NewCredentialID()}},
	}
	bare := r
	bare.ID, bare.Credentials = NewKeyID(), nil
	e.apply(e.writes(r, bare)...)
	e.equal("with a bare credential", e.get(r.ID), r)
	e.equal("without credentials", e.get(bare.ID), bare)
}

func nilIsEmpty(e *env) {
	r := e.record("acct")
	r.MAC, r.Abilities, r.Origins, r.Metadata = []byte{}, []string{}, []string{}, map[string]string{}
	r.Credentials[0].Check, r.Credentials[0].Sealed = []byte{}, []byte{}
	e.apply(e.write(r))
	e.equal("empty", e.get(r.ID), r)

	// A nil OldSealed stands for "no sealed copy", however the store represents that.
	e.upkeep(apikey.StoreUpkeep{Credential: r.Credentials[0].ID, NewSealed: []byte("copy"), NewKEK: "kek"})
	e.equal("sealed where nothing was", e.credential(r.ID, 0).Sealed, []byte("copy"))

	full := next(e.get(r.ID), func(r *apikey.StoreRecord) { r.Abilities, r.Metadata = []string{""}, map[string]string{"": ""} })
	e.apply(e.write(full))
	e.equal("an empty text is not nothing", e.get(r.ID), full)
}

func updateAll(e *env) {
	r := e.full("acct")
	e.apply(e.write(r))
	cleared := apikey.StoreRecord{
		ID: r.ID, Account: r.Account, Mode: r.Mode, Kind: r.Kind, Version: 2, CreatedAt: r.CreatedAt,
	}
	for _, c := range r.Credentials {
		cleared.Credentials = append(cleared.Credentials, apikey.StoreCredential{
			ID: c.ID, LastUsed: c.LastUsed, Hash: c.Hash, Check: c.Check, Sealed: c.Sealed, SealedKEK: c.SealedKEK,
		})
	}
	e.apply(e.write(cleared))
	e.equal("cleared", e.get(r.ID), cleared)

	again := r
	again.Version = 3
	e.apply(e.write(again))
	e.equal("set again", e.get(r.ID), again)
}

func otherNode(e *env) {
	nodes := e.nodes()
	r := e.record("acct")
	e.ok(nodes[1].Apply(e.ctx, e.write(r)))
	for range 10 {
		got, err := nodes[0].Get(e.ctx, r.ID)
		e.ok(err)
		e.equal("the other node's write", got, r)
		r = next(r, named("again"))
		e.ok(nodes[0].Apply(e.ctx, e.write(r)))
		got, err = nodes[1].Lookup(e.ctx, r.Credentials[0].ID)
		e.ok(err)
		e.equal("this node's write", got, r)
	}
}

func refusedChanges(e *env) {
	r := e.record("acct")
	unlogged, misnamed, nameless, kindless := e.write(r), e.write(r), e.write(r), e.write(r)
	unlogged.Event = nil
	misnamed.Event.ID[0] ^= 1
	nameless.Items = []apikey.StoreItem{item("", 1, "1")}
	kindless.Items = []apikey.StoreItem{{ID: "one", Version: 1}}
	for what, change := range map[string]apikey.StoreChange{
		"a StoreRecord without its Event": unlogged, "an Event with another ID than its Change": misnamed,
		"an item without ID": nameless, "an item without Kind": kindless,
	} {
		e.fails(what, e.Store.Apply(e.ctx, change), apikey.ErrInvalid)
		_, err := e.Store.Get(e.ctx, r.ID)
		e.fails("Get after "+what, err, apikey.ErrNotFound)
	}
	e.equal("events", e.events(apikey.StoreEventFilter{}), []apikey.StoreEvent{})
	_, err := e.Store.Events(e.ctx, apikey.StoreEventFilter{Chain: true})
	e.fails("Chain without Key", err, apikey.ErrInvalid)
}

func severalChanges(e *env) {
	a, b := e.full("a"), e.record("b")
	both := e.writes(a, b)
	both[1].Items = []apikey.StoreItem{item("one", 1, "1"), item("two", 1, "2")}
	e.apply(both[0], both[1], e.note("a"), writeItems(item("three", 1, "3")))
	e.equal("first record", e.get(a.ID), a)
	e.equal("second record", e.get(b.ID), b)
	e.equal("items", len(e.items(apikey.StoreItemFilter{Kind: "test"})), 3)
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 3)
}

func nothingToDo(e *env) {
	e.ok(e.Store.Apply(e.ctx))
	e.ok(e.Store.Upkeep(e.ctx, nil))
}

var missing = []testCase{
	{"key", "Get and Lookup of something absent are ErrNotFound", missingKey},
	{"pages", "a page of nothing is empty, is the last, and is no error", missingPages},
	{"upkeep", "a swap on a credential that is gone is skipped without an error", missingUpkeep},
	{"feed", "the empty cursor of an empty store is a position like any other", missingFeed},
}

func missingKey(e *env) {
	r := e.record("acct")
	e.apply(e.write(r))
	for _, s := range e.nodes() {
		_, err := s.Get(e.ctx, NewKeyID())
		e.fails("Get", err, apikey.ErrNotFound)
		_, err = s.Get(e.ctx, apikey.KeyID{})
		e.fails("Get of the zero ID", err, apikey.ErrNotFound)
		_, err = s.Get(e.ctx, apikey.KeyID(r.Credentials[0].ID))
		e.fails("Get by a credential's ID", err, apikey.ErrNotFound)
		_, err = s.Lookup(e.ctx, NewCredentialID())
		e.fails("Lookup", err, apikey.ErrNotFound)
		_, err = s.Lookup(e.ctx, apikey.CredentialID{})
		e.fails("Lookup of the zero ID", err, apikey.ErrNotFound)
		_, err = s.Lookup(e.ctx, apikey.CredentialID(r.ID))
		e.fails("Lookup by a key's ID", err, apikey.ErrNotFound)
	}
}

func missingPages(e *env) {
	for _, r := range []apikey.StoreRecord{e.record("other"), e.record("another")} {
		e.equal("List", len(e.list(apikey.StoreFilter{Account: "acct"})), 0)
		e.equal("Events of an account", len(e.events(apikey.StoreEventFilter{Account: "acct"})), 0)
		e.equal("Events of a key", len(e.events(apikey.StoreEventFilter{Key: NewKeyID()})), 0)
		e.equal("chain", len(e.events(apikey.StoreEventFilter{Key: NewKeyID(), Chain: true})), 0)
		e.equal("Items", len(e.items(apikey.StoreItemFilter{Kind: "nothing"})), 0)
		e.equal("Items by ID", len(e.items(apikey.StoreItemFilter{Kind: "test", ID: "nothing"})), 0)
		e.apply(e.write(r)) // the second round has rows that do not match
	}
	page, err := e.Store.List(e.ctx, apikey.StoreFilter{Account: "acct"})
	e.ok(err)
	e.equal("Next of an empty page", page.Next, apikey.Cursor(""))
}

func missingUpkeep(e *env) {
	r := e.record("acct")
	e.apply(e.write(r))
	used := e.tick()
	e.upkeep(
		apikey.StoreUpkeep{Credential: NewCredentialID(), LastUsed: used, NewHash: "x", NewSealed: []byte("x")},
		apikey.StoreUpkeep{Credential: r.Credentials[0].ID, LastUsed: used},
	)
	e.equal("the other swap of the batch", e.credential(r.ID, 0).LastUsed, used)
}

func missingFeed(e *env) {
	start := e.now()
	records, end := e.changed(start, 10)
	e.equal("changes of an empty store", len(records), 0)
	r := e.record("acct")
	e.apply(e.write(r))
	for _, from := range []apikey.Cursor{start, end} {
		records, _ = e.changed(from, 10)
		e.equal("the first change", records, []apikey.StoreRecord{r})
	}
}

var conflict = []testCase{
	{"record", "a record is written if and only if the stored version is the new one less one; Version 1: if there is none", conflictRecord},
	{"item", "an item is written if and only if the stored version is the new one less one; Version 1: if there is none", conflictItem},
	{"nothing written", "when a comparison fails, nothing of the Apply is written", conflictWritesNothing},
}

func conflictRecord(e *env) {
	r := e.record("acct")
	for _, version := range slices.Concat([]uint64{0, 2, 3, 1 << 62}, wide(1)) {
		wrong := r
		wrong.Version = version
		e.conflicts("a first version other than 1", e.write(wrong))
	}
	e.apply(e.write(r))
	r = next(r)
	e.apply(e.write(r))
	for _, version := range slices.Concat([]uint64{0, 1, 2, 4, 5}, wide(3)) {
		wrong := next(r, named("wrong"))
		wrong.Version = version
		e.conflicts("a version other than 3", e.write(wrong))
	}
	e.equal("after refused writes", e.get(r.ID), r)
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 2)
}

// wide returns versions that a column with fewer bits would store as this version.
func wide(version uint64) []uint64 {
	return []uint64{version + 1<<8, version + 1<<16, version + 1<<31, version + 1<<32, version + 1<<33, version + 1<<53, version + 1<<62}
}

func conflictItem(e *env) {
	for _, version := range slices.Concat([]uint64{0, 2, 3}, wide(1)) {
		e.conflicts("a first version other than 1", writeItems(item("x", version, "wrong")))
	}
	e.apply(writeItems(item("x", 1, "first")))
	e.apply(writeItems(item("x", 2, "second")))
	for _, version := range slices.Concat([]uint64{0, 1, 2, 4}, wide(3)) {
		e.conflicts("a version other than 3", writeItems(item("x", version, "wrong")))
		gone := item("x", version, "")
		gone.Delete = true
		e.conflicts("deletion at a version other than 3", writeItems(gone))
	}
	got, _ := e.item("x")
	e.equal("after refused writes", got, item("x", 2, "second"))
}

func conflictWritesNothing(e *env) {
	r, stale := e.record("acct"), e.record("acct")
	e.apply(e.writes(r, stale)...)
	good, bad := next(r, named("half")), stale // stale is still at Version 1
	fresh := e.record("acct")
	goodChange, badChange, freshChange := e.write(good), e.write(bad), e.write(fresh)
	goodChange.Items = []apikey.StoreItem{item("x", 1, "half")}

	badItem := e.write(good)
	badItem.Items = []apikey.StoreItem{item("x", 1, "half"), item("y", 2, "wrong")}
	for _, changes := range [][]apikey.StoreChange{
		{badChange},
		{badItem},
		{goodChange, freshChange, badChange},
		{badChange, goodChange, freshChange},
		{goodChange, freshChange, e.note("acct"), writeItems(item("y", 2, "wrong"))},
	} {
		e.conflicts("one of the changes is stale", changes...)
		e.equal("the record before it", e.get(r.ID), r)
		_, err := e.Store.Get(e.ctx, fresh.ID)
		e.fails("the new record", err, apikey.ErrNotFound)
		_, err = e.Store.Lookup(e.ctx, fresh.Credentials[0].ID)
		e.fails("the new credential", err, apikey.ErrNotFound)
		e.equal("items", len(e.items(apikey.StoreItemFilter{Kind: "test"})), 0)
		e.equal("events", len(e.events(apikey.StoreEventFilter{})), 2)
	}
}
