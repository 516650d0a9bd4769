package admin_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/apikeytest"
)

// env is a program with the API mounted at /api, as a user mounts it. A request says in a
// header who is signed in.
type env struct {
	t       *testing.T
	program *apikeytest.Program
	url     string
	log     *lockedBuffer
	config  admin.Config

	settings apikey.Settings // of the program, for another node beside it
	manager  apikey.ManagerConfig
}

const password = "correct horse"

// newEnv starts the program. What StepUp guards is for the test to say.
func newEnv(t *testing.T, changes ...func(*apikey.Settings, *apikey.ManagerConfig)) *env {
	t.Helper()
	e := &env{t: t, log: &lockedBuffer{}}
	changes = append([]func(*apikey.Settings, *apikey.ManagerConfig){func(s *apikey.Settings, c *apikey.ManagerConfig) {
		s.Catalog = apikey.MustCatalog(
			apikey.CatalogEntry{Scope: "payment:charge"}, apikey.CatalogEntry{Scope: "payment:refund"},
			apikey.CatalogEntry{Scope: "card:tokenize", Publishable: true})
		c.Factors["password"] = must(apikey.NewPassword(checkPassword))
	}}, changes...)
	changes = append(changes, func(s *apikey.Settings, c *apikey.ManagerConfig) { e.settings, e.manager = *s, *c })
	e.program = apikeytest.New(t, changes...)
	e.config = admin.Config{
		Manager: e.program.Manager, Actor: actorIn, Now: e.program.Clock.Now, Metadata: []string{"shop"},
		Logger: slog.New(slog.NewTextHandler(e.log, nil)),
	}
	e.url = e.serve(e.config)
	t.Cleanup(func() { e.holdsNoSecret("the log", e.log.String()) })
	return e
}

// secrets are what belongs in no log, URL or header, and in no answer but one.
var secrets = regexp.MustCompile(`[a-z]+_sk_(live|test)_[0-9A-Za-z]{20,}|secret=[A-Z2-7]{16,}|` + password)

// holdsNoSecret is asked of every answer that a test gets, and of the log at its end.
func (e *env) holdsNoSecret(what, text string) {
	e.t.Helper()
	if found := secrets.FindString(text); found != "" {
		e.t.Errorf("%s has %.12s…", what, found)
	}
	for _, m := range e.program.Mailbox.All() {
		if regexp.MustCompile(`\b` + m.Message.Code() + `\b`).MatchString(text) {
			e.t.Errorf("%s has the code of a mail", what)
		}
	}
}

// givesASecret reports whether the answer is where a new token, a shown one or a setup key
// belongs.
func givesASecret(q request, a reply) bool {
	return q.method == "POST" && a.status < 300 && a.status != 202 &&
		(q.path == "/keys" || strings.HasSuffix(q.path, "/rotate") || strings.HasSuffix(q.path, "/reveal") || strings.HasSuffix(q.path, "/enroll"))
}

func (e *env) serve(c admin.Config) string {
	e.t.Helper()
	api, err := admin.New(c)
	require.NoError(e.t, err)
	mux := http.NewServeMux()
	mux.Handle("/api/", http.StripPrefix("/api", api))
	server := httptest.NewServer(mux)
	e.t.Cleanup(server.Close)
	return server.URL
}

// actorIn reads account/person/role from the header X-User.
func actorIn(r *http.Request) (apikey.Actor, error) {
	parts := strings.Split(r.Header.Get("X-User"), "/")
	if len(parts) != 3 {
		return apikey.Actor{}, admin.ErrSignIn
	}
	return apikey.Actor{Account: parts[0], ID: parts[1], Role: parts[2]}, nil
}

// reply is an answer of the API.
type reply struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// request is one request; the zero one is a GET.
type request struct {
	user    string // "acc_1/usr_1/admin" if empty, "-" for nobody
	method  string
	path    string // below /api/v1
	body    any    // a string as it is, anything else as JSON; nil: none
	header  map[string]string
	without []string // headers that are usually sent
}

const anna, other = "acc_1/anna/admin", "acc_2/olga/admin"

func (e *env) do(q request) reply {
	e.t.Helper()
	return e.at(e.url, q)
}

func (e *env) at(url string, q request) reply {
	e.t.Helper()
	a, err := send(url, q)
	require.NoError(e.t, err)
	what := q.method + " " + q.path
	if !givesASecret(q, a) {
		e.holdsNoSecret("the answer to "+what, a.text)
	}
	var headers strings.Builder
	require.NoError(e.t, a.header.Write(&headers))
	e.holdsNoSecret("a header of "+what, headers.String())
	e.holdsNoSecret("the URL", q.path)
	return a
}

func send(url string, q request) (reply, error) {
	var body io.Reader
	switch b := q.body.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return reply{}, err
		}
		body = bytes.NewReader(text)
	}
	if q.method == "" {
		q.method = "GET"
	}
	r, err := http.NewRequest(q.method, url+"/api/v1"+q.path, body)
	if err != nil {
		return reply{}, err
	}
	r.Header.Set("Origin", url)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if q.user == "" {
		q.user = anna
	}
	if q.user != "-" {
		r.Header.Set("X-User", q.user)
	}
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	for _, name := range q.without {
		r.Header.Del(name)
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	a := reply{status: res.StatusCode, header: res.Header, text: string(text)}
	if len(text) > 0 && strings.Contains(res.Header.Get("Content-Type"), "json") {
		err = json.Unmarshal(text, &a.body)
	}
	return a, err
}

func (e *env) post(path string, body any) reply {
	e.t.Helper()
	return e.do(request{method: "POST", path: path, body: body})
}

// issue issues a live key of the account, by the Manager.
func (e *env) issue(account string, change ...func(*apikey.IssueRequest)) apikey.Issued {
	e.t.Helper()
	req := apikey.IssueRequest{Mode: apikey.Live, Name: "Shop", Abilities: []string{"payment:charge"}}
	for _, c := range change {
		c(&req)
	}
	return e.program.Issue(account, req)
}

// issued is a key of acc_1 that was made where nothing is guarded: by a Manager beside e.
func (e *env) issued() apikey.Info {
	e.t.Helper()
	open := e.manager
	open.StepUp = nil
	m, err := apikey.NewManager(e.t.Context(), e.settings, open)
	require.NoError(e.t, err)
	made, err := m.Issue(e.program.Admin("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(e.t, err)
	return made.Key
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
