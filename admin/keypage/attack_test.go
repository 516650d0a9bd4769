package keypage_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/keypage"
)

func signInAt(_ *http.Request, back string) string { return "/login?back=" + url.QueryEscape(back) }

// Somebody who is not signed in gets no answer that is many times what they have sent, or
// that is as long as they like.
func TestFloodOfNobody(t *testing.T) {
	e := newEnv(t, keypage.Config{SignIn: signInAt})
	page := must(keypage.New(e.config))
	const most = 16 << 10
	for name, ask := range map[string]func() *http.Request{
		"many fields": func() *http.Request {
			r := httptest.NewRequest("POST", "/settings/keys/new", strings.NewReader(strings.Repeat("a&", 9_000)))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Origin", "http://example.com")
			return r
		},
		"a long query": func() *http.Request {
			return httptest.NewRequest("GET", "/settings/keys?name="+strings.Repeat("%26", 300_000), nil)
		},
		"a long path": func() *http.Request {
			return httptest.NewRequest("GET", "/settings/keys/key/"+strings.Repeat("%26", 300_000), nil)
		},
		"many fragments": func() *http.Request {
			r := httptest.NewRequest("GET", "/settings/keys", nil)
			r.Header.Set("Apikey-Fragment", strings.Repeat("a", 1_000_000))
			return r
		},
	} {
		w := httptest.NewRecorder()
		page.ServeHTTP(w, ask())
		if w.Body.Len() > most {
			t.Errorf("%s: %d, %d bytes", name, w.Code, w.Body.Len())
		}
	}
	// Not all of a long list of languages is read.
	e.header = map[string]string{"Accept-Language": strings.Repeat("a,", 400) + "id"}
	require.Contains(t, e.get("").text, `lang="id"`)
	e.header["Accept-Language"] = strings.Repeat("a,", 100_000) + "id"
	require.Contains(t, e.get("").text, `lang="en"`)
	e.header = nil

	// Of the form of a person, everything is kept.
	q := url.Values{"name": {"Shop"}}
	for i := range 300 {
		q.Add("scope", "a:"+strconv.Itoa(i))
	}
	e.user = "-"
	a := e.do(request{method: "POST", path: e.path("/new"), form: q}).shows(401)
	require.Equal(t, 300, strings.Count(a.text, `name="scope"`))
	require.Equal(t, []string{"/login?back=" + url.QueryEscape(e.path("/log?action=issue"))}, e.get("/log?action=issue").links("Sign in"))
}

// The address to return to is of this site and of one line, whatever the path is.
func TestReturnAddress(t *testing.T) {
	for _, path := range []string{"/settings/keys", "/"} {
		e := newEnv(t, keypage.Config{Path: path, SignIn: signInAt})
		e.user = "-"
		base := e.path("")
		for _, rest := range []string{
			"//evil.example", "/%2fevil.example", "/%5cevil.example", "/..//evil.example", "/.//evil.example", "/%2e%2e/%2f/evil.example",
			"/new?%0d%0aX: 1", "/new?x=//evil.example", "/key/%0d%0aSet-Cookie:x", "/key/..%2f..%2f%2fevil.example", "/new/", "/log?a;b", "/log?%zz", "/%00",
		} {
			a := e.do(request{path: base + strings.ReplaceAll(rest, " ", "%20")})
			if a.status != 401 {
				continue
			}
			for _, link := range a.links("Sign in") {
				u := must(url.Parse(link))
				back := u.Query().Get("back")
				require.True(t, strings.HasPrefix(back, "/") && !strings.HasPrefix(back, "//") && !strings.ContainsAny(back, "\\\r\n\t "), "%s: %s", rest, back)
				to := must(must(url.Parse(e.server + "/")).Parse(back))
				require.Equal(t, e.server, to.Scheme+"://"+to.Host, rest)
			}
		}
	}
}

// What is in the path of a factor that does not exist is on no screen.
func TestPathOfAFactor(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	tag := e.get("/new").form("Create key").value("tag")
	for _, factor := range []string{"..%2f..%2f..%2flogout", "%3Fx", "hostile", "%2f%2fevil.example"} {
		for _, do := range []string{"confirm", "enroll", "disable"} {
			a := e.do(request{method: "POST", path: e.path("/factors/" + factor), form: url.Values{"tag": {tag}, "do": {do}}})
			require.GreaterOrEqual(t, a.status, 400, factor+do)
			for _, f := range a.forms() {
				require.NotContains(t, f.action, "..", factor+do)
				require.NotContains(t, a.text, "hostile")
			}
			require.Empty(t, a.forms(), factor+do)
		}
	}
}

