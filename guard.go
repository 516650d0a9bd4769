package apikey

import (
	"maps"
	"slices"
)

// StepUp names the factors that approve an action in a mode, any one of them;
// none: it is not guarded. It answers from memory, and the same each time. What
// can be guarded is ActionIssue, ActionProvision, ActionUpdate, ActionWiden, ActionResume,
// ActionRotate, ActionReveal and ActionRevoke; Revoke as [ReasonCompromised]
// never is. Where one update is several of these, the factor has to approve
// each.
//
// Of what an admin does for another, ActionAllowEnrollment, ActionDisable and
// ActionLiftLock can be guarded; they are of no mode, and asked about as Live. An
// [Operator] is not asked for those: somebody has to be the way out.
//
// The ready-made ones below are named after what they do. Others are composed
// by hand.
type StepUp func(Action, Mode) []string

// GuardCreateAndDelete asks before a key is issued and before it is revoked, as
// Xendit's page asks for the password at both. It does not ask when a key is
// revoked as [ReasonCompromised]: nobody has to find a password while a key is
// being abused.
func GuardCreateAndDelete(factors ...string) StepUp {
	return guard(factors, ActionIssue, ActionRevoke)
}

// GuardRevealAndRotate asks before a token is shown again and before it is
// replaced, as DOKU's page asks for the code that it has mailed.
func GuardRevealAndRotate(factors ...string) StepUp {
	return guard(factors, ActionReveal, ActionRotate)
}

// GuardRotate asks before a token is replaced, as Okto's page has one sign in
// again before it hands a secret out. None is kept there, so that handing one
// out, the first time or after it was lost, is replacing it.
func GuardRotate(factors ...string) StepUp { return guard(factors, ActionRotate) }

// GuardIssueAndReveal asks before a key is issued and before its token is looked
// at later: for a page that confirms a new key with a PIN and lists it to be
// revisited. Where such a page asks for nothing at the second look, a hijacked
// session reads every secret; this guard asks at both.
func GuardIssueAndReveal(factors ...string) StepUp { return guard(factors, ActionIssue, ActionReveal) }

// GuardWiden asks before an update after which a request passes that was refused
// before: another ability, network or origin, a later end, a suspended key that
// works again. What narrows a key is free, as everything is that makes a
// merchant safer.
func GuardWiden(factors ...string) StepUp { return guard(factors, ActionWiden, ActionResume) }

func guard(factors []string, actions ...Action) StepUp {
	factors = slices.Clone(factors)
	return func(a Action, _ Mode) []string {
		if slices.Contains(actions, a) {
			return slices.Clone(factors)
		}
		return nil
	}
}

// guardable are the actions that StepUp may name factors for.
var guardable = append([]Action{
	ActionIssue, ActionProvision, ActionUpdate, ActionWiden, ActionResume, ActionRotate, ActionReveal, ActionRevoke,
}, forAnother...)

// forAnother are those that an admin does for another.
var forAnother = []Action{ActionAllowEnrollment, ActionDisable, ActionLiftLock}

// together are those that one request can turn out to be at the same time.
var together = []Action{ActionUpdate, ActionWiden, ActionResume}

// validStepUp fails the start where a guard could never be passed, would not
// hold, or could hold up what must never be held up.
func (c ManagerConfig) validStepUp() error {
	for name, f := range c.Factors {
		if f == nil || name == "" || len(name) > 64 || !storable(name) {
			return invalid("ManagerConfig.Factors: %s is nil, or its name is not 1 to 64 bytes of valid UTF-8", quote(name))
		}
		if _, enrolls := f.(Enroller); enrolls && len(c.KEKs) == 0 {
			return invalid("factor %s seals what it keeps: it needs a KEK in ManagerConfig.KEKs", quote(name))
		}
	}
	if c.StepUp == nil {
		return nil
	}
	for _, mode := range []Mode{Live, Test} {
		for _, act := range actions {
			named := c.StepUp(act, mode)
			if len(named) > 0 && !slices.Contains(guardable, act) {
				return invalid("StepUp(%s, %s) names factors: that action is never guarded; these can be: %v", act, mode, guardable)
			}
			for _, name := range named {
				if c.Factors[name] == nil {
					return invalid("StepUp(%s, %s) names factor %s, which is not in ManagerConfig.Factors: %v", act, mode, quote(name), slices.Sorted(maps.Keys(c.Factors)))
				}
			}
		}
		if common, guarded := inCommon(c.StepUp, []Mode{mode}, together); guarded && len(common) == 0 {
			return invalid("StepUp: one update in mode %s can be all of %v, and no factor approves each that is guarded", mode, together)
		}
	}
	if common, guarded := inCommon(c.StepUp, []Mode{Live, Test}, []Action{ActionProvision}); guarded && len(common) == 0 {
		return invalid("StepUp: one %s makes a key in each mode, and no factor approves both", ActionProvision)
	}
	return nil
}

// inCommon are the factors that approve each of the actions that is guarded, in each
// of the modes.
func inCommon(factorsFor StepUp, modes []Mode, acts []Action) (factors []string, guarded bool) {
	for _, act := range acts {
		for _, mode := range modes {
			switch approve := factorsFor(act, mode); {
			case len(approve) == 0:
			case !guarded:
				factors, guarded = slices.Clone(approve), true
			default:
				factors = slices.DeleteFunc(factors, func(f string) bool { return !slices.Contains(approve, f) })
			}
		}
	}
	return factors, guarded
}
