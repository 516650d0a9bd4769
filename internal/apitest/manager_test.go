package apitest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

func TestNewManagerRefusesWhatCannotWork(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*managerConfig)
		want   error
		text   string
	}{
		{"no store", func(c *managerConfig) { c.Store = nil }, apikey.ErrInvalid, "Store is required"},
		{"no catalog", func(c *managerConfig) { c.Catalog = nil }, apikey.ErrInvalid, "Catalog is required"},
		{"no prefix", func(c *managerConfig) { c.Prefix = "" }, apikey.ErrInvalid, "prefix"},
		{"capital in the prefix", func(c *managerConfig) { c.Prefix = "Acme" }, apikey.ErrInvalid, "prefix"},
		{"prefix too long", func(c *managerConfig) { c.Prefix = "a23456789012345678901" }, apikey.ErrInvalid, "prefix"},
		{"zero pepper", func(c *managerConfig) { c.Peppers = []apikey.Pepper{{}} }, apikey.ErrInvalid, "zero Pepper"},
		{"one slot twice", func(c *managerConfig) { c.Peppers = append(c.Peppers, c.Peppers[0]) }, apikey.ErrInvalid, "slot 1"},
		{"untagged tokens that nobody accepts", func(c *managerConfig) { c.MintUntagged = true }, apikey.ErrInvalid, "AcceptUntagged"},
		{"negative limit", func(c *managerConfig) { c.Limits.LiveKeys = -1 }, apikey.ErrInvalid, "negative"},
		{"negative overlap", func(c *managerConfig) { c.Limits.Overlap = -time.Hour }, apikey.ErrInvalid, "negative"},
		{"store is down", func(c *managerConfig) { c.Store = downStore{c.Store} }, apikey.ErrUnavailable, "pulled out"},
		{"store takes no mark", func(c *managerConfig) { c.Store = &proxy{Store: memstore.New(), apply: cut} }, apikey.ErrUnavailable, "pulled out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t)
			config := managerConfig{e.settings, e.mc}
			c.change(&config)
			m, err := apikey.NewManager(background, config.Settings, config.ManagerConfig)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.text)
			require.Nil(t, m)
		})
	}
}

// cut loses every write.
func cut(func() error, []apikey.StoreChange) error { return errCable }

// A day is not negative, also where the nanoseconds of one do not fit an int.
func TestOverlapOfADay(t *testing.T) {
	newEnv(t, func(e *env) { e.mc.Limits.Overlap = 24 * time.Hour })
}

// downStore answers nothing.
type downStore struct{ apikey.Store }

func (downStore) Items(context.Context, apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	return apikey.StoreItemPage{}, errCable
}

func TestClosedManagerDoesNothing(t *testing.T) {
	e := newEnv(t)
	key := e.issue()
	require.NoError(t, e.manager.Close(background))
	_, err := e.manager.Get(e.ctx, key.Key.ID)
	require.ErrorIs(t, err, apikey.ErrClosed)
	require.ErrorIs(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}), apikey.ErrClosed)
	require.ErrorIs(t, e.manager.RevokeToken(background, key.Token.Reveal(), ""), apikey.ErrClosed)
	patient, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	require.ErrorIs(t, e.manager.RevokeToken(patient, key.Token.Reveal(), ""), apikey.ErrClosed)
	require.NoError(t, patient.Err(), "it is said at once")
	_, err = e.manager.NewVerifier(background, e.vc)
	require.ErrorIs(t, err, apikey.ErrClosed)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrClosed, "its Verifiers are closed with it")
	require.NoError(t, verifyBy(e.newVerifier(), key.Token))
}

// What was set is what Get and List show, and Info has no secret in it.
func TestGetDescribesTheKey(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		expiry := e.clock.now().Add(time.Hour)
		issued := e.issue(func(r *apikey.IssueRequest) {
			r.ExpiresAt, r.Metadata, r.Origins = expiry, map[string]string{"shop": "7"}, []string{"https://shop.example"}
		})
		for name, get := range map[string]func() apikey.Info{
			"issue": func() apikey.Info { return issued.Key },
			"get": func() apikey.Info {
				info, err := e.manager.Get(e.ctx, issued.Key.ID)
				require.NoError(t, err)
				return info
			},
			"list": func() apikey.Info {
				list, err := e.manager.List(e.ctx, apikey.ListRequest{})
				require.NoError(t, err)
				require.Len(t, list.Keys, 1)
				return list.Keys[0]
			},
		} {
			info := get()
			require.Equal(t, issued.Key.ID, info.ID, name)
			require.Equal(t, "acc_1", info.Account)
			require.Equal(t, "Website", info.Name)
			require.Equal(t, apikey.Live, info.Mode)
			require.Equal(t, apikey.Secret, info.Kind)
			require.Equal(t, apikey.Active, info.State)
			require.Equal(t, uint64(1), info.Version)
			require.True(t, info.ExpiresAt.Equal(expiry.Truncate(time.Microsecond)), "%s: whole microseconds", name)
			require.Equal(t, "7", info.Metadata.Get("shop"))
			require.Equal(t, "https://shop.example", info.Origins.At(0))
			require.Equal(t, "payment:refund", info.Abilities.At(0).String())
			require.Equal(t, 1, info.Credentials.Len())
			require.Equal(t, issued.Token.Credential(), info.Credentials.At(0).ID)
			require.Equal(t, issued.Token.Credential(), info.Credential)
			require.Equal(t, issued.Token.Hint(), info.Credentials.At(0).Hint)
			require.True(t, info.Credentials.At(0).Public.IsZero(), "a secret token is kept nowhere")
		}
	})
}

