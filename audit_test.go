package apikey_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// lived is a key with a chain of five events, and the record as it was after
// each of them.
func lived(e *env) (id apikey.KeyID, versions [6]apikey.Record) {
	e.t.Helper()
	id = e.issue().Key.ID
	for v, step := range []func() error{
		1: func() error { return nil },
		2: func() error {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: id, Name: apikey.Set("two")})
			return err
		},
		3: func() error {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: id, Abilities: apikey.Clear[[]string]()})
			return err
		},
		4: func() error { return e.manager.Suspend(e.ctx, apikey.SuspendRequest{Key: id}) },
		5: func() error { return e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: id}) },
	} {
		if step != nil {
			require.NoError(e.t, step())
			var err error
			versions[v], err = e.store.Get(background, id)
			require.NoError(e.t, err)
			require.Equal(e.t, uint64(v), versions[v].Version)
		}
	}
	return id, versions
}

func TestChainHolds(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		for name, option := range map[string]func(*env){"peppered": func(*env) {}, "plain": noPepper} {
			e := newEnv(t, on, option)
			id, _ := lived(e)
			report, err := e.manager.VerifyEvents(e.ctx, apikey.VerifyEventsRequest{Key: id})
			require.NoError(t, err)
			require.Equal(t, apikey.ChainReport{Events: 5}, report, name)
			require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: id}))
			require.NoError(t, e.chain(id), "a tombstone's log too")
		}
	})
}

func TestLongChainHolds(t *testing.T) {
	e := newEnv(t)
	id := e.issue().Key.ID
	for i := range 1100 {
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: id, Name: apikey.Set(fmt.Sprint(i))})
		require.NoError(t, err)
	}
	report, err := e.manager.VerifyEvents(e.ctx, apikey.VerifyEventsRequest{Key: id})
	require.NoError(t, err)
	require.Equal(t, apikey.ChainReport{Events: 1101}, report)
}

