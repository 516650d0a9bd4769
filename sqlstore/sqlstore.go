// Package sqlstore keeps keys in a SQL database: an [apikey.Store] on database/sql. The
// program opens the database with a driver of its choice; the package imports none.
//
//	db, err := sql.Open("sqlite", "file:keys.db?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
//	…
//	store, err := sqlstore.New(db, sqlstore.SQLite)
//	…
//	err = store.Migrate(ctx)
//
// # The pool
//
// For a database server, set how many connections the pool may open, let the pool keep
// all of them, and limit the lifetime of each:
//
//	db.SetMaxOpenConns(16)
//	db.SetMaxIdleConns(16)
//	db.SetConnMaxLifetime(5 * time.Minute)
//
// By default database/sql keeps two idle connections and closes the others after each
// use. On a busy server that is reached over a network, most calls then open a
// connection first, which costs the database more than the query: with 16 writers, a
// pool of 8 that keeps 2 was ten times slower than one that keeps 8. Without a lifetime
// a connection stays at a server that was demoted meanwhile. The server's
// max_connections has to be larger than the pools of all nodes together.
//
// # SQLite
//
// SQLite has one writer at a time; a second one has to wait. Two settings make it wait
// instead of fail, and [New] refuses a database that is opened without them:
// busy_timeout is how long a writer waits, and _txlock=immediate takes the write lock
// when a transaction begins (a transaction that takes it later, after it has read,
// cannot wait and fails with SQLITE_BUSY). Set them in the DSN, because a PRAGMA sent
// through db.Exec reaches only one connection of the pool. New also refuses
// immutable=1, with which SQLite would not notice changes by another process, and
// journal_mode=OFF:
//
//	modernc.org/sqlite           file:keys.db?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate
//	github.com/mattn/go-sqlite3  file:keys.db?_busy_timeout=5000&_journal_mode=WAL&_synchronous=FULL&_txlock=immediate
//
// WAL is recommended: without it readers wait for the writer too. Set synchronous to
// FULL, which is the default of SQLite and of modernc, but not of mattn. With NORMAL a
// power failure undoes the last acknowledged changes, and one of them may have revoked
// a key. New does not check synchronous.
//
// If a context ends while SQLite waits for the lock, the call returns only when
// busy_timeout is over, so set that no longer than a caller can wait. A change that
// still finds the database locked is begun again, ten times in all, but not later than
// 1.5 s after its begin. So with a busy_timeout of 2 s or 5 s it waits that long once, and
// then is apikey.ErrUnavailable. Suspend, Revoke and Retire try again all the same, until
// their context ends.
//
// Several processes on one machine may share the file; do not put it on a network file
// system. The pool may have any size; four to eight connections are plenty, since only
// reading runs in parallel. Each connection to an in-memory database has a database of
// its own, so it needs db.SetMaxOpenConns(1), with or without a shared cache, and a
// pool that never closes that connection (the default). SQLite 3.37 or newer is
// required.
//
// # PostgreSQL
//
// PostgreSQL 14 or newer, in a database of encoding UTF8. Any DSN of
// github.com/jackc/pgx/v5/stdlib or github.com/lib/pq will do, if client_encoding is
// UTF8, which it is unless the DSN, the role or the server says otherwise:
//
//	postgres://user:password@primary:5432/shop
//	postgres://user:password@one:5432,two:5432/shop?target_session_attrs=read-write&connect_timeout=2
//
// Leave synchronous_commit on, and name standbys in synchronous_standby_names: a change
// that a server acknowledges and then loses may have been a revocation. connect_timeout
// is for each host: without it the first host may use up all the time of a call, and
// the second is never tried.
//
// A standby may lag, so the store answers ErrUnavailable on one: list the hosts with
// target_session_attrs=read-write rather than pointing a Verifier at a standby. The
// same holds for a subscriber of logical replication, as long as one of the store's
// tables comes to it by an enabled subscription: it may lag too, its rows carry the
// numbers of the publisher's transactions, and read-write does not skip it. So two
// servers that subscribe to each other's keys have no primary, and the store refuses
// both. A server that subscribes to other tables is a primary, and so is one that was
// promoted, once the subscription is dropped or disabled. Every role can see that in
// pg_subscription and pg_subscription_rel, unless somebody has revoked it from PUBLIC;
// New refuses a role that cannot, and says what to grant.
//
// Prefer pgx. If a network drops packets without a reset, lib/pq waits until TCP gives
// the connection up, whatever the context says, and callers that asked for the same key
// wait with it. Behind PgBouncer lib/pq has no mode that is tested here.
//
// Behind PgBouncer in transaction mode, pgx must prepare no statements: put
// default_query_exec_mode=exec, or simple_protocol, into the DSN. The store itself
// keeps neither prepared statements nor locks of a session there, and uses no LISTEN.
//
// # MariaDB and Galera
//
// MariaDB 10.6 or newer, with github.com/go-sql-driver/mysql:
//
//	user:password@tcp(host:3306)/shop?parseTime=true&loc=UTC&interpolateParams=true
//	user:password@tcp(node:3306)/shop?parseTime=true&loc=UTC&interpolateParams=true&wsrep_sync_wait=1
//
// [New] refuses a database whose times would be read in another time zone, and a
// session with a setting that would change what is read or written (see Sessions):
//
//   - autocommit off, chained transactions, or READ UNCOMMITTED
//   - an sql_mode that is not strict, or reads an empty text as NULL
//   - an encoding other than utf8mb4 for client, connection or results
//   - changes that replicas or other Galera nodes would not get
//   - a Galera node without wsrep_sync_wait=1, which answers before it has applied the
//     changes that other nodes have acknowledged
//
// interpolateParams=true saves a round trip for each query. A replica is recognized by
// read_only or innodb_read_only and answers ErrUnavailable; set read_only on each.
//
// The change feed uses the server's clock and looks back two minutes. It may miss a
// transaction that stays open for more than 115 seconds after it has begun to write a
// key (waiting for the key's lock counts). Verifiers then learn of the change when
// their record is older than MaxAge. Keep the clocks of a cluster within five seconds.
//
// # Sessions
//
// The DSN, the user or role, and the server can set options of a session, and some of
// them change what a statement means. Most are harmless here, because each statement of
// the store says what it needs: limits of rows, the isolation of the store's
// transactions, the time zone, modes of syntax. The program may choose the schema with
// search_path, and a session that cannot write is enough for a Verifier with ReadOnly.
// [New] refuses a setting that is not harmless with ErrInvalid, which says what to add
// to the DSN. It refuses no default of PostgreSQL, MariaDB or SQLite.
//
// New checks one connection. A pool opens others later, and the settings of the server
// may have changed meanwhile (init_connect, ALTER ROLE … SET). So every query that a
// decision depends on checks the settings too, in the same SELECT, and no record is
// written in a session that New would have refused: such a connection answers
// ErrUnavailable, with the same text as New. It stays in the pool until the pool closes
// it. So when the settings are right again, restart the program or let
// db.SetConnMaxLifetime close the connection.
//
// Durability settings, such as synchronous_commit, are not checked. A MariaDB session
// with a clock of its own (timestamp) is refused if that clock is wrong by more than
// five minutes; if it is less wrong, it counts as a server with a wrong clock (see the
// five seconds above).
//
// # The caller's transaction
//
// [Store.In] joins a transaction of the program, so that a merchant and their first key
// are committed together or not at all:
//
//	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted}) // nil on SQLite
//	…
//	keys := manager.Tx(store.In(tx))
//	issued, err := keys.Issue(ctx, apikey.IssueRequest{…})
//	…
//	err = tx.Commit()
//	…
//	err = keys.Committed(ctx) // on an error the keys exist all the same: log it, or call again
//
// # Schema
//
// [Store.Migrate] creates and updates the tables. [Schema] has the same files for
// programs that manage their schema with goose, golang-migrate or atlas. A program uses
// one of the two ways, not both.
package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

