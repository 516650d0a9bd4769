package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// enum is what Mode, Kind and State have in common.
type enum[E any] interface {
	*E
	String() string
	MarshalText() ([]byte, error)
	UnmarshalText([]byte) error
}

func testEnum[E ~uint8, P enum[E]](t *testing.T, names map[E]string, what string) {
	for v := range 256 {
		e := E(v)
		name, known := names[e]
		text, err := P(&e).MarshalText()
		switch {
		case known:
			require.NoError(t, err)
			require.Equal(t, name, string(text))
			require.Equal(t, name, P(&e).String())
			var back E
			require.NoError(t, P(&back).UnmarshalText(text))
			require.Equal(t, e, back)
		case v == 0: // an Info that was never filled still prints, and is not read back
			require.NoError(t, err)
			require.Empty(t, text)
			require.Equal(t, what+"(0)", P(&e).String())
		default: // of a newer version: shown, and not read back
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%s(%d)", what, v), string(text))
			require.Equal(t, string(text), P(&e).String())
			require.ErrorIs(t, P(&e).UnmarshalText(text), apikey.ErrInvalid)
		}
	}
	for _, wrong := range []string{"", " ", "0", "1", "LIVE", "Live", "live ", "sk", "none", "active\x00", what, what + "(0)", what + "(1)", "signature"} {
		e := E(77)
		require.ErrorIs(t, P(&e).UnmarshalText([]byte(wrong)), apikey.ErrInvalid, "%q", wrong)
		require.Equal(t, E(77), e, "untouched after %q", wrong)
	}
}

func TestEnumsReadWhatTheyWrite(t *testing.T) {
	testEnum[apikey.Mode](t, map[apikey.Mode]string{apikey.Live: "live", apikey.Test: "test"}, "mode")
	testEnum[apikey.Kind](t, map[apikey.Kind]string{apikey.Secret: "secret", apikey.Publishable: "publishable"}, "kind")
	testEnum[apikey.State](t, map[apikey.State]string{apikey.Active: "active", apikey.Suspended: "suspended", apikey.Revoked: "revoked"}, "state")
}

// A forgotten field must not mean production.
func TestZeroAndForeignValuesAreRefused(t *testing.T) {
	e := newEnv(t)
	for _, mode := range []apikey.Mode{0, apikey.AnyMode, 3} {
		_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: mode})
		require.ErrorIs(t, err, apikey.ErrInvalid, mode)
		c := e.vc
		if c.Mode = mode; mode == apikey.AnyMode {
			continue
		}
		_, err = apikey.NewVerifier(t.Context(), e.settings, c)
		require.ErrorIs(t, err, apikey.ErrInvalid, mode)
	}
	for _, kind := range []apikey.Kind{apikey.Signature, apikey.SharedSecret, 5, 255} {
		_, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Kind: kind})
		require.ErrorIs(t, err, apikey.ErrInvalid, kind)
	}
}

func TestKeyIDHasOneSpelling(t *testing.T) {
	const text = "01890a5d-ac96-774b-bcce-b302099a8057"
	id, err := apikey.ParseKeyID(text)
	require.NoError(t, err)
	require.Equal(t, text, id.String())
	require.False(t, id.IsZero())
	require.True(t, apikey.KeyID{}.IsZero())
	for _, other := range []string{
		"", " ", strings.ToUpper(text), "{" + text + "}", "urn:uuid:" + text, "URN:UUID:" + text, strings.ReplaceAll(text, "-", ""), " " + text, text + " ", text + "\n",
		text[:35], text + "0", strings.Replace(text, "-", "_", 1), strings.Replace(text, "0", "O", 1), "01890a5da-c96-774b-bcce-b302099a8057", strings.Repeat("0", 1<<20),
	} {
		var back apikey.KeyID
		_, err := apikey.ParseKeyID(other)
		require.ErrorIs(t, err, apikey.ErrInvalid, "%.60q", other)
		require.ErrorIs(t, back.UnmarshalText([]byte(other)), apikey.ErrInvalid)
		require.True(t, back.IsZero())
	}
}

func TestCredentialIDHasOneSpelling(t *testing.T) {
	const text = "0fnhLPMkMgQqLbvDmOH4Wz"
	id, err := apikey.ParseCredentialID(text)
	require.NoError(t, err)
	require.Equal(t, text, id.String())
	for _, other := range []string{
		"", text[:21], text + "0", "0" + text, " " + text[1:], text[:21] + "-", text[:21] + "\n", text[:20] + "é", "7n42DGM5Tflk9n8mt7Fhc8", strings.Repeat("z", 22), strings.Repeat("z", 1<<20),
	} {
		var back apikey.CredentialID
		_, err := apikey.ParseCredentialID(other)
		require.ErrorIs(t, err, apikey.ErrInvalid, "%.60q", other)
		require.ErrorIs(t, back.UnmarshalText([]byte(other)), apikey.ErrInvalid)
		require.Zero(t, back)
	}
}

