package apikey

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/go-apikey/apikey/internal/base62"
	"github.com/go-apikey/apikey/internal/canon"
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
	s := m.own()
	var p put
	var before StoreItem                                      // the enrolment, as it was when the answer came
	grant := ParseGrant(string(base62.AppendRandom(nil, 22))) // 131 random bits
	open := func(a Actor, b *budget, now time.Time) (items []StoreItem, err error) {
		if p, err = s.putTo(ctx, a, challenge, now); err != nil {
			return nil, err
		}
		if p.attempts >= wrongAnswers {
			return nil, ErrChallenge
		}
		if before, err = s.enrolledItem(ctx, itemEnrolled, a, p.Factor); err != nil {
			return nil, err
		}
		if p.attempts++; p.attempts == wrongAnswers {
			b.closed(p.ID) // whatever comes of this one, it is the last
		}
		return []StoreItem{s.vouch(p.item, p.encode())}, nil
	}
	compare := func(ctx context.Context, a Actor, b *budget, now time.Time) (effect, error) {
		q, err := s.putTo(ctx, a, challenge, now)
		answered := errors.Is(err, ErrChallenge) // meanwhile, by another request of theirs
		if err != nil && !answered {
			return effect{}, err
		}
		kept := before // a second click is compared with what the first one was, and charged nothing
		if !answered {
			if kept, err = s.enrolledItem(ctx, itemEnrolled, a, p.Factor); err != nil {
				return effect{}, err
			}
		}
		next, err := s.compared(ctx, a, p, kept, answer)
		if answered {
			return effect{}, cmp.Or(err, ErrChallenge)
		}
		var e effect
		if err == nil {
			e, err = s.approved(ctx, a, q, grant, kept, next)
		}
		switch {
		case err == nil:
			b.closed(q.ID)
		case !errors.Is(err, ErrWrongAnswer):
			e = s.givenBack(b, q)
		}
		return e, err
	}
	err := s.attempt(ctx, ActionConfirm, open, compare)
	if wrong, ok := errors.AsType[*WrongAnswerError](err); ok {
		wrong.Left = min(wrong.Left, wrongAnswers-int(p.attempts))
	}
	if err != nil {
		return Grant{}, err
	}
	return grant, nil
}

// approved ends an answered challenge, and writes its grant.
func (s session) approved(ctx context.Context, a Actor, q put, grant Grant, kept StoreItem, next []byte) (effect, error) {
	e := effect{items: []StoreItem{q.item.gone(), s.granted(grant, q)}, note: s.note(a, ActionConfirm, q.Account, "factor:"+q.Factor, "approves:"+string(q.Action))}
	e.note.Key, e.note.Mode = q.Key, q.Mode
	if next == nil {
		return e, nil
	}
	kept, err := s.sealEnrolled(ctx, a, q.Factor, kept, next)
	if err != nil {
		return effect{}, err
	}
	e.items = append(e.items, kept)
	return e, nil
}

// givenBack takes one attempt off a challenge, because we have failed: nothing was
// compared, or a right answer could not be kept.
func (s session) givenBack(b *budget, q put) effect {
	if q.attempts == wrongAnswers {
		b.opened(q.Challenge) // it was the last one, and waits again
	}
	q.attempts--
	return effect{items: []StoreItem{s.vouch(q.item, q.encode())}}
}

// compared opens an enrolment and asks the factor of a challenge.
func (s session) compared(ctx context.Context, a Actor, p put, kept StoreItem, answer string) (next []byte, err error) {
	enrolled, err := s.openEnrolled(ctx, kept, a, p.Factor)
	if err != nil {
		return nil, err
	}
	return s.check(ctx, a, p.Challenge, enrolled, p.state, answer)
}

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

// attempt is passed by every answer. It is charged before it is compared, so
// that neither a crash nor a race nor a client that hangs up gives one away for
// nothing; a right answer gives its own charge back, and so does a failure of
// ours, which has compared nothing, and compares nothing any more.
func (s session) attempt(
	ctx context.Context, action Action,
	open func(a Actor, b *budget, now time.Time) ([]StoreItem, error),
	compare func(ctx context.Context, a Actor, b *budget, now time.Time) (effect, error),
) error {
	charged, err := s.charge(ctx, open)
	if err != nil {
		return err
	}
	var refused error
	// Whoever hangs up gets no answer; it is compared and counted all the same.
	_, err = bounded(ctx, checkTime+flightTime, func(ctx context.Context) (struct{}, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTime+flightTime)
		defer cancel()
		return struct{}{}, s.swapping(ctx, func(a Actor, _ *StoreRecord) (effect, error) {
			now := s.cfg.Now()
			b, err := s.budgetOf(ctx, a)
			if err != nil {
				return effect{}, err
			}
			if refused != nil && !b.charged(charged) {
				// A COMMIT whose answer was lost has given it back: what it was for
				// stands. To compare now would be a guess that nobody paid for.
				return effect{}, nil
			}
			var e effect
			e, refused = compare(ctx, a, b, now)
			wrong := errors.Is(refused, ErrWrongAnswer)
			if wrong {
				refused = &WrongAnswerError{b.left()}
			}
			switch {
			case wrong && b.locked():
				return effect{note: s.note(a, ActionLock, a.Account, "actor:"+a.ID)}, nil
			case wrong:
				return effect{}, nil
			}
			b.refund(charged)
			e.items = append(e.items, b.swap(now))
			return e, nil
		})
	})
	switch err {
	case nil: // only then is refused ours to read
		err = refused
	case context.Canceled, context.DeadlineExceeded, errPanicked:
		err = unavailable(err)
	}
	if errors.Is(err, ErrWrongAnswer) { // whoever guesses is seen before the hundredth
		a, _ := actorOf(ctx)
		s.cfg.Trace.denied(a, action, KeyID{}, err)
	}
	return err
}

