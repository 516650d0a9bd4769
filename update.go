package apikey

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// Field is one field of an update, in three states: the zero Field keeps what
// is there, [Clear] empties it, [Set] replaces it. From JSON: absent keeps,
// null clears, a value sets (RFC 7396).
type Field[T any] struct {
	state uint8 // 0 keep, 1 clear, 2 set
	value T
}

// Set replaces a field.
func Set[T any](value T) Field[T] { return Field[T]{2, value} }

// Clear empties a field.
func Clear[T any]() Field[T] { return Field[T]{state: 1} }

// UnmarshalJSON reads null as [Clear] and anything else as [Set].
func (f *Field[T]) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*f = Clear[T]()
		return nil
	}
	var value T // a fresh one: decoding into what is there would merge maps
	if err := json.Unmarshal(b, &value); err != nil {
		return err
	}
	*f = Set(value)
	return nil
}

// MarshalJSON writes the value, or null for [Clear]. What null would not say is
// an error, because it would come back as Clear and take a restriction or an
// expiry away: a field that keeps what is there (give the struct's field the
// omitzero option, which leaves it out), and a value that is itself null, such as
// a nil slice.
func (f Field[T]) MarshalJSON() ([]byte, error) {
	switch f.state {
	case 0:
		return nil, invalid("a Field that keeps what is there has no JSON: give the struct's field the option omitzero")
	case 1:
		return []byte("null"), nil
	}
	b, err := json.Marshal(f.value)
	if err == nil && string(b) == "null" {
		return nil, invalid("a Field that is set to null would be read as cleared: use Clear, or an empty value that is not nil")
	}
	return b, err
}

// IsZero reports whether the field keeps what is there.
func (f Field[T]) IsZero() bool { return f.state == 0 }

// onto applies the field to what is there.
func (f Field[T]) onto(have *T) {
	if f.state != 0 {
		*have = f.value // the zero value when it clears
	}
}

// UpdateRequest changes what a key is called and may do. Token, mode, kind and
// account never change.
type UpdateRequest struct {
	Key KeyID
	// IfVersion makes the update fail with ErrConflict unless the key is at this
	// version; 0: whatever it is at.
	IfVersion uint64

	Name      Field[string]    `json:",omitzero"`
	Abilities Field[[]string]  `json:",omitzero"`
	ExpiresAt Field[time.Time] `json:",omitzero"` // in the future; cleared: never. The zero time is refused
	// Cleared: any address, any origin. An empty list is refused where it would
	// lift the restriction: it may as well mean that nothing is allowed.
	Networks Field[[]netip.Prefix] `json:",omitzero"`
	Origins  Field[[]string]       `json:",omitzero"`

	Metadata     Field[map[string]string] `json:",omitzero"`
	RotateMonths Field[int]               `json:",omitzero"` // counts from now; cleared: never
	// Disabled: true suspends, false resumes, and so does cleared. Unlike Suspend it
	// can be guarded, and conflicts.
	Disabled Field[bool] `json:",omitzero"`

	// Grant, when StepUp guards ActionUpdate, or what this update turns out to be:
	// ActionWiden, ActionResume.
	Grant Grant `json:"-"`
}

func (r UpdateRequest) guarded() approval {
	return approval{
		job:    job{action: ActionUpdate, subject: aKey, key: r.Key, ifVersion: r.IfVersion, refuses: notRevoked, plan: edits(r.edit)},
		others: []Action{ActionWiden, ActionResume},
		sum: sumOf(ActionUpdate, func(c *canon.Writer) {
			c.Bytes(r.Key[:])
			c.Uint(r.IfVersion)
			for _, s := range settings {
				s.sumUpdate(c, &r)
			}
		}),
	}
}

// Update changes a key and returns it as it is then. An update that changes
// nothing writes nothing. Errors: ErrNoActor, ErrNotFound, ErrForbidden,
// ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked, ErrRevoked,
// ErrInvalid, ErrLimit (also when it would bring a key back to life beyond the
// limit), ErrStanding, ErrConflict, ErrCorrupt, ErrUnavailable.
func (m *Manager) Update(ctx context.Context, req UpdateRequest) (Info, error) {
	return m.own().update(ctx, req)
}

func (s session) update(ctx context.Context, req UpdateRequest) (info Info, err error) {
	return s.change(ctx, req.guarded().asking(req.Grant), req.edit)
}

// edit is what the request does to a record. All that is not plain is refused before
// anything is changed, because plain compares with the record as it is.
func (req UpdateRequest) edit(r *StoreRecord, now time.Time) error {
	for _, s := range settings {
		if err := s.refuse(&req, r); err != nil {
			return err
		}
	}
	for _, s := range settings {
		if err := s.change(&req, r, now); err != nil {
			return err
		}
	}
	return nil
}

func notRevoked(_ context.Context, _ session, _ Actor, r *StoreRecord) error {
	if r.State() == Revoked {
		return ErrRevoked
	}
	return nil
}

