package apikey

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Times that are computed have the same bounds as times that are given: the years
// that RFC 3339 can write. encoding/json refuses any other year. One such time would
// keep a whole list of keys from being written.
var (
	firstInstant = time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC) // the zero time means none
	lastInstant  = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
)

// micros brings a time to the precision that every engine keeps: UTC, whole
// microseconds, truncated. No other function does this.
func micros(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}

// notTooFar refuses a time after the year 9999, whether a caller gave the time or it
// was computed from what a caller gave.
func notTooFar(field, what string, t time.Time) error {
	if t.After(lastInstant) {
		return wrong(field, InvalidTooLate, "%s is after the year 9999: choose an earlier time", what)
	}
	return nil
}

// shownTime returns a stored time as it is shown. An earlier version, or somebody who
// writes to the database, may have stored a time that no JSON can hold.
func shownTime(t time.Time) time.Time {
	switch {
	case t.IsZero():
		return time.Time{}
	case t.After(lastInstant):
		return lastInstant
	case t.Before(firstInstant):
		return firstInstant
	}
	return t
}

// monthsAfter adds months as a calendar does: a month after 31 January is the
// last day of February. time.AddDate would make it a day in March. The result may be
// beyond the year 9999: see shownTime and boundTimes.
func monthsAfter(t time.Time, months int) time.Time {
	t = micros(t)
	year, month, day := t.Date()
	first := time.Date(year, month+time.Month(months), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(day, last)-1)
}

// canonicalOrigin writes a web origin in the one form that browsers send (RFC 6454
// §6.2; https://url.spec.whatwg.org/#host-parsing): lower case, no default port, an
// IPv4 address with four numbers, an IPv6 address as RFC 5952 writes it. An origin that
// no browser sends becomes "", which no key lists. "null" becomes "" too: sandboxed
// pages and files send it, and it identifies no page.
//
// Schemes other than http and https are those of extensions and of apps whose pages are
// in a WebView: chrome-extension://…, capacitor://localhost.
func canonicalOrigin(s string) string {
	if len(s) > 300 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	scheme, rest, _ := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	host, port, ok := cutPort(strings.ToLower(rest))
	if !ok || !isScheme(scheme) || slices.Contains(opaqueSchemes, scheme) {
		return ""
	}
	web := scheme == "http" || scheme == "https"
	switch {
	case web && strings.HasPrefix(host, "["):
		host = ipv6Host(host)
	case !isHost(host):
		return ""
	case web && endsInNumber(host): // then the host is an IPv4 address or invalid
		host = ipv4Host(strings.TrimSuffix(host, "."))
	}
	if port == "80" && scheme == "http" || port == "443" && scheme == "https" {
		port = ""
	}
	switch {
	case host == "":
		return ""
	case port != "":
		host += ":" + port
	}
	return scheme + "://" + host
}

// opaqueSchemes belong to no page, or to pages whose origin is sent as "null".
var opaqueSchemes = []string{"about", "blob", "data", "file", "filesystem", "ftp", "javascript", "mailto", "view-source", "vbscript", "ws", "wss"}

// isScheme follows RFC 3986 §3.1, in lower case.
func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return s != ""
}

// cutPort splits host and port, and writes the port without leading zeros. "host:" is
// no origin.
func cutPort(s string) (host, port string, ok bool) {
	at := strings.LastIndexByte(s, ':')
	if at < 0 || strings.HasSuffix(s, "]") {
		return s, "", true
	}
	digits := s[at+1:]
	n, err := strconv.ParseUint(strings.TrimLeft(digits[:max(len(digits)-1, 0)], "0")+digits[max(len(digits)-1, 0):], 10, 16)
	if err != nil {
		return "", "", false
	}
	return s[:at], strconv.FormatUint(n, 10), true
}

// isHost accepts the names that DNS can have, also with underscores and with a dot at
// the end. The standard lets browsers send some more characters, which no name has. A
// label that begins with xn-- must have an encoded part.
func isHost(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
		if code, encoded := strings.CutPrefix(label, "xn--"); encoded && (code == "" || strings.HasSuffix(code, "-")) {
			return false
		}
	}
	return true
}

// endsInNumber is the standard's ends-in-a-number checker.
func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if strings.Trim(last, "0123456789") == "" {
		return last != ""
	}
	_, ok := ipv4Number(last)
	return ok
}

// ipv4Host is the standard's IPv4 parser: one to four numbers, each decimal, octal or
// hexadecimal. The last number fills the bytes that are left. If the host is invalid,
// the result is "".
func ipv4Host(host string) string {
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return ""
	}
	var sum uint64
	for i, part := range parts {
		n, ok := ipv4Number(part)
		last := i == len(parts)-1
		switch {
		case !ok, !last && n > 255, last && n >= 1<<(8*(4-i)):
			return ""
		case last:
			sum += n
		default:
			sum += n << (8 * (3 - i))
		}
	}
	return netip.AddrFrom4([4]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}).String()
}

// ipv4Number reads one number of an IPv4 address; false if it is none.
func ipv4Number(s string) (uint64, bool) {
	base := 10
	switch {
	case s == "":
		return 0, false
	case strings.HasPrefix(s, "0x"):
		base, s = 16, s[2:]
	case s[0] == '0' && len(s) > 1:
		base, s = 8, s[1:]
	}
	if s == "" { // "0x"
		return 0, true
	}
	if strings.ContainsAny(s, "+-_") {
		return 0, false
	}
	n, err := strconv.ParseUint(s, base, 64)
	if err != nil && !isRange(err) {
		return 0, false
	}
	return n, true // a number out of range is far beyond 2³²
}

func isRange(err error) bool {
	num, is := err.(*strconv.NumError)
	return is && num.Err == strconv.ErrRange
}

// ipv6Host is the standard's IPv6 parser and serializer: no zone, and no IPv4 part.
func ipv6Host(host string) string {
	inner, closed := strings.CutSuffix(host[1:], "]")
	addr, err := netip.ParseAddr(inner)
	if !closed || err != nil || !addr.Is6() || addr.Zone() != "" {
		return ""
	}
	if addr.Is4In6() { // netip writes the end of these as an IPv4 address
		b := addr.As16()
		hex := func(i int) string { return strconv.FormatUint(uint64(b[i])<<8|uint64(b[i+1]), 16) }
		return "[::ffff:" + hex(12) + ":" + hex(14) + "]"
	}
	return "[" + addr.String() + "]"
}
