package apitest

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
)

// Further instances of what TestFound07 to TestFound26 are about.

// Tokens that have ended are warm in the process that used them. Whoever presents
// hundreds of them at once waits in turns, as with tokens that nobody has.
func TestFound07WarmEndedTokensWaitInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &lookupHook{}
		e := newEnv(t, func(e *env) {
			store.Store, store.before = e.store, func() {}
			e.store = store
		})
		defer e.verifier.Close(background)
		var ended []apikey.Token
		for i := range 200 {
			ctx := as(fmt.Sprintf("acc_%d", i/40), "admin")
			issued, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.NoError(t, err)
			require.NoError(t, e.verify(issued.Token))
			require.NoError(t, e.manager.RevokeToken(background, issued.Token.Reveal(), ""))
			ended = append(ended, issued.Token)
		}
		var mu sync.Mutex
		reading, most := 0, 0
		store.before = func() {
			mu.Lock()
			reading++
			most = max(most, reading)
			mu.Unlock()
			time.Sleep(2 * time.Millisecond)
			mu.Lock()
			reading--
			mu.Unlock()
		}
		var callers sync.WaitGroup
		for _, token := range ended {
			callers.Go(func() { e.manager.RevokeToken(background, token.Reveal(), "") })
		}
		callers.Wait()
		require.Positive(t, most)
		require.LessOrEqual(t, most, 8, "reads of the store at once")
	})
}

// To put a scheduled token off is to call its rotation off.
func TestFound11RotateIsNoWayAroundCancelRotation(t *testing.T) {
	e := newEnv(t, func(e *env) {
		e.mc.Policy = policyFunc(func(a apikey.Action) error {
			if a == apikey.ActionCancelRotation {
				return errors.New("not you")
			}
			return nil
		})
	})
	key := e.issue()
	_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, At: e.clock.now().Add(time.Hour)})
	require.NoError(t, err)
	before := e.info(key.Key.ID)
	_, err = e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, At: e.clock.now().Add(99 * time.Hour), Replace: true})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	require.Equal(t, before, e.info(key.Key.ID))
	_, err = e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, Replace: true})
	require.NoError(t, err, "now: the token is replaced, and not kept")
}

// A product that was switched off does not come back with a key that comes back.
func TestFound11ProductsAreAskedWhenAKeyComesBack(t *testing.T) {
	off := false
	e := newEnv(t, func(e *env) {
		e.mc.Products = func(_ string, _ apikey.Mode, a apikey.Ability) error {
			if off && a.String() == "payment:refund" {
				return errors.New("refunds are switched off")
			}
			return nil
		}
	})
	suspended := e.issue().Key.ID
	expiring := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().Add(time.Hour) }).Key.ID
	require.NoError(t, e.manager.Suspend(e.ctx, suspended))
	e.clock.move(2 * time.Hour)
	off = true
	require.ErrorIs(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: suspended}), apikey.ErrStanding)
	_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: expiring, ExpiresAt: apikey.Set(e.clock.now().Add(time.Hour))})
	require.ErrorIs(t, err, apikey.ErrStanding)
	for _, id := range []apikey.KeyID{suspended, expiring} {
		_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: id, Abilities: apikey.Set([]string{"payment:verify"})})
		require.NoError(t, err, "to take the ability away is free")
	}
	require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: suspended}))
}

