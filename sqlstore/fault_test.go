package sqlstore_test

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// busy is the error of modernc.org/sqlite for SQLITE_BUSY_SNAPSHOT.
type busy struct{}

func (busy) Error() string { return "somebody else" }
func (busy) Code() int     { return 5 | 2<<8 }

// faults are errors of a driver. The store tries again after those that may pass.
var faults = []struct {
	name   string
	err    error
	passes bool
}{
	{"busy by code", busy{}, true},
	{"busy by text", errors.New("sqlite3: database is locked"), true},
	{"locked by text", errors.New("database table is locked"), true},
	{"connection lost", driver.ErrBadConn, true},
	{"anything else", errors.New("disk I/O error"), false},
}

// Every driver call of an Apply fails once, before or after it took effect. Either Apply
// succeeds and has written everything, or it returns an error and has written nothing. An
// error of COMMIT is tried again. The same Apply succeeds afterwards in both cases, and
// nothing is written twice.
func TestApplyFailsAtEveryCall(t *testing.T) {
	for _, f := range faults {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, late %v", f.name, late), func(t *testing.T) {
				db, p := proxyDB(t, file(t))
				db.SetMaxOpenConns(1) // so that a connection that is not returned blocks the next call
				s := migrated(t, db)
				r := create(t, s, "m1")
				end := position(t, s)
				for n := 1; ; n++ {
					require.Less(t, n, 50, "the fault never fails to strike")
					struck := call{}
					fault := func(at int, c call) (before, after error) {
						if at != n {
							return nil, nil
						}
						struck = c
						if late {
							return nil, f.err
						}
						return f.err, nil
					}
					changes := manyChanges(next(r), n)
					p.record(fault)
					err := s.Apply(t.Context(), changes...)
					p.record(nil)
					if struck.sql == "" {
						require.NoError(t, err)
						break
					}
					passes := f.passes || struck.sql == "COMMIT"
					if !passes {
						require.ErrorIs(t, err, apikey.ErrUnavailable, struck.sql)
						require.ErrorIs(t, err, f.err)
						got, err := s.Get(t.Context(), r.ID)
						require.NoError(t, err)
						require.Equal(t, r.Version, got.Version, "half done at %s", struck.sql)
						require.Empty(t, itemsOf(t, s, n))
					} else {
						require.NoError(t, err, struck.sql)
					}
					require.NoError(t, s.Apply(t.Context(), changes...), "again after %s", struck.sql)
					end = mustHold(t, s, next(r), changes, n, end)
					r = next(r)
				}
			})
		}
	}
}

// manyChanges returns changes that reach every branch of Apply: r with a credential
// changed, one dropped and one new; items written and deleted; the event of a denial.
func manyChanges(r apikey.StoreRecord, n int) []apikey.StoreChange {
	ended := r.Credentials[0]
	ended.Ended = true
	fresh := apikey.StoreCredential{ID: storetest.NewCredentialID(), Hash: "h"}
	r.Credentials = []apikey.StoreCredential{fresh, ended}
	one := change(r)
	name := fmt.Sprintf("item %d", n)
	one.Items = []apikey.StoreItem{{Kind: "test", ID: name, Version: 1, Data: []byte("1")}, {Kind: "test", ID: name, Version: 2, Data: []byte("2")}}
	denial := [16]byte(storetest.NewKeyID())
	two := apikey.StoreChange{ID: denial, Event: &apikey.StoreEvent{ID: denial, Time: day, Account: r.Account, Mode: r.Mode}}
	two.Items = []apikey.StoreItem{{Kind: "test", ID: name + " deleted", Version: 1}, {Kind: "test", ID: name + " deleted", Version: 2, Delete: true}}
	return []apikey.StoreChange{one, two}
}

func position(t *testing.T, s apikey.Store) apikey.Cursor {
	t.Helper()
	c, err := s.Changed(t.Context(), "", 1)
	require.NoError(t, err)
	return c.Next
}

func itemsOf(t *testing.T, s apikey.Store, n int) []apikey.StoreItem {
	t.Helper()
	page, err := s.Items(t.Context(), apikey.StoreItemFilter{Kind: "test", ID: fmt.Sprintf("item %d", n)})
	require.NoError(t, err)
	return page.Items
}

