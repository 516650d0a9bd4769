package apitest

import (
	"encoding/binary"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// The attacker of this file writes to the database and has no pepper: every row
// and every column is theirs, and what they cannot make is a MAC.

// audited is a program that retired the pepper of slot 1: of a key's six events
// those up to its Remac were made with it, and the last two with that of slot 2.
type audited struct {
	*env
	p   *proxy
	key apikey.KeyID
}

func newAudited(t *testing.T, on func(*env)) *audited {
	t.Helper()
	a := &audited{}
	one, two := pepper(t, 1), pepper(t, 2)
	a.env = newEnv(t, on, through(&a.p))
	a.key = a.issue().Key.ID
	a.rename("two")
	a.rename("three")
	a.minting(two, one)
	require.Equal(t, 1, remacAll(t, a.manager, 10))
	a.rename("five")
	a.rename("six")
	a.minting(two)
	return a
}

// minting is the next deployment, with these peppers.
func (a *audited) minting(peppers ...apikey.Pepper) {
	a.t.Helper()
	a.manager = a.newManager(func(c *managerConfig) { c.Peppers, c.Hashers = peppers, []apikey.Hasher{hmacHasher(a.t, peppers...)} })
}

func (a *audited) rename(name string) {
	a.t.Helper()
	_, err := a.manager.Update(a.ctx, apikey.UpdateRequest{Key: a.key, Name: apikey.Set(name)})
	require.NoError(a.t, err)
}

func (a *audited) report() apikey.ChainReport {
	a.t.Helper()
	report, err := a.manager.VerifyEvents(staff(), a.key)
	require.NoError(a.t, err)
	return report
}

// writes is what somebody makes of the log, until the end of the test.
func (a *audited) writes(change func([]apikey.StoreEvent) []apikey.StoreEvent) {
	a.p.hook(func(p *proxy) { p.events = change })
}

// blamed says of an event that somebody else did it, by the pepper of that slot.
// Its hash stays: nobody could check another.
func blamed(e *apikey.StoreEvent, slot uint8) {
	binary.BigEndian.PutUint64(e.Body[slotAt:], uint64(slot))
	e.Body = []byte(strings.Replace(string(e.Body), "usr_1", "usr_9", 1))
	e.Actor = "usr_9"
}

// putMark writes a pepper's mark as it was before there were vouches, which takes
// no secret.
func (a *audited) putMark(slot string, data []byte) {
	a.t.Helper()
	page, err := a.store.Items(background, apikey.StoreItemFilter{Kind: "pepper", ID: slot})
	require.NoError(a.t, err)
	it := apikey.StoreItem{Kind: "pepper", ID: slot, Version: 1, Data: data}
	if len(page.Items) > 0 {
		it.Version = page.Items[0].Version + 1
		if data == nil {
			it.Data = page.Items[0].Data[:32]
		}
	}
	require.NoError(a.t, a.p.Store.Apply(background, apikey.StoreChange{ID: [16]byte(storetest.NewKeyID()), Items: []apikey.StoreItem{it}}))
}

// Somebody makes up a pepper that was retired, has it sign any event of a chain,
// and rewrites who did it.
func TestFound04AMadeUpPepper(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		a := newAudited(t, on)
		require.Equal(t, apikey.ChainReport{Events: 6, Unverifiable: 3}, a.report(), "the premise")
		for name, mark := range map[string][]byte{
			"no mark":                      nil,
			"a mark without a vouch":       make([]byte, 32),
			"a mark that is too short":     {1},
			"a vouch that is made up":      append(make([]byte, 32), append([]byte{2}, make([]byte, 32)...)...),
			"a vouch of a pepper not here": append(make([]byte, 32), append([]byte{1}, make([]byte, 32)...)...),
			"another mark, vouches and all": func() []byte {
				page, err := a.store.Items(background, apikey.StoreItemFilter{Kind: "pepper", ID: "01"})
				require.NoError(t, err)
				require.Len(t, page.Items[0].Data, 32+33, "of slot 1, vouched for by slot 2")
				return page.Items[0].Data
			}(),
		} {
			if mark != nil {
				a.putMark("33", mark)
			}
			for seq := range 6 {
				a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent { blamed(&all[seq], 33); return all })
				report := a.report()
				require.NotNil(t, report.Broken, "%s: event %d", name, seq+1)
				require.Equal(t, uint64(seq+1), report.Broken.Seq, "%s: %s", name, report.Broken.Detail)
			}
			a.writes(nil)
		}
		a.minting(pepper(t, 3), pepper(t, 2)) // which vouches for what is vouched for, and for nothing else
		a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent { blamed(&all[1], 33); return all })
		require.NotNil(t, a.report().Broken)
	})
}

