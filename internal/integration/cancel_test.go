package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// A pool of one connection is enough for everything. A context that is cancelled
// before any call of the driver, or while the call runs, keeps no connection, no
// transaction on the server and no goroutine, and leaves nothing half done: the
// same thing asked for again does what it does once.
func TestOneConnectionAndCancelledContexts(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			e.dsn(t) // what starts the server stays
			before, points := runtime.NumGoroutine(), 0
			t.Run("calls", func(t *testing.T) { points = cancelAtEveryCall(t, e) })
			left := settles(func() int { return runtime.NumGoroutine() - before })
			t.Logf("contexts cancelled at %d points of %d operations: connections and transactions kept 0, goroutines left %d", points, len(cancelledOperations()), left)
			if left > 0 {
				stacks := make([]byte, 1<<20)
				t.Errorf("%s", stacks[:runtime.Stack(stacks, true)])
			}
			if points < 120 {
				t.Error("too few")
			}
		})
	}
}

// settles waits up to five seconds for nothing to be left.
func settles(count func() int) (left int) {
	for range 500 {
		if left = count(); left <= 0 {
			return 0
		}
		time.Sleep(10 * time.Millisecond)
	}
	return left
}

// cancelling is one program with a pool of one connection, whose calls are seen.
type cancelling struct {
	site
	engine   engine
	db       *sql.DB
	p        *proxy
	store    *sqlstore.Store
	m        *apikey.Manager
	clean    *sql.DB
	plain    *sqlstore.Store
	ordinary *apikey.Manager // on a pool of its own
	n        int
}

// cancelled is what is asked of it: once undisturbed, and then with a context that
// ends at every call. whole reads whether it is done: all of it, or nothing.
type cancelled struct {
	name  string
	run   func(ctx context.Context, c *cancelling, k apikey.Issued) error
	whole func(c *cancelling, k apikey.Issued, account string) (done bool, err error)
}

func cancelAtEveryCall(t *testing.T, e engine) (points int) {
	p, plain := newSite(t, e)
	c := &cancelling{site: p, engine: e, plain: plain, clean: e.pool(t, p.dsn), ordinary: newManager(t, plain)}
	c.db, c.p = e.proxied(t, p.dsn)
	c.db.SetMaxOpenConns(1)
	c.store = open(t, c.db, e.dialect.WithPrefix(p.prefix))
	c.m = newManager(t, c.store)
	for _, op := range cancelledOperations() {
		t.Run(op.name, func(t *testing.T) {
			for _, running := range []bool{false, true} {
				for n, struck := 1, true; struck; n++ {
					if struck = c.strike(t, op, n, running); struck {
						points++
					}
				}
			}
		})
	}
	return points
}

// strike cancels at the n-th call, if there is one.
func (c *cancelling) strike(t *testing.T, op cancelled, n int, running bool) (struck bool) {
	t.Helper()
	c.n++
	account := fmt.Sprintf("acc_%d", c.n)
	k, err := c.ordinary.Issue(adminOf(account), apikey.IssueRequest{Mode: apikey.Live})
	must(t, err)
	ctx, cancel := context.WithCancel(adminOf(account))
	defer cancel()
	c.p.record(func(at int, _ sent) effect {
		if at == n {
			struck = true
			if running {
				time.AfterFunc(soon(500*time.Microsecond), cancel)
			} else {
				cancel()
			}
		}
		return effect{}
	})
	err = op.run(ctx, c, k)
	if left := settles(func() int { return c.db.Stats().InUse }); left != 0 {
		t.Fatalf("call %d: a connection is kept", n)
	}
	if left := settles(func() int { return openTransactions(t, c.engine.dialect, c.clean) }); left != 0 { // also a COMMIT that goes on without us
		t.Fatalf("call %d: a transaction is open", n)
	}
	c.p.record(nil)
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, apikey.ErrUnavailable) {
		t.Errorf("call %d: %v", n, err)
	}
	if op.whole == nil {
		must(t, op.run(adminOf(account), c, k))
		return struck
	}
	done, half := op.whole(c, k, account)
	if half != nil || err == nil && !done {
		t.Errorf("call %d: error %v, done %v, half done: %v", n, err, done, half)
	}
	if !done {
		must(t, op.run(adminOf(account), c, k))
		if done, half := op.whole(c, k, account); !done || half != nil {
			t.Errorf("call %d, and again: done %v, half done: %v", n, done, half)
		}
	}
	return struck
}

// openTransactions are those on the whole server: no other test runs beside this.
// MariaDB's are read from its monitor: information_schema.innodb_trx answers from
// a copy that is not renewed before nobody has asked for 0.1 s (MySQL's manual,
// "Persistence and Consistency of InnoDB Transaction and Locking Information"), so
// who asks again and again would see one transaction for ever.
func openTransactions(t *testing.T, d sqlstore.Dialect, db *sql.DB) (n int) {
	t.Helper()
	if d == sqlstore.Postgres {
		must(t, db.QueryRow("SELECT COUNT(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' OR (state = 'active' AND pid <> pg_backend_pid())").Scan(&n))
		return n
	}
	var kind, name, status string
	must(t, db.QueryRow("SHOW ENGINE INNODB STATUS").Scan(&kind, &name, &status))
	for line := range strings.Lines(status) {
		if strings.HasPrefix(line, "---TRANSACTION") && !strings.Contains(line, "not started") {
			n++
		}
	}
	return n
}

