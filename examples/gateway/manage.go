package main

import (
	"log/slog"
	"net/http"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
)

// addManagement adds the routes by which people manage the keys of the merchant. It
// returns the path of the sign-in link.
func addManagement(mux *http.ServeMux, manager *apikey.Manager, log *slog.Logger) (link string, err error) {
	s, once := newSignIn()
	keys, err := admin.New(admin.Config{Manager: manager, Actor: s.actor, Logger: log})
	mux.Handle("/api/", http.StripPrefix("/api", keys))
	mux.Handle("GET /signin", s)
	return "/signin?once=" + once, err
}
