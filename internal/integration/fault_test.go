package integration

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// shopkeeper is one program: a Manager and what it needs, on a store.
type shopkeeper struct {
	ctx     context.Context // of the admin of an account
	account string
	store   *sqlstore.Store
	db      *sql.DB
	m       *apikey.Manager
	v       *apikey.Verifier
}

var catalog = apikey.MustCatalog(
	apikey.Entry{Scope: "payment:verify"}, apikey.Entry{Scope: "payment:refund"}, apikey.Entry{Scope: "card:tokenise", Publishable: true},
)

func pepper(t testing.TB) apikey.Pepper {
	t.Helper()
	p, err := apikey.NewPepper(1, [32]byte{1, 2, 3})
	must(t, err)
	return p
}

func hasher(t testing.TB) apikey.Hasher {
	t.Helper()
	h, err := apikey.NewHMACSHA256(pepper(t))
	must(t, err)
	return h
}

// newManager is a Manager with a pepper and the quick hasher.
func newManager(t testing.TB, store apikey.Store, options ...func(*apikey.ManagerConfig)) *apikey.Manager {
	t.Helper()
	c := apikey.ManagerConfig{Store: store, Prefix: "acme", Catalog: catalog, Hasher: hasher(t), Peppers: []apikey.Pepper{pepper(t)}}
	for _, o := range options {
		o(&c)
	}
	m, err := apikey.NewManager(context.Background(), c)
	must(t, err)
	t.Cleanup(func() { m.Close(context.Background()) })
	return m
}

// newVerifier is a Verifier that asks only when it is told to.
func newVerifier(t testing.TB, store apikey.Store, options ...func(*apikey.VerifierConfig)) *apikey.Verifier {
	t.Helper()
	c := apikey.VerifierConfig{
		Store: store, Prefix: "acme", Mode: apikey.Live, Hashers: []apikey.Hasher{hasher(t)}, Peppers: []apikey.Pepper{pepper(t)}, Sync: -1,
	}
	for _, o := range options {
		o(&c)
	}
	v, err := apikey.NewVerifier(context.Background(), c)
	must(t, err)
	t.Cleanup(func() { v.Close(context.Background()) })
	return v
}

func adminOf(account string) context.Context {
	return apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: account, Role: "admin"})
}

// operation is one public method with a request.
type operation struct {
	name string
	run  func(s shopkeeper, key apikey.Issued) error
	// before brings the key into the state that run needs.
	before func(s shopkeeper, key apikey.Issued) error
	// steps: it is several commits, each of which is whole by itself.
	steps bool
}

func issue(s shopkeeper, idempotency string) error {
	_, err := s.m.Issue(s.ctx, apikey.IssueRequest{Mode: apikey.Live, Name: "one", Abilities: []string{"payment:refund"}, IdempotencyKey: idempotency})
	return err
}

func rotate(s shopkeeper, req apikey.RotateRequest) error {
	_, err := s.m.Rotate(s.ctx, req)
	return err
}

