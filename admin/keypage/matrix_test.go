package keypage_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/admin/keypage"
)

// changing is a sound request to each route that changes something, by its pattern.
func (e *env) changing(account string) map[string]request {
	e.t.Helper()
	ctx := e.as(account + "/anna/admin")
	m := e.open()
	issue := func(change func(*apikey.IssueRequest)) apikey.Info {
		req := apikey.IssueRequest{Mode: apikey.Live, Name: "Shop", Recoverable: true}
		if change != nil {
			change(&req)
		}
		return must(m.Issue(ctx, req)).Key
	}
	live, suspended := issue(nil), issue(func(r *apikey.IssueRequest) { r.Disabled = true })
	overlapping, waiting := issue(nil), issue(nil)
	must(m.Rotate(ctx, apikey.RotateRequest{Key: overlapping.ID, Overlap: time.Hour}))
	must(m.Rotate(ctx, apikey.RotateRequest{Key: waiting.ID, At: e.program.Clock.Now().Add(2 * time.Hour)}))
	version := fmt.Sprint(live.Version)
	all := map[string]request{}
	for pattern, form := range map[string]url.Values{
		"/new":                               {"name": {"New"}, "active": {"1"}, "mode": {"test"}},
		"/revoke":                            {"id": {live.ID.String()}, "count": {"1"}, "reason": {"leaked"}, "mode": {"live"}},
		"/factors/totp":                      {"do": {"enroll"}},
		e.keyPath(live.ID, "/edit"):          {"version": {version}, "name": {"Other"}, "active": {"1"}},
		e.keyPath(live.ID, "/regenerate"):    {"version": {version}, "time": {"now"}},
		e.keyPath(live.ID, "/revoke"):        {"reason": {"leaked"}},
		e.keyPath(live.ID, "/suspend"):       {},
		e.keyPath(suspended.ID, "/resume"):   {},
		e.keyPath(waiting.ID, "/cancel"):     {},
		e.keyPath(overlapping.ID, "/retire"): {"credential": {overlapping.Credential.String()}},
		e.keyPath(live.ID, "/reveal"):        {},
		e.keyPath(overlapping.ID, "/check"):  {},
	} {
		form.Set("tag", tagOf(e, account))
		all[pattern] = request{method: "POST", path: e.path(pattern), form: form}
	}
	return all
}

// tagOf is the tag that the page gives to anna of an account.
func tagOf(e *env, account string) string {
	e.t.Helper()
	was := e.user
	defer func() { e.user = was }()
	e.user = account + "/anna/admin"
	return e.get("/new").form("Create key").value("tag")
}

// Each route of a POST is in the matrix.
func TestMatrixHasEveryRoute(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	known := map[string]bool{}
	for path := range e.changing("acc_1") {
		known[strings.Replace(varying.ReplaceAllString(path, "{id}"), "/totp", "/{factor}", 1)] = true
	}
	source, err := os.ReadFile("handler.go")
	require.NoError(t, err)
	routes := regexp.MustCompile(`"POST (/[^"]*)":`).FindAllStringSubmatch(string(source), -1)
	require.NotEmpty(t, routes)
	for _, m := range routes {
		require.True(t, known[m[1]], "%s is in no row", m[1])
	}
}

