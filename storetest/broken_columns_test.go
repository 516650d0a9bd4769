package storetest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/go-apikey/apikey"
)

// narrow stores versions and sequence numbers in only this number of bits.
type narrow struct {
	apikey.Store
	bits int
}

func (s narrow) cut(n uint64) uint64 { return n & (1<<s.bits - 1) }

func (s narrow) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	changes = slices.Clone(changes)
	for i := range changes {
		c := &changes[i]
		if c.Record != nil {
			r := *c.Record
			r.Version = s.cut(r.Version)
			c.Record = &r
		}
		c.Items = slices.Clone(c.Items)
		for j := range c.Items {
			c.Items[j].Version = s.cut(c.Items[j].Version)
		}
		if c.Event != nil {
			ev := *c.Event
			ev.Seq = s.cut(ev.Seq)
			c.Event = &ev
		}
	}
	return s.Store.Apply(ctx, changes...)
}

// retentive clears the sealed copy of a credential when it ends, but not that of a
// credential which has ended already when it is inserted.
type retentive struct {
	apikey.Store
	inserted sync.Map
}

func (s *retentive) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	for _, c := range changes {
		if c.Record == nil {
			continue
		}
		for _, cred := range c.Record.Credentials {
			if _, err := s.Store.Lookup(ctx, cred.ID); cred.Ended && errors.Is(err, apikey.ErrNotFound) {
				s.inserted.Store(cred.ID, cred)
			}
		}
	}
	return s.Store.Apply(ctx, changes...)
}

func (s *retentive) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := s.Store.Get(ctx, id)
	for i := range r.Credentials {
		if was, ok := s.inserted.Load(r.Credentials[i].ID); ok {
			cred := was.(apikey.StoreCredential)
			r.Credentials[i].Sealed, r.Credentials[i].SealedKEK = cred.Sealed, cred.SealedKEK
		}
	}
	return r, err
}

// stored returns a credential as it is stored now.
func stored(ctx context.Context, s apikey.Store, id apikey.CredentialID) (apikey.StoreCredential, bool) {
	r, err := s.Lookup(ctx, id)
	i := slices.IndexFunc(r.Credentials, func(c apikey.StoreCredential) bool { return c.ID == id })
	if err != nil || i < 0 {
		return apikey.StoreCredential{}, false
	}
	return r.Credentials[i], true
}

// allOrNothing makes all three swaps in one statement whose WHERE also compares the time.
// So an older time stops the other swaps too.
type allOrNothing struct{ apikey.Store }

func (s allOrNothing) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	for _, u := range batch {
		if c, ok := stored(ctx, s.Store, u.Credential); ok && !u.LastUsed.IsZero() && u.LastUsed.Before(c.LastUsed) {
			continue
		}
		if err := s.Store.Upkeep(ctx, []apikey.StoreUpkeep{u}); err != nil {
			return err
		}
	}
	return nil
}

// neglectful ignores Upkeep for credentials that have ended.
type neglectful struct{ apikey.Store }

func (s neglectful) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	batch = slices.DeleteFunc(slices.Clone(batch), func(u apikey.StoreUpkeep) bool {
		c, ok := stored(ctx, s.Store, u.Credential)
		return ok && c.Ended
	})
	return s.Store.Upkeep(ctx, batch)
}

// relational stores the credential of an event only together with a key, as a foreign key
// on both columns would.
type relational struct{ apikey.Store }

func (s relational) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	changes = slices.Clone(changes)
	for i, c := range changes {
		if c.Event != nil && c.Event.Key.IsZero() {
			ev := *c.Event
			ev.Credential = apikey.CredentialID{}
			changes[i].Event = &ev
		}
	}
	return s.Store.Apply(ctx, changes...)
}

// sticky keeps using the filter of the first page, even if a later page has another.
type sticky struct {
	apikey.Store
	filters sync.Map
}

func (s *sticky) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	if was, ok := s.filters.Load(f.After); ok && f.After != "" {
		after, limit := f.After, f.Limit
		f = was.(apikey.StoreFilter)
		f.After, f.Limit = after, limit
	}
	page, err := s.Store.List(ctx, f)
	s.filters.LoadOrStore(page.Next, f)
	return page, err
}

// lax accepts a cursor of Events in List.
type lax struct{ apikey.Store }

func (s lax) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	if strings.HasPrefix(string(f.After), "e") {
		f.After = "k" + f.After[1:]
	}
	return s.Store.List(ctx, f)
}

// aborted is a transaction that the database engine ends after a failed statement.
type aborted struct {
	apikey.Store
	over bool
}

func (s *aborted) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	if s.over {
		return apikey.ErrUnavailable
	}
	err := s.Store.Apply(ctx, changes...)
	s.over = err != nil
	return err
}

// outsider reads by a connection outside of the transaction, so it sees only committed
// data.
type outsider struct {
	apikey.Store
	written sync.Map
}

func (s *outsider) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	for _, c := range changes {
		if c.Record != nil {
			before, err := s.Store.Get(ctx, c.Record.ID)
			if err == nil {
				s.written.LoadOrStore(c.Record.ID, before)
			}
		}
	}
	return s.Store.Apply(ctx, changes...)
}

func (s *outsider) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	if before, ok := s.written.Load(id); ok {
		return before.(apikey.StoreRecord), nil
	}
	return s.Store.Get(ctx, id)
}
