package apitest

import (
	"encoding/json"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// readsBack writes a value and reads it again.
func readsBack[T any](t *testing.T, v, want T) (text string) {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	checkMembers(t, b)
	var back T
	require.NoError(t, json.Unmarshal(b, &back), "%s", b)
	require.Empty(t, difference(reflect.ValueOf(&want), reflect.ValueOf(&back), ""), "%s", b)
	return string(b)
}

// asRead is an Info as it reads back: without the slots of the peppers.
func asRead(info apikey.Info) apikey.Info {
	credentials := slices.Collect(info.Credentials.All())
	for i := range credentials {
		credentials[i].Pepper = 0
	}
	info.Credentials = apikey.NewView(credentials...)
	return info
}

// What a program with a life gives, and not only what a test has made up.
func TestRealAnswersReadBack(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		bare := e.issue(func(r *apikey.IssueRequest) { r.Name, r.Abilities = "", nil }).Key
		readsBack(t, bare, asRead(bare))
		key := e.issue(fullRequest, func(r *apikey.IssueRequest) { r.RotateMonths, r.ExpiresAt = 3, e.clock.now().Add(time.Hour) })
		next, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.Key.ID, Overlap: time.Minute})
		require.NoError(t, err)
		issued := next
		issued.Token, issued.Key = apikey.Token{}, asRead(next.Key)
		text := readsBack(t, next, issued)
		require.Contains(t, text, next.Token.String(), "redacted")
		verified, err := e.verifier.Verify(t.Context(), next.Token.Reveal(), fromOne)
		require.NoError(t, err)
		require.NotContains(t, readsBack(t, verified.Info(), verified.Info()), "credentials")
		require.NoError(t, e.verifier.Close(t.Context())) // writes the last use
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.Key.ID}))

		page, err := e.manager.List(e.ctx, apikey.ListRequest{Limit: 1})
		require.NoError(t, err)
		require.NotEmpty(t, page.Next)
		read := page
		read.Keys = []apikey.Info{asRead(page.Keys[0])}
		require.Contains(t, readsBack(t, page, read), `"last_used"`)
		page, err = e.manager.List(e.ctx, apikey.ListRequest{NameContains: "nothing"})
		require.NoError(t, err)
		require.Equal(t, `{"data":[]}`, readsBack(t, page, page))

		log, err := e.manager.Events(e.ctx, apikey.EventsRequest{Limit: 3})
		require.NoError(t, err)
		readsBack(t, log, log)
		log, err = e.manager.Events(apikey.WithActor(t.Context(), apikey.Actor{ID: "usr_9", Account: "acc_9", Role: "admin"}), apikey.EventsRequest{})
		require.NoError(t, err)
		require.Equal(t, `{"data":[]}`, readsBack(t, log, log))
		report, err := e.manager.VerifyEvents(e.ctx, key.Key.ID)
		require.NoError(t, err)
		require.Equal(t, `{"events":3,"unverifiable":0}`, readsBack(t, report, report))
		revoked, err := e.manager.RevokeAll(e.ctx, apikey.RevokeAllRequest{All: true})
		require.NoError(t, err)
		require.Equal(t, `{"revoked":1}`, readsBack(t, revoked, revoked))
	})
}

var fromOne = apikey.Request{Addr: netip.MustParseAddr("203.0.113.9"), Origin: "https://shop.example"}

// Only the text of a publishable token is in any JSON, and the page of a merchant needs
// no other source for it.
func TestPublishableTokensAreWhole(t *testing.T) {
	e := newEnv(t)
	made, err := e.manager.Provision(e.ctx, apikey.ProvisionRequest{Abilities: []string{"card:tokenise"}})
	require.NoError(t, err)
	text := readsBack(t, made, apikey.Provisioned{
		Live: apikey.Issued{Token: made.Live.Token, Key: asRead(made.Live.Key)}, Test: apikey.Issued{Token: made.Test.Token, Key: asRead(made.Test.Key)},
	})
	for _, issued := range []apikey.Issued{made.Live, made.Test} {
		require.Equal(t, 2, strings.Count(text, issued.Token.Reveal()), "the answer and the key have it")
		require.NotContains(t, issued.Token.String(), issued.Token.Reveal())
		b, err := issued.Token.MarshalText()
		require.NoError(t, err)
		require.Equal(t, issued.Token.String(), string(b), "elsewhere it prints redacted")
	}
	// A secret token at the place of a publishable one, and text that is no token.
	secret := e.issue().Token
	b, err := json.Marshal(apikey.CredentialInfo{Public: secret})
	require.NoError(t, err)
	require.Contains(t, string(b), secret.String())
	require.NotContains(t, string(b), secret.Reveal()[20:40])
}

