package apikey

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/go-apikey/apikey/internal/canon"
)

// sharedSettings are the part of the Settings that every process of a program has to share
// and that no pepper shows. A process with another prefix would refuse every key, and one
// whose Hashers cannot read what the Managers hash would call every new key damaged. The
// Managers store them in one item, so that both fail at the start and not in traffic. If
// the item is wrong, delete it: the next Manager makes another.
//
// With a pepper and without AcceptUntagged, nobody who only writes to the database can
// forge the item: one without a right MAC counts as missing. They can put back an older
// one, which stops no start unless Hashers have been removed since.
type sharedSettings struct {
	prefix string
	hash   string // sampleOf the first Hasher
	pepper string // markOf the pepper of an HMACSHA256; otherwise empty
}

const (
	itemSettings   StoreItemKind = "settings"
	itemSettingsID string        = "managers"
)

func (c *core) shared() sharedSettings {
	p := sharedSettings{prefix: c.settings.Prefix, hash: sampleOf(c.settings.Hashers[0])}
	if h, is := c.settings.Hashers[0].(*HMACSHA256); is {
		p.pepper = string(markOf(h.ring.minting))
	}
	return p
}

func (p sharedSettings) encode() []byte {
	var c canon.Writer
	c.Text("apikey settings v1")
	for _, s := range []string{p.prefix, p.hash, p.pepper} {
		c.Text(s)
	}
	return c.Encoded()
}

func decodeShared(data []byte) (p sharedSettings, ok bool) {
	r := canon.NewReader(data)
	version := r.Text()
	p = sharedSettings{r.Text(), r.Text(), r.Text()}
	// Without a pepper, anybody who writes to the database can have made the item.
	return p, r.Complete() && version == "apikey settings v1" && validPrefix(p.prefix) && p.hasher() != ""
}

// hasher returns the name of the Hasher that makes p.hash; empty: none does.
func (p sharedSettings) hasher() string {
	if fields := strings.SplitN(p.hash, "$", 3); len(fields) == 3 && fields[0] == "" {
		return fields[1]
	}
	return ""
}

// checkShared compares the Settings with those that the Managers have stored, if there
// are any.
func (c *core) checkShared(ctx context.Context) (it StoreItem, stored sharedSettings, err error) {
	it, err = itemOf(ctx, c.settings.Store, itemSettings, itemSettingsID)
	if err != nil {
		return it, stored, err
	}
	data, genuine := c.vouched(it)
	stored, whole := decodeShared(data)
	if !genuine || !whole {
		return it, sharedSettings{}, nil
	}
	if stored.prefix != c.settings.Prefix {
		return it, stored, invalid("Settings.Prefix is %s, and the keys of this database begin with %s", quote(c.settings.Prefix), quote(stored.prefix))
	}
	return it, stored, c.checkHashes(stored)
}

// storeShared stores the Settings if they are missing or differ. A Manager whose first
// Hasher differs from the stored one has to be able to read the hashes of the Managers
// before it: their keys are in the store.
func (m *Manager) storeShared(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		it, stored, err := m.checkShared(ctx)
		if err != nil || stored == m.shared() {
			return err
		}
		j := ofStore(ActionPepper)
		j.unlogged = true
		it = StoreItem{Kind: it.Kind, ID: it.ID, Version: it.Version} // without an expiry that somebody else gave it
		err = m.own().apply(ctx, Operator("apikey"), j, effect{items: []StoreItem{m.vouch(it, m.shared().encode())}})
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if attempt == maxAttempts { // somebody has made the item unwritable, which must not stop a start
			m.settings.Logger.Warn("apikey: the shared Settings cannot be stored, so a process with another prefix or other Hashers is not refused: delete the item", "kind", it.Kind, "id", it.ID)
			return nil
		}
	}
}

// checkHashes returns an error if no Hasher reads the hashes that the Managers make.
func (c *core) checkHashes(p sharedSettings) error {
	if reader := pickHasher(c.settings.Hashers, p.hash); reader != nil && canRead(reader, p) {
		return nil
	}
	return invalid("no Hasher in Settings.Hashers reads the %s hashes of this database's Managers (by name, MaxMemory and peppers): add the Hasher that they use, behind yours if yours is to replace it", quote(p.hasher()))
}

// sampleOf returns a hash in the format of a Hasher, with zeros as salt and sum: nothing is
// computed. If the Hasher is one of the program's own, only its name is known.
func sampleOf(h Hasher) string {
	switch h := h.(type) {
	case *Argon2id:
		return argonHash{h.memory, h.time, h.lanes, make([]byte, argonSaltLen), make([]byte, argonKeyLen)}.String()
	case *HMACSHA256:
		return encodeHMAC(h.ring.minting.slot, make([]byte, sha256.Size))
	}
	return "$" + h.Name() + "$x"
}

// canRead reports whether a Hasher can read the hashes that the Managers make, which
// have its name. If the Hasher is one of the program's own, only names can be compared.
func canRead(h Hasher, p sharedSettings) bool {
	switch h := h.(type) {
	case *Argon2id:
		_, err := parseArgon(p.hash, h.maxMemory)
		return err == nil || strings.HasSuffix(p.hash, "$x")
	case *HMACSHA256:
		slot, _, err := parseHMAC(p.hash)
		k := h.ring.at(slot)
		return err == nil && k != nil && string(markOf(k)) == p.pepper
	}
	return true
}
