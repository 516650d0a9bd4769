package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// served are the settings of a server process.
type served struct {
	File   string // of SQLite, shared with other processes
	Addr   string
	Pepper bool
	Cheap  bool          // see costly
	Slots  int           // of argon2
	Delay  time.Duration // of each read: a database is not this process
}

// serveKeys is a server process as a program would write it: a guard before a
// handler that does nothing, over a file of SQLite, until SIGTERM.
func serveKeys(settings []byte) error {
	var c served
	if err := json.Unmarshal(settings, &c); err != nil {
		return err
	}
	file, db, err := openSQLite(c.File)
	if err != nil {
		return err
	}
	hasher, err := newCostly(apikey.Argon2idConfig{Slots: c.Slots})
	if err != nil {
		return err
	}
	hasher.cheap.Store(c.Cheap)
	store := &gauge{Store: file, delay: c.Delay}
	p, err := newProgram(store, hasher, c.Pepper)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return err
	}
	guard := httpauth.New(p.verifier, httpauth.Config{ForwardedHeader: "X-Forwarded-For", TrustedProxies: loopback})
	server := &http.Server{Handler: guard.Require(refund...)(noop)}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	terminated, stop := signal.NotifyContext(background, syscall.SIGTERM)
	defer stop()
	say("ready", l.Addr())
	go orders(map[string]func() []any{
		"calm": func() []any { // what is measured begins here
			hasher.runs.Store(0)
			store.most.Store(0)
			now, err := calm()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return []any{now}
		},
		"told": func() []any {
			now, most, err := resident()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return []any{now, most, hasher.runs.Load(), store.most.Load()}
		},
	})
	select {
	case err := <-failed:
		return err
	case <-terminated.Done():
	}
	patient, cancel := context.WithTimeout(background, 10*time.Second)
	defer cancel()
	if err := errors.Join(server.Shutdown(patient), p.verifier.Close(patient), db.Close()); err != nil {
		return err
	}
	say("ended", hasher.runs.Load(), store.reads.Load())
	return nil
}

// costly is a Hasher that is argon2 in what it takes (time, memory, slots,
// waiting, ErrBusy) and a plain SHA-256 in what it decides. So a test makes ten
// thousand keys in a moment, and a first verification still costs a run.
type costly struct {
	plain
	argon   *apikey.Argon2id
	encoded string
	cheap   atomic.Bool // no argon2: to warm a cache
	runs    atomic.Int64
}

func newCostly(c apikey.Argon2idConfig) (*costly, error) {
	argon, err := apikey.NewArgon2id(c)
	if err != nil {
		return nil, err
	}
	encoded, err := argon.Hash(background, []byte("of nobody"))
	return &costly{argon: argon, encoded: encoded}, err
}

func (c *costly) Verify(ctx context.Context, encoded string, secret []byte) (bool, error) {
	if !c.cheap.Load() {
		if _, err := c.argon.Verify(ctx, c.encoded, secret); err != nil {
			return false, err
		}
	}
	c.runs.Add(1)
	return c.plain.Verify(ctx, encoded, secret)
}

// caller sends requests to servers. However many are due at once, it opens a
// bounded number of connections; what waits for one is late by that.
type caller struct{ http.Client }

func newCaller(t *testing.T) *caller {
	transport := &http.Transport{MaxConnsPerHost: 256, MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &caller{http.Client{Transport: transport, Timeout: time.Minute}}
}

func (c *caller) ask(addr, token string) (status int, err error) {
	req, err := http.NewRequest("GET", "http://"+addr+"/", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("X-Forwarded-For", "203.0.113.77")
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// want is ask, and an error where the status is another one.
func (c *caller) want(status int, addr, token string) error {
	got, err := c.ask(addr, token)
	if err == nil && got != status {
		err = fmt.Errorf("status %d instead of %d", got, status)
	}
	return err
}

// server is a server process, and tokens that it knows.
type server struct {
	*caller
	process *child
	addr    string
	tokens  []string
}

// newServer issues keys into a new file and starts a server over it.
func newServer(t *testing.T, keys int, c served, also func(*program, []apikey.Issued)) *server {
	t.Helper()
	c.File, c.Addr = filepath.Join(t.TempDir(), "keys.db"), "127.0.0.1:0"
	s := &server{caller: newCaller(t), tokens: issueInto(t, c.File, keys, c.Pepper, also)}
	s.process = startChild(t, "serve", c)
	s.addr = s.process.expect("ready")[0]
	return s
}

// issueInto makes keys in a file of SQLite; whoever is given the program may go on.
func issueInto(t *testing.T, file string, keys int, peppered bool, also func(*program, []apikey.Issued)) []string {
	t.Helper()
	store, db, err := openSQLite(file)
	must(t, err)
	defer db.Close()
	hasher, err := newCostly(apikey.Argon2idConfig{})
	must(t, err)
	p, err := newProgram(store, hasher, peppered)
	must(t, err)
	defer p.verifier.Close(background)
	issued, err := p.issue(keys)
	must(t, err)
	if also != nil {
		also(p, issued)
	}
	return texts(issued)
}

// warm presents every token once.
func (c *caller) warm(t *testing.T, addr string, tokens []string) {
	t.Helper()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := g; i < len(tokens); i += 4 {
				if err := c.want(http.StatusNoContent, addr, tokens[i]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	if wg.Wait(); t.Failed() {
		t.FailNow()
	}
}
