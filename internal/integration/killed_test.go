package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
)

// Two hundred processes (five hundred with -full) that rotate, reveal and reseal
// without a pause on one database, each killed (SIGKILL) after a random time. Each time the other node then finds every key with a token that
// works, no more tokens than there may be, every reveal that was answered in the
// log, and everything sealed still openable.
func TestKilledAtAnyPoint(t *testing.T) {
	t.Parallel() // nothing here is timed
	onPlaces(t, func(t *testing.T, at place) {
		lives := 200
		switch {
		case testing.Short():
			lives = 25
		case *full:
			lives = 500
		}
		killAll(t, newAftermath(t, at), at, lives)
	})
}

func killAll(t *testing.T, a *aftermath, at place, lives int) {
	start := time.Now()
	for life := range lives {
		if life%25 == 0 { // new ones, whose chains are still short
			a.issueKeys(4)
		}
		args := []string{string(at), fmt.Sprint(life)}
		for _, key := range a.keys {
			args = append(args, key.String())
		}
		c := startChild(t, "work", args...)
		c.expect("ready")
		var said [][]string
		for range rand.IntN(12) { // it lives for that many lines, on a slow machine too, and a little longer
			words := c.line()
			if words == nil {
				t.Fatal("the process ended by itself")
			}
			said = append(said, words)
		}
		time.Sleep(soon(4 * time.Millisecond))
		a.look(fmt.Sprint("usr_", life), append(said, c.kill()...))
		if !c.killed() {
			t.Fatal("the process ended before it was killed")
		}
	}
	seeds := a.seeds()
	t.Logf("%d processes killed in %v, the last thing begun was: %v", lives, time.Since(start).Round(time.Second), a.during)
	t.Logf("answered before: %d rotations, %d reveals, %d batches resealed; looked at afterwards: %d keys, %d live tokens revealed and verified, %d events walked, %d TOTP seeds",
		a.rotated, a.revealed, a.resealed, a.looked, a.opened, a.events, seeds)
	t.Logf("keys with no valid credential %d, with more than the allowed unended ones %d; reveals without an event %d; answered rotations lost %d; broken chains %d; sealed values that do not open %d",
		a.dead, a.crowded, a.unlogged, a.lost, a.broken, a.shut)
	if a.dead+a.crowded+a.unlogged+a.lost+a.broken+a.shut != 0 {
		t.Fail()
	}
	if a.rotated < lives/4 || a.revealed < lives/4 || a.resealed == 0 || len(a.during) < 3 || seeds == 0 {
		t.Error("this proves nothing: too little was done before the ends")
	}
}

// workUntilKilled is the process: it does one thing after the other to the keys
// that it was given, and says when it begins one and when it was answered.
func workUntilKilled(args []string) error {
	at, life, keys := args[0], sure(strconv.Atoi(args[1])), args[2:]
	p := newPeople(time.Now)
	m, _, err := childNode(at, time.Now, p.factors(apikey.GuardRevealAndRotate("password")), func(c *managing) {
		c.KEKs = []apikey.KEK{localKEK(1), localKEK(2)}
		if life%2 == 1 { // so that there is always something to seal anew
			slices.Reverse(c.KEKs)
		}
	})
	if err != nil {
		return err
	}
	w := worker{m, fmt.Sprint("usr_", life)}
	say("ready")
	for {
		key := sure(apikey.ParseKeyID(keys[rand.IntN(len(keys))]))
		switch rand.IntN(5) {
		case 0, 1:
			err = w.rotate(key)
		case 2, 3:
			err = w.reveal(key)
		default:
			err = w.reseal()
		}
		if err != nil {
			return err
		}
	}
}

type worker struct {
	m     *apikey.Manager
	actor string
}

func (w worker) approve(req apikey.Guarded) (apikey.Grant, error) {
	c, err := w.m.Challenge(as(w.actor), "password", req)
	if err != nil {
		return apikey.Grant{}, err
	}
	return w.m.Confirm(as(w.actor), c.ID, password)
}

// rotate does so in one of the ways that there are. The windows are so long that
// none begins or ends while somebody looks.
func (w worker) rotate(key apikey.KeyID) error {
	say("begin", "rotate")
	later := time.Now().Add(time.Hour)
	ways := []apikey.RotateRequest{
		{}, {Overlap: time.Hour}, {Overlap: time.Hour, Replace: true}, {At: later}, {At: later, Overlap: time.Hour, Replace: true},
	}
	req := ways[rand.IntN(len(ways))]
	req.Key = key
	var next apikey.Issued
	var err error
	if req.Grant, err = w.approve(req); err == nil {
		next, err = w.m.Rotate(as(w.actor), req)
	}
	switch {
	case errors.Is(err, apikey.ErrRotationPending), errors.Is(err, apikey.ErrOverlapRunning):
		return nil
	case err != nil:
		return err
	}
	say("rotated", key, next.Key.Version, next.Token.Credential(), next.Token.Reveal())
	return nil
}

func (w worker) reveal(key apikey.KeyID) error {
	say("begin", "reveal")
	req := apikey.RevealRequest{Key: key}
	var err error
	if req.Grant, err = w.approve(req); err != nil {
		return err
	}
	shown, err := w.m.Reveal(as(w.actor), req)
	if err != nil {
		return err
	}
	say("revealed", key, shown.Key.Version, shown.Token.Credential(), shown.Token.Reveal())
	return nil
}

func (w worker) reseal() error {
	say("begin", "reseal")
	n, err := w.m.Reseal(staff(), 4)
	if err != nil {
		return err
	}
	say("resealed", n)
	return nil
}

