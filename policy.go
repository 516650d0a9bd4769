package apikey

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// Action names what a management call does, in events, policies and step-up.
type Action string

// The actions of this version:
//
//   - ActionRead is Get and List. ActionReadEvents is Events and VerifyEvents.
//   - ActionRevoke is also RevokeAll: Policy is asked once for the list, and once for
//     each key.
//   - ActionProvision: Policy is asked once for each mode.
//   - ActionUpdate: if the update switches Disabled, Policy is asked about
//     ActionSuspend or ActionResume too.
//   - ActionRetire: if the token is pending, Policy is asked about ActionCancelRotation
//     too.
//   - ActionRemac, ActionReseal and ActionPepper (AdoptPepper) are for an [Operator]
//     alone.
//
// Policy is never asked about ActionRevokeToken (holding the token is the right),
// ActionConfirm, ActionEnroll, ActionConfirmEnrollment, ActionDisable of one's own
// factor, ActionWiden, ActionLock, and ActionPepper when NewManager introduces a pepper
// or vouches for one.
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
	ActionReveal         Action = "key.reveal"
	ActionReseal         Action = "key.reseal"
	// ActionWiden is an update after which some request passes that was refused before.
	// No event has this action; it is there for StepUp to guard.
	ActionWiden             Action = "key.widen"
	ActionConfirm           Action = "challenge.confirm"
	ActionEnroll            Action = "factor.enroll"
	ActionConfirmEnrollment Action = "factor.confirm"
	ActionAllowEnrollment   Action = "factor.allow"
	ActionDisable           Action = "factor.disable"
	ActionLock              Action = "actor.lock"
	ActionLiftLock          Action = "actor.lift_lock"
	ActionRemac             Action = "key.remac"
	ActionReadEvents        Action = "event.read"
	ActionPepper            Action = "pepper.introduce"
)

// actions are all of them.
var actions = []Action{
	ActionIssue, ActionProvision, ActionRead, ActionUpdate, ActionSuspend, ActionResume, ActionRevoke, ActionRevokeToken,
	ActionRotate, ActionCancelRotation, ActionRetire, ActionReveal, ActionReseal, ActionWiden, ActionConfirm, ActionEnroll,
	ActionConfirmEnrollment, ActionAllowEnrollment, ActionDisable, ActionLock, ActionLiftLock, ActionRemac, ActionReadEvents, ActionPepper,
}

// Reason says why a key was revoked: one of the constants, or a text of the program, at
// most 200 bytes. Empty means ReasonRequested.
type Reason string

// Reasons. A revocation with ReasonCompromised can never be guarded by a factor.
const (
	ReasonRequested   Reason = "requested"
	ReasonCompromised Reason = "compromised"
	ReasonUnused      Reason = "unused"
	ReasonSuperseded  Reason = "superseded"
)

// A Policy decides whether an actor may perform an action. Policy is asked after the
// key's account was compared with the actor's, and cannot allow another account.
//
// k describes the key. If the action is about no single key, k has only the known
// fields (Account, Mode, Kind, Name). For a list or the activity log these are the
// request's filters: a policy that lets an actor see one mode only must refuse a list
// without a mode. What a request would change is shown to a [ChangePolicy] alone. Any
// error refuses the action; callers get it wrapped in ErrForbidden. [Manager.May] asks
// too, often and about actions that nobody does then.
type Policy interface {
	Authorize(ctx context.Context, a Actor, act Action, k Info) error
}

// A ChangePolicy is a [Policy] that sees what is asked for: which abilities a new key
// would have, which networks an update would remove. If ManagerConfig.Policy implements
// ChangePolicy, AuthorizeChange is called instead of Authorize, for every action. A
// Policy that wraps another one has to pass AuthorizeChange on; otherwise it hides the
// method.
//
// before is what Authorize would get. after is what the key would be, in the form in
// which it is stored: sorted, without duplicates, networks without host bits, origins
// as browsers write them. after differs from before for ActionIssue, ActionProvision
// (asked once a mode), ActionUpdate, ActionSuspend, ActionResume, ActionRotate,
// ActionCancelRotation, ActionRetire, and ActionRevoke of a single key.
//
// A key that does not exist yet has the zero ID in both. after has the Version of
// before. For a rotation, after has the windows of the existing tokens; the new token
// is not drawn yet. If the request is invalid, after equals before: the request is
// refused whatever AuthorizeChange returns.
type ChangePolicy interface {
	Policy
	AuthorizeChange(ctx context.Context, a Actor, act Action, before, after Info) error
}

