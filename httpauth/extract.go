package httpauth

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-apikey/apikey"
)

// An Extractor finds the key in one request header. It gets only the value of this header,
// so no Extractor can read the query string: query strings end up in logs, browser
// histories and Referer headers. This package has [Bearer], [Basic], [Scheme] and [Header].
//
// An Extractor that reads a scheme of the Authorization header (RFC 9110 §11.6.2) should
// also have a method Scheme() string that returns the scheme. The WWW-Authenticate header
// of a 401 then names the scheme, otherwise the header.
type Extractor interface {
	// Header returns the name of the header. The Guard refuses a request that has this
	// header twice, and removes the header before the handler runs.
	Header() string
	// Extract returns the key in value. value is not empty and has no space around it,
	// but may be as long as the server allows for headers. If value has another form
	// (for example another scheme), Extract returns "" and no error, and the header
	// counts as absent. If value has the right form but is broken, Extract returns an
	// error. The Guard does not show the text of this error to anybody.
	Extract(value string) (token string, err error)
}

// Errors that [Guard.Check] returns in addition to those of package apikey.
var (
	// ErrNoCredentials means that the request has no key, or only credentials of schemes
	// that no Extractor reads. ErrNoCredentials wraps apikey.ErrUnauthenticated.
	ErrNoCredentials = fmt.Errorf("%w: no credentials in the request", apikey.ErrUnauthenticated)
	// ErrMalformed means that the request has two keys, one header twice, or a text that
	// cannot be a key. No key was looked up.
	ErrMalformed = errors.New("apikey: malformed credentials")
)

// malformed is an ErrMalformed that says what is wrong. It is sent to the client, so it is
// fixed text and never contains a part of the request's credentials.
type malformed string

func (m malformed) Error() string { return ErrMalformed.Error() + ": " + string(m) }

func (malformed) Unwrap() error { return ErrMalformed }

// maxCredential is the greatest length of a credential. It is the length of a large JWT: a
// client that sends a JWT by mistake is told that the token is invalid.
const maxCredential = 8 << 10

// source is a header and the Extractors that read it.
type source struct {
	header     string // canonical
	extractors []Extractor
}

// challengesOf returns the challenges of a 401, in the order of the extractors: one for
// each way to send a key. A header that the program has chosen belongs to no registered
// scheme, but RFC 9110 §11.6.1 requires a challenge. It gets one with the scheme ApiKey;
// clients that look for Basic or Bearer ignore it.
func challengesOf(extractors []Extractor, realm string) (list []challenge) {
	for _, e := range extractors {
		c := challenge{"ApiKey", "ApiKey realm=" + quoted(realm) + ", header=" + quoted(headerName(e.Header()))}
		if s, ok := e.(interface{ Scheme() string }); ok {
			scheme := s.Scheme()
			if !isToken(scheme) {
				panic(fmt.Sprintf("httpauth: %q cannot be an authentication scheme", scheme))
			}
			c = challenge{scheme, scheme + " realm=" + quoted(realm)}
		}
		if c.scheme == "Basic" {
			c.text += `, charset="UTF-8"` // RFC 7617 §2.1
		}
		// A scheme's name in two spellings is one scheme.
		if !slices.ContainsFunc(list, func(o challenge) bool { return strings.EqualFold(o.text, c.text) }) {
			list = append(list, c)
		}
	}
	return list
}

// challenge is a WWW-Authenticate header: its scheme and its whole text.
type challenge struct{ scheme, text string }

// sourcesOf groups the extractors by header. Several extractors may read the same header.
func sourcesOf(extractors []Extractor) (sources []source) {
	for _, e := range extractors {
		if e == nil {
			panic("httpauth: Config.Extractors has a nil")
		}
		name := headerName(e.Header())
		i := slices.IndexFunc(sources, func(s source) bool { return s.header == name })
		if i < 0 {
			i, sources = len(sources), append(sources, source{header: name})
		}
		sources[i].extractors = append(sources[i].extractors, e)
	}
	return sources
}

// credential returns the key that the request presents. It reads all headers, even after
// it has found a key, so that it refuses a request with two keys: a proxy before the
// server may have checked the other key.
func (g *Guard) credential(h http.Header) (string, error) {
	found := ""
	for _, s := range g.sources {
		token, err := s.credential(h[s.header])
		switch {
		case err != nil:
			return "", err
		case token != "" && found != "":
			return "", malformed("the request presents two keys")
		case token != "":
			found = token
		}
	}
	if found == "" {
		return "", ErrNoCredentials
	}
	return found, nil
}

// credential returns the key in the values of a header. It returns "" if no extractor
// knows their form.
func (s source) credential(values []string) (string, error) {
	if len(values) == 0 {
		return "", nil
	}
	value := strings.Trim(values[0], " \t")
	switch {
	case len(values) > 1:
		return "", malformed("the " + s.header + " header is repeated")
	case value == "":
		return "", malformed("the " + s.header + " header is empty")
	}
	for _, e := range s.extractors {
		token, err := e.Extract(value)
		switch {
		case err != nil:
			return "", s.broken(err)
		case token == "":
			continue
		case !wellFormed(token):
			return "", malformed("the " + s.header + " header holds what no key is made of")
		}
		return token, nil
	}
	return "", nil
}

// broken returns the error to show for an Extractor's error. Errors of this package are
// fixed text; an error of the program's own Extractor may quote the key, so it is replaced.
func (s source) broken(err error) error {
	var ours malformed
	if errors.As(err, &ours) {
		return ours
	}
	return malformed("the " + s.header + " header cannot be read")
}

// wellFormed reports whether s can be a credential: visible ASCII without a comma. If a
// proxy has joined two headers, the value has a comma. If a value was split or folded, it
// has a space or a control character.
func wellFormed(s string) bool {
	if s == "" || len(s) > maxCredential {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == ',' {
			return false
		}
	}
	return true
}

// afterScheme returns the text after an authentication scheme and the spaces that follow
// it, and true. It ignores the scheme's case (RFC 9110 §11.4). It returns false if value
// has another scheme.
func afterScheme(value, scheme string) (string, bool) {
	end := strings.IndexAny(value, " \t")
	if end < 0 {
		end = len(value)
	}
	// Compare the lengths too: EqualFold alone would accept "Baſic".
	if end != len(scheme) || !strings.EqualFold(value[:end], scheme) {
		return "", false
	}
	return strings.TrimLeft(value[end:], " "), true
}

// headerName returns a header's name in the form that net/http uses. It panics if no
// request can have such a header.
func headerName(name string) string {
	canonical := http.CanonicalHeaderKey(name)
	if !isToken(name) || canonical == "Host" { // net/http moves Host to Request.Host
		panic(fmt.Sprintf("httpauth: %q cannot be a request header here", name))
	}
	return canonical
}

// isToken reports whether s is a token of RFC 9110 §5.6.2. Names of headers and of
// authentication schemes have to be tokens.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}