// mustHold checks that the changes are stored, complete and only once.
func mustHold(t *testing.T, s apikey.Store, want apikey.StoreRecord, changes []apikey.StoreChange, n int, from apikey.Cursor) apikey.Cursor {
	t.Helper()
	got, err := s.Get(t.Context(), want.ID)
	require.NoError(t, err)
	require.Equal(t, want.Version, got.Version)
	require.Len(t, got.Credentials, 2)
	require.Equal(t, changes[0].Record.Credentials[0].ID, got.Credentials[0].ID)
	require.True(t, got.Credentials[1].Ended)
	require.Empty(t, got.Credentials[1].Sealed)
	require.EqualValues(t, 2, itemsOf(t, s, n)[0].Version)
	events, err := s.Events(t.Context(), apikey.StoreEventFilter{Limit: 1000})
	require.NoError(t, err)
	require.Len(t, events.Events, 1+2*n)
	feed, err := s.Changed(t.Context(), from, 10)
	require.NoError(t, err)
	require.Len(t, feed.Records, 1)
	require.False(t, feed.More)
	return feed.Next
}

// An Apply whose attempts all fail returns after a bounded number of them.
func TestApplyGivesUp(t *testing.T) {
	db, p := proxyDB(t, file(t))
	s := migrated(t, db)
	begun := 0
	p.record(func(_ int, c call) (before, after error) {
		if c.sql == "BEGIN" {
			begun++
			return busy{}, nil
		}
		return nil, nil
	})
	err := s.Apply(t.Context(), change(newRecord("m1")))
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorIs(t, err, busy{})
	require.Equal(t, 10, begun)
	require.Zero(t, db.Stats().InUse)
}

// The answer of a commit is lost, and another node writes the next version before the
// retry. The record is no longer the one that Apply wrote, and Apply still succeeds.
func TestLostAnswerOvertaken(t *testing.T) {
	path := file(t)
	db, p := proxyDB(t, path)
	s, other := migrated(t, db), newStore(t, openDB(t, path))
	r := create(t, s, "m1")
	ours, theirs := change(next(r)), change(next(next(r)))
	lost := false
	p.record(func(_ int, c call) (before, after error) {
		switch {
		case c.sql == "COMMIT" && !lost:
			lost = true
			return nil, errors.New("connection reset by peer")
		case c.sql == "BEGIN" && lost:
			require.NoError(t, other.Apply(t.Context(), theirs))
		}
		return nil, nil
	})
	require.NoError(t, s.Apply(t.Context(), ours))
	require.True(t, lost)
	got, err := s.Get(t.Context(), r.ID)
	require.NoError(t, err)
	require.EqualValues(t, 3, got.Version)
	require.Equal(t, 3, count(t, db, "apikey_events"))
}

// Reads, Upkeep and Purge fail at each of their calls.
func TestOthersFailAtEveryCall(t *testing.T) {
	for name, method := range methods {
		if name == "Apply" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			db, p := proxyDB(t, file(t))
			db.SetMaxOpenConns(1)
			s := migrated(t, db)
			create(t, s, "m1")
			for _, f := range faults {
				for n := 1; ; n++ {
					require.Less(t, n, 50)
					struck := false
					p.record(func(at int, c call) (before, after error) {
						if at == n {
							struck = true
							return f.err, nil
						}
						return nil, nil
					})
					err := method(t.Context(), s)
					p.record(nil)
					if err != nil && err.Error() != apikey.ErrNotFound.Error() {
						require.ErrorIs(t, err, apikey.ErrUnavailable)
						require.ErrorIs(t, err, f.err)
						require.True(t, !f.passes || name == "Purge", "%s was not tried again: %v", f.name, err)
					}
					if !struck {
						break
					}
				}
			}
			require.Zero(t, db.Stats().InUse)
		})
	}
}

