package apikey

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// itemMark is the kind of the items that tell a database's peppers: ID is the
// slot, Data an HMAC under the pepper.
const itemMark ItemKind = "pepper"

func markOf(k *pepperKeys) []byte {
	sum := k.mac(purposeMark, []byte("apikey pepper mark v1"))
	return sum[:]
}

func markID(slot uint8) string { return fmt.Sprintf("%02d", slot) }

// checkMarks compares the configured peppers with those that a Manager has used
// on this database, so that a wrong or forgotten one fails the start and not
// the traffic.
func (c *core) checkMarks(ctx context.Context, store Store) error {
	page, err := store.Items(ctx, ItemFilter{Kind: itemMark, Limit: MaxPepperSlot + 1})
	if err != nil {
		return storeError(err)
	}
	matched, slots := false, []string{}
	for _, it := range page.Items {
		slots = append(slots, strings.TrimPrefix(it.ID, "0"))
		var slot uint8
		if _, err := fmt.Sscanf(it.ID, "%d", &slot); err != nil {
			continue
		}
		k := c.ring.at(slot)
		if k == nil {
			continue // taken out: what it made is refused
		}
		if !sameText(string(markOf(k)), string(it.Data)) {
			return fmt.Errorf("%w: the pepper in slot %d is not the one that this database was used with", ErrPepper, slot)
		}
		matched = true
	}
	if len(page.Items) > 0 && !matched {
		return fmt.Errorf("%w: this database was used with the pepper of slot %s, and none of those is configured", ErrPepper, strings.Join(slots, ", "))
	}
	return nil
}

// mark writes the marks that are missing.
func (m *Manager) mark(ctx context.Context) error {
	for slot, k := range m.ring.slots {
		if k == nil {
			continue
		}
		page, err := m.cfg.Store.Items(ctx, ItemFilter{Kind: itemMark, ID: markID(uint8(slot))})
		if err != nil {
			return storeError(err)
		}
		if len(page.Items) > 0 {
			continue
		}
		e := Event{ID: newEventID(), Action: ActionPepper, Outcome: Done, Actor: Operator("apikey"), Changed: []string{markID(uint8(slot))}}
		m.warnUntagged(ctx)
		it := Item{Kind: itemMark, ID: markID(uint8(slot)), Version: 1, Data: markOf(k)}
		err = m.own().apply(ctx, e.Actor, job{action: ActionPepper}, effect{items: []Item{it}, note: &e})
		if errors.Is(err, ErrConflict) { // another node was faster: with the same pepper?
			err = m.checkMarks(ctx, m.cfg.Store)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// warnUntagged tells the log, when the first pepper is used on a database, that
// there are tokens without one: they would all be refused, and nobody would know
// why. At a second pepper it does not look: where all tokens have one, that would
// be a walk through all of them.
func (m *Manager) warnUntagged(ctx context.Context) {
	marks, err := m.cfg.Store.Items(ctx, ItemFilter{Kind: itemMark, Limit: 1})
	if m.acceptUntagged || err != nil || len(marks.Items) > 0 {
		return
	}
	page, err := m.cfg.Store.List(ctx, Filter{Untagged: true, Limit: 1})
	if err == nil && len(page.Records) > 0 {
		m.cfg.Logger.Warn("apikey: this database has tokens that were made without a pepper, which are refused: set AcceptUntagged until they are rotated", "key", page.Records[0].ID)
	}
}
