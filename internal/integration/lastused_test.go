package integration

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// askedRows counts the last uses that a Verifier asks a store to write.
type askedRows struct {
	apikey.Store
	asked *atomic.Int64
}

func (s askedRows) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	for _, u := range batch {
		if !u.LastUsed.IsZero() {
			s.asked.Add(1)
		}
	}
	return s.Store.Upkeep(ctx, batch)
}

// useAll verifies all the tokens twice a second: first until each was written as used,
// then for so long, and says how many rows it asked for in that time.
func useAll(args []string) error {
	p, rest := siteOf(args)
	long, err := time.ParseDuration(rest[0])
	if err != nil {
		return err
	}
	store, db, err := p.open()
	if err != nil {
		return err
	}
	defer db.Close()
	var asked atomic.Int64
	_, vc := configs(askedRows{store, &asked}, time.Now)
	vc.Sync, vc.ReadOnly = time.Second, false
	v, err := vc.start(background)
	if err != nil {
		return err
	}
	for _, phase := range []struct {
		name string
		long time.Duration
	}{{"first", 12 * time.Second}, {"asked", long}, {"rest", 3 * time.Second}} {
		asked.Store(0)
		for end := time.Now().Add(phase.long); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
			for _, token := range rest[1:] {
				if _, err := v.Verify(background, token, apikey.Request{}); err != nil {
					return err
				}
			}
		}
		say(phase.name, asked.Load())
	}
	return v.Close(background)
}

// rowsWritten is the server's own count of rows that were updated: in PostgreSQL of
// the table of credentials, in MariaDB of all tables, so that nothing else may run.
func rowsWritten(t *testing.T, db *sql.DB, e engine, prefix string) (n int) {
	t.Helper()
	if e.dialect == sqlstore.Postgres {
		// A process of the server reports what it did within a second, when idle.
		must(t, db.QueryRow(`SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = $1`, prefix+"credentials").Scan(&n))
		return n
	}
	var name string
	must(t, db.QueryRow(`SHOW GLOBAL STATUS LIKE 'Handler_update'`).Scan(&name, &n))
	return n
}

// Ten processes, 1,000 keys that each of them is asked about twice a second, for a
// minute: what the server says it wrote, beside what it was asked for.
func TestFound27RowsWrittenByTenProcesses(t *testing.T) {
	const processes, keys, long = 10, 1_000, time.Minute
	if testing.Short() {
		t.Skip("it takes a minute an engine")
	}
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel() // the engines; no other test, whose rows would be counted
			p, store := newSite(t, e)
			m := newNode(t, store, time.Now).manager
			args := []string{long.String()}
			for i := range keys {
				k, err := m.Issue(adminOf(fmt.Sprintf("acc_%d", i/40)), apikey.IssueRequest{Mode: apikey.Live})
				must(t, err)
				args = append(args, k.Token.Reveal())
			}
			db := e.pool(t, p.dsn)
			var all []*child
			for range processes {
				all = append(all, startChild(t, "use", p.args(args...)...))
			}
			for _, c := range all {
				c.expect("first")
			}
			before, begun, asked := rowsWritten(t, db, e, p.prefix), time.Now(), 0
			for _, c := range all {
				asked += sure(strconv.Atoi(c.expect("asked")[0]))
			}
			written, took := rowsWritten(t, db, e, p.prefix)-before, time.Since(begun)
			t.Logf("%d processes, %d keys in use all the time, %v: %d rows asked for, %d written",
				processes, keys, took.Round(time.Second), asked, written)
			if most := 1.1 * keys * took.Minutes(); float64(written) > most || written < keys/2 {
				t.Errorf("%d rows were written, want at most %.0f", written, most)
			}
			if never := len(sure(store.List(background, apikey.StoreFilter{NeverUsed: true, Limit: 1000})).Records); never != 0 {
				t.Errorf("%d keys were never used", never)
			}
		})
	}
}

// usedOnce is a new key on a store, and what was written of its use.
func usedOnce(t *testing.T, s apikey.Store, stored time.Time, u apikey.StoreUpkeep) time.Time {
	t.Helper()
	r := newRecord("acct")
	r.Credentials = r.Credentials[:1]
	r.Credentials[0].LastUsed = stored
	must(t, s.Apply(t.Context(), change(r)))
	u.Credential = r.Credentials[0].ID
	must(t, s.Upkeep(t.Context(), []apikey.StoreUpkeep{u}))
	return sure(s.Get(t.Context(), r.ID)).Credentials[0].LastUsed
}

