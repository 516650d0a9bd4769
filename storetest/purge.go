package storetest

import (
	"context"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

var tombstones = []testCase{
	{"found", "a revoked key stays: Get, Lookup and List return it with everything but its sealed copies", tombstoneFound},
	{"inserted", "a key may be written that is revoked already", tombstoneInserted},
	{"versions", "a revoked key is a record like any other: it takes further versions and none twice", tombstoneVersions},
}

func (e *env) revoke(r apikey.StoreRecord) apikey.StoreRecord {
	e.Helper()
	r = next(r, func(r *apikey.StoreRecord) { r.RevokedAt, r.RevokeReason = e.tick(), "leaked in a log" })
	e.apply(e.write(r))
	for i := range r.Credentials {
		r.Credentials[i].Sealed, r.Credentials[i].SealedKEK = nil, ""
	}
	return r
}

func tombstoneFound(e *env) {
	r, live := e.full("acct"), e.full("acct")
	e.apply(e.writes(r, live)...)
	r = e.revoke(r)
	e.equal("Get", e.get(r.ID), r)
	for _, c := range r.Credentials {
		got, err := e.Other.Lookup(e.ctx, c.ID)
		e.ok(err)
		e.equal("Lookup", got, r)
	}
	e.equal("List", e.list(apikey.StoreFilter{}), []apikey.StoreRecord{live, r})
	e.equal("List of the revoked", e.list(apikey.StoreFilter{State: apikey.Revoked}), []apikey.StoreRecord{r})
	e.equal("List of the suspended", e.list(apikey.StoreFilter{State: apikey.Suspended}), []apikey.StoreRecord{live})
}

func tombstoneInserted(e *env) {
	r := e.record("acct")
	r.RevokedAt = e.tick()
	e.apply(e.write(r))
	e.equal("Get", e.get(r.ID), r)
	e.equal("List", e.list(apikey.StoreFilter{State: apikey.Revoked}), []apikey.StoreRecord{r})
}

func tombstoneVersions(e *env) {
	r := e.record("acct")
	e.apply(e.write(r))
	r = e.revoke(r)
	again := e.record("acct")
	again.ID = r.ID
	e.conflicts("the ID of a revoked key", e.write(again))
	again.ID = NewKeyID()
	again.Credentials = r.Credentials
	e.conflicts("the credential of a revoked key", e.write(again))
	r = next(r, named("after"))
	e.apply(e.write(r))
	e.equal("Get", e.get(r.ID), r)
}

var purge = []testCase{
	{"what", "Purge removes records revoked before the given time and items expired before it, and nothing else", purgeWhat},
	{"limit", "Purge removes at most limit records and items together and says how many", purgeLimit},
	{"refusals", "Purge refuses a time later than 24 hours ago and a limit below 1 with ErrInvalid, and removes nothing", purgeRefuses},
	{"events stay", "the events of a purged key stay, and the retry of one of its changes is still recognised", purgeKeepsEvents},
	{"not in the feed", "purging is not a change and loses no cursor", purgeFeed},
	{"context", "Purge returns the error of a context that is done", purgeContext},
}

// dead stores and returns a record that was revoked at t.
func (e *env) dead(t time.Time) apikey.StoreRecord {
	e.Helper()
	r := e.full("acct")
	r.RevokedAt = t
	for i := range r.Credentials {
		r.Credentials[i].Sealed, r.Credentials[i].SealedKEK = nil, ""
	}
	e.apply(e.write(r))
	return r
}

func (e *env) purges(before time.Time, limit, want int) {
	e.Helper()
	n, err := e.Purge(e.ctx, before, limit)
	e.ok(err)
	e.equal("purged", n, want)
}

func purgeWhat(e *env) {
	e.needsPurge()
	before, after := epoch.Add(time.Hour-time.Microsecond), epoch.Add(time.Hour)
	gone, kept, live := e.dead(before), e.dead(after), e.full("acct")
	expired := live
	expired.ID, expired.ExpiresAt, expired.Credentials = NewKeyID(), before, nil
	e.apply(e.writes(live, expired)...)
	items := []apikey.StoreItem{item("after", 1, ""), item("before", 1, ""), item("never", 1, "")}
	items[0].ExpiresAt, items[1].ExpiresAt = after, before
	e.apply(writeItems(items...))

	e.purges(after, 100, 2)
	_, err := e.Store.Get(e.ctx, gone.ID)
	e.fails("Get of a purged key", err, apikey.ErrNotFound)
	for _, c := range gone.Credentials {
		_, err = e.Other.Lookup(e.ctx, c.ID)
		e.fails("Lookup of a purged key", err, apikey.ErrNotFound)
	}
	e.equal("List", e.list(apikey.StoreFilter{Limit: 2}), newestFirst([]apikey.StoreRecord{kept, live, expired}))
	e.equal("Items", e.items(apikey.StoreItemFilter{Kind: "test"}), []apikey.StoreItem{items[0], items[2]})
	e.apply(writeItems(item("before", 1, "again")))
	e.purges(after, 100, 0)
}

func purgeLimit(e *env) {
	e.needsPurge()
	var all []apikey.StoreItem
	for i := range 7 {
		e.dead(e.tick())
		it := item(fmt.Sprint(i), 1, "")
		it.ExpiresAt = e.tick()
		all = append(all, it)
	}
	e.apply(writeItems(all...))
	before := e.tick()
	left := 14
	for _, limit := range []int{1, 5, 1, 6, 5, 5} {
		n := min(limit, left)
		e.purges(before, limit, n)
		left -= n
		got := len(e.list(apikey.StoreFilter{})) + len(e.items(apikey.StoreItemFilter{Kind: "test"}))
		e.equal("records and items left", got, left)
	}
}

func purgeRefuses(e *env) {
	e.needsPurge()
	r := e.dead(e.tick())
	for _, c := range []struct {
		before time.Time
		limit  int
	}{
		{time.Now().Add(-23 * time.Hour), 10},
		{time.Now(), 10},
		{time.Now().Add(time.Hour), 10},
		{e.tick(), 0},
		{e.tick(), -1},
	} {
		n, err := e.Purge(e.ctx, c.before, c.limit)
		e.fails(fmt.Sprintf("Purge before %v, limit %d", c.before, c.limit), err, apikey.ErrInvalid)
		e.equal("purged", n, 0)
	}
	e.equal("record", e.get(r.ID), r)
	e.purges(time.Now().Add(-25*time.Hour), 1, 1)
}

func purgeKeepsEvents(e *env) {
	e.needsPurge()
	r := e.record("acct")
	first := e.write(r)
	e.apply(first)
	e.revoke(r)
	log := e.events(apikey.StoreEventFilter{})
	e.equal("events before", len(log), 2)
	e.purges(e.tick(), 10, 1)
	e.equal("events", e.events(apikey.StoreEventFilter{}), log)
	e.equal("chain", len(e.events(apikey.StoreEventFilter{Key: r.ID, Chain: true})), 2)

	e.apply(first) // a late retry, after a lost answer, must not issue the key again
	_, err := e.Store.Get(e.ctx, r.ID)
	e.fails("Get after the retry", err, apikey.ErrNotFound)
}

func purgeFeed(e *env) {
	e.needsPurge()
	start := e.now()
	e.dead(e.tick())
	live := e.full("acct")
	e.apply(e.write(live))
	e.dead(e.tick()) // its event is the last one in the feed
	_, at := e.changed(start, 1)
	e.purges(e.tick(), 10, 2)
	shown, _ := e.changed(start, 1)
	e.equal("records in the feed", len(newest(shown)), 1)
	e.shows("what is left", shown, live)

	live = next(live)
	e.apply(e.write(live))
	shown, _ = e.changed(at, 1)
	e.shows("after the purge", shown, live)
}

func purgeContext(e *env) {
	e.needsPurge()
	r := e.dead(e.tick())
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	_, err := e.Purge(ctx, e.tick(), 10)
	e.fails("Purge", err, context.Canceled)
	e.equal("record", e.get(r.ID), r)
}
