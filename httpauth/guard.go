// Package httpauth puts an [apikey.Verifier] in front of net/http handlers.
// [Guard.Check] verifies a request's key, and [Guard.Require] is the HTTP middleware. Any
// router can use it: Require works with [http.ServeMux] and with everything else that
// takes a func(http.Handler) http.Handler.
//
//	guard := httpauth.New(verifier, httpauth.Config{Realm: "acme"})
//	mux := http.NewServeMux()
//	mux.Handle("POST /v1/refunds", guard.Require(apikey.Scope("payment:refund"))(refunds))
//	mux.Handle("GET /v1/checkout.js", guard.AllowPublishable().Require()(checkout))
//
// and in the handler, which gets the request without its credential:
//
//	key, _ := apikey.FromContext(r.Context())
//	account := key.Info().Account
//
// Use one Require for a route. Require removes the credential from the request, so a
// second Require inside the first finds no credential. If the second Require reads
// another header, it refuses every key except the one that the first has accepted. If a
// handler needs another ability, it calls [apikey.Key.Can].
//
// # Live and test
//
// A Guard of a live Verifier refuses test keys, and one of a test Verifier live keys
// (mode_mismatch). There are three ways to serve both modes:
//
//   - a host or a server for each mode, each with a Guard of its own Verifier
//   - a Guard of [ByMode], with a Verifier for each mode, as in examples/gateway
//   - a Guard of one Verifier of [apikey.AnyMode], for small programs
//
// With the second and the third the handlers must look at Info().Mode: a handler that
// does not would move real money for a test key. A route that only live keys may use
// takes a Guard of the live Verifier.
//
// # Answers
//
// The answer to a refused request is a problem (RFC 9457) with a stable code and a
// request ID. A 401 has one WWW-Authenticate header for each way in which the Guard
// accepts a key. The header for Bearer has the error codes of RFC 6750; answers with 400
// and 403 have it too. An answer to a web page's script has no header for Basic, because
// the browser would show a dialog that asks for a user name.
//
//	400  invalid_request        two credentials, or one that cannot be read
//	401  credentials_missing    the request has no key
//	401  invalid_token          unknown, wrong, malformed or forged: the answer never says which
//	401  key_revoked, key_suspended, key_expired, token_ended, token_not_yet_valid
//	403  kind_not_allowed, mode_mismatch, account_not_allowed
//	403  address_not_allowed, origin_not_allowed
//	403  insufficient_scope     names the missing ability, not the abilities of the key
//	403  denied                 a reason that is newer than this package
//	503  busy, unavailable      with Retry-After
//	500  internal_error         a damaged record: the request ID and nothing else
//
// A client that does not have the secret of a key gets one of the first three codes or a
// 5xx. The other codes are only for clients that have proven that they have the secret.
//
// [Denied] is this table as a function. [Refused] is the table for the errors of an
// [apikey.Manager], for a key page or an API that manages keys.
package httpauth

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/seldom"
)

// A Guard accepts only requests with a valid key. It is immutable and safe for concurrent
// use, and one Guard can serve all routes. Make a Guard with [New].
type Guard struct {
	verifier    Verifier
	cfg         Config
	sources     []source
	challenges  []challenge
	publishable bool
}

