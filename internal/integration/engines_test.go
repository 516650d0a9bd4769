package integration

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// engine is a database with a driver that reaches it.
type engine struct {
	name    string
	dialect sqlstore.Dialect
	driver  string
	// dsn of a database, which is the same one however often it is asked for
	// within a test: two pools are two nodes.
	dsn func(t *testing.T) string
}

// engines are all that the package supports.
var engines = []engine{
	{"sqlite/modernc", sqlstore.SQLite, "sqlite", func(t *testing.T) string {
		return "file:" + filepath.Join(t.TempDir(), "keys.db") + "?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_txlock=immediate"
	}},
	{"sqlite/mattn", sqlstore.SQLite, "sqlite3", func(t *testing.T) string {
		return "file:" + filepath.Join(t.TempDir(), "keys.db") + "?_busy_timeout=5000&_journal_mode=WAL&_synchronous=OFF&_txlock=immediate"
	}},
	{"postgres/pgx", sqlstore.Postgres, "pgx", func(t *testing.T) string { return onePostgres.get(t).postgresDSN("") }},
	{"postgres/pq", sqlstore.Postgres, "postgres", func(t *testing.T) string { return onePostgres.get(t).postgresDSN("") }},
	{"pgbouncer/pgx exec", sqlstore.Postgres, "pgx", func(t *testing.T) string {
		return oneBouncer.get(t).postgresDSN("&default_query_exec_mode=exec")
	}},
	{"pgbouncer/pgx simple", sqlstore.Postgres, "pgx", func(t *testing.T) string {
		return oneBouncer.get(t).postgresDSN("&default_query_exec_mode=simple_protocol")
	}},
	{"mariadb/prepared", sqlstore.MySQL, "mysql", func(t *testing.T) string { return oneMariaDB.get(t).mysqlDSN("") }},
	{"mariadb/interpolated", sqlstore.MySQL, "mysql", func(t *testing.T) string {
		return oneMariaDB.get(t).mysqlDSN("&interpolateParams=true&clientFoundRows=true")
	}},
}

// tables that hold something, without their prefix.
var tables = []string{"keys", "credentials", "events", "items"}

// pool opens a database; the test closes it.
func (e engine) pool(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(e.driver, dsn)
	must(t, err)
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	t.Cleanup(func() { db.Close() })
	return db
}

// prefixes are never used twice in one run.
var prefixes struct {
	sync.Mutex
	n int
}

// fresh is the dialect for tables that no other test uses.
func (e engine) fresh(t *testing.T) (d sqlstore.Dialect, prefix string) {
	prefixes.Lock()
	defer prefixes.Unlock()
	prefixes.n++
	prefix = fmt.Sprintf("t%d_", prefixes.n)
	return e.dialect.WithPrefix(prefix), prefix
}

func open(t *testing.T, db *sql.DB, d sqlstore.Dialect) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.New(db, d)
	must(t, err)
	return s
}

// migrated opens a new store on an engine.
func (e engine) migrated(t *testing.T) (*sqlstore.Store, *sql.DB) {
	t.Helper()
	db := e.pool(t, e.dsn(t))
	d, _ := e.fresh(t)
	s := open(t, db, d)
	must(t, s.Migrate(t.Context()))
	return s, db
}

// The contract on every engine with every driver, on two pools as two nodes.
func TestEngines(t *testing.T) {
	var all matrix
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			one, other := e.pool(t, dsn), e.pool(t, dsn)
			d, prefix := e.fresh(t)
			store, second := open(t, one, d), open(t, other, d)
			must(t, store.Migrate(t.Context()))
			storetest.Run(t, func(t *testing.T) storetest.Backend {
				empty(t, one, e, prefix)
				t.Cleanup(func() {
					all.count(e.name, t)
					if n := one.Stats().InUse + other.Stats().InUse; n != 0 {
						t.Errorf("%d connections were kept", n)
					}
				})
				return storetest.Backend{
					Store: store, Other: second, Purge: store.Purge, In: e.begin(one, store),
					Backup: func(t *testing.T) func(*testing.T) { return backup(t, one, e, prefix) },
				}
			})
		})
	}
	all.print(t)
}

