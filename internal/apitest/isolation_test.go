package apitest

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

func TestEveryMethodHasARow(t *testing.T) {
	for typ, rows := range map[reflect.Type]calls{
		reflect.TypeFor[*apikey.Manager](): managerCalls(nil),
		reflect.TypeFor[*apikey.Tx]():      txCalls(nil),
	} {
		require.NotZero(t, typ.NumMethod())
		for i := range typ.NumMethod() {
			require.Contains(t, rows, typ.Method(i).Name, "%v has a method that no row tries across accounts", typ)
		}
		require.Len(t, rows, typ.NumMethod(), "%v: rows of methods that do not exist", typ)
	}
}

// Nothing of another account can be read, changed or even told apart from what
// does not exist: not with any method, and not under a Policy that allows
// everything.
func TestAnotherAccountDoesNotExist(t *testing.T) {
	sentinels := []error{
		apikey.ErrNotFound, apikey.ErrForbidden, apikey.ErrInvalid, apikey.ErrInvalidToken, apikey.ErrConflict, apikey.ErrCorrupt,
		apikey.ErrUnavailable, apikey.ErrUnauthenticated, apikey.ErrDenied, apikey.ErrStanding, apikey.ErrLimit, apikey.ErrRevoked,
	}
	onStores(t, func(t *testing.T, on func(*env)) {
		for name, policy := range map[string]*asked{
			"RolePolicy":                  {Policy: apikey.RolePolicy{}},
			"a Policy that allows it all": {Policy: anything{}},
		} {
			t.Run(name, func(t *testing.T) {
				var f *factors
				e := newEnv(t, on, withFactors(&f, apikey.GuardRevealAndRotate("password")), func(e *env) { e.mc.Policy = policy })
				key, foreign, absent := victim(e)
				policy.about = nil
				before, err := e.store.Get(background, key.Key.ID)
				require.NoError(t, err)
				tried := 0
				for _, c := range []calls{managerCalls(e.manager), txCalls(e.manager.Tx(unsaid{e.store}))} {
					c.each(func(name string, call func(context.Context, target) error) {
						for _, role := range []string{"admin", "superadmin", "operator", ""} {
							ctx := as("acc_1", role)
							got, want := call(ctx, foreign), call(ctx, absent)
							require.Error(t, got, name)
							require.EqualError(t, got, want.Error(), name)
							for _, s := range sentinels {
								require.Equal(t, errors.Is(want, s), errors.Is(got, s), "%s: %v", name, s)
							}
							tried++
						}
					})
				}
				require.Greater(t, tried, 80)
				after, err := e.store.Get(background, key.Key.ID)
				require.NoError(t, err)
				require.Equal(t, before, after)
				require.NoError(t, e.verify(key.Token))
				require.NotContains(t, policy.accounts(), "acc_2", "Policy is not even asked about it")
				for _, ev := range e.allEvents(apikey.EventsRequest{Account: "acc_2"}) {
					require.Equal(t, "usr_of_acc_2", ev.Actor.ID, "nor does their log show who knocked")
				}
			})
		}
	})
}

// anything is a Policy of somebody who wants to span accounts.
type anything struct{}

func (anything) Authorize(context.Context, apikey.Actor, apikey.Action, apikey.Info) error {
	return nil
}

// asked remembers what a Policy was asked about.
type asked struct {
	apikey.Policy
	mu    sync.Mutex
	about []apikey.Info
	acts  []apikey.Action
}

func (p *asked) Authorize(ctx context.Context, a apikey.Actor, act apikey.Action, k apikey.Info) error {
	p.mu.Lock()
	p.about, p.acts = append(p.about, k), append(p.acts, act)
	p.mu.Unlock()
	return p.Policy.Authorize(ctx, a, act, k)
}

func (p *asked) accounts() (list []string) {
	for _, k := range p.about {
		list = append(list, k.Account)
	}
	return list
}

// A list, a log and a bulk revocation stay within the account, whatever the
// filter says.
func TestPagesStayWithinTheAccount(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on, func(e *env) { e.mc.Policy = anything{} })
		theirs, _, _ := victim(e)
		mine := e.issue(func(r *apikey.IssueRequest) { r.Name = "mine" })
		for name, req := range map[string]apikey.ListRequest{
			"all": {}, "live": {Mode: apikey.Live}, "pepper": {Pepper: 1}, "never used": {NeverUsed: true}, "any name": {NameContains: "e"},
		} {
			list, err := e.manager.List(e.ctx, req)
			require.NoError(t, err, name)
			require.Len(t, list.Keys, 1, name)
			require.Equal(t, mine.Key.ID, list.Keys[0].ID, name)
		}
		log, err := e.manager.Events(e.ctx, apikey.EventsRequest{})
		require.NoError(t, err)
		require.Len(t, log.Events, 1)
		require.Equal(t, "acc_1", log.Events[0].Account)
		done, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{Pepper: 1})
		require.NoError(t, err)
		require.Equal(t, 1, done.Revoked)
		require.NoError(t, e.verify(theirs.Token))
		require.ErrorIs(t, e.verify(mine.Token), apikey.ErrRevoked)
	})
}

