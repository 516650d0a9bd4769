package apitest

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// slowHasher takes time, as argon2 does whose slots are taken by others.
type slowHasher struct {
	apikey.Hasher
	takes func()
}

func (h *slowHasher) Hash(ctx context.Context, secret []byte) (string, error) {
	h.takes()
	return h.Hasher.Hash(ctx, secret)
}

// hashingTakes has every hash of a new token take d of the test's clock.
func hashingTakes(d *time.Duration) func(*env) {
	return func(e *env) {
		h := &slowHasher{e.settings.Hashers[0], func() { e.clock.move(*d) }}
		e.settings.Hashers = []apikey.Hasher{h}
	}
}

// An overlap is counted from when there is a token to change to, however long
// its hash and its sealed copy took.
func TestFound14AnOverlapBeginsWithTheNewToken(t *testing.T) {
	const wait, length = 2 * time.Second, 700 * time.Millisecond
	var hash time.Duration
	var f *factors
	e := newEnv(t, withFactors(&f, nil), hashingTakes(&hash))
	e.clock.t = e.clock.t.Truncate(time.Microsecond)
	key := e.issue(func(r *apikey.IssueRequest) { r.Recoverable, r.RotateMonths = true, 3 })
	for _, slow := range []string{"hash", "KEK"} {
		hash = 0
		f.kek.set(func(k *brokenKEK) { k.wrap = nil })
		if slow == "hash" {
			hash = wait
		} else {
			f.kek.set(func(k *brokenKEK) {
				k.wrap = func(_ context.Context, next func() ([]byte, error)) ([]byte, error) {
					e.clock.move(wait)
					return next()
				}
			})
		}
		begun, old := e.clock.now(), key.Token
		next, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, Overlap: length})
		require.NoError(t, err)
		got := e.clock.now()
		require.Equal(t, wait, got.Sub(begun), "the %s did take its time", slow)
		require.Equal(t, got.Add(length), next.Key.Credentials.At(1).NotAfter, slow)
		require.Equal(t, got.AddDate(0, 3, 0), next.Key.RotateDue, slow)
		e.clock.move(length - time.Nanosecond)
		require.NoError(t, e.verify(old), slow)
		e.clock.move(time.Nanosecond)
		require.ErrorIs(t, e.verify(old), apikey.ErrCredentialEnded, slow)
		key.Token = next.Token
	}
}

// 200 rotations with an overlap of 500 ms, whose hashes wait up to 2 s for their
// turn, under clients that look their token up every 100 ms: whoever is refused
// had a newer token to look up for 400 ms.
func TestFound14RotationsWhileHashingIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys, rotations, length, look = 10, 20, 500 * time.Millisecond, 100 * time.Millisecond
		e := newEnv(t, func(e *env) {
			h := &slowHasher{e.settings.Hashers[0], func() { time.Sleep(rand.N(2 * time.Second)) }}
			e.settings.Hashers = []apikey.Hasher{h}
			e.settings.Now = time.Now
		})
		var rotated, asked, refused int
		var mu sync.Mutex
		var all sync.WaitGroup
		for range keys {
			key := e.issue()
			token, ended := key.Token, false
			all.Go(func() {
				for range rotations {
					next, err := e.rotate(key.Key.ID, overlap(length))
					mu.Lock()
					require.NoError(t, err)
					token = next
					rotated++
					mu.Unlock()
					time.Sleep(length + rand.N(time.Second))
				}
				mu.Lock()
				ended = true
				mu.Unlock()
			})
			all.Go(func() {
				for {
					mu.Lock()
					mine, stop := token, ended
					mu.Unlock()
					if stop {
						return
					}
					for range look / (5 * time.Millisecond) {
						err := e.verify(mine)
						mu.Lock()
						asked++
						if err != nil {
							refused++
						}
						mu.Unlock()
						time.Sleep(5 * time.Millisecond)
					}
				}
			})
		}
		all.Wait()
		t.Logf("%d rotations, overlap %v: %d requests, %d refused that had no way to know better", rotated, length, asked, refused)
		require.Equal(t, keys*rotations, rotated)
		require.Greater(t, asked, 10_000)
		require.Zero(t, refused)
	})
}

