package apitest

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// digits writes the key that pepperOf and localKEK make of fill.
func digits(fill byte) string {
	key := make([]byte, 32)
	for i := range key {
		key[i] = fill + byte(i)
	}
	return hex.EncodeToString(key)
}

// samePepper reports whether two peppers have one slot and one key.
func samePepper(t *testing.T, a, b apikey.Pepper) bool {
	t.Helper()
	hash, err := hmacHasher(t, a).Hash(t.Context(), []byte("a secret"))
	require.NoError(t, err)
	same, err := hmacHasher(t, b).Verify(t.Context(), hash, []byte("a secret"))
	require.NoError(t, err)
	return same && a.Slot() == b.Slot()
}

func TestParsePeppers(t *testing.T) {
	one, two := digits(1), digits(2)
	type want struct{ slot, fill byte }
	for name, c := range map[string]struct {
		text string
		want []want
	}{
		"a key alone is slot 1":     {one, []want{{1, 1}}},
		"line end":                  {one + "\n", []want{{1, 1}}},
		"Windows line end":          {one + "\r\n", []want{{1, 1}}},
		"capitals":                  {strings.ToUpper(one), []want{{1, 1}}},
		"space around":              {" \t" + one + " ", []want{{1, 1}}},
		"byte order mark":           {"\ufeff" + one, []want{{1, 1}}},
		"slot":                      {"7:" + one, []want{{7, 1}}},
		"last slot":                 {"61:" + one, []want{{61, 1}}},
		"slot with zeros":           {"007:" + one, []want{{7, 1}}},
		"space around the colon":    {"7 : " + one, []want{{7, 1}}},
		"the first line mints":      {"2:" + two + "\n1:" + one + "\n", []want{{2, 2}, {1, 1}}},
		"Windows lines":             {"1:" + one + "\r\n\r\n2:" + two + "\r\n", []want{{1, 1}, {2, 2}}},
		"the older has no slot yet": {"2:" + two + "\n" + one, []want{{2, 2}, {1, 1}}},
		"comments and empty lines":  {"# since May\n\n2:" + two + "\n  # the old one\n1:" + one + "\n\n", []want{{2, 2}, {1, 1}}},
	} {
		peppers, err := apikey.ParsePeppers(c.text)
		require.NoError(t, err, name)
		require.Len(t, peppers, len(c.want), name)
		for i, w := range c.want {
			require.True(t, samePepper(t, pepperOf(t, w.slot, w.fill), peppers[i]), "%s: pepper %d is another", name, i)
		}
		first, err := apikey.ParsePepper(c.text)
		if len(c.want) > 1 {
			require.ErrorIs(t, err, apikey.ErrInvalid, name)
			require.ErrorContains(t, err, "ParsePeppers", name)
			continue
		}
		require.NoError(t, err, name)
		require.True(t, samePepper(t, peppers[0], first), name)
	}
}

func TestParseKEKs(t *testing.T) {
	one, two := digits(1), digits(2)
	made, err := apikey.ParseKEK(one)
	require.NoError(t, err)
	require.Equal(t, "kek-b81819341be52c5e", made.ID(), "it is stored: never to be changed")
	type want struct {
		id   string
		fill byte
	}
	for name, c := range map[string]struct {
		text string
		want []want
	}{
		"a key alone":          {one + "\r\n", []want{{made.ID(), 1}}},
		"ID":                   {"kek-2026:" + one, []want{{"kek-2026", 1}}},
		"space":                {" kek-2026 : " + one + " \n", []want{{"kek-2026", 1}}},
		"ID with colons":       {"aws:kms:1:" + one, []want{{"aws:kms:1", 1}}},
		"made ID, written":     {made.ID() + ":" + one, []want{{made.ID(), 1}}},
		"the first line seals": {"# new\nb:" + two + "\na:" + one + "\n", []want{{"b", 2}, {"a", 1}}},
		"long ID":              {strings.Repeat("é", 127) + ":" + one, []want{{strings.Repeat("é", 127), 1}}},
	} {
		keks, err := apikey.ParseKEKs(c.text)
		require.NoError(t, err, name)
		require.Len(t, keks, len(c.want), name)
		for i, w := range c.want {
			require.Equal(t, w.id, keks[i].ID(), name)
			wrapped, err := localKEK(t, w.id, w.fill).Wrap(t.Context(), []byte("data key"), []byte("aad"))
			require.NoError(t, err)
			dek, err := keks[i].Unwrap(t.Context(), wrapped, []byte("aad"))
			require.NoError(t, err, name)
			require.Equal(t, "data key", string(dek), name)
		}
		_, err = apikey.ParseKEK(c.text)
		require.Equal(t, len(c.want) == 1, err == nil, "%s: %v", name, err)
	}
	other, err := apikey.ParseKEK(two)
	require.NoError(t, err)
	require.NotEqual(t, made.ID(), other.ID(), "the ID changes whenever the key does")
}

