package apitest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

var hostile = map[string]string{
	"empty": "", "space": " ", "NUL": "\x00", "CRLF": "\r\n", "prefix": "acme", "head": "acme_sk_live_",
	"scheme": "Bearer acme_sk_live_", "BOM": "\ufeff", "invalid UTF-8": "\xff\xfe\xfd", "emoji": "🔑",
	"separators": "____", "SQL": "' OR 1=1 --", "path": "../../etc/passwd", "format": "%s%n%d",
	"JSON": `{"token":"acme"}`, "64 KB": strings.Repeat("a", 64<<10), "1 MB": strings.Repeat("z", 1<<20),
	"1 MB of separators": strings.Repeat("_", 1<<20), "1 MB of UTF-8": strings.Repeat("🔑", 1<<18),
}

// disguises of a good token: what a copy, a proxy or an attacker adds.
func disguises(text string) map[string]string {
	return map[string]string{
		"space before": " " + text, "space after": text + " ", "CRLF after": text + "\r\n", "LF after": text + "\n",
		"BOM before": "\ufeff" + text, "RTL before": "\u202e" + text, "zero width inside": text[:20] + "\u200b" + text[20:],
		"NUL after": text + "\x00", "NUL inside": text[:30] + "\x00" + text[31:], "quoted": `"` + text + `"`,
		"twice": text + text, "listed": text + "," + text, "with scheme": "Bearer " + text,
		"homoglyph a": strings.Replace(text, "a", "а", 1), "full width s": strings.Replace(text, "sk", "ｓk", 1),
		"percent": strings.ReplaceAll(text, "_", "%5F"), "1 MB before": strings.Repeat("a", 1<<20) + text,
		"1 MB after": text + strings.Repeat("a", 1<<20), "in base64": base64.StdEncoding.EncodeToString([]byte(text)),
		"in hex": hex.EncodeToString([]byte(text)), "reversed": reversed(text),
	}
}

func reversed(s string) string {
	b := []byte(s)
	for i := range len(b) / 2 {
		b[i], b[len(b)-1-i] = b[len(b)-1-i], b[i]
	}
	return string(b)
}

// All of it gets the same answer, and none of it reaches the store.
func TestHostileTextHasOneAnswer(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	issued := e.issue()
	inputs := disguises(issued.Token.Reveal())
	for name, text := range hostile {
		inputs[name] = text
	}
	for name, text := range inputs {
		token, err := apikey.ParseToken(text)
		require.True(t, err == apikey.ErrInvalidToken, "ParseToken of %s: %v", name, err)
		require.True(t, token.IsZero(), name)
		key, err := e.verifier.Verify(t.Context(), text, apikey.Request{})
		require.True(t, err == apikey.ErrInvalidToken, "Verify of %s: %v", name, err)
		require.Nil(t, key, name)
		if shown := strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
				return -1
			}
			return r
		}, text); strings.Contains(shown, issued.Token.Reveal()) || name == "in base64" {
			continue // a person may paste it so
		}
		err = e.manager.RevokeToken(t.Context(), text, "")
		require.True(t, err == apikey.ErrInvalidToken, "RevokeToken of %s: %v", name, err)
	}
	require.Zero(t, s.lookups.Load())
	require.NoError(t, e.verify(issued.Token))
	require.EqualValues(t, 1, s.lookups.Load(), "the spy sees lookups")
}

// The length is bounded before anything else is looked at: a megabyte costs
// what a byte costs, and refusing costs no memory.
func TestRefusingIsCheap(t *testing.T) {
	e := newEnv(t)
	text := e.issue().Token.Reveal()
	inputs := disguises(text)
	for name, junk := range hostile {
		inputs[name] = junk
	}
	inputs["bad checksum"] = spliceSecret(text)
	for name, junk := range inputs {
		require.Zero(t, testing.AllocsPerRun(100, func() { apikey.ParseToken(junk) }), name)
		require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
			e.verifier.Verify(context.Background(), junk, apikey.Request{})
		}), 2.0, name)
	}
	begin := time.Now()
	for range 100_000 {
		apikey.ParseToken(inputs["1 MB before"])
	}
	// Reading the hundred gigabytes that these are would take seconds.
	require.Less(t, time.Since(begin), time.Second)
}

// Reading a token costs the Token, and nothing that grows.
func TestParsingIsCheap(t *testing.T) {
	text := newEnv(t).issue().Token.Reveal()
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { apikey.ParseToken(text) }), 3.0)
}
