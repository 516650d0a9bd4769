package apikey

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// settingOf is one setting of a key: something that a merchant chooses when the key is
// issued and can update later. T is its type. The functions of the first part are all
// needed; those of the second may be nil.
type settingOf[T any] struct {
	event string                         // its name in events
	of    func(*StoreRecord) *T          // the setting in a record
	asked func(*UpdateRequest) Field[T]  // the setting in an update
	same  func(a, b T) bool              // of two values in canonical form
	sum   func(c *canon.Writer, value T) // what grants and idempotency keys are bound to
	says  func(is, would T) string       // an update, in a line for people

	always bool // the event of an issue names it, also if it is empty
	// valid brings the value to canonical form and enforces limits. It is nil for
	// disabled, which cannot be wrong, and for the expiry, which validEnd compares with
	// the time.
	valid func(session, *StoreRecord) error
	// plain refuses an empty value that would remove the expiry of a key, or a
	// restriction: somebody may have forgotten to fill it in. Clear is how an update
	// removes them.
	plain func(have, value T) error
	// edit is how an update changes the setting, if it does more than replace the value.
	edit func(r *StoreRecord, value T, now time.Time) error
}

// settings lists every setting once. Validation, Issue, Update, the events and the
// lines of a challenge read it. Do not change the order: requests are summed in it, and
// the grants and idempotency keys that a store has are bound to those sums.
var settings = []setting{
	settingOf[string]{
		event: "name", always: true,
		of:    func(r *StoreRecord) *string { return &r.Name },
		asked: func(u *UpdateRequest) Field[string] { return u.Name },
		same:  func(a, b string) bool { return a == b },
		sum:   (*canon.Writer).Text,
		says:  func(_, would string) string { return "name: " + quoteForMail(would) },
		valid: session.validName,
	},
	settingOf[[]string]{
		event: "abilities", always: true,
		of:    func(r *StoreRecord) *[]string { return &r.Abilities },
		asked: func(u *UpdateRequest) Field[[]string] { return u.Abilities },
		same:  slices.Equal[[]string],
		sum:   (*canon.Writer).Texts,
		says:  func(is, would []string) string { return "abilities: " + gainsAndLosses(is, would) },
		valid: session.validAbilities,
	},
	settingOf[time.Time]{
		event: "expires_at",
		of:    func(r *StoreRecord) *time.Time { return &r.ExpiresAt },
		asked: func(u *UpdateRequest) Field[time.Time] { return u.ExpiresAt },
		same:  time.Time.Equal,
		sum:   (*canon.Writer).Time,
		says:  func(is, would time.Time) string { return "expires: " + moment(would) + ", before: " + moment(is) },
		plain: func(_, value time.Time) error {
			if micros(value).IsZero() {
				return wrong("expires_at", InvalidEmpty, "ExpiresAt is the zero time: clear it (null in JSON) for a key that never expires")
			}
			return nil
		},
		edit: func(r *StoreRecord, value, now time.Time) error {
			r.ExpiresAt = micros(value)
			return validEnd(value, now)
		},
	},
	settingOf[[]netip.Prefix]{
		event: "networks",
		of:    func(r *StoreRecord) *[]netip.Prefix { return &r.Networks },
		asked: func(u *UpdateRequest) Field[[]netip.Prefix] { return u.Networks },
		same:  slices.Equal[[]netip.Prefix],
		sum: func(c *canon.Writer, list []netip.Prefix) {
			c.Uint(uint64(len(list)))
			for _, n := range list {
				c.Text(n.String())
			}
		},
		says: func(is, would []netip.Prefix) string {
			return "networks: " + networks(would) + ", before: " + networks(is) + replaced(is, would)
		},
		valid: session.validNetworks,
		plain: func(have, value []netip.Prefix) error {
			if len(value) == 0 && len(have) > 0 {
				return wrong("networks", InvalidEmpty, "Networks is an empty list: clear it (null in JSON) to let any address use the key, or suspend the key")
			}
			return nil
		},
	},
	settingOf[[]string]{
		event: "origins",
		of:    func(r *StoreRecord) *[]string { return &r.Origins },
		asked: func(u *UpdateRequest) Field[[]string] { return u.Origins },
		same:  slices.Equal[[]string],
		sum:   (*canon.Writer).Texts,
		says: func(is, would []string) string {
			return "origins: " + origins(would) + ", before: " + origins(is) + replaced(is, would)
		},
		valid: session.validOrigins,
		plain: func(have, value []string) error {
			if len(value) == 0 && len(have) > 0 {
				return wrong("origins", InvalidEmpty, "Origins is an empty list: clear it (null in JSON) to let any origin use the key, or suspend the key")
			}
			return nil
		},
	},
	settingOf[map[string]string]{
		event: "metadata",
		of:    func(r *StoreRecord) *map[string]string { return &r.Metadata },
		asked: func(u *UpdateRequest) Field[map[string]string] { return u.Metadata },
		same:  maps.Equal[map[string]string, map[string]string],
		sum: func(c *canon.Writer, pairs map[string]string) {
			c.Uint(uint64(len(pairs)))
			for name, value := range (Metadata{pairs}).All() {
				c.Text(name)
				c.Text(value)
			}
		},
		says:  func(_, _ map[string]string) string { return "metadata" },
		valid: session.validMetadata,
	},
	settingOf[int]{
		event: "rotate_months",
		of:    func(r *StoreRecord) *int { return &r.RotateMonths },
		asked: func(u *UpdateRequest) Field[int] { return u.RotateMonths },
		same:  func(a, b int) bool { return a == b },
		sum:   func(c *canon.Writer, months int) { c.Uint(uint64(months)) },
		says: func(is, would int) string {
			return fmt.Sprintf("reminder to rotate: every %d months, before: %d; 0 is never", would, is)
		},
		valid: session.validRotateMonths,
		edit: func(r *StoreRecord, months int, now time.Time) error {
			if months != r.RotateMonths {
				r.RotateMonths, r.RotateDue = months, time.Time{}
				if months > 0 {
					r.RotateDue = monthsAfter(now, months)
				}
			}
			return nil
		},
	},
	settingOf[bool]{
		event: "disabled",
		of:    func(r *StoreRecord) *bool { return &r.Disabled },
		asked: func(u *UpdateRequest) Field[bool] { return u.Disabled },
		same:  func(a, b bool) bool { return a == b },
		sum:   (*canon.Writer).Bool,
		says: func(_, would bool) string {
			if would {
				return "the key is suspended"
			}
			return "the key works again"
		},
	},
}

