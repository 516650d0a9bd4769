package apitest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/storetest"
)

// Every field of a record is covered by its MAC, but for those that Upkeep
// swaps. A field that somebody adds and forgets to cover fails here.
func TestMACCoversEveryField(t *testing.T) {
	outside := map[string]bool{"MAC": true, "Credentials.LastUsed": true, "Credentials.Hash": true, "Credentials.Check": true, "Credentials.Sealed": true, "Credentials.SealedKEK": true}
	var s *spy
	e := newEnv(t, watch(&s))
	e.manager, e.verifier = e.newManager(), e.newVerifier()
	key := e.issue(func(r *apikey.IssueRequest) {
		r.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		r.Origins = []string{"https://shop.example"}
		r.Metadata = map[string]string{"a": "b"}
	})
	request := apikey.Request{Addr: netip.MustParseAddr("192.0.2.1"), Origin: "https://shop.example"}
	verify := func(change func(*apikey.StoreRecord)) error {
		s.set(func(s *spy) {
			s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
				r, err := next()
				change(&r)
				return r, err
			}
		})
		_, err := e.newVerifier(func(c *verifierConfig) { c.ReadOnly = true }).Verify(background, key.Token.Reveal(), request)
		return err
	}
	require.NoError(t, verify(func(*apikey.StoreRecord) {}))
	fields := 0
	each := func(typ reflect.Type, prefix string, in func(*apikey.StoreRecord) reflect.Value) {
		for i := range typ.NumField() {
			name := prefix + typ.Field(i).Name
			if outside[name] || name == "Credentials" {
				continue
			}
			fields++
			err := verify(func(r *apikey.StoreRecord) { alter(t, in(r).Field(i)) })
			if name == "Credentials.ID" { // what was presented is not there any more
				require.Error(t, err, name)
				continue
			}
			require.ErrorIs(t, err, apikey.ErrCorrupt, "%s is not covered", name)
		}
	}
	each(reflect.TypeFor[apikey.StoreRecord](), "", func(r *apikey.StoreRecord) reflect.Value { return reflect.ValueOf(r).Elem() })
	each(reflect.TypeFor[apikey.StoreCredential](), "Credentials.", func(r *apikey.StoreRecord) reflect.Value {
		return reflect.ValueOf(r).Elem().FieldByName("Credentials").Index(0)
	})
	require.Greater(t, fields, 25)
}

// alter gives a field another value of its type.
func alter(t *testing.T, v reflect.Value) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = x.Add(time.Hour).Add(time.Microsecond)
	case *[]string:
		*x = append(*x, "payment:verify")
	case *[]netip.Prefix:
		*x = append(*x, netip.MustParsePrefix("0.0.0.0/0"))
	case *map[string]string:
		*x = map[string]string{"a": "c"}
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Uint8, reflect.Uint64:
			v.SetUint(v.Uint() ^ 3)
		case reflect.Int:
			v.SetInt(v.Int() + 1)
		case reflect.Array:
			v.Index(0).SetUint(v.Index(0).Uint() ^ 1)
		default:
			t.Fatalf("a field of type %s: teach alter about it", v.Type())
		}
	}
}

// A Manager of an older version suspends a key that needs what only a newer one
// knows. The record stays sound: the newer one resumes it.
func TestAnOlderManagerRuinsNothing(t *testing.T) {
	e := newEnv(t, func(e *env) {
		e.settings.Catalog = apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:refund"}, apikey.CatalogEntry{Parse: func(s string) (apikey.Ability, bool) { return shout(s), s == "NEW FORM" }})
	})
	key := e.issue(func(r *apikey.IssueRequest) { r.Abilities = []string{"NEW FORM"} })
	require.NoError(t, e.verify(key.Token))
	older := e.newManager(func(c *managerConfig) { c.Catalog = catalog })
	_, err := older.Get(e.ctx, key.Key.ID)
	require.ErrorIs(t, err, apikey.ErrCorrupt, "it does not know the form")
	require.NoError(t, older.Suspend(e.ctx, key.Key.ID))
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrSuspended)
	require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}))
	require.NoError(t, e.verify(key.Token))
	report, err := e.manager.VerifyEvents(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, apikey.ChainReport{Events: 3}, report)
}