// RolePolicy allows the listed roles everything and other roles nothing. An [Operator]
// is always allowed, and an Actor without a Role never. The zero RolePolicy lists
// "superadmin" and "admin".
type RolePolicy struct{ Roles []string }

// Authorize implements [Policy].
func (p RolePolicy) Authorize(_ context.Context, a Actor, act Action, _ Info) error {
	roles := p.Roles
	if roles == nil {
		roles = []string{"superadmin", "admin"}
	}
	if a.operator || a.Role != "" && slices.Contains(roles, a.Role) {
		return nil
	}
	return fmt.Errorf("role %s may not do %s; allowed roles: %v", quote(a.Role), act, roles)
}

// Standing says whether an account may use the API in a mode: onboarding finished,
// invoices paid, not blocked. Any error is a refusal; callers get it wrapped in
// ErrStanding.
//
// Standing is asked at every verification, so it must answer from memory. It is also
// asked when a key is issued, rotated, revealed or resumed, when an update lets a key do
// more, and by [Manager.May]. [Manager.Provision] asks about each mode separately.
type Standing interface {
	Allowed(account string, m Mode) error
}

// Limits bound what a merchant can store. A zero field means its default, which each
// line names.
type Limits struct {
	NameBytes     int `json:"name_bytes"`     // 200
	MetadataPairs int `json:"metadata_pairs"` // 50
	MetadataName  int `json:"metadata_name"`  // bytes of a name: 40
	MetadataValue int `json:"metadata_value"` // bytes of a value: 500
	Abilities     int `json:"abilities"`      // 64
	Networks      int `json:"networks"`       // 64
	Origins       int `json:"origins"`        // 16
	// LiveKeys of an account in one mode: neither revoked, suspended nor expired.
	LiveKeys int `json:"live_keys"` // 50
	// Keys of an account in both modes together that are not revoked; suspended and
	// expired ones count. An Operator is exempt. An account that has more keeps them.
	// 0: 1,000, or twice LiveKeys if that is more.
	Keys int `json:"keys"`
	// IssuesAnHour is how many keys may be issued for an account in any hour, including
	// those revoked since. An Operator is exempt, and keys that an Operator issues do
	// not count. Rotations do not count either, and have no limit. 0: 300, or LiveKeys
	// if that is more.
	IssuesAnHour int `json:"issues_an_hour"`
	// Overlap of an old token with a new one. In JSON it is overlap_seconds.
	Overlap time.Duration `json:"-"` // 7 days
}

func (l Limits) withDefaults() Limits {
	return Limits{
		NameBytes: cmp.Or(l.NameBytes, 200), MetadataPairs: cmp.Or(l.MetadataPairs, 50),
		MetadataName: cmp.Or(l.MetadataName, 40), MetadataValue: cmp.Or(l.MetadataValue, 500),
		Abilities: cmp.Or(l.Abilities, 64), Networks: cmp.Or(l.Networks, 64),
		Origins: cmp.Or(l.Origins, 16), LiveKeys: cmp.Or(l.LiveKeys, 50),
		Keys: cmp.Or(l.Keys, max(1000, 2*l.LiveKeys)), IssuesAnHour: cmp.Or(l.IssuesAnHour, max(300, l.LiveKeys)),
		Overlap: cmp.Or(l.Overlap, 7*24*time.Hour),
	}
}

// outOfRange: negative, or so large that sums of it are not what they say.
func (l Limits) outOfRange() bool {
	return l.Overlap < 0 || max(l.LiveKeys, l.Keys, l.IssuesAnHour) > 1<<30 || min(l.NameBytes, l.MetadataPairs, l.MetadataName, l.MetadataValue, l.Abilities, l.Networks, l.Origins, l.LiveKeys, l.Keys, l.IssuesAnHour) < 0
}
