package memstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

// Apply implements [apikey.Store]. It returns ErrInvalid for a StoreChange that no store
// could keep, such as a StoreRecord without its Event, or a StoreItem without a Kind or an ID.
//
// Apply makes all comparisons before it writes anything, so there is nothing to undo.
func (s *Store) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, c := range changes {
		if err := check(c); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := comparison{
		data:    &s.data,
		records: map[apikey.KeyID]uint64{},
		lists:   map[apikey.KeyID][]apikey.StoreCredential{},
		owners:  map[apikey.CredentialID]apikey.KeyID{},
		items:   map[itemName]uint64{},
		events:  map[[16]byte]bool{},
	}
	for _, c := range changes {
		if !now.holds(c) {
			return s.afterConflict(changes)
		}
	}
	for _, c := range changes {
		s.write(c)
	}
	return nil
}

func check(c apikey.StoreChange) error {
	switch {
	case c.Record != nil && c.Event == nil:
		return fmt.Errorf("%w: a record is never written without its event", apikey.ErrInvalid)
	case c.Event != nil && c.Event.ID != c.ID:
		return fmt.Errorf("%w: the event's ID is the change's ID", apikey.ErrInvalid)
	case outside(c):
		return fmt.Errorf("%w: a time is not of the years 1 to 9999", apikey.ErrInvalid)
	}
	for _, it := range c.Items {
		if it.Kind == "" || it.ID == "" {
			return fmt.Errorf("%w: an item has a Kind and an ID", apikey.ErrInvalid)
		}
	}
	return nil
}

// outside reports whether a change has a time that some database cannot store. So the
// caller's mistake shows in unit tests, and not in production.
func outside(c apikey.StoreChange) bool {
	var times []time.Time
	if r := c.Record; r != nil {
		times = append(times, r.CreatedAt, r.ExpiresAt, r.RevokedAt, r.RotateDue)
		for _, c := range r.Credentials {
			times = append(times, c.NotBefore, c.NotAfter, c.LastUsed)
		}
	}
	for _, it := range c.Items {
		times = append(times, it.ExpiresAt)
	}
	if c.Event != nil {
		times = append(times, c.Event.Time)
	}
	end := time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
	return slices.ContainsFunc(times, func(t time.Time) bool { return t.Before(time.Time{}) || !t.Before(end) })
}

// afterConflict returns nil if the changes are already stored: they were committed by an
// earlier call whose answer was lost. Otherwise another change came first, and
// afterConflict returns ErrConflict.
func (s *Store) afterConflict(changes []apikey.StoreChange) error {
	for _, c := range changes {
		if _, committed := s.events[c.ID]; !committed || c.Event == nil {
			return apikey.ErrConflict
		}
	}
	return nil
}

// comparison is the first half of an Apply. It compares each change with the stored
// data and with the earlier changes of the same Apply. Its maps hold only the rows that
// these earlier changes write.
type comparison struct {
	*data
	records map[apikey.KeyID]uint64
	lists   map[apikey.KeyID][]apikey.StoreCredential
	owners  map[apikey.CredentialID]apikey.KeyID // zero: no key has the credential any more
	items   map[itemName]uint64
	events  map[[16]byte]bool
}

// holds reports whether c may be written. If it may, later calls compare as if c were
// written already.
func (n *comparison) holds(c apikey.StoreChange) bool {
	if c.Record != nil && !n.recordHolds(c.Record) {
		return false
	}
	for _, it := range c.Items {
		name := itemName{it.Kind, it.ID}
		version, touched := n.items[name]
		if !touched {
			version = n.data.items[name].Version
		}
		if it.Version != version+1 {
			return false
		}
		n.items[name] = it.Version
		if it.Delete {
			n.items[name] = 0
		}
	}
	if c.Event != nil {
		// An event's ID is unique. The event of a refused action has no record or item
		// whose version could be compared: if such a change is retried, only the ID
		// prevents a second entry in the log.
		if _, stored := n.data.events[c.ID]; stored || n.events[c.ID] {
			return false
		}
		n.events[c.ID] = true
	}
	return true
}

