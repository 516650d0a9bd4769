package httpauth

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-apikey/apikey"
)

// An Extractor finds the key in one request header. It gets that header's value and
// nothing else, so no Extractor can read the query string, which ends up in logs,
// histories and Referer headers. [Bearer], [Basic] and [Header] ship.
//
// An Extractor that reads a scheme of the Authorization header (RFC 9110 §11.6.2)
// should also have a method Scheme() string, which returns that scheme: a 401 then
// names it. Without that method a 401 names the header.
type Extractor interface {
	// Header returns the name of the header. The Guard refuses a request that has this
	// header twice, and hides the header from handlers.
	Header() string
	// Extract returns the key in value. value is not empty and has no space around it,
	// but may be as long as the server lets headers be. If value has another form
	// (another scheme), Extract returns "" and no error, and the header counts as
	// absent. If value has the form but is broken, Extract returns an error, whose text
	// is shown to nobody.
	Extract(value string) (token string, err error)
}

// Errors that [Guard.Check] returns in addition to those of package apikey.
var (
	// ErrNoCredentials: the request has no key, or only credentials of schemes that no
	// Extractor reads. It wraps apikey.ErrUnauthenticated.
	ErrNoCredentials = fmt.Errorf("%w: no credentials in the request", apikey.ErrUnauthenticated)
	// ErrMalformed: the request has two keys, one header twice, or a text that cannot
	// be a key. No key was looked up.
	ErrMalformed = errors.New("apikey: malformed credentials")
)

// malformed is an ErrMalformed that says what is wrong. It goes to the client,
// so it is fixed text and never holds a part of what was presented.
type malformed string

func (m malformed) Error() string { return ErrMalformed.Error() + ": " + string(m) }

func (malformed) Unwrap() error { return ErrMalformed }

// maxCredential bounds what is looked at: as long as a large JWT, so that who
// presents one by mistake learns that it is an invalid token.
const maxCredential = 8 << 10

// source is a header and who reads it.
type source struct {
	header     string // canonical
	extractors []Extractor
}

// challengesOf returns what a 401 says of each way to present a key, in the order of
// the extractors. A header of the program's own belongs to no registered scheme; RFC
// 9110 §11.6.1 wants a challenge all the same, so it is named under ApiKey, which
// clients that look for Basic or Bearer pass over.
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
		if !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return list
}

// challenge is one line of WWW-Authenticate.
type challenge struct{ scheme, text string }

// sourcesOf groups extractors, of which several may read one header.
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

// credential returns the one key that the request presents. All headers are
// looked at, also after a find: of two keys, a proxy in front may have checked
// the other one.
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

// credential returns the key in a header's values, "" if none of the
// extractors knows their form.
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

// broken is what is said of an Extractor's error: ours are fixed text, and one
// of the program's may quote the key.
func (s source) broken(err error) error {
	var ours malformed
	if errors.As(err, &ours) {
		return ours
	}
	return malformed("the " + s.header + " header cannot be read")
}

// wellFormed reports whether s can be a credential at all: visible ASCII
// without a comma. What two headers look like after a proxy has joined them
// has one, and a value that was split or folded has a space or worse.
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

// afterScheme returns what follows an authentication scheme, whose case does
// not matter and which any number of spaces follow (RFC 9110 §11.4); false if
// the value is of another scheme.
func afterScheme(value, scheme string) (string, bool) {
	end := strings.IndexAny(value, " \t")
	if end < 0 {
		end = len(value)
	}
	// Equal lengths: EqualFold alone takes "Baſic" too.
	if end != len(scheme) || !strings.EqualFold(value[:end], scheme) {
		return "", false
	}
	return strings.TrimLeft(value[end:], " "), true
}

// headerName returns the form of a header's name that net/http keeps. It
// panics on what can never arrive.
func headerName(name string) string {
	canonical := http.CanonicalHeaderKey(name)
	if !isToken(name) || canonical == "Host" { // which net/http moves to Request.Host
		panic(fmt.Sprintf("httpauth: %q cannot be a request header here", name))
	}
	return canonical
}

// isToken reports whether s is a token of RFC 9110 §5.6.2, which names of headers and
// of authentication schemes are.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}
