package apikey

import (
	"sync/atomic"
	"time"
)

// liveKey is a verified key, shared by all who hold it: immutable but for the
// marks of its use. What a hit reads is small and lies together; the rest is
// elsewhere.
//
// It is four lines of memory, of 64 bytes each, and begins where one does: a hit
// reads the first three.
type liveKey struct {
	usedUntil atomic.Int64 // see usage.mark
	touched   atomic.Bool  // hit since warm's hand passed
	view
	_ [32]byte
}

// view is what is known of a key.
type view struct {
	readAt instant  // start of the read; zero: read again before the next answer
	epoch  uint64   // readAt counts while cache.epoch is this
	damage error    // the record is not to be believed
	also   *liveKey // a record that disagrees: what it forbids is forbidden too
	terms
	*about
}

// about is what judging a request needs nothing of.
type about struct {
	info Info
	head [32]byte
}

// Info implements [Key].
func (k *liveKey) Info() Info { return k.info }

// Can implements [Key].
func (k *liveKey) Can(required ...Ability) bool {
	return canAll(k.abilities, required) == nil && (k.also == nil || k.also.Can(required...))
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
	seen := &liveKey{view: view{terms: k.terms, about: &about{k.info, k.head}, also: row}}
	seen.info.Credential = row.info.Credential
	seen.notBefore, seen.notAfter = row.notBefore, row.notAfter
	seen.ended, seen.unlisted = row.ended, true
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
	k.about = &about{k.info, k.head}
	k.state, k.info.State, k.info.RevokedAt = Revoked, Revoked, at
}
