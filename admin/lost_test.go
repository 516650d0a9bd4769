package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/apikeytest"
)

// faulty is a store that fails when the test says so.
type faulty struct {
	apikey.Store
	away   atomic.Bool  // nothing is read or written
	before atomic.Int64 // how many Applies until one fails, and writes nothing; 0: none
	after  atomic.Int64 // how many Applies until one writes, and its answer is lost; 0: none
}

var errAway = errors.New("db 10.0.3.8: connection refused")

func (f *faulty) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	if f.away.Load() || f.before.Add(-1) == 0 {
		return errAway
	}
	err := f.Store.Apply(ctx, changes...)
	if f.after.Add(-1) == 0 && err == nil {
		return errAway
	}
	return err
}

func (f *faulty) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	if f.away.Load() {
		return apikey.StoreRecord{}, errAway
	}
	return f.Store.Get(ctx, id)
}

func (f *faulty) List(ctx context.Context, filter apikey.StoreFilter) (apikey.StorePage, error) {
	if f.away.Load() {
		return apikey.StorePage{}, errAway
	}
	return f.Store.List(ctx, filter)
}

func (f *faulty) Items(ctx context.Context, filter apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	if f.away.Load() {
		return apikey.StoreItemPage{}, errAway
	}
	return f.Store.Items(ctx, filter)
}

func failing(f *faulty) func(*apikey.Settings, *apikey.ManagerConfig) {
	return func(s *apikey.Settings, _ *apikey.ManagerConfig) {
		f.Store = s.Store
		s.Store = f
	}
}

// faultyKEK is a key service that is away when the test says so.
type faultyKEK struct {
	apikey.KEK
	away atomic.Bool
}

func (k *faultyKEK) Unwrap(ctx context.Context, sealed, aad []byte) ([]byte, error) {
	if k.away.Load() {
		return nil, errors.New("kms 10.0.3.7: connection refused")
	}
	return k.KEK.Unwrap(ctx, sealed, aad)
}

// steps sends a guarded request through its three steps, and the last one again until it
// is answered by something else than 503.
type steps struct {
	e      *env
	q      request
	body   map[string]any
	factor string
}

func (s steps) ask() reply {
	s.body["approval"] = map[string]any{"factor": s.factor}
	s.q.body = s.body
	return s.e.do(s.q)
}

func (s steps) answer(challenge any, answer string) reply {
	s.body["approval"] = map[string]any{"challenge": challenge, "answer": answer}
	s.q.body = s.body
	return s.e.do(s.q)
}

