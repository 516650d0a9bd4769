package apitest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// A refusal is in the log once an actor, action, key and minute, whichever node
// it was; all of them go to Trace.
func TestDenialsAreRecordedOnceAMinute(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		traced := 0
		e := newEnv(t, on, func(e *env) {
			e.settings.Trace = &apikey.Trace{Denied: func(a apikey.Actor, act apikey.Action, key apikey.KeyID, err error) {
				traced++
			}}
		})
		other := e.newManager()
		key, second := e.issue(), e.issue()
		viewer := apikey.Actor{ID: "usr_2", Account: "acc_1", Role: "viewer", Addr: "192.0.2.9"}
		refused := func(a apikey.Actor, id apikey.KeyID, managers ...*apikey.Manager) {
			for _, m := range managers {
				_, err := m.Update(apikey.WithActor(background, a), apikey.UpdateRequest{Key: id, Name: apikey.Set("x")})
				require.ErrorIs(t, err, apikey.ErrForbidden)
				require.ErrorContains(t, err, `role "viewer" may not`)
			}
		}
		denials := func() (list []apikey.Event) {
			for _, ev := range e.allEvents(apikey.EventsRequest{Account: "acc_1"}) {
				if ev.Outcome == apikey.OutcomeRefused {
					list = append(list, ev)
				}
			}
			return list
		}
		for range 5 {
			refused(viewer, key.Key.ID, e.manager, other)
		}
		require.Equal(t, 10, traced)
		list := denials()
		require.Len(t, list, 1)
		require.Equal(t, apikey.Event{
			ID: list[0].ID, Time: e.clock.now().UTC().Truncate(time.Microsecond), Action: apikey.ActionUpdate, Outcome: apikey.OutcomeRefused,
			Account: "acc_1", Mode: apikey.Live, Key: key.Key.ID, Actor: viewer,
		}, list[0])
		require.Zero(t, list[0].Seq, "outside the chain")
		require.NoError(t, e.chain(key.Key.ID))

		refused(viewer, second.Key.ID, e.manager)
		require.Len(t, denials(), 2, "another key")
		require.ErrorIs(t, e.manager.Suspend(apikey.WithActor(background, viewer), key.Key.ID), apikey.ErrForbidden)
		require.Len(t, denials(), 3, "another action")
		viewer.ID = "usr_3"
		refused(viewer, key.Key.ID, e.manager)
		require.Len(t, denials(), 4, "another actor")
		e.clock.move(time.Minute)
		refused(viewer, key.Key.ID, e.manager, other)
		require.Len(t, denials(), 5, "another minute")
		require.NoError(t, e.verify(key.Token))
	})
}

// Refusals cannot fill the log: some hundreds a minute, account and node are
// kept, and those of one account crowd out nobody else's.
func TestDenialsAreBounded(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	written := 0
	p.hook(func(p *proxy) {
		p.apply = func(next func() error, _ []apikey.StoreChange) error { written++; return next() }
	})
	refused := func(account string, n int) {
		for i := range n {
			ctx := apikey.WithActor(background, apikey.Actor{ID: fmt.Sprint("usr_", i), Account: account, Role: "viewer"})
			_, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.ErrorIs(t, err, apikey.ErrForbidden)
		}
	}
	refused("acc_1", 1100)
	bound := written
	require.GreaterOrEqual(t, bound, 100)
	require.LessOrEqual(t, bound, 1000)
	refused("acc_2", 10)
	require.Equal(t, bound+10, written)
	e.clock.move(time.Minute)
	refused("acc_1", 10)
	require.Equal(t, bound+20, written)
}

// Hanging up is no way out of the log.
func TestDenialOfSomebodyWhoHungUp(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(as("acc_1", "viewer"))
	cancel()
	_, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	events := e.allEvents(apikey.EventsRequest{Account: "acc_1"})
	require.Len(t, events, 1)
	require.Equal(t, apikey.OutcomeRefused, events[0].Outcome)
}

// A log that takes no refusals does not stop anybody: neither the refusal
// itself nor, with a thousand of them waiting, a suspension.
func TestDenialsHoldUpNothing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		key := e.issue()
		require.NoError(t, e.verify(key.Token))
		release := make(chan struct{})
		var waiting, done sync.WaitGroup
		waiting.Add(1000)
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, changes []apikey.StoreChange) error {
				if changes[0].Record == nil { // a denial
					waiting.Done()
					<-release
				}
				return next()
			}
		})
		for i := range 1000 {
			done.Go(func() {
				ctx := apikey.WithActor(background, apikey.Actor{ID: fmt.Sprint("usr_", i), Account: fmt.Sprint("acc_", i%10), Role: "viewer"})
				if _, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live}); err == nil {
					t.Error("a viewer issued a key")
				}
			})
		}
		waiting.Wait()
		begin := time.Now()
		require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID))
		require.Less(t, time.Since(begin), time.Second)
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrSuspended)
		close(release)
		begin = time.Now()
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}), "while they are all written")
		require.Less(t, time.Since(begin), 2*time.Second)
		done.Wait()
	})
}

// A log that cannot be written refuses no less.
func TestDenialThatCannotBeWritten(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	p.hook(func(p *proxy) { p.apply = func(func() error, []apikey.StoreChange) error { return errCable } })
	_, err := e.manager.Issue(as("acc_1", "viewer"), apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	require.NotErrorIs(t, err, errCable)
}
