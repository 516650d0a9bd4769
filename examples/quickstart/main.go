// Quickstart issues a key, verifies it, and shows three refusals.
package main

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

func main() {
	// The pepper is a secret that is kept outside the database. memstore is empty at each start, so
	// a new pepper will do. With a database, read the same 32 bytes each time, from a file.
	var secret [32]byte
	rand.Read(secret[:])
	pepper := must(apikey.NewPepper(1, secret))
	manager := must(apikey.NewManager(context.Background(), apikey.Settings{
		Store:   memstore.New(), // keeps keys until exit; sqlstore keeps them in a database
		Prefix:  "acme",         // every token begins with it
		Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"}, apikey.CatalogEntry{Scope: "payment:refund"}),
		Peppers: []apikey.Pepper{pepper},
		Hashers: []apikey.Hasher{must(apikey.NewHMACSHA256(pepper))},
	}, apikey.ManagerConfig{}))
	defer manager.Close(context.Background())
	live := must(manager.NewVerifier(context.Background(), apikey.VerifierConfig{Mode: apikey.Live}))
	test := must(manager.NewVerifier(context.Background(), apikey.VerifierConfig{Mode: apikey.Test}))

	// The actor is an admin of the merchant acc_1. A program takes the actor from its own sign-in.
	ctx := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	issued := must(manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:verify"}}))
	fmt.Println("shown to the merchant, once:", issued.Token.Reveal())
	for _, need := range []apikey.Ability{apikey.Scope("payment:verify"), apikey.Scope("payment:refund")} {
		_, err := live.Verify(ctx, issued.Token.Reveal(), apikey.Request{Require: []apikey.Ability{need}})
		fmt.Printf("%s: %v\n", need, err)
	}
	_, err := test.Verify(ctx, issued.Token.Reveal(), apikey.Request{})
	fmt.Println("in test mode:", err)
	fmt.Println("revoke:", manager.Revoke(ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
	_, err = live.Verify(ctx, issued.Token.Reveal(), apikey.Request{})
	fmt.Println("from then on:", err)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
