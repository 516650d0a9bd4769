package apitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// wrongs are the fields of a request that are wrong, with their codes.
type wrongs map[string]apikey.InvalidCode

// and returns both.
func (w wrongs) and(more wrongs) wrongs {
	both := wrongs{}
	for _, m := range []wrongs{w, more} {
		for field, code := range m {
			both[field] = code
		}
	}
	return both
}

// requireWrong requires that one error names exactly these fields, each once.
func requireWrong(t *testing.T, want wrongs, err error, name string) {
	t.Helper()
	require.ErrorIs(t, err, apikey.ErrInvalid, name)
	got := wrongs{}
	for _, e := range apikey.InvalidFields(err) {
		require.NotContains(t, got, e.Field, "%s: %v", name, err)
		got[e.Field] = e.Code
		require.ErrorIs(t, e, apikey.ErrInvalid, name)
	}
	require.Equal(t, want, got, "%s: %v", name, err)
	p := httpauth.Refused(err)
	require.Equal(t, 400, p.Status, name)
	require.Len(t, p.Fields, len(want), name)
	for _, f := range p.Fields {
		require.Equal(t, want[f.Field], f.Code, name)
		require.Contains(t, p.Detail, f.Detail, name)
	}
	requireForPeople(t, p)
}

// refusal is a call in which everything that can be wrong at once is wrong.
type refusal struct {
	name string // of the method, and what tells this call from another
	req  any    // nil: the arguments are no request
	call func() error
	want wrongs
}

func drop[T any](_ T, err error) error { return err }

// issuer has the methods that Manager and Tx share.
type issuer interface {
	Issue(context.Context, apikey.IssueRequest) (apikey.Issued, error)
	Provision(context.Context, apikey.ProvisionRequest) (apikey.Provisioned, error)
	List(context.Context, apikey.ListRequest) (apikey.KeyList, error)
	Update(context.Context, apikey.UpdateRequest) (apikey.Info, error)
	Rotate(context.Context, apikey.RotateRequest) (apikey.Issued, error)
	Revoke(context.Context, apikey.RevokeRequest) error
}

var (
	long     = strings.Repeat("x", 300)
	badTexts = wrongs{
		"name": "hidden_character", "abilities": "unknown", "networks": "malformed", "origins": "malformed", "metadata": "blank", "rotate_months": "out_of_range",
	}
)

// badIssue is wrong in each setting, in the mode and in the expiry.
func badIssue(e *env) apikey.IssueRequest {
	return apikey.IssueRequest{
		Mode: 9, Name: "a\u202eb", Abilities: []string{"payment:refnud"}, ExpiresAt: e.clock.now(), Networks: []netip.Prefix{{}},
		Origins: []string{"shop"}, Metadata: map[string]string{"": "v"}, RotateMonths: 121, IdempotencyKey: long,
	}
}

var badIssued = badTexts.and(wrongs{"mode": "unknown", "expires_at": "past", "idempotency_key": "too_long"})

