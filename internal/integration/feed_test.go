package integration

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// walk reads the feed to its end, in small pages.
func walk(t testing.TB, s apikey.Store, from apikey.Cursor) (newest map[apikey.KeyID]uint64, rows int, end apikey.Cursor) {
	t.Helper()
	newest = map[apikey.KeyID]uint64{}
	for {
		c, err := s.Changed(t.Context(), from, 50)
		must(t, err)
		if !c.Current {
			t.Fatal("not current")
		}
		for _, r := range c.Records {
			newest[r.ID] = max(newest[r.ID], r.Version)
		}
		rows, from = rows+len(c.Records), c.Next
		if !c.More {
			return newest, rows, from
		}
	}
}

func now(t testing.TB, s apikey.Store) apikey.Cursor {
	t.Helper()
	c, err := s.Changed(t.Context(), "", 10)
	must(t, err)
	return c.Next
}

// A change that is committed long after others that began later is shown by the
// next walk, and holds up none of them meanwhile.
func TestALateCommitIsNotSkipped(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			s, db := e.migrated(t)
			late, busy := create(t, s), create(t, s)
			_, _, at := walk(t, s, now(t, s))
			tx, err := db.BeginTx(t.Context(), nil)
			must(t, err)
			defer tx.Rollback()
			must(t, s.In(tx).Apply(t.Context(), change(next(late))))
			var written []apikey.KeyID
			for n := range 120 {
				written = append(written, create(t, s).ID)
				busy = next(busy)
				must(t, s.Apply(t.Context(), change(busy)))
				if n%20 != 19 {
					continue
				}
				var shown map[apikey.KeyID]uint64
				shown, _, at = walk(t, s, at)
				if shown[busy.ID] != busy.Version || shown[late.ID] > 1 {
					t.Errorf("after %d changes: %d of %d, and of what is not committed %d", n, shown[busy.ID], busy.Version, shown[late.ID])
				}
				for _, id := range written {
					if shown[id] == 0 {
						t.Errorf("after %d changes: %s is held up", n, id)
					}
				}
				written = nil
			}
			must(t, tx.Commit())
			shown, _, at := walk(t, s, at)
			if shown[late.ID] != 2 {
				t.Error("the late commit was skipped")
			}
			if e.dialect == sqlstore.Postgres { // nothing is open any more
				if _, rows, _ := walk(t, s, at); rows != 0 {
					t.Errorf("%d records are shown again and again", rows)
				}
			}
		})
	}
}

// MariaDB's feed goes by the server's time. What was written up to two minutes
// before it became visible is shown; a session with a clock of its own writes
// into the past.
func TestMariaDBLooksBack(t *testing.T) {
	e := named("mariadb/interpolated")[0]
	dsn := e.dsn(t)
	d, _ := e.fresh(t)
	s := open(t, e.pool(t, dsn), d)
	must(t, s.Migrate(t.Context()))
	for _, c := range []struct {
		ago   time.Duration
		shown bool
	}{{time.Second, true}, {100 * time.Second, true}, {115 * time.Second, true}, {3 * time.Minute, false}} {
		newer := create(t, s) // the feed is already beyond what comes
		_, _, at := walk(t, s, now(t, s))
		past := open(t, e.pool(t, fmt.Sprintf("%s&timestamp=%d", dsn, time.Now().Add(-c.ago).Unix())), d)
		late := create(t, past)
		shown, _, _ := walk(t, s, at)
		if (shown[late.ID] == 1) != c.shown || shown[newer.ID] != 1 {
			t.Errorf("written %v ago: shown %v, want %v", c.ago, shown[late.ID] == 1, c.shown)
		}
	}
}

// A server whose clock was set back may write below what was shown: everything
// is read again.
func TestMariaDBClockSetBack(t *testing.T) {
	e := named("mariadb/interpolated")[0]
	dsn := e.dsn(t)
	d, _ := e.fresh(t)
	s := open(t, e.pool(t, dsn), d)
	must(t, s.Migrate(t.Context()))
	create(t, s)
	_, _, at := walk(t, s, now(t, s))
	back := func(by time.Duration) *sqlstore.Store {
		return open(t, e.pool(t, fmt.Sprintf("%s&timestamp=%d", dsn, time.Now().Add(-by).Unix())), d)
	}
	_, _, _ = walk(t, back(time.Minute), at)
	_, err := back(3*time.Minute).Changed(t.Context(), at, 10)
	wants(t, err, apikey.ErrCursorLost, "")
}

