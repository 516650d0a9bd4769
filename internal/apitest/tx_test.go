package apitest

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// shop is a program that keeps its merchants and their keys in one database,
// with a pool of one connection: whatever opens a second one waits for ever.
type shop struct {
	*env
	db    *sql.DB
	store *sqlstore.Store
	told  []apikey.Event
	rang  int
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{}
	s.store, s.db = sqliteOf(t)
	s.db.SetMaxOpenConns(1)
	_, err := s.db.Exec(`CREATE TABLE merchants (account TEXT PRIMARY KEY)`)
	require.NoError(t, err)
	s.env = newEnv(t, func(e *env) {
		e.store = s.store
		e.mc.OnEvent = func(ev apikey.Event) { s.told = append(s.told, ev) }
		e.settings.Notifier = ringer(func() { s.rang++ })
	})
	s.told, s.rang = nil, 0
	return s
}

// in runs work in a transaction and commits it, or rolls it back. It fails
// rather than hang.
func (s *shop) in(commit bool, work func(ctx context.Context, tx *sql.Tx, keys *apikey.Tx)) *apikey.Tx {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	tx, err := s.db.BeginTx(ctx, nil)
	require.NoError(s.t, err)
	defer tx.Rollback()
	keys := s.manager.Tx(s.store.In(tx))
	work(ctx, tx, keys)
	if commit {
		require.NoError(s.t, tx.Commit())
	} else {
		require.NoError(s.t, tx.Rollback())
	}
	return keys
}

func (s *shop) rows(query string) (n int) {
	s.t.Helper()
	require.NoError(s.t, s.db.QueryRow(query).Scan(&n))
	return n
}

// The merchant's row and the keys are there together, or none of them is.
func TestTxCommitsTogether(t *testing.T) {
	for name, commit := range map[string]bool{"committed": true, "rolled back": false} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t)
			var secret apikey.Issued
			var public apikey.Provisioned
			keys := s.in(commit, func(ctx context.Context, tx *sql.Tx, keys *apikey.Tx) {
				_, err := tx.ExecContext(ctx, `INSERT INTO merchants VALUES ('acc_1')`)
				require.NoError(t, err)
				secret, err = keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "onboarding"})
				require.NoError(t, err)
				public, err = keys.Provision(ctx, apikey.ProvisionRequest{})
				require.NoError(t, err)
				info, err := keys.Update(ctx, apikey.UpdateRequest{Key: secret.Key.ID, Name: apikey.Set("first till")})
				require.NoError(t, err)
				require.Equal(t, uint64(2), info.Version)
				require.NoError(t, keys.Revoke(ctx, apikey.RevokeRequest{Key: public.Test.Key.ID}))
				info, err = keys.Get(ctx, secret.Key.ID)
				require.NoError(t, err)
				require.Equal(t, "first till", info.Name, "it reads its own writes")
				list, err := keys.List(ctx, apikey.ListRequest{})
				require.NoError(t, err)
				require.Len(t, list.Keys, 3)
			})
			require.Empty(t, s.told, "nothing is told before Committed")
			require.Zero(t, s.rang)
			if !commit {
				require.Zero(t, s.rows(`SELECT count(*) FROM merchants`))
				require.Zero(t, s.rows(`SELECT count(*) FROM apikey_keys`))
				require.Zero(t, s.rows(`SELECT count(*) FROM apikey_credentials`))
				require.Equal(t, 1, s.rows(`SELECT count(*) FROM apikey_events`), "that of the pepper")
				require.Equal(t, 2, s.rows(`SELECT count(*) FROM apikey_items`), "of the pepper and of the Settings")
				require.ErrorIs(t, s.verify(secret.Token), apikey.ErrInvalidToken)
				_, err := s.manager.Issue(s.ctx, apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "onboarding"})
				require.NoError(t, err, "nor is its idempotency key used")
				return
			}
			require.Equal(t, 1, s.rows(`SELECT count(*) FROM merchants`))
			keys.Committed(s.ctx)
			require.Len(t, s.told, 5)
			require.Equal(t, 4, s.rang, "once a call that changed keys")
			require.NoError(t, s.verify(secret.Token))
			for _, ev := range s.told {
				require.NoError(t, s.chain(ev.Key))
			}
			keys.Committed(s.ctx)
			require.Len(t, s.told, 5, "once")
		})
	}
}

