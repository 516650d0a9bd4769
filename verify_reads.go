package apikey

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// reads bounds the store reads for tokens that nobody has proven yet, because anybody
// can make up such tokens. At most so many reads run at once, so that made-up tokens
// cannot drain the pool that payments use. The reads take turns:
//
//   - between credentials that the store did not have when it was last asked about
//     them, and all others. A caller may present the same thousands of tokens again and
//     again, which rotation has dropped or which nobody issued. Such tokens get half of
//     the turns at most. Tokens that are not known to be absent get the other half;
//   - between networks, and in each network between addresses;
//   - between groups of credentials, see groupOf: if an account has rotated a key
//     twelve thousand times, all its tokens are in one group.
type reads struct {
	gate   *gate
	seed   maphash.Seed             // so that nobody can choose IDs that share a place
	absent atomic.Pointer[absences] // nil: none was ever absent
}

// absences are marks of IDs, each in its place. A made-up ID overwrites only such
// marks. If an ID is taken for another one, it loses turns, and nothing else.
type absences [1 << 15]atomic.Uint64

func newReads(atOnce, maxWaiting int) *reads {
	return &reads{
		gate: newGate(int64(atOnce), int64(atOnce), 2*time.Second, maxWaiting),
		seed: maphash.MakeSeed(),
	}
}

// path returns the line in which a credential is looked up that was presented from an
// address (zero: unknown).
func (r *reads) path(id CredentialID, from netip.Addr) path {
	known := "unknown"
	if place, mark := r.place(id); place != nil && place.Load() == mark {
		known = "absent"
	}
	network, address := neighbours(from)
	return path{known, network, address, groupOf(id)}
}

// learn notes whether the store had a credential.
func (r *reads) learn(id CredentialID, err error) {
	absent := errors.Is(err, ErrNotFound)
	if absent && r.absent.Load() == nil {
		r.absent.CompareAndSwap(nil, new(absences))
	}
	switch place, mark := r.place(id); {
	case absent:
		place.Store(mark)
	case err == nil && place != nil:
		place.CompareAndSwap(mark, 0)
	}
}

// place returns the place where the absence of an ID is marked, and the mark. The place
// is nil if no absence was ever marked.
func (r *reads) place(id CredentialID) (*atomic.Uint64, uint64) {
	all := r.absent.Load()
	if all == nil {
		return nil, 0
	}
	h := maphash.Bytes(r.seed, id[:])
	return &all[h%uint64(len(all))], cmp.Or(h, 1)
}

// neighbours names the network and the address that a request came from, in the sizes
// that one customer is given: /24 and /32 of IPv4, /48 and /64 of IPv6. Both are empty
// if the address is unknown.
func neighbours(a netip.Addr) (network, address string) {
	if !a.IsValid() {
		return "", ""
	}
	b := a.As16() // IPv4 in its 4-in-6 form
	all := string(b[:])
	if a.Unmap().Is4() {
		return all[:15], all
	}
	return all[:6], all[:8]
}

// groupOf returns the group that a credential belongs to: the last four bytes of its
// ID. They are drawn once for an account (see count) and kept by rotation. Keys that
// are issued at the same moment as an account's first key may have others. The bytes
// say which tokens belong together, and not to whom. With a pepper, the tag covers
// them. Without one, anybody can write any bytes there; then the address tells callers
// apart.
func groupOf(id CredentialID) string { return string(id[len(id)-groupLen:]) }

const groupLen = 4

// hashLine returns the line in which the hash of a key's token waits: accounts take
// turns, and in each account its keys. RevokeToken has turns of its own.
func hashLine(r *StoreRecord) path { return path{"", r.Account, string(r.ID[:])} }

// rowKey names a flight of read by the generation at its start: no caller joins a
// flight that began before the last change.
type rowKey struct {
	id     CredentialID
	gen    uint64
	line   path // no caller joins a read that waits in another line
	proven bool // for a proven token, through the other gate
}

type row struct {
	record *StoreRecord // shared: read only
	readAt instant      // the start of the read: the record is at least as new
	begun  uint64       // the generation at the start, see cache.settle
}

