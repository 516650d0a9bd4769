package apitest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// region is a form of ability that a program of its own could define.
type region string

func (r region) Allows(required apikey.Ability) bool { return required == r }
func (r region) String() string                      { return "region/" + string(r) }

func parseRegion(text string) (apikey.Ability, bool) {
	name, ok := strings.CutPrefix(text, "region/")
	return region(name), ok && name != ""
}

// yes allows whatever it is asked, nil included: a form with a bug.
type yes struct{}

func (yes) Allows(apikey.Ability) bool { return true }
func (yes) String() string             { return "yes/yes" }

type scope = apikey.Scope

func access(product string, l apikey.Level) apikey.Access {
	return apikey.Access{Product: product, Level: l}
}

func TestAllows(t *testing.T) {
	for _, c := range allows {
		require.Equal(t, c.want, c.held.Allows(c.required), "%#v allows %#v", c.held, c.required)
	}
}

var allows = []struct {
	held, required apikey.Ability
	want           bool
}{
	{scope("payment:refund"), scope("payment:refund"), true},
	{scope("payment:refund"), scope("payment:refunds"), false},
	{scope("payment:refund"), scope("payment:refun"), false},
	{scope("payment:refund"), scope("payment:Refund"), false},
	{scope("payment:refund"), scope("payment:refund:partial"), false},
	{scope("payment:refund:partial"), scope("payment:refund"), false},
	{scope("payment:refund"), scope("payment"), false},
	{scope("payment:refund"), scope("payment:*"), false},
	{scope("payment:refund"), scope("payment:verify"), false},
	{scope("payment:refund"), scope("refund:payment"), false},
	{scope("payment:*"), scope("payment:refund"), true},
	{scope("payment:*"), scope("payment:refund:partial"), true},
	{scope("payment:*"), scope("payment:*"), true},
	{scope("payment:*"), scope("payment:refund:*"), true},
	{scope("payment:refund:*"), scope("payment:*"), false},
	{scope("payment:refund:*"), scope("payment:refund:partial"), true},
	{scope("payment:refund:*"), scope("payment:refund"), false},
	{scope("payment:*"), scope("payment"), false},
	{scope("payment:*"), scope("payment:"), false},
	{scope("payment:*"), scope("payments:refund"), false},
	{scope("payment:*"), scope("pay:refund"), false},
	{scope("payment:*"), scope("PAYMENT:refund"), false},
	// Nothing that a catalog would take, and still nobody's skeleton key.
	{scope("*"), scope("payment:refund"), false},
	{scope("pay*"), scope("payment:refund"), false},
	{scope("*:refund"), scope("payment:refund"), false},
	{scope("payment:*:partial"), scope("payment:refund:partial"), false},
	{scope(":*"), scope("payment:refund"), false},
	{scope(""), scope("payment:refund"), false},
	{scope(""), scope(""), false},
	{scope("payment:refund"), scope(""), false},

	{access("balance", apikey.Read), access("balance", apikey.Read), true},
	{access("balance", apikey.Write), access("balance", apikey.Write), true},
	{access("balance", apikey.Write), access("balance", apikey.Read), true},
	{access("balance", apikey.Read), access("balance", apikey.Write), false},
	{access("balance", apikey.Write), access("rates", apikey.Read), false},
	{access("balance", apikey.Write), access("Balance", apikey.Read), false},
	{access("balance", apikey.Write), access("balances", apikey.Read), false},
	{access("balance", apikey.Write), access("", apikey.Read), false},
	{access("balance", 0), access("balance", 0), false},
	{access("balance", 0), access("balance", apikey.Read), false},
	{access("balance", apikey.Write), access("balance", 0), false},
	{access("balance", apikey.Write), access("balance", 3), false},
	{access("balance", 255), access("balance", apikey.Write), true}, // of a newer version
	{access("", apikey.Write), access("", 0), false},

	{scope("balance:read"), access("balance", apikey.Read), false},
	{scope("balance:*"), access("balance", apikey.Read), false},
	{scope("balance=write"), access("balance", apikey.Write), false},
	{access("balance", apikey.Write), scope("balance:read"), false},
	{access("balance", apikey.Write), scope("balance=write"), false},
	{access("payment:refund", apikey.Write), scope("payment:refund"), false},
	{scope("region:*"), region("id"), false},
	{region("id"), scope("region:id"), false},
	{region("id"), access("id", apikey.Read), false},
	{region("id"), region("id"), true},
	{region("id"), region("sg"), false},

	{scope("payment:*"), nil, false},
	{access("balance", apikey.Write), nil, false},
}

