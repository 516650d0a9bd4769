package httpauth

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
)

// Denial is a refusal as an HTTP answer. It holds no secret.
type Denial struct {
	// Status is 400, 401, 403, 500 or 503.
	Status int
	// Code is stable and for programs; the package documentation lists all.
	Code string
	// Detail is a sentence for people. It may change between versions.
	Detail string
	// RequestID is in the log line too. Empty from [Denied], which has no request.
	RequestID string
	// Missing is the first ability that the key lacks; nil unless Code is
	// insufficient_scope.
	Missing apikey.Ability
	// RetryAfter is when to try again, in whole seconds; zero unless Status is
	// 503.
	RetryAfter time.Duration
}

// denials is in the order in which errors are matched: what is about the
// caller comes before what is about us, because a Standing that cannot decide
// is a refusal, whatever its error wraps. The two categories at the end are for
// reasons that this package does not know yet.
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
// write their own answers. An error that it does not know, and nil, is a 500: no error
// turns into a permission.
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
	if d.Code == "insufficient_scope" && errors.As(err, &lacks) {
		d.Missing = lacks.Missing
		d.Detail = "The API key lacks the ability " + lacks.Missing.String() + "."
	}
	return d
}

// challengesTo are the WWW-Authenticate headers of a refusal: what other credentials
// could change has some, and a 401 always has one (RFC 9110 §15.5.2).
func (g *Guard) challengesTo(r *http.Request, d Denial) (lines []string) {
	for _, c := range g.challenges {
		switch {
		case d.Status >= 500:
		case c.scheme == "Bearer":
			lines = append(lines, c.text+d.bearerError())
		case d.Status != http.StatusUnauthorized: // other schemes have no words for why
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

// fromScript tells a browser from a program. Browsers send Origin or, by the Fetch
// metadata standard, Sec-Fetch-Mode; curl and wget, which want to hear Basic before
// they send a user name, send neither.
func fromScript(h http.Header) bool {
	return len(h["Origin"]) > 0 || len(h["Sec-Fetch-Mode"]) > 0
}

// bearerError is what RFC 6750 §3 adds to the challenge. Its three error codes are
// all that the RFC has; where none fits, as for an address, there is none.
func (d Denial) bearerError() (params string) {
	switch {
	case d.Code == "credentials_missing":
		return "" // RFC 6750 §3.1: no error code for who has presented nothing
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

// quoted writes a quoted-string (RFC 9110 §5.6.4). What a header cannot hold
// becomes '?': realms come from configurations and abilities from programs.
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

// answer writes a refusal. The program's functions get a copy of the request
// that has no credentials. The original is not touched: a verification that a
// timeout has ended is refused at the very moment at which whoever set the
// timeout may read the headers for their log, and Go ends a program that reads
// and writes a map at once.
func (g *Guard) answer(w http.ResponseWriter, r *http.Request, err error) {
	r = r.WithContext(r.Context())
	r.Header = maps.Clone(r.Header)
	g.strip(r.Header)
	d := Denied(err)
	d.RequestID = g.requestID(r)
	if d.Status >= 500 && r.Context().Err() == nil { // who has hung up is no trouble of ours
		g.log(d, err)
	}
	h := w.Header()
	h.Del("Content-Length") // of the answer that somebody had in mind before us
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

// write writes the problem of RFC 9457. Its type stays about:blank, so its
// title is that of the status; the code is what programs read.
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
	json.NewEncoder(w).Encode(problem) // who has hung up reads no error
}

// requestID names the request. From a header it is taken only if it cannot
// upset a log, and is shorter than any token: a client that sends its key
// there does not find it in our log and answer.
func (g *Guard) requestID(r *http.Request) string {
	if g.cfg.RequestID != nil {
		if id := g.cfg.RequestID(r); id != "" {
			return id
		}
	}
	id := r.Header.Get("X-Request-ID")
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.:/+=", c)
	}
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return !plain(c) }) {
		return rand.Text()
	}
	return id
}

// bodyWriter is the ResponseWriter that Config.Deny gets: it writes a body and
// names its type, and cannot turn a refusal into anything else. It is not
// unwrapped by http.ResponseController and has no optional interface, so there
// is no way around it.
type bodyWriter struct {
	w      http.ResponseWriter
	header http.Header // what Deny sets, of which only Content-Type counts
	status int
	bare   bool // an answer to HEAD
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

// begin writes status and headers, once, also for a Deny that wrote nothing.
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
