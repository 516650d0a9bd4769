// Package act has what the JSON API and the key page both do about a change. Do takes a
// guarded request through the steps of its approval: every request over HTTP that may need
// an approval passes it. Did tells whether a person has made a change before.
package act

import (
	"context"
	"errors"

	"github.com/go-apikey/apikey"
)

// Approval is what a request says about its own approval: a member of its body, or fields
// of its form. It is never in a URL, a header or a log, because Answer is a code or a
// password.
type Approval struct {
	Factor    string `json:"factor"`    // ask by this factor
	Resend    bool   `json:"resend"`    // with Factor: no code has come, send another one
	Challenge string `json:"challenge"` // with Answer: the challenge that is answered
	Answer    string `json:"answer"`
}

// Do makes a request in up to three steps. The same request comes each time, because it is
// what an approval is bound to:
//
//  1. without an Approval: the request is made. If it is guarded, the error is
//     ErrStepUpRequired.
//  2. with Factor: Do returns the challenge to be answered.
//  3. with Challenge and Answer: the answer is confirmed, and the request is made with the
//     grant. The grant does not leave this function, so a page cannot keep it.
//
// do makes the request with a grant. In step 3 it is called up to twice: first with the
// zero grant. So a request that is refused in any case, because a field is wrong, its
// version has passed or it was made before, uses no code up; and a request that needs no
// approval any more is made.
//
// Step 3 may be repeated: see [apikey.Manager.Confirm].
func Do(ctx context.Context, m *apikey.Manager, a Approval, request apikey.Guarded, do func(apikey.Grant) error) (*apikey.Challenge, error) {
	if err := a.valid(); err != nil {
		return nil, err
	}
	switch {
	case a.Factor != "":
		ask := m.Challenge
		if a.Resend {
			ask = m.Resend
		}
		challenge, err := ask(ctx, a.Factor, request)
		if errors.Is(err, apikey.ErrAlreadyIssued) {
			return nil, do(apikey.Grant{}) // refused in the same way, with the key that was made
		}
		if err != nil {
			return nil, err
		}
		return &challenge, nil
	case a.Challenge != "":
		if err := do(apikey.Grant{}); !errors.Is(err, apikey.ErrStepUpRequired) {
			return nil, err
		}
		grant, err := m.Confirm(ctx, a.Challenge, a.Answer)
		if err != nil {
			return nil, err
		}
		return nil, do(grant)
	}
	return nil, do(apikey.Grant{})
}

// valid refuses parts that do not belong together.
func (a Approval) valid() error {
	var wrong []error
	refuse := func(field string, code apikey.InvalidCode) {
		wrong = append(wrong, &apikey.InvalidError{Field: field, Code: code})
	}
	answers := a.Challenge != "" || a.Answer != ""
	switch {
	case a.Factor != "" && answers:
		refuse("approval.factor", apikey.InvalidContradiction)
	case a.Resend && a.Factor == "":
		refuse("approval.factor", apikey.InvalidRequired)
	case answers && a.Challenge == "":
		refuse("approval.challenge", apikey.InvalidRequired)
	case answers && a.Answer == "":
		refuse("approval.answer", apikey.InvalidRequired)
	}
	return errors.Join(wrong...)
}
