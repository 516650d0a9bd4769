package httpauth_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// BenchmarkRequire compares a handler with the same handler behind a Guard. The Guard
// allocates a context value, and the request that carries it.
func BenchmarkRequire(b *testing.B) {
	e := newEnv(b)
	issued := e.issue()
	noop := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	guarded := e.guard(httpauth.Config{}).Require(refund)(noop)
	value := []string{bearer(issued)}
	run := func(h http.Handler, token []string) func(*testing.B) {
		return func(b *testing.B) {
			r := get()
			b.ReportAllocs()
			for b.Loop() {
				r.Header["Authorization"] = token // the Guard deletes this header
				h.ServeHTTP(nil, r)
			}
		}
	}
	b.Run("noop", run(noop, value))
	b.Run("accepted", run(guarded, value))

	test, err := apikey.NewVerifier(b.Context(), e.settings, apikey.VerifierConfig{Mode: apikey.Test, Sync: -1})
	require.NoError(b, err)
	defer test.Close(context.Background())
	byMode := httpauth.New(httpauth.ByMode(e.verifier, test), httpauth.Config{})
	b.Run("accepted by mode", run(byMode.Require(refund)(noop), value))
}

// BenchmarkRefused measures the cost of refusing a request without a real token.
func BenchmarkRefused(b *testing.B) {
	e := newEnv(b)
	guarded := e.guard(httpauth.Config{}).Require(apikey.Scope("payment:refund"))(http.NotFoundHandler())
	value := []string{"Bearer acme_sk_live_junk"}
	w := discard{http.Header{}}
	r := get()
	b.ReportAllocs()
	for b.Loop() {
		r.Header["Authorization"] = value
		guarded.ServeHTTP(w, r)
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header       { return d.h }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
