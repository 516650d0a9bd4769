package apitest

import (
	"context"
	"database/sql"
	"encoding/base32"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/internal/base62"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// leakEnv is a program at work: a key was issued and its token verified, so
// that caches are warm, and the secrets are known to a detector.
type leakEnv struct {
	*env
	detector
	token  apikey.Token
	issued apikey.Issued
	id     apikey.KeyID
	live   apikey.Key
	key    [32]byte // of the pepper
	pepper apikey.Pepper
	// Of a step-up: what was granted, scanned and mailed.
	grant      apikey.Grant
	enrollment apikey.Enrollment
	mail       apikey.Message
	kek        *apikey.LocalKEK
	known      map[reflect.Type]reflect.Value
}

func newLeakEnv(t *testing.T, options ...func(*env)) *leakEnv {
	t.Helper()
	k := &leakEnv{}
	copy(k.key[:], base62.AppendRandom(nil, len(k.key))) // printable, so that no escaping hides it
	var err error
	var mailer *factors
	k.pepper, err = apikey.NewPepper(1, k.key)
	require.NoError(t, err)
	k.env = newEnv(t, append([]func(*env){func(e *env) {
		e.settings.Peppers = []apikey.Pepper{k.pepper}
		e.settings.Hashers = []apikey.Hasher{hmacHasher(t, k.pepper)}
		e.settings.Hashers = []apikey.Hasher{e.settings.Hashers[0], argon(t, apikey.Argon2idConfig{})}
		e.vc.ReadOnly = true // nothing runs in the background while reflection reads
		var kekKey [32]byte
		copy(kekKey[:], base62.AppendRandom(nil, len(kekKey)))
		k.learn("KEK", kekKey[:])
		k.kek, err = apikey.NewLocalKEK("kek-1", kekKey[:])
		require.NoError(t, err)
		e.mc.KEKs = []apikey.KEK{k.kek}
		e.mc.StepUp = apikey.GuardRevealAndRotate("email")
		f := &factors{t: t, clock: e.clock}
		e.mc.Factors = f.all(k.pepper)
		mailer = f
	}}, options...)...)
	k.issued = k.issue(fullRequest)
	k.token, k.id = k.issued.Token, k.issued.Key.ID
	k.live, err = k.verifier.Verify(t.Context(), k.token.Reveal(), apikey.Request{Addr: fromTheShop.Addr, Origin: "https://shop.example"})
	require.NoError(t, err)

	k.stepUp(mailer)
	k.learn("token", []byte(secretOf(k.token.Reveal())))
	k.learn("pepper", k.key[:])
	for _, purpose := range []string{"tag", "proof", "hash", "code", "row", "event", "item", "mark"} {
		k.learn("subkey "+purpose, subkey(t, k.key, purpose))
	}
	return k
}

// stepUp enrols an authenticator, approved by a code that was mailed, and holds
// an open grant.
func (k *leakEnv) stepUp(f *factors) {
	k.t.Helper()
	req := apikey.EnrollRequest{Factor: "totp"}
	req.Grant = k.approve(f, k.ctx, "email", req)
	k.mail = f.mails[0].Message
	var err error
	k.enrollment, err = k.manager.Enroll(k.ctx, req)
	require.NoError(k.t, err)
	u, err := url.Parse(k.enrollment.URI())
	require.NoError(k.t, err)
	k.learn("seed in base32", []byte(u.Query().Get("secret")))
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(u.Query().Get("secret"))
	require.NoError(k.t, err)
	k.learn("seed", seed)
	k.grant = k.approve(f, k.ctx, "email", apikey.RotateRequest{Key: k.id})
	k.learn("grant", []byte(k.grant.Reveal()))
	k.learn("mail", []byte("Your code is "+f.mails[0].code(k.t)))
}

// rows fills a value of every exported type of every package.
func (k *leakEnv) rows() map[string][]leakRow {
	k.t.Helper()
	k.know()
	return map[string][]leakRow{
		".":         append(append(k.secretRows(), k.recordRows()...), k.requestRows()...),
		"memstore":  {rowOf(k.store.(*memstore.Store))},
		"storetest": {filled(k, storetest.Backend{})},
		"httpauth":  k.guardRows(),
		"sqlstore":  k.sqlRows(),
	}
}

// secretRows are the types that have a secret inside.
func (k *leakEnv) secretRows() []leakRow {
	return []leakRow{
		rowOf(k.token), rowOf(k.pepper), rowOf(k.manager), rowOf(k.verifier), rowOf(k.manager.Tx(unsaid{k.store})),
		rowOf(k.settings.Hashers[0].(*apikey.HMACSHA256)), rowOf(k.settings.Hashers[1].(*apikey.Argon2id)), rowOf(k.live),
		filled(k, k.settings), filled(k, k.mc), filled(k, k.vc), rowOf(k.settings), rowOf(k.mc), rowOf(k.vc),
		rowOf(apikey.NewView(k.token)), rowOf(apikey.NewView(k.pepper)), rowOf(apikey.NewView[any](k.token, k.pepper)),
		rowOf(apikey.Set(k.token)), rowOf(apikey.Set(k.pepper)), rowOf(apikey.Set(map[string]apikey.Token{"t": k.token})),
		filled(k, k.issued), filled(k, apikey.Provisioned{}), filled(k, apikey.CredentialInfo{}),
		rowOf(k.grant), rowOf(k.enrollment), rowOf(k.mail), filled(k, apikey.Revealed{}), rowOf(k.kek),
		rowOf(k.mc.Factors["totp"].(*apikey.TOTP)), rowOf(k.mc.Factors["email"].(*apikey.EmailCode)), rowOf(k.mc.Factors["password"].(*apikey.Password)),
		filled(k, apikey.RevealRequest{}), filled(k, apikey.EnrollRequest{}), filled(k, apikey.DisableRequest{}),
		rowOf(apikey.GuardRotate("totp")),
	}
}

// recordRows are what the store holds and what describes it, taken from the
// program where it has one.
func (k *leakEnv) recordRows() []leakRow {
	ctx := context.Background()
	record, err := k.store.Get(ctx, k.id)
	require.NoError(k.t, err)
	page, err := k.store.List(ctx, apikey.StoreFilter{})
	require.NoError(k.t, err)
	changes, err := k.store.Changed(ctx, "", 10)
	require.NoError(k.t, err)
	events, err := k.store.Events(ctx, apikey.StoreEventFilter{})
	require.NoError(k.t, err)
	items, err := k.store.Items(ctx, apikey.StoreItemFilter{Kind: "pepper"})
	require.NoError(k.t, err)
	list, err := k.manager.List(k.ctx, apikey.ListRequest{})
	require.NoError(k.t, err)
	log, err := k.manager.Events(k.ctx, apikey.EventsRequest{})
	require.NoError(k.t, err)
	report, err := k.manager.VerifyEvents(k.ctx, k.id)
	require.NoError(k.t, err)
	return []leakRow{
		filled(k, record), filled(k, record.Credentials[0]), filled(k, page), filled(k, changes), filled(k, events),
		filled(k, events.Events[0]), filled(k, items), filled(k, items.Items[0]), filled(k, apikey.StoreChange{Record: &record}),
		filled(k, k.live.Info()), filled(k, list), filled(k, log), filled(k, log.Events[0]), filled(k, report), filled(k, apikey.BrokenLink{}),
		rowOf(k.live.Info().Metadata), filled(k, apikey.StoreUpkeep{OldHash: record.Credentials[0].Hash}),
		filled(k, apikey.VerifiedTrace{Key: k.live}), filled(k, apikey.CorruptError{}), filled(k, apikey.AbilityError{}),
		filled(k, apikey.InvalidError{}), rowOf(apikey.InvalidPast), filled(k, apikey.LimitError{}), filled(k, apikey.VersionError{}),
		rowOf(k.id), rowOf(k.token.Credential()), rowOf(log.Events[0].ID), rowOf(k.token.Mode()), rowOf(k.token.Kind()), rowOf(apikey.Active),
		rowOf(log.Events[0].Outcome), rowOf(log.Events[0].Action), rowOf(apikey.ReasonUnused),
		rowOf(apikey.DoubtFailed), rowOf(apikey.StatusActive),
		rowOf(items.Items[0].Kind), rowOf(changes.Next),
		rowOf(k.manager.Rules()), filled(k, apikey.Rules{}), filled(k, apikey.TokenHead{}), filled(k, apikey.Guard{}), filled(k, apikey.FactorRule{}),
	}
}

// requestRows are what a program asks with.
func (k *leakEnv) requestRows() []leakRow {
	return []leakRow{
		filled(k, apikey.IssueRequest{}), filled(k, apikey.ProvisionRequest{}), filled(k, apikey.ListRequest{}),
		filled(k, apikey.UpdateRequest{}), filled(k, apikey.ResumeRequest{}),
		filled(k, apikey.RotateRequest{}), filled(k, apikey.RetireRequest{}),
		filled(k, apikey.RevokeRequest{}),
		filled(k, apikey.RevokeAllRequest{}), filled(k, apikey.RevokedAll{}), filled(k, apikey.EventsRequest{}),
		filled(k, apikey.Request{}), filled(k, apikey.Actor{}), rowOf(apikey.Operator("ops")),
		filled(k, apikey.StoreFilter{}), filled(k, apikey.StoreEventFilter{}), filled(k, apikey.StoreItemFilter{}), filled(k, apikey.Limits{}),
		filled(k, apikey.RolePolicy{}), filled(k, apikey.Argon2idConfig{}), filled(k, apikey.Trace{}), filled(k, apikey.CatalogEntry{}),
		filled(k, apikey.AllowEnrollmentRequest{}), filled(k, apikey.LiftLockRequest{}),
		filled(k, apikey.Challenge{}), filled(k, apikey.ChallengeError{}), filled(k, apikey.ApprovalError{}), rowOf(apikey.ApprovalUsed), filled(k, apikey.AttemptsError{}), filled(k, apikey.WrongAnswerError{}),
		rowOf(catalog), rowOf(apikey.Scope("payment:refund")), rowOf(apikey.Read), filled(k, apikey.Access{}),
	}
}

// guardRows have seen a request with the token.
func (k *leakEnv) guardRows() []leakRow {
	guard := httpauth.New(k.verifier, httpauth.Config{})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+k.token.Reveal())
	_, err := guard.Check(r)
	require.ErrorIs(k.t, err, apikey.ErrAddr) // proven, and then denied
	return []leakRow{rowOf(guard), filled(k, httpauth.Config{}), filled(k, httpauth.Denial{}), filled(k, httpauth.Problem{}), filled(k, httpauth.WrongField{})}
}

