package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"sync"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
)

const sessionCookie = "gateway_session"

// signIn stands for the sign-in that your dashboard has already. Each start has one link,
// which works once, and makes the one session of this process. So there is no list of
// sessions that could grow, and a second person needs another start.
type signIn struct {
	mu            sync.Mutex
	link, session [sha256.Size]byte // hashes of random texts; zero: there is none
	ends          time.Time         // of both
}

// newSignIn returns the path of its link too.
func newSignIn() (s *signIn, link string) {
	link = rand.Text()
	return &signIn{link: sha256.Sum256([]byte(link)), ends: time.Now().Add(8 * time.Hour)}, "/signin?once=" + link
}

func (s *signIn) is(text string, hash [sha256.Size]byte) bool {
	have := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(have[:], hash[:]) == 1 && time.Now().Before(s.ends)
}

// ServeHTTP follows the link. It answers with a session cookie and sends a browser on, so
// that the link is not left in the address bar. The route takes HEAD too: what only looks
// whether a link works must not use it up.
func (s *signIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method != http.MethodGet || !s.is(r.URL.Query().Get("once"), s.link) {
		problem{Status: 403, Code: "sign_in_link", Detail: "This link was used, is too old, or is none. Each start of the gateway prints another."}.write(w)
		return
	}
	text := rand.Text()
	s.link, s.session = [sha256.Size]byte{}, sha256.Sum256([]byte(text))
	w.Header().Set("Cache-Control", "no-store")
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: text, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}) // with TLS: Secure too
	http.Redirect(w, r, "/keys", http.StatusSeeOther)
}

// actor says who makes a request. The account comes from the session, never from the
// request.
func (s *signIn) actor(r *http.Request) (apikey.Actor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cookie, err := r.Cookie(sessionCookie); err == nil && s.is(cookie.Value, s.session) {
		return apikey.Actor{ID: "usr_demo", Account: merchant, Role: "admin"}, nil
	}
	return apikey.Actor{}, admin.ErrSignIn
}
