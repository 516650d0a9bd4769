package apitest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// lie makes every Lookup answer r.
func lie(e *env, s *spy, r apikey.StoreRecord) {
	require.NoError(e.t, e.verifier.Sync(background)) // the feed has nothing more to say
	s.set(func(s *spy) {
		s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			return r, nil
		}
	})
}

// twoTokens issues a key and rotates it, with an overlap of an hour: its two tokens,
// and the record that lists both.
func (e *env) twoTokens() (outgoing, current apikey.Issued, r apikey.StoreRecord) {
	outgoing = e.issue()
	current, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: outgoing.Key.ID, Overlap: time.Hour})
	require.NoError(e.t, err)
	r, err = e.store.Get(background, outgoing.Key.ID)
	require.NoError(e.t, err)
	return outgoing, current, r
}

// Another flight has made the entry meanwhile, and the key has died in it. A flight that
// reads the old row again is answered with what is known, not with its row.
func TestAColdFlightMeetsADeath(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k := e.issue()
	alive, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	read, release := hold(t, s)
	answer := make(chan error, 1)
	go func() { answer <- e.verify(k.Token) }()
	<-read
	s.set(func(s *spy) { s.lookup = nil })
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}))
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked, "it is in the cache, dead")
	lie(e, s, alive)
	release()
	require.ErrorIs(t, <-answer, apikey.ErrRevoked)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
}

// History was lost, and this node has revoked the key in the new one, at a lower version.
// The lost version, put back, is newer, and no reason to forget that.
func TestADeathOfALowerVersionCounts(t *testing.T) {
	var s *spy
	var p *getter
	e := newEnv(t, watch(&s), lying(&p))
	k := e.issue()
	one, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	for i := range 3 {
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, Name: apikey.Set(fmt.Sprint(i))})
		require.NoError(t, err)
	}
	require.NoError(t, e.verify(k.Token))
	four, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	_ = one
	// a failover has lost versions 2 to 4; the key is revoked here
	p.r = &one
	m := e.manager
	require.NoError(t, m.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}))
	two := p.wrote
	require.EqualValues(t, 2, two.Version)
	lie(e, s, two)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
	lie(e, s, four) // somebody puts the lost row back
	e.clock.move(2*e.maxAge() + time.Second)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
}

// getter is a store that went back in time.
type getter struct {
	apikey.Store
	r     *apikey.StoreRecord // nil: it does not lie yet
	wrote apikey.StoreRecord
}

// lying puts a getter before the store.
func lying(p **getter) func(*env) {
	return func(e *env) {
		*p = &getter{Store: e.store}
		e.store = *p
	}
}

func (g *getter) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	if g.r == nil {
		return g.Store.Get(ctx, id)
	}
	return *g.r, nil
}

func (g *getter) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	if g.r == nil {
		return g.Store.Apply(ctx, changes...)
	}
	for _, c := range changes {
		if c.Record != nil {
			g.wrote = *c.Record
			g.r = &g.wrote
		}
	}
	return nil
}

// A row that is moved under a credential is of another key: its version says nothing
// about this one, and that it does not list the credential neither.
func TestAnotherKeysRecordDropsNothing(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k, other := e.issue(), e.issue()
	alive, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	require.NoError(t, e.verify(k.Token))
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}))
	for i := range 3 {
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: other.Key.ID, Name: apikey.Set(fmt.Sprint(i))})
		require.NoError(t, err)
	}
	theirs, err := e.store.Get(background, other.Key.ID)
	require.NoError(t, err)
	lie(e, s, theirs)
	e.clock.move(2*e.maxAge() + time.Second)
	t.Log(e.verify(k.Token))
	lie(e, s, alive)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
	e.clock.move(2*e.maxAge() + time.Second)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
}

// Nor while a token that is not warm is read once more, because its key changed.
func TestAnotherKeysRecordAfterTheProof(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k, other := e.issue(), e.issue()
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: other.Key.ID}))
	dead, err := e.store.Get(background, other.Key.ID)
	require.NoError(t, err)
	reads := 0
	s.set(func(s *spy) {
		s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			if reads++; reads > 1 {
				return dead, nil
			}
			r, err := next()
			_, changed := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, Name: apikey.Set("meanwhile")})
			return r, errors.Join(err, changed)
		}
	})
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrCorrupt)
	require.Equal(t, 2, reads)
	s.set(func(s *spy) { s.lookup = nil })
	require.NoError(t, e.verify(k.Token))
}

// And to the holder of a valid key it is damage, not the end of their token.
func TestAnotherKeysRecordIsDamage(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k, other := e.issue(), e.issue()
	for i := range 3 {
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, Name: apikey.Set(fmt.Sprint(i))})
		require.NoError(t, err)
	}
	require.NoError(t, e.verify(k.Token))
	theirs, err := e.store.Get(background, other.Key.ID)
	require.NoError(t, err)
	lie(e, s, theirs)
	e.clock.move(2*e.maxAge() + time.Second)
	err = e.verify(k.Token)
	s.set(func(s *spy) { s.lookup = nil })
	again := e.verify(k.Token)
	require.ErrorIs(t, err, apikey.ErrCorrupt)
	require.NoError(t, again)
}

