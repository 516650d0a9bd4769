package sqlstore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// The store tries again if another transaction is in the way, after the errors of MariaDB
// and those of MySQL 8, which has a number of its own for NOWAIT.
func TestMySQLTriesAgain(t *testing.T) {
	for number, passes := range map[int]bool{1213: true, 1205: true, 3572: true, 1020: true, 1927: true, 1054: false} {
		t.Run(fmt.Sprint(number), func(t *testing.T) {
			server := &scripted{refusal: fmt.Errorf("Error %d (HY000): what it says", number)}
			db := sql.OpenDB(server)
			t.Cleanup(func() { db.Close() })
			s, err := sqlstore.New(db, sqlstore.MySQL)
			require.NoError(t, err)
			err = s.Upkeep(context.Background(), []apikey.StoreUpkeep{{Credential: storetest.NewCredentialID(), OldHash: "a", NewHash: "b"}})
			if !passes {
				require.ErrorIs(t, err, apikey.ErrUnavailable)
				require.Equal(t, 1, server.claims)
				return
			}
			require.NoError(t, err)
			require.Equal(t, 2, server.claims)
		})
	}
}

// scripted is a driver that answers like a MySQL server with the right settings. The
// first query that locks rows is refused.
type scripted struct {
	refusal error
	claims  int
}

func (s *scripted) Connect(context.Context) (driver.Conn, error)                 { return s, nil }
func (s *scripted) Driver() driver.Driver                                        { return nil }
func (s *scripted) Prepare(query string) (driver.Stmt, error)                    { return nil, driver.ErrSkip }
func (s *scripted) Close() error                                                 { return nil }
func (s *scripted) Begin() (driver.Tx, error)                                    { return s, nil }
func (s *scripted) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) { return s, nil }
func (s *scripted) Commit() error                                                { return nil }
func (s *scripted) Rollback() error                                              { return nil }

func (s *scripted) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), nil
}

func (s *scripted) QueryContext(_ context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	switch {
	case strings.HasPrefix(query, "SELECT TIMESTAMP"):
		return &lines{{time.Date(2001, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2001, 7, 2, 3, 4, 5, 0, time.UTC)}}, nil
	case strings.HasPrefix(query, "SELECT @@"):
		return nil, errors.New("Error 1193 (HY000): Unknown system variable")
	case strings.HasPrefix(query, "SELECT (CASE"):
		return &lines{{int64(0)}}, nil
	case query == "SELECT DATABASE() LIMIT 1":
		return &lines{{"shop"}}, nil
	case strings.HasSuffix(query, "FOR UPDATE NOWAIT"):
		if s.claims++; s.claims == 1 {
			return nil, s.refusal
		}
		return &lines{}, nil
	}
	return nil, fmt.Errorf("not in the script: %s", query)
}

// lines are the rows of a result.
type lines [][]driver.Value

func (l *lines) Columns() []string {
	if len(*l) == 0 {
		return nil
	}
	return make([]string, len((*l)[0]))
}

func (l *lines) Close() error { return nil }

func (l *lines) Next(dest []driver.Value) error {
	if len(*l) == 0 {
		return io.EOF
	}
	copy(dest, (*l)[0])
	*l = (*l)[1:]
	return nil
}
