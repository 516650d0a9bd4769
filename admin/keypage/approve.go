package keypage

import (
	"cmp"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/act"
	"github.com/go-apikey/apikey/httpauth"
)

// request is one change that a form asks for.
type request struct {
	apikey.Guarded
	do   func(apikey.Grant) error
	done func() screen         // after it was done
	form func(problems) screen // the form again, with what is wrong
	// fields are those beside which the form shows what is wrong with them.
	fields []string
}

// problems are what is wrong with a form, by the name of the field; "" is about no field.
type problems map[string][]string

func (p problems) add(field, text string) { p[field] = append(p[field], text) }

// above puts the problems of fields that a form does not have above it: else the form would
// come again and say nothing.
func (p problems) above(has []string) problems {
	all := problems{}
	for field, texts := range p {
		if !slices.Contains(has, field) {
			field = ""
		}
		all[field] = append(all[field], texts...)
	}
	return all
}

// approval is the data of the screen that asks for one.
type approval struct {
	To       string // where the form goes
	Fields   []field
	Factors  []string // to choose from; empty: Challenge is answered
	Answers  string   // the challenge
	Factor   string
	Until    string // RFC 3339, in UTC: when the challenge ends
	What     string // what is approved
	Alert    string
	Resends  bool // another code can be sent
	Password bool // what is asked for is no code
	Hidden   bool // what is typed is not shown, and kept by no browser
}

// approve makes the request of a form, and asks for an approval if it needs one. The form
// comes up to three times: see act.Do.
func (v *visit) approve(r request) screen {
	if v.form.Has("cancel") { // back to the form, as it was filled in
		return r.form(nil)
	}
	a := act.Approval{
		Factor: v.form.Get("approval.factor"), Resend: v.form.Has("approval.resend"),
		Challenge: v.form.Get("approval.challenge"), Answer: v.form.Get("approval.answer"),
	}
	if a.Factor != "" {
		a.Challenge, a.Answer = "", ""
	}
	if a.Challenge != "" && a.Answer == "" {
		return v.askAgain(v.T("answer_required"), 400)
	}
	return v.outcome(r, a)
}

func (v *visit) outcome(r request, a act.Approval) screen {
	challenge, err := act.Do(v.guest.Context, v.Manager, a, r, r.do)
	var needs *apikey.ChallengeError
	switch {
	case challenge != nil:
		return v.ask(challenge, a.Factor, "", 202)
	case err == nil:
		return r.done()
	case errors.As(err, &needs):
		return v.choose(r, needs, a)
	}
	var lost errLost
	if errors.As(err, &lost) {
		return v.lostScreen(lost.id)
	}
	p := httpauth.Refused(err)
	v.note(p, err)
	switch {
	case len(p.Fields) > 0:
		return r.form(v.problemsOf(p).above(r.fields))
	case p.Code == "wrong_answer" && p.AttemptsLeft != nil && *p.AttemptsLeft > 0:
		return v.askAgain(v.detailOf(p), p.Status)
	case a.Answer != "" && p.Status == 503: // the same answer works again
		return v.askAgain(v.T("problem.unavailable.again"), p.Status)
	case a.Answer != "" && (p.Code == "challenge_ended" || p.Code == "wrong_answer" || p.Code == "step_up_required"):
		return v.anew(r, v.detailOf(p))
	case p.Code == "version_mismatch":
		return v.changedMeanwhile()
	case p.Code == "key_not_usable", p.Code == "limit_reached", p.Code == "rotation_pending", p.Code == "overlap_running":
		return r.form(problems{"": {v.detailOf(p)}})
	}
	return v.refused(err)
}

// changedMeanwhile says that somebody else has changed the key. The script leaves the form as
// it was filled in, beside a link to the key: to send it with the new version would undo
// what the other person did.
func (v *visit) changedMeanwhile() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	s := v.message("version_mismatch", 412)
	m := s.data.(message)
	m.Link, m.LinkText, m.NewTab = v.keyURL(k.ID, ""), v.Name(k.Name), true
	s.data, s.keep = m, true
	return s
}

