package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/memstore"
)

var noop = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

// guarded puts the middleware before the handler that does nothing, with one
// key that may pass.
func guarded() (http.Handler, string, error) {
	p, err := newProgram(memstore.New(), nil, true)
	if err != nil {
		return nil, "", err
	}
	issued, err := p.issue(1)
	if err != nil {
		return nil, "", err
	}
	guard := httpauth.New(p.verifier, httpauth.Config{ForwardedHeader: "X-Forwarded-For", TrustedProxies: loopback})
	return guard.Require(refund...)(noop), issued[0].Token.Reveal(), nil
}

// middleware measures ServeHTTP without a network.
func (r *report) middleware() {
	handler, token, err := guarded()
	check(err)
	value := []string{"Bearer " + token}
	ask := func(h http.Handler) func(int) error {
		req, err := http.NewRequest("GET", "/", nil)
		check(err)
		req.RemoteAddr = "127.0.0.1:1234"
		req.Header["X-Forwarded-For"] = []string{"203.0.113.77"}
		w := &answer{h: http.Header{}}
		return func(int) error {
			req.Header["Authorization"] = value // which the middleware deletes
			w.status = 0
			h.ServeHTTP(w, req)
			if w.status != http.StatusNoContent {
				return fmt.Errorf("status %d", w.status)
			}
			return nil
		}
	}
	without, with := ask(noop), ask(handler)
	took := inTurns(2*rounds, contender{"noop", 20_000, without}, contender{"guard", 20_000, with})
	r.add("middleware over the handler that does nothing, ServeHTTP", "ns", 1500, minus(took[1], took[0]))
	allocs := testing.AllocsPerRun(10_000, func() { with(0) }) - testing.AllocsPerRun(10_000, func() { without(0) })
	r.add("allocations of the middleware", "", 2, []float64{allocs})
}

type answer struct {
	h      http.Header
	status int
}

func (a *answer) Header() http.Header         { return a.h }
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }
func (a *answer) WriteHeader(status int)      { a.status = status }

// serveHTTP is the server for the load generator. It prints its address and a
// token, and ends with its standard input.
func serveHTTP(kind string) error {
	handler, token, err := guarded()
	if err != nil {
		return err
	}
	if kind == "noop" {
		handler = noop
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), token)
	go func() {
		os.Stdin.Read(make([]byte, 1))
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Println(m.Mallocs)
		os.Exit(0)
	}()
	return http.Serve(l, handler)
}

// load runs wrk against the handler that does nothing and the guarded one, in
// turns, each a process of its own.
func (r *report) load() {
	if _, err := exec.LookPath("wrk"); err != nil {
		r.note("The load generator is missing: apt-get install wrk.")
		return
	}
	self, err := os.Executable()
	check(err)
	figures := map[string][]loaded{}
	for range rounds {
		for _, kind := range []string{"noop", "guard"} {
			f, err := loadOne(self, kind)
			check(err)
			figures[kind] = append(figures[kind], f)
		}
	}
	of := func(kind string, get func(loaded) float64) (v []float64) {
		for _, f := range figures[kind] {
			v = append(v, get(f))
		}
		return v
	}
	for _, m := range []struct {
		name, unit string
		get        func(loaded) float64
	}{
		{"server CPU a request", "ns", func(l loaded) float64 { return l.cpu }},
		{"allocations a request", "", func(l loaded) float64 { return l.allocs }},
		{"p50", "µs", func(l loaded) float64 { return l.p50 }},
		{"p99", "µs", func(l loaded) float64 { return l.p99 }},
	} {
		without, with := of("noop", m.get), of("guard", m.get)
		r.add("wrk, 16 connections, "+m.name+": guarded ÷ handler that does nothing", "×", 0, over(with, without))
		r.add("wrk, "+m.name+", handler that does nothing", m.unit, 0, without)
		r.add("wrk, "+m.name+", guarded", m.unit, 0, with)
	}
}

type loaded struct{ cpu, allocs, p50, p99 float64 }

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in`)
	wrkNon2xx   = regexp.MustCompile(`Non-2xx`)
	wrkP        = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([0-9.]+)(us|ms|s)$`)
)

func loadOne(self, kind string) (l loaded, err error) {
	server := exec.Command(self, "-serve", kind)
	stdin, err := server.StdinPipe()
	if err != nil {
		return l, err
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		return l, err
	}
	if err := server.Start(); err != nil {
		return l, err
	}
	defer server.Wait()
	defer server.Process.Kill()
	var addr, token string
	if _, err := fmt.Fscan(stdout, &addr, &token); err != nil {
		return l, err
	}
	before := cpuTime(server.Process.Pid)
	out, err := exec.Command("wrk", "-t1", "-c16", "-d3s", "--latency", "-H", "Authorization: Bearer "+token, "-H", "X-Forwarded-For: 203.0.113.77", "http://"+addr+"/").CombinedOutput()
	if err != nil || wrkNon2xx.Match(out) {
		return l, fmt.Errorf("wrk: %v\n%s", err, out)
	}
	cpu := cpuTime(server.Process.Pid) - before
	m := wrkRequests.FindSubmatch(out)
	if m == nil {
		return l, fmt.Errorf("wrk: %s", out)
	}
	n, _ := strconv.ParseFloat(string(m[1]), 64)
	stdin.Close()
	var mallocs float64
	if _, err := fmt.Fscan(stdout, &mallocs); err != nil {
		return l, err
	}
	l.cpu, l.allocs = float64(cpu.Nanoseconds())/n, mallocs/n
	for _, p := range wrkP.FindAllSubmatch(out, -1) {
		d, err := time.ParseDuration(string(p[2]) + string(p[3]))
		if err != nil {
			return l, err
		}
		if string(p[1]) == "50" {
			l.p50 = float64(d.Nanoseconds()) / 1000
		} else {
			l.p99 = float64(d.Nanoseconds()) / 1000
		}
	}
	return l, nil
}

// cpuTime is what a process has used, from /proc (in hundredths of a second).
func cpuTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(err)
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
