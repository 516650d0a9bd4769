package keypage_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/admin/keypage"
	"github.com/go-apikey/apikey/apikeytest"
)

// All tests together execute each branch of each template.
func TestMain(m *testing.M) {
	branches := keypage.WatchBranches()
	status := m.Run()
	if left := branches.Left(); status == 0 && len(left) > 0 && flag.Lookup("test.run").Value.String() == "" {
		fmt.Printf("no test executes these branches of the templates:\n%s\n", strings.Join(left, "\n"))
		status = 1
	}
	os.Exit(status)
}

// env is a program with the page mounted, as a user mounts it. A request says in a header
// who is signed in.
type env struct {
	t       *testing.T
	program *apikeytest.Program
	config  keypage.Config
	log     *lockedBuffer
	server  string
	user    string
	header  map[string]string // of each request

	answers  []string        // that were typed: they come back on no screen
	secret   map[string]bool // tokens and setup keys that were shown
	settings apikey.Settings // of the program, for another node beside it
	manager  apikey.ManagerConfig

	unguarded *apikey.Manager
}

const (
	password = "correct horse"
	anna     = "acc_1/anna/admin"
	other    = "acc_2/olga/admin"
	viewer   = "acc_1/victor/viewer"
)

type change = func(*apikey.Settings, *apikey.ManagerConfig)

// newEnv starts the program. What StepUp guards is for the test to say.
func newEnv(t *testing.T, c keypage.Config, changes ...change) *env {
	t.Helper()
	e := &env{t: t, log: &lockedBuffer{}, user: anna, secret: map[string]bool{}}
	logger := slog.New(slog.NewTextHandler(e.log, nil))
	changes = append([]change{func(s *apikey.Settings, c *apikey.ManagerConfig) {
		s.Logger = logger
		s.Catalog = apikey.MustCatalog(
			apikey.CatalogEntry{Scope: "payment:charge", Description: "1 $"}, apikey.CatalogEntry{Scope: "payment:refund"},
			apikey.CatalogEntry{Product: "balance", Description: "2 $"}, apikey.CatalogEntry{Product: "report"},
			apikey.CatalogEntry{Scope: "card:tokenize", Publishable: true})
		c.Factors["password"] = must(apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) { return answer == password, nil }))
		c.InsecureRevealWithoutStepUp = true
	}}, changes...)
	changes = append(changes, func(s *apikey.Settings, c *apikey.ManagerConfig) { e.settings, e.manager = *s, *c })
	e.program = apikeytest.New(t, changes...)
	if c.Path == "" {
		c.Path = "/settings/keys"
	}
	if c.Actor == nil {
		c.Actor = actorIn
	}
	c.Manager, c.Now, c.Logger = e.program.Manager, e.program.Clock.Now, logger
	e.config = c
	e.server = e.serve(c)
	t.Cleanup(func() { e.holdsNoSecret("the log", e.log.String()) })
	return e
}

// serve serves the page without a ServeMux before it, which would redirect: see TestMounted.
// The answer is the URL of the server.
func (e *env) serve(c keypage.Config) string {
	e.t.Helper()
	server := httptest.NewServer(must(keypage.New(c)))
	e.t.Cleanup(server.Close)
	return server.URL
}

// guardable are all actions that can need a factor.
var guardable = []apikey.Action{
	apikey.ActionIssue, apikey.ActionProvision, apikey.ActionUpdate, apikey.ActionWiden, apikey.ActionResume, apikey.ActionRotate,
	apikey.ActionReveal, apikey.ActionRevoke, apikey.ActionAllowEnrollment, apikey.ActionDisable, apikey.ActionLiftLock,
}

// guard makes an action need one of the factors; without actions all that can.
func guard(factors []string, actions ...apikey.Action) change {
	return func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		c.StepUp = func(a apikey.Action, _ apikey.Mode) []string {
			if len(actions) == 0 && slices.Contains(guardable, a) || slices.Contains(actions, a) {
				return factors
			}
			return nil
		}
	}
}

