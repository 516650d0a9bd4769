package apitest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the repository's, in which pages and sources are named.
const root = "../.."

func textOf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err)
	return string(text)
}

// blocksOf are the fenced blocks of a page in one language.
func blocksOf(t *testing.T, file, language string) (blocks []string) {
	t.Helper()
	for _, block := range strings.Split(textOf(t, file), "```"+language+"\n")[1:] {
		block, _, closed := strings.Cut(block, "```")
		require.True(t, closed)
		blocks = append(blocks, block)
	}
	return blocks
}

// operationsSQL is a statement of docs/operations.md, with a path of the test's
// own.
func operationsSQL(t *testing.T, statement, old, path string) string {
	t.Helper()
	require.Contains(t, strings.Join(blocksOf(t, "docs/operations.md", "sql"), ""), statement+";\n")
	return strings.ReplaceAll(statement, old, path)
}

var shownFunc = regexp.MustCompile(`(?m)^func (\w+)\(`)

// The Go that docs/operations.md shows is what TestOperations executes, to the
// letter, and the page shows all of it.
func TestOperationsIsThisCode(t *testing.T) {
	source := textOf(t, "internal/apitest/operations_test.go")
	steps, days, ok := strings.Cut(source, "\nfunc TestOperations(")
	require.True(t, ok)
	shown := map[string]bool{}
	for _, block := range blocksOf(t, "docs/operations.md", "go") {
		require.Contains(t, steps, "\n"+block, "this code of the page is not in operations_test.go")
		for _, f := range shownFunc.FindAllStringSubmatch(block, -1) {
			shown[f[1]] = true
			require.Contains(t, days, f[1]+"(", "no day executes %s", f[1])
		}
	}
	require.Greater(t, len(shown), 12)
	for _, f := range shownFunc.FindAllStringSubmatch(steps, -1) {
		require.True(t, shown[f[1]], "the page does not show %s", f[1])
	}
}

// What the page says of a bound is what the code says.
func TestOperationsNamesTheBounds(t *testing.T) {
	page := textOf(t, "docs/operations.md")
	for _, c := range []struct{ file, code, bound string }{
		{"verify.go", "cmp.Or(c.Sync, time.Second)", "| `VerifierConfig.Sync` | 1 s |"},
		{"verify.go", "cmp.Or(c.MaxStale, 120*time.Second)", "| `VerifierConfig.MaxStale` | 120 s |"},
		{"verify.go", "cmp.Or(c.MaxAge, 5*time.Minute)", "| `VerifierConfig.MaxAge` | 5 min |"},
		{"verify.go", "cmp.Or(c.ColdReads, 8)", "| `VerifierConfig.ColdReads` | 8 |"},
		{"verify.go", "cmp.Or(c.MaxEntries, 100_000)", "| `VerifierConfig.MaxEntries`, `MaxBytes` | 100,000; 256 MiB |"},
		{"verify.go", "cmp.Or(c.MaxBytes, 256<<20)", "| `VerifierConfig.MaxEntries`, `MaxBytes` | 100,000; 256 MiB |"},
		{"verify_reads.go", "newGate(int64(atOnce), int64(atOnce), 2*time.Second, maxWaiting)", "| waiting for a cold read | 2 s |"},
		{"policy.go", "cmp.Or(l.LiveKeys, 50)", "| `Limits.LiveKeys` | 50 |"},
		{"policy.go", "max(1000, 2*l.LiveKeys)", "| `Limits.Keys` | 1,000 |"},
		{"policy.go", "max(300, l.LiveKeys)", "| `Limits.IssuesAnHour` | 300 |"},
		{"cache.go", "negativeTime = 2 * time.Second", "| absence is remembered | 2 s |"},
		{"flights.go", "flightTime = 5 * time.Second", "| one read of the store | 5 s |"},
		{"manager_do.go", "lessenTime  = 5 * time.Second", "| a revocation without a deadline | 5 s |"},
		{"manager_do.go", "maxAttempts = 16", "| any other change that meets another | 16 attempts |"},
		{"seal.go", "kekTime = 5 * time.Second", "| one call of a KEK | 5 s |"},
		{"verify_usage.go", "flushEvery = 3 * time.Second", "| last used, until it is written | 3 s |"},
		{"verify.go", "cmp.Or(c.LastUsedEvery, time.Minute)", "| `VerifierConfig.LastUsedEvery` | 1 min |"},
		{"manager.go", "cmp.Or(c.Skew, 5*time.Second)", "| `ManagerConfig.Skew` | 5 s |"},
		{"stepup_grant.go", "grantTime = 2 * time.Minute", "| a grant | 2 min |"},
		{"otp.go", "challengeTime  = 10 * time.Minute", "| a challenge | 10 min |"},
		{"sqlstore/mysql.go", `mysqlLookBack = "120000000"`, "| MariaDB's look-back | 2 min less 5 s |"},
		{"sqlstore/sqlstore.go", "checkTimeout = 10 * time.Second", "| `sqlstore.New` | 10 s |"},
		{"sqlstore/run.go", "tries     = 10", "| one operation of `sqlstore` | 10 attempts |"},
		{"sqlstore/run.go", "retryTime = 1500 * time.Millisecond", "| a later attempt of `sqlstore` | 1.5 s |"},
		{"sqlstore/purge.go", "-24 * time.Hour", "| `Purge`, `PurgeDaily` | 24 h |"},
		{"sqlstore/purge.go", "purgeSoon   = 10 * time.Minute", "| `PurgeDaily` | 10 min; 23 to 25 h |"},
		{"sqlstore/purge.go", "purgeEvery  = 23 * time.Hour", "| `PurgeDaily` | 10 min; 23 to 25 h |"},
		{"pgnotify/pgnotify.go", "quiet = 15 * time.Second", "| a dead LISTEN is noticed | 15 s + 5 s |"},
		{"pgnotify/pgnotify.go", "patience = 5 * time.Second", "| a dead LISTEN is noticed | 15 s + 5 s |"},
		{"pgnotify/pgnotify.go", "50 * time.Millisecond, 2 * time.Second", "| opening it again | 50 ms to 2 s |"},
	} {
		require.True(t, strings.Contains(textOf(t, c.file), c.code), "%s has not: %s", c.file, c.code)
		require.True(t, strings.Contains(page, c.bound), "the page does not say: %s", c.bound)
	}
}
