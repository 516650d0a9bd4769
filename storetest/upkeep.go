package storetest

import (
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

var upkeep = []testCase{
	{"swaps", "Upkeep replaces hash with check, the sealed copy with its KEK, and LastUsed", upkeepSwaps},
	{"survives an Apply", "what Upkeep swapped between a read and an Apply survives the Apply: Hash, Check, Sealed, SealedKEK and LastUsed of a stored credential are left alone, whatever the record says", upkeepSurvives},
	{"wrong old value", "a swap whose old value does not match is skipped without an error; the others of the batch are done, also those of the same credential", upkeepSkips},
	{"zero is left alone", "what is zero in an Upkeep is left alone", upkeepZero},
	{"forward only", "LastUsed never moves back from a time that the store's clock has reached", upkeepForward},
	{"once a window", "LastUsed is written where none is stored or one before UsedBefore, which counts as LastUsed if it is zero or later", upkeepWindow},
	{"not in the future", "a LastUsed later than the store's clock is written as the time of that clock, and a stored one is replaced by an earlier one", upkeepFuture},
	{"listed twice", "the swaps of a credential that a batch lists more than once are made in the order of the batch", upkeepTwice},
	{"each on its own", "the three swaps of an Upkeep are made each on its own: one that is skipped keeps back none of the others", upkeepApart},
	{"of ended credentials", "an ended credential, and one of a revoked key, takes LastUsed and another hash like any other", upkeepOfEnded},
	{"ended", "ending a credential clears its sealed copy, and an ended credential takes none back", upkeepEnded},
	{"revoked", "revoking a key clears all its sealed copies, and it takes none back", upkeepRevoked},
	{"no version", "Upkeep changes no version and writes no event", upkeepNoVersion},
	{"not in the feed", "Upkeep is not in Changed", upkeepNotInFeed},
	{"beside Applies", "swaps that run beside Applies on another node are not lost, and neither are the Applies", upkeepBeside},
	{"last used by many", "of many times written at once the latest stays", upkeepLatest},
}

// sealed returns a stored record whose first credential has a value in every column that
// Upkeep writes. It also returns this credential's ID.
func (e *env) sealed() (apikey.StoreRecord, apikey.CredentialID) {
	r := e.full("acct")
	e.apply(e.write(r))
	return r, r.Credentials[0].ID
}

func upkeepSwaps(e *env) {
	r, id := e.sealed()
	was := r.Credentials[0]
	want := was
	want.LastUsed, want.Hash, want.Check = e.tick(), "$new$", []byte{2, 0, 1}
	want.Sealed, want.SealedKEK = []byte{9, 0}, "kek/2025"
	e.upkeep(apikey.StoreUpkeep{
		Credential: id, LastUsed: want.LastUsed,
		OldHash: was.Hash, NewHash: want.Hash, NewCheck: want.Check,
		OldSealed: was.Sealed, NewSealed: want.Sealed, NewKEK: want.SealedKEK,
	})
	e.equal("credential", e.credential(r.ID, 0), want)

	// The same hash with another check: the check was made with a new pepper.
	e.upkeep(apikey.StoreUpkeep{Credential: id, OldHash: "$new$", NewHash: "$new$", NewCheck: []byte{3}})
	want.Check = []byte{3}
	e.equal("another check", e.credential(r.ID, 0), want)
	r.Credentials[0] = want
	e.equal("the rest of the record", e.get(r.ID), r)
}

func upkeepSurvives(e *env) {
	read, id := e.sealed()
	was := read.Credentials[0]
	fresh := was
	fresh.LastUsed, fresh.Hash, fresh.Check, fresh.Sealed, fresh.SealedKEK = e.tick(), "$new$", []byte("new"), []byte("new"), "new"
	e.upkeep(apikey.StoreUpkeep{
		Credential: id, LastUsed: fresh.LastUsed,
		OldHash: was.Hash, NewHash: fresh.Hash, NewCheck: fresh.Check,
		OldSealed: was.Sealed, NewSealed: fresh.Sealed, NewKEK: fresh.SealedKEK,
	})
	read = next(read, named("read before, written after")) // with the old values of Upkeep's columns
	e.apply(e.write(read))
	e.equal("credential after an Apply", e.credential(read.ID, 0), fresh)

	blank := next(read, func(r *apikey.StoreRecord) {
		c := &r.Credentials[0]
		c.LastUsed, c.Hash, c.Check, c.Sealed, c.SealedKEK = time.Time{}, "", nil, nil, ""
	})
	e.apply(e.write(blank))
	e.equal("credential after an Apply that knew none of it", e.credential(read.ID, 0), fresh)

	forged := next(blank, func(r *apikey.StoreRecord) {
		c := &r.Credentials[0]
		c.LastUsed, c.Hash, c.Check, c.Sealed, c.SealedKEK = e.tick(), "forged", []byte("forged"), []byte("forged"), "forged"
	})
	e.apply(e.write(forged))
	e.equal("credential after an Apply with others", e.credential(read.ID, 0), fresh)
}

func upkeepSkips(e *env) {
	r, id := e.sealed()
	was, second := r.Credentials[0], r.Credentials[1]
	used := e.tick()
	e.upkeep(
		apikey.StoreUpkeep{Credential: id, OldHash: "wrong", NewHash: "taken", NewCheck: []byte("taken")},
		apikey.StoreUpkeep{Credential: id, OldHash: was.Hash + "x", NewHash: "taken"},
		apikey.StoreUpkeep{Credential: id, OldHash: "", NewHash: "taken"},
		apikey.StoreUpkeep{Credential: id, OldSealed: []byte("wrong"), NewSealed: []byte("taken"), NewKEK: "taken"},
		apikey.StoreUpkeep{Credential: id, OldSealed: was.Sealed[:1], NewSealed: []byte("taken"), NewKEK: "taken"},
		apikey.StoreUpkeep{Credential: id, OldSealed: nil, NewSealed: []byte("taken"), NewKEK: "taken"},
		// Only one of the three swaps can be made: first that of LastUsed, then the hash's.
		apikey.StoreUpkeep{Credential: id, LastUsed: used, OldHash: "wrong", NewHash: "taken", OldSealed: []byte("wrong"), NewSealed: []byte("taken"), NewKEK: "taken"},
		apikey.StoreUpkeep{Credential: second.ID, OldHash: second.Hash, NewHash: "$new$", NewCheck: []byte("new"), OldSealed: []byte("wrong"), NewSealed: []byte("taken"), NewKEK: "taken"},
	)
	was.LastUsed = used
	second.Hash, second.Check = "$new$", []byte("new")
	e.equal("first credential", e.credential(r.ID, 0), was)
	e.equal("second credential", e.credential(r.ID, 1), second)
}

func upkeepZero(e *env) {
	r, id := e.sealed()
	e.upkeep(apikey.StoreUpkeep{Credential: id})
	e.upkeep(apikey.StoreUpkeep{Credential: id, OldHash: r.Credentials[0].Hash, OldSealed: r.Credentials[0].Sealed})
	e.equal("record", e.get(r.ID), r)
	used := e.tick()
	e.upkeep(apikey.StoreUpkeep{Credential: id, LastUsed: used})
	r.Credentials[0].LastUsed = used
	e.equal("record after LastUsed alone", e.get(r.ID), r)
}

func upkeepForward(e *env) {
	r := e.record("acct")
	e.apply(e.write(r))
	id := r.Credentials[0].ID
	latest := epoch.Add(time.Hour)
	for _, c := range []struct{ write, want time.Time }{
		{latest, latest},
		{latest.Add(-time.Microsecond), latest},
		{epoch.AddDate(-60, 0, 0), latest},
		{time.Time{}, latest},
		{latest.Add(time.Microsecond), latest.Add(time.Microsecond)},
	} {
		e.upkeep(apikey.StoreUpkeep{Credential: id, LastUsed: c.write})
		e.equal(fmt.Sprintf("LastUsed after %v", c.write), e.credential(r.ID, 0).LastUsed, c.want)
	}
	late := apikey.StoreUpkeep{Credential: id, LastUsed: latest.Add(time.Hour)}
	e.upkeep(late, apikey.StoreUpkeep{Credential: id, LastUsed: latest})
	e.equal("LastUsed after a batch out of order", e.credential(r.ID, 0).LastUsed, late.LastUsed)
}

func upkeepWindow(e *env) {
	second := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }
	for _, c := range []struct{ stored, used, before, want int }{
		{-1, 10, 0, 10}, // stored -1: never used
		{-1, 10, 10, 10},
		{10, 50, 0, 10},
		{10, 50, 10, 10},
		{10, 50, 11, 50},
		{10, 70, 60, 70},
		{59, 60, 60, 60},
		{60, 119, 60, 60},
		{60, 59, 59, 60},
		{60, 59, 90, 60}, // UsedBefore is later than the use: LastUsed does not move back
		{60, 80, 90, 80},
	} {
		r := e.record("acct")
		if c.stored >= 0 {
			r.Credentials[0].LastUsed = second(c.stored)
		}
		e.apply(e.write(r))
		e.upkeep(apikey.StoreUpkeep{Credential: r.Credentials[0].ID, LastUsed: second(c.used), UsedBefore: second(c.before)})
		e.equal(fmt.Sprintf("LastUsed of %+v", c), e.credential(r.ID, 0).LastUsed, second(c.want))
	}
}

