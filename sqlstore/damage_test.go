package sqlstore_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// If a row is damaged, reading it returns an error that names its key and no value. A
// page with the row names the key and shows the other records.
func TestDamagedRecord(t *testing.T) {
	for _, c := range []struct{ name, statement, want string }{
		{"abilities", "UPDATE apikey_keys SET abilities = '[\"secret' WHERE id = ?", "abilities"},
		{"abilities of another type", "UPDATE apikey_keys SET abilities = '{\"secret\":1}' WHERE id = ?", "abilities"},
		{"networks", "UPDATE apikey_keys SET networks = '[\"secret/99\"]' WHERE id = ?", "networks"},
		{"origins", "UPDATE apikey_keys SET origins = 'secret' WHERE id = ?", "origins"},
		{"metadata", "UPDATE apikey_keys SET metadata = '{\"secret\":1}' WHERE id = ?", "metadata"},
		{"metadata emptied", "UPDATE apikey_keys SET metadata = '' WHERE id = ?", "metadata"},
		{"mode 0", "UPDATE apikey_keys SET mode = 0 WHERE id = ?", "mode"},
		{"mode 3", "UPDATE apikey_keys SET mode = 3 WHERE id = ?", "mode"},
		{"mode that is live in 8 bits", "UPDATE apikey_keys SET mode = 257 WHERE id = ?", "mode"},
		{"kind 0", "UPDATE apikey_keys SET kind = 0 WHERE id = ?", "kind"},
		{"kind that is secret in 8 bits", "UPDATE apikey_keys SET kind = 257 WHERE id = ?", "kind"},
		{"disabled", "UPDATE apikey_keys SET disabled = 2 WHERE id = ?", "disabled"},
		{"months", "UPDATE apikey_keys SET rotate_months = -1 WHERE id = ?", "rotate_months"},
		{"recovery", "UPDATE apikey_keys SET recovery = 2 WHERE id = ?", "recovery"},
		{"short head", "UPDATE apikey_keys SET head = x'00' WHERE id = ?", "head"},
		{"long head", "UPDATE apikey_keys SET head = zeroblob(33) WHERE id = ?", "head"},
		{"ended", "UPDATE apikey_credentials SET ended = 2 WHERE key_id = ? AND position = 1", "ended"},
		{"pepper", "UPDATE apikey_credentials SET pepper = 256 WHERE key_id = ? AND position = 1", "pepper"},
		{"credential id", "UPDATE apikey_credentials SET id = x'00' WHERE key_id = ? AND position = 1", "credential id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := openDB(t, file(t))
			db.SetMaxOpenConns(1)
			s := migrated(t, db)
			start := position(t, s)
			before, bad, after := create(t, s, "m1"), create(t, s, "m1"), create(t, s, "m1")
			_, err := db.Exec("PRAGMA ignore_check_constraints = ON")
			require.NoError(t, err)
			result, err := db.Exec(c.statement, bad.ID[:])
			require.NoError(t, err)
			n, err := result.RowsAffected()
			require.NoError(t, err)
			require.EqualValues(t, 1, n)

			_, err = s.Get(t.Context(), bad.ID)
			requireCorrupt(t, err, bad.ID, c.want)
			_, err = s.Lookup(t.Context(), bad.Credentials[0].ID)
			requireCorrupt(t, err, bad.ID, c.want)

			all, damaged := walkList(t, s)
			require.ElementsMatch(t, []apikey.KeyID{before.ID, after.ID}, all)
			require.Equal(t, []apikey.KeyID{bad.ID}, damaged)
			all, damaged = walkFeed(t, s, start)
			require.Equal(t, []apikey.KeyID{before.ID, after.ID}, all)
			require.Equal(t, []apikey.KeyID{bad.ID}, damaged)
		})
	}
}

func requireCorrupt(t *testing.T, err error, key apikey.KeyID, want string) {
	t.Helper()
	require.ErrorIs(t, err, apikey.ErrCorrupt)
	require.NotErrorIs(t, err, apikey.ErrUnavailable)
	var corrupt *apikey.CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, key, corrupt.Key)
	require.Contains(t, corrupt.Detail, want)
	require.NotContains(t, corrupt.Detail, "secret")
}

