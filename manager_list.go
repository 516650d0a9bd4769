package apikey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ListRequest selects a page of keys, newest first. Zero fields select all.
type ListRequest struct {
	// Account: empty is the actor's own and, for an Operator, every account.
	Account string
	Mode    Mode
	Kind    Kind
	State   State
	// NameContains finds part of a name; ASCII letters match without case. It has at most
	// Limits.NameBytes. An Operator has to name the account with it.
	NameContains   string
	NeverUsed      bool
	UnusedSince    time.Time // created before it, and not used at or after it
	ExpiringBefore time.Time // has an expiry, which is before it
	NotExpiredAt   time.Time // does not expire at or before it
	DueBefore      time.Time // Info.RotateDue is at or before it

	// The next five are relative to the instant at which the first page was asked for.
	// KeyList.Next carries that instant, so all pages of one walk are about the same
	// instant. A duration is from 0, which selects all, to 50 years.
	Usable         bool          // [Info.Status] is StatusActive or StatusExpiring
	Expired        bool          // Info.Status is StatusExpired
	ExpiringWithin time.Duration // Info.Status, with this duration as its soon, is StatusExpiring
	UnusedFor      time.Duration // as UnusedSince with the instant minus this duration
	DueWithin      time.Duration // as DueBefore with the instant plus this duration

	Pepper   uint8  // the MAC or a token that has not ended is of this pepper slot
	Untagged bool   // a token that has not ended was made without a pepper
	Cursor   Cursor // KeyList.Next of the page before; empty: begin with the newest
	// Limit is 1 to 1000; 0: 100. With DueBefore, DueWithin, Usable or ExpiringWithin a
	// page may have fewer keys, or none, and yet not be the last.
	Limit int
}

// KeyList is one page of keys.
type KeyList struct {
	Keys []Info `json:"data,omitzero"`
	// Damaged are the keys of this page that are damaged or have a wrong MAC. Log them for
	// an operator: in JSON they have their IDs alone.
	Damaged []*CorruptError `json:"damaged,omitempty"`
	Next    Cursor          `json:"next,omitzero"` // empty: this was the last page
}

// List returns a page of keys, including revoked ones unless State says otherwise.
// Errors: those of the table in the package documentation, and:
//   - ErrNotFound: when Account is another account than the actor's
//   - ErrInvalid: also when Cursor is of another list
func (m *Manager) List(ctx context.Context, req ListRequest) (KeyList, error) {
	return m.own().list(ctx, req)
}

func (s session) list(ctx context.Context, req ListRequest) (list KeyList, err error) {
	err = s.do(ctx, ofAnyAccount(ActionRead, req.Account).in(req.Mode, req.Kind).reading(func(a Actor, _ *StoreRecord) error {
		asked, cursor, refused := req.instant(s.settings.Now())
		f := req.filter(accountOf(a, req.Account), asked)
		if f.NameContains != "" && f.Account == "" {
			refused = allWrong(wrong("account", InvalidRequired, "NameContains needs an Account"), refused)
		}
		part := storableText("name_contains", req.NameContains, s.limits.NameBytes) // a store compares it with each name
		page, err := s.listPage(ctx, f, cursor, allWrong(part, req.relatives(), refused))
		if err != nil {
			return err
		}
		list = KeyList{Keys: make([]Info, 0, len(page.Records)), Damaged: page.Damaged, Next: req.next(asked, page.Next)}
		for i := range page.Records {
			info := s.describeAll(&page.Records[i], s.settings.Now())
			if req.usable() && info.waits(asked) {
				continue // a store does not look at the times of tokens
			}
			list.Keys = append(list.Keys, info)
		}
		return nil
	}))
	return list, err
}

