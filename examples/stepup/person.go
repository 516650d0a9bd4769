package main

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"io"
	"mime/quotedprintable"
	"net/mail"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/go-apikey/apikey/examples/stepup/sink"
	"github.com/go-apikey/apikey/internal/totp"
)

// person is an admin of the merchant, with everything that they need to authenticate.
type person struct {
	id, address string
	password    string
	account     account
	phone       phone
	mailbox     *sink.Server
}

func newPerson() (*person, error) {
	mailbox, err := sink.Listen(64 << 10)
	if err != nil {
		return nil, err
	}
	p := &person{id: "usr_anna", address: "anna@shop.example", password: rand.Text(), mailbox: mailbox}
	p.account, err = newAccount(p.password)
	return p, err
}

// answer returns the answer that the person types into the page.
func (p *person) answer(factor string, now time.Time) (string, error) {
	switch factor {
	case "totp":
		return p.phone.code(now), nil
	case "email":
		return p.newestCode()
	}
	return p.password, nil
}

var sixDigits = regexp.MustCompile(`\b\d{6}\b`)

// newestCode returns the code in the newest mail.
func (p *person) newestCode() (string, error) {
	mails := p.mailbox.Mails()
	if len(mails) == 0 {
		return "", errors.New("no mail has come")
	}
	m, err := mail.ReadMessage(strings.NewReader(mails[len(mails)-1].Data))
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	return sixDigits.FindString(string(text)), err
}

// phone is the person's authenticator app.
type phone struct{ seed []byte }

// scan reads the otpauth URI that the page shows as a QR code.
func (p *phone) scan(uri string) error {
	u, err := url.Parse(uri)
	if err != nil {
		return errors.New("not a URI") // the error of url.Parse quotes the URI, which has the seed
	}
	p.seed, err = base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(u.Query().Get("secret"))
	return err
}

func (p *phone) code(now time.Time) string { return totp.Code(p.seed, totp.Step(now)) }

// account is the hash of a person's password, which the program stores for its sign-in.
type account struct{ salt, hash []byte }

func newAccount(password string) (a account, err error) {
	a.salt = make([]byte, 16)
	rand.Read(a.salt)
	a.hash, err = slowHash(password, a.salt)
	return a, err
}

// check compares an answer with the password's hash, for apikey.NewPassword.
func (a account) check(_ context.Context, _, answer string) (bool, error) {
	hash, err := slowHash(answer, a.salt)
	return subtle.ConstantTimeCompare(hash, a.hash) == 1, err
}

func slowHash(password string, salt []byte) ([]byte, error) {
	return pbkdf2.Key(sha256.New, password, salt, 600_000, 32)
}
