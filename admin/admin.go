// Package admin is a JSON API to manage the keys of the account whose member is signed in:
// the back end of a key page, of a dashboard, or of a script that has a session. Mount it
// where the browser of your dashboard can reach it:
//
//	api, err := admin.New(admin.Config{Manager: manager, Actor: signedIn})
//	mux.Handle("/api/", http.StripPrefix("/api", api))
//
// Its routes begin with /v1/. The file openapi.yaml of this package describes them, and is
// served among them. /v1/ only grows: new routes, new optional members, new codes. Ignore a
// member that you do not know.
//
// # Who may do what
//
// Config.Actor says who is signed in. Every request is made as that [apikey.Actor], so
// ManagerConfig.Policy decides, and the keys of another account do not exist. Operators
// are refused: staff use the Manager. There are no API keys for this API, because a key
// that manages keys could approve what its owner may not approve alone.
//
// # Approvals
//
// A request that StepUp guards comes up to three times. It is the same each time, except
// for its member "approval" (the headers, among them If-Match, are left out here):
//
//	POST /v1/keys/ID/rotate {}                                → 403 step_up_required
//	     {"approval": {"factor": "email"}}                    → 202, the challenge
//	     {"approval": {"challenge": "…", "answer": "123456"}} → 200, the new token
//
// If the last one fails because something was not available (503), send it again within two
// minutes: the same code works until it was used.
//
// # Lost answers
//
// A new token is in one answer and nowhere else. Create a key with the header
// Idempotency-Key, and a repeated request is 409 already_issued, with the key. A change or a
// rotation has the version of the key in If-Match: repeated, it is 412, with "done": true if
// the same person has done the same to that version. If the token of a rotation is lost,
// rotate again.
//
// # Cross-site requests
//
// A request that changes something must come from a page of this site: its Origin is one
// of Config.Origins (if that is empty, the Host of the request), or it has no Origin and
// Sec-Fetch-Site is same-origin. Behind a proxy, pass Host on with its port (nginx:
// proxy_set_header Host $http_host), or set Origins. A script sends Origin itself.
package admin

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/door"
)

// ErrSignIn is returned by Config.Actor if nobody is signed in. The answer is 401.
var ErrSignIn = errors.New("admin: nobody is signed in")

// Config configures [New].
type Config struct {
	// Manager makes the changes. Required.
	Manager *apikey.Manager
	// Actor says who is signed in, by the request's session cookie: ID, Account and Role
	// of the [apikey.Actor]. Required. ErrSignIn is answered with 401, and so is an Actor
	// without ID or Account; any other error with 503, and it is logged. If Addr,
	// UserAgent or RequestID is empty, it is filled in: with the address of the connection
	// (set Addr behind a proxy), the header User-Agent, and the ID that the answer shows.
	Actor func(*http.Request) (apikey.Actor, error)
	// Origins are the origins of the pages that may send changes, "https://dash.example".
	// Empty: those of the host of the request, whatever host that is: enough for a session
	// cookie, which a browser sends to its own host alone. If Actor goes by something else,
	// such as an address or a client certificate, set Origins: a site whose name resolves
	// to this server (DNS rebinding) would be taken for this one.
	Origins []string
	// Metadata lists the names in a key's metadata that are shown and can be changed here;
	// others are the program's own: they are neither shown, nor changed. Empty: none.
	Metadata []string
	// Now is Settings.Now, for the status of keys. Nil: [time.Now].
	Now func() time.Time
	// Logger gets what a client is not shown: the errors behind 500 and 503, each with the
	// request_id of its answer. Nil: nothing is logged.
	Logger *slog.Logger
}

// New returns the handler of the API. Its error says which field of c to change.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Manager == nil:
		return nil, errors.New("admin: Config.Manager is required")
	case c.Actor == nil:
		return nil, errors.New("admin: Config.Actor is required: it says who is signed in")
	}
	if err := door.ValidOrigins("Config.Origins", c.Origins); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	a := &api{Config: c, mux: http.NewServeMux(), door: door.Door{Actor: c.Actor, SignIn: ErrSignIn, Origins: c.Origins, Logger: c.Logger}}
	for _, r := range routes {
		a.mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { a.serve(w, req, r) })
	}
	return a, nil
}
