package admin_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

func checkPassword(_ context.Context, _, answer string) (bool, error) { return answer == password, nil }

var guardable = []apikey.Action{
	apikey.ActionIssue, apikey.ActionProvision, apikey.ActionUpdate, apikey.ActionWiden, apikey.ActionResume, apikey.ActionRotate,
	apikey.ActionReveal, apikey.ActionRevoke, apikey.ActionAllowEnrollment, apikey.ActionDisable, apikey.ActionLiftLock,
}

// guardAll guards all that can be guarded.
func guardAll(_ *apikey.Settings, c *apikey.ManagerConfig) {
	c.StepUp = func(action apikey.Action, _ apikey.Mode) []string {
		if !slices.Contains(guardable, action) {
			return nil
		}
		return []string{"password", "email"}
	}
}

// A day of a key, without guards.
func TestADayOfAKey(t *testing.T) {
	e := newEnv(t)
	made := e.do(request{method: "POST", path: "/keys", header: map[string]string{"Idempotency-Key": "k1"},
		body: map[string]any{"mode": "live", "name": "Shop", "abilities": []string{"payment:charge"}, "networks": []string{"192.0.2.1"}, "metadata": map[string]string{"shop": "7"}}})
	require.Equal(t, 201, made.status, made.text)
	key := made.body["key"].(map[string]any)
	path := "/keys/" + key["id"].(string)
	require.Equal(t, "keys/"+key["id"].(string), made.header.Get("Location"))
	require.Equal(t, `"1"`, made.header.Get("ETag"))
	require.Equal(t, "active", key["status"])
	require.Equal(t, []any{"192.0.2.1/32"}, key["networks"])
	require.Equal(t, map[string]any{"shop": "7"}, key["metadata"])
	token := made.body["token"].(string)
	use := func(token string) error {
		_, err := e.program.Live.Verify(t.Context(), token, apikey.Request{})
		return err
	}
	require.ErrorIs(t, use(token), apikey.ErrAddr)

	again := e.do(request{method: "POST", path: "/keys", header: map[string]string{"Idempotency-Key": "k1"},
		body: map[string]any{"mode": "live", "name": "Shop", "abilities": []string{"payment:charge"}, "networks": []string{"192.0.2.1"}, "metadata": map[string]string{"shop": "7"}}})
	require.Equal(t, 409, again.status)
	require.Equal(t, "already_issued", again.body["code"])
	require.Equal(t, key["id"], again.body["key"].(map[string]any)["id"])
	require.NotContains(t, again.text, token)

	edited := e.do(request{method: "PATCH", path: path, header: map[string]string{"If-Match": `W/"1"`}, body: map[string]any{"name": "Shop 2", "networks": nil}})
	require.Equal(t, 200, edited.status, edited.text)
	require.Equal(t, `"2"`, edited.header.Get("ETag"))
	require.NoError(t, use(token))
	stale := e.do(request{method: "PATCH", path: path, header: map[string]string{"If-Match": `"1"`}, body: map[string]any{"name": "Shop 3"}})
	require.Equal(t, 412, stale.status)
	require.Equal(t, float64(2), stale.body["have"])
	require.Equal(t, true, stale.body["done"], "by the same person: perhaps this very request")

	require.Equal(t, 204, e.post(path+"/suspend", nil).status)
	require.ErrorIs(t, use(token), apikey.ErrSuspended)
	require.Equal(t, 204, e.post(path+"/resume", "{}").status)
	require.NoError(t, use(token))

	rotated := e.do(request{method: "POST", path: path + "/rotate", header: map[string]string{"If-Match": `"4"`}, body: map[string]any{"overlap_seconds": 3600}})
	require.Equal(t, 200, rotated.status, rotated.text)
	second := rotated.body["token"].(string)
	require.NoError(t, use(token))
	require.NoError(t, use(second))
	lost := e.do(request{method: "POST", path: path + "/rotate", header: map[string]string{"If-Match": `"4"`}, body: map[string]any{"overlap_seconds": 3600}})
	require.Equal(t, 412, lost.status)
	require.Equal(t, true, lost.body["done"])
	old := key["credential"].(string)
	require.Equal(t, 204, e.post(path+"/credentials/"+old+"/retire", nil).status)
	require.ErrorIs(t, use(token), apikey.ErrCredentialEnded)
	require.Equal(t, 204, e.post(path+"/credentials/"+old+"/retire", nil).status, "again")

	long := e.do(request{method: "POST", path: path + "/rotate", header: map[string]string{"If-Match": `"6"`}, body: map[string]any{"overlap_seconds": 30 * 24 * 3600}})
	require.Equal(t, 400, long.status)
	require.Equal(t, "overlap_seconds", long.body["fields"].([]any)[0].(map[string]any)["field"], "as it is in the body")

	planned := e.do(request{method: "POST", path: path + "/rotate", header: map[string]string{"If-Match": `"6"`}, body: map[string]any{"at": e.program.Clock.Now().Add(time.Hour)}})
	require.Equal(t, 200, planned.status, planned.text)
	require.Equal(t, 204, e.do(request{method: "DELETE", path: path + "/rotation"}).status)

	got := e.do(request{path: path})
	require.Equal(t, 200, got.status)
	require.Contains(t, got.body["may"], "key.rotate")
	require.NotContains(t, got.text, second)
	list := e.do(request{path: "/keys?mode=live&usable=true&name_contains=shop&limit=10"})
	require.Len(t, list.body["data"], 1, list.text)
	require.Equal(t, 200, e.do(request{path: "/rules"}).status)
	chain := e.post(path+"/chain", nil)
	require.Equal(t, 200, chain.status, chain.text)

	require.Equal(t, 204, e.post(path+"/revoke", map[string]any{"reason": "unused"}).status)
	require.ErrorIs(t, use(second), apikey.ErrRevoked)
	events := e.do(request{path: path + "/events?actions=key.rotate,key.revoke"})
	require.Len(t, events.body["data"], 3, events.text)
	require.Equal(t, 200, e.do(request{path: "/events?mode=live"}).status)
}

