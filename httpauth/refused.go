package httpauth

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/spell"
)

// Problem is an error of an [apikey.Manager] as an HTTP answer: as JSON it is a problem
// of RFC 9457 without a type. All of it may be shown to the merchant: it is made from
// the kind of the error and its typed fields alone. It never has the text of an error,
// which may name a setting of the program, or quote what a key service has answered.
type Problem struct {
	Status int `json:"status"` // 400 to 503
	// Code is stable and for programs; the documentation of [Refused] lists all.
	Code string `json:"code"`
	// Title says in a few words what happened, the same for each Status and Code.
	Title string `json:"title"`
	// Detail is a sentence or two for people. It may change between versions.
	Detail string `json:"detail"`
	// RequestID is for the program to set.
	RequestID string `json:"request_id,omitempty"`

	// Fields are all wrong fields of the request, for invalid_request; at most 32.
	Fields []WrongField `json:"fields,omitempty"`
	// Limit, Max and Mode say which limit is reached, for limit_reached: see
	// [apikey.LimitError].
	Limit string      `json:"limit,omitempty"`
	Max   int         `json:"max,omitempty"`
	Mode  apikey.Mode `json:"mode,omitzero"`
	// Have is the version of the key now, for version_mismatch.
	Have uint64 `json:"have,omitempty"`
	// AttemptsLeft is how many wrong answers may still be given; nil unless Code is
	// wrong_answer.
	AttemptsLeft *int `json:"attempts_left,omitempty"`
	// Action, Factors, Enroll and ByAnother say how an approval can be had, for
	// step_up_required: see [apikey.ChallengeError]. All are empty if a grant was
	// refused.
	Action    apikey.Action `json:"action,omitempty"`
	Factors   []string      `json:"factors,omitempty"`
	Enroll    []string      `json:"enroll,omitempty"`
	ByAnother bool          `json:"by_another,omitempty"`
	// Because says why a grant was refused, for step_up_required, or why a challenge
	// cannot be answered, for challenge_ended: see [apikey.ApprovalError].
	Because apikey.ApprovalCode `json:"because,omitempty"`
	// Missing is the ability that a key lacks, for insufficient_scope.
	Missing string `json:"missing,omitempty"`
	// RetryAfter is when to try again, in whole seconds; zero: no time is known.
	RetryAfter time.Duration `json:"-"`
}

// WrongField is one wrong field of a request: see [apikey.InvalidError].
type WrongField struct {
	Field  string             `json:"field"` // empty: no field of the request
	Code   apikey.InvalidCode `json:"code"`
	Detail string             `json:"detail"` // for people; does not name the field
	Value  string             `json:"value,omitempty"`
	Min    int                `json:"min,omitempty"` // absent: 0, or there is no bound
	Max    int                `json:"max,omitempty"`
	Known  []string           `json:"known,omitempty"`
}

