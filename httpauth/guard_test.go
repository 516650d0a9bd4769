package httpauth_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

func TestRequire(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	guard := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Bearer(), httpauth.Basic(), httpauth.Header("x-api-key")}})
	h := guard.Require(refund)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := apikey.FromContext(r.Context())
		require.True(t, ok)
		require.Equal(t, issued.Key.ID, key.Info().ID)
		require.Equal(t, issued.Key.Credential, key.Info().Credential)
		require.Empty(t, r.Header.Values("Authorization"))
		require.Empty(t, r.Header.Values("X-API-Key"))
		require.Equal(t, "kept", r.Header.Get("X-Other"))
		require.Equal(t, "id=7", r.URL.RawQuery)
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		w.Header().Set("X-Mine", "1")
		w.WriteHeader(http.StatusCreated)
		w.Write(body)
	}))
	for _, headers := range [][]string{
		{"Authorization", bearer(issued)},
		{"Authorization", basicAuth(issued.Token.Reveal() + ":")},
		{"X-Api-Key", issued.Token.Reveal()},
		{"X-Api-Key", issued.Token.Reveal(), "Authorization", "Digest username=somebody"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/v1/refunds?id=7", strings.NewReader("hello"))
		r.Header.Set("X-Other", "kept")
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		got := e.send(h, r)
		require.Equal(t, http.StatusCreated, got.StatusCode, "%v", headers[0])
		require.Equal(t, "hello", got.body)
		require.Equal(t, "1", got.Header.Get("X-Mine"))
		require.Empty(t, got.Header.Get("Cache-Control"), "the answer of a handler is its own")
	}
}

// Check does not change the request.
func TestCheck(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	guard := e.guard(httpauth.Config{})
	r := get("Authorization", bearer(issued))
	for range 2 {
		key, err := guard.Check(r, refund)
		require.NoError(t, err)
		require.Equal(t, issued.Key.ID, key.Info().ID)
		require.Equal(t, bearer(issued), r.Header.Get("Authorization"))
	}
	for _, c := range []struct {
		r    *http.Request
		need apikey.Ability
		want error
		is   error
	}{
		{get(), nil, httpauth.ErrNoCredentials, apikey.ErrUnauthenticated},
		{get("Authorization", "Bearer"), nil, httpauth.ErrMalformed, httpauth.ErrMalformed},
		{get("Authorization", "Bearer x"), nil, apikey.ErrInvalidToken, apikey.ErrUnauthenticated},
		{r, apikey.Scope("payment:void"), apikey.ErrAbility, apikey.ErrDenied},
	} {
		var need []apikey.Ability
		if c.need != nil {
			need = append(need, c.need)
		}
		key, err := guard.Check(c.r, need...)
		require.Nil(t, key)
		require.ErrorIs(t, err, c.want)
		require.ErrorIs(t, err, c.is)
		require.NotContains(t, err.Error(), issued.Token.Reveal())
	}
	_, err := guard.Check(r, nil)
	require.ErrorIs(t, err, apikey.ErrAbility, "a nil ability is never held")
}

// Requests of every method need a key, so a handler that ignores the method is safe too.
func TestMethods(t *testing.T) {
	e := newEnv(t)
	h, ran := e.ok()
	guarded := e.guard(httpauth.Config{}).Require()(h)
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "FOO", "get", "options"}
	for _, m := range methods {
		require.Equal(t, 401, e.serve(guarded, request(m)).StatusCode, m)
	}
	require.Zero(t, *ran)
	issued := e.issue()
	for _, m := range methods {
		require.Equal(t, 200, e.serve(guarded, request(m, "Authorization", bearer(issued))).StatusCode, m)
	}
	require.Equal(t, len(methods), *ran)
}

