package storetest

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

var isolation = []testCase{
	{"records", "a filter by account and mode shows that account in that mode and nothing else", isolatedRecords},
	{"events", "a filter by account, mode and key shows theirs and nothing else", isolatedEvents},
	{"items", "items of one kind are never seen or written under another", isolatedItems},
}

// neighbours has account names that a wrong comparison would mix up.
var neighbours = []string{"acct", "Acct", "acct ", " acct", "acc", "acct%", "acc_", "äcct", "a\u0308cct", "acct\\", "*"}

func isolatedRecords(e *env) {
	want := map[string]map[apikey.Mode][]apikey.StoreRecord{}
	for _, account := range neighbours {
		want[account] = map[apikey.Mode][]apikey.StoreRecord{}
		for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
			for range 2 {
				r := e.record(account)
				r.Mode = mode
				e.apply(e.write(r))
				want[account][mode] = append([]apikey.StoreRecord{r}, want[account][mode]...)
			}
		}
	}
	for account, modes := range want {
		for mode, records := range modes {
			f := apikey.StoreFilter{Account: account, Mode: mode}
			e.equal(fmt.Sprintf("List of %q, %s", account, mode), e.list(f), records)
			f.Limit = 1
			e.equal(fmt.Sprintf("List of %q, %s, by 1", account, mode), e.list(f), records)
		}
	}
	e.equal("List of an account that has none", len(e.list(apikey.StoreFilter{Account: "acct_"})), 0)
}

func isolatedEvents(e *env) {
	var all []apikey.StoreEvent // newest first
	keys := []apikey.KeyID{{}, NewKeyID(), NewKeyID()}
	var changes []apikey.StoreChange
	for _, account := range neighbours {
		for i, key := range keys {
			for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
				c := e.note(account)
				c.Event.Key, c.Event.Mode, c.Event.Seq = key, mode, uint64(i%2)*uint64(len(all)+1)
				changes = append(changes, c)
				all = append([]apikey.StoreEvent{*c.Event}, all...)
			}
		}
	}
	e.apply(changes...)
	for _, account := range append(neighbours, "", "acct_") {
		for _, key := range keys {
			for _, mode := range []apikey.Mode{0, apikey.Live, apikey.Test} {
				var want []apikey.StoreEvent
				for _, ev := range all {
					if (account == "" || ev.Account == account) && (key.IsZero() || ev.Key == key) && (mode == 0 || ev.Mode == mode) {
						want = append(want, ev)
					}
				}
				f := apikey.StoreEventFilter{Account: account, Key: key, Mode: mode, Limit: 5}
				e.equal(fmt.Sprintf("Events of %q, key %s, %s", account, key, mode), e.events(f), want)
			}
		}
	}
}

func isolatedItems(e *env) {
	for _, account := range neighbours { // the same strings, as kinds of items
		it := item("same", 1, account)
		it.Kind = apikey.StoreItemKind(account)
		e.apply(writeItems(it))
	}
	for _, account := range neighbours {
		want := item("same", 1, account)
		want.Kind = apikey.StoreItemKind(account)
		for _, id := range []string{"", "same"} {
			e.equal(fmt.Sprintf("Items of kind %q", account), e.items(apikey.StoreItemFilter{Kind: want.Kind, ID: id}), []apikey.StoreItem{want})
		}
	}
}

var filters = []testCase{
	{"one by one", "every field of a StoreFilter selects what its Match selects", filtersAlone},
	{"together", "fields of a StoreFilter are joined by AND, as in its Match", filtersTogether},
	{"after upkeep", "NeverUsed and UnusedSince see what Upkeep wrote", filtersAfterUpkeep},
	{"rare match", "a page of a filter that matches few records ends, and shows each once", filtersRare},
}

// near has times at which a comparison may be wrong by one microsecond.
var near = []time.Time{{}, epoch.Add(-time.Microsecond), epoch, epoch.Add(time.Microsecond)}