// walkList reads the list in pages of one row, so that one of them ends at the damaged
// row.
func walkList(t *testing.T, s apikey.Store) (all, damaged []apikey.KeyID) {
	t.Helper()
	for f := (apikey.StoreFilter{Limit: 1}); ; {
		page, err := s.List(t.Context(), f)
		require.NoError(t, err)
		require.Equal(t, 1, len(page.Records)+len(page.Damaged))
		for _, r := range page.Records {
			all = append(all, r.ID)
		}
		for _, e := range page.Damaged {
			damaged = append(damaged, e.Key)
		}
		if f.After = page.Next; f.After == "" {
			return all, damaged
		}
	}
}

func walkFeed(t *testing.T, s apikey.Store, after apikey.Cursor) (all, damaged []apikey.KeyID) {
	t.Helper()
	for {
		page, err := s.Changed(t.Context(), after, 1)
		require.NoError(t, err)
		for _, r := range page.Records {
			all = append(all, r.ID)
		}
		for _, e := range page.Damaged {
			damaged = append(damaged, e.Key)
		}
		if after = page.Next; !page.More {
			return all, damaged
		}
	}
}

// If even the ID of a row is damaged, the next page still continues after it.
func TestDamagedID(t *testing.T) {
	for _, id := range []string{"x''", "x'ff'", "zeroblob(40)"} {
		db := openDB(t, file(t))
		db.SetMaxOpenConns(1)
		s := migrated(t, db)
		start := position(t, s)
		create(t, s, "m1")
		bad := create(t, s, "m1")
		create(t, s, "m1")
		_, err := db.Exec("PRAGMA ignore_check_constraints = ON")
		require.NoError(t, err)
		_, err = db.Exec("UPDATE apikey_keys SET id = "+id+" WHERE id = ?", bad.ID[:])
		require.NoError(t, err)

		all, damaged := walkList(t, s)
		require.Len(t, all, 2, id)
		require.Equal(t, []apikey.KeyID{{}}, damaged)
		all, damaged = walkFeed(t, s, start)
		require.Len(t, all, 2, id)
		require.Equal(t, []apikey.KeyID{{}}, damaged)
		_, err = s.Lookup(t.Context(), bad.Credentials[0].ID)
		requireCorrupt(t, err, bad.ID, "missing") // a credential without its key
	}
}

// A damaged event is not hidden: its undamaged columns are shown.
func TestDamagedEvent(t *testing.T) {
	db := openDB(t, file(t))
	db.SetMaxOpenConns(1)
	s := migrated(t, db)
	r := create(t, s, "m1")
	require.NoError(t, s.Apply(t.Context(), change(next(r))))
	_, err := db.Exec("PRAGMA ignore_check_constraints = ON; UPDATE apikey_events SET hash = x'01', id = x'02' WHERE seq = 1")
	require.NoError(t, err)
	page, err := s.Events(t.Context(), apikey.StoreEventFilter{Key: r.ID, Chain: true, Limit: 1})
	require.NoError(t, err)
	require.Len(t, page.Events, 1)
	require.Equal(t, "body", string(page.Events[0].Body))
	page, err = s.Events(t.Context(), apikey.StoreEventFilter{Key: r.ID, Chain: true, After: page.Next})
	require.NoError(t, err)
	require.Len(t, page.Events, 1)
	require.EqualValues(t, 2, page.Events[0].Seq)
}

// The whole range of every number, and times far from today.
func TestExtremeValues(t *testing.T) {
	s := migrated(t, openDB(t, file(t)))
	r := newRecord("m1")
	r.Needs, r.RotateMonths, r.Kind, r.Recoverable = math.MaxUint64, math.MaxInt32, 255, true
	r.CreatedAt = time.Date(1901, 2, 3, 4, 5, 6, 7000, time.UTC)
	r.ExpiresAt = time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
	r.RotateDue = time.Unix(0, 0).UTC() // 0 is a time, not NULL
	r.Credentials[0].Pepper = 255
	r.Credentials[0].NotBefore = time.UnixMicro(-1).UTC()
	require.NoError(t, s.Apply(t.Context(), change(r)))
	got, err := s.Get(t.Context(), r.ID)
	require.NoError(t, err)
	require.Equal(t, r.Needs, got.Needs)
	require.Equal(t, r.RotateMonths, got.RotateMonths)
	require.Equal(t, r.Kind, got.Kind)
	require.Equal(t, r.Recoverable, got.Recoverable)
	require.Equal(t, []time.Time{r.CreatedAt, r.ExpiresAt, r.RotateDue, r.Credentials[0].NotBefore},
		[]time.Time{got.CreatedAt, got.ExpiresAt, got.RotateDue, got.Credentials[0].NotBefore})
	require.EqualValues(t, 255, got.Credentials[0].Pepper)
	require.True(t, got.RevokedAt.IsZero())
}

