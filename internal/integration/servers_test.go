package integration

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
	_ "github.com/mattn/go-sqlite3"
)

// Servers are private: each has a folder and a port of its own, ends with the
// test that started it, and has nothing to do with one that the machine runs.

// needs skips the test where a server is not installed; in CI that is a failure.
func needs(t testing.TB, name string, paths ...string) string {
	t.Helper()
	for _, p := range paths {
		if found, err := exec.LookPath(p); err == nil {
			return found
		}
		if all, _ := filepath.Glob(p); len(all) > 0 {
			return all[len(all)-1]
		}
	}
	text := name + " is not installed: run .ci/servers, which installs it with apt-get; nothing is left running"
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
	return ""
}

// account is who runs a server: no database runs as root.
type account struct {
	home       string // the server's folder, which only this account enters
	credential *syscall.Credential
}

// dir makes a folder for a server. The name is that of the user to whom it
// belongs when the test runs as root.
func newAccount(t testing.TB, name string) account {
	t.Helper()
	home, err := os.MkdirTemp("", "apikey-"+name+"-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(home) })
	a := account{home: home}
	if os.Getuid() != 0 {
		return a
	}
	u, err := user.Lookup(name)
	must(t, err)
	uid, err := strconv.Atoi(u.Uid)
	must(t, err)
	gid, err := strconv.Atoi(u.Gid)
	must(t, err)
	must(t, os.Chown(home, uid, gid))
	a.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return a
}

func (a account) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = a.home
	c.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + a.home, "TMPDIR=" + a.home, "LC_ALL=C.UTF-8"}
	// Should the test be killed, its servers are killed with it.
	c.SysProcAttr = &syscall.SysProcAttr{Credential: a.credential, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return c
}