var names = []string{
	"Billing", "billing", "BILLING 100%", "a_b", "a%b", `a\b`, "axb", "Ähre", "ähre", "\u212Aelvin", "kelvin",
	"İstanbul", "istanbul", "straße", "STRASSE", "", "'", `"`, "[a-b]", "e\u0301", "é", "😀",
}

// population returns n records that differ in every field that a StoreFilter selects by.
// The random numbers have a fixed seed, so every run has the same records.
func (e *env) population(n int) (records []apikey.StoreRecord) {
	rnd := rand.New(rand.NewPCG(1, 2))
	instant := func() time.Time { return near[rnd.IntN(len(near))] }
	for i := range n {
		r := e.record([]string{"acct", "other"}[i%2])
		r.Name = names[i/2%len(names)]
		r.Mode, r.Kind = apikey.Mode(1+rnd.IntN(2)), apikey.Kind(1+rnd.IntN(2))
		r.CreatedAt = near[1+rnd.IntN(3)]
		r.ExpiresAt, r.RotateDue = instant(), instant()
		r.Disabled = rnd.IntN(3) == 0
		if rnd.IntN(3) == 0 {
			r.RevokedAt = e.tick()
		}
		r.MAC = [][]byte{nil, {1}, {1, 2}, {2, 1}, {0x80}, {0}}[rnd.IntN(6)]
		r.Credentials = r.Credentials[:rnd.IntN(2)]
		for range rnd.IntN(3) {
			c := newCredential()
			c.LastUsed, c.Ended, c.Pepper = instant(), rnd.IntN(2) == 0, uint8(rnd.IntN(3))
			c.SealedKEK = []string{"kek/2024", "kek/2025"}[rnd.IntN(2)]
			if len(records)%2 == 0 || c.Ended || !r.RevokedAt.IsZero() {
				c.Sealed, c.SealedKEK = nil, ""
			}
			r.Credentials = append(r.Credentials, c)
		}
		records = append(records, r)
	}
	return records
}

// selects checks that List returns the records for which the filter's Match is true. With
// mustTell, the filter must match some of the records and not all, or the case would
// prove nothing.
func (e *env) selects(f apikey.StoreFilter, records []apikey.StoreRecord, mustTell bool) {
	e.Helper()
	var want []apikey.StoreRecord
	for _, r := range records {
		if f.Match(&r) {
			want = append(want, r)
		}
	}
	if mustTell && (len(want) == 0 || len(want) == len(records)) {
		e.Fatalf("storetest: %+v selects %d of %d: the case proves nothing", f, len(want), len(records))
	}
	e.equal(fmt.Sprintf("List with %+v", f), e.list(f), newestFirst(want))
}

// single returns filters that set one field each; together they set every field.
func single() (all []apikey.StoreFilter) {
	all = []apikey.StoreFilter{
		{Account: "acct"}, {Mode: apikey.Live}, {Mode: apikey.Test}, {Kind: apikey.Secret}, {Kind: apikey.Publishable},
		{State: apikey.Active}, {State: apikey.Suspended}, {State: apikey.Revoked},
		{NeverUsed: true},
		{Pepper: 1}, {Pepper: 2}, {Pepper: 0x80},
		{OtherMAC: 1}, {OtherMAC: 2}, {OtherMAC: 0x80},
		{Untagged: true}, {SealedKEKNot: "kek/2024"}, {SealedKEKNot: "kek/2025"},
	}
	for _, t := range near[2:] {
		all = append(all, apikey.StoreFilter{UnusedSince: t}, apikey.StoreFilter{ExpiringBefore: t})
	}
	for _, t := range near[1:] {
		all = append(all, apikey.StoreFilter{NotExpiredAt: t}, apikey.StoreFilter{DueBefore: t})
	}
	return all
}

