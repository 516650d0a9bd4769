package apikey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-apikey/apikey/internal/canon"
)

// itemMark is the kind of the items that say which peppers a database was used with.
// The ID is the slot. The data is a mark, which is an HMAC under that pepper, and
// behind it the vouches of other peppers: a slot and an HMAC each. While a pepper is
// configured, it checks its own mark. Once it is retired nobody can do that any more,
// and somebody who writes to the database could make up a mark, and claim of an event
// that it was made with that pepper. So the other peppers vouch for the mark while its
// pepper is there.
const itemMark StoreItemKind = "pepper"

const (
	markSize  = sha256.Size
	vouchSize = 1 + sha256.Size
)

func markID(slot uint8) string { return fmt.Sprintf("%02d", slot) }

// marks are the items of the peppers that a database was used with, by slot.
type marks map[uint8]StoreItem

// readMarks reads all items whose ID is one that markID makes. Other items beside them
// neither stop a start nor hide a mark.
func readMarks(ctx context.Context, store Store) (marks, error) {
	all := marks{}
	for f := (StoreItemFilter{Kind: itemMark}); ; {
		page, err := store.Items(ctx, f)
		if err != nil {
			return nil, storeError(err)
		}
		for _, it := range page.Items {
			n, err := strconv.ParseUint(it.ID, 10, 8)
			if slot := uint8(n); err == nil && slot >= 1 && slot <= MaxPepperSlot && markID(slot) == it.ID {
				all[slot] = it
			}
		}
		if f.After = page.Next; f.After == "" {
			return all, nil
		}
	}
}

// checkMarks compares the configured peppers with those that a Manager has used on this
// database, so that a wrong or forgotten one fails the start and not the traffic.
func (c *core) checkMarks(ctx context.Context) (marks, error) {
	all, err := readMarks(ctx, c.settings.Store)
	if err != nil {
		return nil, err
	}
	matched, slots := false, []string{}
	for _, slot := range slices.Sorted(maps.Keys(all)) {
		slots = append(slots, strconv.Itoa(int(slot)))
		k := c.ring.at(slot)
		if k == nil {
			continue // not configured any more: tokens that it made are refused
		}
		if mark, _ := all[slot].mark(); !sameText(string(markOf(k)), string(mark)) {
			return nil, fmt.Errorf("%w: the pepper in slot %d is not the one that this database was used with: put the right one back; a new pepper gets a slot of its own", ErrPepper, slot)
		}
		matched = true
	}
	if len(all) > 0 && !matched {
		return nil, fmt.Errorf("%w: this database was used with the pepper of slot %s, and none of those is configured", ErrPepper, strings.Join(slots, ", "))
	}
	return all, nil
}

// mark returns an item's mark and the vouches for it.
func (it StoreItem) mark() (mark, vouches []byte) {
	n := min(len(it.Data), markSize)
	return it.Data[:n], it.Data[n:]
}

// vouchOf returns the vouch of one pepper for the mark of another.
func vouchOf(k *pepperKeys, slot uint8, mark []byte) []byte {
	var c canon.Writer
	c.Text("apikey pepper vouch v1")
	c.Uint(uint64(slot))
	c.Bytes(mark)
	sum := k.mac(purposeMark, c.Encoded())
	return append([]byte{k.slot}, sum[:]...)
}

// genuine reports whether a configured pepper shows that the pepper of slot was used on
// this database: that pepper itself, or one that vouches for its mark.
func (c *core) genuine(slot uint8, it StoreItem) bool {
	mark, vouches := it.mark()
	if k := c.ring.at(slot); k != nil {
		return sameText(string(markOf(k)), string(mark))
	}
	for v := range slices.Chunk(vouches, vouchSize) {
		if k := c.ring.at(v[0]); k != nil && subtle.ConstantTimeCompare(v, vouchOf(k, slot, mark)) == 1 {
			return true
		}
	}
	return false
}

