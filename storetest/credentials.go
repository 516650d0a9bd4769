package storetest

import (
	"slices"

	"github.com/go-apikey/apikey"
)

var credentials = []testCase{
	{"rotate", "a credential that is not stored yet is inserted whole, at its place in the list", rotate},
	{"order", "the order of credentials is the order of the list, whatever it was before", credentialOrder},
	{"dropped", "stored credentials that the record does not list are dropped and no longer found", credentialDropped},
	{"of another record", "a credential ID that another record has is a failed comparison, also when it has ended there", credentialStolen},
	{"twice", "a credential ID that a record lists twice is a failed comparison", credentialTwice},
	{"set free", "a credential that one change drops is another record's to list in the next one", credentialSetFree},
	{"columns", "of a stored credential NotBefore, NotAfter, Ended, Hint, Public and Pepper are written", credentialColumns},
	{"inserted ended", "a new credential that is Ended, or of a revoked record, has no sealed copy, whatever the record passed in says", credentialInsertedEnded},
	{"of a dead key", "ended credentials and those of revoked and suspended keys are found by Lookup", credentialOfDead},
}

func rotate(e *env) {
	r := e.full("acct")
	e.apply(e.write(r))
	for range 9 {
		fresh := e.full("acct").Credentials[0]
		fresh.LastUsed = e.tick()
		r = next(r, func(r *apikey.StoreRecord) { r.Credentials = slices.Insert(r.Credentials, 0, fresh) })
		e.apply(e.write(r))
	}
	e.equal("Get", e.get(r.ID), r)
	for _, c := range r.Credentials {
		got, err := e.Other.Lookup(e.ctx, c.ID)
		e.ok(err)
		e.equal("Lookup", got, r)
	}
}

func credentialOrder(e *env) {
	r := e.full("acct")
	for range 3 {
		r.Credentials = append(r.Credentials, newCredential())
	}
	e.apply(e.write(r))
	for range len(r.Credentials) {
		r = next(r, func(r *apikey.StoreRecord) {
			slices.Reverse(r.Credentials)
			r.Credentials = append(r.Credentials[1:], r.Credentials[0])
		})
		e.apply(e.write(r))
		e.equal("Get", e.get(r.ID), r)
		e.equal("List", e.list(apikey.StoreFilter{}), []apikey.StoreRecord{r})
	}
}

func credentialDropped(e *env) {
	r, bystander := e.full("acct"), e.full("acct")
	e.apply(e.writes(r, bystander)...)
	dropped := r.Credentials[1]
	r = next(r, func(r *apikey.StoreRecord) { r.Credentials = slices.Delete(r.Credentials, 1, 2) })
	e.apply(e.write(r))
	e.equal("Get", e.get(r.ID), r)
	_, err := e.Store.Lookup(e.ctx, dropped.ID)
	e.fails("Lookup of a dropped credential", err, apikey.ErrNotFound)
	e.upkeep(apikey.StoreUpkeep{Credential: dropped.ID, LastUsed: e.tick(), OldHash: dropped.Hash, NewHash: "x"})
	e.equal("after upkeep of it", e.get(r.ID), r)

	r = next(r, func(r *apikey.StoreRecord) { r.Credentials = nil })
	e.apply(e.write(r))
	e.equal("without any", e.get(r.ID), r)
	e.equal("another record", e.get(bystander.ID), bystander)
}

func credentialStolen(e *env) {
	victim := e.full("victim")
	e.apply(e.write(victim))
	for _, c := range victim.Credentials {
		thief := e.record("thief")
		thief.Credentials = append(thief.Credentials, c)
		e.conflicts("a new record with another's credential", e.write(thief))
		thief.Credentials = thief.Credentials[:1]
		e.apply(e.write(thief))
		stolen := next(thief, func(r *apikey.StoreRecord) { r.Credentials = append(r.Credentials, c) })
		e.conflicts("an update with another's credential", e.write(stolen))
		e.conflicts("an update of both at once", e.write(next(victim)), e.write(stolen))
		e.equal("the thief", e.get(thief.ID), thief)
	}
	one, other := e.record("one"), e.record("other")
	other.Credentials = one.Credentials
	e.conflicts("two new records with one credential", e.writes(one, other)...)
	e.equal("the victim", e.get(victim.ID), victim)
}

