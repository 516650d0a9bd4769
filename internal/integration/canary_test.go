package integration

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
	"github.com/go-apikey/apikey/sqlstore"
)

// A whole day of step-up on SQLite, with everything that can go wrong: wrong and
// right answers, mail that fails, KEKs that fail and panic with what they were
// given, damaged rows, factors and policies that panic. Everything that comes
// out of it (log at debug level, errors, results, events, trace, panics, mail
// subjects, every SQL statement with its arguments, the database's own files) is
// searched for tokens, grants, codes, seeds, data keys and passwords. They may be
// in the body of a mail and nowhere else.
func TestADayLeavesNoSecret(t *testing.T) {
	path := string(newFile(t))
	d := newDay(t, path)
	d.hello()
	for _, part := range []func(){d.passwords, d.enrolment, d.app, d.mail, d.panics, d.rotations, d.reseal, d.strangers, d.damage, d.lock} {
		part()
	}
	d.listing()
	must(t, d.recorded.Close())
	for _, suffix := range []string{"", "-wal"} {
		if b, err := os.ReadFile(path + suffix); err == nil {
			d.c.hear("database file", string(b))
		}
	}
	hits := d.c.hits()
	sizes := map[string]int{}
	for channel, heard := range d.c.heard {
		sizes[channel] = heard.Len()
	}
	for channel, found := range hits {
		t.Errorf("%s: %v", channel, found)
	}
	t.Logf("known: %d codes, %d windows of tokens, grants, seeds, data keys and passwords; heard, in bytes: %v; channels with a hit %d", len(d.c.codes), len(d.c.windows), sizes, len(hits))
	for _, channel := range []string{"log", "trace", "event", "result", "error", "panic", "mail subject", "SQL text", "SQL argument", "database file"} {
		if sizes[channel] < 100 {
			t.Errorf("nothing was heard from %s", channel)
		}
	}
	// The one place where codes may be, and nothing else.
	bodies, mailed := newCanaries(), map[string]bool{}
	bodies.windows, bodies.codes = d.c.windows, d.c.codes
	for _, m := range d.people.mails {
		bodies.hear("bodies", m.Text())
		mailed["code "+sixDigits.FindString(m.Text())] = true
	}
	found := bodies.hits()["bodies"]
	t.Logf("%d mails, in whose bodies %d codes were found", len(d.people.mails), len(found))
	if !slices.Equal(found, slices.Sorted(maps.Keys(mailed))) {
		t.Errorf("the bodies hold something else than their codes: %v", found)
	}
}

func (d *day) hello() {
	issued, err := calls(d.c, func() (apikey.Issued, error) {
		return d.manager.Issue(as("usr_1"), apikey.IssueRequest{Mode: apikey.Live, Name: "Website", Recoverable: true})
	})
	d.want(err, nil)
	d.key, d.token = issued.Key.ID, d.c.token(issued.Token)
	d.begin("usr_1")
	_, err = calls(d.c, func() (int, error) {
		return 0, d.manager.ConfirmEnrollment(as("usr_1"), "totp", d.c.code(d.people.app("usr_1")))
	})
	d.want(err, nil)
	d.clock.move(totp.Period)
}

// begin scans a new seed.
func (d *day) begin(actor string) {
	d.t.Helper()
	req := apikey.EnrollRequest{Factor: "totp"}
	req.Grant = d.approve(actor, "password", req, func() string { return d.password })
	e, err := calls(d.c, func() (apikey.Enrollment, error) { return d.manager.Enroll(as(actor), req) })
	d.want(err, nil)
	d.people.scan(actor, e)
	d.c.learn("seed", d.people.seeds[actor])
	d.c.learn("enrolment", []byte(e.URI()[strings.Index(e.URI(), "secret="):]))
}

func (d *day) challenge(actor, factor string, req apikey.Guarded, want error) apikey.Challenge {
	d.t.Helper()
	c, err := calls(d.c, func() (apikey.Challenge, error) { return d.manager.Challenge(as(actor), factor, req) })
	d.want(err, want)
	return c
}

