// Package httpauth puts an [apikey.Verifier] in front of net/http handlers:
// [Guard.Check] decides, [Guard.Require] is the HTTP middleware. It needs no router of
// its own: Require fits [http.ServeMux] and everything else that takes a
// func(http.Handler) http.Handler.
//
//	guard := httpauth.New(verifier, httpauth.Config{Realm: "acme"})
//	mux := http.NewServeMux()
//	mux.Handle("POST /v1/refunds", guard.Require(apikey.Scope("payment:refund"))(refunds))
//	mux.Handle("GET /v1/checkout.js", guard.AllowPublishable().Require()(checkout))
//
// and in the handler, whose request has no credential any more:
//
//	key, _ := apikey.FromContext(r.Context())
//	account := key.Info().Account
//
// Use one Require for a route. Require takes the credential out of the request, so a
// second one inside it finds none; and if the second reads another header, it refuses
// every key but the one that the first has accepted. If a handler needs a further
// ability, it calls [apikey.Key.Can].
//
// # Live and test
//
// A Guard has one Verifier, and a Verifier one mode. Give each mode a host or a server
// of its own; or use one Verifier of [apikey.AnyMode], whose handlers look at
// Info().Mode; or put both Guards behind one mux and choose by the mode that the token
// claims ([apikey.ParseToken]), as examples/gateway does.
//
// # Answers
//
// A refused request gets a problem (RFC 9457) with a stable code and a request ID. A
// 401 has one WWW-Authenticate header for each way in which the Guard accepts a key.
// The one for Bearer carries the error codes of RFC 6750, also on a 400 and a 403. The
// one for Basic is left out of an answer to a web page's script, because a browser
// would open a box that asks for a user name.
//
//	400  invalid_request        two credentials, or one that cannot be read
//	401  credentials_missing    the request has no key
//	401  invalid_token          unknown, wrong, malformed or forged: the answer never says which
//	401  key_revoked, key_suspended, key_expired, token_ended, token_not_yet_valid
//	403  kind_not_allowed, mode_mismatch, account_not_allowed
//	403  address_not_allowed, origin_not_allowed
//	403  insufficient_scope     names the missing ability, not those that the key has
//	403  denied                 a reason that is newer than this package
//	503  busy, unavailable      with Retry-After
//	500  internal_error         a damaged record: the request ID and nothing else
//
// A caller who does not hold the secret of a key gets one of the first three or a 5xx.
// The other reasons are for callers who have proven that they hold it.
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

// A Guard lets only requests with a valid key through. It is immutable and safe for
// concurrent use; one serves all routes. Make it with [New].
type Guard struct {
	verifier    *apikey.Verifier
	cfg         Config
	sources     []source
	challenges  []challenge
	publishable bool
}

// Config configures [New]. The zero value of a field is a safe default.
type Config struct {
	// Realm names the API in the challenge. Empty: "api". Control and non-ASCII
	// characters become '?'.
	Realm string
	// Extractors say where a key may be presented. Empty: [Bearer] and [Basic].
	Extractors []Extractor

	// ForwardedHeader is the one header from which the client's address is taken if the
	// connection comes from a trusted proxy: "X-Forwarded-For", "Fly-Client-IP" or
	// another that lists addresses, nearest proxy last. Empty: the address is that of
	// the connection. The header named Forwarded (RFC 7239) has another form and is not
	// supported.
	ForwardedHeader string
	// TrustedProxies are the networks of your own proxies and load balancers. Each
	// proxy appends the address that connected to it to ForwardedHeader. A network that
	// is too large to hold only your proxies is refused, such as 0.0.0.0/0 and ::/0:
	// every client in it could choose its own address. Empty, with TrustedHops 0:
	// ForwardedHeader is never read.
	TrustedProxies []netip.Prefix
	// TrustedHops is for programs behind a platform whose proxies have no fixed
	// addresses. It is how many proxies append to ForwardedHeader, from 1 to 32,
	// including the one that connects to the program. The client's address is the entry
	// at that place from the right; with fewer entries it is unknown.
	//
	// Every connection has to come through these proxies, because its address is not
	// checked: a client that connects directly could choose its own address. 0:
	// TrustedProxies decides. TrustedHops needs ForwardedHeader and excludes
	// TrustedProxies.
	TrustedHops int

	// Preflight answers CORS preflights, which by specification carry no key and so
	// never reach a guarded handler. Nil: they are refused with 401, like any request
	// without a key.
	Preflight http.Handler
	// RequestID returns the ID that is in both a refusal and its log line, so that
	// support can find the line. It gets the request without its credentials. Nil, or
	// an empty result: the X-Request-ID header if that is up to 64 plain characters,
	// else a random ID.
	RequestID func(*http.Request) string
	// Deny writes a refusal's body in the program's own format, such as the error
	// format that its SDKs expect. Deny may set the Content-Type; it cannot change the
	// status and the other headers. It gets the request without its credentials. Nil:
	// application/problem+json.
	Deny func(w http.ResponseWriter, r *http.Request, d Denial)
	// Logger gets each refusal with a 5xx, with its request ID: ten lines a minute for
	// each code, and for each damaged key. The next line has left_out, the number of
	// lines that were not written, so that a flood of requests fills no disk. Nil:
	// silent.
	Logger *slog.Logger
}

