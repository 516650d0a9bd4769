package apitest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/sqlstore"
)

// The functions before TestOperations are the same as in docs/operations.md:
// TestOperationsIsThisCode compares them. They are written as for a program, so they
// use nothing of the tests.

// endLeakedKey revokes a key. It needs no factor and no key service. If somebody
// else changes the key at the same time, Revoke tries again until it succeeds.
func endLeakedKey(ctx context.Context, m *apikey.Manager, key apikey.KeyID) error {
	return m.Revoke(ctx, apikey.RevokeRequest{Key: key, Reason: apikey.ReasonCompromised})
}

// replaceLeakedToken keeps the key, ends all its tokens and returns a new one. It
// is for a merchant who needs a working key now.
func replaceLeakedToken(ctx context.Context, m *apikey.Manager, key apikey.KeyID) (apikey.Token, error) {
	issued, err := m.Rotate(ctx, apikey.RotateRequest{Key: key})
	return issued.Token, err
}

// endPresentedToken is for somebody who has found a token and knows nothing else
// about its key. To have the token is enough, so no actor is needed.
func endPresentedToken(ctx context.Context, m *apikey.Manager, token string) error {
	return m.RevokeToken(ctx, token, apikey.ReasonCompromised)
}

// withPeppers sets the peppers of one step: new tokens are made with the first one,
// and tokens of all of them verify.
func withPeppers(s *apikey.Settings, peppers ...apikey.Pepper) error {
	hasher, err := apikey.NewHMACSHA256(peppers...) // with Argon2id, which has no pepper, leave the Hashers as they are
	s.Peppers, s.Hashers = peppers, []apikey.Hasher{hasher}
	return err
}

// renewTokens makes a new token for every key of the list that needs one. The old
// token keeps working for overlap. Keys that are suspended or have expired cannot be
// rotated: they are returned, for people to look at. If a key fails, its ID is in the
// error, and renewTokens goes on with the other keys. Call renewTokens again to
// continue: keys that have a new token do not get another.
func renewTokens(ctx context.Context, m *apikey.Manager, list apikey.ListRequest, overlap time.Duration,
	needs func(apikey.Info) (bool, error), deliver func(apikey.Info, apikey.Token) error,
) (left []apikey.Info, err error) {
	var failed []error
	for {
		page, err := m.List(ctx, list)
		if err != nil {
			return left, errors.Join(append(failed, err)...)
		}
		for _, damaged := range page.Damaged {
			failed = append(failed, damaged)
		}
		for _, key := range page.Keys {
			if need, err := needs(key); err != nil || !need {
				failed = append(failed, err)
				continue
			}
			next, err := m.Rotate(ctx, apikey.RotateRequest{Key: key.ID, Overlap: overlap, Replace: true})
			switch {
			case errors.Is(err, apikey.ErrSuspended), errors.Is(err, apikey.ErrExpired):
				left = append(left, key)
			case err != nil:
				failed = append(failed, fmt.Errorf("key %s: %w", key.ID, err))
			default:
				if err := deliver(next.Key, next.Token); err != nil { // nobody has the new token: rotate this key again
					failed = append(failed, fmt.Errorf("key %s was rotated and not delivered: %w", key.ID, err))
				}
			}
		}
		if list.Cursor = page.Next; list.Cursor == "" {
			return left, errors.Join(failed...)
		}
	}
}

// mintedBy returns a function that reports whether a key would stop working without
// the pepper in this slot: the key's current token was made with this pepper, or a
// token for which no end is set.
func mintedBy(slot uint8) func(apikey.Info) (bool, error) {
	return func(key apikey.Info) (bool, error) {
		for c := range key.Credentials.All() {
			ending := !c.NotAfter.IsZero() && c.ID != key.Credential
			if c.Pepper == slot && !c.Ended && !ending {
				return key.State != apikey.Revoked, nil
			}
		}
		return false, nil
	}
}

// renewMACs renews the MAC of every record, with the first pepper. Call renewMACs
// until the error is nil. The error names the records that something other than the
// library has changed: they get no new MAC.
func renewMACs(ctx context.Context, m *apikey.Manager) error {
	for {
		if renewed, err := m.Remac(ctx, 1000); renewed == 0 {
			return err
		}
	}
}

// endAllOf revokes every key that has a live token of that pepper. It is for an attack
// that is under way, when to wait for the merchants would cost more than to lock them
// out.
func endAllOf(ctx context.Context, m *apikey.Manager, slot uint8) error {
	var failed []error
	for req := (apikey.RevokeAllRequest{Pepper: slot, Reason: apikey.ReasonCompromised}); ; {
		done, err := m.RevokeAll(ctx, req)
		failed = append(failed, err)
		if req.Cursor = done.Next; req.Cursor == "" {
			return errors.Join(failed...)
		}
	}
}