func TestParseScope(t *testing.T) {
	long := strings.Repeat("a", 100-len("payment:"))
	for text, want := range map[string]bool{
		"payment:refund": true, "payment:*": true, "a:b": true, "a:b:c:d:e:f:g:h": true, "a:b:c:d:e:f:g:*": true, "0:1": true,
		"payment.v2:refund-part_1": true, "-:-": true, ".:.": true, "payment:" + long: true,

		"": false, "payment": false, ":": false, "payment:": false, ":refund": false, "payment::refund": false, "a:b:c:d:e:f:g:h:i": false,
		"*": false, "*:*": false, "*:refund": false, "payment:*:partial": false, "payment:re*": false, "payment:**": false, "pay*:refund": false,
		"Payment:refund": false, "payment:Refund": false, "payment: refund": false, " payment:refund": false, "payment:refund\n": false,
		"payment:refund\x00": false, "payment:réfund": false, "payment:refund,payment:verify": false, "payment:\xff": false, "payment=read": false, "payment:refund=read": false,
		"payment:" + long + "a": false, strings.Repeat(":", 1<<20): false, "payment:" + strings.Repeat("a", 1<<20): false,
	} {
		s, err := apikey.ParseScope(text)
		if want {
			require.NoError(t, err, text)
			require.Equal(t, text, s.String())
		} else {
			require.ErrorIs(t, err, apikey.ErrInvalid, "%.80q", text)
			require.Empty(t, s)
			require.Less(t, len(err.Error()), 500, "a caller's text must not flood the log")
		}
	}
}

func TestParseAccess(t *testing.T) {
	long := strings.Repeat("a", 100-len("=read"))
	for text, want := range map[string]apikey.Access{
		"balance=read": {Product: "balance", Level: apikey.Read}, "balance=write": {Product: "balance", Level: apikey.Write},
		"pay.out-v2_b=read": {Product: "pay.out-v2_b", Level: apikey.Read}, long + "=read": {Product: long, Level: apikey.Read},

		"": {}, "=": {}, "balance": {}, "balance=": {}, "=read": {}, "balance=none": {}, "balance=Read": {}, "balance=READ": {}, "balance=read ": {}, " balance=read": {},
		"balance==read": {}, "balance=read=write": {}, "balance=read,write": {}, "Balance=read": {}, "balance:all=read": {}, "bal ance=read": {}, "balance=level(3)": {},
		"*=read": {}, "balance=*": {}, "balance=1": {}, "balance\x00=read": {}, "bälance=read": {}, long + "a=read": {}, strings.Repeat("=", 1<<20): {},
	} {
		a, err := apikey.ParseAccess(text)
		require.Equal(t, want, a, "%.80q", text)
		if want == (apikey.Access{}) {
			require.ErrorIs(t, err, apikey.ErrInvalid, "%.80q", text)
			require.Less(t, len(err.Error()), 500)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, text, a.String())
		printed, err := a.MarshalText()
		require.NoError(t, err)
		require.Equal(t, text, string(printed))
	}
}

