package admin

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/act"
	"github.com/go-apikey/apikey/httpauth"
)

// answer is what a route answers if it has no error.
type answer struct {
	status   int    // 0: 200 with a body, 204 without
	body     any    // written as JSON
	version  uint64 // of the key that the body has, for ETag; 0: none
	location string
	yaml     []byte // in place of body
}

// keyAnswer is a key: its Info with what only an answer knows.
type keyAnswer struct {
	apikey.Info
	Metadata map[string]string `json:"metadata,omitempty"` // in place of all metadata
	Status   apikey.Status     `json:"status"`
	// May are the actions that this person may do to the key now.
	May []apikey.Action `json:"may,omitempty"`
}

// soon is how long before its expiry a key's status says so.
const soon = 30 * 24 * time.Hour

func (c *call) describe(info apikey.Info) keyAnswer {
	key := keyAnswer{Info: info, Status: info.Status(c.Now(), soon)}
	for name, value := range info.Metadata.All() {
		if slices.Contains(c.Config.Metadata, name) {
			if key.Metadata == nil {
				key.Metadata = map[string]string{}
			}
			key.Metadata[name] = value
		}
	}
	return key
}

// listed refuses metadata that is not shown here.
func (c *call) listed(metadata map[string]string) error {
	var wrong []error
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		if !slices.Contains(c.Config.Metadata, name) {
			wrong = append(wrong, &apikey.InvalidError{Field: "metadata", Code: apikey.InvalidUnknown, Value: name, Known: c.Config.Metadata})
		}
	}
	return errors.Join(wrong...)
}

// keepUnlisted completes an update of metadata by the names that are not shown here: who
// replaces what they see must not delete what they do not see. The key is at the version
// that the update is about, or the update is refused.
func (c *call) keepUnlisted(req *apikey.UpdateRequest) error {
	if req.Metadata.IsZero() {
		return nil
	}
	var asked map[string]string
	text, err := json.Marshal(req.Metadata)
	if err == nil {
		err = json.Unmarshal(text, &asked) // null: cleared
	}
	if err != nil {
		return err
	}
	if err := c.listed(asked); err != nil {
		return err
	}
	info, err := c.Manager.Get(c.ctx, req.Key)
	if err != nil {
		return err
	}
	merged := maps.Clone(asked)
	for name, value := range info.Metadata.All() {
		if !slices.Contains(c.Config.Metadata, name) {
			if merged == nil {
				merged = map[string]string{}
			}
			merged[name] = value
		}
	}
	req.Metadata = apikey.Set(merged)
	if len(merged) == 0 {
		req.Metadata = apikey.Clear[map[string]string]()
	}
	return nil
}

// tokenAnswer has a new token. It is written here and nowhere else.
type tokenAnswer struct {
	Token string    `json:"token"`
	Key   keyAnswer `json:"key"`
}

func (c *call) tokenAnswer(i apikey.Issued) tokenAnswer {
	return tokenAnswer{Token: i.Token.Reveal(), Key: c.describe(i.Key)}
}

type revealedAnswer struct {
	tokenAnswer
	HideAfter int `json:"hide_after_seconds"`
}

type provisionedAnswer struct {
	Live *tokenAnswer `json:"live,omitempty"`
	Test *tokenAnswer `json:"test,omitempty"`
}

type rulesAnswer struct {
	Actor actorAnswer  `json:"actor"`
	Rules apikey.Rules `json:"rules"`
}

// actorAnswer is who is signed in.
type actorAnswer struct {
	ID      string `json:"id"`
	Account string `json:"account"`
	Role    string `json:"role,omitempty"`
	Tag     string `json:"tag"` // the header Apikey-Actor
}

type listAnswer struct {
	Data    []keyAnswer     `json:"data"`
	Next    apikey.Cursor   `json:"next,omitempty"`
	Damaged []damagedAnswer `json:"damaged,omitempty"`
}

type damagedAnswer struct {
	ID apikey.KeyID `json:"id,omitzero"`
}

type revokedMany struct {
	Data []revokedOne `json:"data"`
}

type revokedOne struct {
	ID      apikey.KeyID      `json:"id,omitzero"`
	Revoked bool              `json:"revoked"`
	Error   *httpauth.Problem `json:"error,omitempty"`
}

type revokedAll struct {
	Revoked int           `json:"revoked"`
	Failed  []revokedOne  `json:"failed,omitempty"`
	Next    apikey.Cursor `json:"next,omitempty"`
}

type factorsAnswer struct {
	Data []factorAnswer `json:"data"`
}

type factorAnswer struct {
	Name    string `json:"name"`
	Enrolls bool   `json:"enrolls"`
	Usable  bool   `json:"usable"` // enrolled, or needs no enrolment
}

type enrollmentAnswer struct {
	Factor string `json:"factor"`
	URI    string `json:"uri"` // a secret: the authenticator's setup key
}

// refusal is an error that knows its answer.
type refusal struct {
	httpauth.Problem
	Key  *keyAnswer `json:"key,omitempty"`  // that an earlier request with this idempotency key made
	Done bool       `json:"done,omitempty"` // the same person has done the same action to that version

	cause error // for the log
}

