package apikey

import (
	"context"
	"sync"
	"time"
)

// flights lets callers who want the same thing at the same time share one run
// of it. The run belongs to nobody's request: a first caller who hangs up fails
// nobody else, and a run always ends, because flightTime bounds it.
type flights[K comparable, V any] struct {
	tasks *tasks
	mu    sync.Mutex
	m     map[K]*flight[V]
}

type flight[V any] struct {
	done chan struct{}
	v    V
	err  error
}

// flightTime bounds work that is detached from the request that began it.
const flightTime = 5 * time.Second

func (f *flights[K, V]) do(ctx context.Context, key K, run func(context.Context) (V, error)) (v V, err error) {
	f.mu.Lock()
	fl := f.m[key]
	if fl == nil {
		fl = &flight[V]{done: make(chan struct{}), err: ErrClosed}
		if f.m == nil {
			f.m = map[K]*flight[V]{}
		}
		f.m[key] = fl
		started := f.tasks.start(context.WithoutCancel(ctx), func(ctx context.Context) {
			fl.v, fl.err = run(ctx)
			f.end(key, fl)
		})
		if !started {
			delete(f.m, key)
			f.mu.Unlock()
			return v, ErrClosed
		}
	}
	f.mu.Unlock()
	select {
	case <-fl.done:
		return fl.v, fl.err
	case <-ctx.Done():
		return v, unavailable(ctx.Err())
	}
}

func (f *flights[K, V]) end(key K, fl *flight[V]) {
	f.mu.Lock()
	delete(f.m, key)
	f.mu.Unlock()
	close(fl.done)
}

// tasks are the goroutines of one Verifier; none outlives close.
type tasks struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc
}

func newTasks() *tasks {
	t := &tasks{}
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

func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
}