// A token that was looked for before its key was committed is remembered as
// absent; Committed ends that.
func TestCommittedEndsTheMemoryOfAbsence(t *testing.T) {
	s := newShop(t)
	s.db.SetMaxOpenConns(4)
	var key apikey.Issued
	keys := s.in(true, func(ctx context.Context, _ *sql.Tx, keys *apikey.Tx) {
		var err error
		key, err = keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		require.ErrorIs(t, s.verify(key.Token), apikey.ErrInvalidToken, "nobody else sees it yet")
	})
	require.ErrorIs(t, s.verify(key.Token), apikey.ErrInvalidToken, "the premise: remembered for two seconds")
	keys.Committed(s.ctx)
	require.NoError(t, s.verify(key.Token))
}

// After Committed this node's Verifiers know; without it, after the next sync.
func TestCommittedTellsTheVerifiers(t *testing.T) {
	for name, committed := range map[string]bool{"Committed": true, "forgotten": false} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t)
			key := s.issue()
			require.NoError(t, s.verify(key.Token))
			keys := s.in(true, func(ctx context.Context, _ *sql.Tx, keys *apikey.Tx) {
				require.NoError(t, keys.Revoke(ctx, apikey.RevokeRequest{Key: key.Key.ID}))
			})
			require.NoError(t, s.verify(key.Token), "not told yet")
			if committed {
				keys.Committed(s.ctx)
			} else {
				require.NoError(t, s.verifier.Sync(background))
			}
			require.ErrorIs(t, s.verify(key.Token), apikey.ErrRevoked)
		})
	}
}

// A revocation that was rolled back never was, not even for a moment.
func TestRolledBackRevocationNeverWas(t *testing.T) {
	s := newShop(t)
	warm, cold := s.issue(), s.issue()
	require.NoError(t, s.verify(warm.Token))
	s.in(false, func(ctx context.Context, _ *sql.Tx, keys *apikey.Tx) {
		for _, k := range []apikey.Issued{warm, cold} {
			require.NoError(t, keys.Revoke(ctx, apikey.RevokeRequest{Key: k.Key.ID}))
			require.NoError(t, keys.Revoke(ctx, apikey.RevokeRequest{Key: k.Key.ID}), "again")
		}
		require.NoError(t, s.verify(warm.Token), "warm, beside the transaction")
	})
	require.NoError(t, s.verifier.Sync(background))
	require.NoError(t, s.verify(warm.Token))
	require.NoError(t, s.verify(cold.Token))
	require.NoError(t, s.chain(warm.Key.ID))
}

// Inside a transaction nothing is tried again: only the caller can begin anew.
func TestTxRetriesNothing(t *testing.T) {
	s := newShop(t)
	key := s.issue()
	attempts := 0
	s.in(true, func(ctx context.Context, tx *sql.Tx, _ *apikey.Tx) {
		for name, fails := range map[string]error{"conflict": apikey.ErrConflict, "unavailable": errCable} {
			joined := &proxy{Store: s.store.In(tx), apply: func(func() error, []apikey.StoreChange) error { attempts++; return fails }}
			keys := s.manager.Tx(joined)
			for what, call := range map[string]func() error{
				"issue": func() error { _, err := keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live}); return err },
				"update": func() error {
					_, err := keys.Update(ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("x")})
					return err
				},
				"revoke": func() error { return keys.Revoke(ctx, apikey.RevokeRequest{Key: key.Key.ID}) },
			} {
				attempts = 0
				begin := time.Now()
				require.ErrorIs(t, call(), fails, "%s: %s", name, what)
				require.Equal(t, 1, attempts, "%s: %s", name, what)
				require.Less(t, time.Since(begin), time.Second)
			}
			keys.Committed(ctx)
		}
	})
	require.Empty(t, s.told[1:], "what failed is not announced")
	require.NoError(t, s.verify(key.Token))
}

