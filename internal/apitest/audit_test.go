package apitest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// Each action writes the one event that says who did what to which fields of
// which key, and no value; OnEvent gets that very event, after the commit.
func TestEveryActionHasItsEvent(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var e *env
		var told []apikey.Event
		e = newEnv(t, on, func(e *env) { e.mc.OnEvent = func(ev apikey.Event) { told = append(told, ev) } })
		require.Len(t, told, 1)
		require.Equal(t, apikey.ActionPepper, told[0].Action)
		require.Equal(t, []string{"01"}, told[0].Changed)
		a := apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin", Addr: "192.0.2.7", UserAgent: "curl/8", RequestID: "req_9"}
		ctx := apikey.WithActor(background, a)
		var key apikey.Issued
		const value = "a value that no log shows"
		for _, c := range []struct {
			name    string
			call    func() error
			action  apikey.Action
			seq     uint64
			cred    bool
			changed []string
			reason  apikey.Reason
		}{
			{"issue", func() (err error) {
				key, err = e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Name: value, Abilities: []string{"payment:refund"}, Metadata: map[string]string{"m": value}})
				return err
			}, apikey.ActionIssue, 1, true, []string{"abilities", "metadata", "name"}, ""},
			{"update", func() error {
				_, err := e.manager.Update(ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(value + "!"), Metadata: apikey.Set(map[string]string{value[:9]: value}), RotateMonths: apikey.Set(3), Origins: apikey.Set([]string{"https://a.example"})})
				return err
			}, apikey.ActionUpdate, 2, false, []string{"metadata", "name", "origins", "rotate_months"}, ""},
			{"suspend", func() error { return e.manager.Suspend(ctx, key.Key.ID) }, apikey.ActionSuspend, 3, false, []string{"disabled"}, ""},
			{"resume", func() error { return e.manager.Resume(ctx, apikey.ResumeRequest{Key: key.Key.ID}) }, apikey.ActionResume, 4, false, []string{"disabled"}, ""},
			{"revoke token", func() error { return e.manager.RevokeToken(ctx, key.Token.Reveal(), "leaked") }, apikey.ActionRevokeToken, 5, true, []string{"credentials"}, "leaked"},
			{"revoke", func() error {
				return e.manager.Revoke(ctx, apikey.RevokeRequest{Key: key.Key.ID, Reason: apikey.ReasonCompromised})
			}, apikey.ActionRevoke, 6, false, []string{"revoked_at"}, apikey.ReasonCompromised},
		} {
			told = nil
			e.clock.move(time.Second)
			require.NoError(t, c.call(), c.name)
			require.Len(t, told, 1, c.name)
			log, err := e.manager.Events(e.ctx, apikey.EventsRequest{Limit: 1})
			require.NoError(t, err)
			require.Equal(t, told[0], log.Events[0], "%s: what is told is what is kept", c.name)
			want := apikey.Event{
				ID: told[0].ID, Time: e.clock.now().UTC().Truncate(time.Microsecond), Action: c.action, Outcome: apikey.OutcomeDone, Account: "acc_1",
				Mode: apikey.Live, Key: key.Key.ID, Seq: c.seq, Actor: a, Changed: c.changed, Reason: c.reason,
			}
			if c.cred {
				want.Credential = key.Token.Credential()
			}
			if c.action == apikey.ActionRevokeToken {
				want.Actor = told[0].Actor
				require.Equal(t, "credential:"+key.Token.Credential().String(), told[0].Actor.ID)
				require.Equal(t, "192.0.2.7", told[0].Actor.Addr)
			}
			require.Equal(t, want, told[0], c.name)
			stored, err := e.store.Events(background, apikey.StoreEventFilter{Key: key.Key.ID, Limit: 1})
			require.NoError(t, err)
			require.NotContains(t, string(stored.Events[0].Body), value, c.name)
			require.NotContains(t, string(stored.Events[0].Body), key.Token.Reveal()[40:60], c.name)
		}
		told = nil
		_, err := e.manager.Provision(ctx, apikey.ProvisionRequest{})
		require.NoError(t, err)
		require.Len(t, told, 2, "one a key")
		require.Equal(t, apikey.ActionProvision, told[0].Action)
		require.NotEqual(t, told[0].Key, told[1].Key)
		for _, ev := range told {
			require.Equal(t, uint64(1), ev.Seq)
			require.NoError(t, e.chain(ev.Key))
		}
	})
}

