package sqlstore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

func TestNewRefusesWrongDSN(t *testing.T) {
	const wait, wal, lock = "_pragma=busy_timeout(5000)", "_pragma=journal_mode(WAL)", "_txlock=immediate"
	const noWait, noLock, manyPools = "busy_timeout", "add _txlock=immediate", "SetMaxOpenConns(1)"
	for _, c := range []struct {
		name, dsn string
		pool      int
		want      string // "": accepted
	}{
		{"recommended", "file:%?" + wait + "&" + wal + "&" + lock, 0, ""},
		{"rollback journal", "file:%?" + wait + "&" + lock, 0, ""},
		{"exclusive", "file:%?" + wait + "&_txlock=exclusive", 0, ""},
		{"one connection", "file:%?" + wait + "&" + lock, 1, ""},
		{"memory, one connection", "file::memory:?" + wait + "&" + lock, 1, ""},
		{"shared memory, one connection", "file:x?mode=memory&cache=shared&" + wait + "&" + lock, 1, ""},
		{"nothing", "file:%", 0, noWait},
		{"no timeout", "file:%?" + wal + "&" + lock, 0, noWait},
		{"no timeout, one connection", "file:%?" + lock, 1, noWait},
		{"timeout 0", "file:%?_pragma=busy_timeout(0)&" + lock, 0, noWait},
		{"no lock", "file:%?" + wait + "&" + wal, 0, noLock},
		{"no lock, rollback journal", "file:%?" + wait, 0, noLock},
		{"no lock, one connection", "file:%?" + wait, 1, noLock},
		{"deferred", "file:%?" + wait + "&_txlock=deferred", 0, noLock},
		{"no lock, memory", "file::memory:?" + wait, 1, noLock},
		{"memory, many connections", "file::memory:?" + wait + "&" + lock, 0, manyPools},
		{"memory, two connections", ":memory:?" + wait + "&" + lock, 2, manyPools},
		{"shared memory, many connections", "file:x?mode=memory&cache=shared&" + wait + "&" + lock, 0, manyPools},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := sql.Open("sqlite", strings.ReplaceAll(c.dsn, "%", file(t)))
			require.NoError(t, err)
			defer db.Close()
			db.SetMaxOpenConns(c.pool)
			s, err := sqlstore.New(db, sqlstore.SQLite)
			if c.want == "" {
				require.NoError(t, err)
				require.NoError(t, s.Migrate(t.Context()))
				create(t, s, "m1")
				return
			}
			require.ErrorIs(t, err, apikey.ErrInvalid)
			require.ErrorContains(t, err, c.want)
			require.Zero(t, db.Stats().InUse)
		})
	}
}

// A PRAGMA that is sent through db.Exec reaches only one connection of the pool.
func TestNewLooksAtASecondConnection(t *testing.T) {
	db, err := sql.Open("sqlite", "file:"+file(t)+"?_txlock=immediate")
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("PRAGMA busy_timeout = 5000")
	require.NoError(t, err)
	_, err = sqlstore.New(db, sqlstore.SQLite)
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.ErrorContains(t, err, "_pragma=busy_timeout(5000)")
	require.ErrorContains(t, err, "_busy_timeout=5000")
}

// Whether BEGIN takes the lock depends on the connection, not on another one that holds
// the lock at that moment.
func TestNewWhileAnotherWrites(t *testing.T) {
	path := file(t)
	other, err := openDB(t, path).Begin()
	require.NoError(t, err)
	defer other.Rollback()
	lax, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10)")
	require.NoError(t, err)
	defer lax.Close()
	_, err = sqlstore.New(lax, sqlstore.SQLite)
	require.ErrorIs(t, err, apikey.ErrInvalid)

	right, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10)&_txlock=immediate")
	require.NoError(t, err)
	defer right.Close()
	_, err = sqlstore.New(right, sqlstore.SQLite)
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorContains(t, err, "locked")
}