// An answer is lost on its way, at each route that makes a token, before and after it was
// done, with and without a guard. Retried as it is, nothing is made twice, and each token
// was shown or is said to be lost.
func TestLostAnswers(t *testing.T) {
	for _, guarded := range []bool{false, true} {
		for _, at := range []string{"the network", "write 1 fails", "write 2 fails", "write 3 fails", "answer to write 1", "answer to write 2", "answer to write 3", "the store is away"} {
			t.Run(fmt.Sprintf("guarded %v, %s", guarded, at), func(t *testing.T) {
				f := &faulty{}
				changes := []func(*apikey.Settings, *apikey.ManagerConfig){failing(f)}
				if guarded {
					changes = append(changes, guardAll)
				}
				e := newEnv(t, changes...)
				keysOf := func() []apikey.Info {
					list, err := e.program.Manager.List(e.program.Admin("acc_1"), apikey.ListRequest{})
					require.NoError(t, err)
					return list.Keys
				}
				// lose sends the request; what comes back the person does not see.
				lose := func(send func() reply) reply {
					var n int64
					if fails, _ := fmt.Sscanf(at, "write %d fails", &n); fails == 1 {
						f.before.Store(n)
					} else if loses, _ := fmt.Sscanf(at, "answer to write %d", &n); loses == 1 {
						f.after.Store(n)
					}
					f.away.Store(at == "the store is away")
					defer func() { f.away.Store(false); f.before.Store(0); f.after.Store(0) }()
					return send()
				}
				// retry sends it as a client does: until the answer is not 503.
				retry := func(send func() reply) (a reply) {
					for range 5 {
						if a = send(); a.status != 503 {
							return a
						}
					}
					return a
				}
				// sent sends a request with all its steps, loses its answer, and sends it again.
				sent := func(q request, body map[string]any) reply {
					s := steps{e, q, body, "password"}
					send := func() reply { q.body = body; return e.do(q) }
					if guarded {
						asked := s.ask()
						require.Equal(t, 202, asked.status, asked.text)
						send = func() reply { return s.answer(asked.body["id"], password) }
					}
					lost := lose(send)
					if lost.status < 300 && at != "the network" {
						return lost // it makes fewer writes, or was tried again
					}
					return retry(send)
				}

				made := sent(request{method: "POST", path: "/keys", header: map[string]string{"Idempotency-Key": "k"}}, map[string]any{"mode": "live"})
				keys := keysOf()
				require.Len(t, keys, 1, made.text)
				switch made.status {
				case 201:
				case 409:
					require.Equal(t, "already_issued", made.body["code"])
					require.Equal(t, keys[0].ID.String(), made.body["key"].(map[string]any)["id"], "which key it is, whose token is lost")
				default:
					t.Fatal(made.text)
				}

				path := "/keys/" + keys[0].ID.String()
				version := e.do(request{path: path}).header.Get("ETag")
				rotated := sent(request{method: "POST", path: path + "/rotate", header: map[string]string{"If-Match": version}}, map[string]any{"overlap_seconds": 3600})
				require.Equal(t, 2, keysOf()[0].Credentials.Len(), "one rotation: %s", rotated.text)
				switch rotated.status {
				case 200:
				case 412:
					require.Equal(t, true, rotated.body["done"], rotated.text)
				default:
					t.Fatal(rotated.text)
				}
				version = e.do(request{path: path}).header.Get("ETag")
				edited := sent(request{method: "PATCH", path: path, header: map[string]string{"If-Match": version}}, map[string]any{"name": "Other"})
				require.Equal(t, "Other", keysOf()[0].Name)
				if edited.status != 200 {
					require.Equal(t, true, edited.body["done"], edited.text)
				}
				// These say nothing of their own, and repeated they change nothing more.
				for _, what := range []string{"suspend", "resume", "revoke"} {
					q := request{method: "POST", path: path + "/" + what}
					if at == "the store is away" && what != "resume" {
						continue // they are tried for five seconds
					}
					if guarded && what != "suspend" {
						a := sent(q, map[string]any{})
						if a.status != 204 {
							require.Equal(t, "used", a.body["because"], "and what it approves was done: %s", a.text)
						}
						continue
					}
					lost := lose(func() reply { q.body = map[string]any{}; return e.do(q) })
					require.Equal(t, 204, retry(func() reply { return e.do(q) }).status, lost.text)
				}
				if at != "the store is away" {
					require.Equal(t, apikey.Revoked, keysOf()[0].State)
				}
			})
		}
	}
}

// Whoever may not read the log is not told what was done, and the question is not in it.
func TestDoneIsForWhoReadsTheLog(t *testing.T) {
	e := newEnv(t, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Policy = noLog{} })
	key := e.issue("acc_1").Key
	rotate := request{method: "POST", path: "/keys/" + key.ID.String() + "/rotate", body: `{}`, header: map[string]string{"If-Match": `"1"`}}
	require.Equal(t, 200, e.do(rotate).status)
	again := e.do(rotate)
	require.Equal(t, 412, again.status)
	require.NotContains(t, again.body, "done")
	page, err := e.program.Store.Events(t.Context(), apikey.StoreEventFilter{Account: "acc_1", Limit: 100})
	require.NoError(t, err)
	require.Len(t, page.Events, 2, "issue and rotate")

	// Somebody else's change is not one's own.
	e = newEnv(t)
	key = e.issue("acc_1").Key
	rotate.path = "/keys/" + key.ID.String() + "/rotate"
	require.Equal(t, 200, e.do(rotate).status)
	rotate.user = "acc_1/ben/admin"
	require.NotContains(t, e.do(rotate).body, "done")
}

