package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// The attack suite. Each test prints its figure and holds a bound. As it is run
// by default it makes at least a hundredth of the attempts, with the same
// bounds; -full makes all of them.
var full = flag.Bool("full", false, "make all attempts of the attack suite, not a hundredth")

// attempts is n, or a hundredth.
func attempts(n int) int {
	if *full {
		return n
	}
	return max(1, n/100)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// gauge is a Store that counts its reads by credential, and how many there are
// at once.
type gauge struct {
	apikey.Store
	now, most, reads atomic.Int64
	delay            time.Duration // a database is not this process
}

func (g *gauge) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	g.reads.Add(1)
	raise(&g.most, g.now.Add(1))
	defer g.now.Add(-1)
	if g.delay > 0 {
		time.Sleep(g.delay)
	}
	return g.Store.Lookup(ctx, id)
}

// hashes is a Hasher that counts runs, and how many there are at once.
type hashes struct {
	apikey.Hasher
	runs atomic.Int64
}

func (h *hashes) Verify(ctx context.Context, encoded string, secret []byte) (bool, error) {
	ok, err := h.Hasher.Verify(ctx, encoded, secret)
	if !errors.Is(err, apikey.ErrBusy) && !errors.Is(err, apikey.ErrUnavailable) {
		h.runs.Add(1)
	}
	return ok, err
}

func raise(most *atomic.Int64, n int64) {
	for old := most.Load(); n > old; old = most.Load() {
		if most.CompareAndSwap(old, n) {
			return
		}
	}
}

// traffic sends requests at fixed times, whether or not the one before is
// answered, and counts the time from when each was due: a slow answer does not
// hide those that wait behind it.
func traffic(perSecond int, during time.Duration, ask func(i int) error) (took []time.Duration, errs map[string]int) {
	n := max(1, int(during.Seconds()*float64(perSecond)))
	took = make([]time.Duration, n)
	errs = map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		wg.Go(func() {
			err := ask(i)
			took[i] = time.Since(due)
			if err != nil {
				mu.Lock()
				errs[err.Error()]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return took, errs
}

func percentile(took []time.Duration, p float64) time.Duration {
	s := slices.Sorted(slices.Values(took))
	return s[min(len(s)-1, int(float64(len(s))*p))]
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
