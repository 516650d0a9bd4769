package integration

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// What New has to do about a setting of a session.
const (
	harmless = "harmless" // accept it, and all is as without it
	readOnly = "readOnly" // accept it, for what only reads
	refused  = "refused"  // with what to add to the DSN, with which it is accepted
	hopeless = "hopeless" // refused, and nothing can be added
)

type sessionSetting struct{ params, want string }

// mariaSettings are parameters of the DSN, which the driver sets in each session.
var mariaSettings = []sessionSetting{
	{"autocommit=1", harmless},
	{"autocommit=0", refused},
	{"completion_type=1", refused},
	{"completion_type=2", refused},
	{"tx_isolation=%27READ-UNCOMMITTED%27", refused},
	{"tx_isolation=%27READ-COMMITTED%27", harmless},
	{"tx_isolation=%27SERIALIZABLE%27", harmless},
	{"innodb_snapshot_isolation=1", harmless},
	{"system_versioning_asof=%272020-01-01%27", refused},
	{"timestamp=1700000000", refused},
	{"timestamp=2000000000", refused},
	{"sql_mode=%27%27", refused},
	{"sql_mode=%27NO_ENGINE_SUBSTITUTION%27", refused},
	{"sql_mode=TRADITIONAL", harmless},
	{"sql_mode=%27STRICT_ALL_TABLES%27", harmless},
	{"sql_mode=CONCAT(@@sql_mode,%27,EMPTY_STRING_IS_NULL%27)", refused},
	{"sql_mode=CONCAT(@@sql_mode,%27,ORACLE%27)", refused},
	{"sql_mode=CONCAT(@@sql_mode,%27,MSSQL%27)", harmless},
	{"sql_mode=CONCAT(@@sql_mode,%27,ANSI%27)", harmless},
	{"sql_mode=CONCAT(@@sql_mode,%27,ANSI_QUOTES%27)", harmless},
	{"sql_mode=CONCAT(@@sql_mode,%27,NO_BACKSLASH_ESCAPES%27)", harmless},
	{"sql_mode=CONCAT(@@sql_mode,%27,PAD_CHAR_TO_FULL_LENGTH%27)", harmless},
	{"sql_mode=CONCAT(@@sql_mode,%27,HIGH_NOT_PRECEDENCE%27)", harmless},
	{"sql_mode=CONCAT(@@sql_mode,%27,TIME_ROUND_FRACTIONAL%27)", harmless},
	{"sql_mode=CONCAT(@@sql_mode,%27,NO_UNSIGNED_SUBTRACTION,SIMULTANEOUS_ASSIGNMENT%27)", harmless},
	{"sql_mode=CONCAT(@@sql_mode,%27,ONLY_FULL_GROUP_BY,NO_ZERO_DATE,NO_ZERO_IN_DATE,ALLOW_INVALID_DATES%27)", harmless},
	{"sql_select_limit=0", harmless},
	{"sql_select_limit=1", harmless},
	{"sql_select_limit=2", harmless},
	{"max_join_size=1000", refused},
	{"max_sort_length=64", harmless},
	{"sql_safe_updates=1", refused},
	{"collation_connection=utf8mb4_general_ci", harmless},
	{"time_zone=%27-03:00%27", harmless},
	{"time_zone=SYSTEM", harmless},
	{"tx_read_only=1", readOnly},
	{"sql_log_bin=0", refused},
	{"binlog_format=STATEMENT", refused},
	{"binlog_format=ROW", harmless},
	{"unique_checks=0&foreign_key_checks=0", harmless},
	{"check_constraint_checks=0", harmless},
	{"sql_auto_is_null=1", harmless},
	{"query_cache_type=0", harmless},
	{"optimizer_switch=%27derived_merge=off%27&join_cache_level=8", harmless},
	{"in_predicate_conversion_threshold=1", harmless},
	{"skip_replication=1&low_priority_updates=1&sql_buffer_result=1", harmless},
}

