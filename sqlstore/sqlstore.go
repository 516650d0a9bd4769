// Package sqlstore keeps keys in a SQL database: an [apikey.Store] on
// database/sql. The program opens the database with a driver of its choice; the
// package imports none.
//
//	db, err := sql.Open("sqlite", "file:keys.db?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
//	…
//	store, err := sqlstore.New(db, sqlstore.SQLite)
//	…
//	err = store.Migrate(ctx)
//
// # The pool
//
// For a database server, say how many connections the pool may open, let the pool
// keep them, and end each of them some day:
//
//	db.SetMaxOpenConns(16)
//	db.SetMaxIdleConns(16)
//	db.SetConnMaxLifetime(5 * time.Minute)
//
// database/sql keeps two idle connections unless it is told otherwise and closes
// the others after each use. On a busy server that speaks over a network, most
// calls then open a connection first, which costs the database more than the
// query: with 16 writers, a pool of 8 that keeps 2 was ten times slower than one
// that keeps 8. Without a lifetime a connection stays at a server that was demoted
// meanwhile. The server's max_connections has to be larger than the pools of all
// nodes together.
//
// # SQLite
//
// SQLite has one writer at a time, and whoever comes second has to wait for it.
// Two settings make it a wait and not a failure, and [New] refuses a database
// that is opened without them: busy_timeout says for how long, and
// _txlock=immediate takes the write lock when a transaction begins (one that
// takes it later, after it has read, cannot wait and fails with SQLITE_BUSY).
// They belong into the DSN, because a PRAGMA sent through db.Exec reaches only
// one connection of the pool. New also refuses immutable=1, with which SQLite
// would not notice what another process changes, and journal_mode=OFF:
//
//	modernc.org/sqlite           file:keys.db?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate
//	github.com/mattn/go-sqlite3  file:keys.db?_busy_timeout=5000&_journal_mode=WAL&_synchronous=FULL&_txlock=immediate
//
// WAL is recommended: without it readers wait for the writer too. synchronous
// belongs to FULL, which is SQLite's own default and modernc's, and not mattn's:
// with NORMAL a power failure takes back the last acknowledged changes, and one of
// them may have revoked a key. New does not ask for it. A context that ends while SQLite waits for the lock is honoured
// when busy_timeout is over, so let that be no longer than a caller can wait; a
// change that still finds the database locked is begun again, ten times in all,
// while its context lasts.
//
// Several processes on one machine may share the file; a network file system
// may not hold it. The pool may have any size; four to eight connections are
// plenty, since only reading runs in parallel. An in-memory database exists
// once a connection, so it needs db.SetMaxOpenConns(1), with or without a
// shared cache, and a pool that never closes that connection (the default).
// SQLite 3.37 or newer is required.
//
// # PostgreSQL
//
// PostgreSQL 14 or newer, in a database of encoding UTF8. Any DSN of
// github.com/jackc/pgx/v5/stdlib or github.com/lib/pq will do, if client_encoding
// is UTF8, which it is unless the DSN, the role or the server says otherwise:
//
//	postgres://user:password@primary:5432/shop
//	postgres://user:password@one:5432,two:5432/shop?target_session_attrs=read-write&connect_timeout=2
//
// Leave synchronous_commit on, and with standbys name them in
// synchronous_standby_names: what a server acknowledges and then loses may have
// been a revocation. A standby is never believed, since it may lag: it answers
// ErrUnavailable, so list the hosts with target_session_attrs=read-write rather
// than pointing a verifier at one. The same goes for a subscriber of logical
// replication, as long as one of the tables comes to it by a subscription that is
// enabled: it may lag too, its rows carry the numbers of the publisher's
// transactions, and read-write does not pass it over. So two servers that
// subscribe to each other's keys have no primary, and neither is believed. A
// server that subscribes to other tables is a primary, and so is one that was
// promoted, once the subscription is dropped or disabled. Every role can see that
// in pg_subscription and pg_subscription_rel, unless somebody has taken it from
// PUBLIC; New refuses a role that cannot, and says what to grant. connect_timeout is for each host: without it
// the first may swallow all the time that a call has, and the second is never
// asked.
//
// Prefer pgx. When a network swallows packets and resets nothing, lib/pq waits
// until TCP gives the connection up, whatever the context says, and what asked
// for a key meanwhile waits with it; and behind PgBouncer it has no mode that is
// tested here.
//
// Behind PgBouncer in transaction mode pgx has to be told to prepare nothing,
// with default_query_exec_mode=exec, or simple_protocol, in the DSN. The store
// itself keeps neither statements nor locks of a session, and never listens.
//
// # MariaDB and Galera
//
// MariaDB 10.6 or newer, with github.com/go-sql-driver/mysql:
//
//	user:password@tcp(host:3306)/shop?parseTime=true&loc=UTC&interpolateParams=true
//	user:password@tcp(node:3306)/shop?parseTime=true&loc=UTC&interpolateParams=true&wsrep_sync_wait=1
//
// [New] refuses a database whose times would be read as those of another zone,
// and a session with a setting that would change what is read or written (see
// Sessions): autocommit off, chained transactions, READ UNCOMMITTED, an sql_mode
// that is not strict or takes an empty text for none, an encoding other than
// utf8mb4 of client, connection or results, changes that replicas or other Galera
// nodes would not hear of, and a Galera node without wsrep_sync_wait=1: such a
// node answers before it has applied what others have acknowledged.
// interpolateParams=true saves a round trip a query. A replica is known by
// read_only or innodb_read_only and answers ErrUnavailable; set read_only on each.
//
// The change feed goes by the server's clock and looks back two minutes. A
// transaction that stays open for more than 115 seconds after it has begun to
// write a key (waiting for its lock counts) may be missed by it, and Verifiers then learn of the change when their
// record is older than MaxAge. Keep the clocks of a cluster within five seconds.
//
// # Sessions
//
// A session has settings, by the DSN, by the user or role, by the server, and some
// change what a statement means. Most are harmless here, because each statement
// says what it wants: limits of rows, the isolation of the store's transactions,
// the time zone, modes of syntax. The schema by search_path is the program's to
// choose, and a session that cannot write is enough for a Verifier that is
// ReadOnly. A setting that is not harmless is refused by [New], with ErrInvalid,
// which says what to add to the DSN; nothing that PostgreSQL, MariaDB or SQLite have
// as a default is refused.
//
// New looks at one connection. A pool opens others later, and the server may have
// been given other settings meanwhile (init_connect, ALTER ROLE … SET). So every
// query that decides something asks for the settings too, in the same SELECT, and
// no record is written in a session that New would have refused: such a connection
// answers ErrUnavailable, which says the same as New. It stays in the pool until
// the pool closes it, so once the settings are put right, start the program anew or
// let db.SetConnMaxLifetime close it.
//
// The settings of durability, such as synchronous_commit, are not looked at. A
// session of MariaDB's with a clock of its own (timestamp) is refused when that is
// wrong by more than five minutes; one that is less wrong counts as a server whose
// clock is (see the bound above).
//
// # The caller's transaction
//
// [Store.In] joins a transaction of the program, so that a merchant and their
// first key are committed together or not at all:
//
//	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted}) // nil on SQLite
//	…
//	keys := manager.Tx(store.In(tx))
//	issued, err := keys.Issue(ctx, apikey.IssueRequest{…})
//	…
//	err = tx.Commit()
//	…
//	err = keys.Committed(ctx) // the keys are there all the same: log it, or call again
//
// # Schema
//
// [Store.Migrate] creates and updates the tables; [Schema] has the same files
// for programs that manage their schema with goose, golang-migrate or atlas. A
// program uses one of the two ways, not both.
package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

