package main

import (
	"bufio"
	"context"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// program is a dashboard that runs.
type program struct {
	t      *testing.T
	url    string // of the server
	page   string // of the page
	stderr lockedBuffer
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

var secrets = regexp.MustCompile(`[a-z]+_sk_(live|test)_[0-9A-Za-z]{20,}|` + password)

// start starts the program with flags, and ends it with the test.
func start(t *testing.T, flags ...string) *program {
	t.Helper()
	p := &program{t: t}
	c, err := parseFlags(append([]string{"-listen", "127.0.0.1:0"}, flags...), &p.stderr)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	read, write := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, c, write, &p.stderr)
		write.CloseWithError(io.EOF)
		ended <- err
	}()
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatalf("the program ended: %v", <-ended)
	}
	p.page = strings.TrimSpace(line)
	p.url = strings.TrimSuffix(p.page, path)
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
		require.Empty(t, secrets.FindString(p.stderr.String()), "standard error has a secret")
	})
	return p
}

// code returns the newest code that was written for somebody.
func (p *program) code(user string) string {
	p.t.Helper()
	found := regexp.MustCompile(`(?m)^code for `+user+`: (\d{6})$`).FindAllStringSubmatch(p.stderr.String(), -1)
	require.NotEmpty(p.t, found, "no code for %s in %s", user, p.stderr.String())
	return found[len(found)-1][1]
}

// calls calls a route with a key, and returns the status of the answer.
func (p *program) calls(method, route, token string) int {
	p.t.Helper()
	r, err := http.NewRequest(method, p.url+route, nil)
	require.NoError(p.t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(p.t, err)
	defer answer.Body.Close()
	return answer.StatusCode
}

// browser is a browser without scripts.
type browser struct {
	*program
	client http.Client
}

func (p *program) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(p.t, err)
	return &browser{p, http.Client{Jar: jar, Timeout: 20 * time.Second}}
}

// screen is what a browser shows.
type screen struct {
	*browser
	status int
	url    *url.URL
	body   string
}

func (b *browser) load(method, to string, form url.Values) screen {
	b.t.Helper()
	r, err := http.NewRequest(method, to, strings.NewReader(form.Encode()))
	require.NoError(b.t, err)
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", b.program.url)
	}
	answer, err := b.client.Do(r)
	require.NoError(b.t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(b.t, err)
	return screen{b, answer.StatusCode, answer.Request.URL, string(body)}
}

// open opens a path of the server.
func (b *browser) open(to string) screen {
	b.t.Helper()
	return b.load(http.MethodGet, b.program.url+to, nil)
}

// as signs somebody in by the form, and returns the list of keys.
func (b *browser) as(user string) screen {
	b.t.Helper()
	return b.open(path).follow("Sign in").submit("Sign in", url.Values{"user": {user}, "password": {password}})
}

var (
	headings = regexp.MustCompile(`(?s)<h1[^>]*>(.*?)</h1>`)
	links    = regexp.MustCompile(`(?s)<a\b([^>]*)>(.*?)</a>`)
	forms    = regexp.MustCompile(`(?s)<form\b([^>]*)>(.*?)</form>`)
	buttons  = regexp.MustCompile(`(?s)<button\b([^>]*)>(.*?)</button>`)
	inputs   = regexp.MustCompile(`<input\b([^>]*)>`)
	selects  = regexp.MustCompile(`(?s)<select\b([^>]*)>(.*?)</select>`)
	options  = regexp.MustCompile(`<option\b([^>]*)>`)
	tags     = regexp.MustCompile(`<[^>]*>`)
	texts    = regexp.MustCompile(`(?s)<textarea id="ak-secret"[^>]*>(.*?)</textarea>`)
)

