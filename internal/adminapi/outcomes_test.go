package adminapi_test

import (
	"encoding/json"
	"flag"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/go-apikey/apikey"
)

// TestMain tries many ways at once: most of their time they wait, for a store that conflicts
// or for a connection that is closed.
func TestMain(m *testing.M) {
	flag.Parse()
	noError(flag.Set("test.parallel", "16"))
	m.Run()
}

// Each operation is tried in each way. Every answer has to be described, and every
// outcome that is described has to come.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	t.Run("tried", func(t *testing.T) {
		for _, op := range operations {
			for _, y := range ways {
				if y.only != nil && !y.only(op) {
					continue
				}
				t.Run(op.id+"/"+y.name, func(t *testing.T) {
					t.Parallel()
					w := newWorld(t, c, y.conf)
					y.try(w, op.valid(w))
				})
			}
		}
	})
	documented := c.documented()
	for _, o := range documented {
		if !c.seen[o] {
			t.Errorf("%s is described and did not come", o)
		}
	}
	for o := range c.seen {
		if !strings.HasPrefix(o.code, "error.") && !slices.Contains(documented, o) {
			t.Errorf("%s came and is not described", o)
		}
	}
	for _, name := range c.unsent() {
		t.Errorf("%s is described, and no request that was done has it", name)
	}
	for _, name := range c.unseen() {
		t.Errorf("%s is described, and no answer has it", name)
	}
	for _, code := range codesOf(c.doc.Components.Schemas["RevokedKey"].Value.Properties["error"]) {
		if !c.seen[outcome{"revokeKeys", "200", "error." + code}] {
			t.Errorf("revokeKeys has no key with the error %s, which is described", code)
		}
	}
	t.Logf("%d operations, %d outcomes met, %d valid requests and %d answers checked", len(operations), len(documented), c.requests, c.answers)
}

