package apitest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// Each factor approves: the action is refused with the names of the factors, a
// challenge is put and answered, and the grant lets that request pass once.
func TestEachFactorApproves(t *testing.T) {
	for _, factor := range []string{"email", "totp", "password"} {
		t.Run(factor, func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				var f *factors
				e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("email", "totp", "password")))
				e.enroll(f, e.ctx, admin.ID)
				key := e.issue()
				req := apikey.RotateRequest{Key: key.Key.ID}
				_, err := e.manager.Rotate(e.ctx, req)
				require.ErrorIs(t, err, apikey.ErrStepUpRequired)
				require.ErrorIs(t, err, apikey.ErrDenied)
				var ask *apikey.ChallengeError
				require.ErrorAs(t, err, &ask)
				require.Equal(t, apikey.ChallengeError{Action: apikey.ActionRotate, Key: key.Key.ID, Factors: []string{"email", "totp", "password"}}, *ask)

				c, err := e.manager.Challenge(e.ctx, factor, req)
				require.NoError(t, err)
				require.Equal(t, apikey.Challenge{
					ID: c.ID, Factor: factor, Action: apikey.ActionRotate, Key: key.Key.ID, Account: "acc_1", Mode: apikey.Live, Name: "Website",
					ExpiresAt: e.clock.now().Add(10 * time.Minute).UTC().Truncate(time.Microsecond),
					Changes:   []string{"a new token that works from now", "all tokens that the key has now end at once"},
				}, c)
				other := e.newManager()                                                                                         // another node takes the answer
				req.Grant, err = other.Confirm(e.ctx, c.ID, " "+f.answer(factor, admin.ID)+strings.Repeat("\n", len(factor)%2)) // as it is pasted
				if factor == "password" {
					require.ErrorIs(t, err, apikey.ErrWrongAnswer, "of a password every character counts")
					req.Grant, err = other.Confirm(e.ctx, c.ID, password)
				}
				require.NoError(t, err)
				rotated, err := e.manager.Rotate(e.ctx, req)
				require.NoError(t, err)
				require.NoError(t, e.verify(rotated.Token))
				_, err = e.manager.Rotate(e.ctx, req)
				require.ErrorIs(t, err, apikey.ErrGrant)
				require.ErrorIs(t, err, apikey.ErrStepUpRequired)
			})
		})
	}
}

// A challenge is put to who may do the action, and to nobody else.
func TestChallengeAuthorisesFirst(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRevealAndRotate("email", "totp")))
	key := e.issue(recoverable).Key.ID
	for _, c := range []struct {
		name   string
		ctx    context.Context
		factor string
		req    apikey.Guarded
		want   error
	}{
		{"a viewer", as("acc_1", "viewer"), "email", apikey.RevealRequest{Key: key}, apikey.ErrForbidden},
		{"another account", as("acc_2", "admin"), "email", apikey.RevealRequest{Key: key}, apikey.ErrNotFound},
		{"no such key", e.ctx, "email", apikey.RevealRequest{Key: storetest.NewKeyID()}, apikey.ErrNotFound},
		{"nobody", background, "email", apikey.RevealRequest{Key: key}, apikey.ErrNoActor},
		{"a factor that is not enrolled", e.ctx, "totp", apikey.RevealRequest{Key: key}, apikey.ErrNotEnrolled},
		{"a factor that does not approve it", e.ctx, "password", apikey.RevealRequest{Key: key}, apikey.ErrInvalid},
		{"a factor that does not exist", e.ctx, "fax", apikey.RevealRequest{Key: key}, apikey.ErrInvalid},
		{"an action that is not guarded", e.ctx, "email", apikey.IssueRequest{Mode: apikey.Live}, apikey.ErrInvalid},
		{"no request", e.ctx, "email", nil, apikey.ErrInvalid},
		{"an old version", e.ctx, "email", apikey.RotateRequest{Key: key, IfVersion: 9}, apikey.ErrConflict},
	} {
		challenge, err := e.manager.Challenge(c.ctx, c.factor, c.req)
		require.ErrorIs(t, err, c.want, c.name)
		require.Zero(t, challenge, c.name)
	}
	require.Empty(t, f.mails)
}

func recoverable(r *apikey.IssueRequest) { r.Recoverable = true }

