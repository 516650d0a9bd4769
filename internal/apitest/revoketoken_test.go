package apitest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// Whoever holds a token can end it: from anywhere, without account or actor.
func TestRevokeTokenByPossession(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		key, other := e.issue(), e.issue()
		asleep := e.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
		expired := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().Add(time.Hour) })
		sandbox := e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
		dead := e.issue()
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: dead.Key.ID}))
		require.NoError(t, e.verify(key.Token))
		e.clock.move(2 * time.Hour)
		m := e.newManager(func(c *managerConfig) { c.Policy = nobody{} }) // who is not even asked
		for name, k := range map[string]apikey.Issued{"live": key, "suspended": asleep, "expired": expired, "test": sandbox} {
			before := len(e.allEvents(apikey.EventsRequest{Key: k.Key.ID}))
			require.NoError(t, m.RevokeToken(background, k.Token.Reveal(), apikey.ReasonCompromised), name)
			require.NoError(t, m.RevokeToken(background, k.Token.Reveal(), apikey.ReasonCompromised), "%s: ended already", name)
			events := e.allEvents(apikey.EventsRequest{Key: k.Key.ID})
			require.Len(t, events, before+1, name)
			last := events[before]
			require.Equal(t, apikey.ActionRevokeToken, last.Action)
			require.Equal(t, "credential:"+k.Token.Credential().String(), last.Actor.ID, "the credential is the actor")
			require.Equal(t, "acc_1", last.Account)
			require.Equal(t, k.Token.Credential(), last.Credential)
			require.Equal(t, apikey.ReasonCompromised, last.Reason)
			require.Equal(t, []string{"credentials"}, last.Changed)
			require.NoError(t, e.chain(k.Key.ID))
			info, err := e.manager.Get(e.ctx, k.Key.ID)
			require.NoError(t, err)
			require.True(t, info.Credentials.At(0).Ended)
			require.NotEqual(t, apikey.Revoked, info.State, "the key itself lives: it gets a new token by rotation")
		}
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrCredentialEnded, "now")
		require.NoError(t, m.RevokeToken(background, dead.Token.Reveal(), ""))
		require.Len(t, e.allEvents(apikey.EventsRequest{Key: dead.Key.ID}), 2)
		require.NoError(t, e.verify(other.Token))
	})
}

type nobody struct{}

func (nobody) Authorize(context.Context, apikey.Actor, apikey.Action, apikey.Info) error {
	return errors.New("nobody may do anything")
}

// Whoever does not hold the secret ends nothing and learns nothing.
func TestRevokeTokenRefuses(t *testing.T) {
	for program, option := range map[string]func(*env){"peppered": func(*env) {}, "plain": noPepper} {
		t.Run(program, func(t *testing.T) {
			e := newEnv(t, option)
			key, public := e.issue(), e.issue(publishable())
			text := key.Token.Reveal()
			sealed := func(text string) string { // as good as an attacker can make it
				if program == "peppered" {
					return retag(t, e.settings.Peppers[0], text)
				}
				return recrc(text)
			}
			require.Equal(t, text, sealed(text))
			r, err := e.store.Get(background, key.Key.ID)
			require.NoError(t, err)
			for name, presented := range map[string]string{
				"empty":                        "",
				"redacted":                     key.Token.String(),
				"the key's ID":                 key.Key.ID.String(),
				"the credential":               key.Token.Credential().String(),
				"the hash":                     r.Credentials[0].Hash,
				"cut short":                    text[:len(text)-1],
				"wrong secret":                 sealed(spliceSecret(text)),
				"unknown":                      sealed(spliceID(text)),
				"forged checksum":              recrc(spliceSecret(text)),
				"another prefix":               sealed("evil" + text[4:]),
				"the other mode":               sealed(strings.Replace(text, "_live_", "_test_", 1)),
				"the other kind":               sealed(strings.Replace(text, "_sk_", "_pk_", 1)),
				"a public one as a secret one": sealed(strings.Replace(public.Token.Reveal(), "_pk_", "_sk_", 1)),
				"a megabyte":                   strings.Repeat("a", 1<<20),
			} {
				err := e.manager.RevokeToken(background, presented, "")
				require.ErrorIs(t, err, apikey.ErrInvalidToken, name)
				require.EqualError(t, err, apikey.ErrInvalidToken.Error(), "%s: one answer for all", name)
			}
			require.NoError(t, e.verify(key.Token))
			require.ErrorIs(t, e.manager.RevokeToken(background, public.Token.Reveal(), ""), apikey.ErrKind, "everybody has it")
			_, err = e.verifier.Verify(background, public.Token.Reveal(), apikey.Request{AllowPublishable: true})
			require.NoError(t, err)
			require.Len(t, e.allEvents(apikey.EventsRequest{Account: "acc_1"}), 2)
		})
	}
}

// Anybody may call it, so what it costs is bounded: at most eight lookups at a
// time, however many come, and with a pepper none at all for what is forged.
func TestRevokeTokenBoundsJunk(t *testing.T) {
	var running, most, lookups atomic.Int64
	full, open := make(chan struct{}), make(chan struct{})
	var once sync.Once
	store := &lookupHook{before: func() {
		lookups.Add(1)
		n := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if n == 8 {
			once.Do(func() { close(full) })
		}
		<-open
	}}
	e := newEnv(t, func(e *env) {
		store.Store = e.store
		e.store = store
	})
	text := e.issue().Token.Reveal()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if err := e.manager.RevokeToken(background, retag(t, e.settings.Peppers[0], spliceID(text)), ""); !errors.Is(err, apikey.ErrInvalidToken) {
				t.Error(err)
			}
		})
	}
	<-full
	for range 1000 { // forged: answered while the others wait, without a read
		require.ErrorIs(t, e.manager.RevokeToken(background, recrc(spliceID(text)), ""), apikey.ErrInvalidToken)
	}
	require.Equal(t, int64(8), lookups.Load())
	close(open)
	wg.Wait()
	require.Equal(t, int64(8), most.Load())
	require.Equal(t, int64(100), lookups.Load())
}

type lookupHook struct {
	apikey.Store
	before func()
}

func (s *lookupHook) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	s.before()
	return s.Store.Lookup(ctx, id)
}

// Two holders at once, one of whom is the merchant who revokes the whole key.
func TestRevokeTokenUnderRacing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		for range 20 {
			key := e.issue()
			errs := together(8, func(i int) error {
				if i%2 == 0 {
					return e.manager.RevokeToken(background, key.Token.Reveal(), "")
				}
				return e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID})
			})
			require.Equal(t, 8, count(errs, nil), errs)
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
			require.NoError(t, e.chain(key.Key.ID))
		}
	})
}
