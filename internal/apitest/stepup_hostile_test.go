package apitest

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	mrand "math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// A Recoverable key is not rotated where its token could not be sealed.
func TestRotateOfARecoverableKeyWithoutKEK(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	key := e.issue(recoverable)
	m := e.newManager(func(c *managerConfig) { c.KEKs, c.Factors, c.StepUp = nil, nil, nil })
	require.NotPanics(t, func() {
		_, err := m.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID})
		t.Log(err)
		require.Error(t, err)
	})
}

// gatedSender sends when its gate opens, whoever has hung up meanwhile: as SMTP
// does after DATA.
type gatedSender struct {
	sent chan string
	gate chan struct{}
}

func (s *gatedSender) Send(_ context.Context, to string, _ apikey.Message) error {
	<-s.gate
	s.sent <- to
	return nil
}

// Who hangs up while a code is sent gets no mail for nothing: it may come yet.
func TestHangingUpFloodsNoMailbox(t *testing.T) {
	s := &gatedSender{sent: make(chan string, 1000), gate: make(chan struct{})}
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("email")))
	key := e.issue().Key.ID
	mail, err := apikey.NewEmailCode(s, e.settings.Peppers...)
	require.NoError(t, err)
	m := e.newManager(func(c *managerConfig) { c.Factors = map[string]apikey.Factor{"email": mail} })
	// On a busy machine a call may end before its mail begins; it is made again.
	for calls := 0; ; calls++ {
		require.Less(t, calls, 1000, "no bound")
		ctx, cancel := context.WithTimeout(e.ctx, 5*time.Millisecond)
		_, err := m.Challenge(ctx, "email", apikey.RotateRequest{Key: key})
		cancel()
		if errors.Is(err, apikey.ErrTooManyAttempts) {
			break
		}
	}
	close(s.gate)
	require.Eventually(t, func() bool { return len(s.sent) >= 5 }, 20*time.Second, time.Millisecond)
	_, err = m.Challenge(e.ctx, "email", apikey.RotateRequest{Key: key})
	require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
	require.Len(t, s.sent, 5, "mails to one actor within the hour")
}

// What a check panics with may be the answer.
func TestPasswordCheckPanics(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")))
	key := e.issue().Key.ID
	p, err := apikey.NewPassword(func(ctx context.Context, _, answer string) (bool, error) {
		panic("cannot compare " + answer)
	})
	require.NoError(t, err)
	m := e.newManager(func(c *managerConfig) { c.Factors = map[string]apikey.Factor{"password": p} })
	c, err := m.Challenge(e.ctx, "password", apikey.RotateRequest{Key: key})
	require.NoError(t, err)
	require.NotPanics(t, func() { _, err = m.Confirm(e.ctx, c.ID, "hunter2") })
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.NotContains(t, err.Error(), "hunter2")
}

// A check that hangs holds nobody up who has hung up; and a wrong answer is
// counted, whoever waits for the verdict.
func TestHangingUpIsNoFreeGuess(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")))
	req := apikey.RotateRequest{Key: e.issue().Key.ID}
	in, gate := make(chan struct{}), make(chan struct{})
	p, err := apikey.NewPassword(func(context.Context, string, string) (bool, error) { in <- struct{}{}; <-gate; return false, nil })
	require.NoError(t, err)
	m := e.newManager(func(c *managerConfig) { c.Factors = map[string]apikey.Factor{"password": p} })
	for range 2 {
		c, err := m.Challenge(e.ctx, "password", req)
		require.NoError(t, err)
		for range 5 {
			ctx, cancel := context.WithCancel(e.ctx)
			done := make(chan error, 1)
			go func() { _, err := m.Confirm(ctx, c.ID, "guess"); done <- err }()
			<-in
			cancel()
			err = <-done
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, apikey.ErrUnavailable, "the verdict is not known")
			gate <- struct{}{}
		}
	}
	_, err = e.manager.Challenge(e.ctx, "password", req)
	require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
}

