package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// startReplicated starts a primary with two standbys. With sync a commit is
// acknowledged when one of them has it on its disk.
func startReplicated(t *testing.T, sync bool) (primary *server, standbys [2]*server) {
	t.Helper()
	primary = startPostgres(t)
	for i, name := range []string{"s2", "s3"} {
		standbys[i] = startStandby(t, primary, name)
	}
	if !sync {
		return primary, standbys
	}
	db, err := sql.Open("pgx", primary.postgresDSN(""))
	must(t, err)
	defer db.Close()
	_, err = db.Exec("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (s2, s3)'")
	must(t, err)
	_, err = db.Exec("SELECT pg_reload_conf()")
	must(t, err)
	for range 500 {
		var n int
		must(t, db.QueryRow("SELECT COUNT(*) FROM pg_stat_replication WHERE sync_state = 'quorum'").Scan(&n))
		if n == 2 {
			return primary, standbys
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the standbys do not become synchronous")
	return
}

// anyDSN names all hosts, and takes whichever is the primary.
func anyDSN(servers ...*server) string {
	var hosts []string
	for _, s := range servers {
		hosts = append(hosts, fmt.Sprintf("127.0.0.1:%d", s.port))
	}
	return "postgres://postgres@" + strings.Join(hosts, ",") + "/postgres?sslmode=disable&target_session_attrs=read-write&connect_timeout=2"
}

// newest is the standby that has received the most.
func newest(t *testing.T, standbys [2]*server) *server {
	t.Helper()
	var at [2]string
	for i, s := range standbys {
		db, err := sql.Open("pgx", s.postgresDSN(""))
		must(t, err)
		must(t, db.QueryRow("SELECT pg_last_wal_receive_lsn()::text").Scan(&at[i]))
		db.Close()
	}
	db, err := sql.Open("pgx", standbys[0].postgresDSN(""))
	must(t, err)
	defer db.Close()
	var first bool
	must(t, db.QueryRow("SELECT $1::pg_lsn >= $2::pg_lsn", at[0], at[1]).Scan(&first))
	if first {
		return standbys[0]
	}
	return standbys[1]
}

// The primary is killed under four writers, and a synchronous standby takes
// over: what was acknowledged is there, every chain is whole, and a token that
// was seen to die stays dead on every node.
func TestPrimaryKilledSynchronousStandby(t *testing.T) {
	e := named("postgres/pgx")[0]
	primary, standbys := startReplicated(t, true)
	dsn := anyDSN(primary, standbys[0], standbys[1])
	store := open(t, e.pool(t, dsn), sqlstore.Postgres)
	must(t, store.Migrate(t.Context()))
	all := &committed{}
	m := newManager(t, store, func(c *managing) { c.OnEvent = all.add })
	v := newVerifier(t, open(t, e.pool(t, dsn), sqlstore.Postgres), func(c *verifying) { c.Sync = 200 * time.Millisecond })

	var wg sync.WaitGroup
	var lock sync.Mutex
	var keys []workKey
	var revoked []string // acknowledged
	var failed, after atomic.Int64
	var promoted atomic.Bool
	stop := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			ctx := adminOf(fmt.Sprintf("acc_%d", w))
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				issued, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
				if err != nil {
					failed.Add(1)
					time.Sleep(20 * time.Millisecond)
					continue
				}
				if promoted.Load() {
					after.Add(1)
				}
				lock.Lock()
				keys = append(keys, workKey{issued.Key.ID, fmt.Sprintf("acc_%d", w)})
				lock.Unlock()
				_, _ = v.Verify(ctx, issued.Token.Reveal(), apikey.Request{}) // warm
				_, _ = m.Update(ctx, apikey.UpdateRequest{Key: issued.Key.ID, Name: apikey.Set(fmt.Sprint(n))})
				if err := m.Revoke(ctx, apikey.RevokeRequest{Key: issued.Key.ID}); err == nil {
					lock.Lock()
					revoked = append(revoked, issued.Token.Reveal())
					lock.Unlock()
				}
			}
		})
	}
	time.Sleep(1500 * time.Millisecond)
	primary.stop(syscall.SIGKILL)
	time.Sleep(200 * time.Millisecond)
	start := time.Now()
	heir := newest(t, standbys)
	heir.promote(t)
	promoted.Store(true)
	for after.Load() < 50 && time.Since(start) < 30*time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(start)
	close(stop)
	wg.Wait()

	fresh := newManager(t, open(t, e.pool(t, heir.postgresDSN("")), sqlstore.Postgres))
	changes, lost, broken := all.lost(t, fresh, keys)
	must(t, v.Sync(t.Context()))
	cold := newVerifier(t, open(t, e.pool(t, heir.postgresDSN("")), sqlstore.Postgres))
	accepted := 0
	for _, token := range revoked {
		for _, v := range []*apikey.Verifier{v, cold} {
			if _, err := v.Verify(t.Context(), token, apikey.Request{}); !errors.Is(err, apikey.ErrRevoked) {
				accepted++
				t.Logf("a revoked token: %v", err)
			}
		}
	}
	t.Logf("4 writers, primary killed, standby promoted: %d acknowledged changes of %d keys, lost %d; broken chains %d; revoked tokens accepted %d of %d; 50 keys issued on the new primary after %v (%d calls failed meanwhile)",
		changes, len(keys), lost, broken, accepted, 2*len(revoked), took.Round(time.Millisecond), failed.Load())
	if changes < 100 || lost+broken+accepted != 0 || after.Load() < 50 || len(revoked) == 0 {
		t.Fail()
	}
}