// A pepper that was retired signs nothing of a key after its Remac, nor what the
// next event says was signed by another.
func TestFound04ARetiredPepperHasEnded(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		a := newAudited(t, on)
		for _, seq := range []int{4, 5, 6} {
			a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent { blamed(&all[seq-1], 1); return all })
			report := a.report()
			require.NotNil(t, report.Broken, "event %d", seq)
			require.Equal(t, uint64(seq), report.Broken.Seq, report.Broken.Detail)
		}
		// An event is put behind the last one, and the record's Head after it.
		a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent {
			if len(all) < 6 {
				return all
			}
			last := forgedEvent(all[5], 7)
			blamed(&last, 1)
			return append(all, last)
		})
		require.NotNil(t, a.report().Broken)
		a.writes(nil)
		require.Nil(t, a.report().Broken)
	})
}

// Whoever has the leaked pepper changes a key with it after its Remac, and others
// change it then. Once the pepper is out, that event shows.
func TestFound04WhoeverHasALeakedPepper(t *testing.T) {
	for name, c := range map[string]struct {
		after func(a *audited)
		want  uint64
	}{
		"and another change comes": {func(a *audited) { a.rename("covered") }, 5},
		"and Remac signs it anew":  {func(a *audited) { require.Equal(a.t, 1, remacAll(a.t, a.manager, 10)) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := &audited{}
			one, two := pepper(t, 1), pepper(t, 2)
			a.env = newEnv(t, through(&a.p))
			a.key = a.issue().Key.ID
			a.rename("two")
			a.rename("three")
			a.minting(two, one)
			require.Equal(t, 1, remacAll(t, a.manager, 10))
			a.minting(one, two)
			a.rename("by the thief")
			a.minting(two, one)
			c.after(a)
			require.Nil(t, a.report().Broken, "while the pepper is here")
			a.minting(two)
			if report := a.report(); c.want == 0 {
				require.Equal(t, apikey.ChainReport{Events: 6, Unverifiable: 4}, report, "some Manager still minted with it")
			} else {
				require.NotNil(t, report.Broken)
				require.Equal(t, c.want, report.Broken.Seq, report.Broken.Detail)
			}
		})
	}
}

// During the deployment of a new pepper the events of both alternate, which is no
// break, now or later.
func TestFound04TwoPeppersAlternate(t *testing.T) {
	a := &audited{}
	one, two := pepper(t, 1), pepper(t, 2)
	a.env = newEnv(t, through(&a.p))
	a.key = a.issue().Key.ID
	for i := range 6 {
		if a.minting(one, two); i%2 == 0 {
			a.minting(two, one)
		}
		a.rename(time.Duration(i).String())
	}
	a.minting(two, one)
	a.rename("the last but one")
	a.rename("the last")
	require.Equal(t, apikey.ChainReport{Events: 9}, a.report())
	a.minting(two)
	require.Equal(t, apikey.ChainReport{Events: 9, Unverifiable: 4}, a.report())
	for _, seq := range []int{2, 8, 9} { // of slot 2
		a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent { blamed(&all[seq-1], 1); return all })
		if report := a.report(); seq > 2 {
			require.NotNil(t, report.Broken, "event %d", seq)
			require.Equal(t, uint64(seq), report.Broken.Seq, report.Broken.Detail)
		} else { // what an event of slot 1 says of the one before it, nobody can check either
			require.Equal(t, 5, report.Unverifiable, "but it is told")
		}
	}
}

// The newest event was made with the pepper of the record's MAC.
func TestFound04TheNewestEventIsTheRecords(t *testing.T) {
	a := &audited{}
	one, two := pepper(t, 1), pepper(t, 2)
	a.env = newEnv(t, through(&a.p))
	a.key = a.issue().Key.ID
	a.minting(two, one)
	a.rename("moved to slot 2 by a change, not by Remac")
	a.minting(two)
	require.Equal(t, apikey.ChainReport{Events: 2, Unverifiable: 1}, a.report(), "the premise")
	a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent { blamed(&all[1], 1); return all })
	report := a.report()
	require.NotNil(t, report.Broken)
	require.Equal(t, uint64(2), report.Broken.Seq, report.Broken.Detail)
}