// Each guarded request with both kinds of factor, and a code that was used.
func TestApproval(t *testing.T) {
	e := newEnv(t, guardAll)
	body := map[string]any{"mode": "live", "name": "Shop", "recoverable": true}
	refused := e.post("/keys", body)
	require.Equal(t, 403, refused.status)
	require.Equal(t, "step_up_required", refused.body["code"])
	require.ElementsMatch(t, []any{"email", "password"}, refused.body["factors"])

	body["approval"] = map[string]any{"factor": "email"}
	asked := e.post("/keys", body)
	require.Equal(t, 202, asked.status, asked.text)
	require.Equal(t, "key.issue", asked.body["action"])
	code := e.program.Mailbox.Last().Message.Code()
	answerWith := func(answer string) reply {
		body["approval"] = map[string]any{"challenge": asked.body["id"], "answer": answer}
		return e.post("/keys", body)
	}
	wrong := answerWith("000000")
	require.Equal(t, 403, wrong.status)
	require.Equal(t, "wrong_answer", wrong.body["code"])
	require.NotContains(t, wrong.text, "000000")
	made := answerWith(code)
	require.Equal(t, 201, made.status, made.text)
	require.NotContains(t, e.log.String(), code)
	used := answerWith(code)
	require.Equal(t, "used", used.body["because"], used.text)

	path := "/keys/" + made.body["key"].(map[string]any)["id"].(string)
	approve := func(path string, header map[string]string, body map[string]any) reply {
		t.Helper()
		if body == nil {
			body = map[string]any{}
		}
		body["approval"] = map[string]any{"factor": "password"}
		asked := e.do(request{method: "POST", path: path, header: header, body: body})
		require.Equal(t, 202, asked.status, asked.text)
		body["approval"] = map[string]any{"challenge": asked.body["id"], "answer": password}
		return e.do(request{method: "POST", path: path, header: header, body: body})
	}
	shown := approve(path+"/reveal", nil, nil)
	require.Equal(t, 200, shown.status, shown.text)
	require.Equal(t, made.body["token"], shown.body["token"])
	require.Equal(t, float64(30), shown.body["hide_after_seconds"])
	require.Equal(t, 200, approve(path+"/rotate", map[string]string{"If-Match": shown.header.Get("ETag")}, map[string]any{"overlap_seconds": 60}).status)
	require.Equal(t, 204, e.post(path+"/suspend", nil).status, "is never asked")
	require.Equal(t, 204, approve(path+"/resume", nil, nil).status)

	require.Equal(t, 204, approve("/actors/ben/allow-enrollment", nil, map[string]any{"factor": "totp"}).status)
	enroll := approve("/factors/totp/enroll", nil, nil)
	require.Equal(t, 200, enroll.status, enroll.text)
	require.True(t, strings.HasPrefix(enroll.body["uri"].(string), "otpauth://"))
	require.Equal(t, 204, e.post("/factors/totp/confirm", map[string]any{"answer": e.program.Code(enroll.body["uri"].(string))}).status)
	factors := e.do(request{path: "/factors"})
	require.Contains(t, factors.body["data"], map[string]any{"name": "totp", "enrolls": true, "usable": true})
	require.Equal(t, 204, approve("/actors/ben/lift-lock", nil, nil).status)
	require.Equal(t, 204, approve("/actors/ben/disable", nil, map[string]any{"factor": "totp"}).status)
	require.Equal(t, 200, approve("/provision", nil, map[string]any{"abilities": []string{"card:tokenize"}}).status)

	many := e.post("/keys/revoke", map[string]any{"ids": []any{made.body["key"].(map[string]any)["id"], "01890a5d-ac96-774b-bcce-b302099a8057"}})
	require.Equal(t, 200, many.status, many.text)
	require.Contains(t, many.text, "step_up_required")
	require.Contains(t, many.text, "not_found")
	all := e.post("/keys/revoke-all", map[string]any{"all": true})
	require.Equal(t, 200, all.status, all.text)
	require.Len(t, all.body["failed"], 3, all.text)
	compromised := e.post("/keys/revoke", map[string]any{"ids": []any{made.body["key"].(map[string]any)["id"]}, "reason": "compromised"})
	require.NotContains(t, compromised.text, "error")
	require.Equal(t, 204, approve(path+"/revoke", nil, nil).status, "of a revoked key")
}
