package adminapi_test

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
)

// operation is one of the description, by its operationId.
type operation struct {
	id string
	// valid makes what the request needs, and returns a request that is done.
	valid func(*world) request
	// key: the path names a key. body: there is a body. version: the header If-Match is
	// required. guarded: an approval may be needed. See ways.
	key, body, version, guarded bool
}

const nobody = "01890a5d-ac96-774b-bcce-b302099a8057"

// made makes a live key that can be revealed.
func (w *world) made(change ...func(*apikey.IssueRequest)) apikey.Issued {
	req := apikey.IssueRequest{Mode: apikey.Live, Name: "Shop", Abilities: []string{"payment:charge"}, Recoverable: true,
		Metadata: map[string]string{"shop": "7"}, RotateMonths: 3, ExpiresAt: w.program.Clock.Now().AddDate(1, 0, 0)}
	for _, c := range change {
		c(&req)
	}
	issued := must(w.program.Manager.Issue(w.as("anna"), req))
	w.key, w.credential = issued.Key.ID.String(), issued.Key.Credential.String()
	return issued
}

func (w *world) madeKey() apikey.KeyID { return w.made().Key.ID }

// posting is a POST to the key.
func posting(path string, members map[string]any) func(*world) request {
	return func(w *world) request {
		w.made()
		if members == nil {
			members = map[string]any{}
		}
		return request{method: "POST", path: "/keys/" + w.key + path, body: members}
	}
}

func plain(method, path string, members map[string]any) func(*world) request {
	return func(*world) request {
		if members == nil && method != "GET" {
			members = map[string]any{}
		}
		q := request{method: method, path: path}
		if members != nil {
			q.body = members
		}
		return q
	}
}

// enrolled sets an app up for the person. The clock goes on, so that the next code is
// another one.
func (w *world) enrolled(person string) string {
	if w.uri != "" {
		return w.uri
	}
	uri := w.enrolling(person)
	noError(w.program.Manager.ConfirmEnrollment(w.as(person), "totp", w.program.Code(uri)))
	w.program.Clock.Move(time.Minute)
	return uri
}

func (w *world) enrolling(person string) string {
	about := apikey.EnrollRequest{Factor: "totp"}
	challenge := must(w.program.Manager.Challenge(w.as(person), "password", about))
	about.Grant = must(w.program.Manager.Confirm(w.as(person), challenge.ID, password))
	return must(w.program.Manager.Enroll(w.as(person), about)).URI()
}

func noError(err error) {
	if err != nil {
		panic(err)
	}
}