// actorIn reads account/person/role from the header X-User.
func actorIn(r *http.Request) (apikey.Actor, error) {
	parts := strings.Split(r.Header.Get("X-User"), "/")
	if len(parts) != 3 {
		return apikey.Actor{}, admin.ErrSignIn
	}
	return apikey.Actor{Account: parts[0], ID: parts[1], Role: parts[2]}, nil
}

// reply is an answer of the page, after a redirect that it may have led to.
type reply struct {
	e      *env
	status int
	header http.Header
	text   string
	at     string // path and query of the request
	sent   string // its method
}

// request is one request; the zero one is a GET of the list.
type request struct {
	method, path string // of the browser
	form         url.Values
	header       map[string]string
	without      []string
	stay         bool // a redirect is not followed
}

var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 20},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// do makes a request, and checks what is so of each answer.
func (e *env) do(q request) reply {
	e.t.Helper()
	a := e.send(q)
	if a.status == 303 && !q.stay {
		to, err := url.Parse(a.header.Get("Location"))
		require.NoError(e.t, err)
		require.True(e.t, to.Host == "" && strings.HasPrefix(to.Path, "/") && !strings.HasPrefix(to.Path, "//"), "redirected to %s", to)
		return e.do(request{path: to.String(), header: q.header, without: q.without})
	}
	return a
}

