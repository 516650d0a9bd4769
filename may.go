package apikey

import (
	"cmp"
	"context"
)

// May reports whether the actor of ctx may do this to this key now: nil, or the error
// with which the action would be refused. A page calls it for each row, to draw only the
// buttons that work. May decides by the account, Policy, Standing, Products and the state
// of the key, with the functions that the action itself passes. It reads nothing from the
// store and records nothing: it writes no event, and calls no Trace.Denied. What May
// answers is a hint: the action decides anew, on what is stored then.
//
// k is the key as Get or List returned it. ActionRetire and ActionReveal are about the
// token k.Credential, which is the current one unless the caller sets another.
// ActionWiden is an update that lets the key do more; Policy is asked about ActionUpdate.
//
// A k with the zero ID is about no existing key, and has what is known: for ActionIssue
// the new key, as far as the form has it (without a Mode: may there be a key in either
// mode); for ActionProvision the account, name and abilities; for ActionRead,
// ActionReadEvents and ActionRevoke (RevokeAll) the filters Account, Mode and Kind; for
// the others the Account, which may be empty as in their requests. ActionDisable is about
// another actor's factor.
//
// Nil does not mean that the action cannot fail. A guarded action still has to be
// approved: [Manager.Rules] lists the factors. May does not know what the request will
// ask for, nor what only the store knows: limits, locks, lifts, idempotency keys, keys
// that Provision made before, a newer version of the key, a record that is damaged, a KEK
// that fails.
//
// Policy is asked as for the action. A [ChangePolicy] is shown in after what follows from
// k: the key as suspended, resumed, revoked, rotated now, or without the token; for
// ActionIssue and ActionProvision the new keys; for ActionUpdate and ActionWiden after
// equals before. Errors: those of the action, and ErrInvalid for an action that no actor
// asks for (ActionRevokeToken, ActionLock) or that does not exist.
func (m *Manager) May(ctx context.Context, action Action, k Info) error {
	plain, known := plainJobs[action]
	if !known {
		return wrong("action", InvalidUnknown, "%s is no action that an actor may or may not do", quote(string(action))).part(string(action))
	}
	modes := []Mode{k.Mode}
	if action == ActionIssue && k.Mode == 0 { // no key is issued without one
		modes = []Mode{Live, Test}
	}
	var refused error // of the first mode
	for _, mode := range modes {
		about := k
		about.Mode = mode
		s := m.own()
		s.inHand = &about
		j := plain(s, about).reading(func(Actor, *StoreRecord) error { return nil })
		j.aim = toInspect // an Info has no MAC
		err := s.do(ctx, j)
		if err == nil {
			return nil
		}
		refused = cmp.Or(refused, err)
	}
	return refused
}

// plainJobs has a function for each action, which makes its job about an Info, with the
// plainest request.
var plainJobs = map[Action]func(session, Info) job{
	ActionIssue: func(_ session, k Info) job {
		j := newIssuing(requestOf(k)).approval().job
		j.refuses = nil // what is stored: idempotency keys and limits
		return j
	},
	ActionProvision: func(_ session, k Info) job {
		p := &provisioning{ProvisionRequest: ProvisionRequest{Account: k.Account, Name: k.Name, Abilities: recordOf(k).Abilities}, fresh: true}
		return p.approval().job
	},
	ActionRead: func(_ session, k Info) job {
		return keyOr(ofAnyAccount(ActionRead, k.Account).in(k.Mode, k.Kind), k)
	},
	ActionReadEvents: func(_ session, k Info) job {
		return keyOr(ofAnyAccount(ActionReadEvents, k.Account).in(k.Mode, 0), k)
	},
	ActionUpdate: func(_ session, k Info) job { return UpdateRequest{Key: k.ID}.guarded().job },
	ActionWiden: func(_ session, k Info) job {
		j := UpdateRequest{Key: k.ID}.guarded().job
		j.widens = true
		return j
	},
	ActionSuspend: func(_ session, k Info) job { return ofKey(ActionSuspend, k.ID).lessening(suspend) },
	ActionResume:  func(_ session, k Info) job { return ResumeRequest{Key: k.ID}.guarded().job },
	ActionRevoke: func(_ session, k Info) job {
		if k.ID.IsZero() {
			return ofAccount(ActionRevoke, k.Account).in(k.Mode, k.Kind)
		}
		return RevokeRequest{Key: k.ID}.guarded().job
	},
	ActionRotate:         func(_ session, k Info) job { return RotateRequest{Key: k.ID}.guarded().job },
	ActionCancelRotation: func(s session, k Info) job { return s.cancelling(k.ID) },
	ActionRetire: func(s session, k Info) job {
		return s.retiring(RetireRequest{Key: k.ID, Credential: k.Credential})
	},
	ActionReveal: func(_ session, k Info) job {
		return RevealRequest{Key: k.ID, Credential: k.Credential}.guarded().job
	},
	ActionAllowEnrollment:   func(_ session, k Info) job { return ofAnyAccount(ActionAllowEnrollment, k.Account) },
	ActionDisable:           func(_ session, k Info) job { return ofAnyAccount(ActionDisable, k.Account) },
	ActionLiftLock:          func(_ session, k Info) job { return ofAnyAccount(ActionLiftLock, k.Account) },
	ActionEnroll:            func(session, Info) job { return ofActor(ActionEnroll) },
	ActionConfirmEnrollment: func(session, Info) job { return ofActor(ActionConfirmEnrollment) },
	ActionConfirm:           func(session, Info) job { return ofActor(ActionConfirm) },
	ActionRemac:             func(session, Info) job { return ofStore(ActionRemac) },
	ActionReseal:            func(session, Info) job { return ofStore(ActionReseal) },
	ActionPepper:            func(session, Info) job { return ofStore(ActionPepper) },
}

// keyOr returns the job about the key k or, if that has no ID, about a list.
func keyOr(list job, k Info) job {
	if k.ID.IsZero() {
		return list
	}
	return ofKey(list.action, k.ID)
}

// requestOf returns the request for a new key like k.
func requestOf(k Info) IssueRequest {
	r := recordOf(k)
	return IssueRequest{
		Account: r.Account, Mode: r.Mode, Kind: r.Kind, Name: r.Name, Abilities: r.Abilities, ExpiresAt: r.ExpiresAt,
		Networks: r.Networks, Origins: r.Origins, Metadata: r.Metadata, RotateMonths: r.RotateMonths,
		Disabled: r.Disabled, Recoverable: r.Recoverable,
	}
}
