package apikey

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/base62"
	"github.com/go-apikey/apikey/internal/canon"
)

// Grant is the approval that an answered challenge gives. Put it into the request that
// was challenged, and make that very request within two minutes. A grant works once,
// for that actor, and only if the key has not changed. It prints redacted.
type Grant struct{ v *secretText }

// ParseGrant reads what [Grant.Reveal] wrote, for programs that keep a grant in the
// browser between two requests. Any text parses; whether it is a grant shows when it is
// used. The empty text is no grant.
func ParseGrant(text string) Grant {
	if text == "" {
		return Grant{}
	}
	return Grant{&secretText{func() string { return text }}}
}

// Reveal returns the text of the grant, "" if there is none.
func (g Grant) Reveal() string {
	if g.v == nil {
		return ""
	}
	return g.v.reveal()
}

// IsZero reports whether there is no grant.
func (g Grant) IsZero() bool { return g.v == nil }

// String tells only whether there is a grant.
func (g Grant) String() string {
	if g.v == nil {
		return ""
	}
	return "grant(…)"
}

// GoString is String.
func (g Grant) GoString() string { return g.String() }

// Format writes String for every verb.
func (g Grant) Format(s fmt.State, _ rune) { io.WriteString(s, g.String()) }

// LogValue is String.
func (g Grant) LogValue() slog.Value { return slog.StringValue(g.String()) }

// MarshalText is String.
func (g Grant) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// Guarded is a request that may have to be approved: [IssueRequest],
// [ProvisionRequest], [UpdateRequest], [ResumeRequest], [RotateRequest],
// [RevokeRequest], [RevealRequest], [EnrollRequest], [DisableRequest],
// [AllowEnrollmentRequest] and [LiftLockRequest]. A grant approves the values of all
// its fields, except Grant.
type Guarded interface{ guarded() approval }

// approval is what a grant is bound to, besides the actor and the key's version.
type approval struct {
	job    job      // where the request goes: action, key, account, mode
	sum    [32]byte // hash of the request, without its grant
	others []Action // further actions that the same request may turn out to be
	free   bool     // the request is never guarded, whatever StepUp says of the action
	says   []string // Challenge.Changes, besides what the plan shows
}

// asking returns the job, which now has to be approved if StepUp says so.
func (p approval) asking(grant Grant) job {
	j := p.job
	j.asks, j.grant = &p, grant
	return j
}

// sumOf hashes a request: every field except the grant.
func sumOf(action Action, fields func(*canon.Writer)) [32]byte {
	var c canon.Writer
	c.Text("apikey request v1")
	c.Text(string(action))
	fields(&c)
	return c.Sum()
}

// itemGrant is the kind of the items that store grants. The ID is the hash of the
// grant's text, so a stored item cannot be redeemed.
const itemGrant StoreItemKind = "grant"

const grantTime = 2 * time.Minute

// storedGrant is a grant as it is stored. When the grant is redeemed, its item is not
// deleted but marked as used, until it expires: whoever presents the grant again is told
// so.
type storedGrant struct {
	bound  bound
	factor string
	used   bool
	item   StoreItem
}

func newGrant() Grant { return ParseGrant(string(base62.AppendRandom(nil, 22))) } // 131 random bits

func grantID(g Grant) string {
	sum := sha256.Sum256([]byte(g.Reveal()))
	return hex.EncodeToString(sum[:])
}

// grantItem returns the item of a new grant for a challenge.
func (s session) grantItem(g Grant, p storedChallenge, until time.Time) StoreItem {
	of := storedGrant{bound: p.bound, factor: p.Factor}
	return s.vouch(StoreItem{Kind: itemGrant, ID: grantID(g), ExpiresAt: micros(until)}, of.encode())
}

// spend returns the item of a grant that is redeemed. It is written in the Apply of the
// action: if two requests redeem one grant, one conflicts.
func (s session) spend(g storedGrant) StoreItem {
	g.used = true
	return s.vouch(g.item, g.encode())
}

func (g storedGrant) encode() []byte {
	var c canon.Writer
	g.bound.write(&c)
	c.Text(g.factor)
	c.Bool(g.used)
	return c.Encoded()
}

// grantOf reads a grant by its ID. ok is false if there is none, or if its MAC is wrong.
func (s session) grantOf(ctx context.Context, id string) (g storedGrant, ok bool, err error) {
	if g.item, err = s.item(ctx, itemGrant, id); err != nil {
		return storedGrant{}, false, err
	}
	data, genuine := s.vouched(g.item)
	u := canon.NewReader(data)
	g.bound = readBound(&u)
	g.factor, g.used = u.Text(), u.Uint() == 1
	return g, genuine && u.Complete(), nil
}

