package apikey

import (
	"strings"
	"unicode"
)

// Digits reads a code as people type and copy it: it returns the ASCII digits of
// answer. Authenticator apps and mails show "123 456" or "123-456", a copied code
// brings blanks and invisible characters along, and many keyboards write the
// decimal digits of their own script. Digits drops blanks, dashes and other
// punctuation and what is invisible (white space, Unicode Z, P and Cf, and the minus
// sign), and translates every decimal digit (Unicode Nd).
//
// An answer that holds anything else, or no digit, is returned as it is, so that it
// equals no code: Digits makes no right answer of a wrong one that has letters.
//
// [TOTP], [EmailCode] and [NewPIN] read their answers so. A [Factor] of digits that
// a program writes itself should too: what Digits does not read is charged as a
// wrong answer.
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
