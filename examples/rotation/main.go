// Command rotation replaces a key's token three times while clients keep calling
// an API with it, and counts the requests that were refused: none. Each new
// token overlaps with the old one for a moment, which is what the clients need
// to pick it up. A client that was held up for longer than that looks its token
// up again and repeats the request, as every client should.
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
	overlap   = 700 * time.Millisecond
	lookUp    = 100 * time.Millisecond // how often a client reads its token from where it is kept
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
	catalog := apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"})
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

	c := client{url: api.URL}
	c.newest.Store(&kept{issued.Token, time.Now()})
	calling, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for range clients {
		wg.Go(func() { c.call(calling) })
	}

	old := issued.Token
	for range rotations {
		next, err := manager.Rotate(ctx, apikey.RotateRequest{Key: issued.Key.ID, Overlap: overlap})
		if err != nil {
			return err
		}
		c.newest.Store(&kept{next.Token, time.Now()})
		time.Sleep(overlap + overlap/3)
		if _, err := verifier.Verify(ctx, old.Reveal(), apikey.Request{}); !errors.Is(err, apikey.ErrCredentialEnded) {
			return fmt.Errorf("the old token still works: %v", err)
		}
		fmt.Printf("rotated %s -> %s\n", old, next.Token)
		old = next.Token
	}
	stop()
	wg.Wait()
	fmt.Printf("%d rotations, requests refused: %d\n", rotations, c.refused.Load())
	if c.accepted.Load() == 0 || c.refused.Load() > 0 {
		return fmt.Errorf("%d accepted, %d refused", c.accepted.Load(), c.refused.Load())
	}
	return nil
}

// client is what the clients share: where their token is kept, and their counts.
type client struct {
	url               string
	newest            atomic.Pointer[kept]
	accepted, refused atomic.Int64
}

// kept is a token and since when it could be looked up.
type kept struct {
	token apikey.Token
	since time.Time
}

// call asks the API again and again, with a token that it looked up lookUp ago at
// most, as a client does that reads a file or a secret manager.
func (c *client) call(ctx context.Context) {
	mine, looked := c.newest.Load(), time.Now()
	for ctx.Err() == nil {
		if time.Since(looked) > lookUp {
			mine, looked = c.newest.Load(), time.Now()
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
		if err != nil {
			return
		}
		r.Header.Set("Authorization", "Bearer "+mine.token.Reveal())
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			continue // we were told to stop
		}
		answer.Body.Close()
		newest := c.newest.Load()
		switch {
		case answer.StatusCode == http.StatusOK:
			c.accepted.Add(1)
		case newest != mine && time.Since(newest.since) > overlap/2:
			// The machine held this request up, and meanwhile there has been a newer
			// token for a long time. After a 401 a client looks its token up again.
			mine, looked = newest, time.Now()
			continue
		default: // there was no newer token, or not long enough to know of it
			c.refused.Add(1)
		}
		time.Sleep(time.Millisecond)
	}
}
