package apitest

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// unsaid is a third store that cannot say whether it is in a transaction.
type unsaid struct{ apikey.Store }

// refundOnly is a key that is warm and may refund; suspended is one that may not
// be used.
func (s *shop) refundOnly() (key, suspended apikey.Issued) {
	s.t.Helper()
	key = s.issue()
	suspended = s.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
	require.NoError(s.t, s.verify(key.Token))
	require.ErrorIs(s.t, s.verify(suspended.Token), apikey.ErrSuspended)
	s.told, s.rang = nil, 0
	return key, suspended
}

func (s *shop) may(token apikey.Token, ability apikey.Scope) error {
	_, err := s.verifier.Verify(background, token.Reveal(), apikey.Request{Require: []apikey.Ability{ability}})
	return err
}

// A transaction gives power, takes power away, and makes a key, and is rolled
// back. Whenever Committed is called, nothing of it is believed.
func TestFound06CommittedAfterARollback(t *testing.T) {
	for name, order := range map[string]func(t *testing.T, tx *sql.Tx, keys *apikey.Tx){
		"after the rollback": func(t *testing.T, tx *sql.Tx, keys *apikey.Tx) {
			require.NoError(t, tx.Rollback())
			keys.Committed(background)
		},
		"deferred last, so it runs before the rollback": func(t *testing.T, tx *sql.Tx, keys *apikey.Tx) {
			keys.Committed(background)
			require.NoError(t, tx.Rollback())
		},
		"twice": func(t *testing.T, tx *sql.Tx, keys *apikey.Tx) {
			keys.Committed(background)
			require.NoError(t, tx.Rollback())
			keys.Committed(background)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t)
			s.db.SetMaxOpenConns(4)
			key, suspended := s.refundOnly()
			revoked := s.issue()
			require.NoError(t, s.verify(revoked.Token))
			s.told, s.rang = nil, 0
			var never apikey.Issued
			tx, err := s.db.BeginTx(s.ctx, nil)
			require.NoError(t, err)
			keys := s.manager.Tx(s.store.In(tx))
			_, err = keys.Update(s.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:refund", "payment:checkout"})})
			require.NoError(t, err)
			_, err = keys.Update(s.ctx, apikey.UpdateRequest{Key: suspended.Key.ID, Disabled: apikey.Set(false)})
			require.NoError(t, err)
			require.NoError(t, keys.Revoke(s.ctx, apikey.RevokeRequest{Key: revoked.Key.ID}))
			require.NoError(t, keys.Revoke(s.ctx, apikey.RevokeRequest{Key: revoked.Key.ID}), "it is so already")
			never, err = keys.Issue(s.ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.NoError(t, err)
			order(t, tx, keys)

			require.Empty(t, s.told, "OnEvent heard of what never was")
			require.Zero(t, s.rang)
			require.ErrorIs(t, s.may(key.Token, "payment:checkout"), apikey.ErrAbility)
			require.ErrorIs(t, s.verify(suspended.Token), apikey.ErrSuspended)
			require.NoError(t, s.verify(revoked.Token), "it was never revoked")
			require.ErrorIs(t, s.verify(never.Token), apikey.ErrInvalidToken)
			require.NoError(t, s.verifier.Sync(background))
			require.NoError(t, s.verify(revoked.Token))
			require.NoError(t, s.chain(key.Key.ID))
		})
	}
}