func TestPreflight(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	cors := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://shop.example")
		w.WriteHeader(http.StatusNoContent)
	})
	origin := []string{"Origin", "https://shop.example"}
	preflight := append(origin, "Access-Control-Request-Method", "POST")
	keyed := append([]string{"Authorization", bearer(issued)}, preflight...)
	for _, c := range []struct {
		name    string
		handler http.Handler
		method  string
		headers []string
		status  int
		ran     int
	}{
		{"answered", cors, "OPTIONS", preflight, 204, 0},
		{"answered, whatever it carries", cors, "OPTIONS", keyed, 204, 0},
		{"no handler", nil, "OPTIONS", preflight, 401, 0},
		{"no handler, with a key", nil, "OPTIONS", keyed, 401, 0},
		{"OPTIONS without request method", cors, "OPTIONS", origin, 401, 0},
		{"OPTIONS without origin", cors, "OPTIONS", []string{"Access-Control-Request-Method", "POST"}, 401, 0},
		{"not OPTIONS", cors, "POST", preflight, 401, 0},
		{"OPTIONS with a key", cors, "OPTIONS", []string{"Authorization", bearer(issued)}, 200, 1},
		{"request after it", cors, "POST", append([]string{"Authorization", bearer(issued)}, origin...), 200, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, ran := e.ok()
			got := e.send(e.guard(httpauth.Config{Preflight: c.handler}).Require()(h), request(c.method, c.headers...))
			require.Equal(t, c.status, got.StatusCode)
			require.Equal(t, c.ran, *ran)
			require.Equal(t, c.status == 204, got.Header.Get("Access-Control-Allow-Origin") != "")
		})
	}
}

// A route accepts publishable keys only if it uses AllowPublishable, which returns another
// Guard and does not change the first.
func TestAllowPublishable(t *testing.T) {
	e := newEnv(t)
	public := e.issue(func(r *apikey.IssueRequest) {
		r.Kind, r.Abilities, r.Origins = apikey.Publishable, []string{tokenise.String()}, []string{"https://shop.example"}
	})
	secret := e.issue()
	guard := e.guard(httpauth.Config{})
	wider := guard.AllowPublishable()
	h, _ := e.ok()
	const shop = "https://shop.example"
	for _, c := range []struct {
		name    string
		guard   *httpauth.Guard
		key     apikey.Issued
		origins []string
		status  int
		code    string
	}{
		{"narrow", guard, public, []string{shop}, 403, "kind_not_allowed"},
		{"wide", wider, public, []string{shop}, 200, ""},
		{"wide, another spelling", wider, public, []string{"HTTPS://Shop.example:443"}, 200, ""},
		{"wide, no origin", wider, public, nil, 403, "origin_not_allowed"},
		{"wide, other origin", wider, public, []string{"https://evil.example"}, 403, "origin_not_allowed"},
		{"wide, null origin", wider, public, []string{"null"}, 403, "origin_not_allowed"},
		{"wide, two origins", wider, public, []string{shop, "https://evil.example"}, 403, "origin_not_allowed"},
		{"wide, one origin twice", wider, public, []string{shop, shop}, 403, "origin_not_allowed"},
		{"wide, secret key", wider, secret, nil, 200, ""},
		{"unbound key, two origins", guard, secret, []string{shop, shop}, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := []string{"Authorization", bearer(c.key)}
			for _, o := range c.origins {
				headers = append(headers, "Origin", o)
			}
			got := e.send(c.guard.Require()(h), get(headers...))
			require.Equal(t, c.status, got.StatusCode)
			require.Contains(t, got.body, c.code)
		})
	}
}

