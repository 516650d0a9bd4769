package storetest_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// mistake is a way in which real stores go wrong.
type mistake struct {
	name  string
	fails string // the case that finds it
	make  func(b *storetest.Backend)
}

// wrap puts a store that is wrong in one method before the sound one.
func wrap(make func(apikey.Store) apikey.Store) func(*storetest.Backend) {
	return func(b *storetest.Backend) { b.Store = make(b.Store) }
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
	{"padded strings", "strings/records", wrap(func(s apikey.Store) apikey.Store { return trimming{s} })},
	{"expired items hidden", "items/expired", wrap(func(s apikey.Store) apikey.Store { return judging{s} })},
	{"ended not found", "credentials/of a dead key", wrap(func(s apikey.Store) apikey.Store { return liveOnly{s} })},
	{"Apply writes Upkeep's columns", "upkeep/survives an Apply", wrap(func(s apikey.Store) apikey.Store { return overwriting{s} })},
	{"last used moves back", "upkeep/forward only", wrap(func(s apikey.Store) apikey.Store { return &lastWriter{Store: s} })},
	{"batch stops", "upkeep/wrong old value", wrap(func(s apikey.Store) apikey.Store { return impatient{s} })},
	{"sealed copy stays", "upkeep/ended", wrap(func(s apikey.Store) apikey.Store { return &hoarder{Store: s} })},
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

// lacking is no mistake: the group named is skipped.
var lacking = []mistake{
	{"no Purge", "purge", func(b *storetest.Backend) { b.Purge = nil }},
	{"no Backup", "restored_backup", func(b *storetest.Backend) { b.Backup = nil }},
}

type signed struct{ apikey.Store }

func (s signed) Get(ctx context.Context, id apikey.KeyID) (apikey.Record, error) {
	r, err := s.Store.Get(ctx, id)
	r.Needs &^= 1 << 63
	return r, err
}

type forgiving struct{ apikey.Store }

func (s forgiving) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.Record, error) {
	r, err := s.Store.Lookup(ctx, id)
	if errors.Is(err, apikey.ErrNotFound) {
		err = nil
	}
	return r, err
}

type upsert struct{ apikey.Store }

func (s upsert) Apply(ctx context.Context, changes ...apikey.Change) error {
	err := s.Store.Apply(ctx, changes...)
	if errors.Is(err, apikey.ErrConflict) {
		return nil
	}
	return err
}

type apart struct{ apikey.Store }

