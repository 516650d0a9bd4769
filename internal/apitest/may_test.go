package apitest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// mayEnv is a program whose Policy, Standing and Products refuse some of what is asked,
// with everything by which May could leave a trace.
type mayEnv struct {
	*env
	f       *factors
	store   *counted
	denied  int
	log     bytes.Buffer
	policy  *seeing
	refused func(apikey.Mode) error // by Standing
	product error                   // by Products
	decided int                     // answers of May that were compared with the action's
	nils    int
}

func newMayEnv(t *testing.T, options ...func(*env)) *mayEnv {
	k := &mayEnv{store: &counted{}}
	k.policy = &seeing{}
	k.env = newEnv(t, append([]func(*env){withFactors(&k.f, nil), func(e *env) {
		k.store.Store, e.store = e.store, k.store
		e.mc.Policy = shift{k.policy}
		e.mc.InsecureRevealWithoutStepUp = true
		e.mc.Limits = apikey.Limits{LiveKeys: 1 << 20, Keys: 1 << 21, IssuesAnHour: 1 << 20}
		e.mc.Products = func(string, apikey.Mode, apikey.Ability) error { return k.product }
		e.settings.Standing = standing(func(_ string, m apikey.Mode) error {
			if k.refused != nil {
				return k.refused(m)
			}
			return nil
		})
		e.settings.Trace = &apikey.Trace{Denied: func(apikey.Actor, apikey.Action, apikey.KeyID, error) { k.denied++ }}
		e.settings.Logger = slog.New(slog.NewTextHandler(&k.log, nil))
	}}, options...)...)
	return k
}

// shift is a RolePolicy under which a teller may act in Test, and call no rotation off.
type shift struct{ *seeing }

func (p shift) AuthorizeChange(ctx context.Context, a apikey.Actor, act apikey.Action, before, after apikey.Info) error {
	if err := p.seeing.AuthorizeChange(ctx, a, act, before, after); err != nil {
		return err
	}
	if a.Role == "teller" && before.Mode == apikey.Test && act != apikey.ActionCancelRotation {
		return nil
	}
	return apikey.RolePolicy{}.Authorize(ctx, a, act, before)
}

// counted counts the calls of a store.
type counted struct {
	apikey.Store
	calls atomic.Int64
}

func (c *counted) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	c.calls.Add(1)
	return c.Store.Get(ctx, id)
}

func (c *counted) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	c.calls.Add(1)
	return c.Store.Lookup(ctx, id)
}

func (c *counted) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	c.calls.Add(1)
	return c.Store.List(ctx, f)
}

func (c *counted) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	c.calls.Add(1)
	return c.Store.Events(ctx, f)
}

func (c *counted) Items(ctx context.Context, f apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	c.calls.Add(1)
	return c.Store.Items(ctx, f)
}

func (c *counted) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	c.calls.Add(1)
	return c.Store.Changed(ctx, after, limit)
}

func (c *counted) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	c.calls.Add(1)
	return c.Store.Apply(ctx, changes...)
}

func (c *counted) Upkeep(ctx context.Context, list []apikey.StoreUpkeep) error {
	c.calls.Add(1)
	return c.Store.Upkeep(ctx, list)
}

// mayActors are whoever may ask.
var mayActors = map[string]context.Context{
	"superadmin":               as("acc_1", "superadmin"),
	"admin":                    as("acc_1", "admin"),
	"teller":                   as("acc_1", "teller"),
	"viewer":                   as("acc_1", "viewer"),
	"operator":                 staff(),
	"admin of another account": as("acc_2", "admin"),
	"nobody":                   background,
	"somebody of no account":   apikey.WithActor(background, apikey.Actor{ID: "usr_1", Role: "admin"}),
	"operator with an account": apikey.WithActor(background, func() apikey.Actor { a := apikey.Operator("ops_1"); a.Account = "acc_1"; return a }()),
}

