package keypage

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/door"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/internal/requestid"
)

// handler is what New returns.
type handler struct {
	Config
	door      door.Door
	rules     apikey.Rules
	languages languages
	assets    assets
	mux       *http.ServeMux
}

// visit is one request of somebody who was let in.
type visit struct {
	*handler
	r     *http.Request
	guest door.Guest // zero: nobody is signed in
	id    string     // of the request, for the log
	text  *language
	zone  *time.Location
	form  url.Values    // of a POST
	retry time.Duration // when to try again; 0: no time is known
}

// screen is what a request is answered with.
type screen struct {
	name   string // of the template
	title  string
	data   any
	status int    // 0: 200
	to     string // instead: where to go
	keep   bool   // the script leaves the form as it is, and says beside it what this screen says
}

type action func(*visit) screen

func (h *handler) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, do := range map[string]action{
		"GET /{$}":                  (*visit).list,
		"GET /new":                  (*visit).newKey,
		"POST /new":                 (*visit).create,
		"GET /log":                  (*visit).log,
		"GET /factors":              (*visit).factors,
		"POST /factors/{factor}":    (*visit).enroll,
		"POST /revoke":              (*visit).revokeMany,
		"GET /key/{id}":             (*visit).key,
		"GET /key/{id}/edit":        (*visit).editKey,
		"POST /key/{id}/edit":       (*visit).edit,
		"GET /key/{id}/regenerate":  (*visit).regenerateKey,
		"POST /key/{id}/regenerate": (*visit).regenerate,
		"GET /key/{id}/revoke":      (*visit).revokeKey,
		"POST /key/{id}/revoke":     (*visit).revoke,
		"POST /key/{id}/suspend":    (*visit).suspend,
		"POST /key/{id}/resume":     (*visit).resume,
		"POST /key/{id}/cancel":     (*visit).cancelRotation,
		"POST /key/{id}/retire":     (*visit).retire,
		"POST /key/{id}/reveal":     (*visit).reveal,
		"POST /key/{id}/check":      (*visit).check,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, do) })
	}
	return mux
}

// ServeHTTP finds the screen. A path that ServeMux would redirect is not found: a redirect
// would be the one answer that no check has seen.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.headers(w.Header())
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), h.Mount)
	if rest == "" {
		rest = "/"
	}
	path, err := url.PathUnescape(rest)
	// nowhere is what a path that is no screen is answered with. The path is not kept: it
	// may begin with //, which as an address is another site.
	nowhere := func() {
		root := r.Clone(r.Context())
		root.URL = &url.URL{Path: "/"}
		h.serve(w, root, (*visit).notFound)
	}
	if !ok || err != nil || rest[0] != '/' || strings.Contains(rest, "//") || strings.Contains(rest, "/.") {
		nowhere()
		return
	}
	if name, isAsset := strings.CutPrefix(path, "/assets/"); isAsset {
		h.assets.serve(w, r, name)
		return
	}
	inner := r.Clone(r.Context())
	inner.URL.Path, inner.URL.RawPath = path, rest
	if _, pattern := h.mux.Handler(inner); pattern == "" {
		nowhere()
		return
	}
	h.mux.ServeHTTP(w, inner)
}

// headers are those of every answer. Nothing is inline, so that a text of a merchant that
// got into a page as HTML could run no script.
func (h *handler) headers(to http.Header) {
	ancestors := "'none'"
	if len(h.FrameAncestors) > 0 {
		ancestors = strings.Join(h.FrameAncestors, " ")
	} else {
		to.Set("X-Frame-Options", "DENY")
	}
	to.Set("Cache-Control", "no-store, no-transform")
	to.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors "+ancestors)
	to.Set("X-Content-Type-Options", "nosniff")
	to.Set("Cross-Origin-Opener-Policy", "same-origin")
	to.Set("Cross-Origin-Resource-Policy", "same-origin")
	// no-referrer would make browsers post forms with "Origin: null".
	to.Set("Referrer-Policy", "same-origin")
}