// A filter that no key can match must not be answered with "all are ended", nor one
// that all keys match stand for one that was meant.
func TestFound13RevokeAllSelectsWhatThereIs(t *testing.T) {
	e := newEnv(t)
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	for name, req := range map[string]apikey.RevokeAllRequest{
		"every mode":       {Mode: apikey.AnyMode},
		"no mode":          {Mode: 7},
		"a reserved kind":  {Kind: 3},
		"no slot":          {Pepper: 200},
		"in the future":    {UnusedSince: e.clock.now().Add(90 * 24 * time.Hour)},
		"and of a mode":    {UnusedSince: e.clock.now().Add(90 * 24 * time.Hour), Mode: apikey.Live},
		"before all times": {UnusedSince: time.Time{}.Add(time.Nanosecond)},
	} {
		_, err := e.manager.RevokeAll(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
	}
	for name, req := range map[string]apikey.ListRequest{"every mode": {Mode: apikey.AnyMode}, "a reserved kind": {Kind: 3}, "no slot": {Pepper: 200}, "no state": {State: 9}} {
		_, err := e.manager.List(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
	}
	_, err := e.manager.Events(e.ctx, apikey.EventsRequest{Mode: apikey.AnyMode})
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.NoError(t, e.verify(key.Token))
}

// A role that was forgotten is none, also where a list of roles was split from nothing.
func TestFound13AnActorWithoutARole(t *testing.T) {
	e := newEnv(t, func(e *env) { e.mc.Policy = apikey.RolePolicy{Roles: strings.Split("", ",")} })
	_, err := e.manager.Issue(as("acc_1", ""), apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	_, err = apikey.NewManager(background, e.settings, apikey.ManagerConfig{Limits: apikey.Limits{LiveKeys: math.MaxInt}})
	require.ErrorIs(t, err, apikey.ErrInvalid, "twice as many is another number")
}

// A MaxAge that stands for "never" is not minus two nanoseconds when it is doubled.
func TestFound16AnAgeWithoutBound(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxAge = 1<<63 - 1 })
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	reads := s.lookups.Load()
	for range 10 {
		e.clock.move(time.Second)
		require.NoError(t, e.verify(key.Token))
	}
	require.Equal(t, reads, s.lookups.Load())
}

// In the last seconds before its time a scheduled token is accepted already, and it
// can still be called off: a rotation then meets it as one that is pending.
func TestFound17RotateJustBeforeAScheduledTime(t *testing.T) {
	for name, c := range map[string]struct {
		req  apikey.RotateRequest
		want error
		old  error // of the token in use, until the new rotation's time
	}{
		"put off":            {apikey.RotateRequest{At: time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC), Replace: true}, nil, nil},
		"put off, not asked": {apikey.RotateRequest{At: time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC)}, apikey.ErrRotationPending, apikey.ErrCredentialEnded},
		"now, with overlap":  {apikey.RotateRequest{Overlap: 24 * time.Hour, Replace: true}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			key := e.issue()
			at := e.clock.now().Add(time.Hour)
			_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, At: at})
			require.NoError(t, err)
			e.clock.move(time.Hour - 3*time.Second)
			c.req.Key = key.Key.ID
			_, err = e.manager.Rotate(e.ctx, c.req)
			require.ErrorIs(t, err, c.want)
			require.NoError(t, e.verify(key.Token))
			e.clock.move(time.Hour) // long after the first time
			require.ErrorIs(t, e.verify(key.Token), c.old)
		})
	}
}

// What a machine noted whose clock was a year ahead keeps nobody waiting for a year.
func TestFound20AClockAheadLeavesNoWait(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("email", "password")))
		request := apikey.RotateRequest{Key: e.issue().Key.ID}
		ahead := e.newManager(func(c *managerConfig) {
			c.Now = func() time.Time { return e.clock.now().AddDate(1, 0, 0) }
		})
		for range 5 {
			c, err := ahead.Challenge(e.ctx, "email", request)
			require.NoError(t, err)
			_, err = ahead.Confirm(e.ctx, c.ID, f.code())
			require.NoError(t, err)
		}
		for wrong := 0; wrong < 10; {
			c, err := ahead.Challenge(e.ctx, "password", request)
			require.NoError(t, err)
			for range 5 {
				_, err = ahead.Confirm(e.ctx, c.ID, "guess")
				require.ErrorIs(t, err, apikey.ErrWrongAnswer)
				wrong++
			}
		}
		_, err := ahead.Challenge(e.ctx, "email", request)
		require.ErrorIs(t, err, apikey.ErrTooManyAttempts, "the premise")
		c, err := e.manager.Challenge(e.ctx, "email", request)
		require.NoError(t, err)
		_, err = e.manager.Confirm(e.ctx, c.ID, f.code())
		require.NoError(t, err)
	})
}

