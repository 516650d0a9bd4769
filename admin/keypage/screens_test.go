package keypage_test

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/keypage"
)

// seed makes keys in every state, named by digits, and events of every kind.
func (e *env) seed(more int) {
	e.t.Helper()
	now := e.program.Clock.Now()
	m, ctx := e.open(), e.as(anna)
	n := 0
	issue := func(changes ...func(*apikey.IssueRequest)) apikey.Info {
		n++
		return e.issue(append([]func(*apikey.IssueRequest){named(fmt.Sprint(n)), recoverable}, changes...)...).Key
	}
	for range more {
		issue(func(r *apikey.IssueRequest) { r.Disabled = true })
	}
	issue(func(r *apikey.IssueRequest) { r.ExpiresAt = now.Add(5 * day).Truncate(day) })
	issue(func(r *apikey.IssueRequest) {
		r.ExpiresAt, r.Abilities = now.Add(400*day), []string{"payment:*", "balance=read", "report=write"}
		r.Networks, r.Origins = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, []string{"https://1.2"}
		r.RotateMonths, r.Metadata = 1, map[string]string{"1": "2"}
	})
	issue(func(r *apikey.IssueRequest) { r.Disabled = true })
	issue(func(r *apikey.IssueRequest) { r.ExpiresAt = now.Add(time.Minute) })
	issue(func(r *apikey.IssueRequest) { r.Abilities = nil })
	issue(func(r *apikey.IssueRequest) {
		r.Kind, r.Recoverable, r.Abilities = apikey.Publishable, false, []string{"card:tokenize"}
	})
	issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
	revoked := issue()
	require.NoError(e.t, m.Revoke(ctx, apikey.RevokeRequest{Key: revoked.ID, Reason: apikey.ReasonCompromised}))
	used := e.issue(recoverable, named("0"))
	e.use(used.Token.Reveal())
	overlapping, waiting, both := used.Key, issue(), issue()
	must(m.Rotate(ctx, apikey.RotateRequest{Key: overlapping.ID, Overlap: time.Hour}))
	must(m.Rotate(ctx, apikey.RotateRequest{Key: waiting.ID, At: now.Add(2 * day)}))
	must(m.Rotate(ctx, apikey.RotateRequest{Key: both.ID, At: now.Add(2 * day), Overlap: day}))
	operator := apikey.WithActor(e.t.Context(), apikey.Operator("staff"))
	must(m.Update(operator, apikey.UpdateRequest{Key: both.ID, Metadata: apikey.Set(map[string]string{"1": "3"})}))
	_, err := m.Issue(e.as(viewer), apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(e.t, err, apikey.ErrForbidden)
	e.use(e.issue(named("")).Token.Reveal())
	e.program.Clock.Move(2 * time.Minute)
}

var varying = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|cursor=[^&]*`)

// crawl visits all that links and forms without a change lead to, and calls see for each.
func (e *env) crawl(ofEach int, see func(reply)) {
	e.t.Helper()
	seen := map[string]bool{}
	shapes := map[string]int{} // paths without IDs and cursors
	var visit func(string)
	visit = func(to string) {
		if seen[to] || !strings.HasPrefix(to, e.path("")) || strings.Contains(to, "/assets/") {
			return
		}
		shape := varying.ReplaceAllString(to, "*")
		seen[to] = true
		if shapes[shape]++; shapes[shape] > ofEach {
			return
		}
		a := e.do(request{path: to})
		require.NotContains(e.t, []int{500, 503}, a.status, to)
		see(a)
		for _, link := range a.links("") {
			visit(link)
		}
		for _, f := range a.forms() {
			if f.method != "GET" {
				continue
			}
			visit(f.action + "?" + f.values("").Encode())
			for _, c := range f.controls {
				if ofEach < 3 {
					continue
				}
				for _, value := range c.values {
					query := f.values("")
					query.Set(c.name, value)
					visit(f.action + "?" + query.Encode())
				}
			}
		}
	}
	visit(e.path(""))
	visit(e.path("/factors"))
	visit(e.path("/log"))
}

// pressed are the screens that only a button leads to, each once.
func (e *env) pressed(see func(reply)) {
	e.t.Helper()
	w := e.settings.Store.(*watched)
	m := e.open()
	texts := e.texts()
	press := func(a reply, text string, set ...string) reply {
		e.t.Helper()
		f := a.form(texts(text))
		for i := 0; i < len(set); i += 2 {
			f.set(set[i], set[i+1])
		}
		b := f.press(texts(text))
		see(b)
		return b
	}
	mailed := func(a reply) reply {
		e.program.Clock.Move(20 * time.Minute)
		return press(a, "factor.email.button")
	}
	if e.config.Layout != keypage.SinglePair {
		page := e.get("/new")
		press(page, "new.submit", "name", " ", "expires", "2027-02-29")
		chosen := press(page, "new.submit", "name", "1", "expires", "2099-12-31")
		asked := mailed(chosen)
		press(asked, "confirm.button", "approval.answer", wrongCode(e.code()))
		press(asked, "confirm.button", "approval.answer", "")
		press(asked, "cancel")
		press(press(chosen, "factor.password.button"), "confirm.button", "approval.answer", "wrong horse")
		w.away.Store(true)
		see(asked.form(texts("confirm.button")).set("approval.answer", e.code()).press(texts("confirm.button")))
		see(e.get(""))
		w.away.Store(false)
		code := e.code()
		press(asked, "confirm.button", "approval.answer", code)
		press(asked, "confirm.button", "approval.answer", code)
		q := page.form(texts("new.submit")).set("name", "1").request(texts("new.submit"))
		q.form.Set("scope", "payment:steal")
		see(e.do(q))
		user := e.user
		for _, e.user = range []string{"-", other} {
			see(e.do(q))
			see(e.get("/new"))
		}
		e.user = user
		q.header = map[string]string{"Origin": "https://evil.example"}
		see(e.do(q))
	}
	k := e.issue(named("1"), recoverable, func(r *apikey.IssueRequest) { r.ExpiresAt = e.program.Clock.Now().Add(90*time.Hour + time.Minute) }).Key
	key := func() reply { return e.get(e.keyPath(k.ID, "")) }
	reveal := mailed(press(key(), "reveal"))
	press(reveal, "confirm.button", "approval.answer", e.code())
	edit := e.get(e.keyPath(k.ID, "/edit"))
	press(edit, "save", "name", " ", "expires", "2027-02-29")
	regenerate := e.get(e.keyPath(k.ID, "/regenerate"))
	q := regenerate.form(texts("save")).request(texts("save"))
	q.form.Set("overlap", "x")
	see(e.do(q))
	press(regenerate, "save", "time", "at")
	f := regenerate.form(texts("save"))
	if e.config.Terms.URL != "" {
		f.set("agree", "1")
	}
	asked := mailed(f.set("time", "at").set("at", e.program.Clock.Now().Add(2*day).Format("2006-01-02T15:04")).press(texts("save")))
	if !asked.hasButton(texts("confirm.button")) {
		e.t.Fatal(asked.words())
	}
	press(asked, "confirm.button", "approval.answer", e.code())
	press(e.get(e.keyPath(k.ID, "/regenerate")), "save", pairIf(e.config.Terms.URL != "", "agree", "1")...)
	press(press(key(), "cancel_rotation"), "suspend")
	press(key(), "resume")
	revoke := e.get(e.keyPath(k.ID, "/revoke"))
	press(revoke, "revoke.button")
	press(revoke, "revoke.button", "reason", "leaked")
	see(edit.form(texts("save")).press(texts("save")))
	if e.config.Layout == keypage.OneList {
		list := e.get("")
		for range 2 {
			var ids []string
			for _, c := range list.form(texts("revoke_many.button")).controls {
				if c.kind == "checkbox" && len(ids) < 2 {
					ids = append(ids, c.value)
				}
			}
			many := list.form(texts("revoke_many.button")).set("id", ids...).press(texts("revoke_many.button"))
			see(many)
			press(many, "revoke.button", "count", "")
			press(many, "revoke.button", "count", "2")
			unneeded := many.form(texts("revoke.button")).set("count", "2").request(texts("revoke.button"))
			unneeded.form.Set("reason", "unneeded")
			see(e.do(unneeded))
			press(many, "revoke.button", "count", "2", "reason", "leaked")
			list = e.get("")
		}
	}
	log := e.get("/log?key=" + k.ID.String())
	press(log, "log.check")
	w.forged.Store(true)
	see(e.get("/log?key=" + k.ID.String()))
	press(log, "log.check")
	w.forged.Store(false)
	setup := mailed(press(e.get("/factors"), "factors.enroll"))
	setup = press(setup, "confirm.button", "approval.answer", e.code())
	press(setup, "confirm.button", "answer", "000000")
	press(setup, "confirm.button", "answer", e.program.Code("otpauth://totp/x?secret="+setup.token()))
	e.program.Clock.Move(time.Minute)
	press(key0(e, m), "reveal")
	press(press(key0(e, m), "reveal"), "factor.totp.button")
	press(e.get("/factors"), "factors.replace")
	press(e.get("/factors"), "factors.disable")
	w.damaged = k.ID
	see(e.get(""))
	see(key())
	w.damaged = apikey.KeyID{}
}

func pairIf(is bool, pair ...string) []string {
	if is {
		return pair
	}
	return nil
}

// key0 is the screen of a new key.
func key0(e *env, _ *apikey.Manager) reply {
	return e.get(e.keyPath(e.issue(named("2"), recoverable).Key.ID, ""))
}

// texts are those of the language that e.header asks for.
func (e *env) texts() func(string) string {
	code := "en"
	if lang := e.header["Accept-Language"]; lang != "" {
		code = lang
	}
	var texts map[string]string
	if own, ok := e.config.Messages.(messages); ok && own[code+".json"] != "" {
		require.NoError(e.t, json.Unmarshal([]byte(own[code+".json"]), &texts))
	} else {
		texts = textsOf(e.t, code)
	}
	return func(name string) string {
		require.NotEmpty(e.t, texts[name], name)
		return texts[name]
	}
}

func textsOf(t *testing.T, code string) (texts map[string]string) {
	t.Helper()
	b, err := os.ReadFile("text/" + code + ".json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &texts))
	return texts
}

func languagesOf(t *testing.T) (codes []string) {
	t.Helper()
	files, err := filepath.Glob("text/*.json")
	require.NoError(t, err)
	for _, f := range files {
		codes = append(codes, strings.TrimSuffix(filepath.Base(f), ".json"))
	}
	return codes
}

// pseudo is English in brackets, with other digits: what stands outside of them was
// written past the texts.
func pseudo(t *testing.T) messages {
	texts := map[string]string{}
	for name, text := range textsOf(t, "en") {
		texts[name] = "⟦" + text + "⟧"
	}
	for _, a := range strings.Fields("payment:charge payment:refund payment:* balance balance=read balance=write report report=read report=write card:tokenize") {
		texts["ability."+a+".title"] = "⟦" + a + "⟧"
	}
	texts["digits"] = "۰۱۲۳۴۵۶۷۸۹"
	b, err := json.Marshal(texts)
	require.NoError(t, err)
	return messages{"xx.json": string(b)}
}

// full has every field.
func full() keypage.Config {
	return keypage.Config{
		SignIn: func(*http.Request, string) string { return "/login" },
		Who:    func(a apikey.Actor) string { return map[bool]string{true: "1"}[a.ID == "anna"] },
		People: func(id string) string { return map[string]string{"anna": "1"}[id] },
		Header: template.Must(template.New("").Parse(`<nav aria-label="1">{{if .}}data{{end}}</nav>`)),
		Footer: template.Must(template.New("").Parse(`<footer>1</footer>`)),
		Zone: func(a apikey.Actor) *time.Location {
			if a.Account == "acc_2" {
				return nil
			}
			return zone("Asia/Dhaka")
		},
		Fields: []keypage.Field{keypage.Networks, keypage.Origins, keypage.Rotation}, Metadata: []string{"1"}, Stylesheet: "/static/keys.css", Recoverable: keypage.Ask, ClientID: func(k apikey.Info) string { return "1-" + k.ID.String()[:4] },
		Endpoints:      []keypage.Endpoint{{Name: "1", URL: "https://1.2/3"}, {Name: "2", Description: "3", URL: "https://1.2/4"}},
		PublicKeys:     []keypage.PublicKey{{Name: "1", Text: "2"}},
		Terms:          keypage.Terms{Version: "1", URL: "https://1.2/terms"},
		FrameAncestors: []string{"https://dash.example"},
	}
}

var limits = func(_ *apikey.Settings, c *apikey.ManagerConfig) {
	c.Limits = apikey.Limits{LiveKeys: 300, IssuesAnHour: 1000}
}

// A field of Config that no test of the screens sets is noticed.
func TestEveryFieldIsSet(t *testing.T) {
	elsewhere := strings.Fields("Manager Actor Path Mount Language Messages Layout Hide Origins Now Logger")
	c := reflect.ValueOf(full())
	for i := range c.NumField() {
		name := c.Type().Field(i).Name
		require.NotEqual(t, slices.Contains(elsewhere, name), !c.Field(i).IsZero(), name)
	}
}

// Every screen is rendered in every state, for every layout, with and without each field of
// Config, in every language; and nothing on it was written past the texts.
func TestScreens(t *testing.T) {
	codes := append(languagesOf(t), "xx")
	var visited atomic.Int64
	t.Cleanup(func() { t.Logf("%d screens", visited.Load()) })
	for _, code := range codes {
		for _, layout := range []keypage.Layout{keypage.OneList, keypage.ByProduct, keypage.SinglePair} {
			for _, all := range []bool{true, false} {
				if code != "xx" && (!all || layout != keypage.OneList) {
					continue // a language changes no branch
				}
				t.Run(fmt.Sprint(code, layout, all), func(t *testing.T) {
					t.Parallel()
					c := keypage.Config{}
					if all {
						c = full()
					}
					c.Layout = layout
					if code == "xx" {
						c.Messages = pseudo(t)
					}
					w := &watched{}
					e := newEnv(t, c, w.change(), limits, func(_ *apikey.Settings, c *apikey.ManagerConfig) {
						c.Policy = readers{}
						c.StepUp = func(a apikey.Action, _ apikey.Mode) []string {
							if slices.Contains(guardable, a) {
								return []string{"email", "password", "totp"}
							}
							return nil
						}
					})
					e.header = map[string]string{"Accept-Language": code}
					screens := map[string]bool{}
					see := func(a reply) {
						visited.Add(1)
						if a.text == "" {
							return
						}
						require.Contains(t, a.text, `<html lang="`+code+`">`)
						m := regexp.MustCompile(`data-screen="([a-z_]+)"`).FindStringSubmatch(a.text)
						require.NotNil(t, m)
						screens[m[1]] = true
						if code == "xx" {
							inBrackets(t, a)
						}
					}
					e.crawl(2, see)
					e.user = viewer
					e.crawl(1, see)
					e.user = anna
					more, ofEach := 0, 2
					switch {
					case code != "xx":
						ofEach = 1
					case all && layout == keypage.OneList:
						more, ofEach = 45, 14
					}
					e.seed(more)
					e.crawl(ofEach, see)
					e.user = viewer
					e.crawl(2, see)
					e.user = anna
					e.pressed(see)
					want := keypage.Screens()
					if layout != keypage.OneList {
						want = slices.DeleteFunc(want, func(s string) bool { return s == "revoke_many" })
					}
					for _, name := range want {
						require.True(t, screens[name], "no screen %s", name)
					}
				})
			}
		}
	}
}

// States that take a program of their own.
func TestRareScreens(t *testing.T) {
	e := newEnv(t, keypage.Config{SignIn: func(*http.Request, string) string { return "" }}, func(s *apikey.Settings, c *apikey.ManagerConfig) {
		s.Catalog = apikey.MustCatalog()
		delete(c.Factors, "totp")
	})
	e.get("").shows(200, "No keys yet").lacks("Factors")
	f := e.get("/new").form("Create key").set("name", "Shop")
	f.press("Create key").shows(200, "API key created").press("Done").shows(200, "None")
	q := e.get("/new").form("Create key").set("name", "Shop").request("Create key")
	q.form.Set("scope", "payment:charge")
	e.do(q).shows(400, "is not known here")
	e.user = "-"
	require.Empty(t, e.get("").shows(401, "Sign in to go on").links(""))

	e = newEnv(t, keypage.Config{}, func(s *apikey.Settings, c *apikey.ManagerConfig) {
		s.Catalog = apikey.MustCatalog(apikey.CatalogEntry{Product: "balance"}, apikey.CatalogEntry{Product: "report"})
		c.Limits.Abilities = 1
	})
	e.get("/new").form("Create key").set("name", "Shop").set("product.balance", "read").set("product.report", "read").press("Create key").shows(400, "These are too many: at most 1")
}

var (
	written   = regexp.MustCompile(`(?s)<(code|textarea|title|datalist)\b[^>]*>.*?</(code|textarea|title|datalist)>`)
	spoken    = regexp.MustCompile(`(?:aria-label|title|placeholder|alt|data-(?:copied|press|hidden|left|failed))="([^"]*)"`)
	brackets  = regexp.MustCompile(`⟦[^⟦⟧]*⟧`)
	untouched = regexp.MustCompile(`\b(anna|victor|usr_acc_1|staff|acc_1|UTC|QR|password|email|totp)\b|127\.0\.0\.1|https?://\S+`)
)

