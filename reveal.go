package apikey

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// RevealRequest names the key whose token is shown again.
type RevealRequest struct {
	Key        KeyID
	Credential CredentialID // zero: the current one; otherwise another live one

	Grant Grant `json:"-"`
}

func (r RevealRequest) guarded() approval {
	return approval{
		job: job{action: ActionReveal, subject: aKey, key: r.Key, stands: true, first: recoverable},
		sum: sumOf(ActionReveal, func(c *canon.Writer) {
			c.Bytes(r.Key[:])
			c.Bytes(r.Credential[:])
		}),
	}
}

// recoverable refuses what has no token to show.
func recoverable(_ context.Context, _ session, _ Actor, r *StoreRecord) error {
	switch {
	case r.State() == Revoked:
		return ErrRevoked
	case r.Kind == Secret && !r.Recoverable:
		return ErrNotRecoverable
	}
	return nil
}

// Revealed is a token that is shown again.
type Revealed struct {
	Token Token
	Key   Info
	// HideAfter is how long to show it: 30 s.
	HideAfter time.Duration
}

const hideAfter = 30 * time.Second

// Reveal returns the token of a Recoverable key. The sealed copy is opened
// first; then the grant is redeemed and the event written, together; and only
// then is the token returned: a KEK that fails spends nothing, and there is no
// reveal without an event.
//
// Without any factor that approves it Reveal is refused, with a *[ChallengeError]
// that names none, unless ManagerConfig.InsecureRevealWithoutStepUp is set. Errors: ErrNoActor,
// ErrNotFound (also of a credential that is not live), ErrForbidden,
// ErrStanding, ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked, ErrRevoked,
// ErrNotRecoverable, ErrCorrupt (the copy does not open), ErrConflict,
// ErrUnavailable (the KEK is away or not configured).
func (m *Manager) Reveal(ctx context.Context, req RevealRequest) (Revealed, error) {
	s := m.own()
	var shown Revealed
	j := req.guarded().asking(req.Grant)
	j.work = func(a Actor, stored *StoreRecord) (effect, error) {
		now := s.cfg.Now()
		r := stored.clone()
		stepUp, err := s.factorsFor(ctx, a, j)
		if err != nil {
			return effect{}, err
		}
		if len(stepUp(ActionReveal, r.Mode)) == 0 && !s.cfg.InsecureRevealWithoutStepUp {
			return effect{}, &ChallengeError{Action: ActionReveal, Key: r.ID}
		}
		id := cmp.Or(req.Credential, r.current(now))
		cred := r.credential(id)
		if cred == nil || !cred.live(now) {
			return effect{}, ErrNotFound
		}
		text, err := s.unseal(ctx, &r, cred)
		if err != nil {
			return effect{}, err
		}
		if now = s.cfg.Now(); !cred.live(now) { // it ended while the KEK was asked
			return effect{}, ErrNotFound
		}
		shown = Revealed{newToken(text), s.describeAll(&r, now), hideAfter}
		shown.Key.Version++
		return effect{made: []made{{record: &r, credential: id}}}, nil
	}
	if err := s.do(ctx, j); err != nil {
		return Revealed{}, err
	}
	return shown, nil
}

// unseal opens a credential's copy, and believes it only if it is that
// credential's token.
func (s session) unseal(ctx context.Context, r *StoreRecord, cred *StoreCredential) (string, error) {
	if cred.Public != "" {
		return cred.Public, nil
	}
	if len(cred.Sealed) == 0 {
		return "", &CorruptError{Key: r.ID, Detail: "the sealed copy is missing"}
	}
	plain, err := s.vault.open(ctx, cred.Sealed, cred.SealedKEK, sealedAAD(r, cred.ID))
	if errors.Is(err, ErrCorrupt) {
		return "", &CorruptError{Key: r.ID, Detail: "the sealed copy does not open"}
	}
	if err != nil {
		return "", err
	}
	p, err := s.parse(string(plain))
	if err != nil || p.id != cred.ID {
		return "", &CorruptError{Key: r.ID, Detail: "the sealed copy is not this credential's token"}
	}
	return p.text, nil
}
