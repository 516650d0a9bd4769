package apikey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-apikey/apikey/internal/base62"
)

// A Factor is how an actor proves once more who they are, before a guarded action:
// [TOTP], [EmailCode] and [Password] ship. It only makes and compares; limits,
// locks and storage are the Manager's, so that no factor can forget one. It is
// safe for concurrent use.
type Factor interface {
	// Begin prepares a challenge. state is kept until the answer comes. send, if
	// not nil, is called once the challenge is committed; when it fails the
	// challenge is withdrawn. enrolled is the actor's own, nil if they have none.
	Begin(ctx context.Context, a Actor, c Challenge, enrolled []byte) (state []byte, send func(context.Context) error, err error)
	// Check compares an answer, which is not empty and at most 1 KiB, right or
	// wrong on the same path. It has 30 s, and may run more than once for one
	// answer. next replaces enrolled together with the grant; nil:
	// unchanged. An error means that we failed, and costs the actor nothing.
	Check(ctx context.Context, a Actor, c Challenge, enrolled, state []byte, answer string) (next []byte, ok bool, err error)
}

// Challenge is a question that was put to an actor. It holds no secret.
type Challenge struct {
	ID        string // to give to Confirm
	Factor    string
	Action    Action // what the answer approves
	Key       KeyID  // zero: no existing key
	Account   string // whose key it is, or will be
	Mode      Mode
	Name      string    // of the key, as the merchant has typed it; may be empty
	ExpiresAt time.Time // ten minutes from its start
	// Changes says what the answer approves, for the person who is asked: one line, in
	// English, for each field that changes, or for how a token is replaced. What
	// merchants have typed is quoted in them, without the characters that a mail
	// program makes links of.
	Changes []string
}

const (
	challengeTime  = 10 * time.Minute
	wrongAnswers   = 5 // a challenge
	challengeIDLen = 22
	chargeIDLen    = 11
	sendTime       = 30 * time.Second
	checkTime      = 30 * time.Second
	maxAnswer      = 1024 // bytes; a longer one is wrong
)

// Confirm answers a challenge; challenge is its ID. A right answer is a grant
// for the request that was challenged. [TOTP], [EmailCode] and [NewPIN] read their
// digits as [Digits] does: blanks in a code do not matter.
//
// A wrong answer is charged: after five the challenge is spent, after ten in an
// hour the actor waits, and after a hundred their guarded actions are locked until
// somebody else lifts it ([Manager.LiftLock]). Errors: ErrNoActor; ErrChallenge
// (unknown, somebody else's, expired, answered, spent, or ended by a later one);
// ErrWrongAnswer (as *[WrongAnswerError], with the attempts that are left);
// ErrTooManyAttempts (as *[AttemptsError], with the time to wait); ErrLocked;
// ErrConflict; ErrCorrupt; ErrUnavailable (also when ctx ended before the answer
// was known: it may have been charged).
func (m *Manager) Confirm(ctx context.Context, challenge, answer string) (Grant, error) {
	s, grant := m.own(), ParseGrant(string(base62.AppendRandom(nil, 22))) // 131 random bits
	to := &answeredChallenge{session: s, id: challenge, answer: answer, grant: grant}
	err := s.attempt(ctx, ActionConfirm, to)
	if wrong, ok := errors.AsType[*WrongAnswerError](err); ok {
		wrong.Left = min(wrong.Left, wrongAnswers-int(to.charged.attempts))
	}
	if err != nil {
		return Grant{}, err
	}
	return grant, nil
}

// ConfirmEnrollment ends what Enroll began, with the first answer of the new
// authenticator, given by the actor who began. The answer is charged like that to
// a challenge. Errors: ErrNoActor, ErrInvalid, ErrNotEnrolled (nothing to
// confirm, or too late), ErrWrongAnswer (as *[WrongAnswerError]),
// ErrTooManyAttempts, ErrLocked, ErrConflict, ErrCorrupt, ErrUnavailable.
func (m *Manager) ConfirmEnrollment(ctx context.Context, factor, answer string) error {
	s := m.own()
	if _, err := s.enroller(factor); err != nil {
		return err
	}
	return s.attempt(ctx, ActionConfirmEnrollment, &answeredEnrollment{session: s, factor: factor, answer: answer})
}

