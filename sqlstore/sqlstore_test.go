package sqlstore_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

func TestContractTwoNodesOneFile(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Backend {
		path := file(t)
		one, two := openDB(t, path), openDB(t, path)
		store := migrated(t, one)
		return storetest.Backend{
			Store: store, Other: newStore(t, two), Purge: store.Purge, In: inTx(one, store),
			Backup: func(t *testing.T) func(t *testing.T) { return backup(t, one, "apikey_") },
		}
	})
}

// With a prefix: a statement that does not use it finds no table.
func TestContractOneConnectionInMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Backend {
		db := openDB(t, ":memory:")
		store, err := sqlstore.New(db, sqlstore.SQLite.WithPrefix("shop_2_"))
		require.NoError(t, err)
		require.NoError(t, store.Migrate(t.Context()))
		return storetest.Backend{
			Store: store, Purge: store.Purge, In: inTx(db, store),
			Backup: func(t *testing.T) func(t *testing.T) { return backup(t, db, "shop_2_") },
		}
	})
}

// inTx begins a transaction of the program and returns the store in it.
func inTx(db *sql.DB, s *sqlstore.Store) func(t *testing.T) (apikey.Store, func(bool) error) {
	return func(t *testing.T) (apikey.Store, func(bool) error) {
		tx, err := db.BeginTx(context.Background(), nil)
		require.NoError(t, err)
		t.Cleanup(func() { tx.Rollback() })
		return s.In(tx), func(commit bool) error {
			if commit {
				return tx.Commit()
			}
			return tx.Rollback()
		}
	}
}

// backup copies the database to a file. restore puts every row of the copy back, in one
// transaction, while the stores stay open.
func backup(t *testing.T, db *sql.DB, prefix string) (restore func(t *testing.T)) {
	copied := file(t)
	_, err := db.Exec("VACUUM INTO ?", copied)
	require.NoError(t, err)
	return func(t *testing.T) {
		ctx := context.Background()
		c, err := db.Conn(ctx)
		require.NoError(t, err)
		defer c.Close()
		do := func(statement string, args ...any) {
			t.Helper()
			_, err := c.ExecContext(ctx, statement, args...)
			require.NoError(t, err)
		}
		do("ATTACH ? AS saved", copied)
		do("BEGIN IMMEDIATE")
		for _, table := range []string{"keys", "credentials", "events", "items", "feed"} {
			do("DELETE FROM main." + prefix + table)
			do("INSERT INTO main." + prefix + table + " SELECT * FROM saved." + prefix + table)
		}
		do("COMMIT")
		do("DETACH saved")
	}
}
