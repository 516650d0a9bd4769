package apikey

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/base62"
)

// Challenge puts a question to the actor of ctx, by the named factor, for the
// request that they are about to make: pass that very request. The action is
// authorised first: who may not do it is not asked to prove anything. Any node
// can take the answer.
//
// If a challenge for the same request by the same factor waits for an answer already,
// Challenge returns that one, and sends nothing: whoever closes a dialog and opens it
// again goes on where they were. [Manager.Resend] sends a new code. At most three
// challenges of an actor wait at a time; a fourth ends the oldest. At most five codes
// an hour are sent to an actor, over all accounts, and twenty to one address, if the
// Sender is an [Addresser]. (After an error of the store a challenge may wait of which
// nobody knows the ID. Where a code belongs to it, that was not sent, and the next call
// puts another.)
//
// Errors: those of the action before its
// grant is looked at; ErrInvalid (the factor does not approve it);
// ErrNotEnrolled; ErrTooManyAttempts (as *[AttemptsError], with the time to
// wait); ErrLocked; ErrConflict; ErrCorrupt (what is kept of the actor's factor does
// not open); ErrUnavailable (also when a code could not be sent: then none counts as
// sent, unless the Sender was given up, by ctx or after 30 s, or panicked: that
// mail may come yet).
func (m *Manager) Challenge(ctx context.Context, factor string, what Guarded) (Challenge, error) {
	return m.challenge(ctx, factor, what, false)
}

// Resend is [Manager.Challenge] for an actor whom no code has reached: it ends the
// challenge that waits for this request by this factor, if one does, and puts a new
// one with a code of its own, which counts among the five of the hour. Errors: those
// of Challenge.
func (m *Manager) Resend(ctx context.Context, factor string, what Guarded) (Challenge, error) {
	return m.challenge(ctx, factor, what, true)
}