func (s apart) Apply(ctx context.Context, changes ...apikey.Change) error {
	for _, c := range changes {
		if err := s.Store.Apply(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// halfway commits one change after the other, the next one when somebody has
// had the time to look.
type halfway struct {
	apikey.Store
	gets atomic.Int64
}

func (s *halfway) Get(ctx context.Context, id apikey.KeyID) (apikey.Record, error) {
	defer s.gets.Add(1)
	return s.Store.Get(ctx, id)
}

func (s *halfway) Apply(ctx context.Context, changes ...apikey.Change) error {
	for _, c := range changes {
		if err := s.Store.Apply(ctx, c); err != nil {
			return err
		}
		for try, enough := 0, s.gets.Load()+8; try < 100_000 && s.gets.Load() < enough; try++ {
			runtime.Gosched()
		}
	}
	return nil
}

type offset struct{ apikey.Store }

func (s offset) List(ctx context.Context, f apikey.Filter) (apikey.Page, error) {
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

func (s folding) List(ctx context.Context, f apikey.Filter) (apikey.Page, error) {
	account := f.Account
	f.Account, f.Limit = "", 1000
	page, err := s.Store.List(ctx, f)
	page.Records = slices.DeleteFunc(page.Records, func(r apikey.Record) bool { return !strings.EqualFold(r.Account, account) })
	return page, err
}

type inclusive struct{ apikey.Store }

func (s inclusive) List(ctx context.Context, f apikey.Filter) (apikey.Page, error) {
	if !f.ExpiringBefore.IsZero() {
		f.ExpiringBefore = f.ExpiringBefore.Add(time.Microsecond)
	}
	return s.Store.List(ctx, f)
}

type coarse struct{ apikey.Store }

func (s coarse) Get(ctx context.Context, id apikey.KeyID) (apikey.Record, error) {
	r, err := s.Store.Get(ctx, id)
	r.RotateDue = r.RotateDue.Truncate(time.Millisecond)
	return r, err
}

type trimming struct{ apikey.Store }

func (s trimming) Get(ctx context.Context, id apikey.KeyID) (apikey.Record, error) {
	r, err := s.Store.Get(ctx, id)
	r.Name = strings.TrimRight(r.Name, " ")
	return r, err
}

type judging struct{ apikey.Store }

func (s judging) Items(ctx context.Context, f apikey.ItemFilter) (apikey.ItemPage, error) {
	page, err := s.Store.Items(ctx, f)
	page.Items = slices.DeleteFunc(page.Items, func(it apikey.Item) bool {
		return !it.ExpiresAt.IsZero() && it.ExpiresAt.Before(time.Now())
	})
	return page, err
}

type liveOnly struct{ apikey.Store }

func (s liveOnly) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.Record, error) {
	r, err := s.Store.Lookup(ctx, id)
	for _, c := range r.Credentials {
		if c.ID == id && c.Ended {
			return apikey.Record{}, apikey.ErrNotFound
		}
	}
	return r, err
}

type overwriting struct{ apikey.Store }

func (s overwriting) Apply(ctx context.Context, changes ...apikey.Change) error {
	err := s.Store.Apply(ctx, changes...)
	for _, c := range changes {
		if err != nil || c.Record == nil {
			continue
		}
		stored, _ := s.Store.Get(ctx, c.Record.ID)
		for i, cred := range stored.Credentials {
			swap := apikey.Upkeep{Credential: cred.ID, OldHash: cred.Hash, NewHash: c.Record.Credentials[i].Hash, NewCheck: cred.Check}
			if err := s.Store.Upkeep(ctx, []apikey.Upkeep{swap}); err != nil {
				return err
			}
		}
	}
	return err
}

type lastWriter struct {
	apikey.Store
	last time.Time
}

func (s *lastWriter) Upkeep(ctx context.Context, batch []apikey.Upkeep) error {
	for _, u := range batch {
		if !u.LastUsed.IsZero() {
			s.last = u.LastUsed
		}
	}
	return s.Store.Upkeep(ctx, batch)
}

func (s *lastWriter) Get(ctx context.Context, id apikey.KeyID) (apikey.Record, error) {
	r, err := s.Store.Get(ctx, id)
	for i := range r.Credentials {
		r.Credentials[i].LastUsed = s.last
	}
	return r, err
}

type impatient struct{ apikey.Store }

func (s impatient) Upkeep(ctx context.Context, batch []apikey.Upkeep) error {
	for _, u := range batch {
		r, err := s.Store.Lookup(ctx, u.Credential)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.Credentials, func(c apikey.Credential) bool { return c.ID == u.Credential })
		if u.NewHash != "" && r.Credentials[i].Hash != u.OldHash {
			return nil
		}
		if err := s.Store.Upkeep(ctx, []apikey.Upkeep{u}); err != nil {
			return err
		}
	}
	return nil
}

type hoarder struct {
	apikey.Store
	sealed sync.Map
}

func (s *hoarder) Apply(ctx context.Context, changes ...apikey.Change) error {
	for _, c := range changes {
		for _, cred := range c.Record.Credentials {
			s.sealed.LoadOrStore(cred.ID, cred.Sealed)
		}
	}
	return s.Store.Apply(ctx, changes...)
}

func (s *hoarder) Get(ctx context.Context, id apikey.KeyID) (apikey.Record, error) {
	r, err := s.Store.Get(ctx, id)
	for i := range r.Credentials {
		if kept, ok := s.sealed.Load(r.Credentials[i].ID); ok && r.Credentials[i].Ended {
			r.Credentials[i].Sealed = kept.([]byte)
		}
	}
	return r, err
}

type forgetful struct{ apikey.Store }

func (s forgetful) Events(ctx context.Context, f apikey.EventFilter) (apikey.EventPage, error) {
	page, err := s.Store.Events(ctx, f)
	page.Events = slices.DeleteFunc(page.Events, func(e apikey.EventRecord) bool { return e.Seq == 13 })
	return page, err
}

type cString struct{ apikey.Store }

func (s cString) Events(ctx context.Context, f apikey.EventFilter) (apikey.EventPage, error) {
	page, err := s.Store.Events(ctx, f)
	for i := range page.Events {
		page.Events[i].Body, _, _ = bytes.Cut(page.Events[i].Body, []byte{0})
	}
	return page, err
}

type strict struct{ apikey.Store }

func (s strict) Apply(ctx context.Context, changes ...apikey.Change) error {
	for _, c := range changes {
		if r, err := s.Store.Get(ctx, c.Record.ID); err == nil && r.Version >= c.Record.Version {
			return apikey.ErrConflict
		}
	}
	return s.Store.Apply(ctx, changes...)
}

// checkThenWrite compares outside of the transaction that writes.
type checkThenWrite struct{ apikey.Store }

func (s checkThenWrite) Apply(ctx context.Context, changes ...apikey.Change) error {
	r := changes[0].Record
	before, _ := s.Store.Get(ctx, r.ID)
	time.Sleep(time.Millisecond) // the way to the database and back
	err := s.Store.Apply(ctx, changes...)
	if errors.Is(err, apikey.ErrConflict) && before.Version+1 == r.Version {
		return nil
	}
	return err
}

type skipping struct{ apikey.Store }

func (s skipping) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.Changes, error) {
	c, err := s.Store.Changed(ctx, after, limit)
	if n := len(c.Records); c.More && n > 1 {
		c.Records = c.Records[:n-1]
	}
	return c, err
}

// early takes a number for the feed before it commits, as an AUTO_INCREMENT
// column does: who reads a later number first never sees the earlier one.
type early struct {
	apikey.Store
	mu    sync.Mutex
	last  int64
	log   map[apikey.KeyID]int64
	shown atomic.Int64
}

func (s *early) Apply(ctx context.Context, changes ...apikey.Change) error {
	s.mu.Lock()
	s.last++
	mine := s.last
	s.mu.Unlock()
	if mine%7 == 3 { // a slow one: until a later one was shown
		for try := 0; try < 100_000 && s.shown.Load() < mine; try++ {
			runtime.Gosched()
		}
	}
	err := s.Store.Apply(ctx, changes...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		if err == nil && c.Record != nil {
			s.log[c.Record.ID] = mine
		}
	}
	return err
}

func (s *early) Changed(ctx context.Context, after apikey.Cursor, _ int) (apikey.Changes, error) {
	from, _ := strconv.ParseInt(string(after), 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	changes := apikey.Changes{Next: apikey.Cursor(fmt.Sprint(from)), Current: true}
	ids := slices.SortedFunc(maps.Keys(s.log), func(a, b apikey.KeyID) int { return cmp.Compare(s.log[a], s.log[b]) })
	for _, id := range ids {
		if number := s.log[id]; number > from {
			r, err := s.Store.Get(ctx, id)
			if err != nil {
				return apikey.Changes{}, err
			}
			changes.Records = append(changes.Records, r)
			changes.Next = apikey.Cursor(fmt.Sprint(number))
			changes.More = true
			s.shown.Store(max(s.shown.Load(), number))
			break
		}
	}
	return changes, nil
}

type optimist struct{ apikey.Store }

func (s optimist) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.Changes, error) {
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

func (s *caching) Get(ctx context.Context, id apikey.KeyID) (apikey.Record, error) {
	if r, ok := s.cache.Load(id); ok {
		return r.(apikey.Record), nil
	}
	r, err := s.Store.Get(ctx, id)
	s.cache.Store(id, r)
	return r, err
}

type deaf struct{ apikey.Store }

func (s deaf) Upkeep(ctx context.Context, batch []apikey.Upkeep) error {
	return s.Store.Upkeep(context.WithoutCancel(ctx), batch)
}

type tidy struct{ apikey.Store }

func (s tidy) List(ctx context.Context, f apikey.Filter) (apikey.Page, error) {
	page, err := s.Store.List(ctx, f)
	page.Records = slices.DeleteFunc(page.Records, func(r apikey.Record) bool { return r.State() == apikey.Revoked })
	return page, err
}
