package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

// errMismatch: the comparison in a write failed. It never leaves the package.
var errMismatch = errors.New("sqlstore: not the version that was compared with")

// Apply implements [apikey.Store]. A StoreChange that no store could keep, such as a
// StoreRecord without its Event, is ErrInvalid.
//
// Every write is also a comparison: it succeeded if it wrote a row. So Apply relies on no
// isolation level: two nodes that read the same version cannot both write the next one.
func (s *Store) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	for _, ch := range changes {
		if err := check(ch, s.engine.latest()); err != nil {
			return err
		}
	}
	if len(changes) == 0 {
		return ctx.Err()
	}
	return s.retry(ctx, "apply", func() error {
		err := s.atomically(ctx, func(c conn) error { return s.write(ctx, c, changes) })
		// Not errors.Is: if errMismatch is wrapped, the writes could not be rolled back.
		if err == errMismatch {
			return s.afterConflict(ctx, changes)
		}
		return err
	})
}

func check(ch apikey.StoreChange, latest time.Time) error {
	switch {
	case outside(ch, latest):
		return fmt.Errorf("%w: a time is not of the years 1 to %d", apikey.ErrInvalid, latest.Year())
	case ch.Record != nil && ch.Event == nil:
		return fmt.Errorf("%w: a record is never written without its event", apikey.ErrInvalid)
	case ch.Event != nil && ch.Event.ID != ch.ID:
		return fmt.Errorf("%w: the event's ID is the change's ID", apikey.ErrInvalid)
	}
	for _, it := range ch.Items {
		if it.Kind == "" || it.ID == "" {
			return fmt.Errorf("%w: an item has a Kind and an ID", apikey.ErrInvalid)
		}
	}
	return nil
}

// afterConflict returns nil if an earlier Apply of the same changes succeeded and only
// its answer was lost, and ErrConflict if another change came first. The failed attempt
// is rolled back by now, so an event that exists is from an earlier Apply.
func (s *Store) afterConflict(ctx context.Context, changes []apikey.StoreChange) error {
	for _, ch := range changes {
		if ch.Event == nil {
			return apikey.ErrConflict
		}
		found, err := s.exists(ctx, s.reads(), s.sql.hasEvent, ch.ID[:])
		if err != nil {
			return s.endTx(err)
		}
		if !found {
			return apikey.ErrConflict
		}
	}
	return nil
}

func (s *Store) exists(ctx context.Context, c conn, statement string, args ...any) (found bool, err error) {
	var v verdict
	err = s.each(ctx, c, query{sql: statement, args: args}, func(rows *sql.Rows) error { return rows.Scan(&v, &found) })
	return found, cmp.Or(err, v.err())
}

func (s *Store) write(ctx context.Context, c conn, changes []apikey.StoreChange) error {
	for _, ch := range changes {
		if ch.Record != nil {
			if err := s.writeRecord(ctx, c, ch); err != nil {
				return err
			}
		}
		for _, it := range ch.Items {
			if err := s.writeItem(ctx, c, it); err != nil {
				return err
			}
		}
		if ch.Event != nil {
			if err := s.must(ctx, c, s.sql.insertEvent, eventArgs(ch)); err != nil {
				return err
			}
		}
	}
	return nil
}

// must runs a statement whose comparison has failed if it writes no row.
func (s *Store) must(ctx context.Context, c conn, statement string, args []any) error {
	n, err := s.exec(ctx, c, statement, args...)
	switch {
	case err == nil && n == 0, err != nil && s.engine.duplicate(err):
		return s.mismatch(ctx, c)
	case err != nil && s.engine.unfitWrite(err):
		return errUnfit
	}
	return err
}

// mismatch returns why a comparison failed: the session or its server must not be written
// to, or else another change came first (errMismatch).
func (s *Store) mismatch(ctx context.Context, c conn) error {
	return cmp.Or(s.checkWritable(ctx, c), errMismatch)
}

// checkWritable returns an error if the session or its server must not be written to.
func (s *Store) checkWritable(ctx context.Context, c conn) error {
	if s.sql.verdict == "" {
		return nil
	}
	var v verdict
	err := s.each(ctx, c, query{sql: s.sql.verdict}, func(rows *sql.Rows) error { return rows.Scan(&v) })
	return cmp.Or(err, v.err())
}

