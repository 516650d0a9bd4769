package main

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/go-apikey/apikey/memstore"
)

// What programs use instead, each as it is usually written. None of them checks
// account, mode, kind, address, standing or ability, and none marks a last use.

const fleetSize = 10_000

var errRefused = errors.New("refused")

// mutexMap is SHA-256 of the token and a map behind a mutex.
type mutexMap struct {
	mu sync.Mutex
	m  map[[32]byte]homemade
}

type homemade struct {
	account string
	expires time.Time
}

func (m *mutexMap) verify(token string) error {
	digest := sha256.Sum256([]byte(token))
	m.mu.Lock()
	k, ok := m.m[digest]
	m.mu.Unlock()
	if !ok || !time.Now().Before(k.expires) {
		return errRefused
	}
	return nil
}

// ofARequest is the context of an HTTP request, whose client may hang up: the
// driver watches for that, and it is part of what every query costs.
var ofARequest, _ = context.WithCancel(background)

// indexed is SHA-256 of the token and a lookup in SQLite each time.
type indexed struct{ lookup *sql.Stmt }

func newIndexed(db *sql.DB, tokens []string) (indexed, error) {
	if _, err := db.Exec(`CREATE TABLE homemade (digest TEXT PRIMARY KEY, account TEXT NOT NULL, expires INTEGER NOT NULL)`); err != nil {
		return indexed{}, err
	}
	tx, err := db.Begin()
	if err != nil {
		return indexed{}, err
	}
	for _, t := range tokens {
		sum := sha256.Sum256([]byte(t))
		if _, err := tx.Exec(`INSERT INTO homemade VALUES (?, 'acc_1', ?)`, hex.EncodeToString(sum[:]), time.Now().Add(time.Hour).Unix()); err != nil {
			return indexed{}, err
		}
	}
	if err := tx.Commit(); err != nil {
		return indexed{}, err
	}
	stmt, err := db.Prepare(`SELECT account, expires FROM homemade WHERE digest = ?`)
	return indexed{stmt}, err
}

func (x indexed) verify(token string) error {
	sum := sha256.Sum256([]byte(token))
	var account string
	var expires int64
	if err := x.lookup.QueryRowContext(ofARequest, hex.EncodeToString(sum[:])).Scan(&account, &expires); err != nil {
		return err
	}
	if time.Now().Unix() >= expires {
		return errRefused
	}
	return nil
}

// signed makes a verifier of a signed JWT with subject, expiry and scope.
func signed(method jwt.SigningMethod, sign, verify any) (func(int) error, error) {
	text, err := jwt.NewWithClaims(method, jwt.MapClaims{
		"sub": "acc_1", "exp": time.Now().Add(time.Hour).Unix(), "scope": "payment:refund",
	}).SignedString(sign)
	parser := jwt.NewParser(jwt.WithValidMethods([]string{method.Alg()}), jwt.WithExpirationRequired())
	return func(int) error {
		t, err := parser.Parse(text, func(*jwt.Token) (any, error) { return verify, nil })
		if err == nil && !t.Valid {
			return errRefused
		}
		return err
	}, err
}

// peers measures them beside a warm verification.
func (r *report) peers() {
	p, err := newProgram(memstore.New(), nil, true, quiet)
	check(err)
	issued, err := p.issue(fleetSize)
	check(err)
	tokens := texts(issued)
	ours := func(i int) error {
		_, err := p.verifier.Verify(background, tokens[i], request)
		return err
	}
	home := &mutexMap{m: map[[32]byte]homemade{}}
	for _, t := range tokens {
		home.m[sha256.Sum256([]byte(t))] = homemade{"acc_1", time.Now().Add(time.Hour)}
	}
	mutex := func(i int) error { return home.verify(tokens[i]) }

	dir, err := os.MkdirTemp("", "bench")
	check(err)
	defer os.RemoveAll(dir)
	_, db, err := openSQLite(filepath.Join(dir, "home.db"))
	check(err)
	defer db.Close()
	x, err := newIndexed(db, tokens)
	check(err)

	secret := []byte("0123456789abcdef0123456789abcdef")
	hs, err := signed(jwt.SigningMethodHS256, secret, secret)
	check(err)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	check(err)
	ed, err := signed(jwt.SigningMethodEdDSA, private, public)
	check(err)
	slow, err := bcrypt.GenerateFromPassword([]byte("0123456789abcdef0123456789abcdef"), bcrypt.DefaultCost)
	check(err)
	salt := make([]byte, 16)
	key := argon2.IDKey(secret, salt, 2, 19456, 1, 32)

	took := inTurns(rounds,
		contender{"ours", fleetSize, ours},
		contender{"mutex", fleetSize, mutex},
		contender{"sqlite", 1000, func(i int) error { return x.verify(tokens[i]) }},
		contender{"hs256", 2000, hs}, contender{"eddsa", 500, ed},
		contender{"bcrypt", 1, func(int) error {
			return bcrypt.CompareHashAndPassword(slow, []byte("0123456789abcdef0123456789abcdef"))
		}},
		contender{"argon2id", 1, func(int) error {
			if !hmac.Equal(key, argon2.IDKey(secret, salt, 2, 19456, 1, 32)) {
				return errRefused
			}
			return nil
		}},
	)
	for i, name := range []string{"", "SHA-256 and a mutex-guarded map", "SHA-256 and an indexed lookup in SQLite", "JWT, HS256", "JWT, EdDSA", "bcrypt, cost 10", "argon2id, 19 MiB"} {
		switch i {
		case 0:
			r.add("ours, warm", "ns", 0, took[i])
			continue
		case 1:
			r.add(name+", at 1 processor: ours ÷ it", "×", 0, over(took[0], took[i]))
		case 2:
			r.add(name+": it ÷ ours", "×", -20, over(took[i], took[0]))
		case 3:
			r.add(name+": it ÷ ours", "×", -1, over(took[i], took[0]))
		default:
			r.add(name+": it ÷ ours", "×", 0, over(took[i], took[0]))
		}
		r.add(name, "ns", 0, took[i])
	}
	two := func(op func(int) error) func(int) error { // a call is one on each of two processors
		return func(int) error {
			var wg sync.WaitGroup
			errs := make([]error, 2)
			for g := range 2 {
				wg.Go(func() {
					for i := range fleetSize {
						if err := op((i + g*fleetSize/2) % fleetSize); err != nil {
							errs[g] = err
						}
					}
				})
			}
			wg.Wait()
			return errors.Join(errs...)
		}
	}
	both := inTurns(2*rounds, contender{"ours", 1, two(ours)}, contender{"mutex", 1, two(mutex)})
	r.add("SHA-256 and a mutex-guarded map, at 2 processors: ours ÷ it", "×", 1.4, over(both[0], both[1]))
	r.add("ours at 2 processors", "ns", 0, scale(both[0], 1.0/(2*fleetSize)))
	r.add("SHA-256 and a mutex-guarded map, at 2 processors", "ns", 0, scale(both[1], 1.0/(2*fleetSize)))
}
