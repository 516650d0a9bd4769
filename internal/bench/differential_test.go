package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

var seed = flag.Uint64("seed", 0, "of the differential test; 0: a new one, which a failure prints")

// TestStoresAgree runs random operations on memstore and SQLite and compares
// every answer. The operations follow from the seed alone.
func TestStoresAgree(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	sqlite, db, err := openSQLite(filepath.Join(t.TempDir(), "keys.db"))
	must(t, err)
	defer db.Close()
	_, err = db.Exec("PRAGMA synchronous = OFF")
	must(t, err)
	w := &world{rng: rand.New(rand.NewPCG(s, 1)), stores: [2]apikey.Store{memstore.New(), sqlite}, now: time.Unix(1_700_000_000, 0).UTC()}
	for i := range w.stores {
		c, err := w.stores[i].Changed(background, "", 10)
		must(t, err)
		w.cursors[i] = c.Next
	}
	n, kinds := attempts(100_000), map[string]int{}
	for i := range n {
		name, ask := w.next()
		first, second := ask(0), ask(1)
		if first != second {
			t.Fatalf("operation %d, %s: memstore says\n%s\nSQLite says\n%s\nrepeat with -seed %d", i, name, first, second, s)
		}
		kinds[name]++
	}
	t.Logf("%d operations with seed %d: 0 divergences; %v", n, s, kinds)
}

// world makes operations; what it makes depends on its generator alone.
type world struct {
	rng     *rand.Rand
	stores  [2]apikey.Store
	cursors [2]apikey.Cursor
	now     time.Time
	records []apikey.Record // as they should be
	changes []apikey.Change // to be sent again
}

func (w *world) id() (id [16]byte) {
	for i := range id {
		id[i] = byte(w.rng.Uint32())
	}
	return id
}

func (w *world) tick() time.Time {
	w.now = w.now.Add(time.Duration(1+w.rng.IntN(5_000_000)) * time.Microsecond)
	return w.now
}

// some is one of the records, or an ID that is none's.
func (w *world) some() apikey.Record {
	if len(w.records) == 0 || w.rng.IntN(20) == 0 {
		return apikey.Record{ID: w.id(), Credentials: []apikey.Credential{{ID: w.id()}}}
	}
	return w.records[w.rng.IntN(len(w.records))]
}

func (w *world) next() (string, func(int) string) {
	switch n := w.rng.IntN(100); {
	case n < 15:
		return w.create()
	case n < 35:
		return w.update()
	case n < 40 && len(w.changes) > 0:
		c := w.changes[w.rng.IntN(len(w.changes))]
		return "apply again", w.apply(c)
	case n < 55:
		return w.upkeep()
	case n < 70:
		id := w.some().Credentials[0].ID
		return "lookup", func(i int) string { return said(w.stores[i].Lookup(background, id)) }
	case n < 80:
		id := w.some().ID
		return "get", func(i int) string { return said(w.stores[i].Get(background, id)) }
	case n < 88:
		return w.list()
	case n < 94:
		id := w.some().ID
		return "events", func(i int) string {
			p, err := w.stores[i].Events(background, apikey.EventFilter{Key: id, Chain: true, Limit: 50})
			return said(p.Events, err)
		}
	}
	return "changed", w.changed
}

func (w *world) create() (string, func(int) string) {
	at := w.tick()
	r := apikey.Record{
		ID: w.id(), Account: fmt.Sprint("acc_", w.rng.IntN(20)), Name: fmt.Sprint("Key ", w.rng.IntN(1000)), Mode: apikey.Live, Kind: apikey.Secret,
		Version: 1, Abilities: abilities[:w.rng.IntN(4)], CreatedAt: at,
		Credentials: []apikey.Credential{{ID: w.id(), Hash: "$h$1", Check: []byte{0, 1, 2, 3, 4}, Hint: "abcd"}},
	}
	if w.rng.IntN(2) == 0 {
		r.Mode, r.Networks, r.ExpiresAt = apikey.Test, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, at.Add(time.Hour)
	}
	return "create", w.commit(r)
}

