package apitest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
)

// requireApproval expects an ApprovalError of a sentinel with a code.
func requireApproval(t *testing.T, err, sentinel error, code apikey.ApprovalCode) {
	t.Helper()
	require.ErrorIs(t, err, sentinel)
	var refused *apikey.ApprovalError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, code, refused.Code)
}

// onlyOneRedeems rotates with each grant; a grant that is zero counts as refused.
func (e *env) onlyOneRedeems(req apikey.RotateRequest, grants ...apikey.Grant) {
	e.t.Helper()
	done := 0
	for _, g := range grants {
		if req.Grant = g; g.IsZero() {
			continue
		}
		if _, err := e.manager.Rotate(e.ctx, req); err == nil {
			done++
		} else {
			require.ErrorIs(e.t, err, apikey.ErrGrant)
		}
	}
	require.Equal(e.t, 1, done)
}

// The right answer, given again because what followed the first one failed, is right
// again, on every node and for every factor. Its grant replaces the one before.
func TestARightAnswerComesAgain(t *testing.T) {
	for _, factor := range []string{"password", "email", "totp"} {
		t.Run(factor, func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				var f *factors
				e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password", "email", "totp")))
				e.enroll(f, e.ctx, admin.ID)
				req := apikey.RotateRequest{Key: e.issue().Key.ID}
				put, err := e.manager.Challenge(e.ctx, factor, req)
				require.NoError(t, err)
				answer := f.answer(factor, admin.ID)
				var grants []apikey.Grant
				for range 4 {
					grant, err := e.newManager().Confirm(e.ctx, put.ID, answer)
					require.NoError(t, err)
					grants = append(grants, grant)
					require.Len(t, e.itemsOf("grant"), 1+1, "that of the enrolment, which was used, and this one")
					e.clock.move(29 * time.Second)
				}
				for _, old := range grants[:3] {
					req.Grant = old
					_, err = e.manager.Rotate(e.ctx, req)
					requireApproval(t, err, apikey.ErrGrant, apikey.ApprovalUnknown)
				}
				req.Grant = grants[3]
				_, err = e.manager.Rotate(e.ctx, req)
				require.NoError(t, err)
				_, err = e.manager.Rotate(e.ctx, req)
				requireApproval(t, err, apikey.ErrGrant, apikey.ApprovalUsed)
				_, err = e.manager.Confirm(e.ctx, put.ID, answer)
				requireApproval(t, err, apikey.ErrChallenge, apikey.ApprovalUsed)
				require.NoError(t, e.exhaust(f, 10), "a right answer costs nothing, however often it comes")
				require.Len(t, e.eventsOf(apikey.ActionConfirm), 2, "it was approved once, and the enrolment")
			})
		})
	}
}

// The two minutes of a grant are not made longer by answering again.
func TestAnsweringAgainMakesNoGrantLast(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		put, err := e.manager.Challenge(e.ctx, "password", req)
		require.NoError(t, err)
		e.clock.move(10*time.Minute - time.Second)
		_, err = e.manager.Confirm(e.ctx, put.ID, password)
		require.NoError(t, err)
		e.clock.move(2*time.Minute - time.Second)
		req.Grant, err = e.manager.Confirm(e.ctx, put.ID, password)
		require.NoError(t, err, "also after the ten minutes of the challenge")
		e.clock.move(time.Second)
		_, err = e.manager.Rotate(e.ctx, req)
		requireApproval(t, err, apikey.ErrGrant, apikey.ApprovalExpired)
		_, err = e.manager.Confirm(e.ctx, put.ID, password)
		requireApproval(t, err, apikey.ErrChallenge, apikey.ApprovalExpired)
	})
}

// An answered challenge is no oracle: whoever does not know the answer is charged for
// each guess, five times at most, and the person's grant works on.
func TestAnAnsweredChallengeIsNoOracle(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("email", "password")))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		put, err := e.manager.Challenge(e.ctx, "email", req)
		require.NoError(t, err)
		req.Grant, err = e.manager.Confirm(e.ctx, put.ID, f.code())
		require.NoError(t, err)
		for left := 4; left >= 0; left-- {
			_, err = e.manager.Confirm(e.ctx, put.ID, "not it")
			var wrong *apikey.WrongAnswerError
			require.ErrorAs(t, err, &wrong)
			require.Equal(t, left, wrong.Left)
		}
		_, err = e.manager.Confirm(e.ctx, put.ID, f.code())
		requireApproval(t, err, apikey.ErrChallenge, apikey.ApprovalSpent)
		for _, other := range []context.Context{as("acc_1", "admin"), operatorOf("acc_1", admin.ID), of("acc_2", admin.ID)} {
			_, err = e.manager.Confirm(other, put.ID, f.code())
			requireApproval(t, err, apikey.ErrChallenge, apikey.ApprovalUnknown)
		}
		_, err = e.manager.Rotate(e.ctx, req)
		require.NoError(t, err)
		require.NoError(t, e.exhaust(f, 5))
		require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrTooManyAttempts)
	})
}

