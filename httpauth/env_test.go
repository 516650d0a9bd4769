package httpauth_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/memstore"
)

const (
	refund   = apikey.Scope("payment:refund")
	tokenise = apikey.Scope("card:tokenise")
)

// env is a program with a store that can be made to fail and a clock that the test moves.
// Its answers and its log are searched for tokens.
type env struct {
	t        testing.TB
	ctx      context.Context
	manager  *apikey.Manager
	verifier *apikey.Verifier
	store    *store
	settings apikey.Settings // of the Verifier; the Manager has them as they were before the options
	logs     *buffer
	minted   []string

	mu  sync.Mutex
	now time.Time
}

// newEnv makes a program with a pepper and a fast hasher. The options may change the
// Verifier's configuration before the Verifier starts.
func newEnv(t testing.TB, options ...func(*env)) *env {
	t.Helper()
	e := &env{t: t, store: &store{Store: memstore.New()}, logs: &buffer{}, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	e.ctx = apikey.WithActor(t.Context(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	pepper, err := apikey.NewPepper(1, [32]byte{1, 2, 3})
	require.NoError(t, err)
	hasher, err := apikey.NewHMACSHA256(pepper)
	require.NoError(t, err)
	e.settings = apikey.Settings{
		Store: e.store, Prefix: "acme", Hashers: []apikey.Hasher{hasher}, Peppers: []apikey.Pepper{pepper}, Logger: e.logger(), Now: e.clock,
		Catalog: apikey.MustCatalog(
			apikey.CatalogEntry{Scope: "payment:refund"}, apikey.CatalogEntry{Scope: "payment:verify"},
			apikey.CatalogEntry{Scope: "card:tokenise", Publishable: true}),
	}
	managers := e.settings
	managers.Store, managers.Logger = e.store.Store, nil
	for _, o := range options {
		o(e)
	}
	managers.Peppers = e.settings.Peppers
	// The Verifier is of another process, so that a test can make that process unlike the
	// Manager's. It is told of each change at once.
	e.manager, err = apikey.NewManager(t.Context(), managers, apikey.ManagerConfig{OnEvent: func(apikey.Event) {
		if e.verifier != nil {
			require.NoError(t, e.verifier.Sync(context.Background()))
		}
	}})
	require.NoError(t, err)
	e.verifier, err = apikey.NewVerifier(t.Context(), e.settings, apikey.VerifierConfig{Mode: apikey.Live, Sync: -1})
	require.NoError(t, err)
	t.Cleanup(func() { e.verifier.Close(context.Background()) })
	return e
}

// unsealed gives the program no peppers. So its records have no MAC, and the test can edit
// them.
func unsealed(e *env) { e.settings.Peppers = nil }

func (e *env) clock() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

func (e *env) move(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = e.now.Add(d)
}

func (e *env) logger() *slog.Logger { return slog.New(slog.NewTextHandler(e.logs, nil)) }

// guard makes a Guard that writes to the log that read searches for tokens.
func (e *env) guard(c httpauth.Config) *httpauth.Guard {
	c.Logger = e.logger()
	return httpauth.New(e.verifier, c)
}

// issue makes a live secret key that may refund. The options may change the request.
func (e *env) issue(options ...func(*apikey.IssueRequest)) apikey.Issued {
	e.t.Helper()
	req := apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{refund.String()}}
	for _, o := range options {
		o(&req)
	}
	issued, err := e.manager.Issue(e.ctx, req)
	require.NoError(e.t, err)
	e.minted = append(e.minted, issued.Token.Reveal())
	return issued
}

// answer is a response and its whole body.
type answer struct {
	*http.Response
	body string
}

// send sends the request to a real server that runs h.
func (e *env) send(h http.Handler, r *http.Request) answer {
	e.t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	target, err := r.URL.Parse(server.URL + r.URL.RequestURI())
	require.NoError(e.t, err)
	r.URL, r.Host, r.RequestURI = target, "", ""
	resp, err := server.Client().Do(r)
	require.NoError(e.t, err)
	return e.read(resp)
}

// serve calls h without a network, for requests that no client can send.
func (e *env) serve(h http.Handler, r *http.Request) answer {
	e.t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return e.read(w.Result())
}

// read reads an answer. The test fails if a token is in the answer or in the log.
func (e *env) read(resp *http.Response) answer {
	e.t.Helper()
	body, err := io.ReadAll(resp.Body)
	require.NoError(e.t, err)
	head, err := httputil.DumpResponse(resp, false)
	require.NoError(e.t, err)
	for _, token := range e.minted {
		// Search for the secret alone, because it would do harm too.
		secret := token[len(token)-51 : len(token)-18]
		for where, text := range map[string]string{"header": string(head), "body": string(body), "log": e.logs.String()} {
			require.NotContains(e.t, text, secret, "a token in the %s", where)
		}
	}
	return answer{resp, string(body)}
}

// ok returns a handler that requires a key in its context and counts its calls.
func (e *env) ok() (h http.Handler, ran *int) {
	ran = new(int)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*ran++
		_, has := apikey.FromContext(r.Context())
		require.True(e.t, has)
		io.WriteString(w, "done")
	}), ran
}

func get(headers ...string) *http.Request { return request(http.MethodGet, headers...) }

// request makes a request. headers are pairs of a name and a value; a name may occur twice.
func request(method string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, "/v1/refunds", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func bearer(i apikey.Issued) string { return "Bearer " + i.Token.Reveal() }

// store is a Store whose reads the test can edit, delay and fail.
type store struct {
	apikey.Store
	mu     sync.Mutex
	lookup func(context.Context, *apikey.StoreRecord) error
	down   error
}

func (s *store) onLookup(f func(context.Context, *apikey.StoreRecord) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookup = f
}

func (s *store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
}

func (s *store) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	s.mu.Lock()
	lookup, down := s.lookup, s.down
	s.mu.Unlock()
	if down != nil {
		return apikey.StoreRecord{}, down
	}
	r, err := s.Store.Lookup(ctx, id)
	if err == nil && lookup != nil {
		err = lookup(ctx, &r)
	}
	return r, err
}

func (s *store) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	if down != nil {
		return apikey.StoreChanges{}, down
	}
	return s.Store.Changed(ctx, after, limit)
}

// buffer is a log that several goroutines may write to.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