// What is wrong is said with the line and what to do, and never with a part of the
// text: where its parts are in the wrong order, anything in it is the secret.
func TestKeyTextsThatAreWrong(t *testing.T) {
	const openssl = "openssl rand -hex 32"
	one, two := digits(0xa1), digits(0xb2)
	raw, err := hex.DecodeString(one)
	require.NoError(t, err)
	peppers := func(text string) error { _, err := apikey.ParsePeppers(text); return err }
	keks := func(text string) error { _, err := apikey.ParseKEKs(text); return err }
	both := map[string]func(string) error{"pepper": peppers, "KEK": keks}
	onlyPepper := map[string]func(string) error{"pepper": peppers}
	onlyKEK := map[string]func(string) error{"KEK": keks}
	for name, c := range map[string]struct {
		of   map[string]func(string) error
		text string
		says string
	}{
		"nothing":              {both, "", ": there is none in the text: make one with " + openssl},
		"empty lines":          {both, "\r\n \n", ": there is none in the text"},
		"comments":             {both, "# " + one, ": there is none in the text"},
		"31 bytes":             {both, one[2:] + "\r\n", ", line 1: has 31 bytes, want 32: make one with " + openssl},
		"33 bytes":             {both, one + "00", ", line 1: has 33 bytes, want 32"},
		"16 bytes":             {both, one[:32], ", line 1: has 16 bytes, want 32"},
		"half a byte less":     {both, one[1:], ", line 1: has 63 hexadecimal digits, want 64"},
		"two keys in a row":    {both, one + two, ", line 1: has 64 bytes, want 32"},
		"two keys with space":  {both, one + " " + two, ", line 1: has 129 characters and not all are hexadecimal"},
		"zeros":                {both, strings.Repeat("0", 64), ", line 1: is all zeros, want 32 random bytes: make one with " + openssl},
		"no digit":             {both, one[:63] + "g", ", line 1: has 64 characters and not all are hexadecimal digits"},
		"0x":                   {both, "0x" + one, ", line 1: has 66 characters and not all"},
		"quotes":               {both, `"` + one + `"`, ", line 1: has 66 characters and not all"},
		"comment behind":       {both, one + " # old", ", line 1: has 70 characters and not all"},
		"base64":               {both, base64.StdEncoding.EncodeToString(raw), ", line 1: is base64, want 64 hexadecimal digits: convert it with base64 -d | xxd -p -c 64"},
		"base64, URL":          {both, base64.RawURLEncoding.EncodeToString(raw), ", line 1: is base64"},
		"raw bytes":            {both, string(raw), ": the file is not text: write its key as 64 hexadecimal digits"},
		"UTF-16":               {both, "\xff\xfe1\x00:\x00", ": the file is not text"},
		"NUL":                  {both, one + "\x00", ": the file is not text"},
		"no key":               {both, "3:", ", line 1: has no key"},
		"a passphrase":         {both, "correct horse battery staple", ", line 1: has 28 characters and not all"},
		"spaces between bytes": {both, fmt.Sprintf("% x", raw), ", line 1: has 95 characters and not all"},
		"colons between bytes": {both, strings.ReplaceAll(fmt.Sprintf("% x", raw), " ", ":"), ", line 1: has 1 bytes, want 32"},
		"third line":           {both, "# x\n1:" + one + "\r\n2:" + two[1:], ", line 3: has 63 hexadecimal digits"},
		"one key twice":        {both, "1:" + one + "\n2:" + strings.ToUpper(one), ", line 2: has the key of line 1 again"},

		"slot 0":           {onlyPepper, "0:" + one, ", line 1: want a slot from 1 to 61 before the colon"},
		"slot 62":          {onlyPepper, "62:" + one, ", line 1: want a slot from 1 to 61"},
		"slot 256":         {onlyPepper, "256:" + one, ", line 1: want a slot from 1 to 61"},
		"slot 257":         {onlyPepper, "257:" + one, ", line 1: want a slot from 1 to 61"},
		"slot of a sign":   {onlyPepper, "+1:" + one, ", line 1: want a slot from 1 to 61"},
		"no slot":          {onlyPepper, ":" + one, ", line 1: want a slot from 1 to 61"},
		"two slots":        {onlyPepper, "2:1:" + one, ", line 1: want a slot from 1 to 61"},
		"key for slot":     {onlyPepper, one + ":" + two, ", line 1: want a slot from 1 to 61"},
		"wrong way round":  {onlyPepper, one + ":1", ", line 1: has 1 hexadecimal digits, want 64"},
		"two slots alike":  {onlyPepper, "3:" + one + "\n3:" + two, ", line 2: has the slot of line 1: give each pepper a slot of its own"},
		"spelt otherwise":  {onlyPepper, "3:" + one + "\n03:" + two, ", line 2: has the slot of line 1"},
		"two without slot": {onlyPepper, one + "\n" + two, ", line 2: has the slot of line 1: give each pepper a slot of its own (a line without one has slot 1)"},
		"slot 1 and none":  {onlyPepper, "# x\n1:" + one + "\n" + two, ", line 3: has the slot of line 2"},

		"no ID":          {onlyKEK, ":" + one, ", line 1: want an ID of 1 to 255 bytes before the colon"},
		"ID too long":    {onlyKEK, strings.Repeat("é", 128) + ":" + one, ", line 1: want an ID of 1 to 255 bytes"},
		"two IDs alike":  {onlyKEK, "a:" + one + "\n a : " + two, ", line 2: has the ID of line 1: give each KEK an ID of its own"},
		"key for ID":     {onlyKEK, one + ":" + two, ", line 1: has a key before the colon, where its ID belongs"},
		"half for ID":    {onlyKEK, one[:32] + ":" + two, ", line 1: has a key before the colon"},
		"base64 for ID":  {onlyKEK, base64.StdEncoding.EncodeToString(raw) + ":" + two, ", line 1: has a key before the colon"},
		"the other form": {onlyKEK, one + ":kek-2026", ", line 1: has 8 characters and not all"},
	} {
		for what, parse := range c.of {
			err := parse(c.text)
			require.ErrorIs(t, err, apikey.ErrInvalid, name)
			require.True(t, strings.HasPrefix(err.Error(), "apikey: invalid request: "+what+c.says), "%s: %v", name, err)
			require.NotContains(t, err.Error(), "\n", name)
			for _, secret := range []string{one, two, c.text} {
				for i := range max(0, len(secret)-7) {
					window := secret[i : i+8]
					require.False(t, strings.Contains(strings.ToLower(err.Error()), strings.ToLower(window)), "%s: %q is in %v", name, window, err)
				}
			}
		}
	}
}

