// Package memstore keeps keys in memory. Its Store is the reference [apikey.Store]: use
// it in unit tests, or read it to see what the contract asks for. It is as simple as
// possible: one mutex, maps, and sorted lists. Nothing is written to disk and nothing is shared
// between processes, so a program that issues keys to merchants needs another store.
//
//	store := memstore.New()
//	mgr, err := apikey.NewManager(ctx, apikey.Settings{Store: store, …}, apikey.ManagerConfig{})
//
// The activity log and the change feed grow until the Store is dropped: about one
// kilobyte for each change.
package memstore

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/go-apikey/apikey"
)

// Store is an [apikey.Store] in memory. It is safe for concurrent use and
// starts no goroutine. Make one with [New].
type Store struct {
	mu sync.Mutex
	data
}

var _ apikey.Store = (*Store)(nil)

// New returns an empty Store.
func New() *Store { return &Store{data: newData()} }

// InTransaction is false: a Store in memory cannot join a transaction of its caller, so
// [apikey.Manager.Tx] refuses it.
func (s *Store) InTransaction() bool { return false }

// Get implements [apikey.Store].
func (s *Store) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	if err := ctx.Err(); err != nil {
		return apikey.StoreRecord{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(id)
}

// Lookup implements [apikey.Store].
func (s *Store) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	if err := ctx.Err(); err != nil {
		return apikey.StoreRecord{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, ok := s.owners[id]
	if !ok {
		return apikey.StoreRecord{}, apikey.ErrNotFound
	}
	return s.get(owner)
}

func (s *Store) get(id apikey.KeyID) (apikey.StoreRecord, error) {
	row, ok := s.records[id]
	if !ok {
		return apikey.StoreRecord{}, apikey.ErrNotFound
	}
	return cloneRecord(row.StoreRecord), nil
}

// List implements [apikey.Store].
func (s *Store) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	from, limit, err := begin(ctx, f.After, listCursor, f.Limit)
	if err != nil {
		return apikey.StorePage{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shown, more := take(newestFirst(s.order, from), limit, func(p place) bool {
		row := s.records[p.id]
		return f.Match(&row.StoreRecord)
	})
	var page apikey.StorePage
	for _, p := range shown {
		page.Records = append(page.Records, cloneRecord(s.records[p.id].StoreRecord))
	}
	if more {
		page.Next = shown[limit-1].cursor(listCursor)
	}
	return page, nil
}

// Events implements [apikey.Store]. If the filter has a Chain and no Key, Events returns
// ErrInvalid.
func (s *Store) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	kind := logCursor
	if f.Chain {
		kind = chainCursor
	}
	from, limit, err := begin(ctx, f.After, kind, f.Limit)
	if err != nil {
		return apikey.StoreEventPage{}, err
	}
	if f.Chain && f.Key.IsZero() {
		return apikey.StoreEventPage{}, fmt.Errorf("%w: a chain is that of one key", apikey.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := newestFirst(s.log, from)
	if f.Chain {
		rows = onward(s.chains[f.Key], from)
	}
	shown, more := take(rows, limit, func(p place) bool {
		e := s.events[p.id]
		return f.Match(&e)
	})
	var page apikey.StoreEventPage
	for _, p := range shown {
		page.Events = append(page.Events, cloneEvent(s.events[p.id]))
	}
	if more {
		page.Next = shown[limit-1].cursor(kind)
	}
	return page, nil
}

// Changed implements [apikey.Store]. Every write of a record gets the next number of the
// feed. A cursor holds such a number and the ID of the event that was written with the
// record. If a [Store.Snapshot] from before that write is restored, the feed has another
// event at that number, or none. So Changed always notices such a cursor, and returns
// ErrCursorLost.
func (s *Store) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	from, limit, err := begin(ctx, after, feedCursor, limit)
	if err != nil {
		return apikey.StoreChanges{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if after == "" {
		return apikey.StoreChanges{Next: s.feedPlace(len(s.feed)).cursor(feedCursor), Current: true}, nil
	}
	if from.at < 0 || from.at > int64(len(s.feed)) || s.feedPlace(int(from.at)) != from {
		return apikey.StoreChanges{}, apikey.ErrCursorLost
	}
	var positions iter.Seq[int] = func(yield func(int) bool) {
		for n := int(from.at) + 1; n <= len(s.feed); n++ {
			if !yield(n) {
				return
			}
		}
	}
	// A record that was written more than once is shown only at its newest write.
	shown, more := take(positions, limit, func(n int) bool {
		row, kept := s.records[s.feed[n-1].key]
		return kept && row.feed == n
	})
	changes := apikey.StoreChanges{Next: after, More: more, Current: true}
	for _, n := range shown {
		changes.Records = append(changes.Records, cloneRecord(s.records[s.feed[n-1].key].StoreRecord))
		changes.Next = s.feedPlace(n).cursor(feedCursor)
	}
	return changes, nil
}

// Items implements [apikey.Store]. If the filter has no Kind, Items returns ErrInvalid.
func (s *Store) Items(ctx context.Context, f apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	_, limit, err := begin(ctx, "", "", f.Limit)
	if err != nil {
		return apikey.StoreItemPage{}, err
	}
	if f.Kind == "" {
		return apikey.StoreItemPage{}, fmt.Errorf("%w: items are read by Kind", apikey.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := s.itemIDs[f.Kind]
	start, found := slices.BinarySearch(ids, f.After)
	if found {
		start++
	}
	shown, more := take(slices.Values(ids[start:]), limit, func(id string) bool {
		sealedBy := s.items[itemName{f.Kind, id}].SealedKEK
		return (f.ID == "" || id == f.ID) &&
			(f.SealedKEKNot == "" || sealedBy != "" && sealedBy != f.SealedKEKNot)
	})
	var page apikey.StoreItemPage
	for _, id := range shown {
		page.Items = append(page.Items, cloneItem(s.items[itemName{f.Kind, id}]))
	}
	if more {
		page.Next = shown[limit-1]
	}
	return page, nil
}

// begin checks the arguments of a paged read. It returns the place to read on from, and
// the limit.
func begin(ctx context.Context, after apikey.Cursor, kind string, limit int) (place, int, error) {
	if err := ctx.Err(); err != nil {
		return place{}, 0, err
	}
	if limit == 0 {
		limit = 100
	}
	if limit < 1 || limit > 1000 {
		return place{}, 0, fmt.Errorf("%w: a limit is 1 to 1000, or 0 for 100", apikey.ErrInvalid)
	}
	from, err := parseCursor(after, kind)
	return from, limit, err
}

// take returns the first limit rows that match, and reports whether there are more.
func take[T any](rows iter.Seq[T], limit int, match func(T) bool) (shown []T, more bool) {
	for row := range rows {
		switch {
		case !match(row):
		case len(shown) == limit:
			return shown, true
		default:
			shown = append(shown, row)
		}
	}
	return shown, false
}
