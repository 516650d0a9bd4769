package keypage_test

import (
	"errors"
	"fmt"
	"html"
	"html/template"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/keypage"
)

// What New refuses, it says by the name of the field.
func TestNewRefuses(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	for field, change := range map[string]func(*keypage.Config){
		"Manager":    func(c *keypage.Config) { c.Manager = nil },
		"Actor":      func(c *keypage.Config) { c.Actor = nil },
		"Path":       func(c *keypage.Config) { c.Path = "settings/keys" },
		"Path is":    func(c *keypage.Config) { c.Path = "" },
		"Mount":      func(c *keypage.Config) { c.Mount = "keys" },
		"Origins":    func(c *keypage.Config) { c.Origins = []string{"https://dash.example/"} },
		"\"*\"":      func(c *keypage.Config) { c.FrameAncestors = []string{"*"} },
		"dash":       func(c *keypage.Config) { c.FrameAncestors = []string{"https://dash.example; script-src *"} },
		"Stylesheet": func(c *keypage.Config) { c.Stylesheet = "https://cdn.example/keys.css" },
		"//cdn":      func(c *keypage.Config) { c.Stylesheet = "//cdn.example/keys.css" },
		"a b":        func(c *keypage.Config) { c.Path = "/a b" },
		"/keys?":     func(c *keypage.Config) { c.Mount = "/keys?x" },
		"/../":       func(c *keypage.Config) { c.Path = "/../keys" },
		"evil":       func(c *keypage.Config) { c.Path = "/\\evil.example" },
		"//evil":     func(c *keypage.Config) { c.Path = "//evil.example" },
	} {
		c := e.config
		change(&c)
		h, err := keypage.New(c)
		require.ErrorContains(t, err, field)
		require.Nil(t, h)
	}
}

// Wherever it is mounted, each link, form, redirect and file of it is found.
func TestMounted(t *testing.T) {
	for _, c := range []struct{ path, mount string }{
		{"/", ""}, {"/settings/keys", ""}, {"/settings/keys/", ""}, {"/shop/keys", "/keys"}, {"/shop/keys", "/"}, {"/", "/keys"},
	} {
		t.Run(c.path+" at "+c.mount, func(t *testing.T) {
			e := newEnv(t, keypage.Config{Path: c.path, Mount: c.mount, Recoverable: keypage.Always}, guard([]string{"password"}, apikey.ActionReveal))
			mux := http.NewServeMux()
			at := strings.TrimRight(e.config.Path, "/")
			if c.mount != "" {
				at = strings.TrimRight(c.mount, "/")
			}
			page := must(keypage.New(e.config))
			if at != "" {
				mux.Handle(at, page)
			}
			mux.Handle(at+"/", page)
			seen := http.Handler(mux)
			if c.mount != "" && c.mount != c.path { // a proxy that changes the prefix
				seen = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					rest, ok := strings.CutPrefix(r.URL.Path, strings.TrimRight(c.path, "/"))
					if !ok {
						http.NotFound(w, r)
						return
					}
					r = r.Clone(r.Context())
					r.URL.Path, r.URL.RawPath = at+rest, ""
					if r.URL.Path == "" {
						r.URL.Path = "/"
					}
					mux.ServeHTTP(w, r)
				})
			}
			server := httptest.NewServer(seen)
			defer server.Close()
			e.server = server.URL
			start := e.do(request{path: e.config.Path}).shows(200, "No keys yet")
			for _, file := range regexp.MustCompile(`(?:src|href)="([^"]*/assets/[^"]*)"`).FindAllStringSubmatch(start.text, -1) {
				require.Equal(t, 200, e.do(request{path: file[1]}).status, file[1])
			}
			made := start.follow("New API key").form("Create key").set("name", "Shop").press("Create key").shows(200, "API key created")
			key := made.press("Done").shows(200, "Shop")
			key.follow("All keys").shows(200, "Shop").follow("Test").shows(200, "No keys yet")
			asked := key.press("Reveal key").shows(202)
			asked.press("Cancel").shows(200, "Regenerate key")
			asked.form("Confirm").set("approval.answer", password).press("Confirm").shows(200, "Key revealed").press("Done").shows(200)
			key.press("Edit").form("Save").set("name", "Other").press("Save").shows(200, "Saved.")
			key.follow("Activity log").follow("All keys").form("Filter").set("name", "Oth").press("Filter").shows(200, "Other")
			key.press("Edit").follow("Cancel").shows(200, "Regenerate key")
			e.get("").form("Revoke selected").set("id", e.keys()[0].ID.String()).press("Revoke selected").press("Cancel").shows(200, "Other")
		})
	}
}

