package apitest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// An Operator with an Account is somebody who believes that it bounds them. Every
// method refuses it, but what ends a key waits for nothing.
func TestFound13AnOperatorHasNoAccount(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	bounded := apikey.Operator("ops_1")
	bounded.Account = "acc_1"
	ctx := apikey.WithActor(background, bounded)
	free := []string{
		"RevokeToken by token",                                                      // asks for no actor
		"Confirm by challenge", "Enroll by nothing", "ConfirmEnrollment by nothing", // about the actor alone
		"Suspend by key", "Revoke by key", "Retire by key", "Retire by credential",
	}
	tried := 0
	for _, account := range []string{"acc_1", "acc_2", ""} {
		key := e.issue()
		before, err := e.store.Get(background, key.Key.ID)
		require.NoError(t, err)
		for _, c := range []calls{managerCalls(e.manager), txCalls(e.manager.Tx(unsaid{e.store}))} {
			c.each(func(name string, call func(context.Context, target) error) {
				for _, each := range free {
					if name == each {
						return
					}
				}
				err := call(ctx, target{key: key.Key.ID, account: account})
				require.ErrorIs(t, err, apikey.ErrInvalid, name)
				require.ErrorContains(t, err, "an Operator has no Account", name)
				tried++
			})
		}
		after, err := e.store.Get(background, key.Key.ID)
		require.NoError(t, err)
		require.Equal(t, before, after)
	}
	require.Greater(t, tried, 60)

	key := e.issue()
	require.NoError(t, e.manager.Suspend(ctx, key.Key.ID))
	require.NoError(t, e.manager.Retire(ctx, apikey.RetireRequest{Key: key.Key.ID, Credential: key.Key.Credential}))
	require.NoError(t, e.manager.Revoke(ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
}

// Nothing brings a revoked key back: who means all of them says so.
func TestFound13RevokeAllSaysWhatItMeans(t *testing.T) {
	e := newEnv(t)
	e.issue()
	for name, req := range map[string]apikey.RevokeAllRequest{
		"nothing":               {},
		"an account":            {Account: "acc_1"},
		"a reason and a limit":  {Reason: apikey.ReasonUnused, Limit: 10},
		"all, and a mode":       {All: true, Mode: apikey.Test},
		"all, and a kind":       {All: true, Kind: apikey.Publishable},
		"all, and never used":   {All: true, NeverUsed: true},
		"all, and unused since": {All: true, UnusedSince: e.clock.now().Add(-time.Hour)},
		"all, and a pepper":     {All: true, Pepper: 1},
	} {
		done, err := e.manager.RevokeAll(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
		require.Zero(t, done, name)
		require.Equal(t, apikey.Active, e.keys()[0].State, name)
	}
	done, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{All: true})
	require.NoError(t, err)
	require.Equal(t, 1, done.Revoked)
}
