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

// MySQL is the dialect of MariaDB 10.6 and newer, alone or as a Galera cluster, with
// github.com/go-sql-driver/mysql. It is written for MySQL 8 as well, but not tested on
// it. The package documentation says how to open the database.
var MySQL = Dialect{mysql{&session{}}, defaultPrefix}

type mysql struct{ *session }

func (mysql) name() string { return "mysql" }

// mysqlDSN ends the error of New for a database that is not opened like this.
const mysqlDSN = `; open it as "user:password@tcp(host:3306)/shop?parseTime=true&loc=UTC&interpolateParams=true", on Galera with "&wsrep_sync_wait=1"`

// mysqlSettings are the settings with which a session is refused. The table leaves out
// settings that the statements make harmless: sql_select_limit (each query has its own
// LIMIT), the isolation level (each transaction of the store sets READ COMMITTED),
// time_zone (every time is UTC, in columns without a zone), ANSI_QUOTES and other syntax
// modes, and the collation. It also leaves out settings that only make a statement fail:
// limits of time and size, and a session that cannot write, which is enough for a
// Verifier with ReadOnly. TestFound01SettingsOfMariaDB tries all of them.
var mysqlSettings = []setting{
	{unfit: "@@autocommit = 0",
		why:  "autocommit is off, so that every query would read what was there when the connection was first used, and a revoked key would be accepted for ever",
		cure: "autocommit=1"},
	{unfit: "@@completion_type NOT IN ('NO_CHAIN', '0')",
		why:  "completion_type is not NO_CHAIN, so that a COMMIT would begin a transaction that nobody ends, in which queries may read what was there before, or close the connection",
		cure: "completion_type=0"},
	{needs: "@@tx_isolation", unfit: "@@tx_isolation = 'READ-UNCOMMITTED'",
		why:  "the isolation is READ UNCOMMITTED, so that a key would be accepted whose change is rolled back in the end",
		cure: "tx_isolation=%27READ-COMMITTED%27"},
	{needs: "@@transaction_isolation", unfit: "@@transaction_isolation = 'READ-UNCOMMITTED'",
		why:  "the isolation is READ UNCOMMITTED, so that a key would be accepted whose change is rolled back in the end",
		cure: "transaction_isolation=%27READ-COMMITTED%27"},
	{needs: "@@system_versioning_asof", unfit: "@@system_versioning_asof <> 'DEFAULT'",
		why:  "system_versioning_asof is set, so that tables with a history would be read as they were then",
		cure: "system_versioning_asof=DEFAULT"},
	// SYSDATE is the server's clock. A smaller difference counts as a server with a wrong
	// clock.
	{unfit: "ABS(TIMESTAMPDIFF(SECOND, NOW(), SYSDATE())) > 300",
		why:  "timestamp is set, so that the clock of the session is wrong, and what it writes would be missed by the change feed",
		cure: "timestamp=DEFAULT"},
	{unfit: "INSTR(@@sql_mode, 'STRICT_') = 0",
		why:  "sql_mode is not strict, so that what does not fit would be cut off in silence",
		cure: "sql_mode=%27STRICT_TRANS_TABLES%27"},
	{unfit: "INSTR(@@sql_mode, 'EMPTY_STRING_IS_NULL') > 0 OR INSTR(@@sql_mode, 'ORACLE') > 0",
		why:  "sql_mode has ORACLE or EMPTY_STRING_IS_NULL, in which an empty text is none",
		cure: "sql_mode=%27STRICT_TRANS_TABLES%27"},
	{unfit: "@@sql_big_selects = 0",
		why:  "sql_big_selects is off, as a max_join_size makes it, so that queries would fail when there are more keys",
		cure: "max_join_size=DEFAULT&sql_big_selects=1"},
	{unfit: "@@sql_safe_updates = 1",
		why:  "sql_safe_updates is on, with which Purge fails",
		cure: "sql_safe_updates=0"},
	{unfit: "@@character_set_client <> 'utf8mb4'", value: "@@character_set_client",
		why:  "the connection's character set is %s (character_set_client), so that names would be garbled",
		cure: mysqlUTF8},
	{unfit: "@@character_set_connection NOT IN ('utf8mb4', 'binary')", value: "@@character_set_connection",
		why:  "what is compared and written is converted to the character set %s (character_set_connection), so that it would be garbled",
		cure: mysqlUTF8},
	{unfit: "COALESCE(@@character_set_results, 'binary') NOT IN ('utf8mb4', 'binary')", value: "@@character_set_results",
		why:  "what is read is converted to the character set %s (character_set_results), so that it would be garbled",
		cure: mysqlUTF8},
	{unfit: "@@global.log_bin = 1 AND @@session.sql_log_bin = 0",
		why:  "sql_log_bin is off, so that no replica would hear of a change, a revocation for one",
		cure: "sql_log_bin=1"},
	{unfit: "@@global.log_bin = 1 AND @@session.binlog_format = 'STATEMENT'",
		why:  "binlog_format is STATEMENT, so that a replica would run the statements anew, find that it is one, and write nothing",
		cure: "binlog_format=ROW"},
	{needs: "@@wsrep_on", unfit: "@@global.wsrep_on = 1 AND @@session.wsrep_on = 0",
		why:  "wsrep_on is off for the session, so that the other nodes of this Galera cluster would not hear of a change, a revocation for one",
		cure: "wsrep_on=1"},
	{needs: "@@wsrep_dirty_reads", unfit: "@@global.wsrep_on = 1 AND @@wsrep_dirty_reads = 1",
		why:  "wsrep_dirty_reads is on, so that a node answers which the rest of this Galera cluster has gone on without, and wsrep_sync_wait has no effect",
		cure: "wsrep_dirty_reads=0"},
	{needs: "@@wsrep_sync_wait", unfit: "@@session.wsrep_on = 1 AND @@wsrep_sync_wait & 1 = 0",
		why:  "a node of this Galera cluster may answer before it has applied what another has acknowledged, a revocation for one",
		cure: "wsrep_sync_wait=1"},
}