// New returns a Guard that asks v. New panics if v or an Extractor is nil, if a header
// name can never match, or if a network of the Config can never match or is too large.
// Such mistakes are to be found at the start and not under traffic.
func New(v *apikey.Verifier, c Config) *Guard {
	if v == nil {
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

// AllowPublishable returns a Guard that accepts publishable keys too. Everybody has
// those: guard with it only actions that are open to every visitor of a shop.
func (g *Guard) AllowPublishable() *Guard {
	wider := *g
	wider.publishable = true
	return &wider
}

// Check returns the key of the request if the key is valid and has all abilities in
// need, else an error that says why not. Check changes nothing in r. If r's context
// already has a key ([apikey.FromContext]), a different key in r is ErrMalformed, as
// two keys in one request are. The error is [ErrNoCredentials], [ErrMalformed] or one
// of [apikey.Verifier.Verify]; [Denied] turns it into an HTTP answer.
func (g *Guard) Check(r *http.Request, need ...apikey.Ability) (apikey.Key, error) {
	if err := r.Context().Err(); err != nil {
		// Nobody is waiting for the answer: a payment whose outcome its caller
		// will not see is better not begun.
		return nil, fmt.Errorf("%w: %w", apikey.ErrUnavailable, err)
	}
	if isPreflight(r) {
		return nil, ErrNoCredentials // whatever it carries: no browser sends a key in one
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
	if err == nil && !sameKey(r, key) {
		return nil, malformed("the request presents two keys")
	}
	return key, err
}

// sameKey reports whether the request's context has no key yet, or this one. A
// Guard that reads one header, inside one that reads another, would otherwise let a
// handler act for the account of the second key with the abilities of the first.
func sameKey(r *http.Request, key apikey.Key) bool {
	known, is := apikey.FromContext(r.Context())
	return !is || known.Info().ID == key.Info().ID
}

// satisfiable finds requirements that no key can meet, when the route is made
// and not in its traffic.
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

// Require returns middleware. It runs the handler only for requests that [Guard.Check]
// accepts, whatever their method, and answers the others itself. The handler gets the
// key from [apikey.FromContext]. Require panics if an ability is nil: a forgotten
// requirement must not count as none.
//
// The request that the handler sees has no credential headers, so a handler that
// proxies, logs or dumps it cannot give a key away. They are deleted from an accepted
// request, not hidden in a copy: so an access log or a recovery around Require does not
// see the key either, and Require does not allocate twice as much for a copy of the
// header. Hence an accepted request can be served only once, as servers do, and a
// second Require inside a first one refuses it, also if another header has another key
// (see Check). For a further ability on the same route call [apikey.Key.Can]. A refused
// request stays as it was.
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

// strip deletes whatever an Extractor looks at.
func (g *Guard) strip(h http.Header) {
	for _, s := range g.sources {
		delete(h, s.header)
	}
}

// isPreflight: a CORS-preflight request as the Fetch standard defines it.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) > 0 &&
		len(r.Header["Access-Control-Request-Method"]) > 0
}

// originOf returns the request's origin. No browser sends two; of a request
// that has two, a proxy or a handler may believe the other one. So it has none,
// which refuses it for keys that are bound to origins and for no others.
func originOf(h http.Header) string {
	if values := h["Origin"]; len(values) == 1 {
		return values[0]
	}
	return ""
}
