package httpauth

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/requestid"
)

// Denial is the HTTP answer to a refused request. It contains no secret.
type Denial struct {
	// Status is 400, 401, 403, 500 or 503.
	Status int
	// Code is for programs and never changes. The package documentation lists all codes.
	Code string
	// Detail is a sentence for people. It may change between versions.
	Detail string
	// RequestID is also in the log line. It is empty in a Denial from [Denied], which has
	// no request.
	RequestID string
	// Missing is the first ability that the key does not have. It is nil unless Code is
	// insufficient_scope.
	Missing apikey.Ability
	// RetryAfter is the time to wait before the next attempt, in whole seconds. It is zero
	// unless Status is 503.
	RetryAfter time.Duration
}

// denials lists the errors in the order in which Denied compares them. Refusals of the
// caller come before failures of the server: if a Standing cannot decide, the request is
// refused, even if the Standing's error wraps such a failure. The two categories at the
// end are for reasons that this package does not know yet.
var denials = []struct {
	err error
	Denial
}{
	{ErrMalformed, Denial{Status: 400, Code: "invalid_request", Detail: "The credentials cannot be read."}},
	{ErrNoCredentials, Denial{Status: 401, Code: "credentials_missing", Detail: "The request carries no API key."}},
	{apikey.ErrInvalidToken, invalid},
	{apikey.ErrRevoked, Denial{Status: 401, Code: "key_revoked", Detail: "The API key was revoked."}},
	{apikey.ErrSuspended, Denial{Status: 401, Code: "key_suspended", Detail: "The API key is suspended."}},
	{apikey.ErrCredentialEnded, Denial{Status: 401, Code: "token_ended", Detail: "This token of the API key has ended."}},
	{apikey.ErrNotYetValid, Denial{Status: 401, Code: "token_not_yet_valid", Detail: "This token of the API key is not valid yet."}},
	{apikey.ErrExpired, Denial{Status: 401, Code: "key_expired", Detail: "The API key has expired."}},
	{apikey.ErrKind, Denial{Status: 403, Code: "kind_not_allowed", Detail: "This kind of API key is not accepted here."}},
	{apikey.ErrMode, Denial{Status: 403, Code: "mode_mismatch", Detail: "The API key belongs to the other mode, live or test."}},
	{apikey.ErrStanding, Denial{Status: 403, Code: "account_not_allowed", Detail: "The account may not use the API in this mode."}},
	{apikey.ErrAddr, Denial{Status: 403, Code: "address_not_allowed", Detail: "The API key may not be used from this address."}},
	{apikey.ErrOrigin, Denial{Status: 403, Code: "origin_not_allowed", Detail: "The API key may not be used from this origin."}},
	{apikey.ErrAbility, Denial{Status: 403, Code: "insufficient_scope", Detail: "The API key lacks an ability."}},
	{apikey.ErrBusy, Denial{Status: 503, Code: "busy", Detail: "Try again shortly.", RetryAfter: time.Second}},
	{apikey.ErrUnavailable, unavailable},
	{context.Canceled, unavailable},
	{context.DeadlineExceeded, unavailable},
	{apikey.ErrUnauthenticated, invalid},
	{apikey.ErrDenied, Denial{Status: 403, Code: "denied", Detail: "The API key may not be used for this request."}},
}

var (
	invalid     = Denial{Status: 401, Code: "invalid_token", Detail: "The API key is not valid."}
	unavailable = Denial{Status: 503, Code: "unavailable", Detail: "API keys cannot be verified at the moment.", RetryAfter: 5 * time.Second}
	internal    = Denial{Status: 500, Code: "internal_error", Detail: "The request could not be processed."}
)

// Denied returns the HTTP answer for an error of [Guard.Check]. It is for programs that
// write their own answers. For nil, and for an error that it does not know, Denied returns
// a 500: no error becomes a permission.
func Denied(err error) Denial {
	d := internal
	for _, known := range denials {
		if errors.Is(err, known.err) {
			d = known.Denial
			break
		}
	}
	var what malformed
	if d.Code == "invalid_request" && errors.As(err, &what) {
		d.Detail = "The credentials cannot be read: " + string(what) + "."
	}
	var lacks *apikey.AbilityError
	if d.Code == "insufficient_scope" && errors.As(err, &lacks) && lacks.Missing != nil {
		d.Missing = lacks.Missing
		d.Detail = "The API key lacks the ability " + lacks.Missing.String() + "."
	}
	return d
}

// challengesTo returns the WWW-Authenticate headers of a refusal. A refusal has such
// headers if other credentials could be accepted. A 401 always has at least one (RFC 9110
// §15.5.2).
func (g *Guard) challengesTo(r *http.Request, d Denial) (lines []string) {
	for _, c := range g.challenges {
		switch {
		case d.Status >= 500:
		case c.scheme == "Bearer":
			lines = append(lines, c.text+d.bearerError())
		case d.Status != http.StatusUnauthorized: // other schemes cannot say why a request is refused
		case c.scheme == "Basic" && fromScript(r.Header):
		default:
			lines = append(lines, c.text)
		}
	}
	if len(lines) == 0 && d.Status == http.StatusUnauthorized {
		lines = []string{"ApiKey realm=" + quoted(g.cfg.Realm)}
	}
	return lines
}

