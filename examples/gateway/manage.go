package main

import (
	"log/slog"
	"net/http"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
)

// addManagement adds the JSON API by which people manage the keys of the merchant, and the
// sign-in link.
func addManagement(mux *http.ServeMux, manager *apikey.Manager, s *signIn, log *slog.Logger) error {
	keys, err := admin.New(admin.Config{Manager: manager, Actor: s.actor, Logger: log})
	mux.Handle("/api/", http.StripPrefix("/api", keys))
	mux.Handle("GET /signin", s)
	return err
}
