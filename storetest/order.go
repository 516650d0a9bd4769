package storetest

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/go-apikey/apikey"
)

var order = []testCase{
	{"records", "List is ordered by CreatedAt descending, then ID descending, whatever the size of the page", recordOrder},
	{"events", "Events are newest first: Time descending, then ID descending", eventOrder},
	{"items", "Items are ordered by ID ascending, byte by byte", itemOrder},
	{"records while others write", "a record that exists during the whole walk is seen exactly once, whatever is inserted meanwhile", recordsMeanwhile},
	{"events while others write", "an event that exists during the whole walk is seen exactly once, whatever is appended meanwhile", eventsMeanwhile},
	{"items while others write", "an item that exists during the whole walk is seen exactly once, whatever is written meanwhile", itemsMeanwhile},
	{"limits", "a limit of 0 is 100, 1 to 1000 is itself, and anything else is ErrInvalid", limits},
	{"cursors in a URL", "a cursor is text that can stand in a URL", cursorsInURL},
	{"another filter", "a cursor that is used with another filter goes on at its place or is ErrInvalid: nothing is shown that the filter does not select", cursorOfAnotherFilter},
	{"another list", "a cursor of another method, and of Events with the other value of Chain, is ErrInvalid", cursorOfAnotherList},
	{"garbage cursor", "a cursor that the store did not make is ErrInvalid", garbageCursor},
}

// spread returns records in no order, with equal and nearly equal times and IDs. A store
// that compares IDs as signed bytes, or by a text collation, orders them wrongly.
func (e *env) spread(n int) (records []apikey.StoreRecord) {
	for i := range n {
		r := e.record("acct")
		r.CreatedAt = epoch.AddDate(0, 0, i*7%5)
		r.ID = apikey.KeyID{0: []byte{0, 0x41, 0x61, 0x7F, 0x80, 0xFF}[i%6], 7: byte(i), 15: byte(i * 101)}
		records = append(records, r)
	}
	return records
}

func newestFirst(records []apikey.StoreRecord) []apikey.StoreRecord {
	return slices.SortedFunc(slices.Values(records), func(a, b apikey.StoreRecord) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return bytes.Compare(b.ID[:], a.ID[:])
	})
}

func recordOrder(e *env) {
	records := e.spread(60)
	e.create(records...)
	want := newestFirst(records)
	for _, limit := range []int{1, 7, 59, 60, 61, 0} {
		e.equal(fmt.Sprintf("List by %d", limit), e.list(apikey.StoreFilter{Limit: limit}), want)
	}
	e.equal("List of an account by 7", e.list(apikey.StoreFilter{Account: "acct", Mode: apikey.Live, Limit: 7}), want)
}

func eventOrder(e *env) {
	var want []apikey.StoreEvent
	var changes []apikey.StoreChange
	for i := range 60 {
		c := e.note("acct")
		c.ID = [16]byte{0: []byte{0, 0x41, 0x61, 0x7F, 0x80, 0xFF}[i%6], 9: byte(i)}
		c.Event.ID, c.Event.Time = c.ID, epoch.AddDate(0, 0, i*7%5)
		changes = append(changes, c)
		want = append(want, *c.Event)
	}
	e.apply(changes...)
	slices.SortFunc(want, func(a, b apikey.StoreEvent) int {
		if c := b.Time.Compare(a.Time); c != 0 {
			return c
		}
		return bytes.Compare(b.ID[:], a.ID[:])
	})
	for _, limit := range []int{1, 7, 59, 60, 61, 0} {
		e.equal(fmt.Sprintf("Events by %d", limit), e.events(apikey.StoreEventFilter{Limit: limit}), want)
	}
}

func itemOrder(e *env) {
	// A language's collation would order these IDs differently, and so would UTF-16.
	ids := []string{"B", "a", "b", "A", "ä", "a ", "aa", "a-b", "ab", "a_b", "Z", "z", "~", "10", "9", "\uff5e", "\U0001F600", "é", "e\u0301", "ß", "ss"}
	var all []apikey.StoreItem
	for _, id := range ids {
		all = append(all, item(id, 1, id))
	}
	other := item("c", 1, "of another kind")
	other.Kind = "other"
	e.apply(writeItems(append(all, other)...))
	slices.SortFunc(all, func(a, b apikey.StoreItem) int { return strings.Compare(a.ID, b.ID) })
	for _, limit := range []int{1, 4, len(ids), 0} {
		e.equal(fmt.Sprintf("Items by %d", limit), e.items(apikey.StoreItemFilter{Kind: "test", Limit: limit}), all)
	}
	e.equal("Items after an ID that is none", e.items(apikey.StoreItemFilter{Kind: "test", After: "\U0001F5FF"}), all[len(all)-1:])
}