type shout string

func (s shout) Allows(a apikey.Ability) bool { return a == s }
func (s shout) String() string               { return string(s) }

func TestRevokeAllWantsAnAccount(t *testing.T) {
	e := newEnv(t)
	key := e.issue()
	op := apikey.WithActor(background, apikey.Operator("ops"))
	_, err := e.manager.RevokeAll(op, apikey.RevokeAllRequest{All: true})
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.NoError(t, e.verify(key.Token))
}

// After a new pepper took over, every record's MAC is of it. Revoking what it
// minted leaves what it only signed.
func TestRevokeAllOfAPepperIsWhatItMinted(t *testing.T) {
	e := newEnv(t)
	old := e.issue()
	two := pepper(t, 2)
	both := []apikey.Pepper{two, e.settings.Peppers[0]}
	m := e.newManager(func(c *managerConfig) { c.Peppers, c.Hashers = both, []apikey.Hasher{hmacHasher(t, both...)} })
	fresh, err := m.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(t, err)
	op := apikey.WithActor(background, apikey.Operator("ops"))
	n, err := m.Remac(op, 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	done, err := m.RevokeAll(op, apikey.RevokeAllRequest{Pepper: 2, Reason: apikey.ReasonCompromised})
	require.NoError(t, err)
	require.Equal(t, 1, done.Revoked)
	state := func(id apikey.KeyID) apikey.State {
		info, err := m.Get(e.ctx, id)
		require.NoError(t, err)
		return info.State
	}
	require.Equal(t, apikey.Revoked, state(fresh.Key.ID))
	require.Equal(t, apikey.Active, state(old.Key.ID))
}

func TestUpdateSurvivesJSON(t *testing.T) {
	e := newEnv(t)
	key := e.issue(func(r *apikey.IssueRequest) { r.Origins = []string{"https://shop.example"} })
	text, err := json.Marshal(apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("renamed")})
	require.NoError(t, err)
	var req apikey.UpdateRequest
	require.NoError(t, json.Unmarshal(text, &req))
	info, err := e.manager.Update(e.ctx, req)
	require.NoError(t, err)
	require.Equal(t, "renamed", info.Name)
	require.Equal(t, 1, info.Origins.Len(), "what was not set is kept")
	require.Equal(t, 1, info.Abilities.Len())
}

type policyFunc func(apikey.Action) error

func (p policyFunc) Authorize(_ context.Context, _ apikey.Actor, act apikey.Action, _ apikey.Info) error {
	return p(act)
}

// Who may not resume cannot do it through Update.
func TestUpdateIsNoWayAroundThePolicy(t *testing.T) {
	e := newEnv(t, func(e *env) {
		e.mc.Policy = policyFunc(func(a apikey.Action) error {
			if a == apikey.ActionResume || a == apikey.ActionSuspend {
				return fmt.Errorf("not you")
			}
			return nil
		})
	})
	key := e.issue()
	off := e.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
	_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Disabled: apikey.Set(true)})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: off.Key.ID, Disabled: apikey.Clear[bool]()})
	require.ErrorIs(t, err, apikey.ErrForbidden)
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: off.Key.ID, Name: apikey.Set("x")})
	require.NoError(t, err)
	require.NoError(t, e.verify(key.Token))
	require.ErrorIs(t, e.verify(off.Token), apikey.ErrSuspended)
}

// A policy that cannot reach its own database refuses, once and at once.
func TestAPolicysErrorIsNoReasonToTryAgain(t *testing.T) {
	calls := 0
	e := newEnv(t)
	key := e.issue()
	m := e.newManager(func(c *managerConfig) {
		c.Policy = policyFunc(func(apikey.Action) error {
			calls++
			return fmt.Errorf("%w: %w", apikey.ErrUnavailable, apikey.ErrConflict)
		})
	})
	require.ErrorIs(t, m.Suspend(e.ctx, key.Key.ID), apikey.ErrForbidden)
	require.Equal(t, 1, calls)
}