// postgresSettings are set by the server when a session begins. "text": only a
// driver that has values sent as text is hurt.
var postgresSettings = []sessionSetting{
	{"DateStyle=ISO,DMY", harmless},
	{"DateStyle=German", "text"},
	{"DateStyle=SQL,DMY", "text"},
	{"DateStyle=Postgres", "text"},
	{"bytea_output=escape", "text"},
	{"IntervalStyle=iso_8601", harmless},
	{"TimeZone=Asia/Kolkata", harmless},
	{"TimeZone=Africa/Monrovia", harmless},
	{"default_transaction_isolation=serializable", harmless},
	{"default_transaction_isolation=read%5C uncommitted", harmless},
	{"default_transaction_deferrable=on", harmless},
	{"default_transaction_read_only=on", readOnly},
	{"standard_conforming_strings=off", refused},
	{"session_replication_role=replica", harmless},
	{"row_security=off", harmless},
	{"transform_null_equals=on", harmless},
	{"search_path=public,pg_catalog", harmless},
	{"backslash_quote=on", harmless},
	{"extra_float_digits=-10", harmless},
	{"synchronous_commit=off", harmless},
}

var sqliteSettings = []sessionSetting{
	{"_pragma=journal_mode(DELETE)", harmless},
	{"_pragma=journal_mode(OFF)", hopeless},
	{"immutable=1", hopeless},
	{"mode=ro", readOnly},
	{"_pragma=query_only(1)", readOnly},
	{"_pragma=foreign_keys(1)&_pragma=recursive_triggers(1)&_pragma=ignore_check_constraints(1)", harmless},
	{"_pragma=reverse_unordered_selects(1)&_pragma=automatic_index(0)", harmless},
	{"_pragma=case_sensitive_like(1)&_pragma=read_uncommitted(1)", harmless},
	{"_pragma=count_changes(1)&_pragma=full_column_names(1)&_pragma=empty_result_callbacks(1)", harmless},
	{"_time_format=sqlite&_time_integer_format=unix", harmless},
}

// Every setting of a session that decides what is read or written has no effect,
// or New refuses it and says what to add to the DSN; with that it is accepted.
func TestFound01SettingsOfMariaDB(t *testing.T) {
	maria := startMariaDB(t, "--log-bin", "--innodb-flush-log-at-trx-commit=0")
	for _, e := range named("mariadb/prepared", "mariadb/interpolated") {
		extra := map[string]string{"mariadb/interpolated": "&interpolateParams=true"}[e.name]
		t.Run(e.name, func(t *testing.T) {
			s := newShopWith(t, e, maria.mysqlDSN(extra))
			for _, c := range mariaSettings {
				t.Run(c.params, func(t *testing.T) { s.tries(t, maria.mysqlDSN(extra)+"&"+c.params, c.want) })
			}
		})
	}
}

func TestFound01SettingsOfPostgres(t *testing.T) {
	postgres := onePostgres.get(t)
	for _, c := range []struct {
		name, driver, mode string
		text               bool
	}{
		{"pgx", "pgx", "", false},
		{"pgx exec", "pgx", "&default_query_exec_mode=exec", true},
		{"pgx simple", "pgx", "&default_query_exec_mode=simple_protocol", true},
		{"pq", "postgres", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := named("postgres/pgx")[0]
			e.driver = c.driver
			s := newShopWith(t, e, postgres.postgresDSN(""))
			for _, setting := range postgresSettings {
				t.Run(setting.params, func(t *testing.T) {
					want := setting.want
					switch {
					case want == "text" && c.text:
						want = refused
					case want == "text":
						want = harmless
					}
					s.tries(t, postgres.postgresDSN(c.mode)+"&options=-c"+strings.NewReplacer("=", "%3D", " ", "%20").Replace(setting.params), want)
				})
			}
		})
	}
}

func TestFound01SettingsOfSQLite(t *testing.T) {
	dsn := "file:" + filepath.Join(t.TempDir(), "keys.db") + "?_pragma=busy_timeout(5000)&_pragma=synchronous(OFF)&_txlock=immediate"
	s := newShopWith(t, named("sqlite/modernc")[0], dsn)
	for _, c := range sqliteSettings {
		t.Run(c.params, func(t *testing.T) { s.tries(t, dsn+"&"+c.params, c.want) })
	}
}

