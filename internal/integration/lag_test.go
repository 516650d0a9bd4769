package integration

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
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

// witness verifies tokens all the time, and remembers when each was first refused.
type witness struct {
	v       *apikey.Verifier
	mu      sync.Mutex
	refused map[string]time.Time
	wrong   int // refused for another reason
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
			_, err := n.v.Verify(adminOf(""), token, apikey.Request{})
			n.mu.Lock()
			if errors.Is(err, apikey.ErrRevoked) {
				n.refused[token] = time.Now()
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

// revokeAndWatch issues keys, has eight nodes verify them, revokes one after the
// other and returns the lags. between runs after each revocation.
func revokeAndWatch(t *testing.T, m *apikey.Manager, verifier func(i int) *apikey.Verifier, keys int, pause time.Duration) (l lags, never, wrong int) {
	t.Helper()
	ctx := adminOf("acc_lag")
	var issued []apikey.Issued
	var tokens []string
	for range keys {
		k, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		issued, tokens = append(issued, k), append(tokens, k.Token.Reveal())
	}
	var nodes [8]*witness
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range nodes {
		nodes[i] = &witness{v: verifier(i), refused: map[string]time.Time{}}
		wg.Go(func() { nodes[i].run(tokens, stop) })
	}
	time.Sleep(500 * time.Millisecond) // all are warm
	returned := map[string]time.Time{}
	for i, k := range issued {
		must(t, m.Revoke(ctx, apikey.RevokeRequest{Key: k.Key.ID}))
		returned[tokens[i]] = time.Now()
		time.Sleep(pause)
	}
	time.Sleep(2 * time.Second)
	close(stop)
	wg.Wait()
	for _, n := range nodes {
		wrong += n.wrong
		for token, at := range returned {
			if first, ok := n.refused[token]; ok {
				l = append(l, max(0, first.Sub(at)))
			} else {
				never++
			}
		}
	}
	return l, never, wrong
}

// A key is revoked by one process while eight others verify it: how long they
// still accept it, when they ask every second.
func TestRevocationLagByPolling(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			d, _ := e.fresh(t)
			store := open(t, e.pool(t, dsn), d)
			must(t, store.Migrate(t.Context()))
			m := newManager(t, store)
			l, never, wrong := revokeAndWatch(t, m, func(int) *apikey.Verifier {
				return newVerifier(t, open(t, e.pool(t, dsn), d), func(c *apikey.VerifierConfig) { c.Sync = time.Second })
			}, 40, 70*time.Millisecond)
			t.Logf("revocation lag on 8 nodes by polling: %v; never refused %d, refused for another reason %d", l, never, wrong)
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
				verifiers[i] = newVerifier(t, open(t, e.pool(t, dsn), d), func(c *apikey.VerifierConfig) { c.Sync = time.Second })
			}
			verifier := func(i int) *apikey.Verifier { return verifiers[i] }
			watcher := &witness{v: verifier(0), refused: map[string]time.Time{}}
			_, err = watcher.v.Verify(ctx, doomed.Token.Reveal(), apikey.Request{})
			must(t, err)
			tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
			must(t, err)
			defer tx.Rollback()
			keys := m.Tx(store.In(tx))
			must(t, keys.Revoke(ctx, apikey.RevokeRequest{Key: doomed.Key.ID}))

			var others lags
			for begun := time.Now(); time.Since(begun) < held; {
				l, never, wrong := revokeAndWatch(t, m, verifier, 20, 50*time.Millisecond)
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
