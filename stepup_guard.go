package apikey

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
)

// StepUp names the factors that approve an action in a mode; one of them is enough. If
// it names none, the action is not guarded. StepUp must answer from memory, and always
// the same. These can be guarded: ActionIssue, ActionProvision, ActionUpdate,
// ActionWiden, ActionResume, ActionRotate, ActionReveal and ActionRevoke; a Revoke with
// [ReasonCompromised] never is. If one update is several of these, the factor has to
// approve each.
//
// Actions on another actor can be guarded too: ActionAllowEnrollment, ActionDisable and
// ActionLiftLock. They have no mode, and StepUp is called with Live. An [Operator]
// never needs a grant for those, so that there is always somebody who can unlock an
// account.
//
// The ready-made guards below are named after the actions that they guard. Each of them
// guards these three as well. A StepUp that is written by hand has to name factors for
// them too ([GuardForAnother] does). Otherwise somebody who has hijacked two sessions
// uses one to let the other enrol an authenticator of its own, and passes every guard
// without a guess. If these three are left out, NewManager writes a warning to
// Settings.Logger.
type StepUp func(Action, Mode) []string

// GuardCreateAndDelete asks for an approval before a key is issued and before it is
// revoked, as Xendit's page asks for the password at both. It does not ask if a key is
// revoked with [ReasonCompromised]: nobody has to find a password while a key is being
// abused.
func GuardCreateAndDelete(factors ...string) StepUp {
	return guard(factors, ActionIssue, ActionRevoke)
}

// GuardRevealAndRotate asks for an approval before a token is shown again and before it
// is replaced, as DOKU's page asks for the code that it has mailed.
func GuardRevealAndRotate(factors ...string) StepUp {
	return guard(factors, ActionReveal, ActionRotate)
}

// GuardRotate asks for an approval before a token is replaced, as Okto's page has
// people sign in again before it hands out a secret. Okto keeps no secret, so that to
// hand one out, the first time or after it was lost, is to replace it.
func GuardRotate(factors ...string) StepUp { return guard(factors, ActionRotate) }

// GuardIssueAndReveal asks for an approval before a key is issued and before its token
// is looked at later: for a page that confirms a new key with a PIN, and lists it to be
// looked at again. If such a page asks for nothing at the second look, a hijacked
// session reads every secret; this guard asks at both. It does not ask for a rotation, which
// shows a new token too, but stops the old one: nobody gets it unnoticed.
func GuardIssueAndReveal(factors ...string) StepUp { return guard(factors, ActionIssue, ActionReveal) }

// GuardWiden asks for an approval before an update that lets a request pass which was
// refused before: another ability, network or origin, a later end, a suspended key that
// works again. An update that narrows a key needs no approval, as nothing does that
// makes a merchant safer.
func GuardWiden(factors ...string) StepUp { return guard(factors, ActionWiden, ActionResume) }

// GuardForAnother asks for an approval before an admin does something for another actor
// that could undo a guard: allows an enrolment, takes a factor away, or lifts a lock.
// It is part of every guard above; a StepUp that is written by hand has to call it.
func GuardForAnother(factors ...string) StepUp { return guard(factors) }

func guard(factors []string, actions ...Action) StepUp {
	factors = slices.Clone(factors)
	return func(a Action, _ Mode) []string {
		if slices.Contains(actions, a) || slices.Contains(forAnother, a) {
			return slices.Clone(factors)
		}
		return nil
	}
}

// guardable are the actions that StepUp may name factors for.
var guardable = append([]Action{
	ActionIssue, ActionProvision, ActionUpdate, ActionWiden, ActionResume, ActionRotate, ActionReveal, ActionRevoke,
}, forAnother...)

// forAnother are the actions of an admin on another actor.
var forAnother = []Action{ActionAllowEnrollment, ActionDisable, ActionLiftLock}

// together are the actions that one request can turn out to be at the same time.
var together = []Action{ActionUpdate, ActionWiden, ActionResume}

// factorsFor returns the factors that StepUp names for an action. Actions that have no
// mode are asked about with Live.
func (c ManagerConfig) factorsFor(act Action, m Mode) []string {
	if c.StepUp == nil {
		return nil
	}
	return c.StepUp(act, cmp.Or(m, Live))
}

// reveals reports whether Reveal shows a token of a mode at all.
func (c ManagerConfig) reveals(m Mode) bool {
	return c.InsecureRevealWithoutStepUp || len(c.factorsFor(ActionReveal, m)) > 0
}

// validStepUp refuses a configuration whose guards could never be passed, would not
// hold, or could delay an action that nothing may delay.
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

// warnUnguarded logs a warning if two hijacked sessions can get round StepUp: it guards
// some action, but not those of an admin on another actor, which can undo the guard.
func (c ManagerConfig) warnUnguarded(log *slog.Logger) {
	guards := func(act Action) bool {
		return c.StepUp != nil && len(c.StepUp(act, Live))+len(c.StepUp(act, Test)) > 0
	}
	var free []Action
	for _, act := range forAnother {
		if !guards(act) {
			free = append(free, act)
		}
	}
	if len(free) > 0 && slices.ContainsFunc(guardable, guards) {
		log.Warn("apikey: StepUp guards something, and leaves free what one admin does for another: two hijacked sessions pass the guard. Name factors for these actions too; see GuardForAnother", "actions", free)
	}
}

// inCommon returns the factors that approve each of the actions that is guarded, in
// each of the modes.
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