// shopWith is one set of tables, and what reads and writes them through sessions
// that have nothing special.
type shopWith struct {
	engine
	d     sqlstore.Dialect
	m     *apikey.Manager
	v     *apikey.Verifier
	store *sqlstore.Store
}

func newShopWith(t *testing.T, e engine, dsn string) *shopWith {
	t.Helper()
	d, _ := e.fresh(t)
	plain := e
	if e.dialect == sqlstore.Postgres {
		plain.driver = "pgx"
	}
	s := &shopWith{engine: e, d: d, store: open(t, plain.pool(t, dsn), d)}
	must(t, s.store.Migrate(t.Context()))
	s.m, s.v = newManager(t, s.store), newVerifier(t, s.store)
	return s
}

var cure = regexp.MustCompile(`: add (\S+) to the DSN`)

// tries opens a database with a setting.
func (s *shopWith) tries(t *testing.T, dsn, want string) {
	t.Helper()
	set, err := sqlstore.New(s.pool(t, dsn), s.d)
	if want == refused || want == hopeless {
		if want == hopeless && err != nil {
			return
		}
		wants(t, err, apikey.ErrInvalid, "to the DSN")
		if err == nil {
			t.Errorf("New accepts it, and then: %v", s.through(t, set, true))
			return
		}
		added := cure.FindStringSubmatch(err.Error())
		if added == nil {
			t.Fatalf("New says nothing to add: %v", err)
		}
		if set, err = sqlstore.New(s.pool(t, dsn+"&"+added[1]), s.d); err != nil {
			t.Fatalf("with %s: %v", added[1], err)
		}
		want = harmless
	}
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- s.through(t, set, want == harmless) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("hangs")
	}
}

// isUsed writes a last use, and reads it.
func isUsed(ctx context.Context, s *sqlstore.Store, key apikey.KeyID) error {
	var batch []apikey.StoreUpkeep
	r, err := s.Get(ctx, key)
	for _, c := range r.Credentials {
		batch = append(batch, apikey.StoreUpkeep{Credential: c.ID, LastUsed: time.Now()})
	}
	err = cmp.Or(err, s.Upkeep(ctx, batch))
	r, again := s.Get(ctx, key)
	for _, c := range r.Credentials {
		if c.LastUsed.IsZero() {
			return errors.New("a last use is not written")
		}
	}
	return cmp.Or(err, again)
}

const spoken = "Café 💥 'n\" \\ %"

// through does what a program does, with a store that is opened otherwise, and
// compares it with what the plain one says.
func (s *shopWith) through(t *testing.T, set *sqlstore.Store, writes bool) error {
	ctx := adminOf("acc_" + storetest.NewKeyID().String())
	m, err := managerFor(set).start(ctx)
	if err != nil {
		return fmt.Errorf("NewManager: %w", err)
	}
	v, err := verifierFor(set, func(c *verifying) { c.ReadOnly = true }).start(ctx)
	if err != nil {
		return fmt.Errorf("NewVerifier: %w", err)
	}
	defer v.Close(context.Background())
	read, err := s.lives(ctx, s.m, v, set)
	if err != nil {
		return fmt.Errorf("written plainly: %w", err)
	}
	list, err := m.List(ctx, apikey.ListRequest{NameContains: "fé 💥 'N\" \\ %"})
	if err != nil || len(list.Keys) == 0 || list.Keys[0].Name != spoken {
		return fmt.Errorf("by its name: %d keys, %w", len(list.Keys), err)
	}
	if !writes {
		return nil
	}
	written, err := s.lives(ctx, m, s.v, set)
	if err != nil {
		return fmt.Errorf("written so: %w", err)
	}
	if err := isUsed(ctx, set, written); err != nil {
		return err
	}
	for _, id := range []apikey.KeyID{read, written} {
		for _, by := range []*apikey.Manager{m, s.m} {
			report, err := by.VerifyEvents(ctx, id)
			if err != nil || report.Broken != nil || report.Events < 3 {
				return fmt.Errorf("the chain: %+v, %w", report, err)
			}
		}
	}
	_, err = set.Purge(ctx, epoch, 10)
	return err
}

