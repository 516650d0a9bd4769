package apitest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// A recoverable token is shown again, for thirty seconds, with an event in the
// key's chain. The default keeps nothing to show.
func TestReveal(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRevealAndRotate("password")))
		key := e.issue(recoverable)
		require.True(t, key.Key.Recoverable)
		req := apikey.RevealRequest{Key: key.Key.ID}
		req.Grant = e.approve(f, e.ctx, "password", req)
		shown, err := e.manager.Reveal(e.ctx, req)
		require.NoError(t, err)
		require.Equal(t, key.Token.Reveal(), shown.Token.Reveal())
		require.Equal(t, 30*time.Second, shown.HideAfter)
		require.Equal(t, uint64(2), shown.Key.Version)
		require.NoError(t, e.verify(shown.Token))
		events := e.eventsOf(apikey.ActionReveal)
		require.Len(t, events, 1)
		require.Equal(t, uint64(2), events[0].Seq, "in the chain")
		require.Equal(t, key.Key.Credential, events[0].Credential)
		require.Equal(t, admin.ID, events[0].Actor.ID)

		once := e.issue()
		require.False(t, once.Key.Recoverable)
		req = apikey.RevealRequest{Key: once.Key.ID}
		_, err = e.manager.Challenge(e.ctx, "password", req)
		require.ErrorIs(t, err, apikey.ErrNotRecoverable, "nobody proves who they are for nothing")
		shown, err = e.manager.Reveal(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrNotRecoverable)
		require.ErrorContains(t, err, "rotate")
		require.Zero(t, shown)
	})
}

// The current token is shown unless another live one is named; one that has
// ended is nowhere any more.
func TestRevealWhichCredential(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, nil), func(e *env) { e.mc.InsecureRevealWithoutStepUp = true })
		first := e.issue(recoverable)
		second, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: first.Key.ID, Overlap: time.Hour})
		require.NoError(t, err)
		pending, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: first.Key.ID, At: e.clock.now().Add(2 * time.Hour)})
		require.NoError(t, err)
		reveal := func(id apikey.CredentialID) (string, error) {
			shown, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: first.Key.ID, Credential: id})
			return shown.Token.Reveal(), err
		}
		for name, c := range map[string]struct {
			id   apikey.CredentialID
			want apikey.Token
		}{
			"the current one":  {apikey.CredentialID{}, second.Token},
			"the older one":    {first.Token.Credential(), first.Token},
			"the newer one":    {second.Token.Credential(), second.Token},
			"the pending one":  {pending.Token.Credential(), pending.Token},
			"the older, again": {first.Token.Credential(), first.Token},
		} {
			text, err := reveal(c.id)
			require.NoError(t, err, name)
			require.Equal(t, c.want.Reveal(), text, name)
		}
		require.NoError(t, e.manager.Retire(e.ctx, apikey.RetireRequest{Key: first.Key.ID, Credential: first.Token.Credential()}))
		for name, id := range map[string]apikey.CredentialID{
			"retired": first.Token.Credential(), "another key's": e.issue(recoverable).Token.Credential(), "no such": storetest.NewCredentialID(),
		} {
			_, err := reveal(id)
			require.ErrorIs(t, err, apikey.ErrNotFound, name)
		}
		record, err := e.store.Get(background, first.Key.ID)
		require.NoError(t, err)
		for _, c := range record.Credentials {
			require.Equal(t, c.Ended, len(c.Sealed) == 0, "an ended credential has no sealed copy, and a live one has")
		}
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: first.Key.ID}))
		_, err = reveal(apikey.CredentialID{})
		require.ErrorIs(t, err, apikey.ErrRevoked)
		record, err = e.store.Get(background, first.Key.ID)
		require.NoError(t, err)
		for _, c := range record.Credentials {
			require.Empty(t, c.Sealed)
			require.Empty(t, c.SealedKEK)
		}
	})
}

// Without a factor Reveal is refused, unless the program says otherwise with a
// name that says what that is.
func TestRevealWithoutFactor(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	key := e.issue(recoverable)
	shown, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID})
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)
	require.ErrorContains(t, err, "ManagerConfig.StepUp")
	wantFactors(t, err, apikey.ActionReveal)
	require.Zero(t, shown)
	insecure := e.newManager(func(c *managerConfig) { c.InsecureRevealWithoutStepUp = true })
	shown, err = insecure.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID})
	require.NoError(t, err)
	require.Equal(t, key.Token.Reveal(), shown.Token.Reveal())
	guarded := e.newManager(func(c *managerConfig) {
		c.InsecureRevealWithoutStepUp, c.StepUp = true, apikey.GuardRevealAndRotate("password")
	})
	_, err = guarded.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID})
	require.ErrorIs(t, err, apikey.ErrStepUpRequired, "where a factor is named it is asked for")
}

