package apitest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// target is what one account can learn of another, or make up.
type target struct {
	key          apikey.KeyID
	account      string
	token        string // whose secret is not known
	challenge    string // that waits for an answer
	keys, events apikey.Cursor
}

// calls are all the ways to name a target, by method. A method without a row
// fails TestEveryMethodHasARow; nil says that it names nothing.
type calls map[string]map[string]func(ctx context.Context, of target) error

func managerCalls(m *apikey.Manager) calls {
	return calls{
		"Close":       nil, // ends the Manager
		"NewVerifier": nil, // is given neither an account nor an actor
		"Tx":          nil, // its methods have rows of their own
		"Rules":       nil, // is given neither an account nor an actor
		"May": {
			"key": func(ctx context.Context, of target) error {
				return m.May(ctx, apikey.ActionRotate, apikey.Info{ID: of.key, Account: of.account, Mode: apikey.Live})
			},
			"account": func(ctx context.Context, of target) error {
				return m.May(ctx, apikey.ActionIssue, apikey.Info{Account: of.account, Mode: apikey.Live})
			},
		},
		"Get": {"key": func(ctx context.Context, of target) error {
			_, err := m.Get(ctx, of.key)
			return err
		}},
		"Issue": {"account": func(ctx context.Context, of target) error {
			_, err := m.Issue(ctx, apikey.IssueRequest{Account: of.account, Mode: apikey.Live})
			return err
		}},
		"Provision": {"account": func(ctx context.Context, of target) error {
			_, err := m.Provision(ctx, apikey.ProvisionRequest{Account: of.account})
			return err
		}},
		"List": {
			"account": func(ctx context.Context, of target) error {
				_, err := m.List(ctx, apikey.ListRequest{Account: of.account})
				return err
			},
			"account and its cursor": func(ctx context.Context, of target) error {
				_, err := m.List(ctx, apikey.ListRequest{Account: of.account, Cursor: of.keys, Limit: 1})
				return err
			},
			"cursor": func(ctx context.Context, of target) error {
				_, err := m.List(ctx, apikey.ListRequest{Cursor: of.keys, Limit: 1})
				return err
			},
		},
		"Update": {
			"name": func(ctx context.Context, of target) error {
				_, err := m.Update(ctx, apikey.UpdateRequest{Key: of.key, Name: apikey.Set("mine now")})
				return err
			},
			"nothing": func(ctx context.Context, of target) error {
				_, err := m.Update(ctx, apikey.UpdateRequest{Key: of.key})
				return err
			},
			"version": func(ctx context.Context, of target) error {
				_, err := m.Update(ctx, apikey.UpdateRequest{Key: of.key, IfVersion: 9})
				return err
			},
			"what is invalid": func(ctx context.Context, of target) error {
				_, err := m.Update(ctx, apikey.UpdateRequest{Key: of.key, Abilities: apikey.Set([]string{"no such"})})
				return err
			},
		},
		"Suspend": {"key": func(ctx context.Context, of target) error {
			return m.Suspend(ctx, of.key)
		}},
		"Resume": {"key": func(ctx context.Context, of target) error {
			return m.Resume(ctx, apikey.ResumeRequest{Key: of.key})
		}},
		"Revoke": {"key": func(ctx context.Context, of target) error {
			return m.Revoke(ctx, apikey.RevokeRequest{Key: of.key})
		}},
		"Rotate": {
			"now": func(ctx context.Context, of target) error {
				_, err := m.Rotate(ctx, apikey.RotateRequest{Key: of.key})
				return err
			},
			"at a time": func(ctx context.Context, of target) error {
				_, err := m.Rotate(ctx, apikey.RotateRequest{Key: of.key, At: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Replace: true})
				return err
			},
			"in the past": func(ctx context.Context, of target) error {
				_, err := m.Rotate(ctx, apikey.RotateRequest{Key: of.key, At: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)})
				return err
			},
		},
		"CancelRotation": {"key": func(ctx context.Context, of target) error {
			return m.CancelRotation(ctx, of.key)
		}},
		"Retire": {"credential": func(ctx context.Context, of target) error {
			t, _ := apikey.ParseToken(of.token)
			return m.Retire(ctx, apikey.RetireRequest{Key: of.key, Credential: t.Credential()})
		}},
		"Reveal": {"key": func(ctx context.Context, of target) error {
			_, err := m.Reveal(ctx, apikey.RevealRequest{Key: of.key})
			return err
		}},
		"Challenge": {
			"to reveal": func(ctx context.Context, of target) error {
				_, err := m.Challenge(ctx, "password", apikey.RevealRequest{Key: of.key})
				return err
			},
			"to issue": func(ctx context.Context, of target) error {
				_, err := m.Challenge(ctx, "password", apikey.IssueRequest{Account: of.account, Mode: apikey.Live})
				return err
			},
		},
		"Resend": {"to reveal": func(ctx context.Context, of target) error {
			_, err := m.Resend(ctx, "password", apikey.RevealRequest{Key: of.key})
			return err
		}},
		"Confirm": {"challenge": func(ctx context.Context, of target) error {
			_, err := m.Confirm(ctx, of.challenge, password)
			return err
		}},
		"Enroll": {"nothing": func(ctx context.Context, _ target) error {
			_, err := m.Enroll(ctx, apikey.EnrollRequest{Factor: "totp"})
			return err
		}},
		"ConfirmEnrollment": {"nothing": func(ctx context.Context, _ target) error {
			return m.ConfirmEnrollment(ctx, "totp", "123456")
		}},
		"Enrolled": nil, // the actor's own
		"Disable": {"account": func(ctx context.Context, of target) error {
			return m.Disable(ctx, apikey.DisableRequest{Factor: "totp", Account: of.account, Actor: "usr_of_acc_2"})
		}},
		"AllowEnrollment": {"account": func(ctx context.Context, of target) error {
			return m.AllowEnrollment(ctx, apikey.AllowEnrollmentRequest{Factor: "totp", Account: of.account, Actor: "usr_of_acc_2"})
		}},
		"LiftLock": {"account": func(ctx context.Context, of target) error {
			return m.LiftLock(ctx, apikey.LiftLockRequest{Account: of.account, Actor: "usr_of_acc_2"})
		}},
		"Reseal": {"everything": func(ctx context.Context, _ target) error {
			_, err := m.Reseal(ctx, 0)
			return err
		}},
		"RevokeAll": {
			"account": func(ctx context.Context, of target) error {
				_, err := m.RevokeAll(ctx, apikey.RevokeAllRequest{Account: of.account, All: true})
				return err
			},
			"cursor": func(ctx context.Context, of target) error {
				_, err := m.RevokeAll(ctx, apikey.RevokeAllRequest{All: true, Cursor: of.keys, Limit: 1})
				return err
			},
		},
		"RevokeToken": {"token": func(ctx context.Context, of target) error {
			return m.RevokeToken(ctx, of.token, "")
		}},
		"Remac": {"everything": func(ctx context.Context, _ target) error {
			_, err := m.Remac(ctx, 0)
			return err
		}},
		"AdoptPepper": {"everything": func(ctx context.Context, _ target) error {
			return m.AdoptPepper(ctx, 9)
		}},
		"Events": {
			"account": func(ctx context.Context, of target) error {
				_, err := m.Events(ctx, apikey.EventsRequest{Account: of.account})
				return err
			},
			"key": func(ctx context.Context, of target) error {
				_, err := m.Events(ctx, apikey.EventsRequest{Key: of.key})
				return err
			},
			"account and key": func(ctx context.Context, of target) error {
				_, err := m.Events(ctx, apikey.EventsRequest{Account: of.account, Key: of.key})
				return err
			},
			"cursor": func(ctx context.Context, of target) error {
				_, err := m.Events(ctx, apikey.EventsRequest{Cursor: of.events, Limit: 1})
				return err
			},
		},
		"VerifyEvents": {"key": func(ctx context.Context, of target) error {
			_, err := m.VerifyEvents(ctx, of.key)
			return err
		}},
	}
}

