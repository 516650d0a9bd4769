package admin_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
)

// watched counts what is written to a store.
type watched struct {
	apikey.Store
	writes atomic.Int64
}

func (w *watched) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	w.writes.Add(1)
	return w.Store.Apply(ctx, changes...)
}

// sound is a request to a route that would be served.
type sound struct {
	pattern string // as in the routes of the API
	request
}

// target is what sound requests are about: keys of one account.
type target struct {
	live      apikey.Info // active, recoverable, and nothing else
	suspended apikey.Info
	planned   apikey.Info         // with a rotation that waits
	rotating  apikey.Info         // with two tokens that work
	old       apikey.CredentialID // of rotating: the older one
}

// requests are the sound requests to all routes. Each changes something, except for those
// that read.
func (t target) requests() (all []sound) {
	for _, row := range []struct {
		pattern string
		key     apikey.Info // the {id} of the pattern
		body    string
	}{
		{"GET /v1/rules", apikey.Info{}, ""},
		{"GET /v1/keys", apikey.Info{}, ""},
		{"GET /v1/keys/{id}", t.live, ""},
		{"GET /v1/events", apikey.Info{}, ""},
		{"GET /v1/keys/{id}/events", t.live, ""},
		{"POST /v1/keys/{id}/chain", t.live, ""}, // reads
		{"GET /v1/factors", apikey.Info{}, ""},
		{"POST /v1/keys", apikey.Info{}, `{"mode":"live"}`},
		{"PATCH /v1/keys/{id}", t.live, `{"name":"New"}`},
		{"POST /v1/keys/{id}/suspend", t.live, ""},
		{"POST /v1/keys/{id}/resume", t.suspended, `{}`},
		{"POST /v1/keys/{id}/revoke", t.live, `{}`},
		{"POST /v1/keys/{id}/rotate", t.live, `{}`},
		{"DELETE /v1/keys/{id}/rotation", t.planned, ""},
		{"POST /v1/keys/{id}/credentials/{credential}/retire", t.rotating, ""},
		{"POST /v1/keys/{id}/reveal", t.live, `{}`},
		{"POST /v1/provision", apikey.Info{}, `{"abilities":["card:tokenize"]}`},
		{"POST /v1/keys/revoke", apikey.Info{}, fmt.Sprintf(`{"ids":[%q]}`, t.live.ID)},
		{"POST /v1/keys/revoke-all", apikey.Info{}, `{"all":true}`},
		{"POST /v1/factors/{factor}/enroll", apikey.Info{}, `{}`},
		{"POST /v1/factors/{factor}/confirm", apikey.Info{}, `{"answer":"000000"}`},
		{"POST /v1/factors/{factor}/disable", apikey.Info{}, `{}`},
		{"POST /v1/actors/{actor}/lift-lock", apikey.Info{}, `{}`},
		{"POST /v1/actors/{actor}/allow-enrollment", apikey.Info{}, `{"factor":"totp"}`},
		{"POST /v1/actors/{actor}/disable", apikey.Info{}, `{"factor":"totp"}`},
	} {
		method, path, _ := strings.Cut(row.pattern, " /v1")
		q := request{method: method, path: strings.NewReplacer(
			"{id}", row.key.ID.String(), "{credential}", t.old.String(), "{factor}", "totp", "{actor}", "ben").Replace(path)}
		if row.body != "" {
			q.body = row.body
		}
		if method == "PATCH" || strings.HasSuffix(path, "/rotate") {
			q = q.with("If-Match", fmt.Sprintf(`"%d"`, row.key.Version))
		}
		all = append(all, sound{row.pattern, q})
	}
	return all
}

// sound makes an account that has all that the sound requests need, and returns them.
func (e *env) sound(account string) []sound {
	e.t.Helper()
	t := target{
		live:      e.issue(account, func(r *apikey.IssueRequest) { r.Recoverable = true }).Key,
		suspended: e.issue(account, func(r *apikey.IssueRequest) { r.Disabled = true }).Key,
		rotating:  e.issue(account).Key,
		planned:   e.issue(account).Key,
	}
	t.old = t.rotating.Credential
	ctx := e.program.Admin(account)
	_, err := e.program.Manager.Rotate(ctx, apikey.RotateRequest{Key: t.rotating.ID, Overlap: time.Hour})
	require.NoError(e.t, err)
	_, err = e.program.Manager.Rotate(ctx, apikey.RotateRequest{Key: t.planned.ID, At: e.program.Clock.Now().Add(2 * time.Hour)})
	require.NoError(e.t, err)
	return t.requests()
}