// A code of an app that comes again is right for the challenge that it has answered, and
// for no other.
func TestACodeComesAgainForItsOwnChallenge(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("totp")))
		e.enroll(f, e.ctx, admin.ID)
		ask := func() string {
			put, err := e.manager.Challenge(e.ctx, "totp", apikey.RotateRequest{Key: e.issue().Key.ID})
			require.NoError(t, err)
			return put.ID
		}
		first, second, code := ask(), ask(), f.app(admin.ID)
		_, err := e.manager.Confirm(e.ctx, first, code)
		require.NoError(t, err)
		_, err = e.manager.Confirm(e.ctx, second, code)
		require.ErrorIs(t, err, apikey.ErrWrongAnswer)
		e.clock.move(totp.Period)
		_, err = e.manager.Confirm(e.ctx, first, f.app(admin.ID))
		require.NoError(t, err, "a newer code is right too")
		_, err = e.manager.Confirm(e.ctx, first, code)
		require.ErrorIs(t, err, apikey.ErrWrongAnswer, "and replaces the older one")
		require.NoError(t, e.manager.Disable(staff(), apikey.DisableRequest{Factor: "totp", Account: admin.Account, Actor: admin.ID}))
		_, err = e.manager.Confirm(e.ctx, first, f.app(admin.ID))
		require.ErrorIs(t, err, apikey.ErrNotEnrolled)
	})
}

// What a refused grant says.
func TestARefusedGrantSaysWhy(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		for want, spoil := range map[apikey.ApprovalCode]func(e *env, f *factors, req *apikey.RotateRequest) context.Context{
			apikey.ApprovalExpired: func(e *env, _ *factors, _ *apikey.RotateRequest) context.Context {
				e.clock.move(2 * time.Minute)
				return e.ctx
			},
			apikey.ApprovalUsed: func(e *env, _ *factors, req *apikey.RotateRequest) context.Context {
				_, err := e.manager.Rotate(e.ctx, *req)
				require.NoError(t, err)
				e.clock.move(2 * time.Minute) // the more useful of both answers
				return e.ctx
			},
			apikey.ApprovalOther: func(e *env, _ *factors, req *apikey.RotateRequest) context.Context {
				req.Overlap = time.Hour
				return e.ctx
			},
			apikey.ApprovalChanged: func(e *env, _ *factors, req *apikey.RotateRequest) context.Context {
				_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: req.Key, Name: apikey.Set("renamed")})
				require.NoError(t, err)
				return e.ctx
			},
			apikey.ApprovalUnknown: func(_ *env, _ *factors, _ *apikey.RotateRequest) context.Context {
				return of(admin.Account, "usr_other")
			},
		} {
			var f *factors
			e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")))
			req := apikey.RotateRequest{Key: e.issue().Key.ID}
			req.Grant = e.approve(f, e.ctx, "password", req)
			_, err := e.manager.Rotate(spoil(e, f, &req), req)
			requireApproval(t, err, apikey.ErrGrant, want)
			require.ErrorIs(t, err, apikey.ErrStepUpRequired)
			require.Regexp(t, `confirm a new challenge \(.+\)$`, err.Error())
		}
	})
}

// Codes that were answered do not count among the five of the hour. They do among the
// twenty of an address, so that nobody is sent messages without end, not even by their
// own wish.
func TestAnsweredCodesDoNotCount(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		for _, c := range []struct{ answered, waiting int }{{15, 5}, {20, 0}} {
			var m *mailbox
			e := newEnv(t, on, addressed(&m, func(string) (string, error) { return "anna@shop.example", nil }))
			for i := range c.answered {
				req := request(i)
				req.Grant = e.approve(m.factors, e.ctx, "email", req)
				_, err := e.manager.Issue(e.ctx, req)
				require.NoError(t, err)
			}
			for i := range c.waiting {
				_, err := e.manager.Challenge(e.ctx, "email", request(100+i))
				require.NoError(t, err)
			}
			_, err := e.manager.Challenge(e.ctx, "email", request(200))
			require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
			require.Len(t, m.mails, 20)
		}
	})
}

