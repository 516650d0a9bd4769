package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/keypage"
	"github.com/go-apikey/apikey/memstore"
)

func main() {
	var key [32]byte
	key[0] = 1
	pepper, _ := apikey.NewPepper(1, key)
	hasher, _ := apikey.NewHMACSHA256(pepper)
	kek, _ := apikey.NewLocalKEK("k", append(make([]byte, 31), 7))
	pw, _ := apikey.NewPassword(func(_ context.Context, _, a string) (bool, error) { return a == "correct horse", nil })
	totp, _ := apikey.NewTOTP("Shop", time.Now)
	m, err := apikey.NewManager(context.Background(), apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Peppers: []apikey.Pepper{pepper}, Hashers: []apikey.Hasher{hasher},
		Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:checkout", Description: "Create checkout sessions"}, apikey.CatalogEntry{Scope: "payment:refund", Description: "Refund payments, in whole or in part"}, apikey.CatalogEntry{Product: "balance", Description: "Money that can be paid out"}),
	}, apikey.ManagerConfig{KEKs: []apikey.KEK{kek}, Factors: map[string]apikey.Factor{"password": pw, "totp": totp}, StepUp: apikey.GuardRevealAndRotate("password")})
	if err != nil {
		panic(err)
	}
	a := apikey.Actor{ID: "anna@shop.example", Account: "acc_kopi", Role: "admin"}
	ctx := apikey.WithActor(context.Background(), a)
	for i := range 9 {
		r := apikey.IssueRequest{Mode: apikey.Live, Name: fmt.Sprintf("Shop %d (web)", i), Abilities: []string{"payment:checkout"}, Disabled: i == 3, Recoverable: i%2 == 0}
		if i == 2 {
			r.ExpiresAt = time.Now().Add(20 * 24 * time.Hour)
		}
		if i == 4 {
			r.Name = "Kopi \u00a0<b>Tubruk</b> & \"Co\""
		}
		k, err := m.Issue(ctx, r)
		if err != nil {
			panic(err)
		}
		if i == 5 {
			m.Revoke(ctx, apikey.RevokeRequest{Key: k.Key.ID})
		}
	}
	page, err := keypage.New(keypage.Config{Manager: m, Actor: func(*http.Request) (apikey.Actor, error) { return a, nil }, Path: "/settings/keys", Recoverable: keypage.Ask, Logger: slog.Default(),
		Zone:      func(apikey.Actor) *time.Location { l, _ := time.LoadLocation("Asia/Jakarta"); return l },
		Endpoints: []keypage.Endpoint{{"Create a checkout", "Begins a payment", "https://api.example/v1/checkouts"}}, Terms: keypage.Terms{URL: "/terms"}})
	if err != nil {
		panic(err)
	}
	http.Handle("/settings/keys", page)
	http.Handle("/settings/keys/", page)
	panic(http.ListenAndServe("127.0.0.1:8099", nil))
}
