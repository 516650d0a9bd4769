package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/go-apikey/apikey"
)

var racers = []testCase{
	{"one record", "of many writers of the same version on all nodes exactly one wins, and the others get ErrConflict", raceRecord},
	{"one item", "of many writers of the same version of an item exactly one wins, and the others get ErrConflict", raceItem},
	{"one deletion", "of many deletions of an item exactly one wins: a grant is redeemed once", raceDeletion},
	{"one new record", "of many writers of Version 1 exactly one wins, and its credentials are the only ones", raceNew},
	{"one credential", "of many records that claim the same new credential exactly one gets it", raceCredential},
	{"one change", "the same change applied by many at once is committed once, and nobody gets an error", raceRetry},
	{"two records", "an Apply of several changes wins or loses as a whole, in whatever order its changes stand", racePairs},
	{"readers", "a reader never sees half of an Apply", raceReaders},
}

const (
	racing = 6 // concurrent writers, half of them on each node
	rounds = 12
)

// oneWins applies changes(i) for every writer i at the same time. It checks that exactly
// one Apply succeeds, and returns that writer.
func (e *env) oneWins(changes func(i int) []apikey.StoreChange) (winner int) {
	e.Helper()
	var wins atomic.Int64
	var mine [racing]bool
	race(racing, func(i int) {
		err := e.nodes()[i%2].Apply(e.ctx, changes(i)...)
		switch {
		case err == nil:
			wins.Add(1)
			mine[i] = true
		case !errors.Is(err, apikey.ErrConflict):
			e.Errorf("a loser got error %v, want ErrConflict", err)
		}
	})
	if n := wins.Load(); n != 1 {
		e.Fatalf("%d of %d writers won, want exactly one", n, racing)
	}
	return slices.Index(mine[:], true)
}

func raceRecord(e *env) {
	r := e.record("acct")
	e.apply(e.write(r))
	var log []apikey.StoreEvent
	for range rounds {
		var tries [racing]apikey.StoreChange
		for i := range tries {
			tries[i] = e.write(next(r, named(fmt.Sprint("writer ", i))))
		}
		won := tries[e.oneWins(func(i int) []apikey.StoreChange { return tries[i : i+1] })]
		r = *won.Record
		log = append(log, *won.Event)
		e.equal("stored is what the winner wrote", e.get(r.ID), r)
	}
	e.equal("the chain is the winners'", e.events(apikey.StoreEventFilter{Key: r.ID, Chain: true})[1:], log)
}

func raceItem(e *env) {
	for version := uint64(1); version <= rounds; version++ {
		won := e.oneWins(func(i int) []apikey.StoreChange {
			return []apikey.StoreChange{writeItems(item("x", version, fmt.Sprint(i)))}
		})
		got, _ := e.item("x")
		e.equal("stored is what the winner wrote", got, item("x", version, fmt.Sprint(won)))
	}
}

func raceDeletion(e *env) {
	for range rounds {
		e.apply(writeItems(item("grant", 1, "")))
		gone := item("grant", 2, "")
		gone.Delete = true
		e.oneWins(func(int) []apikey.StoreChange { return []apikey.StoreChange{writeItems(gone)} })
	}
	e.equal("items", len(e.items(apikey.StoreItemFilter{Kind: "test"})), 0)
}

func raceNew(e *env) {
	for range rounds {
		id := NewKeyID()
		var tries [racing]apikey.StoreChange
		for i := range tries {
			r := e.full("acct")
			r.ID = id
			tries[i] = e.write(r)
		}
		won := e.oneWins(func(i int) []apikey.StoreChange { return tries[i : i+1] })
		e.equal("stored is what the winner wrote", e.get(id), *tries[won].Record)
		for i, c := range tries {
			if _, err := e.Store.Lookup(e.ctx, c.Record.Credentials[0].ID); (err == nil) != (i == won) {
				e.Errorf("Lookup of a credential of writer %d, when %d won: %v", i, won, err)
			}
		}
	}
}

