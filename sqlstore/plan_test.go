package sqlstore_test

import (
	"context"
	"database/sql"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// SQLite explains every statement that these operations send. A statement must reach the
// big tables through an index, and never scan them.
func TestPlans(t *testing.T) {
	db, p := proxyDB(t, file(t))
	s := migrated(t, db)
	r := create(t, s, "m1")
	other := create(t, s, "m1")
	ch := change(next(r))
	ch.Items = []apikey.StoreItem{{Kind: "test", ID: "1", Version: 1, Data: []byte("x")}}
	require.NoError(t, s.Apply(t.Context(), ch))
	require.NoError(t, s.Apply(t.Context(), change(next(other))))
	cursor := position(t, s)
	list, err := s.List(t.Context(), apikey.StoreFilter{Account: "m1", Limit: 1})
	require.NoError(t, err)
	log, err := s.Events(t.Context(), apikey.StoreEventFilter{Limit: 1})
	require.NoError(t, err)
	chain, err := s.Events(t.Context(), apikey.StoreEventFilter{Key: r.ID, Chain: true, Limit: 1})
	require.NoError(t, err)

	for _, c := range operations(t, r, cursor, list.Next, log.Next, chain.Next) {
		t.Run(c.name, func(t *testing.T) {
			p.record(nil)
			require.NoError(t, c.run(t.Context(), s))
			explained := 0
			for _, call := range p.seen() {
				if !reads.MatchString(call.sql) {
					continue
				}
				explained++
				for _, step := range explain(t, db, call) {
					require.False(t, scans(step), "%s\n%s", step, call.sql)
					require.False(t, strings.Contains(step, "TEMP B-TREE") && !c.sort, "%s\n%s", step, call.sql)
				}
			}
			require.NotZero(t, explained)
		})
	}
}

// operation is one call of a Store.
type operation struct {
	name string
	run  func(ctx context.Context, s *sqlstore.Store) error
	sort bool // sorting one page after the joins is allowed
}

// searches are the filters of the log, each with the index that has to find its events.
func searches(r apikey.StoreRecord, logged, chained apikey.Cursor) map[string]search {
	some := []apikey.Action{apikey.ActionReveal, apikey.ActionRevoke, apikey.ActionRotate}
	return map[string]search{
		"actor":               {"apikey_events_actor", apikey.StoreEventFilter{Account: "m1", Actor: "ann"}},
		"actor, mode":         {"apikey_events_actor", apikey.StoreEventFilter{Account: "m1", Actor: "ann", Mode: apikey.Live}},
		"actor, next page":    {"apikey_events_actor", apikey.StoreEventFilter{Account: "m1", Actor: "ann", After: logged}},
		"actor, since":        {"apikey_events_actor", apikey.StoreEventFilter{Account: "m1", Actor: "ann", Since: day}},
		"action":              {"apikey_events_action", apikey.StoreEventFilter{Account: "m1", Actions: some[:1]}},
		"actions":             {"apikey_events_action", apikey.StoreEventFilter{Account: "m1", Actions: some}},
		"actions, next page":  {"apikey_events_action", apikey.StoreEventFilter{Account: "m1", Actions: some, After: logged}},
		"actions, since":      {"apikey_events_action", apikey.StoreEventFilter{Account: "m1", Actions: some, Since: day, Before: day.Add(1)}},
		"actor and actions":   {"apikey_events_act", apikey.StoreEventFilter{Account: "m1", Actor: "ann", Actions: some}},
		"time":                {"apikey_events_account", apikey.StoreEventFilter{Account: "m1", Since: day, Before: day.Add(1)}},
		"time, next page":     {"apikey_events_account", apikey.StoreEventFilter{Account: "m1", Since: day, Before: day.Add(1), After: logged}},
		"all, actor, since":   {"apikey_events_time", apikey.StoreEventFilter{Actor: "ann", Since: day}},
		"all, actions, since": {"apikey_events_time", apikey.StoreEventFilter{Actions: some, Since: day, After: logged}},
		"key":                 {"apikey_events_key", apikey.StoreEventFilter{Key: r.ID, Account: "m1"}},
		"key, actor":          {"apikey_events_key", apikey.StoreEventFilter{Key: r.ID, Account: "m1", Actor: "ann", Actions: some}},
		"chain":               {"apikey_events_chain", apikey.StoreEventFilter{Key: r.ID, Account: "m1", Chain: true, Actor: "ann", Actions: some, Since: day, Before: day, After: chained}},
	}
}

type search struct {
	index  string
	filter apikey.StoreEventFilter
}

// Each filter of the log is found by the index that is made for it, from the newest
// event on, and nothing is sorted.
func TestPlansOfTheLog(t *testing.T) {
	db, p := proxyDB(t, file(t))
	s := migrated(t, db)
	r := create(t, s, "m1")
	require.NoError(t, s.Apply(t.Context(), change(next(r))))
	log, err := s.Events(t.Context(), apikey.StoreEventFilter{Limit: 1})
	require.NoError(t, err)
	chain, err := s.Events(t.Context(), apikey.StoreEventFilter{Key: r.ID, Chain: true, Limit: 1})
	require.NoError(t, err)
	for name, c := range searches(r, log.Next, chain.Next) {
		p.record(nil)
		require.NoError(t, logs(c.filter)(t.Context(), s))
		require.Len(t, p.seen(), 1, name)
		steps := strings.Join(explain(t, db, p.seen()[0]), "\n")
		require.Contains(t, steps, "INDEX "+c.index, name)
		t.Log(name + "\n" + steps)
	}
}

func operations(t *testing.T, r apikey.StoreRecord, cursor, listed, logged, chained apikey.Cursor) []operation {
	return []operation{
		{"get", get(func(ctx context.Context, s *sqlstore.Store) (apikey.StoreRecord, error) { return s.Get(ctx, r.ID) }), false},
		{"lookup", get(func(ctx context.Context, s *sqlstore.Store) (apikey.StoreRecord, error) {
			return s.Lookup(ctx, r.Credentials[0].ID)
		}), false},
		{"list", lists(apikey.StoreFilter{}), true},
		{"list account", lists(apikey.StoreFilter{Account: "m1"}), true},
		{"list account, next page", lists(apikey.StoreFilter{Account: "m1", After: listed}), true},
		{"list everything of an account", lists(apikey.StoreFilter{
			Account: "m1", Mode: apikey.Live, Kind: apikey.Secret, State: apikey.Active, NameContains: "x", NeverUsed: true,
			UnusedSince: day, ExpiringBefore: day, NotExpiredAt: day, DueBefore: day, Pepper: 1, OtherMAC: 2, SealedKEKNot: "k",
		}), true},
		{"events", logs(apikey.StoreEventFilter{}), false},
		{"events, next page", logs(apikey.StoreEventFilter{After: logged}), false},
		{"events of an account", logs(apikey.StoreEventFilter{Account: "m1"}), false},
		{"events of an account, next page", logs(apikey.StoreEventFilter{Account: "m1", Mode: apikey.Live, After: logged}), false},
		{"events of a key", logs(apikey.StoreEventFilter{Key: r.ID}), false},
		{"events of a key and account", logs(apikey.StoreEventFilter{Key: r.ID, Account: "m1", After: logged}), false},
		{"chain", logs(apikey.StoreEventFilter{Key: r.ID, Chain: true}), false},
		{"chain, next page", logs(apikey.StoreEventFilter{Key: r.ID, Chain: true, Account: "m1", After: chained}), false},
		{"feed, now", get(func(ctx context.Context, s *sqlstore.Store) (apikey.StoreChanges, error) {
			return s.Changed(ctx, "", 10)
		}), true},
		{"feed", get(func(ctx context.Context, s *sqlstore.Store) (apikey.StoreChanges, error) {
			return s.Changed(ctx, cursor, 10)
		}), true},
		{"item", itemLists(apikey.StoreItemFilter{Kind: "test", ID: "1"}), false},
		{"items", itemLists(apikey.StoreItemFilter{Kind: "test", After: "0"}), false},
		{"items to reseal", itemLists(apikey.StoreItemFilter{Kind: "test", SealedKEKNot: "k"}), false},
		{"apply", func(ctx context.Context, s *sqlstore.Store) error {
			return s.Apply(ctx, manyChanges(next(next(r)), 1)...)
		}, false},
		{"apply again", func(ctx context.Context, s *sqlstore.Store) error {
			require.ErrorIs(t, s.Apply(ctx, change(next(r))), apikey.ErrConflict)
			return nil
		}, false},
		{"upkeep", func(ctx context.Context, s *sqlstore.Store) error {
			return s.Upkeep(ctx, []apikey.StoreUpkeep{
				{Credential: r.Credentials[0].ID, LastUsed: day, OldHash: "hash-1", NewHash: "2", OldSealed: []byte("sealed-1"), NewSealed: []byte("2"), NewKEK: "k"},
				{Credential: r.Credentials[1].ID, LastUsed: day},
			})
		}, false},
		{"purge", get(func(ctx context.Context, s *sqlstore.Store) (int, error) { return s.Purge(ctx, day, 10) }), false},
	}
}

// explain asks SQLite how it would run a statement.
func explain(t *testing.T, db *sql.DB, c call) (steps []string) {
	t.Helper()
	args := make([]any, len(c.args))
	for i, a := range c.args {
		args[i] = a.Value
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN "+c.sql, args...)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var (
			id, parent, unused int
			step               string
		)
		require.NoError(t, rows.Scan(&id, &parent, &unused, &step))
		steps = append(steps, step)
	}
	require.NotEmpty(t, steps)
	return steps
}