// An answer is for the request that was asked about, and for no other one.
func TestAnswerOfAnotherRequest(t *testing.T) {
	e := newEnv(t, keypage.Config{}, guard([]string{"email"}))
	k, second := e.issue(recoverable).Key, e.issue(recoverable).Key
	regenerate := e.get(e.keyPath(k.ID, "/regenerate")).form("Save")
	asked := regenerate.press("Save").shows(202).form("Confirm")
	code := e.code()
	for name, spoil := range map[string]func(url.Values) string{
		"another window":  func(v url.Values) string { v.Set("overlap", "24"); return "/regenerate" },
		"a first window":  func(v url.Values) string { v["overlap"] = []string{"72", "0"}; return "/regenerate" },
		"another version": func(v url.Values) string { v.Set("version", "9"); return "/regenerate" },
		"another action":  func(url.Values) string { return "/reveal" },
		"the revocation":  func(v url.Values) string { v.Set("reason", "unneeded"); return "/revoke" },
	} {
		q := asked.set("approval.answer", code).request("Confirm")
		q.path = e.path(e.keyPath(k.ID, spoil(q.form)))
		a := e.do(q)
		require.GreaterOrEqual(t, a.status, 400, name)
	}
	q := asked.set("approval.answer", code).request("Confirm")
	q.path = e.path(e.keyPath(second.ID, "/regenerate"))
	require.GreaterOrEqual(t, e.do(q).status, 400)
	e.user = "acc_1/ben/admin"
	q = asked.set("approval.answer", code).request("Confirm")
	q.form.Set("tag", e.get("/new").form("Create key").value("tag"))
	require.GreaterOrEqual(t, e.do(q).status, 400, "of another person")
	e.user = anna
	for _, id := range []apikey.KeyID{k.ID, second.ID} {
		require.Equal(t, 1, e.key(id).Credentials.Len())
		require.NotEqual(t, apikey.Revoked, e.key(id).State)
	}

	// A browser that loads the answer again, on a computer left alone, shows nothing again.
	e.program.Clock.Move(2 * time.Minute)
	asked = e.get(e.keyPath(k.ID, "")).press("Reveal key").shows(202).form("Confirm")
	q = asked.set("approval.answer", e.code()).request("Confirm")
	e.do(q).shows(200, "Key revealed")
	for range 2 {
		again := e.do(q)
		require.GreaterOrEqual(t, again.status, 400)
		require.NotContains(t, again.text, "data-secret")
	}
}

// Fields of an approval that come twice, in the query, or without each other are no approval.
func TestFieldsOfAnApproval(t *testing.T) {
	e := newEnv(t, keypage.Config{}, guard([]string{"password"}))
	k := e.issue(recoverable).Key
	ask := e.get(e.keyPath(k.ID, "")).press("Reveal key").shows(202).form("Confirm").set("approval.answer", password).request("Confirm")
	for name, spoil := range map[string]func(*request){
		"in the query": func(q *request) {
			q.path += "?approval.challenge=" + q.form.Get("approval.challenge") + "&approval.answer=x"
			q.form.Del("approval.challenge")
		},
		"the wrong one first": func(q *request) { q.form["approval.challenge"] = []string{"x", q.form.Get("approval.challenge")} },
		"with a factor":       func(q *request) { q.form.Set("approval.factor", "password") },
		"two factors":         func(q *request) { q.form["approval.factor"] = []string{"none", "password"} },
		"an answer alone":     func(q *request) { q.form.Del("approval.challenge") },
		"as another method":   func(q *request) { q.method = "PUT" },
		"by a header":         func(q *request) { q.header = map[string]string{"X-HTTP-Method-Override": "GET"}; q.form.Del("tag") },
	} {
		q := ask
		q.form = url.Values{}
		for n, v := range ask.form {
			q.form[n] = v
		}
		spoil(&q)
		a := e.do(q)
		require.NotContains(t, a.text, "data-secret", name)
	}
}