// sqlRows are of a database that holds the key.
func (k *leakEnv) sqlRows() []leakRow {
	db, err := sql.Open("sqlite", "file::memory:?_pragma=busy_timeout(5000)&_txlock=immediate")
	require.NoError(k.t, err)
	k.t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	store, err := sqlstore.New(db, sqlstore.SQLite)
	require.NoError(k.t, err)
	require.NoError(k.t, store.Migrate(context.Background()))
	m := k.newManager(func(c *managerConfig) { c.Store = store })
	_, err = m.Issue(k.ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(k.t, err)
	return []leakRow{rowOf(store), rowOf(sqlstore.SQLite)}
}

// filled gives every exported field that is zero a value, with secrets
// wherever a type can have them, so that no field of a row stays unseen.
func filled[T any](k *leakEnv, v T) leakRow {
	k.t.Helper()
	k.fill(reflect.ValueOf(&v).Elem(), reflect.TypeFor[T]().String())
	return rowOf(v)
}

func (k *leakEnv) fill(v reflect.Value, where string) {
	k.t.Helper()
	if known, ok := k.known[v.Type()]; ok && v.IsZero() {
		v.Set(known)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				k.fill(v.Field(i), where+"."+f.Name)
			}
		}
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
			k.fill(v.Elem(), where)
		}
	case reflect.Slice:
		if v.IsNil() {
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		}
		for i := range v.Len() {
			k.fill(v.Index(i), where)
		}
	case reflect.Array:
		for i := range v.Len() {
			k.fill(v.Index(i), where)
		}
	case reflect.Func:
		v.Set(reflect.MakeFunc(v.Type(), func([]reflect.Value) []reflect.Value { panic("only printed") }))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("x" + v.String())
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() | 1)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(v.Uint() | 1)
	}
	if v.IsZero() {
		k.t.Fatalf("%s: no value is known for type %s", where, v.Type())
	}
}

