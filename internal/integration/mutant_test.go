// Package integration holds the suites that are too long for go test ./... at the root.
package integration

import (
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"hash/fnv"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A mutant is a guard taken out of the source: in file, old becomes new, and
// then the tests named must fail. The product has no switch that turns a guard
// off; the changed file exists only as an overlay of the compiler.
type mutant struct {
	name, file, old, new string
	more                 [][2]string // replaced as well
	tests                string      // -run
	pkg                  string      // with those tests; internal/apitest unless set
}

var mutants = []mutant{
	{name: "the fence is gone", file: "cache.go",
		old:   "current = c.generation(id) == gen",
		new:   "current = true || c.generation(id) == gen",
		tests: "TestNobodyIsAnsweredFromAnOlderFlight|TestAbsenceIsFenced"},
	{name: "the fence is gone, by racing", file: "cache.go",
		old:   "current = c.generation(id) == gen",
		new:   "current = true || c.generation(id) == gen",
		tests: "TestRevokeMeansNow"},
	{name: "an older read may be joined", file: "verify_find.go",
		old:   "v.read(ctx, rowKey{p.id, gen, v.coldReads",
		new:   "v.read(ctx, rowKey{p.id, 0, v.coldReads",
		tests: "TestNobodyIsAnsweredFromAnOlderFlight"},
	{name: "a forgotten generation comes back", file: "cache.go",
		old:   "\tclear(c.keys)\n\tc.all = c.gen\n}",
		new:   "\tclear(c.keys)\n}",
		tests: "TestManyChangesAreNotForgotten"},
	{name: "local verifiers are not told", file: "manager.go",
		old:   "\t\t\tv.take(told)\n",
		new:   "\t\t\t_ = v\n",
		tests: "TestRevokeMeansNow"},
	{name: "Committed believes the transaction's records", file: "tx.go",
		old:   "\t\tchanges[i].Record = now\n",
		new:   "",
		tests: "TestFound06CommittedIsNotTheLast"},
	{name: "Committed does not look for the event", file: "tx.go",
		old:   "now); err != nil || !there {",
		new:   "now); err != nil || !there && false {",
		tests: "TestFound06CommittedAfterARollback|TestFound06CommittedAfterASavepoint"},
	{name: "an event of the same Seq is the event", file: "tx.go",
		old:   "now.Version == e.Seq && now.Head == e.Hash",
		new:   "now.Version == e.Seq",
		tests: "TestFound06CommittedAfterASavepoint"},
	{name: "what Committed could not ask about is taken for known", file: "tx.go",
		old:   "\t\t\tt.s.doubt(n.changes)\n",
		new:   "",
		tests: "TestFound06CommittedWithoutAStore"},
	{name: "a Tx on the Manager's own store", file: "tx.go",
		old:   "joined == m.settings.Store:",
		new:   "joined == m.settings.Store && false:",
		tests: "TestFound06TxOutsideATransaction"},
	{name: "a mark without a vouch counts", file: "pepper_mark.go",
		old:   "if k := c.ring.at(v[0]); k != nil && subtle.ConstantTimeCompare(v, vouchOf(k, slot, mark)) == 1 {\n\t\t\treturn true\n\t\t}\n\t}\n\treturn false",
		new:   "if k := c.ring.at(v[0]); k != nil && subtle.ConstantTimeCompare(v, vouchOf(k, slot, mark)) == 1 {\n\t\t\treturn true\n\t\t}\n\t}\n\treturn true",
		tests: "TestFound04AMadeUpPepper"},
	{name: "a vouch is not compared", file: "pepper_mark.go",
		old:   "k != nil && subtle.ConstantTimeCompare(v, vouchOf(k, slot, mark)) == 1",
		new:   "k != nil && subtle.ConstantTimeCompare(v, vouchOf(k, slot, mark)) >= 0",
		tests: "TestFound04AMadeUpPepper"},
	{name: "a vouch fits every slot", file: "pepper_mark.go",
		old:   "\tc.Uint(uint64(slot))\n\tc.Bytes(mark)",
		new:   "\tc.Bytes(mark)",
		tests: "TestFound04AMadeUpPepper"},
	{name: "a start vouches for what nobody vouched for", file: "pepper_mark.go",
		old:   "if !m.genuine(slot, all[slot]) {\n\t\t\tcontinue",
		new:   "if !m.genuine(slot, all[slot]) && false {\n\t\t\tcontinue",
		tests: "TestFound04AMadeUpPepper|TestFound04MarksOfBefore"},
	{name: "junk counts as a mark", file: "pepper_mark.go",
		old:   " && markID(slot) == it.ID {",
		new:   " {",
		tests: "TestFound04JunkBesideTheMarks"},
	{name: "an event does not say which pepper was before", file: "chain.go",
		old:   "case keyed && l.after != 0 && l.after != last.slot+1:",
		new:   "case keyed && l.after != 0 && l.after != last.slot+1 && false:",
		tests: "TestFound04TwoPeppersAlternate"},
	{name: "the newest event is of any pepper", file: "chain.go",
		old:   "slot := macSlot(r.MAC); l.slot != slot {",
		new:   "slot := macSlot(r.MAC); l.slot != slot && false {",
		tests: "TestFound04TheNewestEventIsTheRecords"},
	{name: "a retired pepper never ends", file: "chain.go",
		old:   "if s.remac > 0 && s.late[l.slot] == 0 {",
		new:   "if false {",
		tests: "TestFound04WhoeverHasALeakedPepper"},
	{name: "a pepper that Remac found in use has ended before", file: "chain.go",
		old:   "\t\t\ts.late[l.after-1] = 0\n",
		new:   "",
		tests: "TestFound04WhoeverHasALeakedPepper"},
	{name: "Events shows a body that fails its check", file: "audit.go",
		old:   "\tcase l.fault != \"\":\n\t\tl.Event = byColumns(e)\n\t\tl.Doubt = DoubtFailed",
		new:   "\tcase l.fault != \"\":\n\t\tl.Doubt = DoubtFailed",
		tests: "TestFound05EventsAreChecked"},
	{name: "Events does not check the MAC", file: "audit.go",
		old:   "if subtle.ConstantTimeCompare(want[:], e.Hash[:]) != 1 {",
		new:   "if subtle.ConstantTimeCompare(want[:], e.Hash[:]) > 1 {",
		tests: "TestFound05EventsAreChecked"},
	{name: "Events does not compare the columns", file: "audit.go",
		old:   "case l.ID != e.ID || l.Seq",
		new:   "case false && l.ID != e.ID || false && l.Seq",
		tests: "TestFound05EventsAreChecked"},
	{name: "an event without a pepper passes for one with", file: "audit.go",
		old:   "case !l.sound || l.slot == 0:",
		new:   "case !l.sound:",
		tests: "TestFound05EventsAreChecked"},
	{name: "a Tx on a store that is in no transaction", file: "tx.go",
		old:   "ok && !says.InTransaction():",
		new:   "ok && !says.InTransaction() && false:",
		tests: "TestFound06TxOutsideATransaction"},
	{name: "a proof is shared between different tokens of one ID", file: "verify_find.go",
		old:   "proofKey{digest, v.cache.since(p.id)}",
		new:   "proofKey{[32]byte(append(p.id[:], p.id[:]...)), v.cache.since(p.id)}",
		tests: "TestOneRightAmongManyOnOneColdID"},
	{name: "a bare ID hits the cache", file: "cache.go",
		old:   "for subtle.ConstantTimeCompare(proof[:], digest[:len(proof)]) != 1 {",
		new:   "for subtle.ConstantTimeCompare(proof[:], digest[:len(proof)]) > 1 {",
		tests: "TestWrongSecretOfAWarmKeyIsFinal"},
	{name: "what looks like a warm ID is a wrong secret", file: "cache.go",
		old:   "if k.id == p.id {",
		new:   "if true || k.id == p.id {",
		tests: "TestTwoIDsThatTheTableTakesForOne"},
	{name: "a wrong secret of a warm ID is asked of the store", file: "cache.go",
		old:   "if k.id == p.id {",
		new:   "if false {",
		tests: "TestTwoIDsThatTheTableTakesForOne"},
	{name: "only the first that looks right is looked at", file: "cache.go",
		old:   "if k = s.Next(); k == nil {",
		new:   "if k = nil; k == nil {",
		tests: "TestTwoIDsThatTheTableTakesForOne"},
	{name: "a new table leaves some behind", file: "internal/table/table.go",
		old:   "if v := t.slots.Load().values[i].Load(); v != nil {",
		new:   "if v := t.slots.Load().values[i].Load(); v != nil && i%16 > 0 {",
		tests: "TestTwoIDsThatTheTableTakesForOne"},
	{name: "dead entries leave when it is their turn", file: "cache.go",
		old:   "e.idle = c.idle(k, now.wall)",
		new:   "e.idle = false",
		tests: "TestFound08DeadEntriesLeaveFirst"},
	{name: "a dead entry makes one of use leave", file: "cache_warm.go",
		old:   "if keep.idle {",
		new:   "if false {",
		tests: "TestFound08DeadEntriesLeaveFirst|TestFound08DeadEntriesTakeNoRoom"},
	{name: "an entry that dies stays where it is", file: "cache_change.go",
		old:   "\tc.warm.sort(e, c.idle(k, c.now().wall))\n",
		new:   "",
		tests: "TestFound08EntriesThatDieInTheCacheLeaveFirst"},
	{name: "nobody looks for entries that have expired", file: "cache_warm.go",
		old:   "\t\tw.sweep(now)\n",
		new:   "",
		tests: "TestFound08EntriesThatDieInTheCacheLeaveFirst"},
	{name: "an older record replaces a newer one", file: "cache_merge.go",
		old:   "case seen.same(known) || seen.info.Version > known.info.Version:",
		new:   "case true:",
		tests: "TestAnOlderRecordRevivesNothing"},
	{name: "an older record counts for nothing", file: "cache_merge.go",
		old:   "\tknown.set(trouble{also: seen})\n",
		new:   "",
		tests: "TestRevokeAfterARestoreCounts"},
	{name: "a late message is not checked", file: "cache_merge.go",
		old:   "return merged{known, n.from != readNow}",
		new:   "return merged{known, false}",
		tests: "TestALateMessageHealsAtTheNextUse"},
	{name: "whoever has not signed in is nowhere", file: "revoketoken.go",
		old:   "from := addrOf(presenterOf(ctx).Addr)",
		new:   "from := addrOf(\"\")",
		tests: "TestFound07StrangersReportInTurns"},
	{name: "events without a pepper are sound", file: "chain.go",
		old:   "loose++",
		new:   "_ = loose",
		tests: "TestFound04EventsWithoutAPepperAreCounted"},
	{name: "a network is its first 64 bits", file: "verify_judge.go",
		old:   "k.bits <= 64 && ",
		new:   "",
		tests: "TestNetworkOfEveryLength"},
	{name: "an IPv6 address is in an IPv4 network", file: "verify_judge.go",
		old:   "version == k.bound && ",
		new:   "(version|k.bound) != 0 && ",
		tests: "TestNetworkOfEveryLength"},
	{name: "an address keeps its zone", file: "verify_judge.go",
		old:   "addr = addr.Unmap().WithZone(\"\")",
		new:   "addr = addr.Unmap()",
		tests: "TestFound24ZonesAndMappedAddresses"},
	{name: "of two pasted tokens one is taken", file: "revoketoken.go",
		old:   "case q.kind == Secret && q.text != p.text:",
		new:   "case false:",
		tests: "TestFound24WhatIsNoPaste"},
	{name: "a paste has any length", file: "revoketoken.go",
		old:   "if len(text) > maxPaste {",
		new:   "if false {",
		tests: "TestFound24WhatIsNoPaste"},
	{name: "a web page's script is asked for a user name", file: "httpauth/answer.go",
		old:   "case c.scheme == \"Basic\" && fromScript(r.Header):",
		new:   "case false:",
		tests: "TestFound23TheChallengeNamesWhatIsAccepted", pkg: "./httpauth"},
	{name: "a name hides what it is", file: "manager_fields.go",
		old:   "return showable(r.Name)",
		new:   "return nil",
		tests: "TestFound26NamesShowWhatTheyAre"},
	{name: "a name has a joiner anywhere", file: "manager_fields.go",
		old:   "if !joins(before, r, after) {",
		new:   "if !joins(before, r, after) && false {",
		tests: "TestFound26NamesShowWhatTheyAre"},
	{name: "a forged death is believed", file: "revoke.go",
		old:   "sound := s.authentic(stored) == nil",
		new:   "sound := s.authentic(stored) == nil || stored.State() == Revoked",
		tests: "TestAForgedDeathSwallowsNoRevocation"},
	{name: "every use is asked to be written", file: "verify_usage.go",
		old:   "if uint64(end-1-at) < uint64(u.every) {",
		new:   "if false {",
		tests: "TestFound27LastUsedIsWrittenOnceAMinute"},
	{name: "every node writes a window", file: "verify_usage.go",
		old:   ", UsedBefore: time.UnixMicro(v.usage.window(id, at)).UTC()",
		new:   "",
		tests: "TestFound27LastUsedIsWrittenOnceAMinute"},
	{name: "a clock that was ahead is remembered", file: "verify_usage.go",
		old:   "if uint64(end-1-at) < uint64(u.every) {",
		new:   "if at < end {",
		tests: "TestFound20ANodeWhoseClockWasAhead"},
	{name: "a reference store takes any time of use", file: "memstore/apply.go",
		old:   "if used.After(now) {",
		new:   "if false {",
		tests: "TestFound20ANodeWhoseClockWasAhead"},
	{name: "warm keys queue with junk", file: "verify_reads.go",
		old:   "g = v.warmReads",
		new:   "g = v.coldReads.gate",
		tests: "TestJunkDoesNotHoldUpWarmKeys"},
	{name: "Sync joins a run that has read already", file: "verify_sync.go",
		old:   "if run == 0 || run > asked {",
		new:   "if run == 0 || run > asked-1 {",
		tests: "TestSyncAsksAfterItWasCalled"},
	{name: "the account is not compared", file: "manager_do.go",
		old:   "if !a.operator && r.Account != a.Account {",
		new:   "if false && r.Account != a.Account {",
		tests: "TestAnotherAccountDoesNotExist"},
	{name: "the limit is counted without its item", file: "manager_items.go",
		old:   "it := c.item\n\tit.Version++\n",
		new:   "it := c.item\n\tit.ID += newEventID().String()[20:]\n\tit.Version = 1\n",
		tests: "TestLiveKeysUnderRacing|TestFound08BoundsUnderRacing"},
	{name: "a key that is made is not counted", file: "issue.go",
		old:   "changed: namesOf(settingsSet(r))}}, items: []StoreItem{growth}}",
		new:   "changed: namesOf(settingsSet(r))}}, items: []StoreItem{growth}[:0]}",
		tests: "TestFound08BoundsUnderRacing"},
	{name: "an account may have any number of keys", file: "manager_items.go",
		old:   "keys := s.limits.Keys\n",
		new:   "keys := s.limits.Keys + math.MaxInt32/2\n",
		tests: "TestFound08KeysAreBounded"},
	{name: "an Operator is bound too", file: "manager_items.go",
		old:   "keys = math.MaxInt32\n",
		new:   "keys += 0\n",
		tests: "TestFound08KeysAreBounded"},
	{name: "suspended keys do not count", file: "manager_items.go",
		old:   "StoreFilter{Account: account, State: Active}, StoreFilter{Account: account, State: Suspended})",
		new:   "StoreFilter{Account: account, State: Active})",
		tests: "TestFound08KeysAreBounded"},
	{name: "the hour is not counted", file: "manager_items.go",
		old:   "case sum > limit:",
		new:   "case sum > limit+1<<30:",
		tests: "TestFound08IssuesAnHourAreBounded"},
	{name: "the hour never ends", file: "manager_items.go",
		old:   "i.second <= second-3600 ||",
		new:   "i.second <= second-3600<<10 ||",
		tests: "TestFound08IssuesAnHourAreBounded"},
	{name: "what an older process passes on is believed", file: "manager_items.go",
		old:   "c.known, c.bound, c.group = version == it.Version, int(bound), group",
		new:   "c.known, c.bound, c.group = version > 0, int(bound), group",
		tests: "TestFound08OldProcessesAreNoticed"},
	{name: "counting walks", file: "manager_items.go",
		old:   "if !c.known || c.bound > limit-n {",
		new:   "{",
		tests: "TestFound08CountingDoesNotWalk"},
	{name: "a full account's tokens are hashed", file: "issue.go",
		old:   "return s.room(ctx, a, i.blank, now)",
		new:   "return nil",
		tests: "TestFound08AFullAccountCostsNoHash"},
	{name: "the dead rise", file: "cache_merge.go",
		old:   "case known.state == Revoked && seen.state != Revoked:",
		new:   "case known.state == Revoked && seen.state != Revoked && false:",
		tests: "TestTheDeadStayDead"},
	{name: "MaxAge is gone", file: "verify_find.go",
		old:   "age := elapsed(now, readAt)",
		new:   "age := min(elapsed(now, readAt), 0)",
		tests: "TestMaxAge"},
	{name: "MaxStale is gone", file: "verify_sync.go",
		old:   "return good != nil && elapsed(now, *good) <= maxStale",
		new:   "return good != nil && elapsed(now, *good) <= 1000*maxStale",
		tests: "TestFrozenVerifierAcceptsNothingStale|TestBlackHole"},
	{name: "a lagging replica counts as a sync", file: "verify_sync.go",
		old:   "case !changes.Current:",
		new:   "case false:",
		tests: "TestLaggingReplicaIsNoSync"},
	{name: "a lost cursor is not noticed", file: "verify_sync.go",
		old:   "\t\tw.cursor, w.before = \"\", nil\n\t\tv.cache.doubt()\n\t\treturn lost, nil",
		new:   "\t\treturn following, nil",
		tests: "TestRestoredDatabaseIsNoticed"},
	{name: "an older reading ends a doubt", file: "cache_change.go",
		old:   "inDoubt := was == (instant{}) && n.from != readNow",
		new:   "inDoubt := false",
		tests: "TestADoubtOutlivesAnOlderRead"},
	{name: "a record that is shown again is taken again", file: "verify_sync.go",
		old:   "!again || was != is {",
		new:   "!again || was != is || true {",
		tests: "TestARepeatedRecordFencesNothing"},
	{name: "a run that hangs is waited for", file: "flights.go",
		old:   "time.Since(fl.began) < flightTime+time.Second || f.left == maxLeft {",
		new:   "true || f.left == maxLeft {",
		tests: "TestOneCallThatHangs"},
	{name: "a store that is away is asked by every hit", file: "cache.go",
		old:   "now.mono < e.notBefore {",
		new:   "e.notBefore == never {",
		tests: "TestAnOutageIsNotAskedByEveryHit"},
	{name: "a token that its record drops is forgotten", file: "cache_change.go",
		old:   "if len(all) > maxSiblings && dropped(known, seen) {",
		new:   "if dropped(known, seen) {",
		tests: "TestADroppedTokenStaysDead"},
	{name: "a token that its record drops is not fenced", file: "cache.go",
		old:   " && (o.key == nil || c.keys[o.key.info.ID] <= o.begun)",
		new:   "",
		tests: "TestADroppedCredentialIsFenced"},
	{name: "the tokens of a key know nothing of each other", file: "cache.go",
		old:   "m := c.compare(o.key)",
		new:   "m := merged{key: o.key}",
		tests: "TestADeathSeenByASibling"},
	{name: "what a sibling has seen is only its own", file: "cache_merge.go",
		old:   "forRow = merged{bothFor(row, known), true}",
		new:   "forRow = merged{row, true}",
		tests: "TestASiblingAfterARestore"},
	{name: "an end is forgotten beside a sibling", file: "cache_merge.go",
		old:   "both.ended, both.unlisted = row.ended, true",
		new:   "both.ended, both.unlisted = false, true",
		tests: "TestAnEndIsForEver"},
	{name: "only a run that walks once more is good", file: "verify_sync.go",
		old:   "\tf.good.Store(&began)\n",
		new:   "\t_ = began\n",
		tests: "TestLongWalk"},
	{name: "an overtaken reading counts", file: "cache_change.go",
		old:   "if n.from == readNow && max(c.generation(n.id), c.keys[r.ID]) > n.begun {",
		new:   "if n.from == readNow && c.generation(n.id) > n.begun {",
		tests: "TestAnOvertakenReadOfADroppedToken"},
	{name: "a damaged row says what was done to it", file: "cache_merge.go",
		old:   "state, ended := n.doneTo(seen)",
		new:   "state, ended := seen.state, seen.ended",
		tests: "TestOnlyWhatWasDoneIsRemembered"},
	{name: "a walk that was resumed is a sync", file: "verify_sync.go",
		old:   "again, w.resumed = w.resumed, false",
		new:   "again, w.resumed = false, false",
		tests: "TestARunThatGoesOnIsNoSync"},
	{name: "a death is forgotten with its row", file: "cache.go",
		old:   "\tc.put(e, k, readAt)\n}",
		new:   "\tc.remove(e)\n}",
		tests: "TestADeathOutlivesAnEmptyStore"},
	{name: "an error is remembered as absence", file: "verify_find.go",
		old:   "o.absent = errors.Is(err, ErrNotFound)",
		new:   "o.absent = err != nil || errors.Is(err, ErrNotFound)",
		tests: "TestUnknownIDsAreRememberedForTwoSeconds"},
	{name: "cold reads are not bounded", file: "verify_reads.go",
		old:   "room, err := g.enter(ctx, key.line, 1)",
		new:   "_, g = g, newGate(1, 1, time.Second, 1)\n\t\troom, err := g.enter(ctx, key.line, 1)",
		tests: "TestColdReadsAreBounded"},
	{name: "lines take no turns", file: "gate.go", pkg: ".",
		old:   "l.lines = append(l.lines, sub)\n\t} else {",
		new:   "l.lines = append([]*line{sub}, l.lines...)\n\t} else {",
		tests: "TestLinesTakeTurns"},
	{name: "who comes waits for one more of the line that is served", file: "gate.go",
		old:   "l.lines[n-2].name == *l.served {",
		new:   "false {",
		tests: "TestFound07WhoComesIsAheadOfTheLineThatIsServed"},
	{name: "who comes passes whoever waits", file: "gate.go",
		old:   "n > 1 && l.served != nil && l.lines[n-2].name == *l.served {",
		new:   "n > 1 {",
		tests: "TestFound07NobodyIsPassedForEver"},
	{name: "a full queue makes no room", file: "gate.go",
		old:   "last := g.queue.tooMany(p[:])",
		new:   "last := (*caller)(nil)",
		tests: "TestFound07ColdKeysAreReadInTurns"},
	{name: "an account's tokens have no group", file: "issue.go",
		old:   "copy(id[len(id)-groupLen:], group)",
		new:   "copy(id[len(id)-groupLen:], group[:0])",
		tests: "TestFound07AnAccountsTokensAreOneGroup"},
	{name: "rotation leaves the group", file: "rotation.go",
		old:   "group = groupOf(stored.Credentials[0].ID)",
		new:   "group = newGroup()",
		tests: "TestFound07AnAccountsTokensAreOneGroup"},
	{name: "networks take no turns", file: "verify_reads.go",
		old:   "return path{known, network, address, groupOf(id)}",
		new:   "return path{known, network[:0], address[:0], groupOf(id)}",
		tests: "TestFound07ColdKeysAreReadInTurns"},
	{name: "a merchant's reads again hold up others'", file: "verify_reads.go",
		old:   "return path{k.account, string(k.info.ID[:])}",
		new:   "return path{string(k.account[:0])}",
		tests: "TestFound07WarmKeysAreReadAgainInTurns"},
	{name: "ending a leak has no turns of its own", file: "revoketoken.go",
		old:   "line[0] = \"exit\"",
		new:   "line[0] = \"\"",
		tests: "TestFound07LeaksHaveEverySecondHash"},
	{name: "who hangs up takes the others along", file: "flights.go",
		old:   "if fl.waiting--; fl.waiting == 0 {",
		new:   "if fl.waiting--; fl.stop != nil {",
		tests: "TestFound07WhoHangsUpStopsNoRevocation"},
	{name: "a dead token costs a hash", file: "revoketoken.go",
		old:   "over := cred != nil &&",
		new:   "over := cred == nil &&",
		tests: "TestFound07ADeadTokenCostsNoHash"},
	{name: "a live token is ended by 32 bits", file: "revoketoken.go",
		old:   "p, &r, over); err != nil {",
		new:   "p, &r, over || true); err != nil {",
		tests: "TestFound07ADeadTokenCostsNoHash"},
	{name: "a leak in use waits with junk", file: "revoketoken.go",
		old:   "found == hit && k.trouble().damage == nil",
		new:   "found == miss && k != nil && k.trouble().damage == nil",
		tests: "TestFound07ALeakInUseNeedsNoGate"},
	{name: "the tag is not compared", file: "prove.go",
		old:   "if k == nil || !p.tagHolds(k) {",
		new:   "if k == nil {",
		tests: "TestForgeriesAreCheap"},
	{name: "untagged tokens pass beside a pepper", file: "prove.go",
		old:   "if c.ring.has() && !c.settings.AcceptUntagged {",
		new:   "if false {",
		tests: "TestSlotZeroIsRefusedWhereThereIsAPepper"},
	{name: "the check is not compared", file: "prove.go",
		old:   "subtle.ConstantTimeCompare(check, cred.Check) != 1",
		new:   "false",
		tests: "TestOneRightAmongManyOnOneColdID|TestForgeriesAreCheap"},
	{name: "the record's MAC is not compared", file: "prove.go",
		old:   "case subtle.ConstantTimeCompare(r.MAC, recordMAC(c.ring.at(r.MAC[0]), r)) != 1:",
		new:   "case len(r.MAC) == 0:",
		tests: "TestDamagedRowIsRefusedUntilItIsRepaired"},
	{name: "a change throws the proof away", file: "cache_change.go",
		old:   "\t\tc.renew(e, seen, n)\n\t}\n}\n\n// maxSiblings",
		new:   "\t\tc.remove(e)\n\t}\n}\n\n// maxSiblings",
		tests: "TestNoChangeCostsAHash"},
	{name: "a flight dies with its first caller", file: "flights.go",
		old:   "ctx, cancel := f.tasks.detached(ctx)",
		new:   "ctx, cancel := context.WithTimeout(ctx, flightTime)",
		tests: "TestThousandCallersShareOneReadAndOneHash"},
	{name: "expiry is off by one", file: "verify_judge.go",
		old:   "\tcase now >= k.until:\n",
		new:   "\tcase now > k.until:\n",
		tests: "TestExpiryIsExact"},
}

// said is what a test says first, usually why it fails.
var said = regexp.MustCompile(`(?m)\w+_test\.go:\d+: .*$`)

// hasTurn says whether it is a mutant's turn: one of 24 has it, and others
// after each change of the file. With -full all have, which takes long: each is a build.
func (m mutant) hasTurn(source []byte) bool {
	h := fnv.New32a()
	h.Write(source)
	fmt.Fprint(h, m)
	return *full || h.Sum32()%24 == 0
}

func allMutants() []mutant {
	return slices.Concat(mutants, stepUpMutants, sqlMutants, gateMutants)
}

// patched returns the mutant's file as it is and with the guard taken out.
func (m mutant) patched(root string) (source []byte, text string, err error) {
	if source, err = os.ReadFile(filepath.Join(root, m.file)); err != nil {
		return nil, "", err
	}
	text = string(source)
	for _, patch := range append([][2]string{{m.old, m.new}}, m.more...) {
		if n := strings.Count(text, patch[0]); n != 1 {
			return nil, "", fmt.Errorf("the patch no longer applies: %s has its text %d times: %s", m.file, n, patch[0])
		}
		text = strings.Replace(text, patch[0], patch[1], 1)
	}
	return source, text, nil
}

// TestMutantsAreUpToDate builds no mutant and takes seconds, so that .ci/run can ask it
// first: whoever changes a guarded line learns at once which mutant has to follow, and
// whoever renames a test which mutants name it.
func TestMutantsAreUpToDate(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	types := newTypeChecker(t, root)
	names := map[string][]string{} // of tests, by package
	for _, m := range allMutants() {
		if _, text, err := m.patched(root); err != nil {
			t.Errorf("%s: %v", m.name, err)
		} else if err := types.check(filepath.Join(root, m.file), text); err != nil {
			t.Errorf("%s does not build: %v", m.name, err)
		}
		pkg := cmp.Or(m.pkg, "internal/apitest")
		if names[pkg] == nil {
			names[pkg] = testNames(t, filepath.Join(root, pkg))
		}
		for alternative := range strings.SplitSeq(m.tests, "|") {
			top, _, _ := strings.Cut(alternative, "/")
			if !slices.ContainsFunc(names[pkg], func(name string) bool { return strings.HasPrefix(name, top) }) {
				t.Errorf("%s: %s has no test %s", m.name, pkg, top)
			}
		}
	}
}

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

func testNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range testFunc.FindAllSubmatch(source, -1) {
			names = append(names, string(name[1]))
		}
	}
	return names
}

