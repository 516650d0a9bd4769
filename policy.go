package apikey

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Actor is who performs a management action. The program authenticates people;
// it says here who it is, and the library records it. An Actor travels in the
// context.
type Actor struct {
	ID      string // required: unique within the program, at most 255 bytes
	Account string // required: the merchant he acts for
	Role    string // what RolePolicy looks at
	// For the log alone. The first 512 bytes are kept, and what is not UTF-8 is
	// replaced.
	Addr      string
	UserAgent string
	RequestID string

	// Not exported, so that no decoder of somebody's JSON can set them.
	operator bool
	holder   bool // of a token, ending it
}

// Operator is an actor of the program's own staff or of the program itself:
// the only one who spans accounts. Give it to nobody whom a merchant hired.
func Operator(id string) Actor { return Actor{ID: id, Role: "operator", operator: true} }

// IsOperator reports whether [Operator] made this actor.
func (a Actor) IsOperator() bool { return a.operator }

type actorContext struct{}

// WithActor returns a context whose management calls are made by a.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorContext{}, a)
}

// actorOf finds the actor. An ID and an account are required: an action by
// nobody, or for nobody, is a forgotten WithActor.
func actorOf(ctx context.Context) (Actor, error) {
	a, ok := ctx.Value(actorContext{}).(Actor)
	switch {
	case !ok:
		return Actor{}, ErrNoActor
	case a.ID == "":
		return Actor{}, fmt.Errorf("%w: the one that is there has no ID", ErrNoActor)
	case a.Account == "" && !a.operator:
		return Actor{}, fmt.Errorf("%w: the one that is there has no Account, and only apikey.Operator spans accounts", ErrNoActor)
	}
	for _, text := range []string{a.ID, a.Account, a.Role} {
		if len(text) > 255 || !storable(text) {
			return Actor{}, invalid("an actor's ID, account and role are valid UTF-8 without NUL, at most 255 bytes each")
		}
	}
	// These come from a request's headers. They are for the log, and whatever a
	// client writes into them must not stop a revocation.
	a.Addr, a.UserAgent, a.RequestID = loggable(a.Addr), loggable(a.UserAgent), loggable(a.RequestID)
	return a, nil
}

// loggable makes any text storable, and short.
func loggable(s string) string {
	s = strings.ReplaceAll(s[:min(len(s), 512)], "\x00", "\uFFFD")
	return strings.ToValidUTF8(s, "\uFFFD")
}

// Action names what a management call does, in events, policies and step-up.
type Action string

// The actions of this version.
const (
	ActionIssue          Action = "key.issue"
	ActionProvision      Action = "key.provision"
	ActionRead           Action = "key.read"
	ActionUpdate         Action = "key.update"
	ActionSuspend        Action = "key.suspend"
	ActionResume         Action = "key.resume"
	ActionRevoke         Action = "key.revoke"
	ActionRevokeToken    Action = "key.revoke_token"
	ActionRotate         Action = "key.rotate"
	ActionCancelRotation Action = "key.cancel_rotation"
	ActionRetire         Action = "key.retire"
	ActionRemac          Action = "key.remac"
	ActionReadEvents     Action = "event.read"
	ActionPepper         Action = "pepper.introduce"
)

// Reason says why a key was revoked: one of the constants, or text of the
// program's own, at most 200 bytes. Empty means ReasonRequested.
type Reason string

// Reasons. Revoking as compromised can never be guarded by a factor.
const (
	ReasonRequested   Reason = "requested"
	ReasonCompromised Reason = "compromised"
	ReasonUnused      Reason = "unused"
	ReasonSuperseded  Reason = "superseded"
)

// A Policy decides whether an actor may perform an action. It is asked after
// the account was compared and cannot widen that. For actions that are about no
// single key, k has only what is known (Account, Mode, Kind, Name): of a list
// or the activity log that is what the request selects by, so that a policy
// which lets somebody see only one mode refuses a list without one. Any error
// is a refusal; callers get it wrapped in ErrForbidden.
type Policy interface {
	Authorize(ctx context.Context, a Actor, act Action, k Info) error
}

// RolePolicy lets the listed roles do everything and others nothing. Operators
// may always. The zero RolePolicy lists "superadmin" and "admin".
type RolePolicy struct{ Roles []string }

