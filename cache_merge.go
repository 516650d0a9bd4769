package apikey

import "time"

// merged is what a token is judged by after two records of its key were compared.
type merged struct {
	key   *cachedKey
	doubt bool // the store is read again before the next answer
}

// mergeSameToken decides between two records that were seen through one token:
// known, which the cache has, and seen, which was just read or written, as n says.
// It changes neither, and returns seen or a copy of one of them.
//
//   - If seen is damaged, the token is refused until the row is repaired; see
//     mergeDamaged.
//   - A revocation that was seen stays: after it, only a record that is revoked takes
//     its place.
//   - An end of the credential that was seen stays, whichever version says so.
//   - The newer version counts.
//   - If seen is older, or another record of the same version, both count: what either
//     forbids is forbidden (trouble.also). Either seen comes late, or history was
//     rewritten: a backup restored, a failover, a row put back by hand. Nothing here
//     can tell which, so that a read of the store decides.
func mergeSameToken(known, seen *cachedKey, n news) merged {
	if dropped(known, seen) {
		return merged{seen.with(trouble{damage: ErrInvalidToken}), true}
	}
	if struckOut(known, seen) {
		seen = seen.with(trouble{damage: notListed(seen.info.ID)})
	}
	known = known.with(trouble{})
	if damage := seen.trouble().damage; damage != nil {
		return mergeDamaged(known, seen, damage, n)
	}
	if !seen.unlisted && seen.ended != known.ended {
		seen = seen.copied()
		seen.ended, known.ended = true, true
	}
	// A state that mergeDamaged raised, within the version that is here, stays until
	// Resume or a newer version.
	raised := seen.same(known) && known.state > seen.state && n.did != ActionResume
	switch {
	case known.state == Revoked && seen.state != Revoked:
		return merged{key: known}
	case known.state != Revoked && seen.state == Revoked:
		return merged{key: seen}
	case raised:
		return merged{key: known}
	case seen.same(known) || seen.info.Version > known.info.Version:
		return merged{key: seen}
	}
	known.set(trouble{also: seen})
	return merged{known, n.from != readNow}
}

// mergeDamaged goes on with mergeSameToken if seen is damaged. What was believed last
// stays beside the damage, so that the record after the repair can be compared with
// it. Of a damaged record only that counts which this process did to it: whatever else
// it says, somebody may have written by hand. known is a copy, and is changed.
func mergeDamaged(known, seen *cachedKey, damage error, n news) merged {
	if known.state == Revoked { // which damage must not hide
		return merged{key: known}
	}
	known.set(trouble{damage: damage})
	if n.from == toldHere {
		state, ended := n.doneTo(seen)
		known.ended = known.ended || ended && !seen.unlisted
		if state > known.state {
			known.raise(state, seen.info.RevokedAt)
		}
	}
	return merged{known, true}
}

// doneTo returns how much of what a record says this process has done itself: the
// key's state, and whether the token was ended.
func (n news) doneTo(seen *cachedKey) (state State, ended bool) {
	state = Active
	switch n.did {
	case ActionSuspend:
		state = Suspended
	case ActionRevoke:
		state = Revoked
	}
	return min(seen.state, state), seen.ended && seen.id == n.id
}

// dropped reports whether seen, a record that is believed and not older, no longer
// lists the token: it ended long ago, which is not forgotten.
func dropped(known, seen *cachedKey) bool {
	return seen.unlisted && seen.trouble().damage == nil && !struckOut(known, seen) &&
		seen.info.Version >= known.info.Version && known.state != Revoked
}

// struckOut reports whether somebody took the token out of its record by hand: seen is
// of another key, or of the version that listed the token before.
func struckOut(known, seen *cachedKey) bool {
	return seen.unlisted && seen.trouble().damage == nil &&
		(seen.info.ID != known.info.ID || seen.same(known) && !known.unlisted)
}

// mergeOtherToken decides between two records of one key that were seen through two of
// its tokens: row, the first record of a token that is answered next, and known, which
// the cache has for another token. It returns what each token is to be judged by, and
// changes neither record. If nothing changes for a token, its record itself comes back.
//
//   - A revocation counts for both tokens.
//   - If known is older, its token is read again before its next answer.
//   - If row is older, or another record of the same version, both records count for
//     row's token; see bothFor. It is read again before the answer after this one.
func mergeOtherToken(row, known *cachedKey) (forRow, forKnown merged) {
	forRow, forKnown = merged{key: row}, merged{key: known}
	switch {
	case row.state == Revoked && known.state == Revoked:
	case known.state == Revoked:
		forRow.key = row.revokedAt(known.info.RevokedAt)
	case row.state == Revoked:
		forKnown.key = known.revokedAt(row.info.RevokedAt)
	case known.info.Version < row.info.Version:
		forKnown = merged{known.copied(), true}
	case known.outranks(row):
		forRow = merged{bothFor(row, known), true}
	}
	return forRow, forKnown
}

// bothFor makes a record for row's token that has the terms of known, a record of the
// same key, and forbids what row forbids too. The window and the end are row's. It
// counts as unlisted, because nobody knows whether known lists row's token.
func bothFor(row, known *cachedKey) *cachedKey {
	both := &cachedKey{view: view{id: row.id, terms: known.terms, about: known.about}}
	both.own()
	both.info.Credential = row.id
	both.notBefore, both.notAfter = row.notBefore, row.notAfter
	both.until = min(row.notAfter, microsOr(known.info.ExpiresAt, never))
	both.ended, both.unlisted = row.ended, true
	both.set(trouble{also: row})
	return both
}

// same reports whether two records are of one version of one history.
func (k *cachedKey) same(other *cachedKey) bool {
	return k.info.Version == other.info.Version && k.head == other.head
}

// outranks reports whether a record is newer than another, or of the same version and
// different. Two records of one version of one history can differ in their state:
// mergeDamaged remembers a suspension or a revocation of a damaged row so.
func (k *cachedKey) outranks(other *cachedKey) bool {
	if k.info.Version != other.info.Version {
		return k.info.Version > other.info.Version
	}
	return k.head != other.head || k.info.State != other.info.State
}

// copied returns a copy that nobody else has yet.
func (k *cachedKey) copied() *cachedKey { return &cachedKey{view: k.view} }

// with returns a copy that has this trouble, or none.
func (k *cachedKey) with(t trouble) *cachedKey {
	k = k.copied()
	k.set(t)
	return k
}

// revokedAt returns a copy that is revoked.
func (k *cachedKey) revokedAt(at time.Time) *cachedKey {
	k = k.copied()
	k.raise(Revoked, at)
	return k
}

// raise gives a key that nobody else has yet a state that forbids more.
func (k *cachedKey) raise(state State, revokedAt time.Time) {
	if state != Revoked {
		revokedAt = time.Time{}
	}
	k.own()
	k.state, k.info.State, k.info.RevokedAt = state, state, revokedAt
}
