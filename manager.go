package apikey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-apikey/apikey/internal/seldom"
)

// A Manager issues, changes and revokes keys. It is the control plane, for the key page
// and for scripts. It is safe for concurrent use. Every method but RevokeToken needs an
// [Actor] in its context and sees the keys of that actor's account alone: a key of
// another account is ErrNotFound, exactly as one that does not exist.
type Manager struct {
	core
	cfg     ManagerConfig
	limits  Limits
	vault   vault
	cold    *reads // for RevokeToken
	exits   flights[[32]byte, struct{}]
	tasks   *tasks
	denials denials
	sending sync.Map // IDs of challenges whose code is being sent
	closed  atomic.Bool
}

// ManagerConfig configures [NewManager]. The zero value of a field is a safe
// default; Store, Prefix and Catalog are required.
type ManagerConfig struct {
	Store   Store
	Prefix  string   // 1 to 20 of a-z, 0-9 and '_'; every token begins with it
	Catalog *Catalog // the abilities that a key may be given
	Hasher  Hasher   // nil: Argon2id; share the value with the Verifiers
	// Peppers: the first makes tags and MACs, all verify. NewManager writes to the
	// store which peppers are in use, so that a wrong one is found at the next start.
	Peppers []Pepper
	// AcceptUntagged lets records without a MAC be changed and signed, while a
	// pepper is being introduced; see [VerifierConfig.AcceptUntagged].
	AcceptUntagged bool

	Policy   Policy   // nil: RolePolicy{}
	Standing Standing // nil: every account is in good standing
	// Products says whether an account may have an ability in a mode at all (a product
	// that is enabled). It is asked about the abilities of a new key, about those that
	// an update names, and about all of a key that is resumed or that an update lets do
	// more. An error refuses, wrapped in ErrStanding. nil: every product is enabled.
	Products func(account string, m Mode, a Ability) error
	Limits   Limits

	// StepUp says which actions need a factor; nil: none does. [GuardCreateAndDelete]
	// and its neighbours are ready-made.
	StepUp  StepUp
	Factors map[string]Factor // by the names that StepUp uses
	// KEKs seal the tokens of Recoverable keys and TOTP seeds: the first wraps, all
	// unwrap; see [Manager.Reseal].
	KEKs []KEK
	// InsecureRevealWithoutStepUp lets Reveal succeed if StepUp names no factor for
	// ActionReveal: then everybody who has a session can read the secret.
	InsecureRevealWithoutStepUp bool

	// Skew is how far the clocks of the machines may be apart, at most 1 min; 0: 5 s.
	// For that long before and after a scheduled switch both tokens are accepted.
	Skew time.Duration

	// Local are the Verifiers of this process. A change reaches them before the method
	// that made it returns.
	Local    []*Verifier
	Notifier Notifier // nil: other nodes poll
	// OnEvent is called after the commit, before the method returns. NewManager calls
	// it too, when a pepper is used on this database for the first time, or vouches for
	// another pepper: see [Manager.AdoptPepper].
	OnEvent func(Event)
	Trace   *Trace           // nil: none
	Logger  *slog.Logger     // as VerifierConfig.Logger; nil: silent
	Now     func() time.Time // nil: time.Now
}

