package act_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/act"
	"github.com/go-apikey/apikey/apikeytest"
)

var anna = apikey.Actor{ID: "anna", Account: "acc_1", Role: "admin"}

// changed is a key of acc_1 whose version 1 was rotated by somebody.
func changed(t *testing.T, p *apikeytest.Program, by apikey.Actor) apikey.KeyID {
	t.Helper()
	key := p.Issue("acc_1", apikey.IssueRequest{Mode: apikey.Test}).Key.ID
	_, err := p.Manager.Rotate(apikey.WithActor(t.Context(), by), apikey.RotateRequest{Key: key, IfVersion: 1})
	require.NoError(t, err)
	return key
}

// What counts as the same change: the action, the version and the person, and no less.
func TestDid(t *testing.T) {
	p := apikeytest.New(t)
	ben := apikey.Actor{ID: "ben", Account: "acc_1", Role: "admin"}
	ctx := apikey.WithActor(t.Context(), anna)
	key, another := changed(t, p, anna), changed(t, p, ben)
	byStaff := changed(t, p, apikey.Operator("anna"))
	viewer := anna
	viewer.Role = "viewer"
	_, err := p.Manager.Rotate(apikey.WithActor(t.Context(), viewer), apikey.RotateRequest{Key: key})
	require.ErrorIs(t, err, apikey.ErrForbidden) // an event of the key and of anna, without a version
	for name, c := range map[string]struct {
		key     apikey.KeyID
		version uint64
		action  apikey.Action
		did     bool
	}{
		"this change":          {key, 1, apikey.ActionRotate, true},
		"another action":       {key, 1, apikey.ActionUpdate, false},
		"a later version":      {key, 2, apikey.ActionRotate, false},
		"no version":           {key, 0, apikey.ActionRotate, false},
		"a refusal":            {key, math.MaxUint64, apikey.ActionRotate, false}, // the next one is 0
		"somebody else":        {another, 1, apikey.ActionRotate, false},
		"staff of the same ID": {byStaff, 1, apikey.ActionRotate, false},
		"no key":               {apikey.KeyID{1}, 1, apikey.ActionRotate, false},
	} {
		require.Equal(t, c.did, act.Did(ctx, p.Manager, anna, c.key, c.version, c.action), name)
	}
	require.False(t, act.Did(t.Context(), p.Manager, anna, key, 1, apikey.ActionRotate), "nobody is signed in")
}

// A rotation that replaces a planned one is two events, and each of them alone is not it.
func TestDidReplaceAPlannedRotation(t *testing.T) {
	p := apikeytest.New(t)
	ctx := apikey.WithActor(t.Context(), anna)
	planned := func() apikey.KeyID {
		key := p.Issue("acc_1", apikey.IssueRequest{Mode: apikey.Test}).Key.ID
		_, err := p.Manager.Rotate(ctx, apikey.RotateRequest{Key: key, At: p.Clock.Now().Add(time.Hour)})
		require.NoError(t, err)
		return key
	}
	replaced := planned()
	_, err := p.Manager.Rotate(ctx, apikey.RotateRequest{Key: replaced, IfVersion: 2, At: p.Clock.Now().Add(2 * time.Hour), Replace: true})
	require.NoError(t, err)
	require.True(t, act.Did(ctx, p.Manager, anna, replaced, 2, apikey.ActionRotate))
	require.True(t, act.Did(ctx, p.Manager, anna, replaced, 1, apikey.ActionRotate), "the planned one")

	cancelled := planned()
	require.NoError(t, p.Manager.CancelRotation(ctx, cancelled))
	require.False(t, act.Did(ctx, p.Manager, anna, cancelled, 2, apikey.ActionRotate))
	_, err = p.Manager.Update(ctx, apikey.UpdateRequest{Key: cancelled, Name: apikey.Set("New")})
	require.NoError(t, err)
	require.False(t, act.Did(ctx, p.Manager, anna, cancelled, 2, apikey.ActionUpdate), "another version, of the same person")
	_, err = p.Manager.Rotate(ctx, apikey.RotateRequest{Key: cancelled})
	require.NoError(t, err)
	require.False(t, act.Did(ctx, p.Manager, anna, cancelled, 3, apikey.ActionRotate), "a change lies between")
}

// closedLog lets nobody read the log.
type closedLog struct{ apikey.RolePolicy }

func (p closedLog) Authorize(ctx context.Context, a apikey.Actor, action apikey.Action, k apikey.Info) error {
	if action == apikey.ActionReadEvents {
		return errors.New("not for them")
	}
	return p.RolePolicy.Authorize(ctx, a, action, k)
}

// Somebody who may not read the log is not told, and the question is not in the log.
func TestDidIsForReadersOfTheLog(t *testing.T) {
	p := apikeytest.New(t, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Policy = closedLog{} })
	key := changed(t, p, anna)
	require.False(t, act.Did(apikey.WithActor(t.Context(), anna), p.Manager, anna, key, 1, apikey.ActionRotate))
	page, err := p.Store.Events(t.Context(), apikey.StoreEventFilter{Account: "acc_1", Limit: 100})
	require.NoError(t, err)
	require.Len(t, page.Events, 2, "issue and rotate, and no refusal")
}
