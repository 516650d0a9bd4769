// Package storetest checks that an [apikey.Store] keeps the contract. A store author
// calls it from a test:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Backend {
//			path := filepath.Join(t.TempDir(), "keys.db")
//			one, other := openStore(t, path), openStore(t, path)
//			return storetest.Backend{Store: one, Other: other, Purge: one.Purge, In: begin(t, one)}
//		})
//	}
//
// Every case is a subtest of its own, on an empty store. If it fails, it prints the
// rule that it checks:
//
//	go test -run 'TestStore/upkeep/survives_an_Apply'
//
// Some failures cannot be provoked through the interface, and are left to the author's
// own tests: damaged rows (ErrCorrupt), a database that cannot be reached
// (ErrUnavailable), commits whose answer the network loses, and a process or a machine
// that stops in the middle of an Apply.
package storetest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// Backend is a store under test. Only Store is required.
type Backend struct {
	Store apikey.Store
	// Other is a second node on the same data: another connection pool, another
	// server of the cluster. nil: Store plays both.
	Other apikey.Store
	// Backup takes a copy of the store's contents; restore puts the store back to that
	// copy, as a restored backup or a failover that lost commits does. nil: the cases
	// that need it are skipped.
	Backup func(t *testing.T) (restore func(t *testing.T))
	// Purge removes records revoked, and items expired, before a time that is at least
	// 24 hours ago: at most limit together, and returns how many. nil: the cases that
	// need it are skipped.
	Purge func(ctx context.Context, before time.Time, limit int) (int, error)
	// In begins a transaction, as a program does that writes rows of its own in it.
	// joined is the store inside that transaction, which the store's In(tx) returns;
	// end commits the transaction or rolls it back. The suite has one transaction open
	// at a time, uses nothing else meanwhile, and ends each once. A case that fails may
	// leave one open, so roll back in t.Cleanup too. nil: the cases that need it are
	// skipped.
	In func(t *testing.T) (joined apikey.Store, end func(commit bool) error)
}

// Run runs every case. Run calls open once for each case; open returns an empty store
// and closes it with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Backend) {
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.cases {
				t.Run(c.name, func(t *testing.T) {
					t.Cleanup(func() {
						if t.Failed() {
							t.Logf("the rule: %s", c.rule)
						}
					})
					c.run(newEnv(t, open(t)))
				})
			}
		})
	}
}

// groups is the contract, in the order in which a new store meets it.
var groups = []group{
	{"basics", basics},
	{"missing", missing},
	{"conflict", conflict},
	{"order", order},
	{"isolation", isolation},
	{"filters", filters},
	{"times", times},
	{"strings", hostileStrings},
	{"items", items},
	{"credentials", credentials},
	{"upkeep", upkeep},
	{"events", events},
	{"lost answers", lostAnswers},
	{"racers", racers},
	{"feed", feed},
	{"restored backup", restoredBackup},
	{"sharing", sharing},
	{"context", contexts},
	{"in a transaction", transaction},
	{"tombstones", tombstones},
	{"purge", purge},
}

type group struct {
	name  string
	cases []testCase
}

// testCase is one rule of the contract.
type testCase struct {
	name string
	rule string // printed when the case fails
	run  func(e *env)
}

// env is what a case works with: an empty store and a clock of its own.
type env struct {
	*testing.T
	Backend
	ctx   context.Context
	ticks atomic.Int64
}

func newEnv(t *testing.T, b Backend) *env {
	if b.Store == nil {
		t.Fatal("storetest: open returned a Backend without a Store")
	}
	if b.Other == nil {
		b.Other = b.Store
	}
	return &env{T: t, Backend: b, ctx: t.Context()}
}

// nodes are both ways into the same data.
func (e *env) nodes() [2]apikey.Store { return [2]apikey.Store{e.Store, e.Other} }

func (e *env) needsBackup() {
	if e.Backup == nil {
		e.Skip("skipped: this Backend has no Backup")
	}
}

func (e *env) needsPurge() {
	if e.Purge == nil {
		e.Skip("skipped: this Backend has no Purge")
	}
}