// shared are the refusals of the methods that Manager and Tx share.
func (e *env) shared(m issuer, key apikey.Info) []refusal {
	past, future := e.clock.now().Add(-time.Hour), e.clock.now().Add(time.Hour)
	issue := badIssue(e)
	named, nowhere, plain := issue, issue, apikey.IssueRequest{}
	named.Account, named.Kind = "acc\x00", 9
	nowhere.Kind = 9
	update := apikey.UpdateRequest{
		Key: key.ID, Name: apikey.Set(strings.Repeat("n", 201)), Abilities: apikey.Set([]string{"Payment"}), ExpiresAt: apikey.Set(past),
		Networks: apikey.Set([]netip.Prefix{}), Origins: apikey.Set([]string{}), Metadata: apikey.Set(map[string]string{"n": strings.Repeat("v", 501)}), RotateMonths: apikey.Set(-1),
	}
	zero := apikey.UpdateRequest{Key: key.ID, ExpiresAt: apikey.Set(time.Time{}), Name: apikey.Set("\xff")}
	provision := apikey.ProvisionRequest{Account: long, Name: "\u2800", Abilities: []string{"payment:refund"}}
	nobody := provision
	nobody.Account = ""
	list := apikey.ListRequest{Mode: 9, Kind: 9, State: 9, Pepper: 255, NameContains: long, Cursor: "x.y", Limit: -1}
	relative := apikey.ListRequest{
		State: apikey.Revoked, Usable: true, Expired: true, ExpiringWithin: time.Hour, UnusedFor: time.Hour, UnusedSince: past,
		DueWithin: time.Hour, DueBefore: past, Cursor: "x.y.z",
	}
	lasting := apikey.ListRequest{ExpiringWithin: -1, UnusedFor: 51 * 365 * 24 * time.Hour, DueWithin: 1<<63 - 1}
	rotate := apikey.RotateRequest{Key: key.ID, At: past, Overlap: -1}
	late := apikey.RotateRequest{Key: key.ID, At: future.AddDate(9000, 0, 0), Overlap: 8 * 24 * time.Hour}
	return []refusal{
		{"Issue for an account", named, func() error { return drop(m.Issue(staff(), named)) }, badIssued.and(wrongs{"account": "not_text", "kind": "unknown"})},
		{"Issue for no account", nowhere, func() error { return drop(m.Issue(staff(), nowhere)) }, badIssued.and(wrongs{"account": "required", "kind": "unknown"})},
		{"Issue of nothing", plain, func() error { return drop(m.Issue(e.ctx, plain)) }, wrongs{"mode": "required"}},
		{"Provision", provision, func() error { return drop(m.Provision(staff(), provision)) }, wrongs{"account": "too_long", "name": "hidden_character", "abilities": "not_publishable"}},
		{"Provision for no account", nobody, func() error { return drop(m.Provision(staff(), nobody)) }, wrongs{"account": "required", "name": "hidden_character", "abilities": "not_publishable"}},
		{"List", list, func() error { return drop(m.List(staff(), list)) }, wrongs{
			"account": "required", "mode": "unknown", "kind": "unknown", "state": "unknown", "name_contains": "too_long", "pepper": "out_of_range", "cursor": "other_list", "limit": "out_of_range",
		}},
		{"List by contradictions", relative, func() error { return drop(m.List(e.ctx, relative)) }, wrongs{
			"usable": "contradiction", "expired": "contradiction", "expiring_within": "contradiction", "unused_for": "contradiction",
			"due_within": "contradiction", "cursor": "other_list",
		}},
		{"List by durations", lasting, func() error { return drop(m.List(e.ctx, lasting)) }, wrongs{
			"expiring_within": "out_of_range", "unused_for": "out_of_range", "due_within": "out_of_range",
		}},
		{"Update", update, func() error { return drop(m.Update(e.ctx, update)) }, wrongs{
			"name": "too_long", "abilities": "malformed", "expires_at": "past", "networks": "empty", "origins": "empty", "metadata": "value_too_long", "rotate_months": "out_of_range",
		}},
		{"Update with empty values", zero, func() error { return drop(m.Update(e.ctx, zero)) }, wrongs{"expires_at": "empty", "name": "not_text"}},
		{"Rotate", rotate, func() error { return drop(m.Rotate(e.ctx, rotate)) }, wrongs{"at": "past", "overlap_seconds": "out_of_range"}},
		{"Rotate late", late, func() error { return drop(m.Rotate(e.ctx, late)) }, wrongs{"at": "too_late", "overlap_seconds": "out_of_range"}},
		{"Revoke", apikey.RevokeRequest{}, func() error { return m.Revoke(e.ctx, apikey.RevokeRequest{Key: key.ID, Reason: "\x00"}) }, wrongs{"reason": "not_text"}},
	}
}

