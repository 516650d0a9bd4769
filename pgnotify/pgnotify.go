// Package pgnotify tells all nodes of a program to read the change feed now, with
// LISTEN and NOTIFY of PostgreSQL. Its [Notifier] is an apikey.Notifier:
//
//	n, err := pgnotify.New(pgnotify.Config{Listen: dsn, DB: db})
//	…
//	defer n.Close()
//	settings := apikey.Settings{Notifier: n, …}
//
// A notification carries no data. So a forged notification causes one more poll and
// cannot bring a revoked key back. If a notification is lost, the change arrives up to
// one poll interval later, because Verifiers poll as well. While the listening
// connection is down, Wait returns an error, and the Notifier tries to reconnect. After
// it has reconnected, every Verifier polls once, because nobody knows which
// notifications were lost.
//
// LISTEN belongs to a session. A pooler in transaction mode gives the session to
// another client, so Config.Listen must name the database servers and not a pooler.
// Config.DB only sends notifications, and may go through a pooler.
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
	// Listen is the DSN of the listening connection, for github.com/jackc/pgx/v5. It
	// names the primary, or all hosts with target_session_attrs=read-write: a standby
	// gets no notifications, and a subscriber of logical replication does not get those
	// of the publisher. The session uses client_encoding UTF8, even if the DSN or the
	// role sets another. If the DSN sets no connect_timeout, its hosts share 5 s
	// equally. Empty: this process only sends notifications, and Wait returns an error.
	Listen string
	// DB is the program's own pool, with any driver. Notify sends through it. nil: this
	// process only listens, and Notify returns an error.
	DB *sql.DB
	// Channel is the name of the PostgreSQL channel, at most 63 bytes. Programs that use
	// one database with different keys need different channels. Empty: "apikey".
	Channel string
	Logger  *slog.Logger // nil: silent
}

const (
	// quiet is how long wait receives nothing before it pings the server. If a network
	// cable is pulled out, no packet reports that the connection has ended.
	quiet = 15 * time.Second
	// patience bounds connecting, and the ping.
	patience = 5 * time.Second
	// shortest and longest bound the pause between two attempts to connect.
	shortest, longest = 50 * time.Millisecond, 2 * time.Second
)

// Notifier is an apikey.Notifier. One Verifier and any number of Managers can use a
// Notifier; each further Verifier needs its own, from [Notifier.Share].
type Notifier struct {
	hub *hub

	mu   sync.Mutex
	seen uint64 // hub.count when Wait last returned nil
}

// hub is what all shares of a Notifier have in common: the listening connection.
type hub struct {
	cfg  Config
	dsn  *pgx.ConnConfig // nil: this process does not listen
	end  context.CancelFunc
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	count   uint64        // of notifications
	err     error         // why the hub does not listen now
	changed chan struct{} // closed, and replaced by a new one, when count or err changes
}

var (
	errNoListen = errors.New("pgnotify: Config.Listen is empty, so this process hears nothing")
	errNoDB     = errors.New("pgnotify: Config.DB is nil, so this process notifies nobody")
	errClosed   = errors.New("pgnotify: closed")
)

// New returns a Notifier. New does not wait for the connection: a goroutine opens it,
// and keeps it open until Close. New returns an error only for an invalid Config.
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
		if h.dsn, err = pgx.ParseConfig(c.Listen); err != nil { // pgx leaves the password out of this error
			return nil, fmt.Errorf("pgnotify: Config.Listen: %w", err)
		}
		h.dsn.RuntimeParams["client_encoding"] = "UTF8" // LISTEN sends the channel's name in UTF-8, so the role's setting must not apply
		if h.dsn.ConnectTimeout == 0 {                  // otherwise one host that drops packets uses up all of patience
			h.dsn.ConnectTimeout = patience / time.Duration(1+len(h.dsn.Fallbacks))
		}
		go h.run(ctx)
	}
	return &Notifier{hub: h}, nil
}

// Share returns another Notifier on the same connection, for another Verifier. Each of
// them gets every notification. To close one Notifier closes all of them.
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
	// The name is sent as bytes, so that it is the same if this session has another
	// encoding.
	if _, err := n.hub.cfg.DB.ExecContext(ctx, "SELECT pg_notify(convert_from($1::bytea, 'UTF8'), '')", []byte(n.hub.cfg.Channel)); err != nil {
		return fmt.Errorf("pgnotify: %w", err)
	}
	return nil
}

// Wait waits for a notification. Wait returns nil if there was one since it last
// returned nil, or if it may have missed one. Wait returns an error while the
// connection is down, and ctx.Err() if ctx is done first.
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

// tell reports whether count has changed since Wait last returned nil, and remembers it.
func (n *Notifier) tell(count uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if count == n.seen {
		return false
	}
	n.seen = count
	return true
}

// Close ends the connection and its goroutine. After Close, Wait returns an error.
// Notify still works, because Config.DB belongs to the caller.
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

// heard counts a notification. It is called for each notification, and when listening
// begins: notifications sent before that were not received.
func (h *hub) heard() {
	h.set(func(h *hub) {
		if h.err != nil {
			h.cfg.Logger.Info("pgnotify: listening again")
		}
		h.count, h.err = h.count+1, nil
	})
}

// fell records why listening has ended, or could not begin. The log gets one line for an
// outage, however long, and another line only if the reason changes.
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
		if time.Since(begun) > longest { // the connection was up
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

// listen connects and receives notifications. It returns when the connection is lost.
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

// wait returns nil when a notification arrives, and an error when the connection is
// lost.
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
