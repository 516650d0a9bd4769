package keypage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/keypage"
)

// All that a person can do with a key, without scripts and without a guard.
func TestADayOfAKey(t *testing.T) {
	e := newEnv(t, keypage.Config{Recoverable: keypage.Ask, Zone: func(apikey.Actor) *time.Location { return zone("Asia/Jakarta") }})
	e.get("").shows(200, "No keys yet", "Make your first key")
	f := e.get("").follow("New API key").shows(200, "New API key", "Live").form("Create key")
	f.set("name", "Shop").set("scope", "payment:charge").set("product.balance", "read").set("expires", "2099-12-31").set("recoverable", "1")
	require.Equal(t, "1", f.value("active"))
	made := f.press("Create key").shows(200, "API key created", "Shop", "It can be revealed again later")
	token := made.token()
	require.True(t, e.works(token))
	k := e.keys()[0]
	require.Equal(t, []string{"balance=read", "payment:charge"}, abilities(k))
	require.Equal(t, "2099-12-31T17:00:00Z", k.ExpiresAt.Format(time.RFC3339))
	require.True(t, k.Recoverable)
	key := made.press("Done").shows(200, "31 December 2099", "Active").lacks("Cancel rotation", "Resume")

	// Reveal, suspend, resume, edit.
	require.Equal(t, token, key.press("Reveal key").shows(200, "Key revealed", "It is shown for 30 seconds").token())
	key = key.press("Suspend").shows(200, "The key is suspended").lacks("Reveal key")
	require.False(t, e.works(token))
	key = key.press("Resume").shows(200, "The key works again")
	require.True(t, e.works(token))
	f = key.press("Edit").shows(200, "Edit key").form("Save")
	require.Equal(t, []string{"Shop", "2099-12-31", "read", "payment:charge", "1"}, []string{f.value("name"), f.value("expires"), f.value("product.balance"), f.value("scope"), f.value("active")})
	key = f.set("name", "Warehouse").set("product.balance", "none").set("expires", "").press("Save").shows(200, "Saved.", "Warehouse")
	k = e.key(k.ID)
	require.Equal(t, []string{"payment:charge"}, abilities(k))
	require.Zero(t, k.ExpiresAt)
	f = key.press("Edit").form("Save").set("active").set("scope")
	key = f.press("Save").shows(200, "Suspended")
	require.Empty(t, abilities(e.key(k.ID)))
	key = key.press("Edit").form("Save").set("active", "1").press("Save").shows(200, "Active")

	// Regenerate at once, with an overlap, at a time, and instead of what is planned.
	second := key.press("Regenerate key").shows(200, "Asia/Jakarta").press("Save").shows(200, "New secret key")
	require.False(t, e.works(token))
	require.True(t, e.works(second.token()))
	key = second.press("Done")
	third := key.press("Regenerate key").form("Save").set("overlap", "24").press("Save").shows(200, "New secret key")
	require.True(t, e.works(second.token()))
	key = third.press("Done").shows(200, "Still works", "Old key until", "new key now").lacks("Cancel rotation")
	f = key.press("Regenerate key").form("Save").set("overlap", "1")
	f.press("Save").shows(400, "An older secret key still works beside the current one")
	key = key.press("End now").shows(200, "The old secret key no longer works")
	require.False(t, e.works(second.token()))
	at := e.program.Clock.Now().Add(3 * day).In(zone("Asia/Jakarta"))
	f = key.press("Regenerate key").form("Save").set("time", "at").set("at", at.Format("2006-01-02T15:04")).set("overlap", "1")
	fourth := f.press("Save").shows(200, "It works from", "WIB")
	require.True(t, e.works(third.token()))
	require.False(t, e.works(fourth.token()))
	key = fourth.press("Done").shows(200, "Not valid yet", "Old key until", "new key from")
	f = key.press("Regenerate key").form("Save")
	f.set("time", "at").set("at", at.Format("2006-01-02T15:04"))
	again := f.press("Save").shows(400, "A new secret key waits for its time already").form("Save")
	refused := again.set("replace", "1").request("Save")
	refused.form.Set("overlap", "x")
	require.Equal(t, "1", e.do(refused).shows(400).form("Save").value("replace"))
	fifth := again.set("replace", "1").set("time", "at").set("at", at.Format("2006-01-02T15:04")).press("Save").shows(200, "New secret key")
	key = fifth.press("Done").press("Cancel rotation").shows(200, "The planned rotation was cancelled.")
	e.program.Clock.Move(4 * day)
	require.True(t, e.works(third.token()))
	require.False(t, e.works(fifth.token()))

	// Revoke.
	revoke := key.press("Revoke key").shows(200, "used", "Warehouse")
	require.Empty(t, revoke.form("Revoke").value("reason"), "no reason is chosen beforehand")
	revoke.press("Revoke").shows(400, "Say why it is revoked")
	key = revoke.form("Revoke").set("reason", "unneeded").press("Revoke").shows(200, "The key is revoked, for ever", "Revoked").
		lacks("Edit", "Suspend", "Resume", "Reveal", "Regenerate", "Cancel rotation", "Revoke key")
	require.Equal(t, apikey.ReasonRequested, e.key(k.ID).RevokeReason)
	for _, rest := range []string{"/edit", "/regenerate", "/revoke"} {
		e.get(e.keyPath(k.ID, rest))
	}
	key.follow("Activity log").shows(200, "Key created", "Key regenerated", "Rotation cancelled", "Key revoked", "anna").
		press("Check the log").shows(200, "The log of this key is complete")
}

