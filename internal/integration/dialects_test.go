package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// named are the engines of these names.
func named(names ...string) (found []engine) {
	for _, name := range names {
		for _, e := range engines {
			if e.name == name {
				found = append(found, e)
			}
		}
	}
	return found
}

// servers are one driver of each engine that is a server.
func servers() []engine { return named("postgres/pgx", "mariadb/interpolated") }

var epoch = time.Date(2024, 5, 6, 7, 8, 9, 123456000, time.UTC)

// newRecord is a key with two credentials, at Version 1.
func newRecord(account string) apikey.Record {
	r := apikey.Record{ID: apikey.NewKeyID(), Account: account, Name: "a key", Mode: apikey.Live, Kind: apikey.Secret, Version: 1, CreatedAt: epoch}
	for range 2 {
		r.Credentials = append(r.Credentials, apikey.Credential{ID: apikey.NewCredentialID(), Hash: "hash-1", Sealed: []byte("sealed-1"), SealedKEK: "kek-1"})
	}
	return r
}

// change writes r, with its event.
func change(r apikey.Record) apikey.Change {
	id := [16]byte(apikey.NewKeyID())
	return apikey.Change{ID: id, Record: &r, Event: &apikey.EventRecord{
		ID: id, Time: epoch, Account: r.Account, Mode: r.Mode, Key: r.ID, Seq: r.Version, Actor: "ann", Action: apikey.ActionUpdate, Body: []byte("body"),
	}}
}

func next(r apikey.Record) apikey.Record {
	r.Version++
	return r
}

func create(t testing.TB, s apikey.Store) apikey.Record {
	t.Helper()
	r := newRecord("m1")
	must(t, s.Apply(context.Background(), change(r)))
	return r
}

func wants(t testing.TB, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one that is %v and says %q", err, want, text)
	}
}

// A database that is opened in a way that loses something is refused, with what
// to write into the DSN.
func TestNewRefusesMariaDB(t *testing.T) {
	s := oneMariaDB.get(t)
	for _, c := range []struct{ name, params, want string }{
		{"recommended", "?parseTime=true&loc=UTC&interpolateParams=true", ""},
		{"prepared", "?parseTime=true&loc=UTC", ""},
		{"strict by the DSN", "?parseTime=true&loc=UTC&sql_mode=%27STRICT_ALL_TABLES%27", ""},
		{"no parseTime", "?loc=UTC", "add parseTime=true&loc=UTC"},
		{"another zone", "?parseTime=true&loc=Asia%2FJakarta", "add loc=UTC"},
		{"a zone that is UTC in winter", "?parseTime=true&loc=Europe%2FLondon", "add loc=UTC"},
		{"not strict", "?parseTime=true&loc=UTC&sql_mode=%27%27", "sql_mode is not strict"},
		{"latin1", "?parseTime=true&loc=UTC&charset=latin1", "character set is latin1"},
		{"three bytes", "?parseTime=true&loc=UTC&charset=utf8mb3", "character set is utf8mb3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := sql.Open("mysql", s.mysqlServer()+"shop"+c.params)
			must(t, err)
			defer db.Close()
			_, err = sqlstore.New(db, sqlstore.MySQL)
			if c.want == "" {
				must(t, err)
			} else {
				wants(t, err, apikey.ErrInvalid, c.want)
			}
			if n := db.Stats().InUse; n != 0 {
				t.Errorf("%d connections were kept", n)
			}
		})
	}
}

func TestNewRefusesPostgres(t *testing.T) {
	s := onePostgres.get(t)
	admin, err := sql.Open("pgx", s.postgresDSN(""))
	must(t, err)
	defer admin.Close()
	_, err = admin.Exec("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	must(t, err)
	defer admin.Exec("DROP DATABASE latin")
	for _, c := range []struct{ name, dsn, want string }{
		{"encoding", strings.Replace(s.postgresDSN(""), "/postgres?", "/latin?", 1), "ENCODING 'UTF8'"},
		{"backslashes", s.postgresDSN("&options=-cstandard_conforming_strings%3Doff"), "standard_conforming_strings"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := sql.Open("pgx", c.dsn)
			must(t, err)
			defer db.Close()
			_, err = sqlstore.New(db, sqlstore.Postgres)
			wants(t, err, apikey.ErrInvalid, c.want)
		})
	}
}

