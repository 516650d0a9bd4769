package apitest

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	namedTest = regexp.MustCompile(`\b(Test|Benchmark|Fuzz|Example)[A-Z]\w+`)
	// A file has an extension that this repository has. A path is told from other words
	// with a slash by its first part, which is a folder at the root.
	namedFile = regexp.MustCompile(`[\w./-]*\w\.(go|mod|sum|md|svg|json|sql|sh|py|yaml|yml|patch)\b`)
	namedPath = regexp.MustCompile(`\b(admin|apikeytest|docs|examples|httpauth|internal|memstore|pgnotify|sqlstore|storetest)(/[\w.-]*\w)+`)
)

// tree is every file of the repository, nested modules included.
func tree(t *testing.T) (files []string) {
	t.Helper()
	require.NoError(t, fs.WalkDir(os.DirFS(root), ".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || d.Name() == "node_modules"): // the last is what internal/browser/run fetches
			return fs.SkipDir
		case !d.IsDir():
			files = append(files, file)
		}
		return nil
	}))
	return files
}

// Every page, and every comment, that names a test, a file or a folder names one
// that exists. A page sends a reader there, and the threat model's claims are worth
// what the tests behind them are worth.
func TestDocsNameWhatExists(t *testing.T) {
	var tests strings.Builder
	pages, sources := map[string]string{}, map[string]string{}
	for _, file := range tree(t) {
		switch path.Ext(file) {
		case ".md":
			pages[file] = textOf(t, file)
		case ".go":
			if strings.HasSuffix(file, "_test.go") {
				tests.WriteString(textOf(t, file))
			}
			if !strings.HasPrefix(path.Base(file), "example") { // what an example prints is a comment
				sources[file] = commentsOf(textOf(t, file))
			}
		}
	}
	require.GreaterOrEqual(t, len(pages), 9, "pages were read")
	require.Greater(t, len(sources), 150, "sources were read")

	exists := func(from, name string) bool {
		return slices.ContainsFunc([]string{name, path.Join(path.Dir(from), name)}, func(p string) bool {
			_, err := os.Stat(filepath.Join(root, p))
			return err == nil
		})
	}
	seen := map[string]map[string]bool{}
	saw := func(page, name string) {
		if seen[page] == nil {
			seen[page] = map[string]bool{}
		}
		seen[page][name] = true
	}
	for page, text := range pages {
		for _, name := range namedTest.FindAllString(text, -1) {
			saw(page, name)
			if !strings.Contains(tests.String(), "func "+name+"(") {
				t.Errorf("%s: there is no %s", page, name)
			}
		}
		text = webAddress.ReplaceAllString(text, "")
		// A command that a page shows may write a file of the reader's own.
		for _, name := range append(namedPath.FindAllString(text, -1), namedFile.FindAllString(fence.ReplaceAllString(text, ""), -1)...) {
			saw(page, name)
			if !exists(page, name) {
				t.Errorf("%s: there is no %s", page, name)
			}
		}
	}
	for file, comments := range sources {
		for _, name := range namedFile.FindAllString(webAddress.ReplaceAllString(comments, ""), -1) {
			saw("comments", name)
			if !exists(file, name) {
				t.Errorf("%s: there is no %s", file, name)
			}
		}
	}
	// Names, not how often they stand there: a page that loses its names, or that
	// this test cannot read any more, is noticed.
	for page, atLeast := range map[string]int{
		"README.md": 12, "docs/threat-model.md": 95, "docs/operations.md": 6, "docs/performance.md": 6, "docs/scale.md": 4, "comments": 10,
	} {
		if len(seen[page]) < atLeast {
			t.Errorf("%s names %d tests, files and folders: want at least %d", page, len(seen[page]), atLeast)
		}
	}
}

var (
	fence      = regexp.MustCompile("(?ms)^```.*?^```|^    .*?$")
	webAddress = regexp.MustCompile(`https?://\S+|/v1/\S+`) // and a route of package admin
	comment    = regexp.MustCompile(`(?m)^\s*//.*$`)
)

func commentsOf(source string) string { return strings.Join(comment.FindAllString(source, -1), "\n") }
