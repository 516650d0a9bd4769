package apitest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// exhaust gives n wrong passwords, over as many challenges as it takes, and
// returns the first error that is not about the answer.
func (e *env) exhaust(f *factors, n int) error {
	e.t.Helper()
	key := e.issue().Key.ID
	for n > 0 {
		c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: key})
		if err != nil {
			return err
		}
		for range min(n, 5) {
			if _, err := e.manager.Confirm(e.ctx, c.ID, "wrong"); !errors.Is(err, apikey.ErrWrongAnswer) {
				return err
			}
			n--
		}
	}
	return nil
}

// Ten wrong answers an hour, over all challenges and factors; then the actor is
// told how long to wait, and a right answer does not pass either.
func TestTenWrongAnswersAnHour(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("email", "password")))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		open, err := e.manager.Challenge(e.ctx, "email", req)
		require.NoError(t, err)
		e.wrong(open.ID, 4)
		e.clock.move(45 * time.Minute) // more microseconds than 31 bits count
		require.NoError(t, e.exhaust(f, 5))
		c, err := e.manager.Challenge(e.ctx, "email", req)
		require.NoError(t, err)
		e.wrong(c.ID, 1)

		_, err = e.manager.Confirm(e.ctx, c.ID, f.code())
		var wait *apikey.AttemptsError
		require.ErrorAs(t, err, &wait)
		require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
		require.ErrorContains(t, err, "try again in 15m")
		require.Equal(t, 15*time.Minute, wait.Wait)
		_, err = e.manager.Challenge(e.ctx, "password", req)
		require.ErrorIs(t, err, apikey.ErrTooManyAttempts)

		colleague := as("acc_1", "admin")
		_, err = e.manager.Challenge(colleague, "password", req)
		require.NoError(t, err, "others are not held up")
		e.clock.move(wait.Wait)
		req.Grant = e.approve(f, e.ctx, "password", req)
		_, err = e.manager.Rotate(e.ctx, req)
		require.NoError(t, err)
	})
}

// A right answer gives its own charge back, and none of the wrong ones.
func TestRightAnswersGiveBackTheirOwn(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")))
		require.NoError(t, e.exhaust(f, 9))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		for range 30 {
			e.approve(f, e.ctx, "password", req)
		}
		require.NoError(t, e.exhaust(f, 1))
		_, err := e.manager.Challenge(e.ctx, "password", req)
		var wait *apikey.AttemptsError
		require.ErrorAs(t, err, &wait)
		require.Equal(t, time.Hour, wait.Wait, "the ten of the hour, not the challenges that wait")
	})
}

