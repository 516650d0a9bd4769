// Package unittest is a handler of a payment API. Its test file shows how to test such a
// handler with real keys, in microseconds and without a database.
package unittest

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// Payments is the part of the program that the handler needs.
type Payments interface {
	Refund(ctx context.Context, account, payment string, amount int64) error
}

// The abilities of this API.
const (
	Refund      = apikey.Scope("payment:refund")
	RefundLarge = apikey.Scope("payment:refund:large")
)

// Catalog lists the abilities for the Manager.
var Catalog = apikey.MustCatalog(
	apikey.CatalogEntry{Scope: string(Refund), Description: "Refund up to 100.00"},
	apikey.CatalogEntry{Scope: string(RefundLarge), Description: "Refund any amount"},
)

const large = 100_00 // in cents

// Routes returns the handler of the API.
func Routes(guard *httpauth.Guard, p Payments) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/payments/{id}/refund", guard.Require(Refund)(Refunds(p)))
	return mux
}

// Refunds returns a handler that refunds a payment of the account whose key was verified.
// The handler needs a Guard in front of it.
func Refunds(p Payments) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := apikey.FromContext(r.Context())
		if !ok {
			panic("Refunds has no Guard in front of it")
		}
		var in struct{ Amount int64 }
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&in); err != nil || in.Amount < 1 {
			http.Error(w, "want an amount in cents", http.StatusBadRequest)
			return
		}
		// The Guard checks the ability that the route needs. An ability that depends on
		// the request is checked here.
		if in.Amount > large && !key.Can(RefundLarge) {
			http.Error(w, "a refund of this size needs "+RefundLarge.String(), http.StatusForbidden)
			return
		}
		if err := p.Refund(r.Context(), key.Info().Account, r.PathValue("id"), in.Amount); err != nil {
			http.Error(w, "try again", http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}