// lives has one Manager make a key, change it and revoke it, while a Verifier of
// another store looks on.
func (s *shopWith) lives(ctx context.Context, m *apikey.Manager, v *apikey.Verifier, set *sqlstore.Store) (apikey.KeyID, error) {
	first, err := m.Issue(ctx, apikey.IssueRequest{Name: "first", Mode: apikey.Live, Metadata: map[string]string{"ort": spoken}})
	if err != nil {
		return first.Key.ID, fmt.Errorf("Issue: %w", err)
	}
	id := first.Key.ID
	if _, err := m.Update(ctx, apikey.UpdateRequest{Key: id, Name: apikey.Set(spoken)}); err != nil {
		return id, fmt.Errorf("Update: %w", err)
	}
	later, err := m.Rotate(ctx, apikey.RotateRequest{Key: id, Overlap: time.Hour})
	if err != nil {
		return id, fmt.Errorf("Rotate: %w", err)
	}
	for _, token := range []apikey.Token{first.Token, later.Token} {
		if err := check(v, token); err != nil {
			return id, fmt.Errorf("Verify: %w", err)
		}
	}
	want, err := s.store.Get(ctx, id)
	if err != nil {
		return id, fmt.Errorf("Get, plainly: %w", err)
	}
	got, err := set.Get(ctx, id)
	if err != nil {
		return id, fmt.Errorf("Get: %w", err)
	}
	if !reflect.DeepEqual(got, want) || got.Name != spoken {
		return id, fmt.Errorf("the two stores read\n%+v\n%+v", got, want)
	}
	if err := m.Revoke(ctx, apikey.RevokeRequest{Key: id}); err != nil {
		return id, fmt.Errorf("Revoke: %w", err)
	}
	if err := v.Sync(ctx); err != nil {
		return id, fmt.Errorf("Sync: %w", err)
	}
	for _, token := range []apikey.Token{first.Token, later.Token} {
		if err := check(v, token); !errors.Is(err, apikey.ErrRevoked) {
			return id, fmt.Errorf("the key is revoked, and Verify after Sync says: %w", err)
		}
	}
	return id, nil
}

// A connection that the pool opens later, and to which the server gives other
// settings, is not believed: nothing is read or written there, and the error says
// what to add to the DSN.
func TestFound01SettingsOfALaterConnection(t *testing.T) {
	maria := startMariaDB(t, "--log-bin", "--innodb-flush-log-at-trx-commit=0")
	for _, c := range []struct{ set, says string }{
		{"autocommit=0", "add autocommit=1"},
		{"completion_type=1", "add completion_type=0"},
		{"tx_isolation=''READ-UNCOMMITTED''", "add tx_isolation="},
		{"timestamp=1700000000", "add timestamp=DEFAULT"},
		{"sql_mode=''''", "sql_mode is not strict"},
		{"sql_big_selects=0", "sql_big_selects is off"},
		{"character_set_client=latin1", "character_set_client"},
		{"character_set_connection=latin1", "character_set_connection"},
		{"character_set_results=latin1", "character_set_results"},
	} {
		t.Run(c.set, func(t *testing.T) {
			e := named("mariadb/interpolated")[0]
			e.dsn = func(*testing.T) string { return maria.mysqlDSN("&interpolateParams=true") }
			notBelieved(t, e, c.says, "SET GLOBAL init_connect = 'SET "+c.set+"'", "SET GLOBAL init_connect = ''")
		})
	}
}

