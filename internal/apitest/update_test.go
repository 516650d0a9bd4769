package apitest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// full issues a key in which every field that an update can change is set.
func full(e *env) apikey.Issued {
	return e.issue(func(r *apikey.IssueRequest) {
		r.ExpiresAt, r.Metadata, r.RotateMonths = e.clock.now().Add(time.Hour), map[string]string{"a": "1"}, 3
		r.Networks, r.Origins, r.Disabled = nets("10.0.0.0/8"), []string{"https://shop.example"}, true
	})
}

// shape is what an update can change, in a form that tests compare.
func shape(k apikey.Info) string {
	var abilities, networks, origins []string
	for a := range k.Abilities.All() {
		abilities = append(abilities, a.String())
	}
	for n := range k.Networks.All() {
		networks = append(networks, n.String())
	}
	for o := range k.Origins.All() {
		origins = append(origins, o)
	}
	meta, _ := json.Marshal(k.Metadata)
	expiry := "never"
	if !k.ExpiresAt.IsZero() {
		expiry = k.ExpiresAt.Format("15:04")
	}
	return fmt.Sprintf("%q %v expires %s from %v %v %s every %d months, %v", k.Name, abilities, expiry, networks, origins, meta, k.RotateMonths, k.State)
}

const fullShape = `"Website" [payment:refund] expires 13:00 from [10.0.0.0/8] [https://shop.example] {"a":"1"} every 3 months, suspended`