// An ability that the catalog has dropped does not freeze the keys that hold it.
func TestDroppedAbilitiesFreezeNothing(t *testing.T) {
	e := newEnv(t)
	key := e.issue(func(r *apikey.IssueRequest) { r.Abilities = []string{"payment:refund", "payment:verify"} })
	m := e.newManager(func(c *managerConfig) {
		c.Catalog = apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"})
		c.Limits.Abilities = 1
	})
	require.NoError(t, m.Suspend(e.ctx, key.Key.ID))
	require.NoError(t, m.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}))
	_, err := m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("x")})
	require.NoError(t, err)
	_, err = m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:refund"})})
	require.ErrorIs(t, err, apikey.ErrInvalid)
	_, err = m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:verify"})})
	require.NoError(t, err)
}

// A damaged row of somebody else's is not found, just as a sound one is not.
func TestForeignDamageIsNotFound(t *testing.T) {
	e := newEnv(t, func(e *env) { e.store = damagedRows{e.store} })
	key := e.issue().Key.ID
	stranger := apikey.WithActor(background, apikey.Actor{ID: "usr_2", Account: "acc_2", Role: "admin"})
	_, err := e.manager.Get(stranger, key)
	require.Equal(t, apikey.ErrNotFound, err)
	_, err = e.manager.Get(e.ctx, key)
	require.ErrorIs(t, err, apikey.ErrCorrupt)
}

type damagedRows struct{ apikey.Store }

func (d damagedRows) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := d.Store.Get(ctx, id)
	if err != nil {
		return r, err
	}
	return apikey.StoreRecord{}, &apikey.CorruptError{Key: id, Account: r.Account, Detail: "abilities are not readable"}
}

// Two nodes list the same peppers in another order. Neither rewrites what the
// other has written.
func TestChecksDoNotFlapBetweenPeppers(t *testing.T) {
	e := newEnv(t)
	key := e.issue()
	writes := 0
	two := pepper(t, 2)
	for _, order := range [][]apikey.Pepper{{two, e.settings.Peppers[0]}, {e.settings.Peppers[0], two}} {
		s := &spy{Store: e.store}
		s.set(func(s *spy) {
			s.upkeep = func(_ context.Context, batch []apikey.StoreUpkeep, next func() error) error {
				for _, u := range batch {
					if u.NewCheck != nil {
						writes++
					}
				}
				return next()
			}
		})
		v := e.newVerifier(func(c *verifierConfig) {
			c.Store, c.Peppers, c.Hashers = s, order, []apikey.Hasher{hmacHasher(t, order...)}
		})
		_, err := v.Verify(background, key.Token.Reveal(), apikey.Request{})
		require.NoError(t, err)
		require.NoError(t, v.Close(background))
	}
	require.Zero(t, writes)
}

// After a backup was restored a key is revoked again, at a version below the
// one that this process saw before. What either record forbids is forbidden.
func TestRevokeAfterARestoreCounts(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*env, apikey.KeyID) error
		want   error
	}{
		"revoke": {func(e *env, k apikey.KeyID) error {
			return e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k})
		}, apikey.ErrRevoked},
		"suspend": {func(e *env, k apikey.KeyID) error {
			return e.manager.Suspend(e.ctx, k)
		}, apikey.ErrSuspended},
		"take the ability": {func(e *env, k apikey.KeyID) error {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: k, Abilities: apikey.Clear[[]string]()})
			return err
		}, apikey.ErrAbility},
		"revoked elsewhere": {func(e *env, k apikey.KeyID) error {
			other := e.newManager()
			if err := other.Revoke(e.ctx, apikey.RevokeRequest{Key: k}); err != nil {
				return err
			}
			return e.verifier.Sync(background)
		}, apikey.ErrRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			store := memstore.New()
			e := newEnv(t, func(e *env) { e.store = store })
			key := e.issue()
			restore := store.Snapshot()
			for i := range 5 {
				_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(fmt.Sprint(i))})
				require.NoError(t, err)
			}
			verify := func() error {
				_, err := e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}})
				return err
			}
			require.NoError(t, verify())
			require.NoError(t, e.verifier.Sync(background))
			restore()
			require.NoError(t, e.verifier.Sync(background))
			require.NoError(t, verify(), "a restored key goes on")
			require.NoError(t, c.change(e, key.Key.ID))
			require.ErrorIs(t, verify(), c.want)
			require.NoError(t, e.verifier.Sync(background))
			require.ErrorIs(t, verify(), c.want)
			e.clock.move(3 * e.maxAge())
			require.ErrorIs(t, verify(), c.want)
		})
	}
}

