package apitest

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

var background = context.Background()

func TestVerifyAnswersWithTheKey(t *testing.T) {
	e := newEnv(t)
	issued := e.issue(func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"shop": "7"} })
	for range 2 { // cold, then warm
		k, err := e.verifier.Verify(background, issued.Token.Reveal(), apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}})
		require.NoError(t, err)
		info := k.Info()
		require.Equal(t, issued.Key.ID, info.ID)
		require.Equal(t, "acc_1", info.Account)
		require.Equal(t, apikey.Live, info.Mode)
		require.Equal(t, apikey.Secret, info.Kind)
		require.Equal(t, "7", info.Metadata.Get("shop"))
		require.True(t, k.Can(apikey.Scope("payment:refund")))
		require.False(t, k.Can(apikey.Scope("payment:refund"), apikey.Scope("payment:verify")))
	}
}

// The reasons, in their order: what stands first hides what stands behind it.
func TestStatusOrder(t *testing.T) {
	e := newEnv(t)
	day := 24 * time.Hour
	var key apikey.KeyID
	var token apikey.Token
	request := apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:verify")}, Addr: netip.MustParseAddr("192.0.2.1"), Origin: "https://evil.example"}
	verify := func() error {
		_, err := e.verifier.Verify(background, token.Reveal(), request)
		return err
	}
	issued := e.issue(func(r *apikey.IssueRequest) {
		r.ExpiresAt = e.clock.now().Add(day)
		r.Networks = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		r.Origins = []string{"https://shop.example"}
	})
	key, token = issued.Key.ID, issued.Token

	// From the last reason to the first: each new fault hides those before.
	request.Addr, request.Origin = netip.MustParseAddr("203.0.113.9"), "https://shop.example"
	var missing *apikey.AbilityError
	require.ErrorAs(t, verify(), &missing)
	require.Equal(t, apikey.Scope("payment:verify"), missing.Missing)
	require.ErrorIs(t, verify(), apikey.ErrAbility)
	request.Origin = "https://evil.example"
	require.ErrorIs(t, verify(), apikey.ErrOrigin)
	request.Addr = netip.MustParseAddr("192.0.2.1")
	require.ErrorIs(t, verify(), apikey.ErrAddr)
	blocked := standing(func(string, apikey.Mode) error { return errors.New("blocked") })
	e.verifier = e.newVerifier(func(c *verifierConfig) { c.Standing = blocked })
	require.ErrorIs(t, verify(), apikey.ErrStanding)
	e.verifier = e.newVerifier(func(c *verifierConfig) { c.Standing, c.Mode = blocked, apikey.Test })
	require.ErrorIs(t, verify(), apikey.ErrMode)
	e.clock.move(day)
	require.ErrorIs(t, verify(), apikey.ErrExpired)
	require.NoError(t, e.manager.RevokeToken(background, token.Reveal(), ""))
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, verify(), apikey.ErrCredentialEnded)
	require.NoError(t, e.manager.Suspend(e.ctx, key))
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, verify(), apikey.ErrSuspended)
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key}))
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, verify(), apikey.ErrRevoked)

	// Whoever does not hold the secret learns none of it.
	wrong := forge(t, token, e.settings.Peppers[0])
	_, err := e.verifier.Verify(background, wrong, request)
	require.Equal(t, apikey.ErrInvalidToken, err)
}

type standing func(string, apikey.Mode) error

func (s standing) Allowed(account string, m apikey.Mode) error { return s(account, m) }

// forge is a token of the same credential with another secret and, as only a
// holder of the pepper could make it, a right tag and checksum: it is issued by
// a Manager on an empty store, and the ID is put in by force. Without the
// pepper nobody makes such a token; with it, the secret still decides.
func forge(t *testing.T, token apikey.Token, p apikey.Pepper) string {
	t.Helper()
	return retag(t, p, spliceSecret(token.Reveal()))
}

func TestExpiryIsExact(t *testing.T) {
	e := newEnv(t)
	at := e.clock.now().Add(time.Hour).Truncate(time.Microsecond)
	token := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = at }).Token
	e.clock.move(at.Sub(e.clock.now()) - time.Nanosecond)
	require.NoError(t, e.verify(token))
	e.clock.move(time.Nanosecond)
	require.ErrorIs(t, e.verify(token), apikey.ErrExpired, "the first refused instant is ExpiresAt itself")
}