func (d *day) confirm(actor string, c apikey.Challenge, answer string, want error) apikey.Grant {
	d.t.Helper()
	g, err := calls(d.c, func() (apikey.Grant, error) { return d.manager.Confirm(as(actor), c.ID, answer) })
	d.want(err, want)
	if err == nil {
		d.c.grant(g)
	}
	return g
}

func (d *day) approve(actor, factor string, req apikey.Guarded, answer func() string) apikey.Grant {
	d.t.Helper()
	c := d.challenge(actor, factor, req, nil)
	return d.confirm(actor, c, answer(), nil)
}

func (d *day) reveal(g apikey.Grant, want error) {
	d.t.Helper()
	shown, err := calls(d.c, func() (apikey.Revealed, error) {
		return d.manager.Reveal(as("usr_1"), apikey.RevealRequest{Key: d.key, Grant: g})
	})
	d.want(err, want)
	if err == nil {
		d.c.token(shown.Token)
	}
}

// wrong is a code that is not right, and as secret: it may be one digit off.
func (d *day) wrong(right string) string {
	last := (right[5]-'0'+1)%10 + '0'
	return d.c.code(right[:5] + string(last))
}

func (d *day) passwords() {
	req := apikey.RevealRequest{Key: d.key}
	d.reveal(apikey.Grant{}, apikey.ErrStepUpRequired)
	c := d.challenge("usr_1", "password", req, nil)
	typo := "x" + d.password[:len(d.password)-1]
	d.confirm("usr_1", c, typo, apikey.ErrWrongAnswer)
	d.confirm("usr_1", c, strings.Repeat(d.password, 50), apikey.ErrWrongAnswer)
	d.confirm("usr_1", c, d.token.Reveal(), apikey.ErrWrongAnswer) // pasted into the wrong field
	d.with("factor", "fails", func() { d.confirm("usr_1", c, d.password, apikey.ErrUnavailable) })
	g := d.confirm("usr_1", c, d.password, nil)
	d.with("kek", "fails", func() { d.reveal(g, apikey.ErrUnavailable) })
	d.reveal(g, nil)
	d.reveal(g, apikey.ErrGrant)
	d.reveal(apikey.ParseGrant(d.password), apikey.ErrGrant) // as mixed up as can be
	d.reveal(apikey.ParseGrant(d.token.Reveal()), apikey.ErrGrant)
	d.confirm("usr_1", apikey.Challenge{ID: d.token.Reveal()}, d.password, apikey.ErrChallenge)
	d.clock.move(time.Hour)
}

func (d *day) enrolment() {
	req := apikey.EnrollRequest{Factor: "totp"}
	req.Grant = d.approve("usr_2", "password", req, func() string { return d.password })
	for _, how := range []string{"fails", "panics"} {
		d.with("kek", how, func() {
			_, err := calls(d.c, func() (apikey.Enrollment, error) { return d.manager.Enroll(as("usr_2"), req) })
			d.want(err, apikey.ErrUnavailable)
		})
	}
	d.begin("usr_2")
	code := d.c.code(d.people.app("usr_2"))
	confirm := func(answer string, want error) {
		_, err := calls(d.c, func() (int, error) { return 0, d.manager.ConfirmEnrollment(as("usr_2"), "totp", answer) })
		d.want(err, want)
	}
	confirm(d.wrong(code), apikey.ErrWrongAnswer)
	d.with("kek", "fails", func() { confirm(code, apikey.ErrUnavailable) })
	confirm(code, nil)
	confirm(code, apikey.ErrNotEnrolled)
	password := func() string { return d.password }
	for _, call := range []func() error{
		func() error {
			req := apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_3"}
			req.Grant = d.approve("usr_1", "password", req, password)
			return d.manager.AllowEnrollment(as("usr_1"), req)
		},
		func() error {
			req := apikey.DisableRequest{Factor: "totp", Actor: "usr_2"}
			req.Grant = d.approve("usr_1", "password", req, password)
			return d.manager.Disable(as("usr_1"), req)
		},
	} {
		_, err := calls(d.c, func() (int, error) { return 0, call() })
		d.want(err, nil)
	}
	d.clock.move(time.Hour)
}

