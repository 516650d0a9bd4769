package storetest_test

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/storetest"
)

// brokenEnv is the environment variable that names a mistake: a child process runs the
// suite on a store with this mistake. A process of its own is needed, because a case that
// fails also fails the tests that run it.
const brokenEnv = "STORETEST_BROKEN"

// sound is the name for a store without a mistake: for it the suite has to pass.
const sound = "none"

// inside is a store with the method InTransaction, which returns is.
type inside struct {
	apikey.Store
	is bool
}

func (s inside) InTransaction() bool { return s.is }

// TestBroken is the test that the child process runs.
func TestBroken(t *testing.T) {
	name, ok := os.LookupEnv(brokenEnv)
	if !ok {
		t.Skip("run by TestSuiteCatches: go test -run TestSuiteCatches ./storetest")
	}
	storetest.Run(t, func(t *testing.T) storetest.Backend {
		s := memstore.New()
		b := storetest.Backend{Store: s, Purge: s.Purge, Backup: func(*testing.T) func(*testing.T) {
			restore := s.Snapshot()
			return func(*testing.T) { restore() }
		}}
		b.In = func(*testing.T) (apikey.Store, func(bool) error) { // the suite does nothing else until end is called
			undo := s.Snapshot()
			return inside{s, true}, func(commit bool) error {
				if !commit {
					undo()
				}
				return nil
			}
		}
		for _, m := range slices.Concat(mistakes, lacking) {
			if m.name == name {
				m.make(&b)
				return b
			}
		}
		if name != sound {
			t.Fatalf("no mistake is called %q", name)
		}
		return b
	})
}

// child runs the cases that match pattern, in a process of its own, on a store with the
// mistake.
func child(t *testing.T, mistake, pattern string) (output string, failed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBroken$/"+pattern, "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), brokenEnv+"="+mistake)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("child: %v\n%s", err, out)
	}
	return string(out), err != nil
}

// TestSuiteCatches shows that a store which breaks a rule fails in the case of that rule,
// and that the case prints the rule.
func TestSuiteCatches(t *testing.T) {
	for _, m := range mistakes {
		t.Run(m.name, m.isCaught)
	}
}

// These wrong stores once passed the suite. An author who knows only one database engine
// well could make each of these mistakes.
func TestFound28WrongStoresAreCaught(t *testing.T) {
	for _, name := range []string{
		"a new ended credential keeps its copy", "an older use stops the hash", "upkeep of ended credentials ignored",
		"no credential without a key", "versions of 32 bits", "versions of 32 bits in items", "sequence of 32 bits",
		"not in the transaction", "half of a conflict stays",
	} {
		i := slices.IndexFunc(mistakes, func(m mistake) bool { return m.name == name })
		if i < 0 {
			t.Fatalf("no mistake is called %q", name)
		}
		t.Run(name, mistakes[i].isCaught)
	}
}

func (m mistake) isCaught(t *testing.T) {
	t.Parallel()
	name := strings.ReplaceAll(m.fails, " ", "_")
	group, c, _ := strings.Cut(name, "/")
	out, failed := child(t, m.name, "^"+group+"$/^"+c+"$")
	if !failed || !strings.Contains(out, "--- FAIL: TestBroken/"+name+" ") {
		t.Errorf("%s did not fail:\n%s", m.fails, out)
	}
	if !strings.Contains(out, "the rule: ") {
		t.Errorf("%s does not say its rule:\n%s", m.fails, out)
	}
	if strings.Contains(out, "panic:") {
		t.Errorf("the suite panicked:\n%s", out)
	}
}

// TestSuitePasses shows that the suite passes for a store without a mistake, and that each
// group has a case that catches one of the mistakes.
func TestSuitePasses(t *testing.T) {
	out, failed := child(t, sound, "")
	if failed {
		t.Fatalf("the suite fails on a sound store:\n%s", out)
	}
	if strings.Contains(out, "--- SKIP") {
		t.Errorf("the suite skips cases on a store that has everything:\n%s", out)
	}
	groups := regexp.MustCompile(`(?m)^    --- PASS: TestBroken/(\S+)`).FindAllStringSubmatch(out, -1)
	if len(groups) == 0 {
		t.Fatalf("no group has run:\n%s", out)
	}
	for _, g := range groups {
		caught := false
		for _, m := range mistakes {
			caught = caught || strings.HasPrefix(strings.ReplaceAll(m.fails, " ", "_"), g[1]+"/")
		}
		if !caught {
			t.Errorf("nothing shows that group %s can fail", g[1])
		}
	}
}

// TestSkips shows that the suite says so if it skips cases, because the Backend does not
// have what they need.
func TestSkips(t *testing.T) {
	for _, m := range lacking {
		t.Run(m.name, func(t *testing.T) {
			out, failed := child(t, m.name, "^"+m.fails+"$")
			if failed || !strings.Contains(out, "skipped: this Backend has "+m.name) {
				t.Errorf("group %s:\n%s", m.fails, out)
			}
		})
	}
}