// managed are the refusals of the methods that only a Manager has. bare is a program
// without peppers and KEKs.
func (e *env) managed(key apikey.Info, bare *apikey.Manager) []refusal {
	m := e.manager
	all := apikey.RevokeAllRequest{All: true, Mode: 9, Kind: 9, UnusedSince: e.clock.now().Add(time.Hour), Pepper: 255, Reason: apikey.Reason(long), Cursor: "x.y", Limit: 1001}
	nowhere := all
	nowhere.Pepper, nowhere.Cursor, nowhere.All = 0, "", true
	unsaid := apikey.RevokeAllRequest{Limit: 1001}
	wrongAll := wrongs{"mode": "unknown", "kind": "unknown", "unused_since": "future", "all": "contradiction", "reason": "too_long", "limit": "out_of_range"}
	badLog := apikey.EventsRequest{
		Mode: 9, Actions: []apikey.Action{apikey.ActionRotate, "key.delete"}, Actor: long,
		Since: e.clock.now(), Before: e.clock.now(), Cursor: "x.y", Limit: 1001,
	}
	many := apikey.EventsRequest{Actions: slices.Repeat([]apikey.Action{apikey.ActionRotate}, 1000)}
	anywhere := apikey.EventsRequest{Actor: "\xff", Before: e.clock.now(), Limit: -1}
	wrongLog := wrongs{"mode": "unknown", "actions": "unknown", "actor": "too_long", "before": "contradiction", "cursor": "other_list", "limit": "out_of_range"}
	sealed := badIssue(e)
	sealed.Recoverable = true
	other := wrongs{"factor": "unknown", "actor": "too_long", "account": "not_text"}
	two := key.ID.String()
	return []refusal{
		{"Issue sealed", sealed, func() error { return drop(bare.Issue(e.ctx, sealed)) }, badIssued.and(wrongs{"recoverable": "not_available"})},
		{"RevokeAll", all, func() error { return drop(m.RevokeAll(e.ctx, all)) }, wrongAll.and(wrongs{"pepper": "out_of_range", "cursor": "other_list"})},
		{"RevokeAll for no account", nowhere, func() error { return drop(m.RevokeAll(staff(), nowhere)) }, wrongAll.and(wrongs{"account": "required"})},
		{"RevokeAll of what is not said", unsaid, func() error { return drop(m.RevokeAll(e.ctx, unsaid)) }, wrongs{"all": "required", "limit": "out_of_range"}},
		{"Events", badLog, func() error { return drop(m.Events(e.ctx, badLog)) }, wrongLog},
		{"Events of many actions", many, func() error { return drop(m.Events(e.ctx, many)) }, wrongs{"actions": "too_many"}},
		{"Events of every account", anywhere, func() error { return drop(m.Events(staff(), anywhere)) }, wrongs{"actor": "not_text", "since": "required", "limit": "out_of_range"}},
		{"Challenge", nil, func() error { return drop(m.Challenge(e.ctx, "fax", badIssue(e))) }, badIssued.and(wrongs{"approval.factor": "unknown"})},
		{"Challenge of nothing", nil, func() error { return drop(m.Challenge(e.ctx, "fax", nil)) }, wrongs{"request": "required", "approval.factor": "unknown"}},
		{"Challenge of another factor", nil, func() error { return drop(m.Challenge(e.ctx, "email", apikey.RotateRequest{Key: key.ID})) }, wrongs{"approval.factor": "unusable"}},
		{"Challenge of what is free", nil, func() error {
			return drop(m.Challenge(e.ctx, "password", apikey.RevokeRequest{Key: key.ID, Reason: apikey.ReasonCompromised}))
		}, wrongs{"approval.factor": "not_needed"}},
		{"Resend", nil, func() error {
			return drop(m.Resend(staff(), "fax", apikey.DisableRequest{Factor: "palm", Actor: long, Account: "a\x00"}))
		}, other.and(wrongs{"approval.factor": "unknown"})},
		{"Enroll", apikey.EnrollRequest{}, func() error { return drop(m.Enroll(e.ctx, apikey.EnrollRequest{Factor: "palm"})) }, wrongs{"factor": "unknown"}},
		{"ConfirmEnrollment", nil, func() error { return m.ConfirmEnrollment(e.ctx, "palm", "") }, wrongs{"factor": "unknown", "answer": "required"}},
		{"ConfirmEnrollment of nothing", nil, func() error { return m.ConfirmEnrollment(e.ctx, "totp", " ") }, wrongs{"answer": "required"}},
		{"Confirm", nil, func() error { return drop(m.Confirm(e.ctx, "no such challenge", "\u00a0\n")) }, wrongs{"answer": "required"}},
		{"Disable", apikey.DisableRequest{}, func() error {
			return m.Disable(staff(), apikey.DisableRequest{Factor: "palm", Actor: long, Account: "a\x00"})
		}, other},
		{"AllowEnrollment", apikey.AllowEnrollmentRequest{}, func() error {
			return m.AllowEnrollment(staff(), apikey.AllowEnrollmentRequest{Factor: "palm", Actor: long, Account: "a\x00"})
		}, other},
		{"AllowEnrollment for nobody", apikey.AllowEnrollmentRequest{}, func() error {
			return m.AllowEnrollment(e.ctx, apikey.AllowEnrollmentRequest{Factor: "palm"})
		}, wrongs{"factor": "unknown", "actor": "required"}},
		{"LiftLock", apikey.LiftLockRequest{}, func() error {
			return m.LiftLock(staff(), apikey.LiftLockRequest{Actor: long, Account: "a\x00"})
		}, wrongs{"actor": "too_long", "account": "not_text"}},
		{"LiftLock of an operator", apikey.LiftLockRequest{}, func() error { return m.LiftLock(staff(), apikey.LiftLockRequest{Actor: "usr_1"}) }, wrongs{"account": "required"}},
		{"Reseal", nil, func() error { return drop(m.Reseal(staff(), -1)) }, wrongs{"limit": "out_of_range"}},
		{"Reseal without a KEK", nil, func() error { return drop(bare.Reseal(staff(), -1)) }, wrongs{"": "not_available", "limit": "out_of_range"}},
		{"Remac", nil, func() error { return drop(m.Remac(staff(), 1001)) }, wrongs{"limit": "out_of_range"}},
		{"Remac without a pepper", nil, func() error { return drop(bare.Remac(staff(), 1001)) }, wrongs{"": "not_available", "limit": "out_of_range"}},
		{"AdoptPepper", nil, func() error { return m.AdoptPepper(staff(), 255) }, wrongs{"slot": "out_of_range"}},
		{"AdoptPepper without a pepper", nil, func() error { return bare.AdoptPepper(staff(), 0) }, wrongs{"": "not_available", "slot": "out_of_range"}},
		{"May", nil, func() error { return m.May(e.ctx, "key.no_such", key) }, wrongs{"action": "unknown"}},
		{"RevokeToken", nil, func() error {
			return m.RevokeToken(background, two, apikey.Reason(long))
		}, wrongs{"reason": "too_long"}},
	}
}

