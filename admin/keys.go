package admin

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/act"
)

// approvalOnly is the body of a request that has nothing else to say.
type approvalOnly struct {
	Approval act.Approval `json:"approval"`
}

// nothing is the body of a request that has nothing to say.
type nothing struct{}

func (c *call) rules() (answer, error) {
	return answer{body: rulesAnswer{
		Actor: actorAnswer{c.actor.ID, c.actor.Account, c.actor.Role, c.tag},
		Rules: c.Manager.Rules(),
	}}, nil
}

func (c *call) get() (answer, error) {
	id, err := c.key()
	if err != nil {
		return answer{}, err
	}
	info, err := c.Manager.Get(c.ctx, id)
	if err != nil {
		return answer{}, err
	}
	key := c.describe(info)
	for _, action := range keyActions {
		if c.Manager.May(c.ctx, action, info) == nil {
			key.May = append(key.May, action)
		}
	}
	return answer{body: key, version: info.Version}, nil
}

// keyActions are the actions on one key, for the member may.
var keyActions = []apikey.Action{
	apikey.ActionUpdate, apikey.ActionSuspend, apikey.ActionResume, apikey.ActionRevoke, apikey.ActionRotate,
	apikey.ActionCancelRotation, apikey.ActionRetire, apikey.ActionReveal, apikey.ActionReadEvents,
}

func (c *call) issue() (answer, error) {
	var body struct {
		apikey.IssueRequest
		Approval act.Approval `json:"approval"`
	}
	if err := c.read(&body, "account", "idempotency_key"); err != nil {
		return answer{}, err
	}
	req := body.IssueRequest
	req.IdempotencyKey = c.idempotencyKey
	if err := c.refuseUnlisted(req.Metadata); err != nil {
		return answer{}, err
	}
	var issued apikey.Issued
	return c.act(body.Approval, req, func(g apikey.Grant) (err error) {
		req.Grant = g
		issued, err = c.Manager.Issue(c.ctx, req)
		if errors.Is(err, apikey.ErrAlreadyIssued) {
			return c.already(err, issued.Key)
		}
		return err
	}, func() answer {
		return answer{status: 201, body: c.tokenAnswer(issued), version: issued.Key.Version, location: "keys/" + issued.Key.ID.String()}
	})
}

func (c *call) update() (answer, error) {
	var body struct {
		apikey.UpdateRequest
		Approval act.Approval `json:"approval"`
	}
	id, err := c.keyAndBody(&body, "key", "if_version")
	if err != nil {
		return answer{}, err
	}
	req := body.UpdateRequest
	req.Key, req.IfVersion = id, c.version
	if err := c.keepUnlisted(&req); err != nil {
		return answer{}, err
	}
	var info apikey.Info
	ans, err := c.act(body.Approval, req, func(g apikey.Grant) (err error) {
		req.Grant = g
		info, err = c.Manager.Update(c.ctx, req)
		return c.mayBeDone(err, id, apikey.ActionUpdate)
	}, func() answer {
		return answer{body: c.describe(info), version: info.Version}
	})
	return ans, c.ofUnlisted(err)
}

func (c *call) suspend() (answer, error) {
	return c.onKey(c.Manager.Suspend)
}

func (c *call) cancelRotation() (answer, error) {
	return c.onKey(c.Manager.CancelRotation)
}

// onKey makes a request that has a key and nothing else.
func (c *call) onKey(do func(context.Context, apikey.KeyID) error) (answer, error) {
	id, err := c.keyAndBody(&nothing{})
	if err != nil {
		return answer{}, err
	}
	return answer{}, do(c.ctx, id)
}

func (c *call) resume() (answer, error) {
	var body approvalOnly
	id, err := c.keyAndBody(&body)
	if err != nil {
		return answer{}, err
	}
	req := apikey.ResumeRequest{Key: id, IfVersion: c.version}
	return c.act(body.Approval, req, func(g apikey.Grant) error {
		req.Grant = g
		return c.mayBeDone(c.Manager.Resume(c.ctx, req), id, apikey.ActionResume)
	}, nil)
}

func (c *call) revoke() (answer, error) {
	var body struct {
		Reason   apikey.Reason `json:"reason"`
		Approval act.Approval  `json:"approval"`
	}
	id, err := c.keyAndBody(&body)
	if err != nil {
		return answer{}, err
	}
	req := apikey.RevokeRequest{Key: id, Reason: body.Reason}
	return c.act(body.Approval, req, func(g apikey.Grant) error {
		req.Grant = g
		return c.Manager.Revoke(c.ctx, req)
	}, nil)
}

