package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/base62"
	"github.com/go-apikey/apikey/storetest"
)

// The widths of a token from the right, as its documentation says them.
const (
	crcWidth    = 6
	tagWidth    = 11
	slotWidth   = 1
	secretWidth = 33
	idWidth     = 22
	bodyWidth   = idWidth + secretWidth + slotWidth + tagWidth + crcWidth
)

// secretOf is the part of a token that is a secret.
func secretOf(text string) string {
	return text[len(text)-bodyWidth+idWidth:][:secretWidth]
}

// withField puts other digits where a token's field ends, and a right checksum.
func withField(text, digits string, fromRight int) string {
	end := len(text) - fromRight
	return recrc(text[:end-len(digits)] + digits + text[end:])
}

// withHead puts something else before a token's body, and a right checksum.
func withHead(text, head string) string { return recrc(head + text[len(text)-bodyWidth:]) }

// programs are the two that a token has to be safe in: with a pepper, without.
var programs = map[string]func(*env){"peppered": func(*env) {}, "plain": noPepper}

func TestTokenFormat(t *testing.T) {
	for _, c := range []struct {
		program string
		mode    apikey.Mode
		kind    apikey.Kind
		form    string
	}{
		{"peppered", apikey.Live, apikey.Secret, `^acme_sk_live_[0-9A-Za-z]{22}[0-9A-Za-z]{33}1[0-9A-Za-z]{11}[0-9A-Za-z]{6}$`},
		{"peppered", apikey.Test, apikey.Secret, `^acme_sk_test_[0-9A-Za-z]{22}[0-9A-Za-z]{33}1[0-9A-Za-z]{11}[0-9A-Za-z]{6}$`},
		{"peppered", apikey.Live, apikey.Publishable, `^acme_pk_live_[0-9A-Za-z]{22}[0-9A-Za-z]{33}1[0-9A-Za-z]{11}[0-9A-Za-z]{6}$`},
		{"peppered", apikey.Test, apikey.Publishable, `^acme_pk_test_[0-9A-Za-z]{22}[0-9A-Za-z]{33}1[0-9A-Za-z]{11}[0-9A-Za-z]{6}$`},
		{"plain", apikey.Live, apikey.Secret, `^acme_sk_live_[0-9A-Za-z]{22}[0-9A-Za-z]{33}00{11}[0-9A-Za-z]{6}$`},
		{"plain", apikey.Test, apikey.Publishable, `^acme_pk_test_[0-9A-Za-z]{22}[0-9A-Za-z]{33}00{11}[0-9A-Za-z]{6}$`},
	} {
		t.Run(fmt.Sprint(c.program, c.kind, c.mode), func(t *testing.T) {
			e := newEnv(t, programs[c.program])
			issued := e.issue(func(r *apikey.IssueRequest) {
				r.Mode, r.Kind, r.Abilities = c.mode, c.kind, []string{"card:tokenise"}
			})
			text := issued.Token.Reveal()
			require.Regexp(t, regexp.MustCompile(c.form), text)
			require.Equal(t, text, recrc(text), "the checksum covers everything before it")

			parsed, err := apikey.ParseToken(text)
			require.NoError(t, err)
			require.Equal(t, text, parsed.Reveal())
			for _, token := range []apikey.Token{issued.Token, parsed} {
				require.Equal(t, c.mode, token.Mode())
				require.Equal(t, c.kind, token.Kind())
				require.Equal(t, issued.Key.Credential, token.Credential())
				require.Equal(t, issued.Key.Credential.String(), text[len(text)-bodyWidth:][:idWidth])
				require.Equal(t, text[len(text)-4:], token.Hint())
				require.Equal(t, text[:len(text)-bodyWidth]+"…"+token.Hint(), token.String())
			}
		})
	}
}