// fromScript reports whether the request comes from a browser. Browsers send Origin or, by
// the Fetch Metadata standard, Sec-Fetch-Mode. curl and wget send neither, and need the
// challenge for Basic: they may send a user name only after they have received one.
func fromScript(h http.Header) bool {
	return len(h["Origin"]) > 0 || len(h["Sec-Fetch-Mode"]) > 0
}

// bearerError returns the parameters that RFC 6750 §3 adds to the challenge. The RFC has
// only these three error codes. If none of them fits, as for a refused address, there is
// no error code.
func (d Denial) bearerError() (params string) {
	switch {
	case d.Code == "credentials_missing":
		return "" // RFC 6750 §3.1: no error code if the request has no credentials
	case d.Status == 400:
		params = `, error="invalid_request"`
	case d.Status == 401:
		params = `, error="invalid_token"`
	case d.Code == "insufficient_scope":
		params = `, error="insufficient_scope"`
	default:
		return ""
	}
	params += ", error_description=" + quoted(d.Detail)
	if d.Missing != nil {
		params += ", scope=" + quoted(d.Missing.String())
	}
	return params
}

// quoted returns s as a quoted-string (RFC 9110 §5.6.4). Realms come from configurations
// and abilities from programs, so s may have characters that a header cannot contain:
// they become '?'.
func quoted(s string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return `"` + escaper.Replace(clean) + `"`
}

var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// answer writes a refusal. The program's functions get a copy of the request, without
// credentials. The request itself is not changed: if a timeout has ended the verification,
// the handler that set the timeout may read the headers for its log while this refusal is
// written, and Go ends a program that reads and writes a map at the same time.
func (g *Guard) answer(w http.ResponseWriter, r *http.Request, err error) {
	r = r.WithContext(r.Context())
	r.Header = maps.Clone(r.Header)
	g.strip(r.Header)
	d := Denied(err)
	d.RequestID = g.requestID(r)
	if d.Status >= 500 && r.Context().Err() == nil { // a client that has disconnected is not a failure of the server
		g.log(d, err)
	}
	h := w.Header()
	h.Del("Content-Length") // an outer handler may have set these two for its own answer
	h.Del("Content-Type")
	h.Set("Cache-Control", "no-store")
	h.Del("WWW-Authenticate")
	for _, c := range g.challengesTo(r, d) {
		h.Add("WWW-Authenticate", c)
	}
	if d.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(d.RetryAfter/time.Second)))
	}
	body := &bodyWriter{w: w, status: d.Status, bare: r.Method == http.MethodHead}
	if g.cfg.Deny != nil {
		g.cfg.Deny(body, r, d)
	} else {
		d.write(body)
	}
	body.begin()
}

func (g *Guard) log(d Denial, err error) {
	args := []any{"request_id", d.RequestID, "status", d.Status, "code", d.Code, "error", err}
	var corrupt *apikey.CorruptError
	if errors.As(err, &corrupt) {
		args = append(args, "key", corrupt.Key)
	}
	g.cfg.Logger.Error("apikey: a request could not be verified", args...)
}

// write writes a problem of RFC 9457. Its type is about:blank, so its title is the text of
// the status. Programs read the code.
func (d Denial) write(w http.ResponseWriter) {
	problem := struct {
		Type      string `json:"type"`
		Title     string `json:"title"`
		Status    int    `json:"status"`
		Detail    string `json:"detail"`
		Code      string `json:"code"`
		Missing   string `json:"missing,omitempty"`
		RequestID string `json:"request_id"`
	}{"about:blank", http.StatusText(d.Status), d.Status, d.Detail, d.Code, "", d.RequestID}
	if d.Missing != nil {
		problem.Missing = d.Missing.String()
	}
	w.Header().Set("Content-Type", "application/problem+json")
	json.NewEncoder(w).Encode(problem) // an error means that the client has disconnected
}

// requestID returns an ID for the request.
func (g *Guard) requestID(r *http.Request) string {
	if g.cfg.RequestID != nil {
		if id := g.cfg.RequestID(r); id != "" {
			return id
		}
	}
	return requestid.Of(r.Header.Get("X-Request-ID"))
}

// bodyWriter is the ResponseWriter that Config.Deny gets. Deny can write a body and set its
// Content-Type, but cannot turn the refusal into another answer. bodyWriter has no Unwrap
// method for http.ResponseController and no optional interface, so Deny cannot reach the
// ResponseWriter inside.
type bodyWriter struct {
	w      http.ResponseWriter
	header http.Header // set by Deny; only Content-Type is used
	status int
	bare   bool // the answer to HEAD has no body
	begun  bool
}

func (b *bodyWriter) Header() http.Header {
	if b.header == nil {
		b.header = http.Header{}
	}
	return b.header
}

func (b *bodyWriter) WriteHeader(int) {}

func (b *bodyWriter) Write(p []byte) (int, error) {
	b.begin()
	if b.bare {
		return len(p), nil
	}
	return b.w.Write(p)
}

// begin writes the status and headers, once. answer calls it too, in case Deny wrote
// nothing.
func (b *bodyWriter) begin() {
	if b.begun {
		return
	}
	b.begun = true
	if ct := b.header.Get("Content-Type"); ct != "" {
		b.w.Header().Set("Content-Type", ct)
	}
	b.w.WriteHeader(b.status)
}