func watching(w *watched) func(*apikey.Settings, *apikey.ManagerConfig) {
	return func(s *apikey.Settings, c *apikey.ManagerConfig) {
		w.Store = s.Store
		s.Store = w
	}
}

func (q request) with(header, value string) request {
	q.header = maps.Clone(q.header)
	if q.header == nil {
		q.header = map[string]string{}
	}
	q.header[header] = value
	return q
}

func (q request) omit(header string) request {
	q.without = append(slices.Clone(q.without), header)
	return q
}

// Every route is refused when its request is spoiled in any of these ways, and nothing is
// written. The sound request is served afterwards, so the spoiling was what was refused.
func TestSpoiledRequestsChangeNothing(t *testing.T) {
	type spoiled struct {
		name  string
		spoil func(request) request
		// status is what a POST, PATCH or DELETE is answered, and reads a GET; 0: this way
		// does not spoil a GET.
		status, reads int
		code          string
	}
	body := func(text string) func(request) request {
		return func(q request) request { q.body = text; return q }
	}
	ways := []spoiled{
		{"no session", func(q request) request { q.user = "-"; return q }, 401, 401, "signed_out"},
		{"an actor without an account", func(q request) request { q.user = "/anna/admin"; return q }, 401, 401, "signed_out"},
		{"an actor without an ID", func(q request) request { q.user = "acc_1//admin"; return q }, 401, 401, "signed_out"},
		{"another actor's tag", func(q request) request { return q.with("Apikey-Actor", "AAAAAAAAAAAAAAAA") }, 409, 409, "other_actor"},
		{"an empty tag", func(q request) request { return q.with("Apikey-Actor", "") }, 409, 409, "other_actor"},
		{"cross-site", func(q request) request {
			return q.with("Origin", "https://evil.example").with("Sec-Fetch-Site", "cross-site")
		}, 403, 403, "cross_site"},
		{"cross-site by its Origin alone", func(q request) request { return q.with("Origin", "https://evil.example") }, 403, 0, "cross_site"},
		{"same-site", func(q request) request { return q.omit("Origin").with("Sec-Fetch-Site", "same-site") }, 403, 403, "cross_site"},
		{"Sec-Fetch-Site none", func(q request) request { return q.omit("Origin").with("Sec-Fetch-Site", "none") }, 403, 0, "cross_site"},
		{"Origin null", func(q request) request { return q.with("Origin", "null") }, 403, 0, "cross_site"},
		{"Origin empty", func(q request) request { return q.with("Origin", "") }, 403, 0, "cross_site"},
		{"another port's Origin", func(q request) request { return q.with("Origin", "http://127.0.0.1:1") }, 403, 0, "cross_site"},
		{"our Origin from another site", func(q request) request { return q.with("Sec-Fetch-Site", "cross-site") }, 403, 403, "cross_site"},
		{"neither Origin nor Sec-Fetch-Site", func(q request) request { return q.omit("Origin") }, 403, 0, "cross_site"},
		{"If-Match of any", func(q request) request { return q.with("If-Match", "*") }, 400, 0, "invalid_request"},
		{"If-Match empty", func(q request) request { return q.with("If-Match", "") }, 400, 0, "invalid_request"},
		{"If-Match without quotes", func(q request) request { return q.with("If-Match", "1") }, 400, 0, "invalid_request"},
		{"If-Match of several", func(q request) request { return q.with("If-Match", `"1", "2"`) }, 400, 0, "invalid_request"},
		{"If-Match 0", func(q request) request { return q.with("If-Match", `"0"`) }, 400, 0, "invalid_request"},
		{"If-Match 01", func(q request) request { return q.with("If-Match", `"01"`) }, 400, 0, "invalid_request"},
		{"a query that means nothing", func(q request) request { q.path += "?mod=live"; return q }, 400, 400, "invalid_request"},
		{"a form", func(q request) request {
			q.body = "a=b"
			return q.with("Content-Type", "application/x-www-form-urlencoded")
		}, 415, 0, "not_json"},
		{"a simple request with JSON in it", func(q request) request { q.body = `{"all":true}`; return q.with("Content-Type", "text/plain") }, 415, 0, "not_json"},
		{"without Content-Type", func(q request) request { q.body = `{}`; return q.omit("Content-Type") }, 415, 0, "not_json"},
		{"another charset", func(q request) request {
			q.body = `{}`
			return q.with("Content-Type", "application/json; charset=utf-16")
		}, 415, 0, "not_json"},
		{"10 MB", body(`{"name":"` + strings.Repeat("x", 10<<20) + `"}`), 413, 0, "body_too_large"},
		{"depth 10000", body(`{"name":` + strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999) + `}`), 400, 0, "invalid_request"},
		{"a member twice", body(`{"name":"a","name":"a","reason":"x","reason":"x","answer":"1","answer":"1","factor":"totp","factor":"totp","ids":[],"ids":[],"approval":{},"approval":{},"all":true,"all":true}`), 400, 0, "invalid_request"},
		{"an unknown member", body(`{"hidden":true}`), 400, 0, "invalid_request"},
		{"an account", body(`{"account":"acc_2"}`), 400, 0, "invalid_request"},
		{"a member in capitals", body(`{"Approval":{}}`), 400, 0, "invalid_request"},
		{"a wrong type", body(`{"name":1,"reason":1,"answer":1,"factor":1,"ids":1,"approval":1,"all":1}`), 400, 0, "invalid_request"},
		{"an array", body(`[]`), 400, 0, "invalid_request"},
		{"something after the object", body(`{}{}`), 400, 0, "invalid_request"},
		{"broken JSON", body(`{`), 400, 0, "invalid_request"},
	}
	w := &watched{}
	e := newEnv(t, watching(w), func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.InsecureRevealWithoutStepUp = true })
	all := e.sound("acc_1")
	tried := 0
	for _, s := range all {
		for _, way := range ways {
			wanted := way.status
			if s.method == "GET" {
				wanted = way.reads
			}
			if s.method == "GET" && strings.Contains(way.name, "query") && (s.path == "/keys" || strings.HasSuffix(s.path, "/events")) {
				wanted = 400 // an unknown name of a query that there is
			}
			if wanted == 0 {
				continue
			}
			tried++
			before := w.writes.Load()
			a := e.do(way.spoil(s.request))
			what := fmt.Sprintf("%s, %s: %s", s.pattern, way.name, a.text)
			require.Equal(t, wanted, a.status, what)
			require.Equal(t, way.code, a.body["code"], what)
			require.Equal(t, before, w.writes.Load(), what)
			require.NotEmpty(t, a.body["detail"], what)
			require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), what)
			require.Equal(t, "no-store, no-transform", a.header.Get("Cache-Control"), what)
			require.Equal(t, a.header.Get("X-Request-Id"), a.body["request_id"], what)
		}
		if s.method != "GET" {
			tried++
			key := e.do(s.request.with("Idempotency-Key", strings.Repeat("k", 256)))
			require.Equal(t, 400, key.status, s.pattern)
			require.Contains(t, key.text, "Idempotency-Key", s.pattern)
		}
	}
	t.Logf("%d spoiled requests to %d routes", tried, len(all))
	require.Greater(t, tried, 600)

	// A wrong role is refused by the Policy, which leaves one event and nothing else.
	for _, s := range all {
		q := s.request
		q.user = "acc_1/victor/viewer"
		a := e.do(q)
		if strings.Contains(s.pattern, "factors") || strings.HasSuffix(s.pattern, "/rules") {
			continue // one's own factors are one's own, and rules are the same for everybody
		}
		if s.path == "/keys/revoke" {
			require.Equal(t, 200, a.status, a.text)
			require.Contains(t, a.text, `"code":"forbidden"`)
			continue
		}
		require.Equal(t, 403, a.status, "%s: %s", s.pattern, a.text)
		require.Equal(t, "forbidden", a.body["code"], s.pattern)
	}

	// Each is served when it is sound, on keys of an account of its own.
	for i := range all {
		account := fmt.Sprintf("own_%d", i)
		s := e.sound(account)[i]
		s.user = account + "/usr_" + account + "/admin"
		a := e.do(s.request)
		if strings.Contains(s.pattern, "factors/{factor}") { // always needs an approval, or something enrolled
			require.Contains(t, []any{"step_up_required", "not_enrolled"}, a.body["code"], a.text)
			continue
		}
		require.Less(t, a.status, 300, "%s: %s", s.pattern, a.text)
	}
}

