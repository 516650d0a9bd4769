package apikeytest

import (
	"context"
	"encoding/base32"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
)

// Mailbox is the [apikey.Sender] of the factor "email": it keeps the mails of all actors.
// It is safe for concurrent use.
type Mailbox struct {
	t     testing.TB
	mu    sync.Mutex
	mails []Mail
	fails error
}

// Mail is one mail that was sent.
type Mail struct {
	ActorID string
	Message apikey.Message // its Code answers the challenge
}

// Send implements [apikey.Sender].
func (m *Mailbox) Send(_ context.Context, actorID string, message apikey.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil {
		return m.fails
	}
	m.mails = append(m.mails, Mail{actorID, message})
	return nil
}

// All returns the mails, oldest first.
func (m *Mailbox) All() []Mail {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.mails)
}

// Last returns the newest mail, and fails the test if there is none.
func (m *Mailbox) Last() Mail {
	m.t.Helper()
	all := m.All()
	if len(all) == 0 {
		m.t.Fatal("apikeytest: no mail was sent")
	}
	return all[len(all)-1]
}

// Fail makes each Send return err, as if the mail server were away; nil: Send works again.
func (m *Mailbox) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails = err
}

// Code returns what an authenticator app shows at the time of the Clock, if it has scanned
// uri, the [apikey.Enrollment.URI] of the factor "totp". A code is accepted once, so move
// the Clock by 30 s for the next one. Code fails the test if uri is no otpauth:// URI.
func (p *Program) Code(uri string) string {
	p.t.Helper()
	u, err := url.Parse(uri)
	if err == nil && u.Scheme == "otpauth" {
		secret := strings.ToUpper(u.Query().Get("secret"))
		seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
		if err == nil && len(seed) > 0 {
			return totp.Code(seed, totp.Step(p.Clock.Now()))
		}
	}
	p.t.Fatalf("apikeytest: no authenticator app can scan this: want the URI of an enrolment of totp")
	return ""
}
