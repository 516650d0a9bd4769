// Gateway is a small payment API on an embedded database. It needs no set-up:
//
//	go run ./examples/gateway
//
// The first start makes a merchant and their keys, prints the keys, and prints curl
// commands to try them with. Each start prints a link to sign in with, and commands that
// manage keys. In production, put a TLS proxy before this program, and let people sign in
// as they do in your dashboard.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-apikey/apikey"
)

func main() {
	c, err := parseFlags(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	if err := run(ctx, c, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

type config struct {
	addr, db, pepperFile, kekFile string

	issue     apikey.Mode // zero: serve
	abilities []string    // nil: defaultAbilities
}

func parseFlags(args []string, stderr io.Writer) (config, error) {
	var c config
	f := flag.NewFlagSet("gateway", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.addr, "addr", "127.0.0.1:8080", "`host:port` to listen on; port 0 is any that is free")
	f.StringVar(&c.db, "db", "apikey-gateway.db", "`file` of the database; made if it does not exist")
	f.StringVar(&c.pepperFile, "pepper-file", "", "`file` of the pepper; made with a new database (default: beside the database, named .pepper)")
	f.StringVar(&c.kekFile, "kek-file", "", "`file` of the KEK, which seals tokens that can be shown again; made if it does not exist (default: beside the database, named .kek)")
	f.Func("issue", "issue one more secret key, `live or test` (default live), print it, and exit", func(s string) error {
		return c.issue.UnmarshalText([]byte(s))
	})
	f.Func("abilities", "with -issue: a comma-separated `list` (default "+strings.Join(defaultAbilities, ",")+")", func(s string) error {
		c.abilities = strings.Split(s, ",")
		for _, text := range c.abilities {
			if _, err := catalog.Parse(text); err != nil {
				return err
			}
		}
		return nil
	})
	if err := f.Parse(withMode(args)); err != nil {
		return c, err
	}
	if c.pepperFile == "" {
		c.pepperFile = strings.TrimSuffix(c.db, ".db") + ".pepper"
	}
	if c.kekFile == "" {
		c.kekFile = strings.TrimSuffix(c.db, ".db") + ".kek"
	}
	_, _, badAddr := net.SplitHostPort(c.addr)
	wrong := ""
	switch {
	case f.NArg() > 0:
		wrong = "nothing follows the flags, but " + strconv.Quote(f.Arg(0)) + " does"
	case badAddr != nil:
		wrong = "-addr is host:port, like 127.0.0.1:8080"
	case c.db == "":
		wrong = "-db names a file"
	case c.issue == 0 && c.abilities != nil:
		wrong = "-abilities goes with -issue"
	default:
		return c, nil
	}
	fmt.Fprintln(stderr, "gateway:", wrong)
	return c, errors.New(wrong)
}

// withMode lets -issue be used without a value, which package flag allows only for
// boolean flags. It then means -issue=live.
func withMode(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		bare := arg == "-issue" || arg == "--issue"
		if bare && (i+1 == len(args) || strings.HasPrefix(args[i+1], "-")) {
			args[i] += "=live"
		}
	}
	return args
}

func run(ctx context.Context, c config, out io.Writer) (err error) {
	// No secret can get into the log: a Token prints redacted, and handlers get requests
	// without credentials.
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if c.issue != 0 {
		return issueOne(ctx, c, out, log)
	}
	// Listen before anything else. If the port is in use, the program ends at once, and a
	// first start must not print its keys before that.
	l, err := net.Listen("tcp", c.addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use: stop the other program, or choose another port with -addr (0 is any)", c.addr)
	} else if err != nil {
		return fmt.Errorf("%w: choose another address with -addr", err)
	}
	defer l.Close()
	g, err := open(ctx, c, out, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close(context.WithoutCancel(ctx))) }()
	url := "http://" + l.Addr().String()
	if err := g.provision(ctx, func(k merchantKeys) error { return printKeys(out, c, k, url) }); err != nil {
		return fmt.Errorf("database %s: %w", c.db, err)
	}
	mux := newMux(api{g.ledger, log}, newGuard(g.live, g.test, log))
	day := noManagement
	if onLoopback(l.Addr()) {
		s, link := newSignIn()
		if err := errors.Join(addManagement(mux, g.manager, s, log), addPage(mux, g.manager, s, log)); err != nil {
			return err
		}
		day = strings.NewReplacer("URL", url, "LINK", link).Replace(management)
	}
	if _, err := fmt.Fprint(out, day, "listening on ", url, "\n"); err != nil {
		return err
	}
	purging, stop := context.WithCancel(ctx)
	defer stop() // before the database is closed
	go g.store.PurgeDaily(purging, keepRevoked, log)
	return serve(ctx, l, withProblems(mux), log)
}

// onLoopback reports whether only this machine can connect. Without TLS, the sign-in link
// and the cookie of a session must not cross a network.
func onLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// keepRevoked is how long merchants see their revoked keys.
const keepRevoked = 90 * 24 * time.Hour

// serve answers requests until ctx ends. Then it finishes the requests that have begun.
func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return s.Shutdown(ctx)
}

func issueOne(ctx context.Context, c config, out io.Writer, log *slog.Logger) (err error) {
	g, err := open(ctx, c, out, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close(context.WithoutCancel(ctx))) }()
	issued, err := g.issue(ctx, c.issue, c.abilities)
	if err != nil {
		return fmt.Errorf("database %s: %w", c.db, err)
	}
	return printToken(out, issued)
}

func printToken(out io.Writer, k apikey.Issued) error {
	_, err := fmt.Fprintf(out, "%s_%s_KEY=%s\n", strings.ToUpper(k.Key.Mode.String()), strings.ToUpper(k.Key.Kind.String()), k.Token.Reveal())
	return err
}

// printKeys prints lines that can be pasted into a shell as they are.
func printKeys(out io.Writer, c config, keys merchantKeys, url string) error {
	news := "has new keys. The secret ones are shown this once: only their hashes are kept."
	if len(keys.secret) == 0 {
		news = "has the keys that it had. For another secret key: -issue live, or -issue test."
	}
	if _, err := fmt.Fprintf(out, "# database %s, pepper %s, KEK %s\n# Merchant %s %s\n", c.db, c.pepperFile, c.kekFile, merchant, news); err != nil {
		return err
	}
	for _, k := range append(keys.secret, keys.publishable.Live, keys.publishable.Test) {
		if err := printToken(out, k); err != nil {
			return err
		}
	}
	if len(keys.secret) == 0 {
		return nil
	}
	_, err := fmt.Fprint(out, strings.ReplaceAll(commands, "URL", url))
	return err
}