// What is not there, or not let in, is unavailable, and says why.
func TestServerIsAway(t *testing.T) {
	port := freePorts(t, 1)[0]
	for _, c := range []struct {
		name, driver, dsn string
		dialect           sqlstore.Dialect
		want              string
	}{
		{"postgres down, pgx", "pgx", fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", port), sqlstore.Postgres, "refused"},
		{"postgres down, pq", "postgres", fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", port), sqlstore.Postgres, "refused"},
		{"mariadb down", "mysql", fmt.Sprintf("root@tcp(127.0.0.1:%d)/shop", port), sqlstore.MySQL, "refused"},
		{"no such role", "pgx", strings.Replace(onePostgres.get(t).postgresDSN(""), "postgres@", "nobody@", 1), sqlstore.Postgres, "nobody"},
		{"no such user", "mysql", strings.Replace(oneMariaDB.get(t).mysqlDSN(""), "root@", "nobody:secret@", 1), sqlstore.MySQL, "Access denied"},
		{"no such database", "pgx", strings.Replace(onePostgres.get(t).postgresDSN(""), "/postgres?", "/nowhere?", 1), sqlstore.Postgres, "nowhere"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := sql.Open(c.driver, c.dsn)
			must(t, err)
			defer db.Close()
			_, err = sqlstore.New(db, c.dialect)
			wants(t, err, apikey.ErrUnavailable, c.want)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

// The zero of the two times that lists are ordered by is the year 1, which comes
// back as it; MariaDB's driver has another meaning for it.
func TestZeroTimesThatOrder(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			s, _ := e.migrated(t)
			r := newRecord("m1")
			r.CreatedAt = time.Time{}
			ch := change(r)
			ch.Event.Time = time.Time{}
			must(t, s.Apply(t.Context(), ch))
			create(t, s)
			page, err := s.List(t.Context(), apikey.Filter{Limit: 1})
			must(t, err)
			page, err = s.List(t.Context(), apikey.Filter{After: page.Next})
			must(t, err)
			log, err := s.Events(t.Context(), apikey.EventFilter{Key: r.ID})
			must(t, err)
			if len(page.Records) != 1 || !page.Records[0].CreatedAt.IsZero() || !log.Events[0].Time.IsZero() {
				t.Errorf("%v, %v", page.Records, log.Events)
			}
		})
	}
}

// Without its tables, or with one of them gone, a store says what to do.
func TestMissingTables(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			db := e.pool(t, e.dsn(t))
			d, prefix := e.fresh(t)
			s := open(t, db, d)
			_, err := s.Lookup(t.Context(), apikey.NewCredentialID())
			wants(t, err, apikey.ErrUnavailable, "call Store.Migrate")
			must(t, s.Migrate(t.Context()))
			create(t, s)
			_, err = db.Exec("DROP TABLE " + prefix + "credentials")
			must(t, err)
			_, err = s.Lookup(t.Context(), apikey.NewCredentialID())
			wants(t, err, apikey.ErrUnavailable, prefix+"credentials")
		})
	}
}