func (s *Store) writeRecord(ctx context.Context, c conn, ch apikey.StoreChange) error {
	r := ch.Record
	if s.sql.nextPlace != "" {
		if _, err := s.exec(ctx, c, s.sql.nextPlace, ch.ID[:]); err != nil {
			return err
		}
	}
	args := append(keyArgs(r, ch.ID), r.ID[:])
	statement := s.sql.insertKey
	if r.Version != 1 {
		statement, args = s.sql.updateKey, append(args, int64(r.Version-1))
	}
	if err := s.must(ctx, c, statement, args); err != nil {
		return err
	}
	return s.writeCredentials(ctx, c, r)
}

// changeable has the columns of a stored credential that Apply may change. Only Upkeep
// changes the others.
type changeable struct {
	position            int64
	notBefore, notAfter moment
	ended               int64
	hint, public        string
	pepper              int64
}

// writeCredentials writes only the credentials that differ from the stored ones: most
// changes of a key change no credential. The key's own row is written before, which locks
// it, so no other Apply writes these credentials meanwhile. Upkeep may, but it writes
// other columns.
func (s *Store) writeCredentials(ctx context.Context, c conn, r *apikey.StoreRecord) error {
	stored, err := s.storedCredentials(ctx, c, r)
	if err != nil {
		return err
	}
	unseal := !r.RevokedAt.IsZero()
	for i := range r.Credentials {
		cred := &r.Credentials[i]
		unseal = unseal || cred.Ended
		want := changeableOf(cred, i)
		was, ok := stored[cred.ID]
		delete(stored, cred.ID)
		switch {
		case !ok:
			args := append(append(want.args(), upkeepArgs(cred)...), cred.ID[:], r.ID[:])
			err = s.must(ctx, c, s.sql.insertCredential, args)
		case was != want:
			_, err = s.exec(ctx, c, s.sql.updateCredential, append(want.args(), cred.ID[:])...)
		}
		if err != nil {
			return err
		}
	}
	for id := range stored {
		if _, err := s.exec(ctx, c, s.sql.dropCredential, id[:]); err != nil {
			return err
		}
	}
	if !unseal {
		return nil
	}
	// The token of an ended credential or a revoked key is never revealed again. So its
	// sealed copy is deleted: an attacker who reads the database and gets the KEK later
	// shall not be able to open it.
	_, err = s.exec(ctx, c, s.sql.unseal, r.ID[:], flag(!r.RevokedAt.IsZero()))
	return err
}

func (s *Store) storedCredentials(ctx context.Context, c conn, r *apikey.StoreRecord) (map[apikey.CredentialID]changeable, error) {
	stored := map[apikey.CredentialID]changeable{}
	if r.Version == 1 {
		return stored, nil
	}
	err := s.each(ctx, c, query{sql: s.sql.credentialsOf, args: []any{r.ID[:]}}, func(rows *sql.Rows) error {
		var (
			id []byte
			k  changeable
		)
		if err := rows.Scan(&id, &k.position, &k.notBefore, &k.notAfter, &k.ended, &k.hint, &k.public, &k.pepper); err != nil {
			return err
		}
		var known apikey.CredentialID
		copy(known[:], id)
		stored[known] = k
		return nil
	})
	return stored, err
}

func (s *Store) writeItem(ctx context.Context, c conn, it apikey.StoreItem) error {
	name := []any{string(it.Kind), it.ID}
	was := int64(it.Version - 1)
	switch {
	case it.Delete && it.Version == 1: // only compares: there must be no item to delete
		found, err := s.exists(ctx, c, s.sql.hasItem, name...)
		if err == nil && found {
			return errMismatch
		}
		return err
	case it.Delete:
		return s.must(ctx, c, s.sql.deleteItem, append(name, was))
	case it.Version == 1:
		return s.must(ctx, c, s.sql.insertItem, append(itemArgs(it), name...))
	}
	return s.must(ctx, c, s.sql.updateItem, append(append(itemArgs(it), name...), was))
}