// A filter's time may be finer than a microsecond; stored times are not.
func TestFilterBetweenMicroseconds(t *testing.T) {
	s := migrated(t, openDB(t, file(t)))
	r := newRecord("m1")
	r.ExpiresAt, r.RotateDue = day, day
	require.NoError(t, s.Apply(t.Context(), change(r)))
	for _, delta := range []time.Duration{-time.Microsecond, -1, 0, 1, 999, time.Microsecond} {
		at := day.Add(delta)
		for name, f := range map[string]apikey.StoreFilter{
			"UnusedSince": {UnusedSince: at}, "ExpiringBefore": {ExpiringBefore: at}, "NotExpiredAt": {NotExpiredAt: at}, "DueBefore": {DueBefore: at},
		} {
			page, err := s.List(t.Context(), f)
			require.NoError(t, err)
			require.Equal(t, f.Match(&r), len(page.Records) == 1, "%s %v", name, delta)
		}
	}
}

// A list accepts only its own cursors. Any other text is the caller's mistake
// (ErrInvalid), never a position and never a panic.
func TestForeignCursors(t *testing.T) {
	s := migrated(t, openDB(t, file(t)))
	r := create(t, s, "m1")
	require.NoError(t, s.Apply(t.Context(), change(next(r))))
	create(t, s, "m1")
	list, err := s.List(t.Context(), apikey.StoreFilter{Limit: 1})
	require.NoError(t, err)
	log, err := s.Events(t.Context(), apikey.StoreEventFilter{Limit: 1})
	require.NoError(t, err)
	chain, err := s.Events(t.Context(), apikey.StoreEventFilter{Key: r.ID, Chain: true, Limit: 1})
	require.NoError(t, err)
	read := map[string]func(apikey.Cursor) error{
		"list": func(c apikey.Cursor) error { return lists(apikey.StoreFilter{After: c})(t.Context(), s) },
		"log":  func(c apikey.Cursor) error { return logs(apikey.StoreEventFilter{After: c})(t.Context(), s) },
		"chain": func(c apikey.Cursor) error {
			return logs(apikey.StoreEventFilter{After: c, Key: r.ID, Chain: true})(t.Context(), s)
		},
		"feed": func(c apikey.Cursor) error { _, err := s.Changed(t.Context(), c, 10); return err },
	}
	cursors := map[string]apikey.Cursor{"list": list.Next, "log": log.Next, "chain": chain.Next, "feed": position(t, s)}
	for name, cursor := range cursors {
		require.NotEmpty(t, cursor)
		for of, read := range read {
			if of == name {
				require.NoError(t, read(cursor), of)
			} else {
				require.ErrorIs(t, read(cursor), apikey.ErrInvalid, "%s cursor for %s", name, of)
			}
		}
		for _, bad := range []apikey.Cursor{
			cursor + "=", cursor + "\n", cursor[:len(cursor)-1] + "!", " " + cursor, cursor[:8], "k", "'", "\x00",
			cursor + apikey.Cursor(strings.Repeat("A", 200)), apikey.Cursor(strings.Repeat("a", 1<<20)),
		} {
			require.ErrorIs(t, read[name](bad), apikey.ErrInvalid, "%.40q", bad)
		}
	}
}

// The event of the cursor exists again, but at another place: its commit was lost, and
// the change was applied again. The changes before it are no longer those that were
// shown.
func TestCursorWhoseEventMoved(t *testing.T) {
	db := openDB(t, file(t))
	s := migrated(t, db)
	restore := backup(t, db, "apikey_")
	create(t, s, "m1")
	again := change(newRecord("m1"))
	require.NoError(t, s.Apply(t.Context(), again))
	cursor := position(t, s)
	restore(t)
	require.NoError(t, s.Apply(t.Context(), again))
	create(t, s, "m2")
	_, err := s.Changed(t.Context(), cursor, 10)
	require.ErrorIs(t, err, apikey.ErrCursorLost)
}
