package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/go-apikey/apikey"
)

// setting is a setting of a session with which a key would be read or written
// otherwise than it is, and which no statement of this package can make
// harmless. Each engine's file has a table of them. [New] refuses a session that
// has one. A pool opens more connections later, though, and a server may give
// those other settings (MariaDB's init_connect, PostgreSQL's ALTER ROLE … SET).
// So every query that decides something asks for them in the same SELECT; see
// [verdict].
type setting struct {
	// needs is a variable that not every server has, "" for none. Where it is not
	// there, neither is the setting.
	needs string
	// unfit is a condition in SQL, true in a session that has the setting.
	unfit string
	// value is SQL for what takes the place of %s in why, or "".
	value string
	why   string // what the session has, and what would come of it
	cure  string // the parameter of the DSN that puts it right
}

// refusal says why a session with the setting is not used.
func (s setting) refusal(value string) string {
	why := s.why
	if s.value != "" {
		why = fmt.Sprintf(why, value)
	}
	return why + ": add " + s.cure + " to the DSN"
}

// verdict is what a query says of the session and the server that answer it: 0
// if they can be believed, lags, or the number of a setting in the engine's
// table, from 1.
type verdict int64

// lags: the server is not the one that decides, and may lack acknowledged
// changes.
const lags verdict = -1

// verdictSQL is an expression for the verdict. lagging is a condition, or "" for
// a query that may be answered by any server.
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

// err is nil for a session and a server that can be believed.
func (v verdict) err() error {
	switch v {
	case 0:
		return nil
	case lags:
		return errLagging
	}
	return unfitError(v)
}

// errLagging: a key that is not there, or is as it was, proves nothing here.
var errLagging = errors.New("a replica answered, which may lack the newest changes: connect to the primary")

// unfitError is the number of a setting; [Store.failure] has the words.
type unfitError int64

func (e unfitError) Error() string { return "a session with unfit settings answered" }

// errUnfit: a new key was not written, because the session that was to write it
// has one of the settings, or its server lags.
var errUnfit = errors.New("a connection of the pool is to a replica, or has settings with which New refuses a database, so nothing was written: open the database again and call New, which says what to add to the DSN")

// unfitLater says what a connection of the pool has that the one which New looked
// at had not.
func unfitLater(all []setting, n unfitError) string {
	return "a connection of the pool has other settings than New found, perhaps by init_connect or ALTER ROLE, and is not believed; " +
		all[n-1].refusal("another one")
}

// session is the settings that an engine asks about, and how.
type session struct {
	all []setting
	fit string // the verdict on the session, whichever server it is on
	// node is the verdict on the session and the server: whether a query may
	// decide something there.
	node string
}

// newSession has the settings that a server knows, and the condition by which it
// is not the one that decides.
func newSession(all []setting, lagging string) *session {
	return &session{all, "(" + verdictSQL(all, "") + ")", "(" + verdictSQL(all, lagging) + ")"}
}

func (s *session) settings() []setting { return s.all }

// checkSettings refuses a session that has one of the settings.
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
