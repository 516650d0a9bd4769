package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// everywhere is one driver of each kind, the pooler too.
func everywhere() []engine {
	return named("sqlite/modernc", "postgres/pgx", "postgres/pq", "pgbouncer/pgx exec", "pgbouncer/pgx simple", "mariadb/prepared", "mariadb/interpolated")
}

// A merchant's row and the keys are committed together, or not at all.
func TestInCommitsAndRollsBackTogether(t *testing.T) {
	for _, e := range everywhere() {
		t.Run(e.name, func(t *testing.T) {
			s, db := e.migrated(t)
			db.SetMaxOpenConns(1) // whatever opened a second one would wait for ever
			m := newManager(t, s)
			for _, commit := range []bool{true, false} {
				account := fmt.Sprintf("acc_%v", commit)
				tx, err := db.BeginTx(t.Context(), nil)
				must(t, err)
				keys := m.Tx(s.In(tx))
				one, err := keys.Issue(adminOf(account), apikey.IssueRequest{Mode: apikey.Live})
				must(t, err)
				two, err := keys.Issue(adminOf(account), apikey.IssueRequest{Mode: apikey.Live})
				must(t, err)
				must(t, keys.Revoke(adminOf(account), apikey.RevokeRequest{Key: one.Key.ID}))
				_, err = keys.Rotate(adminOf(account), apikey.RotateRequest{Key: two.Key.ID})
				must(t, err)
				if commit {
					must(t, tx.Commit())
				} else {
					must(t, tx.Rollback())
				}
				list, err := m.List(adminOf(account), apikey.ListRequest{})
				must(t, err)
				events, err := m.Events(adminOf(account), apikey.EventsRequest{})
				must(t, err)
				wantKeys, wantEvents := 0, 0
				if commit {
					wantKeys, wantEvents = 2, 4
				}
				if len(list.Keys) != wantKeys || len(events.Events) != wantEvents {
					t.Errorf("commit %v: %d keys, %d events", commit, len(list.Keys), len(events.Events))
				}
			}
		})
	}
}

// Committed believes the store: whatever it is called after, and also while the
// transaction is still open, only what was committed is told.
func TestFound06CommittedBelievesTheStore(t *testing.T) {
	for _, e := range everywhere() {
		t.Run(e.name, func(t *testing.T) {
			s, db := e.migrated(t)
			told := 0
			m := newManager(t, s, func(c *managing) { c.OnEvent = func(apikey.Event) { told++ } })
			v := sure(m.NewVerifier(background, apikey.VerifierConfig{Mode: apikey.Live, Sync: -1}))
			told = 0
			wants(t, m.Tx(s).Revoke(adminOf("acc_1"), apikey.RevokeRequest{Key: storetest.NewKeyID()}), apikey.ErrInvalid, "in no transaction")
			refund := apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}}
			for _, commit := range []bool{false, true} {
				narrow, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
				must(t, err)
				dead, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
				must(t, err)
				for _, k := range []apikey.Issued{narrow, dead} {
					_, err := v.Verify(t.Context(), k.Token.Reveal(), apikey.Request{})
					must(t, err)
				}
				told = 0
				tx, err := db.BeginTx(t.Context(), nil)
				must(t, err)
				keys := m.Tx(s.In(tx))
				_, err = keys.Update(adminOf("acc_1"), apikey.UpdateRequest{Key: narrow.Key.ID, Abilities: apikey.Set([]string{"payment:refund"})})
				must(t, err)
				must(t, keys.Revoke(adminOf("acc_1"), apikey.RevokeRequest{Key: dead.Key.ID}))
				must(t, keys.Committed(t.Context()))
				if told != 0 {
					t.Errorf("commit %v: %d events are told of an open transaction", commit, told)
				}
				if commit {
					must(t, tx.Commit())
				} else {
					must(t, tx.Rollback())
				}
				must(t, keys.Committed(t.Context()))
				var mayRefund, dies error = apikey.ErrAbility, nil
				want := 0
				if commit {
					mayRefund, dies, want = nil, apikey.ErrRevoked, 2
				}
				_, err = v.Verify(t.Context(), narrow.Token.Reveal(), refund)
				if !errors.Is(err, mayRefund) {
					t.Errorf("commit %v: a refund: %v", commit, err)
				}
				if _, err = v.Verify(t.Context(), dead.Token.Reveal(), apikey.Request{}); !errors.Is(err, dies) {
					t.Errorf("commit %v: the revoked key: %v", commit, err)
				}
				if told != want {
					t.Errorf("commit %v: %d events told", commit, told)
				}
			}
		})
	}
}

