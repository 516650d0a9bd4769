package apikey

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// flights lets callers who want the same thing at the same time share one run of it.
// The run belongs to no request: if the first caller hangs up, the others still get
// their answer. A run ends, because flightTime bounds it. If one does not end, because
// the store does not look at its context, it is left behind and a new run begins:
// another connection may work.
type flights[K comparable, V any] struct {
	tasks *tasks // for do and shared; nil if only within is called
	mu    sync.Mutex
	m     map[K]*flight[V]
	left  int // runs that were left behind and have not ended
}

type flight[V any] struct {
	began   time.Time
	left    bool
	waiting int           // callers of shared
	stop    func()        // of shared: called when nobody waits any more
	done    chan struct{} // nil: nobody waits
	v       V
	err     error
}

// maxLeft bounds the runs that are left behind: each may hold a connection.
const maxLeft = 8

// flightTime bounds work that is detached from the request that began it.
const flightTime = 5 * time.Second

// do is for a request, which may hang up: the run has a goroutine of its own.
func (f *flights[K, V]) do(ctx context.Context, key K, run func(context.Context) (V, error)) (V, error) {
	fl, first := f.join(key, true)
	if first && !f.tasks.reuse(func() {
		ctx, cancel := f.tasks.detached(ctx)
		defer cancel()
		fl.v, fl.err = run(ctx)
		f.end(key, fl)
	}) {
		f.end(key, fl)
	}
	return fl.wait(ctx, f.tasks)
}

// shared is do for work that is given up when the last of its callers has hung up, and
// not before: no caller can end the work of another.
func (f *flights[K, V]) shared(ctx context.Context, key K, run func(context.Context) (V, error)) (V, error) {
	fl, first := f.join(key, true)
	defer f.hangUp(key, fl)
	if first {
		work, stop := context.WithCancel(context.WithoutCancel(ctx))
		f.mu.Lock()
		fl.stop = stop // not needed before: the first caller still waits
		f.mu.Unlock()
		if !f.tasks.start(work, func(ctx context.Context) {
			fl.v, fl.err = run(ctx)
			f.end(key, fl)
		}) {
			f.end(key, fl)
		}
	}
	return fl.wait(ctx, f.tasks)
}

// hangUp ends a caller's part in shared. A caller who comes after the last one has left
// begins a new run.
func (f *flights[K, V]) hangUp(key K, fl *flight[V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiting--; fl.waiting == 0 {
		fl.stop()
		if f.m[key] == fl {
			delete(f.m, key)
		}
	}
}

// within is do for tasks: a task is no request, and its context is bounded already. The
// first task runs the function itself, because two goroutines that hand over to each
// other cost more than the query between them. A run has no more time than the task
// that began it. If the run fails, a task that joined it, and has time left, tries once
// more.
func (f *flights[K, V]) within(task context.Context, key K, run func(context.Context) (V, error)) (v V, err error) {
	for range 2 {
		fl, first := f.join(key, false)
		if first {
			v, err = run(task)
			fl.v, fl.err = v, err
			f.end(key, fl)
			break
		}
		v, err = fl.wait(task, nil)
		if !errors.Is(err, ErrUnavailable) || task.Err() != nil {
			break
		}
	}
	return v, err
}

// join returns the flight of a key, and whether it is new. A caller who finds a flight
// waits for it; waits says whether its first caller does too.
func (f *flights[K, V]) join(key K, waits bool) (fl *flight[V], first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.m[key]; fl != nil {
		if time.Since(fl.began) < flightTime+time.Second || f.left == maxLeft {
			fl.waiting++
			if fl.done == nil {
				fl.done = make(chan struct{})
			}
			return fl, false
		}
		fl.left = true
		f.left++
	}
	if f.m == nil {
		f.m = map[K]*flight[V]{}
	}
	fl = &flight[V]{began: time.Now(), waiting: 1, err: ErrClosed}
	if waits {
		fl.done = make(chan struct{})
	}
	f.m[key] = fl
	return fl, true
}

func (f *flights[K, V]) end(key K, fl *flight[V]) {
	f.mu.Lock()
	if fl.left {
		f.left--
	} else if f.m[key] == fl {
		delete(f.m, key)
	}
	done := fl.done
	f.mu.Unlock()
	if done != nil {
		close(done)
	}
}

// wait returns what the run has answered, or an error if ctx ends or the run takes
// longer than flightTime: a store may not look at its context.
func (fl *flight[V]) wait(ctx context.Context, t *tasks) (v V, err error) {
	select {
	case <-fl.done: // an answer counts, even if the context has ended
		return fl.v, fl.err
	default:
	}
	var tooLong <-chan time.Time
	if t != nil {
		timer := t.timer()
		defer t.putBack(timer)
		tooLong = timer.C
	}
	select {
	case <-fl.done:
		return fl.v, fl.err
	case <-ctx.Done():
		return v, unavailable(ctx.Err())
	case <-tooLong:
		return v, unavailable(context.DeadlineExceeded)
	}
}

// tasks are the goroutines of one Verifier or Manager.
type tasks struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc

	more    chan func() // for goroutines that wait for work
	resting atomic.Int32
	timers  sync.Pool
}

