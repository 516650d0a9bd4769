package apikey

import (
	"context"
	"errors"
	"net/netip"
)

// find proves the token. Its errors say "invalid" or that this library failed, never
// why a token is invalid. at is the time that the key is to be judged at, in
// microseconds since 1970. The numbers are the steps of "The way of a token" in
// docs/architecture.md.
func (v *Verifier) find(ctx context.Context, presented string, from netip.Addr) (k *cachedKey, at int64, source string, err error) {
	var p parsed
	if !v.locate(presented, &p) { // step 1
		return nil, 0, byToken, ErrInvalidToken
	}
	if v.tasks.ctx.Err() != nil {
		return nil, 0, byToken, ErrClosed
	}
	reread := false
	for range 4 { // once, and again after a sync or a re-read
		k, found := v.cache.get(&p) // step 2
		if found == mismatch {
			// Final: a credential's secret never changes. So if somebody guesses the
			// secret of a warm key, neither the store nor argon2 has to be asked.
			return nil, 0, byCache, ErrInvalidToken
		}
		if found == miss && !v.mayBeMinted(&p) { // step 3
			return nil, 0, byToken, ErrInvalidToken
		}
		now := v.now()
		if found == miss && v.cache.absent(p.id, now) {
			return nil, 0, byCache, ErrInvalidToken
		}
		if !v.feed.freshAt(now, v.cfg.MaxStale) { // step 4
			if err := v.freshen(ctx); err != nil {
				return nil, 0, byCache, err
			}
			continue // the sync may have changed this key
		}
		if found == miss { // step 5
			k, err := v.coldKey(ctx, p, from)
			return k, v.now().wall, byStore, err
		}
		readAt := v.cache.readAt(k)
		age := elapsed(now, readAt)
		if !reread && (inDoubt(readAt) || age > 2*v.cfg.MaxAge) {
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

// mayBeMinted reports whether the store has to be asked about a token that is not warm:
// if there is a pepper, one of ours made the tag, and the token's form is right.
func (v *Verifier) mayBeMinted(p *parsed) bool { return v.tagged(p) == nil && p.wellFormed() }

// inDoubt reports whether a record must be read again, whatever its age; see
// cache.readAt.
func inDoubt(readAt instant) bool { return readAt == instant{} }

// coldKey proves a token that is not warm. Callers with equal tokens share one flight,
// and so one argon2 run. Callers with different tokens of one ID share only the read of
// the row, never each other's proof.
func (v *Verifier) coldKey(ctx context.Context, p parsed, from netip.Addr) (*cachedKey, error) {
	digest := v.cache.digest(p.text)
	return v.proofs.do(ctx, proofKey{digest, v.cache.since(p.id)}, func(ctx context.Context) (*cachedKey, error) {
		proven := false
		for range 8 {
			gen := v.cache.enter(p.id)
			o, err := v.readAndProve(ctx, p, from, gen, &proven)
			o.digest = digest
			// If the row was read before the last change, it is neither answered nor cached. The
			// proof stays: ID and secret never change.
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
		return nil, ErrBusy // the key changes faster than it can be read
	})
}

// proofKey names a flight of coldKey by the generation at its start, as rowKey does for
// a read: no caller joins a flight that began before the last change.
type proofKey struct {
	digest [32]byte
	gen    uint64
}

// readAndProve reads the row of a token once, and returns what it found. The hash is
// compared only until the token is proven. If the token is proven and its record is
// damaged, readAndProve returns no error: live notes the damage in the key.
func (v *Verifier) readAndProve(ctx context.Context, p parsed, from netip.Addr, gen uint64, proven *bool) (o outcome, err error) {
	o.claims = p.claims
	got, err := v.read(ctx, rowKey{p.id, gen, v.coldReads.path(p.id, from), false})
	switch {
	case err != nil:
	case !*proven:
		err = v.proveCold(ctx, p, got.record)
		*proven = err == nil
	case got.record.credential(p.id) == nil: // moved by hand between two reads
		err = notListed(got.record.ID)
	}
	if err == nil {
		o.key, o.readAt, o.begun = v.live(got.record, p.id, p.claims, v.believe(got.record)), got.readAt, got.begun
	}
	o.absent = errors.Is(err, ErrNotFound)
	return o, err
}

// proveCold compares check and hash, in the line of the key's account. If they are
// outdated, it has them made anew behind the answer.
func (v *Verifier) proveCold(ctx context.Context, p parsed, r *StoreRecord) error {
	renew, err := v.proveRow(withPath(ctx, hashLine(r)), p, r, false)
	if renew {
		v.renewBehind(p, *r.credential(p.id), hashLine(r))
	}
	return err
}

// live builds what judge needs from a record, and notes whether the record is believed.
// The record must also agree with what the proven token says of itself. The hash covers
// the token's text: if the two differ, somebody changed the record.
func (v *Verifier) live(r *StoreRecord, id CredentialID, said claims, damage error) *cachedKey {
	cred := r.credential(id)
	list, _ := v.abilities(r.Abilities)
	k := &cachedKey{view: view{id: id, about: &about{info: describe(r, id, list.held), head: r.Head}}}
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
