package main

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// catalog lists the abilities that keys of this API can have. Publishable keys, which every
// visitor of a shop can read, can have only one of them.
var catalog = apikey.MustCatalog(
	apikey.CatalogEntry{Scope: "payment:checkout", Description: "Take payments"},
	apikey.CatalogEntry{Scope: "payment:verify", Description: "Look payments up"},
	apikey.CatalogEntry{Scope: "payment:refund", Description: "Refund payments"},
	apikey.CatalogEntry{Scope: "card:tokenise", Description: "Turn a card number into a token", Publishable: true},
	apikey.CatalogEntry{Product: "balance", Description: "The account's balance"},
	apikey.CatalogEntry{Product: "payout", Description: "Payouts to the account's bank"},
)

type api struct {
	ledger ledger
	log    *slog.Logger
}

// newMux returns the API for keys: each route, with the ability that its key needs.
func newMux(a api, guard *httpauth.Guard) *http.ServeMux {
	mux := http.NewServeMux()
	route := func(pattern string, status int, do action, require func(http.Handler) http.Handler) {
		mux.Handle(pattern, require(a.serve(status, do)))
	}
	route("POST /v1/checkouts", 201, a.checkout, guard.Require(apikey.Scope("payment:checkout")))
	route("GET /v1/payments/{id}", 200, a.payment, guard.Require(apikey.Scope("payment:verify")))
	route("POST /v1/refunds", 201, a.refund, guard.Require(apikey.Scope("payment:refund")))
	route("GET /v1/balance", 200, a.balance, guard.Require(apikey.Access{Product: "balance", Level: apikey.Read}))
	route("POST /v1/payouts", 201, a.payout, guard.Require(apikey.Access{Product: "payout", Level: apikey.Write}))
	// The visitor's browser sends the card number directly to this API, so this route
	// accepts the publishable key in the web page. It also accepts a secret key with the
	// ability, like other payment APIs.
	tokenise := guard.AllowPublishable().Require(apikey.Scope("card:tokenise"))
	route("POST /v1/tokens", 201, a.tokenise, func(next http.Handler) http.Handler { return forBrowsers(tokenise(next)) })
	mux.Handle("OPTIONS /v1/tokens", forBrowsers(http.NotFoundHandler()))
	return mux
}

// newGuard accepts live and test keys on the same routes. Each mode has its own Verifier
// with its own cache and limits, so a flood of requests with test keys neither evicts nor
// delays live keys. Every action gets the mode of its key, in owner, and moves money of
// that mode only. If a program has a host for each mode (api.example and sandbox.example),
// each host has its own Guard of one Verifier. A small program can use one Verifier of
// apikey.AnyMode.
func newGuard(live, test *apikey.Verifier, log *slog.Logger) *httpauth.Guard {
	return httpauth.New(httpauth.ByMode(live, test), httpauth.Config{Realm: "gateway", Logger: log})
}

// action is a handler that does not write the HTTP answer itself. The owner of the money
// comes from the verified key, never from the request.
type action func(o owner, r *http.Request) (any, error)

func (a api) serve(status int, do action) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := apikey.FromContext(r.Context())
		if !ok { // the route has no guard, so anybody could call it
			panic("no guard in front of " + r.Pattern)
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		info := key.Info()
		answer, err := do(owner{info.Account, info.Mode}, r)
		if err != nil {
			a.refuse(w, r, err)
			return
		}
		write(w, status, "application/json", answer)
	})
}

func (a api) checkout(o owner, r *http.Request) (any, error) {
	var in struct {
		Amount   int64  `json:"amount"`
		Currency string `json:"currency"`
		Card     string `json:"card"`
	}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	if err := errors.Join(validAmount(in.Amount), validCurrency(in.Currency)); err != nil {
		return nil, err
	}
	return a.ledger.checkout(r.Context(), o, in.Amount, in.Currency, in.Card)
}

func (a api) payment(o owner, r *http.Request) (any, error) {
	return a.ledger.payment(r.Context(), o, r.PathValue("id"))
}

func (a api) refund(o owner, r *http.Request) (any, error) {
	var in struct {
		Payment string `json:"payment"`
		Amount  *int64 `json:"amount"` // absent: all that is left
	}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	if in.Amount == nil {
		return a.ledger.refund(r.Context(), o, in.Payment, 0)
	}
	if err := validAmount(*in.Amount); err != nil {
		return nil, err
	}
	return a.ledger.refund(r.Context(), o, in.Payment, *in.Amount)
}

func (a api) balance(o owner, r *http.Request) (any, error) {
	available, err := a.ledger.balance(r.Context(), o)
	return map[string]any{"mode": o.mode, "available": available}, err
}

func (a api) payout(o owner, r *http.Request) (any, error) {
	var in struct {
		Amount   int64  `json:"amount"`
		Currency string `json:"currency"`
	}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	if err := errors.Join(validAmount(in.Amount), validCurrency(in.Currency)); err != nil {
		return nil, err
	}
	return a.ledger.payout(r.Context(), o, in.Amount, in.Currency)
}

func (a api) tokenise(o owner, r *http.Request) (any, error) {
	var in struct {
		Number   string `json:"number"`
		ExpMonth int    `json:"exp_month"`
		ExpYear  int    `json:"exp_year"`
	}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	end := time.Date(in.ExpYear, time.Month(in.ExpMonth)+1, 1, 0, 0, 0, 0, time.UTC)
	if !luhn(in.Number) || in.ExpMonth < 1 || in.ExpMonth > 12 || end.Before(time.Now()) {
		return nil, problem{Status: 422, Code: "invalid_card", Detail: "The number is not a card's, or the card has expired."}
	}
	return a.ledger.tokenise(r.Context(), o, in.Number)
}
