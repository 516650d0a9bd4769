package sqlstore

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
// caller calls Purge again. [Store.PurgeDaily] does all of that.
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

// PurgeDaily calls [Store.Purge] until nothing is left to remove, once a day, until ctx
// ends; then it returns. It starts no goroutine, so the program starts one for it:
//
//	go store.PurgeDaily(ctx, 90*24*time.Hour, logger)
//
// keep is how long a revoked key and an expired item stay, by the clock of this
// process. Less than 24 hours, and 0, is 24 hours. The role of the database session is
// that of a manager (see [Roles]).
//
// One process of a program is enough; several do no harm, because each finds what the
// others have left. The first purge is within ten minutes, the next ones 23 to 25 hours
// apart, at random, so that processes that start together do not purge together. It
// removes a thousand at a time and pauses between, so that others can write meanwhile.
//
// If a purge fails, log gets a warning, and the next attempt is within ten minutes. log
// also says how many were removed, if any. nil: silent.
func (s *Store) PurgeDaily(ctx context.Context, keep time.Duration, log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	keep = max(keep, 24*time.Hour)
	for wait := rand.N(purgeSoon); sleep(ctx, wait); {
		before := time.Now().Add(-keep)
		purged, err := s.purgeAll(ctx, before)
		wait = purgeEvery + rand.N(purgeSpread)
		if err != nil && ctx.Err() == nil {
			log.Warn("apikey: purge failed", "before", before, "error", err)
			wait = purgeSoon/2 + rand.N(purgeSoon/2)
		}
		if purged > 0 {
			log.Info("apikey: purged", "removed", purged, "before", before)
		}
	}
}

// How PurgeDaily spreads its work.
const (
	purgeSoon   = 10 * time.Minute // at most, until the first purge or after a failure
	purgeEvery  = 23 * time.Hour
	purgeSpread = 2 * time.Hour
	purgeChunk  = 1000                   // in one transaction
	purgeRest   = 100 * time.Millisecond // between two transactions: SQLite has one writer
	purgeTime   = time.Minute            // for one transaction
)

// purgeAll purges chunk after chunk. With an error it says how many went before.
func (s *Store) purgeAll(ctx context.Context, before time.Time) (purged int, err error) {
	for {
		n, err := s.purgeOnce(ctx, before)
		purged += n
		if err != nil || n < purgeChunk {
			return purged, err
		}
		if !sleep(ctx, purgeRest) {
			return purged, ctx.Err()
		}
	}
}

func (s *Store) purgeOnce(ctx context.Context, before time.Time) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, purgeTime)
	defer cancel()
	return s.Purge(ctx, before, purgeChunk)
}