// resealAll seals everything under the first KEK. Keep the old KEK until the error is
// nil.
func resealAll(ctx context.Context, m *apikey.Manager) error {
	for {
		if sealed, err := m.Reseal(ctx, 1000); sealed == 0 {
			return err
		}
	}
}

// sealedBefore returns a function that reports whether one of a key's live tokens was
// sealed before the leak. Somebody with an old backup and the old KEK can read such a
// token.
func sealedBefore(ctx context.Context, m *apikey.Manager, leak time.Time) func(apikey.Info) (bool, error) {
	return func(key apikey.Info) (bool, error) {
		if !key.Recoverable || key.State == apikey.Revoked || key.CreatedAt.After(leak) {
			return false, nil
		}
		later := map[apikey.CredentialID]bool{} // tokens made after the leak
		for req := (apikey.EventsRequest{Key: key.ID, Limit: 1000}); ; {
			log, err := m.Events(ctx, req)
			if err != nil {
				return false, err
			}
			for _, e := range log.Events {
				if e.Time.After(leak) && e.Action == apikey.ActionRotate {
					later[e.Credential] = true
				}
			}
			if req.Cursor = log.Next; req.Cursor == "" {
				break
			}
		}
		for c := range key.Credentials.All() {
			if !c.Ended && !later[c.ID] {
				return true, nil
			}
		}
		return false, nil
	}
}

// takeAwayAgain repeats the changes that took power away after the backup was made.
// since has the events of OnEvent after that time, oldest first, stored outside the
// database (an Event can be read back from its JSON). It returns the events that
// people have to handle: a rotation, because the merchant's new token is unknown now
// and the old one works again; and an update, because its event names the changed
// fields and not their values.
func takeAwayAgain(ctx context.Context, m *apikey.Manager, since []apikey.Event) (look []apikey.Event, err error) {
	var failed []error
	for _, e := range since {
		var err error
		switch e.Action {
		case apikey.ActionRevoke:
			err = m.Revoke(ctx, apikey.RevokeRequest{Key: e.Key, Reason: apikey.ReasonCompromised})
		case apikey.ActionSuspend:
			err = m.Suspend(ctx, e.Key)
		case apikey.ActionRetire, apikey.ActionRevokeToken:
			err = m.Retire(ctx, apikey.RetireRequest{Key: e.Key, Credential: e.Credential})
		default:
			look = append(look, e)
		}
		if err != nil && !errors.Is(err, apikey.ErrNotFound) { // not found: the key was made after the backup
			failed = append(failed, fmt.Errorf("key %s: %w", e.Key, err))
		}
	}
	return look, errors.Join(failed...)
}

// verifyAll verifies the chain of every key, and the events outside the chains. The
// error names the events that are broken. unsure names the events that cannot be
// verified: those made with a retired pepper, or before there was a pepper. Somebody
// who writes to the database may have changed them. So the result is good if there is
// no error, and if unsure names only keys that you expect: those that are older than
// a pepper that you have retired.
func verifyAll(ctx context.Context, m *apikey.Manager) (events int, unsure []string, err error) {
	var failed []error
	for list := (apikey.ListRequest{Limit: 1000}); ; {
		page, err := m.List(ctx, list)
		if err != nil {
			return events, unsure, errors.Join(append(failed, err)...)
		}
		for _, damaged := range page.Damaged {
			failed = append(failed, damaged)
		}
		for _, key := range page.Keys {
			report, err := m.VerifyEvents(ctx, key.ID)
			events += report.Events
			if err == nil && report.Broken != nil {
				err = fmt.Errorf("event %d: %s", report.Broken.Seq, report.Broken.Detail)
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("key %s: %w", key.ID, err))
			}
			if n := report.Unverifiable; n > 0 {
				unsure = append(unsure, fmt.Sprintf("key %s: %d of %d events", key.ID, n, report.Events))
			}
		}
		if list.Cursor = page.Next; list.Cursor == "" {
			break
		}
	}
	n, err := verifyOutside(ctx, m)
	if n > 0 {
		unsure = append(unsure, fmt.Sprintf("outside the chains: %d events", n))
	}
	return events, unsure, errors.Join(append(failed, err)...)
}

