package integration

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// Every statement that these operations send is explained by the server itself,
// on tables of some thousand rows: it must reach them through an index, and
// never sort more than a page.
func TestPlans(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			db, p := e.proxied(t, dsn)
			plain := e.pool(t, dsn)
			d, prefix := e.fresh(t)
			s := open(t, db, d)
			must(t, s.Migrate(t.Context()))
			first := populate(t, s)
			for _, table := range tables {
				_, err := plain.Exec("ANALYZE " + map[bool]string{true: "", false: "TABLE "}[e.dialect == sqlstore.Postgres] + prefix + table)
				must(t, err)
			}
			total := 0
			for _, op := range planned(t, s, first) {
				p.record(nil)
				must(t, op.run(t.Context(), s))
				explained := 0
				for _, c := range p.seen() {
					if !explainable.MatchString(c.sql) {
						continue
					}
					explained++
					for _, wrong := range e.judge(t, plain, prefix, c) {
						t.Errorf("%s: %s\n%s", op.name, wrong, c.sql)
					}
				}
				if explained == 0 {
					t.Errorf("%s sends nothing", op.name)
				}
				total += explained
			}
			for _, op := range searches(t, s, first) {
				p.record(nil)
				_, err := s.Events(t.Context(), op.filter)
				must(t, err)
				c := p.seen()[0]
				for _, wrong := range e.judge(t, plain, prefix, c) {
					t.Errorf("%s: %s\n%s", op.name, wrong, c.sql)
				}
				if used := e.indexes(t, plain, c); !slices.Contains(used, prefix+op.index) {
					t.Errorf("%s: by %v, want %s\n%s", op.name, used, op.index, c.sql)
				}
				total++
			}
			t.Logf("%d statements use an index", total)
		})
	}
}

// populate makes 9,000 keys of 30 accounts, some of them dead, and as many
// items, and returns one that is alive. With a third of that PostgreSQL finds
// reading the whole of a table hardly dearer than twenty visits to its index.
func populate(t *testing.T, s *sqlstore.Store) apikey.StoreRecord {
	t.Helper()
	var first apikey.StoreRecord
	for batch := range 90 {
		var changes []apikey.StoreChange
		for i := range 100 {
			r := newRecord(fmt.Sprintf("m%d", i%30))
			r.CreatedAt = epoch.Add(time.Duration(batch*100+i) * time.Second)
			if i%5 == 4 {
				r.RevokedAt = epoch
			}
			ch := change(r)
			ch.Event.Time = r.CreatedAt
			ch.Event.Actor, ch.Event.Action = fmt.Sprintf("usr_%d", i%7), often[i%len(often)]
			if batch%10 == 9 && i < 60 { // twice in ten batches for each account
				ch.Event.Actor, ch.Event.Action = "usr_rare", apikey.ActionReveal
			}
			ch.Items = []apikey.StoreItem{{Kind: "test", ID: fmt.Sprintf("%d-%d", batch, i), Version: 1, ExpiresAt: epoch}}
			if first.Version == 0 {
				first = r
			}
			changes = append(changes, ch)
		}
		must(t, s.Apply(t.Context(), changes...))
	}
	return first
}

// often are the actions that fill a log.
var often = []apikey.Action{apikey.ActionIssue, apikey.ActionUpdate, apikey.ActionRotate, apikey.ActionRetire, apikey.ActionRevoke}

// search is a filter of the log, with the index that has to find its events.
type search struct {
	name, index string
	filter      apikey.StoreEventFilter
}

