package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

// approve lets Anna approve a request: the page requests a challenge, Anna answers it, and the
// page puts the grant into the same request.
func (p *page) approve(factor string, request apikey.Guarded) (apikey.Grant, error) {
	challenge, err := p.manager.Challenge(p.ctx, factor, request)
	if err != nil {
		return apikey.Grant{}, err
	}
	answer, err := p.anna.answer(factor, p.clock.now())
	if err != nil {
		return apikey.Grant{}, err
	}
	return p.manager.Confirm(p.ctx, challenge.ID, answer)
}

// create makes a key. The error of the first attempt tells the page which factors can
// approve it.
func (p *page) create() error {
	fmt.Println("1. A key is made, approved by the password")
	request := apikey.IssueRequest{
		Mode: apikey.Live, Name: "Webshop", Abilities: []string{"payment:refund"},
		Recoverable: true, // store a sealed copy of the token, for Reveal
	}
	_, err := p.manager.Issue(p.ctx, request)
	if err := refused("without a password", err, apikey.ErrStepUpRequired); err != nil {
		return err
	}
	challenge, err := p.manager.Challenge(p.ctx, "password", request)
	if err != nil {
		return err
	}
	_, err = p.manager.Confirm(p.ctx, challenge.ID, "not the password")
	if err := refused("with a wrong password", err, apikey.ErrWrongAnswer); err != nil {
		return err
	}
	if request.Grant, err = p.approve("password", request); err != nil {
		return err
	}
	issued, err := p.manager.Issue(p.ctx, request)
	if err != nil {
		return err
	}
	p.key, p.token = issued.Key.ID, issued.Token
	fmt.Println("   made, and its token shown:", issued.Token) // a real page shows Token.Reveal()
	return p.works("it works", p.token)
}

// enroll sets up Anna's authenticator app. Anna's password approves the enrolment:
// otherwise an attacker with a hijacked session could enrol their own app.
func (p *page) enroll() error {
	fmt.Println("2. An authenticator app is enrolled, approved by the password")
	request := apikey.EnrollRequest{Factor: "totp"}
	_, err := p.manager.Enroll(p.ctx, request)
	if err := refused("without a password", err, apikey.ErrStepUpRequired); err != nil {
		return err
	}
	if request.Grant, err = p.approve("password", request); err != nil {
		return err
	}
	enrollment, err := p.manager.Enroll(p.ctx, request)
	if err != nil {
		return err
	}
	if err := p.anna.phone.scan(enrollment.URI()); err != nil { // the page shows it as a QR code
		return err
	}
	code := p.anna.phone.code(p.clock.now())
	if err := p.manager.ConfirmEnrollment(p.ctx, "totp", code); err != nil {
		return err
	}
	factors, err := p.manager.Enrolled(p.ctx)
	fmt.Println("   scanned, confirmed with a first code; enrolled:", factors)
	return err
}

// revealByApp shows the token again. A code works only once, so Anna waits for the next
// code.
func (p *page) revealByApp() error {
	fmt.Println("3. The token is revealed, approved by the app")
	request := apikey.RevealRequest{Key: p.key}
	_, err := p.approve("totp", request)
	if err := refused("with the code of the enrolment", err, apikey.ErrWrongAnswer); err != nil {
		return err
	}
	p.clock.wait(30 * time.Second)
	if request.Grant, err = p.approve("totp", request); err != nil {
		return err
	}
	if err := p.reveal(request); err != nil {
		return err
	}
	_, err = p.manager.Reveal(p.ctx, request)
	return refused("with the same grant again", err, apikey.ErrGrant)
}

// revealByMail shows the token again, approved by a code that arrives by mail.
func (p *page) revealByMail() error {
	fmt.Println("4. The token is revealed, approved by a code from the mailbox")
	request := apikey.RevealRequest{Key: p.key}
	var err error
	if request.Grant, err = p.approve("email", request); err != nil {
		return err
	}
	mails := p.anna.mailbox.Mails()
	fmt.Printf("   mails sent: %d, the last to %s\n", len(mails), mails[len(mails)-1].To)
	return p.reveal(request)
}

func (p *page) reveal(request apikey.RevealRequest) error {
	revealed, err := p.manager.Reveal(p.ctx, request)
	if err != nil {
		return err
	}
	if revealed.Token.Reveal() != p.token.Reveal() {
		return errors.New("another token was revealed")
	}
	fmt.Printf("   shown for %v: %s\n", revealed.HideAfter, revealed.Token)
	return nil
}

// rotate replaces the token tomorrow. The grant approves only a rotation at this time.
func (p *page) rotate() error {
	fmt.Println("5. The token is replaced tomorrow, approved by a code from the mailbox")
	request := apikey.RotateRequest{Key: p.key, At: p.clock.now().Add(24 * time.Hour)}
	grant, err := p.approve("email", request)
	if err != nil {
		return err
	}
	_, err = p.manager.Rotate(p.ctx, apikey.RotateRequest{Key: p.key, Grant: grant})
	if err := refused("with that grant, but at once", err, apikey.ErrGrant); err != nil {
		return err
	}
	request.Grant = grant
	next, err := p.manager.Rotate(p.ctx, request)
	if err != nil {
		return err
	}
	fmt.Println("   the new token is shown today:", next.Token)
	if err := p.works("until then the old one works", p.token); err != nil {
		return err
	}
	if err := p.ended("and the new one not yet", next.Token, apikey.ErrNotYetValid); err != nil {
		return err
	}
	p.clock.wait(24*time.Hour + time.Minute) // no job has to run meanwhile
	if err := p.works("from then on the new one works", next.Token); err != nil {
		return err
	}
	return p.ended("and the old one no more", p.token, apikey.ErrCredentialEnded)
}

// log shows who did what. The log contains no secrets.
func (p *page) log() error {
	fmt.Println("6. The activity log, newest first")
	events, err := p.manager.Events(p.ctx, apikey.EventsRequest{})
	for _, e := range events.Events {
		fmt.Printf("   %s %s %s", e.Actor.ID, e.Action, e.Outcome)
		if e.Doubt != "" { // the library may not have written this event, so the page must say so
			fmt.Printf(" (%s)", e.Doubt)
		}
		fmt.Println()
	}
	return err
}

func (p *page) verify(token apikey.Token) error {
	need := []apikey.Ability{apikey.Scope("payment:refund")}
	_, err := p.verifier.Verify(p.ctx, token.Reveal(), apikey.Request{Require: need})
	return err
}

func (p *page) works(what string, token apikey.Token) error {
	if err := p.verify(token); err != nil {
		return err
	}
	fmt.Println("   " + what)
	return nil
}

func (p *page) ended(what string, token apikey.Token, want error) error {
	return refused(what, p.verify(token), want)
}

// refused checks that err is the expected error, and prints it.
func refused(what string, err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%s: %v instead of %v", what, err, want)
	}
	fmt.Printf("   %s: %v\n", what, err)
	return nil
}
