package apikey_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"strings"
	"time"

	_ "modernc.org/sqlite"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/sqlstore"
)

// A program issues a key and verifies requests with it.
func Example() {
	ctx := context.Background()
	store := memstore.New() // sqlstore.New in production
	catalog := apikey.MustCatalog(
		apikey.CatalogEntry{Scope: "payment:verify", Description: "Look payments up"},
		apikey.CatalogEntry{Scope: "payment:refund", Description: "Refund payments"},
		apikey.CatalogEntry{Product: "balance", Description: "The account's balance"},
	)

	// The control plane: where the merchant's key page is served.
	settings := apikey.Settings{Store: store, Prefix: "acme", Catalog: catalog}
	manager, err := apikey.NewManager(ctx, settings, apikey.ManagerConfig{})
	if err != nil {
		panic(err)
	}
	defer manager.Close(ctx)

	// The data plane: one Verifier for each mode, in every process that serves the API. A
	// process without a Manager calls apikey.NewVerifier with the same settings.
	live, err := manager.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Live})
	if err != nil {
		panic(err)
	}
	admin := apikey.WithActor(ctx, apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	issued, err := manager.Issue(admin, apikey.IssueRequest{
		Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:verify", "balance=read"},
	})
	if err != nil {
		panic(err)
	}

	// A request comes in with the token.
	refund := apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}}
	lookUp := apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:verify")}}
	key, err := live.Verify(ctx, issued.Token.Reveal(), lookUp)
	fmt.Println(key.Info().Account, key.Info().Name, err)
	_, err = live.Verify(ctx, issued.Token.Reveal(), refund)
	fmt.Println(err)
	// Output:
	// acc_1 Website <nil>
	// apikey: ability is missing: payment:refund
}

// exampleProgram is the set-up of Example for those that follow, with a hasher
// that takes a microsecond. Close the Verifier.
func exampleProgram() (admin context.Context, m *apikey.Manager, live *apikey.Verifier) {
	var secret [32]byte
	rand.Read(secret[:])
	pepper, err := apikey.NewPepper(1, secret)
	must(err)
	hasher, err := apikey.NewHMACSHA256(pepper)
	must(err)
	admin = apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	m, err = apikey.NewManager(admin, apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Hashers: []apikey.Hasher{hasher}, Peppers: []apikey.Pepper{pepper},
		Catalog: apikey.MustCatalog(
			apikey.CatalogEntry{Scope: "payment:verify"}, apikey.CatalogEntry{Scope: "payment:refund"},
			apikey.CatalogEntry{Scope: "card:tokenise", Publishable: true}, apikey.CatalogEntry{Product: "balance"},
		),
	}, apikey.ManagerConfig{})
	must(err)
	live, err = m.NewVerifier(admin, apikey.VerifierConfig{Mode: apikey.Live})
	must(err)
	return admin, m, live
}

// exampleManager is the half of exampleProgram that manages.
func exampleManager() (admin context.Context, m *apikey.Manager) {
	admin, m, live := exampleProgram()
	must(live.Close(admin))
	return admin, m
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func ExampleManager_Issue() {
	admin, manager := exampleManager()

	issued, err := manager.Issue(admin, apikey.IssueRequest{
		Mode:           apikey.Live,
		Name:           "Refund worker",
		Abilities:      []string{"payment:*", "balance=read"},
		ExpiresAt:      time.Now().AddDate(1, 0, 0),
		Networks:       []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
		Metadata:       map[string]string{"ticket": "OPS-17"},
		IdempotencyKey: "form-5f1c", // a double click makes one key
	})
	must(err)
	// issued.Token.Reveal() is the secret; it is nowhere else.
	fmt.Println(strings.HasPrefix(issued.Token.Reveal(), "acme_sk_live_"))
	fmt.Println(issued.Key.Name, issued.Key.State, issued.Key.Version)

	_, err = manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refnd"}})
	fmt.Println(err)
	// Output:
	// true
	// Refund worker active 1
	// apikey: invalid request: ability "payment:refnd" is unknown; nearest known: payment:refund, payment:verify, balance=read
}

// A new account gets publishable keys, which are no secrets. Repeated, Provision
// returns the same ones.
func ExampleManager_Provision() {
	admin, manager := exampleManager()

	first, err := manager.Provision(admin, apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}})
	must(err)
	again, err := manager.Provision(admin, apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}})
	must(err)
	fmt.Println(first.Test.Key.Kind, first.Test.Key.Mode)
	fmt.Println(first.Test.Token.Reveal() == again.Test.Token.Reveal())
	// Output:
	// publishable test
	// true
}

func ExampleVerifier_Verify() {
	admin, manager, live := exampleProgram()
	defer live.Close(admin)
	issued, err := manager.Issue(admin, apikey.IssueRequest{
		Mode: apikey.Live, Abilities: []string{"payment:verify"},
		Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
	})
	must(err)

	_, err = live.Verify(context.Background(), issued.Token.Reveal(), apikey.Request{
		Addr:    netip.MustParseAddr("198.51.100.7"),
		Require: []apikey.Ability{apikey.Scope("payment:verify")},
	})
	switch {
	case err == nil:
		fmt.Println("200")
	case errors.Is(err, apikey.ErrUnauthenticated):
		fmt.Println("401", err)
	case errors.Is(err, apikey.ErrDenied):
		fmt.Println("403", err)
	default: // we failed: it is not the caller's fault
		fmt.Println("503", err)
	}
	// Output: 403 apikey: address is not allowed for this key
}

