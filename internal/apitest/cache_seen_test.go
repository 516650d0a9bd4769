package apitest

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// A row was read before ten rotations elsewhere, and is answered after them. The newest
// record no longer lists the credential: the fence is the key's, too.
func TestADroppedCredentialIsFenced(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k := e.issue()
	read, release := hold(t, s)
	answer := make(chan error, 1)
	go func() { answer <- e.verify(k.Token) }()
	<-read
	s.set(func(s *spy) { s.lookup = nil })
	other := e.newManager()
	for range 10 {
		_, err := other.Rotate(e.ctx, apikey.RotateRequest{Key: k.Key.ID})
		require.NoError(t, err)
	}
	require.NoError(t, e.verifier.Sync(background))
	release()
	got := <-answer
	again := e.verify(k.Token)
	require.NoError(t, e.verifier.Sync(background))
	third := e.verify(k.Token)
	e.clock.move(e.maxAge() - time.Minute)
	require.NoError(t, e.verifier.Sync(background))
	t.Log(got, again, third, e.verify(k.Token))
	require.Error(t, got)
	require.Error(t, again)
}

// That a row was not there says nothing about what was written after that was read.
func TestAnAbsenceReadBeforeADoubt(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k := e.issue()
	require.NoError(t, e.verify(k.Token))
	require.NoError(t, e.manager.Suspend(e.ctx, k.Key.ID))
	require.NoError(t, e.verifier.Sync(background))
	e.clock.move(2*e.maxAge() + time.Second)
	require.NoError(t, e.verifier.Sync(background))
	reading, gate := make(chan struct{}), make(chan struct{})
	s.set(func(s *spy) { // a backup is being restored: the table is empty
		s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			close(reading)
			<-gate
			return apikey.StoreRecord{}, apikey.ErrNotFound
		}
	})
	answer := make(chan error, 1)
	go func() { answer <- e.verify(k.Token) }()
	<-reading
	s.set(func(s *spy) { s.lookup = nil })
	other := e.newManager()
	require.NoError(t, other.Resume(e.ctx, apikey.ResumeRequest{Key: k.Key.ID}))
	lost := false
	s.set(func(s *spy) {
		s.changed = func(_ context.Context, c apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			if !lost {
				lost = true
				return apikey.StoreChanges{}, apikey.ErrCursorLost
			}
			return next()
		}
	})
	require.NoError(t, e.verifier.Sync(background))
	s.set(func(s *spy) { s.changed = nil })
	close(gate)
	<-answer
	require.NoError(t, e.verifier.Sync(background))
	require.NoError(t, e.verify(k.Token), "everything was to be read again")
}

// What a first verification finds out about a key holds for its other tokens at once.
func TestAColdReadTellsItsSiblings(t *testing.T) {
	e := newEnv(t)
	a := e.issue()
	b, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: a.Key.ID, Overlap: time.Hour})
	require.NoError(t, err)
	require.NoError(t, e.verify(b.Token))
	other := e.newManager()
	require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: a.Key.ID}))
	require.ErrorIs(t, e.verify(a.Token), apikey.ErrRevoked, "this process has seen it dead")
	require.ErrorIs(t, e.verify(b.Token), apikey.ErrRevoked)
}

// A feed of nonsense costs a read, and neither the process nor a valid key.
func TestNonsenseInTheFeed(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	k := e.issue()
	require.NoError(t, e.verify(k.Token))
	s.set(func(s *spy) {
		s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			c, err := next()
			r := apikey.StoreRecord{ID: k.Key.ID, Credentials: []apikey.StoreCredential{{ID: k.Token.Credential()}, {ID: k.Token.Credential()}}}
			c.Records = append(c.Records, r, r, apikey.StoreRecord{})
			c.Damaged = append(c.Damaged, nil)
			return c, err
		}
	})
	require.NoError(t, e.verifier.Sync(background))
	require.NoError(t, e.verify(k.Token))
}

// After a restore the newest record and the one before both count, in Can as in Require.
func TestCanKnowsWhatVerifyKnows(t *testing.T) {
	store := memstore.New()
	e := newEnv(t, func(e *env) { e.store = store })
	key := e.issue()
	restore := store.Snapshot()
	for i := range 5 {
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(fmt.Sprint(i))})
		require.NoError(t, err)
	}
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.verifier.Sync(background))
	restore()
	require.NoError(t, e.verifier.Sync(background))
	_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Clear[[]string]()})
	require.NoError(t, err)
	refund := apikey.Scope("payment:refund")
	_, err = e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{Require: []apikey.Ability{refund}})
	require.ErrorIs(t, err, apikey.ErrAbility)
	k, err := e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{})
	require.NoError(t, err)
	require.False(t, k.Can(refund), "Require says no, Can says yes")
}

// A row that the feed shows at every poll has nothing else read again.
func TestARowFarAheadInTheFeed(t *testing.T) {
	var db *sql.DB
	var s *spy
	e := newEnv(t, onSQLite(&db), watch(&s))
	key, other := e.issue(), e.issue()
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.verifier.Sync(background))
	_, err := db.Exec(`UPDATE apikey_keys SET feed = 1 << 60 WHERE id = $key`, sql.Named("key", other.Key.ID[:]))
	require.NoError(t, err)
	require.NoError(t, e.verifier.Sync(background))
	require.NoError(t, e.verify(key.Token))
	before := s.lookups.Load()
	for range 20 {
		if err := e.verifier.Sync(background); err != nil {
			t.Log(err)
		}
		require.NoError(t, e.verify(key.Token))
	}
	require.LessOrEqual(t, s.lookups.Load()-before, int64(2), "one row of another key has this one read again at every poll")
}

