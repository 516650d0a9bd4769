package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/act"
	"github.com/go-apikey/apikey/httpauth"
)

// refusal is an error with its answer. Any other error is answered as httpauth.Refused
// says: from its kind and its typed fields. The text of an error, which may quote a store
// or a key service, is in the log alone.
type refusal struct {
	httpauth.Problem
	Key  *keyAnswer `json:"key,omitempty"`  // that an earlier request with this Idempotency-Key made
	Done bool       `json:"done,omitempty"` // the same person has done the same action to that version

	cause error // for the log; nil: there is nothing more to say
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

// refuse writes the answer of an error.
func (c *call) refuse(w http.ResponseWriter, err error) {
	own, ok := errors.AsType[*refusal](err)
	if !ok {
		own = &refusal{Problem: httpauth.Refused(err)}
	}
	r := *own // a copy, because noRoute and the others are shared
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

// log logs an error that is no fault of the client (500 and above), unless the client has
// hung up.
func (c *call) log(status int, code string, err error) {
	if status >= 500 && c.r.Context().Err() == nil {
		if own, ok := errors.AsType[*refusal](err); ok && own.cause != nil {
			err = own.cause
		}
		c.Logger.Error("apikey admin: a request failed", "request_id", c.id, "method", c.r.Method, "route", c.r.Pattern, "status", status, "code", code, "error", err)
	}
}
