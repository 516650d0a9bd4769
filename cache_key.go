package apikey

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// liveKey is a verified key, shared by all who hold it: immutable but for the
// marks of its use. What a hit reads is small and lies together; the rest is
// elsewhere.
//
// It is two lines of memory, of 64 bytes each, and begins where one does.
type liveKey struct {
	usedUntil atomic.Int64 // see usage.mark
	view
	marks atomic.Uint32 // markTouched and the other
	epoch uint32        // readAt counts while cache.epoch is this
}

// It does not build with a larger one.
const _ = 128 - unsafe.Sizeof(liveKey{})

// The marks of a liveKey.
const (
	markTouched uint32 = 1 << iota // hit since warm's hand passed
	markExpired                    // see cache.expired
)

// view is what is known of a key.
type view struct {
	proof  [16]byte // what cache.digest makes of the token; zero while it is not warm
	id     CredentialID
	readAt instant // start of the read; zero: read again before the next answer
	terms
	*about
}

// about is what judging a request rarely needs. It is never changed: see own.
type about struct {
	info     Info
	head     [32]byte
	notAfter int64    // the end of the credential; see terms.until
	unlisted bool     // ended for that alone that the record does not list it
	wrong    *trouble // nil unless terms.troubled
}

// trouble is what few keys have.
type trouble struct {
	damage error    // the record is not to be believed
	also   *liveKey // a record that disagrees: what it forbids is forbidden too
}

// trouble returns that of a key, which for most is none.
func (k *liveKey) trouble() trouble {
	if !k.troubled {
		return trouble{}
	}
	return *k.wrong
}

// set gives a key that nobody else has yet other trouble, or none.
func (k *liveKey) set(t trouble) {
	if k.troubled || t != (trouble{}) {
		k.own()
		k.wrong, k.troubled = &t, t != (trouble{})
	}
}

// own gives a key that nobody else has yet an about that is not shared, so that it
// can be changed.
func (k *liveKey) own() {
	a := *k.about
	k.about = &a
}

// Info implements [Key].
func (k *liveKey) Info() Info { return k.info }

// Can implements [Key].
func (k *liveKey) Can(required ...Ability) bool {
	also := k.trouble().also
	return canAll(k.abilities.held, required) == nil && (also == nil || also.Can(required...))
}

// same reports whether two records are of one version of one history.
func (k *liveKey) same(other *liveKey) bool {
	return k.info.Version == other.info.Version && k.head == other.head
}

// agrees reports whether two records also say the same of the key's state, which
// can differ within one version: a damaged record that was suspended or revoked
// here is remembered so.
func (k *liveKey) agrees(other *liveKey) bool {
	return k.same(other) && k.info.State == other.info.State
}

// forTokenOf makes the record of row's token from what another token of the key has
// shown, which is newer, or of the same version and different. What row forbids is
// forbidden too. Window and end are row's, and nobody knows whether the newer
// record lists the token.
func (k *liveKey) forTokenOf(row *liveKey) *liveKey {
	seen := &liveKey{view: view{id: row.id, terms: k.terms, about: k.about}}
	seen.own()
	seen.info.Credential = row.id
	seen.notBefore, seen.notAfter = row.notBefore, row.notAfter
	seen.until = min(row.notAfter, microsOr(k.info.ExpiresAt, never))
	seen.ended, seen.unlisted = row.ended, true
	seen.set(trouble{also: row})
	return seen
}

// onlyWhatWasDone reduces a damaged record to what this process did to it: whatever
// else it says, somebody may have written by hand. It is for a liveKey that nobody
// else has yet.
func (k *liveKey) onlyWhatWasDone(did Action, toThisToken bool) {
	k.ended = k.ended && toThisToken
	done := Active
	switch did {
	case ActionSuspend:
		done = Suspended
	case ActionRevoke:
		done = Revoked
	}
	k.state = min(k.state, done)
	if k.info.State = k.state; k.state != Revoked {
		k.info.RevokedAt = time.Time{}
	}
}

// die has a revocation known of another token of the key count for this one. It is
// for a liveKey that nobody else has yet.
func (k *liveKey) die(at time.Time) {
	k.own()
	k.state, k.info.State, k.info.RevokedAt = Revoked, Revoked, at
}
