package apikey

import (
	"cmp"
	"fmt"
	"time"
)

// roomPlan says what a rotation does to the credentials of a record, so that after it
// at most one outgoing, one current and one pending credential are live. The plan names
// credentials by ID (the zero ID: none), so that it fits each copy of the record.
type roomPlan struct {
	now time.Time // the plan is right for this instant

	endAll    bool         // the new token replaces all others at once; nothing else is set
	callOff   CredentialID // the pending one: its rotation is called off
	end       CredentialID // the outgoing one: it ends at once
	bound     CredentialID // the current one: it ends at boundedAt
	boundedAt time.Time
}

// planRoom refuses a rotation, or plans what becomes of the older credentials. It
// changes nothing. Policy and the person who approves are shown the record that the
// plan makes; the job's work plans again when the token has been hashed.
func (s session) planRoom(r *StoreRecord, req RotateRequest, now time.Time) (roomPlan, error) {
	until := s.overlapEnd(req, now)
	if err := cmp.Or(s.validTimes(req, until, now), rotatable(r, now), req.within(r.ExpiresAt, until, now)); err != nil {
		return roomPlan{}, err
	}
	if req.At.IsZero() && req.Overlap == 0 { // they end by a state, not at a time: no clock is involved
		return roomPlan{now: now, endAll: true}, nil
	}
	plan, p := roomPlan{now: now}, r.placesOf(now, s.skew)
	// An outgoing token is in the way only if it is still valid when the current one
	// becomes the outgoing one.
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
		// The current token has an end already. Another end would replace that one, which
		// nothing could restore when this rotation is cancelled.
		return roomPlan{}, overlapRunning(p.current)
	case end.IsZero() || until.Before(end):
		plan.bound, plan.boundedAt = p.current.ID, micros(until)
	}
	return plan, nil
}

// madeIn returns a copy of the record that the plan was made for, with the plan
// applied.
func (p roomPlan) madeIn(stored *StoreRecord) *StoreRecord {
	r := stored.clone()
	if p.endAll {
		for i := range r.Credentials {
			r.Credentials[i].end()
		}
		return &r
	}
	if c := r.credential(p.callOff); c != nil { // first: the bound below may set the end that withdraw removes
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

// overlapField is the name of RotateRequest.Overlap in an InvalidError: that of the limit in
// the JSON of Rules.
const overlapField = "overlap_seconds"

// validTimes refuses times of a request that no key could be rotated at.
func (s session) validTimes(req RotateRequest, until, now time.Time) error {
	most := s.limits.Overlap
	var overlap, at, end error
	if req.Overlap < 0 || req.Overlap > most {
		overlap = wrong(overlapField, InvalidOutOfRange, "Overlap %v: want 0 to %v", req.Overlap, most).within(0, int(most/time.Second))
	}
	if at = notTooFar("at", "At", req.At); at == nil && !req.At.IsZero() && !req.At.After(now) {
		at = wrong("at", InvalidPast, "At %s is not in the future; leave it out to rotate now", req.At.UTC().Format(time.RFC3339))
	}
	if overlap == nil && at == nil {
		field := "at"
		if req.Overlap > 0 {
			field = overlapField
		}
		end = notTooFar(field, "the end of the older token (At + Overlap, or At + Skew if that is later)", until)
	}
	return allWrong(overlap, at, end)
}

// rotatable refuses to rotate a key that is not used.
func rotatable(r *StoreRecord, now time.Time) error {
	switch {
	case r.State() == Revoked:
		return ErrRevoked
	case r.State() == Suspended:
		return fmt.Errorf("%w: resume it before it is rotated", ErrSuspended)
	case !r.works(now):
		return fmt.Errorf("%w: give it a new expiry before it is rotated", ErrExpired)
	}
	return nil
}

// begins returns when the new token is to be valid.
func (req RotateRequest) begins(now time.Time) time.Time {
	if req.At.IsZero() {
		return now
	}
	return req.At
}

// overlapEnd returns when the token before the new one ends.
func (s session) overlapEnd(req RotateRequest, now time.Time) time.Time {
	if req.At.IsZero() {
		return now.Add(req.Overlap)
	}
	return req.At.Add(max(req.Overlap, s.skew))
}

// within refuses a rotation that would not be over before the key expires.
func (req RotateRequest) within(expiry, until, now time.Time) error {
	field := ""
	switch {
	case expiry.IsZero():
	case !req.begins(now).Before(expiry):
		field = "at"
	case req.Overlap > 0 && until.After(expiry):
		field = overlapField
	}
	if field == "" {
		return nil
	}
	return wrong(field, InvalidAfterExpiry, "the key expires at %s, before the rotation is over: prolong it or choose an earlier time", expiry.Format(time.RFC3339))
}

func overlapRunning(c *StoreCredential) error {
	return fmt.Errorf("%w until %s: retire that token, rotate now without overlap, or set Replace; if nobody was given the newer one, retire that", ErrOverlapRunning, c.NotAfter.Format(time.RFC3339))
}

// places are the live credentials of a record, at most three. They point into the
// record.
type places struct{ pending, current, outgoing *StoreCredential }

func (r *StoreRecord) places(now time.Time) places { return r.placesWithout(nil, now) }

// placesWithout returns the places as if one credential had ended.
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

// placesOf returns the places for a rotation. In the last Skew before its time, a
// scheduled token is accepted already, but it still counts as pending.
func (r *StoreRecord) placesOf(now time.Time, skew time.Duration) places {
	p := r.places(now)
	if c := r.pending(now, skew); c != nil && p.current == c {
		p = places{pending: c, current: p.outgoing}
	}
	return p
}

// live reports whether the credential has not ended, and its NotAfter has not come. A
// pending credential is live.
func (c *StoreCredential) live(now time.Time) bool {
	return !c.Ended && (c.NotAfter.IsZero() || now.Before(c.NotAfter))
}

// end ends the credential for ever, without a clock, and drops the sealed copy.
func (c *StoreCredential) end() { c.Ended, c.Sealed, c.SealedKEK = true, nil, "" }

// pending returns the credential whose time T (RotateRequest.At) has not come; nil:
// there is none. It is accepted from Skew before T, and can be called off until T.
func (r *StoreRecord) pending(now time.Time, skew time.Duration) *StoreCredential {
	return r.places(now.Add(-skew)).pending
}

// withdraw ends a pending credential, and removes the end that the current one was
// given for it: otherwise the key would be left without a token because its next token
// was called off.
func (r *StoreRecord) withdraw(c *StoreCredential, now time.Time) {
	if bounded := r.boundedFor(c, now); bounded != nil {
		bounded.NotAfter = time.Time{}
	}
	c.end()
}

// boundedFor returns the credential that was given an end because c was to follow it;
// nil: there is none. Such an end is after the begin of c. A token that ends before c
// begins got its end from an earlier rotation, and keeps it, also if it is the current
// one by now.
func (r *StoreRecord) boundedFor(c *StoreCredential, now time.Time) *StoreCredential {
	if p := r.placesWithout(c, now); p.current != nil && p.current.NotAfter.After(c.NotBefore) {
		return p.current
	}
	return nil
}
