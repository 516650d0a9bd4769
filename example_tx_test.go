package apikey_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"

	_ "modernc.org/sqlite"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// A merchant and their first key are made in one transaction of the program: both
// or neither.
func ExampleManager_Tx() {
	ctx := context.Background()
	// In memory, for the example: a database of one connection.
	db, err := sql.Open("sqlite", "file::memory:?_pragma=busy_timeout(5000)&_txlock=immediate")
	must(err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	_, err = db.Exec("CREATE TABLE merchants (account TEXT PRIMARY KEY)")
	must(err)
	store, err := sqlstore.New(db, sqlstore.SQLite)
	must(err)
	must(store.Migrate(ctx))
	manager, err := apikey.NewManager(ctx, apikey.ManagerConfig{Store: store, Prefix: "acme", Catalog: apikey.MustCatalog()})
	must(err)

	onboard := func(account string) (apikey.Issued, error) {
		staff := apikey.WithActor(ctx, apikey.Operator("onboarding"))
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return apikey.Issued{}, err
		}
		defer tx.Rollback() // does nothing after Commit
		keys := manager.Tx(store.In(tx))
		issued, err := keys.Issue(staff, apikey.IssueRequest{Account: account, Mode: apikey.Test})
		if err != nil {
			return apikey.Issued{}, err
		}
		if _, err := tx.Exec("INSERT INTO merchants VALUES (?)", account); err != nil {
			return apikey.Issued{}, err
		}
		if err := tx.Commit(); err != nil {
			return apikey.Issued{}, err
		}
		// Now the Verifiers of this process are told. The key is there whatever the answer
		// is: an error means that OnEvent has not heard of it, so log it, or call again.
		if err := keys.Committed(ctx); err != nil {
			log.Print(err)
		}
		return issued, nil
	}

	for range 2 { // the second time the merchant exists, and no key is made
		issued, err := onboard("acc_1")
		fmt.Println(issued.Token.IsZero(), err != nil)
	}
	list, err := manager.List(apikey.WithActor(ctx, apikey.Operator("onboarding")), apikey.ListRequest{Account: "acc_1"})
	fmt.Println(len(list.Keys), err)
	// Output:
	// false false
	// true true
	// 1 <nil>
}