// NewManager checks the configuration, and compares the peppers with the store. Errors:
// ErrInvalid, ErrPepper, ErrUnavailable.
func NewManager(ctx context.Context, c ManagerConfig) (*Manager, error) {
	switch {
	case c.Store == nil:
		return nil, invalid("ManagerConfig.Store is required: memstore.New() in tests, sqlstore.New in production")
	case c.Catalog == nil:
		return nil, invalid("ManagerConfig.Catalog is required: apikey.MustCatalog lists the abilities that keys can have")
	case slices.Contains(c.Local, nil):
		return nil, invalid("a Verifier in ManagerConfig.Local is nil")
	case c.Limits.outOfRange():
		return nil, invalid("ManagerConfig.Limits: a limit cannot be negative, and none of keys above 2^30; 0 is its default")
	}
	c.Local = slices.Clone(c.Local)
	if c.Skew < 0 || c.Skew > time.Minute {
		return nil, invalid("ManagerConfig.Skew is %v: want 0 (5 s) to 1 min", c.Skew)
	}
	vault, err := newVault(c.KEKs)
	if err != nil {
		return nil, err
	}
	c.Factors = maps.Clone(c.Factors)
	if err := c.validStepUp(); err != nil {
		return nil, err
	}
	var hashers []Hasher
	if c.Hasher != nil {
		hashers = []Hasher{c.Hasher}
	}
	core, err := newCore(c.Prefix, c.Catalog, hashers, c.Peppers, c.AcceptUntagged)
	if err != nil {
		return nil, err
	}
	if c.Policy == nil {
		c.Policy = RolePolicy{}
	}
	c.Trace = cmp.Or(c.Trace, &Trace{})
	c.Logger = seldom.Logger(cmp.Or(c.Logger, slog.New(slog.DiscardHandler)))
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := core.matches(c.Local); err != nil {
		return nil, err
	}
	c.warnUnguarded()
	core.skew = cmp.Or(c.Skew, 5*time.Second)
	m := &Manager{core: core, cfg: c, limits: c.Limits.withDefaults(), vault: vault, cold: newReads(8, 256), tasks: newTasks()}
	m.exits.tasks = m.tasks
	marks, err := core.checkMarks(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	if err := m.mark(ctx, marks); err != nil {
		return nil, err
	}
	return m, nil
}

// matches refuses a Verifier of this process that could not accept the tokens of this
// Manager, would read their abilities otherwise, or would hash them anew. It is called
// before anything is written.
func (c *core) matches(local []*Verifier) error {
	for i, v := range local {
		switch {
		case v.prefix != c.prefix:
			return invalid("ManagerConfig.Local[%d] has prefix %q, the Manager has %q", i, v.prefix, c.prefix)
		case c.ring.has() && v.ring.at(c.ring.minting.slot) == nil:
			return invalid("ManagerConfig.Local[%d] has not the pepper of slot %d, with which the Manager mints", i, c.ring.minting.slot)
		case c.ring.has() && !samePepper(c.ring.minting, v.ring.at(c.ring.minting.slot)):
			return fmt.Errorf("%w: ManagerConfig.Local[%d] has another pepper in slot %d than the Manager", ErrPepper, i, c.ring.minting.slot)
		case !c.ring.has() && v.ring.has() && !v.acceptUntagged:
			return invalid("ManagerConfig.Local[%d] has a pepper, and the Manager mints without one: give it the same, or set AcceptUntagged while it is introduced", i)
		case c.catalog.forms() > v.catalog.forms():
			return invalid("ManagerConfig.Local[%d] has not the Catalog's forms of ability that the Manager gives to keys: set VerifierConfig.Catalog to the same", i)
		}
		if why := hashesOf(c.hashers[0], v); why != "" {
			return invalid("ManagerConfig.Local[%d] %s: share the Hasher of ManagerConfig with VerifierConfig.Hashers", i, why)
		}
	}
	return nil
}

// hashesOf says why a Verifier does not fit the hashes that a Manager's Hasher makes;
// "": it fits.
func hashesOf(minting Hasher, v *Verifier) string {
	made := sampleOf(minting)
	reader := pickHasher(v.hashers, made)
	switch {
	case reader == nil:
		return fmt.Sprintf("has no Hasher for %s, with which the Manager hashes", minting.Name())
	case !canRead(reader, minting):
		return fmt.Sprintf("has a Hasher for %s that cannot read what the Manager hashes, by its MaxMemory or its peppers", minting.Name())
	case v.cfg.ReadOnly || !v.hashers[0].Outdated(made):
		return ""
	}
	for _, h := range v.hashers { // a list with the Manager's Hasher replaces its hashes on purpose
		if sampleOf(h) == made {
			return ""
		}
	}
	return fmt.Sprintf("would hash anew, as %s, whatever the Manager hashes", v.hashers[0].Name())
}

// Close ends the Manager: later calls return ErrClosed. Close waits, within ctx, for
// running calls of RevokeToken, which go on when their callers hang up. It returns nil.
func (m *Manager) Close(ctx context.Context) error {
	m.closed.Store(true)
	m.tasks.drain(ctx)
	return nil
}

// session is a Manager at work on its own store, or inside a caller's transaction.
type session struct {
	*Manager
	store  Store
	joined bool
	tx     *Tx
	unfit  error // joined: the store is in no transaction
}

func (m *Manager) own() session { return session{Manager: m, store: m.cfg.Store} }

// notice holds the changes to announce after a commit. A notice without events is a
// stored state of which this node may not have heard yet.
type notice struct {
	action  Action
	changes []StoreChange
	events  []Event
	start   time.Time
}

// announce tells this node's Verifiers, then other nodes, then the program. In a
// caller's transaction the notice waits for Committed.
func (s session) announce(ctx context.Context, n notice) {
	if s.joined {
		s.tx.notices = append(s.tx.notices, n)
		return
	}
	s.tell(ctx, n)
}

func (m *Manager) tell(ctx context.Context, n notice) {
	records := false
	for _, c := range n.changes {
		if c.Record == nil {
			continue
		}
		records = true
		for _, v := range m.cfg.Local {
			told := news{record: c.Record, readAt: v.instantOf(n.start), from: toldHere, did: n.action}
			if c.Event != nil {
				told.id = c.Event.Credential
			}
			v.take(told)
		}
	}
	if m.cfg.Notifier != nil && records && len(n.events) > 0 {
		nctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		if err := m.cfg.Notifier.Notify(nctx); err != nil {
			m.cfg.Logger.Warn("apikey: other nodes were not notified; they poll", "error", err)
		}
		cancel()
	}
	if m.cfg.OnEvent != nil {
		for _, e := range n.events {
			m.cfg.OnEvent(e)
		}
	}
}

// doubt makes this node's Verifiers read these keys again, because nobody knows whether
// the changes were written.
func (s session) doubt(changes []StoreChange) {
	for _, c := range changes {
		for _, v := range s.cfg.Local {
			if c.Record != nil {
				v.cache.doubtKey(c.Record)
			}
		}
	}
}

// Get describes a key, also a revoked one. Errors: those of the table in the package
// documentation.
func (m *Manager) Get(ctx context.Context, id KeyID) (Info, error) {
	return m.own().get(ctx, id)
}

func (s session) get(ctx context.Context, id KeyID) (info Info, err error) {
	err = s.do(ctx, ofKey(ActionRead, id).reading(func(_ Actor, r *StoreRecord) error {
		info = s.describeAll(r, s.cfg.Now())
		return nil
	}))
	return info, err
}

// ListRequest selects a page of keys, newest first. Zero fields select all.
type ListRequest struct {
	// Account: empty is the actor's own and, for an Operator, every account.
	Account string
	Mode    Mode
	Kind    Kind
	State   State
	// NameContains finds part of a name; ASCII letters match without case. An
	// Operator has to name the account with it.
	NameContains   string
	NeverUsed      bool
	UnusedSince    time.Time // created before it, and not used at or after it
	ExpiringBefore time.Time // has an expiry, which is before it
	// NotExpiredAt selects keys that do not expire at or before it. With State: Active
	// and the present time, it selects the keys that can be used now.
	NotExpiredAt time.Time
	DueBefore    time.Time // Info.RotateDue is at or before it; a page may have fewer keys than Limit
	Pepper       uint8     // the MAC or a token that has not ended is of this pepper slot
	Untagged     bool      // a token that has not ended was made without a pepper
	Cursor       Cursor    // KeyList.Next of the page before; empty: begin with the newest
	Limit        int       // 1 to 1000; 0: 100
}

// KeyList is one page of keys.
type KeyList struct {
	Keys    []Info
	Damaged []*CorruptError // keys of this page that are damaged or have a wrong MAC
	Next    Cursor          // empty: this was the last page
}

// List returns a page of keys, including revoked ones unless State says otherwise.
// Errors: those of the table in the package documentation, and:
//   - ErrNotFound: when Account is another account than the actor's
//   - ErrInvalid: also when Cursor is of another list
func (m *Manager) List(ctx context.Context, req ListRequest) (KeyList, error) {
	return m.own().list(ctx, req)
}

func (s session) list(ctx context.Context, req ListRequest) (list KeyList, err error) {
	err = s.do(ctx, ofAnyAccount(ActionRead, req.Account).in(req.Mode, req.Kind).reading(func(a Actor, _ *StoreRecord) error {
		f := req.filter(accountOf(a, req.Account))
		if f.NameContains != "" && f.Account == "" {
			return invalid("NameContains needs an Account")
		}
		page, err := s.listPage(ctx, f, req.Cursor)
		if err != nil {
			return err
		}
		list = KeyList{Damaged: page.Damaged, Next: page.Next}
		for i := range page.Records {
			list.Keys = append(list.Keys, s.describeAll(&page.Records[i], s.cfg.Now()))
		}
		return nil
	}))
	return list, err
}

func (r ListRequest) filter(account string) StoreFilter {
	return StoreFilter{
		Account: account, Mode: r.Mode, Kind: r.Kind, State: r.State, NameContains: r.NameContains,
		NeverUsed: r.NeverUsed, UnusedSince: micros(r.UnusedSince), ExpiringBefore: micros(r.ExpiringBefore),
		NotExpiredAt: micros(r.NotExpiredAt), DueBefore: micros(r.DueBefore), Pepper: r.Pepper, Untagged: r.Untagged, Limit: r.Limit,
	}
}

// listPage lists records. Records that cannot be believed are in Damaged. The cursor
// of the page fits this filter alone.
func (s session) listPage(ctx context.Context, f StoreFilter, cursor Cursor) (StorePage, error) {
	if err := f.selectable(); err != nil {
		return StorePage{}, err
	}
	limit := f.Limit
	f.Limit = 0
	bind := fmt.Sprint("keys", f)
	f.Limit = limit
	var err error
	if f.After, err = openCursor(cursor, bind); err != nil {
		return StorePage{}, err
	}
	page, err := s.store.List(ctx, f)
	if err != nil {
		return StorePage{}, storeError(err)
	}
	believed := page.Records[:0]
	for i := range page.Records {
		var corrupt *CorruptError
		if err := s.believe(&page.Records[i]); errors.As(err, &corrupt) {
			page.Damaged = append(page.Damaged, corrupt)
			continue
		}
		if !f.DueBefore.IsZero() && page.Records[i].due(s.skew).After(f.DueBefore) {
			continue // a scheduled rotation has put it off, which a store does not know
		}
		believed = append(believed, page.Records[i])
	}
	page.Records, page.Next = believed, sealCursor(page.Next, bind)
	return page, nil
}