// inBrackets checks that all words of a screen come from the texts.
func inBrackets(t *testing.T, a reply) {
	t.Helper()
	main := written.ReplaceAllString(inMain.FindString(a.text), "")
	all := []string{reply{text: main, e: a.e}.words()}
	for _, m := range spoken.FindAllStringSubmatch(a.text, -1) {
		all = append(all, m[1])
	}
	for _, text := range all {
		for brackets.MatchString(text) {
			text = brackets.ReplaceAllString(text, "")
		}
		text = untouched.ReplaceAllString(text, "")
		if i := strings.IndexFunc(text, unicode.IsLetter); i >= 0 {
			t.Errorf("%s %s: not from the texts: %.80q", a.sent, a.at, text[i:])
		}
	}
}

// Config.Messages replaces texts and adds languages; one that cannot be right is an error.
func TestMessages(t *testing.T) {
	e := newEnv(t, keypage.Config{Messages: messages{"en.json": `{"list.title": "Our keys"}`, "fr.json": `{"list.title": "Clés"}`}, Language: func(r *http.Request) string { return r.URL.Query().Get("lang") }})
	e.get("?lang=fr").shows(200, "Clés", "No keys yet")
	for header, title := range map[string]string{"fr": "Clés", "fr-CH, en;q=0.9": "Clés", "en;q=0.5, fr;q=0.9": "Clés", "de, en": "Our keys", "": "Our keys", "fr;q=0": "Our keys", "fr;q=x": "Our keys", ";;;,,": "Our keys"} {
		e.header = map[string]string{"Accept-Language": header}
		e.get("?lang=nl").shows(200, title)
	}
	for file, text := range map[string]string{
		"a placeholder is missing": `{"span.days": "days"}`,
		"another placeholder":      `{"span.days": "{n} {x} days"}`,
		"no object":                `[]`,
		"no JSON":                  `{`,
		"no text":                  `{"span.days": 1}`,
	} {
		c := e.config
		c.Messages = messages{"fr.json": text}
		_, err := keypage.New(c)
		require.ErrorContains(t, err, "Config.Messages", file)
	}
}