func (c *call) rotate() (answer, error) {
	var body struct {
		At             time.Time    `json:"at"`
		OverlapSeconds int64        `json:"overlap_seconds"`
		Replace        bool         `json:"replace"`
		Approval       act.Approval `json:"approval"`
	}
	id, err := c.keyAndBody(&body)
	if err != nil {
		return answer{}, err
	}
	// Checked here, because the Manager looks at the version first: 412 for a length that
	// no version accepts.
	if most := int(c.Manager.Rules().Limits.Overlap / time.Second); body.OverlapSeconds < 0 || body.OverlapSeconds > int64(most) {
		return answer{}, &apikey.InvalidError{Field: "overlap_seconds", Code: apikey.InvalidOutOfRange, Max: most}
	}
	req := apikey.RotateRequest{Key: id, IfVersion: c.version, At: body.At, Overlap: seconds(body.OverlapSeconds), Replace: body.Replace}
	var issued apikey.Issued
	ans, err := c.act(body.Approval, req, func(g apikey.Grant) (err error) {
		req.Grant = g
		issued, err = c.Manager.Rotate(c.ctx, req)
		return c.mayBeDone(err, id, apikey.ActionRotate)
	}, func() answer {
		return answer{body: c.tokenAnswer(issued), version: issued.Key.Version}
	})
	return ans, renamed(err, "overlap", "overlap_seconds")
}

// renamed gives a wrong field the name that it has in the body, and keeps the others.
func renamed(err error, from, to string) error {
	fields := apikey.InvalidFields(err)
	if !slices.ContainsFunc(fields, func(e *apikey.InvalidError) bool { return e.Field == from }) {
		return err
	}
	all := make([]error, len(fields))
	for i, e := range fields {
		own := *e
		if own.Field == from {
			own.Field = to
		}
		all[i] = &own
	}
	return errors.Join(all...)
}

// seconds makes a duration of n seconds, from -1 s to 100 years: a larger n would overflow.
// The Manager refuses both ends, and says what it accepts.
func seconds(n int64) time.Duration {
	return time.Duration(min(max(n, -1), 100*365*24*60*60)) * time.Second
}

func (c *call) retire() (answer, error) {
	id, err := c.keyAndBody(&nothing{})
	if err != nil {
		return answer{}, err
	}
	credential, err := apikey.ParseCredentialID(c.r.PathValue("credential"))
	if err != nil {
		return answer{}, apikey.ErrNotFound
	}
	return answer{}, c.Manager.Retire(c.ctx, apikey.RetireRequest{Key: id, Credential: credential})
}

func (c *call) reveal() (answer, error) {
	var body struct {
		Credential apikey.CredentialID `json:"credential"`
		Approval   act.Approval        `json:"approval"`
	}
	id, err := c.keyAndBody(&body)
	if err != nil {
		return answer{}, err
	}
	req := apikey.RevealRequest{Key: id, Credential: body.Credential}
	var shown apikey.Revealed
	return c.act(body.Approval, req, func(g apikey.Grant) (err error) {
		req.Grant = g
		shown, err = c.Manager.Reveal(c.ctx, req)
		return err
	}, func() answer {
		return answer{version: shown.Key.Version, body: revealedAnswer{
			tokenAnswer: tokenAnswer{Token: shown.Token.Reveal(), Key: c.describe(shown.Key)},
			HideAfter:   int(shown.HideAfter / time.Second),
		}}
	})
}

func (c *call) provision() (answer, error) {
	var body struct {
		Name      string       `json:"name"`
		Abilities []string     `json:"abilities"`
		Approval  act.Approval `json:"approval"`
	}
	if err := c.read(&body); err != nil {
		return answer{}, err
	}
	req := apikey.ProvisionRequest{Name: body.Name, Abilities: body.Abilities}
	var made apikey.Provisioned
	return c.act(body.Approval, req, func(g apikey.Grant) (err error) {
		req.Grant = g
		made, err = c.Manager.Provision(c.ctx, req)
		return err
	}, func() answer {
		var body provisionedAnswer
		for _, one := range []struct {
			of   apikey.Issued
			into **tokenAnswer
		}{{made.Live, &body.Live}, {made.Test, &body.Test}} {
			if !one.of.Key.ID.IsZero() { // zero: Standing refuses the mode
				t := c.tokenAnswer(one.of)
				*one.into = &t
			}
		}
		return answer{body: body}
	})
}

// act makes a guarded request: see act.Do. done makes the answer once the request was
// made; nil: 204.
func (c *call) act(a act.Approval, req apikey.Guarded, do func(apikey.Grant) error, done func() answer) (answer, error) {
	challenge, err := act.Do(c.ctx, c.Manager, a, req, do)
	switch {
	case err != nil:
		return answer{}, err
	case challenge != nil:
		return answer{status: 202, body: challenge}, nil
	case done == nil:
		return answer{}, nil
	}
	return done(), nil
}