// A database of before there were vouches: the marks of configured peppers are
// vouched for at the first start. A slot that was retired earlier is nobody's until
// an Operator adopts it, once, with an event.
func TestFound04MarksOfBefore(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		a := newAudited(t, on)
		one, two, three := pepper(t, 1), pepper(t, 2), pepper(t, 3)
		log := func() []apikey.Event { return a.allEvents(apikey.EventsRequest{}) }

		a.putMark("01", nil)
		a.putMark("02", nil)
		begun := len(log())
		a.minting(two, one)
		require.Len(t, log(), begun+1, "vouched for, with an event")
		require.Equal(t, []string{"vouched:01", "vouched:02"}, log()[begun].Changed)
		a.minting(two, one)
		a.minting(two)
		require.Len(t, log(), begun+1, "once")
		require.Equal(t, apikey.ChainReport{Events: 6, Unverifiable: 3}, a.report())

		a.putMark("01", nil) // and now slot 1 was retired before
		var said strings.Builder
		a.settings.Logger = slog.New(slog.NewTextHandler(&said, nil))
		a.minting(two)
		require.Contains(t, said.String(), "slot=1")
		require.Contains(t, said.String(), "AdoptPepper")
		report := a.report()
		require.NotNil(t, report.Broken)
		require.Contains(t, report.Broken.Detail, "AdoptPepper")
		page, err := a.manager.Events(a.ctx, apikey.EventsRequest{Key: a.key})
		require.NoError(t, err)
		require.Equal(t, apikey.DoubtFailed, page.Events[5].Doubt)

		require.ErrorIs(t, a.manager.AdoptPepper(as("acc_1", "superadmin"), 1), apikey.ErrForbidden)
		require.ErrorIs(t, a.manager.AdoptPepper(background, 1), apikey.ErrNoActor)
		require.ErrorIs(t, a.manager.AdoptPepper(staff(), 5), apikey.ErrNotFound)
		for _, slot := range []uint8{0, 62, 255} {
			require.ErrorIs(t, a.manager.AdoptPepper(staff(), slot), apikey.ErrInvalid)
		}
		begun = len(log())
		a.clock.move(time.Second)
		for range 2 {
			require.NoError(t, a.manager.AdoptPepper(staff(), 1))
			require.NoError(t, a.manager.AdoptPepper(staff(), 2), "it is configured")
		}
		require.Len(t, log(), begun+1, "once")
		adopted := log()[begun]
		require.Equal(t, []string{"adopted:01"}, adopted.Changed)
		require.True(t, adopted.Actor.IsOperator())
		require.Equal(t, apikey.ChainReport{Events: 6, Unverifiable: 3}, a.report())

		a.minting(three, two) // the next pepper takes over what the one before vouched for
		a.minting(three)
		require.Equal(t, uint64(6), a.report().Broken.Seq, "the record was not signed anew: the premise")
		a.minting(three, two)
		require.Equal(t, 1, remacAll(t, a.manager, 10))
		a.minting(three)
		require.Equal(t, apikey.ChainReport{Events: 7, Unverifiable: 6}, a.report())
		require.ErrorIs(t, newEnv(t, noPepper).manager.AdoptPepper(staff(), 1), apikey.ErrInvalid)
	})
}

// Junk beside the marks neither hides one nor stops a start.
func TestFound04JunkBesideTheMarks(t *testing.T) {
	a := newAudited(t, func(*env) {})
	for _, id := range []string{"1", "00", "001", "02x", "62", "99", "0", "ab", "-1", "+1"} {
		a.putMark(id, []byte("junk"))
	}
	for i := range 70 {
		a.putMark("0"+strings.Repeat("0", i+2), []byte("junk"))
	}
	a.minting(pepper(t, 2))
	require.Equal(t, apikey.ChainReport{Events: 6, Unverifiable: 3}, a.report())
	for _, wrong := range []apikey.Pepper{pepperOf(t, 2, 77), pepper(t, 5)} {
		c := a.settings
		c.Peppers, c.Hashers = []apikey.Pepper{wrong}, []apikey.Hasher{hmacHasher(t, wrong)}
		_, err := apikey.NewManager(background, c, a.mc)
		require.ErrorIs(t, err, apikey.ErrPepper)
	}
}