func TestNewRefuses(t *testing.T) {
	closed := openDB(t, file(t))
	closed.Close()
	db := openDB(t, file(t))
	long := strings.Repeat("a", 31)
	for _, c := range []struct {
		name    string
		db      *sql.DB
		dialect sqlstore.Dialect
		want    error
	}{
		{"no dialect", db, sqlstore.Dialect{}, apikey.ErrInvalid},
		{"no dialect but a prefix", db, sqlstore.Dialect{}.WithPrefix("shop_"), apikey.ErrInvalid},
		{"no database", nil, sqlstore.SQLite, apikey.ErrInvalid},
		{"closed database", closed, sqlstore.SQLite, apikey.ErrUnavailable},
		{"no folder", openDB(t, filepath.Join(t.TempDir(), "no", "keys.db")), sqlstore.SQLite, apikey.ErrUnavailable},
		{"empty prefix", db, sqlstore.SQLite.WithPrefix(""), apikey.ErrInvalid},
		{"prefix that is SQL", db, sqlstore.SQLite.WithPrefix("a; DROP TABLE b; --"), apikey.ErrInvalid},
		{"upper case prefix", db, sqlstore.SQLite.WithPrefix("Shop_"), apikey.ErrInvalid},
		{"prefix beginning with a digit", db, sqlstore.SQLite.WithPrefix("1_"), apikey.ErrInvalid},
		{"prefix with a line break", db, sqlstore.SQLite.WithPrefix("shop_\n"), apikey.ErrInvalid},
		{"reserved prefix", db, sqlstore.SQLite.WithPrefix("sqlite_"), apikey.ErrInvalid},
		{"long prefix", db, sqlstore.SQLite.WithPrefix(long), apikey.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := sqlstore.New(c.db, c.dialect)
			require.ErrorIs(t, err, c.want)
		})
	}
	_, err := sqlstore.New(db, sqlstore.SQLite.WithPrefix(long[1:]))
	require.NoError(t, err)
}

// If the error of BeginTx is overlooked, every method fails, and nothing is committed
// outside a transaction.
func TestInOfNoTransaction(t *testing.T) {
	s := migrated(t, openDB(t, file(t)))
	joined := s.In(nil)
	r := create(t, s, "m1")
	for i := range reflect.TypeOf(joined).NumMethod() {
		m := reflect.ValueOf(joined).Method(i)
		args := []reflect.Value{reflect.ValueOf(t.Context())}
		for a := 1; a < m.Type().NumIn() && !(m.Type().IsVariadic() && a == m.Type().NumIn()-1); a++ {
			args = append(args, reflect.Zero(m.Type().In(a)))
		}
		out := m.Call(args)
		require.ErrorIs(t, out[len(out)-1].Interface().(error), apikey.ErrInvalid)
	}
	require.ErrorIs(t, joined.Apply(t.Context(), change(next(r))), apikey.ErrInvalid)
	stored, err := s.Get(t.Context(), r.ID)
	require.NoError(t, err)
	require.EqualValues(t, 1, stored.Version)
}

