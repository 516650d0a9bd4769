package keypage

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// textsOf are the texts of one of our files: nothing is filled in.
func textsOf(t *testing.T, code string) map[string]string {
	b, err := textFiles.ReadFile("text/" + code + ".json")
	require.NoError(t, err)
	var texts map[string]string
	require.NoError(t, json.Unmarshal(b, &texts))
	require.Greater(t, len(texts), 300)
	require.Equal(t, len(texts), len(regexp.MustCompile(`"(?:[^"\\]|\\.)*": "`).FindAll(b, -1)), "%s has a name twice", code)
	return texts
}

// holes are the placeholders of a text, each once.
func holes(text string) []string {
	found := placeholder.FindAllString(text, -1)
	slices.Sort(found)
	return slices.Compact(found)
}

func TestEachLanguageHasEveryText(t *testing.T) {
	files, err := textFiles.ReadDir("text")
	require.NoError(t, err)
	require.Len(t, files, 3)
	en := textsOf(t, "en")
	for _, code := range []string{"id", "bn"} {
		texts := textsOf(t, code)
		for name, text := range en {
			if strings.HasSuffix(name, ".one") {
				require.Contains(t, en, strings.TrimSuffix(name, ".one"))
				continue
			}
			require.NotEmpty(t, strings.TrimSpace(texts[name]), "%s lacks %s", code, name)
			require.Equal(t, holes(text), holes(texts[name]), "%s: %s", code, name)
		}
		for name := range texts {
			require.Contains(t, en, strings.TrimSuffix(name, ".one"), "%s has a text that English has not", code)
		}
		require.Len(t, []rune(texts["digits"]), 10)
	}
}

// sameInIndonesian are the texts that Indonesian writes as English does.
var sameInIndonesian = []string{
	"digits", "date", "date_time", "mode", "status", "list.status", "field.metadata", "month.4", "month.9", "month.11",
	"factor.pin.label", "factor.pin.button", "factor.pin.title",
}

func TestNoEnglishIsLeft(t *testing.T) {
	en, id, bn := textsOf(t, "en"), textsOf(t, "id"), textsOf(t, "bn")
	var same []string
	for name, text := range id {
		if text == en[name] {
			same = append(same, name)
		}
	}
	require.ElementsMatch(t, sameInIndonesian, same)
	word := regexp.MustCompile(`[A-Za-z]+`)
	for name, text := range bn {
		for _, w := range word.FindAllString(placeholder.ReplaceAllString(text, ""), -1) {
			require.Contains(t, []string{"API", "URL", "env", "Ctrl", "C", "KiB"}, w, name)
		}
		require.NotRegexp(t, `[0-9]`, text, name)
	}
}

// parsed are the files of a directory that are not tests.
func parsed(t *testing.T, dir string) (files []*ast.File) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		files = append(files, f)
	}
	require.NotEmpty(t, files)
	return files
}

// literal is the value of a string literal; empty: e is something else.
func literal(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		s, _ := strconv.Unquote(lit.Value)
		return s
	}
	return ""
}

// constants are the values of the root's constants of a type; of an untyped one, those
// whose name has the prefix.
func constants(t *testing.T, typ, prefix string) (values []string) {
	for _, f := range parsed(t, "../..") {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 || literal(spec.Values[0]) == "" || !strings.HasPrefix(spec.Names[0].Name, prefix) {
				return true
			}
			if of, isIdent := spec.Type.(*ast.Ident); isIdent && of.Name == typ || spec.Type == nil && typ == "" {
				values = append(values, literal(spec.Values[0]))
			}
			return true
		})
	}
	require.NotEmpty(t, values, typ+prefix)
	return values
}

// keyed are the string values of a key in the composite literals of files: Code: "x".
func keyed(files []*ast.File, key string) (values []string) {
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if kv, ok := n.(*ast.KeyValueExpr); ok {
				if name, isIdent := kv.Key.(*ast.Ident); isIdent && name.Name == key && literal(kv.Value) != "" {
					values = append(values, literal(kv.Value))
				}
			}
			return true
		})
	}
	return values
}

