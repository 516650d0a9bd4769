package sqlstore_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// The settings that the package documentation recommends, but without fsync, because no
// test needs to survive a power failure.
const settings = "?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_txlock=immediate"

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "keys.db") }

// openDB opens a pool on a file, or in memory with one connection.
func openDB(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+settings)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	if path == ":memory:" {
		db.SetMaxOpenConns(1)
	}
	return db
}

func newStore(t *testing.T, db *sql.DB) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.New(db, sqlstore.SQLite)
	require.NoError(t, err)
	return s
}

// migrated returns a store whose tables exist.
func migrated(t *testing.T, db *sql.DB) *sqlstore.Store {
	t.Helper()
	s := newStore(t, db)
	require.NoError(t, s.Migrate(t.Context()))
	return s
}

var day = time.Date(2024, 5, 6, 7, 8, 9, 123456000, time.UTC)

// newRecord returns a record with two credentials.
func newRecord(account string) apikey.StoreRecord {
	r := apikey.StoreRecord{
		ID: storetest.NewKeyID(), Account: account, Name: "till", Mode: apikey.Live, Kind: apikey.Secret, Version: 1,
		Abilities: []string{"payment:refund"}, Metadata: map[string]string{"shop": "7"}, CreatedAt: day,
	}
	for range 2 {
		r.Credentials = append(r.Credentials, apikey.StoreCredential{
			ID: storetest.NewCredentialID(), Hint: "abcd", Hash: "hash-1", Check: []byte{0, 1}, Sealed: []byte("sealed-1"), SealedKEK: "kek-1",
		})
	}
	return r
}

// change returns the StoreChange that writes r, with its event.
func change(r apikey.StoreRecord) apikey.StoreChange {
	id := [16]byte(storetest.NewKeyID())
	return apikey.StoreChange{ID: id, Record: &r, Event: &apikey.StoreEvent{
		ID: id, Time: day, Account: r.Account, Mode: r.Mode, Key: r.ID, Seq: r.Version, Actor: "ann", Action: apikey.ActionUpdate, Body: []byte("body"),
	}}
}

// next returns the following version of r.
func next(r apikey.StoreRecord) apikey.StoreRecord {
	r.Version++
	return r
}

func create(t *testing.T, s apikey.Store, account string) apikey.StoreRecord {
	t.Helper()
	r := newRecord(account)
	require.NoError(t, s.Apply(t.Context(), change(r)))
	return r
}

// count counts the rows of a table.
func count(t *testing.T, db *sql.DB, table string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM "+table).Scan(&n))
	return n
}