// Whatever is done to a chain behind the library's back, the event at which it
// breaks is named.
func TestTamperedChain(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	id, versions := lived(e)
	other, _ := lived(e)
	old, err := p.Store.Events(background, apikey.EventFilter{Key: other, Chain: true})
	require.NoError(t, err)
	type events = []apikey.EventRecord
	at := func(seq int, change func(*apikey.EventRecord)) func(events) events {
		return func(all events) events { change(&all[seq-1]); return all }
	}
	column := func(change func(*apikey.EventRecord)) func(events) events { return at(3, change) }
	for _, c := range []struct {
		name   string
		events func(events) events
		record func(*apikey.Record)
		want   uint64
	}{
		{"first event dropped", func(a events) events { return a[1:] }, nil, 1},
		{"event dropped", func(a events) events { return slices.Delete(a, 2, 3) }, nil, 3},
		{"tail truncated", func(a events) events { return a[:3] }, nil, 4},
		{"last event dropped", func(a events) events { return a[:4] }, nil, 5},
		{"log emptied", func(events) events { return nil }, nil, 1},
		{"events reordered", func(a events) events { a[1], a[2] = a[2], a[1]; return a }, nil, 2},
		{"event doubled", func(a events) events { return slices.Insert(a, 3, a[2]) }, nil, 4},
		{"event appended", func(a events) events { return append(a, forgedEvent(a[4], 6)) }, nil, 6},
		{"event of another key", func(a events) events { a[2] = old.Events[2]; a[2].Key = id; return a }, nil, 3},
		{"hash replaced", at(2, func(ev *apikey.EventRecord) { ev.Hash = [32]byte{1} }), nil, 2},
		{"last hash replaced", at(5, func(ev *apikey.EventRecord) { ev.Hash[31] ^= 1 }), nil, 5},
		{"body emptied", at(4, func(ev *apikey.EventRecord) { ev.Body = nil }), nil, 4},
		{"body longer", at(4, func(ev *apikey.EventRecord) { ev.Body = append(ev.Body, 0) }), nil, 4},
		{"ID", column(func(ev *apikey.EventRecord) { ev.ID[0]++ }), nil, 3},
		{"time", column(func(ev *apikey.EventRecord) { ev.Time = ev.Time.Add(time.Microsecond) }), nil, 3},
		{"account", column(func(ev *apikey.EventRecord) { ev.Account = "acc_2" }), nil, 3},
		{"mode", column(func(ev *apikey.EventRecord) { ev.Mode = apikey.Test }), nil, 3},
		{"key", column(func(ev *apikey.EventRecord) { ev.Key = other }), nil, 3},
		{"credential", column(func(ev *apikey.EventRecord) { ev.Credential = apikey.NewCredentialID() }), nil, 3},
		{"seq", column(func(ev *apikey.EventRecord) { ev.Seq = 4 }), nil, 3},
		{"actor", column(func(ev *apikey.EventRecord) { ev.Actor = "somebody else" }), nil, 3},
		{"action", column(func(ev *apikey.EventRecord) { ev.Action = apikey.ActionRead }), nil, 3},
		{"first event without the pepper", at(1, downgrade), nil, 1},
		{"event without the pepper", at(2, downgrade), nil, 2},
		{"last event without the pepper", at(5, downgrade), nil, 5},
		{"tail without the pepper", func(a events) events { return append(a[:2], downgradeFrom(a[1].Hash, a[2:])...) }, nil, 3},
		{"whole chain without the pepper", downgradeAll, nil, 5},
		{"whole chain without the pepper, and the head", downgradeAll, func(r *apikey.Record) {
			page, err := p.Store.Events(background, apikey.EventFilter{Key: id, Chain: true})
			require.NoError(t, err)
			r.Head = downgradeAll(page.Events)[4].Hash
		}, 5},
		{"event rewritten, with a hash of its own", at(3, rewrite), nil, 3},
		{"record put back", nil, func(r *apikey.Record) { *r = versions[3] }, 4},
		{"record put back to its first version", nil, func(r *apikey.Record) { *r = versions[1] }, 2},
		{"record at version 0", nil, func(r *apikey.Record) { r.Version = 0 }, 1},
		{"record at version 0 and log emptied", func(events) events { return nil }, func(r *apikey.Record) { r.Version = 0 }, 1},
		{"head changed", nil, func(r *apikey.Record) { r.Head[0] ^= 1 }, 5},
		{"record changed", nil, func(r *apikey.Record) { r.Name = "bent" }, 5},
		{"record's version raised", nil, func(r *apikey.Record) { r.Version = 6 }, 6},
	} {
		p.hook(func(p *proxy) {
			p.events = c.events
			p.out = func(r *apikey.Record) {
				if c.record != nil && r.ID == id {
					c.record(r)
				}
			}
		})
		report, err := e.manager.VerifyEvents(e.ctx, apikey.VerifyEventsRequest{Key: id})
		require.NoError(t, err, c.name)
		require.NotNil(t, report.Broken, c.name)
		require.Equal(t, c.want, report.Broken.Seq, "%s: %s", c.name, report.Broken.Detail)
		require.NotEmpty(t, report.Broken.Detail, c.name)
	}
	p.hook(func(p *proxy) { p.events, p.out = nil, nil })
	require.NoError(t, e.chain(id), "the premise: nothing is wrong with the chain itself")
}

// The layout of an event's body, written down a second time: version and slot in
// eight bytes each, the hash before in 32, the ID in 16.
const (
	slotAt = 8
	prevAt = 16
)

func plainHash(body []byte) [32]byte {
	return sha256.Sum256(append([]byte("apikey event v1\x00"), body...))
}

// downgrade makes an event look like one from before there was a pepper, which
// needs no secret.
func downgrade(ev *apikey.EventRecord) {
	binary.BigEndian.PutUint64(ev.Body[slotAt:], 0)
	ev.Hash = plainHash(ev.Body)
}

func downgradeAll(all []apikey.EventRecord) []apikey.EventRecord {
	return downgradeFrom([32]byte{}, all)
}

func downgradeFrom(prev [32]byte, all []apikey.EventRecord) []apikey.EventRecord {
	for i := range all {
		copy(all[i].Body[prevAt:], prev[:])
		downgrade(&all[i])
		prev = all[i].Hash
	}
	return all
}

// rewrite changes an event and its hash, as far as that goes without the pepper.
func rewrite(ev *apikey.EventRecord) {
	ev.Body[len(ev.Body)-1] ^= 1
	ev.Hash = plainHash(ev.Body)
}

// forgedEvent continues a chain as well as somebody without the pepper can.
func forgedEvent(last apikey.EventRecord, seq uint64) apikey.EventRecord {
	ev := last
	ev.Body = slices.Clone(last.Body)
	copy(ev.Body[prevAt:], last.Hash[:])
	ev.ID[0]++
	ev.Seq = seq
	ev.Hash = plainHash(ev.Body)
	return ev
}

