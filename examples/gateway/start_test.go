package main_test

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

func TestFirstStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)

	require.Regexp(t, `^http://127\.0\.0\.1:\d+$`, p.url)
	out := strings.Join(p.lines, "\n")
	for name, want := range map[string]struct {
		kind apikey.Kind
		mode apikey.Mode
	}{
		"LIVE_SECRET_KEY": {apikey.Secret, apikey.Live}, "TEST_SECRET_KEY": {apikey.Secret, apikey.Test},
		"LIVE_PUBLISHABLE_KEY": {apikey.Publishable, apikey.Live}, "TEST_PUBLISHABLE_KEY": {apikey.Publishable, apikey.Test},
	} {
		token, err := apikey.ParseToken(p.keys[name])
		require.NoError(t, err, name)
		require.Equal(t, want.kind, token.Kind())
		require.Equal(t, want.mode, token.Mode())
		require.Equal(t, 1, strings.Count(out, token.Reveal()), name)
	}
	require.Len(t, p.keys, 4)
	for _, file := range []string{"keys.db", "keys.pepper", "keys.kek"} {
		require.Contains(t, out, file)
		info, err := os.Stat(filepath.Join(dir, file))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode(), file)
	}
	for _, r := range records(t, dir) {
		if r.Kind == apikey.Secret {
			require.Equal(t, []string{"balance=read", "card:tokenise", "payment:checkout", "payment:refund", "payment:verify"}, r.Abilities)
		} else {
			require.Equal(t, []string{"card:tokenise"}, r.Abilities)
		}
	}
	require.Empty(t, p.stderr.String())
}

// The commands of a program that has a key work if they are pasted into a shell. Those of
// a person are in TestADayOfAKey.
func TestPrintedCommands(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed: install it, and the printed commands are tried")
	}
	p := start(t, t.TempDir())
	sh := exec.Command("sh")
	sh.Env = append(os.Environ(), "no_proxy=*")
	data, _ := p.printed()
	sh.Stdin = strings.NewReader(strings.Join(data, "\n") + "\n")
	var diagnostics buffer
	sh.Stderr = &diagnostics
	out, err := sh.Output()
	require.NoError(t, err, diagnostics.String())
	require.Empty(t, diagnostics.String())

	var got []map[string]any
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var body map[string]any
		if err := d.Decode(&body); err == io.EOF {
			break
		} else {
			require.NoError(t, err, "%s", out)
		}
		got = append(got, body)
	}
	want := []map[string]any{
		{"amount": 1250.0, "mode": "live", "status": "paid"},
		{"amount": 500.0, "mode": "live"},
		{"available": map[string]any{"EUR": 750.0}},
		{"status": 403.0, "code": "insufficient_scope"},
		{"status": 404.0, "code": "not_found"},
		{"mode": "test", "last4": "4242"},
	}
	require.Len(t, got, len(want), "%s", out)
	for i := range want {
		for name, value := range want[i] {
			require.Equal(t, value, got[i][name], "command %d: %s of %v", i, name, got[i])
		}
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			first := start(t, dir)
			id := first.pay(first.keys["LIVE_SECRET_KEY"], 100)
			require.Zero(t, lastUsed(t, dir, first.keys["LIVE_SECRET_KEY"]), "the test is too slow to tell who wrote it")
			require.Equal(t, 0, first.stop(signal))
			require.Empty(t, first.stderr.String())
			require.WithinDuration(t, time.Now(), lastUsed(t, dir, first.keys["LIVE_SECRET_KEY"]), 20*time.Second)

			second := start(t, dir)
			require.NotContains(t, strings.Join(second.lines, "\n"), "_sk_")
			require.Len(t, second.keys, 2)
			for name, token := range second.keys {
				require.Equal(t, first.keys[name], token)
			}
			a := second.call(first.keys["LIVE_SECRET_KEY"], "GET", "/v1/payments/"+id, "")
			require.Equal(t, 200, a.status, a.text)
			require.Len(t, records(t, dir), 4)
		})
	}
}