// An asynchronous standby takes over that had not got the newest changes. They
// are gone; but every verifier notices it, and none accepts again a key that it
// saw die.
func TestPrimaryKilledAsynchronousStandby(t *testing.T) {
	e := named("postgres/pgx")[0]
	primary := startPostgres(t)
	standby := startStandby(t, primary, "s2")
	dsn := anyDSN(primary, standby)
	store := open(t, e.pool(t, dsn), sqlstore.Postgres)
	must(t, store.Migrate(t.Context()))
	m := newManager(t, store)
	ctx := adminOf("acc_1")
	doomed, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	must(t, err)
	other, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	must(t, err)
	standby.follows(t, primary)
	standby.stop(syscall.SIGQUIT)

	const nodes = 3
	var noticed [nodes]noticer
	var verifiers [nodes]*apikey.Verifier
	for i := range nodes {
		noticed[i].text = "history was rewritten"
		verifiers[i] = newVerifier(t, open(t, e.pool(t, dsn), sqlstore.Postgres), func(c *verifying) { c.Logger = slog.New(&noticed[i]) })
		_, err := verifiers[i].Verify(ctx, doomed.Token.Reveal(), apikey.Request{})
		must(t, err)
	}
	must(t, m.Revoke(ctx, apikey.RevokeRequest{Key: doomed.Key.ID})) // acknowledged, and on this one server alone
	for _, v := range verifiers {
		must(t, v.Sync(ctx))
		_, err := v.Verify(ctx, doomed.Token.Reveal(), apikey.Request{})
		wants(t, err, apikey.ErrRevoked, "")
	}
	primary.stop(syscall.SIGKILL)
	standby.again(t)
	standby.promote(t)

	info, err := m.Get(ctx, doomed.Key.ID)
	must(t, err)
	if info.State != apikey.Active {
		t.Fatal("nothing was lost, so this shows nothing")
	}
	count, accepted := 0, 0
	for i, v := range verifiers {
		must(t, v.Sync(ctx))
		if noticed[i].seen.Load() {
			count++
		}
		if _, err := v.Verify(ctx, doomed.Token.Reveal(), apikey.Request{}); err == nil {
			accepted++
		}
		_, err := v.Verify(ctx, other.Token.Reveal(), apikey.Request{})
		must(t, err)
	}
	t.Logf("a revocation was lost by an asynchronous failover: noticed by %d of %d verifiers, accepted again by %d", count, nodes, accepted)
	if count != nodes || accepted != 0 {
		t.Fail()
	}
}

// noticer is a log that looks for a text.
type noticer struct {
	text string
	seen atomic.Bool
}

func (n *noticer) Enabled(context.Context, slog.Level) bool { return true }
func (n *noticer) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, n.text) {
		n.seen.Store(true)
	}
	return nil
}
func (n *noticer) WithAttrs([]slog.Attr) slog.Handler { return n }
func (n *noticer) WithGroup(string) slog.Handler      { return n }

