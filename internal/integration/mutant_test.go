// Package integration holds the suites that are too long for the root.
package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A mutant is a guard taken out of the source: in file, old becomes new, and
// then the tests named must fail. The product has no switch that turns a guard
// off; the changed file exists only as an overlay of the compiler.
type mutant struct {
	name, file, old, new string
	tests                string // -run
	pkg                  string // "." unless set
}

var mutants = []mutant{
	{name: "the fence is gone", file: "cache.go",
		old:   "current := c.generation(id) == gen",
		new:   "current := true || c.generation(id) == gen",
		tests: "TestNobodyIsAnsweredFromAnOlderFlight|TestAbsenceIsFenced"},
	{name: "the fence is gone, by racing", file: "cache.go",
		old:   "current := c.generation(id) == gen",
		new:   "current := true || c.generation(id) == gen",
		tests: "TestRevokeMeansNow"},
	{name: "an older read may be joined", file: "verify.go",
		old:   "got, err := v.read(ctx, rowKey{p.id, gen})\n\t\t\tif err == nil && !proven",
		new:   "got, err := v.read(ctx, rowKey{p.id, 0})\n\t\t\tif err == nil && !proven",
		tests: "TestNobodyIsAnsweredFromAnOlderFlight"},
	{name: "a forgotten generation comes back", file: "cache.go",
		old:   "\tclear(c.changed)\n\tc.all = c.gen\n}",
		new:   "\tclear(c.changed)\n}",
		tests: "TestAReadThatOutlivesItsFlight"},
	{name: "local verifiers are not told", file: "manager.go",
		old:   "v.take(c.Record, n.start)",
		new:   "_ = v",
		tests: "TestRevokeMeansNow"},
	{name: "a proof is shared between different tokens of one ID", file: "verify.go",
		old:   "proofKey{digest, v.cache.since(p.id)}",
		new:   "proofKey{[32]byte(append(p.id[:], p.id[:]...)), v.cache.since(p.id)}",
		tests: "TestOneRightAmongManyOnOneColdID"},
	{name: "a bare ID hits the cache", file: "cache.go",
		old:   "subtle.ConstantTimeCompare(e.digest[:], digest[:]) != 1",
		new:   "subtle.ConstantTimeCompare(e.digest[:], e.digest[:]) != 1",
		tests: "TestWrongSecretOfAWarmKeyIsFinal"},
	{name: "an older record replaces a newer one", file: "cache.go",
		old:   "case k.info.Version < known.info.Version, death && k.info.State != Revoked:",
		new:   "case death && k.info.State != Revoked && false:",
		tests: "TestAnOlderRecordRevivesNothing"},
	{name: "the dead rise", file: "cache.go",
		old:   "case k.info.Version < known.info.Version, death && k.info.State != Revoked:",
		new:   "case k.info.Version < known.info.Version && !death:",
		tests: "TestRestoredDatabaseIsNoticed"},
	{name: "MaxAge is gone", file: "verify.go",
		old:   "age := elapsed(now, readAt)",
		new:   "age := min(elapsed(now, readAt), 0)",
		tests: "TestMaxAge"},
	{name: "MaxStale is gone", file: "sync.go",
		old:   "return good != nil && elapsed(now, *good) <= maxStale",
		new:   "return good != nil && elapsed(now, *good) <= 1000*maxStale",
		tests: "TestFrozenVerifierAcceptsNothingStale|TestBlackHole"},
	{name: "a lagging replica counts as a sync", file: "sync.go",
		old:   "if !changes.Current {",
		new:   "if false && !changes.Current {",
		tests: "TestLaggingReplicaIsNoSync"},
	{name: "a lost cursor is not noticed", file: "sync.go",
		old:   "\t\t\tv.feed.cursor = \"\"\n\t\t\tv.cache.doubt()\n\t\t\tcontinue",
		new:   "\t\t\treturn 0, nil",
		tests: "TestRestoredDatabaseIsNoticed"},
	{name: "an error is remembered as absence", file: "verify.go",
		old:   "o.absent = errors.Is(err, ErrNotFound)",
		new:   "o.absent = err != nil",
		tests: "TestUnknownIDsAreRememberedForTwoSeconds"},
	{name: "cold reads are not bounded", file: "verify.go",
		old:   "release, err := v.cold.enter(ctx, 1)",
		new:   "release, err := newGate(1, 1, time.Second, 1).enter(ctx, 1)",
		tests: "TestColdReadsAreBounded"},
	{name: "the tag is not compared", file: "record.go",
		old:   "if k == nil || !p.tagHolds(k) {",
		new:   "if k == nil {",
		tests: "TestForgeriesAreCheap"},
	{name: "untagged tokens pass beside a pepper", file: "record.go",
		old:   "if c.ring.has() && !c.acceptUntagged {",
		new:   "if false {",
		tests: "TestSlotZeroIsRefusedWhereThereIsAPepper"},
	{name: "the check is not compared", file: "record.go",
		old:   "subtle.ConstantTimeCompare(makeCheck(k, p), cred.Check) != 1",
		new:   "false",
		tests: "TestOneRightAmongManyOnOneColdID|TestForgeriesAreCheap"},
	{name: "the record's MAC is not compared", file: "record.go",
		old:   "case subtle.ConstantTimeCompare(r.MAC, recordMAC(c.ring.at(r.MAC[0]), r)) != 1:",
		new:   "case len(r.MAC) == 0:",
		tests: "TestDamagedRowIsRefusedUntilItIsRepaired|Tamper"},
	{name: "a change throws the proof away", file: "cache.go",
		old:   "\t\tc.renew(e, k, readAt)\n\t}\n}\n\n// damaged",
		new:   "\t\t_ = k\n\t\tc.remove(e)\n\t}\n}\n\n// damaged",
		tests: "TestNoChangeCostsAHash"},
	{name: "a flight dies with its first caller", file: "flights.go",
		old:   "context.WithoutCancel(ctx)",
		new:   "ctx",
		tests: "TestThousandCallersShareOneReadAndOneHash"},
	{name: "expiry is off by one", file: "verify.go",
		old:   "case !k.info.ExpiresAt.IsZero() && !now.Before(k.info.ExpiresAt):",
		new:   "case !k.info.ExpiresAt.IsZero() && now.After(k.info.ExpiresAt):",
		tests: "TestExpiryIsExact"},
}