func raceCredential(e *env) {
	for range rounds {
		shared := newCredential()
		var tries [racing]apikey.StoreChange
		for i := range tries {
			r := e.record("acct")
			r.Credentials = append(r.Credentials, shared)
			tries[i] = e.write(r)
		}
		won := e.oneWins(func(i int) []apikey.StoreChange { return tries[i : i+1] })
		got, err := e.Store.Lookup(e.ctx, shared.ID)
		e.ok(err)
		e.equal("the owner", got, *tries[won].Record)
	}
	e.equal("records", len(e.list(apikey.StoreFilter{})), rounds)
}

func raceRetry(e *env) {
	r := e.record("acct")
	for range rounds {
		c := e.write(r)
		c.Items = []apikey.StoreItem{item("x", r.Version, fmt.Sprint(r.Version))}
		race(racing, func(i int) {
			if err := e.nodes()[i%2].Apply(e.ctx, c); err != nil {
				e.Errorf("one of many that apply the same change: %v", err)
			}
		})
		r = next(r)
	}
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), rounds)
	got, _ := e.item("x")
	e.equal("item", got, item("x", rounds, fmt.Sprint(rounds)))
}

func racePairs(e *env) {
	a, b := e.record("a"), e.record("b")
	e.apply(e.writes(a, b)...)
	for range rounds {
		var tries [racing][]apikey.StoreChange
		for i := range tries {
			name := named(fmt.Sprint("writer ", i))
			tries[i] = e.writes(next(a, name), next(b, name))
			if i/2%2 == 1 {
				slices.Reverse(tries[i]) // two orders of the same locks can cause a deadlock
			}
		}
		won := fmt.Sprint("writer ", e.oneWins(func(i int) []apikey.StoreChange { return tries[i] }))
		a, b = next(a, named(won)), next(b, named(won))
		e.equal("first record", e.get(a.ID), a)
		e.equal("second record", e.get(b.ID), b)
	}
	e.equal("events", len(e.events(apikey.StoreEventFilter{})), 2+2*rounds)
}

// raceReaders writes two records in one Apply, again and again, while readers read both.
// A reader that has read a version of one record must never read an older version of the
// other. All parts of a record must be of the same version.
func raceReaders(e *env) {
	whole := func(r apikey.StoreRecord) {
		want := fmt.Sprint(r.Version)
		if r.Name != want || len(r.Credentials) != 2 || r.Credentials[0].Public != want || r.Credentials[1].Public != want {
			e.Errorf("version %s is mixed with another: %+v", want, r)
		}
	}
	stamp := func(r *apikey.StoreRecord) {
		r.Name = fmt.Sprint(r.Version)
		kept := r.Credentials[0]
		kept.Public = r.Name
		fresh := newCredential()
		fresh.Public = r.Name
		r.Credentials = []apikey.StoreCredential{kept, fresh} // one credential updated, one replaced
	}
	pair := [2]apikey.StoreRecord{e.record("acct"), e.record("acct")}
	for i := range pair {
		stamp(&pair[i])
	}
	e.apply(e.writes(pair[:]...)...)

	ids := [2]apikey.KeyID{pair[0].ID, pair[1].ID}
	var done atomic.Bool
	var reads atomic.Int64
	race(3, func(i int) {
		if i == 2 {
			defer done.Store(true)
			// Write until the readers have read often enough too: otherwise a fast
			// writer could finish before the first read.
			for n := 0; !e.Failed() && (n < 3*rounds || reads.Load() < 6*rounds && n < 1000*rounds); n++ {
				pair[0], pair[1] = next(pair[0], stamp), next(pair[1], stamp)
				if err := e.Store.Apply(e.ctx, e.writes(pair[:]...)...); err != nil {
					e.Errorf("Apply: %v", err)
					return
				}
			}
			return
		}
		first, second := ids[i], ids[1-i]
		for !done.Load() && !e.Failed() {
			reads.Add(1)
			x, err := e.Other.Get(e.ctx, first)
			y, err2 := e.Other.Get(e.ctx, second)
			page, err3 := e.Other.List(e.ctx, apikey.StoreFilter{Account: "acct"})
			if err := errors.Join(err, err2, err3); err != nil {
				e.Errorf("reading: %v", err)
				return
			}
			for _, r := range append(page.Records, x, y) {
				whole(r)
			}
			if y.Version < x.Version {
				e.Errorf("half of an Apply: version %d of one record, then version %d of the other", x.Version, y.Version)
			}
		}
	})
}