// What a mail says: what is approved, for which key, until when. The subject
// says nothing.
func TestMail(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("email")))
	key := e.issue(func(r *apikey.IssueRequest) { r.Name = "Shop, https://evil.example/?a=1" })
	_, err := e.manager.Challenge(e.ctx, "email", apikey.RotateRequest{Key: key.Key.ID})
	require.NoError(t, err)
	require.Len(t, f.mails, 1)
	m := f.mails[0]
	require.Equal(t, admin.ID, m.to, "the address is the program's to find, from the actor's ID")
	for _, want := range []string{"key.rotate", key.Key.ID.String(), "live", `"Shop, https___evil_example__a_1"`, "12:10", "a new token that works from now"} {
		require.Contains(t, m.Text(), want)
	}
	require.NotContains(t, m.Subject, f.code())
	require.Equal(t, 1, strings.Count(m.Text(), "evil"), "the name is quoted once, on one line, and no link")
}

// When the mail server is down nothing was sent, and nothing counts as sent.
func TestMailServerIsDown(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("email")))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		refused := errors.New("550 no such mailbox")
		f.fail(refused)
		for range 20 { // more than challenges and mails that there may be
			_, err := e.manager.Challenge(e.ctx, "email", req)
			require.ErrorIs(t, err, apikey.ErrUnavailable)
			require.ErrorIs(t, err, refused)
			require.ErrorContains(t, err, "could not be sent")
		}
		require.Empty(t, e.itemsOf("challenge"))
		f.fail(nil)
		req.Grant = e.approve(f, e.ctx, "email", req)
		_, err := e.manager.Rotate(e.ctx, req)
		require.NoError(t, err)
	})
}

// itemsOf are the stored items of a kind.
func (e *env) itemsOf(kind apikey.StoreItemKind) []apikey.StoreItem {
	e.t.Helper()
	page, err := e.store.Items(background, apikey.StoreItemFilter{Kind: kind})
	require.NoError(e.t, err)
	return page.Items
}

// A Sender that panics is one that failed. What it panicked with is not repeated.
func TestSenderPanics(t *testing.T) {
	e := newEnv(t, func(e *env) {
		code, err := apikey.NewEmailCode(sender(func() error { panic("smtp password: hunter2") }), e.settings.Peppers...)
		require.NoError(t, err)
		e.mc.StepUp, e.mc.Factors = apikey.GuardRotate("email"), map[string]apikey.Factor{"email": code}
	})
	_, err := e.manager.Challenge(e.ctx, "email", apikey.RotateRequest{Key: e.issue().Key.ID})
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.NotContains(t, err.Error(), "hunter2")
}

type sender func() error

func (s sender) Send(context.Context, string, apikey.Message) error { return s() }

// A challenge can be answered by its actor, in its time, until it is answered
// or spent. Whatever is wrong with it is one answer.
func TestChallengeThatCannotBeAnswered(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(e *env, f *factors, id *string) context.Context
		want error
	}{
		{"after ten minutes", func(e *env, _ *factors, _ *string) context.Context {
			e.clock.move(10 * time.Minute)
			return e.ctx
		}, apikey.ErrChallenge},
		{"in the last moment", func(e *env, _ *factors, _ *string) context.Context {
			e.clock.move(10*time.Minute - time.Second)
			return e.ctx
		}, nil},
		{"by a colleague", func(*env, *factors, *string) context.Context { return as("acc_1", "admin") }, apikey.ErrChallenge},
		{"by another account", func(*env, *factors, *string) context.Context {
			return apikey.WithActor(background, apikey.Actor{ID: admin.ID, Account: "acc_2", Role: "admin"})
		}, apikey.ErrChallenge},
		{"by an operator of the same name", func(*env, *factors, *string) context.Context {
			return operatorOf("acc_1", admin.ID)
		}, apikey.ErrChallenge},
		{"unknown", func(e *env, _ *factors, id *string) context.Context { *id = "0123456789012345678901"; return e.ctx }, apikey.ErrChallenge},
		{"empty", func(e *env, _ *factors, id *string) context.Context { *id = ""; return e.ctx }, apikey.ErrChallenge},
		{"long", func(e *env, _ *factors, id *string) context.Context { *id = strings.Repeat("x", 70_000); return e.ctx }, apikey.ErrChallenge},
		{"not UTF-8", func(e *env, _ *factors, id *string) context.Context { *id = "\xff\x00"; return e.ctx }, apikey.ErrChallenge},
		{"answered, and its grant not used", func(e *env, f *factors, id *string) context.Context {
			_, err := e.manager.Confirm(e.ctx, *id, f.code())
			require.NoError(e.t, err)
			return e.ctx
		}, nil},
		{"answered two minutes ago", func(e *env, f *factors, id *string) context.Context {
			_, err := e.manager.Confirm(e.ctx, *id, f.code())
			require.NoError(e.t, err)
			e.clock.move(2 * time.Minute)
			return e.ctx
		}, apikey.ErrChallenge},
		{"four times wrong", func(e *env, f *factors, id *string) context.Context { e.wrong(*id, 4); return e.ctx }, nil},
		{"five times wrong", func(e *env, f *factors, id *string) context.Context { e.wrong(*id, 5); return e.ctx }, apikey.ErrChallenge},
	} {
		t.Run(c.name, func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				var f *factors
				e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("email")))
				put, err := e.manager.Challenge(e.ctx, "email", apikey.RotateRequest{Key: e.issue().Key.ID})
				require.NoError(t, err)
				id := put.ID
				grant, err := e.manager.Confirm(c.do(e, f, &id), id, f.code())
				require.ErrorIs(t, err, c.want)
				require.Equal(t, c.want != nil, grant.IsZero())
			})
		})
	}
}