func TestListFilters(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		start := e.clock.now()
		make := func(name string, change func(*apikey.IssueRequest)) apikey.Issued {
			e.clock.move(time.Minute)
			return e.issue(func(r *apikey.IssueRequest) { r.Name = name }, change)
		}
		plain := make("Till 1", func(*apikey.IssueRequest) {})
		make("sandbox", func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
		make("Till public", func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, nil })
		make("asleep", func(r *apikey.IssueRequest) { r.Disabled = true })
		make("short", func(r *apikey.IssueRequest) { r.ExpiresAt = start.Add(time.Hour) })
		make("due", func(r *apikey.IssueRequest) { r.RotateMonths = 6 })
		dead := make("dead", func(*apikey.IssueRequest) {})
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: dead.Key.ID}))
		require.NoError(t, e.verify(plain.Token))
		require.NoError(t, e.verifier.Close(background)) // writes that it was used
		used := e.clock.now()

		everything := []string{"dead", "due", "short", "asleep", "Till public", "sandbox", "Till 1"}
		for _, c := range []struct {
			name string
			req  apikey.ListRequest
			want []string
		}{
			{"all, newest first", apikey.ListRequest{}, everything},
			{"mode", apikey.ListRequest{Mode: apikey.Test}, []string{"sandbox"}},
			{"kind", apikey.ListRequest{Kind: apikey.Publishable}, []string{"Till public"}},
			{"suspended", apikey.ListRequest{State: apikey.Suspended}, []string{"asleep"}},
			{"revoked", apikey.ListRequest{State: apikey.Revoked}, []string{"dead"}},
			{"name, without case", apikey.ListRequest{NameContains: "TILL"}, []string{"Till public", "Till 1"}},
			{"two at once", apikey.ListRequest{NameContains: "till", Kind: apikey.Secret}, []string{"Till 1"}},
			{"never used", apikey.ListRequest{NeverUsed: true}, everything[:6]},
			{"unused since", apikey.ListRequest{UnusedSince: used}, everything[1:6]},
			{"expiring", apikey.ListRequest{ExpiringBefore: start.Add(2 * time.Hour)}, []string{"short"}},
			{"not expiring so soon", apikey.ListRequest{ExpiringBefore: start.Add(time.Hour)}, nil},
			{"due", apikey.ListRequest{DueBefore: start.AddDate(0, 7, 0)}, []string{"due"}},
			{"due later", apikey.ListRequest{DueBefore: start.AddDate(0, 5, 0)}, nil},
			{"pepper", apikey.ListRequest{Pepper: 1}, everything},
			{"no such pepper", apikey.ListRequest{Pepper: 2}, nil},
		} {
			for _, limit := range []int{0, 1, 2} { // the same whatever the pages are
				c.req.Limit = limit
				var names []string
				for req := c.req; ; {
					list, err := e.manager.List(e.ctx, req)
					require.NoError(t, err, c.name)
					require.Empty(t, list.Damaged)
					for _, k := range list.Keys {
						names = append(names, k.Name)
					}
					if req.Cursor = list.Next; list.Next == "" {
						break
					}
				}
				require.Equal(t, c.want, names, "%s, by %d", c.name, limit)
			}
		}
	})
}

