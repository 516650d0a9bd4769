package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

// use is the last use of one credential. It is written if no last use is stored, or if
// the stored one is earlier than the time before, or later than the database's clock.
type use struct {
	id         apikey.CredentialID
	at, before moment
}

// usesAtOnce bounds the arguments of one statement: engines and poolers have limits, and
// a statement of more than a few hundred rows saves no more time.
const usesAtOnce = 200

// Upkeep implements [apikey.Store]. The batch is one transaction. The times of last use,
// of which a busy node has many, are written by a few statements.
//
// Upkeep never waits for a credential while it holds locks on others. Another transaction
// may hold a key of the batch for long, and a caller who revokes a different key must not
// wait for both. So Upkeep locks all credentials of the batch at once or none, and begins
// again a moment later; after ten attempts it returns ErrUnavailable.
func (s *Store) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	if len(batch) == 0 {
		return ctx.Err()
	}
	uses, ids := lastUses(batch), swapped(batch)
	return s.retry(ctx, "upkeep", func() error {
		return s.atomically(ctx, func(c conn) error {
			if err := s.checkWritable(ctx, c); err != nil {
				return err
			}
			for chunk := range slices.Chunk(ids, usesAtOnce) {
				if _, err := s.claim(ctx, c, s.engine.claim(chunk)); err != nil {
					return err
				}
			}
			due := slices.Clone(uses)
			for i, chunk := range uses {
				claimed, err := s.claim(ctx, c, s.engine.claimUses(chunk))
				if err != nil {
					return err
				}
				due[i] = claimed.of(chunk)
			}
			for _, chunk := range due {
				if len(chunk) == 0 {
					continue
				}
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

// claimed are the credentials that a transaction has locked; nil if it need not lock any.
type claimed map[apikey.CredentialID]bool

// of returns the uses whose credentials are claimed, or all if c is nil. The others are
// not due: touch would examine them again, and wait for a transaction that has one of
// them locked.
func (c claimed) of(uses []use) []use {
	if c == nil {
		return uses
	}
	var due []use
	for _, u := range uses {
		if c[u.id] {
			due = append(due, u)
		}
	}
	return due
}

// claim locks the credentials of a query and returns them. In the caller's transaction it
// does nothing, because nothing can be begun again there.
func (s *Store) claim(ctx context.Context, c conn, q query) (claimed, error) {
	if s.tx != nil || q.sql == "" {
		return nil, nil
	}
	all := claimed{}
	err := s.each(ctx, c, q, func(rows *sql.Rows) error {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			return err
		}
		all[apikey.CredentialID(id)] = true
		return nil
	})
	return all, err
}

// swap replaces a hash or a sealed copy that still has its old value. Whether it had is
// not checked: if another node was faster, there is nothing to do.
func (s *Store) swap(ctx context.Context, c conn, u apikey.StoreUpkeep) error {
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

// swapped returns the credentials of a batch whose hash or sealed copy may be replaced,
// each once, in the order of their IDs.
func swapped(batch []apikey.StoreUpkeep) []apikey.CredentialID {
	var ids []apikey.CredentialID
	for _, u := range batch {
		if u.NewHash != "" || len(u.NewSealed) > 0 {
			ids = append(ids, u.Credential)
		}
	}
	slices.SortFunc(ids, func(a, b apikey.CredentialID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids)
}

// lastUses returns the last uses of a batch in chunks, one for each statement. No chunk
// has a credential twice, or more rows than one statement may have. Each chunk is in the
// order of the IDs, so that two nodes lock rows in the same order.
func lastUses(batch []apikey.StoreUpkeep) (chunks [][]use) {
	var rounds [][]use
	seen := map[apikey.CredentialID]int{}
	for _, u := range batch {
		if !u.LastUsed.After(time.Time{}) {
			continue
		}
		next := use{u.Credential, at(u.LastUsed), at(u.UsedBefore)}
		if u.UsedBefore.IsZero() || next.before.micros > next.at.micros {
			next.before = next.at
		}
		n := seen[u.Credential]
		if seen[u.Credential]++; n == len(rounds) {
			rounds = append(rounds, nil)
		}
		rounds[n] = append(rounds[n], next)
	}
	for _, uses := range rounds {
		slices.SortFunc(uses, func(a, b use) int { return bytes.Compare(a.id[:], b.id[:]) })
		chunks = slices.AppendSeq(chunks, slices.Chunk(uses, usesAtOnce))
	}
	return chunks
}
