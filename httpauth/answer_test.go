package httpauth_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/internal/base62"
)

// TestAnswers compares every refusal exactly: the status, all headers, the whole body.
func TestAnswers(t *testing.T) {
	const plain = `Bearer realm="acme"`
	challenge := func(code, detail string) string {
		return fmt.Sprintf(`Bearer realm="acme", error=%q, error_description=%q`, code, detail)
	}
	invalid := func(detail string) string { return challenge("invalid_token", detail) }
	const wrong = "The API key is not valid."

	type set = func(*env)
	type req = func(*apikey.IssueRequest)
	edit := func(f func(*apikey.StoreRecord)) set {
		return func(e *env) {
			e.store.onLookup(func(_ context.Context, r *apikey.StoreRecord) error { f(r); return nil })
		}
	}
	revoke := func(e *env, k apikey.KeyID) {
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k}))
	}
	suspend := func(e *env, k apikey.KeyID) {
		require.NoError(t, e.manager.Suspend(e.ctx, k))
	}
	hour := func(r *apikey.IssueRequest) { r.ExpiresAt = time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC) }
	networks := func(r *apikey.IssueRequest) { r.Networks = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} }
	origins := func(r *apikey.IssueRequest) { r.Origins = []string{"https://shop.example"} }
	publishable := func(r *apikey.IssueRequest) {
		r.Kind, r.Abilities = apikey.Publishable, []string{tokenise.String()}
	}
	test := func(r *apikey.IssueRequest) { r.Mode = apikey.Test }
	verifyOnly := func(r *apikey.IssueRequest) { r.Abilities = []string{"payment:verify"} }
	blocked := func(e *env) {
		e.settings.Standing = standing(func(string, apikey.Mode) error { return errors.New("invoice 17 is unpaid") })
	}
	undecided := func(e *env) {
		e.settings.Standing = standing(func(string, apikey.Mode) error { return apikey.ErrUnavailable })
	}
	busy := func(e *env) { e.settings.Hashers = []apikey.Hasher{busyHasher{e.settings.Hashers[0]}} }
	down := func(err error) set { return func(e *env) { e.store.fail(err) } }

	for _, c := range []struct {
		name      string
		program   []set                     // options of the program, before it starts
		key       req                       // options of the request that issues the key
		after     func(*env, apikey.KeyID)  // a change of the key after it was issued
		later     set                       // a change of the program after that
		present   func(token string) string // the Authorization header; nil: Bearer
		status    int
		code      string
		detail    string
		challenge string
		retry     string
		missing   string
		logged    bool
	}{
		{name: "nothing", present: nothing, status: 401, code: "credentials_missing", detail: "The request carries no API key.", challenge: plain},
		{name: "another scheme", present: scheme("Digest"), status: 401, code: "credentials_missing", detail: "The request carries no API key.", challenge: plain},
		{name: "malformed", present: scheme("Basic"), status: 400, code: "invalid_request", detail: "The credentials cannot be read: no base64 follows Basic.",
			challenge: challenge("invalid_request", "The credentials cannot be read: no base64 follows Basic.")},
		{name: "unknown", later: down(apikey.ErrNotFound), status: 401, code: "invalid_token", detail: wrong, challenge: invalid(wrong)},
		{name: "not a token", present: says("Bearer hunter2"), status: 401, code: "invalid_token", detail: wrong, challenge: invalid(wrong)},
		{name: "wrong checksum", present: typo, status: 401, code: "invalid_token", detail: wrong, challenge: invalid(wrong)},
		{name: "forged, stopped by the tag", present: forged, status: 401, code: "invalid_token", detail: wrong, challenge: invalid(wrong)},
		{name: "forged, stopped by the hash", program: []set{unsealed}, present: forged, status: 401, code: "invalid_token", detail: wrong, challenge: invalid(wrong)},
		{name: "revoked", after: revoke, status: 401, code: "key_revoked", detail: "The API key was revoked.", challenge: invalid("The API key was revoked.")},
		{name: "suspended", after: suspend, status: 401, code: "key_suspended", detail: "The API key is suspended.", challenge: invalid("The API key is suspended.")},
		{name: "expired", key: hour, later: func(e *env) { e.move(time.Hour) }, status: 401, code: "key_expired", detail: "The API key has expired.", challenge: invalid("The API key has expired.")},
		{name: "replaced", program: []set{unsealed}, later: edit(func(r *apikey.StoreRecord) { r.Credentials[0].Ended = true }), status: 401, code: "token_ended",
			detail: "This token of the API key has ended.", challenge: invalid("This token of the API key has ended.")},
		{name: "too early", program: []set{unsealed}, later: edit(func(r *apikey.StoreRecord) { r.Credentials[0].NotBefore = r.CreatedAt.Add(time.Hour) }), status: 401, code: "token_not_yet_valid",
			detail: "This token of the API key is not valid yet.", challenge: invalid("This token of the API key is not valid yet.")},
		{name: "kind", key: publishable, status: 403, code: "kind_not_allowed", detail: "This kind of API key is not accepted here.", challenge: plain},
		{name: "mode", key: test, status: 403, code: "mode_mismatch", detail: "The API key belongs to the other mode, live or test.", challenge: plain},
		{name: "standing", program: []set{blocked}, status: 403, code: "account_not_allowed", detail: "The account may not use the API in this mode.", challenge: plain},
		{name: "standing cannot say", program: []set{undecided}, status: 403, code: "account_not_allowed", detail: "The account may not use the API in this mode.", challenge: plain},
		{name: "address", key: networks, status: 403, code: "address_not_allowed", detail: "The API key may not be used from this address.", challenge: plain},
		{name: "origin", key: origins, status: 403, code: "origin_not_allowed", detail: "The API key may not be used from this origin.", challenge: plain},
		{name: "ability", key: verifyOnly, status: 403, code: "insufficient_scope", detail: "The API key lacks the ability payment:refund.", missing: "payment:refund",
			challenge: challenge("insufficient_scope", "The API key lacks the ability payment:refund.") + `, scope="payment:refund"`},
		{name: "busy", program: []set{unsealed, busy}, status: 503, code: "busy", detail: "Try again shortly.", retry: "1", logged: true},
		{name: "store down", later: down(errors.New("connection refused")), status: 503, code: "unavailable", detail: "API keys cannot be verified at the moment.", retry: "5", logged: true},
		{name: "closed", later: func(e *env) { e.verifier.Close(e.ctx) }, status: 503, code: "unavailable", detail: "API keys cannot be verified at the moment.", retry: "5", logged: true},
		{name: "damaged row", later: edit(func(r *apikey.StoreRecord) { r.Account = "acc_2" }), status: 500, code: "internal_error", detail: "The request could not be processed.", logged: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t, c.program...)
			issued := e.issue(func(r *apikey.IssueRequest) {
				if c.key != nil {
					c.key(r)
				}
			})
			if c.after != nil {
				c.after(e, issued.Key.ID)
			}
			if c.later != nil {
				c.later(e)
			}
			if c.present == nil {
				c.present = scheme("Bearer")
			}
			guard := e.guard(httpauth.Config{Realm: "acme"})
			bare := request(http.MethodHead, "Authorization", c.present(issued.Token.Reveal()))
			require.Empty(t, e.serve(guard.Require(refund)(http.NotFoundHandler()), bare).body, "no server between that drops it")
			for _, method := range []string{http.MethodPost, http.MethodHead} {
				r := request(method, "X-Request-ID", "req-1")
				if v := c.present(issued.Token.Reveal()); v != "" {
					r.Header.Set("Authorization", v)
				}
				h, ran := e.ok()
				got := e.send(guard.Require(refund)(h), r)
				require.Zero(t, *ran)
				require.Equal(t, c.status, got.StatusCode)

				want := http.Header{"Cache-Control": {"no-store"}, "Content-Type": {"application/problem+json"}}
				if c.challenge != "" {
					want.Set("WWW-Authenticate", c.challenge)
				}
				if c.status == 401 { // one header for each extractor
					want.Add("WWW-Authenticate", `Basic realm="acme", charset="UTF-8"`)
				}
				if c.retry != "" {
					want.Set("Retry-After", c.retry)
				}
				got.Header.Del("Date")
				got.Header.Del("Content-Length")
				require.Equal(t, want, got.Header)

				body := fmt.Sprintf(`{"type":"about:blank","title":%q,"status":%d,"detail":%q,"code":%q,`, http.StatusText(c.status), c.status, c.detail, c.code)
				if c.missing != "" {
					body += fmt.Sprintf(`"missing":%q,`, c.missing)
				}
				if body += `"request_id":"req-1"}` + "\n"; method == http.MethodHead {
					body = ""
				}
				require.Equal(t, body, got.body)
			}
			require.Equal(t, c.logged, strings.Contains(e.logs.String(), "request_id=req-1"), "%s", e.logs)
		})
	}
}

