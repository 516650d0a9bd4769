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
	"github.com/go-apikey/apikey/memstore"
)

// 10,000 active keys at 1,000 requests a second on three verifiers, of which one
// is restarted: closed, and made anew with an empty cache. They share a file of
// SQLite, and nothing else.
func TestDeploy(t *testing.T) {
	for _, peppered := range []bool{true, false} {
		t.Run(map[bool]string{true: "pepper", false: "no pepper"}[peppered], func(t *testing.T) {
			store, db, err := openSQLite(filepath.Join(t.TempDir(), "keys.db"))
			must(t, err)
			defer db.Close()
			argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{})
			must(t, err)
			keys := attempts(10_000)
			if peppered && !*full {
				keys = 1000
			}
			var issuer apikey.Hasher = argon
			if peppered {
				issuer = nil // the proof decides, and quick hashes issue quickly
			}
			p, err := newProgram(store, issuer, peppered)
			must(t, err)
			defer p.verifier.Close(background)
			issued, err := p.issue(keys)
			must(t, err)
			tokens := texts(issued)
			var nodes [3]atomic.Pointer[apikey.Verifier]
			start := func(i int) {
				v, err := apikey.NewVerifier(background, p.vc)
				must(t, err)
				if old := nodes[i].Swap(v); old != nil {
					must(t, old.Close(background))
				}
			}
			for i := range nodes {
				start(i)
				for _, token := range tokens {
					_, err := nodes[i].Load().Verify(background, token, request)
					must(t, err)
				}
			}
			during := time.Duration(attempts(1000)) * 100 * time.Millisecond
			during = max(during, 4*time.Second)
			restart := time.AfterFunc(during/4, func() { start(1) })
			defer restart.Stop()
			took, errs := traffic(1000, during, func(i int) error {
				token := tokens[rand.IntN(len(tokens))]
				v := nodes[i%3].Load()
				_, err := v.Verify(background, token, request)
				if errors.Is(err, apikey.ErrClosed) { // as a load balancer does with a process that ends
					_, err = nodes[i%3].Load().Verify(background, token, request)
				}
				return err
			})
			refused := 0
			for _, n := range errs {
				refused += n
			}
			p99 := percentile(took, 0.99)
			t.Logf("%d keys, %d requests: refused %d, p99 %v", keys, len(took), refused, p99)
			for i := range nodes {
				must(t, nodes[i].Load().Close(background))
			}
			if peppered && (refused > 0 || p99 > 50*time.Millisecond) {
				t.Errorf("with a pepper: refused %v, p99 %v; want 0 and 50 ms", errs, p99)
			}
		})
	}
}

// truth is what the checker knows of one key. Whoever changes the key holds mu,
// so that what is known is what is true; whoever verifies may meanwhile see
// either, and is judged by the version before and after.
type truth struct {
	mu       sync.Mutex
	key      apikey.KeyID
	revision atomic.Int64 // odd while a change is under way
	now      atomic.Pointer[state]
}

// state is a token, and what verifying it has to say.
type state struct {
	token string
	want  error
}

func (k *truth) change(work func(state) (state, error)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revision.Add(1)
	defer k.revision.Add(1)
	next, err := work(*k.now.Load())
	if err == nil {
		k.now.Store(&next)
	}
	return err
}

