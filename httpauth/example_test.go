package httpauth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/memstore"
)

// A route for refunds requires a key that may refund. The handler gets the key from the
// context.
func ExampleGuard_Require() {
	verifier, token := program()
	defer verifier.Close(context.Background())

	guard := httpauth.New(verifier, httpauth.Config{Realm: "acme"})
	mux := http.NewServeMux()
	refunds := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, _ := apikey.FromContext(r.Context())
		fmt.Fprintf(w, "refunded for %s", key.Info().Account)
	})
	mux.Handle("POST /v1/refunds", guard.Require(apikey.Scope("payment:refund"))(refunds))
	mux.Handle("POST /v1/payouts", guard.Require(apikey.Scope("payout:send"))(http.NotFoundHandler()))

	ask := func(path, authorization string) {
		r := httptest.NewRequest(http.MethodPost, path, nil)
		r.Header.Set("X-Request-ID", "req-1")
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Body)
		fmt.Println(w.Header().Get("WWW-Authenticate"))
	}
	ask("/v1/refunds", "Bearer "+token.Reveal())
	ask("/v1/refunds", "")
	ask("/v1/payouts", "Bearer "+token.Reveal())
	// Output:
	// 200 refunded for acc_1
	//
	// 401 {"type":"about:blank","title":"Unauthorized","status":401,"detail":"The request carries no API key.","code":"credentials_missing","request_id":"req-1"}
	//
	// Bearer realm="acme"
	// 403 {"type":"about:blank","title":"Forbidden","status":403,"detail":"The API key lacks the ability payout:send.","code":"insufficient_scope","missing":"payout:send","request_id":"req-1"}
	//
	// Bearer realm="acme", error="insufficient_scope", error_description="The API key lacks the ability payout:send.", scope="payout:send"
}

// Check verifies the key and writes no answer. It is for programs that use another
// protocol, or write all answers themselves.
func ExampleGuard_Check() {
	verifier, token := program()
	defer verifier.Close(context.Background())
	guard := httpauth.New(verifier, httpauth.Config{})

	r := httptest.NewRequest(http.MethodGet, "/", nil)
	_, err := guard.Check(r)
	fmt.Println(err, httpauth.Denied(err).Status)

	r.SetBasicAuth(token.Reveal(), "") // curl -u "$KEY:"
	key, err := guard.Check(r)
	fmt.Println(key.Info().Name, err)
	// Output:
	// apikey: not authenticated: no credentials in the request 401
	// Website <nil>
}

// Live and test keys on one route: the handler looks at the mode before it moves money.
// Payouts exist in live mode alone, so their route takes a Guard of the live Verifier.
func ExampleByMode() {
	live, test, keys := programOfBothModes()
	config := httpauth.Config{Extractors: []httpauth.Extractor{httpauth.Scheme("Api-Key")}}
	both, onlyLive := httpauth.New(httpauth.ByMode(live, test), config), httpauth.New(live, config)

	mux := http.NewServeMux()
	mux.Handle("POST /v1/refunds", both.Require()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, _ := apikey.FromContext(r.Context())
		switch key.Info().Mode {
		case apikey.Live:
			fmt.Fprint(w, "refunded")
		case apikey.Test:
			fmt.Fprint(w, "pretended to refund")
		}
	})))
	mux.Handle("POST /v1/payouts", onlyLive.Require()(http.NotFoundHandler()))

	for _, key := range keys {
		for _, path := range []string{"/v1/refunds", "/v1/payouts"} {
			r := httptest.NewRequest(http.MethodPost, path, nil)
			r.Header.Set("Authorization", "Api-Key "+key.Reveal())
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			fmt.Println(key.Mode(), path, w.Code)
			if w.Code == http.StatusOK {
				fmt.Println(w.Body)
			}
		}
	}
	// Output:
	// live /v1/refunds 200
	// refunded
	// live /v1/payouts 404
	// test /v1/refunds 200
	// pretended to refund
	// test /v1/payouts 403
}

// Clients that send "Authorization: Api-Key …", beside those that send Bearer.
func ExampleScheme() {
	verifier, token := program()
	defer verifier.Close(context.Background())
	guard := httpauth.New(verifier, httpauth.Config{
		Realm:      "acme",
		Extractors: []httpauth.Extractor{httpauth.Scheme("Api-Key"), httpauth.Bearer()},
	})
	ok := guard.Require()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "done") }))
	for _, authorization := range []string{"api-key " + token.Reveal(), "Bearer " + token.Reveal(), "Token " + token.Reveal()} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		ok.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header()["Www-Authenticate"])
	}
	// Output:
	// 200 []
	// 200 []
	// 401 [Api-Key realm="acme" Bearer realm="acme"]
}

