package apikey

import (
	"net/url"
	"strings"
)

// canonicalOrigin writes a web origin (RFC 6454) in its one form: lower case,
// no default port. What is not an origin becomes "", which no key lists: "null",
// which sandboxed pages and files send, is nobody's origin.
func canonicalOrigin(s string) string {
	if len(s) > 300 {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Hostname() == "" || strings.HasSuffix(u.Host, ":") ||
		u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(s, "#") {
		return ""
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch scheme {
	case "http":
		host = strings.TrimSuffix(host, ":80")
	case "https":
		host = strings.TrimSuffix(host, ":443")
	}
	if !strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || r == '*' || r == ',' }) {
		return scheme + "://" + host
	}
	return ""
}
