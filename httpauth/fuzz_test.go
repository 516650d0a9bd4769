package httpauth_test

import (
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey/httpauth"
)

// With any content in the two credential headers there is no panic, the answer is one of
// the table in the package documentation, and the handler runs only if the request has
// the real token, complete and once.
func FuzzAuthorization(f *testing.F) {
	e := newEnv(f)
	token := e.issue().Token.Reveal()
	for _, s := range []string{
		"Api-Key T", "api-key  T", "Api-Key", "Api-Key\tT", "", " ", "Bearer", "Bearer ", "Bearer T", "bearer  T", "Bearer T T", "Bearer T,Bearer T", "Bearer\tT", "Basic", "Basic T",
		"Basic YTo=", "Basic " + base64.StdEncoding.EncodeToString([]byte(token+":")), "Digest T", "T", "\x00", "Bearer \xff", "Bearer acme_sk_live_",
	} {
		f.Add(s, "")
		f.Add(s, "T")
	}
	h, ran := e.ok()
	guarded := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Bearer(), httpauth.Basic(), httpauth.Scheme("Api-Key"), httpauth.Header("X-API-Key")}}).Require()(h)
	// These describe the accepted forms of the token independently of the code under test.
	inScheme := regexp.MustCompile(`(?i:^[ \t]*(bearer|basic|api-key) +)(\S+)[ \t]*$`)
	pair := base64.StdEncoding.EncodeToString([]byte(token + ":"))
	f.Fuzz(func(t *testing.T, authorization, header string) {
		e.t = t
		r := get()
		for name, value := range map[string]string{"Authorization": authorization, "X-Api-Key": header} {
			if value != "" { // T stands for the real token: a fuzzer would never find it
				r.Header[name] = []string{strings.ReplaceAll(value, "T", token)}
			}
		}
		authorization, header = r.Header.Get("Authorization"), r.Header.Get("X-Api-Key")
		before := *ran
		got := e.serve(guarded, r)
		require.Contains(t, []int{200, 400, 401}, got.StatusCode)
		require.Equal(t, got.StatusCode == http.StatusOK, *ran == before+1)
		if got.StatusCode == http.StatusOK {
			m := inScheme.FindStringSubmatch(authorization)
			first := m != nil && (m[2] == token && !strings.EqualFold(m[1], "basic") || m[2] == pair && strings.EqualFold(m[1], "basic"))
			second := strings.Trim(header, " \t") == token
			require.True(t, first != second, "%q and %q", authorization, header)
		} else {
			require.Contains(t, []string{"invalid_request", "invalid_token", "credentials_missing"}, codeOf(got.body))
		}
	})
}

func codeOf(body string) string {
	_, rest, _ := strings.Cut(body, `"code":"`)
	code, _, _ := strings.Cut(rest, `"`)
	return code
}