// filter returns what the request selects if its first page was asked for at asked.
func (r ListRequest) filter(account string, asked time.Time) StoreFilter {
	f := StoreFilter{
		Account: account, Mode: r.Mode, Kind: r.Kind, State: r.State, NameContains: r.NameContains,
		NeverUsed: r.NeverUsed, UnusedSince: micros(r.UnusedSince), ExpiringBefore: micros(r.ExpiringBefore),
		NotExpiredAt: micros(r.NotExpiredAt), DueBefore: micros(r.DueBefore), Pepper: r.Pepper, Untagged: r.Untagged, Limit: r.Limit,
	}
	switch {
	case r.Expired:
		f.ExpiringBefore = asked.Add(time.Nanosecond) // at asked it has expired
	case r.usable():
		f.NotExpiredAt = asked
	}
	if r.Expired || r.usable() {
		f.State = cmp.Or(f.State, Active) // selectable and relatives refuse another one
	}
	if r.ExpiringWithin != 0 {
		f.ExpiringBefore = asked.Add(r.ExpiringWithin)
	}
	if r.UnusedFor != 0 {
		f.UnusedSince = asked.Add(-r.UnusedFor)
	}
	if r.DueWithin != 0 {
		f.DueBefore = asked.Add(r.DueWithin)
	}
	return f
}

// usable reports whether only keys are selected that can be used.
func (r ListRequest) usable() bool { return r.Usable || r.ExpiringWithin != 0 }

// relative reports whether the list depends on when it is asked for.
func (r ListRequest) relative() bool {
	return r.usable() || r.Expired || r.UnusedFor != 0 || r.DueWithin != 0
}

// maxRelative bounds the duration of a relative filter. Its seconds fit into an int of
// 32 bits.
const maxRelative = 50 * 365 * 24 * time.Hour

// relatives refuses relative filters that are out of range, or that another field of the
// request excludes.
func (r ListRequest) relatives() error {
	unusable := r.State == Suspended || r.State == Revoked
	expiry := !r.NotExpiredAt.IsZero() || !r.ExpiringBefore.IsZero()
	return allWrong(
		excluded("usable", r.Usable, unusable || !r.NotExpiredAt.IsZero(), "another State or NotExpiredAt"),
		excluded("expired", r.Expired, unusable || expiry || r.Usable, "another State, Usable, NotExpiredAt or ExpiringBefore"),
		validDuration("expiring_within", r.ExpiringWithin, unusable || expiry || r.Expired, "another State, Expired, NotExpiredAt or ExpiringBefore"),
		validDuration("unused_for", r.UnusedFor, !r.UnusedSince.IsZero(), "UnusedSince"),
		validDuration("due_within", r.DueWithin, !r.DueBefore.IsZero(), "DueBefore"),
	)
}

// excluded refuses a field that is set, if other fields of the request contradict it. by
// names those for developers.
func excluded(field string, set, contradicted bool, by string) error {
	if set && contradicted {
		return wrong(field, InvalidContradiction, "%s excludes %s", strings.ReplaceAll(field, "_", " "), by)
	}
	return nil
}

// validDuration checks the duration of a relative filter, and that no other field
// contradicts it.
func validDuration(field string, d time.Duration, contradicted bool, by string) error {
	if d < 0 || d > maxRelative {
		return wrong(field, InvalidOutOfRange, "%s is %v: want up to 50 years, or 0 for all", strings.ReplaceAll(field, "_", " "), d).within(0, int(maxRelative/time.Second))
	}
	return excluded(field, d != 0, contradicted, by)
}

// instant returns the instant that relative filters are about, and the cursor without
// it. It is the clock's for a first page, and then that of the first page, which next has
// written before the cursor.
//
// Whoever alters the instant changes what the filter selects, and the rest of the cursor
// does not fit: see placed. The binding is no MAC, and need not be: somebody who forges a
// cursor gets a list of the same account that UnusedSince and its neighbours can select
// as well.
func (r ListRequest) instant(clock time.Time) (asked time.Time, inner Cursor, err error) {
	switch {
	case !r.relative():
		return time.Time{}, r.Cursor, nil
	case r.Cursor == "":
		return micros(clock), "", nil
	}
	text, rest, _ := strings.Cut(string(r.Cursor), ".")
	n, _ := strconv.ParseInt(text, 36, 64)
	asked = time.UnixMicro(n).UTC()
	if rest == "" || r.next(asked, Cursor(rest)) != r.Cursor || asked.Add(-maxRelative).Before(firstInstant) || asked.Add(maxRelative).After(lastInstant) {
		return micros(clock), "", otherList()
	}
	return asked, Cursor(rest), nil
}