// Also a person whose address nobody knows, or who has a new one each time, gets twenty
// codes an hour at most, however many they answer: each message may earn them something.
func TestAnsweredCodesHaveABound(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		n := 0
		for name, address := range map[string]func(string) (string, error){
			"none":         func(string) (string, error) { return "", nil },
			"another each": func(string) (string, error) { n++; return fmt.Sprint(n, "@shop.example"), nil },
		} {
			var m *mailbox
			e := newEnv(t, on, addressed(&m, address))
			for i := range 20 {
				e.approve(m.factors, of(fmt.Sprint("acc_", i), admin.ID), "email", request(i))
			}
			_, err := e.manager.Challenge(e.ctx, "email", request(20))
			var wait *apikey.AttemptsError
			require.ErrorAs(t, err, &wait, name)
			require.Equal(t, time.Hour, wait.Wait)
			require.Len(t, m.mails, 20)
			e.clock.move(time.Hour)
			e.approve(m.factors, e.ctx, "email", request(20))
		}
	})
}

// Whoever has answered while the Sender was still at work has the code: that the Sender
// failed afterwards, or that the first click was given up, takes nothing back.
func TestASlowSenderTakesNoAnswerBack(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		for _, fails := range []error{context.Canceled, errors.New("421 try again later")} {
			var m *mailbox
			e := newEnv(t, on, addressed(&m, func(string) (string, error) { return "anna@shop.example", nil }))
			in, gate := make(chan struct{}), make(chan struct{})
			code, err := apikey.NewEmailCode(slow{m, func() error { close(in); <-gate; return fails }}, e.settings.Peppers...)
			require.NoError(t, err)
			sends := e.newManager(func(c *managerConfig) { c.Factors = map[string]apikey.Factor{"email": code} })
			req := request(0)
			done := make(chan error)
			go func() { done <- drop(sends.Challenge(e.ctx, "email", req)) }()
			<-in
			put, err := sends.Challenge(e.ctx, "email", req) // a second click, while the first waits
			require.NoError(t, err)
			_, err = e.manager.Confirm(e.ctx, put.ID, m.code())
			require.NoError(t, err)
			close(gate)
			require.ErrorIs(t, <-done, apikey.ErrUnavailable)
			req.Grant, err = e.manager.Confirm(e.ctx, put.ID, m.code())
			require.NoError(t, err, fails)
			_, err = e.manager.Issue(e.ctx, req)
			require.NoError(t, err)
			for i := range 19 { // that code was sent: it counts for the address
				e.approve(m.factors, e.ctx, "email", request(1+i))
			}
			require.ErrorIs(t, drop(e.manager.Challenge(e.ctx, "email", request(20))), apikey.ErrTooManyAttempts)
		}
	})
}

// slow is a mailbox whose Send goes on after the code has arrived.
type slow struct {
	*mailbox
	after func() error
}

func (s slow) Send(ctx context.Context, actorID string, m apikey.Message) error {
	if err := s.mailbox.Send(ctx, actorID, m); err != nil {
		return err
	}
	return s.after()
}

// Somebody who approves two requests, one after the other, may answer the first again.
// Each code comes again for its own challenge, until its grant ends.
func TestACodeComesAgainAfterAnother(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("totp")))
		e.enroll(f, e.ctx, admin.ID)
		var puts, codes []string
		for range 4 {
			put, err := e.manager.Challenge(e.ctx, "totp", apikey.RotateRequest{Key: e.issue().Key.ID})
			require.NoError(t, err)
			puts, codes = append(puts, put.ID), append(codes, f.app(admin.ID))
			_, err = e.manager.Confirm(e.ctx, put.ID, codes[len(codes)-1])
			require.NoError(t, err)
			e.clock.move(totp.Period)
		}
		e.clock.move(-time.Second) // the last of the two minutes
		for i, put := range puts {
			_, err := e.manager.Confirm(e.ctx, put, codes[i])
			require.NoError(t, err, i)
			_, err = e.manager.Confirm(e.ctx, put, codes[(i+1)%4])
			require.ErrorIs(t, err, apikey.ErrWrongAnswer, i)
		}
		e.clock.move(time.Second)
		for range 20 { // what is kept of them has a bound
			put, err := e.manager.Challenge(e.ctx, "totp", apikey.RotateRequest{Key: e.issue().Key.ID})
			require.NoError(t, err)
			_, err = e.manager.Confirm(e.ctx, put.ID, f.app(admin.ID))
			require.NoError(t, err)
			e.clock.move(totp.Period)
		}
		require.Less(t, len(e.itemsOf("enrolled")[0].Data), 700)
	})
}

