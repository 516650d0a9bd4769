package integration

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/pgnotify"
)

// lags are how long after Revoke had returned a node still accepted the token.
type lags []time.Duration

func (l lags) at(percent int) time.Duration {
	slices.Sort(l)
	return l[min(len(l)*percent/100, len(l)-1)].Round(time.Millisecond)
}

func (l lags) String() string {
	return fmt.Sprintf("p50 %v, p99 %v, max %v of %d", l.at(50), l.at(99), l.at(100), len(l))
}

// watch begins to verify tokens all the time, each until it is refused because it
// was revoked, and returns when all are warm. over ends that, and says when each
// was first refused, and how many verifications failed for another reason.
type watch func(t *testing.T, tokens []string) (over func() (refused map[string]time.Time, wrong int))

// witness watches in whatever process it is.
type witness struct {
	v       *apikey.Verifier
	mu      sync.Mutex
	refused map[string]time.Time
	wrong   int // refused for another reason
	told    func(token string, at time.Time)
}

func (n *witness) run(tokens []string, stop <-chan struct{}) {
	for {
		for _, token := range tokens {
			n.mu.Lock()
			_, over := n.refused[token]
			n.mu.Unlock()
			if over {
				continue
			}
			_, err := n.v.Verify(background, token, apikey.Request{})
			n.mu.Lock()
			if errors.Is(err, apikey.ErrRevoked) {
				n.refused[token] = time.Now()
				if n.told != nil {
					n.told(token, n.refused[token])
				}
			} else if err != nil {
				n.wrong++
			}
			n.mu.Unlock()
		}
		select {
		case <-stop:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// inside watches in this process.
func inside(v *apikey.Verifier) watch {
	return func(t *testing.T, tokens []string) func() (map[string]time.Time, int) {
		for _, token := range tokens {
			_, err := v.Verify(background, token, apikey.Request{})
			must(t, err)
		}
		n, stop, done := &witness{v: v, refused: map[string]time.Time{}}, make(chan struct{}), make(chan struct{})
		go func() { n.run(tokens, stop); close(done) }()
		return func() (map[string]time.Time, int) {
			close(stop)
			<-done
			return n.refused, n.wrong
		}
	}
}

// outside watches in a process of its own, which asks every poll, and listens
// on a channel if it has a name.
func outside(p site, poll time.Duration, channel string) watch {
	return func(t *testing.T, tokens []string) func() (map[string]time.Time, int) {
		c := startChild(t, "watch", p.args(append([]string{poll.String(), channel}, tokens...)...)...)
		c.expect("warm")
		return func() (map[string]time.Time, int) {
			must(t, c.cmd.Process.Signal(syscall.SIGTERM))
			refused := map[string]time.Time{}
			words := c.line()
			for ; len(words) == 3 && words[0] == "refused"; words = c.line() {
				n := numbers(words[1:])
				refused[tokens[n[0]]] = time.Unix(0, int64(n[1]))
			}
			if len(words) != 2 || words[0] != "wrong" {
				t.Fatalf("the process says %v at its end", words)
			}
			return refused, numbers(words[1:])[0]
		}
	}
}

// watchUntilTold is that process.
func watchUntilTold(args []string) error {
	p, args := siteOf(args)
	poll, channel, tokens := sure(time.ParseDuration(args[0])), args[1], args[2:]
	store, _, err := p.open()
	if err != nil {
		return err
	}
	c := verifierFor(store, func(c *verifying) { c.Sync = poll })
	if channel != "" {
		c.Notifier = sure(pgnotify.New(pgnotify.Config{Listen: p.dsn + "&application_name=" + channel, Channel: channel}))
	}
	v, err := c.start(background)
	if err != nil {
		return err
	}
	index := map[string]int{}
	for i, token := range tokens {
		index[token] = i
		if _, err := v.Verify(background, token, apikey.Request{}); err != nil {
			return err
		}
	}
	n := &witness{v: v, refused: map[string]time.Time{}, told: func(token string, at time.Time) { say("refused", index[token], at.UnixNano()) }}
	told, stop, done := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(told, syscall.SIGTERM)
	go func() { n.run(tokens, stop); close(done) }()
	say("warm")
	<-told
	close(stop)
	<-done
	say("wrong", n.wrong)
	return nil
}

// watched are keys that eight nodes verify all the time.
type watched struct {
	m        *apikey.Manager
	keys     []apikey.Issued
	returned []time.Time // when the revocation of each did
	over     [8]func() (map[string]time.Time, int)
	refused  [8]map[string]time.Time
	wrong    int // refused for another reason
}

func watchKeys(t *testing.T, m *apikey.Manager, keys int, node func(i int) watch) *watched {
	t.Helper()
	w := &watched{m: m, returned: make([]time.Time, keys)}
	var tokens []string
	for range keys {
		k, err := m.Issue(adminOf("acc_lag"), apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		w.keys, tokens = append(w.keys, k), append(tokens, k.Token.Reveal())
	}
	for i := range w.over {
		w.over[i] = node(i)(t, tokens)
	}
	return w
}

// revoke revokes some of the keys, one after the other.
func (w *watched) revoke(t *testing.T, from, to int, pause time.Duration) {
	t.Helper()
	for i := from; i < to; i++ {
		must(t, w.m.Revoke(adminOf("acc_lag"), apikey.RevokeRequest{Key: w.keys[i].Key.ID}))
		w.returned[i] = time.Now()
		time.Sleep(pause)
	}
}

// end ends the watch, when there was time enough.
func (w *watched) end() {
	time.Sleep(2 * time.Second)
	for i, over := range w.over {
		refused, wrong := over()
		w.refused[i], w.wrong = refused, w.wrong+wrong
	}
}

// lags are those of some of the keys on all nodes.
func (w *watched) lags(from, to int) (l lags, never int) {
	for _, refused := range w.refused {
		for i := from; i < to; i++ {
			if first, ok := refused[w.keys[i].Token.Reveal()]; ok {
				l = append(l, max(0, first.Sub(w.returned[i])))
			} else {
				never++
			}
		}
	}
	return l, never
}

// revokeAndWatch has eight nodes verify new keys, revokes one after the other and
// returns the lags.
func revokeAndWatch(t *testing.T, m *apikey.Manager, node func(i int) watch, keys int, pause time.Duration) (l lags, never, wrong int) {
	t.Helper()
	w := watchKeys(t, m, keys, node)
	w.revoke(t, 0, keys, pause)
	w.end()
	l, never = w.lags(0, keys)
	return l, never, w.wrong
}

// A key is revoked by one process while eight others verify it: how long they
// still accept it, when they ask every second.
func TestRevocationLagByPolling(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			p, store := newSite(t, e)
			l, never, wrong := revokeAndWatch(t, newManager(t, store), func(int) watch { return outside(p, time.Second, "") }, 40, 70*time.Millisecond)
			t.Logf("revocation lag on 8 processes by polling: %v; never refused %d, refused for another reason %d", l, never, wrong)
			if len(l) != 8*40 || never+wrong != 0 || l.at(100) > 1500*time.Millisecond {
				t.Fail()
			}
		})
	}
}

// A revocation stands in a transaction that stays open under a minute of
// traffic. It is refused everywhere within 1.5 s of its commit, and until then
// others are not held up by it.
func TestRevokeInALongTransaction(t *testing.T) {
	held := time.Minute
	if testing.Short() {
		held = 5 * time.Second
	}
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			dsn := e.dsn(t)
			d, _ := e.fresh(t)
			db := e.pool(t, dsn)
			store := open(t, db, d)
			must(t, store.Migrate(t.Context()))
			m := newManager(t, store)
			ctx := adminOf("acc_1")
			doomed, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
			must(t, err)
			var verifiers [8]*apikey.Verifier
			for i := range verifiers {
				verifiers[i] = newVerifier(t, open(t, e.pool(t, dsn), d), func(c *verifying) { c.Sync = time.Second })
			}
			watcher := &witness{v: verifiers[0], refused: map[string]time.Time{}}
			_, err = watcher.v.Verify(ctx, doomed.Token.Reveal(), apikey.Request{})
			must(t, err)
			tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
			must(t, err)
			defer tx.Rollback()
			keys := m.Tx(store.In(tx))
			must(t, keys.Revoke(ctx, apikey.RevokeRequest{Key: doomed.Key.ID}))

			var others lags
			for begun := time.Now(); time.Since(begun) < held; {
				l, never, wrong := revokeAndWatch(t, m, func(i int) watch { return inside(verifiers[i]) }, 20, 50*time.Millisecond)
				others = append(others, l...)
				if never+wrong != 0 {
					t.Errorf("others: never refused %d, for another reason %d", never, wrong)
				}
			}
			_, err = watcher.v.Verify(ctx, doomed.Token.Reveal(), apikey.Request{})
			must(t, err) // nothing is committed
			stop := make(chan struct{})
			done := make(chan struct{})
			go func() { watcher.run([]string{doomed.Token.Reveal()}, stop); close(done) }()
			must(t, tx.Commit())
			committed := time.Now()
			time.Sleep(2 * time.Second)
			close(stop)
			<-done
			first, refused := watcher.refused[doomed.Token.Reveal()]
			t.Logf("open for %v: refused %v after the commit (%v); others meanwhile %v", held, first.Sub(committed).Round(time.Millisecond), refused, others)
			if !refused || first.Sub(committed) > 1500*time.Millisecond || others.at(100) > 1500*time.Millisecond {
				t.Fail()
			}
		})
	}
}
