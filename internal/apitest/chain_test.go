package apitest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// lived is a key with a chain of five events, and the record as it was after
// each of them.
func lived(e *env) (id apikey.KeyID, versions [6]apikey.StoreRecord) {
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
		4: func() error { return e.manager.Suspend(e.ctx, id) },
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
			report, err := e.manager.VerifyEvents(e.ctx, id)
			require.NoError(t, err)
			unsure := map[string]int{"peppered": 0, "plain": 5}[name] // anybody can compute a plain hash
			require.Equal(t, apikey.ChainReport{Events: 5, Unverifiable: unsure}, report, name)
			require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: id}))
			report, err = e.manager.VerifyEvents(e.ctx, id)
			require.NoError(t, err)
			unsure = map[string]int{"peppered": 0, "plain": 6}[name]
			require.Equal(t, apikey.ChainReport{Events: 6, Unverifiable: unsure}, report, "a tombstone's log too, %s", name)
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
	report, err := e.manager.VerifyEvents(e.ctx, id)
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
	old, err := p.Store.Events(background, apikey.StoreEventFilter{Key: other, Chain: true})
	require.NoError(t, err)
	type events = []apikey.StoreEvent
	at := func(seq int, change func(*apikey.StoreEvent)) func(events) events {
		return func(all events) events { change(&all[seq-1]); return all }
	}
	column := func(change func(*apikey.StoreEvent)) func(events) events { return at(3, change) }
	for _, c := range []struct {
		name   string
		events func(events) events
		record func(*apikey.StoreRecord)
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
		{"hash replaced", at(2, func(ev *apikey.StoreEvent) { ev.Hash = [32]byte{1} }), nil, 2},
		{"last hash replaced", at(5, func(ev *apikey.StoreEvent) { ev.Hash[31] ^= 1 }), nil, 5},
		{"body emptied", at(4, func(ev *apikey.StoreEvent) { ev.Body = nil }), nil, 4},
		{"body longer", at(4, func(ev *apikey.StoreEvent) { ev.Body = append(ev.Body, 0) }), nil, 4},
		{"ID", column(func(ev *apikey.StoreEvent) { ev.ID[0]++ }), nil, 3},
		{"time", column(func(ev *apikey.StoreEvent) { ev.Time = ev.Time.Add(time.Microsecond) }), nil, 3},
		{"account", column(func(ev *apikey.StoreEvent) { ev.Account = "acc_2" }), nil, 3},
		{"mode", column(func(ev *apikey.StoreEvent) { ev.Mode = apikey.Test }), nil, 3},
		{"key", column(func(ev *apikey.StoreEvent) { ev.Key = other }), nil, 3},
		{"credential", column(func(ev *apikey.StoreEvent) { ev.Credential = storetest.NewCredentialID() }), nil, 3},
		{"seq", column(func(ev *apikey.StoreEvent) { ev.Seq = 4 }), nil, 3},
		{"actor", column(func(ev *apikey.StoreEvent) { ev.Actor = "somebody else" }), nil, 3},
		{"action", column(func(ev *apikey.StoreEvent) { ev.Action = apikey.ActionRead }), nil, 3},
		{"first event without the pepper", at(1, downgrade), nil, 1},
		{"event without the pepper", at(2, downgrade), nil, 2},
		{"last event without the pepper", at(5, downgrade), nil, 5},
		{"tail without the pepper", func(a events) events { return append(a[:2], downgradeFrom(a[1].Hash, a[2:])...) }, nil, 3},
		{"whole chain without the pepper", downgradeAll, nil, 5},
		{"whole chain without the pepper, and the head", downgradeAll, func(r *apikey.StoreRecord) {
			page, err := p.Store.Events(background, apikey.StoreEventFilter{Key: id, Chain: true})
			require.NoError(t, err)
			r.Head = downgradeAll(page.Events)[4].Hash
		}, 5},
		{"event rewritten, with a hash of its own", at(3, rewrite), nil, 3},
		{"record put back", nil, func(r *apikey.StoreRecord) { *r = versions[3] }, 4},
		{"record put back to its first version", nil, func(r *apikey.StoreRecord) { *r = versions[1] }, 2},
		{"record at version 0", nil, func(r *apikey.StoreRecord) { r.Version = 0 }, 1},
		{"record at version 0 and log emptied", func(events) events { return nil }, func(r *apikey.StoreRecord) { r.Version = 0 }, 1},
		{"head changed", nil, func(r *apikey.StoreRecord) { r.Head[0] ^= 1 }, 5},
		{"record changed", nil, func(r *apikey.StoreRecord) { r.Name = "bent" }, 5},
		{"record's version raised", nil, func(r *apikey.StoreRecord) { r.Version = 6 }, 6},
	} {
		p.hook(func(p *proxy) {
			p.events = c.events
			p.out = func(r *apikey.StoreRecord) {
				if c.record != nil && r.ID == id {
					c.record(r)
				}
			}
		})
		report, err := e.manager.VerifyEvents(e.ctx, id)
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
func downgrade(ev *apikey.StoreEvent) {
	binary.BigEndian.PutUint64(ev.Body[slotAt:], 0)
	ev.Hash = plainHash(ev.Body)
}

func downgradeAll(all []apikey.StoreEvent) []apikey.StoreEvent {
	return downgradeFrom([32]byte{}, all)
}

func downgradeFrom(prev [32]byte, all []apikey.StoreEvent) []apikey.StoreEvent {
	for i := range all {
		copy(all[i].Body[prevAt:], prev[:])
		downgrade(&all[i])
		prev = all[i].Hash
	}
	return all
}

// rewrite changes an event and its hash, as far as that goes without the pepper.
func rewrite(ev *apikey.StoreEvent) {
	ev.Body[len(ev.Body)-1] ^= 1
	ev.Hash = plainHash(ev.Body)
}

// forgedEvent continues a chain as well as somebody without the pepper can.
func forgedEvent(last apikey.StoreEvent, seq uint64) apikey.StoreEvent {
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
	t.Parallel()
	for name, option := range map[string]func(*env){"peppered": func(*env) {}, "plain": noPepper} {
		var p *proxy
		e := newEnv(t, through(&p), option)
		id, _ := lived(e)
		page, err := e.store.Events(background, apikey.StoreEventFilter{Key: id, Chain: true})
		require.NoError(t, err)
		for k := range page.Events {
			for bit := range 8 * len(page.Events[k].Body) {
				p.hook(func(p *proxy) {
					p.events = func(all []apikey.StoreEvent) []apikey.StoreEvent {
						all[k].Body[bit/8] ^= 1 << (bit % 8)
						return all
					}
				})
				report, err := e.manager.VerifyEvents(e.ctx, id)
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
			p.events = func(all []apikey.StoreEvent) []apikey.StoreEvent {
				if before {
					change()
					page, err := p.Store.Events(background, apikey.StoreEventFilter{Key: id, Chain: true})
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
	both := e.newManager(func(c *managerConfig) { c.Peppers = []apikey.Pepper{two, c.Peppers[0]} })
	_, err := both.Remac(staff(), 0)
	require.NoError(t, err)
	report, err := both.VerifyEvents(e.ctx, id)
	require.NoError(t, err)
	require.Equal(t, apikey.ChainReport{Events: 6}, report)

	without := e.newManager(func(c *managerConfig) { c.Peppers = []apikey.Pepper{two} })
	report, err = without.VerifyEvents(e.ctx, id)
	require.NoError(t, err)
	require.Equal(t, apikey.ChainReport{Events: 6, Unverifiable: 5}, report)
	for name, c := range map[string]struct {
		change func([]apikey.StoreEvent) []apikey.StoreEvent
		want   uint64
	}{
		"dropped":      {func(a []apikey.StoreEvent) []apikey.StoreEvent { return slices.Delete(a, 1, 2) }, 2},
		"bent column":  {func(a []apikey.StoreEvent) []apikey.StoreEvent { a[2].Actor = "x"; return a }, 3},
		"another hash": {func(a []apikey.StoreEvent) []apikey.StoreEvent { a[2].Hash[0]++; return a }, 4},
		"newest one":   {func(a []apikey.StoreEvent) []apikey.StoreEvent { a[4].Hash[0]++; return a }, 5},
		"unknown pepper": {func(a []apikey.StoreEvent) []apikey.StoreEvent {
			binary.BigEndian.PutUint64(a[2].Body[slotAt:], 33)
			return a
		}, 3},
	} {
		p.hook(func(p *proxy) { p.events = c.change })
		report, err := without.VerifyEvents(e.ctx, id)
		require.NoError(t, err, name)
		require.NotNil(t, report.Broken, name)
		require.Equal(t, c.want, report.Broken.Seq, "%s: %s", name, report.Broken.Detail)
	}
}

// Whoever writes to the database can compute the hash of an event that has no pepper.
// Such events are told, until one of a configured pepper continues them: its MAC covers
// the hash of the one before it, and so all of them.
func TestFound04EventsWithoutAPepperAreCounted(t *testing.T) {
	e := newEnv(t, noPepper)
	key := e.issue().Key.ID
	one, two := pepper(t, 1), pepper(t, 2)
	manager := func(peppers ...apikey.Pepper) *apikey.Manager {
		return e.newManager(func(c *managerConfig) { c.Peppers, c.AcceptUntagged = peppers, true })
	}
	renamed := func(m *apikey.Manager, name string) {
		_, err := m.Update(e.ctx, apikey.UpdateRequest{Key: key, Name: apikey.Set(name)})
		require.NoError(t, err)
	}
	unsure := func(m *apikey.Manager) int {
		report, err := m.VerifyEvents(e.ctx, key)
		require.NoError(t, err)
		require.Nil(t, report.Broken)
		return report.Unverifiable
	}
	renamed(e.manager, "b")
	require.Equal(t, 2, unsure(e.manager))
	first := manager(one)
	require.Equal(t, 2, unsure(first), "nothing continues them yet")
	renamed(first, "c")
	require.Zero(t, unsure(first))
	both := manager(two, one)
	renamed(both, "d")
	require.Zero(t, unsure(both))
	require.Equal(t, 3, unsure(manager(two)), "the event that continued them is not verifiable itself any more")
}