// serve is the one function that the requests of all screens pass.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, do action) {
	if asked := r.Header.Get("Apikey-Fragment"); asked != "" {
		w.Header().Set("Apikey-Fragment", h.assets.version)
		if asked != h.assets.version { // a script of another version of the program asks, which could not read the answer
			v := &visit{handler: h, r: r, id: requestid.Of(r.Header.Get("X-Request-ID")), zone: time.UTC, text: h.languageOf(r)}
			v.write(w, v.message("old_script", http.StatusConflict))
			return
		}
	}
	v := &visit{handler: h, r: r, zone: time.UTC, text: h.languageOf(r)}
	s, ok := v.admit()
	if ok {
		s = do(v)
	}
	v.write(w, s)
}

// admit lets the visitor in, and reads a form.
func (v *visit) admit() (refusal screen, ok bool) {
	guest, id, err := v.door.Enter(v.r)
	v.id, v.guest = id, guest
	if err != nil {
		return v.outside(err), false
	}
	if v.Zone != nil {
		if zone := v.Zone(guest.Actor); zone != nil {
			v.zone = zone
		}
	}
	if v.r.Method != http.MethodPost {
		return screen{}, true
	}
	if media, _, err := mime.ParseMediaType(v.r.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return v.message("form_unreadable", 415), false
	}
	if !v.readForm() {
		return v.message("form_unreadable", 400), false
	}
	v.form = v.r.PostForm
	if v.form.Get("tag") != v.guest.Tag {
		return v.kept(v.message("other_actor", 409)), false
	}
	return screen{}, true
}

const (
	maxForm   = 64 << 10 // bytes of a form
	maxFields = 2000     // values of a form: each is written out again, with twenty times its bytes
	maxBack   = 2000     // bytes of an address to return to
)

// readForm reads the form of a POST, also of somebody who is not signed in.
func (v *visit) readForm() bool {
	v.r.Body = http.MaxBytesReader(nil, v.r.Body, maxForm)
	if v.r.ParseForm() != nil {
		return false
	}
	n := 0
	for _, values := range v.r.PostForm {
		n += len(values)
	}
	return n <= maxFields
}

// outside is the screen of somebody who is not let in.
func (v *visit) outside(err error) screen {
	var cross *door.CrossSiteError
	switch {
	case errors.Is(err, apikey.ErrNoActor):
		s := v.message("signed_out", 401)
		if v.SignIn != nil {
			m := s.data.(message)
			m.Link, m.LinkText = v.SignIn(v.r, v.back()), v.T("sign_in")
			m.NewTab = v.r.Method == http.MethodPost
			s.data = m
		}
		return v.kept(s)
	case errors.Is(err, door.ErrOperator):
		return v.message("operator", 403)
	case errors.As(err, &cross):
		s := v.message("cross_site", 403)
		m := s.data.(message)
		m.Developer = cross.Why
		s.data = m
		return s
	}
	v.Logger.Error("apikey keypage: a request failed", "request_id", v.id, "error", err)
	return v.message("unavailable", 503)
}

// kept makes a screen keep the form that could not be taken, so that nothing has to be typed
// again: not the answer to a challenge, which is a secret.
func (v *visit) kept(s screen) screen {
	m := s.data.(message)
	if v.r.Method == http.MethodPost && v.readForm() {
		m.Again, m.Fields, m.Tag = v.here(), fieldsOf(v.r.PostForm), v.r.PostForm.Get("tag")
	}
	s.data, s.keep = m, true
	return s
}

// inElement reports whether the element asks, inside a page of the program.
func (v *visit) inElement() bool { return v.r.Header.Get("Apikey-Element") != "" }

// back is where somebody returns to after they have signed in: the page that the element is
// in, a screen that a GET shows, or else the list. What is too long for the address of a
// sign-in is left out.
func (v *visit) back() string {
	back := v.around()
	if back == "" && v.r.Method == http.MethodGet {
		back = v.here()
		if v.r.URL.RawQuery != "" {
			back += "?" + v.r.URL.RawQuery
		}
	}
	if back == "" || len(back) > maxBack {
		return v.url("")
	}
	return back
}

