// Package door decides who comes in over HTTP: it is the first thing that the JSON API and
// the key page ask about a request, and the only place where they ask it.
package door

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/requestid"
)

// A Door lets the members of an account in. All fields but Origins and Framed are required.
type Door struct {
	// Actor says who is signed in. An error that wraps SignIn means that nobody is.
	Actor  func(*http.Request) (apikey.Actor, error)
	SignIn error
	// Origins are those of the pages that may send changes; empty: those of the Host.
	Origins []string
	// Framed lets a frame of another site show what a link may. Which sites, is for the
	// Content-Security-Policy of the answer to say.
	Framed bool
	Logger *slog.Logger
}

// Guest is a person who was let in.
type Guest struct {
	apikey.Actor                 // with Addr, UserAgent and RequestID
	Context      context.Context // of the request, with the Actor
	Tag          string          // see TagOf
}

// Errors of Enter, besides apikey.ErrNoActor (nobody is signed in).
var (
	ErrOperator = errors.New("an operator is signed in")
	ErrSession  = errors.New("who is signed in cannot be found out")
)

// CrossSiteError says why a request seems to come from another site.
type CrossSiteError struct {
	Why string // a sentence for the developer of the page
}

func (e *CrossSiteError) Error() string { return "cross-site request: " + e.Why }

// Enter finds out where a request comes from, and then who makes it: a request of another
// site does not reach Actor, so it cannot even prolong a session. id is the ID of the
// request, which the answer shows, also beside an error; an Actor with a RequestID of its
// own replaces it.
func (d *Door) Enter(r *http.Request) (g Guest, id string, err error) {
	id = requestid.Of(r.Header.Get("X-Request-ID"))
	if err := d.sameSite(r); err != nil {
		return Guest{}, id, err
	}
	actor, err := d.Actor(r)
	switch {
	case errors.Is(err, d.SignIn):
		return Guest{}, id, apikey.ErrNoActor
	case err != nil:
		return Guest{}, id, fmt.Errorf("%w: Config.Actor: %w", ErrSession, err)
	case actor.IsOperator():
		return Guest{}, id, ErrOperator
	case actor.ID == "" || actor.Account == "": // a session that was not found, returned without an error
		d.Logger.Error("apikey admin: Config.Actor returned an Actor without an ID or an Account; return ErrSignIn if nobody is signed in", "request_id", id)
		return Guest{}, id, apikey.ErrNoActor
	}
	if actor.RequestID != "" {
		id = actor.RequestID
	}
	actor.RequestID = id
	if actor.UserAgent == "" {
		actor.UserAgent = r.UserAgent()
	}
	if actor.Addr == "" {
		actor.Addr = r.RemoteAddr
		if host, _, err := net.SplitHostPort(actor.Addr); err == nil {
			actor.Addr = host
		}
	}
	return Guest{actor, apikey.WithActor(r.Context(), actor), TagOf(actor)}, id, nil
}

// TagOf is a hash of account and person. A page sends back the tag of the person for whom
// it was drawn. If somebody else has signed in meanwhile in another tab, the request is
// refused, instead of making a key in the wrong account. The tag is no secret and proves
// nothing. The length of the account keeps "ab"+"c" and "a"+"bc" apart.
func TagOf(a apikey.Actor) string {
	sum := sha256.Sum256([]byte("apikey admin actor v1\x00" + strconv.Itoa(len(a.Account)) + "\x00" + a.Account + a.ID))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// sameSite refuses a request of another site: cross-site request forgery. The cookie that
// comes with it says who is signed in, not which page has made the request.
//
// A change needs a proof: an Origin that is allowed, or Sec-Fetch-Site: same-origin without
// an Origin. A request that only reads needs none, because the browser does not show the
// answer to another site. But if the browser says that another site asks, it is refused,
// except for a link that somebody has followed.
func (d *Door) sameSite(r *http.Request) error {
	origins, site := r.Header["Origin"], r.Header.Values("Sec-Fetch-Site")
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case len(origins) > 1 || len(site) > 1:
		return &CrossSiteError{"It has the header Origin or Sec-Fetch-Site more than once."}
	case reads && (len(site) == 0 || site[0] == "same-origin" || site[0] == "none"):
		return nil
	case reads && d.isLink(r):
		return nil
	case len(origins) == 1 && len(d.Origins) > 0:
		if !slices.Contains(d.Origins, origins[0]) {
			return &CrossSiteError{"Its header Origin is not one of those that are allowed."}
		}
		return nil
	case reads, len(site) == 1 && site[0] != "same-origin":
		return &CrossSiteError{"Its header Sec-Fetch-Site says that another site asks."}
	case len(origins) == 0 && len(site) == 0:
		return &CrossSiteError{"It has neither the header Origin nor Sec-Fetch-Site: a browser sends one of them, and a script has to send Origin."}
	case len(origins) == 1 && !ownOrigin(r, origins[0]):
		return &CrossSiteError{"Its header Origin is not that of the Host that the request names. Behind a proxy, pass the header Host on."}
	}
	return nil
}

// isLink reports whether somebody has followed a link, as from a mail: that changes
// nothing, and the page with the link, or with the frame, does not see the answer.
func (d *Door) isLink(r *http.Request) bool {
	to := r.Header.Get("Sec-Fetch-Dest")
	return r.Header.Get("Sec-Fetch-Mode") == "navigate" && (to == "document" || d.Framed && to == "iframe")
}

// ownOrigin reports whether the origin is that of the request's host. If the request came
// without TLS, a proxy before this program may have ended TLS, so both schemes are accepted.
func ownOrigin(r *http.Request, origin string) bool {
	host, https := strings.CutPrefix(origin, "https://")
	if !https {
		var plain bool
		host, plain = strings.CutPrefix(origin, "http://")
		if !plain || r.TLS != nil {
			return false
		}
	}
	return host != "" && strings.EqualFold(host, r.Host) // HTTP/1.0 needs no Host
}

// ValidOrigins refuses a text that no browser sends as Origin: it would match no request. field
// is its name, "Config.Origins".
func ValidOrigins(field string, origins []string) error {
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Scheme+"://"+u.Host != o {
			return fmt.Errorf("%s: %q is not sent by any browser: write https://dash.example or http://localhost:3000", field, o)
		}
	}
	return nil
}