// Every route is in the matrix.
func TestMatrixHasEveryRoute(t *testing.T) {
	e := newEnv(t)
	known := map[string]bool{"GET /v1/openapi.yaml": true}
	for _, s := range e.sound("acc_1") {
		known[s.pattern] = true
	}
	for _, pattern := range admin.Patterns() {
		require.True(t, known[pattern], "%s is in no row", pattern)
		delete(known, pattern)
	}
	require.Empty(t, known)
}

// A key of another account is answered as one that does not exist, byte for byte but for
// the request's ID, and nothing is written.
func TestForeignIsAbsent(t *testing.T) {
	w := &watched{}
	e := newEnv(t, watching(w))
	for _, s := range e.sound("acc_1") {
		if !strings.Contains(s.pattern, "{id}") && s.path != "/keys/revoke" {
			continue
		}
		foreign := s.request
		foreign.user = other
		absent := foreign
		id := strings.Split(strings.TrimPrefix(s.path, "/keys/"), "/")[0]
		const none = "01890a5d-ac96-774b-bcce-b302099a8057"
		if s.path == "/keys/revoke" {
			id = strings.Split(s.body.(string), `"`)[3]
			absent.body = strings.Replace(s.body.(string), id, none, 1)
		} else {
			absent.path = strings.Replace(s.path, id, none, 1)
		}
		before := w.writes.Load()
		header := func(a reply) http.Header {
			h := a.header.Clone()
			h.Del("X-Request-Id")
			h.Del("Date")
			h.Del("Content-Length") // has the length of the ID
			return h
		}
		with := map[string]string{"X-Request-Id": "req-1"}
		for name, value := range s.header {
			with[name] = value
		}
		foreign.header, absent.header = with, with
		a, b := e.do(foreign), e.do(absent)
		require.Equal(t, b.status, a.status, s.pattern)
		require.Equal(t, header(b), header(a), s.pattern)
		require.Equal(t, strings.ReplaceAll(b.text, none, id), a.text, s.pattern)
		require.Equal(t, before, w.writes.Load(), s.pattern)
		if !strings.HasSuffix(s.pattern, "/events") && s.path != "/keys/revoke" {
			require.Equal(t, 404, a.status, s.pattern)
		}
	}
	for _, path := range []string{"/keys/x", "/keys/" + strings.Repeat("a", 36), "/keys/%00", "/keys/..%2f..%2frules"} {
		a := e.do(request{path: path})
		require.Equal(t, 404, a.status, path)
	}
	require.Empty(t, e.do(request{path: "/keys", user: other}).body["data"])
	require.Empty(t, e.do(request{path: "/events", user: other}).body["data"])
}

