package apikey

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// budget counts what one actor has guessed, over all their challenges, all factors and
// all nodes. It is one item, which every attempt swaps. It bounds guarded actions only:
// verification, Suspend and Revoke as compromised never look at it.
//
// A code of six digits that is accepted in three time steps is found by one guess in
// 333,333. An actor has a hundred guesses in thirty days, which find one with a
// probability of 0.0003. Somebody else may lift the actor's lock three times, which
// gives thirty more: 0.0004. Only an Operator can give more than that.
//
// An actor with one ID in several accounts has a budget in each. So a secret that is
// the same in all of them can be guessed from all of them. A PIN is too short for that.
//
// An item is protected no better than the database: somebody who may delete its rows
// can empty a budget, and guess on.
type budget struct {
	item    StoreItem
	all     uint64  // charges that count towards the lock: not given back, not lifted
	last    int64   // time of the newest charge that has left hour, Unix seconds
	hour    tallies // charges of the last hour, which may still be given back
	waiting tallies // challenges that wait for an answer, by their expiry
	lifts   tallies // of the last thirty days
}

const (
	wrongAnHour   = 10                  // then the actor waits
	wrongEver     = 100                 // then the actor is locked
	forgivenAfter = 30 * 24 * time.Hour // without a wrong answer
	openAtOnce    = 3                   // challenges that wait for an answer
	liftGives     = 10                  // guesses
	liftsAMonth   = 3                   // in liftsFor, by others than an Operator
	liftsFor      = 30 * 24 * time.Hour
)

// itemBudget is the kind of the items that keep budgets.
const itemBudget StoreItemKind = "budget"

// budgetOf reads the budget of an actor, without what no longer counts.
func (s session) budgetOf(ctx context.Context, a Actor) (*budget, error) {
	it, err := s.item(ctx, itemBudget, itemID(a.Account, 0, a.ID))
	if err != nil {
		return nil, err
	}
	b := &budget{item: it}
	if it.Version == 0 {
		return b, nil
	}
	u := canon.NewReader(it.Data)
	b.all, b.last = u.Uint(), int64(u.Uint())
	b.hour, b.waiting = readTallies(&u), readTallies(&u)
	readTallies(&u) // the mails that earlier versions counted here
	if u.More() {   // an actor whose lock was never lifted has no such list
		b.lifts = readTallies(&u)
	}
	if !u.Complete() { // fail closed: locked, until somebody else lifts the lock
		return &budget{item: it, all: wrongEver, last: s.settings.Now().Unix()}, nil
	}
	b.forget(s.settings.Now())
	return b, nil
}

// forget drops what no longer counts. Nobody is to wait for a year because one
// machine's clock was a year ahead. But last stays in that future: if another machine
// brought it back to the present, the first one would forgive all guesses again and
// again.
func (b *budget) forget(now time.Time) {
	for _, t := range b.hour {
		if !t.counts(now, time.Hour) {
			b.last = max(b.last, time.UnixMicro(t.until).Add(-time.Hour).Unix())
		}
	}
	b.hour.forget(now, time.Hour)
	b.waiting.forget(now, challengeTime)
	b.lifts.forget(now, liftsFor)
	if !b.locked() && len(b.hour) == 0 && now.Unix() >= b.last+int64(forgivenAfter/time.Second) {
		b.all = 0
	}
}

// swap returns the item to write.
func (b *budget) swap(now time.Time) StoreItem {
	var c canon.Writer
	c.Uint(b.all)
	c.Uint(uint64(b.last))
	b.hour.write(&c)
	b.waiting.write(&c)
	tallies(nil).write(&c)
	if len(b.lifts) > 0 {
		b.lifts.write(&c)
	}
	it := b.item
	it.Version++
	it.Data = c.Encoded()
	it.ExpiresAt = micros(now.Add(2 * forgivenAfter))
	if b.locked() {
		it.ExpiresAt = time.Time{} // a lock does not expire
	}
	return it
}

// locked reports whether the budget is locked. Only another person can lift the lock.
func (b *budget) locked() bool { return b.all >= wrongEver }

