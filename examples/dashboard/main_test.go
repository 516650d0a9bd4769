package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/examples/stepup/sink"
)

// journeys are the presets, with what a person sees and is asked for there.
var journeys = []struct {
	page   string
	seeds  bool
	opener string     // the link or button that begins a new key
	fill   url.Values // in its form; nil: there is none
	submit string
	again  string            // the link that gives a key a new secret
	terms  bool              // they have to be agreed to
	refund int               // what POST /live/refund answers to the key
	reveal bool              // the key can be looked at again
	asks   map[string]string // what an action asks for; absent: nothing
}{
	{
		page: "doku", seeds: true, opener: "New API key", submit: "Create key", again: "Regenerate key", terms: true, reveal: true,
		fill: url.Values{"name": {"Server"}, "scope": {"payment:refund"}}, refund: 200,
		asks: map[string]string{"reveal": "Code", "regenerate": "Code"},
	},
	{
		page: "uddoktapay", seeds: true, opener: "New API key", submit: "Create key", again: "Regenerate key",
		fill: url.Values{"name": {"Server"}, "scope": {"payment:checkout", "payment:verify"}, "expires": {"2099-12-31"}}, refund: 403,
	},
	{
		page: "xendit", seeds: true, opener: "New API key", submit: "Create key", again: "Regenerate key",
		fill: url.Values{"name": {"Server"}, "product.money-in": {"write"}, "product.money-out": {"read"}}, refund: 403,
		asks: map[string]string{"create": "Password", "revoke": "Password"},
	},
	{
		page: "okto", opener: "Get App Secret", again: "Reset", refund: 403,
		asks: map[string]string{"create": "Password", "regenerate": "Password"},
	},
	{
		page: "pin", seeds: true, opener: "Generate", submit: "Continue", again: "Regenerate key", reveal: true,
		fill: url.Values{"name": {"Server"}}, refund: 403,
		asks: map[string]string{"create": "PIN", "reveal": "PIN", "regenerate": "PIN"},
	},
}

var labels = regexp.MustCompile(`<label for="ak-answer">(.*?)</label>`)

// approve answers the question of a screen, and says what was asked: "" is nothing.
func (s screen) approve(user string) (asked string, next screen) {
	s.t.Helper()
	m := labels.FindStringSubmatch(s.body)
	if m == nil {
		return "", s
	}
	asked = textOf(m[1])
	require.Equal(s.t, "Confirm that it is you", s.heading())
	answer := map[string]string{"Password": password, "PIN": pin}[asked]
	if asked == "Code" {
		answer = s.code(user)
	}
	return asked, s.submit("Confirm", url.Values{"approval.answer": {answer}})
}

func TestEveryPresetWithoutScripts(t *testing.T) {
	for _, j := range journeys {
		t.Run(j.page, func(t *testing.T) {
			t.Parallel()
			p := start(t, "-page", j.page)
			b := p.browser()
			list := b.as("admin")
			require.Equal(t, "API keys", list.heading())
			require.Equal(t, p.page, list.url.String(), "the sign-in does not lead back")
			require.Equal(t, j.seeds, strings.Contains(list.body, "Shop 1 (web)"))

			asks := func(action string, s screen) screen {
				t.Helper()
				asked, next := s.approve("admin")
				require.Equal(t, j.asks[action], asked, "what %s asks for: %s", action, s.body)
				return next
			}
			var new screen
			if j.fill == nil {
				new = list.submit(j.opener, nil)
			} else {
				new = list.follow(j.opener).submit(j.submit, j.fill)
			}
			created := asks("create", new)
			require.Equal(t, "API key created", created.heading())
			token := created.secret()
			require.Equal(t, 200, p.calls("GET", "/live/ping", token))
			require.Equal(t, 403, p.calls("GET", "/test/ping", token), "a live key on the test server")
			require.Equal(t, j.refund, p.calls("POST", "/live/refund", token))

			key := created.follow("Done")
			if j.page == "okto" { // the secret's own page is one link further
				require.False(t, key.has("Get App Secret"), "a second secret")
			}
			if j.reveal {
				revealed := asks("reveal", key.submit("Reveal key", nil))
				require.Equal(t, "Key revealed", revealed.heading())
				require.Equal(t, token, revealed.secret())
			} else {
				require.False(t, key.has("Reveal key"))
			}

			fill := url.Values{}
			if j.terms {
				fill.Set("agree", "1")
			}
			regenerated := asks("regenerate", key.follow(j.again).submit("Save", fill))
			require.Equal(t, "New secret key", regenerated.heading())
			newer := regenerated.secret()
			require.NotEqual(t, token, newer)
			require.Equal(t, 200, p.calls("GET", "/live/ping", newer))
			require.Equal(t, 401, p.calls("GET", "/live/ping", token))

			query := url.Values{"mode": {"live"}, "usable": {"true"}}
			require.Contains(t, names(keysIn(t, b, query)), cmp.Or(j.fill.Get("name"), "App Secret"), "the JSON API has the same session")
			require.Equal(t, 401, p.browser().open("/api/v1/keys").status)

			if key.has("Details") { // of the one key
				key = key.follow("Details")
			}
			revoked := asks("revoke", key.follow("Revoke key").submit("Revoke", url.Values{"reason": {"unneeded"}}))
			require.Contains(t, revoked.body, "The key is revoked, for ever.")
			require.Equal(t, 401, p.calls("GET", "/live/ping", newer))
			other := p.browser()
			other.as("other")
			require.Equal(t, 404, other.open(key.url.Path).status, "another account's key")
		})
	}
}

