package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
)

// cable is a network between a program and a server, which may swallow what is
// sent, without a word to either side.
type cable struct {
	net.Listener
	holed atomic.Bool
	mu    sync.Mutex
	to    int // port
	conns []net.Conn
}

func newCable(t *testing.T, port int) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c := &cable{Listener: l, to: port}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			far, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.to))
			if err == nil {
				c.conns = append(c.conns, near, far)
				go c.carry(near, far)
				go c.carry(far, near)
			} else {
				near.Close()
			}
			c.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		c.plug(port)
	})
	return c
}

// plug has the cable lead to another server, and cuts what went to the one before.
func (c *cable) plug(port int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = port
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// carry swallows everything from the moment that there is a hole: a connection
// that was in it stays dead.
func (c *cable) carry(from, to net.Conn) {
	buffer := make([]byte, 64<<10)
	for dead := false; ; {
		n, err := from.Read(buffer)
		if dead = dead || c.holed.Load(); dead {
			if err != nil {
				return
			}
			continue
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err == io.EOF {
				to.Close()
			}
			return
		}
	}
}

func (c *cable) port() int { return c.Addr().(*net.TCPAddr).Port }

// The network swallows every packet, and resets nothing. Warm keys go on until
// the last good sync is too old; then, and for cold keys at once, the answer is
// that we cannot know, and it comes in time. When the network is back, so is
// everything. (lib/pq waits for such a connection until TCP gives it up, whatever
// the context says, so it is not among them.)
func TestBlackHole(t *testing.T) {
	const maxStale = 2 * time.Second
	for _, e := range servers() {
		t.Run(e.name, func(t *testing.T) {
			dsn := e.dsn(t)
			var server int
			for _, s := range []*shared{onePostgres, oneMariaDB} {
				if s.it != nil && strings.Contains(dsn, fmt.Sprintf(":%d", s.it.port)) {
					server = s.it.port
				}
			}
			c := newCable(t, server)
			d, _ := e.fresh(t)
			store := open(t, e.pool(t, dsn), d)
			must(t, store.Migrate(t.Context()))
			m := newManager(t, store)
			var tokens []string
			for range 20 {
				k, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
				must(t, err)
				tokens = append(tokens, k.Token.Reveal())
			}
			far := open(t, e.pool(t, strings.Replace(dsn, fmt.Sprintf(":%d", server), fmt.Sprintf(":%d", c.port()), 1)), d)
			v := newVerifier(t, far, func(c *verifying) { c.Sync, c.MaxStale = 200*time.Millisecond, maxStale })
			ask := func(token string) (time.Duration, error) {
				ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
				defer cancel()
				begun := time.Now()
				_, err := v.Verify(ctx, token, apikey.Request{})
				return time.Since(begun), err
			}
			_, err := ask(tokens[0])
			must(t, err)

			c.holed.Store(true)
			cut := time.Now()
			took, err := ask(tokens[1])
			if !(errors.Is(err, apikey.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)) || took > 1700*time.Millisecond {
				t.Errorf("a cold key: %v after %v", err, took)
			}
			var last time.Duration // since the cut, that a warm key was accepted
			accepted, refused, slowest := 0, 0, time.Duration(0)
			for time.Since(cut) < maxStale+3*time.Second {
				begun := time.Since(cut)
				took, err := ask(tokens[0])
				slowest = max(slowest, took)
				switch {
				case err == nil:
					accepted, last = accepted+1, begun
				case errors.Is(err, apikey.ErrUnavailable):
					refused++
				default:
					t.Errorf("a warm key: %v", err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			if accepted == 0 || refused == 0 || last > maxStale || slowest > 1500*time.Millisecond {
				t.Errorf("warm: accepted %d, refused %d, last accepted after %v, slowest %v", accepted, refused, last, slowest)
			}
			c.holed.Store(false)
			healed := time.Now()
			for _, err := ask(tokens[2]); err != nil && time.Since(healed) < 20*time.Second; _, err = ask(tokens[2]) {
				time.Sleep(20 * time.Millisecond)
			}
			_, err = ask(tokens[0])
			must(t, err)
			t.Logf("black hole: cold key answered after %v, warm key accepted until %v, slowest answer %v, recovered %v after the network",
				took.Round(time.Millisecond), last.Round(time.Millisecond), slowest.Round(time.Millisecond), time.Since(healed).Round(time.Millisecond))
		})
	}
}
