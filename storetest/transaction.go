package storetest

import "github.com/go-apikey/apikey"

var transaction = []testCase{
	{"committed", "what was written inside is there after the commit: records, items, events and what Upkeep swapped", txCommitted},
	{"rolled back", "after a rollback nothing of it is there, and the same changes can be applied", txRolledBack},
	{"sees itself", "inside, every read answers with what was written inside", txSeesItself},
	{"failed comparison", "an Apply whose comparison failed has written nothing and left no failed statement: the transaction goes on, and its other changes commit", txConflict},
	{"other errors", "what is not found or refused does not end the transaction", txErrors},
	{"same change", "a change that was written inside is nil when it is applied again, inside and after the commit", txAgain},
	{"in the feed", "a change is in the feed after its commit, for a cursor from before the transaction", txFeed},
}

func (e *env) needsIn() {
	if e.In == nil {
		e.Skip("skipped: this Backend has no In")
	}
}

// inside calls work in a transaction. Nothing else uses the store meanwhile, because its
// pool may have only one connection.
func (e *env) inside(commit bool, work func(tx apikey.Store)) {
	e.Helper()
	e.needsIn()
	tx, end := e.In(e.T)
	work(tx)
	if err := end(commit); err != nil {
		e.Fatalf("the end of the transaction (commit: %v): %v", commit, err)
	}
}

// writeInside changes a stored record and writes a new one, an item and events, all in
// the transaction tx. It returns both records as they are then stored, and the changes.
func (e *env) writeInside(tx apikey.Store, stored apikey.StoreRecord) (after, fresh apikey.StoreRecord, changes []apikey.StoreChange) {
	e.Helper()
	fresh = e.full("acct")
	after = next(stored, named("changed inside"))
	changes = e.writes(after, fresh)
	changes[0].Items = []apikey.StoreItem{item("x", 1, "inside")}
	e.ok(tx.Apply(e.ctx, changes...))
	used := e.tick()
	e.ok(tx.Upkeep(e.ctx, []apikey.StoreUpkeep{{Credential: after.Credentials[0].ID, LastUsed: used, OldHash: after.Credentials[0].Hash, NewHash: "$new$", NewCheck: []byte("new")}}))
	c := &after.Credentials[0]
	c.LastUsed, c.Hash, c.Check = used, "$new$", []byte("new")
	return after, fresh, changes
}

func txCommitted(e *env) {
	e.needsIn()
	r := e.record("acct")
	e.apply(e.write(r))
	var after, fresh apikey.StoreRecord
	e.inside(true, func(tx apikey.Store) {
		type says interface{ InTransaction() bool }
		if joined, ok := tx.(says); ok {
			e.equal("InTransaction of what In returned", joined.InTransaction(), true)
		}
		if plain, ok := e.Store.(says); ok {
			e.equal("InTransaction of the store", plain.InTransaction(), false)
		}
		after, fresh, _ = e.writeInside(tx, r)
	})
	e.equal("the record", e.get(r.ID), after)
	e.equal("the new record", e.get(fresh.ID), fresh)
	e.equal("items", e.items(apikey.StoreItemFilter{Kind: "test"}), []apikey.StoreItem{item("x", 1, "inside")})
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 3)
}

func txRolledBack(e *env) {
	e.needsIn()
	r := e.record("acct")
	e.apply(e.write(r))
	log := e.events(apikey.StoreEventFilter{})
	var fresh apikey.StoreRecord
	var changes []apikey.StoreChange
	e.inside(false, func(tx apikey.Store) { _, fresh, changes = e.writeInside(tx, r) })
	e.equal("the record", e.get(r.ID), r)
	_, err := e.Store.Get(e.ctx, fresh.ID)
	e.fails("Get of the new record", err, apikey.ErrNotFound)
	_, err = e.Other.Lookup(e.ctx, fresh.Credentials[0].ID)
	e.fails("Lookup of the new record", err, apikey.ErrNotFound)
	e.equal("List", e.list(apikey.StoreFilter{}), []apikey.StoreRecord{r})
	e.equal("items", len(e.items(apikey.StoreItemFilter{Kind: "test"})), 0)
	e.equal("events", e.events(apikey.StoreEventFilter{}), log)
	e.apply(changes...) // retry the changes, in a transaction of their own
	e.equal("the new record, applied again", e.get(fresh.ID), fresh)
}

func txSeesItself(e *env) {
	e.needsIn()
	r := e.record("acct")
	e.apply(e.write(r))
	e.inside(true, func(tx apikey.Store) {
		after, fresh, changes := e.writeInside(tx, r)
		got, err := tx.Get(e.ctx, r.ID)
		e.ok(err)
		e.equal("Get", got, after)
		got, err = tx.Lookup(e.ctx, fresh.Credentials[0].ID)
		e.ok(err)
		e.equal("Lookup", got, fresh)
		page, err := tx.List(e.ctx, apikey.StoreFilter{Account: "acct"})
		e.ok(err)
		e.equal("List", page.Records, newestFirst([]apikey.StoreRecord{after, fresh}))
		events, err := tx.Events(e.ctx, apikey.StoreEventFilter{Key: r.ID, Limit: 1})
		e.ok(err)
		e.equal("Events", events.Events, []apikey.StoreEvent{*changes[0].Event})
		items, err := tx.Items(e.ctx, apikey.StoreItemFilter{Kind: "test", ID: "x"})
		e.ok(err)
		e.equal("Items", items.Items, changes[0].Items)
		for range 3 { // three more versions, one after the other
			after = next(after)
			e.ok(tx.Apply(e.ctx, e.write(after)))
		}
		r = after
	})
	e.equal("the record", e.get(r.ID), r)
}