func recordsMeanwhile(e *env) {
	records := e.spread(30)
	e.create(records...)
	var walked []apikey.KeyID
	f := apikey.StoreFilter{Limit: 4}
	for i := 0; i == 0 || f.After != ""; i++ {
		page, err := e.Store.List(e.ctx, f)
		e.ok(err)
		for _, r := range page.Records {
			walked = append(walked, r.ID)
		}
		f.After = page.Next

		// One is newer and one older than all records; the third is as old as some of them.
		var between []apikey.StoreRecord
		for _, day := range []int{9, -9, 2} {
			r := e.record("acct")
			r.CreatedAt = epoch.AddDate(0, 0, day)
			between = append(between, r)
		}
		if i < 10 {
			e.ok(e.Other.Apply(e.ctx, e.writes(between...)...))
		}
		if i < len(records) {
			records[i] = next(records[i], named("changed meanwhile"))
			e.ok(e.Other.Apply(e.ctx, e.write(records[i])))
		}
	}
	var ids []apikey.KeyID
	for _, r := range newestFirst(records) {
		ids = append(ids, r.ID)
	}
	e.seenOnce("List", walked, ids)
}

// seenOnce checks that walked has each ID of want exactly once, in the order of want.
// walked may have other IDs between them.
func (e *env) seenOnce(what string, walked, want any) {
	e.Helper()
	var got []string
	known := map[string]bool{}
	wants := texts(want)
	for _, id := range wants {
		known[id] = true
	}
	for _, id := range texts(walked) {
		if known[id] {
			got = append(got, id)
		}
	}
	e.equal(what, got, wants)
}

func texts(ids any) (s []string) {
	switch ids := ids.(type) {
	case []apikey.KeyID:
		for _, id := range ids {
			s = append(s, id.String())
		}
	case [][16]byte:
		for _, id := range ids {
			s = append(s, fmt.Sprintf("%x", id))
		}
	case []string:
		s = ids
	}
	return s
}

func eventsMeanwhile(e *env) {
	var want [][16]byte
	for range 30 {
		c := e.note("acct")
		e.apply(c)
		want = append(want, c.ID)
	}
	slices.Reverse(want)
	var walked [][16]byte
	f := apikey.StoreEventFilter{Limit: 4}
	for i := 0; i == 0 || f.After != ""; i++ {
		page, err := e.Store.Events(e.ctx, f)
		e.ok(err)
		for _, ev := range page.Events {
			walked = append(walked, ev.ID)
		}
		f.After = page.Next
		if i < 10 {
			late := e.note("acct") // written by a node whose clock is behind
			late.Event.Time = epoch.AddDate(0, 0, -1)
			e.ok(e.Other.Apply(e.ctx, e.note("acct"), late))
		}
	}
	e.seenOnce("Events", walked, want)
}

func itemsMeanwhile(e *env) {
	var want, walked []string
	var all []apikey.StoreItem
	for i := range 30 {
		id := fmt.Sprintf("%02d", i)
		want = append(want, id)
		all = append(all, item(id, 1, ""))
	}
	e.apply(writeItems(all...))
	f := apikey.StoreItemFilter{Kind: "test", Limit: 4}
	for i := 0; i == 0 || f.After != ""; i++ {
		page, err := e.Store.Items(e.ctx, f)
		e.ok(err)
		for _, it := range page.Items {
			walked = append(walked, it.ID)
		}
		f.After = page.Next
		if i < 10 {
			e.ok(e.Other.Apply(e.ctx, writeItems(
				item(fmt.Sprintf("%02d/new", i), 1, ""),
				item(fmt.Sprintf("%02d/new", 29-i), 1, ""),
				item(fmt.Sprintf("%02d", i), 2, "again"))))
		}
	}
	e.seenOnce("Items", walked, want)
}

func limits(e *env) {
	const n = 1001
	var records []apikey.StoreRecord
	var all []apikey.StoreItem
	for i := range n {
		records = append(records, e.record("acct"))
		all = append(all, item(fmt.Sprintf("%04d", i), 1, ""))
	}
	from := e.now()
	e.create(records...)
	e.apply(writeItems(all...))

	for _, c := range []struct {
		limit, want int
		err         error
	}{
		{limit: 0, want: 100},
		{limit: 1, want: 1},
		{limit: 1000, want: 1000},
		{limit: -1, err: apikey.ErrInvalid},
		{limit: 1001, err: apikey.ErrInvalid},
	} {
		page, err := e.Store.List(e.ctx, apikey.StoreFilter{Limit: c.limit})
		e.fails(fmt.Sprintf("List with limit %d", c.limit), err, c.err)
		e.equal(fmt.Sprintf("List with limit %d", c.limit), len(page.Records), c.want)
		events, err := e.Store.Events(e.ctx, apikey.StoreEventFilter{Limit: c.limit})
		e.fails(fmt.Sprintf("Events with limit %d", c.limit), err, c.err)
		e.equal(fmt.Sprintf("Events with limit %d", c.limit), len(events.Events), c.want)
		items, err := e.Store.Items(e.ctx, apikey.StoreItemFilter{Kind: "test", Limit: c.limit})
		e.fails(fmt.Sprintf("Items with limit %d", c.limit), err, c.err)
		e.equal(fmt.Sprintf("Items with limit %d", c.limit), len(items.Items), c.want)
	}
	e.equal("List walked by 1000", len(e.list(apikey.StoreFilter{Limit: 1000})), n)
	changed, _ := e.changed(from, 1000)
	e.equal("Changed by 1000", len(newest(changed)), n)
}

