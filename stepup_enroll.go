package apikey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// An Enroller is a Factor that each actor has to set up: [TOTP]. The data that it
// stores for an actor is sealed under a [KEK].
type Enroller interface {
	Factor
	// Enroll returns the data to store for the actor, and the text that the actor is shown
	// once. One person may be an actor of several accounts: if the text has a name under
	// which an app files it, put the account into that name.
	Enroll(ctx context.Context, a Actor) (enrolled []byte, uri string, err error)
}

// Enrollment is the text that an actor is shown once, to set up their authenticator. It
// prints redacted.
type Enrollment struct {
	Factor string
	v      *secretText
}

// URI returns the secret text: for TOTP an otpauth:// URI, to be shown as a QR
// code.
func (e Enrollment) URI() string {
	if e.v == nil {
		return ""
	}
	return e.v.reveal()
}

// String names the factor only.
func (e Enrollment) String() string { return "enrollment(" + e.Factor + ")" }

// GoString is String.
func (e Enrollment) GoString() string { return e.String() }

// Format writes String for every verb.
func (e Enrollment) Format(s fmt.State, _ rune) { io.WriteString(s, e.String()) }

// LogValue is String.
func (e Enrollment) LogValue() slog.Value { return slog.StringValue(e.String()) }

// MarshalText is String.
func (e Enrollment) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// EnrollRequest sets up a factor for the actor of the context.
type EnrollRequest struct {
	Factor string // name of an Enroller in ManagerConfig.Factors

	Grant Grant `json:"-"` // by this factor if it is enrolled already, otherwise by any other
}

func (r EnrollRequest) guarded() approval { return ownFactor(ActionEnroll, r.Factor) }

// DisableRequest takes a factor away.
type DisableRequest struct {
	Factor string
	// Actor whose factor it is; empty: the caller's own, which has to be approved.
	// Another admin of the account takes it away for somebody who has lost their phone.
	Actor string
	// Account of Actor, and only with one; empty: the caller's own. An Operator names it;
	// empty then means that Actor is another Operator.
	Account string

	Grant Grant `json:"-"` // always for one's own factor; for another's if StepUp guards ActionDisable
}

func (r DisableRequest) guarded() approval {
	if r.Actor == "" && r.Account == "" {
		return ownFactor(ActionDisable, r.Factor)
	}
	return aboutActor(ActionDisable, r.Factor, r.Account, r.Actor)
}

// ownFactor is the approval for what an actor does to a factor of their own.
func ownFactor(action Action, factor string) approval {
	return approval{
		job: job{action: action, subject: theActor, factor: factor, refuses: func(_ context.Context, s session, _ Actor, _ *StoreRecord) error {
			_, err := s.enroller(factor)
			return err
		}},
		sum:  sumOf(action, func(c *canon.Writer) { c.Text(factor) }),
		says: []string{"your factor " + factor},
	}
}

// aboutActor is the approval for what an admin does for another actor. factor is empty
// if the action is about none.
func aboutActor(action Action, factor, account, actor string) approval {
	says := []string{"for " + quoteForMail(actor)}
	if factor != "" {
		says = append(says, "factor: "+factor)
	}
	return approval{
		job: job{action: action, subject: anyAccount, account: account, refuses: func(_ context.Context, s session, a Actor, _ *StoreRecord) error {
			_, unknown := s.enroller(factor)
			_, err := another(a, account, actor)
			return allWrong(unknown, err)
		}},
		sum: sumOf(action, func(c *canon.Writer) {
			c.Text(factor)
			c.Text(actor)
		}),
		says: says,
	}
}

// Enroll begins to set up a factor, also in place of one that is enrolled, and returns
// the text that the actor is shown. The new authenticator counts once the actor has
// confirmed it with [Manager.ConfirmEnrollment], within ten minutes.
//
// If the factor is not enrolled, any other factor that the actor can use approves. If
// it is enrolled, only the enrolled one approves its successor. So a hijacked session
// cannot enrol its own authenticator, and a stolen mailbox cannot replace one.
// Otherwise another admin allows it ([Manager.AllowEnrollment]). Errors: those of the
// table in the package documentation, and ErrStepUpRequired (as *[ChallengeError]),
// ErrGrant, ErrLocked.
func (m *Manager) Enroll(ctx context.Context, req EnrollRequest) (Enrollment, error) {
	s := m.own()
	f, err := m.enroller(req.Factor)
	if err != nil {
		return Enrollment{}, err
	}
	var uri string
	j := req.guarded().asking(req.Grant)
	j.pass = func(ctx context.Context, a Actor) (StoreItem, error) { return s.allowed(ctx, a, req.Factor) }
	j.work = func(a Actor, _ *StoreRecord) (effect, error) {
		plain, shown, err := f.Enroll(ctx, a)
		if err != nil {
			return effect{}, unavailable(err)
		}
		uri = shown
		it, err := s.item(ctx, itemEnrolling, enrolledID(a, req.Factor))
		if err == nil {
			it, err = s.sealEnrolled(ctx, a, req.Factor, it, plain)
			it.ExpiresAt = micros(s.settings.Now().Add(challengeTime)) // a KEK may have taken seconds
		}
		return effect{items: []StoreItem{it}, note: s.note(a, ActionEnroll, a.Account, "factor:"+req.Factor)}, err
	}
	if err := s.do(ctx, j); err != nil {
		return Enrollment{}, err
	}
	return Enrollment{req.Factor, &secretText{func() string { return uri }}}, nil
}

