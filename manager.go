package apikey

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Manager issues, changes and revokes keys. It is the control plane, for the key page
// and for scripts. It is safe for concurrent use. Every method but RevokeToken needs an
// [Actor] in its context and sees the keys of that actor's account alone: a key of
// another account is ErrNotFound, exactly as one that does not exist.
type Manager struct {
	core
	cfg       ManagerConfig
	limits    Limits
	vault     vault
	cold      *reads // for RevokeToken
	exits     flights[[32]byte, struct{}]
	tasks     *tasks
	denials   denials
	sending   sync.Map // IDs of challenges whose code is being sent
	closed    atomic.Bool
	verifiers verifierList
}

// ManagerConfig configures [NewManager]. The zero value of a field is a safe default.
type ManagerConfig struct {
	Policy Policy // nil: RolePolicy{}
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
	// unwrap; see [Manager.Reseal]. None has the key of a pepper.
	KEKs []KEK
	// InsecureRevealWithoutStepUp lets Reveal succeed if StepUp names no factor for
	// ActionReveal: then everybody who has a session can read the secret.
	InsecureRevealWithoutStepUp bool

	// MintUntagged makes tokens and records without a pepper, while those that another
	// Manager has made with one of Settings.Peppers are accepted, and signed again when they
	// are changed. It is the first step of introducing a pepper, as long as other processes
	// do not have the pepper yet, and needs Settings.AcceptUntagged. Remac and AdoptPepper
	// are ErrInvalid.
	MintUntagged bool

	// Skew is how far the clocks of the machines may be apart, at most 1 min; 0: 5 s.
	// For that long before and after a scheduled switch both tokens are accepted.
	Skew time.Duration

	// OnEvent is called after the commit, before the method returns. NewManager calls
	// it too, when a pepper is used on this database for the first time, or vouches for
	// another pepper: see [Manager.AdoptPepper].
	OnEvent func(Event)
}