// Each route that changes something is refused when its request is spoiled in any of these
// ways, and nothing is written. The sound request is served afterwards.
func TestSpoiledRequestsChangeNothing(t *testing.T) {
	w := &watched{}
	e := newEnv(t, keypage.Config{}, w.change())
	ways := []struct {
		name    string
		header  map[string]string
		without []string
		user    string
		form    func(url.Values)
		status  int
	}{
		{name: "cross-site", header: map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, status: 403},
		{name: "cross-site by its Origin alone", header: map[string]string{"Origin": "https://evil.example"}, status: 403},
		{name: "our Origin from another site", header: map[string]string{"Sec-Fetch-Site": "cross-site"}, status: 403},
		{name: "same-site", header: map[string]string{"Sec-Fetch-Site": "same-site"}, without: []string{"Origin"}, status: 403},
		{name: "same-site with Origin", header: map[string]string{"Sec-Fetch-Site": "same-site", "Origin": "https://blog.shop.example"}, status: 403},
		{name: "none", header: map[string]string{"Sec-Fetch-Site": "none"}, without: []string{"Origin"}, status: 403},
		{name: "Origin null", header: map[string]string{"Origin": "null"}, status: 403},
		{name: "Origin empty", header: map[string]string{"Origin": ""}, status: 403},
		{name: "neither", without: []string{"Origin"}, status: 403},
		{name: "framed", header: map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Mode": "navigate"}, status: 403},
		{name: "a link of another site", header: map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}, status: 403},
		{name: "no session", user: "-", status: 401},
		{name: "another person of the account", user: "acc_1/ben/admin", status: 409},
		{name: "a person of another account", user: other, status: 409},
		{name: "the same name in another account", user: "acc_2/anna/admin", status: 409},
		{name: "the same letters", user: "acc_/1anna/admin", status: 409},
		{name: "without a tag", form: func(f url.Values) { f.Del("tag") }, status: 409},
		{name: "another tag", form: func(f url.Values) { f.Set("tag", "AAAAAAAAAAAAAAAA") }, status: 409},
		{name: "another Content-Type", header: map[string]string{"Content-Type": "text/plain"}, status: 415},
		{name: "multipart", header: map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, status: 415},
		{name: "a script of another version", header: map[string]string{"Apikey-Fragment": "0123456789abcdef"}, status: 409},
		{name: "cancelled", form: func(f url.Values) { f.Set("cancel", "1") }, status: 0},
		{name: "a GET", status: -1},
	}
	tried := 0
	for pattern, sound := range e.changing("acc_1") {
		for _, way := range ways {
			q := sound
			q.header, q.without, q.stay = way.header, way.without, true
			q.form = url.Values{}
			for name, values := range sound.form {
				q.form[name] = values
			}
			if way.form != nil {
				way.form(q.form)
			}
			if way.status == 0 && (strings.HasSuffix(pattern, "/suspend") || strings.HasSuffix(pattern, "/cancel") || strings.HasSuffix(pattern, "/retire") || strings.HasSuffix(pattern, "/check") || strings.HasPrefix(pattern, "/factors")) {
				continue // have no form to go back to, or no guard
			}
			if way.status == -1 {
				q.method, q.path, q.form = "GET", q.path+"?"+q.form.Encode(), nil
			}
			if way.user != "" {
				e.user = way.user
			}
			before := w.writes.Load()
			a := e.do(q)
			e.user = anna
			what := pattern + ", " + way.name
			require.Equal(t, before, w.writes.Load(), what)
			require.NotContains(t, a.text, "data-secret", what)
			if way.status > 0 {
				require.Equal(t, way.status, a.status, what)
			}
			tried++
		}
	}
	t.Logf("%d spoiled requests", tried)
	require.Greater(t, tried, 250)
	w.writes.Store(0)
	for suffix := range e.changing("probe") { // each sound one writes, in an account of its own
		if strings.HasSuffix(suffix, "/check") {
			continue
		}
		parts := strings.Split(suffix, "/")
		account := "own_" + parts[len(parts)-1]
		e.user = account + "/anna/admin"
		for pattern, q := range e.changing(account) {
			if !strings.HasSuffix(pattern, "/"+parts[len(parts)-1]) || strings.Count(pattern, "/") != strings.Count(suffix, "/") {
				continue
			}
			before := w.writes.Load()
			a := e.do(q)
			if strings.HasPrefix(pattern, "/factors") {
				a.shows(403, "Choose how") // always needs another factor
				continue
			}
			require.Greater(t, w.writes.Load(), before, "%s: %s", pattern, a.words())
			require.Less(t, a.status, 300, "%s: %s", pattern, a.words())
		}
		e.user = anna
	}
}

