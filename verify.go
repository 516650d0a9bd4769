package apikey

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/netip"
	"sync/atomic"
	"time"
)

// A Verifier answers whether a presented token may do what a request wants. Every API
// process has one Verifier for each mode. A Verifier cannot issue keys. It is safe for
// concurrent use. Close it to write the last uses that are still in memory.
type Verifier struct {
	core
	cfg       VerifierConfig
	made      time.Time
	cache     *cache
	coldReads *reads // for tokens that nobody has proven
	warmReads *gate  // for proven tokens, which must not queue behind made-up ones
	tasks     *tasks
	rows      flights[rowKey, row]
	rereads   flights[rowKey, struct{}]
	flushes   flights[struct{}, struct{}]
	proofs    flights[proofKey, *cachedKey]
	feed      feed
	usage     usage
	renewing  chan struct{} // one renewal of a hash at a time
	warned    atomic.Int64  // when the log last got a line about a failed re-read
	onClose   func()        // removes it from the list of its Manager; nil: no Manager made it
}

// VerifierConfig configures one Verifier of a program. The zero value of a field is a
// safe default; Mode is required.
type VerifierConfig struct {
	// Mode is Live or Test: a token of the other mode is refused with ErrMode. AnyMode
	// accepts both, for small programs.
	Mode Mode
	// ReadOnly makes the Verifier write nothing: no last uses, no renewed hashes.
	ReadOnly bool
	// LastUsedEvery is how exact [Info.LastUsed] is; 0: 1 min. If a token is in use all
	// the time, its last use is written once in this time, by all nodes together, if they
	// have the same value here. The first use of a token is always written. A use that is
	// written is in the store within 3 s.
	LastUsedEvery time.Duration

	// MaxEntries bounds the warm cache; 0: 100,000; -1: no cache. Entries that no request
	// can use, because their key is suspended, revoked, expired or of the other mode, are
	// evicted first. They never evict another entry.
	MaxEntries int
	// MaxBytes bounds the warm cache by an estimate of its size; 0: 256 MiB.
	MaxBytes int64
	// ColdReads bounds this Verifier's concurrent reads for tokens that are not warm, so
	// that made-up tokens cannot drain the pool that payments use; 0: 8. A quarter of the
	// pool, divided by the Verifiers that share it, is a good value.
	ColdReads int

	// Sync is how often the store is asked what changed; 0: 1 s. Negative: only
	// when [Verifier.Sync] is called or MaxStale is reached.
	Sync time.Duration
	// MaxStale is how long warm keys are still answered while the store cannot be asked.
	// It counts from the start of the last successful sync; 0: 120 s.
	MaxStale time.Duration
	// MaxAge bounds the age of a record. An older record is read again behind the answer;
	// one of more than twice the age is read again before the answer. 0: 5 min.
	MaxAge time.Duration
}

func (c VerifierConfig) withDefaults() VerifierConfig {
	c.MaxEntries = cmp.Or(c.MaxEntries, 100_000)
	c.MaxBytes = cmp.Or(c.MaxBytes, 256<<20)
	c.ColdReads = cmp.Or(c.ColdReads, 8)
	c.Sync = cmp.Or(c.Sync, time.Second)
	c.MaxStale = cmp.Or(c.MaxStale, 120*time.Second)
	c.MaxAge = min(cmp.Or(c.MaxAge, 5*time.Minute), math.MaxInt64/4) // it is doubled
	c.LastUsedEvery = cmp.Or(c.LastUsedEvery, time.Minute)
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
	// Require lists abilities that the key must all have. Build the list once per route.
	Require []Ability
	// AllowPublishable accepts publishable keys too, which anybody can have.
	AllowPublishable bool
}

// NewVerifier makes a Verifier for a process that only verifies. If the process has a
// Manager, use [Manager.NewVerifier]. It checks the configuration, compares the Settings
// with those that the Managers of this database use, and takes a position in the store's
// change feed. Errors:
//   - ErrInvalid: the configuration is wrong, the Prefix is not that of this database, or
//     no Hasher reads the hashes of its Managers
//   - ErrUnavailable: the store is down or answers from a lagging replica
//   - ErrPepper: the peppers are not those of this database
func NewVerifier(ctx context.Context, s Settings, c VerifierConfig) (*Verifier, error) {
	core, err := newCore(s)
	if err != nil {
		return nil, err
	}
	if _, err := core.checkMarks(ctx); err != nil {
		return nil, err
	}
	if _, _, err := core.checkShared(ctx); err != nil {
		return nil, err
	}
	return core.newVerifier(ctx, c)
}

