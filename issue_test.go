package apikey_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
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
	many := make([]apikey.Entry, 70)
	for i := range many {
		many[i] = apikey.Entry{Scope: fmt.Sprintf("op:n%02d", i)}
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
				e.mc.Catalog = apikey.MustCatalog(many...)
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
		{"a reserved kind", func(r *apikey.IssueRequest) { r.Kind = apikey.Signature }, "reserved"},
		{"a kind that is none", func(r *apikey.IssueRequest) { r.Kind = 9 }, "reserved"},
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
			"", " ", "'; DROP TABLE apikey_keys; --", `" OR 1=1`, "<script>alert(1)</script>", "%", "_", `\`, "{{.}}", "%s%n",
			"line\r\nbreak", "\x1b[31mred", "\u202egnp.exe", "\ufeffBOM", "é", "e\u0301", "日本語", "🔑", "\x7f", "${jndi:ldap://x}",
			"../../etc/passwd", "Robert'); --", "A\tB", strings.Repeat("🔑", 50),
		} {
			meta := map[string]string{"n": name}
			issued := e.issue(func(r *apikey.IssueRequest) { r.Name, r.Metadata = name, meta })
			info, err := e.manager.Get(e.ctx, apikey.GetRequest{Key: issued.Key.ID})
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
		info, err := e.manager.Get(e.ctx, apikey.GetRequest{Key: key.Key.ID})
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
		e.mc.Standing = standing(func(account string, m apikey.Mode) error {
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
	require.NoError(t, e.manager.Suspend(e.ctx, apikey.SuspendRequest{Key: key.Key.ID}), "taking power away asks nobody's standing")
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

func TestIdempotency(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		e.clock.move(-789 * time.Nanosecond) // to a whole microsecond
		req := apikey.IssueRequest{
			Mode: apikey.Live, Name: "shop", Abilities: []string{"payment:refund"}, IdempotencyKey: "order 7",
			Networks: nets("10.0.0.0/8"), Origins: []string{"https://shop.example"}, Metadata: map[string]string{"a": "b"},
			ExpiresAt: e.clock.now().Add(48 * time.Hour), RotateMonths: 3,
		}
		first, err := e.manager.Issue(e.ctx, req)
		require.NoError(t, err)

		again, err := e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued)
		require.Equal(t, first.Key.ID, again.Key.ID)
		require.True(t, again.Token.IsZero(), "never a secret twice")
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: first.Key.ID}))
		again, err = e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued)
		require.Equal(t, apikey.Revoked, again.Key.State, "as it is now")

		for name, change := range map[string]func(*apikey.IssueRequest){
			"name":                     func(r *apikey.IssueRequest) { r.Name = "other" },
			"kind":                     func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, nil },
			"abilities":                func(r *apikey.IssueRequest) { r.Abilities = []string{"payment:verify"} },
			"expiry":                   func(r *apikey.IssueRequest) { r.ExpiresAt = r.ExpiresAt.Add(time.Second) },
			"networks":                 func(r *apikey.IssueRequest) { r.Networks = nil },
			"origins":                  func(r *apikey.IssueRequest) { r.Origins = nil },
			"metadata":                 func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"a": "c"} },
			"months":                   func(r *apikey.IssueRequest) { r.RotateMonths = 6 },
			"disabled":                 func(r *apikey.IssueRequest) { r.Disabled = true },
			"fields that run together": func(r *apikey.IssueRequest) { r.Name, r.Abilities = "shopp", []string{"ayment:refund"} },
		} {
			other := req
			change(&other)
			issued, err := e.manager.Issue(e.ctx, other)
			require.ErrorIs(t, err, apikey.ErrIdempotencyMismatch, name)
			require.Zero(t, issued, name)
		}
		for name, other := range map[string]func() error{
			"mode":    func() error { r := req; r.Mode = apikey.Test; _, err := e.manager.Issue(e.ctx, r); return err },
			"account": func() error { _, err := e.manager.Issue(as("acc_2", "admin"), req); return err },
			"none":    func() error { r := req; r.IdempotencyKey = ""; _, err := e.manager.Issue(e.ctx, r); return err },
			"key":     func() error { r := req; r.IdempotencyKey += " "; _, err := e.manager.Issue(e.ctx, r); return err },
		} {
			require.NoError(t, other(), "another %s is another request", name)
		}
		e.clock.move(24*time.Hour - time.Microsecond)
		_, err = e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued)
		e.clock.move(time.Microsecond)
		later, err := e.manager.Issue(e.ctx, req)
		require.NoError(t, err)
		require.NotEqual(t, first.Key.ID, later.Key.ID)
		_, err = e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued)
	})
}

// Thirty-two callers repeat one request at once: one key, one secret.
func TestIdempotencyUnderRacing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		p.meet(32)
		req := apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "order 7"}
		issued := make([]apikey.Issued, 32)
		errs := together(32, func(i int) (err error) {
			issued[i], err = e.manager.Issue(e.ctx, req)
			return err
		})
		require.Equal(t, 1, count(errs, nil), errs)
		require.Equal(t, 31, count(errs, apikey.ErrAlreadyIssued), errs)
		list, err := e.manager.List(e.ctx, apikey.ListRequest{})
		require.NoError(t, err)
		require.Len(t, list.Keys, 1)
		for i, got := range issued {
			require.Equal(t, list.Keys[0].ID, got.Key.ID)
			require.Equal(t, errs[i] != nil, got.Token.IsZero(), "only who made it has the secret")
			if errs[i] == nil {
				require.NoError(t, e.verify(got.Token))
			}
		}
	})
}

// The limit of live keys is exact, however many come at once.
func TestLiveKeysUnderRacing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		for range 49 {
			e.issue()
		}
		p.meet(64)
		errs := together(64, func(int) error {
			issued, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
			if err != nil && !issued.Key.ID.IsZero() {
				return fmt.Errorf("%s described, which is no key", issued.Key.ID)
			}
			return err
		})
		require.Equal(t, 1, count(errs, nil), errs)
		require.Equal(t, 63, count(errs, apikey.ErrLimit), errs)
		list, err := e.manager.List(e.ctx, apikey.ListRequest{Limit: 1000, State: apikey.Active})
		require.NoError(t, err)
		require.Len(t, list.Keys, 50)
	})
}

// Only keys that work are counted, each mode and account for itself; and what
// frees a place asks nobody.
func TestWhatLiveKeysCounts(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on, func(e *env) { e.mc.Limits.LiveKeys = 2 })
		full := func() error {
			_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
			return err
		}
		a, b := e.issue(), e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().Add(time.Hour) })
		require.ErrorIs(t, full(), apikey.ErrLimit)
		require.ErrorContains(t, full(), "2 live keys in mode live, at most 2")
		e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
		_, err := e.manager.Issue(as("acc_2", "admin"), apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)

		require.NoError(t, e.manager.Suspend(e.ctx, apikey.SuspendRequest{Key: a.Key.ID}))
		c := e.issue()
		require.ErrorIs(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: a.Key.ID}), apikey.ErrLimit)
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: c.Key.ID}))
		require.NoError(t, e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: a.Key.ID}))
		require.ErrorIs(t, full(), apikey.ErrLimit)
		e.clock.move(time.Hour) // b has expired
		require.ErrorIs(t, e.verify(b.Token), apikey.ErrExpired)
		e.issue()
		require.ErrorIs(t, full(), apikey.ErrLimit)
		_, err = e.manager.Update(e.ctx, apikey.UpdateRequest{Key: b.Key.ID, ExpiresAt: apikey.Clear[time.Time]()})
		require.ErrorIs(t, err, apikey.ErrLimit, "an update may not bring one back beyond it")
		require.ErrorIs(t, e.verify(b.Token), apikey.ErrExpired)
	})
}

// Eight suspended keys, two places: two of eight racing Resumes find one.
func TestResumesShareTheLimit(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p), func(e *env) { e.mc.Limits.LiveKeys = 2 })
	var keys []apikey.KeyID
	for range 8 {
		keys = append(keys, e.issue(func(r *apikey.IssueRequest) { r.Disabled = true }).Key.ID)
	}
	p.meet(8)
	errs := together(8, func(i int) error { return e.manager.Resume(e.ctx, apikey.ResumeRequest{Key: keys[i]}) })
	require.Equal(t, 2, count(errs, nil), errs)
	require.Equal(t, 6, count(errs, apikey.ErrLimit), errs)
}

// A new account gets one publishable key a mode, whose token can be shown again
// and again, and no secret key.
func TestProvision(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		req := apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}}
		first, err := e.manager.Provision(e.ctx, req)
		require.NoError(t, err)
		require.Equal(t, "Publishable key", first.Live.Key.Name)
		require.Equal(t, apikey.Live, first.Live.Token.Mode())
		require.Equal(t, apikey.Test, first.Test.Token.Mode())
		_, err = e.verifier.Verify(background, first.Live.Token.Reveal(), apikey.Request{AllowPublishable: true, Require: []apikey.Ability{apikey.Scope("card:tokenise")}})
		require.NoError(t, err)
		require.ErrorIs(t, e.verify(first.Live.Token), apikey.ErrKind)

		for range 2 {
			again, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{Name: "not looked at any more"})
			require.NoError(t, err)
			require.Equal(t, first.Live.Token.Reveal(), again.Live.Token.Reveal())
			require.Equal(t, first.Test.Token.Reveal(), again.Test.Token.Reveal())
			require.Equal(t, first.Live.Key.ID, again.Live.Key.ID)
		}
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: first.Live.Key.ID}))
		again, err := e.manager.Provision(e.ctx, req)
		require.NoError(t, err)
		require.Equal(t, first.Live.Key.ID, again.Live.Key.ID)
		require.Equal(t, apikey.Revoked, again.Live.Key.State, "what was revoked is not replaced behind anyone's back")
		list, err := e.manager.List(e.ctx, apikey.ListRequest{})
		require.NoError(t, err)
		require.Len(t, list.Keys, 2)
		for _, k := range list.Keys {
			require.Equal(t, apikey.Publishable, k.Kind)
		}
		_, err = e.manager.Provision(as("acc_2", "admin"), apikey.ProvisionRequest{Abilities: []string{"payment:refund"}})
		require.ErrorIs(t, err, apikey.ErrInvalid)
	})
}

func TestProvisionUnderRacing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		p.meet(16)
		got := make([]apikey.Provisioned, 16)
		errs := together(16, func(i int) (err error) {
			got[i], err = e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
			return err
		})
		require.Equal(t, 16, count(errs, nil), errs)
		for _, p := range got {
			require.Equal(t, got[0].Live.Token.Reveal(), p.Live.Token.Reveal())
			require.Equal(t, got[0].Test.Token.Reveal(), p.Test.Token.Reveal())
		}
		list, err := e.manager.List(e.ctx, apikey.ListRequest{})
		require.NoError(t, err)
		require.Len(t, list.Keys, 2)
	})
}

// A provisioned key that was revoked long ago and purged is made anew.
func TestProvisionAfterAPurge(t *testing.T) {
	store := memstore.New()
	e := newEnv(t, func(e *env) { e.store = store })
	first, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
	require.NoError(t, err)
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: first.Live.Key.ID}))
	n, err := store.Purge(background, e.clock.now().Add(time.Minute), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	again, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
	require.NoError(t, err)
	require.NotEqual(t, first.Live.Key.ID, again.Live.Key.ID)
	require.Equal(t, apikey.Active, again.Live.Key.State)
	require.Equal(t, first.Test.Key.ID, again.Test.Key.ID)
}

func TestProvisionCountsAgainstTheLimit(t *testing.T) {
	e := newEnv(t, func(e *env) { e.mc.Limits.LiveKeys = 1 })
	e.issue(func(r *apikey.IssueRequest) { r.Mode = apikey.Test })
	_, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
	require.ErrorIs(t, err, apikey.ErrLimit)
	list, err := e.manager.List(e.ctx, apikey.ListRequest{Kind: apikey.Publishable})
	require.NoError(t, err)
	require.Empty(t, list.Keys, "both or none")

	var p *proxy
	e = newEnv(t, through(&p), func(e *env) { e.mc.Limits.LiveKeys = 1 })
	p.meet(2)
	errs := together(2, func(i int) (err error) {
		if i == 0 {
			_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		} else {
			_, err = e.manager.Provision(e.ctx, apikey.ProvisionRequest{})
		}
		return err
	})
	require.Equal(t, 1, count(errs, nil), errs)
	require.Equal(t, 1, count(errs, apikey.ErrLimit), errs)
}

// An Issue that loses its race ten times says so; one that wins at last has
// hashed its secret once.
func TestIssueAfterConflicts(t *testing.T) {
	for conflicts, want := range map[int]error{9: nil, 10: apikey.ErrConflict} {
		var p *proxy
		hashes := &hashCounter{}
		e := newEnv(t, through(&p), func(e *env) {
			hashes.Hasher = e.mc.Hasher
			e.mc.Hasher = hashes
		})
		left := conflicts
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.Change) error {
				if left--; left >= 0 {
					return apikey.ErrConflict
				}
				return next()
			}
		})
		issued, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.ErrorIs(t, err, want)
		require.Equal(t, 1, hashes.n)
		if want == nil {
			require.NoError(t, err)
			require.NoError(t, e.verify(issued.Token))
		} else {
			require.Zero(t, issued)
		}
	}
}

type hashCounter struct {
	apikey.Hasher
	n int
}

func (h *hashCounter) Hash(ctx context.Context, secret []byte) (string, error) {
	h.n++
	return h.Hasher.Hash(ctx, secret)
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
	events, err := e.store.Events(background, apikey.EventFilter{Limit: 1000})
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
