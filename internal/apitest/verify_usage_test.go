package apitest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Without a cache every verification has a record of its own. To remember its use takes a
// time, not the record.
func TestUsesHoldNoKeys(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxEntries = -1 })
	meta := map[string]string{}
	for i := range 50 {
		meta[fmt.Sprintf("name-%d", i)] = string(slices.Repeat([]byte("x"), 500))
	}
	k := e.issue(func(r *apikey.IssueRequest) { r.Metadata = meta })
	for range 10 {
		require.NoError(t, e.verify(k.Token))
	}
	gate := make(chan struct{})
	defer close(gate)
	s.set(func(s *spy) {
		s.upkeep = func(context.Context, []apikey.StoreUpkeep, func() error) error { <-gate; return nil }
		s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			r, err := next()
			for n, v := range r.Metadata { // as a driver does, each row is memory of its own
				r.Metadata[n] = string([]byte(v))
			}
			return r, err
		}
	})
	before := heap()
	for range 5000 {
		require.NoError(t, e.verify(k.Token))
	}
	grown := int64(heap()) - int64(before)
	require.Less(t, grown, int64(40<<20), "memory kept by 5000 verifications of one key")
}

// Lists of abilities are shared by keys, and kept. A row may hold any number.
func TestAbilitiesOfAForgedRowAreNotKept(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k := e.issue()
	require.NoError(t, e.verify(k.Token))
	r, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	before := heap()
	for i := range 50 {
		forged := r
		forged.Abilities = slices.Repeat([]string{"payment:refund"}, 50_000+i)
		lie(e, s, forged)
		e.clock.move(2*e.maxAge() + time.Second)
		require.ErrorIs(t, e.verify(k.Token), apikey.ErrCorrupt)
	}
	s.set(func(s *spy) { s.lookup = nil })
	require.NoError(t, e.verify(k.Token))
	grown := int64(heap()) - int64(before)
	require.Less(t, grown, int64(20<<20), "memory kept of rows that nobody believed")
}

// A write that never ends is left behind, and the next uses are written.
func TestAWriteOfUsesThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		e := newEnv(t, watch(&s), realTime)
		k := e.issue()
		require.NoError(t, e.verifier.Sync(background))
		gate := make(chan struct{})
		defer e.verifier.Close(background)
		defer close(gate)
		var asked atomic.Int64
		s.set(func(s *spy) {
			s.upkeep = func(_ context.Context, _ []apikey.StoreUpkeep, next func() error) error {
				if asked.Add(1) == 1 {
					<-gate
				}
				return next()
			}
		})
		for range 150 { // two windows of use, and some
			require.NoError(t, e.verify(k.Token))
			time.Sleep(time.Second)
		}
		require.Greater(t, asked.Load(), int64(1), "nobody's use is written any more")
	})
}
