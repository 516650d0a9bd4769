package apitest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// The key pages of five products, followed step by step. What a page calls
// client ID, App ID or key is a Key; what it calls secret is that Key's token.

// step is one thing that a person does on a page, or that the page promises.
// Each stands on those before it.
func step(t *testing.T, name string, do func(t *testing.T)) {
	t.Helper()
	if !t.Run(name, do) {
		t.FailNow()
	}
}

// wantFactors is the refusal from which a page learns what to ask for.
func wantFactors(t *testing.T, err error, action apikey.Action, factors ...string) {
	t.Helper()
	var c *apikey.ChallengeError
	require.ErrorAs(t, err, &c)
	require.Equal(t, action, c.Action)
	require.Equal(t, factors, c.Factors)
}

// ask puts a challenge and answers it.
func (e *env) ask(factor string, req apikey.Guarded, answer func() string) (apikey.Grant, error) {
	c, err := e.manager.Challenge(e.ctx, factor, req)
	if err != nil {
		return apikey.Grant{}, err
	}
	return e.manager.Confirm(e.ctx, c.ID, answer())
}

// wrongCode is of the right form.
func wrongCode(right string) func() string {
	return func() string { return string('0'+(right[0]-'0'+1)%10) + right[1:] }
}

// logOf is what an account's activity log says: actor, action, outcome.
func (e *env) logOf(t *testing.T) (lines []string) {
	t.Helper()
	page, err := e.manager.Events(e.ctx, apikey.EventsRequest{})
	require.NoError(t, err)
	for _, ev := range page.Events { // newest first
		lines = append([]string{fmt.Sprint(ev.Actor.ID, " ", ev.Action, " ", ev.Outcome)}, lines...)
	}
	return lines
}