// around is the path of the page that the element is in, or empty. It is of this host:
// another Referer would make the sign-in lead to another site.
func (v *visit) around() string {
	if !v.inElement() {
		return ""
	}
	page, err := url.Parse(v.r.Referer())
	if err != nil || page.Host != v.r.Host || !strings.HasPrefix(page.Path, "/") || strings.HasPrefix(page.Path, "//") || strings.Contains(page.Path, `\`) {
		return ""
	}
	return (&url.URL{Path: page.Path, RawPath: page.RawPath, RawQuery: page.RawQuery}).String()
}

// here is the path of the request, as the browser sees it.
func (v *visit) here() string { return v.url(strings.TrimSuffix(v.r.URL.EscapedPath(), "/")) }

// url is the path of a screen, as the browser sees it.
func (h *handler) url(rest string) string {
	if h.Path == "" && !strings.HasPrefix(rest, "/") { // the page is at /
		return "/" + rest
	}
	return h.Path + rest
}

// write renders a screen, as a whole: half a page would look like a page.
func (v *visit) write(w http.ResponseWriter, s screen) {
	header := w.Header()
	header.Set("X-Request-Id", v.id)
	if s.to != "" {
		http.Redirect(w, v.r, s.to, http.StatusSeeOther)
		return
	}
	var page bytes.Buffer
	whole := "page"
	if v.r.Header.Get("Apikey-Fragment") != "" {
		whole = "fragment"
		if v.inElement() {
			whole = "element"
		}
	}
	if s.keep {
		header.Set("Apikey-Keep", "1")
	}
	header.Set("Content-Type", "text/html; charset=utf-8")
	if err := templates[s.name].ExecuteTemplate(&page, whole, &view{visit: v, Title: s.title, Screen: s.name, D: s.data}); err != nil {
		v.Logger.Error("apikey keypage: a screen could not be rendered", "request_id", v.id, "screen", s.name, "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if s.status == http.StatusServiceUnavailable || s.status == http.StatusTooManyRequests {
		header.Set("Retry-After", strconv.Itoa(max(1, int(v.retry/time.Second))))
	}
	if s.status != 0 {
		w.WriteHeader(s.status)
	}
	w.Write(page.Bytes())
}

// message is the data of the screen that says one thing.
type message struct {
	Title, Detail  string
	Link, LinkText string
	NewTab         bool
	Again          string // where Fields are sent again; empty: nowhere
	Fields         []field
	Tag            string // for Again
	Request        string
	Developer      string // a hint for the developer of the page, in English
}

// message is a screen that says one thing, by its code in the texts.
func (v *visit) message(code string, status int) screen {
	title := v.T("problem." + code + ".title")
	m := message{Title: title, Detail: v.T("problem." + code + ".detail"), Link: v.url(""), LinkText: v.T("all_keys")}
	if status >= 500 {
		m.Request = v.id
	}
	return screen{name: "message", title: title, data: m, status: status}
}

func (v *visit) notFound() screen { return v.message("not_found", 404) }

// refused is the screen of an error of the Manager.
func (v *visit) refused(err error) screen {
	p := httpauth.Refused(err)
	v.note(p, err)
	code := p.Code
	if !v.text.has("problem." + code + ".title") {
		code = "internal_error"
	}
	s := v.message(code, p.Status)
	m := s.data.(message)
	m.Detail = v.detailOf(p)
	s.data = m
	return s
}

// note logs a failure of ours, and when to try again.
func (v *visit) note(p httpauth.Problem, err error) {
	v.retry = p.RetryAfter
	if p.Status >= 500 && v.r.Context().Err() == nil {
		v.Logger.Error("apikey keypage: a request failed", "request_id", v.id, "path", v.r.URL.Path, "code", p.Code, "error", err)
	}
}

// detailOf is the text of a problem in the visitor's language.
func (v *visit) detailOf(p httpauth.Problem) string {
	switch {
	case p.Because != "" && v.text.has("because."+string(p.Because)):
		return v.T("because." + string(p.Because))
	case p.AttemptsLeft != nil && *p.AttemptsLeft == 0:
		return v.T("because.spent")
	case p.AttemptsLeft != nil:
		return v.text.count("attempts_left", *p.AttemptsLeft)
	}
	text := p.Detail
	switch {
	case p.Limit != "" && v.text.has("limit."+p.Limit):
		text = v.T("limit."+p.Limit, "n", p.Max)
	case v.text.has("problem." + p.Code + ".detail"):
		text = v.T("problem." + p.Code + ".detail")
	}
	if p.RetryAfter > 0 && p.Status == http.StatusTooManyRequests {
		text += " " + v.T("try_again_in", "time", v.span(p.RetryAfter))
	}
	return text
}

// hidden reports whether the program leaves an action out.
func (h *handler) hidden(a apikey.Action) bool { return slices.Contains(h.Hide, a) }
