package apikey

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/base62"
)

// A Factor is how an actor proves himself once more before a guarded action:
// [TOTP], [EmailCode] and [Password] ship. It only makes and compares; limits,
// locks and storage are the Manager's, so that no factor can forget one. It is
// safe for concurrent use.
type Factor interface {
	// Begin prepares a challenge. state is kept until the answer comes. send, if
	// not nil, is called once the challenge is committed; when it fails the
	// challenge is withdrawn. enrolled is the actor's own, nil if he has none.
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
	Name      string    // of the key; may be empty
	ExpiresAt time.Time // ten minutes from its start
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

// Challenge puts a question to the actor of ctx, by the named factor, for the
// request that he is about to make: pass that very request. The action is
// authorised first: who may not do it is not asked to prove anything. Any node
// can take the answer.
//
// At most three challenges of an actor wait for an answer at a time, and at most
// five codes an hour are sent to him. (After an error of the store one may wait of
// which nobody knows the ID.) Errors: those of the action before its
// grant is looked at; ErrInvalid (the factor does not approve it);
// ErrNotEnrolled; ErrTooManyAttempts (as *[AttemptsError], with the time to
// wait); ErrLocked; ErrConflict; ErrCorrupt (what is kept of his factor does not
// open); ErrUnavailable (also when a code could not be sent: then none counts as
// sent, unless the Sender was given up, by ctx or after 30 s, or panicked: that
// mail may come yet).
func (m *Manager) Challenge(ctx context.Context, factor string, what Guarded) (Challenge, error) {
	if what == nil {
		return Challenge{}, invalid("Challenge needs the request that is to be approved")
	}
	s, ask := m.own(), what.guarded()
	var tried []question // the last of them is put
	j := ask.job
	j.silent, j.lessens = true, false
	j.work = func(a Actor, r *Record) (effect, error) {
		b, err := s.budgetOf(ctx, a)
		if err != nil {
			return effect{}, err
		}
		// A COMMIT whose answer was lost has put it: another would take a second
		// place of the three, and nobody would know its ID.
		if i := slices.IndexFunc(tried, func(q question) bool { return b.waits(q.ID) }); i >= 0 {
			tried = tried[:i+1]
			return effect{}, nil
		}
		q, e, err := s.question(ctx, a, r, b, factor, &ask)
		if err == nil {
			tried = append(tried, q)
		}
		return e, err
	}
	if err := s.do(ctx, j); err != nil {
		return Challenge{}, err
	}
	q := tried[len(tried)-1]
	if q.send == nil {
		return q.Challenge, nil
	}
	_, err := bounded(ctx, sendTime, func(ctx context.Context) (struct{}, error) { return struct{}{}, q.send(ctx) })
	if err != nil {
		// Nobody knows whether a Sender that was given up sends it after all, or
		// whether one that panicked had sent it: such a mail counts. Otherwise
		// hanging up would flood the mailbox.
		given := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
		s.withdraw(ctx, q.put, given || errors.Is(err, errPanicked))
		return Challenge{}, fmt.Errorf("%w: the code could not be sent: %w", ErrUnavailable, err)
	}
	return q.Challenge, nil
}

// question is a challenge, and what sends its code, nil if nothing has to be sent.
type question struct {
	put
	send func(context.Context) error
}

// question makes a challenge, and the items that keep it and count it.
func (s session) question(ctx context.Context, a Actor, r *Record, b *budget, factor string, ask *approval) (question, effect, error) {
	now := s.cfg.Now()
	about := Info{Account: accountOf(a, ask.job.account), Mode: ask.job.mode, Name: ask.job.name}
	if r != nil {
		about = Info{Account: r.Account, Mode: r.Mode, Name: r.Name}
	}
	stepUp, err := s.factorsFor(ctx, a, ask.job)
	if err != nil {
		return question{}, effect{}, err
	}
	var may []string
	for _, action := range append([]Action{ask.job.action}, ask.others...) {
		approve, _ := inCommon(stepUp, ask.job.modesOf(about), []Action{action})
		may = append(may, approve...)
	}
	switch {
	case len(may) == 0 || ask.free:
		return question{}, effect{}, invalid("this %s is not guarded: make the request", ask.job.action)
	case !slices.Contains(may, factor):
		return question{}, effect{}, invalid("factor %s does not approve %s; these do: %v", quote(factor), ask.job.action, may)
	}
	if err := b.mayOpen(now); err != nil {
		return question{}, effect{}, err
	}
	enrolled, _, err := s.enrolled(ctx, itemEnrolled, a, factor)
	if err != nil {
		return question{}, effect{}, err
	}
	q := question{put: put{actor: a, bound: binding(a, about.Account, ask, about.Mode, r), Challenge: Challenge{
		ID: string(base62.AppendRandom(nil, challengeIDLen)), Factor: factor, Action: ask.job.action, Key: ask.job.key,
		Account: about.Account, Mode: about.Mode, Name: about.Name, ExpiresAt: micros(now.Add(challengeTime)),
	}}}
	if q.state, q.send, err = s.cfg.Factors[factor].Begin(ctx, a, q.Challenge, enrolled); err == nil {
		err = b.open(q.Challenge, q.send != nil, now)
	} else if !errors.Is(err, ErrNotEnrolled) {
		err = unavailable(err)
	}
	if err != nil {
		return question{}, effect{}, err
	}
	q.item = Item{Kind: itemChallenge, ID: q.ID, ExpiresAt: q.ExpiresAt}
	return q, effect{items: []Item{s.vouch(q.item, q.encode()), b.swap(now)}}, nil
}

// withdraw takes a challenge back whose code was not sent, and its mail off the
// budget unless it may come yet. If that fails too the challenge expires by
// itself.
func (s session) withdraw(ctx context.Context, p put, mayCome bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	defer cancel()
	err := s.swapping(ctx, func(a Actor, _ *Record) (effect, error) {
		it, err := s.item(ctx, itemChallenge, p.ID)
		if err != nil || it.Version == 0 {
			return effect{}, err
		}
		b, err := s.budgetOf(ctx, a)
		if err != nil {
			return effect{}, err
		}
		b.closed(p.ID)
		if !mayCome {
			b.unsent(p.ID)
		}
		return effect{items: []Item{it.gone(), b.swap(s.cfg.Now())}}, nil
	})
	if err != nil {
		s.cfg.Logger.Warn("apikey: a challenge that was not sent could not be withdrawn", "error", err)
	}
}

// Confirm answers a challenge; challenge is its ID. A right answer is a grant
// for the request that was challenged. Spaces around a code do not matter.
//
// A wrong answer is charged: after five the challenge is spent, after ten in an
// hour the actor waits, and after a hundred his guarded actions are locked until
// somebody else lifts it ([Manager.LiftLock]). Errors: ErrNoActor; ErrChallenge
// (unknown, somebody else's, expired, answered, or spent); ErrWrongAnswer;
// ErrTooManyAttempts (as *[AttemptsError], with the time to wait); ErrLocked;
// ErrConflict; ErrCorrupt; ErrUnavailable (also when ctx ended before the answer
// was known: it may have been charged).
func (m *Manager) Confirm(ctx context.Context, challenge, answer string) (Grant, error) {
	s := m.own()
	var p put
	grant := ParseGrant(string(base62.AppendRandom(nil, 22))) // 131 random bits
	open := func(a Actor, b *budget, now time.Time) (items []Item, err error) {
		if p, err = s.putTo(ctx, a, challenge, now); err != nil {
			return nil, err
		}
		if p.attempts >= wrongAnswers {
			return nil, ErrChallenge
		}
		if p.attempts++; p.attempts == wrongAnswers {
			b.closed(p.ID) // whatever comes of this one, it is the last
		}
		return []Item{s.vouch(p.item, p.encode())}, nil
	}
	compare := func(ctx context.Context, a Actor, b *budget, now time.Time) (effect, error) {
		q, err := s.putTo(ctx, a, challenge, now)
		answered := errors.Is(err, ErrChallenge) // meanwhile, by another request of his
		if err != nil && !answered {
			return effect{}, err
		}
		enrolled, kept, err := s.enrolled(ctx, itemEnrolled, a, p.Factor)
		if err != nil {
			return effect{}, err
		}
		next, err := s.check(ctx, a, p.Challenge, enrolled, p.state, answer)
		if err == nil && answered {
			err = ErrChallenge
		}
		if err != nil {
			return effect{}, err
		}
		b.closed(q.ID)
		e := effect{items: []Item{q.item.gone(), s.granted(grant, q, now)}, note: s.note(a, ActionConfirm, q.Account, "factor:"+q.Factor, "approves:"+string(q.Action))}
		e.note.Key, e.note.Mode = q.Key, q.Mode
		if next != nil {
			if kept, err = s.sealEnrolled(ctx, a, q.Factor, kept, next); err != nil {
				return effect{}, err
			}
			e.items = append(e.items, kept)
		}
		return e, nil
	}
	if err := s.attempt(ctx, ActionConfirm, open, compare); err != nil {
		return Grant{}, err
	}
	return grant, nil
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
	open func(a Actor, b *budget, now time.Time) ([]Item, error),
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
		return struct{}{}, s.swapping(ctx, func(a Actor, _ *Record) (effect, error) {
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
			switch {
			case errors.Is(refused, ErrWrongAnswer) && b.locked():
				return effect{note: s.note(a, ActionLock, a.Account, "actor:"+a.ID)}, nil
			case errors.Is(refused, ErrWrongAnswer):
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
func (s session) charge(ctx context.Context, open func(Actor, *budget, time.Time) ([]Item, error)) (id string, err error) {
	id = string(base62.AppendRandom(nil, chargeIDLen))
	return id, s.swapping(ctx, func(a Actor, _ *Record) (effect, error) {
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

// swapping writes items that are about the actor himself, again after every
// conflict: his budget, his challenges, his enrolments. It authorises nothing.
func (s session) swapping(ctx context.Context, work func(Actor, *Record) (effect, error)) error {
	return s.do(ctx, job{wide: true, own: true, silent: true, work: work})
}

// itemChallenge is the kind of the items that keep challenges.
const itemChallenge ItemKind = "challenge"

// put is a stored challenge.
type put struct {
	Challenge
	actor    Actor  // ID, Account and operator alone
	bound    []byte // what a grant of it will be bound to
	state    []byte
	attempts uint64
	item     Item
}

func (p *put) encode() []byte {
	var c canon
	c.text(p.actor.ID)
	c.text(p.actor.Account)
	c.bool(p.actor.operator)
	c.text(p.Factor)
	c.text(string(p.Action))
	c.bytes(p.Key[:])
	c.text(p.Account)
	c.uint(uint64(p.Mode))
	c.text(p.Name)
	c.bytes(p.bound)
	c.bytes(p.state)
	c.uint(p.attempts)
	return c.b
}

func decodePut(it Item, data []byte) (p put, ok bool) {
	u := uncanon{data, true}
	p.ID, p.ExpiresAt, p.item = it.ID, it.ExpiresAt, it
	p.actor = Actor{ID: u.text(), Account: u.text(), operator: u.uint() == 1}
	p.Factor, p.Action = u.text(), Action(u.text())
	copy(p.Key[:], u.text())
	p.Account, p.Mode, p.Name = u.text(), Mode(u.uint()), u.text()
	p.bound, p.state = []byte(u.text()), []byte(u.text())
	p.attempts = u.uint()
	return p, u.ok && len(u.b) == 0
}

// putTo finds a challenge of this actor. Whatever is wrong with it is one
// answer.
func (s session) putTo(ctx context.Context, a Actor, id string, now time.Time) (put, error) {
	// Only what has an ID's form is looked for: who puts his password into the
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