// After kill -9 the database is complete, except for at most a few seconds of "last used"
// times.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, dir)
	key := first.keys["TEST_SECRET_KEY"]
	id := first.pay(key, 100)
	require.Eventually(t, func() bool { return !lastUsed(t, dir, key).IsZero() }, 6*time.Second, 100*time.Millisecond)
	require.Equal(t, -1, first.stop(syscall.SIGKILL))

	second := start(t, dir)
	require.False(t, lastUsed(t, dir, key).IsZero())
	a := second.call(key, "GET", "/v1/payments/"+id, "")
	require.Equal(t, 200, a.status, a.text)
}

// After a signal, the gateway finishes the requests that have begun, and then ends.
func TestInterruptFinishesRequests(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	body := `{"amount":100,"currency":"EUR"}`
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /v1/checkouts HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer "+p.keys["LIVE_SECRET_KEY"]+
		"\r\nExpect: 100-continue\r\nContent-Length: 31\r\n\r\n")
	require.NoError(t, err)
	// The handler has asked for the body, so the request has begun.
	reply := make([]byte, 300)
	n, err := conn.Read(reply)
	require.NoError(t, err)
	require.Contains(t, string(reply[:n]), "100 Continue")

	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", conn.RemoteAddr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	}, 5*time.Second, 10*time.Millisecond, "new connections are still taken")
	_, err = io.WriteString(conn, body)
	require.NoError(t, err)
	rest, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(rest), "201 Created")
	<-p.ended
	require.Equal(t, 0, p.cmd.ProcessState.ExitCode())
}

func TestIssue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	for _, tt := range []struct {
		args, name    string
		balance, pays int
	}{
		{"-issue live", "LIVE_SECRET_KEY", 200, 201},
		{"-issue test", "TEST_SECRET_KEY", 200, 201},
		{"-issue live -abilities balance=read", "LIVE_SECRET_KEY", 200, 403},
		{"-issue test -abilities payment:*,payout=write", "TEST_SECRET_KEY", 403, 201},
	} {
		code, stdout, stderr := run(t, dir, strings.Fields(tt.args)...)
		require.Equal(t, 0, code, stderr)
		token, one := strings.CutPrefix(strings.TrimSuffix(stdout, "\n"), tt.name+"=")
		require.True(t, one, stdout)
		_, err := apikey.ParseToken(token)
		require.NoError(t, err, stdout)
		require.NotContains(t, p.keys, token)
		require.Empty(t, stderr)

		// The running gateway accepts the new key.
		require.Equal(t, tt.balance, p.call(token, "GET", "/v1/balance", "").status, tt.args)
		require.Equal(t, tt.pays, p.call(token, "POST", "/v1/checkouts", `{"amount":100,"currency":"EUR"}`).status, tt.args)
	}
}

// If two gateways start at the same time and their files do not exist yet, they share one
// pepper, one merchant and the merchant's keys.
func TestTwoInstances(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	both := []*process{begin(t, dir), begin(t, dir)}
	both[0].await()
	both[1].await()
	if len(both[0].keys) == 2 {
		both[0], both[1] = both[1], both[0]
	}
	first, second := both[0], both[1]
	require.Len(t, first.keys, 4)
	require.Len(t, second.keys, 2)
	require.Equal(t, first.keys["LIVE_PUBLISHABLE_KEY"], second.keys["LIVE_PUBLISHABLE_KEY"])
	require.Len(t, records(t, dir), 4)

	id := second.pay(first.keys["LIVE_SECRET_KEY"], 100)
	require.Equal(t, 200, first.call(first.keys["LIVE_SECRET_KEY"], "GET", "/v1/payments/"+id, "").status)
}

// free is an argument with a free address. BUSY in args stands for an address in use.
const free = "-addr 127.0.0.1:0 "

