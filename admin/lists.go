package admin

import "github.com/go-apikey/apikey"

// list is a page of the keys that the query selects.
func (c *call) list() (answer, error) {
	q := c.query()
	req := apikey.ListRequest{
		Mode: textOf[apikey.Mode](q, "mode"), Kind: textOf[apikey.Kind](q, "kind"), State: textOf[apikey.State](q, "state"),
		NameContains: q.text("name_contains"), NeverUsed: q.is("never_used"),
		UnusedSince: q.time("unused_since"), ExpiringBefore: q.time("expiring_before"), NotExpiredAt: q.time("not_expired_at"), DueBefore: q.time("due_before"),
		Usable: q.is("usable"), Expired: q.is("expired"),
		ExpiringWithin: q.seconds("expiring_within"), UnusedFor: q.seconds("unused_for"), DueWithin: q.seconds("due_within"),
		Cursor: apikey.Cursor(q.text("cursor")), Limit: q.number("limit"),
	}
	if err := q.err(); err != nil {
		return answer{}, err
	}
	list, err := c.Manager.List(c.ctx, req)
	if err != nil {
		return answer{}, err
	}
	body := listAnswer{Data: make([]keyAnswer, 0, len(list.Keys)), Next: list.Next}
	for _, info := range list.Keys {
		body.Data = append(body.Data, c.describe(info))
	}
	for _, d := range list.Damaged { // only the log says what is wrong with them
		c.log(500, "record_damaged", d)
		body.Damaged = append(body.Damaged, damagedAnswer{d.Key})
	}
	return answer{body: body}, nil
}

// events are those of the account or, if the path has a key, of that key.
func (c *call) events() (answer, error) {
	q := c.query()
	req := apikey.EventsRequest{
		Mode: textOf[apikey.Mode](q, "mode"), Actor: q.text("actor"), Since: q.time("since"), Before: q.time("before"),
		Cursor: apikey.Cursor(q.text("cursor")), Limit: q.number("limit"),
	}
	for _, action := range q.texts("actions") {
		req.Actions = append(req.Actions, apikey.Action(action))
	}
	var err error
	if c.r.PathValue("id") != "" {
		req.Key, err = c.key()
	}
	if err == nil {
		err = q.err()
	}
	if err != nil {
		return answer{}, err
	}
	list, err := c.Manager.Events(c.ctx, req)
	return answer{body: list}, err
}

// chain verifies all events of a key.
func (c *call) chain() (answer, error) {
	id, err := c.keyAndBody(&nothing{})
	if err != nil {
		return answer{}, err
	}
	report, err := c.Manager.VerifyEvents(c.ctx, id)
	return answer{body: report}, err
}
