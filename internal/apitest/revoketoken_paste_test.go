package apitest

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// An IPv6 address may carry a zone, and an IPv4 one may come mapped into IPv6. Both
// are the address without it, for whoever calls Verify as for httpauth.
func TestFound24ZonesAndMappedAddresses(t *testing.T) {
	e := newEnv(t)
	key := e.issue(func(r *apikey.IssueRequest) {
		r.Networks = []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	})
	for addr, want := range map[string]error{
		"fe80::1":               nil,
		"fe80::1%eth0":          nil,
		"2001:db8::7%wlan0":     nil,
		"192.0.2.7":             nil,
		"::ffff:192.0.2.7":      nil,
		"::ffff:192.0.2.7%eth0": nil,
		"2001:db9::7%eth0":      apikey.ErrAddr,
		"::ffff:192.0.3.7%eth0": apikey.ErrAddr,
	} {
		for _, warm := range []bool{false, true} {
			_, err := e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{Addr: netip.MustParseAddr(addr)})
			require.ErrorIs(t, err, want, "%s, warm: %v", addr, warm)
		}
	}
	_, err := e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{})
	require.ErrorIs(t, err, apikey.ErrAddr, "no address is no address, with or without a zone")
}

// Whoever reports a leak copies it out of a log, a mail or a header.
func TestFound24APastedTokenIsRevoked(t *testing.T) {
	for name, paste := range map[string]func(string) string{
		"a newline":            func(s string) string { return s + "\n" },
		"spaces":               func(s string) string { return "  " + s + "\t " },
		"CRLF":                 func(s string) string { return s + "\r\n" },
		"no-break space":       func(s string) string { return "\u00a0" + s + "\u00a0" },
		"a scheme":             func(s string) string { return "Bearer " + s },
		"a scheme, lower case": func(s string) string { return "bearer  " + s + "\n" },
		"a header":             func(s string) string { return "Authorization: Bearer " + s },
		"another header":       func(s string) string { return "X-API-Key: " + s + "\r\nAccept: */*" },
		"an .env file":         func(s string) string { return "DB=x\nACME_KEY=\"" + s + "\"\nDEBUG=1" },
		"JSON":                 func(s string) string { return `{"key":"` + s + `","n":1}` },
		"curl":                 func(s string) string { return "curl -u " + s + ": https://api.example/v1" },
		"quotes and a stop":    func(s string) string { return "“" + s + "”." },
		"byte order mark":      func(s string) string { return "\ufeff" + s },
		"zero-width space":     func(s string) string { return s[:40] + "\u200b" + s[40:] },
		"wrapped by a mail":    func(s string) string { return s[:60] + "\r\n" + s[60:] },
		"quoted by a mail":     func(s string) string { return "found this:\n> " + s + "\n> regards" },
		"twice":                func(s string) string { return s + "\n" + s },
		"words around it":      func(s string) string { return "acme_sk_live_ is the prefix, and " + s + " the key" },
		"glued to a word":      func(s string) string { return "key=" + s + "and so on" },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			key, other := e.issue(), e.issue()
			require.NoError(t, e.verify(key.Token))
			require.NoError(t, e.manager.RevokeToken(background, paste(key.Token.Reveal()), apikey.ReasonCompromised))
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrCredentialEnded)
			require.NoError(t, e.verify(other.Token))
			_, err := e.verifier.Verify(background, paste(key.Token.Reveal()), apikey.Request{})
			require.ErrorIs(t, err, apikey.ErrInvalidToken, "a program that presents a token has to know where it ends")
		})
	}
}

// What a paste must not become: one of several tokens picked by chance, a way to
// make the process work on megabytes, or a token that nobody holds.
func TestFound24WhatIsNoPaste(t *testing.T) {
	e := newEnv(t)
	key, other := e.issue(), e.issue()
	a, b := key.Token.Reveal(), other.Token.Reveal()
	err := e.manager.RevokeToken(background, a+"\n"+b, "")
	require.ErrorIs(t, err, apikey.ErrInvalid, "which of both was meant?")
	require.NotContains(t, err.Error(), a[len(a)-40:])
	for name, text := range map[string]string{
		"a hint":         key.Token.String(),
		"cut":            a[:len(a)-1],
		"a typo":         strings.Replace(a, a[50:51], string(a[50]^1), 1),
		"a letter extra": a[:60] + "x" + a[60:],
		"too long":       strings.Repeat(" ", 1<<20) + a,
		"heads alone":    strings.Repeat("acme_sk_live_", 600),
	} {
		begin := time.Now()
		require.EqualError(t, e.manager.RevokeToken(background, text, ""), apikey.ErrInvalidToken.Error(), name)
		require.Less(t, time.Since(begin), time.Second, name)
	}
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.verify(other.Token))
}
