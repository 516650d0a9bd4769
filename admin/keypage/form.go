package keypage

import (
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
)

// formData is the data of the forms of a new key and of one that is edited.
type formData struct {
	New        bool
	To         string
	Mode       apikey.Mode
	Name       string
	Scopes     []ability
	Products   []ability
	Others     []ability // what the key holds and the Catalog does not list
	Expires    string    // a day
	Keeps      bool      // the expiry is within a day, and stays unless it is changed
	KeepsTime  time.Time
	Boxes      []fieldBox
	Active     bool
	AsksReveal bool // whether it can be revealed later is for the person to choose
	Reveal     bool
	Idempotent string
	Version    string
	Zone       string
	NameBytes  int
	Wrong      problems
	Key        *row // nil: a new key
	Product    string
}

// newKey is the empty form.
func (v *visit) newKey() screen {
	d := v.formOf(nil)
	d.Mode, d.Active = modeOf(v.r.URL.Query()), true
	d.Reveal = v.Config.Recoverable == Always
	d.Idempotent = rand.Text()
	if i := slices.IndexFunc(d.Products, func(a ability) bool { return a.Value == v.r.URL.Query().Get("product") }); i >= 0 {
		d.Products[i].Level = "write"
		d.Name = d.Products[i].Title
		d.only(d.Products[i].Value)
	}
	return v.permitted(apikey.ActionIssue, apikey.Info{Account: v.guest.Account, Mode: d.Mode}, v.formScreen(d, 0))
}

// permitted is a form for whoever may send it. Hide hides buttons, and no forms.
func (v *visit) permitted(a apikey.Action, k apikey.Info, form screen) screen {
	if err := v.Manager.May(v.guest.Context, a, k); err != nil {
		return v.refused(err)
	}
	return form
}

func (v *visit) formScreen(d formData, status int) screen {
	title := v.T("new.title")
	switch {
	case d.Product != "":
		title = v.T("new.for_product")
	case !d.New:
		title = v.T("edit.title")
	}
	return screen{name: "form", title: title, data: d, status: status}
}

// fields are those beside which the form shows what is wrong.
func (d formData) fields() []string {
	names := []string{"name", "abilities", "expires_at", "metadata"}
	for _, b := range d.Boxes {
		names = append(names, b.Name)
	}
	return names
}

// formOf is a form with all abilities of the Catalog, and those of the key chosen.
func (v *visit) formOf(k *apikey.Info) formData {
	d := formData{New: k == nil, To: v.url("/new"), Zone: v.zone.String(), NameBytes: v.rules.Limits.NameBytes}
	held := []string{}
	if k != nil {
		d.To = v.keyURL(k.ID, "/edit")
		for a := range k.Abilities.All() {
			held = append(held, a.String())
		}
	}
	d.choose(v, held)
	d.Boxes = v.boxes(func(name string) string {
		if k == nil {
			return ""
		}
		return valueOf(*k, name)
	})
	return d
}

// choose lists the abilities, with those that are held chosen.
func (d *formData) choose(v *visit, held []string) {
	d.Scopes, d.Products, d.Others = nil, nil, nil
	listed := map[string]bool{}
	for _, e := range v.rules.Catalog {
		switch {
		case e.Scope != "":
			a := v.ability(e.Scope, e.Description)
			a.Checked = slices.Contains(held, e.Scope)
			listed[e.Scope] = true
			d.Scopes = append(d.Scopes, a)
		case e.Product != "":
			a := v.ability(e.Product, e.Description)
			for _, level := range []string{"read", "write"} {
				listed[e.Product+"="+level] = true
				if slices.Contains(held, e.Product+"="+level) {
					a.Level = level
				}
			}
			d.Products = append(d.Products, a)
		}
	}
	for _, text := range held {
		if !listed[text] {
			a := v.ability(text, "")
			a.Checked = true
			d.Others = append(d.Others, a)
		}
	}
}

// only makes it the form of a key for one product.
func (d *formData) only(product string) {
	d.Product, d.Scopes = product, nil
	d.Products = slices.DeleteFunc(d.Products, func(a ability) bool { return a.Value != product })
}

