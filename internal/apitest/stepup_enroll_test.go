package apitest

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
	"github.com/go-apikey/apikey/storetest"
)

// Enrolment: the URI is shown once, and counts when the first code is right.
func TestEnroll(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("totp")))
		req := apikey.EnrollRequest{Factor: "totp"}
		req.Grant = e.approve(f, e.ctx, "email", req)
		enrollment, err := e.manager.Enroll(e.ctx, req)
		require.NoError(t, err)
		u, err := url.Parse(enrollment.URI())
		require.NoError(t, err)
		require.Equal(t, "otpauth", u.Scheme)
		require.Equal(t, "totp", u.Host)
		require.Equal(t, "/Acme:usr_1 (acc_1)", u.Path)
		require.Equal(t, "Acme", u.Query().Get("issuer"))
		require.Len(t, u.Query().Get("secret"), 32, "160 bits")
		f.scan(admin.ID, enrollment)

		rotate := apikey.RotateRequest{Key: e.issue().Key.ID}
		_, err = e.manager.Challenge(e.ctx, "totp", rotate)
		require.ErrorIs(t, err, apikey.ErrNotEnrolled, "it is not confirmed yet")
		enrolled, err := e.manager.Enrolled(e.ctx)
		require.NoError(t, err)
		require.Empty(t, enrolled)
		require.ErrorIs(t, e.manager.ConfirmEnrollment(e.ctx, "totp", "000000"), apikey.ErrWrongAnswer)
		require.NoError(t, e.newManager().ConfirmEnrollment(e.ctx, "totp", f.app(admin.ID)))
		require.ErrorIs(t, e.manager.ConfirmEnrollment(e.ctx, "totp", f.app(admin.ID)), apikey.ErrNotEnrolled, "there is nothing to confirm any more")
		enrolled, err = e.manager.Enrolled(e.ctx)
		require.NoError(t, err)
		require.Equal(t, []string{"totp"}, enrolled)

		c, err := e.manager.Challenge(e.ctx, "totp", rotate)
		require.NoError(t, err)
		_, err = e.manager.Confirm(e.ctx, c.ID, f.app(admin.ID))
		require.ErrorIs(t, err, apikey.ErrWrongAnswer, "the code that confirmed is used")
		e.clock.move(totp.Period)
		_, err = e.manager.Confirm(e.ctx, c.ID, f.app(admin.ID))
		require.NoError(t, err)
		for _, action := range []apikey.Action{apikey.ActionEnroll, apikey.ActionConfirmEnrollment} {
			require.Len(t, e.eventsOf(action), 1, action)
		}
	})
}

