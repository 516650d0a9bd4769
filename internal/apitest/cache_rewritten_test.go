package apitest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// A backup that is put back table by table shows a store without keys for a
// while, and then the keys as they were alive. Who saw one die refuses it all
// the way, and asks no more often than for any other.
func TestADeathOutlivesAnEmptyStore(t *testing.T) {
	store := memstore.New()
	var s *spy
	e := newEnv(t, func(e *env) { e.store = store }, watch(&s))
	empty := store.Snapshot()
	revoked, suspended, rotated, living := e.issue(), e.issue(), e.issue(), e.issue()
	full := store.Snapshot()
	require.NoError(t, e.verify(living.Token))
	for _, k := range []apikey.Issued{revoked, suspended, rotated} {
		require.NoError(t, e.verify(k.Token))
	}
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: revoked.Key.ID}))
	require.NoError(t, e.manager.Suspend(e.ctx, suspended.Key.ID))
	_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: rotated.Key.ID})
	require.NoError(t, err)
	refused := func() {
		t.Helper()
		require.NoError(t, e.verifier.Sync(background))
		for range 3 {
			require.ErrorIs(t, e.verify(revoked.Token), apikey.ErrRevoked)
			require.ErrorIs(t, e.verify(suspended.Token), apikey.ErrSuspended)
			require.ErrorIs(t, e.verify(rotated.Token), apikey.ErrCredentialEnded)
		}
	}
	refused()

	empty()
	asked := s.lookups.Load()
	refused()
	require.ErrorIs(t, e.verify(living.Token), apikey.ErrInvalidToken, "the store has no such key")
	require.LessOrEqual(t, s.lookups.Load()-asked, int64(3+2), "each was read again, once")

	full()
	e.clock.move(3 * time.Second) // absence is forgotten
	require.NoError(t, verifyBy(e.newVerifier(), revoked.Token), "the premise")
	refused()
	require.NoError(t, e.verify(living.Token))
}

// Somebody moves a credential to another key, past the library. A warm proof does
// not keep it where it was: whoever reads it again finds a record that nobody
// signed.
func TestAMovedCredentialIsNotReadAround(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	key, other := e.issue(), e.issue()
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.verifier.Sync(background)) // the feed has nothing more to say
	s.set(func(s *spy) {
		s.lookup = func(ctx context.Context, id apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			was, err := next()
			require.NoError(t, err)
			r, err := s.Store.Get(ctx, other.Key.ID)
			require.NoError(t, err)
			r.Credentials = append(r.Credentials, was.Credentials...)
			return r, nil
		}
	})
	for range 2 {
		e.clock.move(2*e.maxAge() + time.Second)
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrCorrupt)
	}
	s.set(func(s *spy) { s.lookup = nil })
	require.NoError(t, e.verify(key.Token), "it was put back")
	s.set(func(s *spy) { // and the other key's row cannot even be read
		s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			return apikey.StoreRecord{}, &apikey.CorruptError{Key: other.Key.ID}
		}
	})
	e.clock.move(2*e.maxAge() + time.Second)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrCorrupt)
	s.set(func(s *spy) { s.lookup = nil })
	require.NoError(t, e.verify(key.Token), "it was put back")
}

// Whoever writes to the database puts a row there that nobody signed, of a later
// version and without the credential, and then the key as it was alive. What ended
// long ago is dropped from a record, but only one that is believed may say so.
func TestADeathOutlivesAForgedRow(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k := e.issue()
	alive, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	require.NoError(t, e.verify(k.Token))
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}))
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
	forged := alive
	forged.Version, forged.Credentials = 1<<40, nil
	fed := func(r apikey.StoreRecord) {
		s.set(func(s *spy) {
			s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
				return r, nil
			}
			s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
				c, err := next()
				c.Records = append(c.Records, r)
				return c, err
			}
		})
		require.NoError(t, e.verifier.Sync(background))
		require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
		e.clock.move(2*e.maxAge() + time.Second)
		require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
	}
	fed(forged)
	fed(alive)
	require.NoError(t, verifyBy(e.newVerifier(), k.Token), "the premise")
}