func (d *day) app() {
	c := d.challenge("usr_1", "totp", apikey.RevealRequest{Key: d.key}, nil)
	code := d.c.code(d.people.app("usr_1"))
	d.confirm("usr_1", c, d.wrong(code), apikey.ErrWrongAnswer)
	d.with("kek", "fails", func() { d.confirm("usr_1", c, code, apikey.ErrUnavailable) })
	d.with("factor", "fails", func() { d.confirm("usr_1", c, code, apikey.ErrUnavailable) })
	d.reveal(d.confirm("usr_1", c, code, nil), nil)
	again := d.challenge("usr_1", "totp", apikey.RevealRequest{Key: d.key}, nil)
	d.confirm("usr_1", again, code, apikey.ErrWrongAnswer) // a second time
	d.clock.move(time.Hour)
}

func (d *day) mail() {
	req := apikey.RevealRequest{Key: d.key}
	for _, how := range []string{"fails", "panics"} {
		d.with("mail", how, func() { d.challenge("usr_1", "email", req, apikey.ErrUnavailable) })
	}
	c := d.challenge("usr_1", "email", req, nil)
	code := d.people.mailed()
	d.confirm("usr_1", c, d.wrong(code), apikey.ErrWrongAnswer)
	d.confirm("usr_2", c, code, apikey.ErrChallenge)
	d.reveal(d.confirm("usr_1", c, code, nil), nil)
	d.challenge("usr_1", "email", apikey.RotateRequest{Key: d.key, Overlap: time.Hour}, nil)
	d.clock.move(2 * time.Hour)
}

func (d *day) panics() {
	c := d.challenge("usr_1", "password", apikey.RevealRequest{Key: d.key}, nil)
	failed := 0 // a factor panics with the answer that it was given, a policy with what it was asked about
	for _, call := range []func() error{
		func() error { _, err := d.manager.Confirm(as("usr_1"), c.ID, d.password); return err },
		func() error { _, err := d.manager.Reveal(as("usr_1"), apikey.RevealRequest{Key: d.key}); return err },
	} {
		for _, what := range []string{"factor", "policy"} {
			d.with(what, "panics", func() {
				if _, err := calls(d.c, func() (int, error) { return 0, call() }); err != nil {
					failed++
				}
			})
		}
	}
	if failed < 3 { // Confirm asks no policy
		d.t.Errorf("only %d calls failed", failed)
	}
	d.clock.move(time.Hour)
	g := d.approve("usr_1", "password", apikey.RevealRequest{Key: d.key}, func() string { return d.password })
	d.with("kek", "panics", func() { d.reveal(g, apikey.ErrUnavailable) })
	d.with("policy", "fails", func() { d.reveal(g, apikey.ErrForbidden) })
	d.reveal(g, nil)
}

func (d *day) rotations() {
	for _, req := range []apikey.RotateRequest{{Key: d.key, Overlap: time.Hour}, {Key: d.key, At: d.clock.now().Add(3 * time.Hour), Replace: true}, {Key: d.key}} {
		req.Grant = d.approve("usr_1", "totp", req, func() string { return d.c.code(d.people.app("usr_1")) })
		d.with("kek", "fails", func() {
			_, err := calls(d.c, func() (apikey.Issued, error) { return d.manager.Rotate(as("usr_1"), req) })
			d.want(err, apikey.ErrUnavailable)
		})
		next, err := calls(d.c, func() (apikey.Issued, error) { return d.manager.Rotate(as("usr_1"), req) })
		d.want(err, nil)
		d.token = d.c.token(next.Token)
		d.clock.move(time.Minute)
	}
}

