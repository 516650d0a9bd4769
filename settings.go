package apikey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
	"github.com/go-apikey/apikey/internal/seldom"
)

// Settings are what every Manager and every Verifier of a program have in common. A
// process that manages keys gives them to [NewManager], whose [Manager.NewVerifier]
// makes the Verifiers of that process. A process that only verifies gives the same
// Settings to [NewVerifier]. The zero value of a field is a safe default; Store and
// Prefix are required.
type Settings struct {
	Store  Store  // memstore.New() in tests, sqlstore.New in production
	Prefix string // 1 to 20 of a-z, 0-9 and '_'; every token begins with it
	// Catalog lists the abilities that a key may be given. A Manager needs it. A process
	// that only verifies needs it for the forms of ability that the program defined
	// itself: without it, such an ability is read as another form, or as damage.
	Catalog *Catalog

	// Peppers verify tokens and records; the first makes tags and MACs. If there is any,
	// tokens and records that were made without a pepper are refused. If the program had
	// no pepper before, these are all its keys: see AcceptUntagged. NewManager writes to
	// the store which peppers are in use, so that a wrong one is found at the next start.
	Peppers []Pepper
	// Hashers verify hashes; the first makes new ones, and a Verifier that is not ReadOnly
	// makes a hash anew that the first calls outdated. Empty: one Argon2id. Every Hasher
	// whose hashes are still stored has to stay in the list: it is not derived from
	// Peppers, so that hashes from before the first pepper go on verifying. NewManager
	// writes to the store which is first, so that a list without it is found at the next
	// start.
	Hashers []Hasher
	// AcceptUntagged accepts tokens without a tag, and records without a MAC whose
	// credentials have no tag, and lets a Manager change and sign them. Set it while a
	// pepper is being introduced. As long as it is set, anyone who can write to the
	// database can forge keys.
	AcceptUntagged bool

	Standing Standing // nil: every account is in good standing
	Notifier Notifier // nil: other nodes poll
	Trace    *Trace   // nil: none
	// Logger gets at most ten lines a minute of one cause. The next line of the cause says
	// in left_out how many were left out. nil: silent.
	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
}

func (s Settings) withDefaults() Settings {
	s.Peppers, s.Hashers = slices.Clone(s.Peppers), slices.Clone(s.Hashers)
	s.Trace = cmp.Or(s.Trace, &Trace{})
	s.Logger = seldom.Logger(cmp.Or(s.Logger, slog.New(slog.DiscardHandler)))
	if s.Now == nil {
		s.Now = time.Now
	}
	return s
}

// core is what Manager and Verifier share: how a token is proven against a record, and
// when a record is believed.
type core struct {
	settings Settings
	ring     ring
	plain    bool // ManagerConfig.MintUntagged; see core.minting
	forms    *forms
	skew     time.Duration // of a Manager; 0 in a Verifier
}

// newCore checks the Settings.
func newCore(s Settings) (core, error) {
	s = s.withDefaults()
	if s.Store == nil {
		return core{}, invalid("Settings.Store is required: memstore.New() in tests, sqlstore.New in production")
	}
	if err := checkPrefix(s.Prefix); err != nil {
		return core{}, err
	}
	r, err := newRing(s.Peppers)
	if err != nil {
		return core{}, err
	}
	if len(s.Hashers) == 0 {
		argon, err := NewArgon2id(Argon2idConfig{})
		if err != nil {
			return core{}, err
		}
		s.Hashers = []Hasher{argon}
	}
	if err := validHashers(s.Hashers, r); err != nil {
		return core{}, err
	}
	return core{settings: s, ring: r, forms: &forms{lists: map[string]*abilities{}}}, nil
}

// itemProgram is the kind of the one item in which the Managers of a database note the
// part of their Settings that every process has to share and that no pepper shows. A
// process with another prefix would refuse every key, and one whose Hashers cannot read
// what the Managers hash would call every new key damaged. With the note, both fail at
// the start and not in traffic. Somebody who writes to the database without the pepper
// cannot forge a note: one with a wrong MAC counts as none. They can put back an older
// one, which stops no start unless Hashers have been removed since. If a note is wrong,
// delete the item: the next Manager makes another.
const (
	itemProgram   StoreItemKind = "program"
	itemProgramID               = "settings"
)

// program is what the note says.
type program struct {
	prefix string
	hash   string // sampleOf the first Hasher
	pepper string // markOf the pepper of an HMACSHA256; otherwise empty
}

