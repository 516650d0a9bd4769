package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
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
