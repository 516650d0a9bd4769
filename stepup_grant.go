package apikey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

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

// granted returns the item of a new grant. Its two minutes begin now, because a factor
// may have compared for half a minute.
func (s session) granted(g Grant, p put) StoreItem {
	var c canon.Writer
	c.Bytes(p.bound)
	c.Text(p.Factor)
	return s.vouch(StoreItem{Kind: itemGrant, ID: grantID(g), ExpiresAt: micros(s.settings.Now().Add(grantTime))}, c.Encoded())
}

func grantID(g Grant) string {
	sum := sha256.Sum256([]byte(g.Reveal()))
	return hex.EncodeToString(sum[:])
}

// factorsFor returns the StepUp for a job: it names the factors that approve an action;
// none: the action is not guarded.
func (s session) factorsFor(ctx context.Context, a Actor, j job) (StepUp, error) {
	if j.subject == theActor {
		return s.ownFactors(ctx, a, j.factor)
	}
	return func(action Action, mode Mode) []string {
		if s.cfg.StepUp == nil || a.operator && slices.Contains(forAnother, action) {
			return nil
		}
		return s.cfg.StepUp(action, cmp.Or(mode, Live))
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
// grant's deletion, which goes into the Apply of the action: if two requests redeem one
// grant, one conflicts. The grant's factor has to approve each of the actions that are
// guarded.
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
	first := slices.IndexFunc(acts, func(act Action) bool {
		_, guarded := inCommon(stepUp, modes, []Action{act})
		return guarded
	})
	if j.grant.IsZero() {
		if j.pass != nil {
			if it, err := j.pass(ctx, a); err != nil || it.Version > 0 {
				return []StoreItem{it}, err
			}
		}
		return nil, s.asked(ctx, a, j, acts[first], factors)
	}
	it, err := s.item(ctx, itemGrant, grantID(j.grant))
	if err != nil {
		return nil, err
	}
	data, genuine := s.vouched(it)
	u := canon.NewReader(data)
	bound, factor := u.Text(), u.Text()
	if !genuine || !u.OK() || !s.settings.Now().Before(it.ExpiresAt) || !sameText(bound, string(binding(a, accountOf(a, j.account), j.asks, j.mode, r))) {
		s.settings.Trace.denied(a, j.action, j.key, ErrGrant)
		return nil, ErrGrant
	}
	if b, err := s.budgetOf(ctx, a); err != nil || b.locked() {
		return nil, cmp.Or(err, ErrLocked)
	}
	if !slices.Contains(factors, factor) {
		return nil, s.asked(ctx, a, j, acts[first], factors)
	}
	return []StoreItem{it.deleted()}, nil
}

// asked returns the error of an action that has to be approved first.
func (s session) asked(ctx context.Context, a Actor, j job, action Action, factors []string) error {
	e, err := s.ask(ctx, a, j, action, factors)
	if err != nil {
		return err
	}
	return e
}

// ask says how this actor can get an action approved that these factors approve: by
// those of them that the actor can use. If they can use none, it says which they can
// set up, and whether somebody else has to help. An actor who follows these errors is
// never led back to an earlier one.
func (s session) ask(ctx context.Context, a Actor, j job, action Action, factors []string) (*ChallengeError, error) {
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
		return nil, wrong(approvalFactor, InvalidNotNeeded, "this %s is not guarded: make the request", ask.job.action)
	case !slices.Contains(may, factor):
		usable, _, err := s.usable(ctx, a, may)
		if err != nil {
			return nil, err
		}
		refused := wrong(approvalFactor, InvalidUnusable, "factor %s does not approve %s; these do: %v", quote(factor), ask.job.action, usable).part(factor)
		refused.Known = usable
		return nil, refused
	}
	return may, nil
}

// binding returns everything that must be the same when a grant is redeemed as when its
// challenge was put. The key's version is included, so any change of the key voids the
// grant.
func binding(a Actor, account string, p *approval, mode Mode, r *StoreRecord) []byte {
	var c canon.Writer
	c.Text("apikey approval v1")
	c.Text(a.ID)
	c.Text(a.Account)
	c.Bool(a.operator)
	c.Text(string(p.job.action))
	c.Bytes(p.sum[:])
	if r != nil {
		c.Bytes(r.ID[:])
		c.Uint(r.Version)
		account, mode = r.Account, r.Mode
	}
	c.Text(account)
	c.Uint(uint64(mode))
	return c.Encoded()
}