// The files never change under their name; those of another version are not found, and
// nobody keeps that.
func TestAssets(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	e.user = "-" // they are for everybody
	version := keypage.Version()
	for _, file := range []string{"page.css", "page.js"} {
		a := e.get("/assets/" + version + "/" + file)
		require.Equal(t, 200, a.status)
		require.Equal(t, "public, max-age=31536000, immutable", a.header.Get("Cache-Control"))
		require.Contains(t, a.header.Get("Content-Type"), map[string]string{"page.css": "text/css", "page.js": "text/javascript"}[file])
		b, err := os.ReadFile("static/" + file)
		require.NoError(t, err)
		require.Equal(t, strings.Replace(string(b), "'VERSION'", "'"+version+"'", 1), a.text)
		require.NotContains(t, a.text, "VERSION")
		old := e.get("/assets/0123456789abcdef/" + file)
		require.Equal(t, 404, old.status)
		require.Equal(t, "no-store, no-transform", old.header.Get("Cache-Control"))
	}
	stable := e.get("/assets/page.js")
	require.Equal(t, 200, stable.status)
	require.Equal(t, "no-cache", stable.header.Get("Cache-Control"))
	require.Equal(t, `"`+version+`"`, stable.header.Get("ETag"))
	for tag, status := range map[string]int{`"` + version + `"`: 304, `W/"` + version + `"`: 304, `"x", "` + version + `"`: 304, `"old"`: 200, "": 200} {
		a := e.do(request{path: e.path("/assets/page.js"), header: map[string]string{"If-None-Match": tag}})
		require.Equal(t, status, a.status, tag)
	}
	for _, path := range []string{"/assets/", "/assets/x", "/assets/" + version + "/", "/assets/" + version + "/x", "/assets/" + version + "/..%2fpage.js", "/assets/" + version + "/x/page.js", "/assets//page.js"} {
		a := e.get(path)
		require.Contains(t, []int{401, 404}, a.status, path)
		require.Equal(t, "no-store, no-transform", a.header.Get("Cache-Control"), path)
	}
	require.Equal(t, 404, e.do(request{method: "POST", path: e.path("/assets/page.js")}).status)
	require.Equal(t, 200, e.do(request{method: "HEAD", path: e.path("/assets/page.js")}).status)
}

// What a script asks for is the screen alone, of its own version; another one is told so
// before anything is done.
func TestFragments(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	q := e.get("/new").form("Create key").set("name", "Shop").request("Create key")
	q.header = map[string]string{"Apikey-Fragment": "0123456789abcdef"}
	a := e.do(q)
	require.Equal(t, 409, a.status)
	require.Contains(t, a.text, "Reload the page to go on.")
	require.NotContains(t, a.text, "<form")
	require.Equal(t, keypage.Version(), a.header.Get("Apikey-Fragment"))
	require.Empty(t, e.keys())
	r := must(http.NewRequest("GET", e.server+e.path(""), nil))
	r.Header.Set("Apikey-Fragment", keypage.Version())
	r.Header.Set("X-User", anna)
	text := bodyOf(must(client.Do(r)))
	require.Contains(t, text, `<section class="ak-screen`)
	require.NotContains(t, text, "<html")
	require.NotContains(t, text, "<main")
	require.NotContains(t, text, `class="ak-top"`)
	// An element has no other page around it: it gets the style sheet, and who is signed in.
	r.Header.Set("Apikey-Element", "1")
	text = bodyOf(must(client.Do(r)))
	for _, part := range []string{`<link rel="stylesheet" href="` + e.path("/assets/"+keypage.Version()+"/page.css"), `class="ak-top"`, `<section class="ak-screen`, "acc_1"} {
		require.Contains(t, text, part)
	}
	for _, tag := range []string{"<html", "<main", "<header", "<script"} {
		require.NotContains(t, text, tag)
	}
}

