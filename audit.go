package apikey

import (
	"context"
	"crypto/subtle"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/go-apikey/apikey/internal/canon"
)

// Event is one entry of the activity log. It never holds a secret, nor the values of
// what changed, so it may be shown, mailed and exported.
type Event struct {
	ID         EventID      `json:"id,omitzero"`
	Time       time.Time    `json:"time,omitzero"` // UTC
	Action     Action       `json:"action,omitzero"`
	Outcome    Outcome      `json:"outcome,omitzero"`
	Account    string       `json:"account,omitzero"`    // empty: the event is about no account
	Mode       Mode         `json:"mode,omitzero"`       // zero: the event is about no mode
	Key        KeyID        `json:"key,omitzero"`        // zero: the event is about no key
	Credential CredentialID `json:"credential,omitzero"` // zero: the event is about no single credential
	// Seq is the event's place in the key's chain, from 1, and the key's version after
	// the event. 0: the event is in no chain.
	Seq   uint64 `json:"seq,omitzero"`
	Actor Actor  `json:"actor"`
	// Changed names the fields that changed, sorted, without their values. If the event
	// is about no key, Changed says what it is about: "actor:usr_7", "factor:totp",
	// "approves:key.rotate", "sealed:100".
	Changed []string `json:"changed,omitzero"`
	Reason  Reason   `json:"reason,omitzero"` // of a revocation
	// Doubt says why [Manager.Events] cannot verify the event. Empty: the event is
	// verified. Events that OnEvent gets have no Doubt.
	Doubt Doubt `json:"doubt,omitzero"`
}

// Doubt says why [Manager.Events] cannot verify an event. The zero value means that it
// is verified: the MAC of a configured pepper covers all of the event, so somebody who
// writes to the database without the pepper has neither made nor changed it. Whether an
// event is missing is for [Manager.VerifyEvents] to say; for events outside the chains
// nobody can.
type Doubt string

const (
	// DoubtUnverifiable: nobody can tell. The event was made without a pepper, with a
	// pepper that is no longer configured, or by a newer version. It is shown as it is
	// stored, and somebody who writes to the database may have written it: label it.
	DoubtUnverifiable Doubt = "unverifiable"
	// DoubtFailed: the event was damaged, or somebody wrote or moved it in the
	// database. Its MAC is wrong, its columns differ from its body, or it names a
	// pepper that no configured pepper vouches for. Its body is withheld, and its
	// Outcome is OutcomeUnreadable. The columns by which it was found are shown, and
	// may be forged too.
	DoubtFailed Doubt = "failed"
)

// EventID identifies an event: a UUID of version 7 (RFC 9562), or of version 8 for a
// refusal.
type EventID [16]byte

// String writes the UUID.
func (id EventID) String() string { return uuid.UUID(id).String() }