// seeded is what the JSON API says of a key.
type seeded struct {
	Name     string    `json:"name"`
	Mode     string    `json:"mode"`
	Kind     string    `json:"kind"`
	Status   string    `json:"status"`
	LastUsed time.Time `json:"last_used"`
	Expires  time.Time `json:"expires_at"`

	Abilities []string `json:"abilities"`
}

func names(keys []seeded) (all []string) {
	for _, k := range keys {
		all = append(all, k.Name)
	}
	return all
}

// keysIn returns all keys of a list of the JSON API.
func keysIn(t *testing.T, b *browser, query url.Values) (all []seeded) {
	t.Helper()
	for {
		s := b.open("/api/v1/keys?" + query.Encode())
		require.Equal(t, 200, s.status, s.body)
		var list struct {
			Data []seeded `json:"data"`
			Next string   `json:"next"`
		}
		require.NoError(t, json.Unmarshal([]byte(s.body), &list), s.body)
		all = append(all, list.Data...)
		if list.Next == "" {
			return all
		}
		query.Set("cursor", list.Next)
	}
}

func TestViewerMayNotAndOtherSeesNothing(t *testing.T) {
	for _, j := range journeys {
		t.Run(j.page, func(t *testing.T) {
			t.Parallel()
			p := start(t, "-page", j.page)
			viewer := p.browser().as("viewer")
			require.Equal(t, 403, viewer.status)
			require.Contains(t, viewer.heading(), "may not")
			require.NotContains(t, viewer.body, "Shop 1")
			require.Equal(t, 403, viewer.open("/api/v1/keys").status)

			other := p.browser().as("other")
			require.Equal(t, 200, other.status)
			require.NotContains(t, other.body, "Shop ")
			require.Empty(t, keysIn(t, other.browser, url.Values{}))
		})
	}
}

// DOKU's page: a new secret key from a time on, while the old one works a day longer.
func TestDokuRegeneratesAtATime(t *testing.T) {
	p := start(t, "-page", "doku", "-seed", "0")
	key := p.browser().as("superadmin").follow("Main")
	require.Contains(t, key.body, "BRN-0239-1736742088036")
	_, revealed := key.submit("Reveal key", nil).approve("superadmin")
	old := revealed.secret()

	zone, err := time.LoadLocation("Asia/Jakarta")
	require.NoError(t, err)
	at := time.Now().In(zone).Add(72 * time.Hour).Format("2006-01-02T15:04")
	form := key.follow("Regenerate key")
	refused := form.submit("Save", url.Values{"time": {"at"}, "at": {at}, "overlap": {"24"}})
	require.Equal(t, 400, refused.status)
	require.Contains(t, refused.body, "Agree to the terms")
	asked, next := refused.submit("Save", url.Values{"agree": {"1"}}).approve("superadmin")
	require.Equal(t, "Code", asked)
	require.Equal(t, 200, p.calls("GET", "/live/ping", old))
	require.Equal(t, 401, p.calls("GET", "/live/ping", next.secret()), "before its time")

	key = next.follow("Done")
	require.Regexp(t, `aria-label="Old key until [^"]+, new key from [^"]+"`, key.body)
	require.Contains(t, key.submit("Cancel rotation", nil).body, "The planned rotation was cancelled.")
	require.Equal(t, 200, p.browser().open("/terms").status)
}