// upkeepFuture allows a difference of one day between the store's clock and this one: the
// store may use the clock of a database server.
func upkeepFuture(e *env) {
	for _, ahead := range []time.Duration{50 * time.Hour, 5 * 365 * 24 * time.Hour} {
		for _, before := range []time.Time{{}, time.Now().Add(ahead - time.Minute)} {
			r := e.record("acct")
			e.apply(e.write(r))
			e.upkeep(apikey.StoreUpkeep{Credential: r.Credentials[0].ID, LastUsed: time.Now().Add(ahead), UsedBefore: before})
			if got := e.credential(r.ID, 0).LastUsed; got.After(time.Now().Add(24*time.Hour)) || got.Before(time.Now().Add(-24*time.Hour)) {
				e.Errorf("a node whose clock is %v ahead left LastUsed %v", ahead, got)
			}
		}
	}
	for _, stored := range []time.Time{time.Now().Add(50 * time.Hour).UTC(), instants[len(instants)-1]} {
		r := e.record("acct")
		r.Credentials[0].LastUsed = stored.Truncate(time.Microsecond)
		e.apply(e.write(r))
		used := e.tick()
		e.upkeep(apikey.StoreUpkeep{Credential: r.Credentials[0].ID, LastUsed: used, UsedBefore: used.Add(-time.Minute)})
		e.equal(fmt.Sprintf("LastUsed where %v was stored", stored), e.credential(r.ID, 0).LastUsed, used)
		e.upkeep(apikey.StoreUpkeep{Credential: r.Credentials[0].ID, LastUsed: used.Add(-time.Second)})
		e.equal("LastUsed of an earlier use", e.credential(r.ID, 0).LastUsed, used)
	}
}

