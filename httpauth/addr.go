package httpauth

import (
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

const (
	// maxHops bounds how many trusted entries are walked: one who sits inside a
	// trusted network could send a megabyte of them.
	maxHops = 32
	// maxAddr bounds an entry; an IPv6 zone has no length of its own.
	maxAddr = 100
)

// The least prefixes of trusted proxies: 10.0.0.0/8 and fc00::/7 (RFC 4193) are the
// largest private networks. Two networks of /1 are as good as one of /0.
const (
	minBits4 = 8
	minBits6 = 7
	// A registry of the Internet has a /12 (2600::/12 is ARIN's), so /7 of those is
	// a large part of all networks.
	publicBits6 = 16
)

// validProxies finds what would make anybody's header believed, or nobody's.
func (c *Config) validProxies() error {
	for _, p := range c.TrustedProxies {
		switch {
		case !p.IsValid() || p.Addr().Is4In6():
			return fmt.Errorf("TrustedProxies: %v matches nothing: write 10.0.0.0/8 or fd00::/8", p)
		case p.Addr().Is4() && p.Bits() < minBits4, p.Addr().Is6() && p.Bits() < minBits6,
			p.Addr().Is6() && p.Bits() < publicBits6 && !p.Addr().IsPrivate() && !p.Addr().IsLinkLocalUnicast():
			return fmt.Errorf("TrustedProxies: %v holds more of the Internet than anybody's proxies, and whoever is in it names their own address: list your proxies' networks, or set TrustedHops behind a platform's", p)
		}
	}
	switch {
	case c.TrustedHops < 0 || c.TrustedHops > maxHops:
		return fmt.Errorf("TrustedHops is %d: want 1 to %d, or 0 for TrustedProxies", c.TrustedHops, maxHops)
	case len(c.TrustedProxies) > 0 && c.ForwardedHeader == "":
		return fmt.Errorf("TrustedProxies needs the ForwardedHeader in which the proxies name the client: without it every client has the proxy's address")
	case c.TrustedHops > 0 && c.ForwardedHeader == "":
		return fmt.Errorf("TrustedHops needs the ForwardedHeader to which the proxies append")
	case c.TrustedHops > 0 && len(c.TrustedProxies) > 0:
		return fmt.Errorf("TrustedHops and TrustedProxies exclude each other: set the one that is true")
	}
	return nil
}

// clientAddr returns who sent the request: the connection's address, or, if
// that is a trusted proxy's, the last entry of the forwarded header that is
// not. What stands further left is what the client itself claims. When all
// entries are trusted, it is the first: a proxy's neighbour who asked through
// it.
//
// The zero Addr says that nobody knows, and the Verifier refuses it for keys
// with networks: a missing or unreadable entry must never turn into the
// address of the proxy, which such a list may well hold.
func (g *Guard) clientAddr(r *http.Request) netip.Addr {
	if g.cfg.TrustedHops > 0 {
		return g.hopAddr(r.Header[g.cfg.ForwardedHeader])
	}
	addr := parseAddr(r.RemoteAddr)
	if g.cfg.ForwardedHeader == "" || !g.trusts(addr) {
		return addr
	}
	addr = netip.Addr{}
	hops := 0
	for entry := range fromRight(r.Header[g.cfg.ForwardedHeader]) {
		if hops++; hops > maxHops {
			return netip.Addr{}
		}
		if addr = parseAddr(entry); !g.trusts(addr) {
			break
		}
	}
	return addr
}

// hopAddr returns the entry that the outermost of TrustedHops proxies has appended.
// A list that is shorter did not come through all of them.
func (g *Guard) hopAddr(lines []string) netip.Addr {
	hops := 0
	for entry := range fromRight(lines) {
		if hops++; hops == g.cfg.TrustedHops {
			return parseAddr(entry)
		}
	}
	return netip.Addr{}
}

func (g *Guard) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(g.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// fromRight yields the entries of a list header from the last to the first.
// Several lines are one list, in their order (RFC 9110 §5.3).
func fromRight(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range slices.Backward(lines) {
			for more := true; more; {
				cut := strings.LastIndexByte(line, ',')
				entry := strings.Trim(line[cut+1:], " \t")
				line, more = line[:max(cut, 0)], cut >= 0
				if !yield(entry) {
					return
				}
			}
		}
	}
}

// parseAddr reads an address, with or without port and brackets. A zone is
// dropped, because no network contains an address with one, and 4-in-6 is the
// IPv4 address that it stands for. What cannot be read is the zero Addr.
func parseAddr(s string) netip.Addr {
	var addr netip.Addr
	bracket := strings.HasPrefix(s, "[")
	switch {
	case len(s) > maxAddr:
	case bracket && strings.HasSuffix(s, "]"):
		addr, _ = netip.ParseAddr(s[1 : len(s)-1])
	case bracket || strings.Count(s, ":") == 1:
		withPort, _ := netip.ParseAddrPort(s)
		addr = withPort.Addr()
	default:
		addr, _ = netip.ParseAddr(s)
	}
	return addr.WithZone("").Unmap()
}
