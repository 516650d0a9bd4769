package apitest

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// guardAll guards everything that can be guarded, by the password.
func guardAll(act apikey.Action, _ apikey.Mode) []string {
	switch act {
	case apikey.ActionIssue, apikey.ActionUpdate, apikey.ActionWiden, apikey.ActionResume, apikey.ActionRotate, apikey.ActionReveal, apikey.ActionRevoke:
		return []string{"password"}
	}
	return nil
}

// elsewhere are a request that is approved, and what somebody does with the
// grant instead. Each is tried on a key of its own, and fails.
var elsewhere = []struct {
	name     string
	approved func(key, other apikey.KeyID) apikey.Guarded
	used     func(ctx context.Context, e *env, key, other apikey.KeyID, g apikey.Grant) error
}{
	{"issue with more", func(_, _ apikey.KeyID) apikey.Guarded {
		return apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:verify"}}
	}, func(ctx context.Context, e *env, _, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:*"}, Grant: g})
		return err
	}},
	{"issue in the other mode", func(_, _ apikey.KeyID) apikey.Guarded {
		return apikey.IssueRequest{Mode: apikey.Test, Abilities: []string{"payment:verify"}}
	}, func(ctx context.Context, e *env, _, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:verify"}, Grant: g})
		return err
	}},
	{"issue a recoverable one", func(_, _ apikey.KeyID) apikey.Guarded {
		return apikey.IssueRequest{Mode: apikey.Live}
	}, func(ctx context.Context, e *env, _, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true, Grant: g})
		return err
	}},
	{"issue for ever", func(_, _ apikey.KeyID) apikey.Guarded {
		return apikey.IssueRequest{Mode: apikey.Live, ExpiresAt: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}
	}, func(ctx context.Context, e *env, _, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Grant: g})
		return err
	}},
	{"rotate now, approved for later", func(key, _ apikey.KeyID) apikey.Guarded {
		return apikey.RotateRequest{Key: key, At: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)}
	}, func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Rotate(ctx, apikey.RotateRequest{Key: key, Grant: g})
		return err
	}},
	{"rotate with a longer overlap", func(key, _ apikey.KeyID) apikey.Guarded {
		return apikey.RotateRequest{Key: key, Overlap: time.Hour}
	}, func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Rotate(ctx, apikey.RotateRequest{Key: key, Overlap: 2 * time.Hour, Grant: g})
		return err
	}},
	{"rotate another key", func(key, _ apikey.KeyID) apikey.Guarded { return apikey.RotateRequest{Key: key} },
		func(ctx context.Context, e *env, _, other apikey.KeyID, g apikey.Grant) error {
			_, err := e.manager.Rotate(ctx, apikey.RotateRequest{Key: other, Grant: g})
			return err
		}},
	{"reveal another key", func(key, _ apikey.KeyID) apikey.Guarded { return apikey.RevealRequest{Key: key} },
		func(ctx context.Context, e *env, _, other apikey.KeyID, g apikey.Grant) error {
			_, err := e.manager.Reveal(ctx, apikey.RevealRequest{Key: other, Grant: g})
			return err
		}},
	{"reveal, approved to rotate", func(key, _ apikey.KeyID) apikey.Guarded { return apikey.RotateRequest{Key: key} },
		func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
			_, err := e.manager.Reveal(ctx, apikey.RevealRequest{Key: key, Grant: g})
			return err
		}},
	{"revoke, approved to reveal", func(key, _ apikey.KeyID) apikey.Guarded { return apikey.RevealRequest{Key: key} },
		func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
			return e.manager.Revoke(ctx, apikey.RevokeRequest{Key: key, Grant: g})
		}},
	{"revoke for another reason", func(key, _ apikey.KeyID) apikey.Guarded { return apikey.RevokeRequest{Key: key, Reason: "unused"} },
		func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
			return e.manager.Revoke(ctx, apikey.RevokeRequest{Key: key, Grant: g})
		}},
	{"update another field", func(key, _ apikey.KeyID) apikey.Guarded {
		return apikey.UpdateRequest{Key: key, Name: apikey.Set("x")}
	}, func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Update(ctx, apikey.UpdateRequest{Key: key, Name: apikey.Set("x"), Abilities: apikey.Set([]string{"payment:*"}), Grant: g})
		return err
	}},
	{"clear what was to be kept", func(key, _ apikey.KeyID) apikey.Guarded {
		return apikey.UpdateRequest{Key: key, Networks: apikey.Set([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})}
	}, func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Update(ctx, apikey.UpdateRequest{Key: key, Networks: apikey.Clear[[]netip.Prefix](), Name: apikey.Set("y"), Grant: g})
		return err
	}},
	{"resume, approved to update", func(key, _ apikey.KeyID) apikey.Guarded {
		return apikey.UpdateRequest{Key: key, Name: apikey.Set("x")}
	}, func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		require.NoError(e.t, e.manager.Suspend(ctx, key))
		return e.manager.Resume(ctx, apikey.ResumeRequest{Key: key, Grant: g})
	}},
	{"another actor", revealKey, func(_ context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Reveal(as("acc_1", "admin"), apikey.RevealRequest{Key: key, Grant: g})
		return err
	}},
	{"an operator of the actor's name", revealKey, func(_ context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		_, err := e.manager.Reveal(apikey.WithActor(background, apikey.Operator(admin.ID)), apikey.RevealRequest{Key: key, Grant: g})
		return err
	}},
	{"another account", func(_, _ apikey.KeyID) apikey.Guarded { return apikey.IssueRequest{Mode: apikey.Live} },
		func(_ context.Context, e *env, _, _ apikey.KeyID, g apikey.Grant) error {
			namesake := apikey.WithActor(background, apikey.Actor{ID: admin.ID, Account: "acc_2", Role: "admin"})
			_, err := e.manager.Issue(namesake, apikey.IssueRequest{Mode: apikey.Live, Grant: g})
			return err
		}},
	{"after the key has changed", revealKey, func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		require.NoError(e.t, e.manager.Suspend(ctx, key))
		_, err := e.manager.Reveal(ctx, apikey.RevealRequest{Key: key, Grant: g})
		return err
	}},
	{"after two minutes", revealKey, func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		e.clock.move(2 * time.Minute)
		_, err := e.manager.Reveal(ctx, apikey.RevealRequest{Key: key, Grant: g})
		return err
	}},
	{"another credential", revealKey, func(ctx context.Context, e *env, key, _ apikey.KeyID, g apikey.Grant) error {
		info, err := e.manager.Get(ctx, key)
		require.NoError(e.t, err)
		_, err = e.manager.Reveal(ctx, apikey.RevealRequest{Key: key, Credential: info.Credential, Grant: g})
		return err
	}},
	{"a text that is no grant", revealKey, func(ctx context.Context, e *env, key, _ apikey.KeyID, _ apikey.Grant) error {
		_, err := e.manager.Reveal(ctx, apikey.RevealRequest{Key: key, Grant: apikey.ParseGrant("\xff\x00' OR 1=1 --")})
		return err
	}},
	{"its stored name", revealKey, func(ctx context.Context, e *env, key, _ apikey.KeyID, _ apikey.Grant) error {
		_, err := e.manager.Reveal(ctx, apikey.RevealRequest{Key: key, Grant: apikey.ParseGrant(e.itemsOf("grant")[0].ID)})
		return err
	}},
}