// The commit of a revocation was lost in a failover, and the key went on to a
// higher version. The process that saw it die does not bring it back.
func TestTheDeadStayDead(t *testing.T) {
	store := memstore.New()
	e := newEnv(t, func(e *env) { e.store = store })
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	restore := store.Snapshot()
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	restore()
	other := e.newManager()
	for i := range 5 {
		_, err := other.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set(fmt.Sprint(i))})
		require.NoError(t, err)
	}
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	e.clock.move(3 * e.maxAge())
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
}

// Two changes are told in the wrong order. The late one forbids only until the
// store is asked.
func TestALateMessageHealsAtTheNextUse(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID))
	late, err := e.store.Get(background, key.Key.ID)
	require.NoError(t, err)
	require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}))
	s.set(func(s *spy) {
		s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			c, err := next()
			c.Records = append(c.Records, late)
			return c, err
		}
	})
	require.NoError(t, e.verifier.Sync(background))
	before := s.lookups.Load()
	require.NoError(t, e.verify(key.Token))
	require.Equal(t, before+1, s.lookups.Load())
	require.NoError(t, e.verify(key.Token))
	require.Equal(t, before+1, s.lookups.Load(), "healed")
}

// forgedDeath is a database writer without the pepper, who says that keys are
// dead, and later takes it back.
type forgedDeath struct {
	apikey.Store
	on bool
}

func (f *forgedDeath) forge(r apikey.StoreRecord, err error) (apikey.StoreRecord, error) {
	if f.on && err == nil && r.RevokedAt.IsZero() {
		r.RevokedAt, r.Disabled = r.CreatedAt, true
	}
	return r, err
}

func (f *forgedDeath) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	return f.forge(f.Store.Get(ctx, id))
}

func (f *forgedDeath) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	return f.forge(f.Store.Lookup(ctx, id))
}

// A revocation is not believed to have happened because an unsound record says
// so, and taking the forged death back does not bring the key back.
func TestAForgedDeathSwallowsNoRevocation(t *testing.T) {
	for name, end := range map[string]func(*env, apikey.Issued) error{
		"Revoke": func(e *env, k apikey.Issued) error {
			return e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID, Reason: apikey.ReasonCompromised})
		},
		"Suspend": func(e *env, k apikey.Issued) error {
			return e.manager.Suspend(e.ctx, k.Key.ID)
		},
		"RevokeToken": func(e *env, k apikey.Issued) error {
			return e.manager.RevokeToken(background, k.Token.Reveal(), "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := &forgedDeath{}
			e := newEnv(t, func(e *env) { f.Store = e.store; e.store = f })
			key := e.issue()
			require.NoError(t, e.verify(key.Token))
			f.on = true
			require.NoError(t, end(e, key))
			f.on = false
			require.Error(t, e.verify(key.Token))
			require.Error(t, e.verify(key.Token))
			_, err := e.newVerifier().Verify(background, key.Token.Reveal(), apikey.Request{})
			require.Error(t, err, "also after a restart")
			r, err := f.Store.Get(background, key.Key.ID)
			require.NoError(t, err)
			require.EqualValues(t, 2, r.Version, "the revocation was written")
		})
	}
}

// The row of a key that was damaged when it was revoked is put back whole. The
// process that revoked it remembers.
func TestRevokingADamagedKeyIsNotUndoneHere(t *testing.T) {
	store := memstore.New()
	var s *spy
	e := newEnv(t, func(e *env) { e.store = store }, watch(&s))
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	restore := store.Snapshot()
	tampered := &renamer{Store: e.store}
	e.restart(func(c *managerConfig) { c.Store = tampered })
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	require.Error(t, e.verify(key.Token))
	restore()
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	require.NoError(t, e.verifier.Sync(background))
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
}