// calls are the arguments of each call of a function or method, by the function that calls.
func calls(files []*ast.File, name string, found func(caller string, args []ast.Expr)) {
	for _, f := range files {
		for _, d := range f.Decls {
			caller := ""
			if fn, ok := d.(*ast.FuncDecl); ok {
				caller = fn.Name.Name
			}
			ast.Inspect(d, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				switch fn := call.Fun.(type) {
				case *ast.SelectorExpr:
					if fn.Sel.Name == name {
						found(caller, call.Args)
					}
				case *ast.Ident:
					if fn.Name == name {
						found(caller, call.Args)
					}
				}
				return true
			})
		}
	}
}

// passed are the names of texts that a function gets as a variable, by the function. nil:
// the names are under one of the prefixes.
var passed = map[string][]string{
	"T": nil, "Count": nil, // they pass on what a template gives
	"relative":     {"in", "ago"},
	"secretScreen": nil, // from its callers
	"options":      nil, // filter.
	"did":          nil, // did.
	"factorText":   nil, // factor.
	"logRow":       nil, // action.
	"boxes":        nil, // metadata., of Messages
}

// used are the names of all texts that the templates and the code use, and of those that
// depend on a number.
func used(t *testing.T) (names, counted map[string]bool) {
	names, counted = map[string]bool{}, map[string]bool{}
	prefixes := map[string]bool{}
	our := parsed(t, ".")

	files, err := templateFiles.ReadDir("templates")
	require.NoError(t, err)
	for _, f := range files {
		b, err := templateFiles.ReadFile("templates/" + f.Name())
		require.NoError(t, err)
		all := regexp.MustCompile(`\.(T|Count)\b (\(print )?"([^"]+)"`).FindAllStringSubmatch(string(b), -1)
		require.Len(t, all, len(regexp.MustCompile(`\.(T|Count)\b`).FindAll(b, -1)), "%s names a text in a way that this test does not know", f.Name())
		for _, m := range all {
			if m[2] != "" {
				prefixes[m[3]] = true
				continue
			}
			names[m[3]] = true
			if m[1] == "Count" {
				counted[m[3]] = true
			}
		}
	}

	for _, name := range []string{"T", "count", "get"} {
		calls(our, name, func(caller string, args []ast.Expr) {
			if len(args) == 0 {
				return // not ours
			}
			first := args[0]
			if sprintf, ok := first.(*ast.CallExpr); ok && len(sprintf.Args) == 2 {
				first = sprintf.Args[0] // fmt.Sprintf
			}
			for sum, ok := first.(*ast.BinaryExpr); ok; sum, ok = first.(*ast.BinaryExpr) {
				first = sum.X
			}
			text := literal(first)
			switch {
			case first == args[0] && text != "":
				names[text] = true
				if name == "count" {
					counted[text] = true
				}
			case text != "":
				prefixes[strings.TrimSuffix(text, "%d")] = true
			case name == "get":
			default:
				list, known := passed[caller]
				if caller != "count" {
					require.True(t, known, "%s passes the name of a text that this test does not see", caller)
				}
				for _, each := range list {
					names[each] = true
				}
			}
		})
	}
	for _, screen := range []string{"secretScreen", "tokenScreen"} {
		calls(our, screen, func(caller string, args []ast.Expr) {
			if caller != "tokenScreen" { // which passes its own on
				names[literal(args[0])] = true
			}
		})
	}

	// What the prefixes stand for.
	both := func(prefix string, values []string, ends ...string) {
		delete(prefixes, prefix)
		for _, value := range values {
			for _, end := range ends {
				names[prefix+value+end] = true
			}
		}
	}
	under := func(prefix string, values ...string) { both(prefix, values, "") }

	under("month.", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")
	under("span.", "years", "months", "days", "hours", "minutes", "seconds")
	under("mode.", apikey.Live.String(), apikey.Test.String())
	under("status.", constants(t, "Status", "Status")...)
	under("action.", constants(t, "Action", "Action")...)
	under("invalid.", constants(t, "InvalidCode", "Invalid")...)
	under("because.", constants(t, "ApprovalCode", "Approval")...)
	under("limit.", constants(t, "", "Limit")...)
	under("token.", "current", "waiting", "overlapping", "ended") // tokenData.State
	both("factor.", []string{"email", "totp", "password", "pin"}, ".label", ".button", ".title")
	delete(prefixes, "factor.email.")
	delete(prefixes, "ability.") // those are the program's

	fields := keyed(parsed(t, "../.."), "event")
	require.Contains(t, fields, "abilities")
	under("field.", append(fields, "credentials")...)

	refused, err := parser.ParseFile(token.NewFileSet(), "../../httpauth/refused.go", nil, 0)
	require.NoError(t, err)
	codes := keyed([]*ast.File{refused}, "Code")
	for _, code := range []string{"limit_reached", "version_mismatch", "unavailable", "internal_error"} { // of the table, and beside it
		require.Contains(t, codes, code)
	}
	calls(our, "message", func(_ string, args []ast.Expr) {
		if code := literal(args[0]); code != "" {
			codes = append(codes, code)
		}
	})
	both("problem.", codes, ".title", ".detail")

	var did []string
	calls(our, "plainly", func(_ string, args []ast.Expr) { did = append(did, literal(args[0])) })
	calls(our, "after", func(caller string, args []ast.Expr) {
		if caller != "plainly" {
			did = append(did, literal(args[1]))
		}
	})
	for _, f := range our {
		ast.Inspect(f, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				if m := regexp.MustCompile(`[?&]did=([a-z_]+)`).FindStringSubmatch(literal(e)); m != nil {
					did = append(did, m[1])
				}
			}
			return true
		})
	}
	require.Contains(t, did, "revoked_many")
	under("did.", did...)

	calls(our, "options", func(_ string, args []ast.Expr) {
		for _, value := range args[1:] {
			end := literal(value)
			if end == "" {
				end = "any"
			}
			names[literal(args[0])+end] = true
		}
	})
	require.True(t, names["filter.status.any"])
	require.Empty(t, prefixes, "names are made with a prefix that this test does not know")
	for name := range names {
		if strings.HasPrefix(name, "did.") || strings.HasPrefix(name, "span.") {
			counted[name] = true
		}
	}
	return names, counted
}

