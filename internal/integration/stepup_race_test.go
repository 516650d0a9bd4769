package integration

import (
	"errors"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
)

const racers = 64

// forgotten is when wrong answers count no more.
const forgotten = 30*24*time.Hour + time.Hour

// races is how often each race is run.
func races() int {
	if testing.Short() {
		return 5
	}
	return 50
}

// Sixty-four requests on two nodes redeem one grant: one of them is served.
func TestOneGrantServesOneRequest(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		r := newRace(t, open)
		reveal := func(n *node, g apikey.Grant) error {
			_, err := n.manager.Reveal(as("usr_1"), apikey.RevealRequest{Key: r.key, Grant: g})
			return err
		}
		rotate := func(n *node, g apikey.Grant) error {
			_, err := n.manager.Rotate(as("usr_1"), apikey.RotateRequest{Key: r.key, Grant: g})
			return err
		}
		issue := func(n *node, g apikey.Grant) error {
			_, err := n.manager.Issue(as("usr_1"), apikey.IssueRequest{Mode: apikey.Live, Grant: g})
			return err
		}
		for _, c := range []struct {
			name    string
			what    apikey.Guarded
			redeem  func(*node, apikey.Grant) error
			written func() int
		}{
			{"Reveal", apikey.RevealRequest{Key: r.key}, reveal, r.version},
			{"Rotate", apikey.RotateRequest{Key: r.key}, rotate, r.version},
			{"Issue", apikey.IssueRequest{Mode: apikey.Live}, issue, r.keys}, // no version of a key stands beside the grant
		} {
			served, most, before := 0, 0, c.written()
			for range races() {
				grant := approve(t, r.nodes[0], as("usr_1"), "password", c.what, typed(password))
				n := only(t, together(racers, func(i int) error { return c.redeem(r.nodes[i%2], grant) }), apikey.ErrGrant, apikey.ErrConflict)
				served, most = served+n, max(most, n)
				r.clock.move(time.Minute)
			}
			written := c.written() - before
			t.Logf("%s: %d grants, each redeemed by %d goroutines on 2 nodes: %d served, at most %d by one grant; %d written", c.name, races(), racers, served, most, written)
			if served != races() || most != 1 || written != races() {
				t.Fail()
			}
		}
	})
}

// Of the grants for sixty-four right answers to one challenge on two nodes, one works.
func TestOneChallengeMakesOneGrant(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		r := newRace(t, open)
		for _, factor := range []string{"password", "totp"} {
			answered, granted, most := 0, 0, 0
			challenges := max(1, races()/4) // each answer replaces the grant before it, so all of them write
			for range challenges {
				c, err := r.nodes[0].manager.Challenge(as("usr_1"), factor, apikey.RevealRequest{Key: r.key})
				must(t, err)
				answer := password
				if factor == "totp" {
					answer = r.people.app("usr_1")
				}
				grants := make([]apikey.Grant, racers)
				n := only(t, together(racers, func(i int) (err error) {
					grants[i], err = r.nodes[i%2].manager.Confirm(as("usr_1"), c.ID, answer)
					return err
				}), apikey.ErrChallenge, apikey.ErrWrongAnswer, apikey.ErrTooManyAttempts, apikey.ErrConflict)
				worked := 0
				for _, g := range grants {
					if g.IsZero() {
						continue
					}
					_, err := r.nodes[1].manager.Reveal(as("usr_1"), apikey.RevealRequest{Key: r.key, Grant: g})
					var refused *apikey.ApprovalError
					if errors.As(err, &refused) && refused.Code == apikey.ApprovalUnknown {
						continue // replaced by a later one; one that is only too late for the key is not
					}
					must(t, err)
					worked++
				}
				answered, granted, most = answered+n, granted+worked, max(most, worked)
				r.clock.move(forgotten) // attempts that could not be given back
			}
			t.Logf("%s: %d challenges, each answered rightly by %d goroutines on 2 nodes: %d answers taken, %d grants worked, at most %d of one challenge", factor, challenges, racers, answered, granted, most)
			if granted != challenges || most != 1 {
				t.Fail()
			}
		}
	})
}

