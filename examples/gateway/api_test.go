package main_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// TestRoutes calls every route with every kind of key.
func TestRoutes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	live, test := p.keys["LIVE_SECRET_KEY"], p.keys["TEST_SECRET_KEY"]
	_, stdout, _ := run(t, dir, "-issue", "live", "-abilities", "payout=write")
	payouts := strings.TrimSpace(strings.TrimPrefix(stdout, "LIVE_SECRET_KEY="))
	at := len(live) - 30 // an index in the middle of the secret
	wrong := live[:at] + string(live[at]^1) + live[at+1:]
	relabelled := strings.Replace(test, "_test_", "_live_", 1)
	keys := []string{"", wrong, relabelled, live, test, p.keys["LIVE_PUBLISHABLE_KEY"], p.keys["TEST_PUBLISHABLE_KEY"], payouts}

	livePayment, testPayment := p.pay(live, 1000), p.pay(test, 1000)
	card := fmt.Sprintf(`{"number":%q,"exp_month":12,"exp_year":2040}`, cardNumber)
	tests := []struct {
		method, path, body string
		// One status for each key: none, wrong, relabelled, live, test, live publishable,
		// test publishable, payouts.
		want [8]int
	}{
		{"POST", "/v1/checkouts", `{"amount":100,"currency":"EUR"}`, [8]int{401, 401, 401, 201, 201, 403, 403, 403}},
		{"GET", "/v1/payments/" + livePayment, "", [8]int{401, 401, 401, 200, 404, 403, 403, 403}},
		{"GET", "/v1/payments/" + testPayment, "", [8]int{401, 401, 401, 404, 200, 403, 403, 403}},
		{"GET", "/v1/payments/pay_none", "", [8]int{401, 401, 401, 404, 404, 403, 403, 403}},
		{"POST", "/v1/refunds", `{"payment":"` + livePayment + `","amount":10}`, [8]int{401, 401, 401, 201, 404, 403, 403, 403}},
		{"POST", "/v1/refunds", `{"payment":"` + testPayment + `","amount":10}`, [8]int{401, 401, 401, 404, 201, 403, 403, 403}},
		{"GET", "/v1/balance", "", [8]int{401, 401, 401, 200, 200, 403, 403, 403}},
		{"POST", "/v1/payouts", `{"amount":10,"currency":"EUR"}`, [8]int{401, 401, 401, 403, 403, 403, 403, 201}},
		{"POST", "/v1/tokens", card, [8]int{401, 401, 401, 201, 201, 201, 201, 403}},
		{"GET", "/v1/checkouts", "", [8]int{405, 405, 405, 405, 405, 405, 405, 405}},
		{"DELETE", "/v1/payments/" + livePayment, "", [8]int{405, 405, 405, 405, 405, 405, 405, 405}},
		{"GET", "/v1/nothing", "", [8]int{404, 404, 404, 404, 404, 404, 404, 404}},
	}
	for _, tt := range tests {
		for i, token := range keys {
			a := p.call(token, tt.method, tt.path, tt.body)
			what := fmt.Sprintf("%s %s with key %d: %s", tt.method, tt.path, i, a.text)
			require.Equal(t, tt.want[i], a.status, what)
			require.NotContains(t, a.text, "_sk_", what)
			if a.status < 400 {
				require.Equal(t, "application/json", a.header.Get("Content-Type"), what)
				continue
			}
			require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), what)
			require.Equal(t, float64(a.status), a.body["status"], what)
			require.NotEmpty(t, a.body["code"], what)
			require.NotEmpty(t, a.body["detail"], what)
			require.NotEmpty(t, a.body["title"], what)
			if a.status == 405 {
				require.NotEmpty(t, a.header.Get("Allow"), what)
			}
		}
	}
	// The answer names the ability that the key does not have.
	require.Equal(t, "payout=write", p.call(live, "POST", "/v1/payouts", "").body["missing"])
}