// Authorize implements [Policy].
func (p RolePolicy) Authorize(_ context.Context, a Actor, act Action, _ Info) error {
	roles := p.Roles
	if roles == nil {
		roles = []string{"superadmin", "admin"}
	}
	if a.operator || slices.Contains(roles, a.Role) {
		return nil
	}
	return fmt.Errorf("role %s may not do %s; allowed roles: %v", quote(a.Role), act, roles)
}

// Standing says whether an account may use the API in a mode: onboarding
// finished, invoices paid, not blocked. It is asked at every verification, so
// it answers from memory, and when a key is issued. Any error is a refusal;
// callers get it wrapped in ErrStanding.
type Standing interface {
	Allowed(account string, m Mode) error
}

// Limits bound what a merchant can store. A zero field is its default.
type Limits struct {
	NameBytes     int // 200
	MetadataPairs int // 50
	MetadataName  int // bytes of a name: 40
	MetadataValue int // bytes of a value: 500
	Abilities     int // 64
	Networks      int // 64
	Origins       int // 16
	// LiveKeys of an account and mode: not revoked, not suspended, not expired.
	LiveKeys int // 50
	// Overlap of an old token with a new one.
	Overlap time.Duration // 7 days
}

func (l Limits) withDefaults() Limits {
	return Limits{
		NameBytes: or(l.NameBytes, 200), MetadataPairs: or(l.MetadataPairs, 50),
		MetadataName: or(l.MetadataName, 40), MetadataValue: or(l.MetadataValue, 500),
		Abilities: or(l.Abilities, 64), Networks: or(l.Networks, 64),
		Origins: or(l.Origins, 16), LiveKeys: or(l.LiveKeys, 50),
		Overlap: or(l.Overlap, 7*24*time.Hour),
	}
}

func (l Limits) negative() bool {
	return min(l.NameBytes, l.MetadataPairs, l.MetadataName, l.MetadataValue, l.Abilities, l.Networks, l.Origins, l.LiveKeys, int(l.Overlap)) < 0
}

// storable reports whether every engine can keep s byte for byte.
func storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// job is what one management call wants done to one key, or to an account.
type job struct {
	action Action
	key    KeyID
	// wide: about no existing key, but about account (empty: the actor's own).
	// A job that does not say so is about key, and the zero key does not exist.
	wide    bool
	account string
	mode    Mode
	kind    Kind
	name    string

	reads   bool // changes nothing
	spans   bool // wide: an operator may leave the account empty: every account
	staff   bool // for operators alone, whatever Policy says
	stands  bool // asks Standing
	damaged bool // goes on although the record cannot be believed
	// lessens: only takes power away. It is applied to the newest record, again
	// and at once, until it commits or its time ends: nothing that adds power
	// may outrun it.
	lessens   bool
	ifVersion uint64
	// work says what is to be done. r is a private copy, nil if the job is about
	// no key. It may run several times, each time on what is stored then.
	work func(a Actor, r *Record) (effect, error)
}

// effect is what a job's work asks to be written; the zero effect is nothing.
type effect struct {
	made  []made
	items []Item
	note  *Event // an event outside every chain
	also  Action // what the work turned out to be, besides; the policy is asked about it too
}

// made is one record to be written, and what its event says.
type made struct {
	record     *Record
	credential CredentialID
	changed    []string
	reason     Reason
	// unsigned keeps the MAC that does not hold: a new one would launder a record
	// that was tampered with.
	unsigned bool
}

// do is passed by every management call, and by nothing else. It finds the
// actor, compares his account with the key's, asks Policy, asks Standing,
// writes record and event together, and tells this node's Verifiers before it
// returns. No method can forget one of these, because no method does any.
func (s session) do(ctx context.Context, j job) error {
	a, err := actorOf(ctx)
	if err != nil {
		return err
	}
	return s.doAs(ctx, a, j)
}

