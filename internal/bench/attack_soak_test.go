package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// TestSoak verifies at a steady high rate, on two Verifiers over a file of
// SQLite, while keys are issued, updated, suspended, resumed, rotated and
// revoked, and compares each answer with what is true. Ten minutes with -full;
// a tenth of the time is a "minute".
func TestSoak(t *testing.T) {
	length := 10 * time.Minute
	if !*full {
		length = 30 * time.Second
	}
	goroutines := runtime.NumGoroutine()
	s := newSoak(t)
	minute := length / 10
	s.begin(length)
	time.Sleep(minute)
	second := s.heaps(minute)
	time.Sleep(7 * minute)
	last := s.heaps(minute)
	s.done.Wait()
	t.Logf("%v: %d answers here and %d on a node that is told by the feed, %.0f a second; %d changes; wrong %d",
		length, s.local.Load(), s.told.Load(), float64(s.asked.Load())/length.Seconds(), s.changes.Load(), s.wrong.Load())
	t.Logf("heap after a collection, on average: %.0f KiB in the second minute, %.0f KiB in the last, %+.1f %%",
		second/1024, last/1024, 100*(last/second-1))
	if last > 1.05*second {
		t.Errorf("the heap grew by %.1f %%, want at most 5 %%", 100*(last/second-1))
	}
	if s.local.Load() < 1000 || s.told.Load() < 1000 || s.changes.Load() < 100 {
		t.Error("nothing happened")
	}
	s.close(t)
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() != goroutines && time.Now().Before(deadline) { // the last ones are on their way
		time.Sleep(10 * time.Millisecond)
	}
	n := runtime.NumGoroutine()
	t.Logf("goroutines: %d before, %d after", goroutines, n)
	if n != goroutines {
		t.Error("a goroutine stays")
	}
}

// soak is two nodes, and what is true.
type soak struct {
	*program // whose Verifier the Manager tells
	t        *testing.T
	fed      *apikey.Verifier // has the feed alone
	synced   atomic.Int64     // when its last good sync began
	close    func(*testing.T)
	start    time.Time
	end      time.Time
	done     sync.WaitGroup
	keys     []*truth

	asked, local, told, changes, wrong atomic.Int64
}

// truth is what is known of one key. Whoever changes the key holds mu, so that
// what is known is what is true; whoever verifies may meanwhile see either, and
// is judged by the revision before and after.
type truth struct {
	mu       sync.Mutex
	account  string
	key      apikey.KeyID
	revision atomic.Int64 // odd while a change is under way
	since    atomic.Int64 // the end of the last change
	now      atomic.Pointer[state]
}

// state is a token, and what verifying it has to say.
type state struct {
	token string
	want  error
}

// newSoak makes 200 keys. The caches hold 100 more, so that they are full soon:
// what was revoked is remembered until something else needs its place.
func newSoak(t *testing.T) *soak {
	store, db, err := openSQLite(filepath.Join(t.TempDir(), "keys.db"))
	must(t, err)
	p, err := newProgram(store, nil, true, func(c *apikey.VerifierConfig) { c.MaxEntries = 300 })
	must(t, err)
	vc := p.vc
	vc.Sync = -1
	fed, err := apikey.NewVerifier(background, p.settings, vc)
	must(t, err)
	issued, err := p.issue(200)
	must(t, err)
	s := &soak{program: p, t: t, fed: fed, close: func(t *testing.T) {
		must(t, errors.Join(p.verifier.Close(background), fed.Close(background), db.Close()))
	}}
	for _, i := range issued {
		k := &truth{key: i.Key.ID, account: i.Key.Account}
		k.now.Store(&state{token: i.Token.Reveal()})
		s.keys = append(s.keys, k)
	}
	return s
}