func txConflict(e *env) {
	e.needsIn()
	r, other := e.record("acct"), e.record("acct")
	e.apply(e.writes(r, other)...)
	first, second, half := next(r, named("first")), next(next(r), named("second")), e.record("acct")
	stolen := e.record("acct")
	stolen.Credentials = other.Credentials
	e.inside(true, func(tx apikey.Store) {
		e.ok(tx.Apply(e.ctx, e.write(first)))
		for _, changes := range [][]apikey.StoreChange{
			{e.write(half), e.write(next(r, named("stale")))},
			{e.write(next(other, named("half"))), writeItems(item("x", 1, "half"), item("y", 2, "wrong"))},
			{e.write(half), e.write(stolen)},
			{writeItems(item("x", 1, "half")), e.write(half), e.write(half)},
		} {
			e.fails("a stale change", tx.Apply(e.ctx, changes...), apikey.ErrConflict)
			got, err := tx.Get(e.ctx, r.ID)
			e.ok(err)
			e.equal("what was written before it", got, first)
		}
		e.ok(tx.Apply(e.ctx, e.write(second)))
	})
	e.equal("the record", e.get(r.ID), second)
	e.equal("the other record", e.get(other.ID), other)
	_, err := e.Store.Get(e.ctx, half.ID)
	e.fails("Get of half a change", err, apikey.ErrNotFound)
	e.equal("items", len(e.items(apikey.StoreItemFilter{Kind: "test"})), 0)
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 4)
}

func txErrors(e *env) {
	e.needsIn()
	r := e.record("acct")
	e.inside(true, func(tx apikey.Store) {
		_, err := tx.Get(e.ctx, r.ID)
		e.fails("Get", err, apikey.ErrNotFound)
		_, err = tx.Lookup(e.ctx, r.Credentials[0].ID)
		e.fails("Lookup", err, apikey.ErrNotFound)
		_, err = tx.List(e.ctx, apikey.StoreFilter{After: "garbage"})
		e.fails("List after garbage", err, apikey.ErrInvalid)
		_, err = tx.Items(e.ctx, apikey.StoreItemFilter{})
		e.fails("Items of no kind", err, apikey.ErrInvalid)
		e.fails("a record without an event", tx.Apply(e.ctx, apikey.StoreChange{ID: [16]byte{1}, Record: &r}), apikey.ErrInvalid)
		e.ok(tx.Upkeep(e.ctx, []apikey.StoreUpkeep{{Credential: r.Credentials[0].ID, LastUsed: e.tick()}}))
		e.ok(tx.Apply(e.ctx))
		e.ok(tx.Apply(e.ctx, e.write(r)))
	})
	e.equal("the record", e.get(r.ID), r)
}

func txAgain(e *env) {
	e.needsIn()
	r := e.record("acct")
	first := e.write(r)
	r = next(r, named("second"))
	second := e.write(r)
	e.inside(true, func(tx apikey.Store) {
		e.ok(tx.Apply(e.ctx, first))
		e.ok(tx.Apply(e.ctx, second))
		for _, c := range []apikey.StoreChange{first, second, first} {
			e.ok(tx.Apply(e.ctx, c))
		}
		e.fails("another change of the version", tx.Apply(e.ctx, e.write(r)), apikey.ErrConflict)
	})
	e.apply(first)
	e.apply(second)
	e.equal("the record", e.get(r.ID), r)
	e.equal("chain", e.events(apikey.StoreEventFilter{Key: r.ID, Chain: true}), []apikey.StoreEvent{*first.Event, *second.Event})
}

func txFeed(e *env) {
	e.needsIn()
	r := e.record("acct")
	e.apply(e.write(r))
	_, at := e.changed(e.now(), 10)
	var after, fresh apikey.StoreRecord
	e.inside(true, func(tx apikey.Store) { after, fresh, _ = e.writeInside(tx, r) })
	shown, at := e.changed(at, 1)
	e.shows("after the commit", shown, after, fresh)
	e.inside(false, func(tx apikey.Store) { e.ok(tx.Apply(e.ctx, e.write(next(after, named("lost"))))) })
	shown, at = e.changed(at, 1)
	for _, r := range shown {
		if r.Name == "lost" {
			e.Error("the feed shows a record that was rolled back")
		}
	}
	late := e.record("acct")
	e.apply(e.write(late))
	shown, _ = e.changed(at, 1)
	e.shows("after a rollback", shown, late)
}
