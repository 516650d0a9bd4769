package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// printed returns the lines that are for a program with a key, and those for a person.
func (p *process) printed() (data, management []string) {
	p.t.Helper()
	at := slices.IndexFunc(p.lines, func(line string) bool { return strings.HasPrefix(line, "# Keys are managed") })
	require.Positive(p.t, at, "%q", p.lines)
	return p.lines[:at], p.lines[at:]
}

// link returns the sign-in link of this start.
func (p *process) link() string {
	p.t.Helper()
	_, lines := p.printed()
	link, ok := strings.CutPrefix(lines[1], "# ")
	require.True(p.t, ok)
	require.Regexp(p.t, "^"+p.url+`/signin\?once=[A-Z2-7]{26}$`, link)
	return link
}

// get follows no redirect.
func get(t *testing.T, link string) *http.Response {
	t.Helper()
	r, err := http.NewRequest("GET", link, nil)
	require.NoError(t, err)
	res, err := client.Transport.RoundTrip(r)
	require.NoError(t, err)
	res.Body.Close()
	return res
}

// asPerson sends a request with a session's cookie and other headers.
func (p *process) asPerson(session, method, path, body string, header map[string]string) answer {
	p.t.Helper()
	r, err := http.NewRequest(method, p.url+path, strings.NewReader(body))
	require.NoError(p.t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Cookie", "gateway_session="+session)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	res, err := client.Do(r)
	require.NoError(p.t, err)
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header}
	if res.StatusCode != 204 {
		require.NoError(p.t, json.NewDecoder(res.Body).Decode(&a.body))
	}
	return a
}

// A day of a key: each printed line is executed by a shell, in order, and what it answers
// is what the page of a merchant would get.
func TestADayOfAKey(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"sh", "bash"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			for _, tool := range []string{"curl", shell} {
				if _, err := exec.LookPath(tool); err != nil {
					t.Skipf("%s is not installed: install it, and the printed commands are tried", tool)
				}
			}
			p, home := start(t, t.TempDir()), t.TempDir()
			got := p.paste(shell, home)
			token, next := got[1].body["token"], got[7].body["token"]
			require.NotEqual(t, token, next)
			key := got[1].body["key"].(map[string]any)
			for i, want := range []struct {
				status int // 0: an answer of the API for keys, which is printed without its status
				body   map[string]any
			}{
				{303, nil},
				{201, map[string]any{}},
				{0, map[string]any{"mode": "live"}},
				{200, map[string]any{"id": key["id"], "name": "Shop in Dhaka", "version": 2.0}},
				{204, nil},
				{0, map[string]any{"code": "key_suspended"}},
				{204, nil},
				{200, map[string]any{}},
				{0, map[string]any{"mode": "live"}},
				{0, map[string]any{"mode": "live"}},
				{403, map[string]any{"code": "step_up_required", "factors": []any{"email"}}},
				{202, map[string]any{"factor": "email", "name": "Shop in Dhaka"}},
				{200, map[string]any{"token": next, "hide_after_seconds": 30.0}},
				{204, nil},
				{0, map[string]any{"code": "key_revoked"}},
				{200, map[string]any{}},
			} {
				require.Equal(t, want.status, got[i].status, "answer %d: %v", i, got[i])
				for name, value := range want.body {
					require.Equal(t, value, got[i].body[name], "answer %d: %s of %v", i, name, got[i].body)
				}
			}
			require.Len(t, got, 16)
			var actions []any
			for _, e := range got[15].body["data"].([]any) {
				event := e.(map[string]any)
				require.Equal(t, "usr_demo", event["actor"].(map[string]any)["id"])
				require.Equal(t, "127.0.0.1", event["actor"].(map[string]any)["addr"])
				actions = append(actions, event["action"])
			}
			require.Equal(t, []any{"key.revoke", "key.reveal", "challenge.confirm", "key.rotate", "key.resume", "key.suspend", "key.update", "key.issue"}, actions)

			p.keys["one"], p.keys["two"] = token.(string), next.(string) // for keepsSecrets
		})
	}
}

