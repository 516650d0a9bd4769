package apitest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
	"github.com/go-apikey/apikey/storetest"
)

// guardedBy guards rotating by these, and what is done for another by the password.
func guardedBy(factors ...string) apikey.StepUp {
	return func(a apikey.Action, m apikey.Mode) []string {
		if a == apikey.ActionRotate {
			return factors
		}
		return apikey.GuardForAnother("password")(a, m)
	}
}

// asked is what the refusal of a request says.
func (e *env) asked(ctx context.Context, req apikey.Guarded) apikey.ChallengeError {
	e.t.Helper()
	var ask *apikey.ChallengeError
	require.ErrorAs(e.t, e.make(ctx, req), &ask)
	return *ask
}

// The error lists what this actor can use, not what is configured; what they could use
// after setting it up stands apart.
func TestFound25FactorsThatTheActorHas(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, guardedBy("totp", "email")))
		rotate, enroll := apikey.RotateRequest{Key: e.issue().Key.ID}, apikey.EnrollRequest{Factor: "totp"}
		ask := func(req apikey.Guarded) apikey.ChallengeError {
			got := e.asked(e.ctx, req)
			got.Key = apikey.KeyID{}
			return got
		}
		require.Equal(t, apikey.ChallengeError{Action: apikey.ActionRotate, Factors: []string{"email"}, Enroll: []string{"totp"}}, ask(rotate))
		require.Equal(t, apikey.ChallengeError{Action: apikey.ActionEnroll, Factors: []string{"email", "password"}}, ask(enroll),
			"an app is not enrolled by itself")
		_, err := e.manager.Challenge(e.ctx, "password", rotate)
		require.ErrorIs(t, err, apikey.ErrInvalid)
		require.ErrorContains(t, err, "these do: [email]")
		e.enroll(f, e.ctx, admin.ID)
		require.Equal(t, apikey.ChallengeError{Action: apikey.ActionRotate, Factors: []string{"totp", "email"}}, ask(rotate))
		require.Equal(t, apikey.ChallengeError{Action: apikey.ActionEnroll, Factors: []string{"totp"}}, ask(enroll), "what is enrolled answers for itself")
		colleague := e.asked(as("acc_1", "admin"), rotate)
		require.Equal(t, []string{"email"}, colleague.Factors, "another person has another")
	})
}

// Where an actor has nothing, each error says the next step, and following them ends
// with the key rotated: none leads back to one that was there before.
func TestFound25ErrorsLeadOut(t *testing.T) {
	for name, c := range map[string]struct {
		only  bool // TOTP is the only factor that there is
		steps []string
	}{
		"TOTP alone": {true, []string{
			"key.rotate needs one of [totp], which this actor has not set up: another admin of the account who has a factor, or an operator, calls AllowEnrollment for them, then they call Enroll and ConfirmEnrollment",
			"key.rotate needs one of [totp], which this actor has not set up: they call Enroll and ConfirmEnrollment first",
			"key.rotate needs one of [totp]",
		}},
		"with a password beside it": {false, []string{
			"key.rotate needs one of [totp], which this actor has not set up: they call Enroll and ConfirmEnrollment first",
			"key.rotate needs one of [totp]",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				var f *factors
				e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("totp")), func(e *env) {
					if c.only {
						e.mc.Factors = map[string]apikey.Factor{"totp": e.mc.Factors["totp"]}
					}
				})
				req := apikey.RotateRequest{Key: e.issue().Key.ID}
				var steps []string
				for range 5 {
					err := e.make(e.ctx, req)
					if err == nil {
						break
					}
					require.ErrorIs(t, err, apikey.ErrStepUpRequired)
					steps = append(steps, err.Error()[len(apikey.ErrStepUpRequired.Error())+2:])
					req.Grant = e.follow(f, err, req)
				}
				require.Equal(t, c.steps, steps)
			})
		})
	}
}