// A Revoke whose answer was lost is repeated without a second approval. If the record is
// not sound, somebody may have written revoked_at: then it is approved and written.
func TestRevokeOfARevokedKeyNeedsNoGrant(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		var f *factors
		e := newEnv(t, on, through(&p), withFactors(&f, apikey.GuardCreateAndDelete("password")))
		issue := apikey.IssueRequest{Mode: apikey.Live}
		issue.Grant = e.approve(f, e.ctx, "password", issue)
		key, err := e.manager.Issue(e.ctx, issue)
		require.NoError(t, err)
		req := apikey.RevokeRequest{Key: key.Key.ID}
		require.ErrorIs(t, e.manager.Revoke(e.ctx, req), apikey.ErrStepUpRequired)
		req.Grant = e.approve(f, e.ctx, "password", req)
		require.NoError(t, e.manager.Revoke(e.ctx, req))
		require.NoError(t, e.manager.Revoke(e.ctx, req), "with the grant that was used")
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		require.Len(t, e.eventsOf(apikey.ActionRevoke), 1)
		require.ErrorIs(t, e.manager.Revoke(of("acc_2", admin.ID), apikey.RevokeRequest{Key: key.Key.ID}), apikey.ErrNotFound)
		p.hook(func(p *proxy) {
			p.out = func(r *apikey.StoreRecord) { r.Name = "changed in the database" }
		})
		require.ErrorIs(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}), apikey.ErrStepUpRequired)
	})
}

// outages are what can fail beside the Manager. Each returns the function that ends it.
var outages = map[string]func(p *proxy, f *factors) (end func()){
	"the KEK is away": func(_ *proxy, f *factors) func() {
		away := func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, errKMS }
		f.kek.set(func(k *brokenKEK) { k.wrap, k.unwrap = away, away })
		return func() { f.kek.set(func(k *brokenKEK) { k.wrap, k.unwrap = nil, nil }) }
	},
	"the mail server and the password check are away": func(_ *proxy, f *factors) func() {
		f.fail(errors.New("away"))
		return func() { f.fail(nil) }
	},
	"the store reads nothing": func(p *proxy, _ *factors) func() {
		p.hook(func(p *proxy) { p.list, p.get = unavailable, unavailable })
		return func() { p.hook(func(p *proxy) { p.list, p.get = nil, nil }) }
	},
	"the store writes nothing": func(p *proxy, _ *factors) func() {
		p.hook(func(p *proxy) {
			p.apply = func(func() error, []apikey.StoreChange) error { return apikey.ErrUnavailable }
		})
		return func() { p.hook(func(p *proxy) { p.apply = nil }) }
	},
	"the store writes once, then fails": func(p *proxy, _ *factors) func() { // a charge, and no result
		wrote := false
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
				if wrote {
					return apikey.ErrUnavailable
				}
				wrote = true
				return next()
			}
		})
		return func() { p.hook(func(p *proxy) { p.apply = nil }) }
	},
	"the answers of the store are lost": func(p *proxy, _ *factors) func() {
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
				if err := next(); err != nil {
					return err
				}
				return apikey.ErrUnavailable
			}
		})
		return func() { p.hook(func(p *proxy) { p.apply = nil }) }
	},
}

func unavailable() error { return apikey.ErrUnavailable }

