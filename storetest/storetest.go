// Package storetest checks that an [apikey.Store] follows the contract. A store author
// calls [Run] from a test:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Backend {
//			path := filepath.Join(t.TempDir(), "keys.db")
//			one, other := openStore(t, path), openStore(t, path)
//			return storetest.Backend{Store: one, Other: other, Purge: one.Purge, In: begin(t, one)}
//		})
//	}
//
// Every case is a subtest of its own, on an empty store. A case that fails prints the
// rule that it checks. To run one case:
//
//	go test -run 'TestStore/upkeep/survives_an_Apply'
//
// The suite cannot cause some failures through the interface. The author's own tests
// have to cover them: damaged rows (ErrCorrupt), a database that cannot be reached
// (ErrUnavailable), a commit whose answer is lost in the network, and a process or a
// machine that stops in the middle of an Apply.
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
	// Other is a second node on the same data: another connection pool, or another
	// server of the cluster. nil: Store is used for both nodes.
	Other apikey.Store
	// Backup copies the contents of the store. restore brings this copy back, as if a
	// backup was restored, or a failover had lost commits. nil: the cases that need
	// Backup are skipped.
	Backup func(t *testing.T) (restore func(t *testing.T))
	// Purge removes records that were revoked, and items that expired, before a time.
	// The time is at least 24 hours ago. Purge removes at most limit records and items
	// together, and returns how many it removed. nil: the cases that need Purge are
	// skipped.
	Purge func(ctx context.Context, before time.Time, limit int) (int, error)
	// In begins a transaction, as a program does to write its own rows together with a
	// change of a key. joined is the store inside this transaction, as the store's
	// In(tx) returns it; end commits the transaction or rolls it back. The suite has at
	// most one transaction open, uses no other store until it has ended, and ends each
	// transaction once. A case that fails may leave its transaction open, so roll it
	// back in t.Cleanup too. nil: the cases that need In are skipped.
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

// groups has the rules of the contract, in the order in which to write a new store.
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

// testCase checks one rule of the contract.
type testCase struct {
	name string
	rule string // printed when the case fails
	run  func(e *env)
}

// env is the environment of a case: an empty store, and a clock for this case only.
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

// nodes returns both nodes, which use the same data.
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