// DOKU: an account has a client ID for ever and a secret key, which can be shown
// for thirty seconds and regenerated, now or at a time, with a code by mail. The
// page shows a regenerated key before the time is chosen; here the time is part
// of what the code approves, so that it cannot be approved for next week and
// used at once. The two public keys of the page are no API keys.
func TestPageDOKU(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRevealAndRotate("email")))
		secret := e.issue(func(r *apikey.IssueRequest) { r.Recoverable, r.RotateMonths = true, 3 })
		client := secret.Key.ID
		current := secret.Token
		reveal := apikey.RevealRequest{Key: client}

		step(t, "the page shows the client ID and four characters of the secret", func(t *testing.T) {
			info, err := e.manager.Get(e.ctx, client)
			require.NoError(t, err)
			require.Equal(t, current.Hint(), info.Credentials.At(0).Hint)
			require.NotContains(t, fmt.Sprintf("%+v", info), current.Reveal())
		})
		step(t, "revealing wants a code first", func(t *testing.T) {
			_, err := e.manager.Reveal(e.ctx, reveal)
			wantFactors(t, err, apikey.ActionReveal, "email")
		})
		step(t, "six digits are mailed to whoever asked, and wrong ones show nothing", func(t *testing.T) {
			c, err := e.manager.Challenge(e.ctx, "email", reveal)
			require.NoError(t, err)
			require.Equal(t, admin.ID, f.mails[0].to)
			grant, err := e.manager.Confirm(e.ctx, c.ID, wrongCode(f.code())())
			require.ErrorIs(t, err, apikey.ErrWrongAnswer)
			require.True(t, grant.IsZero())
			reveal.Grant, err = e.manager.Confirm(e.ctx, c.ID, f.code())
			require.NoError(t, err)
		})
		step(t, "the secret can be seen and copied for thirty seconds", func(t *testing.T) {
			shown, err := e.manager.Reveal(e.ctx, reveal)
			require.NoError(t, err)
			require.Equal(t, current.Reveal(), shown.Token.Reveal())
			require.Equal(t, 30*time.Second, shown.HideAfter)
		})
		step(t, "to see it once more wants another code", func(t *testing.T) {
			_, err := e.manager.Reveal(e.ctx, reveal)
			require.ErrorIs(t, err, apikey.ErrGrant)
		})

		step(t, "regenerated at once, the old secret is disrupted", func(t *testing.T) {
			rotate := apikey.RotateRequest{Key: client}
			_, err := e.manager.Rotate(e.ctx, rotate)
			wantFactors(t, err, apikey.ActionRotate, "email")
			rotate.Grant, err = e.ask("email", rotate, f.code)
			require.NoError(t, err)
			require.NoError(t, e.verify(current), "a code alone changes nothing")
			next, err := e.manager.Rotate(e.ctx, rotate)
			require.NoError(t, err)
			require.ErrorIs(t, e.verify(current), apikey.ErrCredentialEnded)
			require.NoError(t, e.verify(next.Token))
			require.Equal(t, client, next.Key.ID)
			current = next.Token
		})
		step(t, "regenerated for a specific time, the old one works until then", func(t *testing.T) {
			saturday := e.clock.now().Add(5 * 24 * time.Hour)
			rotate := apikey.RotateRequest{Key: client, At: saturday}
			grant, err := e.ask("email", rotate, f.code)
			require.NoError(t, err)
			_, err = e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: client, Grant: grant})
			require.ErrorIs(t, err, apikey.ErrGrant, "approved for Saturday, used now")
			rotate.Grant = grant
			next, err := e.manager.Rotate(e.ctx, rotate)
			require.NoError(t, err)
			require.Equal(t, client, next.Key.ID)

			require.NoError(t, e.verify(current))
			require.ErrorIs(t, e.verify(next.Token), apikey.ErrNotYetValid)
			e.clock.move(saturday.Add(-time.Minute).Sub(e.clock.now()))
			require.NoError(t, e.verify(current))
			require.ErrorIs(t, e.verify(next.Token), apikey.ErrNotYetValid)
			e.clock.move(2 * time.Minute)
			require.ErrorIs(t, e.verify(current), apikey.ErrCredentialEnded)
			require.NoError(t, e.verify(next.Token))
			current = next.Token
		})
		step(t, "from then on the new one is revealed, under the same client ID", func(t *testing.T) {
			again := apikey.RevealRequest{Key: client}
			var err error
			again.Grant, err = e.ask("email", again, f.code)
			require.NoError(t, err)
			shown, err := e.manager.Reveal(e.ctx, again)
			require.NoError(t, err)
			require.Equal(t, current.Reveal(), shown.Token.Reveal())
			key, err := e.verifier.Verify(background, current.Reveal(), apikey.Request{})
			require.NoError(t, err)
			require.Equal(t, client, key.Info().ID)
		})
		step(t, "every few months the page reminds", func(t *testing.T) {
			due := apikey.ListRequest{DueBefore: e.clock.now()}
			list, err := e.manager.List(e.ctx, due)
			require.NoError(t, err)
			require.Empty(t, list.Keys)
			due.DueBefore = due.DueBefore.AddDate(0, 3, 0)
			list, err = e.manager.List(e.ctx, due)
			require.NoError(t, err)
			require.Len(t, list.Keys, 1)
		})
		step(t, "the activity log has every change and every look", func(t *testing.T) {
			require.Equal(t, []string{
				"usr_1 key.issue done",
				"usr_1 challenge.confirm done", "usr_1 key.reveal done",
				"usr_1 challenge.confirm done", "usr_1 key.rotate done",
				"usr_1 challenge.confirm done", "usr_1 key.rotate done",
				"usr_1 challenge.confirm done", "usr_1 key.reveal done",
			}, e.logOf(t))
			report, err := e.manager.VerifyEvents(e.ctx, client)
			require.NoError(t, err)
			require.Nil(t, report.Broken)
			require.Equal(t, 5, report.Events)
		})
	})
}

