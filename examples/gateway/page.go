package main

import (
	"log/slog"
	"net/http"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/keypage"
)

// addPage adds the page on which people manage the keys of the merchant.
func addPage(mux *http.ServeMux, manager *apikey.Manager, s *signIn, log *slog.Logger) error {
	page, err := keypage.New(keypage.Config{
		Manager: manager, Actor: s.actor, Path: "/keys", Recoverable: keypage.Ask, Logger: log,
	})
	mux.Handle("/keys", page)
	mux.Handle("/keys/", page)
	return err
}