// otherPepper is another pepper than the one that the database was used with.
var otherPepper = strings.Repeat("ab", 32) + "\n"

var doNotStart = []struct {
	name, args    string
	fresh         bool // start in an empty directory, without a database and its pepper
	pepper        func(right string) string
	mode          os.FileMode // of the pepper's file; 0: 0600
	code          int
	says, advises string
}{
	{name: "port in use", fresh: true, args: "-addr BUSY", code: 1, says: "in use", advises: "-addr"},
	{name: "port is none", args: "-addr 127.0.0.1:nothing", code: 1, says: "nothing", advises: "-addr"},
	{name: "database is a directory", args: free + "-db .", code: 1, says: "is a directory", advises: "-db"},
	{name: "directory is missing", args: free + "-db no/keys.db", code: 1, says: "no/keys.db: no such file", advises: "-db"},
	{name: "directory is a file", args: free + "-db keys.pepper/keys.db", code: 1, says: "not a directory", advises: "-db"},
	{name: "nobody can write there", args: free + "-db /proc/keys.db", code: 1, says: "/proc/keys.db", advises: "-db"},
	{name: "database is something else", args: free + "-db junk -pepper-file keys.pepper", code: 1, says: "junk: ", advises: "-db"},
	{name: "pepper's directory is missing", fresh: true, args: free + "-pepper-file no/pepper", code: 1, says: "no such file", advises: "-pepper-file"},
	{name: "pepper is missing", args: free + "-pepper-file none", code: 1, says: "none is missing", advises: "put it back"},
	{name: "pepper is a directory", args: free + "-pepper-file .", code: 1, says: "is a directory", advises: "pepper"},
	{name: "pepper is another", args: free, pepper: as(otherPepper), code: 1, says: "does not hold the pepper", advises: "-pepper-file"},
	{name: "pepper is garbled", args: free, pepper: func(right string) string { return right[:40] }, code: 1, says: "has 20 bytes, want 32", advises: "-pepper-file"},
	{name: "pepper is empty", args: free, pepper: as("\n"), code: 1, says: "there is none in the text", advises: "-pepper-file"},
	{name: "pepper is zeros", args: free, pepper: as(strings.Repeat("0", 64)), code: 1, says: "all zeros", advises: "random"},
	{name: "pepper is public", args: free, mode: 0o644, code: 1, says: "can be read by others", advises: "chmod 600"},
	{name: "KEK's directory is missing", args: free + "-kek-file no/kek", code: 1, says: "no such file", advises: "-kek-file"},
	{name: "KEK is something else", args: free + "-kek-file junk", code: 1, says: "junk is not a KEK file", advises: "-kek-file"},
	{name: "issue before the first start", fresh: true, args: "-issue live", code: 1, says: "keys.db", advises: "start once without -issue"},
	{name: "issue with another pepper", args: "-issue live", pepper: as(otherPepper), code: 1, says: "does not hold the pepper", advises: "-pepper-file"},
	{name: "issue for no mode", args: "-issue prod", code: 2, says: "prod", advises: "[live test]"},
	{name: "unknown ability", args: "-issue live -abilities payment:refnd", code: 2, says: "payment:refnd", advises: "payment:refund"},
	{name: "abilities of nothing", args: "-abilities balance=read", code: 2, says: "-abilities", advises: "-issue"},
	{name: "unknown flag", args: "-prot 80", code: 2, says: "-prot", advises: "-addr"},
	{name: "no flag", args: "8080", code: 2, says: `"8080"`, advises: "flags"},
	{name: "address without port", args: "-addr localhost", code: 2, says: "-addr", advises: "host:port"},
}