// Store is an [apikey.Store] in a SQL database. It is safe for concurrent use,
// in any number of processes, starts no goroutine and keeps on a server neither
// prepared statements nor session state, so that a connection pooler may stand
// between.
// Make one with [New].
type Store struct {
	dialect Dialect
	engine  engine
	sql     statements
	db      *sql.DB
	tx      *sql.Tx // the caller's, from In; nil: every method has its own
	lookups *lookups
}

var _ apikey.Store = (*Store)(nil)

// checkTimeout bounds what New asks the database.
const checkTimeout = 10 * time.Second

// New returns a Store in db, which stays the caller's: they size the pool and
// close it. New looks at one or two connections, and writes nothing: the tables
// need not exist yet (see [Store.Migrate]). Make one for a database and keep it,
// not one a request: on SQLite each Store leaves a prepared statement in db for as
// long as that is open.
//
// Its error wraps ErrInvalid when db is opened in a way that misreads what is
// stored or fails under load, and says what to write into the DSN; it wraps
// ErrUnavailable when the database cannot be reached.
func New(db *sql.DB, d Dialect) (*Store, error) {
	if err := d.validate(); err != nil {
		return nil, err
	}
	if db == nil {
		return nil, fmt.Errorf("%w: sqlstore: the database is nil", apikey.ErrInvalid)
	}
	s := &Store{dialect: d, engine: d.engine, db: db, lookups: &lookups{}}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	// Two processes that open a new file at once meet where it is switched to WAL,
	// which SQLite's busy_timeout does not cover.
	err := s.retry(ctx, "open", func() error {
		opened, err := d.engine.open(ctx, db)
		if err == nil {
			s.engine, s.sql = opened, opened.statements()
		}
		return err
	})
	switch {
	case err == nil:
		return s, nil
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: sqlstore: the database did not answer within %v: is it the wrong host, port or driver, or has the pool no free connection? %w", apikey.ErrUnavailable, checkTimeout, err)
	}
	return nil, err
}

// In returns the store as seen by a transaction that the caller has begun on
// the same database and will commit or roll back. It uses that transaction's
// connection alone, so a pool of one is enough, and locks what it reads where
// the engine can, so that nothing changes between reading and writing.
//
// Inside nothing is retried: after a deadlock or a lost connection only the
// caller can begin again. Apply and Upkeep stand between savepoints, so that an
// Apply whose comparison fails leaves no failed statement and nothing written,
// and the transaction can go on. After any other error, roll it back. Where the
// engine may have done so by itself (a deadlock, a full disk), tx is rolled back
// here, and whatever uses it then answers sql.ErrTxDone.
//
// On SQLite begin it with BeginTx of a pool that [New] has accepted; it then
// holds the write lock to its end, so keep it short. On the others begin it with
// sql.LevelReadCommitted: a key, and an item that is read by its ID, stays locked
// from when it is read, and nothing else. At higher levels it stays correct, but
// PostgreSQL may end it with a serialization failure, and MariaDB, whose default
// is REPEATABLE READ, locks the gaps beside the key too, so that whoever issues
// or rotates its neighbour waits until it ends.
//
// If tx is nil, which is what a failed BeginTx returns, every method returns
// ErrInvalid.
func (s *Store) In(tx *sql.Tx) apikey.Store {
	if tx == nil {
		return noTx{}
	}
	joined := *s
	joined.tx = tx
	joined.sql.get = s.sql.getLocked
	return &joined
}

// InTransaction reports whether the store is one that [Store.In] returned, so that
// apikey.Manager.Tx can refuse a store that would commit each call by itself.
func (s *Store) InTransaction() bool { return s.tx != nil }
