package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
)

// SQLite is the dialect of SQLite 3.37 and newer, with any driver. The package
// documentation says how to open the database.
var SQLite = Dialect{sqlite{}, defaultPrefix}

type sqlite struct{}

func (sqlite) name() string { return "sqlite" }

// sqliteDSN ends the error of New for a database that is not opened like this.
const sqliteDSN = `; open it as "file:keys.db?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate" with modernc.org/sqlite, ` +
	`as "file:keys.db?_busy_timeout=5000&_journal_mode=WAL&_synchronous=FULL&_txlock=immediate" with github.com/mattn/go-sqlite3`

func (e sqlite) open(ctx context.Context, db *sql.DB) (engine, error) { return e, e.check(ctx, db) }

// settings returns none: the DSN sets everything of a connection that matters, and check
// has checked it. Nothing outside the program changes that later.
func (sqlite) settings() []setting   { return nil }
func (sqlite) unfitWrite(error) bool { return false }

// check checks two connections if the pool can have two: a setting that was made by a
// statement, and not in the DSN, is on one of them only.
func (e sqlite) check(ctx context.Context, db *sql.DB) error {
	single := db.Stats().MaxOpenConnections == 1
	first, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer first.Close()
	inMemory, err := e.checkConn(ctx, first)
	switch {
	case err != nil:
		return err
	case inMemory && !single:
		return fmt.Errorf("%w: sqlstore: every connection has an in-memory database of its own, and a shared cache does not wait for locks: call db.SetMaxOpenConns(1) before New", apikey.ErrInvalid)
	case single:
		return nil
	}
	second, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer second.Close()
	_, err = e.checkConn(ctx, second)
	return err
}

// sqliteSession selects one row: the settings of a connection that matter. The others are
// harmless: columns fix the types of their values (STRICT), values are compared byte by
// byte, and sorted where an order counts, text has one encoding, and times are numbers.
const sqliteSession = `SELECT COALESCE((SELECT file FROM pragma_database_list WHERE name = 'main'), ''),
	(SELECT timeout FROM pragma_busy_timeout), (SELECT query_only FROM pragma_query_only),
	(SELECT journal_mode FROM pragma_journal_mode)`

func (e sqlite) checkConn(ctx context.Context, c *sql.Conn) (inMemory bool, err error) {
	var (
		version, file      string
		journal, own, main string
		major, minor       int
		wait, readOnly     int
	)
	if err := c.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version); err != nil {
		return false, err
	}
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return false, fmt.Errorf("version %q: %w", version, err)
	}
	if err := c.QueryRowContext(ctx, sqliteSession).Scan(&file, &wait, &readOnly, &journal); err != nil {
		return false, err
	}
	for pragma, to := range map[string]*string{"PRAGMA locking_mode": &own, "PRAGMA main.locking_mode": &main} {
		if err := c.QueryRowContext(ctx, pragma).Scan(to); err != nil {
			return false, err
		}
	}
	switch {
	case major < 3 || major == 3 && minor < 37: // STRICT tables
		return false, fmt.Errorf("%w: sqlstore: this is SQLite %s, 3.37 or newer is required", apikey.ErrInvalid, version)
	case wait <= 0:
		return false, fmt.Errorf("%w: sqlstore: a connection has no busy_timeout, so concurrent changes would fail instead of waiting%s", apikey.ErrInvalid, sqliteDSN)
	case journal == "off":
		return false, fmt.Errorf("%w: sqlstore: journal_mode is OFF, so that half of a change that failed would stay: make it WAL%s", apikey.ErrInvalid, sqliteDSN)
	case file != "" && main == "exclusive" && own != "exclusive":
		// With immutable=1 SQLite takes no lock, and reports the mode as exclusive.
		return false, fmt.Errorf("%w: sqlstore: the file is opened as one that nobody changes, so that a revoked key would be accepted for ever: take immutable=1 out of the DSN%s", apikey.ErrInvalid, sqliteDSN)
	case readOnly != 0: // query_only: nothing is written here, and BEGIN IMMEDIATE would fail
		return file == "", nil
	}
	return file == "", e.checkImmediate(ctx, c)
}