// A suspension that one token of a key has seen holds for its other token, which is
// first verified after an older row was put back, until that is read again.
func TestASuspensionSeenByASibling(t *testing.T) {
	for name, again := range map[string]func(e *env, s *spy, old apikey.StoreRecord, b apikey.Token){
		"read again": func(e *env, _ *spy, _ apikey.StoreRecord, _ apikey.Token) { e.clock.move(2*e.maxAge() + time.Second) },
		"its sibling is read again": func(e *env, _ *spy, _ apikey.StoreRecord, b apikey.Token) {
			e.clock.move(2*e.maxAge() + time.Minute)
			require.ErrorIs(e.t, e.verify(b), apikey.ErrSuspended)
		},
		"a page of the feed": func(e *env, s *spy, old apikey.StoreRecord, _ apikey.Token) {
			s.set(func(s *spy) {
				s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
					c, err := next()
					c.Records = append(c.Records, old)
					return c, err
				}
			})
			require.NoError(e.t, e.verifier.Sync(background))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s *spy
			e := newEnv(t, watch(&s))
			a, b, alive := e.twoTokens()
			require.NoError(t, e.verify(b.Token))
			require.NoError(t, e.manager.Suspend(e.ctx, a.Key.ID))
			require.ErrorIs(t, e.verify(b.Token), apikey.ErrSuspended)
			lie(e, s, alive)
			require.ErrorIs(t, e.verify(a.Token), apikey.ErrSuspended)
			again(e, s, alive, b.Token)
			require.ErrorIs(t, e.verify(b.Token), apikey.ErrSuspended)
			require.ErrorIs(t, e.verify(a.Token), apikey.ErrSuspended, "the same key by its other token")
		})
	}
}

// The same with a backup that is really restored, and nothing that lies: the usual
// traffic of both tokens.
func TestASiblingAfterARestore(t *testing.T) {
	store := memstore.New()
	e := newEnv(t, func(e *env) { e.store = store })
	a := e.issue()
	b, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: a.Key.ID, Overlap: time.Hour})
	require.NoError(t, err)
	require.NoError(t, e.verifier.Sync(background))
	restore := store.Snapshot()
	require.NoError(t, e.verify(b.Token))
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: a.Key.ID, Abilities: apikey.Clear[[]string]()})
	require.NoError(t, err)
	require.NoError(t, e.verifier.Sync(background))
	restore()
	require.NoError(t, e.verifier.Sync(background))
	refund := apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}}
	ask := func(k apikey.Issued) error {
		_, err := e.verifier.Verify(background, k.Token.Reveal(), refund)
		return err
	}
	require.ErrorIs(t, ask(a), apikey.ErrAbility, "what the sibling has seen")
	require.ErrorIs(t, ask(b), apikey.ErrAbility)
	require.ErrorIs(t, ask(a), apikey.ErrAbility, "what the sibling has seen, and sees")
}

// A suspension of a damaged row differs from the row within one version.
func TestASuspensionOfADamagedRowAndASibling(t *testing.T) {
	var s *spy
	var p *getter
	e := newEnv(t, watch(&s), lying(&p))
	a, b, alive := e.twoTokens()
	require.NoError(t, e.verify(b.Token))
	bad := alive
	bad.Name = "changed by hand"
	p.r = &bad
	m := e.manager
	lie(e, s, bad)
	require.NoError(t, m.Suspend(e.ctx, a.Key.ID))
	lie(e, s, p.wrote)
	require.ErrorIs(t, e.verify(b.Token), apikey.ErrCorrupt)
	lie(e, s, alive) // put back
	require.ErrorIs(t, e.verify(b.Token), apikey.ErrSuspended)
	require.ErrorIs(t, e.verify(a.Token), apikey.ErrSuspended, "the same key by its other token")
}

// A row is read by a token that ended long ago, and answered after a rotation that
// drops that token. It says nothing about the token that is valid now.
func TestAnOvertakenReadOfADroppedToken(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	old := e.issue()
	for range 8 {
		_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: old.Key.ID})
		require.NoError(t, err)
	}
	require.ErrorIs(t, e.verify(old.Token), apikey.ErrCredentialEnded)
	require.NoError(t, e.verifier.Sync(background))
	e.clock.move(2*e.maxAge() + time.Second)
	require.NoError(t, e.verifier.Sync(background))
	read, release := hold(t, s)
	answer := make(chan error, 1)
	go func() { answer <- e.verify(old.Token) }()
	<-read
	s.set(func(s *spy) { s.lookup = nil })
	other := e.newManager()
	valid, err := other.Rotate(e.ctx, apikey.RotateRequest{Key: old.Key.ID})
	require.NoError(t, err)
	require.NoError(t, e.verifier.Sync(background))
	require.NoError(t, e.verify(valid.Token))
	release()
	require.Error(t, <-answer)
	var refused time.Duration
	for ; refused < time.Hour; refused += 10 * time.Second {
		require.NoError(t, e.verifier.Sync(background))
		if err = e.verify(valid.Token); err == nil {
			break
		}
		e.clock.move(10 * time.Second)
	}
	require.Zero(t, refused, "the valid token was refused for so long")
}