// UddoktaPay: keys with a name, abilities, an end and a switch; each is shown
// once, edited freely, and nothing has to be proved again.
func TestPageUddoktaPay(t *testing.T) {
	checkout, verify, refund := apikey.Scope("payment:checkout"), apikey.Scope("payment:verify"), apikey.Scope("payment:refund")
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		can := func(token apikey.Token, a apikey.Ability) error {
			_, err := e.verifier.Verify(background, token.Reveal(), apikey.Request{Require: []apikey.Ability{a}})
			return err
		}
		var key apikey.Issued
		edit := func(t *testing.T, change func(*apikey.UpdateRequest)) apikey.Info {
			req := apikey.UpdateRequest{Key: key.Key.ID}
			change(&req)
			info, err := e.manager.Update(e.ctx, req)
			require.NoError(t, err)
			return info
		}

		step(t, "a key is made with a name and two abilities, without an end, switched on", func(t *testing.T) {
			var err error
			key, err = e.manager.Issue(e.ctx, apikey.IssueRequest{
				Mode: apikey.Live, Name: "Production Website", Abilities: []string{"payment:checkout", "payment:verify"},
			})
			require.NoError(t, err)
			require.Equal(t, apikey.Active, key.Key.State)
			require.True(t, key.Key.ExpiresAt.IsZero())
			require.NoError(t, can(key.Token, checkout))
			require.NoError(t, can(key.Token, verify))
			require.ErrorIs(t, can(key.Token, refund), apikey.ErrAbility)
		})
		step(t, "the window that showed it is closed: nothing shows it again", func(t *testing.T) {
			_, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID})
			require.ErrorIs(t, err, apikey.ErrNotRecoverable)
			r, err := e.store.Get(background, key.Key.ID)
			require.NoError(t, err)
			require.NotContains(t, fmt.Sprintf("%+v", r), key.Token.Reveal())
			require.Empty(t, r.Credentials[0].Sealed)
		})
		step(t, "a lost key is replaced by another one, and deleted", func(t *testing.T) {
			lost := key
			var err error
			key, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:checkout"}})
			require.NoError(t, err)
			require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: lost.Key.ID}))
			require.ErrorIs(t, e.verify(lost.Token), apikey.ErrRevoked)
			require.NoError(t, e.verify(key.Token))
		})
		step(t, "renamed, it is the same key", func(t *testing.T) {
			info := edit(t, func(r *apikey.UpdateRequest) { r.Name = apikey.Set("Shop") })
			require.Equal(t, "Shop", info.Name)
			require.NoError(t, can(key.Token, checkout))
		})
		step(t, "abilities are added and taken away without another key", func(t *testing.T) {
			edit(t, func(r *apikey.UpdateRequest) {
				r.Abilities = apikey.Set([]string{"payment:checkout", "payment:verify", "payment:refund"})
			})
			require.NoError(t, can(key.Token, verify))
			require.NoError(t, can(key.Token, refund))
			edit(t, func(r *apikey.UpdateRequest) {
				r.Abilities = apikey.Set([]string{"payment:checkout", "payment:verify"})
			})
			require.ErrorIs(t, can(key.Token, refund), apikey.ErrAbility)
		})
		step(t, "switched off it is refused, switched on it is back", func(t *testing.T) {
			edit(t, func(r *apikey.UpdateRequest) { r.Disabled = apikey.Set(true) })
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrSuspended)
			edit(t, func(r *apikey.UpdateRequest) { r.Disabled = apikey.Set(false) })
			require.NoError(t, e.verify(key.Token))
		})
		step(t, "a key can be made switched off", func(t *testing.T) {
			off := e.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
			require.ErrorIs(t, e.verify(off.Token), apikey.ErrSuspended)
		})
		step(t, "with an end it stops by itself, and an end can be moved or cleared", func(t *testing.T) {
			end := e.clock.now().AddDate(0, 1, 0)
			edit(t, func(r *apikey.UpdateRequest) { r.ExpiresAt = apikey.Set(end) })
			end = end.AddDate(0, 1, 0)
			edit(t, func(r *apikey.UpdateRequest) { r.ExpiresAt = apikey.Set(end) })
			e.clock.move(end.Add(-time.Second).Sub(e.clock.now()))
			require.NoError(t, e.verify(key.Token))
			e.clock.move(time.Second)
			require.ErrorIs(t, e.verify(key.Token), apikey.ErrExpired)
			edit(t, func(r *apikey.UpdateRequest) { r.ExpiresAt = apikey.Clear[time.Time]() })
			require.NoError(t, e.verify(key.Token))
		})
		step(t, "all of it was done by one token that never changed", func(t *testing.T) {
			info, err := e.manager.Get(e.ctx, key.Key.ID)
			require.NoError(t, err)
			require.Equal(t, 1, info.Credentials.Len())
			require.Equal(t, key.Token.Credential(), info.Credential)
		})
	})
}

