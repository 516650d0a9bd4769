// Package pgnotify tells all nodes of a program to read the change feed now, with
// LISTEN and NOTIFY of PostgreSQL. Its [Notifier] is an apikey.Notifier:
//
//	n, err := pgnotify.New(pgnotify.Config{Listen: dsn, DB: db})
//	…
//	defer n.Close()
//	apikey.VerifierConfig{Notifier: n, …}
//	apikey.ManagerConfig{Notifier: n, …}
//
// A notification carries no data. So a forged one costs a poll and brings no key back,
// and a lost one costs a poll interval: Verifiers poll all the same. While the
// connection that listens is down, Wait returns an error, and the Notifier opens the
// connection again and again. When it is back, every Verifier polls once, because
// nobody knows which notifications were lost.
//
// LISTEN belongs to a session. A pooler in transaction mode gives the session to
// another client, so Config.Listen must name the servers themselves. DB only sends, and
// may be behind a pooler.
package pgnotify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Config configures [New]. At least one of Listen and DB is required.
type Config struct {
	// Listen is a DSN for github.com/jackc/pgx/v5 of the one connection that listens:
	// of the primary, or of all hosts with target_session_attrs=read-write. A standby
	// gets no notifications, and a subscriber of logical replication gets none of the
	// publisher's. The session's client_encoding is UTF8, whatever the DSN or the role
	// says. Without connect_timeout, the hosts share 5 s equally. Empty: this process
	// only notifies, and Wait returns an error.
	Listen string
	// DB is the program's own pool, with any driver; Notify uses it. nil: this process
	// only listens, and Notify returns an error.
	DB *sql.DB
	// Channel has at most 63 bytes. Programs that share a database but not their keys
	// need different channels. Empty: "apikey".
	Channel string
	Logger  *slog.Logger // nil: silent
}

const (
	// quiet is how long the connection may say nothing before it is asked whether
	// it is alive: a cable that is pulled out sends no farewell.
	quiet = 15 * time.Second
	// patience bounds connecting, and the answer to that question.
	patience = 5 * time.Second
	// Between attempts to connect.
	shortest, longest = 50 * time.Millisecond, 2 * time.Second
)

// Notifier is an apikey.Notifier. It is for one Verifier and any number of Managers;
// each further Verifier needs its own from [Notifier.Share].
type Notifier struct {
	hub *hub

	mu   sync.Mutex
	seen uint64 // what Wait has told
}

// hub has the connection that all shares of a Notifier listen to.
type hub struct {
	cfg  Config
	dsn  *pgx.ConnConfig // nil: nobody listens
	end  context.CancelFunc
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	count   uint64        // of notifications
	err     error         // why nothing can be heard now
	changed chan struct{} // closed and made anew when one of the two changes
}

var (
	errNoListen = errors.New("pgnotify: Config.Listen is empty, so this process hears nothing")
	errNoDB     = errors.New("pgnotify: Config.DB is nil, so this process notifies nobody")
	errClosed   = errors.New("pgnotify: closed")
)

