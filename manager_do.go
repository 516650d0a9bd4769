package apikey

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// do does a job; every management call passes through it. do finds the actor, compares
// the actor's account with the key's, asks Policy and Standing, redeems the grant,
// writes record and event together, and tells this node's Verifiers before it returns.
// No method can forget one of these steps, because only do takes them. Four writes do
// not pass through do, and none of them changes what a key may do: the marks of peppers
// and KEKs (pepper_mark.go, kek_mark.go), the shared Settings (settings_shared.go), the
// event of a refusal (recordDenial) and a value that is sealed again (reveal.go).
func (s session) do(ctx context.Context, j job) error {
	a, err := actorOf(ctx)
	if err != nil {
		return err
	}
	return s.doAs(ctx, a, j)
}

// doAs is do for a known actor. It repeats the attempt after a conflict, and for a job
// that takes power away also while the store cannot be reached.
func (s session) doAs(ctx context.Context, a Actor, j job) error {
	switch {
	case s.closed.Load():
		return notDone(ErrClosed)
	case s.unfit != nil:
		return s.unfit
	}
	if j.aim == toLessen {
		var cancel context.CancelFunc
		if _, bounded := ctx.Deadline(); !bounded {
			ctx, cancel = context.WithTimeout(ctx, lessenTime)
			defer cancel()
		}
	}
	var cause error // error of the attempt before: the last one may only have run out of time
	for unsure, attempt := false, 1; ; attempt++ {
		wrote, err := s.once(ctx, a, j)
		unsure = unsure || wrote && err != nil // it may have been committed
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil, !s.repeatable(j, err), attempt == maxAttempts && j.aim != toLessen:
			if cause != nil && ctx.Err() != nil {
				err = fmt.Errorf("%w, after: %v", err, cause)
			}
			if unsure {
				return err
			}
			return notDone(err)
		case j.aim == toLessen && errors.Is(err, ErrConflict):
			continue // at once
		}
		cause = err
		// The pause grows: on a slow cluster, sixteen callers that change one key would
		// conflict again.
		pause(ctx, time.Duration(2+rand.IntN(24+24*attempt))*time.Millisecond)
	}
}

// repeatable reports whether another attempt at a job may succeed after this error.
func (s session) repeatable(j job, err error) bool {
	switch {
	case s.joined: // in a caller's transaction nothing is repeated
		return false
	case isVersion(err): // the next attempt cannot change the version
		return false
	case errors.Is(err, ErrDenied): // a Policy's own error may wrap anything
		return false
	case errors.Is(err, ErrConflict):
		return true
	}
	return j.aim == toLessen && errors.Is(err, ErrUnavailable)
}

const (
	maxAttempts = 16
	lessenTime  = 5 * time.Second
)

func isVersion(err error) bool {
	_, is := errors.AsType[*VersionError](err)
	return is
}

// once is one attempt of do, on what is stored now. wrote: it has passed a change to the
// store. If err is not nil, the change may have been committed all the same.
func (s session) once(ctx context.Context, a Actor, j job) (wrote bool, err error) {
	start := s.settings.Now()
	on, err := s.admit(ctx, a, j)
	if err != nil {
		return false, err
	}
	r, modes := on.record, j.modesOf(on.about)
	var spent []StoreItem
	if !j.idle(a, r) {
		spent, err = s.redeem(ctx, a, j, modes, r, j.action) // before the work, which may open a secret
		if err != nil {
			return false, err
		}
	}
	e, err := j.work(a, r)
	switch {
	case err != nil || j.aim == toRead || j.aim == toInspect:
		return false, err
	case !e.nothing():
		if e.also != "" && e.also != j.action {
			if err := s.permit(ctx, a, ofKey(e.also, j.key), on.asked); err != nil {
				return false, err
			}
		}
		if beyond := e.beyond(); len(beyond) > 0 {
			if spent, err = s.redeem(ctx, a, j, modes, r, append([]Action{j.action}, beyond...)...); err != nil {
				return false, err
			}
		}
		e.items = append(e.items, spent...)
		err := s.apply(ctx, a, j, e)
		// A conflict of a change with an event shows that the change was not written: see
		// Store.Apply.
		return !errors.Is(err, ErrConflict) || j.unlogged, err
	case r != nil:
		// There is nothing to write, because another node has done it, or an earlier attempt
		// of ours whose answer was lost. This node's Verifiers may not know yet, and after a
		// Revoke that returned nil they have to.
		s.announce(ctx, notice{action: j.action, changes: []StoreChange{{Record: r}}, start: start})
	}
	return false, nil
}

