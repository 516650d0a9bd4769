package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// Storms of first verifications without a pepper, each of which needs argon2, in
// a process of their own, whose memory is that of the library and of its callers.

// allowed is what a storm on one slot may add to the resident memory: 3.3 times
// the memory of one run. (One that runs, and the garbage of those before it.)
const allowed = 33 * 19456 * 1024 / 10

// weather are the settings of a storm process.
type weather struct {
	Warm    int  // keys in the cache
	Limit   bool // set GOMEMLIMIT, as docs/performance.md recommends
	Callers int  // at once
	Again   bool // who is told to come back does so, after 100 ms, until Length is over
	Length  time.Duration
	Rate    int // warm requests a second meanwhile
}

// outcome is what became of it.
type outcome struct {
	Live, Before, Peak         int64 // the heap, resident memory, and the greatest
	Limit                      int64
	Hashed, Busy, Failed, Most int64
	Slowest, Idle, Stormy      time.Duration
	Refused                    int // warm requests
}

func blow(t *testing.T, w weather) (o outcome) {
	t.Helper()
	must(t, json.Unmarshal([]byte(startChild(t, "storm", w).expect("over")[0]), &o))
	return o
}

// The memory of a storm that goes on: more callers than may wait, who come back
// whenever they are sent away.
func TestColdStormMemory(t *testing.T) {
	long := 3 * time.Second
	many := 100_000
	if *full {
		long, many = 20*time.Second, 1_000_000
	}
	for _, w := range []weather{
		{Warm: 10_000},
		{Warm: many},
		{Warm: many, Limit: true},
	} {
		w.Callers, w.Again, w.Length = 300, true, long
		o := blow(t, w)
		added := o.Peak - o.Before
		t.Logf("%d warm keys, live heap %s, memory limit %s: a storm of %v adds %s to %s; %d hashed, %d times busy, at once at most %d",
			w.Warm, mib(o.Live), mib(o.Limit), w.Length, mib(added), mib(o.Before), o.Hashed, o.Busy, o.Most)
		limit := int64(allowed)
		if w.Warm > 10_000 && !w.Limit { // the collector lets the heap double
			limit += o.Live
		}
		if added > limit {
			t.Errorf("%s were added, want at most %s", mib(added), mib(limit))
		}
		if o.Most != 1 {
			t.Errorf("%d runs at once, want 1, as there are slots", o.Most)
		}
		if o.Hashed < 10 || o.Busy == 0 || o.Failed > 0 {
			t.Errorf("no storm: %d hashed, %d busy, %d failed", o.Hashed, o.Busy, o.Failed)
		}
	}
}

// 10,000 first verifications at once.
func TestArgon2Flood(t *testing.T) {
	w := weather{Warm: 1, Callers: 10_000, Length: 3 * time.Second, Rate: 2000}
	if !*full {
		w.Callers = 1_000
	}
	// What else runs on the machine can only make it worse: the best of three
	// counts. Nobody may be refused in any of them.
	slowest, grown := time.Duration(math.MaxInt64), int64(math.MaxInt64)
	// A caller has a stack, and the work that is done for him another, of 8 KiB each.
	limit := int64(allowed) + int64(w.Callers)*16<<10
	for try := 0; try < 3 && (slowest > 2500*time.Millisecond || grown > limit); try++ {
		o := blow(t, w)
		t.Logf("%d at once: %.1f %% busy, %d hashed, slowest answer %v", w.Callers, 100*float64(o.Busy)/float64(w.Callers), o.Hashed, o.Slowest)
		t.Logf("resident memory grew by %s at most, from %s; warm p99 %v, idle %v, refused %d", mib(o.Peak-o.Before), mib(o.Before), o.Stormy, o.Idle, o.Refused)
		if o.Refused > 0 {
			t.Errorf("%d warm requests were refused", o.Refused)
		}
		if o.Hashed == 0 || o.Busy == 0 || o.Failed > 0 {
			t.Errorf("no storm: %d hashed, %d busy, %d failed", o.Hashed, o.Busy, o.Failed)
		}
		slowest, grown = min(slowest, o.Slowest), min(grown, o.Peak-o.Before)
	}
	if slowest > 2500*time.Millisecond {
		t.Errorf("an answer took %v, want at most 2.5 s", slowest)
	}
	if grown > limit {
		t.Errorf("resident memory grew by %s, want at most 3.3 × one slot's memory and the callers' stacks, %s", mib(grown), mib(limit))
	}
}