// mysqlUTF8 overrides everything else that sets character sets: init_connect, and charset
// in the DSN, which the driver sends earlier.
const mysqlUTF8 = "character_set_client=utf8mb4&character_set_connection=utf8mb4&character_set_results=utf8mb4"

// mysqlLagging is true on a replica, which is read_only, and on the readers of Aurora,
// which have innodb_read_only. Galera needs no condition: wsrep_sync_wait makes the
// statement wait until the node has applied every change.
const mysqlLagging = "CAST(@@global.read_only AS CHAR) NOT IN ('0', 'OFF') OR @@global.innodb_read_only = 1"

// open checks one connection: the parameters of the DSN are the same for every
// connection. If a later connection has other settings nevertheless, its queries detect
// that (see [verdict]).
func (e mysql) open(ctx context.Context, db *sql.DB) (engine, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	e.session, err = e.known(ctx, c)
	if err == nil {
		err = e.check(ctx, c)
	}
	// A character set of two bytes garbles numbers as well.
	if errors.Is(err, strconv.ErrSyntax) {
		err = fmt.Errorf("%w: sqlstore: what is read is converted to another character set (character_set_results): add %s to the DSN%s", apikey.ErrInvalid, mysqlUTF8, mysqlDSN)
	}
	return e, err
}

func (e mysql) check(ctx context.Context, c *sql.Conn) error {
	if err := e.checkSettings(ctx, c, mysqlDSN); err != nil {
		return err
	}
	if err := e.checkTimes(ctx, c); err != nil {
		return err
	}
	var database sql.NullString
	if err := c.QueryRowContext(ctx, "SELECT DATABASE() LIMIT 1").Scan(&database); err != nil {
		return err
	}
	if !database.Valid {
		return fmt.Errorf("%w: sqlstore: the DSN names no database: write its name after the slash%s", apikey.ErrInvalid, mysqlDSN)
	}
	return nil
}

