package integration

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

const (
	skew  = 5 * time.Second // ManagerConfig's default
	month = 30 * 24 * time.Hour
)

// A switch in ninety days is exact to the microsecond of the clock that judges
// it, on a node that was there all the time, on one that was started since, and,
// on a database, in new processes, after the one that made the switch was killed
// (SIGKILL) as soon as it had its answer.
func TestScheduledSwitchIsExact(t *testing.T) {
	t.Run("memstore", func(t *testing.T) {
		store := memstore.New()
		s := newSwitch(t, func() apikey.Store { return store })
		next, err := s.before.manager.Rotate(as("usr_1"), apikey.RotateRequest{Key: s.key, At: s.at})
		must(t, err)
		s.next = next.Token.Reveal()
		s.walk(nil)
	})
	onPlaces(t, func(t *testing.T, at place) {
		s := newSwitch(t, func() apikey.Store { return at.store(t) })
		c := startChild(t, "rotate", string(at), s.clock.now().Format(time.RFC3339Nano), s.key.String(), s.at.Format(time.RFC3339Nano))
		s.next = c.expect("rotated")[0]
		c.kill()
		if !c.killed() {
			t.Fatal("the process ended by itself")
		}
		s.walk(func(now time.Time, token string) string {
			c := startChild(t, "verify", string(at), now.Format(time.RFC3339Nano), token)
			defer c.kill()
			return strings.Join(c.expect("answer"), " ")
		})
	})
}

// rotateAt is the process that makes the switch and lives no longer.
func rotateAt(args []string) error {
	now, at := sure(time.Parse(time.RFC3339Nano, args[1])), sure(time.Parse(time.RFC3339Nano, args[3]))
	m, _, err := childNode(args[0], func() time.Time { return now })
	if err != nil {
		return err
	}
	next, err := m.Rotate(as("usr_1"), apikey.RotateRequest{Key: sure(apikey.ParseKeyID(args[2])), At: at})
	if err != nil {
		return err
	}
	say("rotated", next.Token.Reveal())
	time.Sleep(time.Minute)
	return nil
}

// verifyAt is a process that begins to verify at a time.
func verifyAt(args []string) error {
	now := sure(time.Parse(time.RFC3339Nano, args[1]))
	store, _, err := place(args[0]).open()
	if err != nil {
		return err
	}
	_, vc := configs(store, func() time.Time { return now })
	v, err := vc.start(background)
	if err != nil {
		return err
	}
	_, err = v.Verify(background, args[2], apikey.Request{})
	say("answer", err)
	return nil
}

// scheduled is a key whose token is to change at a time.
type scheduled struct {
	t      *testing.T
	open   func() apikey.Store
	clock  *clock
	before *node // since before the rotation
	key    apikey.KeyID
	at     time.Time
	old    string
	next   string
}

func newSwitch(t *testing.T, open func() apikey.Store) *scheduled {
	s := &scheduled{t: t, open: open, clock: newClock()}
	s.at = s.clock.now().Add(3*month + 123456*time.Microsecond)
	s.before = newNode(t, open(), s.clock.now)
	issued, err := s.before.manager.Issue(as("usr_1"), apikey.IssueRequest{Mode: apikey.Live})
	must(t, err)
	s.key, s.old = issued.Key.ID, issued.Token.Reveal()
	_, err = s.before.verifier.Verify(background, s.old, apikey.Request{}) // warm
	must(t, err)
	return s
}

// walk goes through time and asks everybody. process asks in a new process.
func (s *scheduled) walk(process func(now time.Time, token string) string) {
	s.t.Helper()
	since := newNode(s.t, s.open(), s.clock.now)
	asked, wrong := 0, 0
	for _, edge := range []struct {
		name      string
		at        time.Duration // after T
		old, next error
	}{
		{"when it is scheduled", -3 * month, nil, apikey.ErrNotYetValid},
		{"a microsecond before NotBefore", -skew - time.Microsecond, nil, apikey.ErrNotYetValid},
		{"at NotBefore", -skew, nil, nil},
		{"at T", 0, nil, nil},
		{"a microsecond before NotAfter", skew - time.Microsecond, nil, nil},
		{"at NotAfter", skew, apikey.ErrCredentialEnded, nil},
		{"a day later", 24 * time.Hour, apikey.ErrCredentialEnded, nil},
	} {
		now := s.at.Add(edge.at)
		s.clock.set(now)
		for token, want := range map[string]error{s.old: edge.old, s.next: edge.next} {
			for who, v := range map[string]*apikey.Verifier{"the node from before": s.before.verifier, "the node started since": since.verifier} {
				asked++
				if _, err := v.Verify(background, token, apikey.Request{}); !errors.Is(err, want) {
					wrong++
					s.t.Errorf("%s, %s: %v instead of %v", edge.name, who, err, want)
				}
			}
			if process == nil {
				continue
			}
			asked++
			if got := process(now, token); got != fmt.Sprint(want) {
				wrong++
				s.t.Errorf("%s, a new process: %s instead of %v", edge.name, got, want)
			}
		}
	}
	s.t.Logf("a switch in 90 days, T = %s, edges T - %v and T + %v: %d answers around them, wrong %d", s.at.Format(time.RFC3339Nano), skew, skew, asked, wrong)
}

