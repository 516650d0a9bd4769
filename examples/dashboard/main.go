// Dashboard is a merchant's dashboard with a page to manage API keys, as five payment
// companies have one. It needs no set-up, and keeps everything in memory:
//
//	go run ./examples/dashboard -page doku
//
// It prints the URL of the page. Sign in as superadmin, admin, viewer, or other (an admin of
// another account); everybody's password is "correct horse", and their PIN 2580. The page of
// each company is one entry of the table in presets.go. A program of yours keeps its keys in
// a database (package sqlstore), and has a sign-in already. /app is a page of another kind,
// which has the key page as an element.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	_ "time/tzdata" // the zones of the presets, also where the system has none

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/admin/keypage"
	"github.com/go-apikey/apikey/memstore"
)

// path is where the page is.
const path = "/settings/keys"

type config struct {
	listen, page, smtp string
	seed               int
}

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
	if err := run(ctx, c, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string, stderr io.Writer) (c config, err error) {
	names := strings.Join(slices.Sorted(maps.Keys(presets)), ", ")
	f := flag.NewFlagSet("dashboard", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.listen, "listen", "127.0.0.1:8090", "`host:port` of this machine to listen on; port 0 is any that is free")
	f.StringVar(&c.page, "page", "uddoktapay", "whose `page`: "+names)
	f.StringVar(&c.smtp, "smtp", "", "`host:port` of a mail server for codes (default: codes are written to standard error)")
	f.IntVar(&c.seed, "seed", 12, "how many keys the account has at the start, besides those of the page itself")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	wrong := ""
	switch _, known := presets[c.page]; {
	case f.NArg() > 0:
		wrong = fmt.Sprintf("nothing follows the flags, but %q does", f.Arg(0))
	case !known:
		wrong = fmt.Sprintf("-page %q is none of %s", c.page, names)
	case c.seed < 0 || c.seed > 100_000:
		wrong = "-seed is from 0 to 100000"
	default:
		return c, nil
	}
	fmt.Fprintln(stderr, "dashboard:", wrong)
	return c, errors.New(wrong)
}

func run(ctx context.Context, c config, stdout, stderr io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	l, err := net.Listen("tcp", c.listen)
	if err != nil {
		return fmt.Errorf("%w: choose another address with -listen", err)
	}
	defer l.Close()
	if tcp, ok := l.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		return fmt.Errorf("-listen %s: other machines could connect, and everybody knows the passwords: choose 127.0.0.1", c.listen)
	}
	p, url := presets[c.page], "http://"+l.Addr().String()
	settings, managing, err := p.configure(c, newSender(c.smtp, stderr), log)
	if err != nil {
		return err
	}
	if err := seed(ctx, settings, managing, p, c.seed); err != nil {
		return fmt.Errorf("the keys of the start: %w", err)
	}
	manager, err := apikey.NewManager(ctx, settings, managing)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, manager.Close(context.WithoutCancel(ctx))) }()
	mux, err := routes(ctx, p, manager, url, log)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(stdout, "%s\nSign in as superadmin, admin or viewer; the password is %q, the PIN %s.\n", url+path, password, pin); err != nil {
		return err
	}
	return serve(ctx, l, mux, log)
}

// configure returns what the Managers and Verifiers of the program are made of.
func (p preset) configure(c config, codes apikey.Sender, log *slog.Logger) (s apikey.Settings, m apikey.ManagerConfig, err error) {
	// In production both come from a secret manager, and are the same at the next start.
	var pepperKey, kekKey [32]byte
	rand.Read(pepperKey[:])
	rand.Read(kekKey[:])
	pepper, err1 := apikey.NewPepper(1, pepperKey)
	kek, err2 := apikey.NewLocalKEK("dashboard", kekKey[:])
	if err := errors.Join(err1, err2); err != nil {
		return s, m, err
	}
	hasher, err1 := apikey.NewHMACSHA256(pepper)
	byPassword, err2 := apikey.NewPassword(checkPassword)
	byPIN, err3 := apikey.NewPIN(checkPIN)
	byMail, err4 := apikey.NewEmailCode(codes, pepper)
	byApp, err5 := apikey.NewTOTP("Dashboard", nil)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return s, m, err
	}
	factors := map[string]apikey.Factor{"password": byPassword, "pin": byPIN, "email": byMail, "totp": byApp}
	maps.DeleteFunc(factors, func(name string, _ apikey.Factor) bool { return !slices.Contains(p.Factors, name) })
	return apikey.Settings{
			Store: memstore.New(), Prefix: c.page, Catalog: apikey.MustCatalog(p.Catalog...),
			Peppers: []apikey.Pepper{pepper}, Hashers: []apikey.Hasher{hasher}, Standing: p.Standing, Logger: log,
		}, apikey.ManagerConfig{
			Policy: apikey.RolePolicy{Roles: []string{"superadmin", "admin"}}, Products: p.Products,
			StepUp: p.StepUp, Factors: factors, KEKs: []apikey.KEK{kek},
			Limits: apikey.Limits{LiveKeys: 50 + c.seed, Keys: 1000 + 2*c.seed},
		}, nil
}

// routes mounts the page, the JSON API behind the same sign-in, and the API for keys.
func routes(ctx context.Context, p preset, manager *apikey.Manager, url string, log *slog.Logger) (http.Handler, error) {
	zone, err := time.LoadLocation(p.Zone)
	if err != nil {
		return nil, err
	}
	people := newSignIn()
	c, err := p.Page(url)
	if err != nil {
		return nil, err
	}
	c.Manager, c.Actor, c.Path, c.Header, c.Logger = manager, people.actor, path, signOut, log
	c.Stylesheet = stylesheet
	c.SignIn, c.Zone = loginURL, func(apikey.Actor) *time.Location { return zone }
	page, err := keypage.New(c)
	if err != nil {
		return nil, err
	}
	api, err := admin.New(admin.Config{Manager: manager, Actor: people.actor, Logger: log})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(path, page)
	mux.Handle(path+"/", page)
	mux.Handle("/api/", http.StripPrefix("/api", api))
	people.mount(mux)
	mountApp(mux, people)
	mux.HandleFunc("GET /terms", terms)
	mux.Handle("GET /{$}", http.RedirectHandler(path, http.StatusSeeOther))
	return mux, mountPayments(ctx, mux, manager, log)
}

// serve answers requests until ctx ends. Then it finishes the requests that have begun.
func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 40 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
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
