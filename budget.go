package apikey

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// budget is what one actor may still try, over all his challenges, all factors
// and all nodes: one item, swapped by every attempt. It guards guarded actions
// alone. Verification, Suspend and Revoke as compromised never look at it.
//
// A code of six digits that is taken in three time steps falls to one guess in
// 333,333. A hundred guesses, which is all that an actor has in thirty days unless
// somebody else lifts his lock, find one with a probability of 0.0003.
//
// Whoever acts for several accounts under one ID has a budget in each: what he
// knows of one he may guess at from all. A PIN is too short for that.
//
// Items carry no more protection than the database: who may delete its rows
// can empty a budget, and guess on.
type budget struct {
	item  Item
	all   uint64  // charges since the last lift that were not given back
	last  int64   // when the newest charge was that has left hour, Unix seconds
	hour  []tally // charges of the last hour, which may still be given back
	asked []tally // challenges that wait for an answer, by their expiry
	mail  []tally // codes sent in the last hour
}

// tally is something that counts until a time.
type tally struct {
	id    string
	until int64 // Unix microseconds
}

const (
	wrongAnHour   = 10
	wrongEver     = 100
	forgivenAfter = 30 * 24 * time.Hour // without a wrong answer
	openAtOnce    = 3
	mailsAnHour   = 5
)

// itemBudget is the kind of the items that keep budgets.
const itemBudget ItemKind = "budget"

func (s session) budgetOf(ctx context.Context, a Actor) (*budget, error) {
	it, err := s.item(ctx, itemBudget, itemID(a.Account, 0, a.ID))
	if err != nil {
		return nil, err
	}
	b := &budget{item: it}
	if it.Version == 0 {
		return b, nil
	}
	u := uncanon{it.Data, true}
	b.all, b.last = u.uint(), int64(u.uint())
	for _, list := range b.lists() {
		for range min(u.uint(), 1000) {
			*list = append(*list, tally{u.text(), int64(u.uint())})
		}
	}
	if !u.ok || len(u.b) != 0 { // fail closed: somebody else looks at it, and lifts it
		return &budget{item: it, all: wrongEver, last: s.cfg.Now().Unix()}, nil
	}
	b.forget(s.cfg.Now())
	return b, nil
}

func (b *budget) lists() []*[]tally { return []*[]tally{&b.hour, &b.asked, &b.mail} }

// forget drops what no longer counts.
func (b *budget) forget(now time.Time) {
	for _, t := range b.hour {
		if now.UnixMicro() >= t.until {
			b.last = max(b.last, time.UnixMicro(t.until).Add(-time.Hour).Unix())
		}
	}
	for _, list := range b.lists() {
		*list = slices.DeleteFunc(*list, func(t tally) bool { return now.UnixMicro() >= t.until })
	}
	if !b.locked() && len(b.hour) == 0 && now.Unix() >= b.last+int64(forgivenAfter/time.Second) {
		b.all = 0
	}
}

// swap is the item to write.
func (b *budget) swap(now time.Time) Item {
	var c canon
	c.uint(b.all)
	c.uint(uint64(b.last))
	for _, list := range b.lists() {
		c.uint(uint64(len(*list)))
		for _, t := range *list {
			c.text(t.id)
			c.uint(uint64(t.until))
		}
	}
	it := b.item
	it.Version++
	it.Data = c.b
	it.ExpiresAt = micros(now.Add(2 * forgivenAfter))
	if b.locked() {
		it.ExpiresAt = time.Time{} // a lock does not expire
	}
	return it
}

// locked: only another person lifts it.
func (b *budget) locked() bool { return b.all >= wrongEver }

func (b *budget) allowed(now time.Time) error {
	switch {
	case b.locked():
		return ErrLocked
	case len(b.hour) >= wrongAnHour:
		return tooMany(b.hour, now)
	}
	return nil
}

// tooMany waits for the first of the list to stop counting.
func tooMany(list []tally, now time.Time) error {
	first := slices.MinFunc(list, func(a, b tally) int { return cmp.Compare(a.until, b.until) })
	return &AttemptsError{max(time.Second, time.UnixMicro(first.until).Sub(now).Round(time.Second))}
}

// mayOpen asks whether one more challenge may be put.
func (b *budget) mayOpen(now time.Time) error {
	if err := b.allowed(now); err != nil {
		return err
	}
	if len(b.asked) >= openAtOnce {
		return tooMany(b.asked, now)
	}
	return nil
}

// open counts a challenge, and a mail if it sends one.
func (b *budget) open(c Challenge, mails bool, now time.Time) error {
	if mails {
		if len(b.mail) >= mailsAnHour {
			return tooMany(b.mail, now)
		}
		b.mail = append(b.mail, tally{c.ID, now.Add(time.Hour).UnixMicro()})
	}
	b.asked = append(b.asked, tally{c.ID, c.ExpiresAt.UnixMicro()})
	return nil
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

func (b *budget) charged(id string) bool { return counts(b.hour, id) }

// refund gives one charge back, never another's, and never twice.
func (b *budget) refund(id string) {
	i := slices.IndexFunc(b.hour, func(t tally) bool { return t.id == id })
	if i < 0 {
		return // given back already, or lifted
	}
	b.hour = slices.Delete(b.hour, i, i+1)
	b.all--
}

// waits reports whether a challenge waits for an answer.
func (b *budget) waits(id string) bool { return counts(b.asked, id) }

func counts(list []tally, id string) bool {
	return slices.ContainsFunc(list, func(t tally) bool { return t.id == id })
}

// closed takes an answered challenge off those that wait.
func (b *budget) closed(id string) {
	b.asked = slices.DeleteFunc(b.asked, func(t tally) bool { return t.id == id })
}

// unsent takes the mail of a challenge back, which was never sent.
func (b *budget) unsent(id string) {
	b.mail = slices.DeleteFunc(b.mail, func(t tally) bool { return t.id == id })
}

// LiftLockRequest names the actor whose guarded actions are locked.
type LiftLockRequest struct {
	Account string // empty: the caller's own; an Operator names it: his own are his fellow operators
	Actor   string // his ID

	Grant Grant `json:"-"` // when StepUp guards ActionLiftLock
}

func (r LiftLockRequest) guarded() approval {
	return aboutActor(ActionLiftLock, "", r.Account, r.Actor)
}

// LiftLock clears an actor's count of wrong answers, also before he is locked,
// and of the challenges that wait for an answer. Nobody lifts his own: another
// admin of the account does, or an Operator. Of an actor without either it does
// nothing and returns nil. Errors: ErrNoActor, ErrNotFound
// (another's account), ErrForbidden, ErrStepUpRequired (as *[ChallengeError]),
// ErrGrant, ErrLocked, ErrInvalid, ErrConflict, ErrUnavailable.
func (m *Manager) LiftLock(ctx context.Context, req LiftLockRequest) error {
	s := m.own()
	j := req.guarded().asking(req.Grant)
	j.work = func(a Actor, _ *Record) (effect, error) {
		target, err := another(a, req.Account, req.Actor)
		if err != nil {
			return effect{}, err
		}
		b, err := s.budgetOf(ctx, target)
		if err != nil {
			return effect{}, err
		}
		if b.all == 0 && len(b.hour) == 0 && len(b.asked) == 0 {
			return effect{}, nobody(a, req.Account, req.Actor)
		}
		b.all, b.hour, b.asked = 0, nil, nil // and the mails of the hour count on: his mailbox is full enough
		return effect{items: []Item{b.swap(s.cfg.Now())}, note: s.note(a, ActionLiftLock, target.Account, "actor:"+target.ID)}, nil
	}
	return s.do(ctx, j)
}
