package storetest

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

var events = []testCase{
	{"round trip", "every column of an event comes back as it was written", eventRoundTrip},
	{"columns", "each column of an event is kept whatever the others are: a Credential also without a Key, a Seq of 63 bits", eventColumns},
	{"body", "Body is kept verbatim: any bytes, up to 64 KiB", eventBody},
	{"chain", "a chain is the events of a key that have a Seq, by Seq ascending, whatever their times", eventChain},
	{"unique", "an event's ID is unique", eventUnique},
	{"filters one by one", "every field of a StoreEventFilter selects what its Match selects", eventFilters},
	{"filters together", "fields of a StoreEventFilter are joined by AND, as in its Match, also in a chain and by small pages", eventFiltersTogether},
	{"repeated actions", "the order of Actions means nothing, and a repeated action counts once", eventRepeatedActions},
	{"cursors of filters", "a page of a filter goes on after a cursor, whatever Since and Before are, and with another filter goes on at its place or is ErrInvalid", eventCursorsOfFilters},
	{"outlive their record", "events stay when credentials are dropped and keys are revoked", eventsOutlive},
}

func eventRoundTrip(e *env) {
	c := e.note("acct")
	ev := c.Event
	ev.Mode, ev.Key, ev.Credential, ev.Seq = apikey.Test, NewKeyID(), NewCredentialID(), 1<<62
	ev.Hash = [32]byte{0, 0xFF, 31: '\''}
	about := e.note("") // an event of no account and no key
	about.Event.Actor, about.Event.Action, about.Event.Body, about.Event.Mode = "", "", nil, 0
	e.apply(c, about)
	e.equal("Events", e.events(apikey.StoreEventFilter{}), []apikey.StoreEvent{*about.Event, *ev})
	e.equal("chain", e.events(apikey.StoreEventFilter{Key: ev.Key, Chain: true}), []apikey.StoreEvent{*ev})
}

func eventColumns(e *env) {
	set := []func(*apikey.StoreEvent){
		func(ev *apikey.StoreEvent) { ev.Account = "acct" },
		func(ev *apikey.StoreEvent) { ev.Mode = apikey.Live },
		func(ev *apikey.StoreEvent) { ev.Key = NewKeyID() },
		func(ev *apikey.StoreEvent) { ev.Credential = NewCredentialID() },
		func(ev *apikey.StoreEvent) { ev.Actor = "actor" },
		func(ev *apikey.StoreEvent) { ev.Action = "key.test" },
		func(ev *apikey.StoreEvent) { ev.Body = []byte("body") },
		func(ev *apikey.StoreEvent) { ev.Hash = [32]byte{1} },
	}
	var want []apikey.StoreEvent
	for all := range 1 << len(set) { // every combination of columns
		c := e.note("")
		*c.Event = apikey.StoreEvent{ID: c.ID, Time: c.Event.Time}
		for i, column := range set {
			if all>>i&1 == 1 {
				column(c.Event)
			}
		}
		e.apply(c)
		want = append([]apikey.StoreEvent{*c.Event}, want...)
	}
	e.equal("Events", e.events(apikey.StoreEventFilter{}), want)

	key, chain := NewKeyID(), []apikey.StoreEvent(nil)
	for _, seq := range []uint64{1, 2, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<53 + 1, 1<<62 + 1, 1<<63 - 1} {
		c := e.note("acct")
		c.Event.Key, c.Event.Seq = key, seq
		e.apply(c)
		chain = append(chain, *c.Event)
	}
	e.equal("a chain of high numbers by 3", e.events(apikey.StoreEventFilter{Key: key, Chain: true, Limit: 3}), chain)
}

func eventBody(e *env) {
	noise := make([]byte, 64<<10)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for i, body := range [][]byte{nil, {0}, {0, 0, 0}, []byte("a\x00b\xff\xfe"), []byte(`{"b":1, "a":1}`), []byte("text\r\n "), noise, bytes.Repeat([]byte{0}, 64<<10)} {
		c := e.note("acct")
		c.Event.Key, c.Event.Seq, c.Event.Body = NewKeyID(), 1, body
		e.apply(c)
		for _, chain := range []bool{false, true} {
			got := e.events(apikey.StoreEventFilter{Key: c.Event.Key, Chain: chain})
			if len(got) != 1 || !bytes.Equal(got[0].Body, body) {
				e.Errorf("body %d of %d bytes: it came back otherwise", i, len(body))
			}
		}
	}
}