// New returns a Notifier. New does not wait for the connection: a goroutine opens it,
// and keeps it open until Close. The error is about the Config alone.
func New(c Config) (*Notifier, error) {
	if c.Channel == "" {
		c.Channel = "apikey"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	h := &hub{cfg: c, done: make(chan struct{}), changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	h.end = cancel
	switch {
	case len(c.Channel) > 63:
		return nil, fmt.Errorf("pgnotify: channel %.70q is longer than 63 bytes", c.Channel)
	case c.Listen == "" && c.DB == nil:
		return nil, errors.New("pgnotify: set Config.Listen, Config.DB or both")
	case c.Listen == "":
		h.err = errNoListen
		close(h.done)
	default:
		var err error
		if h.dsn, err = pgx.ParseConfig(c.Listen); err != nil { // pgx leaves the password out of it
			return nil, fmt.Errorf("pgnotify: Config.Listen: %w", err)
		}
		h.dsn.RuntimeParams["client_encoding"] = "UTF8" // as which the channel's name is sent, whatever the role is set to
		if h.dsn.ConnectTimeout == 0 {                  // else a host that swallows packets takes all of patience
			h.dsn.ConnectTimeout = patience / time.Duration(1+len(h.dsn.Fallbacks))
		}
		go h.run(ctx)
	}
	return &Notifier{hub: h}, nil
}

// Share returns another Notifier on the same connection, for another Verifier: each
// gets every notification. Close of one closes all.
func (n *Notifier) Share() *Notifier {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &Notifier{hub: n.hub, seen: n.seen}
}

// Notify tells every node that listens, including this one, that something changed.
func (n *Notifier) Notify(ctx context.Context) error {
	if n.hub.cfg.DB == nil {
		return errNoDB
	}
	// As bytes the name is the same in a session of another encoding.
	if _, err := n.hub.cfg.DB.ExecContext(ctx, "SELECT pg_notify(convert_from($1::bytea, 'UTF8'), '')", []byte(n.hub.cfg.Channel)); err != nil {
		return fmt.Errorf("pgnotify: %w", err)
	}
	return nil
}

// Wait returns nil if somebody has notified since its last return, or if it may have
// missed a notification. It returns an error while the connection is down, and
// ctx.Err() if ctx is done first.
func (n *Notifier) Wait(ctx context.Context) error {
	for {
		n.hub.mu.Lock()
		count, err, changed := n.hub.count, n.hub.err, n.hub.changed
		n.hub.mu.Unlock()
		if n.tell(count) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// tell reports whether there is something that this share was not told yet.
func (n *Notifier) tell(count uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if count == n.seen {
		return false
	}
	n.seen = count
	return true
}

// Close ends the connection and its goroutine. Wait then returns an error; Notify still
// works, since DB is the caller's.
func (n *Notifier) Close() {
	n.hub.end()
	<-n.hub.done
	n.hub.set(func(h *hub) { h.err = errClosed })
}

func (h *hub) set(change func(*hub)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
	close(h.changed)
	h.changed = make(chan struct{})
}

// heard is called for a notification, and when listening begins: what was sent
// before that went to nobody.
func (h *hub) heard() {
	h.set(func(h *hub) {
		if h.err != nil {
			h.cfg.Logger.Info("pgnotify: listening again")
		}
		h.count, h.err = h.count+1, nil
	})
}

// fell is called when listening has ended, or did not begin. An outage of an hour
// is a line of the log, and another when it has another reason.
func (h *hub) fell(err error) {
	h.set(func(h *hub) {
		before := h.err
		h.err = fmt.Errorf("pgnotify: not listening: %w", err)
		if before == nil || before.Error() != h.err.Error() {
			h.cfg.Logger.Warn("pgnotify: not listening, Verifiers poll", "error", err)
		}
	})
}

func (h *hub) run(ctx context.Context) {
	defer close(h.done)
	for pause := shortest; ctx.Err() == nil; pause = min(2*pause, longest) {
		begun := time.Now()
		err := h.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		h.fell(err)
		if time.Since(begun) > longest { // it was up
			pause = shortest
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// listen returns when the connection is dead.
func (h *hub) listen(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.ConnectConfig(bounded, h.dsn.Copy())
	if err != nil {
		return err
	}
	defer func() {
		farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(farewell)
	}()
	if _, err := conn.Exec(bounded, "LISTEN "+pgx.Identifier{h.cfg.Channel}.Sanitize()); err != nil {
		return err
	}
	for h.heard(); ; h.heard() {
		if err := wait(ctx, conn); err != nil {
			return err
		}
	}
}

// wait returns nil at a notification.
func wait(ctx context.Context, conn *pgx.Conn) error {
	for {
		bounded, cancel := context.WithTimeout(ctx, quiet)
		_, err := conn.WaitForNotification(bounded)
		expired := bounded.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !expired {
			return err
		}
		bounded, cancel = context.WithTimeout(ctx, patience)
		err = conn.Ping(bounded)
		cancel()
		if err != nil {
			return err
		}
	}
}