// The database restarts under 200 verifications a second: warm keys go on, cold
// ones are refused as ours to fail, nothing dead is accepted, and a second after
// it is up all is as before.
func TestDatabaseRestarts(t *testing.T) {
	for _, c := range []struct {
		engine
		start   func(t testing.TB) *server
		dsn     func(*server) string
		restart func(t testing.TB, s *server)
	}{
		{named("postgres/pgx")[0], func(t testing.TB) *server { return startPostgres(t) }, func(s *server) string { return s.postgresDSN("") },
			func(t testing.TB, s *server) { s.stop(syscall.SIGQUIT); time.Sleep(time.Second); s.again(t) }},
		{named("mariadb/interpolated")[0], func(t testing.TB) *server { return startMariaDB(t) }, func(s *server) string { return s.mysqlDSN("&interpolateParams=true") },
			func(t testing.TB, s *server) { s.stop(syscall.SIGKILL); time.Sleep(time.Second); s.startMariaDB(t) }},
	} {
		t.Run(c.name, func(t *testing.T) { restartUnderLoad(t, c.engine, c.start(t), c.dsn, c.restart) })
	}
}

func restartUnderLoad(t *testing.T, e engine, s *server, dsn func(*server) string, restart func(testing.TB, *server)) {
	store := open(t, e.pool(t, dsn(s)), e.dialect)
	must(t, store.Migrate(t.Context()))
	m := newManager(t, store)
	ctx := adminOf("acc_1")
	var alive, dead []string
	for i := range 20 {
		issued, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		if i%2 == 0 {
			must(t, m.Revoke(ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
			dead = append(dead, issued.Token.Reveal())
		} else {
			alive = append(alive, issued.Token.Reveal())
		}
	}
	pool := e.pool(t, dsn(s))
	warm := newVerifier(t, open(t, pool, e.dialect), func(c *verifying) { c.Sync = time.Second })
	cold := newVerifier(t, open(t, pool, e.dialect), func(c *verifying) { c.MaxEntries = -1 })
	for _, token := range alive {
		_, err := warm.Verify(ctx, token, apikey.Request{})
		must(t, err)
	}

	var asked, accepted, refused, unavailable, warmFailed, lateFailed atomic.Int64
	var upAt atomic.Int64
	var recovered atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			n := int(asked.Add(1))
			wg.Go(func() {
				bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				begun := time.Now().UnixNano()
				if n%4 == 0 {
					if _, err := cold.Verify(bounded, dead[n/4%len(dead)], apikey.Request{}); err == nil {
						accepted.Add(1)
					}
					return
				}
				if n%2 == 0 {
					if _, err := warm.Verify(bounded, alive[n%len(alive)], apikey.Request{}); err != nil {
						warmFailed.Add(1)
					}
					return
				}
				_, err := cold.Verify(bounded, alive[n%len(alive)], apikey.Request{})
				up := upAt.Load()
				switch {
				case err == nil && up != 0:
					recovered.CompareAndSwap(0, time.Now().UnixNano())
				case err == nil:
				case errors.Is(err, apikey.ErrInvalidToken):
					refused.Add(1) // a failure of ours taken for one of theirs
				default:
					unavailable.Add(1)
					if up != 0 && begun > up+int64(time.Second) {
						lateFailed.Add(1)
					}
				}
			})
		}
	})
	time.Sleep(500 * time.Millisecond)
	restart(t, s)
	up := time.Now()
	upAt.Store(up.UnixNano())
	time.Sleep(2500 * time.Millisecond)
	close(stop)
	wg.Wait()
	recovery := time.Unix(0, recovered.Load()).Sub(up)
	t.Logf("restart under 200 verifications a second (%d): wrongly accepted %d, valid called invalid %d, warm refused %d, unavailable meanwhile %d; recovery %v after it was up, failures later than a second %d",
		asked.Load(), accepted.Load(), refused.Load(), warmFailed.Load(), unavailable.Load(), recovery.Round(time.Millisecond), lateFailed.Load())
	if accepted.Load()+refused.Load()+warmFailed.Load()+lateFailed.Load() != 0 || recovered.Load() == 0 || recovery > time.Second || unavailable.Load() == 0 {
		t.Fail()
	}
}