func nothing(string) string { return "" }

func says(s string) func(string) string { return func(string) string { return s } }

func scheme(s string) func(string) string {
	return func(token string) string { return s + " " + token }
}

// typo changes the last character of the secret and keeps the checksum.
func typo(token string) string {
	i := len(token) - 19
	c := "a"
	if token[i:i+1] == c {
		c = "b"
	}
	return "Bearer " + token[:i] + c + token[i+1:]
}

// forged changes the secret and adds the right checksum, which anybody can compute.
func forged(token string) string {
	text := typo(token)
	body := strings.TrimPrefix(text, "Bearer ")
	body = body[:len(body)-6]
	sum := crc32.ChecksumIEEE([]byte(body))
	token = string(base62.Append([]byte(body), uint64(sum), 6))
	if _, err := apikey.ParseToken(token); err != nil {
		panic("a forged token has to parse")
	}
	return "Bearer " + token
}

type standing func(string, apikey.Mode) error

func (s standing) Allowed(account string, m apikey.Mode) error { return s(account, m) }

type busyHasher struct{ apikey.Hasher }

func (busyHasher) Verify(context.Context, string, []byte) (bool, error) {
	return false, apikey.ErrBusy
}

// The log line about a damaged record has the key's ID; the answer does not.
func TestDamagedRow(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	e.store.onLookup(func(_ context.Context, r *apikey.StoreRecord) error { r.Abilities = []string{"payment:*"}; return nil })
	h, ran := e.ok()
	got := e.send(e.guard(httpauth.Config{}).Require()(h), get("Authorization", bearer(issued), "X-Request-ID", "req-7"))
	require.Equal(t, 500, got.StatusCode)
	require.Zero(t, *ran)
	require.NotContains(t, got.body, issued.Key.ID.String())
	require.NotContains(t, got.body, "MAC")
	require.Regexp(t, `request_id=req-7 .*key=`+issued.Key.ID.String(), e.logs.String())
}

