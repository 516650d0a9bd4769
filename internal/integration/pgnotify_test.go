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

// pushed has tables and a Manager that notifies, on a channel of the tables' name,
// and eight processes that listen on it, each by a connection of its own.
func pushed(t *testing.T, s *server, poll time.Duration) (m *apikey.Manager, channel string, node func(int) watch) {
	t.Helper()
	e := named("postgres/pgx")[0]
	d, prefix := e.fresh(t)
	p := site{e.name, s.postgresDSN(""), prefix}
	db := e.pool(t, p.dsn)
	store := open(t, db, d)
	must(t, store.Migrate(t.Context()))
	sends, err := pgnotify.New(pgnotify.Config{DB: db, Channel: prefix})
	must(t, err)
	t.Cleanup(sends.Close)
	m = newManager(t, store, func(c *managing) { c.Notifier = sends })
	return m, prefix, func(int) watch { return outside(p, poll, prefix) }
}

// A key is revoked by one process while eight others verify it, and are told. The
// poll alone would take until the end of the test, so a message that was missed
// is a key that was never refused. What other programs take of the machine only
// adds to the lag: the first of at most three runs within the bound counts, and
// each is printed.
func TestRevocationLagByNotify(t *testing.T) {
	for run := 1; ; run++ {
		m, _, node := pushed(t, onePostgres.get(t), time.Hour)
		l, never, wrong := revokeAndWatch(t, m, node, 48, 40*time.Millisecond)
		t.Logf("revocation lag on 8 processes by LISTEN/NOTIFY, run %d: %v; never refused %d, refused for another reason %d", run, l, never, wrong)
		if len(l) != 8*48 || never+wrong != 0 || run == 3 && l.at(99) > 50*time.Millisecond {
			t.Fatal("too late, or never")
		}
		if l.at(99) <= 50*time.Millisecond {
			return
		}
	}
}

// The connections of eight processes that listen die, again and again, and polling
// has its bound. They come back by themselves, and the pushes with them.
func TestNotifyIsCut(t *testing.T) {
	s := startPostgres(t)
	m, channel, node := pushed(t, s, time.Second)
	db := named("postgres/pgx")[0].pool(t, s.postgresDSN(""))
	listeners := func() (n int) {
		t.Helper()
		must(t, db.QueryRow("SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = $1", channel).Scan(&n))
		return n
	}
	w := watchKeys(t, m, 40, node)
	for listeners() != 8 {
		time.Sleep(10 * time.Millisecond)
	}
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
				if db.QueryRow("SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1", channel).Scan(&n) == nil {
					cut += n
				}
			}
		}
	}()
	w.revoke(t, 0, 20, 50*time.Millisecond)
	time.Sleep(2 * time.Second)
	close(stop)
	cut := <-stopped
	begun := time.Now()
	for listeners() != 8 && time.Since(begun) < 10*time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	back := time.Since(begun)
	time.Sleep(1100 * time.Millisecond) // the Verifier's pause after an error
	w.revoke(t, 20, 40, 50*time.Millisecond)
	w.end()

	l, never := w.lags(0, 20)
	t.Logf("8 processes, listening connections cut %d times: lag %v; never refused %d, for another reason %d", cut, l, never, w.wrong)
	if cut < 20 || never+w.wrong != 0 || l.at(100) > 1500*time.Millisecond {
		t.Fail()
	}
	l, never = w.lags(20, 40)
	t.Logf("after they came back, in %v: lag %v; never refused %d", back.Round(time.Millisecond), l, never)
	if never != 0 || l.at(90) > 50*time.Millisecond { // of polling it would be 900 ms
		t.Fail()
	}
}

// While the connection is away, Wait says that it cannot know.
func TestWaitWithoutAServer(t *testing.T) {
	s := startPostgres(t)
	n, err := pgnotify.New(pgnotify.Config{Listen: s.postgresDSN("")})
	must(t, err)
	defer n.Close()
	deadline, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	must(t, n.Wait(deadline)) // it listens now, and may have missed something
	s.stop(3)
	for err := error(nil); err == nil; {
		if err = n.Wait(deadline); errors.Is(err, context.DeadlineExceeded) {
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
