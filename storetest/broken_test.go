package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// mistake is a mistake that a real store may make. make puts it into a Backend.
type mistake struct {
	name  string
	fails string // the case that finds the mistake
	make  func(b *storetest.Backend)
}

// wrap replaces the store of a Backend by one that is wrong in one method.
func wrap(make func(apikey.Store) apikey.Store) func(*storetest.Backend) {
	return func(b *storetest.Backend) { b.Store = make(b.Store) }
}

// in does the same for the store inside a transaction.
func in(make func(apikey.Store, func(bool) error) (apikey.Store, func(bool) error)) func(*storetest.Backend) {
	return func(b *storetest.Backend) {
		sound := b.In
		b.In = func(t *testing.T) (apikey.Store, func(bool) error) { return make(sound(t)) }
	}
}

var mistakes = []mistake{
	{"highest bit lost", "basics/record", wrap(func(s apikey.Store) apikey.Store { return signed{s} })},
	{"missing is empty", "missing/key", wrap(func(s apikey.Store) apikey.Store { return forgiving{s} })},
	{"conflict ignored", "conflict/record", wrap(func(s apikey.Store) apikey.Store { return upsert{s} })},
	{"changes one by one", "conflict/nothing written", wrap(func(s apikey.Store) apikey.Store { return apart{s} })},
	{"pages by offset", "order/records while others write", wrap(func(s apikey.Store) apikey.Store { return offset{s} })},
	{"case folded", "isolation/records", wrap(func(s apikey.Store) apikey.Store { return folding{s} })},
	{"inclusive bound", "filters/one by one", wrap(func(s apikey.Store) apikey.Store { return inclusive{s} })},
	{"milliseconds", "times/exact", wrap(func(s apikey.Store) apikey.Store { return coarse{s} })},
	{"wrapped micros", "times/far filters", wrap(func(s apikey.Store) apikey.Store { return wrapping{s} })},
	{"last time is excluded", "times/far filters", wrap(func(s apikey.Store) apikey.Store { return clamping{s} })},
	{"another time is kept", "times/far values", wrap(func(s apikey.Store) apikey.Store { return obliging{s} })},
	{"one far use fails a batch", "times/far uses", wrap(func(s apikey.Store) apikey.Store { return choosy{s} })},
	{"purge by nanoseconds", "times/far purges", func(b *storetest.Backend) {
		purge := b.Purge
		b.Purge = func(ctx context.Context, before time.Time, limit int) (int, error) {
			return purge(ctx, time.Unix(0, before.UnixNano()), limit)
		}
	}},
	{"padded strings", "strings/records", wrap(func(s apikey.Store) apikey.Store { return trimming{s} })},
	{"expired items hidden", "items/expired", wrap(func(s apikey.Store) apikey.Store { return judging{s} })},
	{"versions of 32 bits", "conflict/record", wrap(func(s apikey.Store) apikey.Store { return narrow{s, 32} })},
	{"versions of 32 bits in items", "conflict/item", wrap(func(s apikey.Store) apikey.Store { return narrow{s, 32} })},
	{"versions of 31 bits", "conflict/record", wrap(func(s apikey.Store) apikey.Store { return narrow{s, 31} })},
	{"a new ended credential keeps its copy", "credentials/inserted ended", wrap(func(s apikey.Store) apikey.Store { return &retentive{Store: s} })},
	{"an older use stops the hash", "upkeep/each on its own", wrap(func(s apikey.Store) apikey.Store { return allOrNothing{s} })},
	{"upkeep of ended credentials ignored", "upkeep/of ended credentials", wrap(func(s apikey.Store) apikey.Store { return neglectful{s} })},
	{"no credential without a key", "events/columns", wrap(func(s apikey.Store) apikey.Store { return relational{s} })},
	{"sequence of 32 bits", "events/columns", wrap(func(s apikey.Store) apikey.Store { return narrow{s, 32} })},
	{"one cursor for all lists", "order/another list", wrap(func(s apikey.Store) apikey.Store { return lax{s} })},
	{"cursor with a filter in it", "order/another filter", wrap(func(s apikey.Store) apikey.Store { return &sticky{Store: s} })},
	{"not in the transaction", "in a transaction/rolled back", in(func(s apikey.Store, end func(bool) error) (apikey.Store, func(bool) error) {
		return s, func(bool) error { return end(true) }
	})},
	{"denied", "in a transaction/committed", in(func(s apikey.Store, end func(bool) error) (apikey.Store, func(bool) error) {
		return inside{s, false}, end
	})},
	{"never committed", "in a transaction/committed", in(func(s apikey.Store, end func(bool) error) (apikey.Store, func(bool) error) {
		return s, func(bool) error { return end(false) }
	})},
	{"half of a conflict stays", "in a transaction/failed comparison", in(func(s apikey.Store, end func(bool) error) (apikey.Store, func(bool) error) {
		return apart{s}, end
	})},
	{"a conflict ends it", "in a transaction/failed comparison", in(func(s apikey.Store, end func(bool) error) (apikey.Store, func(bool) error) {
		return &aborted{Store: s}, end
	})},
	{"read beside it", "in a transaction/sees itself", in(func(s apikey.Store, end func(bool) error) (apikey.Store, func(bool) error) {
		return &outsider{Store: s}, end
	})},
	{"ended not found", "credentials/of a dead key", wrap(func(s apikey.Store) apikey.Store { return liveOnly{s} })},
	{"Apply writes Upkeep's columns", "upkeep/survives an Apply", wrap(func(s apikey.Store) apikey.Store { return overwriting{s} })},
	{"last used moves back", "upkeep/forward only", wrap(func(s apikey.Store) apikey.Store { return &lastWriter{Store: s} })},
	{"every node writes", "upkeep/once a window", wrap(func(s apikey.Store) apikey.Store { return everyUse{s} })},
	{"any time is taken", "upkeep/not in the future", wrap(func(s apikey.Store) apikey.Store { return &credulous{Store: s} })},
	{"the future stays", "upkeep/not in the future", wrap(func(s apikey.Store) apikey.Store { return onlyForward{s} })},
	{"the last of a batch wins", "upkeep/listed twice", wrap(func(s apikey.Store) apikey.Store { return lastEntry{s} })},
	{"batch stops", "upkeep/wrong old value", wrap(func(s apikey.Store) apikey.Store { return impatient{s} })},
	{"sealed copy stays", "upkeep/ended", wrap(func(s apikey.Store) apikey.Store { return &hoarder{Store: s} })},
	{"actor forgotten", "events/filters one by one", asked(func(f *apikey.StoreEventFilter) { f.Actor = "" })},
	{"actions forgotten", "events/filters one by one", asked(func(f *apikey.StoreEventFilter) { f.Actions = nil })},
	{"only the first action", "events/filters one by one", asked(func(f *apikey.StoreEventFilter) { f.Actions = f.Actions[:min(1, len(f.Actions))] })},
	{"since forgotten", "events/filters one by one", asked(func(f *apikey.StoreEventFilter) { f.Since = time.Time{} })},
	{"before forgotten", "events/filters one by one", asked(func(f *apikey.StoreEventFilter) { f.Before = time.Time{} })},
	{"before is included", "events/filters one by one", asked(func(f *apikey.StoreEventFilter) {
		if !f.Before.IsZero() {
			f.Before = f.Before.Add(time.Microsecond)
		}
	})},
	{"actor or actions", "events/filters together", asked(func(f *apikey.StoreEventFilter) {
		if len(f.Actions) > 0 {
			f.Actor = ""
		}
	})},
	{"a chain has no filters", "events/filters together", asked(func(f *apikey.StoreEventFilter) {
		if f.Chain {
			f.Actor, f.Actions, f.Since, f.Before = "", nil, time.Time{}, time.Time{}
		}
	})},
	{"a repeated action counts twice", "events/repeated actions", wrap(func(s apikey.Store) apikey.Store { return union{s} })},
	{"the cursor forgets the time", "events/cursors of filters", asked(func(f *apikey.StoreEventFilter) {
		if f.After != "" {
			f.Since, f.Before = time.Time{}, time.Time{}
		}
	})},
	{"actors in any case", "strings/actors and actions", wrap(func(s apikey.Store) apikey.Store { return caseless{s} })},
	{"log by whole microseconds", "times/far log filters", asked(func(f *apikey.StoreEventFilter) {
		f.Since, f.Before = f.Since.Truncate(time.Microsecond), f.Before.Truncate(time.Microsecond)
	})},
	{"event dropped", "events/chain", wrap(func(s apikey.Store) apikey.Store { return forgetful{s} })},
	{"body ends at zero", "events/body", wrap(func(s apikey.Store) apikey.Store { return cString{s} })},
	{"lost answer is a conflict", "lost answers/same change", wrap(func(s apikey.Store) apikey.Store { return strict{s} })},
	{"check, then write", "racers/one record", wrap(func(s apikey.Store) apikey.Store { return checkThenWrite{s} })},
	{"half visible", "racers/readers", wrap(func(s apikey.Store) apikey.Store { return &halfway{Store: s} })},
	{"feed skips", "feed/pages", wrap(func(s apikey.Store) apikey.Store { return skipping{s} })},
	{"numbered before commit", "feed/writers on all nodes", wrap(func(s apikey.Store) apikey.Store { return &early{Store: s, log: map[apikey.KeyID]int64{}} })},
	{"lost cursor starts anew", "restored backup/more changes than were lost", wrap(func(s apikey.Store) apikey.Store { return optimist{s} })},
	{"shared memory", "sharing/returned", wrap(func(s apikey.Store) apikey.Store { return &caching{Store: s} })},
	{"context ignored", "context/cancelled", wrap(func(s apikey.Store) apikey.Store { return deaf{s} })},
	{"tombstones hidden", "tombstones/found", wrap(func(s apikey.Store) apikey.Store { return tidy{s} })},
	{"purge without limit", "purge/limit", func(b *storetest.Backend) {
		purge := b.Purge
		b.Purge = func(ctx context.Context, before time.Time, limit int) (int, error) {
			return purge(ctx, before, limit*1000)
		}
	}},
}