// problems has a row for every error of the root. A sentinel that wraps another one has
// a row of its own, so the order does not matter: see named.
//
// In management a key that is revoked, suspended or expired is 409: the error is about
// the key that the request names, and not about the caller. 401 means that nobody is
// signed in. 412 is VersionError alone, which has its row below; a change that lost
// against others is 503, like all that may be tried again as it is.
var problems = []struct {
	err error
	Problem
}{
	{apikey.ErrNoActor, Problem{Status: 401, Code: "signed_out", Title: "Not signed in", Detail: "Sign in and try again."}},
	{apikey.ErrInvalid, Problem{Status: 400, Code: "invalid_request", Title: "Invalid request", Detail: "The request cannot be right."}},
	{ErrBodyTooLarge, Problem{Status: 413, Code: "body_too_large", Title: "Body too large", Detail: "The body of a request may have up to 64 KiB."}},
	{ErrMediaType, Problem{Status: 415, Code: "not_json", Title: "Not JSON", Detail: "Send the body as JSON in UTF-8, not compressed, with the header Content-Type: application/json."}},
	{apikey.ErrInvalidToken, Problem{Status: 400, Code: "invalid_token", Title: "No valid API key", Detail: "The text holds no API key that is valid here."}},
	{apikey.ErrNotFound, Problem{Status: 404, Code: "not_found", Title: "Not found", Detail: "There is nothing with this ID in this account."}},

	{apikey.ErrDenied, Problem{Status: 403, Code: "denied", Title: "Not allowed", Detail: "This is not allowed."}},
	{apikey.ErrForbidden, Problem{Status: 403, Code: "forbidden", Title: "Not allowed", Detail: "This person may not do this."}},
	{apikey.ErrStanding, Problem{Status: 403, Code: "account_not_allowed", Title: "Account not allowed", Detail: "The account may not do this in this mode, or may not use one of the abilities."}},
	{apikey.ErrKind, Problem{Status: 403, Code: "kind_not_allowed", Title: "Wrong kind of API key", Detail: "This kind of API key is not accepted here."}},
	{apikey.ErrMode, Problem{Status: 403, Code: "mode_mismatch", Title: "Wrong mode", Detail: "The API key belongs to the other mode, live or test."}},
	{apikey.ErrAddr, Problem{Status: 403, Code: "address_not_allowed", Title: "Address not allowed", Detail: "The API key may not be used from this address."}},
	{apikey.ErrOrigin, Problem{Status: 403, Code: "origin_not_allowed", Title: "Origin not allowed", Detail: "The API key may not be used from this origin."}},
	{apikey.ErrAbility, Problem{Status: 403, Code: "insufficient_scope", Title: "Ability missing", Detail: "The API key lacks an ability."}},
	{apikey.ErrStepUpRequired, Problem{Status: 403, Code: "step_up_required", Title: "Approval required", Detail: "This has to be approved first."}},
	{apikey.ErrGrant, Problem{Status: 403, Code: "step_up_required", Title: "Approval required", Detail: "The approval was used, has expired, or is for another request. Approve this request anew."}},
	{apikey.ErrWrongAnswer, Problem{Status: 403, Code: "wrong_answer", Title: "Wrong answer", Detail: "The answer is wrong."}},
	{apikey.ErrTooManyAttempts, Problem{Status: 429, Code: "too_many_attempts", Title: "Too many attempts", Detail: "There were too many attempts. Wait before the next one."}},
	{apikey.ErrLocked, Problem{Status: 409, Code: "locked", Title: "Locked", Detail: "After too many wrong answers, actions that need an approval are locked for this person. Another admin of the account or the support can lift the lock."}},
	{apikey.ErrChallenge, Problem{Status: 410, Code: "challenge_ended", Title: "Question has ended", Detail: "This question cannot be answered any more. Ask for a new one."}},
	{apikey.ErrNotEnrolled, Problem{Status: 409, Code: "not_enrolled", Title: "Not set up", Detail: "This way to approve is not set up for this person."}},

	{apikey.ErrUnauthenticated, Problem{Status: 409, Code: "key_not_usable", Title: "API key not usable", Detail: "The API key cannot be used."}},
	{apikey.ErrRevoked, Problem{Status: 409, Code: "key_revoked", Title: "API key revoked", Detail: "The API key was revoked, for ever."}},
	{apikey.ErrSuspended, Problem{Status: 409, Code: "key_suspended", Title: "API key suspended", Detail: "The API key is suspended. Resume it first."}},
	{apikey.ErrExpired, Problem{Status: 409, Code: "key_expired", Title: "API key expired", Detail: "The API key has expired. Give it a later expiry first."}},
	{apikey.ErrCredentialEnded, Problem{Status: 409, Code: "token_ended", Title: "Token has ended", Detail: "This token of the API key has ended."}},
	{apikey.ErrNotYetValid, Problem{Status: 409, Code: "token_not_yet_valid", Title: "Token not valid yet", Detail: "This token of the API key is not valid yet."}},
	{apikey.ErrNotRecoverable, Problem{Status: 409, Code: "not_recoverable", Title: "Cannot be shown again", Detail: "The token was shown once and is not kept. Rotate the API key to get a new token."}},
	{apikey.ErrNoRotation, Problem{Status: 409, Code: "no_rotation", Title: "No rotation is planned", Detail: "No rotation waits for its time."}},
	{apikey.ErrRotationPending, Problem{Status: 409, Code: "rotation_pending", Title: "A rotation is planned", Detail: "A new token waits for its time already. Cancel that rotation, or replace it."}},
	{apikey.ErrOverlapRunning, Problem{Status: 409, Code: "overlap_running", Title: "Two tokens work", Detail: "An older token still works beside the current one. End the older one first, or replace both."}},
	{apikey.ErrAlreadyIssued, Problem{Status: 409, Code: "already_issued", Title: "Already made", Detail: "The same request has made an API key already. Its token is not shown again."}},
	{apikey.ErrIdempotencyMismatch, Problem{Status: 409, Code: "idempotency_mismatch", Title: "Another request", Detail: "The idempotency key was used for another request."}},
	{apikey.ErrLimit, Problem{Status: 409, Code: "limit_reached", Title: "Limit reached", Detail: "A limit of the account is reached."}},

	{apikey.ErrConflict, Problem{Status: 503, Code: "conflict", Title: "Changed meanwhile", Detail: "Others changed the same thing at the same time, and nothing was done. Try again.", RetryAfter: time.Second}},
	{apikey.ErrBusy, Problem{Status: 503, Code: "busy", Title: "Busy", Detail: "Nothing was done. Try again shortly.", RetryAfter: time.Second}},
	{apikey.ErrUnavailable, away},
	{apikey.ErrNotDone, undone},
	{apikey.ErrClosed, away},
	{context.Canceled, away},
	{context.DeadlineExceeded, away},

	{apikey.ErrCorrupt, Problem{Status: 500, Code: "record_damaged", Title: "Internal error", Detail: "What is stored cannot be trusted, and nothing was done. The support has to look at it."}},
	{apikey.ErrPepper, broken},
	{apikey.ErrCursorLost, broken},
}