// filled is the form as somebody has filled it in.
func (v *visit) filled(d formData) formData {
	d.Name, d.Expires = v.form.Get("name"), v.form.Get("expires")
	d.Active, d.Reveal = v.form.Has("active"), v.form.Has("recoverable")
	d.Keeps = v.form.Has("keep") && d.Expires == "" // a day that was chosen is what is wanted
	d.choose(v, v.abilitiesIn())
	d.Boxes = v.boxes(v.form.Get)
	return d
}

// abilitiesIn are the abilities that the form has chosen.
func (v *visit) abilitiesIn() (held []string) {
	held = append(held, v.form["scope"]...)
	for _, e := range v.rules.Catalog {
		if level := v.form.Get("product." + e.Product); e.Product != "" && level != "" && level != "none" {
			held = append(held, e.Product+"="+level)
		}
	}
	return held
}

// expiryIn reads the day at whose end the key expires; zero: never.
func (v *visit) expiryIn() (t time.Time, wrong string) {
	text := v.form.Get("expires")
	if text == "" {
		return t, ""
	}
	t, ok := endOf(text, v.zone)
	if !ok {
		return t, v.T("invalid.malformed", "value", marked(text))
	}
	return t, ""
}

func (v *visit) create() screen {
	if v.Layout == SinglePair {
		return v.createPair()
	}
	d := v.filled(v.formOf(nil))
	d.Mode, d.Idempotent = modeOf(v.form), v.form.Get("idempotent")
	if product := v.form.Get("product"); product != "" {
		d.only(product)
	}
	req := apikey.IssueRequest{
		Mode: d.Mode, Name: d.Name, Abilities: v.abilitiesIn(), Disabled: !d.Active, IdempotencyKey: d.Idempotent,
		Recoverable: v.recoverable(d.Mode, d.Reveal),
	}
	form := func(wrong problems) screen {
		d.Wrong = wrong
		if len(wrong) > 0 {
			return v.formScreen(d, 400)
		}
		return v.formScreen(d, 0)
	}
	wrong := problems{}
	expires, text := v.expiryIn()
	if text != "" {
		wrong["expires_at"] = []string{text}
	}
	req.ExpiresAt = expires
	v.fieldsInto(&req, d, wrong)
	if strings.TrimSpace(d.Name) == "" {
		wrong["name"] = []string{v.T("invalid.required")}
	}
	if len(wrong) > 0 && !v.form.Has("cancel") {
		return form(wrong)
	}
	return v.issue(req, d.fields(), form)
}

// recoverable reports whether a new key can be revealed later. In a mode in which the
// Manager reveals nothing no key is.
func (v *visit) recoverable(mode apikey.Mode, chosen bool) bool {
	return (v.Config.Recoverable == Always || v.Config.Recoverable == Ask && chosen) && slices.Contains(v.rules.Recoverable, mode)
}

// issue issues a key. form, which has the fields, is shown again if that is refused.
func (v *visit) issue(req apikey.IssueRequest, fields []string, form func(problems) screen) screen {
	var issued apikey.Issued
	return v.approve(request{
		Guarded: req,
		do: func(g apikey.Grant) (err error) {
			req.Grant = g
			issued, err = v.Manager.Issue(v.guest.Context, req)
			if errors.Is(err, apikey.ErrAlreadyIssued) { // the answer to the first request was lost
				return errLost{issued.Key.ID}
			}
			return err
		},
		done:   func() screen { return v.tokenScreen("secret.created", issued) },
		fields: fields,
		form:   form,
	})
}

// pairName is the same in every language: two tabs in two languages make the same request.
const pairName = "App Secret"