func abilities(k apikey.Info) (texts []string) {
	for a := range k.Abilities.All() {
		texts = append(texts, a.String())
	}
	return texts
}

func zone(name string) *time.Location { return must(time.LoadLocation(name)) }

// What a form cannot mean is said beside the field, with what was typed kept.
func TestBadInput(t *testing.T) {
	e := newEnv(t, keypage.Config{}, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Limits.LiveKeys = 1 })
	today := e.program.Clock.Now().Format("2006-01-02")
	for _, c := range []struct{ field, value, says string }{
		{"name", "", "This is required"},
		{"name", "   ", "This is required"},
		{"name", strings.Repeat("x", 201), "at most 200 bytes"},
		{"name", strings.Repeat("é", 101), "at most 200 bytes"},
		{"name", "a\x00b", "This is not valid text"},
		{"name", "a\u202egnp.exe", "This has a character that cannot be seen"},
		{"name", "a\xffb", "This is not valid text"},
		{"name", "\u200b", "This has a character that cannot be seen"},
		{"scope", "payment:steal", "“payment:steal” is not known here"},
		{"scope", "payment", "not"},
		{"expires", "2027-02-29", "This does not have the form that is needed here"},
		{"expires", "10000-01-01", "This does not have the form"},
		{"expires", "9999-12-31", "This does not have the form"},
		{"expires", "31.12.2099", "This does not have the form"},
		{"expires", "2020-01-01", "This has to be in the future"},
		{"expires", e.program.Clock.Now().Add(-day).Format("2006-01-02"), "This has to be in the future"},
	} {
		page := e.get("/new")
		f := page.form("Create key").set("name", "Kept").set("product.balance", "read")
		q := f.request("Create key")
		q.form.Set(c.field, c.value)
		a := e.do(q).shows(400, c.says)
		again := a.form("Create key")
		require.Equal(t, f.value("idempotent"), again.value("idempotent"), c.value)
		require.Equal(t, "read", again.value("product.balance"))
		if c.field != "scope" {
			require.Equal(t, strings.ReplaceAll(c.value, "\x00", "\ufffd"), again.value(c.field))
		}
		require.Empty(t, e.keys(), "%+v", c)
	}
	// Today is a day whose end is to come.
	e.get("/new").form("Create key").set("name", "Today").set("expires", today).press("Create key").shows(200, "API key created")
	e.get("/new").form("Create key").set("name", "Second").press("Create key").shows(400, "The account may have 1 keys")
	require.Len(t, e.keys(), 1)

	k := e.keys()[0]
	for _, c := range []struct{ field, value, says string }{
		{"at", "", "This is required"},
		{"at", "soon", "This does not have the form"},
		{"at", "2020-01-01T00:00", "This has to be in the future"},
		{"at", "10000-01-01T00:00", "This does not have the form"},
		{"at", e.program.Clock.Now().Add(2 * day).Format("2006-01-02T15:04"), "The key expires before that"},
		{"overlap", "-1", "This does not have the form"},
		{"overlap", "x", "This does not have the form"},
		{"overlap", "9999", "This has to be from"},
	} {
		f := e.get(e.keyPath(k.ID, "/regenerate")).form("Save")
		q := f.request("Save")
		if c.field == "at" {
			q.form.Set("time", "at")
		}
		q.form.Set(c.field, c.value)
		e.do(q).shows(400, c.says)
		require.Equal(t, 1, e.key(k.ID).Credentials.Len(), "%+v", c)
	}
	for _, version := range []string{"", "0", "x", "99", "-1"} {
		for _, what := range []string{"edit", "regenerate"} {
			q := e.get(e.keyPath(k.ID, "/"+what)).form("Save").request("Save")
			q.form.Set("version", version)
			q.form.Set("name", "Other")
			e.do(q).shows(412, "Changed meanwhile")
		}
	}
	require.EqualValues(t, 1, e.key(k.ID).Version)
	for _, path := range []string{"?cursor=nonsense", "?name=" + strings.Repeat("x", 300), "/log?cursor=x", "/log?action=steal", "?mode=prod&status=x&used=y", "/log?person=%00", "?name=%00%ff", "/log?key=x"} {
		require.Less(t, e.get(path).status, 500, path)
	}
	for _, path := range []string{"/nothing", "/key/x", "/key/%00", "/key/" + strings.Repeat("a", 36), "/key/..%2f..%2fnew", "/new/", "/./new", "//new", "/assets", "/factors/totp"} {
		e.get(path).shows(404, "Not found")
	}
	e.do(request{method: "PUT", path: e.path("/new")}).shows(404)
	q := e.get("/new").form("Create key").set("name", "x").request("Create key")
	q.header = map[string]string{"Content-Type": "text/plain"}
	e.do(q).shows(415, "The form cannot be read")
	q.header = nil
	q.form.Set("name", strings.Repeat("x", 70<<10))
	e.do(q).shows(400, "The form cannot be read")
	require.Len(t, e.keys(), 1)
}

