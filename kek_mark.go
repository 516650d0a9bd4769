package apikey

import (
	"context"
	"crypto/subtle"
	"errors"
	"slices"

	"github.com/go-apikey/apikey/internal/canon"
)

// itemKEK is the kind of the items that say which LocalKEKs a database was used with. The
// ID is that of the KEK, the data its mark, which is an HMAC under its key. So a wrong key
// under a known ID fails the start, and not the first Reveal months later, when the values
// that it sealed meanwhile need it and the others call themselves damaged.
//
// Other KEKs have no mark. To ask one would make every start wait for a key service, and
// its keys are told apart by the service.
//
// The item of a KEK that is not configured any more stays: its ID never gets another key.
const itemKEK StoreItemKind = "kek"

func (k *LocalKEK) mark() []byte {
	var c canon.Writer
	c.Text("apikey kek mark v1")
	c.Text(k.id)
	sum := k.keys.mac(purposeMark, c.Encoded())
	return sum[:]
}

// localKEKs are the KEKs whose key this process has.
func localKEKs(keks []KEK) (local []*LocalKEK) {
	for _, k := range keks {
		if l, is := k.(*LocalKEK); is && l.keys != nil {
			local = append(local, l)
		}
	}
	return local
}

// keksApart refuses a KEK with the key of a pepper: the file of the peppers was read as
// that of the KEKs, or the other way round, and both texts may be right for both. Whoever
// learned one secret would have the other. The peppers are those of the Settings, of an
// HMACSHA256 and of an EmailCode.
func (c *ManagerConfig) keksApart(s *Settings) error {
	peppers := slices.Clone(s.Peppers)
	rings := []ring{}
	for _, h := range s.Hashers {
		if h, is := h.(*HMACSHA256); is {
			rings = append(rings, h.ring)
		}
	}
	for _, f := range c.Factors {
		if f, is := f.(*EmailCode); is {
			rings = append(rings, f.ring)
		}
	}
	for _, r := range rings {
		for slot, k := range r.slots {
			if k != nil {
				peppers = append(peppers, Pepper{uint8(slot), k})
			}
		}
	}
	for _, k := range localKEKs(c.KEKs) {
		for _, p := range peppers {
			if subtle.ConstantTimeCompare(markOf(k.keys), markOf(p.v)) == 1 {
				return invalid("the KEK %s in ManagerConfig.KEKs has the same key as the pepper of slot %d in Settings.Peppers (or in a Hasher or Factor): is the file of one read for the other? Each needs a key of its own: %s", quote(k.id), p.slot, makeKey)
			}
		}
	}
	return nil
}

// unmarkedKEKs compares the configured LocalKEKs with those that Managers have used on
// this database, and returns the next version of each item that is missing. One without
// a right MAC counts as missing: see sharedSettings.
func (m *Manager) unmarkedKEKs(ctx context.Context) (missing []StoreItem, err error) {
	for _, k := range localKEKs(m.vault.keks) {
		it, err := itemOf(ctx, m.settings.Store, itemKEK, k.id)
		if err != nil {
			return nil, err
		}
		mark, genuine := m.vouched(it)
		switch {
		case !genuine || len(mark) != markSize:
			it = StoreItem{Kind: it.Kind, ID: it.ID, Version: it.Version} // without an expiry that somebody else gave it
			missing = append(missing, m.vouch(it, k.mark()))
		case subtle.ConstantTimeCompare(mark, k.mark()) != 1:
			return nil, invalid("the KEK %s in ManagerConfig.KEKs has not the key that this database was used with under this ID: put the right key back; a new key, or one of another environment, gets an ID of its own", quote(k.id))
		}
	}
	return missing, nil
}

// markKEKs writes the marks that are missing. If another node is faster, its mark is
// compared.
func (m *Manager) markKEKs(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		missing, err := m.unmarkedKEKs(ctx)
		if err != nil || len(missing) == 0 {
			return err
		}
		j := ofStore(ActionPepper)
		j.unlogged = true
		err = m.own().apply(ctx, Operator("apikey"), j, effect{items: missing})
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if attempt == maxAttempts { // somebody has made the item unwritable, which must not stop a start
			m.settings.Logger.Warn("apikey: it cannot be stored which KEKs this database is used with, so a wrong key under one of their IDs is not refused at a start: delete the item", "kind", itemKEK, "id", missing[0].ID)
			return nil
		}
	}
}