var operations = []operation{
	{id: "getDescription", valid: plain("GET", "/openapi.yaml", nil)},
	{id: "getRules", valid: plain("GET", "/rules", nil)},
	{id: "listKeys", valid: func(w *world) request {
		w.made()
		w.made(func(r *apikey.IssueRequest) { r.Kind, r.Recoverable, r.Abilities = apikey.Publishable, false, nil })
		return request{method: "GET", path: "/keys?mode=live&state=active&name_contains=Sh&never_used=true&limit=1&not_expired_at=2000-01-01T00:00:00Z"}
	}},
	{id: "createKey", body: true, guarded: true, valid: func(w *world) request {
		return request{method: "POST", path: "/keys", header: map[string]string{"Idempotency-Key": "k1"}, body: map[string]any{
			"mode": "live", "kind": "secret", "name": "Shop", "abilities": []string{"payment:charge", "balance=read"}, "recoverable": true,
			"expires_at": w.program.Clock.Now().AddDate(1, 0, 0), "networks": []string{"192.0.2.1", "2001:db8::/32"}, "origins": []string{"https://shop.example"},
			"metadata": map[string]string{"shop": "7"}, "rotate_months": 6, "disabled": false,
		}}
	}},
	{id: "getKey", key: true, valid: func(w *world) request {
		w.made()
		return request{method: "GET", path: "/keys/" + w.key}
	}},
	{id: "updateKey", key: true, body: true, version: true, guarded: true, valid: func(w *world) request {
		w.made()
		return request{method: "PATCH", path: "/keys/" + w.key, header: map[string]string{"If-Match": `"1"`}, body: map[string]any{
			"name": "Shop 2", "abilities": []string{"payment:charge", "payment:refund"}, "networks": []string{"192.0.2.0/24"}, "origins": nil,
			"expires_at": nil, "metadata": nil, "rotate_months": nil, "disabled": false,
		}}
	}},
	{id: "suspendKey", key: true, body: true, valid: posting("/suspend", nil)},
	{id: "resumeKey", key: true, body: true, guarded: true, valid: func(w *world) request {
		issued := w.made(func(r *apikey.IssueRequest) { r.Disabled = true })
		return request{method: "POST", path: "/keys/" + issued.Key.ID.String() + "/resume", body: map[string]any{}, header: map[string]string{"If-Match": `W/"1"`}}
	}},
	{id: "revokeKey", key: true, body: true, guarded: true, valid: posting("/revoke", map[string]any{"reason": "unused"})},
	{id: "rotateKey", key: true, body: true, version: true, guarded: true, valid: func(w *world) request {
		w.made()
		return request{method: "POST", path: "/keys/" + w.key + "/rotate", header: map[string]string{"If-Match": `"1"`}, body: map[string]any{
			"at": w.program.Clock.Now().Add(48 * time.Hour), "overlap_seconds": 3600, "replace": false}}
	}},
	{id: "cancelRotation", key: true, body: true, valid: func(w *world) request {
		id := w.madeKey()
		must(w.program.Manager.Rotate(w.as("anna"), apikey.RotateRequest{Key: id, At: w.program.Clock.Now().Add(time.Hour)}))
		return request{method: "DELETE", path: "/keys/" + w.key + "/rotation"}
	}},
	{id: "retireToken", key: true, body: true, valid: func(w *world) request {
		id := w.madeKey()
		must(w.program.Manager.Rotate(w.as("anna"), apikey.RotateRequest{Key: id, Overlap: time.Hour}))
		return request{method: "POST", path: "/keys/" + w.key + "/credentials/" + w.credential + "/retire", body: map[string]any{}}
	}},
	{id: "revealToken", key: true, body: true, guarded: true, valid: func(w *world) request {
		w.made()
		return request{method: "POST", path: "/keys/" + w.key + "/reveal", body: map[string]any{"credential": w.credential}}
	}},
	{id: "provision", body: true, guarded: true, valid: plain("POST", "/provision", map[string]any{"name": "Checkout", "abilities": []string{"card:tokenize"}})},
	{id: "revokeKeys", body: true, valid: func(w *world) request {
		w.made()
		return request{method: "POST", path: "/keys/revoke", body: map[string]any{"ids": []string{w.key, nobody}, "reason": "unused"}}
	}},
	{id: "revokeAllKeys", body: true, valid: func(w *world) request {
		w.made()
		w.made()
		return request{method: "POST", path: "/keys/revoke-all", body: map[string]any{"mode": "live", "kind": "secret", "never_used": true, "reason": "unused", "limit": 1}}
	}},
	{id: "listEvents", valid: func(w *world) request {
		w.made()
		w.made()
		return request{method: "GET", path: "/events?mode=live&actions=key.issue,key.rotate&actor=anna&since=2020-01-01T00:00:00Z&limit=1"}
	}},
	{id: "listKeyEvents", key: true, valid: func(w *world) request {
		w.made()
		return request{method: "GET", path: "/keys/" + w.key + "/events?before=2200-01-01T00:00:00%2B07:00"}
	}},
	{id: "verifyChain", key: true, body: true, valid: posting("/chain", nil)},
	{id: "listFactors", valid: func(w *world) request {
		w.enrolled("anna")
		return request{method: "GET", path: "/factors"}
	}},
	{id: "enrollFactor", body: true, guarded: true, valid: plain("POST", "/factors/totp/enroll", nil)},
	{id: "confirmFactor", body: true, valid: func(w *world) request {
		w.uri = w.enrolling("anna")
		return request{method: "POST", path: "/factors/totp/confirm", body: map[string]any{"answer": w.program.Code(w.uri)}}
	}},
	{id: "disableFactor", body: true, guarded: true, valid: func(w *world) request {
		w.uri = w.enrolled("anna")
		w.factor = "totp"
		return request{method: "POST", path: "/factors/totp/disable", body: map[string]any{}}
	}},
	{id: "liftLock", body: true, guarded: true, valid: plain("POST", "/actors/ben/lift-lock", nil)},
	{id: "allowEnrollment", body: true, guarded: true, valid: plain("POST", "/actors/ben/allow-enrollment", map[string]any{"factor": "totp"})},
	{id: "disableFactorOfActor", body: true, guarded: true, valid: func(w *world) request {
		w.enrolled("ben")
		return request{method: "POST", path: "/actors/ben/disable", body: map[string]any{"factor": "totp"}}
	}},
}

