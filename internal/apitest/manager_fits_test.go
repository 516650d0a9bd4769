package apitest

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// A Verifier in ManagerConfig.Local has to read what the Manager hashes, and must not
// hash it anew unless its list says that it means to.
func TestFound13LocalHashersFit(t *testing.T) {
	one, two := pepper(t, 1), pepper(t, 2)
	quick := argon(t, apikey.Argon2idConfig{Memory: 7168, Time: 1})
	same := argon(t, apikey.Argon2idConfig{Memory: 7168, Time: 1, Slots: 3})
	usual, heavy := argon(t, apikey.Argon2idConfig{}), argon(t, apikey.Argon2idConfig{Memory: 256 << 10, MaxMemory: 512 << 10})
	hmac1, hmac2, both := hmacHasher(t, one), hmacHasher(t, two), hmacHasher(t, two, one)
	list := func(h ...apikey.Hasher) []apikey.Hasher { return h }
	for _, c := range []struct {
		name     string
		minting  apikey.Hasher
		local    []apikey.Hasher
		readOnly bool
		why      string // empty: they fit
	}{
		{"the same value", quick, list(quick), false, ""},
		{"equal values", quick, list(same), false, ""},
		{"both by default", nil, nil, false, ""},
		{"the default and its like", nil, list(usual), false, ""},
		{"the Manager hashes dearer", usual, list(quick), false, ""},
		{"HMAC, and argon2 that is still read", hmac1, list(hmac1, quick), false, ""},
		{"an HMAC that reads more peppers", hmac1, list(both), false, ""},
		{"a migration that the list names", quick, list(usual, quick), false, ""},
		{"from HMAC to argon2, as the list says", hmac1, list(quick, hmac1), false, ""},
		{"one that writes nothing", quick, list(usual), true, ""},

		{"hashes anew what is cheaper", quick, list(usual), false, "would hash anew"},
		{"hashes anew by default", quick, nil, false, "would hash anew"},
		{"cannot afford to read", heavy, list(quick), false, "cannot read"},
		{"HMAC of another pepper", hmac1, list(hmac2), false, "cannot read"},
		{"HMAC of another key in the slot", hmac1, list(hmacHasher(t, pepperOf(t, 1, 99))), false, "cannot read"},
		{"no HMAC", hmac1, list(quick), false, "no Hasher for hmac-sha256"},
		{"no argon2", quick, list(hmac1), false, "no Hasher for argon2id"},
	} {
		v, err := apikey.NewVerifier(background, apikey.VerifierConfig{
			Store: memstore.New(), Prefix: prefix, Mode: apikey.Live, Hashers: c.local, ReadOnly: c.readOnly, Sync: -1,
		})
		require.NoError(t, err, c.name)
		_, err = apikey.NewManager(background, apikey.ManagerConfig{
			Store: memstore.New(), Prefix: prefix, Catalog: catalog, Hasher: c.minting, Local: []*apikey.Verifier{v},
		})
		if c.why == "" {
			require.NoError(t, err, c.name)
		} else {
			require.ErrorIs(t, err, apikey.ErrInvalid, c.name)
			require.ErrorContains(t, err, c.why, c.name)
		}
		require.NoError(t, v.Close(background))
	}
}

// misnamed is a Hasher of the program's own with a typo.
type misnamed struct {
	apikey.Hasher
	name string
}

func (m misnamed) Name() string { return m.name }

// A Hasher that could never work is refused where it is configured, or before the
// first hash is stored that would be called damaged later.
func TestFound13HashersThatCannotWork(t *testing.T) {
	quick := argon(t, apikey.Argon2idConfig{Memory: 7168, Time: 1})
	mc := apikey.ManagerConfig{Store: memstore.New(), Prefix: prefix, Catalog: catalog}
	for name, h := range map[string]apikey.Hasher{
		"no name": misnamed{quick, ""}, "a dollar": misnamed{quick, "argon2id$v"},
		"not made": &apikey.Argon2id{}, "HMAC not made": &apikey.HMACSHA256{}, "nil": (*apikey.Argon2id)(nil), "HMAC nil": (*apikey.HMACSHA256)(nil),
	} {
		mc.Hasher = h
		_, err := apikey.NewManager(background, mc)
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
		_, err = apikey.NewVerifier(background, apikey.VerifierConfig{Store: mc.Store, Prefix: prefix, Mode: apikey.Live, Hashers: []apikey.Hasher{h}})
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
	}
	mc.Hasher, mc.Peppers = hmacHasher(t, pepperOf(t, 1, 99)), []apikey.Pepper{pepper(t, 1)}
	_, err := apikey.NewManager(background, mc)
	require.ErrorIs(t, err, apikey.ErrPepper, "one slot, two peppers")

	mc.Hasher, mc.Peppers = misnamed{quick, "argon2"}, nil
	m, err := apikey.NewManager(background, mc)
	require.NoError(t, err, "its hashes are not known before it makes one")
	_, err = m.Issue(apikey.WithActor(context.Background(), admin), apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrInvalid)
	page, err := mc.Store.List(background, apikey.StoreFilter{})
	require.NoError(t, err)
	require.Empty(t, page.Records)
}

// outlet is a form of ability of the program's own, written like a scope.
type outlet string

func (s outlet) Allows(a apikey.Ability) bool { return a == apikey.Ability(s) }
func (s outlet) String() string               { return string(s) }

// A form of ability that the Manager gives to keys has to be known where they are
// verified: there it would be damage, or a scope of the same letters.
func TestFound13LocalCatalogHasTheForms(t *testing.T) {
	form := apikey.CatalogEntry{Parse: func(s string) (apikey.Ability, bool) { return outlet(s), strings.HasPrefix(s, "outlet:") }}
	forms := apikey.MustCatalog(form)
	for name, c := range map[string]struct {
		local *apikey.Catalog
		fits  bool
	}{
		"none":        {nil, false},
		"no forms":    {catalog, false},
		"the same":    {forms, true},
		"an equal":    {apikey.MustCatalog(form), true},
		"one of more": {apikey.MustCatalog(form, form), true},
	} {
		v, err := apikey.NewVerifier(background, apikey.VerifierConfig{Store: memstore.New(), Prefix: prefix, Mode: apikey.Live, Catalog: c.local, Sync: -1})
		require.NoError(t, err)
		_, err = apikey.NewManager(background, apikey.ManagerConfig{Store: memstore.New(), Prefix: prefix, Catalog: forms, Local: []*apikey.Verifier{v}})
		if c.fits {
			require.NoError(t, err, name)
		} else {
			require.ErrorIs(t, err, apikey.ErrInvalid, name)
			require.ErrorContains(t, err, "Catalog", name)
		}
		require.NoError(t, v.Close(background))
	}
}
