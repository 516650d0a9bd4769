package admin

import (
	"context"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

const (
	maxMany  = 100              // keys of one request
	manyTime = 20 * time.Second // after which no further key is tried
)

// revokeMany revokes the keys that the body lists, and says for each whether it is
// revoked. A key whose revocation needs an approval is not revoked here: an approval is for
// one key.
func (c *call) revokeMany() (answer, error) {
	var body struct {
		IDs    []apikey.KeyID `json:"ids"`
		Reason apikey.Reason  `json:"reason"`
	}
	if err := c.read(&body); err != nil {
		return answer{}, err
	}
	switch {
	case len(body.IDs) == 0:
		return answer{}, &apikey.InvalidError{Field: "ids", Code: apikey.InvalidRequired}
	case len(body.IDs) > maxMany:
		return answer{}, &apikey.InvalidError{Field: "ids", Code: apikey.InvalidTooMany, Max: maxMany}
	}
	ctx, cancel := context.WithTimeout(c.ctx, manyTime)
	defer cancel()
	results := revokedMany{Data: make([]revokedOne, 0, len(body.IDs))}
	for i, id := range body.IDs {
		err := error(apikey.ErrBusy) // if the time is over: not tried
		if ctx.Err() == nil {
			err = c.Manager.Revoke(ctx, apikey.RevokeRequest{Key: id, Reason: body.Reason})
		}
		if i == 0 && len(apikey.InvalidFields(err)) > 0 { // the reason, which all have in common
			return answer{}, err
		}
		results.Data = append(results.Data, revokedOne{ID: id, Revoked: err == nil, Error: c.explained(err)})
	}
	return answer{body: results}, nil
}

// revokeAll revokes one page of the keys that the body selects. The Manager joins one error
// for each failed key, in the order of Failed.
func (c *call) revokeAll() (answer, error) {
	var body struct {
		All         bool          `json:"all"`
		Mode        apikey.Mode   `json:"mode"`
		Kind        apikey.Kind   `json:"kind"`
		NeverUsed   bool          `json:"never_used"`
		UnusedSince time.Time     `json:"unused_since"`
		Reason      apikey.Reason `json:"reason"`
		Cursor      apikey.Cursor `json:"cursor"`
		Limit       int           `json:"limit"`
	}
	if err := c.read(&body); err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, manyTime) // else each key may take as long as Revoke
	defer cancel()
	done, err := c.Manager.RevokeAll(ctx, apikey.RevokeAllRequest{
		All: body.All, Mode: body.Mode, Kind: body.Kind, NeverUsed: body.NeverUsed, UnusedSince: body.UnusedSince,
		Reason: body.Reason, Cursor: body.Cursor, Limit: body.Limit,
	})
	var reasons []error
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		reasons = several.Unwrap()
	}
	if err != nil && (len(done.Failed) == 0 || len(reasons) != len(done.Failed)) {
		return answer{}, err // about the request, not about one key of it
	}
	result := revokedAll{Revoked: done.Revoked, Next: done.Next, Failed: make([]revokedOne, 0, len(reasons))}
	for i, reason := range reasons {
		result.Failed = append(result.Failed, revokedOne{ID: done.Failed[i], Error: c.explained(reason)})
	}
	return answer{body: result}, nil
}

// explained returns the problem of one key among several, and nil for no error.
func (c *call) explained(err error) *httpauth.Problem {
	if err == nil {
		return nil
	}
	p := httpauth.Refused(err)
	c.log(p.Status, p.Code, err)
	return &p
}