// vouchedFor returns the next version of a mark, with a vouch of each other pepper that
// is configured here; false: the mark has them all. Vouches of other peppers stay:
// another node may have those peppers.
func (c *core) vouchedFor(slot uint8, it StoreItem) (StoreItem, bool) {
	mark, vouches := it.mark()
	by := map[uint8][]byte{}
	for v := range slices.Chunk(vouches, vouchSize) {
		if len(v) == vouchSize && v[0] <= MaxPepperSlot {
			by[v[0]] = v
		}
	}
	missing := false
	for _, k := range c.ring.slots {
		if k == nil || k.slot == slot {
			continue
		}
		if v := vouchOf(k, slot, mark); !sameText(string(v), string(by[k.slot])) {
			by[k.slot], missing = v, true
		}
	}
	it.Data = slices.Clone(mark)
	for _, s := range slices.Sorted(maps.Keys(by)) {
		it.Data = append(it.Data, by[s]...)
	}
	it.Version++
	return it, missing
}

// mark writes what is missing: the mark of each configured pepper, and the vouches of
// each for the others, and for retired ones that were vouched for before. all is what
// checkMarks has just read.
func (m *Manager) mark(ctx context.Context, all marks) (err error) {
	if m.plain { // processes without the pepper still have to start
		return nil
	}
	for attempt := 1; ; attempt++ {
		e := m.unmarked(all)
		if e.nothing() {
			m.warnUnvouched(all)
			return nil
		}
		if len(all) == 0 {
			m.warnUntagged(ctx)
		}
		err = m.own().apply(ctx, e.note.Actor, ofStore(ActionPepper), e)
		if err != nil && !errors.Is(err, ErrConflict) || attempt == maxAttempts+MaxPepperSlot {
			return err
		}
		// If another node was faster: was it with the same pepper?
		if all, err = m.checkMarks(ctx); err != nil {
			return err
		}
	}
}

// unmarked returns the mark of the first pepper that has none, and all vouches that are
// missing and can be made.
func (m *Manager) unmarked(all marks) (e effect) {
	about := []string{}
	for slot, k := range m.ring.slots {
		if _, ok := all[uint8(slot)]; k != nil && !ok {
			it, _ := m.vouchedFor(uint8(slot), StoreItem{Kind: itemMark, ID: markID(uint8(slot)), Data: markOf(k)})
			e.items, about = append(e.items, it), append(about, it.ID)
			break
		}
	}
	introduced := len(about) > 0
	for _, slot := range slices.Sorted(maps.Keys(all)) {
		if !m.genuine(slot, all[slot]) {
			continue
		}
		if it, missing := m.vouchedFor(slot, all[slot]); missing {
			if e.items = append(e.items, it); !introduced {
				about = append(about, "vouched:"+it.ID)
			}
		}
	}
	if len(e.items) > 0 {
		e.note = m.own().note(Operator("apikey"), ActionPepper, "", about...)
	}
	return e
}

// warnUnvouched logs a warning for each mark that no configured pepper vouches for.
func (m *Manager) warnUnvouched(all marks) {
	for _, slot := range slices.Sorted(maps.Keys(all)) {
		if m.ring.has() && !m.genuine(slot, all[slot]) {
			m.settings.Logger.Warn("apikey: no configured pepper vouches that this database was used with the pepper of this slot, so VerifyEvents calls its events broken: if you have retired it yourself, AdoptPepper ends that", "slot", slot)
		}
	}
}

// warnUntagged logs a warning if there are tokens without a pepper when the first
// pepper is used on a database: they would all be refused, and nobody would know why.
// For a second pepper nobody looks: if all tokens have one, that would be a walk
// through all of them.
func (m *Manager) warnUntagged(ctx context.Context) {
	if m.settings.AcceptUntagged {
		return
	}
	page, err := m.settings.Store.List(ctx, StoreFilter{Untagged: true, Limit: 1})
	if err == nil && len(page.Records) > 0 {
		m.settings.Logger.Warn("apikey: this database has tokens that were made without a pepper, which are refused: set AcceptUntagged until they are rotated", "key", page.Records[0].ID)
	}
}