// Nobody, or somebody for nobody, does nothing. RevokeToken alone needs no
// actor: having the token is the right to end it.
func TestNoActor(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRevealAndRotate("password")))
	key, foreign, _ := victim(e)
	for name, ctx := range map[string]context.Context{
		"no actor":                 background,
		"the zero actor":           apikey.WithActor(background, apikey.Actor{}),
		"an actor without account": apikey.WithActor(background, apikey.Actor{ID: "usr_1", Role: "admin"}),
		"an actor without ID":      apikey.WithActor(background, apikey.Actor{Account: "acc_2", Role: "admin"}),
		"an operator without ID":   apikey.WithActor(background, apikey.Operator("")),
	} {
		for _, c := range []calls{managerCalls(e.manager), txCalls(e.manager.Tx(unsaid{e.store}))} {
			c.each(func(method string, call func(context.Context, target) error) {
				if method != "RevokeToken by token" {
					require.ErrorIs(t, call(ctx, foreign), apikey.ErrNoActor, "%s: %s", name, method)
					require.ErrorIs(t, call(ctx, target{}), apikey.ErrNoActor, "%s: %s of nothing", name, method)
				}
			})
		}
	}
	require.NoError(t, e.verify(key.Token))
}

// What the program says of an actor has to be storable. What their client wrote
// into a header is made so: it must not stop a revocation.
func TestActorFieldsAreBounded(t *testing.T) {
	e := newEnv(t)
	long := string(bytes.Repeat([]byte("x"), 1025))
	for name, a := range map[string]apikey.Actor{
		"long ID":   {ID: long[:256], Account: "acc_1", Role: "admin"},
		"NUL":       {ID: "u\x00", Account: "acc_1", Role: "admin"},
		"not UTF-8": {ID: "u", Account: "acc_1", Role: "\xff"},
	} {
		_, err := e.manager.List(apikey.WithActor(background, a), apikey.ListRequest{})
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
	}
	key := e.issue().Key.ID
	hostile := admin
	hostile.Addr, hostile.UserAgent, hostile.RequestID = long, "a\x00\xffb", strings.Repeat("é", 1000)
	require.NoError(t, e.manager.Revoke(apikey.WithActor(background, hostile), apikey.RevokeRequest{Key: key}))
	log, err := e.manager.Events(e.ctx, apikey.EventsRequest{Key: key})
	require.NoError(t, err)
	require.Len(t, log.Events[0].Actor.Addr, 512)
	require.Equal(t, "a\uFFFD\uFFFDb", log.Events[0].Actor.UserAgent)
	require.True(t, utf8.ValidString(log.Events[0].Actor.RequestID))
}

// The zero KeyID is no key, also for who may see everything.
func TestZeroKeyIsNotFound(t *testing.T) {
	e := newEnv(t)
	e.issue()
	for name, call := range map[string]func(ctx context.Context) error{
		"Get": func(ctx context.Context) error { _, err := e.manager.Get(ctx, apikey.KeyID{}); return err },
		"Update": func(ctx context.Context) error {
			_, err := e.manager.Update(ctx, apikey.UpdateRequest{Name: apikey.Set("x")})
			return err
		},
		"Suspend": func(ctx context.Context) error { return e.manager.Suspend(ctx, apikey.KeyID{}) },
		"Resume":  func(ctx context.Context) error { return e.manager.Resume(ctx, apikey.ResumeRequest{}) },
		"Revoke":  func(ctx context.Context) error { return e.manager.Revoke(ctx, apikey.RevokeRequest{}) },
		"VerifyEvents": func(ctx context.Context) error {
			_, err := e.manager.VerifyEvents(ctx, apikey.KeyID{})
			return err
		},
	} {
		require.ErrorIs(t, call(e.ctx), apikey.ErrNotFound, name)
		require.ErrorIs(t, call(staff()), apikey.ErrNotFound, name)
	}
}

