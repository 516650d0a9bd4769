package storetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/go-apikey/apikey"
)

var events = []testCase{
	{"round trip", "every column of an event comes back as it was written", eventRoundTrip},
	{"columns", "each column of an event is kept whatever the others are: a Credential also without a Key, a Seq of 63 bits", eventColumns},
	{"body", "Body is kept verbatim: any bytes, up to 64 KiB", eventBody},
	{"chain", "a chain is the events of a key that have a Seq, by Seq ascending, whatever their times", eventChain},
	{"unique", "an event's ID is unique", eventUnique},
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