// paste executes the lines for a person, and the line with the code where they say so.
func (p *process) paste(shell, home string) (got []answer) {
	p.t.Helper()
	_, lines := p.printed()
	at := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, "paste the line CODE=") })
	require.Positive(p.t, at)
	sh := exec.Command(shell)
	sh.Env = append(os.Environ(), "no_proxy=*", "TMPDIR="+home)
	var out, diagnostics buffer
	sh.Stdout, sh.Stderr = &out, &diagnostics
	in, err := sh.StdinPipe()
	require.NoError(p.t, err)
	require.NoError(p.t, sh.Start())
	defer time.AfterFunc(time.Minute, func() { sh.Process.Kill() }).Stop()
	fmt.Fprintln(in, strings.Join(lines[:at+1], "\n"))
	code := ""
	require.Eventually(p.t, func() bool {
		code = regexp.MustCompile(`(?m)^CODE=\d{6}$`).FindString(p.mails.String())
		return code != ""
	}, 30*time.Second, 20*time.Millisecond, "no code was printed: %s %s", &out, &diagnostics)
	fmt.Fprintln(in, code)
	fmt.Fprintln(in, strings.Join(lines[at+1:], "\n"))
	require.NoError(p.t, in.Close())
	require.NoError(p.t, sh.Wait(), diagnostics.String())
	require.Empty(p.t, diagnostics.String())

	for line := range strings.Lines(out.String()) {
		a := answer{text: strings.TrimSpace(line)}
		body := regexp.MustCompile(`^(\{.*\})?\s*(\d{3})?$`).FindStringSubmatch(a.text)
		require.NotNil(p.t, body, line)
		fmt.Sscan(body[2], &a.status)
		if body[1] != "" {
			require.NoError(p.t, json.Unmarshal([]byte(body[1]), &a.body), line)
		}
		got = append(got, a)
	}
	return got
}

// The link works once, the session that it makes is the only one, and another site can do
// nothing with its cookie.
func TestSignIn(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	require.Equal(t, 403, get(t, p.url+"/signin").StatusCode)
	require.Equal(t, 403, get(t, p.url+"/signin?once=").StatusCode)
	require.Equal(t, 403, get(t, p.link()+"A").StatusCode)
	require.Equal(t, 401, p.asPerson("", "GET", "/api/v1/keys", "", nil).status, "before the link was used")

	head, err := client.Head(p.link())
	require.NoError(t, err)
	require.Equal(t, 403, head.StatusCode)
	require.Empty(t, head.Cookies())

	var session atomic.Pointer[http.Cookie]
	var works atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if res := get(t, p.link()); res.StatusCode == 303 {
				works.Add(1)
				session.Store(res.Cookies()[0])
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, works.Load(), "of twenty uses at once")
	require.Equal(t, 403, get(t, p.link()).StatusCode)
	cookie := session.Load()
	require.True(t, cookie.HttpOnly)
	require.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
	require.Equal(t, "/", cookie.Path)
	require.Len(t, cookie.Value, 26)

	own := map[string]string{"Origin": p.url}
	body := `{"mode":"live","name":"Shop","abilities":["balance=read"]}`
	for name, foreign := range map[string]string{"none": "", "made up": strings.Repeat("A", 26), "cut": cookie.Value[:25], "the link": p.link()[len(p.link())-26:]} {
		require.Equal(t, 401, p.asPerson(foreign, "GET", "/api/v1/keys", "", nil).status, name)
		require.Equal(t, 401, p.asPerson(foreign, "POST", "/api/v1/keys", body, own).status, name)
	}
	for name, header := range map[string]map[string]string{
		"no header": {}, "another origin": {"Origin": "http://127.0.0.1:1"}, "a page without an origin": {"Origin": "null"},
		"another site": {"Origin": p.url, "Sec-Fetch-Site": "cross-site"}, "another port": {"Sec-Fetch-Site": "same-site"},
	} {
		a := p.asPerson(cookie.Value, "POST", "/api/v1/keys", body, header)
		require.Equal(t, 403, a.status, name)
		require.Equal(t, "cross_site", a.body["code"], name)
	}
	require.Len(t, records(t, p.cmd.Dir), 4, "nothing was made")
	require.Equal(t, 201, p.asPerson(cookie.Value, "POST", "/api/v1/keys", body, own).status)
	require.Len(t, records(t, p.cmd.Dir), 5)

	// A key is no session, and a session is no key.
	require.Equal(t, 401, p.call(p.keys["LIVE_SECRET_KEY"], "GET", "/api/v1/keys", "").status)
	require.Equal(t, 401, p.asPerson(cookie.Value, "GET", "/v1/balance", "", nil).status)

	require.Equal(t, 0, p.stop(os.Interrupt))
	second := start(t, p.cmd.Dir)
	require.NotEqual(t, p.link()[len(p.url):], second.link()[len(second.url):])
	require.Equal(t, 403, get(t, second.url+p.link()[len(p.url):]).StatusCode, "the link of the first start")
	require.Equal(t, 401, second.asPerson(cookie.Value, "GET", "/api/v1/keys", "", nil).status, "the session of the first start")
	require.Equal(t, 303, get(t, second.link()).StatusCode)
}