// MarshalText writes the UUID.
func (id EventID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText writes. Its error wraps ErrInvalid.
func (id *EventID) UnmarshalText(text []byte) error {
	u, err := parseUUID(string(text), "event", "an event ID")
	*id = EventID(u)
	return err
}

// Outcome is how an action ended.
type Outcome string

const (
	// OutcomeDone: the action was performed.
	OutcomeDone Outcome = "done"
	// OutcomeRefused: Policy refused the action. At most one such event is written for
	// an actor, action, key and minute, 200 for an account and minute, and 10,000 for a
	// process and minute, and none inside a caller's transaction. Trace.Denied is
	// called for every refusal.
	OutcomeRefused Outcome = "refused"
	// OutcomeUnreadable: the stored event is damaged or forged (its Doubt is
	// DoubtFailed), or was written by a newer version. Only its columns are shown.
	OutcomeUnreadable Outcome = "unreadable"
)

// EventsRequest selects a page of the activity log, newest first. Zero fields select all.
type EventsRequest struct {
	// Account: empty is the actor's own and, for an Operator, every account.
	Account string
	Mode    Mode // zero: both
	Key     KeyID
	// Actions selects the events that have one of these, each named once. Their order
	// means nothing.
	Actions []Action
	Actor   string // the actor's ID
	// Since and Before select the events at or after Since, and before Before. An
	// Operator who names neither Account nor Key gives Since too, together with Actions
	// or Actor: all events since then are read.
	Since, Before time.Time
	Cursor        Cursor // EventList.Next of the page before; empty: begin with the newest
	Limit         int    // 1 to 1000; 0: 100
}

// filter returns the request in its one form: two requests that select the same have the
// same cursors.
func (r EventsRequest) filter(account string) StoreEventFilter {
	return StoreEventFilter{
		Account: account, Mode: r.Mode, Key: r.Key, Actor: r.Actor, Limit: r.Limit,
		Actions: slices.Compact(slices.Sorted(slices.Values(r.Actions))),
		Since:   r.Since.Round(0).UTC(), Before: r.Before.Round(0).UTC(), // no zone and no monotonic clock
	}
}

// selectable refuses what no event has, and what would read the log of all accounts.
func (f StoreEventFilter) selectable() error {
	var since, before error
	if searched := f.Actor != "" || len(f.Actions) > 0; searched && f.Account == "" && f.Key.IsZero() && f.Since.IsZero() {
		since = wrong("since", InvalidRequired, "Actor and Actions of every account need a Since: all events since then are read. Or name the Account")
	}
	if !f.Before.IsZero() && !f.Since.Before(f.Before) {
		before = wrong("before", InvalidContradiction, "Before is not after Since, so no event is selected")
	}
	return allWrong((StoreFilter{Mode: f.Mode, Limit: f.Limit}).selectable(), knownActions(f.Actions),
		storableText("actor", f.Actor, maxID), since, before)
}

func knownActions(asked []Action) error {
	for _, a := range asked {
		if !slices.Contains(actions, a) {
			unknown := wrong("actions", InvalidUnknown, "there is no action %s", quote(string(a))).part(string(a))
			for _, known := range actions {
				unknown.Known = append(unknown.Known, string(known))
			}
			return unknown
		}
	}
	return nil
}

// EventList is one page of the activity log.
type EventList struct {
	Events []Event `json:"data,omitzero"`
	Next   Cursor  `json:"next,omitzero"` // empty: this was the last page
}

// Events returns a page of the activity log. Each event is verified by itself, also
// those outside the chains (enrolments, lifted locks, refusals). Its Doubt says why it
// cannot be verified, so a page that shows events should show Doubt too. Errors: those
// of the table in the package documentation, and:
//   - ErrNotFound: when Key or Account is not the actor's
//   - ErrInvalid: also when Cursor is of another list
func (m *Manager) Events(ctx context.Context, req EventsRequest) (list EventList, err error) {
	err = m.own().do(ctx, ofAnyAccount(ActionReadEvents, req.Account).in(req.Mode, 0).reading(func(a Actor, _ *StoreRecord) error {
		if err := atMost("actions", len(req.Actions), len(actions)); err != nil { // before they are sorted
			return err
		}
		page, err := m.logPage(ctx, req.filter(accountOf(a, req.Account)), req.Cursor)
		if err != nil {
			return err
		}
		list = EventList{Events: make([]Event, 0, len(page.Events)), Next: page.Next}
		look := m.examiner(ctx)
		for i := range page.Events {
			l, err := look.at(&page.Events[i])
			if err != nil {
				return err
			}
			list.Events = append(list.Events, l.shown(&page.Events[i]))
		}
		return nil
	}))
	return list, err
}

// logPage reads a page of the log, unless it refuses the filter. The cursor of the page
// fits this filter alone.
func (m *Manager) logPage(ctx context.Context, f StoreEventFilter, cursor Cursor) (StoreEventPage, error) {
	same := f
	same.Limit = 0
	bind := fmt.Sprintf("events %#v", same)
	after, err := unbindCursor(cursor, bind)
	if err := allWrong(f.selectable(), err); err != nil {
		return StoreEventPage{}, err
	}
	f.After = after
	page, err := m.settings.Store.Events(ctx, f)
	if err != nil {
		return StoreEventPage{}, pageError(after, err)
	}
	if !f.Key.IsZero() && after == "" && len(page.Events) == 0 {
		return StoreEventPage{}, m.everLogged(ctx, f)
	}
	page.Next = bindCursor(page.Next, bind)
	return page, nil
}

// everLogged returns ErrNotFound if the account has no event at all of the key: every
// key has one, also one that was purged.
func (m *Manager) everLogged(ctx context.Context, f StoreEventFilter) error {
	page, err := m.settings.Store.Events(ctx, StoreEventFilter{Account: f.Account, Mode: f.Mode, Key: f.Key, Limit: 1})
	switch {
	case err != nil:
		return storeError(err)
	case len(page.Events) == 0:
		return ErrNotFound
	}
	return nil
}

// examiner checks stored events, one by one.
type examiner struct {
	*core
	marks func() (marks, error)
}

func (m *Manager) examiner(ctx context.Context) examiner {
	return examiner{&m.core, sync.OnceValues(func() (marks, error) { return readMarks(ctx, m.settings.Store) })}
}

// at checks a stored event by itself, without the others. Every event that Events shows
// or that VerifyEvents checks passes here. What is wrong with it is in link.fault, and
// is not an error of at.
func (x examiner) at(e *StoreEvent) (link, error) {
	l, ok := decodeEvent(e.Body)
	l.hash = e.Hash
	if ok && l.newer {
		l.Event = byColumns(e)
	}
	switch k := x.ring.at(l.slot); {
	case !ok:
		l.fault = "the event cannot be read"
	case l.ID != e.ID || l.Seq != e.Seq || l.Key != e.Key || l.Account != e.Account || l.Mode != e.Mode ||
		l.Credential != e.Credential || l.Actor.ID != e.Actor || l.Action != e.Action || !l.Time.Equal(e.Time):
		l.fault = "the event's columns differ from its body" // moved to another account, say
	case l.slot == 0 || k != nil:
		want := chainHash(k, e.Body)
		if subtle.ConstantTimeCompare(want[:], e.Hash[:]) != 1 {
			l.fault = "the event's hash does not match its body"
		}
	default: // somebody who edits an event would claim that its pepper is gone
		marks, err := x.marks()
		if err != nil {
			return l, err
		}
		if it, ok := marks[l.slot]; !ok {
			l.fault = fmt.Sprintf("the event names the pepper of slot %d, with which this database was never used", l.slot)
		} else if !x.genuine(l.slot, it) {
			l.fault = fmt.Sprintf("the event names the pepper of slot %d, and no configured pepper vouches that it was ever used: see AdoptPepper", l.slot)
		}
		return l, nil
	}
	l.sound = l.fault == "" && !l.newer
	return l, nil
}

// shown returns an event as Events shows it. A body that fails its check is withheld,
// because people act on what a log says.
func (l link) shown(e *StoreEvent) Event {
	switch {
	case l.fault != "":
		l.Event = byColumns(e)
		l.Doubt = DoubtFailed
	case !l.sound || l.slot == 0:
		l.Doubt = DoubtUnverifiable
	}
	return l.Event
}

// byColumns returns an event from its columns, for a body that cannot be read or is
// withheld.
func byColumns(e *StoreEvent) Event {
	return Event{
		ID: e.ID, Time: e.Time, Action: e.Action, Outcome: OutcomeUnreadable, Account: e.Account, Mode: e.Mode,
		Key: e.Key, Credential: e.Credential, Seq: e.Seq, Actor: Actor{ID: e.Actor},
	}
}

// newEventID makes an ID that sorts by time.
func newEventID() EventID { return EventID(uuid.Must(uuid.NewV7())) }

// recordDenial writes a refusal to the activity log, outside every chain. For an actor,
// action, key and minute it writes at most one, so that refusals can neither fill the
// log nor hold up a revocation. The event's ID is a hash of those four, so that all
// nodes write the same event without talking to each other.
func (s session) recordDenial(ctx context.Context, a Actor, j job, about Info) {
	now := s.settings.Now()
	var c canon.Writer
	c.Text("apikey denial v1")
	c.Text(a.ID)
	c.Text(a.Account)
	c.Text(string(j.action))
	c.Bytes(about.ID[:])
	c.Uint(uint64(now.Unix() / 60))
	sum := c.Sum()
	id := EventID(sum[:16])
	id[6], id[8] = id[6]&0x0F|0x80, id[8]&0x3F|0x80 // version 8 (RFC 9562)
	if s.inHand != nil || s.joined || !s.denials.isNew(id, a.Account, now) {
		return // May only asks; the caller's transaction would roll it back; or it is there already
	}
	ev := s.record(Event{
		ID: id, Time: micros(now), Action: j.action, Outcome: OutcomeRefused,
		Account: about.Account, Mode: about.Mode, Key: about.ID, Actor: a,
	}, madeBy(s.minting()), [32]byte{})
	// An actor who is refused must not escape the log by hanging up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.store.Apply(ctx, StoreChange{ID: id, Event: &ev}); err != nil {
		s.settings.Logger.Warn("apikey: refusal could not be recorded", "action", j.action, "error", err)
	}
}

// denials remembers which refusals of this minute were written. Their number is
// bounded, and so is that of each account, so that no account can crowd out the others.
type denials struct {
	mu     sync.Mutex
	minute int64
	seen   map[EventID]struct{}
	from   map[string]int
}

const (
	denialsAMinute = 10_000
	denialsFrom    = 200 // one account
)

func (d *denials) isNew(id EventID, account string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := now.Unix() / 60; m != d.minute || d.seen == nil {
		d.minute, d.seen, d.from = m, map[EventID]struct{}{}, map[string]int{}
	}
	if _, ok := d.seen[id]; ok || len(d.seen) >= denialsAMinute || d.from[account] >= denialsFrom {
		return false
	}
	d.seen[id] = struct{}{}
	d.from[account]++
	return true
}