// checkImmediate checks whether BEGIN takes the write lock. To try a second connection
// would prove nothing: another process may hold the lock at that moment, and a pool of
// one has no second connection. But a connection refuses to checkpoint (SQLITE_LOCKED)
// while it is inside a transaction, in every journal mode, and a deferred transaction
// without a statement is not inside one yet.
func (e sqlite) checkImmediate(ctx context.Context, c *sql.Conn) error {
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var busy, log, done int
	err = tx.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &log, &done)
	switch {
	case err == nil:
		return fmt.Errorf("%w: sqlstore: a transaction does not take the write lock when it begins, so concurrent changes would fail with SQLITE_BUSY: add _txlock=immediate to the DSN%s", apikey.ErrInvalid, sqliteDSN)
	case e.retryable(err):
		return nil
	}
	return err
}

// exclusively needs only the write lock: SQLite's DDL is transactional.
func (sqlite) exclusively(ctx context.Context, db *sql.DB, work func(conn) error) error {
	return transact(ctx, db, sql.LevelDefault, work)
}

func (sqlite) embedded() bool { return true }

// retryable: SQLITE_BUSY or SQLITE_LOCKED. The errors of modernc.org/sqlite have a method
// that returns the code; those of the other drivers have SQLite's own text.
func (sqlite) retryable(err error) bool {
	const busy, locked = 5, 6
	var coded interface{ Code() int }
	if errors.As(err, &coded) {
		primary := coded.Code() & 0xff
		return primary == busy || primary == locked
	}
	text := err.Error()
	return strings.Contains(text, "database is locked") || strings.Contains(text, "table is locked")
}

// duplicate is always false, because every INSERT that compares has an ON CONFLICT.
func (sqlite) duplicate(error) bool { return false }

// isolation: SQLite has only one level, and a transaction locks the whole database.
func (sqlite) isolation() sql.IsolationLevel { return sql.LevelDefault }

func (sqlite) moment(m moment) any { return m.micros }

func (sqlite) latest() time.Time { return latestMicros }

func (sqlite) noTable(err error) bool { return strings.Contains(err.Error(), "no such table") }

// The columns for row, in the order of its fields.
const (
	sqliteKey = `k.account, k.name, k.mode, k.kind, k.version, k.head, k.needs, k.mac,
	k.abilities, k.networks, k.origins, k.metadata, k.disabled, k.revoke_reason, k.rotate_months, k.recovery,
	k.created_at, k.expires_at, k.revoked_at, k.rotate_due, k.feed, k.event`
	sqliteCredential = `c.id, c.not_before, c.not_after, c.ended, c.hint, c.public, c.pepper,
	c.last_used, c.hash, c.check_value, c.sealed, c.sealed_kek, c.position`
	sqliteRecord = "0, k.id, " + sqliteKey + ",\n\t" + sqliteCredential
)

const (
	sqliteGet = `SELECT ` + sqliteRecord + `
FROM apikey_keys k LEFT JOIN apikey_credentials c ON c.key_id = k.id
WHERE k.id = ?`
	sqliteLookup = `SELECT 0, used.key_id, ` + sqliteKey + `,
	` + sqliteCredential + `
FROM apikey_credentials used
LEFT JOIN apikey_keys k ON k.id = used.key_id
LEFT JOIN apikey_credentials c ON c.key_id = used.key_id
WHERE used.id = ?`
)

