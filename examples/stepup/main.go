// Command stepup shows, step by step, a merchant's key page on which people have to
// authenticate again before a dangerous action: with a password before a key is made, and
// with an authenticator app or a code by e-mail before a token is shown again or replaced.
// The command ends by itself, has its own mail server, and prints no secrets.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log"
	"sync/atomic"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

// stepUp returns the factors that can approve an action; one of them is enough. Actions of
// an admin for another admin are guarded too: otherwise an attacker with two stolen
// sessions could use one of them to bypass the factors of the other. Actions that only
// take power away, such as Suspend, are never guarded.
func stepUp(action apikey.Action, mode apikey.Mode) []string {
	switch action {
	case apikey.ActionIssue, apikey.ActionRevoke:
		return []string{"password"}
	case apikey.ActionReveal, apikey.ActionRotate:
		return []string{"totp", "email"}
	}
	return apikey.GuardForAnother("password")(action, mode)
}

func run() error {
	anna, err := newPerson()
	if err != nil {
		return err
	}
	defer anna.mailbox.Close()
	p, err := newPage(anna)
	if err != nil {
		return err
	}
	defer p.manager.Close(context.Background())
	for _, step := range []func() error{p.create, p.enroll, p.revealByApp, p.revealByMail, p.rotate, p.log} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// page is the merchant's key page: the program that uses the library.
type page struct {
	ctx      context.Context // with the actor who is signed in
	manager  *apikey.Manager
	verifier *apikey.Verifier
	clock    clock
	anna     *person // the user of the page

	key   apikey.KeyID
	token apikey.Token // the copy that Anna has put into her server
}

func newPage(anna *person) (*page, error) {
	p := &page{anna: anna, clock: clock{start: time.Now()}}
	p.ctx = apikey.WithActor(context.Background(), apikey.Actor{ID: anna.id, Account: "acc_42", Role: "admin"})
	// In production both come from a secret manager. They are never in the database.
	var pepperKey, kekKey [32]byte
	rand.Read(pepperKey[:])
	rand.Read(kekKey[:])
	pepper, err1 := apikey.NewPepper(1, pepperKey)
	kek, err2 := apikey.NewLocalKEK("kek-2026", kekKey[:])
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	hasher, err1 := apikey.NewHMACSHA256(pepper)
	password, err2 := apikey.NewPassword(anna.account.check)
	app, err3 := apikey.NewTOTP("Acme Pay", p.clock.now)
	code, err4 := apikey.NewEmailCode(mailer{
		server: anna.mailbox.Addr, from: "keys@acme.example", addresses: map[string]string{anna.id: anna.address},
	}, pepper)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	p.manager, err1 = apikey.NewManager(p.ctx, apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:refund"}),
		Peppers: []apikey.Pepper{pepper}, Hashers: []apikey.Hasher{hasher}, Now: p.clock.now,
	}, apikey.ManagerConfig{
		KEKs: []apikey.KEK{kek}, StepUp: stepUp,
		Factors: map[string]apikey.Factor{"password": password, "totp": app, "email": code},
	})
	if err1 != nil {
		return nil, err1
	}
	p.verifier, err1 = p.manager.NewVerifier(p.ctx, apikey.VerifierConfig{Mode: apikey.Live})
	return p, err1
}

// clock stands still. The steps move it on with wait, instead of waiting.
type clock struct {
	start time.Time
	ahead atomic.Int64
}

func (c *clock) now() time.Time { return c.start.Add(time.Duration(c.ahead.Load())) }

func (c *clock) wait(d time.Duration) { c.ahead.Add(int64(d)) }