// verifyOutside verifies each event by itself: events outside the chains (enrolments,
// lifted locks, refusals), and events of keys that do not exist any more. It cannot
// find out that an event outside the chains is missing.
func verifyOutside(ctx context.Context, m *apikey.Manager) (unsure int, err error) {
	var failed []error
	for req := (apikey.EventsRequest{Limit: 1000}); ; {
		log, err := m.Events(ctx, req)
		if err != nil {
			return unsure, errors.Join(append(failed, err)...)
		}
		for _, e := range log.Events {
			switch {
			case e.Doubt == apikey.DoubtFailed: // maybe of a key that does not exist, so verifyAll has not read its chain
				failed = append(failed, fmt.Errorf("event %s was changed, or put there: it calls itself %s by %q", e.ID, e.Action, e.Actor.ID))
			case e.Doubt == apikey.DoubtUnverifiable && (e.Seq == 0 || e.Key.IsZero()): // verifyAll counts the others, by chain
				unsure++
			}
		}
		if req.Cursor = log.Next; req.Cursor == "" {
			return unsure, errors.Join(failed...)
		}
	}
}

// issueMeanwhile issues a key while the key service cannot be reached. The copy of the
// token cannot be sealed then, so the token is shown only once.
func issueMeanwhile(ctx context.Context, m *apikey.Manager, req apikey.IssueRequest) (apikey.Issued, error) {
	issued, err := m.Issue(ctx, req)
	if req.Recoverable && errors.Is(err, apikey.ErrUnavailable) {
		req.Recoverable = false
		return m.Issue(ctx, req)
	}
	return issued, err
}

// fromTheFuture lists the events of a Manager whose clock is ahead. The validity
// windows and expiries that this Manager has set are as wrong as its events.
func fromTheFuture(ctx context.Context, m *apikey.Manager, now time.Time) (all []apikey.Event, err error) {
	for req := (apikey.EventsRequest{Limit: 1000}); ; { // newest first
		log, err := m.Events(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, e := range log.Events {
			if !e.Time.After(now) {
				return all, nil
			}
			all = append(all, e)
		}
		if req.Cursor = log.Next; req.Cursor == "" {
			return all, nil
		}
	}
}

// startVerifier waits while the database cannot be reached. It does not wait after
// other errors: wrong peppers or a wrong configuration are returned at once.
func startVerifier(ctx context.Context, s apikey.Settings, c apikey.VerifierConfig) (*apikey.Verifier, error) {
	for {
		v, err := apikey.NewVerifier(ctx, s, c)
		if !errors.Is(err, apikey.ErrUnavailable) {
			return v, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Second):
		}
	}
}

// endWhenBack revokes a key as soon as the database is back. Revoke, like every
// call that only takes power away, tries again until its context ends, or for 5 s
// if the context has no deadline.
func endWhenBack(ctx context.Context, m *apikey.Manager, key apikey.KeyID) error {
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	return m.Revoke(ctx, apikey.RevokeRequest{Key: key, Reason: apikey.ReasonCompromised})
}

// A bad day each, and how it ends.
func TestOperations(t *testing.T) {
	for _, day := range []struct {
		name string
		test func(*testing.T)
	}{
		{"a leaked key", aLeakedKey},
		{"a leaked pepper", aLeakedPepper},
		{"a leaked pepper, the thief at work", aLeakedPepperInUse},
		{"a leaked KEK", aLeakedKEK},
		{"a restored backup", aRestoredBackup},
		{"a backup of one file", aBackupOfOneFile},
		{"a failover that lost changes", aFailoverThatLost},
		{"the key service is away", theKeyServiceIsAway},
		{"a clock jumps", aClockJumps},
		{"the database is down", theDatabaseIsDown},
	} {
		t.Run(day.name, day.test)
	}
}

func verifyBy(v *apikey.Verifier, token apikey.Token) error {
	_, err := v.Verify(background, token.Reveal(), apikey.Request{AllowPublishable: true})
	return err
}

func aLeakedKey(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		dead := map[apikey.KeyID]error{}
		e := newEnv(t, on, withFactors(&f, apikey.GuardCreateAndDelete("password")), func(e *env) {
			e.settings.Trace = &apikey.Trace{InactiveKey: func(key apikey.Info, err error) { dead[key.ID] = err }}
		})
		issue := func() apikey.Issued {
			req := apikey.IssueRequest{Mode: apikey.Live}
			req.Grant = e.approve(f, e.ctx, "password", req)
			issued, err := e.manager.Issue(e.ctx, req)
			require.NoError(t, err)
			require.NoError(t, e.verify(issued.Token))
			return issued
		}
		key, needed, found := issue(), issue(), issue()
		require.ErrorIs(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}), apikey.ErrStepUpRequired, "the premise")
		f.fail(errKMS) // and nobody's password can be checked today

		require.NoError(t, endLeakedKey(e.ctx, e.manager, key.Key.ID))
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
		require.ErrorIs(t, dead[key.Key.ID], apikey.ErrRevoked, "whoever goes on using it is seen")

		next, err := replaceLeakedToken(e.ctx, e.manager, needed.Key.ID)
		require.NoError(t, err)
		require.ErrorIs(t, e.verify(needed.Token), apikey.ErrCredentialEnded)
		require.NoError(t, e.verify(next))

		require.NoError(t, endPresentedToken(background, e.manager, found.Token.Reveal()))
		require.ErrorIs(t, e.verify(found.Token), apikey.ErrCredentialEnded)
		other := e.newVerifier()
		for _, k := range []apikey.Issued{key, needed, found} {
			require.ErrorIs(t, verifyBy(other, k.Token), apikey.ErrUnauthenticated)
		}
		require.NoError(t, verifyBy(other, next))
		_, _, err = verifyAll(staff(), e.manager)
		require.NoError(t, err)
	})
}

