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
	proofs    flights[proofKey, *liveKey]
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
func (v *Verifier) refused(k *liveKey, source string, err error) {
	if v.cfg.Trace.Verified == nil && err == ErrInvalidToken {
		return
	}
	v.cfg.Trace.verified(k, source, err)
	if corrupt, is := errors.AsType[*CorruptError](err); is {
		v.cfg.Logger.Error("apikey: damaged record refused", "key", corrupt.Key, "detail", corrupt.Detail)
	}
}

// find proves the token; its errors say "invalid" or that we failed, never why. It
// returns the time, in microseconds since 1970, that the key is to be judged at.
func (v *Verifier) find(ctx context.Context, presented string, from netip.Addr) (k *liveKey, at int64, source string, err error) {
	var p parsed
	if !v.locate(presented, &p) {
		return nil, 0, byToken, ErrInvalidToken
	}
	if v.tasks.ctx.Err() != nil {
		return nil, 0, byToken, ErrClosed
	}
	reread := false
	for range 4 { // once, and again after a sync or a re-read
		k, found := v.cache.get(&p)
		if found == mismatch {
			// Final: a credential's secret never changes, so neither the store nor
			// argon2 has anything to add for whoever guesses at a warm key.
			return nil, 0, byCache, ErrInvalidToken
		}
		if found == miss {
			if v.tagged(&p) != nil || !p.wellFormed() {
				return nil, 0, byToken, ErrInvalidToken
			}
		}
		now := v.now()
		if found == miss && v.cache.absent(p.id, now) {
			return nil, 0, byCache, ErrInvalidToken
		}
		if !v.feed.freshAt(now, v.cfg.MaxStale) {
			if err := v.freshen(ctx); err != nil {
				return nil, 0, byCache, err
			}
			continue // what the sync brought may concern this key
		}
		if found == miss {
			k, err := v.coldKey(ctx, p, from)
			return k, v.now().wall, byStore, err
		}
		readAt := v.cache.readAt(k)
		age := elapsed(now, readAt)
		if !reread && (readAt == (instant{}) || age > 2*v.cfg.MaxAge) {
			if err := v.rereadFirst(ctx, p.id, k); err != nil {
				return nil, 0, byStore, err
			}
			reread = true
			continue
		}
		damage := k.trouble().damage
		if age > v.cfg.MaxAge && damage == nil {
			v.rereadBehind(p.id, k, now)
		}
		return k, now.wall, byCache, damage
	}
	return nil, 0, byStore, ErrBusy
}

// coldKey proves a token that is not warm. Callers with equal tokens share one
// flight, and so one argon2 run; callers with different tokens of one ID share
// the row alone, never each other's proof.
func (v *Verifier) coldKey(ctx context.Context, p parsed, from netip.Addr) (*liveKey, error) {
	digest := v.cache.digest(p.text)
	return v.proofs.do(ctx, proofKey{digest, v.cache.since(p.id)}, func(ctx context.Context) (*liveKey, error) {
		proven := false
		for range 8 {
			gen := v.cache.enter(p.id)
			o := outcome{claims: p.claims, digest: digest}
			got, err := v.read(ctx, rowKey{p.id, gen, v.coldReads.path(p.id, from), false})
			switch {
			case err != nil:
			case !proven:
				var renew bool
				renew, err = v.proveRow(withPath(ctx, hashLine(got.record)), p, got.record, false)
				if proven = err == nil; renew {
					v.renewBehind(p, *got.record.credential(p.id), hashLine(got.record))
				}
			case got.record.credential(p.id) == nil: // it was moved by hand between the two reads
				err = notListed(got.record.ID)
			}
			if err == nil {
				o.key, o.readAt, o.begun = v.live(got.record, p.id, p.claims, v.believe(got.record)), got.readAt, got.begun
			}
			o.absent = errors.Is(err, ErrNotFound)
			// A row read before the last change is not looked at, neither for this
			// answer nor for the cache. The proof stays: ID and secret never change.
			switch k, current := v.cache.settle(p.id, gen, o, v.now()); {
			case !current:
				continue
			case o.absent:
				return nil, ErrInvalidToken
			case err != nil:
				return nil, err
			default:
				return k, k.trouble().damage
			}
		}
		return nil, ErrBusy // changed faster than it can be read
	})
}

// live is whether the record is believed, and what judge needs. The record must
// agree with what the proven token says of itself: its text is bound by the hash,
// so where they differ the record was changed.
func (v *Verifier) live(r *StoreRecord, id CredentialID, said claims, damage error) *liveKey {
	cred := r.credential(id)
	list, _ := v.abilities(r.Abilities)
	k := &liveKey{view: view{id: id, about: &about{info: describe(r, id, list.held), head: r.Head}}}
	k.judgedBy(cred, list)
	switch {
	case damage != nil:
	case cred != nil && said != (claims{r.Kind, r.Mode, cred.Pepper}):
		damage = &CorruptError{Key: r.ID, Detail: "record and token disagree about kind, mode or pepper slot"}
	case said.slot != 0 && v.ring.has() && len(r.MAC) == 0:
		damage = &CorruptError{Key: r.ID, Detail: "record of a tagged token has no MAC"}
	}
	k.set(trouble{damage: damage})
	return k
}

// proofKey and rowKey name flights by the generation at their start: nobody
// joins one that began before the last change.
type proofKey struct {
	digest [32]byte
	gen    uint64
}

type rowKey struct {
	id     CredentialID
	gen    uint64
	line   path // nobody joins a read that waits in another line than theirs
	proven bool // read under a proof, by the other gate
}

type row struct {
	record *StoreRecord // shared: read only
	readAt instant      // the start of the read: the record is at least as new
	begun  uint64       // likewise, see cache.settle
}

// read looks a record up for a task, under a bound: one for tokens that may be
// junk, one of its own for proven keys, which must not queue behind a flood.
func (v *Verifier) read(ctx context.Context, key rowKey) (row, error) {
	return v.rows.within(ctx, key, func(ctx context.Context) (row, error) {
		g := v.coldReads.gate
		if key.proven {
			g = v.warmReads
		}
		room, err := g.enter(ctx, key.line, 1)
		if err != nil {
			return row{}, err
		}
		defer room.leave()
		readAt, begun := v.now(), v.cache.newest()
		r, err := v.cfg.Store.Lookup(ctx, key.id)
		v.coldReads.learn(key.id, err)
		if err != nil {
			return row{}, unavailable(err)
		}
		found := r // only what was found is kept
		return row{&found, readAt, begun}, nil
	})
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
