package apitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

// errorAnswers has an example of every error of the root, with the status and the code of its
// answer. Programs depend on both: they do not change.
var errorAnswers = map[string]struct {
	err    error
	status int
	code   string
}{
	"ErrUnauthenticated":     {apikey.ErrUnauthenticated, 409, "key_not_usable"},
	"ErrDenied":              {apikey.ErrDenied, 403, "denied"},
	"ErrInvalidToken":        {apikey.ErrInvalidToken, 400, "invalid_token"},
	"ErrRevoked":             {apikey.ErrRevoked, 409, "key_revoked"},
	"ErrSuspended":           {apikey.ErrSuspended, 409, "key_suspended"},
	"ErrCredentialEnded":     {apikey.ErrCredentialEnded, 409, "token_ended"},
	"ErrNotYetValid":         {apikey.ErrNotYetValid, 409, "token_not_yet_valid"},
	"ErrExpired":             {apikey.ErrExpired, 409, "key_expired"},
	"ErrKind":                {apikey.ErrKind, 403, "kind_not_allowed"},
	"ErrMode":                {apikey.ErrMode, 403, "mode_mismatch"},
	"ErrStanding":            {apikey.ErrStanding, 403, "account_not_allowed"},
	"ErrAddr":                {apikey.ErrAddr, 403, "address_not_allowed"},
	"ErrOrigin":              {apikey.ErrOrigin, 403, "origin_not_allowed"},
	"ErrAbility":             {apikey.ErrAbility, 403, "insufficient_scope"},
	"ErrBusy":                {apikey.ErrBusy, 503, "busy"},
	"ErrUnavailable":         {apikey.ErrUnavailable, 503, "unavailable"},
	"ErrNotDone":             {apikey.ErrNotDone, 503, "unavailable"},
	"ErrCorrupt":             {apikey.ErrCorrupt, 500, "record_damaged"},
	"ErrClosed":              {apikey.ErrClosed, 503, "unavailable"},
	"ErrNoActor":             {apikey.ErrNoActor, 401, "signed_out"},
	"ErrNotFound":            {apikey.ErrNotFound, 404, "not_found"},
	"ErrForbidden":           {apikey.ErrForbidden, 403, "forbidden"},
	"ErrInvalid":             {apikey.ErrInvalid, 400, "invalid_request"},
	"ErrNoRotation":          {apikey.ErrNoRotation, 409, "no_rotation"},
	"ErrRotationPending":     {apikey.ErrRotationPending, 409, "rotation_pending"},
	"ErrOverlapRunning":      {apikey.ErrOverlapRunning, 409, "overlap_running"},
	"ErrLimit":               {apikey.ErrLimit, 409, "limit_reached"},
	"ErrConflict":            {apikey.ErrConflict, 503, "conflict"},
	"ErrAlreadyIssued":       {apikey.ErrAlreadyIssued, 409, "already_issued"},
	"ErrIdempotencyMismatch": {apikey.ErrIdempotencyMismatch, 409, "idempotency_mismatch"},
	"ErrStepUpRequired":      {apikey.ErrStepUpRequired, 403, "step_up_required"},
	"ErrGrant":               {apikey.ErrGrant, 403, "step_up_required"},
	"ErrChallenge":           {apikey.ErrChallenge, 410, "challenge_ended"},
	"ErrWrongAnswer":         {apikey.ErrWrongAnswer, 403, "wrong_answer"},
	"ErrTooManyAttempts":     {apikey.ErrTooManyAttempts, 429, "too_many_attempts"},
	"ErrLocked":              {apikey.ErrLocked, 409, "locked"},
	"ErrNotEnrolled":         {apikey.ErrNotEnrolled, 409, "not_enrolled"},
	"ErrNotRecoverable":      {apikey.ErrNotRecoverable, 409, "not_recoverable"},
	"ErrPepper":              {apikey.ErrPepper, 500, "internal_error"},     // from constructors alone
	"ErrCursorLost":          {apikey.ErrCursorLost, 500, "internal_error"}, // from a store alone

	"CorruptError":     {&apikey.CorruptError{Detail: "cell 7", Account: "acc_1"}, 500, "record_damaged"},
	"AbilityError":     {&apikey.AbilityError{Missing: apikey.Scope("payment:refund")}, 403, "insufficient_scope"},
	"ChallengeError":   {&apikey.ChallengeError{Action: apikey.ActionRotate, Factors: []string{"email"}}, 403, "step_up_required"},
	"ApprovalError":    {&apikey.ApprovalError{Code: apikey.ApprovalUsed}, 403, "step_up_required"},
	"AttemptsError":    {&apikey.AttemptsError{Wait: 90*time.Second + 1}, 429, "too_many_attempts"},
	"WrongAnswerError": {&apikey.WrongAnswerError{Left: 2}, 403, "wrong_answer"},
	"LimitError":       {&apikey.LimitError{Limit: apikey.LimitIssuesAnHour, Max: 3, Wait: time.Minute}, 429, "limit_reached"},
	"VersionError":     {&apikey.VersionError{Have: 7, Want: 5}, 412, "version_mismatch"},
	"InvalidError":     {&apikey.InvalidError{Field: "name", Code: apikey.InvalidTooLong, Max: 200}, 400, "invalid_request"},
}

