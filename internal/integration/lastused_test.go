package integration

import (
	"context"
	"database/sql"
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

func (s askedRows) Upkeep(ctx context.Context, batch []apikey.Upkeep) error {
	for _, u := range batch {
		if !u.LastUsed.IsZero() {
			s.asked.Add(1)
		}
	}
	return s.Store.Upkeep(ctx, batch)
}

// useAll verifies every key of an account all the time, for so long, and then says
// how many rows it asked for.
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
	v, err := apikey.NewVerifier(background, vc)
	if err != nil {
		return err
	}
	say("ready")
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		for _, token := range rest[1:] {
			if _, err := v.Verify(background, token, apikey.Request{}); err != nil {
				return err
			}
		}
	}
	say("asked", asked.Load())
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
	must(t, db.QueryRow(`SHOW GLOBAL STATUS LIKE 'Innodb_rows_updated'`).Scan(&name, &n))
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
			p, store := newSite(t, e)
			m := newManager(t, store)
			args := []string{long.String()}
			for i := range keys {
				k, err := m.Issue(adminOf(fmt.Sprintf("acc_%d", i/40)), apikey.IssueRequest{Mode: apikey.Live})
				must(t, err)
				args = append(args, k.Token.Reveal())
			}
			db := e.pool(t, p.dsn)
			time.Sleep(2 * time.Second)
			before := rowsWritten(t, db, e, p.prefix)
			begun := time.Now()
			var all []*child
			for range processes {
				all = append(all, startChild(t, "use", p.args(args...)...))
			}
			asked := 0
			for _, c := range all {
				c.expect("ready")
			}
			for _, c := range all {
				asked += sure(strconv.Atoi(c.expect("asked")[0]))
			}
			for _, c := range all {
				must(t, c.cmd.Wait()) // which writes the rest
			}
			took := time.Since(begun)
			time.Sleep(2 * time.Second)
			written := rowsWritten(t, db, e, p.prefix) - before
			t.Logf("%d processes, %d keys in use all the time, %v: %d rows asked for, %d written (one each for a token never used is among them)",
				processes, keys, took.Round(time.Second), asked, written)
			// Those of the first use, and of the windows that ended since.
			if most := keys + int(1.1*keys*took.Minutes()); written > most || written < keys {
				t.Errorf("%d rows were written, want at most %d", written, most)
			}
			if never := len(sure(store.List(background, apikey.Filter{NeverUsed: true, Limit: 1000})).Records); never != 0 {
				t.Errorf("%d keys were never used", never)
			}
		})
	}
}