// A row that somebody damaged is an error that names its key, and no value.
func TestDamagedRows(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			db := e.pool(t, e.dsn(t))
			d, prefix := e.fresh(t)
			s := open(t, db, d)
			must(t, s.Migrate(t.Context()))
			for _, set := range []string{"mode = 3", "kind = 0", `abilities = '{"secret":1}'`, `networks = '["secret/99"]'`, `metadata = '["secret"]'`, "recovery = 300"} {
				start, err := s.Changed(t.Context(), "", 1)
				must(t, err)
				sound, bad := create(t, s), create(t, s)
				where := fmt.Sprintf("id = x'%x'", bad.ID[:])
				if e.dialect == sqlstore.Postgres {
					where = fmt.Sprintf(`id = '\x%x'`, bad.ID[:])
				}
				result, err := db.Exec("UPDATE " + prefix + "keys SET " + set + " WHERE " + where)
				must(t, err)
				if n, _ := result.RowsAffected(); n != 1 {
					t.Fatalf("%s: %d rows", set, n)
				}
				for _, read := range []func() error{
					func() error { _, err := s.Get(t.Context(), bad.ID); return err },
					func() error { _, err := s.Lookup(t.Context(), bad.Credentials[0].ID); return err },
				} {
					var corrupt *apikey.CorruptError
					if err := read(); !errors.As(err, &corrupt) || corrupt.Key != bad.ID || strings.Contains(err.Error(), "secret") {
						t.Errorf("%s: %v", set, err)
					}
				}
				feed, err := s.Changed(t.Context(), start.Next, 1000)
				must(t, err)
				shown := false
				for _, r := range feed.Records {
					shown = shown || r.ID == sound.ID
				}
				if named := len(feed.Damaged) > 0 && feed.Damaged[len(feed.Damaged)-1].Key == bad.ID; !shown || !named {
					t.Errorf("%s: the feed shows %v, the damage %v", set, feed.Records, feed.Damaged)
				}
			}
		})
	}
}

// Many processes that start at once: one works, the others wait, and all are
// content.
func TestMigrateTogether(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			for range 5 {
				d, prefix := e.fresh(t)
				var stores []*sqlstore.Store
				for range 6 {
					stores = append(stores, open(t, e.pool(t, dsn), d))
				}
				errs := make([]error, len(stores))
				var start, done sync.WaitGroup
				start.Add(len(stores))
				for i, s := range stores {
					done.Go(func() {
						start.Done()
						start.Wait()
						errs[i] = s.Migrate(context.Background())
					})
				}
				done.Wait()
				must(t, errors.Join(errs...))
				var n int
				must(t, e.pool(t, dsn).QueryRow("SELECT COUNT(*) FROM "+prefix+"migrations").Scan(&n))
				if n != 1 {
					t.Errorf("%d migrations are remembered", n)
				}
				create(t, stores[0])
			}
		})
	}
}

// A migration whose connection dies at any call leaves a schema that the next
// one makes usable.
func TestMigrateKilledAtEveryCall(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn, killed := e.dsn(t), 0
			for _, injected := range []effect{{early: true, cut: true}, {late: true, cut: true}} {
				for n := 1; ; n++ {
					if n > 60 {
						t.Fatal("the fault never fails to strike")
					}
					db, p := e.proxied(t, dsn)
					d, _ := e.fresh(t)
					s := open(t, db, d)
					struck := false
					p.record(func(at int, _ sent) effect {
						if at != n {
							return effect{}
						}
						struck = true
						return injected
					})
					err := s.Migrate(t.Context())
					p.record(nil)
					if !struck {
						must(t, err)
						break
					}
					killed++
					must(t, open(t, e.pool(t, dsn), d).Migrate(t.Context())) // another process
					create(t, s)
				}
			}
			t.Logf("killed at %d calls", killed)
			if killed < 15 {
				t.Error("too few")
			}
		})
	}
}

func TestMigrateWhatIsNotOurs(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			db := e.pool(t, e.dsn(t))
			d, prefix := e.fresh(t)
			s := open(t, db, d)
			must(t, s.Migrate(t.Context()))
			_, err := db.Exec("INSERT INTO " + prefix + "migrations (number, name, checksum, applied_at) VALUES (9, '0009_later.up.sql', 'x', '2024-01-01 00:00:00')")
			must(t, err)
			_, err = db.Exec("ALTER TABLE " + prefix + "keys ADD COLUMN later INTEGER NOT NULL DEFAULT 0")
			must(t, err)
			wants(t, s.Migrate(t.Context()), sqlstore.ErrNewerSchema, "number 9")
			r := create(t, s) // and goes on
			must(t, s.Apply(t.Context(), change(next(r))))
			_, err = s.Lookup(t.Context(), r.Credentials[0].ID)
			must(t, err)

			_, err = db.Exec("UPDATE " + prefix + "migrations SET checksum = 'x' WHERE number = 1")
			must(t, err)
			if err := s.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "applied with other contents") {
				t.Errorf("a schema that was edited: %v", err)
			}
		})
	}
}

