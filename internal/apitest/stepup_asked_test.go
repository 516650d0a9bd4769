package apitest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// guardsMaking guards what these tests ask for.
func guardsMaking(a apikey.Action, _ apikey.Mode) []string {
	switch a {
	case apikey.ActionIssue, apikey.ActionProvision, apikey.ActionLiftLock:
		return []string{"email"}
	}
	return nil
}

// Nobody proves themselves for what is refused whatever they prove: Challenge says at
// once that a limit is reached, or that the key was issued. Of a lock that only an
// operator lifts see TestFound10ThreeLiftsInThirtyDays.
func TestFound25NobodyIsAskedForWhatIsRefused(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, guardsMaking), func(e *env) { e.mc.Limits.Keys = 1 })
	req := apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "order-7"}
	req.Grant = e.approve(f, e.ctx, "email", req)
	_, err := e.manager.Issue(e.ctx, req)
	require.NoError(t, err)
	mails := len(f.mails)

	_, err = e.manager.Challenge(e.ctx, "email", req)
	require.ErrorIs(t, err, apikey.ErrAlreadyIssued)
	_, err = e.manager.Challenge(e.ctx, "email", apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrLimit)
	require.Len(t, f.mails, mails)
}

// What is said of a request is what it will do: the mode that Standing refuses is not
// in it, and an action that is about no factor names none.
func TestFound26WhatIsSaidIsWhatIsDone(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, guardsMaking), func(e *env) { e.settings.Standing = mayNot{apikey.Live: true} })
	c, err := e.manager.Challenge(e.ctx, "email", apikey.ProvisionRequest{})
	require.NoError(t, err)
	said := strings.Join(c.Changes, "\n")
	require.Contains(t, said, "publishable key, test")
	require.NotContains(t, said, "live")

	c, err = e.manager.Challenge(e.ctx, "email", apikey.LiftLockRequest{Actor: "usr_2"})
	require.NoError(t, err)
	require.NotContains(t, strings.Join(c.Changes, "\n"), "factor")
}