// A request that can never pass is refused before anything is put, stored or
// mailed.
func TestNobodyProvesHimselfForWhatCannotPass(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	key := e.issue().Key.ID
	e.manager = e.newManager(func(c *managerConfig) {
		c.StepUp = func(act apikey.Action, mode apikey.Mode) []string {
			if act == apikey.ActionAllowEnrollment || act == apikey.ActionDisable {
				return []string{"password"}
			}
			return guardAll(act, mode)
		}
	})
	for name, req := range map[string]apikey.Guarded{
		"no mode":           apikey.IssueRequest{},
		"an unknown mode":   apikey.IssueRequest{Mode: 77},
		"no enrolment":      apikey.AllowEnrollmentRequest{Factor: "password", Actor: "usr_2"},
		"no such factor":    apikey.DisableRequest{Factor: "palm", Actor: "usr_2"},
		"somebody's factor": apikey.DisableRequest{Factor: "totp", Account: "acc_1"},
		"an unknown kind":   apikey.IssueRequest{Mode: apikey.Live, Kind: 9},
		"a name with NUL":   apikey.IssueRequest{Mode: apikey.Live, Name: "a\x00b"},
		"a name of 3 MB":    apikey.IssueRequest{Mode: apikey.Live, Name: strings.Repeat("visit http://evil.example now ", 100_000)},
		"an ability":        apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"no such"}},
		"expired":           apikey.IssueRequest{Mode: apikey.Live, ExpiresAt: e.clock.now()},
		"a rotation before": apikey.RotateRequest{Key: key, At: e.clock.now()},
		"a long overlap":    apikey.RotateRequest{Key: key, Overlap: 8 * 24 * time.Hour},
		"the year 10000":    apikey.RotateRequest{Key: key, At: e.clock.now().AddDate(9000, 0, 0)},
	} {
		_, err := e.manager.Challenge(e.ctx, "password", req)
		require.Error(t, err, name)
		require.True(t, errors.Is(err, apikey.ErrInvalid) || errors.Is(err, apikey.ErrLimit), "%s: %v", name, err)
	}
	require.Empty(t, e.itemsOf("challenge"))
}

// A permission that was not needed does not wait for somebody else.
func TestPermissionIsForOneEnrollment(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("totp")))
	require.NoError(t, e.manager.AllowEnrollment(staff(), apikey.AllowEnrollmentRequest{Factor: "totp", Account: admin.Account, Actor: admin.ID}))
	e.enroll(f, e.ctx, admin.ID)
	e.clock.move(23 * time.Hour)
	_, err := e.manager.Enroll(e.ctx, apikey.EnrollRequest{Factor: "totp"})
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)
}

// Nor does it outlive what takes the factor away.
func TestDisableTakesThePermissionAway(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("totp")))
	require.NoError(t, e.manager.AllowEnrollment(staff(), apikey.AllowEnrollmentRequest{Factor: "totp", Account: admin.Account, Actor: admin.ID}))
	require.NoError(t, e.manager.Disable(staff(), apikey.DisableRequest{Factor: "totp", Account: admin.Account, Actor: admin.ID}))
	_, err := e.manager.Enroll(e.ctx, apikey.EnrollRequest{Factor: "totp"})
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)
}

// nextFactor keeps something and is no Enroller: a mistake of its author.
type nextFactor struct{}

func (nextFactor) Begin(context.Context, apikey.Actor, apikey.Challenge, []byte) ([]byte, func(context.Context) error, error) {
	return nil, nil, nil
}
func (nextFactor) Check(context.Context, apikey.Actor, apikey.Challenge, []byte, []byte, string) ([]byte, bool, error) {
	return []byte("x"), true, nil
}

// It is told, and nothing is granted.
func TestFactorThatKeepsWithoutEnrolling(t *testing.T) {
	e := newEnv(t, func(e *env) {
		e.mc.Factors = map[string]apikey.Factor{"odd": nextFactor{}}
		e.mc.StepUp = apikey.GuardRotate("odd")
	})
	c, err := e.manager.Challenge(e.ctx, "odd", apikey.RotateRequest{Key: e.issue().Key.ID})
	require.NoError(t, err)
	require.NotPanics(t, func() { _, err = e.manager.Confirm(e.ctx, c.ID, "x") })
	require.Error(t, err)
}

// The thirty days count from the last wrong answer, not from the last answer.
func TestRightAnswersDoNotKeepWrongOnesAlive(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")), func(e *env) { e.mc.Limits.LiveKeys = 1000 })
	for range 9 {
		require.NoError(t, e.exhaust(f, 10))
		e.clock.move(time.Hour)
	}
	require.NoError(t, e.exhaust(f, 9))
	key := e.issue().Key.ID
	for range 12 {
		e.clock.move(29 * 24 * time.Hour)
		e.approve(f, e.ctx, "password", apikey.RotateRequest{Key: key})
	}
	require.NoError(t, e.exhaust(f, 1))
	_, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: key})
	require.NoError(t, err, "the last wrong answer was a year ago")
}

