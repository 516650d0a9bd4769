package apikey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// ProvisionRequest names the account that gets its first keys.
type ProvisionRequest struct {
	Account string // empty: the actor's own; an Operator has to name it
	Name    string // of both keys; empty: "Publishable key"
	// Abilities of both keys; the Catalog has to mark them publishable.
	Abilities []string

	Grant Grant `json:"-"` // if StepUp guards ActionProvision
}

func (r ProvisionRequest) guarded() approval { return (&provisioning{ProvisionRequest: r}).approval() }

// Provisioned holds an account's publishable keys, one for each mode. If Standing
// refuses a mode, its Issued is zero.
type Provisioned struct {
	Live Issued `json:"live,omitzero"`
	Test Issued `json:"test,omitzero"`
}

// Provision gives a new account one publishable key for each mode, and no secret key: a
// secret that nobody asked for is a secret that nobody guards. If Provision is called
// again, it returns the same keys, also if they were revoked since, and makes a purged
// one again.
//
// Policy is asked about each mode; if it refuses one, no key is made at all. If
// [Standing] refuses a mode, that mode is left out and a later call makes its key: a
// new account may be allowed to use only the sandbox. If Standing refuses every mode in
// which a key is to be made, the error is ErrStanding. StepUp is asked about
// ActionProvision in the modes in which a key is to be made, and one factor has to
// approve all of them. None of the ready-made guards names ActionProvision. Errors
// otherwise: those of [Manager.Issue].
func (m *Manager) Provision(ctx context.Context, req ProvisionRequest) (Provisioned, error) {
	return m.own().provision(ctx, req)
}

func (s session) provision(ctx context.Context, req ProvisionRequest) (done Provisioned, err error) {
	p := &provisioning{ProvisionRequest: req}
	j := p.approval().asking(req.Grant)
	j.work = func(a Actor, _ *StoreRecord) (e effect, err error) {
		var group string
		if n := len(p.modes()); n > 0 {
			growth, its, err := s.growth(ctx, a, accountOf(a, req.Account), n, nil, s.settings.Now())
			if err != nil {
				return effect{}, err
			}
			group, e.items = its, append(e.items, growth)
		}
		for i, out := range []*Issued{&done.Live, &done.Test} {
			if *out, err = p.parts[i].make(ctx, s, &e, group); err != nil {
				return effect{}, err
			}
		}
		return e, nil
	}
	if err = s.do(ctx, j); err != nil {
		return Provisioned{}, err
	}
	return done, nil
}

// provisioning is one call of Provision, or the challenge for one.
type provisioning struct {
	ProvisionRequest
	fresh bool    // May: nothing is read, as if the account had no such keys
	parts [2]part // as the last attempt found them
}

// part is what is done in one mode: has is the key of an earlier call, blank the record
// of a key to be made. If both are nil, Standing has refused the mode.
type part struct {
	mark       StoreItem
	has, blank *StoreRecord
}

func (p *provisioning) approval() approval {
	return approval{
		job: job{
			action: ActionProvision, subject: anAccount, account: p.Account, kind: Publishable, name: p.Name,
			plan: p.plan, refuses: p.stand, wrong: p.wrong, modes: p.modes,
		},
		sum: sumOf(ActionProvision, func(c *canon.Writer) {
			c.Text(p.Name)
			c.Texts(p.Abilities)
		}),
	}
}

// plan finds the keys that exist already, and checks those that are to be made.
func (p *provisioning) plan(ctx context.Context, s session, a Actor, _ *StoreRecord, now time.Time) (plan []planned, err error) {
	account := accountOf(a, p.Account)
	for i, mode := range []Mode{Live, Test} {
		part := &p.parts[i]
		if !p.fresh {
			if *part, err = s.provisioned(ctx, account, mode); err != nil {
				return nil, err
			}
		}
		if part.has != nil {
			plan = append(plan, planned{part.has, part.has})
			continue
		}
		part.blank, err = s.blank(account, p.issue(mode), now)
		if err != nil {
			return nil, err
		}
		plan = append(plan, planned{would: part.blank})
	}
	return plan, nil
}

// issue returns the request for the key of one mode.
func (p *provisioning) issue(mode Mode) IssueRequest {
	return IssueRequest{Mode: mode, Kind: Publishable, Name: cmp.Or(p.Name, "Publishable key"), Abilities: p.Abilities}
}

func (p *provisioning) wrong(s session, now time.Time) error {
	_, err := s.checked("", p.issue(Live), now)
	return err
}

// stand leaves out each mode in which a key would be made and Standing refuses it.
func (p *provisioning) stand(_ context.Context, s session, a Actor, _ *StoreRecord) error {
	var refused error
	left := 0
	for i := range p.parts {
		if blank := p.parts[i].blank; blank != nil {
			if err := s.stand(a, ofAccount(ActionProvision, p.Account), blank.Account, blank.Mode); err != nil {
				p.parts[i], refused = part{}, err
				continue
			}
		}
		left++
	}
	if left == 0 {
		return refused
	}
	return nil
}

// modes returns the modes in which a key is to be made.
func (p *provisioning) modes() (modes []Mode) {
	for _, part := range p.parts {
		if part.blank != nil {
			modes = append(modes, part.blank.Mode)
		}
	}
	return modes
}

// make adds the key of one mode to an effect, unless the key exists already. group is
// the account's.
func (p *part) make(ctx context.Context, s session, e *effect, group string) (Issued, error) {
	if p.has != nil {
		issued := Issued{Key: s.describeAll(p.has, s.settings.Now())}
		if cred := p.has.credential(issued.Key.Credential); cred != nil && cred.Public != "" {
			issued.Token = newToken(cred.Public)
		}
		return issued, nil
	}
	if p.blank == nil {
		return Issued{}, nil
	}
	d, err := s.draw(ctx, p.blank, group)
	if err != nil {
		return Issued{}, err
	}
	now := s.settings.Now()
	if err := d.complete(p.blank, now); err != nil {
		return Issued{}, err
	}
	quota, err := s.quota(ctx, p.blank.Account, p.blank.Mode, now)
	if err != nil {
		return Issued{}, err
	}
	mark := p.mark
	mark.Version, mark.Data = mark.Version+1, p.blank.ID[:]
	e.made = append(e.made, made{record: p.blank, credential: d.cred.ID, changed: namesOf(settingsSet(p.blank))})
	e.items = append(e.items, mark, quota)
	issued := Issued{d.token, s.describeAll(p.blank, now)}
	issued.Key.Version = 1
	return issued, nil
}

// provisioned finds the key that an earlier call made in a mode, by its mark. A key that
// was purged is none.
func (s session) provisioned(ctx context.Context, account string, m Mode) (p part, err error) {
	p.mark, err = s.item(ctx, itemProvision, itemID(account, m, ""))
	switch {
	case err != nil || p.mark.Version == 0:
		return p, err
	case len(p.mark.Data) != 16:
		return p, fmt.Errorf("%w: a provision mark is damaged", ErrCorrupt)
	}
	if p.has, err = s.named(ctx, KeyID(p.mark.Data), account, m); errors.Is(err, ErrNotFound) {
		err = nil
	}
	return p, err
}