// charge takes an attempt off the actor's budget, if open finds what it is for,
// and returns the charge's ID. That is drawn before the first try: a COMMIT whose
// answer is lost is followed by another, which finds it, and charges nothing more,
// unless somebody has lifted it meanwhile.
func (s session) charge(ctx context.Context, open func(Actor, *budget, time.Time) ([]StoreItem, error)) (id string, err error) {
	id = string(base62.AppendRandom(nil, chargeIDLen))
	return id, s.swapping(ctx, func(a Actor, _ *StoreRecord) (effect, error) {
		now := s.cfg.Now()
		b, err := s.budgetOf(ctx, a)
		if err != nil || b.charged(id) {
			return effect{}, err
		}
		items, err := open(a, b, now)
		if err != nil {
			return effect{}, err
		}
		if err := b.charge(id, now); err != nil {
			return effect{}, err
		}
		return effect{items: append(items, b.swap(now))}, nil
	})
}

// swapping writes items that are about the actor alone, again after every
// conflict: the budget, the challenges, the enrolments. It authorises nothing.
func (s session) swapping(ctx context.Context, work func(Actor, *StoreRecord) (effect, error)) error {
	j := ofActor("", "").changing(work)
	j.unlogged = true
	return s.do(ctx, j)
}

// itemChallenge is the kind of the items that keep challenges.
const itemChallenge StoreItemKind = "challenge"

// put is a stored challenge.
type put struct {
	Challenge
	actor    Actor  // ID, Account and operator alone
	bound    []byte // what a grant of it will be bound to
	state    []byte
	attempts uint64
	mails    []string // items in which its message counts; none: it sends nothing
	sent     bool     // its message went out
	item     StoreItem
}

func (p *put) encode() []byte {
	var c canon.Writer
	c.Text(p.actor.ID)
	c.Text(p.actor.Account)
	c.Bool(p.actor.operator)
	c.Text(p.Factor)
	c.Text(string(p.Action))
	c.Bytes(p.Key[:])
	c.Text(p.Account)
	c.Uint(uint64(p.Mode))
	c.Text(p.Name)
	c.Bytes(p.bound)
	c.Bytes(p.state)
	c.Uint(p.attempts)
	if len(p.mails) > 0 { // without, it is as earlier versions wrote it
		c.Bool(p.sent)
		c.Texts(p.mails)
	}
	return c.Encoded()
}

func decodePut(it StoreItem, data []byte) (p put, ok bool) {
	u := canon.NewReader(data)
	p.ID, p.ExpiresAt, p.item = it.ID, it.ExpiresAt, it
	p.actor = Actor{ID: u.Text(), Account: u.Text(), operator: u.Uint() == 1}
	p.Factor, p.Action = u.Text(), Action(u.Text())
	copy(p.Key[:], u.Text())
	p.Account, p.Mode, p.Name = u.Text(), Mode(u.Uint()), u.Text()
	p.bound, p.state = []byte(u.Text()), []byte(u.Text())
	p.attempts = u.Uint()
	if p.sent = true; u.More() {
		p.sent, p.mails = u.Uint() == 1, u.Texts()
	}
	return p, u.Complete()
}

// putTo finds a challenge of this actor. Whatever is wrong with it is one
// answer.
func (s session) putTo(ctx context.Context, a Actor, id string, now time.Time) (put, error) {
	// Only what has an ID's form is looked for: whoever puts their password into the
	// wrong field must not find it in the log of a database's queries.
	if len(id) != challengeIDLen || !base62.Valid(id) {
		return put{}, ErrChallenge
	}
	it, err := s.item(ctx, itemChallenge, id)
	if err != nil {
		return put{}, err
	}
	data, genuine := s.vouched(it)
	p, whole := decodePut(it, data)
	same := p.actor.ID == a.ID && p.actor.Account == a.Account && p.actor.operator == a.operator
	if !genuine || !whole || !same || !now.Before(it.ExpiresAt) || s.cfg.Factors[p.Factor] == nil {
		return put{}, ErrChallenge
	}
	return p, nil
}
