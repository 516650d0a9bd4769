package integration

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-apikey/apikey"
)

// canaries are the secrets of a day, and everything that was said in its course.
// The scan comes at the end, so that nothing is missed that was said before its
// secret was known.
type canaries struct {
	mu      sync.Mutex
	windows map[string]string // 12 characters of a secret in some spelling: what it is
	codes   map[string]string // of six digits
	heard   map[string]*strings.Builder
	bytes   int
}

func newCanaries() *canaries {
	return &canaries{windows: map[string]string{}, codes: map[string]string{}, heard: map[string]*strings.Builder{}}
}

const window = 12

// spellings are the ways in which bytes are written. In base64 and base32 what
// comes before decides how a byte is written: that many places there are.
func spellings(b []byte) map[string]string {
	spelled := map[string]string{
		"raw": string(b), "hex": hex.EncodeToString(b), "HEX": strings.ToUpper(hex.EncodeToString(b)),
		"decimal": strings.Trim(fmt.Sprint(b), "[]"), "JSON array": strings.ReplaceAll(strings.Trim(fmt.Sprint(b), "[]"), " ", ","),
	}
	for at := range 3 {
		spelled[fmt.Sprint("base64 at ", at)] = base64.RawStdEncoding.EncodeToString(b[at:])
		spelled[fmt.Sprint("base64url at ", at)] = base64.RawURLEncoding.EncodeToString(b[at:])
	}
	for at := range 5 {
		spelled[fmt.Sprint("base32 at ", at)] = base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[at:])
	}
	return spelled
}

