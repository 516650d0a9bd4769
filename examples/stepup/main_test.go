package main_test

import (
	"context"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
	"github.com/go-apikey/apikey/memstore"
)

const want = `1. A key is made, approved by the password
   without a password: apikey: action has to be approved by a factor: key.issue needs one of [password]
   with a wrong password: apikey: wrong answer: 4 attempts are left
   made, and its token shown: TOKEN
   it works
2. An authenticator app is enrolled, approved by the password
   without a password: apikey: action has to be approved by a factor: factor.enroll needs one of [email password]
   scanned, confirmed with a first code; enrolled: [totp]
3. The token is revealed, approved by the app
   with the code of the enrolment: apikey: wrong answer: 4 attempts are left
   shown for 30s: TOKEN
   with the same grant again: apikey: this grant does not approve this request: confirm a new challenge (it was used)
4. The token is revealed, approved by a code from the mailbox
   mails sent: 1, the last to [anna@shop.example]
   shown for 30s: TOKEN
5. The token is replaced tomorrow, approved by a code from the mailbox
   with that grant, but at once: apikey: this grant does not approve this request: confirm a new challenge (it approves another request)
   the new token is shown today: ANOTHER
   until then the old one works
   and the new one not yet: apikey: token is not valid yet
   from then on the new one works
   and the old one no more: apikey: this token has ended
6. The activity log, newest first
   usr_anna key.rotate done
   usr_anna challenge.confirm done
   usr_anna key.reveal done
   usr_anna challenge.confirm done
   usr_anna key.reveal done
   usr_anna challenge.confirm done
   usr_anna factor.confirm done
   usr_anna factor.enroll done
   usr_anna challenge.confirm done
   usr_anna key.issue done
   usr_anna challenge.confirm done
`

var redacted = regexp.MustCompile(`acme_sk_live_…\w{4}`)

func TestItEndsByItselfAndSaysEachStep(t *testing.T) {
	out, err := exec.Command("go", "run", ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	tokens := redacted.FindAllString(string(out), -1)
	require.Len(t, tokens, 4)
	text := strings.ReplaceAll(string(out), tokens[0], "TOKEN")
	require.Equal(t, want, strings.ReplaceAll(text, tokens[3], "ANOTHER"))
	for what, secret := range secrets {
		require.NotRegexp(t, secret, string(out), what)
	}
}

// secrets has patterns of the secrets that must not be printed.
var secrets = map[string]*regexp.Regexp{
	"token":                   regexp.MustCompile(`_live_[0-9A-Za-z]`),
	"code":                    regexp.MustCompile(`\b\d{6}\b`),
	"password, seed or grant": regexp.MustCompile(`\b[0-9A-Za-z]{20,}\b`),
	"enrolment":               regexp.MustCompile(`otpauth:`),
}

// Each pattern finds a real secret; otherwise it would find none in the output either.
func TestThePatternsFindSecrets(t *testing.T) {
	ctx := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	m, err := apikey.NewManager(ctx, apikey.Settings{Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog()}, apikey.ManagerConfig{})
	require.NoError(t, err)
	issued, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(t, err)
	require.Regexp(t, secrets["token"], issued.Token.Reveal())

	app, err := apikey.NewTOTP("Acme", nil)
	require.NoError(t, err)
	_, uri, err := app.Enroll(ctx, apikey.Actor{ID: "usr_1"})
	require.NoError(t, err)
	require.Regexp(t, secrets["enrolment"], uri)
	u, err := url.Parse(uri)
	require.NoError(t, err)
	require.Regexp(t, secrets["password, seed or grant"], u.Query().Get("secret"))
	require.Regexp(t, secrets["code"], "approved by "+totp.Code([]byte("any"), 1))
}
