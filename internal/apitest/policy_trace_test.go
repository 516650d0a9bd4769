package apitest

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// Trace.Denied gets what the caller gets: a metric tells the refusals of Policy and of
// Standing apart by the sentinel, and not by the program's own errors.
func TestDeniedGetsTheErrorOfTheCaller(t *testing.T) {
	unpaid := errors.New("unpaid")
	var told []error
	e := newEnv(t, func(e *env) {
		e.settings.Standing = standing(func(string, apikey.Mode) error { return unpaid })
		e.settings.Trace = &apikey.Trace{Denied: func(_ apikey.Actor, _ apikey.Action, _ apikey.KeyID, err error) { told = append(told, err) }}
	})
	for _, c := range []struct {
		role string
		want error
	}{{"admin", apikey.ErrStanding}, {"viewer", apikey.ErrForbidden}} {
		_, err := e.manager.Issue(as("acc_1", c.role), apikey.IssueRequest{Mode: apikey.Live})
		require.ErrorIs(t, err, c.want)
		require.Equal(t, err, told[len(told)-1])
	}
	require.ErrorIs(t, told[0], unpaid)
}
