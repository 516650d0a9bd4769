package apitest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// What an operator's proof allows in one account it allows in no other: their
// requests differ in the account alone.
func TestOperatorsGrantIsOfOneAccount(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, guardAll))
	req := apikey.IssueRequest{Account: "acc_1", Mode: apikey.Live}
	req.Grant = e.approve(f, staff(), "password", req)
	elsewhere := req
	elsewhere.Account = "acc_2"
	_, err := e.manager.Issue(staff(), elsewhere)
	require.ErrorIs(t, err, apikey.ErrGrant)
	_, err = e.manager.Issue(staff(), req)
	require.NoError(t, err)
}

// Two fields that a request may leave out are approved as they are: whether it
// can be repeated, and which version of the key it is about.
func TestGrantIsForOneRepetitionAndVersion(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	key := e.issue(recoverable).Key
	e.manager = e.newManager(func(c *managerConfig) { c.StepUp = guardAll })
	for name, c := range map[string]struct{ approved, used apikey.Guarded }{
		"another idempotency key": {apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "a"}, apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "b"}},
		"no idempotency key":      {apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "a"}, apikey.IssueRequest{Mode: apikey.Live}},
		"update at a version":     {apikey.UpdateRequest{Key: key.ID, Name: apikey.Set("x")}, apikey.UpdateRequest{Key: key.ID, Name: apikey.Set("x"), IfVersion: key.Version}},
		"update at any version":   {apikey.UpdateRequest{Key: key.ID, Name: apikey.Set("x"), IfVersion: key.Version}, apikey.UpdateRequest{Key: key.ID, Name: apikey.Set("x")}},
		"resume at any version":   {apikey.ResumeRequest{Key: key.ID, IfVersion: key.Version}, apikey.ResumeRequest{Key: key.ID}},
		"rotate at any version":   {apikey.RotateRequest{Key: key.ID, IfVersion: key.Version}, apikey.RotateRequest{Key: key.ID}},
	} {
		grant := e.approve(f, e.ctx, "password", c.approved)
		require.ErrorIs(t, e.make(e.ctx, granting(c.used, grant)), apikey.ErrGrant, name)
	}
}

// granting is the request with a grant.
func granting(req apikey.Guarded, g apikey.Grant) apikey.Guarded {
	switch r := req.(type) {
	case apikey.IssueRequest:
		r.Grant = g
		return r
	case apikey.UpdateRequest:
		r.Grant = g
		return r
	case apikey.ResumeRequest:
		r.Grant = g
		return r
	case apikey.RotateRequest:
		r.Grant = g
		return r
	case apikey.RevealRequest:
		r.Grant = g
		return r
	case apikey.RevokeRequest:
		r.Grant = g
		return r
	case apikey.EnrollRequest:
		r.Grant = g
		return r
	case apikey.DisableRequest:
		r.Grant = g
		return r
	case apikey.AllowEnrollmentRequest:
		r.Grant = g
		return r
	case apikey.LiftLockRequest:
		r.Grant = g
		return r
	}
	panic("no such request here")
}

// A lock outlives what a store clears away: whoever waits long enough is locked
// all the same. A budget that is not locked goes.
func TestLockSurvivesPurge(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")), func(e *env) {
			e.mc.Limits.LiveKeys = 1000
			e.clock.t = e.clock.t.AddDate(-6, 0, 0) // long ago by the clock of the machine too, which Purge looks at
		})
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		e.approve(f, as("acc_1", "admin"), "password", req)
		for range 10 {
			require.NoError(t, e.exhaust(f, 10))
			e.clock.move(time.Hour)
		}
		budgets := e.itemsOf("budget")
		require.Len(t, budgets, 2)
		e.clock.move(5 * 365 * 24 * time.Hour)
		_, err := e.store.(interface {
			Purge(context.Context, time.Time, int) (int, error)
		}).Purge(background, e.clock.now(), 1000)
		require.NoError(t, err)
		budgets = e.itemsOf("budget")
		require.Len(t, budgets, 1)
		require.Zero(t, budgets[0].ExpiresAt)
		_, err = e.manager.Challenge(e.ctx, "password", req)
		require.ErrorIs(t, err, apikey.ErrLocked)
		require.NoError(t, e.proven(f, as("acc_1", "admin"), apikey.LiftLockRequest{Actor: admin.ID}))
		for _, it := range e.itemsOf("budget") {
			require.NotZero(t, it.ExpiresAt)
		}
	})
}