// way takes the valid request of an operation to one outcome. It is tried with every
// operation that it is for: what comes is in the description, whatever it is.
type way struct {
	name string
	only func(operation) bool                          // nil: every operation
	conf func(*apikey.Settings, *apikey.ManagerConfig) // nil: as it is
	try  func(w *world, q request) reply
}

func named(ids ...string) func(operation) bool {
	return func(o operation) bool {
		for _, id := range ids {
			if o.id == id {
				return true
			}
		}
		return false
	}
}

func onKey(o operation) bool          { return o.key }
func onKeyThatWorks(o operation) bool { return o.key && o.id != "resumeKey" }
func withBody(o operation) bool       { return o.body }
func isGuarded(o operation) bool      { return o.guarded }

// approval returns the request with an approval.
func (q request) approval(members map[string]any) request {
	return q.with(map[string]any{"approval": members})
}

func keyOf(w *world) apikey.KeyID { return must(apikey.ParseKeyID(w.key)) }

var ways = []way{
	{name: "as it is", try: func(w *world, q request) reply { return w.send(q) }},
	{name: "with the headers of a page", try: func(w *world, q request) reply {
		rules := w.send(request{method: "GET", path: "/rules"})
		tag := rules.body["actor"].(map[string]any)["tag"].(string)
		q = q.sending("X-Request-ID", "page-1")
		if q.path != "/openapi.yaml" {
			q = q.sending("Apikey-Actor", tag)
		}
		a := w.send(q)
		if a.status == 403 {
			a = w.approving(q, w.answer())
		}
		if a.header.Get("X-Request-Id") != "page-1" {
			w.t.Errorf("X-Request-Id is %q", a.header.Get("X-Request-Id"))
		}
		return a
	}},
	{name: "each filter", only: named("listKeys"), try: func(w *world, q request) reply {
		for _, filter := range []string{
			"unused_since=2026-01-01T00:00:00Z", "unused_for=60", "expiring_before=2099-01-01T00:00:00Z", "expiring_within=60", "due_before=2099-01-01T00:00:00Z",
			"due_within=60", "usable=true", "expired=true", "kind=publishable", "limit=1000",
		} {
			if a := w.send(request{method: "GET", path: "/keys?" + filter}); a.status != 200 {
				w.t.Errorf("%s: %s", filter, a.text)
			}
		}
		return w.send(q)
	}},
	{name: "a limit out of its range", only: named("listKeys", "listEvents"), try: func(w *world, q request) reply {
		q.path, q.wrong = strings.ReplaceAll(q.path, "limit=1", "limit=5000"), true
		return w.send(q)
	}},
	{name: "somebody else has to help", only: named("revokeKey"), conf: func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		c.Factors = map[string]apikey.Factor{"totp": c.Factors["totp"]}
		c.StepUp = func(action apikey.Action, _ apikey.Mode) []string {
			if action == apikey.ActionRevoke {
				return []string{"totp"}
			}
			return nil
		}
	}, try: func(w *world, q request) reply { return w.send(q) }},
	{name: "the next page", only: named("listKeys", "listEvents", "listKeyEvents"), try: func(w *world, q request) reply {
		w.send(request{method: "POST", path: "/keys/" + w.key + "/suspend"})
		if !strings.Contains(q.path, "limit") {
			q.path += "&limit=1&mode=live&since=2000-01-01T00:00:00Z&actor=anna&actions=key.issue,key.suspend"
		}
		if q.path = strings.ReplaceAll(q.path, "state=active&", ""); strings.HasPrefix(q.path, "/events") {
			q.path += "&before=2099-01-01T00:00:00Z"
		}
		first := w.send(q)
		next, _ := first.body["next"].(string)
		if next == "" {
			w.t.Errorf("there is no next page: %s", first.text)
		}
		q.path += "&cursor=" + next
		return w.send(q)
	}},
	{name: "all pages", only: named("revokeAllKeys"), try: func(w *world, _ request) reply {
		q := request{method: "POST", path: "/keys/revoke-all", body: map[string]any{"all": true, "limit": 1}}
		first := w.send(q)
		w.send(q.with(map[string]any{"cursor": first.body["next"]}))
		return w.send(request{method: "POST", path: "/keys/revoke-all", body: map[string]any{"unused_since": w.program.Clock.Now()}})
	}},
	{name: "used, and revoked", only: named("getKey"), try: func(w *world, q request) reply {
		w.store.used.Store(true)
		noError(w.program.Manager.Revoke(w.as("anna"), apikey.RevokeRequest{Key: keyOf(w), Reason: "unused"}))
		return w.send(q)
	}},
	{name: "done by everybody", only: named("listKeyEvents"), try: func(w *world, q request) reply {
		staff := apikey.Operator("staff")
		staff.Addr, staff.UserAgent, staff.RequestID = "192.0.2.1", "curl", "r1"
		noError(w.program.Manager.Revoke(apikey.WithActor(w.t.Context(), staff), apikey.RevokeRequest{Key: keyOf(w), Reason: "compromised"}))
		return w.send(q)
	}},
	{name: "nobody is signed in", try: func(w *world, q request) reply { return w.send(q.by("-")) }},
	{name: "another site", try: func(w *world, q request) reply {
		return w.send(q.sending("Sec-Fetch-Site", "cross-site").sending("Origin", "https://evil.example"))
	}},
	{name: "an operator", try: func(w *world, q request) reply { return w.send(q.by("operator")) }},
	{name: "another person", try: func(w *world, q request) reply { return w.send(q.sending("Apikey-Actor", "AAAAAAAAAAAAAAAA")) }},
	{name: "the sessions are away", try: func(w *world, q request) reply { return w.send(q.by("away")) }},
	{name: "a role without rights", try: func(w *world, q request) reply { return w.send(q.by("acc_1/anna/viewer")) }},
	{name: "a header that means nothing", try: func(w *world, q request) reply {
		q.wrong = true
		return w.send(q.sending("Idempotency-Key", ""))
	}},
	{name: "an unknown member", only: withBody, try: func(w *world, q request) reply {
		q.wrong = true
		return w.send(q.with(map[string]any{"colour": "red"}))
	}},
	{name: "an unknown name in the query", try: func(w *world, q request) reply {
		q.path += map[bool]string{true: "&", false: "?"}[strings.Contains(q.path, "?")] + "colour=red"
		return w.send(q)
	}},
	{name: "each member is wrong", only: withBody, try: func(w *world, q request) reply {
		q.wrong = true
		var a reply
		for _, members := range []map[string]any{
			{"overlap_seconds": 365 * 24 * 3600}, {"overlap_seconds": -1}, {"at": "2020-01-01T00:00:00Z"}, {"at": "9999-12-31T23:59:59Z"}, {"at": "soon"},
			{"name": "\u202e"}, {"name": strings.Repeat("a", 300)}, {"abilities": []string{"fly"}}, {"expires_at": "2020-01-01T00:00:00Z"}, {"networks": []string{"x"}},
			{"origins": []string{"x"}}, {"metadata": map[string]string{"other": "1"}}, {"metadata": map[string]string{"shop": strings.Repeat("a", 600)}},
			{"rotate_months": 1000}, {"recoverable": 1}, {"disabled": 1}, {"mode": "x"}, {"kind": "x"}, {"reason": strings.Repeat("a", 300)}, {"ids": []string{}},
			{"ids": []string{"x"}}, {"all": true, "mode": "live"}, {"all": false}, {"unused_since": "2200-01-01T00:00:00Z"}, {"cursor": "x"}, {"limit": 5000},
			{"credential": "x"}, {"answer": ""}, {"factor": ""}, {"factor": "x"}, {"approval": 1}, {"approval": map[string]any{"factor": "x"}},
			{"approval": map[string]any{"resend": true}}, {"approval": map[string]any{"answer": "x"}}, {"approval": map[string]any{"challenge": "x"}},
		} {
			a = w.send(q.with(members))
		}
		return a
	}},
	{name: "each name of the query is wrong", only: named("listKeys", "listEvents", "listKeyEvents"), try: func(w *world, q request) reply {
		path, _, _ := strings.Cut(q.path, "?")
		var a reply
		for _, text := range []string{
			"mode=x", "kind=x", "state=x", "name_contains=", "never_used=yes", "unused_since=x", "unused_since=2200-01-01T00:00:00Z", "unused_for=-1", "unused_for=0",
			"unused_for=3000000000", "expiring_before=x", "expiring_within=x", "not_expired_at=x", "due_before=x", "due_within=x", "usable=x", "expired=x", "cursor=x",
			"limit=5000", "limit=0", "limit=-1", "usable=true&expired=true", "unused_for=60&unused_since=2026-01-01T00:00:00Z", "actions=fly", "actions=", "actor=", "since=x", "before=x",
			"since=2026-01-01T00:00:00Z&before=2025-01-01T00:00:00Z", "mode=live&mode=test", "%zz",
		} {
			a = w.send(request{method: "GET", path: path + "?" + text, wrong: true})
		}
		return a
	}},
	{name: "too large", only: withBody, try: func(w *world, q request) reply {
		q.wrong, q.body = true, `{"a":"`+strings.Repeat("a", 64<<10)+`"}`
		return w.send(q)
	}},
	{name: "no JSON", only: withBody, try: func(w *world, q request) reply {
		if q.body == nil {
			q.body = map[string]any{}
		}
		q.wrong = true
		return w.send(q.sending("Content-Type", "text/plain"))
	}},
	{name: "no version", try: func(w *world, q request) reply {
		q.wrong = true
		return w.send(q.sending("If-Match", "-"))
	}},
	{name: "a version that passed", try: func(w *world, q request) reply {
		if q.method != "GET" && q.header["If-Match"] == "" { // refused where it does nothing
			q.wrong = true
		}
		return w.send(q.sending("If-Match", `"99"`))
	}},
	{name: "no such key", only: onKey, try: func(w *world, q request) reply {
		q.path = strings.ReplaceAll(q.path, w.key, nobody)
		return w.send(q)
	}},
	{name: "what is no ID", only: onKey, try: func(w *world, q request) reply {
		q.path, q.wrong = strings.ReplaceAll(q.path, w.key, "7"), true
		return w.send(q)
	}},
	{name: "a key of another account", only: onKey, try: func(w *world, q request) reply { return w.send(q.by("acc_2/olga/admin")) }},
	{name: "revoked", only: onKey, try: func(w *world, q request) reply {
		noError(w.program.Manager.Revoke(w.as("anna"), apikey.RevokeRequest{Key: keyOf(w), Reason: "unused"}))
		return w.send(q.newer(w))
	}},
	{name: "suspended", only: onKey, try: func(w *world, q request) reply {
		noError(w.program.Manager.Suspend(w.as("anna"), keyOf(w)))
		return w.send(q.newer(w))
	}},
	{name: "expired", only: onKey, try: func(w *world, q request) reply {
		w.program.Clock.Move(400 * 24 * time.Hour)
		return w.send(q)
	}},
	{name: "expired, and nothing else is asked", only: named("rotateKey", "revealToken"), try: func(w *world, q request) reply {
		w.program.Clock.Move(400 * 24 * time.Hour)
		q.body = nil
		return w.send(q)
	}},
	{name: "done before", try: func(w *world, q request) reply {
		w.send(q)
		return w.send(q)
	}},
	{name: "done before, by the new version", only: onKey, try: func(w *world, q request) reply {
		w.send(q)
		return w.send(q.newer(w))
	}},
	{name: "the account is refused", try: func(w *world, q request) reply {
		w.refuses.Store(true)
		return w.send(q)
	}},
	{name: "the store is away", try: func(w *world, q request) reply {
		w.store.away.Store(true)
		return w.send(q)
	}},
	{name: "each Apply conflicts", try: func(w *world, q request) (a reply) {
		w.store.conflicts.Store(true)
		// What only takes power away is tried until its time is over. If that is during a
		// read, the answer is unavailable: then it is tried again.
		for range 3 {
			if a = w.send(q); !strings.Contains(string(a.text), `"code":"unavailable"`) {
				break
			}
		}
		return a
	}},
	{name: "the store is away, and an answer is given", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		w.store.away.Store(true)
		return w.send(q.approval(map[string]any{"challenge": "AAAAAAAAAAAAAAAAAAAAAA", "answer": w.answer()}))
	}},
	{name: "records are damaged", try: func(w *world, q request) reply {
		w.store.damagesKeys.Store(true)
		return w.send(q)
	}},
	{name: "rows cannot be read", try: func(w *world, q request) reply {
		w.store.unreadable.Store(true)
		return w.send(q)
	}},
	{name: "records are damaged, and an approval is asked for", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		w.store.damagesKeys.Store(true)
		return w.send(q.approval(w.asks()))
	}},
	{name: "what is kept of a factor is damaged", try: func(w *world, q request) reply {
		w.store.damages.Store(apikey.StoreItemKind("enrolling"))
		return w.send(q)
	}},
	{name: "what is kept of a factor is damaged, and it is asked", only: isGuarded, try: func(w *world, q request) reply {
		w.enrolled("anna")
		w.guards.Store(true)
		w.store.damages.Store(apikey.StoreItemKind("enrolled"))
		return w.send(q.approval(map[string]any{"factor": "totp"}))
	}},
	{name: "the KEK is away", try: func(w *world, q request) reply {
		w.kekFails.Store(true)
		return w.send(q)
	}},
	{name: "the KEK is away, and an answer is given", only: isGuarded, try: func(w *world, q request) reply {
		w.enrolled("anna")
		w.guards.Store(true)
		w.kekFails.Store(true)
		return w.send(q.approval(map[string]any{"factor": "totp"}))
	}},
	{name: "the mail server is away", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		w.program.Mailbox.Fail(errAway)
		return w.send(q.approval(map[string]any{"factor": "email"}))
	}},
	{name: "the hashes wait", try: func(w *world, q request) reply {
		w.hash.Store(&apikey.ErrBusy)
		return w.send(q)
	}},
	{name: "the Hasher fails", try: func(w *world, q request) reply {
		w.hash.Store(&errAway)
		return w.send(q)
	}},
	{name: "the Manager is closed", try: func(w *world, q request) reply {
		noError(w.program.Manager.Close(context.Background()))
		return w.send(q)
	}},

	{name: "without an approval", try: func(w *world, q request) reply {
		w.guards.Store(true)
		return w.send(q)
	}},
	{name: "an approval is asked for", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		return w.send(q.approval(map[string]any{"factor": "email"}))
	}},
	{name: "approved", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		return w.approving(q, w.answer())
	}},
	{name: "approved by the app", only: isGuarded, try: func(w *world, q request) reply {
		uri := w.enrolled("anna")
		w.guards.Store(true)
		asked := w.send(q.approval(map[string]any{"factor": "totp"}))
		return w.send(q.approval(map[string]any{"challenge": asked.body["id"], "answer": w.program.Code(uri)}))
	}},
	{name: "approved twice", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		asked := w.send(q.approval(w.asks()))
		q = q.approval(map[string]any{"challenge": asked.body["id"], "answer": w.answer()})
		w.send(q)
		return w.send(q)
	}},
	{name: "a wrong answer", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		return w.approving(q, "wrong")
	}},
	{name: "an unknown challenge", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		return w.send(q.approval(map[string]any{"challenge": "AAAAAAAAAAAAAAAAAAAAAA", "answer": w.answer()}))
	}},
	{name: "an approval of two kinds", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		q.wrong = true
		return w.send(q.approval(map[string]any{"factor": "email", "challenge": "x", "answer": w.answer()}))
	}},
	{name: "an approval that is not needed", only: isGuarded, try: func(w *world, q request) reply {
		return w.send(q.approval(map[string]any{"factor": "email"}))
	}},
	{name: "a factor that is not set up", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		return w.send(q.approval(map[string]any{"factor": "totp"}))
	}},
	{name: "another factor that is not set up", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		return w.send(q.approval(map[string]any{"factor": "app"}))
	}},
	{name: "too many codes", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		q = q.approval(map[string]any{"factor": "email", "resend": true})
		for range 5 {
			w.send(q)
		}
		return w.send(q)
	}},
	{name: "many wrong answers", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		for range 10 {
			w.approving(q, "wrong")
		}
		return w.approving(q, "wrong")
	}},
	{name: "locked, and nothing is asked", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		w.lock(w.as("anna"))
		return w.send(q)
	}},
	{name: "locked", only: named("confirmFactor"), try: func(w *world, q request) reply {
		w.lock(w.as("anna"))
		noError(w.program.Manager.AllowEnrollment(w.as("ben"), apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "anna"}))
		enrollment := must(w.program.Manager.Enroll(w.as("anna"), apikey.EnrollRequest{Factor: "totp"}))
		return w.send(q.with(map[string]any{"answer": w.program.Code(enrollment.URI())}))
	}},
	{name: "locked, and an answer is given", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		w.lock(w.as("anna"))
		return w.send(q.approval(w.asks()))
	}},

	{name: "another request under the same idempotency key", only: named("createKey"), try: func(w *world, q request) reply {
		w.send(q)
		return w.send(q.with(map[string]any{"name": "Shop 3"}))
	}},
	{name: "the earlier key is damaged", only: named("createKey"), try: func(w *world, q request) reply {
		w.send(q)
		w.store.damagesKeys.Store(true)
		return w.send(q)
	}},
	{name: "repeated, with a new approval asked for", only: named("createKey"), try: func(w *world, q request) reply {
		w.send(q)
		w.guards.Store(true)
		return w.send(q.approval(map[string]any{"factor": "email"}))
	}},
	{name: "as many keys as may be", only: named("createKey", "provision", "resumeKey", "updateKey"), conf: func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Limits.LiveKeys = 1 }, try: func(w *world, q request) reply {
		id := w.key
		if strings.HasPrefix(q.path, "/keys/") {
			noError(w.program.Manager.Suspend(w.as("anna"), keyOf(w)))
			q = q.newer(w)
		}
		w.made()
		w.key = id
		return w.send(q)
	}},
	{name: "as many keys in an hour as may be", only: named("createKey", "provision"), conf: func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Limits.IssuesAnHour = 2 }, try: func(w *world, q request) reply {
		w.made()
		w.made()
		return w.send(q)
	}},
	{name: "more keys at once than may be in an hour", only: named("provision"), conf: func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Limits.IssuesAnHour = 1 }, try: func(w *world, q request) reply { return w.send(q) }},
	{name: "a factor with more data than fits", only: named("enrollFactor"), conf: greedyTOTP(greedy{enrolls: true}), try: func(w *world, q request) reply {
		return w.approving(q, w.answer())
	}},
	{name: "the key of Provision is damaged", only: named("provision"), try: func(w *world, q request) reply {
		w.send(q)
		w.store.damagesKeys.Store(true)
		return w.send(q)
	}},
	{name: "no rotation is planned", only: named("cancelRotation"), try: func(w *world, q request) reply {
		w.made()
		q.path = "/keys/" + w.key + "/rotation"
		return w.send(q)
	}},
	{name: "a rotation is planned", only: onKeyThatWorks, try: func(w *world, q request) reply {
		must(w.program.Manager.Rotate(w.as("anna"), apikey.RotateRequest{Key: keyOf(w), At: w.program.Clock.Now().Add(time.Hour), Replace: true}))
		return w.send(q.newer(w))
	}},
	{name: "two tokens work", only: onKeyThatWorks, try: func(w *world, q request) reply {
		must(w.program.Manager.Rotate(w.as("anna"), apikey.RotateRequest{Key: keyOf(w), Overlap: 100 * time.Hour, Replace: true}))
		return w.send(q.newer(w))
	}},
	{name: "the token is not kept", only: named("revealToken"), try: func(w *world, q request) reply {
		w.made(func(r *apikey.IssueRequest) { r.Recoverable = false })
		return w.send(request{method: "POST", path: "/keys/" + w.key + "/reveal"})
	}},
	{name: "no such token", only: named("retireToken", "revealToken"), try: func(w *world, q request) reply {
		q.path = strings.ReplaceAll(q.path, w.credential, strings.Repeat("1", 22))
		if q.body != nil && strings.HasSuffix(q.path, "reveal") {
			q = q.with(map[string]any{"credential": strings.Repeat("1", 22)})
		}
		return w.send(q)
	}},
	{name: "a token that ended", only: named("retireToken", "revealToken"), try: func(w *world, q request) reply {
		must(w.program.Manager.Rotate(w.as("anna"), apikey.RotateRequest{Key: keyOf(w), Replace: true}))
		return w.send(q)
	}},
	{name: "the token that is kept is damaged", only: named("revealToken"), try: func(w *world, q request) reply {
		w.store.damagesSealed.Store(true)
		return w.approving(q, w.answer())
	}},
	{name: "approved while the KEK is away", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		w.kekFails.Store(true)
		return w.approving(q, w.answer())
	}},
	{name: "keys that fail one by one", only: named("revokeKeys", "revokeAllKeys"), try: func(w *world, q request) reply {
		w.guards.Store(true)
		return w.send(q)
	}},
	{name: "a wrong code", only: named("confirmFactor"), try: func(w *world, q request) reply { return w.send(q.with(map[string]any{"answer": "000000"})) }},
	{name: "many wrong codes", only: named("confirmFactor"), try: func(w *world, q request) reply {
		for range 10 {
			w.send(q.with(map[string]any{"answer": "000000"}))
		}
		return w.send(q)
	}},
	{name: "nothing waits to be confirmed", only: named("confirmFactor"), try: func(w *world, q request) reply {
		w.program.Clock.Move(time.Hour)
		return w.send(q)
	}},
	{name: "a factor that is not there", only: func(o operation) bool { return strings.Contains(o.id, "Factor") || o.id == "allowEnrollment" }, try: func(w *world, q request) reply {
		q.path = strings.ReplaceAll(q.path, "totp", "password")
		if q.body != nil && strings.HasPrefix(q.path, "/actors/") {
			q = q.with(w.asks())
		}
		return w.send(q)
	}},
	{name: "for oneself", only: named("liftLock", "allowEnrollment", "disableFactorOfActor"), try: func(w *world, q request) reply {
		q.path = strings.ReplaceAll(q.path, "ben", "anna")
		return w.send(q)
	}},
	{name: "lifted too often", only: named("liftLock"), try: func(w *world, q request) reply {
		var a reply
		for range 5 {
			w.lock(w.as("ben"))
			a = w.send(q)
		}
		return a
	}},
	{name: "each Apply conflicts, and an approval is asked for", only: isGuarded, try: func(w *world, q request) reply {
		w.guards.Store(true)
		w.store.conflicts.Store(true)
		return w.send(q.approval(w.asks()))
	}},
	{name: "an account without anything", try: func(w *world, q request) reply { return w.send(q.by("acc_9/zoe/admin")) }},
	{name: "a factor that keeps more of a challenge than fits", only: isGuarded, conf: greedyTOTP(greedy{begins: true}), try: func(w *world, q request) reply {
		if w.factor != "totp" { // by the app, but where the app is what is set up
			w.enrolled("anna")
		}
		w.guards.Store(true)
		return w.send(q.approval(map[string]any{"factor": "totp"}))
	}},
	{name: "a factor that keeps more of a person than fits", only: named("confirmFactor"), conf: greedyTOTP(greedy{checks: true}), try: func(w *world, q request) reply { return w.send(q) }},
}