func (s session) doAs(ctx context.Context, a Actor, j job) error {
	if s.closed.Load() {
		return ErrClosed
	}
	if j.lessens {
		var cancel context.CancelFunc
		if _, bounded := ctx.Deadline(); !bounded {
			ctx, cancel = context.WithTimeout(ctx, lessenTime)
			defer cancel()
		}
	}
	for attempt := 1; ; attempt++ {
		err := s.once(ctx, a, j)
		conflict, down := errors.Is(err, ErrConflict), errors.Is(err, ErrUnavailable)
		switch {
		case err == nil || s.joined || ctx.Err() != nil || j.ifVersion != 0 && conflict,
			errors.Is(err, ErrDenied), // a policy's own error may wrap anything
			!conflict && !(down && j.lessens),
			attempt == maxAttempts && !j.lessens:
			return err
		case j.lessens && conflict: // at once
		default:
			pause(ctx, time.Duration(2+rand.IntN(48))*time.Millisecond)
		}
	}
}

const (
	maxAttempts = 10
	lessenTime  = 5 * time.Second
)

// once is one attempt of do, on what is stored now.
func (s session) once(ctx context.Context, a Actor, j job) error {
	start := s.cfg.Now()
	r, err := s.target(ctx, a, j)
	if err != nil {
		if errors.Is(err, ErrNotFound) { // perhaps somebody else's
			s.cfg.Trace.denied(a, j.action, j.key, err)
		}
		return err
	}
	about := Info{Account: accountOf(a, j.account), Mode: j.mode, Kind: j.kind, Name: j.name}
	if r != nil {
		about = s.describeAll(r, s.cfg.Now())
	}
	if err := s.permit(ctx, a, j, about); err != nil {
		return err
	}
	if j.stands && s.cfg.Standing != nil {
		if err := s.cfg.Standing.Allowed(about.Account, about.Mode); err != nil {
			s.cfg.Trace.denied(a, j.action, j.key, err)
			return joined(ErrStanding, err)
		}
	}
	if r != nil && !j.damaged && !j.lessens {
		if err := s.believe(r); err != nil {
			return err
		}
	}
	if j.ifVersion != 0 && r != nil && r.Version != j.ifVersion {
		return fmt.Errorf("%w: the key is at version %d, not %d", ErrConflict, r.Version, j.ifVersion)
	}
	e, err := j.work(a, r)
	switch {
	case err != nil || j.reads:
		return err
	case !e.nothing():
		if e.also != "" && e.also != j.action {
			if err := s.permit(ctx, a, job{action: e.also, key: j.key}, about); err != nil {
				return err
			}
		}
		return s.apply(ctx, a, j.action, e)
	case r != nil:
		// What was asked for is so already, because another node did it, or an
		// earlier attempt of ours whose answer was lost. This node's Verifiers may
		// not know yet, and after a Revoke that returned nil they have to.
		s.announce(ctx, notice{changes: []Change{{Record: r}}, start: start})
	}
	return nil
}

// permit asks Policy, and records what it refuses.
func (s session) permit(ctx context.Context, a Actor, j job, about Info) error {
	err := s.authorize(ctx, a, j, about)
	if err == nil {
		return nil
	}
	s.cfg.Trace.denied(a, j.action, j.key, err)
	s.recordDenial(ctx, a, j, about)
	return joined(ErrForbidden, err)
}

// authorize asks Policy. A token's holder may end it: having it is the right.
func (s session) authorize(ctx context.Context, a Actor, j job, about Info) error {
	switch {
	case a.holder && j.action == ActionRevokeToken:
		return nil
	case j.staff && !a.operator:
		return fmt.Errorf("%s is for an Operator", j.action)
	}
	return s.cfg.Policy.Authorize(ctx, a, j.action, about)
}

func (e effect) nothing() bool { return len(e.made) == 0 && len(e.items) == 0 && e.note == nil }

// target loads the key that a job is about, and is the one place where accounts
// are compared: before Policy is asked, so that no Policy can widen it, and with
// one answer for a foreign key and one that does not exist.
func (s session) target(ctx context.Context, a Actor, j job) (*Record, error) {
	if j.wide {
		switch {
		case !a.operator && j.account != "" && j.account != a.Account:
			return nil, ErrNotFound
		case accountOf(a, j.account) == "" && !j.spans:
			return nil, invalid("an operator has to name the account")
		}
		return nil, nil
	}
	r, err := s.store.Get(ctx, j.key)
	if err != nil {
		var corrupt *CorruptError
		if errors.As(err, &corrupt) && !a.operator && corrupt.Account != a.Account {
			s.cfg.Logger.Error("apikey: damaged record", "key", corrupt.Key, "detail", corrupt.Detail)
			return nil, ErrNotFound
		}
		return nil, storeError(err)
	}
	if !a.operator && r.Account != a.Account {
		return nil, ErrNotFound
	}
	return &r, nil
}

