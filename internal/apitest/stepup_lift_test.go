package apitest

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// hijacked are the sessions of two admins of one account. Whoever has them knows no
// password, guesses at both, and lifts the lock of either with the other.
type hijacked struct {
	e        *env
	ctx      [2]context.Context
	ids      [2]string
	compared [2]int // guesses that were compared, by actor
	lifted   int
}

// hijack lets every answer be wrong, and counts those that are compared.
func hijack(t *testing.T, guard apikey.StepUp, on ...func(*env)) *hijacked {
	h := &hijacked{ids: [2]string{"usr_of_acc_1", "usr_2"}}
	var f *factors
	h.e = newEnv(t, append(on, withFactors(&f, guard), func(e *env) {
		pass, err := apikey.NewPassword(func(_ context.Context, id, _ string) (bool, error) {
			for i := range h.ids {
				if h.ids[i] == id {
					h.compared[i]++
				}
			}
			return false, nil
		})
		require.NoError(t, err)
		e.mc.Factors["password"] = pass
	})...)
	h.ctx = [2]context.Context{as("acc_1", "admin"), apikey.WithActor(background, apikey.Actor{ID: h.ids[1], Account: "acc_1", Role: "admin"})}
	return h
}

// guess has one session guess until it is held up: it reports whether it is locked,
// and for how long it has to wait otherwise.
func (h *hijacked) guess(i int, key apikey.KeyID) (locked bool, wait time.Duration) {
	for {
		c, err := h.e.manager.Challenge(h.ctx[i], "password", apikey.RotateRequest{Key: key})
		for err == nil {
			if _, err = h.e.manager.Confirm(h.ctx[i], c.ID, "guess"); errors.Is(err, apikey.ErrWrongAnswer) {
				err = nil
			}
			if h.compared[i] > 2000 { // so that a bound that does not hold ends
				h.e.t.Fatalf("%d guesses at one actor", h.compared[i])
			}
		}
		var busy *apikey.AttemptsError
		switch {
		case errors.As(err, &busy):
			return false, busy.Wait
		case errors.Is(err, apikey.ErrLocked):
			return true, 0
		}
		require.ErrorIs(h.e.t, err, apikey.ErrChallenge) // spent: the next one
	}
}

// month guesses for thirty days.
func (h *hijacked) month() {
	key := h.e.issue().Key.ID
	for end := h.e.clock.now().Add(30*24*time.Hour - time.Second); h.e.clock.now().Before(end); {
		wait := time.Hour
		for i := range h.ctx {
			locked, w := h.guess(i, key)
			if locked && h.e.manager.LiftLock(h.ctx[1-i], apikey.LiftLockRequest{Actor: h.ids[i]}) == nil {
				h.lifted++
				continue
			}
			if w > 0 {
				wait = min(wait, w)
			}
		}
		h.e.clock.move(min(wait, end.Sub(h.e.clock.now())))
	}
}

// chance is the probability that one of n guesses at six digits in three time steps is
// right.
func chance(n int) float64 { return 1 - math.Pow(1-3e-6, float64(n)) }

// What the documentation claims of a guesser: 0.0003 in thirty days where the guards
// are those that ship, and 0.0004 where a hand-written one leaves LiftLock free.
func TestFound10TwoSessionsLiftEachOther(t *testing.T) {
	t.Parallel()
	free := func(a apikey.Action, _ apikey.Mode) []string {
		if a == apikey.ActionRotate {
			return []string{"password"}
		}
		return nil
	}
	for name, c := range map[string]struct {
		guard  apikey.StepUp
		most   int // guesses at one actor
		claim  float64
		lifted int
	}{
		"a guard that ships":            {apikey.GuardRotate("password"), 100, 0.0003, 0},
		"LiftLock is not guarded":       {free, 130, 0.0004, 6},
		"two guards that ship together": {both(apikey.GuardRotate("password"), apikey.GuardWiden("password")), 100, 0.0003, 0},
	} {
		t.Run(name, func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				h := hijack(t, c.guard, on)
				h.month()
				for i, n := range h.compared {
					t.Logf("%s: %d guesses compared in thirty days, %.6f", h.ids[i], n, chance(n))
					require.Equal(t, c.most, n)
					require.LessOrEqual(t, chance(n), c.claim)
				}
				require.Equal(t, c.lifted, h.lifted)
				first := h.compared
				h.month() // and in the next thirty days, without a day's rest between
				for i, n := range h.compared {
					require.LessOrEqual(t, n-first[i], c.most, h.ids[i])
				}
			})
		})
	}
}

