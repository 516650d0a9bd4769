package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
)

// Postgres is the dialect of PostgreSQL 14 and newer, with
// github.com/jackc/pgx/v5/stdlib or github.com/lib/pq. The package documentation says
// how to open the database.
var Postgres = Dialect{postgres{session: &session{}}, defaultPrefix}

type postgres struct {
	*session
	// server is an SQL expression that identifies the server. A promoted standby has the
	// value of the primary that it followed.
	server string
}

func (postgres) name() string { return "postgres" }

// postgresDSN ends the error of New for a database that is not opened like this.
const postgresDSN = `, as in "postgres://user:password@primary:5432/shop?client_encoding=UTF8"`

// postgresSettings are the settings with which a session is refused. The table leaves out
// settings that the statements make harmless: the isolation level (each transaction of
// the store sets READ COMMITTED, and one query is one snapshot at every level), TimeZone
// (each time value has its zone), IntervalStyle, and search_path (it selects the schema
// of the tables). It also leaves out settings that only make a statement fail: limits of
// time, row_security, and a session that cannot write, which is enough for a Verifier
// with ReadOnly. TestFound01SettingsOfPostgres tries all of them. See also
// [postgres.checkText].
var postgresSettings = []setting{
	// SQL_ASCII means no conversion, and open requires a database in UTF8.
	{unfit: "current_setting('client_encoding') NOT IN ('UTF8', 'SQL_ASCII')", value: "current_setting('client_encoding')",
		why:  "client_encoding is %s, so that names would be garbled",
		cure: "client_encoding=UTF8"},
	{unfit: "current_setting('standard_conforming_strings') <> 'on'",
		why:  "standard_conforming_strings is off, so that a backslash in a name would be read as an escape",
		cure: "standard_conforming_strings=on"},
}

// postgresLagging is true on a server that applies the primary's acknowledged changes
// with a delay: a standby, and a subscriber of logical replication as long as one of
// these tables comes to it by an enabled subscription. The rows there carry the numbers
// of the publisher's transactions, which say nothing about the order on the subscriber. A
// server that was promoted is a primary, whether its subscription was dropped or only
// disabled; so is a server that subscribes to other tables.
const postgresLagging = `pg_is_in_recovery() OR EXISTS (SELECT 1 FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_subscription_rel r ON r.srsubid = s.oid
	WHERE s.subenabled AND r.srrelid IN (to_regclass('apikey_keys'), to_regclass('apikey_credentials'), to_regclass('apikey_events'), to_regclass('apikey_items')))`