func (e *env) send(q request) reply {
	e.t.Helper()
	if q.method == "" {
		q.method = "GET"
	}
	var body io.Reader
	if q.form != nil {
		body = strings.NewReader(q.form.Encode())
	}
	r, err := http.NewRequest(q.method, e.server+q.path, body)
	require.NoError(e.t, err)
	if q.method != "GET" {
		r.Header.Set("Origin", e.server)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if e.user != "-" {
		r.Header.Set("X-User", e.user)
	}
	for _, list := range []map[string]string{e.header, q.header} {
		for name, value := range list {
			r.Header.Set(name, value)
		}
	}
	for _, name := range q.without {
		r.Header.Del(name)
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	res, err := client.Do(r)
	require.NoError(e.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(e.t, err)
	a := reply{e, res.StatusCode, res.Header, string(text), r.URL.RequestURI(), q.method}
	for name, values := range q.form {
		if strings.HasSuffix(name, "answer") && values[0] != "" {
			e.answers = append(e.answers, values[0])
		}
	}
	e.check(a)
	return a
}

var (
	tokens    = regexp.MustCompile(`test_sk_(live|test)_[0-9A-Za-z]{20,}`)
	textareas = regexp.MustCompile(`(?s)<textarea id="ak-(?:secret|setup)"[^>]*>(.*?)</textarea>`)
	qrCodes   = regexp.MustCompile(`(?s)<svg class="qr".*?</svg>`)
)

// check is what is so of each answer: its headers, its HTML, and that it holds no secret,
// unless it is the screen of one.
func (e *env) check(a reply) {
	e.t.Helper()
	what := a.sent + " " + a.at
	require.False(e.t, a.status == 500 && a.text == "", "%s could not be rendered: %s", what, e.log)
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		"Referrer-Policy": "same-origin",
	} {
		require.Equal(e.t, []string{want}, a.header[name], what)
	}
	ancestors := "'none'"
	if len(e.config.FrameAncestors) > 0 {
		ancestors = strings.Join(e.config.FrameAncestors, " ")
		require.Empty(e.t, a.header.Get("X-Frame-Options"), what)
	} else {
		require.Equal(e.t, "DENY", a.header.Get("X-Frame-Options"), what)
	}
	require.Equal(e.t, "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors "+ancestors, a.header.Get("Content-Security-Policy"), what)
	require.Empty(e.t, a.header["Set-Cookie"], what)
	headers := a.header.Clone()
	var written strings.Builder
	require.NoError(e.t, headers.Write(&written))
	e.holdsNoSecret("a header of "+what, written.String())
	e.holdsNoSecret("the URL of "+what, a.at)
	if strings.Contains(a.at, "/assets/") {
		return
	}
	require.Equal(e.t, "no-store, no-transform", a.header.Get("Cache-Control"), what)
	if a.status == 303 || a.text == "" {
		return
	}
	require.Equal(e.t, "text/html; charset=utf-8", a.header.Get("Content-Type"), what)
	require.NotEmpty(e.t, a.header.Get("X-Request-Id"), what)
	if problems := wellFormed(a.text); len(problems) > 0 {
		e.t.Errorf("%s: %s\n%s", what, strings.Join(problems, "\n"), a.text)
	}
	rest := a.text
	if strings.Contains(a.text, "data-secret") {
		require.Equal(e.t, "POST", a.sent, "a GET shows a secret: %s", what)
		require.Equal(e.t, 200, a.status, what)
		for _, m := range textareas.FindAllStringSubmatch(a.text, -1) {
			require.False(e.t, e.secret[m[1]] && strings.Contains(a.text, "data-shown-once"), "shown once, and then again: %s", what)
			e.secret[m[1]] = true
			rest = strings.Replace(rest, m[0], "", 1)
		}
		rest = qrCodes.ReplaceAllString(rest, "")
	}
	e.holdsNoSecret("the screen of "+what, rest)
}

func (e *env) holdsNoSecret(what, text string) {
	e.t.Helper()
	if found := tokens.FindString(text); found != "" {
		e.t.Errorf("%s has %.16s…", what, found)
	}
	for _, word := range []string{"otpauth:", password, url.QueryEscape(password)} {
		if strings.Contains(text, word) {
			e.t.Errorf("%s has %s", what, word)
		}
	}
	for secret := range e.secret {
		if strings.Contains(text, secret) {
			e.t.Errorf("%s has a secret that was shown elsewhere", what)
		}
	}
	typed := slices.Clone(e.answers)
	for _, m := range e.program.Mailbox.All() {
		typed = append(typed, m.Message.Code())
	}
	for _, code := range typed {
		if hasWord(text, code) {
			e.t.Errorf("%s has the answer %q", what, code)
		}
	}
}

// hasWord reports whether a text has a word that is no part of a longer one.
func hasWord(text, word string) bool {
	part := func(c byte) bool {
		return c == '-' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
	}
	for at := 0; ; at++ {
		i := strings.Index(text[at:], word)
		if i < 0 {
			return false
		}
		at += i
		end := at + len(word)
		if (at == 0 || !part(text[at-1])) && (end == len(text) || !part(text[end])) {
			return true
		}
	}
}

// path is that of a screen.
func (e *env) path(rest string) string { return strings.TrimRight(e.config.Path, "/") + rest }

func (e *env) get(rest string) reply { e.t.Helper(); return e.do(request{path: e.path(rest)}) }

// shows checks the status and what the screen says.
func (a reply) shows(status int, texts ...string) reply {
	a.e.t.Helper()
	require.Equal(a.e.t, status, a.status, "%s %s: %s", a.sent, a.at, a.words())
	for _, text := range texts {
		require.Contains(a.e.t, a.words(), text, "%s %s", a.sent, a.at)
	}
	return a
}

func (a reply) lacks(texts ...string) reply {
	a.e.t.Helper()
	for _, text := range texts {
		require.NotContains(a.e.t, a.words(), text, "%s %s", a.sent, a.at)
	}
	return a
}

var (
	tags   = regexp.MustCompile(`(?s)<!?/?[a-zA-Z][^>]*>`)
	inMain = regexp.MustCompile(`(?s)<main.*</main>`)
)

// words are what a person reads on the screen.
func (a reply) words() string {
	text := a.text
	if i := strings.Index(text, "<main"); i >= 0 {
		text = text[i:strings.LastIndex(text, "</main>")]
	}
	var words []string
	for _, p := range split(text) {
		words = append(words, strings.Fields(html.UnescapeString(p.text))...)
	}
	return strings.Join(words, " ")
}

// token is the secret that the screen shows.
func (a reply) token() string {
	a.e.t.Helper()
	m := textareas.FindStringSubmatch(a.text)
	require.NotNil(a.e.t, m, "no secret is shown: %s", a.words())
	return html.UnescapeString(m[1])
}

// --- forms, as a browser without scripts submits them ---

type control struct {
	name, kind string
	value      string
	on         bool
	values     []string // of a select
}

type form struct {
	reply    reply
	method   string
	action   string
	controls []control
	buttons  map[string]control // by their text
}

var (
	formsIn    = regexp.MustCompile(`(?s)<form\b([^>]*)>(.*?)</form>`)
	controlsIn = regexp.MustCompile(`(?s)<input\b([^>]*)>|<select\b([^>]*)>(.*?)</select>|<textarea\b([^>]*)>(.*?)</textarea>|<button\b([^>]*)>(.*?)</button>`)
	optionsIn  = regexp.MustCompile(`(?s)<option\b([^>]*)>`)
	attributes = regexp.MustCompile(`([a-zA-Z-]+)(?:="([^"]*)")?`)
)

func attrs(text string) map[string]string {
	all := map[string]string{}
	for _, m := range attributes.FindAllStringSubmatch(text, -1) {
		all[m[1]] = html.UnescapeString(m[2])
	}
	return all
}

func has(m map[string]string, name string) bool { _, ok := m[name]; return ok }

// forms are those of the screen.
func (a reply) forms() (all []*form) {
	a.e.t.Helper()
	for _, m := range formsIn.FindAllStringSubmatch(a.text, -1) {
		of := attrs(m[1])
		f := &form{reply: a, method: strings.ToUpper(of["method"]), action: of["action"], buttons: map[string]control{}}
		require.NotEmpty(a.e.t, f.method, m[0])
		for _, c := range controlsIn.FindAllStringSubmatch(m[2], -1) {
			switch {
			case strings.HasPrefix(c[0], "<input"):
				in := attrs(c[1])
				one := control{name: in["name"], kind: in["type"], value: in["value"], on: true}
				if in["type"] == "checkbox" || in["type"] == "radio" {
					one.on = has(in, "checked")
				}
				f.controls = append(f.controls, one)
			case strings.HasPrefix(c[0], "<select"):
				one := control{name: attrs(c[2])["name"], kind: "select", on: true}
				for i, o := range optionsIn.FindAllStringSubmatch(c[3], -1) {
					option := attrs(o[1])
					one.values = append(one.values, option["value"])
					if i == 0 || has(option, "selected") {
						one.value = option["value"]
					}
				}
				f.controls = append(f.controls, one)
			case strings.HasPrefix(c[0], "<textarea"):
				if in := attrs(c[4]); in["name"] != "" { // that of a secret has none
					f.controls = append(f.controls, control{name: in["name"], kind: "textarea", value: html.UnescapeString(c[5]), on: true})
				}
			case strings.HasPrefix(c[0], "<button"):
				in := attrs(c[6])
				if in["type"] != "button" {
					f.buttons[strings.TrimSpace(html.UnescapeString(tags.ReplaceAllString(c[7], "")))] = control{name: in["name"], value: in["value"]}
				}
			}
		}
		all = append(all, f)
	}
	return all
}

// form is the one with the button.
func (a reply) form(button string) *form {
	a.e.t.Helper()
	for _, f := range a.forms() {
		if _, ok := f.buttons[button]; ok {
			return f
		}
	}
	require.Fail(a.e.t, "no form has the button "+button, a.words())
	return nil
}

func (a reply) hasButton(button string) bool {
	a.e.t.Helper()
	return slices.ContainsFunc(a.forms(), func(f *form) bool { _, ok := f.buttons[button]; return ok })
}

// value is what the browser would send of a control.
func (f *form) value(name string) string { return f.values("").Get(name) }

// set types into a field, or chooses; a field or choice that is not there fails.
func (f *form) set(name string, values ...string) *form {
	t := f.reply.e.t
	t.Helper()
	found := 0
	for i := range f.controls {
		c := &f.controls[i]
		if c.name != name || c.kind == "hidden" {
			continue
		}
		switch c.kind {
		case "checkbox", "radio":
			c.on = slices.Contains(values, c.value)
			if c.on {
				found++
			}
		case "select":
			require.Contains(t, c.values, values[0], name)
			c.value = values[0]
			found++
		default:
			c.value = values[0]
			found++
		}
	}
	require.Equal(t, len(values), found, "%s=%q: %s", name, values, f.reply.words())
	return f
}

func (f *form) values(button string) url.Values {
	v := url.Values{}
	for _, c := range f.controls {
		if c.on && c.name != "" {
			v.Add(c.name, c.value)
		}
	}
	if b := f.buttons[button]; b.name != "" {
		v.Add(b.name, b.value)
	}
	return v
}

// request is what the browser sends when the button is pressed.
func (f *form) request(button string) request {
	f.reply.e.t.Helper()
	require.Contains(f.reply.e.t, f.buttons, button, f.reply.words())
	if f.method == "GET" {
		path, _, _ := strings.Cut(f.action, "?")
		return request{path: path + "?" + f.values(button).Encode()}
	}
	return request{method: "POST", path: f.action, form: f.values(button)}
}

func (f *form) press(button string) reply {
	f.reply.e.t.Helper()
	return f.reply.e.do(f.request(button))
}

// press presses a button of the screen, with its form as it is.
func (a reply) press(button string) reply { a.e.t.Helper(); return a.form(button).press(button) }

var linksIn = regexp.MustCompile(`(?s)<a\b([^>]*)>(.*?)</a>`)

// links are the addresses of the links with a text, or all.
func (a reply) links(text string) (to []string) {
	for _, m := range linksIn.FindAllStringSubmatch(a.text, -1) {
		words := strings.TrimSpace(html.UnescapeString(tags.ReplaceAllString(m[2], "")))
		if text == "" || words == text {
			to = append(to, attrs(m[1])["href"])
		}
	}
	return to
}

func (a reply) follow(text string) reply {
	a.e.t.Helper()
	to := a.links(text)
	require.NotEmpty(a.e.t, to, "no link %q: %s", text, a.words())
	return a.e.do(request{path: to[0]})
}

// --- HTML ---

var void = strings.Fields("meta link input br img hr")

// piece is a tag or the text between two.
type piece struct {
	text   string // without a name
	name   string
	closes bool
	self   bool // it closes itself
	attrs  [][2]string
	tag    string
}

// split splits a page into tags and the texts between them, as the templates write them.
func split(page string) (all []piece) {
	for page != "" {
		i := strings.IndexByte(page, '<')
		if i != 0 {
			if i < 0 {
				i = len(page)
			}
			all = append(all, piece{text: page[:i]})
			page = page[i:]
			continue
		}
		end, quoted := 1, false
		for end < len(page) && (quoted || page[end] != '>') {
			quoted = quoted != (page[end] == '"')
			end++
		}
		end = min(end+1, len(page))
		p := piece{tag: page[:end]}
		page = page[end:]
		in := strings.TrimSuffix(strings.TrimPrefix(p.tag, "<"), ">")
		in, p.closes = strings.CutPrefix(in, "/")
		in, p.self = strings.CutSuffix(in, "/")
		p.name, in, _ = strings.Cut(in, " ")
		for in = strings.TrimLeft(in, " \n\t"); in != ""; in = strings.TrimLeft(in, " \n\t") {
			stop := strings.IndexAny(in, "= \n\t")
			switch {
			case stop < 0:
				p.attrs, in = append(p.attrs, [2]string{in}), ""
			case in[stop] == '=' && strings.HasPrefix(in[stop:], `="`):
				value, rest, _ := strings.Cut(in[stop+2:], `"`)
				p.attrs, in = append(p.attrs, [2]string{in[:stop], html.UnescapeString(value)}), rest
			default:
				p.attrs, in = append(p.attrs, [2]string{in[:stop]}), in[stop+1:]
			}
		}
		all = append(all, p)
	}
	return all
}

// wellFormed says what is wrong with a page: tags that do not match, IDs that are there
// twice, names that are empty or name nothing, and what a Content-Security-Policy forbids.
func wellFormed(page string) (wrong []string) {
	var open []string
	ids := map[string]int{}
	var refers []string
	for _, p := range split(page) {
		switch {
		case p.name == "":
			if strings.ContainsAny(p.text, "<>") {
				wrong = append(wrong, "a bracket that is no tag: "+p.text)
			}
			continue
		case p.name == "!doctype":
			continue
		case strings.Trim(p.name, "abcdefghijklmnopqrstuvwxyz0123456789") != "":
			wrong = append(wrong, "no tag: "+p.tag)
		case p.closes:
			if len(open) == 0 || open[len(open)-1] != p.name {
				wrong = append(wrong, fmt.Sprintf("%s closes %v", p.tag, open))
			} else {
				open = open[:len(open)-1]
			}
			continue
		case !p.self && !slices.Contains(void, p.name):
			open = append(open, p.name)
		}
		of := map[string]string{}
		for _, a := range p.attrs {
			attr, value := a[0], a[1]
			if has(of, attr) {
				wrong = append(wrong, "an attribute twice: "+p.tag)
			}
			of[attr] = value
			switch {
			case strings.ContainsAny(attr, `"'<>`):
				wrong = append(wrong, "an attribute that is none: "+p.tag)
			case attr == "id":
				ids[value]++
			case attr == "aria-label" && strings.TrimSpace(value) == "":
				wrong = append(wrong, "an empty name: "+p.tag)
			case attr == "for" || attr == "list" || attr == "aria-labelledby" || attr == "aria-describedby":
				refers = append(refers, strings.Fields(value)...)
			case strings.HasPrefix(attr, "on") || attr == "style":
				wrong = append(wrong, "inline: "+p.tag)
			case (attr == "href" || attr == "action" || attr == "src") && !strings.HasPrefix(value, "/") && !strings.HasPrefix(value, "https://"):
				wrong = append(wrong, "a relative address, which another screen resolves otherwise: "+p.tag)
			}
		}
		if p.name == "a" && of["target"] == "_blank" && !strings.Contains(of["rel"], "noopener") || p.name == "script" && of["src"] == "" {
			wrong = append(wrong, p.tag)
		}
		if p.name == "input" && of["name"] == "" && !has(of, "data-saved-box") {
			wrong = append(wrong, "without a name: "+p.tag)
		}
	}
	if len(open) > 0 {
		wrong = append(wrong, fmt.Sprintf("%v are not closed", open))
	}
	for id, n := range ids {
		if n > 1 || id == "" || strings.ContainsAny(id, " \t") {
			wrong = append(wrong, fmt.Sprintf("the ID %q is there %d times", id, n))
		}
	}
	for _, id := range refers {
		if ids[id] == 0 {
			wrong = append(wrong, "nothing has the ID "+id)
		}
	}
	for _, word := range []string{"ZgotmplZ", "%!", "<no value>", "&lt;no value"} {
		if strings.Contains(page, word) {
			wrong = append(wrong, word)
		}
	}
	if n := strings.Count(page, "<h1"); n != 1 {
		wrong = append(wrong, fmt.Sprintf("%d headings", n))
	}
	return wrong
}

// --- the program's parts, which fail when the test says so ---

// watched counts what is written to a store, and is away when the test says so.
type watched struct {
	apikey.Store
	writes atomic.Int64
	gets   atomic.Int64
	away   atomic.Bool
	hangs  atomic.Bool // reads of one key are not answered
	lost   atomic.Bool // the next Apply writes, and its answer is lost
	// damaged is a key whose record is read as if somebody had changed it, and forged
	// makes the events read so.
	damaged apikey.KeyID
	forged  atomic.Bool
	listed  func() // is called after each List
}

var errAway = errors.New("db 10.0.3.8: connection refused")

func (w *watched) change() change {
	return func(s *apikey.Settings, _ *apikey.ManagerConfig) { w.Store, s.Store = s.Store, w }
}

func (w *watched) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	if w.away.Load() {
		return errAway
	}
	w.writes.Add(1)
	err := w.Store.Apply(ctx, changes...)
	if err == nil && w.lost.Swap(false) {
		return errAway
	}
	return err
}

func (w *watched) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	if w.away.Load() {
		return apikey.StoreRecord{}, errAway
	}
	w.gets.Add(1)
	if w.hangs.Load() {
		<-ctx.Done()
		return apikey.StoreRecord{}, ctx.Err()
	}
	r, err := w.Store.Get(ctx, id)
	w.damage(&r)
	return r, err
}

