package sqlstore

import (
	"context"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

// Purge removes records that were revoked before the given time, with their
// credentials, and items that expired before that time: at most limit of them together,
// records first, the earliest of each first, in one transaction. Purge returns how many
// it removed; call it until the result is less than limit. Events stay, and so do items
// that never expire, and keys that are expired or suspended but not revoked.
//
// A time later than 24 hours ago is ErrInvalid: for that long, an expired challenge,
// idempotency key or count of wrong answers is still compared with. A limit below 1 is
// ErrInvalid too. Purge is the only write of this package that is not retried: the
// caller calls Purge again.
func (s *Store) Purge(ctx context.Context, before time.Time, limit int) (int, error) {
	switch {
	case limit < 1:
		return 0, fmt.Errorf("%w: purge at least 1", apikey.ErrInvalid)
	case before.After(time.Now().Add(-24 * time.Hour)):
		return 0, fmt.Errorf("%w: purge only what is older than 24 hours", apikey.ErrInvalid)
	}
	var keys, items int64
	err := s.atomically(ctx, func(c conn) (err error) {
		if err = s.checkWritable(ctx, c); err != nil {
			return err
		}
		bound := ceil(before)
		if _, err = s.exec(ctx, c, s.sql.purgeCredentials, bound, limit); err != nil {
			return err
		}
		if keys, err = s.exec(ctx, c, s.sql.purgeKeys, bound, limit); err != nil {
			return err
		}
		if rest := int64(limit) - keys; rest > 0 {
			items, err = s.exec(ctx, c, s.sql.purgeItems, bound, rest)
		}
		return err
	})
	if err != nil {
		return 0, s.failure(ctx, "purge", err)
	}
	return int(keys + items), nil
}
