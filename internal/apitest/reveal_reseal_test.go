package apitest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// sealedEnv has recoverable keys of two accounts and two enrolled actors, and
// its Manager after the KEK was rotated.
type sealedEnv struct {
	*env
	f       *factors
	tokens  map[apikey.KeyID]apikey.Token
	rotated *apikey.Manager
	next    *brokenKEK
}

func newSealedEnv(t *testing.T, keys int, options ...func(*env)) *sealedEnv {
	t.Helper()
	s := &sealedEnv{tokens: map[apikey.KeyID]apikey.Token{}}
	s.env = newEnv(t, append(options, withFactors(&s.f, apikey.GuardRotate("totp")), func(e *env) {
		e.mc.InsecureRevealWithoutStepUp = true
		e.mc.Limits.LiveKeys = 1000
	})...)
	for i := range keys {
		ctx := s.ctx
		if i%2 == 1 {
			ctx = as("acc_2", "admin")
		}
		issued, err := s.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
		require.NoError(t, err)
		s.tokens[issued.Key.ID] = issued.Token
	}
	s.enroll(s.f, s.ctx, admin.ID)
	s.enroll(s.f, as("acc_2", "admin"), "usr_of_acc_2")
	s.next = &brokenKEK{KEK: localKEK(t, "kek-2", 9)}
	s.rotated = s.newManager(func(c *managerConfig) { c.KEKs = []apikey.KEK{s.next, s.f.kek} })
	return s
}

// opensWith says that every token and every seed opens with these KEKs alone.
func (s *sealedEnv) opensWith(keks ...apikey.KEK) {
	s.t.Helper()
	m := s.newManager(func(c *managerConfig) { c.KEKs = keks })
	for id, token := range s.tokens {
		shown, err := m.Reveal(staff(), apikey.RevealRequest{Key: id})
		require.NoError(s.t, err)
		require.Equal(s.t, token.Reveal(), shown.Token.Reveal())
	}
	mine := s.issue().Key.ID
	theirs, err := s.manager.Issue(as("acc_2", "admin"), apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(s.t, err)
	for actor, c := range map[string]struct {
		ctx context.Context
		key apikey.KeyID
	}{admin.ID: {s.ctx, mine}, "usr_of_acc_2": {as("acc_2", "admin"), theirs.Key.ID}} {
		s.clock.move(600e9)
		put, err := m.Challenge(c.ctx, "totp", apikey.RotateRequest{Key: c.key})
		require.NoError(s.t, err)
		_, err = m.Confirm(c.ctx, put.ID, s.f.app(actor))
		require.NoError(s.t, err)
	}
}

func (s *sealedEnv) reseal(limit int) (done int, err error) {
	return s.rotated.Reseal(staff(), limit)
}

// A KEK is replaced in batches; then the old one can go.
func TestReseal(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		s := newSealedEnv(t, 7, on)
		s.opensWith(s.next, s.f.kek)
		begun, ctx := apikey.EnrollRequest{Factor: "totp"}, as("acc_3", "admin")
		begun.Grant = s.approve(s.f, ctx, "password", begun)
		enrollment, err := s.manager.Enroll(ctx, begun)
		require.NoError(t, err)
		s.f.scan("usr_of_acc_3", enrollment)
		var sealed []string
		total := 0
		for {
			done, err := s.reseal(2)
			require.NoError(t, err)
			require.LessOrEqual(t, done, 2)
			if total += done; done == 0 {
				break
			}
			sealed = append(sealed, fmt.Sprint("sealed:", done))
		}
		// Seven tokens, and the seed that is not confirmed yet. The two that are were
		// sealed anew by the answers above, under the KEK that was first then.
		require.Equal(t, 8, total)
		alone := s.newManager(func(c *managerConfig) { c.KEKs = []apikey.KEK{s.next} })
		require.NoError(t, alone.ConfirmEnrollment(ctx, "totp", s.f.app("usr_of_acc_3")))
		s.opensWith(s.next)
		var told []string
		for _, ev := range s.allEvents(apikey.EventsRequest{}) {
			if ev.Action == apikey.ActionReseal && ev.Outcome == apikey.OutcomeDone {
				told = append(told, ev.Changed...)
				require.Equal(t, "ops_1", ev.Actor.ID)
			}
		}
		require.Equal(t, sealed, told, "an event for each call that sealed something, and for no other")
	})
}

