package memstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Backend {
		s := memstore.New()
		return storetest.Backend{
			Store: s,
			Purge: s.Purge,
			Backup: func(*testing.T) func(*testing.T) {
				restore := s.Snapshot()
				return func(*testing.T) { restore() }
			},
		}
	})
}

var epoch = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

func record(n int) apikey.StoreRecord {
	return apikey.StoreRecord{
		ID: storetest.NewKeyID(), Account: "acct", Name: fmt.Sprint(n), Mode: apikey.Live, Kind: apikey.Secret, Version: 1,
		CreatedAt:   epoch.Add(time.Duration(n*7919%10_007) * time.Second), // in no order
		Credentials: []apikey.StoreCredential{{ID: storetest.NewCredentialID(), Hash: "hash"}},
	}
}

func write(r apikey.StoreRecord, items ...apikey.StoreItem) apikey.StoreChange {
	id := [16]byte(storetest.NewKeyID())
	return apikey.StoreChange{ID: id, Record: &r, Items: items, Event: &apikey.StoreEvent{
		ID: id, Time: r.CreatedAt, Account: r.Account, Mode: r.Mode, Key: r.ID, Seq: r.Version,
	}}
}

// contents holds everything that can be read from a store, except the feed.
type contents struct {
	records []apikey.StoreRecord
	events  []apikey.StoreEvent
	items   []apikey.StoreItem
}

func read(t *testing.T, s apikey.Store) contents {
	t.Helper()
	page, err := s.List(t.Context(), apikey.StoreFilter{Limit: 1000})
	require.NoError(t, err)
	events, err := s.Events(t.Context(), apikey.StoreEventFilter{Limit: 1000})
	require.NoError(t, err)
	items, err := s.Items(t.Context(), apikey.StoreItemFilter{Kind: "test", Limit: 1000})
	require.NoError(t, err)
	return contents{page.Records, events.Events, items.Items}
}

func TestSnapshotForgetsWhatCameLater(t *testing.T) {
	s, ctx := memstore.New(), t.Context()
	old, other := record(1), record(2)
	item := apikey.StoreItem{Kind: "test", ID: "m", Version: 1}
	require.NoError(t, s.Apply(ctx, write(old, item), write(other)))
	want := read(t, s)
	restore := s.Snapshot()

	for round := range 3 { // a snapshot can be restored more than once
		changed, fresh := old, record(0)
		changed.Version, changed.Name, changed.CreatedAt = 2, "later", epoch.AddDate(1, 0, 0)
		changed.Credentials = nil
		gone, before, after := item, item, item
		gone.Version, gone.Delete, before.ID, after.ID = 2, true, "a", "z"
		require.NoError(t, s.Apply(ctx, write(changed, gone, before, after), write(fresh)))
		require.NoError(t, s.Upkeep(ctx, []apikey.StoreUpkeep{{Credential: other.Credentials[0].ID, LastUsed: epoch}}))
		require.NotEqual(t, want, read(t, s), "round %d", round)

		restore()
		require.Equal(t, want, read(t, s), "round %d", round)
		_, err := s.Lookup(ctx, fresh.Credentials[0].ID)
		require.ErrorIs(t, err, apikey.ErrNotFound)
		got, err := s.Lookup(ctx, old.Credentials[0].ID)
		require.NoError(t, err)
		require.Equal(t, old, got)
		chain, err := s.Events(ctx, apikey.StoreEventFilter{Key: old.ID, Chain: true})
		require.NoError(t, err)
		require.Len(t, chain.Events, 1)
	}
}

func TestSnapshotLosesCursors(t *testing.T) {
	s, ctx := memstore.New(), t.Context()
	position := func() apikey.Cursor {
		c, err := s.Changed(ctx, "", 1)
		require.NoError(t, err)
		return c.Next
	}
	empty := position()
	require.NoError(t, s.Apply(ctx, write(record(1))))
	kept := position()
	restore := s.Snapshot()
	require.NoError(t, s.Apply(ctx, write(record(2))))
	lost := position()
	restore()

	_, err := s.Changed(ctx, lost, 1)
	require.ErrorIs(t, err, apikey.ErrCursorLost)
	require.NoError(t, s.Apply(ctx, write(record(3))))
	_, err = s.Changed(ctx, lost, 1)
	require.ErrorIs(t, err, apikey.ErrCursorLost)
	for cursor, want := range map[apikey.Cursor]int{empty: 2, kept: 1} {
		c, err := s.Changed(ctx, cursor, 10)
		require.NoError(t, err)
		require.Len(t, c.Records, want)
	}
}

// The clock in the synctest bubble stands still, so the bound is tested to the nanosecond.
func TestPurgeBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		for _, c := range []struct {
			age   time.Duration
			limit int
			want  error
		}{
			{24 * time.Hour, 1, nil},
			{25 * time.Hour, 1, nil},
			{24*time.Hour - 1, 1, apikey.ErrInvalid},
			{0, 1, apikey.ErrInvalid},
			{-time.Hour, 1, apikey.ErrInvalid},
			{24 * time.Hour, 0, apikey.ErrInvalid},
			{24 * time.Hour, -1, apikey.ErrInvalid},
		} {
			_, err := s.Purge(t.Context(), time.Now().Add(-c.age), c.limit)
			require.ErrorIs(t, err, c.want, "%+v", c)
		}
	})
}