func (d *day) reseal() {
	// What usr_1 has was sealed by the first KEK: let another one be first.
	turned := newNode(d.t, sure(sqlstore.New(d.recorded, sqlstore.SQLite)), d.clock.now, func(c *managing) {
		c.KEKs = []apikey.KEK{dayKEK{localKEK(1), d}, dayKEK{localKEK(2), d}}
		c.Logger, c.Trace, c.OnEvent = d.c.logger(), d.c.trace(), d.heardEvent
	})
	reseal := func(want error) {
		_, err := calls(d.c, func() (int, error) { return turned.manager.Reseal(staff(), 0) })
		d.want(err, want)
	}
	for _, how := range []string{"fails", "panics"} {
		d.with("kek", how, func() { reseal(apikey.ErrUnavailable) })
	}
	reseal(nil)
}

// strangers present everything everywhere.
func (d *day) strangers() {
	grant := d.approve("usr_1", "password", apikey.RevealRequest{Key: d.key}, func() string { return d.password })
	for _, text := range []string{d.token.Reveal(), d.token.Reveal()[1:], d.password, grant.Reveal(), d.people.mailed()} {
		calls(d.c, func() (apikey.Key, error) { return d.verifier.Verify(background, text, apikey.Request{}) })
		calls(d.c, func() (apikey.Token, error) { return apikey.ParseToken(text) })
		calls(d.c, func() (apikey.KeyID, error) { return apikey.ParseKeyID(text) })
		calls(d.c, func() (int, error) { return 0, d.manager.RevokeToken(background, text[1:], "") })
		calls(d.c, func() (apikey.Challenge, error) {
			return d.manager.Challenge(as("usr_1"), "pin", apikey.RevealRequest{Key: d.key})
		})
		calls(d.c, func() (int, error) { return 0, d.manager.ConfirmEnrollment(as("usr_1"), "totp", text) })
	}
	viewer := apikey.WithActor(background, apikey.Actor{ID: "usr_9", Account: "acc_1", Role: "viewer"})
	other := apikey.WithActor(background, apikey.Actor{ID: "usr_1", Account: "acc_2", Role: "admin"})
	for ctx, want := range map[context.Context]error{viewer: apikey.ErrForbidden, other: apikey.ErrNotFound, as("usr_2"): apikey.ErrGrant} {
		_, err := calls(d.c, func() (apikey.Revealed, error) {
			return d.manager.Reveal(ctx, apikey.RevealRequest{Key: d.key, Grant: grant})
		})
		d.want(err, want)
	}
	d.clock.move(time.Hour)
}