// sound are the methods that refuse no field: what they name exists or does not.
var sound = []string{
	"Get", "Suspend", "Resume", "CancelRotation", "Retire", "Reveal", "VerifyEvents", "Enrolled", "Close", "Tx", "Committed", "NewVerifier", "Rules",
}

// neverWrong are the fields of requests that have no wrong value: a key that is named
// exists or does not, and a filter by a time finds what there is.
var neverWrong = []string{
	"key", "credential", "if_version", "grant", "disabled", "replace", "never_used", "untagged",
	"expiring_before", "not_expired_at", "due_before", "ListRequest.unused_since", "EventsRequest.account",
}

// Every refusal of every method names each wrong field with its code, all in one answer.
func TestEveryWrongFieldIsNamed(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, guardAll))
	bare := newEnv(t, noPepper).manager
	e.manager = e.newManager(func(c *managerConfig) { c.StepUp = nil })
	key := e.issue(func(r *apikey.IssueRequest) {
		r.Networks, r.Origins = nets("203.0.113.0/24"), []string{"https://shop.example"}
	}).Key
	e.manager = e.newManager()
	rows := append(e.shared(e.manager, key), e.managed(key, bare)...)
	named, tried := map[string]bool{}, map[string]bool{}
	for _, row := range rows {
		requireWrong(t, row.want, row.call(), row.name)
		method, _, _ := strings.Cut(row.name, " ")
		tried[method] = true
		if row.req != nil {
			typ := reflect.TypeOf(row.req).Name()
			named[typ] = true
			fields := namesInJSON(reflect.TypeOf(row.req))
			for field := range row.want {
				require.Contains(t, fields, field, "%s: no field of %s is called so", row.name, typ)
				named[typ+"."+field] = true
			}
		}
	}
	for _, row := range e.shared(e.manager.Tx(unsaid{e.store}), key) {
		requireWrong(t, row.want, row.call(), "Tx."+row.name)
	}
	for _, of := range []any{e.manager, e.manager.Tx(unsaid{e.store})} {
		for i := range reflect.TypeOf(of).NumMethod() {
			method := reflect.TypeOf(of).Method(i)
			require.NotEqual(t, tried[method.Name], isIn(sound, method.Name), "%T.%s: a row, or a place in sound", of, method.Name)
			for j := range method.Type.NumIn() {
				requireFieldsNamed(t, method.Type.In(j), named, tried[method.Name])
			}
		}
	}
}