func TestNetworksAndOrigins(t *testing.T) {
	e := newEnv(t)
	token := e.issue(func(r *apikey.IssueRequest) {
		r.Networks = []netip.Prefix{netip.MustParsePrefix("203.0.113.7/24"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("::ffff:198.51.100.0/120")}
	}).Token
	for addr, want := range map[string]error{
		"203.0.113.0": nil, "203.0.113.255": nil, "::ffff:203.0.113.9": nil, "198.51.100.77": nil, "2001:db8:1::1": nil,
		"203.0.114.0": apikey.ErrAddr, "2001:db9::": apikey.ErrAddr, "::": apikey.ErrAddr, "2001:db8::1%eth0": nil, "2001:db9::1%eth0": apikey.ErrAddr, "": apikey.ErrAddr,
	} {
		var a netip.Addr
		if addr != "" {
			a = netip.MustParseAddr(addr)
		}
		_, err := e.verifier.Verify(background, token.Reveal(), apikey.Request{Addr: a})
		require.ErrorIs(t, err, want, "address %q", addr)
	}
	token = e.issue(func(r *apikey.IssueRequest) {
		r.Origins = []string{"https://Shop.example:443", "http://localhost:3000"}
	}).Token
	for origin, want := range map[string]error{
		"https://shop.example": nil, "HTTPS://SHOP.EXAMPLE": nil, "http://localhost:3000": nil,
		"": apikey.ErrOrigin, "null": apikey.ErrOrigin, "https://shop.example.evil": apikey.ErrOrigin, "http://shop.example": apikey.ErrOrigin,
		"https://shop.example/": apikey.ErrOrigin, "https://shop.example:8443": apikey.ErrOrigin, "https://x@shop.example": apikey.ErrOrigin,
		"https://shop.example\r\n": apikey.ErrOrigin, "http://localhost": apikey.ErrOrigin,
	} {
		_, err := e.verifier.Verify(background, token.Reveal(), apikey.Request{Origin: origin})
		require.ErrorIs(t, err, want, "origin %q", origin)
	}
}

// A key bound to one network, of every length: addresses that differ from it in one
// bit, whichever that is.
func TestNetworkOfEveryLength(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	key := e.issue()
	tried := map[bool]int{}
	for _, at := range []string{"203.0.113.170", "2001:db8:aaaa:5555:aaaa:5555:aaaa:5555"} {
		addr := netip.MustParseAddr(at)
		for bits := range addr.BitLen() + 1 {
			network := netip.PrefixFrom(addr, bits)
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Networks: apikey.Set([]netip.Prefix{network})})
			require.NoError(t, err)
			for flip := range addr.BitLen() {
				b := addr.AsSlice()
				b[flip/8] ^= 0x80 >> (flip % 8)
				other, _ := netip.AddrFromSlice(b)
				in := network.Contains(other)
				if _, err := e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{Addr: other}); in != (err == nil) || !in && !errors.Is(err, apikey.ErrAddr) {
					t.Fatalf("%s in %s: %v, Verify says %v", other, network, in, err)
				}
				tried[in]++
			}
			for _, foreign := range []string{"203.0.113.170", "2001:db8:aaaa:5555:aaaa:5555:aaaa:5555", "cb00:71aa::"} { // the last begins as the first does
				other := netip.MustParseAddr(foreign)
				_, err := e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{Addr: other})
				require.Equal(t, network.Contains(other), err == nil, "%s in %s", other, network)
			}
		}
	}
	require.Equal(t, map[bool]int{true: 32*33/2 + 128*129/2, false: 32*33/2 + 128*129/2}, tried)
}

func TestModesAndKinds(t *testing.T) {
	e := newEnv(t)
	both := e.newVerifier(func(c *verifierConfig) { c.Mode = apikey.AnyMode })
	test := e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test }).Token
	require.ErrorIs(t, e.verify(test), apikey.ErrMode)
	k, err := both.Verify(background, test.Reveal(), apikey.Request{})
	require.NoError(t, err)
	require.Equal(t, apikey.Test, k.Info().Mode)

	public := e.issue(func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, []string{"card:tokenise"} }).Token
	require.ErrorIs(t, e.verify(public), apikey.ErrKind)
	_, err = e.verifier.Verify(background, public.Reveal(), apikey.Request{AllowPublishable: true})
	require.NoError(t, err)
	_, err = e.verifier.Verify(background, retag(t, e.settings.Peppers[0], spliceSecret(public.Reveal())), apikey.Request{AllowPublishable: true})
	require.Equal(t, apikey.ErrInvalidToken, err)
	_, err = apikey.NewVerifier(background, e.settings, apikey.VerifierConfig{})
	require.ErrorIs(t, err, apikey.ErrInvalid, "the zero Mode is no mode")
}