// noLog lets nobody read the log.
type noLog struct{ apikey.RolePolicy }

func (p noLog) Authorize(ctx context.Context, a apikey.Actor, action apikey.Action, k apikey.Info) error {
	if action == apikey.ActionReadEvents {
		return errors.New("not for them")
	}
	return p.RolePolicy.Authorize(ctx, a, action, k)
}

// KEK, mail and store are away at each step: a problem that says nothing of the cause, and
// the person needs no second code.
func TestAwayAtEachStep(t *testing.T) {
	f, kek := &faulty{}, &faultyKEK{}
	e := newEnv(t, failing(f), guardAll, func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		kek.KEK = c.KEKs[0]
		c.KEKs = []apikey.KEK{kek}
	})
	away := func(a reply) {
		t.Helper()
		require.Equal(t, 503, a.status, a.text)
		require.NotEmpty(t, a.header.Get("Retry-After"))
		require.NotContains(t, a.text, "10.0.3")
		require.NotContains(t, a.text, "refused")
		require.NotEmpty(t, a.body["code"])
	}
	s := steps{e, request{method: "POST", path: "/keys"}, map[string]any{"mode": "live", "recoverable": true}, "email"}
	f.away.Store(true)
	away(s.ask())
	f.away.Store(false)
	e.program.Mailbox.Fail(errors.New("smtp 10.0.3.9: refused"))
	away(s.ask())
	e.program.Mailbox.Fail(nil)
	asked := s.ask()
	require.Equal(t, 202, asked.status, asked.text)
	code := e.program.Mailbox.Last().Message.Code()
	f.away.Store(true)
	away(s.answer(asked.body["id"], code))
	f.away.Store(false)
	made := s.answer(asked.body["id"], code)
	require.Equal(t, 201, made.status, made.text)
	require.Len(t, e.program.Mailbox.All(), 1)

	s = steps{e, request{method: "POST", path: "/keys/" + made.body["key"].(map[string]any)["id"].(string) + "/reveal"}, map[string]any{}, "email"}
	asked = s.ask()
	code = e.program.Mailbox.Last().Message.Code()
	kek.away.Store(true)
	away(s.answer(asked.body["id"], code))
	away(s.answer(asked.body["id"], code))
	kek.away.Store(false)
	shown := s.answer(asked.body["id"], code)
	require.Equal(t, 200, shown.status, shown.text)
	require.Len(t, e.program.Mailbox.All(), 2)
	require.Contains(t, e.log.String(), "10.0.3.7", "the cause is in the log")
}

