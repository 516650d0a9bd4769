package apitest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// Challenges and charges have no event by which a store finds a commit whose
// answer was lost: what is tried again finds it by itself. Otherwise an actor on a
// bad network would be held up after five wrong answers, and after one challenge.
func TestALostAnswerCountsOnce(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		var f *factors
		e := newEnv(t, on, through(&p), withFactors(&f, apikey.GuardRotate("email")))
		lost := 0
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, changes []apikey.StoreChange) error {
				err := next()
				if err == nil && changes[0].Event == nil {
					lost++
					return apikey.ErrConflict
				}
				return err
			}
		})
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		for range 2 {
			c, err := e.manager.Challenge(e.ctx, "email", req)
			require.NoError(t, err)
			e.wrong(c.ID, 5)
		}
		require.Equal(t, 14, lost, "two challenges, two notes that a code went out, ten charges")
		e.clock.move(time.Hour)
		var last apikey.Challenge
		for _, key := range []apikey.KeyID{e.issue().Key.ID, e.issue().Key.ID, req.Key} {
			var err error
			last, err = e.manager.Challenge(e.ctx, "email", apikey.RotateRequest{Key: key})
			require.NoError(t, err)
		}
		require.Len(t, e.itemsOf("challenge"), 5, "three wait beside the two that are spent")
		var err error
		req.Grant, err = e.manager.Confirm(e.ctx, last.ID, f.code())
		require.NoError(t, err, "the code that was sent is that of the challenge that was kept")
		_, err = e.manager.Rotate(e.ctx, req)
		require.NoError(t, err)
	})
}

// So does the giving back of a charge: a factor that failed, and works when the
// lost answer is followed by another attempt, must not compare what nobody pays
// for any more.
func TestALostRefundIsNoFreeGuess(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		var f *factors
		e := newEnv(t, on, through(&p), withFactors(&f, apikey.GuardRotate("password")))
		for range 3 {
			c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
			require.NoError(t, err)
			for range 4 {
				commits := 0
				f.fail(errors.New("away"))
				p.hook(func(p *proxy) {
					p.apply = func(next func() error, _ []apikey.StoreChange) error {
						err := next()
						if commits++; commits == 2 && err == nil { // of the charge, and of its return
							f.fail(nil)
							return apikey.ErrConflict
						}
						return err
					}
				})
				_, err := e.manager.Confirm(e.ctx, c.ID, "guess")
				require.ErrorIs(t, err, apikey.ErrUnavailable, "it was not compared")
				require.NotErrorIs(t, err, apikey.ErrWrongAnswer)
				require.GreaterOrEqual(t, commits, 2)
				p.hook(func(p *proxy) { p.apply = nil })
			}
		}
	})
}

// IfVersion is about the key. A budget that changed meanwhile is no reason to give
// up, be it by a commit of our own whose answer was lost or by another tab.
func TestIfVersionIsAboutTheKey(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		var f *factors
		e := newEnv(t, on, through(&p), withFactors(&f, apikey.GuardRotate("password")))
		one, two := e.issue().Key, e.issue().Key
		requests := []apikey.RotateRequest{{Key: one.ID, IfVersion: one.Version}, {Key: two.ID, IfVersion: two.Version}}
		p.meet(2)
		errs := together(2, func(i int) error {
			_, err := e.manager.Challenge(e.ctx, "password", requests[i])
			return err
		})
		require.Equal(t, 2, count(errs, nil), "%v", errs)

		lost := 0
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, changes []apikey.StoreChange) error {
				err := next()
				if err == nil && changes[0].Event == nil {
					lost++
					return apikey.ErrConflict
				}
				return err
			}
		})
		c, err := e.manager.Resend(e.ctx, "password", requests[0])
		require.NoError(t, err)
		require.Equal(t, 1, lost)
		requests[0].Grant, err = e.manager.Confirm(e.ctx, c.ID, password)
		require.NoError(t, err)
		_, err = e.manager.Rotate(e.ctx, requests[0])
		require.NoError(t, err)
		requests[0].Grant = apikey.Grant{}
		_, err = e.manager.Rotate(e.ctx, requests[0])
		require.ErrorIs(t, err, apikey.ErrConflict, "and now it is another version")
	})
}

// panicking sends, and panics.
type panicking struct{ sent int }

func (s *panicking) Send(context.Context, string, apikey.Message) error {
	s.sent++
	panic("after it was sent")
}

// A mail that may have been sent counts.
func TestAPanickingSenderFloodsNoMailbox(t *testing.T) {
	var f *factors
	s := &panicking{}
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("email")), func(e *env) {
		mail, err := apikey.NewEmailCode(s, e.settings.Peppers...)
		require.NoError(t, err)
		e.mc.Factors["email"] = mail
	})
	req := apikey.RotateRequest{Key: e.issue().Key.ID}
	for range 5 {
		_, err := e.manager.Challenge(e.ctx, "email", req)
		require.ErrorIs(t, err, apikey.ErrUnavailable)
	}
	_, err := e.manager.Challenge(e.ctx, "email", req)
	require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
	require.Equal(t, 5, s.sent)
}