func TestIDsAreNewAndOfTheirVersion(t *testing.T) {
	const n = 2_000
	e := newEnv(t)
	keys, credentials := map[apikey.KeyID]bool{}, map[apikey.CredentialID]bool{}
	var last apikey.KeyID
	for i := range n {
		account := fmt.Sprint("acc_", i/50) // whose limit is 50 keys
		issued, err := e.manager.Issue(staff(), apikey.IssueRequest{Account: account, Mode: apikey.Test})
		require.NoError(t, err)
		key, credential := issued.Key.ID, issued.Token.Credential()
		keys[key], credentials[credential] = true, true
		require.Equal(t, byte(0x70), key[6]&0xF0, "UUID version 7")
		require.Equal(t, byte(0x40), credential[6]&0xF0, "UUID version 4")
		require.Less(t, last.String(), key.String(), "keys sort by age")
		last = key

		text, err := json.Marshal(map[string]any{"k": key, "c": credential})
		require.NoError(t, err)
		var back struct {
			K apikey.KeyID
			C apikey.CredentialID
		}
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, key, back.K)
		require.Equal(t, credential, back.C)
	}
	require.Len(t, keys, n)
	require.Len(t, credentials, n)
}

func TestViewJSON(t *testing.T) {
	for want, v := range map[string]any{
		`[]`:                                 apikey.View[int]{},
		`[ ]`:                                apikey.NewView[string](),
		`["payment:refund","balance=read"]`:  apikey.NewView[apikey.Ability](apikey.Scope("payment:refund"), apikey.Access{Product: "balance", Level: apikey.Read}),
		`["203.0.113.0/24","2001:db8::/32"]`: apikey.NewView(netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32")),
		`{}`:                                 apikey.Metadata{},
		`{"v":[],"m":{}}`: struct {
			V apikey.View[string] `json:"v"`
			M apikey.Metadata     `json:"m"`
		}{},
	} {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		require.JSONEq(t, want, string(b))
	}
}

func TestInfoJSON(t *testing.T) {
	e := newEnv(t)
	info := e.issue(fullRequest).Key
	b, err := json.Marshal(info)
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(b, &got))
	require.Equal(t, info.ID.String(), got["id"])
	require.Equal(t, "live", got["mode"])
	require.Equal(t, "secret", got["kind"])
	require.Equal(t, "active", got["state"])
	require.Equal(t, []any{"balance=read", "payment:refund"}, got["abilities"])
	require.Equal(t, map[string]any{"invoice": "7", "shop": "1"}, got["metadata"])
	require.Equal(t, []any{"203.0.113.0/24"}, got["networks"])
	require.Equal(t, []any{"https://shop.example"}, got["origins"])

	b, err = json.Marshal(apikey.Info{})
	require.NoError(t, err, "an Info that was never filled still prints")
	require.JSONEq(t, `{"name":"","account":"","recoverable":false,"version":0,"abilities":[],"metadata":{},"networks":[],"origins":[]}`, string(b))
}

func fullRequest(r *apikey.IssueRequest) {
	r.Abilities = []string{"payment:refund", "balance=read"}
	r.Metadata = map[string]string{"shop": "1", "invoice": "7"}
	r.Networks = []netip.Prefix{netip.MustParsePrefix("203.0.113.7/24")}
	r.Origins = []string{"https://shop.example"}
}

func TestFieldHasThreeStates(t *testing.T) {
	type request struct {
		Name     apikey.Field[string]            `json:"name,omitzero"`
		Months   apikey.Field[int]               `json:"months,omitzero"`
		Origins  apikey.Field[[]string]          `json:"origins,omitzero"`
		Metadata apikey.Field[map[string]string] `json:"metadata,omitzero"`
	}
	for text, want := range map[string]request{
		`{}`:                           {},
		`{"name":null}`:                {Name: apikey.Clear[string]()},
		`{"name":""}`:                  {Name: apikey.Set("")},
		`{"name":"shop"}`:              {Name: apikey.Set("shop")},
		`{"name":"null"}`:              {Name: apikey.Set("null")},
		`{"months":null}`:              {Months: apikey.Clear[int]()},
		`{"months":0}`:                 {Months: apikey.Set(0)},
		`{"months":6}`:                 {Months: apikey.Set(6)},
		`{"origins":null}`:             {Origins: apikey.Clear[[]string]()},
		`{"origins":[]}`:               {Origins: apikey.Set([]string{})},
		`{"metadata":null,"name":"n"}`: {Metadata: apikey.Clear[map[string]string](), Name: apikey.Set("n")},
		`{"metadata":{"shop":"1"}}`:    {Metadata: apikey.Set(map[string]string{"shop": "1"})},
	} {
		var got request
		require.NoError(t, json.Unmarshal([]byte(text), &got), text)
		require.Equal(t, want, got, text)
		back, err := json.Marshal(want)
		require.NoError(t, err)
		require.JSONEq(t, text, string(back))
	}
	for _, wrong := range []string{`{"name":1}`, `{"months":"6"}`, `{"months":1.5}`, `{"origins":"https://shop.example"}`, `{"metadata":[]}`} {
		var got request
		require.Error(t, json.Unmarshal([]byte(wrong), &got), wrong)
	}
	require.True(t, apikey.Field[int]{}.IsZero())
	require.False(t, apikey.Set(0).IsZero())
	require.False(t, apikey.Clear[int]().IsZero())
}