// onKeys are the actions on a key, by a plain request. k.Credential is the token that
// Retire and Reveal are about.
var onKeys = map[apikey.Action]func(ctx context.Context, m *apikey.Manager, k apikey.Info) error{
	apikey.ActionRead: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error { return drop(m.Get(ctx, k.ID)) },
	apikey.ActionReadEvents: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.VerifyEvents(ctx, k.ID))
	},
	apikey.ActionUpdate: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.Update(ctx, apikey.UpdateRequest{Key: k.ID, Name: apikey.Set("Shop")}))
	},
	apikey.ActionWiden: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.Update(ctx, apikey.UpdateRequest{Key: k.ID, Networks: apikey.Clear[[]netip.Prefix]()}))
	},
	apikey.ActionSuspend: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error { return m.Suspend(ctx, k.ID) },
	apikey.ActionResume: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return m.Resume(ctx, apikey.ResumeRequest{Key: k.ID})
	},
	apikey.ActionRevoke: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return m.Revoke(ctx, apikey.RevokeRequest{Key: k.ID})
	},
	apikey.ActionRotate: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.Rotate(ctx, apikey.RotateRequest{Key: k.ID}))
	},
	apikey.ActionCancelRotation: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return m.CancelRotation(ctx, k.ID)
	},
	apikey.ActionRetire: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return m.Retire(ctx, apikey.RetireRequest{Key: k.ID, Credential: k.Credential})
	},
	apikey.ActionReveal: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.Reveal(ctx, apikey.RevealRequest{Key: k.ID, Credential: k.Credential}))
	},
}

// onAccounts are the actions on no existing key.
var onAccounts = map[apikey.Action]func(ctx context.Context, m *apikey.Manager, k apikey.Info) error{
	apikey.ActionIssue: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.Issue(ctx, apikey.IssueRequest{Account: k.Account, Mode: k.Mode, Kind: k.Kind, Name: k.Name, Abilities: texts(k)}))
	},
	apikey.ActionProvision: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.Provision(ctx, apikey.ProvisionRequest{Account: k.Account, Name: k.Name, Abilities: texts(k)}))
	},
	apikey.ActionRead: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.List(ctx, apikey.ListRequest{Account: k.Account, Mode: k.Mode, Kind: k.Kind}))
	},
	apikey.ActionReadEvents: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.Events(ctx, apikey.EventsRequest{Account: k.Account, Mode: k.Mode}))
	},
	apikey.ActionRevoke: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return drop(m.RevokeAll(ctx, apikey.RevokeAllRequest{Account: k.Account, Mode: k.Mode, Kind: k.Kind}))
	},
	apikey.ActionAllowEnrollment: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return m.AllowEnrollment(ctx, apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_7", Account: k.Account})
	},
	apikey.ActionDisable: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return m.Disable(ctx, apikey.DisableRequest{Factor: "totp", Actor: "usr_7", Account: k.Account})
	},
	apikey.ActionLiftLock: func(ctx context.Context, m *apikey.Manager, k apikey.Info) error {
		return m.LiftLock(ctx, apikey.LiftLockRequest{Actor: "usr_7", Account: k.Account})
	},
	apikey.ActionEnroll: func(ctx context.Context, m *apikey.Manager, _ apikey.Info) error {
		return drop(m.Enroll(ctx, apikey.EnrollRequest{Factor: "totp"}))
	},
	apikey.ActionConfirmEnrollment: func(ctx context.Context, m *apikey.Manager, _ apikey.Info) error {
		return m.ConfirmEnrollment(ctx, "totp", "123456")
	},
	apikey.ActionConfirm: func(ctx context.Context, m *apikey.Manager, _ apikey.Info) error {
		return drop(m.Confirm(ctx, "0123456789012345678901", "123456"))
	},
	apikey.ActionRemac:  func(ctx context.Context, m *apikey.Manager, _ apikey.Info) error { return drop(m.Remac(ctx, 0)) },
	apikey.ActionReseal: func(ctx context.Context, m *apikey.Manager, _ apikey.Info) error { return drop(m.Reseal(ctx, 0)) },
	apikey.ActionPepper: func(ctx context.Context, m *apikey.Manager, _ apikey.Info) error { return m.AdoptPepper(ctx, 1) },
}