func TestSeededKeysAreAMix(t *testing.T) {
	p := start(t, "-seed", "70")
	keys := keysIn(t, p.browser().as("admin").browser, url.Values{})
	require.Len(t, keys, 70)
	zone, err := time.LoadLocation("Asia/Dhaka")
	require.NoError(t, err)
	found := map[string]int{}
	for _, k := range keys {
		used := "never used"
		switch ago := time.Since(k.LastUsed); {
		case ago < 2*time.Hour:
			used = "used lately"
		case !k.LastUsed.IsZero():
			used = "used long ago"
		}
		found[k.Mode]++
		found[k.Status+", "+used]++
		if !k.Expires.IsZero() {
			require.Equal(t, "00:00:00", k.Expires.In(zone).Format(time.TimeOnly), "an expiry is the end of a day in the zone of the account")
		}
	}
	for i := range 70 {
		name := fmt.Sprintf("Shop %d (%s)", i/2+1, []string{"web", "app"}[i%2])
		require.Contains(t, names(keys), name)
	}
	require.Equal(t, map[string]int{
		"live": 56, "test": 14,
		"active, used lately": 10, "active, used long ago": 10, "active, never used": 10, "suspended, used long ago": 10,
		"revoked, never used": 10, "expired, used long ago": 10, "expiring, used lately": 10,
	}, found)
}

// A day is one in the zone of the account, and means its end.
func TestExpiryIsTheEndOfADayInDhaka(t *testing.T) {
	p := start(t, "-seed", "0")
	list := p.browser().as("admin")
	list.follow("New API key").submit("Create key", url.Values{"name": {"Server"}, "expires": {"2099-12-31"}}).secret()
	keys := keysIn(t, list.browser, url.Values{})
	require.Len(t, keys, 1)
	require.Equal(t, "2099-12-31T18:00:00Z", keys[0].Expires.UTC().Format(time.RFC3339))
	require.Contains(t, list.open(path).body, ">31 December 2099<")
}

// Xendit gives an account a public key in each mode, and no secret key.
func TestXenditBeginsWithPublicKeysOnly(t *testing.T) {
	p := start(t, "-page", "xendit", "-seed", "0")
	keys := keysIn(t, p.browser().as("admin").browser, url.Values{})
	var kinds []string
	for _, k := range keys {
		kinds = append(kinds, k.Mode+" "+k.Kind)
	}
	slices.Sort(kinds)
	require.Equal(t, []string{"live publishable", "test publishable"}, kinds)
}

// Okto has one secret in each mode, which can do all.
func TestOktoHasOneSecret(t *testing.T) {
	p := start(t, "-page", "okto")
	before := p.browser().as("admin")
	_, created := before.submit("Get App Secret", nil).approve("admin")
	token := created.secret()
	again := before.submit("Get App Secret", nil) // from a tab that still shows the button
	require.Equal(t, 409, again.status, again.body)
	require.Equal(t, 200, p.calls("GET", "/live/ping", token))
	keys := keysIn(t, before.browser, url.Values{})
	require.Len(t, keys, 1)
	require.Equal(t, []string{"wallet:read", "wallet:transfer"}, keys[0].Abilities)
	require.True(t, before.open(path+"?mode=test").has("Get App Secret"))
}

// Products that nobody has enabled for the account are refused.
func TestPINRefusesWhatIsNotEnabled(t *testing.T) {
	p := start(t, "-page", "pin", "-seed", "0")
	s := p.browser().as("admin").open(path + "/new?mode=live&product=qris")
	if s.status == 200 {
		s = s.submit("Continue", url.Values{"name": {"Server"}})
	}
	require.Equal(t, 403, s.status, s.body)
	require.NotContains(t, s.body, "ak-secret")

	standing := presets["pin"].Standing
	require.NoError(t, standing.Allowed(account, apikey.Live))
	require.Error(t, standing.Allowed("acc_new", apikey.Live), "an account that is not approved")
}

func TestSignIn(t *testing.T) {
	p := start(t, "-seed", "0")
	b := p.browser()
	signedOut := b.open(path + "?status=revoked")
	require.Equal(t, 401, signedOut.status)
	form := signedOut.follow("Sign in")
	wrong := form.submit("Sign in", url.Values{"user": {"admin"}, "password": {"wrong"}})
	require.Equal(t, 403, wrong.status)
	require.Contains(t, wrong.body, `role="alert"`)
	require.Equal(t, 401, b.open(path).status)
	require.Equal(t, 403, form.submit("Sign in", url.Values{"user": {"nobody"}, "password": {password}}).status)

	back := wrong.submit("Sign in", url.Values{"password": {password}})
	require.Equal(t, path+"?status=revoked", back.url.RequestURI(), "what was typed and where to go is kept")
	kept := cookieIn(t, b)
	require.Equal(t, 401, b.open("/logout").submit("Sign out", nil).open(path).status)

	r, err := http.NewRequest("GET", p.page, nil)
	require.NoError(t, err)
	r.AddCookie(kept)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	answer.Body.Close()
	require.Equal(t, 401, answer.StatusCode, "a kept cookie of a session that has ended")
}