// Who signs in from an element returns to the page that it is in, if that is of this site.
func TestElementReturns(t *testing.T) {
	e := newEnv(t, keypage.Config{SignIn: func(_ *http.Request, back string) string { return "/login?back=" + url.QueryEscape(back) }})
	e.user = "-"
	for referer, back := range map[string]string{
		e.server + "/app?view=keys": "/app?view=keys", e.server + "/a%2fb": "/a%2fb",
		"https://elsewhere.example/app": e.path("/log"), e.server + "//elsewhere.example": e.path("/log"), e.server + `/\elsewhere.example`: e.path("/log"), "": e.path("/log"), "%": e.path("/log"),
	} {
		a := e.do(request{path: e.path("/log"), header: map[string]string{"Apikey-Fragment": keypage.Version(), "Apikey-Element": "1", "Referer": referer}})
		require.Equal(t, 401, a.status)
		require.Contains(t, html.UnescapeString(a.text), "/login?back="+url.QueryEscape(back), referer)
	}
}

// Sizes, uncompressed, and a walk through many keys, each of which is seen once.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	const many = 10_000
	e := newEnv(t, keypage.Config{}, func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		c.Limits = apikey.Limits{LiveKeys: 2 * many, Keys: 2 * many, IssuesAnHour: 2 * many}
	})
	for file, most := range map[string]int64{"page.js": 30_000, "page.css": 12_000} {
		info, err := os.Stat("static/" + file)
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size(), most, file)
		t.Logf("%s: %d bytes", file, info.Size())
	}
	ctx := apikey.WithActor(t.Context(), apikey.Operator("seed"))
	for i := range many {
		_, err := e.program.Manager.Issue(ctx, apikey.IssueRequest{Account: "acc_1", Mode: apikey.Live, Name: fmt.Sprintf("A long name of some shop %d", i), Disabled: true})
		require.NoError(t, err)
	}
	seen := map[string]bool{}
	ids := regexp.MustCompile(`type="checkbox" name="id" value="([^"]*)"`)
	next := regexp.MustCompile(`<a href="([^"]*)" rel="next"`)
	biggest, pages := 0, 0
	at := e.path("")
	for at != "" {
		r := must(http.NewRequest("GET", e.server+at, nil))
		r.Header.Set("X-User", anna)
		text := bodyOf(must(client.Do(r)))
		pages++
		biggest = max(biggest, len(text))
		for _, m := range ids.FindAllStringSubmatch(text, -1) {
			require.False(t, seen[m[1]], "twice")
			seen[m[1]] = true
		}
		at = ""
		if m := next.FindStringSubmatch(text); m != nil {
			at = strings.ReplaceAll(m[1], "&amp;", "&")
		}
	}
	require.Equal(t, many, len(seen))
	t.Logf("%d keys on %d pages of at most %d bytes", len(seen), pages, biggest)
	require.LessOrEqual(t, biggest, 40_000)
}

// A key whose record is damaged is said, and the others are shown.
func TestDamagedRecord(t *testing.T) {
	w := &watched{}
	e := newEnv(t, keypage.Config{}, w.change())
	e.issue(named("first"))
	bad := e.issue(named("second")).Key
	e.issue(named("third"))
	w.damaged = bad.ID
	e.get("").shows(200, "first", "third", "1 key of this page cannot be shown").lacks("second", "forged")
	for _, rest := range []string{"", "/edit", "/regenerate", "/revoke"} {
		e.get(e.keyPath(bad.ID, rest)).shows(500, "What is stored of it cannot be trusted").lacks("MAC", "forged")
	}
	require.Contains(t, e.log.String(), bad.ID.String())
	q := e.get("").form("Revoke selected").request("Revoke selected")
	q.form["id"] = []string{bad.ID.String()}
	e.do(q).shows(500, "What is stored of it cannot be trusted")
	e.get("/log").shows(200, "Key created")
}