func TestNewCatalog(t *testing.T) {
	for name, c := range map[string]struct {
		entries []apikey.CatalogEntry
		wrong   string // "": nothing
	}{
		"empty":              {nil, ""},
		"all three forms":    {[]apikey.CatalogEntry{{Scope: "a:b"}, {Product: "a"}, {Parse: parseRegion}}, ""},
		"two of the own":     {[]apikey.CatalogEntry{{Parse: parseRegion}, {Parse: parseRegion}}, ""},
		"empty entry":        {[]apikey.CatalogEntry{{Scope: "a:b"}, {}}, "entry 1"},
		"description alone":  {[]apikey.CatalogEntry{{Description: "refunds"}}, "exactly one"},
		"scope and product":  {[]apikey.CatalogEntry{{Scope: "a:b", Product: "a"}}, "exactly one"},
		"scope and parse":    {[]apikey.CatalogEntry{{Scope: "a:b", Parse: parseRegion}}, "exactly one"},
		"malformed scope":    {[]apikey.CatalogEntry{{Scope: "refund"}}, "refund"},
		"wildcard":           {[]apikey.CatalogEntry{{Scope: "payment:*"}}, "lists what exists"},
		"malformed product":  {[]apikey.CatalogEntry{{Product: "Balance"}}, "Balance"},
		"product with level": {[]apikey.CatalogEntry{{Product: "balance=read"}}, "balance=read"},
		"scope twice":        {[]apikey.CatalogEntry{{Scope: "a:b"}, {Scope: "a:c"}, {Scope: "a:b", Publishable: true}}, `"a:b" twice`},
		"product twice":      {[]apikey.CatalogEntry{{Product: "a"}, {Product: "a"}}, "twice"},
	} {
		c2, err := apikey.NewCatalog(c.entries...)
		if c.wrong == "" {
			require.NoError(t, err, name)
			require.Len(t, c2.Entries(), len(c.entries), name)
			continue
		}
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
		require.ErrorContains(t, err, c.wrong, name)
		require.Panics(t, func() { apikey.MustCatalog(c.entries...) }, name)
	}
}

// Entries is for showing: what a caller does to it, or to what they passed, never
// reaches the catalog.
func TestCatalogIsImmutable(t *testing.T) {
	entries := []apikey.CatalogEntry{{Scope: "payment:refund"}}
	c := apikey.MustCatalog(entries...)
	entries[0].Publishable = true
	c.Entries()[0].Publishable = true
	require.False(t, c.Entries()[0].Publishable)
	c.Entries()[0] = apikey.CatalogEntry{Scope: "payment:everything"}
	_, err := c.Parse("payment:everything")
	require.ErrorIs(t, err, apikey.ErrInvalid)
}

func TestCatalogParse(t *testing.T) {
	liar := func(text string) (apikey.Ability, bool) { return yes{}, strings.HasPrefix(text, "liar/") }
	none := func(text string) (apikey.Ability, bool) { return nil, strings.HasPrefix(text, "nil/") }
	smuggler := func(text string) (apikey.Ability, bool) { return apikey.Scope(text), true }
	c := apikey.MustCatalog(append(catalog.Entries(), apikey.CatalogEntry{Parse: parseRegion}, apikey.CatalogEntry{Parse: liar}, apikey.CatalogEntry{Parse: none})...)
	for text, want := range map[string]apikey.Ability{
		"payment:refund": apikey.Scope("payment:refund"), "payment:*": apikey.Scope("payment:*"), "card:*": apikey.Scope("card:*"),
		"balance=read": apikey.Access{Product: "balance", Level: apikey.Read}, "balance=write": apikey.Access{Product: "balance", Level: apikey.Write},
		"region/id": region("id"),

		"payment:refnud": nil, "payment:refund:*": nil, "payout:*": nil, "*": nil, "balance=none": nil, "balances=read": nil, "balance:read": nil, "balance:*": nil,
		"payment:refund ": nil, "Payment:refund": nil, "": nil, "region/": nil, "liar/1": nil, "nil/1": nil, "region/" + strings.Repeat("x", 100): nil,
	} {
		a, err := c.Parse(text)
		require.Equal(t, want, a, text)
		require.Equal(t, want == nil, errors.Is(err, apikey.ErrInvalid), text)
	}
	_, err := apikey.MustCatalog(apikey.CatalogEntry{Parse: smuggler}).Parse("payment:everything")
	require.ErrorIs(t, err, apikey.ErrInvalid, "a program's own form cannot widen the closed list of scopes")
}

