package httpauth_test

import (
	"context"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// own is a program's own Extractor without a scheme; named has one.
type own struct{ httpauth.Extractor }

func (own) Header() string { return "Authorization" }

type named struct {
	own
	scheme string
}

func (n named) Scheme() string { return n.scheme }

// A 401 names every scheme that the Guard accepts: a client that answers challenges sends
// no credentials before it has received a challenge with its scheme.
func TestFound23TheChallengeNamesWhatIsAccepted(t *testing.T) {
	const bearer, basic = `Bearer realm="acme"`, `Basic realm="acme", charset="UTF-8"`
	header := func(name string) string { return `ApiKey realm="acme", header="` + name + `"` }
	for name, c := range map[string]struct {
		extractors []httpauth.Extractor
		want       []string
		script     []string // the challenges if a web page's script sends the request
	}{
		"default":        {nil, []string{bearer, basic}, []string{bearer}},
		"bearer":         {[]httpauth.Extractor{httpauth.Bearer()}, []string{bearer}, []string{bearer}},
		"basic":          {[]httpauth.Extractor{httpauth.Basic()}, []string{basic}, []string{`ApiKey realm="acme"`}},
		"a header":       {[]httpauth.Extractor{httpauth.Header("x-api-key")}, []string{header("X-Api-Key")}, []string{header("X-Api-Key")}},
		"basic, header":  {[]httpauth.Extractor{httpauth.Basic(), httpauth.Header("X-API-Key")}, []string{basic, header("X-Api-Key")}, []string{header("X-Api-Key")}},
		"named twice":    {[]httpauth.Extractor{httpauth.Bearer(), httpauth.Bearer()}, []string{bearer}, []string{bearer}},
		"its own":        {[]httpauth.Extractor{named{scheme: "Acme"}}, []string{`Acme realm="acme"`}, []string{`Acme realm="acme"`}},
		"without a name": {[]httpauth.Extractor{own{httpauth.Bearer()}}, []string{header("Authorization")}, []string{header("Authorization")}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			h, ran := e.ok()
			guarded := e.guard(httpauth.Config{Realm: "acme", Extractors: c.extractors}).Require()(h)
			for _, r := range []struct {
				header, value string
				want          []string
			}{
				{"X-Other", "1", c.want},
				{"Origin", "https://shop.example", c.script},
				{"Sec-Fetch-Mode", "cors", c.script},
				{"Sec-Fetch-Mode", "navigate", c.script}, // the user has typed the address into a browser
			} {
				got := e.send(guarded, get(r.header, r.value))
				require.Equal(t, 401, got.StatusCode)
				require.Equal(t, r.want, got.Header["Www-Authenticate"], r.header)
			}
			require.Zero(t, *ran)
		})
	}
	require.Panics(t, func() {
		e := newEnv(t)
		e.guard(httpauth.Config{Extractors: []httpauth.Extractor{named{scheme: "A\r\nX: 1"}}})
	})
}

// These clients answer challenges: they send the user name only after a 401 with a
// challenge for Basic.
func TestFound23ClientsThatWaitForAChallenge(t *testing.T) {
	e := newEnv(t)
	token := e.issue().Token.Reveal()
	for name, c := range map[string][]string{
		"curl": {"curl", "-sS", "--noproxy", "*", "--anyauth", "-u", token + ":"},
		"wget": {"wget", "-q", "--no-proxy", "-O", "-", "--user", token, "--password", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(c[0]); err != nil {
				t.Skipf("install %s to run this", c[0])
			}
			for guard, extractors := range map[string][]httpauth.Extractor{
				"default": nil, "basic": {httpauth.Basic()}, "header first": {httpauth.Header("X-API-Key"), httpauth.Basic()},
			} {
				h, ran := e.ok()
				server := httptest.NewServer(e.guard(httpauth.Config{Extractors: extractors}).Require()(h))
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				out, err := exec.CommandContext(ctx, c[0], append(c[1:], server.URL)...).CombinedOutput()
				cancel()
				server.Close()
				require.NoError(t, err, "%s: %s", guard, out)
				require.Equal(t, 1, *ran, guard)
				require.NotContains(t, strings.TrimSpace(string(out)), "credentials_missing", guard)
			}
		})
	}
}

// A Verifier of the program's own may leave the ability out, and an outer handler may
// have said how long its own answer would be.
func TestAnswersToIncompleteErrors(t *testing.T) {
	lacks := &apikey.AbilityError{}
	require.Equal(t, "insufficient_scope", httpauth.Denied(lacks).Code)
	require.Nil(t, httpauth.Denied(lacks).Missing)
	p := httpauth.Refused(lacks)
	require.Equal(t, "insufficient_scope", p.Code)
	require.Empty(t, p.Missing)
	w := httptest.NewRecorder()
	w.Header().Set("Content-Length", "3")
	require.NoError(t, p.Write(w))
	require.Empty(t, w.Header().Get("Content-Length"))
}
