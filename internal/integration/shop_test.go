package integration

import (
	"database/sql"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// The configuration of a shop, with the pepper and hasher of newManager, the same in
// every process of a test.

func managerFor(store apikey.Store, options ...func(*managing)) managing {
	c := managing{settingsOf(store), apikey.ManagerConfig{Limits: apikey.Limits{IssuesAnHour: 1 << 20}}} // a test makes as many as it can
	for _, o := range options {
		o(&c)
	}
	return c
}

// verifierFor is of a Verifier that asks only when it is told to.
func verifierFor(store apikey.Store, options ...func(*verifying)) verifying {
	c := verifying{settingsOf(store), apikey.VerifierConfig{Mode: apikey.Live, Sync: -1}}
	for _, o := range options {
		o(&c)
	}
	return c
}

// site is where the tables of a test are, for another process: the arguments
// that begin those of its job.
type site struct{ engine, dsn, prefix string }

func (p site) args(more ...string) []string {
	return append([]string{p.engine, p.dsn, p.prefix}, more...)
}

// siteOf is the first three arguments of a job, and the others.
func siteOf(args []string) (site, []string) { return site{args[0], args[1], args[2]}, args[3:] }

// open is the store there, in whatever process.
func (p site) open() (*sqlstore.Store, *sql.DB, error) {
	e := named(p.engine)[0]
	db, err := sql.Open(e.driver, p.dsn)
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	store, err := sqlstore.New(db, e.dialect.WithPrefix(p.prefix))
	return store, db, err
}

// newSite has migrated tables that no other test uses.
func newSite(t *testing.T, e engine) (site, *sqlstore.Store) {
	t.Helper()
	p := site{engine: e.name, dsn: e.dsn(t)}
	d, prefix := e.fresh(t)
	p.prefix = prefix
	store := open(t, e.pool(t, p.dsn), d)
	must(t, store.Migrate(t.Context()))
	return p, store
}
