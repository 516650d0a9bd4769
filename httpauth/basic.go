package httpauth

import (
	"encoding/base64"
	"strings"
)

// Basic returns an Extractor for "Authorization: Basic <base64 of key:>" (RFC 7617),
// which "curl -u key:" sends: the key is the user name and the password is empty. A
// request with a password is refused, because its sender takes the key for something
// else.
func Basic() Extractor { return basic{} }

type basic struct{}

func (basic) Header() string { return "Authorization" }

func (basic) Scheme() string { return "Basic" }

func (basic) Extract(value string) (string, error) {
	encoded, mine := afterScheme(value, "Basic")
	if !mine {
		return "", nil
	}
	if !wellFormed(encoded) { // checks the length too, before decoding
		return "", malformed("no base64 follows Basic")
	}
	pair, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return "", malformed("no base64 follows Basic")
	}
	user, password, colon := strings.Cut(string(pair), ":")
	switch {
	case !colon || user == "":
		return "", malformed("the key is the user name of Basic, before a colon")
	case password != "":
		return "", malformed("the key is the user name of Basic, and the password stays empty")
	}
	return user, nil
}
