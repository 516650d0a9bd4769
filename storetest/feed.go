package storetest

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/go-apikey/apikey"
)

var feed = []testCase{
	{"start", "the empty cursor returns no records and the position of now", feedStart},
	{"every change", "a record that was written is shown, as it is now", feedShows},
	{"pages", "the feed pages by any limit and skips nothing, in one Apply or many", feedPages},
	{"between pages", "what is written between two pages of the feed is not skipped", feedBetweenPages},
	{"tombstones", "a revocation is a change", feedTombstones},
	{"items and events", "only records are in the feed", feedRecordsOnly},
	{"same record", "a record that changes again is shown again", feedAgain},
	{"one cursor on all nodes", "a cursor of one node continues on another", feedNodes},
	{"writers on all nodes", "the feed never skips a record, however late its transaction commits", feedWriters},
}

// newest returns the latest version of every record that the feed showed.
func newest(shown []apikey.StoreRecord) map[apikey.KeyID]apikey.StoreRecord {
	latest := map[apikey.KeyID]apikey.StoreRecord{}
	for _, r := range shown {
		if r.Version >= latest[r.ID].Version {
			latest[r.ID] = r
		}
	}
	return latest
}

// shows checks that the latest version in shown of each record in want is equal to it.
// shown may have other records too, because the feed may repeat records.
func (e *env) shows(what string, shown []apikey.StoreRecord, want ...apikey.StoreRecord) {
	e.Helper()
	latest := newest(shown)
	for i, r := range want {
		got, ok := latest[r.ID]
		if !ok {
			e.Errorf("%s: record %d of %d was skipped", what, i+1, len(want))
			continue
		}
		e.equal(what, got, r)
	}
}

func feedStart(e *env) {
	e.create(e.full("acct"), e.record("acct"))
	c, err := e.Store.Changed(e.ctx, "", 10)
	e.ok(err)
	e.equal("records of the empty cursor", len(c.Records), 0)
	e.equal("more", c.More, false)
	e.equal("a store of one node is current", c.Current, true)
	if c.Next == "" {
		e.Error("Next is empty, which is no position")
	}
}

func feedShows(e *env) {
	old := e.record("acct")
	e.apply(e.write(old))
	at := e.now()
	r := e.full("acct")
	e.apply(e.write(r))
	shown, at := e.changed(at, 10)
	e.shows("new record", shown, r)

	r = next(r, named("again"))
	e.apply(e.write(r))
	shown, at = e.changed(at, 10)
	e.shows("update", shown, r)

	e.upkeep(apikey.StoreUpkeep{Credential: old.Credentials[0].ID, LastUsed: epoch})
	old = next(e.get(old.ID), named("after upkeep"))
	e.apply(e.write(old))
	shown, _ = e.changed(at, 10)
	e.shows("update after upkeep", shown, old)
}

func feedPages(e *env) {
	for _, limit := range []int{1, 3, 1000} {
		at := e.now()
		var records []apikey.StoreRecord
		for range 12 {
			records = append(records, e.record("acct"))
		}
		e.create(records[:8]...) // in one transaction
		for _, r := range records[8:] {
			e.create(r)
		}
		records[2] = next(records[2], named("twice"))
		e.apply(e.write(records[2]))
		shown, end := e.changed(at, limit)
		e.shows(fmt.Sprintf("by %d", limit), shown, records...)
		shown, _ = e.changed(at, limit)
		e.shows(fmt.Sprintf("by %d from the same cursor", limit), shown, records...)
		r := e.record("acct")
		e.create(r)
		shown, _ = e.changed(end, limit)
		e.shows(fmt.Sprintf("the next one by %d", limit), shown, r)
	}
}

