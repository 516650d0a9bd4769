// Package seldom keeps a log readable if one cause logs a line for every request. Lines
// with the same message about the same key, credential, code and action have one cause:
// only a few of them are written each minute. The next line that is written says how many
// lines were left out.
package seldom

import (
	"context"
	"log/slog"
	"sync"
)

const (
	perMinute = 10   // lines that are written for one cause
	causes    = 1000 // causes that have a count of their own; all others share one
)

// about lists the attributes that distinguish causes, besides the message. So the lines
// about one damaged key do not hide the lines about another.
var about = map[string]bool{"key": true, "credential": true, "code": true, "action": true}

// Logger returns a logger that writes to l and leaves out repeated lines.
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
	lost   int // lines left out, for causes that are not in seen any more
}

// cause is a cause that logged a line this minute, or earlier if no later line has said
// how many of its lines were left out.
type cause struct {
	written, left int
	last          int64 // the minute of the cause's last line
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

// may counts a line and reports whether it may be written. If so, left is the number of
// lines that were left out before it.
func (l *lines) may(name string, minute int64) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if minute != l.minute {
		// The next line of a cause says how many of its lines were left out. If the cause
		// logs no more lines, the next line of any cause says it, and the cause is forgotten.
		// Otherwise a thousand causes that each came once would keep their counts for ever,
		// and all later causes would share one count.
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