// lacking has Backends without an optional function: the suite skips the named group.
var lacking = []mistake{
	{"no Purge", "purge", func(b *storetest.Backend) { b.Purge = nil }},
	{"no In", "in_a_transaction", func(b *storetest.Backend) { b.In = nil }},
	{"no Backup", "restored_backup", func(b *storetest.Backend) { b.Backup = nil }},
}

// asked makes a store that reads the log by another filter than it was asked for.
func asked(change func(*apikey.StoreEventFilter)) func(*storetest.Backend) {
	return wrap(func(s apikey.Store) apikey.Store { return misheard{s, change} })
}

type misheard struct {
	apikey.Store
	change func(*apikey.StoreEventFilter)
}

func (s misheard) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	s.change(&f)
	return s.Store.Events(ctx, f)
}

// union reads each action that it is asked for by itself, as UNION ALL does.
type union struct{ apikey.Store }

func (s union) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	page, err := s.Store.Events(ctx, f)
	var found []apikey.StoreEvent
	for _, ev := range page.Events {
		found = append(found, ev)
		for i, action := range f.Actions {
			if action == ev.Action && slices.Contains(f.Actions[:i], action) {
				found = append(found, ev)
			}
		}
	}
	page.Events = found
	return page, err
}

// caseless compares actors as a collation of a language does.
type caseless struct{ apikey.Store }

