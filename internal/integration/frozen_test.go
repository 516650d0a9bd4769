package integration

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// A process that verifies is stopped (SIGSTOP) for three minutes, in the middle
// of its work. Meanwhile keys are revoked, suspended and rotated by another. Set
// going again (SIGCONT), it asks as fast as it can, with all that it has in
// memory: nothing that died while it was away is accepted, not once.
//
// Under SIGSTOP the monotonic clock goes on, as the wall clock does. On a machine
// that is suspended it stands still, and a wall clock can be set back, so the
// Verifier goes by whichever says more; the clock is injected for that in
// TestFrozenVerifierAcceptsNothingStale.
func TestProcessIsStoppedForMinutes(t *testing.T) {
	t.Parallel() // it sleeps
	stopped, maxStale := 3*time.Minute, 120*time.Second
	if testing.Short() {
		stopped, maxStale = 8*time.Second, 4*time.Second
	}
	var all []*frozen
	for _, e := range servers() {
		all = append(all, newFrozen(t, e, stopped, maxStale))
	}
	for _, f := range all {
		f.stop()
		f.change()
	}
	time.Sleep(stopped)
	for _, f := range all { // one after the other: each is to be as fast as it can
		t.Run(f.engine, func(t *testing.T) { f.thaw(t) })
	}
}

// frozen is a process that verifies, and what it is going to be asked about.
type frozen struct {
	site
	t       *testing.T
	m       *apikey.Manager
	c       *child
	keys    []apikey.Issued
	stopped time.Time
}

// What became of the key at an index while the process was away.
const (
	wasRevoked = iota
	wasSuspended
	wasRotated
	wasLeft
	fates
)

func newFrozen(t *testing.T, e engine, stopped, maxStale time.Duration) *frozen {
	t.Helper()
	p, store := newSite(t, e)
	f := &frozen{site: p, t: t, m: newManager(t, store)}
	args := []string{stopped.String(), maxStale.String()}
	for range 5 * fates {
		k, err := f.m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		f.keys, args = append(f.keys, k), append(args, k.Token.Reveal())
	}
	f.c = startChild(t, "freeze", p.args(args...)...)
	f.c.expect("warm")
	time.Sleep(time.Second)
	return f
}

// stop returns when the process stands still.
func (f *frozen) stop() {
	f.t.Helper()
	f.stopped = time.Now()
	pid := f.c.cmd.Process.Pid
	must(f.t, f.c.cmd.Process.Signal(syscall.SIGSTOP))
	for range 1000 {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		must(f.t, err)
		still := 0
		for _, task := range tasks {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, task.Name()))
			if err == nil && strings.Contains(string(stat), ") T ") {
				still++
			}
		}
		if still == len(tasks) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.t.Fatal("the process does not stop")
}

func (f *frozen) change() {
	f.t.Helper()
	ctx := adminOf("acc_1")
	for i, k := range f.keys {
		switch i % fates {
		case wasRevoked:
			must(f.t, f.m.Revoke(ctx, apikey.RevokeRequest{Key: k.Key.ID}))
		case wasSuspended:
			must(f.t, f.m.Suspend(ctx, k.Key.ID))
		case wasRotated:
			_, err := f.m.Rotate(ctx, apikey.RotateRequest{Key: k.Key.ID})
			must(f.t, err)
		}
	}
}