// approves returns why a grant does not approve what is bound to want; nil: it does. An
// actor learns nothing of another actor's grant.
func (g storedGrant) approves(want bound, now time.Time) error {
	code := ApprovalCode("")
	switch {
	case g.bound.actor != want.actor:
		code = ApprovalUnknown
	case g.used:
		code = ApprovalUsed
	case !now.Before(g.item.ExpiresAt):
		code = ApprovalExpired
	case g.bound.request != want.request:
		code = ApprovalOther
	case g.bound.version != want.version:
		code = ApprovalChanged
	default:
		return nil
	}
	return &ApprovalError{code, ErrGrant}
}

// factorsFor returns the StepUp for a job: it names the factors that approve an action;
// none: the action is not guarded.
func (s session) factorsFor(ctx context.Context, a Actor, j job) (StepUp, error) {
	if j.subject == theActor {
		return s.ownFactors(ctx, a, j.factor)
	}
	return func(action Action, mode Mode) []string {
		if a.operator && slices.Contains(forAnother, action) {
			return nil
		}
		return s.cfg.factorsFor(action, mode)
	}, nil
}

// ownFactors returns the factors that approve what an actor does to a factor of their
// own. Without an approval, a hijacked session could enrol its own authenticator and
// pass every guard. If the factor is enrolled, only the factor itself approves: if a
// code from a mailbox could replace an authenticator, it would be no stronger than the
// mailbox. If it is not enrolled, any other factor that the actor can use approves.
func (s session) ownFactors(ctx context.Context, a Actor, factor string) (StepUp, error) {
	it, err := s.item(ctx, itemEnrolled, enrolledID(a, factor))
	approve := slices.Sorted(maps.Keys(s.cfg.Factors))
	if it.Version > 0 {
		approve = []string{factor}
	}
	return func(Action, Mode) []string { return approve }, err
}

// redeem checks the grant of a job that turned out to be these actions. It returns the
// item of the used grant, which goes into the Apply of the action; none, if nothing is
// guarded. The grant's factor has to approve each of the actions that are guarded.
func (s session) redeem(ctx context.Context, a Actor, j job, modes []Mode, r *StoreRecord, acts ...Action) ([]StoreItem, error) {
	if j.asks == nil { // no factor is ever asked for
		return nil, nil
	}
	stepUp, err := s.factorsFor(ctx, a, j)
	if err != nil {
		return nil, err
	}
	factors, guarded := inCommon(stepUp, modes, acts)
	if !guarded {
		return nil, nil
	}
	first := slices.IndexFunc(acts, func(act Action) bool { // errors name the first that is guarded
		_, guarded := inCommon(stepUp, modes, []Action{act})
		return guarded
	})
	if j.grant.IsZero() {
		if j.pass != nil {
			if it, err := j.pass(ctx, a); err != nil || it.Version > 0 {
				return []StoreItem{it}, err
			}
		}
		return nil, s.unapproved(ctx, a, j, acts[first], factors)
	}
	g, err := s.presented(ctx, a, j, r)
	if err != nil {
		return nil, err
	}
	// A factor that was taken away approves nothing any more: whoever has stolen a phone
	// must not enrol their own with a grant of it that they have kept.
	usable, _, err := s.usable(ctx, a, []string{g.factor})
	if err != nil {
		return nil, err
	}
	if !slices.Contains(factors, g.factor) || len(usable) == 0 {
		return nil, s.unapproved(ctx, a, j, acts[first], factors)
	}
	return []StoreItem{s.spend(g)}, nil
}

// presented reads the grant of a job. It refuses a grant that does not approve the job,
// and every grant of an actor who is locked.
func (s session) presented(ctx context.Context, a Actor, j job, r *StoreRecord) (storedGrant, error) {
	g, ok, err := s.grantOf(ctx, grantID(j.grant))
	if err != nil {
		return storedGrant{}, err
	}
	var refused error = &ApprovalError{ApprovalUnknown, ErrGrant}
	if ok {
		refused = g.approves(binding(a, accountOf(a, j.account), j.asks, j.mode, r), s.settings.Now())
	}
	if refused != nil {
		s.settings.Trace.denied(a, j.action, j.key, refused)
		return storedGrant{}, refused
	}
	b, err := s.budgetOf(ctx, a)
	if err == nil && b.locked() {
		err = ErrLocked
	}
	return g, err
}