// A name without a text would be shown as it is, and a text that nothing uses is translated
// for nobody.
func TestTheTextsAreThoseThatAreUsed(t *testing.T) {
	names, counted := used(t)
	en := textsOf(t, "en")
	var missing, unused []string
	for name := range names {
		if en[name] == "" {
			missing = append(missing, name)
		}
	}
	for name := range en {
		base, one := strings.CutSuffix(name, ".one")
		switch {
		case name == "digits": // see language.digits
		case one && !counted[base], !one && !names[name]:
			unused = append(unused, name)
		}
	}
	require.Empty(t, missing, "en.json lacks texts")
	require.Empty(t, unused, "en.json has texts that nothing uses, or a .one of a text that does not depend on a number")
}

// Numbers are written in the digits of the language.
func TestTimesInEachLanguage(t *testing.T) {
	all, err := readLanguages(nil)
	require.NoError(t, err)
	for code, l := range all {
		v := &visit{text: l}
		require.Equal(t, map[string]string{"en": "in 1 day", "id": "1 hari lagi", "bn": "১ দিন পরে"}[code], v.T("in", "time", l.count("span.days", 1)))
		require.Equal(t, map[string]string{"en": "21 days ago", "id": "21 hari yang lalu", "bn": "২১ দিন আগে"}[code], v.T("ago", "time", l.count("span.days", 21)))
	}
}

