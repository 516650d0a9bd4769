package storetest

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-apikey/apikey"
)

var sharing = []testCase{
	{"returned", "what is returned shares nothing with the store: whoever writes to it changes only their own copy", sharingReturned},
	{"passed in", "what is passed in is not kept: whoever writes to it later changes nothing stored", sharingPassed},
}

// spoil overwrites everything that a record points to.
func spoil(r *apikey.StoreRecord) {
	wipe(r.MAC)
	for i := range r.Abilities {
		r.Abilities[i] = "spoilt"
	}
	for i := range r.Networks {
		r.Networks[i] = netip.MustParsePrefix("203.0.113.0/24")
	}
	for i := range r.Origins {
		r.Origins[i] = "spoilt"
	}
	if r.Metadata != nil {
		clear(r.Metadata)
		r.Metadata["spoilt"] = "spoilt"
	}
	for i := range r.Credentials {
		wipe(r.Credentials[i].Check)
		wipe(r.Credentials[i].Sealed)
		r.Credentials[i] = apikey.StoreCredential{Hash: "spoilt"}
	}
}

func wipe(b []byte) {
	for i := range b {
		b[i] ^= 0xFF
	}
}

// sample returns a change that has data behind every pointer. Two samples of the same
// record are equal and share no memory.
func (e *env) sample(r apikey.StoreRecord) apikey.StoreChange {
	fresh := e.full(r.Account)
	fresh.ID, fresh.CreatedAt, fresh.ExpiresAt, fresh.RotateDue = r.ID, r.CreatedAt, r.ExpiresAt, r.RotateDue
	for i, c := range r.Credentials {
		c.Check, c.Sealed = append([]byte{}, c.Check...), append([]byte{}, c.Sealed...)
		fresh.Credentials[i] = c
	}
	id := [16]byte{1}
	return apikey.StoreChange{
		ID: id, Record: &fresh,
		Items: []apikey.StoreItem{item("x", 1, "data")},
		Event: &apikey.StoreEvent{ID: id, Time: epoch, Account: r.Account, Key: r.ID, Seq: 1, Body: []byte("body")},
	}
}

func spoilChange(c *apikey.StoreChange) {
	spoil(c.Record)
	*c.Record = apikey.StoreRecord{}
	wipe(c.Items[0].Data)
	c.Items[0] = apikey.StoreItem{}
	wipe(c.Event.Body)
	*c.Event = apikey.StoreEvent{}
}

func sharingPassed(e *env) {
	r := e.full("acct")
	from := e.now()
	passed, want := e.sample(r), e.sample(r)
	changes := []apikey.StoreChange{passed}
	e.apply(changes...)
	spoilChange(&passed)
	changes[0] = apikey.StoreChange{}
	e.comesBack("after the caller reused what they passed", want)
	shown, _ := e.changed(from, 10)
	e.shows("Changed", shown, *want.Record)

	c := &want.Record.Credentials[0]
	batch := []apikey.StoreUpkeep{{
		Credential: c.ID, OldHash: c.Hash, NewHash: "$new$", NewCheck: []byte("check"),
		OldSealed: append([]byte{}, c.Sealed...), NewSealed: []byte("sealed"), NewKEK: "kek",
	}}
	e.upkeep(batch...)
	wipe(batch[0].NewCheck)
	wipe(batch[0].OldSealed)
	wipe(batch[0].NewSealed)
	batch[0] = apikey.StoreUpkeep{}
	c.Hash, c.Check, c.Sealed, c.SealedKEK = "$new$", []byte("check"), []byte("sealed"), "kek"
	e.comesBack("after the caller reused their batch", want)
}

func sharingReturned(e *env) {
	r := e.full("acct")
	from := e.now()
	want := e.sample(r)
	e.apply(e.sample(r))
	for range 2 { // the first round may fill a cache, and spoils it
		for _, s := range e.nodes() {
			got, err := s.Get(e.ctx, r.ID)
			e.ok(err)
			spoil(&got)
			got, err = s.Lookup(e.ctx, r.Credentials[0].ID)
			e.ok(err)
			spoil(&got)
			page, err := s.List(e.ctx, apikey.StoreFilter{})
			e.ok(err)
			changes, err := s.Changed(e.ctx, from, 10)
			e.ok(err)
			for _, records := range [][]apikey.StoreRecord{page.Records, changes.Records} {
				for i := range records {
					spoil(&records[i])
					records[i] = apikey.StoreRecord{}
				}
			}
			items, err := s.Items(e.ctx, apikey.StoreItemFilter{Kind: "test"})
			e.ok(err)
			for i := range items.Items {
				wipe(items.Items[i].Data)
			}
			events, err := s.Events(e.ctx, apikey.StoreEventFilter{})
			e.ok(err)
			for i := range events.Events {
				wipe(events.Events[i].Body)
			}
			e.comesBack("after the caller wrote to what they got", want)
			shown, _ := e.changed(from, 10)
			e.shows("Changed", shown, *want.Record)
		}
	}
}

var contexts = []testCase{
	{"cancelled", "a method whose context is done returns its error and does nothing", contextCancelled},
	{"too late", "a method whose deadline has passed returns context.DeadlineExceeded and does nothing", contextTooLate},
}

func contextCancelled(e *env) {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	e.refusesAll(ctx, context.Canceled)
}

func contextTooLate(e *env) {
	ctx, cancel := context.WithDeadline(e.ctx, time.Now().Add(-time.Second))
	defer cancel()
	e.refusesAll(ctx, context.DeadlineExceeded)
}

func (e *env) refusesAll(ctx context.Context, want error) {
	r := e.full("acct")
	e.apply(e.write(r))
	at := e.now()
	for i, s := range e.nodes() {
		for name, call := range map[string]func() error{
			"Get":     func() error { _, err := s.Get(ctx, r.ID); return err },
			"Lookup":  func() error { _, err := s.Lookup(ctx, r.Credentials[0].ID); return err },
			"List":    func() error { _, err := s.List(ctx, apikey.StoreFilter{}); return err },
			"Events":  func() error { _, err := s.Events(ctx, apikey.StoreEventFilter{}); return err },
			"Changed": func() error { _, err := s.Changed(ctx, at, 10); return err },
			"Items":   func() error { _, err := s.Items(ctx, apikey.StoreItemFilter{Kind: "test"}); return err },
			"Apply":   func() error { return s.Apply(ctx, e.write(next(r, named("too late")))) },
			"Upkeep": func() error {
				return s.Upkeep(ctx, []apikey.StoreUpkeep{{Credential: r.Credentials[0].ID, LastUsed: epoch.AddDate(1, 0, 0)}})
			},
		} {
			e.fails(fmt.Sprintf("%s on node %d", name, i), call(), want)
		}
	}
	e.equal("record", e.get(r.ID), r)
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 1)
}
