package integration

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey/sqlstore"
)

// Many processes start at once: one of them migrates, the others wait, and all
// are content. Also when the one that works is killed (SIGKILL) in the middle,
// with the others waiting: another takes over.
func TestMigrateTogether(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			const others = 7
			want, calls := undisturbed(t, e), callsOfMigrate(t, e)
			killed := 0
			for at := 0; at <= calls; at += 3 { // 0: nobody is killed
				_, prefix := e.fresh(t)
				p := site{e.name, e.dsn(t), prefix}
				doomed := startChild(t, "migrate", p.args(fmt.Sprint(at), "before")...)
				if at > 0 {
					doomed.expect("at")
				}
				var all []*child
				for range others {
					all = append(all, startChild(t, "migrate", p.args("0", "")...))
				}
				if at > 0 {
					time.Sleep(300 * time.Millisecond) // they are waiting
					doomed.kill()
					if !doomed.killed() {
						t.Fatal("the process ended by itself")
					}
					killed++
				} else {
					all = append(all, doomed)
				}
				for _, c := range all {
					c.expect("done")
				}
				usable(t, e, p, want)
			}
			t.Logf("%d processes that migrate at once, %d times, in %d of them the first killed at one of its %d calls with the others waiting: all content, the schema whole", others+1, calls/3+1, killed, calls)
			if killed < 3 {
				t.Error("too few")
			}
		})
	}
}

// A process that migrates is killed (SIGKILL) before each of its calls, and while
// each runs: the next one makes the schema whole.
func TestMigratingProcessIsKilled(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			want, calls, killed := undisturbed(t, e), callsOfMigrate(t, e), 0
			for at := 1; at <= calls; at++ {
				for _, when := range []string{"before", "while"} {
					_, prefix := e.fresh(t)
					p := site{e.name, e.dsn(t), prefix}
					c := startChild(t, "migrate", p.args(fmt.Sprint(at), when)...)
					c.expect("at")
					if when == "while" {
						time.Sleep(soon(3 * time.Millisecond))
					}
					c.kill()
					if !c.killed() {
						t.Fatal("the process ended by itself")
					}
					killed++
					usable(t, e, p, want)
				}
			}
			t.Logf("%d processes killed at %d calls, before each and while it ran: the next Migrate made the schema whole each time", killed, calls)
			if calls < 7 {
				t.Errorf("only %d calls", calls)
			}
		})
	}
}

// migrateAndStay is the process: it stops before the call that it is to be
// killed at, or says so and goes on.
func migrateAndStay(args []string) error {
	p, args := siteOf(args)
	at, before := sure(strconv.Atoi(args[0])), args[1] == "before"
	e := named(p.engine)[0]
	db, calls, err := e.behindProxy(p.dsn)
	if err != nil {
		return err
	}
	store, err := sqlstore.New(db, e.dialect.WithPrefix(p.prefix))
	if err != nil {
		return err
	}
	calls.record(func(n int, _ sent) effect {
		if n == at {
			say("at", n)
			if before {
				time.Sleep(time.Minute)
			}
		}
		return effect{}
	})
	if err := store.Migrate(background); err != nil {
		return err
	}
	say("done", len(calls.seen()))
	time.Sleep(time.Minute)
	return nil
}

// callsOfMigrate is how many calls of the driver a migration is.
func callsOfMigrate(t *testing.T, e engine) int {
	t.Helper()
	_, prefix := e.fresh(t)
	c := startChild(t, "migrate", site{e.name, e.dsn(t), prefix}.args("0", "")...)
	defer c.kill()
	return numbers(c.expect("done"))[0]
}

// undisturbed is the schema that a migration makes which nothing happens to.
func undisturbed(t *testing.T, e engine) []string {
	t.Helper()
	p, _ := newSite(t, e)
	return schemaOf(t, e, p)
}