func TestDoesNotStart(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() }) // a defer would run before the parallel subtests
	used := t.TempDir()
	require.Equal(t, 0, start(t, used).stop(syscall.SIGINT))
	right, err := os.ReadFile(filepath.Join(used, "keys.pepper"))
	require.NoError(t, err)
	for _, tt := range doNotStart {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, pepper := t.TempDir(), string(right)
			if tt.pepper != nil {
				pepper = tt.pepper(pepper)
			}
			if !tt.fresh {
				db, err := os.ReadFile(filepath.Join(used, "keys.db"))
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(dir, "keys.db"), db, 0o600))
				require.NoError(t, os.WriteFile(filepath.Join(dir, "junk"), []byte(strings.Repeat("junk", 2000)), 0o600))
				require.NoError(t, os.WriteFile(filepath.Join(dir, "keys.pepper"), []byte(pepper), 0o600))
				if tt.mode != 0 {
					require.NoError(t, os.Chmod(filepath.Join(dir, "keys.pepper"), tt.mode))
				}
			}
			code, stdout, stderr := run(t, dir, strings.Fields(strings.ReplaceAll(tt.args, "BUSY", l.Addr().String()))...)
			require.Equal(t, tt.code, code, stderr)
			require.Empty(t, stdout)
			require.Contains(t, stderr, tt.says)
			require.Contains(t, stderr, tt.advises)
			if tt.code == 1 {
				require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
				require.True(t, strings.HasPrefix(stderr, "gateway: "), stderr)
			}
			require.NotContains(t, stderr, string(right[:40]))
			require.NotContains(t, stderr, otherPepper[:40])
			if tt.fresh { // no file is left that the next start could take for an existing database
				left, err := os.ReadDir(dir)
				require.NoError(t, err)
				left = slices.DeleteFunc(left, func(e os.DirEntry) bool { info, err := e.Info(); return err == nil && info.Size() == 0 })
				require.Empty(t, left)
			}
		})
	}
}

func as(text string) func(string) string { return func(string) string { return text } }

// If the first start cannot print the keys, it makes no keys.
func TestKeysThatNobodySaw(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full here: run this test on Linux")
	}
	defer full.Close()
	dir := t.TempDir()
	cmd := command(dir, "-addr", "127.0.0.1:0")
	var stderr buffer
	cmd.Stdout, cmd.Stderr = full, &stderr
	require.Error(t, cmd.Run())
	require.Contains(t, stderr.String(), "no space left")
	require.Empty(t, records(t, dir))
	code, stdout, diagnostics := run(t, dir, "-issue", "live") // there is no merchant yet
	require.Equal(t, 1, code)
	require.Empty(t, stdout)
	require.Contains(t, diagnostics, "start once without -issue")
	require.Len(t, start(t, dir).keys, 4)
}

func TestHelp(t *testing.T) {
	t.Parallel()
	code, _, stderr := run(t, t.TempDir(), "-help")
	require.Equal(t, 0, code)
	require.Contains(t, stderr, "apikey-gateway.db")
}

// The path of the database may contain any characters.
func TestStrangePath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b?c=d%41#é&_pragma=x")
	require.NoError(t, os.Mkdir(dir, 0o700))
	p := start(t, dir)
	p.pay(p.keys["LIVE_SECRET_KEY"], 100)
	require.Equal(t, 0, p.stop(syscall.SIGINT))
	left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*", "*"))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{filepath.Join(dir, "keys.db"), filepath.Join(dir, "keys.pepper"), filepath.Join(dir, "keys.kek")}, left)
}

// -issue without a value means a live key; with a value it means a key of that mode.
func TestIssueStandsAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir).stop(os.Interrupt)
	for _, c := range []struct{ args, want string }{
		{"-issue", "LIVE_SECRET_KEY=acme_sk_live_"}, {"--issue -abilities balance=read", "LIVE_SECRET_KEY="},
		{"-issue test", "TEST_SECRET_KEY="}, {"-issue=test", "TEST_SECRET_KEY="},
	} {
		code, stdout, diagnostics := run(t, dir, strings.Fields(c.args)...)
		require.Zero(t, code, diagnostics)
		require.Contains(t, stdout, c.want[:len("LIVE_SECRET_KEY=")], c.args)
	}
}