func cursorsInURL(e *env) {
	e.create(e.spread(20)...)
	e.apply(writeItems(item("a", 1, ""), item("b", 1, "")))
	list, err := e.Store.List(e.ctx, apikey.StoreFilter{Limit: 7})
	e.ok(err)
	events, err := e.Store.Events(e.ctx, apikey.StoreEventFilter{Limit: 7})
	e.ok(err)
	for what, c := range map[string]apikey.Cursor{"List": list.Next, "Events": events.Next, "Changed": e.now()} {
		if c == "" || url.QueryEscape(string(c)) != string(c) {
			e.Errorf("%s: cursor %q", what, c)
		}
	}
}

func cursorOfAnotherFilter(e *env) {
	records := e.spread(40)
	for i := range records {
		records[i].Account = []string{"acct", "other"}[i%2]
		records[i].Mode = apikey.Mode(1 + i/2%2)
	}
	e.create(records...)
	filters := []apikey.StoreFilter{{}, {Account: "acct"}, {Account: "other", Mode: apikey.Test}, {NeverUsed: true, Mode: apikey.Live}}
	for _, from := range filters {
		from.Limit = 5
		page, err := e.Store.List(e.ctx, from)
		e.ok(err)
		last := page.Records[len(page.Records)-1]
		for _, f := range filters {
			f.After, f.Limit = page.Next, 1000
			got, err := e.Store.List(e.ctx, f)
			if err != nil {
				e.fails("List after a page of another filter", err, apikey.ErrInvalid)
				continue
			}
			var want []apikey.StoreRecord
			for _, r := range newestFirst(append(records, last)) {
				if r.CreatedAt.Before(last.CreatedAt) || r.CreatedAt.Equal(last.CreatedAt) && bytes.Compare(r.ID[:], last.ID[:]) < 0 {
					if f.Match(&r) {
						want = append(want, r)
					}
				}
			}
			e.equal(fmt.Sprintf("List with %+v after a page of %+v", f, from), got.Records, want)
		}
	}
}

func cursorOfAnotherList(e *env) {
	r := e.record("acct")
	for range 5 {
		e.apply(e.write(r))
		r = next(r)
	}
	e.create(e.spread(5)...)
	log, chain := apikey.StoreEventFilter{Limit: 2}, apikey.StoreEventFilter{Key: r.ID, Chain: true, Limit: 2}
	reads := map[string]func(after apikey.Cursor) (apikey.Cursor, error){
		"List": func(after apikey.Cursor) (apikey.Cursor, error) {
			page, err := e.Store.List(e.ctx, apikey.StoreFilter{After: after, Limit: 2})
			return page.Next, err
		},
		"Events": func(after apikey.Cursor) (apikey.Cursor, error) {
			log.After = after
			page, err := e.Store.Events(e.ctx, log)
			return page.Next, err
		},
		"Events of a chain": func(after apikey.Cursor) (apikey.Cursor, error) {
			chain.After = after
			page, err := e.Store.Events(e.ctx, chain)
			return page.Next, err
		},
		"Changed": func(after apikey.Cursor) (apikey.Cursor, error) {
			changes, err := e.Store.Changed(e.ctx, after, 2)
			return changes.Next, err
		},
	}
	for of, read := range reads {
		cursor, err := read("")
		e.ok(err)
		if cursor == "" {
			e.Fatalf("%s: a page that is not the last has no Next", of)
		}
		for name, other := range reads {
			if name != of {
				_, err := other(cursor)
				e.fails(name+" after a cursor of "+of, err, apikey.ErrInvalid)
			}
		}
	}
}

func garbageCursor(e *env) {
	e.create(e.spread(3)...)
	for _, c := range []apikey.Cursor{
		"garbage", "!", "=", "ä", "0", "-1", " ", "99999999999999999999999", "null", "' OR 1=1 --", "\x00",
		apikey.Cursor(strings.Repeat("A", 10_000)),
	} {
		_, err := e.Store.List(e.ctx, apikey.StoreFilter{After: c})
		e.fails(fmt.Sprintf("List after %.20q", c), err, apikey.ErrInvalid)
		_, err = e.Store.Events(e.ctx, apikey.StoreEventFilter{After: c})
		e.fails(fmt.Sprintf("Events after %.20q", c), err, apikey.ErrInvalid)
		_, err = e.Store.Changed(e.ctx, c, 10)
		e.fails(fmt.Sprintf("Changed after %.20q", c), err, apikey.ErrInvalid)
	}
}
