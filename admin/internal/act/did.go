package act

import (
	"context"

	"github.com/go-apikey/apikey"
)

// Did reports whether a person has done an action to this version of a key. A request that
// names a version which has passed (see [apikey.VersionError]) asks this: the change may
// be that very request, whose answer was lost, and with it a new token; or one with other
// values, from another tab. The log does not say which.
//
// Somebody who may not read the log is not told: false. May asks the Policy without an
// event, so the question leaves no refusal in the log. The newest 100 changes are read:
// the answer to an older one is not waited for any more.
func Did(ctx context.Context, m *apikey.Manager, person apikey.Actor, key apikey.KeyID, version uint64, action apikey.Action) bool {
	if m.May(ctx, apikey.ActionReadEvents, apikey.Info{Account: person.Account}) != nil {
		return false
	}
	list, err := m.Events(ctx, apikey.EventsRequest{Key: key, Actor: person.ID, Actions: []apikey.Action{action, apikey.ActionCancelRotation}})
	if err != nil {
		return false // unknown is not done: the caller says that the version has passed
	}
	done := map[uint64]apikey.Action{} // by the version that they made
	for _, e := range list.Events {
		// The staff act on this account too: an Operator may have the same ID, and no Account.
		if e.Outcome == apikey.OutcomeDone && e.Actor.Account == person.Account {
			done[e.Seq] = e.Action
		}
	}
	if done[version+1] == action {
		return true
	}
	// A rotation that replaces a planned one is two events: that one is called off first.
	return action == apikey.ActionRotate && done[version+1] == apikey.ActionCancelRotation && done[version+2] == action
}