func (c *core) program() program {
	p := program{prefix: c.settings.Prefix, hash: sampleOf(c.settings.Hashers[0])}
	if h, is := c.settings.Hashers[0].(*HMACSHA256); is {
		p.pepper = string(markOf(h.ring.minting))
	}
	return p
}

func (p program) encode() []byte {
	var c canon.Writer
	c.Text("apikey program v1")
	for _, s := range []string{p.prefix, p.hash, p.pepper} {
		c.Text(s)
	}
	return c.Encoded()
}

func decodeProgram(data []byte) (p program, ok bool) {
	r := canon.NewReader(data)
	version := r.Text()
	p = program{r.Text(), r.Text(), r.Text()}
	// Without a pepper, anybody who writes to the database can have made the note.
	return p, r.Complete() && version == "apikey program v1" && validPrefix(p.prefix) && p.hasher() != ""
}

// hasher returns the name of the Hasher that makes p.hash; empty: none does.
func (p program) hasher() string {
	if fields := strings.SplitN(p.hash, "$", 3); len(fields) == 3 && fields[0] == "" {
		return fields[1]
	}
	return ""
}

// checkProgram compares the Settings with the note, if there is one.
func (c *core) checkProgram(ctx context.Context) (note StoreItem, noted program, err error) {
	note, err = itemOf(ctx, c.settings.Store, itemProgram, itemProgramID)
	if err != nil {
		return note, noted, err
	}
	data, genuine := c.vouched(note)
	noted, whole := decodeProgram(data)
	if !genuine || !whole {
		return note, program{}, nil
	}
	if noted.prefix != c.settings.Prefix {
		return note, noted, invalid("Settings.Prefix is %q, and the keys of this database begin with %q", c.settings.Prefix, noted.prefix)
	}
	return note, noted, c.reads(noted)
}

// noteProgram writes the note if it is missing or says something else. A Manager whose
// first Hasher differs from the note has to be able to read the hashes of the Managers
// before it: their keys are in the store.
func (m *Manager) noteProgram(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		note, noted, err := m.checkProgram(ctx)
		if err != nil || noted == m.program() {
			return err
		}
		j := ofStore(ActionPepper)
		j.unlogged = true
		err = m.own().apply(ctx, Operator("apikey"), j, effect{items: []StoreItem{m.vouch(StoreItem{Kind: note.Kind, ID: note.ID, Version: note.Version}, m.program().encode())}})
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if attempt == maxAttempts { // somebody has made the item unwritable, which is to stop no start
			m.settings.Logger.Warn("apikey: the note of the Settings cannot be written, so a process with another prefix or other Hashers is not refused: delete the item", "kind", note.Kind, "id", note.ID)
			return nil
		}
	}
}

// reads returns an error if no Hasher reads the hashes that the Managers make.
func (c *core) reads(p program) error {
	if reader := pickHasher(c.settings.Hashers, p.hash); reader != nil && canRead(reader, p) {
		return nil
	}
	return invalid("no Hasher in Settings.Hashers reads the %s hashes of this database's Managers (by name, MaxMemory and peppers): add the Hasher that they use, behind yours if yours is to replace it", quote(p.hasher()))
}

// sampleOf returns a hash in the form of a Hasher's own, of zeros and without its cost.
// If the Hasher is one of the program's own, only its name is known.
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
func canRead(h Hasher, p program) bool {
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

func samePepper(a, b *pepperKeys) bool {
	return a != nil && b != nil && sameText(string(markOf(a)), string(markOf(b)))
}

// validHashers refuses a Hasher that could never work. Otherwise its hashes would be
// called damaged only when requests come.
func validHashers(hashers []Hasher, peppers ring) error {
	for _, h := range hashers {
		switch h := h.(type) {
		case nil:
			return invalid("a Hasher in the list is nil")
		case *Argon2id:
			if h == nil || h.gate == nil {
				return invalid("make an Argon2id with NewArgon2id")
			}
		case *HMACSHA256:
			if h == nil || !h.ring.has() {
				return invalid("make an HMACSHA256 with NewHMACSHA256")
			}
			for slot, k := range h.ring.slots {
				if other := peppers.at(uint8(slot)); k != nil && other != nil && !samePepper(k, other) {
					return fmt.Errorf("%w: the HMAC Hasher has another pepper in slot %d than Peppers", ErrPepper, slot)
				}
			}
		default:
			if name := h.Name(); name == "" || strings.Contains(name, "$") {
				return invalid("a Hasher's Name is %s: want one that can stand between two '$'", quote(name))
			}
		}
	}
	return nil
}