// know collects values of the types that fill cannot make.
func (k *leakEnv) know() {
	k.known = map[reflect.Type]reflect.Value{}
	for _, v := range []any{
		k.token, k.pepper, k.grant, k.kek, k.mail, k.verifier, k.manager, catalog, slog.New(slog.DiscardHandler),
		time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParseAddr("203.0.113.7"),
		k.live.Info().Abilities, k.live.Info().Metadata, k.live.Info().Networks, k.live.Info().Origins,
		apikey.NewView(apikey.CredentialInfo{ID: k.token.Credential(), Public: k.token}),
		apikey.Set("x"), apikey.Set([]string{"x"}), apikey.Set(time.Unix(0, 0)), apikey.Set([]netip.Prefix{{}}), apikey.Set(map[string]string{"x": "y"}),
		apikey.Set(6), apikey.Set(true), map[string]string{"x": "y"},
	} {
		k.known[reflect.TypeOf(v)] = reflect.ValueOf(v)
	}
	learnAs(k, k.store)
	learnAs(k, k.settings.Hashers[0])
	learnAs(k, k.mc.Factors)
	learnAs[apikey.KEK](k, k.kek)
	learnAs(k, k.mc.StepUp)
	learnAs[apikey.Policy](k, apikey.RolePolicy{})
	learnAs[apikey.Standing](k, standing(func(string, apikey.Mode) error { return nil }))
	learnAs[apikey.Notifier](k, &bell{})
	learnAs[apikey.Ability](k, apikey.Scope("payment:refund"))
	learnAs(k, k.live)
	learnAs(k, errors.New("x"))
	learnAs(k, httpauth.Bearer())
	learnAs[http.Handler](k, http.NotFoundHandler())
}

func learnAs[T any](k *leakEnv, v T) { k.known[reflect.TypeFor[T]()] = reflect.ValueOf(&v).Elem() }