// A token of the wild, kept here so that no change of the code can make the
// tokens that merchants hold unreadable.
func TestTokenOfVersionOneStaysReadable(t *testing.T) {
	token, err := apikey.ParseToken("acme_sk_live_0fnhLPMkMgQqLbvDmOH4Wz0123456789ABCDEFGHIJKLMNOPQRSTUVWA0BCDEFGHIJK1RFCOj")
	require.NoError(t, err)
	require.Equal(t, apikey.CredentialID{0x16, 0x27, 0x19, 0x23, 0x2e, 0x7c, 0x1e, 0xa3, 0xc4, 0x22, 0xe0, 0xa1, 0x63, 0x54, 0x13, 0xc5}, token.Credential())
	require.Equal(t, apikey.Live, token.Mode())
	require.Equal(t, apikey.Secret, token.Kind())
}

func TestTokensNeverRepeat(t *testing.T) {
	const accounts, each = 20, 100
	e := newEnv(t)
	tokens := make(chan string, accounts*each)
	var wg sync.WaitGroup
	for i := range accounts {
		ctx := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr", Account: fmt.Sprint("acc_", i), Role: "admin"})
		wg.Go(func() {
			for range each {
				issued, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Disabled: true})
				if err != nil {
					t.Errorf("issue: %v", err)
					return
				}
				tokens <- issued.Token.Reveal()
			}
		})
	}
	wg.Wait()
	close(tokens)
	ids, secrets := map[string]bool{}, map[string]bool{}
	var digits [secretWidth]map[byte]bool
	for text := range tokens {
		ids[text[len(text)-bodyWidth:][:idWidth]] = true
		secrets[secretOf(text)] = true
		for i := range secretWidth {
			if digits[i] == nil {
				digits[i] = map[byte]bool{}
			}
			digits[i][secretOf(text)[i]] = true
		}
	}
	require.Len(t, ids, accounts*each)
	require.Len(t, secrets, accounts*each)
	for i, seen := range digits {
		// All 62 digits are missing one with a probability of 62·(61/62)^2000,
		// 10⁻¹², at each of the 33 places.
		require.Len(t, seen, 62, "digits seen at place %d of the secret", i)
	}
}

func TestPrefixMayHoldUnderscores(t *testing.T) {
	for _, p := range []string{"a", "my_company", "_", "__", "sk", "sk_live", "acme_sk_live", "x_pk_test_", "12345678901234567890"} {
		t.Run(p, func(t *testing.T) {
			e := newEnv(t, func(e *env) { e.settings.Prefix = p })
			issued := e.issue()
			require.True(t, strings.HasPrefix(issued.Token.Reveal(), p+"_sk_live_"))
			parsed, err := apikey.ParseToken(issued.Token.Reveal())
			require.NoError(t, err)
			require.Equal(t, issued.Key.Credential, parsed.Credential())
			require.Equal(t, apikey.Live, parsed.Mode())
			require.NoError(t, e.verify(issued.Token))
		})
	}
}

func TestPrefixIsRefusedAtTheStart(t *testing.T) {
	for _, p := range []string{"", "Acme", "acme-pay", "acme pay", "acme\n", "ácme", "acme\x00", "123456789012345678901", "acme:"} {
		e := newEnv(t)
		s := e.settings
		s.Prefix = p
		_, err := apikey.NewManager(t.Context(), s, apikey.ManagerConfig{})
		require.ErrorIs(t, err, apikey.ErrInvalid, "%q", p)
		_, err = apikey.NewVerifier(t.Context(), s, apikey.VerifierConfig{Mode: apikey.Live})
		require.ErrorIs(t, err, apikey.ErrInvalid, "%q", p)
	}
}

// Every mistake of a hand, an eye or a mail program is refused by the text
// alone.
func TestEveryTypoIsRefusedOffline(t *testing.T) {
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, program)
			text := e.issue().Token.Reveal()
			tried := 0
			for _, typo := range typos(text) {
				tried++
				if _, err := apikey.ParseToken(typo); err != apikey.ErrInvalidToken {
					t.Errorf("%q parses (of %q): %v", typo, text, err)
				}
			}
			require.Greater(t, tried, 15_000)
			require.NoError(t, e.verifyText(text))
		})
	}
}