func searches(t *testing.T, s *sqlstore.Store, r apikey.StoreRecord) []search {
	t.Helper()
	of := r.Account
	log, err := s.Events(t.Context(), apikey.StoreEventFilter{Account: of, Limit: 5})
	must(t, err)
	since, before := epoch.Add(8000*time.Second), epoch.Add(8500*time.Second)
	three := []apikey.Action{apikey.ActionReveal, apikey.ActionSuspend, apikey.ActionRotate}
	return []search{
		{"actor", "events_actor", apikey.StoreEventFilter{Account: of, Actor: "usr_1", Limit: 20}},
		{"rare actor", "events_actor", apikey.StoreEventFilter{Account: of, Actor: "usr_rare", Limit: 20}},
		{"actor, next page", "events_actor", apikey.StoreEventFilter{Account: of, Actor: "usr_1", After: log.Next, Limit: 20}},
		{"actor, since", "events_actor", apikey.StoreEventFilter{Account: of, Actor: "usr_1", Since: since, Limit: 20}},
		{"action", "events_action", apikey.StoreEventFilter{Account: of, Actions: often[:1], Limit: 20}},
		{"rare action", "events_action", apikey.StoreEventFilter{Account: of, Actions: three[:1], Limit: 20}},
		{"actions", "events_action", apikey.StoreEventFilter{Account: of, Actions: three, Limit: 20}},
		{"actions, next page", "events_action", apikey.StoreEventFilter{Account: of, Actions: three, After: log.Next, Limit: 20}},
		{"actions, since", "events_action", apikey.StoreEventFilter{Account: of, Actions: three, Since: since, Before: before, Limit: 20}},
		{"time", "events_account", apikey.StoreEventFilter{Account: of, Since: since, Before: before, Limit: 20}},
		{"all, actor, since", "events_time", apikey.StoreEventFilter{Actor: "usr_rare", Since: since, Before: before, Limit: 20}},
		{"all, actions, since", "events_time", apikey.StoreEventFilter{Actions: three, Since: since, Before: before, Limit: 20}},
		{"key, actor and actions", "events_key", apikey.StoreEventFilter{Key: r.ID, Account: of, Actor: "usr_1", Actions: three}},
		{"chain, actor and actions", "events_chain", apikey.StoreEventFilter{Key: r.ID, Account: of, Chain: true, Actor: "usr_1", Actions: three}},
	}
}

type plannedOp struct {
	name string
	run  func(context.Context, *sqlstore.Store) error
}