func (s caseless) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	actor := f.Actor
	if actor == "" {
		return s.Store.Events(ctx, f)
	}
	f.Actor, f.Limit = "", 1000
	page, err := s.Store.Events(ctx, f)
	page.Events = slices.DeleteFunc(page.Events, func(ev apikey.StoreEvent) bool { return !strings.EqualFold(ev.Actor, actor) })
	return page, err
}

type signed struct{ apikey.Store }

func (s signed) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := s.Store.Get(ctx, id)
	r.Needs &^= 1 << 63
	return r, err
}

type forgiving struct{ apikey.Store }

func (s forgiving) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	r, err := s.Store.Lookup(ctx, id)
	if errors.Is(err, apikey.ErrNotFound) {
		err = nil
	}
	return r, err
}

type offset struct{ apikey.Store }

func (s offset) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	skip, _ := strconv.Atoi(string(f.After))
	limit := f.Limit
	f.After, f.Limit = "", 1000
	page, err := s.Store.List(ctx, f)
	page.Records = page.Records[min(skip, len(page.Records)):]
	if len(page.Records) > limit {
		page.Records, page.Next = page.Records[:limit], apikey.Cursor(strconv.Itoa(skip+limit))
	}
	return page, err
}

type folding struct{ apikey.Store }

func (s folding) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	account := f.Account
	f.Account, f.Limit = "", 1000
	page, err := s.Store.List(ctx, f)
	page.Records = slices.DeleteFunc(page.Records, func(r apikey.StoreRecord) bool { return !strings.EqualFold(r.Account, account) })
	return page, err
}