// No text from outside makes an operator: not by a role, not by JSON, not by
// gob, not by a copy of what a log shows.
func TestOperatorCannotBeForged(t *testing.T) {
	e := newEnv(t, func(e *env) { e.mc.Policy = anything{} })
	key, _, _ := victim(e)
	text := `{"ID":"usr_1","Account":"acc_1","Role":"operator","operator":true,"Operator":true,"holder":true,"IsOperator":true}`
	var fromJSON, fromGob, fromTyped apikey.Actor
	require.NoError(t, json.Unmarshal([]byte(text), &fromJSON))
	real, err := json.Marshal(apikey.Operator("ops_1"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(real, &fromTyped))
	fromTyped.Account = "acc_1"
	var buf bytes.Buffer
	require.NoError(t, gob.NewEncoder(&buf).Encode(struct {
		ID, Account, Role string
		Operator          bool
	}{"usr_1", "acc_1", "operator", true}))
	require.NoError(t, gob.NewDecoder(&buf).Decode(&fromGob))
	for name, a := range map[string]apikey.Actor{
		"JSON": fromJSON, "JSON of a real one": fromTyped, "gob": fromGob,
		"role": {ID: "ops_1", Account: "acc_1", Role: "operator"},
	} {
		require.False(t, a.IsOperator(), name)
		ctx := apikey.WithActor(background, a)
		_, err := e.manager.Get(ctx, key.Key.ID)
		require.ErrorIs(t, err, apikey.ErrNotFound, name)
		_, err = e.manager.Remac(ctx, 0)
		require.ErrorIs(t, err, apikey.ErrForbidden, name)
	}
}

// An Operator sees every account, and names the one for which they make keys.
func TestOperatorSpansAccounts(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		theirs, _, _ := victim(e)
		mine := e.issue()
		ctx := staff()
		list, err := e.manager.List(ctx, apikey.ListRequest{})
		require.NoError(t, err)
		require.Len(t, list.Keys, 3)
		list, err = e.manager.List(ctx, apikey.ListRequest{Account: "acc_1"})
		require.NoError(t, err)
		require.Len(t, list.Keys, 1)
		for _, id := range []apikey.KeyID{theirs.Key.ID, mine.Key.ID} {
			_, err := e.manager.Get(ctx, id)
			require.NoError(t, err)
		}
		_, err = e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.ErrorIs(t, err, apikey.ErrInvalid)
		require.ErrorContains(t, err, "name the account")
		_, err = e.manager.Provision(ctx, apikey.ProvisionRequest{})
		require.ErrorIs(t, err, apikey.ErrInvalid)
		issued, err := e.manager.Issue(ctx, apikey.IssueRequest{Account: "acc_1", Mode: apikey.Live})
		require.NoError(t, err)
		require.Equal(t, "acc_1", issued.Key.Account)
		_, err = e.manager.Get(e.ctx, issued.Key.ID)
		require.NoError(t, err, "it is the merchant's own")
		require.NoError(t, e.manager.Suspend(ctx, theirs.Key.ID))
		log, err := e.manager.Events(as("acc_2", "admin"), apikey.EventsRequest{Key: theirs.Key.ID, Limit: 1})
		require.NoError(t, err)
		require.Equal(t, "ops_1", log.Events[0].Actor.ID, "the merchant's log names the operator")
		require.True(t, log.Events[0].Actor.IsOperator())
	})
}

// What an item names is the account's own, or nothing: items are under no MAC.
// An idempotency key or a provision mark that somebody with write access bent to
// another merchant's key neither shows that key nor hands out its token.
func TestItemsBentToAnotherAccount(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	theirs, err := e.manager.Provision(as("acc_2", "admin"), apikey.ProvisionRequest{})
	require.NoError(t, err)
	mine, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
	require.NoError(t, err)
	req := apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "order 7"}
	_, err = e.manager.Issue(e.ctx, req)
	require.NoError(t, err)
	for name, foreign := range map[string]apikey.KeyID{"another account": theirs.Live.Key.ID, "another mode": mine.Test.Key.ID} {
		p.hook(func(p *proxy) {
			p.items = func(items []apikey.StoreItem) {
				for _, it := range items {
					if it.Kind == "idem" || it.Kind == "provision" {
						copy(it.Data[len(it.Data)-16:], foreign[:])
					}
				}
			}
		})
		issued, err := e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrCorrupt, name)
		require.NotErrorIs(t, err, apikey.ErrAlreadyIssued)
		require.Zero(t, issued)
		provisioned, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		require.ErrorIs(t, err, apikey.ErrCorrupt, name)
		require.Zero(t, provisioned)
	}
}
