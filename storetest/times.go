package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

var times = []testCase{
	{"exact", "every time comes back to the microsecond, in UTC, from before 1970 to the year 9999", timesExact},
	{"zero", "the zero time is none and comes back as the zero time; the first instant of 1970 is a time", timesZero},
	{"order", "lists are ordered and filtered by time also before 1970", timesOrder},
}

var instants = []time.Time{
	time.Date(1900, 1, 1, 0, 0, 0, 1000, time.UTC),
	time.Date(1969, 12, 31, 23, 59, 59, 999_999_000, time.UTC),
	time.Unix(0, 0).UTC(), // 0 seconds is not "none"
	time.Unix(0, 1000).UTC(),
	time.Date(2000, 2, 29, 23, 59, 59, 999_999_000, time.UTC),
	time.Date(2024, 3, 31, 1, 30, 0, 1000, time.UTC),     // no such hour on many clocks
	time.Date(2024, 10, 27, 1, 30, 0, 100_000, time.UTC), // twice on many clocks
	time.Date(2038, 1, 19, 3, 14, 8, 1000, time.UTC),     // beyond 32 bits
	time.Date(2242, 3, 16, 12, 56, 31, 999_999_000, time.UTC),
	time.Date(2263, 1, 1, 0, 0, 0, 1000, time.UTC), // beyond 64 bits of nanoseconds
	time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC),
}

// dated has the same time in every column.
func (e *env) dated(t time.Time) apikey.Change {
	r := e.record("acct")
	r.CreatedAt, r.ExpiresAt, r.RevokedAt, r.RotateDue = t, t, t, t
	c := &r.Credentials[0]
	c.NotBefore, c.NotAfter, c.LastUsed = t, t, t
	change := e.write(r)
	change.Event.Time = t
	it := item(r.ID.String(), 1, "")
	it.ExpiresAt = t
	change.Items = []apikey.Item{it}
	return change
}

// comesBack checks a change that was applied.
func (e *env) comesBack(what string, c apikey.Change) {
	e.Helper()
	r := c.Record
	e.equal(what+": Get", e.get(r.ID), *r)
	got, err := e.Other.Lookup(e.ctx, r.Credentials[0].ID)
	e.ok(err)
	e.equal(what+": Lookup", got, *r)
	e.equal(what+": Events", e.events(apikey.EventFilter{Key: r.ID}), []apikey.EventRecord{*c.Event})
	for _, it := range c.Items {
		e.equal(what+": Items", e.items(apikey.ItemFilter{Kind: it.Kind, ID: it.ID}), []apikey.Item{it})
	}
}

func timesExact(e *env) {
	for _, t := range instants {
		c := e.dated(t)
		e.apply(c)
		e.comesBack(t.String(), c)

		r := e.record("acct")
		e.apply(e.write(r))
		if t.Before(time.Now().Add(-48 * time.Hour)) { // later ones: see upkeepFuture
			e.upkeep(apikey.Upkeep{Credential: r.Credentials[0].ID, LastUsed: t})
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
	revoked := e.list(apikey.Filter{State: apikey.Revoked})
	e.equal("revoked in the first instant of 1970", revoked, []apikey.Record{*first.Record})
	e.equal("never used", e.list(apikey.Filter{NeverUsed: true}), []apikey.Record{*zero.Record})
	e.equal("expires", e.list(apikey.Filter{ExpiringBefore: epoch}), []apikey.Record{*first.Record})
}

func timesOrder(e *env) {
	var records []apikey.Record
	var log []apikey.EventRecord
	for i := range instants {
		c := e.dated(instants[i*7%len(instants)])
		e.apply(c)
		records, log = append(records, *c.Record), append(log, *c.Event)
	}
	slices.SortFunc(log, func(a, b apikey.EventRecord) int { return b.Time.Compare(a.Time) })
	e.equal("List by 2", e.list(apikey.Filter{Limit: 2}), newestFirst(records))
	e.equal("Events by 2", e.events(apikey.EventFilter{Limit: 2}), log)
	for _, t := range instants {
		for _, f := range []apikey.Filter{{ExpiringBefore: t}, {NotExpiredAt: t}, {DueBefore: t}, {UnusedSince: t}} {
			e.selects(f, records, false)
		}
	}
}
