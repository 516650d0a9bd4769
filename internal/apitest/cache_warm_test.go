package apitest

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

var raceDetector bool

// A hit, a forgery and a wrong secret take no memory: what a flood repeats must
// not feed the garbage collector.
func TestTheHotPathTakesNoMemory(t *testing.T) {
	if raceDetector {
		t.Skip("run it without -race: that one makes pools forget")
	}
	e := newEnv(t)
	text := e.issue().Token.Reveal()
	require.NoError(t, e.verifyText(text))
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"warm":         {text, nil},
		"checksum":     {otherLast(text), apikey.ErrInvalidToken},
		"tag":          {recrc(spliceID(text)), apikey.ErrInvalidToken},
		"wrong secret": {recrc(spliceSecret(text)), apikey.ErrInvalidToken},
	} {
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			if err := e.verifyText(c.text); err != c.want {
				t.Error(name, err)
			}
		}), name)
	}
}

// A well-formed token that nobody issued costs one read of the store, and little
// beside it, where no pepper tells it apart.
func TestAnUnknownTokenTakesLittleMemory(t *testing.T) {
	if raceDetector {
		t.Skip("run it without -race: that one makes pools forget")
	}
	e := newEnv(t, func(e *env) { e.settings.Peppers = nil })
	text := e.issue().Token.Reveal()
	unknown := make([]string, 1002)
	for i := range unknown {
		unknown[i] = recrc(spliceID(text))
	}
	i := 0
	allocations := testing.AllocsPerRun(1000, func() {
		if err := e.verifyText(unknown[i]); err != apikey.ErrInvalidToken {
			t.Error(err)
		}
		i++
	})
	require.LessOrEqual(t, allocations, 13.0)
}

// The table is read without a lock while it grows, is rebuilt and evicts: every
// answer stays that of the token that was presented.
func TestTheTableUnderChurn(t *testing.T) {
	e := newEnv(t, func(e *env) { e.vc.MaxEntries, e.mc.Limits.LiveKeys = 100, 1000 })
	var keys []apikey.Issued
	for range 400 {
		keys = append(keys, e.issue())
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			for i := range 1500 {
				k := keys[r.IntN(len(keys))]
				text := k.Token.Reveal()
				if i%4 == 0 {
					if err := e.verifyText(recrc(spliceSecret(text))); err != apikey.ErrInvalidToken {
						t.Error(err)
					}
					continue
				}
				got, err := e.verifier.Verify(background, text, apikey.Request{})
				if err != nil || got.Info().ID != k.Key.ID {
					t.Error("another key, or none", err)
				}
			}
		})
	}
	wg.Wait()
}

// A key in use stays when keys that are used once pass through a full cache.
func TestEvictionSparesWhatComesBack(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxEntries, e.mc.Limits.LiveKeys = 10, 1000 })
	used := e.issue()
	require.NoError(t, e.verify(used.Token))
	for range 100 {
		require.NoError(t, e.verify(used.Token))
		require.NoError(t, e.verify(e.issue().Token))
	}
	before := s.lookups.Load()
	require.NoError(t, e.verify(used.Token))
	require.Equal(t, before, s.lookups.Load())
}

// The bound in bytes holds too, and the entry used last stays whatever it takes.
func TestCacheIsBoundedByBytes(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxBytes = 1 })
	a, b := e.issue(), e.issue()
	for _, k := range []apikey.Issued{a, a, b, b, a} {
		require.NoError(t, e.verify(k.Token))
	}
	require.EqualValues(t, 3, s.lookups.Load())
}

// The table tells IDs apart by a few bits. A token that looks like a warm one by
// those is neither taken for it nor refused for its sake: the store is asked, and
// the warm one stays warm. One lookup in sixty meets another's bits, so among 500
// warm keys and 4,000 unknown ones it happens seventy times.
func TestTwoIDsThatTheTableTakesForOne(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) {
		e.settings.Peppers = nil
		e.mc.Limits.LiveKeys = 1000
	})
	warm := warmKeys(e, 500)
	before := s.lookups.Load()
	for i := range 4000 {
		unknown := recrc(spliceID(warm[i%500].Reveal()))
		require.Equal(t, apikey.ErrInvalidToken, e.verifyText(unknown))
	}
	require.EqualValues(t, 4000, s.lookups.Load()-before, "a token of another ID was not looked up")
	staysWarm(e, s, warm)
	before = s.lookups.Load()
	for _, token := range warm {
		require.Equal(t, apikey.ErrInvalidToken, e.verifyText(recrc(spliceSecret(token.Reveal()))))
	}
	require.Equal(t, before, s.lookups.Load(), "a wrong secret of a warm key is final")
}