func isIn(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

// requireFieldsNamed requires that some row makes each field of a request wrong.
func requireFieldsNamed(t *testing.T, typ reflect.Type, named map[string]bool, tried bool) {
	t.Helper()
	if typ.Kind() != reflect.Struct || !strings.HasSuffix(typ.Name(), "Request") || !tried {
		return
	}
	require.True(t, named[typ.Name()], "no row has a %s", typ.Name())
	for i := range typ.NumField() {
		field := namesInJSON(typ)[i]
		if isIn(neverWrong, field) || isIn(neverWrong, typ.Name()+"."+field) {
			continue
		}
		require.True(t, named[typ.Name()+"."+field], "no row makes %s.%s wrong", typ.Name(), field)
	}
}

var capital = regexp.MustCompile(`([a-z])([A-Z])`)

// namesInJSON are the names of a type's fields in an InvalidError: those of the tags, and
// without tags the names in snake case. The overlap of a rotation is called as in the JSON
// of Rules.
func namesInJSON(typ reflect.Type) (names []string) {
	for i := range typ.NumField() {
		name := nameInJSON(typ.Field(i))
		if typ == reflect.TypeFor[apikey.RotateRequest]() && name == "overlap" {
			name = "overlap_seconds"
		}
		names = append(names, name)
	}
	return names
}

func nameInJSON(f reflect.StructField) string {
	if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
		return name
	}
	return strings.ToLower(capital.ReplaceAllString(f.Name, "${1}_$2"))
}

// The actor is not part of a request, but is checked in the same way.
func TestEveryWrongFieldOfAnActorIsNamed(t *testing.T) {
	e := newEnv(t)
	a := apikey.Actor{ID: long, Account: "acc\x00", Role: "\xff"}
	_, err := e.manager.List(apikey.WithActor(background, a), apikey.ListRequest{Limit: -1})
	requireWrong(t, wrongs{"actor.id": "too_long", "actor.account": "not_text", "actor.role": "not_text"}, err, "List")
	operator := apikey.Operator("ops_1")
	operator.Account = "acc_1"
	_, err = e.manager.Issue(apikey.WithActor(background, operator), apikey.IssueRequest{})
	requireWrong(t, wrongs{"actor.account": "not_allowed"}, err, "Issue")
}

// What makes an answer can be read by programs, and shown: it is cut, and hostile
// characters of it are not in the sentence.
func TestWrongValuesAreShown(t *testing.T) {
	e := newEnv(t)
	fields := func(change func(*apikey.IssueRequest)) *apikey.InvalidError {
		req := apikey.IssueRequest{Mode: apikey.Live}
		change(&req)
		_, err := e.manager.Issue(e.ctx, req)
		all := apikey.InvalidFields(err)
		require.Len(t, all, 1, "%v", err)
		return all[0]
	}
	near := fields(func(r *apikey.IssueRequest) { r.Abilities = []string{"payment:refund", "payment:refnud"} })
	require.Equal(t, "payment:refnud", near.Value)
	require.Equal(t, "payment:refund", near.Known[0])
	require.Equal(t, "U+202E", fields(func(r *apikey.IssueRequest) { r.Name = "a\u202eb" }).Value)
	size := fields(func(r *apikey.IssueRequest) { r.Name = strings.Repeat("n", 201) })
	require.Equal(t, 200, size.Max)
	require.ErrorIs(t, size, apikey.ErrLimit)
	require.ErrorIs(t, size, apikey.ErrInvalid)
	cut := fields(func(r *apikey.IssueRequest) { r.Origins = []string{strings.Repeat("é", 100) + "\xff"} })
	require.Equal(t, strings.Repeat("é", 30)+"…", cut.Value)
	p := httpauth.Refused(fields(func(r *apikey.IssueRequest) { r.Origins = []string{"a\u202e\nb"} }))
	require.Equal(t, "a\u202e\nb", p.Fields[0].Value)
	require.Contains(t, p.Detail, "“a\uFFFD\uFFFDb”")
}