// The 100 guesses count, whatever the clock of the machine was that took them.
func TestFound20AClockAheadGivesNoGuesses(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")))
	request := apikey.RotateRequest{Key: e.issue().Key.ID}
	ahead := e.newManager(func(c *managerConfig) {
		c.Now = func() time.Time { return e.clock.now().AddDate(1, 0, 0) }
	})
	guesses := 0
	for node := 0; guesses < 200; node++ {
		m := []*apikey.Manager{e.manager, ahead}[node%2]
		c, err := m.Challenge(e.ctx, "password", request)
		for i := 0; err == nil && i < 5; i++ {
			if _, err = m.Confirm(e.ctx, c.ID, "guess"); errors.Is(err, apikey.ErrWrongAnswer) {
				guesses++
				err = nil
			}
		}
		if errors.Is(err, apikey.ErrLocked) {
			break
		}
		if errors.Is(err, apikey.ErrTooManyAttempts) {
			e.clock.move(time.Hour)
		}
	}
	require.LessOrEqual(t, guesses, 100+10, "those before the wrong clock may be forgiven by it, once")
}

// What a person copies: lines that a mail program has broken and quoted, a raw mail, a
// file of settings with the public key beside it, a Basic header.
func TestFound24WhatElseIsPasted(t *testing.T) {
	for name, paste := range map[string]func(secret, public string) string{
		"wrapped and quoted":     func(s, _ string) string { return "> " + s[:50] + "\n> " + s[50:] + "\n> regards" },
		"a raw mail":             func(s, _ string) string { return "key: " + s[:70] + "=\r\n" + s[70:] + "\r\n" },
		"Markdown":               func(s, _ string) string { return "`" + strings.ReplaceAll(s, "_", `\_`) + "`" },
		"settings":               func(s, p string) string { return "ACME_PUBLIC=" + p + "\nACME_SECRET=" + s + "\n" },
		"settings, secret first": func(s, p string) string { return "ACME_SECRET=" + s + "\nACME_PUBLIC=" + p + "\n" },
		"Basic": func(s, _ string) string {
			return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(s+":"))
		},
		"Basic, as password": func(s, _ string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte("api:"+s)) },
		"a mounted secret": func(s, _ string) string {
			return "data:\n  key: " + base64.StdEncoding.EncodeToString([]byte(s)) + "\n"
		},
	} {
		e := newEnv(t)
		key, public := e.issue(), e.issue(func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, nil })
		require.NoError(t, e.verify(key.Token))
		require.NoError(t, e.manager.RevokeToken(background, paste(key.Token.Reveal(), public.Token.Reveal()), ""), name)
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrCredentialEnded, name)
	}
	e := newEnv(t)
	public := e.issue(func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, nil })
	require.ErrorIs(t, e.manager.RevokeToken(background, public.Token.Reveal(), ""), apikey.ErrKind)
	a, b := e.issue().Token.Reveal(), e.issue().Token.Reveal()
	in64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, two := range []string{in64(a + " " + b), in64(a) + "\n" + in64(b), a + "\n" + in64(b), in64(a) + " " + b} {
		require.ErrorIs(t, e.manager.RevokeToken(background, two, ""), apikey.ErrInvalid, "which of both was meant?")
	}
}

// Two clicks with one right code of an app: both are right, and charged nothing. The
// later one replaces the grant of the other.
func TestFound25ASecondClickWithARightCode(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		var f *factors
		e := newEnv(t, on, through(&p), withFactors(&f, apikey.GuardRotate("totp", "password")))
		e.enroll(f, e.ctx, admin.ID)
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		put, err := e.manager.Challenge(e.ctx, "totp", req)
		require.NoError(t, err)
		var first apikey.Grant
		applied := 0
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
				err := next()
				if applied++; applied == 1 { // charged, and not yet compared
					first, err = e.newManager().Confirm(e.ctx, put.ID, f.app(admin.ID))
				}
				return err
			}
		})
		second, err := e.manager.Confirm(e.ctx, put.ID, f.app(admin.ID))
		p.hook(func(p *proxy) { p.apply = nil })
		require.NoError(t, err)
		e.onlyOneRedeems(req, first, second)
		require.NoError(t, e.exhaust(f, 10), "no attempt of the hour was taken")
	})
}