// hostile are texts of people who mean harm. Each has the word "hostile", so that it is
// found wherever it ends up.
var hostile = []string{
	`<script>hostile()</script>`, `</script><script>hostile()</script>`, `"><img src=x onerror=hostile()>`, `' onmouseover='hostile()`, `" onfocus="hostile()" autofocus="`,
	`javascript:hostile()`, `data:text/html,<script>hostile()</script>`, `<svg/onload=hostile()>`, `</textarea><b>hostile`, `</title><hostile>`, `<!--hostile`, `]]><hostile>`,
	`{{.hostile}}`, `${hostile}`, `{name}{n}hostile`, `&lt;hostile&gt;`, `&#x3c;hostile&#x3e;`, `\"hostile\u003cscript\u003e`, `hostile%3Cscript%3E`, "hostile\t\n\r", "hostile\u202egnp.exe",
	"hostile\u2066\u2069\u200f", "hostile\u2028\u2029", "hostile\x00\x07\x1b[31m", "hostile\x7f\u0085", "hostile\xff\xfe", "hostile\ufeff\u200b\u00ad", "hostile" + strings.Repeat("x", 150),
	"hostile" + strings.Repeat("\u0301", 80), `<a href="//evil.example/hostile">`, `=HYPERLINK("hostile")`, "../../hostile", "hostile' OR '1'='1",
}