var (
	versionMismatch = Problem{Status: 412, Code: "version_mismatch", Title: "Changed meanwhile", Detail: "Somebody has changed the API key since it was shown. Look at it again."}
	away            = Problem{Status: 503, Code: "unavailable", Title: "Not available", Detail: "This is not possible at the moment. It may have been done all the same: look before you try again.", RetryAfter: 5 * time.Second}
	undone          = Problem{Status: 503, Code: "unavailable", Title: "Not available", Detail: "This is not possible at the moment, and nothing was done. Try again shortly.", RetryAfter: 5 * time.Second}
	broken          = Problem{Status: 500, Code: "internal_error", Title: "Internal error", Detail: "The request could not be processed."}
)

// Refused returns the HTTP answer for an error of a Manager method, as [Denied] does for
// one of a verification. Log the error itself beside the request's ID: the answer does
// not have it. Of several errors in one, such as those of RevokeAll, the first counts.
// An error that it does not know, and nil, is a 500.
//
//	400  invalid_request        Fields has all wrong fields of the request
//	400  invalid_token          RevokeToken was given no valid token
//	401  signed_out             the context has no Actor
//	403  forbidden, account_not_allowed, denied
//	403  step_up_required       Factors and the fields beside it; Because if a grant was refused
//	403  wrong_answer           AttemptsLeft
//	403  kind_not_allowed       RevokeToken was given a publishable token
//	404  not_found
//	409  key_revoked, key_suspended, key_expired, not_recoverable
//	409  no_rotation, rotation_pending, overlap_running
//	409  already_issued, idempotency_mismatch
//	409  locked, not_enrolled
//	409  limit_reached          Limit and Max
//	410  challenge_ended        Because
//	412  version_mismatch       Have; IfVersion named another version
//	413  body_too_large         from ReadJSON
//	415  not_json               likewise
//	429  too_many_attempts      RetryAfter
//	429  limit_reached          likewise, if RetryAfter is known
//	500  record_damaged, internal_error
//	503  busy, conflict, unavailable: with RetryAfter
//
// The other errors of the root have codes too: those of [Denied], mostly with 409.
func Refused(err error) Problem {
	p, known := named(err)
	switch e := known.(type) {
	case *apikey.InvalidError:
		if p.wrong(apikey.InvalidFields(err)); len(p.Fields) == 0 { // a program has put something before it
			p.wrong([]*apikey.InvalidError{e})
		}
	case *apikey.LimitError:
		p.limit(e)
	case *apikey.ChallengeError:
		p.approval(e)
	case *apikey.ApprovalError:
		p.refusal(e)
	case *apikey.WrongAnswerError:
		p.AttemptsLeft = &e.Left
		p.Detail = "The answer is wrong, and no attempt is left. Ask for a new question or a new code."
		if e.Left > 0 {
			p.Detail = "The answer is wrong. " + count(e.Left, "attempt is", "attempts are") + " left."
		}
	case *apikey.AttemptsError:
		p.wait(e.Wait)
	case *apikey.VersionError:
		p.Have = e.Have
	case *apikey.AbilityError:
		if e.Missing != nil {
			p.Missing = e.Missing.String()
			p.Detail = "The API key lacks the ability " + p.Missing + "."
		}
	}
	return p
}

