package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-apikey/apikey"
)

// conn runs statements: a *sql.DB, or a *sql.Tx.
type conn interface {
	ExecContext(ctx context.Context, sql string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, sql string, args ...any) (*sql.Rows, error)
}

// reads is where a single query runs.
func (s *Store) reads() conn {
	if s.tx != nil {
		return s.tx
	}
	return s.db
}

// exec runs one statement and returns the number of rows that it wrote.
func (s *Store) exec(ctx context.Context, c conn, statement string, args ...any) (int64, error) {
	result, err := c.ExecContext(ctx, s.dialect.named(statement), s.bound(args)...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// bound are the arguments as the engine takes them: its drivers agree about
// everything but times.
func (s *Store) bound(args []any) []any {
	all := make([]any, len(args))
	for i, arg := range args {
		if m, ok := arg.(moment); !ok {
			all[i] = arg
		} else if m.valid {
			all[i] = s.engine.moment(m)
		}
	}
	return all
}

// each runs one query and calls scan for every row.
func (s *Store) each(ctx context.Context, c conn, q query, scan func(*sql.Rows) error) error {
	ask := func(args ...any) (*sql.Rows, error) { return c.QueryContext(ctx, s.dialect.named(q.sql), args...) }
	if q.stmt != nil {
		ask = func(args ...any) (*sql.Rows, error) { return q.stmt.QueryContext(ctx, args...) }
	}
	rows, err := ask(s.bound(q.args)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// read runs one query, again if need be, and scans its rows into a T, which is
// new at every attempt.
func read[T any](ctx context.Context, s *Store, op string, q query, scan func(*T, *sql.Rows) error) (result T, err error) {
	err = s.retry(ctx, op, func() error {
		result = *new(T)
		return s.endTx(s.each(ctx, s.reads(), q, func(rows *sql.Rows) error { return scan(&result, rows) }))
	})
	return result, err
}

// tries bounds how often one operation is begun. The pauses between them add up
// to less than half a second; an engine that waits for locks by itself adds its
// own time to each, and the context cuts all of it short.
const tries = 10

// retry runs one unit of work until it succeeds or fails for a reason that
// another attempt would not remove. Work must be safe to repeat even when it
// was committed and the answer was lost.
func (s *Store) retry(ctx context.Context, op string, work func() error) error {
	for try := 1; ; try++ {
		err := work()
		again := err != nil && s.tx == nil && try < tries && s.mayPass(err)
		if !again || !pause(ctx, try) {
			return s.failure(ctx, op, err)
		}
	}
}

// mayPass reports whether the next attempt may fare better.
func (s *Store) mayPass(err error) bool {
	var lost *lostAnswer
	return errors.As(err, &lost) || errors.Is(err, driver.ErrBadConn) || s.engine.retryable(err)
}

// pause waits a random time, longer after each attempt, so that those who met
// once do not meet again. It reports whether the context is still alive.
func pause(ctx context.Context, try int) bool {
	longest := min(time.Millisecond<<try, 100*time.Millisecond)
	timer := time.NewTimer(longest/2 + rand.N(longest/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// lostAnswer is an error of COMMIT: nobody knows whether it happened.
type lostAnswer struct{ cause error }

func (e *lostAnswer) Error() string { return "commit: " + e.cause.Error() }

func (e *lostAnswer) Unwrap() error { return e.cause }

// atomically runs work in a transaction of its own, or between savepoints of
// the caller's: all that it writes is there afterwards, or nothing.
func (s *Store) atomically(ctx context.Context, work func(conn) error) error {
	if s.tx != nil {
		return s.inside(ctx, work)
	}
	return transact(ctx, s.db, s.engine.isolation(), work)
}

func transact(ctx context.Context, db *sql.DB, level sql.IsolationLevel, work func(conn) error) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: level})
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	if err := work(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return &lostAnswer{err}
	}
	return nil
}

// inside undoes without the context: it may be why work failed, and what work
// has written so far must not stay behind for the caller to commit. What cannot
// be undone is over.
func (s *Store) inside(ctx context.Context, work func(conn) error) error {
	_, err := s.tx.ExecContext(ctx, "SAVEPOINT apikey_store")
	if err != nil {
		return err
	}
	if err = work(s.tx); err == nil {
		_, err = s.tx.ExecContext(ctx, "RELEASE SAVEPOINT apikey_store")
	}
	if err == nil {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	for _, undo := range []string{"ROLLBACK TO SAVEPOINT apikey_store", "RELEASE SAVEPOINT apikey_store"} {
		if _, failed := s.tx.ExecContext(ctx, undo); failed != nil {
			return s.endTx(fmt.Errorf("the transaction is rolled back, it may have held half of a change: %w (after: %w)", failed, err))
		}
	}
	return err
}

// endTx ends the caller's transaction, if err is about more than a row. A deadlock,
// a full disk or an interrupt may have had the engine roll it back already, and
// whatever was said next on that connection, by us or by the caller, would be
// committed alone.
func (s *Store) endTx(err error) error {
	if err != nil && s.tx != nil && !errors.Is(err, apikey.ErrCorrupt) {
		s.tx.Rollback()
	}
	return err
}

// failure says what an error means to the callers of a Store. Those that this
// package made say so already; the others come from the driver.
func (s *Store) failure(ctx context.Context, op string, err error) error {
	var unfit unfitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unfit):
		return fmt.Errorf("%w: sqlstore: %s: %s", apikey.ErrUnavailable, op, unfitLater(s.engine.settings(), unfit))
	case errors.Is(err, apikey.ErrConflict), errors.Is(err, apikey.ErrInvalid), errors.Is(err, ErrNewerSchema), errors.Is(err, errTampered):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("apikey: sqlstore: %s: %w", op, ctx.Err())
	case s.engine.noTable(err):
		return fmt.Errorf("%w: sqlstore: %s: the tables do not exist, call Store.Migrate when the program starts: %w", apikey.ErrUnavailable, op, err)
	}
	return fmt.Errorf("%w: sqlstore: %s: %w", apikey.ErrUnavailable, op, err)
}