// Store, KEK and mail server are away: the screen says so and nothing of the cause, and
// nobody needs a second code.
func TestAway(t *testing.T) {
	w, kek := &watched{}, &faultyKEK{}
	e := newEnv(t, keypage.Config{}, w.change(), guard([]string{"email"}), func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		kek.KEK = c.KEKs[0]
		c.KEKs = []apikey.KEK{kek}
	})
	away := func(a reply) {
		t.Helper()
		a.shows(503).lacks("10.0.3", "refused", "connection")
		require.Contains(t, a.words(), "not possible at the moment")
		require.NotEmpty(t, a.header.Get("Retry-After"))
	}
	k := e.issue(recoverable).Key
	key := e.get(e.keyPath(k.ID, ""))
	page := e.get("/new")
	w.away.Store(true)
	for _, path := range []string{"", e.keyPath(k.ID, ""), e.keyPath(k.ID, "/edit"), "/log", "/factors"} {
		away(e.get(path))
	}
	a := e.get("").shows(503, "Keys that work go on working")
	require.Contains(t, a.words(), a.header.Get("X-Request-Id"))
	w.away.Store(false)

	e.program.Mailbox.Fail(errors.New("smtp 10.0.3.9: refused"))
	f := page.form("Create key").set("name", "Shop")
	away(f.press("Create key"))
	e.program.Mailbox.Fail(nil)
	asked := f.press("Create key").shows(202)
	code := e.code()
	w.away.Store(true)
	again := asked.form("Confirm").set("approval.answer", code).press("Confirm").shows(503, "the same answer works")
	w.away.Store(false)
	again.form("Confirm").set("approval.answer", code).press("Confirm").shows(200, "API key created")
	require.Len(t, e.program.Mailbox.All(), 1)

	asked = key.press("Reveal key").shows(202)
	code = e.code()
	kek.away.Store(true)
	again = asked.form("Confirm").set("approval.answer", code).press("Confirm").shows(503, "the same answer works").lacks("10.0.3")
	again = again.form("Confirm").set("approval.answer", code).press("Confirm").shows(503, "the same answer works")
	kek.away.Store(false)
	again.form("Confirm").set("approval.answer", code).press("Confirm").shows(200, "Key revealed")
	require.Len(t, e.program.Mailbox.All(), 2)
	require.Contains(t, e.log.String(), "10.0.3.7")
	require.Contains(t, e.log.String(), "10.0.3.8")
}

// A header or footer that fails is no half page, and the cause is in the log.
func TestFailingHeader(t *testing.T) {
	e := newEnv(t, keypage.Config{Header: template.Must(template.New("").Parse(`<nav>{{template "none"}}</nav>`))})
	r := must(http.NewRequest("GET", e.server+e.path(""), nil))
	r.Header.Set("X-User", anna)
	res := must(client.Do(r))
	res.Body.Close()
	require.Equal(t, 500, res.StatusCode)
	require.Contains(t, e.log.String(), "could not be rendered")
}