// undecided are the errors of actions that May cannot foresee, and why.
var undecided = map[apikey.Action]struct {
	err error
	why string
}{
	apikey.ActionConfirm:           {apikey.ErrChallenge, "which challenge is answered is in the request"},
	apikey.ActionConfirmEnrollment: {apikey.ErrNotEnrolled, "whether an enrolment waits is in the store"},
	apikey.ActionLiftLock:          {apikey.ErrInvalid, "an Operator without an account has to name it if nothing is stored of the other Operator"},
	apikey.ActionDisable:           {apikey.ErrInvalid, "likewise"},
}

// unasked are the actions of which no actor asks whether they may.
var unasked = map[apikey.Action]string{
	apikey.ActionRevokeToken: "the right to it is the token, whoever presents it",
	apikey.ActionLock:        "it happens to an actor",
}

func texts(k apikey.Info) (list []string) {
	for a := range k.Abilities.All() {
		list = append(list, a.String())
	}
	return list
}

// asks calls May, which leaves no trace.
func (k *mayEnv) asks(ctx context.Context, act apikey.Action, about apikey.Info) error {
	k.t.Helper()
	calls, denied, lines, unwraps := k.store.calls.Load(), k.denied, k.log.Len(), k.f.kek.asked()
	err := k.manager.May(ctx, act, about)
	require.Equal(k.t, calls, k.store.calls.Load(), "%s: calls of the store", act)
	require.Equal(k.t, denied, k.denied, "%s: Trace.Denied", act)
	require.Equal(k.t, lines, k.log.Len(), "%s: %s", act, k.log.String())
	require.Equal(k.t, unwraps, k.f.kek.asked(), "%s: calls of the KEK", act)
	return err
}

// agrees compares May with the action, and what both show to the Policy.
func (k *mayEnv) agrees(ctx context.Context, act apikey.Action, about apikey.Info, do func(context.Context, *apikey.Manager, apikey.Info) error, name string) {
	k.t.Helper()
	k.policy.seen = nil
	may := k.asks(ctx, act, about)
	shown := k.policy.seen
	k.policy.seen = nil
	does := do(ctx, k.manager, about)
	var challenge *apikey.ChallengeError
	if errors.As(does, &challenge) && len(challenge.Factors)+len(challenge.Enroll) > 0 { // guarded
		does = nil
	}
	if u, ok := undecided[act]; ok && may == nil && errors.Is(does, u.err) {
		does = nil
	}
	k.decided++
	if may == nil {
		k.nils++
	}
	switch {
	case (may == nil) != (does == nil), may != nil && may.Error() != does.Error():
		k.t.Errorf("%s: May says %v, the action %v", name, may, does)
	case act == apikey.ActionUpdate || act == apikey.ActionWiden: // what changes is in the request
	case act == apikey.ActionReseal || act == apikey.ActionRemac || act == apikey.ActionRevoke && about.ID.IsZero(): // the action asks again, of each key or batch
		require.Equal(k.t, shown, k.policy.seen[:len(shown)], name)
	default:
		require.Equal(k.t, shown, k.policy.seen, name)
	}
}

type mayState struct {
	prepare func(k *mayEnv, key apikey.Issued)
	change  func(*apikey.IssueRequest)
	// Only while May and the action are asked.
	refused func(apikey.Mode) error
	product error
	// pick chooses the token that Retire and Reveal are about; nil: the current one.
	pick func(apikey.Info) apikey.CredentialID
}

var errUnpaid = errors.New("unpaid")

func unpaid(apikey.Mode) error { return errUnpaid }

