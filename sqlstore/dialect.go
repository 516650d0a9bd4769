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

// Dialect is the SQL of one kind of database, for [New] and [Schema]. The
// package has one for each engine that it supports; the zero Dialect is none of
// them, and New refuses it.
type Dialect struct {
	engine engine
	prefix string
}

// defaultPrefix begins every name in the SQL of this package.
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

// named gives the tables and indexes of a statement their prefix. Everything
// else of a statement is written out by the dialect as the engine wants it.
func (d Dialect) named(statement string) string {
	if d.prefix == defaultPrefix {
		return statement
	}
	return strings.ReplaceAll(statement, defaultPrefix, d.prefix)
}

// engine is what Store cannot do alike on every database. Each implementation
// is a file of its own, of the same shape as the others.
type engine interface {
	// name is that of the folder below schema.
	name() string
	// open returns the engine for the server that db reaches, or reports how db
	// must be opened if it is not opened so. What wraps ErrInvalid is about db;
	// anything else is a failure to reach it. The methods below are of what open
	// returned.
	open(ctx context.Context, db *sql.DB) (engine, error)
	// settings are those of a session that queries ask about.
	settings() []setting

	statements() statements
	// builder writes arguments as the engine numbers them.
	builder() *builder
	list(f apikey.StoreFilter, after *position, limit int) query
	// contains adds the condition that a name has the part, whatever the case of
	// ASCII letters.
	contains(b *builder, part string)
	// items has a column before those of the item: see statements.get. What is
	// locked is one item, which nobody else can change until the transaction ends.
	items(f apikey.StoreItemFilter, limit int, locked bool) query
	// claim locks credentials for what Upkeep writes, or fails with what is
	// retryable where somebody else has one of them. "": nobody else can.
	claim([]apikey.CredentialID) query
	// claimUses is claim of those credentials that touch would write, for which it
	// has a row each. The others are only read, or are free again at once: most of
	// what many nodes ask for one of them has written.
	claimUses([]use) query
	// touch writes last_used; see use.
	touch([]use) query

	// changed is Changed, with a limit that is in range.
	changed(ctx context.Context, s *Store, after apikey.Cursor, limit int) (apikey.StoreChanges, error)
	// exclusively runs work while no other process migrates, in one transaction where
	// the engine's DDL can be rolled back.
	exclusively(ctx context.Context, db *sql.DB, work func(conn) error) error

	// isolation is of the transactions that the store begins.
	isolation() sql.IsolationLevel
	// moment is how a time is passed to the drivers.
	moment(moment) any
	// latest is the last time that a column holds.
	latest() time.Time

	// duplicate: an INSERT found that its row exists, where the engine has no way to
	// say that but an error.
	duplicate(error) bool
	// embedded: the engine runs in this process.
	embedded() bool
	// retryable: the transaction was rolled back for the sake of another one, or
	// the server ended this connection.
	retryable(error) bool
	// unfitWrite: an INSERT found that the session, or its server, is not to be written to.
	unfitWrite(error) bool
	// noTable: the statement names a table that is not there.
	noTable(error) bool
}

// query is a statement with its arguments.
type query struct {
	sql  string
	args []any
	stmt *sql.Stmt // the same statement, if it is prepared
}

// statements are those whose text never changes, with their arguments.
type statements struct {
	// Rows of recordRows. The first column of each is the [verdict], and where that
	// is not 0 there is such a row also where no key is: "not found" would be a
	// guess.
	get       string // key
	getLocked string // the same, and nobody else can change the key until the transaction ends
	lookup    string // credential
	// lock is what getLocked needs before it, where one statement cannot both wait
	// for the key and read what it waited for; or "".
	lock string // key

	nextPlace string // event; "" where the feed has no counter

	// What decides is written on the server that decides, and nowhere else: a pool may
	// reach another with its next connection, and a revocation that is committed on a
	// server that only follows stops nobody. insertKey, insertItem and insertEvent fail
	// there (see unfitWrite), and the other writes of Apply write no row (see verdict).
	// Purge and Upkeep ask first.
	insertKey string // keyArgs, key; no row if it exists
	updateKey string // keyArgs, key, version that is stored

	// verdict asks whether the session and its server may be written to; "" where there
	// is one server alone.
	verdict string

	credentialsOf    string // key; rows of credential and changeable
	insertCredential string // changeable.args, upkeepArgs, credential, key; no row if it exists
	updateCredential string // changeable.args, credential
	dropCredential   string // credential
	unseal           string // key, 1 if it is revoked: no sealed copy of what is dead

	hasItem    string // kind, ID; a row of the verdict, and whether it is there
	insertItem string // itemArgs, kind, ID; no row if it exists
	updateItem string // itemArgs, kind, ID, version that is stored
	deleteItem string // kind, ID, version that is stored

	insertEvent string // eventArgs; no row if it exists
	hasEvent    string // ID; a row of the verdict, and whether it is there

	swapHash   string // new hash, new check, credential, old hash
	swapSealed string // new copy, new KEK, credential, old copy

	// All three choose the same keys, the longest dead first.
	purgeCredentials string // before, limit
	purgeKeys        string // before, limit
	purgeItems       string // before, limit

	createMigrations string
	migrations       string // rows of number, checksum
	insertMigration  string // number, name, checksum, time
}

// builder writes a statement whose conditions depend on a filter.
type builder struct {
	mark func(n int) string // how argument n, from 1, is written
	fit  string             // the verdict on the session, whichever server it is on
	sql  strings.Builder
	args []any
	word string // what joins the next condition: WHERE, then AND

	latest time.Time // that a column of times holds
}

// arg takes an argument and returns how it is written.
func (b *builder) arg(v any) string {
	b.args = append(b.args, v)
	return b.mark(len(b.args))
}

// add writes text as it is.
func (b *builder) add(text ...string) {
	for _, t := range text {
		b.sql.WriteString(t)
	}
}

// where adds a condition. The conditions of one statement stand together.
func (b *builder) where(text ...string) {
	if b.word == "" {
		b.word = " WHERE "
	}
	b.add(b.word)
	b.word = " AND "
	b.add(text...)
}

// comma separates what is written in a loop.
func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ", "
}

func (b *builder) query() query { return query{sql: b.sql.String(), args: b.args} }