// read looks a record up for a task, under a bound. Tokens that nobody has proven share
// one bound. Proven keys have another, so that they never queue behind a flood.
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
		r, err := v.settings.Store.Lookup(ctx, key.id)
		v.coldReads.learn(key.id, err)
		if err != nil {
			return row{}, unavailable(err)
		}
		found := r // only a record that was found is kept
		return row{&found, readAt, begun}, nil
	})
}

// rereadFirst runs reread for a request that waits for it.
func (v *Verifier) rereadFirst(ctx context.Context, id CredentialID, k *cachedKey) error {
	_, err := v.rereads.do(ctx, rowKey{id, v.cache.since(id), ownLine(k), true}, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, v.reread(ctx, id, ownLine(k))
	})
	return err
}

// reread reads a warm key's record again and applies it. The token is proven already.
// The caller of reread is a task.
func (v *Verifier) reread(ctx context.Context, id CredentialID, line path) error {
	gen := v.cache.enter(id)
	defer v.cache.leave()
	begun := v.now()
	got, err := v.read(ctx, rowKey{id, gen, line, true})
	var corrupt *CorruptError
	switch {
	case err == nil:
		v.take(news{record: got.record, readAt: got.readAt, from: readNow, id: id, begun: got.begun})
	case errors.Is(err, ErrNotFound):
		v.cache.drop(id, begun, gen)
	case errors.As(err, &corrupt) && corrupt != nil:
		v.cache.damaged(corrupt, id, begun, readNow)
	default:
		return err
	}
	return nil
}

// ownLine returns the line in which a proven key's reads wait: accounts take turns, and
// in each account its keys.
func ownLine(k *cachedKey) path { return path{k.account, string(k.info.ID[:])} }

// rereadBehind runs reread while nobody waits: once at a time for a key, and not within
// a second after a failure. If a store is failing over, it must not be asked by every
// hit of every merchant.
func (v *Verifier) rereadBehind(id CredentialID, k *cachedKey, now instant) {
	if !v.cache.claim(id, k, now) {
		return
	}
	started := v.tasks.start(context.Background(), func(ctx context.Context) {
		var again time.Duration
		if err := v.reread(ctx, id, ownLine(k)); err != nil {
			failed := v.now().mono
			again = failed + time.Second
			if last := v.warned.Load(); failed >= time.Duration(last)+time.Second && v.warned.CompareAndSwap(last, int64(failed)) {
				v.settings.Logger.Warn("apikey: records could not be read again", "credential", id, "error", err)
			}
		}
		v.cache.unclaim(id, again)
	})
	if !started {
		v.cache.unclaim(id, 0)
	}
}

// renewBehind replaces a hash and a check that were made with older parameters, another
// hasher or another pepper. It swaps them only if the old hash is still stored: there
// is no new version and no event, and if another node was faster, nothing is undone.
// One renewal runs at a time. If one is skipped now, the key's next cold verification
// does it.
func (v *Verifier) renewBehind(p parsed, cred StoreCredential, line path) {
	if v.cfg.ReadOnly {
		return
	}
	select {
	case v.renewing <- struct{}{}:
	default:
		return
	}
	started := v.tasks.start(context.Background(), func(ctx context.Context) {
		defer func() { <-v.renewing }()
		up := StoreUpkeep{Credential: cred.ID, OldHash: cred.Hash, NewHash: cred.Hash, NewCheck: makeCheck(v.ring.minting, p)}
		if v.settings.Hashers[0].Outdated(cred.Hash) {
			encoded, err := v.hash(withPath(ctx, line), p)
			if err != nil {
				return
			}
			up.NewHash = encoded
		}
		if err := v.settings.Store.Upkeep(ctx, []StoreUpkeep{up}); err != nil && v.tasks.ctx.Err() == nil {
			v.settings.Logger.Warn("apikey: hash could not be renewed", "credential", cred.ID, "error", err)
		}
	})
	if !started {
		<-v.renewing
	}
}