// What takes time comes before the clock is read: nothing is dated before it
// exists, and no time that was given runs out before anybody can use it.
func TestFound14NothingIsDatedBeforeItExists(t *testing.T) {
	const wait = 2 * time.Second
	t.Run("a new key", func(t *testing.T) {
		hash := wait
		e := newEnv(t, hashingTakes(&hash))
		e.clock.t = e.clock.t.Truncate(time.Microsecond)
		req := apikey.IssueRequest{Mode: apikey.Live, RotateMonths: 3, IdempotencyKey: "once"}
		key, err := e.manager.Issue(e.ctx, req)
		require.NoError(t, err)
		born := e.clock.now()
		require.Equal(t, born, key.Key.CreatedAt)
		require.Equal(t, born.AddDate(0, 3, 0), key.Key.RotateDue)
		e.clock.move(24*time.Hour - time.Nanosecond)
		_, err = e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued, "a day from when there was something to repeat")
	})
	t.Run("a key whose end comes first", func(t *testing.T) {
		hash := wait
		e := newEnv(t, hashingTakes(&hash))
		issued, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, ExpiresAt: e.clock.now().Add(wait / 2)})
		require.ErrorIs(t, err, apikey.ErrInvalid)
		require.True(t, issued.Token.IsZero(), "nobody is given a token that never works")
		require.Empty(t, e.list(apikey.ListRequest{}))
	})
	t.Run("a switch whose time comes first", func(t *testing.T) {
		var hash time.Duration
		e := newEnv(t, hashingTakes(&hash))
		key := e.issue()
		hash = wait
		_, err := e.rotate(key.Key.ID, e.at(wait/2))
		require.ErrorIs(t, err, apikey.ErrInvalid, "nobody could change tokens at a time that has passed")
		e.clock.move(time.Hour)
		require.NoError(t, e.accepts(key.Token))
	})
	t.Run("a grant", func(t *testing.T) {
		var f *factors
		e := newEnv(t, withFactors(&f, apikey.GuardRevealAndRotate("slow")), func(e *env) {
			slow, err := apikey.NewPassword(func(context.Context, string, string) (bool, error) {
				e.clock.move(20 * time.Second)
				return true, nil
			})
			require.NoError(t, err)
			e.mc.Factors["slow"] = slow
		})
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		c, err := e.manager.Challenge(e.ctx, "slow", req)
		require.NoError(t, err)
		req.Grant, err = e.manager.Confirm(e.ctx, c.ID, "right")
		require.NoError(t, err)
		e.clock.move(2*time.Minute - time.Millisecond)
		_, err = e.manager.Rotate(e.ctx, req)
		require.NoError(t, err, "two minutes from the answer on")
	})
	t.Run("an enrolment", func(t *testing.T) {
		var f *factors
		e := newEnv(t, withFactors(&f, nil))
		f.kek.set(func(k *brokenKEK) {
			k.wrap = func(_ context.Context, next func() ([]byte, error)) ([]byte, error) {
				e.clock.move(20 * time.Second)
				return next()
			}
		})
		req := apikey.EnrollRequest{Factor: "totp"}
		req.Grant = e.approve(f, e.ctx, "password", req)
		enrollment, err := e.manager.Enroll(e.ctx, req)
		require.NoError(t, err)
		f.scan(admin.ID, enrollment)
		e.clock.move(10*time.Minute - time.Millisecond)
		require.NoError(t, e.manager.ConfirmEnrollment(e.ctx, "totp", f.app(admin.ID)), "ten minutes from what was shown")
	})
	t.Run("a token that ends while its copy is opened", func(t *testing.T) {
		var f *factors
		e := newEnv(t, withFactors(&f, nil), func(e *env) { e.mc.InsecureRevealWithoutStepUp = true })
		key := e.issue(func(r *apikey.IssueRequest) { r.Recoverable = true })
		_, err := e.rotate(key.Key.ID, overlap(wait))
		require.NoError(t, err)
		f.kek.set(func(k *brokenKEK) {
			k.unwrap = func(_ context.Context, next func() ([]byte, error)) ([]byte, error) {
				e.clock.move(wait)
				return next()
			}
		})
		shown, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID, Credential: key.Token.Credential()})
		require.ErrorIs(t, err, apikey.ErrNotFound)
		require.True(t, shown.Token.IsZero())
	})
}

