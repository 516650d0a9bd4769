package apikey

import (
	"context"
	"strings"
	"unicode"
)

// Password is the Factor for a secret that the program itself can check: the actor's
// password, or a PIN. The Manager's limits on wrong answers hold for it too. They count
// for each account: if one person acts for many accounts, or can open them, a PIN of
// four digits is too short.
type Password struct {
	verify func(ctx context.Context, actorID, answer string) (bool, error)
	digits bool
}

// NewPassword makes the factor. verify compares an answer of 1 to 1024 bytes with what
// the program stores for the actor: in constant time, as the program's own sign-in
// does. An error of verify means that it could not compare; the actor is not charged
// for it. Errors: ErrInvalid.
func NewPassword(verify func(ctx context.Context, actorID, answer string) (bool, error)) (*Password, error) {
	if verify == nil {
		return nil, invalid("NewPassword needs the function that checks a password")
	}
	return &Password{verify: verify}, nil
}

// NewPIN makes the factor for a secret of digits. It is like [NewPassword], but verify
// gets the result of [Digits]: a PIN that was typed in another script, or with a blank
// at its end, arrives as ASCII digits. A password must reach verify as it was typed,
// because in a password such differences count. Errors: ErrInvalid.
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

// Check calls the function that NewPassword or NewPIN was given.
func (f *Password) Check(ctx context.Context, a Actor, _ Challenge, _, _ []byte, answer string) ([]byte, bool, error) {
	if f.digits {
		answer = Digits(answer)
	}
	ok, err := f.verify(ctx, a.ID, answer)
	return nil, ok && err == nil, err
}

var _ Factor = (*Password)(nil)

// Digits reads a code as people type and copy it, and returns the ASCII digits of
// answer. Authenticator apps and mails show "123 456" or "123-456", a copied code can
// have blanks and invisible characters around it, and many keyboards write the digits
// of their own script. Digits drops white space, punctuation and invisible characters
// (Unicode Z, P and Cf, and the minus sign), and translates every decimal digit
// (Unicode Nd).
//
// If answer has any other character, or no digit, Digits returns it unchanged, so that
// it equals no code: an answer with letters never becomes a right one.
//
// [TOTP], [EmailCode] and [NewPIN] use Digits. A program's own [Factor] for digits
// should too: an answer that is not read this way is charged as a wrong one.
func Digits(answer string) string {
	var digits strings.Builder
	for _, r := range answer {
		switch d, ok := decimal(r); {
		case ok:
			digits.WriteByte('0' + d)
		case !separates(r):
			return answer
		}
	}
	if digits.Len() == 0 {
		return answer
	}
	return digits.String()
}

// decimal is the value of a decimal digit of any script. Unicode keeps the ten of
// a script together and in order, and the ranges of the table hold whole tens.
func decimal(r rune) (value byte, ok bool) {
	if r >= '0' && r <= '9' {
		return byte(r - '0'), true
	}
	for _, in := range unicode.Nd.R16 {
		if r >= rune(in.Lo) && r <= rune(in.Hi) {
			return byte((r - rune(in.Lo)) % 10), true
		}
	}
	for _, in := range unicode.Nd.R32 {
		if r >= rune(in.Lo) && r <= rune(in.Hi) {
			return byte((r - rune(in.Lo)) % 10), true
		}
	}
	return 0, false
}

// separates reports whether a character may stand between or around digits.
func separates(r rune) bool {
	const minus = '\u2212'
	return r == minus || unicode.IsSpace(r) || unicode.In(r, unicode.Z, unicode.P, unicode.Cf)
}
