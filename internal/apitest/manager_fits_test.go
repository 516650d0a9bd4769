package apitest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/canon"
	"github.com/go-apikey/apikey/memstore"
)

// The Verifier of another process has to read what the Manager hashes. It may hash it
// anew: while better parameters are deployed, some process has them first.
func TestFound13HashersOfProcessesFit(t *testing.T) {
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
		{"hashes anew what is cheaper", quick, list(usual), false, ""},
		{"hashes anew by default", quick, nil, false, ""},

		{"cannot afford to read", heavy, list(quick), false, "reads the"},
		{"HMAC of another pepper", hmac1, list(hmac2), false, "reads the"},
		{"HMAC of another key in the slot", hmac1, list(hmacHasher(t, pepperOf(t, 1, 99))), false, "reads the"},
		{"no HMAC", hmac1, list(quick), false, `reads the "hmac-sha256"`},
		{"no argon2", quick, list(hmac1), false, `reads the "argon2id"`},
	} {
		settings := apikey.Settings{Store: memstore.New(), Prefix: prefix, Catalog: catalog}
		if c.minting != nil {
			settings.Hashers = list(c.minting)
		}
		_, err := apikey.NewManager(background, settings, apikey.ManagerConfig{})
		require.NoError(t, err, c.name)
		settings.Hashers = c.local
		v, err := apikey.NewVerifier(background, settings, apikey.VerifierConfig{Mode: apikey.Live, ReadOnly: c.readOnly, Sync: -1})
		if c.why != "" {
			require.ErrorIs(t, err, apikey.ErrInvalid, c.name)
			require.ErrorContains(t, err, c.why, c.name)
			continue
		}
		require.NoError(t, err, c.name)
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
	s := apikey.Settings{Store: memstore.New(), Prefix: prefix, Catalog: catalog}
	for name, h := range map[string]apikey.Hasher{
		"no name": misnamed{quick, ""}, "a dollar": misnamed{quick, "argon2id$v"},
		"not made": &apikey.Argon2id{}, "HMAC not made": &apikey.HMACSHA256{}, "nil": (*apikey.Argon2id)(nil), "HMAC nil": (*apikey.HMACSHA256)(nil),
	} {
		s.Hashers = []apikey.Hasher{h}
		_, err := apikey.NewManager(background, s, apikey.ManagerConfig{})
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
		_, err = apikey.NewVerifier(background, s, apikey.VerifierConfig{Mode: apikey.Live})
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
	}
	s.Hashers, s.Peppers = []apikey.Hasher{hmacHasher(t, pepperOf(t, 1, 99))}, []apikey.Pepper{pepper(t, 1)}
	_, err := apikey.NewManager(background, s, apikey.ManagerConfig{})
	require.ErrorIs(t, err, apikey.ErrPepper, "one slot, two peppers")

	s.Hashers, s.Peppers = []apikey.Hasher{misnamed{quick, "argon2"}}, nil
	m, err := apikey.NewManager(background, s, apikey.ManagerConfig{})
	require.NoError(t, err, "its hashes are not known before it makes one")
	_, err = m.Issue(apikey.WithActor(context.Background(), admin), apikey.IssueRequest{Mode: apikey.Live})
	require.ErrorIs(t, err, apikey.ErrInvalid)
	page, err := s.Store.List(background, apikey.StoreFilter{})
	require.NoError(t, err)
	require.Empty(t, page.Records)
}

// Without a pepper, and with AcceptUntagged, anybody who writes to the database can have
// stored Settings. What no Manager stores counts as missing, and a Manager replaces it with
// an item that never expires.
func TestSettingsThatNoManagerStores(t *testing.T) {
	note := func(e *env) apikey.StoreItem {
		page, err := e.store.Items(background, apikey.StoreItemFilter{Kind: "settings", ID: "managers"})
		require.NoError(t, err)
		require.Len(t, page.Items, 1)
		return page.Items[0]
	}
	for i, texts := range [][]string{{prefix, "", ""}, {prefix, "$", ""}, {prefix, "x", ""}, {prefix, "x$argon2id$", ""}, {"Not a prefix\n", "$argon2id$x", ""}} {
		for name, option := range map[string]func(*env){"no pepper": noPepper, "AcceptUntagged": func(e *env) { e.settings.AcceptUntagged = true }} {
			e := newEnv(t, option)
			genuine := note(e)
			var data canon.Writer
			for _, text := range append([]string{"apikey settings v1"}, texts...) {
				data.Text(text)
			}
			forged := apikey.StoreItem{
				Kind: genuine.Kind, ID: genuine.ID, Version: genuine.Version + 1, SealedKEK: "kek",
				ExpiresAt: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), Data: append([]byte{0}, data.Encoded()...),
			}
			require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: apikey.EventID{1, byte(i)}, Items: []apikey.StoreItem{forged}}))
			e.newVerifier()
			e.newManager()
			genuine.Version += 2
			require.Equal(t, genuine, note(e), "%s, %q", name, texts)
		}
	}
}