// unapproved returns the error of an action that has to be approved first.
func (s session) unapproved(ctx context.Context, a Actor, j job, action Action, factors []string) error {
	e, err := s.wayFor(ctx, a, j, action, factors)
	if err != nil {
		return err
	}
	return e
}

// wayFor says how this actor can get an action approved that these factors approve: by
// those of them that the actor can use. If they can use none, it says which they can
// set up, and whether somebody else has to help. An actor who follows these errors is
// never led back to an earlier one.
func (s session) wayFor(ctx context.Context, a Actor, j job, action Action, factors []string) (*ChallengeError, error) {
	e := &ChallengeError{Action: action, Key: j.key}
	var err error
	e.Factors, e.Enroll, err = s.usable(ctx, a, factors)
	if err != nil {
		return nil, err
	}
	if j.subject == theActor { // to set up another factor is no way to set up this one
		e.Enroll, e.ByAnother = nil, len(e.Factors) == 0
		return e, nil
	}
	if len(e.Factors) > 0 || len(e.Enroll) == 0 {
		return e, nil
	}
	others, _, err := s.usable(ctx, a, slices.Sorted(maps.Keys(s.cfg.Factors)))
	e.ByAnother = len(others) == 0
	for _, factor := range e.Enroll {
		var it StoreItem
		if err == nil {
			it, err = s.allowed(ctx, a, factor)
		}
		e.ByAnother = e.ByAnother && it.Version == 0
	}
	return e, err
}

// usable divides factors into those that an actor can use, and those that they have not
// set up.
func (s session) usable(ctx context.Context, a Actor, factors []string) (usable, missing []string, err error) {
	for _, factor := range factors {
		if _, err := s.enroller(factor); err == nil {
			it, err := s.item(ctx, itemEnrolled, enrolledID(a, factor))
			if err != nil {
				return nil, nil, err
			}
			if it.Version == 0 {
				missing = append(missing, factor)
				continue
			}
		}
		usable = append(usable, factor)
	}
	return usable, missing, nil
}

// approvalFactor is the factor of a challenge in errors. The request that is to be
// approved may have a factor of its own.
const approvalFactor = "approval.factor"

// approving returns the factors that approve a request. It refuses a request that is
// not guarded, and a factor that does not approve it.
func (s session) approving(ctx context.Context, a Actor, ask *approval, modes []Mode, factor string) (factors []string, err error) {
	stepUp, err := s.factorsFor(ctx, a, ask.job)
	if err != nil {
		return nil, err
	}
	for _, action := range append([]Action{ask.job.action}, ask.others...) {
		approve, _ := inCommon(stepUp, modes, []Action{action})
		factors = append(factors, approve...)
	}
	switch {
	case len(factors) == 0 || ask.free:
		return nil, wrong(approvalFactor, InvalidNotNeeded, "this %s is not guarded: make the request", ask.job.action)
	case !slices.Contains(factors, factor):
		usable, _, err := s.usable(ctx, a, factors)
		if err != nil {
			return nil, err
		}
		refused := wrong(approvalFactor, InvalidUnusable, "factor %s does not approve %s; these do: %v", quote(factor), ask.job.action, usable).part(factor)
		refused.Known = usable
		return nil, refused
	}
	return factors, nil
}

// bound is everything that must be the same when a grant is redeemed as when its
// challenge was put. The first two are encoded texts; the third makes any change of the
// key void the grant.
type bound struct {
	actor   string // who answered
	request string // what they approved
	version uint64 // of the key; 0: no existing key
}

// binding returns what a request of an actor is bound to.
func binding(a Actor, account string, p *approval, mode Mode, r *StoreRecord) (b bound) {
	var actor, request canon.Writer
	actor.Text(a.ID)
	actor.Text(a.Account)
	actor.Bool(a.operator)
	request.Text("apikey approval v2")
	request.Text(string(p.job.action))
	request.Bytes(p.sum[:])
	if r != nil {
		request.Bytes(r.ID[:])
		account, mode, b.version = r.Account, r.Mode, r.Version
	}
	request.Text(account)
	request.Uint(uint64(mode))
	b.actor, b.request = string(actor.Encoded()), string(request.Encoded())
	return b
}

func (b bound) write(c *canon.Writer) {
	c.Text(b.actor)
	c.Text(b.request)
	c.Uint(b.version)
}

func readBound(u *canon.Reader) bound { return bound{u.Text(), u.Text(), u.Uint()} }
