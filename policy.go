package apikey

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Actor is who performs a management action. The program authenticates people;
// it says here who it is, and the library records it. An Actor travels in the
// context.
type Actor struct {
	ID        string // unique within the program, at most 255 bytes
	Account   string // the merchant he acts for
	Role      string // what RolePolicy looks at
	Addr      string // where he came from, for the log
	UserAgent string
	RequestID string

	// operator is not exported, so that no decoder of somebody's JSON can set it.
	operator bool
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
	if !ok || a.ID == "" || a.Account == "" && !a.operator {
		return Actor{}, ErrNoActor
	}
	for _, text := range []string{a.ID, a.Account, a.Role, a.Addr, a.UserAgent, a.RequestID} {
		if len(text) > 1024 || !storable(text) {
			return Actor{}, invalid("an actor's fields are valid UTF-8 without NUL, at most 1024 bytes each")
		}
	}
	if len(a.ID) > 255 {
		return Actor{}, invalid("an actor's ID has at most 255 bytes")
	}
	return a, nil
}

// Action names what a management call does, in events, policies and step-up.
type Action string

// The actions of this version.
const (
	ActionIssue       Action = "key.issue"
	ActionProvision   Action = "key.provision"
	ActionRead        Action = "key.read"
	ActionUpdate      Action = "key.update"
	ActionSuspend     Action = "key.suspend"
	ActionResume      Action = "key.resume"
	ActionRevoke      Action = "key.revoke"
	ActionRevokeToken Action = "key.revoke_token"
	ActionRemac       Action = "key.remac"
	ActionReadEvents  Action = "event.read"
	ActionPepper      Action = "pepper.introduce"
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
// single key, k has only what is known (Account, Mode, Kind, Name). Any error
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
	return fmt.Errorf("role %s may not %s; allowed roles: %v", quote(a.Role), act, roles)
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
}

func (l Limits) withDefaults() Limits {
	return Limits{
		NameBytes: or(l.NameBytes, 200), MetadataPairs: or(l.MetadataPairs, 50),
		MetadataName: or(l.MetadataName, 40), MetadataValue: or(l.MetadataValue, 500),
		Abilities: or(l.Abilities, 64), Networks: or(l.Networks, 64),
		Origins: or(l.Origins, 16), LiveKeys: or(l.LiveKeys, 50),
	}
}

// storable reports whether every engine can keep s byte for byte.
func storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}