// A hundred wrong answers lock the actor's guarded actions, and nothing else,
// until somebody else lifts it.
func TestHundredWrongAnswersLock(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")), func(e *env) { e.mc.Limits.LiveKeys = 1000 })
		key := e.issue()
		granted := apikey.RotateRequest{Key: key.Key.ID}
		for range 9 {
			require.NoError(t, e.exhaust(f, 10))
			e.clock.move(time.Hour)
		}
		require.NoError(t, e.exhaust(f, 9))
		e.clock.move(11 * time.Minute) // those challenges are over
		granted.Grant = e.approve(f, e.ctx, "password", granted)
		open, err := e.manager.Challenge(e.ctx, "password", granted)
		require.NoError(t, err)
		require.NoError(t, e.exhaust(f, 1))
		_, err = e.manager.Confirm(e.ctx, open.ID, password)
		require.ErrorIs(t, err, apikey.ErrLocked, "nor a right answer to a challenge that waits")

		_, err = e.manager.Rotate(e.ctx, granted)
		require.ErrorIs(t, err, apikey.ErrLocked, "not even what was approved before")
		for range 40 * 24 { // it does not expire
			e.clock.move(time.Hour)
		}
		_, err = e.manager.Challenge(e.ctx, "password", granted)
		require.ErrorIs(t, err, apikey.ErrLocked)
		locked := e.eventsOf(apikey.ActionLock)
		require.Len(t, locked, 1)
		require.Equal(t, admin.ID, locked[0].Actor.ID)

		require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID))
		require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}), "it is not guarded here")
		require.NoError(t, e.verify(key.Token))
		require.ErrorIs(t, e.manager.LiftLock(e.ctx, apikey.LiftLockRequest{Actor: admin.ID}), apikey.ErrForbidden, "nobody lifts their own")
		require.ErrorIs(t, e.manager.LiftLock(as("acc_2", "admin"), apikey.LiftLockRequest{Account: "acc_1", Actor: admin.ID}), apikey.ErrNotFound)
		require.ErrorIs(t, e.manager.LiftLock(as("acc_1", "viewer"), apikey.LiftLockRequest{Actor: admin.ID}), apikey.ErrForbidden)
		require.NoError(t, e.proven(f, as("acc_2", "admin"), apikey.LiftLockRequest{Actor: admin.ID}), "a namesake elsewhere")
		_, err = e.manager.Challenge(e.ctx, "password", granted)
		require.ErrorIs(t, err, apikey.ErrLocked)

		require.NoError(t, e.proven(f, as("acc_1", "admin"), apikey.LiftLockRequest{Actor: admin.ID}))
		granted.Grant = e.approve(f, e.ctx, "password", apikey.RotateRequest{Key: key.Key.ID})
		_, err = e.manager.Rotate(e.ctx, granted)
		require.NoError(t, err)
		lifted := e.eventsOf(apikey.ActionLiftLock)
		require.Len(t, lifted, 1)
		require.Equal(t, []string{"actor:" + admin.ID}, lifted[0].Changed)
		require.Equal(t, "usr_of_acc_1", lifted[0].Actor.ID)

		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID, Reason: apikey.ReasonCompromised}))
	})
}

// eventsOf are the events of one action that was done, in the account's log.
func (e *env) eventsOf(action apikey.Action) (list []apikey.Event) {
	e.t.Helper()
	for _, ev := range e.allEvents(apikey.EventsRequest{Account: admin.Account}) {
		if ev.Action == action && ev.Outcome == apikey.OutcomeDone {
			list = append(list, ev)
		}
	}
	return list
}

// An operator's lock is lifted by another operator.
func TestOperatorsLock(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")))
	issued := e.issue()
	e.ctx = staff()
	for range 10 {
		for range 2 {
			c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: issued.Key.ID})
			require.NoError(t, err)
			e.wrong(c.ID, 5)
		}
		e.clock.move(time.Hour)
	}
	require.ErrorIs(t, e.manager.LiftLock(e.ctx, apikey.LiftLockRequest{Actor: "ops_1"}), apikey.ErrForbidden)
	require.NoError(t, e.manager.LiftLock(apikey.WithActor(background, apikey.Operator("ops_2")), apikey.LiftLockRequest{Actor: "ops_1"}))
	for name, err := range map[string]error{ // no operator has anything: the caller has forgotten the account
		"lift":    e.manager.LiftLock(e.ctx, apikey.LiftLockRequest{Actor: admin.ID}),
		"disable": e.manager.Disable(e.ctx, apikey.DisableRequest{Factor: "totp", Actor: admin.ID}),
	} {
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
		require.ErrorContains(t, err, "name the Account", name)
	}
}

// Thirty days without a wrong answer clear the count.
func TestThirtyDaysForgive(t *testing.T) {
	for days, want := range map[int]error{29: apikey.ErrLocked, 30: nil} {
		var f *factors
		e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")), func(e *env) { e.mc.Limits.LiveKeys = 1000 })
		for range 9 {
			require.NoError(t, e.exhaust(f, 10))
			e.clock.move(time.Hour)
		}
		require.NoError(t, e.exhaust(f, 9))
		e.clock.move(time.Duration(days) * 24 * time.Hour)
		require.NoError(t, e.exhaust(f, 1))
		_, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
		require.ErrorIs(t, err, want, "%d days", days)
	}
}

