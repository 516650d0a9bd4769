package keypage

import (
	"context"
	"errors"
	"html/template"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
	"rsc.io/qr"
)

// logData is the data of the activity log.
type logData struct {
	Rows    []logRow
	Next    string
	Actions []option
	Person  string
	Key     *row // of one key; nil: of the account
	Checked string
	Sound   bool
}

// logRow is one event.
type logRow struct {
	apikey.Event
	What   string
	Who    string
	Fields []string
	KeyURL string
	Name   string // of the key; empty: it could not be read
}

// logActions are those that the log is filtered by.
var logActions = []apikey.Action{
	apikey.ActionIssue, apikey.ActionProvision, apikey.ActionUpdate, apikey.ActionSuspend, apikey.ActionResume, apikey.ActionRotate,
	apikey.ActionCancelRotation, apikey.ActionRetire, apikey.ActionReveal, apikey.ActionRevoke, apikey.ActionRevokeToken,
	apikey.ActionConfirmEnrollment, apikey.ActionDisable, apikey.ActionLock, apikey.ActionLiftLock,
}

func (v *visit) log() screen { return v.logOf(nil, "", false) }

// logOf is the log of the account or, if the query names it, of a key.
func (v *visit) logOf(k *apikey.Info, checked string, sound bool) screen {
	q := v.r.URL.Query()
	req := apikey.EventsRequest{Cursor: apikey.Cursor(q.Get("cursor")), Limit: pageOf, Actor: q.Get("person")}
	d := logData{Person: q.Get("person"), Checked: checked, Sound: sound}
	if text := q.Get("key"); text != "" && k == nil {
		id, err := apikey.ParseKeyID(text)
		if err != nil { // the log of all keys would look like that of one
			return v.refused(apikey.ErrNotFound)
		}
		info, err := v.Manager.Get(v.guest.Context, id)
		if err != nil {
			return v.refused(err)
		}
		k = &info
	}
	if k != nil {
		r := v.row(*k)
		req.Key, d.Key = k.ID, &r
		q.Set("key", k.ID.String()) // the next page is of this key too, also after a check
	}
	chosen := apikey.Action(q.Get("action"))
	d.Actions = []option{{"", v.T("log.any"), chosen == ""}}
	for _, a := range logActions {
		d.Actions = append(d.Actions, option{string(a), v.T("action." + string(a)), a == chosen})
		if a == chosen {
			req.Actions = []apikey.Action{a}
		}
	}
	list, err := v.Manager.Events(v.guest.Context, req)
	if err != nil {
		return v.refused(err)
	}
	for _, e := range list.Events {
		d.Rows = append(d.Rows, v.logRow(e))
	}
	v.nameKeys(d.Rows, k)
	if list.Next != "" {
		q.Set("cursor", string(list.Next))
		d.Next = v.url("/log") + "?" + q.Encode()
	}
	return screen{name: "log", title: v.T("log.title"), data: d}
}

func (v *visit) logRow(e apikey.Event) logRow {
	r := logRow{Event: e, What: string(e.Action), Who: e.Actor.ID}
	if name := "action." + string(e.Action); v.text.has(name) {
		r.What = v.T(name)
	}
	if v.Config.People != nil {
		if name := v.Config.People(e.Actor.ID); name != "" {
			r.Who = name
		}
	}
	if e.Actor.IsOperator() {
		r.Who = v.T("log.operator")
	}
	for _, field := range e.Changed {
		if text := v.changed(field); text != "" {
			r.Fields = append(r.Fields, text)
		}
	}
	if !e.Key.IsZero() {
		r.KeyURL = v.keyURL(e.Key, "")
	}
	return r
}

// namesTime is how long the names of a page of the log are read. A key whose name was not
// reached shows its ID: the log is read just when something is slow.
const namesTime = time.Second

// nameKeys fills in the names of the keys, each read once.
func (v *visit) nameKeys(rows []logRow, only *apikey.Info) {
	// Whoever may read the log alone is not refused fifty times: a refusal is an entry of it.
	if v.Manager.May(v.guest.Context, apikey.ActionRead, apikey.Info{Account: v.guest.Account}) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(v.guest.Context, namesTime)
	defer cancel()
	names := map[apikey.KeyID]string{}
	if only != nil {
		names[only.ID] = v.Name(only.Name)
	}
	for i, row := range rows {
		if row.Key.IsZero() {
			continue
		}
		name, read := names[row.Key]
		if !read && ctx.Err() == nil {
			if k, err := v.Manager.Get(ctx, row.Key); err == nil {
				name = v.Name(k.Name)
			}
			names[row.Key] = name
		}
		rows[i].Name = name
	}
}