// operatorOf is an operator who differs from that account's actor of the same name
// in nothing but being one.
func operatorOf(account, id string) context.Context {
	op := apikey.Operator(id)
	op.Account = account
	return apikey.WithActor(background, op)
}

func revealKey(key, _ apikey.KeyID) apikey.Guarded { return apikey.RevealRequest{Key: key} }

// A grant is for the very request that was approved.
func TestGrantUsedElsewhere(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, on func(*env)) {
		accepted := 0
		for _, c := range elsewhere {
			var f *factors
			e := newEnv(t, on, withFactors(&f, nil))
			key, other := e.issue(recoverable), e.issue(recoverable)
			e.manager = e.newManager(func(c *managerConfig) { c.StepUp = guardAll })
			grant := e.approve(f, e.ctx, "password", c.approved(key.Key.ID, other.Key.ID))
			err := c.used(e.ctx, e, key.Key.ID, other.Key.ID, grant)
			if err == nil {
				accepted++
			}
			assert.ErrorIs(t, err, apikey.ErrGrant, c.name)
		}
		t.Logf("%d uses of a grant for something else: %d accepted", len(elsewhere), accepted)
		require.Zero(t, accepted)
	})
}

// Every guarded request passes with the grant that approves it, and what it is
// bound to does not depend on the order of a map.
func TestGrantUsedAsApproved(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, guardAll))
		issue := apikey.IssueRequest{
			Mode: apikey.Live, Name: "n", Abilities: []string{"payment:verify"}, Recoverable: true, RotateMonths: 6, ExpiresAt: e.clock.now().Add(1e15),
			Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, Origins: []string{"https://shop.example"},
			Metadata: map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}, IdempotencyKey: "order 7",
		}
		approved := issue
		approved.Grant = e.approve(f, e.ctx, "password", issue)
		key, err := e.manager.Issue(e.ctx, approved)
		require.NoError(t, err)
		replay, err := e.manager.Issue(e.ctx, approved)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued, "the grant is spent, and a replay needs none")
		require.Equal(t, key.Key.ID, replay.Key.ID)
		require.True(t, replay.Token.IsZero())

		update := apikey.UpdateRequest{
			Key: key.Key.ID, Name: apikey.Clear[string](), Networks: apikey.Clear[[]netip.Prefix](), Disabled: apikey.Set(true),
			Metadata: apikey.Set(map[string]string{"x": "1", "y": "2", "z": "3"}), RotateMonths: apikey.Set(12), ExpiresAt: apikey.Clear[time.Time](),
		}
		update.Grant = e.approve(f, e.ctx, "password", update)
		_, err = e.manager.Update(e.ctx, update)
		require.NoError(t, err)
		resume := apikey.ResumeRequest{Key: key.Key.ID}
		resume.Grant = e.approve(f, e.ctx, "password", resume)
		require.NoError(t, e.manager.Resume(e.ctx, resume))
		reveal := apikey.RevealRequest{Key: key.Key.ID}
		reveal.Grant = e.approve(f, e.ctx, "password", reveal)
		_, err = e.manager.Reveal(e.ctx, reveal)
		require.NoError(t, err)
		rotate := apikey.RotateRequest{Key: key.Key.ID, At: e.clock.now().Add(time.Hour), Overlap: time.Hour, Replace: true}
		rotate.Grant = e.approve(f, e.ctx, "password", rotate)
		_, err = e.manager.Rotate(e.ctx, rotate)
		require.NoError(t, err)
		revoke := apikey.RevokeRequest{Key: key.Key.ID, Reason: apikey.ReasonUnused}
		revoke.Grant = e.approve(f, e.ctx, "password", revoke)
		require.NoError(t, e.manager.Revoke(e.ctx, revoke))
		for _, grant := range []apikey.Grant{approved.Grant, update.Grant, resume.Grant, reveal.Grant, rotate.Grant, revoke.Grant} {
			_, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID, Grant: grant})
			require.ErrorIs(t, err, apikey.ErrRevoked)
			other := apikey.IssueRequest{Mode: apikey.Live, Recoverable: true}
			other.Grant = e.approve(f, e.ctx, "password", other)
			another, err := e.manager.Issue(e.ctx, other)
			require.NoError(t, err)
			_, err = e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: another.Key.ID, Grant: grant})
			requireApproval(t, err, apikey.ErrGrant, apikey.ApprovalUsed)
		}
	})
}

