package admin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/internal/requestid"
)

// api is the handler that New returns.
type api struct {
	Config
	mux *http.ServeMux
}

// call is one request, once it was admitted.
type call struct {
	*api
	r     *http.Request
	ctx   context.Context // of the request, with the actor
	actor apikey.Actor
	id    string // of the request, for the answer and the log

	version        uint64 // of If-Match; 0: there is none
	idempotencyKey string
}

// ServeHTTP finds the route. What has no route is refused here, also a path that ServeMux
// would redirect: a redirect would be the one answer that no check has seen.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	escaped := r.URL.EscapedPath()
	clean := path.Clean("/" + escaped)
	if _, pattern := a.mux.Handler(r); clean == escaped && pattern != "" {
		a.mux.ServeHTTP(w, r)
		return
	}
	c := &call{api: a, r: r, id: requestid.Of(r.Header.Get("X-Request-ID"))}
	if clean != escaped {
		c.write(w, answer{}, noRoute)
		return
	}
	none := &headersOnly{header: http.Header{}}
	a.mux.ServeHTTP(none, r)
	if none.status != http.StatusMethodNotAllowed {
		c.write(w, answer{}, noRoute)
		return
	}
	w.Header().Set("Allow", none.header.Get("Allow"))
	c.write(w, answer{}, noMethod)
}

// headersOnly takes the answer of a ServeMux that has no route.
type headersOnly struct {
	header http.Header
	status int
}

func (h *headersOnly) Header() http.Header         { return h.header }
func (h *headersOnly) Write(b []byte) (int, error) { return len(b), nil }
func (h *headersOnly) WriteHeader(status int)      { h.status = status }

// serve is the one function that the requests of all routes pass.
func (a *api) serve(w http.ResponseWriter, r *http.Request, to route) {
	c := &call{api: a, r: r, id: requestid.Of(r.Header.Get("X-Request-ID"))}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	err := c.admit(to)
	if c.actor.ID != "" {
		w.Header().Set(actorHeader, tagOf(c.actor))
	}
	var ans answer
	if err == nil {
		ans, err = to.do(c)
	}
	c.write(w, ans, asNamedHere(err))
}

// namesHere are the fields that a request has here under another name than in the Manager.
var namesHere = map[string]string{"overlap": "overlap_seconds"}

// asNamedHere makes an error about wrong fields call each by the name that the client has
// sent it under, so that a page can mark it.
func asNamedHere(err error) error {
	fields := apikey.InvalidFields(err)
	if !slices.ContainsFunc(fields, func(f *apikey.InvalidError) bool { return namesHere[f.Field] != "" }) {
		return err
	}
	named := make([]error, len(fields))
	for i, f := range fields {
		field := *f
		field.Field = cmp.Or(namesHere[f.Field], f.Field)
		named[i] = &field
	}
	return errors.Join(named...)
}

// admit makes all checks that do not depend on the route's own request: where the request
// comes from, who makes it, whether it is the person whom the page was drawn for, and its
// headers. Where it comes from is first, so that another site cannot even prolong a
// session.
func (c *call) admit(to route) error {
	if to.open {
		return nil
	}
	if err := c.sameSite(); err != nil {
		return err
	}
	if err := c.identify(); err != nil {
		return err
	}
	if tags := c.r.Header.Values(actorHeader); len(tags) > 1 || len(tags) == 1 && tags[0] != tagOf(c.actor) {
		return otherActor
	}
	var wrong []error
	c.version, wrong = versionIn(c.r.Header["If-Match"], to.version, wrong)
	c.idempotencyKey, wrong = idempotencyKeyIn(c.r.Header["Idempotency-Key"], to.idempotent, wrong)
	if !to.queries && c.r.URL.RawQuery != "" {
		wrong = append(wrong, &apikey.InvalidError{Code: apikey.InvalidNotAllowed, Field: "query"})
	}
	return errors.Join(wrong...)
}

// identify sets the actor. It fails closed: whoever is not named is not let in.
func (c *call) identify() error {
	actor, err := c.Actor(c.r)
	switch {
	case errors.Is(err, ErrSignIn):
		return apikey.ErrNoActor
	case err != nil:
		return &refusal{Problem: httpauth.Refused(apikey.ErrBusy), cause: fmt.Errorf("Config.Actor: %w", err)}
	case actor.IsOperator():
		return operatorRefused
	case actor.ID == "" || actor.Account == "":
		c.Logger.Error("apikey admin: Config.Actor returned an Actor without an ID or an Account; return ErrSignIn if nobody is signed in", "request_id", c.id)
		return apikey.ErrNoActor
	}
	if actor.RequestID != "" {
		c.id = actor.RequestID
	}
	actor.RequestID = c.id
	if actor.UserAgent == "" {
		actor.UserAgent = c.r.UserAgent()
	}
	if actor.Addr == "" {
		actor.Addr = c.r.RemoteAddr
		if host, _, err := net.SplitHostPort(actor.Addr); err == nil {
			actor.Addr = host
		}
	}
	c.actor, c.ctx = actor, apikey.WithActor(c.r.Context(), actor)
	return nil
}