func TestPrefixSeparates(t *testing.T) {
	db := openDB(t, file(t))
	shop, err := sqlstore.New(db, sqlstore.SQLite.WithPrefix("shop_"))
	require.NoError(t, err)
	require.NoError(t, shop.Migrate(t.Context()))
	r := create(t, shop, "m1")
	var tables int
	require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM sqlite_schema WHERE name LIKE '%apikey%'").Scan(&tables))
	require.Zero(t, tables)

	own := migrated(t, db)
	_, err = own.Get(t.Context(), r.ID)
	require.ErrorIs(t, err, apikey.ErrNotFound)
	got, err := shop.Lookup(t.Context(), r.Credentials[1].ID)
	require.NoError(t, err)
	require.Equal(t, r.ID, got.ID)

	text, err := fs.ReadFile(sqlstore.Schema(sqlstore.SQLite.WithPrefix("shop_")), "0001_init.up.sql")
	require.NoError(t, err)
	require.NotContains(t, string(text), "apikey_")
	require.Contains(t, string(text), "CREATE TABLE shop_keys")
	_, err = sqlstore.Schema(sqlstore.SQLite.WithPrefix("a;")).Open("0001_init.up.sql")
	require.ErrorIs(t, err, apikey.ErrInvalid)
	_, err = sqlstore.Schema(sqlstore.SQLite).Open("../sqlite/0001_init.up.sql")
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// The error of every method says what failed, and wraps both the category and the cause.
func TestUnavailable(t *testing.T) {
	missing := newStore(t, openDB(t, file(t)))
	closedDB := openDB(t, file(t))
	closed := migrated(t, closedDB)
	closedDB.Close()
	for name, method := range methods {
		t.Run(name, func(t *testing.T) {
			err := method(t.Context(), missing)
			require.ErrorIs(t, err, apikey.ErrUnavailable)
			require.ErrorContains(t, err, "call Store.Migrate")

			err = method(t.Context(), closed)
			require.ErrorIs(t, err, apikey.ErrUnavailable)
			require.ErrorContains(t, err, "database is closed")
		})
	}
}

// methods calls every method once, in a way that reaches the database.
var methods = map[string]func(ctx context.Context, s *sqlstore.Store) error{
	"Get": func(ctx context.Context, s *sqlstore.Store) error {
		_, err := s.Get(ctx, storetest.NewKeyID())
		return err
	},
	"Lookup": func(ctx context.Context, s *sqlstore.Store) error {
		_, err := s.Lookup(ctx, storetest.NewCredentialID())
		return err
	},
	"List": func(ctx context.Context, s *sqlstore.Store) error {
		_, err := s.List(ctx, apikey.StoreFilter{})
		return err
	},
	"Events": func(ctx context.Context, s *sqlstore.Store) error {
		_, err := s.Events(ctx, apikey.StoreEventFilter{})
		return err
	},
	"Changed": func(ctx context.Context, s *sqlstore.Store) error { _, err := s.Changed(ctx, "", 10); return err },
	"Items": func(ctx context.Context, s *sqlstore.Store) error {
		_, err := s.Items(ctx, apikey.StoreItemFilter{Kind: "k"})
		return err
	},
	"Apply": func(ctx context.Context, s *sqlstore.Store) error { return s.Apply(ctx, change(newRecord("m1"))) },
	"Upkeep": func(ctx context.Context, s *sqlstore.Store) error {
		return s.Upkeep(ctx, []apikey.StoreUpkeep{{Credential: storetest.NewCredentialID(), LastUsed: day}})
	},
	"Purge": func(ctx context.Context, s *sqlstore.Store) error { _, err := s.Purge(ctx, day, 10); return err },
}

// With a cancelled context every method returns context.Canceled, and keeps no
// connection: with a pool of one the next call would wait for ever.
func TestCancelledContextKeepsNoConnection(t *testing.T) {
	for _, path := range []string{file(t), ":memory:"} {
		db := openDB(t, path)
		db.SetMaxOpenConns(1)
		s := migrated(t, db)
		r := create(t, s, "m1")
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		for name, method := range methods {
			err := method(cancelled, s)
			require.ErrorIs(t, err, context.Canceled, name)
			require.NotErrorIs(t, err, apikey.ErrConflict, name)
		}
		_, err := s.Get(t.Context(), r.ID)
		require.NoError(t, err)
	}
}

// An Apply that is cancelled at any moment is written completely or not at all.
func TestCancelledAtEveryCall(t *testing.T) {
	db, p := proxyDB(t, file(t))
	db.SetMaxOpenConns(1)
	s := migrated(t, db)
	r := create(t, s, "m1")
	for n, struck := 1, true; struck; n++ {
		require.Less(t, n, 50)
		struck = false
		ctx, cancel := context.WithCancel(t.Context())
		p.record(func(at int, c call) (before, after error) {
			if at == n {
				struck = true
				cancel()
			}
			return nil, nil
		})
		err := s.Apply(ctx, manyChanges(next(r), n)...)
		p.record(nil)
		cancel()
		got, getErr := s.Get(t.Context(), r.ID)
		require.NoError(t, getErr)
		if err == nil {
			r = next(r)
		} else {
			require.ErrorIs(t, err, context.Canceled)
			require.Empty(t, itemsOf(t, s, n))
		}
		require.Equal(t, r.Version, got.Version, "call %d: %v", n, err)
	}
}

func TestUnwritable(t *testing.T) {
	path := file(t)
	r := create(t, migrated(t, openDB(t, path)), "m1")
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro&_pragma=busy_timeout(50)&_txlock=immediate")
	require.NoError(t, err)
	defer db.Close()
	s := newStore(t, db)
	require.NoError(t, s.Migrate(t.Context()), "nothing to do, nothing to write")
	_, err = s.Get(t.Context(), r.ID)
	require.NoError(t, err)
	err = s.Apply(t.Context(), change(next(r)))
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorContains(t, err, "readonly")
	var coded interface{ Code() int }
	require.True(t, errors.As(err, &coded), "the driver's own error stays visible")
}

// A server that accepts connections and never answers.
func TestNewOfASilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := sql.OpenDB(silent{})
		defer db.Close()
		_, err := sqlstore.New(db, sqlstore.SQLite)
		require.ErrorIs(t, err, apikey.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "did not answer within 10s")
	})
}

type silent struct{}

func (silent) Connect(ctx context.Context) (driver.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
func (silent) Driver() driver.Driver                            { return nil }
