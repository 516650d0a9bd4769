// Command rotation replaces a key's token three times while clients keep calling an API
// with the key. It counts the refused requests: there are none. The old and the new token
// are both valid for a short time, the overlap, in which the clients read the new token.
// If a client's request is refused because the client was delayed for longer than the
// overlap, the client reads its token again and repeats the request, as every client
// should.
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
	lookUp    = 100 * time.Millisecond // how often a client reads its stored token
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	catalog := apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"})
	settings := apikey.Settings{Store: memstore.New(), Prefix: "acme", Catalog: catalog}
	manager, err := apikey.NewManager(ctx, settings, apikey.ManagerConfig{})
	if err != nil {
		return err
	}
	defer manager.Close(ctx)
	verifier, err := manager.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Live})
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

// client has the data that all clients share: their stored token, and their counts.
type client struct {
	url               string
	newest            atomic.Pointer[kept]
	accepted, refused atomic.Int64
}

// kept is the stored token, and the time since which clients can read it.
type kept struct {
	token apikey.Token
	since time.Time
}

// call calls the API again and again. It reads its token again when it last read it more
// than lookUp ago, like a client that reads a file or a secret manager.
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
			continue // ctx has ended
		}
		answer.Body.Close()
		newest := c.newest.Load()
		switch {
		case answer.StatusCode == http.StatusOK:
			c.accepted.Add(1)
		case newest != mine && time.Since(newest.since) > overlap/2:
			// The machine was slow: a newer token has been stored for a long time, and
			// this request had the old one. After a 401 a client reads its token again.
			mine, looked = newest, time.Now()
			continue
		default: // there is no newer token, or the client could not have read it yet
			c.refused.Add(1)
		}
		time.Sleep(time.Millisecond)
	}
}