// Nothing that is passed in or handed out is shared: not with the key that is
// kept, not with the cache, not with other callers (run with -race).
func TestInfoSharesNothing(t *testing.T) {
	e := newEnv(t)
	var req apikey.IssueRequest
	issued := e.issue(func(r *apikey.IssueRequest) { fullRequest(r); req = *r })
	update := apikey.UpdateRequest{
		Key: issued.Key.ID, Name: apikey.Set("Shop"), Origins: apikey.Set([]string{"https://b.example", "https://a.example"}),
		Metadata: apikey.Set(map[string]string{"shop": "2", "invoice": "8"}),
	}
	origins, metadata := []string{"https://b.example", "https://a.example"}, map[string]string{"shop": "2", "invoice": "8"}
	update.Origins, update.Metadata = apikey.Set(origins), apikey.Set(metadata)
	updated, err := e.manager.Update(e.ctx, update)
	require.NoError(t, err)
	require.Equal(t, []string{"https://b.example", "https://a.example"}, origins, "sorting is done on a copy")
	key, err := e.verifier.Verify(t.Context(), issued.Token.Reveal(), fromTheShop)
	require.NoError(t, err)

	spoil(req.Abilities, req.Networks, req.Origins, origins)
	clear(req.Metadata)
	clear(metadata)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, info := range []apikey.Info{key.Info(), updated} {
				abilities, networks := slices.Collect(info.Abilities.All()), slices.Collect(info.Networks.All())
				spoil(slices.Collect(info.Origins.All()), networks, abilities)
				clear(maps.Collect(info.Metadata.All()))
				clear(slices.Collect(info.Credentials.All()))
				text, err := info.Metadata.MarshalJSON()
				if err != nil {
					t.Error(err)
				}
				clear(text)
			}
			if _, err := e.verifier.Verify(context.Background(), issued.Token.Reveal(), fromTheShop); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fetched, err := e.manager.Get(e.ctx, issued.Key.ID)
	require.NoError(t, err)
	for _, info := range []apikey.Info{key.Info(), updated, fetched} {
		require.Equal(t, []apikey.Ability{apikey.Access{Product: "balance", Level: apikey.Read}, apikey.Scope("payment:refund")}, slices.Collect(info.Abilities.All()))
		require.Equal(t, []string{"https://a.example", "https://b.example"}, slices.Collect(info.Origins.All()))
		require.Equal(t, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, slices.Collect(info.Networks.All()))
		require.Equal(t, map[string]string{"shop": "2", "invoice": "8"}, maps.Collect(info.Metadata.All()))
	}
	require.Equal(t, "1", issued.Key.Metadata.Get("shop"), "an older Info says what was true then")
}

var fromTheShop = apikey.Request{Addr: netip.MustParseAddr("203.0.113.9"), Origin: "https://a.example"}

// spoil overwrites every element of some slices.
func spoil(lists ...any) {
	for _, list := range lists {
		switch list := list.(type) {
		case []string:
			clear(list)
		case []netip.Prefix:
			clear(list)
		case []apikey.Ability:
			clear(list)
		}
	}
}

func TestNewViewCopies(t *testing.T) {
	items := []string{"a", "b"}
	v := apikey.NewView(items...)
	items[0] = "x"
	require.Equal(t, 2, v.Len())
	require.Equal(t, "a", v.At(0))
	require.Panics(t, func() { v.At(2) })
	for range v.All() { // breaking off is no panic
		break
	}
	var zero apikey.Metadata
	require.Zero(t, zero.Len())
	require.Empty(t, zero.Get("shop"))
	for range zero.All() {
		t.Fatal("the zero Metadata yields nothing")
	}
}

