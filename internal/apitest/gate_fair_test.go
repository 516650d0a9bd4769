package apitest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// slowly is a store whose lookups take 2 ms, so that a gate can be filled. Inside
// synctest the time is the test's own.
func slowly(e *env) {
	e.store = &lookupHook{Store: e.store, before: func() { time.Sleep(2 * time.Millisecond) }}
}

// quick hashes as fast as a test that makes thousands of tokens needs.
type quick struct{}

func (quick) Name() string { return "quick" }

func (quick) Hash(_ context.Context, secret []byte) (string, error) {
	sum := sha256.Sum256(secret)
	return "$quick$" + hex.EncodeToString(sum[:]), nil
}

func (q quick) Verify(ctx context.Context, encoded string, secret []byte) (bool, error) {
	made, err := q.Hash(ctx, secret)
	return made == encoded, err
}

func (quick) Outdated(string) bool { return false }

// quickly runs a program without a pepper, on the quick hasher.
func quickly(e *env) {
	e.settings.Peppers = nil
	e.settings.Hashers = []apikey.Hasher{quick{}}
}

// flood calls attack from n goroutines, each again and again, while the rest of
// the test runs. The end waits for them.
func flood(n int, attack func(caller, round int)) (end func()) {
	var over atomic.Bool
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for round := 0; !over.Load(); round++ {
				attack(i, round)
			}
		})
	}
	return func() {
		over.Store(true)
		wg.Wait()
	}
}

// dropped makes tokens of one key that rotation has ended, and dropped from its
// record but for the last few.
func (e *env) dropped(ctx context.Context, n int) (texts []string) {
	e.t.Helper()
	issued, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(e.t, err)
	for range n {
		texts = append(texts, issued.Token.Reveal())
		issued.Token = e.rotateAs(ctx, issued.Key.ID)
	}
	return texts
}

func (e *env) rotateAs(ctx context.Context, key apikey.KeyID) apikey.Token {
	e.t.Helper()
	next, err := e.manager.Rotate(ctx, apikey.RotateRequest{Key: key})
	require.NoError(e.t, err)
	return next.Token
}

// issueFor makes keys of accounts that have nothing to do with an attack.
func (e *env) issueFor(n int) (all []apikey.Issued) {
	e.t.Helper()
	for i := range n {
		issued, err := e.manager.Issue(as(fmt.Sprintf("shop_%d", i), "admin"), apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(e.t, err)
		all = append(all, issued)
	}
	return all
}

// floods are what one merchant, or a stranger, can present again and again to
// whatever reads the store for a token that nobody has proven yet.
var floods = map[string]func(e *env) (texts []string, from netip.Addr){
	"one ended token": func(e *env) ([]string, netip.Addr) { return e.dropped(e.ctx, 1), netip.Addr{} },
	"dropped tokens":  func(e *env) ([]string, netip.Addr) { return e.dropped(e.ctx, 3000), netip.Addr{} },
	"tokens that nobody issued, from one network": func(e *env) (texts []string, _ netip.Addr) {
		template := e.issue().Token.Reveal()
		for range 3000 {
			text := recrc(spliceID(template))
			if len(e.settings.Peppers) > 0 {
				text = retag(e.t, e.settings.Peppers[0], text)
			}
			texts = append(texts, text)
		}
		return texts, netip.MustParseAddr("198.51.100.7")
	},
}

// Whatever one merchant or one network presents, a cold key of another merchant is
// read within a few reads of the store, and nobody is told that we are busy.
func TestFound07ColdKeysAreReadInTurns(t *testing.T) {
	for name, make := range floods {
		for program, option := range map[string]func(*env){"a pepper": func(*env) {}, "no pepper": quickly} {
			t.Run(name+", "+program, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEnv(t, option, slowly)
					defer e.verifier.Close(background)
					others := e.issueFor(12)
					texts, from := make(e)
					end := flood(1500, func(caller, round int) {
						e.verifier.Verify(background, texts[(caller+1500*round)%len(texts)], apikey.Request{Addr: from})
						time.Sleep(20 * time.Millisecond)
					})
					defer end()
					time.Sleep(5 * time.Millisecond)
					for i, o := range others {
						began := time.Now()
						_, err := e.verifier.Verify(background, o.Token.Reveal(), apikey.Request{Addr: netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})})
						require.NoError(t, err, "merchant %d", i)
						require.LessOrEqual(t, time.Since(began), 10*time.Millisecond, "merchant %d", i)
						time.Sleep(3 * time.Millisecond)
					}
				})
			})
		}
	}
}