func TestTokenReadsItsText(t *testing.T) {
	e := newEnv(t)
	token := e.issue().Token
	var read struct{ T apikey.Token }
	require.NoError(t, json.Unmarshal([]byte(`{"T":"`+token.Reveal()+`"}`), &read), "an answer that shows the token once")
	require.Equal(t, token.Reveal(), read.T.Reveal())
	for _, none := range []string{``, token.String(), `…`} {
		read.T = token
		require.NoError(t, json.Unmarshal([]byte(`{"T":"`+none+`"}`), &read))
		require.True(t, read.T.IsZero(), none)
	}
	for _, wrong := range []string{`"x"`, `" "`, `"` + token.Reveal()[1:] + `"`, `"` + token.Reveal() + `\n"`} {
		read.T = token
		err := json.Unmarshal([]byte(`{"T":`+wrong+`}`), &read)
		require.ErrorIs(t, err, apikey.ErrInvalidToken)
		require.NotContains(t, err.Error(), token.Reveal()[20:40])
		require.True(t, read.T.IsZero())
	}
	require.Error(t, json.Unmarshal([]byte(`{"T":7}`), &read))
}

func TestViewsReadArrays(t *testing.T) {
	var v apikey.View[string]
	require.NoError(t, json.Unmarshal([]byte(`["a","b"]`), &v))
	shared := v
	require.Equal(t, apikey.NewView("a", "b"), v)
	require.NoError(t, json.Unmarshal([]byte(`["c"]`), &v))
	require.Equal(t, "a", shared.At(0), "what was handed out does not change")
	for _, empty := range []string{`[]`, `null`} {
		v = shared
		require.NoError(t, json.Unmarshal([]byte(empty), &v))
		require.Equal(t, apikey.View[string]{}, v, empty)
	}
	for _, wrong := range []string{`"a"`, `{}`, `[1]`, `7`} {
		v = shared
		require.Error(t, json.Unmarshal([]byte(wrong), &v), wrong)
		require.Equal(t, shared, v, wrong)
	}

	m := apikey.NewMetadata(map[string]string{"a": "1"})
	before := m
	require.NoError(t, json.Unmarshal([]byte(`{"b":"2"}`), &m))
	require.Equal(t, map[string]string{"b": "2"}, maps.Collect(m.All()), "replaced, not merged")
	require.Equal(t, "1", before.Get("a"))
	for _, empty := range []string{`{}`, `null`} {
		m = before
		require.NoError(t, json.Unmarshal([]byte(empty), &m))
		require.Equal(t, apikey.Metadata{}, m, empty)
	}
	require.Error(t, json.Unmarshal([]byte(`{"a":1}`), &m))
	require.Equal(t, apikey.Metadata{}, apikey.NewMetadata(map[string]string{}))
	require.Equal(t, apikey.View[string]{}, apikey.NewView([]string{}...))
}

// Which forms a program's own abilities have only its Catalog knows.
func TestAbilitiesReadTheBuiltInForms(t *testing.T) {
	var held apikey.Abilities
	require.NoError(t, json.Unmarshal([]byte(`["payment:*","balance=read"]`), &held))
	require.Equal(t, apikey.NewView[apikey.Ability](apikey.Scope("payment:*"), apikey.Access{Product: "balance", Level: apikey.Read}), held)
	for _, wrong := range []string{`["region/id"]`, `["payment:refund","x"]`, `[""]`, `[null]`, `["balance=none"]`, `["` + strings.Repeat("x:", 1<<16) + `"]`} {
		before := held
		err := json.Unmarshal([]byte(wrong), &held)
		require.ErrorIs(t, err, apikey.ErrInvalid, "%.40s", wrong)
		require.ErrorContains(t, err, "Catalog.ParseInfo")
		require.Less(t, len(err.Error()), 400)
		require.Equal(t, before, held)
	}
	for _, wrong := range []string{`[1]`, `"payment:refund"`, `{}`} {
		require.Error(t, json.Unmarshal([]byte(wrong), &held), wrong)
	}

	var scope apikey.Scope
	require.NoError(t, json.Unmarshal([]byte(`"payment:refund"`), &scope))
	require.Equal(t, apikey.Scope("payment:refund"), scope)
	require.ErrorIs(t, json.Unmarshal([]byte(`"Payment"`), &scope), apikey.ErrInvalid)
	var access apikey.Access
	require.NoError(t, json.Unmarshal([]byte(`"balance=write"`), &access))
	require.Equal(t, apikey.Access{Product: "balance", Level: apikey.Write}, access)
	require.ErrorIs(t, json.Unmarshal([]byte(`"balance"`), &access), apikey.ErrInvalid)

	_, err := json.Marshal(apikey.NewView[apikey.Ability](nil))
	require.ErrorIs(t, err, apikey.ErrInvalid)
}