// Who applies the files with a tool, all statements of one at once, has the same
// tables.
func TestSchemaForTools(t *testing.T) {
	for _, c := range []struct {
		engine
		params, columns string
	}{
		{named("postgres/pq")[0], "", `SELECT string_agg(concat_ws(' ', table_name, column_name, data_type, is_nullable, collation_name), ';' ORDER BY table_name, ordinal_position)
	FROM information_schema.columns WHERE table_schema = 'public' AND starts_with(table_name, $1)`},
		{named("mariadb/interpolated")[0], "&multiStatements=true", `SELECT GROUP_CONCAT(CONCAT_WS(' ', table_name, column_name, column_type, is_nullable, collation_name, column_key) ORDER BY table_name, ordinal_position SEPARATOR ';')
	FROM information_schema.columns WHERE table_schema = 'shop' AND table_name LIKE CONCAT(?, '%')`},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := c.pool(t, c.dsn(t)+c.params)
			_, err := db.Exec(map[bool]string{true: "SELECT 1", false: "SET GLOBAL group_concat_max_len = 1000000"}[c.dialect == sqlstore.Postgres])
			must(t, err)
			tool, toolPrefix := c.fresh(t)
			files := sqlstore.Schema(tool)
			names, err := fs.Glob(files, "*.sql")
			must(t, err)
			for _, name := range names {
				text, err := fs.ReadFile(files, name)
				must(t, err)
				_, err = db.Exec(string(text))
				must(t, err)
			}
			own, ownPrefix := c.fresh(t)
			must(t, open(t, db, own).Migrate(t.Context()))
			_, err = db.Exec("DROP TABLE " + ownPrefix + "migrations")
			must(t, err)
			var made, migrated string
			fresh := c.pool(t, c.dsn(t))
			must(t, fresh.QueryRow(c.columns, toolPrefix).Scan(&made))
			must(t, fresh.QueryRow(c.columns, ownPrefix).Scan(&migrated))
			if made = strings.ReplaceAll(made, toolPrefix, ownPrefix); made != migrated || len(made) < 1000 {
				t.Errorf("the tool made\n%s\nMigrate made\n%s", made, migrated)
			}
			create(t, open(t, db, tool))
		})
	}
}

// A pool of one connection is enough for everything, and a context that ends in
// the middle keeps neither it nor half of a change.
func TestOneConnectionAndCancelledContexts(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			db, p := e.proxied(t, dsn)
			db.SetMaxOpenConns(1)
			d, _ := e.fresh(t)
			s := open(t, db, d)
			must(t, s.Migrate(t.Context()))
			r := create(t, s)
			for n, struck := 1, true; struck; n++ {
				struck = false
				ctx, cancel := context.WithCancel(t.Context())
				p.record(func(at int, _ sent) effect {
					if at == n {
						struck = true
						cancel()
					}
					return effect{}
				})
				ch := change(next(r))
				ch.Items = []apikey.Item{{Kind: "test", ID: fmt.Sprint(n), Version: 1}}
				err := s.Apply(ctx, ch)
				p.record(nil)
				cancel()
				got, gone := s.Get(t.Context(), r.ID)
				must(t, gone)
				items, gone := s.Items(t.Context(), apikey.ItemFilter{Kind: "test", ID: fmt.Sprint(n)})
				must(t, gone)
				if whole := got.Version == r.Version+1; whole != (len(items.Items) == 1) || err == nil && !whole {
					t.Errorf("call %d: version %d after %d, items %v, error %v", n, got.Version, r.Version, items.Items, err)
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("call %d: %v", n, err)
				}
				r = got
				if stats := db.Stats(); stats.InUse != 0 {
					t.Fatalf("call %d: a connection is kept", n)
				}
			}
		})
	}
}