func TestMisuseIsRefused(t *testing.T) {
	s, ctx := memstore.New(), t.Context()
	r := record(1)
	require.NoError(t, s.Apply(ctx, write(r), write(record(2))))
	page, err := s.List(ctx, apikey.StoreFilter{Limit: 1})
	require.NoError(t, err)
	list := page.Next
	mismatch := write(record(3))
	mismatch.ID = [16]byte{1}
	eventless := write(record(3))
	eventless.Event = nil
	for name, call := range map[string]func() error{
		"event of another change": func() error { return s.Apply(ctx, mismatch) },
		"record without event":    func() error { return s.Apply(ctx, eventless) },
		"item without kind":       func() error { return s.Apply(ctx, write(record(3), apikey.StoreItem{ID: "x", Version: 1})) },
		"item without ID":         func() error { return s.Apply(ctx, write(record(3), apikey.StoreItem{Kind: "test", Version: 1})) },
		"items of every kind":     func() error { _, err := s.Items(ctx, apikey.StoreItemFilter{}); return err },
		"chain of every key":      func() error { _, err := s.Events(ctx, apikey.StoreEventFilter{Chain: true}); return err },
		"cursor of List in Events": func() error {
			_, err := s.Events(ctx, apikey.StoreEventFilter{After: list})
			return err
		},
		"cursor of List in Changed": func() error { _, err := s.Changed(ctx, list, 1); return err },
		"cursor cut short":          func() error { _, err := s.List(ctx, apikey.StoreFilter{After: list[:len(list)-1]}); return err },
		"Changed of 1001":           func() error { _, err := s.Changed(ctx, "", 1001); return err },
	} {
		require.ErrorIs(t, call(), apikey.ErrInvalid, name)
	}
	require.Len(t, read(t, s).records, 2)
}

// The changes of one Apply are applied one after the other.
func TestChangesBuildOnEachOther(t *testing.T) {
	s, ctx := memstore.New(), t.Context()
	first := record(1)
	second := first
	second.Version, second.Name = 2, "second"
	item := func(version uint64, gone bool) apikey.StoreItem {
		return apikey.StoreItem{Kind: "test", ID: "x", Version: version, Delete: gone}
	}
	require.NoError(t, s.Apply(ctx, write(first, item(1, false), item(2, false)), write(second, item(3, true), item(1, false))))
	got := read(t, s)
	require.Equal(t, []apikey.StoreRecord{second}, got.records)
	require.Equal(t, []apikey.StoreItem{item(1, false)}, got.items)
	require.Len(t, got.events, 2)
}

// If a change has no event, Apply never takes it for committed already, even if another
// change with the same ID has stored an event.
func TestItemsAreNotFoundByAnothersEvent(t *testing.T) {
	s, ctx := memstore.New(), t.Context()
	c := write(record(1))
	require.NoError(t, s.Apply(ctx, c))
	stale := apikey.StoreChange{ID: c.ID, Items: []apikey.StoreItem{{Kind: "test", ID: "x", Version: 2}}}
	require.ErrorIs(t, s.Apply(ctx, stale), apikey.ErrConflict)
}

// A time with nanoseconds comes back truncated and in UTC, as a database returns it.
func TestTimesAreTruncated(t *testing.T) {
	s, ctx := memstore.New(), t.Context()
	r := record(1)
	r.ExpiresAt = epoch.Add(1999).In(time.FixedZone("", 3600))
	require.NoError(t, s.Apply(ctx, write(r)))
	got, err := s.Get(ctx, r.ID)
	require.NoError(t, err)
	require.Equal(t, epoch.Add(time.Microsecond), got.ExpiresAt)
}

func TestTenThousand(t *testing.T) {
	const n = 10_000
	s, ctx := memstore.New(), t.Context()
	for i := range n {
		require.NoError(t, s.Apply(ctx, write(record(i))))
	}
	records, events := 0, 0
	for f := (apikey.StoreFilter{Account: "acct", Limit: 100}); ; {
		page, err := s.List(ctx, f)
		require.NoError(t, err)
		records += len(page.Records)
		if f.After = page.Next; f.After == "" {
			break
		}
	}
	for f := (apikey.StoreEventFilter{Account: "acct", Limit: 100}); ; {
		page, err := s.Events(ctx, f)
		require.NoError(t, err)
		events += len(page.Events)
		if f.After = page.Next; f.After == "" {
			break
		}
	}
	require.Equal(t, [2]int{n, n}, [2]int{records, events})
}

// Snapshots are made and restored while other goroutines read and write. The race
// detector checks the accesses.
func TestSnapshotUnderTraffic(t *testing.T) {
	s := memstore.New()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i := range 50 {
				r := record(i)
				ctx := context.Background()
				_ = s.Apply(ctx, write(r))
				_ = s.Upkeep(ctx, []apikey.StoreUpkeep{{Credential: r.Credentials[0].ID, LastUsed: epoch}})
				page, err := s.List(ctx, apikey.StoreFilter{})
				if err != nil {
					t.Errorf("List: %v", err)
				}
				for _, r := range page.Records {
					r.Credentials[0].Hash = "mine"
				}
			}
		})
	}
	for range 20 {
		s.Snapshot()()
	}
	wg.Wait()
	page, err := s.List(t.Context(), apikey.StoreFilter{Limit: 1000})
	require.NoError(t, err)
	for _, r := range page.Records {
		require.Equal(t, "hash", r.Credentials[0].Hash)
	}
}
