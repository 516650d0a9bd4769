package integration

import (
	"context"
	"database/sql"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// The configuration of a shop: with a pepper and the quick hasher, the same in
// every process of a test.

var catalog = apikey.MustCatalog(
	apikey.Entry{Scope: "payment:verify"}, apikey.Entry{Scope: "payment:refund"}, apikey.Entry{Scope: "card:tokenise", Publishable: true},
)

func managerConfig(store apikey.Store, options ...func(*apikey.ManagerConfig)) apikey.ManagerConfig {
	pepper := sure(apikey.NewPepper(1, [32]byte{1, 2, 3}))
	c := apikey.ManagerConfig{
		Store: store, Prefix: "acme", Catalog: catalog, Hasher: sure(apikey.NewHMACSHA256(pepper)), Peppers: []apikey.Pepper{pepper},
	}
	for _, o := range options {
		o(&c)
	}
	return c
}

// verifierConfig is of a Verifier that asks only when it is told to.
func verifierConfig(store apikey.Store, options ...func(*apikey.VerifierConfig)) apikey.VerifierConfig {
	mc := managerConfig(store)
	c := apikey.VerifierConfig{
		Store: store, Prefix: mc.Prefix, Mode: apikey.Live, Hashers: []apikey.Hasher{mc.Hasher}, Peppers: mc.Peppers, Sync: -1,
	}
	for _, o := range options {
		o(&c)
	}
	return c
}

func newManager(t testing.TB, store apikey.Store, options ...func(*apikey.ManagerConfig)) *apikey.Manager {
	t.Helper()
	m, err := apikey.NewManager(context.Background(), managerConfig(store, options...))
	must(t, err)
	t.Cleanup(func() { m.Close(context.Background()) })
	return m
}

func newVerifier(t testing.TB, store apikey.Store, options ...func(*apikey.VerifierConfig)) *apikey.Verifier {
	t.Helper()
	v, err := apikey.NewVerifier(context.Background(), verifierConfig(store, options...))
	must(t, err)
	t.Cleanup(func() { v.Close(context.Background()) })
	return v
}

func adminOf(account string) context.Context {
	return apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: account, Role: "admin"})
}

// place is where the tables of a test are, for another process: the arguments
// that begin those of its job.
type place struct{ engine, dsn, prefix string }

func (p place) args(more ...string) []string {
	return append([]string{p.engine, p.dsn, p.prefix}, more...)
}

// placeOf is the first three arguments of a job, and the others.
func placeOf(args []string) (place, []string) { return place{args[0], args[1], args[2]}, args[3:] }

// open is the store there, in whatever process.
func (p place) open() (*sqlstore.Store, *sql.DB, error) {
	e := named(p.engine)[0]
	db, err := sql.Open(e.driver, p.dsn)
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(8)
	store, err := sqlstore.New(db, e.dialect.WithPrefix(p.prefix))
	return store, db, err
}

// newPlace has migrated tables that no other test uses.
func newPlace(t *testing.T, e engine) (place, *sqlstore.Store) {
	t.Helper()
	p := place{engine: e.name, dsn: e.dsn(t)}
	d, prefix := e.fresh(t)
	p.prefix = prefix
	store := open(t, e.pool(t, p.dsn), d)
	must(t, store.Migrate(t.Context()))
	return p, store
}