// typos returns every substitution, deletion, insertion, swap and flip of case
// that changes a text.
func typos(text string) (list []string) {
	const others = base62.Alphabet + "_-. \x00\x7f\xff+/="
	add := func(typo string) {
		if typo != text {
			list = append(list, typo)
		}
	}
	for i := range len(text) {
		add(text[:i] + text[i+1:])
		add(text[:i] + flip(text[i:i+1]) + text[i+1:])
		for j := range len(others) {
			add(text[:i] + others[j:j+1] + text[i+1:])
			add(text[:i] + others[j:j+1] + text[i:])
		}
		for j := i + 1; j < len(text); j++ {
			add(text[:i] + text[j:j+1] + text[i+1:j] + text[i:i+1] + text[j+1:])
			add(text[:i] + flip(text[i:i+1]) + text[i+1:j] + flip(text[j:j+1]) + text[j+1:])
		}
	}
	for j := range len(others) {
		add(text + others[j:j+1])
	}
	add(strings.ToUpper(text))
	add(strings.ToLower(text))
	add(flip(text))
	return list
}

func flip(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, s)
}

// A field that overflows would be a second spelling of another token.
func TestFieldsThatOverflowAreRefused(t *testing.T) {
	text := newEnv(t, noPepper).issue().Token.Reveal()
	crc, ok := base62.Uint(text[len(text)-crcWidth:], 32)
	require.True(t, ok)
	for _, c := range []struct {
		name, text string
		parses     bool
	}{
		{"as it is", text, true},
		{"ID at 128 bits", withField(text, "7n42DGM5Tflk9n8mt7Fhc7", bodyWidth-idWidth), true},
		{"ID beyond 128 bits", withField(text, "7n42DGM5Tflk9n8mt7Fhc8", bodyWidth-idWidth), false},
		{"ID far beyond", withField(text, strings.Repeat("z", idWidth), bodyWidth-idWidth), false},
		{"tag at 64 bits", withField(text, "1LygHa16AHYF", crcWidth), true},
		{"tag beyond 64 bits", withField(text, "1LygHa16AHYG", crcWidth), false},
		{"tag far beyond", withField(text, "1zzzzzzzzzzz", crcWidth), false},
		{"tag without a slot", withField(text, "000000000001", crcWidth), false},
		{"last slot", withField(text, "z00000000000", crcWidth), true},
		{"slot of no digit", withField(text, "_00000000000", crcWidth), false},
		{"secret of no digit", withField(text, strings.Repeat("-", secretWidth), bodyWidth-idWidth-secretWidth), false},
		{"secret all the same", withField(text, strings.Repeat("z", secretWidth), bodyWidth-idWidth-secretWidth), true},
		// The same 32 bits, once more around: 62⁶ is more than 13 times 2³².
		{"CRC beyond 32 bits", text[:len(text)-crcWidth] + string(base62.Append(nil, crc+1<<32, crcWidth)), false},
		{"CRC of all but the prefix", text[:len(text)-crcWidth] + recrc(text[len(prefix)+1:])[len(text)-len(prefix)-1-crcWidth:], false},
		{"no prefix", withHead(text, "_sk_live_"), false},
		{"no prefix, no separator", withHead(text, "sk_live_"), false},
		{"prefix of 20", withHead(text, strings.Repeat("a", 20)+"_sk_live_"), true},
		{"prefix of 21", withHead(text, strings.Repeat("a", 21)+"_sk_live_"), false},
		{"prefix in upper case", withHead(text, "Acme_sk_live_"), false},
		{"prefix with a NUL", withHead(text, "ac\x00me_sk_live_"), false},
		{"prefix in Cyrillic", withHead(text, "аcme_sk_live_"), false},
		{"unknown kind", withHead(text, "acme_rk_live_"), false},
		{"unknown mode", withHead(text, "acme_sk_prod_"), false},
		{"kind in upper case", withHead(text, "acme_SK_live_"), false},
		{"separators doubled", withHead(text, "acme__sk__live__"), false},
		{"separator before the body doubled", withHead(text, "acme_sk_live__"), false},
		{"another separator", withHead(text, "acme-sk-live-"), false},
	} {
		_, err := apikey.ParseToken(c.text)
		if c.parses {
			require.NoError(t, err, c.name)
		} else {
			require.Equal(t, apikey.ErrInvalidToken, err, c.name)
		}
	}
}