func TestMutantsAreCaught(t *testing.T) {
	if len(mutants) == 0 {
		t.Fatal("no mutants")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			source, err := os.ReadFile(filepath.Join(root, m.file))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.old); n != 1 {
				t.Fatalf("the patch no longer applies: %s has its text %d times", m.file, n)
			}
			dir := t.TempDir()
			changed := filepath.Join(dir, filepath.Base(m.file))
			write(t, changed, []byte(strings.Replace(string(source), m.old, m.new, 1)))
			overlay, _ := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, m.file): changed}})
			write(t, filepath.Join(dir, "overlay.json"), overlay)

			pkg := m.pkg
			if pkg == "" {
				pkg = "."
			}
			binary := filepath.Join(dir, "mutant.test")
			build := exec.Command("go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, pkg)
			build.Dir = root
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("the mutant does not build, so it proves nothing: %v\n%s", err, out)
			}
			start := time.Now()
			run := exec.Command(binary, "-test.run", "^("+m.tests+")", "-test.timeout", "60s")
			run.Dir = filepath.Join(root, pkg)
			out, err := run.CombinedOutput()
			switch {
			case strings.Contains(string(out), "no tests to run"):
				t.Fatalf("no test matches %s", m.tests)
			case err == nil:
				t.Fatalf("survived %s", m.tests)
			case !strings.Contains(string(out), "--- FAIL"):
				t.Fatalf("did not fail by a test: %s", out)
			}
			t.Logf("caught by %s in %v", m.tests, time.Since(start).Round(time.Millisecond))
		})
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
