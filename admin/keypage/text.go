package keypage

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

//go:embed text
var textFiles embed.FS

// language is the texts of one language.
type language struct {
	code  string
	texts map[string]string
}

// languages are all of them, by code.
type languages map[string]*language

var placeholder = regexp.MustCompile(`\{[a-z]+\}`)

// readLanguages reads our texts, and over them those of the program. English has all
// texts: what another language lacks is shown in English.
func readLanguages(own fs.FS) (languages, error) {
	sub, err := fs.Sub(textFiles, "text")
	if err != nil {
		return nil, err
	}
	all := languages{}
	if err := all.read(sub, nil); err != nil {
		return nil, err
	}
	if own != nil {
		if err := all.read(own, all["en"]); err != nil {
			return nil, err
		}
	}
	for code, l := range all {
		if code != "en" {
			l.fill(all["en"])
		}
	}
	return all, nil
}

// fill adds the texts that l lacks, in English. NAME.one is not added to a NAME of the
// language's own: many languages have one form for all numbers.
func (l *language) fill(english *language) {
	own := map[string]bool{}
	for name := range l.texts {
		own[name] = l.has(name)
	}
	for name, text := range english.texts {
		if base, one := strings.CutSuffix(name, ".one"); !own[name] && !(one && own[base]) {
			l.texts[name] = text
		}
	}
}

// read adds the texts of each file. known are the texts that a name has to be one of, or
// belong to an ability; nil: ours are read.
func (all languages) read(from fs.FS, known *language) error {
	files, err := fs.Glob(from, "*.json")
	if err != nil {
		return err
	}
	var wrong []error
	for _, file := range files {
		code := strings.TrimSuffix(path.Base(file), ".json")
		b, err := fs.ReadFile(from, file)
		if err != nil {
			return err
		}
		var texts map[string]string
		if err := json.Unmarshal(b, &texts); err != nil {
			return fmt.Errorf("%s: want an object of texts: %w", file, err)
		}
		if all[code] == nil {
			all[code] = &language{code, map[string]string{}}
		}
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			if known != nil {
				if err := fits(name, texts[name], known); err != nil {
					wrong = append(wrong, fmt.Errorf("%s: %w", file, err))
				}
			}
			all[code].texts[name] = texts[name]
		}
	}
	return errors.Join(wrong...)
}

// fits refuses a text whose placeholders are not ours: a number would be missing on the
// page. A name that we do not know may be of a later version, or a typing error.
func fits(name, text string, known *language) error {
	ours, ok := known.texts[name]
	if !ok {
		if !slices.ContainsFunc([]string{"ability.", "factor.", "metadata."}, func(of string) bool { return strings.HasPrefix(name, of) }) {
			slog.Default().Warn("apikey keypage: Config.Messages has a name that no text has", "name", name)
		}
		return nil
	}
	want, have := placeholder.FindAllString(ours, -1), placeholder.FindAllString(text, -1)
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(slices.Compact(want), slices.Compact(have)) {
		return fmt.Errorf("%q has the placeholders %v, want %v", name, have, want)
	}
	return nil
}

func (l *language) has(name string) bool { return l.texts[name] != "" }

// get returns a text with its placeholders replaced: name, value, name, value. Numbers are
// written in the digits of the language.
func (l *language) get(name string, args ...any) string {
	text, ok := l.texts[name]
	if !ok {
		return name
	}
	for i := 0; i+1 < len(args); i += 2 {
		value := fmt.Sprint(args[i+1])
		if n, isNumber := args[i+1].(int); isNumber {
			value = l.digits(strconv.Itoa(n))
		}
		text = strings.ReplaceAll(text, "{"+args[i].(string)+"}", value)
	}
	return text
}

// count is get for a text that depends on a number: NAME.one for 1.
func (l *language) count(name string, n int, args ...any) string {
	if n == 1 && l.has(name+".one") {
		name += ".one"
	}
	return l.get(name, append([]any{"n", n}, args...)...)
}

// digits writes a number in the digits of the language.
func (l *language) digits(s string) string {
	ten := []rune(l.texts["digits"])
	if len(ten) != 10 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return ten[r-'0']
		}
		return r
	}, s)
}

// languageOf is the language of a request.
func (h *handler) languageOf(r *http.Request) *language {
	if h.Language != nil {
		if l := h.languages[h.Language(r)]; l != nil {
			return l
		}
	}
	best, quality := h.languages["en"], 0.0
	accepted := r.Header.Get("Accept-Language")
	for part := range strings.SplitSeq(accepted[:min(len(accepted), 1000)], ",") { // a header may have a megabyte
		tag, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		q := 1.0
		if text, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			q, _ = strconv.ParseFloat(text, 64)
		}
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if l := h.languages[primary]; l != nil && q > quality {
			best, quality = l, q
		}
	}
	return best
}