// A key of another account is answered as one that does not exist, and nothing is written.
func TestForeignIsAbsent(t *testing.T) {
	w := &watched{}
	e := newEnv(t, keypage.Config{}, w.change())
	all := e.changing("acc_1")
	k := e.keys()[0]
	for _, rest := range []string{"", "/edit", "/regenerate", "/revoke"} {
		all["GET "+rest] = request{path: e.path(e.keyPath(k.ID, rest))}
	}
	all["GET /log"] = request{path: e.path("/log?key=" + k.ID.String())}
	e.user = "acc_2/anna/admin"
	for pattern, foreign := range all {
		if !strings.Contains(pattern, "/key/") && !strings.HasPrefix(pattern, "GET") && pattern != "/revoke" {
			continue
		}
		const none = "01890a5d-ac96-774b-bcce-b302099a8057"
		absent := foreign
		var id string
		if foreign.form != nil {
			foreign.form.Set("tag", tagOf(e, "acc_2"))
		}
		if pattern == "/revoke" {
			id = foreign.form.Get("id")
			absent.form = url.Values{}
			for name, values := range foreign.form {
				absent.form[name] = values
			}
			absent.form.Set("id", none)
		} else if strings.Contains(foreign.path, "?key=") {
			id = k.ID.String()
			absent.path = strings.Replace(foreign.path, id, none, 1)
		} else {
			id = strings.Split(strings.TrimPrefix(foreign.path, e.path("/key/")), "/")[0]
			absent.path = strings.Replace(foreign.path, id, none, 1)
		}
		before := w.writes.Load()
		header := func(a reply) http.Header {
			h := a.header.Clone()
			h.Del("X-Request-Id")
			h.Del("Date")
			return h
		}
		a, b := e.do(foreign), e.do(absent)
		require.Equal(t, 404, a.status, pattern)
		require.Equal(t, b.status, a.status, pattern)
		require.Equal(t, strings.ReplaceAll(b.text, none, id), a.text, pattern)
		require.Equal(t, header(b), header(a), pattern)
		require.Equal(t, before, w.writes.Load(), pattern)
	}
	e.get("").shows(200, "No keys yet")
	e.get("/log").shows(200, "Nothing has happened yet")
}

// The session ends while a form is filled in, or somebody else signs in: what was typed is
// kept, but no answer, and it is sent again as it was.
func TestSessionEndsInMidForm(t *testing.T) {
	var back string
	c := keypage.Config{SignIn: func(_ *http.Request, to string) string { back = to; return "/login?back=" + url.QueryEscape(to) }}
	e := newEnv(t, c, guard([]string{"email"}))
	asked := e.get("/new").form("Create key").set("name", `Shop "1" <b>`).set("scope", "payment:charge", "payment:refund").set("expires", "2099-12-31").press("Create key").shows(202)
	answered := asked.form("Confirm").set("approval.answer", e.code())
	e.user = "-"
	kept := answered.press("Confirm").shows(401, "You are signed out", "What you have entered is kept")
	require.Equal(t, e.path(""), back, "a POST is no screen to return to")
	require.NotContains(t, kept.text, "approval")
	require.NotContains(t, kept.text, e.code())
	require.Equal(t, "1", kept.header.Get("Apikey-Keep"))
	require.Contains(t, kept.text, `target="_blank"`)
	f := kept.form("Try again")
	f.press("Try again").shows(401, "What you have entered is kept")

	// Another person gets nowhere with it.
	e.user = other
	f.press("Try again").shows(409, "Somebody else is signed in").press("Try again").shows(409, "Somebody else is signed in")
	e.user = anna
	again := f.press("Try again").shows(202, "Confirm that it is you")
	require.Equal(t, asked.form("Confirm").values("")["scope"], again.form("Confirm").values("")["scope"])
	again.form("Confirm").set("approval.answer", e.code()).press("Confirm").shows(200, "API key created")
	k := e.keys()[0]
	require.Equal(t, `Shop "1" <b>`, k.Name)
	require.Equal(t, []string{"payment:charge", "payment:refund"}, abilities(k))
	require.Len(t, e.program.Mailbox.All(), 1, "the same question")

	// The code of an enrolment is no field either.
	e.user = "-"
	q := request{method: "POST", path: e.path("/factors/totp"), form: url.Values{"do": {"confirm"}, "answer": {"918273"}, "tag": {"x"}}}
	require.NotContains(t, e.do(q).shows(401).text, "918273")

	// Where to return to is a screen of ours.
	for path, want := range map[string]string{
		"":                                       e.path(""),
		"/":                                      e.path(""),
		"?mode=test&name=a%22b":                  e.path("?mode=test&name=a%22b"),
		"/new?mode=test":                         e.path("/new?mode=test"),
		e.keyPath(k.ID, "/edit"):                 e.path(e.keyPath(k.ID, "/edit")),
		"/nothing":                               e.path(""),
		"//evil.example":                         e.path(""),
		"/key/%2e%2e%2f%2e%2e%2fevil.example%2f": e.path("/key/%2e%2e%2f%2e%2e%2fevil.example%2f"),
	} {
		back = ""
		e.get(path).shows(401)
		require.Equal(t, want, back)
	}
	root := newEnv(t, keypage.Config{Path: "/", SignIn: c.SignIn})
	root.user = "-"
	for _, path := range []string{"//evil.example/", "//evil.example/new", "/%2fevil.example", "/\\evil.example", "/..//evil.example", "/new"} {
		back = ""
		root.do(request{path: path}).shows(401)
		require.True(t, strings.HasPrefix(back, "/") && !strings.HasPrefix(back, "//") && !strings.HasPrefix(back, "/\\"), "%s leads to %s", path, back)
	}
}

