package apikey

import (
	"context"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
	"github.com/go-apikey/apikey/internal/spell"
)

// RotateRequest gives a key a new token. The key's ID, name, abilities and
// settings stay.
//
//	now                     the new token is valid; every other one ends
//	now, Overlap 24 h       the new token is valid; the old one for 24 h more
//	At T                    the new token is valid from T on; the old one until T
//	At T, Overlap 24 h      the new token is valid from T on; the old one until T + 24 h
//
// Around T each token is accepted for ManagerConfig.Skew longer than that, because the
// clocks of several machines never agree.
type RotateRequest struct {
	Key KeyID
	// IfVersion makes Rotate fail with ErrConflict unless the key is at this version; 0:
	// any version.
	IfVersion uint64
	At        time.Time // in the future, before the key's expiry; zero: now
	// Overlap is how long the old token works beside the new one, up to Limits.Overlap and
	// never past the key's expiry or the year 9999. Overlap counts from At. Without At it
	// counts from now: the time when the new token has been hashed and the rotation is
	// about to be written, however long the hash had to wait. In a [Tx] that is before the
	// caller commits. Overlap never prolongs a token that was to end sooner. An
	// [InvalidError] names it "overlap_seconds", as the JSON of [Rules] does.
	Overlap time.Duration
	// Replace ends a pending rotation, and an older token that still overlaps. Without
	// Replace they make a rotation with At or Overlap fail; a rotation now without overlap
	// ends both anyway. If a rotation with At replaces a pending one, that one is called
	// off: Policy is asked about ActionCancelRotation as well.
	Replace bool

	Grant Grant `json:"-"` // if StepUp guards ActionRotate
}

func (r RotateRequest) guarded() approval {
	return approval{
		job: job{
			action: ActionRotate, subject: aKey, key: r.Key, ifVersion: r.IfVersion, stands: true,
			plan: func(_ context.Context, s session, _ Actor, stored *StoreRecord, now time.Time) ([]planned, error) {
				room, err := s.planRoom(stored, r, now)
				if err != nil {
					return nil, err
				}
				return []planned{{stored, room.madeIn(stored)}}, nil
			},
		},
		sum: sumOf(ActionRotate, func(c *canon.Writer) {
			c.Bytes(r.Key[:])
			c.Uint(r.IfVersion)
			c.Time(r.At)
			c.Uint(uint64(r.Overlap))
			c.Bool(r.Replace)
		}),
		says: r.says(),
	}
}

// says tells the person who approves what a rotation does to the tokens of the key.
func (r RotateRequest) says() []string {
	from := "now"
	if !r.At.IsZero() {
		from = moment(r.At)
	}
	lines := []string{"a new token that works from " + from}
	switch {
	case r.Overlap > 0:
		lines = append(lines, "the present token works "+spell.Duration(r.Overlap)+" longer")
	case r.At.IsZero():
		lines = append(lines, "all tokens that the key has now end at once")
	default:
		lines = append(lines, "the present token works until then")
	}
	if r.Replace {
		lines = append(lines, "what an earlier rotation left over ends")
	}
	return lines
}

// Rotate makes a new token and returns it. A secret token is returned only this once.
// Nothing has to run at the time At: when a token begins and ends is stored, and every
// verification checks it, so no crash, restart or sleeping worker can miss a switch.
//
// If the response with the new token is lost, nobody has that token; the old one works
// until its overlap ends. Retire the new credential, which is the current one, and
// rotate again. Do not use Replace: it would end the old token, which is still in use.
//
// Errors: those of the table in the package documentation, and:
//   - ErrRevoked, ErrSuspended, ErrExpired: such keys are not rotated
//   - ErrRotationPending, ErrOverlapRunning: see RotateRequest.Replace
//   - ErrStanding, ErrBusy
//   - ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked
func (m *Manager) Rotate(ctx context.Context, req RotateRequest) (Issued, error) {
	return m.own().rotate(ctx, req)
}

func (s session) rotate(ctx context.Context, req RotateRequest) (issued Issued, err error) {
	var cred *StoreCredential
	var token Token
	j := req.guarded().asking(req.Grant)
	j.work = func(_ Actor, stored *StoreRecord) (effect, error) {
		if cred == nil { // once: a retry after a conflict keeps token and hash
			var group string
			if len(stored.Credentials) > 0 {
				group = groupOf(stored.Credentials[0].ID)
			}
			c, t, err := s.newCredential(ctx, stored, group)
			if err != nil {
				return effect{}, err
			}
			cred, token = &c, t
		}
		// The time is read here, because hashing may have waited for seconds: an overlap that
		// counted from an earlier time could end before anybody has the new token.
		now := s.settings.Now()
		room, err := s.planRoom(stored, req, now)
		if err != nil {
			return effect{}, err
		}
		r, c := room.madeIn(stored), *cred
		var also Action
		switch {
		case !req.At.IsZero():
			if stored.pending(now, s.skew) != nil { // it is called off for a later one: the old token goes on
				also = ActionCancelRotation
			}
			c.NotBefore = micros(req.At.Add(-s.skew))
			r.RotateDue = r.due(s.skew) // without the new token: due counts its months from NotBefore
		case r.RotateMonths > 0:
			r.RotateDue = monthsAfter(now, r.RotateMonths)
		}
		r.Credentials = slices.Insert(r.Credentials, 0, c)
		r.trim(now)
		issued = Issued{token, s.describeAll(r, now)}
		issued.Key.Version++
		return effect{made: []made{{record: r, credential: c.ID, changed: []string{"credentials"}}}, also: also}, nil
	}
	if err := s.do(ctx, j); err != nil {
		return Issued{}, err
	}
	return issued, nil
}

