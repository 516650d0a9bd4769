package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

const (
	prefix   = "acme" // all tokens begin with it
	merchant = "acc_demo"
)

// gateway has the resources that open makes and close closes.
type gateway struct {
	db         *sql.DB
	ledger     ledger
	store      *sqlstore.Store
	live, test *apikey.Verifier // the data plane
	manager    *apikey.Manager  // the control plane: the set-up, -issue, and people who are signed in
}

// open opens the database. If there is none, open makes a database and its pepper. The
// codes that approve an action are written to out.
func open(ctx context.Context, c config, out io.Writer, log *slog.Logger) (*gateway, error) {
	peppers, keks, err := openFiles(c)
	if err != nil {
		return nil, err
	}
	g := &gateway{}
	if err = g.openStore(ctx, c.db); err == nil {
		err = g.openKeys(ctx, peppers, keks, out, log)
	}
	if err != nil {
		g.close(context.WithoutCancel(ctx))
	}
	if errors.Is(err, apikey.ErrPepper) {
		err = fmt.Errorf("%s does not hold the pepper that %s was used with: put the right file there, or name it with -pepper-file", c.pepperFile, c.db)
	} else if err != nil {
		err = fmt.Errorf("database %s: %w: name another file with -db", c.db, err)
	}
	return g, err
}

const poolSize = 8

func (g *gateway) openStore(ctx context.Context, path string) (err error) {
	if g.db, err = sql.Open("sqlite", dsn(path)); err != nil {
		return err
	}
	g.db.SetMaxOpenConns(poolSize)
	g.db.SetMaxIdleConns(poolSize) // otherwise the pool keeps two, and reopens the others all the time
	if g.store, err = sqlstore.New(g.db, sqlstore.SQLite); err != nil {
		return err
	}
	// During a rolling deployment an older process may find a newer schema: this is no error.
	if err := g.store.Migrate(ctx); err != nil && !errors.Is(err, sqlstore.ErrNewerSchema) {
		return err
	}
	g.ledger = ledger{g.db}
	return g.ledger.migrate(ctx)
}

func (g *gateway) openKeys(ctx context.Context, peppers []apikey.Pepper, keks []apikey.KEK, out io.Writer, log *slog.Logger) error {
	hasher, err := apikey.NewArgon2id(apikey.Argon2idConfig{})
	if err != nil {
		return err
	}
	code, err := apikey.NewEmailCode(printer{out}, peppers...)
	if err != nil {
		return err
	}
	g.manager, err = apikey.NewManager(ctx, apikey.Settings{
		Store: g.store, Prefix: prefix, Catalog: catalog, Peppers: peppers, Hashers: []apikey.Hasher{hasher}, Logger: log,
		Trace: &apikey.Trace{InactiveKey: func(key apikey.Info, err error) {
			log.Warn("somebody uses a dead key: an old deployment, or a leak", "key", key.ID, "credential", key.Credential, "error", err)
		}},
	}, apikey.ManagerConfig{
		KEKs:   keks, // they seal the tokens that can be shown again
		StepUp: stepUp, Factors: map[string]apikey.Factor{"email": code},
	})
	if err != nil {
		return err
	}
	// A flood of unknown tokens leaves half of the pool for payments.
	c := apikey.VerifierConfig{Mode: apikey.Live, ColdReads: poolSize / 4}
	if g.live, err = g.manager.NewVerifier(ctx, c); err != nil {
		return err
	}
	c.Mode = apikey.Test
	g.test, err = g.manager.NewVerifier(ctx, c)
	return err
}

// stepUp asks for a code before a token is shown again, and before somebody helps another
// person, for example with a lock.
func stepUp(action apikey.Action, mode apikey.Mode) []string {
	if action == apikey.ActionReveal {
		return []string{"email"}
	}
	return apikey.GuardForAnother("email")(action, mode)
}

// close closes everything. The Manager closes its Verifiers, which write their "last used"
// times before they end.
func (g *gateway) close(ctx context.Context) error {
	var failed []error
	if g.manager != nil {
		failed = append(failed, g.manager.Close(ctx))
	}
	if g.db != nil {
		failed = append(failed, g.db.Close())
	}
	return errors.Join(failed...)
}

// merchantKeys has the tokens that the program prints when it starts.
type merchantKeys struct {
	publishable apikey.Provisioned
	secret      []apikey.Issued // live and test, at the first start only
}

// provision makes the merchant and their keys in one transaction, at the first start. At
// later starts it finds them.
func (g *gateway) provision(ctx context.Context, show func(merchantKeys) error) error {
	ctx = apikey.WithActor(ctx, apikey.Operator("gateway"))
	tx, err := g.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // has no effect after Commit
	joined := g.manager.Tx(g.store.In(tx))

	made, err := tx.ExecContext(ctx, "INSERT INTO merchants (account, name) VALUES (?, 'Demo shop') ON CONFLICT DO NOTHING", merchant)
	if err != nil {
		return err
	}
	var keys merchantKeys
	// If it is called again, Provision returns the same keys: publishable keys are not
	// secret, so their tokens are stored.
	keys.publishable, err = joined.Provision(ctx, apikey.ProvisionRequest{Account: merchant, Abilities: []string{"card:tokenise"}})
	if err != nil {
		return err
	}
	if n, err := made.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		tx.Rollback() // release the lock before printing
		return show(keys)
	}
	for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
		issued, err := joined.Issue(ctx, secretKey(mode, defaultAbilities))
		if err != nil {
			return err
		}
		keys.secret = append(keys.secret, issued)
	}
	// Print the keys before the commit: if printing fails, no keys are made, and the next
	// start tries again.
	if err := show(keys); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("the keys shown above are void: %w", err)
	}
	joined.Committed(ctx)
	return nil
}

// issue makes another secret key.
func (g *gateway) issue(ctx context.Context, mode apikey.Mode, abilities []string) (apikey.Issued, error) {
	var name string
	err := g.db.QueryRowContext(ctx, "SELECT name FROM merchants WHERE account = ?", merchant).Scan(&name)
	if errors.Is(err, sql.ErrNoRows) {
		return apikey.Issued{}, errors.New("there is no merchant yet: start once without -issue")
	} else if err != nil {
		return apikey.Issued{}, err
	}
	if abilities == nil {
		abilities = defaultAbilities
	}
	return g.manager.Issue(apikey.WithActor(ctx, apikey.Operator("gateway -issue")), secretKey(mode, abilities))
}

// defaultAbilities does not include payouts: a key for taking payments does not have to be
// able to send money away.
var defaultAbilities = []string{"payment:checkout", "payment:verify", "payment:refund", "card:tokenise", "balance=read"}

func secretKey(mode apikey.Mode, abilities []string) apikey.IssueRequest {
	return apikey.IssueRequest{Account: merchant, Mode: mode, Name: "Server", Abilities: abilities}
}

// dsn returns the data source name with the settings that sqlstore requires. The path is
// escaped, because '?' and '%' have a meaning in a URL.
func dsn(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = "/" + strings.TrimPrefix(filepath.ToSlash(abs), "/")
	}
	return "file://" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=foreign_keys(1)&_txlock=immediate"
}