// A token that was sealed is shown again after a restart; with another KEK it is not, and
// everything else goes on.
func TestRevealAfterARestart(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	reveal := func(p *process, path string) answer {
		t.Helper()
		session, own := get(t, p.link()).Cookies()[0].Value, map[string]string{"Origin": p.url}
		if path == "" {
			a := p.asPerson(session, "POST", "/api/v1/keys", `{"mode":"test","name":"Shop","abilities":["balance=read"],"recoverable":true}`, own)
			require.Equal(t, 201, a.status)
			return a
		}
		asked := p.asPerson(session, "POST", path, `{"approval":{"factor":"email"}}`, own)
		require.Equal(t, 202, asked.status)
		var code string
		require.Eventually(t, func() bool {
			_, rest, found := strings.Cut(p.mails.String(), "\nCODE=")
			code = strings.TrimSpace(rest)
			return found && len(code) == 6
		}, 10*time.Second, 10*time.Millisecond)
		return p.asPerson(session, "POST", path, fmt.Sprintf(`{"approval":{"challenge":%q,"answer":%q}}`, asked.body["id"], code), own)
	}
	made := reveal(p, "")
	path := "/api/v1/keys/" + made.body["key"].(map[string]any)["id"].(string) + "/reveal"
	require.Equal(t, 0, p.stop(os.Interrupt))
	second := start(t, p.cmd.Dir)
	shown := reveal(second, path)
	require.Equal(t, 200, shown.status, shown.body)
	require.Equal(t, made.body["token"], shown.body["token"])
	require.Equal(t, 0, second.stop(os.Interrupt))

	require.NoError(t, os.Remove(filepath.Join(p.cmd.Dir, "keys.kek")))
	third := start(t, p.cmd.Dir)
	away := reveal(third, path)
	require.GreaterOrEqual(t, away.status, 500, away.body)
	require.Equal(t, 200, third.call(made.body["token"].(string), "GET", "/v1/balance", "").status)
}

// What a program adds for management is short: the sign-in of this example included.
func TestManagementIsShort(t *testing.T) {
	lines := 0
	for _, file := range []string{"manage.go", "signin.go"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				lines++
			}
		}
	}
	require.Greater(t, lines, 30)
	require.LessOrEqual(t, lines, 60, "lines of code")
}

// A key that is made on the page works in the next request, without scripts.
func TestAKeyFromThePage(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	in := get(t, p.link())
	require.Equal(t, "/keys", in.Header.Get("Location"))
	page := func(method, path, body string) string {
		r, err := http.NewRequest(method, p.url+path, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", p.url)
		r.AddCookie(in.Cookies()[0])
		res, err := client.Do(r)
		require.NoError(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, 200, res.StatusCode, string(text))
		return string(text)
	}
	value := func(form, name string) string {
		found := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(form)
		require.NotNil(t, found, name)
		return found[1]
	}
	form := page("GET", "/keys/new", "")
	made := page("POST", "/keys/new", url.Values{
		"tag": {value(form, "tag")}, "idempotent": {value(form, "idempotent")}, "mode": {"live"}, "name": {"From the page"}, "active": {"1"}, "product.balance": {"read"},
	}.Encode())
	token := regexp.MustCompile(`acme_sk_live_[0-9A-Za-z]+`).FindString(made)
	require.Equal(t, 200, p.call(token, "GET", "/v1/balance", "").status)
	require.Contains(t, page("GET", "/keys", ""), "From the page")
}
