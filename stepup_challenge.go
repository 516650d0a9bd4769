package apikey

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/base62"
	"github.com/go-apikey/apikey/internal/canon"
)

// Challenge asks the actor of ctx, by the named factor, to approve the request that
// they are about to make: pass that very request. The action is authorised first: an
// actor who may not do it is not asked to prove anything. Any node can take the answer.
//
// If a challenge for the same request by the same factor waits for an answer already,
// Challenge returns that one, and sends nothing: a person who closes a dialog and opens
// it again goes on where they were. [Manager.Resend] sends a new code. At most three
// challenges of an actor wait at a time; a fourth ends the oldest.
//
// At most five codes an hour are sent to an actor, over all accounts; one that was
// answered rightly no longer counts among the five, but among the twenty that an actor
// gets at most. One address gets twenty too, if the Sender is an [Addresser].
//
// After an error of the store, a challenge may be stored whose ID nobody knows. Its code
// was not sent, and the next call makes another challenge.
//
// Errors: those that the action returns before it looks at its grant, and:
//   - ErrInvalid: also when the factor does not approve the action; then the field is
//     "approval.factor"
//   - ErrCorrupt: also when the data that the factor stores for the actor do not open
//   - ErrUnavailable: also when a code could not be sent. Then it does not count as
//     sent, unless the Sender was given up (ctx ended, or 30 s passed) or panicked:
//     that mail may come yet
//   - ErrTooManyAttempts (as *[AttemptsError], with the time to wait), ErrLocked
//   - ErrNotEnrolled, ErrConflict
func (m *Manager) Challenge(ctx context.Context, factor string, what Guarded) (Challenge, error) {
	return m.challenge(ctx, factor, what, false)
}

// Resend is [Manager.Challenge] for an actor who has received no code. It ends the
// challenge that waits for this request by this factor, if there is one, and makes a
// new one. Its new code counts among the five of the hour. Errors: those of Challenge.
func (m *Manager) Resend(ctx context.Context, factor string, what Guarded) (Challenge, error) {
	return m.challenge(ctx, factor, what, true)
}

func (m *Manager) challenge(ctx context.Context, factor string, what Guarded, anew bool) (Challenge, error) {
	if what == nil {
		return Challenge{}, allWrong(wrong("request", InvalidRequired, "Challenge needs the request that is to be approved"), m.unknownFactor(factor))
	}
	c := challengeCall{session: m.own(), factor: factor, ask: what.guarded(), anew: anew}
	defer c.forget()
	// A challenge that was stored although its call failed has no effect: nobody knows its ID.
	if err := c.putQuestion(ctx); err != nil {
		c.giveUp(ctx, err)
		return Challenge{}, notDone(err)
	}
	if err := c.sendCode(ctx); err != nil {
		return Challenge{}, notDone(err)
	}
	return c.question.Challenge, nil
}

// challengeCall is one call of Challenge or Resend. Its steps:
//
//	putQuestion  finds the challenge that waits for the same request, and writes nothing;
//	             or stores a new one, in one Apply (begin). Resend always stores one.
//	sendCode     sends the code of a new challenge, after the Apply. If that works, the
//	             challenge is marked as sent, and the same request finds it from now
//	             on. If it fails, the challenge is withdrawn.
type challengeCall struct {
	session
	factor   string
	ask      approval
	anew     bool       // Resend: a challenge that waits is not reused
	compared bool       // the factor was compared with those that approve the request
	question question   // set by putQuestion: what the actor is asked
	tried    []question // what begin has made, once for each try of the Apply
}

// question is a challenge, and the function that sends its code; nil: there is none.
type question struct {
	storedChallenge
	send func(context.Context) error
}

// putQuestion finds the question of the call, or stores a new one.
func (c *challengeCall) putQuestion(ctx context.Context) error {
	j := c.ask.job
	j.unlogged, j.aim = true, toChange
	j.work = func(a Actor, r *StoreRecord) (effect, error) { return c.find(ctx, a, r) }
	err := c.do(ctx, j)
	if len(InvalidFields(err)) > 0 && !c.compared { // a wrong request ends before its factors are looked up
		err = allWrong(err, c.unknownFactor(c.factor))
	}
	return err
}

// unknownFactor refuses the name of a factor that is not configured.
func (m *Manager) unknownFactor(factor string) error {
	if m.cfg.Factors[factor] == nil {
		return wrong(approvalFactor, InvalidUnknown, "factor %s is not one of ManagerConfig.Factors", quote(factor)).part(factor)
	}
	return nil
}

