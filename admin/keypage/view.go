package keypage

import (
	"fmt"
	"html"
	"html/template"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-apikey/apikey"
)

// view is what a template is executed with.
type view struct {
	*visit
	Title  string
	Screen string
	D      any // of the screen
}

// T is a text in the visitor's language.
func (v *visit) T(name string, args ...any) string { return v.text.get(name, args...) }

// Count is T for a text that depends on a number.
func (v *visit) Count(name string, n int) string { return v.text.count(name, n) }

// Lang is the code of the language.
func (v *visit) Lang() string { return v.text.code }

// URL is the path of a screen.
func (v *visit) URL(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p)
	}
	return v.url(b.String())
}

// Asset is the path of a static file.
func (v *visit) Asset(name string) string { return v.url("/assets/" + v.assets.version + "/" + name) }

// Version is that of the static files, for the script.
func (v *visit) Version() string { return v.assets.version }

// SignedIn reports whether the visitor is known.
func (v *visit) SignedIn() bool { return v.guest.ID != "" }

// Tag is the visitor's, for each form.
func (v *visit) Tag() string { return v.guest.Tag }

// Person is the visitor's name, and Account their account.
func (v *visit) Person() string {
	if v.Config.Who != nil {
		if name := v.Config.Who(v.guest.Actor); name != "" {
			return name
		}
	}
	return v.guest.ID
}

// Account is the visitor's.
func (v *visit) Account() string { return v.guest.Account }

// Visible writes a text that somebody has typed: isolated from the direction of the text
// around it, and with marks for what cannot be seen or changes the direction.
func (v *visit) Visible(s string) template.HTML {
	return template.HTML("<bdi>" + html.EscapeString(marked(s)) + "</bdi>")
}

// marked replaces control, format and bidirectional characters by U+FFFD.
func marked(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// Name is that of a key, or what stands for none.
func (v *visit) Name(s string) string {
	if strings.TrimSpace(s) == "" {
		return v.T("no_name")
	}
	return marked(s)
}

// HeaderHTML and FooterHTML are the program's own.
func (v *visit) HeaderHTML() (template.HTML, error) { return executed(v.Config.Header) }

// FooterHTML is the program's own.
func (v *visit) FooterHTML() (template.HTML, error) { return executed(v.Config.Footer) }

func executed(t *template.Template) (template.HTML, error) {
	if t == nil {
		return "", nil
	}
	var b strings.Builder
	err := t.Execute(&b, nil)
	return template.HTML(b.String()), err
}

// Ability is an ability for people.
type ability struct {
	Value       string
	Title       string // the text itself, if nobody has given it another
	Description string
	Checked     bool
	Level       string // of a product: "", "read" or "write"
}

// ability names an ability in the visitor's language.
func (v *visit) ability(text, description string) ability {
	a := ability{Value: text, Title: marked(text), Description: description}
	if v.text.has("ability." + text + ".title") {
		a.Title = v.T("ability." + text + ".title")
	}
	if v.text.has("ability." + text + ".description") {
		a.Description = v.T("ability." + text + ".description")
	}
	return a
}

// field is one value of a form that is sent along unseen.
type field struct{ Name, Value string }

// fieldsOf are the fields of a form that belong to the request itself: not those of the
// approval or of a button.
func fieldsOf(form url.Values) (fields []field) {
	for name, values := range form {
		if strings.HasPrefix(name, "approval.") || strings.HasPrefix(name, "asked.") || name == "answer" || name == "tag" || name == "cancel" {
			continue
		}
		for _, value := range values {
			fields = append(fields, field{name, value})
		}
	}
	return fields
}

// may reports whether a button is shown.
func (v *visit) may(a apikey.Action, k apikey.Info) bool {
	return !v.hidden(a) && v.Manager.May(v.guest.Context, a, k) == nil
}

// KeyURL is the path of a key's screen.
func (v *visit) KeyURL(id apikey.KeyID) string { return v.keyURL(id, "") }

// Arranged is the layout, as a word.
func (v *visit) Arranged() string {
	return map[Layout]string{ByProduct: "products", SinglePair: "pair"}[v.Layout] + map[bool]string{true: "list"}[v.Layout == OneList]
}

// HasFactors reports whether a person can set up a factor.
func (v *visit) HasFactors() bool {
	for _, f := range v.rules.Factors {
		if f.Enrolls {
			return true
		}
	}
	return false
}

// AsksReveal reports whether a person chooses if a new key can be revealed later.
func (v *visit) AsksReveal() bool { return v.Config.Recoverable == Ask && len(v.rules.Recoverable) > 0 }

// Statuses and Uses are the choices of the list's filter.
func (v *visit) Statuses() []option {
	return v.options("filter.status.", "", "usable", "expiring", "due", "suspended", "expired", "revoked")
}

// Uses are the choices of the list's filter by use.
func (v *visit) Uses() []option { return v.options("filter.used.", "", "never", "unused") }

func (v *visit) options(prefix string, values ...string) (all []option) {
	for _, value := range values {
		name := prefix + value
		if value == "" {
			name = prefix + "any"
		}
		all = append(all, option{Value: value, Text: v.T(name, "n", unusedDays)})
	}
	return all
}

// Pair is the one key of a mode, with SinglePair: the newest that is not revoked.
func (v *view) Pair() *row {
	l, _ := v.D.(listing)
	for i, r := range l.Rows {
		if r.State != apikey.Revoked && r.Kind == apikey.Secret {
			return &l.Rows[i]
		}
	}
	return nil
}

// PeopleIn are the persons of a page of the log.
func (v *view) PeopleIn() (people []string) {
	d, _ := v.D.(logData)
	for _, r := range d.Rows {
		if r.Actor.ID != "" && !slices.Contains(people, r.Actor.ID) {
			people = append(people, r.Actor.ID)
		}
	}
	return people
}

// Planned says in words until when an old token works, and from when a new one.
func (v *visit) Planned(p *plan) string {
	switch {
	case p.New.IsZero():
		return v.T("plan.overlap", "old", v.dateTime(p.Old))
	case p.Old.IsZero():
		return v.T("plan.new", "new", v.dateTime(p.New))
	}
	return v.T("plan.both", "old", v.dateTime(p.Old), "new", v.dateTime(p.New))
}

// Drawn draws the time in which each of two tokens works, as two bars.
func (v *visit) Drawn(p *plan) template.HTML {
	now := v.Now()
	last := now
	for _, t := range []time.Time{p.Old, p.New} {
		if t.After(last) {
			last = t
		}
	}
	width := last.Sub(now) + time.Hour
	at := func(t time.Time) int {
		if t.IsZero() {
			return 0
		}
		return int(400 * t.Sub(now) / (width * 5 / 4))
	}
	old := 500
	if !p.Old.IsZero() {
		old = at(p.Old)
	} else if !p.New.IsZero() {
		old = at(p.New)
	}
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 500 44" role="img" aria-label="%s"><rect class="old" x="0" y="4" width="%d" height="14" rx="3"/><rect class="new" x="%d" y="26" width="%d" height="14" rx="3"/></svg>`,
		html.EscapeString(v.Planned(p)), max(old, 4), at(p.New), 500-at(p.New)))
}
