package apikey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// answeredChallenge is a challenge with an answer to it. If the answer is right, a grant
// is made. It is one of the two implementations of answered, which says what each method
// does; the other is answeredEnrollment.
type answeredChallenge struct {
	session
	id, answer string
	// Set by count.
	charged storedChallenge // the challenge, with this attempt counted
	before  StoreItem       // the enrolment at that time
	// Set by compare.
	open *storedChallenge // the challenge as it is stored; nil: it has ended, or was not read
	kept StoreItem        // the enrolment as it is stored
	next []byte           // what replaces kept; nil: nothing does

	grant Grant // set by right, anew at each try
}

func (c *answeredChallenge) count(ctx context.Context, a Actor, b *budget, now time.Time) ([]StoreItem, error) {
	p, err := c.challengeOf(ctx, a, c.id, now)
	if err != nil {
		return nil, err
	}
	if p.attempts >= wrongAnswers {
		return nil, &ApprovalError{ApprovalSpent, ErrChallenge}
	}
	if c.before, err = c.enrolledItem(ctx, itemEnrolled, a, p.Factor); err != nil {
		return nil, err
	}
	if p.attempts++; p.attempts == wrongAnswers {
		b.closed(p.ID) // the last attempt, whatever its result
	}
	c.charged = p
	return []StoreItem{c.vouch(p.item, p.encode())}, nil
}

func (c *answeredChallenge) compare(ctx context.Context, a Actor, now time.Time) error {
	c.open = nil
	open, err := c.challengeOf(ctx, a, c.id, now)
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
// since it was charged. It is compared with the enrolment of that time. So a right code
// is not called wrong, and it is charged nothing.
func (c *answeredChallenge) compareLate(ctx context.Context, a Actor) error {
	_, err := c.compareWith(ctx, a, c.before)
	return cmp.Or(err, error(&ApprovalError{ApprovalUnknown, ErrChallenge}))
}

// compareWith opens an enrolment, and asks the factor of the challenge.
func (c *answeredChallenge) compareWith(ctx context.Context, a Actor, kept StoreItem) (next []byte, err error) {
	enrolled, err := c.openEnrolled(ctx, kept, a, c.charged.Factor)
	if err != nil {
		return nil, err
	}
	return c.check(ctx, a, c.charged.Challenge, enrolled, c.charged.state, c.answer)
}

func (c *answeredChallenge) right(ctx context.Context, a Actor, b *budget) (e effect, err error) {
	c.grant = newGrant()
	if c.open.approved() {
		e.items, err = c.again(ctx)
	} else {
		e, err = c.first(ctx, a)
	}
	if err == nil && c.next != nil {
		var kept StoreItem
		kept, err = c.sealEnrolled(ctx, a, c.open.Factor, c.kept, c.next)
		e.items = append(e.items, kept)
	}
	if err != nil { // the budget stays as it is: the challenge waits on
		return effect{}, err
	}
	b.closed(c.open.ID)
	return e, nil
}

// first is right for the first time. The two minutes of the grant begin now, because a
// factor may have compared for half a minute.
func (c *answeredChallenge) first(ctx context.Context, a Actor) (effect, error) {
	p, now := *c.open, c.settings.Now()
	counted, err := c.answeredMail(ctx, p, now)
	if err != nil {
		return effect{}, err
	}
	e := effect{items: append(counted, c.give(now.Add(grantTime))...), note: c.note(a, ActionConfirm, p.Account, "factor:"+p.Factor, "approves:"+string(p.Action))}
	e.note.Key, e.note.Mode = p.Key, p.Mode
	return e, nil
}

// again is right for an answer that comes again, because the action failed after the
// first one, or the grant was lost. The grant that was not used is replaced by a new
// one, which ends at the same time: so there is never more than one, and the store needs
// no more than a hash of it. If the grant was used, the action was done.
func (c *answeredChallenge) again(ctx context.Context) ([]StoreItem, error) {
	g, ok, err := c.grantOf(ctx, c.open.grant)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, &ApprovalError{ApprovalUnknown, ErrChallenge}
	case g.used:
		return nil, &ApprovalError{ApprovalUsed, ErrChallenge}
	}
	return append(c.give(g.item.ExpiresAt), g.item.deleted()), nil
}

// give returns the items of the grant and of its challenge, which is answered now. Its
// attempts are those that were wrong.
func (c *answeredChallenge) give(until time.Time) []StoreItem {
	p := *c.open
	grant := c.grantItem(c.grant, p, until)
	p.grant, p.mails, p.item.ExpiresAt = grant.ID, nil, grant.ExpiresAt
	p.attempts--
	return []StoreItem{grant, c.vouch(p.item, p.encode())}
}

// void takes the attempt off the challenge's count again: nothing was compared, or the
// result of a right answer could not be stored.
func (c *answeredChallenge) void(b *budget) []StoreItem {
	if c.open == nil {
		return nil
	}
	p := *c.open
	if p.attempts == wrongAnswers && !p.approved() {
		b.opened(p.Challenge) // this was its last attempt: it waits again
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
	next    []byte    // what the factor stores for the actor from now on
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
	unused, err := c.item(ctx, itemAllowed, enrolledID(a, c.factor)) // a permission ends too, also if it was not used
	if err != nil {
		return effect{}, err // no part of e: after an error nothing is confirmed
	}
	if unused.Version > 0 {
		e.items = append(e.items, unused.deleted())
	}
	return e, nil
}

func (c *answeredEnrollment) void(*budget) []StoreItem { return nil }