// RFC 3339 text can name an instant after the year 9999, which no JSON can be
// written of: one such key would keep every list from being shown.
func TestYearsThatJSONCannotWrite(t *testing.T) {
	e := newEnv(t)
	var req apikey.IssueRequest
	require.NoError(t, json.Unmarshal([]byte(`{"Mode":"live","ExpiresAt":"9999-12-31T23:59:59-12:00"}`), &struct{ ExpiresAt *time.Time }{&req.ExpiresAt}))
	req.Mode = apikey.Live
	issued, err := e.manager.Issue(e.ctx, req)
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.Zero(t, issued)
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: e.issue().Key.ID, ExpiresAt: apikey.Set(req.ExpiresAt)})
	require.ErrorIs(t, err, apikey.ErrInvalid)
}

// A directory server takes an empty password as an anonymous sign-in: it is not
// even asked.
func TestEmptyAnswerIsNotAsked(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")))
	key := e.issue().Key.ID
	var got []string
	p, err := apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) { got = append(got, answer); return false, nil })
	require.NoError(t, err)
	m := e.newManager(func(c *managerConfig) { c.Factors = map[string]apikey.Factor{"password": p} })
	c, err := m.Challenge(e.ctx, "password", apikey.RotateRequest{Key: key})
	require.NoError(t, err)
	for a, refused := range map[string]error{"": apikey.ErrInvalid, " ": apikey.ErrInvalid, strings.Repeat("x", 5000): apikey.ErrWrongAnswer} {
		_, err = m.Confirm(e.ctx, c.ID, a)
		require.ErrorIs(t, err, refused)
	}
	require.Empty(t, got)
}

// inPlaceKEK decrypts in place, as crypto/cipher lets one do.
type inPlaceKEK struct{ aead cipher.AEAD }

func newInPlaceKEK() *inPlaceKEK {
	b, _ := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	a, _ := cipher.NewGCM(b)
	return &inPlaceKEK{a}
}
func (*inPlaceKEK) ID() string { return "in-place" }
func (k *inPlaceKEK) Wrap(_ context.Context, dek, aad []byte) ([]byte, error) {
	nonce := make([]byte, 12)
	rand.Read(nonce)
	return k.aead.Seal(nonce, nonce, dek, aad), nil
}
func (k *inPlaceKEK) Unwrap(_ context.Context, w, aad []byte) ([]byte, error) {
	return k.aead.Open(w[12:12], w[:12], w[12:], aad)
}

// What such a KEK overwrites is a copy: the plain data key does not end up in the
// database.
func TestKEKThatDecryptsInPlace(t *testing.T) {
	e := newEnv(t, func(e *env) {
		e.mc.KEKs = []apikey.KEK{newInPlaceKEK()}
		e.mc.InsecureRevealWithoutStepUp = true
	})
	key := e.issue(recoverable)
	r, err := e.store.Get(background, key.Key.ID)
	require.NoError(t, err)
	sealed := r.Credentials[0].Sealed
	n := int(sealed[1])<<8 | int(sealed[2])
	dek := sealed[3+12 : 3+12+32] // what stands where the wrapped key should be
	rest := sealed[3+n:]
	b, _ := aes.NewCipher(dek)
	g, _ := cipher.NewGCM(b)
	_, err = g.Open(nil, rest[:12], rest[12:], aadOf(&r))
	require.Error(t, err, "who reads the database opens nothing")
	_, err = e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID})
	require.NoError(t, err)
}

// Nor does it keep Reseal from swapping.
func TestResealWithAKEKThatDecryptsInPlace(t *testing.T) {
	good := newInPlaceKEK()
	e := newEnv(t, func(e *env) { e.mc.KEKs = []apikey.KEK{copying{good}}; e.mc.InsecureRevealWithoutStepUp = true })
	key := e.issue(recoverable)
	m := e.newManager(func(c *managerConfig) { c.KEKs = []apikey.KEK{localKEK(t, "new", 3), good} })
	n, err := m.Reseal(staff(), 0)
	require.NoError(t, err)
	r, _ := e.store.Get(background, key.Key.ID)
	require.Equal(t, 1, n)
	require.Equal(t, "new", r.Credentials[0].SealedKEK)
}

type copying struct{ *inPlaceKEK }

func (k copying) Unwrap(ctx context.Context, w, aad []byte) ([]byte, error) {
	return k.inPlaceKEK.Unwrap(ctx, append([]byte{}, w...), aad)
}