func eventChain(e *env) {
	r := e.record("acct")
	var want []apikey.StoreEvent
	for n := range 25 {
		c := e.write(r)
		c.Event.Time = epoch.AddDate(0, 0, -n) // as if a clock ran backwards
		denial, other := e.note("acct"), e.write(e.record("acct"))
		denial.Event.Key = r.ID // with Seq 0, so it is not in the chain
		e.apply(c, denial, other)
		want = append(want, *c.Event)
		r = next(r)
	}
	for _, limit := range []int{1, 7, 25, 0} {
		f := apikey.StoreEventFilter{Key: r.ID, Chain: true, Limit: limit}
		e.equal(fmt.Sprintf("chain by %d", limit), e.events(f), want)
	}
	e.equal("chain in another account", len(e.events(apikey.StoreEventFilter{Account: "other", Key: r.ID, Chain: true})), 0)
	e.equal("chain in the other mode", len(e.events(apikey.StoreEventFilter{Mode: apikey.Test, Key: r.ID, Chain: true})), 0)
	e.equal("all events of the key", len(e.events(apikey.StoreEventFilter{Key: r.ID, Limit: 7})), 2*len(want))

	// A chain is read page by page while it grows.
	page, err := e.Store.Events(e.ctx, apikey.StoreEventFilter{Key: r.ID, Chain: true, Limit: 24})
	e.ok(err)
	c := e.write(r)
	c.Event.Time = epoch.AddDate(-1, 0, 0)
	e.apply(c)
	rest := e.events(apikey.StoreEventFilter{Key: r.ID, Chain: true, After: page.Next})
	e.equal("the rest of a growing chain", rest, append(want[24:], *c.Event))
}

func eventUnique(e *env) {
	c := e.note("acct")
	e.apply(c)
	twin := e.write(e.record("acct"))
	twin.ID, twin.Event.ID = c.ID, c.ID
	// Apply may return any error or none, but the event must be stored once and unchanged.
	_ = e.Store.Apply(e.ctx, twin)
	e.equal("Events", e.events(apikey.StoreEventFilter{}), []apikey.StoreEvent{*c.Event})
	_, err := e.Store.Get(e.ctx, twin.Record.ID)
	e.fails("the record of an event that was not written", err, apikey.ErrNotFound)

	one, other := e.note("one"), e.note("other")
	other.ID, other.Event.ID = one.ID, one.ID
	e.conflicts("two events with one ID", one, other)
	e.equal("Events", e.events(apikey.StoreEventFilter{}), []apikey.StoreEvent{*c.Event})
}

// crowd writes n events that differ in every field that a StoreEventFilter selects by,
// and returns them, newest first, with two of their keys. The random numbers have a fixed
// seed, so every run has the same events.
func (e *env) crowd(n int) (all []apikey.StoreEvent, keys []apikey.KeyID) {
	rnd := rand.New(rand.NewPCG(5, 6))
	keys = []apikey.KeyID{NewKeyID(), NewKeyID()}
	var changes []apikey.StoreChange
	for i := range n {
		c := e.note([]string{"acct", "other"}[rnd.IntN(2)])
		ev := c.Event
		ev.Mode = apikey.Mode(1 + rnd.IntN(2))
		ev.Time = near[1+rnd.IntN(3)]
		ev.Actor = []string{"ann", "Ann", "bob"}[rnd.IntN(3)]
		ev.Action = []apikey.Action{apikey.ActionIssue, apikey.ActionIssue, apikey.ActionRotate, "key.Rotate", apikey.ActionReveal}[rnd.IntN(5)]
		if i%2 == 0 {
			ev.Key = keys[rnd.IntN(2)]
		}
		if i%3 == 0 {
			ev.Seq = uint64(i + 1)
		}
		changes, all = append(changes, c), append(all, *ev)
	}
	e.apply(changes...)
	slices.SortFunc(all, newerEvent)
	return all, keys
}

func newerEvent(a, b apikey.StoreEvent) int {
	return cmp.Or(b.Time.Compare(a.Time), bytes.Compare(b.ID[:], a.ID[:]))
}

// finds checks that Events returns the events for which the filter's Match is true, in
// their order. With mustTell, the filter must match some of the events and not all.
func (e *env) finds(f apikey.StoreEventFilter, all []apikey.StoreEvent, mustTell bool) {
	e.Helper()
	var want []apikey.StoreEvent
	for _, ev := range all {
		if f.Match(&ev) {
			want = append(want, ev)
		}
	}
	if mustTell && (len(want) == 0 || len(want) == len(all)) {
		e.Fatalf("storetest: %+v selects %d of %d: the case proves nothing", f, len(want), len(all))
	}
	if f.Chain {
		slices.SortFunc(want, func(a, b apikey.StoreEvent) int { return cmp.Compare(a.Seq, b.Seq) })
	}
	e.equal(fmt.Sprintf("Events with %+v", f), e.events(f), want)
}

