package sqlstore_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// busyTime is the busy_timeout of patient.
const busyTime = 2 * time.Second

// patient returns a store whose connections wait for locks for busyTime, and a function
// with which another program takes the write lock of the same file, until it calls the
// result.
func patient(t *testing.T) (s *sqlstore.Store, lock func() (unlock func())) {
	t.Helper()
	path := file(t)
	migrated(t, openDB(t, path))
	db, err := sql.Open("sqlite", "file:"+path+strings.Replace(settings, "busy_timeout(5000)", "busy_timeout(2000)", 1))
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	s, err = sqlstore.New(db, sqlstore.SQLite)
	require.NoError(t, err)
	return s, func() func() {
		other, err := openDB(t, path).Conn(context.Background())
		require.NoError(t, err)
		_, err = other.ExecContext(context.Background(), "BEGIN IMMEDIATE")
		require.NoError(t, err)
		return func() {
			if _, err := other.ExecContext(context.Background(), "ROLLBACK"); err != nil {
				t.Error(err)
			}
			other.Close()
		}
	}
}

// A write waits for busy_timeout once while another program holds the lock, and not ten
// times. docs/operations.md says how long it may take.
func TestLockedFileIsWaitedForOnce(t *testing.T) {
	t.Parallel()
	s, lock := patient(t)
	r := create(t, s, "m1")
	unlock := lock()
	for name, write := range map[string]func() error{
		"Apply": func() error { return s.Apply(t.Context(), change(next(r))) },
		"Upkeep": func() error {
			return s.Upkeep(t.Context(), []apikey.StoreUpkeep{{Credential: r.Credentials[0].ID, OldSealed: []byte("sealed-1"), NewSealed: []byte("2"), NewKEK: "2"}})
		},
	} {
		began := time.Now()
		require.ErrorIs(t, write(), apikey.ErrUnavailable, name)
		require.Less(t, time.Since(began), 2*busyTime-100*time.Millisecond, "%s has waited for the lock twice", name)
	}
	unlock()
	require.NoError(t, s.Apply(t.Context(), change(next(r))))
}

// What takes power away goes on until it commits, or until its time is over.
func TestRevocationOutlastsALock(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(context.Context, *apikey.Manager, apikey.KeyID) error{
		"Suspend": func(ctx context.Context, m *apikey.Manager, key apikey.KeyID) error { return m.Suspend(ctx, key) },
		"Revoke": func(ctx context.Context, m *apikey.Manager, key apikey.KeyID) error {
			return m.Revoke(ctx, apikey.RevokeRequest{Key: key})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, lock := patient(t)
			pepper, err := apikey.NewPepper(1, [32]byte{1})
			require.NoError(t, err)
			hasher, err := apikey.NewHMACSHA256(pepper)
			require.NoError(t, err)
			m, err := apikey.NewManager(t.Context(), apikey.Settings{
				Store: s, Prefix: "acme", Catalog: apikey.MustCatalog(), Peppers: []apikey.Pepper{pepper}, Hashers: []apikey.Hasher{hasher},
			}, apikey.ManagerConfig{})
			require.NoError(t, err)
			ctx := apikey.WithActor(t.Context(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
			issued, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.NoError(t, err)

			unlock := lock()
			began := time.Now()
			_, err = m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.ErrorIs(t, err, apikey.ErrUnavailable)
			require.Less(t, time.Since(began), 2*busyTime-100*time.Millisecond, "Issue has waited for the lock twice")

			timer := time.AfterFunc(busyTime+busyTime/2, unlock) // in the second wait
			defer timer.Stop()
			require.NoError(t, act(ctx, m, issued.Key.ID))
			info, err := m.Get(ctx, issued.Key.ID)
			require.NoError(t, err)
			require.NotEqual(t, apikey.Active, info.State)
		})
	}
}