// A suspended key that works again is wider, by whatever method and although
// nothing guards resuming by its own name.
func TestResumingWidens(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, func(a apikey.Action, _ apikey.Mode) []string {
		if a == apikey.ActionWiden {
			return []string{"password"}
		}
		return nil
	}))
	for name, req := range map[string]func(apikey.KeyID) apikey.Guarded{
		"Resume": func(key apikey.KeyID) apikey.Guarded { return apikey.ResumeRequest{Key: key} },
		"Update": func(key apikey.KeyID) apikey.Guarded {
			return apikey.UpdateRequest{Key: key, Disabled: apikey.Set(false)}
		},
	} {
		key := e.issue().Key.ID
		require.NoError(t, e.manager.Suspend(e.ctx, key), name)
		err := e.make(e.ctx, req(key))
		var ask *apikey.ChallengeError
		require.ErrorAs(t, err, &ask, name)
		require.Equal(t, apikey.ActionWiden, ask.Action, name)
		require.NoError(t, e.make(e.ctx, granting(req(key), e.approve(f, e.ctx, "password", req(key)))), name)
	}
}

// A database writer does not confirm an enrolment: a hijacked session that got as
// far as to begin one has no factor by moving its row.
func TestUnconfirmedSeedIsNoFactor(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, noPepper, withFactors(&f, apikey.GuardRotate("totp")))
		begin := apikey.EnrollRequest{Factor: "totp"}
		begin.Grant = e.approve(f, e.ctx, "password", begin)
		enrollment, err := e.manager.Enroll(e.ctx, begin)
		require.NoError(t, err)
		f.scan(admin.ID, enrollment)
		begun := e.itemsOf("enrolling")[0]
		moved := apikey.StoreItem{Kind: "enrolled", ID: begun.ID, Version: 1, Data: begun.Data, SealedKEK: begun.SealedKEK}
		require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{moved}}))
		_, err = e.manager.Challenge(e.ctx, "totp", apikey.RotateRequest{Key: e.issue().Key.ID})
		require.ErrorIs(t, err, apikey.ErrCorrupt)
	})
}

// Without a pepper no MAC tells that a database writer has moved a record to their
// own account or mode. Its sealed token does not open there.
func TestSealedTokenOfAMovedRecord(t *testing.T) {
	for name, c := range map[string]struct {
		ctx  context.Context
		move func(*apikey.StoreRecord)
		want error
	}{
		"as it was":       {as("acc_1", "admin"), func(*apikey.StoreRecord) {}, nil},
		"another account": {as("acc_2", "admin"), func(r *apikey.StoreRecord) { r.Account = "acc_2" }, apikey.ErrCorrupt},
		"the other mode":  {as("acc_1", "admin"), func(r *apikey.StoreRecord) { r.Mode = apikey.Test }, apikey.ErrCorrupt},
	} {
		var f *factors
		var p *proxy
		e := newEnv(t, noPepper, through(&p), withFactors(&f, nil), func(e *env) { e.mc.InsecureRevealWithoutStepUp = true })
		key := e.issue(recoverable)
		p.hook(func(p *proxy) { p.out = c.move })
		shown, err := e.manager.Reveal(c.ctx, apikey.RevealRequest{Key: key.Key.ID})
		require.ErrorIs(t, err, c.want, name)
		require.Equal(t, err != nil, shown.Token.IsZero(), name)
	}
}