// allowed returns why the actor may give no answer now; nil: they may.
func (b *budget) allowed(now time.Time) error {
	switch {
	case b.locked():
		return ErrLocked
	case len(b.hour) >= wrongAnHour:
		return b.hour.tooMany(now)
	}
	return nil
}

// left is how many wrong answers may still be given at once.
func (b *budget) left() int {
	if b.locked() {
		return 0
	}
	return max(0, min(wrongAnHour-len(b.hour), wrongEver-int(b.all)))
}

// opened counts a challenge as waiting.
func (b *budget) opened(c Challenge) {
	b.waiting = append(b.waiting, tally{c.ID, c.ExpiresAt.UnixMicro()})
}

// oldest returns the challenge that has waited longest, if no further one may wait.
func (b *budget) oldest() (id string, full bool) {
	if len(b.waiting) < openAtOnce {
		return "", false
	}
	return b.waiting.earliest().id, true
}

// charge counts an attempt as wrong, under an ID of its own, before it is compared.
func (b *budget) charge(id string, now time.Time) error {
	if err := b.allowed(now); err != nil {
		return err
	}
	b.all++
	b.hour = append(b.hour, tally{id, now.Add(time.Hour).UnixMicro()})
	return nil
}

// charged reports whether the charge with this ID counts, and may still be given back.
func (b *budget) charged(id string) bool { return b.hour.have(id) }

// refund gives the charge with this ID back, never another one, and never twice.
func (b *budget) refund(id string) {
	if b.hour.have(id) { // otherwise it was given back already
		b.hour.drop(id)
		b.all--
	}
}

// waits reports whether a challenge waits for an answer.
func (b *budget) waits(id string) bool { return b.waiting.have(id) }

// closed takes a challenge off those that wait.
func (b *budget) closed(id string) { b.waiting.drop(id) }

// lift ends a lock. It gives ten more guesses and not a hundred, and the charges of the
// hour go on counting: otherwise two hijacked sessions could lift each other's lock,
// and guess on for ever.
func (b *budget) lift(id string, now time.Time) {
	b.all = wrongEver - liftGives
	b.lifts = append(b.lifts, tally{id, now.Add(liftsFor).UnixMicro()})
}

// tally is something that counts until a time.
type tally struct {
	id    string
	until int64 // Unix microseconds
}

// tallies is a list of tallies, each of which counts until its own time.
type tallies []tally

func (l tallies) have(id string) bool {
	return slices.ContainsFunc(l, func(t tally) bool { return t.id == id })
}

func (l *tallies) drop(id string) {
	*l = slices.DeleteFunc(*l, func(t tally) bool { return t.id == id })
}

// clockSlack is how far ahead a clock may have been if the tallies that it noted are to
// count.
const clockSlack = time.Hour

// counts reports whether a tally that counts for the time long still does. A tally that
// would count for longer was noted by a clock that was ahead.
func (t tally) counts(now time.Time, long time.Duration) bool {
	return now.UnixMicro() < t.until && t.until <= now.Add(long+clockSlack).UnixMicro()
}

// forget drops what no longer counts.
func (l *tallies) forget(now time.Time, long time.Duration) {
	*l = slices.DeleteFunc(*l, func(t tally) bool { return !t.counts(now, long) })
}

// earliest returns the first of the list to stop counting. The list must not be empty.
func (l tallies) earliest() tally {
	return slices.MinFunc(l, func(a, b tally) int { return cmp.Compare(a.until, b.until) })
}

// tooMany returns the error that says to wait until the first of the list stops
// counting.
func (l tallies) tooMany(now time.Time) error {
	return &AttemptsError{max(time.Second, time.UnixMicro(l.earliest().until).Sub(now).Round(time.Second))}
}

func (l tallies) write(c *canon.Writer) {
	c.Uint(uint64(len(l)))
	for _, t := range l {
		c.Text(t.id)
		c.Uint(uint64(t.until))
	}
}

func readTallies(u *canon.Reader) (l tallies) {
	for range min(u.Uint(), 1000) {
		l = append(l, tally{u.Text(), int64(u.Uint())})
	}
	return l
}

// LiftLockRequest names the actor whose guarded actions are locked.
type LiftLockRequest struct {
	// Account of the actor who is locked; empty: the caller's own. An Operator names it;
	// empty then means that the locked actor is another Operator.
	Account string
	Actor   string // ID of the actor who is locked

	Grant Grant `json:"-"` // if StepUp guards ActionLiftLock
}