// A hijacked session gets no authenticator of its own: neither a first one, nor
// in place of the owner's, nor by taking that away.
func TestHijackedSessionCannotEnroll(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("totp")))
		refused := func(when string) {
			for name, err := range map[string]error{
				"enrol": func() error { _, err := e.manager.Enroll(e.ctx, apikey.EnrollRequest{Factor: "totp"}); return err }(),
				"enrol with a made-up grant": func() error {
					_, err := e.manager.Enroll(e.ctx, apikey.EnrollRequest{Factor: "totp", Grant: apikey.ParseGrant("0123456789012345678901")})
					return err
				}(),
				"disable": e.manager.Disable(e.ctx, apikey.DisableRequest{Factor: "totp"}),
			} {
				require.ErrorIs(t, err, apikey.ErrStepUpRequired, "%s, %s", name, when)
			}
			for name, err := range map[string]error{
				"disable by name":  e.manager.Disable(e.ctx, apikey.DisableRequest{Factor: "totp", Actor: admin.ID}),
				"allow themselves": e.manager.AllowEnrollment(e.ctx, apikey.AllowEnrollmentRequest{Factor: "totp", Actor: admin.ID}),
			} {
				require.ErrorIs(t, err, apikey.ErrForbidden, "%s, %s", name, when)
			}
		}
		refused("before the first")
		e.enroll(f, e.ctx, admin.ID)
		refused("with one")
		seed := f.seeds[admin.ID]

		// A grant for something else does not help, nor one to disable.
		disable := apikey.DisableRequest{Factor: "totp"}
		_, err := e.manager.Enroll(e.ctx, apikey.EnrollRequest{Factor: "totp", Grant: e.approve(f, e.ctx, "totp", disable)})
		require.ErrorIs(t, err, apikey.ErrGrant)
		e.clock.move(totp.Period)

		// Nor does a stolen mailbox or password replace what is stronger.
		for _, factor := range []string{"email", "password"} {
			for _, req := range []apikey.Guarded{disable, apikey.EnrollRequest{Factor: "totp"}} {
				_, err := e.manager.Challenge(e.ctx, factor, req)
				require.ErrorIs(t, err, apikey.ErrInvalid, "%s: %T", factor, req)
			}
		}
		require.Empty(t, f.mails)

		// What was begun and never confirmed changes nothing.
		req := apikey.EnrollRequest{Factor: "totp"}
		req.Grant = e.approve(f, e.ctx, "totp", req)
		enrollment, err := e.manager.Enroll(e.ctx, req)
		require.NoError(t, err)
		f.scan(admin.ID, enrollment)
		e.clock.move(10 * time.Minute)
		require.ErrorIs(t, e.manager.ConfirmEnrollment(e.ctx, "totp", f.app(admin.ID)), apikey.ErrNotEnrolled, "too late")
		f.seeds[admin.ID] = seed
		e.approve(f, e.ctx, "totp", apikey.RotateRequest{Key: e.issue().Key.ID})
	})
}

// Another admin lets somebody enrol who has nothing yet, or has lost it, and
// never sees their seed.
func TestAllowEnrollment(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, func(act apikey.Action, mode apikey.Mode) []string {
			if act == apikey.ActionRotate {
				return []string{"totp"}
			}
			return apikey.GuardForAnother("password")(act, mode)
		}))
		colleague := as("acc_1", "admin")
		allow := apikey.AllowEnrollmentRequest{Factor: "totp", Actor: admin.ID}
		enroll := func() error {
			enrollment, err := e.manager.Enroll(e.ctx, apikey.EnrollRequest{Factor: "totp"})
			if err != nil {
				return err
			}
			f.scan(admin.ID, enrollment)
			err = e.manager.ConfirmEnrollment(e.ctx, "totp", f.app(admin.ID))
			e.clock.move(totp.Period)
			return err
		}
		allowed := func() error { return e.proven(f, colleague, allow) }
		require.NoError(t, allowed())
		e.clock.move(24 * time.Hour)
		require.ErrorIs(t, enroll(), apikey.ErrStepUpRequired, "the permission has expired")
		require.NoError(t, allowed())
		_, err := e.manager.Enroll(colleague, apikey.EnrollRequest{Factor: "totp"})
		require.ErrorIs(t, err, apikey.ErrStepUpRequired, "it is not theirs")
		require.NoError(t, enroll())
		require.ErrorIs(t, enroll(), apikey.ErrStepUpRequired, "it was for once")

		require.NoError(t, e.proven(f, colleague, apikey.DisableRequest{Factor: "totp", Actor: admin.ID}))
		require.NoError(t, e.proven(f, colleague, apikey.DisableRequest{Factor: "totp", Actor: admin.ID}), "again")
		_, err = e.manager.Challenge(e.ctx, "totp", apikey.RotateRequest{Key: e.issue().Key.ID})
		require.ErrorIs(t, err, apikey.ErrNotEnrolled)
		require.NoError(t, e.manager.AllowEnrollment(staff(), apikey.AllowEnrollmentRequest{Factor: "totp", Account: "acc_1", Actor: admin.ID}))
		require.NoError(t, enroll())
		require.Len(t, e.eventsOf(apikey.ActionDisable), 1)
		require.Len(t, e.eventsOf(apikey.ActionAllowEnrollment), 3)
		for name, c := range map[string]struct{ err, want error }{
			"a viewer":        {e.manager.AllowEnrollment(as("acc_1", "viewer"), allow), apikey.ErrForbidden},
			"another account": {e.manager.Disable(as("acc_2", "admin"), apikey.DisableRequest{Factor: "totp", Account: "acc_1", Actor: admin.ID}), apikey.ErrNotFound},
			"nobody":          {e.manager.AllowEnrollment(colleague, apikey.AllowEnrollmentRequest{Factor: "totp"}), apikey.ErrInvalid},
			"not a factor":    {e.manager.AllowEnrollment(colleague, apikey.AllowEnrollmentRequest{Factor: "password", Actor: admin.ID}), apikey.ErrInvalid},
			"a long name":     {e.manager.LiftLock(colleague, apikey.LiftLockRequest{Actor: strings.Repeat("x", 256)}), apikey.ErrInvalid},
		} {
			require.ErrorIs(t, c.err, c.want, name)
		}
	})
}