// A caller beside one long line waits for the work that is under way, and for none
// more of that line.
func TestFound07WhoComesIsAheadOfTheLineThatIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, slowly, func(e *env) { e.vc.ColdReads = 1 })
		defer e.verifier.Close(background)
		others := e.issueFor(100)
		texts, from := floods["tokens that nobody issued, from one network"](e)
		end := flood(50, func(caller, round int) {
			e.verifier.Verify(background, texts[(caller+50*round)%len(texts)], apikey.Request{Addr: from})
		})
		defer end()
		var longest time.Duration
		for i, o := range others {
			time.Sleep(5*time.Millisecond + time.Duration(i)*100*time.Microsecond) // at every moment of a read
			began := time.Now()
			_, err := e.verifier.Verify(background, o.Token.Reveal(), apikey.Request{Addr: netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})})
			require.NoError(t, err, "merchant %d", i)
			longest = max(longest, time.Since(began))
		}
		require.LessOrEqual(t, longest, 4*time.Millisecond, "the read that ran, and their own")
		require.Greater(t, longest, 3*time.Millisecond, "nothing ran")
	})
}

// Two callers whose lines come and go pass somebody who waits once, and not again and
// again.
func TestFound07NobodyIsPassedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, slowly, func(e *env) { e.vc.ColdReads = 1 })
		defer e.verifier.Close(background)
		cold := e.issueFor(3)
		texts, _ := floods["tokens that nobody issued, from one network"](e)
		end := flood(2, func(caller, round int) {
			e.verifier.Verify(background, texts[(caller+2*round)%len(texts)], apikey.Request{Addr: netip.AddrFrom4([4]byte{198, 51, byte(caller), 7})})
		})
		defer end()
		time.Sleep(time.Millisecond)
		began := time.Now()
		var together sync.WaitGroup
		for _, o := range cold { // of one network: the second waits while others come
			together.Go(func() {
				_, err := e.verifier.Verify(background, o.Token.Reveal(), apikey.Request{Addr: netip.AddrFrom4([4]byte{203, 0, 113, 7})})
				assert.NoError(t, err)
			})
		}
		together.Wait()
		require.LessOrEqual(t, time.Since(began), 2*time.Millisecond+3*3*2*time.Millisecond, "three turns of three lines")
	})
}

// All tokens of an account say that they belong together, however they were made, so
// that they share the turns of one; and to no other account.
func TestFound07AnAccountsTokensAreOneGroup(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		first, second := e.issue(), e.issue() // the very first key draws the group
		both, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.NoError(t, err)
		byStaff, err := e.manager.Issue(staff(), apikey.IssueRequest{Account: "acc_1", Mode: apikey.Test})
		require.NoError(t, err)
		rotated := e.rotateAs(e.ctx, first.Key.ID)
		group := func(token apikey.Token) string { id := token.Credential(); return string(id[12:]) }
		for _, token := range []apikey.Token{both.Live.Token, both.Test.Token, second.Token, byStaff.Token, rotated} {
			require.Equal(t, group(first.Token), group(token))
			require.NotEqual(t, first.Token.Credential(), token.Credential())
		}
		for _, other := range e.issueFor(3) {
			require.NotEqual(t, group(first.Token), group(other.Token))
		}
	})
}

