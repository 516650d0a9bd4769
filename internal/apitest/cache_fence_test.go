package apitest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// The fence of the warm cache: no Verify that starts after a change returned is
// answered from before it, whatever was under way.

// 10,000 times a key that is cold is revoked while others verify it. The store
// lingers over its answers, so that rows are read before the revocation and
// arrive after it.
func TestRevokeMeansNow(t *testing.T) {
	const rounds, callers = 10_000, 3
	var e *env
	var s *spy
	for round := range rounds {
		if round%250 == 0 {
			e = newEnv(t, watch(&s))
			s.set(func(s *spy) {
				s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
					r, err := next()
					for linger := rand.N(50); linger > 0; linger-- {
						runtime.Gosched()
					}
					return r, err
				}
			})
		}
		issued := e.issue()
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range 2 {
					if err := e.verify(issued.Token); err != nil && err != apikey.ErrRevoked {
						t.Error(err)
					}
				}
			})
		}
		for linger := rand.N(20); linger > 0; linger-- {
			runtime.Gosched()
		}
		if err := e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: issued.Key.ID}); err != nil {
			t.Fatal(err)
		}
		if err := e.verify(issued.Token); err != apikey.ErrRevoked {
			t.Fatalf("round %d: a Verify that began after Revoke returned says %v", round, err)
		}
		wg.Wait()
		if err := e.verify(issued.Token); err != apikey.ErrRevoked {
			t.Fatalf("round %d: revived by an older flight: %v", round, err)
		}
	}
}

// hold stops the first Lookup after it has read the row, and says when.
func hold(t *testing.T, s *spy) (read <-chan struct{}, release func()) {
	reading, gate := make(chan struct{}), make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	var once sync.Once
	s.set(func(s *spy) {
		s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			r, err := next()
			once.Do(func() {
				close(reading)
				<-gate
			})
			return r, err
		}
	})
	return reading, release
}

// The row was read before the change, and the answer comes after it: for the
// caller who began the flight, for one who joins it, and for the cache.
func TestNobodyIsAnsweredFromAnOlderFlight(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*env, apikey.Issued) error
		want   error
	}{
		{"revoke", func(e *env, k apikey.Issued) error {
			return e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID})
		}, apikey.ErrRevoked},
		{"suspend", func(e *env, k apikey.Issued) error {
			return e.manager.Suspend(e.ctx, k.Key.ID)
		}, apikey.ErrSuspended},
		{"revoke the token", func(e *env, k apikey.Issued) error {
			return e.manager.RevokeToken(background, k.Token.Reveal(), "")
		}, apikey.ErrCredentialEnded},
		{"take the ability", func(e *env, k apikey.Issued) error {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, Abilities: apikey.Clear[[]string]()})
			return err
		}, apikey.ErrAbility},
		{"change seen in the feed", func(e *env, k apikey.Issued) error {
			other := e.newManager()
			return errors.Join(other.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}), e.verifier.Sync(background))
		}, apikey.ErrRevoked},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s *spy
			e := newEnv(t, watch(&s))
			key := e.issue()
			verify := func() error {
				_, err := e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}})
				return err
			}
			read, release := hold(t, s)
			answers := make(chan error, 2)
			go func() { answers <- verify() }()
			<-read
			s.set(func(s *spy) { s.lookup = nil }) // RevokeToken reads too
			require.NoError(t, c.change(e, key))
			go func() { answers <- verify() }() // may join the flight, not its row
			require.ErrorIs(t, verify(), c.want, "began after the change returned")
			release()
			require.ErrorIs(t, <-answers, c.want)
			require.ErrorIs(t, <-answers, c.want)
			require.ErrorIs(t, verify(), c.want, "an older row filled the cache")
		})
	}
}

// A store that does not look at its context lets a read outlive its flight, its
// callers and every other flight. Nobody meets that read again.
func TestAReadThatOutlivesItsFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		e := newEnv(t, watch(&s), realTime, func(e *env) { e.vc.Sync = -1 })
		defer e.verifier.Close(background)
		key := e.issue()
		read, release := hold(t, s)
		answer := make(chan error)
		go func() { answer <- e.verify(key.Token) }()
		<-read
		s.set(func(s *spy) { s.lookup = nil })
		require.ErrorIs(t, <-answer, apikey.ErrUnavailable, "the flight's time is over")
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		late := make(chan error)
		go func() { late <- e.verify(key.Token) }()
		synctest.Wait()
		release()
		require.ErrorIs(t, <-late, apikey.ErrRevoked)
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	})
}

// So many changes that their names are dropped are still changes, for who was
// reading meanwhile.
func TestManyChangesAreNotForgotten(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.Sync = -1 })
	key := e.issue()
	read, release := hold(t, s)
	answer := make(chan error)
	go func() { answer <- e.verify(key.Token) }()
	<-read
	s.set(func(s *spy) { s.lookup = nil })
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	s.set(func(s *spy) {
		s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			c, err := next()
			many := apikey.StoreRecord{ID: storetest.NewKeyID(), Credentials: make([]apikey.StoreCredential, 1<<16+1)}
			for i := range many.Credentials {
				many.Credentials[i].ID = apikey.CredentialID{1, byte(i), byte(i >> 8), byte(i >> 16)}
			}
			c.Records = append(c.Records, many)
			return c, err
		}
	})
	require.NoError(t, e.verifier.Sync(background))
	release()
	require.ErrorIs(t, <-answer, apikey.ErrRevoked)
}

