package httpauth_test

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey/httpauth"
)

// TestWire sends bytes that no client library sends. The server refuses some of the
// requests before they reach the Guard. None may reach the handler without a complete key
// in exactly one header.
func TestWire(t *testing.T) {
	e := newEnv(t)
	token := e.issue().Token.Reveal()
	h, ran := e.ok()
	guard := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Bearer(), httpauth.Basic(), httpauth.Header("X-API-Key")}})
	server := httptest.NewServer(guard.Require()(h))
	defer server.Close()

	for _, c := range []struct {
		name   string
		line   string // request line; empty: GET / HTTP/1.1
		fields string // joined with CR LF
		status int
	}{
		{"plain", "", "Authorization: Bearer " + token, 200},
		{"lower case", "", "authorization: bearer " + token, 200},
		{"trailing space", "", "Authorization: Bearer " + token + "  \t", 200},
		{"HTTP/1.0", "GET / HTTP/1.0", "Authorization: Bearer " + token, 200},
		{"CONNECT", "CONNECT shop.example:443 HTTP/1.1", "X-Other: 1", 401},
		{"OPTIONS *", "OPTIONS * HTTP/1.1", "X-API-Key: x", 200}, // net/http answers this itself
		{"TRACE", "TRACE / HTTP/1.1", "X-Other: 1", 401},
		{"FOO", "FOO / HTTP/1.1", "X-Other: 1", 401},
		{"absolute form with a user", "GET http://" + token + ":@shop.example/ HTTP/1.1", "X-Other: 1", 401},
		{"query", "GET /?access_token=" + token + " HTTP/1.1", "X-Other: 1", 401},
		{"twice", "", "Authorization: Bearer " + token + "\r\nAuthorization: Bearer " + token, 400},
		{"twice, in two cases", "", "X-API-Key: " + token + "\r\nx-api-key: " + token, 400},
		{"two headers", "", "X-API-Key: " + token + "\r\nAuthorization: Bearer " + token, 400},
		{"empty", "", "Authorization:", 400},
		{"empty, then one", "", "Authorization:\r\nAuthorization: Bearer " + token, 400},
		{"NUL", "", "Authorization: Bearer " + token + "\x00", 400},
		{"NUL first", "", "Authorization: \x00Bearer " + token, 400},
		{"bare CR", "", "Authorization: Bearer " + token + "\rX", 400},
		{"bare LF splits", "", "X-Other: 1\nAuthorization: Bearer x", 401},
		{"folded", "", "Authorization: Bearer\r\n " + token + "\r\n x", 400},
		{"latin-1", "", "Authorization: Bearer " + token + "\xe9", 400},
		{"space before the colon", "", "Authorization : Bearer " + token, 400},
		{"underscore", "", "X_API_Key: " + token, 401},
		{"long", "", "Authorization: Bearer " + strings.Repeat("a", 500_000), 400},
		{"too long for the server", "", "Authorization: Bearer " + strings.Repeat("a", 2<<20), 431},
		{"in a trailer", "POST / HTTP/1.1", "Trailer: Authorization\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer " + token, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := *ran
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
			line := c.line
			if line == "" {
				line = "GET / HTTP/1.1"
			}
			// The server may close the connection before everything is written.
			go conn.Write([]byte(line + "\r\nHost: shop.example\r\nConnection: close\r\n" + c.fields + "\r\n\r\n"))
			method, _, _ := strings.Cut(line, " ")
			resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
			require.NoError(t, err)
			got := e.read(resp)
			require.Equal(t, c.status, got.StatusCode, got.body)
			require.Equal(t, c.status == 200 && !strings.HasPrefix(line, "OPTIONS *"), *ran > before)
		})
	}
}