// A permission that somebody wrote into the database lets nobody enrol.
func TestPermissionCannotBeForged(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	require.NoError(t, e.manager.AllowEnrollment(as("acc_1", "admin"), apikey.AllowEnrollmentRequest{Factor: "totp", Actor: admin.ID}))
	it := e.itemsOf("enrollable")[0]
	it.Version++
	it.ExpiresAt = it.ExpiresAt.AddDate(1, 0, 0)
	require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: [16]byte{1}, Items: []apikey.StoreItem{it}}))
	_, err := e.manager.Enroll(e.ctx, apikey.EnrollRequest{Factor: "totp"})
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)
}

// Where what one admin does for another is guarded, a hijacked session that can
// invite an accomplice gains nothing by it; an operator is the way out.
func TestWhatIsDoneForAnotherCanBeGuarded(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, func(a apikey.Action, _ apikey.Mode) []string {
		switch a {
		case apikey.ActionAllowEnrollment, apikey.ActionDisable, apikey.ActionLiftLock:
			return []string{"totp"}
		}
		return nil
	}))
	e.enroll(f, e.ctx, admin.ID)
	allow := apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "accomplice"}
	disable := apikey.DisableRequest{Factor: "totp", Actor: "accomplice"}
	lift := apikey.LiftLockRequest{Actor: "accomplice"}
	require.ErrorIs(t, e.manager.AllowEnrollment(e.ctx, allow), apikey.ErrStepUpRequired)
	require.ErrorIs(t, e.manager.Disable(e.ctx, disable), apikey.ErrStepUpRequired)
	require.ErrorIs(t, e.manager.LiftLock(e.ctx, lift), apikey.ErrStepUpRequired)
	allow.Grant = e.approve(f, e.ctx, "totp", allow)
	other := allow
	other.Actor = "somebody else"
	require.ErrorIs(t, e.manager.AllowEnrollment(e.ctx, other), apikey.ErrGrant)
	require.NoError(t, e.manager.AllowEnrollment(e.ctx, allow))
	for name, err := range map[string]error{
		"allow":   e.manager.AllowEnrollment(staff(), apikey.AllowEnrollmentRequest{Factor: "totp", Account: "acc_1", Actor: "x"}),
		"disable": e.manager.Disable(staff(), apikey.DisableRequest{Factor: "totp", Account: "acc_1", Actor: "x"}),
		"lift":    e.manager.LiftLock(staff(), apikey.LiftLockRequest{Account: "acc_1", Actor: "x"}),
	} {
		require.NoError(t, err, name)
	}
	require.ErrorIs(t, e.manager.Disable(staff(), apikey.DisableRequest{Factor: "totp"}), apikey.ErrStepUpRequired, "their own is their own")
}