// NewManager checks the configuration, and compares the Settings with those that other
// Managers of this database use. Errors:
//   - ErrInvalid: the configuration is wrong, the Prefix is not that of this database, no
//     Hasher reads the hashes of its Managers, or a [LocalKEK] has another key than the
//     one that was used with this database under its ID
//   - ErrUnavailable: the store is down
//   - ErrPepper: the peppers are not those of this database
func NewManager(ctx context.Context, s Settings, c ManagerConfig) (*Manager, error) {
	core, err := newCore(s)
	if err != nil {
		return nil, err
	}
	switch {
	case s.Catalog == nil:
		return nil, invalid("Settings.Catalog is required by a Manager: apikey.MustCatalog lists the abilities that keys can have")
	case c.Limits.outOfRange():
		return nil, invalid("ManagerConfig.Limits: a limit cannot be negative, and none of keys above 2^30; 0 is its default")
	case c.Skew < 0 || c.Skew > time.Minute:
		return nil, invalid("ManagerConfig.Skew is %v: want 0 (5 s) to 1 min", c.Skew)
	case c.MintUntagged && !s.AcceptUntagged:
		return nil, invalid("ManagerConfig.MintUntagged needs Settings.AcceptUntagged: the Verifiers would refuse what the Manager makes")
	}
	vault, err := newVault(c.KEKs)
	if err != nil {
		return nil, err
	}
	c.Factors = maps.Clone(c.Factors)
	if err := c.validStepUp(); err != nil {
		return nil, err
	}
	if err := c.keksApart(&core.settings); err != nil {
		return nil, err
	}
	if c.Policy == nil {
		c.Policy = RolePolicy{}
	}
	c.warnUnguarded(core.settings.Logger)
	m := &Manager{core: core, cfg: c, limits: c.Limits.withDefaults(), vault: vault, cold: newReads(8, 256), tasks: newTasks()}
	m.plain, m.skew = c.MintUntagged, cmp.Or(c.Skew, 5*time.Second)
	m.exits.tasks = m.tasks
	marks, err := m.checkMarks(ctx)
	if err != nil {
		return nil, err
	}
	if _, _, err := m.checkShared(ctx); err != nil { // before anything is written
		return nil, err
	}
	if _, err := m.unmarkedKEKs(ctx); err != nil {
		return nil, err
	}
	if err := m.mark(ctx, marks); err != nil {
		return nil, err
	}
	if err := m.storeShared(ctx); err != nil {
		return nil, err
	}
	if err := m.markKEKs(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// NewVerifier makes a Verifier of this process, with the Manager's Settings. A change
// reaches it before the method of the Manager that made the change returns. Close of the
// Manager closes it too. Errors:
//   - ErrInvalid: the configuration is wrong
//   - ErrUnavailable: the store is down or answers from a lagging replica
//   - ErrClosed: the Manager is closed
func (m *Manager) NewVerifier(ctx context.Context, c VerifierConfig) (*Verifier, error) {
	if m.closed.Load() {
		return nil, ErrClosed
	}
	core := m.core
	core.plain, core.skew = false, 0
	v, err := core.newVerifier(ctx, c)
	if err != nil {
		return nil, err
	}
	// v has cached nothing yet. If a change was committed before v is in the list, the
	// records that v reads later contain it.
	if !m.verifiers.add(v) {
		v.Close(ctx)
		return nil, ErrClosed
	}
	return v, nil
}

// verifierList holds the open Verifiers that a Manager has made.
type verifierList struct {
	mu     sync.Mutex
	closed bool
	list   atomic.Pointer[[]*Verifier] // never changed in place: it is read for every change
}

func (l *verifierList) all() []*Verifier {
	if list := l.list.Load(); list != nil {
		return *list
	}
	return nil
}

// add reports whether v is one of them now; false: the Manager is closed.
func (l *verifierList) add(v *Verifier) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	list := append(slices.Clone(l.all()), v)
	l.list.Store(&list)
	v.onClose = func() { l.remove(v) }
	return true
}

func (l *verifierList) remove(v *Verifier) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(l.all()), func(other *Verifier) bool { return other == v })
	l.list.Store(&list)
}

// close refuses later ones and returns those that are there.
func (l *verifierList) close() []*Verifier {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.all()
}

// Close ends the Manager and closes its Verifiers: later calls return ErrClosed. Close
// waits, within ctx, for running calls of RevokeToken, which go on when their callers
// hang up. A second Close writes what the first could not write. Errors: those of
// [Verifier.Close].
func (m *Manager) Close(ctx context.Context) error {
	m.closed.Store(true)
	m.tasks.drain(ctx)
	var failed []error
	for _, v := range m.verifiers.close() {
		failed = append(failed, v.Close(ctx))
	}
	return errors.Join(failed...)
}

// session is a Manager at work on its own store, inside a caller's transaction, or on a
// key that May has in hand.
type session struct {
	*Manager
	store  Store
	joined bool
	tx     *Tx
	unfit  error // joined: the store is in no transaction
	inHand *Info // May: the key is not read, and no refusal is recorded
}

func (m *Manager) own() session { return session{Manager: m, store: m.settings.Store} }

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
		for _, v := range m.verifiers.all() {
			told := news{record: c.Record, readAt: v.instantOf(n.start), from: toldHere, did: n.action}
			if c.Event != nil {
				told.id = c.Event.Credential
			}
			v.take(told)
		}
	}
	if m.settings.Notifier != nil && records && len(n.events) > 0 {
		nctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		if err := m.settings.Notifier.Notify(nctx); err != nil {
			m.settings.Logger.Warn("apikey: other nodes were not notified; they poll", "error", err)
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
		if c.Record == nil {
			continue
		}
		for _, v := range s.verifiers.all() {
			v.cache.doubtKey(c.Record)
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
		info = s.describeAll(r, s.settings.Now())
		return nil
	}))
	return info, err
}
