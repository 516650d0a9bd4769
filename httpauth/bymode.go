package httpauth

import (
	"context"

	"github.com/go-apikey/apikey"
)

// A Verifier decides whether a presented token may do what a request wants.
// [apikey.Verifier] is one, and [ByMode] makes one of two. In tests it can be a type of
// the program's own.
type Verifier interface {
	// Verify returns the key of the token, or an error that says why the request is
	// refused: see [apikey.Verifier.Verify].
	Verify(ctx context.Context, presented string, r apikey.Request) (apikey.Key, error)
}

// ByMode returns a Verifier for routes that take live and test keys: it gives a token
// that claims to be a test token to test, and everything else to live. live must be of
// [apikey.Live] and test of [apikey.Test], or ByMode panics. Each has its own cache, and
// its own lines for reads of the store: a flood of test tokens evicts no live key, and no
// live key waits in its lines. They share the Hasher's slots and the database's pool.
//
// The claim of a token chooses who is asked and proves nothing: each Verifier refuses
// keys of the other mode. A text that is no token goes to live, whose answer is
// ErrInvalidToken after the same few steps as in a Guard of live alone.
//
// The handler must look at Info().Mode, and move money only for live keys. Never put
// ByMode before a handler that does not: it would move money for a test key, whose
// merchant may not even be allowed to have a live key. Such a route takes a Guard of
// the live Verifier, which refuses test keys:
//
//	both := httpauth.New(httpauth.ByMode(live, test), config)
//	onlyLive := httpauth.New(live, config)
func ByMode(live, test *apikey.Verifier) Verifier {
	if live == nil || test == nil || live.Mode() != apikey.Live || test.Mode() != apikey.Test {
		panic("httpauth: ByMode needs a Verifier of apikey.Live and one of apikey.Test, in this order")
	}
	return byMode{live, test}
}

type byMode struct{ live, test *apikey.Verifier }

func (m byMode) Verify(ctx context.Context, presented string, r apikey.Request) (apikey.Key, error) {
	if apikey.ClaimedMode(presented) == apikey.Test {
		return m.test.Verify(ctx, presented, r)
	}
	return m.live.Verify(ctx, presented, r)
}