// leak is a program whose pepper of slot 1 has leaked.
type leak struct {
	*env
	old, fresh apikey.Pepper
}

func newLeak(t *testing.T, on func(*env)) *leak {
	e := newEnv(t, on)
	return &leak{e, e.settings.Peppers[0], pepper(t, 2)}
}

// deploy starts one node with these peppers.
func (l *leak) deploy(peppers ...apikey.Pepper) (*apikey.Manager, *apikey.Verifier) {
	l.t.Helper()
	s := l.settings
	require.NoError(l.t, withPeppers(&s, peppers...))
	m := l.newManager(func(c *managerConfig) { c.Settings = s })
	return m, l.verifierOf(m)
}

// forged is a key that was never issued: its row was written by a thief who has
// the pepper and the database. To the library it is as good as any other.
func (l *leak) forged() apikey.Issued {
	l.t.Helper()
	thief := l.newManager()
	issued, err := thief.Issue(as("acc_thief", "admin"), apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:*"}})
	require.NoError(l.t, err)
	require.NoError(l.t, l.verify(issued.Token), "the premise")
	return issued
}

func aLeakedPepper(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		l := newLeak(t, on)
		var old []apikey.Issued
		for range 5 {
			old = append(old, l.issue())
		}
		public := l.issue(func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, nil })
		old = append(old, public)
		suspended, ended := l.issue(), l.issue()
		require.NoError(t, l.manager.Suspend(l.ctx, suspended.Key.ID))
		require.NoError(t, endLeakedKey(l.ctx, l.manager, ended.Key.ID))
		forged := l.forged()
		busy := l.issue() // in the middle of a rotation of its own
		current, err := l.manager.Rotate(l.ctx, apikey.RotateRequest{Key: busy.Key.ID, Overlap: 24 * time.Hour})
		require.NoError(t, err)

		// 1. Everybody verifies with the new pepper, nobody mints with it yet.
		m1, v1 := l.deploy(l.old, l.fresh)
		// 2. Everybody mints with it. Nodes of both steps understand each other.
		m2, v2 := l.deploy(l.fresh, l.old)
		for _, m := range []*apikey.Manager{m1, m2} {
			during, err := m.Issue(l.ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.NoError(t, err)
			require.NoError(t, verifyBy(v1, during.Token))
			require.NoError(t, verifyBy(v2, during.Token))
			old = append(old, during)
		}
		require.ErrorIs(t, l.verify(old[len(old)-1].Token), apikey.ErrInvalidToken, "why step 1 has to be everywhere first")
		calledOff(t, l.ctx, m2, old[0].Key.ID, l.clock.now()) // its newest token is of the new pepper, and never came

		// 3. New tokens. The first delivery fails; the rest goes on without it.
		delivered := map[apikey.KeyID]apikey.Token{}
		deliver := func(key apikey.Info, token apikey.Token) error {
			if key.Account == "acc_thief" {
				return errors.New("no such merchant") // how a forged key is noticed
			}
			delivered[key.ID] = token
			return nil
		}
		list := apikey.ListRequest{Pepper: l.old.Slot(), Limit: 2}
		left, err := renewTokens(staff(), m2, list, 24*time.Hour, mintedBy(l.old.Slot()), deliver)
		require.ErrorContains(t, err, forged.Key.ID.String())
		require.ErrorContains(t, err, "no such merchant")
		require.Len(t, left, 1)
		require.Equal(t, suspended.Key.ID, left[0].ID)
		require.Len(t, delivered, 5+1+1+1, "the first five, the publishable one, the busy one, and that of step 1")
		left, err = renewTokens(staff(), m2, list, 24*time.Hour, mintedBy(l.old.Slot()), deliver)
		require.NoError(t, err, "nothing is rotated twice")
		require.Len(t, left, 1)
		require.Len(t, delivered, 8)
		require.ErrorIs(t, verifyBy(v2, busy.Token), apikey.ErrCredentialEnded, "there is room for one older token")
		old = append(old, current)
		for _, k := range old {
			require.NoError(t, verifyBy(v2, k.Token), "the overlap")
		}
		require.NoError(t, verifyBy(v2, forged.Token))

		// 4. MACs, of dead and of suspended keys too.
		require.NoError(t, renewMACs(staff(), m2))

		// 5. Out.
		m3, v3 := l.deploy(l.fresh)
		require.ErrorIs(t, verifyBy(v3, forged.Token), apikey.ErrInvalidToken)
		text := old[0].Token.Reveal()
		_, err = v3.Verify(background, retag(t, l.old, spliceSecret(text)), apikey.Request{})
		require.ErrorIs(t, err, apikey.ErrInvalidToken)
		_, err = v3.Verify(background, retag(t, l.old, text), apikey.Request{})
		require.ErrorIs(t, err, apikey.ErrInvalidToken)
		for _, k := range old {
			token, rotated := delivered[k.Key.ID]
			if !rotated { // issued in step 2
				token = k.Token
			}
			require.NoError(t, verifyBy(v3, token))
			if rotated {
				require.ErrorIs(t, verifyBy(v3, k.Token), apikey.ErrInvalidToken)
			}
			_, err := m3.Update(l.ctx, apikey.UpdateRequest{Key: k.Key.ID, Name: apikey.Set("managed on")})
			require.NoError(t, err)
			require.NoError(t, verifyBy(v3, token))
		}
		require.NoError(t, endLeakedKey(staff(), m3, forged.Key.ID))
		require.NoError(t, m3.Resume(l.ctx, apikey.ResumeRequest{Key: suspended.Key.ID}))
		require.ErrorIs(t, verifyBy(v3, suspended.Token), apikey.ErrInvalidToken)
		next, err := replaceLeakedToken(l.ctx, m3, suspended.Key.ID)
		require.NoError(t, err)
		require.NoError(t, verifyBy(v3, next))
		require.ErrorIs(t, verifyBy(v3, ended.Token), apikey.ErrInvalidToken)
		events, unsure, err := verifyAll(staff(), m3)
		require.NoError(t, err, "events of the old pepper are unverifiable, not broken")
		require.Contains(t, fmt.Sprint(unsure), old[0].Key.ID.String(), "and the page's procedure tells of them")
		require.Greater(t, events, 20)
		outside, err := verifyOutside(staff(), m3)
		require.NoError(t, err)
		require.Equal(t, 2, outside, "both peppers were introduced while the old one minted")
	})
}

