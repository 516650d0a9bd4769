package unittest_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/examples/unittest"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/memstore"
)

// program is the API under test, with real keys.
type program struct {
	t       *testing.T
	admin   context.Context
	keys    *apikey.Manager
	handler http.Handler
	bank    *bank
	now     time.Time // the time for all keys: a test changes it, and does not have to sleep
}

// newProgram uses the hasher HMACSHA256, so that tests are fast: it takes a microsecond,
// and the default hasher, argon2id, some 20 milliseconds. Programs use both in production.
// HMACSHA256 needs a pepper, which may be another one in every run.
func newProgram(t *testing.T) *program {
	p := &program{t: t, bank: &bank{}, now: time.Now()}
	ctx := context.Background()
	p.admin = apikey.WithActor(ctx, apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})

	var secret [32]byte
	rand.Read(secret[:])
	pepper, err := apikey.NewPepper(1, secret)
	require.NoError(t, err)
	hasher, err := apikey.NewHMACSHA256(pepper)
	require.NoError(t, err)
	p.keys, err = apikey.NewManager(ctx, apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: unittest.Catalog, Peppers: []apikey.Pepper{pepper}, Hashers: []apikey.Hasher{hasher},
		Now: func() time.Time { return p.now },
	}, apikey.ManagerConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { p.keys.Close(ctx) })
	// Start no goroutine that reads the clock while the test changes it. Sync is not needed,
	// because the Manager passes each change on to its Verifiers. "Last used" is not tested
	// here.
	verifier, err := p.keys.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Live, Sync: -1, ReadOnly: true})
	require.NoError(t, err)
	p.handler = unittest.Routes(httpauth.New(verifier, httpauth.Config{}), p.bank)
	return p
}

func (p *program) issue(change func(*apikey.IssueRequest)) apikey.Issued {
	p.t.Helper()
	req := apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refund"}}
	if change != nil {
		change(&req)
	}
	issued, err := p.keys.Issue(p.admin, req)
	require.NoError(p.t, err)
	return issued
}

func refund(h http.Handler, token string, amount int64) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/v1/payments/pay_7/refund", strings.NewReader(fmt.Sprintf(`{"amount":%d}`, amount)))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Each line has a key that a Manager has made, and the status that the route answers.
func TestWhoMayRefund(t *testing.T) {
	tests := []struct {
		name   string
		key    func(*apikey.IssueRequest)
		then   func(*program, apikey.Issued)
		amount int64
		status int
	}{
		{name: "a key with the ability", amount: 500, status: 204},
		{name: "without", key: func(r *apikey.IssueRequest) { r.Abilities = nil }, amount: 500, status: 403},
		{name: "of the sandbox", key: func(r *apikey.IssueRequest) { r.Mode = apikey.Test }, amount: 500, status: 403},
		{name: "too much for it", amount: 100_01, status: 403},
		{name: "a wildcard is enough", key: func(r *apikey.IssueRequest) { r.Abilities = []string{"payment:*"} }, amount: 500, status: 204},
		{name: "revoked", amount: 500, status: 401, then: func(p *program, k apikey.Issued) {
			require.NoError(p.t, p.keys.Revoke(p.admin, apikey.RevokeRequest{Key: k.Key.ID}))
		}},
		{
			name: "expired", amount: 500, status: 401,
			key:  func(r *apikey.IssueRequest) { r.ExpiresAt = time.Now().Add(time.Hour) },
			then: func(p *program, _ apikey.Issued) { p.now = p.now.Add(2 * time.Hour) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProgram(t)
			issued := p.issue(tt.key)
			if tt.then != nil {
				tt.then(p, issued)
			}
			w := refund(p.handler, issued.Token.Reveal(), tt.amount)
			require.Equal(t, tt.status, w.Code, w.Body)
			if tt.status == 204 {
				require.Equal(t, []string{"acc_1 pay_7 500"}, p.bank.refunds)
			} else {
				require.Empty(t, p.bank.refunds)
			}
		})
	}
}

func TestNoKey(t *testing.T) {
	p := newProgram(t)
	require.Equal(t, 401, refund(p.handler, "", 500).Code)
	require.Equal(t, 401, refund(p.handler, "acme_sk_live_guessed", 500).Code)
	require.Empty(t, p.bank.refunds)
}

// To test the handler alone, no real key, store or Guard is needed: apikey.Key is an
// interface with two methods, and the handler gets it from the context.
func TestRefundsAlone(t *testing.T) {
	for _, large := range []bool{false, true} {
		b := &bank{}
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.SetPathValue("id", "pay_7")
			unittest.Refunds(b).ServeHTTP(w, r.WithContext(apikey.NewContext(r.Context(), fakeKey{large})))
		})
		w := refund(handler, "", 100_01)
		if large {
			require.Equal(t, 204, w.Code, w.Body)
			require.Equal(t, []string{"acc_2 pay_7 10001"}, b.refunds)
		} else {
			require.Equal(t, 403, w.Code, w.Body)
			require.Empty(t, b.refunds)
		}
	}
}

type fakeKey struct{ can bool }

func (k fakeKey) Info() apikey.Info          { return apikey.Info{Account: "acc_2", Mode: apikey.Live} }
func (k fakeKey) Can(...apikey.Ability) bool { return k.can }

// bank records the refunds that it is asked for.
type bank struct{ refunds []string }

func (b *bank) Refund(_ context.Context, account, payment string, amount int64) error {
	b.refunds = append(b.refunds, fmt.Sprint(account, " ", payment, " ", amount))
	return nil
}