func (r LiftLockRequest) guarded() approval {
	ask := aboutActor(ActionLiftLock, "", r.Account, r.Actor)
	ask.job.refuses = func(ctx context.Context, s session, a Actor, _ *StoreRecord) error {
		_, _, err := s.liftable(ctx, a, r)
		return err
	}
	return ask
}

// LiftLock ends the lock of an actor's guarded actions, which a hundred wrong answers
// set. The actor then has ten more guesses until the next lock. The wrong answers of
// the last hour go on counting. If the actor is not locked, LiftLock writes nothing and
// returns nil.
//
// Nobody lifts their own lock: another admin of the account does, or an [Operator].
// After three lifts in thirty days only an Operator can lift the lock of that actor:
// otherwise two hijacked sessions could lift each other's lock until a guess is right.
//
// Errors: those of the table in the package documentation, and:
//   - ErrNotFound: when Account is another account than the actor's
//   - ErrForbidden: also after three lifts in thirty days, for others than an Operator
//   - ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked
func (m *Manager) LiftLock(ctx context.Context, req LiftLockRequest) error {
	s := m.own()
	j := req.guarded().asking(req.Grant)
	j.work = func(a Actor, _ *StoreRecord) (effect, error) {
		b, target, err := s.liftable(ctx, a, req)
		if err != nil {
			return effect{}, err
		}
		if !b.locked() {
			return effect{}, nobody(a, req.Account, req.Actor)
		}
		now, note := s.settings.Now(), s.note(a, ActionLiftLock, target.Account, "actor:"+target.ID)
		b.lift(note.ID.String(), now)
		return effect{items: []StoreItem{b.swap(now)}, note: note}, nil
	}
	return s.do(ctx, j)
}

// liftable returns the budget whose lock this actor may lift, and the actor whose it
// is.
func (s session) liftable(ctx context.Context, a Actor, req LiftLockRequest) (*budget, Actor, error) {
	target, err := another(a, req.Account, req.Actor)
	if err != nil {
		return nil, target, err
	}
	b, err := s.budgetOf(ctx, target)
	if err == nil && b.locked() && len(b.lifts) >= liftsAMonth && !a.operator {
		err = fmt.Errorf("%w: this lock was lifted %d times in thirty days: an operator lifts it", ErrForbidden, len(b.lifts))
	}
	return b, target, err
}

// AttemptsError says how long an actor has to wait before the next attempt. It wraps
// ErrTooManyAttempts. The causes: ten wrong answers in an hour, five codes that were not
// answered or twenty in all, sent to the actor in an hour (over all accounts), or twenty
// codes sent to the actor's address.
type AttemptsError struct {
	Wait time.Duration // more than 0
}

// Error says when to try again.
func (e *AttemptsError) Error() string {
	return fmt.Sprintf("%v: try again in %v", ErrTooManyAttempts, e.Wait)
}

// Unwrap is ErrTooManyAttempts.
func (e *AttemptsError) Unwrap() error { return ErrTooManyAttempts }

// WrongAnswerError says how many more wrong answers the actor may give before they have
// to wait or be unlocked. It wraps ErrWrongAnswer.
type WrongAnswerError struct {
	// Left is the smallest of what the challenge, the hour and the lock allow: 0 to 4,
	// and for ConfirmEnrollment, which has no challenge, 0 to 9. At 0, call Challenge:
	// it returns a new challenge or says how long to wait.
	Left int
}

// Error says how many are left.
func (e *WrongAnswerError) Error() string {
	switch e.Left {
	case 0:
		return fmt.Sprintf("%v: no attempt is left: put a new challenge (Challenge says so if the actor has to wait)", ErrWrongAnswer)
	case 1:
		return fmt.Sprintf("%v: 1 attempt is left", ErrWrongAnswer)
	}
	return fmt.Sprintf("%v: %d attempts are left", ErrWrongAnswer, e.Left)
}

// Unwrap is ErrWrongAnswer.
func (e *WrongAnswerError) Unwrap() error { return ErrWrongAnswer }