// setting is a settingOf of any type. Code that goes through the table calls these.
type setting interface {
	name() string
	isSet(*StoreRecord) bool // an issue's event names it
	differs(a, b *StoreRecord) bool
	check(session, *StoreRecord) error
	refuse(*UpdateRequest, *StoreRecord) error // by plain
	change(*UpdateRequest, *StoreRecord, time.Time) error
	sumRecord(*canon.Writer, *StoreRecord)
	sumUpdate(*canon.Writer, *UpdateRequest) // with the three states of Field
	line(is, would *StoreRecord) string
}

func (s settingOf[T]) name() string { return s.event }

func (s settingOf[T]) isSet(r *StoreRecord) bool {
	var empty T
	return s.always || !s.same(*s.of(r), empty)
}

func (s settingOf[T]) differs(a, b *StoreRecord) bool { return !s.same(*s.of(a), *s.of(b)) }

func (s settingOf[T]) check(by session, r *StoreRecord) error {
	if s.valid == nil {
		return nil
	}
	return s.valid(by, r)
}

func (s settingOf[T]) refuse(u *UpdateRequest, stored *StoreRecord) error {
	if f := s.asked(u); f.state == 2 && s.plain != nil {
		return s.plain(*s.of(stored), f.value)
	}
	return nil
}

func (s settingOf[T]) change(u *UpdateRequest, r *StoreRecord, now time.Time) error {
	f := s.asked(u)
	if f.state != 0 && s.edit != nil {
		return s.edit(r, f.value, now)
	}
	f.onto(s.of(r))
	return nil
}

func (s settingOf[T]) sumRecord(c *canon.Writer, r *StoreRecord) { s.sum(c, *s.of(r)) }

func (s settingOf[T]) sumUpdate(c *canon.Writer, u *UpdateRequest) {
	f := s.asked(u)
	c.Uint(uint64(f.state))
	if f.state == 2 {
		s.sum(c, f.value)
	}
}

func (s settingOf[T]) line(is, would *StoreRecord) string { return s.says(*s.of(is), *s.of(would)) }

// settingsSet returns the settings that an issue's event lists as changed.
func settingsSet(r *StoreRecord) []setting {
	return settingsWhere(func(s setting) bool { return s.isSet(r) })
}

// differences returns the settings that an edit changed.
func differences(a, b *StoreRecord) []setting {
	return settingsWhere(func(s setting) bool { return s.differs(a, b) })
}

func settingsWhere(is func(setting) bool) (list []setting) {
	for _, s := range settings {
		if is(s) {
			list = append(list, s)
		}
	}
	return list
}

func namesOf(list []setting) (names []string) {
	for _, s := range list {
		names = append(names, s.name())
	}
	return names
}