// usable fails the test unless the next Migrate of another process makes the
// tables what they ought to be.
func usable(t *testing.T, e engine, p site, want []string) {
	t.Helper()
	s := open(t, e.pool(t, p.dsn), e.dialect.WithPrefix(p.prefix))
	must(t, s.Migrate(t.Context()))
	if got := schemaOf(t, e, p); !slices.Equal(got, want) {
		t.Errorf("the schema is\n%s\ninstead of\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	r := create(t, s)
	_, err := s.Lookup(t.Context(), r.Credentials[0].ID)
	must(t, err)
}

// schemaOf is what the server says of columns and indexes, and how often each
// migration is remembered, whatever the prefix.
func schemaOf(t *testing.T, e engine, p site) (all []string) {
	t.Helper()
	queries := []string{
		`SELECT concat_ws(' ', table_name, ordinal_position, column_name, data_type, is_nullable, collation_name) FROM information_schema.columns
	WHERE table_schema = 'public' AND starts_with(table_name, $1)`,
		`SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND starts_with(tablename, $1)`,
		`SELECT concat_ws(' ', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint WHERE starts_with(conrelid::regclass::text, $1)`,
	}
	if e.dialect == sqlstore.MySQL {
		queries = []string{
			`SELECT CONCAT_WS(' ', table_name, ordinal_position, column_name, column_type, is_nullable, collation_name) FROM information_schema.columns
	WHERE table_schema = 'shop' AND LEFT(table_name, CHAR_LENGTH(?)) = ?`,
			`SELECT CONCAT_WS(' ', table_name, index_name, seq_in_index, column_name, non_unique) FROM information_schema.statistics
	WHERE table_schema = 'shop' AND LEFT(table_name, CHAR_LENGTH(?)) = ?`,
		}
	}
	db := e.pool(t, p.dsn)
	for _, q := range queries {
		rows, err := db.Query(q, []any{p.prefix, p.prefix}[:strings.Count(q, "?")+strings.Count(q, "$1")]...)
		must(t, err)
		defer rows.Close()
		for rows.Next() {
			var s string
			must(t, rows.Scan(&s))
			all = append(all, strings.ReplaceAll(s, p.prefix, ""))
		}
		must(t, rows.Err())
	}
	slices.Sort(all)
	if len(all) < 60 {
		t.Fatalf("the server knows only %d columns and indexes", len(all))
	}
	return all
}

// A migration whose connection dies at any call leaves a schema that the next
// one makes usable.
func TestMigrateKilledAtEveryCall(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn, want, killed := e.dsn(t), undisturbed(t, e), 0
			for _, injected := range []effect{{early: true, cut: true}, {late: true, cut: true}} {
				for n := 1; ; n++ {
					if n > 60 {
						t.Fatal("the fault never fails to strike")
					}
					db, p := e.proxied(t, dsn)
					d, prefix := e.fresh(t)
					s := open(t, db, d)
					struck := false
					p.record(func(at int, _ sent) effect {
						if at != n {
							return effect{}
						}
						struck = true
						return injected
					})
					err := s.Migrate(t.Context())
					p.record(nil)
					if !struck {
						must(t, err)
						break
					}
					killed++
					usable(t, e, site{e.name, dsn, prefix}, want)
				}
			}
			t.Logf("killed at %d calls", killed)
			if killed < 15 {
				t.Error("too few")
			}
		})
	}
}

func TestMigrateWhatIsNotOurs(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			db := e.pool(t, e.dsn(t))
			d, prefix := e.fresh(t)
			s := open(t, db, d)
			must(t, s.Migrate(t.Context()))
			_, err := db.Exec("INSERT INTO " + prefix + "migrations (number, name, checksum, applied_at) VALUES (9, '0009_later.up.sql', 'x', '2024-01-01 00:00:00')")
			must(t, err)
			_, err = db.Exec("ALTER TABLE " + prefix + "keys ADD COLUMN later INTEGER NOT NULL DEFAULT 0")
			must(t, err)
			wants(t, s.Migrate(t.Context()), sqlstore.ErrNewerSchema, "number 9")
			r := create(t, s) // and goes on
			must(t, s.Apply(t.Context(), change(next(r))))
			_, err = s.Lookup(t.Context(), r.Credentials[0].ID)
			must(t, err)

			_, err = db.Exec("UPDATE " + prefix + "migrations SET checksum = 'x' WHERE number = 1")
			must(t, err)
			if err := s.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "applied with other contents") {
				t.Errorf("a schema that was edited: %v", err)
			}
		})
	}
}

// Who applies the files with a tool, all statements of one at once, has the same
// tables.
func TestSchemaForTools(t *testing.T) {
	for _, c := range []struct {
		engine
		params string
	}{{named("postgres/pq")[0], ""}, {named("mariadb/interpolated")[0], "&multiStatements=true"}} {
		t.Run(c.name, func(t *testing.T) {
			db := c.pool(t, c.dsn(t)+c.params)
			tool, prefix := c.fresh(t)
			files := sqlstore.Schema(tool)
			names, err := fs.Glob(files, "*.sql")
			must(t, err)
			for _, name := range names {
				text, err := fs.ReadFile(files, name)
				must(t, err)
				_, err = db.Exec(string(text))
				must(t, err)
			}
			made, migrated := schemaOf(t, c.engine, site{c.name, c.dsn(t), prefix}), undisturbed(t, c.engine)
			migrated = slices.DeleteFunc(migrated, func(s string) bool { return strings.Contains(s, "migrations") })
			if !slices.Equal(made, migrated) {
				t.Errorf("the tool made\n%s\nMigrate made\n%s", strings.Join(made, "\n"), strings.Join(migrated, "\n"))
			}
			create(t, open(t, db, tool))
		})
	}
}
