package keypage

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
)

const (
	pageOf     = 50
	unusedDays = 90
	soon       = 30 * 24 * time.Hour
)

// listing is the data of the list.
type listing struct {
	Mode     apikey.Mode
	Rows     []row
	Groups   []group // with ByProduct
	Next     string
	Did      string // what was just done
	Filter   filter
	Filtered bool
	Damaged  int
	MayIssue bool
	MayLog   bool
	MayBulk  bool
	MayAll   bool // to see keys at all
}

// filter is what the list is searched by.
type filter struct{ Name, Status, Used string }

// row is one key.
type row struct {
	apikey.Info
	Status      apikey.Status
	Hint        string
	Public      string // the token of a publishable key
	Client      string
	MayRevoke   bool
	MayRotate   bool
	Scopes      []ability
	Overlapping bool // an older token still works
}

// group is a product with the keys for it.
type group struct {
	ability
	Rows     []row
	MayIssue bool
}

func (v *visit) row(k apikey.Info) row {
	r := row{Info: k, Status: k.Status(v.Now(), soon), Client: k.ID.String()}
	if v.ClientID != nil {
		r.Client = marked(v.ClientID(k))
	}
	for c := range k.Credentials.All() {
		if c.ID == k.Credential {
			r.Hint, r.Public = c.Hint, c.Public.Reveal()
		}
	}
	for a := range k.Abilities.All() {
		r.Scopes = append(r.Scopes, v.ability(a.String(), ""))
	}
	return r
}

// modeOf is the mode that the page shows: live, unless test is asked for.
func modeOf(q url.Values) apikey.Mode {
	if q.Get("mode") == "test" {
		return apikey.Test
	}
	return apikey.Live
}

func (v *visit) list() screen {
	q := v.r.URL.Query()
	l := listing{Mode: modeOf(q), Did: v.did(q), Filter: filter{q.Get("name"), q.Get("status"), q.Get("used")}}
	l.Filtered = l.Filter != filter{}
	req := apikey.ListRequest{Mode: l.Mode, NameContains: l.Filter.Name, Cursor: apikey.Cursor(q.Get("cursor")), Limit: pageOf}
	if v.Layout == ByProduct {
		req.Limit = 1000 // each region has all its keys
	}
	switch l.Filter.Status {
	case "usable":
		req.Usable = true
	case "expiring":
		req.ExpiringWithin = soon
	case "expired":
		req.Expired = true
	case "suspended":
		req.State = apikey.Suspended
	case "revoked":
		req.State = apikey.Revoked
	case "due":
		req.DueWithin = soon
	}
	switch l.Filter.Used {
	case "never":
		req.NeverUsed = true
	case "unused":
		req.UnusedFor = unusedDays * 24 * time.Hour
	}
	list, err := v.Manager.List(v.guest.Context, req)
	if err != nil {
		return v.refused(err)
	}
	for _, k := range list.Keys {
		r := v.row(k)
		r.MayRevoke = k.State != apikey.Revoked && v.may(apikey.ActionRevoke, k)
		r.MayRotate = v.may(apikey.ActionRotate, k)
		l.MayBulk = l.MayBulk || r.MayRevoke
		l.Rows = append(l.Rows, r)
	}
	if list.Next != "" {
		q.Set("cursor", string(list.Next))
		q.Del("did")
		l.Next = v.url("") + "?" + q.Encode()
	}
	for _, d := range list.Damaged { // what is wrong with them is for the operator
		v.Logger.Error("apikey keypage: a key is damaged", "request_id", v.id, "key", d.Key, "error", d)
	}
	l.Damaged = len(list.Damaged)
	about := apikey.Info{Account: v.guest.Account, Mode: l.Mode}
	l.MayIssue = v.may(apikey.ActionIssue, about)
	l.MayLog = v.may(apikey.ActionReadEvents, apikey.Info{Account: v.guest.Account})
	if v.Layout == ByProduct {
		l.Groups = v.groups(l)
	}
	return screen{name: "list", title: v.T("list.title"), data: l}
}