// Okto: an App ID that everybody may see and an App Secret that nobody keeps, a
// pair for each environment. The App ID is there first, so the program issues
// the key and shows its first token to nobody. Getting the secret is a rotation
// then, and so is resetting it.
func TestPageOkto(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")))
		signIn := func() string { return password }
		pair := func(m apikey.Mode) apikey.Issued { return e.issue(func(r *apikey.IssueRequest) { r.Mode = m }) }
		app, sandbox := pair(apikey.Live), pair(apikey.Test)
		var secret apikey.Token

		step(t, "the App ID is on the page, to be copied by anybody who may see it", func(t *testing.T) {
			list, err := e.manager.List(e.ctx, apikey.ListRequest{Mode: apikey.Live})
			require.NoError(t, err)
			require.Len(t, list.Keys, 1)
			require.Equal(t, app.Key.ID, list.Keys[0].ID)
			_, err = e.verifier.Verify(background, app.Key.ID.String(), apikey.Request{})
			require.ErrorIs(t, err, apikey.ErrInvalidToken, "it is no secret and proves nothing")
		})
		step(t, "getting the App Secret wants a fresh sign-in", func(t *testing.T) {
			get := apikey.RotateRequest{Key: app.Key.ID}
			_, err := e.manager.Rotate(e.ctx, get)
			wantFactors(t, err, apikey.ActionRotate, "password")
			_, err = e.ask("password", get, func() string { return "a guess" })
			require.ErrorIs(t, err, apikey.ErrWrongAnswer)
			get.Grant, err = e.ask("password", get, signIn)
			require.NoError(t, err)
			shown, err := e.manager.Rotate(e.ctx, get)
			require.NoError(t, err)
			require.Equal(t, app.Key.ID, shown.Key.ID)
			secret = shown.Token
			require.NoError(t, e.verify(secret))
		})
		step(t, "nobody keeps it", func(t *testing.T) {
			_, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: app.Key.ID})
			require.ErrorIs(t, err, apikey.ErrNotRecoverable)
			r, err := e.store.Get(background, app.Key.ID)
			require.NoError(t, err)
			require.NotContains(t, fmt.Sprintf("%+v", r), secret.Reveal())
			require.Empty(t, r.Credentials[0].Sealed)
		})
		step(t, "each environment has a pair of its own, and says which it is", func(t *testing.T) {
			require.NotEqual(t, app.Key.ID, sandbox.Key.ID)
			require.Equal(t, apikey.Test, sandbox.Key.Mode)
			require.ErrorIs(t, e.verify(sandbox.Token), apikey.ErrMode)
		})
		step(t, "lost or misused, it is reset: the old one is dead, the App ID stays", func(t *testing.T) {
			reset := apikey.RotateRequest{Key: app.Key.ID}
			_, err := e.manager.Rotate(e.ctx, reset)
			wantFactors(t, err, apikey.ActionRotate, "password")
			reset.Grant, err = e.ask("password", reset, signIn)
			require.NoError(t, err)
			next, err := e.manager.Rotate(e.ctx, reset)
			require.NoError(t, err)
			require.ErrorIs(t, e.verify(secret), apikey.ErrCredentialEnded)
			key, err := e.verifier.Verify(background, next.Token.Reveal(), apikey.Request{})
			require.NoError(t, err)
			require.Equal(t, app.Key.ID, key.Info().ID)
		})
		step(t, "the other environment noticed nothing", func(t *testing.T) {
			tests := e.newVerifier(func(c *verifierConfig) { c.Mode = apikey.Test })
			_, err := tests.Verify(background, sandbox.Token.Reveal(), apikey.Request{})
			require.NoError(t, err)
		})
	})
}