func TestReadSecretFile(t *testing.T) {
	dir := t.TempDir()
	write := func(text string, mode fs.FileMode) string {
		path := filepath.Join(dir, fmt.Sprintf("pepper-%o-%d", mode, len(text)))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o640, 0o440, 0o700} {
		text, err := apikey.ReadSecretFile(write("a\r\n", mode))
		require.NoError(t, err, "%o", mode)
		require.Equal(t, "a\r\n", text)
	}
	if runtime.GOOS != "windows" {
		for _, mode := range []fs.FileMode{0o644, 0o604, 0o602, 0o601, 0o660, 0o620, 0o666, 0o777} {
			text, err := apikey.ReadSecretFile(write("a", mode))
			require.ErrorIs(t, err, apikey.ErrInvalid, "%o", mode)
			require.ErrorContains(t, err, fmt.Sprintf("(mode 0%o): chmod 600 it", mode))
			require.Empty(t, text)
		}
	}
	text, err := apikey.ReadSecretFile(write(strings.Repeat("a", 64<<10), 0o600))
	require.NoError(t, err)
	require.Len(t, text, 64<<10)
	_, err = apikey.ReadSecretFile(write(strings.Repeat("a", 64<<10+1), 0o600))
	require.ErrorIs(t, err, apikey.ErrInvalid)
	_, err = apikey.ReadSecretFile("")
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.ErrorContains(t, err, "no path")
	require.ErrorContains(t, err, "environment variable")
	_, err = apikey.ReadSecretFile(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = apikey.ReadSecretFile(dir)
	require.ErrorContains(t, err, "is a directory")
}