// newer is the request with the version that the key has now, if it has one.
func (q request) newer(w *world) request {
	if q.header["If-Match"] == "" {
		return q
	}
	info := must(w.program.Manager.Get(w.as("anna"), keyOf(w)))
	return q.sending("If-Match", `"`+strconv.FormatUint(info.Version, 10)+`"`)
}

// greedy is a factor that wants to store more than fits: of a person who sets it up, of a
// challenge, or of a person who has answered.
type greedy struct {
	apikey.Factor
	enrolls, begins, checks bool
}

var tooMuch = make([]byte, 70<<10)

func (g *greedy) Enroll(ctx context.Context, a apikey.Actor) ([]byte, string, error) {
	enrolled, uri, err := g.Factor.(apikey.Enroller).Enroll(ctx, a)
	if g.enrolls {
		enrolled = tooMuch
	}
	return enrolled, uri, err
}

func (g *greedy) Begin(ctx context.Context, a apikey.Actor, c apikey.Challenge, enrolled []byte) ([]byte, func(context.Context) error, error) {
	state, send, err := g.Factor.Begin(ctx, a, c, enrolled)
	if g.begins {
		state = tooMuch
	}
	return state, send, err
}

func (g *greedy) Check(ctx context.Context, a apikey.Actor, c apikey.Challenge, enrolled, state []byte, answer string) ([]byte, bool, error) {
	next, ok, err := g.Factor.Check(ctx, a, c, enrolled, state, answer)
	if g.checks {
		next = tooMuch
	}
	return next, ok, err
}

// greedyTOTP is the factor totp with a fault.
func greedyTOTP(g greedy) func(*apikey.Settings, *apikey.ManagerConfig) {
	return func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		g.Factor = c.Factors["totp"]
		c.Factors["totp"] = &g
	}
}