// Each route of package admin is an operation, and each operation is one of those that
// TestOutcomes tries.
func TestEveryRouteIsDescribed(t *testing.T) {
	c := newChecker(t)
	source := must(os.ReadFile("../../admin/routes.go"))
	var routes []string
	for _, m := range regexp.MustCompile(`pattern: "([A-Z]+ [^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		routes = append(routes, m[1])
	}
	if len(routes) < 20 {
		t.Fatalf("routes.go has %d routes: is it read rightly?", len(routes))
	}
	var described, ids []string
	for path, item := range c.doc.Paths.Map() {
		for method, op := range item.Operations() {
			described, ids = append(described, method+" "+path), append(ids, op.OperationID)
		}
	}
	var tried []string
	for _, op := range operations {
		tried = append(tried, op.id)
	}
	same(t, "routes", routes, described)
	same(t, "operations", ids, tried)
}

// The description has each member and each name that the API takes. That the API takes
// each of the description is for TestOutcomes to find.
func TestNothingIsTakenThatIsNotDescribed(t *testing.T) {
	c := newChecker(t)
	for schema, one := range map[string]struct {
		of      reflect.Type
		without []string // not for a client: see the calls of read in package admin
	}{
		"CreateKey": {reflect.TypeFor[apikey.IssueRequest](), []string{"account", "idempotency_key"}},
		"UpdateKey": {reflect.TypeFor[apikey.UpdateRequest](), []string{"key", "if_version"}},
	} {
		takes := []string{"approval"}
		for _, f := range reflect.VisibleFields(one.of) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" && !slices.Contains(one.without, name) {
				takes = append(takes, name)
			}
		}
		same(t, schema, takes, slices.Collect(maps.Keys(c.doc.Components.Schemas[schema].Value.Properties)))
	}
	w := newWorld(t, c)
	w.made()
	for _, path := range []string{"/keys", "/events", "/keys/{id}/events"} {
		a := w.send(request{method: "GET", path: strings.ReplaceAll(path, "{id}", w.key) + "?zzz=1"})
		var takes, described []string
		for _, name := range a.body["fields"].([]any)[0].(map[string]any)["known"].([]any) {
			takes = append(takes, name.(string))
		}
		for _, p := range c.doc.Paths.Find("/v1" + path).Get.Parameters {
			if p.Value.In == "query" {
				described = append(described, p.Value.Name)
			}
		}
		same(t, path, takes, described)
	}
}

func same(t *testing.T, what string, a, b []string) {
	t.Helper()
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) {
		t.Errorf("%s: these differ:\n%q\n%q", what, a, b)
	}
}

// What is no operation is refused as the description's text says.
func TestOtherAddresses(t *testing.T) {
	c := newChecker(t)
	w := newWorld(t, c)
	problem := c.doc.Components.Schemas["Problem"]
	for _, one := range []struct{ method, path, code, allow string }{
		{"GET", "/api/v1/nothing", "unknown_path", ""},
		{"GET", "/api/v1/keys/", "unknown_path", ""},
		{"PUT", "/api/v1/keys", "method_not_allowed", "GET, HEAD, POST"},
		{"DELETE", "/api/v1/rules", "method_not_allowed", "GET, HEAD"},
	} {
		res := must(http.DefaultTransport.RoundTrip(must(http.NewRequest(one.method, w.url+one.path, nil))))
		var body map[string]any
		noError(json.NewDecoder(res.Body).Decode(&body))
		res.Body.Close()
		if err := problem.Value.VisitJSON(body, openapi3.EnableJSONSchema2020()); err != nil {
			t.Error(err)
		}
		if left := c.undescribed("", problem, body); len(left) > 0 || body["code"] != one.code || res.Header.Get("Allow") != one.allow {
			t.Errorf("%s %s: %v, Allow %q", one.method, one.path, body, res.Header.Get("Allow"))
		}
	}
	r := must(http.NewRequest("HEAD", w.url+"/api/v1/rules", nil))
	r.AddCookie(&http.Cookie{Name: "session", Value: user})
	res := must(http.DefaultTransport.RoundTrip(r))
	res.Body.Close()
	if res.StatusCode != 200 || res.ContentLength == 0 {
		t.Errorf("HEAD: %d", res.StatusCode)
	}
}

// The check itself: an answer that differs from the description is found.
func TestTheCheckFinds(t *testing.T) {
	c := newChecker(t)
	w := newWorld(t, c)
	w.made()
	for name, one := range map[string]struct {
		change func(a *reply)
		says   string
	}{
		"nothing":                {func(*reply) {}, ""},
		"a member more":          {func(a *reply) { a.body["colour"] = "red" }, ".colour is not described"},
		"a member more, deep":    {func(a *reply) { credentialOf(a)["pepper"] = 1 }, ".credentials[].pepper is not described"},
		"a member less":          {func(a *reply) { delete(a.body, "status") }, "status"},
		"another type":           {func(a *reply) { a.body["version"] = "1" }, "version"},
		"no time":                {func(a *reply) { a.body["created_at"] = "yesterday" }, "created_at"},
		"a value more":           {func(a *reply) { a.body["status"] = "asleep" }, "asleep"},
		"another status":         {func(a *reply) { a.status = 206 }, "status is not described"},
		"a header more":          {func(a *reply) { a.header.Set("X-Secret", "1") }, "X-Secret is not described"},
		"a header less":          {func(a *reply) { a.header.Del("ETag") }, "ETag"},
		"another Cache-Control":  {func(a *reply) { a.header.Set("Cache-Control", "public") }, "Cache-Control"},
		"another Content-Type":   {func(a *reply) { a.header.Set("Content-Type", "text/html") }, "text/html"},
		"a refusal, code unsaid": {func(a *reply) { *a = refusalOf(a, 404, "gone") }, "code"},
	} {
		t.Run(name, func(t *testing.T) {
			q := request{method: "GET", path: "/keys/" + w.key}
			r := must(http.NewRequest("GET", w.url+"/api/v1"+q.path, nil))
			r.AddCookie(&http.Cookie{Name: "session", Value: user})
			a := w.send(q)
			one.change(&a)
			if a.body != nil {
				a.text = must(json.Marshal(a.body))
			}
			_, wrong := c.wrong(q, r, nil, a)
			if all := strings.Join(wrong, "\n"); (all == "") != (one.says == "") || !strings.Contains(all, one.says) {
				t.Errorf("found: %q, want %q", all, one.says)
			}
		})
	}
	bad := request{method: "POST", path: "/keys", body: map[string]any{"mode": "live", "colour": "red"}}
	r := must(http.NewRequest("POST", w.url+"/api/v1/keys", nil))
	r.Header.Set("Content-Type", "application/json")
	r.AddCookie(&http.Cookie{Name: "session", Value: user})
	bad.wrong = true
	a := w.send(bad)
	bad.wrong = false
	if _, wrong := c.wrong(bad, r, []byte(`{"mode":"live","colour":"red"}`), a); len(wrong) == 0 {
		t.Error("a request with a member that is not described is valid")
	}
}

func credentialOf(a *reply) map[string]any { return a.body["credentials"].([]any)[0].(map[string]any) }

func refusalOf(a *reply, status int, code string) reply {
	h := a.header.Clone()
	h.Set("Content-Type", "application/problem+json")
	h.Del("ETag")
	return reply{status: status, header: h, body: map[string]any{"status": status, "code": code, "title": "t", "detail": "d", "request_id": "r"}}
}
