package keypage

import (
	"errors"
	"net/url"
	"strconv"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/act"
)

// keyData is the data of the screen of one key.
type keyData struct {
	row
	Did        string
	Tokens     []tokenData
	Plan       *plan // a rotation that waits, or two tokens that work
	MayReveal  bool
	MaySuspend bool
	MayResume  bool
	MayEdit    bool
	MayCancel  bool
	MayRetire  bool
	MayLog     bool
	Meta       []field
}

// tokenData is one token of a key, as its hint.
type tokenData struct {
	apikey.CredentialInfo
	State string // current, waiting, overlapping, ended
}

// plan is what becomes of an old and a new token.
type plan struct {
	Old, New time.Time // until and from when they work; zero: for ever, at once
}

// keyIn reads the key that the path names.
func (v *visit) keyIn() (apikey.Info, error) {
	id, err := apikey.ParseKeyID(v.r.PathValue("id"))
	if err != nil {
		return apikey.Info{}, apikey.ErrNotFound
	}
	return v.Manager.Get(v.guest.Context, id)
}

func (v *visit) keyURL(id apikey.KeyID, rest string) string {
	return v.url("/key/" + id.String() + rest)
}

func (v *visit) key() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	d := keyData{
		row: v.row(k), Did: v.did(v.r.URL.Query()),
		MayReveal:  k.Recoverable && k.State == apikey.Active && v.may(apikey.ActionReveal, k),
		MaySuspend: k.State == apikey.Active && v.may(apikey.ActionSuspend, k),
		MayResume:  k.State == apikey.Suspended && v.may(apikey.ActionResume, k),
		MayEdit:    k.State != apikey.Revoked && v.may(apikey.ActionUpdate, k),
		MayRetire:  v.may(apikey.ActionRetire, k),
		MayLog:     v.may(apikey.ActionReadEvents, apikey.Info{Account: v.guest.Account}),
	}
	d.MayRevoke = k.State != apikey.Revoked && v.may(apikey.ActionRevoke, k)
	d.MayRotate = k.State != apikey.Revoked && v.may(apikey.ActionRotate, k)
	d.Tokens, d.Plan = tokensOf(k, v.Now())
	if k.State == apikey.Revoked { // no token works, whatever was planned
		d.Plan, d.MayRetire = nil, false
		for i := range d.Tokens {
			d.Tokens[i].State = "ended"
		}
	}
	d.MayCancel = d.Plan != nil && !d.Plan.New.IsZero() && v.may(apikey.ActionCancelRotation, k)
	return screen{name: "key", title: v.Name(k.Name), data: d}
}

// tokensOf says what each token of a key does now.
func tokensOf(k apikey.Info, now time.Time) (tokens []tokenData, p *plan) {
	for c := range k.Credentials.All() {
		t := tokenData{c, "current"}
		switch {
		case c.Ended || !c.NotAfter.IsZero() && !now.Before(c.NotAfter):
			t.State = "ended"
		case now.Before(c.NotBefore):
			t.State = "waiting"
		case c.ID != k.Credential || !c.NotAfter.IsZero():
			t.State = "overlapping"
		}
		tokens = append(tokens, t)
	}
	for _, t := range tokens {
		switch t.State {
		case "waiting":
			// It begins to work a few seconds before the chosen minute (ManagerConfig.Skew).
			p = &plan{New: t.NotBefore.Add(time.Minute - 1).Truncate(time.Minute)}
		case "overlapping":
			if p == nil {
				p = &plan{}
			}
			p.Old = t.NotAfter
		}
	}
	return tokens, p
}

// secretData is the data of a screen that shows a secret.
type secretData struct {
	Secret   string
	Once     bool // it is never shown again
	Hide     int  // seconds after which it is hidden; 0: never
	Key      row
	Env      string // the name of a variable in a .env file
	From     time.Time
	Back     string
	BackMode string // for the list
}

// tokenScreen shows a new token: a secret one once, and a publishable one where its key is.
func (v *visit) tokenScreen(title string, issued apikey.Issued) screen {
	if issued.Key.Kind == apikey.Publishable {
		return v.after(issued.Key.ID, "public")
	}
	return v.secretScreen(title, issued.Token, issued.Key, 0)
}

func (v *visit) secretScreen(title string, token apikey.Token, k apikey.Info, hide time.Duration) screen {
	d := secretData{
		Secret: token.Reveal(), Once: hide == 0, Hide: int(hide / time.Second), Key: v.row(k), Back: v.keyURL(k.ID, ""),
		Env: "API_KEY",
	}
	if k.Mode == apikey.Test {
		d.Env = "TEST_API_KEY"
	}
	if v.Layout == SinglePair {
		d.Back, d.BackMode = v.url(""), k.Mode.String()
	}
	return screen{name: "secret", title: v.T(title), data: d}
}

// after is where a change without a result of its own leads.
func (v *visit) after(id apikey.KeyID, did string) screen {
	return screen{to: v.keyURL(id, "?did="+did)}
}

