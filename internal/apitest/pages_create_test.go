package apitest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// Xendit: public keys are there from the start, secret ones are made with a
// level for each product. The password stands before making and deleting one,
// with an exception of ours: nobody is asked to find their password while a key is
// being abused.
func TestPageXendit(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardCreateAndDelete("password")))
		typed := func() string { return password }
		create := func(t *testing.T, req apikey.IssueRequest) apikey.Issued {
			t.Helper()
			var err error
			req.Grant, err = e.ask("password", req, typed)
			require.NoError(t, err)
			issued, err := e.manager.Issue(e.ctx, req)
			require.NoError(t, err)
			return issued
		}
		can := func(token apikey.Token, need apikey.Ability, publishable bool) error {
			_, err := e.verifier.Verify(background, token.Reveal(), apikey.Request{Require: []apikey.Ability{need}, AllowPublishable: publishable})
			return err
		}
		restricted := apikey.IssueRequest{Mode: apikey.Live, Name: "Microservice", Abilities: []string{"balance=read", "payment:checkout"}}
		var key, unused apikey.Issued

		step(t, "a new account has a public key for each mode and no secret one", func(t *testing.T) {
			public, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}})
			require.NoError(t, err)
			require.Equal(t, apikey.Live, public.Live.Key.Mode)
			require.Equal(t, apikey.Test, public.Test.Key.Mode)
			list, err := e.manager.List(e.ctx, apikey.ListRequest{Kind: apikey.Secret})
			require.NoError(t, err)
			require.Empty(t, list.Keys)
			require.NoError(t, can(public.Live.Token, apikey.Scope("card:tokenise"), true))
			require.ErrorIs(t, can(public.Live.Token, apikey.Scope("payment:checkout"), true), apikey.ErrAbility)
			require.ErrorIs(t, can(public.Live.Token, apikey.Scope("card:tokenise"), false), apikey.ErrKind)
		})
		step(t, "a secret key is not made without the password, nor with a wrong one", func(t *testing.T) {
			_, err := e.manager.Issue(e.ctx, restricted)
			wantFactors(t, err, apikey.ActionIssue, "password")
			_, err = e.ask("password", restricted, func() string { return "a guess" })
			require.ErrorIs(t, err, apikey.ErrWrongAnswer)
			list, err := e.manager.List(e.ctx, apikey.ListRequest{Kind: apikey.Secret})
			require.NoError(t, err)
			require.Empty(t, list.Keys)
		})
		step(t, "with it the key is made, and may do what was chosen: read, and nothing of the rest", func(t *testing.T) {
			key = create(t, restricted)
			require.NoError(t, can(key.Token, apikey.Access{Product: "balance", Level: apikey.Read}, false))
			require.ErrorIs(t, can(key.Token, apikey.Access{Product: "balance", Level: apikey.Write}, false), apikey.ErrAbility)
			require.ErrorIs(t, can(key.Token, apikey.Access{Product: "rates", Level: apikey.Read}, false), apikey.ErrAbility)
		})
		step(t, "write is read too", func(t *testing.T) {
			unused = create(t, apikey.IssueRequest{Mode: apikey.Live, Name: "Old", Abilities: []string{"balance=write"}, RotateMonths: 6})
			key, err := e.newVerifier(func(c *verifierConfig) { c.ReadOnly = true }).Verify(background, unused.Token.Reveal(), apikey.Request{})
			require.NoError(t, err)
			require.True(t, key.Can(apikey.Access{Product: "balance", Level: apikey.Read}, apikey.Access{Product: "balance", Level: apikey.Write}))
		})
		step(t, "a test key does nothing in live mode", func(t *testing.T) {
			trial := restricted
			trial.Mode = apikey.Test
			require.ErrorIs(t, e.verify(create(t, trial).Token), apikey.ErrMode)
		})
		step(t, "last used shows which key nobody uses", func(t *testing.T) {
			v := e.newVerifier()
			_, err := v.Verify(background, key.Token.Reveal(), apikey.Request{})
			require.NoError(t, err)
			require.NoError(t, v.Close(background))
			list, err := e.manager.List(e.ctx, apikey.ListRequest{Mode: apikey.Live, Kind: apikey.Secret, NeverUsed: true})
			require.NoError(t, err)
			require.Len(t, list.Keys, 1)
			require.Equal(t, unused.Key.ID, list.Keys[0].ID)
		})
		step(t, "every six or twelve months a key is due", func(t *testing.T) {
			for months, want := range map[int]int{5: 0, 6: 1} {
				list, err := e.manager.List(e.ctx, apikey.ListRequest{DueBefore: e.clock.now().AddDate(0, months, 0)})
				require.NoError(t, err)
				require.Len(t, list.Keys, want, "%d months", months)
			}
		})
		step(t, "deleting it wants the password", func(t *testing.T) {
			req := apikey.RevokeRequest{Key: unused.Key.ID, Reason: apikey.ReasonUnused}
			err := e.manager.Revoke(e.ctx, req)
			wantFactors(t, err, apikey.ActionRevoke, "password")
			require.NoError(t, e.verify(unused.Token))
			req.Grant, err = e.ask("password", req, typed)
			require.NoError(t, err)
			require.NoError(t, e.manager.Revoke(e.ctx, req))
			require.ErrorIs(t, e.verify(unused.Token), apikey.ErrRevoked)
		})
		step(t, "an approval to delete for one reason is none for another", func(t *testing.T) {
			next := create(t, restricted)
			req := apikey.RevokeRequest{Key: next.Key.ID, Reason: apikey.ReasonSuperseded}
			grant, err := e.ask("password", req, typed)
			require.NoError(t, err)
			err = e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: next.Key.ID, Reason: "leaving", Grant: grant})
			require.ErrorIs(t, err, apikey.ErrGrant)
			require.NoError(t, e.verify(next.Token))
		})
		step(t, "a breach: a new key is made and used, and the compromised one goes at once, without the password", func(t *testing.T) {
			next := create(t, restricted)
			require.NoError(t, e.verify(next.Token))
			f.fail(errors.New("sign-in is down"))
			require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID, Reason: apikey.ReasonCompromised}))
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
			require.NoError(t, e.verify(next.Token))
		})
	})
}