// find is the work of putQuestion. After a conflict it runs again, on what is stored
// then.
func (c *challengeCall) find(ctx context.Context, a Actor, r *StoreRecord) (effect, error) {
	b, err := c.budgetOf(ctx, a)
	if err != nil {
		return effect{}, err
	}
	// A COMMIT whose answer was lost has stored this challenge. Another would take a
	// second place of the three, and nobody would know the ID of the first.
	if i := slices.IndexFunc(c.tried, func(q question) bool { return b.waits(q.ID) }); i >= 0 {
		c.question = c.tried[i]
		return effect{}, nil
	}
	now := c.settings.Now()
	p, factors, err := c.requested(ctx, a, r, b, now)
	if err != nil {
		return effect{}, err
	}
	waiting, err := c.waiting(ctx, b, p, now)
	if err != nil {
		return effect{}, err
	}
	if waiting.ID != "" && !c.anew {
		c.question = question{storedChallenge: waiting}
		return effect{}, nil
	}
	return c.begin(ctx, p, factors, b, waiting.ID, now)
}

// requested returns a challenge for the request, without an ID, and the factors that
// approve it. It refuses a request for which a challenge is of no use.
func (c *challengeCall) requested(ctx context.Context, a Actor, r *StoreRecord, b *budget, now time.Time) (p storedChallenge, factors []string, err error) {
	j := c.ask.job
	about := Info{Account: accountOf(a, j.account), Mode: j.mode, Name: j.name}
	if r != nil {
		about = Info{Account: r.Account, Mode: r.Mode, Name: r.Name}
	}
	c.compared = true
	factors, err = c.approving(ctx, a, &c.ask, j.modesOf(about), c.factor)
	if err == nil {
		err = b.allowed(now)
	}
	if err != nil {
		return storedChallenge{}, nil, err
	}
	p = storedChallenge{actor: a, bound: binding(a, about.Account, &c.ask, about.Mode, r), Challenge: Challenge{
		Factor: c.factor, Action: j.action, Key: j.key,
		Account: about.Account, Mode: about.Mode, Name: about.Name, ExpiresAt: micros(now.Add(challengeTime)),
	}}
	if p.Changes = c.ask.says; j.plan == nil {
		return p, factors, nil
	}
	plan, err := j.plan(ctx, c.session, a, r, now)
	if err == nil && j.refuses != nil {
		err = j.refuses(ctx, c.session, a, r) // refuses may leave out a part of the plan
	}
	if err != nil {
		return storedChallenge{}, nil, err
	}
	p.Changes = append(c.changesOf(j.left(plan)), p.Changes...)
	return p, factors, nil
}

// begin makes a question of p, and returns the items that store and count it. They also
// end the challenge that is replaced, if one is named.
func (c *challengeCall) begin(ctx context.Context, p storedChallenge, factors []string, b *budget, replaced string, now time.Time) (effect, error) {
	p.ID = string(base62.AppendRandom(nil, challengeIDLen))
	q, err := c.askFactor(ctx, p, factors)
	if err != nil {
		return effect{}, err
	}
	items, err := c.endOthers(ctx, b, replaced)
	if err == nil && q.send != nil {
		var counted []StoreItem
		counted, err = c.countMail(ctx, &q.storedChallenge, now)
		items = append(items, counted...)
	}
	if err != nil {
		return effect{}, err
	}
	b.opened(q.Challenge)
	q.item = StoreItem{Kind: itemChallenge, ID: q.ID, ExpiresAt: q.ExpiresAt}
	c.question, c.tried = q, append(c.tried, q)
	if q.send != nil {
		c.sending.Store(q.ID, nil)
	}
	return effect{items: append(items, c.vouch(q.item, q.encode()), b.swap(now))}, nil
}

// sendCode sends the code of the question, if one has to be sent.
func (c *challengeCall) sendCode(ctx context.Context) error {
	q := c.question
	if q.send == nil {
		return nil
	}
	_, err := bounded(ctx, sendTime, func(ctx context.Context) (struct{}, error) { return struct{}{}, q.send(ctx) })
	if err == nil {
		c.markSent(ctx, q.ID)
		return nil
	}
	// A Sender that was given up may send the code after all, and one that panicked may
	// have sent it: such a mail counts. Otherwise a client could flood the mailbox by
	// hanging up.
	given := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	c.withdraw(ctx, q.storedChallenge, given || errors.Is(err, errPanicked))
	return fmt.Errorf("%w: the code could not be sent: %w", ErrUnavailable, err)
}

// giveUp withdraws what begin may have stored before the store failed: nobody gets the ID
// of such a challenge, and its code was never sent. Otherwise an outage would use up the
// five codes of the hour.
func (c *challengeCall) giveUp(ctx context.Context, err error) {
	if ctx.Err() != nil || !errors.Is(err, ErrUnavailable) { // a refusal has stored nothing
		return
	}
	for _, q := range c.tried {
		c.withdraw(ctx, q.storedChallenge, false)
	}
}

// forget removes the note of begin that this call sends codes.
func (c *challengeCall) forget() {
	for _, q := range c.tried {
		if q.send != nil {
			c.sending.Delete(q.ID)
		}
	}
}

