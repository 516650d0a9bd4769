package storetest

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

var times = []testCase{
	{"exact", "every time comes back to the microsecond, in UTC, from before 1970 to the year 9999", timesExact},
	{"zero", "the zero time is none and comes back as the zero time; the first instant of 1970 is a time", timesZero},
	{"order", "lists are ordered and filtered by time also before 1970", timesOrder},
	{"far filters", "a time in a StoreFilter may be any, finer than a microsecond and beyond what a column holds: what Filter.Match selects is selected", timesFarFilters},
	{"far log filters", "a time in a StoreEventFilter may be any, finer than a microsecond and beyond what a column holds", timesFarLogFilters},
	{"far values", "Apply refuses a time that it cannot keep with ErrInvalid, and writes nothing; it never keeps another", timesFarValues},
	{"far uses", "Upkeep takes any time of use: a later one than the store's clock is that clock's, one before the year 1 is none", timesFarUses},
	{"far purges", "Purge takes any time in the past; one in the future is ErrInvalid, however far", timesFarPurges},
	{"far cursors", "a cursor whose time no record can have is ErrInvalid, or goes on from there", timesFarCursors},
}

// far has times that some column cannot store: too early, too late, or more precise than a
// microsecond. Some of them are only just so. The last ones overflow a 64-bit number of
// microseconds.
var far = []time.Time{
	time.Date(-5000, 1, 1, 0, 0, 0, 0, time.UTC),
	time.Date(0, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
	time.Time{}.Add(time.Nanosecond),
	epoch.Add(-time.Nanosecond), epoch.Add(time.Nanosecond),
	instants[len(instants)-1].Add(time.Nanosecond), // just after the last microsecond of the year 9999
	time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC),
	time.Date(20_000, 2, 29, 1, 2, 3, 4, time.UTC),
	time.Date(200_000, 2, 29, 1, 2, 3, 4, time.UTC),
	time.Date(294_277, 1, 1, 0, 0, 0, 0, time.UTC),
	time.Date(300_000, 1, 1, 0, 0, 0, 0, time.UTC),
	time.Date(-300_000, 1, 1, 0, 0, 0, 0, time.UTC),
	time.Unix(1<<60, 0), time.Unix(-1<<60, 0),
}

var instants = []time.Time{
	time.Date(1900, 1, 1, 0, 0, 0, 1000, time.UTC),
	time.Date(1969, 12, 31, 23, 59, 59, 999_999_000, time.UTC),
	time.Unix(0, 0).UTC(), // second 0 is a time, and not "none"
	time.Unix(0, 1000).UTC(),
	time.Date(2000, 2, 29, 23, 59, 59, 999_999_000, time.UTC),
	time.Date(2024, 3, 31, 1, 30, 0, 1000, time.UTC),     // this hour does not exist in many time zones
	time.Date(2024, 10, 27, 1, 30, 0, 100_000, time.UTC), // this hour occurs twice in many time zones
	time.Date(2038, 1, 19, 3, 14, 8, 1000, time.UTC),     // more seconds than fit 32 bits
	time.Date(2242, 3, 16, 12, 56, 31, 999_999_000, time.UTC),
	time.Date(2263, 1, 1, 0, 0, 0, 1000, time.UTC), // more nanoseconds than fit 64 bits
	time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC),
}

// dated returns a change with the same time in every column for a time.
func (e *env) dated(t time.Time) apikey.StoreChange {
	r := e.record("acct")
	r.CreatedAt, r.ExpiresAt, r.RevokedAt, r.RotateDue = t, t, t, t
	c := &r.Credentials[0]
	c.NotBefore, c.NotAfter, c.LastUsed = t, t, t
	change := e.write(r)
	change.Event.Time = t
	it := item(r.ID.String(), 1, "")
	it.ExpiresAt = t
	change.Items = []apikey.StoreItem{it}
	return change
}

// comesBack checks that every read returns what the applied change c has written.
func (e *env) comesBack(what string, c apikey.StoreChange) {
	e.Helper()
	r := c.Record
	e.equal(what+": Get", e.get(r.ID), *r)
	got, err := e.Other.Lookup(e.ctx, r.Credentials[0].ID)
	e.ok(err)
	e.equal(what+": Lookup", got, *r)
	e.equal(what+": Events", e.events(apikey.StoreEventFilter{Key: r.ID}), []apikey.StoreEvent{*c.Event})
	for _, it := range c.Items {
		e.equal(what+": Items", e.items(apikey.StoreItemFilter{Kind: it.Kind, ID: it.ID}), []apikey.StoreItem{it})
	}
}