// What has no route is a problem too, and nothing is redirected.
func TestNoRoute(t *testing.T) {
	e := newEnv(t)
	api, err := admin.New(e.config)
	require.NoError(t, err)
	server := httptest.NewServer(http.StripPrefix("/api", api)) // without a ServeMux before it, which would redirect
	defer server.Close()
	e.url = server.URL
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"GET", "/nothing", 404, ""},
		{"GET", "//keys", 404, ""},
		{"POST", "//keys", 404, ""},
		{"GET", "/keys/", 404, ""},
		{"POST", "/keys/../keys", 404, ""},
		{"GET", "/./keys", 404, ""},
		{"PUT", "/keys", 405, "GET, HEAD, POST"},
		{"OPTIONS", "/keys", 405, "GET, HEAD, POST"},
		{"GET", "/keys/revoke-all/x", 404, ""},
		{"DELETE", "/rules", 405, "GET, HEAD"},
		{"HEAD", "/rules", 200, ""},
	} {
		a := e.do(request{method: c.method, path: c.path})
		require.Equal(t, c.status, a.status, "%s %s", c.method, c.path)
		require.Equal(t, c.allow, a.header.Get("Allow"), "%s %s", c.method, c.path)
		require.Empty(t, a.header.Get("Location"), "%s %s", c.method, c.path)
		if c.status != 200 {
			require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), "%s %s", c.method, c.path)
		}
	}
	open := e.do(request{path: "/openapi.yaml", user: "-"})
	require.Equal(t, 200, open.status)
	require.Contains(t, open.text, "openapi: 3.1")
}

