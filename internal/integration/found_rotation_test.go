package integration

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// 200 rotations with an overlap of 500 ms (20 keys, 10 in a row each) while six
// others keep argon2 busy, so that each new token waits for its hash. Clients
// look their token up before each request: none is refused that was sent less
// than half of the overlap after the newer token was handed out.
func TestFound14RotationsWhileArgonIsBusy(t *testing.T) {
	const keys, rotations, others, overlap = 20, 10, 6, 500 * time.Millisecond
	ctx := context.Background()
	hasher, err := apikey.NewArgon2id(apikey.Argon2idConfig{Slots: 1, Wait: time.Minute, MaxWaiting: 1000})
	must(t, err)
	pepper, err := apikey.NewPepper(1, [32]byte{1}) // so that no verification has to wait for argon2 too
	must(t, err)
	m, err := apikey.NewManager(ctx, apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"}),
		Hashers: []apikey.Hasher{hasher}, Peppers: []apikey.Pepper{pepper},
	}, apikey.ManagerConfig{})
	must(t, err)
	defer m.Close(ctx)
	v, err := m.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Live})
	must(t, err)
	ctx = apikey.WithActor(ctx, apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})

	// handed is a token and when it was handed out. A client changes to a newer one
	// as late as it may: when that has been there for half of the overlap.
	type handed struct {
		token apikey.Token
		at    time.Time
	}
	var busy, rotators, callers sync.WaitGroup
	var hashes, asked, refused, held atomic.Int64
	var waited atomic.Int64 // the longest Rotate
	hashing, calm := context.WithCancel(ctx)
	for range others {
		busy.Go(func() {
			for hashing.Err() == nil {
				if _, err := hasher.Hash(hashing, []byte("somebody else's")); err == nil {
					hashes.Add(1)
				}
			}
		})
	}
	for range keys {
		issued, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		var newest atomic.Pointer[handed]
		newest.Store(&handed{issued.Token, time.Now()})
		over, done := context.WithCancel(ctx)
		rotators.Go(func() {
			defer done()
			for range rotations {
				begun := time.Now()
				next, err := m.Rotate(ctx, apikey.RotateRequest{Key: issued.Key.ID, Overlap: overlap})
				must(t, err)
				for old := waited.Load(); int64(time.Since(begun)) > old && !waited.CompareAndSwap(old, int64(time.Since(begun))); old = waited.Load() {
				}
				newest.Store(&handed{next.Token, time.Now()})
				time.Sleep(overlap + overlap/4)
			}
		})
		callers.Go(func() {
			mine := newest.Load()
			for over.Err() == nil {
				if n := newest.Load(); time.Since(n.at) > overlap/2 {
					mine = n
				}
				_, err := v.Verify(ctx, mine.token.Reveal(), apikey.Request{})
				asked.Add(1)
				n := newest.Load()
				switch {
				case !errors.Is(err, apikey.ErrUnauthenticated):
				case n != mine && time.Since(n.at) > overlap*9/10:
					held.Add(1) // the machine let this goroutine wait for that long
				default:
					refused.Add(1)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	rotators.Wait()
	callers.Wait()
	calm()
	busy.Wait()
	t.Logf("%d rotations, overlap %v, the longest Rotate %v, %d hashes of others; %d requests, refused without a newer token to know of: %d; held up by the machine: %d",
		keys*rotations, overlap, time.Duration(waited.Load()).Round(time.Millisecond), hashes.Load(), asked.Load(), refused.Load(), held.Load())
	if refused.Load() > 0 || asked.Load() < 1000 || time.Duration(waited.Load()) < overlap/5 {
		t.Fail()
	}
}
