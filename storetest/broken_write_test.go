package storetest_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-apikey/apikey"
)

type upsert struct{ apikey.Store }

func (s upsert) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	err := s.Store.Apply(ctx, changes...)
	if errors.Is(err, apikey.ErrConflict) {
		return nil
	}
	return err
}

type apart struct{ apikey.Store }

func (s apart) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	for _, c := range changes {
		if err := s.Store.Apply(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// halfway commits the changes of an Apply one by one, and waits between two of them until
// some reads have been made.
type halfway struct {
	apikey.Store
	gets atomic.Int64
}

func (s *halfway) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	defer s.gets.Add(1)
	return s.Store.Get(ctx, id)
}

func (s *halfway) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
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

type overwriting struct{ apikey.Store }

func (s overwriting) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	err := s.Store.Apply(ctx, changes...)
	for _, c := range changes {
		if err != nil || c.Record == nil {
			continue
		}
		stored, _ := s.Store.Get(ctx, c.Record.ID)
		for i, cred := range stored.Credentials {
			swap := apikey.StoreUpkeep{Credential: cred.ID, OldHash: cred.Hash, NewHash: c.Record.Credentials[i].Hash, NewCheck: cred.Check}
			if err := s.Store.Upkeep(ctx, []apikey.StoreUpkeep{swap}); err != nil {
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

func (s *lastWriter) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	for _, u := range batch {
		if !u.LastUsed.IsZero() {
			s.last = u.LastUsed
		}
	}
	return s.Store.Upkeep(ctx, batch)
}

func (s *lastWriter) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := s.Store.Get(ctx, id)
	for i := range r.Credentials {
		r.Credentials[i].LastUsed = s.last
	}
	return r, err
}

// everyUse writes every LastUsed, as stores did before UsedBefore existed.
type everyUse struct{ apikey.Store }

func (s everyUse) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	batch = slices.Clone(batch)
	for i := range batch {
		batch[i].UsedBefore = time.Time{}
	}
	return s.Store.Upkeep(ctx, batch)
}

// credulous stores a time in the future, from a node whose clock is ahead.
type credulous struct {
	apikey.Store
	future sync.Map
}

func (s *credulous) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	for _, u := range batch {
		if u.LastUsed.After(time.Now()) {
			s.future.Store(u.Credential, u.LastUsed)
		}
	}
	return s.Store.Upkeep(ctx, batch)
}

func (s *credulous) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := s.Store.Get(ctx, id)
	for i := range r.Credentials {
		if at, ok := s.future.Load(r.Credentials[i].ID); ok {
			r.Credentials[i].LastUsed = at.(time.Time).UTC()
		}
	}
	return r, err
}

// onlyForward never replaces a later time, even if that time is in the future.
type onlyForward struct{ apikey.Store }

func (s onlyForward) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	batch = slices.Clone(batch)
	for i, u := range batch {
		r, err := s.Store.Lookup(ctx, u.Credential)
		for _, c := range r.Credentials {
			if err == nil && c.ID == u.Credential && c.LastUsed.After(u.LastUsed) {
				batch[i].LastUsed = time.Time{}
			}
		}
	}
	return s.Store.Upkeep(ctx, batch)
}

// lastEntry collects a batch in a map, so only the last entry of a credential counts.
type lastEntry struct{ apikey.Store }

func (s lastEntry) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	last := map[apikey.CredentialID]apikey.StoreUpkeep{}
	for _, u := range batch {
		last[u.Credential] = u
	}
	return s.Store.Upkeep(ctx, slices.Collect(maps.Values(last)))
}

// obliging stores the end of the year 9999 instead of a later time.
type obliging struct{ apikey.Store }

func (s obliging) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	for i, c := range changes {
		if c.Record != nil && c.Record.ExpiresAt.After(last) {
			r := *c.Record
			r.ExpiresAt = last
			changes[i].Record = &r
		}
	}
	return s.Store.Apply(ctx, changes...)
}

// choosy refuses a batch because of one time in it.
type choosy struct{ apikey.Store }

func (s choosy) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	for _, u := range batch {
		if u.LastUsed.Year() > 9999 {
			return apikey.ErrInvalid
		}
	}
	return s.Store.Upkeep(ctx, batch)
}

type impatient struct{ apikey.Store }

func (s impatient) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	for _, u := range batch {
		r, err := s.Store.Lookup(ctx, u.Credential)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.Credentials, func(c apikey.StoreCredential) bool { return c.ID == u.Credential })
		if u.NewHash != "" && r.Credentials[i].Hash != u.OldHash {
			return nil
		}
		if err := s.Store.Upkeep(ctx, []apikey.StoreUpkeep{u}); err != nil {
			return err
		}
	}
	return nil
}

type hoarder struct {
	apikey.Store
	sealed sync.Map
}

func (s *hoarder) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	for _, c := range changes {
		for _, cred := range c.Record.Credentials {
			s.sealed.LoadOrStore(cred.ID, cred.Sealed)
		}
	}
	return s.Store.Apply(ctx, changes...)
}

func (s *hoarder) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := s.Store.Get(ctx, id)
	for i := range r.Credentials {
		if kept, ok := s.sealed.Load(r.Credentials[i].ID); ok && r.Credentials[i].Ended {
			r.Credentials[i].Sealed = kept.([]byte)
		}
	}
	return r, err
}

type strict struct{ apikey.Store }

func (s strict) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	for _, c := range changes {
		if r, err := s.Store.Get(ctx, c.Record.ID); err == nil && r.Version >= c.Record.Version {
			return apikey.ErrConflict
		}
	}
	return s.Store.Apply(ctx, changes...)
}

// checkThenWrite compares the version before the transaction that writes.
type checkThenWrite struct{ apikey.Store }

func (s checkThenWrite) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	r := changes[0].Record
	before, _ := s.Store.Get(ctx, r.ID)
	time.Sleep(time.Millisecond) // a round trip to the database
	err := s.Store.Apply(ctx, changes...)
	if errors.Is(err, apikey.ErrConflict) && before.Version+1 == r.Version {
		return nil
	}
	return err
}

// early gets the number for the feed before the commit, as from an AUTO_INCREMENT column.
// A caller that has read a later number never sees an earlier one that is committed after
// that.
type early struct {
	apikey.Store
	mu    sync.Mutex
	last  int64
	log   map[apikey.KeyID]int64
	shown atomic.Int64
}

func (s *early) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	s.mu.Lock()
	s.last++
	mine := s.last
	s.mu.Unlock()
	if mine%7 == 3 { // a slow commit: wait until a later number was shown
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

func (s *early) Changed(ctx context.Context, after apikey.Cursor, _ int) (apikey.StoreChanges, error) {
	from, _ := strconv.ParseInt(string(after), 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	changes := apikey.StoreChanges{Next: apikey.Cursor(fmt.Sprint(from)), Current: true}
	ids := slices.SortedFunc(maps.Keys(s.log), func(a, b apikey.KeyID) int { return cmp.Compare(s.log[a], s.log[b]) })
	for _, id := range ids {
		if number := s.log[id]; number > from {
			r, err := s.Store.Get(ctx, id)
			if err != nil {
				return apikey.StoreChanges{}, err
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

type deaf struct{ apikey.Store }

func (s deaf) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	return s.Store.Upkeep(context.WithoutCancel(ctx), batch)
}
