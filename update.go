package apikey

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// Field is one field of an update, in three states: the zero Field keeps the stored
// value, [Clear] empties it, [Set] replaces it. In JSON, an absent field keeps, null
// clears, and a value sets (RFC 7396).
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
	var value T // a fresh one: decoding into f.value would merge maps
	if err := json.Unmarshal(b, &value); err != nil {
		return err
	}
	*f = Set(value)
	return nil
}

// MarshalJSON writes the value, or null for [Clear]. Two cases are an error, because
// they would be read back as Clear, which removes a restriction or an expiry:
//   - a Field that keeps the stored value: give the struct's field the omitzero option,
//     which leaves it out
//   - a value that is itself null, such as a nil slice
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

// IsZero reports whether the field keeps the stored value.
func (f Field[T]) IsZero() bool { return f.state == 0 }

// onto applies the field to have.
func (f Field[T]) onto(have *T) {
	if f.state != 0 {
		*have = f.value // the zero value if the field clears
	}
}

// UpdateRequest changes the settings of a key. Token, mode, kind and account never
// change. The body of a PATCH request reads into it: a member that is absent keeps the
// setting, null clears it, a value sets it. Set Key afterwards, because the body may name
// another key.
type UpdateRequest struct {
	Key KeyID `json:"key,omitzero"`
	// IfVersion makes the update fail with ErrConflict unless the key is at this version;
	// 0: any version.
	IfVersion uint64 `json:"if_version,omitzero"`

	Name      Field[string]    `json:"name,omitzero"`
	Abilities Field[[]string]  `json:"abilities,omitzero"`
	ExpiresAt Field[time.Time] `json:"expires_at,omitzero"` // in the future; cleared: never. The zero time is ErrInvalid
	// Cleared: any address, any origin. If the key is restricted, an empty list is
	// ErrInvalid: it could also mean that nothing is allowed.
	Networks Field[[]netip.Prefix] `json:"networks,omitzero"`
	Origins  Field[[]string]       `json:"origins,omitzero"`

	Metadata     Field[map[string]string] `json:"metadata,omitzero"`
	RotateMonths Field[int]               `json:"rotate_months,omitzero"` // counts from now; cleared: never
	// Disabled: true suspends; false and cleared resume. Unlike Suspend, this can be
	// guarded by StepUp, and can fail with ErrConflict.
	Disabled Field[bool] `json:"disabled,omitzero"`

	// Grant, if StepUp guards ActionUpdate, or guards ActionWiden or ActionResume and this
	// update widens or resumes the key.
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

// Update changes a key, and returns the changed key. If nothing would change, Update
// writes nothing. Errors: those of the table in the package documentation, and:
//   - ErrRevoked
//   - ErrLimit: also when the key would work again, beyond the limit of live keys
//   - ErrStanding: when the update widens or resumes the key, or names abilities
//   - ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked
func (m *Manager) Update(ctx context.Context, req UpdateRequest) (Info, error) {
	return m.own().update(ctx, req)
}

func (s session) update(ctx context.Context, req UpdateRequest) (info Info, err error) {
	return s.change(ctx, req.guarded().asking(req.Grant), req.edit)
}

// edit applies the request to a record. A value that is not plain (see settingOf) is
// refused before the setting is changed, because plain compares with the stored value.
func (req UpdateRequest) edit(r *StoreRecord, now time.Time) error {
	checks := make([]error, len(settings))
	for i, s := range settings {
		if checks[i] = s.refuse(&req, r); checks[i] == nil {
			checks[i] = s.change(&req, r, now)
		}
	}
	return allWrong(checks...)
}

func notRevoked(_ context.Context, _ session, _ Actor, r *StoreRecord) error {
	if r.State() == Revoked {
		return ErrRevoked
	}
	return nil
}

// change does the work of every method that edits a key. It checks the result, counts a
// key that begins to work, and lists the settings that changed.
func (s session) change(ctx context.Context, j job, edit func(*StoreRecord, time.Time) error) (info Info, err error) {
	j.work = func(_ Actor, stored *StoreRecord) (effect, error) {
		now := s.settings.Now()
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
		switch { // by whatever method: an actor who may not resume must not do it through Update
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

// edits returns the plan of a job that edits a key.
func edits(edit func(*StoreRecord, time.Time) error) func(context.Context, session, Actor, *StoreRecord, time.Time) ([]planned, error) {
	return func(_ context.Context, s session, _ Actor, stored *StoreRecord, now time.Time) ([]planned, error) {
		r, err := s.edited(stored, now, edit)
		if err != nil {
			return nil, err
		}
		return []planned{{stored, r}}, nil
	}
}

// edited returns a copy of a record with an edit applied: checked, and in canonical
// form.
func (s session) edited(stored *StoreRecord, now time.Time, edit func(*StoreRecord, time.Time) error) (*StoreRecord, error) {
	shallow := *stored
	refused := edit(&shallow, now)
	r := shallow.clone() // deep: lists are sorted in the copy, not in the caller's slices
	err := allWrong(refused, s.valid(&r, differences(stored, &r)))
	if err == nil && !slices.Equal(stored.Abilities, r.Abilities) {
		err = s.hasProducts(&r)
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// revived keeps the count of live keys exact. If the key begins to work, it is counted.
// If only its expiry changes, the count is written as it is, so that other calls which
// count now conflict and count again: the key's old expiry may come before this is
// written.
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

// widens reports whether the edited record lets some request pass that the stored one
// refuses: it allows another ability, network or origin, expires later, or is no longer
// suspended.
func (c *core) widens(stored, edited *StoreRecord) bool {
	before, after := c.describe(stored, CredentialID{}), c.describe(edited, CredentialID{})
	beyond := func(end, was time.Time) bool { return !was.IsZero() && (end.IsZero() || end.After(was)) }
	switch {
	case edited.State() == Revoked: // for ever: it does no more, whatever was edited
		return false
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

// allIn reports whether each item is covered by one of were.
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
	IfVersion uint64 // 0: any version

	Grant Grant `json:"-"` // if StepUp guards ActionResume or ActionWiden
}

func (r ResumeRequest) guarded() approval {
	return approval{
		job:    job{action: ActionResume, subject: aKey, key: r.Key, ifVersion: r.IfVersion, refuses: notRevoked, plan: edits(resume)},
		others: []Action{ActionWiden}, // to resume a key is to widen it
		sum: sumOf(ActionResume, func(c *canon.Writer) {
			c.Bytes(r.Key[:])
			c.Uint(r.IfVersion)
		}),
	}
}

// Resume makes a suspended key work again. If the key is not suspended, and not
// revoked, Resume returns nil and writes nothing. Its errors are those of
// [Manager.Update].
func (m *Manager) Resume(ctx context.Context, req ResumeRequest) error {
	_, err := m.own().change(ctx, req.guarded().asking(req.Grant), resume)
	return err
}

func resume(r *StoreRecord, _ time.Time) error {
	r.Disabled = false
	return nil
}
