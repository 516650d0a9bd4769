package apikey

import (
	"errors"
	"time"
)

// Trace is a set of hooks for metrics and alarms, in the style of net/http/httptrace.
// Any of them may be nil. They are called from several goroutines at once, most of them
// while a request waits, so they must return quickly. No hook is ever given a token.
// Argon2idConfig.Waited reports waits for a hash, because the slots belong to the
// Hasher.
type Trace struct {
	// Verified: a verification has ended, with this result.
	Verified func(VerifiedTrace)
	// DeadKey: somebody used the right secret of a key that is revoked, suspended or
	// expired, or a token that has ended. It is an old deployment, or a leak.
	DeadKey func(key Info, err error)
	// Corrupt: Verify refused a record that is damaged or whose MAC is wrong. Damage
	// that the change feed finds goes to the Logger; damage that a list finds is
	// returned.
	Corrupt func(err *CorruptError)
	// Synced: the change feed was read. age is the time since the start of the last
	// successful sync; negative if there was none yet.
	Synced func(records int, age time.Duration, err error)
	// Denied: a management action was refused (err says by what: the account, Policy,
	// Standing or a grant that does not fit), or a wrong answer was given
	// (ErrWrongAnswer; key is zero). It is called also if no event was written.
	Denied func(a Actor, act Action, key KeyID, err error)
}

// VerifiedTrace is one verification.
type VerifiedTrace struct {
	Err error // nil: accepted
	// Source says what decided: "token" (its form, checksum or tag), "cache" (memory)
	// or "store" (a read of the store).
	Source string
	Key    Key // nil, unless the caller has proven that they hold the secret
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
