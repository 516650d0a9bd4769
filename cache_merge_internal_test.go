package apikey

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"
)

// The tests of this file are inside the package because they try pure functions: two
// records go in, one comes out. They try every pair of a small domain. Only few of
// these pairs can be brought about through a store.

// sample is a record in that domain. Each version and each history lacks one ability
// that the others have: see lacks.
type sample struct {
	key, version, head int
	state              State
	ended, unlisted    bool
	damaged            bool
	also               bool // trouble.also is an older record, which is suspended
}

var errSample = errors.New("the record is damaged")

func samples(keys int, lists []sample) (all []sample) {
	for key := range keys {
		for version := 1; version <= 2; version++ {
			for head := range 2 {
				for _, state := range []State{Active, Suspended, Revoked} {
					for _, s := range lists {
						s.key, s.version, s.head, s.state = key, version, head, state
						all = append(all, s)
					}
				}
			}
		}
	}
	return all
}

var (
	// Records that the cache can have: bothFor makes some that are unlisted and not ended.
	knownSamples = samples(1, []sample{{}, {ended: true}, {unlisted: true}, {unlisted: true, ended: true},
		{damaged: true}, {ended: true, damaged: true}, {also: true}})
	// Records that can be read: one that does not list the token always counts as ended.
	seenSamples = samples(2, []sample{{}, {ended: true}, {unlisted: true, ended: true},
		{damaged: true}, {ended: true, damaged: true}, {unlisted: true, ended: true, damaged: true}})
	rowSamples = samples(1, []sample{{}, {ended: true}})
)

// lacks returns the ability that only this sample's terms do not have.
func (s sample) lacks() Ability { return sampleAbilities[s.version*2+s.head] }

var sampleAbilities = func() (all []Ability) {
	for i := range 8 {
		all = append(all, Scope(fmt.Sprintf("sample:a%d", i)))
	}
	return all
}()

func (s sample) record(id byte) *cachedKey {
	k := &cachedKey{view: view{id: CredentialID{id}, about: &about{head: [32]byte{byte(s.head)}, unlisted: s.unlisted}}}
	k.info = Info{ID: KeyID{byte(s.key)}, Credential: k.id, Version: uint64(s.version), State: s.state}
	if s.state == Revoked {
		k.info.RevokedAt = time.Unix(int64(s.version), 0)
	}
	k.terms = terms{state: s.state, kind: Secret, mode: Live, ended: s.ended, abilities: &abilities{}}
	for _, a := range sampleAbilities {
		if a != s.lacks() {
			k.abilities.held = append(k.abilities.held, a)
		}
	}
	k.notBefore, k.notAfter = -int64(id), int64(id)*1000
	k.until = k.notAfter
	switch {
	case s.damaged:
		k.set(trouble{damage: errSample})
	case s.also:
		k.set(trouble{also: sample{key: s.key, version: s.version - 1, state: Suspended}.record(id)})
	}
	return k
}

// allows returns a mask of the abilities that a record is accepted for, at a time at
// which only its state and its end count.
func allows(k *cachedKey) (mask int) {
	if k.trouble().damage != nil {
		return 0
	}
	v := Verifier{cfg: VerifierConfig{Mode: AnyMode}}
	for i, a := range sampleAbilities {
		if v.judge(k, &Request{Require: []Ability{a}}, 0) == nil {
			mask |= 1 << i
		}
	}
	return mask
}

// alike reports whether two records are equal in every field that a request or a later
// merge looks at.
func alike(a, b *cachedKey) bool {
	if a == nil || b == nil {
		return a == b
	}
	s, t := a.trouble(), b.trouble()
	return a.id == b.id && a.state == b.state && a.ended == b.ended && a.unlisted == b.unlisted && a.head == b.head &&
		a.abilities == b.abilities && a.until == b.until && a.notBefore == b.notBefore && a.notAfter == b.notAfter &&
		a.info.ID == b.info.ID && a.info.Version == b.info.Version && a.info.State == b.info.State &&
		a.info.RevokedAt.Equal(b.info.RevokedAt) && fmt.Sprint(s.damage) == fmt.Sprint(t.damage) && alike(s.also, t.also)
}

// untouched returns a function that reports whether a record is still unchanged.
func untouched(k *cachedKey) func() bool {
	view, about := k.view, *k.about
	return func() bool { return k.view == view && reflect.DeepEqual(*k.about, about) }
}

