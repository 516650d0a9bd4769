package apikey

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"net/url"
	"strings"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
	"github.com/go-apikey/apikey/internal/totp"
)

// TOTP is the Factor for authenticator apps (RFC 6238: SHA-1, 30 s, 6 digits, one step
// either way). Each code works once, on all nodes together. Each actor sets it up with
// [Manager.Enroll].
//
// The store keeps the last step that matched. If a clock was far ahead and a code of
// the future was accepted, codes are refused until that time has come; then
// [Manager.AllowEnrollment] lets the actor set TOTP up again.
type TOTP struct {
	issuer string
	now    func() time.Time
}

// NewTOTP makes the factor. The authenticator app shows the issuer beside the code: 1
// to 100 bytes without a colon. now may be nil for time.Now. Errors: ErrInvalid.
func NewTOTP(issuer string, now func() time.Time) (*TOTP, error) {
	if issuer == "" || len(issuer) > 100 || !storable(issuer) || strings.Contains(issuer, ":") || showable(issuer) != nil {
		return nil, invalid("TOTP issuer %s: want 1 to 100 bytes of visible text without a colon, such as your product's name", quote(issuer))
	}
	if now == nil {
		now = time.Now
	}
	return &TOTP{issuer, now}, nil
}

// Begin returns ErrNotEnrolled if the actor has not enrolled.
func (*TOTP) Begin(_ context.Context, _ Actor, _ Challenge, enrolled []byte) ([]byte, func(context.Context) error, error) {
	if enrolled == nil {
		return nil, nil, ErrNotEnrolled
	}
	return nil, nil, nil
}

// Check stores the step that matched, so that neither that step nor an earlier one is
// accepted again, also after the clock is set back: only the challenge that the step
// answered takes it again, see [Factor]. Check reads the answer with [Digits].
func (f *TOTP) Check(_ context.Context, _ Actor, c Challenge, enrolled, _ []byte, answer string) ([]byte, bool, error) {
	if enrolled == nil {
		return nil, false, ErrNotEnrolled
	}
	k, ok := readTOTP(enrolled)
	if !ok {
		return nil, false, errEnrolled
	}
	code := Digits(answer)
	again := k.answered(c.ID, code)
	step, matches := totp.Match(k.seed, code, f.now(), k.matched[0].step)
	if matches {
		return k.with(totpMatch{step, c.ID}).encode(), true, nil
	}
	return nil, again, nil
}

// Enroll draws a seed of 160 bits (RFC 4226, section 4) and returns it as the URI that
// apps read: otpauth://totp/ISSUER:NAME?secret=…&issuer=ISSUER (the Key URI Format of
// Google Authenticator's documentation).
//
// NAME is the actor's ID with the account in brackets. An app replaces an entry of the
// same issuer and name: without the account, a person who works for two shops would
// lose the first entry.
func (f *TOTP) Enroll(_ context.Context, a Actor) ([]byte, string, error) {
	seed := make([]byte, 20)
	rand.Read(seed)
	name := a.ID
	if a.Account != "" {
		name += " (" + a.Account + ")"
	}
	// The label has one colon, also for apps that decode it before they cut it there.
	label := percent(f.issuer) + ":" + percent(strings.ReplaceAll(name, ":", "-"))
	secret := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(seed)
	return totpKept{seed, []totpMatch{{}}}.encode(), "otpauth://totp/" + label + "?secret=" + secret + "&issuer=" + percent(f.issuer), nil
}

// percent escapes everything but RFC 3986's unreserved characters, so that the text is
// the same in a path and in a query. Apps decode no '+': they would show it.
func percent(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// totpKept is what TOTP stores for an actor.
type totpKept struct {
	seed []byte
	// matched are the steps that matched, the last one first. The others are kept while
	// the challenges that they answered may be answered again. There is at least one.
	matched []totpMatch
}

// totpMatch is a step that matched (0: none has), and the challenge that it answered; "":
// none, also for the first code of an enrolment.
type totpMatch struct {
	step      uint64
	challenge string
}

// totpAgain is how many steps a code may be older than the last one that matched, and yet
// come again: as many as Check and the grant last, and one for each end.
const totpAgain = uint64((checkTime+grantTime)/totp.Period) + 2

// with returns what is stored after another step has matched. For each challenge the
// last code that answered it may come again.
func (k totpKept) with(last totpMatch) totpKept {
	matched := []totpMatch{last}
	for _, m := range k.matched {
		if m.challenge != "" && m.challenge != last.challenge && last.step-m.step <= totpAgain {
			matched = append(matched, m)
		}
	}
	return totpKept{k.seed, matched}
}

// answered reports whether this code has answered the challenge.
func (k totpKept) answered(challenge, code string) (again bool) {
	for _, m := range k.matched {
		same := subtle.ConstantTimeCompare([]byte(totp.Code(k.seed, m.step)), []byte(code)) == 1
		if same && m.challenge == challenge && challenge != "" {
			again = true
		}
	}
	return again
}

func (k totpKept) encode() []byte {
	var c canon.Writer
	c.Bytes(k.seed)
	for _, m := range k.matched {
		c.Uint(m.step)
		c.Text(m.challenge)
	}
	return c.Encoded()
}

func readTOTP(enrolled []byte) (k totpKept, ok bool) {
	u := canon.NewReader(enrolled)
	k.seed = []byte(u.Text())
	for u.More() {
		m := totpMatch{step: u.Uint()}
		if u.More() { // earlier versions did not store the challenge
			m.challenge = u.Text()
		}
		k.matched = append(k.matched, m)
	}
	return k, u.Complete() && len(k.seed) >= 16 && len(k.matched) > 0
}

var _ Enroller = (*TOTP)(nil)
