package apitest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// Somebody writes revoked_at by hand. The key is damaged, and is suspended (or one
// token of it retired) while it is. The row is put back, and the key resumed: nobody has revoked it.
func TestOnlyWhatWasDoneIsRemembered(t *testing.T) {
	for name, act := range map[string]func(e *env, m *apikey.Manager, a, b apikey.Issued) error{
		"Suspend": func(e *env, m *apikey.Manager, a, _ apikey.Issued) error {
			return m.Suspend(e.ctx, a.Key.ID)
		},
		"Retire the other token": func(e *env, m *apikey.Manager, a, b apikey.Issued) error {
			return m.Retire(e.ctx, apikey.RetireRequest{Key: a.Key.ID, Credential: b.Token.Credential()})
		},
		"RevokeToken of the other token": func(e *env, m *apikey.Manager, a, b apikey.Issued) error {
			return m.RevokeToken(background, b.Token.Reveal(), "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s *spy
			var p *getter
			e := newEnv(t, watch(&s), lying(&p))
			a, b, alive := e.twoTokens()
			require.NoError(t, e.verify(a.Token))
			bad := alive
			bad.RevokedAt = e.clock.now().UTC().Truncate(time.Microsecond)
			p.r = &bad
			m := e.manager
			lie(e, s, bad)
			require.NoError(t, act(e, m, a, b))
			lie(e, s, p.wrote)
			require.Error(t, e.verify(a.Token), "while it is damaged")
			p.r = &alive // put back
			lie(e, s, alive)
			for range 3 { // and its owner does all that is in their power
				require.NoError(t, m.Suspend(e.ctx, a.Key.ID))
				require.NoError(t, m.Resume(e.ctx, apikey.ResumeRequest{Key: a.Key.ID}))
				lie(e, s, p.wrote)
			}
			e.clock.move(3 * e.maxAge())
			require.NoError(t, verifyBy(e.newVerifier(), a.Token), "a process that has seen nothing of this")
			require.NoError(t, e.verify(a.Token))
		})
	}
}

// A key is suspended while its row is damaged, the row is put back, and the key is
// resumed, which returns nil.
func TestResumeAfterARepair(t *testing.T) {
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
	require.NoError(t, m.Suspend(e.ctx, k.Key.ID))
	p.r = &alive
	lie(e, s, alive)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrSuspended, "as it should")
	require.NoError(t, m.Resume(e.ctx, apikey.ResumeRequest{Key: k.Key.ID}))
	e.clock.move(3 * e.maxAge())
	require.NoError(t, e.verify(k.Token), "Resume returned nil, and the row says that it is active")
}

// Without a pepper a row that lacks a credential is believed, but not at the very
// version that listed it: a version drops nothing after it was made.
func TestAnIncompleteRowOfTheSameVersion(t *testing.T) {
	var s *spy
	e := newEnv(t, noPepper, watch(&s))
	k := e.issue()
	require.NoError(t, e.verify(k.Token))
	whole, err := e.store.Get(background, k.Key.ID)
	require.NoError(t, err)
	part := whole
	part.Credentials = nil
	lie(e, s, part)
	e.clock.move(2*e.maxAge() + time.Second)
	require.ErrorIs(t, e.verify(k.Token), apikey.ErrCorrupt)
	lie(e, s, whole) // it is back
	for range 3 {
		err = e.verify(k.Token)
		e.clock.move(2*e.maxAge() + time.Second)
	}
	require.NoError(t, err)
}