// Each change that can be guarded asks, and the answer makes it. One factor is asked for
// at once; of several the person chooses.
func TestGuardedChanges(t *testing.T) {
	for _, factors := range [][]string{{"email"}, {"password"}, {"password", "email"}} {
		e := newEnv(t, keypage.Config{Recoverable: keypage.Always}, guard(factors))
		k := e.issue(recoverable).Key
		suspended := e.issue(func(r *apikey.IssueRequest) { r.Disabled = true }).Key
		for _, c := range []struct {
			name   string
			start  func() reply
			done   string
			status int
		}{
			{"create", func() reply {
				return e.get("/new").form("Create key").set("name", "New").press("Create key")
			}, "API key created", 200},
			{"edit", func() reply {
				return e.get(e.keyPath(k.ID, "/edit")).form("Save").set("name", "Renamed").press("Save")
			}, "Saved.", 200},
			{"resume", func() reply { return e.get(e.keyPath(suspended.ID, "")).press("Resume") }, "The key works again", 200},
			{"reveal", func() reply { return e.get(e.keyPath(k.ID, "")).press("Reveal key") }, "Key revealed", 200},
			{"regenerate", func() reply {
				return e.get(e.keyPath(k.ID, "/regenerate")).form("Save").set("overlap", "1").press("Save")
			}, "New secret key", 200},
			{"revoke", func() reply {
				return e.get(e.keyPath(k.ID, "/revoke")).form("Revoke").set("reason", "unneeded").press("Revoke")
			}, "The key is revoked, for ever", 200},
		} {
			t.Run(fmt.Sprint(c.name, factors), func(t *testing.T) {
				e.t = t
				mails := len(e.program.Mailbox.All())
				asked := c.start()
				factor, answer := factors[0], password
				if len(factors) > 1 {
					asked.shows(403, "Confirm that it is you", "Choose how")
					require.Len(t, e.program.Mailbox.All(), mails, "nothing is sent before the choice")
					factor = "email"
					asked = asked.press("Code by e-mail")
				}
				asked.shows(202, "Confirm that it is you")
				label := "Code"
				if factor == "password" {
					label = "Password"
				}
				asked.shows(202, label)
				require.Equal(t, factor == "email", asked.hasButton("Send another code"))
				if factor == "email" {
					require.Len(t, e.program.Mailbox.All(), mails+1)
					answer = e.code()
					wrong := asked.form("Confirm").set("approval.answer", wrongCode(answer)).press("Confirm").shows(403, "4 attempts left")
					wrong = wrong.form("Confirm").set("approval.answer", wrongCode(answer)).press("Confirm").shows(403, "3 attempts left")
					empty := wrong.form("Confirm").press("Confirm").shows(400, "Enter the answer")
					asked = empty
					answer = "  " + answer[:3] + " " + answer[3:] + " "
				}
				asked.form("Confirm").set("approval.answer", answer).press("Confirm").shows(c.status, c.done)
				if factor == "email" {
					require.Len(t, e.program.Mailbox.All(), mails+1)
				}
			})
			e.t = t
			e.program.Clock.Move(31 * time.Minute) // mails of an hour are few
		}
		// What is never guarded, and what is not while it is guarded for another reason.
		left := e.issue().Key
		e.get(e.keyPath(left.ID, "")).press("Suspend").shows(200, "The key is suspended")
		e.get(e.keyPath(left.ID, "/revoke")).form("Revoke").set("reason", "leaked").press("Revoke").shows(200, "The key is revoked")
		require.Equal(t, apikey.ReasonCompromised, e.key(left.ID).RevokeReason)
	}
}

