package apikey

import (
	"slices"
	"strings"
	"time"
)

// StoreFilter selects records; a zero field selects all.
type StoreFilter struct {
	Account string
	Mode    Mode
	Kind    Kind
	State   State
	// NameContains finds part of a name; ASCII letters match in either case. It is only
	// used together with Account.
	NameContains string
	// NeverUsed: no credential was ever used.
	NeverUsed bool
	// UnusedSince: no credential was used at or after this time, and the key was
	// created before it.
	UnusedSince time.Time
	// ExpiringBefore: ExpiresAt is set and before this time.
	ExpiringBefore time.Time
	// NotExpiredAt: ExpiresAt is zero or after this time.
	NotExpiredAt time.Time
	// DueBefore: RotateDue is set, and at or before this time.
	DueBefore time.Time
	// Pepper: the MAC, or a credential that is not Ended, is of this slot.
	Pepper uint8
	// OtherMAC: the MAC is absent or of another slot than this.
	OtherMAC uint8
	// Untagged: a credential that is not Ended was made without a pepper.
	Untagged bool
	// SealedKEKNot: some credential has a sealed copy by another KEK than this.
	SealedKEKNot string

	After Cursor
	Limit int // 1 to 1000; 0: 100
}

// Match defines what a StoreFilter selects, without After and Limit. A store may call
// it or express the same in its own query language.
func (f StoreFilter) Match(r *StoreRecord) bool {
	var used time.Time
	pepper, kek, untagged := len(r.MAC) > 0 && r.MAC[0] == f.Pepper, false, false
	for _, c := range r.Credentials {
		untagged = untagged || !c.Ended && c.Pepper == 0
		kek = kek || c.SealedKEK != "" && c.SealedKEK != f.SealedKEKNot
		if c.LastUsed.After(used) {
			used = c.LastUsed
		}
		pepper = pepper || !c.Ended && c.Pepper == f.Pepper
	}
	switch {
	case f.Account != "" && r.Account != f.Account,
		f.Mode != 0 && r.Mode != f.Mode,
		f.Kind != 0 && r.Kind != f.Kind,
		f.State != 0 && r.State() != f.State,
		f.NameContains != "" && !strings.Contains(foldASCII(r.Name), foldASCII(f.NameContains)),
		f.NeverUsed && !used.IsZero(),
		!f.UnusedSince.IsZero() && (!used.Before(f.UnusedSince) || !r.CreatedAt.Before(f.UnusedSince)),
		!f.ExpiringBefore.IsZero() && (r.ExpiresAt.IsZero() || !r.ExpiresAt.Before(f.ExpiringBefore)),
		!f.NotExpiredAt.IsZero() && !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(f.NotExpiredAt),
		!f.DueBefore.IsZero() && (r.RotateDue.IsZero() || r.RotateDue.After(f.DueBefore)),
		f.Pepper != 0 && !pepper,
		f.OtherMAC != 0 && len(r.MAC) > 0 && r.MAC[0] == f.OtherMAC,
		f.Untagged && !untagged,
		f.SealedKEKNot != "" && !kek:
		return false
	}
	return true
}

// foldASCII makes the ASCII letters of a text lower case.
func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// StorePage is one page of records.
type StorePage struct {
	Records []StoreRecord
	Damaged []*CorruptError // rows of this page that cannot be read
	Next    Cursor          // empty: this was the last page
}

// StoreEventFilter selects events; a zero field selects all. The log of an account can
// be long: a filter by Account and Actor, or by Account and a few Actions, should not
// read through the rest of that log.
type StoreEventFilter struct {
	Account string
	Mode    Mode
	Key     KeyID
	// Actions selects the events that have one of these, at most 100. Their order means
	// nothing, and a repeated one counts once.
	Actions []Action
	Actor   string // the actor's ID
	// [Since, Before) selects by Time. Zero: no bound. If Since is not before Before, no
	// event is selected.
	Since, Before time.Time
	// Chain, together with Key: only events with a Seq, by Seq ascending. The other
	// fields select among them.
	Chain bool

	After Cursor
	Limit int // 1 to 1000; 0: 100
}

// Match defines what a StoreEventFilter selects, without After and Limit. A store may
// call it or express the same in its own query language.
func (f StoreEventFilter) Match(e *StoreEvent) bool {
	switch {
	case f.Account != "" && e.Account != f.Account,
		f.Mode != 0 && e.Mode != f.Mode,
		!f.Key.IsZero() && e.Key != f.Key,
		len(f.Actions) > 0 && !slices.Contains(f.Actions, e.Action),
		f.Actor != "" && e.Actor != f.Actor,
		!f.Since.IsZero() && e.Time.Before(f.Since),
		!f.Before.IsZero() && !e.Time.Before(f.Before),
		f.Chain && e.Seq == 0:
		return false
	}
	return true
}

// StoreEventPage is one page of the activity log.
type StoreEventPage struct {
	Events []StoreEvent
	Next   Cursor // empty: this was the last page
}

// StoreItemFilter selects items of one Kind.
type StoreItemFilter struct {
	Kind StoreItemKind // required
	ID   string        // set: at most this one
	// SealedKEKNot: sealed by some KEK, but not by this one.
	SealedKEKNot string

	After string // an item's ID
	Limit int    // 1 to 1000; 0: 100
}

// StoreItemPage is one page of items.
type StoreItemPage struct {
	Items []StoreItem
	Next  string // ID to continue after; empty: this was the last page
}