// Through the page, an expiry that is chosen on the days of a clock change is stored as the
// end of that day, and shown as it again. A rename by somebody in another zone moves
// nothing and asks for nothing.
func TestDaysOfAClockChange(t *testing.T) {
	t.Parallel()
	days := 0
	zones := map[string]*time.Location{}
	for _, name := range []string{"Asia/Jakarta", "Asia/Dhaka", "Pacific/Kiritimati", "America/Los_Angeles", "UTC", "America/Santiago", "Asia/Beirut", "Africa/Cairo", "America/Havana"} {
		zones[name] = zone(name)
	}
	var here string
	e := newEnv(t, keypage.Config{Zone: func(a apikey.Actor) *time.Location {
		if a.ID == "ben" {
			return zone("Pacific/Marquesas")
		}
		return zones[here]
	}}, guard([]string{"email"}, apikey.ActionWiden), func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		c.Limits = apikey.Limits{LiveKeys: 300, IssuesAnHour: 1000}
	})
	change := func(z *time.Location, from time.Time) (at time.Time) {
		for at = from; at.Before(from.AddDate(1, 0, 0)); at = at.Add(15 * time.Minute) {
			_, was := at.Add(-15 * time.Minute).In(z).Zone()
			if _, is := at.In(z).Zone(); is != was {
				return at
			}
		}
		return time.Time{}
	}
	start := e.program.Clock.Now().Add(3 * day).Truncate(time.Hour)
	for name, z := range zones {
		here = name
		first := change(z, start)
		if first.IsZero() { // its clock is never changed; that of others is
			first = change(zones["America/Los_Angeles"], start)
		}
		second := first.AddDate(0, 6, 0)
		if at := change(z, first.Add(time.Hour)); !at.IsZero() {
			second = at
		}
		for _, at := range []time.Time{first, second} {
			for _, offset := range []int{-1, 0, 1} {
				chosen := at.In(z).AddDate(0, 0, offset)
				text := chosen.Format("2006-01-02")
				made := e.get("/new").form("Create key").set("name", "Shop").set("expires", text).press("Create key").shows(200, "API key created")
				k := e.keys()[0]
				require.Equal(t, text, k.ExpiresAt.Add(-time.Nanosecond).In(z).Format("2006-01-02"), name)
				for after := range 12 { // no later instant is of that day
					require.Greater(t, k.ExpiresAt.Add(time.Duration(after)*15*time.Minute).In(z).Format("2006-01-02"), text, name)
				}
				made.press("Done").shows(200, chosen.Format("2 January 2006"))
				edit := e.get(e.keyPath(k.ID, "/edit")).form("Save")
				require.Equal(t, text, edit.value("expires"))
				edit.set("name", "Renamed").press("Save").shows(200, "Saved.")
				e.user = "acc_1/ben/admin"
				theirs := e.get(e.keyPath(k.ID, "/edit")).form("Save")
				theirs.set("name", "By Ben").press("Save").shows(200, "Saved.")
				e.user = anna
				now := e.key(k.ID)
				require.Equal(t, "By Ben", now.Name)
				require.True(t, now.ExpiresAt.Equal(k.ExpiresAt))
				require.NoError(t, e.open().Revoke(e.as(anna), apikey.RevokeRequest{Key: k.ID, Reason: apikey.ReasonRequested}))
				days++
			}
		}
	}
	require.Empty(t, e.program.Mailbox.All(), "no code was asked for")
	t.Logf("%d days in %d zones", days, len(zones))

	// An expiry within a day is kept, unless another is chosen.
	here = "Asia/Dhaka"
	within := e.program.Clock.Now().Add(100*day + 90*time.Minute).Truncate(time.Minute)
	k := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = within }).Key
	f := e.get(e.keyPath(k.ID, "/edit")).shows(200, "Keep", within.In(zones[here]).Format("15:04")).form("Save")
	require.Equal(t, "1", f.value("keep"))
	f.set("name", "Renamed").press("Save").shows(200, "Saved.")
	require.True(t, e.key(k.ID).ExpiresAt.Equal(within))
	earlier := within.Add(-20 * day).In(zones[here])
	f = e.get(e.keyPath(k.ID, "/edit")).form("Save").set("expires", earlier.Format("2006-01-02"))
	require.Equal(t, "1", f.value("keep"), "the box is still ticked")
	f.press("Save").shows(200, "Saved.", earlier.Format("2 January 2006"))
	k = e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = within }).Key
	e.get(e.keyPath(k.ID, "/edit")).form("Save").set("keep").press("Save").shows(202, "Confirm that it is you") // never is more than an expiry
	require.True(t, e.key(k.ID).ExpiresAt.Equal(within))

	// A time that the clock skips is refused, and one that it shows twice is chosen.
	here = "America/Los_Angeles"
	z := zones[here]
	at := start
	for skipped, twice := false, false; !skipped || !twice; {
		at = change(z, at)
		_, was := at.Add(-time.Hour).In(z).Zone()
		_, is := at.In(z).Zone()
		local := at.Add(30 * time.Minute).UTC().Add(time.Duration(was) * time.Second).Format("2006-01-02T15:04")
		if is < was {
			local = at.Add(30 * time.Minute).In(z).Format("2006-01-02T15:04")
		}
		k := e.issue().Key
		f := e.get(e.keyPath(k.ID, "/regenerate")).form("Save").set("time", "at").set("at", local)
		if is > was {
			skipped = true
			f.press("Save").shows(400, "This time does not exist")
			require.Equal(t, 1, e.key(k.ID).Credentials.Len())
		} else {
			twice = true
			a := f.press("Save").shows(400, "This time comes twice", "PDT", "PST")
			a.form("Save").press("Save").shows(400, "This time comes twice")
			q := a.form("Save").set("offset", "-08:00").request("Save")
			q.form.Set("overlap", "x")
			require.Equal(t, "-08:00", e.do(q).shows(400, "This does not have the form").form("Save").value("offset"))
			a.form("Save").set("offset", "-08:00").press("Save").shows(200, "New secret key", "PST")
			for c := range e.key(k.ID).Credentials.All() {
				require.True(t, c.NotBefore.Equal(at.Add(30*time.Minute-5*time.Second)), c.NotBefore) // Skew
				e.get(e.keyPath(k.ID, "")).shows(200, "new key from "+at.Add(30*time.Minute).In(z).Format("2 January 2006, 15:04 MST"))
				break
			}
		}
		at = at.Add(time.Hour)
	}
}
