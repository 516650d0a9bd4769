package integration

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// history adds events number n to m to the log. Every tenth is of one large account, the
// others are of 999 small ones. Twenty events of the large account are by an actor who did
// nothing else, and twenty have an action that is rare: one in each "every".
var history = map[sqlstore.Dialect][]string{
	sqlstore.SQLite: {
		`WITH RECURSIVE c(n) AS (VALUES (%[1]d) UNION ALL SELECT n + 1 FROM c WHERE n < %[2]d)
INSERT INTO t_events (id, time, account, mode, key_id, credential, seq, actor, action, body, hash, feed)
SELECT randomblob(16), 1704067200000000 + n * 1000000, CASE WHEN n %% 10 = 0 THEN 'big' ELSE 'acc_' || (n %% 999) END, 1, randomblob(16), NULL, 1,
	CASE WHEN n %% %[3]d = 0 THEN 'usr_rare' ELSE 'usr_' || (n / 10 %% 7) END,
	CASE WHEN n %% %[3]d = 10 THEN 'key.reveal' WHEN n / 70 %% 5 = 0 THEN 'key.issue' WHEN n / 70 %% 5 = 1 THEN 'key.rotate' WHEN n / 70 %% 5 = 2 THEN 'key.retire' WHEN n / 70 %% 5 = 3 THEN 'key.revoke' ELSE 'key.update' END,
	randomblob(416), randomblob(32), 0 FROM c`,
	},
	sqlstore.Postgres: {
		`INSERT INTO t_events (id, time, account, mode, key_id, credential, seq, actor, action, body, hash, feed)
SELECT decode(md5('e' || n), 'hex'), timestamptz '2024-01-01 00:00:00+00' + n * interval '1 second', CASE WHEN n %% 10 = 0 THEN 'big' ELSE 'acc_' || n %% 999 END, 1, decode(md5('k' || n), 'hex'), NULL, 1,
	CASE WHEN n %% %[3]d = 0 THEN 'usr_rare' ELSE 'usr_' || n / 10 %% 7 END,
	CASE WHEN n %% %[3]d = 10 THEN 'key.reveal' ELSE (ARRAY['key.issue', 'key.rotate', 'key.retire', 'key.revoke', 'key.update'])[n / 70 %% 5 + 1] END,
	decode(repeat(md5('b' || n), 26), 'hex'), decode(repeat(md5('h' || n), 2), 'hex'), NULL FROM generate_series(%[1]d, %[2]d) n`,
		`ANALYZE t_events`,
	},
	sqlstore.MySQL: {
		`INSERT INTO t_events (id, time, account, mode, key_id, credential, seq, actor, action, body, hash, feed)
SELECT UNHEX(MD5(CONCAT('e', seq))), TIMESTAMP'2024-01-01 00:00:00' + INTERVAL seq SECOND, CASE WHEN seq %% 10 = 0 THEN 'big' ELSE CONCAT('acc_', seq %% 999) END, 1, UNHEX(MD5(CONCAT('k', seq))), NULL, 1,
	CASE WHEN seq %% %[3]d = 0 THEN 'usr_rare' ELSE CONCAT('usr_', seq DIV 10 %% 7) END,
	CASE WHEN seq %% %[3]d = 10 THEN 'key.reveal' ELSE ELT(seq DIV 70 %% 5 + 1, 'key.issue', 'key.rotate', 'key.retire', 'key.revoke', 'key.update') END,
	UNHEX(REPEAT(MD5(CONCAT('b', seq)), 26)), UNHEX(REPEAT(MD5(CONCAT('h', seq)), 2)), NULL FROM seq_%[1]d_to_%[2]d`,
		`ANALYZE TABLE t_events`,
	},
}

// searched are the filters of a log of so many events, for an account.
func searched(account string, size int) []search {
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	since, before := start.Add(time.Duration(size)*time.Second*7/10), start.Add(time.Duration(size)*time.Second*8/10)
	three := []apikey.Action{"key.rotate", "key.revoke", "key.reveal"}
	all := []search{
		{"actor", "events_actor", apikey.StoreEventFilter{Actor: "usr_3"}},
		{"one action", "events_action", apikey.StoreEventFilter{Actions: three[:1]}},
		{"three actions", "events_action", apikey.StoreEventFilter{Actions: three}},
		{"since and before", "events_account", apikey.StoreEventFilter{Since: since, Before: before}},
		{"actor, since", "events_actor", apikey.StoreEventFilter{Actor: "usr_3", Since: since}},
		{"three actions, since and before", "events_action", apikey.StoreEventFilter{Actions: three, Since: since, Before: before}},
	}
	if account == "big" {
		all = append(all,
			search{"a rare actor", "events_actor", apikey.StoreEventFilter{Actor: "usr_rare"}},
			search{"a rare action", "events_action", apikey.StoreEventFilter{Actions: three[2:]}},
			search{"two rare actions", "events_action", apikey.StoreEventFilter{Actions: []apikey.Action{"key.reveal", "key.suspend"}}},
			search{"an actor and a rare action", "events_act", apikey.StoreEventFilter{Actor: "usr_3", Actions: three[2:]}},
			search{"a rare actor and an action", "events_act", apikey.StoreEventFilter{Actor: "usr_rare", Actions: three[:1]}},
		)
	}
	for i := range all {
		all[i].filter.Account = account
	}
	return all
}