// Events shows nothing that was changed, and says of the rest what is vouched for.
func TestFound05EventsAreChecked(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		a := newAudited(t, on)
		_, err := a.manager.Issue(as("acc_1", "viewer"), apikey.IssueRequest{Mode: apikey.Live}) // a denial, outside every chain
		require.ErrorIs(t, err, apikey.ErrForbidden)
		_, err = a.manager.Issue(as("acc_2", "admin"), apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		list := func(account string) (all []apikey.Event) {
			t.Helper()
			for _, ev := range a.allEvents(apikey.EventsRequest{Account: account}) {
				if ev.Key != (apikey.KeyID{}) || ev.Outcome == apikey.OutcomeRefused || ev.Outcome == apikey.OutcomeUnreadable {
					all = append(all, ev)
				}
			}
			return all
		}
		honest := list("acc_1")
		require.Len(t, honest, 7)
		for _, ev := range honest {
			want := apikey.Doubt("")
			if ev.Seq >= 1 && ev.Seq <= 3 {
				want = apikey.DoubtUnverifiable
			}
			require.Equal(t, want, ev.Doubt, "event %d", ev.Seq)
			require.NotEqual(t, apikey.OutcomeUnreadable, ev.Outcome, "it is shown")
		}
		for name, change := range map[string]func(e *apikey.StoreEvent){
			"actor in the body": func(e *apikey.StoreEvent) { blamed(e, 2) },
			"role in the body": func(e *apikey.StoreEvent) {
				e.Body = []byte(strings.NewReplacer("admin", "adm1n", "viewer", "v1ewer", "operator", "0perator").Replace(string(e.Body)))
			},
			"column":              func(e *apikey.StoreEvent) { e.Action = apikey.ActionReveal },
			"hash":                func(e *apikey.StoreEvent) { e.Hash[9] ^= 1 },
			"moved in time":       func(e *apikey.StoreEvent) { e.Time = e.Time.Add(time.Hour) },
			"another ID":          func(e *apikey.StoreEvent) { e.ID[3]++ },
			"a pepper made up":    func(e *apikey.StoreEvent) { blamed(e, 33) },
			"moved in its chain":  func(e *apikey.StoreEvent) { e.Seq += 9 },
			"truncated":           func(e *apikey.StoreEvent) { e.Body = e.Body[:len(e.Body)/2] },
			"given another keyed": func(e *apikey.StoreEvent) { e.Key = storetest.NewKeyID() },
		} {
			a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent {
				for i := range all {
					change(&all[i])
				}
				return all
			})
			keyed := 0
			page, err := a.manager.Events(staff(), apikey.EventsRequest{Account: "acc_1", Limit: 1000})
			require.NoError(t, err)
			for _, ev := range page.Events {
				if ev.Doubt == apikey.DoubtUnverifiable && name != "column" { // of the pepper that is gone
					continue
				}
				require.Equal(t, apikey.DoubtFailed, ev.Doubt, "%s: %+v", name, ev)
				require.Equal(t, apikey.OutcomeUnreadable, ev.Outcome, name)
				require.Empty(t, ev.Actor.Role, "%s: the body is withheld", name)
				require.Empty(t, ev.Actor.Account, name)
				require.Empty(t, ev.Changed, name)
				keyed++
			}
			require.GreaterOrEqual(t, keyed, 4, name)
		}
		// Another account's event, put among one's own: who did what there is not shown.
		a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent {
			for i := range all {
				if all[i].Account == "acc_2" {
					all[i].Account = "acc_1"
				}
			}
			return all
		})
		page, err := a.manager.Events(staff(), apikey.EventsRequest{Account: "acc_2"})
		require.NoError(t, err)
		require.Len(t, page.Events, 1)
		require.Equal(t, apikey.DoubtFailed, page.Events[0].Doubt)
		require.Empty(t, page.Events[0].Actor.Role)

		// One without the pepper is made up, with a hash of its own.
		a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent {
			for i := range all {
				downgrade(&all[i])
			}
			return all
		})
		for _, ev := range list("acc_1") {
			require.Equal(t, apikey.DoubtUnverifiable, ev.Doubt, "it is labelled")
		}
	})
}

// The procedure of the operations page tells of all of it: what breaks, in and
// outside the chains, and what nobody can check.
func TestFound04TheOperationsPageTells(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		a := newAudited(t, on)
		_, err := a.manager.Issue(as("acc_1", "viewer"), apikey.IssueRequest{Mode: apikey.Live}) // a denial
		require.ErrorIs(t, err, apikey.ErrForbidden)
		events, unsure, err := verifyAll(staff(), a.manager)
		require.NoError(t, err)
		require.Equal(t, 6, events)
		require.Equal(t, []string{"key " + a.key.String() + ": 3 of 6 events", "outside the chains: 1 events"}, unsure, "the first pepper's introduction is its own")
		a.writes(func(all []apikey.StoreEvent) []apikey.StoreEvent {
			for i := range all {
				if all[i].Action == apikey.ActionIssue && all[i].Seq == 0 {
					blamed(&all[i], 2)
				}
			}
			return all
		})
		_, _, err = verifyAll(staff(), a.manager)
		require.ErrorContains(t, err, `was changed, or put there: it calls itself key.issue by "usr_9"`)
	})
}

// Without a pepper nobody can tell, and nothing says that it was told.
func TestFound05EventsWithoutAPepper(t *testing.T) {
	var p *proxy
	e := newEnv(t, noPepper, through(&p))
	key := e.issue().Key.ID
	for _, damaged := range []bool{false, true} {
		p.hook(func(p *proxy) {
			p.events = func(all []apikey.StoreEvent) []apikey.StoreEvent {
				if damaged {
					all[0].Hash[0]++
				}
				return all
			}
		})
		page, err := e.manager.Events(e.ctx, apikey.EventsRequest{Key: key})
		require.NoError(t, err)
		want := apikey.DoubtUnverifiable
		if damaged {
			want = apikey.DoubtFailed
		}
		require.Equal(t, want, page.Events[0].Doubt)
	}
}