// Who is signed in cannot be found out, nobody is, or an operator is.
func TestActor(t *testing.T) {
	var actor apikey.Actor
	var err error
	e := newEnv(t, keypage.Config{Actor: func(*http.Request) (apikey.Actor, error) { return actor, err }})
	err = fmt.Errorf("redis 10.0.3.7: refused")
	a := e.get("").shows(503, "Not available").lacks("redis", "10.0.3")
	require.Contains(t, a.words(), a.header.Get("X-Request-Id"))
	require.Contains(t, e.log.String(), "redis")
	require.Contains(t, e.log.String(), a.header.Get("X-Request-Id"))
	err = fmt.Errorf("no cookie: %w", admin.ErrSignIn)
	e.get("").shows(401, "Sign in to go on")
	err = nil
	for _, actor = range []apikey.Actor{{}, {ID: "anna"}, {Account: "acc_1"}} {
		e.get("").shows(401, "Sign in to go on")
	}
	actor = apikey.Operator("staff")
	e.get("").shows(403, "Not for operators")
	actor = apikey.Actor{ID: "anna", Account: "acc_1", Role: "admin"}
	e.get("").shows(200)
}

// Origins that are set count, and no others.
func TestOrigins(t *testing.T) {
	e := newEnv(t, keypage.Config{Origins: []string{"https://dash.example"}})
	f := e.get("/new").form("Create key").set("name", "Shop")
	q := f.request("Create key")
	e.do(q).shows(403, "From another site")
	q.header = map[string]string{"Origin": "https://dash.example", "Sec-Fetch-Site": "cross-site"}
	e.do(q).shows(200, "API key created")
	q.header = map[string]string{"Origin": "https://dash.example.evil.example"}
	e.do(q).shows(403, "From another site")
	require.Len(t, e.keys(), 1)
	// Links from anywhere show a screen, and nothing is read by another site's script.
	for header, status := range map[[3]string]int{
		{"cross-site", "navigate", "document"}: 200, {"cross-site", "navigate", "iframe"}: 403, {"cross-site", "cors", "empty"}: 403,
		{"same-site", "no-cors", "script"}: 403, {"none", "navigate", "document"}: 200, {"same-origin", "cors", "empty"}: 200,
	} {
		e.do(request{path: e.path(""), header: map[string]string{"Sec-Fetch-Site": header[0], "Sec-Fetch-Mode": header[1], "Sec-Fetch-Dest": header[2]}}).shows(status)
	}
}