// choose asks by which factor the person approves. If there is one, it is taken.
func (v *visit) choose(r request, needs *apikey.ChallengeError, a act.Approval) screen {
	switch {
	case len(needs.Factors) == 1 && a.Factor == "":
		return v.outcome(r, act.Approval{Factor: needs.Factors[0]})
	case len(needs.Factors) == 0:
		s := v.refused(needs)
		m := s.data.(message)
		switch {
		case needs.ByAnother:
			m.Detail = v.T("approve.by_another")
		case len(needs.Enroll) > 0:
			m.Detail, m.Link, m.LinkText = v.T("approve.enroll"), v.url("/factors"), v.T("factors")
		}
		s.data = m
		return s
	}
	return v.confirm(approval{Factors: needs.Factors}, 403)
}

// anew begins another approval, because a challenge has ended.
func (v *visit) anew(r request, alert string) screen {
	var needs *apikey.ChallengeError
	if err := r.do(apikey.Grant{}); !errors.As(err, &needs) || len(needs.Factors) == 0 {
		if err == nil {
			return r.done()
		}
		return v.refused(err)
	}
	return v.confirm(approval{Factors: needs.Factors, Alert: alert}, 403)
}

// ask is the screen that takes the answer to a challenge.
func (v *visit) ask(c *apikey.Challenge, factor, alert string, status int) screen {
	return v.confirm(approval{
		Answers: c.ID, Factor: factor, Until: c.ExpiresAt.UTC().Format(time.RFC3339), Alert: alert,
	}, status)
}

// askAgain is ask for the challenge that was just answered.
func (v *visit) askAgain(alert string, status int) screen {
	return v.confirm(approval{
		Answers: v.form.Get("approval.challenge"), Factor: v.form.Get("asked.factor"), Until: v.form.Get("asked.until"), Alert: alert,
	}, status)
}

func (v *visit) confirm(a approval, status int) screen {
	a.To, a.Fields = v.here(), fieldsOf(v.form)
	if _, err := time.Parse(time.RFC3339, a.Until); err != nil {
		a.Until = ""
	}
	a.Password = a.Factor == "password" || a.Factor == "pin"
	// Of a factor with a name that we do not know, the answer may be a password.
	a.Hidden = !slices.ContainsFunc(v.rules.Factors, func(f apikey.FactorRule) bool {
		return f.Name == a.Factor && (f.Enrolls || f.Name == "email" || f.Name == "sms")
	})
	a.Resends = a.Factor == "email" || a.Factor == "sms"
	return screen{name: "confirm", title: v.T("confirm.title"), data: a, status: status}
}

// FactorLabel names what a factor asks for: code, password or PIN.
func (v *visit) FactorLabel(factor string) string { return v.factorText(factor, "label") }

// FactorButton names the choice of a factor.
func (v *visit) FactorButton(factor string) string { return v.factorText(factor, "button") }

func (v *visit) factorText(factor, part string) string {
	if name := "factor." + factor + "." + part; v.text.has(name) {
		return v.T(name)
	}
	if part != "label" {
		return factor
	}
	return v.T("factor.email.label")
}

// problemsOf are the wrong fields of a problem, in the visitor's language.
func (v *visit) problemsOf(p httpauth.Problem) problems {
	wrong := problems{}
	for _, f := range p.Fields {
		name := f.Field
		text := f.Detail
		if v.text.has("invalid." + string(f.Code)) {
			text = v.T("invalid."+string(f.Code), "value", cmp.Or(marked(f.Value), "…"), "max", f.Max, "min", f.Min)
		}
		if len(f.Known) > 0 {
			text += " " + v.T("invalid.known", "values", marked(strings.Join(f.Known, ", ")))
		}
		wrong[name] = append(wrong[name], text)
	}
	return wrong
}

// values returns a copy of the form's values, for a form that is shown again.
func values(form url.Values) url.Values {
	all := url.Values{}
	for name, list := range form {
		all[name] = list
	}
	return all
}
