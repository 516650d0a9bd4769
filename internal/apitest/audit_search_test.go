package apitest

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// history makes events of several people, accounts, modes and actions, and returns two
// keys of acc_1 and one of acc_2.
func (e *env) history() (keys [3]apikey.KeyID) {
	e.t.Helper()
	people := []string{"usr_1", "USR_1", "usr_2"}
	for i := range 60 {
		account := []string{"acc_1", "acc_1", "acc_2"}[i%3]
		ctx := apikey.WithActor(background, apikey.Actor{ID: people[i/3%3], Account: account, Role: "admin"})
		issued, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Mode(1 + i%2)})
		require.NoError(e.t, err)
		e.clock.move(time.Second)
		if i%4 == 0 {
			require.NoError(e.t, e.manager.Suspend(ctx, issued.Key.ID))
		}
		if i%10 == 0 {
			require.NoError(e.t, e.manager.Revoke(ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
		}
		keys[i%3] = issued.Key.ID
	}
	return keys
}

// found reads all pages of a search, newest first.
func (e *env) found(req apikey.EventsRequest) []apikey.Event {
	e.t.Helper()
	all := e.allEvents(req)
	slices.Reverse(all)
	return all
}

// The log is searched by who, what and when, in any combination and by any pages.
func TestEventsAreSearched(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		start := e.clock.now()
		keys := e.history()
		all := e.found(apikey.EventsRequest{})
		require.Greater(t, len(all), 80)
		since, before := start.Add(10*time.Second), start.Add(40*time.Second)
		for name, c := range map[string]struct {
			req  apikey.EventsRequest
			want func(apikey.Event) bool
		}{
			"actor":  {apikey.EventsRequest{Actor: "usr_1"}, func(ev apikey.Event) bool { return ev.Actor.ID == "usr_1" }},
			"action": {apikey.EventsRequest{Actions: []apikey.Action{apikey.ActionRevoke}}, func(ev apikey.Event) bool { return ev.Action == apikey.ActionRevoke }},
			"actions": {apikey.EventsRequest{Actions: []apikey.Action{apikey.ActionRevoke, apikey.ActionSuspend, apikey.ActionReveal}}, func(ev apikey.Event) bool {
				return ev.Action == apikey.ActionRevoke || ev.Action == apikey.ActionSuspend
			}},
			"since":       {apikey.EventsRequest{Since: since}, func(ev apikey.Event) bool { return !ev.Time.Before(since) }},
			"after since": {apikey.EventsRequest{Since: since.Add(1)}, func(ev apikey.Event) bool { return ev.Time.After(since) }},
			"before":      {apikey.EventsRequest{Before: before}, func(ev apikey.Event) bool { return ev.Time.Before(before) }},
			"not after":   {apikey.EventsRequest{Before: before.Add(1)}, func(ev apikey.Event) bool { return !ev.Time.After(before) }},
			"key and actor": {apikey.EventsRequest{Key: keys[0], Actor: "USR_1", Actions: []apikey.Action{apikey.ActionIssue}}, func(ev apikey.Event) bool {
				return ev.Key == keys[0] && ev.Actor.ID == "USR_1" && ev.Action == apikey.ActionIssue
			}},
			"all of it": {
				apikey.EventsRequest{Mode: apikey.Live, Actor: "usr_1", Actions: []apikey.Action{apikey.ActionIssue, apikey.ActionSuspend}, Since: since, Before: before},
				func(ev apikey.Event) bool {
					return ev.Mode == apikey.Live && ev.Actor.ID == "usr_1" && (ev.Action == apikey.ActionIssue || ev.Action == apikey.ActionSuspend) && !ev.Time.Before(since) && ev.Time.Before(before)
				},
			},
		} {
			for _, account := range []string{"acc_1", "acc_2", ""} {
				var want []apikey.Event
				for _, ev := range all {
					if c.want(ev) && (account == "" || ev.Account == account) {
						want = append(want, ev)
					}
				}
				if account == "" && c.req.Since.IsZero() {
					c.req.Since = start.Add(-time.Hour) // an Operator has to
				}
				for _, limit := range []int{0, 1, 7} {
					req := c.req
					req.Account, req.Limit = account, limit
					if len(want) == 0 && !req.Key.IsZero() { // another account's key
						_, err := e.manager.Events(staff(), req)
						require.ErrorIs(t, err, apikey.ErrNotFound, name)
						continue
					}
					require.NotEmpty(t, want, "%s of %q", name, account)
					require.Equal(t, want, e.found(req), "%s of %q, by %d", name, account, limit)
				}
			}
		}
	})
}

// A search that finds nothing says nothing about whether a key exists.
func TestEventsOfAKeyThatIsThere(t *testing.T) {
	e := newEnv(t)
	keys := e.history()
	for _, req := range []apikey.EventsRequest{
		{Actor: "nobody"}, {Actions: []apikey.Action{apikey.ActionReveal}}, {Since: e.clock.now().Add(time.Hour)}, {Before: e.clock.now().AddDate(-1, 0, 0)},
	} {
		req.Key = keys[0]
		list, err := e.manager.Events(e.ctx, req)
		require.NoError(t, err)
		require.Empty(t, list.Events)
		require.Empty(t, list.Next)
		for _, none := range []apikey.KeyID{keys[2], {1}} {
			req.Key = none
			_, err = e.manager.Events(e.ctx, req)
			require.ErrorIs(t, err, apikey.ErrNotFound)
		}
	}
}

