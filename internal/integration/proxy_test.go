package integration

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
	"testing"
)

// proxy is a driver between database/sql and another one. It sees every call,
// and a fault may keep it from happening, or lose its answer.
type proxy struct {
	inner driver.Connector

	mu    sync.Mutex
	calls []sent
	fault func(n int, c sent) effect // n from 1; nil: none
}

// sent is one call of the driver: a statement, "BEGIN", "COMMIT" or "ROLLBACK".
type sent struct {
	sql  string
	args []driver.NamedValue
}

// effect is what becomes of a call.
type effect struct {
	early bool // it does not happen
	late  bool // it happens, and its answer is lost
	cut   bool // and with it goes the connection
}

var (
	errFault = errors.New("injected: something went wrong")
	errCut   = errors.New("injected: connection reset by peer")
)

func (f effect) err() error {
	if f.cut {
		return errCut
	}
	return errFault
}

// proxied opens a database through a proxy.
func (e engine) proxied(t *testing.T, dsn string) (*sql.DB, *proxy) {
	t.Helper()
	db, p, err := e.behindProxy(dsn)
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return db, p
}

func (e engine) behindProxy(dsn string) (*sql.DB, *proxy, error) {
	plain, err := sql.Open(e.driver, dsn) // which opens no connection yet
	if err != nil {
		return nil, nil, err
	}
	defer plain.Close()
	p := &proxy{inner: plainConnector{plain.Driver(), dsn}}
	if dc, ok := plain.Driver().(driver.DriverContext); ok {
		p.inner, err = dc.OpenConnector(dsn)
	}
	return sql.OpenDB(p), p, err
}

type plainConnector struct {
	driver driver.Driver
	dsn    string
}

func (c plainConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c plainConnector) Driver() driver.Driver                        { return c.driver }

// record forgets what was called, sets the fault (nil: none) and counts anew.
func (p *proxy) record(fault func(n int, c sent) effect) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls, p.fault = nil, fault
}

func (p *proxy) seen() []sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

func (p *proxy) decide(c sent) effect {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, c)
	if p.fault == nil {
		return effect{}
	}
	return p.fault(len(p.calls), c)
}

func (p *proxy) Driver() driver.Driver { return p.inner.Driver() }

func (p *proxy) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.inner.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &proxyConn{Conn: c, p: p}, nil
}

type proxyConn struct {
	driver.Conn
	p    *proxy
	dead bool
}

// through makes one call. close ends what the call answered with.
func through[T any](c *proxyConn, what sent, do func() (T, error), undo func(T)) (result T, err error) {
	if c.dead {
		return result, driver.ErrBadConn
	}
	f := c.p.decide(what)
	if !f.early {
		result, err = do()
	}
	if f.early || f.late && err == nil {
		if f.late {
			undo(result)
		}
		var none T
		result, err = none, f.err()
	}
	if f.cut {
		c.dead = true
		c.Conn.Close()
	}
	return result, err
}

func (c *proxyConn) Close() error {
	if c.dead {
		return nil
	}
	return c.Conn.Close()
}

func (c *proxyConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := through(c, sent{sql: "BEGIN"}, func() (driver.Tx, error) { return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, o) },
		func(tx driver.Tx) { tx.Rollback() }) // as a driver has to: database/sql knows of no transaction
	if err != nil {
		return nil, err
	}
	return &proxyTx{tx, c}, nil
}

func (c *proxyConn) ExecContext(ctx context.Context, s string, args []driver.NamedValue) (driver.Result, error) {
	return through(c, sent{s, args}, func() (driver.Result, error) { return c.Conn.(driver.ExecerContext).ExecContext(ctx, s, args) },
		func(driver.Result) {})
}

func (c *proxyConn) QueryContext(ctx context.Context, s string, args []driver.NamedValue) (driver.Rows, error) {
	return through(c, sent{s, args}, func() (driver.Rows, error) {
		return c.Conn.(driver.QueryerContext).QueryContext(ctx, s, args)
	}, func(rows driver.Rows) { rows.Close() })
}

// PrepareContext is no call: what counts is the statement when it runs, and it is
// only then that the engine sees it.
func (c *proxyConn) PrepareContext(_ context.Context, s string) (driver.Stmt, error) {
	return &proxyStmt{c, s}, nil
}

type proxyStmt struct {
	c   *proxyConn
	sql string
}

func (s *proxyStmt) Close() error  { return nil }
func (s *proxyStmt) NumInput() int { return -1 }

func (s *proxyStmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }
func (s *proxyStmt) Query([]driver.Value) (driver.Rows, error)  { return nil, driver.ErrSkip }

func (s *proxyStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.QueryContext(ctx, s.sql, args)
}

func (c *proxyConn) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := c.Conn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (c *proxyConn) ResetSession(ctx context.Context) error {
	if c.dead {
		return driver.ErrBadConn
	}
	if r, ok := c.Conn.(driver.SessionResetter); ok {
		return r.ResetSession(ctx)
	}
	return nil
}

func (c *proxyConn) IsValid() bool {
	if v, ok := c.Conn.(driver.Validator); ok && !c.dead {
		return v.IsValid()
	}
	return !c.dead
}

type proxyTx struct {
	driver.Tx
	c *proxyConn
}

func (tx *proxyTx) Commit() error {
	done := false
	_, err := through(tx.c, sent{sql: "COMMIT"}, func() (any, error) {
		done = true
		return nil, tx.Tx.Commit()
	}, func(any) {})
	if !done && !tx.c.dead {
		tx.Tx.Rollback() // as a driver has to: database/sql calls the transaction over
	}
	return err
}

func (tx *proxyTx) Rollback() error {
	if tx.c.dead {
		return driver.ErrBadConn
	}
	_, err := through(tx.c, sent{sql: "ROLLBACK"}, func() (any, error) { return nil, tx.Tx.Rollback() }, func(any) {})
	return err
}