func txCalls(tx *apikey.Tx) calls {
	return calls{
		"Committed": nil, // names nothing
		"Get": {"key": func(ctx context.Context, of target) error {
			_, err := tx.Get(ctx, of.key)
			return err
		}},
		"Issue": {"account": func(ctx context.Context, of target) error {
			_, err := tx.Issue(ctx, apikey.IssueRequest{Account: of.account, Mode: apikey.Live})
			return err
		}},
		"Provision": {"account": func(ctx context.Context, of target) error {
			_, err := tx.Provision(ctx, apikey.ProvisionRequest{Account: of.account})
			return err
		}},
		"List": {
			"account": func(ctx context.Context, of target) error {
				_, err := tx.List(ctx, apikey.ListRequest{Account: of.account})
				return err
			},
			"cursor": func(ctx context.Context, of target) error {
				_, err := tx.List(ctx, apikey.ListRequest{Cursor: of.keys, Limit: 1})
				return err
			},
		},
		"Update": {"key": func(ctx context.Context, of target) error {
			_, err := tx.Update(ctx, apikey.UpdateRequest{Key: of.key, Name: apikey.Set("mine now")})
			return err
		}},
		"Rotate": {"key": func(ctx context.Context, of target) error {
			_, err := tx.Rotate(ctx, apikey.RotateRequest{Key: of.key})
			return err
		}},
		"Revoke": {"key": func(ctx context.Context, of target) error {
			return tx.Revoke(ctx, apikey.RevokeRequest{Key: of.key})
		}},
	}
}

// each runs every call of every method.
func (c calls) each(do func(name string, call func(context.Context, target) error)) {
	for method, ways := range c {
		for way, call := range ways {
			do(method+" by "+way, call)
		}
	}
}

// victim fills acc_2 and returns what names it, and a target of the same form
// that does not exist.
func victim(e *env) (key apikey.Issued, foreign, absent target) {
	owner := as("acc_2", "admin")
	for range 2 {
		var err error
		key, err = e.manager.Issue(owner, apikey.IssueRequest{Mode: apikey.Live, Name: "theirs", Abilities: []string{"payment:refund"}})
		require.NoError(e.t, err)
	}
	keys, err := e.manager.List(owner, apikey.ListRequest{Limit: 1})
	require.NoError(e.t, err)
	events, err := e.manager.Events(owner, apikey.EventsRequest{Limit: 1})
	require.NoError(e.t, err)
	require.NotEmpty(e.t, keys.Next)
	require.NotEmpty(e.t, events.Next)
	p := e.settings.Peppers[0]
	var challenge apikey.Challenge
	if len(e.mc.Factors) > 0 {
		challenge, err = e.manager.Challenge(owner, "password", apikey.RotateRequest{Key: key.Key.ID})
		require.NoError(e.t, err)
	}
	foreign = target{
		challenge: challenge.ID,
		key:       key.Key.ID, account: "acc_2", keys: keys.Next, events: events.Next,
		token: retag(e.t, p, spliceSecret(key.Token.Reveal())),
	}
	absent = target{
		challenge: "0123456789012345678901",
		key:       storetest.NewKeyID(), account: "acc_none", keys: "AAAAAAAAAAAA.kAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", events: "AAAAAAAAAAAA.eAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		token: retag(e.t, p, spliceID(key.Token.Reveal())),
	}
	return key, foreign, absent
}
