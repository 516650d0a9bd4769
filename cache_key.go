package apikey

import (
	"sync/atomic"
	"unsafe"
)

// cachedKey is a verified key, shared by all who hold it: immutable but for the
// marks of its use. What a hit reads is small and lies together; the rest is
// elsewhere.
//
// It is two lines of memory, of 64 bytes each, and begins where one does.
type cachedKey struct {
	usedUntil atomic.Int64 // see usage.mark
	view
	marks atomic.Uint32 // markTouched and the other
	epoch uint32        // readAt counts while cache.epoch is this
}

// It does not build with a larger one.
const _ = 128 - unsafe.Sizeof(cachedKey{})

// The marks of a cachedKey.
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
	damage error      // the record is not to be believed
	also   *cachedKey // a record that disagrees: what it forbids is forbidden too
}

// trouble returns that of a key, which for most is none.
func (k *cachedKey) trouble() trouble {
	if !k.troubled {
		return trouble{}
	}
	return *k.wrong
}

// set gives a key that nobody else has yet other trouble, or none.
func (k *cachedKey) set(t trouble) {
	if k.troubled || t != (trouble{}) {
		k.own()
		k.wrong, k.troubled = &t, t != (trouble{})
	}
}

// own gives a key that nobody else has yet an about that is not shared, so that it
// can be changed.
func (k *cachedKey) own() {
	a := *k.about
	k.about = &a
}

// Info implements [Key].
func (k *cachedKey) Info() Info { return k.info }

// Can implements [Key].
func (k *cachedKey) Can(required ...Ability) bool {
	also := k.trouble().also
	return canAll(k.abilities.held, required) == nil && (also == nil || also.Can(required...))
}