func planned(t *testing.T, s *sqlstore.Store, r apikey.StoreRecord) []plannedOp {
	t.Helper()
	ctx := t.Context()
	list, err := s.List(ctx, apikey.StoreFilter{Account: r.Account, Limit: 5})
	must(t, err)
	log, err := s.Events(ctx, apikey.StoreEventFilter{Limit: 5})
	must(t, err)
	must(t, s.Apply(ctx, change(next(r))))
	chain, err := s.Events(ctx, apikey.StoreEventFilter{Key: r.ID, Chain: true, Limit: 1})
	must(t, err)
	feed, err := s.Changed(ctx, "", 10)
	must(t, err)
	lists := func(f apikey.StoreFilter) func(context.Context, *sqlstore.Store) error {
		return func(ctx context.Context, s *sqlstore.Store) error { _, err := s.List(ctx, f); return err }
	}
	logs := func(f apikey.StoreEventFilter) func(context.Context, *sqlstore.Store) error {
		return func(ctx context.Context, s *sqlstore.Store) error { _, err := s.Events(ctx, f); return err }
	}
	items := func(f apikey.StoreItemFilter) func(context.Context, *sqlstore.Store) error {
		return func(ctx context.Context, s *sqlstore.Store) error { _, err := s.Items(ctx, f); return err }
	}
	changed := func(c apikey.Cursor) func(context.Context, *sqlstore.Store) error {
		return func(ctx context.Context, s *sqlstore.Store) error { _, err := s.Changed(ctx, c, 10); return err }
	}
	return []plannedOp{
		{"get", func(ctx context.Context, s *sqlstore.Store) error { _, err := s.Get(ctx, r.ID); return err }},
		{"lookup", func(ctx context.Context, s *sqlstore.Store) error {
			_, err := s.Lookup(ctx, r.Credentials[0].ID)
			return err
		}},
		{"list", lists(apikey.StoreFilter{Limit: 20})},
		{"list, next page", lists(apikey.StoreFilter{After: list.Next, Limit: 20})},
		{"list account", lists(apikey.StoreFilter{Account: r.Account, Limit: 20})},
		{"list account, next page", lists(apikey.StoreFilter{Account: r.Account, After: list.Next, Limit: 20})},
		{"list everything of an account", lists(apikey.StoreFilter{
			Account: r.Account, Mode: apikey.Live, Kind: apikey.Secret, State: apikey.Active, NameContains: "x", NeverUsed: true,
			UnusedSince: epoch, ExpiringBefore: epoch, NotExpiredAt: epoch, DueBefore: epoch, Pepper: 1, OtherMAC: 2, SealedKEKNot: "k", Limit: 20,
		})},
		{"events", logs(apikey.StoreEventFilter{Limit: 20})},
		{"events, next page", logs(apikey.StoreEventFilter{After: log.Next, Limit: 20})},
		{"events of an account", logs(apikey.StoreEventFilter{Account: r.Account, Limit: 20})},
		{"events of an account, next page", logs(apikey.StoreEventFilter{Account: r.Account, Mode: apikey.Live, After: log.Next, Limit: 20})},
		{"events of a key", logs(apikey.StoreEventFilter{Key: r.ID})},
		{"chain", logs(apikey.StoreEventFilter{Key: r.ID, Chain: true})},
		{"chain, next page", logs(apikey.StoreEventFilter{Key: r.ID, Chain: true, Account: r.Account, After: chain.Next})},
		{"feed, now", changed("")},
		{"feed", changed(feed.Next)},
		{"item", items(apikey.StoreItemFilter{Kind: "test", ID: "1-1"})},
		{"items", items(apikey.StoreItemFilter{Kind: "test", After: "10", Limit: 20})},
		{"items to reseal", items(apikey.StoreItemFilter{Kind: "test", SealedKEKNot: "k", Limit: 20})},
		{"apply", func(ctx context.Context, s *sqlstore.Store) error {
			changed := next(next(r))
			changed.Credentials = []apikey.StoreCredential{{ID: storetest.NewCredentialID(), Ended: true}, changed.Credentials[0]}
			ch := change(changed)
			ch.Items = []apikey.StoreItem{{Kind: "test", ID: "0-0", Version: 2}, {Kind: "test", ID: "0-1", Version: 2, Delete: true}, {Kind: "test", ID: "new", Version: 1, Delete: true}}
			return s.Apply(ctx, ch)
		}},
		{"apply again", func(ctx context.Context, s *sqlstore.Store) error {
			if err := s.Apply(ctx, change(next(r))); err != apikey.ErrConflict {
				return fmt.Errorf("not a conflict: %w", err)
			}
			return nil
		}},
		{"upkeep", func(ctx context.Context, s *sqlstore.Store) error {
			return s.Upkeep(ctx, []apikey.StoreUpkeep{
				{Credential: r.Credentials[0].ID, LastUsed: epoch, OldHash: "hash-1", NewHash: "2", OldSealed: []byte("sealed-1"), NewSealed: []byte("2"), NewKEK: "k"},
				{Credential: r.Credentials[1].ID, LastUsed: epoch},
			})
		}},
		{"purge", func(ctx context.Context, s *sqlstore.Store) error {
			_, err := s.Purge(ctx, epoch.Add(time.Second), 10)
			return err
		}},
	}
}

var explainable = regexp.MustCompile(`^(SELECT|UPDATE|DELETE|WITH)\b`)

// judge asks the server how it would run a statement, and says what is wrong.
func (e engine) judge(t *testing.T, db *sql.DB, prefix string, c sent) []string {
	t.Helper()
	args := make([]any, len(c.args))
	for i, a := range c.args {
		args[i] = a.Value
	}
	if e.dialect == sqlstore.Postgres {
		return judgePostgres(t, db, prefix, c.sql, args)
	}
	return judgeMariaDB(t, db, c.sql, args)
}

