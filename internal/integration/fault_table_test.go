package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// shopkeeper is one program: a Manager and what it needs, on a store.
type shopkeeper struct {
	ctx     context.Context // of the admin of an account
	account string
	store   *sqlstore.Store
	db      *sql.DB
	m       *apikey.Manager
	v       *apikey.Verifier
	far     *apikey.Verifier // of the program whose calls are about to fail
	desk    *desk
}

var catalog = apikey.MustCatalog(
	apikey.CatalogEntry{Scope: "payment:verify"}, apikey.CatalogEntry{Scope: "payment:refund"}, apikey.CatalogEntry{Scope: "card:tokenise", Publishable: true},
)

func pepperIn(slot uint8) apikey.Pepper { return sure(apikey.NewPepper(slot, [32]byte{slot, 2, 3})) }

func hasher(testing.TB) apikey.Hasher { return sure(apikey.NewHMACSHA256(pepperIn(1))) }

// newManager is a Manager with a pepper and the quick hasher.
func newManager(t testing.TB, store apikey.Store, options ...func(*managing)) *apikey.Manager {
	t.Helper()
	m, err := managerConfig(store, options...).start(context.Background())
	must(t, err)
	t.Cleanup(func() { m.Close(context.Background()) })
	return m
}

func settingsOf(store apikey.Store) apikey.Settings {
	return apikey.Settings{Store: store, Prefix: "acme", Catalog: catalog, Hashers: []apikey.Hasher{hasher(nil)}, Peppers: []apikey.Pepper{pepperIn(1)}}
}

func managerConfig(store apikey.Store, options ...func(*managing)) managing {
	c := managing{Settings: settingsOf(store)}
	c.Limits.IssuesAnHour = 100_000 // these suites make more keys than a merchant would
	for _, o := range options {
		o(&c)
	}
	return c
}

// newVerifier is a Verifier that asks only when it is told to.
func newVerifier(t testing.TB, store apikey.Store, options ...func(*verifying)) *apikey.Verifier {
	t.Helper()
	v, err := verifierConfig(store, options...).start(context.Background())
	must(t, err)
	t.Cleanup(func() { v.Close(context.Background()) })
	return v
}

func verifierConfig(store apikey.Store, options ...func(*verifying)) verifying {
	c := verifying{settingsOf(store), apikey.VerifierConfig{Mode: apikey.Live, Sync: -1}}
	for _, o := range options {
		o(&c)
	}
	return c
}

func adminOf(account string) context.Context {
	return apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: account, Role: "admin"})
}

// operation is one public method with a request.
type operation struct {
	name string
	run  func(s shopkeeper, key apikey.Issued) error
	// before brings the key into the state that run needs; after finds what run
	// has done at work, and only once. Nothing disturbs these two.
	before, after func(s shopkeeper, key apikey.Issued) error

	steps   bool     // several commits, each of which is whole by itself
	unsure  bool     // says that it failed when the answer to COMMIT was lost
	tx      bool     // so does a transaction of the caller's, which is not asked again
	marks   bool     // the Verifier notes last uses
	opens   bool     // puts a challenge
	answers bool     // answers one, or what Enroll has begun
	flights []string // public functions whose calls run on goroutines of their own
}

func issue(s shopkeeper, idempotency string) error {
	_, err := s.m.Issue(s.ctx, apikey.IssueRequest{Mode: apikey.Live, Name: "one", Abilities: []string{"payment:refund"}, IdempotencyKey: idempotency})
	return err
}

func rotate(s shopkeeper, req apikey.RotateRequest) error {
	_, err := s.m.Rotate(s.ctx, req)
	return err
}