// named finds the row of the first error of the root in err: the errors of a Manager
// begin with it, and behind it stands what caused it. A cause says nothing, whatever it
// wraps. known is that error, or the typed one that wraps it.
func named(err error) (p Problem, known error) {
	for _, row := range problems {
		if row.err == err {
			return row.Problem, err
		}
	}
	switch e := err.(type) {
	case *apikey.VersionError:
		return versionMismatch, e
	case interface{ Unwrap() error }:
		p, known = named(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if p, known = named(part); known != nil {
				break
			}
		}
	default:
		return broken, nil
	}
	if isTyped(err) {
		known = err
	}
	return p, known
}

// isTyped reports whether an error of the root has fields that an answer is made from.
func isTyped(err error) bool {
	switch err.(type) {
	case *apikey.InvalidError, *apikey.LimitError, *apikey.ChallengeError, *apikey.ApprovalError, *apikey.WrongAnswerError, *apikey.AttemptsError, *apikey.AbilityError, *apikey.CorruptError:
		return true
	}
	return false
}

// Write writes the problem with its headers. The caller sets RequestID first.
func (p Problem) Write(w http.ResponseWriter) error {
	h := w.Header()
	h.Del("Content-Length") // an outer handler may have set it for its own answer
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(p.RetryAfter/time.Second)))
	}
	w.WriteHeader(p.Status)
	return json.NewEncoder(w).Encode(p)
}

// wait says when to try again, rounded up: a client that came a second early would be
// refused again.
func (p *Problem) wait(d time.Duration) {
	p.RetryAfter = (d + time.Second - 1).Truncate(time.Second)
	p.Detail += " Try again in " + spell.Duration(p.RetryAfter) + "."
}

// An answer does not grow with what was sent: maxWrong is how many fields it lists, and
// short cuts what it quotes.
const maxWrong = 32