// errorsOfRoot are the names of all exported errors of the root: variables and types.
func errorsOfRoot(t *testing.T) (sentinels, types []string) {
	for _, s := range sources(t) {
		if s.pkg != "." || s.test {
			continue
		}
		for _, d := range s.file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					for _, n := range spec.Names {
						if g.Tok == token.VAR && strings.HasPrefix(n.Name, "Err") {
							sentinels = append(sentinels, n.Name)
						}
					}
				case *ast.TypeSpec:
					if spec.Name.IsExported() && strings.HasSuffix(spec.Name.Name, "Error") {
						types = append(types, spec.Name.Name)
					}
				}
			}
		}
	}
	require.Contains(t, sentinels, "ErrRevoked")
	require.Contains(t, types, "LimitError")
	return sentinels, types
}

// rowsOfRefused are the errors that the source of httpauth.Refused names: the sentinels
// of its table, and the types that it knows.
func rowsOfRefused(t *testing.T) (sentinels, types []string) {
	for _, s := range sources(t) {
		if s.path != "httpauth/refused.go" {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok && v.Names[0].Name == "problems" {
						for _, row := range v.Values[0].(*ast.CompositeLit).Elts {
							if of, ok := row.(*ast.CompositeLit).Elts[0].(*ast.SelectorExpr); ok { // the others are httpauth's own
								sentinels = append(sentinels, of.Sel.Name)
							}
						}
					}
				}
			case *ast.FuncDecl:
				if d.Name.Name != "named" && d.Name.Name != "isTyped" {
					continue
				}
				ast.Inspect(d.Body, func(n ast.Node) bool {
					if star, ok := n.(*ast.StarExpr); ok {
						types = append(types, star.X.(*ast.SelectorExpr).Sel.Name)
					}
					return true
				})
			}
		}
	}
	require.NotEmpty(t, sentinels)
	require.NotEmpty(t, types)
	return sentinels, types
}

// An error without a row would be a 500, or the answer of the error that it wraps.
func TestEveryErrorHasARow(t *testing.T) {
	sentinels, types := errorsOfRoot(t)
	rows, known := rowsOfRefused(t)
	for _, name := range sentinels {
		require.Contains(t, rows, name, "%s has no row in the table of httpauth.Refused", name)
	}
	for _, name := range types {
		require.Contains(t, known, name, "httpauth.Refused does not know *%s", name)
	}
	all := append(slices.Clone(sentinels), types...)
	for _, name := range all {
		require.Contains(t, errorAnswers, name, "say here what the answer to %s is", name)
	}
	require.Len(t, errorAnswers, len(all))
	for name, c := range errorAnswers {
		for _, err := range []error{c.err, fmt.Errorf("while it was tried: %w", c.err), fmt.Errorf("%w: %w", c.err, apikey.ErrNotFound)} {
			p := httpauth.Refused(err)
			require.Equal(t, c.status, p.Status, name)
			require.Equal(t, c.code, p.Code, name)
			require.NotEmpty(t, p.Title, name)
			requireForPeople(t, p)
		}
	}
	for _, err := range []error{nil, errors.New("of somebody else")} {
		require.Equal(t, 500, httpauth.Refused(err).Status)
		require.Equal(t, "internal_error", httpauth.Refused(err).Code)
	}
}

// In management 401 is the person, 412 the version, and nothing else; what can be tried
// again says when.
func TestStatusesMeanOneThing(t *testing.T) {
	for name, c := range errorAnswers {
		require.Equal(t, name == "ErrNoActor", c.status == 401, name)
		require.Equal(t, name == "VersionError", c.status == 412, name)
		p := httpauth.Refused(c.err)
		require.Equal(t, p.Status == 503 || slices.Contains([]string{"AttemptsError", "LimitError"}, name), p.RetryAfter > 0, name)
		require.Zero(t, p.RetryAfter%time.Second, name)
	}
}