// Every field in its three states: absent keeps, null clears, a value sets; from
// Go and, as a handler gets it, from JSON.
func TestUpdateThreeStates(t *testing.T) {
	noon := newClock().now()
	for _, c := range []struct {
		name    string
		json    string
		req     apikey.UpdateRequest
		old     string // in fullShape, replaced by new
		new     string
		changed string
	}{
		{"nothing", `{}`, apikey.UpdateRequest{}, "", "", ""},
		{"a member of a newer version", `{"color":"red"}`, apikey.UpdateRequest{}, "", "", ""},
		{"set name", `{"name":"Shop"}`, apikey.UpdateRequest{Name: apikey.Set("Shop")}, `"Website"`, `"Shop"`, "name"},
		{"empty name", `{"name":""}`, apikey.UpdateRequest{Name: apikey.Set("")}, `"Website"`, `""`, "name"},
		{"clear name", `{"name":null}`, apikey.UpdateRequest{Name: apikey.Clear[string]()}, `"Website"`, `""`, "name"},
		{"set abilities", `{"abilities":["payment:*","balance=read"]}`, apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:*", "balance=read"})}, "[payment:refund]", "[balance=read payment:*]", "abilities"},
		{"clear abilities", `{"abilities":null}`, apikey.UpdateRequest{Abilities: apikey.Clear[[]string]()}, "[payment:refund]", "[]", "abilities"},
		{"no abilities", `{"abilities":[]}`, apikey.UpdateRequest{Abilities: apikey.Set([]string{})}, "[payment:refund]", "[]", "abilities"},
		{"set expiry", `{"expires_at":"2026-03-01T15:30:00+01:00"}`, apikey.UpdateRequest{ExpiresAt: apikey.Set(time.Date(2026, 3, 1, 14, 30, 0, 0, time.UTC))}, "13:00", "14:30", "expires_at"},
		{"clear expiry", `{"expires_at":null}`, apikey.UpdateRequest{ExpiresAt: apikey.Clear[time.Time]()}, "13:00", "never", "expires_at"},
		{"set networks", `{"networks":["10.2.3.4/16"]}`, apikey.UpdateRequest{Networks: apikey.Set(nets("10.2.3.4/16"))}, "10.0.0.0/8", "10.2.0.0/16", "networks"},
		{"clear networks", `{"networks":null}`, apikey.UpdateRequest{Networks: apikey.Clear[[]netip.Prefix]()}, "[10.0.0.0/8]", "[]", "networks"},
		{"set origins", `{"origins":["https://A.example:443"]}`, apikey.UpdateRequest{Origins: apikey.Set([]string{"https://A.example:443"})}, "https://shop.example", "https://a.example", "origins"},
		{"clear origins", `{"origins":null}`, apikey.UpdateRequest{Origins: apikey.Clear[[]string]()}, "[https://shop.example]", "[]", "origins"},
		{"set metadata", `{"metadata":{"b":"2"}}`, apikey.UpdateRequest{Metadata: apikey.Set(map[string]string{"b": "2"})}, `{"a":"1"}`, `{"b":"2"}`, "metadata"},
		{"clear metadata", `{"metadata":null}`, apikey.UpdateRequest{Metadata: apikey.Clear[map[string]string]()}, `{"a":"1"}`, `{}`, "metadata"},
		{"set months", `{"rotate_months":12}`, apikey.UpdateRequest{RotateMonths: apikey.Set(12)}, "every 3", "every 12", "rotate_months"},
		{"zero months", `{"rotate_months":0}`, apikey.UpdateRequest{RotateMonths: apikey.Set(0)}, "every 3", "every 0", "rotate_months"},
		{"clear months", `{"rotate_months":null}`, apikey.UpdateRequest{RotateMonths: apikey.Clear[int]()}, "every 3", "every 0", "rotate_months"},
		{"enable", `{"disabled":false}`, apikey.UpdateRequest{Disabled: apikey.Set(false)}, "suspended", "active", "disabled"},
		{"clear disabled", `{"disabled":null}`, apikey.UpdateRequest{Disabled: apikey.Clear[bool]()}, "suspended", "active", "disabled"},
	} {
		fromJSON := apikey.UpdateRequest{}
		require.NoError(t, json.Unmarshal([]byte(c.json), &fromJSON), c.name)
		for how, req := range map[string]apikey.UpdateRequest{"Go": c.req, "JSON": fromJSON} {
			var seen []apikey.Event
			e := newEnv(t, func(e *env) { e.mc.OnEvent = func(ev apikey.Event) { seen = append(seen, ev) } })
			key := full(e)
			require.Equal(t, fullShape, shape(key.Key))
			require.True(t, noon.Equal(e.clock.now()))
			seen = nil
			req.Key = key.Key.ID
			info, err := e.manager.Update(e.ctx, req)
			require.NoError(t, err, "%s from %s", c.name, how)
			want := strings.Replace(fullShape, c.old, c.new, 1)
			require.Equal(t, want, shape(info), "%s from %s", c.name, how)
			stored, err := e.manager.Get(e.ctx, key.Key.ID)
			require.NoError(t, err)
			require.Equal(t, stored, info, "%s from %s: what is returned is what is stored", c.name, how)
			if c.changed == "" {
				require.Empty(t, seen)
				continue
			}
			require.Len(t, seen, 1)
			require.Equal(t, []string{c.changed}, seen[0].Changed, c.name)
			require.Equal(t, uint64(2), info.Version)
			require.NoError(t, e.chain(key.Key.ID))
		}
	}
}

// chain is an error unless the key's log is whole.
func (e *env) chain(id apikey.KeyID) error {
	report, err := e.manager.VerifyEvents(staff(), id)
	if err == nil && (report.Broken != nil || report.Unverifiable > 0) {
		err = fmt.Errorf("%+v, broken %+v", report, report.Broken)
	}
	return err
}

// The JSON of a request that keeps, clears and sets reads back as it was.
func TestFieldJSONRoundTrip(t *testing.T) {
	type body struct {
		A, B, C apikey.Field[string] `json:",omitzero"`
	}
	in := body{B: apikey.Clear[string](), C: apikey.Set("x")}
	text, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"B":null,"C":"x"}`, string(text))
	var out body
	require.NoError(t, json.Unmarshal(text, &out))
	require.Equal(t, in, out)
	require.Error(t, json.Unmarshal([]byte(`{"A":7}`), &out), "a value of another type is refused")
}

// Absent, null and a value, one after the other on the same field.
func TestUpdatesInSequence(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		key := e.issue(func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"a": "1"} })
		for i, step := range []struct {
			req  apikey.UpdateRequest
			want string
		}{
			{apikey.UpdateRequest{Name: apikey.Set("one")}, `"one" {"a":"1"}`},
			{apikey.UpdateRequest{Metadata: apikey.Clear[map[string]string]()}, `"one" {}`},
			{apikey.UpdateRequest{Name: apikey.Clear[string](), Metadata: apikey.Set(map[string]string{"b": "2"})}, `"" {"b":"2"}`},
			{apikey.UpdateRequest{Name: apikey.Set("two"), Abilities: apikey.Clear[[]string]()}, `"two" {"b":"2"}`},
			{apikey.UpdateRequest{Metadata: apikey.Set(map[string]string{"b": "3", "c": "4"})}, `"two" {"b":"3","c":"4"}`},
		} {
			step.req.Key = key.Key.ID
			info, err := e.manager.Update(e.ctx, step.req)
			require.NoError(t, err)
			meta, _ := json.Marshal(info.Metadata)
			require.Equal(t, step.want, fmt.Sprintf("%q %s", info.Name, meta), "step %d", i)
			require.Equal(t, uint64(i+2), info.Version)
		}
		require.NoError(t, e.verify(key.Token))
		require.NoError(t, e.chain(key.Key.ID))
	})
}

func TestUpdateRefuses(t *testing.T) {
	e := newEnv(t)
	e.clock.move(-789 * time.Nanosecond) // to a whole microsecond
	key := e.issue()
	public := e.issue(publishable("card:tokenise"))
	now := e.clock.now()
	for _, c := range []struct {
		name string
		req  apikey.UpdateRequest
		want error
		text string
	}{
		{"expiry now", apikey.UpdateRequest{ExpiresAt: apikey.Set(now)}, apikey.ErrInvalid, "not in the future"},
		{"expiry past", apikey.UpdateRequest{ExpiresAt: apikey.Set(now.Add(-time.Hour))}, apikey.ErrInvalid, "not in the future"},
		{"unknown ability", apikey.UpdateRequest{Abilities: apikey.Set([]string{"payment:refnd"})}, apikey.ErrInvalid, "nearest known: payment:refund"},
		{"name too long", apikey.UpdateRequest{Name: apikey.Set(strings.Repeat("n", 201))}, apikey.ErrLimit, "201"},
		{"name with NUL", apikey.UpdateRequest{Name: apikey.Set("\x00")}, apikey.ErrInvalid, "NUL"},
		{"too many networks", apikey.UpdateRequest{Networks: apikey.Set(prefixes(65))}, apikey.ErrLimit, "networks"},
		{"too many origins", apikey.UpdateRequest{Origins: apikey.Set(numbered(17, "https://s%d.example"))}, apikey.ErrLimit, "origins"},
		{"too much metadata", apikey.UpdateRequest{Metadata: apikey.Set(pairs(51))}, apikey.ErrLimit, "metadata"},
		{"an origin that is none", apikey.UpdateRequest{Origins: apikey.Set([]string{"*"})}, apikey.ErrInvalid, "origin"},
		{"months", apikey.UpdateRequest{RotateMonths: apikey.Set(-1)}, apikey.ErrInvalid, "RotateMonths"},
		{"one good field, one not", apikey.UpdateRequest{Name: apikey.Set("good"), RotateMonths: apikey.Set(121)}, apikey.ErrInvalid, "RotateMonths"},
		{"secret ability of a publishable key", apikey.UpdateRequest{Key: public.Key.ID, Abilities: apikey.Set([]string{"payment:refund"})}, apikey.ErrInvalid, "every visitor's browser"},
	} {
		if c.req.Key.IsZero() {
			c.req.Key = key.Key.ID
		}
		info, err := e.manager.Update(e.ctx, c.req)
		require.ErrorIs(t, err, c.want, c.name)
		require.ErrorContains(t, err, c.text, c.name)
		require.Zero(t, info, c.name)
	}
	for _, k := range []apikey.Issued{key, public} {
		info, err := e.manager.Get(e.ctx, k.Key.ID)
		require.NoError(t, err)
		require.Equal(t, shape(k.Key), shape(info))
		require.Equal(t, uint64(1), info.Version)
	}
}

func TestUpdateLeavesTheRequestAlone(t *testing.T) {
	e := newEnv(t)
	key := e.issue()
	abilities, origins := []string{"payment:verify", "payment:refund"}, []string{"https://B.example", "https://a.example"}
	networks, meta := nets("10.9.9.9/8", "10.0.0.1/32"), map[string]string{"a": "1"}
	info, err := e.manager.Update(e.ctx, apikey.UpdateRequest{
		Key: key.Key.ID, Abilities: apikey.Set(abilities), Origins: apikey.Set(origins), Networks: apikey.Set(networks), Metadata: apikey.Set(meta),
	})
	require.NoError(t, err)
	require.Equal(t, []string{"payment:verify", "payment:refund"}, abilities)
	require.Equal(t, []string{"https://B.example", "https://a.example"}, origins)
	require.Equal(t, nets("10.9.9.9/8", "10.0.0.1/32"), networks)
	meta["a"] = "evil"
	require.Equal(t, "1", info.Metadata.Get("a"))
	known, err := e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{Addr: netip.MustParseAddr("10.0.0.1"), Origin: "https://a.example"})
	require.NoError(t, err)
	require.Equal(t, "1", known.Info().Metadata.Get("a"))
}

func TestUpdateIfVersion(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		key := e.issue()
		rename := func(version uint64, name string) error {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, IfVersion: version, Name: apikey.Set(name)})
			return err
		}
		require.NoError(t, rename(1, "two"))
		err := rename(1, "three")
		require.ErrorIs(t, err, apikey.ErrConflict)
		require.ErrorContains(t, err, "at version 2, not 1")
		require.ErrorIs(t, rename(3, "three"), apikey.ErrConflict)
		require.NoError(t, rename(0, "three"))
		require.ErrorIs(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID, IfVersion: 2}), apikey.ErrConflict)
		require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID, IfVersion: 3}))
		info, err := e.manager.Get(e.ctx, key.Key.ID)
		require.NoError(t, err)
		require.Equal(t, "three", info.Name)
	})
}

// Of many editors who all saw the same version one succeeds, and nothing is
// tried again behind the backs of the others.
func TestIfVersionUnderRacing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		key := e.issue()
		p.meet(16)
		errs := together(16, func(i int) error {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, IfVersion: 1, Name: apikey.Set(fmt.Sprint("editor ", i))})
			return err
		})
		require.Equal(t, 1, count(errs, nil), errs)
		require.Equal(t, 15, count(errs, apikey.ErrConflict), errs)
		info, err := e.manager.Get(e.ctx, key.Key.ID)
		require.NoError(t, err)
		require.Equal(t, uint64(2), info.Version)
		require.Equal(t, fmt.Sprint("editor ", slices.Index(errs, nil)), info.Name)
	})
}

// An update that brings what is there already writes nothing: no version, no
// event, no announcement; whatever the order and the spelling.
func TestUpdateOfNothingWritesNothing(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	key := e.issue(func(r *apikey.IssueRequest) {
		r.Abilities, r.Networks = []string{"payment:refund", "payment:verify"}, nets("10.0.0.0/8", "192.0.2.0/24")
		r.Origins, r.RotateMonths, r.ExpiresAt = []string{"https://a.example", "https://b.example"}, 3, e.clock.now().Add(time.Hour)
	})
	e.clock.move(time.Minute)
	applies := 0
	p.hook(func(p *proxy) {
		p.apply = func(next func() error, _ []apikey.StoreChange) error { applies++; return next() }
	})
	info, err := e.manager.Update(e.ctx, apikey.UpdateRequest{
		Key: key.Key.ID, Name: apikey.Set("Website"), Abilities: apikey.Set([]string{"payment:verify", "payment:refund", "payment:refund"}),
		Networks: apikey.Set(nets("192.0.2.77/24", "10.1.1.1/8")), Origins: apikey.Set([]string{"https://B.example:443", "https://a.example"}),
		RotateMonths: apikey.Set(3), ExpiresAt: apikey.Set(key.Key.ExpiresAt.In(time.FixedZone("", 3600))), Disabled: apikey.Set(false), Metadata: apikey.Set(map[string]string{}),
	})
	require.NoError(t, err)
	require.Zero(t, applies)
	require.Equal(t, shape(key.Key), shape(info))
	require.Equal(t, key.Key.RotateDue, info.RotateDue)
	require.Equal(t, uint64(1), info.Version)
	require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}), "not suspended: nothing to resume")
	require.Zero(t, applies)
}

// What counts the use of a key is not undone by who edits it meanwhile.
func TestUpdateKeepsLastUsed(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		key := e.issue()
		used := e.clock.now().Add(time.Minute).Truncate(time.Microsecond)
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.StoreChange) error { // between reading and writing
				require.NoError(t, p.Store.Upkeep(background, []apikey.StoreUpkeep{{Credential: key.Token.Credential(), LastUsed: used}}))
				return next()
			}
		})
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("other")})
		require.NoError(t, err)
		info, err := e.manager.Get(e.ctx, key.Key.ID)
		require.NoError(t, err)
		require.Equal(t, "other", info.Name)
		require.True(t, info.LastUsed.Equal(used), info.LastUsed)
		require.True(t, info.Credentials.At(0).LastUsed.Equal(used))
	})
}

// What a key is, it is for ever: an update changes neither token nor identity.
func TestUpdateChangesNoIdentity(t *testing.T) {
	e := newEnv(t)
	key := full(e)
	info, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("x"), Disabled: apikey.Set(false), Networks: apikey.Clear[[]netip.Prefix](), Origins: apikey.Clear[[]string]()})
	require.NoError(t, err)
	require.Equal(t, key.Key.ID, info.ID)
	require.Equal(t, key.Key.Account, info.Account)
	require.Equal(t, key.Key.Mode, info.Mode)
	require.Equal(t, key.Key.Kind, info.Kind)
	require.Equal(t, key.Key.CreatedAt, info.CreatedAt)
	require.Equal(t, key.Key.Credentials, info.Credentials)
	require.NoError(t, e.verify(key.Token))
}

// Extending an expired key brings it back; a revoked one stays dead; a suspended
// one can be edited and stays suspended.
func TestUpdateOfKeysThatDoNotWork(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		key := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().Add(time.Hour) })
		require.NoError(t, e.verify(key.Token))
		e.clock.move(2 * time.Hour)
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrExpired)
		_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Name: apikey.Set("old")})
		require.NoError(t, err, "an expired key can be renamed")
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrExpired)
		_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, ExpiresAt: apikey.Set(e.clock.now().Add(time.Hour))})
		require.NoError(t, err)
		require.NoError(t, e.verify(key.Token))

		require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID))
		info, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"balance=read"})})
		require.NoError(t, err)
		require.Equal(t, apikey.Suspended, info.State)
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrSuspended)
		require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}))
		require.NoError(t, e.verify(key.Token))

		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))
		for name, req := range map[string]apikey.UpdateRequest{
			"nothing": {}, "name": {Name: apikey.Set("x")}, "life": {ExpiresAt: apikey.Clear[time.Time](), Disabled: apikey.Set(false)},
		} {
			req.Key = key.Key.ID
			_, err := e.manager.Update(e.ctx, req)
			require.ErrorIs(t, err, apikey.ErrRevoked, name)
		}
		require.ErrorIs(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}), apikey.ErrRevoked)
		require.ErrorIs(t, e.verify(key.Token), apikey.ErrRevoked)
	})
}

// Sixteen editors of different fields at once: every one of them is in the key
// afterwards, and in its log.
func TestUpdatesUnderRacingLoseNothing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		key := e.issue()
		fields := []apikey.UpdateRequest{
			{Name: apikey.Set("Shop")}, {Abilities: apikey.Set([]string{"balance=read"})}, {Networks: apikey.Set(nets("10.0.0.0/8"))},
			{Origins: apikey.Set([]string{"https://shop.example"})}, {Metadata: apikey.Set(map[string]string{"a": "1"})}, {RotateMonths: apikey.Set(3)},
			{ExpiresAt: apikey.Set(e.clock.now().Add(time.Hour))}, {Disabled: apikey.Set(true)},
		}
		errs := together(16, func(i int) (err error) {
			req := fields[i%8]
			req.Key = key.Key.ID
			for range 50 { // a caller whose sixteen attempts were in vain tries again
				if _, err = e.manager.Update(e.ctx, req); err == nil {
					return nil
				}
			}
			return err
		})
		require.Equal(t, 16, count(errs, nil), errs)
		info, err := e.manager.Get(e.ctx, key.Key.ID)
		require.NoError(t, err)
		require.Equal(t, `"Shop" [balance=read] expires 13:00 from [10.0.0.0/8] [https://shop.example] {"a":"1"} every 3 months, suspended`, shape(info))
		require.Equal(t, uint64(9), info.Version, "eight changed it; eight found it so")
		require.NoError(t, e.chain(key.Key.ID))
	})
}

func TestRotateDueFollowsTheMonths(t *testing.T) {
	e := newEnv(t)
	key := e.issue(func(r *apikey.IssueRequest) { r.RotateMonths = 3 })
	due := key.Key.RotateDue
	e.clock.move(30 * 24 * time.Hour)
	set := func(months int) apikey.Info {
		info, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, RotateMonths: apikey.Set(months)})
		require.NoError(t, err)
		return info
	}
	require.Equal(t, due, set(3).RotateDue, "the same months do not put it off")
	require.Equal(t, "2026-03-31", e.clock.now().Format(time.DateOnly))
	require.Equal(t, e.clock.now().Truncate(time.Microsecond).AddDate(0, 6, -1), set(6).RotateDue, "September has 30 days")
	require.True(t, set(0).RotateDue.IsZero())
}
