package apikey

import (
	"errors"
	"fmt"
	"time"
)

// Two categories hold every answer that is about the caller and not about us.
// An HTTP front maps the first to 401 and the second to 403; the sentinels
// below wrap them, so errors.Is(err, ErrDenied) and errors.Is(err, ErrAbility)
// both hold.
var (
	// ErrUnauthenticated: the token is not valid, or its key is revoked, suspended,
	// expired or not valid yet.
	ErrUnauthenticated = errors.New("apikey: not authenticated")
	// ErrDenied: we know who asks, and they may not.
	ErrDenied = errors.New("apikey: denied")
)

// Answers of [Verifier.Verify] about a token. ErrInvalidToken is the only one
// that somebody without the secret can ever get: which of the many ways a
// token is wrong is never said.
var (
	// ErrInvalidToken: malformed, unknown, forged or wrong. Verify, RevokeToken.
	ErrInvalidToken = wrap("apikey: invalid token", ErrUnauthenticated)
	// ErrRevoked: the key was revoked, for ever. Verify, Update, Resume, Rotate,
	// CancelRotation, Reveal.
	ErrRevoked = wrap("apikey: key is revoked", ErrUnauthenticated)
	// ErrSuspended: the key is disabled until somebody resumes it. Verify, Rotate.
	ErrSuspended = wrap("apikey: key is suspended", ErrUnauthenticated)
	// ErrCredentialEnded: the key is not revoked, but this token of the key has ended. Verify.
	ErrCredentialEnded = wrap("apikey: this token has ended", ErrUnauthenticated)
	// ErrNotYetValid: the token's time has not come. Verify.
	ErrNotYetValid = wrap("apikey: token is not valid yet", ErrUnauthenticated)
	// ErrExpired: the key's expiry has passed; the first refused instant is ExpiresAt itself. Verify, Rotate.
	ErrExpired = wrap("apikey: key has expired", ErrUnauthenticated)
)

// Answers of [Verifier.Verify] to a caller who has proven the key.
var (
	// ErrKind: a publishable key where only secret keys are taken. Verify.
	ErrKind = wrap("apikey: this kind of key is not accepted here", ErrDenied)
	// ErrMode: a test key on a live verifier, or the reverse. Verify.
	ErrMode = wrap("apikey: key belongs to the other mode", ErrDenied)
	// ErrStanding: the account may not use the API in this mode now (see [Standing]).
	// Verify, Issue, Provision (where it refuses each mode in which a key is to be
	// made), Rotate, Reveal, Resume, Update where it lets a key do more, and Challenge
	// for these; Issue, Provision and Update for an ability (see ManagerConfig.Products).
	ErrStanding = wrap("apikey: account is not allowed", ErrDenied)
	// ErrAddr: the request's address is not in the key's networks, or is unknown. Verify.
	ErrAddr = wrap("apikey: address is not allowed for this key", ErrDenied)
	// ErrOrigin: the request's Origin is not among the key's origins, or is absent. Verify.
	ErrOrigin = wrap("apikey: origin is not allowed for this key", ErrDenied)
	// ErrAbility: the key lacks an ability that was required; see [AbilityError]. Verify.
	ErrAbility = wrap("apikey: ability is missing", ErrDenied)
)

// Failures of the program itself: nothing is known about the caller, who should try
// again. None of them ever means that a token is valid.
var (
	// ErrBusy: too many hashes or cold reads wait already. Verify, Issue, Rotate, RevokeToken.
	ErrBusy = errors.New("apikey: busy, try again")
	// ErrUnavailable: the store cannot be reached, or has not been for longer than MaxStale; or a KEK,
	// a mail server or a password check that the request needs. Wraps the cause. Everything that reads or writes.
	ErrUnavailable = errors.New("apikey: unavailable")
	// ErrCorrupt: a stored record is damaged, was changed behind the library's back, or needs a
	// newer version of it; see [CorruptError]. Everything that reads a key.
	ErrCorrupt = errors.New("apikey: stored record is damaged")
	// ErrClosed: the Manager or Verifier was closed.
	ErrClosed = wrap("apikey: closed", ErrUnavailable)
)

