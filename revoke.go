package apikey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// Suspend makes every verification of a key fail until the key is resumed. Suspend only
// takes power away. So it needs the Policy's permission and nothing else, is applied to
// the newest record however often others change the key, and works on a damaged record
// too. If the key is already suspended or revoked, Suspend returns nil and writes
// nothing. If ctx has no deadline, Suspend ends after 5 s. Errors: those of the table
// in the package documentation, and:
//   - ErrInvalid: only when the actor, or the reason of Revoke, cannot be stored
//   - ErrCorrupt: only when the row cannot even be read
//   - ErrConflict: only once the context has ended
func (m *Manager) Suspend(ctx context.Context, id KeyID) error {
	return m.own().lessen(ctx, ofKey(ActionSuspend, id).lessening(suspend), suspend)
}

func suspend(r *StoreRecord, _ time.Time) (made, bool) {
	if r.Disabled {
		return made{}, false
	}
	r.Disabled = true
	return made{changed: []string{"disabled"}}, true
}

// RevokeRequest names a key and the reason to revoke it.
type RevokeRequest struct {
	Key    KeyID
	Reason Reason // empty: ReasonRequested

	// Grant, if StepUp guards ActionRevoke. A revocation with ReasonCompromised is
	// never guarded: nobody has to find their phone while a key is being abused.
	Grant Grant `json:"-"`
}

func (r RevokeRequest) guarded() approval {
	return approval{
		job:  ofKey(ActionRevoke, r.Key).lessening(r.edit),
		free: r.Reason == ReasonCompromised,
		sum: sumOf(ActionRevoke, func(c *canon.Writer) {
			c.Bytes(r.Key[:])
			c.Text(string(cmp.Or(r.Reason, ReasonRequested)))
		}),
		says: []string{"the key ends for ever; reason: " + quoteForMail(string(cmp.Or(r.Reason, ReasonRequested)))},
	}
}

// Revoke ends a key for ever. No Verify that starts after Revoke returned succeeds on
// this node, and none on other nodes after their next sync. The record stays in the
// store. If the key is already revoked, Revoke returns nil, writes nothing, and needs no
// grant.
//
// Errors: those of [Manager.Suspend]; if StepUp guards ActionRevoke and the reason is
// not [ReasonCompromised], also ErrStepUpRequired (as *[ChallengeError]), ErrGrant and
// ErrLocked.
func (m *Manager) Revoke(ctx context.Context, req RevokeRequest) error {
	return m.own().revoke(ctx, req)
}

func (s session) revoke(ctx context.Context, req RevokeRequest) error {
	if err := req.Reason.valid(); err != nil {
		return err
	}
	ask := req.guarded()
	j := ask.job
	if !ask.free {
		j = ask.asking(req.Grant)
	}
	return s.lessen(ctx, j, req.edit)
}

// edit applies the request to a record.
func (r RevokeRequest) edit(stored *StoreRecord, now time.Time) (made, bool) {
	reason := cmp.Or(r.Reason, ReasonRequested)
	stored.RevokedAt, stored.RevokeReason = micros(now), reason
	return made{changed: []string{"revoked_at"}, reason: reason}, true
}

const maxReason = 200

func (r Reason) valid() error { return storableText("reason", string(r), maxReason) }

// lessen takes power away from a key that is not revoked yet.
func (s session) lessen(ctx context.Context, j job, edit lessening) error {
	j.work = func(_ Actor, r *StoreRecord) (effect, error) { return s.lessened(r, edit), nil }
	return s.do(ctx, j)
}

func (s session) lessened(stored *StoreRecord, edit lessening) effect {
	// Only skip the write if the record's MAC is right. Otherwise somebody who writes to
	// the database could put RevokedAt there, let a revocation return nil without a write,
	// and clear RevokedAt again.
	sound := s.authentic(stored) == nil
	if sound && stored.State() == Revoked {
		return effect{}
	}
	r := stored.clone()
	m, changed := edit(&r, s.settings.Now())
	if sound && !changed {
		return effect{}
	}
	m.record, m.unsigned = &r, !sound
	return effect{made: []made{m}}
}

// RevokeAllRequest selects the keys to revoke: those of an account that leaves, or
// those of a leaked pepper. Set All, or at least one of Mode, Kind, NeverUsed,
// UnusedSince and Pepper. The zero value of each of these five selects all.
type RevokeAllRequest struct {
	// Account: empty is the actor's own. An Operator has to name it, except with
	// Pepper: then empty is every account.
	Account string
	// All says that every key of the account is meant. Without All, a forgotten filter
	// would mean the same, and a revoked key cannot be brought back.
	All       bool
	Mode      Mode
	Kind      Kind
	NeverUsed bool // no token of the key was ever used
	// UnusedSince selects keys that were created before it and not used at or after it.
	// The stored last use is older than the real one by up to
	// VerifierConfig.LastUsedEvery and 3 s. A time in the future is ErrInvalid.
	UnusedSince time.Time
	// Pepper selects keys with a live credential whose tag was made with the pepper of
	// this slot. If that pepper leaks, others can forge such tokens.
	Pepper uint8
	Reason Reason // empty: ReasonRequested
	// Cursor continues where an earlier call ended; empty: from the start.
	Cursor Cursor
	Limit  int // how many keys this call reads: 1 to 1000; 0: 100
}