// Of two nodes that ask for one window, the first has written and the second writes nothing.
func TestFound27TheUpdateCompares(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		s, window := open(), epoch.Add(-time.Minute)
		for stored, want := range map[time.Time]time.Time{
			{}:                             epoch,
			window.Add(-time.Microsecond):  epoch,
			window:                         window,
			window.Add(30 * time.Second):   window.Add(30 * time.Second),
			epoch.Add(10 * time.Second):    epoch.Add(10 * time.Second),
			window.Add(-100 * time.Second): epoch,
		} {
			if got := usedOnce(t, s, stored, apikey.StoreUpkeep{LastUsed: epoch, UsedBefore: window}); !got.Equal(want) {
				t.Errorf("stored %v: got %v, want %v", stored, got, want)
			}
		}
	})
}

// The clock of a node is years ahead: nothing of it stays in the future.
func TestFound20TheStoreBoundsLastUsed(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		s, far := open(), time.Now().AddDate(5, 0, 0).UTC().Truncate(time.Microsecond)
		if got := usedOnce(t, s, time.Time{}, apikey.StoreUpkeep{LastUsed: far}); time.Since(got).Abs() > time.Minute {
			t.Errorf("it is now %v, and the key was last used at %v", time.Now(), got)
		}
		if got := usedOnce(t, s, far, apikey.StoreUpkeep{LastUsed: epoch, UsedBefore: epoch.Add(-time.Minute)}); !got.Equal(epoch) {
			t.Errorf("a time in the future stays although the key was used since: %v", got)
		}
	})
}

// A caller's time is beyond what a column holds: every engine answers what the words
// mean, keeps no other time, and takes no cursor for one of its own.
func TestFound15FarTimes(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		s := open()
		expires, never := newRecord("acct"), newRecord("acct")
		expires.ExpiresAt, expires.RotateDue, never.ExpiresAt, never.RotateDue = epoch, epoch, time.Time{}, time.Time{}
		last := newRecord("acct") // in the last microsecond that a DATETIME has
		last.ExpiresAt = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
		last.RotateDue = last.ExpiresAt
		must(t, s.Apply(t.Context(), change(expires), change(never), change(last)))
		for _, year := range []int{-300_000, -5_000, 0, 10_000, 200_000, 294_277, 300_000} {
			at := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
			for name, f := range map[string]apikey.StoreFilter{
				"ExpiringBefore": {ExpiringBefore: at}, "NotExpiredAt": {NotExpiredAt: at}, "DueBefore": {DueBefore: at}, "UnusedSince": {UnusedSince: at},
			} {
				want := 0
				for _, r := range []apikey.StoreRecord{expires, never, last} {
					if f.Match(&r) {
						want++
					}
				}
				f.Account = "acct"
				if page, err := s.List(t.Context(), f); err != nil || len(page.Records) != want {
					t.Errorf("%s in the year %d: %d keys, want %d (%v)", name, year, len(page.Records), want, err)
				}
			}
			far := newRecord("far")
			far.ExpiresAt = at
			switch err := s.Apply(t.Context(), change(far)); {
			case err == nil:
				if got := sure(s.Get(t.Context(), far.ID)); !got.ExpiresAt.Equal(at) {
					t.Errorf("the year %d came back as %v", year, got.ExpiresAt)
				}
			case !errors.Is(err, apikey.ErrInvalid):
				t.Errorf("the year %d: %v", year, err)
			}
		}
		// As cursors of this list are made, with a time that no row can have.
		for _, micros := range []uint64{1<<63 - 1, 1 << 63} {
			b := append(binary.BigEndian.AppendUint64([]byte{'k'}, micros), make([]byte, 16)...)
			_, err := s.List(t.Context(), apikey.StoreFilter{After: apikey.Cursor(base64.RawURLEncoding.EncodeToString(b))})
			if !errors.Is(err, apikey.ErrInvalid) {
				t.Errorf("a cursor that nobody made: %v", err)
			}
		}
	})
}
