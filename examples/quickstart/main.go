// Quickstart issues a key, verifies it, and shows two refusals.
package main

import (
	"context"
	"fmt"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

func main() {
	store := memstore.New() // keeps keys until exit; sqlstore keeps them in a database
	catalog := apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"}, apikey.CatalogEntry{Scope: "payment:refund"})
	// The actor is an admin of the merchant acc_1. A program takes the actor from its own sign-in.
	ctx := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})

	verifier := must(apikey.NewVerifier(ctx, apikey.VerifierConfig{Store: store, Prefix: "acme", Mode: apikey.Live}))
	defer verifier.Close(ctx)
	local := []*apikey.Verifier{verifier} // these Verifiers get each change before its call returns
	manager := must(apikey.NewManager(ctx, apikey.ManagerConfig{Store: store, Prefix: "acme", Catalog: catalog, Local: local}))

	issued := must(manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:verify"}}))
	fmt.Println("shown to the merchant, once:", issued.Token.Reveal())
	for _, need := range []apikey.Ability{apikey.Scope("payment:verify"), apikey.Scope("payment:refund")} {
		_, err := verifier.Verify(ctx, issued.Token.Reveal(), apikey.Request{Require: []apikey.Ability{need}})
		fmt.Printf("%s: %v\n", need, err)
	}
	fmt.Println("revoke:", manager.Revoke(ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
	_, err := verifier.Verify(ctx, issued.Token.Reveal(), apikey.Request{})
	fmt.Println("from then on:", err)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
