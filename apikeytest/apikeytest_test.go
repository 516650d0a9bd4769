package apikeytest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/apikeytest"
	"github.com/go-apikey/apikey/memstore"
)

func withCatalog(s *apikey.Settings, _ *apikey.ManagerConfig) {
	s.Catalog = apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:refund"})
}

func verify(v *apikey.Verifier, k apikey.Issued) error {
	_, err := v.Verify(context.Background(), k.Token.Reveal(), apikey.Request{})
	return err
}

// A key lives as in production: in its mode, until it expires or is revoked.
func TestAKeyLives(t *testing.T) {
	p := apikeytest.New(t, withCatalog)
	live := p.Issue("acc_1", apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refund"}, ExpiresAt: p.Clock.Now().Add(time.Hour)})
	test := p.Issue("acc_1", apikey.IssueRequest{Mode: apikey.Test})
	require.NoError(t, verify(p.Live, live))
	require.NoError(t, verify(p.Test, test))
	require.ErrorIs(t, verify(p.Live, test), apikey.ErrMode)
	require.ErrorIs(t, verify(p.Test, live), apikey.ErrMode)

	_, err := p.Manager.Get(p.Admin("acc_2"), live.Key.ID)
	require.ErrorIs(t, err, apikey.ErrNotFound, "another account")
	require.NoError(t, p.Manager.Revoke(p.Admin("acc_1"), apikey.RevokeRequest{Key: test.Key.ID}))
	require.ErrorIs(t, verify(p.Test, test), apikey.ErrRevoked)
	p.Clock.Move(time.Hour - 1)
	require.NoError(t, verify(p.Live, live))
	p.Clock.Move(1)
	require.ErrorIs(t, verify(p.Live, live), apikey.ErrExpired)
}

// What is guarded by a mailed code is approved with it, once.
func TestApprovalByMail(t *testing.T) {
	p := apikeytest.New(t, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.StepUp = apikey.GuardRevealAndRotate("email") })
	key := p.Issue("acc_1", apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
	request := apikey.RevealRequest{Key: key.Key.ID}
	_, err := p.Manager.Reveal(p.Admin("acc_1"), request)
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)

	down := errors.New("mail server is down")
	p.Mailbox.Fail(down)
	_, err = p.Manager.Challenge(p.Admin("acc_1"), "email", request)
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.Empty(t, p.Mailbox.All())
	p.Mailbox.Fail(nil)

	request.Grant = p.Approve(p.Admin("acc_1"), request)
	shown, err := p.Manager.Reveal(p.Admin("acc_1"), request)
	require.NoError(t, err)
	require.Equal(t, key.Token.Reveal(), shown.Token.Reveal())
	require.Len(t, p.Mailbox.All(), 1)
	last := p.Mailbox.Last()
	require.Equal(t, "usr_acc_1", last.ActorID)
	require.Equal(t, apikey.ActionReveal, last.Message.About().Action)
	require.Regexp(t, `^[0-9]{6}$`, last.Message.Code())
	require.Contains(t, last.Message.Text(), last.Message.Code())
}

// An enrolment is confirmed with the app's code, which then approves.
func TestApprovalByApp(t *testing.T) {
	p := apikeytest.New(t, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.StepUp = apikey.GuardRevealAndRotate("totp") })
	key := p.Issue("acc_1", apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
	ctx := p.Admin("acc_1")
	enroll := apikey.EnrollRequest{Factor: "totp"}
	enroll.Grant = p.Approve(ctx, enroll)
	app, err := p.Manager.Enroll(ctx, enroll)
	require.NoError(t, err)
	require.NoError(t, p.Manager.ConfirmEnrollment(ctx, "totp", p.Code(app.URI())))
	p.Clock.Move(30 * time.Second)
	request := apikey.RevealRequest{Key: key.Key.ID}
	challenge, err := p.Manager.Challenge(ctx, "totp", request)
	require.NoError(t, err)
	request.Grant, err = p.Manager.Confirm(ctx, challenge.ID, p.Code(app.URI()))
	require.NoError(t, err)
	_, err = p.Manager.Reveal(ctx, request)
	require.NoError(t, err)
}

// What a test sets is what the Program has; a clock and peppers of its own too.
func TestChanges(t *testing.T) {
	store := memstore.New()
	var now time.Time = time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	p := apikeytest.New(t, withCatalog, func(s *apikey.Settings, c *apikey.ManagerConfig) {
		s.Store, s.Prefix, s.Now = store, "acme", func() time.Time { return now }
		c.Limits.LiveKeys = 1
	})
	require.Same(t, store, p.Store)
	k := p.Issue("acc_1", apikey.IssueRequest{Mode: apikey.Live})
	require.Equal(t, now, k.Key.CreatedAt)
	require.Contains(t, k.Token.Reveal(), "acme_sk_live_")
	_, err := p.Manager.Issue(p.Admin("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrLimit)
}

// fatal is a test that records how it failed.
type fatal struct {
	testing.TB
	says string
}

type stopped struct{}

func (f *fatal) Helper() {}
func (f *fatal) Fatalf(format string, args ...any) {
	for _, a := range args {
		if err, is := a.(error); is {
			f.says = err.Error()
		}
	}
	panic(stopped{})
}

// A wrong configuration fails the test, and says why.
func TestAWrongConfigurationFailsTheTest(t *testing.T) {
	f := &fatal{TB: t}
	require.PanicsWithValue(t, stopped{}, func() {
		apikeytest.New(f, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.StepUp = apikey.GuardRevealAndRotate("password") })
	})
	require.Contains(t, f.says, `"password", which is not in ManagerConfig.Factors`)
}