func (w *world) update() (string, func(int) string) {
	r := w.some()
	if r.Version == 0 {
		return w.create()
	}
	r.Credentials = slices.Clone(r.Credentials)
	r.Version++
	switch w.rng.IntN(6) {
	case 0:
		r.Name = fmt.Sprint("Key ", w.rng.IntN(1000))
	case 1:
		r.Disabled = !r.Disabled
	case 2:
		r.RevokedAt, r.RevokeReason = w.tick(), apikey.ReasonUnused
	case 3:
		if len(r.Credentials) < 3 {
			r.Credentials = append([]apikey.Credential{{ID: w.id(), Hash: "$h$2", Hint: "efgh"}}, r.Credentials...)
		}
	case 4:
		r.Credentials[len(r.Credentials)-1].Ended = true
	case 5: // somebody was faster, or a version is missing
		r.Version += uint64(w.rng.IntN(3)) * 2
		r.Version -= 1
		return "conflicting update", w.apply(w.change(r))
	}
	return "update", w.commit(r)
}

// commit applies a record that has to be taken, and remembers it.
func (w *world) commit(r apikey.Record) func(int) string {
	i := slices.IndexFunc(w.records, func(k apikey.Record) bool { return k.ID == r.ID })
	if i < 0 {
		w.records = append(w.records, r)
	} else {
		w.records[i] = r
	}
	c := w.change(r)
	if w.changes = append(w.changes, c); len(w.changes) > 100 {
		w.changes = w.changes[1:]
	}
	return w.apply(c)
}

func (w *world) change(r apikey.Record) apikey.Change {
	id := w.id()
	r.Head = [32]byte(append(id[:], id[:]...))
	return apikey.Change{ID: id, Record: &r, Event: &apikey.EventRecord{
		ID: id, Time: w.tick(), Account: r.Account, Mode: r.Mode, Key: r.ID, Seq: r.Version, Actor: "usr_1", Action: apikey.ActionIssue, Body: []byte{1}, Hash: r.Head,
	}}
}

func (w *world) apply(c apikey.Change) func(int) string {
	return func(i int) string { return said(nil, w.stores[i].Apply(background, c)) }
}

func (w *world) upkeep() (string, func(int) string) {
	r := w.some()
	up := apikey.Upkeep{Credential: r.Credentials[w.rng.IntN(len(r.Credentials))].ID}
	if w.rng.IntN(2) == 0 {
		up.LastUsed = w.tick().Add(-time.Duration(w.rng.IntN(60)) * time.Second)
	} else {
		up.OldHash, up.NewHash, up.NewCheck = fmt.Sprint("$h$", w.rng.IntN(4)), fmt.Sprint("$h$", w.rng.IntN(4)), []byte{1, 2}
	}
	return "upkeep", func(i int) string { return said(nil, w.stores[i].Upkeep(background, []apikey.Upkeep{up})) }
}

func (w *world) list() (string, func(int) string) {
	f := apikey.Filter{Limit: 1 + w.rng.IntN(20)}
	if w.rng.IntN(4) > 0 {
		f.Account = fmt.Sprint("acc_", w.rng.IntN(20))
	}
	switch w.rng.IntN(6) {
	case 0:
		f.Mode = apikey.Live
	case 1:
		f.State = apikey.State(1 + w.rng.IntN(3))
	case 2:
		f.NeverUsed = true
	case 3:
		f.UnusedSince = w.now.Add(-time.Hour)
	case 4:
		f.ExpiringBefore = w.now
	case 5:
		if f.Account != "" {
			f.NameContains = fmt.Sprint(w.rng.IntN(10))
		}
	}
	return "list", func(i int) string {
		all := ""
		for g, pages := f, 0; pages < 3; pages++ {
			p, err := w.stores[i].List(background, g)
			all += said(p.Records, err) + fmt.Sprint(p.Next == "")
			if p.Next == "" || err != nil {
				break
			}
			g.After = p.Next
		}
		return all
	}
}

// changed reads one page of the feed of each.
func (w *world) changed(i int) string {
	c, err := w.stores[i].Changed(background, w.cursors[i], 50)
	if err == nil {
		w.cursors[i] = c.Next
	}
	slices.SortFunc(c.Records, func(a, b apikey.Record) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return said(c.Records, err) + fmt.Sprint(c.More, c.Current)
}

// said is an answer as text: what it holds, and which error it is.
func said(v any, err error) string {
	for _, known := range []error{apikey.ErrNotFound, apikey.ErrConflict, apikey.ErrInvalid, apikey.ErrCursorLost, apikey.ErrCorrupt} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return fmt.Sprintf("%+v %v", v, err)
}
