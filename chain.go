package apikey

import (
	"cmp"
	"context"
	"fmt"
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