// A GET or HEAD changes nothing, whatever its address says, and a mode that comes twice is
// that of the first.
func TestReadsChangeNothing(t *testing.T) {
	w := &watched{}
	e := newEnv(t, keypage.Config{}, w.change())
	k := e.issue().Key
	before := w.writes.Load()
	tag := e.get("/new").form("Create key").value("tag")
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND"} {
		for _, rest := range []string{"/new", "/revoke", "/key/" + k.ID.String() + "/revoke", "/key/" + k.ID.String() + "/suspend", "/key/" + k.ID.String() + "/edit", "/factors/totp"} {
			a := e.do(request{method: method, path: e.path(rest) + "?tag=" + tag + "&reason=leaked&name=x&version=1&_method=POST&do=enroll&id=" + k.ID.String()})
			require.Empty(t, a.header["Access-Control-Allow-Origin"])
			if method == "HEAD" {
				require.Empty(t, a.text)
			}
		}
	}
	require.Equal(t, before, w.writes.Load())
	require.Equal(t, "live", e.get("/new?mode=live&mode=test").form("Create key").value("mode"))
	q := e.get("/new?mode=test").form("Create key").set("name", "Shop").request("Create key")
	q.form["mode"] = []string{"test", "live"}
	e.do(q).shows(200)
	require.Equal(t, apikey.Test, e.keys()[0].Mode)
}

// Long texts of somebody who is signed in are refused, and none is stored.
func TestLongTexts(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	long := strings.Repeat("x", 60_000)
	for _, rest := range []string{"?name=" + long, "?cursor=" + long, "/log?person=" + long, "/log?cursor=" + long, "?status=" + long, "/log?key=" + long} {
		a := e.get(rest)
		require.Less(t, len(a.text), 300_000, rest[:12])
	}
	for _, field := range []string{"name", "idempotent", "scope", "product", "expires"} {
		q := e.get("/new").form("Create key").set("name", "Shop").request("Create key")
		q.form.Set(field, long[:50_000])
		if a := e.do(q); field != "product" {
			require.GreaterOrEqual(t, a.status, 400, field)
		}
	}
	e.do(request{path: e.path("")})
	q := e.get("/new").form("Create key").set("name", "Shop").request("Create key")
	q.header = map[string]string{"User-Agent": long, "X-Request-ID": long, "X-Forwarded-For": long[:9], "X-Forwarded-Host": "evil.example", "X-Forwarded-Prefix": "//evil.example"}
	a := e.do(q)
	require.NotContains(t, a.text, "evil.example")
	require.Less(t, len(a.header.Get("X-Request-Id")), 200)
	list, err := e.program.Manager.Events(e.as(anna), apikey.EventsRequest{Limit: 10})
	require.NoError(t, err)
	for _, ev := range list.Events {
		require.Less(t, len(ev.Actor.UserAgent), 2000)
		require.NotContains(t, ev.Actor.Addr, "x")
	}
}

// A page of an origin in FrameAncestors shows the page in a frame; that of another origin
// does not, because of the Content-Security-Policy. Nothing else of another site comes in.
func TestFrames(t *testing.T) {
	framed := map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
	e := newEnv(t, keypage.Config{FrameAncestors: []string{"https://dash.example"}})
	e.do(request{path: e.path(""), header: framed}).shows(200, "No keys yet")
	for _, q := range []request{
		{path: e.path(""), header: map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "iframe"}},
		{path: e.path(""), header: map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "embed"}},
		{method: "POST", path: e.path("/new"), header: framed, form: url.Values{}},
	} {
		e.do(q).shows(403)
	}
	e = newEnv(t, keypage.Config{})
	e.do(request{path: e.path(""), header: framed}).shows(403)
}

// Texts of Config.Messages, of whatever a translator has sent, are text on each screen: in
// attributes, in drawings, and in elements that the page makes itself.
func TestTextsWithHTML(t *testing.T) {
	const bad = `<img src=x onerror=hostile()>"'&lt;`
	var texts map[string]string
	require.NoError(t, json.Unmarshal(must(os.ReadFile("text/en.json")), &texts))
	for name := range texts {
		if name != "digits" {
			texts[name] += bad
		}
	}
	texts["ability.payment:charge.title"], texts["ability.balance.description"], texts["factor.email.title"] = bad, bad, bad
	e := newEnv(t, keypage.Config{Messages: messages{"en.json": string(must(json.Marshal(texts)))}, SignIn: signInAt})
	k := e.issue().Key
	e.rotate(k.ID)
	for _, rest := range []string{"", "?did=saved", "?name=none", "/new", "/log", "/factors", "/none", e.keyPath(k.ID, ""), e.keyPath(k.ID, "/edit"), e.keyPath(k.ID, "/regenerate"), e.keyPath(k.ID, "/revoke")} {
		a := e.get(rest) // checks that the page is well formed
		require.NotContains(t, a.text, "<img", rest)
		require.Contains(t, a.text, "hostile", rest)
	}
	e.user = "-"
	require.NotContains(t, e.get("").text, "<img")
}

