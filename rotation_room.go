package apikey

import (
	"cmp"
	"fmt"
	"time"
)

// roomPlan is what a rotation does to the credentials that a record has, so that
// after it at most one outgoing, one current and one pending credential are live.
// It names them by ID (the zero ID: none), so that one plan fits each copy of the
// record.
type roomPlan struct {
	now time.Time // the plan is right for this instant

	endAll    bool         // the new token replaces all others at once; nothing else is set
	callOff   CredentialID // the pending one: its rotation is called off
	end       CredentialID // the outgoing one: it ends at once
	bound     CredentialID // the current one: it ends at boundedAt
	boundedAt time.Time
}

// planRoom refuses a rotation, or plans the room for its token. It changes nothing:
// Policy and a person who approves are shown the record that the plan makes, and the
// work makes it again when the token has been hashed.
func (s session) planRoom(r *StoreRecord, req RotateRequest, now time.Time) (roomPlan, error) {
	if err := s.rotatable(r, req, now); err != nil {
		return roomPlan{}, err
	}
	if req.At.IsZero() && req.Overlap == 0 { // a state, not a time: no clock is involved
		return roomPlan{now: now, endAll: true}, nil
	}
	until, err := s.overlapEnd(r, req, now)
	if err != nil {
		return roomPlan{}, err
	}
	plan, p := roomPlan{now: now}, r.placesOf(now, s.skew)
	// An older token is in the way only if it would still be there when the
	// current one becomes the older one.
	overlaps := p.outgoing != nil && (req.At.IsZero() || p.outgoing.NotAfter.After(req.At.Add(-s.skew)))
	switch {
	case p.pending != nil && !req.Replace:
		return roomPlan{}, fmt.Errorf("%w: the new token's time begins at %s; cancel that rotation, or set Replace", ErrRotationPending, p.pending.NotBefore.Format(time.RFC3339))
	case overlaps && !req.Replace:
		return roomPlan{}, overlapRunning(p.outgoing)
	}
	if p.pending != nil {
		plan.callOff = p.pending.ID
	}
	if overlaps {
		plan.end = p.outgoing.ID
	}
	if p.current == nil {
		return plan, nil
	}
	end := p.current.NotAfter
	if p.pending != nil && r.boundedFor(p.pending, now) == p.current {
		end = time.Time{} // calling the pending rotation off takes this end away
	}
	switch {
	case !req.At.IsZero() && !end.IsZero():
		// It is on its way out already. Bounding it once more would leave nothing
		// to restore when this rotation is cancelled.
		return roomPlan{}, overlapRunning(p.current)
	case end.IsZero() || until.Before(end):
		plan.bound, plan.boundedAt = p.current.ID, micros(until)
	}
	return plan, nil
}

// madeIn is a copy of the record that the plan was made for, with the room made.
func (p roomPlan) madeIn(stored *StoreRecord) *StoreRecord {
	r := stored.clone()
	if p.endAll {
		for i := range r.Credentials {
			r.Credentials[i].end()
		}
		return &r
	}
	if c := r.credential(p.callOff); c != nil { // first: the bound below may replace the end that this takes away
		r.withdraw(c, p.now)
	}
	if c := r.credential(p.end); c != nil {
		c.end()
	}
	if c := r.credential(p.bound); c != nil {
		c.NotAfter = p.boundedAt
	}
	return &r
}

// rotatable refuses what is wrong whatever credentials the key has.
func (s session) rotatable(r *StoreRecord, req RotateRequest, now time.Time) error {
	switch {
	case req.Overlap < 0 || req.Overlap > s.limits.Overlap:
		return invalid("Overlap %v: want 0 to %v", req.Overlap, s.limits.Overlap)
	case r.State() == Revoked:
		return ErrRevoked
	case r.State() == Suspended:
		return fmt.Errorf("%w: resume it before it is rotated", ErrSuspended)
	case !r.works(now):
		return fmt.Errorf("%w: give it a new expiry before it is rotated", ErrExpired)
	case !req.At.IsZero() && !req.At.After(now):
		return invalid("At %s is not in the future; leave it out to rotate now", req.At.UTC().Format(time.RFC3339))
	}
	return nil
}

