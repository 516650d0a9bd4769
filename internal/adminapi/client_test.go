package adminapi_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// The types that openapi-typescript generates compile, and a program that uses them
// rotates a key. It needs node and npm; where CI is not set, a machine without them skips
// this test.
func TestGeneratedClient(t *testing.T) {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil && os.Getenv("CI") == "" {
			t.Skipf("%s is not installed", tool)
		}
	}
	t.Parallel()
	// In a folder of its own: tests of this repository read every file in it.
	dir := t.TempDir()
	for _, name := range []string{".npmrc", "package.json", "package-lock.json", "tsconfig.json", "rotation.ts"} {
		noError(os.WriteFile(filepath.Join(dir, name), must(os.ReadFile(filepath.Join("client", name))), 0o644))
	}
	w := newWorld(t, nil)
	w.guards.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	run := func(name string, args ...string) string {
		t.Helper()
		began := time.Now()
		command := exec.CommandContext(ctx, name, args...)
		command.Dir = dir
		command.Env = append(os.Environ(), "API="+w.url+"/api", "SESSION="+user, "PASSWORD="+password)
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		t.Logf("%s: %.1f s", filepath.Base(name), time.Since(began).Seconds())
		return string(out)
	}
	run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	run("node_modules/.bin/openapi-typescript", must(filepath.Abs("../../admin/openapi.yaml")), "-o", "generated/api.ts")
	run("node_modules/.bin/tsc", "-p", ".")
	id := must(apikey.ParseKeyID(strings.TrimSpace(run("node", "generated/js/rotation.js"))))

	list := must(w.program.Manager.Events(w.as("anna"), apikey.EventsRequest{Key: id, Actions: []apikey.Action{apikey.ActionIssue, apikey.ActionRotate, apikey.ActionRetire, apikey.ActionRevoke}}))
	var done []apikey.Action
	for _, e := range list.Events {
		done = append(done, e.Action)
	}
	slices.Reverse(done)
	if want := []apikey.Action{apikey.ActionIssue, apikey.ActionRotate, apikey.ActionRetire, apikey.ActionRevoke}; !slices.Equal(done, want) {
		t.Errorf("done: %v, want %v", done, want)
	}
}