// Every bit of every event's body counts.
func TestEveryBitOfAnEventCounts(t *testing.T) {
	for name, option := range map[string]func(*env){"peppered": func(*env) {}, "plain": noPepper} {
		var p *proxy
		e := newEnv(t, through(&p), option)
		id, _ := lived(e)
		page, err := e.store.Events(background, apikey.EventFilter{Key: id, Chain: true})
		require.NoError(t, err)
		for k := range page.Events {
			for bit := range 8 * len(page.Events[k].Body) {
				p.hook(func(p *proxy) {
					p.events = func(all []apikey.EventRecord) []apikey.EventRecord {
						all[k].Body[bit/8] ^= 1 << (bit % 8)
						return all
					}
				})
				report, err := e.manager.VerifyEvents(e.ctx, apikey.VerifyEventsRequest{Key: id})
				require.NoError(t, err)
				require.NotNil(t, report.Broken, "%s: event %d, bit %d", name, k+1, bit)
				require.Equal(t, uint64(k+1), report.Broken.Seq, "%s: event %d, bit %d: %s", name, k+1, bit, report.Broken.Detail)
			}
		}
	}
}

// A chain is walked while others change the key: what is under way is no break.
func TestVerifyEventsDuringChanges(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		id, _ := lived(e)
		changes := 0
		change := func() {
			changes++
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: id, Name: apikey.Set(fmt.Sprint("change ", changes))})
			require.NoError(t, err)
		}
		// Between the record and the page; then between the page and whatever else
		// is read.
		var before, after bool
		p.hook(func(p *proxy) {
			p.events = func(all []apikey.EventRecord) []apikey.EventRecord {
				if before {
					change()
					page, err := p.Store.Events(background, apikey.EventFilter{Key: id, Chain: true})
					require.NoError(t, err)
					all = page.Events
				}
				if after {
					change()
				}
				return all
			}
		})
		for _, before = range []bool{false, true} {
			for _, after = range []bool{false, true} {
				require.NoError(t, e.chain(id), "before the page %v, after it %v", before, after)
			}
		}
		require.Equal(t, 4, changes)
		p.hook(func(p *proxy) { p.events = nil })
		errs := together(4, func(i int) error {
			if i == 0 {
				for range 20 {
					if err := e.chain(id); err != nil {
						return err
					}
				}
				return nil
			}
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: id, Name: apikey.Set(fmt.Sprint("racer ", i))})
			return err
		})
		require.Equal(t, 4, count(errs, nil), errs)
	})
}