func timesExact(e *env) {
	for _, t := range instants {
		c := e.dated(t)
		e.apply(c)
		e.comesBack(t.String(), c)

		r := e.record("acct")
		e.apply(e.write(r))
		if t.Before(time.Now().Add(-48 * time.Hour)) { // for later times see upkeepFuture
			e.upkeep(apikey.StoreUpkeep{Credential: r.Credentials[0].ID, LastUsed: t})
			e.equal(fmt.Sprintf("LastUsed %v by Upkeep", t), e.credential(r.ID, 0).LastUsed, t)
		}
	}
}

func timesZero(e *env) {
	zero := e.dated(time.Time{})
	zero.Record.CreatedAt, zero.Event.Time = epoch, epoch
	e.apply(zero)
	e.comesBack("zero", zero)

	first := e.dated(time.Unix(0, 0).UTC())
	e.apply(first)
	revoked := e.list(apikey.StoreFilter{State: apikey.Revoked})
	e.equal("revoked in the first instant of 1970", revoked, []apikey.StoreRecord{*first.Record})
	e.equal("never used", e.list(apikey.StoreFilter{NeverUsed: true}), []apikey.StoreRecord{*zero.Record})
	e.equal("expires", e.list(apikey.StoreFilter{ExpiringBefore: epoch}), []apikey.StoreRecord{*first.Record})
}

func timesOrder(e *env) {
	var records []apikey.StoreRecord
	var log []apikey.StoreEvent
	for i := range instants {
		c := e.dated(instants[i*7%len(instants)])
		e.apply(c)
		records, log = append(records, *c.Record), append(log, *c.Event)
	}
	slices.SortFunc(log, func(a, b apikey.StoreEvent) int { return b.Time.Compare(a.Time) })
	e.equal("List by 2", e.list(apikey.StoreFilter{Limit: 2}), newestFirst(records))
	e.equal("Events by 2", e.events(apikey.StoreEventFilter{Limit: 2}), log)
	for _, t := range instants {
		for _, f := range []apikey.StoreFilter{{ExpiringBefore: t}, {NotExpiredAt: t}, {DueBefore: t}, {UnusedSince: t}} {
			e.selects(f, records, false)
		}
	}
}

// timesFarFilters filters by every field of a StoreFilter that is a time.
func timesFarFilters(e *env) {
	var records []apikey.StoreRecord
	for _, t := range append(slices.Clone(instants), epoch) {
		c := e.dated(t)
		e.apply(c)
		records = append(records, *c.Record)
	}
	none := e.record("acct")
	e.apply(e.write(none))
	records = append(records, none)
	eachFarTime(e, func(f apikey.StoreFilter) { e.selects(f, records, false) })
}

// eachFarTime calls ask with filters that have a far time in one of their fields. It
// finds these fields by reflection.
func eachFarTime[F apikey.StoreFilter | apikey.StoreEventFilter](e *env, ask func(F)) {
	asked := 0
	for i := range reflect.TypeFor[F]().NumField() {
		for _, t := range far {
			var f F
			if field, is := reflect.ValueOf(&f).Elem().Field(i).Addr().Interface().(*time.Time); is {
				*field = t
				ask(f)
				asked++
			}
		}
	}
	if asked == 0 {
		e.Errorf("storetest: a %s has no times", reflect.TypeFor[F]().Name())
	}
}

// timesFarLogFilters also goes through the pages: a page may end at the far time.
func timesFarLogFilters(e *env) {
	var all []apikey.StoreEvent
	for _, t := range append(slices.Clone(instants), epoch) {
		c := e.note("acct")
		c.Event.Time = t
		e.apply(c)
		all = append(all, *c.Event)
	}
	slices.SortFunc(all, newerEvent)
	ask := func(f apikey.StoreEventFilter) {
		for _, f.Limit = range []int{1, 50} {
			for _, f.Account = range []string{"", "acct"} {
				e.finds(f, all, false)
			}
		}
	}
	eachFarTime(e, ask)
	for _, t := range instants { // and times that are there
		for _, f := range []apikey.StoreEventFilter{{Since: t}, {Before: t}, {Since: t, Before: t.Add(1)}, {Since: t.Add(-1), Before: t}} {
			ask(f)
		}
	}
}