// OnEvent finds everything done: the record, the event, and the Verifiers told.
// What failed or changed nothing is not told.
func TestOnEventComesAfterTheCommit(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var e *env
		var key apikey.Issued
		calls := 0
		var p *proxy
		e = newEnv(t, on, through(&p))
		e.restart(func(c *managerConfig) {
			c.OnEvent = func(ev apikey.Event) {
				calls++
				r, err := e.store.Get(background, ev.Key)
				require.NoError(t, err)
				require.Equal(t, ev.Seq, r.Version)
				page, err := e.store.Events(background, apikey.StoreEventFilter{Key: ev.Key, Chain: true})
				require.NoError(t, err)
				require.Len(t, page.Events, int(ev.Seq))
				if ev.Action == apikey.ActionRevoke {
					require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
					require.NoError(t, e.chain(ev.Key), "it may call the Manager")
				}
			}
		})
		m := e.manager
		key = e.issue()
		require.NoError(t, e.verify(key.Token))
		calls = 0
		_, err := m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("told")})
		require.NoError(t, err)
		require.Equal(t, 1, calls)

		_, err = m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("told")})
		require.NoError(t, err)
		_, err = m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("\x00")})
		require.Error(t, err)
		_, err = m.Get(e.ctx, key.Key.ID)
		require.NoError(t, err)
		_, err = m.Update(as("acc_1", "viewer"), apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("x")})
		require.ErrorIs(t, err, apikey.ErrForbidden)
		p.hook(func(p *proxy) { p.apply = func(func() error, []apikey.StoreChange) error { return errCable } })
		_, err = m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("x")})
		require.Error(t, err)
		p.hook(func(p *proxy) { p.apply = nil })
		require.Equal(t, 1, calls, "nothing of this happened")
		require.NoError(t, m.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		require.Equal(t, 2, calls)
	})
}

// A change whose event cannot be written does not happen.
func TestNoEventNoChange(t *testing.T) {
	store, db := sqliteOf(t)
	e := newEnv(t, func(e *env) { e.store = store })
	key := e.issue()
	before, err := store.Get(background, key.Key.ID)
	require.NoError(t, err)
	_, err = db.Exec(`CREATE TRIGGER full BEFORE INSERT ON apikey_events BEGIN SELECT RAISE(ABORT, 'the log is full'); END`)
	require.NoError(t, err)
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("unseen")})
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorContains(t, err, "the log is full")
	_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorContains(t, err, "the log is full")
	ctx, cancel := context.WithTimeout(e.ctx, 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, e.manager.Revoke(ctx, apikey.RevokeRequest{Key: key.Key.ID}), apikey.ErrUnavailable)
	after, err := store.Get(background, key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, before, after)
	list, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.NoError(t, err)
	require.Len(t, list.Keys, 1)
}

func TestEventsFiltersAndPages(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		live := e.issue().Key.ID
		e.clock.move(time.Second)
		test := e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test }).Key.ID
		for i := range 5 {
			e.clock.move(time.Second)
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: []apikey.KeyID{live, test}[i%2], Name: apikey.Set(fmt.Sprint(i))})
			require.NoError(t, err)
		}
		_, err := e.manager.Issue(as("acc_2", "admin"), apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		for _, c := range []struct {
			name string
			ctx  context.Context
			req  apikey.EventsRequest
			want int
		}{
			{"own account", e.ctx, apikey.EventsRequest{}, 7},
			{"own account by name", e.ctx, apikey.EventsRequest{Account: "acc_1"}, 7},
			{"live", e.ctx, apikey.EventsRequest{Mode: apikey.Live}, 4},
			{"a key", e.ctx, apikey.EventsRequest{Key: test}, 3},
			{"operator, all", staff(), apikey.EventsRequest{}, 9}, // with the pepper's introduction
			{"operator, one", staff(), apikey.EventsRequest{Account: "acc_2"}, 1},
		} {
			var whole []apikey.Event
			for _, limit := range []int{0, 1, 2, 3, 1000} {
				var all []apikey.Event
				for req := c.req; ; {
					req.Limit = limit
					page, err := e.manager.Events(c.ctx, req)
					require.NoError(t, err)
					if all = append(all, page.Events...); page.Next == "" {
						break
					}
					req.Cursor = page.Next
				}
				require.Len(t, all, c.want, "%s by %d", c.name, limit)
				require.True(t, slices.IsSortedFunc(all, func(a, b apikey.Event) int { return b.Time.Compare(a.Time) }), "newest first")
				if whole == nil {
					whole = all
				}
				require.Equal(t, whole, all, "%s by %d", c.name, limit)
			}
		}
		page, err := e.manager.Events(e.ctx, apikey.EventsRequest{Limit: 1})
		require.NoError(t, err)
		for name, req := range map[string]apikey.EventsRequest{
			"cursor of another filter": {Mode: apikey.Live, Cursor: page.Next},
			"cursor of another key":    {Key: live, Cursor: page.Next},
			"garbage":                  {Cursor: "x.y"},
			"limit":                    {Limit: 1001},
		} {
			_, err := e.manager.Events(e.ctx, req)
			require.ErrorIs(t, err, apikey.ErrInvalid, name)
		}
		_, err = e.manager.Events(as("acc_2", "admin"), apikey.EventsRequest{Cursor: page.Next})
		require.ErrorIs(t, err, apikey.ErrInvalid)
	})
}

// A damaged event is shown by its columns, as such; it does not hide the others.
func TestUnreadableEventIsShown(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	id, _ := lived(e)
	p.hook(func(p *proxy) {
		p.events = func(all []apikey.StoreEvent) []apikey.StoreEvent { all[1].Body = all[1].Body[:50]; return all }
	})
	log, err := e.manager.Events(e.ctx, apikey.EventsRequest{Key: id})
	require.NoError(t, err)
	require.Len(t, log.Events, 5)
	bad := log.Events[1]
	require.Equal(t, apikey.OutcomeUnreadable, bad.Outcome)
	require.Equal(t, apikey.ActionSuspend, bad.Action)
	require.Equal(t, "usr_1", bad.Actor.ID)
	require.Equal(t, id, bad.Key)
	require.Equal(t, uint64(4), bad.Seq)
}