func upkeepTwice(e *env) {
	r, id := e.sealed()
	second := func(n int) time.Time { return epoch.Add(time.Hour + time.Duration(n)*time.Second) }
	want := r.Credentials[0]
	want.LastUsed, want.Hash, want.Check = second(40), "third", []byte("3")
	want.Sealed, want.SealedKEK = []byte("third"), "kek/3"
	e.upkeep(
		apikey.StoreUpkeep{Credential: id, LastUsed: second(10), OldHash: r.Credentials[0].Hash, NewHash: "second", NewCheck: []byte("2")},
		apikey.StoreUpkeep{Credential: id, LastUsed: second(40), UsedBefore: second(20), OldSealed: r.Credentials[0].Sealed, NewSealed: []byte("second"), NewKEK: "kek/2"},
		apikey.StoreUpkeep{Credential: id, LastUsed: second(50), UsedBefore: second(30), OldHash: "second", NewHash: "third", NewCheck: []byte("3")},
		apikey.StoreUpkeep{Credential: id, OldHash: "second", NewHash: "never", OldSealed: []byte("second"), NewSealed: []byte("third"), NewKEK: "kek/3"},
	)
	e.equal("credential", e.credential(r.ID, 0), want)
}

func upkeepApart(e *env) {
	for n := range 8 { // each bit of n says whether one of the three swaps is skipped
		r, id := e.sealed()
		want := r.Credentials[0]
		u := apikey.StoreUpkeep{
			Credential: id, LastUsed: want.LastUsed.Add(-time.Second),
			OldHash: "wrong", NewHash: "$new$", NewCheck: []byte("new"),
			OldSealed: []byte("wrong"), NewSealed: []byte("new"), NewKEK: "kek/new",
		}
		if n&1 == 0 {
			u.LastUsed = e.tick()
			want.LastUsed = u.LastUsed
		}
		if n&2 == 0 {
			u.OldHash = want.Hash
			want.Hash, want.Check = u.NewHash, u.NewCheck
		}
		if n&4 == 0 {
			u.OldSealed = want.Sealed
			want.Sealed, want.SealedKEK = u.NewSealed, u.NewKEK
		}
		e.upkeep(u)
		e.equal(fmt.Sprintf("credential after %+v", u), e.credential(r.ID, 0), want)
	}
}

func upkeepOfEnded(e *env) {
	ended := e.full("acct")
	ended.Credentials[0].Ended, ended.Credentials[0].Sealed, ended.Credentials[0].SealedKEK = true, nil, ""
	e.apply(e.write(ended))
	for _, r := range []apikey.StoreRecord{ended, e.dead(e.tick())} {
		want := r.Credentials[0]
		u := apikey.StoreUpkeep{Credential: want.ID, LastUsed: e.tick(), OldHash: want.Hash, NewHash: "$new$", NewCheck: []byte("new")}
		want.LastUsed, want.Hash, want.Check = u.LastUsed, u.NewHash, u.NewCheck
		e.upkeep(u)
		e.equal("credential", e.credential(r.ID, 0), want)
	}
}