// AdoptPepper makes the configured peppers vouch for the pepper of slot, 1 to 61, which
// is not configured any more: they sign that this database was used with it. From then
// on VerifyEvents counts events of that pepper as Unverifiable, and Events shows them.
// Only an [Operator] may call AdoptPepper.
//
// Call AdoptPepper once for a pepper that was retired before there were such
// signatures: NewManager makes them for every pepper that is configured together with
// its successor. Call it only for a slot that you know to have retired. Somebody who
// writes to the database can have made the mark of the slot, and can claim, once the
// slot is adopted, that older events were made with its pepper.
//
// If the slot is vouched for already, AdoptPepper returns nil and writes nothing;
// otherwise it writes an event. Errors: those of the table in the package
// documentation, and:
//   - ErrInvalid: also when slot is out of range or no pepper is configured
//   - ErrNotFound: when the database has no mark of this slot
func (m *Manager) AdoptPepper(ctx context.Context, slot uint8) error {
	s := m.own()
	return s.do(ctx, ofStore(ActionPepper).changing(func(a Actor, _ *StoreRecord) (effect, error) {
		var outside error
		if slot < 1 || slot > MaxPepperSlot {
			outside = wrong("slot", InvalidOutOfRange, "pepper slot %d: want 1 to %d", slot, MaxPepperSlot).within(1, MaxPepperSlot)
		}
		if err := allWrong(s.peppered("AdoptPepper needs a configured pepper, which vouches for the other: set Settings.Peppers"), outside); err != nil {
			return effect{}, err
		}
		all, err := readMarks(ctx, s.store)
		if err != nil {
			return effect{}, err
		}
		it, ok := all[slot]
		if !ok {
			return effect{}, fmt.Errorf("%w: this database was never used with a pepper of slot %d: look at the slot again", ErrNotFound, slot)
		}
		if s.genuine(slot, it) {
			return effect{}, nil
		}
		it, _ = s.vouchedFor(slot, it)
		return effect{items: []StoreItem{it}, note: s.note(a, ActionPepper, "", "adopted:"+it.ID)}, nil
	}))
}

// Remac renews the MACs of records that were made with another pepper than the first of
// Settings.Peppers, and signs records without a MAC (with AcceptUntagged): limit
// keys at most, 1 to 1000; 0 means 100. Call Remac until it returns 0; after a crash,
// call it again. Only an [Operator] may call Remac.
//
// Remac never signs a record whose MAC is wrong: the error has it as a *[CorruptError],
// and Remac goes on with the others. After Remac has done a key, the other peppers have
// ended for it: a later event made with one of them is broken once that pepper is not
// configured any more (see [Manager.VerifyEvents]). So let every Manager use the new
// pepper first. Errors: those of the table in the package documentation.
func (m *Manager) Remac(ctx context.Context, limit int) (renewed int, err error) {
	if err := allWrong(m.peppered("Remac needs a pepper"), batchSize(limit)); err != nil {
		return 0, err
	}
	limit = cmp.Or(limit, usualBatch)
	s := m.own()
	f := StoreFilter{OtherMAC: m.ring.minting.slot, Limit: limit}
	var failed []error
	for renewed < limit {
		var page StorePage
		err := s.do(ctx, ofStore(ActionRemac).reading(func(Actor, *StoreRecord) error {
			var err error
			if page, err = s.store.List(ctx, f); err != nil {
				err = storeError(err)
			}
			return err
		}))
		if err != nil {
			return renewed, errors.Join(append(failed, mayBeDone(err))...)
		}
		for _, d := range page.Damaged {
			failed = append(failed, d)
		}
		for i := range page.Records {
			if renewed == limit {
				break
			}
			if err := s.remac(ctx, page.Records[i].ID); err != nil {
				failed = append(failed, mayBeDone(err))
				continue
			}
			renewed++
		}
		if page.Next == "" {
			break
		}
		f.After = page.Next
	}
	return renewed, errors.Join(failed...)
}

// peppered refuses a call that needs a pepper.
func (c *core) peppered(text string) error {
	if c.minting() == nil {
		return wrong("", InvalidUnavailable, "%s", text)
	}
	return nil
}

func (s session) remac(ctx context.Context, key KeyID) error {
	j := ofKey(ActionRemac, key).changing(func(_ Actor, stored *StoreRecord) (effect, error) {
		if len(stored.MAC) > 0 && stored.MAC[0] == s.ring.minting.slot {
			return effect{}, nil // somebody else was faster
		}
		r := stored.clone()
		return effect{made: []made{{record: &r}}}, nil
	})
	j.staff = true
	return s.do(ctx, j)
}
