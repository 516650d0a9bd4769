// Package apikeytest starts the key management of a program for its tests: a Manager and
// Verifiers on memstore, with a clock that the test moves, a mailbox for e-mailed codes,
// and the codes of an authenticator app. Nothing is a fake but the clock and the mailbox:
// keys are issued, verified and revoked as in production.
//
//	func TestRefund(t *testing.T) {
//		p := apikeytest.New(t, func(s *apikey.Settings, c *apikey.ManagerConfig) {
//			s.Catalog = shop.Catalog
//		})
//		key := p.Issue("acc_1", apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refund"}})
//		handler := shop.Routes(httpauth.New(p.Live, httpauth.Config{}))
//		// … requests with key.Token.Reveal(), p.Manager.Revoke, p.Clock.Move
//	}
//
// A test of a handler alone needs less: any type with the two methods of [apikey.Key] is
// a key, and [apikey.NewContext] puts it into the context of a request.
package apikeytest

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// A Program is the key management of a program that runs in one test.
type Program struct {
	Manager *apikey.Manager
	Live    *apikey.Verifier // accepts live keys
	Test    *apikey.Verifier // accepts test keys
	Store   apikey.Store     // a memstore.Store, unless the test has set another one
	Clock   *Clock           // the time of the Manager and the Verifiers
	Mailbox *Mailbox         // gets the mails of the factor "email"

	t testing.TB
}

// New starts a Program, and ends it with the test. Each change may set any field of the
// Settings and of the ManagerConfig before the start; they begin as follows, so that most
// tests set only the Catalog, and what they are about:
//
//   - Store: a new memstore.Store
//   - Prefix: "test"
//   - Catalog: without abilities
//   - Peppers and Hashers: a new pepper, and the HMACSHA256 of it, which takes a
//     microsecond
//   - Now: the Program's Clock
//   - KEKs: a new one, so that keys can be Recoverable
//   - Factors: "email", whose mails are in the Mailbox, and "totp"; a program's own
//     factors, such as a [apikey.Password], are for the test to add
//
// If the configuration is wrong, New fails the test. The Verifiers do not poll (Sync is
// -1), because the Manager tells them of each change.
func New(t testing.TB, changes ...func(*apikey.Settings, *apikey.ManagerConfig)) *Program {
	t.Helper()
	p := &Program{t: t, Clock: &Clock{now: time.Now().UTC().Truncate(time.Second)}, Mailbox: &Mailbox{t: t}}
	settings, config := p.defaults()
	for _, change := range changes {
		change(&settings, &config)
	}
	p.Store = settings.Store
	p.Manager = must(apikey.NewManager(t.Context(), settings, config))(t)
	t.Cleanup(func() { p.Manager.Close(context.Background()) })
	p.Live = must(p.Manager.NewVerifier(t.Context(), apikey.VerifierConfig{Mode: apikey.Live, Sync: -1}))(t)
	p.Test = must(p.Manager.NewVerifier(t.Context(), apikey.VerifierConfig{Mode: apikey.Test, Sync: -1}))(t)
	return p
}

func (p *Program) defaults() (apikey.Settings, apikey.ManagerConfig) {
	p.t.Helper()
	var secret [32]byte
	rand.Read(secret[:])
	pepper := must(apikey.NewPepper(1, secret))(p.t)
	rand.Read(secret[:])
	settings := apikey.Settings{
		Store: memstore.New(), Prefix: "test", Catalog: apikey.MustCatalog(), Now: p.Clock.Now,
		Peppers: []apikey.Pepper{pepper}, Hashers: []apikey.Hasher{must(apikey.NewHMACSHA256(pepper))(p.t)},
	}
	return settings, apikey.ManagerConfig{
		KEKs: []apikey.KEK{must(apikey.NewLocalKEK("test", secret[:]))(p.t)},
		Factors: map[string]apikey.Factor{
			"email": must(apikey.NewEmailCode(p.Mailbox, pepper))(p.t),
			"totp":  must(apikey.NewTOTP("test", p.Clock.Now))(p.t),
		},
	}
}

// must fails the test instead of returning an error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatalf("apikeytest: %v", err)
		}
		return v
	}
}

// Admin returns a context in which an admin of the account acts: an [apikey.Actor] of the
// Role "admin" with the ID "usr_" and the account's name. For other actors use
// [apikey.WithActor].
func (p *Program) Admin(account string) context.Context {
	return apikey.WithActor(p.t.Context(), apikey.Actor{ID: "usr_" + account, Account: account, Role: "admin"})
}

// Issue issues a key as the Admin of the account, and fails the test if that is refused.
func (p *Program) Issue(account string, req apikey.IssueRequest) apikey.Issued {
	p.t.Helper()
	return must(p.Manager.Issue(p.Admin(account), req))(p.t)
}

// Approve answers a challenge for the request with the code that is mailed to the actor of
// ctx, and returns the grant to make the request with. It fails the test if the factor
// "email" does not approve the request, or is not that of New.
func (p *Program) Approve(ctx context.Context, request apikey.Guarded) apikey.Grant {
	p.t.Helper()
	challenge := must(p.Manager.Challenge(ctx, "email", request))(p.t)
	return must(p.Manager.Confirm(ctx, challenge.ID, p.Mailbox.Last().Message.Code()))(p.t)
}

// Clock is a time that only the test moves. It begins at the second in which it was made.
// It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now returns the time, in UTC.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Move adds d to the time. Stored times do not move: a key that expires in an hour has
// expired after Move(time.Hour).
func (c *Clock) Move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
