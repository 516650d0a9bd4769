package integration

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
)

// A KEK is replaced, four times over (twenty times with -full), while keys rotate and
// people answer: the process that seals anew is killed (SIGKILL) again and again until
// one gets to the end. Afterwards only the new KEK is there, and everything opens with
// it.
func TestResealKilledUntilDone(t *testing.T) {
	t.Parallel() // nothing here is timed
	onPlaces(t, func(t *testing.T, at place) {
		rounds := byte(4)
		if *full {
			rounds = 20
		}
		resealAgainAndAgain(t, at, rounds)
	})
}

func resealAgainAndAgain(t *testing.T, at place, rounds byte) {
	const keys, actors, beginners = 150, 30, 10
	r := newResealed(t, at, keys, actors)
	kills, opened, tokens := 0, 0, 0
	for round := range rounds {
		fresh, old := round+2, round+1
		newcomers := r.begin(fmt.Sprint("new_", round, "_"), beginners, r.node(old))
		here := r.node(fresh, old)
		ctx, stop := context.WithCancel(background)
		var users sync.WaitGroup
		users.Go(func() { r.use(ctx, here) })
		// The longer it takes the longer each lives: a slow machine gets there too.
		patience := 10 * time.Millisecond
		for done := false; !done; patience += time.Millisecond / 2 {
			c := startChild(t, "reseal", string(at), fmt.Sprint(fresh), fmt.Sprint(old))
			c.expect("ready")
			time.Sleep(soon(patience))
			for _, words := range c.kill() {
				done = done || words[0] == "done"
			}
			if !done && c.killed() {
				kills++
			}
		}
		stop()
		users.Wait()
		// What was sealed by the old one during the last batch: none, every process
		// has the new one first.
		if n, err := here.manager.Reseal(staff(), 1000); n != 0 || err != nil {
			t.Errorf("round %d: something was left: %d, %v", round, n, err)
		}
		only := r.node(fresh)
		opened += r.openAll(only) + r.confirmAll(only, newcomers)
		tokens += r.presentAll(only)
	}
	t.Logf("%d times a new KEK over %d recoverable keys and %d TOTP seeds, Reseal killed %d times, %d rotations and %d answers meanwhile: with the new KEK alone %d tokens and %d seeds opened, lost %d",
		rounds, keys, actors+beginners, kills, r.rotations, r.answers, tokens, opened, r.lost)
	if r.lost != 0 || tokens != int(rounds)*keys || opened != int(rounds)*(actors+beginners) || r.rotations == 0 || r.answers == 0 {
		t.Fail()
	}
	if kills < 2*int(rounds) {
		t.Error("this proves nothing: too few were killed")
	}
}

// resealAll is the process: it seals under the first KEK until nothing is left.
func resealAll(args []string) error {
	m, _, err := childNode(args[0], time.Now, func(c *managing) { c.KEKs = keksOf(args[1:]) })
	if err != nil {
		return err
	}
	say("ready")
	for {
		n, err := m.Reseal(staff(), 7)
		switch {
		case err != nil:
			return err
		case n == 0:
			say("done")
			time.Sleep(time.Minute) // it is killed all the same
		}
	}
}

func keksOf(numbers []string) (keks []apikey.KEK) {
	for _, n := range numbers {
		keks = append(keks, localKEK(byte(sure(strconv.Atoi(n)))))
	}
	return keks
}

// resealed is what a program has sealed.
type resealed struct {
	t      *testing.T
	at     place
	clock  *clock
	people *people
	tokens map[apikey.KeyID]string
	order  []apikey.KeyID
	actors []string // who have enrolled

	rotations, answers, lost int
}

