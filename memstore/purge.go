package memstore

import (
	"context"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

// Purge removes records that were revoked before the given time and items that expired
// before it, at most limit of them together, and returns how many it removed. Call it
// until it returns less than limit. Events stay, and so do items that never expire.
//
// If before is later than 24 hours ago, Purge returns ErrInvalid: an expired challenge,
// idempotency key or count of wrong answers is still read for up to 24 hours. Purge also
// returns ErrInvalid if limit is below 1.
func (s *Store) Purge(ctx context.Context, before time.Time, limit int) (int, error) {
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case limit < 1:
		return 0, fmt.Errorf("%w: purge at least 1", apikey.ErrInvalid)
	case before.After(time.Now().Add(-24 * time.Hour)):
		return 0, fmt.Errorf("%w: purge only what is older than 24 hours", apikey.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	purged := 0
	for id, r := range s.records {
		if purged < limit && !r.RevokedAt.IsZero() && r.RevokedAt.Before(before) {
			s.deleteRecord(id)
			purged++
		}
	}
	for name, it := range s.items {
		if purged < limit && !it.ExpiresAt.IsZero() && it.ExpiresAt.Before(before) {
			s.deleteItem(name)
			purged++
		}
	}
	return purged, nil
}

// Snapshot makes a copy of the Store's contents and returns a function that restores
// them, as from a backup. The function may be called more than once. It undoes all
// changes made since the snapshot, and [Store.Changed] returns ErrCursorLost for cursors
// that it returned after such a change.
func (s *Store) Snapshot() (restore func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	saved := s.clone()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.data = saved.clone()
	}
}
