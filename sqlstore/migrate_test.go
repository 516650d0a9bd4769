package sqlstore_test

import (
	"database/sql"
	"io/fs"
	"regexp"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

func TestMigrateTwice(t *testing.T) {
	db, p := proxyDB(t, file(t))
	s := migrated(t, db)
	r := create(t, s, "m1")
	p.record(nil)
	require.NoError(t, s.Migrate(t.Context()))
	require.Len(t, p.seen(), 1, "nothing to do takes no lock")
	_, err := s.Get(t.Context(), r.ID)
	require.NoError(t, err)
}

func TestMigrateTogether(t *testing.T) {
	path := file(t)
	nodes := []*sqlstore.Store{newStore(t, openDB(t, path)), newStore(t, openDB(t, path))}
	errs := make([]error, 8)
	var start, done sync.WaitGroup
	start.Add(len(errs))
	for i := range errs {
		done.Go(func() {
			start.Done()
			start.Wait()
			errs[i] = nodes[i%2].Migrate(t.Context())
		})
	}
	done.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	files, err := fs.Glob(sqlstore.Schema(sqlstore.SQLite), "*.sql")
	require.NoError(t, err)
	require.Equal(t, len(files), count(t, openDB(t, path), "apikey_migrations"))
	create(t, nodes[1], "m1")
}

func TestMigrateTampered(t *testing.T) {
	db := openDB(t, file(t))
	s := migrated(t, db)
	_, err := db.Exec("UPDATE apikey_migrations SET checksum = 'x'")
	require.NoError(t, err)
	err = s.Migrate(t.Context())
	require.ErrorContains(t, err, "0001_init.up.sql was applied with other contents")
	require.NotErrorIs(t, err, sqlstore.ErrNewerSchema)
}

// If the schema is newer than the program, Migrate returns ErrNewerSchema and the store
// goes on working.
func TestMigrateNewer(t *testing.T) {
	db := openDB(t, file(t))
	s := migrated(t, db)
	_, err := db.Exec("INSERT INTO apikey_migrations VALUES (9, '0009_later.up.sql', 'x', 0); ALTER TABLE apikey_keys ADD COLUMN later TEXT NOT NULL DEFAULT ''")
	require.NoError(t, err)
	err = s.Migrate(t.Context())
	require.ErrorIs(t, err, sqlstore.ErrNewerSchema)
	require.ErrorContains(t, err, "number 9")
	r := create(t, s, "m1")
	require.NoError(t, s.Apply(t.Context(), change(next(r))))
	_, err = s.Lookup(t.Context(), r.Credentials[0].ID)
	require.NoError(t, err)
}

// A database of an earlier version gets what was added since, and keeps its rows. Until
// then the log can be searched too, only slower.
func TestMigrateFromAnEarlierSchema(t *testing.T) {
	db := openDB(t, file(t))
	s := migrated(t, db)
	want := ddl(t, db)
	_, err := db.Exec("DROP INDEX apikey_events_actor; DROP INDEX apikey_events_action; DELETE FROM apikey_migrations WHERE number > 1")
	require.NoError(t, err)
	create(t, s, "m1")
	search := func() {
		page, err := s.Events(t.Context(), apikey.StoreEventFilter{Account: "m1", Actor: "ann", Actions: []apikey.Action{apikey.ActionUpdate, "other"}})
		require.NoError(t, err)
		require.Len(t, page.Events, 1)
	}
	search()
	require.NotEqual(t, want, ddl(t, db))
	require.NoError(t, s.Migrate(t.Context()))
	require.Equal(t, want, ddl(t, db))
	search()
}

// If a table of another program has one of our names, Migrate changes nothing.
func TestMigrateForeignTable(t *testing.T) {
	db := openDB(t, file(t))
	_, err := db.Exec("CREATE TABLE apikey_items (mine TEXT)")
	require.NoError(t, err)
	err = newStore(t, db).Migrate(t.Context())
	require.ErrorContains(t, err, "apikey_items already exists")
	var tables int
	require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM sqlite_schema").Scan(&tables))
	require.Equal(t, 1, tables, "nothing else was made")
}

// A tool that applies the files of Schema makes the same tables as Migrate.
func TestSchemaForTools(t *testing.T) {
	files := sqlstore.Schema(sqlstore.SQLite)
	names, err := fs.Glob(files, "*.sql")
	require.NoError(t, err)
	require.NotEmpty(t, names)
	db := openDB(t, file(t))
	for _, name := range names {
		require.Regexp(t, regexp.MustCompile(`^\d{4}_[a-z_]+\.up\.sql$`), name) // golang-migrate
		text, err := fs.ReadFile(files, name)
		require.NoError(t, err)
		require.Regexp(t, regexp.MustCompile(`^-- \+goose Up\n`), string(text))
		_, err = db.Exec(string(text))
		require.NoError(t, err)
	}
	create(t, newStore(t, db), "m1")

	own := openDB(t, file(t))
	migrated(t, own)
	_, err = own.Exec("DROP TABLE apikey_migrations")
	require.NoError(t, err)
	require.Equal(t, ddl(t, own), ddl(t, db))
}

// ddl returns the definitions of all tables and indexes.
func ddl(t *testing.T, db *sql.DB) (all []string) {
	t.Helper()
	rows, err := db.Query("SELECT name || COALESCE(replace(replace(sql, char(10), ''), ' ', ''), '') FROM sqlite_schema ORDER BY name")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var s string
		require.NoError(t, rows.Scan(&s))
		all = append(all, s)
	}
	require.NotEmpty(t, all)
	return all
}

// A prefix that begins with the default one replaces that in each name once, not twice.
func TestMigrateWithAPrefixOfTheUsualOne(t *testing.T) {
	db, err := sql.Open("sqlite", "file:"+file(t)+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	for range 2 {
		s, err := sqlstore.New(db, sqlstore.SQLite.WithPrefix("apikey_prod_"))
		require.NoError(t, err)
		require.NoError(t, s.Migrate(t.Context()))
		_, err = s.List(t.Context(), apikey.StoreFilter{Limit: 1})
		require.NoError(t, err)
	}
}