// attempt is one answer to a challenge or to an enrolment, from its arrival until the
// actor is told. It has two steps, charge and settle, and writes one Apply in each:
//
//	attemptWaits    nothing of the answer is stored, and it is not compared
//	  charge        the actor's budget counts it as wrong, and so does the challenge
//	attemptCharged  it may be compared
//	  settle        compares it; the attempt ends in one of three states:
//	attemptRight    the charge is given back, the challenge ends, its grant is made
//	attemptWrong    the charge stays; if it is the hundredth, the event of the lock
//	attemptVoid     the charge is given back: we failed, or the challenge has ended
//
// The charge comes first, so that neither a crash nor a race nor a client that hangs
// up gives a guess away for nothing. After a conflict a step runs again, on what is
// stored then.
type attempt struct {
	session
	to answered
	// id is that of the charge. It is drawn before the first try: a COMMIT whose answer
	// is lost is followed by another try, which finds the charge by its ID, and charges
	// nothing more, unless somebody has lifted it meanwhile.
	id      string
	state   attemptState
	refused error // attemptWrong, attemptVoid: the error that the actor is told
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
	// count finds what is answered. The items that it returns are written with the
	// charge; its error ends the attempt, which is charged nothing.
	count(ctx context.Context, a Actor, b *budget, now time.Time) ([]StoreItem, error)
	// compare compares the answer with what is stored now. Its error is nil if the answer
	// is right, ErrWrongAnswer if it is wrong, and any other makes the attempt void.
	compare(ctx context.Context, a Actor, now time.Time) error
	// right ends what was answered, and makes what a right answer is for.
	right(ctx context.Context, a Actor, b *budget) (effect, error)
	// void undoes count, unless what was answered has ended.
	void(b *budget) []StoreItem
}

// attempt takes an answer through both steps. action is what the hooks are told.
func (s session) attempt(ctx context.Context, action Action, to answered) error {
	t := attempt{session: s, to: to, id: string(base62.AppendRandom(nil, chargeIDLen))}
	if err := s.swapping(ctx, t.charge); err != nil {
		return err
	}
	t.state = attemptCharged
	// Whoever hangs up gets no answer; it is compared and counted all the same. settle
	// may then still run: from here on t belongs to it.
	settled, err := bounded(ctx, checkTime+flightTime, func(ctx context.Context) (attempt, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTime+flightTime)
		defer cancel()
		err := s.swapping(ctx, t.settle)
		return t, err
	})
	switch err {
	case nil:
		err = settled.refused
	case context.Canceled, context.DeadlineExceeded, errPanicked:
		err = unavailable(err)
	}
	if errors.Is(err, ErrWrongAnswer) { // whoever guesses is seen before the hundredth
		a, _ := actorOf(ctx)
		s.cfg.Trace.denied(a, action, KeyID{}, err)
	}
	return err
}

