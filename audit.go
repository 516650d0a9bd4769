package apikey

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Event is one line of the activity log. It never holds a secret, nor the
// values of what changed, so it may be shown, mailed and exported.
type Event struct {
	ID         EventID
	Time       time.Time // UTC
	Action     Action
	Outcome    Outcome
	Account    string
	Mode       Mode         `json:",omitzero"` // zero: about no mode
	Key        KeyID        // zero: about no key
	Credential CredentialID // zero: about no single credential
	// Seq is the place in the key's chain, from 1, and the version that the key
	// had afterwards; 0: outside the chain.
	Seq   uint64
	Actor Actor
	// Changed names the fields that changed, sorted, without their values. Of an
	// event that is about no key it says what it is about: "actor:usr_7",
	// "factor:totp", "approves:key.rotate", "sealed:100".
	Changed []string
	Reason  Reason // of a revocation
}

// EventID identifies an event: a UUID of version 7 (RFC 9562); of version 8 for
// a denial.
type EventID [16]byte

// String writes the UUID.
func (id EventID) String() string { return uuid.UUID(id).String() }

// MarshalText writes the UUID.
func (id EventID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText writes. Its error wraps ErrInvalid.
func (id *EventID) UnmarshalText(text []byte) error {
	u, err := parseUUID(string(text), "an event ID")
	*id = EventID(u)
	return err
}

// Outcome is how an action ended.
type Outcome string

const (
	// Done: it was performed.
	Done Outcome = "done"
	// Refused: the policy said no. At most one such event an actor, action, key
	// and minute, 200 an account and minute, and 10,000 a process and minute; none
	// inside a caller's transaction. Trace.Denied is told of all.
	Refused Outcome = "refused"
	// Unreadable: the stored event is damaged, or was written by a newer version;
	// only its columns are shown.
	Unreadable Outcome = "unreadable"
)

// chainHash is what the next event's Prev and the record's Head are made of.
// With a pepper only its holder can make one; without, it finds accidents, not
// a database administrator.
func chainHash(k *pepperKeys, body []byte) [32]byte {
	if k == nil {
		return sha256.Sum256(append([]byte("apikey event v1\x00"), body...))
	}
	return k.mac(purposeEvent, body)
}

const eventV1 = 1

// encode writes the bytes that are hashed and stored verbatim: version, slot,
// the previous hash, then the event.
func (e *Event) encode(slot uint8, prev [32]byte) []byte {
	var c canon
	c.uint(eventV1)
	c.uint(uint64(slot))
	c.b = append(c.b, prev[:]...)
	c.b = append(c.b, e.ID[:]...)
	c.time(e.Time)
	c.text(string(e.Action))
	c.text(string(e.Outcome))
	c.text(e.Account)
	c.uint(uint64(e.Mode))
	c.b = append(c.b, e.Key[:]...)
	c.b = append(c.b, e.Credential[:]...)
	c.uint(e.Seq)
	for _, s := range []string{e.Actor.ID, e.Actor.Account, e.Actor.Role, e.Actor.Addr, e.Actor.UserAgent, e.Actor.RequestID} {
		c.text(s)
	}
	c.bool(e.Actor.operator)
	c.texts(e.Changed)
	c.text(string(e.Reason))
	return c.b
}

// link is an event together with its place in the chain.
type link struct {
	Event
	slot  uint8
	prev  [32]byte
	hash  [32]byte
	newer bool // of a version that this one cannot read
	sound bool // its pepper, if it has one, is here and says that it is whole
}

// decodeEvent reads what encode wrote; false for anything else, so that
// whatever decodes encodes to the same bytes.
func decodeEvent(body []byte) (l link, ok bool) {
	u := uncanon{body, true}
	version, slot := u.uint(), u.uint()
	u.into(l.prev[:])
	if u.ok && version > eventV1 { // of a newer version: its place in the chain can be checked, no more
		l.slot, l.newer = uint8(slot), true
		return l, slot <= MaxPepperSlot
	}
	u.into(l.ID[:])
	l.Time = u.time()
	l.Action, l.Outcome = Action(u.text()), Outcome(u.text())
	l.Account = u.text()
	mode := u.uint()
	u.into(l.Key[:])
	u.into(l.Credential[:])
	l.Seq = u.uint()
	for _, s := range []*string{&l.Actor.ID, &l.Actor.Account, &l.Actor.Role, &l.Actor.Addr, &l.Actor.UserAgent, &l.Actor.RequestID} {
		*s = u.text()
	}
	operator := u.uint()
	l.Changed = u.texts()
	l.Reason = Reason(u.text())
	l.slot, l.Mode, l.Actor.operator = uint8(slot), Mode(mode), operator == 1
	return l, u.ok && len(u.b) == 0 && version == eventV1 && slot <= MaxPepperSlot && mode <= 255 && operator <= 1
}

// record makes what the store keeps, chained behind prev.
func (c *core) record(e Event, prev [32]byte) EventRecord {
	var slot uint8
	if c.ring.has() {
		slot = c.ring.first.slot
	}
	body := e.encode(slot, prev)
	return EventRecord{
		ID: e.ID, Time: e.Time, Account: e.Account, Mode: e.Mode, Key: e.Key, Credential: e.Credential,
		Seq: e.Seq, Actor: e.Actor.ID, Action: e.Action, Body: body, Hash: chainHash(c.ring.first, body),
	}
}

// ChainReport is what [Manager.VerifyEvents] found.
type ChainReport struct {
	Events int // walked, from the first on
	// Broken is the first event that does not hold; nil: none.
	Broken *BrokenLink
	// Unverifiable events were made with a pepper that is no longer configured, or
	// by a newer version: neither broken nor sound.
	Unverifiable int
}

// BrokenLink says where a chain breaks.
type BrokenLink struct {
	Seq    uint64
	Detail string
}

// VerifyEventsRequest names the key whose chain is walked.
type VerifyEventsRequest struct{ Key KeyID }

// VerifyEvents walks a key's chain from its first event to the record's Head
// and names the first link that is missing, changed or out of place. Errors:
// ErrNoActor, ErrNotFound, ErrForbidden, ErrCorrupt (a record that cannot even be
// read), ErrUnavailable.
func (m *Manager) VerifyEvents(ctx context.Context, req VerifyEventsRequest) (ChainReport, error) {
	var report ChainReport
	err := m.own().do(ctx, job{action: ActionReadEvents, key: req.Key, reads: true, damaged: true, work: func(_ Actor, r *Record) (effect, error) {
		var err error
		report, err = m.walk(ctx, *r)
		return effect{}, err
	}})
	return report, err
}

// walk checks the chain up to the version that r has. What was added behind r
// meanwhile is left for the next time.
func (m *Manager) walk(ctx context.Context, r Record) (report ChainReport, err error) {
	var last link
	f := EventFilter{Key: r.ID, Chain: true, Limit: 500}
	for {
		page, err := m.cfg.Store.Events(ctx, f)
		if err != nil {
			return report, storeError(err)
		}
		for i := range page.Events {
			e := &page.Events[i]
			if last.Seq == r.Version && e.Seq > r.Version {
				report.Broken, err = m.beyond(ctx, r)
				return report, err
			}
			l, broken, err := m.follows(ctx, e, last)
			if broken != nil || err != nil {
				report.Broken = broken
				return report, err
			}
			report.Events++
			if !l.sound {
				report.Unverifiable++
			}
			last = l
			if l.Seq == r.Version {
				report.Broken = m.agrees(&r, l)
			}
			if report.Broken != nil {
				return report, nil
			}
		}
		if page.Next == "" {
			break
		}
		f.After = page.Next
	}
	if last.Seq < r.Version || last.Seq == 0 {
		report.Broken = &BrokenLink{last.Seq + 1, "the event is missing: the record is newer than its log"}
	}
	return report, nil
}

// agrees checks a record against the newest event of it.
func (m *Manager) agrees(r *Record, l link) *BrokenLink {
	if l.hash != r.Head {
		return &BrokenLink{l.Seq, "the record's Head is not this event's hash"}
	}
	if err := m.believe(r); err != nil {
		return &BrokenLink{l.Seq, "the record itself is damaged"}
	}
	return nil
}

// beyond looks at a record whose log goes on after its version: it was changed
// since it was read, or it was put back to an older version.
func (m *Manager) beyond(ctx context.Context, r Record) (*BrokenLink, error) {
	now, err := m.cfg.Store.Get(ctx, r.ID)
	switch {
	case err != nil:
		return nil, storeError(err)
	case now.Version > r.Version:
		return nil, nil
	}
	return &BrokenLink{r.Version + 1, "the record was put back to before this event"}, nil
}

// follows checks one event against the one before it.
func (m *Manager) follows(ctx context.Context, e *EventRecord, last link) (l link, broken *BrokenLink, err error) {
	l, ok := decodeEvent(e.Body)
	l.hash = e.Hash
	if l.newer {
		l.Event = byColumns(e)
	}
	bad := func(why string) (link, *BrokenLink, error) { return l, &BrokenLink{last.Seq + 1, why}, nil }
	switch {
	case !ok:
		return bad("the event cannot be read")
	case l.Seq != last.Seq+1:
		return bad("the event is missing")
	case l.ID != e.ID || l.Seq != e.Seq || l.Key != e.Key || l.Account != e.Account || l.Mode != e.Mode ||
		l.Credential != e.Credential || l.Actor.ID != e.Actor || l.Action != e.Action || !l.Time.Equal(e.Time):
		return bad("the event's columns differ from its body")
	case l.slot == 0 && last.slot != 0:
		return bad("the event has no pepper, but the one before it has")
	}
	if k := m.ring.at(l.slot); l.slot == 0 || k != nil {
		want := chainHash(k, e.Body)
		if subtle.ConstantTimeCompare(want[:], e.Hash[:]) != 1 {
			return bad("the event's hash does not match its body")
		}
		l.sound = true
	} else if mark, err := m.own().item(ctx, itemMark, markID(l.slot)); err != nil {
		return l, nil, err
	} else if mark.Version == 0 { // else whoever edits an event would call it one of a pepper that is gone
		return bad("the event names a pepper that this database was never used with")
	}
	if l.prev != last.hash {
		if l.sound && l.slot != 0 && last.Seq > 0 { // only a Manager made this one, so it was the other that changed
			return l, &BrokenLink{last.Seq, "the next event continues another one than this"}, nil
		}
		return bad("the event does not continue the one before it")
	}
	l.sound = l.sound && !l.newer
	return l, nil, nil
}

// EventsRequest selects a page of the activity log, newest first.
type EventsRequest struct {
	// Account: empty is the actor's own, and for an Operator every account.
	Account string
	Mode    Mode   // zero: both
	Key     KeyID  // zero: all keys
	Cursor  Cursor // of the page before; empty: the newest
	Limit   int    // 1 to 1000; 0: 100
}

// EventList is one page of the activity log.
type EventList struct {
	Events []Event
	Next   Cursor // empty: this was the last page
}

// Events returns a page of the activity log. Errors: ErrNoActor, ErrNotFound
// (a key or account that is not the actor's), ErrForbidden, ErrInvalid (a
// cursor of another list), ErrUnavailable.
func (m *Manager) Events(ctx context.Context, req EventsRequest) (list EventList, err error) {
	err = m.own().do(ctx, job{action: ActionReadEvents, wide: true, account: req.Account, mode: req.Mode, reads: true, spans: true, work: func(a Actor, _ *Record) (effect, error) {
		f := EventFilter{Account: accountOf(a, req.Account), Mode: req.Mode, Key: req.Key}
		bind := fmt.Sprint("events", f)
		f.Limit = req.Limit
		var err error
		if f.After, err = openCursor(req.Cursor, bind); err != nil {
			return effect{}, err
		}
		page, err := m.cfg.Store.Events(ctx, f)
		if err != nil {
			return effect{}, storeError(err)
		}
		if !req.Key.IsZero() && req.Cursor == "" && len(page.Events) == 0 {
			return effect{}, ErrNotFound // every key has an event, also one that was purged
		}
		list.Next = sealCursor(page.Next, bind)
		for _, e := range page.Events {
			l, ok := decodeEvent(e.Body)
			if !ok || l.newer { // VerifyEvents names what is wrong
				l.Event = byColumns(&e)
			}
			list.Events = append(list.Events, l.Event)
		}
		return effect{}, nil
	}})
	return list, err
}

// byColumns is an event whose body cannot be read here.
func byColumns(e *EventRecord) Event {
	return Event{
		ID: e.ID, Time: e.Time, Action: e.Action, Outcome: Unreadable, Account: e.Account, Mode: e.Mode,
		Key: e.Key, Credential: e.Credential, Seq: e.Seq, Actor: Actor{ID: e.Actor},
	}
}

// newEventID makes an ID that sorts by time.
func newEventID() EventID { return EventID(uuid.Must(uuid.NewV7())) }