// broken counts the violations of each rule, and reports the first of each.
type broken map[string]int

func (b broken) check(t *testing.T, holds bool, rule, format string, of ...any) {
	if holds {
		return
	}
	if b[rule]++; b[rule] == 1 {
		t.Errorf("%s: "+format, append([]any{rule}, of...)...)
	}
}

// ways returns a news for every way in which a Verifier can learn of a record.
func ways() (all []news) {
	for _, id := range []CredentialID{{1}, {2}} {
		for _, did := range []Action{"", ActionSuspend, ActionResume, ActionRevoke, ActionRetire} {
			all = append(all, news{from: toldHere, did: did, id: id})
		}
	}
	return append(all, news{from: fed}, news{from: readNow, id: CredentialID{1}})
}

func TestCacheMergesTwoRecordsOfOneToken(t *testing.T) {
	if got := allows(sample{version: 1}.record(1)); got != 1<<len(sampleAbilities)-1-1<<2 {
		t.Fatalf("a sound record is accepted for all abilities but one: %b", got)
	}
	b, cases := broken{}, 0
	for _, ks := range knownSamples {
		for _, ss := range seenSamples {
			known, seen := ks.record(1), ss.record(1)
			same, alsoSame := untouched(known), untouched(seen)
			for _, n := range ways() {
				m := mergeSameToken(known, seen, n)
				cases++
				b.check(t, m.key != known, "what the cache has is not put again", "%+v %+v %+v", ks, ss, n)
				checkSameToken(t, b, ks, ss, n, m)
				// Once the cached record is revoked, damage is no longer noted beside it. So the
				// second result may differ from the first there.
				again := mergeSameToken(m.key, seen, n)
				b.check(t, alike(again.key, m.key) && again.doubt == m.doubt || m.key.state == Revoked && again.key.state == Revoked,
					"the same news again changes nothing", "%+v %+v %+v", ks, ss, n)
			}
			b.check(t, same() && alsoSame(), "neither record is changed", "%+v %+v", ks, ss)
		}
	}
	if cases != 84*144*12 {
		t.Errorf("%d cases were tried", cases)
	}
}

func checkSameToken(t *testing.T, b broken, ks, ss sample, n news, m merged) {
	check := func(holds bool, rule string) { b.check(t, holds, rule, "%+v %+v %+v", ks, ss, n) }
	got, known, sound := m.key, ks, !ss.damaged
	byHand := sound && ss.unlisted && (ss.key != ks.key || ss.version == ks.version && ss.head == ks.head && !ks.unlisted)
	listed := sound && !ss.unlisted
	revoked := ks.state == Revoked || sound && !byHand && ss.state == Revoked

	check(!revoked || got.state == Revoked && got.info.State == Revoked && !got.info.RevokedAt.IsZero() && allows(got) == 0,
		"a revocation that was seen stays")
	check(!(known.ended || listed && ss.ended) || got.ended && allows(got) == 0, "an end that was seen stays")
	check(sound && !byHand || allows(got) == 0, "a damaged record is never accepted")
	if !sound || byHand {
		check(got.trouble().damage != nil && m.doubt || ks.state == Revoked, "the store is asked again about a damaged record")
		check(got.trouble() == (trouble{}) || ks.state != Revoked, "damage does not hide a revocation")
		done, ended := Active, false
		if n.from == toldHere {
			done = map[Action]State{ActionSuspend: Suspended, ActionRevoke: Revoked}[n.did]
			ended = ss.ended && !ss.unlisted && n.id == CredentialID{1}
		}
		check(got.state == max(ks.state, min(ss.state, done)) && (got.ended == (ks.ended || ended) || ks.state == Revoked),
			"of a damaged record only what was done here counts")
		check(got.info.Version == uint64(ks.version) && got.abilities.held[0] == ks.record(1).abilities.held[0] && !got.info.RevokedAt.Before(ks.record(1).info.RevokedAt),
			"what was believed last stays beside a damage")
		return
	}
	newer := ss.version > ks.version
	older := ss.version < ks.version
	if ss.unlisted && !older && ks.state != Revoked {
		check(allows(got) == 0 && m.doubt && got.info.Version == uint64(ss.version), "a token that its record drops is refused")
		return
	}
	check(!(newer && (ks.state != Revoked || ss.state == Revoked)) || got.info.Version == uint64(ss.version) && got.trouble() == (trouble{}) && !m.doubt,
		"the terms of the newer version count, and they alone")
	check(!older || ss.state == Revoked || got.info.Version == uint64(ks.version), "an older version replaces nothing")
	if differ := older || ss.version == ks.version && ss.head != ks.head; differ && ks.state != Revoked && ss.state != Revoked {
		check(allows(got)&^(allows(ks.sound())&allows(ss.record(1))) == 0 && got.trouble().also != nil, "what either forbids is forbidden")
		check(m.doubt == (n.from != readNow), "a read decides between two records that disagree")
	}
	if ss.version == ks.version && ss.head == ks.head && n.did != ActionResume {
		check(got.state == max(ks.state, ss.state), "a state within one version is only raised")
	}
	if n.did == ActionResume && ss.version == ks.version && ss.head == ks.head && ks.state == Suspended {
		check(got.state == ss.state, "Resume ends a suspension")
	}
	if symmetric := ss.version == ks.version || ks.state == Revoked || ss.state == Revoked; symmetric && listed && !ks.unlisted && n.did == "" {
		other := mergeSameToken(ss.record(1), ks.sound(), n)
		check(allows(got) == allows(other.key) && (got.state == Revoked) == (other.key.state == Revoked), "whichever came first")
	}
}

