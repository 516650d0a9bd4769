package apitest

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// whoWas is an event's actor as a decoder may make it: never an operator.
func whoWas(ev apikey.Event) apikey.Actor {
	a := ev.Actor
	return apikey.Actor{ID: a.ID, Account: a.Account, Role: a.Role, Addr: a.Addr, UserAgent: a.UserAgent, RequestID: a.RequestID}
}

// What OnEvent says is kept elsewhere, and is all there is after a restore: it reads
// back as it was, also where it is about no mode and no key.
func TestEventJSONReadsBack(t *testing.T) {
	var said []apikey.Event
	e := newEnv(t, func(e *env) { e.mc.OnEvent = func(ev apikey.Event) { said = append(said, ev) } })
	k := e.issue()
	require.NoError(t, e.manager.Suspend(e.ctx, k.Key.ID))
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID, Reason: apikey.ReasonCompromised}))
	said = append(said, apikey.Event{ID: said[0].ID, Action: apikey.ActionPepper, Outcome: apikey.OutcomeDone})
	require.GreaterOrEqual(t, len(said), 4)
	for _, ev := range said {
		text, err := json.Marshal(ev)
		require.NoError(t, err)
		var back apikey.Event
		require.NoError(t, json.Unmarshal(text, &back), "%s", text)
		ev.Actor, back.Actor = whoWas(ev), whoWas(back)
		require.Equal(t, ev, back)
	}
	var id apikey.EventID
	for _, wrong := range []string{"", "x", "01890A5D-AC96-774B-BCCE-B302099A8057"} {
		require.ErrorIs(t, id.UnmarshalText([]byte(wrong)), apikey.ErrInvalid)
	}
}
