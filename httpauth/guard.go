// Package httpauth puts an [apikey.Verifier] in front of net/http handlers:
// [Guard.Check] decides, [Guard.Require] speaks HTTP. It needs no router of its
// own: what Require returns fits [http.ServeMux] and everything else that
// takes a func(http.Handler) http.Handler.
//
//	guard := httpauth.New(verifier, httpauth.Config{Realm: "acme"})
//	mux := http.NewServeMux()
//	mux.Handle("POST /v1/refunds", guard.Require(apikey.Scope("payment:refund"))(refunds))
//	mux.Handle("GET /v1/checkout.js", guard.AllowPublishable().Require()(checkout))
//
// and in the handler, which finds no credential in its request any more:
//
//	key, _ := apikey.FromContext(r.Context())
//	account := key.Info().Account
//
// One Require a route: it takes the credential out of the request, so a second one
// inside it finds none; and if that looks into another header, it refuses a key that
// is not the one which the first has let through. What a handler needs beyond the route's abilities it
// asks of [apikey.Key.Can].
//
// # Live and test
//
// A Guard has one Verifier, and a Verifier one mode. Give each mode a host or a
// server of its own; or one Verifier of [apikey.AnyMode], whose handlers look at
// Info().Mode; or both Guards behind one mux, chosen by the mode that the token
// claims ([apikey.ParseToken]), as examples/gateway does.
//
// # Answers
//
// A refused request gets a problem (RFC 9457) with a stable code and a request ID.
// A 401 has one WWW-Authenticate for each way in which the Guard takes a key. That
// of Bearer carries the error codes of RFC 6750, also on a 400 and a 403. That of
// Basic is left out of an answer to a web page's script, because a browser would
// open a box that asks for a user name.
//
//	400  invalid_request        two credentials, or one that cannot be read
//	401  credentials_missing    nothing presented
//	401  invalid_token          unknown, wrong, malformed or forged: never said which
//	401  key_revoked, key_suspended, key_expired, token_ended, token_not_yet_valid
//	403  kind_not_allowed, mode_mismatch, account_not_allowed, address_not_allowed, origin_not_allowed
//	403  insufficient_scope     names what is missing, not what is held
//	403  denied                 a reason that is newer than this package
//	503  busy, unavailable      with Retry-After
//	500  internal_error         a damaged record: the request ID and nothing else
//
// Who does not hold a key's secret gets one of the first three or a 5xx. The
// reasons are for who has proven it.
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

// A Guard lets requests through that carry a key. It is immutable and safe for
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

	// ForwardedHeader is the one header from which the client's address is taken
	// when the connection comes from a trusted proxy: "X-Forwarded-For",
	// "Fly-Client-IP" or another that lists addresses, nearest proxy last. Empty:
	// the address is that of the connection. The header named Forwarded (RFC
	// 7239) has another form and is not supported.
	ForwardedHeader string
	// TrustedProxies are the networks of your own proxies and load balancers,
	// each of which appends the address it was reached from to ForwardedHeader. A
	// network that holds more of the Internet than anybody's proxies is refused,
	// 0.0.0.0/0 and ::/0 first: whoever is in it names their own address. Empty, with
	// TrustedHops 0: ForwardedHeader is never read.
	TrustedProxies []netip.Prefix
	// TrustedHops is for programs behind a platform whose proxies have no addresses
	// of their own that one could list: how many of them append to ForwardedHeader,
	// from 1 to 32, the one that connects to the program included. The client's
	// address is the entry that stands so far from the right; with fewer entries it is
	// unknown. All that reaches the program has to come through these proxies, because
	// the connection's address is not looked at: whoever connects directly names their
	// own address. 0: TrustedProxies decides. It needs ForwardedHeader, and excludes
	// TrustedProxies.
	TrustedHops int

	// Preflight answers CORS preflights, which carry no key by specification and
	// so never reach a guarded handler. Nil: they are refused with 401, like any
	// request without a key.
	Preflight http.Handler
	// RequestID returns the ID that a refusal shows and the log has, so that
	// support finds one by the other. It sees the request without its
	// credentials. Nil, or an empty answer: the X-Request-ID header if that is
	// up to 64 plain characters, else a random ID.
	RequestID func(*http.Request) string
	// Deny writes a refusal's body in a form of the program's own: the vendor's
	// error format that its SDKs look for. Deny may set the Content-Type; the status
	// and all other headers stay what they are. It sees the
	// request without its credentials. Nil: application/problem+json.
	Deny func(w http.ResponseWriter, r *http.Request, d Denial)
	// Logger gets what ends in a 5xx, with the request ID: of each code, and of each
	// damaged key, ten lines a minute. The next one has left_out, the number of lines
	// that were not written, so that a flood of junk fills no disk. Nil: silent.
	Logger *slog.Logger
}

// New returns a Guard that asks v. It panics if v or an Extractor is nil, or a
// header name or network of the Config can never match or would believe anybody:
// mistakes that are to be found at the start and not in the traffic.
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

// AllowPublishable returns a Guard that takes publishable keys too. Everybody
// has those: guard with it only what every visitor of a shop may do.
func (g *Guard) AllowPublishable() *Guard {
	wider := *g
	wider.publishable = true
	return &wider
}

// Check decides: it returns the key that the request presents and that has all
// abilities in need, or why the request is refused. It changes nothing in r.
// If r's context has a key already ([apikey.FromContext]), another one is
// ErrMalformed, as two keys in one request are.
// The error is [ErrNoCredentials], [ErrMalformed] or one of
// [apikey.Verifier.Verify]; [Denied] tells what HTTP calls it.
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

// Require returns middleware that runs a handler only for requests that
// [Guard.Check] lets through, whatever their method, and answers the others
// itself. The handler finds the key with [apikey.FromContext]. A nil ability
// is a panic: a forgotten requirement must not pass for none.
//
// The credential headers are gone from the request that the handler sees, so a
// handler that proxies, logs or dumps it cannot give a key away. If the request is
// let through, they are deleted, not hidden in a copy: an access log
// or a recovery around Require does not find the key either, and a copy of the
// header would double what Require allocates. Hence such a request can be
// served once, which is what servers do, and a second Require inside a first
// one refuses: for a further ability of the same route ask [apikey.Key.Can]. Nor
// does it take another key from another header: see Check. A refused request stays as
// it was.
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