// list is a page of the account's keys, which has to be all of them.
func (e *env) list(req apikey.ListRequest) []apikey.Info {
	e.t.Helper()
	page, err := e.manager.List(e.ctx, req)
	require.NoError(e.t, err)
	require.Empty(e.t, page.Damaged)
	require.Empty(e.t, page.Next)
	return page.Keys
}

// A time that is computed has the bound of a time that is given.
func TestFound16NoComputedTimeIsBeyondTheYear9999(t *testing.T) {
	last := time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
	for name, c := range map[string]struct {
		at      time.Time
		overlap time.Duration
		ok      bool
	}{
		"skew alone":            {last.Add(-time.Second), 0, false},
		"overlap":               {last.Add(-time.Hour), time.Hour + time.Microsecond, false},
		"at itself":             {last.Add(time.Microsecond), 0, false},
		"a time that overflows": {time.Unix(1<<63-62135596801-1, 0), 7 * 24 * time.Hour, false},
		"the last skew":         {last.Add(-skew), 0, true},
		"the last overlap":      {last.Add(-time.Hour), time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				e := newEnv(t, on)
				key := e.issue(func(r *apikey.IssueRequest) { r.RotateMonths = 120 })
				_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, At: c.at, Overlap: c.overlap})
				if c.ok {
					require.NoError(t, err)
					require.Equal(t, last, e.list(apikey.ListRequest{})[0].RotateDue, "a reminder is never too far to be written")
				} else {
					require.ErrorIs(t, err, apikey.ErrInvalid)
					require.Contains(t, err.Error(), "9999")
				}
				_, err = json.Marshal(e.list(apikey.ListRequest{}))
				require.NoError(t, err)
				require.NoError(t, e.accepts(key.Token))
			})
		})
	}
}

// farStore answers with records that an earlier version has stored.
type farStore struct {
	apikey.Store
	edit func(*apikey.StoreRecord)
}

func (s *farStore) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := s.Store.Get(ctx, id)
	if err == nil {
		s.edit(&r)
	}
	return r, err
}

func (s *farStore) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	page, err := s.Store.List(ctx, f)
	for i := range page.Records {
		if s.edit != nil {
			s.edit(&page.Records[i])
		}
	}
	return page, err
}

// One key with a time that JSON cannot write, from an earlier version or put
// there by hand, keeps no list from being shown, and can be ended.
func TestFound16AStoredTimeBeyondTheYear9999IsShown(t *testing.T) {
	far, early := time.Date(10000, 1, 1, 0, 0, 3, 0, time.UTC), time.Date(-4, 1, 1, 0, 0, 0, 0, time.UTC)
	var store *farStore
	e := newEnv(t, noPepper, func(e *env) {
		store = &farStore{Store: e.store}
		e.store = store
	})
	key := e.issue()
	store.edit = func(r *apikey.StoreRecord) {
		if r.ID != key.Key.ID || r.Version > 1 {
			return
		}
		r.ExpiresAt, r.RotateMonths, r.RotateDue = far, 1, far
		r.Credentials[0].NotAfter, r.Credentials[0].LastUsed = far, far
		r.Credentials = append([]apikey.StoreCredential{
			{ID: storetest.NewCredentialID(), NotBefore: far, NotAfter: far, Hash: "x"}, {ID: storetest.NewCredentialID(), NotAfter: early, Hash: "x"},
		}, r.Credentials...)
	}
	e.issue()
	list := e.list(apikey.ListRequest{})
	require.Len(t, list, 2)
	text, err := json.Marshal(list)
	require.NoError(t, err)
	require.NotContains(t, string(text), "10000")
	info, err := e.manager.Get(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, 9999, info.RotateDue.Year())
	require.Equal(t, 1, info.Credentials.At(1).NotAfter.Year(), "and never the zero time, which means no end")
	require.False(t, info.Credentials.At(1).NotAfter.IsZero())
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
}

