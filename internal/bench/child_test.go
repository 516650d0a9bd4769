package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestMain lets this binary be a process of its own that a test starts: one that
// can be ended and started again, and whose memory holds no load generator.
func TestMain(m *testing.M) {
	job := jobs[os.Getenv("APIKEY_CHILD")]
	if job == nil {
		os.Exit(m.Run())
	}
	if err := job([]byte(os.Args[1])); err != nil {
		say("failed", err)
		os.Exit(1)
	}
}

// jobs are what such a process can do, by name; each takes its settings in JSON.
// It says each thing in a line that begins with a word.
var jobs = map[string]func(settings []byte) error{
	"serve": serveKeys,
	"storm": storm,
}

func say(words ...any) { os.Stdout.WriteString(fmt.Sprintln(words...)) }

// orders answers each line of the standard input with one that begins with the
// same word.
func orders(do map[string]func() []any) {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		word := lines.Text()
		say(append([]any{word}, do[word]()...)...)
	}
}

// child is a process that was started.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.Writer
	lines *bufio.Scanner
}

func startChild(t *testing.T, job string, settings any) *child {
	t.Helper()
	text, err := json.Marshal(settings)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, string(text))
	cmd.Env = append(os.Environ(), "APIKEY_CHILD="+job, "GOMAXPROCS=2")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) // when the test ended before it did
	return &child{t, cmd, in, bufio.NewScanner(out)}
}

// expect waits for a line that begins with a word, and returns the rest.
func (c *child) expect(word string) []string {
	c.t.Helper()
	words := []string{"nothing"}
	if c.lines.Scan() {
		words = strings.Fields(c.lines.Text())
	}
	if words[0] != word {
		c.t.Fatalf("the process says %v instead of %s", words, word)
	}
	return words[1:]
}

// ask gives an order and returns what is answered: numbers.
func (c *child) ask(word string) []int64 {
	c.t.Helper()
	_, err := fmt.Fprintln(c.in, word)
	must(c.t, err)
	return numbers(c.t, c.expect(word))
}

// end sends SIGTERM, waits for an orderly end, and returns the last words.
func (c *child) end() []int64 {
	c.t.Helper()
	must(c.t, c.cmd.Process.Signal(syscall.SIGTERM))
	last := numbers(c.t, c.expect("ended"))
	must(c.t, c.cmd.Wait())
	return last
}

func numbers(t *testing.T, words []string) (all []int64) {
	t.Helper()
	for _, w := range words {
		n, err := strconv.ParseInt(w, 10, 64)
		must(t, err)
		all = append(all, n)
	}
	return all
}

// resident is this process's resident memory and the greatest since calm, in
// bytes.
func resident() (now, most int64, err error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		if name != "VmRSS" && name != "VmHWM" {
			continue
		}
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			return 0, 0, err
		}
		if name == "VmRSS" {
			now = kib << 10
		} else {
			most = kib << 10
		}
	}
	if now == 0 || most == 0 {
		return 0, 0, fmt.Errorf("no VmRSS and VmHWM in %q", status)
	}
	return now, most, nil
}

// calm returns what is free to the system, forgets the greatest resident memory
// so far, and returns the present one.
func calm() (now int64, err error) {
	runtime.GC()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		return 0, err
	}
	now, _, err = resident()
	return now, err
}