// Config configures [New]. The zero value of a field is a safe default.
type Config struct {
	// Realm is the name of the API in WWW-Authenticate headers. Empty: "api". Control
	// and non-ASCII characters are replaced by '?'.
	Realm string
	// Extractors list the headers in which a client may send a key. Empty: [Bearer] and
	// [Basic].
	Extractors []Extractor

	// ForwardedHeader is the header from which the Guard takes the client's address if
	// the connection comes from a trusted proxy: "X-Forwarded-For", "Fly-Client-IP" or
	// another header that lists addresses, the nearest proxy last. Empty: the client's
	// address is the address of the connection. The header named Forwarded (RFC 7239)
	// has another format and is not supported.
	ForwardedHeader string
	// TrustedProxies lists the networks of your own proxies and load balancers. Each
	// proxy appends to ForwardedHeader the address that connected to the proxy. New
	// refuses a network that is too large to contain only your proxies, such as
	// 0.0.0.0/0 and ::/0, because every client in this network could choose its own
	// address. If TrustedProxies is empty and TrustedHops is 0, ForwardedHeader is never
	// read.
	TrustedProxies []netip.Prefix
	// TrustedHops is for programs behind a platform whose proxies have no fixed
	// addresses. It is the number of proxies that append to ForwardedHeader, from 1 to
	// 32, including the proxy that connects to the program. The client's address is the
	// entry at this position, counted from the right. If there are fewer entries, the
	// address is unknown.
	//
	// Every connection must come through these proxies, because the Guard does not check
	// the connection's address: a client that connects directly could choose its own
	// address. 0: TrustedProxies is used. TrustedHops needs ForwardedHeader, and cannot
	// be set together with TrustedProxies.
	TrustedHops int

	// Preflight answers CORS preflights. By specification a preflight has no key, so it
	// never reaches a guarded handler. Nil: preflights are refused with 401, like any
	// request without a key.
	Preflight http.Handler
	// RequestID returns the ID that a refusal and its log line both show, so that support
	// can find the line. RequestID gets the request without its credentials. If
	// RequestID is nil or returns "", the ID is the X-Request-ID header if that is up to
	// 64 plain characters, otherwise a random ID.
	RequestID func(*http.Request) string
	// Deny writes the body of a refusal in the program's own format, such as the error
	// format that its SDKs expect. Deny may set the Content-Type, but cannot change the
	// status or other headers. Deny gets the request without its credentials. Nil: the
	// body is application/problem+json.
	Deny func(w http.ResponseWriter, r *http.Request, d Denial)
	// Logger gets a line for each refusal with a 5xx, with the request ID. So that a
	// flood of requests cannot fill a disk, it gets at most ten lines a minute for each
	// code, and for each damaged key. The next line then has the attribute left_out, the
	// number of lines that were not written. Nil: silent.
	Logger *slog.Logger
}

