package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"time"

	_ "modernc.org/sqlite"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/sqlstore"
)

var background = context.Background()

var catalog = apikey.MustCatalog(
	apikey.CatalogEntry{Scope: "payment:checkout"},
	apikey.CatalogEntry{Scope: "payment:refund"},
	apikey.CatalogEntry{Product: "balance"},
)

var abilities = []string{"payment:checkout", "payment:refund", "balance=read"}

var refund = []apikey.Ability{apikey.Scope("payment:refund")}

// request asks for everything that a fleet's keys are restricted by.
var request = apikey.Request{Addr: netip.MustParseAddr("203.0.113.77"), Require: refund}

const prefix = "acme"

// program is an embedding program: a store, a Manager and a Verifier.
type program struct {
	store    apikey.Store
	manager  *apikey.Manager
	verifier *apikey.Verifier
	settings apikey.Settings
	vc       apikey.VerifierConfig
	peppers  []apikey.Pepper
}

// newProgram starts one. hasher nil: HMACSHA256.
func newProgram(store apikey.Store, hasher apikey.Hasher, peppered bool, options ...func(*apikey.VerifierConfig)) (*program, error) {
	pepper, err := apikey.NewPepper(1, [32]byte{1})
	if err != nil {
		return nil, err
	}
	if hasher == nil {
		if hasher, err = apikey.NewHMACSHA256(pepper); err != nil {
			return nil, err
		}
	}
	p := &program{store: store}
	if peppered {
		p.peppers = []apikey.Pepper{pepper}
	}
	p.settings = apikey.Settings{Store: store, Prefix: prefix, Catalog: catalog, Hashers: []apikey.Hasher{hasher}, Peppers: p.peppers}
	p.vc = apikey.VerifierConfig{Mode: apikey.Live}
	for _, o := range options {
		o(&p.vc)
	}
	p.manager, err = apikey.NewManager(background, p.settings, apikey.ManagerConfig{
		Limits: apikey.Limits{IssuesAnHour: 1 << 20}, // a soak makes as many as it can
	})
	if err != nil {
		return nil, err
	}
	p.verifier, err = p.manager.NewVerifier(background, p.vc)
	return p, err
}

// quiet is a Verifier that does nothing but verify.
func quiet(c *apikey.VerifierConfig) { c.Sync, c.MaxStale, c.MaxAge = -1, time.Hour, time.Hour }

func actor(account string) context.Context {
	return apikey.WithActor(background, apikey.Actor{ID: "usr_1", Account: account, Role: "admin"})
}

// issue makes n keys of 40 an account, each bound to a network.
func (p *program) issue(n int) ([]apikey.Issued, error) {
	var all []apikey.Issued
	for i := range n {
		issued, err := p.manager.Issue(actor(fmt.Sprint("acc_", i/40)), apikey.IssueRequest{
			Mode: apikey.Live, Name: "Website", Abilities: abilities,
			Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, ExpiresAt: time.Now().Add(24 * time.Hour),
		})
		if err != nil {
			return nil, err
		}
		all = append(all, issued)
	}
	return all, nil
}

func texts(issued []apikey.Issued) []string {
	var all []string
	for _, i := range issued {
		all = append(all, i.Token.Reveal())
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// openSQLite opens a store on a file, or in memory if the path is empty.
func openSQLite(path string) (*sqlstore.Store, *sql.DB, error) {
	dsn := "file:" + path + "?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate"
	if path == "" {
		dsn = "file::memory:?_pragma=busy_timeout(5000)&_txlock=immediate"
	}
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, nil, err
	}
	if path == "" {
		db.SetMaxOpenConns(1)
	} else {
		db.SetMaxOpenConns(8)
		db.SetMaxIdleConns(8)
	}
	store, err := sqlstore.New(db, sqlstore.SQLite)
	if err == nil {
		err = store.Migrate(background)
	}
	return store, db, err
}

// million is a store of any number of keys that takes no memory: what it knows
// of a key is computed from the key's ID. Its hash is a plain SHA-256, because
// what it is for is the cache.
type million struct{ *memstore.Store }

func (m million) Lookup(_ context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	text := tokenOf(id)
	return apikey.StoreRecord{
		ID: apikey.KeyID(id), Account: "acc_1", Name: "Website", Mode: apikey.Live, Kind: apikey.Secret, Version: 1,
		Abilities: abilities, Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
		CreatedAt: time.Unix(1_700_000_000, 0).UTC(), ExpiresAt: time.Unix(9_000_000_000, 0).UTC(),
		Credentials: []apikey.StoreCredential{{ID: id, Hash: plainHash([]byte(text[:len(text)-18])), Hint: text[len(text)-4:]}},
	}, nil
}

// idOf is the i-th ID of a million.
func idOf(i int) (id apikey.CredentialID) {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	copy(id[:], sum[:])
	return id
}

// tokenOf writes the token of an ID without a pepper.
func tokenOf(id apikey.CredentialID) string {
	sum := sha256.Sum256(id[:])
	b := append([]byte(prefix+"_sk_live_"), id.String()...)
	for i := range 33 {
		b = append(b, digits[int(sum[i%32])%62])
	}
	return checksummed(string(b) + "000000000000")
}

// checksummed appends the CRC-32, as anybody can.
func checksummed(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	var crc [6]byte
	for i := 5; i >= 0; i-- {
		crc[i] = digits[sum%62]
		sum /= 62
	}
	return body + string(crc[:])
}

// plain is the Hasher of a million.
type plain struct{}

func plainHash(secret []byte) string {
	sum := sha256.Sum256(secret)
	return "$plain$" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func (plain) Name() string { return "plain" }

func (plain) Hash(_ context.Context, secret []byte) (string, error) { return plainHash(secret), nil }

func (plain) Verify(_ context.Context, encoded string, secret []byte) (bool, error) {
	return subtle.ConstantTimeCompare([]byte(encoded), []byte(plainHash(secret))) == 1, nil
}

func (plain) Outdated(string) bool { return false }
