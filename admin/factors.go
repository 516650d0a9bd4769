package admin

import (
	"slices"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/internal/act"
)

// factors lists the factors of the program, and whether the person who asks can use them
// now.
func (c *call) factors() (answer, error) {
	enrolled, err := c.Manager.Enrolled(c.ctx)
	if err != nil {
		return answer{}, err
	}
	body := factorsAnswer{Data: []factorAnswer{}}
	for _, f := range c.Manager.Rules().Factors {
		body.Data = append(body.Data, factorAnswer{f.Name, f.Enrolls, !f.Enrolls || slices.Contains(enrolled, f.Name)})
	}
	return answer{body: body}, nil
}

func (c *call) enroll() (answer, error) {
	var body approvalOnly
	if err := c.read(&body); err != nil {
		return answer{}, err
	}
	req := apikey.EnrollRequest{Factor: c.r.PathValue("factor")}
	var enrollment apikey.Enrollment
	return c.act(body.Approval, req, func(g apikey.Grant) (err error) {
		req.Grant = g
		enrollment, err = c.Manager.Enroll(c.ctx, req)
		return err
	}, func() answer {
		return answer{body: enrollmentAnswer{enrollment.Factor, enrollment.URI()}}
	})
}

func (c *call) confirmEnrollment() (answer, error) {
	var body struct {
		Answer string `json:"answer"`
	}
	if err := c.read(&body); err != nil {
		return answer{}, err
	}
	if body.Answer == "" {
		return answer{}, &apikey.InvalidError{Field: "answer", Code: apikey.InvalidRequired}
	}
	return answer{}, c.Manager.ConfirmEnrollment(c.ctx, c.r.PathValue("factor"), body.Answer)
}

func (c *call) disable() (answer, error) {
	var body approvalOnly
	if err := c.read(&body); err != nil {
		return answer{}, err
	}
	req := apikey.DisableRequest{Factor: c.r.PathValue("factor")}
	return c.act(body.Approval, req, func(g apikey.Grant) error {
		req.Grant = g
		return c.Manager.Disable(c.ctx, req)
	}, nil)
}

func (c *call) liftLock() (answer, error) {
	var body approvalOnly
	if err := c.read(&body); err != nil {
		return answer{}, err
	}
	req := apikey.LiftLockRequest{Actor: c.r.PathValue("actor")}
	return c.act(body.Approval, req, func(g apikey.Grant) error {
		req.Grant = g
		return c.Manager.LiftLock(c.ctx, req)
	}, nil)
}

// aboutFactor is the body of what is done to somebody else's factor.
type aboutFactor struct {
	Factor   string       `json:"factor"`
	Approval act.Approval `json:"approval"`
}

func (c *call) allowEnrollment() (answer, error) {
	var body aboutFactor
	if err := c.read(&body); err != nil {
		return answer{}, err
	}
	req := apikey.AllowEnrollmentRequest{Factor: body.Factor, Actor: c.r.PathValue("actor")}
	return c.act(body.Approval, req, func(g apikey.Grant) error {
		req.Grant = g
		return c.Manager.AllowEnrollment(c.ctx, req)
	}, nil)
}

func (c *call) disableForAnother() (answer, error) {
	var body aboutFactor
	if err := c.read(&body); err != nil {
		return answer{}, err
	}
	req := apikey.DisableRequest{Factor: body.Factor, Actor: c.r.PathValue("actor")}
	return c.act(body.Approval, req, func(g apikey.Grant) error {
		req.Grant = g
		return c.Manager.Disable(c.ctx, req)
	}, nil)
}
