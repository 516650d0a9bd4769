package apitest

import (
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// The URI is what apps read: percent-encoded, one colon in its label, and another
// name for each account of one person, since apps replace an entry of equal name.
func TestFound21TheURIOfAnEnrolment(t *testing.T) {
	app, err := apikey.NewTOTP("Acme Pay & Söhne+", nil)
	require.NoError(t, err)
	labels := map[string]bool{}
	for _, a := range []apikey.Actor{
		{ID: "auth0|usr 1", Account: "acc_1"},
		{ID: "auth0|usr 1", Account: "acc_2"},
		{ID: "google:usr_2", Account: "shop:1"},
		{ID: "দোকান@example.com/?&#%+", Account: "acc_1"},
		apikey.Operator("ops"),
	} {
		_, uri, err := app.Enroll(t.Context(), a)
		require.NoError(t, err)
		require.NotContains(t, uri, "+", "apps show it")
		require.NotContains(t, uri, " ")
		u, err := url.Parse(uri)
		require.NoError(t, err)
		require.Equal(t, "otpauth://totp", u.Scheme+"://"+u.Host)
		require.Equal(t, "Acme Pay & Söhne+", u.Query().Get("issuer"))
		require.Len(t, u.Query().Get("secret"), 32)
		require.Len(t, u.Query(), 2)
		issuer, name, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), ":")
		require.Equal(t, "Acme Pay & Söhne+", issuer)
		require.NotContains(t, name, ":", "an app that decodes first cuts there")
		require.Equal(t, 1, strings.Count(strings.TrimPrefix(uri, "otpauth:"), ":"))
		require.NotContains(t, uri, "%3A")
		require.Contains(t, name, strings.ReplaceAll(a.Account, ":", "-"))
		require.False(t, labels[u.Path], "two accounts have two entries")
		labels[u.Path] = true
	}
	for _, issuer := range []string{"", "Acme: Pay", "Acme\nPay", "Ac\u202eme", "Acme\u200bPay", strings.Repeat("x", 101)} {
		_, err := apikey.NewTOTP(issuer, nil)
		require.ErrorIs(t, err, apikey.ErrInvalid, "%q", issuer)
	}
}

// What mail programs make links of: a dot, a colon or an at sign between other
// characters, and anything after a slash or a backslash.
var linkable = regexp.MustCompile(`[^\s"]*(://|\w[.。．｡]\w|@|www|\\\\)[^\s"]*`)

// A key's name is written by whoever has a session. In the mail that brings the code
// it must not become the link that its reader clicks.
func TestFound26ANameIsNoLinkInAMail(t *testing.T) {
	for _, name := range []string{
		"https://evil.example/login", "evil.example", "evil。example", "evil．example", "http:evil.example", "//evil.example",
		"me@evil.example", `\\evil\share`, "Shop <a href=x>", "[click](http://evil.example)", "bit.ly/abc", "xn--e1awd7f.com",
		"tel:+1-900-555", "ftp://1.2.3.4", strings.Repeat("evil.example ", 15),
	} {
		var f *factors
		e := newEnv(t, withFactors(&f, apikey.GuardRotate("email")))
		key := e.issue(func(r *apikey.IssueRequest) { r.Name = name })
		c, err := e.manager.Challenge(e.ctx, "email", apikey.RotateRequest{Key: key.Key.ID})
		require.NoError(t, err)
		text := strings.Replace(f.mails[0].Text(), string(apikey.ActionRotate), "", 1)
		require.Empty(t, linkable.FindString(text), name)
		require.NotContains(t, text, "<", name)
		require.Less(t, len(text), 1000, "a long name does not push the warning out of sight")
		require.Equal(t, name, c.Name, "a page of the program's own escapes it as it likes")
	}
}

// The mail tells a small change from a total one.
func TestFound26AMailSaysWhatChanges(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, func(a apikey.Action, m apikey.Mode) []string {
		switch a {
		case apikey.ActionIssue, apikey.ActionUpdate, apikey.ActionRotate, apikey.ActionRevoke, apikey.ActionAllowEnrollment:
			return []string{"email"}
		}
		return nil
	}))
	issue := apikey.IssueRequest{Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:verify"}, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, ExpiresAt: e.clock.now().Add(24 * time.Hour)}
	issue.Grant = e.approve(f, e.ctx, "email", issue)
	key, err := e.manager.Issue(e.ctx, issue)
	require.NoError(t, err)
	require.Contains(t, f.mails[0].Text(), "abilities: payment:verify\n    expires: 2 March 2026 12:00 UTC\n")

	id := key.Key.ID
	for name, c := range map[string]struct {
		request apikey.Guarded
		says    []string
		not     []string
	}{
		"a new name": {apikey.UpdateRequest{Key: id, Name: apikey.Set("Shop")},
			[]string{`name: "Shop"`}, []string{"abilities", "expires:", "networks"}},
		"everything": {apikey.UpdateRequest{Key: id, Abilities: apikey.Set([]string{"payment:*"}), ExpiresAt: apikey.Clear[time.Time](), Networks: apikey.Clear[[]netip.Prefix]()},
			[]string{"abilities: adds payment:*; removes payment:verify", "expires: never, before: 2 March 2026 12:00 UTC", "networks: any, before: 1 listed"}, []string{"name"}},
		"origins": {apikey.UpdateRequest{Key: id, Origins: apikey.Set([]string{"https://shop.example", "https://evil.example"})},
			[]string{"origins: 2 listed, before: any"}, []string{"evil"}},
		"suspended": {apikey.UpdateRequest{Key: id, Disabled: apikey.Set(true)}, []string{"the key is suspended"}, nil},
		"rotate":    {apikey.RotateRequest{Key: id, Overlap: time.Hour}, []string{"works from now", "1 hour longer"}, []string{"left over"}},
		"at once":   {apikey.RotateRequest{Key: id}, []string{"works from now", "all tokens that the key has now end at once"}, []string{"present", "left over"}},
		"at a time": {apikey.RotateRequest{Key: id, At: e.clock.now().Add(20 * time.Hour), Replace: true}, []string{"works from 2 March 2026 08:00 UTC", "until then", "left over ends"}, nil},
		"revoke":    {apikey.RevokeRequest{Key: id, Reason: "see evil.example"}, []string{"ends for ever", "see evil_example"}, nil},
		"a colleague": {apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_9"},
			[]string{`for "usr_9"`, "factor: totp"}, nil},
	} {
		challenge, err := e.manager.Challenge(e.ctx, "email", c.request)
		require.NoError(t, err, name)
		text := f.mails[len(f.mails)-1].Text()
		for _, line := range c.says {
			require.Contains(t, text, line, name)
			require.Contains(t, strings.Join(challenge.Changes, "\n"), line, name)
		}
		for _, word := range c.not {
			require.NotContains(t, strings.Join(challenge.Changes, "\n"), word, name)
		}
		again, err := e.manager.Challenge(e.ctx, "email", c.request)
		require.NoError(t, err, name)
		require.Equal(t, challenge, again, "%s: the challenge that waits says the same", name)
		e.clock.move(61 * time.Minute) // five mails an hour
	}
}