// English has two forms where Indonesian and Bengali have one.
func TestNoEnglishSingularInAnotherLanguage(t *testing.T) {
	all, err := readLanguages(fstest.MapFS{
		"de.json": {Data: []byte(`{"did.revoked_many": "{n} Schlüssel widerrufen."}`)},
		"fr.json": {Data: []byte(`{"cancel": "", "span.days": "{n} jours", "span.days.one": "{n} jour"}`)},
	})
	require.NoError(t, err)
	some := 0
	for name := range textsOf(t, "en") {
		base, one := strings.CutSuffix(name, ".one")
		if !one {
			continue
		}
		some++
		for _, code := range []string{"id", "bn"} {
			require.Equal(t, all[code].get(base, "n", 1), all[code].count(base, 1), "%s: %s", code, name)
		}
	}
	require.Greater(t, some, 5)
	require.Equal(t, "1 Schlüssel widerrufen.", all["de"].count("did.revoked_many", 1))
	require.Equal(t, "1 day", all["de"].count("span.days", 1), "what a language lacks is English, for each number")
	require.Equal(t, "2 days", all["de"].count("span.days", 2))
	require.Equal(t, "1 key is revoked.", all["fr"].count("did.revoked_many", 1))
	require.Equal(t, "Cancel", all["fr"].get("cancel"), "an empty text is none")
	require.Equal(t, "1 jour", all["fr"].count("span.days", 1))
	require.Equal(t, "1 key is revoked.", all["en"].count("did.revoked_many", 1))
}

func TestTextsOfTheProgram(t *testing.T) {
	all, err := readLanguages(fstest.MapFS{
		"de.json": {Data: []byte(`{"cancel": "Abbrechen", "ability.refund.title": "Erstatten {x}"}`)},
		"id.json": {Data: []byte(`{"cancel": "Urungkan"}`)},
	})
	require.NoError(t, err)
	require.Equal(t, "Abbrechen", all["de"].get("cancel"))
	require.Equal(t, "Save", all["de"].get("save"), "a text that the language lacks")
	require.Equal(t, "Erstatten {x}", all["de"].get("ability.refund.title"))
	require.Equal(t, "Urungkan", all["id"].get("cancel"))
	require.Equal(t, "Simpan", all["id"].get("save"))
	require.Equal(t, "Cancel", all["en"].get("cancel"))

	for text, says := range map[string]string{
		`{"limit.keys": "at most {max}"}`: "limit.keys",
		`{"limit.keys": "at most"}`:       "limit.keys",
		`{"cancel": "Cancel {n}"}`:        "cancel",
		`{"span.days.one": "{m} day"}`:    "span.days.one",
		`{"cancel": 1}`:                   "want an object of texts",
		`[]`:                              "want an object of texts",
		`{"plan.both": "{old}", "invalid.out_of_range": "{min}"}`: "invalid.out_of_range",
	} {
		for _, file := range []string{"de.json", "en.json", "bn.json"} {
			_, err := readLanguages(fstest.MapFS{file: {Data: []byte(text)}})
			require.ErrorContains(t, err, says, text)
			require.ErrorContains(t, err, file)
		}
	}
	_, err = readLanguages(fstest.MapFS{"en.json": {Data: []byte(`{"plan.both": "{old}", "invalid.out_of_range": "{min}"}`)}})
	require.ErrorContains(t, err, "plan.both", "all wrong texts are named")
	_, err = readLanguages(fstest.MapFS{"en.json": {Data: []byte(`{"plan.both": "{new} {old} {new}"}`)}})
	require.NoError(t, err, "the order is free, and a placeholder may come twice")
}

func TestLanguageOfARequest(t *testing.T) {
	all, err := readLanguages(nil)
	require.NoError(t, err)
	h := &handler{languages: all}
	for header, want := range map[string]string{
		"":                           "en",
		"*":                          "en",
		"fr":                         "en",
		"id":                         "id",
		"ID-id":                      "id",
		"bn-BD,bn;q=0.9,en;q=0.8":    "bn",
		"en-GB,en;q=0.9,id;q=0.8":    "en",
		"en;q=0.5, bn;q=0.9":         "bn",
		"fr-FR, fr;q=0.9, id;q=0.1":  "id",
		"id;q=0, bn;q=0":             "en",
		"id;q=x, bn;q=0.1":           "bn",
		"idx, bnx":                   "en",
		"id, bn":                     "id",
		";;,,=;q=,":                  "en",
		strings.Repeat("fr,", 1<<10): "en",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Language", header)
		require.Equal(t, want, h.languageOf(r).code, header)
	}

	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Language", "id")
	for chosen, want := range map[string]string{"bn": "bn", "en": "en", "": "id", "xx": "id"} {
		h.Language = func(*http.Request) string { return chosen }
		require.Equal(t, want, h.languageOf(r).code, fmt.Sprintf("Config.Language says %q", chosen))
	}
}