// begin is a transaction of a program, and a store in it.
func (e engine) begin(db *sql.DB, s *sqlstore.Store) func(t *testing.T) (apikey.Store, func(bool) error) {
	options := &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	if e.dialect == sqlstore.SQLite {
		options = nil
	}
	return func(t *testing.T) (apikey.Store, func(bool) error) {
		tx, err := db.BeginTx(context.Background(), options)
		must(t, err)
		t.Cleanup(func() { tx.Rollback() })
		return s.In(tx), func(commit bool) error {
			if commit {
				return tx.Commit()
			}
			return tx.Rollback()
		}
	}
}

func empty(t *testing.T, db *sql.DB, e engine, prefix string) {
	t.Helper()
	for _, table := range tables {
		_, err := db.Exec("DELETE FROM " + prefix + table)
		must(t, err)
	}
	if e.dialect == sqlstore.SQLite {
		_, err := db.Exec("UPDATE " + prefix + "feed SET place = 0, event = NULL")
		must(t, err)
	}
}

// backup copies the tables; restore puts every row back as it was then, in one
// transaction under the open stores.
func backup(t *testing.T, db *sql.DB, e engine, prefix string) (restore func(t *testing.T)) {
	all := tables
	if e.dialect == sqlstore.SQLite {
		all = append(slices.Clone(all), "feed")
	}
	copies := fmt.Sprintf("%scopy%p_", prefix, t)
	for _, table := range all {
		_, err := db.Exec("CREATE TABLE " + copies + table + " AS SELECT * FROM " + prefix + table)
		must(t, err)
	}
	t.Cleanup(func() {
		for _, table := range all {
			db.Exec("DROP TABLE " + copies + table)
		}
	})
	return func(t *testing.T) {
		tx, err := db.BeginTx(context.Background(), nil)
		must(t, err)
		defer tx.Rollback()
		for _, table := range all {
			_, err := tx.Exec("DELETE FROM " + prefix + table)
			must(t, err)
			_, err = tx.Exec("INSERT INTO " + prefix + table + " SELECT * FROM " + copies + table)
			must(t, err)
		}
		must(t, tx.Commit())
	}
}

// matrix counts the cases of each group on each engine.
type matrix struct {
	sync.Mutex
	engines, groups []string
	cells           map[[2]string]*cell
}

type cell struct{ passed, failed, skipped int }

// count is called when a case is over; its name ends with group and case.
func (m *matrix) count(engine string, t *testing.T) {
	m.Lock()
	defer m.Unlock()
	rest := strings.Split(t.Name(), "/")
	group := rest[len(rest)-2]
	if m.cells == nil {
		m.cells = map[[2]string]*cell{}
	}
	if !slices.Contains(m.engines, engine) {
		m.engines = append(m.engines, engine)
	}
	if !slices.Contains(m.groups, group) {
		m.groups = append(m.groups, group)
	}
	at := [2]string{engine, group}
	if m.cells[at] == nil {
		m.cells[at] = &cell{}
	}
	switch {
	case t.Failed():
		m.cells[at].failed++
	case t.Skipped():
		m.cells[at].skipped++
	default:
		m.cells[at].passed++
	}
}

func (m *matrix) print(t *testing.T) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "cases passed, of every engine and driver:\n%-20s", "")
	for i := range m.engines {
		fmt.Fprintf(&b, "%5s", fmt.Sprintf("[%d]", i+1))
	}
	total, wrong := 0, 0
	for _, group := range m.groups {
		fmt.Fprintf(&b, "\n%-20s", group)
		for _, engine := range m.engines {
			c := m.cells[[2]string{engine, group}]
			if c == nil {
				c = &cell{skipped: 1}
			}
			text := fmt.Sprint(c.passed)
			if c.failed+c.skipped > 0 {
				text = fmt.Sprintf("%d-%d", c.passed, c.failed+c.skipped)
			}
			fmt.Fprintf(&b, "%5s", text)
			total, wrong = total+c.passed, wrong+c.failed+c.skipped
		}
	}
	for i, engine := range m.engines {
		fmt.Fprintf(&b, "\n[%d] %s", i+1, engine)
	}
	t.Logf("%s\n%d cases passed, %d failed or were skipped", &b, total, wrong)
	if wrong > 0 {
		t.Errorf("%d cases failed or were skipped", wrong)
	}
}