func cookieIn(t *testing.T, b *browser) *http.Cookie {
	t.Helper()
	u, err := url.Parse(b.program.url)
	require.NoError(t, err)
	cookies := b.client.Jar.Cookies(u)
	require.Len(t, cookies, 1)
	return cookies[0]
}

func TestSessions(t *testing.T) {
	s, ahead := newSignIn(), time.Duration(0)
	s.now = func() time.Time { return time.Now().Add(ahead) }
	mux := http.NewServeMux()
	s.mount(mux)
	post := func(to, site string, cookies ...*http.Cookie) *http.Response {
		r := httptest.NewRequest("POST", to, strings.NewReader(url.Values{"user": {"admin"}, "password": {password}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", site)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Result()
	}
	who := func(c *http.Cookie) (string, error) {
		r := httptest.NewRequest("GET", path, nil)
		r.AddCookie(c)
		actor, err := s.actor(r)
		return actor.ID, err
	}
	cookies := post("/login", "same-origin").Cookies()
	require.Len(t, cookies, 1)
	require.True(t, cookies[0].HttpOnly)
	require.Equal(t, http.SameSiteLaxMode, cookies[0].SameSite)
	for _, to := range []string{"/login", "/logout"} {
		cross := post(to, "cross-site", cookies[0])
		require.Equal(t, 403, cross.StatusCode, "another site signs somebody in or out")
		require.Empty(t, cross.Cookies())
	}
	id, err := who(cookies[0])
	require.NoError(t, err)
	require.Equal(t, "admin", id)

	second := post("/login", "same-origin", cookies[0]).Cookies()
	_, err = who(cookies[0])
	require.ErrorIs(t, err, admin.ErrSignIn, "the session before, in the same browser")
	ahead = sessionTime + time.Minute
	_, err = who(second[0])
	require.ErrorIs(t, err, admin.ErrSignIn, "a session that is over")
	post("/login", "same-origin")
	require.Len(t, s.sessions, 1, "sessions that are over are dropped")
}

// Somebody who has signed in is sent nowhere but to this site.
func TestBackIsAPathOfThisSite(t *testing.T) {
	for back, want := range map[string]string{
		"": path, "/settings/keys/log": "/settings/keys/log", "/settings/keys?mode=test": "/settings/keys?mode=test",
		"https://evil.example/": path, "//evil.example/": path, `/\evil.example/`: path, `\\evil.example`: path, "/\t/evil.example": path,
		"/\n/evil.example": path, "evil.example": path, "javascript:alert(1)": path, "http:/x": path, "///evil.example": path, " //evil.example": path,
	} {
		r := httptest.NewRequest("GET", "/login?back="+url.QueryEscape(back), nil)
		require.Equal(t, want, backOf(r), "%q", back)
	}
}

func TestCodesByMail(t *testing.T) {
	box, err := sink.Listen(1 << 16)
	require.NoError(t, err)
	defer box.Close()
	p := start(t, "-page", "doku", "-seed", "0", "-smtp", box.Addr)
	asked := p.browser().as("admin").follow("Main").submit("Reveal key", nil)
	require.Equal(t, "Confirm that it is you", asked.heading())
	require.Len(t, box.Mails(), 1)
	mail := box.Mails()[0]
	require.Equal(t, []string{"admin@shop.example"}, mail.To)
	code := regexp.MustCompile(`\b\d{6}\b`).FindString(mail.Data)
	require.Equal(t, "Key revealed", asked.submit("Confirm", url.Values{"approval.answer": {code}}).heading())
	require.NotContains(t, p.stderr.String(), "code for")
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-page", "stripe"}, {"-seed", "-1"}, {"-seed", "100001"}, {"doku"}} {
		var stderr bytes.Buffer
		_, err := parseFlags(args, &stderr)
		require.Error(t, err, "%v", args)
		require.NotEmpty(t, stderr.String(), "%v", args)
	}
	c, err := parseFlags(nil, &bytes.Buffer{})
	require.NoError(t, err)
	require.Equal(t, config{listen: "127.0.0.1:8090", page: "uddoktapay", seed: 12}, c)

	ctx, stop := context.WithTimeout(t.Context(), time.Second) // if it listens after all
	defer stop()
	c.listen = "0.0.0.0:0"
	require.ErrorContains(t, run(ctx, c, &bytes.Buffer{}, &bytes.Buffer{}), "everybody knows the passwords")
}