// The answer that confirms an enrolment is charged like any other.
func TestEnrollmentIsNoOracle(t *testing.T) {
	var f *factors
	told := map[apikey.Action]int{}
	e := newEnv(t, withFactors(&f, nil), func(e *env) {
		e.settings.Trace = &apikey.Trace{Denied: func(_ apikey.Actor, act apikey.Action, _ apikey.KeyID, _ error) { told[act]++ }}
	})
	req := apikey.EnrollRequest{Factor: "totp"}
	req.Grant = e.approve(f, e.ctx, "password", req)
	_, err := e.manager.Enroll(e.ctx, req)
	require.NoError(t, err)
	for range 10 {
		require.ErrorIs(t, e.manager.ConfirmEnrollment(e.ctx, "totp", "123456"), apikey.ErrWrongAnswer)
	}
	require.ErrorIs(t, e.manager.ConfirmEnrollment(e.ctx, "totp", "123456"), apikey.ErrTooManyAttempts)
	require.Equal(t, map[apikey.Action]int{apikey.ActionConfirmEnrollment: 10}, told, "whoever guesses is seen, and what they guess at")
}

// Of a sealed seed, no bit can be turned, nothing cut or added, and no row put
// in place of another's.
func TestSealedSeedIsBoundToItsRow(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("totp")))
	e.enroll(f, e.ctx, admin.ID)
	colleague := as("acc_1", "admin")
	e.enroll(f, colleague, "usr_of_acc_1")
	rows := e.itemsOf("enrolled")
	require.Len(t, rows, 2)
	mine := rows[0]
	req := apikey.RotateRequest{Key: e.issue().Key.ID}
	actors := []context.Context{e.ctx, colleague}
	opens := func(data []byte) bool {
		t.Helper()
		now := e.itemsOf("enrolled")[0]
		now.Version++
		now.Data = data
		require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{now}}))
		open := 0
		for _, ctx := range actors {
			_, err := e.manager.Challenge(ctx, "totp", req)
			if err == nil {
				open++
				e.clock.move(11 * time.Minute) // it does not wait for an answer
				continue
			}
			require.ErrorIs(t, err, apikey.ErrCorrupt)
		}
		require.Positive(t, open, "the other's is as it was")
		return open == 2
	}
	require.True(t, opens(mine.Data), "as it was it opens")
	tried, open := 0, 0
	try := func(data []byte) {
		tried++
		if opens(data) {
			open++
		}
	}
	for bit := range len(mine.Data) * 8 {
		data := append([]byte(nil), mine.Data...)
		data[bit/8] ^= 1 << (bit % 8)
		try(data)
	}
	for n := range len(mine.Data) {
		try(mine.Data[:n])
	}
	try(append(append([]byte(nil), mine.Data...), 0))
	try(rows[1].Data)
	t.Logf("%d changes of a sealed seed of %d bytes: %d open", tried, len(mine.Data), open)
	require.Zero(t, open)
	require.True(t, opens(mine.Data))
}

// Whoever has stolen a session and a phone answers challenges ahead. When somebody else
// then takes the factor away, these grants are worth nothing: they neither rotate a key
// nor enrol the thief's own phone.
func TestATakenFactorApprovesNothing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		for _, other := range []string{"totp", "password"} { // the factor of the grants
			var f *factors
			e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("totp", "password")))
			e.enroll(f, e.ctx, admin.ID)
			rotate, enroll := apikey.RotateRequest{Key: e.issue().Key.ID}, apikey.EnrollRequest{Factor: "totp"}
			rotate.Grant = e.approve(f, e.ctx, other, rotate)
			e.clock.move(totp.Period)
			enroll.Grant = e.approve(f, e.ctx, "totp", enroll)
			require.NoError(t, e.manager.Disable(staff(), apikey.DisableRequest{Factor: "totp", Account: admin.Account, Actor: admin.ID}))
			_, err := e.manager.Enroll(e.ctx, enroll)
			var ask *apikey.ChallengeError
			require.ErrorAs(t, err, &ask)
			require.NotContains(t, ask.Factors, "totp")
			_, err = e.manager.Rotate(e.ctx, rotate)
			if other == "password" {
				require.NoError(t, err)
				continue
			}
			require.ErrorAs(t, err, &ask)
			require.Equal(t, []string{"password"}, ask.Factors)
			require.Len(t, e.eventsOf(apikey.ActionEnroll), 1)
		}
	})
}