func TestKeyTravelsInTheContext(t *testing.T) {
	e := newEnv(t)
	key, err := e.verifier.Verify(t.Context(), e.issue().Token.Reveal(), apikey.Request{})
	require.NoError(t, err)
	_, ok := apikey.FromContext(t.Context())
	require.False(t, ok)
	got, ok := apikey.FromContext(apikey.NewContext(t.Context(), key))
	require.True(t, ok)
	require.Equal(t, key, got)
	_, ok = apikey.FromContext(apikey.NewContext(t.Context(), nil))
	require.False(t, ok, "a nil key is no key")
}

// Origins are compared as browsers write them, so a key's are brought to that
// form, and what no browser can send is refused when the key is made.
func TestOriginsHaveOneForm(t *testing.T) {
	for origin, want := range map[string]string{
		"https://shop.example": "https://shop.example", "https://SHOP.example": "https://shop.example", "HTTPS://shop.example": "https://shop.example",
		"https://shop.example:443": "https://shop.example", "http://shop.example:80": "http://shop.example", "https://shop.example:8443": "https://shop.example:8443",
		"https://shop.example:80": "https://shop.example:80", "http://[2001:db8::1]:8080": "http://[2001:db8::1]:8080", "https://[2001:db8::1]:443": "https://[2001:db8::1]",
		"http://[2001:db8::80]": "http://[2001:db8::80]", "http://localhost:3000": "http://localhost:3000", "capacitor://localhost": "capacitor://localhost",

		"": "", "null": "", "*": "", "https://*": "", "https://*.shop.example": "", "shop.example": "", "//shop.example": "", "://shop.example": "", "https:": "", "https://": "",
		"https:shop.example": "", "https://shop.example/": "", "https://shop.example/pay": "", "https://shop.example?x": "", "https://shop.example?": "", "https://shop.example#": "", "https://shop.example#x": "",
		"https://user@shop.example": "", "https://user:pw@shop.example": "", "https://@shop.example": "", "https://shop.example,https://b.example": "", "https://shop.example https://b.example": "",
		" https://shop.example": "", "https://shop.example ": "", "https://shop.example\n": "", "https://shöp.example": "", "https://shop.example:": "", "https://shop.example:x": "", "https://:443": "",
		"https://shop.example\x00": "", "https://" + strings.Repeat("a", 300): "",
	} {
		e := newEnv(t)
		issued, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Origins: []string{origin}})
		if want == "" {
			require.ErrorIs(t, err, apikey.ErrInvalid, "%q", origin)
			continue
		}
		require.NoError(t, err, "%q", origin)
		require.Equal(t, want, issued.Key.Origins.At(0))
		for _, sent := range []string{origin, want} {
			_, err = e.verifier.Verify(t.Context(), issued.Token.Reveal(), apikey.Request{Origin: sent})
			require.NoError(t, err, "%q sent to %q", sent, want)
		}
		for _, sent := range []string{"", "null", "https://evil.example", want + ".evil.example", "https://evil.example#" + want, want + "/", want + "@evil.example", "https://evil.example?" + want} {
			_, err = e.verifier.Verify(t.Context(), issued.Token.Reveal(), apikey.Request{Origin: sent})
			require.ErrorIs(t, err, apikey.ErrOrigin, "%q sent to %q", sent, want)
		}
	}
}

// The dates of an Info are UTC and whole microseconds, whatever zone and
// precision they were given in.
func TestInfoTimes(t *testing.T) {
	e := newEnv(t)
	expires := e.clock.now().In(time.FixedZone("WIB", 7*3600)).Add(time.Hour + 999*time.Nanosecond)
	info := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt, r.RotateMonths = expires, 6 }).Key
	for _, at := range []time.Time{info.CreatedAt, info.ExpiresAt, info.RotateDue} {
		require.Equal(t, time.UTC, at.Location())
		require.Zero(t, at.Nanosecond()%1000)
	}
	require.WithinDuration(t, expires, info.ExpiresAt, time.Microsecond)
	require.Equal(t, info.CreatedAt.AddDate(0, 6, 0), info.RotateDue)
	require.True(t, info.RevokedAt.IsZero())
	require.True(t, info.LastUsed.IsZero())
}

// What a program's own tests make of a map is a copy, in one order.
func TestNewMetadata(t *testing.T) {
	source := map[string]string{"shop": "7", "branch": "north"}
	m := apikey.NewMetadata(source)
	source["shop"] = "8"
	require.Equal(t, "7", m.Get("shop"))
	require.Empty(t, m.Get("till"))
	require.Equal(t, 2, m.Len())
	var names []string
	for name := range m.All() {
		names = append(names, name)
	}
	require.Equal(t, []string{"branch", "shop"}, names)
	text, err := json.Marshal(m)
	require.NoError(t, err)
	require.JSONEq(t, `{"shop": "7", "branch": "north"}`, string(text))
	require.Zero(t, apikey.NewMetadata(nil).Len())
}
