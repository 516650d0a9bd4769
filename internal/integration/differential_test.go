package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// world is what the random operations know of the stores: the records as they
// should be, some of which are stale on purpose.
type world struct {
	*rand.Rand
	records []apikey.StoreRecord
	items   map[string]uint64
	past    []apikey.StoreChange // to be applied again
	clock   int64
	changed map[apikey.KeyID]uint64 // since the last walk through the feeds
}

var (
	actors   = []string{"ann", "Ann", "bob"}
	whatDone = []apikey.Action{"key.test", apikey.ActionIssue, "key.Issue", apikey.ActionRotate}
)

func pick[T any](w *world, from ...T) T { return from[w.IntN(len(from))] }

func (w *world) id() (id [16]byte) {
	for i := range id {
		id[i] = byte(w.Uint32())
	}
	return id
}

// now and then two things have the same time.
func (w *world) now() time.Time {
	w.clock += w.Int64N(3)
	return epoch.Add(time.Duration(w.clock) * time.Microsecond)
}

func (w *world) maybe(t time.Time) time.Time {
	if w.IntN(2) == 0 {
		return time.Time{}
	}
	return t
}

func (w *world) account() string { return pick(w, "a", "A", "a ", "ä", "b") }
func (w *world) name() string {
	return pick(w, "", "Shop", "SHOP Ä", "shop ä", "100%_", `back\slash`, "x'y")
}

func (w *world) credential() apikey.StoreCredential {
	return apikey.StoreCredential{
		ID: w.id(), NotBefore: w.maybe(w.now()), NotAfter: w.maybe(w.now()), Hint: "hint", Pepper: uint8(w.IntN(3)), LastUsed: w.maybe(w.now()),
		Hash: pick(w, "h", "H", "h "), Check: []byte{1}, Sealed: pick(w, nil, []byte("s"), []byte("S")), SealedKEK: pick(w, "", "kek", "KEK"),
	}
}

