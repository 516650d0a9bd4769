package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// A database in a file. The DSN needs care: New refuses one without a busy_timeout or
// without _txlock=immediate, and says what to add.
func ExampleNew() {
	dir, err := os.MkdirTemp("", "sqlstore")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := "file:" + filepath.Join(dir, "keys.db")

	careless, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(5000)")
	if err != nil {
		log.Fatal(err)
	}
	defer careless.Close()
	_, err = sqlstore.New(careless, sqlstore.SQLite)
	fmt.Println(errors.Is(err, apikey.ErrInvalid))

	db, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	store, err := sqlstore.New(db, sqlstore.SQLite)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(store.Migrate(context.Background()))
	// Output:
	// true
	// <nil>
}

// Revoked keys stay listed for 90 days. The purge ends with the program.
func ExampleStore_PurgeDaily() {
	db, err := sql.Open("sqlite", "file::memory:?_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	store, err := sqlstore.New(db, sqlstore.SQLite)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop() // before the database is closed
	go store.PurgeDaily(ctx, 90*24*time.Hour, slog.Default())
	// Output:
}

// Programs that manage their schema with goose, golang-migrate or atlas use these files
// instead of Migrate.
func ExampleSchema() {
	files, err := fs.Glob(sqlstore.Schema(sqlstore.SQLite.WithPrefix("pay_")), "*.sql")
	fmt.Println(len(files) > 0, files[0], err)
	// Output: true 0001_init.up.sql <nil>
}
