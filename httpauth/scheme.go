package httpauth

import (
	"fmt"
	"strings"
)

// Bearer returns an Extractor for "Authorization: Bearer <key>" (RFC 6750 §2.1).
func Bearer() Extractor { return scheme("Bearer") }

// Scheme returns an Extractor for "Authorization: <name> <key>", for clients that send "Api-Key <key>" or
// "Token <key>". A request may write the name in any case; a 401 names it as it is
// given here. Everything else is read as [Bearer] reads it.
//
// Scheme panics if name cannot be the name of a scheme (RFC 9110 §11.1), and on names
// that have a meaning of their own: "Basic" and "Bearer" have their Extractors, and to
// a 401 that names "Digest", "Negotiate" or "NTLM" a browser answers by itself, with a
// password of its user.
func Scheme(name string) Extractor {
	if !isToken(name) {
		panic(fmt.Sprintf("httpauth: %q cannot be an authentication scheme", name))
	}
	if why, taken := takenSchemes[strings.ToLower(name)]; taken {
		panic(fmt.Sprintf("httpauth: Scheme(%q): %s", name, why))
	}
	return scheme(name)
}

var takenSchemes = map[string]string{
	"basic":     "use Basic(), which reads the key out of base64",
	"bearer":    "use Bearer()",
	"digest":    byBrowsers,
	"negotiate": byBrowsers,
	"ntlm":      byBrowsers,
}

const byBrowsers = "browsers answer this scheme by themselves: choose another name, such as Api-Key"

// scheme is one whose credentials are the key and nothing else.
type scheme string

func (scheme) Header() string { return "Authorization" }

func (s scheme) Scheme() string { return string(s) }

func (s scheme) Extract(value string) (string, error) {
	token, mine := afterScheme(value, string(s))
	if mine && token == "" {
		return "", malformed("nothing follows " + string(s))
	}
	return token, nil
}
