package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// shopDB has a table of the program beside ours, and a pool of one connection: a method
// that opened a second one would wait for ever.
func shopDB(t *testing.T) *sql.DB {
	t.Helper()
	db := openDB(t, file(t))
	db.SetMaxOpenConns(1)
	_, err := db.Exec("CREATE TABLE merchants (id TEXT)")
	require.NoError(t, err)
	return db
}

func begin(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback() })
	_, err = tx.Exec("INSERT INTO merchants VALUES ('m1')")
	require.NoError(t, err)
	return tx
}

func TestInCommitsAndRollsBackTogether(t *testing.T) {
	for _, commit := range []bool{true, false} {
		t.Run(fmt.Sprintf("commit %v", commit), func(t *testing.T) {
			db := shopDB(t)
			s := migrated(t, db)
			tx := begin(t, db)
			joined := s.In(tx)
			r := create(t, joined, "m1")
			got, err := joined.Lookup(t.Context(), r.Credentials[0].ID)
			require.NoError(t, err, "a transaction sees what it wrote")
			require.NoError(t, joined.Apply(t.Context(), change(next(got))))
			require.NoError(t, joined.Upkeep(t.Context(), []apikey.StoreUpkeep{{Credential: r.Credentials[0].ID, LastUsed: day}}))
			want := 0
			if commit {
				require.NoError(t, tx.Commit())
				want = 1
			} else {
				require.NoError(t, tx.Rollback())
			}
			require.Equal(t, want, count(t, db, "merchants"))
			require.Equal(t, want, count(t, db, "apikey_keys"))
			require.Equal(t, 2*want, count(t, db, "apikey_events"))
			if commit {
				got, err = s.Get(t.Context(), r.ID)
				require.NoError(t, err)
				require.EqualValues(t, 2, got.Version)
				require.Equal(t, day, got.Credentials[0].LastUsed)
			}
		})
	}
}

// Every method of the store in a transaction uses only the transaction's connection.
func TestInUsesOneConnection(t *testing.T) {
	db := shopDB(t)
	s := migrated(t, db)
	joined := s.In(begin(t, db))
	r := create(t, joined, "m1")
	_, err := joined.Get(t.Context(), r.ID)
	require.NoError(t, err)
	page, err := joined.List(t.Context(), apikey.StoreFilter{Account: "m1"})
	require.NoError(t, err)
	require.Len(t, page.Records, 1)
	events, err := joined.Events(t.Context(), apikey.StoreEventFilter{Key: r.ID, Chain: true})
	require.NoError(t, err)
	require.Len(t, events.Events, 1)
	_, err = joined.Items(t.Context(), apikey.StoreItemFilter{Kind: "k"})
	require.NoError(t, err)
	_, err = joined.Changed(t.Context(), "", 10)
	require.NoError(t, err)
}

// A failed comparison, at any of several writes, undoes what its Apply wrote and leaves
// the transaction usable.
func TestInAfterAConflict(t *testing.T) {
	for _, c := range []struct {
		name    string
		changes func(stored apikey.StoreRecord) []apikey.StoreChange
	}{
		{"stale version", func(r apikey.StoreRecord) []apikey.StoreChange {
			return []apikey.StoreChange{change(newRecord("m2")), change(r)}
		}},
		{"foreign credential", func(r apikey.StoreRecord) []apikey.StoreChange {
			thief := newRecord("m2")
			thief.Credentials[1] = r.Credentials[0]
			return []apikey.StoreChange{change(thief)}
		}},
		{"stale item", func(r apikey.StoreRecord) []apikey.StoreChange {
			ch := change(next(r))
			ch.Items = []apikey.StoreItem{{Kind: "k", ID: "1", Version: 1}, {Kind: "k", ID: "2", Version: 7}}
			return []apikey.StoreChange{ch}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := shopDB(t)
			s := migrated(t, db)
			tx := begin(t, db)
			joined := s.In(tx)
			r := create(t, joined, "m1")
			end := position(t, joined)
			require.ErrorIs(t, joined.Apply(t.Context(), c.changes(r)...), apikey.ErrConflict)
			require.Equal(t, end, position(t, joined))

			second := create(t, joined, "m3")
			require.NoError(t, tx.Commit())
			for table, rows := range map[string]int{"merchants": 1, "apikey_keys": 2, "apikey_credentials": 4, "apikey_events": 2, "apikey_items": 0} {
				require.Equal(t, rows, count(t, db, table), table)
			}
			feed, err := s.Changed(t.Context(), end, 10)
			require.NoError(t, err)
			require.Len(t, feed.Records, 1)
			require.Equal(t, second.ID, feed.Records[0].ID)
		})
	}
}

// The same change, applied twice in one transaction, counts as a retry after a lost
// answer.
func TestInFindsItsOwnEvent(t *testing.T) {
	db := shopDB(t)
	s := migrated(t, db)
	joined := s.In(begin(t, db))
	ch := change(newRecord("m1"))
	require.NoError(t, joined.Apply(t.Context(), ch))
	require.NoError(t, joined.Apply(t.Context(), ch))
}