// plainly makes a change that is never approved.
func (v *visit) plainly(did string, do func(apikey.Info) error) screen {
	k, err := v.keyIn()
	if err == nil {
		err = do(k)
	}
	if err != nil {
		return v.refused(err)
	}
	return v.after(k.ID, did)
}

func (v *visit) suspend() screen {
	return v.plainly("suspended", func(k apikey.Info) error { return v.Manager.Suspend(v.guest.Context, k.ID) })
}

func (v *visit) cancelRotation() screen {
	return v.plainly("cancelled", func(k apikey.Info) error { return v.Manager.CancelRotation(v.guest.Context, k.ID) })
}

func (v *visit) retire() screen {
	return v.plainly("retired", func(k apikey.Info) error {
		credential, err := apikey.ParseCredentialID(v.form.Get("credential"))
		if err != nil {
			return apikey.ErrNotFound
		}
		return v.Manager.Retire(v.guest.Context, apikey.RetireRequest{Key: k.ID, Credential: credential})
	})
}

func (v *visit) resume() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	req := apikey.ResumeRequest{Key: k.ID}
	return v.approve(request{
		Guarded: req,
		do:      func(g apikey.Grant) error { req.Grant = g; return v.Manager.Resume(v.guest.Context, req) },
		done:    func() screen { return v.after(k.ID, "resumed") },
		form:    v.backTo(v.keyURL(k.ID, "")),
	})
}

// backTo is the form of a request that has none of its own: the screen that it was made on.
func (v *visit) backTo(address string) func(problems) screen {
	return func(wrong problems) screen {
		if texts := wrong[""]; len(texts) > 0 {
			s := v.message("invalid_request", 409)
			m := s.data.(message)
			m.Detail, m.Link = texts[0], address
			s.data = m
			return s
		}
		return screen{to: address}
	}
}

func (v *visit) reveal() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	req := apikey.RevealRequest{Key: k.ID}
	var shown apikey.Revealed
	return v.approve(request{
		Guarded: req,
		do: func(g apikey.Grant) (err error) {
			req.Grant = g
			shown, err = v.Manager.Reveal(v.guest.Context, req)
			return err
		},
		done: func() screen { return v.secretScreen("secret.revealed", shown.Token, shown.Key, shown.HideAfter) },
		form: v.backTo(v.keyURL(k.ID, "")),
	})
}

// revokeData is the data of the screen that revokes a key.
type revokeData struct {
	row
	Reason string
	Wrong  string
}

func (v *visit) revokeKey() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	return v.permitted(apikey.ActionRevoke, k, v.revokeForm(k, "", 0))
}

func (v *visit) revokeForm(k apikey.Info, wrong string, status int) screen {
	d := revokeData{row: v.row(k), Reason: v.form.Get("reason"), Wrong: wrong}
	return screen{name: "revoke", title: v.T("revoke.title"), data: d, status: status}
}

// isReason reports whether a form has one of the two reasons.
func isReason(chosen string) bool { return chosen == "unneeded" || chosen == "leaked" }

// reasonOf is the reason of a revocation. That of a leak is never guarded: who has found
// their key in public must not wait for a mail.
func reasonOf(chosen string) apikey.Reason {
	if chosen == "leaked" {
		return apikey.ReasonCompromised
	}
	return apikey.ReasonRequested
}

func (v *visit) revoke() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	chosen := v.form.Get("reason")
	if !isReason(chosen) {
		return v.revokeForm(k, v.T("revoke.reason_required"), 400)
	}
	req := apikey.RevokeRequest{Key: k.ID, Reason: reasonOf(chosen)}
	return v.approve(request{
		Guarded: req,
		do:      func(g apikey.Grant) error { req.Grant = g; return v.Manager.Revoke(v.guest.Context, req) },
		done:    func() screen { return v.after(k.ID, "revoked") },
		form: func(wrong problems) screen {
			if len(wrong[""]) > 0 {
				return v.revokeForm(k, wrong[""][0], 409)
			}
			return v.revokeForm(k, "", 0)
		},
	})
}

// regenerateData is the data of the form that gives a key a new token.
type regenerateData struct {
	row
	Form     url.Values
	Wrong    problems
	Overlaps []option
	Offsets  []option // the two times that a clock which is put back shows the same
	Replace  bool     // something waits or overlaps, and will be replaced
	Zone     string
	Terms    Terms
	Version  string
}

// option is one line of a select element.
type option struct {
	Value, Text string
	Chosen      bool
}

func (v *visit) regenerateKey() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	return v.permitted(apikey.ActionRotate, k, v.regenerateForm(k, nil, nil, 0))
}

func (v *visit) regenerateForm(k apikey.Info, wrong problems, offsets []option, status int) screen {
	d := regenerateData{row: v.row(k), Form: values(v.form), Wrong: wrong, Offsets: offsets, Terms: v.Config.Terms, Zone: v.zone.String()}
	d.Version = strconv.FormatUint(k.Version, 10)
	if kept := v.form.Get("version"); kept != "" {
		d.Version = kept // the one that the form was drawn for: a change since then is noticed
	}
	if d.Form.Get("time") == "" {
		d.Form.Set("time", "now")
	}
	for _, hours := range []int{0, 1, 24, 72, 168} {
		length := time.Duration(hours) * time.Hour
		if length > v.rules.Limits.Overlap {
			break
		}
		o := option{Value: strconv.Itoa(hours), Text: v.T("regenerate.no_overlap"), Chosen: d.Form.Get("overlap") == strconv.Itoa(hours)}
		if hours > 0 {
			o.Text = v.span(length)
		}
		d.Overlaps = append(d.Overlaps, o)
	}
	_, p := tokensOf(k, v.Now())
	d.Replace = p != nil
	return screen{name: "regenerate", title: v.T("regenerate.title"), data: d, status: status}
}