// Whatever is away at whichever step of a guarded action: the person repeats the step
// with what they have, and needs no second code. No action is done twice, and no mail
// counts but the one that waits for its answer.
func TestAnOutageCostsNoSecondCode(t *testing.T) {
	t.Parallel()
	actions := map[string]func(key apikey.KeyID) apikey.Guarded{
		"key.issue": func(apikey.KeyID) apikey.Guarded {
			return apikey.IssueRequest{Mode: apikey.Live, Name: "guarded", IdempotencyKey: "form 7"}
		},
		"key.rotate": func(id apikey.KeyID) apikey.Guarded { return apikey.RotateRequest{Key: id} },
		"key.reveal": func(id apikey.KeyID) apikey.Guarded { return apikey.RevealRequest{Key: id} },
		"key.update": func(id apikey.KeyID) apikey.Guarded {
			return apikey.UpdateRequest{Key: id, Name: apikey.Set("guarded")}
		},
		"key.resume": func(id apikey.KeyID) apikey.Guarded { return apikey.ResumeRequest{Key: id} },
		"key.revoke": func(id apikey.KeyID) apikey.Guarded { return apikey.RevokeRequest{Key: id} },
	}
	cases := 0
	for action, request := range actions {
		for _, factor := range []string{"password", "email", "totp"} {
			for outage, begin := range outages {
				for _, at := range []string{"challenge", "confirm", "action"} {
					cases++
					name := fmt.Sprintf("%s by %s, %s at the %s", action, factor, outage, at)
					w := newOutage(t, action, factor)
					w.run(name, request(w.key), at, begin)
				}
			}
		}
	}
	t.Logf("%d cases: codes asked twice 0, mails counted for our failures 0, actions done twice 0", cases)
}

// outage is one guarded action on a key of its own.
type outage struct {
	*env
	p      *proxy
	f      *factors
	action apikey.Action
	factor string
	key    apikey.KeyID
	spare  apikey.KeyID // of which nothing is done
}

func newOutage(t *testing.T, action, factor string) *outage {
	w := &outage{action: apikey.Action(action), factor: factor}
	w.env = newEnv(t, through(&w.p), withFactors(&w.f, func(act apikey.Action, _ apikey.Mode) []string {
		if act == w.action || act == apikey.ActionReveal {
			return []string{"password", "email", "totp"}
		}
		return nil
	}))
	for _, id := range []*apikey.KeyID{&w.spare, &w.key} {
		issue := apikey.IssueRequest{Mode: apikey.Live, Recoverable: true}
		if w.action == apikey.ActionIssue {
			issue.Grant = w.approve(w.f, w.ctx, "password", issue)
		}
		key, err := w.manager.Issue(w.ctx, issue)
		require.NoError(t, err)
		*id = key.Key.ID
	}
	w.enroll(w.f, w.ctx, admin.ID)
	if w.action == apikey.ActionResume {
		require.NoError(t, w.manager.Suspend(w.ctx, w.key))
	}
	return w
}

// during calls step while something is away, if this is the step, and then again.
func (w *outage) during(now bool, begin func(*proxy, *factors) func(), step func(context.Context) error) error {
	if now {
		ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
		if w.action == apikey.ActionRevoke { // which tries again until its time ends
			ctx, cancel = context.WithTimeout(w.ctx, 100*time.Millisecond)
		}
		defer cancel()
		end := begin(w.p, w.f)
		err := step(ctx)
		end()
		if err == nil {
			return nil
		}
		require.True(w.t, errors.Is(err, apikey.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded), err)
	}
	return step(w.ctx)
}

func (w *outage) run(name string, req apikey.Guarded, at string, begin func(*proxy, *factors) func()) {
	t := w.t
	before := len(w.eventsOf(w.action))
	var put apikey.Challenge
	require.NoError(t, w.during(at == "challenge", begin, func(ctx context.Context) (err error) {
		put, err = w.manager.Challenge(ctx, w.factor, req)
		return err
	}), name)
	answer, mails := w.f.answer(w.factor, admin.ID), len(w.f.mails)
	var grant apikey.Grant
	require.NoError(t, w.during(at == "confirm", begin, func(ctx context.Context) (err error) {
		grant, err = w.manager.Confirm(ctx, put.ID, answer)
		return err
	}), name)
	w.clock.move(time.Minute)
	err := w.during(at == "action", begin, func(ctx context.Context) error {
		err := w.make(ctx, granting(req, grant))
		if err != nil { // the grant stayed on the server; the person has the answer
			if again, err := w.manager.Confirm(w.ctx, put.ID, answer); err == nil {
				grant = again
			}
		}
		return err
	})
	switch {
	case err == nil:
	case errors.Is(err, apikey.ErrAlreadyIssued): // the action was done, and its answer lost
	default:
		requireApproval(t, err, apikey.ErrGrant, apikey.ApprovalUsed)
	}
	require.Len(t, w.eventsOf(w.action), before+1, name)
	require.Len(t, w.f.mails, mails, name)
	require.LessOrEqual(t, mails, 1, name)
	for i := range 5 { // the hour's five are all there
		_, err := w.manager.Resend(w.ctx, "email", apikey.RevealRequest{Key: w.spare})
		require.NoError(t, err, "%s: mail %d", name, i)
	}
}