// Another code, codes that have ended, and too many wrong ones.
func TestAnotherCode(t *testing.T) {
	e := newEnv(t, keypage.Config{}, guard([]string{"email"}))
	start := func() reply {
		return e.get("/new").form("Create key").set("name", "Shop").press("Create key").shows(202)
	}
	asked := start()
	first := e.code()
	resent := asked.press("Send another code").shows(202)
	require.Len(t, e.program.Mailbox.All(), 2)
	second := e.code()
	asked.form("Confirm").set("approval.answer", wrongCode(first)).press("Confirm")
	if first != second {
		require.NotEqual(t, 200, resent.form("Confirm").set("approval.answer", first).press("Confirm").status)
	}
	resent.form("Confirm").set("approval.answer", second).press("Confirm").shows(200, "API key created")
	require.Len(t, e.keys(), 1)

	// Too late, and answered too often: another approval begins, for the same form.
	e.program.Clock.Move(time.Hour)
	asked = start()
	e.program.Clock.Move(16 * time.Minute)
	late := asked.form("Confirm").set("approval.answer", e.code()).press("Confirm").shows(403, "The time for this confirmation is over", "Code by e-mail")
	asked = late.press("Code by e-mail").shows(202)
	require.Equal(t, "Shop", asked.form("Confirm").value("name"))
	var a reply
	for range 5 {
		a = asked.form("Confirm").set("approval.answer", wrongCode(e.code())).press("Confirm")
	}
	require.NotEqual(t, 200, a.status)
	require.NotEqual(t, 200, asked.form("Confirm").set("approval.answer", e.code()).press("Confirm").status, "five wrong answers end it")
	require.Len(t, e.keys(), 1)
	for range 10 {
		if a = start2(e); a.status != 202 {
			break
		}
		for range 5 {
			a = a.form("Confirm").set("approval.answer", wrongCode(e.code())).press("Confirm")
			if !a.hasButton("Confirm") {
				break
			}
		}
	}
	a.shows(429, "Too many attempts", "Try again in")
	require.Len(t, e.keys(), 1)
}

func start2(e *env) reply {
	return e.get("/new").form("Create key").set("name", "Shop").press("Create key")
}

// A code may be typed as people and their keyboards write it.
func TestCodesAsTyped(t *testing.T) {
	digits := func(zero rune) func(string) string {
		return func(code string) string {
			return strings.Map(func(r rune) rune { return zero + r - '0' }, code)
		}
	}
	for name, typed := range map[string]func(string) string{
		"spaces":     func(code string) string { return " " + code[:3] + " \u00a0" + code[3:] + "\t\n" },
		"full-width": digits('０'), "Bengali": digits('০'), "Arabic": digits('٠'), "Persian": digits('۰'), "Devanagari": digits('०'),
	} {
		e := newEnv(t, keypage.Config{}, guard([]string{"email"}))
		asked := start2(e).shows(202)
		q := asked.form("Confirm").request("Confirm")
		q.form.Set("approval.answer", typed(e.code()))
		a := e.do(q)
		require.Equal(t, 200, a.status, "%s: %s", name, a.words())
	}
}

// Cancel leads back to the form as it was filled in, with the same idempotency key; ten
// times make one mail.
func TestCancelKeepsTheForm(t *testing.T) {
	e := newEnv(t, keypage.Config{Recoverable: keypage.Ask, Terms: keypage.Terms{URL: "/terms"}}, guard([]string{"email"}))
	k := e.issue(named("Before")).Key
	for _, c := range []struct {
		name, path, button string
		fill               func(*form)
	}{
		{"create", "/new?mode=test", "Create key", func(f *form) {
			f.set("name", "Shop").set("scope", "payment:refund").set("product.balance", "write").set("expires", "2099-12-31").set("active").set("recoverable", "1")
		}},
		{"regenerate", e.keyPath(k.ID, "/regenerate"), "Save", func(f *form) {
			f.set("time", "at").set("at", "2098-03-04T05:06").set("overlap", "24").set("agree", "1")
		}},
		{"edit", e.keyPath(k.ID, "/edit"), "Save", func(f *form) {
			f.set("name", "After").set("scope").set("product.report", "read").set("expires", "2098-01-01").set("active")
		}},
		{"revoke", e.keyPath(k.ID, "/revoke"), "Revoke", func(f *form) { f.set("reason", "unneeded") }},
	} {
		e.program.Clock.Move(2 * time.Hour)
		mails := len(e.program.Mailbox.All())
		f := e.get(c.path).form(c.button)
		c.fill(f)
		want := f.values(c.button)
		for range 10 {
			asked := f.press(c.button).shows(202, "Confirm that it is you")
			f = asked.press("Cancel").shows(200).form(c.button)
			require.Equal(t, want, f.values(c.button), c.name)
		}
		require.Len(t, e.program.Mailbox.All(), mails+1, c.name)
		require.NotEqual(t, 429, f.press(c.button).form("Confirm").set("approval.answer", e.code()).press("Confirm").status, c.name)
	}
	// A new form has another key.
	require.NotEqual(t, e.get("/new").form("Create key").value("idempotent"), e.get("/new").form("Create key").value("idempotent"))
	// Forms that are none lead back to the key.
	k = e.issue(recoverable, func(r *apikey.IssueRequest) {}).Key
	e.program.Clock.Move(2 * time.Hour)
	e.get(e.keyPath(k.ID, "")).press("Reveal key").shows(202).press("Cancel").shows(200, "Regenerate key")
}