func TestMutantsAreCaught(t *testing.T) {
	t.Parallel() // beside tests that wait
	if len(mutants) == 0 {
		t.Fatal("no mutants")
	}
	turns := 0
	defer func() { t.Logf("%d mutants were built", turns) }()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range allMutants() {
		t.Run(m.name, func(t *testing.T) {
			source, text, err := m.patched(root)
			if err != nil {
				t.Fatal(err)
			}
			if !m.hasTurn(source) {
				t.Skip("its patch applies; go test -run Mutants -full builds it")
			}
			turns++
			dir := t.TempDir()
			changed := filepath.Join(dir, filepath.Base(m.file))
			write(t, changed, []byte(text))
			pkg := filepath.Join(root, cmp.Or(m.pkg, "internal/apitest"))
			replaced := map[string]string{filepath.Join(root, m.file): changed}
			for _, file := range sourcesOf(t, pkg).idle(m.tests) {
				replaced[filepath.Join(pkg, file)] = "" // as if it were not there
			}
			overlay, _ := json.Marshal(map[string]any{"Replace": replaced})
			write(t, filepath.Join(dir, "overlay.json"), overlay)

			if m.pkg == here && strings.HasPrefix(m.file, "sqlstore/") {
				postgresBin(t)
				needs(t, "MariaDB", "mariadb-install-db")
			}
			binary := filepath.Join(dir, "mutant.test")
			build := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-w", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary)
			build.Dir = pkg // which may be a module of its own, as this one is
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("the mutant does not build, so it proves nothing: %v\n%s", err, out)
			}
			for alternative := range strings.SplitSeq(m.tests, "|") {
				top, _, _ := strings.Cut(alternative, "/")
				list := exec.Command(binary, "-test.list", "^("+top+")")
				list.Dir = build.Dir
				if out, err := list.Output(); err != nil || !strings.Contains(string(out), "Test") {
					t.Fatalf("no test matches %s: %v", alternative, err)
				}
			}
			start := time.Now()
			run := exec.Command(binary, "-test.run", "^("+m.tests+")", "-test.timeout", "60s", "-test.short", "-test.failfast")
			run.Dir = build.Dir
			out, err := run.CombinedOutput()
			switch {
			case err == nil:
				t.Fatalf("survived %s", m.tests)
			case !strings.Contains(string(out), "--- FAIL"):
				t.Fatalf("did not fail by a test: %s", out)
			}
			t.Logf("caught by %s in %v: %.200s", m.tests, time.Since(start).Round(time.Millisecond), said.Find(out))
		})
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// testSources are the test files of a package, by name.
type testSources map[string]testSource

type testSource struct {
	declares, mentions map[string]bool // names
	extends            map[string]bool // types that it has a method of
	tests              []string
	pinned             bool // it does something by being there
}

var sourcesRead = map[string]testSources{}

func sourcesOf(t *testing.T, dir string) testSources {
	t.Helper()
	if sourcesRead[dir] != nil {
		return sourcesRead[dir]
	}
	all := testSources{}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	must(t, err)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		must(t, err)
		all[filepath.Base(file)] = readSource(parsed)
	}
	sourcesRead[dir] = all
	return all
}

