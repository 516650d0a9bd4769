package apikey

import (
	"errors"
	"time"
)

// Trace is a set of hooks, after net/http/httptrace: for metrics and alarms.
// Any of them may be nil. They are called from several goroutines at once, most
// of them on the way of a request, so they must return quickly. None is ever
// given a token. Waits for a hash are told by Argon2idConfig.Waited, because the
// slots belong to the Hasher.
type Trace struct {
	// Verified: every verification, with how it ended.
	Verified func(VerifiedTrace)
	// DeadKey: somebody holds the secret of a key that is revoked, suspended,
	// ended or expired, and uses it: an old deployment, or a leak.
	DeadKey func(key Info, err error)
	// Corrupt: Verify refused a record that cannot be believed. What the change feed
	// finds goes to the Logger, and what a list finds is returned.
	Corrupt func(err *CorruptError)
	// Synced: the change feed was read. age is that of the last good sync, by
	// its start; negative if there was none yet.
	Synced func(records int, age time.Duration, err error)
	// Denied: a management action was refused, by account, Policy, Standing or a
	// grant that does not fit (err says which), or a wrong answer was given
	// (ErrWrongAnswer; key is zero). Also when no event was written for it.
	Denied func(a Actor, act Action, key KeyID, err error)
}

// VerifiedTrace is one verification.
type VerifiedTrace struct {
	Err error // nil: accepted
	// Source is what decided: "token" (its form, checksum or tag), "cache" (memory) or
	// "store" (a read of the store).
	Source string
	Key    Key // nil unless the token was proven
}

// What decides a verification.
const (
	byToken = "token"
	byCache = "cache"
	byStore = "store"
)

// verified reports one verification to the hooks.
func (t *Trace) verified(k *liveKey, source string, err error) {
	if t.Verified != nil {
		vt := VerifiedTrace{Err: err, Source: source}
		if k != nil && k.trouble().damage == nil {
			vt.Key = k
		}
		t.Verified(vt)
	}
	if err == nil || err == ErrInvalidToken { // of which there is no more to say: junk is to be cheap
		return
	}
	switch corrupt, is := errors.AsType[*CorruptError](err); {
	case is && t.Corrupt != nil:
		t.Corrupt(corrupt)
	case is:
	case k != nil && errors.Is(err, ErrUnauthenticated) && !errors.Is(err, ErrNotYetValid) && t.DeadKey != nil:
		t.DeadKey(k.info, err)
	}
}

func (t *Trace) synced(records int, age time.Duration, err error) {
	if t.Synced != nil {
		t.Synced(records, age, err)
	}
}

func (t *Trace) denied(a Actor, act Action, key KeyID, err error) {
	if t.Denied != nil {
		t.Denied(a, act, key, err)
	}
}