// Whatever call to the store is the last one before the process dies, nothing is
// lost and the next run goes on.
func TestResealDies(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, on func(*env)) {
		deaths := 0
		for at := 0; ; at++ {
			s := newSealedEnv(t, 3, on)
			left := 1 << 20 // until Reseal begins
			ctx, end := context.WithCancel(staff())
			dying := &dyingStore{Store: s.store, left: &left, end: end}
			m := s.newManager(func(c *managerConfig) { c.Store, c.KEKs = dying, s.rotatedKEKs() })
			left = at
			_, err := m.Reseal(ctx, 0)
			end()
			if err == nil {
				break
			}
			deaths++
			s.opensWith(s.next, s.f.kek)
			for done := 1; done > 0; {
				done, err = s.reseal(0)
				require.NoError(t, err)
			}
			s.opensWith(s.next)
		}
		require.Greater(t, deaths, 8)
		t.Logf("Reseal died at each of %d calls to the store: 0 lost", deaths)
	})
}

func (s *sealedEnv) rotatedKEKs() []apikey.KEK { return []apikey.KEK{s.next, s.f.kek} }

// dyingStore answers so many calls, and then no more, and the process ends: half
// of the writes after it have been done, and only their answer is lost.
type dyingStore struct {
	apikey.Store
	left *int
	end  func()
}

func (d *dyingStore) dies() bool {
	if *d.left--; *d.left >= 0 {
		return false
	}
	d.end()
	return true
}

func (d *dyingStore) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	if d.dies() {
		return apikey.StorePage{}, errCable
	}
	return d.Store.List(ctx, f)
}

func (d *dyingStore) Items(ctx context.Context, f apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	if f.Kind == "pepper" { // the start
		return d.Store.Items(ctx, f)
	}
	if d.dies() {
		return apikey.StoreItemPage{}, errCable
	}
	return d.Store.Items(ctx, f)
}

func (d *dyingStore) Upkeep(ctx context.Context, batch []apikey.StoreUpkeep) error {
	if d.dies() {
		if *d.left%2 == 0 {
			d.Store.Upkeep(ctx, batch)
		}
		return errCable
	}
	return d.Store.Upkeep(ctx, batch)
}

func (d *dyingStore) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	if d.dies() {
		if *d.left%2 == 0 {
			d.Store.Apply(ctx, changes...)
		}
		return errCable
	}
	return d.Store.Apply(ctx, changes...)
}

// What does not open is left as it is and named; the others are done.
func TestResealOfADamagedCopy(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		s := newSealedEnv(t, 3, on)
		issued := s.issue(recoverable)
		broken, err := s.store.Get(background, issued.Key.ID)
		require.NoError(t, err)
		cred := broken.Credentials[0]
		require.NoError(t, s.store.Upkeep(background, []apikey.StoreUpkeep{{Credential: cred.ID, OldSealed: cred.Sealed, NewSealed: []byte("junk"), NewKEK: "kek-1"}}))
		done, err := s.reseal(0)
		require.Equal(t, 5, done)
		require.ErrorIs(t, err, apikey.ErrCorrupt)
		require.ErrorContains(t, err, issued.Key.ID.String())
		done, err = s.reseal(0)
		require.Zero(t, done)
		require.ErrorIs(t, err, apikey.ErrCorrupt, "it is not forgotten")
		s.opensWith(s.next)
		unknown := s.newManager(func(c *managerConfig) { c.KEKs = []apikey.KEK{localKEK(t, "kek-3", 50)} })
		done, err = unknown.Reseal(staff(), 0)
		require.Zero(t, done)
		require.ErrorContains(t, err, `KEK "kek-2" is not configured`)
	})
}