// decides are the methods whose answers decide something.
var decides = map[string]func(t *testing.T, s apikey.Store, r apikey.StoreRecord) error{
	"Get": func(t *testing.T, s apikey.Store, r apikey.StoreRecord) error {
		_, err := s.Get(t.Context(), r.ID)
		return err
	},
	"Get, absent": func(t *testing.T, s apikey.Store, _ apikey.StoreRecord) error {
		_, err := s.Get(t.Context(), storetest.NewKeyID())
		return err
	},
	"Lookup": func(t *testing.T, s apikey.Store, r apikey.StoreRecord) error {
		_, err := s.Lookup(t.Context(), r.Credentials[0].ID)
		return err
	},
	"Lookup, absent": func(t *testing.T, s apikey.Store, _ apikey.StoreRecord) error {
		_, err := s.Lookup(t.Context(), storetest.NewCredentialID())
		return err
	},
	"List": func(t *testing.T, s apikey.Store, _ apikey.StoreRecord) error {
		_, err := s.List(t.Context(), apikey.StoreFilter{})
		return err
	},
	"List, empty": func(t *testing.T, s apikey.Store, _ apikey.StoreRecord) error {
		_, err := s.List(t.Context(), apikey.StoreFilter{Account: "nobody"})
		return err
	},
	"Items": func(t *testing.T, s apikey.Store, _ apikey.StoreRecord) error {
		_, err := s.Items(t.Context(), apikey.StoreItemFilter{Kind: "test"})
		return err
	},
	"Items, absent": func(t *testing.T, s apikey.Store, _ apikey.StoreRecord) error {
		_, err := s.Items(t.Context(), apikey.StoreItemFilter{Kind: "test", ID: "x"})
		return err
	},
}

// replicaDecidesNothing: a node that may lag answers that it cannot know, also
// about what it does not have; and its page of the feed says that it lags.
func replicaDecidesNothing(t *testing.T, replica apikey.Store, r apikey.StoreRecord, at apikey.Cursor) {
	t.Helper()
	for name, method := range decides {
		if err := method(t, replica, r); !errors.Is(err, apikey.ErrUnavailable) || !strings.Contains(err.Error(), "replica") {
			t.Errorf("%s of a replica: %v", name, err)
		}
	}
	for _, from := range []apikey.Cursor{at, ""} {
		c, err := replica.Changed(t.Context(), from, 10)
		must(t, err)
		if c.Current || len(c.Records) != 0 {
			t.Errorf("Changed of a replica: %+v", c)
		}
	}
}

func TestAStandbyDecidesNothing(t *testing.T) {
	e := named("postgres/pgx")[0]
	primary := startPostgres(t)
	standby := startStandby(t, primary, "s2")
	s := open(t, e.pool(t, primary.postgresDSN("")), sqlstore.Postgres)
	must(t, s.Migrate(t.Context()))
	r := create(t, s)
	_, _, at := walk(t, s, now(t, s))
	standby.follows(t, primary)

	replica := open(t, e.pool(t, standby.postgresDSN("")), sqlstore.Postgres)
	replicaDecidesNothing(t, replica, r, at)
	must(t, replica.Migrate(t.Context())) // nothing to do, nothing to write
	err := replica.Apply(t.Context(), change(next(r)))
	wants(t, err, apikey.ErrUnavailable, "read-only transaction")
	if _, err := replica.Events(t.Context(), apikey.StoreEventFilter{}); err != nil {
		t.Errorf("the log may be read anywhere: %v", err)
	}

	db := e.pool(t, standby.postgresDSN(""))
	tx, err := db.BeginTx(t.Context(), nil)
	must(t, err)
	defer tx.Rollback()
	_, err = replica.In(tx).Get(t.Context(), r.ID)
	wants(t, err, apikey.ErrUnavailable, "read-only transaction")

	primary.stop(9)
	standby.promote(t)
	for name, method := range decides {
		if err := method(t, replica, r); err != nil && !errors.Is(err, apikey.ErrNotFound) {
			t.Errorf("%s after the promotion: %v", name, err)
		}
	}
	must(t, replica.Apply(t.Context(), change(next(r))))
	if shown, _, _ := walk(t, replica, at); shown[r.ID] != 2 {
		t.Error("the cursor does not go on at the new primary")
	}
}

func TestAReadOnlyMariaDBDecidesNothing(t *testing.T) {
	e := named("mariadb/interpolated")[0]
	s, db := e.migrated(t)
	r := create(t, s)
	_, _, at := walk(t, s, now(t, s))
	_, err := db.Exec("SET GLOBAL read_only = 1")
	must(t, err)
	defer db.Exec("SET GLOBAL read_only = 0")
	replicaDecidesNothing(t, s, r, at)
	d, _ := e.fresh(t) // whoever may ignore read_only makes no tables there either
	wants(t, open(t, db, d).Migrate(t.Context()), apikey.ErrUnavailable, "a replica answered")
}

