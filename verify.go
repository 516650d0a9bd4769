package apikey

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-apikey/apikey/internal/seldom"
)

// A Verifier answers whether a presented token may do what a request wants. It
// is the data plane: every API process has one for each mode, and it cannot
// issue. It is safe for concurrent use; Close it to write the last "last used".
type Verifier struct {
	core
	cfg       VerifierConfig
	made      time.Time
	cache     *cache
	coldReads *reads // for tokens that are not proven
	warmReads *gate  // for those that are, which must not queue behind junk
	tasks     *tasks
	rows      flights[rowKey, row]
	rereads   flights[rowKey, struct{}]
	flushes   flights[struct{}, struct{}]
	proofs    flights[proofKey, *cachedKey]
	feed      feed
	usage     usage
	renewing  chan struct{} // one renewal of a hash at a time
	warned    atomic.Int64  // when the log was last told of a record that could not be read again
}

// VerifierConfig configures [NewVerifier]. The zero value of a field is a safe
// default; Store, Prefix and Mode are required.
type VerifierConfig struct {
	Store  Store
	Prefix string // what tokens of this program begin with
	// Mode is Live or Test: a token of the other mode is refused with ErrMode.
	// AnyMode takes both, for small programs.
	Mode Mode
	// Catalog is needed only for forms of ability that the program defined
	// itself: without it those read as what they are not, or as damage. NewManager
	// refuses a Local Verifier that has fewer of them than the Manager.
	Catalog *Catalog
	// Hashers verify; the first is current, and what it calls outdated is hashed
	// anew (see ReadOnly). Empty: one Argon2id. Name those that the Manager mints
	// with, and share the values with it and other Verifiers of the process. NewManager
	// refuses a Local Verifier whose list cannot read what the Manager hashes, or would
	// hash it anew without naming the Manager's Hasher.
	Hashers []Hasher
	// Peppers verify. With any, tokens and records that were made without one
	// are refused: all keys of a program that had none, see AcceptUntagged.
	Peppers []Pepper
	// AcceptUntagged lets tokens without a tag, and records without a MAC whose
	// credentials have none, still verify, while a pepper is being introduced.
	// As long as it is set, whoever can write to the database can forge keys.
	AcceptUntagged bool
	// ReadOnly writes nothing: no last used, no renewed hashes.
	ReadOnly bool
	// LastUsedEvery is how exact [Info.LastUsed] is; 0: 1 min. If a token is in use all
	// the time, its last use is written once in this time, by all nodes together, if
	// they have the same value here. The first use of a token is always written. A
	// use that is written is in the store within 3 s.
	LastUsedEvery time.Duration

	// MaxEntries bounds the warm cache; 0: 100,000; -1: no cache. Entries that no
	// request can use, because their key is suspended, revoked, expired or of the
	// other mode, leave first, and make no other entry leave.
	MaxEntries int
	// MaxBytes bounds it by an estimate of its size; 0: 256 MiB.
	MaxBytes int64
	// ColdReads bounds this Verifier's concurrent reads for tokens that are not
	// warm, so that junk cannot drain the pool that payments use; 0: 8. A quarter
	// of the pool, divided by the Verifiers that share it, is a good value.
	ColdReads int

	// Sync is how often the store is asked what changed; 0: 1 s. Negative: only
	// when [Verifier.Sync] is called or MaxStale is reached.
	Sync time.Duration
	// MaxStale is how long after the start of the last good sync warm keys are
	// still answered while the store cannot be asked; 0: 120 s.
	MaxStale time.Duration
	// MaxAge is how old a record may be before it is read again behind an
	// answer; at twice the age, before the answer. 0: 5 min.
	MaxAge time.Duration

	Standing Standing // nil: every account is in good standing
	Notifier Notifier // nil: polling alone
	Trace    *Trace
	// Logger gets ten lines a minute of one cause, and with the next one how many
	// were left_out; nil: silent.
	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
}

