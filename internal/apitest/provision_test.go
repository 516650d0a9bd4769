package apitest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// A new account gets one publishable key a mode, whose token can be shown again
// and again, and no secret key.
func TestProvision(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		req := apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}}
		first, err := e.manager.Provision(e.ctx, req)
		require.NoError(t, err)
		require.Equal(t, "Publishable key", first.Live.Key.Name)
		require.Equal(t, apikey.Live, first.Live.Token.Mode())
		require.Equal(t, apikey.Test, first.Test.Token.Mode())
		_, err = e.verifier.Verify(background, first.Live.Token.Reveal(), apikey.Request{AllowPublishable: true, Require: []apikey.Ability{apikey.Scope("card:tokenise")}})
		require.NoError(t, err)
		require.ErrorIs(t, e.verify(first.Live.Token), apikey.ErrKind)

		for range 2 {
			again, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{Name: "not looked at any more"})
			require.NoError(t, err)
			require.Equal(t, first.Live.Token.Reveal(), again.Live.Token.Reveal())
			require.Equal(t, first.Test.Token.Reveal(), again.Test.Token.Reveal())
			require.Equal(t, first.Live.Key.ID, again.Live.Key.ID)
		}
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: first.Live.Key.ID}))
		again, err := e.manager.Provision(e.ctx, req)
		require.NoError(t, err)
		require.Equal(t, first.Live.Key.ID, again.Live.Key.ID)
		require.Equal(t, apikey.Revoked, again.Live.Key.State, "what was revoked is not replaced behind anyone's back")
		list, err := e.manager.List(e.ctx, apikey.ListRequest{})
		require.NoError(t, err)
		require.Len(t, list.Keys, 2)
		for _, k := range list.Keys {
			require.Equal(t, apikey.Publishable, k.Kind)
		}
		_, err = e.manager.Provision(as("acc_2", "admin"), apikey.ProvisionRequest{Abilities: []string{"payment:refund"}})
		require.ErrorIs(t, err, apikey.ErrInvalid)
	})
}

func TestProvisionUnderRacing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		p.meet(16)
		got := make([]apikey.Provisioned, 16)
		errs := together(16, func(i int) (err error) {
			got[i], err = e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
			return err
		})
		require.Equal(t, 16, count(errs, nil), errs)
		for _, p := range got {
			require.Equal(t, got[0].Live.Token.Reveal(), p.Live.Token.Reveal())
			require.Equal(t, got[0].Test.Token.Reveal(), p.Test.Token.Reveal())
		}
		list, err := e.manager.List(e.ctx, apikey.ListRequest{})
		require.NoError(t, err)
		require.Len(t, list.Keys, 2)
	})
}

// A provisioned key that was revoked long ago and purged is made anew.
func TestProvisionAfterAPurge(t *testing.T) {
	store := memstore.New()
	e := newEnv(t, func(e *env) { e.store = store })
	first, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
	require.NoError(t, err)
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: first.Live.Key.ID}))
	n, err := store.Purge(background, e.clock.now().Add(time.Minute), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	again, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
	require.NoError(t, err)
	require.NotEqual(t, first.Live.Key.ID, again.Live.Key.ID)
	require.Equal(t, apikey.Active, again.Live.Key.State)
	require.Equal(t, first.Test.Key.ID, again.Test.Key.ID)
}

func TestProvisionCountsAgainstTheLimit(t *testing.T) {
	e := newEnv(t, func(e *env) { e.mc.Limits.LiveKeys = 1 })
	e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
	_, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
	require.ErrorIs(t, err, apikey.ErrLimit)
	list, err := e.manager.List(e.ctx, apikey.ListRequest{Kind: apikey.Publishable})
	require.NoError(t, err)
	require.Empty(t, list.Keys, "both or none")

	var p *proxy
	e = newEnv(t, through(&p), func(e *env) { e.mc.Limits.LiveKeys = 1 })
	p.meet(2)
	errs := together(2, func(i int) (err error) {
		if i == 0 {
			_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		} else {
			_, err = e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		}
		return err
	})
	require.Equal(t, 1, count(errs, nil), errs)
	require.Equal(t, 1, count(errs, apikey.ErrLimit), errs)
}
