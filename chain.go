package apikey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/go-apikey/apikey/internal/canon"
)

// ChainReport is what [Manager.VerifyEvents] found.
type ChainReport struct {
	Events int `json:"events"` // how many were checked, from the first on
	// Broken is the first event that is missing, changed or out of place; nil: none.
	Broken *BrokenLink `json:"broken,omitzero"`
	// Unverifiable counts events that are neither broken nor verified: they were made
	// without a pepper, with one that is no longer configured, or by a newer version.
	// Somebody who writes to the database can change them, so do not call such a report
	// clean: say how many there are, and in which keys. An event without a pepper
	// counts as verified once an event with a configured pepper follows, which covers
	// all events without one directly before it.
	Unverifiable int `json:"unverifiable"`
}

// BrokenLink says where a chain breaks.
type BrokenLink struct {
	Seq    uint64 `json:"seq"`
	Detail string `json:"detail"`
}

// VerifyEvents checks a key's chain from its first event to the record's Head, and
// names the first event that is missing, changed or out of place.
//
// An event may name a pepper that is not configured any more. Such an event counts as
// Unverifiable if all of these hold; otherwise the chain is broken there:
//   - A configured pepper vouches that the database was used with that pepper (see
//     [Manager.AdoptPepper]).
//   - It is not the newest event, which must be made with the pepper of the record's
//     MAC.
//   - The event after it does not contradict it.
//   - It is not younger than the key's last [Manager.Remac], where such peppers end.
//
// Errors: those of the table in the package documentation. ErrCorrupt is only a record
// that cannot even be read.
func (m *Manager) VerifyEvents(ctx context.Context, id KeyID) (report ChainReport, err error) {
	j := ofKey(ActionReadEvents, id).reading(func(_ Actor, r *StoreRecord) (err error) {
		report, err = m.checkChain(ctx, *r)
		return err
	})
	j.aim = toInspect
	err = m.own().do(ctx, j)
	return report, err
}