// The steps of one approval come from sessions and people that do not belong together, and
// through two nodes.
func TestApprovalBelongsToOnePerson(t *testing.T) {
	e := newEnv(t, guardAll)
	s := steps{e, request{method: "POST", path: "/keys"}, map[string]any{"mode": "live"}, "email"}
	asked := s.ask()
	code := e.program.Mailbox.Last().Message.Code()
	for _, user := range []string{"acc_1/ben/admin", other, "acc_2/anna/admin"} {
		s := s
		s.q.user = user
		a := s.answer(asked.body["id"], code)
		require.Equal(t, 410, a.status, a.text)
		require.Equal(t, "unknown", a.body["because"])
	}
	s.q.user = "-"
	require.Equal(t, 401, s.answer(asked.body["id"], code).status)

	// Another request is not what was approved.
	s.q.user = anna
	s.body["name"] = "Other"
	require.Equal(t, "other_request", s.answer(asked.body["id"], code).body["because"])
	delete(s.body, "name")

	// Another node, with a Manager of its own on the same store, takes the answer.
	node := nodeBeside(t, e)
	s.body["approval"] = map[string]any{"challenge": asked.body["id"], "answer": code}
	made := e.at(node, request{method: "POST", path: "/keys", body: s.body})
	require.Equal(t, 201, made.status, made.text)

	// What is written in step 1 is what step 3 finds: parts that contradict each other are
	// refused before anything is asked.
	for body, field := range map[string]string{
		`{"mode":"live","approval":{"factor":"email","answer":"1"}}`:    "approval.factor",
		`{"mode":"live","approval":{"factor":"email","challenge":"x"}}`: "approval.factor",
		`{"mode":"live","approval":{"challenge":"x"}}`:                  "approval.answer",
		`{"mode":"live","approval":{"answer":"x"}}`:                     "approval.challenge",
		`{"mode":"live","approval":{"resend":true}}`:                    "approval.factor",
		`{"mode":"live","approval":{"factor":"sms"}}`:                   "approval.factor",
	} {
		a := e.post("/keys", body)
		require.Equal(t, 400, a.status, body)
		require.Equal(t, field, a.body["fields"].([]any)[0].(map[string]any)["field"], a.text)
	}
	mails := len(e.program.Mailbox.All())
	resent := e.post("/keys", `{"mode":"live","approval":{"factor":"email","resend":true}}`)
	require.Equal(t, 202, resent.status)
	require.Len(t, e.program.Mailbox.All(), mails+1)
}

// nodeBeside serves the API with another Manager on the store and the peppers of e.
func nodeBeside(t *testing.T, e *env) string {
	t.Helper()
	other := apikeytest.New(t, func(s *apikey.Settings, c *apikey.ManagerConfig) {
		*s, *c = e.settings, e.manager
	})
	c := e.config
	c.Manager = other.Manager
	return e.serve(c)
}

// A request that waits for nothing is refused before its code is used: a wrong form, a
// version that has passed, a key that is gone.
func TestRefusedBeforeTheCodeIsUsed(t *testing.T) {
	e := newEnv(t, guardAll)
	key := e.issued()
	s := steps{e, request{method: "POST", path: "/keys/" + key.ID.String() + "/rotate", header: map[string]string{"If-Match": `"1"`}}, map[string]any{}, "email"}
	asked := s.ask()
	require.Equal(t, 202, asked.status, asked.text)
	code := e.program.Mailbox.Last().Message.Code()
	require.NoError(t, e.program.Manager.Suspend(e.program.Admin("acc_1"), key.ID))
	require.Equal(t, 412, s.answer(asked.body["id"], code).status)
	s.body["overlap_seconds"] = -1
	require.Equal(t, 400, s.answer(asked.body["id"], code).status)
	delete(s.body, "overlap_seconds")
	page, err := e.program.Store.Items(t.Context(), apikey.StoreItemFilter{Kind: "grant", Limit: 10})
	require.NoError(t, err)
	require.Empty(t, page.Items, "no grant was made")
}

// Requests at the same time through two nodes: one key, one rotation.
func TestTwoNodesAtOnce(t *testing.T) {
	e := newEnv(t)
	urls := []string{e.url, nodeBeside(t, e)}
	key := e.issue("acc_1").Key
	count := func(q request) map[int]int {
		statuses := make(chan int, 16)
		var wg sync.WaitGroup
		for i := range cap(statuses) {
			wg.Go(func() {
				a, err := send(urls[i%2], q)
				if err != nil {
					a.status = -1
				}
				statuses <- a.status
			})
		}
		wg.Wait()
		close(statuses)
		seen := map[int]int{}
		for s := range statuses {
			seen[s]++
		}
		return seen
	}
	require.Equal(t, map[int]int{200: 1, 412: 15}, count(request{method: "POST", path: "/keys/" + key.ID.String() + "/rotate", body: `{}`, header: map[string]string{"If-Match": `"1"`}}))
	made := count(request{method: "POST", path: "/keys", body: `{"mode":"test"}`, header: map[string]string{"Idempotency-Key": "k"}})
	require.Equal(t, 1, made[201], made)
	require.Equal(t, 16, made[201]+made[409], made)
	mismatch := e.do(request{method: "POST", path: "/keys", body: `{"mode":"test","name":"x"}`, header: map[string]string{"Idempotency-Key": "k"}})
	require.Equal(t, "idempotency_mismatch", mismatch.body["code"])
}