// The authenticator is set up, replaced and removed on the page, and approves.
func TestAuthenticator(t *testing.T) {
	e := newEnv(t, keypage.Config{}, guard([]string{"totp"}, apikey.ActionReveal, apikey.ActionDisable))
	k := e.issue(recoverable).Key
	a := e.get(e.keyPath(k.ID, "")).press("Reveal key").shows(403, "you have not set up a way to give it")
	a = a.follow("Factors").shows(200, "Authenticator app", "Code by e-mail", "Ready")
	setup := a.press("Set up")
	if setup.hasButton("Code by e-mail") {
		setup = setup.press("Code by e-mail").form("Confirm").set("approval.answer", e.code()).press("Confirm")
	}
	setup.shows(200, "Set up your authenticator", "Setup key")
	require.Contains(t, setup.text, `<svg class="qr"`)
	seed := "otpauth://totp/x?secret=" + setup.token()
	wrong := setup.form("Confirm").set("answer", "000000").press("Confirm").shows(403, "That is wrong")
	require.NotContains(t, wrong.text, "<svg")
	wrong.form("Confirm").press("Confirm").shows(403)
	wrong.form("Confirm").set("answer", e.program.Code(seed)).press("Confirm").shows(200, "Your authenticator is set up", "Set up")
	e.program.Clock.Move(time.Minute)
	asked := e.get(e.keyPath(k.ID, "")).press("Reveal key").shows(202, "Enter the code that your authenticator app shows")
	asked.form("Confirm").set("approval.answer", e.program.Code(seed)).press("Confirm").shows(200, "Key revealed")
	e.program.Clock.Move(time.Minute)
	removing := e.get("/factors").press("Remove")
	if removing.status == 202 {
		removing = removing.form("Confirm").set("approval.answer", e.program.Code(seed)).press("Confirm")
	}
	removing.shows(200, "Your authenticator was removed")
	e.program.Clock.Move(time.Minute)
	again := e.get("/factors")
	require.True(t, again.hasButton("Set up"))
	require.NotEqual(t, 500, again.press("Set up").status)
}

// The list is searched and walked; the log too.
func TestFiltersAndPages(t *testing.T) {
	e := newEnv(t, keypage.Config{}, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Limits.LiveKeys = 300 })
	now := e.program.Clock.Now()
	used := e.issue(named("used"))
	e.issue(named("expiring"), func(r *apikey.IssueRequest) { r.ExpiresAt = now.Add(5 * day) })
	e.issue(named("due"), func(r *apikey.IssueRequest) { r.RotateMonths = 1 })
	e.issue(named("suspended"), func(r *apikey.IssueRequest) { r.Disabled = true })
	e.issue(named("expired"), func(r *apikey.IssueRequest) { r.ExpiresAt = now.Add(time.Hour) })
	revoked := e.issue(named("revoked"))
	require.NoError(t, e.open().Revoke(e.as(anna), apikey.RevokeRequest{Key: revoked.Key.ID, Reason: apikey.ReasonRequested}))
	e.issue(named("testing"), func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
	e.use(used.Token.Reveal())
	e.program.Clock.Move(3 * day)
	names := func(a reply) (found []string) {
		for _, name := range strings.Fields("used expiring due suspended expired revoked testing") {
			if len(a.links(name)) > 0 {
				found = append(found, name)
			}
		}
		return found
	}
	for _, c := range []struct{ field, value, finds string }{
		{"name", "", "used expiring due suspended expired revoked"},
		{"name", "EXPIR", "expiring expired"},
		{"name", "nobody", ""},
		{"status", "usable", "used expiring due"},
		{"status", "expiring", "expiring"},
		{"status", "due", "due"},
		{"status", "suspended", "suspended"},
		{"status", "expired", "expired"},
		{"status", "revoked", "revoked"},
		{"used", "never", "expiring due suspended expired revoked"},
	} {
		f := e.get("").form("Filter")
		f.set(c.field, c.value)
		a := f.press("Filter").shows(200)
		require.Equal(t, strings.Fields(c.finds), append([]string{}, names(a)...), "%+v", c)
		require.Equal(t, c.value, a.form("Filter").value(c.field))
		if c.value != "" {
			a.follow("Show all")
		}
		if c.finds == "" {
			a.shows(200, "No key matches")
		}
	}
	require.Equal(t, []string{"testing"}, names(e.get("").follow("Test")))
	e.program.Clock.Move(100 * day)
	require.Contains(t, names(e.get("").form("Filter").set("used", "unused").press("Filter")), "used")

	// A relative filter keeps its instant while one walks.
	for i := range 60 {
		e.issue(named(fmt.Sprint("many ", i)), func(r *apikey.IssueRequest) { r.ExpiresAt = e.program.Clock.Now().Add(5 * day) })
	}
	page := e.get("?status=expiring&did=revoked_many&n=3").shows(200, "3 keys are revoked")
	e.program.Clock.Move(time.Second)
	next := page.follow("Next page").shows(200).lacks("are revoked")
	require.Equal(t, 60, strings.Count(page.text, `<th scope="row"`)+strings.Count(next.text, `<th scope="row"`))

	log := e.get("/log").shows(200, "Key created", "anna")
	require.NotEmpty(t, log.links("Next page"))
	log.follow("Next page").shows(200, "Key created")
	log.form("Filter").set("action", "key.revoke").press("Filter").shows(200, "Key revoked")
	log.form("Filter").set("person", "nobody").press("Filter").shows(200, "Nothing has happened yet")
	log.form("Filter").set("person", "anna").set("action", "key.issue").press("Filter").follow("Next page").shows(200, "Key created")
	log.follow("many 59").shows(200, "many 59")

	// The log of a key with many events, also where it was checked.
	k := e.issue(named("long")).Key
	for range 30 {
		require.NoError(t, e.open().Suspend(e.as(anna), k.ID))
		require.NoError(t, e.open().Resume(e.as(anna), apikey.ResumeRequest{Key: k.ID}))
	}
	one := e.get("/log?key=" + k.ID.String()).shows(200)
	one.follow("Next page").shows(200, "Key created", "long")
	one.press("Check the log").shows(200, "61 entries were checked").follow("Next page").shows(200, "Key created", "long")
	one.form("Filter").set("action", "key.resume").press("Filter").shows(200, "long", "Key resumed").lacks("Key created 1")
}

