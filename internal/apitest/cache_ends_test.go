package apitest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// A failover has lost three versions, and the token was retired after it. The lost row,
// put back, is newer, and what another token of the key has seen is that.
func TestAnEndIsForEver(t *testing.T) {
	for _, warmB := range []bool{false, true} {
		t.Run(fmt.Sprint("sibling warm: ", warmB), func(t *testing.T) {
			var s *spy
			var p *getter
			e := newEnv(t, watch(&s), lying(&p))
			a, b, two := e.twoTokens()
			for i := range 3 {
				_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: a.Key.ID, Name: apikey.Set(fmt.Sprint(i))})
				require.NoError(t, err)
			}
			five, err := e.store.Get(background, a.Key.ID)
			require.NoError(t, err)
			if warmB {
				require.NoError(t, e.verify(b.Token)) // has seen version 5
			}
			// a failover has lost 3 to 5; a is retired by another node
			p.r = &two
			m := e.manager
			require.NoError(t, m.Retire(e.ctx, apikey.RetireRequest{Key: a.Key.ID, Credential: a.Token.Credential()}))
			lie(e, s, p.wrote)
			require.ErrorIs(t, e.verify(a.Token), apikey.ErrCredentialEnded)
			lie(e, s, five) // put back
			for range 3 {
				require.ErrorIs(t, e.verify(a.Token), apikey.ErrCredentialEnded)
				e.clock.move(2*e.maxAge() + time.Second)
			}
		})
	}
}

// An end is remembered also when the row is gone for a while, and comes back older.
func TestEndThenGoneThenBack(t *testing.T) {
	for _, warmB := range []bool{false, true} {
		t.Run(fmt.Sprint("sibling warm: ", warmB), func(t *testing.T) {
			var s *spy
			e := newEnv(t, watch(&s))
			a, b, alive := e.twoTokens()
			other := e.newManager()
			require.NoError(t, other.Retire(e.ctx, apikey.RetireRequest{Key: a.Key.ID, Credential: a.Token.Credential()}))
			three, err := e.store.Get(background, a.Key.ID)
			require.NoError(t, err)
			_, err = other.Update(e.ctx, apikey.UpdateRequest{Key: a.Key.ID, Name: apikey.Set("x")})
			require.NoError(t, err)
			if warmB {
				require.NoError(t, e.verify(b.Token)) // version 4
			}
			lie(e, s, three) // the latest backup
			require.ErrorIs(t, e.verify(a.Token), apikey.ErrCredentialEnded)
			lie(e, s, alive) // an older one
			s.set(func(s *spy) {
				s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
					return apikey.StoreRecord{}, apikey.ErrNotFound
				}
			})
			e.clock.move(2*e.maxAge() + time.Second)
			require.Error(t, e.verify(a.Token))
			lie(e, s, alive)
			e.clock.move(2*e.maxAge() + time.Second)
			require.ErrorIs(t, e.verify(a.Token), apikey.ErrCredentialEnded)
		})
	}
}

// Without a pepper a row that is edited by hand is believed, beside what another token of
// the key has seen, and no token loses its window by that.
func TestSuspendedByHand(t *testing.T) {
	for _, warmB := range []bool{false, true} {
		t.Run(fmt.Sprint("sibling warm: ", warmB), func(t *testing.T) {
			var s *spy
			e := newEnv(t, noPepper, watch(&s))
			a := e.issue()
			b, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: a.Key.ID, Overlap: time.Hour})
			require.NoError(t, err)
			if warmB {
				require.NoError(t, e.verify(b.Token))
			}
			by, err := e.store.Get(background, a.Key.ID)
			require.NoError(t, err)
			by.Disabled = true
			lie(e, s, by)
			for i := range 3 {
				require.ErrorIs(t, e.verify(a.Token), apikey.ErrSuspended, i)
			}
			e.clock.move(59 * time.Minute)
			require.ErrorIs(t, e.verify(a.Token), apikey.ErrSuspended)
			e.clock.move(48 * time.Hour)
			require.NoError(t, e.verifier.Sync(background))
			require.Error(t, e.verify(a.Token), "two days after its end")
		})
	}
}

// And by a token that is warm.
func TestWarmSuspendedByHand(t *testing.T) {
	var s *spy
	e := newEnv(t, noPepper, watch(&s))
	a := e.issue()
	require.NoError(t, e.verify(a.Token))
	by, err := e.store.Get(background, a.Key.ID)
	require.NoError(t, err)
	by.Disabled = true
	lie(e, s, by)
	e.clock.move(2*e.maxAge() + time.Second)
	require.ErrorIs(t, e.verify(a.Token), apikey.ErrSuspended)
}

// Nothing is damaged, and nobody lies: a token that ended long ago is read while a
// rotation elsewhere drops it and the key is suspended.
func TestDroppedTokenOfASuspendedKey(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	a := e.issue()
	m := e.newManager()
	for range 8 {
		_, err := m.Rotate(e.ctx, apikey.RotateRequest{Key: a.Key.ID})
		require.NoError(t, err)
	}
	require.NoError(t, e.verifier.Sync(background))
	read, release := hold(t, s)
	answer := make(chan error, 1)
	go func() { answer <- e.verify(a.Token) }()
	<-read
	s.set(func(s *spy) { s.lookup = nil })
	b, err := m.Rotate(e.ctx, apikey.RotateRequest{Key: a.Key.ID})
	require.NoError(t, err)
	require.NoError(t, m.Suspend(e.ctx, a.Key.ID))
	require.ErrorIs(t, e.verify(b.Token), apikey.ErrSuspended)
	release()
	require.Error(t, <-answer)
	require.NoError(t, e.verifier.Sync(background))
	for range 3 {
		err = e.verify(a.Token)
		require.Error(t, err)
		require.NotErrorIs(t, err, apikey.ErrCorrupt, "nothing is damaged")
		e.clock.move(2 * e.maxAge())
		require.NoError(t, e.verifier.Sync(background))
	}
}