// The absence of a key is fenced like its presence: a lookup that began before
// the key was there must not be remembered after.
func TestAbsenceIsFenced(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	issued := e.issue()
	reading, gate := make(chan struct{}), make(chan struct{})
	s.set(func(s *spy) { // as if the row were not there yet
		s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			close(reading)
			<-gate
			return apikey.StoreRecord{}, apikey.ErrNotFound
		}
	})
	answer := make(chan error)
	go func() { answer <- e.verify(issued.Token) }()
	<-reading
	s.set(func(s *spy) { s.lookup = nil })
	_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: issued.Key.ID, Name: apikey.Set("there")})
	require.NoError(t, err)
	close(gate)
	require.NoError(t, <-answer)
	require.NoError(t, e.verify(issued.Token))
}

// An edit, a page of the feed and a second reading of a warm key replace its
// record and keep its proof.
func TestNoChangeCostsAHash(t *testing.T) {
	var m *meter
	e := newEnv(t, noPepper, metered(&m))
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	require.EqualValues(t, 1, m.verifies.Load())
	other := e.newManager()
	for i := range 20 {
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(fmt.Sprint(i))})
		require.NoError(t, err)
		require.NoError(t, e.verify(key.Token))
		require.NoError(t, other.Suspend(e.ctx, key.Key.ID))
		require.NoError(t, e.verifier.Sync(background))
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrSuspended)
		require.NoError(t, other.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}))
		e.clock.move(e.maxAge() * 3) // read again before the answer
		require.NoError(t, e.verify(key.Token))
	}
	require.EqualValues(t, 1, m.verifies.Load())
}

// A change that comes while the first hash runs costs a second reading of the
// row and no second hash.
func TestAChangeDuringTheHashKeepsTheProof(t *testing.T) {
	var s *spy
	var m *meter
	e := newEnv(t, noPepper, watch(&s), metered(&m))
	key := e.issue()
	hashing, gate := make(chan struct{}), make(chan struct{})
	m.hold = func() { close(hashing); <-gate }
	answer := make(chan error)
	go func() { answer <- e.verify(key.Token) }()
	<-hashing
	require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID))
	close(gate)
	require.ErrorIs(t, <-answer, apikey.ErrSuspended)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrSuspended)
	require.EqualValues(t, 2, s.lookups.Load())
	require.EqualValues(t, 1, m.verifies.Load())
}

// A write whose answer was lost may have happened: the key is read again before
// the next answer.
func TestUnknownOutcomeIsReadAgain(t *testing.T) {
	lost := &lostAnswers{}
	e := newEnv(t, func(e *env) { lost.Store = e.store; e.store = lost })
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	lost.on = true
	_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Disabled: apikey.Set(true)})
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrSuspended)
}

type lostAnswers struct {
	apikey.Store
	on bool
}

func (l *lostAnswers) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	err := l.Store.Apply(ctx, changes...)
	if err == nil && l.on {
		return errors.New("connection reset by peer")
	}
	return err
}

// A process that saw a key die, or lose a right, does not believe an older
// record that comes later: a lagging read, or a row put back by hand.
func TestAnOlderRecordRevivesNothing(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	key := e.issue()
	old, err := e.store.Lookup(background, key.Token.Credential())
	require.NoError(t, err)
	require.NoError(t, e.verify(key.Token))
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:verify"})})
	require.NoError(t, err)
	refund := apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}}
	s.set(func(s *spy) {
		s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			return old, nil
		}
		s.changed = func(_ context.Context, after apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			c, err := next()
			c.Records = []apikey.StoreRecord{old}
			return c, err
		}
	})
	require.NoError(t, e.verifier.Sync(background))
	_, err = e.verifier.Verify(background, key.Token.Reveal(), refund)
	require.ErrorIs(t, err, apikey.ErrAbility)
	e.clock.move(3 * e.maxAge())
	_, err = e.verifier.Verify(background, key.Token.Reveal(), refund)
	require.ErrorIs(t, err, apikey.ErrAbility)
	require.NoError(t, e.verify(key.Token), "what it may still do, it may")
}

func TestCacheIsBoundedAndJunkDrivesNothingOut(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxEntries = 10 })
	var keys []apikey.Issued
	for range 20 {
		keys = append(keys, e.issue())
		require.NoError(t, e.verify(keys[len(keys)-1].Token))
	}
	before := s.lookups.Load()
	for _, k := range keys[10:] {
		require.NoError(t, e.verify(k.Token))
	}
	require.Equal(t, before, s.lookups.Load(), "the ten newest are warm")
	for range 1000 {
		e.verifyText(retag(t, e.settings.Peppers[0], spliceID(keys[0].Token.Reveal())))
	}
	before = s.lookups.Load()
	for _, k := range keys[10:] {
		require.NoError(t, e.verify(k.Token))
	}
	require.Equal(t, before, s.lookups.Load(), "junk drove a warm key out")
	require.NoError(t, e.verify(keys[0].Token))
	require.Equal(t, before+1, s.lookups.Load(), "evicted, and read again")
}

func TestWithoutACacheEveryVerifyReads(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxEntries = -1 })
	key := e.issue()
	for range 5 {
		require.NoError(t, e.verify(key.Token))
	}
	require.EqualValues(t, 5, s.lookups.Load())
	other := e.newManager()
	require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked, "no sync, no telling: revocation is immediate")
}