func TestListRefuses(t *testing.T) {
	e := newEnv(t)
	e.issue()
	e.issue()
	page, err := e.manager.List(e.ctx, apikey.ListRequest{Limit: 1})
	require.NoError(t, err)
	require.NotEmpty(t, page.Next)
	for name, req := range map[string]apikey.ListRequest{
		"cursor of another filter": {Limit: 1, Mode: apikey.Live, Cursor: page.Next},
		"cursor of nobody":         {Cursor: "abc"},
		"half a cursor":            {Limit: 1, Cursor: page.Next[:len(page.Next)-1]},
		"limit beyond 1000":        {Limit: 1001},
		"limit below 0":            {Limit: -1},
	} {
		_, err := e.manager.List(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
	}
	_, err = e.manager.List(staff(), apikey.ListRequest{NameContains: "x"})
	require.ErrorIs(t, err, apikey.ErrInvalid, "a name is sought within an account")
}

// A store that cannot be read or written changes nothing, and nothing is
// announced.
func TestStoreFailures(t *testing.T) {
	var p *proxy
	var events []apikey.Event
	e := newEnv(t, through(&p), func(e *env) { e.mc.OnEvent = func(ev apikey.Event) { events = append(events, ev) } })
	key := e.issue()
	asleep := e.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
	require.NoError(t, e.verify(key.Token))
	events = nil
	calls := map[string]func(ctx context.Context) error{
		"Issue": func(ctx context.Context) error {
			issued, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.Zero(t, issued)
			return err
		},
		"Provision": func(ctx context.Context) error {
			done, err := e.manager.Provision(ctx, apikey.ProvisionRequest{})
			require.Zero(t, done)
			return err
		},
		"Update": func(ctx context.Context) error {
			info, err := e.manager.Update(ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("other")})
			require.Zero(t, info)
			return err
		},
		"Resume": func(ctx context.Context) error {
			return e.manager.Resume(ctx, apikey.ResumeRequest{Key: asleep.Key.ID})
		},
		"Suspend": func(ctx context.Context) error { return e.manager.Suspend(ctx, key.Key.ID) },
		"Revoke":  func(ctx context.Context) error { return e.manager.Revoke(ctx, apikey.RevokeRequest{Key: key.Key.ID}) },
		"RevokeToken": func(ctx context.Context) error {
			return e.manager.RevokeToken(ctx, key.Token.Reveal(), "")
		},
	}
	for what, break_ := range map[string]func(*proxy){
		"apply": func(p *proxy) {
			p.apply = func(func() error, []apikey.StoreChange) error { return errCable }
		},
		"get and list": func(p *proxy) {
			fail := func() error { return fmt.Errorf("%w: %w", apikey.ErrUnavailable, errCable) }
			p.get, p.list = fail, fail
		},
	} {
		p.hook(break_)
		for name, call := range calls {
			ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond) // what only takes power away tries until then
			err := call(ctx)
			cancel()
			require.ErrorIs(t, err, apikey.ErrUnavailable, "%s, %s", what, name)
			require.True(t, errors.Is(err, errCable) || errors.Is(err, context.DeadlineExceeded), "the cause is in it: %s, %s: %v", what, name, err)
		}
		p.hook(func(p *proxy) { p.apply, p.get, p.list = nil, nil, nil })
	}
	require.Empty(t, events)
	require.NoError(t, e.verify(key.Token))
	info, err := e.manager.Get(e.ctx, key.Key.ID)
	require.NoError(t, err)
	require.Equal(t, uint64(1), info.Version)
	list, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.NoError(t, err)
	require.Len(t, list.Keys, 2)
	require.Len(t, e.allEvents(apikey.EventsRequest{Account: "acc_1"}), 2)
}

// The answer to an Apply was lost although it committed, and while nobody knew,
// an old record was read again: a Revoke that returns is true here all the same.
func TestRevocationWithALostAnswerIsKnownHere(t *testing.T) {
	for name, kill := range map[string]func(e *env, k apikey.Issued) error{
		"revoke": func(e *env, k apikey.Issued) error {
			return e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: k.Key.ID})
		},
		"suspend": func(e *env, k apikey.Issued) error {
			return e.manager.Suspend(e.ctx, k.Key.ID)
		},
		"revoke token": func(e *env, k apikey.Issued) error {
			return e.manager.RevokeToken(background, k.Token.Reveal(), "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			var p *proxy
			e := newEnv(t, through(&p))
			key := e.issue()
			require.NoError(t, e.verify(key.Token))
			attempts := 0
			var commit func() error
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
				attempts++
				if attempts == 1 { // under way still: it commits only later
					commit = next
					return errCable
				}
				return next()
			}
			p.get = func() error {
				if attempts == 1 && commit != nil {
					require.NoError(t, e.verify(key.Token), "not revoked yet: read again and warm")
					require.NoError(t, commit())
					commit = nil
				}
				return nil
			}
			require.NoError(t, kill(e, key))
			require.Equal(t, 1, attempts, "the second attempt found it done")
			require.Error(t, e.verify(key.Token))
		})
	}
}

// Another node revoked the key, and this one has not heard of it. Revoking it
// here writes nothing, but from then on this node knows.
func TestRevokeOfAKeyThatAnotherNodeRevoked(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		rang := 0
		e := newEnv(t, on, func(e *env) { e.settings.Notifier = ringer(func() { rang++ }) })
		other := e.newManager(func(c *managerConfig) { c.Notifier = nil })
		key := e.issue()
		require.NoError(t, e.verify(key.Token))
		require.NoError(t, other.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		require.NoError(t, e.verify(key.Token), "the premise: not heard of yet")
		rang = 0
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
		require.Zero(t, rang, "nothing changed that other nodes should ask for")
	})
}

type ringer func()

func (r ringer) Notify(context.Context) error { r(); return nil }

func (r ringer) Wait(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// A Notifier that fails holds up nothing: it is an accelerator.
func TestNotifierThatFails(t *testing.T) {
	e := newEnv(t, func(e *env) { e.settings.Notifier = brokenBell{} })
	key := e.issue()
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
}

type brokenBell struct{}

func (brokenBell) Notify(context.Context) error { return errCable }

func (brokenBell) Wait(context.Context) error { return errCable }
