package admin_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
)

// The cookie of somebody who is signed in comes along with requests that another site has
// made. They change nothing.
func TestAnotherSiteChangesNothing(t *testing.T) {
	e := newEnv(t)
	body := map[string]any{"mode": "live", "name": "Shop"}
	behind := e.config
	behind.Origins = []string{"https://dash.example"}
	strict := e.serve(behind)
	for _, c := range []struct {
		name, url string
		header    map[string]string
		without   []string
		allowed   bool
	}{
		{name: "a page of this site", url: e.url, header: map[string]string{"Sec-Fetch-Site": "same-origin"}, allowed: true},
		{name: "a script", url: e.url, allowed: true},
		{name: "a page without Origin", url: e.url, header: map[string]string{"Sec-Fetch-Site": "same-origin"}, without: []string{"Origin"}, allowed: true},
		{name: "with TLS before us", url: e.url, header: map[string]string{"Origin": strings.Replace(e.url, "http:", "https:", 1)}, allowed: true},
		{name: "behind a proxy", url: strict, header: map[string]string{"Origin": "https://dash.example"}, allowed: true},

		{name: "neither header", url: e.url, without: []string{"Origin"}},
		{name: "another site", url: e.url, header: map[string]string{"Origin": "https://evil.example"}},
		{name: "no origin", url: e.url, header: map[string]string{"Origin": "null"}},
		{name: "an empty origin", url: e.url, header: map[string]string{"Origin": ""}},
		{name: "a longer host", url: e.url, header: map[string]string{"Origin": e.url + ".evil.example"}},
		{name: "another scheme", url: e.url, header: map[string]string{"Origin": "ftp" + strings.TrimPrefix(e.url, "http")}},
		{name: "the browser says so", url: e.url, header: map[string]string{"Sec-Fetch-Site": "cross-site"}},
		{name: "a subdomain", url: e.url, header: map[string]string{"Sec-Fetch-Site": "same-site"}, without: []string{"Origin"}},
		{name: "a link", url: e.url, header: map[string]string{"Sec-Fetch-Site": "none"}, without: []string{"Origin"}},
		{name: "without TLS, where TLS is", url: strict, header: map[string]string{"Origin": "http://dash.example"}},
		{name: "the host, where Origins are set", url: strict},
	} {
		a := e.at(c.url, request{method: "POST", path: "/keys", body: body, header: c.header, without: c.without})
		if c.allowed {
			require.Equal(t, 201, a.status, "%s: %s", c.name, a.text)
			continue
		}
		require.Equal(t, 403, a.status, "%s: %s", c.name, a.text)
		require.Equal(t, "cross_site", a.body["code"], c.name)
		require.Empty(t, a.header.Get("Apikey-Actor"), c.name)
	}
	for site, status := range map[string]int{"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200} {
		require.Equal(t, status, e.do(request{path: "/keys", header: map[string]string{"Sec-Fetch-Site": site}, without: []string{"Origin"}}).status, site)
	}
	list := e.do(request{path: "/keys"})
	require.Len(t, list.body["data"], 5)
	for _, name := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"} {
		require.Empty(t, list.header.Get(name), "no page of another site reads an answer")
	}
}

// In another tab somebody else has signed in: what the page of the first person sends
// changes nothing in the account of the second.
func TestSomebodyElseHasSignedIn(t *testing.T) {
	e := newEnv(t)
	drawn := e.do(request{path: "/rules"})
	tag := drawn.header.Get("Apikey-Actor")
	require.Equal(t, tag, drawn.body["actor"].(map[string]any)["tag"])
	for user, status := range map[string]int{anna: 201, other: 409, "acc_1/ben/admin": 409, "acc_1a/nna/admin": 409} {
		a := e.do(request{user: user, method: "POST", path: "/keys", body: map[string]any{"mode": "live"}, header: map[string]string{"Apikey-Actor": tag}})
		require.Equal(t, status, a.status, "%s: %s", user, a.text)
		if status == 409 {
			require.Equal(t, "other_actor", a.body["code"], user)
		}
	}
	require.Len(t, e.do(request{path: "/keys"}).body["data"], 1)
	require.Empty(t, e.do(request{user: other, path: "/keys"}).body["data"])
	require.Equal(t, 409, e.do(request{path: "/keys", header: map[string]string{"Apikey-Actor": ""}}).status)
}

// Whoever is not named is not let in, and a client is not told why it could not be found
// out who asks.
func TestActorFailsClosed(t *testing.T) {
	e := newEnv(t)
	for name, c := range map[string]struct {
		actor  apikey.Actor
		err    error
		status int
		code   string
	}{
		"nobody":       {err: admin.ErrSignIn, status: 401, code: "signed_out"},
		"the zero one": {status: 401, code: "signed_out"},
		"no account":   {actor: apikey.Actor{ID: "anna"}, status: 401, code: "signed_out"},
		"no ID":        {actor: apikey.Actor{Account: "acc_1"}, status: 401, code: "signed_out"},
		"an operator":  {actor: apikey.Operator("staff"), status: 403, code: "operator"},
		"an actor beside an error": {
			actor: apikey.Actor{ID: "anna", Account: "acc_1", Role: "admin"}, err: errors.New("redis 10.1.2.3 is away"), status: 503, code: "busy",
		},
	} {
		config := e.config
		config.Actor = func(*http.Request) (apikey.Actor, error) { return c.actor, c.err }
		url := e.serve(config)
		for _, q := range []request{{path: "/keys"}, {path: "/rules"}, {method: "POST", path: "/keys", body: map[string]any{"mode": "live"}}} {
			a := e.at(url, q)
			require.Equal(t, c.status, a.status, "%s: %s", name, a.text)
			require.Equal(t, c.code, a.body["code"], name)
			require.NotContains(t, a.text, "10.1.2.3")
			require.Empty(t, a.header.Get("Apikey-Actor"), name)
		}
	}
	require.Empty(t, e.do(request{path: "/keys"}).body["data"])
	require.Contains(t, e.log.String(), "10.1.2.3", "the log says why")
}
