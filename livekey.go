package apikey

import (
	"math"
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
	usedAt  atomic.Int64 // see usage.mark
	marked  atomic.Bool
	touched atomic.Bool // hit since warm's hand passed
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
// what was done to a damaged one may have raised.
func (k *liveKey) agrees(other *liveKey) bool {
	return k.same(other) && k.info.State == other.info.State
}

// of is what another token of the key has seen, for the token of row, which is
// older and is minded too.
func (k *liveKey) of(row *liveKey) *liveKey {
	seen := &liveKey{view: view{terms: k.terms, about: &about{k.info, k.head}, also: row}}
	seen.info.Credential = row.info.Credential
	seen.notBefore, seen.notAfter, seen.ended, seen.unlisted = math.MinInt64, math.MaxInt64, false, false // the other token's own
	return seen
}

// onlyWhatWasDone has a damaged record that was written here say what was done to
// it, and nothing that somebody else has made of it. It is for a liveKey that
// nobody else has yet.
func (k *liveKey) onlyWhatWasDone(did Action, toThisToken bool) {
	k.ended = k.ended && toThisToken
	at := k.info.RevokedAt
	k.state, k.info.RevokedAt = Active, time.Time{}
	switch did {
	case ActionSuspend:
		k.state = Suspended
	case ActionRevoke:
		k.state, k.info.RevokedAt = Revoked, at
	}
	k.info.State = k.state
}

// die has a revocation known of another token of the key count for this one. It is
// for a liveKey that nobody else has yet.
func (k *liveKey) die(at time.Time) {
	k.about = &about{k.info, k.head}
	k.state, k.info.State, k.info.RevokedAt = Revoked, Revoked, at
}