// charge is the step from attemptWaits to attemptCharged.
func (t *attempt) charge(ctx context.Context, a Actor) (effect, error) {
	now := t.cfg.Now()
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

// settle is the step from attemptCharged to the state in which the attempt ends. What
// a right answer writes is one Apply with the end of its charge: all of it, or nothing.
func (t *attempt) settle(ctx context.Context, a Actor) (effect, error) {
	now := t.cfg.Now()
	b, err := t.budgetOf(ctx, a)
	if err != nil {
		return effect{}, err
	}
	if (t.state == attemptWrong || t.state == attemptVoid) && !b.charged(t.id) {
		// A COMMIT whose answer was lost has given the charge back: the state stays. To
		// compare now would be a guess that nobody paid for.
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

// answeredChallenge is a challenge with an answer to it, for which a grant is made.
type answeredChallenge struct {
	session
	id, answer string
	grant      Grant
	// Set by count.
	charged put       // the challenge, with this attempt counted
	before  StoreItem // the enrolment at that time
	// Set by compare.
	open *put      // the challenge as it is stored; nil: it has ended, or was not read
	kept StoreItem // the enrolment as it is stored
	next []byte    // what replaces it; nil: nothing does
}

func (c *answeredChallenge) count(ctx context.Context, a Actor, b *budget, now time.Time) ([]StoreItem, error) {
	p, err := c.putTo(ctx, a, c.id, now)
	if err != nil {
		return nil, err
	}
	if p.attempts >= wrongAnswers {
		return nil, ErrChallenge
	}
	if c.before, err = c.enrolledItem(ctx, itemEnrolled, a, p.Factor); err != nil {
		return nil, err
	}
	if p.attempts++; p.attempts == wrongAnswers {
		b.closed(p.ID) // whatever comes of this one, it is the last
	}
	c.charged = p
	return []StoreItem{c.vouch(p.item, p.encode())}, nil
}

func (c *answeredChallenge) compare(ctx context.Context, a Actor, now time.Time) error {
	c.open = nil
	open, err := c.putTo(ctx, a, c.id, now)
	switch {
	case errors.Is(err, ErrChallenge):
		return c.compareLate(ctx, a)
	case err != nil:
		return err
	}
	kept, err := c.enrolledItem(ctx, itemEnrolled, a, open.Factor)
	if err != nil {
		return err
	}
	c.open, c.kept = &open, kept
	c.next, err = c.compareWith(ctx, a, kept)
	return err
}

// compareLate is compare for a challenge that another request of the actor has ended
// since it was charged. A second click is compared with the enrolment that the first
// click was compared with: a right code is not wrong the second time, and is charged
// nothing.
func (c *answeredChallenge) compareLate(ctx context.Context, a Actor) error {
	_, err := c.compareWith(ctx, a, c.before)
	return cmp.Or(err, ErrChallenge)
}

// compareWith opens an enrolment, and asks the factor of the challenge.
func (c *answeredChallenge) compareWith(ctx context.Context, a Actor, kept StoreItem) (next []byte, err error) {
	enrolled, err := c.openEnrolled(ctx, kept, a, c.charged.Factor)
	if err != nil {
		return nil, err
	}
	return c.check(ctx, a, c.charged.Challenge, enrolled, c.charged.state, c.answer)
}

func (c *answeredChallenge) right(ctx context.Context, a Actor, b *budget) (effect, error) {
	p := *c.open
	e := effect{items: []StoreItem{p.item.deleted(), c.granted(c.grant, p)}, note: c.note(a, ActionConfirm, p.Account, "factor:"+p.Factor, "approves:"+string(p.Action))}
	e.note.Key, e.note.Mode = p.Key, p.Mode
	if c.next != nil {
		kept, err := c.sealEnrolled(ctx, a, p.Factor, c.kept, c.next)
		if err != nil {
			return effect{}, err
		}
		e.items = append(e.items, kept)
	}
	b.closed(p.ID)
	return e, nil
}

// void takes the attempt off the challenge again: nothing was compared, or a right
// answer could not be kept.
func (c *answeredChallenge) void(b *budget) []StoreItem {
	if c.open == nil {
		return nil
	}
	p := *c.open
	if p.attempts == wrongAnswers {
		b.opened(p.Challenge) // it was the last one, and waits again
	}
	p.attempts--
	return []StoreItem{c.vouch(p.item, p.encode())}
}

// answeredEnrollment is an enrolment that waits for its first code, and that code.
type answeredEnrollment struct {
	session
	factor, answer string
	// Set by compare.
	pending StoreItem // what Enroll has stored
	next    []byte    // what is kept of the actor from now on
}

// begun finds what Enroll has stored.
func (c *answeredEnrollment) begun(ctx context.Context, a Actor, now time.Time) (StoreItem, error) {
	it, err := c.item(ctx, itemEnrolling, enrolledID(a, c.factor))
	if err == nil && (it.Version == 0 || !now.Before(it.ExpiresAt)) {
		err = fmt.Errorf("%w: nothing waits for a first code: call Enroll, and confirm within ten minutes", ErrNotEnrolled)
	}
	return it, err
}

// count counts nothing: only the budget bounds the answers to an enrolment.
func (c *answeredEnrollment) count(ctx context.Context, a Actor, _ *budget, now time.Time) ([]StoreItem, error) {
	_, err := c.begun(ctx, a, now)
	return nil, err
}

func (c *answeredEnrollment) compare(ctx context.Context, a Actor, now time.Time) (err error) {
	if c.pending, err = c.begun(ctx, a, now); err != nil {
		return err
	}
	plain, _, err := c.enrolled(ctx, itemEnrolling, a, c.factor)
	if err != nil {
		return err
	}
	c.next, err = c.check(ctx, a, Challenge{Factor: c.factor, Account: a.Account}, plain, nil, c.answer)
	if c.next == nil {
		c.next = plain
	}
	return err
}

func (c *answeredEnrollment) right(ctx context.Context, a Actor, _ *budget) (effect, error) {
	kept, err := c.item(ctx, itemEnrolled, enrolledID(a, c.factor))
	if err == nil {
		kept, err = c.sealEnrolled(ctx, a, c.factor, kept, c.next)
	}
	if err != nil {
		return effect{}, err
	}
	e := effect{items: []StoreItem{c.pending.deleted(), kept}, note: c.note(a, ActionConfirmEnrollment, a.Account, "factor:"+c.factor)}
	unused, err := c.item(ctx, itemAllowed, enrolledID(a, c.factor)) // once is once, however it was approved
	if err != nil {
		return effect{}, err // nothing of e: what is answered with an error is not confirmed
	}
	if unused.Version > 0 {
		e.items = append(e.items, unused.deleted())
	}
	return e, nil
}

func (c *answeredEnrollment) void(*budget) []StoreItem { return nil }

// check asks a factor, and tells its own failure from a wrong answer.
func (s session) check(ctx context.Context, a Actor, c Challenge, enrolled, state []byte, answer string) ([]byte, error) {
	if answer == "" || len(answer) > maxAnswer {
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