// Selected keys are revoked together, by typing how many they are.
func TestRevokeMany(t *testing.T) {
	e := newEnv(t, keypage.Config{})
	for _, name := range []string{"one", "two", "three"} {
		e.issue(named(name))
	}
	ids := func() (all []string) {
		for _, k := range e.keys()[:2] {
			all = append(all, k.ID.String())
		}
		return all
	}()
	e.get("").press("Revoke selected").shows(200, "API keys", "one", "two", "three")
	ask := e.get("").form("Revoke selected").set("id", ids...).press("Revoke selected").shows(200, "Revoke 2 keys", "two", "three").lacks("one")
	require.Empty(t, ask.form("Revoke").value("reason"))
	ask.form("Revoke").set("count", "2").press("Revoke").shows(400, "Say why")
	ask.form("Revoke").set("count", "3").set("reason", "leaked").press("Revoke").shows(400, "Type 2")
	ask.form("Revoke").set("count", "").set("reason", "leaked").press("Revoke").shows(400, "Type 2")
	kept := ask.form("Revoke").set("count", "3").set("reason", "unneeded").press("Revoke").shows(400, "Type 2")
	require.Equal(t, "unneeded", kept.form("Revoke").value("reason"), "what was chosen stays")
	q := ask.form("Revoke").set("count", "2").request("Revoke")
	q.form.Set("reason", "because")
	e.do(q).shows(400, "Say why")
	ask.press("Cancel").shows(200, "API keys")
	for _, k := range e.keys() {
		require.Equal(t, apikey.Active, k.State)
	}
	ask.form("Revoke").set("count", " 2 ").set("reason", "leaked").press("Revoke").shows(200, "2 keys are revoked")
	require.Equal(t, []apikey.State{apikey.Revoked, apikey.Revoked, apikey.Active}, []apikey.State{e.keys()[0].State, e.keys()[1].State, e.keys()[2].State})
	require.Equal(t, apikey.ReasonCompromised, e.keys()[0].RevokeReason)

	// Twice the same is one; one that is not there stops all.
	q = e.get("").form("Revoke selected").request("Revoke selected")
	last := e.keys()[2].ID.String()
	q.form["id"] = []string{last, last, "x", ids[0]}
	e.do(q).shows(200, "Revoke 1 key")
	q.form["id"] = []string{last, "01890a5d-ac96-774b-bcce-b302099a8057"}
	e.do(q).shows(404, "Not found")

	// Where it is guarded, it goes one by one, but for a leak.
	e = newEnv(t, keypage.Config{}, guard([]string{"email"}))
	k := e.issue().Key
	ask = e.get("").form("Revoke selected").set("id", k.ID.String()).press("Revoke selected")
	ask.shows(200, "open them one by one")
	q = ask.form("Revoke").set("count", "1").request("Revoke")
	q.form.Set("reason", "unneeded")
	e.do(q).shows(400, "open them one by one")
	require.Equal(t, apikey.Active, e.key(k.ID).State)
	ask.follow("Shop").shows(200, "Why do you revoke it?")
	ask.form("Revoke").set("count", "1").set("reason", "leaked").press("Revoke").shows(200, "1 key is revoked")
}