// change is what every method does that edits a living key: it checks the result,
// counts a key that comes to life, and names what changed.
func (s session) change(ctx context.Context, j job, edit func(*StoreRecord, time.Time) error) (info Info, err error) {
	j.work = func(_ Actor, stored *StoreRecord) (effect, error) {
		now := s.cfg.Now()
		r, err := s.edited(stored, now, edit)
		if err != nil {
			return effect{}, err
		}
		changed := namesOf(differences(stored, r))
		if info = s.describeAll(r, now); len(changed) == 0 {
			return effect{}, nil
		}
		info.Version++
		e := effect{made: []made{{record: r, changed: changed}}, widens: s.widens(stored, r)}
		switch { // by whatever method: who may not resume must not do it through Update
		case r.Disabled && !stored.Disabled:
			e.also = ActionSuspend
		case stored.Disabled && !r.Disabled:
			e.also = ActionResume
		}
		if r.works(now) {
			items, err := s.revived(ctx, stored, r, now)
			if err != nil {
				return effect{}, err
			}
			e.items = items
		}
		return e, nil
	}
	if err := s.do(ctx, j); err != nil {
		return Info{}, err
	}
	return info, nil
}

// edits is the plan of what edits a key.
func edits(edit func(*StoreRecord, time.Time) error) func(context.Context, session, Actor, *StoreRecord, time.Time) ([]planned, error) {
	return func(_ context.Context, s session, _ Actor, stored *StoreRecord, now time.Time) ([]planned, error) {
		r, err := s.edited(stored, now, edit)
		if err != nil {
			return nil, err
		}
		return []planned{{stored, r}}, nil
	}
}

// edited is a copy of a record as an edit leaves it: checked, and in its one form.
func (s session) edited(stored *StoreRecord, now time.Time, edit func(*StoreRecord, time.Time) error) (*StoreRecord, error) {
	shallow := *stored
	if err := edit(&shallow, now); err != nil {
		return nil, err
	}
	r := shallow.clone() // deep: what the caller passed is sorted in the copy
	return &r, s.valid(&r, differences(stored, &r))
}

// revived keeps the count of live keys exact: a key that comes to life is
// counted; one that is prolonged only makes those who count now count again,
// because its old end may come before this is written.
func (s session) revived(ctx context.Context, stored, r *StoreRecord, now time.Time) ([]StoreItem, error) {
	switch {
	case !stored.works(now):
		quota, err := s.quota(ctx, r.Account, r.Mode, now)
		return []StoreItem{quota}, err
	case !stored.ExpiresAt.IsZero() && !r.ExpiresAt.Equal(stored.ExpiresAt):
		c, err := s.count(ctx, itemQuota, r.Account, r.Mode)
		if err != nil {
			return nil, err
		}
		return []StoreItem{c.swap()}, nil
	}
	return nil, nil
}

// widens reports whether some request passes with the edited record that was
// refused with the stored one: an ability that nothing held before allows, more
// networks or origins, a later end, a suspended key that works again.
func (c *core) widens(stored, edited *StoreRecord) bool {
	before, after := c.describe(stored, CredentialID{}), c.describe(edited, CredentialID{})
	beyond := func(end, was time.Time) bool { return !was.IsZero() && (end.IsZero() || end.After(was)) }
	switch {
	case canAll(before.Abilities.s, after.Abilities.s) != nil,
		beyond(edited.ExpiresAt, stored.ExpiresAt),
		stored.Disabled && !edited.Disabled:
		return true
	case len(stored.Networks) > 0 && (len(edited.Networks) == 0 || !allIn(edited.Networks, stored.Networks, func(n, was netip.Prefix) bool {
		return was.Bits() <= n.Bits() && was.Contains(n.Addr())
	})):
		return true
	}
	return len(stored.Origins) > 0 && (len(edited.Origins) == 0 || !allIn(edited.Origins, stored.Origins, func(o, was string) bool { return o == was }))
}

// allIn reports whether each item is covered by one of those that were there.
func allIn[T any](items, were []T, covers func(item, was T) bool) bool {
	for _, item := range items {
		if !slices.ContainsFunc(were, func(was T) bool { return covers(item, was) }) {
			return false
		}
	}
	return true
}

// ResumeRequest names a suspended key.
type ResumeRequest struct {
	Key       KeyID
	IfVersion uint64 // 0: whatever it is at

	Grant Grant `json:"-"` // when StepUp guards ActionResume or ActionWiden
}

func (r ResumeRequest) guarded() approval {
	return approval{
		job:    job{action: ActionResume, subject: aKey, key: r.Key, ifVersion: r.IfVersion, refuses: notRevoked, plan: edits(resume)},
		others: []Action{ActionWiden}, // that is what it is
		sum: sumOf(ActionResume, func(c *canon.Writer) {
			c.Bytes(r.Key[:])
			c.Uint(r.IfVersion)
		}),
	}
}

// Resume brings a suspended key back; of one that is not suspended it is nil.
// Errors as for Update.
func (m *Manager) Resume(ctx context.Context, req ResumeRequest) error {
	_, err := m.own().change(ctx, req.guarded().asking(req.Grant), resume)
	return err
}

func resume(r *StoreRecord, _ time.Time) error {
	r.Disabled = false
	return nil
}