// Who may not, whose account may not, and what is dead.
func TestRevealRefused(t *testing.T) {
	var f *factors
	blocked := false
	e := newEnv(t, withFactors(&f, nil), func(e *env) {
		e.mc.InsecureRevealWithoutStepUp = true
		e.settings.Standing = standing(func(string, apikey.Mode) error {
			if blocked {
				return errors.New("onboarding is not finished")
			}
			return nil
		})
	})
	key := e.issue(recoverable)
	req := apikey.RevealRequest{Key: key.Key.ID}
	_, err := e.manager.Reveal(as("acc_1", "viewer"), req)
	require.ErrorIs(t, err, apikey.ErrForbidden)
	_, err = e.manager.Reveal(as("acc_2", "admin"), req)
	require.ErrorIs(t, err, apikey.ErrNotFound)
	blocked = true
	_, err = e.manager.Reveal(e.ctx, req)
	require.ErrorIs(t, err, apikey.ErrStanding)
	blocked = false
	require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID))
	_, err = e.manager.Reveal(e.ctx, req)
	require.NoError(t, err, "a suspended key can be looked at")
	publishable := e.issue(func(r *apikey.IssueRequest) {
		r.Kind, r.Abilities, r.Recoverable = apikey.Publishable, []string{"card:tokenise"}, true
	})
	shown, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: publishable.Key.ID})
	require.NoError(t, err)
	require.Equal(t, publishable.Token.Reveal(), shown.Token.Reveal())
	require.False(t, publishable.Key.Recoverable, "a publishable token is never hidden")
}

// A KEK that fails, hangs, panics or lies spends nothing and reveals nothing;
// the same grant reveals when it is back. Verification never calls it.
func TestBrokenKEKSpendsNothing(t *testing.T) {
	type hook = func(ctx context.Context, next func() ([]byte, error)) ([]byte, error)
	for name, c := range map[string]struct {
		unwrap hook
		want   error
	}{
		"fails":           {func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, errKMS }, apikey.ErrUnavailable},
		"panics":          {func(context.Context, func() ([]byte, error)) ([]byte, error) { panic("key material") }, apikey.ErrUnavailable},
		"hangs":           {func(context.Context, func() ([]byte, error)) ([]byte, error) { select {} }, apikey.ErrUnavailable},
		"returns nothing": {func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, nil }, apikey.ErrCorrupt},
		"returns a short": {func(context.Context, func() ([]byte, error)) ([]byte, error) { return make([]byte, 31), nil }, apikey.ErrCorrupt},
		"returns another": {func(context.Context, func() ([]byte, error)) ([]byte, error) { return make([]byte, 32), nil }, apikey.ErrCorrupt},
		"returns too much": {func(_ context.Context, next func() ([]byte, error)) ([]byte, error) {
			b, err := next()
			return append(b, 0), err
		}, apikey.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // one of them hangs for as long as it may
			var f *factors
			e := newEnv(t, withFactors(&f, apikey.GuardRevealAndRotate("password")))
			key := e.issue(recoverable)
			req := apikey.RevealRequest{Key: key.Key.ID}
			req.Grant = e.approve(f, e.ctx, "password", req)
			f.kek.set(func(k *brokenKEK) { k.unwrap = c.unwrap })
			before, err := e.store.Get(background, key.Key.ID)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(e.ctx, time.Second)
			defer cancel()
			shown, err := e.manager.Reveal(ctx, req)
			require.ErrorIs(t, err, c.want)
			require.NotContains(t, err.Error(), "key material")
			require.Zero(t, shown)
			after, err := e.store.Get(background, key.Key.ID)
			require.NoError(t, err)
			require.Equal(t, before, after)
			require.Len(t, e.itemsOf("grant"), 1, "the grant is not spent")
			asked := f.kek.asked()
			require.NoError(t, e.verify(key.Token))
			require.Equal(t, asked, f.kek.asked(), "verification asks no KEK")
			f.kek.set(func(k *brokenKEK) { k.unwrap = nil })
			shown, err = e.manager.Reveal(e.ctx, req)
			require.NoError(t, err)
			require.Equal(t, key.Token.Reveal(), shown.Token.Reveal())
		})
	}
}