func mayStates() map[string]mayState {
	suspend := func(k *mayEnv, key apikey.Issued) { require.NoError(k.t, k.manager.Suspend(k.ctx, key.Key.ID)) }
	revoke := func(k *mayEnv, key apikey.Issued) {
		require.NoError(k.t, k.manager.Revoke(k.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
	}
	rotate := func(at, overlap time.Duration) func(*mayEnv, apikey.Issued) {
		return func(k *mayEnv, key apikey.Issued) {
			req := apikey.RotateRequest{Key: key.Key.ID, Overlap: overlap}
			if at > 0 {
				req.At = k.clock.now().Add(at)
			}
			require.NoError(k.t, drop(k.manager.Rotate(k.ctx, req)))
		}
	}
	retire := func(k *mayEnv, key apikey.Issued) {
		require.NoError(k.t, k.manager.Retire(k.ctx, apikey.RetireRequest{Key: key.Key.ID, Credential: key.Key.Credential}))
	}
	ends := func(r *apikey.IssueRequest) { r.ExpiresAt = r.ExpiresAt.Add(time.Minute) }
	expire := func(k *mayEnv, _ apikey.Issued) { k.clock.move(time.Minute) }
	all := func(steps ...func(*mayEnv, apikey.Issued)) func(*mayEnv, apikey.Issued) {
		return func(k *mayEnv, key apikey.Issued) {
			for _, step := range steps {
				step(k, key)
			}
		}
	}
	newest := func(k apikey.Info) apikey.CredentialID { return k.Credentials.At(0).ID }
	oldest := func(k apikey.Info) apikey.CredentialID { return k.Credentials.At(k.Credentials.Len() - 1).ID }
	return map[string]mayState{
		"active":                            {},
		"suspended":                         {prepare: suspend},
		"revoked":                           {prepare: revoke},
		"suspended and revoked":             {prepare: all(suspend, revoke)},
		"expired":                           {prepare: expire, change: ends},
		"suspended and expired":             {prepare: all(suspend, expire), change: ends},
		"not yet valid":                     {prepare: all(rotate(time.Hour, 0), retire)},
		"rotation pending":                  {prepare: rotate(time.Hour, time.Hour)},
		"rotation pending, of that token":   {prepare: rotate(time.Hour, time.Hour), pick: newest},
		"rotation pending, suspended":       {prepare: all(rotate(time.Hour, 0), suspend), pick: newest},
		"rotation pending, revoked":         {prepare: all(rotate(time.Hour, 0), revoke), pick: newest},
		"rotation in its last seconds":      {prepare: all(rotate(time.Minute, 0), func(k *mayEnv, _ apikey.Issued) { k.clock.move(58 * time.Second) }), pick: newest},
		"overlap running":                   {prepare: rotate(0, time.Hour)},
		"overlap running, of the old token": {prepare: rotate(0, time.Hour), pick: oldest},
		"overlap over, of the old token":    {prepare: all(rotate(0, time.Minute), expire), pick: oldest},
		"every token ended":                 {prepare: retire},
		"of a token that it does not have":  {pick: func(apikey.Info) apikey.CredentialID { return apikey.CredentialID{1} }},
		"not recoverable":                   {change: func(r *apikey.IssueRequest) { r.Recoverable = false }},
		"ended by Standing":                 {refused: unpaid},
		"suspended, ended by Standing":      {prepare: suspend, refused: unpaid},
		"revoked, ended by Standing":        {prepare: revoke, refused: unpaid},
		"suspended and revoked, unpaid":     {prepare: all(suspend, revoke), refused: unpaid, product: errUnpaid},
		"its product was taken away":        {product: errUnpaid},
		"suspended, its product taken away": {prepare: suspend, product: errUnpaid},
	}
}

// May answers what the action would answer, for every action, actor and state of a key.
func TestMayAgreesWithTheAction(t *testing.T) {
	for name, option := range map[string]func(*env){
		"nothing is guarded":    func(*env) {},
		"everything is guarded": func(e *env) { e.mc.StepUp, e.mc.InsecureRevealWithoutStepUp = guardEverything, false },
		"nothing is revealed":   func(e *env) { e.mc.InsecureRevealWithoutStepUp = false },
	} {
		t.Run(name, func(t *testing.T) {
			k := newMayEnv(t, option)
			free := k.newManager(func(c *managerConfig) { c.StepUp = nil })
			for state, s := range mayStates() {
				for who, ctx := range mayActors {
					for act, do := range onKeys {
						for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
							for _, kind := range []apikey.Kind{apikey.Secret, apikey.Publishable} {
								k.on(ctx, free, s, act, mode, kind, do, fmt.Sprint(act, " by ", who, " of a key that is ", state, ", ", mode, " ", kind))
							}
						}
					}
				}
			}
			require.Greater(t, k.nils, 1000)
			require.Greater(t, k.decided-k.nils, 1000)
			t.Logf("%d answers of May, %d of them nil: all agree with the action", k.decided, k.nils)
		})
	}
}

// on makes a key with the free Manager, brings it into a state, and asks.
func (k *mayEnv) on(ctx context.Context, free *apikey.Manager, s mayState, act apikey.Action, mode apikey.Mode, kind apikey.Kind, do func(context.Context, *apikey.Manager, apikey.Info) error, name string) {
	k.t.Helper()
	strict := k.manager
	k.manager = free
	key := k.issue(func(r *apikey.IssueRequest) {
		r.Mode, r.Kind, r.Abilities, r.Recoverable, r.Networks = mode, kind, []string{"card:tokenise"}, true, nets("203.0.113.0/24")
		r.Metadata, r.RotateMonths = map[string]string{"shop": "7"}, 6
		if s.change != nil {
			r.ExpiresAt = k.clock.now()
			if s.change(r); !r.ExpiresAt.After(k.clock.now()) {
				r.ExpiresAt = time.Time{}
			}
		}
	})
	if s.prepare != nil {
		s.prepare(k, key)
	}
	k.manager = strict
	info, err := k.manager.Get(k.ctx, key.Key.ID)
	require.NoError(k.t, err)
	if s.pick != nil {
		info.Credential = s.pick(info)
	}
	k.refused, k.product = s.refused, s.product
	defer func() { k.refused, k.product = nil, nil }()
	k.agrees(ctx, act, info, do, name)
}

// So it does for the actions on no existing key.
func TestMayAgreesAboutAccounts(t *testing.T) {
	decided, nils := 0, 0
	for account, about := range map[string]string{"no account": "", "the own account": "acc_1"} {
		for who, ctx := range mayActors {
			for standing, refused := range map[string]func(apikey.Mode) error{"good": nil, "none": unpaid, "not yet live": func(m apikey.Mode) error {
				if m == apikey.Live {
					return errUnpaid
				}
				return nil
			}} {
				for _, product := range []error{nil, errUnpaid} {
					k := newMayEnv(t)
					k.issue()
					k.refused, k.product = refused, product
					for act, do := range onAccounts {
						for _, mode := range []apikey.Mode{apikey.Live, apikey.Test} {
							for _, kind := range []apikey.Kind{apikey.Secret, apikey.Publishable} {
								if act == apikey.ActionProvision && (mode != apikey.Live || kind != apikey.Publishable) {
									continue // the keys of an earlier call are in the store
								}
								k.agrees(ctx, act, apikey.Info{
									Account: about, Mode: mode, Kind: kind, Name: "Till", Abilities: apikey.NewView[apikey.Ability](apikey.Scope("card:tokenise")),
								}, do, fmt.Sprintf("%s by %s of %s in %s standing (product: %v), %s %s", act, who, account, standing, product, mode, kind))
							}
						}
					}
					decided, nils = decided+k.decided, nils+k.nils
				}
			}
		}
	}
	require.Greater(t, nils, 500)
	require.Greater(t, decided-nils, 500)
	t.Logf("%d answers of May, %d of them nil: all agree with the action", decided, nils)
}

// Every action is in one of the tables, and an action that nobody asks for is no action
// of May, whoever asks.
func TestMayKnowsEveryAction(t *testing.T) {
	k := newMayEnv(t)
	var tried []apikey.Action
	for _, list := range []map[apikey.Action]func(context.Context, *apikey.Manager, apikey.Info) error{onKeys, onAccounts} {
		tried = append(tried, slices.Collect(maps.Keys(list))...)
	}
	for act := range undecided {
		require.Contains(t, tried, act)
	}
	for act := range unasked {
		require.NotContains(t, tried, act)
		tried = append(tried, act)
	}
	slices.Sort(tried)
	require.Equal(t, slices.Sorted(slices.Values(everyAction)), slices.Compact(tried))

	for _, act := range append(slices.Collect(maps.Keys(unasked)), "", "key.no_such", "key.issue ") {
		for _, ctx := range mayActors {
			err := k.asks(ctx, act, apikey.Info{Account: "acc_1"})
			requireWrong(t, wrongs{"action": apikey.InvalidUnknown}, err, string(act))
		}
	}
	require.ErrorIs(t, k.asks(k.ctx, apikey.ActionRotate, apikey.Info{Account: "acc_1"}), apikey.ErrNotFound, "the zero key")
}

// A Policy sees in before the whole key that the page has.
func TestMayShowsTheKeyThatIsInHand(t *testing.T) {
	policy := &asked{Policy: anything{}}
	c := apikey.MustCatalog(append(catalog.Entries(), apikey.CatalogEntry{Parse: parseRegion})...)
	e := newEnv(t, func(e *env) { e.mc.Policy, e.settings.Catalog = policy, c })
	key := e.issue(fullRequest, func(r *apikey.IssueRequest) {
		r.Abilities, r.RotateMonths, r.ExpiresAt = append(r.Abilities, "region/id"), 3, e.clock.now().Add(1000*time.Hour)
	})
	require.NoError(t, e.verifier.Close(background))
	require.NoError(t, drop(e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, Overlap: time.Hour})))
	require.NoError(t, drop(e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, At: e.clock.now().Add(2 * time.Hour)})))
	e.issue(func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, []string{"card:tokenise"} })
	gone := e.issue()
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: gone.Key.ID}))
	list, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.NoError(t, err)
	require.Len(t, list.Keys, 3)
	for _, info := range list.Keys {
		policy.about = nil
		require.NoError(t, e.manager.May(e.ctx, apikey.ActionRead, info))
		shown := policy.about[0]
		require.Empty(t, difference(reflect.ValueOf(&info), reflect.ValueOf(&shown), ""))
	}
}