func operations() []operation {
	var granted apikey.Grant // of the scene that is running
	pending := func(s shopkeeper, key apikey.Issued) error {
		return rotate(s, apikey.RotateRequest{Key: key.Key.ID, At: time.Now().Add(time.Hour)})
	}
	overlapping := func(s shopkeeper, key apikey.Issued) error {
		return rotate(s, apikey.RotateRequest{Key: key.Key.ID, Overlap: time.Hour})
	}
	return []operation{
		{name: "Issue", run: func(s shopkeeper, _ apikey.Issued) error { return issue(s, "") }},
		{name: "Issue, idempotent", run: func(s shopkeeper, _ apikey.Issued) error {
			err := issue(s, "order "+s.account)
			if errors.Is(err, apikey.ErrAlreadyIssued) {
				return nil
			}
			return err
		}},
		{name: "Provision", steps: true, run: func(s shopkeeper, _ apikey.Issued) error {
			_, err := s.m.Provision(s.ctx, apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}})
			return err
		}},
		{name: "Update", run: func(s shopkeeper, key apikey.Issued) error {
			_, err := s.m.Update(s.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("new"), Abilities: apikey.Set([]string{"payment:verify"})})
			return err
		}},
		{name: "Suspend", run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Suspend(s.ctx, apikey.SuspendRequest{Key: key.Key.ID})
		}},
		{name: "Resume", before: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Suspend(s.ctx, apikey.SuspendRequest{Key: key.Key.ID})
		}, run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Resume(s.ctx, apikey.ResumeRequest{Key: key.Key.ID})
		}},
		{name: "Rotate now", run: func(s shopkeeper, key apikey.Issued) error {
			return rotate(s, apikey.RotateRequest{Key: key.Key.ID})
		}},
		{name: "Rotate with overlap", run: overlapping},
		{name: "Rotate at a time", run: pending},
		{name: "Rotate, Replace", before: pending, run: func(s shopkeeper, key apikey.Issued) error {
			return rotate(s, apikey.RotateRequest{Key: key.Key.ID, Overlap: time.Hour, Replace: true})
		}},
		{name: "CancelRotation", before: pending, run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.CancelRotation(s.ctx, apikey.CancelRotationRequest{Key: key.Key.ID})
		}},
		{name: "Retire", before: overlapping, run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Retire(s.ctx, apikey.RetireRequest{Key: key.Key.ID, Credential: key.Token.Credential()})
		}},
		{name: "Revoke", run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Revoke(s.ctx, apikey.RevokeRequest{Key: key.Key.ID, Reason: apikey.ReasonCompromised})
		}},
		{name: "RevokeAll", steps: true, before: func(s shopkeeper, _ apikey.Issued) error { return issue(s, "") }, run: func(s shopkeeper, _ apikey.Issued) error {
			_, err := s.m.RevokeAll(s.ctx, apikey.RevokeAllRequest{Reason: apikey.ReasonRequested})
			return err
		}},
		{name: "RevokeToken", run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.RevokeToken(context.Background(), key.Token.Reveal(), apikey.ReasonCompromised)
		}},
		{name: "in a transaction", run: func(s shopkeeper, key apikey.Issued) error {
			tx, err := s.db.BeginTx(s.ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			keys := s.m.Tx(s.store.In(tx))
			if _, err := keys.Issue(s.ctx, apikey.IssueRequest{Mode: apikey.Live}); err != nil {
				return err
			}
			if err := keys.Revoke(s.ctx, apikey.RevokeRequest{Key: key.Key.ID}); err != nil {
				return err
			}
			return tx.Commit()
		}, steps: true}, // its own commit may lose its answer, and only the caller can know what to do
		{name: "Reveal with a grant", before: func(s shopkeeper, key apikey.Issued) error {
			c, err := s.m.Challenge(s.ctx, "password", apikey.RevealRequest{Key: key.Key.ID})
			if err == nil {
				granted, err = s.m.Confirm(s.ctx, c.ID, "right")
			}
			return err
		}, run: func(s shopkeeper, key apikey.Issued) error {
			shown, err := s.m.Reveal(s.ctx, apikey.RevealRequest{Key: key.Key.ID, Grant: granted})
			if err == nil && shown.Token.Reveal() != key.Token.Reveal() {
				return errors.New("another token was shown")
			}
			return err
		}},
		{name: "AllowEnrollment", run: func(s shopkeeper, _ apikey.Issued) error {
			return s.m.AllowEnrollment(s.ctx, apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_2"})
		}},
		{name: "LiftLock", before: func(s shopkeeper, key apikey.Issued) error {
			other := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_2", Account: s.account, Role: "admin"})
			c, err := s.m.Challenge(other, "password", apikey.RevealRequest{Key: key.Key.ID})
			if err == nil {
				_, err = s.m.Confirm(other, c.ID, "wrong")
			}
			if errors.Is(err, apikey.ErrWrongAnswer) {
				return nil
			}
			return fmt.Errorf("a wrong answer: %w", err)
		}, run: func(s shopkeeper, _ apikey.Issued) error {
			return s.m.LiftLock(s.ctx, apikey.LiftLockRequest{Actor: "usr_2"})
		}},
		{name: "last used", run: func(s shopkeeper, key apikey.Issued) error {
			return s.store.Upkeep(s.ctx, []apikey.Upkeep{{Credential: key.Token.Credential(), LastUsed: time.Now()}})
		}},
		{name: "reading", run: func(s shopkeeper, key apikey.Issued) error {
			_, got := s.m.Get(s.ctx, apikey.GetRequest{Key: key.Key.ID})
			_, listed := s.m.List(s.ctx, apikey.ListRequest{})
			_, read := s.m.Events(s.ctx, apikey.EventsRequest{})
			_, verified := s.m.VerifyEvents(s.ctx, apikey.VerifyEventsRequest{Key: key.Key.ID})
			return errors.Join(got, listed, read, verified)
		}},
		{name: "Verify", run: func(s shopkeeper, key apikey.Issued) error {
			_, err := s.v.Verify(context.Background(), key.Token.Reveal(), apikey.Request{})
			return err
		}},
	}
}

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