// changed says what an event is about: a field of a key, or, as in "factor:totp", something
// that is no key. Empty: the action says it already.
func (v *visit) changed(what string) string {
	kind, value, about := strings.Cut(what, ":")
	switch {
	case about && kind == "approves" && v.text.has("action."+value):
		return v.T("action." + value)
	case about && kind == "factor":
		return v.factorText(value, "title")
	case about && kind == "actor" && v.Config.People != nil:
		return marked(v.Config.People(value))
	case about:
		return marked(value)
	case what == "revoked_at":
		return ""
	case v.text.has("field." + what):
		return v.T("field." + what)
	}
	return marked(what)
}

// check verifies the events of one key.
func (v *visit) check() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	report, err := v.Manager.VerifyEvents(v.guest.Context, k.ID)
	if err != nil {
		return v.refused(err)
	}
	sound := report.Broken == nil && report.Unverifiable == 0
	text := v.text.count("log.sound", report.Events)
	switch {
	case report.Broken != nil:
		text = v.T("log.broken")
	case report.Unverifiable > 0:
		text = v.text.count("log.unverifiable", report.Unverifiable)
	}
	return v.logOf(&k, text, sound)
}

// factorsData is the data of the screen of one's own factors.
type factorsData struct {
	Factors []factorData
	Did     string
}

type factorData struct {
	apikey.FactorRule
	Title    string
	Enrolled bool
}

func (v *visit) factors() screen {
	enrolled, err := v.Manager.Enrolled(v.guest.Context)
	if err != nil {
		return v.refused(err)
	}
	d := factorsData{Did: v.did(v.r.URL.Query())}
	for _, f := range v.rules.Factors {
		d.Factors = append(d.Factors, factorData{f, v.factorText(f.Name, "title"), slices.Contains(enrolled, f.Name)})
	}
	return screen{name: "factors", title: v.T("factors"), data: d}
}

// enrollData is the data of the screen that sets up an authenticator.
type enrollData struct {
	Factor string
	URI    string
	Setup  string // to type where no camera is
	QR     template.HTML
	Wrong  string
}

// enroll sets up a factor, takes its first code, or takes the factor away.
func (v *visit) enroll() screen {
	factor := v.r.PathValue("factor")
	if !slices.ContainsFunc(v.rules.Factors, func(f apikey.FactorRule) bool { return f.Name == factor }) {
		return v.notFound() // the next form would go to a path that somebody else has written
	}
	switch v.form.Get("do") {
	case "confirm":
		return v.confirmEnrollment(factor)
	case "disable":
		req := apikey.DisableRequest{Factor: factor}
		return v.approve(request{
			Guarded: req,
			do:      func(g apikey.Grant) error { req.Grant = g; return v.Manager.Disable(v.guest.Context, req) },
			done:    func() screen { return screen{to: v.url("/factors?did=disabled")} },
			form:    v.backTo(v.url("/factors")),
		})
	}
	req := apikey.EnrollRequest{Factor: factor}
	var e apikey.Enrollment
	return v.approve(request{
		Guarded: req,
		do: func(g apikey.Grant) (err error) {
			req.Grant = g
			e, err = v.Manager.Enroll(v.guest.Context, req)
			return err
		},
		done: func() screen { return v.enrollScreen(e.Factor, e.URI()) },
		form: v.backTo(v.url("/factors")),
	})
}

func (v *visit) enrollScreen(factor, uri string) screen {
	d := enrollData{Factor: factor, URI: uri, Setup: uri, QR: drawn(uri)}
	if u, err := url.Parse(uri); err == nil && u.Query().Get("secret") != "" {
		d.Setup = u.Query().Get("secret")
	}
	return screen{name: "enroll", title: v.T("enroll.title"), data: d}
}

func (v *visit) confirmEnrollment(factor string) screen {
	answer := v.form.Get("answer")
	err := apikey.ErrWrongAnswer
	if answer != "" {
		err = v.Manager.ConfirmEnrollment(v.guest.Context, factor, answer)
	}
	if err == nil {
		return screen{to: v.url("/factors?did=enrolled")}
	}
	if errors.Is(err, apikey.ErrWrongAnswer) { // the code of the setup key is not drawn again
		return screen{name: "enroll", title: v.T("enroll.title"), data: enrollData{Factor: factor, Wrong: v.T("problem.wrong_answer.detail")}, status: 403}
	}
	return v.refused(err)
}

// drawn is a QR code as an image of one path: nothing is fetched.
func drawn(text string) template.HTML {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return ""
	}
	var path strings.Builder
	for y := range code.Size {
		for x := range code.Size {
			if code.Black(x, y) {
				path.WriteString("M" + strconv.Itoa(x+4) + " " + strconv.Itoa(y+4) + "h1v1h-1z")
			}
		}
	}
	size := strconv.Itoa(code.Size + 8)
	return template.HTML(`<svg class="qr" viewBox="0 0 ` + size + ` ` + size + `" role="img" aria-label="QR"><path class="paper" d="M0 0h` + size + `v` + size + `H0z"/><path d="` + path.String() + `"/></svg>`)
}
