package main_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/go-apikey/apikey"
	_ "github.com/go-apikey/apikey/httpauth" // part of the binary: if it changes, go test does not use a cached result
	"github.com/go-apikey/apikey/sqlstore"
)

// binary is the program. The tests use it as people do: as a process, over HTTP, with
// signals.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		sources, _ := filepath.Glob("*.go")
		for _, f := range sources {
			os.Stat(f) // so that go test does not use a cached result if a file changes
		}
		dir, err := os.MkdirTemp("", "gateway")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "gateway")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			fmt.Printf("%s%v\n", out, err)
			return 1
		}
		return m.Run()
	}())
}

// process is a gateway that runs and serves requests.
type process struct {
	t         *testing.T
	cmd       *exec.Cmd
	stderr    buffer
	listening chan struct{} // closed when url, lines and keys are set
	url       string
	lines     []string          // stdout, up to "listening on"
	mails     buffer            // stdout after that
	keys      map[string]string // the lines NAME=token
	ended     chan struct{}
}

// start starts a gateway in a directory, with a database and an address that no other test
// uses. It waits until the gateway listens.
func start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := begin(t, dir, args...)
	p.await()
	return p
}

// begin does the same and does not wait.
func begin(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: command(dir, append([]string{"-addr", "127.0.0.1:0"}, args...)...)}
	p.keys, p.listening, p.ended = map[string]string{}, make(chan struct{}), make(chan struct{})
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go p.follow(stdout)
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
		p.keepsSecrets()
	})
	return p
}

func command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append([]string{"-db", "keys.db"}, args...)...)
	cmd.Dir = dir
	return cmd
}

func (p *process) follow(stdout io.Reader) {
	defer close(p.ended)
	defer p.cmd.Wait()
	scan := bufio.NewScanner(stdout)
	for scan.Scan() {
		if url, ok := strings.CutPrefix(scan.Text(), "listening on "); ok {
			p.url = url
			close(p.listening)
			break
		}
		p.lines = append(p.lines, scan.Text())
		if name, value, ok := strings.Cut(scan.Text(), "_KEY="); ok {
			p.keys[name+"_KEY"] = value
		}
	}
	for scan.Scan() {
		fmt.Fprintln(&p.mails, scan.Text())
	}
}

func (p *process) await() {
	p.t.Helper()
	select {
	case <-p.listening:
	case <-p.ended:
		p.t.Fatalf("the gateway ended: %s", p.stderr.String())
	case <-time.After(20 * time.Second):
		p.t.Fatal("the gateway does not listen")
	}
}

// stop sends a signal and returns the exit status.
func (p *process) stop(s os.Signal) int {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		p.t.Fatal("the gateway does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// keepsSecrets fails the test if a token, a pepper, a KEK, a code, a
// sign-in link or a card number is in the log. It is
// called at the end of every test.
func (p *process) keepsSecrets() {
	secrets := []string{cardNumber, "Bearer", "Authorization"}
	for _, token := range p.keys {
		secrets = append(secrets, token)
	}
	for _, file := range []string{"keys.pepper", "keys.kek"} {
		if text, err := os.ReadFile(filepath.Join(p.cmd.Dir, file)); err == nil {
			secrets = append(secrets, strings.TrimSpace(string(text)))
		}
	}
	for _, line := range p.lines {
		if _, once, ok := strings.Cut(line, "once="); ok {
			secrets = append(secrets, strings.Trim(once, `"`))
		}
	}
	for line := range strings.Lines(p.mails.String()) {
		if code, ok := strings.CutPrefix(strings.TrimSpace(line), "CODE="); ok {
			secrets = append(secrets, code)
		}
	}
	for _, s := range secrets {
		if strings.Contains(p.stderr.String(), s) {
			p.t.Errorf("stderr holds a secret: %s", p.stderr.String())
		}
	}
}

const cardNumber = "4242424242424242"

// run runs a gateway with arguments for which it ends by itself.
func run(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, diagnostics buffer
	cmd := command(dir, args...)
	cmd.Stdout, cmd.Stderr = &out, &diagnostics
	require.NoError(t, cmd.Start())
	defer time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() }).Stop()
	cmd.Wait()
	return cmd.ProcessState.ExitCode(), out.String(), diagnostics.String()
}

// answer is the answer to a request.
type answer struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// call sends a request, with a token unless token is empty.
func (p *process) call(token, method, path, body string) answer {
	p.t.Helper()
	a, err := p.try(token, method, path, body)
	require.NoError(p.t, err)
	return a
}

func (p *process) try(token, method, path, body string) (a answer, err error) {
	r, err := http.NewRequest(method, p.url+path, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(r)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return a, err
	}
	a = answer{status: res.StatusCode, header: res.Header, text: string(text)}
	if strings.Contains(res.Header.Get("Content-Type"), "json") {
		err = json.Unmarshal(text, &a.body)
	}
	return a, err
}

var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Proxy: nil}}

// pay makes a payment and returns its ID.
func (p *process) pay(token string, amount int) string {
	p.t.Helper()
	a := p.call(token, "POST", "/v1/checkouts", fmt.Sprintf(`{"amount":%d,"currency":"EUR"}`, amount))
	require.Equal(p.t, 201, a.status, a.text)
	return a.body["id"].(string)
}

// records reads the keys in a gateway's database. The gateway may be running.
func records(t *testing.T, dir string) []apikey.StoreRecord {
	t.Helper()
	_, store := openStore(t, dir)
	page, err := store.List(context.Background(), apikey.StoreFilter{})
	require.NoError(t, err)
	require.Empty(t, page.Damaged)
	return page.Records
}

func openStore(t *testing.T, dir string) (*sql.DB, *sqlstore.Store) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "keys.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	store, err := sqlstore.New(db, sqlstore.SQLite)
	require.NoError(t, err)
	return db, store
}

// lastUsed returns the time in the database at which a token was last used.
func lastUsed(t *testing.T, dir, token string) time.Time {
	t.Helper()
	parsed, err := apikey.ParseToken(token)
	require.NoError(t, err)
	_, store := openStore(t, dir)
	r, err := store.Lookup(context.Background(), parsed.Credential())
	require.NoError(t, err)
	for _, c := range r.Credentials {
		if c.ID == parsed.Credential() {
			return c.LastUsed
		}
	}
	return time.Time{}
}

// buffer is a buffer that may be read while a process writes to it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