// Every call of the driver fails once in each way, for every operation on every
// engine: COMMIT, and BEGIN, and ROLLBACK, like any other. The caller does what a
// caller does, which is to ask again. What failed has changed nothing; what
// succeeded has done what it does without a fault, once.
func TestFailsAtEveryCall(t *testing.T) {
	points, half, twice := 0, 0, 0
	for _, e := range engines {
		switch e.name {
		case "sqlite/modernc", "postgres/pgx", "postgres/pq", "mariadb/interpolated":
		default:
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			f := newFaulty(t, e)
			for _, op := range operations() {
				t.Run(op.name, func(t *testing.T) {
					p, h, w := f.operation(t, op)
					points, half, twice = points+p, half+h, twice+w
				})
			}
		})
	}
	t.Logf("%d injection points: left half done %d, done twice %d", points, half, twice)
	if points < 500 && !t.Skipped() && !t.Failed() {
		t.Errorf("only %d injection points", points)
	}
}

// faulty is an engine behind a proxy, and beside it without.
type faulty struct {
	engine
	prefix string
	p      *proxy
	db     *sql.DB // proxied
	store  *sqlstore.Store
	m      *apikey.Manager

	clean      *sql.DB
	cleanStore *sqlstore.Store
	cleanM     *apikey.Manager
	accounts   int
}

func newFaulty(t *testing.T, e engine) *faulty {
	t.Helper()
	dsn := e.dsn(t)
	d, prefix := e.fresh(t)
	f := &faulty{engine: e, prefix: prefix, clean: e.pool(t, dsn)}
	f.cleanStore = open(t, f.clean, d)
	must(t, f.cleanStore.Migrate(t.Context()))
	f.cleanM = newManager(t, f.cleanStore, guardedReveal(t))
	f.db, f.p = e.proxied(t, dsn)
	f.db.SetMaxOpenConns(1) // a connection that is kept anywhere is missed at once
	f.store = open(t, f.db, d)
	f.m = newManager(t, f.store, guardedReveal(t))
	return f
}

// guardedReveal has a KEK, a password that is always "right", and an authenticator
// app, and asks before a token is shown again.
func guardedReveal(t *testing.T) func(*apikey.ManagerConfig) {
	return func(c *apikey.ManagerConfig) {
		kek, err := apikey.NewLocalKEK("kek-1", bytes.Repeat([]byte{1}, 32))
		must(t, err)
		password, err := apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) { return answer == "right", nil })
		must(t, err)
		app, err := apikey.NewTOTP("Acme", nil)
		must(t, err)
		c.KEKs, c.Factors = []apikey.KEK{kek}, map[string]apikey.Factor{"password": password, "totp": app}
		c.StepUp = func(a apikey.Action, _ apikey.Mode) []string {
			if a == apikey.ActionReveal {
				return []string{"password"}
			}
			return nil
		}
	}
}

