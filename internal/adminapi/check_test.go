package adminapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// checker compares requests and answers with the description, and notes what it has seen.
type checker struct {
	doc    *openapi3.T
	router routers.Router

	mu       sync.Mutex
	seen     map[outcome]bool
	sent     map[string]bool               // "createKey body.name", "listKeys query.mode", of requests that were done
	members  map[*openapi3.Schema][]string // of answers
	requests int                           // that were valid
	answers  int
}

// outcome is an answer of an operation: its status and, for a refusal, its code.
type outcome struct {
	operation, status, code string
}

func (o outcome) String() string {
	return strings.TrimSpace(o.operation + ": " + o.status + " " + o.code)
}

func newChecker(t testing.TB) *checker {
	t.Helper()
	doc := must(openapi3.NewLoader().LoadFromFile("../../admin/openapi.yaml"))
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &checker{doc: doc, router: must(gorillamux.NewRouter(doc)), seen: map[outcome]bool{}, sent: map[string]bool{}, members: map[*openapi3.Schema][]string{}}
}

// documented are the outcomes that the description has.
func (c *checker) documented() (all []outcome) {
	for _, item := range c.doc.Paths.Map() {
		for _, op := range item.Operations() {
			for status, response := range op.Responses.Map() {
				if status == "default" {
					continue
				}
				codes := []string{""}
				if problem := response.Value.Content["application/problem+json"]; problem != nil {
					codes = codesOf(problem.Schema)
				}
				for _, code := range codes {
					all = append(all, outcome{op.OperationID, status, code})
				}
			}
		}
	}
	return all
}

// codesOf are the values that a refusal's code can have.
func codesOf(s *openapi3.SchemaRef) (codes []string) {
	if code := s.Value.Properties["code"]; code != nil {
		for _, v := range code.Value.Enum {
			codes = append(codes, v.(string))
		}
	}
	for _, part := range s.Value.AllOf {
		codes = append(codes, codesOf(part)...)
	}
	return codes
}

// exchange checks one request and its answer.
func (c *checker) exchange(t testing.TB, q request, r *http.Request, body []byte, a reply) {
	t.Helper()
	operation, wrong := c.wrong(q, r, body, a)
	for _, w := range wrong {
		t.Errorf("%s %s: %d: %s\n%s", q.method, q.path, a.status, w, a.text)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[outcome{operation, strconv.Itoa(a.status), a.code()}] = true
	for _, code := range inside(a.body) {
		c.seen[outcome{operation, strconv.Itoa(a.status), "error." + code}] = true
	}
	if a.status < 300 {
		var members map[string]any
		json.Unmarshal(body, &members)
		for name := range members {
			c.sent[operation+" body."+name] = true
		}
		for name := range r.URL.Query() {
			c.sent[operation+" query."+name] = true
		}
		for name := range r.Header {
			c.sent[operation+" header."+http.CanonicalHeaderKey(name)] = true
		}
	}
	c.answers++
	if !q.wrong {
		c.requests++
	}
}

// inside are the codes of the refusals of single keys.
func inside(body map[string]any) (codes []string) {
	for _, list := range []any{body["data"], body["failed"]} {
		items, _ := list.([]any)
		for _, item := range items {
			if refusal, ok := item.(map[string]any)["error"].(map[string]any); ok {
				codes = append(codes, refusal["code"].(string))
			}
		}
	}
	return codes
}

// sameEverywhere are the headers that every answer has; see the description's text.
var sameEverywhere = map[string]string{
	"Cache-Control":                "no-store, no-transform",
	"Content-Security-Policy":      "default-src 'none'; frame-ancestors 'none'",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "same-origin",
	"X-Content-Type-Options":       "nosniff",
}

// ofHTTP are the headers that the description need not have.
var ofHTTP = []string{"Content-Type", "Content-Length", "Date", "Connection"}

func (c *checker) wrong(q request, sent *http.Request, body []byte, a reply) (operation string, wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for name, value := range sameEverywhere {
		if a.header.Get(name) != value {
			say("the header %s is %q", name, a.header.Get(name))
		}
	}
	r := sent.Clone(sent.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.URL = must(url.Parse(r.URL.String()))
	route, params, err := c.router.FindRoute(r)
	if err != nil {
		say("no operation: %v", err)
		return "", wrong
	}
	operation = route.Operation.OperationID
	options := &openapi3filter.Options{
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, MultiError: true,
		RejectWhenRequestBodyNotSpecified: true, SkipSettingDefaults: true,
		SchemaValidationOptions: []openapi3.SchemaValidationOption{openapi3.EnableJSONSchema2020(), openapi3.EnableFormatValidation()},
	}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options}
	if !q.wrong {
		if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
			say("the request: %v", err)
		}
	}
	ref := route.Operation.Responses.Value(strconv.Itoa(a.status))
	if ref == nil {
		say("the status is not described")
		return operation, wrong
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: a.status, Header: a.header, Options: options}
	out.SetBodyBytes(a.text)
	if err := openapi3filter.ValidateResponse(r.Context(), out); err != nil {
		say("the answer: %v", err)
	}
	for name := range a.header {
		described := slices.ContainsFunc(slices.Collect(maps.Keys(ref.Value.Headers)), func(n string) bool { return http.CanonicalHeaderKey(n) == name })
		if _, same := sameEverywhere[name]; !described && !same && !slices.Contains(ofHTTP, name) {
			say("the header %s is not described", name)
		}
	}
	fields, _ := a.body["fields"].([]any)
	for _, f := range fields {
		field, _ := f.(map[string]any)["field"].(string)
		if unknown := f.(map[string]any)["code"] == "unknown"; !unknown && !c.isField(route.Operation, field) {
			say("no field of the request has the name %q", field)
		}
	}
	media, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	switch content := ref.Value.Content[media]; {
	case content != nil && a.body != nil:
		for _, m := range c.undescribed("", content.Schema, a.body) {
			say("the member %s is not described", m)
		}
	case content == nil && (len(a.text) > 0 || media != ""):
		say("a body of %q is not described", media)
	}
	return operation, wrong
}