// follow does what an error says, as a page would, and returns a grant once there is
// one.
func (e *env) follow(f *factors, err error, req apikey.Guarded) apikey.Grant {
	e.t.Helper()
	var ask *apikey.ChallengeError
	require.ErrorAs(e.t, err, &ask)
	switch {
	case len(ask.Factors) > 0:
		return e.approve(f, e.ctx, ask.Factors[0], req)
	case ask.ByAnother:
		_, err := e.manager.Challenge(e.ctx, ask.Enroll[0], req)
		require.ErrorIs(e.t, err, apikey.ErrNotEnrolled)
		require.ErrorContains(e.t, err, "AllowEnrollment")
		alone := e.asked(e.ctx, apikey.EnrollRequest{Factor: "totp"})
		require.Equal(e.t, apikey.ChallengeError{Action: apikey.ActionEnroll, ByAnother: true}, alone)
		_, err = e.manager.Challenge(e.ctx, "totp", apikey.EnrollRequest{Factor: "totp"})
		require.ErrorIs(e.t, err, apikey.ErrNotEnrolled)
		require.ErrorContains(e.t, err, "AllowEnrollment")
		require.NoError(e.t, e.manager.AllowEnrollment(staff(), apikey.AllowEnrollmentRequest{Factor: ask.Enroll[0], Account: "acc_1", Actor: admin.ID}))
	default:
		enroll := apikey.EnrollRequest{Factor: ask.Enroll[0]}
		enrollment, err := e.manager.Enroll(e.ctx, enroll)
		if errors.Is(err, apikey.ErrStepUpRequired) {
			enroll.Grant = e.follow(f, err, enroll)
			enrollment, err = e.manager.Enroll(e.ctx, enroll)
		}
		require.NoError(e.t, err)
		f.scan(admin.ID, enrollment)
		require.NoError(e.t, e.manager.ConfirmEnrollment(e.ctx, enroll.Factor, f.app(admin.ID)))
		e.clock.move(totp.Period)
	}
	return apikey.Grant{}
}

// Whoever can do nothing for themselves hears who can: also of taking a factor away.
func TestFound25NobodyIsSentToThemselves(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("totp")), func(e *env) {
		e.mc.Factors = map[string]apikey.Factor{"totp": e.mc.Factors["totp"]}
	})
	ask := e.asked(e.ctx, apikey.DisableRequest{Factor: "totp"})
	require.True(t, ask.ByAnother)
	require.ErrorContains(t, &ask, "calls Disable for them")
	ask = e.asked(e.ctx, apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_2"})
	require.Equal(t, apikey.ChallengeError{Action: apikey.ActionAllowEnrollment, Enroll: []string{"totp"}, ByAnother: true}, ask)
	err := e.manager.ConfirmEnrollment(e.ctx, "totp", "123456")
	require.ErrorIs(t, err, apikey.ErrNotEnrolled)
	require.ErrorContains(t, err, "call Enroll")
}

// Closing a confirmation and opening it again is no new challenge: the same request by
// the same factor is the one that waits, on any node, and no other mail is sent.
func TestFound25SameRequestSameChallenge(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, guardedBy("email", "password")))
		key, other := e.issue().Key.ID, e.issue().Key.ID
		req := apikey.RotateRequest{Key: key}
		first, err := e.manager.Challenge(e.ctx, "email", req)
		require.NoError(t, err)
		for range 10 { // more than would be allowed
			e.clock.move(time.Second)
			again, err := e.newManager().Challenge(e.ctx, "email", req)
			require.NoError(t, err)
			require.Equal(t, first, again)
		}
		require.Len(t, f.mails, 1)
		for name, c := range map[string]struct {
			ctx    context.Context
			factor string
			req    apikey.RotateRequest
		}{
			"another factor":  {e.ctx, "password", req},
			"another key":     {e.ctx, "email", apikey.RotateRequest{Key: other}},
			"another overlap": {e.ctx, "email", apikey.RotateRequest{Key: key, Overlap: time.Hour}},
			"another actor":   {as("acc_1", "admin"), "email", req},
		} {
			c, err := e.manager.Challenge(c.ctx, c.factor, c.req)
			require.NoError(t, err, name)
			require.NotEqual(t, first.ID, c.ID, name)
		}
		e.clock.move(time.Hour)
		c, err := e.manager.Challenge(e.ctx, "email", req)
		require.NoError(t, err)
		require.NotEqual(t, first.ID, c.ID, "that one has expired")
		e.wrong(c.ID, 5)
		d, err := e.manager.Challenge(e.ctx, "email", req)
		require.NoError(t, err)
		require.NotEqual(t, c.ID, d.ID, "that one is spent")
		req.Grant, err = e.manager.Confirm(e.ctx, d.ID, f.code())
		require.NoError(t, err)
		_, err = e.manager.Rotate(e.ctx, req)
		require.NoError(t, err)
		req.Grant = apikey.Grant{}
		g, err := e.manager.Challenge(e.ctx, "email", req)
		require.NoError(t, err)
		require.NotEqual(t, d.ID, g.ID, "that one is answered, and about an older version of the key")
	})
}

