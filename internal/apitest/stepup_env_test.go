package apitest

import (
	"context"
	"encoding/base32"
	"errors"
	"net/url"
	"regexp"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
)

// factors are what a program with step-up has beside its keys: a mailbox, a
// password that it knows itself, and authenticator apps. Each can fail.
type factors struct {
	t     *testing.T
	clock *clock
	mu    sync.Mutex
	mails []mail
	down  error // of the mail server and of the password check
	seeds map[string][]byte
	kek   *brokenKEK
}

type mail struct {
	to string
	apikey.Message
}

const password = "correct horse battery staple"

// withFactors configures e-mail, password and TOTP, and a KEK; stepUp may be nil.
func withFactors(f **factors, stepUp apikey.StepUp) func(*env) {
	return func(e *env) {
		*f = &factors{t: e.t, clock: e.clock, seeds: map[string][]byte{}, kek: &brokenKEK{KEK: localKEK(e.t, "kek-1", 1)}}
		e.mc.KEKs = []apikey.KEK{(*f).kek}
		e.mc.StepUp = stepUp
		e.mc.Factors = (*f).all(e.settings.Peppers...)
	}
}

func (f *factors) all(peppers ...apikey.Pepper) map[string]apikey.Factor {
	f.t.Helper()
	app, err := apikey.NewTOTP("Acme", f.clock.now)
	require.NoError(f.t, err)
	pass, err := apikey.NewPassword(f.verify)
	require.NoError(f.t, err)
	list := map[string]apikey.Factor{"totp": app, "password": pass}
	if len(peppers) > 0 {
		if list["email"], err = apikey.NewEmailCode(f, peppers...); err != nil {
			f.t.Fatal(err)
		}
	}
	return list
}

func (f *factors) verify(_ context.Context, _, answer string) (bool, error) {
	return answer == password, f.fault()
}

// Send implements apikey.Sender.
func (f *factors) Send(_ context.Context, actorID string, m apikey.Message) error {
	if err := f.fault(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mails = append(f.mails, mail{actorID, m})
	return nil
}

func (f *factors) fault() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down
}

func (f *factors) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

var sixDigits = regexp.MustCompile(`\b\d{6}\b`)

// code is the code of the newest mail.
func (f *factors) code() string {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	require.NotEmpty(f.t, f.mails, "no mail was sent")
	return f.mails[len(f.mails)-1].code(f.t)
}

func (m mail) code(t *testing.T) string {
	t.Helper()
	code := sixDigits.FindString(m.Text())
	require.NotEmpty(t, code)
	return code
}

// app is what the actor's authenticator app shows now.
func (f *factors) app(actorID string) string {
	return totp.Code(f.seeds[actorID], totp.Step(f.clock.now()))
}

// scan reads an enrolment as the authenticator app does.
func (f *factors) scan(actorID string, e apikey.Enrollment) {
	f.t.Helper()
	u, err := url.Parse(e.URI())
	require.NoError(f.t, err)
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(u.Query().Get("secret"))
	require.NoError(f.t, err)
	f.seeds[actorID] = seed
}

// enroll sets TOTP up for the actor of ctx, approved by their password. The app
// shows another code afterwards.
func (e *env) enroll(f *factors, ctx context.Context, actorID string) {
	e.t.Helper()
	req := apikey.EnrollRequest{Factor: "totp"}
	req.Grant = e.approve(f, ctx, "password", req)
	enrollment, err := e.manager.Enroll(ctx, req)
	require.NoError(e.t, err)
	f.scan(actorID, enrollment)
	require.NoError(e.t, e.manager.ConfirmEnrollment(ctx, "totp", f.app(actorID)))
	e.clock.move(totp.Period)
}

// approve answers a challenge rightly.
func (e *env) approve(f *factors, ctx context.Context, factor string, req apikey.Guarded) apikey.Grant {
	e.t.Helper()
	c, err := e.manager.Challenge(ctx, factor, req)
	require.NoError(e.t, err)
	grant, err := e.manager.Confirm(ctx, c.ID, f.answer(factor, admin.ID))
	require.NoError(e.t, err)
	require.False(e.t, grant.IsZero())
	return grant
}

// proven makes a request, and once more with a grant by the password if it has to be
// approved.
func (e *env) proven(f *factors, ctx context.Context, req apikey.Guarded) error {
	e.t.Helper()
	err := e.make(ctx, req)
	if errors.Is(err, apikey.ErrStepUpRequired) {
		err = e.make(ctx, granting(req, e.approve(f, ctx, "password", req)))
	}
	return err
}

// answer is the right one.
func (f *factors) answer(factor, actorID string) string {
	switch factor {
	case "email":
		return f.code()
	case "totp":
		return f.app(actorID)
	}
	return password
}

func localKEK(t *testing.T, id string, fill byte) *apikey.LocalKEK {
	t.Helper()
	key := make([]byte, 32)
	for i := range key {
		key[i] = fill + byte(i)
	}
	k, err := apikey.NewLocalKEK(id, key)
	require.NoError(t, err)
	return k
}

// brokenKEK is a KEK that fails, hangs, panics or lies when a test says so.
type brokenKEK struct {
	apikey.KEK
	mu      sync.Mutex
	wrap    func(ctx context.Context, next func() ([]byte, error)) ([]byte, error)
	unwrap  func(ctx context.Context, next func() ([]byte, error)) ([]byte, error)
	unwraps int
}

func (k *brokenKEK) set(change func(*brokenKEK)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(k)
}

// asked is how often it was to unwrap.
func (k *brokenKEK) asked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unwraps
}

func (k *brokenKEK) Wrap(ctx context.Context, dek, aad []byte) ([]byte, error) {
	k.mu.Lock()
	hook := k.wrap
	k.mu.Unlock()
	next := func() ([]byte, error) { return k.KEK.Wrap(ctx, dek, aad) }
	if hook == nil {
		return next()
	}
	return hook(ctx, next)
}

func (k *brokenKEK) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	k.mu.Lock()
	hook := k.unwrap
	k.unwraps++
	k.mu.Unlock()
	next := func() ([]byte, error) { return k.KEK.Unwrap(ctx, wrapped, aad) }
	if hook == nil {
		return next()
	}
	return hook(ctx, next)
}

var errKMS = errors.New("key service is away")

var _ apikey.Sender = (*factors)(nil)
