package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/go-apikey/apikey"
)

// setting is a setting of a session with which this package would read or write a key
// incorrectly, and which none of its statements can make harmless. Each engine's file has
// a table of settings. [New] refuses a session that has one of them. But a pool opens
// more connections later, and a server may give those other settings (MariaDB's
// init_connect, PostgreSQL's ALTER ROLE … SET). So every query that a decision depends on
// checks the settings in the same SELECT; see [verdict].
type setting struct {
	// needs is a variable that not every server has, or "". A server without the variable
	// does not have the setting.
	needs string
	// unfit is a condition in SQL, true in a session that has the setting.
	unfit string
	// value is SQL for the value of %s in why, or "".
	value string
	why   string // the setting, and its consequence
	cure  string // the parameter of the DSN that corrects it
}

// refusal returns the text for a refused session: why, and what to add to the DSN.
func (s setting) refusal(value string) string {
	why := s.why
	if s.value != "" {
		why = fmt.Sprintf(why, value)
	}
	return why + ": add " + s.cure + " to the DSN"
}

// verdict is the result of a query about the session and the server that answer it: 0 if
// the answer may be used, lags, or the number of a refused setting in the engine's table,
// from 1.
type verdict int64

// lags: the server is not the primary, and may lack acknowledged changes.
const lags verdict = -1

// verdictSQL returns an SQL expression for the verdict. lagging is the condition for
// lags, or "" for a query that any server may answer.
func verdictSQL(all []setting, lagging string) string {
	var b strings.Builder
	b.WriteString("CASE")
	for i, s := range all {
		fmt.Fprintf(&b, " WHEN %s THEN %d", s.unfit, i+1)
	}
	if lagging != "" {
		fmt.Fprintf(&b, " WHEN %s THEN %d", lagging, lags)
	}
	b.WriteString(" ELSE 0 END")
	return b.String()
}

// err returns nil if the answer of the session and the server may be used.
func (v verdict) err() error {
	switch v {
	case 0:
		return nil
	case lags:
		return errLagging
	}
	return unfitError(v)
}

// errLagging: a standby answered. If a key is missing there, or not changed, that proves
// nothing.
var errLagging = errors.New("a replica answered, which may lack the newest changes: connect to the primary")

// unfitError is the number of a refused setting; [Store.failure] makes the text.
type unfitError int64

func (e unfitError) Error() string { return "a session with unfit settings answered" }

// errUnfit: an INSERT failed (see unfitWrite), because the session has a refused setting
// or its server lags.
var errUnfit = errors.New("a connection of the pool is to a replica, or has settings with which New refuses a database, so nothing was written: open the database again and call New, which says what to add to the DSN")

// unfitLater returns the text for a connection of the pool that has a refused setting,
// which the connection that New checked did not have.
func unfitLater(all []setting, n unfitError) string {
	return "a connection of the pool has other settings than New found, perhaps by init_connect or ALTER ROLE, and is not believed; " +
		all[n-1].refusal("another one")
}

// session has the settings that an engine checks, and the SQL that checks them.
type session struct {
	all []setting
	fit string // SQL of the verdict on the session alone
	// node is SQL of the verdict on the session and the server, for queries that a
	// decision depends on.
	node string
}

// newSession returns a session with the settings that the server has. lagging is the
// condition for lags.
func newSession(all []setting, lagging string) *session {
	return &session{all, "(" + verdictSQL(all, "") + ")", "(" + verdictSQL(all, lagging) + ")"}
}

func (s *session) settings() []setting { return s.all }

// checkSettings returns an error for a session that has one of the settings.
func (s *session) checkSettings(ctx context.Context, c *sql.Conn, hint string) error {
	var v verdict
	if err := c.QueryRowContext(ctx, "SELECT "+s.fit+" LIMIT 1").Scan(&v); err != nil {
		return err
	}
	if v == 0 {
		return nil
	}
	found, value := s.all[v-1], ""
	if found.value != "" {
		if err := c.QueryRowContext(ctx, "SELECT "+found.value+" LIMIT 1").Scan(&value); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: sqlstore: %s%s", apikey.ErrInvalid, found.refusal(value), hint)
}