func both(guards ...apikey.StepUp) apikey.StepUp {
	return func(a apikey.Action, m apikey.Mode) []string {
		for _, guard := range guards {
			if factors := guard(a, m); factors != nil {
				return factors
			}
		}
		return nil
	}
}

// A guard that two sessions undo for each other guards nothing: with every guard that
// ships, an admin proves themselves before they allow an enrolment, take a factor away
// or lift a lock. An operator does not: somebody has to be the way out.
func TestFound10GuardsCoverWhatIsDoneForAnother(t *testing.T) {
	for name, guard := range map[string]func(...string) apikey.StepUp{
		"GuardCreateAndDelete": apikey.GuardCreateAndDelete, "GuardRevealAndRotate": apikey.GuardRevealAndRotate,
		"GuardRotate": apikey.GuardRotate, "GuardIssueAndReveal": apikey.GuardIssueAndReveal, "GuardWiden": apikey.GuardWiden,
	} {
		var f *factors
		e := newEnv(t, withFactors(&f, guard("password")))
		for _, req := range []apikey.Guarded{
			apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "accomplice"}, apikey.DisableRequest{Factor: "totp", Actor: "accomplice"},
			apikey.LiftLockRequest{Actor: "accomplice"},
		} {
			require.ErrorIs(t, e.make(e.ctx, req), apikey.ErrStepUpRequired, "%s: %T", name, req)
			require.NoError(t, e.proven(f, e.ctx, req), "%s: %T", name, req)
		}
		require.NoError(t, e.manager.LiftLock(staff(), apikey.LiftLockRequest{Account: "acc_1", Actor: "x"}), name)
	}
}

// A guard that is written by hand and leaves those out is told to the log.
func TestFound10UnguardedWayIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		guard apikey.StepUp
		told  bool
	}{
		"written by hand": {guardAll, true},
		"ready-made":      {apikey.GuardRotate("password"), false},
		"both":            {both(guardAll, apikey.GuardForAnother("password")), false},
		"none":            {nil, false},
		"guards nothing":  {func(apikey.Action, apikey.Mode) []string { return nil }, false},
	} {
		var f *factors
		var log bytes.Buffer
		newEnv(t, withFactors(&f, c.guard), func(e *env) { e.settings.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		require.Equal(t, c.told, bytes.Contains(log.Bytes(), []byte("actor.lift_lock")), "%s: %s", name, &log)
	}
}

// locked locks the actor of the environment, with the last ten wrong answers just now.
func (e *env) locked(f *factors) {
	e.t.Helper()
	for i := range 10 {
		if i > 0 {
			e.clock.move(time.Hour)
		}
		require.NoError(e.t, e.exhaust(f, 10))
	}
	require.ErrorIs(e.t, e.exhaust(f, 1), apikey.ErrLocked)
}

func manyKeys(e *env) { e.mc.Limits.LiveKeys = 1000 }

// A lift gives ten more guesses, not a hundred, and the hour's go on counting.
func TestFound10LiftGivesTenMore(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")), manyKeys)
		e.locked(f)
		lift := apikey.LiftLockRequest{Account: "acc_1", Actor: admin.ID}
		require.NoError(t, e.manager.LiftLock(staff(), lift))
		require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrTooManyAttempts, "the ten of the hour count on")
		e.clock.move(time.Hour)
		require.NoError(t, e.exhaust(f, 10))
		require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrLocked)
		require.Len(t, e.eventsOf(apikey.ActionLock), 2)
	})
}