// calledOff plans a rotation and cancels it.
func calledOff(t *testing.T, ctx context.Context, m *apikey.Manager, key apikey.KeyID, now time.Time) {
	t.Helper()
	_, err := m.Rotate(ctx, apikey.RotateRequest{Key: key, At: now.Add(time.Hour)})
	require.NoError(t, err)
	require.NoError(t, m.CancelRotation(ctx, key))
}

func aLeakedPepperInUse(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		l := newLeak(t, on)
		old := l.issue()
		forged := l.forged()
		l.deploy(l.old, l.fresh)
		m, v := l.deploy(l.fresh, l.old)
		kept, err := m.Issue(l.ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		require.NoError(t, endAllOf(staff(), m, l.old.Slot()))
		require.ErrorIs(t, verifyBy(v, old.Token), apikey.ErrRevoked)
		require.ErrorIs(t, verifyBy(v, forged.Token), apikey.ErrRevoked)
		require.NoError(t, verifyBy(v, kept.Token))
		require.NoError(t, renewMACs(staff(), m))
		_, v = l.deploy(l.fresh)
		require.NoError(t, verifyBy(v, kept.Token))
	})
}

func aLeakedKEK(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, nil), func(e *env) { e.mc.InsecureRevealWithoutStepUp = true })
		leaked, fresh := f.kek, localKEK(t, "kek-2", 9)
		with := func(keks ...apikey.KEK) *apikey.Manager {
			return e.newManager(func(c *managerConfig) { c.KEKs = keks })
		}
		var old []apikey.Issued
		for range 4 {
			old = append(old, e.issue(recoverable))
		}
		once := e.issue()
		suspended := e.issue(recoverable)
		require.NoError(t, e.manager.Suspend(e.ctx, suspended.Key.ID))
		e.enroll(f, e.ctx, admin.ID)
		at := e.clock.now()
		e.clock.move(time.Hour)

		// 1. New first: from now on nothing is sealed under the leaked one.
		m := with(fresh, leaked)
		during, err := m.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
		require.NoError(t, err)
		calledOff(t, e.ctx, m, old[0].Key.ID, e.clock.now())
		// 2. The rest.
		require.NoError(t, resealAll(staff(), m))
		// 3. Out.
		m = with(fresh)
		for _, k := range old {
			shown, err := m.Reveal(e.ctx, apikey.RevealRequest{Key: k.Key.ID})
			require.NoError(t, err)
			require.Equal(t, k.Token.Reveal(), shown.Token.Reveal())
			_, err = with(leaked).Reveal(e.ctx, apikey.RevealRequest{Key: k.Key.ID})
			require.ErrorIs(t, err, apikey.ErrUnavailable, "today's rows do not open any more")
		}
		// 4. But last week's backup does: what it holds has to be worth nothing.
		delivered := map[apikey.KeyID]apikey.Token{}
		deliver := func(key apikey.Info, token apikey.Token) error { delivered[key.ID] = token; return nil }
		for range 2 { // nothing is rotated twice
			left, err := renewTokens(staff(), m, apikey.ListRequest{Limit: 2}, 0, sealedBefore(staff(), m, at), deliver)
			require.NoError(t, err)
			require.Len(t, left, 1)
			require.Equal(t, suspended.Key.ID, left[0].ID)
			require.Len(t, delivered, len(old))
			e.clock.move(time.Hour)
		}
		for _, k := range old {
			require.ErrorIs(t, e.verify(k.Token), apikey.ErrCredentialEnded, "what the thief has read")
			require.NoError(t, e.verify(delivered[k.Key.ID]))
			shown, err := m.Reveal(e.ctx, apikey.RevealRequest{Key: k.Key.ID})
			require.NoError(t, err)
			require.Equal(t, delivered[k.Key.ID].Reveal(), shown.Token.Reveal())
		}
		require.NoError(t, e.verify(once.Token), "it was never sealed")
		require.NoError(t, e.verify(during.Token), "it never was under that KEK")

		// 5. Seeds were in the backup too: their owners enrol anew.
		seed := f.app(admin.ID)
		req := apikey.EnrollRequest{Factor: "totp"}
		put, err := m.Challenge(e.ctx, "totp", req)
		require.NoError(t, err)
		req.Grant, err = m.Confirm(e.ctx, put.ID, seed)
		require.NoError(t, err, "the seed was sealed anew, and works")
		enrollment, err := m.Enroll(e.ctx, req)
		require.NoError(t, err)
		f.scan(admin.ID, enrollment)
		require.NoError(t, m.ConfirmEnrollment(e.ctx, "totp", f.app(admin.ID)))
		_, _, err = verifyAll(staff(), m)
		require.NoError(t, err)
	})
}

