package memstore_test

import (
	"context"
	"fmt"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// The unit tests of a program that issues keys need no database.
func ExampleNew() {
	ctx := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	manager, err := apikey.NewManager(ctx, apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"}),
	}, apikey.ManagerConfig{})
	if err != nil {
		panic(err)
	}
	issued, err := manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Test, Abilities: []string{"payment:verify"}})
	fmt.Println(issued.Key.Account, issued.Key.Mode, issued.Key.State, err)
	// Output: acc_1 test active <nil>
}