// The database is closed while a request waits for it.
func TestStoreClosedMidRequest(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, ran := e.ok()
	guarded := e.guard(httpauth.Config{}).Require()(h)
	reading, closed := make(chan struct{}), make(chan struct{})
	e.store.onLookup(func(context.Context, *apikey.StoreRecord) error {
		close(reading)
		<-closed
		return errors.New("sql: database is closed")
	})
	go func() {
		<-reading
		close(closed)
	}()
	got := e.send(guarded, get("Authorization", bearer(issued)))
	require.Equal(t, 503, got.StatusCode)
	require.Equal(t, "5", got.Header.Get("Retry-After"))
	require.Zero(t, *ran)

	// A warm key is accepted for MaxStale after the store has failed, and not longer.
	e.store.onLookup(nil)
	require.Equal(t, 200, e.send(guarded, get("Authorization", bearer(issued))).StatusCode)
	e.store.fail(errors.New("sql: database is closed"))
	e.move(119 * time.Second)
	require.Equal(t, 200, e.send(guarded, get("Authorization", bearer(issued))).StatusCode)
	e.move(2 * time.Second)
	require.Equal(t, 503, e.send(guarded, get("Authorization", bearer(issued))).StatusCode)
	require.Equal(t, 2, *ran)
}

// The next request after a revocation is refused.
func TestRevoked(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, ran := e.ok()
	guarded := e.guard(httpauth.Config{}).Require()(h)
	require.Equal(t, 200, e.send(guarded, get("Authorization", bearer(issued))).StatusCode)
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
	require.Equal(t, 401, e.send(guarded, get("Authorization", bearer(issued))).StatusCode)
	require.Equal(t, 1, *ran)
}

// If a client disconnects before or during the verification, the handler does not run and
// nothing is logged.
func TestClientGone(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, ran := e.ok()
	guard := e.guard(httpauth.Config{})

	ctx, cancel := context.WithCancel(t.Context())
	reading := make(chan struct{})
	e.store.onLookup(func(ctx context.Context, _ *apikey.StoreRecord) error {
		cancel()
		<-reading
		return nil
	})
	require.Equal(t, 503, e.serve(guard.Require()(h), get("Authorization", bearer(issued)).WithContext(ctx)).StatusCode)
	close(reading)
	e.store.onLookup(nil)

	require.Equal(t, 200, e.serve(guard.Require()(h), get("Authorization", bearer(issued))).StatusCode) // warm
	require.Equal(t, 503, e.serve(guard.Require()(h), get("Authorization", bearer(issued)).WithContext(ctx)).StatusCode)
	require.Equal(t, 1, *ran)
	_, err := guard.Check(get("Authorization", bearer(issued)).WithContext(ctx))
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, e.logs.String())
}

// An accepted request loses its credential for everybody. A refused request is not
// changed, but the program's functions get it without its credentials.
func TestStripped(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, _ := e.ok()
	asked := 0
	bare := func(r *http.Request) {
		asked++
		require.Equal(t, http.Header{"Cookie": {"a=b"}}, r.Header)
	}
	guard := e.guard(httpauth.Config{
		Extractors: []httpauth.Extractor{httpauth.Bearer(), httpauth.Header("X-API-Key")},
		RequestID:  func(r *http.Request) string { bare(r); return "req-1" },
		Deny:       func(_ http.ResponseWriter, r *http.Request, _ httpauth.Denial) { bare(r) },
	})
	r := get("Authorization", "Digest x", "X-API-Key", issued.Token.Reveal(), "Cookie", "a=b")
	before := r.Header.Clone()
	require.Equal(t, 403, e.serve(guard.Require(apikey.Scope("payment:void"))(h), r).StatusCode)
	require.Equal(t, before, r.Header)
	require.Equal(t, 2, asked)
	require.Equal(t, 200, e.serve(guard.Require(refund)(h), r).StatusCode)
	bare(r)
}

// A handler that gives up on a request while the key is verified may read the request's
// headers. If the Guard writes to them, the race detector fails this test.
func TestTimeout(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, ran := e.ok()
	waiting, refused := make(chan struct{}), make(chan struct{})
	e.store.onLookup(func(ctx context.Context, _ *apikey.StoreRecord) error {
		close(waiting)
		<-refused
		return nil
	})
	guarded := e.guard(httpauth.Config{}).Require()(h)
	ctx, giveUp := context.WithCancel(t.Context())
	r := get("Authorization", bearer(issued), "User-Agent", "acme-go/1").WithContext(ctx)
	go func() {
		defer close(refused)
		guarded.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx)) // as http.TimeoutHandler does
	}()
	<-waiting
	giveUp()
	for range 1000 {
		require.Equal(t, "acme-go/1", r.Header.Get("User-Agent"))
	}
	<-refused
	require.Zero(t, *ran)
}