// What was rolled back to a savepoint of the caller is not told, and what came
// before and after it is.
func TestFound06CommittedAfterASavepoint(t *testing.T) {
	s := newShop(t)
	key, suspended := s.refundOnly()
	rename := func(ctx context.Context, keys *apikey.Tx, name string) {
		_, err := keys.Update(ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(name)})
		require.NoError(t, err)
	}
	keys := s.in(true, func(ctx context.Context, tx *sql.Tx, keys *apikey.Tx) {
		rename(ctx, keys, "before")
		_, err := tx.Exec("SAVEPOINT shop")
		require.NoError(t, err)
		require.NoError(t, keys.Revoke(ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		_, err = keys.Update(ctx, apikey.UpdateRequest{Key: suspended.Key.ID, Disabled: apikey.Set(false)})
		require.NoError(t, err)
		_, err = tx.Exec("ROLLBACK TO SAVEPOINT shop")
		require.NoError(t, err)
		rename(ctx, keys, "after")
	})
	keys.Committed(s.ctx)
	var told []apikey.Action
	for _, ev := range s.told {
		told = append(told, ev.Action)
	}
	require.Equal(t, []apikey.Action{apikey.ActionUpdate, apikey.ActionUpdate}, told)
	require.NoError(t, s.verify(key.Token))
	require.ErrorIs(t, s.verify(suspended.Token), apikey.ErrSuspended)
	require.NoError(t, s.chain(key.Key.ID))
}

// Others change a key between the commit and Committed: the event is told all the
// same, and the Verifiers have the newest.
func TestFound06CommittedIsNotTheLast(t *testing.T) {
	s := newShop(t)
	key, _ := s.refundOnly()
	keys := s.in(true, func(ctx context.Context, _ *sql.Tx, keys *apikey.Tx) {
		_, err := keys.Update(ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:refund", "payment:checkout"})})
		require.NoError(t, err)
	})
	other := s.newManager(func(c *managerConfig) { c.OnEvent = nil })
	for range 120 { // more than a page of the log
		_, err := other.Update(s.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(storetest.NewKeyID().String())})
		require.NoError(t, err)
	}
	_, err := other.Update(s.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:refund"})})
	require.NoError(t, err)
	require.NoError(t, keys.Committed(s.ctx))
	require.Len(t, s.told, 1)
	require.Equal(t, uint64(2), s.told[0].Seq)
	require.ErrorIs(t, s.may(key.Token, "payment:checkout"), apikey.ErrAbility)
}

// The store cannot be asked: nothing is told, the Verifiers ask before they
// answer, and Committed may be called again.
func TestFound06CommittedWithoutAStore(t *testing.T) {
	s := newShop(t)
	s.db.SetMaxOpenConns(4)
	p := &proxy{Store: s.store}
	s.restart(func(c *managerConfig) { c.Store = p })
	key, _ := s.refundOnly()
	ctx, hangUp := context.WithCancel(s.ctx)
	keys := s.in(true, func(_ context.Context, _ *sql.Tx, keys *apikey.Tx) {
		require.NoError(t, keys.Revoke(s.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	})
	hangUp()
	p.hook(func(p *proxy) { p.get = func() error { return errCable } })
	require.ErrorIs(t, keys.Committed(ctx), apikey.ErrUnavailable)
	require.Empty(t, s.told)
	require.ErrorIs(t, s.verify(key.Token), apikey.ErrRevoked, "it was read again")
	p.hook(func(p *proxy) { p.get = nil })
	require.NoError(t, keys.Committed(ctx), "whoever hangs up is told about all the same")
	require.Len(t, s.told, 1)
	require.NoError(t, keys.Committed(ctx))
	require.Len(t, s.told, 1, "once")
}

// A store that is in no transaction would commit each call by itself.
func TestFound06TxOutsideATransaction(t *testing.T) {
	s := newShop(t)
	s.db.SetMaxOpenConns(4)
	key := s.issue()
	again, err := sqlstore.New(s.db, sqlstore.SQLite)
	require.NoError(t, err)
	inMemory := newEnv(t)
	wrapped := s.newManager(func(c *managerConfig) { c.Store = unsaid{s.store} })
	for name, tx := range map[string]*apikey.Tx{
		"nil":                              s.manager.Tx(nil),
		"Settings.Store":                   s.manager.Tx(s.store),
		"Settings.Store, which cannot say": wrapped.Tx(unsaid{s.store}),
		"what Settings.Store wraps":        wrapped.Tx(s.store),
		"another Store of the database":    s.manager.Tx(again),
		"In(nil)":                          s.manager.Tx(s.store.In(nil)),
		"a store in memory":                inMemory.manager.Tx(memstore.New()),
	} {
		tried := 0
		txCalls(tx).each(func(call string, do func(context.Context, target) error) {
			require.ErrorIs(t, do(s.ctx, target{key: key.Key.ID, account: "acc_1"}), apikey.ErrInvalid, "%s: %s", name, call)
			tried++
		})
		require.Greater(t, tried, 6)
		require.NoError(t, tx.Committed(s.ctx))
	}
	log, err := s.manager.Events(s.ctx, apikey.EventsRequest{})
	require.NoError(t, err)
	require.Len(t, log.Events, 1, "nothing was written")

	s.in(true, func(ctx context.Context, tx *sql.Tx, _ *apikey.Tx) {
		for _, joined := range []apikey.Store{s.store.In(tx), unsaid{s.store.In(tx)}} {
			_, err := s.manager.Tx(joined).Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.NoError(t, err)
		}
	})
}
