package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// A database is dumped and put back by the commands of docs/operations.md, while
// verifiers run on it, in their role, and do not pause. What was revoked in between lives again in
// the tables. Every verifier notices, reads everything again, and accepts nothing
// that it saw die; then the steps of the page set the tables right too.
func TestRestoredByThisPage(t *testing.T) {
	blocks := manualBlocks(t, "sh")
	if len(blocks) != 4 {
		t.Fatalf("the page has %d blocks of commands, and not a dump and a restore for each server", len(blocks))
	}
	t.Run("postgres", func(t *testing.T) {
		e, s := named("postgres/pgx")[0], startPostgres(t)
		_, err := e.pool(t, s.postgresDSN("")).Exec("CREATE DATABASE shop")
		must(t, err)
		shell := newShell(t, "PATH="+postgresBin(t)+":"+os.Getenv("PATH"), "PGHOST=127.0.0.1", fmt.Sprint("PGPORT=", s.port), "PGUSER=postgres")
		putBack(t, e, strings.Replace(s.postgresDSN(""), "/postgres?", "/shop?", 1), shell, blocks[0], blocks[1])
	})
	t.Run("mariadb", func(t *testing.T) {
		for _, client := range []string{"mariadb", "mariadb-dump"} {
			needs(t, client, client)
		}
		s := startMariaDB(t)
		shell := newShell(t)
		must(t, os.WriteFile(filepath.Join(shell.Dir, ".my.cnf"), fmt.Appendf(nil, "[client]\nprotocol=tcp\nhost=127.0.0.1\nport=%d\nuser=root\n", s.port), 0o600))
		putBack(t, named("mariadb/interpolated")[0], s.mysqlDSN("&interpolateParams=true"), shell, blocks[2], blocks[3])
	})
}

// shell is where somebody types the commands: in a folder that is their home, with
// the server's address in their environment.
type shell struct{ *exec.Cmd }

func newShell(t *testing.T, env ...string) shell {
	t.Helper()
	home := t.TempDir()
	return shell{&exec.Cmd{Path: needs(t, "sh", "sh"), Dir: home, Env: append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, env...)}}
}

func (s shell) run(t *testing.T, commands string) {
	t.Helper()
	c := *s.Cmd
	c.Args = []string{"sh", "-e", "-c", commands}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", commands, err, out)
	}
}

// What became of the keys after the dump, by their index; see afterTheDump.
const (
	backRevoked = iota
	backSuspended
	backToken
	backRotated
	backDead  // how many died
	backAlive = backDead
)

// back is a database that is put back under the verifiers that run on it.
type back struct {
	t     *testing.T
	keys  []apikey.Issued
	nodes []*backNode
	cold  *apikey.Verifier // remembers nothing

	accepted, invalid, unavailable, other, asked atomic.Int64
}

// backNode is one verifier.
type backNode struct {
	*apikey.Verifier
	noticer
	apikey.Store
	mu   sync.Mutex
	read map[apikey.CredentialID]bool
}

func (n *backNode) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	n.mu.Lock()
	n.read[id] = true
	n.mu.Unlock()
	return n.Store.Lookup(ctx, id)
}

// forget begins to note anew what is read.
func (n *backNode) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.read)
}

func putBack(t *testing.T, e engine, dsn string, shell shell, dump, restore string) {
	admin := e.pool(t, dsn)
	must(t, open(t, admin, e.dialect).Migrate(t.Context()))
	as := makeRoles(t, admin, e.dialect, "apikey_", dsn)
	connect := func(role string) apikey.Store { return open(t, e.pool(t, as(role)), e.dialect) }
	var diary []apikey.Event // outside the database
	m := newManager(t, connect("manager"), func(c *managing) { c.OnEvent = func(ev apikey.Event) { diary = append(diary, ev) } })
	b := newBack(t, m, func() apikey.Store { return connect("verifier") })

	shell.run(t, dump)
	written := len(diary)
	b.afterTheDump(m)
	for _, n := range b.nodes {
		must(t, n.Sync(t.Context()))
		n.forget()
	}
	stop := b.traffic()
	time.Sleep(300 * time.Millisecond)
	begun := time.Now()
	shell.run(t, restore)
	took := time.Since(begun)
	noticed := b.noticed()
	time.Sleep(500 * time.Millisecond)
	stop()

	again := 0
	for _, n := range b.nodes {
		for i, k := range b.keys {
			if n.read[k.Token.Credential()] {
				again++
			} else {
				t.Errorf("key %d was not read again", i)
			}
		}
	}
	t.Logf("put back in %v under %d verifications by %d verifiers: noticed by %d, keys read again %d of %d; accepted of what they saw die %d; living keys called invalid %d, unavailable %d, otherwise refused %d",
		took.Round(time.Millisecond), b.asked.Load(), len(b.nodes), noticed, again, len(b.nodes)*len(b.keys), b.accepted.Load(), b.invalid.Load(), b.unavailable.Load(), b.other.Load())
	if b.accepted.Load()+b.invalid.Load()+b.other.Load() != 0 || noticed != len(b.nodes) || b.asked.Load() < 1000 {
		t.Fail()
	}
	b.setRight(newManager(t, connect("manager")), diary[written:], func() *apikey.Verifier { return newVerifier(t, connect("verifier")) })
}