func timesFarValues(e *env) {
	stored := e.record("acct")
	e.apply(e.write(stored))
	columns := []func(c *apikey.StoreChange, t time.Time){
		func(c *apikey.StoreChange, t time.Time) { c.Record.CreatedAt = t },
		func(c *apikey.StoreChange, t time.Time) { c.Record.ExpiresAt = t },
		func(c *apikey.StoreChange, t time.Time) { c.Record.RevokedAt = t },
		func(c *apikey.StoreChange, t time.Time) { c.Record.RotateDue = t },
		func(c *apikey.StoreChange, t time.Time) { c.Record.Credentials[0].NotBefore = t },
		func(c *apikey.StoreChange, t time.Time) { c.Record.Credentials[0].NotAfter = t },
		func(c *apikey.StoreChange, t time.Time) { c.Record.Credentials[0].LastUsed = t },
		func(c *apikey.StoreChange, t time.Time) { c.Event.Time = t },
		func(c *apikey.StoreChange, t time.Time) { c.Items[0].ExpiresAt = t },
	}
	for _, t := range far {
		if t = t.UTC(); t.Nanosecond()%1000 != 0 { // callers truncate times to microseconds
			continue
		}
		for i, set := range columns {
			c := e.write(e.record("acct"))
			c.Items = []apikey.StoreItem{item(c.Record.ID.String(), 1, "")}
			set(&c, t)
			what := fmt.Sprintf("time %d of a change is in the year %d", i, t.Year())
			switch err := e.Store.Apply(e.ctx, e.write(next(stored)), c); {
			case err == nil:
				stored = next(stored)
				e.comesBack(what, c)
			case !errors.Is(err, apikey.ErrInvalid):
				e.Errorf("%s: got error %v, want %q", what, err, apikey.ErrInvalid)
			default:
				_, err := e.Store.Get(e.ctx, c.Record.ID)
				e.fails(what+": Get", err, apikey.ErrNotFound)
				e.equal(what+": events", len(e.events(apikey.StoreEventFilter{Key: c.Record.ID})), 0)
				e.equal(what+": the other change", e.get(stored.ID), stored)
			}
		}
	}
}

func timesFarUses(e *env) {
	for _, t := range far {
		r, bystander := e.record("acct"), e.record("acct")
		e.apply(e.writes(r, bystander)...)
		used := e.tick()
		for _, before := range []time.Time{{}, t.Add(-time.Minute), epoch} {
			e.upkeep(
				apikey.StoreUpkeep{Credential: r.Credentials[0].ID, LastUsed: t, UsedBefore: before},
				apikey.StoreUpkeep{Credential: bystander.Credentials[0].ID, LastUsed: used, UsedBefore: t},
			)
		}
		e.equal(fmt.Sprintf("LastUsed beside one of %v", t), e.credential(bystander.ID, 0).LastUsed, used)
		got := e.credential(r.ID, 0).LastUsed
		switch {
		case t.After(time.Now()):
			if got.After(time.Now().Add(24*time.Hour)) || got.Before(time.Now().Add(-24*time.Hour)) {
				e.Errorf("a use in the year %d left LastUsed %v", t.Year(), got)
			}
		case t.Before(time.Time{}):
			e.equal(fmt.Sprintf("LastUsed of a use in the year %d", t.Year()), got, time.Time{})
		default:
			e.equal(fmt.Sprintf("LastUsed of a use at %v", t), got, t.Truncate(time.Microsecond))
		}
	}
}

func timesFarPurges(e *env) {
	e.needsPurge()
	r := e.dead(instants[0])
	for _, t := range far {
		if t.After(instants[0]) && t.Before(time.Now()) { // this Purge would remove r
			continue
		}
		n, err := e.Purge(e.ctx, t, 10)
		if t.After(time.Now()) {
			e.fails(fmt.Sprintf("Purge before %v", t), err, apikey.ErrInvalid)
		} else {
			e.ok(err)
		}
		e.equal("purged", n, 0)
	}
	e.equal("record", e.get(r.ID), r)
}

// timesFarCursors forges cursors, as an attacker would who knows how most stores encode
// them: as microseconds or nanoseconds in eight bytes.
func timesFarCursors(e *env) {
	e.create(e.spread(3)...)
	for _, read := range []func(after apikey.Cursor, limit int) (apikey.Cursor, error){
		func(after apikey.Cursor, limit int) (apikey.Cursor, error) {
			page, err := e.Store.List(e.ctx, apikey.StoreFilter{After: after, Limit: limit})
			return page.Next, err
		},
		func(after apikey.Cursor, limit int) (apikey.Cursor, error) {
			page, err := e.Store.Events(e.ctx, apikey.StoreEventFilter{After: after, Limit: limit})
			return page.Next, err
		},
	} {
		sound, err := read("", 1)
		e.ok(err)
		for head := range 2 { // a cursor may begin with a letter that names its list
			text := string(sound[head:])
			b, err := base64.RawURLEncoding.DecodeString(text)
			if err != nil {
				continue
			}
			for at := 0; at+8 <= len(b); at++ {
				for _, n := range []uint64{0, 1 << 62, 1<<63 - 1, 1 << 63, 3 << 62, 1<<64 - 1} {
					forged := slices.Clone(b)
					binary.BigEndian.PutUint64(forged[at:], n)
					_, err := read(sound[:head]+apikey.Cursor(base64.RawURLEncoding.EncodeToString(forged)), 10)
					if err != nil && !errors.Is(err, apikey.ErrInvalid) {
						e.Errorf("a cursor that somebody else made: got error %v, want none or %q", err, apikey.ErrInvalid)
					}
				}
			}
		}
	}
}