type renamer struct{ apikey.Store }

func (s *renamer) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := s.Store.Get(ctx, id)
	r.Name += " (changed)"
	return r, err
}

// A flood of junk queues for reads of its own. A warm key that is due to be
// read again does not stand behind it.
func TestJunkDoesNotHoldUpWarmKeys(t *testing.T) {
	var s *spy
	e := newEnv(t, noPepper, watch(&s), func(e *env) { e.vc.ColdReads = 1 })
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	require.NoError(t, e.verifier.Sync(background)) // the feed has nothing new to say of it later
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	s.set(func(s *spy) {
		s.lookup = func(ctx context.Context, id apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			if id != key.Token.Credential() {
				<-gate
			}
			return next()
		}
	})
	var wg sync.WaitGroup
	for range 50 {
		junk := recrc(spliceID(key.Token.Reveal()))
		wg.Go(func() { e.verifyText(junk) })
	}
	require.Eventually(t, func() bool { return s.lookups.Load() == 2 }, time.Second, time.Millisecond)
	e.clock.move(11 * time.Minute)
	require.NoError(t, e.verify(key.Token))
	open()
	wg.Wait()
}

// Writes that are cut off fence the keys that they were about, not everybody's.
func TestCutOffWritesFenceTheirOwnKeyAlone(t *testing.T) {
	lost := &lostAnswers{}
	var s *spy
	e := newEnv(t, func(e *env) { lost.Store = e.store; e.store = lost }, watch(&s))
	mine, theirs := e.issue(), e.issue()
	lost.on = true
	s.set(func(s *spy) {
		s.lookup = func(_ context.Context, _ apikey.CredentialID, next func() (apikey.StoreRecord, error)) (apikey.StoreRecord, error) {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: theirs.Key.ID, Name: apikey.Set(fmt.Sprint(s.lookups.Load()))})
			if err == nil {
				t.Error("the answer was to be lost")
			}
			return next()
		}
	})
	require.NoError(t, e.verify(mine.Token))
	require.EqualValues(t, 1, s.lookups.Load())
}

// Sync answers for what was so when it was called: it does not join a run that
// had read the store before.
func TestSyncAsksAfterItWasCalled(t *testing.T) {
	var s *spy
	e := newEnv(t, watch(&s))
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	read, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.set(func(s *spy) {
		s.changed = func(_ context.Context, _ apikey.Cursor, next func() (apikey.StoreChanges, error)) (apikey.StoreChanges, error) {
			c, err := next()
			once.Do(func() { close(read); <-gate })
			return c, err
		}
	})
	first := make(chan error)
	go func() { first <- e.verifier.Sync(background) }()
	<-read
	other := e.newManager()
	require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	second := make(chan error)
	go func() { second <- e.verifier.Sync(background) }()
	time.AfterFunc(20*time.Millisecond, func() { close(gate) })
	require.NoError(t, <-first)
	require.NoError(t, <-second)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
}

// A key is prolonged at the very moment of its end. The keys that were issued
// when it had ended count, and so does it.
func TestProlongingAtTheEndKeepsTheLimit(t *testing.T) {
	e := newEnv(t, func(e *env) { e.mc.Limits.LiveKeys = 2 })
	end := e.clock.now().Add(time.Hour)
	key := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = end })
	e.issue()
	slow := &beforeApply{Store: e.store}
	m := e.newManager(func(c *managerConfig) { c.Store = slow })
	slow.hook = func() {
		slow.hook = nil
		e.clock.move(time.Hour) // it ends while the update is under way
		e.issue()
	}
	_, err := m.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, ExpiresAt: apikey.Clear[time.Time]()})
	require.ErrorIs(t, err, apikey.ErrLimit)
}

type beforeApply struct {
	apikey.Store
	hook func()
}

func (b *beforeApply) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	if b.hook != nil {
		b.hook()
	}
	return b.Store.Apply(ctx, changes...)
}