// Warm traffic over HTTP while more cold keys come in than one slot can hash:
// the other processor stays with it. What else runs on the machine can only
// make a time worse, so the best idle round is compared with the best stormy one.
func TestWarmBesideAStorm(t *testing.T) {
	const rate, cold = 1000, 60 // a second
	length, rounds := 2*time.Second, 8
	if *full {
		length = 10 * time.Second
	}
	share := cold * int(length.Seconds())
	s := newServer(t, 1+rounds*share, served{Slots: 1}, nil)
	warm := func(int) error { return s.want(http.StatusNoContent, s.addr, s.tokens[0]) }
	must(t, warm(0))
	idle, stormy := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for round := 0; round < rounds && (round < 2 || stormy > 3*idle); round++ {
		took, refused := traffic(rate, length, warm)
		quiet := percentile(took, 0.99)
		s.process.ask("calm")
		var busy atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() {
			_, errs := traffic(cold, length, func(i int) error {
				status, err := s.ask(s.addr, s.tokens[1+round*share+i])
				if status == http.StatusServiceUnavailable {
					busy.Add(1)
				}
				return err
			})
			if len(errs) > 0 {
				t.Error(errs)
			}
		})
		took, errs := traffic(rate, length, warm)
		wg.Wait()
		maps.Copy(refused, errs)
		runs := s.process.ask("told")[2]
		t.Logf("%d cold keys in %v: %d hashed, %d told to come back; %d warm requests a second: p99 %v, idle %v, refused %v", share, length, runs, busy.Load(), rate, percentile(took, 0.99), quiet, refused)
		if len(refused) > 0 || runs < 10 {
			t.Error("warm requests were refused, or there was no storm")
		}
		idle, stormy = min(idle, quiet), min(stormy, percentile(took, 0.99))
	}
	if stormy > 3*idle {
		t.Errorf("warm p99 %v in the storm, want at most 3 × %v", stormy, idle)
	}
}

// storm is the process.
func storm(settings []byte) error {
	var w weather
	if err := json.Unmarshal(settings, &w); err != nil {
		return err
	}
	hasher, err := newCostly(apikey.Argon2idConfig{Slots: 1})
	if err != nil {
		return err
	}
	p, err := newProgram(million{memstore.New()}, hasher, false, quiet, func(c *apikey.VerifierConfig) {
		c.ReadOnly, c.MaxEntries, c.MaxBytes = true, w.Warm+100_000, math.MaxInt64
	})
	if err != nil {
		return err
	}
	var o outcome
	hasher.cheap.Store(true)
	for i := range w.Warm {
		if _, err := p.verifier.Verify(background, tokenOf(idOf(i)), request); err != nil {
			return err
		}
	}
	hasher.cheap.Store(false)
	known := tokenOf(idOf(0))
	warm := func(int) error { _, err := p.verifier.Verify(background, known, request); return err }
	if w.Rate > 0 {
		took, _ := traffic(w.Rate, w.Length, warm)
		o.Idle = percentile(took, 0.99)
	}
	hasher.runs.Store(0)
	o.Live = int64(liveHeap())
	if o.Before, err = calm(); err != nil {
		return err
	}
	if w.Limit {
		o.Limit = mapped() + allowed
		debug.SetMemoryLimit(o.Limit)
	}
	var calls sync.WaitGroup
	calls.Go(func() { o.rush(p, w, w.Warm) })
	if w.Rate > 0 {
		took, errs := traffic(w.Rate, w.Length, warm)
		o.Stormy = percentile(took, 0.99)
		for _, n := range errs {
			o.Refused += n
		}
	}
	calls.Wait()
	o.Hashed = hasher.runs.Load()
	if _, o.Peak, err = resident(); err != nil {
		return err
	}
	if w.Again { // once more, with somebody who counts: that takes memory too
		o.Most = atMost(time.Second, func() { new(outcome).rush(p, weather{Callers: w.Callers, Again: true, Length: time.Second}, 1<<40) })
	}
	text, err := json.Marshal(o)
	say("over", string(text))
	return err
}

// rush is all callers at once, each with a token of his own, from the first-th on.
func (o *outcome) rush(p *program, w weather, first int) {
	var busy, failed, slowest atomic.Int64
	end := time.Now().Add(w.Length)
	var wg sync.WaitGroup
	for i := range w.Callers {
		wg.Go(func() {
			for n := first + i; ; n += w.Callers {
				start := time.Now()
				_, err := p.verifier.Verify(background, tokenOf(idOf(n)), request)
				raise(&slowest, int64(time.Since(start)))
				switch {
				case errors.Is(err, apikey.ErrBusy):
					busy.Add(1)
					if w.Again {
						time.Sleep(100 * time.Millisecond)
					}
				case err != nil:
					failed.Add(1)
				}
				if !w.Again || time.Now().After(end) {
					return
				}
			}
		})
	}
	wg.Wait()
	o.Busy, o.Failed, o.Slowest = busy.Load(), failed.Load(), time.Duration(slowest.Load())
}

// mapped is what the runtime holds of the system's memory, which is what a
// memory limit counts.
func mapped() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys - m.HeapReleased)
}

// atMost counts, while work runs, the goroutines inside argon2, and returns the
// greatest number that it saw.
func atMost(during time.Duration, work func()) (most int64) {
	var wg sync.WaitGroup
	wg.Go(work)
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		var profile strings.Builder
		pprof.Lookup("goroutine").WriteTo(&profile, 1)
		inside := int64(0)
		for stack := range strings.SplitSeq(profile.String(), "\n\n") { // "3 @ 0x…", and the functions
			if n := int64(0); strings.Contains(stack, "argon2.deriveKey") {
				fmt.Sscan(stack, &n)
				inside += n
			}
		}
		most = max(most, inside)
	}
	wg.Wait()
	return most
}
