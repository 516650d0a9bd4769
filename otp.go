package apikey

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/go-apikey/apikey/internal/base62"
)

// A Factor is how an actor proves once more who they are, before a guarded action:
// [TOTP], [EmailCode] and [Password] ship. A Factor only makes and compares answers;
// limits, locks and storage are the Manager's, so that no factor can forget one. A
// Factor must be safe for concurrent use.
type Factor interface {
	// Begin prepares a challenge. state is stored until the answer comes. send, if not
	// nil, is called once the challenge is committed; if send fails, the challenge is
	// withdrawn. enrolled is what this factor has stored for the actor; nil: nothing.
	Begin(ctx context.Context, a Actor, c Challenge, enrolled []byte) (state []byte, send func(context.Context) error, err error)
	// Check compares an answer of 1 byte to 1 KiB, on the same path whether it is right or
	// wrong. It has 30 s, and may run more than once for one answer. next, if not nil,
	// replaces enrolled, together with the grant. If the answer was right, it may come
	// again within two minutes, with c.ID and state as they were and enrolled as it is
	// then: a factor that takes each answer once takes it again for that c.ID. An error
	// means that we failed, and costs the actor nothing.
	Check(ctx context.Context, a Actor, c Challenge, enrolled, state []byte, answer string) (next []byte, ok bool, err error)
}

// Challenge is a question that was put to an actor. It holds no secret.
type Challenge struct {
	ID        string    `json:"id,omitzero"` // to give to Confirm
	Factor    string    `json:"factor,omitzero"`
	Action    Action    `json:"action,omitzero"`     // what the answer approves
	Key       KeyID     `json:"key,omitzero"`        // zero: no existing key
	Account   string    `json:"account,omitzero"`    // whose key it is, or will be
	Mode      Mode      `json:"mode,omitzero"`       // zero: the action is about no mode
	Name      string    `json:"name,omitzero"`       // of the key, as the merchant has typed it; may be empty
	ExpiresAt time.Time `json:"expires_at,omitzero"` // ten minutes after its start
	// Changes says what the answer approves, for the person who is asked: one line, in
	// English, for each field that changes, or for how a token is replaced. Texts that
	// merchants have typed are quoted, without the characters that a mail program makes
	// links of.
	Changes []string `json:"changes,omitzero"`
}

const (
	challengeTime  = 10 * time.Minute
	wrongAnswers   = 5 // of one challenge
	challengeIDLen = 22
	chargeIDLen    = 11
	sendTime       = 30 * time.Second
	checkTime      = 30 * time.Second
	maxAnswer      = 1024 // bytes; a longer one is wrong
)

// Confirm answers a challenge; challenge is its ID. An answer that is empty, or white
// space alone, is refused and not charged. If the answer is right, Confirm returns a
// grant for the challenged request. [TOTP], [EmailCode] and [NewPIN] read digits as
// [Digits] does: blanks in a code do not matter.
//
// If what followed failed, or the grant was lost, confirm again with the same answer.
// Within the two minutes of the grant, if it was not used, Confirm returns another in
// its place, which ends at the same time. So nobody needs a second code because a KEK or
// the store could not be reached.
//
// A wrong answer is charged: after five the challenge is spent, after ten in an hour
// the actor waits, and after a hundred the actor's guarded actions are locked until
// somebody else lifts the lock ([Manager.LiftLock]). Errors: those of the table in the
// package documentation, and:
//   - ErrInvalid: when there is no answer; the field is "answer"
//   - ErrChallenge (as *[ApprovalError], which says whether it has expired, was used or
//     was spent by wrong answers)
//   - ErrWrongAnswer (as *[WrongAnswerError], with the attempts that are left)
//   - ErrTooManyAttempts (as *[AttemptsError], with the time to wait), ErrLocked
//   - ErrUnavailable: also when ctx ended before the answer was known, which may have
//     been charged
func (m *Manager) Confirm(ctx context.Context, challenge, answer string) (Grant, error) {
	s := m.own()
	to := &answeredChallenge{session: s, id: challenge, answer: answer}
	err := s.attempt(ctx, ActionConfirm, answer, to)
	if wrong, ok := errors.AsType[*WrongAnswerError](err); ok {
		wrong.Left = min(wrong.Left, wrongAnswers-int(to.charged.attempts))
	}
	if err != nil {
		return Grant{}, err
	}
	return to.grant, nil
}

// ConfirmEnrollment completes an enrolment that [Manager.Enroll] began, with the first
// answer of the new authenticator, given by the same actor. An answer is charged as in
// [Manager.Confirm]. The errors are the same too, with ErrNotEnrolled (nothing waits to
// be confirmed, or it is too late) in place of ErrChallenge.
func (m *Manager) ConfirmEnrollment(ctx context.Context, factor, answer string) error {
	s := m.own()
	if _, err := s.enroller(factor); err != nil {
		return allWrong(err, required(answer))
	}
	return s.attempt(ctx, ActionConfirmEnrollment, answer, &answeredEnrollment{session: s, factor: factor, answer: answer})
}

// required refuses an answer that nobody has typed: a form that was sent too soon must not
// cost one of five attempts. Other texts that can be no code are wrong answers.
func required(answer string) error {
	if strings.TrimSpace(answer) != "" {
		return nil
	}
	return wrong("answer", InvalidRequired, "there is no answer: pass the code or password that the person has typed")
}

