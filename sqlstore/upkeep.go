package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"slices"

	"github.com/go-apikey/apikey"
)

// use is the last use of one credential, in microseconds.
type use struct {
	id apikey.CredentialID
	at moment
}

// usesAtOnce bounds the arguments of one statement: engines and poolers have
// limits, and beyond a few hundred rows a statement saves nothing more.
const usesAtOnce = 200

// Upkeep implements [apikey.Store]. The batch is one transaction, and the
// times of last use, of which a busy node has many, are a few statements.
//
// It never waits for a credential while it holds others: somebody's transaction
// may stay open for long with a key of the batch, and whoever revokes another
// one shall not have to wait for both. So it takes all of them at once or none,
// and begins again a moment later; after ten times it is ErrUnavailable.
func (s *Store) Upkeep(ctx context.Context, batch []apikey.Upkeep) error {
	if len(batch) == 0 {
		return ctx.Err()
	}
	uses, ids := lastUses(batch), credentialsIn(batch)
	return s.retry(ctx, "upkeep", func() error {
		return s.atomically(ctx, func(c conn) error {
			for chunk := range slices.Chunk(ids, usesAtOnce) {
				if err := s.claim(ctx, c, chunk); err != nil {
					return err
				}
			}
			for chunk := range slices.Chunk(uses, usesAtOnce) {
				q := s.engine.touch(chunk)
				if _, err := s.exec(ctx, c, q.sql, q.args...); err != nil {
					return err
				}
			}
			for _, u := range batch {
				if err := s.swap(ctx, c, u); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// claim does nothing in the caller's transaction, where nothing can be begun
// again.
func (s *Store) claim(ctx context.Context, c conn, ids []apikey.CredentialID) error {
	q := s.engine.claim(ids)
	if s.tx != nil || q.sql == "" {
		return nil
	}
	return s.each(ctx, c, q, func(*sql.Rows) error { return nil })
}

// swap replaces what still has its old value. Whether it had is not asked: who
// lost the race has nothing to do.
func (s *Store) swap(ctx context.Context, c conn, u apikey.Upkeep) error {
	if u.NewHash != "" {
		if _, err := s.exec(ctx, c, s.sql.swapHash, u.NewHash, blob(u.NewCheck), u.Credential[:], u.OldHash); err != nil {
			return err
		}
	}
	if len(u.NewSealed) > 0 {
		if _, err := s.exec(ctx, c, s.sql.swapSealed, blob(u.NewSealed), u.NewKEK, u.Credential[:], blob(u.OldSealed)); err != nil {
			return err
		}
	}
	return nil
}

// credentialsIn are the IDs of a batch, each once, in their order.
func credentialsIn(batch []apikey.Upkeep) []apikey.CredentialID {
	ids := make([]apikey.CredentialID, len(batch))
	for i, u := range batch {
		ids[i] = u.Credential
	}
	slices.SortFunc(ids, func(a, b apikey.CredentialID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids)
}

// lastUses has one entry a credential, the latest, in the order of their IDs,
// so that two nodes lock rows in the same order.
func lastUses(batch []apikey.Upkeep) []use {
	latest := map[apikey.CredentialID]int64{}
	for _, u := range batch {
		if u.LastUsed.IsZero() {
			continue
		}
		at := u.LastUsed.UnixMicro()
		if was, ok := latest[u.Credential]; !ok || at > was {
			latest[u.Credential] = at
		}
	}
	uses := make([]use, 0, len(latest))
	for id, at := range latest {
		uses = append(uses, use{id, moment{at, true}})
	}
	slices.SortFunc(uses, func(a, b use) int { return bytes.Compare(a.id[:], b.id[:]) })
	return uses
}