// A rotation that is called off, in whatever way, leaves no trace in the list of
// those that are overdue.
func TestFound17ACalledOffRotationIsStillDue(t *testing.T) {
	type ender func(e *env, key apikey.KeyID, next apikey.Token) error
	enders := map[string]ender{
		"CancelRotation": func(e *env, key apikey.KeyID, _ apikey.Token) error {
			return e.manager.CancelRotation(e.ctx, key)
		},
		"Retire": func(e *env, key apikey.KeyID, next apikey.Token) error {
			return e.manager.Retire(e.ctx, apikey.RetireRequest{Key: key, Credential: next.Credential()})
		},
		"RevokeToken": func(e *env, _ apikey.KeyID, next apikey.Token) error {
			return e.manager.RevokeToken(background, next.Reveal(), apikey.ReasonCompromised)
		},
	}
	for name, end := range enders {
		for _, when := range []time.Duration{0, 24*time.Hour - skew, 24*time.Hour - time.Microsecond} {
			t.Run(name+" after "+when.String(), func(t *testing.T) {
				onStores(t, func(t *testing.T, on func(*env)) {
					e := newEnv(t, on)
					e.clock.t = e.clock.t.Truncate(time.Microsecond)
					key := e.issue(func(r *apikey.IssueRequest) { r.RotateMonths = 1 })
					due := key.Key.RotateDue
					overdue := func() []apikey.Info { return e.list(apikey.ListRequest{DueBefore: e.clock.now()}) }
					e.clock.move(40 * 24 * time.Hour)
					require.Len(t, overdue(), 1)
					at := e.clock.now().Add(24 * time.Hour)
					next, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, At: at, Overlap: time.Hour})
					require.NoError(t, err)
					require.Equal(t, at.AddDate(0, 1, 0), next.Key.RotateDue, "nobody is reminded of what is planned")
					require.Empty(t, overdue())

					e.clock.move(when)
					require.NoError(t, end(e, key.Key.ID, next.Token))
					info, err := e.manager.Get(e.ctx, key.Key.ID)
					require.NoError(t, err)
					require.Equal(t, due, info.RotateDue)
					require.Len(t, overdue(), 1)
					e.clock.move(48 * time.Hour)
					require.NoError(t, e.accepts(key.Token), "the current token got its time back")
				})
			})
		}
	}
}

// The months count from the switch once it has happened, and from then on
// whatever is planned and called off.
func TestFound17DueAfterASwitchThatHappened(t *testing.T) {
	e := newEnv(t)
	e.clock.t = e.clock.t.Truncate(time.Microsecond)
	key := e.issue(func(r *apikey.IssueRequest) { r.RotateMonths = 1 })
	due := func() time.Time {
		info, err := e.manager.Get(e.ctx, key.Key.ID)
		require.NoError(t, err)
		require.Len(t, e.list(apikey.ListRequest{DueBefore: info.RotateDue}), 1)
		require.Empty(t, e.list(apikey.ListRequest{DueBefore: info.RotateDue.Add(-time.Microsecond)}))
		return info.RotateDue
	}
	at := e.clock.now().Add(24 * time.Hour)
	_, err := e.rotate(key.Key.ID, e.at(24*time.Hour))
	require.NoError(t, err)
	e.clock.move(7 * 24 * time.Hour)
	require.Equal(t, at.AddDate(0, 1, 0), due())
	_, err = e.rotate(key.Key.ID, e.at(24*time.Hour))
	require.NoError(t, err)
	require.NoError(t, e.manager.CancelRotation(e.ctx, key.Key.ID))
	require.Equal(t, at.AddDate(0, 1, 0), due())

	// Months that are changed count from then, and from the switch that is planned.
	_, err = e.rotate(key.Key.ID, e.at(24*time.Hour))
	require.NoError(t, err)
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, RotateMonths: apikey.Set(2)})
	require.NoError(t, err)
	now := e.clock.now()
	require.Equal(t, now.Add(24*time.Hour).AddDate(0, 2, 0), due())
	require.NoError(t, e.manager.CancelRotation(e.ctx, key.Key.ID))
	require.Equal(t, now.AddDate(0, 2, 0), due())
	_, err = e.rotate(key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, now.AddDate(0, 2, 0), due())
}

