package apitest

import (
	"context"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// script writes digits with those that follow zero.
func script(digits string, zero rune) string {
	return strings.Map(func(r rune) rune { return r - '0' + zero }, digits)
}

// asPeopleTypeIt are spellings of a code of six digits.
var asPeopleTypeIt = map[string]func(code string) string{
	"as it is":             func(c string) string { return c },
	"as apps show it":      func(c string) string { return c[:3] + " " + c[3:] },
	"in pairs":             func(c string) string { return c[:2] + "-" + c[2:4] + "-" + c[4:] },
	"a dash before":        func(c string) string { return "- " + c },
	"an en dash":           func(c string) string { return c[:3] + "–" + c[3:] },
	"a minus sign":         func(c string) string { return c[:3] + "\u2212" + c[3:] },
	"a no-break space":     func(c string) string { return c[:3] + "\u00a0" + c[3:] + "\u00a0" },
	"a thin space":         func(c string) string { return c[:3] + "\u2009" + c[3:] },
	"a narrow space":       func(c string) string { return c[:3] + "\u202f" + c[3:] },
	"an ideographic space": func(c string) string { return c + "\u3000" },
	"a zero-width space":   func(c string) string { return "\u200b" + c[:3] + "\u200b" + c[3:] },
	"a byte order mark":    func(c string) string { return "\ufeff" + c },
	"right to left":        func(c string) string { return "\u200f\u202b" + c + "\u202c" },
	"isolated":             func(c string) string { return "\u2066" + c + "\u2069" },
	"a soft hyphen":        func(c string) string { return c[:3] + "\u00ad" + c[3:] },
	"a line around it":     func(c string) string { return "\r\n\t" + c + "\n" },
	"with the full stop":   func(c string) string { return c + "." },
	"in quotes":            func(c string) string { return "„" + c + "“" },
	"full width":           func(c string) string { return script(c, '０') },
	"Arabic":               func(c string) string { return script(c, '٠') },
	"Persian":              func(c string) string { return script(c, '۰') },
	"Bangla":               func(c string) string { return script(c, '০') },
	"Devanagari":           func(c string) string { return script(c, '०') },
	"Thai":                 func(c string) string { return script(c, '๐') },
	"Burmese":              func(c string) string { return script(c, '၀') },
	"Adlam":                func(c string) string { return script(c, '𞥐') },
	"bold":                 func(c string) string { return script(c, '𝟎') },
	"two scripts":          func(c string) string { return script(c[:3], '٠') + " " + c[3:] },
}

// What a person copies from a screen or types on their own keyboard is right, for
// every factor of digits.
func TestFound22DigitsAsPeopleTypeThem(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardRotate("email", "totp", "pin")), func(e *env) {
			pin, err := apikey.NewPIN(func(_ context.Context, _, answer string) (bool, error) { return answer == "271828", nil })
			require.NoError(t, err)
			e.mc.Factors["pin"] = pin
		})
		e.enroll(f, e.ctx, admin.ID)
		key := e.issue().Key.ID
		for name, write := range asPeopleTypeIt {
			for _, factor := range []string{"email", "totp", "pin"} {
				c, err := e.manager.Challenge(e.ctx, factor, apikey.RotateRequest{Key: key})
				require.NoError(t, err)
				code := "271828"
				if factor != "pin" {
					code = f.answer(factor, admin.ID)
				}
				_, err = e.manager.Confirm(e.ctx, c.ID, write(code))
				require.NoError(t, err, "%s: %s", factor, name)
			}
			e.clock.move(20 * 60e9)
		}
	})
}

// The first code of an enrolment is read the same way.
func TestFound22FirstCode(t *testing.T) {
	var f *factors
	e := newEnv(t, withFactors(&f, apikey.GuardRotate("totp")))
	for name, write := range asPeopleTypeIt {
		require.NoError(t, e.manager.AllowEnrollment(staff(), apikey.AllowEnrollmentRequest{Factor: "totp", Account: "acc_1", Actor: admin.ID}))
		enrollment, err := e.manager.Enroll(e.ctx, apikey.EnrollRequest{Factor: "totp"})
		require.NoError(t, err)
		f.scan(admin.ID, enrollment)
		require.NoError(t, e.manager.ConfirmEnrollment(e.ctx, "totp", write(f.app(admin.ID))), name)
	}
}

// Every decimal digit of Unicode has its value, of any script; nothing else is a
// digit, and an answer that holds anything else stays as it is.
func TestFound22EveryScript(t *testing.T) {
	scripts := 0
	for zero := rune(1); zero <= unicode.MaxRune; zero++ {
		if !unicode.Is(unicode.Nd, zero) || apikey.Digits(string(zero)) != "0" {
			continue
		}
		scripts++
		for d := range rune(10) {
			require.True(t, unicode.Is(unicode.Nd, zero+d), "%U", zero+d)
			require.Equal(t, string('0'+d), apikey.Digits(string(zero+d)), "%U", zero+d)
		}
	}
	require.Greater(t, scripts, 60)
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if utf8.ValidRune(r) && unicode.IsNumber(r) && !unicode.Is(unicode.Nd, r) || unicode.IsLetter(r) {
			require.Equal(t, "1"+string(r), apikey.Digits("1"+string(r)), "%U", r)
		}
	}
	for _, same := range []string{"", " ", "- -", "12345a", "1\x002", "\xff1", "+1", "1e5", "0x1", "①", "²", "Ⅳ"} {
		require.Equal(t, same, apikey.Digits(same))
	}
}

// A password is compared as it was typed: a blank in it is a difference.
func TestFound22PasswordsStayAsTheyAre(t *testing.T) {
	var got string
	pass, err := apikey.NewPassword(func(_ context.Context, _, answer string) (bool, error) { got = answer; return true, nil })
	require.NoError(t, err)
	for _, answer := range []string{" 123 456", "１２３", "a-b"} {
		_, ok, err := pass.Check(t.Context(), admin, apikey.Challenge{}, nil, nil, answer)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, answer, got)
	}
	_, err = apikey.NewPIN(nil)
	require.ErrorIs(t, err, apikey.ErrInvalid)
}