// run runs a command to its end.
func (a account) run(t testing.TB, name string, args ...string) {
	t.Helper()
	out, err := a.command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// server is one running process.
type server struct {
	account
	name string
	port int
	args []string // of the command, to start it again

	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan struct{} // closed when the process has ended
}

// launch starts the process and waits until ready says so.
func (s *server) launch(t testing.TB, ready func(ctx context.Context) error) {
	t.Helper()
	s.log = &bytes.Buffer{}
	cmd, log, done := s.command(s.args[0], s.args[1:]...), s.log, make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	s.cmd, s.done = cmd, done
	go func() {
		cmd.Wait()
		close(done)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-done:
			t.Fatalf("%s ended while it started: %v\n%s", s.name, err, log)
		case <-ctx.Done():
			s.stop(syscall.SIGKILL)
			t.Fatalf("%s does not answer: %v\n%s", s.name, err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop sends a signal to this one process and waits for its end.
func (s *server) stop(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(sig)
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
}

// ports that are free now, all of them different.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// postgresBin is the folder of the newest PostgreSQL.
func postgresBin(t testing.TB) string {
	t.Helper()
	return filepath.Dir(needs(t, "PostgreSQL", "/usr/lib/postgresql/*/bin/initdb", "initdb"))
}

// startPostgres starts an empty PostgreSQL with further settings, name=value.
func startPostgres(t testing.TB, settings ...string) *server {
	t.Helper()
	bin := postgresBin(t)
	s := &server{account: newAccount(t, "postgres"), name: "PostgreSQL", port: freePorts(t, 1)[0]}
	s.run(t, filepath.Join(bin, "initdb"), "-D", s.data(), "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8")
	s.startPostgres(t, settings...)
	return s
}

func (s *server) data() string { return filepath.Join(s.home, "data") }

// startPostgres starts the server in the folder that is there.
func (s *server) startPostgres(t testing.TB, settings ...string) {
	t.Helper()
	s.args = []string{filepath.Join(postgresBin(t), "postgres"), "-D", s.data(), "-p", strconv.Itoa(s.port), "-k", s.home}
	for _, setting := range append([]string{"listen_addresses=127.0.0.1", "max_connections=200", "deadlock_timeout=100ms"}, settings...) {
		s.args = append(s.args, "-c", setting)
	}
	s.again(t)
	t.Cleanup(func() { s.stop(syscall.SIGINT) })
}

// again starts a PostgreSQL that was stopped.
func (s *server) again(t testing.TB) {
	t.Helper()
	s.launch(t, pings("pgx", s.postgresDSN("")))
}

// postgresDSN is of the database that the tests use, with further parameters.
func (s *server) postgresDSN(params string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable%s", s.port, params)
}

// startPgBouncer starts a pooler in transaction mode in front of PostgreSQL.
func startPgBouncer(t testing.TB, of *server) *server {
	t.Helper()
	bin := needs(t, "PgBouncer", "pgbouncer", "/usr/sbin/pgbouncer")
	s := &server{account: newAccount(t, "postgres"), name: "PgBouncer", port: freePorts(t, 1)[0]}
	users, config := filepath.Join(s.home, "users"), filepath.Join(s.home, "pgbouncer.ini")
	must(t, os.WriteFile(users, []byte(`"postgres" ""`+"\n"), 0o644))
	must(t, os.WriteFile(config, fmt.Appendf(nil, `[databases]
postgres = host=127.0.0.1 port=%d user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
`, of.port, s.port, users), 0o644))
	s.args = []string{bin, config}
	s.launch(t, pings("pgx", s.postgresDSN("&default_query_exec_mode=exec")))
	t.Cleanup(func() { s.stop(syscall.SIGINT) })
	return s
}

// startMariaDB starts an empty MariaDB with further arguments.
func startMariaDB(t testing.TB, args ...string) *server {
	t.Helper()
	s := newMariaDB(t)
	s.startMariaDB(t, args...)
	return s
}

func newMariaDB(t testing.TB) *server {
	t.Helper()
	install := needs(t, "MariaDB", "mariadb-install-db")
	s := &server{account: newAccount(t, "mysql"), name: "MariaDB", port: freePorts(t, 1)[0]}
	s.run(t, install, "--no-defaults", "--datadir="+s.data(), "--auth-root-authentication-method=normal", "--skip-test-db")
	return s
}

// startMariaDB starts the server in the folder that is there. Root has no
// password, and is let in from this machine alone.
func (s *server) startMariaDB(t testing.TB, args ...string) {
	t.Helper()
	s.args = append([]string{needs(t, "MariaDB", "mariadbd", "/usr/sbin/mariadbd"), "--no-defaults", "--datadir=" + s.data(),
		"--port=" + strconv.Itoa(s.port), "--bind-address=127.0.0.1", "--socket=" + filepath.Join(s.home, "socket"),
		"--pid-file=" + filepath.Join(s.home, "pid"), "--max-connections=300"}, args...)
	s.launch(t, func(ctx context.Context) error {
		if err := pings("mysql", s.mysqlServer()+"mysql")(ctx); err != nil {
			return err
		}
		db, err := sql.Open("mysql", s.mysqlServer()+"mysql")
		must(t, err)
		defer db.Close()
		_, err = db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS shop")
		return err
	})
	t.Cleanup(func() { s.stop(syscall.SIGTERM) })
}

func (s *server) mysqlServer() string { return fmt.Sprintf("root@tcp(127.0.0.1:%d)/", s.port) }

// mysqlDSN is of the database that the tests use, with further parameters.
func (s *server) mysqlDSN(params string) string {
	return s.mysqlServer() + "shop?parseTime=true&loc=UTC" + params
}

func pings(driver, dsn string) func(context.Context) error {
	return func(ctx context.Context) error {
		db, err := sql.Open(driver, dsn)
		if err != nil {
			return err
		}
		defer db.Close()
		return db.PingContext(ctx)
	}
}

// shared are the servers that many tests use. They are started by the first and
// stopped when all tests are over.
type shared struct {
	once  sync.Once
	start func(t testing.TB) *server
	it    *server
}

func (s *shared) get(t testing.TB) *server {
	t.Helper()
	s.once.Do(func() { s.it = s.start(&outlives{TB: t}) })
	if s.it == nil {
		// The first test has said why, and skipped or failed.
		s.start(t)
		t.Fatal("the server did not start")
	}
	return s.it
}

var (
	onePostgres = &shared{start: func(t testing.TB) *server { return startPostgres(t, "fsync=off") }}
	oneBouncer  = &shared{start: func(t testing.TB) *server { return startPgBouncer(t, onePostgres.get(t)) }}
	oneMariaDB  = &shared{start: func(t testing.TB) *server { return startMariaDB(t, "--innodb-flush-log-at-trx-commit=0") }}
)

// outlives is a test whose cleanup is that of the whole run.
type outlives struct{ testing.TB }

var (
	atTheEndLock sync.Mutex
	atTheEnd     []func()
)

func (o *outlives) Cleanup(f func()) {
	atTheEndLock.Lock()
	defer atTheEndLock.Unlock()
	atTheEnd = append(atTheEnd, f)
}

// stopShared stops what outlived the tests.
func stopShared() {
	for i := len(atTheEnd) - 1; i >= 0; i-- {
		atTheEnd[i]()
	}
}

// sqlState, for tests that provoke an error of PostgreSQL.
func sqlState(err error) string {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		return coded.SQLState()
	}
	return ""
}

// isMySQL reports whether err is one of the server's, by number.
func isMySQL(err error, number int) bool {
	return err != nil && strings.Contains(err.Error(), fmt.Sprintf("Error %d ", number))
}

// startStandby starts a copy of a PostgreSQL that follows it. The name is for
// the primary's synchronous_standby_names.
func startStandby(t testing.TB, primary *server, name string, settings ...string) *server {
	t.Helper()
	s := &server{account: newAccount(t, "postgres"), name: "standby " + name, port: freePorts(t, 1)[0]}
	s.run(t, filepath.Join(postgresBin(t), "pg_basebackup"), "-D", s.data(), "-R", "-X", "stream", "-c", "fast",
		"-d", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=%s", primary.port, name))
	s.startPostgres(t, append([]string{"hot_standby=on"}, settings...)...)
	return s
}

// promote makes a standby the primary.
func (s *server) promote(t testing.TB) {
	t.Helper()
	db, err := sql.Open("pgx", s.postgresDSN(""))
	must(t, err)
	defer db.Close()
	var done bool
	must(t, db.QueryRow("SELECT pg_promote(true, 60)").Scan(&done))
	if !done {
		t.Fatal("the standby was not promoted in a minute")
	}
}

// follows waits until a standby has replayed what its primary has written.
func (s *server) follows(t testing.TB, primary *server) {
	t.Helper()
	p, err := sql.Open("pgx", primary.postgresDSN(""))
	must(t, err)
	defer p.Close()
	db, err := sql.Open("pgx", s.postgresDSN(""))
	must(t, err)
	defer db.Close()
	var at string
	must(t, p.QueryRow("SELECT pg_current_wal_lsn()::text").Scan(&at))
	for range 3000 {
		var done bool
		must(t, db.QueryRow("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", at).Scan(&done))
		if done {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not follow", s.name)
}

// startGalera starts a cluster of MariaDB in which every node takes writes.
func startGalera(t testing.TB, n int) (nodes []*server) {
	t.Helper()
	provider := needs(t, "Galera", "/usr/lib/galera/libgalera_smm.so", "/usr/lib64/galera*/libgalera_smm.so")
	needs(t, "rsync", "rsync")
	ports := freePorts(t, 3*n)
	var cluster []string
	for i := range n {
		cluster = append(cluster, fmt.Sprintf("127.0.0.1:%d", ports[3*i]))
	}
	for i := range n {
		s := newMariaDB(t)
		s.name = fmt.Sprintf("Galera node %d", i+1)
		args := []string{
			"--wsrep-on=ON", "--wsrep-provider=" + provider, fmt.Sprintf("--wsrep-cluster-name=apikey-%d", ports[0]), "--wsrep-node-name=" + s.name,
			"--wsrep-cluster-address=gcomm://" + strings.Join(cluster, ","),
			fmt.Sprintf("--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:%d;ist.recv_addr=127.0.0.1:%d;gcache.size=16M", ports[3*i], ports[3*i+1]),
			"--wsrep-node-address=127.0.0.1", "--wsrep-sst-method=rsync", fmt.Sprintf("--wsrep-sst-receive-address=127.0.0.1:%d", ports[3*i+2]),
			"--binlog-format=ROW", "--innodb-autoinc-lock-mode=2", "--innodb-flush-log-at-trx-commit=2",
		}
		if i == 0 {
			args = append(args, "--wsrep-new-cluster")
		}
		s.startMariaDB(t, args...)
		nodes = append(nodes, s)
	}
	return nodes
}

// galeraDSN is of a node that waits for what others have acknowledged.
func (s *server) galeraDSN() string { return s.mysqlDSN("&interpolateParams=true&wsrep_sync_wait=1") }
