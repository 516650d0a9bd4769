package apikey_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/storetest"
)

// A newer version may have stored keys of kinds that this version does not know, and
// signed them as it should. Their tokens look like secret or publishable ones here.
func TestKeysOfAnUnknownKind(t *testing.T) {
	for _, kind := range []apikey.Kind{0, apikey.Signature, apikey.SharedSecret, 5, 200} {
		for _, was := range []apikey.Kind{apikey.Secret, apikey.Publishable} {
			t.Run(fmt.Sprintf("%d, once %v", kind, was), func(t *testing.T) { testUnknownKind(t, kind, was) })
		}
	}
}

func testUnknownKind(t *testing.T, kind, was apikey.Kind) {
	ctx := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	pepper, err := apikey.NewPepper(1, [32]byte{1, 2, 3})
	require.NoError(t, err)
	hasher, err := apikey.NewHMACSHA256(pepper)
	require.NoError(t, err)
	kek, err := apikey.NewLocalKEK("kek1", []byte("0123456789abcdefghijklmnopqrstuv"))
	require.NoError(t, err)
	store := memstore.New()
	settings := apikey.Settings{
		Prefix: "acme", Store: store, Hashers: []apikey.Hasher{hasher}, Peppers: []apikey.Pepper{pepper},
		Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "card:tokenise", Publishable: true}),
	}
	m, err := apikey.NewManager(ctx, settings, apikey.ManagerConfig{KEKs: []apikey.KEK{kek}, InsecureRevealWithoutStepUp: true})
	require.NoError(t, err)

	// stored is a key that becomes one of the unknown kind.
	stored := func() apikey.Issued {
		t.Helper()
		issued, err := m.Issue(ctx, apikey.IssueRequest{
			Kind: was, Mode: apikey.Test, Name: "Website", Abilities: []string{"card:tokenise"}, Recoverable: was == apikey.Secret,
		})
		require.NoError(t, err)
		_, err = m.Reveal(ctx, apikey.RevealRequest{Key: issued.Key.ID})
		require.NoError(t, err, "it is the kind that is refused below")
		r, err := store.Get(ctx, issued.Key.ID)
		require.NoError(t, err)
		mac := r.MAC
		apikey.SignAsManager(m, &r)
		require.NotEmpty(t, mac)
		require.Equal(t, mac, r.MAC, "signed as a Manager signs")
		r.Kind = kind
		r.Version++
		apikey.SignAsManager(m, &r)
		event := apikey.StoreEvent{ID: storetest.NewKeyID(), Key: r.ID, Account: r.Account, Seq: r.Version}
		require.NoError(t, store.Apply(ctx, apikey.StoreChange{ID: event.ID, Record: &r, Event: &event}))
		return issued
	}
	refused := func(what string, id apikey.KeyID, err error) {
		t.Helper()
		var corrupt *apikey.CorruptError
		if !errors.As(err, &corrupt) {
			t.Errorf("%s: %v, want a CorruptError", what, err)
			return
		}
		require.Equal(t, id, corrupt.Key, what)
		require.Equal(t, fmt.Sprintf("kind %d is unknown to this version", kind), corrupt.Detail, what)
	}
	get := func(id apikey.KeyID) apikey.StoreRecord {
		t.Helper()
		r, err := store.Get(ctx, id)
		require.NoError(t, err)
		require.Equal(t, kind, r.Kind)
		mac := r.MAC
		apikey.SignAsManager(m, &r)
		require.Equal(t, mac, r.MAC, "what is stored is signed")
		return r
	}
	state := func(id apikey.KeyID) apikey.State {
		t.Helper()
		r := get(id)
		return r.State()
	}

	// Nothing is given, shown or changed.
	issued := stored()
	id := issued.Key.ID
	before := get(id)
	v, err := m.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.AnyMode, Sync: -1})
	require.NoError(t, err)
	t.Cleanup(func() { v.Close(context.Background()) })
	_, err = v.Verify(ctx, issued.Token.Reveal(), apikey.Request{AllowPublishable: true})
	refused("Verify", id, err)
	shown, err := m.Reveal(ctx, apikey.RevealRequest{Key: id})
	refused("Reveal", id, err)
	require.True(t, shown.Token.IsZero())
	rotated, err := m.Rotate(ctx, apikey.RotateRequest{Key: id})
	refused("Rotate", id, err)
	require.True(t, rotated.Token.IsZero())
	_, err = m.Update(ctx, apikey.UpdateRequest{Key: id, Name: apikey.Set("Another")})
	refused("Update", id, err)
	_, err = m.Get(ctx, id)
	refused("Get", id, err)
	list, err := m.List(ctx, apikey.ListRequest{})
	require.NoError(t, err)
	require.Empty(t, list.Keys)
	require.Len(t, list.Damaged, 1)
	refused("List", id, list.Damaged[0])
	if kind != 0 { // the zero Kind asks for a secret key, and selects all
		_, err = m.Issue(ctx, apikey.IssueRequest{Kind: kind, Mode: apikey.Test, Name: "Website"})
		require.ErrorIs(t, err, apikey.ErrInvalid)
		_, err = m.List(ctx, apikey.ListRequest{Kind: kind})
		require.ErrorIs(t, err, apikey.ErrInvalid)
	}
	require.Equal(t, before, get(id))

	// What takes power away works, and is not undone.
	require.NoError(t, m.Suspend(ctx, id))
	require.Equal(t, apikey.Suspended, state(id))
	refused("Resume", id, m.Resume(ctx, apikey.ResumeRequest{Key: id}))
	require.Equal(t, apikey.Suspended, state(id))
	require.NoError(t, m.Revoke(ctx, apikey.RevokeRequest{Key: id}))
	require.Equal(t, apikey.Revoked, state(id))

	// A token that leaked is judged by what it says of itself.
	leaked := stored()
	before = get(leaked.Key.ID)
	err = m.RevokeToken(ctx, leaked.Token.Reveal(), apikey.ReasonCompromised)
	if was == apikey.Publishable {
		require.ErrorIs(t, err, apikey.ErrKind)
		require.Equal(t, before, get(leaked.Key.ID))
		return
	}
	require.NoError(t, err)
	require.True(t, get(leaked.Key.ID).Credentials[0].Ended)
}