func readSource(file *ast.File) testSource {
	s := testSource{declares: map[string]bool{}, mentions: map[string]bool{}, extends: map[string]bool{}}
	for _, i := range file.Imports {
		s.pinned = s.pinned || i.Name != nil && i.Name.Name == "_" // a driver, perhaps
	}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			switch name := d.Name.Name; {
			case d.Recv != nil:
				ast.Inspect(d.Recv, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok {
						s.extends[id.Name] = true
					}
					return true
				})
			case name == "init" || name == "TestMain":
				s.pinned = true
			default:
				s.declares[name] = true
				if strings.HasPrefix(name, "Test") {
					s.tests = append(s.tests, name)
				}
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					s.declares[spec.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						s.declares[name.Name] = true
					}
				}
			}
		}
	}
	for _, id := range file.Unresolved { // in the file itself
		s.mentions[id.Name] = true
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr: // a constant, or a field: nobody knows without types
			if id, ok := n.Key.(*ast.Ident); ok {
				s.mentions[id.Name] = true
			}
		case *ast.SelectorExpr: // of the package, by a test outside it
			if n.Sel.IsExported() {
				s.mentions[n.Sel.Name] = true
			}
		}
		return true
	})
	return s
}

// idle are the files that some tests, named as for -run, do not need. Compiling the
// tests takes longer than all else of a mutant. Needed is a file that declares one of
// them, or a name that a needed file mentions, or a method of a type of one. If that
// is wrong the mutant does not build, and its test fails.
func (all testSources) idle(tests string) (files []string) {
	needed, mentioned, declared := map[string]bool{}, map[string]bool{}, map[string]bool{}
	need := func(name string) {
		needed[name] = true
		maps.Copy(mentioned, all[name].mentions)
		maps.Copy(declared, all[name].declares)
	}
	tops := strings.Split(tests, "|")
	for i := range tops {
		tops[i], _, _ = strings.Cut(tops[i], "/")
	}
	asked := func(test string) bool {
		return slices.ContainsFunc(tops, func(top string) bool { return strings.HasPrefix(test, top) })
	}
	for name, s := range all {
		if s.pinned || slices.ContainsFunc(s.tests, asked) {
			need(name)
		}
	}
	for grown := true; grown; {
		grown = false
		for name, s := range all {
			if !needed[name] && (meet(s.declares, mentioned) || meet(s.extends, declared)) {
				need(name)
				grown = true
			}
		}
	}
	for name := range all {
		if !needed[name] {
			files = append(files, name)
		}
	}
	return files
}

func meet(a, b map[string]bool) bool {
	for name := range a {
		if b[name] {
			return true
		}
	}
	return false
}