// New returns a Guard that asks v: an [apikey.Verifier], or two of them by [ByMode]. New
// panics if v or an Extractor is nil, if a header name can never match, or if a network
// of the Config can never match or is too large. So such a mistake shows when the program
// starts, and not under traffic.
func New(v Verifier, c Config) *Guard {
	if known, is := v.(*apikey.Verifier); v == nil || is && known == nil {
		panic("httpauth: New needs a Verifier")
	}
	if c.Realm == "" {
		c.Realm = "api"
	}
	if len(c.Extractors) == 0 {
		c.Extractors = []Extractor{Bearer(), Basic()}
	}
	if c.ForwardedHeader != "" {
		c.ForwardedHeader = headerName(c.ForwardedHeader)
	}
	if c.ForwardedHeader == "Forwarded" {
		panic("httpauth: Config.ForwardedHeader: RFC 7239's Forwarded is not a list of addresses: use X-Forwarded-For")
	}
	c.TrustedProxies = slices.Clone(c.TrustedProxies)
	if err := c.validProxies(); err != nil {
		panic("httpauth: Config." + err.Error())
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = seldom.Logger(c.Logger)
	sources := sourcesOf(c.Extractors)
	return &Guard{verifier: v, cfg: c, sources: sources, challenges: challengesOf(c.Extractors, c.Realm)}
}

// AllowPublishable returns a Guard that also accepts publishable keys. Everybody can read
// a publishable key: use this Guard only for actions that every visitor of a shop may do.
func (g *Guard) AllowPublishable() *Guard {
	wider := *g
	wider.publishable = true
	return &wider
}

// Check returns the key of the request if the key is valid and has all abilities in
// need. Otherwise it returns an error that says why not: [ErrNoCredentials],
// [ErrMalformed] or an error of [apikey.Verifier.Verify]. [Denied] returns the HTTP
// answer for such an error. Check changes nothing in r. If r's context already has a key
// ([apikey.FromContext]) and r has a different key, Check returns ErrMalformed, as for
// two keys in one request.
func (g *Guard) Check(r *http.Request, need ...apikey.Ability) (apikey.Key, error) {
	if err := r.Context().Err(); err != nil {
		// The client does not wait for the answer any more. A payment should not begin
		// if its caller will not see the outcome.
		return nil, fmt.Errorf("%w: %w", apikey.ErrUnavailable, err)
	}
	if isPreflight(r) {
		return nil, ErrNoCredentials // even if r has a key: browsers send no key in a preflight
	}
	token, err := g.credential(r.Header)
	if err != nil {
		return nil, err
	}
	key, err := g.verifier.Verify(r.Context(), token, apikey.Request{
		Addr:             g.clientAddr(r),
		Origin:           originOf(r.Header),
		Require:          need,
		AllowPublishable: g.publishable,
	})
	if err == nil && key == nil {
		return nil, errNoAnswer
	}
	if err == nil && !sameKey(r, key) {
		return nil, malformed("the request presents two keys")
	}
	return key, err
}

// errNoAnswer is a mistake in a Verifier of the program's own. Without it the handler
// would run with no key.
var errNoAnswer = errors.New("httpauth: the Verifier returned neither a key nor an error")

// sameKey reports whether the request's context has no key yet, or the same key.
// Otherwise, if a Guard is inside another Guard that reads another header, a handler
// could act for the account of the second key with the abilities of the first.
func sameKey(r *http.Request, key apikey.Key) bool {
	known, is := apikey.FromContext(r.Context())
	return !is || known.Info().ID == key.Info().ID
}

// satisfiable returns an error if no key can have the ability a. So the mistake shows
// when the route is set up, and not under traffic.
func satisfiable(a apikey.Ability) error {
	switch a := a.(type) {
	case nil:
		return errors.New("a nil ability")
	case apikey.Scope:
		if _, err := apikey.ParseScope(string(a)); err != nil {
			return err
		}
		if strings.HasSuffix(string(a), "*") {
			return fmt.Errorf("scope %q: a route requires one scope; keys hold wildcards", a)
		}
	case apikey.Access:
		_, err := apikey.ParseAccess(a.String())
		return err
	}
	return nil
}

// Require returns middleware that runs the handler only for requests that [Guard.Check]
// accepts, whatever their method, and answers all other requests itself. The handler
// gets the key from [apikey.FromContext]. Require panics if an ability is nil, because a
// forgotten requirement must not mean that no ability is needed. It also panics if no
// key can have an ability.
//
// The handler gets the request without credential headers, so it cannot give a key away
// when it proxies, logs or dumps the request. Require deletes these headers from an
// accepted request, and does not hide them in a copy. So an access log or a recovery
// handler around Require cannot see the key either, and Require does not have to
// allocate a copy of the header, which would double its allocations. For this reason an
// accepted request can be served only once, as servers do. A second Require inside the
// first refuses the request, even if another header has another key (see Check). For
// another ability on the same route call [apikey.Key.Can]. Require does not change a
// refused request.
func (g *Guard) Require(need ...apikey.Ability) func(http.Handler) http.Handler {
	need = slices.Clone(need)
	for _, a := range need {
		if err := satisfiable(a); err != nil {
			panic("httpauth: Require: " + err.Error())
		}
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if g.cfg.Preflight != nil && isPreflight(r) {
				g.cfg.Preflight.ServeHTTP(w, r)
				return
			}
			key, err := g.Check(r, need...)
			if err != nil {
				g.answer(w, r, err)
				return
			}
			g.strip(r.Header)
			next.ServeHTTP(w, r.WithContext(apikey.NewContext(r.Context(), key)))
		})
	}
}

// strip deletes every header that an Extractor reads.
func (g *Guard) strip(h http.Header) {
	for _, s := range g.sources {
		delete(h, s.header)
	}
}

// isPreflight reports whether r is a CORS-preflight request as the Fetch standard defines
// it.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) > 0 &&
		len(r.Header["Access-Control-Request-Method"]) > 0
}

// originOf returns the request's origin. A browser never sends two. If a request has two,
// a proxy or a handler may use another one than the Guard does. So originOf then returns
// no origin: the request is refused if its key is bound to origins, and only then.
func originOf(h http.Header) string {
	if values := h["Origin"]; len(values) == 1 {
		return values[0]
	}
	return ""
}