// A grant that was kept in the browser between two requests redeems, and prints
// as nothing.
func TestGrantSurvivesAsText(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, guardAll))
	req := apikey.IssueRequest{Mode: apikey.Live}
	grant := e.approve(f, e.ctx, "password", req)
	require.Len(t, grant.Reveal(), 22, "131 random bits")
	require.Equal(t, "grant(…)", grant.String())
	require.Empty(t, apikey.Grant{}.String())
	require.Empty(t, apikey.Grant{}.Reveal())
	require.True(t, apikey.ParseGrant("").IsZero())
	req.Grant = apikey.ParseGrant(grant.Reveal())
	_, err := e.manager.Issue(e.ctx, req)
	require.NoError(t, err)
}

// Whoever writes to the database, and has no pepper, can neither make up a
// grant or a permission nor bend a challenge, so that its answer approves
// something else.
func TestItemsCannotBeForged(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRevealAndRotate("password")))
		a, b := e.issue(recoverable).Key.ID, e.issue(recoverable).Key.ID
		put := func(it apikey.StoreItem, change func(*apikey.StoreItem)) {
			it.Version++
			change(&it)
			require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{it}}))
		}
		reveal := apikey.RevealRequest{Key: a}
		reveal.Grant = e.approve(f, e.ctx, "password", reveal)
		granted := e.itemsOf("grant")[0]
		tamper := map[string]func(*apikey.StoreItem){
			"a longer life": func(it *apikey.StoreItem) { it.ExpiresAt = it.ExpiresAt.Add(time.Microsecond) },
			"no MAC":        func(it *apikey.StoreItem) { it.Data = append([]byte{0}, it.Data[33:]...) },
			"another slot":  func(it *apikey.StoreItem) { it.Data = append([]byte{2}, it.Data[1:]...) },
			"one bit":       func(it *apikey.StoreItem) { it.Data[len(it.Data)-9] ^= 1 },
			"nothing":       func(it *apikey.StoreItem) { it.Data = nil },
			"the MAC alone": func(it *apikey.StoreItem) { it.Data = it.Data[:33] },
			"cut":           func(it *apikey.StoreItem) { it.Data = it.Data[:len(it.Data)-1] },
		}
		for name, change := range tamper {
			now := e.itemsOf("grant")[0]
			put(now, func(it *apikey.StoreItem) {
				it.Data, it.ExpiresAt = append([]byte(nil), granted.Data...), granted.ExpiresAt
				change(it)
			})
			_, err := e.manager.Reveal(e.ctx, reveal)
			require.ErrorIs(t, err, apikey.ErrGrant, name)
		}
		put(e.itemsOf("grant")[0], func(it *apikey.StoreItem) { it.Data, it.ExpiresAt = granted.Data, granted.ExpiresAt })
		_, err := e.manager.Reveal(e.ctx, reveal)
		require.NoError(t, err, "as it was it redeems")

		// The data of one challenge under the name of another.
		first, err := e.manager.Challenge(e.ctx, "password", apikey.RevealRequest{Key: a})
		require.NoError(t, err)
		second, err := e.manager.Challenge(e.ctx, "password", apikey.RevealRequest{Key: b})
		require.NoError(t, err)
		items := map[string]apikey.StoreItem{}
		for _, it := range e.itemsOf("challenge") {
			items[it.ID] = it
		}
		put(items[first.ID], func(it *apikey.StoreItem) { it.Data = items[second.ID].Data })
		_, err = e.manager.Confirm(e.ctx, first.ID, password)
		require.ErrorIs(t, err, apikey.ErrChallenge)
	})
}

// Without a pepper there is no MAC, and step-up works all the same. When one is
// introduced, what is open then is put anew.
func TestStepUpWithoutPepper(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, noPepper, withFactors(&f, apikey.GuardRevealAndRotate("password")))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		req.Grant = e.approve(f, e.ctx, "password", req)
		_, err := e.manager.Rotate(e.ctx, req)
		require.NoError(t, err)
		c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: req.Key})
		require.NoError(t, err)
		peppered := e.newManager(func(c *managerConfig) { c.Peppers, c.AcceptUntagged = []apikey.Pepper{pepper(t, 1)}, true })
		req.Grant, err = peppered.Confirm(e.ctx, c.ID, password)
		require.NoError(t, err, "while it is introduced")
		done := e.newManager(func(c *managerConfig) { c.Peppers = []apikey.Pepper{pepper(t, 1)} })
		c, err = e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: req.Key})
		require.NoError(t, err)
		_, err = done.Confirm(e.ctx, c.ID, password)
		require.ErrorIs(t, err, apikey.ErrChallenge)
	})
}