func (m *Manager) enroller(factor string) (Enroller, error) {
	f, ok := m.cfg.Factors[factor].(Enroller)
	if !ok {
		return nil, wrong("factor", InvalidUnknown, "factor %s is not one that is enrolled", quote(factor)).part(factor)
	}
	return f, nil
}

// Disable takes a factor away: the caller's own with a grant of that very factor,
// or another actor's as an admin of the account. An actor who has no other factor
// needs [Manager.AllowEnrollment] as well. A grant that the factor has approved is refused
// (ErrStepUpRequired) from then on, unless the factor is enrolled again within the grant's
// two minutes. If the factor is not enrolled, Disable returns nil and
// writes nothing. Its errors are those of [Manager.Enroll], with ErrNotFound if the
// other actor belongs to another account.
func (m *Manager) Disable(ctx context.Context, req DisableRequest) error {
	s := m.own()
	j := req.guarded().asking(req.Grant)
	j.work = func(a Actor, _ *StoreRecord) (effect, error) {
		target := a
		if req.Actor != "" {
			var err error
			if target, err = another(a, req.Account, req.Actor); err != nil {
				return effect{}, err
			}
		}
		e := effect{note: s.note(a, ActionDisable, target.Account, "actor:"+target.ID, "factor:"+req.Factor)}
		for _, kind := range []StoreItemKind{itemEnrolled, itemEnrolling, itemAllowed} {
			it, err := s.item(ctx, kind, enrolledID(target, req.Factor))
			if err != nil {
				return effect{}, err
			}
			if it.Version > 0 {
				e.items = append(e.items, it.deleted())
			}
		}
		if len(e.items) == 0 {
			return effect{}, nobody(a, req.Account, req.Actor)
		}
		return e, nil
	}
	return s.do(ctx, j)
}

// AllowEnrollmentRequest names an actor, and the factor that they may enrol.
type AllowEnrollmentRequest struct {
	Factor string
	Actor  string // the actor's ID
	// Account of Actor; empty: the caller's own. An Operator names it; empty then means
	// that Actor is another Operator.
	Account string

	Grant Grant `json:"-"` // if StepUp guards ActionAllowEnrollment
}

func (r AllowEnrollmentRequest) guarded() approval {
	return aboutActor(ActionAllowEnrollment, r.Factor, r.Account, r.Actor)
}

// AllowEnrollment lets an actor call Enroll once, within 24 hours, without the approval
// of another factor: for the first factor of a new colleague, or for somebody who has
// lost their phone. Nobody can allow it to themselves, and the admin who allows it
// never sees the seed. If an admin can invite another, guard ActionAllowEnrollment with
// StepUp: otherwise a hijacked session invites its own accomplice. Errors: those of the
// table in the package documentation, and:
//   - ErrNotFound: when Account is another account than the actor's
//   - ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked
func (m *Manager) AllowEnrollment(ctx context.Context, req AllowEnrollmentRequest) error {
	s := m.own()
	j := req.guarded().asking(req.Grant)
	j.work = func(a Actor, _ *StoreRecord) (effect, error) {
		target, err := another(a, req.Account, req.Actor)
		if err != nil {
			return effect{}, err
		}
		it, err := s.item(ctx, itemAllowed, enrolledID(target, req.Factor))
		if err != nil {
			return effect{}, err
		}
		it.ExpiresAt = micros(s.settings.Now().Add(allowedTime))
		return effect{items: []StoreItem{s.vouch(it, nil)}, note: s.note(a, ActionAllowEnrollment, target.Account, "actor:"+target.ID, "factor:"+req.Factor)}, nil
	}
	return s.do(ctx, j)
}

