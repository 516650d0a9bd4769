package apitest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// env is one program: a store, a Manager and a Verifier on it, a clock that the
// test moves. Fields may be changed before start.
type env struct {
	t        *testing.T
	ctx      context.Context // of the account's admin
	store    apikey.Store
	clock    *clock
	mc       apikey.ManagerConfig
	vc       apikey.VerifierConfig
	manager  *apikey.Manager
	verifier *apikey.Verifier
}

var catalog = apikey.MustCatalog(
	apikey.CatalogEntry{Scope: "payment:checkout"},
	apikey.CatalogEntry{Scope: "payment:verify"},
	apikey.CatalogEntry{Scope: "payment:refund"},
	apikey.CatalogEntry{Scope: "card:tokenise", Publishable: true},
	apikey.CatalogEntry{Product: "balance"},
	apikey.CatalogEntry{Product: "rates", Publishable: true},
)

var admin = apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"}

const prefix = "acme"

// newEnv makes a program with a pepper and the quick hasher; options change the
// configurations before it starts.
func newEnv(t *testing.T, options ...func(*env)) *env {
	t.Helper()
	e := &env{t: t, ctx: apikey.WithActor(context.Background(), admin), clock: newClock()}
	p := pepper(t, 1)
	e.mc = apikey.ManagerConfig{Prefix: prefix, Catalog: catalog, Hasher: hmacHasher(t, p), Peppers: []apikey.Pepper{p}, Now: e.clock.now}
	e.vc = apikey.VerifierConfig{Prefix: prefix, Mode: apikey.Live, Hashers: []apikey.Hasher{e.mc.Hasher}, Peppers: e.mc.Peppers, Now: e.clock.now, Sync: -1}
	e.store = memstore.New()
	for _, o := range options {
		o(e)
	}
	e.mc.Store, e.vc.Store = e.store, e.store
	e.verifier = e.newVerifier()
	e.mc.Local = append(e.mc.Local, e.verifier)
	e.manager = e.newManager()
	return e
}

func (e *env) newVerifier(options ...func(*apikey.VerifierConfig)) *apikey.Verifier {
	e.t.Helper()
	c := e.vc
	for _, o := range options {
		o(&c)
	}
	v, err := apikey.NewVerifier(context.Background(), c)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { v.Close(context.Background()) })
	return v
}

func (e *env) newManager(options ...func(*apikey.ManagerConfig)) *apikey.Manager {
	e.t.Helper()
	c := e.mc
	for _, o := range options {
		o(&c)
	}
	if fmt.Sprint(c.Peppers) != fmt.Sprint(e.mc.Peppers) || c.Hasher != e.mc.Hasher || c.Prefix != e.mc.Prefix {
		c.Local = nil // it is another node: Verifiers of this one have to match
	}
	m, err := apikey.NewManager(context.Background(), c)
	require.NoError(e.t, err)
	return m
}

// issue makes a live secret key; options change the request.
func (e *env) issue(options ...func(*apikey.IssueRequest)) apikey.Issued {
	e.t.Helper()
	req := apikey.IssueRequest{Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:refund"}}
	for _, o := range options {
		o(&req)
	}
	issued, err := e.manager.Issue(e.ctx, req)
	require.NoError(e.t, err)
	return issued
}

func (e *env) verify(token apikey.Token) error {
	_, err := e.verifier.Verify(context.Background(), token.Reveal(), apikey.Request{})
	return err
}

// clock is time that only the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func pepper(t *testing.T, slot uint8) apikey.Pepper {
	t.Helper()
	return pepperOf(t, slot, slot)
}

func pepperOf(t *testing.T, slot, fill byte) apikey.Pepper {
	t.Helper()
	key := [32]byte{}
	for i := range key {
		key[i] = fill + byte(i)
	}
	p, err := apikey.NewPepper(slot, key)
	require.NoError(t, err)
	return p
}

func hmacHasher(t *testing.T, peppers ...apikey.Pepper) apikey.Hasher {
	t.Helper()
	h, err := apikey.NewHMACSHA256(peppers...)
	require.NoError(t, err)
	return h
}

// noPepper makes a program without peppers, on argon2.
func noPepper(e *env) {
	h, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 7168, Time: 1})
	require.NoError(e.t, err)
	e.mc.Peppers, e.vc.Peppers = nil, nil
	e.mc.Hasher, e.vc.Hashers = h, []apikey.Hasher{h}
}