// attribute returns the value of an attribute in a tag, and whether it is there.
func attribute(tag, name string) (string, bool) {
	m := regexp.MustCompile(`(?:^|\s)` + name + `(?:="([^"]*)")?(?:\s|/|$)`).FindStringSubmatch(tag)
	if m == nil {
		return "", false
	}
	return html.UnescapeString(m[1]), true
}

func textOf(markup string) string {
	return strings.TrimSpace(html.UnescapeString(tags.ReplaceAllString(markup, "")))
}

func (s screen) heading() string {
	s.t.Helper()
	m := headings.FindStringSubmatch(s.body)
	require.NotNil(s.t, m, s.body)
	return textOf(m[1])
}

// has reports whether a link or button is shown.
func (s screen) has(text string) bool {
	for _, found := range append(links.FindAllStringSubmatch(s.body, -1), buttons.FindAllStringSubmatch(s.body, -1)...) {
		if textOf(found[2]) == text {
			return true
		}
	}
	return false
}

// follow follows the first link with a text, or a button that only opens a screen.
func (s screen) follow(text string) screen {
	s.t.Helper()
	for _, found := range links.FindAllStringSubmatch(s.body, -1) {
		if textOf(found[2]) == text {
			href, _ := attribute(found[1], "href")
			to, err := s.url.Parse(href)
			require.NoError(s.t, err)
			return s.load(http.MethodGet, to.String(), nil)
		}
	}
	return s.submit(text, nil)
}

// submit fills in the form of a button, and presses it.
func (s screen) submit(button string, fill url.Values) screen {
	s.t.Helper()
	for _, form := range forms.FindAllStringSubmatch(s.body, -1) {
		for _, found := range buttons.FindAllStringSubmatch(form[2], -1) {
			if textOf(found[2]) != button {
				continue
			}
			values := valuesOf(form[2])
			for name, list := range fill {
				require.Contains(s.t, form[2], `name="`+name+`"`, "the form has no such field")
				values[name] = list
			}
			if name, ok := attribute(found[1], "name"); ok {
				value, _ := attribute(found[1], "value")
				values.Add(name, value)
			}
			action, _ := attribute(form[1], "action")
			to, err := s.url.Parse(action)
			require.NoError(s.t, err)
			if method, _ := attribute(form[1], "method"); method == "get" {
				to.RawQuery = values.Encode()
				return s.load(http.MethodGet, to.String(), nil)
			}
			return s.load(http.MethodPost, to.String(), values)
		}
	}
	require.FailNow(s.t, "no link or button", "%q on %q (%d): %s", button, s.url, s.status, s.body)
	return screen{}
}

// valuesOf is what a form sends if nobody changes it.
func valuesOf(form string) url.Values {
	values := url.Values{}
	for _, in := range inputs.FindAllStringSubmatch(form, -1) {
		name, named := attribute(in[1], "name")
		value, _ := attribute(in[1], "value")
		kind, _ := attribute(in[1], "type")
		_, checked := attribute(in[1], "checked")
		if named && (checked || kind != "checkbox" && kind != "radio") {
			values.Add(name, value)
		}
	}
	for _, one := range selects.FindAllStringSubmatch(form, -1) {
		name, _ := attribute(one[1], "name")
		for i, o := range options.FindAllStringSubmatch(one[2], -1) {
			value, _ := attribute(o[1], "value")
			if _, selected := attribute(o[1], "selected"); i == 0 || selected {
				values.Set(name, value)
			}
		}
	}
	return values
}

// secret returns the secret key that is shown.
func (s screen) secret() string {
	s.t.Helper()
	m := texts.FindStringSubmatch(s.body)
	require.NotNil(s.t, m, "no secret key on %q (%d): %s", textOf(s.heading()), s.status, s.body)
	return strings.TrimSpace(html.UnescapeString(m[1]))
}

// TestMain is here for its zone: days are read in the zone of the account, not in this one.
func TestMain(m *testing.M) {
	time.Local = time.FixedZone("elsewhere", -7*3600)
	os.Exit(m.Run())
}
