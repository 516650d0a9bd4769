package httpauth_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey/httpauth"
)

func basicAuth(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }

// For each header value: is it a key, malformed, or none? Only a request with exactly one
// well-formed key is looked up.
func TestCredentials(t *testing.T) {
	e := newEnv(t)
	token := e.issue().Token.Reveal()
	guard := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{
		httpauth.Bearer(), httpauth.Basic(), httpauth.Header("X-API-Key"), httpauth.Header("RT-UDDOKTAPAY-API-KEY"),
	}})
	narrow := e.guard(httpauth.Config{})
	bearerOnly := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Bearer()}})
	type header = map[string][]string
	auth := func(values ...string) header { return header{"Authorization": values} }
	key := func(values ...string) header { return header{"X-Api-Key": values} }
	big := strings.Repeat("a", 1<<20)

	for _, c := range []struct {
		name   string
		guard  *httpauth.Guard
		header header
		status int
	}{
		{"bearer", guard, auth("Bearer " + token), 200},
		{"case of the scheme", guard, auth("bEARER " + token), 200},
		{"many spaces", guard, auth("Bearer    " + token), 200},
		{"space around", guard, auth(" \tBearer " + token + " \t"), 200},
		{"basic", guard, auth(basicAuth(token + ":")), 200},
		{"basic, case of the scheme", guard, auth(strings.Replace(basicAuth(token+":"), "Basic", "BASIC", 1)), 200},
		{"basic, many spaces", guard, auth(strings.Replace(basicAuth(token+":"), " ", "   ", 1)), 200},
		{"header", guard, key(token), 200},
		{"header, space around", guard, key("  " + token + " "), 200},
		{"vendor's header", guard, header{"Rt-Uddoktapay-Api-Key": {token}}, 200},
		{"header beside another scheme", guard, header{"Authorization": {"Negotiate abc=="}, "X-Api-Key": {token}}, 200},

		{"nothing", guard, nil, 401},
		{"no values", guard, auth(), 401},
		{"another scheme", guard, auth("Digest " + token), 401},
		{"scheme alone", guard, auth("Negotiate"), 401},
		{"long scheme", guard, auth("Bearertoken " + token), 401},
		{"no scheme", guard, auth(token), 401},
		{"folded letter is no ASCII case", guard, auth("Ba\u017fic " + base64.StdEncoding.EncodeToString([]byte(token+":"))), 401},
		{"huge foreign scheme", guard, auth("Negotiate " + big), 401},
		{"header that is not configured", narrow, key(token), 401},
		{"scheme that is not configured", bearerOnly, auth(basicAuth(token + ":")), 401},
		{"proxy's own", guard, header{"Proxy-Authorization": {"Bearer " + token}}, 401},
		{"cookie", guard, header{"Cookie": {"Authorization=" + token + "; api_key=" + token}}, 401},

		{"scheme alone", guard, auth("Bearer"), 400},
		{"scheme and spaces", guard, auth("Bearer   "), 400},
		{"empty", guard, auth(""), 400},
		{"spaces", guard, auth("   "), 400},
		{"empty header", guard, key(""), 400},
		{"tab", guard, auth("Bearer\t" + token), 400},
		{"two words", guard, auth("Bearer " + token + " " + token), 400},
		{"two keys in one line", guard, auth("Bearer " + token + ", Bearer " + token), 400},
		{"comma", guard, key(token + "," + token), 400},
		{"repeated", guard, auth("Bearer "+token, "Bearer "+token), 400},
		{"repeated, one foreign", guard, auth("Digest x", "Bearer "+token), 400},
		{"repeated, both foreign", guard, auth("Digest x", "Digest x"), 400},
		{"repeated, one empty", guard, key(token, ""), 400},
		{"two headers", guard, header{"Authorization": {"Bearer " + token}, "X-Api-Key": {token}}, 400},
		{"two headers, one wrong", guard, header{"Authorization": {"Bearer " + token}, "X-Api-Key": {"x"}}, 400},
		{"two headers, one empty", guard, header{"Authorization": {"Bearer " + token}, "X-Api-Key": {""}}, 400},
		{"two headers, basic", guard, header{"Authorization": {basicAuth(token + ":")}, "Rt-Uddoktapay-Api-Key": {token}}, 400},
		{"NUL", guard, auth("Bearer " + token + "\x00"), 400},
		{"CR", guard, auth("Bearer " + token + "\r"), 400},
		{"LF", guard, auth("Bearer " + token + "\nX: y"), 400},
		{"DEL", guard, key(token + "\x7f"), 400},
		{"byte order mark", guard, key("\ufeff" + token), 400},
		{"right to left", guard, auth("Bearer \u202e" + token), 400},
		{"latin-1", guard, key(token + "\xe9"), 400},
		{"no UTF-8", guard, auth("Bearer \xff\xfe"), 400},
		{"huge", guard, auth("Bearer " + big), 400},
		{"huge header", guard, key(big), 400},
		{"huge basic", guard, auth("Basic " + big), 400},
		{"huge spaces", guard, auth("Bearer " + strings.Repeat(" ", 1<<20) + token + " " + token), 400},

		{"password", guard, auth(basicAuth(token + ":x")), 400},
		{"password only", guard, auth(basicAuth(":" + token)), 400},
		{"no colon", guard, auth(basicAuth(token)), 400},
		{"empty pair", guard, auth(basicAuth(":")), 400},
		{"no base64", guard, auth("Basic ***"), 400},
		{"token for base64", guard, auth("Basic " + token), 400},
		{"nothing follows", guard, auth("Basic"), 400},
		{"URL alphabet", guard, auth("Basic _-__"), 400},
		{"no padding", guard, auth("Basic YWI6Yw"), 400},
		{"trailing bits", guard, auth("Basic YTp="), 400},
		{"folded base64", guard, auth("Basic YW\r\nI6"), 400},
		{"NUL inside", guard, auth(basicAuth(token + "\x00:")), 400},
		{"LF inside", guard, auth(basicAuth(token + "\n:")), 400},
		{"colon in the password", guard, auth(basicAuth(token + "::")), 400},

		{"a JWT", guard, auth("Bearer eyJhbGciOiJIUzI1NiJ9." + strings.Repeat("a", 4000) + ".c2ln"), 401},
		{"short", guard, key("acme_sk_live_"), 401},
		{"quoted", guard, auth(`Bearer "` + token + `"`), 401},
		{"angle brackets", guard, auth("Bearer <" + token + ">"), 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := get()
			for name, values := range c.header {
				r.Header[name] = values
			}
			h, ran := e.ok()
			got := e.serve(c.guard.Require()(h), r)
			require.Equal(t, c.status, got.StatusCode, got.body)
			require.Equal(t, c.status == 200, *ran == 1)
		})
	}
}

