package httpauth

import (
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
