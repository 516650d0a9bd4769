package apitest

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/apikeytest"
	"github.com/go-apikey/apikey/memstore"
)

// settingsOf is called by every process of the program, with the same secrets.
func settingsOf(store apikey.Store, peppers string) (apikey.Settings, error) {
	parsed, err := apikey.ParsePeppers(peppers) // the text of a file: apikey.ReadSecretFile
	if err != nil {
		return apikey.Settings{}, err
	}
	hasher, err := apikey.NewHMACSHA256(parsed...)
	return apikey.Settings{
		Store: store, Prefix: "acme", Catalog: catalog,
		Peppers: parsed, Hashers: []apikey.Hasher{hasher},
	}, err
}

// startKeyPage is for the process that manages keys. If it serves the API too, it makes
// its Verifiers with manager.NewVerifier.
func startKeyPage(ctx context.Context, s apikey.Settings) (*apikey.Manager, error) {
	return apikey.NewManager(ctx, s, apikey.ManagerConfig{})
}

// startAPI is for a process that only verifies. Close the Verifier when the process ends.
func startAPI(ctx context.Context, s apikey.Settings) (*apikey.Verifier, error) {
	return apikey.NewVerifier(ctx, s, apikey.VerifierConfig{Mode: apikey.Live})
}

// createOnce makes a key, or gives a new token to the key that the same form has made
// already. again says that it did: the page shows "Your key was made before; this is a new
// token for it".
func createOnce(ctx context.Context, m *apikey.Manager, req apikey.IssueRequest) (
	issued apikey.Issued, again bool, err error,
) {
	issued, err = m.Issue(ctx, req)
	if !errors.Is(err, apikey.ErrAlreadyIssued) {
		return issued, false, err
	}
	if issued.Key.Kind == apikey.Publishable || issued.Key.Recoverable {
		return issued, true, nil // the token can be shown again: Credentials, or Manager.Reveal
	}
	// The token that nobody has ends.
	issued, err = m.Rotate(ctx, apikey.RotateRequest{Key: issued.Key.ID})
	return issued, true, err
}

// allowFirstApp lets a person of an account set up one authenticator app within 24 hours.
// supporter works for the platform, and has checked who the person is.
func allowFirstApp(ctx context.Context, m *apikey.Manager, supporter, account, person string) error {
	ctx = apikey.WithActor(ctx, apikey.Operator(supporter))
	return m.AllowEnrollment(ctx, apikey.AllowEnrollmentRequest{
		Factor: "totp", Account: account, Actor: person,
	})
}

// setUpApp is what the page of that person then does, in two steps.
func setUpApp(ctx context.Context, m *apikey.Manager, show func(uri string) (code string)) error {
	enrollment, err := m.Enroll(ctx, apikey.EnrollRequest{Factor: "totp"})
	if err != nil {
		return err
	}
	return m.ConfirmEnrollment(ctx, "totp", show(enrollment.URI())) // show it as a QR code
}

// buttonsOf lists what this person can do to a key, for one row of the page. k is from
// Manager.List.
func buttonsOf(ctx context.Context, m *apikey.Manager, k apikey.Info) (buttons []apikey.Action) {
	for _, action := range []apikey.Action{
		apikey.ActionUpdate, apikey.ActionRotate, apikey.ActionReveal, apikey.ActionSuspend,
		apikey.ActionResume, apikey.ActionRevoke,
	} {
		if m.May(ctx, action, k) == nil {
			buttons = append(buttons, action)
		}
	}
	return buttons
}

