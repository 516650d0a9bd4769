package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// The worst day to suspend a key: mail, KEK and authenticator fail or hang, whoever
// sees the abuse is locked out of every guarded action, sixteen writers
// change the key all the time, and a thousand actions a second are denied on the
// account. Suspend needs none of what is broken, and nothing outruns it.
func TestSuspendAlwaysWorks(t *testing.T) {
	onEngines(t, func(t *testing.T, open func() apikey.Store) {
		s := newSiege(t, open)
		s.lockOut("usr_1")
		s.away.Store(true)
		ctx, stop := context.WithCancel(background)
		defer stop()
		s.surround(ctx)
		start := time.Now()
		var took []time.Duration
		failed := 0
		suspensions := 100
		if *full {
			suspensions = 200
		}
		for i := range suspensions {
			n := s.nodes[i%2]
			begin := time.Now()
			err := n.manager.Suspend(as("usr_1"), s.key)
			took = append(took, time.Since(begin))
			if err == nil {
				_, err = n.verifier.Verify(background, s.token, apikey.Request{})
			}
			if !errors.Is(err, apikey.ErrSuspended) {
				failed++
				t.Errorf("suspension %d: %v", i, err)
			}
			s.resume()
			time.Sleep(15 * time.Millisecond) // in which the others have their way
		}
		seconds := time.Since(start).Seconds()
		stop()
		s.others.Wait()
		slices.Sort(took)
		p99 := took[len(took)*99/100-1]
		t.Logf("%d suspensions by a locked actor in %.0f s, under %.0f updates/s by 16 writers, %.0f denied actions/s, %.0f calls/s that need what is away: failed %d; p50 %v, p99 %v, longest %v",
			len(took), seconds, float64(s.updated.Load())/seconds, float64(s.denied.Load())/seconds, float64(s.helpless.Load())/seconds,
			failed, took[len(took)/2].Round(10*time.Microsecond), p99.Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond))
		if failed != 0 || p99 > time.Second {
			t.Error("a suspension failed or came late")
		}
		if s.updated.Load() < 200 || float64(s.denied.Load())/seconds < 500 || s.helpless.Load() < 10 {
			t.Error("this proves nothing: it was too quiet")
		}
	})
}

// siege is a program of two nodes on its worst day.
type siege struct {
	t      *testing.T
	open   func() apikey.Store
	people *people
	nodes  [2]*node
	key    apikey.KeyID
	token  string
	away   atomic.Bool
	calls  atomic.Int64 // of what is away: every second fails, the others hang
	others sync.WaitGroup
	truce  sync.RWMutex // writers change the key only under its read lock

	updated, denied, helpless atomic.Int64
}

var errAway = errors.New("connection refused")

// reach is what mail, KEK and authenticator do first.
func (s *siege) reach(ctx context.Context) error {
	switch {
	case !s.away.Load():
		return nil
	case s.calls.Add(1)%2 == 0:
		return errAway
	}
	<-ctx.Done()
	return ctx.Err()
}

type farKEK struct {
	apikey.KEK
	s *siege
}

func (k farKEK) Wrap(ctx context.Context, dek, aad []byte) ([]byte, error) {
	if err := k.s.reach(ctx); err != nil {
		return nil, err
	}
	return k.KEK.Wrap(ctx, dek, aad)
}

func (k farKEK) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if err := k.s.reach(ctx); err != nil {
		return nil, err
	}
	return k.KEK.Unwrap(ctx, wrapped, aad)
}

type farTOTP struct {
	*apikey.TOTP
	s *siege
}

func (f farTOTP) Begin(ctx context.Context, a apikey.Actor, c apikey.Challenge, enrolled []byte) ([]byte, func(context.Context) error, error) {
	if err := f.s.reach(ctx); err != nil {
		return nil, nil, err
	}
	return f.TOTP.Begin(ctx, a, c, enrolled)
}

type farMail struct {
	*people
	s *siege
}

func (m farMail) Send(ctx context.Context, to string, msg apikey.Message) error {
	if err := m.s.reach(ctx); err != nil {
		return err
	}
	return m.people.Send(ctx, to, msg)
}

