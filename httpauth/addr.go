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
	// maxHops bounds the number of trusted entries that are read: a client inside a
	// trusted network could send a megabyte of them.
	maxHops = 32
	// maxAddr bounds the length of an entry, because an IPv6 zone may have any length.
	maxAddr = 100
)

// The shortest prefixes that TrustedProxies may have. The largest private networks are
// 10.0.0.0/8 and fc00::/7 (RFC 4193). To refuse only /0 would not help: two /1 networks
// contain the same addresses.
const (
	minBits4 = 8
	minBits6 = 7
	// Public IPv6 networks need a longer prefix: a regional Internet registry has a /12
	// (2600::/12 is ARIN's), so a public /7 would be a large part of all networks.
	publicBits6 = 16
)

// validProxies refuses settings with which the forwarded header would be trusted from any
// client, or from none.
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

// clientAddr returns the address of the client. That is the connection's address. If this
// is the address of a trusted proxy, it is the last entry of the forwarded header that is
// not a trusted proxy. Entries further left are only claimed by the client. If all entries
// are trusted proxies, the client is the first entry: a machine in the proxies' network
// that sent its request through a proxy.
//
// The zero Addr means that the address is unknown. The Verifier then refuses keys that
// are bound to networks. A missing or unreadable entry must never count as the address of
// the proxy, because a key's networks may contain that address.
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

// hopAddr returns the entry that the outermost of the TrustedHops proxies has appended.
// If there are fewer entries, the request did not come through all of these proxies, and
// hopAddr returns the zero Addr.
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

// fromRight yields the entries of a list header, from the last to the first. Several lines
// of one header are one list, in their order (RFC 9110 §5.3).
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

// parseAddr reads an address, with or without a port and brackets. It removes a zone,
// because no network contains an address with a zone. An IPv4-mapped IPv6 address becomes
// the IPv4 address. If s cannot be read, parseAddr returns the zero Addr.
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