func feedBetweenPages(e *env) {
	at := e.now()
	var records []apikey.StoreRecord
	for range 10 {
		records = append(records, e.record("acct"))
	}
	e.create(records...)
	var shown []apikey.StoreRecord
	for n := range walkEnd {
		c, err := e.Store.Changed(e.ctx, at, 3)
		e.ok(err)
		shown, at = append(shown, c.Records...), c.Next
		if n < 6 {
			// Write a record that was shown already, one that was not, and a new one.
			for _, i := range []int{n, 9 - n} {
				records[i] = next(records[i], named("between"))
				e.apply(e.write(records[i]))
			}
			r := e.record("acct")
			records = append(records, r)
			e.apply(e.write(r))
		} else if !c.More {
			break
		}
	}
	e.shows("between pages", shown, records...)
}

func feedTombstones(e *env) {
	r := e.full("acct")
	e.apply(e.write(r))
	at := e.now()
	dead := next(r, func(r *apikey.StoreRecord) {
		r.RevokedAt, r.RevokeReason = e.tick(), apikey.ReasonCompromised
		r.Credentials[0].Sealed, r.Credentials[0].SealedKEK = nil, ""
	})
	e.apply(e.write(dead))
	shown, _ := e.changed(at, 10)
	e.shows("revoked", shown, dead)
}

func feedRecordsOnly(e *env) {
	r := e.record("acct")
	e.apply(e.write(r))
	_, at := e.changed(e.now(), 10)
	e.apply(e.note("acct"), writeItems(item("x", 1, "")))
	late := e.record("acct")
	e.apply(e.write(late))
	shown, at := e.changed(at, 10)
	e.shows("after an event and an item", shown, late)
	e.apply(e.note("acct"))
	if _, _, err := drain(e.ctx, at, 10, e.Other); err != nil {
		e.Errorf("Changed after an event alone: %v", err)
	}
}

func feedAgain(e *env) {
	r := e.record("acct")
	at := e.now()
	e.apply(e.write(r))
	for range 10 {
		var shown []apikey.StoreRecord
		shown, at = e.changed(at, 1)
		e.shows("again", shown, r)
		r = next(r, named(fmt.Sprint(r.Version)))
		e.apply(e.write(r))
	}
}

func feedNodes(e *env) {
	nodes := e.nodes()
	at := e.now()
	var records []apikey.StoreRecord
	for i := range 12 {
		r := e.record("acct")
		records = append(records, r)
		e.ok(nodes[i/2%2].Apply(e.ctx, e.write(r)))
	}
	shown, _, err := drain(e.ctx, at, 1, nodes[:]...)
	e.ok(err)
	e.shows("on all nodes in turn", shown, records...)
}

// feedWriters polls the feed while large and small transactions run at the same time.
func feedWriters(e *env) {
	const writers, each = 4, 15
	at := e.now()
	var written [writers][]apikey.StoreRecord
	var running atomic.Int64
	running.Store(writers)
	nodes := e.nodes()

	// Two pollers use one node each. The third one alternates between the nodes.
	polled := [3][]apikey.StoreRecord{}
	walks := [3][]apikey.Store{nodes[:1], nodes[1:], nodes[:]}
	race(writers+len(walks), func(i int) {
		if i < writers {
			defer running.Add(-1)
			written[i] = e.writeMany(nodes[i%2], each, 1+i/2*7)
			return
		}
		p, from := i-writers, at
		for last := false; !last; {
			last = running.Load() == 0 // poll once more after the last commit
			shown, end, err := drain(e.ctx, from, 3, walks[p]...)
			if err != nil {
				e.Errorf("poller %d: %v", p, err)
				return
			}
			polled[p], from = append(polled[p], shown...), end
		}
	})
	all := slices.Concat(written[:]...)
	if len(all) == 0 {
		e.Fatal("nothing was written")
	}
	for p, shown := range polled {
		e.shows(fmt.Sprintf("poller %d", p), shown, all...)
	}
}

