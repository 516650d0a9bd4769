package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// mountPayments mounts the API that takes keys, to see a key work and stop working. Each
// mode has its own Verifier, and a key of the other mode is refused.
func mountPayments(ctx context.Context, mux *http.ServeMux, manager *apikey.Manager, log *slog.Logger) error {
	live, err := manager.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Live})
	if err != nil {
		return err
	}
	test, err := manager.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Test})
	if err != nil {
		return err
	}
	inLive := httpauth.New(live, httpauth.Config{Realm: "dashboard", Logger: log})
	inTest := httpauth.New(test, httpauth.Config{Realm: "dashboard", Logger: log})
	done := http.HandlerFunc(answer)
	mux.Handle("GET /live/ping", inLive.Require()(done))
	mux.Handle("GET /test/ping", inTest.Require()(done))
	mux.Handle("POST /live/refund", inLive.Require(apikey.Scope("payment:refund"))(done))
	return nil
}

// answer says which key has called.
func answer(w http.ResponseWriter, r *http.Request) {
	key, ok := apikey.FromContext(r.Context())
	if !ok { // the route has no guard, so anybody could call it
		panic("no guard in front of " + r.Pattern)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"account": key.Info().Account, "mode": key.Info().Mode, "name": key.Info().Name})
}

// terms stands for the conditions that the page of doku asks people to agree to.
func terms(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "Terms for new secret keys\n\nWith the old key, programs stop working when its time is over. Give all of them the new key before that.\n")
}
