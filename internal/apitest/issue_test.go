package apitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// numbered makes n different texts.
func numbered(n int, form string) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf(form, i))
	}
	return list
}

func prefixes(n int) (list []netip.Prefix) {
	for i := range n {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24))
	}
	return list
}

func pairs(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprint("k", i)] = "v"
	}
	return m
}

func TestIssueLimits(t *testing.T) {
	many := make([]apikey.CatalogEntry, 70)
	for i := range many {
		many[i] = apikey.CatalogEntry{Scope: fmt.Sprintf("op:n%02d", i)}
	}
	type change = func(r *apikey.IssueRequest, n int)
	for _, c := range []struct {
		name   string
		limit  int // as documented
		lower  func(*apikey.Limits)
		change change
	}{
		{"name", 200, func(l *apikey.Limits) { l.NameBytes = 3 }, func(r *apikey.IssueRequest, n int) { r.Name = strings.Repeat("n", n) }},
		{"name in bytes, not letters", 200, func(l *apikey.Limits) { l.NameBytes = 3 }, func(r *apikey.IssueRequest, n int) {
			r.Name = strings.Repeat("é", n/2) + strings.Repeat("n", n%2)
		}},
		{"metadata pairs", 50, func(l *apikey.Limits) { l.MetadataPairs = 3 }, func(r *apikey.IssueRequest, n int) { r.Metadata = pairs(n) }},
		{"metadata name", 40, func(l *apikey.Limits) { l.MetadataName = 3 }, func(r *apikey.IssueRequest, n int) {
			r.Metadata = map[string]string{strings.Repeat("n", n): ""}
		}},
		{"metadata value", 500, func(l *apikey.Limits) { l.MetadataValue = 3 }, func(r *apikey.IssueRequest, n int) {
			r.Metadata = map[string]string{"n": strings.Repeat("v", n)}
		}},
		{"abilities", 64, func(l *apikey.Limits) { l.Abilities = 3 }, func(r *apikey.IssueRequest, n int) { r.Abilities = numbered(n, "op:n%02d") }},
		{"networks", 64, func(l *apikey.Limits) { l.Networks = 3 }, func(r *apikey.IssueRequest, n int) { r.Networks = prefixes(n) }},
		{"origins", 16, func(l *apikey.Limits) { l.Origins = 3 }, func(r *apikey.IssueRequest, n int) { r.Origins = numbered(n, "https://s%d.example") }},
		{"idempotency key", 255, nil, func(r *apikey.IssueRequest, n int) { r.IdempotencyKey = strings.Repeat("i", n) }},
	} {
		for limit, lower := range map[int]func(*apikey.Limits){c.limit: nil, 3: c.lower} {
			if limit == 3 && lower == nil {
				continue
			}
			e := newEnv(t, func(e *env) {
				e.settings.Catalog = apikey.MustCatalog(many...)
				if lower != nil {
					lower(&e.mc.Limits)
				}
			})
			for n, want := range map[int]error{limit: nil, limit + 1: apikey.ErrLimit} {
				req := apikey.IssueRequest{Mode: apikey.Live}
				c.change(&req, n)
				issued, err := e.manager.Issue(e.ctx, req)
				require.ErrorIs(t, err, want, "%s: %d of %d", c.name, n, limit)
				if want == nil {
					require.NoError(t, err, "%s: %d of %d", c.name, n, limit)
					require.NoError(t, e.verifyFrom(issued.Token, req), "%s: %d of %d", c.name, n, limit)
				}
			}
		}
	}
}

// verifyFrom verifies as a client that a request allows.
func (e *env) verifyFrom(token apikey.Token, from apikey.IssueRequest) error {
	var r apikey.Request
	if len(from.Networks) > 0 {
		r.Addr = from.Networks[0].Addr()
	}
	if len(from.Origins) > 0 {
		r.Origin = from.Origins[0]
	}
	_, err := e.verifier.Verify(background, token.Reveal(), r)
	return err
}