// edit makes a random next version of a record, or a first one.
func (w *world) edit(r apikey.StoreRecord) apikey.StoreRecord {
	if r.Version == 0 {
		r = apikey.StoreRecord{ID: w.id(), Account: w.account(), Mode: pick(w, apikey.Live, apikey.Test), Kind: pick(w, apikey.Secret, apikey.Publishable), CreatedAt: w.now()}
	}
	r.Version++
	r.Name, r.Needs, r.MAC = w.name(), w.Uint64(), pick(w, nil, []byte{1, 2}, []byte{2})
	r.Head = [32]byte{byte(w.Uint32())}
	r.Abilities = pick(w, nil, []string{"b", "a"}, []string{"ä:*", `"\`})
	r.Networks = pick(w, nil, []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")})
	r.Metadata = pick(w, nil, map[string]string{"b": "1", "a": "<&>"})
	r.Disabled = w.IntN(4) == 0
	r.ExpiresAt, r.RotateDue, r.RotateMonths = w.maybe(w.now()), w.maybe(w.now()), w.IntN(13)
	if r.RevokedAt.IsZero() && w.IntN(12) == 0 {
		r.RevokedAt, r.RevokeReason = w.now(), apikey.ReasonUnused
	}
	creds := append([]apikey.StoreCredential{}, r.Credentials...)
	w.Shuffle(len(creds), func(i, j int) { creds[i], creds[j] = creds[j], creds[i] })
	if len(creds) > 0 && w.IntN(2) == 0 {
		creds[0].Ended, creds[0].NotAfter = true, w.maybe(w.now())
	}
	if len(creds) > 1 && w.IntN(3) == 0 {
		creds = creds[1:]
	}
	if len(creds) < 4 && w.IntN(2) == 0 {
		creds = append([]apikey.StoreCredential{w.credential()}, creds...)
	}
	if len(w.records) > 0 && w.IntN(40) == 0 { // somebody else's
		if other := pick(w, w.records...); other.ID != r.ID && len(other.Credentials) > 0 {
			creds = append(creds, other.Credentials[0])
		}
	}
	r.Credentials = creds
	return r
}

// changes are of one Apply; most of them can succeed.
func (w *world) changes() (all []apikey.StoreChange) {
	for range 1 + w.IntN(3) {
		id := w.id()
		ch := apikey.StoreChange{ID: id}
		if w.IntN(4) > 0 {
			var r apikey.StoreRecord
			if len(w.records) > 0 && w.IntN(4) > 0 {
				r = pick(w, w.records...)
			}
			r = w.edit(r)
			ch.Record = &r
		}
		if ch.Record != nil || w.IntN(2) == 0 {
			ch.Event = &apikey.StoreEvent{ID: id, Time: w.now(), Account: w.account(), Mode: apikey.Live, Actor: pick(w, actors...), Action: pick(w, whatDone...), Body: []byte(w.name())}
			if r := ch.Record; r != nil {
				ch.Event.Account, ch.Event.Mode, ch.Event.Key, ch.Event.Seq = r.Account, r.Mode, r.ID, r.Version
			}
		}
		for range w.IntN(2) {
			name := pick(w, "1", "2", "a", "A", "a ", "ä")
			ch.Items = append(ch.Items, apikey.StoreItem{
				Kind: "k", ID: name, Version: w.items[name] + 1 + uint64(w.IntN(10)/9), Delete: w.IntN(4) == 0, ExpiresAt: w.maybe(w.now()),
				SealedKEK: pick(w, "", "kek"), Data: []byte(w.name()),
			})
		}
		all = append(all, ch)
	}
	return all
}

// learn takes over what an Apply has done.
func (w *world) learn(all []apikey.StoreChange) {
	for _, ch := range all {
		if r := ch.Record; r != nil {
			w.changed[r.ID] = max(w.changed[r.ID], r.Version)
			at := -1
			for i := range w.records {
				if w.records[i].ID == r.ID {
					at = i
				}
			}
			switch {
			case at < 0:
				w.records = append(w.records, *r)
			case w.records[at].Version < r.Version:
				w.records[at] = *r
			}
		}
		for _, it := range ch.Items {
			if w.items[it.ID] = it.Version; it.Delete {
				delete(w.items, it.ID)
			}
		}
		if ch.Event != nil && w.IntN(10) == 0 {
			w.past = append(w.past, ch)
		}
	}
}

// told is what an Apply was asked for.
func told(all []apikey.StoreChange) (text string) {
	for _, ch := range all {
		text += fmt.Sprintf("\n%x, items %v", ch.ID, ch.Items)
		if ch.Record != nil {
			text += fmt.Sprintf(", record %+v", *ch.Record)
		}
	}
	return text
}

func (w *world) filter() apikey.StoreFilter {
	f := apikey.StoreFilter{Limit: 1 + w.IntN(20)}
	for range w.IntN(3) {
		switch w.IntN(12) {
		case 0, 1:
			f.Account = w.account()
		case 2:
			f.Mode = apikey.Live
		case 3:
			f.State = pick(w, apikey.Active, apikey.Suspended, apikey.Revoked)
		case 4:
			f.Account, f.NameContains = w.account(), pick(w, "sHOP", "%_", "Ä", "ä", `\`, "'")
		case 5:
			f.NeverUsed = true
		case 6:
			f.UnusedSince = w.now()
		case 7:
			f.ExpiringBefore = w.now()
		case 8:
			f.NotExpiredAt = w.now()
		case 9:
			f.DueBefore = w.now()
		case 10:
			f.Pepper, f.OtherMAC = uint8(w.IntN(3)), uint8(w.IntN(3))
		case 11:
			f.Untagged, f.SealedKEKNot = w.IntN(2) == 0, pick(w, "", "kek", "KEK")
		}
	}
	return f
}

// verdict is an answer that all stores have to give alike.
func verdict(answer any, err error) string {
	for _, known := range []error{apikey.ErrNotFound, apikey.ErrConflict, apikey.ErrInvalid} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("%v", answer)
}

// operation picks one, and returns how it is done on a store.
func (w *world) operation(t *testing.T) (name string, do func(s apikey.Store) string, then func(string)) {
	var known apikey.StoreRecord
	if len(w.records) > 0 {
		known = pick(w, w.records...)
	}
	switch n := w.IntN(10); {
	case n < 4:
		if len(w.past) > 0 && w.IntN(20) == 0 { // which is answered with yes, and changes nothing
			again := pick(w, w.past...)
			return "Apply again", func(s apikey.Store) string { return verdict("ok", s.Apply(t.Context(), again)) }, nil
		}
		all := w.changes()
		return "Apply " + told(all), func(s apikey.Store) string { return verdict("ok", s.Apply(t.Context(), all...)) }, func(v string) {
			if v == "ok" {
				w.learn(all)
			}
		}
	case n < 5:
		var batch []apikey.StoreUpkeep
		for range 1 + w.IntN(4) {
			up := apikey.StoreUpkeep{LastUsed: w.maybe(w.now()), OldHash: pick(w, "h", "H", "h "), NewHash: pick(w, "", "h", "H"), OldSealed: pick(w, nil, []byte("s")), NewSealed: pick(w, nil, []byte("S")), NewKEK: pick(w, "kek", "KEK")}
			if len(known.Credentials) > 0 {
				up.Credential = pick(w, known.Credentials...).ID
			}
			batch = append(batch, up)
		}
		return "Upkeep", func(s apikey.Store) string { return verdict("ok", s.Upkeep(t.Context(), batch)) }, nil
	case n < 6:
		id := pick(w, known.ID, w.id())
		return "Get", func(s apikey.Store) string { return verdict(s.Get(t.Context(), id)) }, nil
	case n < 7:
		id := apikey.CredentialID(w.id())
		if len(known.Credentials) > 0 {
			id = pick(w, known.Credentials...).ID
		}
		return "Lookup", func(s apikey.Store) string { return verdict(s.Lookup(t.Context(), id)) }, nil
	case n < 8:
		f := w.filter()
		return fmt.Sprintf("List %+v", f), func(s apikey.Store) (all string) {
			for f, pages := f, 0; ; pages++ {
				page, err := s.List(t.Context(), f)
				all += verdict(page.Records, err)
				if f.After = page.Next; err != nil || f.After == "" || pages == 3 {
					return all
				}
			}
		}, nil
	case n < 9:
		f := apikey.StoreEventFilter{Account: pick(w, "", w.account()), Limit: 1 + w.IntN(50)}
		f.Actor = pick(w, "", "", pick(w, actors...))
		for range w.IntN(4) {
			f.Actions = append(f.Actions, pick(w, whatDone...))
		}
		f.Since, f.Before = w.maybe(w.now().Add(-time.Duration(w.IntN(5000)))), w.maybe(w.now().Add(-time.Duration(w.IntN(5000))))
		if w.IntN(2) == 0 {
			f.Key, f.Chain = known.ID, known.Version > 0 && w.IntN(2) == 0
		}
		return fmt.Sprintf("Events %+v", f), func(s apikey.Store) (all string) {
			for f, pages := f, 0; ; pages++ {
				page, err := s.Events(t.Context(), f)
				all += verdict(page.Events, err)
				if f.After = page.Next; err != nil || f.After == "" || pages == 3 {
					return all
				}
			}
		}, nil
	}
	f := apikey.StoreItemFilter{Kind: "k", ID: pick(w, "", "a"), SealedKEKNot: pick(w, "", "kek", "x"), Limit: 1 + w.IntN(5)}
	return fmt.Sprintf("Items %+v", f), func(s apikey.Store) string {
		page, err := s.Items(t.Context(), f)
		return verdict(page, err)
	}, nil
}

// The same random operations, by one seed, on every store: they give the same
// answers, and each feed shows what has changed.
func TestDifferential(t *testing.T) {
	t.Parallel() // nothing here is timed
	operations := 10_000
	switch {
	case testing.Short():
		operations = 5_000
	case *full:
		operations = 100_000
	}
	names, stores := []string{"memstore"}, []apikey.Store{memstore.New()}
	for _, e := range named("sqlite/modernc", "postgres/pgx", "mariadb/interpolated") {
		s, _ := e.migrated(t)
		names, stores = append(names, e.name), append(stores, s)
	}
	const seed = 20240506
	w := &world{Rand: rand.New(rand.NewPCG(seed, 1)), items: map[string]uint64{}, changed: map[apikey.KeyID]uint64{}}
	at := make([]apikey.Cursor, len(stores))
	for i, s := range stores {
		at[i] = now(t, s)
	}
	done := map[string]int{}
	for n := range operations {
		if n%2000 == 0 { // not too many records, so that there is something to meet
			w.records, w.past = w.records[:min(len(w.records), 40)], nil
		}
		name, do, then := w.operation(t)
		want := do(stores[0])
		done[verdictKind(want)]++
		for i, s := range stores[1:] {
			if got := do(s); got != want {
				t.Fatalf("operation %d, seed %d, %s: memstore says\n%.1000s\n%s says\n%.1000s", n, seed, name, want, names[i+1], got)
			}
		}
		if then != nil {
			then(want)
		}
		if n%500 == 499 {
			for i, s := range stores {
				var shown map[apikey.KeyID]uint64
				shown, _, at[i] = walk(t, s, at[i])
				for id, version := range w.changed {
					if shown[id] != version {
						t.Fatalf("operation %d: the feed of %s shows version %d of %s, want %d", n, names[i], shown[id], id, version)
					}
				}
			}
			clear(w.changed)
		}
	}
	t.Logf("%d random operations on %v, seed %d: divergences 0 (answers: %v)", operations, names, seed, done)
	if done["answered"] < operations/2 || done[apikey.ErrConflict.Error()] < operations/100 {
		t.Error("the operations meet too little")
	}
}

func verdictKind(v string) string {
	switch v {
	case apikey.ErrNotFound.Error(), apikey.ErrConflict.Error(), apikey.ErrInvalid.Error():
		return v
	}
	return "answered"
}