// A form of many keys costs a bounded number of reads, and what hangs is given up for all
// keys together.
func TestRevokeManyIsBounded(t *testing.T) {
	w := &watched{}
	e := newEnv(t, keypage.Config{}, w.change(), func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		c.Limits.LiveKeys, c.Limits.IssuesAnHour = 1000, 1000
	})
	e.issue()
	q := e.get("").form("Revoke selected").request("Revoke selected")
	q.form["id"] = nil
	for range 130 {
		q.form["id"] = append(q.form["id"], e.issue().Key.ID.String())
	}
	before := w.gets.Load()
	e.do(q).shows(200, "Revoke 100 keys")
	require.Equal(t, int64(100), w.gets.Load()-before)
}

// The log names keys, reads each of them once, and is shown while the reads hang.
func TestLogNamesKeys(t *testing.T) {
	w := &watched{}
	e := newEnv(t, keypage.Config{}, w.change())
	shop, other := e.issue(named("Shop <1>")).Key, e.issue(named("Other")).Key
	for range 3 {
		require.NoError(t, e.open().Suspend(e.as(anna), shop.ID))
		require.NoError(t, e.open().Resume(e.as(anna), apikey.ResumeRequest{Key: shop.ID}))
	}
	before := w.gets.Load()
	log := e.get("/log").shows(200, "Other")
	require.Equal(t, int64(2), w.gets.Load()-before)
	require.Equal(t, 7, strings.Count(log.text, "<bdi>Shop &lt;1&gt;</bdi></a>"))
	log.follow("Other").shows(200, other.ID.String())

	before = w.gets.Load()
	e.get("/log?key="+shop.ID.String()).shows(200, "Shop <1>")
	require.Equal(t, int64(1), w.gets.Load()-before)

	// Whoever may read the log and no key sees IDs, and leaves no refusal in the log.
	var denied atomic.Int64
	logOnly := newEnv(t, keypage.Config{}, func(s *apikey.Settings, c *apikey.ManagerConfig) {
		c.Policy = noKeys{}
		s.Trace = &apikey.Trace{Denied: func(apikey.Actor, apikey.Action, apikey.KeyID, error) { denied.Add(1) }}
	})
	k := logOnly.issue(named("Secret name")).Key
	logOnly.user = viewer
	for range 3 {
		logOnly.get("/log").shows(200, "Key created", k.ID.String()).lacks("Secret name", "Refused")
	}
	require.Zero(t, denied.Load())

	w.hangs.Store(true)
	from := time.Now()
	e.get("/log").shows(200, "Key created", shop.ID.String(), other.ID.String()).lacks("Other")
	require.Less(t, time.Since(from), 5*time.Second)
}

// A viewer sees no button that would be refused, and is refused what they send.
func TestViewer(t *testing.T) {
	e := newEnv(t, keypage.Config{}, func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.Policy = readers{} })
	k := e.issue(recoverable).Key
	edit := e.get(e.keyPath(k.ID, "/edit")).form("Save").set("name", "Other").request("Save")
	e.user = viewer
	e.get("").shows(200, "Shop").lacks("New API key", "Revoke selected")
	e.get(e.keyPath(k.ID, "")).shows(200).lacks("Edit", "Suspend", "Resume", "Reveal", "Regenerate", "Revoke")
	for _, form := range []string{"/new", e.keyPath(k.ID, "/edit"), e.keyPath(k.ID, "/regenerate"), e.keyPath(k.ID, "/revoke")} {
		e.get(form).shows(403, "may not").lacks("Name", "Save")
	}
	e.get("").follow("Activity log").shows(200, "Key created")
	edit.form.Set("tag", e.get("/log?key="+k.ID.String()).form("Check the log").value("tag"))
	e.do(edit).shows(403, "may not")
	require.Equal(t, "Shop", e.key(k.ID).Name)
	e.user = "acc_1/nobody/none"
	e.get("").shows(403, "You may not do this")

	// Hide leaves out buttons of those who may.
	hidden := newEnv(t, keypage.Config{Hide: []apikey.Action{apikey.ActionReveal, apikey.ActionSuspend, apikey.ActionIssue, apikey.ActionReadEvents, apikey.ActionRevoke}})
	k = hidden.issue(recoverable).Key
	hidden.get(hidden.keyPath(k.ID, "")).shows(200, "Edit").lacks("Reveal key", "Suspend", "Activity log", "Revoke key")
	hidden.get("").lacks("New API key", "Activity log", "Revoke selected")
	hidden.get("/new").shows(200, "New API key") // Hide hides buttons alone
}

