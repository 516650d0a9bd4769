package apikey_test

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
	"github.com/go-apikey/apikey/memstore"
)

// outbox is a Sender for the examples: what was sent last.
type outbox struct{ last apikey.Message }

func (o *outbox) Send(_ context.Context, _ string, m apikey.Message) error {
	o.last = m
	return nil
}

// code is what the mail is about.
func (o *outbox) code() string { return regexp.MustCompile(`\b\d{6}\b`).FindString(o.last.Text()) }

// exampleStepUp is a Manager whose Reveal and Rotate want a code, by mail or from
// an app.
func exampleStepUp(now func() time.Time) (admin context.Context, m *apikey.Manager, mails *outbox) {
	secret, kekKey := [32]byte{}, make([]byte, 32)
	rand.Read(secret[:])
	rand.Read(kekKey)
	pepper, err := apikey.NewPepper(1, secret)
	must(err)
	kek, err := apikey.NewLocalKEK("kek-2026", kekKey)
	must(err)
	mails = &outbox{}
	email, err := apikey.NewEmailCode(mails, pepper)
	must(err)
	app, err := apikey.NewTOTP("Acme Pay", now)
	must(err)
	password, err := apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) { return answer == "tr0ub4dor&3", nil })
	must(err)
	admin = apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	m, err = apikey.NewManager(admin, apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"}),
		Peppers: []apikey.Pepper{pepper}, Now: now,
	}, apikey.ManagerConfig{
		KEKs:    []apikey.KEK{kek},
		Factors: map[string]apikey.Factor{"email": email, "totp": app, "password": password},
		StepUp:  apikey.GuardRevealAndRotate("email", "totp"),
	})
	must(err)
	return admin, m, mails
}

// A guarded action is refused with the factors that approve it; the answer to a
// challenge is a grant for that very request.
func ExampleManager_Challenge() {
	admin, manager, mails := exampleStepUp(nil)
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live})
	must(err)

	request := apikey.RotateRequest{Key: issued.Key.ID}
	_, err = manager.Rotate(admin, request)
	var ask *apikey.ChallengeError
	fmt.Println(errors.As(err, &ask), ask.Action, ask.Factors, "or first enrol", ask.Enroll)

	challenge, err := manager.Challenge(admin, "email", request) // sends the code
	must(err)
	typed := mails.code()
	request.Grant, err = manager.Confirm(admin, challenge.ID, typed)
	must(err)
	_, err = manager.Rotate(admin, request)
	fmt.Println("approved:", err)
	_, err = manager.Rotate(admin, request)
	fmt.Println("again:", errors.Is(err, apikey.ErrGrant))
	// Output:
	// true key.rotate [email] or first enrol [totp]
	// approved: <nil>
	// again: true
}

// A page that keeps the grant between two requests keeps its text.
func ExampleGrant() {
	admin, manager, mails := exampleStepUp(nil)
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live})
	must(err)
	challenge, err := manager.Challenge(admin, "email", apikey.RotateRequest{Key: issued.Key.ID})
	must(err)
	grant, err := manager.Confirm(admin, challenge.ID, mails.code())
	must(err)

	hidden := grant.Reveal() // into the form; log lines show grant(…)
	fmt.Println(grant)
	_, err = manager.Rotate(admin, apikey.RotateRequest{Key: issued.Key.ID, Grant: apikey.ParseGrant(hidden)})
	fmt.Println(err)
	// Output:
	// grant(…)
	// <nil>
}

// A Recoverable key's token can be shown again, to whoever proves who they are.
func ExampleManager_Reveal() {
	admin, manager, mails := exampleStepUp(nil)
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
	must(err)

	request := apikey.RevealRequest{Key: issued.Key.ID}
	challenge, err := manager.Challenge(admin, "email", request)
	must(err)
	request.Grant, err = manager.Confirm(admin, challenge.ID, mails.code())
	must(err)
	shown, err := manager.Reveal(admin, request)
	must(err)
	fmt.Println(shown.Token.Reveal() == issued.Token.Reveal(), shown.HideAfter)
	// Output: true 30s
}

