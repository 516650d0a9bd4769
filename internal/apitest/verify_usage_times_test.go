package apitest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// rows counts what Upkeep asks a store to write of last uses, and what it writes.
type rows struct {
	mu             sync.Mutex
	asked, written int
}

func (r *rows) count(t *testing.T, s apikey.Store) func(context.Context, []apikey.StoreUpkeep, func() error) error {
	used := func(id apikey.CredentialID) time.Time {
		record, err := s.Lookup(background, id)
		require.NoError(t, err)
		for _, c := range record.Credentials {
			if c.ID == id {
				return c.LastUsed
			}
		}
		return time.Time{}
	}
	return func(_ context.Context, batch []apikey.StoreUpkeep, next func() error) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		before := make([]time.Time, len(batch))
		for i, u := range batch {
			before[i] = used(u.Credential)
		}
		err := next()
		for i, u := range batch {
			r.asked++
			if !used(u.Credential).Equal(before[i]) {
				r.written++
			}
		}
		return err
	}
}

// take returns what was counted, and begins anew.
func (r *rows) take() (asked, written int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked, written = r.asked, r.written
	r.asked, r.written = 0, 0
	return asked, written
}

// Ten nodes, 200 keys that all of them are asked about every second: each key is
// written once a minute, not once by every node and three seconds. What the page
// shows is a minute late at most.
func TestFound27LastUsedIsWrittenOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, keys, minutes = 10, 200, 3
		var s *spy
		e := newEnv(t, watch(&s), realTime, func(e *env) { e.mc.Limits.LiveKeys = keys; e.vc.ReadOnly = true })
		defer e.verifier.Close(background)
		var counted rows
		count := counted.count(t, e.store)
		s.set(func(s *spy) { s.upkeep = count })
		var tokens []apikey.Token
		for range keys {
			tokens = append(tokens, e.issue().Token)
		}
		var verifiers []*apikey.Verifier
		for range nodes {
			v := e.newVerifier(func(c *verifierConfig) { c.ReadOnly = false })
			defer v.Close(background)
			verifiers = append(verifiers, v)
			time.Sleep(100 * time.Millisecond) // they do not write at the same instant
		}
		inUse := func(seconds int) {
			for range seconds {
				for _, v := range verifiers {
					for _, token := range tokens {
						_, err := v.Verify(background, token.Reveal(), apikey.Request{})
						require.NoError(t, err)
					}
					time.Sleep(time.Second / nodes)
				}
			}
		}
		inUse(4)
		_, written := counted.take()
		require.LessOrEqual(t, written, keys*11/10)
		never, err := e.store.List(background, apikey.StoreFilter{NeverUsed: true})
		require.NoError(t, err)
		require.Empty(t, never.Records, "a token that was never used is used at once")
		for range minutes {
			inUse(60)
			asked, written := counted.take()
			t.Logf("%d nodes, %d keys in use: %d rows a minute were asked for, %d written", nodes, keys, asked, written)
			require.LessOrEqual(t, written, keys*11/10)
			require.GreaterOrEqual(t, written, keys*9/10)
			require.LessOrEqual(t, asked, nodes*keys*11/10)
		}
		for _, token := range tokens {
			r, err := e.store.Lookup(background, token.Credential())
			require.NoError(t, err)
			require.Less(t, time.Since(r.Credentials[0].LastUsed), time.Minute+4*time.Second)
		}
	})
}

// How exact it is can be chosen.
func TestFound27LastUsedEvery(t *testing.T) {
	for _, every := range []time.Duration{time.Nanosecond, 10 * time.Second, time.Minute, 24 * time.Hour} {
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s *spy
				e := newEnv(t, watch(&s), realTime, func(e *env) { e.vc.LastUsedEvery = every })
				defer e.verifier.Close(background)
				var counted rows
				count := counted.count(t, e.store)
				s.set(func(s *spy) { s.upkeep = count })
				key := e.issue()
				for range 60 {
					require.NoError(t, e.verify(key.Token))
					time.Sleep(time.Second)
				}
				_, written := counted.take()
				most := int(time.Minute/max(every, 3*time.Second)) + 2
				require.LessOrEqual(t, written, most)
				require.GreaterOrEqual(t, written, max(1, most/2))
			})
		})
	}
	e := newEnv(t)
	c := e.vc
	c.LastUsedEvery = -time.Second
	_, err := apikey.NewVerifier(background, e.settings, c)
	require.ErrorIs(t, err, apikey.ErrInvalid)
}

// The clock of a node was five years ahead for a while. Neither what it wrote nor what
// it remembers keeps later uses from being seen.
func TestFound20ANodeWhoseClockWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead time.Duration
		var mu sync.Mutex
		set := func(d time.Duration) { mu.Lock(); ahead = d; mu.Unlock() }
		e := newEnv(t, realTime, func(e *env) {
			e.settings.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
		})
		defer e.verifier.Close(background)
		key := e.issue()
		lastUsed := func() time.Time {
			info, err := e.manager.Get(e.ctx, key.Key.ID)
			require.NoError(t, err)
			return info.LastUsed
		}
		set(5 * 365 * 24 * time.Hour)
		require.NoError(t, e.verify(key.Token))
		time.Sleep(4 * time.Second)
		require.False(t, lastUsed().After(time.Now()), "in the future: %v", lastUsed())

		set(0)
		time.Sleep(time.Hour)
		require.NoError(t, e.verifier.Sync(background))
		used := time.Now()
		require.NoError(t, e.verify(key.Token))
		time.Sleep(4 * time.Second)
		require.WithinDuration(t, used, lastUsed(), time.Minute, "the node has seen no use since its clock was set right")
	})
}

// Whom to remind of a rotation, as doc.go has it: keys that can be used, not those
// that were revoked, suspended or have expired since.
func TestFound20RemindersAreOfUsableKeys(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		make := func(name string, options ...func(*apikey.IssueRequest)) apikey.KeyID {
			return e.issue(append(options, func(r *apikey.IssueRequest) { r.Name, r.RotateMonths = name, 6 })...).Key.ID
		}
		make("in use")
		make("expires later", func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().AddDate(2, 0, 0) })
		make("expired", func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().AddDate(0, 1, 0) })
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: make("revoked")}))
		require.NoError(t, e.manager.Suspend(e.ctx, make("suspended")))
		e.clock.move(200 * 24 * time.Hour)

		now := e.clock.now()
		for _, limit := range []int{0, 1} {
			var names []string
			for req := (apikey.ListRequest{DueBefore: now, State: apikey.Active, NotExpiredAt: now, Limit: limit}); ; {
				list, err := e.manager.List(e.ctx, req)
				require.NoError(t, err)
				for _, k := range list.Keys {
					names = append(names, k.Name)
				}
				if req.Cursor = list.Next; req.Cursor == "" {
					break
				}
			}
			require.ElementsMatch(t, []string{"in use", "expires later"}, names)
		}
	})
}