// state counts what there is in the tables.
type state struct{ keys, versions, revoked, credentials, ended, used, events, items, itemVersions int64 }

func (s state) minus(o state) state {
	return state{s.keys - o.keys, s.versions - o.versions, s.revoked - o.revoked, s.credentials - o.credentials, s.ended - o.ended, s.used - o.used,
		s.events - o.events, s.items - o.items, s.itemVersions - o.itemVersions}
}

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

// scene is a new account with a key in the state that the operation needs.
func (f *faulty) scene(t *testing.T, op operation) (faulted, clean shopkeeper, key apikey.Issued) {
	t.Helper()
	f.accounts++
	account := fmt.Sprintf("acc_%d", f.accounts)
	clean = shopkeeper{ctx: adminOf(account), account: account, store: f.cleanStore, db: f.clean, m: f.cleanM, v: newVerifier(t, f.cleanStore)}
	key, err := f.cleanM.Issue(clean.ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refund"}, Recoverable: true})
	must(t, err)
	if op.before != nil {
		must(t, op.before(clean, key))
	}
	faulted = clean
	faulted.store, faulted.db, faulted.m = f.store, f.db, f.m
	faulted.v = newVerifier(t, f.store, func(c *apikey.VerifierConfig) { c.ReadOnly = true })
	return faulted, clean, key
}

func (f *faulty) operation(t *testing.T, op operation) (points, half, twice int) {
	_, clean, key := f.scene(t, op)
	before := f.state(t)
	must(t, op.run(clean, key))
	want := f.state(t).minus(before) // of an undisturbed run
	for _, injected := range injections {
		for n := 1; ; n++ {
			if n > 60 {
				t.Fatal("the fault never fails to strike")
			}
			s, _, key := f.scene(t, op)
			before := f.state(t)
			var struck sent
			f.p.record(func(at int, c sent) effect {
				if at != n {
					return effect{}
				}
				struck = c
				return injected.effect
			})
			err := op.run(s, key)
			f.p.record(nil)
			if struck.sql == "" {
				must(t, err)
				break
			}
			points++
			where := fmt.Sprintf("%s at call %d, %.40q", injected.name, n, struck.sql)
			if err != nil {
				if !errors.Is(err, errFault) && !errors.Is(err, errCut) && !errors.Is(err, apikey.ErrUnavailable) {
					t.Errorf("%s: the error hides its cause: %v", where, err)
				}
				if got := f.state(t).minus(before); got != (state{}) && !op.steps {
					half++
					t.Errorf("%s: it failed and left %+v: %v", where, got, err)
				}
				if op.name == "in a transaction" {
					f.judgeTx(t, where, f.state(t).minus(before), want)
					continue
				}
				if err := op.run(s, key); err != nil {
					t.Errorf("%s: and again: %v", where, err)
				}
			}
			if got := f.state(t).minus(before); got != want {
				twice++
				t.Errorf("%s: done is %+v, want %+v", where, got, want)
			}
			f.chains(t, where, s)
			if n := f.db.Stats().InUse; n != 0 {
				t.Fatalf("%s: a connection is kept", where)
			}
		}
	}
	return points, half, twice
}

// judgeTx: all of the caller's transaction or nothing.
func (f *faulty) judgeTx(t *testing.T, where string, got, want state) {
	t.Helper()
	if got != want && got != (state{}) {
		t.Errorf("%s: half of a transaction: %+v", where, got)
	}
}

// chains checks every key of the account, from its first event to its head.
func (f *faulty) chains(t *testing.T, where string, s shopkeeper) {
	t.Helper()
	list, err := f.cleanM.List(s.ctx, apikey.ListRequest{})
	must(t, err)
	for _, k := range list.Keys {
		report, err := f.cleanM.VerifyEvents(s.ctx, apikey.VerifyEventsRequest{Key: k.ID})
		must(t, err)
		if report.Broken != nil || report.Events != int(k.Version) {
			t.Errorf("%s: the chain of %s is %+v at version %d", where, k.ID, report, k.Version)
		}
	}
}