func (w *watched) damage(r *apikey.StoreRecord) {
	if !w.damaged.IsZero() && r.ID == w.damaged {
		r.Account, r.Name = "acc_1", "forged"
	}
}

func (w *watched) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	if w.away.Load() {
		return apikey.StoreEventPage{}, errAway
	}
	page, err := w.Store.Events(ctx, f)
	if w.forged.Load() {
		for i := range page.Events {
			page.Events[i].Hash[0] ^= 1
		}
	}
	return page, err
}

func (w *watched) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	if w.away.Load() {
		return apikey.StorePage{}, errAway
	}
	page, err := w.Store.List(ctx, f)
	for i := range page.Records {
		w.damage(&page.Records[i])
	}
	if w.listed != nil {
		w.listed()
	}
	return page, err
}

func (w *watched) Items(ctx context.Context, f apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	if w.away.Load() {
		return apikey.StoreItemPage{}, errAway
	}
	return w.Store.Items(ctx, f)
}

// faultyKEK is a key service that is away when the test says so.
type faultyKEK struct {
	apikey.KEK
	away atomic.Bool
}

func (k *faultyKEK) Unwrap(ctx context.Context, sealed, aad []byte) ([]byte, error) {
	if k.away.Load() {
		return nil, errors.New("kms 10.0.3.7: connection refused")
	}
	return k.KEK.Unwrap(ctx, sealed, aad)
}