func credentialTwice(e *env) {
	r := e.record("acct")
	r.Credentials = append(r.Credentials, r.Credentials[0])
	e.conflicts("a new record", e.write(r))
	r.Credentials = r.Credentials[:1]
	e.apply(e.write(r))
	e.conflicts("an update", e.write(next(r, func(r *apikey.StoreRecord) { r.Credentials = append(r.Credentials, r.Credentials[0]) })))
	e.equal("the record", e.get(r.ID), r)
}

func credentialSetFree(e *env) {
	one, other := e.full("one"), e.record("other")
	e.apply(e.write(one))
	freed := one.Credentials[len(one.Credentials)-1]
	less := next(one, func(r *apikey.StoreRecord) { r.Credentials = r.Credentials[:len(r.Credentials)-1] })
	other.Credentials = append(other.Credentials, freed)
	e.conflicts("in the other order", e.write(other), e.write(less))
	e.apply(e.write(less), e.write(other))
	e.equal("who had it", e.get(one.ID), less)
	e.equal("who has it", e.get(other.ID), other)
}

func credentialColumns(e *env) {
	r := e.full("acct")
	e.apply(e.write(r))
	edits := []func(c *apikey.StoreCredential){
		func(c *apikey.StoreCredential) { c.NotBefore = e.tick() },
		func(c *apikey.StoreCredential) { c.NotAfter = e.tick() },
		func(c *apikey.StoreCredential) { c.Hint = "äö" },
		func(c *apikey.StoreCredential) { c.Public = "acme_pk_live_1" },
		func(c *apikey.StoreCredential) { c.Pepper = 255 },
		func(c *apikey.StoreCredential) {
			*c = apikey.StoreCredential{ID: c.ID, LastUsed: c.LastUsed, Hash: c.Hash, Check: c.Check, Sealed: c.Sealed, SealedKEK: c.SealedKEK}
		},
		func(c *apikey.StoreCredential) { c.Ended, c.Sealed, c.SealedKEK = true, nil, "" },
	}
	for _, edit := range edits {
		for i := range r.Credentials {
			r = next(r, func(r *apikey.StoreRecord) { edit(&r.Credentials[i]) })
			e.apply(e.write(r))
			e.equal("Get", e.get(r.ID), r)
		}
	}
}

func credentialInsertedEnded(e *env) {
	sealed := func(ended bool) apikey.StoreCredential {
		c := e.full("acct").Credentials[0]
		c.Ended = ended
		return c
	}
	unsealed := func(r apikey.StoreRecord) apikey.StoreRecord {
		r.Credentials = slices.Clone(r.Credentials)
		for i := range r.Credentials {
			if c := &r.Credentials[i]; c.Ended || !r.RevokedAt.IsZero() {
				c.Sealed, c.SealedKEK = nil, ""
			}
		}
		return r
	}
	r := e.record("acct")
	r.Credentials = []apikey.StoreCredential{sealed(false), sealed(true)}
	e.apply(e.write(r))
	e.equal("with a new record", e.get(r.ID), unsealed(r))

	r = next(unsealed(r), func(r *apikey.StoreRecord) { r.Credentials = append(r.Credentials, sealed(true), sealed(false)) })
	e.apply(e.write(r))
	e.equal("with a later version", e.get(r.ID), unsealed(r))

	dead := e.record("acct")
	dead.RevokedAt, dead.Credentials = e.tick(), []apikey.StoreCredential{sealed(false), sealed(true)}
	e.apply(e.write(dead))
	e.equal("with a revoked record", e.get(dead.ID), unsealed(dead))
	e.equal("by List", e.list(apikey.StoreFilter{State: apikey.Revoked}), []apikey.StoreRecord{unsealed(dead)})
	e.equal("keys with a copy of another KEK", len(e.list(apikey.StoreFilter{SealedKEKNot: "another"})), 1)
}

func credentialOfDead(e *env) {
	r := e.record("acct")
	e.apply(e.write(r))
	for _, edit := range []func(*apikey.StoreRecord){
		func(r *apikey.StoreRecord) { r.Disabled = true },
		func(r *apikey.StoreRecord) { r.ExpiresAt = epoch.AddDate(-1, 0, 0) },
		func(r *apikey.StoreRecord) { r.Credentials[0].Ended = true },
		func(r *apikey.StoreRecord) { r.RevokedAt = e.tick() },
	} {
		r = next(r, edit)
		e.apply(e.write(r))
		got, err := e.Other.Lookup(e.ctx, r.Credentials[0].ID)
		e.ok(err)
		e.equal("Lookup", got, r)
	}
}
