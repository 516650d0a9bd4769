package apitest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// names that a merchant may give a key, in any script.
var goodNames = map[string]string{
	"none":                     "",
	"Latin":                    "Website (EU), v1.2 – “new”",
	"a no-break space":         "Caf\u00e9\u00a0Zürich",
	"Bangla with a joiner":     "\u09b0\u200d\u09cd\u09af\u09be\u09aa",        // ra, ZWJ, virama, ya
	"Bangla, ends in a joiner": "\u09ac\u09be\u0995\u09cd\u200c \u09aa\u09a5", // ZWNJ after a virama
	"Persian":                  "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
	"Sinhala":                  "\u0dc1\u0dca\u200d\u0dbb\u0dd3",
	"Arabic":                   "\u0645\u062a\u062c\u0631 \u0601\u0661",
	"Hebrew":                   "\u05d7\u05e0\u05d5\u05ea",
	"Thai":                     "\u0e23\u0e49\u0e32\u0e19",
	"Korean":                   "\ud55c\uad6d\uc5b4",
	"Japanese with a variant":  "\u845b\U000e0100\u98fe\u533a",
	"wide space":               "\u6771\u4eac\u3000\u5e97",
	"emoji":                    "\U0001f6d2 shop",
	"a family":                 "\U0001f468\u200d\U0001f469\u200d\U0001f467",
	"a skin tone and a sex":    "\U0001f9d1\U0001f3fd\u200d\u2695\ufe0f",
	"a heart":                  "\u2764\ufe0f\u200d\U0001f525",
	"a keycap":                 "1\ufe0f\u20e3",
	"the flag of Wales":        "\U0001f3f4\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f",
	"a flag of two letters":    "\U0001f1ee\U0001f1e9",
}

// names that look like another, hide something, or write over what stands beside them.
var badNames = map[string]string{
	"a newline":             "Website\nkey acme_sk_live",
	"a tab":                 "a\tb",
	"escape":                "\x1b[31mred",
	"delete":                "a\x7f",
	"C1":                    "a\u0085b",
	"line separator":        "a\u2028b",
	"paragraph separator":   "a\u2029b",
	"right-to-left":         "invoice\u202egpj.exe",
	"left-to-right mark":    "a\u200eb",
	"Arabic letter mark":    "\u0645\u061c",
	"an isolate":            "a\u2066b\u2069",
	"zero-width space":      "Web\u200bsite",
	"word joiner":           "Web\u2060site",
	"byte order mark":       "\ufeffWebsite",
	"soft hyphen":           "Web\u00adsite",
	"joiner first":          "\u200dWebsite",
	"joiner last":           "Website\u200c",
	"joiner beside a space": "Web \u200csite",
	"two joiners":           "\u0645\u06cc\u200c\u200c\u062e",
	"joiner between digits": "1\u200d2",
	"joiner alone":          "\u200d",
	"spaces alone":          " \u3000 ",
	"Hangul filler":         "\u3164",
	"half-width filler":     "a\uffa0b",
	"Braille blank":         "a\u2800b",
	"grapheme joiner":       "a\u034fb",
	"Khmer inherent vowel":  "a\u17b4b",
	"invisible times":       "a\u2062b",
	"a tag":                 "a\U000e0061\U000e0062",
	"a long flag":           "\U0001f3f4\U000e0061\U000e0062\U000e0063\U000e0064\U000e0065\U000e0066\U000e0067\U000e0068\U000e007f",
	"bytes in selectors":    "a\U000e0101\U000e0102\U000e0103",
	"a selector first":      "\ufe0fa",
	"interlinear anchor":    "a\ufff9b",
	"deprecated format":     "a\u206ab",
}

func TestFound26NamesShowWhatTheyAre(t *testing.T) {
	e := newEnv(t)
	key := e.issue()
	rename := func(name string) error {
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(name)})
		return err
	}
	for what, name := range goodNames {
		require.NoError(t, rename(name), what)
		issued := e.issue(func(r *apikey.IssueRequest) { r.Name = name })
		require.Equal(t, name, issued.Key.Name, what)
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
	}
	for what, name := range badNames {
		err := rename(name)
		require.ErrorIs(t, err, apikey.ErrInvalid, what)
		require.Contains(t, err.Error(), "name", what)
		_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Name: name})
		require.ErrorIs(t, err, apikey.ErrInvalid, what)
	}
	issued := e.issue(func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"note": "two\nlines"} })
	require.Equal(t, "two\nlines", issued.Key.Metadata.Get("note"), "metadata is the program's own")
}

// A name that is stored already stays: its key is read, rotated, updated, suspended
// and revoked, and only a new name has to follow the rule.
func TestFound26AStoredNameStays(t *testing.T) {
	e := newEnv(t, noPepper)
	key := e.issue()
	e.rewrite(key.Key.ID, func(r *apikey.StoreRecord) { r.Name = badNames["right-to-left"] })
	info, err := e.manager.Get(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, badNames["right-to-left"], info.Name)
	require.NoError(t, e.verify(key.Token))
	info, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:verify"})})
	require.NoError(t, err)
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(info.Name), RotateMonths: apikey.Set(6)})
	require.NoError(t, err, "a form sends the name that it was given")
	_, err = e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID})
	require.NoError(t, err)
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(badNames["a newline"])})
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID))
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
}