// The answer to a change is lost: made as it is again, it is not made twice, and the screen
// says that the key did not arrive.
func TestLostAnswers(t *testing.T) {
	for _, factors := range [][]string{nil, {"email"}, {"password"}} {
		for _, at := range []string{"the network", "the store's answer"} {
			t.Run(fmt.Sprint(at, factors), func(t *testing.T) {
				w := &watched{}
				changes := []change{w.change()}
				if factors != nil {
					changes = append(changes, guard(factors))
				}
				e := newEnv(t, keypage.Config{}, changes...)
				twice := func(f *form, button string) (reply, reply) {
					press := func() reply { return f.press(button) }
					if factors != nil {
						asked := f.press(button).shows(202)
						answer := password
						if factors[0] == "email" {
							answer = e.code()
						}
						press = func() reply { return asked.form("Confirm").set("approval.answer", answer).press("Confirm") }
						if at != "the network" {
							// the store's answer to the last write is lost: that of the grant comes first
							w.lost.Store(true)
							first := press()
							return first, press()
						}
					}
					w.lost.Store(at != "the network")
					first := press()
					w.lost.Store(false)
					return first, press()
				}
				first, second := twice(e.get("/new").form("Create key").set("name", "Shop"), "Create key")
				require.Len(t, e.keys(), 1, "keys made twice: %s / %s", first.words(), second.words())
				if strings.Contains(first.text, "data-secret") || !strings.Contains(second.text, "data-secret") {
					second.shows(409, "It was done, but its key did not reach you", "Regenerate")
					second.follow("Regenerate key").shows(200, "Implementation time")
				}
				k := e.keys()[0]
				e.program.Clock.Move(time.Hour)
				first, second = twice(e.get(e.keyPath(k.ID, "/regenerate")).form("Save").set("overlap", "1"), "Save")
				require.Equal(t, 2, e.key(k.ID).Credentials.Len(), "rotations made twice: %s / %s", first.words(), second.words())
				if strings.Contains(first.text, "data-secret") || !strings.Contains(second.text, "data-secret") {
					second.shows(409, "It was done, but its key did not reach you", "Regenerate")
				}
			})
		}
	}

	// Somebody else's rotation is not one's own, and whoever may not read the log is not told.
	e := newEnv(t, keypage.Config{}, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Policy = noLog{} })
	k := e.issue().Key
	f := e.get(e.keyPath(k.ID, "/regenerate")).form("Save")
	f.press("Save").shows(200)
	f.press("Save").shows(412, "Changed meanwhile")
	e = newEnv(t, keypage.Config{})
	k = e.issue().Key
	f = e.get(e.keyPath(k.ID, "/regenerate")).form("Save")
	must(e.open().Rotate(e.as("acc_1/ben/admin"), apikey.RotateRequest{Key: k.ID}))
	a := f.press("Save").shows(412, "Changed meanwhile")
	require.Equal(t, "1", a.header.Get("Apikey-Keep"), "what was typed stays")
	a.follow("Shop").shows(200, "Regenerate key")
	require.Equal(t, 2, e.key(k.ID).Credentials.Len())

	// Nor is one's own that came after somebody else's change.
	k = e.issue().Key
	f = e.get(e.keyPath(k.ID, "/regenerate")).form("Save")
	must(e.open().Update(e.as("acc_1/ben/admin"), apikey.UpdateRequest{Key: k.ID, Name: apikey.Set("Theirs")}))
	must(e.open().Rotate(e.as(anna), apikey.RotateRequest{Key: k.ID}))
	f.press("Save").shows(412, "Changed meanwhile")
}