// Lifting what is not locked gives nothing: neither a fresh hour nor guesses in
// advance, and it is none of the three.
func TestFound10LiftOfNoLockGivesNothing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")), manyKeys)
		lift := apikey.LiftLockRequest{Actor: admin.ID}
		require.NoError(t, e.exhaust(f, 10))
		for range 5 {
			require.NoError(t, e.proven(f, as("acc_1", "admin"), lift))
		}
		require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrTooManyAttempts)
		e.clock.move(time.Hour)
		for range 8 {
			require.NoError(t, e.exhaust(f, 10))
			e.clock.move(time.Hour)
		}
		require.NoError(t, e.exhaust(f, 10))
		require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrLocked, "a hundred, as if nobody had lifted anything")
		require.Empty(t, e.eventsOf(apikey.ActionLiftLock))
		require.NoError(t, e.proven(f, as("acc_1", "admin"), lift))
		require.Len(t, e.eventsOf(apikey.ActionLiftLock), 1)
	})
}

// After three lifts in thirty days only an operator lifts, also where the lifts were
// an operator's; thirty days later a colleague does again.
func TestFound10ThreeLiftsInThirtyDays(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")), manyKeys)
		colleague, lift := as("acc_1", "admin"), apikey.LiftLockRequest{Account: "acc_1", Actor: admin.ID}
		e.locked(f)
		again := func() {
			t.Helper()
			e.clock.move(time.Hour)
			require.NoError(t, e.exhaust(f, 10))
			require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrLocked)
		}
		for _, by := range []context.Context{colleague, staff(), colleague} {
			require.NoError(t, e.proven(f, by, lift))
			again()
		}
		err := e.manager.LiftLock(colleague, lift)
		require.ErrorIs(t, err, apikey.ErrForbidden)
		require.NotErrorIs(t, err, apikey.ErrStepUpRequired, "nobody proves themselves for what is refused afterwards")
		require.ErrorContains(t, err, "an operator lifts it")
		_, err = e.manager.Challenge(colleague, "password", lift)
		require.ErrorIs(t, err, apikey.ErrForbidden, "nor are they asked to")
		require.ErrorContains(t, err, "an operator lifts it")
		require.NoError(t, e.manager.LiftLock(staff(), lift))
		again()
		require.ErrorIs(t, e.manager.LiftLock(colleague, lift), apikey.ErrForbidden)
		e.clock.move(30 * 24 * time.Hour)
		_, err = e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
		require.ErrorIs(t, err, apikey.ErrLocked, "the lock does not pass by itself")
		require.NoError(t, e.proven(f, colleague, lift))
		e.approve(f, e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
	})
}

// Of sixteen colleagues who lift at once, three times as many as there are lifts, none
// gives more than its ten.
func TestFound10LiftsAtOnce(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, nil), manyKeys)
		guarded := e.newManager(func(c *managerConfig) {
			c.StepUp = func(a apikey.Action, _ apikey.Mode) []string {
				if a == apikey.ActionRotate {
					return []string{"password"}
				}
				return nil
			}
		})
		e.manager = guarded
		e.locked(f)
		together(16, func(int) error {
			return guarded.LiftLock(as("acc_1", "admin"), apikey.LiftLockRequest{Actor: admin.ID})
		})
		require.Len(t, e.eventsOf(apikey.ActionLiftLock), 1, "the others found no lock")
		e.clock.move(time.Hour)
		require.NoError(t, e.exhaust(f, 10))
		require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrLocked)
	})
}

// What an earlier version stored is read: it has no list of lifts, and counts the mails
// of the hour where this version counts none.
func TestFound10BudgetOfAnEarlierVersion(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")), manyKeys)
	require.NoError(t, e.exhaust(f, 3))
	it := e.itemsOf("budget")[0]
	// The third list is empty, of eight bytes: one mail is put into it.
	mail := append(bytes.Clone(it.Data[:len(it.Data)-8]), 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 'i', 'd', 0x7f, 0, 0, 0, 0, 0, 0, 0)
	it.Version++
	it.Data = mail
	require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{it}}))
	require.NoError(t, e.exhaust(f, 7))
	require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrTooManyAttempts)
}