func newBack(t *testing.T, m *apikey.Manager, open func() apikey.Store) *back {
	t.Helper()
	b := &back{t: t, cold: newVerifier(t, open(), func(c *verifying) { c.MaxEntries, c.Sync = -1, 100*time.Millisecond })}
	for range backDead + 4 {
		k, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		b.keys = append(b.keys, k)
	}
	for range 3 {
		n := &backNode{Store: open(), noticer: noticer{text: "history was rewritten"}, read: map[apikey.CredentialID]bool{}}
		n.Verifier = newVerifier(t, n, func(c *verifying) { c.Sync, c.Logger = 100*time.Millisecond, slog.New(&n.noticer) })
		for _, k := range b.keys {
			must(t, check(n.Verifier, k.Token))
		}
		b.nodes = append(b.nodes, n)
	}
	return b
}

func check(v *apikey.Verifier, token apikey.Token) error {
	_, err := v.Verify(background, token.Reveal(), apikey.Request{})
	return err
}

// afterTheDump is what the backup forgets.
func (b *back) afterTheDump(m *apikey.Manager) {
	b.t.Helper()
	ctx := adminOf("acc_1")
	must(b.t, m.Revoke(ctx, apikey.RevokeRequest{Key: b.keys[backRevoked].Key.ID, Reason: apikey.ReasonCompromised}))
	must(b.t, m.Suspend(ctx, b.keys[backSuspended].Key.ID))
	must(b.t, m.RevokeToken(background, b.keys[backToken].Token.Reveal(), apikey.ReasonCompromised))
	_, err := m.Rotate(ctx, apikey.RotateRequest{Key: b.keys[backRotated].Key.ID})
	must(b.t, err)
	later, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	must(b.t, err)
	must(b.t, m.Revoke(ctx, apikey.RevokeRequest{Key: later.Key.ID}))
}

// traffic verifies every key on every verifier until it is stopped.
func (b *back) traffic() (stop func()) {
	ctx, cancel := context.WithCancel(background)
	var all sync.WaitGroup
	verify := func(v *apikey.Verifier, keys []apikey.Issued, dead int) {
		for ctx.Err() == nil {
			for i, k := range keys {
				err := check(v, k.Token)
				b.asked.Add(1)
				switch {
				case errors.Is(err, apikey.ErrUnavailable):
					b.unavailable.Add(1)
				case i < dead && err == nil:
					b.accepted.Add(1)
				case i >= dead && errors.Is(err, apikey.ErrInvalidToken):
					b.invalid.Add(1)
				case i >= dead && err != nil:
					b.other.Add(1)
				}
			}
			time.Sleep(time.Millisecond)
		}
	}
	for _, n := range b.nodes {
		all.Go(func() { verify(n.Verifier, b.keys, backDead) })
	}
	all.Go(func() { verify(b.cold, b.keys[backAlive:], 0) }) // who remembers nothing never sees half a table
	return func() { cancel(); all.Wait() }
}

// noticed counts the verifiers that say so within ten seconds.
func (b *back) noticed() (n int) {
	for begun := time.Now(); n < len(b.nodes) && time.Since(begun) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		n = 0
		for _, node := range b.nodes {
			if node.seen.Load() {
				n++
			}
		}
	}
	return n
}

// setRight is what the page says about a database that was put back.
func (b *back) setRight(m *apikey.Manager, since []apikey.Event, restarted func() *apikey.Verifier) {
	b.t.Helper()
	must(b.t, check(restarted(), b.keys[backRevoked].Token)) // the premise: who starts now believes the backup
	look, err := takeAwayAgain(staff(), m, since)
	must(b.t, err)
	var rotated []apikey.KeyID
	for _, ev := range look {
		if ev.Action == apikey.ActionRotate {
			rotated = append(rotated, ev.Key)
		}
	}
	if len(rotated) != 1 || rotated[0] != b.keys[backRotated].Key.ID {
		b.t.Errorf("whose holder needs a new token: %v", rotated)
	}
	events, unsure, err := verifyAll(staff(), m)
	must(b.t, err)
	if len(unsure) != 0 {
		b.t.Errorf("chains that cannot be verified after the day: %v", unsure)
	}
	all := []*apikey.Verifier{restarted()}
	for _, n := range b.nodes {
		must(b.t, n.Sync(background))
		all = append(all, n.Verifier)
	}
	for i, k := range b.keys {
		for who, v := range all {
			err := check(v, k.Token)
			dead := i < backDead && (i != backRotated || who > 0)
			if dead != errors.Is(err, apikey.ErrUnauthenticated) || !dead && err != nil {
				b.t.Errorf("key %d on verifier %d after the day: %v", i, who, err)
			}
		}
	}
	b.t.Logf("set right: %d events of before repeated, %d for people to look at; %d events verified", len(since)-len(look), len(look), events)
}
