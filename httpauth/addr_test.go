package httpauth_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// Each key is bound to one address, so the accepted keys show which address the Guard has
// found. The proxies are in 10.0.0.0/8 and fd00::/8. The attacker, 6.6.6.6, claims to be
// the merchant, 203.0.113.7.
func TestClientAddr(t *testing.T) {
	e := newEnv(t)
	none := "nobody"
	keys := map[string]apikey.Issued{}
	for _, n := range []string{"203.0.113.7/32", "6.6.6.6/32", "2001:db8::7/128", "fe80::1/128", "10.0.0.9/32", "10.0.0.1/32"} {
		network := netip.MustParsePrefix(n)
		keys[network.Addr().String()] = e.issue(func(r *apikey.IssueRequest) { r.Networks = []netip.Prefix{network} })
	}
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	behind := e.guard(httpauth.Config{ForwardedHeader: "x-forwarded-for", TrustedProxies: proxies})
	fly := e.guard(httpauth.Config{ForwardedHeader: "Fly-Client-IP", TrustedProxies: proxies})
	direct := e.guard(httpauth.Config{})
	headerOnly := e.guard(httpauth.Config{ForwardedHeader: "X-Forwarded-For"})
	const proxy = "10.0.0.1:4711"

	for _, c := range []struct {
		name   string
		guard  *httpauth.Guard
		remote string
		lines  []string // the lines of X-Forwarded-For
		want   string
	}{
		{"connection", direct, "203.0.113.7:4711", nil, "203.0.113.7"},
		{"connection, IPv6", direct, "[2001:db8::7]:4711", nil, "2001:db8::7"},
		{"connection, zone", direct, "[fe80::1%eth0]:4711", nil, "fe80::1"},
		{"connection, 4-in-6", direct, "[::ffff:203.0.113.7]:4711", nil, "203.0.113.7"},
		{"connection, 4-in-6 in hexadecimal", direct, "[::ffff:cb00:7107]:4711", nil, "203.0.113.7"},
		{"connection without a port", direct, "203.0.113.7", nil, "203.0.113.7"},
		{"unix socket", direct, "@", nil, none},
		{"no connection", direct, "", nil, none},
		{"header is not configured", direct, "6.6.6.6:1", []string{"203.0.113.7"}, "6.6.6.6"},
		{"header is not configured, from a proxy", direct, "10.0.0.9:1", []string{"203.0.113.7"}, "10.0.0.9"},
		{"no proxy is trusted", headerOnly, "6.6.6.6:1", []string{"203.0.113.7"}, "6.6.6.6"},
		{"not from a proxy", behind, "6.6.6.6:1", []string{"203.0.113.7"}, "6.6.6.6"},
		{"not from a proxy, who names one", behind, "6.6.6.6:1", []string{"203.0.113.7, 10.0.0.1"}, "6.6.6.6"},
		{"unix socket is no proxy", behind, "@", []string{"203.0.113.7"}, none},

		{"one proxy", behind, proxy, []string{"203.0.113.7"}, "203.0.113.7"},
		{"two proxies", behind, proxy, []string{"203.0.113.7, 10.1.2.3"}, "203.0.113.7"},
		{"two proxies, of both families", behind, "[fd00::1]:1", []string{"2001:db8::7,fd00::2 ,10.0.0.2"}, "2001:db8::7"},
		{"4-in-6 proxy", behind, "[::ffff:10.0.0.1]:1", []string{"203.0.113.7"}, "203.0.113.7"},
		{"4-in-6 hop", behind, proxy, []string{"203.0.113.7, ::ffff:10.0.0.2"}, "203.0.113.7"},
		{"4-in-6 client", behind, proxy, []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		{"several lines", behind, proxy, []string{"203.0.113.7", "10.0.0.2"}, "203.0.113.7"},
		{"several lines of several", behind, proxy, []string{"1.1.1.1, 203.0.113.7", "10.0.0.3,10.0.0.2"}, "203.0.113.7"},
		{"port", behind, proxy, []string{"203.0.113.7:55555"}, "203.0.113.7"},
		{"brackets", behind, proxy, []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"brackets and port", behind, proxy, []string{"[2001:db8::7]:55555"}, "2001:db8::7"},
		{"zone", behind, proxy, []string{"fe80::1%eth0"}, "fe80::1"},
		{"long spelling", behind, proxy, []string{"2001:0DB8:0:0::0007"}, "2001:db8::7"},
		{"tabs", behind, proxy, []string{"\t203.0.113.7\t,\t10.0.0.2"}, "203.0.113.7"},
		{"another header", fly, proxy, []string{"203.0.113.7"}, "203.0.113.7"},

		{"claimed on the left", behind, proxy, []string{"203.0.113.7, 6.6.6.6"}, "6.6.6.6"},
		{"claimed in a line of its own", behind, proxy, []string{"203.0.113.7", "6.6.6.6"}, "6.6.6.6"},
		{"claimed with proxies", behind, proxy, []string{"203.0.113.7, 10.0.0.2, 6.6.6.6, 10.0.0.3"}, "6.6.6.6"},
		{"claimed to be a proxy", behind, proxy, []string{"10.0.0.9, 6.6.6.6"}, "6.6.6.6"},
		{"a proxy's neighbour", behind, proxy, []string{"10.0.0.9"}, "10.0.0.9"},
		{"a proxy's neighbour, of two", behind, proxy, []string{"10.0.0.9, 10.0.0.2"}, "10.0.0.9"},

		{"absent", behind, proxy, nil, none},
		{"empty", behind, proxy, []string{""}, none},
		{"commas", behind, proxy, []string{", ,"}, none},
		{"garbage", behind, proxy, []string{"unknown"}, none},
		{"garbage between", behind, proxy, []string{"203.0.113.7, _hidden, 10.0.0.2"}, none},
		{"trailing comma", behind, proxy, []string{"203.0.113.7,"}, none},
		{"garbage beyond a client", behind, proxy, []string{"garbage, 203.0.113.7"}, "203.0.113.7"},
		{"RFC 7239", behind, proxy, []string{"for=203.0.113.7"}, none},
		{"quoted", behind, proxy, []string{`"203.0.113.7"`}, none},
		{"semicolons", behind, proxy, []string{"203.0.113.7; 10.0.0.2"}, none},
		{"host name", behind, proxy, []string{"shop.example"}, none},
		{"leading zeros", behind, proxy, []string{"203.0.113.007"}, none},
		{"hexadecimal", behind, proxy, []string{"0xcb007107"}, none},
		{"three numbers", behind, proxy, []string{"203.0.113"}, none},
		{"prefix", behind, proxy, []string{"203.0.113.7/32"}, none},
		{"bad port", behind, proxy, []string{"203.0.113.7:http"}, none},
		{"big port", behind, proxy, []string{"203.0.113.7:65536"}, none},
		{"no port", behind, proxy, []string{"203.0.113.7:"}, none},
		{"open bracket", behind, proxy, []string{"[2001:db8::7"}, none},
		{"NUL", behind, proxy, []string{"203.0.113.7\x00"}, none},
		{"inner space", behind, proxy, []string{"203.0.113.7 6.6.6.6"}, none},
		{"endless zone", behind, proxy, []string{"fe80::1%" + strings.Repeat("z", 1<<16)}, none},
		{"endless proxies", behind, proxy, []string{"203.0.113.7" + strings.Repeat(", 10.0.0.2", 100_000)}, none},
		{"endless garbage", behind, proxy, []string{strings.Repeat(",", 1<<20)}, none},
	} {
		t.Run(c.name, func(t *testing.T) {
			var accepted []string
			for addr, issued := range keys {
				r := get("Authorization", bearer(issued))
				r.RemoteAddr = c.remote
				r.Header["X-Forwarded-For"] = c.lines
				if c.guard == fly {
					r.Header = http.Header{"Authorization": {bearer(issued)}, "Fly-Client-Ip": c.lines, "X-Forwarded-For": {"6.6.6.6"}}
				}
				_, err := c.guard.Check(r)
				if err == nil {
					accepted = append(accepted, addr)
				} else {
					require.ErrorIs(t, err, apikey.ErrAddr)
				}
			}
			if c.want == none {
				require.Empty(t, accepted)
			} else {
				require.Equal(t, []string{c.want}, accepted)
			}
		})
	}
}

// A key without networks needs no address.
func TestUnknownAddr(t *testing.T) {
	e := newEnv(t)
	r := get("Authorization", bearer(e.issue()))
	r.RemoteAddr = "@"
	_, err := e.guard(httpauth.Config{}).Check(r)
	require.NoError(t, err)
}
