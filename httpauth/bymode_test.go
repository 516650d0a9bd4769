package httpauth_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// bothModes is an env with a second Verifier, for test keys, and what each was asked.
type bothModes struct {
	*env
	test  *apikey.Verifier
	asked map[apikey.Mode][]apikey.VerifiedTrace
}

func newBothModes(t testing.TB) *bothModes {
	t.Helper()
	b := &bothModes{asked: map[apikey.Mode][]apikey.VerifiedTrace{}}
	trace := func(m apikey.Mode) *apikey.Trace {
		return &apikey.Trace{Verified: func(v apikey.VerifiedTrace) { b.asked[m] = append(b.asked[m], v) }}
	}
	b.env = newEnv(t, func(e *env) { e.settings.Trace = trace(apikey.Live) })
	s := b.settings
	s.Trace = trace(apikey.Test)
	var err error
	b.test, err = apikey.NewVerifier(t.Context(), s, apikey.VerifierConfig{Mode: apikey.Test, Sync: -1})
	require.NoError(t, err)
	t.Cleanup(func() { b.test.Close(context.Background()) })
	return b
}

func (b *bothModes) guard() *httpauth.Guard {
	return httpauth.New(httpauth.ByMode(b.verifier, b.test), httpauth.Config{Logger: b.logger()})
}

func TestByModeAsksTheVerifierOfTheMode(t *testing.T) {
	b := newBothModes(t)
	publishable := func(r *apikey.IssueRequest) {
		r.Kind, r.Abilities = apikey.Publishable, []string{tokenise.String()}
	}
	inTest := func(r *apikey.IssueRequest) { r.Mode = apikey.Test }
	for _, c := range []struct {
		name   string
		issued apikey.Issued
		want   apikey.Mode
	}{
		{"live", b.issue(), apikey.Live},
		{"test", b.issue(inTest), apikey.Test},
		{"live publishable", b.issue(publishable), apikey.Live},
		{"test publishable", b.issue(publishable, inTest), apikey.Test},
	} {
		clear(b.asked)
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			key, _ := apikey.FromContext(r.Context())
			fmt.Fprint(w, key.Info().Mode)
		})
		for _, header := range []string{bearer(c.issued), basicAuth(c.issued.Token.Reveal() + ":")} {
			got := b.serve(b.guard().AllowPublishable().Require()(handler), get("Authorization", header))
			require.Equal(t, 200, got.StatusCode, "%s: %s", c.name, got.body)
			require.Equal(t, c.want.String(), got.body, c.name)
		}
		require.Len(t, b.asked[c.want], 2, c.name)
		require.Len(t, b.asked, 1, "%s: the other Verifier was asked too", c.name)
	}
}

// What is refused is refused as by a Guard of one Verifier: with the same answer,
// without a read of the store where that one has none, and without more memory.
func TestByModeRefusesAsOneVerifierDoes(t *testing.T) {
	b := newBothModes(t)
	live := b.issue().Token.Reveal()
	test := b.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test }).Token.Reveal()
	relabel := func(token, from, to string) string {
		return strings.TrimPrefix(forged(strings.Replace(token, from, to, 1)), "Bearer ")
	}
	alone := httpauth.New(b.verifier, httpauth.Config{Logger: b.logger()})
	h, ran := b.ok()
	for name, text := range map[string]string{
		"word":                     "x",
		"mode alone":               "acme_sk_test_",
		"JWT":                      "eyJhbGciOiJIUzI1NiJ9." + strings.Repeat("a", 4000) + ".c2ln",
		"test token, wrong CRC":    test[:len(test)-1] + "~",
		"live token, wrong CRC":    live[:len(live)-1] + "~",
		"test token, too short":    test[1:],
		"test token, too long":     "acme_acme_acme_acme_" + test,
		"test token, other prefix": "other" + test,
		"test token, forged":       strings.TrimPrefix(forged(test), "Bearer "),
		"live token, forged":       strings.TrimPrefix(forged(live), "Bearer "),
		"test token says live":     relabel(test, "_test_", "_live_"),
		"live token says test":     relabel(live, "_live_", "_test_"),
		"neither mode":             strings.Replace(live, "_live_", "_prod_", 1),
		"mode in capitals":         strings.Replace(test, "_test_", "_TEST_", 1),
	} {
		clear(b.asked)
		_, err := b.guard().Check(get("Authorization", "Bearer "+text))
		require.Equal(t, apikey.ErrInvalidToken, err, name)
		asked := append(b.asked[apikey.Live], b.asked[apikey.Test]...)
		require.Len(t, asked, 1, name)
		require.Equal(t, "token", asked[0].Source, "%s: it took more than its text", name)

		want := b.serve(alone.Require()(h), get("Authorization", "Bearer "+text, "X-Request-ID", "1"))
		got := b.serve(b.guard().Require()(h), get("Authorization", "Bearer "+text, "X-Request-ID", "1"))
		require.Equal(t, want.Header, got.Header, name)
		require.Equal(t, want.body, got.body, name)
	}
	require.Zero(t, *ran)

	junk := get("Authorization", "Bearer acme_sk_test_junk")
	allocs := func(g *httpauth.Guard) float64 {
		return testing.AllocsPerRun(100, func() { g.Check(junk) })
	}
	require.Equal(t, allocs(alone), allocs(b.guard()))
}

// A route for live keys alone has a Guard of the live Verifier beside the one of both.
func TestALiveRouteBesideByMode(t *testing.T) {
	b := newBothModes(t)
	test := b.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
	h, ran := b.ok()
	got := b.serve(b.env.guard(httpauth.Config{}).Require()(h), get("Authorization", bearer(test)))
	require.Equal(t, 403, got.StatusCode)
	require.Equal(t, "mode_mismatch", codeOf(got.body))
	require.Zero(t, *ran)
	got = b.serve(b.guard().Require()(h), get("Authorization", bearer(test)))
	require.Equal(t, 200, got.StatusCode)
}

func TestByModeIsMadeOfOneVerifierOfEach(t *testing.T) {
	b := newBothModes(t)
	both, err := apikey.NewVerifier(t.Context(), b.settings, apikey.VerifierConfig{Mode: apikey.AnyMode, Sync: -1})
	require.NoError(t, err)
	defer both.Close(context.Background())
	for name, of := range map[string][2]*apikey.Verifier{
		"the wrong way round": {b.test, b.verifier}, "live twice": {b.verifier, b.verifier}, "test twice": {b.test, b.test},
		"no live": {nil, b.test}, "no test": {b.verifier, nil}, "any for live": {both, b.test}, "any for test": {b.verifier, both},
	} {
		require.Panics(t, func() { httpauth.ByMode(of[0], of[1]) }, name)
	}
	require.Panics(t, func() { httpauth.New(nil, httpauth.Config{}) })
	require.Panics(t, func() { var none *apikey.Verifier; httpauth.New(none, httpauth.Config{}) }, "an interface that holds nil")
}

// silent is a Verifier of a program's own, with a branch that was forgotten.
type silent struct{}

func (silent) Verify(context.Context, string, apikey.Request) (apikey.Key, error) { return nil, nil }

func TestAVerifierThatSaysNothingIsNoPermission(t *testing.T) {
	e := newEnv(t)
	h, ran := e.ok()
	got := e.serve(httpauth.New(silent{}, httpauth.Config{Logger: e.logger()}).Require()(h), get("Authorization", "Bearer x"))
	require.Equal(t, 500, got.StatusCode)
	require.Zero(t, *ran)
	require.Contains(t, e.logs.String(), "neither a key nor an error")
}