// An event of a newer version, in a rolling deploy: its place in the chain is
// checked, its contents are neither broken nor sound.
func TestAnEventOfANewerVersion(t *testing.T) {
	n := &newerEvents{}
	e := newEnv(t, noPepper, func(e *env) { n.Store = e.store; e.store = n })
	key := e.issue()
	n.on = true
	report, err := e.manager.VerifyEvents(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.Nil(t, report.Broken)
	require.Equal(t, 1, report.Unverifiable)
	log, err := e.manager.Events(e.ctx, apikey.EventsRequest{Key: key.Key.ID})
	require.NoError(t, err)
	require.Equal(t, apikey.OutcomeUnreadable, log.Events[0].Outcome)
	require.Equal(t, apikey.ActionIssue, log.Events[0].Action)
	n.forge = true
	report, err = e.manager.VerifyEvents(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.NotNil(t, report.Broken, "its hash is checked all the same")
}

// newerEvents shows the last event as a newer version would have written it.
type newerEvents struct {
	apikey.Store
	on, forge bool
}

func (n *newerEvents) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := n.Store.Get(ctx, id)
	if n.on && err == nil {
		page, _ := n.Events(ctx, apikey.StoreEventFilter{Key: id, Chain: true})
		r.Head = page.Events[0].Hash
	}
	return r, err
}

func (n *newerEvents) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	page, err := n.Store.Events(ctx, f)
	for i := range page.Events {
		if n.on {
			e := &page.Events[i]
			e.Body[7] = 2
			e.Body = append(e.Body, "a field that is not known here"...)
			e.Hash = sha256.Sum256(append([]byte("apikey event v1\x00"), e.Body...))
			if n.forge {
				e.Body[len(e.Body)-1] ^= 1
			}
		}
	}
	return page, err
}

// A process whose Settings differ from those of the Managers would refuse what they
// issue. The difference fails the start.
func TestSettingsOfProcessesHaveToMatch(t *testing.T) {
	one, two := pepper(t, 1), pepper(t, 2)
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{})
	require.NoError(t, err)
	settings := func() apikey.Settings {
		return apikey.Settings{Store: memstore.New(), Prefix: prefix, Catalog: catalog, Peppers: []apikey.Pepper{one}, Hashers: []apikey.Hasher{hmacHasher(t, one)}}
	}
	for name, c := range map[string]struct {
		other func(*apikey.Settings)
		want  error
		says  string
	}{
		"the same":       {other: func(*apikey.Settings) {}},
		"no Catalog":     {other: func(s *apikey.Settings) { s.Catalog = nil }},
		"a pepper more":  {other: func(s *apikey.Settings) { s.Peppers = []apikey.Pepper{two, one} }},
		"a Hasher more":  {other: func(s *apikey.Settings) { s.Hashers = append(s.Hashers, argon) }},
		"prefix":         {func(s *apikey.Settings) { s.Prefix = "other" }, apikey.ErrInvalid, `the keys of this database begin with "acme"`},
		"no pepper":      {func(s *apikey.Settings) { s.Peppers, s.Hashers = nil, nil }, apikey.ErrPepper, "slot 1"},
		"another slot":   {func(s *apikey.Settings) { s.Peppers, s.Hashers = []apikey.Pepper{two}, nil }, apikey.ErrPepper, "slot 1"},
		"another pepper": {func(s *apikey.Settings) { s.Peppers, s.Hashers = []apikey.Pepper{pepperOf(t, 1, 9)}, nil }, apikey.ErrPepper, "slot 1"},
		"hasher":         {func(s *apikey.Settings) { s.Hashers = []apikey.Hasher{argon} }, apikey.ErrInvalid, "hmac-sha256"},
		"the Hasher's pepper": {func(s *apikey.Settings) {
			s.Peppers, s.Hashers = []apikey.Pepper{one, two}, []apikey.Hasher{hmacHasher(t, two)}
		}, apikey.ErrInvalid, "hmac-sha256"},
		"the default Hasher": {func(s *apikey.Settings) { s.Hashers = nil }, apikey.ErrInvalid, "hmac-sha256"},
	} {
		s := settings()
		m, err := apikey.NewManager(background, s, apikey.ManagerConfig{})
		require.NoError(t, err, name)
		c.other(&s)
		v, err := apikey.NewVerifier(background, s, apikey.VerifierConfig{Mode: apikey.Live, Sync: -1})
		require.ErrorIs(t, err, c.want, name)
		if c.want == nil {
			require.NoError(t, err, name)
			require.NoError(t, v.Close(background))
		} else {
			require.ErrorContains(t, err, c.says, name)
			s.Catalog = catalog
			_, err = apikey.NewManager(background, s, apikey.ManagerConfig{})
			require.ErrorIs(t, err, c.want, "%s, of another Manager", name)
		}
		require.NoError(t, m.Close(background))
	}
}