func (n *comparison) recordHolds(r *apikey.StoreRecord) bool {
	version, touched := n.records[r.ID]
	if !touched {
		version = n.data.records[r.ID].Version
	}
	if r.Version != version+1 {
		return false
	}
	list, listed := n.lists[r.ID]
	if !listed {
		list = n.data.records[r.ID].Credentials
	}
	for _, cred := range list { // the key loses the credential, unless r lists it again
		n.owners[cred.ID] = apikey.KeyID{}
	}
	for _, cred := range r.Credentials {
		owner, touched := n.owners[cred.ID]
		if !touched {
			owner = n.data.owners[cred.ID]
		}
		// A credential never moves to another key: otherwise a token of one merchant
		// could spend another merchant's money. Listing a credential twice is refused too.
		if owner != (apikey.KeyID{}) {
			return false
		}
		n.owners[cred.ID] = r.ID
	}
	n.records[r.ID], n.lists[r.ID] = r.Version, r.Credentials
	return true
}

// write is the second half of an Apply: it stores the change. It cannot fail.
func (s *Store) write(c apikey.StoreChange) {
	if c.Record != nil {
		s.writeRecord(cloneRecord(*c.Record), c.ID)
	}
	for _, it := range c.Items {
		if it.Delete {
			s.deleteItem(itemName{it.Kind, it.ID})
		} else {
			s.putItem(cloneItem(it))
		}
	}
	if c.Event != nil {
		s.putEvent(cloneEvent(*c.Event))
	}
}

func (s *Store) writeRecord(r apikey.StoreRecord, event [16]byte) {
	stored := map[apikey.CredentialID]apikey.StoreCredential{}
	for _, c := range s.records[r.ID].Credentials {
		stored[c.ID] = c
	}
	for i := range r.Credentials {
		c := &r.Credentials[i]
		// Keep the stored values of the columns that Upkeep writes: Upkeep may have run
		// since the caller read the record.
		if was, ok := stored[c.ID]; ok {
			c.LastUsed, c.Hash, c.Check, c.Sealed, c.SealedKEK = was.LastUsed, was.Hash, was.Check, was.Sealed, was.SealedKEK
		}
		if dead(&r, c) {
			c.Sealed, c.SealedKEK = nil, ""
		}
	}
	s.feed = append(s.feed, written{r.ID, event})
	s.putRecord(row{r, len(s.feed)})
}

// dead reports whether the credential or its key has ended for good. Nobody may reveal
// such a token, so its sealed copy is not kept.
func dead(r *apikey.StoreRecord, c *apikey.StoreCredential) bool {
	return c.Ended || !r.RevokedAt.IsZero()
}

// Upkeep implements [apikey.Store].
func (s *Store) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range batch {
		row, ok := s.records[s.owners[u.Credential]]
		if !ok {
			continue
		}
		row.StoreRecord = cloneRecord(row.StoreRecord) // rows are replaced, never changed
		for i := range row.Credentials {
			if c := &row.Credentials[i]; c.ID == u.Credential {
				swap(c, u, dead(&row.StoreRecord, c))
			}
		}
		s.records[row.ID] = row
	}
	return nil
}

// lastUsed returns the LastUsed to store: the time in u, or was, the stored one. now is
// the store's clock.
func lastUsed(was time.Time, u apikey.StoreUpkeep, now time.Time) time.Time {
	used := canonical(u.LastUsed)
	before := canonical(u.UsedBefore)
	if before.IsZero() || before.After(used) {
		before = used
	}
	if !used.After(time.Time{}) || !was.IsZero() && !was.Before(before) && !was.After(now) {
		return was
	}
	if used.After(now) { // the clock of the node that sent u is ahead
		return now
	}
	return used
}

// swap applies u to a credential: the time of its last use, and a new hash or a new
// sealed secret if the old value in u is still the stored one.
func swap(c *apikey.StoreCredential, u apikey.StoreUpkeep, dead bool) {
	c.LastUsed = lastUsed(c.LastUsed, u, canonical(time.Now()))
	if u.NewHash != "" && c.Hash == u.OldHash {
		c.Hash, c.Check = u.NewHash, bytes.Clone(u.NewCheck)
	}
	if len(u.NewSealed) > 0 && bytes.Equal(c.Sealed, u.OldSealed) && !dead {
		c.Sealed, c.SealedKEK = bytes.Clone(u.NewSealed), u.NewKEK
	}
}