// undescribed lists the members of a value that its schema does not name. A schema of an
// answer allows more, because a later version may have more; this version has none.
func (c *checker) undescribed(at string, s *openapi3.SchemaRef, value any) (names []string) {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			found := c.membersNamed(s, name)
			if len(found) == 0 {
				names = append(names, at+"."+name)
			}
			for _, f := range found {
				names = append(names, c.undescribed(at+"."+name, f, member)...)
			}
		}
	case []any:
		for _, item := range v {
			if s.Value.Items == nil {
				return append(names, at+"[]")
			}
			names = append(names, c.undescribed(at+"[]", s.Value.Items, item)...)
		}
	}
	return names
}

func (c *checker) membersNamed(s *openapi3.SchemaRef, name string) (found []*openapi3.SchemaRef) {
	if p := s.Value.Properties[name]; p != nil {
		found = append(found, p)
		c.mu.Lock()
		if !slices.Contains(c.members[s.Value], name) {
			c.members[s.Value] = append(c.members[s.Value], name)
		}
		c.mu.Unlock()
	}
	if more := s.Value.AdditionalProperties.Schema; more != nil && len(found) == 0 {
		found = append(found, more)
	}
	for _, part := range s.Value.AllOf {
		found = append(found, c.membersNamed(part, name)...)
	}
	return found
}

// unsent are the parts of requests that the description has and that no request had which
// was done: a name that the API does not know is refused.
func (c *checker) unsent() (names []string) {
	for _, item := range c.doc.Paths.Map() {
		for _, op := range item.Operations() {
			all := map[string]bool{}
			for _, p := range op.Parameters {
				switch p.Value.In {
				case "query":
					all["query."+p.Value.Name] = true
				case "header":
					all["header."+http.CanonicalHeaderKey(p.Value.Name)] = true
				}
			}
			if op.RequestBody != nil {
				for name := range op.RequestBody.Value.Content["application/json"].Schema.Value.Properties {
					all["body."+name] = true
				}
			}
			for name := range all {
				if !c.sent[op.OperationID+" "+name] {
					names = append(names, op.OperationID+" "+name)
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

// unseen are the members of answers that the description has and no answer had.
func (c *checker) unseen() (names []string) {
	done := map[*openapi3.Schema]bool{}
	var look func(at string, s *openapi3.SchemaRef)
	look = func(at string, s *openapi3.SchemaRef) {
		if s == nil || done[s.Value] {
			return
		}
		done[s.Value] = true
		for name, member := range s.Value.Properties {
			if !slices.Contains(c.members[s.Value], name) {
				names = append(names, at+"."+name)
			}
			look(at+"."+name, member)
		}
		look(at+"[]", s.Value.Items)
		for _, part := range s.Value.AllOf {
			look(at, part)
		}
	}
	for path, item := range c.doc.Paths.Map() {
		for _, op := range item.Operations() {
			for status, response := range op.Responses.Map() {
				for media, content := range response.Value.Content {
					if media != "application/yaml" && status != "default" {
						look(path+" "+status, content.Schema)
					}
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

// isField reports whether a request of the operation can have a field with that name.
func (c *checker) isField(op *openapi3.Operation, name string) bool {
	switch name {
	case "", "query", "If-Match", "Idempotency-Key": // where they mean nothing, too
		return true
	}
	for _, p := range op.Parameters {
		if p.Value.Name == name {
			return true
		}
	}
	if op.RequestBody == nil {
		return false
	}
	members := op.RequestBody.Value.Content["application/json"].Schema.Value.Properties
	part, ofApproval := strings.CutPrefix(name, "approval.")
	if ofApproval && members["approval"] != nil {
		return slices.Contains([]string{"factor", "resend", "challenge", "answer"}, part)
	}
	return members[name] != nil
}