// writeMany calls Apply as often as times says. Each Apply writes the next version of one
// record, and as many new records as fresh says. A new record is written only once, so a
// poller that skips it cannot see it later. writeMany returns the latest version of all
// records.
func (e *env) writeMany(s apikey.Store, times, fresh int) []apikey.StoreRecord {
	all := []apikey.StoreRecord{e.record("acct")}
	for n := range times {
		if n > 0 {
			all[0] = next(all[0], named(fmt.Sprint(n)))
		}
		changes := e.writes(all[0])
		for range fresh {
			r := e.record("acct")
			all, changes = append(all, r), append(changes, e.write(r))
		}
		if err := s.Apply(e.ctx, changes...); err != nil {
			e.Errorf("Apply: %v", err)
		}
	}
	return all
}

var restoredBackup = []testCase{
	{"more changes than were lost", "a cursor whose last event is gone is ErrCursorLost, also when the feed has grown beyond its position again", restoredBeyond},
	{"as many changes as were lost", "a cursor whose last event is gone is ErrCursorLost, also when another one stands at its position", restoredSame},
	{"position behind", "a cursor beyond the store's own position is ErrCursorLost", restoredBehind},
	{"cursor before the backup", "a cursor that was taken before the backup survives the restore, and skips nothing", restoredBefore},
	{"start again", "after ErrCursorLost the empty cursor starts again", restoredStart},
}

// scene is a store with a backup, and with changes before and after the backup.
type scene struct {
	record  apikey.StoreRecord // the version in the backup
	before  apikey.Cursor      // made before the backup, after some changes
	lost    apikey.Cursor      // made after three changes that are not in the backup
	restore func()
}

func (e *env) scene() scene {
	e.needsBackup()
	r := e.record("acct")
	for range 3 {
		e.apply(e.write(r))
		r = next(r)
	}
	e.apply(e.write(r))
	_, before := e.changed(e.now(), 10)
	restore := e.Backup(e.T)
	e.rewrite(r, 3, "lost")
	_, lost := e.changed(before, 10)
	return scene{r, before, lost, func() { restore(e.T) }}
}

// rewrite writes the next n versions of r, and returns the last.
func (e *env) rewrite(r apikey.StoreRecord, n int, name string) apikey.StoreRecord {
	e.Helper()
	for range n {
		r = next(r, named(name))
		e.apply(e.write(r))
	}
	return r
}

func (e *env) cursorLost(c apikey.Cursor) {
	e.Helper()
	for _, s := range e.nodes() {
		_, err := s.Changed(e.ctx, c, 10)
		e.fails("Changed", err, apikey.ErrCursorLost)
	}
}

func restoredBeyond(e *env) {
	s := e.scene()
	s.restore()
	e.rewrite(s.record, 5, "rewritten")
	e.cursorLost(s.lost)
}

func restoredSame(e *env) {
	s := e.scene()
	s.restore()
	e.rewrite(s.record, 3, "rewritten")
	e.cursorLost(s.lost)
}

func restoredBehind(e *env) {
	s := e.scene()
	s.restore()
	e.cursorLost(s.lost)
	e.rewrite(s.record, 1, "rewritten")
	e.cursorLost(s.lost)
}

func restoredBefore(e *env) {
	s := e.scene()
	s.restore()
	if _, _, err := drain(e.ctx, s.before, 10, e.Other); err != nil {
		e.Errorf("Changed after a restore: %v", err)
	}
	r := e.rewrite(s.record, 2, "rewritten")
	shown, _ := e.changed(s.before, 1)
	e.shows("changes after a restore", shown, r)
	for _, r := range shown {
		if r.Name == "lost" {
			e.Error("the feed shows a record that the restore took back")
		}
	}
}

func restoredStart(e *env) {
	s := e.scene()
	s.restore()
	e.cursorLost(s.lost)
	at := e.now()
	r := e.rewrite(s.record, 1, "rewritten")
	shown, _ := e.changed(at, 10)
	e.shows("from the new start", shown, r)
	e.equal("record", e.get(r.ID), r)
}
