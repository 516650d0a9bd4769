package integration

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// The last uses of 10,000 keys are written in few statements, in less time than a
// Verifier waits before it writes the next, and never go backwards: not when a
// node whose clock is behind comes later, nor when three nodes write at once.
func TestFlushOfLastUses(t *testing.T) {
	for _, e := range named("sqlite/modernc", "postgres/pgx", "mariadb/interpolated") {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			db, p := e.proxied(t, dsn)
			d, _ := e.fresh(t)
			s := open(t, db, d)
			must(t, s.Migrate(t.Context()))
			flushLastUses(t, p, s, open(t, e.pool(t, dsn), d), open(t, e.pool(t, dsn), d))
		})
	}
}

const (
	used       = 10_000
	flushBatch = 500             // of a Verifier
	flushEvery = 3 * time.Second // and how long it waits
)

// flushLastUses counts what the first store sends; others are other nodes.
func flushLastUses(t *testing.T, p *proxy, s apikey.Store, others ...apikey.Store) {
	t.Helper()
	account := "flush"
	var all []apikey.CredentialID
	for range used / 200 {
		var changes []apikey.StoreChange
		for range 200 {
			r := newRecord(account)
			r.Credentials = r.Credentials[:1]
			all, changes = append(all, r.Credentials[0].ID), append(changes, change(r))
		}
		must(t, s.Apply(t.Context(), changes...))
	}
	p.record(nil)
	begun := time.Now()
	must(t, flush(s, all, func(int) time.Time { return epoch }))
	first, statements := time.Since(begun), len(p.seen())
	wrong := misdated(t, s, account, epoch)

	begun = time.Now()
	must(t, flush(s, all, func(int) time.Time { return epoch.Add(-time.Hour) }))
	left := time.Since(begun)
	wrong += misdated(t, s, account, epoch)

	// Each node was used at times of its own: every key last on another one.
	nodes := append([]apikey.Store{s}, others...)
	last := epoch.Add(time.Hour)
	begun = time.Now()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for n, node := range nodes {
		wg.Go(func() {
			errs[n] = flush(node, all, func(i int) time.Time {
				if i%len(nodes) == n {
					return last
				}
				return last.Add(-time.Duration(1+i%100) * time.Second)
			})
		})
	}
	wg.Wait()
	together := time.Since(begun)
	for n, err := range errs {
		if err != nil {
			t.Errorf("node %d: %v", n, err)
		}
	}
	wrong += misdated(t, s, account, last)
	t.Logf("last uses of %d keys: %v, %d statements; where nothing is to be written %v; by %d nodes at once %v; backwards in time or lost %d of %d",
		len(all), first.Round(time.Millisecond), statements, left.Round(time.Millisecond), len(nodes), together.Round(time.Millisecond), wrong, 3*len(all))
	if wrong != 0 || statements > 200 || first > flushEvery {
		t.Fail()
	}
}

// flush writes the last uses as a Verifier does: in batches, in the order of their
// IDs, and what the store could not take once more a little later.
func flush(s apikey.Store, all []apikey.CredentialID, at func(i int) time.Time) error {
	uses := make([]apikey.StoreUpkeep, len(all))
	for i, id := range all {
		uses[i] = apikey.StoreUpkeep{Credential: id, LastUsed: at(i)}
	}
	slices.SortFunc(uses, func(a, b apikey.StoreUpkeep) int { return slices.Compare(a.Credential[:], b.Credential[:]) })
	for batch := range slices.Chunk(uses, flushBatch) {
		err := s.Upkeep(context.Background(), batch)
		for try := 1; err != nil && try < 5; try++ {
			time.Sleep(100 * time.Millisecond)
			err = s.Upkeep(context.Background(), batch)
		}
		if err != nil {
			return fmt.Errorf("a batch: %w", err)
		}
	}
	return nil
}

// misdated counts the keys that were not last used at a time.
func misdated(t *testing.T, s apikey.Store, account string, at time.Time) (wrong int) {
	t.Helper()
	seen := 0
	for f := (apikey.StoreFilter{Account: account, Limit: 1000}); ; {
		page, err := s.List(t.Context(), f)
		must(t, err)
		for _, r := range page.Records {
			seen++
			if !r.Credentials[0].LastUsed.Equal(at) {
				wrong++
			}
		}
		if f.After = page.Next; f.After == "" {
			break
		}
	}
	if seen != used {
		t.Errorf("%d keys were listed, want %d", seen, used)
	}
	return wrong
}