// Suspend and Revoke of a damaged row are remembered when it is repaired by putting the
// old one back. So are RevokeToken and Retire.
func TestATokenEndedOnADamagedRowStaysEnded(t *testing.T) {
	var s *spy
	var p *getter
	e := newEnv(t, watch(&s), lying(&p))
	k := e.issue()
	alive, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	require.NoError(t, e.verify(k.Token))
	bad := alive
	bad.Name = "changed by hand"
	p.r = &bad
	m := e.manager
	lie(e, s, bad)
	for name, end := range map[string]func() error{
		"RevokeToken": func() error { return m.RevokeToken(background, k.Token.Reveal(), "") },
		"Retire": func() error {
			return m.Retire(e.ctx, apikey.RetireRequest{Key: k.Key.ID, Credential: k.Token.Credential()})
		},
	} {
		require.NoError(t, end(), name)
		require.True(t, p.wrote.Credentials[0].Ended)
		lie(e, s, p.wrote)
		require.ErrorIs(t, e.verify(k.Token), apikey.ErrCorrupt)
		lie(e, s, alive) // put back
		require.ErrorIs(t, e.verify(k.Token), apikey.ErrCredentialEnded, name)
	}
}

// A key that was seen to die by one of its tokens is dead by the others.
func TestADeathSeenByASibling(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	a, b, alive := e.twoTokens()
	require.NoError(t, e.verify(b.Token))
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: a.Key.ID}))
	require.ErrorIs(t, e.verify(b.Token), apikey.ErrRevoked)
	lie(e, s, alive)
	require.ErrorIs(t, e.verify(b.Token), apikey.ErrRevoked)
	require.ErrorIs(t, e.verify(a.Token), apikey.ErrRevoked)
	require.ErrorIs(t, e.verify(a.Token), apikey.ErrRevoked)
}

// What ended by the clock is forgotten with its row no more than what was revoked.
func TestAnEndByTheClockOutlivesAnEmptyStore(t *testing.T) {
	for name, end := range map[string]func(e *env, k apikey.Issued) error{
		"overlap": func(e *env, k apikey.Issued) error {
			_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: k.Key.ID, Overlap: time.Hour})
			return err
		},
		"expiry": func(e *env, k apikey.Issued) error {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, ExpiresAt: apikey.Set(e.clock.now().Add(time.Hour))})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s *spy
			e := newEnv(t, watch(&s))
			k := e.issue()
			alive, err := e.store.Get(background, k.Key.ID)
			require.NoError(t, err)
			require.NoError(t, e.verify(k.Token))
			require.NoError(t, end(e, k))
			require.NoError(t, e.verify(k.Token))
			e.clock.move(2 * time.Hour)
			require.ErrorIs(t, e.verify(k.Token), apikey.ErrUnauthenticated)
			lie(e, s, alive)
			e.clock.move(2*e.maxAge() + time.Second)
			require.ErrorIs(t, e.verify(k.Token), apikey.ErrUnauthenticated, "an older row alone revives nothing")
			s.set(func(s *spy) {
				s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
					return apikey.StoreRecord{}, apikey.ErrNotFound
				}
			})
			e.clock.move(2*e.maxAge() + time.Second)
			require.ErrorIs(t, e.verify(k.Token), apikey.ErrUnauthenticated)
			lie(e, s, alive)
			e.clock.move(3 * time.Second)
			require.ErrorIs(t, e.verify(k.Token), apikey.ErrUnauthenticated)
			e.clock.move(2*e.maxAge() + time.Second)
			require.ErrorIs(t, e.verify(k.Token), apikey.ErrUnauthenticated)
		})
	}
}

// An old row is put back, and changed twice by its owner, so that its version passes the
// one that ended the token.
func TestAnEndedTokenStaysEnded(t *testing.T) {
	var s *spy
	var p *getter
	e := newEnv(t, watch(&s), lying(&p))
	k := e.issue()
	one, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	require.NoError(t, e.verify(k.Token))
	require.NoError(t, e.manager.RevokeToken(background, k.Token.Reveal(), ""))
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrCredentialEnded)
	// The old row is put back, and its owner renames the key twice.
	p.r = &one
	m := e.manager
	for _, name := range []string{"x", "y"} {
		_, err := m.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, Name: apikey.Set(name)})
		require.NoError(t, err)
		lie(e, s, p.wrote)
		require.ErrorIs(t, e.verify(k.Token), apikey.ErrCredentialEnded, name)
	}
}

// While untagged tokens are accepted, a row without credentials is vacuously one of them.
// A tagged token's record has a MAC.
func TestAnUnsignedRowDropsNoTaggedToken(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.settings.AcceptUntagged = true })
	k := e.issue()
	alive, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	require.NoError(t, e.verify(k.Token))
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}))
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
	forged := alive
	forged.Version, forged.Credentials, forged.MAC = 1<<40, nil, nil
	lie(e, s, forged)
	e.clock.move(2*e.maxAge() + time.Second)
	t.Log(e.verify(k.Token))
	lie(e, s, alive)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrRevoked)
}

// Ended long ago, a token is dropped from its record. Who saw it end remembers.
func TestADroppedTokenStaysDead(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k := e.issue()
	alive, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	require.NoError(t, e.verify(k.Token))
	var last apikey.Issued
	for range 10 {
		last, err = e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: k.Key.ID})
		require.NoError(t, err)
		require.ErrorIs(t, e.verify(k.Token), apikey.ErrUnauthenticated)
		require.NoError(t, e.verify(last.Token))
	}
	lie(e, s, alive)
	e.clock.move(3 * time.Second)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrUnauthenticated)
}

// Of a key that has died and whose row cannot be believed there is nothing to be found out.
func TestADeadAndDamagedKeyIsNotReadAgain(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	bad, err := e.store.Get(background, key.Key.ID)
	require.NoError(t, err)
	bad.Name = "changed by hand"
	lie(e, s, bad)
	e.clock.move(2*e.maxAge() + time.Second)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	before := s.lookups.Load()
	for range 100 {
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	}
	require.LessOrEqual(t, s.lookups.Load()-before, int64(2))
}