// Enrolled returns the names of the factors that the actor of the context has enrolled.
// Errors: ErrNoActor, ErrUnavailable.
func (m *Manager) Enrolled(ctx context.Context) (factors []string, err error) {
	s := m.own()
	err = s.do(ctx, ofActor(ActionRead).reading(func(a Actor, _ *StoreRecord) error {
		factors = nil
		for _, name := range slices.Sorted(maps.Keys(s.cfg.Factors)) {
			if _, err := s.enroller(name); err != nil {
				continue
			}
			it, err := s.item(ctx, itemEnrolled, enrolledID(a, name))
			if err != nil {
				return err
			}
			if it.Version > 0 {
				factors = append(factors, name)
			}
		}
		return nil
	}))
	return factors, err
}

// The kinds of items that enrolments use.
const (
	itemEnrolled  StoreItemKind = "enrolled"
	itemEnrolling StoreItemKind = "enrolling" // not confirmed yet
	itemAllowed   StoreItemKind = "enrollable"
)

const allowedTime = 24 * time.Hour

// allowed returns the deletion of the permission that another admin gave; the zero
// StoreItem: there is none.
func (s session) allowed(ctx context.Context, a Actor, factor string) (StoreItem, error) {
	it, err := s.item(ctx, itemAllowed, enrolledID(a, factor))
	if err != nil {
		return StoreItem{}, err
	}
	if _, genuine := s.vouched(it); !genuine || !s.settings.Now().Before(it.ExpiresAt) {
		return StoreItem{}, nil
	}
	return it.deleted(), nil
}

func enrolledID(a Actor, factor string) string {
	var c canon.Writer
	c.Text(factor)
	c.Text(a.ID)
	return itemID(a.Account, 0, string(c.Encoded()))
}

// enrolledAAD binds an enrolment to its actor and factor, and to whether the actor
// has confirmed it.
func enrolledAAD(kind StoreItemKind, a Actor, factor string) []byte {
	var c canon.Writer
	c.Text("apikey enrollment v1")
	c.Text(string(kind))
	c.Text(a.Account)
	c.Text(a.ID)
	c.Text(factor)
	return c.Encoded()
}

var errEnrolled = fmt.Errorf("%w: what is kept of an actor's factor does not open", ErrCorrupt)

// enrolled opens the data that a factor stores for an actor; nil: there is none. It
// also returns their item, for sealEnrolled.
func (s session) enrolled(ctx context.Context, kind StoreItemKind, a Actor, factor string) ([]byte, StoreItem, error) {
	it, err := s.enrolledItem(ctx, kind, a, factor)
	if err != nil {
		return nil, it, err
	}
	plain, err := s.openEnrolled(ctx, it, a, factor)
	return plain, it, err
}

// enrolledItem reads the item with the data that a factor stores for an actor, still
// sealed. If there is none, its Version is 0.
func (s session) enrolledItem(ctx context.Context, kind StoreItemKind, a Actor, factor string) (StoreItem, error) {
	if _, err := s.enroller(factor); err != nil {
		return StoreItem{}, nil // such a factor stores nothing
	}
	return s.item(ctx, kind, enrolledID(a, factor))
}

func (s session) openEnrolled(ctx context.Context, it StoreItem, a Actor, factor string) ([]byte, error) {
	if it.Version == 0 {
		return nil, nil
	}
	// The additional data is stored beside the sealed value, for Reseal. It must be this
	// actor's: a row of another actor that was moved here is not opened.
	aad, sealed, ok := splitSealed(it.Data)
	if !ok || string(aad) != string(enrolledAAD(it.Kind, a, factor)) {
		return nil, errEnrolled
	}
	plain, err := s.vault.open(ctx, sealed, it.SealedKEK, aad)
	if errors.Is(err, errOpen) {
		err = fmt.Errorf("%w: %s", errEnrolled, mayBeOtherKEK(it.SealedKEK))
	}
	return plain, err
}

func (s session) sealEnrolled(ctx context.Context, a Actor, factor string, it StoreItem, plain []byte) (StoreItem, error) {
	aad := enrolledAAD(it.Kind, a, factor)
	sealed, kek, err := s.vault.seal(ctx, plain, aad)
	if err != nil {
		return StoreItem{}, err
	}
	it.Version++
	it.Data, it.SealedKEK = joinSealed(aad, sealed), kek
	return it, nil
}

func joinSealed(aad, sealed []byte) []byte {
	var c canon.Writer
	c.Bytes(aad)
	c.Bytes(sealed)
	return c.Encoded()
}

func splitSealed(data []byte) (aad, sealed []byte, ok bool) {
	u := canon.NewReader(data)
	aad, sealed = []byte(u.Text()), []byte(u.Text())
	return aad, sealed, u.Complete()
}
