package sqlstore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy is a driver between database/sql and SQLite. It sees every call and can make the
// call fail. Calls are counted from 1.
type proxy struct {
	dsn    string
	driver driver.Driver

	mu    sync.Mutex
	calls []call
	// fault decides about a call. With an error before, the call never reaches SQLite;
	// with an error after, it succeeds there and its answer is lost.
	fault func(n int, c call) (before, after error)
	// rows is called before each row of a query is read, and can make that read fail.
	rows func() error
}

// call is one call of the driver: a statement, "BEGIN", "COMMIT" or "ROLLBACK".
type call struct {
	sql  string
	args []driver.NamedValue
}

// proxyDB opens path through a proxy.
func proxyDB(t *testing.T, path string) (*sql.DB, *proxy) {
	t.Helper()
	p := &proxy{dsn: "file:" + path + settings, driver: openDB(t, path).Driver()}
	db := sql.OpenDB(p)
	t.Cleanup(func() { db.Close() })
	return db, p
}

// record deletes the calls seen so far, sets the fault (nil: none) and counts from 1
// again.
func (p *proxy) record(fault func(n int, c call) (before, after error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls, p.fault = nil, fault
}

func (p *proxy) seen() []call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

func (p *proxy) decide(c call) (before, after error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, c)
	if p.fault == nil {
		return nil, nil
	}
	return p.fault(len(p.calls), c)
}

// through makes one call.
func through[T any](p *proxy, c call, do func() (T, error)) (result T, err error) {
	before, after := p.decide(c)
	if before != nil {
		return result, before
	}
	result, err = do()
	if err == nil && after != nil {
		if rows, ok := any(result).(driver.Rows); ok {
			rows.Close()
		}
		err = after
	}
	return result, err
}

func (p *proxy) Driver() driver.Driver { return p.driver }

func (p *proxy) Connect(context.Context) (driver.Conn, error) {
	c, err := p.driver.Open(p.dsn)
	if err != nil {
		return nil, err
	}
	return &proxyConn{c.(sqliteConn), p}, nil
}

type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

type proxyConn struct {
	sqliteConn
	p *proxy
}

func (c *proxyConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := through(c.p, call{sql: "BEGIN"}, func() (driver.Tx, error) {
		tx, err := c.sqliteConn.BeginTx(ctx, o)
		if err != nil {
			return nil, err // not tx: it is a nil pointer here, which is no nil interface
		}
		return tx, nil
	})
	if err != nil && tx != nil {
		tx.Rollback() // a driver has to: database/sql has no transaction to end
	}
	return &proxyTx{tx, c.p}, err
}

func (c *proxyConn) ExecContext(ctx context.Context, s string, args []driver.NamedValue) (driver.Result, error) {
	return through(c.p, call{s, args}, func() (driver.Result, error) { return c.sqliteConn.ExecContext(ctx, s, args) })
}

func (c *proxyConn) QueryContext(ctx context.Context, s string, args []driver.NamedValue) (driver.Rows, error) {
	return through(c.p, call{s, args}, func() (driver.Rows, error) {
		rows, err := c.sqliteConn.QueryContext(ctx, s, args)
		if c.p.rows != nil && err == nil {
			rows = &proxyRows{rows, c.p}
		}
		return rows, err
	})
}

// PrepareContext is not counted as a call. The statement is, when it runs.
func (c *proxyConn) PrepareContext(_ context.Context, s string) (driver.Stmt, error) {
	stmt, err := c.sqliteConn.Prepare(s)
	if err != nil {
		return nil, err
	}
	return &proxyStmt{stmt, c, s}, nil
}

type proxyStmt struct {
	driver.Stmt
	c   *proxyConn
	sql string
}

func (s *proxyStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.QueryContext(ctx, s.sql, args)
}

type proxyRows struct {
	driver.Rows
	p *proxy
}

func (r *proxyRows) Next(row []driver.Value) error {
	if err := r.p.rows(); err != nil {
		return err
	}
	return r.Rows.Next(row)
}

type proxyTx struct {
	driver.Tx
	p *proxy
}

func (tx *proxyTx) Commit() error {
	done := false
	_, err := through(tx.p, call{sql: "COMMIT"}, func() (any, error) {
		done = true
		return nil, tx.Tx.Commit()
	})
	if !done {
		tx.Tx.Rollback() // a driver has to: for database/sql the transaction has ended
	}
	return err
}

func (tx *proxyTx) Rollback() error {
	_, err := through(tx.p, call{sql: "ROLLBACK"}, func() (any, error) { return nil, tx.Tx.Rollback() })
	return err
}

// A proxy without a fault changes nothing.
func TestProxy(t *testing.T) {
	db, p := proxyDB(t, file(t))
	s := migrated(t, db)
	p.record(nil)
	create(t, s, "m1")
	calls := p.seen()
	require.Equal(t, "BEGIN", calls[0].sql)
	require.Equal(t, "COMMIT", calls[len(calls)-1].sql)
}