// Enter held down, a double click, two tabs: many requests at once make one key and one
// rotation, and one of them gets the secret.
func TestManyAtOnce(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	count := func(q request) (secrets int) {
		texts := make(chan string, 12)
		var wg sync.WaitGroup
		for range cap(texts) {
			wg.Go(func() {
				r, _ := http.NewRequest("POST", e.server+q.path, strings.NewReader(q.form.Encode()))
				r.Header = http.Header{"Origin": {e.server}, "X-User": {anna}, "Content-Type": {"application/x-www-form-urlencoded"}}
				res, err := client.Do(r)
				if err != nil {
					return
				}
				texts <- bodyOf(res)
			})
		}
		wg.Wait()
		close(texts)
		for text := range texts {
			secrets += len(tokens.FindAllString(text, -1))
		}
		return secrets
	}
	require.Equal(t, 1, count(e.get("/new").form("Create key").set("name", "Shop").request("Create key")))
	require.Len(t, e.keys(), 1)
	k := e.keys()[0]
	require.Equal(t, 1, count(e.get(e.keyPath(k.ID, "/regenerate")).form("Save").request("Save")))
	require.Equal(t, 2, e.key(k.ID).Credentials.Len())

	// One pair: all have seen that there is none before the first is made.
	w := &watched{}
	e = newEnv(t, keypage.Config{Layout: keypage.SinglePair}, w.change())
	var all sync.WaitGroup
	all.Add(12)
	q := e.get("").form("Get App Secret").request("Get App Secret")
	var once atomic.Int64
	w.listed = func() {
		if once.Add(1) <= 12 {
			all.Done()
			all.Wait()
		}
	}
	defer func() { w.listed = nil }()
	require.Equal(t, 1, count(q))
	require.Len(t, e.keys(), 1)
}

// A key is changed in another tab while its form is open.
func TestChangedMeanwhile(t *testing.T) {
	e := newEnv(t, keypage.Config{}, guard([]string{"email"}, apikey.ActionRotate, apikey.ActionUpdate, apikey.ActionReveal))
	m := e.open()
	for _, what := range []string{"edit", "regenerate"} {
		for _, how := range []string{"suspended", "revoked", "renamed"} {
			e.program.Clock.Move(3 * time.Hour)
			k := e.issue(recoverable).Key
			f := e.get(e.keyPath(k.ID, "/"+what)).form("Save")
			if what == "edit" {
				f.set("name", "Mine")
			}
			asked := f.press("Save").shows(202)
			status := 412
			switch how {
			case "suspended":
				require.NoError(t, m.Suspend(e.as(anna), k.ID))
			case "revoked":
				require.NoError(t, m.Revoke(e.as(anna), apikey.RevokeRequest{Key: k.ID, Reason: apikey.ReasonRequested}))
				status = 409
			default:
				must(m.Update(e.as("acc_1/ben/admin"), apikey.UpdateRequest{Key: k.ID, Name: apikey.Set("Theirs")}))
			}
			a := asked.form("Confirm").set("approval.answer", e.code()).press("Confirm")
			require.Contains(t, []int{412, status}, a.status, "%s, %s: %s", what, how, a.words())
			a = f.press("Save")
			require.Contains(t, []int{412, status}, a.status, "%s, %s: %s", what, how, a.words())
			now := e.key(k.ID)
			require.NotEqual(t, "Mine", now.Name)
			require.Equal(t, 1, now.Credentials.Len())
		}
	}
	// A version of another key, or of none.
	a, b := e.issue().Key, e.issue().Key
	require.NoError(t, m.Suspend(e.as(anna), b.ID))
	q := e.get(e.keyPath(a.ID, "/edit")).form("Save").set("name", "Mine").request("Save")
	q.form.Set("version", fmt.Sprint(e.key(b.ID).Version))
	e.do(q).shows(412, "Changed meanwhile")
}

type noLog struct{ apikey.RolePolicy }

func (p noLog) Authorize(ctx contextOf, a apikey.Actor, act apikey.Action, k apikey.Info) error {
	if act == apikey.ActionReadEvents {
		return errAway
	}
	return p.RolePolicy.Authorize(ctx, a, act, k)
}