// An Apply whose comparison fails, at any of its writes, has written nothing and
// left no failed statement: the transaction goes on.
func TestInAfterAConflict(t *testing.T) {
	for _, e := range everywhere() {
		t.Run(e.name, func(t *testing.T) {
			s, db := e.migrated(t)
			stored := create(t, s)
			for name, changes := range map[string][]apikey.StoreChange{
				"stale version": {change(newRecord("m2")), change(stored)},
				"stale update":  {change(newRecord("m2")), change(next(next(stored)))},
				"taken key":     {change(newRecord("m2")), change(apikey.StoreRecord{ID: stored.ID, Version: 1, Mode: apikey.Live, Kind: apikey.Secret})},
				"taken event":   {change(newRecord("m2")), {ID: [16]byte{1}, Event: &apikey.StoreEvent{ID: [16]byte{1}}}, {ID: [16]byte{1}, Event: &apikey.StoreEvent{ID: [16]byte{1}}}},
				"stale item":    {change(newRecord("m2")), {ID: [16]byte{2}, Items: []apikey.StoreItem{{Kind: "k", ID: "1", Version: 1}, {Kind: "k", ID: "2", Version: 7}}}},
				"taken item":    {change(newRecord("m2")), {ID: [16]byte{2}, Items: []apikey.StoreItem{{Kind: "k", ID: "1", Version: 1}, {Kind: "k", ID: "1", Version: 1}}}},
				"item not gone": {change(newRecord("m2")), {ID: [16]byte{2}, Items: []apikey.StoreItem{{Kind: "k", ID: "1", Version: 1}, {Kind: "k", ID: "1", Version: 1, Delete: true}}}},
				"stolen credential": func() []apikey.StoreChange {
					thief := newRecord("m2")
					thief.Credentials[1] = stored.Credentials[0]
					return []apikey.StoreChange{change(thief)}
				}(),
			} {
				tx, err := db.BeginTx(t.Context(), nil)
				must(t, err)
				joined := s.In(tx)
				wants(t, joined.Apply(t.Context(), changes...), apikey.ErrConflict, "")
				after := newRecord("after")
				if err := joined.Apply(t.Context(), change(after)); err != nil {
					t.Errorf("%s: the transaction cannot go on: %v", name, err)
				}
				must(t, tx.Commit())
				page, err := s.List(t.Context(), apikey.StoreFilter{Account: "m2"})
				must(t, err)
				items, err := s.Items(t.Context(), apikey.StoreItemFilter{Kind: "k"})
				must(t, err)
				if len(page.Records)+len(items.Items) != 0 {
					t.Errorf("%s: half of it is there: %v %v", name, page.Records, items.Items)
				}
				if _, err := s.Get(t.Context(), after.ID); err != nil {
					t.Errorf("%s: what came after is not: %v", name, err)
				}
			}
		})
	}
}