// known returns the settings whose variables this server has.
func (mysql) known(ctx context.Context, c *sql.Conn) (*session, error) {
	var all []setting
	for _, s := range mysqlSettings {
		if s.needs != "" {
			var value any
			err := c.QueryRowContext(ctx, "SELECT "+s.needs+" LIMIT 1").Scan(&value)
			if mysqlError(err) == 1193 { // ER_UNKNOWN_SYSTEM_VARIABLE
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		all = append(all, s)
	}
	return newSession(all, mysqlLagging), nil
}

// checkTimes reads one time in winter and one in summer. The stored times are UTC, and
// with another loc in the DSN the driver would read them as times of another zone.
func (mysql) checkTimes(ctx context.Context, c *sql.Conn) error {
	var times [2]any
	err := c.QueryRowContext(ctx, "SELECT TIMESTAMP'2001-01-02 03:04:05', TIMESTAMP'2001-07-02 03:04:05' LIMIT 1").Scan(&times[0], &times[1])
	if err != nil {
		return err
	}
	for i, month := range []time.Month{time.January, time.July} {
		switch read, ok := times[i].(time.Time); {
		case !ok:
			return fmt.Errorf("%w: sqlstore: times are not read as times: add parseTime=true&loc=UTC to the DSN%s", apikey.ErrInvalid, mysqlDSN)
		case !read.Equal(time.Date(2001, month, 2, 3, 4, 5, 0, time.UTC)):
			return fmt.Errorf("%w: sqlstore: times are not read as UTC: add loc=UTC to the DSN%s", apikey.ErrInvalid, mysqlDSN)
		}
	}
	return nil
}

// exclusively holds a session lock (GET_LOCK) on a connection of its own, because DDL
// commits any transaction that it runs in. The lock only orders migrations in the
// ordinary case. In a cluster each node has a lock of its own, and a process may be
// killed between two statements, so every file is written so that it can be run again.
func (e mysql) exclusively(ctx context.Context, db *sql.DB, work func(conn) error) error {
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	const name = "CONCAT('apikey ', SHA1(DATABASE()))"
	var got sql.NullInt64
	if err := c.QueryRowContext(ctx, "SELECT GET_LOCK("+name+", 60) LIMIT 1").Scan(&got); err != nil {
		return err
	}
	if got.Int64 != 1 {
		return errors.New("another process has been migrating for a minute")
	}
	defer c.ExecContext(context.WithoutCancel(ctx), "DO RELEASE_LOCK("+name+")")
	// A user who may create tables can often write to a replica too: read_only stops only
	// other users.
	var v verdict
	if err := c.QueryRowContext(ctx, "SELECT "+e.node+" LIMIT 1").Scan(&v); err != nil {
		return err
	}
	if v != 0 {
		return v.err()
	}
	return work(c)
}

// isolation: each statement sees all earlier commits. With the default, REPEATABLE READ,
// it would compare with the rows as they were when the transaction began, and lock the
// gaps between keys.
func (mysql) isolation() sql.IsolationLevel { return sql.LevelReadCommitted }

// moment returns text, because the driver gives the zero time another meaning. Only a
// last use can be after the latest time, and then touch writes the server's own time
// instead.
func (e mysql) moment(m moment) any {
	t := m.time()
	if t.After(e.latest()) {
		t = e.latest()
	}
	return t.Format("2006-01-02 15:04:05.000000")
}

// latest: a DATETIME ends with the year 9999.
func (mysql) latest() time.Time { return time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC) }

// mysqlError returns the server's number of an error, or 0 if the error is not the
// server's. The number is read from the beginning of the text: the field that has it is
// in a type of the driver, which this package does not import.
func mysqlError(err error) (number int) {
	for ; err != nil; err = errors.Unwrap(err) {
		if n, _ := fmt.Sscanf(err.Error(), "Error %d", &number); n == 1 {
			return number
		}
	}
	return 0
}

// duplicate is needed because INSERT IGNORE would also ignore values that do not fit, and
// the row count of ON DUPLICATE KEY UPDATE depends on the DSN. A failed statement leaves
// the transaction as it was before the statement.
func (mysql) duplicate(err error) bool { return mysqlError(err) == 1062 } // ER_DUP_ENTRY

func (mysql) embedded() bool { return false }

func (mysql) retryable(err error) bool {
	switch mysqlError(err) {
	case 1213, // ER_LOCK_DEADLOCK; on Galera also a failed certification, at any statement or COMMIT
		1205, // ER_LOCK_WAIT_TIMEOUT; on MariaDB also if NOWAIT would have to wait
		3572, // ER_LOCK_NOWAIT, on MySQL 8
		1020, // ER_CHECKREAD, with innodb_snapshot_isolation
		1927: // ER_CONNECTION_KILLED
		return true
	}
	return false
}

// unfitWrite: the only NULL that this package writes to a NOT NULL column is that of a
// CASE on the verdict.
func (mysql) unfitWrite(err error) bool { return mysqlError(err) == 1048 } // ER_BAD_NULL_ERROR

func (mysql) noTable(err error) bool { return mysqlError(err) == 1146 } // ER_NO_SUCH_TABLE

// The columns for row, in the order of its fields.
const (
	mysqlKey = `k.account, k.name, k.mode, k.kind, k.version, k.head, k.needs, k.mac,
	k.abilities, k.networks, k.origins, k.metadata, k.disabled, k.revoke_reason, k.rotate_months, k.recovery,
	k.created_at, k.expires_at, k.revoked_at, k.rotate_due, TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', k.feed), k.event`
	mysqlCredential = `c.id, c.not_before, c.not_after, c.ended, c.hint, c.public, c.pepper,
	c.last_used, c.hash, c.check_value, c.sealed, c.sealed_kek, c.position`
	mysqlRecord = "k.id, " + mysqlKey + ",\n\t" + mysqlCredential

	// mysqlAll ends a query without a LIMIT of its own; otherwise the session's
	// sql_select_limit would limit it.
	mysqlAll = ` LIMIT 18446744073709551615`
)

// oneNode returns a subquery with one row, the verdict.
func (e mysql) oneNode() string { return "(SELECT " + e.node + " AS verdict) node" }

func (e mysql) statements() statements {
	get := `SELECT node.verdict, ` + mysqlRecord + `
FROM ` + e.oneNode() + `
LEFT JOIN apikey_keys k ON k.id = ?
LEFT JOIN apikey_credentials c ON c.key_id = k.id` + mysqlAll
	return statements{
		get: get,
		// A locking read returns the newest version, whatever the caller's isolation
		// level is.
		getLocked: get + ` FOR UPDATE`,
		lookup: `SELECT node.verdict, used.key_id, ` + mysqlKey + `,
	` + mysqlCredential + `
FROM ` + e.oneNode() + `
LEFT JOIN apikey_credentials used ON used.id = ?
LEFT JOIN apikey_keys k ON k.id = used.key_id
LEFT JOIN apikey_credentials c ON c.key_id = used.key_id` + mysqlAll,

		// If the verdict is not 0, the three INSERTs write NULL to version or seq, which
		// are NOT NULL, and fail.
		insertKey: `INSERT INTO apikey_keys (account, name, mode, kind, version, head, needs, mac,
	abilities, networks, origins, metadata, disabled, revoke_reason, rotate_months, recovery,
	created_at, expires_at, revoked_at, rotate_due, event, id, feed)
VALUES (?, ?, ?, ?, CASE WHEN ` + e.node + ` = 0 THEN ? END, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(6))`,
		updateKey: `UPDATE apikey_keys SET account = ?, name = ?, mode = ?, kind = ?, version = ?, head = ?, needs = ?, mac = ?,
	abilities = ?, networks = ?, origins = ?, metadata = ?, disabled = ?, revoke_reason = ?, rotate_months = ?, recovery = ?,
	created_at = ?, expires_at = ?, revoked_at = ?, rotate_due = ?, event = ?, feed = UTC_TIMESTAMP(6)
WHERE id = ? AND version = ? AND ` + e.node + ` = 0`,

		verdict: `SELECT ` + e.node + ` LIMIT 1`,

		// A locking read, so that it returns the newest rows in a caller's transaction
		// too.
		credentialsOf: `SELECT id, position, not_before, not_after, ended, hint, public, pepper
FROM apikey_credentials WHERE key_id = ?` + mysqlAll + ` FOR UPDATE`,
		insertCredential: `INSERT INTO apikey_credentials (position, not_before, not_after, ended, hint, public, pepper,
	last_used, hash, check_value, sealed, sealed_kek, id, key_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		updateCredential: `UPDATE apikey_credentials
SET position = ?, not_before = ?, not_after = ?, ended = ?, hint = ?, public = ?, pepper = ? WHERE id = ?`,
		dropCredential: `DELETE FROM apikey_credentials WHERE id = ?`,
		unseal:         `UPDATE apikey_credentials SET sealed = NULL, sealed_kek = '' WHERE key_id = ? AND (ended = 1 OR ? = 1)`,

		hasItem: `SELECT node.verdict, i.id IS NOT NULL FROM ` + e.oneNode() + `
LEFT JOIN apikey_items i ON i.kind = ? AND i.id = ? LIMIT 1 FOR UPDATE`,
		insertItem: `INSERT INTO apikey_items (version, expires_at, sealed_kek, data, kind, id)
VALUES (CASE WHEN ` + e.node + ` = 0 THEN ? END, ?, ?, ?, ?, ?)`,
		updateItem: `UPDATE apikey_items SET version = ?, expires_at = ?, sealed_kek = ?, data = ?
WHERE kind = ? AND id = ? AND version = ? AND ` + e.node + ` = 0`,
		deleteItem: `DELETE FROM apikey_items WHERE kind = ? AND id = ? AND version = ? AND ` + e.node + ` = 0`,

		insertEvent: `INSERT INTO apikey_events (id, time, account, mode, key_id, credential, seq, actor, action, body, hash, feed)
VALUES (?, ?, ?, ?, ?, ?, CASE WHEN ` + e.node + ` = 0 THEN ? END, ?, ?, ?, ?, CASE WHEN ? = 1 THEN UTC_TIMESTAMP(6) END)`,
		hasEvent: `SELECT node.verdict, e.id IS NOT NULL FROM ` + e.oneNode() + `
LEFT JOIN apikey_events e ON e.id = ? LIMIT 1 LOCK IN SHARE MODE`,

		swapHash: `UPDATE apikey_credentials SET hash = ?, check_value = ? WHERE id = ? AND hash = ?`,
		swapSealed: `UPDATE apikey_credentials SET sealed = ?, sealed_kek = ? WHERE id = ? AND sealed <=> ? AND ended = 0
	AND EXISTS (SELECT 1 FROM apikey_keys k WHERE k.id = key_id AND k.revoked_at IS NULL)`,

		// A key that still has a credential is not removed, so that two purges at once
		// leave no credential without a key.
		purgeCredentials: `DELETE c FROM (SELECT id FROM apikey_keys WHERE revoked_at < ? ORDER BY revoked_at, id LIMIT ?) dead
JOIN apikey_credentials c ON c.key_id = dead.id`,
		purgeKeys: `DELETE k FROM (SELECT id FROM apikey_keys WHERE revoked_at < ? ORDER BY revoked_at, id LIMIT ?) dead
JOIN apikey_keys k ON k.id = dead.id WHERE NOT EXISTS (SELECT 1 FROM apikey_credentials c WHERE c.key_id = k.id)`,
		purgeItems: `DELETE FROM apikey_items WHERE expires_at < ? ORDER BY expires_at LIMIT ?`,

		createMigrations: `CREATE TABLE IF NOT EXISTS apikey_migrations (number INT NOT NULL PRIMARY KEY,
	name VARCHAR(255) NOT NULL, checksum VARCHAR(64) NOT NULL, applied_at DATETIME(6) NOT NULL) ENGINE = InnoDB`,
		migrations: `SELECT number, checksum FROM apikey_migrations` + mysqlAll,
		insertMigration: `INSERT INTO apikey_migrations (number, name, checksum, applied_at) VALUES (?, ?, ?, ?)
ON DUPLICATE KEY UPDATE number = number`,
	}
}

func (e mysql) builder() *builder {
	return &builder{mark: func(int) string { return "?" }, fit: e.fit, latest: e.latest()}
}

// list translates [apikey.StoreFilter.Match] into SQL. A subquery selects the keys of the
// page, to which their credentials are joined.
func (e mysql) list(f apikey.StoreFilter, after *position, limit int) query {
	b := e.builder()
	b.add("SELECT node.verdict, ", mysqlRecord, " FROM ", e.oneNode(), " LEFT JOIN (SELECT * FROM apikey_keys stored")
	b.keys(f, e.contains)
	b.below("created_at", after)
	b.add(" ORDER BY created_at DESC, id DESC LIMIT ", b.arg(limit),
		") k ON TRUE LEFT JOIN apikey_credentials c ON c.key_id = k.id ORDER BY k.created_at DESC, k.id DESC", mysqlAll)
	return b.query()
}

// contains does not use LOWER, which would change letters like 'Ä' too, or none at all in
// a binary column.
func (mysql) contains(b *builder, part string) {
	name := "name"
	for letter := 'A'; letter <= 'Z'; letter++ {
		lower := string(letter + 'a' - 'A')
		name, part = "REPLACE("+name+", '"+string(letter)+"', '"+lower+"')", strings.ReplaceAll(part, string(letter), lower)
	}
	b.where("INSTR(", name, ", ", b.arg(part), ") > 0")
}

func (e mysql) items(f apikey.StoreItemFilter, limit int, locked bool) query {
	b := e.builder()
	b.add("SELECT node.verdict, i.id, i.version, i.expires_at, i.sealed_kek, i.data FROM ", e.oneNode(), " LEFT JOIN apikey_items i ON")
	b.word = " "
	b.where("i.kind = ", b.arg(string(f.Kind)))
	if f.ID != "" {
		b.where("i.id = ", b.arg(f.ID))
	}
	if f.After != "" {
		b.where("i.id > ", b.arg(f.After))
	}
	if f.SealedKEKNot != "" {
		b.where("i.sealed_kek <> '' AND i.sealed_kek <> ", b.arg(f.SealedKEKNot))
	}
	b.add(" ORDER BY i.id LIMIT ", b.arg(limit))
	if locked {
		b.add(" FOR UPDATE")
	}
	return b.query()
}

// claim forces the primary key: a query by another index would meet the locks on
// credentials that are not in ids.
func (e mysql) claim(ids []apikey.CredentialID) query {
	b := e.builder()
	b.add("SELECT id FROM apikey_credentials FORCE INDEX (PRIMARY) WHERE id IN (")
	for i := range ids {
		b.add(comma(i), b.arg(ids[i][:]))
	}
	b.add(") ORDER BY id", mysqlAll, " FOR UPDATE NOWAIT")
	return b.query()
}

// used writes the uses as a table, for claimUses and touch. Without the casts the columns
// would be text in the connection's character set.
func (e mysql) used(b *builder, uses []use) {
	b.add("(")
	for i, u := range uses {
		if i > 0 {
			b.add(" UNION ALL ")
		}
		b.add("SELECT CAST(", b.arg(u.id[:]), " AS BINARY(16)) AS id, CAST(", b.arg(u.at), " AS DATETIME(6)) AS at, CAST(",
			b.arg(u.before), " AS DATETIME(6)) AS before_at")
	}
	b.add(") used")
}

// mysqlDue is the condition on which a use is written; see use.
const mysqlDue = "(c.last_used IS NULL OR c.last_used < used.before_at OR c.last_used > UTC_TIMESTAMP(6))"

// claimUses fixes the order of the join, because a derived table has no statistics and
// the opposite order would lock every credential. The server locks a credential while it
// examines whether that is due. So the claim also fails, and begins again, if another
// transaction has locked a credential that is not due.
func (e mysql) claimUses(uses []use) query {
	b := e.builder()
	b.add("SELECT STRAIGHT_JOIN c.id FROM ")
	e.used(b, uses)
	b.add(" JOIN apikey_credentials c FORCE INDEX (PRIMARY) ON c.id = used.id WHERE ", mysqlDue, " ORDER BY c.id", mysqlAll, " FOR UPDATE NOWAIT")
	return b.query()
}

func (e mysql) touch(uses []use) query {
	b := e.builder()
	b.add("UPDATE ")
	e.used(b, uses)
	b.add(" STRAIGHT_JOIN apikey_credentials c FORCE INDEX (PRIMARY) ON c.id = used.id SET c.last_used = LEAST(used.at, UTC_TIMESTAMP(6)) WHERE ", mysqlDue)
	return b.query()
}

// The feed is ordered by the server's time at which a change was written. The commit may
// be later. So each pass begins as far back as a transaction may have been open, and
// returns every change since then again. If a change is committed even later, a Verifier
// learns of it when its record is older than MaxAge.
const (
	// mysqlLookBack is two minutes, in microseconds: 115 seconds for a transaction,
	// and five for clocks that differ between the nodes of a cluster.
	mysqlLookBack = "120000000"

	mysqlSeen = `SELECT node.verdict, 0, node.now - ` + mysqlLookBack + `, node.now, `
)

// feed returns the two queries of Changed.
func (e mysql) feed() (now, page string) {
	from := ` FROM (SELECT ` + e.node + ` AS verdict, TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', UTC_TIMESTAMP(6)) AS now) node`
	now = mysqlSeen + `COALESCE(TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', k.feed), 0), k.event` + from + `
LEFT JOIN (SELECT feed, event FROM apikey_keys ORDER BY feed DESC, id DESC LIMIT 1) k ON TRUE LIMIT 1`
	page = mysqlSeen + `EXISTS (SELECT 1 FROM apikey_events e WHERE e.id = ?),
	0, ` + mysqlRecord + from + `
LEFT JOIN (SELECT * FROM apikey_keys WHERE feed >= ? AND (feed > ? OR id > ?) ORDER BY feed, id LIMIT ?) k ON TRUE
LEFT JOIN apikey_credentials c ON c.key_id = k.id
ORDER BY k.feed, k.id` + mysqlAll
	return now, page
}

func (e mysql) changed(ctx context.Context, s *Store, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	now, page := e.feed()
	return s.changedByWindow(ctx, after, limit, windows{now, func(w window, limit int) query {
		from, id := moment{w.at, true}, append([]byte{}, w.id...) // never nil, which would be NULL
		return query{sql: page, args: []any{w.event[:], from, from, id, limit}}
	}})
}