// 64 callers present 64 tokens of one cold credential; one is right. They may
// share the row, never each other's proof.
func TestOneRightAmongManyOnOneColdID(t *testing.T) {
	for name, option := range map[string]func(*env){"pepper": nil, "argon2": noPepper} {
		t.Run(name, func(t *testing.T) {
			var s *spy
			var m *meter
			options := []func(*env){watch(&s)}
			if option != nil {
				options = append([]func(*env){option}, options...)
			}
			e := newEnv(t, append(options, metered(&m))...)
			token := e.issue().Token
			gate := make(chan struct{})
			s.set(func(s *spy) {
				s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
					<-gate
					return next()
				}
			})
			var accepted, refused atomic.Int64
			var wg sync.WaitGroup
			for i := range 64 {
				presented := token.Reveal()
				if i != 37 {
					presented = spliceSecret(presented)
					if option == nil {
						presented = retag(t, e.settings.Peppers[0], presented)
					} else {
						presented = recrc(presented)
					}
				}
				wg.Go(func() {
					switch _, err := e.verifier.Verify(background, presented, apikey.Request{}); err {
					case nil:
						accepted.Add(1)
					case apikey.ErrInvalidToken:
						refused.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			time.AfterFunc(50*time.Millisecond, func() { close(gate) })
			wg.Wait()
			require.EqualValues(t, 1, accepted.Load())
			require.EqualValues(t, 63, refused.Load())
			require.LessOrEqual(t, m.verifies.Load(), int64(1), "the check turns wrong secrets away before the hash")
		})
	}
}

func TestThousandCallersShareOneReadAndOneHash(t *testing.T) {
	var s *spy
	var m *meter
	e := newEnv(t, noPepper, watch(&s), metered(&m))
	token := e.issue().Token
	inside, gate := make(chan struct{}, 1), make(chan struct{})
	s.set(func(s *spy) {
		s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			inside <- struct{}{}
			<-gate
			return next()
		}
	})
	ctx, hangUp := context.WithCancel(background)
	first := make(chan error)
	go func() {
		_, err := e.verifier.Verify(ctx, token.Reveal(), apikey.Request{})
		first <- err
	}()
	<-inside
	var wg sync.WaitGroup
	var accepted atomic.Int64
	for range 999 {
		wg.Go(func() {
			if e.verify(token) == nil {
				accepted.Add(1)
			}
		})
	}
	hangUp() // the caller who began the flight leaves
	require.ErrorIs(t, <-first, context.Canceled)
	time.AfterFunc(50*time.Millisecond, func() { close(gate) })
	wg.Wait()
	require.EqualValues(t, 999, accepted.Load(), "a cancelled first caller fails nobody else")
	require.EqualValues(t, 1, s.lookups.Load())
	require.EqualValues(t, 1, m.verifies.Load())
}

// A wrong secret of a warm key costs neither a read nor a hash.
func TestWrongSecretOfAWarmKeyIsFinal(t *testing.T) {
	var s *spy
	var m *meter
	e := newEnv(t, noPepper, watch(&s), metered(&m))
	token := e.issue().Token
	require.NoError(t, e.verify(token))
	reads, hashes := s.lookups.Load(), m.verifies.Load()
	for range 100 {
		_, err := e.verifier.Verify(background, recrc(spliceSecret(token.Reveal())), apikey.Request{})
		require.Equal(t, apikey.ErrInvalidToken, err)
	}
	require.Equal(t, reads, s.lookups.Load())
	require.Equal(t, hashes, m.verifies.Load())
	require.NoError(t, e.verify(token))
}

// With a pepper a forged token never reaches the store; without one a wrong
// secret never reaches argon2.
func TestForgeriesAreCheap(t *testing.T) {
	var s *spy
	var m *meter
	e := newEnv(t, watch(&s), metered(&m))
	token := e.issue().Token
	for range 1000 {
		require.Equal(t, apikey.ErrInvalidToken, e.verifyText(recrc(spliceSecret(token.Reveal()))))
	}
	require.Zero(t, s.lookups.Load())
	e = newEnv(t, noPepper, watch(&s), metered(&m))
	token = e.issue().Token
	for range 1000 {
		require.Equal(t, apikey.ErrInvalidToken, e.verifyText(recrc(spliceSecret(token.Reveal()))))
	}
	require.LessOrEqual(t, m.verifies.Load(), int64(0))
	require.NotZero(t, s.lookups.Load())
}

func (e *env) verifyText(text string) error {
	_, err := e.verifier.Verify(background, text, apikey.Request{})
	return err
}

func TestSlotZeroIsRefusedWhereThereIsAPepper(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	untagged := newEnv(t, noPepper).issue().Token
	require.Equal(t, apikey.ErrInvalidToken, e.verifyText(untagged.Reveal()))
	require.Zero(t, s.lookups.Load())
}

func TestUnknownIDsAreRememberedForTwoSeconds(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	token := e.issue().Token
	gone := errors.New("no route to host")
	var answer error
	s.set(func(s *spy) {
		s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			if answer != nil {
				return apikey.StoreRecord{}, answer
			}
			return next()
		}
	})
	answer = gone
	require.ErrorIs(t, e.verify(token), apikey.ErrUnavailable)
	require.ErrorIs(t, e.verify(token), gone)
	require.EqualValues(t, 2, s.lookups.Load(), "an error is never remembered")

	answer = apikey.ErrNotFound
	require.Equal(t, apikey.ErrInvalidToken, e.verify(token))
	answer = nil
	require.Equal(t, apikey.ErrInvalidToken, e.verify(token))
	require.EqualValues(t, 3, s.lookups.Load())
	e.clock.move(2*time.Second + time.Millisecond)
	require.NoError(t, e.verify(token))

	// A change of the credential empties its place at once.
	fresh := e.issue()
	answer = apikey.ErrNotFound
	require.Equal(t, apikey.ErrInvalidToken, e.verify(fresh.Token))
	answer = nil
	_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: fresh.Key.ID, Name: apikey.Set("renamed")})
	require.NoError(t, err)
	require.NoError(t, e.verify(fresh.Token))
}

