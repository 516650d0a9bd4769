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

// conn runs statements: a *sql.DB, *sql.Conn or *sql.Tx.
type conn interface {
	ExecContext(ctx context.Context, sql string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, sql string, args ...any) (*sql.Rows, error)
}

// reads returns the conn for a single query: the caller's transaction, or the database.
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

// bound returns the arguments as the engine's drivers take them. Engines differ only in
// times.
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

// read runs one query, with retries, and scans its rows into a T. Each attempt begins
// with a new T.
func read[T any](ctx context.Context, s *Store, op string, q query, scan func(*T, *sql.Rows) error) (result T, err error) {
	err = s.retry(ctx, op, func() error {
		result = *new(T)
		return s.endTx(s.each(ctx, s.reads(), q, func(rows *sql.Rows) error { return scan(&result, rows) }))
	})
	return result, err
}

// tries bounds the attempts at one operation. The pauses between them add up to less than
// half a second. An engine that waits for locks by itself adds its own time to each
// attempt, so no attempt begins later than retryTime after the first: otherwise the
// operation would wait ten times as long as the program has allowed the engine to.
// retryTime is longer than the second after which PostgreSQL finds a deadlock: its victim
// has waited for nothing that is still there. The context can end all of it earlier.
const (
	tries     = 10
	retryTime = 1500 * time.Millisecond
)

// retry runs one unit of work until it succeeds, or fails for a reason that another
// attempt would not remove. The work must be safe to repeat even after a commit whose
// answer was lost.
func (s *Store) retry(ctx context.Context, op string, work func() error) error {
	return s.retryFor(ctx, retryTime, op, work)
}

// retryFor is retry with another time after which no attempt begins.
func (s *Store) retryFor(ctx context.Context, most time.Duration, op string, work func() error) error {
	began := time.Now()
	for try := 1; ; try++ {
		err := work()
		again := err != nil && s.tx == nil && try < tries && time.Since(began) < most && s.mayPass(err)
		if !again || !pause(ctx, try) {
			return s.failure(ctx, op, err)
		}
	}
}

// mayPass reports whether another attempt may succeed.
func (s *Store) mayPass(err error) bool {
	var lost *lostAnswer
	return errors.As(err, &lost) || errors.Is(err, driver.ErrBadConn) || s.engine.retryable(err)
}

// pause waits a random time, longer after each attempt, so that two callers that collided
// do not collide again. It reports whether the context has not ended.
func pause(ctx context.Context, try int) bool {
	longest := min(time.Millisecond<<try, 100*time.Millisecond)
	return sleep(ctx, longest/2+rand.N(longest/2))
}

// sleep waits, and reports whether the context is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// lostAnswer is an error of COMMIT: it is unknown whether the transaction was committed.
type lostAnswer struct{ cause error }

func (e *lostAnswer) Error() string { return "commit: " + e.cause.Error() }

func (e *lostAnswer) Unwrap() error { return e.cause }

// atomically runs work in a transaction of its own, or between savepoints of the
// caller's: either all of its writes remain, or none.
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

// inside runs work between savepoints of the caller's transaction. It rolls back without
// the context: the context may be why work failed, and the writes of a failed work must
// not stay for the caller to commit. If rolling back fails too, inside ends the whole
// transaction.
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

// endTx rolls the caller's transaction back, unless err is nil or only about a damaged
// row. It returns err. After a deadlock, a full disk or an interrupt the engine may have
// rolled the transaction back already, and a later statement on that connection, by this
// package or by the caller, would be committed by itself.
func (s *Store) endTx(err error) error {
	if err != nil && s.tx != nil && !errors.Is(err, apikey.ErrCorrupt) {
		s.tx.Rollback()
	}
	return err
}

// failure translates an error for the callers of a Store. Errors of this package have
// their meaning already; the others come from the driver.
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