func newResealed(t *testing.T, at place, keys, actors int) *resealed {
	r := &resealed{t: t, at: at, clock: newClock(), tokens: map[apikey.KeyID]string{}}
	r.people = newPeople(r.clock.now)
	n := r.node(1)
	for range keys {
		issued, err := n.manager.Issue(as("owner"), apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
		must(t, err)
		r.tokens[issued.Key.ID] = issued.Token.Reveal()
		r.order = append(r.order, issued.Key.ID)
	}
	r.actors = r.begin("usr_", actors, n)
	r.confirmAll(n, r.actors)
	r.clock.move(time.Minute)
	return r
}

// begin has people scan their seeds, and not yet answer.
func (r *resealed) begin(prefix string, count int, n *node) (actors []string) {
	for i := range count {
		actors = append(actors, fmt.Sprint(prefix, i))
		r.people.begin(r.t, n, actors[i])
	}
	return actors
}

// confirmAll has them answer for the first time.
func (r *resealed) confirmAll(n *node, actors []string) (opened int) {
	for _, actor := range actors {
		if err := n.manager.ConfirmEnrollment(as(actor), "totp", r.people.app(actor)); err != nil {
			r.lost++
			r.t.Errorf("the new seed of %s: %v", actor, err)
			continue
		}
		opened++
	}
	return opened
}

// node has these KEKs alone; the first wraps.
func (r *resealed) node(keks ...byte) *node {
	return newNode(r.t, r.at.store(r.t), r.clock.now, r.people.factors(apikey.GuardRevealAndRotate("totp", "password")), func(c *managing) {
		c.KEKs = nil
		for _, n := range keks {
			c.KEKs = append(c.KEKs, localKEK(n))
		}
	})
}

// use is what goes on meanwhile: keys are rotated, and people prove themselves,
// which swaps the very values that are sealed anew.
func (r *resealed) use(ctx context.Context, n *node) {
	const most = 15 // steps of the app, so that no newcomer's ten minutes are over
	for i := 0; ctx.Err() == nil && i < most*len(r.actors); i++ {
		if i%len(r.actors) == 0 {
			r.clock.move(totp.Period) // each app shows another code
		}
		actor, key := r.actors[i%len(r.actors)], r.order[i*7%len(r.order)]
		req := apikey.RotateRequest{Key: key}
		c, err := n.manager.Challenge(as(actor), "totp", req)
		if err == nil {
			req.Grant, err = n.manager.Confirm(as(actor), c.ID, r.people.app(actor))
		}
		if err != nil {
			r.t.Error(err)
			return
		}
		r.answers++
		next, err := n.manager.Rotate(as(actor), req)
		if err != nil {
			r.t.Error(err)
			return
		}
		r.rotations++
		r.tokens[key] = next.Token.Reveal()
	}
}

// openAll has every actor answer with their app.
func (r *resealed) openAll(n *node) (opened int) {
	r.clock.move(time.Minute)
	for _, actor := range r.actors {
		c, err := n.manager.Challenge(as(actor), "totp", apikey.RotateRequest{Key: r.order[0]})
		if err == nil {
			_, err = n.manager.Confirm(as(actor), c.ID, r.people.app(actor))
		}
		if err != nil {
			r.lost++
			r.t.Errorf("the seed of %s: %v", actor, err)
			continue
		}
		opened++
	}
	return opened
}

// presentAll reveals every key's token and presents it.
func (r *resealed) presentAll(n *node) (opened int) {
	must(r.t, n.verifier.Sync(background))
	for key, token := range r.tokens {
		req := apikey.RevealRequest{Key: key}
		c, err := n.manager.Challenge(as("owner"), "password", req)
		if err == nil {
			req.Grant, err = n.manager.Confirm(as("owner"), c.ID, password)
		}
		var shown apikey.Revealed
		if err == nil {
			shown, err = n.manager.Reveal(as("owner"), req)
		}
		if err == nil && shown.Token.Reveal() != token {
			err = errors.New("another token was revealed")
		}
		if err == nil {
			_, err = n.verifier.Verify(background, token, apikey.Request{})
		}
		if err != nil {
			r.lost++
			r.t.Errorf("key %s: %v", key, err)
			continue
		}
		opened++
	}
	return opened
}
