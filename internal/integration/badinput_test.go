package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// A server that is down, or that lets nobody in, fails the start with its own
// words, in time, and without the password.
func TestServerIsAway(t *testing.T) {
	port := freePorts(t, 1)[0]
	pg, maria := onePostgres.get(t), oneMariaDB.get(t)
	lockedOut(t, pg, maria)
	locked := func(dsn, user string) string { return strings.Replace(dsn, user+"@", "locked:secret@", 1) }
	for _, c := range []struct {
		name, driver, dsn string
		dialect           sqlstore.Dialect
		want              string
	}{
		{"postgres down, pgx", "pgx", fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", port), sqlstore.Postgres, "refused"},
		{"postgres down, pq", "postgres", fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", port), sqlstore.Postgres, "refused"},
		{"mariadb down", "mysql", fmt.Sprintf("root@tcp(127.0.0.1:%d)/shop", port), sqlstore.MySQL, "refused"},
		{"no such role", "pgx", strings.Replace(pg.postgresDSN(""), "postgres@", "nobody@", 1), sqlstore.Postgres, "nobody"},
		{"no such user", "mysql", strings.Replace(maria.mysqlDSN(""), "root@", "nobody:secret@", 1), sqlstore.MySQL, "Access denied"},
		{"wrong password, pgx", "pgx", locked(pg.postgresDSN(""), "postgres"), sqlstore.Postgres, "password authentication failed"},
		{"wrong password, pq", "postgres", locked(pg.postgresDSN(""), "postgres"), sqlstore.Postgres, "password authentication failed"},
		{"wrong password, mariadb", "mysql", locked(maria.mysqlDSN(""), "root"), sqlstore.MySQL, "Access denied"},
		{"no such database", "pgx", strings.Replace(pg.postgresDSN(""), "/postgres?", "/nowhere?", 1), sqlstore.Postgres, "nowhere"},
		{"no such database, mariadb", "mysql", strings.Replace(maria.mysqlDSN(""), "/shop?", "/nowhere?", 1), sqlstore.MySQL, "nowhere"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := sql.Open(c.driver, c.dsn)
			must(t, err)
			defer db.Close()
			begun := time.Now()
			_, err = sqlstore.New(db, c.dialect)
			wants(t, err, apikey.ErrUnavailable, c.want)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in the error: %v", err)
			}
			if took := time.Since(begun); took > 11*time.Second || db.Stats().InUse != 0 {
				t.Errorf("after %v, %d connections kept", took, db.Stats().InUse)
			}
		})
	}
}

// lockedOut makes a user whose password is not "secret".
func lockedOut(t *testing.T, pg, maria *server) {
	t.Helper()
	admin, err := sql.Open("pgx", pg.postgresDSN(""))
	must(t, err)
	defer admin.Close()
	hba := filepath.Join(pg.data(), "pg_hba.conf")
	must(t, os.WriteFile(hba, append([]byte("host all locked 127.0.0.1/32 scram-sha-256\n"), textOf(t, hba)...), 0o600))
	for _, statement := range []string{"CREATE ROLE locked LOGIN PASSWORD 'right'", "SELECT pg_reload_conf()"} {
		_, err := admin.Exec(statement)
		must(t, err)
	}
	other, err := sql.Open("mysql", maria.mysqlDSN(""))
	must(t, err)
	defer other.Close()
	_, err = other.Exec("CREATE USER locked@'%' IDENTIFIED BY 'right'")
	must(t, err)
}

// The server goes away between sqlstore.New and the start of the rest.
func TestServerIsAwayAtTheStart(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			p, _ := newSite(t, e)
			port := onePostgres.get(t).port
			if e.dialect == sqlstore.MySQL {
				port = oneMariaDB.get(t).port
			}
			c := newCable(t, port)
			p.dsn = strings.Replace(p.dsn, fmt.Sprintf(":%d", port), fmt.Sprintf(":%d", c.port()), 1)
			store, db, err := p.open()
			must(t, err)
			defer db.Close()
			c.Listener.Close()
			c.plug(0)
			for name, start := range map[string]func() error{
				"NewVerifier": func() error { _, err := verifierFor(store).start(t.Context()); return err },
				"NewManager":  func() error { _, err := managerFor(store).start(t.Context()); return err },
				"Migrate":     func() error { return store.Migrate(t.Context()) },
			} {
				begun := time.Now()
				if err := start(); !errors.Is(err, apikey.ErrUnavailable) || time.Since(begun) > 10*time.Second {
					t.Errorf("%s: %v after %v", name, err, time.Since(begun))
				}
			}
		})
	}
}

// shopAt is a shop on the tables of a site, with a token that is warm and one
// that is not.
type shopAt struct {
	site
	m          *apikey.Manager
	v          *apikey.Verifier
	warm, cold apikey.Issued
	admin      *sql.DB
}

func newShop(t *testing.T, e engine) *shopAt {
	t.Helper()
	p, store := newSite(t, e)
	s := &shopAt{site: p, m: newManager(t, store), admin: e.pool(t, p.dsn)}
	s.v = newVerifier(t, open(t, e.pool(t, p.dsn), e.dialect.WithPrefix(p.prefix)), func(c *verifying) { c.ReadOnly, c.MaxStale = true, 400*time.Millisecond })
	for _, k := range []*apikey.Issued{&s.warm, &s.cold} {
		var err error
		*k, err = s.m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
	}
	must(t, check(s.v, s.warm.Token))
	return s
}