func TestIssueRefuses(t *testing.T) {
	e := newEnv(t)
	e.clock.move(-789 * time.Nanosecond) // to a whole microsecond
	now := e.clock.now()
	for _, c := range []struct {
		name   string
		change func(*apikey.IssueRequest)
		text   string
	}{
		{"no mode", func(r *apikey.IssueRequest) { r.Mode = 0 }, "Mode is required"},
		{"any mode", func(r *apikey.IssueRequest) { r.Mode = apikey.AnyMode }, "Mode is required"},
		{"a reserved kind", func(r *apikey.IssueRequest) { r.Kind = apikey.Signature }, "want apikey.Secret"},
		{"a kind that is none", func(r *apikey.IssueRequest) { r.Kind = 9 }, "want apikey.Secret"},
		{"NUL in the name", func(r *apikey.IssueRequest) { r.Name = "a\x00b" }, "NUL"},
		{"name that is not UTF-8", func(r *apikey.IssueRequest) { r.Name = "\xff\xfe" }, "UTF-8"},
		{"half a letter", func(r *apikey.IssueRequest) { r.Name = "é"[:1] }, "UTF-8"},
		{"expiry long past", func(r *apikey.IssueRequest) { r.ExpiresAt = now.Add(-time.Hour) }, "not in the future"},
		{"expiry now", func(r *apikey.IssueRequest) { r.ExpiresAt = now }, "not in the future"},
		{"expiry before 1970", func(r *apikey.IssueRequest) { r.ExpiresAt = time.Unix(-1, 0) }, "not in the future"},
		{"months below 0", func(r *apikey.IssueRequest) { r.RotateMonths = -1 }, "RotateMonths"},
		{"months beyond ten years", func(r *apikey.IssueRequest) { r.RotateMonths = 121 }, "RotateMonths"},
		{"unknown ability", func(r *apikey.IssueRequest) { r.Abilities = []string{"payment:refnd"} }, "payment:refund"},
		{"wildcard over nothing", func(r *apikey.IssueRequest) { r.Abilities = []string{"invoice:*"} }, "unknown"},
		{"wildcard over all", func(r *apikey.IssueRequest) { r.Abilities = []string{"*"} }, "scope"},
		{"level of a scope", func(r *apikey.IssueRequest) { r.Abilities = []string{"payment=write"} }, "unknown"},
		{"unknown level", func(r *apikey.IssueRequest) { r.Abilities = []string{"balance=admin"} }, "read or write"},
		{"capital in an ability", func(r *apikey.IssueRequest) { r.Abilities = []string{"Payment:refund"} }, "lower-case"},
		{"one good, one not", func(r *apikey.IssueRequest) { r.Abilities = []string{"payment:refund", "x"} }, "scope"},
		{"secret ability of a publishable key", publishable("payment:refund"), "every visitor's browser"},
		{"one secret ability among them", publishable("card:tokenise", "payment:refund"), "payment:refund"},
		{"write of a product that is public to read", publishable("rates=write"), "every visitor's browser"},
		{"wildcard of a publishable key", publishable("card:*"), "every visitor's browser"},
		{"invalid network", func(r *apikey.IssueRequest) { r.Networks = []netip.Prefix{{}} }, "network 0"},
		{"4-in-6 beyond IPv4", func(r *apikey.IssueRequest) { r.Networks = nets("::ffff:0.0.0.0/95") }, "0.0.0.0/0"},
		{"empty metadata name", func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"": "v"} }, "not empty"},
		{"NUL in metadata", func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"n": "\x00"} }, "NUL"},
		{"metadata that is not UTF-8", func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"\xff": "v"} }, "UTF-8"},
		{"origin with a path", originList("https://shop.example/"), "origin"},
		{"origin with a query", originList("https://shop.example?"), "origin"},
		{"origin with a fragment", originList("https://shop.example#"), "origin"},
		{"origin with a user", originList("https://u@shop.example"), "origin"},
		{"wildcard origin", originList("https://*.shop.example"), "origin"},
		{"any origin", originList("*"), "origin"},
		{"the null origin", originList("null"), "origin"},
		{"no scheme", originList("shop.example"), "origin"},
		{"empty origin", originList(""), "origin"},
		{"origin without scheme", originList("//shop.example"), "origin"},
		{"origin without host", originList("https://:443"), "origin"},
		{"origin with an empty port", originList("https://shop.example:"), "origin"},
		{"origin in Unicode", originList("https://shöp.example"), "origin"},
		{"two origins in one", originList("https://a.example,https://b.example"), "origin"},
		{"origin with a line break", originList("https://a.example\r\nX: y"), "origin"},
		{"very long origin", originList("https://" + strings.Repeat("a", 300)), "origin"},
		{"one good origin, one not", originList("https://shop.example", "ftp:"), "ftp:"},
	} {
		req := apikey.IssueRequest{Mode: apikey.Live}
		c.change(&req)
		issued, err := e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrInvalid, c.name)
		require.ErrorContains(t, err, c.text, c.name)
		require.Zero(t, issued, c.name)
	}
	list, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.NoError(t, err)
	require.Empty(t, list.Keys)
	require.Len(t, e.allEvents(apikey.EventsRequest{Account: "acc_1"}), 0)
}

