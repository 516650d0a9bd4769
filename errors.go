package apikey

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Two categories: every error of Verify that is about the caller wraps one of them, and
// no failure of the library or its store does. An HTTP front maps ErrUnauthenticated to
// 401 and ErrDenied to 403. errors.Is(err, ErrDenied) and errors.Is(err, ErrAbility)
// both hold for an ErrAbility.
var (
	// ErrUnauthenticated: the token is not valid, or its key is revoked, suspended,
	// expired or not valid yet.
	ErrUnauthenticated = errors.New("apikey: not authenticated")
	// ErrDenied: the caller is known and may not do this.
	ErrDenied = errors.New("apikey: denied")
)

// What [Verifier.Verify] returns about a token. A caller without the secret can only
// ever get ErrInvalidToken, and is never told which of the many ways the token is
// wrong.
var (
	// ErrInvalidToken: the token is malformed, unknown, forged or wrong. From Verify,
	// RevokeToken.
	ErrInvalidToken = wrap("apikey: invalid token", ErrUnauthenticated)
	// ErrRevoked: the key was revoked, for ever. From Verify, Update, Resume, Rotate,
	// CancelRotation, Reveal.
	ErrRevoked = wrap("apikey: key is revoked", ErrUnauthenticated)
	// ErrSuspended: the key is disabled until somebody resumes it. From Verify, Rotate.
	ErrSuspended = wrap("apikey: key is suspended", ErrUnauthenticated)
	// ErrCredentialEnded: the key is not revoked, but this token of the key has ended.
	// From Verify.
	ErrCredentialEnded = wrap("apikey: this token has ended", ErrUnauthenticated)
	// ErrNotYetValid: the token's first valid instant has not come. From Verify.
	ErrNotYetValid = wrap("apikey: token is not valid yet", ErrUnauthenticated)
	// ErrExpired: the key has expired. The first refused instant is ExpiresAt itself.
	// From Verify, Rotate.
	ErrExpired = wrap("apikey: key has expired", ErrUnauthenticated)
)

// What [Verifier.Verify] returns to a caller who has proven that they hold the secret.
var (
	// ErrKind: a publishable key where only secret keys are accepted. From Verify,
	// RevokeToken.
	ErrKind = wrap("apikey: this kind of key is not accepted here", ErrDenied)
	// ErrMode: a test key on a live Verifier, or a live key on a test one. From Verify.
	ErrMode = wrap("apikey: key belongs to the other mode", ErrDenied)
	// ErrStanding: [Standing] refuses the account in this mode, or
	// ManagerConfig.Products an ability. From Verify, Issue, Provision (if each mode in
	// which a key is to be made is refused), Rotate, Reveal, Resume, Update if the key
	// may do more afterwards, and Challenge for these; for an ability, from Issue,
	// Provision, Update, Resume.
	ErrStanding = wrap("apikey: account is not allowed", ErrDenied)
	// ErrAddr: the request's address is not in the key's networks, or is unknown. From
	// Verify.
	ErrAddr = wrap("apikey: address is not allowed for this key", ErrDenied)
	// ErrOrigin: the request's Origin is not among the key's origins, or is absent.
	// From Verify.
	ErrOrigin = wrap("apikey: origin is not allowed for this key", ErrDenied)
	// ErrAbility: the key lacks a required ability; see [AbilityError]. From Verify.
	ErrAbility = wrap("apikey: ability is missing", ErrDenied)
)

// Failures of the program itself. They say nothing about the caller, who should try
// again. None of them ever means that a token is valid.
var (
	// ErrBusy: too many hashes or store reads for unknown tokens wait already. From
	// Verify, Issue, Rotate, RevokeToken.
	ErrBusy = errors.New("apikey: busy, try again")
	// ErrUnavailable: the store cannot be reached, or has not been reached for longer
	// than MaxStale; or a KEK, a mail server or a password check that the request needs
	// failed. It wraps the cause. From every method that reads or writes.
	ErrUnavailable = errors.New("apikey: unavailable")
	// ErrNotDone: an ErrUnavailable after which it is certain that nothing was changed, so
	// nobody has to look before they try again. What was to be changed was not written yet
	// when the read, the KEK or the mail failed. A mail may have been sent all the same. From
	// every Manager method but RevokeToken and those that do a batch.
	ErrNotDone = wrap("apikey: unavailable, nothing was done", ErrUnavailable)
	// ErrCorrupt: a stored record is damaged, was changed without this library, or
	// needs a newer version of it; see [CorruptError]. From every method that reads a
	// key.
	ErrCorrupt = errors.New("apikey: stored record is damaged")
	// ErrClosed: the Manager or Verifier was closed.
	ErrClosed = wrap("apikey: closed", ErrUnavailable)
)

