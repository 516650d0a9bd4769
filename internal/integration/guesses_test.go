package integration

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
)

// A million guesses (200,000 without -full) at one actor's codes, over as many
// challenges as the program gives, from eight nodes, by somebody who has all the time
// in the world: the clock jumps an hour whenever an hourly limit stands in the way, and
// forty days after the lock. What counts is how many are compared at all.
func TestAMillionGuesses(t *testing.T) {
	total := int64(200_000)
	switch {
	case testing.Short():
		total = 20_000
	case *full:
		total = 1_000_000
	}
	onStores(t, func(t *testing.T, open func() apikey.Store) { guessAll(t, open, total) })
	if !*full {
		total = 10_000
	}
	onServers(t, func(t *testing.T, open func() apikey.Store) { guessAll(t, open, total) })
}

func guessAll(t *testing.T, open func() apikey.Store, total int64) {
	g := newGuesser(t, open, total)
	start, day := time.Now(), g.clock.now()
	var workers sync.WaitGroup
	for i := range 4 * len(g.nodes) {
		workers.Go(func() { g.work(g.nodes[i%len(g.nodes)], rand.New(rand.NewPCG(1, uint64(i)))) })
	}
	workers.Wait()
	evaluated := g.compared.Load()
	chance := 1 - math.Pow(1-3e-6, float64(evaluated))
	t.Logf("%d guesses over %d challenges from %d nodes in %v (%.0f days of the program's time): evaluated %d, refused unseen %d; probability that one was right %.3g",
		g.made.Load(), g.put.Load(), len(g.nodes), time.Since(start).Round(time.Second), g.clock.now().Sub(day).Hours()/24,
		evaluated, g.made.Load()-evaluated, chance)
	if evaluated > 100 || chance > 3e-4 {
		t.Error("more was compared than a hundred guesses")
	}
	if evaluated < 90 || g.made.Load() < total/10 || g.clock.now().Sub(day) < 31*24*time.Hour {
		t.Error("this proves nothing: there were too few guesses, or too little time")
	}
	// Whoever knows the code is locked out too, until somebody else lifts it.
	req := apikey.RevealRequest{Key: g.key}
	if _, err := g.nodes[3].manager.Challenge(as("usr_1"), "totp", req); !errors.Is(err, apikey.ErrLocked) {
		t.Errorf("a challenge after the guesses: %v", err)
	}
	must(t, g.nodes[5].manager.LiftLock(staff(), apikey.LiftLockRequest{Account: "acc_1", Actor: "usr_1"}))
	g.clock.move(time.Hour) // those challenges that still waited are over
	req.Grant = approve(t, g.nodes[3], as("usr_1"), "totp", req, func() string { return g.people.app("usr_1") })
	_, err := g.nodes[6].manager.Reveal(as("usr_1"), req)
	must(t, err)
}

// guesser is somebody with the session of usr_1 and without the phone.
type guesser struct {
	t        *testing.T
	clock    *clock
	people   *people
	nodes    [8]*node
	key      apikey.KeyID
	total    int64
	deadline time.Time

	compared, made, put atomic.Int64
	known               [8]atomic.Pointer[string] // challenges to guess at
	jump                sync.Mutex
}

// counted is TOTP that counts what it compares.
type counted struct {
	*apikey.TOTP
	checks *atomic.Int64
}

func (c counted) Check(ctx context.Context, a apikey.Actor, ch apikey.Challenge, enrolled, state []byte, answer string) ([]byte, bool, error) {
	c.checks.Add(1)
	return c.TOTP.Check(ctx, a, ch, enrolled, state, answer)
}

// patience is how long somebody guesses at most, on a slow machine too.
func patience() time.Duration {
	if *full {
		return 5 * time.Minute
	}
	return 3 * time.Minute
}

func newGuesser(t *testing.T, open func() apikey.Store, total int64) *guesser {
	g := &guesser{t: t, clock: newClock(), total: total, deadline: time.Now().Add(patience())}
	g.people = newPeople(g.clock.now)
	for i := range g.nodes {
		g.nodes[i] = newNode(t, open(), g.clock.now, g.people.factors(apikey.GuardRevealAndRotate("totp")), func(c *managing) {
			c.Factors["totp"] = counted{c.Factors["totp"].(*apikey.TOTP), &g.compared}
		})
	}
	issued, err := g.nodes[0].manager.Issue(as("usr_1"), apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
	must(t, err)
	g.key = issued.Key.ID
	g.people.enroll(t, g.nodes[0], "usr_1", g.clock)
	g.compared.Store(0) // the first code was usr_1's own
	return g
}

func (g *guesser) work(n *node, dice *rand.Rand) {
	for i := g.made.Add(1); i <= g.total && time.Now().Before(g.deadline); i = g.made.Add(1) {
		slot := &g.known[dice.IntN(len(g.known))]
		if id := slot.Load(); id == nil || dice.IntN(4) == 0 {
			c, err := n.manager.Challenge(as("usr_1"), "totp", apikey.RevealRequest{Key: g.key})
			g.after(err)
			if err == nil {
				g.put.Add(1)
				slot.Store(&c.ID)
			}
		}
		id := "none"
		if known := slot.Load(); known != nil {
			id = *known
		}
		grant, err := n.manager.Confirm(as("usr_1"), id, g.wrong(dice))
		g.after(err)
		if err == nil || !grant.IsZero() {
			g.t.Error("a wrong code was taken")
			return
		}
		if i > g.total/2 && i%(g.total/1000) == 0 { // the lock is there: does it pass by itself?
			g.clock.move(2 * time.Hour)
		}
	}
	g.made.Add(-1) // the last one was not made
}

// after looks at how a step ended, and waits where waiting helps.
func (g *guesser) after(err error) {
	var wait *apikey.AttemptsError
	switch {
	case errors.As(err, &wait):
		g.jump.Lock()
		g.clock.move(wait.Wait)
		g.jump.Unlock()
	case err == nil, errors.Is(err, apikey.ErrWrongAnswer), errors.Is(err, apikey.ErrChallenge), errors.Is(err, apikey.ErrLocked), errors.Is(err, apikey.ErrConflict):
	default:
		g.t.Error(err)
	}
}

// wrong is six digits that are not the code, so that luck does not end the test.
func (g *guesser) wrong(dice *rand.Rand) string {
	for {
		guess := fmt.Sprintf("%06d", dice.IntN(1_000_000))
		if _, right := totp.Match(g.people.seeds["usr_1"], guess, g.clock.now(), 0); !right {
			return guess
		}
	}
}

// The budgets are for wrong answers. Somebody who works through two hundred keys
// in an hour, and answers rightly, never meets them.
func TestRightAnswersAreNeverRefused(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		r := newRace(t, open)
		start, refused := r.clock.now(), 0
		for i := range 200 {
			req := apikey.RevealRequest{Key: r.key}
			c, err := r.nodes[i%2].manager.Challenge(as("usr_1"), "password", req)
			if err == nil {
				req.Grant, err = r.nodes[(i+1)%2].manager.Confirm(as("usr_1"), c.ID, password)
			}
			if err == nil {
				_, err = r.nodes[i%2].manager.Reveal(as("usr_1"), req)
			}
			if err != nil {
				refused++
				t.Error(err)
			}
			r.clock.move(17 * time.Second)
		}
		took := r.clock.now().Sub(start)
		t.Logf("200 right answers of one actor in %v on 2 nodes: refused %d", took, refused)
		if refused != 0 || took > time.Hour {
			t.Fail()
		}
	})
}