// Payments of one mode never change the other mode's balance.
func TestBalance(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	live, test := p.keys["LIVE_SECRET_KEY"], p.keys["TEST_SECRET_KEY"]
	_, stdout, _ := run(t, dir, "-issue", "live", "-abilities", "payout=write")
	payouts := strings.TrimSpace(strings.TrimPrefix(stdout, "LIVE_SECRET_KEY="))
	balance := func(token string) any { return p.call(token, "GET", "/v1/balance", "").body["available"] }

	require.Equal(t, map[string]any{}, balance(live))
	id := p.pay(live, 1000)
	p.pay(test, 7)
	p.call(live, "POST", "/v1/checkouts", `{"amount":50,"currency":"IDR"}`)
	require.Equal(t, map[string]any{"EUR": 1000.0, "IDR": 50.0}, balance(live))
	require.Equal(t, map[string]any{"EUR": 7.0}, balance(test))

	require.Equal(t, 201, p.call(live, "POST", "/v1/refunds", `{"payment":"`+id+`","amount":400}`).status)
	require.Equal(t, "partly_refunded", p.call(live, "GET", "/v1/payments/"+id, "").body["status"])
	a := p.call(payouts, "POST", "/v1/payouts", `{"amount":601,"currency":"EUR"}`)
	require.Equal(t, 422, a.status)
	require.Equal(t, "exceeds_balance", a.body["code"])
	require.Equal(t, 201, p.call(payouts, "POST", "/v1/payouts", `{"amount":600,"currency":"EUR"}`).status)
	require.Equal(t, map[string]any{"EUR": 0.0, "IDR": 50.0}, balance(live))
	require.Equal(t, map[string]any{"EUR": 7.0}, balance(test))
}

func TestRefundsNeverExceedThePayment(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	key := p.keys["LIVE_SECRET_KEY"]
	id := p.pay(key, 1000)
	statuses := make(chan int, 10)
	var wg sync.WaitGroup
	for range cap(statuses) {
		wg.Go(func() {
			a, err := p.try(key, "POST", "/v1/refunds", `{"payment":"`+id+`","amount":300}`)
			if err != nil {
				t.Error(err)
			}
			statuses <- a.status
		})
	}
	wg.Wait()
	close(statuses)
	count := map[int]int{}
	for s := range statuses {
		count[s]++
	}
	require.Equal(t, map[int]int{201: 3, 422: 7}, count)

	a := p.call(key, "POST", "/v1/refunds", `{"payment":"`+id+`"}`) // without an amount: all that is left
	require.Equal(t, 201, a.status, a.text)
	require.Equal(t, 100.0, a.body["amount"])
	a = p.call(key, "POST", "/v1/refunds", `{"payment":"`+id+`"}`)
	require.Equal(t, 422, a.status, a.text)
	require.Equal(t, "refunded", p.call(key, "GET", "/v1/payments/"+id, "").body["status"])
}

func TestRequestsThatAreWrong(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	key := p.keys["TEST_SECRET_KEY"]
	id := p.pay(key, 1000)
	liveCard := p.call(p.keys["LIVE_PUBLISHABLE_KEY"], "POST", "/v1/tokens", `{"number":"`+cardNumber+`","exp_month":12,"exp_year":2040}`).body["id"].(string)
	for _, tt := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"checkouts", `{"amount":0,"currency":"EUR"}`, 422, "invalid_amount"},
		{"checkouts", `{"currency":"EUR"}`, 422, "invalid_amount"},
		{"checkouts", `{"amount":-5,"currency":"EUR"}`, 422, "invalid_amount"},
		{"checkouts", `{"amount":100000000001,"currency":"EUR"}`, 422, "invalid_amount"},
		{"checkouts", `{"amount":12.5,"currency":"EUR"}`, 400, "invalid_json"},
		{"checkouts", `{"amount":"100","currency":"EUR"}`, 400, "invalid_json"},
		{"checkouts", `{"amount":1e30,"currency":"EUR"}`, 400, "invalid_json"},
		{"checkouts", `{"amount":100,"currency":"XXX"}`, 422, "invalid_currency"},
		{"checkouts", `{"amount":100}`, 422, "invalid_currency"},
		{"checkouts", `{"amount":100,"currency":"EUR","card":"card_none"}`, 422, "unknown_card"},
		{"checkouts", `{"amount":100,"currency":"EUR","card":"` + liveCard + `"}`, 422, "unknown_card"},
		{"checkouts", `{"amuont":100,"currency":"EUR"}`, 400, "invalid_json"},
		{"checkouts", `{"amount":100,"currency":"EUR"} {}`, 400, "invalid_json"},
		{"checkouts", `[1]`, 400, "invalid_json"},
		{"checkouts", ``, 400, "invalid_json"},
		{"checkouts", `{"card":"` + strings.Repeat("x", 20<<10) + `"}`, 413, "too_large"},
		{"refunds", `{"payment":"` + id + `","amount":0}`, 422, "invalid_amount"},
		{"refunds", `{"payment":"` + id + `","amount":-1}`, 422, "invalid_amount"},
		{"refunds", `{"payment":"` + id + `","amount":1001}`, 422, "exceeds_payment"},
		{"refunds", `{"payment":"` + id + `","amuont":1}`, 400, "invalid_json"},
		{"refunds", `{"amount":1}`, 404, "not_found"},
		{"tokens", `{"number":"4242424242424241","exp_month":12,"exp_year":2040}`, 422, "invalid_card"},
		{"tokens", `{"number":"` + cardNumber + `","exp_month":13,"exp_year":2040}`, 422, "invalid_card"},
		{"tokens", `{"number":"` + cardNumber + `","exp_month":1,"exp_year":2020}`, 422, "invalid_card"},
		{"tokens", `{"number":"","exp_month":12,"exp_year":2040}`, 422, "invalid_card"},
		{"tokens", `{"number":4242424242424242,"exp_month":12,"exp_year":2040}`, 400, "invalid_json"},
	} {
		a := p.call(key, "POST", "/v1/"+tt.path, tt.body)
		require.Equal(t, tt.status, a.status, "%.80s: %s", tt.body, a.text)
		require.Equal(t, tt.code, a.body["code"], "%.80s: %s", tt.body, a.text)
		require.NotContains(t, a.text, "struct", tt.body)
		require.NotContains(t, a.text, cardNumber)
	}
	require.Equal(t, map[string]any{"EUR": 1000.0}, p.call(key, "GET", "/v1/balance", "").body["available"])
}