// Calling a rotation off gives back what it took, and no more: an older token
// that was to end before the switch still ends, also if it is the current one by
// now because the one in between was retired.
func TestFound17CallingOffProlongsNoOlderToken(t *testing.T) {
	for name, end := range map[string]func(*env, apikey.KeyID) error{
		"CancelRotation": func(e *env, key apikey.KeyID) error {
			return e.manager.CancelRotation(e.ctx, key)
		},
		"Replace": func(e *env, key apikey.KeyID) error {
			_, err := e.rotate(key, e.at(3*time.Hour), replace)
			if err == nil {
				err = e.manager.CancelRotation(e.ctx, key)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			key := e.issue()
			second, err := e.rotate(key.Key.ID, overlap(time.Hour))
			require.NoError(t, err)
			_, err = e.rotate(key.Key.ID, e.at(2*time.Hour))
			require.NoError(t, err)
			require.NoError(t, e.manager.Retire(e.ctx, apikey.RetireRequest{Key: key.Key.ID, Credential: second.Credential()}))
			if err := end(e, key.Key.ID); err != nil {
				require.ErrorIs(t, err, apikey.ErrOverlapRunning, "or it says what is in the way")
			}
			require.NoError(t, e.accepts(key.Token))
			e.clock.move(time.Hour)
			require.ErrorIs(t, e.accepts(key.Token), apikey.ErrCredentialEnded, "it was to end then")
		})
	}
}

// A month after the 31st is the last day of a shorter month, wherever months are
// added.
func TestFound18MonthsEndWithTheMonth(t *testing.T) {
	day := func(text string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		return at
	}
	for _, c := range []struct {
		from   string
		months int
		due    string
	}{
		{"2026-01-31T10:00:00Z", 1, "2026-02-28T10:00:00Z"},
		{"2028-01-31T10:00:00Z", 1, "2028-02-29T10:00:00Z"},
		{"2026-01-29T10:00:00Z", 1, "2026-02-28T10:00:00Z"},
		{"2026-01-28T10:00:00Z", 1, "2026-02-28T10:00:00Z"},
		{"2026-03-31T23:59:59.999999Z", 1, "2026-04-30T23:59:59.999999Z"},
		{"2026-08-31T10:00:00Z", 6, "2027-02-28T10:00:00Z"},
		{"2026-12-31T10:00:00Z", 2, "2027-02-28T10:00:00Z"},
		{"2028-02-29T10:00:00Z", 12, "2029-02-28T10:00:00Z"},
		{"2028-02-29T10:00:00Z", 48, "2032-02-29T10:00:00Z"},
		{"2026-02-28T10:00:00Z", 1, "2026-03-28T10:00:00Z"},
		{"2026-01-31T23:30:00-05:00", 1, "2026-03-01T04:30:00Z"}, // it is 1 February in UTC
		{"2026-05-15T10:00:00Z", 120, "2036-05-15T10:00:00Z"},
	} {
		due := day(c.due)
		at := func(months int) (*env, apikey.Issued) {
			e := newEnv(t)
			e.clock.t = day(c.from)
			return e, e.issue(func(r *apikey.IssueRequest) { r.RotateMonths = months })
		}
		_, issued := at(c.months)
		require.Equal(t, due, issued.Key.RotateDue, "issued on %s", c.from)

		e, key := at(0)
		info, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, RotateMonths: apikey.Set(c.months)})
		require.NoError(t, err)
		require.Equal(t, due, info.RotateDue, "set on %s", c.from)

		rotated, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID})
		require.NoError(t, err)
		require.Equal(t, due, rotated.Key.RotateDue, "rotated on %s", c.from)

		e, key = at(c.months)
		e.clock.move(-31 * 24 * time.Hour)
		rotated, err = e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, At: day(c.from)})
		require.NoError(t, err)
		require.Equal(t, due, rotated.Key.RotateDue, "rotated at %s", c.from)
	}
}

// Rotated on each due day, a key that is due monthly is due twelve times a year,
// and never skips a month.
func TestFound18EveryMonthHasItsDay(t *testing.T) {
	e := newEnv(t)
	e.clock.t = time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC)
	key := e.issue(func(r *apikey.IssueRequest) { r.RotateMonths = 1 })
	due := key.Key.RotateDue
	for n := 2; n <= 25; n++ {
		require.Equal(t, time.Month((n-1)%12+1), due.Month())
		e.clock.move(due.Sub(e.clock.now()))
		require.Len(t, e.list(apikey.ListRequest{DueBefore: e.clock.now()}), 1)
		rotated, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID})
		require.NoError(t, err)
		due = rotated.Key.RotateDue
	}
}
