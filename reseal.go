package apikey

import (
	"context"
	"errors"
	"fmt"
)

// Reseal seals under the first KEK what others sealed: the tokens of Recoverable
// keys, and TOTP seeds, limit values at most: 1 to 1000; 0 means 100. It returns how
// many; of two nodes that reseal at once both
// may count a token. To replace a KEK, put the new one first in every
// Manager's list, call Reseal until it returns 0 and no error, and take the old
// one out. Killed in between, it goes on where it was; nothing is replaced
// before the new copy was opened.
//
// What does not open is left as it is and is in the error; the others are done.
// A KEK that fails for two values in a row ends the call. It is for an [Operator]; others get
// ErrForbidden. Errors: ErrNoActor, ErrForbidden, ErrInvalid, ErrCorrupt,
// ErrUnavailable.
func (m *Manager) Reseal(ctx context.Context, limit int) (done int, err error) {
	s := m.own()
	if len(s.vault.keks) == 0 {
		return 0, invalid("Reseal needs a KEK in ManagerConfig.KEKs")
	}
	if limit, err = batchSize(limit); err != nil {
		return 0, err
	}
	batch := resealing{session: s, kek: s.vault.keks[0].ID(), left: limit}
	err = s.do(ctx, job{action: ActionReseal, wide: true, staff: true, reads: true, spans: true, work: func(Actor, *StoreRecord) (effect, error) {
		err := batch.tokens(ctx)
		for _, kind := range []StoreItemKind{itemEnrolled, itemEnrolling} {
			if err == nil {
				err = batch.enrolments(ctx, kind)
			}
		}
		return effect{}, err
	}})
	if done = limit - batch.left; done > 0 {
		// What was done is done: its event is written as soon as the store takes it.
		err = errors.Join(err, s.do(ctx, job{action: ActionReseal, wide: true, staff: true, spans: true, lessens: true, work: func(a Actor, _ *StoreRecord) (effect, error) {
			return effect{note: s.note(a, ActionReseal, "", fmt.Sprintf("sealed:%d", done))}, nil
		}}))
	}
	if batch.more > 0 {
		batch.failed = append(batch.failed, fmt.Errorf("and %d more", batch.more))
	}
	return done, errors.Join(append(batch.failed, err)...)
}

// resealing is one call of Reseal at work.
type resealing struct {
	session
	kek    string // that of the new copies
	left   int
	down   bool // a KEK failed, and no value was sealed anew since
	failed []error
	more   int // that failed, beyond maxFailures
}

const maxFailures = 100

// took counts what became of one value. Only a KEK that cannot be asked ends
// the batch: it would cost its whole time for each of the others too. That it
// failed once does not say so: it may be one that calls a damaged value a failure
// of its own, and one row must not keep all those behind it under the old KEK.
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
	case errors.Is(err, ErrConflict): // used just now; the next call finds it
		return nil
	}
	if len(b.failed) == maxFailures {
		b.more++
		return nil
	}
	b.failed = append(b.failed, fmt.Errorf("%s: %w", what, storeError(err)))
	return nil
}

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
		for _, d := range page.Damaged { // the old KEK has to stay for them
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
	// Without an event, as the swaps of tokens are: what is kept is the same, and
	// the batch has one.
	return b.store.Apply(ctx, StoreChange{ID: newEventID(), Items: []StoreItem{it}})
}