func TestRequestID(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, _ := e.ok()
	id := func(c httpauth.Config, header string) string {
		got := e.serve(e.guard(c).Require()(h), get("Authorization", "Bearer wrong", "X-Request-ID", header))
		_, rest, _ := strings.Cut(got.body, `"request_id":"`)
		rest, _, _ = strings.Cut(rest, `"`)
		return rest
	}
	random := func(id string) bool { return len(id) == 26 }

	require.Equal(t, "0198c3f0-1111-7000-8000-000000000001", id(httpauth.Config{}, "0198c3f0-1111-7000-8000-000000000001"))
	require.Equal(t, "Root=1-67891233-abcdef012345678912345678", id(httpauth.Config{}, "Root=1-67891233-abcdef012345678912345678"))
	for _, bad := range []string{"", "a b", "<script>", "a\"b", "a\nb", "ü", strings.Repeat("a", 65), issued.Token.Reveal()} {
		require.True(t, random(id(httpauth.Config{}, bad)), "%q", bad)
	}
	require.NotEqual(t, id(httpauth.Config{}, ""), id(httpauth.Config{}, ""))

	own := httpauth.Config{RequestID: func(r *http.Request) string {
		require.Empty(t, r.Header.Get("Authorization"))
		return r.Header.Get("X-Request-ID") + "!"
	}}
	require.Equal(t, "abc!", id(own, "abc"))
	require.True(t, random(id(httpauth.Config{RequestID: func(*http.Request) string { return "" }}, "")))
}