func TestCatalogNamesTheNearest(t *testing.T) {
	for text, nearest := range map[string]string{
		"payment:refnud": "payment:refund", "payments:refund": "payment:refund", "payment:checkuot": "payment:checkout",
		"balances=read": "balance=read", "balance:read": "balance=read", "card:tokenize": "card:tokenise", "payout:*": "payment:verify",
	} {
		_, err := catalog.Parse(text)
		require.ErrorContains(t, err, text)
		require.ErrorContains(t, err, nearest)
		require.LessOrEqual(t, strings.Count(err.Error(), ", "), 2, "at most three")
	}
	_, err := catalog.Parse("a:" + strings.Repeat("b", 1<<20))
	require.ErrorIs(t, err, apikey.ErrInvalid)
	require.Less(t, len(err.Error()), 500)
}

// What a publishable key holds is held by everybody.
func TestPublishableKeysTakeOnlyWhatIsMarked(t *testing.T) {
	c := append(catalog.Entries(), apikey.CatalogEntry{Parse: parseRegion})
	marked := append(catalog.Entries(), apikey.CatalogEntry{Parse: parseRegion, Publishable: true})
	for _, row := range []struct {
		entries []apikey.CatalogEntry
		ability string
		want    bool
	}{
		{c, "card:tokenise", true}, {c, "rates=read", true},
		{c, "rates=write", false}, {c, "balance=read", false}, {c, "payment:refund", false},
		{c, "card:*", false}, // covers what the catalog may have tomorrow
		{c, "region/id", false}, {marked, "region/id", true},
	} {
		e := newEnv(t, func(e *env) {
			e.settings.Catalog = apikey.MustCatalog(row.entries...)
		})
		req := apikey.IssueRequest{Mode: apikey.Live, Kind: apikey.Publishable, Abilities: []string{row.ability}}
		_, err := e.manager.Issue(e.ctx, req)
		require.Equal(t, row.want, err == nil, "%s: %v", row.ability, err)
		require.Equal(t, !row.want, errors.Is(err, apikey.ErrInvalid), row.ability)
		req.Kind = apikey.Secret
		_, err = e.manager.Issue(e.ctx, req)
		require.NoError(t, err, "a secret key may hold %s", row.ability)
	}
}

func TestRequirements(t *testing.T) {
	custom := func(e *env) {
		e.settings.Catalog = apikey.MustCatalog(append(catalog.Entries(), apikey.CatalogEntry{Parse: parseRegion}, apikey.CatalogEntry{
			Parse: func(text string) (apikey.Ability, bool) { return yes{}, text == "yes/yes" },
		})...)
	}
	refund, verify := scope("payment:refund"), scope("payment:verify")
	read, write := access("balance", apikey.Read), access("balance", apikey.Write)
	type need = []apikey.Ability
	for _, c := range []struct {
		held    []string
		need    []apikey.Ability
		missing string // "": nothing
	}{
		{nil, nil, ""},
		{nil, need{}, ""},
		{nil, need{refund}, "payment:refund"},
		{[]string{"payment:refund"}, nil, ""},
		{[]string{"payment:refund"}, need{refund}, ""},
		{[]string{"payment:refund", "balance=write"}, need{refund}, ""}, // more than needed does no harm
		{[]string{"payment:refund"}, need{refund, verify}, "payment:verify"},
		{[]string{"payment:refund"}, need{verify, refund}, "payment:verify"},
		{[]string{"payment:refund", "payment:verify"}, need{verify, refund, refund}, ""},
		{[]string{"payment:*"}, need{verify, refund}, ""},
		{[]string{"payment:*"}, need{read}, "balance=read"},
		{[]string{"balance=read"}, need{read}, ""},
		{[]string{"balance=read"}, need{read, write}, "balance=write"},
		{[]string{"balance=write"}, need{read, write}, ""},
		{[]string{"region/id"}, need{region("id")}, ""},
		{[]string{"region/id"}, need{region("sg")}, "region/sg"},
		{[]string{"region/id"}, need{refund}, "payment:refund"},
		// A nil in the list is a bug of the route, and never satisfied.
		{[]string{"payment:*", "balance=write"}, need{nil}, "(nil)"},
		{[]string{"payment:*", "balance=write"}, need{refund, nil}, "(nil)"},
		{[]string{"yes/yes"}, need{refund}, ""},
		{[]string{"yes/yes"}, need{nil}, "(nil)"},
		{nil, need{nil}, "(nil)"},
	} {
		name := fmt.Sprint(c.held, c.need)
		e := newEnv(t, custom)
		token := e.issue(func(r *apikey.IssueRequest) { r.Abilities = c.held }).Token.Reveal()
		key, err := e.verifier.Verify(t.Context(), token, apikey.Request{Require: c.need})
		if c.missing == "" {
			require.NoError(t, err, name)
			require.True(t, key.Can(c.need...), name)
			continue
		}
		require.Nil(t, key, name)
		require.ErrorIs(t, err, apikey.ErrAbility, name)
		require.ErrorIs(t, err, apikey.ErrDenied, name)
		var ability *apikey.AbilityError
		require.ErrorAs(t, err, &ability, name)
		require.Equal(t, c.missing, ability.Missing.String(), name)
		for _, held := range c.held { // names what is missing, never what is held
			require.NotContains(t, err.Error(), held, name)
		}
		key, err = e.verifier.Verify(t.Context(), token, apikey.Request{})
		require.NoError(t, err, name)
		require.False(t, key.Can(c.need...), name)
	}
}