// damage flips a bit in a row, and puts it back.
func (d *day) damage() {
	grant := d.approve("usr_1", "password", apikey.RevealRequest{Key: d.key}, func() string { return d.password })
	waits := d.challenge("usr_1", "password", apikey.RevealRequest{Key: d.key}, nil)
	for _, row := range []struct {
		table, column, where string
		at                   int
		meanwhile            func()
	}{
		{"apikey_credentials", "sealed", "ended = 0 AND sealed IS NOT NULL", 100, func() { d.reveal(grant, apikey.ErrCorrupt) }},
		{"apikey_credentials", "sealed", "ended = 0 AND sealed IS NOT NULL", 0, func() { d.reveal(grant, apikey.ErrCorrupt) }},
		{"apikey_items", "data", "kind = 'enrolled'", 150, func() { d.challenge("usr_1", "totp", apikey.RevealRequest{Key: d.key}, apikey.ErrCorrupt) }},
		{"apikey_items", "data", "kind = 'grant'", 40, func() { d.reveal(grant, apikey.ErrGrant) }},
		{"apikey_items", "data", "kind = 'challenge'", 40, func() { d.confirm("usr_1", waits, d.password, apikey.ErrChallenge) }},
		{"apikey_keys", "mac", "TRUE", 5, func() {
			d.reveal(grant, apikey.ErrCorrupt)
			fresh := newNode(d.t, sure(sqlstore.New(d.recorded, sqlstore.SQLite)), d.clock.now)
			_, err := calls(d.c, func() (apikey.Key, error) {
				return fresh.verifier.Verify(background, d.token.Reveal(), apikey.Request{})
			})
			d.want(err, apikey.ErrCorrupt)
		}},
	} {
		read := func() map[int64][]byte {
			rows, err := d.plain.Query("SELECT rowid, " + row.column + " FROM " + row.table + " WHERE " + row.where)
			must(d.t, err)
			defer rows.Close()
			found := map[int64][]byte{}
			for rows.Next() {
				var id int64
				var b []byte
				must(d.t, rows.Scan(&id, &b))
				found[id] = b
			}
			return found
		}
		write := func(id int64, b []byte) {
			_, err := d.plain.Exec("UPDATE "+row.table+" SET "+row.column+" = ? WHERE rowid = ?", b, id)
			must(d.t, err)
		}
		stored := read()
		if len(stored) == 0 {
			d.t.Errorf("no row of %s where %s", row.table, row.where)
		}
		for id, b := range stored {
			b[row.at] ^= 1
			write(id, b)
		}
		row.meanwhile()
		for id, b := range stored {
			b[row.at] ^= 1
			write(id, b)
		}
	}
	d.reveal(grant, nil)
	// A row that cannot even be read.
	req := apikey.RevealRequest{Key: d.key}
	req.Grant = d.approve("usr_1", "password", req, func() string { return d.password })
	_, err := d.plain.Exec("UPDATE apikey_keys SET abilities = '{'")
	must(d.t, err)
	d.reveal(req.Grant, apikey.ErrCorrupt)
	_, err = calls(d.c, func() (apikey.Info, error) {
		return d.manager.Get(apikey.WithActor(background, apikey.Actor{ID: "usr_1", Account: "acc_2", Role: "admin"}), d.key)
	})
	d.want(err, apikey.ErrNotFound)
	_, err = calls(d.c, func() (int, error) { return 0, d.verifier.Sync(background) })
	d.want(err, nil)
	_, err = d.plain.Exec("UPDATE apikey_keys SET abilities = '[]'")
	must(d.t, err)
	d.reveal(req.Grant, nil)
	d.clock.move(time.Hour)
}

// lock answers wrongly until the actor is locked, and lifts it.
func (d *day) lock() {
	for range 60 {
		c, err := calls(d.c, func() (apikey.Challenge, error) {
			return d.manager.Challenge(as("usr_1"), "email", apikey.RevealRequest{Key: d.key})
		})
		for range 5 {
			if err == nil {
				_, err = calls(d.c, func() (apikey.Grant, error) { return d.manager.Confirm(as("usr_1"), c.ID, d.wrong(d.people.mailed())) })
			}
			if errors.Is(err, apikey.ErrWrongAnswer) {
				err = nil
			}
		}
		if errors.Is(err, apikey.ErrLocked) {
			req := apikey.LiftLockRequest{Actor: "usr_1"}
			req.Grant = d.approve("usr_2", "password", req, func() string { return d.password })
			_, err := calls(d.c, func() (int, error) { return 0, d.manager.LiftLock(as("usr_2"), req) })
			d.want(err, nil)
			return
		}
		d.clock.move(time.Hour)
	}
	d.t.Error("never locked")
}

// listing shows everything that there is to show.
func (d *day) listing() {
	for _, show := range []func() (any, error){
		func() (any, error) { return d.manager.Events(staff(), apikey.EventsRequest{Limit: 1000}) },
		func() (any, error) { return d.manager.List(staff(), apikey.ListRequest{}) },
		func() (any, error) { return d.manager.Get(as("usr_1"), d.key) },
		func() (any, error) { return d.manager.Enrolled(as("usr_1")) },
		func() (any, error) {
			return d.manager.VerifyEvents(as("usr_1"), d.key)
		},
		func() (any, error) { return 0, d.manager.Revoke(as("usr_1"), apikey.RevokeRequest{Key: d.key}) },
	} {
		_, err := calls(d.c, show)
		d.want(err, nil)
	}
	_, err := calls(d.c, func() (apikey.Key, error) {
		must(d.t, d.verifier.Sync(background))
		return d.verifier.Verify(background, d.token.Reveal(), apikey.Request{})
	})
	d.want(err, apikey.ErrRevoked)
}