// Nor under another key, to which the writer has moved the credential with its copy.
func TestSealedTokenOfAMovedCredential(t *testing.T) {
	var f *factors
	var p *proxy
	e := newEnv(t, noPepper, through(&p), withFactors(&f, nil), func(e *env) { e.mc.InsecureRevealWithoutStepUp = true })
	mine, other := e.issue(recoverable), e.issue(recoverable)
	r, err := e.store.Get(background, other.Key.ID)
	require.NoError(t, err)
	p.hook(func(p *proxy) {
		p.out = func(to *apikey.StoreRecord) {
			if to.ID == mine.Key.ID {
				to.Credentials = r.Credentials
			}
		}
	})
	_, err = e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: mine.Key.ID})
	require.ErrorIs(t, err, apikey.ErrCorrupt)
	_, err = e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: other.Key.ID})
	require.NoError(t, err)
}

// Who may encrypt with the KEK and write to the database can seal what they like for
// a row; clouds allow encrypting more freely than decrypting. It is shown only if it
// is that credential's token: nobody is handed another's.
func TestSealedTokenIsTheCredentialsOwn(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil), func(e *env) { e.mc.InsecureRevealWithoutStepUp = true })
	key, other := e.issue(recoverable), e.issue(recoverable)
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"another key's token", other.Token.Reveal(), apikey.ErrCorrupt},
		{"no token", "https://elsewhere.example", apikey.ErrCorrupt},
		{"nothing", "", apikey.ErrCorrupt},
		{"its own", key.Token.Reveal(), nil},
	} {
		r, err := e.store.Get(background, key.Key.ID)
		require.NoError(t, err)
		cred := r.Credentials[0]
		require.NoError(t, e.store.Upkeep(background, []apikey.StoreUpkeep{{
			Credential: cred.ID, OldSealed: cred.Sealed, NewSealed: sealFor(t, f.kek, &r, c.text), NewKEK: f.kek.ID(),
		}}))
		shown, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID})
		require.ErrorIs(t, err, c.want, c.name)
		require.Equal(t, err != nil, shown.Token.IsZero(), c.name)
	}
}

// sealFor seals a text for a record's first credential as the library does,
// written here a second time.
func sealFor(t *testing.T, kek apikey.KEK, r *apikey.StoreRecord, text string) []byte {
	t.Helper()
	aad := aadOf(r)
	dek, nonce := make([]byte, 32), make([]byte, 12)
	rand.Read(dek)
	rand.Read(nonce)
	wrapped, err := kek.Wrap(t.Context(), dek, aad)
	require.NoError(t, err)
	block, err := aes.NewCipher(dek)
	require.NoError(t, err)
	gcm, err := cipher.NewGCM(block)
	require.NoError(t, err)
	sealed := append(binary.BigEndian.AppendUint16([]byte{1}, uint16(len(wrapped))), wrapped...)
	return gcm.Seal(append(sealed, nonce...), nonce, []byte(text), aad)
}

// aadOf is what the sealed token of a record's first credential is bound to.
func aadOf(r *apikey.StoreRecord) (aad []byte) {
	number := func(n uint64) { aad = binary.BigEndian.AppendUint64(aad, n) }
	text := func(s string) { number(uint64(len(s))); aad = append(aad, s...) }
	text("apikey sealed token v1")
	text(string(r.ID[:]))
	text(string(r.Credentials[0].ID[:]))
	text(r.Account)
	number(uint64(r.Mode))
	return aad
}

// The event of an answer says which key it was about, and in which mode.
func TestConfirmEventNamesTheKey(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")))
	for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
		key := e.issue(func(r *apikey.IssueRequest) { r.Mode = mode }).Key.ID
		e.approve(f, e.ctx, "password", apikey.RotateRequest{Key: key})
		events := e.eventsOf(apikey.ActionConfirm)
		last := events[len(events)-1]
		require.Equal(t, key, last.Key)
		require.Equal(t, mode, last.Mode)
		require.Equal(t, admin.ID, last.Actor.ID)
		require.Zero(t, last.Seq, "outside the key's chain")
	}
}