// A CRC is no secret: whoever relabels a token computes a new one.
func TestRelabelledTokensNeverVerify(t *testing.T) {
	for name, program := range programs {
		for _, kind := range []apikey.Kind{apikey.Secret, apikey.Publishable} {
			t.Run(fmt.Sprint(name, kind), func(t *testing.T) {
				e := newEnv(t, program, func(e *env) { e.vc.Mode = apikey.AnyMode })
				text := e.issue(func(r *apikey.IssueRequest) { r.Kind, r.Abilities = kind, []string{"card:tokenise"} }).Token.Reveal()
				elsewhere := newEnv(t, program, func(e *env) { e.vc.Mode, e.settings.Prefix = apikey.AnyMode, "acme_sk" })
				other := elsewhere.verifier
				any := apikey.Request{AllowPublishable: true}
				tried := 0
				for _, head := range []string{"acme_sk_live_", "acme_sk_test_", "acme_pk_live_", "acme_pk_test_", "acme_sk_sk_live_", "acme_sk_pk_live_", "beta_sk_live_"} {
					for _, slot := range []byte("012z") {
						relabelled := []byte(withHead(text, head))
						relabelled[len(relabelled)-crcWidth-tagWidth-slotWidth] = slot
						forged := recrc(string(relabelled))
						if slot == '0' {
							forged = withField(forged, "000000000000", crcWidth)
						}
						if forged == text {
							continue
						}
						tried++
						for _, v := range []*apikey.Verifier{e.newVerifier(), e.verifier, other} {
							key, err := v.Verify(t.Context(), forged, any)
							require.ErrorIs(t, err, apikey.ErrInvalidToken, "%s of %s", forged, text)
							require.Nil(t, key)
						}
					}
				}
				require.GreaterOrEqual(t, tried, 27)
				_, err := e.verifier.Verify(t.Context(), text, any)
				require.NoError(t, err)
			})
		}
	}
}

// The mode that a text claims is read from its head alone, and costs nothing.
func TestClaimedMode(t *testing.T) {
	e := newEnv(t)
	live := e.issue().Token.Reveal()
	for head, want := range map[string]apikey.Mode{
		"acme_sk_live_": apikey.Live, "acme_pk_live_": apikey.Live, "acme_sk_test_": apikey.Test, "acme_pk_test_": apikey.Test,
		"_test__sk_live_": apikey.Live, "_live__sk_test_": apikey.Test, "a_pk_test_": apikey.Test,
		"_sk_test_": 0, "acme_sk_prod_": 0, "acme_SK_TEST_": 0, "acme-sk-test-": 0, "acme_sk_test": 0, "acme_sk_test__": 0,
		strings.Repeat("a", 20) + "_sk_test_": apikey.Test, strings.Repeat("a", 21) + "_sk_test_": 0,
	} {
		text := withHead(live, head)
		require.Equal(t, want, apikey.ClaimedMode(text), text)
		require.Equal(t, want, apikey.ClaimedMode(text[:len(text)-1]+"~"), "the checksum is not read")
		token, err := apikey.ParseToken(text)
		require.True(t, err != nil || token.Mode() == want, text)
	}
	for name, text := range hostile {
		require.NotPanics(t, func() { apikey.ClaimedMode(text) }, name)
	}
	require.Zero(t, apikey.ClaimedMode(""))
	require.Zero(t, apikey.ClaimedMode(live[:len(live)-1]), "what is one character short is no token")
	require.Zero(t, testing.AllocsPerRun(100, func() { apikey.ClaimedMode(live) }))
}