// actorHeader is in every answer to somebody who is signed in. A page sends it back with
// each request. If somebody else has signed in meanwhile in another tab, the request is
// refused, instead of making a key in the wrong account.
const actorHeader = "Apikey-Actor"

// tagOf is the value of actorHeader: a hash of account and person. It is no secret, and
// proves nothing.
func tagOf(a apikey.Actor) string {
	sum := sha256.Sum256([]byte("apikey admin actor v1\x00" + strconv.Itoa(len(a.Account)) + "\x00" + a.Account + a.ID))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// sameSite refuses a request of another site: cross-site request forgery. A cookie that
// is sent along says who is signed in, not who has made the request. To read is allowed
// without proof, because the browser gives another site no answer to read, but not if the
// browser says that another site asks.
func (c *call) sameSite() error {
	origins, site := c.r.Header["Origin"], c.r.Header.Values("Sec-Fetch-Site")
	reads := c.r.Method == http.MethodGet || c.r.Method == http.MethodHead
	switch {
	case len(origins) > 1 || len(site) > 1:
		return crossSite("It has the header Origin or Sec-Fetch-Site more than once.")
	case reads && (len(site) == 0 || site[0] == "same-origin" || site[0] == "none"):
		return nil
	case len(origins) == 1 && len(c.Origins) > 0:
		if !slices.Contains(c.Origins, origins[0]) {
			return crossSite("Its header Origin is not one of those that are allowed.")
		}
		return nil
	case reads:
		return crossSite("Its header Sec-Fetch-Site says that another site asks.")
	case len(site) == 1 && site[0] != "same-origin":
		return crossSite("Its header Sec-Fetch-Site says that another site asks.")
	case len(origins) == 0 && len(site) == 0:
		return crossSite("It has neither the header Origin nor Sec-Fetch-Site: a browser sends one of them, and a script has to send Origin.")
	case len(origins) == 1 && !c.ownOrigin(origins[0]):
		return crossSite("Its header Origin is not that of the Host that the request names. Behind a proxy, pass the header Host on.")
	}
	return nil
}

// ownOrigin reports whether the origin is that of the request's host. Without TLS here
// there may be a proxy with TLS before us, so either scheme is taken.
func (c *call) ownOrigin(origin string) bool {
	host, https := strings.CutPrefix(origin, "https://")
	if !https {
		var http bool
		host, http = strings.CutPrefix(origin, "http://")
		if !http || c.r.TLS != nil {
			return false
		}
	}
	return strings.EqualFold(host, c.r.Host)
}

// need says what a route does with a header.
type need uint8

const (
	refused need = iota // it means nothing here: somebody expects what is not done
	ignored
	optional // it may be there
	required
)

// versionIn reads If-Match: the ETag of a key, which is its version. A proxy that
// compresses makes a weak one of it.
func versionIn(values []string, wanted need, wrong []error) (uint64, []error) {
	refuse := func(code apikey.InvalidCode) (uint64, []error) {
		return 0, append(wrong, &apikey.InvalidError{Field: "If-Match", Code: code})
	}
	switch {
	case len(values) == 0 && wanted == required:
		return 0, []error{versionRequired}
	case len(values) == 0 || wanted == ignored:
		return 0, wrong
	case wanted == refused:
		return refuse(apikey.InvalidNotAllowed)
	case len(values) > 1:
		return refuse(apikey.InvalidSeveral)
	}
	digits, quoted := strings.CutPrefix(strings.TrimPrefix(values[0], "W/"), `"`)
	digits, closed := strings.CutSuffix(digits, `"`)
	version, err := strconv.ParseUint(digits, 10, 64)
	if !quoted || !closed || err != nil || version == 0 || strconv.FormatUint(version, 10) != digits {
		return refuse(apikey.InvalidMalformed)
	}
	return version, wrong
}

func idempotencyKeyIn(values []string, allowed bool, wrong []error) (string, []error) {
	const most = 255
	code := apikey.InvalidCode("")
	switch {
	case len(values) == 0:
		return "", wrong
	case !allowed:
		code = apikey.InvalidNotAllowed
	case len(values) > 1:
		code = apikey.InvalidSeveral
	case values[0] == "":
		code = apikey.InvalidMalformed
	case len(values[0]) > most:
		return "", append(wrong, &apikey.InvalidError{Field: "Idempotency-Key", Code: apikey.InvalidTooLong, Max: most})
	default:
		return values[0], wrong
	}
	return "", append(wrong, &apikey.InvalidError{Field: "Idempotency-Key", Code: code})
}

// read reads the body of the request: see httpauth.ReadJSON.
func (c *call) read(into any, without ...string) error {
	return httpauth.ReadJSON(c.r, into, without...)
}

// key is the ID of the key in the path. What is no ID is not there, as one that no key of
// the account has.
func (c *call) key() (apikey.KeyID, error) {
	id, err := apikey.ParseKeyID(c.r.PathValue("id"))
	if err != nil {
		return id, apikey.ErrNotFound
	}
	return id, nil
}