// overlapEnd is when the token before the new one ends. It refuses a rotation that
// would not be over before the key is.
func (s session) overlapEnd(r *StoreRecord, req RotateRequest, now time.Time) (time.Time, error) {
	from := req.At
	if from.IsZero() {
		from = now
	}
	until := from.Add(req.Overlap)
	if !req.At.IsZero() {
		until = from.Add(max(req.Overlap, s.skew))
	}
	if err := cmp.Or(notTooFar("At", from), notTooFar("the end of the older token (At + Overlap, or At + Skew if that is later)", until)); err != nil {
		return until, err
	}
	if !r.ExpiresAt.IsZero() && (!from.Before(r.ExpiresAt) || req.Overlap > 0 && until.After(r.ExpiresAt)) {
		return until, invalid("the key expires at %s, before the rotation is over: prolong it or choose an earlier time", r.ExpiresAt.Format(time.RFC3339))
	}
	return until, nil
}

func overlapRunning(c *StoreCredential) error {
	return fmt.Errorf("%w until %s: retire that token, rotate now without overlap, or set Replace; if nobody was given the newer one, retire that", ErrOverlapRunning, c.NotAfter.Format(time.RFC3339))
}

// places are the at most three live credentials of a record; they point into
// it.
type places struct{ pending, current, outgoing *StoreCredential }

func (r *StoreRecord) places(now time.Time) places { return r.placesWithout(nil, now) }

// placesWithout are the places if one credential had ended.
func (r *StoreRecord) placesWithout(ended *StoreCredential, now time.Time) (p places) {
	for i := range r.Credentials { // newest first
		c := &r.Credentials[i]
		switch {
		case c == ended || !c.live(now):
		case now.Before(c.NotBefore) && p.current == nil && p.pending == nil:
			p.pending = c
		case p.current == nil:
			p.current = c
		case p.outgoing == nil:
			p.outgoing = c
		}
	}
	return p
}

// placesOf are the places for a rotation: in the last Skew before its time a scheduled
// token is accepted already, and is still the one that is pending.
func (r *StoreRecord) placesOf(now time.Time, skew time.Duration) places {
	p := r.places(now)
	if c := r.pending(now, skew); c != nil && p.current == c {
		p = places{pending: c, current: p.outgoing}
	}
	return p
}

// live: not ended, and its end has not come. A pending credential is live.
func (c *StoreCredential) live(now time.Time) bool {
	return !c.Ended && (c.NotAfter.IsZero() || now.Before(c.NotAfter))
}

// end is for ever, and needs no clock. The sealed copy goes with it.
func (c *StoreCredential) end() { c.Ended, c.Sealed, c.SealedKEK = true, nil, "" }

// pending is the credential whose time T has not come, nil if there is none. Its
// window opens Skew before T, and until T itself it can be called off.
func (r *StoreRecord) pending(now time.Time, skew time.Duration) *StoreCredential {
	return r.places(now.Add(-skew)).pending
}

// withdraw ends a credential whose time has not come, and gives the current one
// its time back: a key must not die because the token that was to follow it was
// called off.
func (r *StoreRecord) withdraw(c *StoreCredential, now time.Time) {
	if bounded := r.boundedFor(c, now); bounded != nil {
		bounded.NotAfter = time.Time{}
	}
	c.end()
}

// boundedFor is the credential that was given an end because c was to follow it, nil
// if there is none. That end is beyond the begin of c. A token that was to end before
// c begins is not in its way, was bounded by an earlier rotation, and still ends then,
// also if it is the current one by now.
func (r *StoreRecord) boundedFor(c *StoreCredential, now time.Time) *StoreCredential {
	if p := r.placesWithout(c, now); p.current != nil && p.current.NotAfter.After(c.NotBefore) {
		return p.current
	}
	return nil
}
