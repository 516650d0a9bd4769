package integration

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// published is a database whose tables another one subscribes to by logical
// replication. All of it is two clusters.
type published struct {
	t                     *testing.T
	engine                engine
	publisher, subscriber *server
	at, there             *sql.DB
	d                     sqlstore.Dialect
	prefix                string
}

func newPublished(t *testing.T) *published {
	t.Helper()
	p := &published{t: t, engine: named("postgres/pgx")[0]}
	p.publisher = startPostgres(t, "wal_level=logical", "fsync=off")
	p.subscriber = startPostgres(t, "wal_level=logical", "fsync=off")
	p.at, p.there = p.engine.pool(t, p.publisher.postgresDSN("")), p.engine.pool(t, p.subscriber.postgresDSN(""))
	p.d, p.prefix = p.engine.fresh(t)
	for _, db := range []*sql.DB{p.at, p.there} {
		must(t, open(t, db, p.d).Migrate(t.Context()))
		p.do(db, "CREATE TABLE orders (id integer PRIMARY KEY)")
	}
	return p
}

func (p *published) do(db *sql.DB, statement string) {
	p.t.Helper()
	_, err := db.Exec(statement)
	must(p.t, err)
}

// subscribe makes the subscription, and waits until the tables are copied.
func (p *published) subscribe(tables string) {
	p.t.Helper()
	p.do(p.at, "CREATE PUBLICATION pub FOR TABLE "+tables)
	p.do(p.there, p.subscription())
	p.waits("SELECT NOT EXISTS (SELECT 1 FROM pg_subscription_rel WHERE srsubstate <> 'r')")
}

func (p *published) subscription() string {
	return fmt.Sprintf("CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1 port=%d user=postgres dbname=postgres' PUBLICATION pub", p.publisher.port)
}

// unsubscribe leaves the tables as they are.
func (p *published) unsubscribe() {
	p.t.Helper()
	p.do(p.there, "DROP SUBSCRIPTION sub")
	p.do(p.at, "DROP PUBLICATION pub")
}