// open does not check whether this is the primary: the primary may change at any time, so
// every query that a decision depends on checks it. open checks one connection: the
// parameters of the DSN are the same for every connection. If a later connection has
// other settings nevertheless, its queries detect that (see [verdict]).
func (e postgres) open(ctx context.Context, db *sql.DB) (engine, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var (
		version  int
		encoding string
		known    bool // the role can see whether this is a subscriber
	)
	err = c.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
	has_column_privilege('pg_catalog.pg_subscription', 'oid', 'SELECT') AND has_column_privilege('pg_catalog.pg_subscription', 'subenabled', 'SELECT')
	AND has_table_privilege('pg_catalog.pg_subscription_rel', 'SELECT')`).Scan(&version, &encoding, &known)
	switch {
	case err != nil && strings.Contains(err.Error(), "simple protocol queries must be run with"): // by pgx
		return nil, fmt.Errorf("%w: sqlstore: %w: add client_encoding=UTF8&standard_conforming_strings=on to the DSN%s", apikey.ErrInvalid, err, postgresDSN)
	case err != nil:
		return nil, err
	case version < 140000:
		return nil, fmt.Errorf("%w: sqlstore: this is PostgreSQL %d, 14 or newer is required", apikey.ErrInvalid, version/10000)
	case encoding != "UTF8":
		// Another encoding cannot store every name, and jsonb refuses text that it cannot convert.
		return nil, fmt.Errorf("%w: sqlstore: the database has encoding %s: create it with ENCODING 'UTF8' TEMPLATE template0", apikey.ErrInvalid, encoding)
	case !known: // every role can, unless the right was revoked from PUBLIC
		return nil, fmt.Errorf("%w: sqlstore: this role cannot see whether the tables come from another server by logical replication, where a revoked key may still be alive: GRANT SELECT (oid, subenabled) ON pg_subscription, GRANT SELECT ON pg_subscription_rel", apikey.ErrInvalid)
	}
	e.session = newSession(postgresSettings, postgresLagging)
	if err := e.checkSettings(ctx, c, postgresDSN); err != nil {
		return nil, err
	}
	if e.server, err = e.serverExpr(ctx, c); err != nil {
		return nil, err
	}
	return e, e.checkText(ctx, c)
}

// serverExpr returns the expression for the field server. If a hosted database does not
// offer the identifier, its servers cannot be distinguished, and a database that was
// moved to another server by logical replication may show a change late by MaxAge, once.
func (postgres) serverExpr(ctx context.Context, c *sql.Conn) (string, error) {
	const identifier = "(SELECT system_identifier FROM pg_control_system())"
	var n int64
	err := c.QueryRowContext(ctx, "SELECT "+identifier).Scan(&n)
	switch sqlState(err) {
	case "0A000", "42501", "42883": // feature_not_supported, insufficient_privilege, undefined_function
		return "0::bigint", nil
	}
	return identifier, err
}

// checkText checks that times and bytes arrive unchanged. A driver that gets values as
// text (pgx does with exec and simple_protocol) may read only one text format, the
// server's default. Other drivers work with every setting.
func (postgres) checkText(ctx context.Context, c *sql.Conn) error {
	var style, output string
	if err := c.QueryRowContext(ctx, `SELECT current_setting('DateStyle'), current_setting('bytea_output')`).Scan(&style, &output); err != nil {
		return err
	}
	var (
		read  time.Time
		bytes []byte
		want  = time.Date(2001, 2, 3, 4, 5, 6, 789012000, time.UTC)
	)
	err := c.QueryRowContext(ctx, `SELECT TIMESTAMPTZ '2001-02-03 04:05:06.789012+00'`).Scan(&read)
	if !strings.HasPrefix(style, "ISO") && (err != nil || !read.Equal(want)) {
		return fmt.Errorf("%w: sqlstore: times are not read as times, because DateStyle is %s: add datestyle=ISO to the DSN%s", apikey.ErrInvalid, style, postgresDSN)
	}
	if err != nil {
		return err
	}
	err = c.QueryRowContext(ctx, `SELECT decode('00ff5c', 'hex')`).Scan(&bytes)
	if output != "hex" && (err != nil || string(bytes) != "\x00\xff\\") {
		return fmt.Errorf("%w: sqlstore: bytes are not read as bytes, because bytea_output is %s: add bytea_output=hex to the DSN%s", apikey.ErrInvalid, output, postgresDSN)
	}
	return err
}

// exclusively holds a lock that ends with the transaction: a session lock would stay on a
// pooler's connection. Other programs that use the same lock number in this database only
// wait.
func (postgres) exclusively(ctx context.Context, db *sql.DB, work func(conn) error) error {
	return transact(ctx, db, sql.LevelReadCommitted, func(c conn) error {
		if _, err := c.ExecContext(ctx, "SELECT pg_advisory_xact_lock(7020094139160224121)"); err != nil {
			return err
		}
		return work(c)
	})
}

// isolation: each statement sees all earlier commits. At a higher level a statement that
// waited for another writer would fail instead of comparing.
func (postgres) isolation() sql.IsolationLevel { return sql.LevelReadCommitted }

func (postgres) moment(m moment) any { return m.time() }

func (postgres) latest() time.Time { return latestMicros } // timestamptz ends thirty years later

// duplicate is always false, because ON CONFLICT DO NOTHING makes no statement fail. A
// failed one would end the caller's transaction.
func (postgres) duplicate(error) bool { return false }

// sqlState returns the SQLSTATE of an error; the errors of both drivers have this method.
func sqlState(err error) string {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		return coded.SQLState()
	}
	return ""
}

func (postgres) embedded() bool { return false }

func (postgres) retryable(err error) bool {
	switch sqlState(err) {
	case "40001", // serialization_failure
		"40P01", // deadlock_detected
		"55P03", // lock_not_available: a lock_timeout
		"57P01", // admin_shutdown; an idle connection of the pool reports it at its next use
		"57P02": // crash_shutdown
		return true
	}
	return false
}

// unfitWrite: the only NULL that this package writes to a NOT NULL column is that of a
// CASE on the verdict.
func (postgres) unfitWrite(err error) bool { return sqlState(err) == "23502" } // not_null_violation

func (postgres) noTable(err error) bool { return sqlState(err) == "42P01" }

// The columns for row, in the order of its fields.
const (
	postgresKey = `k.account, k.name, k.mode, k.kind, k.version, k.head, k.needs, k.mac,
	k.abilities, k.networks, k.origins, k.metadata, k.disabled::int, k.revoke_reason, k.rotate_months, k.recovery,
	k.created_at, k.expires_at, k.revoked_at, k.rotate_due, k.feed::text::bigint, k.event`
	postgresCredential = `c.id, c.not_before, c.not_after, c.ended::int, c.hint, c.public, c.pepper,
	c.last_used, c.hash, c.check_value, c.sealed, c.sealed_kek, c.position`
	postgresRecord = "k.id, " + postgresKey + ",\n\t" + postgresCredential
)

// oneNode returns a subquery with one row, the verdict.
func (e postgres) oneNode() string { return "(SELECT " + e.node + " AS verdict) node" }

// reads returns the two queries for one record: by the ID of the key, and by the ID of a
// credential.
func (e postgres) reads() (get, lookup string) {
	get = `SELECT node.verdict, ` + postgresRecord + `
FROM ` + e.oneNode() + `
LEFT JOIN apikey_keys k ON k.id = $1
LEFT JOIN apikey_credentials c ON c.key_id = k.id`
	lookup = `SELECT node.verdict, used.key_id, ` + postgresKey + `,
	` + postgresCredential + `
FROM ` + e.oneNode() + `
LEFT JOIN apikey_credentials used ON used.id = $1
LEFT JOIN apikey_keys k ON k.id = used.key_id
LEFT JOIN apikey_credentials c ON c.key_id = used.key_id`
	return get, lookup
}

func (e postgres) statements() statements {
	get, lookup := e.reads()
	return statements{
		get: get,
		// FOR UPDATE in the same statement would return the key as it is after the wait,
		// but its credentials as they were before the wait.
		lock:      `SELECT 1 FROM apikey_keys WHERE id = $1 FOR UPDATE`,
		getLocked: get,
		lookup:    lookup,

		// If the verdict is not 0, the three INSERTs write NULL to version or seq, which
		// are NOT NULL, and fail.
		insertKey: `INSERT INTO apikey_keys (account, name, mode, kind, version, head, needs, mac,
	abilities, networks, origins, metadata, disabled, revoke_reason, rotate_months, recovery,
	created_at, expires_at, revoked_at, rotate_due, event, id, feed)
VALUES ($1, $2, $3, $4, CASE WHEN ` + e.node + ` = 0 THEN $5::bigint END, $6, $7, $8,
	$9::jsonb, $10::jsonb, $11::jsonb, $12::jsonb, $13::int = 1, $14, $15, $16,
	$17, $18, $19, $20, $21, $22, pg_current_xact_id())
ON CONFLICT (id) DO NOTHING`,
		updateKey: `UPDATE apikey_keys SET account = $1, name = $2, mode = $3, kind = $4, version = $5, head = $6, needs = $7, mac = $8,
	abilities = $9::jsonb, networks = $10::jsonb, origins = $11::jsonb, metadata = $12::jsonb,
	disabled = ($13::int = 1), revoke_reason = $14, rotate_months = $15, recovery = $16,
	created_at = $17, expires_at = $18, revoked_at = $19, rotate_due = $20, event = $21, feed = pg_current_xact_id()
WHERE id = $22 AND version = $23 AND ` + e.node + ` = 0`,

		verdict: `SELECT ` + e.node + ` LIMIT 1`,

		credentialsOf: `SELECT id, position, not_before, not_after, ended::int, hint, public, pepper
FROM apikey_credentials WHERE key_id = $1`,
		insertCredential: `INSERT INTO apikey_credentials (position, not_before, not_after, ended, hint, public, pepper,
	last_used, hash, check_value, sealed, sealed_kek, id, key_id)
VALUES ($1, $2, $3, $4::int = 1, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO NOTHING`,
		updateCredential: `UPDATE apikey_credentials
SET position = $1, not_before = $2, not_after = $3, ended = ($4::int = 1), hint = $5, public = $6, pepper = $7 WHERE id = $8`,
		dropCredential: `DELETE FROM apikey_credentials WHERE id = $1`,
		unseal:         `UPDATE apikey_credentials SET sealed = NULL, sealed_kek = '' WHERE key_id = $1 AND (ended OR $2::int = 1)`,

		hasItem: `SELECT ` + e.node + `, EXISTS (SELECT 1 FROM apikey_items WHERE kind = $1 AND id = $2)`,
		insertItem: `INSERT INTO apikey_items (version, expires_at, sealed_kek, data, kind, id)
VALUES (CASE WHEN ` + e.node + ` = 0 THEN $1::bigint END, $2, $3, $4, $5, $6) ON CONFLICT (kind, id) DO NOTHING`,
		updateItem: `UPDATE apikey_items SET version = $1, expires_at = $2, sealed_kek = $3, data = $4
WHERE kind = $5 AND id = $6 AND version = $7 AND ` + e.node + ` = 0`,
		deleteItem: `DELETE FROM apikey_items WHERE kind = $1 AND id = $2 AND version = $3 AND ` + e.node + ` = 0`,

		insertEvent: `INSERT INTO apikey_events (id, time, account, mode, key_id, credential, seq, actor, action, body, hash, feed)
VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN ` + e.node + ` = 0 THEN $7::bigint END, $8, $9, $10, $11, CASE WHEN $12::int = 1 THEN pg_current_xact_id() END)
ON CONFLICT (id) DO NOTHING`,
		hasEvent: `SELECT ` + e.node + `, EXISTS (SELECT 1 FROM apikey_events WHERE id = $1)`,

		swapHash: `UPDATE apikey_credentials SET hash = $1, check_value = $2 WHERE id = $3 AND hash = $4`,
		swapSealed: `UPDATE apikey_credentials SET sealed = $1, sealed_kek = $2
WHERE id = $3 AND sealed IS NOT DISTINCT FROM $4::bytea AND NOT ended
	AND EXISTS (SELECT 1 FROM apikey_keys k WHERE k.id = key_id AND k.revoked_at IS NULL)`,

		// The keys are locked, and a key that still has a credential is not removed, so
		// that two purges at once leave no credential without a key.
		purgeCredentials: `WITH dead AS (SELECT id FROM apikey_keys WHERE revoked_at < $1 ORDER BY revoked_at, id LIMIT $2 FOR UPDATE)
DELETE FROM apikey_credentials c USING dead WHERE c.key_id = dead.id`,
		purgeKeys: `DELETE FROM apikey_keys k USING (SELECT id FROM apikey_keys WHERE revoked_at < $1 ORDER BY revoked_at, id LIMIT $2) dead
WHERE k.id = dead.id AND NOT EXISTS (SELECT 1 FROM apikey_credentials c WHERE c.key_id = k.id)`,
		purgeItems: `DELETE FROM apikey_items i USING (SELECT kind, id, version FROM apikey_items WHERE expires_at < $1 ORDER BY expires_at LIMIT $2) old
WHERE i.kind = old.kind AND i.id = old.id AND i.version = old.version`,

		createMigrations: `CREATE TABLE IF NOT EXISTS apikey_migrations
	(number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL)`,
		migrations:      `SELECT number, checksum FROM apikey_migrations`,
		insertMigration: `INSERT INTO apikey_migrations (number, name, checksum, applied_at) VALUES ($1, $2, $3, $4)`,
	}
}

func (e postgres) builder() *builder {
	return &builder{mark: func(n int) string { return "$" + strconv.Itoa(n) }, fit: e.fit, latest: e.latest()}
}

// list translates [apikey.StoreFilter.Match] into SQL. A subquery selects the keys of the
// page, to which their credentials are joined.
func (e postgres) list(f apikey.StoreFilter, after *position, limit int) query {
	b := e.builder()
	b.add("SELECT node.verdict, ", postgresRecord, " FROM ", e.oneNode(), " LEFT JOIN (SELECT * FROM apikey_keys stored")
	b.keys(f, e.contains)
	b.below("created_at", after)
	b.add(" ORDER BY created_at DESC, id DESC LIMIT ", b.arg(limit),
		") k ON TRUE LEFT JOIN apikey_credentials c ON c.key_id = k.id ORDER BY k.created_at DESC, k.id DESC")
	return b.query()
}

// contains does not use LIKE, to which '%' and '_' in part would be wildcards. In the
// collation "C" only ASCII letters have a lower case.
func (postgres) contains(b *builder, part string) {
	b.where("strpos(lower(name), lower(", b.arg(part), `::text COLLATE "C")) > 0`)
}

func (e postgres) items(f apikey.StoreItemFilter, limit int, locked bool) query {
	b := e.builder()
	b.add("SELECT id, version, expires_at, sealed_kek, data FROM apikey_items")
	b.where("kind = ", b.arg(string(f.Kind)))
	if f.ID != "" {
		b.where("id = ", b.arg(f.ID))
	}
	if f.After != "" {
		b.where("id > ", b.arg(f.After))
	}
	if f.SealedKEKNot != "" {
		b.where("sealed_kek <> '' AND sealed_kek <> ", b.arg(f.SealedKEKNot))
	}
	b.add(" ORDER BY id LIMIT ", b.arg(limit))
	if locked {
		b.add(" FOR UPDATE")
	}
	q := b.query()
	q.sql = "SELECT node.verdict, i.id, i.version, i.expires_at, i.sealed_kek, i.data FROM " + e.oneNode() + " LEFT JOIN (" + q.sql + ") i ON TRUE ORDER BY i.id"
	return q
}

func (e postgres) claim(ids []apikey.CredentialID) query {
	b := e.builder()
	b.add("SELECT id FROM apikey_credentials WHERE id IN (")
	for i := range ids {
		b.add(comma(i), b.arg(ids[i][:]))
	}
	b.add(") ORDER BY id FOR NO KEY UPDATE NOWAIT")
	return b.query()
}

// used begins the queries of claimUses and touch with the uses as a table.
func (e postgres) used(uses []use) *builder {
	b := e.builder()
	b.add("WITH used (id, at, before) AS (VALUES ")
	for i, u := range uses {
		b.add(comma(i), "(", b.arg(u.id[:]), "::bytea, ", b.arg(u.at), "::timestamptz, ", b.arg(u.before), "::timestamptz)")
	}
	b.add(") ")
	return b
}

// postgresDue is the condition on which a use is written; see use. It does not use now(),
// which is the time at which a caller's transaction began.
const postgresDue = "(c.last_used IS NULL OR c.last_used < used.before OR c.last_used > statement_timestamp())"

func (e postgres) claimUses(uses []use) query {
	b := e.used(uses)
	b.add("SELECT c.id FROM used JOIN apikey_credentials c ON c.id = used.id WHERE ", postgresDue,
		" ORDER BY c.id FOR NO KEY UPDATE OF c NOWAIT")
	return b.query()
}

func (e postgres) touch(uses []use) query {
	b := e.used(uses)
	b.add("UPDATE apikey_credentials c SET last_used = LEAST(used.at, statement_timestamp()) FROM used",
		" WHERE c.id = used.id AND ", postgresDue)
	return b.query()
}

// The feed is ordered by the numbers of transactions (xid8, which never wrap). A
// transaction gets its number when it begins to write, long before its commit, so the
// newest visible number says nothing about lower ones. But a snapshot has the number of
// the oldest transaction that was still running when it was taken: all lower transactions
// have ended, and the snapshot contains those of them that were committed. The numbers
// are those of one server: a subscriber of logical replication that takes over continues
// with its own, which may be lower than those that it received, so a cursor names its
// server. A transaction that stays open for an hour holds the floor for an hour; the
// changes that others make meanwhile are shown again and again, and never late.
//
// A row with the number of a transaction that has not begun yet came from another
// cluster, by pg_dump, and is no change of this one.
const postgresSeen = `SELECT now.verdict, now.server, pg_snapshot_xmin(now.snapshot)::text::bigint, pg_snapshot_xmax(now.snapshot)::text::bigint, `

// feed returns the two queries of Changed.
func (e postgres) feed() (now, page string) {
	from := ` FROM (SELECT ` + e.node + ` AS verdict, ` + e.server + ` AS server, pg_current_snapshot() AS snapshot) now`
	now = postgresSeen + `COALESCE(k.feed::text::bigint, 0), k.event` + from + `
LEFT JOIN (SELECT feed, event FROM apikey_keys WHERE feed < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY feed DESC, id DESC LIMIT 1) k ON TRUE`
	page = postgresSeen + `
	$1::text::xid8 < pg_snapshot_xmax(now.snapshot) AND EXISTS (SELECT 1 FROM apikey_events e WHERE e.id = $2 AND e.feed = $1::text::xid8),
	0, ` + postgresRecord + from + `
LEFT JOIN (SELECT * FROM apikey_keys WHERE (feed, id) > ($3::text::xid8, $4) AND feed < pg_snapshot_xmax(pg_current_snapshot())
	ORDER BY feed, id LIMIT $5) k ON TRUE
LEFT JOIN apikey_credentials c ON c.key_id = k.id
ORDER BY k.feed, k.id`
	return now, page
}

func (e postgres) changed(ctx context.Context, s *Store, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	xid := func(n int64) string { return strconv.FormatInt(n, 10) }
	now, page := e.feed()
	return s.changedByWindow(ctx, after, limit, windows{now, func(w window, limit int) query {
		id := append([]byte{}, w.id...) // never nil, which would be NULL
		return query{sql: page, args: []any{xid(w.shown), w.event[:], xid(w.at), id, limit}}
	}})
}