func (sqlite) statements() statements {
	return statements{
		get:       sqliteGet,
		getLocked: sqliteGet, // a transaction locks the whole database
		lookup:    sqliteLookup,

		nextPlace: `UPDATE apikey_feed SET place = place + 1, event = ?`,

		insertKey: `INSERT INTO apikey_keys (account, name, mode, kind, version, head, needs, mac,
	abilities, networks, origins, metadata, disabled, revoke_reason, rotate_months, recovery,
	created_at, expires_at, revoked_at, rotate_due, event, id, feed)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT place FROM apikey_feed))
ON CONFLICT (id) DO NOTHING`,
		updateKey: `UPDATE apikey_keys SET account = ?, name = ?, mode = ?, kind = ?, version = ?, head = ?, needs = ?, mac = ?,
	abilities = ?, networks = ?, origins = ?, metadata = ?, disabled = ?, revoke_reason = ?, rotate_months = ?, recovery = ?,
	created_at = ?, expires_at = ?, revoked_at = ?, rotate_due = ?, event = ?, feed = (SELECT place FROM apikey_feed)
WHERE id = ? AND version = ?`,

		credentialsOf: `SELECT id, position, not_before, not_after, ended, hint, public, pepper
FROM apikey_credentials WHERE key_id = ?`,
		insertCredential: `INSERT INTO apikey_credentials (position, not_before, not_after, ended, hint, public, pepper,
	last_used, hash, check_value, sealed, sealed_kek, id, key_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
		updateCredential: `UPDATE apikey_credentials
SET position = ?, not_before = ?, not_after = ?, ended = ?, hint = ?, public = ?, pepper = ? WHERE id = ?`,
		dropCredential: `DELETE FROM apikey_credentials WHERE id = ?`,
		unseal:         `UPDATE apikey_credentials SET sealed = NULL, sealed_kek = '' WHERE key_id = ? AND (ended = 1 OR ? = 1)`,

		hasItem: `SELECT 0, EXISTS (SELECT 1 FROM apikey_items WHERE kind = ? AND id = ?)`,
		insertItem: `INSERT INTO apikey_items (version, expires_at, sealed_kek, data, kind, id)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (kind, id) DO NOTHING`,
		updateItem: `UPDATE apikey_items SET version = ?, expires_at = ?, sealed_kek = ?, data = ?
WHERE kind = ? AND id = ? AND version = ?`,
		deleteItem: `DELETE FROM apikey_items WHERE kind = ? AND id = ? AND version = ?`,

		insertEvent: `INSERT INTO apikey_events (id, time, account, mode, key_id, credential, seq, actor, action, body, hash, feed)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CASE WHEN ? = 1 THEN (SELECT place FROM apikey_feed) ELSE 0 END)
ON CONFLICT (id) DO NOTHING`,
		hasEvent: `SELECT 0, EXISTS (SELECT 1 FROM apikey_events WHERE id = ?)`,

		swapHash: `UPDATE apikey_credentials SET hash = ?, check_value = ? WHERE id = ? AND hash = ?`,
		swapSealed: `UPDATE apikey_credentials SET sealed = ?, sealed_kek = ? WHERE id = ? AND sealed IS ? AND ended = 0
	AND EXISTS (SELECT 1 FROM apikey_keys k WHERE k.id = key_id AND k.revoked_at IS NULL)`,

		purgeCredentials: `DELETE FROM apikey_credentials WHERE key_id IN
	(SELECT id FROM apikey_keys WHERE revoked_at < ? ORDER BY revoked_at, id LIMIT ?)`,
		purgeKeys: `DELETE FROM apikey_keys WHERE id IN
	(SELECT id FROM apikey_keys WHERE revoked_at < ? ORDER BY revoked_at, id LIMIT ?)`,
		purgeItems: `DELETE FROM apikey_items WHERE rowid IN
	(SELECT rowid FROM apikey_items WHERE expires_at < ? ORDER BY expires_at LIMIT ?)`,

		createMigrations: `CREATE TABLE IF NOT EXISTS apikey_migrations
	(number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT`,
		migrations:      `SELECT number, checksum FROM apikey_migrations`,
		insertMigration: `INSERT INTO apikey_migrations (number, name, checksum, applied_at) VALUES (?, ?, ?, ?)`,
	}
}

func (e sqlite) builder() *builder {
	return &builder{mark: func(int) string { return "?" }, fit: "0", latest: e.latest()}
}

// list translates [apikey.StoreFilter.Match] into SQL. A subquery selects the keys of the
// page, to which their credentials are joined.
func (e sqlite) list(f apikey.StoreFilter, after *position, limit int) query {
	b := e.builder()
	b.add("SELECT ", sqliteRecord, " FROM (SELECT * FROM apikey_keys stored")
	b.keys(f, e.contains)
	b.below("created_at", after)
	b.add(" ORDER BY created_at DESC, id DESC LIMIT ", b.arg(limit),
		") k LEFT JOIN apikey_credentials c ON c.key_id = k.id ORDER BY k.created_at DESC, k.id DESC")
	return b.query()
}

// contains does not use LIKE, to which '%' and '_' in part would be wildcards.
func (sqlite) contains(b *builder, part string) {
	b.where("instr(lower(name), lower(", b.arg(part), ")) > 0")
}

func (e sqlite) items(f apikey.StoreItemFilter, limit int, _ bool) query {
	b := e.builder()
	b.add("SELECT 0, id, version, expires_at, sealed_kek, data FROM apikey_items")
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
	return b.query()
}

func (sqlite) claim([]apikey.CredentialID) query { return query{} }

func (sqlite) claimUses([]use) query { return query{} }

// touch passes the clock of this process as an argument: the engine runs in this process,
// so its clock is the same, and SQLite has no function that returns it in microseconds.
func (e sqlite) touch(uses []use) query {
	b := e.builder()
	b.add("WITH used (id, at, before, now) AS (VALUES ")
	now := at(time.Now())
	for i, u := range uses {
		b.add(comma(i), "(", b.arg(u.id[:]), ", ", b.arg(u.at), ", ", b.arg(u.before), ", ", b.arg(now), ")")
	}
	b.add(") UPDATE apikey_credentials SET last_used = min(used.at, used.now) FROM used WHERE apikey_credentials.id = used.id",
		" AND (last_used IS NULL OR last_used < used.before OR last_used > used.now)")
	return b.query()
}

// changed reads the end of the feed, whether the cursor's event is still there, and the
// page in one query, so that all are of one snapshot.
func (e sqlite) changed(ctx context.Context, s *Store, cursor apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	after, err := parseCursor(cursor, feedCursor)
	if err != nil {
		return apikey.StoreChanges{}, err
	}
	if after == nil { // begins after every place, so that no record is read
		after, limit = &position{at: 1<<63 - 1}, 0
	}
	type page struct {
		recordRows
		end   position // of the feed
		known bool     // the cursor's event is still at its place
	}
	p, err := read(ctx, s, "changed", query{sql: `SELECT feed.place, feed.event,
	EXISTS (SELECT 1 FROM apikey_events e WHERE e.id = ? AND e.feed = ?),
	` + sqliteRecord + `
FROM apikey_feed feed
LEFT JOIN (SELECT * FROM apikey_keys stored WHERE feed > ? ORDER BY feed LIMIT ?) k ON TRUE
LEFT JOIN apikey_credentials c ON c.key_id = k.id
ORDER BY k.feed`, args: []any{after.id, after.at, after.at, limit + 1}},
		func(p *page, rows *sql.Rows) error { return p.scan(rows, &p.end.at, &p.end.id, &p.known) })
	switch {
	case err != nil:
		return apikey.StoreChanges{}, err
	case cursor == "":
		return apikey.StoreChanges{Next: p.end.cursor(feedCursor), Current: true}, nil
	case after.at != 0 && !p.known: // place 0 is before the first event
		return apikey.StoreChanges{}, apikey.ErrCursorLost
	}
	shown, more := upTo(limit, p.found)
	changes := apikey.StoreChanges{Next: p.end.cursor(feedCursor), More: more, Current: true}
	changes.Records, changes.Damaged = split(shown)
	if more {
		last := shown[limit-1]
		changes.Next = position{last.feed, last.event}.cursor(feedCursor)
	}
	return changes, nil
}
