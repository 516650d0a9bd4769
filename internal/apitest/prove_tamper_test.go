package apitest

import (
	"database/sql"
	"encoding/base64"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// onSQLite keeps the program's keys in a SQLite file that the test can change
// behind its back.
func onSQLite(db **sql.DB) func(*env) {
	return func(e *env) {
		e.t.Helper()
		var err error
		*db, err = sql.Open("sqlite", "file:"+filepath.Join(e.t.TempDir(), "keys.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
		require.NoError(e.t, err)
		e.t.Cleanup(func() { (*db).Close() })
		store, err := sqlstore.New(*db, sqlstore.SQLite)
		require.NoError(e.t, err)
		require.NoError(e.t, store.Migrate(background))
		e.store = store
	}
}

// What a database writer without the pepper changes of a key is found: by a
// process that reads it for the first time, by one that reads it again, and by
// management, which does not sign it anew.
func TestRowsChangedBySQLAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sql string
		gone      bool // the presented credential is not there any more
	}{
		{name: "account", sql: `UPDATE apikey_keys SET account = 'acc_2' WHERE id = $key`},
		{name: "ability", sql: `UPDATE apikey_keys SET abilities = '["payment:*"]' WHERE id = $key`},
		{name: "mode", sql: `UPDATE apikey_keys SET mode = 2 WHERE id = $key`},
		{name: "kind", sql: `UPDATE apikey_keys SET kind = 2 WHERE id = $key`},
		{name: "expiry", sql: `UPDATE apikey_keys SET expires_at = NULL WHERE id = $key`},
		{name: "suspended", sql: `UPDATE apikey_keys SET disabled = 1 WHERE id = $key`},
		{name: "revoked", sql: `UPDATE apikey_keys SET revoked_at = 1 WHERE id = $key`},
		{name: "networks", sql: `UPDATE apikey_keys SET networks = '[]' WHERE id = $key`},
		{name: "origins", sql: `UPDATE apikey_keys SET origins = '["https://evil.example"]' WHERE id = $key`},
		{name: "metadata", sql: `UPDATE apikey_keys SET metadata = '{"a":"b"}' WHERE id = $key`},
		{name: "name", sql: `UPDATE apikey_keys SET name = 'x' WHERE id = $key`},
		{name: "version", sql: `UPDATE apikey_keys SET version = 9 WHERE id = $key`},
		{name: "needs", sql: `UPDATE apikey_keys SET needs = 1 WHERE id = $key`},
		{name: "MAC taken away", sql: `UPDATE apikey_keys SET mac = NULL WHERE id = $key`},
		{name: "MAC of another", sql: `UPDATE apikey_keys SET mac = (SELECT mac FROM apikey_keys WHERE id = $other) WHERE id = $key`},
		{name: "window", sql: `UPDATE apikey_credentials SET not_after = 9999999999999999 WHERE key_id = $key`},
		{name: "not before", sql: `UPDATE apikey_credentials SET not_before = 1 WHERE key_id = $key`},
		{name: "ended", sql: `UPDATE apikey_credentials SET ended = 1 WHERE key_id = $key`},
		{name: "pepper slot", sql: `UPDATE apikey_credentials SET pepper = 2 WHERE key_id = $key`},
		{name: "slot zero", sql: `UPDATE apikey_credentials SET pepper = 0 WHERE key_id = $key`},
		{name: "hint", sql: `UPDATE apikey_credentials SET hint = 'xxxx' WHERE key_id = $key`},
		{name: "public text", sql: `UPDATE apikey_credentials SET public = 'x' WHERE key_id = $key`},
		{name: "moved to another record", sql: `UPDATE apikey_credentials SET key_id = $other, position = 9 WHERE key_id = $key`},
		{name: "credential of another taken in", sql: `UPDATE apikey_credentials SET key_id = $key, position = 9 WHERE key_id = $other`},
		{name: "credential ID", sql: `UPDATE apikey_credentials SET id = randomblob(16) WHERE key_id = $key`, gone: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var db *sql.DB
			e := newEnv(t, onSQLite(&db), func(e *env) { e.vc.Mode = apikey.AnyMode })
			other := e.issue()
			key := e.issue(func(r *apikey.IssueRequest) {
				r.ExpiresAt = e.clock.now().Add(1000 * time.Hour)
				r.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
				r.Origins = []string{"https://shop.example"}
			})
			request := apikey.Request{Addr: netip.MustParseAddr("192.0.2.1"), Origin: "https://shop.example", AllowPublishable: true}
			verify := func(v *apikey.Verifier) error {
				_, err := v.Verify(background, key.Token.Reveal(), request)
				return err
			}
			require.NoError(t, verify(e.verifier))
			_, err := db.Exec(c.sql, sql.Named("key", key.Key.ID[:]), sql.Named("other", other.Key.ID[:]))
			require.NoError(t, err)

			want := apikey.ErrCorrupt
			if c.gone {
				want = apikey.ErrInvalidToken
			}
			require.ErrorIs(t, verify(e.newVerifier()), want, "read for the first time")
			e.clock.move(11 * time.Minute)
			require.ErrorIs(t, verify(e.verifier), want, "read again")

			op := apikey.WithActor(background, apikey.Operator("ops"))
			_, err = e.manager.Get(op, key.Key.ID)
			require.ErrorIs(t, err, apikey.ErrCorrupt)
			_, err = e.manager.Update(op, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("laundered")})
			require.ErrorIs(t, err, apikey.ErrCorrupt)
			require.ErrorIs(t, e.manager.Resume(op, apikey.ResumeRequest{Key: key.Key.ID}), apikey.ErrCorrupt)
			list, err := e.manager.List(op, apikey.ListRequest{})
			require.NoError(t, err)
			require.NotEmpty(t, list.Damaged)
			_, err = e.manager.Remac(op, 0)
			if c.name == "MAC taken away" {
				require.ErrorIs(t, err, apikey.ErrCorrupt, "it is never signed")
			}
			require.NoError(t, e.manager.Suspend(op, key.Key.ID), "power can be taken away")
			require.Error(t, verify(e.newVerifier()), "and nothing was laundered by that")
			_, err = e.manager.Get(op, key.Key.ID)
			require.ErrorIs(t, err, apikey.ErrCorrupt)
		})
	}
}