// What a [Manager] and a [Store] return.
var (
	// ErrNoActor: the context carries no [Actor], or one without ID or Account; see
	// [WithActor]. From every Manager method but RevokeToken.
	ErrNoActor = errors.New("apikey: no actor in the context: use apikey.WithActor")
	// ErrNotFound: there is no such key, or it is another account's. The two look the
	// same.
	ErrNotFound = errors.New("apikey: not found")
	// ErrForbidden: the [Policy] refuses this actor this action. From every Manager
	// method but RevokeToken, Confirm, Enroll, ConfirmEnrollment, Enrolled, and Disable
	// of one's own factor.
	ErrForbidden = wrap("apikey: action is not allowed for this actor", ErrDenied)
	// ErrInvalid: the request cannot be right; the text says what to change. A Manager
	// method returns an [InvalidError] for each wrong field: see [InvalidFields]. From
	// management and constructors.
	ErrInvalid = errors.New("apikey: invalid request")
	// ErrNoRotation: no rotation waits for its time, so there is none to cancel. From
	// CancelRotation.
	ErrNoRotation = wrap("apikey: no rotation is pending; a switch that has happened is undone by rotating again", ErrInvalid)
	// ErrRotationPending: a new token already waits for its time. From Rotate.
	ErrRotationPending = errors.New("apikey: a rotation is pending")
	// ErrOverlapRunning: an older token still works beside the current one. From
	// Rotate.
	ErrOverlapRunning = errors.New("apikey: an older token still overlaps")
	// ErrLimit: the account has as many keys as its [Limits] allow, or was issued as
	// many in an hour: see [LimitError]. From Issue, Provision, Update, Resume. Or a
	// [Factor] returned more than 64 KiB to store. An [InvalidError] whose field is
	// longer than a limit allows is ErrInvalid and ErrLimit.
	ErrLimit = errors.New("apikey: limit reached")
	// ErrConflict: the record was changed meanwhile. IfVersion did not match (see
	// [VersionError]), or sixteen attempts each met another change.
	ErrConflict = errors.New("apikey: record was changed meanwhile")
	// ErrAlreadyIssued: the same request was made before with this idempotency key. The
	// answer carries the key, never its secret again. From Issue.
	ErrAlreadyIssued = errors.New("apikey: already issued under this idempotency key")
	// ErrIdempotencyMismatch: another request was made before with this idempotency
	// key. From Issue.
	ErrIdempotencyMismatch = errors.New("apikey: idempotency key was used for another request")
	// ErrStepUpRequired: the action has to be approved first; see [ChallengeError].
	// From guarded actions.
	ErrStepUpRequired = wrap("apikey: action has to be approved by a factor", ErrDenied)
	// ErrGrant: the grant was used, has expired, or approves something else; see
	// [ApprovalError]. From guarded actions.
	ErrGrant = wrap("apikey: this grant does not approve this request: confirm a new challenge", ErrStepUpRequired)
	// ErrChallenge: the challenge is unknown, somebody else's, expired, ended by wrong
	// answers, or replaced by a later challenge, or its grant was used; see
	// [ApprovalError]. From Confirm.
	ErrChallenge = wrap("apikey: this challenge cannot be answered any more: put a new one", ErrDenied)
	// ErrWrongAnswer: the answer is wrong and was counted; see [WrongAnswerError] for
	// how many are left. From Confirm, ConfirmEnrollment.
	ErrWrongAnswer = wrap("apikey: wrong answer", ErrDenied)
	// ErrTooManyAttempts: the actor has to wait; see [AttemptsError]. From Challenge,
	// Resend, Confirm, ConfirmEnrollment.
	ErrTooManyAttempts = wrap("apikey: too many attempts", ErrDenied)
	// ErrLocked: the actor gave a hundred wrong answers; see [Manager.LiftLock]. From
	// Challenge, Resend, Confirm, ConfirmEnrollment and guarded actions.
	ErrLocked = wrap("apikey: guarded actions are locked for this actor: another admin or an operator lifts it", ErrDenied)
	// ErrNotEnrolled: the actor has not set this factor up, or has not confirmed it;
	// the text says what to do. From Challenge, Resend, ConfirmEnrollment.
	ErrNotEnrolled = errors.New("apikey: factor is not enrolled")
	// ErrNotRecoverable: the token was shown once and only its hash is stored. From
	// Reveal.
	ErrNotRecoverable = errors.New("apikey: token is not recoverable: rotate the key for a new one")
	// ErrPepper: the configured peppers are not those of this database. From
	// constructors.
	ErrPepper = errors.New("apikey: wrong or missing pepper")
	// ErrCursorLost: the store no longer has this position of the change feed. Its
	// history was rewritten: a backup was restored, or a failover lost commits. From
	// Store.Changed.
	ErrCursorLost = errors.New("apikey: change feed position is lost, read everything again")
)