func (c VerifierConfig) withDefaults() VerifierConfig {
	c.Hashers = slices.Clone(c.Hashers)
	c.MaxEntries = cmp.Or(c.MaxEntries, 100_000)
	c.MaxBytes = cmp.Or(c.MaxBytes, 256<<20)
	c.ColdReads = cmp.Or(c.ColdReads, 8)
	c.Sync = cmp.Or(c.Sync, time.Second)
	c.MaxStale = cmp.Or(c.MaxStale, 120*time.Second)
	c.MaxAge = min(cmp.Or(c.MaxAge, 5*time.Minute), math.MaxInt64/4) // it is doubled
	c.LastUsedEvery = cmp.Or(c.LastUsedEvery, time.Minute)
	c.Trace = cmp.Or(c.Trace, &Trace{})
	c.Logger = seldom.Logger(cmp.Or(c.Logger, slog.New(slog.DiscardHandler)))
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Request is what one request wants from a key.
type Request struct {
	// Addr is the client's address. A key with networks is refused without it. An
	// IPv6 zone is ignored, and a 4-in-6 address is the IPv4 address in it.
	Addr netip.Addr
	// Origin is the request's Origin header. A key with origins is refused
	// without it.
	Origin string
	// Require lists abilities that the key must all have. Build it once a route.
	Require []Ability
	// AllowPublishable takes publishable keys too, which anybody can have.
	AllowPublishable bool
}

// NewVerifier checks the configuration and takes a position in the store's
// change feed. Errors: ErrInvalid; ErrUnavailable when the store is down or
// answers from a lagging replica; ErrPepper when the peppers are not those of
// this database.
func NewVerifier(ctx context.Context, c VerifierConfig) (*Verifier, error) {
	c = c.withDefaults()
	switch {
	case c.Store == nil:
		return nil, invalid("VerifierConfig.Store is required")
	case c.Mode != Live && c.Mode != Test && c.Mode != AnyMode:
		return nil, invalid("VerifierConfig.Mode is required: apikey.Live, apikey.Test or apikey.AnyMode")
	case c.MaxAge < 0 || c.MaxStale < 0 || c.LastUsedEvery < 0 || c.ColdReads < 0 || c.MaxBytes < 0 || c.MaxEntries < -1:
		return nil, invalid("VerifierConfig: bounds cannot be negative")
	}
	core, err := newCore(c.Prefix, c.Catalog, c.Hashers, c.Peppers, c.AcceptUntagged)
	if err != nil {
		return nil, err
	}
	if _, err := core.checkMarks(ctx, c.Store); err != nil {
		return nil, err
	}
	v := &Verifier{
		core: core, cfg: c, made: c.Now(),
		coldReads: newReads(c.ColdReads, 1024),
		warmReads: newGate(int64(c.ColdReads), int64(c.ColdReads), 2*time.Second, 1024),
		tasks:     newTasks(), renewing: make(chan struct{}, 1), usage: newUsage(c.LastUsedEvery),
	}
	v.cache = newCache(c, v.now)
	v.rereads.tasks, v.proofs.tasks, v.feed.runs.tasks, v.flushes.tasks = v.tasks, v.tasks, v.tasks, v.tasks
	if err := v.Sync(ctx); err != nil { // the position comes before the first cache fill
		v.tasks.close(ctx)
		return nil, err
	}
	v.start()
	return v, nil
}

// Verify answers who holds the presented token, or why the request is refused.
//
// Somebody who does not hold a key's secret learns nothing but ErrInvalidToken,
// or that we failed: ErrBusy, ErrUnavailable, ErrCorrupt. Somebody who does
// learns the reason: ErrRevoked, ErrSuspended, ErrCredentialEnded,
// ErrNotYetValid, ErrExpired (which wrap ErrUnauthenticated), ErrKind, ErrMode,
// ErrStanding, ErrAddr, ErrOrigin, ErrAbility (which wrap ErrDenied). With an
// error the Key is nil.
//
// No Verify that starts after a change returned on this node (Manager.Revoke
// and the others, with this Verifier in ManagerConfig.Local) is answered from
// before the change. Other nodes follow within VerifierConfig.Sync.
func (v *Verifier) Verify(ctx context.Context, presented string, r Request) (Key, error) {
	k, now, source, err := v.find(ctx, presented, r.Addr)
	if err == nil {
		err = v.judge(k, &r, now)
	}
	if err == ErrExpired || err == ErrCredentialEnded {
		v.cache.expired(k)
	}
	if err != nil {
		v.refused(k, source, err)
		return nil, err
	}
	if !v.cfg.ReadOnly {
		v.usage.mark(k, now)
	}
	if v.cfg.Trace.Verified != nil {
		v.cfg.Trace.verified(k, source, nil)
	}
	return k, nil
}

// refused tells the hooks and the log. Of junk, which is to be cheap, there is
// nothing to say but that it came.
func (v *Verifier) refused(k *cachedKey, source string, err error) {
	if v.cfg.Trace.Verified == nil && err == ErrInvalidToken {
		return
	}
	v.cfg.Trace.verified(k, source, err)
	if corrupt, is := errors.AsType[*CorruptError](err); is {
		v.cfg.Logger.Error("apikey: damaged record refused", "key", corrupt.Key, "detail", corrupt.Detail)
	}
}

// Close stops the background work and writes the last "last used", within ctx
// and 5 s: a store that does not look at its context is left to itself. A Verify
// after Close is ErrClosed; a second Close writes what the first could not.
// Errors: ErrUnavailable.
func (v *Verifier) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flightTime)
	defer cancel()
	v.tasks.close(ctx)
	_, err := bounded(ctx, flightTime, func(ctx context.Context) (struct{}, error) { return struct{}{}, v.flush(ctx) })
	if err != nil {
		err = unavailable(err)
	}
	return err
}