// What the test above rests on: a transaction is seen as long as it is open.
func TestOpenTransactionsAreSeen(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			p, _ := newSite(t, e)
			db, watch := e.pool(t, p.dsn), e.pool(t, p.dsn)
			for range 3 {
				tx, err := db.BeginTx(t.Context(), nil)
				must(t, err)
				defer tx.Rollback()
				var n int
				must(t, tx.QueryRow("SELECT COUNT(*) FROM "+p.prefix+"keys").Scan(&n))
				if n := openTransactions(t, e.dialect, watch); n != 1 {
					t.Errorf("one transaction is open: %d are seen", n)
				}
				must(t, tx.Rollback())
				if left := settles(func() int { return openTransactions(t, e.dialect, watch) }); left != 0 {
					t.Errorf("no transaction is open: %d are seen", left)
				}
			}
		})
	}
}

func cancelledOperations() []cancelled {
	// at says of a key at a version and with so many live credentials that the
	// operation is done, and of the one before that it is not.
	at := func(state apikey.State, credentials int) func(*cancelling, apikey.Issued, string) (bool, error) {
		return func(c *cancelling, k apikey.Issued, account string) (bool, error) {
			info, err := c.ordinary.Get(adminOf(account), k.Key.ID)
			if err != nil {
				return false, err
			}
			report, err := c.ordinary.VerifyEvents(adminOf(account), k.Key.ID)
			done := info.Version == 2 && info.State == state && info.Credentials.Len() == credentials
			before := info.Version == 1 && info.State == apikey.Active && info.Credentials.Len() == 1
			if err != nil || done == before || report.Broken != nil || report.Events != int(info.Version) {
				return done, fmt.Errorf("version %d, %v, %d credentials, chain %+v: %w", info.Version, info.State, info.Credentials.Len(), report, err)
			}
			return done, nil
		}
	}
	return []cancelled{
		{"Issue", func(ctx context.Context, c *cancelling, _ apikey.Issued) error {
			_, err := c.m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Test, IdempotencyKey: "order"})
			if errors.Is(err, apikey.ErrAlreadyIssued) {
				return nil
			}
			return err
		}, func(c *cancelling, _ apikey.Issued, account string) (bool, error) {
			list, err := c.ordinary.List(adminOf(account), apikey.ListRequest{Mode: apikey.Test})
			if err != nil || len(list.Keys) > 1 {
				return false, fmt.Errorf("%d keys: %w", len(list.Keys), err)
			}
			return len(list.Keys) == 1, nil
		}},
		{"Update", func(ctx context.Context, c *cancelling, k apikey.Issued) error {
			_, err := c.m.Update(ctx, apikey.UpdateRequest{Key: k.Key.ID, Name: apikey.Set("new")})
			return err
		}, at(apikey.Active, 1)},
		{"Suspend", func(ctx context.Context, c *cancelling, k apikey.Issued) error {
			return c.m.Suspend(ctx, k.Key.ID)
		}, at(apikey.Suspended, 1)},
		{"Rotate", func(ctx context.Context, c *cancelling, k apikey.Issued) error {
			_, err := c.m.Rotate(ctx, apikey.RotateRequest{Key: k.Key.ID, Overlap: time.Hour})
			return err
		}, at(apikey.Active, 2)},
		{"Revoke", func(ctx context.Context, c *cancelling, k apikey.Issued) error {
			return c.m.Revoke(ctx, apikey.RevokeRequest{Key: k.Key.ID})
		}, at(apikey.Revoked, 1)},
		{"RevokeToken", func(ctx context.Context, c *cancelling, k apikey.Issued) error {
			return c.m.RevokeToken(ctx, k.Token.Reveal(), apikey.ReasonCompromised)
		}, at(apikey.Active, 1)},
		{"in a transaction", func(ctx context.Context, c *cancelling, k apikey.Issued) error {
			tx, err := c.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
			if err != nil {
				return err
			}
			defer tx.Rollback()
			keys := c.m.Tx(c.store.In(tx))
			if err := keys.Revoke(ctx, apikey.RevokeRequest{Key: k.Key.ID}); err != nil {
				return err
			}
			err = tx.Commit()
			if errors.Is(err, sql.ErrTxDone) { // what database/sql says when it has rolled back for the context's sake
				err = ctx.Err()
			}
			return err
		}, at(apikey.Revoked, 1)},
		{"last used", func(ctx context.Context, c *cancelling, k apikey.Issued) error {
			return c.store.Upkeep(ctx, []apikey.StoreUpkeep{{Credential: k.Token.Credential(), LastUsed: epoch}})
		}, nil},
		{"reading", func(ctx context.Context, c *cancelling, k apikey.Issued) error {
			_, got := c.m.Get(ctx, k.Key.ID)
			_, listed := c.m.List(ctx, apikey.ListRequest{})
			_, read := c.m.Events(ctx, apikey.EventsRequest{})
			return errors.Join(got, listed, read)
		}, nil},
		{"a verifier's life", func(ctx context.Context, c *cancelling, k apikey.Issued) error {
			v, err := verifierFor(c.store).start(ctx)
			if err != nil {
				return err
			}
			_, verified := v.Verify(ctx, k.Token.Reveal(), apikey.Request{})
			return errors.Join(verified, v.Sync(ctx), v.Close(context.WithoutCancel(ctx)))
		}, nil},
		{"purge", func(ctx context.Context, c *cancelling, _ apikey.Issued) error {
			_, err := c.store.Purge(ctx, epoch, 10)
			return err
		}, nil},
	}
}
