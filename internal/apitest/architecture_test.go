package apitest

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A reader finds every file of the root and every package on the map, and only what
// exists (TestDocsNameWhatExists). The page stays short enough to be read.
func TestArchitectureIsAMapOfTheTree(t *testing.T) {
	page := textOf(t, "docs/architecture.md")
	require.LessOrEqual(t, strings.Count(page, "\n"), 200, "lines")
	var places []string
	for _, file := range tree(t) {
		switch dir := path.Dir(file); {
		case path.Ext(file) != ".go":
		case dir != ".":
			places = append(places, dir)
		case !strings.HasSuffix(file, "_test.go"):
			places = append(places, file)
		}
	}
	slices.Sort(places)
	places = slices.Compact(places)
	require.Greater(t, len(places), 70, "files and packages were read")
	for _, place := range places {
		if !strings.Contains(page, "`"+place+"`") {
			t.Errorf("docs/architecture.md does not say what %s is for", place)
		}
	}
}