// matter is what one attempt at a job is about.
type matter struct {
	record *StoreRecord // nil: no existing key
	about  Info         // of the record; if there is none, what is known of the key
	asked  []transition
}

// admit loads the key that a job is about, and makes every check that may refuse the
// job, except that of the grant.
func (s session) admit(ctx context.Context, a Actor, j job) (on matter, err error) {
	if err := s.unnamed(a, j); err != nil {
		return on, err
	}
	r, err := s.target(ctx, a, j)
	if err != nil {
		if errors.Is(err, ErrNotFound) { // perhaps another account's key
			s.denied(a, j, err)
		}
		return on, err
	}
	now := s.settings.Now()
	on = matter{record: r, about: Info{Account: accountOf(a, j.account), Mode: j.mode, Kind: j.kind, Name: j.name}}
	if r != nil {
		on.about = s.describeAll(r, now)
	}
	var plan []planned
	var refused error
	if j.plan != nil {
		plan, refused = j.plan(ctx, s, a, r, now)
	}
	on.asked = s.transitions(on.about, plan, now)
	if err := s.permit(ctx, a, j, on.asked); err != nil {
		return on, err
	}
	if j.also != nil {
		if act := j.also(r, now); act != "" {
			if err := s.permit(ctx, a, ofKey(act, j.key), on.asked); err != nil {
				return on, err
			}
		}
	}
	empowers := j.widens && r.State() != Revoked || s.empowers(plan)
	if j.stands || empowers {
		if err := s.stand(a, j, on.about.Account, on.about.Mode); err != nil {
			return on, err
		}
	}
	if empowers {
		if err := s.products(a, j, plan); err != nil {
			return on, err
		}
	}
	if r != nil && (j.aim == toChange || j.aim == toRead) {
		if err := s.believe(r); err != nil {
			return on, err
		}
	}
	if j.ifVersion != 0 && r != nil && r.Version != j.ifVersion {
		return on, &VersionError{Have: r.Version, Want: j.ifVersion}
	}
	if j.refuses != nil {
		return on, allWrong(j.refuses(ctx, s, a, r), refused)
	}
	return on, refused
}

// transition is what a Policy is asked about: see [ChangePolicy].
type transition struct{ before, after Info }

// transitions returns what a Policy is asked about: each key that a plan changes or
// makes. Without a plan it is the subject of the job, which stays as it is.
func (c *core) transitions(about Info, plan []planned, now time.Time) (asked []transition) {
	for _, p := range plan {
		t := transition{after: c.describeAll(p.would, now)}
		if p.is != nil {
			t.before = c.describeAll(p.is, now)
		} else {
			t.before = Info{Account: t.after.Account, Mode: t.after.Mode, Kind: t.after.Kind, Name: t.after.Name}
		}
		asked = append(asked, t)
	}
	if len(asked) == 0 {
		asked = []transition{{about, about}}
	}
	return asked
}

// empowers reports whether an existing key would do more afterwards. Then Standing is
// asked, as for a new key: an account that may not have a new key must not get one by
// bringing an old one back.
func (c *core) empowers(plan []planned) bool {
	return slices.ContainsFunc(plan, func(p planned) bool { return p.is != nil && c.widens(p.is, p.would) })
}

// stand asks Standing, and tells Trace.Denied what it refuses.
func (s session) stand(a Actor, j job, account string, m Mode) error {
	if s.settings.Standing == nil {
		return nil
	}
	if err := s.settings.Standing.Allowed(account, m); err != nil {
		err = joined(ErrStanding, err)
		s.denied(a, j, err)
		return err
	}
	return nil
}

// permit asks Policy, and records what it refuses.
func (s session) permit(ctx context.Context, a Actor, j job, asked []transition) error {
	for _, t := range asked {
		if err := s.authorize(ctx, a, j, t); err != nil {
			err = joined(ErrForbidden, err)
			s.denied(a, j, err)
			s.recordDenial(ctx, a, j, t.before)
			return err
		}
	}
	return nil
}

// denied tells Trace.Denied what was refused. May only asks: a page that leaves a button
// out is no refusal.
func (s session) denied(a Actor, j job, err error) {
	if s.inHand == nil {
		s.settings.Trace.denied(a, j.action, j.key, err)
	}
}

// authorize asks Policy. The holder of a token needs no Policy to end it: holding the
// token is the right to do so.
func (s session) authorize(ctx context.Context, a Actor, j job, t transition) error {
	switch {
	case a.holder && j.action == ActionRevokeToken, j.subject == theActor:
		return nil
	case j.staff && !a.operator:
		return fmt.Errorf("%s is for an Operator", j.action)
	}
	if p, sees := s.cfg.Policy.(ChangePolicy); sees {
		return p.AuthorizeChange(ctx, a, j.action, t.before, t.after)
	}
	return s.cfg.Policy.Authorize(ctx, a, j.action, t.before)
}