// One code, given to two challenges on two nodes, one after the other and at the
// same time: the second is refused.
func TestOneCodeWorksOnce(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		r := newRace(t, open)
		for _, how := range []string{"one after the other", "at the same time"} {
			accepted, most, first := 0, 0, 0
			for range races() {
				var challenges [2]apikey.Challenge
				for i, req := range []apikey.Guarded{apikey.RevealRequest{Key: r.key}, apikey.RotateRequest{Key: r.key}} {
					var err error
					challenges[i], err = r.nodes[i].manager.Challenge(as("usr_1"), "totp", req)
					must(t, err)
				}
				code := r.people.app("usr_1")
				answer := func(i int) error {
					_, err := r.nodes[i].manager.Confirm(as("usr_1"), challenges[i].ID, code)
					return err
				}
				var errs []error
				if how == "at the same time" {
					errs = together(2, answer)
				} else {
					errs = []error{answer(0), answer(1)}
				}
				n := only(t, errs, apikey.ErrWrongAnswer)
				accepted, most = accepted+n, max(most, n)
				if errs[0] == nil {
					first++
				}
				// One step on it is still the same code that would be taken: by the challenge
				// that it has answered again, and by no other.
				r.clock.move(totp.Period)
				other := 1
				if errs[0] != nil {
					other = 0
				}
				if _, err := r.nodes[other].manager.Confirm(as("usr_1"), challenges[other].ID, code); err == nil {
					t.Error("the same code was taken one step later")
				}
				r.clock.move(forgotten)
			}
			t.Logf("%d codes, each given on two nodes %s: %d accepted, %d refused, at most %d of one code", races(), how, accepted, 2*races()-accepted, most)
			if accepted != races() || most != 1 || how == "one after the other" && first != races() {
				t.Fail()
			}
		}
	})
}

// A grant is for the key as it was when it was asked about. Whatever changes the
// key on the other node before it is redeemed voids it.
func TestAChangeVoidsAGrant(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		r := newRace(t, open)
		accepted, tried := 0, 0
		n := r.nodes[1].manager
		changes := []func() error{
			func() error {
				_, err := n.Update(as("usr_2"), apikey.UpdateRequest{Key: r.key, Name: apikey.Set(r.clock.now().String())})
				return err
			},
			func() error { return n.Suspend(as("usr_2"), r.key) },
			func() error { return n.Resume(as("usr_2"), apikey.ResumeRequest{Key: r.key}) },
			func() error {
				req := apikey.RevealRequest{Key: r.key}
				req.Grant = approve(t, r.nodes[1], as("usr_2"), "password", req, typed(password))
				_, err := n.Reveal(as("usr_2"), req)
				return err
			},
			func() error {
				req := apikey.RotateRequest{Key: r.key}
				req.Grant = approve(t, r.nodes[1], as("usr_2"), "password", req, typed(password))
				_, err := n.Rotate(as("usr_2"), req)
				return err
			},
		}
		for range races() / len(changes) {
			for _, change := range changes {
				req := apikey.RevealRequest{Key: r.key}
				req.Grant = approve(t, r.nodes[0], as("usr_1"), "password", req, typed(password))
				must(t, change())
				tried++
				if _, err := r.nodes[0].manager.Reveal(as("usr_1"), req); !errors.Is(err, apikey.ErrGrant) {
					accepted++
				}
				r.clock.move(time.Minute)
			}
		}
		t.Logf("%d grants redeemed after the key was changed in one of %d ways on the other node: accepted %d", tried, len(changes), accepted)
		if accepted != 0 {
			t.Fail()
		}
	})
}

// race is a program of two nodes with one recoverable key, whose admin usr_1 has
// enrolled an app.
type race struct {
	t      *testing.T
	clock  *clock
	people *people
	nodes  [2]*node
	key    apikey.KeyID
}

func newRace(t *testing.T, open func() apikey.Store) *race {
	r := &race{t: t, clock: newClock()}
	r.people = newPeople(r.clock.now)
	for i := range r.nodes {
		r.nodes[i] = newNode(t, open(), r.clock.now, r.people.factors(func(act apikey.Action, mode apikey.Mode) []string {
			if act == apikey.ActionIssue && mode == apikey.Live || act == apikey.ActionReveal || act == apikey.ActionRotate {
				return []string{"password", "totp", "email"}
			}
			return nil
		}))
	}
	req := apikey.IssueRequest{Mode: apikey.Live, Recoverable: true}
	req.Grant = approve(t, r.nodes[0], as("usr_1"), "password", req, typed(password))
	issued, err := r.nodes[0].manager.Issue(as("usr_1"), req)
	must(t, err)
	r.key = issued.Key.ID
	r.people.enroll(t, r.nodes[0], "usr_1", r.clock)
	return r
}

func (r *race) version() int {
	info, err := r.nodes[0].manager.Get(as("usr_1"), r.key)
	must(r.t, err)
	return int(info.Version)
}

func (r *race) keys() int {
	list, err := r.nodes[0].manager.List(as("usr_1"), apikey.ListRequest{Limit: 1000})
	must(r.t, err)
	return len(list.Keys)
}
