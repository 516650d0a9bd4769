package apikey

import "context"

// Password is the Factor of a secret that the program itself knows how to
// check: the actor's password, or a PIN. The Manager's budgets stand in front of
// it. They count by account: where one person acts for many accounts, or can open
// them, a PIN of four digits is too short.
type Password struct {
	verify func(ctx context.Context, actorID, answer string) (bool, error)
	digits bool
}

// NewPassword makes the factor. verify compares an answer, which is at most 1 KiB
// and not empty, with what the program keeps of the actor: in constant time, as
// the program's own sign-in does. An error of it means that it could not compare,
// and costs the actor nothing. Errors: ErrInvalid.
func NewPassword(verify func(ctx context.Context, actorID, answer string) (bool, error)) (*Password, error) {
	if verify == nil {
		return nil, invalid("NewPassword needs the function that checks a password")
	}
	return &Password{verify: verify}, nil
}

// NewPIN makes the factor of a secret that consists of digits. It is like
// [NewPassword], but verify gets the answer as [Digits] reads it: a PIN that was
// typed in another script, or with a blank at its end, arrives as ASCII digits. A
// password has to reach verify as it was typed, because in a password these are
// differences. Errors: ErrInvalid.
func NewPIN(verify func(ctx context.Context, actorID, answer string) (bool, error)) (*Password, error) {
	f, err := NewPassword(verify)
	if err == nil {
		f.digits = true
	}
	return f, err
}

// Begin has nothing to prepare.
func (*Password) Begin(context.Context, Actor, Challenge, []byte) ([]byte, func(context.Context) error, error) {
	return nil, nil, nil
}

// Check asks the program.
func (f *Password) Check(ctx context.Context, a Actor, _ Challenge, _, _ []byte, answer string) ([]byte, bool, error) {
	if f.digits {
		answer = Digits(answer)
	}
	ok, err := f.verify(ctx, a.ID, answer)
	return nil, ok && err == nil, err
}

var _ Factor = (*Password)(nil)