func newSiege(t *testing.T, open func() apikey.Store) *siege {
	s := &siege{t: t, open: open, people: newPeople(time.Now)}
	for i := range s.nodes {
		s.nodes[i] = s.node(time.Now)
	}
	issued, err := s.nodes[0].manager.Issue(as("usr_2"), apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
	must(t, err)
	s.key, s.token = issued.Key.ID, issued.Token.Reveal()
	for _, actor := range []string{"usr_1", "usr_2"} {
		s.people.begin(t, s.nodes[0], actor)
		must(t, s.nodes[0].manager.ConfirmEnrollment(as(actor), "totp", s.people.app(actor)))
	}
	return s
}

// node guards everything that can be guarded, but what the writers and the
// operator need to keep the test going.
func (s *siege) node(now func() time.Time) *node {
	guarded := []apikey.Action{apikey.ActionRotate, apikey.ActionReveal, apikey.ActionRevoke}
	return newNode(s.t, s.open(), now, s.people.factors(func(a apikey.Action, _ apikey.Mode) []string {
		if slices.Contains(guarded, a) {
			return []string{"totp", "email"}
		}
		return nil
	}), func(c *managing) {
		c.KEKs = []apikey.KEK{farKEK{c.KEKs[0], s}}
		c.Factors["totp"] = farTOTP{sure(apikey.NewTOTP("Acme", now)), s}
		c.Factors["email"] = sure(apikey.NewEmailCode(farMail{s.people, s}, c.Peppers...))
	})
}

// lockOut gives a hundred wrong answers, during the day before.
func (s *siege) lockOut(actor string) {
	s.t.Helper()
	yesterday := &clock{t: time.Now().Add(-24 * time.Hour)}
	n := s.node(yesterday.now)
	req := apikey.RevealRequest{Key: s.key}
	for range 1000 {
		c, err := n.manager.Challenge(as(actor), "totp", req)
		for err == nil {
			if _, err = n.manager.Confirm(as(actor), c.ID, "000 000"); errors.Is(err, apikey.ErrWrongAnswer) {
				err = nil
			}
		}
		var wait *apikey.AttemptsError
		switch {
		case errors.As(err, &wait):
			yesterday.move(wait.Wait)
		case errors.Is(err, apikey.ErrLocked):
			if _, err := s.nodes[0].manager.Challenge(as(actor), "totp", req); !errors.Is(err, apikey.ErrLocked) {
				s.t.Fatalf("not locked today: %v", err)
			}
			return
		case !errors.Is(err, apikey.ErrChallenge):
			s.t.Fatal(err)
		}
	}
	s.t.Fatal("never locked")
}

// resume undoes a suspension, by an operator who is not locked out. It adds
// power, so writers who never pause may outrun it for good: it reads three times
// before it writes, they once. What is tested is the suspension, so they wait.
func (s *siege) resume() {
	s.t.Helper()
	s.truce.Lock()
	defer s.truce.Unlock()
	must(s.t, s.nodes[0].manager.Resume(staff(), apikey.ResumeRequest{Key: s.key}))
}

// surround begins everything else that happens on that day.
func (s *siege) surround(ctx context.Context) {
	for i := range 16 {
		s.others.Go(func() {
			writer := as(fmt.Sprintf("writer_%d", i))
			for round := 0; ctx.Err() == nil; round++ {
				s.truce.RLock()
				_, err := s.nodes[i%2].manager.Update(writer, apikey.UpdateRequest{Key: s.key, Name: apikey.Set(fmt.Sprintf("%d of %d", round, i))})
				s.truce.RUnlock()
				if err == nil {
					s.updated.Add(1)
				}
			}
		})
	}
	for i := range 4 { // 250 a second each, every one of another person
		s.others.Go(func() {
			start := time.Now()
			for round := 0; ctx.Err() == nil; round++ {
				time.Sleep(time.Until(start.Add(time.Duration(round) * 4 * time.Millisecond))) // what fell behind is caught up
				viewer := apikey.WithActor(background, apikey.Actor{ID: fmt.Sprintf("viewer_%d_%d", i, round), Account: "acc_1", Role: "viewer"})
				if err := s.nodes[i%2].manager.Suspend(viewer, s.key); !errors.Is(err, apikey.ErrForbidden) {
					s.t.Errorf("denied action: %v", err)
				}
				s.denied.Add(1)
			}
		})
	}
	for i, try := range []func(context.Context, *node) error{
		func(ctx context.Context, n *node) error { // KEK
			_, err := n.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Test, Recoverable: true})
			return err
		},
		func(ctx context.Context, n *node) error { // mail
			_, err := n.manager.Challenge(ctx, "email", apikey.RevealRequest{Key: s.key})
			return err
		},
		func(ctx context.Context, n *node) error { // KEK and app
			_, err := n.manager.Challenge(ctx, "totp", apikey.RevealRequest{Key: s.key})
			return err
		},
	} {
		s.others.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				// A person each time, so that it is what is away that refuses them.
				who := apikey.Actor{ID: fmt.Sprintf("usr_%d_%d", i, round), Account: "acc_1", Role: "admin"}
				if i == 2 {
					who.ID = "usr_2" // who has enrolled
				}
				bounded, cancel := context.WithTimeout(apikey.WithActor(ctx, who), 100*time.Millisecond)
				err := try(bounded, s.nodes[round%2])
				cancel()
				switch {
				case errors.Is(err, apikey.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
					s.helpless.Add(1)
				case !errors.Is(err, apikey.ErrConflict):
					s.t.Errorf("what is away has answered: %v", err)
				}
			}
		})
	}
}