// CorruptError names the key whose record cannot be trusted. It wraps ErrCorrupt and
// holds no secret. Its text is for operators, never for the client. Its JSON is the key
// alone, so that a [KeyList] can be sent to the merchant: log the error itself.
type CorruptError struct {
	Key     KeyID  `json:"key,omitzero"` // zero: the ID could not be read
	Detail  string `json:"-"`            // what is wrong, without values
	Account string `json:"-"`            // the account in the record; empty: it could not be read
}

// Error names the key and what is wrong with its record.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: key %s: %s", ErrCorrupt, e.Key, e.Detail)
}

// Unwrap is ErrCorrupt.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// AbilityError names the required ability that the key lacks, and never those that the
// key has. It wraps ErrAbility.
type AbilityError struct {
	Missing Ability
}

// Error names the missing ability.
func (e *AbilityError) Error() string { return fmt.Sprintf("%v: %s", ErrAbility, e.Missing) }

// Unwrap is ErrAbility.
func (e *AbilityError) Unwrap() error { return ErrAbility }

// ChallengeError says that an action has to be approved first, and how this actor can
// get the approval. It wraps ErrStepUpRequired.
type ChallengeError struct {
	Action Action // the guarded action; for an update it may be ActionWiden
	Key    KeyID  // zero: the action is about no existing key
	// Factors approve the action and can be used by this actor now: any one of them,
	// with [Manager.Challenge]. If Factors, Enroll and ByAnother are all empty, StepUp
	// names no factor and the action is refused all the same, which happens for Reveal.
	// Then no challenge helps, only another configuration.
	Factors []string
	// Enroll lists factors that would approve the action once the actor has set them up
	// with [Manager.Enroll] and [Manager.ConfirmEnrollment].
	Enroll []string
	// ByAnother: the actor has no factor to go on with. Another admin of the account
	// who has one, or an [Operator], lets the actor set one up
	// ([Manager.AllowEnrollment]) or removes one ([Manager.Disable]).
	ByAnother bool
}

// Error names the action and what to do.
func (e *ChallengeError) Error() string {
	return fmt.Sprintf("%v: %s %s", ErrStepUpRequired, e.Action, e.way())
}

// way is how the action can be approved.
func (e *ChallengeError) way() string {
	const another = "another admin of the account who has a factor, or an operator, "
	switch {
	case len(e.Factors) > 0:
		return fmt.Sprintf("needs one of %v", e.Factors)
	case e.ByAnother && e.Action == ActionDisable:
		return "has to be done by somebody else, for this actor has no factor: " + another + "calls Disable for them"
	case e.ByAnother && len(e.Enroll) == 0:
		return "has to be allowed by somebody else, for this actor has no factor: " + another + "calls AllowEnrollment for them"
	case e.ByAnother:
		return fmt.Sprintf("needs one of %v, which this actor has not set up: %scalls AllowEnrollment for them, then they call Enroll and ConfirmEnrollment", e.Enroll, another)
	case len(e.Enroll) > 0:
		return fmt.Sprintf("needs one of %v, which this actor has not set up: they call Enroll and ConfirmEnrollment first", e.Enroll)
	}
	return "is refused: configure a factor for it in ManagerConfig.StepUp"
}

// Unwrap is ErrStepUpRequired.
func (e *ChallengeError) Unwrap() error { return ErrStepUpRequired }

// ApprovalError says why a grant does not approve a request, or why a challenge cannot be
// answered. It wraps ErrGrant or ErrChallenge.
type ApprovalError struct {
	Code ApprovalCode

	of error // ErrGrant or ErrChallenge
}

// ApprovalCode says why an approval is refused.
type ApprovalCode string

const (
	// ApprovalExpired: the ten minutes of the challenge or the two of the grant are over.
	ApprovalExpired ApprovalCode = "expired"
	// ApprovalUsed: the grant was used, so the action was done, although its answer may
	// have been lost.
	ApprovalUsed ApprovalCode = "used"
	// ApprovalSpent: the challenge has had five wrong answers.
	ApprovalSpent ApprovalCode = "spent"
	// ApprovalOther: the grant approves another request, or the same with other values.
	ApprovalOther ApprovalCode = "other_request"
	// ApprovalChanged: somebody has changed the key since it was approved.
	ApprovalChanged ApprovalCode = "key_changed"
	// ApprovalUnknown: there is no such challenge or grant. It never was, is another
	// actor's, or was replaced by a later one.
	ApprovalUnknown ApprovalCode = "unknown"
)

