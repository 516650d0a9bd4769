// Command rotation replaces a key's token three times while clients keep calling
// an API with it, and counts the requests that were refused: none. Each new
// token overlaps with the old one for a moment, which is what the clients need
// to pick it up.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/memstore"
)

const (
	clients   = 4
	rotations = 3
	overlap   = 700 * time.Millisecond // a busy machine may hold a request up for longer than a client's look-up
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	store := memstore.New()
	verifier, err := apikey.NewVerifier(ctx, apikey.VerifierConfig{Store: store, Prefix: "acme", Mode: apikey.Live})
	if err != nil {
		return err
	}
	defer verifier.Close(ctx)
	catalog := apikey.MustCatalog(apikey.Entry{Scope: "payment:verify"})
	manager, err := apikey.NewManager(ctx, apikey.ManagerConfig{
		Store: store, Prefix: "acme", Catalog: catalog, Local: []*apikey.Verifier{verifier},
	})
	if err != nil {
		return err
	}
	ctx = apikey.WithActor(ctx, apikey.Actor{ID: "usr_7", Account: "acc_42", Role: "admin"})
	issued, err := manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:verify"}})
	if err != nil {
		return err
	}

	guard := httpauth.New(verifier, httpauth.Config{})
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "paid") })
	api := httptest.NewServer(guard.Require(apikey.Scope("payment:verify"))(ok))
	defer api.Close()

	// What a client's secret manager would hold.
	var current atomic.Pointer[apikey.Token]
	current.Store(&issued.Token)
	var accepted, refused atomic.Int64
	calling, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for range clients {
		wg.Go(func() { call(calling, api.URL, &current, &accepted, &refused) })
	}

	old := issued.Token
	for range rotations {
		next, err := manager.Rotate(ctx, apikey.RotateRequest{Key: issued.Key.ID, Overlap: overlap})
		if err != nil {
			return err
		}
		current.Store(&next.Token)
		time.Sleep(overlap + overlap/3)
		if _, err := verifier.Verify(ctx, old.Reveal(), apikey.Request{}); !errors.Is(err, apikey.ErrCredentialEnded) {
			return fmt.Errorf("the old token still works: %v", err)
		}
		fmt.Printf("rotated %s -> %s\n", old, next.Token)
		old = next.Token
	}
	stop()
	wg.Wait()
	fmt.Printf("%d rotations, requests refused: %d\n", rotations, refused.Load())
	if accepted.Load() == 0 || refused.Load() > 0 {
		return fmt.Errorf("%d accepted, %d refused", accepted.Load(), refused.Load())
	}
	return nil
}

// call asks the API again and again. It looks the token up every 100 ms, as a
// client does that reads a file or a secret manager.
func call(ctx context.Context, url string, current *atomic.Pointer[apikey.Token], accepted, refused *atomic.Int64) {
	token, looked := current.Load(), time.Now()
	for ctx.Err() == nil {
		if time.Since(looked) > 100*time.Millisecond {
			token, looked = current.Load(), time.Now()
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return
		}
		r.Header.Set("Authorization", "Bearer "+token.Reveal())
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			continue // we were told to stop
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			accepted.Add(1)
		} else {
			refused.Add(1)
		}
		time.Sleep(time.Millisecond)
	}
}