// A second click, while the code of the first is being sent, sends no second.
func TestFound25SecondClick(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		var sent atomic.Int32
		in, gate := make(chan struct{}), make(chan struct{})
		release := sync.OnceFunc(func() { close(gate) })
		defer release()
		e := newEnv(t, on, withFactors(&f, guardedBy("email")), func(e *env) {
			code, err := apikey.NewEmailCode(sender(func() error {
				if sent.Add(1) == 1 {
					close(in)
					<-gate
				}
				return nil
			}), e.settings.Peppers...)
			require.NoError(t, err)
			e.mc.Factors["email"] = code
		})
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		first := make(chan apikey.Challenge)
		go func() {
			c, _ := e.manager.Challenge(e.ctx, "email", req)
			first <- c
		}()
		<-in
		var again []apikey.Challenge
		for range 2 { // the second must not make the first's message forgotten
			c, err := e.manager.Challenge(e.ctx, "email", req)
			require.NoError(t, err)
			again = append(again, c)
		}
		release()
		c := <-first
		require.Equal(t, []apikey.Challenge{c, c}, again)
		require.EqualValues(t, 1, sent.Load())
	})
}

// A challenge whose code never went out, because the process died, is not waited for.
func TestFound25UnsentIsNotWaitedFor(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		var p *proxy
		e := newEnv(t, on, through(&p), withFactors(&f, guardedBy("email")))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		p.hook(func(p *proxy) { // its commit happens, and nobody hears of it
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
				require.NoError(t, next())
				return errCable
			}
		})
		_, err := e.manager.Challenge(e.ctx, "email", req)
		require.Error(t, err)
		require.Empty(t, f.mails)
		p.hook(func(p *proxy) { p.apply = nil })
		req.Grant = e.approve(f, e.ctx, "email", req)
		require.Len(t, f.mails, 1)
		_, err = e.manager.Rotate(e.ctx, req)
		require.NoError(t, err)
	})
}

// Resend sends anew: the older code is void, and the five of the hour hold.
func TestFound25Resend(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, guardedBy("email", "password")))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		first, err := e.manager.Resend(e.ctx, "email", req)
		require.NoError(t, err, "also where none waits")
		for range 4 {
			_, err := e.manager.Resend(e.ctx, "email", req)
			require.NoError(t, err)
		}
		require.Len(t, f.mails, 5)
		require.Len(t, e.itemsOf("challenge"), 1)
		_, err = e.manager.Resend(e.ctx, "email", req)
		require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
		_, err = e.manager.Confirm(e.ctx, first.ID, f.mails[0].code(t))
		require.ErrorIs(t, err, apikey.ErrChallenge)
		last, err := e.manager.Challenge(e.ctx, "email", req)
		require.NoError(t, err, "the one that waits is not ended by a refusal")
		require.Len(t, f.mails, 5)
		req.Grant, err = e.manager.Confirm(e.ctx, last.ID, f.code())
		require.NoError(t, err)
		_, err = e.manager.Rotate(e.ctx, req)
		require.NoError(t, err)
		_, err = e.manager.Resend(e.ctx, "email", nil)
		require.ErrorIs(t, err, apikey.ErrInvalid)
	})
}