// Requests that select the same have the same cursors, and others have others.
func TestEventsCursorIsOfItsSearch(t *testing.T) {
	e := newEnv(t)
	start := e.clock.now()
	e.history()
	a, b := apikey.ActionIssue, apikey.ActionSuspend
	since, before := start.Add(-time.Hour), start.Add(time.Hour)
	req := apikey.EventsRequest{Actions: []apikey.Action{a, b}, Actor: "usr_1", Since: since, Before: before, Limit: 2}
	page, err := e.manager.Events(e.ctx, req)
	require.NoError(t, err)
	require.NotEmpty(t, page.Next)
	change := func(change func(*apikey.EventsRequest)) apikey.EventsRequest {
		changed := req
		changed.Cursor = page.Next
		change(&changed)
		return changed
	}
	want, err := e.manager.Events(e.ctx, change(func(*apikey.EventsRequest) {}))
	require.NoError(t, err)
	require.NotEmpty(t, want.Events)
	for name, same := range map[string]apikey.EventsRequest{
		"actions in another order": change(func(r *apikey.EventsRequest) { r.Actions = []apikey.Action{b, a, a} }),
		"times of another zone": change(func(r *apikey.EventsRequest) {
			r.Since, r.Before = since.In(time.FixedZone("", 3600)), before.In(time.FixedZone("x", -60))
		}),
		"times with a monotonic clock": change(func(r *apikey.EventsRequest) {
			now := time.Now()
			r.Since, r.Before = now.Add(since.Sub(now)), now.Add(before.Sub(now))
		}),
	} {
		got, err := e.manager.Events(e.ctx, same)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	for name, other := range map[string]apikey.EventsRequest{
		"one action":    change(func(r *apikey.EventsRequest) { r.Actions = r.Actions[:1] }),
		"more actions":  change(func(r *apikey.EventsRequest) { r.Actions = append(slices.Clone(r.Actions), apikey.ActionRevoke) }),
		"all actions":   change(func(r *apikey.EventsRequest) { r.Actions = nil }),
		"another actor": change(func(r *apikey.EventsRequest) { r.Actor = "USR_1" }),
		"every actor":   change(func(r *apikey.EventsRequest) { r.Actor = "" }),
		"later":         change(func(r *apikey.EventsRequest) { r.Since = since.Add(1) }),
		"earlier":       change(func(r *apikey.EventsRequest) { r.Before = before.Add(-1) }),
		"a key":         change(func(r *apikey.EventsRequest) { r.Key = apikey.KeyID{1} }),
		"a mode":        change(func(r *apikey.EventsRequest) { r.Mode = apikey.Live }),
	} {
		_, err := e.manager.Events(e.ctx, other)
		requireWrong(t, wrongs{"cursor": "other_list"}, err, name)
	}
	_, err = e.manager.Events(as("acc_2", "admin"), change(func(*apikey.EventsRequest) {}))
	requireWrong(t, wrongs{"cursor": "other_list"}, err, "another account")
}

// A search of all accounts is bounded by a time, because no index finds it.
func TestEventsOfAllAccountsNeedSince(t *testing.T) {
	e := newEnv(t)
	start := e.clock.now()
	keys := e.history()
	search := apikey.EventsRequest{Actor: "usr_1", Actions: []apikey.Action{apikey.ActionIssue}}
	_, err := e.manager.Events(staff(), search)
	requireWrong(t, wrongs{"since": "required"}, err, "nothing bounds it")
	for name, bound := range map[string]func(*apikey.EventsRequest){
		"since":        func(r *apikey.EventsRequest) { r.Since = start },
		"account":      func(r *apikey.EventsRequest) { r.Account = "acc_1" },
		"key":          func(r *apikey.EventsRequest) { r.Key = keys[0] },
		"no search":    func(r *apikey.EventsRequest) { *r = apikey.EventsRequest{Before: start.Add(time.Hour)} },
		"a mode alone": func(r *apikey.EventsRequest) { *r = apikey.EventsRequest{Mode: apikey.Live} },
	} {
		req := search
		bound(&req)
		_, err := e.manager.Events(staff(), req)
		require.NoError(t, err, name)
	}
	_, err = e.manager.Events(e.ctx, search) // of their own account
	require.NoError(t, err)
}

// Who asks for an action that does not exist is told which do.
func TestUnknownActionIsNamed(t *testing.T) {
	e := newEnv(t)
	_, err := e.manager.Events(e.ctx, apikey.EventsRequest{Actions: []apikey.Action{apikey.ActionIssue, "key.delete"}})
	wrong := apikey.InvalidFields(err)
	require.Len(t, wrong, 1)
	require.Equal(t, "key.delete", wrong[0].Value)
	require.Contains(t, wrong[0].Known, string(apikey.ActionRevoke))
	require.Len(t, wrong[0].Known, 24)
	for _, known := range wrong[0].Known {
		_, err := e.manager.Events(e.ctx, apikey.EventsRequest{Actions: []apikey.Action{apikey.Action(known)}})
		require.NoError(t, err, known)
	}
	// A caller's list is not shared with the next one.
	wrong[0].Known[0] = "x"
	_, err = e.manager.Events(e.ctx, apikey.EventsRequest{Actions: []apikey.Action{"x"}})
	require.NotContains(t, apikey.InvalidFields(err)[0].Known, "x")
}
