package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
)

// Dialect is the SQL of one kind of database, for [New] and [Schema]. The package has one
// Dialect for each engine that it supports. New refuses the zero Dialect.
type Dialect struct {
	engine engine
	prefix string
}

// defaultPrefix begins the name of every table and index in the SQL of this package.
const defaultPrefix = "apikey_"

// WithPrefix returns the dialect for tables and indexes whose names begin with prefix
// instead of "apikey_", so that two sets of keys fit in one database. prefix has 1 to
// 30 lower-case letters, digits and '_', the first a letter; New refuses others with
// ErrInvalid.
func (d Dialect) WithPrefix(prefix string) Dialect {
	d.prefix = prefix
	return d
}

var prefixForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,29}$`)

func (d Dialect) validate() error {
	switch {
	case d.engine == nil:
		return fmt.Errorf("%w: sqlstore: choose a dialect, such as sqlstore.SQLite", apikey.ErrInvalid)
	case !prefixForm.MatchString(d.prefix) || strings.HasPrefix(d.prefix, "sqlite_"):
		return fmt.Errorf("%w: sqlstore: prefix %.40q: want 1 to 30 of a-z, 0-9 and '_', beginning with a letter, and not sqlite_", apikey.ErrInvalid, d.prefix)
	}
	return nil
}

// named puts the dialect's prefix into the names of the statement's tables and indexes.
// The rest of the statement is written by each dialect as its engine needs it.
func (d Dialect) named(statement string) string {
	if d.prefix == defaultPrefix {
		return statement
	}
	return strings.ReplaceAll(statement, defaultPrefix, d.prefix)
}

// engine has everything that differs between databases. Each implementation is a file of
// its own, in the same order as the others.
type engine interface {
	// name names the engine's folder in schema.
	name() string
	// open returns the engine for the server that db reaches. An error that wraps
	// ErrInvalid says how to open db instead; any other error means that the database was
	// not reached. The methods below that write SQL need the engine that open returned.
	open(ctx context.Context, db *sql.DB) (engine, error)
	// settings returns the refused settings of a session, which queries check.
	settings() []setting

	statements() statements
	// builder returns a builder that writes placeholders in the engine's form.
	builder() *builder
	list(f apikey.StoreFilter, after *position, limit int) query
	// contains adds the condition that a name contains part, ignoring the case of ASCII
	// letters.
	contains(b *builder, part string)
	// items selects the verdict and then the columns of each item: see statements.get.
	// locked is only set together with f.ID: nobody else can then change the item until
	// the transaction ends.
	items(f apikey.StoreItemFilter, limit int, locked bool) query
	// claim locks the credentials that Upkeep will write. If another transaction has
	// locked one of them, the query does not wait but fails with a retryable error. The
	// query is empty if no other transaction can have locked one (SQLite).
	claim([]apikey.CredentialID) query
	// claimUses is claim for those credentials whose last use touch would write; it
	// returns a row for each. The other credentials are not locked, or unlocked at once:
	// if many nodes report a use of one credential, most of them find it written already.
	claimUses([]use) query
	// touch writes last_used; see use.
	touch([]use) query

	// changed implements Changed. The limit is in its range.
	changed(ctx context.Context, s *Store, after apikey.Cursor, limit int) (apikey.StoreChanges, error)
	// exclusively runs work while no other process migrates: in one transaction, where
	// the engine can roll DDL back.
	exclusively(ctx context.Context, db *sql.DB, work func(conn) error) error

	// isolation returns the level of the transactions that the store begins.
	isolation() sql.IsolationLevel
	// moment returns a time as an argument for the drivers.
	moment(moment) any
	// latest returns the last time that a column can hold.
	latest() time.Time

	// duplicate reports whether an INSERT failed because its row exists. It is only
	// needed where the statement cannot avoid that error (ON CONFLICT DO NOTHING).
	duplicate(error) bool
	// embedded reports whether the engine runs in this process.
	embedded() bool
	// retryable reports whether another attempt may succeed: the transaction failed
	// because of another one, or the server ended this connection.
	retryable(error) bool
	// unfitWrite reports whether an INSERT failed because the session, or its server,
	// must not be written to.
	unfitWrite(error) bool
	// noTable reports whether the statement names a table that does not exist.
	noTable(error) bool
}

// query is a statement with its arguments.
type query struct {
	sql  string
	args []any
	stmt *sql.Stmt // the same statement, if it is prepared
}

// statements are the statements whose text never changes. The comments name their
// arguments.
type statements struct {
	// These three return rows for recordRows. The first column is the [verdict]. If that
	// is not 0, they return a row even if no key was found: "not found" would be a guess.
	get       string // key
	getLocked string // the same; locks the key until the transaction ends
	lookup    string // credential
	// lock is a statement to run before getLocked, for an engine that cannot wait for the
	// key and then read its newest version in one statement; or "".
	lock string // key

	nextPlace string // event; "" where the feed has no counter

	// Apply writes only on the primary, and only in a session without refused settings.
	// The pool's next connection may reach another server, and a revocation that is
	// committed on a standby or subscriber stops nobody. On such a server or session
	// insertKey, insertItem and insertEvent fail (see unfitWrite), and the other writes
	// of Apply write no row (see verdict). Purge and Upkeep run verdict first.
	insertKey string // keyArgs, key; no row if it exists
	updateKey string // keyArgs, key, stored version

	// verdict selects the [verdict] on the session and its server, which says whether
	// they may be written to; "" where no other server exists (SQLite).
	verdict string

	credentialsOf    string // key; rows of an ID and the columns of changeable
	insertCredential string // changeable.args, upkeepArgs, credential, key; no row if it exists
	updateCredential string // changeable.args, credential
	dropCredential   string // credential
	unseal           string // key, 1 if revoked: clears all sealed copies; 0: those of ended credentials

	hasItem    string // kind, ID; one row: the verdict, whether the item exists
	insertItem string // itemArgs, kind, ID; no row if it exists
	updateItem string // itemArgs, kind, ID, stored version
	deleteItem string // kind, ID, stored version

	insertEvent string // eventArgs; no row if it exists
	hasEvent    string // ID; one row: the verdict, whether the event exists

	swapHash   string // new hash, new check, credential, old hash
	swapSealed string // new copy, new KEK, credential, old copy

	// purgeCredentials and purgeKeys choose the same keys, the earliest revoked first;
	// purgeItems deletes the earliest expired items.
	purgeCredentials string // before, limit
	purgeKeys        string // before, limit
	purgeItems       string // before, limit

	createMigrations string
	migrations       string // rows of number, checksum
	insertMigration  string // number, name, checksum, time
}

// builder writes a statement whose conditions depend on a filter.
type builder struct {
	mark func(n int) string // returns the placeholder of argument n, from 1
	fit  string             // SQL of the verdict on the session alone
	sql  strings.Builder
	args []any
	word string // before the next condition: WHERE, then AND

	latest time.Time // the last time that a column can hold
}

// arg adds an argument and returns its placeholder.
func (b *builder) arg(v any) string {
	b.args = append(b.args, v)
	return b.mark(len(b.args))
}

// add writes text unchanged.
func (b *builder) add(text ...string) {
	for _, t := range text {
		b.sql.WriteString(t)
	}
}

// where adds a condition. All conditions of a statement are added directly one after the
// other.
func (b *builder) where(text ...string) {
	if b.word == "" {
		b.word = " WHERE "
	}
	b.add(b.word)
	b.word = " AND "
	b.add(text...)
}

// comma returns the separator before element i of a list.
func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ", "
}

func (b *builder) query() query { return query{sql: b.sql.String(), args: b.args} }
