package unittest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/apikeytest"
	"github.com/go-apikey/apikey/examples/unittest"
	"github.com/go-apikey/apikey/httpauth"
)

// program is the API under test, with real keys.
type program struct {
	*apikeytest.Program
	handler http.Handler
	bank    *bank
}

func newProgram(t *testing.T) *program {
	p := &program{bank: &bank{}, Program: apikeytest.New(t, func(s *apikey.Settings, _ *apikey.ManagerConfig) {
		s.Catalog = unittest.Catalog
	})}
	p.handler = unittest.Routes(httpauth.New(p.Live, httpauth.Config{}), p.bank)
	return p
}

func (p *program) issue(change func(*apikey.IssueRequest)) apikey.Issued {
	req := apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refund"}}
	if change != nil {
		change(&req)
	}
	return p.Issue("acc_1", req)
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
			require.NoError(t, p.Manager.Revoke(p.Admin("acc_1"), apikey.RevokeRequest{Key: k.Key.ID}))
		}},
		{
			name: "expired", amount: 500, status: 401,
			key:  func(r *apikey.IssueRequest) { r.ExpiresAt = time.Now().Add(time.Hour) },
			then: func(p *program, _ apikey.Issued) { p.Clock.Move(2 * time.Hour) },
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
