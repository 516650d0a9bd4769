package integration

import (
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// injections are the ways in which a call goes wrong.
var injections = []struct {
	name string
	effect
}{
	{"error before its effect", effect{early: true}},
	{"error after its effect", effect{late: true}},
	{"connection cut before its effect", effect{early: true, cut: true}},
	{"connection cut after its effect", effect{late: true, cut: true}},
}

// Every call of the driver fails once in each way, for every public operation on
// every engine: COMMIT, and BEGIN, and ROLLBACK, like any other. The caller does
// what a caller does, which is to ask again. What failed has changed nothing; what
// succeeded has done what it does without a fault, once.
//
// The engines run beside each other. Each has one connection, so at any time either
// the test works or its server, and one engine alone leaves a processor idle.
func TestFailsAtEveryCall(t *testing.T) {
	t.Parallel() // nothing here is timed
	var sum faults
	var adding sync.Mutex
	t.Cleanup(func() { // when all engines are through
		t.Logf("%d injection points in %d operations: left half done %d, done twice %d; answers to a challenge that failed after they were charged %d; challenges whose mail was lost that could not be taken back %d",
			sum.points, sum.operations, sum.half, sum.twice, sum.charged, sum.left)
	})
	for _, e := range named("sqlite/modernc", "postgres/pgx", "postgres/pq", "mariadb/interpolated") {
		t.Run(e.name, func(t *testing.T) {
			if e.name == "postgres/pq" && !*full {
				t.Skip("another driver of the same engine: go test -run FailsAtEveryCall -full runs it")
			}
			t.Parallel()
			tables := []struct {
				operations []operation
				stepUp     apikey.StepUp
			}{{operations(), onReveal}, {housekeeping(), onReveal}, {approvals(), onEverything}}
			if e.name == "postgres/pq" {
				tables = tables[:1] // another driver of the same engine, in half the time
			}
			var total faults
			defer func() {
				adding.Lock()
				defer adding.Unlock()
				sum.add(total)
			}()
			reached, ran, all := surface{}, 0, 0
			for _, table := range tables {
				f := newFaulty(t, e, table.stepUp)
				for _, op := range table.operations {
					all++
					t.Run(op.name, func(t *testing.T) {
						ran++
						f.operation(t, op, reached, &total)
					})
				}
			}
			if ran < all || len(tables) < 3 { // -run may have picked some of them
				return
			}
			reached.complete(t)
			if total.points < 1500 {
				t.Errorf("only %d injection points", total.points)
			}
		})
	}
}

// faults counts what they did.
type faults struct{ operations, points, half, twice, charged, left int }

func (f *faults) add(other faults) {
	f.operations, f.points, f.half = f.operations+other.operations, f.points+other.points, f.half+other.half
	f.twice, f.charged, f.left = f.twice+other.twice, f.charged+other.charged, f.left+other.left
}

// faulty is an engine behind a proxy, and beside it without.
type faulty struct {
	engine
	prefix string
	desk   *desk // what the actors have beside the program
	p      *proxy
	db     *sql.DB // proxied
	store  *sqlstore.Store
	m      *apikey.Manager

	clean      *sql.DB
	cleanStore *sqlstore.Store
	cleanM     *apikey.Manager
	guarded    bool // also Issue
	accounts   int
}

func newFaulty(t *testing.T, e engine, stepUp apikey.StepUp) *faulty {
	t.Helper()
	dsn := e.dsn(t)
	d, prefix := e.fresh(t)
	f := &faulty{engine: e, prefix: prefix, desk: newDesk(), clean: e.pool(t, dsn), guarded: len(stepUp(apikey.ActionIssue, apikey.Live)) > 0}
	f.cleanStore = open(t, f.clean, d)
	must(t, f.cleanStore.Migrate(t.Context()))
	f.cleanM = newManager(t, f.cleanStore, f.desk.furnish(stepUp))
	f.db, f.p = e.proxied(t, dsn)
	f.db.SetMaxOpenConns(1) // a connection that is kept anywhere is missed at once
	f.store = open(t, f.db, d)
	f.m = newManager(t, f.store, f.desk.furnish(stepUp))
	return f
}

// scene is a new account with a key in the state that the operation needs, and
// nothing else in the tables.
func (f *faulty) scene(t *testing.T, op operation) (faulted, clean shopkeeper, key apikey.Issued) {
	t.Helper()
	f.p.record(nil)
	empty(t, f.clean, f.engine, f.prefix)
	f.desk.clear()
	f.accounts++
	account := fmt.Sprintf("acc_%d", f.accounts)
	clean = shopkeeper{ctx: adminOf(account), account: account, store: f.cleanStore, db: f.clean, m: f.cleanM, v: newVerifier(t, f.cleanStore), desk: f.desk}
	faulted = clean
	faulted.store, faulted.db, faulted.m = f.store, f.db, f.m
	faulted.v = newVerifier(t, f.store, func(c *verifying) { c.ReadOnly = !op.marks })
	clean.far = faulted.v
	req := apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refund"}, Recoverable: true}
	var err error
	if f.guarded {
		req.Grant, err = clean.approve(req)
		must(t, err)
	}
	key, err = f.cleanM.Issue(clean.ctx, req)
	must(t, err)
	if op.before != nil {
		must(t, op.before(clean, key))
	}
	return faulted, clean, key
}

// state counts what there is in the tables.
type state struct{ keys, versions, revoked, credentials, ended, used, events, items, itemVersions int64 }

func (f *faulty) state(t *testing.T) (s state) {
	t.Helper()
	ended := "SUM(ended)"
	if f.dialect == sqlstore.Postgres {
		ended = "SUM(ended::int)"
	}
	must(t, f.clean.QueryRow(fmt.Sprintf(`SELECT (SELECT COUNT(*) FROM %[1]skeys), (SELECT COALESCE(SUM(version), 0) FROM %[1]skeys), (SELECT COUNT(revoked_at) FROM %[1]skeys),
	(SELECT COUNT(*) FROM %[1]scredentials), (SELECT COALESCE(%[2]s, 0) FROM %[1]scredentials), (SELECT COUNT(last_used) FROM %[1]scredentials),
	(SELECT COUNT(*) FROM %[1]sevents), (SELECT COUNT(*) FROM %[1]sitems), (SELECT COALESCE(SUM(version), 0) FROM %[1]sitems)`, f.prefix, ended)).
		Scan(&s.keys, &s.versions, &s.revoked, &s.credentials, &s.ended, &s.used, &s.events, &s.items, &s.itemVersions))
	return s
}

// operation has every call of one operation fail in every way.
func (f *faulty) operation(t *testing.T, op operation, reached surface, total *faults) {
	total.operations++
	_, clean, key := f.scene(t, op)
	must(t, op.run(clean, key))
	want := f.look(t) // of an undisturbed run
	f.afterwards(t, "without a fault", op, clean, key)
	for _, injected := range injections {
		for n := 1; ; n++ {
			if n > 90 {
				t.Fatal("the fault never fails to strike")
			}
			s, clean, key := f.scene(t, op)
			before := f.look(t)
			c := f.strike(n, injected.effect, reached)
			err := op.run(s, key)
			f.p.record(nil)
			if c.sql == "" {
				must(t, err)
				break
			}
			total.points++
			reached.add(op.flights...)
			c.where = fmt.Sprintf("%s at call %d, %.40q", injected.name, n, c.sql)
			if err != nil && !f.again(t, op, c, before, want, err, func() error { return op.run(s, key) }, total) {
				continue
			}
			got := f.look(t)
			switch spare, once := got.done(want, op, err != nil); {
			case !once:
				total.twice++
				t.Errorf("%s: done is %+v, want %+v", c.where, got, want)
			case op.answers:
				total.charged += spare
			default:
				total.left += spare
			}
			f.afterwards(t, c.where, op, clean, key)
			f.chains(t, c.where, clean)
			// What runs behind an answer, as a Verifier's flush does, may still return its connection.
			if n := settles(func() int { return f.db.Stats().InUse }); n != 0 {
				t.Fatalf("%s: a connection is kept", c.where)
			}
		}
	}
}

// blow is one call that failed.
type blow struct {
	sent
	where string
	lost  bool // it was a COMMIT that happened, and whose answer did not arrive
}

// strike makes the n-th call from now fail. Of the blow sql stays empty until then.
func (f *faulty) strike(n int, how effect, reached surface) *blow {
	c := &blow{}
	f.p.record(func(at int, s sent) effect {
		if at != n {
			return effect{}
		}
		reached.look()
		c.sent, c.lost = s, s.sql == "COMMIT" && how.late
		return how
	})
	return c
}

// again judges what a call that failed has left, and repeats it. It reports
// whether there is something to judge after that.
func (f *faulty) again(t *testing.T, op operation, c *blow, before, want sight, err error, run func() error, total *faults) bool {
	t.Helper()
	if !errors.Is(err, errFault) && !errors.Is(err, errCut) && !errors.Is(err, apikey.ErrUnavailable) {
		t.Errorf("%s: the error hides its cause: %v", c.where, err)
	}
	got := f.look(t)
	switch {
	case op.tx || op.unsure: // all of it or nothing
		if got != before && (got != want || !c.lost) {
			total.half++
			t.Errorf("%s: half of a transaction: %+v", c.where, got)
		}
		if op.tx { // only the caller can know what to do
			return false
		}
	case !op.steps && !got.nothing(before, op):
		total.half++
		t.Errorf("%s: it failed and left %+v of %+v: %v", c.where, got, before, err)
	}
	if err := run(); err != nil {
		t.Errorf("%s: and again: %v", c.where, err)
	}
	return true
}

// afterwards asks the program that nothing disturbs whether what was done works,
// and only once.
func (f *faulty) afterwards(t *testing.T, where string, op operation, clean shopkeeper, key apikey.Issued) {
	t.Helper()
	if op.after == nil {
		return
	}
	if err := op.after(clean, key); err != nil {
		t.Errorf("%s: afterwards: %v", where, err)
	}
}

// chains checks every key of the account, from its first event to its head.
func (f *faulty) chains(t *testing.T, where string, s shopkeeper) {
	t.Helper()
	list, err := f.cleanM.List(s.ctx, apikey.ListRequest{})
	must(t, err)
	for _, k := range list.Keys {
		report, err := f.cleanM.VerifyEvents(s.ctx, k.ID)
		must(t, err)
		if report.Broken != nil || report.Events != int(k.Version) {
			t.Errorf("%s: the chain of %s is %+v at version %d", where, k.ID, report, k.Version)
		}
	}
}