// A page of the log is found by an index, whatever it is searched by, in a small account
// as in one with a tenth of all events. With -full there are a million events; then the
// test also tells how long Migrate builds the indexes on them, and what the indexes add to
// a change of a key.
func TestLogAtScale(t *testing.T) {
	size, rounds := 20_000, 3
	if *full {
		size, rounds = 1_000_000, 100
	}
	for _, e := range named("sqlite/modernc", "postgres/pgx", "mariadb/interpolated") {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.roomy(t)
			d, prefix := e.fresh(t)
			plain := e.pool(t, dsn)
			db, calls := e.proxied(t, dsn)
			s, told := open(t, plain, d), open(t, db, d)
			must(t, s.Migrate(t.Context()))
			e.remember(t, plain, prefix, size)
			for _, account := range []string{"acc_7", "big"} {
				for _, c := range searched(account, size) {
					calls.record(nil)
					_, err := told.Events(t.Context(), c.filter)
					must(t, err)
					if used := e.indexes(t, plain, calls.seen()[0]); !slices.ContainsFunc(used, func(name string) bool { return strings.HasPrefix(name, prefix+c.index) }) {
						t.Errorf("%s of %s: by %v, want %s", c.name, account, used, c.index)
					}
					took := readPages(t, s, c.filter, rounds)
					t.Logf("%7d events, %5s, %-32s p50 %7v, p99 %7v, %d pages", size, account, c.name, took[len(took)/2].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond), len(took))
				}
			}
			if *full {
				e.priceOfIndexes(t, plain, s, prefix)
			}
		})
	}
}

// roomy is a database that holds everything in memory.
func (e engine) roomy(t *testing.T) string {
	t.Helper()
	switch e.dialect {
	case sqlstore.Postgres:
		return startPostgres(t, "fsync=off", "shared_buffers=1GB", "max_wal_size=8GB", "autovacuum=off").postgresDSN("")
	case sqlstore.MySQL:
		return startMariaDB(t, "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=2G", "--innodb-log-file-size=1G").mysqlDSN("&interpolateParams=true")
	}
	return e.dsn(t)
}

// remember fills the log.
func (e engine) remember(t *testing.T, db *sql.DB, prefix string, size int) {
	t.Helper()
	for from := 1; from <= size; from += 100_000 {
		for _, statement := range history[e.dialect] {
			statement = strings.ReplaceAll(statement, "t_events", prefix+"events")
			if strings.Contains(statement, "INSERT") {
				statement = fmt.Sprintf(statement, from, min(size, from+99_999), size/20)
			}
			_, err := db.Exec(statement)
			must(t, err)
		}
	}
}

// readPages reads the first three pages of a search so often, and of a small account's
// also those of its neighbours. It returns how long each page took, sorted.
func readPages(t *testing.T, s *sqlstore.Store, f apikey.StoreEventFilter, rounds int) (took []time.Duration) {
	t.Helper()
	for n := range rounds {
		if f.Account != "big" {
			f.Account = fmt.Sprintf("acc_%d", 7+n*13%990)
		}
		f.After = ""
		for range 3 {
			begun := time.Now()
			page, err := s.Events(t.Context(), f)
			took = append(took, time.Since(begun))
			must(t, err)
			if f.After = page.Next; f.After == "" {
				break
			}
		}
	}
	slices.Sort(took)
	return took
}

// priceOfIndexes changes keys without the two indexes and with them, in turns, and builds
// them as Migrate does.
func (e engine) priceOfIndexes(t *testing.T, db *sql.DB, s *sqlstore.Store, prefix string) {
	t.Helper()
	m := newManager(t, s)
	var without, with, built []time.Duration
	for range 3 {
		for _, index := range []string{"events_actor", "events_action"} {
			drop := "DROP INDEX " + prefix + index
			if e.dialect == sqlstore.MySQL {
				drop += " ON " + prefix + "events"
			}
			_, err := db.Exec(drop)
			must(t, err)
		}
		_, err := db.Exec("DELETE FROM " + prefix + "migrations WHERE number = 2")
		must(t, err)
		without = append(without, changeKeys(t, m))
		begun := time.Now()
		must(t, s.Migrate(t.Context()))
		built = append(built, time.Since(begun))
		with = append(with, changeKeys(t, m))
	}
	least, more := slices.Min(without), slices.Min(with)
	t.Logf("Migrate builds the indexes in %v; an Issue and a Rotate together, p50: %v without the indexes, %v with them, %.2f times", slices.Min(built).Round(time.Millisecond), least, more, float64(more)/float64(least))
}

// changeKeys is how long an Issue and a Rotate take together, p50.
func changeKeys(t *testing.T, m *apikey.Manager) time.Duration {
	t.Helper()
	var took []time.Duration
	for n := range 200 {
		ctx := adminOf(fmt.Sprintf("acc_%d", n))
		begun := time.Now()
		k, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		_, err = m.Rotate(ctx, apikey.RotateRequest{Key: k.Key.ID})
		must(t, err)
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	return took[len(took)/2]
}