// A megabyte in a header is read at most once, and never copied.
func TestHugeHeaders(t *testing.T) {
	e := newEnv(t)
	guard := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Bearer(), httpauth.Basic(), httpauth.Header("X-API-Key")}})
	big := strings.Repeat("YWFh", 1<<18)
	for _, r := range []*http.Request{
		get("Authorization", "Bearer "+big), get("Authorization", "Basic "+big), get("Authorization", big), get("X-API-Key", big),
		get("X-API-Key", "a", "Authorization", strings.Repeat("Basic ", 1<<17)),
	} {
		const runs = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			_, err := guard.Check(r)
			require.Error(t, err)
		}
		runtime.ReadMemStats(&after)
		require.Less(t, (after.TotalAlloc-before.TotalAlloc)/runs, uint64(20_000))
	}
}

// cookie is a program's own Extractor. It reads a cookie; the header may have several.
type cookie struct{ name string }

func (cookie) Header() string { return "cookie" }

func (c cookie) Extract(value string) (string, error) {
	cookies, err := http.ParseCookie(value)
	if err != nil {
		return "", fmt.Errorf("cannot read %q: %w", value, err)
	}
	for _, found := range cookies {
		if found.Name == c.name {
			return found.Value, nil
		}
	}
	return "", nil
}

func TestOwnExtractor(t *testing.T) {
	e := newEnv(t)
	token := e.issue().Token.Reveal()
	guard := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{cookie{"old_key"}, httpauth.Bearer(), cookie{"key"}}})
	for _, c := range []struct {
		headers []string
		status  int
	}{
		{[]string{"Cookie", "theme=dark; key=" + token}, 200},
		{[]string{"Cookie", "old_key=" + token}, 200},
		{[]string{"Cookie", "theme=dark", "Authorization", "Bearer " + token}, 200},
		{[]string{"Cookie", "theme=dark"}, 401},
		{[]string{"Cookie", "key=" + token, "Authorization", "Bearer " + token}, 400},
		{[]string{"Cookie", "key=" + token, "Cookie", "theme=dark"}, 400},
		{[]string{"Cookie", "=" + token}, 400}, // the Extractor's error quotes the token
	} {
		h, ran := e.ok()
		r := get(c.headers...)
		_, err := guard.Check(r)
		if err != nil {
			require.NotContains(t, err.Error(), token)
		}
		got := e.serve(guard.Require()(h), r)
		require.Equal(t, c.status, got.StatusCode, got.body)
		require.Equal(t, c.status == 200, *ran == 1)
		require.Equal(t, c.status == 200, len(r.Header) == 0)
	}
}

// The text about malformed credentials is fixed and quotes nothing of the request.
func TestMalformedDetail(t *testing.T) {
	e := newEnv(t)
	token := e.issue().Token.Reveal()
	guard := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Bearer(), httpauth.Basic(), httpauth.Header("X-API-Key")}})
	for _, c := range []struct {
		r    *http.Request
		want string
	}{
		{get("Authorization", "Bearer"), "nothing follows Bearer"},
		{get("Authorization", "Bearer a b"), "the Authorization header holds what no key is made of"},
		{get("Authorization", "Bearer a", "Authorization", "x"), "the Authorization header is repeated"},
		{get("Authorization", ""), "the Authorization header is empty"},
		{get("Authorization", "Bearer "+token, "X-API-Key", token), "the request presents two keys"},
		{get("Authorization", basicAuth(token+":x")), "the key is the user name of Basic, and the password stays empty"},
		{get("Authorization", basicAuth(token)), "the key is the user name of Basic, before a colon"},
		{get("Authorization", "Basic !"), "no base64 follows Basic"},
	} {
		_, err := guard.Check(c.r)
		require.EqualError(t, err, "apikey: malformed credentials: "+c.want)
		require.Equal(t, "The credentials cannot be read: "+c.want+".", httpauth.Denied(err).Detail)
	}
}

// The Guard never reads a key from the query string or a form.
func TestQueryString(t *testing.T) {
	e := newEnv(t)
	token := e.issue().Token.Reveal()
	h, ran := e.ok()
	guarded := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Bearer(), httpauth.Header("X-API-Key")}}).Require()(h)
	for _, name := range []string{"access_token", "api_key", "X-API-Key", "authorization", "key"} {
		r := httptest.NewRequest(http.MethodGet, "/?"+url.Values{name: {token}}.Encode(), nil)
		require.Equal(t, 401, e.serve(guarded, r).StatusCode)
		r = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(url.Values{name: {token}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		require.Equal(t, 401, e.serve(guarded, r).StatusCode)
	}
	require.Zero(t, *ran)
}
