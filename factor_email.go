package apikey

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// EmailCode is the Factor that sends six digits to the actor's mailbox. It is as strong
// as that mailbox: NIST SP 800-63B does not count e-mail as an authenticator. Offer
// [TOTP] too.
type EmailCode struct {
	sender Sender
	ring   ring
}

// A Sender delivers a message to an actor, by mail or otherwise. It has 30 s. An error
// means that nothing was sent, unless it wraps context.Canceled or
// context.DeadlineExceeded.
//
// Send looks the address up by the actor's ID in the program's own records. It never
// takes the address from a request: a hijacked session must not choose where codes go.
// A Sender should also be an [Addresser], so that nobody can flood one mailbox by
// asking as several actors.
type Sender interface {
	Send(ctx context.Context, actorID string, m Message) error
}

// Message is a mail with a code. It prints without its text.
type Message struct {
	Subject string // holds no code
	v       *mail
}

// mail is what a Message must not print.
type mail struct {
	text, code *secretText
	about      Challenge
}

// Text returns the body in English, which holds the code.
func (m Message) Text() string {
	if m.v == nil {
		return ""
	}
	return m.v.text.reveal()
}

// Code returns the code alone, for a Sender that writes the mail in its reader's
// language. Such a mail should say what the code approves (About), and what to do if the
// reader did not ask for it.
func (m Message) Code() string {
	if m.v == nil {
		return ""
	}
	return m.v.code.reveal()
}

// About returns the challenge that the code answers. It holds no secret. Its Name is what
// a merchant has typed: quote it.
func (m Message) About() Challenge {
	if m.v == nil {
		return Challenge{}
	}
	c := m.v.about
	c.Changes = slices.Clone(c.Changes)
	return c
}

// String is the subject.
func (m Message) String() string { return m.Subject }

// GoString is String.
func (m Message) GoString() string { return m.String() }

// Format writes String for every verb.
func (m Message) Format(s fmt.State, _ rune) { io.WriteString(s, m.String()) }

// LogValue is String.
func (m Message) LogValue() slog.Value { return slog.StringValue(m.String()) }

// MarshalText is String.
func (m Message) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// NewEmailCode makes the factor. Pass the peppers of the Manager: the first makes
// codes, all verify. Without a pepper, somebody who reads the database could try all
// million codes in a second. Errors: ErrInvalid.
func NewEmailCode(sender Sender, peppers ...Pepper) (*EmailCode, error) {
	r, err := newRing(peppers)
	if err != nil {
		return nil, err
	}
	if sender == nil || !r.has() {
		return nil, invalid("an e-mailed code needs a Sender and a pepper")
	}
	return &EmailCode{sender, r}, nil
}

// Begin draws a code. The challenge stores its HMAC.
func (f *EmailCode) Begin(_ context.Context, a Actor, c Challenge, _ []byte) ([]byte, func(context.Context) error, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000)) // uniform
	if err != nil {
		return nil, nil, err
	}
	code := fmt.Sprintf("%06d", n)
	text := fmt.Sprintf("Your code is %s. It approves the following, and nothing else, until %s:\n\n%s\nIf you did not ask for it, somebody is signed in as you: end your sessions.\n",
		code, c.ExpiresAt.Format(time.RFC1123), c.describe())
	m := Message{"Your confirmation code", &mail{
		&secretText{func() string { return text }}, &secretText{func() string { return code }}, c,
	}}
	return f.mac(f.ring.minting, c.ID, code), func(ctx context.Context) error { return f.sender.Send(ctx, a.ID, m) }, nil
}

// describe says what the answer approves, one thing a line.
func (c Challenge) describe() string {
	what := string(c.Action)
	if c.Name != "" {
		what += " of " + quoteForMail(c.Name)
	}
	if !c.Key.IsZero() {
		what += fmt.Sprintf(" (key %s, %s)", c.Key, c.Mode)
	}
	var b strings.Builder
	for _, line := range append([]string{what}, c.Changes...) {
		b.WriteString("    " + line + "\n")
	}
	return b.String()
}

// Address returns the Sender's Address; "" if the Sender is no [Addresser].
func (f *EmailCode) Address(ctx context.Context, actorID string) (string, error) {
	if s, ok := f.sender.(Addresser); ok {
		return s.Address(ctx, actorID)
	}
	return "", nil
}

// Check compares HMACs in constant time. It reads the answer with [Digits].
func (f *EmailCode) Check(_ context.Context, _ Actor, c Challenge, _, state []byte, answer string) ([]byte, bool, error) {
	if len(state) == 0 || f.ring.at(state[0]) == nil {
		return nil, false, fmt.Errorf("%w: the pepper of this code is not configured", ErrUnavailable)
	}
	return nil, subtle.ConstantTimeCompare(f.mac(f.ring.at(state[0]), c.ID, Digits(answer)), state) == 1, nil
}

func (*EmailCode) mac(k *pepperKeys, challenge, code string) []byte {
	var c canon.Writer
	c.Text(challenge)
	c.Text(code)
	sum := k.mac(purposeCode, c.Encoded())
	return append([]byte{k.slot}, sum[:]...)
}

var (
	_ Factor    = (*EmailCode)(nil)
	_ Addresser = (*EmailCode)(nil)
)