// begin starts all that goes on.
func (s *soak) begin(length time.Duration) {
	s.start = time.Now()
	s.end = s.start.Add(length)
	for range 2 { // 50,000 verifications a second each
		s.every(5*time.Millisecond, func() error {
			for i := range 250 {
				s.judge(s.keys[rand.IntN(len(s.keys))], i%10 == 0)
			}
			return nil
		})
	}
	s.every(100*time.Millisecond, func() error {
		began := s.clock()
		err := s.fed.Sync(background)
		if err == nil {
			s.synced.Store(began)
		}
		return err
	})
	s.every(10*time.Millisecond, func() error {
		s.changes.Add(1)
		return s.change(s.keys[rand.IntN(len(s.keys))])
	})
}

// every does work at a steady rate until the end, or an error.
func (s *soak) every(pause time.Duration, work func() error) {
	s.done.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for time.Now().Before(s.end) {
			if err := work(); err != nil {
				s.t.Error(err)
				return
			}
			<-tick.C
		}
	})
}

func (s *soak) clock() int64 { return int64(time.Since(s.start)) }

// judge verifies a key, on one of the nodes, and compares the answer with the
// truth. The node that has the feed alone is judged by what was true when its
// last sync began.
func (s *soak) judge(k *truth, fed bool) {
	s.asked.Add(1)
	before, now := k.revision.Load(), k.now.Load()
	verifier, judged := s.verifier, &s.local
	if fed {
		verifier, judged = s.fed, &s.told
	}
	if before%2 == 1 || fed && s.synced.Load() <= k.since.Load() {
		return
	}
	_, err := verifier.Verify(background, now.token, request)
	if k.revision.Load() != before {
		return // it changed meanwhile: either is right
	}
	judged.Add(1)
	if !errors.Is(err, now.want) { // of nil: that it is nil
		if s.wrong.Add(1) <= 10 {
			s.t.Errorf("%v instead of %v (on the node with the feed: %v)", err, now.want, fed)
		}
	}
}

func (s *soak) change(k *truth) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revision.Add(1)
	defer k.revision.Add(1)
	next, err := s.disturb(k, *k.now.Load())
	k.now.Store(&next)
	k.since.Store(s.clock())
	return err
}

// disturb makes one change and says what is true afterwards. What was taken away
// is asked for at once.
func (s *soak) disturb(k *truth, now state) (state, error) {
	ctx := actor(k.account)
	switch rand.IntN(5) {
	case 0:
		_, err := s.manager.Update(ctx, apikey.UpdateRequest{Key: k.key, Name: apikey.Set(fmt.Sprint(rand.Uint32()))})
		return now, err
	case 1:
		return state{now.token, apikey.ErrSuspended}, s.manager.Suspend(ctx, k.key)
	case 2:
		return state{now.token, nil}, s.manager.Resume(ctx, apikey.ResumeRequest{Key: k.key})
	case 3:
		if now.want != nil { // a suspended key is not rotated
			return now, nil
		}
		issued, err := s.manager.Rotate(ctx, apikey.RotateRequest{Key: k.key})
		if err != nil {
			return now, err
		}
		if _, err := s.verifier.Verify(background, now.token, request); !errors.Is(err, apikey.ErrCredentialEnded) {
			return now, fmt.Errorf("the old token says %v", err)
		}
		return state{issued.Token.Reveal(), nil}, nil
	}
	if err := s.manager.Revoke(ctx, apikey.RevokeRequest{Key: k.key}); err != nil {
		return now, err
	}
	if _, err := s.verifier.Verify(background, now.token, request); !errors.Is(err, apikey.ErrRevoked) {
		return now, fmt.Errorf("a revoked key says %v", err)
	}
	issued, err := s.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: abilities})
	if err != nil {
		return now, err
	}
	k.key = issued.Key.ID
	return state{issued.Token.Reveal(), nil}, nil
}

// heaps is the mean of what is reachable, over a time. What was used is held
// until it is written, every three seconds, and evicted entries until the table
// is built anew, so one moment says little.
func (s *soak) heaps(during time.Duration) (mean float64) {
	n := max(15, int(during.Seconds()))
	for range n {
		time.Sleep(during / time.Duration(n))
		mean += float64(liveHeap()) / float64(n)
	}
	return mean
}
