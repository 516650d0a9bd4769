// Package requestid names HTTP requests, so that support finds the log line of an answer.
package requestid

import (
	"crypto/rand"
	"net/http"
	"strings"
)

// Of returns the X-Request-ID header of a request, or a random ID. The header is used only
// if it cannot break a log's format and is shorter than any token: if a client sends its
// key in this header, the key must not get into the log and the answer.
func Of(h http.Header) string {
	id := h.Get("X-Request-ID")
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return !plain(c) }) {
		return rand.Text()
	}
	return id
}

func plain(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.:/+=", c)
}