// rotate gives a key a second token, beside which the first works.
func (e *env) rotate(id apikey.KeyID) {
	e.t.Helper()
	_, err := e.open().Rotate(e.as(anna), apikey.RotateRequest{Key: id, IfVersion: e.key(id).Version, Overlap: time.Hour})
	require.NoError(e.t, err)
}

// A form that revokes many keys, one of them of another account, revokes none; and a key
// for repeated requests of one account is none of another.
func TestKeysOfAnotherAccount(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	mine := e.issue().Key
	theirs := must(e.open().Issue(e.as(other), apikey.IssueRequest{Mode: apikey.Live, Name: "Theirs", Abilities: []string{"payment:charge"}})).Key
	q := e.get("").form("Revoke selected").set("id", mine.ID.String()).request("Revoke selected")
	for _, ids := range [][]string{{mine.ID.String(), theirs.ID.String()}, {theirs.ID.String(), mine.ID.String()}} {
		q.form["id"], q.form["count"], q.form["reason"] = ids, []string{"2"}, []string{"leaked"}
		e.do(q).shows(404).lacks("Theirs")
		require.Equal(t, apikey.Active, e.key(mine.ID).State)
	}
	require.Equal(t, apikey.Active, must(e.open().Get(e.as(other), theirs.ID)).State)

	form := e.get("/new").form("Create key").set("name", "Shop")
	idempotent := form.value("idempotent")
	form.press("Create key").shows(200, "API key created")
	e.user = other
	q = e.get("/new").form("Create key").set("name", "Shop").request("Create key")
	q.form.Set("idempotent", idempotent)
	e.do(q).shows(200, "API key created")
	q.form.Set("name", "Another")
	require.GreaterOrEqual(t, e.do(q).status, 400)
	e.user = "acc_2/victor/viewer"
	q.form.Set("tag", tagIn(e.get("/factors")))
	require.Equal(t, 403, e.do(q).status)
}

var tagField = regexp.MustCompile(`name="tag" value="([^"]*)"`)

func tagIn(a reply) string {
	if m := tagField.FindStringSubmatch(a.text); m != nil {
		return m[1]
	}
	return ""
}

// Caches, of a browser or on the way, keep no screen and no answer that depends on who asks,
// and nobody is told whether a screen has changed.
func TestCaches(t *testing.T) {
	e := newEnv(t, keypage.Config{SignIn: signInAt})
	k := e.issue().Key
	for _, rest := range []string{"", "/new", "/log", "/factors", "/none", e.keyPath(k.ID, ""), "/assets/none", "/assets/../key"} {
		for _, user := range []string{anna, other, "-"} {
			for _, method := range []string{"GET", "HEAD"} {
				e.user = user
				a := e.do(request{method: method, path: e.path(rest), header: map[string]string{"If-None-Match": "*", "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT", "Range": "bytes=0-10"}})
				require.NotContains(t, []int{206, 304}, a.status, rest)
				require.Empty(t, a.header.Get("ETag")+a.header.Get("Last-Modified")+a.header.Get("Accept-Ranges"), rest)
				if a.status != 404 || !strings.Contains(rest, "/assets/") {
					require.Equal(t, "no-store, no-transform", a.header.Get("Cache-Control"), rest)
				}
			}
		}
	}
	// A path that ends like a file is no screen: a proxy that keeps files by their name
	// would keep the screen of a person.
	for _, rest := range []string{"/x.css", "/log/x.css", "/log.css", "/new;x.css", "/log%2fx.js", e.keyPath(k.ID, "/x.css"), e.keyPath(k.ID, ".css"), e.keyPath(k.ID, "%00.css"), e.keyPath(k.ID, ";.js"), "/log/", "/LOG"} {
		e.user = anna
		require.Equal(t, 404, e.get(rest).status, rest)
	}
	// Nor is another spelling of a key's ID.
	for _, id := range []string{strings.ToUpper(k.ID.String()), "{" + k.ID.String() + "}", "urn:uuid:" + k.ID.String(), strings.ReplaceAll(k.ID.String(), "-", ""), k.ID.String() + "%20"} {
		if id != k.ID.String() {
			require.Equal(t, 404, e.get("/key/"+id).status, id)
		}
	}
}

