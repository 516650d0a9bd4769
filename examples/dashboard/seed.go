package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

const day = 24 * time.Hour

// seeding makes the past of an account: keys that were made, used, suspended and revoked
// over a year. Each step is a real call, at a time to which it has set the clock.
type seeding struct {
	manager  *apikey.Manager
	verifier *apikey.Verifier
	now      time.Time // what the Manager and the Verifier take for the time
	zone     *time.Location
	end      time.Time // when the past ends
	steps    []step
}

type step struct {
	at time.Time
	do func(ctx context.Context) error
}

// seed makes the keys of the preset, and n more. Its Manager asks for no approval, because
// the people of the past have long since given it.
func seed(ctx context.Context, s apikey.Settings, c apikey.ManagerConfig, p preset, n int) (err error) {
	z := &seeding{end: time.Now().Truncate(time.Minute)}
	z.now = z.end.Add(-400 * day)
	if z.zone, err = time.LoadLocation(p.Zone); err != nil {
		return err
	}
	s.Now, s.Logger = func() time.Time { return z.now }, nil
	if guarded := p.StepUp; guarded != nil {
		c.StepUp = func(a apikey.Action, m apikey.Mode) []string { // without a factor for it, no key is recoverable
			if a == apikey.ActionReveal {
				return guarded(a, m)
			}
			return nil
		}
	}
	if z.manager, err = apikey.NewManager(ctx, s, c); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, z.manager.Close(ctx)) }() // writes the last uses
	if z.verifier, err = z.manager.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.AnyMode, Sync: -1}); err != nil {
		return err
	}
	if p.Begin != nil { // after the others, so that the first page of the list shows these keys
		z.at(z.end.Add(-day), func(ctx context.Context) error { return p.Begin(ctx, z.manager) })
	}
	as := apikey.WithActor(ctx, people["superadmin"])
	for i := range n {
		if len(p.Abilities) > 0 {
			z.plan(i, n, p)
		}
	}
	slices.SortStableFunc(z.steps, func(a, b step) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	for _, step := range z.steps {
		z.now = step.at
		if err := step.do(as); err != nil {
			return err
		}
	}
	z.now = z.end
	return nil
}

// fates are what became of the seeded keys, in turn.
var fates = []string{"used", "unused since long ago", "never used", "suspended", "revoked", "expired", "expiring"}

// plan plans the life of one key: those with a lower number are older.
func (z *seeding) plan(i, n int, p preset) {
	made := z.end.Add(-390 * day).Add(time.Duration(i) * 240 * day / time.Duration(n))
	req := apikey.IssueRequest{
		Mode: apikey.Live, Name: fmt.Sprintf("Shop %d (%s)", i/2+1, []string{"web", "app"}[i%2]),
		Abilities: p.Abilities[i%len(p.Abilities)], Recoverable: p.Recoverable,
	}
	if i%5 == 4 {
		req.Mode = apikey.Test
	}
	var issued apikey.Issued
	use := func(ctx context.Context) error {
		_, err := z.verifier.Verify(ctx, issued.Token.Reveal(), apikey.Request{})
		return err
	}
	switch fates[i%len(fates)] {
	case "used":
		z.at(z.end.Add(-time.Hour), use)
	case "unused since long ago":
		req.RotateMonths = 3
		z.at(made.Add(20*day), use)
	case "suspended":
		z.at(made.Add(30*day), use)
		z.at(made.Add(31*day), func(ctx context.Context) error { return z.manager.Suspend(ctx, issued.Key.ID) })
	case "revoked":
		z.at(made.Add(10*day), func(ctx context.Context) error {
			return z.manager.Revoke(ctx, apikey.RevokeRequest{Key: issued.Key.ID, Reason: apikey.ReasonRequested})
		})
	case "expired":
		req.ExpiresAt = z.endOfDay(made.Add(60 * day))
		z.at(made.Add(59*day), use)
	case "expiring":
		req.ExpiresAt = z.endOfDay(z.end.Add(20 * day))
		z.at(z.end.Add(-5*time.Minute), use)
	}
	z.at(made, func(ctx context.Context) (err error) {
		issued, err = z.manager.Issue(ctx, req)
		return err
	})
}

func (z *seeding) at(t time.Time, do func(context.Context) error) {
	z.steps = append(z.steps, step{t, do})
}

// endOfDay is the end of a day in the zone of the account, as the page reads one.
func (z *seeding) endOfDay(t time.Time) time.Time {
	year, month, date := t.In(z.zone).Date()
	return time.Date(year, month, date+1, 0, 0, 0, 0, z.zone)
}
