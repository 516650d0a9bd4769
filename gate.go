package apikey

import (
	"context"
	"slices"
	"sync"
	"time"
)

// gate bounds work that callers can ask for: at most so many at once, at most so much
// weight, a bounded queue, and a bounded wait. A caller who waits too long, or finds no
// place in the queue, gets ErrBusy: that is a 503 answer, and not an outage.
//
// The queue of a gate is fair. Callers wait in lines, by a path that says on whose
// behalf they ask. The lines take turns, whatever their lengths. If the queue is full,
// a caller of a short line still gets in: the last caller of the longest line is sent
// away. So nobody can fill the queue for others: neither one account with a thousand
// requests, nor one network with a million made-up tokens.
type gate struct {
	capacity   int64
	share      int64 // least weight of one caller, so that slots is a bound too
	wait       time.Duration
	maxWaiting int
	waited     func(time.Duration, error) // nil: no hook

	mu    sync.Mutex
	free  int64
	queue line
}

// path says in which line a caller waits, from the widest group to the narrowest. Each
// level takes turns by itself: a group that splits itself into many lower groups gains
// nothing against the groups beside it.
type path [4]string

// caller is one caller who waits for their turn.
type caller struct {
	weight int64
	queued bool
	turn   chan error // nil: may work; ErrBusy: had to make room
}

func newGate(capacity, slots int64, wait time.Duration, maxWaiting int) *gate {
	capacity = max(capacity, slots)
	return &gate{capacity: capacity, share: capacity / slots, wait: wait, maxWaiting: maxWaiting, free: capacity}
}

// enter waits for room. If enter returns a room, the caller must call its leave. A
// caller who has hung up gets no room, even if there is some: a flood of requests that
// are dropped at once must not run a hash each.
func (g *gate) enter(ctx context.Context, p path, weight int64) (room, error) {
	if err := ctx.Err(); err != nil {
		return room{}, unavailable(err)
	}
	weight = min(max(weight, g.share), g.capacity)
	if !g.tryEnter(weight) {
		began := time.Now()
		err := g.await(ctx, p, weight)
		if g.waited != nil {
			g.waited(time.Since(began), err)
		}
		if err != nil {
			return room{}, err
		}
	}
	return room{g, weight}, nil
}

// room is the part of a gate that a caller holds.
type room struct {
	gate   *gate
	weight int64
}

func (r room) leave() { r.gate.leave(r.weight) }

func (g *gate) tryEnter(weight int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queue.waiting > 0 || g.free < weight {
		return false
	}
	g.free -= weight
	return true
}

// leave gives room back, and admits the callers whose turn it is.
func (g *gate) leave(weight int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free += weight
	g.admit()
}

func (g *gate) admit() {
	for g.queue.waiting > 0 && g.queue.first().weight <= g.free {
		c := g.queue.next()
		g.free -= c.weight
		c.turn <- nil
	}
}

// await waits for a turn: for a bounded time, in a queue of bounded length.
func (g *gate) await(ctx context.Context, p path, weight int64) error {
	c := &caller{weight: weight, turn: make(chan error, 1)}
	if !g.join(p, c) {
		return ErrBusy
	}
	return g.stand(ctx, p, c)
}

// stand waits in the line that join has put the caller into.
func (g *gate) stand(ctx context.Context, p path, c *caller) error {
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	select {
	case err := <-c.turn:
		return err
	case <-timer.C:
	case <-ctx.Done():
	}
	g.mu.Lock()
	waiting := c.queued
	if waiting {
		g.queue.remove(p[:], c)
		g.admit() // a heavy caller at the head may have held up lighter ones
	}
	g.mu.Unlock()
	switch {
	case !waiting: // the turn came just then
		if err := <-c.turn; err != nil || ctx.Err() == nil {
			return err
		}
		g.leave(c.weight)
		return unavailable(ctx.Err())
	case ctx.Err() != nil:
		return unavailable(ctx.Err())
	}
	return ErrBusy
}

// join puts a caller into its line, if there is room or another caller has to make
// room.
func (g *gate) join(p path, c *caller) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queue.waiting >= g.maxWaiting {
		last := g.queue.tooMany(p[:])
		if last == nil {
			return false
		}
		last.turn <- ErrBusy
	}
	g.queue.add(p[:], c)
	g.admit()
	return true
}

