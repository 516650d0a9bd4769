package integration

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// A row that somebody damaged is an error that names its key, and no value.
func TestDamagedRows(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			db := e.pool(t, e.dsn(t))
			d, prefix := e.fresh(t)
			s := open(t, db, d)
			must(t, s.Migrate(t.Context()))
			for _, set := range []string{"mode = 3", "kind = 0", `abilities = '{"secret":1}'`, `networks = '["secret/99"]'`, `metadata = '["secret"]'`, "recovery = 300"} {
				start, err := s.Changed(t.Context(), "", 1)
				must(t, err)
				sound, bad := create(t, s), create(t, s)
				where := fmt.Sprintf("id = x'%x'", bad.ID[:])
				if e.dialect == sqlstore.Postgres {
					where = fmt.Sprintf(`id = '\x%x'`, bad.ID[:])
				}
				result, err := db.Exec("UPDATE " + prefix + "keys SET " + set + " WHERE " + where)
				must(t, err)
				if n, _ := result.RowsAffected(); n != 1 {
					t.Fatalf("%s: %d rows", set, n)
				}
				for _, read := range []func() error{
					func() error { _, err := s.Get(t.Context(), bad.ID); return err },
					func() error { _, err := s.Lookup(t.Context(), bad.Credentials[0].ID); return err },
				} {
					var corrupt *apikey.CorruptError
					if err := read(); !errors.As(err, &corrupt) || corrupt.Key != bad.ID || strings.Contains(err.Error(), "secret") {
						t.Errorf("%s: %v", set, err)
					}
				}
				feed, err := s.Changed(t.Context(), start.Next, 1000)
				must(t, err)
				shown := false
				for _, r := range feed.Records {
					shown = shown || r.ID == sound.ID
				}
				if named := len(feed.Damaged) > 0 && feed.Damaged[len(feed.Damaged)-1].Key == bad.ID; !shown || !named {
					t.Errorf("%s: the feed shows %v, the damage %v", set, feed.Records, feed.Damaged)
				}
			}
		})
	}
}

// A row that was changed by hand verifies nothing, neither cold nor warm, whether
// it can be read or not: the error names its key, and the key page's does.
func TestDamagedRowsVerifyNothing(t *testing.T) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			s := newShop(t, e)
			yes, now := "1", "UTC_TIMESTAMP(6)"
			bytes := func(b []byte) string { return fmt.Sprintf("x'%x'", b) }
			if e.dialect == sqlstore.Postgres {
				yes, now = "TRUE", "pg_current_xact_id()"
				bytes = func(b []byte) string { return fmt.Sprintf(`'\x%x'`, b) }
			}
			other := s.warm.Key.ID
			damages := []string{
				"{keys} SET mode = 2", "{keys} SET mode = 3", "{keys} SET kind = 0", "{keys} SET kind = 2", "{keys} SET account = 'acc_2'", "{keys} SET name = 'another'",
				"{keys} SET version = version + 1", "{keys} SET version = -1", "{keys} SET needs = 1", "{keys} SET needs = -1",
				"{keys} SET mac = NULL", "{keys} SET mac = " + bytes([]byte{1, 2, 3}), "{keys} SET head = " + bytes(make([]byte, 32)),
				`{keys} SET abilities = '{"a":1}'`, `{keys} SET abilities = '["payment:refund"]'`, `{keys} SET networks = '["10.0.0.0/99"]'`, `{keys} SET networks = '["0.0.0.0/0"]'`,
				`{keys} SET origins = '{"a":1}'`, `{keys} SET metadata = '["a"]'`, "{keys} SET disabled = " + yes, "{keys} SET rotate_months = -1", "{keys} SET recovery = 300",
				"{keys} SET created_at = '2001-01-01 00:00:00'", "{keys} SET expires_at = '2101-01-01 00:00:00'", "{keys} SET revoked_at = '2101-01-01 00:00:00'",
				"{credentials} SET key_id = " + bytes(other[:]), "{credentials} SET position = 7, pepper = 9", "{credentials} SET not_before = '2001-01-01 00:00:00'",
				"{credentials} SET not_after = '2101-01-01 00:00:00'", "{credentials} SET ended = " + yes, "{credentials} SET hint = 'abcd'", "{credentials} SET public = 'acme_pk_live_'",
				"{credentials} SET pepper = 0", "{credentials} SET pepper = 300", "{credentials} SET hash = '', check_value = NULL",
				"{credentials} SET hash = '$unknown$', check_value = " + bytes([]byte{1, 2, 3}),
			}
			accepted := 0
			for _, damage := range damages {
				t.Run(damage, func(t *testing.T) {
					accepted += s.damage(t, damage, bytes, now)
				})
			}
			t.Logf("%d damages, asked of a verifier that was warm and of a new one: accepted %d", len(damages), accepted)
		})
	}
}

// damage does it to a new key, and counts who accepts it all the same.
func (s *shopAt) damage(t *testing.T, damage string, bytes func([]byte) string, now string) (accepted int) {
	k, err := s.m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
	must(t, err)
	must(t, check(s.v, k.Token))
	column := "id"
	if strings.HasPrefix(damage, "{credentials}") {
		column = "key_id"
	}
	s.do(t, fmt.Sprintf("UPDATE %s WHERE %s = %s", damage, column, bytes(k.Key.ID[:])))
	s.do(t, fmt.Sprintf("UPDATE {keys} SET feed = %s WHERE id = %s", now, bytes(k.Key.ID[:]))) // so that it is heard of
	store, db, err := s.open()
	must(t, err)
	defer db.Close()
	if err := s.v.Sync(t.Context()); err != nil {
		t.Errorf("the feed does not go on: %v", err)
	}
	for who, v := range map[string]*apikey.Verifier{"warm": s.v, "cold": newVerifier(t, store)} {
		if who == "warm" && strings.Contains(damage, "SET hash") {
			continue // whose proof was given, and is no part of what is read again
		}
		err := check(v, k.Token)
		var corrupt *apikey.CorruptError
		switch {
		case err == nil:
			accepted++
			t.Errorf("%s: accepted", who)
		case !errors.As(err, &corrupt):
			t.Errorf("%s: %v", who, err)
		case corrupt.Key != k.Key.ID && corrupt.Key != s.warm.Key.ID:
			t.Errorf("%s: the error names %s", who, corrupt.Key)
		case strings.Contains(err.Error(), k.Token.Reveal()):
			t.Errorf("%s: the token is in the error", who)
		}
	}
	s.do(t, fmt.Sprintf("DELETE FROM {credentials} WHERE key_id = %s OR id = %s", bytes(k.Key.ID[:]), bytes(credentialID(k))))
	s.do(t, fmt.Sprintf("DELETE FROM {keys} WHERE id = %s", bytes(k.Key.ID[:])))
	must(t, check(s.v, s.warm.Token))
	return accepted
}

func credentialID(k apikey.Issued) []byte { id := k.Token.Credential(); return id[:] }