// What is refused inside leaves the transaction usable: no failed statement
// stands between the caller and the commit.
func TestTxGoesOnAfterARefusal(t *testing.T) {
	s := newShop(t)
	key, dead := s.issue(), s.issue()
	require.NoError(t, s.manager.Revoke(s.ctx, apikey.RevokeRequest{Key: dead.Key.ID}))
	var made apikey.Issued
	s.in(true, func(ctx context.Context, tx *sql.Tx, keys *apikey.Tx) {
		_, err := keys.Update(ctx, apikey.UpdateRequest{Key: key.Key.ID, IfVersion: 7, Name: apikey.Set("x")})
		require.ErrorIs(t, err, apikey.ErrConflict)
		_, err = keys.Update(ctx, apikey.UpdateRequest{Key: dead.Key.ID, Name: apikey.Set("x")})
		require.ErrorIs(t, err, apikey.ErrRevoked)
		_, err = keys.Get(ctx, storetest.NewKeyID())
		require.ErrorIs(t, err, apikey.ErrNotFound)
		_, err = keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"no:such"}})
		require.ErrorIs(t, err, apikey.ErrInvalid)
		_, err = keys.Issue(apikey.WithActor(ctx, apikey.Actor{ID: "u", Account: "acc_1", Role: "viewer"}), apikey.IssueRequest{Mode: apikey.Live})
		require.ErrorIs(t, err, apikey.ErrForbidden)

		// A comparison that fails in the store itself.
		r, err := s.store.In(tx).Get(ctx, key.Key.ID)
		require.NoError(t, err)
		id := [16]byte(storetest.NewKeyID())
		r.Version = 9
		err = s.store.In(tx).Apply(ctx, apikey.StoreChange{ID: id, Record: &r, Event: &apikey.StoreEvent{ID: id, Time: r.CreatedAt, Account: r.Account, Mode: r.Mode, Key: r.ID, Seq: 9, Actor: "x", Action: "x"}})
		require.ErrorIs(t, err, apikey.ErrConflict)

		made, err = keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		_, err = tx.ExecContext(ctx, `INSERT INTO merchants VALUES ('acc_1')`)
		require.NoError(t, err)
	})
	require.NoError(t, s.verify(made.Token))
	require.NoError(t, s.chain(key.Key.ID))
	require.Equal(t, 1, s.rows(`SELECT count(*) FROM merchants`))
}

// The limit of live keys counts those of the transaction too.
func TestTxKeepsTheLimit(t *testing.T) {
	s := newShop(t)
	m := s.newManager(func(c *managerConfig) { c.Limits.LiveKeys = 2 })
	s.in(true, func(ctx context.Context, tx *sql.Tx, _ *apikey.Tx) {
		keys := m.Tx(s.store.In(tx))
		for range 2 {
			_, err := keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.NoError(t, err)
		}
		_, err := keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.ErrorIs(t, err, apikey.ErrLimit)
	})
	_, err := m.Issue(s.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrLimit)
}

// One change after the other to one key, told in their order: the Verifiers end
// with the last.
func TestTxChangesOneKeyTwice(t *testing.T) {
	s := newShop(t)
	key := s.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
	require.ErrorIs(t, s.verify(key.Token), apikey.ErrSuspended)
	keys := s.in(true, func(ctx context.Context, _ *sql.Tx, keys *apikey.Tx) {
		for _, disabled := range []bool{false, true, false} {
			_, err := keys.Update(ctx, apikey.UpdateRequest{Key: key.Key.ID, Disabled: apikey.Set(disabled)})
			require.NoError(t, err)
		}
	})
	s.told = nil
	keys.Committed(s.ctx)
	require.Len(t, s.told, 3)
	for i, ev := range s.told {
		require.Equal(t, uint64(i+2), ev.Seq)
	}
	require.NoError(t, s.verify(key.Token))
}

// A context that ends inside rolls the caller's work back with it.
func TestTxWithAnEndedContext(t *testing.T) {
	s := newShop(t)
	ctx, cancel := context.WithCancel(s.ctx)
	tx, err := s.db.BeginTx(ctx, nil)
	require.NoError(t, err)
	keys := s.manager.Tx(s.store.In(tx))
	made, err := keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(t, err)
	cancel()
	_, err = keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.Error(t, err)
	require.Error(t, tx.Commit())
	require.ErrorIs(t, s.verify(made.Token), apikey.ErrInvalidToken)
	require.Zero(t, s.rows(`SELECT count(*) FROM apikey_keys`))
}

// A refusal inside a transaction is not in the log, because a rollback would take
// it out again; so it must not count as written either.
func TestTxRefusalDoesNotHideTheNext(t *testing.T) {
	s := newShop(t)
	viewer := as("acc_1", "viewer")
	refused := func() (n int) {
		for _, ev := range s.allEvents(apikey.EventsRequest{Account: "acc_1"}) {
			if ev.Outcome == apikey.OutcomeRefused {
				n++
			}
		}
		return n
	}
	s.in(false, func(_ context.Context, _ *sql.Tx, keys *apikey.Tx) {
		_, err := keys.Issue(viewer, apikey.IssueRequest{Mode: apikey.Live})
		require.ErrorIs(t, err, apikey.ErrForbidden)
	})
	require.Zero(t, refused())
	_, err := s.manager.Issue(viewer, apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	require.Equal(t, 1, refused())
}