func (v *visit) regenerate() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	version, _ := strconv.ParseUint(v.form.Get("version"), 10, 64)
	if version == 0 {
		return v.message("version_mismatch", 412)
	}
	req, offsets, wrong := v.rotationIn(k, version)
	if len(wrong) > 0 && !v.form.Has("cancel") {
		return v.regenerateForm(k, wrong, offsets, 400)
	}
	var issued apikey.Issued
	return v.approve(request{
		Guarded: req,
		do: func(g apikey.Grant) (err error) {
			if v.Config.Terms.OnAgree != nil && v.Config.Terms.URL != "" {
				if err := v.Config.Terms.OnAgree(v.r, v.guest.Actor, v.Config.Terms.Version); err != nil {
					return errors.Join(apikey.ErrUnavailable, err)
				}
			}
			req.Grant = g
			issued, err = v.Manager.Rotate(v.guest.Context, req)
			return v.lost(err, k.ID, version)
		},
		done: func() screen {
			s := v.tokenScreen("secret.new", issued)
			if d, shown := s.data.(secretData); shown {
				d.From = req.At
				s.data = d
			}
			return s
		},
		fields: []string{"at", "overlap", "overlap_seconds", "agree"},
		form: func(wrong problems) screen {
			status := 0
			if len(wrong) > 0 {
				status = 400
			}
			return v.regenerateForm(k, wrong, offsets, status)
		},
	})
}

// rotationIn reads the form: what is asked for, the offsets to choose from if a time comes
// twice in the zone, and what is wrong.
func (v *visit) rotationIn(k apikey.Info, version uint64) (req apikey.RotateRequest, offsets []option, wrong problems) {
	wrong = problems{}
	req = apikey.RotateRequest{Key: k.ID, IfVersion: version, Replace: v.form.Has("replace")}
	hours, err := strconv.Atoi(v.form.Get("overlap"))
	if v.form.Get("overlap") != "" && (err != nil || hours < 0 || hours > 24*3650) {
		wrong["overlap"] = []string{v.T("invalid.malformed")}
	}
	req.Overlap = time.Duration(hours) * time.Hour
	if v.form.Get("time") == "at" {
		req.At, offsets, wrong["at"] = v.instantIn("at", "offset")
		if len(wrong["at"]) == 0 {
			delete(wrong, "at")
		}
	}
	if v.Config.Terms.URL != "" && v.form.Get("agree") == "" {
		wrong["agree"] = []string{v.T("regenerate.agree_required")}
	}
	return req, offsets, wrong
}

// instantIn reads a date with a time of day in the account's zone. One that the zone skips
// is refused, and of one that it has twice the person chooses which.
func (v *visit) instantIn(name, chooser string) (t time.Time, offsets []option, wrong []string) {
	found, ok := instants(v.form.Get(name), v.zone)
	switch {
	case v.form.Get(name) == "":
		return t, nil, []string{v.T("invalid.required")}
	case !ok:
		return t, nil, []string{v.T("invalid.malformed", "value", marked(v.form.Get(name)))}
	case len(found) == 0:
		return t, nil, []string{v.T("time.skipped")}
	case len(found) == 1:
		return found[0], nil, nil
	}
	for _, f := range found {
		offset := f.Format("-07:00")
		offsets = append(offsets, option{offset, v.dateTime(f) + " (UTC" + offset + ")", v.form.Get(chooser) == offset})
		if v.form.Get(chooser) == offset {
			t = f
		}
	}
	if t.IsZero() {
		wrong = []string{v.T("time.twice")}
	}
	return t, offsets, wrong
}

// errLost is a request that was done before by the same person, and its answer lost.
type errLost struct{ id apikey.KeyID }

func (e errLost) Error() string { return "the answer was lost" }

// lost tells whether a version has passed because this person has made this very rotation.
func (v *visit) lost(err error, id apikey.KeyID, version uint64) error {
	var passed *apikey.VersionError
	if errors.As(err, &passed) && act.Did(v.guest.Context, v.Manager, v.guest.Actor, id, version, apikey.ActionRotate) {
		return errLost{id}
	}
	return err
}

// lostScreen says that a request was done and its secret did not arrive. The one thing to
// do is another rotation: only a hash of the lost secret is stored.
func (v *visit) lostScreen(id apikey.KeyID) screen {
	s := v.message("lost", 409)
	m := s.data.(message)
	m.Link, m.LinkText = v.keyURL(id, "/regenerate"), v.T("regenerate.title")
	s.data = m
	return s
}
