package apikey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// RevealRequest names the key whose token is shown again.
type RevealRequest struct {
	Key        KeyID
	Credential CredentialID // which token: zero is the current one; otherwise a live one

	Grant Grant `json:"-"` // if StepUp guards ActionReveal
}

func (r RevealRequest) guarded() approval {
	return approval{
		job: job{action: ActionReveal, subject: aKey, key: r.Key, stands: true, refuses: r.refuses},
		sum: sumOf(ActionReveal, func(c *canon.Writer) {
			c.Bytes(r.Key[:])
			c.Bytes(r.Credential[:])
		}),
	}
}

// refuses is why a key has no token to show.
func (r RevealRequest) refuses(_ context.Context, s session, _ Actor, stored *StoreRecord) error {
	switch {
	case stored.State() == Revoked:
		return ErrRevoked
	case !traits(stored.Kind).reveals(stored.Recoverable):
		return ErrNotRecoverable
	case !s.cfg.reveals(stored.Mode):
		return &ChallengeError{Action: ActionReveal, Key: stored.ID}
	}
	_, err := r.credential(stored, s.settings.Now())
	return err
}

// credential returns the credential whose token is to be shown.
func (r RevealRequest) credential(stored *StoreRecord, now time.Time) (*StoreCredential, error) {
	c := stored.credential(cmp.Or(r.Credential, stored.current(now)))
	if c == nil || !c.live(now) {
		return nil, ErrNotFound
	}
	return c, nil
}

// Revealed is a token that is shown again. The JSON of Revealed has a secret token
// redacted: whoever answers with it writes Token.Reveal themselves.
type Revealed struct {
	Token Token `json:"token,omitzero"`
	Key   Info  `json:"key"`
	// HideAfter is how long to show the token: 30 s. In JSON it is hide_after_seconds.
	HideAfter time.Duration `json:"-"`
}

const hideAfter = 30 * time.Second

// Reveal returns the token of a Recoverable key, or of a publishable one. It opens the
// sealed copy first, then redeems the grant and writes the event, both together, and
// only then returns the token. So a KEK that fails costs no grant, and no token is
// revealed without an event.
//
// If StepUp names no factor for ActionReveal, Reveal is refused with a
// *[ChallengeError] that names none, unless ManagerConfig.InsecureRevealWithoutStepUp
// is set. Errors: those of the table in the package documentation, and:
//   - ErrNotFound: also when the credential is not live
//   - ErrCorrupt: also when the copy does not open
//   - ErrUnavailable: also when the KEK fails or is not configured
//   - ErrStanding, ErrRevoked, ErrNotRecoverable
//   - ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked
func (m *Manager) Reveal(ctx context.Context, req RevealRequest) (Revealed, error) {
	s := m.own()
	var shown Revealed
	j := req.guarded().asking(req.Grant)
	j.work = func(a Actor, stored *StoreRecord) (effect, error) {
		r := stored.clone()
		cred, err := req.credential(&r, s.settings.Now())
		if err != nil {
			return effect{}, err
		}
		text, err := s.unseal(ctx, &r, cred)
		if err != nil {
			return effect{}, err
		}
		now := s.settings.Now()
		if !cred.live(now) { // it ended while the KEK was asked
			return effect{}, ErrNotFound
		}
		shown = Revealed{newToken(text), s.describeAll(&r, now), hideAfter}
		shown.Key.Version++
		return effect{made: []made{{record: &r, credential: cred.ID}}}, nil
	}
	if err := s.do(ctx, j); err != nil {
		return Revealed{}, err
	}
	return shown, nil
}