// diary is what a program keeps of OnEvent outside the database.
type diary struct{ events []apikey.Event }

func (d *diary) keep(e *env) {
	e.mc.OnEvent = func(ev apikey.Event) { d.events = append(d.events, ev) }
}

// since is what happened after the moment, oldest first.
func (d *diary) since(at time.Time) (later []apikey.Event) {
	for _, e := range d.events {
		if e.Time.After(at) {
			later = append(later, e)
		}
	}
	return later
}

// afterBackup changes keys in each way that a backup forgets, and says what has
// to be refused once the day is over.
func (e *env) afterBackup(keys []apikey.Issued) (refused []apikey.Token) {
	e.t.Helper()
	e.clock.move(time.Second)
	require.NoError(e.t, endLeakedKey(e.ctx, e.manager, keys[0].Key.ID))
	require.NoError(e.t, e.manager.Suspend(e.ctx, keys[1].Key.ID))
	require.NoError(e.t, endPresentedToken(background, e.manager, keys[2].Token.Reveal()))
	later := e.issue()
	require.NoError(e.t, endLeakedKey(e.ctx, e.manager, later.Key.ID))
	_, err := replaceLeakedToken(e.ctx, e.manager, keys[3].Key.ID)
	require.NoError(e.t, err)
	return []apikey.Token{keys[0].Token, keys[1].Token, keys[2].Token, later.Token}
}

// setRight does what docs/operations.md says about a database that was put back.
func (e *env) setRight(m *apikey.Manager, since []apikey.Event, rotated apikey.KeyID) {
	e.t.Helper()
	look, err := takeAwayAgain(staff(), m, since)
	require.NoError(e.t, err)
	var rotations []apikey.KeyID
	for _, ev := range look {
		if ev.Action == apikey.ActionRotate {
			rotations = append(rotations, ev.Key)
		}
	}
	require.Equal(e.t, []apikey.KeyID{rotated}, rotations, "whose holder needs a new token")
	_, _, err = verifyAll(staff(), m)
	require.NoError(e.t, err)
}

func aRestoredBackup(t *testing.T) {
	store, d := memstore.New(), &diary{}
	e := newEnv(t, func(e *env) { e.store = store; d.keep(e) })
	var keys []apikey.Issued
	for range 5 {
		keys = append(keys, e.issue())
		require.NoError(t, e.verify(keys[len(keys)-1].Token))
	}
	at, restore := e.clock.now(), store.Snapshot()
	refused := e.afterBackup(keys)
	restore()

	require.NoError(t, verifyBy(e.newVerifier(), keys[0].Token), "the premise: who starts now believes the backup")
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, e.verify(keys[0].Token), apikey.ErrRevoked, "a process that ran on remembers what it saw die")

	m := e.newManager()
	e.setRight(m, d.since(at), keys[3].Key.ID)
	restarted := e.newVerifier()
	for _, token := range refused {
		require.ErrorIs(t, verifyBy(restarted, token), apikey.ErrUnauthenticated)
	}
	require.NoError(t, verifyBy(restarted, keys[4].Token))
}