// A Guard inside a Guard finds no credential, and refuses the request.
func TestNested(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, ran := e.ok()
	guard := e.guard(httpauth.Config{})
	require.Equal(t, 401, e.serve(guard.Require()(guard.Require(refund)(h)), get("Authorization", bearer(issued))).StatusCode)
	require.Zero(t, *ran)
}

// Require keeps its own copy of the list of abilities.
func TestRequireCopies(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, ran := e.ok()
	need := []apikey.Ability{apikey.Scope("payment:void")}
	guarded := e.guard(httpauth.Config{}).Require(need...)(h)
	need[0] = refund
	require.Equal(t, 403, e.serve(guarded, get("Authorization", bearer(issued))).StatusCode)
	require.Zero(t, *ran)
}

// Require works with a mux that has patterns and path values, and with other routers.
func TestServeMux(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	guard := e.guard(httpauth.Config{})
	mux := http.NewServeMux()
	mux.Handle("POST /v1/payments/{id}/refunds", guard.Require(refund)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.PathValue("id")+" "+r.Pattern)
	})))
	r := httptest.NewRequest("POST", "/v1/payments/pay_7/refunds", nil)
	r.Header.Set("Authorization", bearer(issued))
	require.Equal(t, "pay_7 POST /v1/payments/{id}/refunds", e.serve(mux, r).body)

	// The methods Use of chi and gorilla take such functions.
	var use func(...func(http.Handler) http.Handler) = func(chain ...func(http.Handler) http.Handler) {
		h, ran := e.ok()
		e.serve(chain[0](h), get("Authorization", bearer(issued)))
		require.Equal(t, 1, *ran)
	}
	use(guard.Require(refund))
}

func TestNewPanics(t *testing.T) {
	e := newEnv(t)
	for name, f := range map[string]func(){
		"verifier":        func() { httpauth.New(nil, httpauth.Config{}) },
		"extractor":       func() { e.guard(httpauth.Config{Extractors: []httpauth.Extractor{nil}}) },
		"empty header":    func() { e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Header("")}}) },
		"header's space":  func() { e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Header("X API Key")}}) },
		"header's colon":  func() { e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Header("X-API-Key:")}}) },
		"header's letter": func() { e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Header("Schlüssel")}}) },
		"Host":            func() { e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Header("host")}}) },
		"forwarded":       func() { e.guard(httpauth.Config{ForwardedHeader: "forwarded"}) },
		"forwarded name":  func() { e.guard(httpauth.Config{ForwardedHeader: "X Forwarded For"}) },
		"zero network":    func() { e.guard(httpauth.Config{TrustedProxies: []netip.Prefix{{}}}) },
		"4-in-6 network": func() {
			e.guard(httpauth.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}})
		},
		"nil ability": func() { e.guard(httpauth.Config{}).Require(nil) },
	} {
		require.Panics(t, f, name)
	}
}

// Require panics if no key can have the ability, so this shows when the route is set up.
func TestRequireWhatCannotBe(t *testing.T) {
	e := newEnv(t)
	g := e.guard(httpauth.Config{})
	for _, a := range []apikey.Ability{
		nil, apikey.Scope(""), apikey.Scope("nonsense"), apikey.Scope("payment:*"), apikey.Scope("Payment:refund"),
		apikey.Access{}, apikey.Access{Product: "balance"}, apikey.Access{Product: "balance", Level: 9}, apikey.Access{Level: apikey.Read},
	} {
		require.Panics(t, func() { g.Require(a) }, "%#v", a)
	}
	require.NotPanics(t, func() {
		g.Require(apikey.Scope("payment:refund"), apikey.Access{Product: "balance", Level: apikey.Read})
	})
}