// typed nil
// A refund whose answer was lost is not given twice: it would be another's.
func TestLostAnswerRefundsOnce(t *testing.T) {
	t.Parallel()
	var p *proxy
	var f *factors
	e := newEnv(t, through(&p), withFactors(&f, apikey.GuardRotate("password")), func(e *env) { e.mc.Limits.LiveKeys = 1000 })
	key := e.issue().Key.ID
	evaluated := 0
	lost := func(c apikey.Challenge) { // an attempt that we failed, and whose refund's answer is lost
		f.fail(errKMS)
		n := 0
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
				n++
				err := next()
				if n == 2 && err == nil {
					return apikey.ErrConflict // the store tried again, and an Apply without an event is not found
				}
				return err
			}
		})
		_, err := e.manager.Confirm(e.ctx, c.ID, "x")
		_ = err
		p.hook(func(p *proxy) { p.apply = nil })
		f.fail(nil)
	}
	for evaluated < 150 {
		c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: key})
		if errors.Is(err, apikey.ErrTooManyAttempts) {
			e.clock.move(10 * time.Minute)
			continue
		}
		if errors.Is(err, apikey.ErrLocked) {
			break
		}
		require.NoError(t, err)
		for range 2 {
			if _, err := e.manager.Confirm(e.ctx, c.ID, "guess"); errors.Is(err, apikey.ErrWrongAnswer) {
				evaluated++
			}
		}
		lost(c)
	}
	require.LessOrEqual(t, evaluated, 100)
}

// A right answer that was on its way while its actor was locked and lifted gives back
// its own charge, once: the lift's ten are neither more nor fewer for it.
func TestRefundAfterALift(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("password")), func(e *env) { e.mc.Limits.LiveKeys = 1000 })
	gate, in := make(chan struct{}), make(chan struct{}, 10)
	p, err := apikey.NewPassword(func(_ context.Context, _, a string) (bool, error) {
		if a == "slow" {
			in <- struct{}{}
			<-gate
			return true, nil
		}
		return false, nil
	})
	require.NoError(t, err)
	e.manager = e.newManager(func(c *managerConfig) { c.Factors = map[string]apikey.Factor{"password": p} })
	for range 9 {
		require.NoError(t, e.exhaust(f, 10))
		e.clock.move(time.Hour)
	}
	require.NoError(t, e.exhaust(f, 8))
	e.clock.move(time.Hour)
	var cs []apikey.Challenge
	for range 3 {
		c, err := e.manager.Challenge(e.ctx, "password", apikey.RotateRequest{Key: e.issue().Key.ID})
		require.NoError(t, err)
		cs = append(cs, c)
	}
	var wg sync.WaitGroup
	for _, c := range cs[:2] {
		wg.Go(func() { e.manager.Confirm(e.ctx, c.ID, "slow") })
		<-in
	}
	require.ErrorIs(t, e.exhaust(f, 1), apikey.ErrLocked)
	require.NoError(t, e.manager.LiftLock(staff(), apikey.LiftLockRequest{Account: admin.Account, Actor: admin.ID}))
	for range 2 {
		_, err := e.manager.Confirm(e.ctx, cs[2].ID, "guess")
		require.ErrorIs(t, err, apikey.ErrWrongAnswer)
	}
	close(gate)
	wg.Wait()
	b := e.itemsOf("budget")[0]
	require.EqualValues(t, 100-10+2-2, b.Data[7], "the lift's ten, two guesses, two right answers")
}