// Metadata that is not listed is not shown, and an update of the rest keeps it.
func TestMetadataThatIsNotListed(t *testing.T) {
	e := newEnv(t)
	key := e.issue("acc_1", func(r *apikey.IssueRequest) {
		r.Metadata = map[string]string{"shop": "7", "risk": "high"}
	}).Key
	path := "/keys/" + key.ID.String()
	require.Equal(t, map[string]any{"shop": "7"}, e.do(request{path: path}).body["metadata"])
	patch := func(version, body string) reply {
		return e.do(request{method: "PATCH", path: path, body: body, header: map[string]string{"If-Match": version}})
	}
	stored := func() map[string]string {
		info, err := e.program.Manager.Get(e.program.Admin("acc_1"), key.ID)
		require.NoError(t, err)
		all := map[string]string{}
		for name, value := range info.Metadata.All() {
			all[name] = value
		}
		return all
	}
	a := patch(`"1"`, `{"metadata":{"risk":"low"}}`)
	require.Equal(t, 400, a.status)
	require.Equal(t, 400, e.post("/keys", `{"mode":"live","metadata":{"risk":"low"}}`).status)
	require.Equal(t, 200, patch(`"1"`, `{"metadata":{"shop":"8"}}`).status)
	require.Equal(t, map[string]string{"shop": "8", "risk": "high"}, stored())
	require.Equal(t, 200, patch(`"2"`, `{"metadata":null}`).status)
	require.Equal(t, map[string]string{"risk": "high"}, stored())
	require.Equal(t, 412, patch(`"1"`, `{"metadata":{"shop":"9"}}`).status)
	viewer := request{user: "acc_1/victor/viewer", method: "PATCH", path: path, body: `{"metadata":{"shop":"9"}}`, header: map[string]string{"If-Match": `"1"`}}
	require.Equal(t, 403, e.do(viewer).status, "who may not edit is told that first")
	require.Equal(t, 404, e.do(request{user: other, method: "PATCH", path: path, body: `{"metadata":{"shop":"9"}}`, header: map[string]string{"If-Match": `"3"`}}).status)
}