// A fourth challenge ends the oldest, whatever became of the page that showed it; no
// number of them holds an actor up, or fills the database.
func TestFound25FourthEndsTheOldest(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, guardedBy("password")), manyKeys)
		var put []apikey.Challenge
		for range 30 {
			c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
			require.NoError(t, err)
			put = append(put, c)
			e.clock.move(time.Second)
		}
		require.Len(t, e.itemsOf("challenge"), 3)
		for i, c := range put {
			_, err := e.manager.Confirm(e.ctx, c.ID, password)
			if i < 27 {
				require.ErrorIs(t, err, apikey.ErrChallenge, "%d", i)
				continue
			}
			require.NoError(t, err, "%d", i)
		}
		require.NoError(t, e.exhaust(f, 10), "what was ended cost nothing")
	})
}

// A wrong answer says how many are left, of the challenge, of the hour, and until the
// lock: the least of them.
func TestFound25AttemptsLeft(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, guardedBy("password", "totp")), manyKeys)
		left := func(err error) int {
			t.Helper()
			require.ErrorIs(t, err, apikey.ErrWrongAnswer)
			require.ErrorIs(t, err, apikey.ErrDenied)
			var wrong *apikey.WrongAnswerError
			require.ErrorAs(t, err, &wrong)
			return wrong.Left
		}
		answer := func(n int) (list []int) {
			t.Helper()
			c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
			require.NoError(t, err)
			for range n {
				_, err := e.manager.Confirm(e.ctx, c.ID, "wrong")
				list = append(list, left(err))
			}
			return list
		}
		require.Equal(t, []int{4, 3}, answer(2))
		require.Equal(t, []int{4, 3, 2, 1, 0}, answer(5), "the challenge is spent")
		require.Equal(t, []int{2, 1, 0}, answer(3), "the hour is")
		e.clock.move(time.Hour)
		require.Equal(t, []int{4}, answer(1))
		e.clock.move(time.Hour)
		for range 8 {
			require.NoError(t, e.exhaust(f, 10))
			e.clock.move(time.Hour)
		}
		require.NoError(t, e.exhaust(f, 5))
		require.Equal(t, []int{3, 2, 1, 0}, answer(4), "the hundred are")

		colleague := as("acc_1", "admin")
		begin := apikey.EnrollRequest{Factor: "totp"}
		begin.Grant = e.approve(f, colleague, "password", begin)
		_, err := e.manager.Enroll(colleague, begin)
		require.NoError(t, err)
		for n := range 10 {
			require.Equal(t, 9-n, left(e.manager.ConfirmEnrollment(colleague, "totp", "wrong")))
		}
	})
	for n, text := range map[int]string{0: "no attempt is left: put a new challenge (Challenge says so if the actor has to wait)", 1: "1 attempt is left", 3: "3 attempts are left"} {
		require.Equal(t, fmt.Sprint("apikey: wrong answer: ", text), (&apikey.WrongAnswerError{Left: n}).Error())
	}
}

// A challenge that an earlier version stored in another form cannot be answered: the
// person is told to ask for a new one, and charged nothing.
func TestFound25ChallengeOfAnEarlierVersion(t *testing.T) {
	var f *factors
	e := newEnv(t, noPepper, withFactors(&f, guardedBy("password")))
	req := apikey.RotateRequest{Key: e.issue().Key.ID}
	c, err := e.manager.Challenge(e.ctx, "password", req)
	require.NoError(t, err)
	stored := e.itemsOf("challenge")[0]
	stored.Version++
	stored.Data = stored.Data[:len(stored.Data)-24] // it ended with its attempts
	require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{stored}}))
	_, err = e.manager.Confirm(e.ctx, c.ID, password)
	requireApproval(t, err, apikey.ErrChallenge, apikey.ApprovalUnknown)
	again, err := e.manager.Challenge(e.ctx, "password", req)
	require.NoError(t, err)
	require.NotEqual(t, c.ID, again.ID)
	require.NoError(t, e.exhaust(f, 10))
}
