package apikey

import "context"

// Password is the Factor of a secret that the program itself knows how to
// check: the actor's password, or a PIN. The Manager's budgets stand in front of
// it. They count by account: where one person acts for many accounts, or can open
// them, a PIN of four digits is too short.
type Password struct {
	verify func(ctx context.Context, actorID, answer string) (bool, error)
}

// NewPassword makes the factor. verify compares an answer, which is at most 1 KiB
// and not empty, with what the program keeps of the actor: in constant time, as
// the program's own sign-in does. An error of it means that it could not compare,
// and costs the actor nothing. Errors: ErrInvalid.
func NewPassword(verify func(ctx context.Context, actorID, answer string) (bool, error)) (*Password, error) {
	if verify == nil {
		return nil, invalid("NewPassword needs the function that checks a password")
	}
	return &Password{verify}, nil
}

// Begin has nothing to prepare.
func (*Password) Begin(context.Context, Actor, Challenge, []byte) ([]byte, func(context.Context) error, error) {
	return nil, nil, nil
}

// Check asks the program.
func (f *Password) Check(ctx context.Context, a Actor, _ Challenge, _, _ []byte, answer string) ([]byte, bool, error) {
	ok, err := f.verify(ctx, a.ID, answer)
	return nil, ok && err == nil, err
}

var _ Factor = (*Password)(nil)
