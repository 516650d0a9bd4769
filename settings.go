package apikey

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

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
	// tokens and records that were made without a pepper are refused; a program that
	// already has such keys sets AcceptUntagged first. NewManager stores which peppers are
	// in use, so that a wrong one is found at the next start.
	Peppers []Pepper
	// Hashers verify hashes. The first makes new ones; a Verifier that is not ReadOnly
	// replaces a hash that the first calls outdated. Empty: one Argon2id. Keep every Hasher
	// whose hashes are still stored, also when a pepper is introduced. NewManager stores
	// which Hasher is first; a process that cannot read its hashes is refused at its start.
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

// Trace is a set of hooks for metrics and alarms, in the style of net/http/httptrace.
// Any hook may be nil. Hooks are called from several goroutines at once, most of them
// while a request waits, so they must return quickly. No hook is ever given a token.
// Waits for a hash are reported by Argon2idConfig.Waited, because the slots belong to
// the Hasher.
type Trace struct {
	// Verified: a verification has ended, with this result.
	Verified func(VerifiedTrace)
	// InactiveKey: somebody used the right secret of a key that is revoked, suspended or
	// expired, or a token that has ended. Either an old deployment still uses the token,
	// or the token leaked.
	InactiveKey func(key Info, err error)
	// Corrupt: Verify refused a record that is damaged or whose MAC is wrong. Damage
	// that the change feed finds goes to the Logger; damage that a list finds is
	// returned.
	Corrupt func(err *CorruptError)
	// Synced: the change feed was read. age is the time since the start of the last
	// successful sync; negative if there was none yet.
	Synced func(records int, age time.Duration, err error)
	// Denied: a management action was refused (err says by what: the account, Policy,
	// Standing or a grant that does not fit), or a wrong answer was given (ErrWrongAnswer;
	// key is zero). Denied is also called if no event was written. [Manager.May] does not
	// call it.
	Denied func(a Actor, act Action, key KeyID, err error)
}

// VerifiedTrace is one verification.
type VerifiedTrace struct {
	Err error // nil: accepted
	// Source says what decided: "token" (its form, checksum or tag), "cache" (memory)
	// or "store" (a read of the store).
	Source string
	Key    Key // nil, unless the caller has proven that they hold the secret
}

// Values of VerifiedTrace.Source.
const (
	byToken = "token"
	byCache = "cache"
	byStore = "store"
)

// A Notifier carries "ask now" between nodes, so that they learn of a change before the
// next poll. A message says nothing else. So a forged message cannot make a revoked key
// valid again, and a lost one costs one poll interval.
type Notifier interface {
	// Notify tells other nodes that something changed.
	Notify(ctx context.Context) error
	// Wait returns nil when another node has notified since the last Wait returned. It
	// returns an error when it cannot know or ctx is done.
	Wait(ctx context.Context) error
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

func samePepper(a, b *pepperKeys) bool {
	return a != nil && b != nil && sameText(string(markOf(a)), string(markOf(b)))
}
