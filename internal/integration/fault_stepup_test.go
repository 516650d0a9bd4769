package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
	"github.com/go-apikey/apikey/storetest"
)

// approvals is all that is done to prove oneself, and what a grant is for.
//
// A request with a grant is one commit, and is judged like any other: what failed
// has not spent the grant, and what succeeded has spent it. To put a challenge is
// one commit, and its mail is sent once, after that. To answer is two: an attempt
// is charged before it is compared. So a call that failed in between has charged
// an attempt, and nothing else; and one that was answered is charged once.
func approvals() []operation {
	var grant apikey.Grant // of the scene that is running, as are the others
	var question apikey.Challenge
	var code string
	// granted is a request that has been approved. Afterwards its grant is spent.
	granted := func(name string, request func(s shopkeeper, key apikey.Issued) apikey.Guarded, before func(s shopkeeper, key apikey.Issued) error,
		run func(s shopkeeper, key apikey.Issued, g apikey.Grant) error) operation {
		return operation{name: name, before: func(s shopkeeper, key apikey.Issued) (err error) {
			if before != nil {
				err = before(s, key)
			}
			if err != nil {
				return err
			}
			factor, answer := "password", password
			if _, ok := request(s, key).(apikey.DisableRequest); ok { // it answers for itself alone
				factor, answer = "totp", s.desk.next("usr_1")
			}
			grant, err = s.prove(factor, answer, request(s, key))
			return err
		}, run: func(s shopkeeper, key apikey.Issued) error { return run(s, key, grant) }, after: func(s shopkeeper, key apikey.Issued) error {
			err := run(s, key, grant)
			if _, ok := request(s, key).(apikey.RevokeRequest); ok { // of a revoked key it needs no grant
				return err
			}
			if !errors.Is(err, apikey.ErrGrant) && !errors.Is(err, apikey.ErrRevoked) {
				return fmt.Errorf("the grant was taken again: %v", err)
			}
			return nil
		}}
	}
	suspended := func(s shopkeeper, key apikey.Issued) error {
		return s.m.Suspend(s.ctx, key.Key.ID)
	}
	asked := func(factor string) func(s shopkeeper, key apikey.Issued) error {
		return func(s shopkeeper, key apikey.Issued) (err error) {
			question, err = s.m.Challenge(s.ctx, factor, apikey.RevealRequest{Key: key.Key.ID})
			return err
		}
	}
	answer := func(with func(s shopkeeper) string) func(s shopkeeper, key apikey.Issued) error {
		return func(s shopkeeper, _ apikey.Issued) (err error) {
			grant, err = s.m.Confirm(s.ctx, question.ID, with(s))
			return err
		}
	}
	// redeems: the grant reveals once, and afterwards the challenge makes no other.
	redeems := func(with func(s shopkeeper) string) func(s shopkeeper, key apikey.Issued) error {
		return func(s shopkeeper, key apikey.Issued) error {
			req := apikey.RevealRequest{Key: key.Key.ID, Grant: grant}
			if _, err := s.m.Reveal(s.ctx, req); err != nil {
				return err
			}
			if _, err := s.m.Reveal(s.ctx, req); !errors.Is(err, apikey.ErrGrant) {
				return fmt.Errorf("the grant was taken again: %v", err)
			}
			if _, err := s.m.Confirm(s.ctx, question.ID, with(s)); !errors.Is(err, apikey.ErrChallenge) {
				return fmt.Errorf("the challenge was answered again: %v", err)
			}
			return nil
		}
	}
	types := func(text string) func(shopkeeper) string { return func(shopkeeper) string { return text } }
	mailed := func(s shopkeeper) string { return s.desk.mailed() }
	shows := func(s shopkeeper) string {
		code = s.desk.next("usr_1")
		return code
	}
	shown := func(shopkeeper) string { return code }
	answerable := func(with func(s shopkeeper) string) func(s shopkeeper, key apikey.Issued) error {
		return func(s shopkeeper, key apikey.Issued) error {
			if err := answer(with)(s, key); err != nil {
				return err
			}
			return redeems(with)(s, key)
		}
	}
	wrong := func(err error) error {
		if errors.Is(err, apikey.ErrWrongAnswer) {
			return nil
		}
		return fmt.Errorf("a wrong answer: %w", err)
	}
	enrolling := func(s shopkeeper, _ apikey.Issued) error { return s.enroll("usr_1") }
	enrolled := func(s shopkeeper, key apikey.Issued) error {
		return errors.Join(enrolling(s, key), s.m.ConfirmEnrollment(s.ctx, "totp", s.desk.app("usr_1")))
	}
	wider := func(key apikey.Issued) apikey.UpdateRequest {
		return apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:refund", "payment:verify"})}
	}
	return []operation{
		granted("Issue with a grant", func(shopkeeper, apikey.Issued) apikey.Guarded { return apikey.IssueRequest{Mode: apikey.Live} }, nil,
			func(s shopkeeper, _ apikey.Issued, g apikey.Grant) error {
				_, err := s.m.Issue(s.ctx, apikey.IssueRequest{Mode: apikey.Live, Grant: g})
				return err
			}),
		granted("Update that widens", func(_ shopkeeper, key apikey.Issued) apikey.Guarded { return wider(key) }, nil,
			func(s shopkeeper, key apikey.Issued, g apikey.Grant) error {
				req := wider(key)
				req.Grant = g
				_, err := s.m.Update(s.ctx, req)
				return err
			}),
		granted("Resume with a grant", func(_ shopkeeper, key apikey.Issued) apikey.Guarded { return apikey.ResumeRequest{Key: key.Key.ID} }, suspended,
			func(s shopkeeper, key apikey.Issued, g apikey.Grant) error {
				return s.m.Resume(s.ctx, apikey.ResumeRequest{Key: key.Key.ID, Grant: g})
			}),
		granted("Rotate with a grant", func(_ shopkeeper, key apikey.Issued) apikey.Guarded { return apikey.RotateRequest{Key: key.Key.ID} }, nil,
			func(s shopkeeper, key apikey.Issued, g apikey.Grant) error {
				return rotate(s, apikey.RotateRequest{Key: key.Key.ID, Grant: g})
			}),
		granted("Revoke with a grant", func(_ shopkeeper, key apikey.Issued) apikey.Guarded { return apikey.RevokeRequest{Key: key.Key.ID} }, nil,
			func(s shopkeeper, key apikey.Issued, g apikey.Grant) error {
				return s.m.Revoke(s.ctx, apikey.RevokeRequest{Key: key.Key.ID, Grant: g})
			}),
		granted("Enroll", func(shopkeeper, apikey.Issued) apikey.Guarded { return apikey.EnrollRequest{Factor: "totp"} }, nil,
			func(s shopkeeper, _ apikey.Issued, g apikey.Grant) error { return s.begin("usr_1", g) }),
		granted("Disable one's own", func(shopkeeper, apikey.Issued) apikey.Guarded { return apikey.DisableRequest{Factor: "totp"} }, enrolled,
			func(s shopkeeper, _ apikey.Issued, g apikey.Grant) error {
				return s.m.Disable(s.ctx, apikey.DisableRequest{Factor: "totp", Grant: g})
			}),
		granted("AllowEnrollment with a grant", func(shopkeeper, apikey.Issued) apikey.Guarded {
			return apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_2"}
		}, nil, func(s shopkeeper, _ apikey.Issued, g apikey.Grant) error {
			return s.m.AllowEnrollment(s.ctx, apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_2", Grant: g})
		}),
		{name: "Enroll, allowed by another", before: func(s shopkeeper, _ apikey.Issued) error {
			return s.m.AllowEnrollment(staff(), apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_1", Account: s.account})
		}, run: func(s shopkeeper, _ apikey.Issued) error { return s.begin("usr_1", apikey.Grant{}) }, after: func(s shopkeeper, _ apikey.Issued) error {
			if err := s.m.ConfirmEnrollment(s.ctx, "totp", s.desk.app("usr_1")); err != nil {
				return fmt.Errorf("what was shown is not what was kept: %w", err)
			}
			if err := s.begin("usr_1", apikey.Grant{}); !errors.Is(err, apikey.ErrStepUpRequired) {
				return fmt.Errorf("the permission was taken again: %v", err)
			}
			return nil
		}},
		{name: "Disable another's", before: enrolled, run: func(s shopkeeper, _ apikey.Issued) error {
			return s.m.Disable(staff(), apikey.DisableRequest{Factor: "totp", Actor: "usr_1", Account: s.account})
		}},
		{name: "Enrolled", before: enrolled, run: func(s shopkeeper, _ apikey.Issued) error {
			factors, err := s.m.Enrolled(s.ctx)
			if err == nil && !slices.Equal(factors, []string{"totp"}) {
				err = fmt.Errorf("%v are enrolled", factors)
			}
			return err
		}},
		{name: "Challenge for the password", opens: true, run: asked("password"), after: answerable(types(password))},
		{name: "Challenge by mail", opens: true, run: asked("email"), after: answerable(mailed)},
		{name: "Resend by mail", opens: true, before: asked("email"), run: func(s shopkeeper, key apikey.Issued) (err error) {
			question, err = s.m.Resend(s.ctx, "email", apikey.RevealRequest{Key: key.Key.ID})
			return err
		}, after: answerable(mailed)},
		{name: "Challenge for the app", opens: true, before: enrolled, run: asked("totp"), after: answerable(shows)},
		{name: "Challenge whose mail is lost", opens: true, before: func(s shopkeeper, _ apikey.Issued) error {
			s.desk.away.Store(true)
			return nil
		}, run: func(s shopkeeper, key apikey.Issued) error { // it is taken back, or nobody was told of it
			if err := asked("email")(s, key); errors.Is(err, errAway) {
				return nil
			} else if err != nil {
				return err
			}
			return errors.New("a challenge nobody can answer")
		}},
		{name: "Confirm the password", answers: true, before: asked("password"), run: answer(types(password)), after: redeems(types(password))},
		{name: "Confirm the mailed code", answers: true, before: asked("email"), run: answer(mailed), after: redeems(mailed)},
		{name: "Confirm the app's code", answers: true, before: func(s shopkeeper, key apikey.Issued) error {
			return errors.Join(enrolled(s, key), asked("totp")(s, key))
		}, run: answer(shows), after: func(s shopkeeper, key apikey.Issued) error {
			if err := redeems(shown)(s, key); err != nil {
				return err
			}
			return errors.Join(asked("totp")(s, key), wrong(answer(shown)(s, key))) // a code is taken once, whatever is asked
		}},
		{name: "Confirm, wrongly", answers: true, before: asked("password"), run: func(s shopkeeper, key apikey.Issued) error {
			return wrong(answer(types("guess"))(s, key))
		}, after: answerable(types(password))},
		{name: "ConfirmEnrollment", answers: true, before: enrolling, run: func(s shopkeeper, _ apikey.Issued) error {
			return s.m.ConfirmEnrollment(s.ctx, "totp", s.desk.app("usr_1"))
		}, after: func(s shopkeeper, key apikey.Issued) error {
			if err := s.m.ConfirmEnrollment(s.ctx, "totp", s.desk.app("usr_1")); !errors.Is(err, apikey.ErrNotEnrolled) {
				return fmt.Errorf("it was confirmed again: %v", err)
			}
			if err := asked("totp")(s, key); err != nil {
				return err
			}
			return answerable(shows)(s, key)
		}},
		{name: "ConfirmEnrollment, wrongly", answers: true, before: enrolling, run: func(s shopkeeper, _ apikey.Issued) error {
			return wrong(s.m.ConfirmEnrollment(s.ctx, "totp", "guess"))
		}},
	}
}

// approve proves the shopkeeper with the password.
func (s shopkeeper) approve(req apikey.Guarded) (apikey.Grant, error) {
	return s.prove("password", password, req)
}

func (s shopkeeper) prove(factor, answer string, req apikey.Guarded) (apikey.Grant, error) {
	c, err := s.m.Challenge(s.ctx, factor, req)
	if err != nil {
		return apikey.Grant{}, err
	}
	return s.m.Confirm(s.ctx, c.ID, answer)
}

// reveals: the key's own token is shown.
func (s shopkeeper) reveals(key apikey.Issued) error {
	req := apikey.RevealRequest{Key: key.Key.ID}
	var err error
	if req.Grant, err = s.approve(req); err != nil {
		return err
	}
	shown, err := s.m.Reveal(s.ctx, req)
	if err == nil && shown.Token.Reveal() != key.Token.Reveal() {
		err = errors.New("another token was shown")
	}
	return err
}

func (s shopkeeper) enroll(actor string) error {
	g, err := s.approve(apikey.EnrollRequest{Factor: "totp"})
	if err != nil {
		return err
	}
	return s.begin(actor, g)
}

// begin has the actor's app scan what Enroll shows.
func (s shopkeeper) begin(actor string, g apikey.Grant) error {
	e, err := s.m.Enroll(s.ctx, apikey.EnrollRequest{Factor: "totp", Grant: g})
	if err == nil {
		s.desk.scan(actor, e)
	}
	return err
}

// sight is all that an operation may have changed.
type sight struct {
	state
	proofs
}

// proofs are what there is of challenges and their answers.
type proofs struct {
	challenges, grants, enrolled, enrolling, allowed int
	charged, open                                    int // of all budgets: attempts that count, challenges that wait
	mails                                            int
}

func (f *faulty) look(t *testing.T) (s sight) {
	t.Helper()
	s.state = f.state(t)
	for kind, count := range map[apikey.StoreItemKind]*int{
		"challenge": &s.challenges, "grant": &s.grants, "enrolled": &s.enrolled, "enrolling": &s.enrolling, "enrollable": &s.allowed,
	} {
		page, err := f.cleanStore.Items(background, apikey.StoreItemFilter{Kind: kind})
		must(t, err)
		*count = len(page.Items)
	}
	page, err := f.cleanStore.Items(background, apikey.StoreItemFilter{Kind: "budget"})
	must(t, err)
	for _, it := range page.Items {
		charged, open := readBudget(it.Data)
		s.charged, s.open = s.charged+charged, s.open+open
	}
	s.mails = f.desk.count()
	return s
}

// lock has the one budget with a single charge stand at a hundred.
func (s shopkeeper) lock() error {
	page, err := s.store.Items(background, apikey.StoreItemFilter{Kind: "budget"})
	if err != nil {
		return err
	}
	for _, it := range page.Items {
		if charged, _ := readBudget(it.Data); charged == 1 {
			it.Version++
			binary.BigEndian.PutUint64(it.Data, 100)
			return s.store.Apply(background, apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{it}})
		}
	}
	return errors.New("nobody has given a wrong answer")
}

// readBudget reads what a budget holds: numbers of eight bytes, and lists of
// texts and times, each with its length.
func readBudget(b []byte) (charged, open int) {
	uint := func() (v int) {
		v, b = int(binary.BigEndian.Uint64(b)), b[8:]
		return v
	}
	charged = uint()
	uint() // when
	for range uint() {
		b = b[uint():]
		uint()
	}
	return charged, uint()
}

// nothing reports whether a call that failed has left all as it was, but for an
// attempt that was charged before it was compared.
func (s sight) nothing(before sight, op operation) bool {
	if !op.answers {
		return s == before
	}
	return s.proven() == before.proven() && within(s.charged-before.charged, 1)
}

// done reports whether all is as after an undisturbed call, and what is left
// besides: the charge of an attempt that failed before it was compared, or a
// challenge whose mail was lost and that could not be taken back.
func (s sight) done(want sight, op operation, failed bool) (spare int, once bool) {
	switch charged, opened := s.charged-want.charged, s.challenges-want.challenges; {
	case op.answers:
		return charged, s.proven() == want.proven() && within(charged, bit(failed))
	case op.opens:
		s.challenges, s.open = s.challenges-opened, s.open-opened // both or none
		s.items, s.itemVersions, want.items, want.itemVersions = 0, 0, 0, 0
		return opened, s == want && within(opened, bit(want.open == 0))
	}
	return 0, s == want
}

// proven is what an attempt's charge does not touch.
func (s sight) proven() sight {
	s.charged, s.items, s.itemVersions = 0, 0, 0
	return s
}

func within(n, most int) bool { return 0 <= n && n <= most }

func bit(is bool) int {
	if is {
		return 1
	}
	return 0
}

func onReveal(a apikey.Action, _ apikey.Mode) []string {
	if a == apikey.ActionReveal {
		return []string{"password", "email", "totp"}
	}
	return nil
}

func onEverything(a apikey.Action, _ apikey.Mode) []string {
	if slices.Contains(guardable, a) {
		return []string{"password", "email", "totp"}
	}
	return nil
}

// guardable is all that New lets StepUp name.
var guardable = []apikey.Action{
	apikey.ActionIssue, apikey.ActionUpdate, apikey.ActionWiden, apikey.ActionResume, apikey.ActionRotate, apikey.ActionReveal, apikey.ActionRevoke,
	apikey.ActionAllowEnrollment, apikey.ActionDisable, apikey.ActionLiftLock,
}

// desk is what the actors of a program have beside it. The mail may be away.
type desk struct {
	*people
	away atomic.Bool
}

func newDesk() *desk { return &desk{people: newPeople(time.Now)} }

// furnish has two KEKs, two peppers and all factors.
func (d *desk) furnish(stepUp apikey.StepUp) func(*managing) {
	return func(c *managing) {
		c.Peppers = append(c.Peppers, pepperIn(2))
		c.KEKs = []apikey.KEK{localKEK(1), localKEK(2)}
		d.factors(stepUp)(c)
		c.Factors["email"] = sure(apikey.NewEmailCode(d, c.Peppers...))
	}
}

// Send implements apikey.Sender.
func (d *desk) Send(ctx context.Context, to string, m apikey.Message) error {
	if d.away.Load() {
		return errAway
	}
	return d.people.Send(ctx, to, m)
}

func (d *desk) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mails = nil
	d.away.Store(false)
}

func (d *desk) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.mails)
}

// next is the app's code of the step after this one, which is taken already: what
// confirmed the enrolment was of an earlier step.
func (d *desk) next(actor string) string { return totp.Code(d.seeds[actor], totp.Step(time.Now())+1) }
