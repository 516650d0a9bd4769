// Package requestid names HTTP requests, so that support finds the log line of an answer.
package requestid

import (
	"crypto/rand"
	"strings"
)

// Of returns the value of a request's X-Request-ID header, or a random ID. The header is
// used only if it cannot break the format of a log and is shorter than any token: if a
// client sends its API key in this header, the key must not get into the log or the answer.
func Of(header string) string {
	if header == "" || len(header) > 64 || strings.ContainsFunc(header, func(c rune) bool { return !plain(c) }) {
		return rand.Text()
	}
	return header
}

func plain(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.:/+=", c)
}
