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

// die has a revocation known of another token of the key count for this one. It is
// for a liveKey that nobody else has yet.
func (k *liveKey) die(at time.Time) {
	k.about = &about{k.info, k.head}
	k.state, k.info.State, k.info.RevokedAt = Revoked, Revoked, at
}
