package apikey

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ProvisionRequest names the account that gets its first keys.
type ProvisionRequest struct {
	Account string // empty: the actor's own; an Operator has to name it
	Name    string // of both keys; empty: "Publishable key"
	// Abilities of both keys; the Catalog has to mark them publishable.
	Abilities []string
}

// Provisioned is an account's publishable keys, one a mode.
type Provisioned struct{ Live, Test Issued }

// Provision gives a new account one publishable key a mode and no secret key:
// a secret that nobody asked for is a secret that nobody guards. Repeated, it
// returns the same keys, whatever became of them; one that was purged since is
// made anew. Errors as for Issue.
func (m *Manager) Provision(ctx context.Context, req ProvisionRequest) (Provisioned, error) {
	return m.own().provision(ctx, req)
}

func (s session) provision(ctx context.Context, req ProvisionRequest) (done Provisioned, err error) {
	err = s.do(ctx, job{action: ActionProvision, wide: true, account: req.Account, kind: Publishable, name: req.Name, work: func(a Actor, _ *Record) (effect, error) {
		account, now := accountOf(a, req.Account), s.cfg.Now()
		var e effect
		var growth Item // by as many keys as are made
		for _, each := range []struct {
			mode Mode
			out  *Issued
		}{{Live, &done.Live}, {Test, &done.Test}} {
			mark, err := s.item(ctx, itemProvision, itemID(account, each.mode, ""))
			if err != nil {
				return effect{}, err
			}
			if mark.Version > 0 {
				if *each.out, err = s.provisioned(ctx, mark, account, each.mode, now); err == nil {
					continue
				}
				if !errors.Is(err, ErrNotFound) {
					return effect{}, err
				}
			}
			var group string
			if growth, group, err = s.growth(ctx, a, account, len(e.made)+1, now); err != nil {
				return effect{}, err
			}
			r, token, err := s.draw(ctx, account, IssueRequest{
				Mode: each.mode, Kind: Publishable, Name: or(req.Name, "Publishable key"), Abilities: req.Abilities,
			}, group, now)
			if err != nil {
				return effect{}, err
			}
			quota, err := s.quota(ctx, account, each.mode, now)
			if err != nil {
				return effect{}, err
			}
			mark.Version, mark.Data = mark.Version+1, r.ID[:]
			e.made = append(e.made, made{record: r, credential: r.Credentials[0].ID, changed: fieldsSet(r)})
			e.items = append(e.items, mark, quota)
			*each.out = Issued{token, s.describeAll(r, now)}
			each.out.Key.Version = 1
		}
		if len(e.made) > 0 {
			e.items = append(e.items, growth)
		}
		return e, nil
	}})
	if err != nil {
		return Provisioned{}, err
	}
	return done, nil
}

// provisioned finds the key that a mark names.
func (s session) provisioned(ctx context.Context, mark Item, account string, m Mode, now time.Time) (Issued, error) {
	if len(mark.Data) != 16 {
		return Issued{}, fmt.Errorf("%w: a provision mark is damaged", ErrCorrupt)
	}
	r, err := s.named(ctx, KeyID(mark.Data), account, m)
	if err != nil {
		return Issued{}, err
	}
	info := s.describeAll(r, now)
	issued := Issued{Key: info}
	if cred := r.credential(info.Credential); cred != nil && cred.Public != "" {
		issued.Token = newToken(cred.Public)
	}
	return issued, nil
}