func (f *frozen) thaw(t *testing.T) {
	away := time.Since(f.stopped)
	must(t, f.c.cmd.Process.Signal(syscall.SIGCONT))
	gap := f.c.expect("gap")
	wall, mono := sure(time.ParseDuration(gap[0])), sure(time.ParseDuration(gap[1]))
	var asked, accepted, unavailable, wrong, left int
	for i := range f.keys {
		n := numbers(f.c.expect("key"))
		asked, unavailable = asked+n[0], unavailable+n[3]
		if i%fates == wasLeft {
			left += n[1]
			wrong += n[2]
		} else {
			accepted += n[1]
		}
		wrong += n[4]
	}
	early := numbers(f.c.expect("early"))
	first := sure(time.ParseDuration(f.c.expect("first")[0]))
	t.Logf("stopped for %v (the process's wall clock went on by %v, its monotonic clock by %v): of keys that died meanwhile accepted %d; %d verifications in 3 s after it, of living keys accepted %d, the first after %v; unavailable %d, for another reason %d; begun before and answered after %d",
		away.Round(time.Second), wall.Round(time.Millisecond), mono.Round(time.Millisecond), accepted, asked, left, first.Round(time.Millisecond), unavailable, wrong, early[0])
	if accepted+wrong != 0 || asked < 1000 || left < 100 {
		t.Fail()
	}
	if least := away - time.Second; wall < least || mono < least {
		t.Error("a clock stood still")
	}
}

// numbers are what a process has counted.
func numbers(words []string) (all []int) {
	for _, w := range words {
		all = append(all, sure(strconv.Atoi(w)))
	}
	return all
}

// answers counts what became of one token's verifications.
type answers struct{ asked, accepted, dead, unavailable, other atomic.Int64 }

func (n *answers) add(err error) {
	n.asked.Add(1)
	switch {
	case err == nil:
		n.accepted.Add(1)
	case errors.Is(err, apikey.ErrRevoked), errors.Is(err, apikey.ErrSuspended), errors.Is(err, apikey.ErrCredentialEnded):
		n.dead.Add(1)
	case errors.Is(err, apikey.ErrUnavailable):
		n.unavailable.Add(1)
	default:
		n.other.Add(1)
	}
}

// verifyWhenThawed is the process that is stopped: four of it verify all the
// time, notice by their own clocks that they were away, and from then on make no
// pause, and count.
func verifyWhenThawed(args []string) error {
	p, args := siteOf(args)
	stopped, maxStale, tokens := sure(time.ParseDuration(args[0])), sure(time.ParseDuration(args[1])), args[2:]
	store, _, err := p.open()
	if err != nil {
		return err
	}
	v, err := verifierFor(store, func(c *verifying) { c.Sync, c.MaxStale = time.Second, maxStale }).start(background)
	if err != nil {
		return err
	}
	for _, token := range tokens {
		if _, err := v.Verify(background, token, apikey.Request{}); err != nil {
			return err
		}
	}
	say("warm")
	var (
		counts     = make([]answers, len(tokens))
		early      atomic.Int64
		first      atomic.Int64
		wall, mono atomic.Int64
		workers    sync.WaitGroup
	)
	for w := range 4 {
		workers.Go(func() {
			last, thawed := time.Now(), time.Time{}
			for i := w; ; i++ {
				begun := time.Now()
				if away := begun.Sub(last); thawed.IsZero() && away > stopped/2 {
					thawed = begun
					mono.Store(int64(away))
					wall.Store(int64(begun.Round(0).Sub(last.Round(0))))
				}
				last = begun
				_, err := v.Verify(background, tokens[i%len(tokens)], apikey.Request{})
				switch {
				case !thawed.IsZero():
					counts[i%len(tokens)].add(err)
					if err == nil {
						first.CompareAndSwap(0, int64(time.Since(thawed)))
					}
				case time.Since(begun) > stopped/2:
					early.Add(1)
				}
				switch {
				case thawed.IsZero():
					time.Sleep(time.Millisecond) // there are others on this machine
				case begun.Sub(thawed) > 3*time.Second:
					return
				}
			}
		})
	}
	workers.Wait()
	say("gap", time.Duration(wall.Load()), time.Duration(mono.Load()))
	for i := range counts {
		n := &counts[i]
		say("key", n.asked.Load(), n.accepted.Load(), n.dead.Load(), n.unavailable.Load(), n.other.Load())
	}
	say("early", early.Load())
	say("first", time.Duration(first.Load()))
	return nil
}