// groups arranges keys by the products of the Catalog.
func (v *visit) groups(l listing) (groups []group) {
	for _, e := range v.rules.Catalog {
		if e.Product == "" {
			continue
		}
		g := group{ability: v.ability(e.Product, e.Description)}
		about := apikey.Info{Account: v.guest.Account, Mode: l.Mode}
		if a, err := apikey.ParseAccess(e.Product + "=write"); err == nil {
			about.Abilities = apikey.NewView[apikey.Ability](a)
		}
		g.MayIssue = v.may(apikey.ActionIssue, about)
		for _, r := range l.Rows {
			if slices.ContainsFunc(r.Scopes, func(a ability) bool { return strings.HasPrefix(a.Value, e.Product+"=") }) {
				g.Rows = append(g.Rows, r)
			}
		}
		groups = append(groups, g)
	}
	return groups
}

// guards reports whether an action has to be approved in a mode.
func (h *handler) guards(a apikey.Action, m apikey.Mode) bool {
	return slices.ContainsFunc(h.rules.Guards, func(g apikey.Guard) bool { return g.Action == a && g.Mode == m })
}

// did is what was just done, from the address: one of a few words, and perhaps a number.
func (v *visit) did(q url.Values) string {
	name := "did." + q.Get("did")
	if q.Get("did") == "" || !v.text.has(name) {
		return ""
	}
	n, _ := strconv.Atoi(q.Get("n"))
	return v.text.count(name, n)
}

const (
	maxMany  = 100              // keys that one form revokes
	manyTime = 20 * time.Second // within which it is answered
)

// revocations is the data of the screen that revokes several keys.
type revocations struct {
	Rows    []row
	Fields  []field
	Count   int
	Wrong   string
	Mode    string
	Reason  string
	Guarded bool // each revocation needs a confirmation of its own
}

// selected are the keys of the form that can still be revoked, each once.
func (v *visit) selected() (d revocations, err error) {
	d = revocations{Mode: v.form.Get("mode"), Reason: v.form.Get("reason"), Guarded: v.guards(apikey.ActionRevoke, modeOf(v.form))}
	seen := map[apikey.KeyID]bool{}
	for _, text := range v.form["id"] {
		id, err := apikey.ParseKeyID(text)
		if err != nil || seen[id] {
			continue
		}
		if len(seen) == maxMany { // a form of 64 KiB names a thousand, and each is read
			break
		}
		seen[id] = true
		k, err := v.Manager.Get(v.guest.Context, id)
		if err != nil {
			return d, err
		}
		if k.State != apikey.Revoked {
			d.Rows = append(d.Rows, v.row(k))
			d.Fields = append(d.Fields, field{"id", text})
		}
	}
	d.Count = len(d.Rows)
	return d, nil
}

// revokeMany revokes the selected keys. The person types how many there are, because it
// cannot be undone.
func (v *visit) revokeMany() screen {
	d, err := v.selected()
	if err != nil {
		return v.refused(err)
	}
	back := v.url("") + "?mode=" + url.QueryEscape(modeOf(v.form).String())
	if d.Count == 0 || v.form.Has("cancel") {
		return screen{to: back}
	}
	form := func(wrong string, status int) screen {
		d.Wrong = wrong
		return screen{name: "revoke_many", title: v.text.count("revoke_many.title", d.Count), data: d, status: status}
	}
	typed := strings.TrimSpace(v.form.Get("count"))
	switch {
	case !v.form.Has("count"):
		return form("", 0)
	case typed != strconv.Itoa(d.Count) && typed != v.text.digits(strconv.Itoa(d.Count)):
		return form(v.T("revoke_many.wrong", "n", d.Count), 400)
	case !isReason(v.form.Get("reason")):
		return form(v.T("revoke.reason_required"), 400)
	case d.Guarded && v.form.Get("reason") != "leaked":
		return form(v.T("revoke_many.guarded"), 400)
	}
	// Without a bound for all, a store that hangs would be waited for once for each key.
	ctx, cancel := context.WithTimeout(v.guest.Context, manyTime)
	defer cancel()
	done := 0
	for _, r := range d.Rows {
		err := v.Manager.Revoke(ctx, apikey.RevokeRequest{Key: r.ID, Reason: reasonOf(v.form.Get("reason"))})
		if err != nil {
			if done == 0 {
				return v.refused(err)
			}
			return screen{to: back + "&did=revoked_some&n=" + strconv.Itoa(done)}
		}
		done++
	}
	return screen{to: back + "&did=revoked_many&n=" + strconv.Itoa(done)}
}