// Whoever reads a key in their transaction has it until the end, so that nothing
// conflicts there: many transactions change one key, one after the other.
func TestInLocksWhatItReads(t *testing.T) {
	const writers, each = 8, 6
	for _, e := range everywhere() {
		t.Run(e.name, func(t *testing.T) {
			s, db := e.migrated(t)
			m := newManager(t, s)
			key, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
			must(t, err)
			var wg sync.WaitGroup
			var conflicts atomic.Int64
			for w := range writers {
				wg.Go(func() {
					for n := range each {
						err := inTx(db, func(tx *sql.Tx) error {
							keys := m.Tx(s.In(tx))
							if _, err := keys.Update(adminOf("acc_1"), apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(fmt.Sprint(w, n))}); err != nil {
								return err
							}
							_, err := keys.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
							if errors.Is(err, apikey.ErrLimit) {
								return nil
							}
							return err
						})
						if errors.Is(err, apikey.ErrConflict) {
							conflicts.Add(1)
						} else if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			info, err := m.Get(adminOf("acc_1"), key.Key.ID)
			must(t, err)
			report, err := m.VerifyEvents(adminOf("acc_1"), key.Key.ID)
			must(t, err)
			list, err := m.List(adminOf("acc_1"), apikey.ListRequest{Limit: 1000})
			must(t, err)
			t.Logf("%d transactions on one key: conflicts %d", writers*each, conflicts.Load())
			if want := writers*each + 1; conflicts.Load() != 0 || info.Version != uint64(want) || report.Broken != nil || len(list.Keys) != want {
				t.Errorf("version %d, %d keys, chain %+v", info.Version, len(list.Keys), report)
			}
		})
	}
}

// The quota of an account, which Issue swaps, is read and locked likewise.
func TestInLocksTheQuota(t *testing.T) {
	const writers, each = 8, 5
	for _, e := range everywhere() {
		t.Run(e.name, func(t *testing.T) {
			s, db := e.migrated(t)
			m := newManager(t, s)
			_, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live}) // from now on there is one
			must(t, err)
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for range each {
						err := inTx(db, func(tx *sql.Tx) error {
							_, err := m.Tx(s.In(tx)).Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
							return err
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			list, err := m.List(adminOf("acc_1"), apikey.ListRequest{Limit: 1000})
			must(t, err)
			if want := writers*each + 1; len(list.Keys) != want {
				t.Errorf("%d keys, want %d", len(list.Keys), want)
			}
		})
	}
}

// A transaction that has changed one key, and stays open, holds up nobody who
// changes another: however few keys there are, whatever they do.
func TestInHoldsUpNobodyElse(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			for _, keys := range []int{2, 5, 20, 100} {
				s, db := e.migrated(t)
				m := newManager(t, s, newDesk().furnish(onReveal))
				var issued []apikey.Issued
				for i := range keys {
					k, err := m.Issue(adminOf(fmt.Sprintf("acc_%d", i%10)), apikey.IssueRequest{Mode: apikey.Live})
					must(t, err)
					issued = append(issued, k)
				}
				tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
				must(t, err)
				joined := m.Tx(s.In(tx))
				must(t, joined.Revoke(adminOf("acc_0"), apikey.RevokeRequest{Key: issued[0].Key.ID}))
				for _, op := range operations() {
					if op.steps {
						continue // of the whole account
					}
					other, err := m.Issue(adminOf("acc_x"), apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
					must(t, err)
					ctx, cancel := context.WithTimeout(adminOf("acc_x"), 2*time.Second)
					who := shopkeeper{ctx: ctx, account: "acc_x", store: s, db: db, m: m, v: newVerifier(t, s)}
					if op.before != nil {
						must(t, op.before(who, other))
					}
					if err := op.run(who, other); err != nil {
						t.Errorf("%s with %d keys is held up: %v", op.name, keys, err)
					}
					cancel()
				}
				must(t, tx.Commit())
			}
		})
	}
}

// A flush of last uses that meets a key of an open transaction waits for it with
// nothing in its hands: whoever revokes another key of the batch is not held up.
func TestUpkeepHoldsUpNobody(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			s, db := e.migrated(t)
			busy, other := create(t, s), create(t, s)
			busy.Credentials[0].Ended = true // so that its row is written
			tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
			must(t, err)
			defer tx.Rollback()
			must(t, s.In(tx).Apply(t.Context(), change(next(busy))))
			batch := []apikey.StoreUpkeep{{Credential: busy.Credentials[0].ID, LastUsed: epoch}, {Credential: other.Credentials[0].ID, LastUsed: epoch}}
			stop := make(chan struct{})
			var flushes sync.WaitGroup
			for range 4 {
				flushes.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
						if err := s.Upkeep(ctx, batch); !errors.Is(err, apikey.ErrUnavailable) {
							t.Errorf("Upkeep of a key that is locked: %v", err)
						}
						cancel()
					}
				})
			}
			var slowest time.Duration
			for range 50 {
				time.Sleep(10 * time.Millisecond)
				other = next(other)
				other.Credentials[0].Hint = fmt.Sprint(other.Version)
				begun := time.Now()
				must(t, s.Apply(t.Context(), change(other)))
				slowest = max(slowest, time.Since(begun))
			}
			close(stop)
			flushes.Wait()
			t.Logf("the slowest of 50 changes took %v", slowest.Round(time.Millisecond))
			if slowest > time.Second {
				t.Error("they were held up")
			}
			must(t, tx.Commit())
			must(t, s.Upkeep(t.Context(), batch))
			for _, id := range []apikey.KeyID{busy.ID, other.ID} {
				got, err := s.Get(t.Context(), id)
				must(t, err)
				if !got.Credentials[0].LastUsed.Equal(epoch) {
					t.Error("not written after the transaction's end")
				}
			}
		})
	}
}