// A form of the program's own is written as its text, whatever Go type it is, and read
// with the Catalog that has it.
func TestParseInfo(t *testing.T) {
	c := apikey.MustCatalog(append(catalog.Entries(), apikey.CatalogEntry{Parse: parseRegion})...)
	e := newEnv(t, func(e *env) { e.settings.Catalog = c })
	info := e.issue(fullRequest, func(r *apikey.IssueRequest) { r.Abilities = append(r.Abilities, "region/id") }).Key
	text, err := json.Marshal(info)
	require.NoError(t, err)
	require.Contains(t, string(text), `"region/id"`)
	var plain apikey.Info
	require.ErrorIs(t, json.Unmarshal(text, &plain), apikey.ErrInvalid)

	back, err := c.ParseInfo(text)
	require.NoError(t, err)
	want := asRead(info)
	require.Empty(t, difference(reflect.ValueOf(&want), reflect.ValueOf(&back), ""))
	require.Equal(t, region("id"), back.Abilities.At(2))
	_, err = catalog.ParseInfo(text)
	require.ErrorIs(t, err, apikey.ErrInvalid, "a catalog without the form")

	for _, c := range []*apikey.Catalog{c, catalog, nil} {
		back, err := c.ParseInfo([]byte(`{"abilities":["payout:create"],"of_a_newer_version":1}`))
		require.NoError(t, err, "a stored key may hold what the catalog has dropped")
		require.Equal(t, apikey.Info{Abilities: apikey.NewView[apikey.Ability](apikey.Scope("payout:create"))}, back)
		for _, empty := range []string{`{}`, `{"abilities":null}`, `{"abilities":[]}`} {
			back, err = c.ParseInfo([]byte(empty))
			require.NoError(t, err)
			require.Equal(t, apikey.Info{}, back, empty)
		}
		for _, wrong := range []string{``, `[]`, `{"abilities":"payment:refund"}`, `{"abilities":[7]}`, `{"name":7}`, `{} {}`} {
			back, err = c.ParseInfo([]byte(wrong))
			require.Error(t, err, wrong)
			require.Equal(t, apikey.Info{}, back)
		}
	}
}

// An Actor says whether it is an Operator, and nothing that reads it makes it one.
func TestOperatorIsSaidAndNeverRead(t *testing.T) {
	text, err := json.Marshal(apikey.Operator("ops_1"))
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"ops_1","role":"operator","operator":true}`, string(text))
	text, err = json.Marshal(admin)
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"usr_1","account":"acc_1","role":"admin"}`, string(text))

	for _, into := range []apikey.Actor{{}, admin, apikey.Operator("ops_1")} {
		for _, text := range []string{`{"operator":true}`, `{"Operator":true,"OPERATOR":true,"holder":true}`, `{}`, `null`, `{"id":"ops_1","operator":true}`} {
			read := into
			require.NoError(t, json.Unmarshal([]byte(text), &read))
			require.False(t, read.IsOperator(), "%s into %+v", text, into)
		}
		read := into
		require.NoError(t, json.Unmarshal([]byte(`{"request_id":"r"}`), &read))
		require.Equal(t, into.ID, read.ID, "a member that is absent keeps")
		require.Equal(t, "r", read.RequestID)
	}
	var ev apikey.Event
	require.NoError(t, json.Unmarshal([]byte(`{"actor":{"id":"ops_1","operator":true}}`), &ev))
	require.False(t, ev.Actor.IsOperator())
	require.Error(t, json.Unmarshal([]byte(`{"actor":"ops_1"}`), &ev))
}

// A page of keys may be sent to the merchant: of a damaged key it says the ID alone.
func TestDamagedKeysInJSON(t *testing.T) {
	e := newEnv(t)
	key := e.issue().Key
	stored, err := e.store.Get(background, key.ID)
	require.NoError(t, err)
	stored.Version++
	stored.MAC[1] ^= 1
	event := apikey.StoreEvent{ID: apikey.EventID(storetest.NewKeyID()), Time: stored.CreatedAt, Account: stored.Account, Key: stored.ID, Seq: 2}
	require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: event.ID, Record: &stored, Event: &event}))
	list, err := e.manager.List(e.ctx, apikey.ListRequest{})
	require.NoError(t, err)
	require.Len(t, list.Damaged, 1)
	require.NotEmpty(t, list.Damaged[0].Detail)
	list.Damaged[0].Account = "acc_1"
	b, err := json.Marshal(list)
	require.NoError(t, err)
	require.JSONEq(t, `{"data":[],"damaged":[{"key":"`+key.ID.String()+`"}]}`, string(b))
}
