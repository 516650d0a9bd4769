package apitest

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

const day = 24 * time.Hour

// relatives are requests with relative filters, each with what it selects at an instant,
// in words of Info.
var relatives = map[string]struct {
	req     apikey.ListRequest
	selects func(k apikey.Info, at time.Time) bool
}{
	"usable": {apikey.ListRequest{Usable: true}, func(k apikey.Info, at time.Time) bool { return isUsable(k, at) }},
	"expired": {apikey.ListRequest{Expired: true}, func(k apikey.Info, at time.Time) bool {
		return k.Status(at, 0) == apikey.StatusExpired
	}},
	"expiring": {apikey.ListRequest{ExpiringWithin: 2 * day}, func(k apikey.Info, at time.Time) bool {
		return k.Status(at, 2*day) == apikey.StatusExpiring
	}},
	"expiring in a part of a microsecond": {apikey.ListRequest{ExpiringWithin: 1500}, func(k apikey.Info, at time.Time) bool {
		return k.Status(at, 1500) == apikey.StatusExpiring
	}},
	"unused": {apikey.ListRequest{UnusedFor: 3 * day}, unusedFor},
	"due": {apikey.ListRequest{DueWithin: day}, func(k apikey.Info, at time.Time) bool {
		return !k.RotateDue.IsZero() && !k.RotateDue.After(at.Add(day))
	}},
	"usable, unused and due": {apikey.ListRequest{Usable: true, UnusedFor: 3 * day, DueWithin: day}, func(k apikey.Info, at time.Time) bool {
		return isUsable(k, at) && unusedFor(k, at) && !k.RotateDue.IsZero() && !k.RotateDue.After(at.Add(day))
	}},
	"usable and expiring before a date": {apikey.ListRequest{Usable: true, ExpiringBefore: relativeStart.Add(day)}, func(k apikey.Info, at time.Time) bool {
		return isUsable(k, at) && !k.ExpiresAt.IsZero() && k.ExpiresAt.Before(relativeStart.Add(day))
	}},
	"expired and of a mode": {apikey.ListRequest{Expired: true, Mode: apikey.Test, State: apikey.Active}, func(k apikey.Info, at time.Time) bool {
		return k.Status(at, 0) == apikey.StatusExpired && k.Mode == apikey.Test
	}},
}

func isUsable(k apikey.Info, at time.Time) bool {
	s := k.Status(at, 0)
	return s == apikey.StatusActive || s == apikey.StatusExpiring
}

func unusedFor(k apikey.Info, at time.Time) bool {
	since := at.Add(-3 * day)
	return k.CreatedAt.Before(since) && k.LastUsed.Before(since)
}

var relativeStart = time.Date(2026, 3, 29, 0, 59, 59, 999_999_000, time.UTC)

// around has instants at which a comparison may be wrong, and others.
func around(rnd *rand.Rand, days int) time.Time {
	t := relativeStart.Add(time.Duration(rnd.IntN(2*days+1)-days) * day)
	switch rnd.IntN(3) {
	case 0:
		return t
	case 1:
		return t.Add(time.Duration(rnd.IntN(5)-2) * time.Microsecond)
	}
	return t.Add(time.Duration(rnd.IntN(200_000)) * time.Second)
}

// populate stores n keys in every state that a relative filter tells apart.
func populate(t *testing.T, s apikey.Store, n int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	for n > 0 {
		var changes []apikey.StoreChange
		for range min(n, 500) {
			r := apikey.StoreRecord{
				ID: storetest.NewKeyID(), Account: admin.Account, Mode: apikey.Mode(1 + rnd.IntN(2)), Kind: apikey.Secret, Version: 1,
				CreatedAt: around(rnd, 9), Disabled: rnd.IntN(8) == 0,
			}
			if rnd.IntN(4) > 0 {
				r.ExpiresAt = around(rnd, 3)
			}
			if rnd.IntN(8) == 0 {
				r.RevokedAt = around(rnd, 3)
			}
			if rnd.IntN(3) > 0 {
				r.RotateMonths, r.RotateDue = 1, around(rnd, 3)
			}
			for range 1 + rnd.IntN(2) {
				c := apikey.StoreCredential{ID: storetest.NewCredentialID(), Hint: "hint", Ended: rnd.IntN(5) == 0}
				if rnd.IntN(2) == 0 {
					c.LastUsed = around(rnd, 4)
				}
				if rnd.IntN(3) == 0 {
					c.NotBefore = around(rnd, 3)
				}
				if rnd.IntN(3) == 0 {
					c.NotAfter = around(rnd, 3)
				}
				r.Credentials = append(r.Credentials, c)
			}
			id := [16]byte(storetest.NewKeyID())
			changes = append(changes, apikey.StoreChange{ID: id, Record: &r, Event: &apikey.StoreEvent{ID: id, Time: r.CreatedAt, Account: r.Account, Key: r.ID, Seq: 1}})
		}
		require.NoError(t, s.Apply(background, changes...))
		n -= len(changes)
	}
}