// Eight verifiers and a client, whose clocks are up to two seconds off either
// way: the client changes tokens at T by its own clock, and is never refused.
func TestScheduledSwitchAcrossSkewedNodes(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		s := newSwitch(t, open)
		next, err := s.before.manager.Rotate(as("usr_1"), apikey.RotateRequest{Key: s.key, At: s.at})
		must(t, err)
		var nodes []*node
		var off []time.Duration
		for i := range 8 {
			off = append(off, (time.Duration(i)*4*time.Second/7 - 2*time.Second).Round(time.Millisecond))
			nodes = append(nodes, newNode(t, open(), func() time.Time { return s.clock.now().Add(off[i]) }))
		}
		asked, refused, late := 0, 0, 0
		for at := -12 * time.Second; at <= 12*time.Second; at += 50 * time.Millisecond {
			s.clock.set(s.at.Add(at))
			for _, n := range nodes {
				for _, client := range []time.Duration{-2 * time.Second, -time.Second, 0, time.Second, 2 * time.Second} {
					token := s.old
					if at+client >= 0 {
						token = next.Token.Reveal()
					}
					asked++
					if _, err := n.verifier.Verify(background, token, apikey.Request{}); err != nil {
						refused++
					}
				}
				if _, err := n.verifier.Verify(background, s.old, apikey.Request{}); err == nil && at > skew+2*time.Second {
					late++
				}
			}
		}
		t.Logf("%d requests of 5 clients to 8 verifiers (clocks off by %v to %v) around T: valid requests refused %d, old token accepted later than T + %v + 2 s: %d", asked, off[0], off[7], refused, skew, late)
		if refused != 0 || late != 0 {
			t.Fail()
		}
	})
}

// What happens now is a state and no time: of a Manager whose clock is 3 s ahead
// the new token works at once on every node, and the old one on none that has
// asked what changed.
func TestManagerAheadOfItsVerifiers(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		c := newClock()
		ahead := newNode(t, open(), func() time.Time { return c.now().Add(3 * time.Second) })
		var all []*apikey.Verifier
		for range 4 {
			all = append(all, newNode(t, open(), c.now).verifier)
		}
		m, told := ahead.manager, ahead.verifier
		late, early := 0, 0
		check := func(token string, want error) {
			for _, v := range all {
				if _, err := v.Verify(background, token, apikey.Request{}); !errors.Is(err, want) {
					t.Errorf("%v instead of %v", err, want)
					if want == nil {
						late++
					} else {
						early++
					}
				}
			}
		}
		const rotations = 50
		issued, err := m.Issue(as("usr_1"), apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		check(issued.Token.Reveal(), nil)
		for range rotations {
			old := issued.Token.Reveal()
			issued, err = m.Rotate(as("usr_1"), apikey.RotateRequest{Key: issued.Key.ID})
			must(t, err)
			if _, err := told.Verify(background, old, apikey.Request{}); !errors.Is(err, apikey.ErrCredentialEnded) {
				t.Errorf("the node's own Verifier: %v", err)
			}
			check(issued.Token.Reveal(), nil)
			for _, v := range all {
				must(t, v.Sync(background))
			}
			check(old, apikey.ErrCredentialEnded)
		}
		t.Logf("issued once and rotated %d times by a manager 3 s ahead, %d verifiers: new token refused %d, old token accepted after the sync %d", rotations, len(all), late, early)
	})
}

// Rotate now, without overlap, is for a token that has leaked: nothing else that
// the key has, or was going to have, proves it afterwards.
func TestRotateNowEndsEverythingElse(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		c := newClock()
		nodes := []*node{newNode(t, open(), c.now), newNode(t, open(), c.now)}
		issued, err := nodes[0].manager.Issue(as("usr_1"), apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		tokens := []string{issued.Token.Reveal()}
		for _, req := range []apikey.RotateRequest{
			{Overlap: time.Hour},             // the first is on its way out
			{At: c.now().Add(2 * time.Hour)}, // the third is to come
			{},                               // now
		} {
			req.Key = issued.Key.ID
			if req == (apikey.RotateRequest{Key: req.Key}) {
				for i, want := range []error{nil, nil, apikey.ErrNotYetValid} {
					if _, err := nodes[0].verifier.Verify(background, tokens[i], apikey.Request{}); !errors.Is(err, want) {
						t.Fatalf("token %d before: %v", i, err)
					}
				}
			}
			next, err := nodes[len(tokens)%2].manager.Rotate(as("usr_1"), req)
			must(t, err)
			tokens = append(tokens, next.Token.Reveal())
			for _, n := range nodes {
				must(t, n.verifier.Sync(background))
			}
		}
		verified, others := 0, 0
		hours := []time.Duration{0, time.Hour, 2*time.Hour - skew, 2 * time.Hour, 3 * time.Hour}
		for _, d := range hours { // also when the others' times would have come
			c.set(newClock().now().Add(d))
			for _, n := range nodes {
				for i, token := range tokens {
					_, err := n.verifier.Verify(background, token, apikey.Request{})
					switch {
					case err == nil && i == len(tokens)-1:
						verified++
					case err == nil:
						others++
					case !errors.Is(err, apikey.ErrCredentialEnded):
						t.Errorf("token %d: %v", i, err)
					}
				}
			}
		}
		t.Logf("rotated now while an overlap ran and a switch was pending, 2 nodes asked at %d times: the new token verified %d times, any of the other %d tokens %d times", len(hours), verified, len(tokens)-1, others)
		if verified != 2*len(hours) || others != 0 {
			t.Fail()
		}
	})
}
