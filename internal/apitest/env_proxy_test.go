package apitest

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// proxy is a Store between a Manager and its store. A hook that is nil passes.
type proxy struct {
	apikey.Store
	mu sync.Mutex
	// out sees every record that leaves the store.
	out func(*apikey.StoreRecord)
	// get and list come before a read, list also before one of items; an error stops it.
	get, list func() error
	apply     func(next func() error, changes []apikey.StoreChange) error
	events    func([]apikey.StoreEvent) []apikey.StoreEvent
	items     func([]apikey.StoreItem)
}

// hook changes hooks while calls are running.
func (p *proxy) hook(change func(*proxy)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func hookOf[T any](p *proxy, field func() T) T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return field()
}

func (p *proxy) alter(records ...*apikey.StoreRecord) {
	if out := hookOf(p, func() func(*apikey.StoreRecord) { return p.out }); out != nil {
		for _, r := range records {
			out(r)
		}
	}
}

func (p *proxy) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	if get := hookOf(p, func() func() error { return p.get }); get != nil {
		if err := get(); err != nil {
			return apikey.StoreRecord{}, err
		}
	}
	r, err := p.Store.Get(ctx, id)
	p.alter(&r)
	return r, err
}

func (p *proxy) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	r, err := p.Store.Lookup(ctx, id)
	p.alter(&r)
	return r, err
}

func (p *proxy) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	if list := hookOf(p, func() func() error { return p.list }); list != nil {
		if err := list(); err != nil {
			return apikey.StorePage{}, err
		}
	}
	page, err := p.Store.List(ctx, f)
	for i := range page.Records {
		p.alter(&page.Records[i])
	}
	return page, err
}

func (p *proxy) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	page, err := p.Store.Events(ctx, f)
	if events := hookOf(p, func() func([]apikey.StoreEvent) []apikey.StoreEvent { return p.events }); events != nil {
		page.Events = events(page.Events)
	}
	return page, err
}

func (p *proxy) Items(ctx context.Context, f apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	if list := hookOf(p, func() func() error { return p.list }); list != nil {
		if err := list(); err != nil {
			return apikey.StoreItemPage{}, err
		}
	}
	page, err := p.Store.Items(ctx, f)
	if items := hookOf(p, func() func([]apikey.StoreItem) { return p.items }); items != nil {
		items(page.Items)
	}
	return page, err
}

func (p *proxy) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	next := func() error { return p.Store.Apply(ctx, changes...) }
	if apply := hookOf(p, func() func(func() error, []apikey.StoreChange) error { return p.apply }); apply != nil {
		return apply(next, changes)
	}
	return next()
}

// meet holds the first n Applies until all of them are there: their callers have
// all read what was before, and none of them has written.
func (p *proxy) meet(n int) {
	var there sync.WaitGroup
	there.Add(n)
	arrived := 0
	p.hook(func(p *proxy) {
		p.apply = func(next func() error, _ []apikey.StoreChange) error {
			p.mu.Lock()
			arrived++
			early := arrived <= n
			p.mu.Unlock()
			if early {
				there.Done()
				there.Wait()
			}
			return next()
		}
	})
}

// through puts a proxy in front of the environment's store.
func through(p **proxy) func(*env) {
	return func(e *env) {
		*p = &proxy{Store: e.store}
		e.store = *p
	}
}

// sqliteOf opens a migrated store in a file of its own.
func sqliteOf(t *testing.T) (*sqlstore.Store, *sql.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	store, err := sqlstore.New(db, sqlstore.SQLite)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	return store, db
}

// onStores runs a test on the reference store and on SQLite.
func onStores(t *testing.T, test func(t *testing.T, on func(*env))) {
	t.Run("memstore", func(t *testing.T) { test(t, func(*env) {}) })
	t.Run("sqlite", func(t *testing.T) {
		test(t, func(e *env) { e.store, _ = sqliteOf(t) })
	})
}

// as is a context of another actor.
func as(account, role string) context.Context {
	return apikey.WithActor(background, apikey.Actor{ID: "usr_of_" + account, Account: account, Role: role})
}

func staff() context.Context { return apikey.WithActor(background, apikey.Operator("ops_1")) }

// together runs n calls that begin at the same time and returns their errors.
func together(n int, call func(i int) error) []error {
	errs := make([]error, n)
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-begin
			errs[i] = call(i)
		})
	}
	close(begin)
	wg.Wait()
	return errs
}

func count(errs []error, target error) (n int) {
	for _, err := range errs {
		if target == nil && err == nil || target != nil && errors.Is(err, target) {
			n++
		}
	}
	return n
}

// allEvents reads the whole log of an account, oldest first.
func (e *env) allEvents(req apikey.EventsRequest) (all []apikey.Event) {
	e.t.Helper()
	for {
		page, err := e.manager.Events(staff(), req)
		require.NoError(e.t, err)
		all = append(all, page.Events...)
		if req.Cursor = page.Next; page.Next == "" {
			break
		}
	}
	for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
		all[i], all[j] = all[j], all[i]
	}
	return all
}

var errCable = errors.New("network cable pulled out")

var _ apikey.Store = (*proxy)(nil)