// State is told when the request is right, not before: a form that is wrong is corrected
// once. An idempotency key that was used wins: that key exists.
func TestFieldsComeBeforeStates(t *testing.T) {
	e := newEnv(t)
	key := e.issue(func(r *apikey.IssueRequest) { r.IdempotencyKey = "i" }).Key
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: key.ID}))
	_, err := e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.ID, At: e.clock.now(), Overlap: -1})
	requireWrong(t, wrongs{"at": "past", "overlap_seconds": "out_of_range"}, err, "Rotate")
	_, err = e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key.ID})
	require.ErrorIs(t, err, apikey.ErrRevoked)
	_, err = e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Name: "a\x00", IdempotencyKey: "i"})
	require.ErrorIs(t, err, apikey.ErrIdempotencyMismatch)
	expiring := e.issue(func(r *apikey.IssueRequest) { r.ExpiresAt = e.clock.now().Add(time.Hour) }).Key
	for field, req := range map[string]apikey.RotateRequest{
		"at":              {Key: expiring.ID, At: e.clock.now().Add(2 * time.Hour)},
		"overlap_seconds": {Key: expiring.ID, Overlap: 2 * time.Hour},
	} {
		_, err = e.manager.Rotate(e.ctx, req)
		requireWrong(t, wrongs{field: "after_expiry"}, err, "Rotate")
	}
}

// Two tokens in a pasted text, and a reason that nobody can store.
func TestRevokeTokenNamesWhatIsWrong(t *testing.T) {
	e := newEnv(t)
	two := e.issue().Token.Reveal() + " " + e.issue().Token.Reveal()
	requireWrong(t, wrongs{"token": "several", "reason": "too_long"}, e.manager.RevokeToken(background, two, apikey.Reason(long)), "RevokeToken")
}

// limits and versions say what they compared.
func TestLimitsAndVersionsAreTyped(t *testing.T) {
	e := newEnv(t, func(e *env) { e.mc.Limits = apikey.Limits{LiveKeys: 1, Keys: 2, IssuesAnHour: 3} })
	limitOf := func(err error) apikey.LimitError {
		t.Helper()
		require.ErrorIs(t, err, apikey.ErrLimit)
		reached, ok := errors.AsType[*apikey.LimitError](err)
		require.True(t, ok, "%v", err)
		return apikey.LimitError{Limit: reached.Limit, Max: reached.Max, Mode: reached.Mode, Wait: reached.Wait}
	}
	issue := func(m apikey.Mode) error { return drop(e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: m})) }
	first := e.issue().Key
	require.Equal(t, apikey.LimitError{Limit: "live_keys", Max: 1, Mode: apikey.Live}, limitOf(issue(apikey.Live)))
	require.NoError(t, issue(apikey.Test))
	require.NoError(t, e.manager.Suspend(e.ctx, first.ID))
	require.Equal(t, apikey.LimitError{Limit: "keys", Max: 2}, limitOf(issue(apikey.Live)))
	require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: first.ID}))
	require.NoError(t, issue(apikey.Live))
	e.clock.move(20 * time.Minute)
	hour := limitOf(issue(apikey.Live))
	require.Equal(t, "issues_an_hour", hour.Limit)
	require.InDelta(t, 40*time.Minute, hour.Wait, float64(2*time.Second))

	_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: first.ID, IfVersion: 1, Name: apikey.Set("x")})
	require.ErrorIs(t, err, apikey.ErrConflict)
	version, ok := errors.AsType[*apikey.VersionError](err)
	require.True(t, ok)
	require.Equal(t, apikey.VersionError{Have: 3, Want: 1}, *version)
}

const canary = "kms 10.0.3.7: connection refused"

// causes are what other systems may answer, also in words of this library.
func causes() []error {
	return []error{
		errors.New(canary),
		fmt.Errorf("%s: %w", canary, apikey.ErrNotFound),
		fmt.Errorf("%s: %w", canary, apikey.ErrNoActor),
		fmt.Errorf("%s: %w", canary, &apikey.InvalidError{Field: canary, Code: canary, Value: canary}),
	}
}