// waiting returns the challenge that waits for an answer to the same request by the
// same factor; the zero value: there is none. A challenge does not count if its message
// has not gone out, because the process crashed or the store's answer was lost.
func (s session) waiting(ctx context.Context, b *budget, like storedChallenge, now time.Time) (storedChallenge, error) {
	for _, t := range b.waiting {
		p, err := s.challengeOf(ctx, like.actor, t.id, now)
		switch {
		case errors.Is(err, ErrChallenge): // it cannot be answered
		case err != nil:
			return storedChallenge{}, err
		case p.Factor == like.Factor && p.bound == like.bound && (p.sent || s.isSending(p.ID)):
			p.Changes = like.Changes // of the same request
			return p, nil
		}
	}
	return storedChallenge{}, nil
}

// askFactor asks the factor for a challenge's state and the function that sends its
// code.
func (c *challengeCall) askFactor(ctx context.Context, p storedChallenge, factors []string) (question, error) {
	q := question{storedChallenge: p}
	enrolled, _, err := c.enrolled(ctx, itemEnrolled, p.actor, p.Factor)
	if err != nil {
		return q, err
	}
	q.state, q.send, err = c.cfg.Factors[p.Factor].Begin(ctx, p.actor, p.Challenge, enrolled)
	switch {
	case err == nil:
		return q, nil
	case !errors.Is(err, ErrNotEnrolled):
		return q, unavailable(err)
	}
	way, err := c.wayFor(ctx, p.actor, c.ask.job, c.ask.job.action, factors)
	if err != nil {
		return q, err
	}
	return q, fmt.Errorf("%w: %s", ErrNotEnrolled, way.way())
}

// endOthers ends the challenge that is replaced, if one is named, and the oldest ones
// until another may wait: nobody is refused a challenge because they left others
// unanswered.
func (s session) endOthers(ctx context.Context, b *budget, replaced string) (items []StoreItem, err error) {
	end := func(id string) error {
		b.closed(id)
		it, err := s.item(ctx, itemChallenge, id)
		if err == nil && it.Version > 0 {
			items = append(items, it.deleted())
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

// itemChallenge is the kind of the items that keep challenges.
const itemChallenge StoreItemKind = "challenge"

// storedChallenge is a challenge as it is stored. It waits for an answer until another
// challenge or the failure of its Sender deletes it. A right answer gives it the two
// minutes of its grant, in which the same answer may come again: see
// answeredChallenge.again. After wrongAnswers attempts it stays until it expires, and
// takes no more answers.
type storedChallenge struct {
	Challenge
	actor    Actor // ID, Account and operator alone
	bound    bound // what its grant will be bound to
	state    []byte
	attempts uint64
	mails    []string // items in which its message counts; none: it sends nothing, or it is approved
	sent     bool     // its message went out
	grant    string   // ID of the grant's item; "": no right answer has come
	item     StoreItem
}

// approved reports whether a right answer has come.
func (p *storedChallenge) approved() bool { return p.grant != "" }

func (p *storedChallenge) encode() []byte {
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
	p.bound.write(&c)
	c.Bytes(p.state)
	c.Uint(p.attempts)
	c.Bool(p.sent)
	c.Texts(p.mails)
	c.Text(p.grant)
	return c.Encoded()
}

func decodeChallenge(it StoreItem, data []byte) (p storedChallenge, ok bool) {
	u := canon.NewReader(data)
	p.ID, p.ExpiresAt, p.item = it.ID, it.ExpiresAt, it
	p.actor = Actor{ID: u.Text(), Account: u.Text(), operator: u.Uint() == 1}
	p.Factor, p.Action = u.Text(), Action(u.Text())
	copy(p.Key[:], u.Text())
	p.Account, p.Mode, p.Name = u.Text(), Mode(u.Uint()), u.Text()
	p.bound, p.state = readBound(&u), []byte(u.Text())
	p.attempts = u.Uint()
	p.sent, p.mails = u.Uint() == 1, u.Texts()
	p.grant = u.Text()
	return p, u.Complete()
}

// challengeOf finds a challenge of this actor. The actor is told if it has expired.
// Everything else that is wrong with it looks as if there were none.
func (s session) challengeOf(ctx context.Context, a Actor, id string, now time.Time) (storedChallenge, error) {
	// Only a text in the form of an ID is looked up: a password that somebody typed into
	// the wrong field must not get into the log of a database's queries.
	if len(id) != challengeIDLen || !base62.Valid(id) {
		return storedChallenge{}, &ApprovalError{ApprovalUnknown, ErrChallenge}
	}
	it, err := s.item(ctx, itemChallenge, id)
	if err != nil {
		return storedChallenge{}, err
	}
	data, genuine := s.vouched(it)
	p, whole := decodeChallenge(it, data)
	same := p.actor.ID == a.ID && p.actor.Account == a.Account && p.actor.operator == a.operator
	switch {
	case !genuine || !whole || !same || s.cfg.Factors[p.Factor] == nil:
		return storedChallenge{}, &ApprovalError{ApprovalUnknown, ErrChallenge}
	case !now.Before(it.ExpiresAt):
		return storedChallenge{}, &ApprovalError{ApprovalExpired, ErrChallenge}
	}
	return p, nil
}