// Store is an [apikey.Store] in a SQL database. It is safe for concurrent use, in any
// number of processes, and starts no goroutine. It keeps neither prepared statements
// nor session state on a server, so a connection pooler may stand in between. Make one
// with [New].
type Store struct {
	dialect Dialect
	engine  engine
	sql     statements
	db      *sql.DB
	tx      *sql.Tx // the caller's transaction, from In; if nil, methods begin their own
	lookups *lookups
}

var _ apikey.Store = (*Store)(nil)

// checkTimeout bounds all queries of New together.
const checkTimeout = 10 * time.Second

// New returns a Store in db. The caller still owns db: they set the size of the pool and
// close db. New reads from one or two connections and writes nothing; the tables need not
// exist yet (see [Store.Migrate]). Make one Store for a database and keep it, not one for
// each request: on SQLite each Store leaves a prepared statement in db for as long as db
// is open.
//
// The error wraps ErrInvalid if db is opened in a way that misreads stored data or fails
// under load, and says what to write into the DSN. The error wraps ErrUnavailable if the
// database cannot be reached.
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
	// Two processes that open a new file at once collide when it is switched to WAL,
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

// In returns the Store inside a transaction that the caller has begun on the same
// database and will commit or roll back. The returned Store uses that transaction's
// connection only, so a pool of one is enough. It locks what it reads where the engine
// can, so that nothing changes between reading and writing.
//
// Nothing is retried inside the transaction: after a deadlock or a lost connection only
// the caller can begin again. Apply and Upkeep run between savepoints, so an Apply whose
// comparison fails leaves no failed statement and nothing written, and the transaction
// can go on. After any other error, roll it back. If the engine may have rolled back by
// itself (a deadlock, a full disk), In's Store rolls tx back, and every later use of tx
// returns sql.ErrTxDone.
//
// On SQLite begin tx with BeginTx of a pool that [New] has accepted. The transaction then
// holds the write lock to its end, so keep it short. On PostgreSQL and MariaDB begin tx
// with sql.LevelReadCommitted: then a key, and an item that is read by its ID, stays
// locked from when it is read, and nothing else. Higher levels are correct too, but
// PostgreSQL may end the transaction with a serialization failure, and MariaDB, whose
// default is REPEATABLE READ, also locks the gaps beside the key, so that callers who
// issue or rotate a neighbouring key wait until the transaction ends.
//
// If tx is nil, which is what a failed BeginTx returns, every method returns ErrInvalid.
func (s *Store) In(tx *sql.Tx) apikey.Store {
	if tx == nil {
		return noTx{}
	}
	joined := *s
	joined.tx = tx
	joined.sql.get = s.sql.getLocked
	return &joined
}

// InTransaction reports whether [Store.In] returned this Store, so that
// apikey.Manager.Tx can refuse a Store that would commit each call by itself.
func (s *Store) InTransaction() bool { return s.tx != nil }