// learn makes a secret known: from now on any 12 characters of it are a hit. They
// are random, so 12 of them are never there by accident.
func (c *canaries) learn(name string, secret []byte) {
	if len(secret) < 16 {
		panic(name + " is too short to be looked for")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for spelling, text := range spellings(secret) {
		for i := range len(text) - window - 1 { // the last character may depend on what follows
			c.windows[text[i:i+window]] = name + ", " + spelling
		}
	}
}

// token learns the secret part of one: its ID and its last four characters are
// public.
func (c *canaries) token(t apikey.Token) apikey.Token {
	text := t.Reveal()
	fields := text[strings.LastIndexByte(text, '_')+1:]
	c.learn("token", []byte(fields[22:22+33]))
	return t
}

func (c *canaries) grant(g apikey.Grant) apikey.Grant {
	c.learn("grant", []byte(g.Reveal()))
	return g
}

// code learns six digits, right ones or wrong ones.
func (c *canaries) code(digits string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.codes[digits] = "code " + digits
	return digits
}

func (c *canaries) hear(channel, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard[channel] == nil {
		c.heard[channel] = &strings.Builder{}
	}
	fmt.Fprintln(c.heard[channel], text)
	c.bytes += len(text)
}

// value hears all that printers make of one.
func (c *canaries) value(channel string, v any) {
	b, err := json.Marshal(v)
	c.hear(channel, fmt.Sprintf("%v %+v %#v %s %v", v, v, v, b, err))
}

// idLike is what is random by itself: UUIDs, hashes and base62. Six digits in
// there mean nothing; what is left is text of the program's, in which a known
// code between other characters than digits is no accident. (Binary data can
// hold one: 40 codes in 10 MB, at (10/256)^6 × 40/10^6 a place, is 10^-5.)
var (
	idLike = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9A-Za-z_]{16,}`)
	digits = regexp.MustCompile(`[0-9]+`)
)

// hits are the secrets in what was heard, by channel.
func (c *canaries) hits() map[string][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	hits := map[string][]string{}
	for channel, heard := range c.heard {
		text, found := heard.String(), map[string]bool{}
		for i := range max(0, len(text)-window+1) {
			if name := c.windows[text[i:i+window]]; name != "" {
				found[name] = true
			}
		}
		for _, run := range digits.FindAllString(idLike.ReplaceAllString(text, " "), -1) {
			if name := c.codes[run]; name != "" {
				found[name] = true
			}
		}
		if len(found) > 0 {
			hits[channel] = slices.Sorted(maps.Keys(found))
		}
	}
	return hits
}

// Write makes it the place where a log goes.
func (c *canaries) Write(line []byte) (int, error) {
	c.hear("log", string(line))
	return len(line), nil
}

func (c *canaries) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(c, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (c *canaries) trace() *apikey.Trace {
	return &apikey.Trace{
		Verified:    func(v apikey.VerifiedTrace) { c.value("trace", v); c.value("trace", v.Err) },
		InactiveKey: func(i apikey.Info, err error) { c.value("trace", i); c.value("trace", err) },
		Corrupt:     func(err *apikey.CorruptError) { c.value("trace", err); c.value("trace", *err) },
		Denied: func(a apikey.Actor, act apikey.Action, key apikey.KeyID, err error) {
			c.value("trace", []any{a, act, key})
			c.value("trace", err)
		},
	}
}

// calls runs one call and hears what it returned, or how it panicked.
func calls[T any](c *canaries, call func() (T, error)) (result T, err error) {
	defer func() {
		if r := recover(); r != nil {
			c.hear("panic", fmt.Sprintf("%v %+v %s", r, r, debug.Stack()))
			err = fmt.Errorf("it panicked: %v", r)
		}
	}()
	result, err = call()
	c.value("result", result)
	for wrapped := err; wrapped != nil; {
		c.value("error", wrapped)
		u, ok := wrapped.(interface{ Unwrap() error })
		if !ok {
			break
		}
		wrapped = u.Unwrap()
	}
	return result, err
}

// record opens a database whose every statement and argument is heard.
func (c *canaries) record(path string) *sql.DB {
	plain := sure(sql.Open("sqlite", path))
	defer plain.Close()
	return sql.OpenDB(recorder{c, plain.Driver(), path})
}

type recorder struct {
	c      *canaries
	driver driver.Driver
	dsn    string
}

func (r recorder) Driver() driver.Driver { return r.driver }

func (r recorder) Connect(context.Context) (driver.Conn, error) {
	conn, err := r.driver.Open(r.dsn)
	if err != nil {
		return nil, err
	}
	return recorded{conn.(fullConn), r.c}, nil
}

type fullConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
}

type recorded struct {
	fullConn
	c *canaries
}

// Prepare must be no way around.
func (r recorded) Prepare(statement string) (driver.Stmt, error) {
	stmt, err := r.fullConn.Prepare(statement)
	if err != nil {
		return nil, err
	}
	return preparedHeard{stmt, r, statement}, nil
}

type preparedHeard struct {
	driver.Stmt
	r         recorded
	statement string
}

func (s preparedHeard) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.r.QueryContext(ctx, s.statement, args)
}

// Exec would be a way around: nothing that writes is prepared.
func (preparedHeard) Exec([]driver.Value) (driver.Result, error) { panic("a statement runs unheard") }

func (r recorded) ExecContext(ctx context.Context, statement string, args []driver.NamedValue) (driver.Result, error) {
	r.hear(statement, args)
	return r.fullConn.ExecContext(ctx, statement, args)
}

func (r recorded) QueryContext(ctx context.Context, statement string, args []driver.NamedValue) (driver.Rows, error) {
	r.hear(statement, args)
	return r.fullConn.QueryContext(ctx, statement, args)
}

func (r recorded) hear(statement string, args []driver.NamedValue) {
	r.c.hear("SQL text", statement)
	for _, a := range args {
		if b, ok := a.Value.([]byte); ok {
			r.c.hear("SQL argument", string(b))
			continue
		}
		r.c.hear("SQL argument", fmt.Sprint(a.Value))
	}
}

// The scan itself: it finds each secret in each spelling and on each channel, and
// nothing where there is nothing.
func TestTheScanFindsALeak(t *testing.T) {
	path := string(newFile(t))
	d := newDay(t, path)
	d.hello()
	if hits := d.c.hits(); len(hits) != 0 {
		t.Fatalf("before anything leaks: %v", hits)
	}
	token, seed := []byte(d.token.Reveal()), d.people.seeds["usr_1"]
	for name, secret := range map[string][]byte{"token": token[len(token)-51 : len(token)-18], "seed": seed, "password": []byte(d.password)} {
		for spelling, text := range spellings(secret) {
			c := newCanaries()
			c.learn(name, secret)
			c.hear("planted", "before "+text[:len(text)-2]+" after")
			if len(c.hits()) == 0 {
				t.Errorf("%s, %s is not found", name, spelling)
			}
		}
	}
	for channel, plant := range map[string]func(code, text string){
		"log": func(code, text string) {
			d.c.logger().Debug("sent", "code", code)
			d.c.logger().With("with", text).Info("it was " + text)
		},
		"trace": func(code, text string) {
			d.c.trace().Denied(apikey.Actor{ID: "usr_1"}, apikey.ActionReveal, apikey.KeyID{}, fmt.Errorf("refused %s and %s", text, code))
		},
		"event": func(code, text string) {
			d.heardEvent(apikey.Event{Changed: []string{code}, Reason: apikey.Reason(text)})
		},
		"mail subject": func(code, text string) {
			d.c.value("mail subject", struct{ Subject string }{"Code " + code + " for " + text})
		},
		"error": func(code, text string) {
			calls(d.c, func() (int, error) { return 0, fmt.Errorf("wrapped: %w", fmt.Errorf("answer %q of %s", code, text)) })
		},
		"panic":        func(code, text string) { calls(d.c, func() (int, error) { panic(text + " " + code) }) },
		"SQL argument": func(code, text string) { d.recorded.Exec("SELECT ?, ?", code, []byte("\x06"+code+"\x00"+text)) },
		"SQL text":     func(code, text string) { d.recorded.Exec("SELECT '" + code + "', '" + text + "'") },
	} {
		plant("654321", string(token))
		d.c.code("654321")
		hits := d.c.hits()
		if len(hits) != 1 || len(hits[channel]) < 2 || !strings.HasPrefix(hits[channel][0], "code 654321") {
			t.Errorf("planted in %s: found %v", channel, hits)
		}
		delete(d.c.heard, channel)
	}
	t.Logf("a code and a token planted in 8 channels, and %d spellings of three secrets: all found", len(spellings(seed)))
}