// Nor does a leak wait that somebody reports: the way out is the last to fail.
func TestFound07LeaksAreEndedInTurns(t *testing.T) {
	for name, make := range floods {
		for program, option := range map[string]func(*env){"a pepper": func(*env) {}, "no pepper": quickly} {
			t.Run(name+", "+program, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEnv(t, option, slowly)
					defer e.verifier.Close(background)
					leaks := e.issueFor(20)
					texts, from := make(e)
					stranger := apikey.WithActor(background, apikey.Actor{ID: "stranger", Account: "none", Addr: addrText(from)})
					end := flood(300, func(caller, round int) {
						e.manager.RevokeToken(stranger, texts[(caller+300*round)%len(texts)], "")
						time.Sleep(time.Millisecond)
					})
					defer end()
					time.Sleep(5 * time.Millisecond)
					for _, leak := range leaks {
						began := time.Now()
						require.NoError(t, e.manager.RevokeToken(background, leak.Token.Reveal(), apikey.ReasonCompromised))
						require.LessOrEqual(t, time.Since(began), 10*time.Millisecond)
						require.ErrorIs(t, e.verify(leak.Token), apikey.ErrCredentialEnded)
					}
				})
			})
		}
	}
}

// People who report a leak have mostly not signed in: an actor says where they are, and
// has no ID. They take turns by address too, and the log knows where it was.
func TestFound07StrangersReportInTurns(t *testing.T) {
	t.Parallel()
	stranger := func(addr string) context.Context {
		return apikey.WithActor(background, apikey.Actor{Addr: addr, UserAgent: "form", RequestID: "req-1"})
	}
	for name, form := range map[string]string{"an address": "%s", "an address and a port": "%s:4711"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnv(t, quickly, slowly)
				defer e.verifier.Close(background)
				leaks := e.issueFor(5)
				template := leaks[0].Token.Reveal()
				end := flood(3000, func(int, int) {
					e.manager.RevokeToken(stranger(fmt.Sprintf(form, "198.51.100.7")), recrc(spliceID(template)), "")
					time.Sleep(20 * time.Millisecond)
				})
				defer end()
				time.Sleep(50 * time.Millisecond)
				from := fmt.Sprintf(form, "203.0.113.7")
				for _, leak := range leaks {
					require.NoError(t, e.manager.RevokeToken(stranger(from), leak.Token.Reveal(), apikey.ReasonCompromised))
				}
				last, err := e.manager.Events(staff(), apikey.EventsRequest{Key: leaks[0].Key.ID})
				require.NoError(t, err)
				who := last.Events[0].Actor
				require.Equal(t, []string{from, "form", "req-1"}, []string{who.Addr, who.UserAgent, who.RequestID})
			})
		})
	}
}

// A leak that is in use here is proven already: ending it reads no store for a
// token that may be junk, and runs no hash.
func TestFound07ALeakInUseNeedsNoGate(t *testing.T) {
	full := make(chan struct{})
	hook := &lookupHook{before: func() {}}
	e := newEnv(t, noPepper, func(e *env) { hook.Store = e.store; e.store = hook })
	leak := e.issue().Token
	require.NoError(t, e.verify(leak))
	template := leak.Reveal()
	hook.before = func() { <-full }
	var wg sync.WaitGroup
	for range 300 {
		junk := recrc(spliceID(template))
		wg.Go(func() { e.manager.RevokeToken(background, junk, "") })
	}
	require.NoError(t, e.manager.RevokeToken(background, leak.Reveal(), apikey.ReasonCompromised))
	require.ErrorIs(t, e.verify(leak), apikey.ErrCredentialEnded)
	close(full)
	wg.Wait()
}

// Whoever calls first and hangs up takes nobody along who ends the same leak.
func TestFound07WhoHangsUpStopsNoRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, slowly)
		defer e.verifier.Close(background)
		for range 20 {
			leak := e.issue().Token
			end := flood(50, func(int, int) {
				ctx, cancel := context.WithTimeout(background, 100*time.Microsecond)
				defer cancel()
				e.manager.RevokeToken(ctx, leak.Reveal(), "")
			})
			time.Sleep(time.Millisecond)
			require.NoError(t, e.manager.RevokeToken(background, leak.Reveal(), ""))
			end()
			require.ErrorIs(t, e.verify(leak), apikey.ErrCredentialEnded)
		}
	})
}

