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

// fillers add rows number n to m that nobody asks for, beside real keys. "t_" is
// the prefix.
var fillers = map[sqlstore.Dialect][]string{
	sqlstore.Postgres: {
		`INSERT INTO t_keys (id, account, name, mode, kind, version, head, needs, mac, abilities, networks, origins, metadata, disabled, revoke_reason, rotate_months, recovery, created_at, feed, event)
SELECT decode(md5('k' || n), 'hex'), 'f' || n %% 1000, 'filler', 1, 1, 1, decode(repeat('00', 32), 'hex'), 0, decode(repeat('01', 33), 'hex'), '["payment:refund"]', '[]', '[]', '{}', FALSE, '', 0, 0,
	now() - n * interval '1 second', pg_current_xact_id(), decode(md5('e' || n), 'hex') FROM generate_series(%d, %d) n`,
		`INSERT INTO t_credentials (id, key_id, position, ended, hint, public, pepper, hash, check_value, sealed_kek)
SELECT decode(md5('c' || n), 'hex'), decode(md5('k' || n), 'hex'), 0, FALSE, 'abcd', '', 1, repeat('h', 100), decode(repeat('01', 33), 'hex'), '' FROM generate_series(%d, %d) n`,
		`ANALYZE t_keys`, `ANALYZE t_credentials`,
	},
	sqlstore.MySQL: {
		`INSERT INTO t_keys (id, account, name, mode, kind, version, head, needs, mac, abilities, networks, origins, metadata, disabled, revoke_reason, rotate_months, recovery, created_at, feed, event)
SELECT UNHEX(MD5(CONCAT('k', seq))), CONCAT('f', seq %% 1000), 'filler', 1, 1, 1, REPEAT('0', 32), 0, REPEAT('1', 33), '["payment:refund"]', '[]', '[]', '{}', FALSE, '', 0, 0,
	UTC_TIMESTAMP(6) - INTERVAL seq SECOND, UTC_TIMESTAMP(6), UNHEX(MD5(CONCAT('e', seq))) FROM seq_%d_to_%d`,
		`INSERT INTO t_credentials (id, key_id, position, ended, hint, public, pepper, hash, check_value, sealed_kek)
SELECT UNHEX(MD5(CONCAT('c', seq))), UNHEX(MD5(CONCAT('k', seq))), 0, FALSE, 'abcd', '', 1, REPEAT('h', 100), REPEAT('1', 33), '' FROM seq_%d_to_%d`,
		`ANALYZE TABLE t_keys`, `ANALYZE TABLE t_credentials`,
	},
}

// What a cold verification with a pepper costs hardly depends on how many keys
// there are, as long as the database has them in memory; it is one round trip.
func TestColdVerifyAtScale(t *testing.T) {
	sizes := []int{1_000, 100_000, 1_000_000}
	if testing.Short() {
		sizes = []int{1_000, 20_000}
	}
	least, most := sizes[0], sizes[len(sizes)-1]
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			var dsn string
			if e.dialect == sqlstore.Postgres {
				dsn = startPostgres(t, "fsync=off", "shared_buffers=1GB", "max_wal_size=8GB", "autovacuum=off").postgresDSN("")
			} else {
				dsn = startMariaDB(t, "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=2G", "--innodb-log-file-size=1G").mysqlDSN("&interpolateParams=true")
			}
			db := e.pool(t, dsn)
			s := open(t, db, e.dialect.WithPrefix("t_"))
			must(t, s.Migrate(t.Context()))
			m := newManager(t, s)
			var tokens []string
			for i := range 200 {
				k, err := m.Issue(adminOf(fmt.Sprintf("acc_%d", i/20)), apikey.IssueRequest{Mode: apikey.Live})
				must(t, err)
				tokens = append(tokens, k.Token.Reveal())
			}
			p50 := map[int]time.Duration{}
			have := len(tokens)
			for _, size := range sizes {
				fill(t, db, e, have, size)
				have = size
				counted, p := e.proxied(t, dsn)
				v := newVerifier(t, open(t, counted, e.dialect.WithPrefix("t_")), func(c *apikey.VerifierConfig) { c.MaxEntries, c.ReadOnly = -1, true })
				coldVerify(t, v, tokens, 5) // warm the buffers, and the process
				p.record(nil)
				took := coldVerify(t, v, tokens, 10)
				p50[have] = took[len(took)/2]
				trips := float64(len(p.seen())) / float64(len(took))
				t.Logf("%7d keys: cold verification p50 %v, p99 %v, %.2f statements each", have, took[len(took)/2], took[len(took)*99/100], trips)
				if trips != 1 {
					t.Error("more than one round trip")
				}
			}
			if ratio := float64(p50[most]) / float64(p50[least]); ratio > 1.5 {
				t.Errorf("p50 at %d keys is %.2f times that at %d", most, ratio, least)
			}
		})
	}
}

func fill(t *testing.T, db *sql.DB, e engine, have, want int) {
	t.Helper()
	for from := have + 1; from <= want; from += 100_000 {
		for _, statement := range fillers[e.dialect] {
			if strings.HasPrefix(statement, "INSERT") {
				statement = fmt.Sprintf(statement, from, min(want, from+99_999))
			}
			_, err := db.Exec(statement)
			must(t, err)
		}
	}
}

func coldVerify(t *testing.T, v *apikey.Verifier, tokens []string, times int) (took []time.Duration) {
	t.Helper()
	for range times {
		for _, token := range tokens {
			begun := time.Now()
			_, err := v.Verify(t.Context(), token, apikey.Request{})
			must(t, err)
			took = append(took, time.Since(begun))
		}
	}
	slices.Sort(took)
	return took
}
