package apikey

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// gate bounds work that an attacker can ask for: at most so many at once, at
// most so much weight, a bounded queue, and a bounded wait. Whoever finds the
// queue full or waits too long gets ErrBusy, which is an honest 503 and not an
// outage.
type gate struct {
	sem        *semaphore.Weighted
	capacity   int64
	share      int64 // least weight of one: capacity ÷ slots, which makes it a bound on the number too
	wait       time.Duration
	waiting    atomic.Int64
	maxWaiting int64
	waited     func(time.Duration, error) // nil: nobody asks
}

func newGate(capacity, slots int64, wait time.Duration, maxWaiting int) *gate {
	capacity = max(capacity, slots)
	return &gate{
		sem: semaphore.NewWeighted(capacity), capacity: capacity, share: capacity / slots,
		wait: wait, maxWaiting: int64(maxWaiting),
	}
}

// enter waits for room and returns what gives it back. A caller who has hung up
// gets none, not even where there is some: a flood of requests that are dropped
// at once must not run a hash each.
func (g *gate) enter(ctx context.Context, weight int64) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, unavailable(err)
	}
	weight = min(max(weight, g.share), g.capacity)
	if !g.sem.TryAcquire(weight) {
		began := time.Now()
		err := g.queue(ctx, weight)
		if g.waited != nil {
			g.waited(time.Since(began), err)
		}
		if err != nil {
			return nil, err
		}
	}
	return func() { g.sem.Release(weight) }, nil
}

// queue waits, for a bounded time and in bounded company.
func (g *gate) queue(ctx context.Context, weight int64) error {
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > g.maxWaiting {
		return ErrBusy
	}
	bounded, cancel := context.WithTimeout(ctx, g.wait)
	defer cancel()
	switch err := g.sem.Acquire(bounded, weight); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return unavailable(ctx.Err())
	}
	return ErrBusy
}