// An Apply that fails at any of its calls has written nothing, even if the caller commits
// nevertheless. Nothing is tried again in the caller's transaction.
func TestInFailsAtEveryCall(t *testing.T) {
	for _, f := range faults {
		for _, late := range []bool{false, true} {
			db, p := proxyDB(t, file(t))
			s := migrated(t, db)
			r := create(t, s, "m1")
			for n := 1; ; n++ {
				require.Less(t, n, 50)
				tx, err := db.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				struck := false
				p.record(func(at int, c call) (before, after error) {
					switch {
					case at != n:
						return nil, nil
					case late:
						struck = true
						return nil, f.err
					}
					struck = true
					return f.err, nil
				})
				err = s.In(tx).Apply(t.Context(), manyChanges(next(r), 1)...)
				p.record(nil)
				if !struck {
					require.NoError(t, err)
					require.NoError(t, tx.Rollback())
					break
				}
				require.ErrorIs(t, err, apikey.ErrUnavailable)
				require.ErrorIs(t, err, f.err)
				if strings.Contains(err.Error(), "roll the transaction back") {
					require.NoError(t, tx.Rollback())
				} else {
					_ = tx.Commit() // a lost connection cannot commit
				}
				got, err := s.Get(t.Context(), r.ID)
				require.NoError(t, err)
				require.Equal(t, r.Version, got.Version, "%s at call %d, late %v", f.name, n, late)
				require.Equal(t, 1, count(t, db, "apikey_events"))
				require.Zero(t, count(t, db, "apikey_items"))
			}
		}
	}
}

// If the context of an Apply ends between two statements, the transaction goes on, and
// what Apply wrote so far is undone.
func TestInCancelledMidway(t *testing.T) {
	db, p := proxyDB(t, file(t))
	s := migrated(t, db)
	r := create(t, s, "m1")
	for n, struck := 1, true; struck; n++ {
		require.Less(t, n, 50)
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		struck = false
		p.record(func(at int, _ call) (before, after error) {
			if at == n {
				struck = true
				cancel()
				return ctx.Err(), nil
			}
			return nil, nil
		})
		err = s.In(tx).Apply(ctx, manyChanges(next(r), 1)...)
		p.record(nil)
		cancel()
		if !struck {
			require.NoError(t, err)
			require.NoError(t, tx.Rollback())
			break
		}
		require.ErrorIs(t, err, context.Canceled)
		_, err = tx.Exec("UPDATE apikey_keys SET name = name")
		require.NoError(t, err, "the caller's transaction is alive")
		require.NoError(t, tx.Commit())
		require.Equal(t, 1, count(t, db, "apikey_events"))
		require.Zero(t, count(t, db, "apikey_items"))
	}
}

// If the savepoint cannot be undone either, the transaction ends. The error is not
// ErrConflict, after which the caller might go on.
func TestInCannotUndo(t *testing.T) {
	db, p := proxyDB(t, file(t))
	s := migrated(t, db)
	r := create(t, s, "m1")
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	p.record(func(_ int, c call) (before, after error) {
		if c.sql == "ROLLBACK TO SAVEPOINT apikey_store" {
			return errors.New("broken pipe"), nil
		}
		return nil, nil
	})
	err = s.In(tx).Apply(t.Context(), change(newRecord("m2")), change(r))
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.NotErrorIs(t, err, apikey.ErrConflict)
	require.ErrorContains(t, err, "the transaction is rolled back")
	require.ErrorIs(t, tx.Commit(), sql.ErrTxDone)
}

func TestInAfterTheEnd(t *testing.T) {
	db := shopDB(t)
	s := migrated(t, db)
	tx := begin(t, db)
	require.NoError(t, tx.Commit())
	err := s.In(tx).Apply(t.Context(), change(newRecord("m1")))
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorIs(t, err, sql.ErrTxDone)
}

// If the disk is full in the middle of an Apply, SQLite rolls the whole transaction back.
// Later statements in it must not be committed by themselves.
func TestInIsOverWhenTheEngineSaysSo(t *testing.T) {
	db := shopDB(t)
	s := migrated(t, db)
	var pages int
	require.NoError(t, db.QueryRow("PRAGMA page_count").Scan(&pages))
	_, err := db.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", pages+2))
	require.NoError(t, err)

	tx := begin(t, db)
	joined := s.In(tx)
	create(t, joined, "m1")
	big := newRecord("m1")
	big.Metadata = map[string]string{"all": strings.Repeat("x", 1<<20)}
	require.ErrorIs(t, joined.Apply(t.Context(), change(big)), apikey.ErrUnavailable)
	require.ErrorIs(t, joined.Apply(t.Context(), change(newRecord("m1"))), apikey.ErrUnavailable)
	_, err = joined.Get(t.Context(), big.ID)
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	_, err = tx.Exec("INSERT INTO merchants VALUES ('m2')")
	require.ErrorIs(t, err, sql.ErrTxDone, "what the caller says neither")
	require.ErrorIs(t, tx.Commit(), sql.ErrTxDone)
	require.Zero(t, count(t, db, "merchants"))
	require.Zero(t, count(t, db, "apikey_keys"))
	require.Zero(t, db.Stats().InUse)
}