// What a KEK wraps wrongly is found while the token is still there: no key is
// stored whose token is lost.
func TestLyingKEKStoresNothing(t *testing.T) {
	for name, wrap := range map[string]func(context.Context, func() ([]byte, error)) ([]byte, error){
		"fails":           func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, errKMS },
		"returns nothing": func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, nil },
		"returns junk":    func(context.Context, func() ([]byte, error)) ([]byte, error) { return make([]byte, 60), nil },
		"returns 1 MiB":   func(context.Context, func() ([]byte, error)) ([]byte, error) { return make([]byte, 1<<20), nil },
	} {
		var f *factors
		e := newEnv(t, withFactors(&f, nil))
		key := e.issue(recoverable)
		f.kek.set(func(k *brokenKEK) { k.wrap = wrap })
		_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
		require.ErrorIs(t, err, apikey.ErrUnavailable, name)
		_, err = e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID})
		require.ErrorIs(t, err, apikey.ErrUnavailable, name)
		list, err := e.manager.List(e.ctx, apikey.ListRequest{})
		require.NoError(t, err)
		require.Len(t, list.Keys, 1, name)
		require.NoError(t, e.verify(key.Token), name)
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}), name)
	}
}

// There is no reveal without its event: what cannot be written is not shown.
func TestRevealNeedsItsEvent(t *testing.T) {
	var p *proxy
	var f *factors
	e := newEnv(t, through(&p), withFactors(&f, apikey.GuardRevealAndRotate("password")))
	key := e.issue(recoverable)
	req := apikey.RevealRequest{Key: key.Key.ID}
	req.Grant = e.approve(f, e.ctx, "password", req)
	p.hook(func(p *proxy) { p.apply = func(func() error, []apikey.StoreChange) error { return errCable } })
	shown, err := e.manager.Reveal(e.ctx, req)
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.Zero(t, shown)
	p.hook(func(p *proxy) { p.apply = nil })
	_, err = e.manager.Reveal(e.ctx, req)
	require.NoError(t, err)
	require.Len(t, e.eventsOf(apikey.ActionReveal), 1)
}

// Of a sealed token, no bit can be turned, nothing cut or added; and it opens in
// its own row alone: not under another key, account, mode or credential.
func TestSealedTokenIsBoundToItsRow(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, nil), func(e *env) { e.mc.InsecureRevealWithoutStepUp = true })
		key := e.issue(recoverable)
		cred := key.Token.Credential()
		sealedOf := func(id apikey.KeyID, credential apikey.CredentialID) []byte {
			r, err := e.store.Get(background, id)
			require.NoError(t, err)
			for _, c := range r.Credentials {
				if c.ID == credential {
					return c.Sealed
				}
			}
			return nil
		}
		now := sealedOf(key.Key.ID, cred)
		good := now
		put := func(sealed []byte) {
			require.NoError(t, e.store.Upkeep(background, []apikey.StoreUpkeep{{Credential: cred, OldSealed: now, NewSealed: sealed, NewKEK: "kek-1"}}))
			now = sealed
		}
		tried, open := 0, 0
		try := func(name string, sealed []byte) {
			put(sealed)
			shown, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID})
			if tried++; err == nil {
				open++
			}
			var corrupt *apikey.CorruptError
			if assert.ErrorAs(t, err, &corrupt, name) {
				assert.Equal(t, key.Key.ID, corrupt.Key, name)
			}
			assert.Zero(t, shown, name)
		}
		for bit := range len(good) * 8 {
			sealed := append([]byte(nil), good...)
			sealed[bit/8] ^= 1 << (bit % 8)
			try(fmt.Sprint("bit ", bit), sealed)
		}
		for n := 1; n < len(good); n++ {
			try(fmt.Sprint("cut to ", n), append([]byte(nil), good[:n]...))
		}
		try("longer", append(append([]byte(nil), good...), 0))

		test := e.issue(recoverable, func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
		theirs, err := e.manager.Issue(as("acc_2", "admin"), apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
		require.NoError(t, err)
		mine := e.issue(recoverable)
		for name, other := range map[string]apikey.Issued{"another key's": mine, "the other mode's": test, "another account's": theirs} {
			try(name, sealedOf(other.Key.ID, other.Token.Credential()))
		}
		put(good)
		rotated, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, Overlap: time.Hour})
		require.NoError(t, err)
		put(sealedOf(key.Key.ID, rotated.Token.Credential()))
		_, err = e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID, Credential: cred})
		if tried++; err == nil {
			open++
		}
		assert.ErrorIs(t, err, apikey.ErrCorrupt, "of the key's other credential")
		put(good)
		_, err = e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID, Credential: cred})
		require.NoError(t, err, "as it was it opens")
		t.Logf("%d changes of a sealed token of %d bytes: %d open", tried, len(good), open)
		require.Zero(t, open)
	})
}
