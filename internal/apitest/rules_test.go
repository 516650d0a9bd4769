package apitest

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// Rules says what the Manager enforces.
func TestRules(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRevealAndRotate("totp", "password")), func(e *env) {
		e.settings.Catalog = apikey.MustCatalog(
			apikey.CatalogEntry{Scope: "payment:refund", Description: "Give money back"},
			apikey.CatalogEntry{Product: "rates", Publishable: true},
			apikey.CatalogEntry{Parse: parseRegion, Description: "Regions"},
		)
		e.mc.Limits = apikey.Limits{LiveKeys: 5, Overlap: 36 * time.Hour}
		e.mc.Skew = 1500 * time.Millisecond
	})
	text, err := json.Marshal(e.manager.Rules())
	require.NoError(t, err)
	require.JSONEq(t, `{
		"catalog": [
			{"scope": "payment:refund", "description": "Give money back", "publishable": false},
			{"product": "rates", "publishable": true},
			{"description": "Regions", "publishable": false}
		],
		"limits": {
			"name_bytes": 200, "metadata_pairs": 50, "metadata_name": 40, "metadata_value": 500, "abilities": 64, "networks": 64,
			"origins": 16, "live_keys": 5, "keys": 1000, "issues_an_hour": 300, "overlap_seconds": 129600
		},
		"tokens": [
			{"kind": "secret", "mode": "live", "head": "acme_sk_live_"}, {"kind": "secret", "mode": "test", "head": "acme_sk_test_"},
			{"kind": "publishable", "mode": "live", "head": "acme_pk_live_"}, {"kind": "publishable", "mode": "test", "head": "acme_pk_test_"}
		],
		"guards": [
			{"action": "key.rotate", "mode": "live", "factors": ["totp", "password"]},
			{"action": "key.rotate", "mode": "test", "factors": ["totp", "password"]},
			{"action": "key.reveal", "mode": "live", "factors": ["totp", "password"]},
			{"action": "key.reveal", "mode": "test", "factors": ["totp", "password"]},
			{"action": "factor.allow", "factors": ["totp", "password"]},
			{"action": "factor.disable", "factors": ["totp", "password"]},
			{"action": "actor.lift_lock", "factors": ["totp", "password"]}
		],
		"factors": [{"name": "email", "enrolls": false}, {"name": "password", "enrolls": false}, {"name": "totp", "enrolls": true}],
		"recoverable": ["live", "test"], "rotate_months": 120, "reason_bytes": 200,
		"skew_seconds": 1.5, "challenge_time_seconds": 600, "grant_time_seconds": 120, "hide_after_seconds": 30
	}`, string(text))
	checkMembers(t, text)

	rules := e.manager.Rules()
	require.True(t, strings.HasPrefix(e.issue().Token.Reveal(), rules.Tokens[0].Head))
	require.NoError(t, drop(e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, RotateMonths: rules.RotateMonths})))
	require.ErrorIs(t, drop(e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, RotateMonths: rules.RotateMonths + 1})), apikey.ErrInvalid)
	id := e.issue().Key.ID
	long := apikey.Reason(strings.Repeat("r", rules.ReasonBytes))
	require.ErrorIs(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: id, Reason: long + "r"}), apikey.ErrInvalid)
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: id, Reason: long}))
}

// A caller who changes what they got changes nothing of the Manager, nor of what others
// get.
func TestRulesAreCopies(t *testing.T) {
	var f *factors
	named := []string{"password"}
	e := newEnv(t, withFactors(&f, func(apikey.Action, apikey.Mode) []string { return nil }))
	e.manager = e.newManager(func(c *managerConfig) {
		c.StepUp = func(act apikey.Action, _ apikey.Mode) []string {
			if act == apikey.ActionRotate {
				return named // always the same slice
			}
			return nil
		}
	})
	want, err := json.Marshal(e.manager.Rules())
	require.NoError(t, err)
	r := e.manager.Rules()
	r.Catalog[0].Scope, r.Tokens[0].Head, r.Factors[0].Name, r.Guards[0].Action, r.Limits.Keys = "x:y", "x", "x", "x", 7
	r.Guards[0].Factors[0] = "x"
	got, err := json.Marshal(e.manager.Rules())
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	require.NoError(t, drop(e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:checkout"}})))
	require.Equal(t, []string{"password"}, named)
}

// A key can be Recoverable in the modes in which its token can be revealed later.
func TestRulesSayWhatIsRecoverable(t *testing.T) {
	onlyLive := func(act apikey.Action, m apikey.Mode) []string {
		if act == apikey.ActionReveal && m == apikey.Live {
			return []string{"password"}
		}
		return nil
	}
	for name, c := range map[string]struct {
		change func(*managerConfig)
		want   []apikey.Mode
	}{
		"StepUp names a factor in live": {func(c *managerConfig) { c.StepUp = onlyLive }, []apikey.Mode{apikey.Live}},
		"in both":                       {func(c *managerConfig) { c.StepUp = apikey.GuardRevealAndRotate("email") }, []apikey.Mode{apikey.Live, apikey.Test}},
		"in none":                       {func(c *managerConfig) { c.StepUp = apikey.GuardRotate("email") }, nil},
		"no StepUp":                     {func(c *managerConfig) { c.StepUp = nil }, nil},
		"insecure":                      {func(c *managerConfig) { c.StepUp, c.InsecureRevealWithoutStepUp = nil, true }, []apikey.Mode{apikey.Live, apikey.Test}},
		"insecure, without a KEK": {func(c *managerConfig) {
			c.StepUp, c.InsecureRevealWithoutStepUp, c.KEKs, c.Factors = nil, true, nil, nil
		}, nil},
	} {
		var f *factors
		e := newEnv(t, withFactors(&f, nil))
		m := e.newManager(c.change)
		require.Equal(t, c.want, m.Rules().Recoverable, name)
		for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
			key, err := m.Issue(e.ctx, apikey.IssueRequest{Mode: mode, Recoverable: true})
			if err != nil {
				require.Empty(t, c.want, name)
				continue
			}
			err = drop(m.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID}))
			challenge, guarded := errors.AsType[*apikey.ChallengeError](err)
			possible := err == nil || guarded && len(challenge.Factors) > 0
			require.Equal(t, slices.Contains(c.want, mode), possible, "%s: %s: %v", name, mode, err)
		}
	}
}