type inclusive struct{ apikey.Store }

func (s inclusive) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	if !f.ExpiringBefore.IsZero() {
		f.ExpiringBefore = f.ExpiringBefore.Add(time.Microsecond)
	}
	return s.Store.List(ctx, f)
}

type coarse struct{ apikey.Store }

func (s coarse) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := s.Store.Get(ctx, id)
	r.RotateDue = r.RotateDue.Truncate(time.Millisecond)
	return r, err
}

// wrapping passes times as 64-bit microseconds, which overflow.
type wrapping struct{ apikey.Store }

func (s wrapping) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	if !f.ExpiringBefore.IsZero() {
		f.ExpiringBefore = time.UnixMicro(f.ExpiringBefore.UnixMicro())
	}
	return s.Store.List(ctx, f)
}

// clamping replaces later times by the last time of a column. So a filter for times before
// it leaves out records with the last time.
type clamping struct{ apikey.Store }

func (s clamping) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	if last := time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC); f.ExpiringBefore.After(last) {
		f.ExpiringBefore = last
	}
	return s.Store.List(ctx, f)
}

type trimming struct{ apikey.Store }

func (s trimming) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := s.Store.Get(ctx, id)
	r.Name = strings.TrimRight(r.Name, " ")
	return r, err
}

type judging struct{ apikey.Store }

func (s judging) Items(ctx context.Context, f apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	page, err := s.Store.Items(ctx, f)
	page.Items = slices.DeleteFunc(page.Items, func(it apikey.StoreItem) bool {
		return !it.ExpiresAt.IsZero() && it.ExpiresAt.Before(time.Now())
	})
	return page, err
}

type liveOnly struct{ apikey.Store }

func (s liveOnly) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	r, err := s.Store.Lookup(ctx, id)
	for _, c := range r.Credentials {
		if c.ID == id && c.Ended {
			return apikey.StoreRecord{}, apikey.ErrNotFound
		}
	}
	return r, err
}

type forgetful struct{ apikey.Store }

func (s forgetful) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	page, err := s.Store.Events(ctx, f)
	page.Events = slices.DeleteFunc(page.Events, func(e apikey.StoreEvent) bool { return e.Seq == 13 })
	return page, err
}

type cString struct{ apikey.Store }

func (s cString) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	page, err := s.Store.Events(ctx, f)
	for i := range page.Events {
		page.Events[i].Body, _, _ = bytes.Cut(page.Events[i].Body, []byte{0})
	}
	return page, err
}

type skipping struct{ apikey.Store }

func (s skipping) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	c, err := s.Store.Changed(ctx, after, limit)
	if n := len(c.Records); c.More && n > 1 {
		c.Records = c.Records[:n-1]
	}
	return c, err
}

type optimist struct{ apikey.Store }

func (s optimist) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	c, err := s.Store.Changed(ctx, after, limit)
	if errors.Is(err, apikey.ErrCursorLost) {
		return s.Store.Changed(ctx, "", limit)
	}
	return c, err
}

type caching struct {
	apikey.Store
	cache sync.Map
}

func (s *caching) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	if r, ok := s.cache.Load(id); ok {
		return r.(apikey.StoreRecord), nil
	}
	r, err := s.Store.Get(ctx, id)
	s.cache.Store(id, r)
	return r, err
}

type tidy struct{ apikey.Store }

func (s tidy) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	page, err := s.Store.List(ctx, f)
	page.Records = slices.DeleteFunc(page.Records, func(r apikey.StoreRecord) bool { return r.State() == apikey.Revoked })
	return page, err
}
