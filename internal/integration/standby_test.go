package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// A DSN that leads to a standby which is three minutes behind
// (recovery_min_apply_delay). Nobody can start on it. A Verifier that was moved
// to it while a key was revoked goes on with what it has in memory for MaxStale,
// as if nothing answered, and not a moment longer, though the standby goes on
// answering, and says of the key that it is alive.
func TestStandbyThatIsMinutesBehind(t *testing.T) {
	t.Parallel() // it waits
	delay, maxStale := 180*time.Second, 120*time.Second
	if testing.Short() {
		delay, maxStale = 12*time.Second, 6*time.Second
	}
	e := named("postgres/pgx")[0]
	primary := startPostgres(t)
	store := open(t, e.pool(t, primary.postgresDSN("")), sqlstore.Postgres)
	must(t, store.Migrate(t.Context()))
	m := newManager(t, store)
	ctx := adminOf("acc_1")
	var tokens []string
	var doomed apikey.KeyID
	for range 3 {
		k, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		doomed, tokens = k.Key.ID, append(tokens, k.Token.Reveal())
	}
	living, cold, dying := tokens[0], tokens[1], tokens[2]
	standby := startStandby(t, primary, "late", fmt.Sprintf("recovery_min_apply_delay=%dms", delay.Milliseconds()))
	behind := open(t, e.pool(t, standby.postgresDSN("")), sqlstore.Postgres)

	// Nobody starts on it.
	_, err := verifierFor(behind).start(t.Context())
	wants(t, err, apikey.ErrUnavailable, "a replica answered")
	_, err = managerFor(behind).start(t.Context())
	wants(t, err, apikey.ErrUnavailable, "a replica answered")

	c := newCable(t, primary.port)
	moved := *primary
	moved.port = c.port()
	v := newVerifier(t, open(t, e.pool(t, moved.postgresDSN("")), sqlstore.Postgres), func(c *verifying) {
		c.Sync, c.MaxStale = time.Second, maxStale
	})
	for _, token := range []string{living, dying} {
		_, err := v.Verify(t.Context(), token, apikey.Request{})
		must(t, err)
	}
	c.plug(standby.port)
	movedAt := time.Now()
	must(t, m.Revoke(ctx, apikey.RevokeRequest{Key: doomed}))
	revokedAt := time.Now()

	w := behindFor(t, v, standby, doomed, [...]string{living, cold, dying}, movedAt.Add(maxStale), revokedAt, delay+10*time.Second)
	t.Logf("moved to a standby %v behind, MaxStale %v: %d warm verifications in time, %d of them accepted, the last of the revoked key %v after its revocation; after the bound %d, accepted %d, refused with ErrUnavailable %d (%v); of a cold key %d, accepted %d",
		delay, maxStale, w.early, w.earlyAccepted, w.last.Round(time.Millisecond), w.late, w.lateAccepted, w.unavailable, w.err, w.cold, w.coldAccepted)
	if w.lateAccepted+w.coldAccepted != 0 || w.unavailable != w.late || w.late < 100 || w.earlyAccepted < 100 || w.cold < 100 {
		t.Fail()
	}
	if w.shown != shownAlive {
		t.Error("the standby was not behind when the bound was over, so this shows nothing")
	}
	if isRevokedAt(t, standby, doomed) != shownDead {
		t.Error("the standby has not got the revocation at all")
	}

	c.plug(primary.port)
	back := time.Now()
	for _, token := range []string{living, cold} { // connections that were cut fail once
		for err = apikey.ErrUnavailable; errors.Is(err, apikey.ErrUnavailable) && time.Since(back) < 20*time.Second; {
			_, err = v.Verify(t.Context(), token, apikey.Request{})
		}
		must(t, err)
	}
	_, err = v.Verify(t.Context(), dying, apikey.Request{})
	wants(t, err, apikey.ErrRevoked, "")
	t.Logf("back at the primary: all is as before after %v", time.Since(back).Round(time.Millisecond))
}

// behindFor asks about a living, a cold and a dying key until so long after the
// revocation. The bound is MaxStale after the move: the last good sync began before.
func behindFor(t *testing.T, v *apikey.Verifier, standby *server, doomed apikey.KeyID, tokens [3]string, bound, revokedAt time.Time, long time.Duration) (w aftermove) {
	t.Helper()
	for time.Since(revokedAt) < long {
		for i, token := range tokens {
			begun := time.Now()
			bounded, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			_, err := v.Verify(bounded, token, apikey.Request{})
			cancel()
			w.count(begun.After(bound), i == 1, err)
			if i == 2 && err == nil {
				w.last = begun.Sub(revokedAt)
			}
		}
		if w.shown == 0 && time.Now().After(bound) {
			w.shown = isRevokedAt(t, standby, doomed)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return w
}

// aftermove counts what a Verifier answers that was moved to a standby.
type aftermove struct {
	early, earlyAccepted            int // warm keys, until the bound
	late, lateAccepted, unavailable int // and later
	cold, coldAccepted              int
	last                            time.Duration // after the revocation, that the revoked key was accepted
	err                             error         // the last one after the bound
	shown                           shown         // what the standby said of the key after the bound
}

func (w *aftermove) count(late, cold bool, err error) {
	switch {
	case cold:
		w.cold++
		if err == nil {
			w.coldAccepted++
		}
	case !late:
		w.early++
		if err == nil {
			w.earlyAccepted++
		}
	default:
		w.late++
		w.err = err
		if err == nil {
			w.lateAccepted++
		} else if errors.Is(err, apikey.ErrUnavailable) {
			w.unavailable++
		}
	}
}

type shown int

const (
	shownAlive shown = iota + 1
	shownDead
)

// isRevokedAt asks the server itself, past the library.
func isRevokedAt(t *testing.T, s *server, id apikey.KeyID) shown {
	t.Helper()
	var dead bool
	must(t, named("postgres/pgx")[0].pool(t, s.postgresDSN("")).QueryRow("SELECT revoked_at IS NOT NULL FROM apikey_keys WHERE id = $1", id[:]).Scan(&dead))
	if dead {
		return shownDead
	}
	return shownAlive
}