func (s *shopAt) do(t *testing.T, statement string) {
	t.Helper()
	for _, table := range append(tables, "migrations") {
		statement = strings.ReplaceAll(statement, "{"+table+"}", s.prefix+table)
	}
	_, err := s.admin.Exec(statement)
	must(t, err)
}

// Without its tables a store says what to do; with one of them gone, or a column,
// it names it. Nothing is verified by what is left, beyond MaxStale, and nothing
// new starts.
func TestMissingTables(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			d, prefix := e.fresh(t)
			_, err := open(t, e.pool(t, e.dsn(t)), d).Lookup(t.Context(), storetest.NewCredentialID())
			wants(t, err, apikey.ErrUnavailable, "call Store.Migrate")
			wants(t, err, apikey.ErrUnavailable, prefix)
			for _, c := range []struct {
				statement, names string
				cold             bool // a cold key is refused at once, and not when MaxStale is over
			}{
				{"DROP TABLE {keys}", "keys", true},
				{"DROP TABLE {credentials}", "credentials", true},
				{"DROP TABLE {events}", "events", false},
				{"ALTER TABLE {keys} DROP COLUMN needs", "needs", true},
				{"ALTER TABLE {keys} DROP COLUMN mac", "mac", true},
				{"ALTER TABLE {credentials} DROP COLUMN ended", "ended", true},
				{"ALTER TABLE {credentials} DROP COLUMN check_value", "check_value", true},
			} {
				t.Run(c.statement, func(t *testing.T) { missing(t, newShop(t, e), c.statement, c.names, c.cold) })
			}
			t.Run("DROP TABLE {items}", func(t *testing.T) { // which verification does not need
				s := newShop(t, e)
				s.do(t, "DROP TABLE {items}")
				store, db, err := s.open()
				must(t, err)
				defer db.Close()
				_, err = verifierFor(store).start(t.Context())
				wants(t, err, apikey.ErrUnavailable, s.prefix+"items")
				_, err = s.m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
				wants(t, err, apikey.ErrUnavailable, s.prefix+"items")
			})
		})
	}
}

func missing(t *testing.T, s *shopAt, statement, names string, cold bool) {
	s.do(t, statement)
	dropped := time.Now()
	if cold {
		wants(t, check(s.v, s.cold.Token), apikey.ErrUnavailable, names)
	}
	wants(t, s.v.Sync(t.Context()), apikey.ErrUnavailable, names)
	time.Sleep(time.Until(dropped.Add(450 * time.Millisecond))) // MaxStale
	for _, k := range []apikey.Issued{s.warm, s.cold} {
		wants(t, check(s.v, k.Token), apikey.ErrUnavailable, names)
	}
	ctx, cancel := context.WithTimeout(adminOf("acc_1"), 200*time.Millisecond) // a revocation is tried until its time is over
	defer cancel()
	wants(t, s.m.Revoke(ctx, apikey.RevokeRequest{Key: s.warm.Key.ID}), apikey.ErrUnavailable, names)
}

// A schema of which only the first statements were applied, by a tool that was
// stopped: whatever needs what is not there says so by name, and Migrate makes it
// whole or names what stands in its way.
func TestHalfAppliedSchema(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			want := undisturbed(t, e)
			names, err := fs.Glob(sqlstore.Schema(e.dialect), "*.sql")
			must(t, err)
			named, whole, refused := 0, 0, 0
			for n := 0; ; n++ {
				d, prefix := e.fresh(t)
				var all []string
				for _, name := range names {
					text, err := fs.ReadFile(sqlstore.Schema(d), name)
					must(t, err)
					all = append(all, statementsOf(string(text))...)
				}
				if n == len(all) {
					break
				}
				s := &shopAt{site: site{e.name, e.dsn(t), prefix}, admin: e.pool(t, e.dsn(t))}
				for _, statement := range all[:n] {
					s.do(t, statement)
				}
				if halfWorks(t, e, s) {
					named++
				}
				store := open(t, s.admin, d)
				switch err := store.Migrate(t.Context()); {
				case err == nil:
					whole++
					if got := schemaOf(t, e, s.site); !slices.Equal(got, want) {
						t.Errorf("after %d statements Migrate makes\n%s", n, strings.Join(got, "\n"))
					}
				case n > 0 && strings.Contains(err.Error(), prefix) && strings.Contains(err.Error(), "already exists"):
					refused++
				default:
					t.Errorf("after %d statements: %v", n, err)
				}
			}
			t.Logf("half of the schema in %d ways: %d keep the shop from working and say what is missing; Migrate makes %d whole and names what stands in its way in %d", whole+refused, named, whole, refused)
			if named < 3 || whole == 0 {
				t.Fail()
			}
		})
	}
}

// halfWorks opens a shop and uses it. It reports whether something was missing,
// which has to be named; a token that was issued has to verify.
func halfWorks(t *testing.T, e engine, s *shopAt) (missed bool) {
	t.Helper()
	store := open(t, s.admin, e.dialect.WithPrefix(s.prefix))
	names := func(err error) bool {
		if err != nil && (!errors.Is(err, apikey.ErrUnavailable) || !strings.Contains(err.Error(), s.prefix)) {
			t.Errorf("half of a schema: %v", err)
		}
		return err != nil
	}
	m, err := managerFor(store).start(t.Context())
	if names(err) {
		return true
	}
	v, err := verifierFor(store).start(t.Context())
	if names(err) {
		return true
	}
	defer v.Close(context.Background())
	k, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
	if names(err) {
		return true
	}
	must(t, check(v, k.Token))
	return false
}