// Answers of management and of the [Store].
var (
	// ErrNoActor: the context carries no [Actor]; see [WithActor]. Every Manager method but RevokeToken.
	ErrNoActor = errors.New("apikey: no actor in the context: use apikey.WithActor")
	// ErrNotFound: there is no such key, or it is another account's; the two are never told apart.
	ErrNotFound = errors.New("apikey: not found")
	// ErrForbidden: the [Policy] refuses this actor this action. Every Manager method but RevokeToken,
	// Confirm, Enroll, ConfirmEnrollment, Enrolled, and Disable of one's own factor.
	ErrForbidden = wrap("apikey: action is not allowed for this actor", ErrDenied)
	// ErrInvalid: a request that cannot be right; the text says what to change. Management, constructors.
	ErrInvalid = errors.New("apikey: invalid request")
	// ErrRotationPending: a new token waits for its time already. Rotate.
	ErrRotationPending = errors.New("apikey: a rotation is pending")
	// ErrOverlapRunning: an older token still works beside the current one. Rotate.
	ErrOverlapRunning = errors.New("apikey: an older token still overlaps")
	// ErrLimit: the request is beyond one of the [Limits]. Issue, Provision, Update, Resume.
	// Or a [Factor] wants to keep more than 64 KiB.
	ErrLimit = errors.New("apikey: limit reached")
	// ErrConflict: the record changed meanwhile: IfVersion did not hold, or sixteen attempts were in vain.
	ErrConflict = errors.New("apikey: record was changed meanwhile")
	// ErrAlreadyIssued: this idempotency key was used by the same request before; the answer
	// carries that key, never its secret again. Issue.
	ErrAlreadyIssued = errors.New("apikey: already issued under this idempotency key")
	// ErrIdempotencyMismatch: this idempotency key was used by another request. Issue.
	ErrIdempotencyMismatch = errors.New("apikey: idempotency key was used for another request")
	// ErrStepUpRequired: the action has to be approved first; see [ChallengeError]. Every guarded action.
	ErrStepUpRequired = wrap("apikey: action has to be approved by a factor", ErrDenied)
	// ErrGrant: the grant was used, has expired, or approves something else. Every guarded action.
	ErrGrant = wrap("apikey: this grant does not approve this request: confirm a new challenge", ErrStepUpRequired)
	// ErrChallenge: unknown, somebody else's, answered, expired, spent by wrong answers, or ended by
	// a later challenge. Confirm.
	ErrChallenge = wrap("apikey: this challenge cannot be answered any more: put a new one", ErrDenied)
	// ErrWrongAnswer: it was counted; see [WrongAnswerError] for how many are left. Confirm, ConfirmEnrollment.
	ErrWrongAnswer = wrap("apikey: wrong answer", ErrDenied)
	// ErrTooManyAttempts: see [AttemptsError] for how long to wait. Challenge, Resend, Confirm, ConfirmEnrollment.
	ErrTooManyAttempts = wrap("apikey: too many attempts", ErrDenied)
	// ErrLocked: a hundred wrong answers; see LiftLock. Challenge, Resend, Confirm, ConfirmEnrollment, every guarded action.
	ErrLocked = wrap("apikey: guarded actions are locked for this actor: another admin or an operator lifts it", ErrDenied)
	// ErrNotEnrolled: the actor has not set this factor up, or has not confirmed it; the text says the
	// way out. Challenge, Resend, ConfirmEnrollment.
	ErrNotEnrolled = errors.New("apikey: factor is not enrolled")
	// ErrNotRecoverable: the token was shown once and only its hash is kept. Reveal.
	ErrNotRecoverable = errors.New("apikey: token is not recoverable: rotate the key for a new one")
	// ErrPepper: the configured peppers are not those of this database. Constructors.
	ErrPepper = errors.New("apikey: wrong or missing pepper")
	// ErrCursorLost: a feed position that the store no longer knows: its history was rewritten
	// (backup restored, failover that lost commits). Store.Changed.
	ErrCursorLost = errors.New("apikey: change feed position is lost, read everything again")
)