// Somebody who writes to the database without the pepper cannot stop a start: what they
// store as the Managers' Settings counts as missing, and the next Manager replaces it.
func TestForgedSettingsAreNone(t *testing.T) {
	e := newEnv(t)
	elsewhere := newEnv(t, func(e *env) { e.settings.Prefix = "other" })
	note := func(e *env) apikey.StoreItem {
		page, err := e.store.Items(background, apikey.StoreItemFilter{Kind: "settings"})
		require.NoError(t, err)
		require.Len(t, page.Items, 1)
		return page.Items[0]
	}
	right := note(e).Data
	forged := note(e)
	forged.Version, forged.Data = forged.Version+1, bytes.Clone(note(elsewhere).Data)
	forged.Data[1] ^= 1 // a byte of its MAC
	require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: apikey.EventID(storetest.NewKeyID()), Items: []apikey.StoreItem{forged}}))
	e.newVerifier()
	e.newManager()
	require.Equal(t, right, note(e).Data)
}

// Nor does an item that nobody can write any more, because of its version.
func TestSettingsThatCannotBeStoredStopNoStart(t *testing.T) {
	store, db := sqliteOf(t)
	e := newEnv(t, func(e *env) { e.store = store })
	for _, version := range []int64{0, -1, math.MaxInt64} {
		_, err := db.Exec("UPDATE apikey_items SET version = ?, data = x'00' WHERE kind = 'settings'", version)
		require.NoError(t, err)
		e.newManager()
		e.newVerifier()
	}
}

// noUpkeep is a store that can be kept from writing last uses.
type noUpkeep struct {
	apikey.Store
	down atomic.Bool
}

func (s *noUpkeep) Upkeep(ctx context.Context, list []apikey.StoreUpkeep) error {
	if s.down.Load() {
		return errors.New("down")
	}
	return s.Store.Upkeep(ctx, list)
}

// A Manager whose Close could not write the last uses writes them at its second Close.
func TestSecondCloseOfAManager(t *testing.T) {
	store := &noUpkeep{Store: memstore.New()}
	e := newEnv(t, func(e *env) { e.store = store })
	key := e.issue()
	require.NoError(t, e.verify(key.Token))
	store.down.Store(true)
	require.ErrorIs(t, e.manager.Close(background), apikey.ErrUnavailable)
	store.down.Store(false)
	require.NoError(t, e.manager.Close(background))
	r, err := e.store.Get(background, key.Key.ID)
	require.NoError(t, err)
	require.False(t, r.Credentials[0].LastUsed.IsZero())
}

// A holder relabels their token to have no tag, while untagged ones are accepted.
// It is the same wrong token for whoever asks.
func TestRelabelledTokensAreWrongForEveryCaller(t *testing.T) {
	e := newEnv(t, func(e *env) { e.settings.AcceptUntagged = true })
	token := e.issue().Token
	text := token.Reveal()
	relabelled := recrc(text[:len(text)-18] + "0" + strings.Repeat("0", 11) + text[len(text)-6:])
	require.Equal(t, apikey.ErrInvalidToken, e.verifyText(relabelled))
	require.Equal(t, apikey.ErrInvalidToken, e.manager.RevokeToken(background, relabelled, ""))
	require.NoError(t, e.verify(token))
}
