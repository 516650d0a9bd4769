package integration

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// TestMain lets this binary be a process that a test starts, to kill it.
func TestMain(m *testing.M) {
	job := children[os.Getenv("APIKEY_CHILD")]
	if job == nil {
		code := m.Run()
		stopShared()
		os.Exit(code)
	}
	if err := job(os.Args[1:]); err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
}

// children are what such a process can do. It says each thing in a line, written
// at once, so that what is read was said before the end.
var children = map[string]func(args []string) error{
	"work":    workUntilKilled,
	"reseal":  resealAll,
	"rotate":  rotateAt,
	"verify":  verifyAt,
	"freeze":  verifyWhenThawed,
	"watch":   watchUntilTold,
	"migrate": migrateAndStay,
	"use":     useAll,
}

// child is a process that was started.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startChild(t *testing.T, job string, args ...string) *child {
	t.Helper()
	cmd := exec.Command(sure(os.Executable()), args...)
	cmd.Env = append(os.Environ(), "APIKEY_CHILD="+job)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) // when the test ended before it was
	return &child{t, cmd, bufio.NewScanner(out)}
}

// line waits for what the process says next; nil: it has ended.
func (c *child) line() []string {
	c.t.Helper()
	if !c.lines.Scan() {
		return nil
	}
	words := strings.Fields(c.lines.Text())
	if len(words) > 0 && words[0] == "failed" {
		c.t.Fatalf("the process says: %s", c.lines.Text())
	}
	return words
}

// expect waits for a line that begins with a word, and returns the rest.
func (c *child) expect(word string) []string {
	c.t.Helper()
	words := c.line()
	if len(words) == 0 || words[0] != word {
		c.t.Fatalf("the process says %v instead of %s", words, word)
	}
	return words[1:]
}

// kill sends SIGKILL, and returns all that was said until then.
func (c *child) kill() (said [][]string) {
	c.cmd.Process.Signal(syscall.SIGKILL)
	for words := c.line(); words != nil; words = c.line() {
		said = append(said, words)
	}
	c.cmd.Wait()
	return said
}

// killed reports whether it was SIGKILL that ended the process.
func (c *child) killed() bool {
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

func say(words ...any) { os.Stdout.WriteString(fmt.Sprintln(words...)) }

// childNode is a Manager on a migrated database, in another process.
func childNode(at string, now func() time.Time, options ...func(*managing)) (*apikey.Manager, apikey.Store, error) {
	store, _, err := place(at).open()
	if err != nil {
		return nil, nil, err
	}
	mc, _ := configs(store, now)
	for _, o := range options {
		o(&mc)
	}
	m, err := mc.start(background)
	return m, store, err
}

// soon is a random time up to d.
func soon(d time.Duration) time.Duration { return time.Duration(rand.Int64N(int64(d))) }