func aBackupOfOneFile(t *testing.T) {
	var db *sql.DB
	d := &diary{}
	e := newEnv(t, func(e *env) { e.store, db = sqliteOf(t); d.keep(e) })
	var keys []apikey.Issued
	for range 5 {
		keys = append(keys, e.issue())
	}
	at, path := e.clock.now(), filepath.Join(t.TempDir(), "backup.db")
	_, err := db.Exec(operationsSQL(t, "VACUUM INTO '/backup/keys.db'", "/backup/keys.db", path))
	require.NoError(t, err)
	refused := e.afterBackup(keys)

	db, err = sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	restored, err := sqlstore.New(db, sqlstore.SQLite)
	require.NoError(t, err)
	require.NoError(t, restored.Migrate(t.Context()))
	m := e.newManager(func(c *managerConfig) { c.Store = restored })
	e.setRight(m, d.since(at), keys[3].Key.ID)
	restarted := e.newVerifier(func(c *verifierConfig) { c.Store = restored })
	for _, token := range refused {
		require.ErrorIs(t, verifyBy(restarted, token), apikey.ErrUnauthenticated)
	}
	require.NoError(t, verifyBy(restarted, keys[4].Token))

	// A table that was brought back by itself does not agree with the others.
	_, err = db.Exec("DELETE FROM apikey_events WHERE key_id = ? AND seq = 1", keys[4].Key.ID[:])
	require.NoError(t, err)
	_, _, err = verifyAll(staff(), m)
	require.ErrorContains(t, err, keys[4].Key.ID.String())
}

func aFailoverThatLost(t *testing.T) {
	store, d := memstore.New(), &diary{}
	e := newEnv(t, func(e *env) { e.store = store; d.keep(e) })
	doomed, fine := e.issue(), e.issue()
	far := e.newVerifier() // of another process
	for _, k := range []apikey.Issued{doomed, fine} {
		require.NoError(t, verifyBy(far, k.Token))
	}
	at, promote := e.clock.now(), store.Snapshot() // what the standby has
	e.clock.move(time.Second)
	require.NoError(t, endLeakedKey(e.ctx, e.manager, doomed.Key.ID)) // acknowledged by the primary alone
	require.NoError(t, far.Sync(background))
	promote()
	require.NoError(t, far.Sync(background))
	require.ErrorIs(t, verifyBy(far, doomed.Token), apikey.ErrRevoked, "it saw that key die")
	require.NoError(t, verifyBy(e.newVerifier(), doomed.Token), "the premise: a process that starts now did not")

	look, err := takeAwayAgain(staff(), e.manager, d.since(at))
	require.NoError(t, err)
	require.Empty(t, look)
	for _, v := range []*apikey.Verifier{e.verifier, far, e.newVerifier()} {
		require.NoError(t, v.Sync(background))
		require.ErrorIs(t, verifyBy(v, doomed.Token), apikey.ErrRevoked)
		require.NoError(t, verifyBy(v, fine.Token))
	}
	_, _, err = verifyAll(staff(), e.manager)
	require.NoError(t, err)
}

func theKeyServiceIsAway(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRevealAndRotate("password")))
		sealed, abused, plain := e.issue(recoverable), e.issue(recoverable), e.issue()
		fails := func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, errKMS }
		f.kek.set(func(k *brokenKEK) { k.wrap, k.unwrap = fails, fails })

		for _, k := range []apikey.Issued{sealed, abused, plain} {
			require.NoError(t, verifyBy(e.newVerifier(), k.Token), "verification never asks it")
		}
		require.NoError(t, endLeakedKey(e.ctx, e.manager, abused.Key.ID))
		require.ErrorIs(t, e.verify(abused.Token), apikey.ErrRevoked)
		reveal := apikey.RevealRequest{Key: sealed.Key.ID}
		reveal.Grant = e.approve(f, e.ctx, "password", reveal)
		_, err := e.manager.Reveal(e.ctx, reveal)
		require.ErrorIs(t, err, apikey.ErrUnavailable)
		issued, err := issueMeanwhile(e.ctx, e.manager, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
		require.NoError(t, err)
		require.False(t, issued.Key.Recoverable)
		require.NoError(t, e.verify(issued.Token))

		f.kek.set(func(k *brokenKEK) { k.wrap, k.unwrap = nil, nil })
		shown, err := e.manager.Reveal(e.ctx, reveal)
		require.NoError(t, err, "the approval was not spent")
		require.Equal(t, sealed.Token.Reveal(), shown.Token.Reveal())
		issued, err = issueMeanwhile(e.ctx, e.manager, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})
		require.NoError(t, err)
		require.True(t, issued.Key.Recoverable)
	})
}