// accountOf is the account that a request without a key is about.
func accountOf(a Actor, named string) string {
	if named != "" || a.operator {
		return named
	}
	return a.Account
}

// apply writes an effect with its events in one Apply, and makes it known.
func (s session) apply(ctx context.Context, a Actor, action Action, e effect) error {
	start := s.cfg.Now()
	a.holder = false // OnEvent is told what the log says
	var changes []Change
	var events []Event
	for _, m := range e.made {
		r := m.record
		ev := Event{
			ID: newEventID(), Time: micros(start), Action: action, Outcome: Done, Account: r.Account, Mode: r.Mode,
			Key: r.ID, Credential: m.credential, Seq: r.Version + 1, Actor: a,
			Changed: slices.Sorted(slices.Values(m.changed)), Reason: m.reason,
		}
		stored := s.record(ev, r.Head)
		r.Version, r.Head = ev.Seq, stored.Hash
		if !m.unsigned {
			s.sign(r)
		}
		changes = append(changes, Change{ID: ev.ID, Record: r, Event: &stored})
		events = append(events, ev)
	}
	if len(changes) == 0 {
		if e.note == nil {
			return errors.New("apikey: items without an event") // a bug of ours: nothing is written unseen
		}
		ev := *e.note
		ev.Time = micros(start)
		stored := s.record(ev, [32]byte{})
		changes = append(changes, Change{ID: ev.ID, Event: &stored})
		events = append(events, ev)
	}
	changes[0].Items = e.items
	if err := s.store.Apply(ctx, changes...); err != nil {
		if err = storeError(err); !errors.Is(err, ErrConflict) { // written or not: nobody knows
			s.doubt(changes)
		}
		return err
	}
	s.announce(ctx, notice{changes, events, start})
	return nil
}

// recordDenial writes a refusal to the activity log: outside every chain, and
// at most once an actor, action, key and minute, so that refusals can neither
// fill the log nor hold up a revocation. The ID is made of those four, so that
// the nodes agree without talking.
func (s session) recordDenial(ctx context.Context, a Actor, j job, about Info) {
	now := s.cfg.Now()
	var c canon
	c.text("apikey denial v1")
	c.text(a.ID)
	c.text(a.Account)
	c.text(string(j.action))
	c.bytes(about.ID[:])
	c.uint(uint64(now.Unix() / 60))
	sum := sha256.Sum256(c.b)
	id := EventID(sum[:16])
	id[6], id[8] = id[6]&0x0F|0x80, id[8]&0x3F|0x80 // version 8 (RFC 9562)
	if s.joined || !s.denials.first(id, a.Account, now) {
		return // the caller's transaction would roll it back, or it is there already
	}
	ev := s.record(Event{
		ID: id, Time: micros(now), Action: j.action, Outcome: Refused,
		Account: about.Account, Mode: about.Mode, Key: about.ID, Actor: a,
	}, [32]byte{})
	// Whoever is refused must not escape the log by hanging up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.store.Apply(ctx, Change{ID: id, Event: &ev}); err != nil {
		s.cfg.Logger.Warn("apikey: refusal could not be recorded", "action", j.action, "error", err)
	}
}

// denials remembers which refusals of this minute were written: a bounded
// number, and of each account, so that none can crowd out the others'.
type denials struct {
	mu     sync.Mutex
	minute int64
	seen   map[EventID]struct{}
	from   map[string]int
}

const (
	denialsAMinute = 10_000
	denialsFrom    = 200 // one account
)

func (d *denials) first(id EventID, account string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := now.Unix() / 60; m != d.minute || d.seen == nil {
		d.minute, d.seen, d.from = m, map[EventID]struct{}{}, map[string]int{}
	}
	if _, ok := d.seen[id]; ok || len(d.seen) >= denialsAMinute || d.from[account] >= denialsFrom {
		return false
	}
	d.seen[id] = struct{}{}
	d.from[account]++
	return true
}

// pause waits, or less if the context ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