func operations() []operation {
	var granted apikey.Grant // of the scene that is running
	pending := func(s shopkeeper, key apikey.Issued) error {
		return rotate(s, apikey.RotateRequest{Key: key.Key.ID, At: time.Now().Add(time.Hour)})
	}
	overlapping := func(s shopkeeper, key apikey.Issued) error {
		return rotate(s, apikey.RotateRequest{Key: key.Key.ID, Overlap: time.Hour})
	}
	return []operation{
		{name: "Issue", run: func(s shopkeeper, _ apikey.Issued) error { return issue(s, "") }},
		{name: "Issue, idempotent", run: func(s shopkeeper, _ apikey.Issued) error {
			err := issue(s, "order "+s.account)
			if errors.Is(err, apikey.ErrAlreadyIssued) {
				return nil
			}
			return err
		}},
		{name: "Provision", steps: true, run: func(s shopkeeper, _ apikey.Issued) error {
			_, err := s.m.Provision(s.ctx, apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}})
			return err
		}},
		{name: "Update", run: func(s shopkeeper, key apikey.Issued) error {
			_, err := s.m.Update(s.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("new"), Abilities: apikey.Set([]string{"payment:verify"})})
			return err
		}},
		{name: "Suspend", run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Suspend(s.ctx, key.Key.ID)
		}},
		{name: "Resume", before: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Suspend(s.ctx, key.Key.ID)
		}, run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Resume(s.ctx, apikey.ResumeRequest{Key: key.Key.ID})
		}},
		{name: "Rotate now", run: func(s shopkeeper, key apikey.Issued) error {
			return rotate(s, apikey.RotateRequest{Key: key.Key.ID})
		}},
		{name: "Rotate with overlap", run: overlapping},
		{name: "Rotate at a time", run: pending},
		{name: "Rotate, Replace", before: pending, run: func(s shopkeeper, key apikey.Issued) error {
			return rotate(s, apikey.RotateRequest{Key: key.Key.ID, Overlap: time.Hour, Replace: true})
		}},
		{name: "CancelRotation", before: pending, run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.CancelRotation(s.ctx, key.Key.ID)
		}},
		{name: "Retire", before: overlapping, run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Retire(s.ctx, apikey.RetireRequest{Key: key.Key.ID, Credential: key.Token.Credential()})
		}},
		{name: "Revoke", run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.Revoke(s.ctx, apikey.RevokeRequest{Key: key.Key.ID, Reason: apikey.ReasonCompromised})
		}},
		{name: "RevokeAll", steps: true, before: func(s shopkeeper, _ apikey.Issued) error { return issue(s, "") }, run: func(s shopkeeper, _ apikey.Issued) error {
			_, err := s.m.RevokeAll(s.ctx, apikey.RevokeAllRequest{All: true, Reason: apikey.ReasonRequested})
			return err
		}},
		{name: "RevokeToken", flights: []string{"Manager.RevokeToken"}, run: func(s shopkeeper, key apikey.Issued) error {
			return s.m.RevokeToken(context.Background(), key.Token.Reveal(), apikey.ReasonCompromised)
		}},
		{name: "in a transaction", run: func(s shopkeeper, key apikey.Issued) error {
			tx, err := s.db.BeginTx(s.ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			keys := s.m.Tx(s.store.In(tx))
			if _, err := keys.Issue(s.ctx, apikey.IssueRequest{Mode: apikey.Live}); err != nil {
				return err
			}
			if err := keys.Revoke(s.ctx, apikey.RevokeRequest{Key: key.Key.ID}); err != nil {
				return err
			}
			return tx.Commit()
		}, steps: true, tx: true},
		{name: "Reveal with a grant", before: func(s shopkeeper, key apikey.Issued) error {
			c, err := s.m.Challenge(s.ctx, "password", apikey.RevealRequest{Key: key.Key.ID})
			if err == nil {
				granted, err = s.m.Confirm(s.ctx, c.ID, password)
			}
			return err
		}, run: func(s shopkeeper, key apikey.Issued) error {
			shown, err := s.m.Reveal(s.ctx, apikey.RevealRequest{Key: key.Key.ID, Grant: granted})
			if err == nil && shown.Token.Reveal() != key.Token.Reveal() {
				return errors.New("another token was shown")
			}
			return err
		}},
		{name: "AllowEnrollment", run: func(s shopkeeper, _ apikey.Issued) error {
			return s.m.AllowEnrollment(s.ctx, apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_2"})
		}},
		{name: "LiftLock", before: func(s shopkeeper, key apikey.Issued) error {
			other := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_2", Account: s.account, Role: "admin"})
			c, err := s.m.Challenge(other, "password", apikey.RevealRequest{Key: key.Key.ID})
			if err == nil {
				_, err = s.m.Confirm(other, c.ID, "wrong")
			}
			if errors.Is(err, apikey.ErrWrongAnswer) {
				return s.lock()
			}
			return fmt.Errorf("a wrong answer: %w", err)
		}, run: func(s shopkeeper, _ apikey.Issued) error {
			return s.m.LiftLock(s.ctx, apikey.LiftLockRequest{Actor: "usr_2"})
		}},
		{name: "last used", run: func(s shopkeeper, key apikey.Issued) error {
			return s.store.Upkeep(s.ctx, []apikey.StoreUpkeep{{Credential: key.Token.Credential(), LastUsed: time.Now()}})
		}},
		{name: "reading", run: func(s shopkeeper, key apikey.Issued) error {
			_, got := s.m.Get(s.ctx, key.Key.ID)
			_, listed := s.m.List(s.ctx, apikey.ListRequest{})
			_, read := s.m.Events(s.ctx, apikey.EventsRequest{})
			_, verified := s.m.VerifyEvents(s.ctx, key.Key.ID)
			return errors.Join(got, listed, read, verified)
		}},
		{name: "Verify", flights: []string{"Verifier.Verify"}, run: func(s shopkeeper, key apikey.Issued) error {
			_, err := s.v.Verify(context.Background(), key.Token.Reveal(), apikey.Request{})
			return err
		}},
	}
}