func aClockJumps(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		fast := &clock{t: e.clock.now().Add(time.Hour)}
		wrong := e.newManager(func(c *managerConfig) { c.Now = fast.now })
		key, dead := e.issue(), e.issue()
		for _, k := range []apikey.Issued{key, dead} {
			require.NoError(t, e.verify(k.Token))
		}
		other := e.newManager()
		require.NoError(t, endLeakedKey(e.ctx, other, dead.Key.ID))

		e.clock.move(time.Hour) // of the process that verifies
		require.ErrorIs(t, e.verify(dead.Token), apikey.ErrRevoked, "what is in memory looks old, and is asked about first")
		require.NoError(t, e.verify(key.Token))
		e.clock.move(-time.Hour)
		require.NoError(t, e.verify(key.Token))

		// A Manager that was an hour ahead bounded the old token an hour too late.
		next, err := wrong.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, Overlap: time.Minute})
		require.NoError(t, err)
		require.NoError(t, e.verifier.Sync(background))
		e.clock.move(2 * time.Minute)
		require.NoError(t, e.verify(key.Token), "the premise: its minute is over")
		late, err := fromTheFuture(staff(), e.manager, e.clock.now())
		require.NoError(t, err)
		require.Len(t, late, 1)
		require.Equal(t, apikey.ActionRotate, late[0].Action)
		require.NoError(t, e.manager.Retire(e.ctx, apikey.RetireRequest{Key: late[0].Key, Credential: key.Token.Credential()}))
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrCredentialEnded)
		require.NoError(t, e.verify(next.Token))
		_, _, err = verifyAll(staff(), e.manager)
		require.NoError(t, err, "a chain goes by numbers, not by times")
	})
}

func theDatabaseIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *spy
		var p *proxy
		e := newEnv(t, realTime, through(&p), watch(&s))
		defer e.verifier.Close(background)
		warm, cold, abused := e.issue(), e.issue(), e.issue()
		require.NoError(t, e.verify(warm.Token))
		require.NoError(t, e.verify(abused.Token))
		away := func() error { return errCable }
		p.hook(func(p *proxy) {
			p.get = away
			p.apply = func(func() error, []apikey.StoreChange) error { return errCable }
		})
		s.set(func(s *spy) {
			s.lookup = func(context.Context, apikey.CredentialID, func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
				return apikey.StoreRecord{}, errCable
			}
			s.changed = func(context.Context, apikey.Cursor, func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
				return apikey.StoreChanges{}, errCable
			}
		})
		begun := time.Now()
		require.ErrorIs(t, e.verify(cold.Token), apikey.ErrUnavailable)
		require.ErrorIs(t, endLeakedKey(e.ctx, e.manager, abused.Key.ID), apikey.ErrUnavailable)
		require.InDelta(t, 5, time.Since(begun).Seconds(), 0.1, "how long it was tried")

		type started struct {
			v   *apikey.Verifier
			err error
		}
		verifiers, ended := make(chan started, 1), make(chan error, 1)
		go func() {
			v, err := startVerifier(background, e.settings, e.vc)
			verifiers <- started{v, err}
		}()
		go func() { ended <- endWhenBack(e.ctx, e.manager, abused.Key.ID) }()
		time.Sleep(time.Minute)
		require.NoError(t, e.verify(warm.Token), "for MaxStale")
		time.Sleep(time.Minute)
		require.ErrorIs(t, e.verify(warm.Token), apikey.ErrUnavailable)
		require.Empty(t, verifiers)
		require.Empty(t, ended)

		p.hook(func(p *proxy) { p.get, p.apply = nil, nil })
		s.set(func(s *spy) { s.lookup, s.changed = nil, nil })
		require.NoError(t, <-ended)
		late := <-verifiers
		require.NoError(t, late.err)
		defer late.v.Close(background)
		time.Sleep(2 * time.Second)
		for _, v := range []*apikey.Verifier{e.verifier, late.v} {
			require.NoError(t, verifyBy(v, warm.Token))
			require.NoError(t, verifyBy(v, cold.Token))
			require.ErrorIs(t, verifyBy(v, abused.Token), apikey.ErrRevoked)
		}
		wrong := e.settings
		wrong.Peppers = []apikey.Pepper{pepperOf(t, 1, 99)}
		_, err := startVerifier(background, wrong, e.vc)
		require.ErrorIs(t, err, apikey.ErrPepper, "waiting would not help")
	})
}