func (c core) newVerifier(ctx context.Context, vc VerifierConfig) (*Verifier, error) {
	vc = vc.withDefaults()
	switch {
	case vc.Mode != Live && vc.Mode != Test && vc.Mode != AnyMode:
		return nil, invalid("VerifierConfig.Mode is required: apikey.Live, apikey.Test or apikey.AnyMode")
	case vc.MaxAge < 0 || vc.MaxStale < 0 || vc.LastUsedEvery < 0 || vc.ColdReads < 0 || vc.MaxBytes < 0 || vc.MaxEntries < -1:
		return nil, invalid("VerifierConfig: bounds cannot be negative")
	}
	v := &Verifier{
		core: c, cfg: vc, made: c.settings.Now(),
		coldReads: newReads(vc.ColdReads, 1024),
		warmReads: newGate(int64(vc.ColdReads), int64(vc.ColdReads), 2*time.Second, 1024),
		tasks:     newTasks(), renewing: make(chan struct{}, 1), usage: newUsage(vc.LastUsedEvery),
	}
	v.cache = newCache(vc, v.now)
	v.rereads.tasks, v.proofs.tasks, v.feed.runs.tasks, v.flushes.tasks = v.tasks, v.tasks, v.tasks, v.tasks
	if err := v.Sync(ctx); err != nil { // the position comes before the first cache fill
		v.tasks.close(ctx)
		return nil, err
	}
	v.start()
	return v, nil
}

// Mode returns the mode of the keys that the Verifier accepts: Live, Test or AnyMode.
func (v *Verifier) Mode() Mode { return v.cfg.Mode }

// Verify returns the key of the presented token, or an error that says why the request
// is refused. With an error the Key is nil. Errors:
//   - ErrInvalidToken: the token is malformed, unknown, forged or wrong
//   - ErrRevoked, ErrSuspended, ErrCredentialEnded, ErrNotYetValid, ErrExpired, which
//     wrap ErrUnauthenticated: only if the caller holds the key's secret
//   - ErrKind, ErrMode, ErrStanding, ErrAddr, ErrOrigin, ErrAbility, which wrap
//     ErrDenied: only if the caller holds the key's secret
//   - ErrBusy, ErrUnavailable, ErrClosed, ErrCorrupt: this library or its store failed
//
// If a change has returned on this node (Manager.Revoke and the others of the Manager
// that made this Verifier), a Verify that starts afterwards never answers from before
// the change. Other nodes follow within VerifierConfig.Sync.
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
	if v.settings.Trace.Verified != nil {
		v.settings.Trace.verified(k, source, nil)
	}
	return k, nil
}

// refused calls the hooks and writes to the log. For ErrInvalidToken, it only calls
// Trace.Verified: refusing made-up tokens must be cheap.
func (v *Verifier) refused(k *cachedKey, source string, err error) {
	if v.settings.Trace.Verified == nil && err == ErrInvalidToken {
		return
	}
	v.settings.Trace.verified(k, source, err)
	if corrupt, is := errors.AsType[*CorruptError](err); is {
		v.settings.Logger.Error("apikey: damaged record refused", "key", corrupt.Key, "detail", corrupt.Detail)
	}
}

// Close stops the background work and writes the last uses that are still in memory,
// within ctx and 5 s. Close does not wait longer for a store that ignores its context.
// After Close, Verify returns ErrClosed. A second Close writes what the first could not
// write. Errors: ErrUnavailable.
func (v *Verifier) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flightTime)
	defer cancel()
	v.tasks.close(ctx)
	_, err := bounded(ctx, flightTime, func(ctx context.Context) (struct{}, error) { return struct{}{}, v.flush(ctx) })
	if err != nil {
		return unavailable(err) // a second Close of the Manager has to find v
	}
	if v.onClose != nil {
		v.onClose()
	}
	return nil
}

// verified reports one verification to the hooks.
func (t *Trace) verified(k *cachedKey, source string, err error) {
	if t.Verified != nil {
		vt := VerifiedTrace{Err: err, Source: source}
		if k != nil && k.trouble().damage == nil {
			vt.Key = k
		}
		t.Verified(vt)
	}
	if err == nil || err == ErrInvalidToken { // no other hook: must be cheap
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