// CorruptError names the key whose record cannot be trusted. It wraps
// ErrCorrupt and holds no secret; it is for operators, never for the client.
type CorruptError struct {
	Key     KeyID  // zero if not even that could be read
	Detail  string // what is wrong, without values
	Account string // whose it says it is; empty if that could not be read
}

// Error names the key and what is wrong with its record.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: key %s: %s", ErrCorrupt, e.Key, e.Detail)
}

// Unwrap is ErrCorrupt.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// AbilityError says which of the required abilities the key lacks, never which
// it holds. It wraps ErrAbility.
type AbilityError struct {
	Missing Ability
}

// Error names the missing ability.
func (e *AbilityError) Error() string { return fmt.Sprintf("%v: %s", ErrAbility, e.Missing) }

// Unwrap is ErrAbility.
func (e *AbilityError) Unwrap() error { return ErrAbility }

// ChallengeError says that an action has to be approved first, and how this actor can
// have that done. It wraps ErrStepUpRequired.
type ChallengeError struct {
	Action Action // what is guarded: of an update it may be ActionWiden
	Key    KeyID  // zero: about no existing key
	// Factors are those that approve the action and that this actor can use now: any
	// one of them, with [Manager.Challenge]. Where the next two fields are empty too,
	// StepUp names none, and the action is refused all the same: Reveal. Then no
	// challenge helps, only another configuration.
	Factors []string
	// Enroll are factors that would approve the action once the actor has set them up
	// with [Manager.Enroll] and [Manager.ConfirmEnrollment].
	Enroll []string
	// ByAnother: the actor has no factor with which they could go on. Another admin of
	// the account who has one, or an [Operator], lets them set one up
	// ([Manager.AllowEnrollment]) or takes one away ([Manager.Disable]).
	ByAnother bool
}

// Error names the action and the way out.
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

// AttemptsError says how long an actor has to wait before they may try again. It
// wraps ErrTooManyAttempts: ten wrong answers in an hour, five codes sent to the
// actor in an hour, over all accounts, or twenty to the actor's address.
type AttemptsError struct {
	Wait time.Duration // more than 0
}

// Error says when to try again.
func (e *AttemptsError) Error() string {
	return fmt.Sprintf("%v: try again in %v", ErrTooManyAttempts, e.Wait)
}

// Unwrap is ErrTooManyAttempts.
func (e *AttemptsError) Unwrap() error { return ErrTooManyAttempts }

// WrongAnswerError says how many more wrong answers the actor may give before they
// have to do something else. It wraps ErrWrongAnswer.
type WrongAnswerError struct {
	// Left is the least of what the challenge, the hour and the lock leave: 0 to 4, and
	// for ConfirmEnrollment, which has no challenge, 0 to 9. At 0 the next Challenge
	// either puts a new question or says how long to wait.
	Left int
}

// Error says how many are left.
func (e *WrongAnswerError) Error() string {
	switch e.Left {
	case 0:
		return fmt.Sprintf("%v: no attempt is left", ErrWrongAnswer)
	case 1:
		return fmt.Sprintf("%v: 1 attempt is left", ErrWrongAnswer)
	}
	return fmt.Sprintf("%v: %d attempts are left", ErrWrongAnswer, e.Left)
}

// Unwrap is ErrWrongAnswer.
func (e *WrongAnswerError) Unwrap() error { return ErrWrongAnswer }

// sentinel is an error that belongs to a category.
type sentinel struct {
	text     string
	category error
}

func wrap(text string, category error) error { return &sentinel{text, category} }

func (s *sentinel) Error() string { return s.text }

func (s *sentinel) Unwrap() error { return s.category }

// invalid is an ErrInvalid that says what to do.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

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

// storeError makes any error of a store one of ours.
func storeError(err error) error {
	if errors.Is(err, ErrInvalid) {
		return err
	}
	return unavailable(err)
}

// joined is a sentinel with what caused it.
func joined(s, cause error) error { return fmt.Errorf("%w: %w", s, cause) }

// quote shows a caller's text in an error without letting it flood a log.
func quote(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%.60q…", s)
	}
	return fmt.Sprintf("%q", s)
}
