package apitest

import (
	"context"
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
	settings apikey.Settings
	mc       apikey.ManagerConfig
	vc       apikey.VerifierConfig
	manager  *apikey.Manager
	verifier *apikey.Verifier // of the manager
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
	e.settings = apikey.Settings{
		Prefix: prefix, Catalog: catalog, Hashers: []apikey.Hasher{hmacHasher(t, p)}, Peppers: []apikey.Pepper{p}, Now: e.clock.now,
	}
	e.vc = apikey.VerifierConfig{Mode: apikey.Live, Sync: -1}
	e.store = memstore.New()
	for _, o := range options {
		o(e)
	}
	e.settings.Store = e.store
	e.restart()
	return e
}

// restart makes the Manager and the Verifier of a process that starts now.
func (e *env) restart(options ...func(*managerConfig)) {
	e.t.Helper()
	e.manager = e.newManager(options...)
	e.verifier = e.verifierOf(e.manager)
}

// verifierOf makes a Verifier in the process of a Manager.
func (e *env) verifierOf(m *apikey.Manager, options ...func(*apikey.VerifierConfig)) *apikey.Verifier {
	e.t.Helper()
	c := e.vc
	for _, o := range options {
		o(&c)
	}
	v, err := m.NewVerifier(context.Background(), c)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { v.Close(context.Background()) })
	return v
}

// verifierConfig is what NewVerifier is given.
type verifierConfig struct {
	apikey.Settings
	apikey.VerifierConfig
}

// newVerifier makes a Verifier in a process that has no Manager.
func (e *env) newVerifier(options ...func(*verifierConfig)) *apikey.Verifier {
	e.t.Helper()
	c := verifierConfig{e.settings, e.vc}
	for _, o := range options {
		o(&c)
	}
	v, err := apikey.NewVerifier(context.Background(), c.Settings, c.VerifierConfig)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { v.Close(context.Background()) })
	return v
}

// managerConfig is what NewManager is given.
type managerConfig struct {
	apikey.Settings
	apikey.ManagerConfig
}

// newManager makes the Manager of another process, which has no Verifier.
func (e *env) newManager(options ...func(*managerConfig)) *apikey.Manager {
	e.t.Helper()
	c := managerConfig{e.settings, e.mc}
	for _, o := range options {
		o(&c)
	}
	m, err := apikey.NewManager(context.Background(), c.Settings, c.ManagerConfig)
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
	e.settings.Peppers = nil
	e.settings.Hashers = []apikey.Hasher{h}
}
