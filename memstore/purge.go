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
// A time later than 24 hours ago is ErrInvalid: for that long, an expired challenge,
// idempotency key or count of wrong answers is still compared with. A limit below 1 is
// ErrInvalid too.
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

// Snapshot remembers what the Store holds. The function that it returns puts
// the Store back to that, as restoring a backup does, and may be called more
// than once: changes made after the snapshot are forgotten, and a cursor of
// [Store.Changed] that was given out after one of them is lost.
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