// checkChain checks the chain up to the version of r. Events that were added after r
// was read are left for the next call.
func (m *Manager) checkChain(ctx context.Context, r StoreRecord) (report ChainReport, err error) {
	var last link
	var ends ends
	loose := 0 // events without a pepper that no event with one has continued yet
	defer func() { report.Unverifiable += loose }()
	look := m.examiner(ctx)
	f := StoreEventFilter{Key: r.ID, Chain: true, Limit: 500}
	for {
		page, err := m.settings.Store.Events(ctx, f)
		if err != nil {
			return report, storeError(err)
		}
		for i := range page.Events {
			e := &page.Events[i]
			if last.Seq == r.Version && e.Seq > r.Version {
				report.Broken, err = m.beyond(ctx, r)
				report.Broken = cmp.Or(ends.broken(), report.Broken)
				return report, err
			}
			l, err := look.at(e)
			if err != nil {
				return report, err
			}
			if report.Broken = l.behind(last); report.Broken != nil {
				return report, nil
			}
			report.Events++
			switch {
			case !l.sound: // nor does it prove the events that it continues
				report.Unverifiable += 1 + loose
				loose = 0
			case l.slot == 0: // anybody can compute its hash
				loose++
			default: // its MAC covers the hash of the one before, and so all of them
				loose = 0
			}
			ends.pass(l, m.ring.at(l.slot) != nil)
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
	report.Broken = cmp.Or(ends.broken(), report.Broken)
	return report, nil
}

// behind checks one event against the one before it.
func (l link) behind(last link) *BrokenLink {
	bad := func(why string) *BrokenLink { return &BrokenLink{last.Seq + 1, why} }
	keyed := l.sound && l.slot != 0 && last.Seq > 0 // only a Manager made this one, so the one before it was changed
	switch {
	case l.fault != "" && l.Seq == last.Seq+1:
		return bad(l.fault)
	case l.Seq != last.Seq+1:
		return bad("the event is missing")
	case l.slot == 0 && last.slot != 0:
		return bad("the event has no pepper, but the one before it has")
	case keyed && l.after != 0 && l.after != last.slot+1:
		return &BrokenLink{last.Seq, fmt.Sprintf("the event names the pepper of slot %d, and the next one continues an event of slot %d", last.slot, l.after-1)}
	case keyed && l.prev != last.hash:
		return &BrokenLink{last.Seq, "the next event continues another one than this"}
	case l.prev != last.hash:
		return bad("the event does not continue the one before it")
	}
	return nil
}

// agrees checks a record against its newest event. Both were made at once, so with one
// pepper: an event that nobody can check is not the newest of a record that is
// believed.
func (m *Manager) agrees(r *StoreRecord, l link) *BrokenLink {
	if l.hash != r.Head {
		return &BrokenLink{l.Seq, "the record's Head is not this event's hash"}
	}
	if err := m.believe(r); err != nil {
		return &BrokenLink{l.Seq, "the record itself is damaged"}
	}
	if slot := macSlot(r.MAC); l.slot != slot {
		return &BrokenLink{l.Seq, fmt.Sprintf("the event names the pepper of slot %d, and its record is signed by that of slot %d", l.slot, slot)}
	}
	return nil
}

// beyond looks at a record whose log goes on after its version: it was changed
// since it was read, or it was put back to an older version.
func (m *Manager) beyond(ctx context.Context, r StoreRecord) (*BrokenLink, error) {
	now, err := m.settings.Store.Get(ctx, r.ID)
	switch {
	case err != nil:
		return nil, storeError(err)
	case now.Version > r.Version:
		return nil, nil
	}
	return &BrokenLink{r.Version + 1, "the record was put back to before this event"}, nil
}

// ends finds events with a pepper that had ended. After a Remac, a key no longer uses
// its old peppers. If a later event names one of them, and it is not configured any
// more, the event was written by somebody who has a leaked pepper, or who names a
// pepper that nobody can check. The event is accepted if a later Remac found the record
// signed with that very pepper: then some Manager still minted with it.
type ends struct {
	remac uint64                    // Seq of the newest Remac
	late  [MaxPepperSlot + 1]uint64 // of each slot: the first event after a Remac
}

func (s *ends) pass(l link, configured bool) {
	switch {
	case !configured && l.slot != 0:
		if s.remac > 0 && s.late[l.slot] == 0 {
			s.late[l.slot] = l.Seq
		}
	case l.sound && l.slot != 0 && l.Action == ActionRemac:
		s.remac = l.Seq
		if l.after == 0 { // the event does not say which pepper it was
			clear(s.late[:])
		} else {
			s.late[l.after-1] = 0
		}
	}
}

// broken returns the first event that comes too late; nil: there is none.
func (s *ends) broken() (first *BrokenLink) {
	for slot, seq := range s.late {
		if seq > 0 && (first == nil || seq < first.Seq) {
			first = &BrokenLink{seq, fmt.Sprintf("the event names the pepper of slot %d, which had ended for this key when Remac signed it anew", slot)}
		}
	}
	return first
}

// chainHash returns the hash of an event's body: the next event's prev, or the record's
// Head. With a pepper, only somebody who has the pepper can make one. Without a pepper
// the chain shows accidents, but not changes by a database administrator.
func chainHash(k *pepperKeys, body []byte) [32]byte {
	if k == nil {
		return sha256.Sum256(append([]byte("apikey event v1\x00"), body...))
	}
	return k.mac(purposeEvent, body)
}

const eventV1 = 1

// maker says which pepper makes an event's hash, and which made the MAC of the record
// before.
type maker struct {
	slot uint8 // of the pepper that makes its hash; 0: none
	// after is one more than the slot of the MAC that the record had before, which
	// is the slot of the event before. 0: not said, because the event is about no
	// key, is older than this field, or the record before could not be believed.
	after uint8
}

// follows notes the MAC that the record had before.
func (m *maker) follows(mac []byte) {
	if slot := macSlot(mac); slot <= MaxPepperSlot {
		m.after = slot + 1
	}
}

// macSlot is the slot of the pepper that made a record's MAC; 0: there is none.
func macSlot(mac []byte) uint8 {
	if len(mac) == 0 {
		return 0
	}
	return mac[0]
}

// number encodes both slots in one number. Each fits into a byte. If after is not said,
// the number is the one that was written before there was an after.
func (m maker) number() uint64 { return uint64(m.slot) | uint64(m.after)<<8 }

func makerOf(n uint64) (m maker, ok bool) {
	m = maker{uint8(n), uint8(n >> 8)}
	return m, n == m.number() && m.slot <= MaxPepperSlot && m.after <= MaxPepperSlot+1
}

// encode writes the bytes that are hashed and stored verbatim: version, maker,
// the previous hash, then the event.
func (e *Event) encode(by maker, prev [32]byte) []byte {
	var c canon.Writer
	c.Uint(eventV1)
	c.Uint(by.number())
	c.Fixed(prev[:])
	c.Fixed(e.ID[:])
	c.Time(e.Time)
	c.Text(string(e.Action))
	c.Text(string(e.Outcome))
	c.Text(e.Account)
	c.Uint(uint64(e.Mode))
	c.Fixed(e.Key[:])
	c.Fixed(e.Credential[:])
	c.Uint(e.Seq)
	for _, s := range []string{e.Actor.ID, e.Actor.Account, e.Actor.Role, e.Actor.Addr, e.Actor.UserAgent, e.Actor.RequestID} {
		c.Text(s)
	}
	c.Bool(e.Actor.operator)
	c.Texts(e.Changed)
	c.Text(string(e.Reason))
	return c.Encoded()
}

// link is an event as it was stored, with what can be checked in it by itself.
type link struct {
	Event
	maker
	prev  [32]byte
	hash  [32]byte
	newer bool   // written by a version that this one cannot read
	sound bool   // its hash is right; its pepper, if it has one, is configured
	fault string // what is wrong with it; empty: nothing that can be seen
}

// decodeEvent reads what encode wrote; false for anything else, so that
// whatever decodes encodes to the same bytes.
func decodeEvent(body []byte) (l link, ok bool) {
	u := canon.NewReader(body)
	version := u.Uint()
	by, known := makerOf(u.Uint())
	u.Fixed(l.prev[:])
	l.maker = by
	if u.OK() && version > eventV1 { // of a newer version: its place in the chain can be checked, no more
		l.newer = true
		return l, known
	}
	u.Fixed(l.ID[:])
	l.Time = u.Time()
	l.Action, l.Outcome = Action(u.Text()), Outcome(u.Text())
	l.Account = u.Text()
	mode := u.Uint()
	u.Fixed(l.Key[:])
	u.Fixed(l.Credential[:])
	l.Seq = u.Uint()
	for _, s := range []*string{&l.Actor.ID, &l.Actor.Account, &l.Actor.Role, &l.Actor.Addr, &l.Actor.UserAgent, &l.Actor.RequestID} {
		*s = u.Text()
	}
	operator := u.Uint()
	l.Changed = u.Texts()
	l.Reason = Reason(u.Text())
	l.Mode, l.Actor.operator = Mode(mode), operator == 1
	return l, u.Complete() && version == eventV1 && known && mode <= 255 && operator <= 1
}

// madeBy returns the maker of an event that is made with a pepper; nil: with none.
func madeBy(k *pepperKeys) maker {
	if k == nil {
		return maker{}
	}
	return maker{slot: k.slot}
}

// record makes the event to store, chained behind prev.
func (c *core) record(e Event, by maker, prev [32]byte) StoreEvent {
	body := e.encode(by, prev)
	return StoreEvent{
		ID: e.ID, Time: e.Time, Account: e.Account, Mode: e.Mode, Key: e.Key, Credential: e.Credential,
		Seq: e.Seq, Actor: e.Actor.ID, Action: e.Action, Body: body, Hash: chainHash(c.ring.at(by.slot), body),
	}
}
