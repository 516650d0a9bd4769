package apikey

import (
	"context"
	"sync"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// recordDenial writes a refusal to the activity log: outside every chain, and
// at most once an actor, action, key and minute, so that refusals can neither
// fill the log nor hold up a revocation. The ID is made of those four, so that
// the nodes agree without talking.
func (s session) recordDenial(ctx context.Context, a Actor, j job, about Info) {
	now := s.cfg.Now()
	var c canon.Writer
	c.Text("apikey denial v1")
	c.Text(a.ID)
	c.Text(a.Account)
	c.Text(string(j.action))
	c.Bytes(about.ID[:])
	c.Uint(uint64(now.Unix() / 60))
	sum := c.Sum()
	id := EventID(sum[:16])
	id[6], id[8] = id[6]&0x0F|0x80, id[8]&0x3F|0x80 // version 8 (RFC 9562)
	if s.joined || !s.denials.first(id, a.Account, now) {
		return // the caller's transaction would roll it back, or it is there already
	}
	ev := s.record(Event{
		ID: id, Time: micros(now), Action: j.action, Outcome: OutcomeRefused,
		Account: about.Account, Mode: about.Mode, Key: about.ID, Actor: a,
	}, s.maker(), [32]byte{})
	// Whoever is refused must not escape the log by hanging up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.store.Apply(ctx, StoreChange{ID: id, Event: &ev}); err != nil {
		s.cfg.Logger.Warn("apikey: refusal could not be recorded", "action", j.action, "error", err)
	}
}

// denials remembers which refusals of this minute were written: a bounded
// number, and of each account, so that none can crowd out the others'.
type denials struct {
	mu     sync.Mutex
	minute int64
	seen   map[EventID]struct{}
	from   map[string]int
}

const (
	denialsAMinute = 10_000
	denialsFrom    = 200 // one account
)

func (d *denials) first(id EventID, account string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := now.Unix() / 60; m != d.minute || d.seen == nil {
		d.minute, d.seen, d.from = m, map[EventID]struct{}{}, map[string]int{}
	}
	if _, ok := d.seen[id]; ok || len(d.seen) >= denialsAMinute || d.from[account] >= denialsFrom {
		return false
	}
	d.seen[id] = struct{}{}
	d.from[account]++
	return true
}