// Origins that are set count, and no others; and over TLS an http page is another site.
func TestOrigins(t *testing.T) {
	e := newEnv(t)
	c := e.config
	c.Origins = []string{"https://dash.example"}
	url := e.serve(c)
	post := func(url string, header map[string]string) int {
		return e.at(url, request{method: "POST", path: "/keys", body: `{"mode":"test"}`, header: header}).status
	}
	require.Equal(t, 403, post(url, nil), "that of the host was not listed")
	require.Equal(t, 201, post(url, map[string]string{"Origin": "https://dash.example", "Sec-Fetch-Site": "cross-site"}))
	require.Equal(t, 403, post(url, map[string]string{"Origin": "https://dash.example.evil.example"}))

	api, err := admin.New(e.config)
	require.NoError(t, err)
	for origin, want := range map[string]int{"https://shop.example": 201, "http://shop.example": 403, "https://SHOP.example": 201, "https://shop.example:444": 403, "shop.example": 403} {
		r := httptest.NewRequest("POST", "https://shop.example/v1/keys", strings.NewReader(`{"mode":"test"}`))
		r.TLS = &tls.ConnectionState{}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Origin", origin)
		r.Header.Set("X-User", anna)
		rec := httptest.NewRecorder()
		api.ServeHTTP(rec, r)
		require.Equal(t, want, rec.Code, origin)
	}
	for _, wrong := range []string{"dash.example", "https://dash.example/", "https://", "null", "*", "ftp://dash.example"} {
		c.Origins = []string{wrong}
		_, err := admin.New(c)
		require.ErrorContains(t, err, "Config.Origins", wrong)
	}
}

// A page sends back the tag of the person for whom it was drawn; for anybody else, also one
// whose account and ID are the same text together, the request is refused.
func TestActorTag(t *testing.T) {
	e := newEnv(t)
	mine := e.do(request{path: "/rules"})
	tag := mine.header.Get("Apikey-Actor")
	require.Equal(t, tag, mine.body["actor"].(map[string]any)["tag"])
	require.Equal(t, 200, e.do(request{path: "/rules"}.with("Apikey-Actor", tag)).status)
	for _, user := range []string{other, "acc_1/ben/admin", "acc_1a/nna/admin", "acc_/1anna/admin"} {
		require.Equal(t, 409, e.do(request{path: "/rules", user: user}.with("Apikey-Actor", tag)).status, user)
	}
}

// The log of the account says which request it was, and from where.
func TestLogNamesTheRequest(t *testing.T) {
	e := newEnv(t)
	e.do(request{method: "POST", path: "/keys", body: `{"mode":"test"}`}.with("X-Request-Id", "req-7").with("User-Agent", "page/1"))
	events := e.do(request{path: "/events"})
	require.Contains(t, events.text, "req-7")
	require.Contains(t, events.text, "page/1")
	require.Contains(t, events.text, "127.0.0.1")
}

// A method of the Manager without a route is a decision, which is written down.
func TestEveryMethodHasARoute(t *testing.T) {
	routes := map[string]string{ // method: the last part of its route
		"AllowEnrollment": "allow-enrollment", "CancelRotation": "rotation", "ConfirmEnrollment": "confirm", "Disable": "disable",
		"Enroll": "enroll", "Enrolled": "factors", "Events": "events", "Get": "{id}", "Issue": "keys", "LiftLock": "lift-lock", "List": "keys",
		"Provision": "provision", "Resume": "resume", "Retire": "retire", "Reveal": "reveal", "Revoke": "revoke", "RevokeAll": "revoke-all",
		"Rotate": "rotate", "Rules": "rules", "Suspend": "suspend", "Update": "{id}", "VerifyEvents": "chain",
	}
	without := map[string]string{ // method: why
		"Challenge":   "is the member approval.factor of the request that it is about",
		"Resend":      "is approval.resend",
		"Confirm":     "is approval.answer",
		"May":         "is the member may of a key",
		"Close":       "ends the process's Manager",
		"NewVerifier": "is for the process",
		"Tx":          "is for the process",
		"AdoptPepper": "is for an Operator",
		"Remac":       "is for an Operator",
		"Reseal":      "is for an Operator",
		"RevokeToken": "is for whoever has found a token and has no session here",
	}
	manager := reflect.TypeFor[*apikey.Manager]()
	for i := range manager.NumMethod() {
		name := manager.Method(i).Name
		route, routed := routes[name]
		require.True(t, routed || without[name] != "", "%s has no route, and no line that says why", name)
		if routed {
			require.True(t, slices.ContainsFunc(admin.Patterns(), func(p string) bool { return strings.HasSuffix(p, "/"+route) }), "%s: %s", name, route)
		}
	}
}
