package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// fillers add rows number n to m that nobody asks for, beside real keys. "t_"
// stands for the prefix.
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
// there are, as long as the database has them in memory; it is one round trip. The
// sizes take turns, and each has its best turn: what else runs on the machine comes
// and goes, and would be taken for growth.
func TestColdVerifyAtScale(t *testing.T) {
	sizes := []int{1_000, 100_000}
	switch {
	case testing.Short():
		sizes[1] = 20_000
	case *full:
		sizes = append(sizes, 1_000_000)
	}
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.roomy(t)
			var all []*crowded
			for _, size := range sizes {
				all = append(all, crowd(t, e, dsn, size))
			}
			for range 15 {
				for _, p := range all {
					p.turn(t)
				}
			}
			for _, p := range all {
				t.Logf("%7d keys: cold verification p50 %v, p99 %v, %.2f statements each", p.size, p.p50, p.p99, p.trips)
				if p.trips != 1 {
					t.Error("more than one round trip")
				}
			}
			least, most := all[0], all[len(all)-1]
			if ratio := float64(most.p50) / float64(least.p50); ratio > 1.5 {
				t.Errorf("p50 at %d keys is %.2f times that at %d", most.size, ratio, least.size)
			}
		})
	}
}

// crowded is a store of so many keys, of which some are asked for.
type crowded struct {
	size     int
	calls    *proxy
	v        *apikey.Verifier
	tokens   []string
	p50, p99 time.Duration // of the best turn
	trips    float64       // statements a verification
}

func crowd(t *testing.T, e engine, dsn string, size int) *crowded {
	t.Helper()
	prefix := fmt.Sprintf("t%d_", size)
	d := e.dialect.WithPrefix(prefix)
	db, p := e.pool(t, dsn), &crowded{size: size}
	s := open(t, db, d)
	must(t, s.Migrate(t.Context()))
	m := newManager(t, s)
	for i := range 200 {
		k, err := m.Issue(adminOf(fmt.Sprintf("acc_%d", i/20)), apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		p.tokens = append(p.tokens, k.Token.Reveal())
	}
	for from := len(p.tokens) + 1; from <= size; from += 100_000 {
		for _, statement := range fillers[e.dialect] {
			statement = strings.NewReplacer("t_keys", prefix+"keys", "t_credentials", prefix+"credentials").Replace(statement)
			if strings.HasPrefix(statement, "INSERT") {
				statement = fmt.Sprintf(statement, from, min(size, from+99_999))
			}
			_, err := db.Exec(statement)
			must(t, err)
		}
	}
	counted, calls := e.proxied(t, dsn)
	p.calls = calls
	p.v = newVerifier(t, open(t, counted, d), func(c *verifying) { c.MaxEntries, c.ReadOnly = -1, true })
	coldVerify(t, p.v, p.tokens, 5) // warm the buffers, and the process
	return p
}

// turn verifies each token five times.
func (p *crowded) turn(t *testing.T) {
	t.Helper()
	p.calls.record(nil)
	took := coldVerify(t, p.v, p.tokens, 5)
	p.trips = max(p.trips, float64(len(p.calls.seen()))/float64(len(took)))
	if p50 := took[len(took)/2]; p.p50 == 0 || p50 < p.p50 {
		p.p50, p.p99 = p50, took[len(took)*99/100]
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