var reads = regexp.MustCompile(`^(SELECT|UPDATE|DELETE|WITH)\b`)

// scans reports whether a step reads a whole table. Not counted are the feed, which has
// one row; used, which has the rows of the statement itself; k, the page that a subquery
// has limited; and a scan in the order of an index without other conditions, which ends
// at the limit.
func scans(step string) bool {
	for _, small := range []string{"SCAN feed", "SCAN apikey_feed", "SCAN used", "SCAN k", "SCAN k LEFT-JOIN", "SCAN stored USING INDEX apikey_keys_created", "SCAN apikey_events USING INDEX apikey_events_time", "SCAN CONSTANT ROW", "SCAN 2 CONSTANT ROWS"} {
		if step == small {
			return false
		}
	}
	return strings.HasPrefix(step, "SCAN")
}

func get[T any](do func(context.Context, *sqlstore.Store) (T, error)) func(context.Context, *sqlstore.Store) error {
	return func(ctx context.Context, s *sqlstore.Store) error {
		_, err := do(ctx, s)
		return err
	}
}

func lists(f apikey.StoreFilter) func(context.Context, *sqlstore.Store) error {
	return get(func(ctx context.Context, s *sqlstore.Store) (apikey.StorePage, error) { return s.List(ctx, f) })
}