func (e *env) setClock(t time.Time) { e.clock.move(t.Sub(e.clock.now())) }

// walk reads all pages of a list, and moves the clock before each page after the first.
func (e *env) walk(req apikey.ListRequest, pause time.Duration) (keys []apikey.Info, pages int) {
	e.t.Helper()
	for {
		list, err := e.manager.List(e.ctx, req)
		require.NoError(e.t, err)
		require.Empty(e.t, list.Damaged)
		keys, pages = append(keys, list.Keys...), pages+1
		if req.Cursor = list.Next; req.Cursor == "" {
			return keys, pages
		}
		e.clock.move(pause)
	}
}

// A walk of ten thousand keys is about the instant of its first page: while the clock
// moves over all that begins and ends, each key that was selected then is shown once, and
// no other is.
func TestRelativeFiltersWalk(t *testing.T) {
	e := newEnv(t, noPepper)
	populate(t, e.store, 10_000)
	e.setClock(relativeStart)
	all, _ := e.walk(apikey.ListRequest{Limit: 1000}, 0)
	require.Len(t, all, 10_000)
	for name, c := range relatives {
		e.setClock(relativeStart.Add(700)) // parts of a microsecond do not count
		want := map[apikey.KeyID]bool{}
		for _, k := range all {
			if c.selects(k, relativeStart) {
				want[k.ID] = true
			}
		}
		require.Greater(t, len(want), 10, name)
		require.Less(t, len(want), 9_000, name)
		c.req.Limit = 25
		found, pages := e.walk(c.req, 2*time.Hour)
		if len(want) > 100 {
			require.Greater(t, pages, 4, name)
		}
		require.Len(t, found, len(want), name)
		for _, k := range found {
			require.True(t, want[k.ID], "%s: %+v is shown twice, or is none", name, k)
			delete(want, k.ID)
		}
	}
}

// The same on a database, at each of many instants.
func TestRelativeFiltersAgreeWithStatus(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on, noPepper)
		populate(t, e.store, 300)
		all, _ := e.walk(apikey.ListRequest{Limit: 1000}, 0)
		require.Len(t, all, 300)
		told := map[string]int{}
		for _, from := range []time.Duration{-2 * day, -time.Microsecond, 0, time.Microsecond, 2 * day} {
			at := relativeStart.Add(from)
			for name, c := range relatives {
				e.setClock(at)
				var want, got []string
				for _, k := range all {
					if c.selects(k, at) {
						want = append(want, k.ID.String())
					}
				}
				found, _ := e.walk(c.req, time.Hour)
				for _, k := range found {
					got = append(got, k.ID.String())
				}
				require.Equal(t, want, got, "%s at %v", name, at)
				told[name] += len(want)
			}
		}
		for name := range relatives {
			require.Positive(t, told[name], name)
		}
	})
}

// The cursor of a relative filter is text for a URL, fits this filter alone, and nobody
// can move its instant.
func TestRelativeCursor(t *testing.T) {
	e := newEnv(t, noPepper)
	populate(t, e.store, 300)
	e.setClock(relativeStart)
	for name, c := range relatives {
		c.req.Limit = 1
		page, err := e.manager.List(e.ctx, c.req)
		require.NoError(t, err)
		require.NotEmpty(t, page.Next, name)
		require.Equal(t, url.QueryEscape(string(page.Next)), string(page.Next), name)
		at, rest, _ := strings.Cut(string(page.Next), ".")
		micros, err := strconv.ParseInt(at, 36, 64)
		require.NoError(t, err)
		require.Equal(t, relativeStart.UnixMicro(), micros, name)

		refused := func(what string, req apikey.ListRequest, cursor string) {
			t.Helper()
			req.Limit, req.Cursor = 1, apikey.Cursor(cursor)
			_, err := e.manager.List(e.ctx, req)
			requireWrong(t, wrongs{"cursor": "other_list"}, err, name+": "+what)
		}
		for what, n := range map[string]int64{"later": micros + 1, "earlier": micros - 1, "zero": 0, "the first": -1 << 63, "the last": 1<<63 - 1, "the year 1": time.Time{}.UnixMicro()} {
			refused(what, c.req, strconv.FormatInt(n, 36)+"."+rest)
		}
		for what, text := range map[string]string{"none": "", "a word": "soon?", "a sign": "+" + at, "a zero": "0" + at, "capitals": strings.ToUpper(at), "too much": at + at + at} {
			refused(what, c.req, text+"."+rest)
		}
		refused("without its instant", c.req, rest)
		refused("nothing else", c.req, at+".")
		refused("nothing at all", c.req, at)
		refused("a list that is not relative", apikey.ListRequest{State: c.req.State}, string(page.Next))
		for other, o := range relatives {
			if other != name {
				refused(other, o.req, string(page.Next))
			}
		}
		longer := c.req
		longer.UnusedFor += time.Nanosecond
		refused("another duration", longer, string(page.Next))
	}
}