// Events of a pepper that was taken out are neither sound nor broken. What can be
// seen without it still is: their order, and that none is missing. Nobody passes
// an event off as one of a pepper that was never here.
func TestUnverifiableEvents(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	id, _ := lived(e)
	two := pepper(t, 2)
	both := e.newManager(func(c *apikey.ManagerConfig) { c.Peppers = []apikey.Pepper{two, c.Peppers[0]} })
	_, err := both.Remac(staff(), apikey.RemacRequest{})
	require.NoError(t, err)
	report, err := both.VerifyEvents(e.ctx, apikey.VerifyEventsRequest{Key: id})
	require.NoError(t, err)
	require.Equal(t, apikey.ChainReport{Events: 6}, report)

	without := e.newManager(func(c *apikey.ManagerConfig) { c.Peppers = []apikey.Pepper{two} })
	report, err = without.VerifyEvents(e.ctx, apikey.VerifyEventsRequest{Key: id})
	require.NoError(t, err)
	require.Equal(t, apikey.ChainReport{Events: 6, Unverifiable: 5}, report)
	for name, c := range map[string]struct {
		change func([]apikey.EventRecord) []apikey.EventRecord
		want   uint64
	}{
		"dropped":      {func(a []apikey.EventRecord) []apikey.EventRecord { return slices.Delete(a, 1, 2) }, 2},
		"bent column":  {func(a []apikey.EventRecord) []apikey.EventRecord { a[2].Actor = "x"; return a }, 3},
		"another hash": {func(a []apikey.EventRecord) []apikey.EventRecord { a[2].Hash[0]++; return a }, 4},
		"newest one":   {func(a []apikey.EventRecord) []apikey.EventRecord { a[4].Hash[0]++; return a }, 5},
		"unknown pepper": {func(a []apikey.EventRecord) []apikey.EventRecord {
			binary.BigEndian.PutUint64(a[2].Body[slotAt:], 33)
			return a
		}, 3},
	} {
		p.hook(func(p *proxy) { p.events = c.change })
		report, err := without.VerifyEvents(e.ctx, apikey.VerifyEventsRequest{Key: id})
		require.NoError(t, err, name)
		require.NotNil(t, report.Broken, name)
		require.Equal(t, c.want, report.Broken.Seq, "%s: %s", name, report.Broken.Detail)
	}
}

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
			{"suspend", func() error { return e.manager.Suspend(ctx, apikey.SuspendRequest{Key: key.Key.ID}) }, apikey.ActionSuspend, 3, false, []string{"disabled"}, ""},
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
				ID: told[0].ID, Time: e.clock.now().UTC().Truncate(time.Microsecond), Action: c.action, Outcome: apikey.Done, Account: "acc_1",
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
			stored, err := e.store.Events(background, apikey.EventFilter{Key: key.Key.ID, Limit: 1})
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
		e = newEnv(t, on, through(&p), func(e *env) { e.mc.OnEvent = func(apikey.Event) {} })
		m := e.newManager(func(c *apikey.ManagerConfig) {
			c.OnEvent = func(ev apikey.Event) {
				calls++
				r, err := e.store.Get(background, ev.Key)
				require.NoError(t, err)
				require.Equal(t, ev.Seq, r.Version)
				page, err := e.store.Events(background, apikey.EventFilter{Key: ev.Key, Chain: true})
				require.NoError(t, err)
				require.Len(t, page.Events, int(ev.Seq))
				if ev.Action == apikey.ActionRevoke {
					require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
					require.NoError(t, e.chain(ev.Key), "it may call the Manager")
				}
			}
		})
		key = e.issue()
		require.NoError(t, e.verify(key.Token))
		_, err := m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("told")})
		require.NoError(t, err)
		require.Equal(t, 1, calls)

		_, err = m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("told")})
		require.NoError(t, err)
		_, err = m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("\x00")})
		require.Error(t, err)
		_, err = m.Get(e.ctx, apikey.GetRequest{Key: key.Key.ID})
		require.NoError(t, err)
		_, err = m.Update(as("acc_1", "viewer"), apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("x")})
		require.ErrorIs(t, err, apikey.ErrForbidden)
		p.hook(func(p *proxy) { p.apply = func(func() error, []apikey.Change) error { return errCable } })
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
		p.events = func(all []apikey.EventRecord) []apikey.EventRecord { all[1].Body = all[1].Body[:50]; return all }
	})
	log, err := e.manager.Events(e.ctx, apikey.EventsRequest{Key: id})
	require.NoError(t, err)
	require.Len(t, log.Events, 5)
	bad := log.Events[1]
	require.Equal(t, apikey.Unreadable, bad.Outcome)
	require.Equal(t, apikey.ActionSuspend, bad.Action)
	require.Equal(t, "usr_1", bad.Actor.ID)
	require.Equal(t, id, bad.Key)
	require.Equal(t, uint64(4), bad.Seq)
}

// A refusal is in the log once an actor, action, key and minute, whichever node
// it was; all of them go to Trace.
func TestDenialsAreRecordedOnceAMinute(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		traced := 0
		e := newEnv(t, on, func(e *env) {
			e.mc.Trace = &apikey.Trace{Denied: func(a apikey.Actor, act apikey.Action, key apikey.KeyID, err error) {
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
				require.ErrorContains(t, err, `role "viewer" may not key.update`)
			}
		}
		denials := func() (list []apikey.Event) {
			for _, ev := range e.allEvents(apikey.EventsRequest{Account: "acc_1"}) {
				if ev.Outcome == apikey.Refused {
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
			ID: list[0].ID, Time: e.clock.now().UTC().Truncate(time.Microsecond), Action: apikey.ActionUpdate, Outcome: apikey.Refused,
			Account: "acc_1", Mode: apikey.Live, Key: key.Key.ID, Actor: viewer,
		}, list[0])
		require.Zero(t, list[0].Seq, "outside the chain")
		require.NoError(t, e.chain(key.Key.ID))

		refused(viewer, second.Key.ID, e.manager)
		require.Len(t, denials(), 2, "another key")
		require.ErrorIs(t, e.manager.Suspend(apikey.WithActor(background, viewer), apikey.SuspendRequest{Key: key.Key.ID}), apikey.ErrForbidden)
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
		p.apply = func(next func() error, _ []apikey.Change) error { written++; return next() }
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
	require.Equal(t, apikey.Refused, events[0].Outcome)
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
			p.apply = func(next func() error, changes []apikey.Change) error {
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
		require.NoError(t, e.manager.Suspend(e.ctx, apikey.SuspendRequest{Key: key.Key.ID}))
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
	p.hook(func(p *proxy) { p.apply = func(func() error, []apikey.Change) error { return errCable } })
	_, err := e.manager.Issue(as("acc_1", "viewer"), apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	require.NotErrorIs(t, err, errCable)
}