// What another node sealed anew meanwhile is neither a failure nor counted twice.
func TestResealOnTwoNodes(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		s := newSealedEnv(t, 0, on, through(&p))
		other := s.newManager(func(c *managerConfig) { c.KEKs = s.rotatedKEKs() })
		var theirs int
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
				p.hook(func(p *proxy) { p.apply = nil })
				var err error
				theirs, err = other.Reseal(staff(), 0)
				require.NoError(t, err)
				return next()
			}
		})
		done, err := s.reseal(0)
		require.NoError(t, err)
		require.Zero(t, done)
		require.Equal(t, 2, theirs)
		s.opensWith(s.next)
	})
}

// A KEK that calls a damaged value a failure of its own, as a careless adapter
// does, holds up that value and no other.
func TestResealByACarelessKEK(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		s := newSealedEnv(t, 5, on)
		first, err := s.store.List(background, apikey.StoreFilter{SealedKEKNot: "kek-2", Limit: 1})
		require.NoError(t, err)
		record := first.Records[0]
		cred := record.Credentials[0]
		turned := slices.Clone(cred.Sealed)
		turned[3] ^= 1 // in the wrapped key
		require.NoError(t, s.store.Upkeep(background, []apikey.StoreUpkeep{{Credential: cred.ID, OldSealed: cred.Sealed, NewSealed: turned, NewKEK: "kek-1"}}))
		s.f.kek.set(func(k *brokenKEK) {
			k.unwrap = func(_ context.Context, next func() ([]byte, error)) ([]byte, error) {
				dek, err := next()
				if err != nil {
					err = errors.New("400 InvalidCiphertextException")
				}
				return dek, err
			}
		})
		done, err := s.reseal(0)
		require.Equal(t, 6, done, "four tokens and two seeds")
		require.ErrorIs(t, err, apikey.ErrUnavailable)
		require.ErrorContains(t, err, record.ID.String())
		delete(s.tokens, record.ID)
		s.opensWith(s.next)
	})
}

// A KEK that is away ends the batch, at the second value: it would cost its time for every value.
func TestResealWithoutItsKEK(t *testing.T) {
	s := newSealedEnv(t, 5)
	s.f.kek.set(func(k *brokenKEK) {
		k.unwraps = 0
		k.unwrap = func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, errKMS }
	})
	done, err := s.reseal(0)
	require.Zero(t, done)
	require.ErrorIs(t, err, errKMS)
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.Equal(t, 2, s.f.kek.asked())
	s.f.kek.set(func(k *brokenKEK) { k.unwrap = nil })
	s.opensWith(s.next, s.f.kek)
}

// Resealing is for the program's staff, in batches that have a size.
func TestResealIsForOperators(t *testing.T) {
	s := newSealedEnv(t, 1)
	_, err := s.rotated.Reseal(s.ctx, 0)
	require.ErrorIs(t, err, apikey.ErrForbidden)
	for _, limit := range []int{-1, 1001} {
		_, err = s.reseal(limit)
		require.ErrorIs(t, err, apikey.ErrInvalid)
	}
	none := s.newManager(func(c *managerConfig) { c.KEKs, c.Factors, c.StepUp = nil, nil, nil })
	_, err = none.Reseal(staff(), 0)
	require.ErrorIs(t, err, apikey.ErrInvalid)
	_, err = none.Issue(s.ctx, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.ErrorContains(t, err, "KEK")
	for id := range s.tokens {
		_, err = none.Reveal(staff(), apikey.RevealRequest{Key: id})
	}
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorContains(t, err, `"kek-1" is not configured`)
}