// The values that an answer is made from are in it, for programs.
func TestAnswersHaveTheirValues(t *testing.T) {
	of := func(name string) httpauth.Problem { return httpauth.Refused(errorAnswers[name].err) }
	require.Equal(t, uint64(7), of("VersionError").Have)
	require.Equal(t, 2, *of("WrongAnswerError").AttemptsLeft)
	require.Contains(t, of("WrongAnswerError").Detail, "2 attempts are left")
	require.Equal(t, 91*time.Second, of("AttemptsError").RetryAfter, "rounded up: a second early is too early")
	require.Equal(t, []string{"email"}, of("ChallengeError").Factors)
	require.Equal(t, apikey.ActionRotate, of("ChallengeError").Action)
	require.Equal(t, "payment:refund", of("AbilityError").Missing)
	require.Equal(t, "issues_an_hour", of("LimitError").Limit)
	require.Equal(t, 3, of("LimitError").Max)
	live := httpauth.Refused(&apikey.LimitError{Limit: apikey.LimitLiveKeys, Max: 50, Mode: apikey.Test})
	require.Equal(t, 409, live.Status, "time alone makes no room")
	require.Contains(t, live.Detail, "50")
	require.Contains(t, live.Detail, "test")
	none := httpauth.Refused(&apikey.WrongAnswerError{})
	require.NotNil(t, none.AttemptsLeft, "none left is not the same as not told")
	require.Contains(t, none.Detail, "Ask for a new question or a new code.")
	require.NotContains(t, none.Detail, "0")

	recorder := httptest.NewRecorder()
	p := of("LimitError")
	p.RequestID = "r1"
	require.NoError(t, p.Write(recorder))
	require.Equal(t, 429, recorder.Code)
	require.Equal(t, "60", recorder.Header().Get("Retry-After"))
	require.Equal(t, "application/problem+json", recorder.Header().Get("Content-Type"))
	require.Equal(t, "no-store", recorder.Header().Get("Cache-Control"))
	require.JSONEq(t, `{"status":429,"code":"limit_reached","title":"Limit reached","detail":"At most 3 API keys may be made in an hour. Try again in 1 minute.","request_id":"r1","limit":"issues_an_hour","max":3}`, recorder.Body.String())
}

// Each way in which an approval can be had is told in other words.
func TestApprovalsAreTold(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range []apikey.ChallengeError{
		{Factors: []string{"email"}}, {Enroll: []string{"totp"}}, {Enroll: []string{"totp"}, ByAnother: true}, {ByAnother: true}, {},
	} {
		p := httpauth.Refused(&e)
		require.False(t, seen[p.Detail], p.Detail)
		seen[p.Detail] = true
		requireForPeople(t, p)
	}
}

// goNames are names of the library that mean nothing to a merchant.
var goNames = regexp.MustCompile(`\b[A-Z][a-z]+[A-Z]\w*|\bapikey\b|\bErr[A-Z]|Config\b|\bKEK|\.go\b`)

// requireForPeople requires texts that a merchant can read.
func requireForPeople(t *testing.T, p httpauth.Problem) {
	t.Helper()
	texts := []string{p.Title, p.Detail}
	for _, f := range p.Fields {
		texts = append(texts, f.Detail)
	}
	for _, text := range texts {
		require.NotEmpty(t, text)
		require.NotRegexp(t, goNames, text)
		require.NotContains(t, text, "%!", "a format without its value")
	}
	_, err := json.Marshal(p)
	require.NoError(t, err)
}

// Every code has a sentence of its own.
func TestEveryInvalidCodeIsTold(t *testing.T) {
	var codes []apikey.InvalidCode
	for _, s := range sources(t) {
		if s.path != "invalid.go" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
				if of, ok := v.Type.(*ast.Ident); ok && of.Name == "InvalidCode" {
					codes = append(codes, apikey.InvalidCode(strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`)))
				}
			}
			return true
		})
	}
	require.Greater(t, len(codes), 15)
	seen := map[string]apikey.InvalidCode{}
	for _, code := range append(codes, "of a later version") {
		require.Regexp(t, `^[a-z_ ]+$`, string(code))
		p := httpauth.Refused(&apikey.InvalidError{Field: "name", Code: code, Value: "it", Max: 7})
		require.Len(t, p.Fields, 1)
		requireForPeople(t, p)
		other, twice := seen[p.Fields[0].Detail]
		require.False(t, twice, "%s and %s are the same to a reader", code, other)
		seen[p.Fields[0].Detail] = code
		require.Equal(t, "name: "+p.Fields[0].Detail, p.Detail)
	}
}

// Each code of an ApprovalError has a sentence of its own that says what to do: for a
// grant, and for a challenge.
func TestEveryApprovalCodeIsTold(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, guardedBy("password")))
	req := apikey.RotateRequest{Key: e.issue().Key.ID}
	_, challenge := e.manager.Confirm(e.ctx, "no such challenge", "1")
	req.Grant = apikey.ParseGrant("no such grant")
	_, grant := e.manager.Rotate(e.ctx, req)
	seen := map[string]bool{
		httpauth.Refused(apikey.ErrGrant).Detail: true, httpauth.Refused(apikey.ErrChallenge).Detail: true,
	}
	for _, err := range []error{
		challenge, grant, &apikey.ApprovalError{Code: apikey.ApprovalExpired}, &apikey.ApprovalError{Code: apikey.ApprovalUsed},
		&apikey.ApprovalError{Code: apikey.ApprovalSpent}, &apikey.ApprovalError{Code: apikey.ApprovalOther}, &apikey.ApprovalError{Code: apikey.ApprovalChanged},
	} {
		p := httpauth.Refused(err)
		require.NotEmpty(t, p.Because, "%v", err)
		require.False(t, seen[p.Detail], "%s: %s", p.Because, p.Detail)
		require.Regexp(t, "Approve|approve|Ask|ask|Look", p.Detail)
		seen[p.Detail] = true
		requireForPeople(t, p)
	}
	require.Equal(t, apikey.ApprovalUnknown, httpauth.Refused(challenge).Because)
	require.Equal(t, apikey.ApprovalUnknown, httpauth.Refused(grant).Because)
}