func publishable(abilities ...string) func(*apikey.IssueRequest) {
	return func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, abilities }
}

func originList(origins ...string) func(*apikey.IssueRequest) {
	return func(r *apikey.IssueRequest) { r.Origins = origins }
}

func nets(texts ...string) (list []netip.Prefix) {
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// An error about an ability that nobody knows names the nearest ones, and does
// not flood a log with what was sent.
func TestUnknownAbilityNamesTheNearest(t *testing.T) {
	e := newEnv(t)
	_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:chekout"}})
	require.ErrorContains(t, err, `"payment:chekout" is unknown; nearest known: payment:checkout`)
	_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{strings.Repeat("long:", 1e5)}})
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.Less(t, len(err.Error()), 400)
}

// The first refused instant is the expiry itself; a microsecond from now is a
// valid one, and a nanosecond is not: stores keep microseconds.
func TestIssueExpiryIsExact(t *testing.T) {
	e := newEnv(t)
	now := e.clock.now().Truncate(time.Microsecond)
	_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, ExpiresAt: now.Add(999 * time.Nanosecond)})
	require.ErrorIs(t, err, apikey.ErrInvalid)
	key := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = now.Add(time.Microsecond) })
	require.NoError(t, e.verify(key.Token))
	e.clock.move(time.Microsecond)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrExpired)
}