// To issue a key without a mode is to issue one in either mode.
func TestMayIssueInEitherMode(t *testing.T) {
	k := newMayEnv(t)
	require.NoError(t, k.asks(mayActors["teller"], apikey.ActionIssue, apikey.Info{}), "in Test")
	require.ErrorIs(t, k.asks(mayActors["teller"], apikey.ActionIssue, apikey.Info{Mode: apikey.Live}), apikey.ErrForbidden)
	require.ErrorIs(t, k.asks(mayActors["viewer"], apikey.ActionIssue, apikey.Info{}), apikey.ErrForbidden)
	k.refused = unpaid
	require.ErrorIs(t, k.asks(k.ctx, apikey.ActionIssue, apikey.Info{}), apikey.ErrStanding)
	require.ErrorIs(t, k.asks(k.ctx, apikey.ActionIssue, apikey.Info{}), errUnpaid)
	k.refused = func(m apikey.Mode) error {
		if m == apikey.Live {
			return errUnpaid
		}
		return nil
	}
	require.NoError(t, k.asks(k.ctx, apikey.ActionIssue, apikey.Info{}))
	require.ErrorIs(t, k.asks(k.ctx, apikey.ActionIssue, apikey.Info{Mode: math.MaxUint8}), apikey.ErrInvalid)
	require.ErrorIs(t, k.asks(k.ctx, apikey.ActionIssue, apikey.Info{Mode: apikey.Test, Abilities: apikey.NewView[apikey.Ability](nil)}), apikey.ErrInvalid)
}

