// Package seldom keeps a log readable when one cause writes a line for every request.
// If lines say the same about the same thing, a few a minute are written. The next line
// that is written says how many were left out.
package seldom

import (
	"context"
	"log/slog"
	"sync"
)

const (
	perMinute = 10   // lines of one cause
	causes    = 1000 // causes counted apart; all others share one count
)

// about lists the attributes that tell causes apart, besides the message, so that one
// damaged key does not hide another.
var about = map[string]bool{"key": true, "credential": true, "code": true, "action": true}

// Logger returns a logger that writes to l, but seldom.
func Logger(l *slog.Logger) *slog.Logger {
	return slog.New(&handler{Handler: l.Handler(), lines: &lines{seen: map[string]*cause{}}})
}

type handler struct {
	slog.Handler
	lines *lines
}

type lines struct {
	mu     sync.Mutex
	minute int64
	seen   map[string]*cause
	lost   int // lines left out of causes that were forgotten
}

// cause is a cause of this minute, or one of an earlier minute whose lines were left
// out.
type cause struct {
	written, left int
	last          int64 // the minute in which it came last
}

// Handle writes a line, or leaves it out.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	name := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if about[a.Key] {
			name += "\x00" + a.Value.String()
		}
		return true
	})
	left, ok := h.lines.may(name, r.Time.Unix()/60)
	if !ok {
		return nil
	}
	if left > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out", left))
	}
	return h.Handler.Handle(ctx, r)
}

// may counts a line, and returns how many were left out since one was written.
func (l *lines) may(name string, minute int64) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if minute != l.minute {
		// The next line of a cause says how many of its lines were left out. If no such line
		// comes, the next line of any cause says it. Otherwise a thousand causes that came
		// once would be counted apart for ever, and all later ones would share one count.
		for name, c := range l.seen {
			if c.written = 0; c.left == 0 || c.last < minute-1 {
				l.lost += c.left
				delete(l.seen, name)
			}
		}
		l.minute = minute
	}
	c := l.seen[name]
	if c == nil {
		if len(l.seen) >= causes {
			name = ""
			c = l.seen[name]
		}
		if c == nil {
			c = &cause{}
			l.seen[name] = c
		}
	}
	c.last = minute
	if c.written == perMinute {
		c.left++
		return 0, false
	}
	c.written++
	left, c.left, l.lost = c.left+l.lost, 0, 0
	return left, true
}

// WithAttrs returns a handler that shares the counts of h.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.lines}
}

// WithGroup returns a handler that shares the counts of h.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.lines}
}