// What people type.
func TestBadInput(t *testing.T) {
	e := newEnv(t)
	for _, c := range []struct {
		body, field, code string
	}{
		{`{}`, "mode", "required"},
		{`{"mode":"prod"}`, "mode", "unknown"},
		{`{"mode":"live","name":"` + strings.Repeat("n", 201) + `"}`, "name", "too_long"},
		{`{"mode":"live","name":"a\u0000b"}`, "name", "not_text"},
		{`{"mode":"live","name":"a\u202eb"}`, "name", "hidden_character"},
		{`{"mode":"live","abilities":["payment:refnd"]}`, "abilities", "unknown"},
		{`{"mode":"live","expires_at":"2020-01-01T00:00:00Z"}`, "expires_at", "past"},
		{`{"mode":"live","expires_at":"10000-01-01T00:00:00Z"}`, "expires_at", "malformed"},
		{`{"mode":"live","expires_at":"2027-02-29T00:00:00Z"}`, "expires_at", "malformed"},
		{`{"mode":"live","networks":["fe80::1%eth0"]}`, "networks", "malformed"},
		{`{"mode":"live","origins":["shop.example"]}`, "origins", "malformed"},
		{`{"mode":"live","metadata":{"shop":null}}`, "metadata", "malformed"},
		{`{"mode":"live","idempotency_key":"k"}`, "idempotency_key", "unknown"},
	} {
		a := e.post("/keys", c.body)
		require.Equal(t, 400, a.status, c.body)
		first := a.body["fields"].([]any)[0].(map[string]any)
		require.Equal(t, c.field, first["field"], a.text)
		require.Equal(t, c.code, first["code"], a.text)
		require.NotEmpty(t, first["detail"])
	}
	require.Contains(t, e.post("/keys", `{"mode":"live","abilities":["payment:refnd"]}`).text, "payment:refund", "the nearest is named")
	all := e.post("/keys", `{"mode":"prod","name":1,"expires_at":"soon"}`)
	require.Len(t, all.body["fields"], 3, "all at once")
	twice := e.post("/keys", `{"mode":"live","abilities":["payment:charge","payment:charge"],"networks":["192.0.2.77/24"]}`)
	require.Equal(t, []any{"payment:charge"}, twice.body["key"].(map[string]any)["abilities"])
	require.Equal(t, []any{"192.0.2.0/24"}, twice.body["key"].(map[string]any)["networks"])
	empty := e.post("/keys", `{"mode":"live","name":"","rotate_months":null}`)
	require.Equal(t, 201, empty.status, empty.text)

	id := empty.body["key"].(map[string]any)["id"].(string)
	for body, field := range map[string]string{
		`{"at":"2020-01-01T00:00:00Z"}`:              "at",
		`{"at":"0001-01-01T00:00:00Z"}`:              "at",
		`{"overlap_seconds":-1}`:                     "overlap_seconds",
		`{"overlap_seconds":3153600001}`:             "overlap_seconds",
		`{"overlap_seconds":1.5}`:                    "overlap_seconds",
		`{"overlap_seconds":"3600"}`:                 "overlap_seconds",
		`{"at":"` + strings.Repeat("9", 5000) + `"}`: "at",
	} {
		a := e.do(request{method: "POST", path: "/keys/" + id + "/rotate", body: body, header: map[string]string{"If-Match": `"1"`}})
		require.Equal(t, 400, a.status, body)
		require.Equal(t, field, a.body["fields"].([]any)[0].(map[string]any)["field"], a.text)
		require.Less(t, len(a.text), 1000)
	}
	for query, field := range map[string]string{
		"mode=prod": "mode", "mode=": "mode", "mode=live&mode=test": "mode", "kind=x": "kind", "state=expired": "state",
		"usable=1": "usable", "usable=false": "usable", "limit=0": "limit", "limit=1001": "limit", "limit=x": "limit", "limit=-1": "limit",
		"unused_since=yesterday": "unused_since", "unused_for=-1": "unused_for", "unused_for=90d": "unused_for", "due_within=99999999999": "due_within",
		"cursor=x": "cursor", "moda=live": "moda", "account=acc_2": "account", "a;b=c": "query", "a=%zz": "query", "usable=true&expired=true": "expired",
	} {
		a := e.do(request{path: "/keys?" + query})
		require.Equal(t, 400, a.status, query)
		require.Equal(t, field, a.body["fields"].([]any)[0].(map[string]any)["field"], "%s: %s", query, a.text)
	}
	for query, says := range map[string]string{
		"mode=live&mode=test": "mode: This is here more than once. Give one at a time.",
		"usable=false":        "usable: “false” is not known here. Near it: true.",
	} {
		require.Equal(t, says, e.do(request{path: "/keys?" + query}).body["detail"])
	}
	for query, field := range map[string]string{"actions=key.nothing": "actions", "actions=": "actions", "since=2026-01-02T00:00:00Z&before=2026-01-01T00:00:00Z": "before", "mode=x": "mode"} {
		a := e.do(request{path: "/events?" + query})
		require.Equal(t, 400, a.status, query)
		require.Equal(t, field, a.body["fields"].([]any)[0].(map[string]any)["field"], "%s: %s", query, a.text)
	}
	// A cursor of another filter.
	e.issue("acc_1")
	page := e.do(request{path: "/keys?limit=1&mode=live"})
	next := page.body["next"].(string)
	require.Equal(t, 200, e.do(request{path: "/keys?limit=1&mode=live&cursor=" + next}).status)
	require.Equal(t, 400, e.do(request{path: "/keys?limit=1&cursor=" + next}).status)
	many := e.post("/keys/revoke", `{"ids":[`+strings.Repeat(`"`+id+`",`, 100)+`"`+id+`"]}`)
	require.Equal(t, 400, many.status)
	require.Equal(t, "too_many", many.body["fields"].([]any)[0].(map[string]any)["code"])
}