// Two answers to one challenge at the same moment: one grant. If the later answer is
// right, its grant replaces the first one, and costs nothing; if it is wrong it is
// charged, or an answered challenge would be a free oracle.
func TestAnsweredMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		want   error
		left   int
	}{
		"right": {password, nil, 10},
		"wrong": {"guess", apikey.ErrWrongAnswer, 9},
	} {
		t.Run(name, func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				var p *proxy
				var f *factors
				e := newEnv(t, on, through(&p), withFactors(&f, apikey.GuardRotate("password")))
				req := apikey.RotateRequest{Key: e.issue().Key.ID}
				put, err := e.manager.Challenge(e.ctx, "password", req)
				require.NoError(t, err)
				var first apikey.Grant
				applied := 0
				p.hook(func(p *proxy) {
					p.apply = func(next func() error, _ []apikey.StoreChange) error {
						err := next()
						if applied++; applied == 1 { // charged, and not yet compared
							first, err = e.newManager().Confirm(e.ctx, put.ID, password)
						}
						return err
					}
				})
				second, err := e.manager.Confirm(e.ctx, put.ID, c.answer)
				p.hook(func(p *proxy) { p.apply = nil })
				require.ErrorIs(t, err, c.want)
				require.Len(t, e.itemsOf("grant"), 1)
				e.onlyOneRedeems(req, first, second)
				require.NoError(t, e.exhaust(f, c.left))
				require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrTooManyAttempts)
			})
		})
	}
}

// Two right answers that are compared at the same time, on two nodes: the writes
// decide.
func TestTwoRightAnswersAtOnce(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("password")))
		req := apikey.RotateRequest{Key: e.issue().Key.ID}
		put, err := e.manager.Challenge(e.ctx, "password", req)
		require.NoError(t, err)
		in, gate := make(chan struct{}, 10), make(chan struct{})
		slow, err := apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) {
			in <- struct{}{}
			<-gate
			return answer == password, nil
		})
		require.NoError(t, err)
		node := func(c *managerConfig) { c.Factors = map[string]apikey.Factor{"password": slow} }
		nodes := []*apikey.Manager{e.newManager(node), e.newManager(node)}
		go func() { <-in; <-in; close(gate) }()
		grants := make([]apikey.Grant, 2)
		errs := together(2, func(i int) (err error) {
			grants[i], err = nodes[i].Confirm(e.ctx, put.ID, password)
			return err
		})
		require.Equal(t, 2, count(errs, nil), "%v", errs)
		require.Len(t, e.itemsOf("grant"), 1)
		e.onlyOneRedeems(req, grants...)
		require.NoError(t, e.exhaust(f, 10), "neither cost anything")
	})
}

// The code of one mail answers its own challenge alone, whatever row its HMAC is
// put into.
func TestCodeIsOfOneChallenge(t *testing.T) {
	f := &factors{t: t, clock: newClock(), seeds: map[string][]byte{}}
	mail, err := apikey.NewEmailCode(f, pepper(t, 1))
	require.NoError(t, err)
	begin := func(id string) []byte {
		state, send, err := mail.Begin(t.Context(), admin, apikey.Challenge{ID: id, Action: apikey.ActionRotate}, nil)
		require.NoError(t, err)
		require.NoError(t, send(t.Context()))
		return state
	}
	state := begin("the one")
	for id, want := range map[string]bool{"the one": true, "the other": false, "": false} {
		_, ok, err := mail.Check(t.Context(), admin, apikey.Challenge{ID: id}, nil, state, f.code())
		require.NoError(t, err)
		require.Equal(t, want, ok, id)
	}
}