func (m *Manager) challenge(ctx context.Context, factor string, what Guarded, anew bool) (Challenge, error) {
	if what == nil {
		return Challenge{}, invalid("Challenge needs the request that is to be approved")
	}
	s, ask := m.own(), what.guarded()
	var tried []question // the last of them is put
	var sending []string // of this call alone, which is what it marks as being sent
	defer func() {
		for _, id := range sending {
			m.sending.Delete(id)
		}
	}()
	j := ask.job
	j.unlogged, j.aim = true, toChange
	j.work = func(a Actor, r *StoreRecord) (effect, error) {
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
		q, e, err := s.question(ctx, a, r, b, factor, &ask, anew)
		if err != nil {
			return effect{}, err
		}
		if tried = append(tried, q); q.send != nil {
			m.sending.Store(q.ID, nil)
			sending = append(sending, q.ID)
		}
		return e, nil
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
	s.markSent(ctx, q.ID)
	return q.Challenge, nil
}

// question is a challenge, and what sends its code, nil if nothing has to be sent.
type question struct {
	put
	send func(context.Context) error
}

// question is the challenge that waits for this request and factor already; or, where
// none waits or it is asked anew, another, with the items that keep it and count it.
func (s session) question(ctx context.Context, a Actor, r *StoreRecord, b *budget, factor string, ask *approval, anew bool) (question, effect, error) {
	now := s.cfg.Now()
	about := Info{Account: accountOf(a, ask.job.account), Mode: ask.job.mode, Name: ask.job.name}
	if r != nil {
		about = Info{Account: r.Account, Mode: r.Mode, Name: r.Name}
	}
	p := put{actor: a, bound: binding(a, about.Account, ask, about.Mode, r), Challenge: Challenge{
		Factor: factor, Action: ask.job.action, Key: ask.job.key,
		Account: about.Account, Mode: about.Mode, Name: about.Name, ExpiresAt: micros(now.Add(challengeTime)),
	}}
	may, err := s.approving(ctx, a, ask, ask.job.modesOf(about), factor)
	if err == nil {
		err = b.allowed(now)
	}
	if err != nil {
		return question{}, effect{}, err
	}
	if p.Changes = ask.says; ask.job.plan != nil {
		plan, err := ask.job.plan(ctx, s, a, r, now)
		if err == nil && ask.job.first != nil {
			err = ask.job.first(ctx, s, a, r) // it may leave out a part of the plan
		}
		if err != nil {
			return question{}, effect{}, err
		}
		p.Changes = append(s.changesOf(ask.job.left(plan)), p.Changes...)
	}
	waiting, err := s.waiting(ctx, b, p, now)
	if err != nil || waiting.ID != "" && !anew {
		return question{put: waiting}, effect{}, err
	}
	p.ID = string(base62.AppendRandom(nil, challengeIDLen))
	q, err := s.begun(ctx, p, ask, may)
	if err != nil {
		return question{}, effect{}, err
	}
	items, err := s.endOthers(ctx, b, waiting.ID)
	if err == nil && q.send != nil {
		var counted []StoreItem
		counted, err = s.countMail(ctx, &q.put, now)
		items = append(items, counted...)
	}
	if err != nil {
		return question{}, effect{}, err
	}
	b.opened(q.Challenge)
	q.item = StoreItem{Kind: itemChallenge, ID: q.ID, ExpiresAt: q.ExpiresAt}
	return q, effect{items: append(items, s.vouch(q.item, q.encode()), b.swap(now))}, nil
}

// approving are the factors that approve a request. It refuses one that is not
// guarded, and a factor that is not among them.
func (s session) approving(ctx context.Context, a Actor, ask *approval, modes []Mode, factor string) (may []string, err error) {
	stepUp, err := s.factorsFor(ctx, a, ask.job)
	if err != nil {
		return nil, err
	}
	for _, action := range append([]Action{ask.job.action}, ask.others...) {
		approve, _ := inCommon(stepUp, modes, []Action{action})
		may = append(may, approve...)
	}
	switch {
	case len(may) == 0 || ask.free:
		return nil, invalid("this %s is not guarded: make the request", ask.job.action)
	case !slices.Contains(may, factor):
		usable, _, err := s.usable(ctx, a, may)
		if err != nil {
			return nil, err
		}
		return nil, invalid("factor %s does not approve %s; these do: %v", quote(factor), ask.job.action, usable)
	}
	return may, nil
}

// waiting is the challenge that waits for an answer to the same request by the same
// factor: the zero put if none does. A message that has not gone out, because the
// process died or its answer was lost, is not waited for.
func (s session) waiting(ctx context.Context, b *budget, like put, now time.Time) (put, error) {
	for _, t := range b.asked {
		p, err := s.putTo(ctx, like.actor, t.id, now)
		switch {
		case errors.Is(err, ErrChallenge): // it cannot be answered
		case err != nil:
			return put{}, err
		case p.Factor == like.Factor && string(p.bound) == string(like.bound) && (p.sent || s.isSending(p.ID)):
			p.Changes = like.Changes // of the same request
			return p, nil
		}
	}
	return put{}, nil
}

// isSending reports whether a message is on its way from this process, for another
// request: a second click must not send a second message.
func (m *Manager) isSending(challenge string) bool {
	_, ok := m.sending.Load(challenge)
	return ok
}

// begun asks the factor for what it keeps of a challenge and for what sends its code.
func (s session) begun(ctx context.Context, p put, ask *approval, may []string) (question, error) {
	q := question{put: p}
	enrolled, _, err := s.enrolled(ctx, itemEnrolled, p.actor, p.Factor)
	if err != nil {
		return q, err
	}
	q.state, q.send, err = s.cfg.Factors[p.Factor].Begin(ctx, p.actor, p.Challenge, enrolled)
	switch {
	case err == nil:
		return q, nil
	case !errors.Is(err, ErrNotEnrolled):
		return q, unavailable(err)
	}
	way, err := s.ask(ctx, p.actor, ask.job, ask.job.action, may)
	if err != nil {
		return q, err
	}
	return q, fmt.Errorf("%w: %s", ErrNotEnrolled, way.way())
}

// endOthers ends the challenge that is replaced, if one is named, and the oldest where
// no more may wait. Nobody is refused a challenge because they have closed others.
func (s session) endOthers(ctx context.Context, b *budget, replaced string) (items []StoreItem, err error) {
	end := func(id string) error {
		b.closed(id)
		it, err := s.item(ctx, itemChallenge, id)
		if err == nil && it.Version > 0 {
			items = append(items, it.gone())
		}
		return err
	}
	if replaced != "" {
		err = end(replaced)
	}
	for oldest, full := b.oldest(); err == nil && full; oldest, full = b.oldest() {
		err = end(oldest)
	}
	return items, err
}

// markSent notes that a challenge's message went out: from now on the challenge is
// the answer to the same request. If that fails, the next such request is another.
func (s session) markSent(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	defer cancel()
	err := s.swapping(ctx, func(a Actor, _ *StoreRecord) (effect, error) {
		p, err := s.putTo(ctx, a, id, s.cfg.Now())
		if errors.Is(err, ErrChallenge) || err == nil && p.sent { // answered or ended meanwhile
			return effect{}, nil
		}
		if err != nil {
			return effect{}, err
		}
		p.sent = true
		return effect{items: []StoreItem{s.vouch(p.item, p.encode())}}, nil
	})
	if err != nil {
		s.cfg.Logger.Warn("apikey: nobody will know that a code was sent; the same request sends another", "error", err)
	}
}

// withdraw takes a challenge back whose code was not sent, and its mail off those
// that count unless it may come yet. If that fails too the challenge expires by
// itself.
func (s session) withdraw(ctx context.Context, p put, mayCome bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	defer cancel()
	err := s.swapping(ctx, func(a Actor, _ *StoreRecord) (effect, error) {
		it, err := s.item(ctx, itemChallenge, p.ID)
		if err != nil || it.Version == 0 {
			return effect{}, err
		}
		b, err := s.budgetOf(ctx, a)
		if err != nil {
			return effect{}, err
		}
		b.closed(p.ID)
		now := s.cfg.Now()
		items := []StoreItem{it.gone(), b.swap(now)}
		if !mayCome {
			uncounted, err := s.uncountMail(ctx, p, now)
			if err != nil {
				return effect{}, err
			}
			items = append(items, uncounted...)
		}
		return effect{items: items}, nil
	})
	if err != nil {
		s.cfg.Logger.Warn("apikey: a challenge that was not sent could not be withdrawn", "error", err)
	}
}