// What fails on our side costs a challenge no attempt: the right answer is taken
// however often the key service was away before.
func TestFound25OurFailuresCostNoAttempt(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("totp")))
		e.enroll(f, e.ctx, admin.ID)
		put, err := e.manager.Challenge(e.ctx, "totp", apikey.RotateRequest{Key: e.issue().Key.ID})
		require.NoError(t, err)
		f.kek.set(func(k *brokenKEK) {
			k.unwrap = func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, errKMS }
		})
		for range 12 {
			_, err = e.manager.Confirm(e.ctx, put.ID, f.app(admin.ID))
			require.ErrorIs(t, err, apikey.ErrUnavailable)
		}
		f.kek.set(func(k *brokenKEK) { k.unwrap = nil })
		for left := 4; left > 0; left-- {
			_, err = e.manager.Confirm(e.ctx, put.ID, "000000")
			var wrong *apikey.WrongAnswerError
			require.ErrorAs(t, err, &wrong)
			require.Equal(t, left, wrong.Left)
		}
		grant, err := e.manager.Confirm(e.ctx, put.ID, f.app(admin.ID))
		require.NoError(t, err)
		require.False(t, grant.IsZero())
		e.clock.move(totp.Period)
	})
}

// One address and all addresses are one entry each: the mail tells them apart. A new
// key's mail tells what it is restricted to.
func TestFound26AMailTellsHowWideANetworkIs(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, func(a apikey.Action, _ apikey.Mode) []string {
		if a == apikey.ActionUpdate || a == apikey.ActionIssue {
			return []string{"email"}
		}
		return nil
	}))
	narrow := apikey.IssueRequest{Mode: apikey.Live, Networks: nets("198.51.100.7/32"), Origins: []string{"https://shop.example"}, Disabled: true}
	narrow.Grant = e.approve(f, e.ctx, "email", narrow)
	for _, line := range []string{"networks: 1 listed, the widest an IPv4 /32\n", "origins: 1 listed\n", "it is suspended at first\n"} {
		require.Contains(t, f.mails[0].Text(), line)
	}
	key, err := e.manager.Issue(e.ctx, narrow)
	require.NoError(t, err)
	for line, list := range map[string][]netip.Prefix{
		"networks: 1 listed, among them every IPv4 address, before: 1 listed, the widest an IPv4 /32; 1 added, 1 removed\n": nets("0.0.0.0/0"),
		"networks: 2 listed, the widest an IPv6 /48, before: 1 listed, the widest an IPv4 /32; 1 added, 0 removed\n":        nets("198.51.100.7/32", "2001:db8::/48"),
		"networks: 1 listed, the widest an IPv4 /32, before: 1 listed, the widest an IPv4 /32; 1 added, 1 removed\n":        nets("203.0.113.9/32"),
	} {
		_, err := e.manager.Challenge(e.ctx, "email", apikey.UpdateRequest{Key: key.Key.ID, Networks: apikey.Set(list)})
		require.NoError(t, err)
		assert.Contains(t, f.mails[len(f.mails)-1].Text(), line)
	}
}

// Who writes to the database lets an event disappear from a filtered log, by a column
// that is more than the store reads of it: the unfiltered log says that it failed.
func TestFound05AColumnThatIsTooLarge(t *testing.T) {
	var db *sql.DB
	e := newEnv(t, onSQLite(&db))
	key := e.issue()
	require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID))
	_, err := db.Exec("UPDATE apikey_events SET mode = mode + 256 WHERE seq = 2")
	require.NoError(t, err)
	var failed []apikey.Event
	for _, ev := range e.allEvents(apikey.EventsRequest{}) {
		if ev.Doubt == apikey.DoubtFailed {
			failed = append(failed, ev)
		}
	}
	require.Len(t, failed, 1)
	_, _, err = verifyAll(staff(), e.manager)
	require.ErrorContains(t, err, failed[0].ID.String())
}

// An event of a key that is not there is in no chain that anybody walks.
func TestFound04EventsOfAKeyThatIsGone(t *testing.T) {
	var db *sql.DB
	e := newEnv(t, onSQLite(&db))
	e.issue()
	gone := e.issue().Key.ID
	_, _, err := verifyAll(staff(), e.manager)
	require.NoError(t, err)
	for _, statement := range []string{
		"DELETE FROM apikey_credentials WHERE key_id = ?", "DELETE FROM apikey_keys WHERE id = ?",
		"UPDATE apikey_events SET actor = 'usr_innocent' WHERE key_id = ?",
	} {
		_, err := db.Exec(statement, gone[:])
		require.NoError(t, err)
	}
	_, _, err = verifyAll(staff(), e.manager)
	require.ErrorContains(t, err, "was changed, or put there")
}