// wrong answers a challenge wrongly n times.
func (e *env) wrong(id string, n int) {
	e.t.Helper()
	for range n {
		_, err := e.manager.Confirm(e.ctx, id, "not it")
		require.ErrorIs(e.t, err, apikey.ErrWrongAnswer)
	}
}

// Answers that are not six digits are wrong, and are charged like others.
func TestHostileAnswers(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("email", "totp", "password")))
	e.enroll(f, e.ctx, admin.ID)
	req := apikey.RotateRequest{Key: e.issue().Key.ID}
	for _, factor := range []string{"email", "totp", "password"} {
		for name, answer := range map[string]func(right string) string{
			"without digits": func(string) string { return " - " },
			"letters":        func(string) string { return "secret" },
			"circled digits": func(right string) string { return "①" + right[1:] },
			"with a NUL":     func(right string) string { return right + "\x00" },
			"longer":         func(right string) string { return right + "0" },
			"shorter":        func(right string) string { return right[:len(right)-1] },
			"very long":      func(right string) string { return strings.Repeat(right, 100_000) },
			"not UTF-8":      func(string) string { return "\xff\xfe" },
			"a plus before":  func(right string) string { return "+" + right },
		} {
			c, err := e.manager.Challenge(e.ctx, factor, req)
			require.NoError(t, err, "%s %s", factor, name)
			grant, err := e.manager.Confirm(e.ctx, c.ID, answer(f.answer(factor, admin.ID)))
			require.ErrorIs(t, err, apikey.ErrWrongAnswer, "%s %s", factor, name)
			require.True(t, grant.IsZero())
			e.clock.move(time.Hour) // the challenge has expired, and the hour is over
		}
	}
}

// A code of an authenticator works once, whatever the clock does, and its
// neighbours work as long as they are newer.
func TestTOTPCodeWorksOnce(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("totp")))
		e.enroll(f, e.ctx, admin.ID)
		nodes := []*apikey.Manager{e.manager, e.newManager()}
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		try := func(node int, code string) error {
			c, err := nodes[node].Challenge(e.ctx, "totp", req)
			require.NoError(t, err)
			_, err = nodes[1-node].Confirm(e.ctx, c.ID, code)
			e.clock.move(11 * time.Minute) // no challenge stays open
			e.clock.move(-11 * time.Minute)
			return err
		}
		first := f.app(admin.ID)
		require.NoError(t, try(0, first))
		require.ErrorIs(t, try(1, first), apikey.ErrWrongAnswer, "on another node")
		e.clock.move(30 * time.Second)
		second := f.app(admin.ID)
		require.NoError(t, try(0, second))
		e.clock.move(-30 * time.Second)
		require.ErrorIs(t, try(0, first), apikey.ErrWrongAnswer, "the clock went back")
	})
}