// Each person enrols an authenticator app of their own, approved by a factor that
// they have already.
func ExampleTOTP() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	admin, manager, _ := exampleStepUp(func() time.Time { return now })

	request := apikey.EnrollRequest{Factor: "totp"}
	challenge, err := manager.Challenge(admin, "password", request)
	must(err)
	request.Grant, err = manager.Confirm(admin, challenge.ID, "tr0ub4dor&3")
	must(err)
	enrollment, err := manager.Enroll(admin, request)
	must(err)
	app := scanned(enrollment.URI()) // shown as a QR code
	must(manager.ConfirmEnrollment(admin, "totp", totp.Code(app, totp.Step(now))))
	fmt.Println(manager.Enrolled(admin))

	// From then on codes approve what StepUp names "totp" for. Each works once.
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
	must(err)
	now = now.Add(totp.Period)
	reveal := apikey.RevealRequest{Key: issued.Key.ID}
	challenge, err = manager.Challenge(admin, "totp", reveal)
	must(err)
	reveal.Grant, err = manager.Confirm(admin, challenge.ID, totp.Code(app, totp.Step(now)))
	must(err)
	_, err = manager.Reveal(admin, reveal)
	fmt.Println(err)
	// Output:
	// [totp] <nil>
	// <nil>
}

// scanned is the seed as an authenticator app reads it.
func scanned(uri string) []byte {
	u, err := url.Parse(uri)
	must(err)
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(u.Query().Get("secret"))
	must(err)
	return seed
}

// Five codes an hour are sent to a person; an hour after the first there may be
// another.
func ExampleAttemptsError() {
	admin, manager, _ := exampleStepUp(nil)
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live})
	must(err)
	request := apikey.RotateRequest{Key: issued.Key.ID}
	_, err = manager.Challenge(admin, "email", request)
	must(err)
	for range 4 {
		_, err = manager.Resend(admin, "email", request) // no code has arrived
		must(err)
	}
	_, err = manager.Resend(admin, "email", request)
	var busy *apikey.AttemptsError
	fmt.Println(errors.As(err, &busy), busy.Wait.Round(time.Minute))
	// Output: true 1h0m0s
}

// A guard composed by hand: in production alone, and only for what gives power.
func ExampleStepUp() {
	guard := func(a apikey.Action, m apikey.Mode) []string {
		switch {
		case m == apikey.Test:
			return nil
		case a == apikey.ActionReveal || a == apikey.ActionRotate:
			return []string{"totp"} // not the mailbox, which may be what was taken
		case a == apikey.ActionIssue || a == apikey.ActionWiden || a == apikey.ActionResume:
			return []string{"totp", "email"}
		}
		return apikey.GuardForAnother("totp")(a, m) // what undoes a guard is guarded
	}
	fmt.Println(guard(apikey.ActionReveal, apikey.Live), guard(apikey.ActionReveal, apikey.Test))
	// Output: [totp] []
}

// To replace a KEK put the new one first, reseal, and take the old one out.
func ExampleManager_Reseal() {
	store, operator := memstore.New(), apikey.WithActor(context.Background(), apikey.Operator("ops_1"))
	catalog := apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"})
	kek := func(id string) apikey.KEK {
		key := make([]byte, 32)
		rand.Read(key)
		k, err := apikey.NewLocalKEK(id, key)
		must(err)
		return k
	}
	manager := func(keks ...apikey.KEK) *apikey.Manager {
		settings := apikey.Settings{Store: store, Prefix: "acme", Catalog: catalog}
		m, err := apikey.NewManager(operator, settings, apikey.ManagerConfig{KEKs: keks})
		must(err)
		return m
	}
	old, next := kek("kek-2025"), kek("kek-2026")
	for range 3 {
		_, err := manager(old).Issue(operator, apikey.IssueRequest{Account: "acc_1", Mode: apikey.Live, Recoverable: true})
		must(err)
	}

	both := manager(next, old)
	for {
		done, err := both.Reseal(operator, 2)
		must(err)
		fmt.Println("sealed anew:", done)
		if done == 0 {
			break // the old one can go
		}
	}
	// Output:
	// sealed anew: 2
	// sealed anew: 1
	// sealed anew: 0
}

var _ apikey.Sender = (*outbox)(nil)
