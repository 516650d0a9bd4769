package apitest

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/go-apikey/apikey"
)

// spy is a Store in front of another, which counts calls and lets a test stand
// between the store and its caller. A hook that is nil passes.
type spy struct {
	apikey.Store
	mu      sync.Mutex
	lookup  func(ctx context.Context, id apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error)
	changed func(ctx context.Context, after apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error)
	upkeep  func(ctx context.Context, batch []apikey.StoreUpkeep, next func() error) error
	lookups atomic.Int64
}

// set changes hooks while calls are running.
func (s *spy) set(change func(*spy)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *spy) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	s.lookups.Add(1)
	s.mu.Lock()
	hook := s.lookup
	s.mu.Unlock()
	next := func() (apikey.StoreRecord, error) { return s.Store.Lookup(ctx, id) }
	if hook == nil {
		return next()
	}
	return hook(ctx, id, next)
}

func (s *spy) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	s.mu.Lock()
	hook := s.changed
	s.mu.Unlock()
	next := func() (apikey.StoreChanges, error) { return s.Store.Changed(ctx, after, limit) }
	if hook == nil {
		return next()
	}
	return hook(ctx, after, next)
}

func (s *spy) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	s.mu.Lock()
	hook := s.upkeep
	s.mu.Unlock()
	next := func() error { return s.Store.Upkeep(ctx, batch) }
	if hook == nil {
		return next()
	}
	return hook(ctx, batch, next)
}

// watch puts a spy in front of the environment's store.
func watch(s **spy) func(*env) {
	return func(e *env) {
		*s = &spy{Store: e.store}
		e.store = *s
	}
}

// meter is a Hasher that counts runs, and can hold them up.
type meter struct {
	apikey.Hasher
	verifies atomic.Int64
	hold     func() // nil: no
}

func (m *meter) Verify(ctx context.Context, encoded string, secret []byte) (bool, error) {
	m.verifies.Add(1)
	if m.hold != nil {
		m.hold()
	}
	return m.Hasher.Verify(ctx, encoded, secret)
}

// metered counts the hash runs of the environment's Verifier.
func metered(m **meter) func(*env) {
	return func(e *env) {
		*m = &meter{Hasher: e.settings.Hashers[0]}
		e.settings.Hashers = []apikey.Hasher{*m}
	}
}