// Three challenges wait at a time, and a fourth ends the oldest; five codes an hour are
// sent: nobody's mailbox is flooded.
func TestOpenChallengesAndMails(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("email", "password")))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		var wait *apikey.AttemptsError
		var put []apikey.Challenge
		for _, factor := range []string{"email", "password", "email", "password"} {
			c, err := e.manager.Challenge(e.ctx, factor, apikey.RotateRequest{Key: e.issue().Key.ID})
			require.NoError(t, err)
			put = append(put, c)
			e.clock.move(time.Second)
		}
		require.Len(t, e.itemsOf("challenge"), 3)
		_, err := e.manager.Confirm(e.ctx, put[0].ID, f.mails[0].code(t))
		require.ErrorIs(t, err, apikey.ErrChallenge)
		e.clock.move(10*time.Minute - 4*time.Second)
		for range 3 {
			_, err := e.manager.Resend(e.ctx, "email", req)
			require.NoError(t, err)
		}
		require.Len(t, f.mails, 5)
		_, err = e.manager.Resend(e.ctx, "email", req)
		require.ErrorAs(t, err, &wait)
		require.Equal(t, 50*time.Minute, wait.Wait)
		require.Len(t, f.mails, 5)
		e.approve(f, e.ctx, "password", req)
		e.clock.move(wait.Wait)
		e.approve(f, e.ctx, "email", req)
	})
}

// A challenge that is spent waits for no answer: it is not one of the three, and ends
// no older one.
func TestWhatFreesAPlace(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")))
		var put []apikey.Challenge
		for range 3 {
			c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
			require.NoError(t, err)
			put = append(put, c)
			e.clock.move(time.Second)
		}
		e.wrong(put[2].ID, 5)
		_, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
		require.NoError(t, err)
		_, err = e.manager.Confirm(e.ctx, put[0].ID, password)
		require.NoError(t, err)
	})
}

// A budget that cannot be read counts as locked: somebody else looks at it.
func TestDamagedBudgetIsLocked(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")))
	require.NoError(t, e.exhaust(f, 1))
	it := e.itemsOf("budget")[0]
	it.Version++
	it.Data = it.Data[:len(it.Data)-1]
	require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: [16]byte{1}, Items: []apikey.StoreItem{it}}))
	require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrLocked)
	require.NoError(t, e.proven(f, as("acc_1", "admin"), apikey.LiftLockRequest{Actor: admin.ID}))
	require.NoError(t, e.exhaust(f, 10))
}

// Thirty days count from the last wrong answer, whatever right ones were given
// since, and in whatever order they were given back.
func TestRightAnswersDelayNoForgiveness(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")), func(e *env) { e.mc.Limits.LiveKeys = 1000 })
	for range 9 {
		require.NoError(t, e.exhaust(f, 10))
		e.clock.move(time.Hour)
	}
	require.NoError(t, e.exhaust(f, 5)) // 95
	e.clock.move(29 * 24 * time.Hour)
	req := apikey.RotateRequest{Key: e.issue().Key.ID}
	begun, done := make(chan struct{}, 10), make(chan error)
	gates := map[string]chan struct{}{"one": make(chan struct{}), "two": make(chan struct{})}
	slow, err := apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) {
		begun <- struct{}{}
		<-gates[answer]
		return true, nil
	})
	require.NoError(t, err)
	node := e.newManager(func(c *managerConfig) { c.Factors = map[string]apikey.Factor{"password": slow} })
	for _, answer := range []string{"one", "two"} {
		c, err := node.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
		require.NoError(t, err)
		go func() {
			_, err := node.Confirm(e.ctx, c.ID, answer)
			done <- err
		}()
		<-begun
	}
	for _, answer := range []string{"one", "two"} {
		close(gates[answer])
		require.NoError(t, <-done)
	}
	e.clock.move(24 * time.Hour)
	require.NoError(t, e.exhaust(f, 5))
	_, err = e.manager.Challenge(e.ctx, "password", req)
	require.NoError(t, err, "five wrong answers in thirty days")
}
