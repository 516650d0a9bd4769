package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
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
	w := newWorld(s, memstore.New(), sqlite)
	for i := range w.stores {
		c, err := w.stores[i].Changed(background, "", 10)
		must(t, err)
		w.cursors[i] = c.Next
	}
	n := attempts(100_000)
	asked, conflicts := map[string]int{}, 0
	for i := range n {
		o := w.next()
		first, second := o.ask(0), o.ask(1)
		if first != second {
			t.Fatalf("operation %d, %s: memstore says\n%s\nSQLite says\n%s\nrepeat with -seed %d", i, o.name, first, second, s)
		}
		if o.then != nil && first == accepted {
			o.then()
		}
		asked[o.name]++
		if first == apikey.ErrConflict.Error() {
			conflicts++
		}
	}
	t.Logf("%d operations with seed %d: 0 divergences; %d conflicts; %v", n, s, conflicts, asked)
	if conflicts < n/100 || len(w.items) < 5 || w.deleted < n/1000 || len(asked) < 13 {
		t.Errorf("the operations meet too little: %d conflicts, %d items, %d deleted, %d kinds of operation", conflicts, len(w.items), w.deleted, len(asked))
	}
}

// The same seed makes the same operations, so what it found can be looked at.
func TestSeedReplays(t *testing.T) {
	tell := func(s uint64) (all string) {
		w := newWorld(s, memstore.New(), memstore.New())
		for range 300 {
			o := w.next()
			said := o.ask(0)
			if all += o.name + " " + said + "\n"; o.then != nil && said == accepted {
				o.then()
			}
		}
		return all
	}
	first, again, other := tell(7), tell(7), tell(8)
	if first != again {
		t.Error("a seed does not replay")
	}
	if first == other {
		t.Error("every seed makes the same")
	}
}

// operation is one call, of either store, and what follows when it is accepted.
type operation struct {
	name string
	ask  func(i int) string
	then func()
}

// world makes operations; what it makes depends on its generator alone.
type world struct {
	rng     *rand.Rand
	stores  [2]apikey.Store
	cursors [2]apikey.Cursor
	now     time.Time
	records []apikey.StoreRecord // as they should be
	changes []apikey.StoreChange // to be sent again
	items   []apikey.StoreItem   // as they should be
	deleted int
}

func newWorld(seed uint64, stores ...apikey.Store) *world {
	return &world{rng: rand.New(rand.NewPCG(seed, 1)), stores: [2]apikey.Store(stores), now: time.Unix(1_700_000_000, 0).UTC()}
}

func (w *world) next() operation {
	switch n := w.rng.IntN(100); {
	case n < 12:
		return w.create()
	case n < 28:
		return w.update()
	case n < 32 && len(w.changes) > 0:
		return operation{"apply again", w.apply(w.changes[w.rng.IntN(len(w.changes))]), nil}
	case n < 44:
		return w.item()
	case n < 52:
		return w.upkeep()
	case n < 62:
		id := w.some().Credentials[0].ID
		return operation{"lookup", func(i int) string { return said(w.stores[i].Lookup(background, id)) }, nil}
	case n < 68:
		id := w.some().ID
		return operation{"get", func(i int) string { return said(w.stores[i].Get(background, id)) }, nil}
	case n < 76:
		return w.list()
	case n < 86:
		return w.page()
	case n < 93:
		return w.events()
	}
	return operation{"changed", w.changed, nil}
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

var (
	actors   = []string{"usr_1", "USR_1", "usr_2"}
	whatDone = []apikey.Action{apikey.ActionIssue, apikey.ActionUpdate, "key.Update", apikey.ActionReveal}
)

// one picks.
func one[T any](w *world, from ...T) T { return from[w.rng.IntN(len(from))] }

// some is one of the records, or an ID that is none's.
func (w *world) some() apikey.StoreRecord {
	if len(w.records) == 0 || w.rng.IntN(20) == 0 {
		return apikey.StoreRecord{ID: w.id(), Credentials: []apikey.StoreCredential{{ID: w.id()}}}
	}
	return w.records[w.rng.IntN(len(w.records))]
}

func (w *world) apply(c apikey.StoreChange) func(int) string {
	return func(i int) string { return said(accepted, w.stores[i].Apply(background, c)) }
}

func (w *world) events() operation {
	f := apikey.StoreEventFilter{Account: w.account(), Limit: 1 + w.rng.IntN(30)}
	if w.rng.IntN(2) == 0 {
		f = apikey.StoreEventFilter{Key: w.some().ID, Chain: w.rng.IntN(2) == 0, Limit: 1 + w.rng.IntN(30)}
	}
	if w.rng.IntN(2) == 0 {
		f.Actor = one(w, actors...)
	}
	for range w.rng.IntN(4) {
		f.Actions = append(f.Actions, one(w, whatDone...))
	}
	if w.rng.IntN(3) == 0 {
		f.Since = w.now.Add(-time.Duration(w.rng.IntN(1000)) * time.Second)
	}
	if w.rng.IntN(3) == 0 {
		f.Before = w.now.Add(-time.Duration(w.rng.IntN(1000)) * time.Second)
	}
	return operation{"events", func(i int) string {
		return pages(func(after apikey.Cursor) (string, apikey.Cursor) {
			f := f
			f.After = after
			p, err := w.stores[i].Events(background, f)
			return said(p.Events, err), p.Next
		})
	}, nil}
}

// changed reads one page of the feed of each.
func (w *world) changed(i int) string {
	c, err := w.stores[i].Changed(background, w.cursors[i], 50)
	if err == nil {
		w.cursors[i] = c.Next
	}
	slices.SortFunc(c.Records, func(a, b apikey.StoreRecord) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return said(c.Records, err) + fmt.Sprint(c.More, c.Current)
}

// pages reads up to three, each from where the one before ended.
func pages[C ~string](read func(after C) (string, C)) (all string) {
	var after C
	for range 3 {
		text, next := read(after)
		if all += text + fmt.Sprintln(next == ""); next == "" {
			break
		}
		after = next
	}
	return all
}

// accepted is what is said of a change that was made.
const accepted = "accepted"

// said is an answer as text: what it holds, or which error it is.
func said(v any, err error) string {
	for _, known := range []error{apikey.ErrNotFound, apikey.ErrConflict, apikey.ErrInvalid, apikey.ErrCursorLost, apikey.ErrCorrupt} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("%+v", v)
}