// Items that are damaged in any way cost an error, not the process.
func TestDamagedItems(t *testing.T) {
	t.Parallel()
	for seed := range 60 {
		rng := mrand.New(mrand.NewPCG(uint64(seed), 1))
		var f *factors
		e := newEnv(t, noPepper, withFactors(&f, guardAll), func(e *env) { e.mc.Limits.LiveKeys = 1000 })
		e.enroll(f, e.ctx, admin.ID)
		require.NoError(t, e.manager.AllowEnrollment(as("acc_1", "admin"), apikey.AllowEnrollmentRequest{Factor: "totp", Actor: admin.ID}))
		iss := apikey.IssueRequest{Mode: apikey.Live, Recoverable: true, IdempotencyKey: "q"}
		iss.Grant = e.approve(f, e.ctx, "password", iss)
		k, err := e.manager.Issue(e.ctx, iss)
		require.NoError(t, err)
		rev := apikey.RevealRequest{Key: k.Key.ID}
		rev.Grant = e.approve(f, e.ctx, "password", rev)
		c, err := e.manager.Challenge(e.ctx, "totp", apikey.DisableRequest{Factor: "totp"})
		require.NoError(t, err)
		_, _ = e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		for _, kind := range []string{"challenge", "grant", "budget", "enrolled", "enrolling", "enrollable", "idem", "provision", "quota"} {
			for _, it := range e.itemsOf(apikey.StoreItemKind(kind)) {
				if rng.IntN(2) == 0 {
					continue
				}
				it.Version++
				d := bytes.Clone(it.Data)
				switch rng.IntN(4) {
				case 0:
					d = d[:rng.IntN(len(d)+1)]
				case 1:
					for range 4 {
						if len(d) > 0 {
							d[rng.IntN(len(d))] = byte(rng.Uint32())
						}
					}
				case 2:
					for i := range min(len(d), 40) {
						d[i] = 0xFF
					}
				case 3:
					d = append(d, bytes.Repeat([]byte{0xFF}, rng.IntN(50))...)
				}
				it.Data = d
				_ = e.store.Apply(background, apikey.StoreChange{ID: [16]byte{1, byte(seed), byte(rng.Uint32()), byte(rng.Uint32())}, Items: []apikey.StoreItem{it}})
			}
		}
		require.NotPanics(t, func() {
			e.manager.Confirm(e.ctx, c.ID, f.app(admin.ID))
			e.manager.Reveal(e.ctx, rev)
			e.manager.Enroll(e.ctx, apikey.EnrollRequest{Factor: "totp"})
			e.manager.ConfirmEnrollment(e.ctx, "totp", "123456")
			e.manager.Enrolled(e.ctx)
			e.manager.Issue(e.ctx, iss)
			e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
			e.manager.Challenge(e.ctx, "totp", rev)
			e.manager.Challenge(e.ctx, "password", rev)
			m := e.newManager(func(c *managerConfig) { c.KEKs = append([]apikey.KEK{localKEK(t, "kek-2", 9)}, c.KEKs...) })
			m.Reseal(staff(), 0)
			e.manager.LiftLock(staff(), apikey.LiftLockRequest{Account: "acc_1", Actor: admin.ID})
			e.manager.Disable(staff(), apikey.DisableRequest{Account: "acc_1", Actor: admin.ID, Factor: "totp"})
		}, "seed %d", seed)
	}
}

// Inside a transaction of the caller, guards stand and grants are for once.
func TestGrantInATransaction(t *testing.T) {
	store, db := sqliteOf(t)
	var f *factors
	e := newEnv(t, func(e *env) { e.store = store }, withFactors(&f, guardAll))
	req := apikey.IssueRequest{Mode: apikey.Live}
	tx, err := db.Begin()
	require.NoError(t, err)
	_, err = e.manager.Tx(store.In(tx)).Issue(e.ctx, req)
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)
	require.NoError(t, tx.Rollback())
	req.Grant = e.approve(f, e.ctx, "password", req)
	tx, err = db.Begin()
	require.NoError(t, err)
	mt := e.manager.Tx(store.In(tx))
	k, err := mt.Issue(e.ctx, req)
	require.NoError(t, err)
	_, err = mt.Issue(e.ctx, req)
	require.ErrorIs(t, err, apikey.ErrGrant)
	_, err = mt.Rotate(e.ctx, apikey.RotateRequest{Key: k.Key.ID})
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)
	_, err = mt.Update(e.ctx, apikey.UpdateRequest{Key: k.Key.ID, Abilities: apikey.Set([]string{"payment:*"})})
	require.ErrorIs(t, err, apikey.ErrStepUpRequired)
	require.ErrorIs(t, mt.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID}), apikey.ErrStepUpRequired)
	require.NoError(t, mt.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID, Reason: apikey.ReasonCompromised}))
	require.NoError(t, tx.Commit())
	mt.Committed(e.ctx)
	_, err = e.manager.Issue(e.ctx, req)
	require.ErrorIs(t, err, apikey.ErrGrant)
	require.Error(t, e.verify(k.Token))
}

// An operator who forgets the actor does not take their own factor away.
func TestDisableNamesWhose(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	e.enroll(f, e.ctx, admin.ID)
	req := apikey.DisableRequest{Factor: "totp"}
	g := e.approve(f, e.ctx, "totp", req)
	err := e.manager.Disable(e.ctx, apikey.DisableRequest{Factor: "totp", Account: "acc_other", Grant: g})
	require.Error(t, err)
}

// What an operator names is bounded like what an actor is.
func TestAccountOfAnotherIsBounded(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, nil))
	for _, acc := range []string{"a\x00b\xff", strings.Repeat("x", 1<<20)} {
		err := e.manager.AllowEnrollment(staff(), apikey.AllowEnrollmentRequest{Factor: "totp", Account: acc, Actor: "u"})
		require.ErrorIs(t, err, apikey.ErrInvalid)
	}
}