// target loads the key that a job is about. It is the one place where accounts are
// compared. That is done before Policy is asked, so that no Policy can let an actor
// reach another account's key. Such a key gets the same answer as one that does not
// exist.
func (s session) target(ctx context.Context, a Actor, j job) (*StoreRecord, error) {
	if a.operator && a.Account != "" && !j.always() {
		return nil, wrong("actor.account", InvalidNotAllowed, "an Operator has no Account and spans all of them: name the account in the request; or make an Actor by hand, who acts for account %s alone", quote(a.Account))
	}
	if j.subject != aKey {
		if !a.operator && j.account != "" && j.account != a.Account {
			return nil, ErrNotFound
		}
		return nil, nil
	}
	r, err := s.stored(ctx, j.key)
	if err != nil {
		var corrupt *CorruptError
		if errors.As(err, &corrupt) && !a.operator && corrupt.Account != a.Account {
			s.settings.Logger.Error("apikey: damaged record", "key", corrupt.Key, "detail", corrupt.Detail)
			return nil, ErrNotFound
		}
		return nil, storeError(err)
	}
	if !a.operator && r.Account != a.Account {
		return nil, ErrNotFound
	}
	return &r, nil
}

// stored reads a key. May has it in hand: then its record is what the Info tells.
func (s session) stored(ctx context.Context, id KeyID) (StoreRecord, error) {
	switch {
	case s.inHand == nil:
		return s.store.Get(ctx, id)
	case id.IsZero():
		return StoreRecord{}, ErrNotFound
	}
	return recordOf(*s.inHand), nil
}

// unnamed refuses a request that does not say whose keys it is about, with everything
// else that is wrong with the request. Nobody is asked anything about no account.
func (s session) unnamed(a Actor, j job) error {
	if j.subject != anAccount || accountOf(a, j.account) != "" || a.operator && a.Account != "" {
		return nil
	}
	checks := []error{wrong("account", InvalidRequired, "an operator has to name the account")}
	if j.wrong != nil {
		checks = append(checks, j.wrong(s, s.settings.Now()))
	}
	return allWrong(checks...)
}

// maxItem is how many bytes of data every store takes in an item. A name has its own
// limit; the data that a program's own factor stores beside it has only this one.
const maxItem = 64 << 10

// apply writes an effect with its events in one Apply, and announces it.
func (s session) apply(ctx context.Context, a Actor, j job, e effect) error {
	start := s.settings.Now()
	a.holder = false // so that OnEvent gets the actor that the log has
	var changes []StoreChange
	var events []Event
	for _, m := range e.made {
		r := m.record
		r.boundTimes()
		ev := Event{
			ID: newEventID(), Time: micros(start), Action: j.action, Outcome: OutcomeDone, Account: r.Account, Mode: r.Mode,
			Key: r.ID, Credential: m.credential, Seq: r.Version + 1, Actor: a,
			Changed: slices.Sorted(slices.Values(m.changed)), Reason: m.reason,
		}
		by := madeBy(s.signing(r))
		if !m.unsigned {
			by.follows(r.MAC)
		}
		stored := s.record(ev, by, r.Head)
		r.Version, r.Head = ev.Seq, stored.Hash
		if !m.unsigned {
			s.sign(r)
		}
		changes = append(changes, StoreChange{ID: ev.ID, Record: r, Event: &stored})
		events = append(events, ev)
	}
	switch {
	case len(changes) > 0:
	case e.note == nil && !j.unlogged:
		return errors.New("apikey: items without an event") // a bug of ours
	case e.note == nil:
		changes = append(changes, StoreChange{ID: newEventID()})
	default:
		ev := *e.note
		ev.Time = micros(start)
		stored := s.record(ev, madeBy(s.minting()), [32]byte{})
		changes = append(changes, StoreChange{ID: ev.ID, Event: &stored})
		events = append(events, ev)
	}
	for _, it := range e.items {
		if len(it.Data) > maxItem {
			return &LimitError{Limit: LimitFactorData, Max: maxItem, text: fmt.Sprintf("an item of kind %s would have %d bytes, at most %d: what a factor keeps of a challenge or an actor has to be smaller", it.Kind, len(it.Data), maxItem)}
		}
	}
	changes[0].Items = e.items
	if err := s.store.Apply(ctx, changes...); err != nil {
		if err = storeError(err); !errors.Is(err, ErrConflict) { // written or not: nobody knows
			s.doubt(changes)
		}
		return err
	}
	s.announce(ctx, notice{j.action, changes, events, start})
	return nil
}
