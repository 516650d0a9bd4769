package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The threat model names tests and files; each of them is there.
func TestThreatModelNamesWhatExists(t *testing.T) {
	text, err := os.ReadFile("../../docs/threat-model.md")
	must(t, err)
	var all strings.Builder
	for _, pattern := range []string{"../../*_test.go", "../../sqlstore/*_test.go", "../integration/*_test.go", "*_test.go"} {
		files, err := filepath.Glob(pattern)
		must(t, err)
		for _, f := range files {
			source, err := os.ReadFile(f)
			must(t, err)
			all.Write(source)
		}
	}
	names := regexp.MustCompile(`\b(Test|Benchmark)[A-Z]\w+`).FindAllString(string(text), -1)
	for _, name := range names {
		if !strings.Contains(all.String(), "func "+name+"(") {
			t.Errorf("there is no %s", name)
		}
	}
	files := regexp.MustCompile("`([a-z]+\\.go)`").FindAllStringSubmatch(string(text), -1)
	for _, f := range files {
		if _, err := os.Stat(filepath.Join("../..", f[1])); err != nil {
			t.Error(err)
		}
	}
	if len(names) < 20 || len(files) < 10 {
		t.Errorf("only %d tests and %d files are named", len(names), len(files))
	}
}
