package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// housekeeping is what is done for the program's own sake: constructors, the
// feed, last uses, new KEKs and peppers, purging; and each method of a Tx.
func housekeeping() []operation {
	return append([]operation{
		{name: "NewManager", steps: true, run: func(s shopkeeper, _ apikey.Issued) error { // a commit for each pepper that is new
			_, err := s.another(nil)
			return err
		}},
		{name: "Manager.NewVerifier", run: func(s shopkeeper, key apikey.Issued) error {
			v, err := s.m.NewVerifier(background, apikey.VerifierConfig{Mode: apikey.Live, Sync: -1, ReadOnly: true})
			if err != nil {
				return err
			}
			defer v.Close(background)
			_, err = v.Verify(background, key.Token.Reveal(), apikey.Request{})
			return err
		}},
		{name: "NewVerifier", run: func(s shopkeeper, key apikey.Issued) error {
			v, err := verifierConfig(s.store, func(c *verifying) { c.ReadOnly = true }).start(background)
			if err != nil {
				return err
			}
			defer v.Close(background)
			_, err = v.Verify(background, key.Token.Reveal(), apikey.Request{})
			return err
		}},
		{name: "Sync hears of a revocation", flights: []string{"Verifier.Sync"}, before: func(s shopkeeper, key apikey.Issued) error {
			if _, err := s.far.Verify(background, key.Token.Reveal(), apikey.Request{}); err != nil {
				return err
			}
			return s.m.Revoke(s.ctx, apikey.RevokeRequest{Key: key.Key.ID})
		}, run: func(s shopkeeper, key apikey.Issued) error {
			if err := s.v.Sync(background); err != nil {
				return err
			}
			if _, err := s.v.Verify(background, key.Token.Reveal(), apikey.Request{}); !errors.Is(err, apikey.ErrRevoked) && s.v == s.far {
				return fmt.Errorf("a good sync has not heard of it: %v", err)
			}
			return nil
		}},
		{name: "Close writes last uses", flights: []string{"Verifier.Close"}, marks: true, before: func(s shopkeeper, key apikey.Issued) error {
			for _, v := range []*apikey.Verifier{s.v, s.far} {
				if _, err := v.Verify(background, key.Token.Reveal(), apikey.Request{}); err != nil {
					return err
				}
			}
			return nil
		}, run: func(s shopkeeper, _ apikey.Issued) error { return s.v.Close(background) }},
		{name: "Reseal", steps: true, before: func(s shopkeeper, _ apikey.Issued) error {
			m, err := s.another(func(c *managing) { slices.Reverse(c.KEKs) })
			if err == nil {
				_, err = m.Reseal(staff(), 0)
			}
			return err
		}, run: func(s shopkeeper, _ apikey.Issued) error {
			_, err := s.m.Reseal(staff(), 0)
			return err
		}, after: func(s shopkeeper, key apikey.Issued) error {
			page, err := s.store.List(s.ctx, apikey.StoreFilter{SealedKEKNot: "kek-1"})
			if err != nil || len(page.Records) != 0 {
				return fmt.Errorf("%d keys are sealed by the old KEK still: %v", len(page.Records), err)
			}
			return s.reveals(key)
		}},
		{name: "Remac", before: func(s shopkeeper, key apikey.Issued) error {
			m, err := s.another(func(c *managing) { slices.Reverse(c.Peppers) })
			if err == nil {
				_, err = m.Update(s.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("signed with the other pepper")})
			}
			return err
		}, run: func(s shopkeeper, _ apikey.Issued) error {
			_, err := s.m.Remac(staff(), 0)
			return err
		}, after: func(s shopkeeper, key apikey.Issued) error {
			_, err := s.v.Verify(background, key.Token.Reveal(), apikey.Request{}) // which has not the other pepper
			return err
		}},
		{name: "AdoptPepper", before: func(s shopkeeper, _ apikey.Issued) error {
			mark := apikey.StoreItem{Kind: "pepper", ID: "60", Version: 1, Data: []byte(fmt.Sprintf("%032d", 7))}
			now, err := s.store.Items(s.ctx, apikey.StoreItemFilter{Kind: mark.Kind, ID: mark.ID})
			if err == nil && len(now.Items) > 0 { // it is as it was before there were vouches
				mark.Version = now.Items[0].Version + 1
			}
			return errors.Join(err, s.store.Apply(s.ctx, apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{mark}}))
		}, run: func(s shopkeeper, _ apikey.Issued) error {
			return s.m.AdoptPepper(staff(), 60)
		}},
		{name: "Purge", unsure: true, before: func(s shopkeeper, _ apikey.Issued) error {
			dead := newRecord(s.account)
			dead.RevokedAt = epoch
			expired := apikey.StoreItem{Kind: "grant", ID: "old", Version: 1, ExpiresAt: epoch}
			c := change(dead)
			c.Items = []apikey.StoreItem{expired}
			return s.store.Apply(s.ctx, c)
		}, run: func(s shopkeeper, _ apikey.Issued) error {
			_, err := s.store.Purge(s.ctx, time.Now().Add(-48*time.Hour), 10)
			return err
		}},
	}, transactions()...)
}

// transactions are each method of a Tx in a transaction of its own.
func transactions() (all []operation) {
	for name, call := range map[string]func(ctx context.Context, keys *apikey.Tx, key apikey.KeyID) error{
		"Issue": func(ctx context.Context, keys *apikey.Tx, _ apikey.KeyID) error {
			_, err := keys.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "order"})
			return err
		},
		"Provision": func(ctx context.Context, keys *apikey.Tx, _ apikey.KeyID) error {
			_, err := keys.Provision(ctx, apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}})
			return err
		},
		"Update": func(ctx context.Context, keys *apikey.Tx, key apikey.KeyID) error {
			_, err := keys.Update(ctx, apikey.UpdateRequest{Key: key, Name: apikey.Set("new")})
			return err
		},
		"Rotate": func(ctx context.Context, keys *apikey.Tx, key apikey.KeyID) error {
			_, err := keys.Rotate(ctx, apikey.RotateRequest{Key: key, Overlap: time.Hour})
			return err
		},
		"Revoke": func(ctx context.Context, keys *apikey.Tx, key apikey.KeyID) error {
			return keys.Revoke(ctx, apikey.RevokeRequest{Key: key})
		},
		"Get": func(ctx context.Context, keys *apikey.Tx, key apikey.KeyID) error {
			_, err := keys.Get(ctx, key)
			return err
		},
		"List": func(ctx context.Context, keys *apikey.Tx, _ apikey.KeyID) error {
			_, err := keys.List(ctx, apikey.ListRequest{})
			return err
		},
	} {
		all = append(all, operation{name: "Tx " + name, tx: true, run: func(s shopkeeper, key apikey.Issued) error {
			tx, err := s.db.BeginTx(s.ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			keys := s.m.Tx(s.store.In(tx))
			if err := call(s.ctx, keys, key.Key.ID); err != nil {
				return err
			}
			if err := tx.Commit(); err != nil {
				return err
			}
			keys.Committed(s.ctx)
			return nil
		}})
	}
	return all
}

// another is one more Manager of the same program, configured a little otherwise.
func (s shopkeeper) another(otherwise func(*managing)) (*apikey.Manager, error) {
	return managerConfig(s.store, s.desk.furnish(onReveal), func(c *managing) {
		if otherwise != nil {
			otherwise(c)
		}
	}).start(background)
}