func TestMayOfAClosedManager(t *testing.T) {
	k := newMayEnv(t)
	key := k.issue().Key
	require.NoError(t, k.manager.Close(background))
	for act := range onKeys {
		require.ErrorIs(t, k.asks(k.ctx, act, key), apikey.ErrClosed, act)
		require.ErrorIs(t, k.asks(background, act, key), apikey.ErrNoActor, act)
	}
}

// A Policy that refuses is not logged either, and the next refused action is.
func TestMayLeavesTheLogToTheActions(t *testing.T) {
	k := newMayEnv(t)
	key := k.issue().Key
	for range 3 {
		require.ErrorIs(t, k.asks(mayActors["viewer"], apikey.ActionRotate, key), apikey.ErrForbidden)
	}
	require.ErrorIs(t, drop(k.manager.Rotate(mayActors["viewer"], apikey.RotateRequest{Key: key.ID})), apikey.ErrForbidden)
	require.Equal(t, 1, k.denied)
	events := k.allEvents(apikey.EventsRequest{Account: "acc_1"})
	require.Len(t, events, 2)
	outcomes := []apikey.Outcome{events[0].Outcome, events[1].Outcome} // of one instant, so in either order
	require.ElementsMatch(t, []apikey.Outcome{apikey.OutcomeDone, apikey.OutcomeRefused}, outcomes)
}
