package apikey

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
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
	// NameContains finds part of a name; ASCII letters match without case. An
	// Operator has to name the account with it.
	NameContains   string
	NeverUsed      bool
	UnusedSince    time.Time // created before it, and not used at or after it
	ExpiringBefore time.Time // has an expiry, which is before it
	// NotExpiredAt selects keys that do not expire at or before it. With State: Active
	// and the present time, it selects the keys that can be used now.
	NotExpiredAt time.Time
	DueBefore    time.Time // Info.RotateDue is at or before it; a page may have fewer keys than Limit
	Pepper       uint8     // the MAC or a token that has not ended is of this pepper slot
	Untagged     bool      // a token that has not ended was made without a pepper
	Cursor       Cursor    // KeyList.Next of the page before; empty: begin with the newest
	Limit        int       // 1 to 1000; 0: 100
}

// KeyList is one page of keys.
type KeyList struct {
	Keys    []Info          `json:"data,omitzero"`
	Damaged []*CorruptError `json:"damaged,omitempty"` // keys of this page that are damaged or have a wrong MAC
	Next    Cursor          `json:"next,omitzero"`     // empty: this was the last page
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
		f := req.filter(accountOf(a, req.Account))
		var unnamed error
		if f.NameContains != "" && f.Account == "" {
			unnamed = wrong("account", InvalidRequired, "NameContains needs an Account")
		}
		page, err := s.listPage(ctx, f, req.Cursor, unnamed)
		if err != nil {
			return err
		}
		list = KeyList{Keys: make([]Info, 0, len(page.Records)), Damaged: page.Damaged, Next: page.Next}
		for i := range page.Records {
			list.Keys = append(list.Keys, s.describeAll(&page.Records[i], s.settings.Now()))
		}
		return nil
	}))
	return list, err
}

func (r ListRequest) filter(account string) StoreFilter {
	return StoreFilter{
		Account: account, Mode: r.Mode, Kind: r.Kind, State: r.State, NameContains: r.NameContains,
		NeverUsed: r.NeverUsed, UnusedSince: micros(r.UnusedSince), ExpiringBefore: micros(r.ExpiringBefore),
		NotExpiredAt: micros(r.NotExpiredAt), DueBefore: micros(r.DueBefore), Pepper: r.Pepper, Untagged: r.Untagged, Limit: r.Limit,
	}
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
	page.Records, page.Next = believed, sealCursor(page.Next, bind)
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
	if f.Kind != 0 && f.Kind != Secret && f.Kind != Publishable {
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
	after, err := openCursor(cursor, bind)
	err = allWrong(f.selectable(), err)
	f.After = after
	return f, bind, err
}

// sealCursor binds a store's cursor to one list: that of an account and its filter.
// Nothing in a cursor is secret, and accounts are compared anyway. The binding makes a
// cursor of another list an error instead of a wrong page.
func sealCursor(c Cursor, bind string) Cursor {
	if c == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(bind + "\x00" + string(c)))
	return Cursor(base64.RawURLEncoding.EncodeToString(sum[:9])) + "." + c
}

func openCursor(c Cursor, bind string) (Cursor, error) {
	if c == "" {
		return "", nil
	}
	_, inner, _ := strings.Cut(string(c), ".")
	if inner == "" || sealCursor(Cursor(inner), bind) != c {
		return "", otherList()
	}
	return Cursor(inner), nil
}

func otherList() error {
	return wrong("cursor", InvalidOtherList, "cursor is not of this list: pass Next of the page before, with the same filter")
}

// pageError makes an error of a store's list one of ours. The binding in a cursor is no
// MAC: somebody can write a cursor that openCursor takes and the store does not.
func pageError(after Cursor, err error) error {
	if after != "" && errors.Is(err, ErrInvalid) {
		return otherList()
	}
	return storeError(err)
}
