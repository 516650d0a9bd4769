package sqlstore_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// daily is a database in a synctest bubble, whose clock is the one that PurgeDaily
// sees, and a PurgeDaily that runs on it.
type daily struct {
	*testing.T
	db    *sql.DB
	store *sqlstore.Store
	logs  bytes.Buffer // read it when nothing runs
	ended chan struct{}
	stop  context.CancelFunc
}

func inBubble(t *testing.T, test func(t *testing.T, d *daily)) {
	synctest.Test(t, func(t *testing.T) {
		db := openDB(t, file(t))
		test(t, &daily{T: t, db: db, store: newStore(t, db)})
	})
}

func (d *daily) migrate() { require.NoError(d, d.store.Migrate(d.Context())) }

// begin starts a PurgeDaily; end ends it.
func (d *daily) begin(keep time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	d.ended, d.stop = make(chan struct{}), cancel
	log := slog.New(slog.NewTextHandler(&d.logs, nil))
	go func() {
		defer close(d.ended)
		d.store.PurgeDaily(ctx, keep, log)
	}()
	synctest.Wait()
}

func (d *daily) end() {
	d.stop()
	<-d.ended
}

// pass lets time pass, and what is due then be done.
func (d *daily) pass(t time.Duration) {
	time.Sleep(t)
	synctest.Wait()
}

// revoked makes a key that was revoked that long ago.
func (d *daily) revoked(ago time.Duration) apikey.KeyID {
	r := newRecord("m1")
	r.CreatedAt = time.Now().Add(-365 * 24 * time.Hour)
	r.RevokedAt = time.Now().Add(-ago).Truncate(time.Microsecond)
	for i := range r.Credentials {
		r.Credentials[i].Sealed, r.Credentials[i].SealedKEK = nil, ""
	}
	require.NoError(d, d.store.Apply(d.Context(), change(r)))
	return r.ID
}

// expired makes items that have expired that long ago.
func (d *daily) expired(n int, ago time.Duration) {
	ch := apikey.StoreChange{ID: [16]byte(storetest.NewKeyID())}
	for i := range n {
		ch.Items = append(ch.Items, apikey.StoreItem{Kind: "test", ID: fmt.Sprint(i), Version: 1, Data: []byte("x"), ExpiresAt: time.Now().Add(-ago)})
	}
	require.NoError(d, d.store.Apply(d.Context(), ch))
}

func (d *daily) gone(id apikey.KeyID) bool {
	_, err := d.store.Get(d.Context(), id)
	if err != nil {
		require.ErrorIs(d, err, apikey.ErrNotFound)
	}
	return err != nil
}

func TestPurgeDaily(t *testing.T) {
	inBubble(t, func(t *testing.T, d *daily) {
		d.migrate()
		old, younger, live := d.revoked(50*time.Hour), d.revoked(30*time.Hour), create(t, d.store, "m1").ID
		d.expired(1, 50*time.Hour)
		events := count(t, d.db, "apikey_events")
		d.begin(48 * time.Hour)
		require.False(t, d.gone(old), "processes that start together do not purge together")
		d.pass(10 * time.Minute)
		require.True(t, d.gone(old))
		require.Zero(t, count(t, d.db, "apikey_items"))
		require.False(t, d.gone(younger))
		require.Contains(t, d.logs.String(), "removed=2")

		d.pass(22 * time.Hour)
		require.False(t, d.gone(younger), "once a day")
		d.pass(3 * time.Hour)
		require.True(t, d.gone(younger))
		require.False(t, d.gone(live))
		require.Equal(t, events, count(t, d.db, "apikey_events"))
		d.end()
	})
}

// Less than Purge accepts is what Purge accepts.
func TestPurgeDailyKeepsADay(t *testing.T) {
	for _, keep := range []time.Duration{0, -time.Hour, time.Minute} {
		inBubble(t, func(t *testing.T, d *daily) {
			d.migrate()
			old, younger := d.revoked(25*time.Hour), d.revoked(23*time.Hour)
			d.begin(keep)
			d.pass(10 * time.Minute)
			require.True(t, d.gone(old))
			require.False(t, d.gone(younger))
			d.end()
			require.NotContains(t, d.logs.String(), "failed")
		})
	}
}

func TestPurgeDailyGoesOnUntilNothingIsLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, d *daily) {
		d.migrate()
		d.expired(2001, 25*time.Hour)
		d.begin(0)
		d.pass(10*time.Minute + time.Second) // it pauses between chunks
		require.Zero(t, count(t, d.db, "apikey_items"))
		require.Contains(t, d.logs.String(), "removed=2001")
		d.end()
	})
}

// A database that is away is no reason to wait for a day.
func TestPurgeDailyTriesAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, d *daily) {
		d.begin(0) // without tables
		d.pass(10 * time.Minute)
		require.Contains(t, d.logs.String(), "apikey: purge failed")
		require.Contains(t, d.logs.String(), "the tables do not exist")
		d.migrate()
		old := d.revoked(25 * time.Hour)
		d.pass(10 * time.Minute)
		require.True(t, d.gone(old))
		d.end()
	})
}

// It returns when its context ends, wherever it is, and says nothing about that.
func TestPurgeDailyEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, d *daily) {
		d.migrate()
		before := time.Now()
		d.begin(0)
		d.end()
		require.Zero(t, time.Since(before), "before the first purge")

		d.expired(2001, 25*time.Hour)
		d.begin(0)
		for count(t, d.db, "apikey_items") > 1001 { // the pause between two chunks
			d.pass(90 * time.Millisecond)
		}
		before = time.Now()
		d.end()
		require.Zero(t, time.Since(before), "between two chunks")
		require.Equal(t, 1001, count(t, d.db, "apikey_items"))
		require.NotContains(t, d.logs.String(), "failed")

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		d.store.PurgeDaily(ctx, 0, nil)
	})
}

// Every process may do it.
func TestPurgersOfManyProcesses(t *testing.T) {
	inBubble(t, func(t *testing.T, d *daily) {
		d.migrate()
		d.expired(300, 25*time.Hour)
		live := create(t, d.store, "m1").ID
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		for range 8 {
			go func() {
				d.store.PurgeDaily(ctx, 0, nil)
				ended <- struct{}{}
			}()
		}
		d.pass(10 * time.Minute)
		require.Zero(t, count(t, d.db, "apikey_items"))
		require.False(t, d.gone(live))
		cancel()
		for range 8 {
			<-ended
		}
	})
}