// ownForm is an ability of the program's own type. Its String may return any text.
type ownForm string

func (ownForm) Allows(apikey.Ability) bool { return false }
func (f ownForm) String() string           { return string(f) }

// A realm and an ability may contain any characters; a header may not.
func TestQuoting(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, _ := e.ok()
	for realm, want := range map[string]string{
		"":              `realm="api"`,
		"acme payments": `realm="acme payments"`,
		`a"b\c`:         `realm="a\"b\\c"`,
		"a\r\nX: y\x00": `realm="a??X: y?"`,
		"Zürich":        `realm="Z?rich"`,
	} {
		got := e.send(e.guard(httpauth.Config{Realm: realm}).Require()(h), get())
		require.Equal(t, []string{"Bearer " + want, "Basic " + want + `, charset="UTF-8"`}, got.Header["Www-Authenticate"])
		require.Empty(t, got.Header["X"])
	}
	for _, c := range []struct{ ability, scope, missing string }{
		{"payment:void", `scope="payment:void"`, `"missing":"payment:void"`},
		{`odd "thing"\`, `scope="odd \"thing\"\\"`, `"missing":"odd \"thing\"\\"`},
		{"a\r\nX: y", `scope="a??X: y"`, `"missing":"a\r\nX: y"`},
		{"zahlung:prüfen", `scope="zahlung:pr?fen"`, `"missing":"zahlung:prüfen"`},
	} {
		got := e.send(e.guard(httpauth.Config{}).Require(ownForm(c.ability))(h), get("Authorization", bearer(issued)))
		require.Equal(t, 403, got.StatusCode)
		require.True(t, strings.HasSuffix(got.Header.Get("WWW-Authenticate"), ", "+c.scope), got.Header)
		require.Contains(t, got.body, c.missing)
		require.Empty(t, got.Header["X"])
	}
}

// The answer names the first missing ability, and none of the key's abilities.
func TestMissingAbility(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	h, _ := e.ok()
	got := e.send(e.guard(httpauth.Config{}).Require(refund, apikey.Scope("payment:verify"), apikey.Scope("payment:void"))(h), get("Authorization", bearer(issued)))
	require.Contains(t, got.Header.Get("WWW-Authenticate"), `scope="payment:verify"`)
	require.NotContains(t, got.body+got.Header.Get("WWW-Authenticate"), refund.String())
}

// Deny can write only the body and its Content-Type, whatever it tries.
func TestDeny(t *testing.T) {
	e := newEnv(t)
	issued := e.issue()
	body := func(w http.ResponseWriter, _ *http.Request, d httpauth.Denial) {
		fmt.Fprintf(w, "%d %s %s", d.Status, d.Code, d.RequestID)
	}
	for _, c := range []struct {
		name    string
		deny    func(http.ResponseWriter, *http.Request, httpauth.Denial)
		content string
		body    string
	}{
		{"body", body, "text/plain; charset=utf-8", "401 invalid_token req-1"},
		{"status", func(w http.ResponseWriter, r *http.Request, d httpauth.Denial) {
			w.WriteHeader(200)
			body(w, r, d)
			w.WriteHeader(200)
		}, "text/plain; charset=utf-8", "401 invalid_token req-1"},
		{"headers", func(w http.ResponseWriter, r *http.Request, d httpauth.Denial) {
			w.Header().Set("Content-Type", "application/vnd.acme+json")
			w.Header().Set("Cache-Control", "public")
			w.Header().Del("WWW-Authenticate")
			w.Header().Set("Set-Cookie", "a=b")
			w.Header().Set("Content-Length", "1")
			body(w, r, d)
			w.Header().Set("Trailer", "X")
		}, "application/vnd.acme+json", "401 invalid_token req-1"},
		{"nothing", func(http.ResponseWriter, *http.Request, httpauth.Denial) {}, "", ""},
		{"status alone", func(w http.ResponseWriter, _ *http.Request, _ httpauth.Denial) { w.WriteHeader(204) }, "", ""},
		{"redirect", func(w http.ResponseWriter, r *http.Request, _ httpauth.Denial) {
			http.Redirect(w, r, "/", http.StatusFound)
		},
			"text/html; charset=utf-8", "<a href=\"/\">Found</a>.\n\n"},
		{"around", func(w http.ResponseWriter, r *http.Request, d httpauth.Denial) {
			_, _, err := http.NewResponseController(w).Hijack()
			require.ErrorIs(t, err, http.ErrNotSupported)
			_, flushes := w.(http.Flusher)
			require.False(t, flushes)
			require.Empty(t, r.Header.Values("Authorization"))
			io.Copy(w, strings.NewReader("around"))
		}, "text/plain; charset=utf-8", "around"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, ran := e.ok()
			outer := func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", "4") // for the answer that the handler would have written
					w.Header().Set("Content-Type", "application/pdf")
					w.Header().Set("Vary", "Accept")
					next.ServeHTTP(w, r)
				})
			}
			guarded := outer(e.guard(httpauth.Config{Deny: c.deny}).Require()(h))
			got := e.send(guarded, get("Authorization", "Bearer "+issued.Token.Reveal()[1:], "X-Request-ID", "req-1"))
			require.Zero(t, *ran)
			require.Equal(t, 401, got.StatusCode)
			require.Equal(t, c.body, got.body)
			got.Header.Del("Date")
			got.Header.Del("Content-Length")
			want := http.Header{
				"Cache-Control": {"no-store"}, "Vary": {"Accept"},
				"Www-Authenticate": {
					`Bearer realm="api", error="invalid_token", error_description="The API key is not valid."`,
					`Basic realm="api", charset="UTF-8"`,
				},
			}
			if c.content != "" {
				want.Set("Content-Type", c.content)
			}
			require.Equal(t, want, got.Header)
		})
	}
}

// If Deny panics, the answer is that of the server's recovery, and never a 200.
func TestDenyPanics(t *testing.T) {
	e := newEnv(t)
	h, ran := e.ok()
	guarded := e.guard(httpauth.Config{Deny: func(http.ResponseWriter, *http.Request, httpauth.Denial) { panic("deny") }}).Require()(h)
	recovering := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			require.Equal(t, "deny", recover())
			w.WriteHeader(500)
		}()
		guarded.ServeHTTP(w, r)
	})
	require.Equal(t, 500, e.send(recovering, get()).StatusCode)
	require.Zero(t, *ran)
}

// For an error that it does not know, Denied returns a 500. If a newer version of package
// apikey adds a reason, Denied uses the status of its category.
func TestDenied(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{nil, 500, "internal_error"},
		{errors.New("surprise"), 500, "internal_error"},
		{apikey.ErrCorrupt, 500, "internal_error"},
		{&apikey.CorruptError{}, 500, "internal_error"},
		{context.Canceled, 503, "unavailable"},
		{context.DeadlineExceeded, 503, "unavailable"},
		{apikey.ErrClosed, 503, "unavailable"},
		{fmt.Errorf("check: %w", apikey.ErrRevoked), 401, "key_revoked"},
		{fmt.Errorf("new: %w", apikey.ErrUnauthenticated), 401, "invalid_token"},
		{fmt.Errorf("new: %w", apikey.ErrDenied), 403, "denied"},
		{httpauth.ErrMalformed, 400, "invalid_request"},
		{httpauth.ErrNoCredentials, 401, "credentials_missing"},
		{apikey.ErrAbility, 403, "insufficient_scope"},
	} {
		d := httpauth.Denied(c.err)
		require.Equal(t, c.status, d.Status, "%v", c.err)
		require.Equal(t, c.code, d.Code, "%v", c.err)
		require.NotEmpty(t, d.Detail)
		require.Empty(t, d.RequestID)
		require.Nil(t, d.Missing)
		require.Equal(t, d.Status == 503, d.RetryAfter > 0)
	}
	require.Equal(t, refund, httpauth.Denied(&apikey.AbilityError{Missing: refund}).Missing)
}