// indexes are those by which the engine would run a statement.
func (e engine) indexes(t *testing.T, db *sql.DB, c sent) (used []string) {
	t.Helper()
	args := make([]any, len(c.args))
	for i, a := range c.args {
		args[i] = a.Value
	}
	of := map[sqlstore.Dialect]struct{ explain, name string }{
		sqlstore.SQLite:   {"EXPLAIN QUERY PLAN ", `INDEX (\S+)`},
		sqlstore.Postgres: {"EXPLAIN (FORMAT JSON) ", `"Index Name": "([^"]+)"`},
		sqlstore.MySQL:    {"EXPLAIN FORMAT=JSON ", `"key": "([^"]+)"`},
	}[e.dialect]
	rows, err := db.Query(of.explain+c.sql, args...)
	must(t, err)
	defer rows.Close()
	columns, err := rows.Columns()
	must(t, err)
	for rows.Next() {
		var step string // the last column
		to := make([]any, len(columns))
		for i := range to {
			to[i] = new(any)
		}
		to[len(to)-1] = &step
		must(t, rows.Scan(to...))
		for _, found := range regexp.MustCompile(of.name).FindAllStringSubmatch(step, -1) {
			used = append(used, found[1])
		}
	}
	must(t, rows.Err())
	return used
}

func judgePostgres(t *testing.T, db *sql.DB, prefix, statement string, args []any) (wrong []string) {
	t.Helper()
	var text string
	must(t, db.QueryRow("EXPLAIN (FORMAT JSON) "+statement, args...).Scan(&text))
	type node struct {
		Type     string  `json:"Node Type"`
		Relation string  `json:"Relation Name"`
		Rows     float64 `json:"Plan Rows"`
		Plans    []node
	}
	var plans []struct{ Plan node }
	must(t, json.Unmarshal([]byte(text), &plans))
	seen := 0
	var walk func(n node)
	walk = func(n node) {
		seen++
		if n.Type == "Seq Scan" && strings.HasPrefix(n.Relation, prefix) {
			wrong = append(wrong, "reads all of "+n.Relation)
		}
		// If few rows match, sorting those is cheaper than to visit an index in its order.
		if n.Type == "Limit" && n.Plans[0].Type == "Sort" && n.Plans[0].Rows > 100 {
			wrong = append(wrong, "sorts more than a page")
		}
		for _, below := range n.Plans {
			walk(below)
		}
	}
	for _, p := range plans {
		walk(p.Plan)
	}
	if seen == 0 {
		t.Fatalf("no plan in %s", text)
	}
	return wrong
}

// What MariaDB may read through: what it has made itself, a page long; and an
// index, in its order and as far as the limit.
func judgeMariaDB(t *testing.T, db *sql.DB, statement string, args []any) (wrong []string) {
	t.Helper()
	rows, err := db.Query("EXPLAIN "+statement, args...)
	must(t, err)
	defer rows.Close()
	seen := 0
	for rows.Next() {
		var id, count sql.NullInt64
		var kind, table, access, possible, key, length, ref, extra sql.NullString
		must(t, rows.Scan(&id, &kind, &table, &access, &possible, &key, &length, &ref, &count, &extra))
		seen++
		step := fmt.Sprintf("%s %s: %s by %q, %d rows, %s", kind.String, table.String, access.String, key.String, count.Int64, extra.String)
		made := !table.Valid || strings.HasPrefix(table.String, "<")
		inOrder := strings.HasSuffix(key.String, "keys_created") || strings.HasSuffix(key.String, "events_time") || strings.HasSuffix(key.String, "keys_feed")
		switch {
		case access.String == "ALL" && !made, access.String == "index" && !inOrder:
			wrong = append(wrong, step)
		case strings.Contains(extra.String, "filesort") && kind.String != "PRIMARY" && kind.String != "UNION RESULT": // of pages
			wrong = append(wrong, step)
		}
	}
	must(t, rows.Err())
	if seen == 0 {
		t.Fatal("no plan")
	}
	return wrong
}