func filtersAlone(e *env) {
	records := e.population(120)
	e.create(records...)
	everyField(e, append(single(), apikey.StoreFilter{Account: "acct", NameContains: "ILL"}))
	for _, f := range single() {
		f.Limit = 50
		e.selects(f, records, true)
	}
	for _, part := range append(names[:len(names):len(names)], "ILL", "%", "_", `\`, "K", "k", "i", "I", "ä", "Ä", "100%") {
		e.selects(apikey.StoreFilter{Account: "acct", NameContains: part, Limit: 50}, records, true)
	}
	for _, f := range []apikey.StoreFilter{{Account: "acct", NameContains: "%%"}, {Account: "acct", NameContains: "a.b"}, {Pepper: 60}, {OtherMAC: 60}} {
		e.selects(f, records, false) // matches no record, or all
	}
}

// everyField fails if a type of filter has a field that none of the filters sets.
func everyField[F apikey.StoreFilter | apikey.StoreEventFilter](e *env, filters []F) {
	for i := range reflect.TypeFor[F]().NumField() {
		name := reflect.TypeFor[F]().Field(i).Name
		set := slices.ContainsFunc(filters, func(f F) bool { return !reflect.ValueOf(f).Field(i).IsZero() })
		if !set && name != "After" && name != "Limit" {
			e.Fatalf("storetest: no case is about %s.%s", reflect.TypeFor[F]().Name(), name)
		}
	}
}

func filtersTogether(e *env) {
	records := e.population(120)
	e.create(records...)
	rnd := rand.New(rand.NewPCG(3, 4))
	some := func() bool { return rnd.IntN(4) == 0 }
	instant := func() time.Time { return near[rnd.IntN(len(near))] }
	for range 60 {
		var f apikey.StoreFilter
		if some() {
			f.Account, f.NameContains = "acct", []string{"", "b", "%", "ä"}[rnd.IntN(4)]
		}
		if some() {
			f.Mode = apikey.Mode(1 + rnd.IntN(2))
		}
		if some() {
			f.Kind = apikey.Kind(1 + rnd.IntN(2))
		}
		if some() {
			f.State = apikey.State(1 + rnd.IntN(3))
		}
		if some() {
			f.UnusedSince = instant()
		}
		if some() {
			f.ExpiringBefore = instant()
		}
		if some() {
			f.NotExpiredAt = instant()
		}
		if some() {
			f.DueBefore = instant()
		}
		f.NeverUsed = some()
		f.Pepper = uint8(max(0, rnd.IntN(6)-3))
		f.OtherMAC = uint8(max(0, rnd.IntN(6)-3))
		f.Untagged = some()
		f.Limit = []int{0, 3, 50}[rnd.IntN(3)]
		e.selects(f, records, false)
	}
}

func filtersAfterUpkeep(e *env) {
	records := []apikey.StoreRecord{e.record("acct"), e.record("acct"), e.record("acct")}
	used := e.tick().Add(time.Hour)
	e.create(records...)
	for i := range 2 {
		e.upkeep(apikey.StoreUpkeep{Credential: records[i].Credentials[0].ID, LastUsed: used.Add(time.Duration(i) * time.Microsecond)})
		records[i] = e.get(records[i].ID)
	}
	e.selects(apikey.StoreFilter{NeverUsed: true}, records, true)
	for i := range 2 {
		e.selects(apikey.StoreFilter{UnusedSince: used.Add(time.Duration(i+1) * time.Microsecond)}, records, i == 0)
	}
}

func filtersRare(e *env) {
	var records []apikey.StoreRecord
	for i := range 200 {
		r := e.record("acct")
		if i%50 == 7 {
			r.Name, r.RotateDue = "a needle", epoch
		}
		records = append(records, r)
	}
	e.create(records...)
	for _, limit := range []int{1, 3, 4, 5} {
		e.selects(apikey.StoreFilter{Account: "acct", NameContains: "NEEDLE", Limit: limit}, records, true)
		e.selects(apikey.StoreFilter{DueBefore: epoch, Limit: limit}, records, true)
	}
}