// Whoever forges a whole cursor, with an instant and all, sees of their own account what
// they can ask for by a date too.
func TestForgedRelativeCursorIsHarmless(t *testing.T) {
	e := newEnv(t, noPepper)
	populate(t, e.store, 300)
	e.setClock(relativeStart)
	since := relativeStart.Add(-day)
	plain := apikey.ListRequest{UnusedSince: since, Limit: 1}
	first, err := e.manager.List(e.ctx, plain)
	require.NoError(t, err)
	plain.Cursor, plain.Limit = first.Next, 1000
	want, err := e.manager.List(e.ctx, plain)
	require.NoError(t, err)
	require.NotEmpty(t, want.Keys)
	forged := apikey.Cursor(strconv.FormatInt(since.Add(3*day).UnixMicro(), 36)) + "." + first.Next
	got, err := e.manager.List(e.ctx, apikey.ListRequest{UnusedFor: 3 * day, Limit: 1000, Cursor: forged})
	require.NoError(t, err)
	require.Equal(t, want.Keys, got.Keys)
	_, err = e.manager.List(as("acc_2", "admin"), apikey.ListRequest{UnusedFor: 3 * day, Limit: 1000, Cursor: forged})
	requireWrong(t, wrongs{"cursor": "other_list"}, err, "another account")

	// An instant that would make the filter's time the zero time, which selects all.
	all, err := e.manager.List(e.ctx, apikey.ListRequest{Limit: 1})
	require.NoError(t, err)
	forged = apikey.Cursor(strconv.FormatInt(time.Time{}.Add(3*day).UnixMicro(), 36)) + "." + all.Next
	_, err = e.manager.List(e.ctx, apikey.ListRequest{UnusedFor: 3 * day, Cursor: forged})
	requireWrong(t, wrongs{"cursor": "other_list"}, err, "a filter that selects all")
}

// Each contradiction is found by itself, and what only looks like one is none.
func TestRelativeFiltersContradict(t *testing.T) {
	e := newEnv(t)
	at := e.clock.now()
	for i, c := range []struct {
		req  apikey.ListRequest
		want wrongs
	}{
		{apikey.ListRequest{Usable: true, Expired: true}, wrongs{"expired": "contradiction"}},
		{apikey.ListRequest{Usable: true, State: apikey.Suspended}, wrongs{"usable": "contradiction"}},
		{apikey.ListRequest{Usable: true, State: 77}, wrongs{"state": "unknown"}},
		{apikey.ListRequest{Expired: true, State: 77}, wrongs{"state": "unknown"}},
		{apikey.ListRequest{Usable: true, NotExpiredAt: at}, wrongs{"usable": "contradiction"}},
		{apikey.ListRequest{Expired: true, State: apikey.Revoked}, wrongs{"expired": "contradiction"}},
		{apikey.ListRequest{Expired: true, ExpiringBefore: at}, wrongs{"expired": "contradiction"}},
		{apikey.ListRequest{Expired: true, ExpiringWithin: day}, wrongs{"expiring_within": "contradiction"}},
		{apikey.ListRequest{ExpiringWithin: day, ExpiringBefore: at}, wrongs{"expiring_within": "contradiction"}},
		{apikey.ListRequest{ExpiringWithin: day, State: apikey.Suspended}, wrongs{"expiring_within": "contradiction"}},
		{apikey.ListRequest{UnusedFor: day, UnusedSince: at}, wrongs{"unused_for": "contradiction"}},
		{apikey.ListRequest{DueWithin: day, DueBefore: at}, wrongs{"due_within": "contradiction"}},
		{apikey.ListRequest{DueWithin: 50*365*day + 1}, wrongs{"due_within": "out_of_range"}},
		{apikey.ListRequest{UnusedFor: -1}, wrongs{"unused_for": "out_of_range"}},
		{apikey.ListRequest{Usable: true, State: apikey.Active, ExpiringWithin: day, UnusedFor: 50 * 365 * day, DueWithin: 1}, nil},
		{apikey.ListRequest{UnusedFor: day, NeverUsed: true, State: apikey.Revoked, NotExpiredAt: at}, nil},
	} {
		_, err := e.manager.List(e.ctx, c.req)
		if c.want == nil {
			require.NoError(t, err, i)
			continue
		}
		requireWrong(t, c.want, err, fmt.Sprint(i))
	}
}
