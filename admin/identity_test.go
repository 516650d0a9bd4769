package admin_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

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

// Somebody without ID or Account is not let in. If it cannot be found out who asks, only
// the log says why.
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
			if c.status == 503 {
				require.NotEmpty(t, a.header.Get("Retry-After"))
				require.Contains(t, e.log.String(), a.body["request_id"])
			}
		}
	}
	require.Empty(t, e.do(request{path: "/keys"}).body["data"])
	require.Contains(t, e.log.String(), "10.1.2.3", "the log says why")
}

// A wrong field has the name under which the request has it, and the bound that holds.
func TestWrongFieldsAreNamedAsSent(t *testing.T) {
	e := newEnv(t, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.StepUp = apikey.GuardRotate("password") })
	key := e.issue("acc_1", func(r *apikey.IssueRequest) { r.ExpiresAt = e.program.Clock.Now().Add(time.Hour) })
	for name, want := range map[string]struct {
		seconds int64
		code    string
	}{
		"too long": {8 * 24 * 3600, "out_of_range"}, "far too long": {1 << 62, "out_of_range"}, "negative": {-1, "out_of_range"}, "after its expiry": {7200, "after_expiry"},
	} {
		for _, approval := range []map[string]any{nil, {"factor": "password"}} {
			body := map[string]any{"overlap_seconds": want.seconds}
			if approval != nil {
				body["approval"] = approval
			}
			a := e.do(request{method: "POST", path: "/keys/" + key.Key.ID.String() + "/rotate", header: map[string]string{"If-Match": `"1"`}, body: body})
			require.Equal(t, 400, a.status, "%s: %s", name, a.text)
			field := a.body["fields"].([]any)[0].(map[string]any)
			require.Equal(t, "overlap_seconds", field["field"], a.text)
			require.Equal(t, want.code, field["code"], a.text)
			if want.code == "out_of_range" {
				require.EqualValues(t, 604800, field["max"], a.text)
			}
			require.NotContains(t, a.body["detail"], "overlap:")
		}
	}
}