func (r RevokeAllRequest) filter(account string) StoreFilter {
	return StoreFilter{
		Account: account, Mode: r.Mode, Kind: r.Kind, NeverUsed: r.NeverUsed,
		UnusedSince: micros(r.UnusedSince), Pepper: r.Pepper, Limit: r.Limit,
	}
}

// selects refuses a request that does not say which keys it means.
func (r RevokeAllRequest) selects(s session) error {
	filtered := r.Mode != 0 || r.Kind != 0 || r.NeverUsed || !micros(r.UnusedSince).IsZero() || r.Pepper != 0
	var since, all error
	if r.UnusedSince.After(s.settings.Now().Add(s.skew)) { // probably a duration with the wrong sign
		since = wrong("unused_since", InvalidFuture, "UnusedSince is in the future: every key counts as unused since then, those in use too")
	}
	switch {
	case !filtered && !r.All:
		all = wrong("all", InvalidRequired, "RevokeAll without a filter ends every key of the account for ever: set All if that is meant, else Mode, Kind, NeverUsed, UnusedSince or Pepper")
	case filtered && r.All:
		all = wrong("all", InvalidContradiction, "RevokeAll has All and a filter: leave out the one that is not meant")
	}
	return allWrong(since, all, r.Reason.valid())
}

// RevokedAll is the result of one call of RevokeAll.
type RevokedAll struct {
	Revoked int    `json:"revoked"`       // keys that this call revoked; a damaged one may have been revoked before
	Next    Cursor `json:"next,omitzero"` // pass it to the next call as Cursor; empty: all are done
}

// RevokeAll revokes a batch of keys, newest first. Call RevokeAll until Next is empty.
// After a crash, start again: it skips keys that are revoked. A key that is issued
// meanwhile is newer than the batches that follow and is not revoked: let Standing
// refuse the account first, or start again until no key is left.
//
// A key that cannot be revoked does not stop the others. Its error is joined to the
// result and names the key, and Next is set all the same. This includes a key whose
// revocation StepUp guards: revoke that one by itself, or as ReasonCompromised. Errors:
// those of the table in the package documentation, those of [Manager.Revoke] for single
// keys, and:
//   - ErrNotFound: when Account is another account than the actor's
//   - ErrInvalid: also without All and filter, with both, or with a Cursor of another
//     list
func (m *Manager) RevokeAll(ctx context.Context, req RevokeAllRequest) (done RevokedAll, err error) {
	s := m.own()
	var chunk []KeyID
	var failed []error
	start := s.settings.Now()
	j := ofAccount(ActionRevoke, req.Account)
	if req.Pepper != 0 {
		j = ofAnyAccount(ActionRevoke, req.Account)
	}
	j.wrong = func(s session, _ time.Time) error { return allWrong(req.selects(s), req.filter("").selectable()) }
	err = s.do(ctx, j.in(req.Mode, req.Kind).reading(func(a Actor, _ *StoreRecord) error {
		page, err := s.listPage(ctx, req.filter(accountOf(a, req.Account)), req.Cursor, req.selects(s))
		if err != nil {
			return err
		}
		for i := range page.Records {
			r := &page.Records[i] // the store's filter looks at the MAC's slot too
			minted := slices.ContainsFunc(r.Credentials, func(c StoreCredential) bool { return !c.Ended && c.Pepper == req.Pepper })
			if r.State() != Revoked && (req.Pepper == 0 || minted) {
				chunk = append(chunk, r.ID)
				continue
			}
			// The key is revoked already, or its tokens are not of this pepper. Another
			// node may have done that a moment ago: this node's Verifiers may not know yet.
			s.announce(ctx, notice{action: ActionRevoke, changes: []StoreChange{{Record: r}}, start: start})
		}
		for _, d := range page.Damaged { // a record that cannot be believed can still be revoked
			if d.Key.IsZero() {
				failed = append(failed, d)
				continue
			}
			chunk = append(chunk, d.Key)
		}
		done.Next = page.Next
		return nil
	}))
	if err != nil {
		return RevokedAll{}, err
	}
	for _, id := range chunk {
		if err := s.revoke(ctx, RevokeRequest{Key: id, Reason: req.Reason}); err != nil {
			failed = append(failed, fmt.Errorf("key %s: %w", id, mayBeDone(err))) // others may be revoked
			continue
		}
		done.Revoked++
	}
	return done, errors.Join(failed...)
}