// A query that fails after some rows is run again: no row is missing, and none is
// returned twice.
func TestReadsBreakOffAtEveryRow(t *testing.T) {
	db, p := proxyDB(t, file(t))
	db.SetMaxOpenConns(1)
	s := migrated(t, db)
	start := position(t, s)
	var last apikey.StoreRecord
	for range 3 {
		last = create(t, s, "m1")
		ch := change(next(last))
		ch.Items = []apikey.StoreItem{{Kind: "k", ID: last.ID.String(), Version: 1}}
		require.NoError(t, s.Apply(t.Context(), ch))
	}
	for name, read := range map[string]func() (any, error){
		"get":     func() (any, error) { return s.Get(t.Context(), last.ID) },
		"lookup":  func() (any, error) { return s.Lookup(t.Context(), last.Credentials[1].ID) },
		"list":    func() (any, error) { return s.List(t.Context(), apikey.StoreFilter{}) },
		"events":  func() (any, error) { return s.Events(t.Context(), apikey.StoreEventFilter{}) },
		"items":   func() (any, error) { return s.Items(t.Context(), apikey.StoreItemFilter{Kind: "k"}) },
		"changed": func() (any, error) { return s.Changed(t.Context(), start, 10) },
	} {
		p.rows = nil
		want, err := read()
		require.NoError(t, err)
		for _, f := range faults {
			for n := 1; ; n++ {
				require.Less(t, n, 50)
				row := 0
				p.rows = func() error {
					if row++; row == n {
						return f.err
					}
					return nil
				}
				got, err := read()
				if row < n {
					break
				}
				if f.passes {
					require.NoError(t, err, "%s: %s", name, f.name)
					require.Equal(t, want, got, "%s: %s at row %d", name, f.name, n)
				} else {
					require.ErrorIs(t, err, apikey.ErrUnavailable)
					require.ErrorIs(t, err, f.err)
				}
			}
		}
	}
}

// A migration that fails at any statement leaves nothing, or everything, and the next one
// completes it.
func TestMigrateFailsAtEveryCall(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n := 1; ; n++ {
			require.Less(t, n, 100)
			path := file(t)
			db, p := proxyDB(t, path)
			s := newStore(t, db)
			struck := false
			p.record(func(at int, c call) (before, after error) {
				if at != n {
					return nil, nil
				}
				struck = true
				if late {
					return nil, errors.New("killed")
				}
				return errors.New("killed"), nil
			})
			err := s.Migrate(t.Context())
			p.record(nil)
			if !struck {
				require.NoError(t, err)
				break
			}
			var tables int
			require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM sqlite_schema").Scan(&tables))
			require.True(t, err == nil || tables == 0, "call %d: %v, %d tables and indexes", n, err, tables)
			require.NoError(t, s.Migrate(t.Context()))
			create(t, s, "m1")
		}
	}
}

// A killed process leaves the files as they are on the disk. The test copies them at
// every call of a migration and of an Apply: each copy opens as a usable store, and has
// all of the Apply or nothing.
func TestKilledAtEveryCall(t *testing.T) {
	path := file(t)
	db, p := proxyDB(t, path)
	s := newStore(t, db)
	var r apikey.StoreRecord
	look := func(_ int, c call) (before, after error) {
		copied := file(t)
		for _, suffix := range []string{"", "-wal"} {
			data, err := os.ReadFile(path + suffix)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(copied+suffix, data, 0o600))
		}
		survivor := migrated(t, openDB(t, copied))
		if r.Version == 0 {
			create(t, survivor, "m1")
			return nil, nil
		}
		got, err := survivor.Get(t.Context(), r.ID)
		require.NoError(t, err)
		require.Equal(t, r.Version, got.Version, c.sql)
		require.NoError(t, survivor.Apply(t.Context(), manyChanges(next(r), 1)...))
		return nil, nil
	}
	p.record(look)
	require.NoError(t, s.Migrate(t.Context()))
	require.Greater(t, len(p.seen()), 10)
	p.record(nil)
	first := create(t, s, "m1")
	r = first
	p.record(look)
	require.NoError(t, s.Apply(t.Context(), manyChanges(next(r), 1)...))
	require.Greater(t, len(p.seen()), 10)
}