func notBelieved(t *testing.T, e engine, says, begin, end string) {
	d, prefix, admin, dsn := withRoles(t, e)
	do := func(statement string) {
		t.Helper()
		_, err := admin.Exec(strings.ReplaceAll(statement, "{user}", prefix+"manager_user"))
		must(t, err)
	}
	db := e.pool(t, dsn("manager"))
	db.SetMaxIdleConns(0) // each call has a new connection
	s := open(t, db, d)
	r := create(t, s)
	at := now(t, s)
	do(begin)
	defer do(end)
	for name, decide := range decides {
		wants(t, decide(t, s, r), apikey.ErrUnavailable, says)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	_, err := s.Changed(t.Context(), at, 10)
	wants(t, err, apikey.ErrUnavailable, says)
	_, err = s.Changed(t.Context(), "", 10)
	wants(t, err, apikey.ErrUnavailable, says)
	_, err = s.Events(t.Context(), apikey.StoreEventFilter{Key: r.ID})
	wants(t, err, apikey.ErrUnavailable, says)
	wants(t, s.Apply(t.Context(), change(next(r))), apikey.ErrUnavailable, says)
	wants(t, s.Apply(t.Context(), change(newRecord("m2"))), apikey.ErrUnavailable, "settings with which New refuses")
	do(end)
	got, err := s.Get(t.Context(), r.ID)
	must(t, err)
	page, err := s.List(t.Context(), apikey.StoreFilter{})
	must(t, err)
	if got.Version != r.Version || len(page.Records) != 1 {
		t.Errorf("something was written: %+v", page.Records)
	}
}

// A process that migrates on a session without autocommit holds up no other.
func TestFound01MigrateWithoutAutocommit(t *testing.T) {
	maria := startMariaDB(t)
	e := named("mariadb/interpolated")[0]
	admin := e.pool(t, maria.mysqlDSN(""))
	for _, statement := range []string{"CREATE USER owner@'%'", "GRANT ALL ON shop.* TO owner@'%'"} {
		_, err := admin.Exec(statement)
		must(t, err)
	}
	db := e.pool(t, strings.Replace(maria.mysqlDSN(""), "root@", "owner@", 1))
	db.SetMaxIdleConns(0)
	s := open(t, db, sqlstore.MySQL)
	_, err := admin.Exec("SET GLOBAL init_connect = 'SET autocommit=0'")
	must(t, err)
	wants(t, s.Migrate(t.Context()), apikey.ErrUnavailable, "add autocommit=1")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	must(t, open(t, admin, sqlstore.MySQL).Migrate(ctx))
	var tables int
	must(t, admin.QueryRow("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'shop'").Scan(&tables))
	if tables != 5 {
		t.Errorf("%d tables", tables)
	}
}

// A node of Galera that would answer for itself alone is not believed.
func TestFound01GaleraSessions(t *testing.T) {
	e := named("mariadb/interpolated")[0]
	node := startGalera(t, 1)[0]
	s := newShopWith(t, e, node.galeraDSN())
	for _, params := range []string{"wsrep_sync_wait=0", "wsrep_sync_wait=2", "wsrep_dirty_reads=1", "wsrep_on=0"} {
		t.Run(params, func(t *testing.T) { s.tries(t, node.galeraDSN()+"&"+params, refused) })
	}
	for _, params := range []string{"wsrep_sync_wait=7", "wsrep_dirty_reads=0"} {
		t.Run(params, func(t *testing.T) { s.tries(t, node.galeraDSN()+"&"+params, harmless) })
	}
}

// A server that only reads because its storage does (as Aurora's readers) is a
// replica: nothing that it says decides anything.
func TestFound01InnodbReadOnly(t *testing.T) {
	maria := newMariaDB(t)
	maria.startMariaDB(t)
	e := named("mariadb/interpolated")[0]
	s := open(t, e.pool(t, maria.mysqlDSN("")), sqlstore.MySQL)
	must(t, s.Migrate(t.Context()))
	r := create(t, s)
	var name string
	db, err := sql.Open("mysql", maria.mysqlDSN(""))
	must(t, err)
	defer db.Close()
	must(t, db.QueryRow("SELECT @@version").Scan(&name))
	_, err = db.Exec("SHUTDOWN")
	must(t, err)
	<-maria.done
	maria.cmd = nil
	maria.args = append(maria.args, "--innodb-read-only=1")
	maria.launch(t, pings("mysql", maria.mysqlDSN("")))
	for what, decide := range decides {
		if err := decide(t, s, r); !errors.Is(err, apikey.ErrUnavailable) || !strings.Contains(err.Error(), "a replica answered") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