// A primary dies, and the standby that takes over had not got its newest
// transactions. A cursor goes on, though the numbers of transactions begin again
// below those that the lost ones had; one that has shown a lost change says so.
func TestTransactionsThatWereLost(t *testing.T) {
	e := named("postgres/pgx")[0]
	primary := startPostgres(t)
	standby := startStandby(t, primary, "s2")
	db := e.pool(t, primary.postgresDSN(""))
	s := open(t, db, sqlstore.Postgres)
	must(t, s.Migrate(t.Context()))
	r := create(t, s)
	_, _, at := walk(t, s, now(t, s))
	standby.follows(t, primary)
	standby.stop(3) // SIGQUIT: no farewell

	burn(t, db, 1000) // whatever else the program does
	_, _, kept := walk(t, s, at)
	create(t, s)
	_, _, lost := walk(t, s, kept)
	primary.stop(9)

	standby.again(t)
	standby.promote(t)
	db = e.pool(t, standby.postgresDSN(""))
	s = open(t, db, sqlstore.Postgres)
	_, err := s.Changed(t.Context(), lost, 10)
	wants(t, err, apikey.ErrCursorLost, "")
	must(t, s.Apply(t.Context(), change(next(r))))
	burn(t, db, 2500)
	if shown, _, _ := walk(t, s, kept); shown[r.ID] != 2 {
		t.Error("a change of the new primary was skipped")
	}
	_, err = s.Changed(t.Context(), lost, 10)
	wants(t, err, apikey.ErrCursorLost, "")
}

// burn uses up numbers of transactions.
func burn(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	for range n {
		_, err := db.Exec("SELECT pg_current_xact_id()")
		must(t, err)
	}
}

// A dump that was restored into another cluster has rows with numbers of
// transactions that have not begun there. They are no changes, hold nothing up,
// and a cursor from the old cluster is lost.
func TestRestoredDump(t *testing.T) {
	e := named("postgres/pgx")[0]
	db := e.pool(t, e.dsn(t))
	d, prefix := e.fresh(t)
	s := open(t, db, d)
	must(t, s.Migrate(t.Context()))
	r := create(t, s)
	_, _, at := walk(t, s, now(t, s))
	_, err := db.Exec("UPDATE " + prefix + "keys SET feed = (feed::text::bigint + 1000000000)::text::xid8")
	must(t, err)
	_, err = db.Exec("UPDATE " + prefix + "events SET feed = (feed::text::bigint + 1000000000)::text::xid8")
	must(t, err)
	_, err = s.Changed(t.Context(), at, 10)
	wants(t, err, apikey.ErrCursorLost, "")
	at = now(t, s)
	if _, rows, _ := walk(t, s, at); rows != 0 {
		t.Errorf("%d records of the other cluster are shown", rows)
	}
	must(t, s.Apply(t.Context(), change(next(r))))
	if shown, rows, _ := walk(t, s, at); shown[r.ID] != 2 || rows != 1 {
		t.Errorf("shown %v", shown)
	}
}

// Two that purge at once leave no credential without its key.
func TestPurgersTogether(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			d, prefix := e.fresh(t)
			s := open(t, e.pool(t, dsn), d)
			must(t, s.Migrate(t.Context()))
			var all []apikey.StoreRecord
			for range 300 {
				r := newRecord("m1")
				r.RevokedAt = epoch
				must(t, s.Apply(t.Context(), change(r)))
				all = append(all, r)
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 100 {
						if n, err := s.Purge(t.Context(), epoch.Add(time.Second), 7); err != nil && sqlState(err) != "40P01" && !isMySQL(err, 1213) {
							t.Error(err)
						} else if err == nil && n == 0 {
							return
						}
					}
				})
			}
			wg.Wait()
			for n := 1; n > 0; {
				var err error
				n, err = s.Purge(t.Context(), epoch.Add(time.Second), 7)
				must(t, err)
			}
			var keys, credentials int
			must(t, e.pool(t, dsn).QueryRow("SELECT (SELECT COUNT(*) FROM "+prefix+"keys), (SELECT COUNT(*) FROM "+prefix+"credentials)").Scan(&keys, &credentials))
			if keys+credentials != 0 {
				t.Errorf("%d keys and %d credentials are left", keys, credentials)
			}
			if _, err := s.Lookup(t.Context(), all[0].Credentials[0].ID); !errors.Is(err, apikey.ErrNotFound) {
				t.Errorf("a purged credential: %v", err)
			}
		})
	}
}