// A web page sends a card to the gateway with its publishable key. The shop's server then
// charges the card with its secret key.
func TestCard(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	preflight, err := http.NewRequest("OPTIONS", p.url+"/v1/tokens", nil)
	require.NoError(t, err)
	preflight.Header.Set("Origin", "https://shop.example")
	preflight.Header.Set("Access-Control-Request-Method", "POST")
	preflight.Header.Set("Access-Control-Request-Headers", "authorization")
	res, err := client.Do(preflight)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, 204, res.StatusCode)
	require.Contains(t, res.Header.Get("Access-Control-Allow-Headers"), "Authorization")

	a := p.call(p.keys["LIVE_PUBLISHABLE_KEY"], "POST", "/v1/tokens", `{"number":"`+cardNumber+`","exp_month":12,"exp_year":2040}`)
	require.Equal(t, 201, a.status, a.text)
	require.Equal(t, "*", a.header.Get("Access-Control-Allow-Origin"))
	require.NotContains(t, a.text, cardNumber)
	card := a.body["id"].(string)
	a = p.call(p.keys["LIVE_SECRET_KEY"], "POST", "/v1/checkouts", `{"amount":100,"currency":"EUR","card":"`+card+`"}`)
	require.Equal(t, 201, a.status, a.text)
	require.Equal(t, card, a.body["card"])
	require.Equal(t, "*", p.call("", "POST", "/v1/tokens", "").header.Get("Access-Control-Allow-Origin"), "a page reads why it was refused")
}

// The API accepts Basic, as curl -u sends it, like other payment APIs.
func TestBasic(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	for _, name := range []string{"LIVE_SECRET_KEY", "TEST_SECRET_KEY"} {
		r, err := http.NewRequest("GET", p.url+"/v1/balance", nil)
		require.NoError(t, err)
		r.SetBasicAuth(p.keys[name], "")
		res, err := client.Do(r)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, 200, res.StatusCode, name)
	}
}

// Another process revokes a token. The gateway learns of it from the change feed. It logs
// that the token is still used, with the credential's ID and without the token.
func TestRevokedElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	token := p.keys["LIVE_SECRET_KEY"]
	require.Equal(t, 200, p.call(token, "GET", "/v1/balance", "").status)

	text, err := os.ReadFile(filepath.Join(dir, "keys.pepper"))
	require.NoError(t, err)
	peppers, err := apikey.ParsePeppers(string(text))
	require.NoError(t, err)
	_, store := openStore(t, dir)
	manager, err := apikey.NewManager(context.Background(), apikey.Settings{
		Store: store, Prefix: "acme", Catalog: apikey.MustCatalog(), Peppers: peppers,
	}, apikey.ManagerConfig{})
	require.NoError(t, err)
	require.NoError(t, manager.RevokeToken(context.Background(), token, apikey.ReasonCompromised))

	var a answer
	require.Eventually(t, func() bool {
		a = p.call(token, "GET", "/v1/balance", "")
		return a.status != 200
	}, 5*time.Second, 50*time.Millisecond)
	require.Equal(t, 401, a.status)
	require.Equal(t, "token_ended", a.body["code"])
	parsed, err := apikey.ParseToken(token)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // the log comes through a pipe, so wait for it
		return strings.Contains(p.stderr.String(), parsed.Credential().String())
	}, 5*time.Second, 10*time.Millisecond)
}