// A page under developer options: the account has to be approved and the product
// enabled, only superadmins and admins see it, a key for each product is made
// with a PIN, and is listed there to be looked at again.
func TestPageHowToSetUpAPIKey(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		const pin = "271828"
		approved, enabled := false, false
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardIssueAndReveal("pin")), func(e *env) {
			byPIN, err := apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) { return answer == pin, nil })
			require.NoError(t, err)
			e.mc.Factors = map[string]apikey.Factor{"pin": byPIN}
			e.settings.Standing = standing(func(string, apikey.Mode) error {
				if !approved {
					return errors.New("onboarding is not finished")
				}
				return nil
			})
			e.mc.Products = func(_ string, _ apikey.Mode, a apikey.Ability) error {
				if !enabled {
					return errors.New(a.String() + " is not enabled")
				}
				return nil
			}
		})
		typed := func() string { return pin }
		generate := apikey.IssueRequest{Mode: apikey.Live, Name: "Refunds", Abilities: []string{"payment:refund"}, Recoverable: true}
		var key apikey.Issued

		step(t, "an account that is not approved gets no key, and is not asked for a PIN", func(t *testing.T) {
			_, err := e.manager.Challenge(e.ctx, "pin", generate)
			require.ErrorIs(t, err, apikey.ErrStanding)
			approved = true
		})
		step(t, "nor one for a product that is not enabled", func(t *testing.T) {
			_, err := e.manager.Challenge(e.ctx, "pin", generate)
			require.ErrorIs(t, err, apikey.ErrStanding)
			enabled = true
			req := generate
			req.Grant, err = e.ask("pin", req, typed)
			require.NoError(t, err)
			enabled = false
			_, err = e.manager.Issue(e.ctx, req)
			require.ErrorIs(t, err, apikey.ErrStanding)
			enabled = true
			_, err = e.manager.Issue(e.ctx, req) // what was refused has not spent the grant
			require.NoError(t, err)
		})
		step(t, "other roles do not see the page", func(t *testing.T) {
			for _, role := range []string{"viewer", "finance", ""} {
				_, err := e.manager.List(as("acc_1", role), apikey.ListRequest{})
				require.ErrorIs(t, err, apikey.ErrForbidden, role)
				_, err = e.manager.Challenge(as("acc_1", role), "pin", generate)
				require.ErrorIs(t, err, apikey.ErrForbidden, role)
			}
			for _, role := range []string{"superadmin", "admin"} {
				_, err := e.manager.List(as("acc_1", role), apikey.ListRequest{})
				require.NoError(t, err, role)
			}
		})
		step(t, "a key is generated for a product once the PIN is right", func(t *testing.T) {
			_, err := e.manager.Issue(e.ctx, generate)
			wantFactors(t, err, apikey.ActionIssue, "pin")
			_, err = e.ask("pin", generate, func() string { return "271829" })
			require.ErrorIs(t, err, apikey.ErrWrongAnswer)
			generate.Grant, err = e.ask("pin", generate, typed)
			require.NoError(t, err)
			key, err = e.manager.Issue(e.ctx, generate)
			require.NoError(t, err)
		})
		step(t, "it works at once", func(t *testing.T) {
			require.NoError(t, e.verify(key.Token))
		})
		step(t, "and is listed with the others of the account", func(t *testing.T) {
			list, err := e.manager.List(e.ctx, apikey.ListRequest{})
			require.NoError(t, err)
			require.Len(t, list.Keys, 2)
			require.Equal(t, key.Key.ID, list.Keys[0].ID)
			require.True(t, list.Keys[0].Recoverable)
		})
		step(t, "it is looked at again another day, with the PIN", func(t *testing.T) {
			e.clock.move(24 * time.Hour)
			again := apikey.RevealRequest{Key: key.Key.ID}
			_, err := e.manager.Reveal(e.ctx, again)
			wantFactors(t, err, apikey.ActionReveal, "pin")
			again.Grant, err = e.ask("pin", again, typed)
			require.NoError(t, err)
			shown, err := e.manager.Reveal(e.ctx, again)
			require.NoError(t, err)
			require.Equal(t, key.Token.Reveal(), shown.Token.Reveal())
		})
		step(t, "one who may not see the page cannot look with an admin's approval either", func(t *testing.T) {
			again := apikey.RevealRequest{Key: key.Key.ID}
			var err error
			again.Grant, err = e.ask("pin", again, typed)
			require.NoError(t, err)
			_, err = e.manager.Reveal(as("acc_1", "viewer"), again)
			require.ErrorIs(t, err, apikey.ErrForbidden)
			_, err = e.manager.Reveal(as("acc_1", "admin"), again)
			require.ErrorIs(t, err, apikey.ErrGrant, "another admin's approval")
		})
		step(t, "it is generated anew: the old one ends", func(t *testing.T) {
			next, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID})
			require.NoError(t, err)
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrCredentialEnded)
			require.NoError(t, e.verify(next.Token))
		})
	})
}