func upkeepEnded(e *env) {
	r, id := e.sealed()
	r = next(r, func(r *apikey.StoreRecord) { r.Credentials[0].Ended = true }) // the record passed in still has the sealed copy
	e.apply(e.write(r))
	r.Credentials[0].Sealed, r.Credentials[0].SealedKEK = nil, ""
	e.equal("after the end", e.get(r.ID), r)
	for _, old := range [][]byte{nil, {}, {0, 1, 2, 0xFE}} {
		e.upkeep(apikey.StoreUpkeep{Credential: id, OldSealed: old, NewSealed: []byte("back"), NewKEK: "kek"})
		e.equal("after upkeep", e.get(r.ID), r)
	}
	e.upkeep(apikey.StoreUpkeep{Credential: r.Credentials[1].ID, NewSealed: []byte("copy"), NewKEK: "kek"})
	e.equal("a live credential of the key", e.credential(r.ID, 1).Sealed, []byte("copy"))
}

func upkeepRevoked(e *env) {
	r, _ := e.sealed()
	r = next(r, func(r *apikey.StoreRecord) {
		c := e.full("acct").Credentials[0] // another credential with a sealed copy
		r.Credentials = append([]apikey.StoreCredential{c}, r.Credentials...)
	})
	e.apply(e.write(r))
	r = next(r, func(r *apikey.StoreRecord) { r.RevokedAt = e.tick() })
	e.apply(e.write(r))
	for i := range r.Credentials {
		r.Credentials[i].Sealed, r.Credentials[i].SealedKEK = nil, ""
	}
	e.equal("after revocation", e.get(r.ID), r)
	for _, c := range r.Credentials {
		e.upkeep(apikey.StoreUpkeep{Credential: c.ID, NewSealed: []byte("back"), NewKEK: "kek"})
	}
	e.equal("after upkeep", e.get(r.ID), r)
}

func upkeepNoVersion(e *env) {
	r, id := e.sealed()
	log := e.events(apikey.StoreEventFilter{})
	e.upkeep(apikey.StoreUpkeep{Credential: id, LastUsed: e.tick(), OldHash: r.Credentials[0].Hash, NewHash: "$new$"})
	e.equal("version", e.get(r.ID).Version, r.Version)
	e.equal("events", e.events(apikey.StoreEventFilter{}), log)
	e.apply(e.write(next(r))) // by a caller who read the record before the Upkeep
}

func upkeepNotInFeed(e *env) {
	r, id := e.sealed()
	_, from := e.changed(e.now(), 10)
	// The feed may repeat records. Only a record that appears because of Upkeep is wrong.
	// So the same part of the feed is read before and after an Upkeep.
	before, _ := e.changed(from, 10)
	e.upkeep(apikey.StoreUpkeep{Credential: id, LastUsed: e.tick(), OldHash: r.Credentials[0].Hash, NewHash: "$new$"})
	after, _ := e.changed(from, 10)
	if shown := newest(after); len(shown) > len(newest(before)) {
		e.Errorf("the feed shows %d records, and %d without Upkeep", len(shown), len(newest(before)))
	}
}

func upkeepBeside(e *env) {
	const rounds = 40
	r, id := e.sealed()
	hash := r.Credentials[0].Hash
	race(2, func(i int) {
		for n := range rounds {
			var err error
			if i == 0 {
				r = next(r, named(fmt.Sprint(n)))
				err = e.Store.Apply(e.ctx, e.write(r))
			} else {
				swap := apikey.StoreUpkeep{Credential: id, OldHash: hash, NewHash: fmt.Sprint("hash ", n), LastUsed: e.tick().Add(time.Second)}
				hash = swap.NewHash
				err = e.Other.Upkeep(e.ctx, []apikey.StoreUpkeep{swap})
			}
			if err != nil {
				e.Errorf("round %d: %v", n, err)
			}
		}
	})
	got := e.get(r.ID)
	e.equal("version", got.Version, uint64(rounds+1))
	e.equal("hash", e.credential(r.ID, 0).Hash, hash)
}

func upkeepLatest(e *env) {
	const writers, each = 4, 15
	r, id := e.sealed()
	start := e.tick()
	race(writers, func(i int) {
		for n := range each {
			used := start.Add(time.Duration(n*writers+(i+n)%writers) * time.Second)
			if err := e.nodes()[i%2].Upkeep(e.ctx, []apikey.StoreUpkeep{{Credential: id, LastUsed: used}}); err != nil {
				e.Errorf("Upkeep: %v", err)
			}
		}
	})
	e.equal("LastUsed", e.credential(r.ID, 0).LastUsed, start.Add((writers*each-1)*time.Second))
}
