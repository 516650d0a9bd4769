package apikey

import (
	"context"
	"errors"
	"time"
)

// rereadFirst is reread for a request that waits for it.
func (v *Verifier) rereadFirst(ctx context.Context, id CredentialID, k *liveKey) error {
	_, err := v.rereads.do(ctx, rowKey{id, v.cache.since(id), ownLine(k), true}, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, v.reread(ctx, id, ownLine(k))
	})
	return err
}

// reread brings a warm key's record up to date, under its proof. Its caller is a
// task.
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

// ownLine is where a proven key's reads wait: accounts take turns, and in each its
// keys.
func ownLine(k *liveKey) path { return path{k.account, string(k.info.ID[:])} }

// rereadBehind is reread without anyone waiting, once at a time for a key, and
// after a failure not for a second: a store that is failing over must not be
// asked by every hit of every merchant.
func (v *Verifier) rereadBehind(id CredentialID, k *liveKey, now instant) {
	if !v.cache.claim(id, k, now) {
		return
	}
	started := v.tasks.start(context.Background(), func(ctx context.Context) {
		var again time.Duration
		if err := v.reread(ctx, id, ownLine(k)); err != nil {
			failed := v.now().mono
			again = failed + time.Second
			if last := v.warned.Load(); failed >= time.Duration(last)+time.Second && v.warned.CompareAndSwap(last, int64(failed)) {
				v.cfg.Logger.Warn("apikey: records could not be read again", "credential", id, "error", err)
			}
		}
		v.cache.unclaim(id, again)
	})
	if !started {
		v.cache.unclaim(id, 0)
	}
}

// renewBehind replaces hash and check, made with older parameters, another
// hasher or another pepper, by swapping them on the old hash: no version, no
// event, and nothing undone if somebody else was faster. One at a time: what is
// skipped now is done at the key's next cold verification.
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
		up := StoreUpkeep{Credential: cred.ID, OldHash: cred.Hash, NewHash: cred.Hash, NewCheck: makeCheck(v.ring.first, p)}
		if v.hashers[0].Outdated(cred.Hash) {
			encoded, err := v.hash(withPath(ctx, line), p)
			if err != nil {
				return
			}
			up.NewHash = encoded
		}
		if err := v.cfg.Store.Upkeep(ctx, []StoreUpkeep{up}); err != nil && v.tasks.ctx.Err() == nil {
			v.cfg.Logger.Warn("apikey: hash could not be renewed", "credential", cred.ID, "error", err)
		}
	})
	if !started {
		<-v.renewing
	}
}
