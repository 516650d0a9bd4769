package admin

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// answer is the result of a route that has returned no error.
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

// describe makes the answer of a key, without what this API does not show.
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

// refuseUnlisted refuses metadata with names that are not shown here.
func (c *call) refuseUnlisted(metadata map[string]string) error {
	var wrong []error
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		if !slices.Contains(c.Config.Metadata, name) {
			wrong = append(wrong, &apikey.InvalidError{Field: "metadata", Code: apikey.InvalidUnknown, Value: name, Known: c.Config.Metadata})
		}
	}
	return errors.Join(wrong...)
}

// noVersion is the version of no key.
const noVersion = math.MaxUint64

// keepUnlisted completes an update of metadata by the names that are not shown here: who
// replaces what they see must not delete what they do not see. What is added was read at
// the version that the update is about. So a version that is only about to be made is
// refused, too: the program makes it between this and the update, and what it has just
// written under those names would be set back.
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
	if err := c.refuseUnlisted(asked); err != nil {
		return err
	}
	info, err := c.Manager.Get(c.ctx, req.Key)
	if err != nil {
		return err
	}
	if info.Version != req.IfVersion {
		// Update refuses it, after it has asked whether this person may edit the key at all.
		req.IfVersion = noVersion
		return nil
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

// ofUnlisted replaces an error about metadata that keepUnlisted has added. It would tell
// its name, and it is no fault of the client: the Manager's Limits are lower now than
// when the program wrote that metadata.
func (c *call) ofUnlisted(err error) error {
	for _, e := range apikey.InvalidFields(err) {
		if e.Field == "metadata" && e.Value != "" && !slices.Contains(c.Config.Metadata, e.Value) {
			return &refusal{Problem: httpauth.Refused(nil), cause: err}
		}
	}
	return err
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

// headers are in every answer, whose content is for one person and for now (no-store), is
// no page that could run or be framed, and may be read by pages of this site alone.
var headers = map[string]string{
	"Cache-Control":                "no-store, no-transform",
	"Content-Security-Policy":      "default-src 'none'; frame-ancestors 'none'",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "same-origin",
	"X-Content-Type-Options":       "nosniff",
}