// unseal opens the sealed copy of a credential's token, and refuses it if it is not
// that credential's token.
func (s session) unseal(ctx context.Context, r *StoreRecord, cred *StoreCredential) (string, error) {
	if cred.Public != "" {
		return cred.Public, nil
	}
	if len(cred.Sealed) == 0 {
		return "", &CorruptError{Key: r.ID, Detail: "the sealed copy is missing"}
	}
	plain, err := s.vault.open(ctx, cred.Sealed, cred.SealedKEK, sealedAAD(r, cred.ID))
	if errors.Is(err, ErrCorrupt) {
		return "", &CorruptError{Key: r.ID, Detail: "the sealed copy does not open: " + mayBeOtherKEK(cred.SealedKEK)}
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

// Reseal seals again, under the first KEK, what other KEKs sealed: the tokens of
// Recoverable keys and TOTP seeds. It does at most limit values, 1 to 1000; 0 means
// 100. It returns how many it did; if two nodes call Reseal at once, both may count the
// same token. Only an [Operator] may call Reseal.
//
// To replace a KEK, put the new one first in every Manager's list, call Reseal until it
// returns 0 and no error, and take the old one out. After a crash, call Reseal again:
// no copy is replaced before the new one was opened.
//
// A value that does not open stays as it is and is in the error, and Reseal goes on
// with the others. A KEK that fails for two values in a row ends the call. Errors:
// those of the table in the package documentation.
func (m *Manager) Reseal(ctx context.Context, limit int) (done int, err error) {
	s := m.own()
	var sealless error
	if len(s.vault.keks) == 0 {
		sealless = wrong("", InvalidUnavailable, "Reseal needs a KEK in ManagerConfig.KEKs")
	}
	if err := allWrong(sealless, batchSize(limit)); err != nil {
		return 0, err
	}
	limit = cmp.Or(limit, usualBatch)
	batch := resealing{session: s, kek: s.vault.keks[0].ID(), left: limit}
	err = s.do(ctx, ofStore(ActionReseal).reading(func(Actor, *StoreRecord) error {
		err := batch.tokens(ctx)
		for _, kind := range []StoreItemKind{itemEnrolled, itemEnrolling} {
			if err == nil {
				err = batch.enrolments(ctx, kind)
			}
		}
		return err
	}))
	err = mayBeDone(err) // here as below: other values may have been sealed
	if done = limit - batch.left; done > 0 {
		// The values are sealed again already: their event is written as soon as the store
		// takes it.
		j := ofStore(ActionReseal).changing(func(a Actor, _ *StoreRecord) (effect, error) {
			return effect{note: s.note(a, ActionReseal, "", fmt.Sprintf("sealed:%d", done))}, nil
		})
		j.aim = toLessen
		err = errors.Join(err, mayBeDone(s.do(ctx, j)))
	}
	if batch.more > 0 {
		batch.failed = append(batch.failed, fmt.Errorf("and %d more", batch.more))
	}
	return done, errors.Join(append(batch.failed, err)...)
}

// resealing is one call of Reseal at work.
type resealing struct {
	session
	kek    string // ID of the KEK of the new copies
	left   int
	down   bool // a KEK failed, and no value was sealed anew since
	failed []error
	more   int // failures beyond maxFailures
}

// took counts what became of one value. Only a KEK that cannot be reached ends the
// batch: each of the other values would wait for its timeout too. One failure does not
// show that. The KEK may report a damaged value as a failure of its own, and one such
// row must not keep all those behind it under the old KEK.
func (b *resealing) took(what string, err error) error {
	switch kek := errors.Is(err, errKEK); {
	case kek && b.down:
		return fmt.Errorf("%s: %w", what, err)
	case kek:
		b.down = true
	case err == nil:
		b.left--
		b.down = false
		return nil
	case errors.Is(err, ErrConflict): // it was changed just now; the next call finds it
		return nil
	}
	if len(b.failed) == maxFailures {
		b.more++
		return nil
	}
	b.failed = append(b.failed, fmt.Errorf("%s: %w", what, storeError(err)))
	return nil
}

const maxFailures = 100

func (b *resealing) again(ctx context.Context, sealed []byte, kek string, aad []byte) ([]byte, string, error) {
	plain, err := b.vault.open(ctx, sealed, kek, aad)
	if err != nil {
		return nil, "", err
	}
	return b.vault.seal(ctx, plain, aad)
}

func (b *resealing) tokens(ctx context.Context) error {
	f := StoreFilter{SealedKEKNot: b.kek, Limit: 100}
	for b.left > 0 {
		page, err := b.store.List(ctx, f)
		if err != nil {
			return storeError(err)
		}
		for _, d := range page.Damaged { // the old KEK has to stay for these
			b.failed = append(b.failed, d)
		}
		for i := range page.Records {
			r := &page.Records[i]
			for _, cred := range r.Credentials {
				if len(cred.Sealed) == 0 || cred.SealedKEK == b.kek || b.left == 0 {
					continue
				}
				err := b.took(fmt.Sprintf("key %s, credential %s", r.ID, cred.ID), b.token(ctx, r, cred))
				if err != nil {
					return err
				}
			}
		}
		if page.Next == "" {
			break
		}
		f.After = page.Next
	}
	return nil
}

func (b *resealing) token(ctx context.Context, r *StoreRecord, cred StoreCredential) (err error) {
	up := StoreUpkeep{Credential: cred.ID, OldSealed: cred.Sealed}
	if up.NewSealed, up.NewKEK, err = b.again(ctx, cred.Sealed, cred.SealedKEK, sealedAAD(r, cred.ID)); err != nil {
		return err
	}
	return b.store.Upkeep(ctx, []StoreUpkeep{up})
}

func (b *resealing) enrolments(ctx context.Context, kind StoreItemKind) error {
	f := StoreItemFilter{Kind: kind, SealedKEKNot: b.kek, Limit: 100}
	for b.left > 0 {
		page, err := b.store.Items(ctx, f)
		if err != nil {
			return storeError(err)
		}
		for _, it := range page.Items {
			if b.left == 0 {
				break
			}
			if err := b.took("enrolment "+it.ID, b.enrolment(ctx, it)); err != nil {
				return err
			}
		}
		if page.Next == "" {
			break
		}
		f.After = page.Next
	}
	return nil
}

func (b *resealing) enrolment(ctx context.Context, it StoreItem) error {
	aad, sealed, ok := splitSealed(it.Data)
	if !ok {
		return errEnrolled
	}
	again, kek, err := b.again(ctx, sealed, it.SealedKEK, aad)
	if err != nil {
		return err
	}
	it.Version++
	it.Data, it.SealedKEK = joinSealed(aad, again), kek
	// This has no event, like the swap of a token: the value inside is the same, and the
	// batch has an event.
	return b.store.Apply(ctx, StoreChange{ID: newEventID(), Items: []StoreItem{it}})
}