// A vendor whose SDKs expect their own header and their own error format keeps both. The
// vendor's load balancers are in 10.0.0.0/8.
func ExampleConfig() {
	verifier, _ := program()
	defer verifier.Close(context.Background())
	guard := httpauth.New(verifier, httpauth.Config{
		Extractors:      []httpauth.Extractor{httpauth.Header("RT-UDDOKTAPAY-API-KEY")},
		ForwardedHeader: "X-Forwarded-For",
		TrustedProxies:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Deny: func(w http.ResponseWriter, r *http.Request, d httpauth.Denial) {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(map[string]any{"status": "ERROR", "message": d.Detail})
		},
	})
	r := httptest.NewRequest(http.MethodPost, "/api/checkout-v2", nil)
	r.Header.Set("RT-UDDOKTAPAY-API-KEY", "982d381360a69d419689740d9f2e26ce36fb7a50")
	w := httptest.NewRecorder()
	guard.Require()(http.NotFoundHandler()).ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body)
	// Output:
	// 401 {"message":"The API key is not valid.","status":"ERROR"}
}

// A key page answers every error of its Manager in one place: all wrong fields at once,
// and never the text of an error, which goes to the log.
func ExampleRefused() {
	manager := must(apikey.NewManager(context.Background(), apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:refund"}),
	}, apikey.ManagerConfig{}))
	refuse := func(w http.ResponseWriter, r *http.Request, err error) {
		p := httpauth.Refused(err)
		p.RequestID = r.Header.Get("X-Request-ID")
		slog.DebugContext(r.Context(), "refused", "request_id", p.RequestID, "error", err)
		p.Write(w)
	}
	create := func(w http.ResponseWriter, r *http.Request) {
		ctx := apikey.WithActor(r.Context(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
		_, err := manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refnud"}, RotateMonths: 121})
		if err != nil {
			refuse(w, r, err)
		}
	}
	w := httptest.NewRecorder()
	create(w, httptest.NewRequest(http.MethodPost, "/keys", nil))
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	for _, f := range must(decode(w)).Fields {
		fmt.Println(f.Field, f.Code, f.Detail)
	}
	// Output:
	// 400 application/problem+json
	// abilities unknown “payment:refnud” is not known here. Near it: payment:refund.
	// rotate_months out_of_range This has to be from 0 to 120.
}

func decode(w *httptest.ResponseRecorder) (p httpauth.Problem, err error) {
	err = json.NewDecoder(w.Body).Decode(&p)
	return p, err
}

// program returns a Verifier, and the token of a key that may refund.
func program() (*apikey.Verifier, apikey.Token) {
	ctx := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	pepper := must(apikey.NewPepper(1, [32]byte{1})) // in production, from a secret manager
	hasher := must(apikey.NewHMACSHA256(pepper))
	store, peppers := memstore.New(), []apikey.Pepper{pepper}
	manager := must(apikey.NewManager(ctx, apikey.Settings{
		Store: store, Prefix: "acme", Hashers: []apikey.Hasher{hasher}, Peppers: peppers,
		Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:refund"}, apikey.CatalogEntry{Scope: "payout:send"}),
	}, apikey.ManagerConfig{}))
	verifier := must(manager.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Live}))
	issued := must(manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:refund"}}))
	return verifier, issued.Token
}

// programOfBothModes has a Verifier for each mode and a key of each.
func programOfBothModes() (live, test *apikey.Verifier, keys []apikey.Token) {
	ctx := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	pepper := must(apikey.NewPepper(1, [32]byte{1})) // in production, from a secret manager
	manager := must(apikey.NewManager(ctx, apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:refund"}),
		Peppers: []apikey.Pepper{pepper}, Hashers: []apikey.Hasher{must(apikey.NewHMACSHA256(pepper))},
	}, apikey.ManagerConfig{}))
	live = must(manager.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Live}))
	test = must(manager.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Test}))
	for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
		issued := must(manager.Issue(ctx, apikey.IssueRequest{Mode: mode, Abilities: []string{"payment:refund"}}))
		keys = append(keys, issued.Token)
	}
	return live, test, keys
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