func TestColdReadsAreBounded(t *testing.T) {
	var s *spy
	e := newEnv(t, noPepper, watch(&s), func(e *env) { e.vc.ColdReads = 3 })
	var now, most atomic.Int64
	s.set(func(s *spy) {
		s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Millisecond)
			return next()
		}
	})
	other := newEnv(t, noPepper) // its tokens are well-formed and unknown here
	template := other.issue().Token.Reveal()
	var wg sync.WaitGroup
	for range 200 {
		presented := recrc(spliceID(template))
		wg.Go(func() {
			if err := e.verifyText(presented); err != apikey.ErrInvalidToken && !errors.Is(err, apikey.ErrBusy) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most.Load(), int64(3))
	require.Greater(t, most.Load(), int64(1))
}

// With a pepper a restarted process proves a token from its row: no argon2.
func TestRestartWithAPepperRunsNoHash(t *testing.T) {
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 7168, Time: 1})
	require.NoError(t, err)
	var m *meter
	e := newEnv(t, func(e *env) { e.settings.Hashers = []apikey.Hasher{argon} }, metered(&m))
	token := e.issue().Token
	for range 3 {
		e.verifier = e.newVerifier()
		require.NoError(t, e.verify(token))
	}
	require.Zero(t, m.verifies.Load())
}

// Stronger parameters replace the hash at its next use, by a swap that changes
// no version; the weaker process of a rolling deploy does not put it back.
func TestHashIsRenewedForwardOnly(t *testing.T) {
	weak, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 7168, Time: 1})
	require.NoError(t, err)
	strong, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 8192, Time: 2})
	require.NoError(t, err)
	e := newEnv(t, noPepper, func(e *env) { e.settings.Hashers = []apikey.Hasher{weak} })
	issued := e.issue()
	hash := func() string {
		r, err := e.store.Get(background, issued.Key.ID)
		require.NoError(t, err)
		require.EqualValues(t, 1, r.Version)
		return r.Credentials[0].Hash
	}
	require.Contains(t, hash(), "m=7168,t=1")
	for _, h := range []apikey.Hasher{strong, weak} {
		v := e.newVerifier(func(c *verifierConfig) { c.Hashers = []apikey.Hasher{h} })
		_, err := v.Verify(background, issued.Token.Reveal(), apikey.Request{})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return strings.Contains(hash(), "m=8192,t=2") }, 2*time.Second, time.Millisecond)
		require.NoError(t, v.Close(background)) // waits for what runs behind
		require.Contains(t, hash(), "m=8192,t=2")
	}
}

