package integration

import (
	"database/sql"
	"flag"
	"strings"
	"testing"

	"github.com/go-apikey/apikey/sqlstore"
)

// full: without it a long figure is shown for a part of its rounds, with the same
// assertions.
var full = flag.Bool("full", false, "the long figures in full, and every mutant")

// A place is a migrated database that another process can be told of: the path of
// a file, or driver, DSN and prefix of its tables.
type place string

// onPlaces runs a test on SQLite and on the servers.
func onPlaces(t *testing.T, test func(t *testing.T, at place)) {
	t.Run("sqlite", func(t *testing.T) { test(t, newFile(t)) })
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			d, prefix := e.fresh(t)
			must(t, open(t, e.pool(t, dsn), d).Migrate(t.Context()))
			test(t, place(strings.Join([]string{e.driver, dsn, prefix}, " ")))
		})
	}
}

// open opens the place. SQLite waits for no disk: a killed process takes nothing
// along that it has handed to the kernel, and the power stays on here.
func (p place) open() (*sqlstore.Store, *sql.DB, error) {
	driver, dsn, d := "sqlite", "file:"+string(p)+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_txlock=immediate", sqlstore.SQLite
	if words := strings.Fields(string(p)); len(words) == 3 {
		driver, dsn, d = words[0], words[1], sqlstore.Postgres.WithPrefix(words[2])
		if driver == "mysql" {
			d = sqlstore.MySQL.WithPrefix(words[2])
		}
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	store, err := sqlstore.New(db, d)
	return store, db, err
}

// store is one more node's own way to the place.
func (p place) store(t *testing.T) *sqlstore.Store {
	t.Helper()
	store, db, err := p.open()
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return store
}