// Many keys at once: the answer has each key, a wrong reason is about the request, and
// revoke-all goes on page by page.
func TestRevokeManyIsBounded(t *testing.T) {
	e := newEnv(t)
	ids := []string{}
	for range 3 {
		ids = append(ids, e.issue("acc_1").Key.ID.String())
	}
	a := e.post("/keys/revoke", map[string]any{"ids": ids, "reason": "unused"})
	require.Equal(t, 200, a.status)
	for i, one := range a.body["data"].([]any) {
		require.Equal(t, map[string]any{"id": ids[i], "revoked": true}, one)
	}
	require.Equal(t, 400, e.post("/keys/revoke", map[string]any{"ids": ids, "reason": strings.Repeat("r", 201)}).status)
	for range 3 {
		e.issue("acc_1")
	}
	first := e.post("/keys/revoke-all", map[string]any{"all": true, "limit": 2})
	require.Equal(t, float64(2), first.body["revoked"], first.text)
	rest := e.post("/keys/revoke-all", map[string]any{"all": true, "limit": 100, "cursor": first.body["next"]})
	require.Equal(t, float64(1), rest.body["revoked"], rest.text)
	require.NotContains(t, rest.body, "next")
}

// A request for many keys whose time is over: the answer says which keys were not tried.
func TestRevokeManySaysWhatWasNotTried(t *testing.T) {
	ending := &endsTime{}
	e := newEnv(t, func(s *apikey.Settings, _ *apikey.ManagerConfig) { ending.Store, s.Store = s.Store, ending })
	first, second := e.issue("acc_1").Key.ID, e.issue("acc_1").Key.ID
	ctx, cancel := context.WithCancel(t.Context())
	ending.end = cancel
	r := httptest.NewRequestWithContext(ctx, "POST", "http://shop.example/v1/keys/revoke", strings.NewReader(fmt.Sprintf(`{"ids":[%q,%q]}`, first, second)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Origin", "http://shop.example")
	r.Header.Set("X-User", anna)
	w := httptest.NewRecorder()
	must(admin.New(e.config)).ServeHTTP(w, r)
	var many struct {
		Data []struct {
			Revoked bool
			Error   struct{ Code string }
		}
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &many))
	require.Len(t, many.Data, 2, w.Body)
	require.True(t, many.Data[0].Revoked)
	require.False(t, many.Data[1].Revoked)
	require.Equal(t, "busy", many.Data[1].Error.Code, "nothing was done")
	require.Equal(t, "active", e.do(request{path: "/keys/" + second.String()}).body["state"])
}

// endsTime is a store that ends the time of a request with its first write.
type endsTime struct {
	apikey.Store
	end func() // nil: not now
}

func (s *endsTime) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	err := s.Store.Apply(ctx, changes...)
	if s.end != nil {
		s.end()
	}
	return err
}

// Config says what is missing.
func TestConfig(t *testing.T) {
	e := newEnv(t)
	_, err := admin.New(admin.Config{Actor: actorIn})
	require.ErrorContains(t, err, "Manager")
	_, err = admin.New(admin.Config{Manager: e.program.Manager})
	require.ErrorContains(t, err, "Actor")
	_, err = admin.New(admin.Config{Manager: e.program.Manager, Actor: func(*http.Request) (apikey.Actor, error) { return apikey.Actor{}, nil }})
	require.NoError(t, err)
}