func TestLastUsedIsWrittenInBatchesAndByClose(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	issued := e.issue()
	require.NoError(t, e.verify(issued.Token))
	require.Error(t, e.verifyText("junk"))
	denied := e.issue(func(r *apikey.IssueRequest) { r.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	require.ErrorIs(t, e.verify(denied.Token), apikey.ErrAddr)
	used := e.clock.now()
	failing := errors.New("disk full")
	s.set(func(s *spy) {
		s.upkeep = func(context.Context, []apikey.StoreUpkeep, func() error) error { return failing }
	})
	require.ErrorIs(t, e.verifier.Close(background), failing)
	s.set(func(s *spy) { s.upkeep = nil })
	require.NoError(t, e.verifier.Close(background), "what could not be written was kept")
	require.ErrorIs(t, e.verify(issued.Token), apikey.ErrClosed)

	info, err := e.manager.Get(e.ctx, issued.Key.ID)
	require.NoError(t, err)
	require.Equal(t, used.Truncate(time.Microsecond), info.LastUsed)
	info, err = e.manager.Get(e.ctx, denied.Key.ID)
	require.NoError(t, err)
	require.Zero(t, info.LastUsed, "a refused request is no use")
}

// Somebody's transaction has had one key for long. Those behind it in the order of
// the batches are written all the same; a store that is away is not asked for all.
func TestOneLockedKeyHoldsUpNoLastUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its own writes come every three seconds
		var s *spy
		e := newEnv(t, watch(&s), realTime, func(e *env) { e.mc.Limits.LiveKeys = 3000 })
		const keys = 1600 // four batches
		for range keys {
			require.NoError(t, e.verify(e.issue().Token))
		}
		written, asked := 0, 0
		store := func(works func(call int) bool) {
			s.set(func(s *spy) {
				s.upkeep = func(_ context.Context, batch []apikey.StoreUpkeep, next func() error) error {
					asked++
					if !works(asked) {
						return apikey.ErrUnavailable
					}
					written += len(batch)
					return next()
				}
			})
		}
		store(func(int) bool { return false })
		require.ErrorIs(t, e.verifier.Close(background), apikey.ErrUnavailable)
		require.Equal(t, 3, asked)
		store(func(call int) bool { return call != 4 }) // the first of these
		require.ErrorIs(t, e.verifier.Close(background), apikey.ErrUnavailable)
		require.Equal(t, keys-500, written)
		store(func(int) bool { return true })
		require.NoError(t, e.verifier.Close(background))
		require.Equal(t, keys, written, "and it comes last")
	})
}

func TestReadOnlyWritesNothing(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.ReadOnly = true })
	s.set(func(s *spy) {
		s.upkeep = func(context.Context, []apikey.StoreUpkeep, func() error) error {
			t.Error("a read-only Verifier wrote")
			return nil
		}
	})
	require.NoError(t, e.verify(e.issue().Token))
	require.NoError(t, e.verifier.Close(background))
}

func TestTraceTellsWhatHappened(t *testing.T) {
	var got []string
	dead := 0
	e := newEnv(t, func(e *env) {
		e.settings.Trace = &apikey.Trace{
			Verified: func(v apikey.VerifiedTrace) {
				text := v.Source
				if v.Err != nil {
					text += " refused"
				}
				if v.Key != nil {
					text += " proven"
				}
				got = append(got, text)
			},
			InactiveKey: func(apikey.Info, error) { dead++ },
		}
	})
	issued := e.issue()
	e.verifyText("junk")
	e.verify(issued.Token)
	e.verify(issued.Token)
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
	e.verify(issued.Token)
	require.Equal(t, []string{"token refused", "store proven", "cache proven", "cache refused proven"}, got)
	require.Equal(t, 1, dead)
}

// Anybody can write "sk" before the public ID of a publishable key, and compute
// the checksum. That is a wrong token: no alarm about a damaged record.
func TestAPublishableIDInASecretTokenIsJustWrong(t *testing.T) {
	alarms := 0
	e := newEnv(t, noPepper, func(e *env) {
		e.settings.Trace = &apikey.Trace{Corrupt: func(*apikey.CorruptError) { alarms++ }}
	})
	public := e.issue(func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, nil }).Token.Reveal()
	forged := recrc(strings.Replace(public, "_pk_", "_sk_", 1))
	require.Equal(t, apikey.ErrInvalidToken, e.verifyText(forged))
	require.Equal(t, apikey.ErrInvalidToken, e.manager.RevokeToken(background, forged, ""))
	secret := e.issue().Token.Reveal()
	require.Equal(t, apikey.ErrInvalidToken, e.verifyText(recrc(strings.Replace(secret, "_sk_", "_pk_", 1))))
	require.Zero(t, alarms)
}