// Error says why, and what to do.
func (e *ApprovalError) Error() string { return fmt.Sprintf("%v (%s)", e.Unwrap(), because[e.Code]) }

// Unwrap is ErrGrant or ErrChallenge.
func (e *ApprovalError) Unwrap() error { return cmp.Or(e.of, ErrGrant) }

var because = map[ApprovalCode]string{
	ApprovalExpired: "its time is over",
	ApprovalUsed:    "it was used",
	ApprovalSpent:   "it has had five wrong answers",
	ApprovalOther:   "it approves another request",
	ApprovalChanged: "the key has changed since it was approved",
	ApprovalUnknown: "there is no such one: a later one may have replaced it, or it is another actor's",
}

// LimitError says which limit of an account is reached. It wraps ErrLimit.
type LimitError struct {
	// Limit is one of LimitLiveKeys, LimitKeys, LimitIssuesAnHour, LimitFactorData.
	Limit string
	Max   int  // how many are allowed; for LimitFactorData bytes
	Mode  Mode // of LimitLiveKeys; zero otherwise
	// Wait is when there is room again, more than 0; zero: time alone makes no room.
	Wait time.Duration

	text string // for developers
}

// The limits that a [LimitError] names: of [Limits] LiveKeys, Keys and IssuesAnHour; and
// what a [Factor] of the program may store.
const (
	LimitLiveKeys     = "live_keys"
	LimitKeys         = "keys"
	LimitIssuesAnHour = "issues_an_hour"
	LimitFactorData   = "factor_data"
)

// Error names the limit and what to do.
func (e *LimitError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("%v: %s, at most %d", ErrLimit, e.Limit, e.Max)
	}
	return fmt.Sprintf("%v: %s", ErrLimit, e.text)
}

// Unwrap is ErrLimit.
func (e *LimitError) Unwrap() error { return ErrLimit }

// VersionError says that the key is not at the version that the request names
// (IfVersion): somebody has changed it since it was read. It wraps ErrConflict.
type VersionError struct {
	Have uint64 // the version of the key now
	Want uint64 // IfVersion
}

// Error names both versions.
func (e *VersionError) Error() string {
	return fmt.Sprintf("%v: the key is at version %d, not %d", ErrConflict, e.Have, e.Want)
}

// Unwrap is ErrConflict.
func (e *VersionError) Unwrap() error { return ErrConflict }

// sentinel is an error that belongs to a category.
type sentinel struct {
	text     string
	category error
}

func wrap(text string, category error) error { return &sentinel{text, category} }

func (s *sentinel) Error() string { return s.text }

func (s *sentinel) Unwrap() error { return s.category }

// unavailable wraps what a store answered so that callers can tell "we failed"
// from "you are wrong". Errors that already say which of the two pass through.
func unavailable(err error) error {
	for _, known := range []error{ErrUnavailable, ErrCorrupt, ErrBusy, ErrNotFound, ErrConflict, ErrCursorLost} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// notDoneError is an ErrUnavailable after which nothing was done. Its text is that of err.
type notDoneError struct{ err error }

func (e *notDoneError) Error() string { return e.err.Error() }

func (e *notDoneError) Unwrap() []error { return []error{ErrNotDone, e.err} }

// notDone says of an ErrUnavailable that nothing was done. Other errors are what they are.
func notDone(err error) error {
	if _, is := err.(*notDoneError); is || !isUnavailable(err) {
		return err
	}
	return &notDoneError{err}
}

// mayBeDone takes back what notDone has said of a part of a call.
func mayBeDone(err error) error {
	if e, is := err.(*notDoneError); is {
		return e.err
	}
	return err
}

// isUnavailable reports whether an error of ours is an ErrUnavailable, and not another one
// that has it as a cause, as an ErrForbidden because a Policy could not ask its database.
func isUnavailable(err error) bool {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return isUnavailable(e.Unwrap())
	case interface{ Unwrap() []error }: // the first part says what an error is
		parts := e.Unwrap()
		return len(parts) > 0 && isUnavailable(parts[0])
	}
	return err == ErrUnavailable
}

// storeError makes any error of a store one of ours. A store knows no fields of a
// request: what it says of one is a cause like any other.
func storeError(err error) error {
	if errors.Is(err, ErrInvalid) && len(InvalidFields(err)) == 0 {
		return err
	}
	return unavailable(err)
}

// joined is a sentinel with what caused it.
func joined(s, cause error) error { return fmt.Errorf("%w: %w", s, cause) }
