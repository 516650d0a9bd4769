package admin

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/door"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/internal/requestid"
)

// api is the handler that New returns.
type api struct {
	Config
	door door.Door
	mux  *http.ServeMux
}

// call is one request and what is known about it. Until admit lets it in, that is api, r
// and id.
type call struct {
	*api
	r     *http.Request
	ctx   context.Context // of the request, with the actor; nil: nobody was let in
	actor apikey.Actor
	tag   string // of the actor; empty: nobody was let in
	id    string // of the request, for the answer and the log

	version        uint64 // of If-Match; 0: there is none
	idempotencyKey string
}

// ServeHTTP finds the route. A request without one is refused here, and so is a path that
// ServeMux would redirect: no check would have seen that answer.
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
	none := &headersOnly{header: http.Header{}} // ServeMux says whether another method has a route, and which
	a.mux.ServeHTTP(none, r)
	if none.status != http.StatusMethodNotAllowed {
		c.write(w, answer{}, noRoute)
		return
	}
	w.Header().Set("Allow", none.header.Get("Allow"))
	c.write(w, answer{}, noMethod)
}

// headersOnly keeps the status and the headers of an answer.
type headersOnly struct {
	header http.Header
	status int
}

func (h *headersOnly) Header() http.Header         { return h.header }
func (h *headersOnly) Write(b []byte) (int, error) { return len(b), nil }
func (h *headersOnly) WriteHeader(status int)      { h.status = status }

// serve handles the requests of all routes.
func (a *api) serve(w http.ResponseWriter, r *http.Request, to route) {
	c := &call{api: a, r: r, id: requestid.Of(r.Header.Get("X-Request-ID"))}
	// The bound of ReadJSON. Beyond this one the server closes the connection, too, instead
	// of reading the rest.
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	err := c.admit(to)
	if c.tag != "" {
		w.Header().Set(actorHeader, c.tag)
	}
	var ans answer
	if err == nil {
		ans, err = to.do(c)
	}
	c.write(w, ans, err)
}

// admit makes the checks that are the same for all routes: where the request comes from
// and who makes it (door.Enter), whether that is the person for whom the page was drawn, and
// what its headers and its query may be.
func (c *call) admit(to route) error {
	if to.open {
		return nil
	}
	guest, id, err := c.door.Enter(c.r)
	c.id = id
	if err != nil {
		return outside(err)
	}
	c.actor, c.ctx, c.tag = guest.Actor, guest.Context, guest.Tag
	if tags := c.r.Header.Values(actorHeader); len(tags) > 1 || len(tags) == 1 && tags[0] != c.tag {
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

// actorHeader is in every answer to somebody who is signed in. A page sends it back with
// each request: see door.TagOf.
const actorHeader = "Apikey-Actor"

// need says what a route does with If-Match.
type need uint8

const (
	refused need = iota // it would do nothing, and its sender relies on it
	ignored
	optional // it may be there
	required
)

// versionIn reads If-Match: the ETag of a key, which is its version. A proxy that
// compresses answers makes a weak ETag of it (W/). What is wrong is added to wrong.
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

// idempotencyKeyIn reads Idempotency-Key. What is wrong is added to wrong.
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

// outside returns the error of the API for an error of door.Enter.
func outside(err error) error {
	cross, isCross := errors.AsType[*door.CrossSiteError](err)
	switch {
	case isCross:
		return crossSite(cross.Why)
	case errors.Is(err, door.ErrOperator):
		return operatorRefused
	case errors.Is(err, door.ErrSession):
		return &refusal{Problem: httpauth.Refused(apikey.ErrBusy), cause: err}
	}
	return err
}

// keyAndBody reads the key in the path, and then the body: see read.
func (c *call) keyAndBody(into any, without ...string) (apikey.KeyID, error) {
	id, err := c.key()
	if err != nil {
		return id, err
	}
	return id, c.read(into, without...)
}

// key reads the ID of the key in the path. A text that is no ID is answered as an ID that
// no key of the account has.
func (c *call) key() (apikey.KeyID, error) {
	id, err := apikey.ParseKeyID(c.r.PathValue("id"))
	if err != nil {
		return id, apikey.ErrNotFound
	}
	return id, nil
}

// read reads the body of the request: see httpauth.ReadJSON.
func (c *call) read(into any, without ...string) error {
	return httpauth.ReadJSON(c.r, into, without...)
}