// The columns that Upkeep swaps are outside the MAC. Whatever is written there
// without the pepper, no other token than before is accepted.
func TestUpkeepColumnsChangedBySQLHelpNobody(t *testing.T) {
	t.Parallel()
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 7168, Time: 1})
	require.NoError(t, err)
	var db *sql.DB
	e := newEnv(t, onSQLite(&db), func(e *env) { e.settings.Hashers = []apikey.Hasher{argon} })
	key := e.issue()
	own := recrc(spliceSecret(key.Token.Reveal())) // the attacker's secret, the key's ID
	hash, err := argon.Hash(background, []byte(own[:len(own)-18]))
	require.NoError(t, err)
	genuine, err := e.store.Get(background, key.Key.ID)
	require.NoError(t, err)
	stored := genuine.Credentials[0]
	other := e.issue()
	theirs, err := e.store.Get(background, other.Key.ID)
	require.NoError(t, err)

	texts := []string{own, key.Token.String(), stored.Hash, hash, string(stored.Check), base64.RawURLEncoding.EncodeToString(stored.Check), other.Token.Reveal()}
	for _, h := range []string{hash, "", "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA", "junk", theirs.Credentials[0].Hash, stored.Hash} {
		for _, check := range [][]byte{nil, {0}, {0, 0, 0, 0, 0}, {1}, make([]byte, 33), theirs.Credentials[0].Check, append([]byte{9}, make([]byte, 32)...)} {
			_, err := db.Exec(`UPDATE apikey_credentials SET hash = ?, check_value = ?, sealed = x'78', sealed_kek = 'k', last_used = 1 WHERE key_id = ?`, h, check, key.Key.ID[:])
			require.NoError(t, err)
			for _, text := range texts {
				v := e.newVerifier(func(c *verifierConfig) { c.ReadOnly = true })
				k, err := v.Verify(background, text, apikey.Request{})
				if text == other.Token.Reveal() {
					require.NoError(t, err)
					require.Equal(t, other.Key.ID, k.Info().ID)
					continue
				}
				require.Error(t, err, fmt.Sprintf("%q accepted with hash %q", text, h))
			}
		}
	}
}