// sound returns the sample's record without its trouble: the record that was believed
// last.
func (s sample) sound() *cachedKey {
	s.damaged, s.also = false, false
	return s.record(1)
}

func TestCacheMergesRecordsOfTwoTokens(t *testing.T) {
	b, cases := broken{}, 0
	for _, rs := range rowSamples {
		for _, ks := range knownSamples {
			row, known := rs.record(1), ks.record(2)
			same, alsoSame := untouched(row), untouched(known)
			forRow, forKnown := mergeOtherToken(row, known)
			cases++
			check := func(holds bool, rule string) { b.check(t, holds, rule, "%+v %+v", rs, ks) }
			check(same() && alsoSame(), "neither record is changed")
			got, other := forRow.key, forKnown.key
			check(got.id == row.id && got.info.Credential == row.id && other.id == known.id, "each token keeps its record")
			check(got.notBefore == row.notBefore && got.notAfter == row.notAfter && got.until == row.until && got.ended == row.ended,
				"the window and the end of a token are its own")
			check(other.ended == known.ended && other.trouble() == known.trouble(), "the end and the damage of the other token stay")
			check(allows(got)&^allows(row) == 0 && allows(other)&^allows(known) == 0, "nothing is allowed that was forbidden")

			differ := ks.version > rs.version || ks.version == rs.version && (ks.head != rs.head || ks.state != rs.state)
			switch {
			case rs.state == Revoked || ks.state == Revoked:
				check(got.state == Revoked && other.state == Revoked && got.info.State == Revoked && other.info.State == Revoked &&
					!got.info.RevokedAt.IsZero() && !other.info.RevokedAt.IsZero(), "a revocation counts for both tokens")
				swapped, _ := mergeOtherToken(known, row)
				check(allows(swapped.key) == 0 && swapped.key.state == Revoked, "whichever token saw the revocation")
			case ks.version < rs.version:
				check(got == row && !forRow.doubt, "the newer record of a token counts")
				check(forKnown.doubt && other != known && alike(other, known), "a token with an older record is read again")
			case differ:
				check(forRow.doubt && other == known, "a token whose record is older is read again")
				check(got.info.Version == uint64(ks.version) && got.unlisted, "the terms of the newer version count")
				check(allows(got)&^(allows(row)&allows(ks.atTimes(row))) == 0, "two records that differ both count")
			default:
				check(got == row && other == known && !forRow.doubt && !forKnown.doubt, "records that agree change nothing")
			}
			againRow, againKnown := mergeOtherToken(got, other)
			check(alike(againRow.key, got) && alike(againKnown.key, other), "the same pair again changes nothing")
		}
	}
	if cases != 24*84 {
		t.Errorf("%d cases were tried", cases)
	}
}

// atTimes returns the sample's terms with the end and the times of row's token.
func (s sample) atTimes(row *cachedKey) *cachedKey {
	k := s.sound()
	k.ended, k.notBefore, k.notAfter, k.until = row.ended, row.notBefore, row.notAfter, row.until
	return k
}
