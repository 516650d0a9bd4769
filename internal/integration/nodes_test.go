package integration

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
	"github.com/go-apikey/apikey/memstore"
)

// A node is one process of a program: a Manager and a Verifier with a way of
// their own to the store that all nodes share.
type node struct {
	manager  *apikey.Manager
	verifier *apikey.Verifier
}

// newNode starts one; options change the Manager's configuration.
func newNode(t *testing.T, store apikey.Store, now func() time.Time, options ...func(*managing)) *node {
	t.Helper()
	mc, vc := configs(store, now)
	for _, o := range options {
		o(&mc)
	}
	m, err := mc.start(background)
	must(t, err)
	t.Cleanup(func() { m.Close(background) })
	v, err := m.NewVerifier(background, vc.VerifierConfig)
	must(t, err)
	return &node{m, v}
}

// managing is what a process that manages is given.
type managing struct {
	apikey.Settings
	apikey.ManagerConfig
}

func (c managing) start(ctx context.Context) (*apikey.Manager, error) {
	return apikey.NewManager(ctx, c.Settings, c.ManagerConfig)
}

// verifying is what a process that only verifies is given.
type verifying struct {
	apikey.Settings
	apikey.VerifierConfig
}

func (c verifying) start(ctx context.Context) (*apikey.Verifier, error) {
	return apikey.NewVerifier(ctx, c.Settings, c.VerifierConfig)
}

// configs are the same on every node, whatever process it is in.
func configs(store apikey.Store, now func() time.Time) (managing, verifying) {
	var key [32]byte
	key[0] = 1
	peppers := []apikey.Pepper{sure(apikey.NewPepper(1, key))}
	hasher := sure(apikey.NewHMACSHA256(peppers...))
	settings := apikey.Settings{
		Store: store, Prefix: "acme", Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"}),
		Hashers: []apikey.Hasher{hasher}, Peppers: peppers, Now: now,
	}
	mc := apikey.ManagerConfig{KEKs: []apikey.KEK{localKEK(1)}, Limits: apikey.Limits{LiveKeys: 100_000}}
	vc := apikey.VerifierConfig{Mode: apikey.Live, Sync: -1, ReadOnly: true}
	return managing{settings, mc}, verifying{settings, vc}
}

func localKEK(n byte) apikey.KEK {
	return sure(apikey.NewLocalKEK(fmt.Sprint("kek-", n), []byte{n, 1: 7, 31: 9}))
}

// sure is for what a test's own constants decide.
func sure[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var background = context.Background()

// as is a context of an admin of the one account.
func as(actor string) context.Context {
	return apikey.WithActor(background, apikey.Actor{ID: actor, Account: "acc_1", Role: "admin"})
}

func staff() context.Context { return apikey.WithActor(background, apikey.Operator("ops_1")) }

// onStores runs a test on the reference store and on SQLite. open is one more
// node's own way to the store: in SQLite a pool of its own on the one file.
func onStores(t *testing.T, test func(t *testing.T, open func() apikey.Store)) {
	t.Run("memstore", func(t *testing.T) {
		store := memstore.New()
		test(t, func() apikey.Store { return store })
	})
	t.Run("sqlite", func(t *testing.T) {
		file := newFile(t)
		test(t, func() apikey.Store { return file.store(t) })
	})
}

// onEngines runs it on the servers too.
func onEngines(t *testing.T, test func(t *testing.T, open func() apikey.Store)) {
	onStores(t, test)
	onServers(t, test)
}

// onServers runs it there alone; a node's own way is a pool of its own.
func onServers(t *testing.T, test func(t *testing.T, open func() apikey.Store)) {
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			d, _ := e.fresh(t)
			must(t, open(t, e.pool(t, dsn), d).Migrate(t.Context()))
			test(t, func() apikey.Store { return open(t, e.pool(t, dsn), d) })
		})
	}
}

// newFile is a migrated database of SQLite.
func newFile(t *testing.T) place {
	t.Helper()
	file := place(filepath.Join(t.TempDir(), "keys.db"))
	must(t, file.store(t).Migrate(background))
	return file
}

// people is what the actors have beside the program: one mailbox, passwords and
// authenticator apps.
type people struct {
	now   func() time.Time
	mu    sync.Mutex
	mails []apikey.Message
	seeds map[string][]byte // by actor
}

func newPeople(now func() time.Time) *people { return &people{now: now, seeds: map[string][]byte{}} }

const password = "correct horse battery staple"

// factors is an option of newNode.
func (p *people) factors(stepUp apikey.StepUp) func(*managing) {
	return func(c *managing) {
		c.StepUp = stepUp
		c.Factors = map[string]apikey.Factor{
			"totp":  sure(apikey.NewTOTP("Acme", p.now)),
			"email": sure(apikey.NewEmailCode(p, c.Peppers...)),
			"password": sure(apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) {
				return answer == password, nil
			})),
		}
	}
}

// Send implements apikey.Sender.
func (p *people) Send(_ context.Context, _ string, m apikey.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mails = append(p.mails, m)
	return nil
}

var sixDigits = regexp.MustCompile(`\b[0-9]{6}\b`)

// mailed is the code of the newest mail.
func (p *people) mailed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return sixDigits.FindString(p.mails[len(p.mails)-1].Text())
}

// app is what an actor's authenticator app shows now.
func (p *people) app(actor string) string { return totp.Code(p.seeds[actor], totp.Step(p.now())) }

// scan reads an enrolment as the app does.
func (p *people) scan(actor string, e apikey.Enrollment) {
	u := sure(url.Parse(e.URI()))
	p.seeds[actor] = sure(base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(u.Query().Get("secret")))
}

// enroll sets an actor's app up. It shows another code afterwards.
func (p *people) enroll(t *testing.T, n *node, actor string, c *clock) {
	t.Helper()
	p.begin(t, n, actor)
	must(t, n.manager.ConfirmEnrollment(as(actor), "totp", p.app(actor)))
	c.move(totp.Period)
}

// begin is the first half of enroll.
func (p *people) begin(t *testing.T, n *node, actor string) {
	t.Helper()
	req := apikey.EnrollRequest{Factor: "totp"}
	req.Grant = approve(t, n, as(actor), "password", req, func() string { return password })
	e, err := n.manager.Enroll(as(actor), req)
	must(t, err)
	p.scan(actor, e)
}

// approve answers a challenge rightly.
func approve(t *testing.T, n *node, ctx context.Context, factor string, req apikey.Guarded, answer func() string) apikey.Grant {
	t.Helper()
	c, err := n.manager.Challenge(ctx, factor, req)
	must(t, err)
	grant, err := n.manager.Confirm(ctx, c.ID, answer())
	must(t, err)
	return grant
}

func typed(answer string) func() string { return func() string { return answer } }

// clock is time that only the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) move(d time.Duration) { c.set(c.now().Add(d)) }

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

// together runs n calls that begin at the same time and returns their errors.
func together(n int, call func(i int) error) []error {
	errs := make([]error, n)
	begin := make(chan struct{})
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			<-begin
			errs[i] = call(i)
		})
	}
	close(begin)
	calls.Wait()
	return errs
}

// only fails the test for an error that is none of those named, and counts the
// calls that succeeded.
func only(t *testing.T, errs []error, named ...error) (succeeded int) {
	t.Helper()
	for _, err := range errs {
		switch {
		case err == nil:
			succeeded++
		case !slices.ContainsFunc(named, func(target error) bool { return errors.Is(err, target) }):
			t.Errorf("unexpected: %v", err)
		}
	}
	return succeeded
}