// A deadlock takes the whole of the caller's transaction back on MariaDB, and
// its savepoints with it; on PostgreSQL the savepoint is all that is lost. The
// caller is not told that there was a conflict, after which they might go on. What they
// say after it in that transaction is not committed alone.
func TestInADeadlock(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			s, db := e.migrated(t)
			one, two := create(t, s), create(t, s)
			var txs [2]*sql.Tx
			for i, r := range []apikey.StoreRecord{one, two} {
				tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
				must(t, err)
				defer tx.Rollback()
				must(t, s.In(tx).Apply(t.Context(), change(next(r))))
				txs[i] = tx
			}
			var errs [2]error
			var wg sync.WaitGroup
			for i, r := range []apikey.StoreRecord{two, one} { // each wants what the other has
				wg.Go(func() {
					joined := s.In(txs[i])
					errs[i] = joined.Apply(context.Background(), change(next(r)))
					if errs[i] != nil {
						after := newRecord("m1")
						_ = joined.Apply(context.Background(), change(after))
						txs[i].Rollback() // and the other one goes on
						if _, err := s.Get(context.Background(), after.ID); !errors.Is(err, apikey.ErrNotFound) {
							t.Errorf("a change after the end was committed: %v", err)
						}
					}
				})
			}
			wg.Wait()
			victims := 0
			for i, err := range errs {
				switch {
				case errors.Is(err, apikey.ErrUnavailable):
					victims++
				case errors.Is(err, apikey.ErrConflict), err == nil:
					_ = txs[i].Commit()
				default:
					t.Errorf("%v", err)
				}
			}
			if victims != 1 {
				t.Errorf("%d victims: %v", victims, errs)
			}
			for _, r := range []apikey.StoreRecord{one, two} {
				got, err := s.Get(t.Context(), r.ID)
				must(t, err)
				chain, err := s.Events(t.Context(), apikey.StoreEventFilter{Key: r.ID, Chain: true})
				must(t, err)
				if int(got.Version) != len(chain.Events) {
					t.Errorf("version %d with %d events", got.Version, len(chain.Events))
				}
			}
		})
	}
}

func inTx(db *sql.DB, work func(*sql.Tx) error) error {
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// In a transaction that has read before another one wrote, nothing of the two is
// mixed, and nothing is overwritten.
func TestInAtEveryIsolation(t *testing.T) {
	for _, e := range servers() {
		for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable} {
			t.Run(e.name+"/"+level.String(), func(t *testing.T) {
				s, db := e.migrated(t)
				r := create(t, s)
				tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
				must(t, err)
				defer tx.Rollback()
				var n int
				must(t, tx.QueryRow("SELECT 1").Scan(&n))
				joined := s.In(tx)
				if level != sql.LevelSerializable { // where reading the page would lock it
					_, err = joined.List(t.Context(), apikey.StoreFilter{}) // a snapshot, where there is such a thing
					must(t, err)
				}
				other := next(r)
				other.Name = "other"
				fresh := apikey.StoreCredential{ID: storetest.NewCredentialID(), Hash: "other"}
				other.Credentials = []apikey.StoreCredential{fresh, r.Credentials[0]}
				must(t, s.Apply(t.Context(), change(other)))

				got, err := joined.Get(t.Context(), r.ID)
				if err != nil { // at the higher levels PostgreSQL says so
					wants(t, err, apikey.ErrUnavailable, "could not serialize")
					return
				}
				if got.Version != 2 || got.Name != "other" || len(got.Credentials) != 2 || got.Credentials[0].ID != fresh.ID {
					t.Fatalf("version %d is mixed: %+v", got.Version, got)
				}
				ours := next(got)
				ours.Credentials = got.Credentials[1:]
				must(t, joined.Apply(t.Context(), change(ours)))
				must(t, tx.Commit())
				got, err = s.Get(t.Context(), r.ID)
				must(t, err)
				if got.Version != 3 || len(got.Credentials) != 1 {
					t.Errorf("after the commit: %+v", got)
				}
			})
		}
	}
}