// Names come back byte for byte, whatever they would do to a page, a log or a
// query: what shows them escapes them.
func TestHostileNamesAreOnlyNames(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		for _, name := range []string{
			"", "'; DROP TABLE apikey_keys; --", `" OR 1=1`, "<script>alert(1)</script>", "%", "_", `\`, "{{.}}", "%s%n",
			"é", "e\u0301", "日本語", "🔑", "${jndi:ldap://x}", "../../etc/passwd", "Robert'); --", strings.Repeat("🔑", 50),
		} {
			meta := map[string]string{"n": name}
			issued := e.issue(func(r *apikey.IssueRequest) { r.Name, r.Metadata = name, meta })
			info, err := e.manager.Get(e.ctx, issued.Key.ID)
			require.NoError(t, err)
			require.Equal(t, name, info.Name)
			require.Equal(t, name, info.Metadata.Get("n"))
			require.NoError(t, e.verify(issued.Token), "%q", name)
			list, err := e.manager.List(e.ctx, apikey.ListRequest{NameContains: name})
			require.NoError(t, err)
			for _, k := range list.Keys {
				require.Contains(t, strings.ToLower(k.Name), strings.ToLower(name))
			}
			require.NotEmpty(t, list.Keys, "%q finds itself", name)
			require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
		}
	})
}

func TestNetworksAreNormalised(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		given := nets("10.1.2.3/8", "10.0.0.0/8", "::ffff:192.0.2.9/120", "::ffff:198.51.100.7/128", "2001:db8::1/32", "0.0.0.0/0", "::/0")
		key := e.issue(func(r *apikey.IssueRequest) { r.Networks = given })
		var got []string
		for n := range key.Key.Networks.All() {
			got = append(got, n.String())
		}
		require.Equal(t, []string{"0.0.0.0/0", "10.0.0.0/8", "192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "::/0"}, got)
		info, err := e.manager.Get(e.ctx, key.Key.ID)
		require.NoError(t, err)
		require.Equal(t, key.Key.Networks, info.Networks)
	})
}

func TestOriginsAreCanonical(t *testing.T) {
	e := newEnv(t)
	key := e.issue(originList("HTTPS://Shop.Example:443", "https://shop.example", "http://shop.example:80", "https://shop.example:8443", "http://[2001:DB8::1]:8080", "chrome-extension://abcdef"))
	var got []string
	for o := range key.Key.Origins.All() {
		got = append(got, o)
	}
	require.Equal(t, []string{"chrome-extension://abcdef", "http://[2001:db8::1]:8080", "http://shop.example", "https://shop.example", "https://shop.example:8443"}, got)
}

func TestAbilitiesAreSortedAndSingle(t *testing.T) {
	e := newEnv(t)
	key := e.issue(func(r *apikey.IssueRequest) {
		r.Abilities = []string{"rates=read", "payment:verify", "payment:*", "payment:verify", "balance=write"}
	})
	var got []string
	for a := range key.Key.Abilities.All() {
		got = append(got, a.String())
	}
	require.Equal(t, []string{"balance=write", "payment:*", "payment:verify", "rates=read"}, got)
}

func TestRotateMonthsMakeAKeyDue(t *testing.T) {
	e := newEnv(t)
	created := e.clock.now().Truncate(time.Microsecond)
	key := e.issue(func(r *apikey.IssueRequest) { r.RotateMonths = 6 })
	require.Equal(t, 6, key.Key.RotateMonths)
	require.True(t, key.Key.RotateDue.Equal(created.AddDate(0, 6, 0)), key.Key.RotateDue)
	never := e.issue()
	require.True(t, never.Key.RotateDue.IsZero())
	e.clock.move(200 * 24 * time.Hour)
	require.NoError(t, e.verify(key.Token), "due is a reminder")
}

func TestIssueDisabled(t *testing.T) {
	e := newEnv(t, func(e *env) { e.mc.Limits.LiveKeys = 1 })
	key := e.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
	require.Equal(t, apikey.Suspended, key.Key.State)
	require.ErrorIs(t, e.verify(key.Token), apikey.ErrSuspended)
	e.issue() // a suspended key is not counted
	e.issue(func(r *apikey.IssueRequest) { r.Disabled = true })
	require.ErrorIs(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: key.Key.ID}), apikey.ErrLimit, "but when it comes to life")
}

// The zero request, but for its mode, is a working key that may do nothing.
func TestIssueZeroRequest(t *testing.T) {
	e := newEnv(t)
	key, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(t, err)
	require.Equal(t, apikey.Secret, key.Key.Kind)
	require.NoError(t, e.verify(key.Token))
	_, err = e.verifier.Verify(background, key.Token.Reveal(), apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}})
	require.ErrorIs(t, err, apikey.ErrAbility)
}

func TestIssueLeavesTheRequestAlone(t *testing.T) {
	e := newEnv(t)
	req := apikey.IssueRequest{
		Mode: apikey.Live, Abilities: []string{"payment:verify", "payment:refund"}, Networks: nets("10.9.9.9/8", "10.0.0.1/32"),
		Origins: []string{"https://B.example", "https://a.example"}, Metadata: map[string]string{"n": "v"}, IdempotencyKey: "k",
	}
	was := req
	was.Abilities, was.Networks = slices.Clone(req.Abilities), slices.Clone(req.Networks)
	was.Origins, was.Metadata = slices.Clone(req.Origins), maps.Clone(req.Metadata)
	issued, err := e.manager.Issue(e.ctx, req)
	require.NoError(t, err)
	require.Equal(t, was, req)
	req.Abilities[0], req.Origins[0], req.Metadata["n"], req.Networks[0] = "balance=write", "https://evil.example", "evil", nets("0.0.0.0/0")[0]
	require.Equal(t, "v", issued.Key.Metadata.Get("n"), "nor does the key share anything with it")
	key, err := e.verifier.Verify(background, issued.Token.Reveal(), apikey.Request{Addr: netip.MustParseAddr("10.0.0.1"), Origin: "https://a.example"})
	require.NoError(t, err)
	require.False(t, key.Can(apikey.Access{Product: "balance", Level: apikey.Read}))
}

func TestStandingAndProducts(t *testing.T) {
	var bad error
	var closed string
	var seen []string
	e := newEnv(t, func(e *env) {
		e.settings.Standing = standing(func(account string, m apikey.Mode) error {
			seen = append(seen, account+" "+m.String())
			return bad
		})
		e.mc.Products = func(account string, m apikey.Mode, a apikey.Ability) error {
			if m == apikey.Live && a.String() == closed {
				return errors.New("not enabled for " + account)
			}
			return nil
		}
	})
	key := e.issue()
	require.Equal(t, []string{"acc_1 live"}, seen)
	bad = errors.New("invoice unpaid")
	_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrStanding)
	require.ErrorIs(t, err, bad)
	require.NoError(t, e.manager.Suspend(e.ctx, key.Key.ID), "taking power away asks nobody's standing")
	bad = nil

	closed = "payment:refund"
	for mode, want := range map[apikey.Mode]error{apikey.Live: apikey.ErrStanding, apikey.Test: nil} {
		_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: mode, Abilities: []string{"payment:refund"}})
		require.ErrorIs(t, err, want, mode)
	}
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"payment:refund", "balance=read"})})
	require.ErrorIs(t, err, apikey.ErrStanding)
	require.ErrorContains(t, err, "not enabled for acc_1")
	_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Abilities: apikey.Set([]string{"balance=read"})})
	require.NoError(t, err)
}

// A context that has ended issues nothing.
func TestIssueWithAnEndedContext(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	issued, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, issued)
	list, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.NoError(t, err)
	require.Empty(t, list.Keys)
}

// IDs, secrets and tokens of keys that are issued together are all different,
// and nothing of a secret is in the store.
func TestTokensAreUniqueAndKeptNowhere(t *testing.T) {
	e := newEnv(t, func(e *env) { e.mc.Limits.LiveKeys = 1000 })
	const n = 200
	seen := map[string]bool{}
	for range n {
		k := e.issue()
		text := k.Token.Reveal()
		secret := text[len(text)-18-33 : len(text)-18]
		seen[text], seen[secret], seen[k.Key.ID.String()], seen[k.Token.Credential().String()] = true, true, true, true
		r, err := e.store.Get(background, k.Key.ID)
		require.NoError(t, err)
		require.NotContains(t, fmt.Sprintf("%+v", r), secret)
	}
	require.Len(t, seen, 4*n)
	events, err := e.store.Events(background, apikey.StoreEventFilter{Limit: 1000})
	require.NoError(t, err)
	require.Len(t, events.Events, n+1) // and the pepper's introduction
	for text := range seen {
		for _, ev := range events.Events {
			if len(text) == 33 {
				require.NotContains(t, string(ev.Body), text)
			}
		}
	}
}

// The body of an HTTP request reads into an IssueRequest, whole: a member that were dropped
// without a word could be the expiry.
func TestIssueRequestReadsABody(t *testing.T) {
	body := `{
		"account": "acc_1", "mode": "live", "kind": "secret", "name": "Website", "abilities": ["payment:refund"],
		"expires_at": "2026-04-01T00:00:00Z", "networks": ["203.0.113.0/24"], "origins": ["https://shop.example"],
		"metadata": {"shop": "7"}, "rotate_months": 6, "disabled": true, "recoverable": true, "idempotency_key": "form 1"
	}`
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.DisallowUnknownFields()
	var req apikey.IssueRequest
	require.NoError(t, decoder.Decode(&req))
	v := reflect.ValueOf(req)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		require.Equal(t, name == "Grant", v.Field(i).IsZero(), "%s: only a grant is never in a body", name)
	}
	var again apikey.IssueRequest
	text, err := json.Marshal(req)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &again))
	require.Equal(t, req, again)

	for _, c := range []struct{ body, field, value string }{
		{`{"mode": "prod"}`, "mode", "prod"}, {`{"kind": "signature"}`, "kind", "signature"},
	} {
		fields := apikey.InvalidFields(json.Unmarshal([]byte(c.body), &req))
		require.Len(t, fields, 1, c.body)
		require.Equal(t, c.field, fields[0].Field)
		require.Equal(t, c.value, fields[0].Value)
		require.NotEmpty(t, fields[0].Known)
	}
	_, err = apikey.ParseKeyID("foo")
	require.Equal(t, "key", apikey.InvalidFields(err)[0].Field)
}