// due is when the key is due to be rotated; zero: never. A scheduled rotation puts this
// date off, but not in the record: RotateDue stays as the tokens before set it, and due
// counts the months from NotBefore of each token that has one and has not ended. So a
// rotation that is called off leaves no trace.
func (r *StoreRecord) due(skew time.Duration) time.Time {
	due := r.RotateDue
	for _, c := range r.Credentials {
		if r.RotateMonths == 0 || c.Ended || c.NotBefore.IsZero() {
			continue
		}
		if t := monthsAfter(c.NotBefore.Add(skew), r.RotateMonths); t.After(due) {
			due = t
		}
	}
	return due
}

// keptEnded is how many ended credentials a record still lists.
const keptEnded = 8

// trim drops the oldest ended credentials beyond keptEnded. Their events stay.
func (r *StoreRecord) trim(now time.Time) {
	over := 0
	r.Credentials = slices.DeleteFunc(r.Credentials, func(c StoreCredential) bool {
		if c.live(now) {
			return false
		}
		over++
		return over > keptEnded
	})
}

// CancelRotation ends the pending token before its time (RotateRequest.At). The current
// token goes on, and the key is due to be rotated when it was before. CancelRotation
// needs the Policy's permission and nothing else. Errors: those of the table in the
// package documentation, and:
//   - ErrNoRotation: no rotation is pending, or its time has passed
//   - ErrRevoked
func (m *Manager) CancelRotation(ctx context.Context, id KeyID) error {
	s := m.own()
	return s.do(ctx, s.cancelling(id))
}

// cancelling is the job of CancelRotation.
func (s session) cancelling(id KeyID) job {
	return job{
		action: ActionCancelRotation, subject: aKey, key: id,
		plan: func(_ context.Context, s session, _ Actor, stored *StoreRecord, now time.Time) ([]planned, error) {
			m, err := s.callOff(stored, now)
			return []planned{{stored, m.record}}, err
		},
		work: func(_ Actor, stored *StoreRecord) (effect, error) {
			m, err := s.callOff(stored, s.settings.Now())
			return effect{made: []made{m}}, err
		},
	}
}

// callOff returns a copy of a record without its pending rotation. If there is an
// error, the copy is unchanged.
func (s session) callOff(stored *StoreRecord, now time.Time) (made, error) {
	r := stored.clone()
	if r.State() == Revoked {
		return made{record: &r}, ErrRevoked
	}
	c := r.pending(now, s.skew)
	if c == nil {
		return made{record: &r}, ErrNoRotation
	}
	r.withdraw(c, now)
	return made{record: &r, credential: c.ID, changed: []string{"credentials"}}, nil
}

// RetireRequest names the credential to end.
type RetireRequest struct {
	Key        KeyID
	Credential CredentialID
}

// Retire ends one token of a key at once: the old token, when CredentialInfo
// shows that nobody uses it any more, or a leaked one. Like Suspend, Retire only
// takes power away. Retiring a pending token is CancelRotation. If the token is the
// key's only one, no token proves the key until the key is rotated. If the credential
// has ended already, Retire returns nil. Its errors are those of [Manager.Suspend]; a
// credential that the key does not have is ErrNotFound.
func (m *Manager) Retire(ctx context.Context, req RetireRequest) error {
	s := m.own()
	return s.do(ctx, s.retiring(req))
}

// retiring is the job of Retire. An actor who may not call a rotation off must not do it
// through Retire.
func (s session) retiring(req RetireRequest) job {
	edit := func(r *StoreRecord, now time.Time) (made, bool) { return r.retire(req.Credential, now, s.skew) }
	j := ofKey(ActionRetire, req.Key).lessening(edit)
	j.refuses = func(_ context.Context, _ session, _ Actor, stored *StoreRecord) error {
		if stored.credential(req.Credential) == nil {
			return ErrNotFound
		}
		return nil
	}
	j.also = func(stored *StoreRecord, now time.Time) Action {
		if c := stored.pending(now, s.skew); c != nil && c.ID == req.Credential && stored.State() != Revoked {
			return ActionCancelRotation
		}
		return ""
	}
	j.work = func(_ Actor, stored *StoreRecord) (effect, error) { return s.lessened(stored, edit), nil }
	return j
}

// retire ends a single credential, for Retire and for RevokeToken.
func (r *StoreRecord) retire(id CredentialID, now time.Time, skew time.Duration) (made, bool) {
	c := r.credential(id)
	if c == nil || c.Ended {
		return made{}, false
	}
	if r.pending(now, skew) == c {
		r.withdraw(c, now)
	} else {
		c.end()
	}
	return made{credential: id, changed: []string{"credentials"}}, true
}