func TestTokenPrintsRedacted(t *testing.T) {
	e := newEnv(t)
	token := e.issue().Token
	redacted := token.String()
	require.Regexp(t, `^acme_sk_live_…[0-9A-Za-z]{4}$`, redacted)
	require.True(t, strings.HasSuffix(token.Reveal(), token.Hint()))
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3v"} {
		require.Equal(t, redacted, fmt.Sprintf(format, token), format)
		require.Equal(t, redacted, fmt.Sprintf(format, &token), format)
	}
	require.Equal(t, redacted, token.GoString())
	require.Equal(t, redacted, token.LogValue().String())
	for _, v := range []any{token, &token, map[string]any{"t": token}, []apikey.Token{token}} {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		require.Contains(t, string(b), `"`+redacted+`"`)
	}
	b, err := json.Marshal(map[apikey.Token]int{token: 1})
	require.NoError(t, err)
	require.Equal(t, `{"`+redacted+`":1}`, string(b))
	_, err = apikey.ParseToken(redacted)
	require.Equal(t, apikey.ErrInvalidToken, err)
	require.Equal(t, apikey.ErrInvalidToken, e.verifyText(redacted))
}

func TestZeroToken(t *testing.T) {
	var zero apikey.Token
	require.True(t, zero.IsZero())
	require.False(t, newEnv(t).issue().Token.IsZero())
	require.Empty(t, zero.Reveal())
	require.Empty(t, zero.String())
	require.Empty(t, zero.Hint())
	require.Empty(t, fmt.Sprintf("%v%+v%#v%s", zero, zero, zero, zero))
	require.Zero(t, zero.Credential())
	require.Zero(t, zero.Mode())
	require.Zero(t, zero.Kind())
	b, err := json.Marshal(zero)
	require.NoError(t, err)
	require.Equal(t, `""`, string(b))
}

// The text of a publishable token is a column: a damaged one must not bring
// down the page that shows it.
func TestDamagedPublishableTextStillPrints(t *testing.T) {
	for _, text := range []string{"x", "acme_pk_live_", strings.Repeat("é", 100), "\"\\\n\xff", strings.Repeat("z", bodyWidth-1)} {
		e := newEnv(t, noPepper)
		issued := e.issue(func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, []string{"card:tokenise"} })
		e.rewrite(issued.Key.ID, func(r *apikey.StoreRecord) { r.Credentials[0].Public = text })
		info, err := e.manager.Get(e.ctx, issued.Key.ID)
		require.NoError(t, err)
		require.NotContains(t, fmt.Sprintf("%+v", info), "PANIC", "%q", text)
		written, err := json.Marshal(info)
		require.NoError(t, err, "%q", text)
		var back apikey.Info
		require.NoError(t, json.Unmarshal(written, &back), "%s", written)
		require.True(t, back.Credentials.At(0).Public.IsZero(), "%s", written)
		require.Zero(t, info.Credentials.At(0).Public.Mode())
	}
}

// rewrite changes a stored record behind the library's back.
func (e *env) rewrite(id apikey.KeyID, edit func(*apikey.StoreRecord)) {
	e.t.Helper()
	r, err := e.store.Get(context.Background(), id)
	require.NoError(e.t, err)
	edit(&r)
	r.Version++
	event := apikey.StoreEvent{ID: storetest.NewKeyID(), Key: id, Account: r.Account, Seq: r.Version}
	require.NoError(e.t, e.store.Apply(context.Background(), apikey.StoreChange{ID: event.ID, Record: &r, Event: &event}))
}

// The document says 196 bits.
func TestSecretHasTheBitsItClaims(t *testing.T) {
	require.InDelta(t, 196.5, secretWidth*math.Log2(62), 0.1)
}