// waits asks the subscriber until it says yes.
func (p *published) waits(question string) {
	p.t.Helper()
	for range 3000 {
		var yes bool
		must(p.t, p.there.QueryRow(question).Scan(&yes))
		if yes {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatal("never: " + question)
}

// follows waits until the subscriber has a version of a key.
func (p *published) follows(r apikey.StoreRecord) {
	p.t.Helper()
	p.waits(fmt.Sprintf(`SELECT EXISTS (SELECT 1 FROM %skeys WHERE id = '\x%x' AND version = %d)`, p.prefix, r.ID[:], r.Version))
}

// ours are names of tables.
func (p *published) ours(tables ...string) string {
	return p.prefix + strings.Join(tables, ", "+p.prefix)
}

// The rows of a subscriber carry the numbers of the publisher's transactions, so
// that its feed would skip a revocation, and it may lag. While one of the tables
// comes to it by a subscription that is enabled, it says that it is a replica, and
// nobody goes by what it says.
func TestFound02ASubscriberDecidesNothing(t *testing.T) {
	p := newPublished(t)
	s, replica := open(t, p.at, p.d), open(t, p.there, p.d)
	moved := newVerifier(t, replica) // which is a primary as yet
	at := now(t, replica)
	for _, tables := range [][]string{{"keys"}, {"credentials"}, {"events"}, {"items"}} {
		p.subscribe(p.ours(tables...))
		r := newRecord("m1")
		must(t, s.Apply(t.Context(), change(r)))
		replicaDecidesNothing(t, replica, r, at)
		if t.Failed() {
			t.Fatal(tables)
		}
		p.unsubscribe()
		_, err := replica.List(t.Context(), apikey.StoreFilter{})
		must(t, err)
	}
	for _, table := range append(tables, "migrations") {
		p.do(p.there, "DELETE FROM "+p.prefix+table)
	}
	m := newManager(t, s)
	k, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
	must(t, err)
	p.subscribe(p.ours("keys", "credentials", "events", "items", "migrations"))
	p.waits(fmt.Sprintf(`SELECT EXISTS (SELECT 1 FROM %skeys WHERE id = '\x%x')`, p.prefix, k.Key.ID[:]))
	wants(t, moved.Sync(t.Context()), apikey.ErrUnavailable, "")
	wants(t, check(moved, k.Token), apikey.ErrUnavailable, "a replica answered")
	_, err = verifierFor(replica).start(t.Context())
	wants(t, err, apikey.ErrUnavailable, "a replica answered")
	_, err = managerFor(replica).start(t.Context())
	wants(t, err, apikey.ErrUnavailable, "a replica answered")
	wants(t, replica.Apply(t.Context(), change(newRecord("m2"))), apikey.ErrUnavailable, "nothing was written")
}

// A change of a key that there is, and an item alone, are not written on a subscriber
// either: a revocation that is committed there would be reported as done, and the
// primary would go on accepting the key. A charge of the guess budget would cost nothing.
func TestFound02NothingIsWrittenOnASubscriber(t *testing.T) {
	p := newPublished(t)
	s, replica := open(t, p.at, p.d), open(t, p.there, p.d)
	p.subscribe(p.ours("keys", "credentials", "events", "items"))
	r, item := newRecord("m1"), apikey.StoreItem{Kind: "budget", ID: "x", Version: 1, Data: []byte("1")}
	c := change(r)
	c.Items = []apikey.StoreItem{item}
	must(t, s.Apply(t.Context(), c))
	p.follows(r)
	p.waits("SELECT EXISTS (SELECT 1 FROM " + p.prefix + "items WHERE id = 'x')")
	writesNothing(t, replica, r, item)
	got, err := s.Get(t.Context(), r.ID)
	must(t, err)
	if got.Version != 1 {
		t.Errorf("the primary has version %d", got.Version)
	}
	must(t, s.Apply(t.Context(), change(next(r)))) // the primary itself is written to
}

// The same on MariaDB, for a user who may write where read_only is set.
func TestFound02NothingIsWrittenWhereReadOnlyIsSet(t *testing.T) {
	for _, e := range named("mariadb/prepared", "mariadb/interpolated") {
		t.Run(e.name, func(t *testing.T) {
			s, db := e.migrated(t)
			r, item := newRecord("m1"), apikey.StoreItem{Kind: "budget", ID: "x", Version: 1, Data: []byte("1")}
			c := change(r)
			c.Items = []apikey.StoreItem{item}
			must(t, s.Apply(t.Context(), c))
			_, err := db.Exec("SET GLOBAL read_only = 1")
			must(t, err)
			t.Cleanup(func() { db.Exec("SET GLOBAL read_only = 0") })
			writesNothing(t, s, r, item)
			_, err = db.Exec("SET GLOBAL read_only = 0")
			must(t, err)
			got, err := s.Get(t.Context(), r.ID)
			must(t, err)
			if got.Version != 1 {
				t.Errorf("version %d was written", got.Version)
			}
			must(t, s.Apply(t.Context(), change(next(r))))
		})
	}
}

// writesNothing tries each way to change what is stored, on a node that only follows.
func writesNothing(t *testing.T, s *sqlstore.Store, r apikey.StoreRecord, item apikey.StoreItem) {
	t.Helper()
	items := func(it apikey.StoreItem) apikey.StoreChange {
		return apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{it}}
	}
	changed, deleted, another := item, item, item
	changed.Version, changed.Data = 2, []byte("2")
	deleted.Version, deleted.Delete, deleted.Data = 2, true, nil
	another.ID = "y"
	event := change(newRecord("m2"))
	event.Record = nil
	for what, c := range map[string]apikey.StoreChange{
		"a new key": change(newRecord("m2")), "a change of a key": change(next(r)),
		"a new item": items(another), "a change of an item": items(changed), "an item's end": items(deleted),
		"an event alone": event,
	} {
		if err := s.Apply(t.Context(), c); !errors.Is(err, apikey.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.Purge(t.Context(), time.Now().AddDate(0, 0, -2), 10); !errors.Is(err, apikey.ErrUnavailable) {
		t.Errorf("Purge: %v", err)
	}
	if err := s.Upkeep(t.Context(), []apikey.StoreUpkeep{{Credential: r.Credentials[0].ID, LastUsed: time.Now()}}); !errors.Is(err, apikey.ErrUnavailable) {
		t.Errorf("Upkeep: %v", err)
	}
}

// Whoever subscribes to other tables is a primary, and so is one that was
// promoted, of which the subscription may be there still, disabled; and one beside
// which another database of the same cluster subscribes.
func TestFound02WhatIsAPrimary(t *testing.T) {
	p := newPublished(t)
	s := open(t, p.there, p.d)
	primary := func(what string) {
		t.Helper()
		r := create(t, s)
		at := now(t, s)
		must(t, s.Apply(t.Context(), change(next(r))))
		shown, _, _ := walk(t, s, at)
		if shown[r.ID] != 2 {
			t.Errorf("%s: %v", what, shown)
		}
		v := newVerifier(t, s)
		must(t, v.Sync(t.Context()))
	}
	p.subscribe("orders")
	primary("it subscribes to another table")
	p.unsubscribe()
	must(t, open(t, p.at, p.d).Apply(t.Context(), change(newRecord("m1"))))
	p.subscribe(p.ours("keys", "credentials", "events", "items"))
	_, err := s.List(t.Context(), apikey.StoreFilter{})
	wants(t, err, apikey.ErrUnavailable, "a replica answered")
	p.do(p.there, "ALTER SUBSCRIPTION sub DISABLE")
	primary("it was promoted, the subscription is disabled")
	p.do(p.there, "ALTER SUBSCRIPTION sub ENABLE")
	_, err = s.List(t.Context(), apikey.StoreFilter{})
	wants(t, err, apikey.ErrUnavailable, "a replica answered")
	p.unsubscribe()
	primary("it was promoted")

	p.do(p.there, "CREATE DATABASE beside")
	beside := p.engine.pool(t, strings.Replace(p.subscriber.postgresDSN(""), "/postgres?", "/beside?", 1))
	must(t, open(t, beside, p.d).Migrate(t.Context()))
	p.do(p.at, "CREATE PUBLICATION pub FOR TABLE "+p.ours("keys"))
	p.do(beside, p.subscription())
	_, err = open(t, beside, p.d).List(t.Context(), apikey.StoreFilter{})
	wants(t, err, apikey.ErrUnavailable, "a replica answered")
	primary("another database subscribes")
	p.do(beside, "DROP SUBSCRIPTION sub")
}

// A role that cannot see whether the server subscribes is refused, with the GRANT
// that lets it; as PostgreSQL is installed, every role can.
func TestFound02ARoleThatCannotSee(t *testing.T) {
	e := named("postgres/pgx")[0]
	server := startPostgres(t, "fsync=off")
	e.dsn = func(*testing.T) string { return server.postgresDSN("") }
	d, prefix, admin, dsn := withRoles(t, e)
	s := open(t, e.pool(t, dsn("verifier")), d)
	for _, statement := range []string{
		"REVOKE SELECT (oid, subenabled) ON pg_subscription FROM PUBLIC",
		"REVOKE SELECT ON pg_subscription_rel FROM PUBLIC",
	} {
		_, err := admin.Exec(statement)
		must(t, err)
		_, err = sqlstore.New(e.pool(t, dsn("verifier")), d)
		wants(t, err, apikey.ErrInvalid, "GRANT SELECT (oid, subenabled) ON pg_subscription")
		_, err = s.Get(t.Context(), storetest.NewKeyID())
		wants(t, err, apikey.ErrUnavailable, "permission denied for table pg_subscription")
	}
	for _, grant := range []string{"SELECT (oid, subenabled) ON pg_subscription", "SELECT ON pg_subscription_rel"} {
		_, err := admin.Exec("GRANT " + grant + " TO " + prefix + "verifier_user")
		must(t, err)
	}
	open(t, e.pool(t, dsn("verifier")), d)
	_, err := s.Get(t.Context(), storetest.NewKeyID())
	wants(t, err, apikey.ErrNotFound, "")
}

// A subscriber that takes over counts on from its own transactions. A Verifier that
// comes with a cursor of the old primary, which was further, would not be shown what
// is revoked then: the cursor is lost, and everything is read again.
func TestFound02ACursorIsOfOneServer(t *testing.T) {
	p := newPublished(t)
	old, promoted := open(t, p.at, p.d), open(t, p.there, p.d)
	const count = "DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
	p.do(p.at, fmt.Sprintf(count, 1000)) // the old primary is further
	r := create(t, old)
	p.subscribe(p.ours("keys", "credentials", "events", "items"))
	p.follows(r)
	_, _, at := walk(t, old, now(t, old))
	p.unsubscribe()
	r = next(r)
	must(t, promoted.Apply(t.Context(), change(r))) // the revocation, with a number below the cursor
	p.do(p.there, fmt.Sprintf(count, 2000))         // now it is beyond the cursor
	c, err := promoted.Changed(t.Context(), at, 10)
	if !errors.Is(err, apikey.ErrCursorLost) {
		t.Fatalf("the change is skipped: %+v, %v", c, err)
	}
	_, _, at = walk(t, promoted, now(t, promoted))
	r = next(r)
	must(t, promoted.Apply(t.Context(), change(r)))
	if shown, _, _ := walk(t, promoted, at); shown[r.ID] != r.Version {
		t.Errorf("and after it: %v", shown)
	}
}
