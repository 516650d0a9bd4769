package apikey

import "time"

// merged is what a token is judged by after two records of its key were compared.
type merged struct {
	key   *cachedKey
	doubt bool // read the record again before the next answer
}

// mergeSameToken decides between two records that were seen through one token: known,
// which the cache has, and seen, which was just read or written, as n says. It changes
// neither record, and returns seen or a copy of one of the two.
//
//   - If seen is damaged, the token is refused until the row is repaired; see
//     mergeDamaged.
//   - A revocation that was seen stays: after it, only a revoked record replaces the
//     cached one.
//   - If the credential was seen as ended, it stays ended, whichever version says so.
//   - The newer version counts.
//   - If seen is older, or a different record of the same version, both count: what
//     either forbids is forbidden (trouble.also). Either seen comes late, or history
//     was rewritten: a restored backup, a failover, a row put back by hand. The cache
//     cannot tell which, so a read of the store decides.
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
	// If mergeDamaged raised the state within the cached version, the state stays until
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

// mergeDamaged is the part of mergeSameToken for a damaged seen. The record that was
// believed last stays beside the damage, so that the record after the repair can be
// compared with it. From a damaged record, only what this process did itself counts:
// somebody may have written the rest by hand. known is a copy, and mergeDamaged changes
// it.
func mergeDamaged(known, seen *cachedKey, damage error, n news) merged {
	if known.state == Revoked { // damage must not hide a revocation
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

// doneTo returns which part of seen this process has done itself: the key's state, and
// whether the token was ended.
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
// lists the token. Such a token ended long ago, and stays refused.
func dropped(known, seen *cachedKey) bool {
	return seen.unlisted && seen.trouble().damage == nil && !struckOut(known, seen) &&
		seen.info.Version >= known.info.Version && known.state != Revoked
}

// struckOut reports whether somebody took the token out of its record by hand: seen is
// of another key, or of the same version that listed the token before.
func struckOut(known, seen *cachedKey) bool {
	return seen.unlisted && seen.trouble().damage == nil &&
		(seen.info.ID != known.info.ID || seen.same(known) && !known.unlisted)
}

// mergeOtherToken decides between two records of one key that were seen through two of
// its tokens. row is the first record of the token that is answered next; known is the
// cached record of another token. The results are what each token is judged by. Neither
// record is changed. If nothing changes for a token, its record itself is returned.
//
//   - A revocation counts for both tokens.
//   - If known is older, its token's record is read again before that token's next
//     answer.
//   - If row is older, or a different record of the same version, both records count
//     for row's token; see bothFor. Row's token is answered once, then its record is
//     read again.
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

// bothFor returns a record for row's token with the terms of known, a record of the
// same key. The result keeps row in trouble.also, so what row forbids is forbidden too.
// Its validity window and end are row's. The token counts as unlisted, because known
// was not read through it.
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

// same reports whether two records have the same version of the same history.
func (k *cachedKey) same(other *cachedKey) bool {
	return k.info.Version == other.info.Version && k.head == other.head
}

// outranks reports whether k is newer than other, or differs from it at the same
// version. Two records of one version and one history can differ in their state:
// mergeDamaged raises the state for a suspension or a revocation of a damaged row.
func (k *cachedKey) outranks(other *cachedKey) bool {
	if k.info.Version != other.info.Version {
		return k.info.Version > other.info.Version
	}
	return k.head != other.head || k.info.State != other.info.State
}

// copied returns a copy that no other goroutine has yet.
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

// raise sets a state that forbids more. No other goroutine may have k yet.
func (k *cachedKey) raise(state State, revokedAt time.Time) {
	if state != Revoked {
		revokedAt = time.Time{}
	}
	k.own()
	k.state, k.info.State, k.info.RevokedAt = state, state, revokedAt
}
