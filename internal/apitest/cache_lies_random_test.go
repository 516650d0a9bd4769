package apitest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// A store answers anything that was ever true of two keys, each with three
// histories that fork, and damage besides. Once this process has refused a token as
// revoked, it accepts none of that key's tokens. Once it has refused one as ended, after
// it read so, it does not accept that one.
func TestNothingIsRevivedByAStoreThatLies(t *testing.T) {
	t.Parallel()
	const rounds = 300
	revived, refused, ends := map[string]int{}, 0, 0
	for seed := range rounds {
		rnd, asks := rand.New(rand.NewPCG(uint64(seed), 7)), rand.New(rand.NewPCG(uint64(seed), 8))
		var s *spy
		e := newEnv(t, watch(&s), func(e *env) {
			if seed%3 == 0 {
				e.vc.MaxEntries = 100
			}
			e.settings.AcceptUntagged = seed%4 == 0
		})
		var corpus []apikey.StoreRecord
		tokens := []apikey.Token{}
		owner := map[string]apikey.KeyID{}
		for range 2 { // two keys, each with forked histories
			k := e.issue()
			tokens = append(tokens, k.Token)
			owner[k.Token.Reveal()] = k.Key.ID
			one, err := e.store.Get(background, k.Key.ID)
			require.NoError(t, err)
			for range 3 {
				p := &getter{Store: e.store, r: &one}
				m := e.newManager(func(c *managerConfig) { c.Store = p })
				corpus = append(corpus, one)
				for range 5 {
					switch rnd.IntN(5) {
					case 0:
						_ = m.Suspend(e.ctx, k.Key.ID)
					case 1:
						if i, err := m.Rotate(e.ctx, apikey.RotateRequest{Key: k.Key.ID, Overlap: time.Duration(rnd.IntN(2)) * time.Hour, Replace: true}); err == nil {
							tokens = append(tokens, i.Token)
							owner[i.Token.Reveal()] = k.Key.ID
						}
					case 2:
						_, _ = m.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, Name: apikey.Set(fmt.Sprint(rnd.Int()))})
					case 3:
						_ = m.Resume(e.ctx, apikey.ResumeRequest{Key: k.Key.ID})
					case 4:
						if rnd.IntN(3) == 0 {
							_ = m.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID})
						}
					}
					if p.wrote.Version > 0 {
						corpus = append(corpus, p.wrote)
					}
				}
			}
		}
		genuine := false
		random := func() (apikey.StoreRecord, error) {
			genuine = false
			r := corpus[rnd.IntN(len(corpus))]
			switch rnd.IntN(12) {
			case 0:
				return apikey.StoreRecord{}, apikey.ErrNotFound
			case 1:
				return apikey.StoreRecord{}, &apikey.CorruptError{Key: corpus[rnd.IntN(len(corpus))].ID}
			case 2:
				r.Name += "x"
			case 3:
				r.Version, r.Credentials, r.MAC = 1<<40, nil, nil
			case 4:
				r.Credentials = append(append([]apikey.StoreCredential{}, r.Credentials...), corpus[rnd.IntN(len(corpus))].Credentials...)
			case 5:
				return apikey.StoreRecord{}, errors.New("down")
			case 6:
				r.Version = 0
				r.MAC = nil
			default:
				genuine = true
			}
			return r, nil
		}
		ended := map[apikey.CredentialID]bool{} // read so by the Verify that is under way
		var answering sync.Mutex                // what is read behind asks too
		s.set(func(s *spy) {
			s.lookup = func(_ context.Context, id apikey.CredentialID, _ func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
				answering.Lock()
				defer answering.Unlock()
				ended[id] = false
				for range 20 { // mostly one that has it
					r, err := random()
					if err != nil || rnd.IntN(10) == 0 {
						return r, err
					}
					for _, c := range r.Credentials {
						if c.ID == id {
							ended[id] = c.Ended && genuine
							return r, nil
						}
					}
				}
				return apikey.StoreRecord{}, apikey.ErrNotFound
			}
			s.changed = func(_ context.Context, c apikey.Cursor, _ func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
				answering.Lock()
				defer answering.Unlock()
				if rnd.IntN(10) == 0 && c != "" {
					return apikey.StoreChanges{}, apikey.ErrCursorLost
				}
				ch := apikey.StoreChanges{Current: true, Next: "x"}
				for range rnd.IntN(3) {
					r, err := random()
					var d *apikey.CorruptError
					if errors.As(err, &d) {
						ch.Damaged = append(ch.Damaged, d)
					} else if err == nil {
						ch.Records = append(ch.Records, r)
					}
				}
				return ch, nil
			}
		})
		dead := map[string]error{}
		keyDead := map[apikey.KeyID]bool{}
		for range 200 {
			tok := tokens[asks.IntN(len(tokens))]
			switch asks.IntN(6) {
			case 0:
				e.clock.move(time.Duration(asks.IntN(700)) * time.Second)
			case 1:
				_ = e.verifier.Sync(background)
			default:
				answering.Lock()
				clear(ended)
				answering.Unlock()
				err := e.verify(tok)
				answering.Lock()
				if err == apikey.ErrCredentialEnded && ended[tok.Credential()] {
					ends++
					dead[tok.Reveal()] = err
				}
				answering.Unlock()
				if err == nil {
					if was := dead[tok.Reveal()]; was != nil {
						revived[was.Error()]++
					} else if keyDead[owner[tok.Reveal()]] {
						revived["sibling of a revoked key"]++
					}
				}
				if err == apikey.ErrRevoked {
					refused++
					dead[tok.Reveal()] = err
					keyDead[owner[tok.Reveal()]] = true
				}
			}
		}
		e.verifier.Close(background)
	}
	require.Empty(t, revived)
	require.Greater(t, refused, rounds)
	require.Greater(t, ends, rounds/2)
}