// The codes of the steps before and after pass, and no others.
func TestTOTPWindow(t *testing.T) {
	for offset, want := range map[time.Duration]error{
		-60 * time.Second: apikey.ErrWrongAnswer, -30 * time.Second: nil, 0: nil, 30 * time.Second: nil, 60 * time.Second: apikey.ErrWrongAnswer,
	} {
		var f *factors
		e := newEnv(t, withFactors(&f, apikey.GuardRotate("totp")))
		e.enroll(f, e.ctx, admin.ID)
		e.clock.move(time.Hour)
		c, err := e.manager.Challenge(e.ctx, "totp", apikey.RotateRequest{Key: e.issue().Key.ID})
		require.NoError(t, err)
		e.clock.move(offset)
		code := f.app(admin.ID)
		e.clock.move(-offset)
		_, err = e.manager.Confirm(e.ctx, c.ID, code)
		require.ErrorIs(t, err, want, "%v", offset)
	}
}

// An answer that could not be compared costs nothing.
func TestOurFailureCostsNothing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("totp", "password")))
		e.enroll(f, e.ctx, admin.ID)
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		for factor, fail := range map[string]func(bool){
			"password": func(on bool) {
				f.fail(nil)
				if on {
					f.fail(errKMS)
				}
			},
			"totp": func(on bool) {
				f.kek.set(func(k *brokenKEK) {
					k.unwrap = nil
					if on {
						k.unwrap = func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, errKMS }
					}
				})
			},
		} {
			c, err := e.manager.Challenge(e.ctx, factor, req)
			require.NoError(t, err)
			fail(true)
			for range 4 { // one attempt less than the challenge has
				_, err := e.manager.Confirm(e.ctx, c.ID, f.answer(factor, admin.ID))
				require.ErrorIs(t, err, apikey.ErrUnavailable, factor)
				require.ErrorIs(t, err, errKMS, factor)
			}
			fail(false)
			_, err = e.manager.Confirm(e.ctx, c.ID, f.answer(factor, admin.ID))
			require.NoError(t, err, factor)
		}
		require.NoError(t, e.exhaust(f, 10), "all ten of the hour are left")
	})
}

// A process that dies, or a client who hangs up, between the answer and its
// comparison has spent the attempt.
func TestAttemptIsChargedBeforeItIsCompared(t *testing.T) {
	var p *proxy
	var f *factors
	e := newEnv(t, through(&p), withFactors(&f, apikey.GuardRotate("password")))
	req := apikey.RotateRequest{Key: e.issue().Key.ID}
	var compared, applied int
	check, err := apikey.NewPassword(func(context.Context, string, string) (bool, error) {
		require.Equal(t, 1, applied, "charged already")
		compared++
		return false, nil
	})
	require.NoError(t, err)
	m := e.newManager(func(c *managerConfig) { c.Factors = map[string]apikey.Factor{"password": check} })
	for range 2 {
		c, err := m.Challenge(e.ctx, "password", req)
		require.NoError(t, err)
		for range 5 {
			applied = 0
			p.hook(func(p *proxy) {
				p.apply = func(next func() error, _ []apikey.StoreChange) error {
					if applied++; applied > 1 {
						return errCable // the process has died
					}
					return next()
				}
			})
			_, err := m.Confirm(e.ctx, c.ID, "guess")
			require.Error(t, err)
			p.hook(func(p *proxy) { p.apply = nil })
		}
	}
	require.Equal(t, 10, compared)
	_, err = m.Challenge(e.ctx, "password", req)
	require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
}

// An answer that nobody has typed is refused before it is charged.
func TestEmptyAnswerIsNotCharged(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, guardedBy("password")))
	c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
	require.NoError(t, err)
	begin := apikey.EnrollRequest{Factor: "totp"}
	begin.Grant = e.approve(f, e.ctx, "password", begin)
	_, err = e.manager.Enroll(e.ctx, begin)
	require.NoError(t, err)
	before := e.itemsOf("budget")
	for range 6 {
		for _, blank := range []string{"", " ", "\t\r\n", "\u00a0\u2003"} {
			_, err := e.manager.Confirm(e.ctx, c.ID, blank)
			requireWrong(t, wrongs{"answer": "required"}, err, "Confirm")
			requireWrong(t, wrongs{"answer": "required"}, e.manager.ConfirmEnrollment(e.ctx, "totp", blank), "ConfirmEnrollment")
		}
	}
	require.Equal(t, before, e.itemsOf("budget"))
	var wrong *apikey.WrongAnswerError
	_, err = e.manager.Confirm(e.ctx, c.ID, "-")
	require.ErrorAs(t, err, &wrong, "an answer without digits is an answer")
	require.Equal(t, 4, wrong.Left)
}