func (r *refusal) Error() string { return r.Code }
func (r *refusal) Unwrap() error { return r.cause }

var (
	noRoute         = &refusal{Problem: httpauth.Problem{Status: 404, Code: "unknown_path", Title: "Not found", Detail: "This address has no meaning here. GET /v1/openapi.yaml lists those that have."}}
	noMethod        = &refusal{Problem: httpauth.Problem{Status: 405, Code: "method_not_allowed", Title: "Method not allowed", Detail: "This address does not know this method. The header Allow lists those that it knows."}}
	operatorRefused = &refusal{Problem: httpauth.Problem{Status: 403, Code: "operator", Title: "Not for operators", Detail: "This is for the members of an account. Staff use the program's own tools."}}
	otherActor      = &refusal{Problem: httpauth.Problem{Status: 409, Code: "other_actor", Title: "Somebody else is signed in", Detail: "Somebody else has signed in meanwhile, perhaps in another tab, and nothing was done. Sign in again, or reload the page to go on as that person."}}
	versionRequired = &refusal{Problem: httpauth.Problem{Status: 428, Code: "version_required", Title: "Version required", Detail: "Send the version of the key that you have seen: the ETag of its last answer, in the header If-Match."}}
)

func crossSite(why string) error {
	return &refusal{Problem: httpauth.Problem{Status: 403, Code: "cross_site", Title: "From another site", Detail: "The request does not seem to come from a page of this site, and nothing was done. " + why}}
}

// already adds the key to the error of a request that was made before.
func (c *call) already(err error, info apikey.Info) error {
	key := c.describe(info)
	return &refusal{Problem: httpauth.Refused(err), Key: &key, cause: err}
}

// mayBeDone says in the error of a version that has passed whether this person has done
// the same to that version: see act.Did.
func (c *call) mayBeDone(err error, id apikey.KeyID, action apikey.Action) error {
	if _, passed := errors.AsType[*apikey.VersionError](err); !passed {
		return err
	}
	r := &refusal{Problem: httpauth.Refused(err), cause: err}
	if r.Done = act.Did(c.ctx, c.Manager, c.actor, id, c.version, action); r.Done {
		r.Detail = "You have done the same since, perhaps with this very request, whose answer did not reach you. Look at the key. If a new token was made that you do not have, make another one."
	}
	return r
}

// write writes an answer or, if there is an error, that of the error.
func (c *call) write(w http.ResponseWriter, ans answer, err error) {
	h := w.Header()
	for name, value := range headers {
		h.Set(name, value)
	}
	h.Set("X-Request-Id", c.id)
	if err != nil {
		c.refuse(w, err)
		return
	}
	if ans.yaml != nil {
		h.Set("Content-Type", "application/yaml")
		w.Write(ans.yaml)
		return
	}
	var text []byte
	if ans.body != nil {
		if text, err = json.Marshal(ans.body); err != nil {
			c.refuse(w, err)
			return
		}
		h.Set("Content-Type", "application/json")
	}
	if ans.version > 0 {
		h.Set("ETag", `"`+strconv.FormatUint(ans.version, 10)+`"`)
	}
	if ans.location != "" {
		h.Set("Location", ans.location)
	}
	switch {
	case ans.status != 0:
		w.WriteHeader(ans.status)
	case text == nil:
		w.WriteHeader(http.StatusNoContent)
	}
	w.Write(text) // an error means that the client has disconnected
}

// headers are those of every answer. What is answered is for one person and for now, is no
// page, and is for pages of this site alone.
var headers = map[string]string{
	"Cache-Control":                "no-store, no-transform",
	"Content-Security-Policy":      "default-src 'none'; frame-ancestors 'none'",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "same-origin",
	"X-Content-Type-Options":       "nosniff",
}

// refuse writes the answer of an error.
func (c *call) refuse(w http.ResponseWriter, err error) {
	own, ok := errors.AsType[*refusal](err)
	if !ok {
		own = &refusal{Problem: httpauth.Refused(err)}
	}
	r := *own // those of this package are shared
	r.RequestID = c.id
	c.log(r.Status, r.Code, err)
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	if r.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Session realm="API keys"`) // RFC 9110 §15.5.2 wants one
	}
	if r.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(r.RetryAfter/time.Second)))
	}
	if r.Key != nil {
		h.Set("ETag", `"`+strconv.FormatUint(r.Key.Version, 10)+`"`)
	}
	text, err := json.Marshal(r)
	if err != nil {
		text, r.Status = []byte(`{"status":500,"code":"internal_error","title":"Internal error"}`), 500
	}
	w.WriteHeader(r.Status)
	w.Write(text)
}

// log logs what is our failure. A client that has hung up is none.
func (c *call) log(status int, code string, err error) {
	if status >= 500 && c.r.Context().Err() == nil {
		if own, ok := errors.AsType[*refusal](err); ok && own.cause != nil {
			err = own.cause
		}
		c.Logger.Error("apikey admin: a request failed", "request_id", c.id, "method", c.r.Method, "route", c.r.Pattern, "status", status, "code", code, "error", err)
	}
}