func logs(f apikey.StoreEventFilter) func(context.Context, *sqlstore.Store) error {
	return get(func(ctx context.Context, s *sqlstore.Store) (apikey.StoreEventPage, error) { return s.Events(ctx, f) })
}

func itemLists(f apikey.StoreItemFilter) func(context.Context, *sqlstore.Store) error {
	return get(func(ctx context.Context, s *sqlstore.Store) (apikey.StoreItemPage, error) { return s.Items(ctx, f) })
}

// Every reading method is one query, whatever the number of records.
func TestOneQueryAPage(t *testing.T) {
	db, p := proxyDB(t, file(t))
	s := migrated(t, db)
	from := position(t, s)
	var last apikey.StoreRecord
	for range 20 {
		last = create(t, s, "m1")
	}
	for name, run := range map[string]func(context.Context, *sqlstore.Store) error{
		"lookup": get(func(ctx context.Context, s *sqlstore.Store) (apikey.StoreRecord, error) {
			return s.Lookup(ctx, last.Credentials[1].ID)
		}),
		"list":   lists(apikey.StoreFilter{}),
		"events": logs(apikey.StoreEventFilter{}),
		"items":  itemLists(apikey.StoreItemFilter{Kind: "k"}),
		"feed": get(func(ctx context.Context, s *sqlstore.Store) (apikey.StoreChanges, error) {
			return s.Changed(ctx, from, 20)
		}),
	} {
		p.record(nil)
		require.NoError(t, run(t.Context(), s))
		require.Len(t, p.seen(), 1, name)
	}
}

// A page must be of one snapshot: the writer changes a name and a credential together,
// and no reader ever sees one without the other.
func TestPagesAreOfOneMoment(t *testing.T) {
	path := file(t)
	s, reader := migrated(t, openDB(t, path)), newStore(t, openDB(t, path))
	r := create(t, s, "m1")
	id, start := r.ID, position(t, s)
	done := make(chan error, 1)
	go func() {
		for deadline := time.Now().Add(300 * time.Millisecond); time.Now().Before(deadline); {
			r = next(r)
			fresh := apikey.StoreCredential{ID: storetest.NewCredentialID(), Public: string(rune('a' + r.Version%26))}
			r.Name, r.Credentials = fresh.Public, []apikey.StoreCredential{fresh}
			if err := s.Apply(context.Background(), change(r)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	seen := 0
	for running := true; running; {
		select {
		case err := <-done:
			require.NoError(t, err)
			running = false
		default:
		}
		list, err := reader.List(t.Context(), apikey.StoreFilter{})
		require.NoError(t, err)
		feed, err := reader.Changed(t.Context(), start, 10)
		require.NoError(t, err)
		got, err := reader.Get(t.Context(), id)
		require.NoError(t, err)
		for _, rec := range append(append(list.Records, feed.Records...), got) {
			if rec.Version > 1 {
				seen++
				require.Len(t, rec.Credentials, 1)
				require.Equal(t, rec.Name, rec.Credentials[0].Public)
			}
		}
	}
	require.NotZero(t, seen)
}