// createPair makes the one key of a mode, with all abilities of the Catalog. The
// idempotency key is made of what there was before, so that two tabs make one key.
func (v *visit) createPair() screen {
	mode := modeOf(v.form)
	list, err := v.Manager.List(v.guest.Context, apikey.ListRequest{Mode: mode, Kind: apikey.Secret, Limit: pageOf})
	if err != nil {
		return v.refused(err)
	}
	before := "none"
	for i, k := range list.Keys {
		if i == 0 {
			before = k.ID.String()
		}
		if k.State != apikey.Revoked {
			s := v.message("pair_exists", 409)
			m := s.data.(message)
			m.Link, m.LinkText = v.url("?mode="+mode.String()), v.T("app.title")
			s.data = m
			return s
		}
	}
	req := apikey.IssueRequest{
		Mode: mode, Name: pairName, IdempotencyKey: "pair after " + before, Recoverable: v.recoverable(mode, false),
	}
	for _, e := range v.rules.Catalog {
		switch {
		case e.Scope != "":
			req.Abilities = append(req.Abilities, e.Scope)
		case e.Product != "":
			req.Abilities = append(req.Abilities, e.Product+"=write")
		}
	}
	return v.issue(req, nil, v.backTo(v.url("?mode="+mode.String())))
}

func (v *visit) editKey() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	return v.permitted(apikey.ActionUpdate, k, v.formScreen(v.formOfKey(k), 0))
}

func (v *visit) formOfKey(k apikey.Info) formData {
	d := v.formOf(&k)
	r := v.row(k)
	d.Key, d.Mode, d.Name, d.Active, d.Version = &r, k.Mode, k.Name, k.State != apikey.Suspended, strconv.FormatUint(k.Version, 10)
	if !k.ExpiresAt.IsZero() {
		day, whole := dayOf(k.ExpiresAt, v.zone)
		if whole {
			d.Expires = day
		} else { // it would move if it were read as a day
			d.Keeps, d.KeepsTime = true, k.ExpiresAt
		}
	}
	return d
}

func (v *visit) edit() screen {
	k, err := v.keyIn()
	if err != nil {
		return v.refused(err)
	}
	version, _ := strconv.ParseUint(v.form.Get("version"), 10, 64)
	if version == 0 {
		return v.message("version_mismatch", 412)
	}
	was := v.formOfKey(k)
	d := v.filled(was)
	d.Version = v.form.Get("version")
	form := func(wrong problems) screen {
		d.Wrong = wrong
		if len(wrong) > 0 {
			return v.formScreen(d, 400)
		}
		return v.formScreen(d, 0)
	}
	req, text := v.changes(k, was, d, version)
	wrong := problems{}
	v.fieldChanges(&req, k, was, d, wrong)
	if text != "" {
		wrong["expires_at"] = []string{text}
	}
	if strings.TrimSpace(d.Name) == "" {
		wrong["name"] = []string{v.T("invalid.required")}
	}
	if len(wrong) > 0 && !v.form.Has("cancel") {
		return form(wrong)
	}
	return v.approve(request{
		Guarded: req,
		do: func(g apikey.Grant) error {
			req.Grant = g
			_, err := v.Manager.Update(v.guest.Context, req)
			return err
		},
		done:   func() screen { return v.after(k.ID, "saved") },
		fields: d.fields(),
		form:   form,
	})
}

// changes is an update of the fields that differ from the key, and of no others: a rename
// by somebody in another zone moves no expiry, and asks for no approval of one.
func (v *visit) changes(k apikey.Info, was, d formData, version uint64) (req apikey.UpdateRequest, wrong string) {
	req = apikey.UpdateRequest{Key: k.ID, IfVersion: version}
	if d.Name != k.Name {
		req.Name = apikey.Set(d.Name)
	}
	held := []string{}
	for a := range k.Abilities.All() {
		held = append(held, a.String())
	}
	asked := v.abilitiesIn()
	slices.Sort(held)
	slices.Sort(asked)
	if !slices.Equal(held, asked) {
		req.Abilities = apikey.Set(asked)
		if len(asked) == 0 {
			req.Abilities = apikey.Clear[[]string]()
		}
	}
	if !was.Keeps && d.Expires != was.Expires || was.Keeps && !d.Keeps {
		expires, text := v.expiryIn()
		wrong = text
		req.ExpiresAt = apikey.Set(expires)
		if expires.IsZero() {
			req.ExpiresAt = apikey.Clear[time.Time]()
		}
	}
	if d.Active != was.Active {
		req.Disabled = apikey.Set(!d.Active)
	}
	return req, wrong
}