// TestSoak verifies at a steady rate while keys are issued, updated, suspended,
// resumed, rotated and revoked. Ten minutes with -full.
func TestSoak(t *testing.T) {
	p, err := newProgram(memstore.New(), nil, true)
	must(t, err)
	goroutines := runtime.NumGoroutine()
	issued, err := p.issue(200)
	must(t, err)
	var all []*truth
	for _, i := range issued {
		k := &truth{key: i.Key.ID}
		k.now.Store(&state{token: i.Token.Reveal()})
		all = append(all, k)
	}
	length := 10 * time.Minute
	if !*full {
		length = 12 * time.Second
	}
	end := time.Now().Add(length)
	var wrong, judged, changes atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for time.Now().Before(end) {
				for range 200 {
					k := all[rand.IntN(len(all))]
					before := k.revision.Load()
					now := k.now.Load()
					if before%2 == 1 {
						continue
					}
					_, err := p.verifier.Verify(background, now.token, request)
					if k.revision.Load() != before {
						continue // it changed meanwhile: either is right
					}
					judged.Add(1)
					if !errors.Is(err, now.want) { // of nil: that it is nil
						wrong.Add(1)
						t.Errorf("%v instead of %v", err, now.want)
					}
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	wg.Go(func() { // at most two changes a key and second: the log grows in this store
		for time.Now().Before(end) {
			check := all[rand.IntN(len(all))]
			must(t, check.change(func(now state) (state, error) { return disturb(p, check, now) }))
			changes.Add(1)
			time.Sleep(5 * time.Millisecond)
		}
	})
	// The store keeps its log in this process; what it keeps is measured with the
	// cache, so the bound is per change and not flat.
	time.Sleep(length / 5)
	second, made := liveHeap(), changes.Load()
	time.Sleep(length * 3 / 5)
	last, later := liveHeap(), changes.Load()
	wg.Wait()
	perChange := float64(int64(last)-int64(second)) / float64(max(1, later-made))
	t.Logf("%v: %d judged, %d changes, wrong %d; heap from %s to %s, %.0f B a change of the store's log", length, judged.Load(), changes.Load(), wrong.Load(), mib(int64(second)), mib(int64(last)), perChange)
	if judged.Load() < 1000 || changes.Load() < 100 {
		t.Error("nothing happened")
	}
	if float64(last) > 1.05*float64(second)+4096*float64(later-made) {
		t.Errorf("heap grew from %d to %d beyond the store's own log", second, last)
	}
	must(t, p.verifier.Close(background))
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() >= goroutines && time.Now().Before(deadline) { // the Verifier's own are gone too
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
}

// disturb makes one change and says what is true afterwards.
func disturb(p *program, k *truth, now state) (state, error) {
	ctx := actor("acc_" + account(p, k.key))
	switch rand.IntN(5) {
	case 0:
		_, err := p.manager.Update(ctx, apikey.UpdateRequest{Key: k.key, Name: apikey.Set(fmt.Sprint(rand.Uint32()))})
		return now, err
	case 1:
		if now.want != nil {
			return now, nil
		}
		return state{now.token, apikey.ErrSuspended}, p.manager.Suspend(ctx, apikey.SuspendRequest{Key: k.key})
	case 2:
		return state{now.token, nil}, p.manager.Resume(ctx, apikey.ResumeRequest{Key: k.key})
	case 3:
		if now.want != nil {
			return now, nil
		}
		issued, err := p.manager.Rotate(ctx, apikey.RotateRequest{Key: k.key})
		if err != nil {
			return now, err
		}
		if _, err := p.verifier.Verify(background, now.token, request); !errors.Is(err, apikey.ErrCredentialEnded) {
			return now, fmt.Errorf("the old token says %v", err)
		}
		return state{issued.Token.Reveal(), nil}, nil
	}
	if err := p.manager.Revoke(ctx, apikey.RevokeRequest{Key: k.key}); err != nil {
		return now, err
	}
	if _, err := p.verifier.Verify(background, now.token, request); !errors.Is(err, apikey.ErrRevoked) {
		return now, fmt.Errorf("a revoked key says %v", err)
	}
	issued, err := p.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: abilities})
	if err != nil {
		return now, err
	}
	k.key = issued.Key.ID
	return state{issued.Token.Reveal(), nil}, nil
}

// account asks the store whose a key is.
func account(p *program, id apikey.KeyID) string {
	r, err := p.store.Get(background, id)
	if err != nil {
		return err.Error()
	}
	return r.Account[len("acc_"):]
}