// Trace is a set of hooks for metrics and alarms, in the style of net/http/httptrace.
// Any of them may be nil. They are called from several goroutines at once, most of them
// while a request waits, so they must return quickly. No hook is ever given a token.
// Argon2idConfig.Waited reports waits for a hash, because the slots belong to the
// Hasher.
type Trace struct {
	// Verified: a verification has ended, with this result.
	Verified func(VerifiedTrace)
	// InactiveKey: somebody used the right secret of a key that is revoked, suspended or
	// expired, or a token that has ended. It is an old deployment, or a leak.
	InactiveKey func(key Info, err error)
	// Corrupt: Verify refused a record that is damaged or whose MAC is wrong. Damage
	// that the change feed finds goes to the Logger; damage that a list finds is
	// returned.
	Corrupt func(err *CorruptError)
	// Synced: the change feed was read. age is the time since the start of the last
	// successful sync; negative if there was none yet.
	Synced func(records int, age time.Duration, err error)
	// Denied: a management action was refused (err says by what: the account, Policy,
	// Standing or a grant that does not fit), or a wrong answer was given
	// (ErrWrongAnswer; key is zero). It is called also if no event was written.
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

// What decides a verification.
const (
	byToken = "token"
	byCache = "cache"
	byStore = "store"
)

// verified reports one verification to the hooks.
func (t *Trace) verified(k *cachedKey, source string, err error) {
	if t.Verified != nil {
		vt := VerifiedTrace{Err: err, Source: source}
		if k != nil && k.trouble().damage == nil {
			vt.Key = k
		}
		t.Verified(vt)
	}
	if err == nil || err == ErrInvalidToken { // of which there is no more to say: junk is to be cheap
		return
	}
	switch corrupt, is := errors.AsType[*CorruptError](err); {
	case is && t.Corrupt != nil:
		t.Corrupt(corrupt)
	case is:
	case k != nil && errors.Is(err, ErrUnauthenticated) && !errors.Is(err, ErrNotYetValid) && t.InactiveKey != nil:
		t.InactiveKey(k.info, err)
	}
}

func (t *Trace) synced(records int, age time.Duration, err error) {
	if t.Synced != nil {
		t.Synced(records, age, err)
	}
}

func (t *Trace) denied(a Actor, act Action, key KeyID, err error) {
	if t.Denied != nil {
		t.Denied(a, act, key, err)
	}
}
