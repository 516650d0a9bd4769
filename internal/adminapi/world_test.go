// Package adminapi_test holds the description of the API of package admin,
// admin/openapi.yaml, against the API itself over real HTTP. It is a module of its own
// because of the library that reads OpenAPI.
package adminapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/apikeytest"
)

// world is a program with the API mounted at /api, and what can fail in it.
type world struct {
	t       testing.TB
	program *apikeytest.Program
	url     string
	check   *checker

	guards   atomic.Bool // StepUp guards all that it can guard
	refuses  atomic.Bool // Standing refuses the account
	kekFails atomic.Bool
	hash     atomic.Pointer[error] // what the Hasher returns
	store    *faultyStore

	key, credential string // what the request is about
	uri             string // of the app that is set up
	factor          string // that approves
}

// asks is an approval that asks by the factor.
func (w *world) asks() map[string]any { return map[string]any{"factor": w.factor} }

// answer is the right one.
func (w *world) answer() string {
	if w.factor == "totp" {
		return w.program.Code(w.uri)
	}
	return password
}

const (
	password = "correct horse"
	user     = "acc_1/anna/admin"
)

var errAway = errors.New("connection refused")

func newWorld(t testing.TB, check *checker, change ...func(*apikey.Settings, *apikey.ManagerConfig)) *world {
	w := &world{t: t, check: check, factor: "password"}
	var hasher apikey.Hasher
	change = append([]func(*apikey.Settings, *apikey.ManagerConfig){func(s *apikey.Settings, c *apikey.ManagerConfig) {
		w.store = &faultyStore{Store: s.Store}
		s.Store = w.store
		s.Catalog = apikey.MustCatalog(
			apikey.CatalogEntry{Scope: "payment:charge", Description: "Charge a card"}, apikey.CatalogEntry{Scope: "payment:refund"},
			apikey.CatalogEntry{Product: "balance"}, apikey.CatalogEntry{Scope: "card:tokenize", Publishable: true})
		hasher = s.Hashers[0]
		s.Hashers = []apikey.Hasher{faultyHasher{hasher, w}}
		s.Standing = standing{w}
		c.Factors["password"] = must(apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) { return answer == password, nil }))
		c.Factors["app"] = must(apikey.NewTOTP("test", s.Now))
		c.KEKs = []apikey.KEK{faultyKEK{c.KEKs[0], w}}
		c.StepUp = func(action apikey.Action, _ apikey.Mode) []string {
			if action == apikey.ActionReveal || w.guards.Load() && canBeGuarded[action] {
				return []string{"password", "email", "totp"}
			}
			return nil
		}
	}}, change...)
	w.program = apikeytest.New(t, slices.DeleteFunc(change, func(f func(*apikey.Settings, *apikey.ManagerConfig)) bool { return f == nil })...)
	api := must(admin.New(admin.Config{Manager: w.program.Manager, Actor: actorIn, Now: w.program.Clock.Now, Metadata: []string{"shop"}}))
	mux := http.NewServeMux()
	mux.Handle("/api/", http.StripPrefix("/api", api))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

var canBeGuarded = map[apikey.Action]bool{
	apikey.ActionIssue: true, apikey.ActionProvision: true, apikey.ActionUpdate: true, apikey.ActionWiden: true,
	apikey.ActionResume: true, apikey.ActionRotate: true, apikey.ActionReveal: true, apikey.ActionRevoke: true,
	apikey.ActionAllowEnrollment: true, apikey.ActionDisable: true, apikey.ActionLiftLock: true,
}

// actorIn reads account/person/role from the session cookie.
func actorIn(r *http.Request) (apikey.Actor, error) {
	cookie, err := r.Cookie("session")
	if err != nil {
		return apikey.Actor{}, admin.ErrSignIn
	}
	parts := strings.Split(cookie.Value, "/")
	switch {
	case cookie.Value == "away":
		return apikey.Actor{}, errAway
	case cookie.Value == "operator":
		return apikey.Operator("staff"), nil
	case len(parts) != 3:
		return apikey.Actor{}, admin.ErrSignIn
	}
	return apikey.Actor{Account: parts[0], ID: parts[1], Role: parts[2]}, nil
}

// as is a context in which an actor of the account acts.
func (w *world) as(person string) context.Context {
	return apikey.WithActor(w.t.Context(), apikey.Actor{Account: "acc_1", ID: person, Role: "admin"})
}

type standing struct{ w *world }

func (s standing) Allowed(string, apikey.Mode) error {
	if s.w.refuses.Load() {
		return errors.New("invoices are not paid")
	}
	return nil
}

type faultyKEK struct {
	apikey.KEK
	w *world
}

func (k faultyKEK) Wrap(ctx context.Context, dek, aad []byte) ([]byte, error) {
	if k.w.kekFails.Load() {
		return nil, errAway
	}
	return k.KEK.Wrap(ctx, dek, aad)
}

func (k faultyKEK) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if k.w.kekFails.Load() {
		return nil, errAway
	}
	return k.KEK.Unwrap(ctx, wrapped, aad)
}

type faultyHasher struct {
	apikey.Hasher
	w *world
}

func (h faultyHasher) Hash(ctx context.Context, token []byte) (string, error) {
	if err := h.w.hash.Load(); err != nil {
		return "", *err
	}
	return h.Hasher.Hash(ctx, token)
}

// faultyStore fails as its fields say.
type faultyStore struct {
	apikey.Store
	away, conflicts, damagesKeys, damagesSealed, unreadable, used atomic.Bool
	damages                                                       atomic.Value // the kind of items whose data are damaged
}