// aftermath is the other node, which looks at what a killed process has left.
type aftermath struct {
	*node
	t      *testing.T
	people *people
	keys   []apikey.KeyID

	during                      map[string]int
	rotated, revealed, resealed int // answered
	looked, opened, events      int
	dead, crowded, unlogged     int
	lost, broken, shut          int
}

func newAftermath(t *testing.T, at place) *aftermath {
	a := &aftermath{t: t, people: newPeople(time.Now), during: map[string]int{}}
	a.node = newNode(t, at.store(t), time.Now, a.people.factors(nil), func(c *managing) {
		c.KEKs = []apikey.KEK{localKEK(1), localKEK(2)}
		c.InsecureRevealWithoutStepUp = true // it looks at everything, by hand
		c.StepUp = func(act apikey.Action, mode apikey.Mode) []string {
			if act == apikey.ActionReveal && mode == apikey.Test { // asked about no key that there is
				return []string{"totp"}
			}
			return nil
		}
	})
	for i := range 5 {
		actor := fmt.Sprint("owner_", i)
		a.people.begin(t, a.node, actor)
		must(t, a.manager.ConfirmEnrollment(as(actor), "totp", a.people.app(actor)))
	}
	return a
}

func (a *aftermath) issueKeys(n int) {
	a.keys = nil
	for range n {
		issued, err := a.manager.Issue(as("owner"), apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
		must(a.t, err)
		a.keys = append(a.keys, issued.Key.ID)
	}
}

// seeds has every owner answer with their app, and counts who could.
func (a *aftermath) seeds() (opened int) {
	a.t.Helper()
	issued, err := a.manager.Issue(as("owner"), apikey.IssueRequest{Mode: apikey.Test, Recoverable: true})
	must(a.t, err)
	for actor, seed := range a.people.seeds {
		c, err := a.manager.Challenge(as(actor), "totp", apikey.RevealRequest{Key: issued.Key.ID})
		if err == nil { // the next step's code: the enrolment may have used this one
			_, err = a.manager.Confirm(as(actor), c.ID, totp.Code(seed, totp.Step(time.Now())+1))
		}
		if err != nil {
			a.shut++
			a.t.Error(err)
			continue
		}
		opened++
	}
	return opened
}

// look is what the other node does after each end.
func (a *aftermath) look(actor string, said [][]string) {
	a.t.Helper()
	must(a.t, a.verifier.Sync(background))
	begun := "nothing"
	answered := map[string][][]string{} // by key
	for _, words := range said {
		switch words[0] {
		case "begin":
			begun = words[1]
		case "rotated":
			a.rotated++
			answered[words[1]] = append(answered[words[1]], words)
		case "revealed":
			a.revealed++
			answered[words[1]] = append(answered[words[1]], words)
		case "resealed":
			a.resealed++
		}
	}
	a.during[begun]++
	for _, key := range a.keys {
		info, err := a.manager.Get(as("owner"), key)
		must(a.t, err)
		a.windows(info)
		a.chain(info, actor, answered[key.String()])
		a.looked++
	}
}

// windows looks at what of a key is live, opens each and presents it.
func (a *aftermath) windows(info apikey.Info) {
	now, live, pending, valid := time.Now(), 0, 0, 0
	for c := range info.Credentials.All() {
		if c.Ended || !c.NotAfter.IsZero() && !now.Before(c.NotAfter) {
			continue
		}
		live++
		var want error
		if now.Before(c.NotBefore) {
			pending++
			want = apikey.ErrNotYetValid
		}
		shown, err := a.manager.Reveal(as("owner"), apikey.RevealRequest{Key: info.ID, Credential: c.ID})
		if err != nil {
			a.shut++
			a.t.Errorf("key %s, credential %s: %v", info.ID, c.ID, err)
			continue
		}
		a.opened++
		_, err = a.verifier.Verify(background, shown.Token.Reveal(), apikey.Request{})
		switch {
		case !errors.Is(err, want):
			a.t.Errorf("key %s, credential %s: %v", info.ID, c.ID, err)
		case err == nil:
			valid++
		}
	}
	if valid == 0 {
		a.dead++
		a.t.Errorf("key %s has no valid credential", info.ID)
	}
	if pending > 1 || live-pending > 2 {
		a.crowded++
		a.t.Errorf("key %s has %d live credentials, %d of them pending", info.ID, live, pending)
	}
}

// chain looks for the event of each thing that was answered, at the very place
// in the key's chain that the answer named, and walks the chain.
func (a *aftermath) chain(info apikey.Info, actor string, answered [][]string) {
	list, err := a.manager.Events(as("owner"), apikey.EventsRequest{Key: info.ID, Limit: 1000})
	must(a.t, err)
	bySeq := map[string]apikey.Event{}
	for _, e := range list.Events {
		bySeq[fmt.Sprint(e.Seq)] = e
	}
	for _, words := range answered {
		e, found := bySeq[words[2]]
		found = found && e.Credential.String() == words[3] && e.Actor.ID == actor && e.Outcome == apikey.OutcomeDone
		switch {
		case words[0] == "revealed" && !(found && e.Action == apikey.ActionReveal):
			a.unlogged++
			a.t.Errorf("key %s: a reveal was answered, and its event is not there", info.ID)
		case words[0] == "rotated" && !(found && e.Action == apikey.ActionRotate):
			a.lost++
			a.t.Errorf("key %s: a rotation was answered, and it is not there", info.ID)
		}
	}
	report, err := a.manager.VerifyEvents(as("owner"), info.ID)
	must(a.t, err)
	a.events += report.Events
	if report.Broken != nil || report.Unverifiable != 0 {
		a.broken++
		a.t.Errorf("key %s: the chain breaks: %+v", info.ID, report)
	}
}