// issue issues a live key of acc_1 by a Manager beside the page, where nothing is guarded.
func (e *env) issue(changes ...func(*apikey.IssueRequest)) apikey.Issued {
	e.t.Helper()
	req := apikey.IssueRequest{Mode: apikey.Live, Name: "Shop", Abilities: []string{"payment:charge"}}
	for _, c := range changes {
		c(&req)
	}
	return must(e.open().Issue(e.as(anna), req))
}

// open is a Manager on the same store that guards nothing.
func (e *env) open() *apikey.Manager {
	e.t.Helper()
	if e.unguarded == nil {
		open := e.manager
		open.StepUp = nil
		e.unguarded = must(apikey.NewManager(e.t.Context(), e.settings, open))
	}
	return e.unguarded
}

// as is the context of a person.
func (e *env) as(user string) context.Context {
	parts := strings.Split(user, "/")
	return apikey.WithActor(e.t.Context(), apikey.Actor{Account: parts[0], ID: parts[1], Role: parts[2]})
}

// keys are those of acc_1, newest first.
func (e *env) keys() []apikey.Info {
	e.t.Helper()
	list, err := e.program.Manager.List(e.as(anna), apikey.ListRequest{Limit: 200})
	require.NoError(e.t, err)
	return list.Keys
}

func (e *env) key(id apikey.KeyID) apikey.Info {
	e.t.Helper()
	k, err := e.program.Manager.Get(e.as(anna), id)
	require.NoError(e.t, err)
	return k
}