// An ended token is ended without a hash: it is proven by its check, and there is
// nothing to do.
func TestFound07ADeadTokenCostsNoHash(t *testing.T) {
	var m *meter
	e := newEnv(t, noPepper, metered(&m), func(e *env) { e.settings.Hashers = []apikey.Hasher{m} })
	revoked, ended, live := e.issue(), e.issue(), e.issue()
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: revoked.Key.ID}))
	e.rotateAs(e.ctx, ended.Key.ID)
	m.verifies.Store(0)
	for range 3 {
		require.NoError(t, e.manager.RevokeToken(background, revoked.Token.Reveal(), ""))
		require.NoError(t, e.manager.RevokeToken(background, ended.Token.Reveal(), ""))
	}
	require.Zero(t, m.verifies.Load())
	require.Equal(t, apikey.ErrInvalidToken, e.manager.RevokeToken(background, recrc(spliceSecret(ended.Token.Reveal())), ""))
	require.Zero(t, m.verifies.Load())
	require.NoError(t, e.manager.RevokeToken(background, live.Token.Reveal(), ""))
	require.EqualValues(t, 1, m.verifies.Load(), "a live one is ended by who proves it")
}

// Fifty rotations at once of one key fill the Hasher's queue. Others have their
// turn: who issues, who verifies a cold key, and who ends a leak before both.
func TestFound07TheHasherTakesTurns(t *testing.T) {
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 7168, Time: 1, Slots: 1, MaxWaiting: 16, Wait: time.Minute}) // the machine may be busy
	require.NoError(t, err)
	e := newEnv(t, noPepper, func(e *env) { e.settings.Hashers = []apikey.Hasher{argon} })
	others, leaks := e.issueFor(4), e.issueFor(4)
	key := e.issue().Key.ID
	end := flood(50, func(int, int) { e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key}) })
	defer end()
	v := e.newVerifier() // another process, in which nothing is warm
	for i := range others {
		shop := as(fmt.Sprintf("shop_%d", i), "admin")
		_, err := e.manager.Issue(shop, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		require.NoError(t, verifyBy(v, others[i].Token))
		require.NoError(t, e.manager.RevokeToken(background, leaks[i].Token.Reveal(), ""))
		require.NoError(t, e.manager.Suspend(shop, others[i].Key.ID))
	}
}

// However many accounts fill the Hasher, the way out has every second turn.
func TestFound07LeaksHaveEverySecondHash(t *testing.T) {
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 7168, Time: 1, Slots: 1, MaxWaiting: 64, Wait: time.Minute})
	require.NoError(t, err)
	m := &mintCounter{Hasher: argon}
	e := newEnv(t, noPepper, func(e *env) { e.settings.Hashers = []apikey.Hasher{m} })
	leak, keys := e.issueFor(1)[0], e.issueFor(40)
	end := flood(len(keys), func(i, _ int) {
		e.manager.Rotate(as(fmt.Sprintf("shop_%d", i), "admin"), apikey.RotateRequest{Key: keys[i].Key.ID})
	})
	defer end()
	require.Eventually(t, func() bool { return m.begun.Load()-m.runs.Load() > 30 }, time.Minute, time.Millisecond, "they wait")
	done := m.runs.Load()
	require.NoError(t, e.manager.RevokeToken(background, leak.Token.Reveal(), ""))
	require.LessOrEqual(t, m.runs.Load()-done, int64(10))
}

// A merchant whose thousands of warm tokens are all to be read again keeps no other
// merchant's warm key waiting.
func TestFound07WarmKeysAreReadAgainInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, realTime, slowly, func(e *env) { e.vc.MaxEntries = 5000; e.mc.Limits = apikey.Limits{LiveKeys: 2000} })
		defer e.verifier.Close(background)
		var many []apikey.Token
		for range 1200 {
			issued, err := e.manager.Issue(staff(), apikey.IssueRequest{Account: "acc_1", Mode: apikey.Live})
			require.NoError(t, err)
			many = append(many, issued.Token)
		}
		other := e.issueFor(1)[0].Token
		var wg sync.WaitGroup
		for _, token := range append(many, other) {
			require.NoError(t, e.verify(token))
		}
		time.Sleep(11 * time.Minute) // past twice MaxAge: read before the answer
		for _, token := range many {
			wg.Go(func() { e.verify(token) })
		}
		time.Sleep(time.Millisecond)
		began := time.Now()
		require.NoError(t, e.verify(other))
		require.LessOrEqual(t, time.Since(began), 10*time.Millisecond)
		wg.Wait()
	})
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
