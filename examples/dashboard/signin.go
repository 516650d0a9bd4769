package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
)

// people are those who can sign in, by the name that they type.
var people = map[string]apikey.Actor{
	"superadmin": {ID: "superadmin", Account: account, Role: "superadmin"},
	"admin":      {ID: "admin", Account: account, Role: "admin"},
	"viewer":     {ID: "viewer", Account: account, Role: "viewer"},
	"other":      {ID: "other", Account: otherAccount, Role: "admin"},
}

const (
	account      = "acc_kopi"
	otherAccount = "acc_teh"

	password = "correct horse" // everybody's; a program of yours has a hash for each person
	pin      = "2580"

	sessionCookie = "dashboard_session"
	sessionTime   = 8 * time.Hour
)

func checkPassword(_ context.Context, actorID, answer string) (bool, error) {
	return known(actorID) && same(answer, password), nil
}

func checkPIN(_ context.Context, actorID, answer string) (bool, error) {
	return known(actorID) && same(answer, pin), nil
}

func known(user string) bool {
	_, ok := people[user]
	return ok
}

func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// signIn stands for the sign-in that your dashboard has already, with its limit on guesses.
type signIn struct {
	now func() time.Time

	mu       sync.Mutex
	sessions map[[sha256.Size]byte]session // by the hash of the cookie
}

type session struct {
	actor apikey.Actor
	ends  time.Time
}

func newSignIn() *signIn {
	return &signIn{now: time.Now, sessions: map[[sha256.Size]byte]session{}}
}

// mount mounts the sign-in. Another site can neither sign somebody in nor out.
func (s *signIn) mount(mux *http.ServeMux) {
	ours := http.NewCrossOriginProtection()
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) { loginForm(w, r, "", false) })
	mux.Handle("POST /login", ours.Handler(http.HandlerFunc(s.login)))
	mux.HandleFunc("GET /logout", func(w http.ResponseWriter, _ *http.Request) { show(w, logoutPage, http.StatusOK, nil) })
	mux.Handle("POST /logout", ours.Handler(http.HandlerFunc(s.logout)))
}

// actor says who makes a request. The account comes from the session, never from the
// request.
func (s *signIn) actor(r *http.Request) (apikey.Actor, error) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return apikey.Actor{}, admin.ErrSignIn
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.sessions[sha256.Sum256([]byte(cookie.Value))]
	if !ok || s.now().After(found.ends) {
		return apikey.Actor{}, admin.ErrSignIn
	}
	return found.actor, nil
}

func (s *signIn) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	user := r.PostFormValue("user")
	if ok, _ := checkPassword(r.Context(), user, r.PostFormValue("password")); !ok {
		loginForm(w, r, user, true)
		return
	}
	text := rand.Text()
	s.mu.Lock()
	s.end(r)
	maps.DeleteFunc(s.sessions, func(_ [sha256.Size]byte, old session) bool { return s.now().After(old.ends) })
	s.sessions[sha256.Sum256([]byte(text))] = session{people[user], s.now().Add(sessionTime)}
	s.mu.Unlock()
	http.SetCookie(w, cookie(text, int(sessionTime/time.Second)))
	http.Redirect(w, r, backOf(r), http.StatusSeeOther)
}

func (s *signIn) logout(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.end(r)
	s.mu.Unlock()
	http.SetCookie(w, cookie("", -1))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// end ends the session of a request.
func (s *signIn) end(r *http.Request) {
	if old, err := r.Cookie(sessionCookie); err == nil {
		delete(s.sessions, sha256.Sum256([]byte(old.Value)))
	}
}

func cookie(text string, seconds int) *http.Cookie { // with TLS: Secure too
	return &http.Cookie{Name: sessionCookie, Value: text, Path: "/", MaxAge: seconds, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// loginURL is where to sign in, to return to back.
func loginURL(_ *http.Request, back string) string { return "/login?back=" + url.QueryEscape(back) }

// backOf is where somebody goes who has signed in: a path of this site. "//host" and
// "/\host" are other sites for a browser.
func backOf(r *http.Request) string {
	back := r.FormValue("back")
	u, err := url.Parse(back)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(back, "/") || strings.HasPrefix(back, "//") || strings.ContainsAny(back, "\\\t\r\n") {
		return path
	}
	return back
}

func loginForm(w http.ResponseWriter, r *http.Request, user string, wrong bool) {
	status := http.StatusOK
	if wrong {
		status = http.StatusForbidden
	}
	show(w, loginPage, status, map[string]any{"User": user, "Wrong": wrong, "Back": backOf(r)})
}

func show(w http.ResponseWriter, page *template.Template, status int, data any) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	w.WriteHeader(status)
	page.Execute(w, data)
}

var loginPage = template.Must(template.New("login").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Sign in</title><link rel="stylesheet" href="/app/dashboard.css"></head>
<body><main class="dashboard-form"><h1>Sign in</h1>
{{if .Wrong}}<p role="alert">User or password is wrong.</p>{{end}}
<form method="post" action="/login"><input type="hidden" name="back" value="{{.Back}}">
<p><label>User <input name="user" value="{{.User}}" autocomplete="username" autocapitalize="off" required></label></p>
<p><label>Password <input type="password" name="password" autocomplete="current-password" required></label></p>
<p><button>Sign in</button></p></form></main></body></html>
`))

var logoutPage = template.Must(template.New("logout").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Sign out</title><link rel="stylesheet" href="/app/dashboard.css"></head>
<body><main class="dashboard-form"><h1>Sign out</h1><form method="post" action="/logout"><p><button>Sign out</button></p></form></main></body></html>
`))

// signOut is the frame of the dashboard around the page.
var signOut = template.Must(template.New("header").Parse(`<nav aria-label="Dashboard" class="dashboard-top"><span>Dashboard</span> <a href="/logout">Sign out</a></nav>`))
