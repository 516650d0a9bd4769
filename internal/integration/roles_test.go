package integration

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// withRoles makes tables, the three roles and a user of each, and returns how
// each of them connects.
func withRoles(t *testing.T, e engine) (d sqlstore.Dialect, prefix string, admin *sql.DB, dsn func(role string) string) {
	t.Helper()
	admin = e.pool(t, e.dsn(t))
	d, prefix = e.fresh(t)
	must(t, open(t, admin, d).Migrate(t.Context()))
	return d, prefix, admin, makeRoles(t, admin, d, prefix, e.dsn(t))
}

// makeRoles makes them where the tables are.
func makeRoles(t *testing.T, admin *sql.DB, d sqlstore.Dialect, prefix, adminDSN string) (dsn func(role string) string) {
	t.Helper()
	do := func(statement string) {
		t.Helper()
		_, err := admin.Exec(statement)
		must(t, err)
	}
	for _, statement := range statementsOf(sqlstore.Roles(d)) {
		do(statement)
	}
	for _, role := range []string{"verifier", "manager", "auditor"} {
		role := prefix + role
		if d == sqlstore.Postgres.WithPrefix(prefix) {
			do("CREATE ROLE " + role + "_user LOGIN IN ROLE " + role)
			continue
		}
		user := "'" + role + "_user'@'%'"
		do("CREATE USER " + user)
		do("GRANT " + role + " TO " + user)
		do("SET DEFAULT ROLE " + role + " FOR " + user)
	}
	return func(role string) string {
		as := fmt.Sprintf("%s%s_user@", prefix, role)
		return strings.NewReplacer("root@", as, "postgres@", as).Replace(adminDSN)
	}
}

// statementsOf are those of a file: each ends with a line that ends with ';'.
func statementsOf(text string) (all []string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "--") {
			continue
		}
		b.WriteString(line)
		if strings.HasSuffix(line, ";\n") {
			all = append(all, b.String())
			b.Reset()
		}
	}
	return all
}

// The whole contract holds as the manager, and what a Verifier and an auditor do
// works as theirs.
func TestRoles(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			d, prefix, admin, dsn := withRoles(t, e)
			manager := e.pool(t, dsn("manager"))
			store := open(t, manager, d)
			other := open(t, e.pool(t, dsn("manager")), d)
			must(t, store.Migrate(t.Context())) // nothing to do
			t.Run("contract", func(t *testing.T) {
				storetest.Run(t, func(t *testing.T) storetest.Backend {
					empty(t, admin, e, prefix)
					return storetest.Backend{Store: store, Other: other, Purge: store.Purge, In: e.begin(manager, store), Backup: func(t *testing.T) func(*testing.T) { return backup(t, admin, e, prefix) }}
				})
			})
			empty(t, admin, e, prefix)
			m := newManager(t, store)
			key, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
			must(t, err)

			reads := open(t, e.pool(t, dsn("verifier")), d)
			must(t, reads.Migrate(t.Context()))
			v := newVerifier(t, reads)
			_, err = v.Verify(t.Context(), key.Token.Reveal(), apikey.Request{})
			must(t, err)
			must(t, v.Sync(t.Context()))
			must(t, v.Close(context.Background())) // writes when it was used
			stored, err := store.Get(t.Context(), key.Key.ID)
			must(t, err)
			if stored.Credentials[0].LastUsed.IsZero() {
				t.Error("the verifier could not write when the key was used")
			}
			must(t, reads.Upkeep(t.Context(), []apikey.StoreUpkeep{{Credential: key.Token.Credential(), OldHash: stored.Credentials[0].Hash, NewHash: "renewed", NewCheck: []byte{1}}}))

			auditor := newManager(t, open(t, e.pool(t, dsn("auditor")), d))
			report, err := auditor.VerifyEvents(adminOf("acc_1"), key.Key.ID)
			must(t, err)
			if report.Broken != nil || report.Events != 1 {
				t.Errorf("the auditor sees %+v", report)
			}
			wants(t, reads.Apply(t.Context(), change(newRecord("m1"))), apikey.ErrUnavailable, "denied")
			if err := auditor.Revoke(adminOf("acc_1"), apikey.RevokeRequest{Key: key.Key.ID}); err == nil {
				t.Error("the auditor revoked a key")
			}
		})
	}
}

// What a role may not do the server refuses.
func TestRolesMayNoMore(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			_, prefix, _, dsn := withRoles(t, e)
			refused := 0
			for _, c := range []struct{ role, statements string }{
				{"verifier", `INSERT INTO keys (id) VALUES (''); UPDATE keys SET disabled = disabled; UPDATE keys SET revoked_at = NULL; DELETE FROM keys;
					INSERT INTO credentials (id) VALUES (''); UPDATE credentials SET ended = ended; UPDATE credentials SET sealed = NULL; UPDATE credentials SET key_id = ''; DELETE FROM credentials;
					INSERT INTO events (id) VALUES (''); UPDATE events SET body = NULL; DELETE FROM events;
					INSERT INTO items (id) VALUES (''); UPDATE items SET data = NULL; DELETE FROM items; DELETE FROM migrations; DROP TABLE keys`},
				{"manager", `UPDATE events SET body = NULL; DELETE FROM events; DELETE FROM migrations; UPDATE migrations SET number = 2; DROP TABLE events; ALTER TABLE keys ADD COLUMN more INTEGER`},
				{"auditor", `INSERT INTO keys (id) VALUES (''); UPDATE keys SET disabled = disabled; DELETE FROM keys; UPDATE credentials SET last_used = NULL; DELETE FROM credentials;
					INSERT INTO events (id) VALUES (''); UPDATE events SET body = NULL; DELETE FROM events; UPDATE items SET data = NULL; DELETE FROM items`},
			} {
				db := e.pool(t, dsn(c.role))
				for statement := range strings.SplitSeq(c.statements, ";") {
					statement = strings.TrimSpace(statement)
					for _, table := range append(tables, "migrations") {
						statement = strings.ReplaceAll(statement, " "+table, " "+prefix+table)
					}
					_, err := db.Exec(statement)
					if sqlState(err) != "42501" && !isMySQL(err, 1142) && !isMySQL(err, 1143) {
						t.Errorf("%s: %s: %v", c.role, statement, err)
					}
					refused++
				}
			}
			t.Logf("%d statements are refused", refused)
		})
	}
	if sqlstore.Roles(sqlstore.SQLite) != "" || sqlstore.Roles(sqlstore.Dialect{}) != "" {
		t.Error("SQLite has no roles")
	}
}
