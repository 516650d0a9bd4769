package storetest

import "github.com/go-apikey/apikey"

var lostAnswers = []testCase{
	{"same change", "a change that was committed is nil when it is applied again, and nothing is doubled", lostSame},
	{"after later changes", "a retry is nil also when others have changed the record since, and undoes nothing of theirs", lostLater},
	{"other change", "a change with another ID at the same version is ErrConflict", lostOther},
	{"several changes", "a retry of several changes is nil only if all of them were committed", lostSeveral},
	{"event alone", "an event without a record is not appended twice", lostEvent},
	{"items with an event", "the retry of an item's change is nil when its event is there, and undoes nothing, also when the item was deleted since", lostItems},
	{"items without an event", "a change without an event is never found: its retry is ErrConflict", lostItemsAlone},
	{"other node", "a retry may come by another node", lostOtherNode},
}

func lostSame(e *env) {
	r := e.full("acct")
	first := e.write(r)
	r2 := next(r, named("second"))
	second := e.write(r2)
	for range 3 {
		e.apply(first)
	}
	e.equal("record", e.get(r.ID), r)
	for range 3 {
		e.apply(second)
		e.apply(first)
	}
	e.equal("record", e.get(r.ID), r2)
	e.equal("chain", e.events(apikey.StoreEventFilter{Key: r.ID, Chain: true}), []apikey.StoreEvent{*first.Event, *second.Event})
}

func lostLater(e *env) {
	r := e.record("acct")
	var all []apikey.StoreChange
	for range 5 {
		c := e.write(r)
		e.apply(c)
		all = append(all, c)
		r = next(r)
	}
	revoked := next(*all[4].Record, func(r *apikey.StoreRecord) { r.RevokedAt = e.tick() })
	e.apply(e.write(revoked))
	for _, c := range all {
		e.apply(c)
	}
	e.equal("record", e.get(r.ID), revoked)
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 6)
}

func lostOther(e *env) {
	r := e.record("acct")
	e.apply(e.write(r))
	e.conflicts("the same record with another ID", e.write(r))
	e.apply(e.write(next(r, named("mine"))))
	e.conflicts("another's change of the version", e.write(next(r, named("theirs"))))
	e.equal("name", e.get(r.ID).Name, "mine")
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 2)
}

func lostSeveral(e *env) {
	a, b := e.record("a"), e.record("b")
	both := e.writes(a, b)
	e.apply(both...)
	e.apply(both...)
	e.apply(both[1], both[0])
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 2)

	fresh := e.write(e.record("fresh"))
	e.conflicts("one committed, one not", both[0], fresh)
	e.conflicts("one not, one committed", fresh, both[1])
	e.conflicts("one committed, one lost", both[0], e.write(b))
	_, err := e.Store.Get(e.ctx, fresh.Record.ID)
	e.fails("the one that was not", err, apikey.ErrNotFound)
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 2)
}

func lostEvent(e *env) {
	c := e.note("acct")
	for range 3 {
		e.apply(c)
	}
	e.equal("Events", e.events(apikey.StoreEventFilter{}), []apikey.StoreEvent{*c.Event})
}

func lostItems(e *env) {
	c := e.note("acct")
	c.Items = []apikey.StoreItem{item("x", 1, "first")}
	e.apply(c)
	e.apply(c)
	e.apply(writeItems(item("x", 2, "second")))
	e.apply(c)
	got, _ := e.item("x")
	e.equal("item", got, item("x", 2, "second"))

	gone := item("x", 3, "")
	gone.Delete = true
	del := e.note("acct")
	del.Items = []apikey.StoreItem{gone}
	e.apply(del)
	e.apply(del)
	e.apply(c) // such an item may be a challenge that was answered: it must not come back
	if _, ok := e.item("x"); ok {
		e.Fatal("the retry of its first write brought a deleted item back")
	}
	e.apply(writeItems(item("x", 1, "again")))
	e.apply(del)
	got, _ = e.item("x")
	e.equal("item after a retried deletion", got, item("x", 1, "again"))
}

func lostItemsAlone(e *env) {
	c := writeItems(item("x", 1, "first"))
	e.apply(c)
	e.conflicts("the retry", c)
	committed := e.write(e.record("acct"))
	e.apply(committed)
	e.conflicts("beside one that was committed", committed, c)
}

func lostOtherNode(e *env) {
	c := e.write(e.record("acct"))
	for range 2 {
		for _, s := range e.nodes() {
			e.ok(s.Apply(e.ctx, c))
		}
	}
	e.equal("Events", e.events(apikey.StoreEventFilter{}), []apikey.StoreEvent{*c.Event})
}