// noKeys lets viewers read the log alone.
type noKeys struct{ apikey.RolePolicy }

func (p noKeys) Authorize(ctx context.Context, a apikey.Actor, act apikey.Action, k apikey.Info) error {
	if a.Role == "viewer" && act == apikey.ActionReadEvents {
		return nil
	}
	if a.Role == "viewer" {
		return errors.New("viewers read the log")
	}
	return p.RolePolicy.Authorize(ctx, a, act, k)
}

// readers lets viewers read.
type readers struct{ apikey.RolePolicy }

func (p readers) Authorize(ctx context.Context, a apikey.Actor, act apikey.Action, k apikey.Info) error {
	if a.Role == "viewer" && (act == apikey.ActionRead || act == apikey.ActionReadEvents) {
		return nil
	}
	return p.RolePolicy.Authorize(ctx, a, act, k)
}

// Terms are agreed to before a key is regenerated, and who has agreed is recorded before.
func TestTerms(t *testing.T) {
	var agreed []string
	var refuse error
	e := newEnv(t, keypage.Config{Terms: keypage.Terms{Version: "7", URL: "https://shop.example/terms", OnAgree: func(_ *requestOf, a apikey.Actor, version string) error {
		agreed = append(agreed, a.ID+" "+version)
		return refuse
	}}})
	k := e.issue().Key
	form := func() *form { return e.get(e.keyPath(k.ID, "/regenerate")).form("Save") }
	form().press("Save").shows(400, "Agree to the terms")
	require.Empty(t, agreed)
	refuse = errors.New("ledger 10.0.3.9: away")
	form().set("agree", "1").press("Save").shows(503, "Not available").lacks("10.0.3")
	require.Equal(t, 1, e.key(k.ID).Credentials.Len())
	require.Contains(t, e.log.String(), "10.0.3.9")
	refuse = nil
	form().set("agree", "1").press("Save").shows(200, "New secret key")
	require.Equal(t, []string{"anna 7", "anna 7"}, agreed)
}

// One pair: an ID and a secret that is made once, and then only reset.
func TestSinglePair(t *testing.T) {
	e := newEnv(t, keypage.Config{Layout: keypage.SinglePair})
	page := e.get("").shows(200, "Get App Secret").lacks("Reset", "New API key")
	first := page.press("Get App Secret").shows(200, "API key created")
	require.Equal(t, []string{"balance=write", "card:tokenize", "payment:charge", "payment:refund", "report=write"}, abilities(e.keys()[0]))
	page.press("Get App Secret").shows(409, "A reset makes a new one")
	require.Len(t, e.keys(), 1)
	pair := first.press("Done").shows(200, "App ID", "Copy App ID", "A reset makes a new App Secret").lacks("Get App Secret")
	second := pair.press("Reset").form("Save").press("Save").shows(200, "New secret key")
	require.False(t, e.works(first.token()))
	require.True(t, e.works(second.token()))
	e.get("?mode=test").shows(200, "Get App Secret").press("Get App Secret").shows(200, "Test")
	require.Len(t, e.keys(), 2)

	// A revoked one may be followed by another, also twice.
	for range 2 {
		k := e.get("").follow("Details")
		k.press("Revoke key").form("Revoke").set("reason", "leaked").press("Revoke")
		e.get("").press("Get App Secret").shows(200, "API key created")
	}
	require.Len(t, e.keys(), 4)
	guarded := newEnv(t, keypage.Config{Layout: keypage.SinglePair}, guard([]string{"email"}))
	asked := guarded.get("").press("Get App Secret").shows(202)
	asked.press("Cancel").shows(200, "Get App Secret")
	asked.form("Confirm").set("approval.answer", guarded.code()).press("Confirm").shows(200, "API key created")
}

// A region for each product.
func TestByProduct(t *testing.T) {
	e := newEnv(t, keypage.Config{Layout: keypage.ByProduct, Messages: messages{"en.json": `{"ability.balance.title": "Balances", "ability.balance=write.title": "Balances, write"}`}})
	page := e.get("").shows(200, "Balances", "report", "There is no key for this product yet")
	f := page.follow("Generate").shows(200, "Generate a key").form("Continue")
	require.Equal(t, []string{"Balances", "write"}, []string{f.value("name"), f.value("product.balance")})
	require.NotContains(t, f.reply.text, "product.report")
	made := f.press("Continue").shows(200, "API key created")
	require.Equal(t, []string{"balance=write"}, abilities(e.keys()[0]))
	made.press("Done").shows(200, "Balances, write")
	e.get("").shows(200, "Balances")
}