func newTasks() *tasks {
	t := &tasks{more: make(chan func())}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// start runs work bounded by flightTime; false if the tasks are closed.
func (t *tasks) start(ctx context.Context, work func(context.Context)) bool {
	return t.forever(func() {
		ctx, cancel := context.WithTimeout(ctx, flightTime)
		defer cancel()
		defer context.AfterFunc(t.ctx, cancel)()
		work(ctx)
	})
}

// detached returns a context with the values of another one, but not its end. The new
// context ends after flightTime, or with the tasks.
func (t *tasks) detached(from context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(t.ctx, flightTime)
	return valuesOf{ctx, from}, cancel
}

// reuse is forever for work that comes again and again. A goroutine that has done some
// waits for more, because the stack of a new one has to grow first. It does not wait if
// maxResting others wait already.
func (t *tasks) reuse(work func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	select {
	case t.more <- work:
	default:
		t.wg.Go(func() { t.workOn(work) })
	}
	return true
}

// maxResting bounds the goroutines that wait for work.
const maxResting = 4

func (t *tasks) workOn(work func()) {
	for {
		work()
		if t.resting.Add(1) > maxResting {
			t.resting.Add(-1)
			return
		}
		select {
		case work = <-t.more:
			t.resting.Add(-1)
		case <-t.ctx.Done():
			return
		}
	}
}

// timer returns a timer that fires after flightTime. putBack takes the timer back.
func (t *tasks) timer() *time.Timer {
	if timer, ok := t.timers.Get().(*time.Timer); ok {
		timer.Reset(flightTime)
		return timer
	}
	return time.NewTimer(flightTime)
}

func (t *tasks) putBack(timer *time.Timer) {
	timer.Stop() // a tick that nobody received is gone
	t.timers.Put(timer)
}

// valuesOf is a context with the values of another one, such as those of a trace.
type valuesOf struct {
	context.Context
	values context.Context
}

func (c valuesOf) Value(key any) any {
	if v := c.Context.Value(key); v != nil { // how package context finds a parent
		return v
	}
	return c.values.Value(key)
}

// forever runs work that watches t.ctx itself.
func (t *tasks) forever(work func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(work)
	return true
}

// close ends the tasks, and waits for them.
func (t *tasks) close(ctx context.Context) {
	t.cancel()
	t.drain(ctx)
}

// drain begins no more tasks, and waits until the running ones have ended or ctx ends:
// a store that does not look at its context may hold a task for ever.
func (t *tasks) drain(ctx context.Context) {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		t.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// bounded runs code of the program's own. Such code may hang without looking at its
// context, or panic: neither may stop the caller's goroutine or the process. The value
// of a panic is not repeated, because it may be a secret.
func bounded[T any](ctx context.Context, d time.Duration, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: errPanicked}
		defer cancel()
		defer func() {
			_ = recover()
			done <- r
		}()
		r.value, r.err = call(ctx)
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		select { // the answer may have come just then
		case r := <-done:
			return r.value, r.err
		default:
			var none T
			return none, ctx.Err()
		}
	}
}

var errPanicked = errors.New("it panicked")

// pause waits for d, or less if the context ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