var values = regexp.MustCompile(`="[^"]*"`)

// Whatever people write, and wherever: it is text on each screen, and what cannot be seen
// or turns the direction of text is a mark.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	var now string
	c := full()
	c.FrameAncestors = nil
	c.Who = func(apikey.Actor) string { return now }
	c.People = func(string) string { return now }
	c.ClientID = func(apikey.Info) string { return now }
	c.SignIn = func(_ *http.Request, back string) string { return "/login?back=" + url.QueryEscape(back) }
	c.Actor = func(r *http.Request) (apikey.Actor, error) {
		if r.Header.Get("X-User") == "" {
			return actorIn(r)
		}
		id := "anna"
		if utf8.ValidString(now) && !strings.Contains(now, "\x00") { // others no Manager takes
			id += " " + now
		}
		return apikey.Actor{Account: "acc_1", ID: id, Role: "admin", Addr: now, UserAgent: now}, nil
	}
	c.Endpoints[0] = keypage.Endpoint{Name: `<b>hostile"`, Description: `<b>hostile"`, URL: `javascript:"hostile`}
	c.PublicKeys[0] = keypage.PublicKey{Name: `<b>hostile"`, Text: `</textarea><b>hostile`}
	e := newEnv(t, c, guard([]string{"email"}, apikey.ActionUpdate), limits)
	seen, stored := 0, 0
	harmless := func(a reply) reply {
		seen++
		bare := values.ReplaceAllString(a.text, "")
		for _, tag := range tags.FindAllString(bare, -1) {
			require.NotContains(t, tag, "hostile", "%s %s", a.sent, a.at)
			require.False(t, strings.Contains(tag, " on") || strings.Contains(tag, "/on"), "%s in %s", tag, a.at)
		}
		for _, r := range a.words() + strings.Join(spoken.FindAllString(a.text, -1), "") {
			require.False(t, r != '\n' && unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029', "%U on %s %s", r, a.sent, a.at)
		}
		return a
	}
	for i, text := range hostile {
		now = text
		ctx := apikey.WithActor(t.Context(), apikey.Actor{Account: "acc_1", ID: text, Role: "admin", UserAgent: text, Addr: text, RequestID: text})
		k, err := e.open().Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Name: text, Recoverable: true, Metadata: map[string]string{fmt.Sprint("m", i): text}})
		if err != nil {
			k, err = e.open().Issue(e.as(anna), apikey.IssueRequest{Mode: apikey.Live, Name: "plain", Recoverable: true})
			require.NoError(t, err)
		} else {
			stored++
		}
		q := url.QueryEscape(text)
		for _, path := range []string{"", "?name=" + q + "&status=" + q + "&used=" + q + "&mode=" + q + "&did=" + q + "&n=" + q, "?cursor=" + q, "/new?product=" + q, "/log?person=" + q, "/log?action=" + q + "&key=" + q, "/key/" + url.PathEscape(text)} {
			harmless(e.get(path))
		}
		for _, rest := range []string{"/edit", "/regenerate", "/revoke", "?did=" + q} {
			harmless(e.get(e.keyPath(k.Key.ID, rest)))
		}
		harmless(e.get(e.keyPath(k.Key.ID, "")).press("Reveal key"))
		send := func(path, button string, form ...string) reply {
			f := e.get(path).form(button).request(button)
			for i := 0; i < len(form); i += 2 {
				f.form.Set(form[i], form[i+1])
			}
			return harmless(e.do(f))
		}
		send("/new", "Create key", "name", text, "expires", text, "scope", text, "product", text, "product.balance", text, "mode", text, "idempotent", text, text, text)
		asked := send(e.keyPath(k.Key.ID, "/edit"), "Save", "name", fmt.Sprint("n", i), text, text)
		send(e.keyPath(k.Key.ID, "/edit"), "Save", "name", "y", "approval.challenge", text, "asked.factor", text, "asked.until", text)
		send(e.keyPath(k.Key.ID, "/edit"), "Save", "name", "y", "approval.factor", text)
		send(e.keyPath(k.Key.ID, "/regenerate"), "Save", "time", "at", "at", text, "overlap", text, "offset", text, "version", text+"1")
		send(e.keyPath(k.Key.ID, "/regenerate"), "Save", "time", "at", "at", text, "overlap", text, "offset", text)
		send(e.keyPath(k.Key.ID, "/revoke"), "Revoke", "reason", text)
		send("", "Revoke selected", "id", k.Key.ID.String(), "count", text, "mode", text)
		if asked.hasButton("Confirm") {
			harmless(asked.press("Cancel"))
		}
		f := asked.e.get("/new").form("Create key").request("Create key")
		f.form.Set("name", text)
		f.form.Set(text, text)
		f.without = []string{"X-User"}
		harmless(e.do(f))
		f.path = e.path("/factors/" + url.PathEscape(text))
		harmless(e.do(f))
		f.without = nil
		harmless(e.do(f))
		e.program.Clock.Move(2 * time.Hour)
	}
	t.Logf("%d hostile texts, %d stored as a name, on %d screens", len(hostile), stored, seen)
	require.Greater(t, stored, 15)
}