// line is a group of callers. It has lines that take turns, or, at the end of a path,
// the callers themselves in the order of their arrival.
type line struct {
	name    string
	waiting int
	lines   []*line // lines with waiting callers; the first has the next turn
	served  *string // the name of the line that had the last turn
	byName  map[string]*line
	callers []*caller
}

func (l *line) add(p []string, c *caller) {
	l.waiting++
	if len(p) == 0 {
		c.queued = true
		l.callers = append(l.callers, c)
		return
	}
	sub := l.byName[p[0]]
	if sub == nil {
		sub = &line{name: p[0]}
		if l.byName == nil {
			l.byName = map[string]*line{}
		}
		l.byName[p[0]] = sub
		l.lines = append(l.lines, sub)
		// The line that had the last turn went to the end then. A line that comes before the
		// next turn must not wait for one more turn of that line. So it passes that line, and
		// no other: each line still waits for at most one turn of every other.
		if n := len(l.lines); n > 1 && l.served != nil && l.lines[n-2].name == *l.served {
			l.lines[n-2], l.lines[n-1] = sub, l.lines[n-2]
		}
	}
	sub.add(p[1:], c)
}

// first returns the caller whose turn is next.
func (l *line) first() *caller {
	for len(l.lines) > 0 {
		l = l.lines[0]
	}
	return l.callers[0]
}

// next takes out the caller whose turn is next. The caller's line goes behind the
// others.
func (l *line) next() (c *caller) {
	l.waiting--
	if len(l.lines) == 0 {
		c, l.callers = l.callers[0], l.callers[1:]
		c.queued = false
		return c
	}
	sub := l.lines[0]
	l.lines, l.served = l.lines[1:], &sub.name
	c = sub.next()
	if sub.waiting > 0 {
		l.lines = append(l.lines, sub)
	} else {
		delete(l.byName, sub.name)
	}
	return c
}

// remove takes out a caller who waits at the end of a path.
func (l *line) remove(p []string, c *caller) {
	l.waiting--
	if len(p) == 0 {
		c.queued = false
		i := slices.Index(l.callers, c)
		l.callers = slices.Delete(l.callers, i, i+1)
		return
	}
	sub := l.byName[p[0]]
	sub.remove(p[1:], c)
	l.prune(sub)
}

// prune removes a line in which nobody waits any more.
func (l *line) prune(sub *line) {
	if sub.waiting == 0 {
		delete(l.byName, sub.name)
		i := slices.Index(l.lines, sub)
		l.lines = slices.Delete(l.lines, i, i+1)
	}
}

// tooMany finds and takes out the caller who has to make room for a new caller of this
// path: the last of the longest line, if that line stays longer than the new caller's
// line with the new caller in it. It returns nil if nobody has to.
func (l *line) tooMany(p []string) (c *caller) {
	if len(l.lines) == 0 {
		return nil
	}
	longest := slices.MaxFunc(l.lines, func(a, b *line) int { return a.waiting - b.waiting })
	own := l.byName[p[0]]
	switch {
	case own == nil && longest.waiting > 1, own != nil && longest.waiting > own.waiting+1:
		c = longest.last()
	case own != nil:
		longest = own
		c = own.tooMany(p[1:])
	}
	if c != nil {
		l.waiting--
		l.prune(longest)
	}
	return c
}

// last takes out the last caller of the longest line.
func (l *line) last() (c *caller) {
	l.waiting--
	if len(l.lines) == 0 {
		n := len(l.callers) - 1
		c, l.callers = l.callers[n], l.callers[:n]
		c.queued = false
		return c
	}
	longest := slices.MaxFunc(l.lines, func(a, b *line) int { return a.waiting - b.waiting })
	c = longest.last()
	l.prune(longest)
	return c
}

// pathKey carries a path in a context to the gate that is asked, such as that of a
// Hasher.
type pathKey struct{}

func withPath(ctx context.Context, p path) context.Context {
	return context.WithValue(ctx, pathKey{}, p)
}

// pathOf returns the path in ctx. Without one it returns the zero path: calls by the
// program itself share that line.
func pathOf(ctx context.Context) path {
	p, _ := ctx.Value(pathKey{}).(path)
	return p
}
