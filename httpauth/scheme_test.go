package httpauth_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// A scheme of the program's own is read exactly as Bearer is.
func TestSchemeIsAsStrictAsBearer(t *testing.T) {
	e := newEnv(t)
	token := e.issue().Token.Reveal()
	big := strings.Repeat("a", 1<<20)
	for _, extractor := range []httpauth.Extractor{
		httpauth.Bearer(), httpauth.Scheme("Api-Key"), httpauth.Scheme("Token"), httpauth.Scheme("X"), httpauth.Scheme("!#$%&'*+-.^_`|~0"),
	} {
		name := extractor.(interface{ Scheme() string }).Scheme()
		filled := strings.NewReplacer("<s>", name, "<lower>", strings.ToLower(name), "<upper>", strings.ToUpper(name), "<t>", token)
		guard := e.guard(httpauth.Config{Extractors: []httpauth.Extractor{extractor, httpauth.Header("X-API-Key")}})
		for _, c := range []struct {
			status int
			values []string
		}{
			{200, []string{"<s> <t>"}},
			{200, []string{"<s>     <t>"}},
			{200, []string{" \t<s> <t>\t "}},
			{200, []string{"<lower> <t>"}},
			{200, []string{"<upper> <t>"}},

			{401, nil},
			{401, []string{"<t>"}},
			{401, []string{"<s>x <t>"}},
			{401, []string{"x<s> <t>"}},
			{401, []string{"<s>: <t>"}},
			{401, []string{"<s>=<t>"}},
			{401, []string{"Digest <t>"}},
			{401, []string{"Digest " + big}},
			{401, []string{`<s> "<t>"`}},
			{401, []string{"<s> key=<t>"}},

			{400, []string{"<s>"}},
			{400, []string{"<s>  "}},
			{400, []string{""}},
			{400, []string{"<s>\t<t>"}},
			{400, []string{"<s> <t> <t>"}},
			{400, []string{"<s> <t>, <s> <t>"}},
			{400, []string{"<s> <t>,"}},
			{400, []string{"<s> <t>", "<s> <t>"}},
			{400, []string{"<s> <t>", "Digest x"}},
			{400, []string{"<s> <t>\x00"}},
			{400, []string{"<s> <t>\n"}},
			{400, []string{"<s> \u202e<t>"}},
			{400, []string{"<s> " + big}},
		} {
			r := get()
			for _, value := range c.values {
				r.Header.Add("Authorization", filled.Replace(value))
			}
			h, ran := e.ok()
			got := e.serve(guard.Require()(h), r)
			require.Equal(t, c.status, got.StatusCode, "%s: %.60q: %s", name, c.values, got.body)
			require.Equal(t, c.status == 200, *ran == 1)
			if c.status == 200 {
				require.Empty(t, r.Header, "the handler sees no key")
			}
		}
		_, err := guard.Check(get("Authorization", name+" "+token, "X-API-Key", token))
		require.ErrorIs(t, err, httpauth.ErrMalformed, "%s: two keys", name)
	}
}

// A 401 names each scheme as the program writes it. Only Bearer has words for why.
func TestSchemeIsNamedInA401(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	own := httpauth.Scheme("Api-Key")
	for name, c := range map[string]struct {
		extractors []httpauth.Extractor
		missing    []string // no key
		wrong      []string // a wrong one
		denied     []string // 403
	}{
		"alone":         {[]httpauth.Extractor{own}, []string{`Api-Key realm="acme"`}, []string{`Api-Key realm="acme"`}, nil},
		"two spellings": {[]httpauth.Extractor{own, httpauth.Scheme("API-KEY")}, []string{`Api-Key realm="acme"`}, []string{`Api-Key realm="acme"`}, nil},
		"beside Bearer": {[]httpauth.Extractor{own, httpauth.Bearer()},
			[]string{`Api-Key realm="acme"`, `Bearer realm="acme"`},
			[]string{`Api-Key realm="acme"`, `Bearer realm="acme", error="invalid_token", error_description="The API key is not valid."`},
			[]string{`Bearer realm="acme", error="insufficient_scope", error_description="The API key lacks the ability payment:void.", scope="payment:void"`}},
		"beside a header": {[]httpauth.Extractor{httpauth.Scheme("ApiKey"), httpauth.Header("X-API-Key"), own},
			[]string{`ApiKey realm="acme"`, `ApiKey realm="acme", header="X-Api-Key"`, `Api-Key realm="acme"`},
			[]string{`ApiKey realm="acme"`, `ApiKey realm="acme", header="X-Api-Key"`, `Api-Key realm="acme"`}, nil},
	} {
		guard := e.guard(httpauth.Config{Realm: "acme", Extractors: c.extractors})
		h, ran := e.ok()
		for _, r := range []struct {
			headers []string
			need    []apikey.Ability
			status  int
			want    []string
		}{
			{nil, nil, 401, c.missing},
			{[]string{"Sec-Fetch-Mode", "cors"}, nil, 401, c.missing},
			{[]string{"Authorization", "Api-Key x"}, nil, 401, c.wrong},
			{[]string{"Authorization", "Api-Key " + issued.Token.Reveal()}, []apikey.Ability{apikey.Scope("payment:void")}, 403, c.denied},
		} {
			got := e.send(guard.Require(r.need...)(h), get(r.headers...))
			require.Equal(t, r.status, got.StatusCode, name)
			require.Equal(t, r.want, got.Header["Www-Authenticate"], name)
		}
		require.Zero(t, *ran)

		_, err := guard.Check(get("Authorization", "Api-Key"))
		require.EqualError(t, err, "apikey: malformed credentials: nothing follows Api-Key")
	}
}

func TestSchemeNames(t *testing.T) {
	for _, name := range []string{
		"", " ", "Api Key", "Api-Key ", "Api:Key", "Api,Key", "Api/Key", `"Api"`, "Api\tKey", "Api\r\nX: 1", "Schlüssel", "Ba\u017fic", "\x00", "\x7f",
		"Basic", "basic", "BASIC", "Bearer", "bearer", "BEARER", "Digest", "digest", "Negotiate", "NTLM", "ntlm",
	} {
		require.Panics(t, func() { httpauth.Scheme(name) }, "%q", name)
	}
	for taken, advice := range map[string]string{"basic": "use Basic()", "bearer": "use Bearer()", "Digest": "choose another name"} {
		func() {
			defer func() { require.Contains(t, fmt.Sprint(recover()), advice) }()
			httpauth.Scheme(taken)
		}()
	}
	for _, name := range []string{"Api-Key", "ApiKey", "Token", "key", "ACME-1", "Basic2"} {
		require.NotPanics(t, func() { httpauth.Scheme(name) }, name)
	}
}