func TestRecipes(t *testing.T) {
	t.Run("a process that only verifies", func(t *testing.T) {
		store, text := memstore.New(), hex.EncodeToString([]byte("0123456789abcdef0123456789ABCDEF"))
		s, err := settingsOf(store, text)
		require.NoError(t, err)
		m, err := startKeyPage(t.Context(), s)
		require.NoError(t, err)
		k, err := m.Issue(as("acc_1", "admin"), apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		v, err := startAPI(t.Context(), s)
		require.NoError(t, err)
		defer v.Close(background)
		require.NoError(t, verifyBy(v, k.Token))

		other, err := settingsOf(store, "2:"+strings.Repeat("ab", 32))
		require.NoError(t, err)
		_, err = startAPI(t.Context(), other)
		require.ErrorIs(t, err, apikey.ErrPepper)
		_, err = settingsOf(store, text[:62])
		require.ErrorIs(t, err, apikey.ErrInvalid)
	})
	t.Run("a request that is sent twice", func(t *testing.T) {
		p := apikeytest.New(t)
		for name, req := range map[string]apikey.IssueRequest{
			"shown once": {}, "recoverable": {Recoverable: true}, "publishable": {Kind: apikey.Publishable},
		} {
			req.Mode, req.IdempotencyKey = apikey.Live, name
			first, again, err := createOnce(p.Admin("acc_1"), p.Manager, req)
			require.NoError(t, err, name)
			require.False(t, again, name)
			second, again, err := createOnce(p.Admin("acc_1"), p.Manager, req)
			require.NoError(t, err, name)
			require.True(t, again, name)
			require.Equal(t, first.Key.ID, second.Key.ID, name)
			_, err = p.Live.Verify(background, first.Token.Reveal(), apikey.Request{AllowPublishable: true})
			if name != "shown once" {
				require.NoError(t, err, name)
				continue
			}
			require.ErrorIs(t, err, apikey.ErrCredentialEnded, name)
			require.NoError(t, verifyBy(p.Live, second.Token), name)
		}
		_, _, err := createOnce(p.Admin("acc_1"), p.Manager, apikey.IssueRequest{Mode: apikey.Live, Name: "other", IdempotencyKey: "shown once"})
		require.ErrorIs(t, err, apikey.ErrIdempotencyMismatch)
	})
	t.Run("only the buttons that work", func(t *testing.T) {
		p := apikeytest.New(t)
		ctx := p.Admin("acc_1")
		k, err := p.Manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		require.Equal(t, []apikey.Action{apikey.ActionUpdate, apikey.ActionRotate, apikey.ActionSuspend, apikey.ActionResume, apikey.ActionRevoke}, buttonsOf(ctx, p.Manager, k.Key))
		require.Empty(t, buttonsOf(as("acc_1", "viewer"), p.Manager, k.Key))
		require.Empty(t, buttonsOf(p.Admin("acc_2"), p.Manager, k.Key))
	})
	t.Run("one admin alone", func(t *testing.T) {
		p := apikeytest.New(t, func(_ *apikey.Settings, c *apikey.ManagerConfig) {
			c.StepUp = apikey.GuardRevealAndRotate("totp")
			delete(c.Factors, "email")
		})
		scan := func(uri string) string {
			require.Contains(t, uri, "otpauth://")
			return p.Code(uri)
		}
		admin := p.Admin("acc_1")
		err := setUpApp(admin, p.Manager, scan)
		var asked *apikey.ChallengeError
		require.ErrorAs(t, err, &asked)
		require.True(t, asked.ByAnother)
		require.NoError(t, allowFirstApp(background, p.Manager, "support_1", "acc_1", "usr_acc_1"))
		require.NoError(t, setUpApp(admin, p.Manager, scan))
	})
}

// The Go that docs/recipes.md shows is what TestRecipes executes, to the letter.
func TestRecipesAreThisCode(t *testing.T) {
	source := textOf(t, "internal/apitest/recipes_test.go")
	recipes, test, ok := strings.Cut(source, "\nfunc TestRecipes(")
	require.True(t, ok)
	blocks := blocksOf(t, "docs/recipes.md", "go")
	require.Len(t, blocks, 4)
	for _, block := range blocks {
		require.Contains(t, recipes, "\n"+block, "this code of the page is not in recipes_test.go")
		for _, f := range shownFunc.FindAllStringSubmatch(block, -1) {
			require.Contains(t, test, f[1]+"(", "nothing executes %s", f[1])
		}
	}
}
