package integration

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// day is a program that is listened to, and its troubles.
type day struct {
	t        *testing.T
	c        *canaries
	clock    *clock
	people   *people
	plain    *sql.DB // to damage rows with
	recorded *sql.DB
	*node
	password string
	key      apikey.KeyID
	token    apikey.Token

	mu      sync.Mutex
	trouble map[string]string // of "mail", "kek", "factor", "policy": "fails", "panics"
}

func newDay(t *testing.T, path string) *day {
	d := &day{t: t, c: newCanaries(), clock: newClock(), trouble: map[string]string{}}
	d.people = newPeople(d.clock.now)
	const settings = "?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate"
	d.plain = sure(sql.Open("sqlite", "file:"+path+settings))
	d.recorded = d.c.record("file:" + path + settings)
	t.Cleanup(func() { d.plain.Close(); d.recorded.Close() })
	secret := make([]byte, 20)
	rand.Read(secret)
	d.password = "pw " + hex.EncodeToString(secret)
	d.c.learn("password", []byte(d.password))
	d.node = newNode(t, sure(sqlstore.New(d.recorded, sqlstore.SQLite)), d.clock.now, d.people.factors(apikey.GuardRevealAndRotate("totp", "email", "password")), func(c *managing) {
		c.KEKs = []apikey.KEK{dayKEK{localKEK(2), d}, dayKEK{localKEK(1), d}}
		c.Factors["totp"] = dayTOTP{c.Factors["totp"].(*apikey.TOTP), d}
		c.Factors["email"] = sure(apikey.NewEmailCode(dayMail{d}, c.Peppers...))
		c.Factors["password"] = sure(apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) {
			return answer == d.password, d.meets("factor", answer)
		}))
		c.Policy, c.Logger, c.Trace, c.OnEvent = dayPolicy{d}, d.c.logger(), d.c.trace(), d.heardEvent
		c.Notifier = deafNotifier{}
	})
	_, vc := configs(sure(sqlstore.New(d.recorded, sqlstore.SQLite)), d.clock.now)
	vc.Logger, vc.Trace = d.c.logger(), d.c.trace()
	d.verifier = sure(vc.start(background))
	t.Cleanup(func() { d.verifier.Close(background) })
	return d
}

func (d *day) heardEvent(e apikey.Event) { d.c.value("event", e) }

// with makes trouble during a call.
func (d *day) with(what, how string, call func()) {
	d.set(what, how)
	call()
	d.set(what, "")
}

func (d *day) set(what, how string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trouble[what] = how
}

// meets is what a part of the program meets with today.
func (d *day) meets(what, given string) error {
	d.mu.Lock()
	how := d.trouble[what]
	d.mu.Unlock()
	switch how {
	case "fails":
		return fmt.Errorf("%s: %w", what, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)})
	case "panics":
		panic(what + " was given " + given)
	}
	return nil
}

type dayKEK struct {
	apikey.KEK
	d *day
}

func (k dayKEK) Wrap(ctx context.Context, dek, aad []byte) ([]byte, error) {
	k.d.c.learn("data key", dek)
	if err := k.d.meets("kek", string(dek)); err != nil {
		return nil, err
	}
	return k.KEK.Wrap(ctx, dek, aad)
}

func (k dayKEK) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if err := k.d.meets("kek", string(aad)); err != nil {
		return nil, err
	}
	return k.KEK.Unwrap(ctx, wrapped, aad)
}

type dayTOTP struct {
	*apikey.TOTP
	d *day
}

func (f dayTOTP) Check(ctx context.Context, a apikey.Actor, c apikey.Challenge, enrolled, state []byte, answer string) ([]byte, bool, error) {
	if err := f.d.meets("factor", answer); err != nil {
		return nil, false, err
	}
	return f.TOTP.Check(ctx, a, c, enrolled, state, answer)
}

type dayMail struct{ d *day }

func (m dayMail) Send(ctx context.Context, to string, msg apikey.Message) error {
	m.d.c.value("mail subject", msg)
	m.d.c.hear("mail subject", msg.Subject)
	m.d.c.code(sixDigits.FindString(msg.Text())) // also of one that is never sent
	if err := m.d.meets("mail", msg.Text()); err != nil {
		return err
	}
	return m.d.people.Send(ctx, to, msg)
}

// deafNotifier makes every change one that is logged.
type deafNotifier struct{}

func (deafNotifier) Notify(context.Context) error { return errAway }
func (deafNotifier) Wait(context.Context) error   { return errAway }

type dayPolicy struct{ d *day }

func (p dayPolicy) Authorize(ctx context.Context, a apikey.Actor, act apikey.Action, k apikey.Info) error {
	if err := p.d.meets("policy", fmt.Sprintf("%+v %+v", a, k)); err != nil {
		return err
	}
	return apikey.RolePolicy{}.Authorize(ctx, a, act, k)
}

// want fails the test if a call ended otherwise than it should: then the day is
// not the one that was meant.
func (d *day) want(err, target error) {
	d.t.Helper()
	if !errors.Is(err, target) {
		d.t.Errorf("%v instead of %v", err, target)
	}
}