func short(s string) string {
	const most = 60
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func (p *Problem) wrong(fields []*apikey.InvalidError) {
	var lines []string
	for _, e := range fields[:min(len(fields), maxWrong)] {
		f := WrongField{short(e.Field), e.Code, detailOf(e), short(e.Value), e.Min, e.Max, e.Known}
		p.Fields = append(p.Fields, f)
		lines = append(lines, strings.TrimPrefix(f.Field+": "+f.Detail, ": "))
	}
	p.Detail = strings.Join(lines, " ")
}

func (p *Problem) limit(e *apikey.LimitError) {
	p.Limit, p.Max, p.Mode = e.Limit, e.Max, e.Mode
	most := strconv.Itoa(e.Max)
	switch e.Limit {
	case apikey.LimitLiveKeys:
		p.Detail = "The account may have " + most + " API keys that work in the mode " + e.Mode.String() + ". Revoke one that is not used."
	case apikey.LimitKeys:
		p.Detail = "The account may have " + most + " API keys that are not revoked. Revoke those that are not used."
	case apikey.LimitIssuesAnHour:
		p.Detail = "At most " + most + " API keys may be made in an hour."
	case apikey.LimitFactorData:
		p.Detail = "This way to approve has more to store than " + most + " bytes."
	}
	if e.Wait > 0 {
		p.Status = http.StatusTooManyRequests
		p.wait(e.Wait)
	}
}

func (p *Problem) approval(e *apikey.ChallengeError) {
	p.Action, p.Factors, p.Enroll, p.ByAnother = e.Action, e.Factors, e.Enroll, e.ByAnother
	switch {
	case len(e.Factors) > 0:
		p.Detail = "This has to be approved first, by one of: " + strings.Join(e.Factors, ", ") + "."
	case e.ByAnother && len(e.Enroll) > 0:
		p.Detail = "This has to be approved first, by one of: " + strings.Join(e.Enroll, ", ") + ". None is set up. Another admin of the account or the support allows that first."
	case e.ByAnother:
		p.Detail = "This person has no way to approve this. Another admin of the account or the support does it for them."
	case len(e.Enroll) > 0:
		p.Detail = "This has to be approved first, by one of: " + strings.Join(e.Enroll, ", ") + ". Set one up."
	default:
		p.Detail = "This needs an approval, and nothing is there to give it."
	}
}

func (p *Problem) refusal(e *apikey.ApprovalError) {
	p.Because = e.Code
	switch detail := refusals[e.Code]; {
	case detail != "":
		p.Detail = detail
	case e.Code == apikey.ApprovalUnknown && errors.Is(e, apikey.ErrGrant):
		p.Detail = "This approval is not known: a later one may have replaced it, or it is of somebody else. Use the latest one, or approve this request anew."
	case e.Code == apikey.ApprovalUnknown:
		p.Detail = "This question is not known: a later one may have replaced it, or it is for somebody else. Answer the latest one, or ask for a new one."
	}
}

var refusals = map[apikey.ApprovalCode]string{
	apikey.ApprovalExpired: "The time for this approval is over. Approve the request anew.",
	apikey.ApprovalUsed:    "This approval was used, and what it approves was done. Look at the result before you try again.",
	apikey.ApprovalSpent:   "There were too many wrong answers to this question. Ask for a new one.",
	apikey.ApprovalOther:   "This approval is for another request. Approve this request.",
	apikey.ApprovalChanged: "Somebody has changed the API key since this was approved. Look at it again, then approve the request anew.",
}

// detailOf says what is wrong with a field, and what to do.
func detailOf(e *apikey.InvalidError) string {
	if say, ok := details[e.Code]; ok {
		return say(e)
	}
	return "This is not valid."
}

var details = map[apikey.InvalidCode]func(*apikey.InvalidError) string{
	apikey.InvalidRequired:  plain("This is required."),
	apikey.InvalidMalformed: valued(" has not the form that is needed here."),
	apikey.InvalidTooLong: func(e *apikey.InvalidError) string {
		return nameOf(e) + " is too long: at most " + inBytes(e.Max) + "."
	},
	apikey.InvalidValueTooLong: func(e *apikey.InvalidError) string {
		return "The value of " + nameOf(e) + " is too long: at most " + inBytes(e.Max) + "."
	},
	apikey.InvalidTooMany: func(e *apikey.InvalidError) string { return "These are too many: at most " + strconv.Itoa(e.Max) + "." },
	apikey.InvalidOutOfRange: func(e *apikey.InvalidError) string {
		return "This has to be from " + strconv.Itoa(e.Min) + " to " + strconv.Itoa(e.Max) + "."
	},
	apikey.InvalidText:           plain("This is not valid text."),
	apikey.InvalidHidden:         valued(" is not seen, or changes how the text beside it is shown. Leave it out."),
	apikey.InvalidBlank:          plain("A name is needed that can be seen."),
	apikey.InvalidPast:           plain("This has to be in the future."),
	apikey.InvalidFuture:         plain("This must not be in the future."),
	apikey.InvalidTooLate:        plain("This is after the year 9999."),
	apikey.InvalidAfterExpiry:    plain("The API key expires before that."),
	apikey.InvalidEmpty:          plain("This is empty. To remove it, clear it."),
	apikey.InvalidNotPublishable: valued(" cannot be given to a publishable API key, which everybody can read."),
	apikey.InvalidUnavailable:    plain("This is not offered here."),
	apikey.InvalidOtherList:      plain("This belongs to another list. Begin with the first page."),
	apikey.InvalidContradiction:  plain("This contradicts another field."),
	apikey.InvalidNotAllowed:     plain("This has to be empty here."),
	apikey.InvalidNotNeeded:      plain("This needs no approval."),
	apikey.InvalidSeveral:        plain("This is here more than once. Give one at a time."),
	apikey.InvalidUnknown: func(e *apikey.InvalidError) string {
		return nameOf(e) + " is not known here." + suggested(" Near it: ", e)
	},
	apikey.InvalidUnusable: func(e *apikey.InvalidError) string {
		return nameOf(e) + " does not approve this." + suggested(" These do: ", e)
	},
}

func plain(text string) func(*apikey.InvalidError) string {
	return func(*apikey.InvalidError) string { return text }
}

func valued(text string) func(*apikey.InvalidError) string {
	return func(e *apikey.InvalidError) string { return nameOf(e) + text }
}

// nameOf is the wrong part of the field, or "This". Somebody has typed the part: what
// cannot be seen in it is replaced.
func nameOf(e *apikey.InvalidError) string {
	if e.Value == "" {
		return "This"
	}
	return "“" + strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, short(e.Value)) + "”"
}

func suggested(before string, e *apikey.InvalidError) string {
	if len(e.Known) == 0 {
		return ""
	}
	return before + strings.Join(e.Known, ", ") + "."
}

func inBytes(n int) string { return count(n, "byte", "bytes") }

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