// next puts the instant of a relative list before the cursor of its next page.
func (r ListRequest) next(asked time.Time, c Cursor) Cursor {
	if c == "" || !r.relative() {
		return c
	}
	return Cursor(strconv.FormatInt(asked.UnixMicro(), 36)) + "." + c
}

// listPage lists records, unless the caller or the filter refuses the request. Records
// that cannot be believed are in Damaged. The cursor of the page fits this filter alone.
func (s session) listPage(ctx context.Context, f StoreFilter, cursor Cursor, refused error) (StorePage, error) {
	f, bind, err := f.placed(cursor)
	if err := allWrong(refused, err); err != nil {
		return StorePage{}, err
	}
	page, err := s.store.List(ctx, f)
	if err != nil {
		return StorePage{}, pageError(f.After, err)
	}
	believed := page.Records[:0]
	for i := range page.Records {
		var corrupt *CorruptError
		if err := s.believe(&page.Records[i]); errors.As(err, &corrupt) {
			page.Damaged = append(page.Damaged, corrupt)
			continue
		}
		if !f.DueBefore.IsZero() && page.Records[i].due(s.skew).After(f.DueBefore) {
			continue // a scheduled rotation has put it off, which a store does not know
		}
		believed = append(believed, page.Records[i])
	}
	page.Records, page.Next = believed, bindCursor(page.Next, bind)
	return page, nil
}

// selectable refuses a mode, kind, state or pepper that no key has. A filter with it
// would find nothing, and a caller of RevokeAll would believe that all keys are
// revoked. The zero values select all. The limit is checked as well.
func (f StoreFilter) selectable() error {
	var mode, kind, state, slot error
	if f.Mode != 0 && f.Mode != Live && f.Mode != Test {
		mode = wrong("mode", InvalidUnknown, "no key is of mode %d: want Live or Test, or leave Mode out for both", f.Mode)
	}
	if f.Kind != 0 && !traits(f.Kind).bearer {
		kind = wrong("kind", InvalidUnknown, "no key is of kind %d: want Secret or Publishable, or leave Kind out for both", f.Kind)
	}
	if f.State > Revoked {
		state = wrong("state", InvalidUnknown, "no key is in state %d: want Active, Suspended or Revoked, or leave State out for all", f.State)
	}
	if f.Pepper > MaxPepperSlot {
		slot = wrong("pepper", InvalidOutOfRange, "Pepper is slot %d: want 1 to %d, or 0 for all", f.Pepper, MaxPepperSlot).within(0, MaxPepperSlot)
	}
	return allWrong(mode, kind, state, slot, batchSize(f.Limit))
}

// placed returns the filter with the store's cursor, and what a cursor of this filter is
// bound to. It refuses what no store should be asked.
func (f StoreFilter) placed(cursor Cursor) (placed StoreFilter, bind string, err error) {
	limit := f.Limit
	f.Limit = 0
	bind = fmt.Sprint("keys", f)
	f.Limit = limit
	after, err := unbindCursor(cursor, bind)
	err = allWrong(f.selectable(), err)
	f.After = after
	return f, bind, err
}

// bindCursor binds a store's cursor to one list: that of an account and its filter.
// Nothing in a cursor is secret, and accounts are compared anyway. The binding makes a
// cursor of another list an error instead of a wrong page.
func bindCursor(c Cursor, bind string) Cursor {
	if c == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(bind + "\x00" + string(c)))
	return Cursor(base64.RawURLEncoding.EncodeToString(sum[:9])) + "." + c
}

// unbindCursor returns the store's cursor, which bindCursor has bound to this list.
func unbindCursor(c Cursor, bind string) (Cursor, error) {
	if c == "" {
		return "", nil
	}
	_, inner, _ := strings.Cut(string(c), ".")
	if inner == "" || bindCursor(Cursor(inner), bind) != c {
		return "", otherList()
	}
	return Cursor(inner), nil
}

func otherList() error {
	return wrong("cursor", InvalidOtherList, "cursor is not of this list: pass Next of the page before, with the same filter")
}

// pageError makes the error of a store's List or Events an error of this package. The binding in a cursor is no
// MAC: somebody can write a cursor that unbindCursor takes and the store does not.
func pageError(after Cursor, err error) error {
	if after != "" && errors.Is(err, ErrInvalid) {
		return otherList()
	}
	return storeError(err)
}