// A field of an update keeps what is there unless it is Set or Clear.
func ExampleManager_Update() {
	admin, manager := exampleManager()
	issued, err := manager.Issue(admin, apikey.IssueRequest{
		Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:verify"}, ExpiresAt: time.Now().Add(time.Hour),
	})
	must(err)

	info, err := manager.Update(admin, apikey.UpdateRequest{
		Key:       issued.Key.ID,
		IfVersion: issued.Key.Version, // as it was when the form was shown
		Abilities: apikey.Set([]string{"payment:verify", "payment:refund"}),
		ExpiresAt: apikey.Clear[time.Time](),
	})
	must(err)
	fmt.Println(info.Name, info.Abilities.Len(), info.ExpiresAt.IsZero(), info.Version)

	_, err = manager.Update(admin, apikey.UpdateRequest{Key: issued.Key.ID, IfVersion: 1, Name: apikey.Set("Shop")})
	fmt.Println(errors.Is(err, apikey.ErrConflict))
	// Output:
	// Website 2 true 2
	// true
}

// In JSON an absent field keeps, null clears, and a value sets.
func ExampleField() {
	var patch struct {
		Name      apikey.Field[string]    `json:"name,omitzero"`
		ExpiresAt apikey.Field[time.Time] `json:"expires_at,omitzero"`
	}
	must(json.Unmarshal([]byte(`{"expires_at":null}`), &patch))
	fmt.Println(patch.Name.IsZero(), patch.ExpiresAt.IsZero())
	// Output: true false
}

// The body of a PATCH request reads into the request. The path names the key.
func ExampleUpdateRequest() {
	admin, manager := exampleManager()
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live, Name: "Website", RotateMonths: 3})
	must(err)

	var req apikey.UpdateRequest
	must(json.Unmarshal([]byte(`{"name":"Shop","rotate_months":null}`), &req))
	req.Key = issued.Key.ID
	info, err := manager.Update(admin, req)
	fmt.Println(info.Name, info.RotateMonths, info.Version, err)
	// Output: Shop 0 2 <nil>
}

// Revoke means now: no verification on this node that starts after it returned
// succeeds.
func ExampleManager_Revoke() {
	admin, manager, live := exampleProgram()
	defer live.Close(admin)
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live})
	must(err)

	must(manager.Revoke(admin, apikey.RevokeRequest{Key: issued.Key.ID, Reason: apikey.ReasonCompromised}))
	_, err = live.Verify(context.Background(), issued.Token.Reveal(), apikey.Request{})
	fmt.Println(err)
	info, err := manager.Get(admin, issued.Key.ID)
	fmt.Println(info.State, info.RevokeReason, err)
	// Output:
	// apikey: key is revoked
	// revoked compromised <nil>
}

// Whoever finds a leaked token can end it, without an account and an actor.
func ExampleManager_RevokeToken() {
	admin, manager, live := exampleProgram()
	defer live.Close(admin)
	leaked, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live})
	must(err)

	must(manager.RevokeToken(context.Background(), leaked.Token.Reveal(), "found in a public repository"))
	_, err = live.Verify(context.Background(), leaked.Token.Reveal(), apikey.Request{})
	fmt.Println(errors.Is(err, apikey.ErrUnauthenticated))
	// Output: true
}

func ExampleManager_List() {
	admin, manager := exampleManager()
	for _, name := range []string{"Website", "App", "Old website"} {
		_, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live, Name: name})
		must(err)
	}

	count := 0
	req := apikey.ListRequest{NameContains: "website", Limit: 1}
	for {
		page, err := manager.List(admin, req)
		must(err)
		count += len(page.Keys)
		if page.Next == "" {
			break
		}
		req.Cursor = page.Next
	}
	fmt.Println(count)
	// Output: 2
}

// The activity log says who did what, never to which value.
func ExampleManager_Events() {
	admin, manager := exampleManager()
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live, Name: "Website"})
	must(err)
	_, err = manager.Update(admin, apikey.UpdateRequest{Key: issued.Key.ID, Name: apikey.Set("Shop")})
	must(err)

	log, err := manager.Events(admin, apikey.EventsRequest{Key: issued.Key.ID})
	must(err)
	for _, e := range log.Events {
		fmt.Println(e.Seq, e.Actor.ID, e.Action, e.Outcome, e.Changed)
	}
	// Output:
	// 2 usr_1 key.update done [name]
	// 1 usr_1 key.issue done [abilities name]
}

// Each event continues the one before it, so that what is missing or was
// changed shows.
func ExampleManager_VerifyEvents() {
	admin, manager := exampleManager()
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live})
	must(err)
	must(manager.Suspend(admin, issued.Key.ID))

	report, err := manager.VerifyEvents(admin, issued.Key.ID)
	must(err)
	fmt.Println(report.Events, report.Unverifiable, report.Broken == nil)
	// Output: 2 0 true
}

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
	manager, err := apikey.NewManager(ctx, apikey.Settings{Store: store, Prefix: "acme", Catalog: apikey.MustCatalog()}, apikey.ManagerConfig{})
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