// No answer quotes a cause, whatever fails, and no cause decides what the answer is.
func TestNoAnswerQuotesACause(t *testing.T) {
	for _, cause := range causes() {
		for name, c := range map[string]struct {
			breaks func(e *env, f *factors, p *proxy)
			codes  []string // that an error with the cause in it may have
		}{
			"reads": {func(_ *env, _ *factors, p *proxy) {
				p.hook(func(p *proxy) { p.get, p.list = func() error { return cause }, func() error { return cause } })
			}, nil}, // a store's words count
			"writes": {func(_ *env, _ *factors, p *proxy) {
				p.hook(func(p *proxy) { p.apply = func(func() error, []apikey.StoreChange) error { return cause } })
			}, nil},
			"a KEK": {func(_ *env, f *factors, _ *proxy) {
				f.kek.set(func(k *brokenKEK) {
					k.wrap = func(context.Context, func() ([]byte, error)) ([]byte, error) { return nil, cause }
					k.unwrap = k.wrap
				})
			}, []string{"unavailable"}},
			"mail": {func(_ *env, f *factors, _ *proxy) { f.fail(cause) }, []string{"unavailable"}},
			"Policy": {func(e *env, _ *factors, _ *proxy) {
				e.restart(func(c *managerConfig) { c.Policy = refusing{cause} })
			}, []string{"forbidden"}},
			"Standing": {func(e *env, _ *factors, _ *proxy) {
				e.restart(func(c *managerConfig) { c.Standing = refusing{cause} })
			}, []string{"account_not_allowed"}},
			"Products": {func(e *env, _ *factors, _ *proxy) {
				e.restart(func(c *managerConfig) {
					c.Products = func(string, apikey.Mode, apikey.Ability) error { return cause }
				})
			}, []string{"account_not_allowed"}},
		} {
			quoted := 0
			for call, err := range broken(t, c.breaks) {
				p := httpauth.Refused(err)
				requireForPeople(t, p)
				text, failed := json.Marshal(p)
				require.NoError(t, failed)
				require.NotContains(t, string(text), "10.0.3.7", "%s: %s", name, call)
				require.NotContains(t, string(text), "refused", "%s: %s", name, call)
				if strings.Contains(err.Error(), canary) {
					quoted++
					require.Empty(t, apikey.InvalidFields(err), "%s: %v", call, err)
					if c.codes != nil {
						require.Contains(t, c.codes, p.Code, "%s: %v", call, err)
					}
				}
			}
			require.Positive(t, quoted, "%s: %v was never met", name, cause)
		}
	}
}

// refusing is a Policy and a Standing that say no.
type refusing struct{ cause error }

func (r refusing) Authorize(context.Context, apikey.Actor, apikey.Action, apikey.Info) error {
	return r.cause
}

func (r refusing) Allowed(string, apikey.Mode) error { return r.cause }

// broken breaks a program that has keys, and returns the errors of all calls.
func broken(t *testing.T, breaks func(*env, *factors, *proxy)) map[string]error {
	t.Helper()
	var f *factors
	var p *proxy
	e := newEnv(t, through(&p), withFactors(&f, nil), func(e *env) { e.mc.InsecureRevealWithoutStepUp = true })
	own := e.issue(func(r *apikey.IssueRequest) { r.Recoverable = true })
	other := e.issue(func(r *apikey.IssueRequest) { r.Recoverable = true })
	mails := e.newManager(func(c *managerConfig) { c.StepUp = apikey.GuardRevealAndRotate("email") })
	breaks(e, f, p)
	over, cancel := context.WithCancel(e.ctx)
	cancel()
	failed := map[string]error{}
	managerCalls(e.manager).each(func(name string, call func(context.Context, target) error) {
		ctx := e.ctx
		if strings.HasPrefix(name, "Suspend") || strings.HasPrefix(name, "Revoke") || strings.HasPrefix(name, "Retire") {
			ctx = over // these try again until their time is over
		}
		if err := call(ctx, target{key: own.Key.ID, account: admin.Account, token: own.Token.Reveal()}); err != nil {
			failed[name] = err
		}
	})
	for name, err := range map[string]error{
		"Challenge by mail":  drop(mails.Challenge(e.ctx, "email", apikey.RevealRequest{Key: other.Key.ID})),
		"Issue sealed":       drop(e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Recoverable: true})),
		"Issue an ability":   drop(e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refund"}})),
		"Reveal of a sealed": drop(e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: other.Key.ID})),
	} {
		if err != nil {
			failed[name] = err
		}
	}
	return failed
}
