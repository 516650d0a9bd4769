package apikey

import (
	"context"
	"fmt"
)

// LiftLockRequest names the actor whose guarded actions are locked.
type LiftLockRequest struct {
	Account string // empty: the caller's own; an Operator names it: their own are their fellow operators
	Actor   string // ID of the actor who is locked

	Grant Grant `json:"-"` // when StepUp guards ActionLiftLock
}

func (r LiftLockRequest) guarded() approval {
	ask := aboutActor(ActionLiftLock, "", r.Account, r.Actor)
	ask.job.first = func(ctx context.Context, s session, a Actor, _ *StoreRecord) error {
		_, _, err := s.liftable(ctx, a, r)
		return err
	}
	return ask
}

// LiftLock ends the lock of an actor's guarded actions, which a hundred wrong
// answers set. The actor has ten more guesses then, of which the next wrong ones
// count towards the next lock; the wrong answers of the last hour go on counting. If
// the actor is not locked, LiftLock does nothing and returns nil.
//
// Nobody lifts their own lock: another admin of the account does, or an [Operator].
// After three lifts in thirty days only an Operator lifts the lock of that actor
// (ErrForbidden for others): otherwise two hijacked sessions could lift each other's
// lock until a guess is right.
//
// Errors: ErrNoActor, ErrNotFound (another's account), ErrForbidden,
// ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked, ErrInvalid,
// ErrConflict, ErrUnavailable.
func (m *Manager) LiftLock(ctx context.Context, req LiftLockRequest) error {
	s := m.own()
	j := req.guarded().asking(req.Grant)
	j.work = func(a Actor, _ *StoreRecord) (effect, error) {
		b, target, err := s.liftable(ctx, a, req)
		if err != nil {
			return effect{}, err
		}
		if !b.locked() {
			return effect{}, nobody(a, req.Account, req.Actor)
		}
		now, note := s.cfg.Now(), s.note(a, ActionLiftLock, target.Account, "actor:"+target.ID)
		b.lift(note.ID.String(), now)
		return effect{items: []StoreItem{b.swap(now)}, note: note}, nil
	}
	return s.do(ctx, j)
}

// liftable is the budget whose lock this actor may lift, and whose it is.
func (s session) liftable(ctx context.Context, a Actor, req LiftLockRequest) (*budget, Actor, error) {
	target, err := another(a, req.Account, req.Actor)
	if err != nil {
		return nil, target, err
	}
	b, err := s.budgetOf(ctx, target)
	if err == nil && b.locked() && len(b.lifts) >= liftsAMonth && !a.operator {
		err = fmt.Errorf("%w: this lock was lifted %d times in thirty days: an operator lifts it", ErrForbidden, len(b.lifts))
	}
	return b, target, err
}
