package apitest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// dying is every way in which a key, or one of its tokens, stops being of use. It
// makes a token that this Verifier refuses whatever a request wants.
var dying = map[string]func(e *env) apikey.Token{
	"suspended": func(e *env) apikey.Token {
		issued := e.issue()
		require.NoError(e.t, e.manager.Suspend(e.ctx, issued.Key.ID))
		return issued.Token
	},
	"revoked": func(e *env) apikey.Token {
		issued := e.issue()
		require.NoError(e.t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
		return issued.Token
	},
	"ended": func(e *env) apikey.Token {
		issued := e.issue()
		_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: issued.Key.ID})
		require.NoError(e.t, err)
		return issued.Token
	},
	"expired": func(e *env) apikey.Token {
		issued := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().Add(time.Second) })
		e.clock.move(time.Second)
		return issued.Token
	},
	"of the other mode": func(e *env) apikey.Token {
		return e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test }).Token
	},
}

// A merchant who has a thousand dead tokens and presents them all drives nobody
// else's key out of the cache: dead entries make room for each other alone.
func TestFound08DeadEntriesLeaveFirst(t *testing.T) {
	for name, die := range dying {
		t.Run(name, func(t *testing.T) {
			var s *spy
			e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxEntries, e.mc.Limits.LiveKeys = 10, 1000 })
			var dead []apikey.Token
			for range 30 {
				dead = append(dead, die(e))
			}
			warm := warmKeys(e, 10)
			for range 2 {
				for _, token := range dead {
					require.Error(t, e.verify(token))
				}
			}
			staysWarm(e, s, warm)
		})
	}
}

// Entries that die where they are leave before any that is of use, however often
// they were used before, and whether or not their tokens are presented again.
func TestFound08EntriesThatDieInTheCacheLeaveFirst(t *testing.T) {
	for _, again := range []bool{false, true} {
		for name, kill := range map[string]func(*env, apikey.Issued){
			"suspended": func(e *env, k apikey.Issued) {
				require.NoError(e.t, e.manager.Suspend(e.ctx, k.Key.ID))
			},
			"revoked": func(e *env, k apikey.Issued) {
				require.NoError(e.t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}))
			},
			// No later: after some minutes the records are read again, and that finds
			// the expired keys without cache_warm.go's sweep.
			"expired": func(e *env, k apikey.Issued) {
				e.clock.move(max(0, k.Key.ExpiresAt.Sub(e.clock.now())))
			},
		} {
			t.Run(fmt.Sprint(name, ", presented again: ", again), func(t *testing.T) {
				var s *spy
				e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxEntries, e.mc.Limits.LiveKeys = 20, 1000 })
				expires := e.clock.now().Add(time.Minute)
				old := warmKeys(e, 5)
				var dying []apikey.Issued
				for range 10 {
					k := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = expires })
					require.NoError(t, e.verify(k.Token))
					require.NoError(t, e.verify(k.Token))
					dying = append(dying, k)
				}
				young := warmKeys(e, 5)
				for _, k := range dying {
					kill(e, k)
				}
				for _, k := range dying {
					if again {
						require.Error(t, e.verify(k.Token))
					}
				}
				all := append(append(old, young...), warmKeys(e, 10)...)
				staysWarm(e, s, all)
			})
		}
	}
}

// Nor does a dead entry take the bytes of those that are of use.
func TestFound08DeadEntriesTakeNoRoom(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxBytes, e.mc.Limits.LiveKeys = 30_000, 1000 })
	var dead []apikey.Token
	for range 5 {
		metadata := map[string]string{}
		for i := range 50 {
			metadata[fmt.Sprint(i)] = strings.Repeat("x", 500)
		}
		issued := e.issue(func(r *apikey.IssueRequest) { r.Metadata = metadata })
		require.NoError(t, e.manager.Suspend(e.ctx, issued.Key.ID))
		dead = append(dead, issued.Token)
	}
	warm := warmKeys(e, 20)
	for _, token := range dead {
		require.ErrorIs(t, e.verify(token), apikey.ErrSuspended)
	}
	staysWarm(e, s, warm)
}

// A key that is resumed is like any other again.
func TestFound08AResumedKeyIsLikeAnyOther(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s), func(e *env) { e.vc.MaxEntries, e.mc.Limits.LiveKeys = 10, 1000 })
	issued := e.issue()
	require.NoError(t, e.verify(issued.Token))
	require.NoError(t, e.manager.Suspend(e.ctx, issued.Key.ID))
	require.ErrorIs(t, e.verify(issued.Token), apikey.ErrSuspended)
	require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: issued.Key.ID}))
	for range 30 {
		require.NoError(t, e.verify(issued.Token))
		require.NoError(t, e.verify(e.issue().Token))
	}
	staysWarm(e, s, []apikey.Token{issued.Token})
}

// warmKeys issues keys and verifies each once.
func warmKeys(e *env, n int) (tokens []apikey.Token) {
	for range n {
		token := e.issue().Token
		require.NoError(e.t, e.verify(token))
		tokens = append(tokens, token)
	}
	return tokens
}

// staysWarm expects that no token needs the store.
func staysWarm(e *env, s *spy, tokens []apikey.Token) {
	e.t.Helper()
	before := s.lookups.Load()
	for _, token := range tokens {
		require.NoError(e.t, e.verify(token))
	}
	require.Equal(e.t, before, s.lookups.Load(), "a key that is of use was driven out")
}