// attempt is one answer to a challenge or to an enrolment, from its arrival until the
// actor is told. It has two steps, charge and settle, and writes one Apply in each:
//
//	attemptWaits    nothing of the answer is stored, and it is not compared
//	  charge        the actor's budget counts it as wrong, and so does the challenge
//	attemptCharged  it may be compared
//	  settle        compares it; the attempt ends in one of three states:
//	attemptRight    the charge is given back, the challenge is answered, its grant is made
//	attemptWrong    the charge stays; if it is the hundredth, the event of the lock
//	attemptVoid     the charge is given back: we failed, or the challenge has ended
//
// The charge comes first, so that no crash, race or client that hangs up gives a free
// guess. After a conflict a step runs again, on what is stored then.
type attempt struct {
	session
	answer string
	to     answered
	// id is the ID of the charge. It is drawn before the first try. If the answer of a
	// COMMIT is lost, the next try finds the charge by this ID, and charges nothing more.
	id      string
	state   attemptState
	refused error // attemptWrong, attemptVoid: the error for the actor
}

type attemptState uint8

const (
	attemptWaits attemptState = iota
	attemptCharged
	attemptRight
	attemptWrong
	attemptVoid
)

// answered is what an attempt answers: a challenge, or an enrolment that waits for its
// first code. charge calls count; settle calls compare, then right or void.
type answered interface {
	// count finds the challenge or enrolment. The items that it returns are written with
	// the charge. If it returns an error, the attempt ends and nothing is charged.
	count(ctx context.Context, a Actor, b *budget, now time.Time) ([]StoreItem, error)
	// compare compares the answer with what is stored now. Its error is nil if the answer
	// is right, ErrWrongAnswer if it is wrong, and any other makes the attempt void.
	compare(ctx context.Context, a Actor, now time.Time) error
	// right ends the challenge or enrolment, and stores the grant or the authenticator.
	right(ctx context.Context, a Actor, b *budget) (effect, error)
	// void undoes count, unless the challenge has ended.
	void(b *budget) []StoreItem
}

// attempt takes an answer through both steps. action is the one for Trace.Denied.
func (s session) attempt(ctx context.Context, action Action, answer string, to answered) error {
	t := attempt{session: s, answer: answer, to: to, id: string(base62.AppendRandom(nil, chargeIDLen))}
	if err := s.swapping(ctx, t.charge); err != nil {
		return err
	}
	t.state = attemptCharged
	// If the caller hangs up, the answer is compared and counted all the same. settle may
	// then still run after attempt has returned: from here on t belongs to settle.
	settled, err := bounded(ctx, checkTime+flightTime, func(ctx context.Context) (attempt, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTime+flightTime)
		defer cancel()
		err := s.swapping(ctx, t.settle)
		return t, mayBeDone(err) // the attempt was charged
	})
	switch err {
	case nil:
		err = notDone(settled.refused) // if the factor failed, the charge was given back
	case context.Canceled, context.DeadlineExceeded, errPanicked:
		err = unavailable(err)
	}
	if errors.Is(err, ErrWrongAnswer) { // so that guessing is seen before the hundredth
		a, _ := actorOf(ctx)
		s.settings.Trace.denied(a, action, KeyID{}, err)
	}
	return err
}

// charge is the step from attemptWaits to attemptCharged.
func (t *attempt) charge(ctx context.Context, a Actor) (effect, error) {
	if err := required(t.answer); err != nil {
		return effect{}, err
	}
	now := t.settings.Now()
	b, err := t.budgetOf(ctx, a)
	if err != nil || b.charged(t.id) { // by a COMMIT whose answer was lost
		return effect{}, err
	}
	items, err := t.to.count(ctx, a, b, now)
	if err != nil {
		return effect{}, err
	}
	if err := b.charge(t.id, now); err != nil {
		return effect{}, err
	}
	return effect{items: append(items, b.swap(now))}, nil
}

// settle is the step from attemptCharged to the state in which the attempt ends. A
// right answer writes its result and the end of its charge in one Apply: all or
// nothing.
func (t *attempt) settle(ctx context.Context, a Actor) (effect, error) {
	now := t.settings.Now()
	b, err := t.budgetOf(ctx, a)
	if err != nil {
		return effect{}, err
	}
	if (t.state == attemptWrong || t.state == attemptVoid) && !b.charged(t.id) {
		// A COMMIT whose answer was lost has given the charge back: the state stays. To
		// compare again would be a guess that is not charged.
		return effect{}, nil
	}
	var e effect
	if err = t.to.compare(ctx, a, now); err == nil {
		e, err = t.to.right(ctx, a, b)
	}
	switch {
	case err == nil:
		t.state, t.refused = attemptRight, nil
	case errors.Is(err, ErrWrongAnswer):
		t.state, t.refused = attemptWrong, &WrongAnswerError{b.left()}
		if b.locked() {
			return effect{note: t.note(a, ActionLock, a.Account, "actor:"+a.ID)}, nil
		}
		return effect{}, nil
	default:
		t.state, t.refused = attemptVoid, err
		e = effect{items: t.to.void(b)}
	}
	b.refund(t.id)
	e.items = append(e.items, b.swap(now))
	return e, nil
}

// check asks a factor, and tells the factor's failure from a wrong answer.
func (s session) check(ctx context.Context, a Actor, c Challenge, enrolled, state []byte, answer string) ([]byte, error) {
	if len(answer) > maxAnswer {
		return nil, ErrWrongAnswer
	}
	next, err := bounded(ctx, checkTime, func(ctx context.Context) ([]byte, error) {
		next, ok, err := s.cfg.Factors[c.Factor].Check(ctx, a, c, enrolled, state, answer)
		if err == nil && !ok {
			err = ErrWrongAnswer
		}
		return next, err
	})
	if err != nil && !errors.Is(err, ErrWrongAnswer) && !errors.Is(err, ErrNotEnrolled) {
		err = unavailable(err)
	}
	return next, err
}
