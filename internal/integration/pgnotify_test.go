package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/pgnotify"
)

var _ apikey.Notifier = (*pgnotify.Notifier)(nil)

// pushed has a Manager and eight Verifiers that listen, each by a connection of
// its own.
func pushed(t *testing.T, s *server, poll time.Duration) (m *apikey.Manager, verifiers [8]*apikey.Verifier, notifiers [8]*pgnotify.Notifier) {
	t.Helper()
	e := named("postgres/pgx")[0]
	d, prefix := e.fresh(t)
	db := e.pool(t, s.postgresDSN(""))
	store := open(t, db, d)
	must(t, store.Migrate(t.Context()))
	listen := func(c pgnotify.Config) *pgnotify.Notifier {
		c.Channel = prefix
		n, err := pgnotify.New(c)
		must(t, err)
		t.Cleanup(n.Close)
		return n
	}
	sends := listen(pgnotify.Config{DB: db})
	m = newManager(t, store, func(c *apikey.ManagerConfig) { c.Notifier = sends })
	for i := range verifiers {
		notifiers[i] = listen(pgnotify.Config{Listen: s.postgresDSN("&application_name=listener")})
		verifiers[i] = newVerifier(t, open(t, e.pool(t, s.postgresDSN("")), d), func(c *apikey.VerifierConfig) {
			c.Sync, c.Notifier = poll, notifiers[i]
		})
	}
	return m, verifiers, notifiers
}

// A key is revoked by one process while eight others verify it, and are told. The
// poll alone would take until the end of the test.
func TestRevocationLagByNotify(t *testing.T) {
	m, verifiers, _ := pushed(t, onePostgres.get(t), time.Hour)
	l, never, wrong := revokeAndWatch(t, m, func(i int) *apikey.Verifier { return verifiers[i] }, 48, 40*time.Millisecond)
	t.Logf("revocation lag on 8 nodes by LISTEN/NOTIFY: %v; never refused %d, refused for another reason %d", l, never, wrong)
	if len(l) != 8*48 || never+wrong != 0 || l.at(99) > 50*time.Millisecond {
		t.Fail()
	}
}

// The connections that listen die: Wait says so, and polling has its bound. They
// come back by themselves, and the pushes with them.
func TestNotifyIsCut(t *testing.T) {
	s := startPostgres(t)
	m, verifiers, notifiers := pushed(t, s, time.Second)
	of := func(i int) *apikey.Verifier { return verifiers[i] }
	db := named("postgres/pgx")[0].pool(t, s.postgresDSN(""))
	listeners := func() (n int) {
		t.Helper()
		must(t, db.QueryRow("SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'listener'").Scan(&n))
		return n
	}
	for listeners() != 8 {
		time.Sleep(10 * time.Millisecond)
	}
	// Cut again and again for as long as the first half takes.
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		cut := 0
		for {
			select {
			case <-stop:
				stopped <- cut
				return
			case <-time.After(10 * time.Millisecond):
				var n int
				if db.QueryRow("SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'listener'").Scan(&n) == nil {
					cut += n
				}
			}
		}
	}()
	l, never, wrong := revokeAndWatch(t, m, of, 20, 50*time.Millisecond)
	close(stop)
	cut := <-stopped
	t.Logf("listening connections cut %d times: lag %v; never refused %d", cut, l, never)
	if cut < 20 || never+wrong != 0 || l.at(100) > 1500*time.Millisecond {
		t.Fail()
	}
	begun := time.Now()
	for listeners() != 8 && time.Since(begun) < 10*time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(1100 * time.Millisecond) // the Verifier's pause after an error
	l, never, wrong = revokeAndWatch(t, m, of, 20, 50*time.Millisecond)
	t.Logf("after they came back, in %v: lag %v; never refused %d", time.Since(begun).Round(time.Millisecond), l, never)
	if never+wrong != 0 || l.at(99) > 50*time.Millisecond {
		t.Fail()
	}

	s.stop(3)
	deadline, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	share := notifiers[0].Share()
	for err := error(nil); err == nil; {
		if err = share.Wait(deadline); errors.Is(err, context.DeadlineExceeded) {
			t.Error("the server is away, and Wait does not say so")
		}
	}
}

// Shares of one connection are told of everything, each for itself; also of what
// was sent while it did not wait.
func TestNotifierShares(t *testing.T) {
	s := onePostgres.get(t)
	e := named("postgres/pgx")[0]
	db := e.pool(t, s.postgresDSN(""))
	n, err := pgnotify.New(pgnotify.Config{Listen: s.postgresDSN(""), DB: db, Channel: `odd "name'`})
	must(t, err)
	defer n.Close()
	other := n.Share()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, share := range []*pgnotify.Notifier{n, other} {
		must(t, share.Wait(ctx)) // it listens now, and may have missed something
	}
	for range 3 {
		must(t, n.Notify(ctx))
		for _, share := range []*pgnotify.Notifier{n, other} {
			must(t, share.Wait(ctx))
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait without a notification: %v", err)
	}
	n.Close()
	if err := other.Wait(t.Context()); err == nil {
		t.Error("Wait after Close")
	}
}
