package httpauth_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// If a Guard that reads one header is inside a Guard that reads another, the handler must
// not act for the account of the second key with the abilities of the first.
func TestFound13ASecondRequireTakesNoOtherKey(t *testing.T) {
	e := newEnv(t)
	may := e.issue()
	mayNot := e.issue(func(r *apikey.IssueRequest) { r.Abilities = nil })
	outer := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Bearer()}})
	inner := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Header("X-API-Key")}})
	check := func(next http.Handler) http.Handler { // middleware of a program that writes its own answers
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			key, err := inner.Check(r)
			if err != nil {
				d := httpauth.Denied(err)
				w.WriteHeader(d.Status)
				fmt.Fprintf(w, `{"code":"%s"}`, d.Code)
				return
			}
			next.ServeHTTP(w, r.WithContext(apikey.NewContext(r.Context(), key)))
		})
	}
	for name, second := range map[string]func(http.Handler) http.Handler{"Require": inner.Require(), "Check": check} {
		t.Run(name, func(t *testing.T) {
			h, ran := e.ok()
			both := outer.Require(refund)(second(h))
			got := e.serve(both, get("Authorization", bearer(may), "X-API-Key", mayNot.Token.Reveal()))
			require.Equal(t, http.StatusBadRequest, got.StatusCode)
			require.Equal(t, "invalid_request", codeOf(got.body))
			got = e.serve(both, get("Authorization", bearer(may)))
			require.Equal(t, http.StatusUnauthorized, got.StatusCode, "as before: the key is out of the request")
			got = e.serve(both, get("Authorization", bearer(mayNot), "X-API-Key", may.Token.Reveal()))
			require.Equal(t, http.StatusForbidden, got.StatusCode)
			require.Zero(t, *ran)
			got = e.serve(both, get("Authorization", bearer(may), "X-API-Key", may.Token.Reveal()))
			require.Equal(t, http.StatusOK, got.StatusCode, "the same key is no other")
			require.Equal(t, 1, *ran)
		})
	}
}

// Networks that may contain any client are refused as TrustedProxies: the whole Internet,
// one of its halves, and other large parts.
func TestFound13TrustedProxiesOfEverybody(t *testing.T) {
	e := newEnv(t)
	for _, n := range []string{
		"0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "203.0.113.7/0", "8.0.0.0/7", "::/1", "8000::/1", "2000::/3", "fc00::/6", "2600::/7", "2a00::/12",
	} {
		require.PanicsWithValue(t, fmt.Sprintf("httpauth: Config.TrustedProxies: %s holds more of the Internet than anybody's proxies, "+
			"and whoever is in it names their own address: list your proxies' networks, or set TrustedHops behind a platform's", n), func() {
			e.guard(httpauth.Config{ForwardedHeader: "X-Forwarded-For", TrustedProxies: []netip.Prefix{
				netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix(n),
			}})
		}, n)
	}
	for _, n := range []string{"10.0.0.0/8", "fc00::/7", "fe80::/10", "2400:cb00::/32", "127.0.0.1/32", "::1/128"} {
		require.NotPanics(t, func() {
			e.guard(httpauth.Config{ForwardedHeader: "X-Forwarded-For", TrustedProxies: []netip.Prefix{netip.MustParsePrefix(n)}})
		}, n)
	}
}

// Without ForwardedHeader every client would have the proxy's address.
func TestFound13TrustedProxiesWithoutAHeader(t *testing.T) {
	e := newEnv(t)
	require.Panics(t, func() {
		e.guard(httpauth.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	})
}

func TestFound13TrustedHopsAreWellFormed(t *testing.T) {
	e := newEnv(t)
	for name, c := range map[string]httpauth.Config{
		"negative":       {ForwardedHeader: "X-Forwarded-For", TrustedHops: -1},
		"too many":       {ForwardedHeader: "X-Forwarded-For", TrustedHops: 33},
		"without header": {TrustedHops: 1},
		"with networks":  {ForwardedHeader: "X-Forwarded-For", TrustedHops: 1, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	} {
		require.Panics(t, func() { e.guard(c) }, name)
	}
}

// Behind a platform's proxies, the client's address is the entry that the outermost proxy
// has appended, whatever address the connection has. If there is no such entry, the
// address is unknown.
func TestFound13TrustedHops(t *testing.T) {
	e := newEnv(t)
	const merchant, attacker = "203.0.113.7", "6.6.6.6"
	keys := map[string]apikey.Issued{}
	for _, n := range []string{merchant, attacker, "169.254.1.1"} {
		keys[n] = e.issue(func(r *apikey.IssueRequest) { r.Networks = []netip.Prefix{netip.MustParsePrefix(n + "/32")} })
	}
	for _, c := range []struct {
		name  string
		hops  int
		lines []string
		want  string
	}{
		{"one hop", 1, []string{merchant}, merchant},
		{"two hops", 2, []string{merchant + ", 34.1.2.3"}, merchant},
		{"two hops in two lines", 2, []string{merchant, "34.1.2.3"}, merchant},
		{"two hops, port", 2, []string{merchant + ":4711, 34.1.2.3"}, merchant},
		{"claimed on the left", 1, []string{merchant + ", " + attacker}, attacker},
		{"claimed on the left of two", 2, []string{merchant + ", " + attacker + ", 34.1.2.3"}, attacker},
		{"claimed in a line of its own", 1, []string{merchant, attacker}, attacker},
		{"round the outer proxy", 2, []string{merchant}, ""},
		{"absent", 1, nil, ""},
		{"empty", 1, []string{""}, ""},
		{"garbage", 1, []string{merchant + ", unknown"}, ""},
		{"garbage on the left", 1, []string{"unknown, " + merchant}, merchant},
	} {
		guard := e.guard(httpauth.Config{ForwardedHeader: "X-Forwarded-For", TrustedHops: c.hops})
		for _, remote := range []string{"169.254.1.1:1", "@", "[fe80::1%eth0]:1"} {
			accepted := ""
			for addr, issued := range keys {
				r := get("Authorization", bearer(issued))
				r.RemoteAddr, r.Header["X-Forwarded-For"] = remote, c.lines
				if _, err := guard.Check(r); err == nil {
					accepted += addr
				} else {
					require.ErrorIs(t, err, apikey.ErrAddr, c.name)
				}
			}
			require.Equal(t, c.want, accepted, "%s, from %s", c.name, remote)
		}
	}
}