func (e *env) keyPath(id apikey.KeyID, rest string) string { return "/key/" + id.String() + rest }

// code is that of the newest mail.
func (e *env) code() string { e.t.Helper(); return e.program.Mailbox.Last().Message.Code() }

// works reports whether the token is accepted.
func (e *env) works(token string) bool {
	_, err := e.program.Live.Verify(e.t.Context(), token, apikey.Request{})
	return err == nil
}

// use uses the token, and has that written.
func (e *env) use(token string) {
	e.t.Helper()
	v := must(e.program.Manager.NewVerifier(e.t.Context(), apikey.VerifierConfig{Mode: apikey.Live, Sync: -1}))
	_, err := v.Verify(e.t.Context(), token, apikey.Request{})
	require.NoError(e.t, err)
	require.NoError(e.t, v.Close(e.t.Context()))
}

func recoverable(r *apikey.IssueRequest) { r.Recoverable = true }
func named(name string) func(*apikey.IssueRequest) {
	return func(r *apikey.IssueRequest) { r.Name = name }
}

func wrongCode(code string) string {
	if code == "000000" {
		return "111111"
	}
	return "000000"
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var day = 24 * time.Hour

type requestOf = http.Request

// messages are files of texts.
type messages map[string]string

func (m messages) Open(name string) (fs.File, error) {
	files := fstest.MapFS{}
	for file, text := range m {
		files[file] = &fstest.MapFile{Data: []byte(text)}
	}
	return files.Open(name)
}

type contextOf = context.Context

func bodyOf(res *http.Response) string {
	defer res.Body.Close()
	return string(must(io.ReadAll(res.Body)))
}