// The header of a fragment is not simple, so another origin would have to ask first; and it
// is not told yes. With any value, nothing is shown that a session does not show.
func TestFragmentsOfOthers(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	k := e.issue().Key
	for _, header := range []map[string]string{
		{"Access-Control-Request-Headers": "apikey-fragment", "Access-Control-Request-Method": "POST", "Origin": "https://evil.example"},
		{"Access-Control-Request-Headers": "apikey-fragment", "Access-Control-Request-Method": "GET", "Origin": "https://evil.example", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
	} {
		a := e.do(request{method: "OPTIONS", path: e.path(e.keyPath(k.ID, "")), header: header})
		require.Equal(t, 403, a.status)
		for name := range a.header {
			require.False(t, strings.HasPrefix(name, "Access-Control"), name)
		}
	}
	for _, value := range []string{keypage.Version(), "x"} {
		a := e.do(request{path: e.path(e.keyPath(k.ID, "")), header: map[string]string{"Apikey-Fragment": value, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}})
		require.Contains(t, []int{403, 409}, a.status)
		require.NotContains(t, a.text, k.ID.String())
	}
}

// The answer of a factor with a name of the program's own may be a password: nobody beside
// the person reads it, and the browser does not offer it to the next one.
func TestAnswersAreHidden(t *testing.T) {
	e := newEnv(t, keypage.Config{}, guard([]string{"passphrase", "email"}, apikey.ActionReveal), func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		c.Factors["passphrase"] = must(apikey.NewPassword(func(_ contextOf, _, answer string) (bool, error) { return answer == password, nil }))
	})
	k := e.issue(recoverable).Key
	type input struct{ kind, autocomplete string }
	typed := func(a reply) input {
		m := regexp.MustCompile(`<input id="ak-answer"[^>]*>`).FindString(a.text)
		require.NotEmpty(t, m)
		return input{attrs(m[len("<input"):])["type"], attrs(m[len("<input"):])["autocomplete"]}
	}
	for factor, want := range map[string]input{"passphrase": {"password", "off"}, "email": {"", "one-time-code"}} {
		q := e.get(e.keyPath(k.ID, "")).form("Reveal key").request("Reveal key")
		q.form.Set("approval.factor", factor)
		asked := e.do(q).shows(202)
		require.Equal(t, want, typed(asked), factor)
		q = asked.form("Confirm").set("approval.answer", "000").request("Confirm")
		again := e.do(q).shows(403)
		require.Equal(t, want, typed(again), factor)
		q.form.Set("asked.factor", "none")
		require.Equal(t, "password", typed(e.do(q).shows(403)).kind)
	}
}

// A request without a Host is of no page, whatever Origin it names.
func TestOriginOfNobody(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	page := must(keypage.New(e.config))
	f := e.get("/new").form("Create key").set("name", "Shop").values("Create key")
	for _, c := range [][2]string{{"", "http://"}, {"", "https://"}, {"example.com:80", "http://example.com"}, {"example.com", "http://example.com:80"}, {"example.com", "http://example.com/"}, {"example.com", "example.com"}, {"example.com", "http://example.com http://example.com"}, {"example.com", "ftp://example.com"}} {
		r := httptest.NewRequest("POST", "/settings/keys/new", strings.NewReader(f.Encode()))
		r.Host = c[0]
		r.Header.Set("Origin", c[1])
		r.Header.Set("X-User", anna)
		r.Header.Set("X-Forwarded-Host", strings.TrimPrefix(c[1], "http://"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		page.ServeHTTP(w, r)
		require.Equal(t, 403, w.Code, c)
	}
	require.Empty(t, e.keys())
}

// The address of a next page shows nothing to another account, and the log of a key that is
// none is not that of all.
func TestAddressesOfPages(t *testing.T) {
	e := newEnv(t, keypage.Config{}, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Limits = apikey.Limits{LiveKeys: 100} })
	for range 51 {
		e.issue(named("Secret shop"))
	}
	for _, rest := range []string{"", "/log"} {
		next := e.get(rest).links("Next page")
		require.Len(t, next, 1, rest)
		e.do(request{path: next[0]}).shows(200)
		spoilt := []string{"x"}
		if rest == "" { // that of the log is a place, from which any filter begins
			spoilt = append(spoilt, "&status=revoked", "&used=never", "&name=x")
		}
		for _, spoil := range spoilt {
			require.Equal(t, 400, e.do(request{path: next[0] + spoil}).status, rest+spoil)
		}
		e.user = other
		e.do(request{path: next[0]}).lacks("Secret", "anna")
		e.user = anna
	}
	for _, key := range []string{"x", strings.Repeat("0", 36), "%00"} {
		e.get("/log?key=" + key).shows(404).lacks("Key created")
	}
}