func (s *faultyStore) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	if s.away.Load() {
		return apikey.StoreRecord{}, errAway
	}
	r, err := s.Store.Get(ctx, id)
	if err == nil && s.unreadable.Load() {
		return apikey.StoreRecord{}, &apikey.CorruptError{Key: id, Account: "acc_1", Detail: "the row cannot be read"}
	}
	if s.damagesKeys.Load() {
		r.Name += " of somebody else"
	}
	if s.used.Load() {
		for i := range r.Credentials {
			r.Credentials[i].LastUsed = r.CreatedAt
		}
	}
	if s.damagesSealed.Load() {
		for i := range r.Credentials {
			r.Credentials[i].Sealed = []byte("damaged")
		}
	}
	return r, err
}

func (s *faultyStore) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	if s.away.Load() {
		return apikey.StorePage{}, errAway
	}
	page, err := s.Store.List(ctx, f)
	if err == nil && s.unreadable.Load() {
		page.Damaged = append(page.Damaged, &apikey.CorruptError{Detail: "not even the ID can be read"})
	}
	if s.damagesKeys.Load() {
		for i := range page.Records {
			page.Records[i].Name += " of somebody else"
		}
	}
	return page, err
}

func (s *faultyStore) Items(ctx context.Context, f apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	if s.away.Load() {
		return apikey.StoreItemPage{}, errAway
	}
	page, err := s.Store.Items(ctx, f)
	if kind, _ := s.damages.Load().(apikey.StoreItemKind); kind == f.Kind {
		for i := range page.Items {
			page.Items[i].Data = []byte("damaged")
		}
	}
	return page, err
}

func (s *faultyStore) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	if s.away.Load() {
		return apikey.StoreEventPage{}, errAway
	}
	page, err := s.Store.Events(ctx, f)
	if s.damagesKeys.Load() {
		for i := range page.Events {
			page.Events[i].Body = []byte("damaged")
		}
	}
	return page, err
}

func (s *faultyStore) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	switch {
	case s.away.Load():
		return errAway
	case s.conflicts.Load():
		return apikey.ErrConflict
	}
	return s.Store.Apply(ctx, changes...)
}

// request is one request. Its body is an object, or a text that is sent as it is.
type request struct {
	method string
	path   string // below /api/v1
	user   string // empty: user; "-": nobody
	body   any
	header map[string]string // "-": left out
	wrong  bool              // it is not valid by the description
}

// with returns the request with more members in its body.
func (q request) with(members map[string]any) request {
	all := map[string]any{}
	if have, ok := q.body.(map[string]any); ok {
		for name, value := range have {
			all[name] = value
		}
	}
	for name, value := range members {
		all[name] = value
	}
	q.body = all
	return q
}

// sending returns the request with another header.
func (q request) sending(name, value string) request {
	all := map[string]string{name: value}
	for n, v := range q.header {
		if n != name {
			all[n] = v
		}
	}
	q.header = all
	return q
}

func (q request) by(user string) request {
	q.user = user
	return q
}

type reply struct {
	status int
	header http.Header
	text   []byte
	body   map[string]any
}

func (r reply) code() string {
	code, _ := r.body["code"].(string)
	return code
}

// send sends the request, and checks it and its answer against the description.
func (w *world) send(q request) reply {
	w.t.Helper()
	var text []byte
	switch b := q.body.(type) {
	case nil:
	case string:
		text = []byte(b)
	default:
		text = must(json.Marshal(b))
	}
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(text)
	}
	r := must(http.NewRequestWithContext(w.t.Context(), q.method, w.url+"/api/v1"+q.path, body))
	r.Header.Set("Origin", w.url)
	if q.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	switch q.user {
	case "":
		r.AddCookie(&http.Cookie{Name: "session", Value: user})
	case "-":
	default:
		r.AddCookie(&http.Cookie{Name: "session", Value: q.user})
	}
	for name, value := range q.header {
		if r.Header.Set(name, value); value == "-" {
			r.Header.Del(name)
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	a := reply{status: res.StatusCode, header: res.Header, text: must(io.ReadAll(res.Body))}
	if strings.Contains(res.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(a.text, &a.body); err != nil {
			w.t.Errorf("%s %s: %v", q.method, q.path, err)
		}
	}
	w.check.exchange(w.t, q, r, text, a)
	return a
}

// approving sends the guarded request with an approval by password.
func (w *world) approving(q request, answer string) reply {
	asked := w.send(q.with(map[string]any{"approval": w.asks()}))
	if asked.status != 202 {
		return asked
	}
	return w.send(q.with(map[string]any{"approval": map[string]any{"challenge": asked.body["id"], "answer": answer}}))
}

// lock locks the actor by a hundred wrong answers.
func (w *world) lock(actor context.Context) {
	about := apikey.EnrollRequest{Factor: "app"}
	for {
		challenge, err := w.program.Manager.Challenge(actor, "password", about)
		switch {
		case errors.Is(err, apikey.ErrLocked):
			return
		case errors.Is(err, apikey.ErrTooManyAttempts):
			w.program.Clock.Move(time.Hour + time.Second)
			continue
		case err != nil:
			w.t.Fatal(err)
		}
		if _, err := w.program.Manager.Confirm(actor, challenge.ID, "wrong"); !errors.Is(err, apikey.ErrDenied) {
			w.t.Fatal(err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