func eventFilters(e *env) {
	all, keys := e.crowd(100)
	filters := []apikey.StoreEventFilter{
		{Account: "acct"}, {Mode: apikey.Test}, {Key: keys[0]}, {Key: keys[1], Chain: true},
		{Actions: []apikey.Action{apikey.ActionReveal}}, {Actions: []apikey.Action{apikey.ActionReveal, apikey.ActionRotate, "none"}},
		{Actor: "ann"}, {Since: near[2]}, {Since: near[3]}, {Before: near[2]}, {Before: near[3]},
	}
	everyField[apikey.StoreEventFilter](e, filters)
	for _, f := range filters {
		for _, f.Limit = range []int{3, 50} {
			e.finds(f, all, true)
		}
	}
	for _, f := range []apikey.StoreEventFilter{
		{Actions: []apikey.Action{""}}, {Actions: []apikey.Action{"none", "nor this"}, Account: "acct"}, {Actions: []apikey.Action{}},
		{Actor: "nobody"}, {Since: near[3].Add(1)}, {Before: near[1]}, {Since: near[3], Before: near[2]}, {Since: near[2], Before: near[2]},
	} {
		e.finds(f, all, false) // matches no event, or all
	}
}

func eventFiltersTogether(e *env) {
	all, keys := e.crowd(150)
	rnd := rand.New(rand.NewPCG(7, 8))
	some := func() bool { return rnd.IntN(3) == 0 }
	told := 0
	for range 120 {
		f := apikey.StoreEventFilter{Limit: []int{0, 1, 4, 50}[rnd.IntN(4)]}
		if rnd.IntN(3) > 0 {
			f.Account = "acct"
		}
		if some() {
			f.Mode = apikey.Mode(1 + rnd.IntN(2))
		}
		if some() {
			f.Actor = []string{"ann", "Ann", "bob"}[rnd.IntN(3)]
		}
		for range rnd.IntN(4) {
			f.Actions = append(f.Actions, []apikey.Action{apikey.ActionIssue, apikey.ActionRotate, apikey.ActionReveal, "key.rotate", "none"}[rnd.IntN(5)])
		}
		if some() {
			f.Key = keys[rnd.IntN(2)]
			f.Chain = some()
		}
		if some() {
			f.Since = near[rnd.IntN(4)]
		}
		if some() {
			f.Before = near[rnd.IntN(4)].Add(time.Duration(rnd.IntN(2)))
		}
		if slices.ContainsFunc(all, func(ev apikey.StoreEvent) bool { return f.Match(&ev) }) {
			told++
		}
		e.finds(f, all, false)
	}
	if told < 60 {
		e.Errorf("storetest: only %d filters match something", told)
	}
}

func eventRepeatedActions(e *env) {
	all, _ := e.crowd(60)
	a, b := apikey.ActionReveal, apikey.ActionRotate
	for _, account := range []string{"", "acct"} {
		for _, actions := range [][]apikey.Action{{a, b}, {b, a}, {b, a, a, b}, {a, a}} {
			e.finds(apikey.StoreEventFilter{Account: account, Actions: actions, Limit: 4}, all, true)
		}
	}
	given := []apikey.Action{b, a, b}
	_, err := e.Store.Events(e.ctx, apikey.StoreEventFilter{Account: "acct", Actions: given})
	e.ok(err)
	e.equal("the caller's Actions", given, []apikey.Action{b, a, b})
}

func eventCursorsOfFilters(e *env) {
	all, _ := e.crowd(60)
	filters := []apikey.StoreEventFilter{
		{Account: "acct"}, {Account: "acct", Actor: "ann"}, {Account: "acct", Actions: []apikey.Action{apikey.ActionIssue, apikey.ActionReveal}},
		{Account: "acct", Since: near[2]}, {Account: "acct", Before: near[2]}, {Account: "acct", Before: near[3]}, {Account: "acct", Since: near[2], Before: near[3]},
	}
	for _, from := range filters {
		from.Limit = 4
		page, err := e.Store.Events(e.ctx, from)
		e.ok(err)
		if page.Next == "" {
			e.Fatalf("storetest: %+v has one page", from)
		}
		last := page.Events[len(page.Events)-1]
		for _, f := range filters {
			f.After, f.Limit = page.Next, 1000
			got, err := e.Store.Events(e.ctx, f)
			if err != nil {
				e.fails("Events after a page of another filter", err, apikey.ErrInvalid)
				continue
			}
			var want []apikey.StoreEvent
			for _, ev := range all {
				if newerEvent(last, ev) < 0 && f.Match(&ev) {
					want = append(want, ev)
				}
			}
			e.equal(fmt.Sprintf("Events with %+v after a page of %+v", f, from), got.Events, want)
		}
	}
}

func eventsOutlive(e *env) {
	r := e.full("acct")
	var want []apikey.StoreEvent
	for _, edit := range []func(*apikey.StoreRecord){
		func(*apikey.StoreRecord) {},
		func(r *apikey.StoreRecord) { r.Credentials = nil },
		func(r *apikey.StoreRecord) { r.RevokedAt = e.tick() },
	} {
		edit(&r)
		c := e.write(r)
		e.apply(c)
		want = append(want, *c.Event)
		r = next(r)
	}
	e.equal("chain", e.events(apikey.StoreEventFilter{Key: r.ID, Chain: true}), want)
	slices.Reverse(want)
	e.equal("log", e.events(apikey.StoreEventFilter{Account: "acct"}), want)
}