// Roles, products and 20 abilities at once: everything is needed, in any order.
func TestManyAbilities(t *testing.T) {
	var entries []apikey.CatalogEntry
	var texts []string
	var need []apikey.Ability
	for i := range 30 {
		text := fmt.Sprintf("service-%d.v2:op_%d:x", i%5, i)
		entries, texts = append(entries, apikey.CatalogEntry{Scope: text}), append(texts, text)
		need = append([]apikey.Ability{apikey.Scope(text)}, need...)
	}
	e := newEnv(t, func(e *env) { e.settings.Catalog = apikey.MustCatalog(entries...) })
	all := e.issue(func(r *apikey.IssueRequest) { r.Abilities = texts })
	_, err := e.verifier.Verify(t.Context(), all.Token.Reveal(), apikey.Request{Require: need})
	require.NoError(t, err)
	for i := range texts {
		one := append(append([]string{}, texts[:i]...), texts[i+1:]...)
		issued := e.issue(func(r *apikey.IssueRequest) { r.Abilities = one })
		_, err := e.verifier.Verify(t.Context(), issued.Token.Reveal(), apikey.Request{Require: need})
		require.ErrorContains(t, err, texts[i])
	}
}

// A stored ability whose form this version does not know fails closed.
func TestUnknownFormIsCorrupt(t *testing.T) {
	custom := func(e *env) {
		e.settings.Catalog = apikey.MustCatalog(append(catalog.Entries(), apikey.CatalogEntry{Parse: parseRegion})...)
	}
	e := newEnv(t, custom)
	issued := e.issue(func(r *apikey.IssueRequest) { r.Abilities = []string{"region/id"} })
	require.NoError(t, e.verify(issued.Token))
	elsewhere := e.newVerifier(func(c *verifierConfig) { c.Catalog = nil }) // of a process whose Manager is not here to compare
	_, err := elsewhere.Verify(t.Context(), issued.Token.Reveal(), apikey.Request{})
	require.ErrorIs(t, err, apikey.ErrCorrupt)
	// One that is well-formed and merely not in the catalog is a newer program's.
	issued = e.issue()
	newer := e.newVerifier(func(c *verifierConfig) { c.Catalog = apikey.MustCatalog() })
	_, err = newer.Verify(t.Context(), issued.Token.Reveal(), apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}})
	require.NoError(t, err)
}

func TestLevelText(t *testing.T) {
	for level, want := range map[apikey.Level]string{0: "level(0)", apikey.Read: "read", apikey.Write: "write", 3: "level(3)"} {
		require.Equal(t, want, level.String())
	}
}
