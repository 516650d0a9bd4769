package main

import (
	"context"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"time"

	"github.com/go-apikey/apikey"
)

// newSender sends codes by mail or, without a mail server, prints them.
func newSender(server string, stderr io.Writer) apikey.Sender {
	if server == "" {
		return printer{stderr}
	}
	return mailer{server}
}

// printer writes codes for whoever tries this program. A program that serves anybody else
// writes no code anywhere.
type printer struct{ out io.Writer }

// Send returns an error if the code could not be written: then no challenge is put.
func (p printer) Send(_ context.Context, actorID string, m apikey.Message) error {
	_, err := fmt.Fprintf(p.out, "code for %s: %s\n", actorID, m.Code())
	return err
}

// mailer sends mail through an SMTP server on this machine. If the server is on another
// machine, call the client's StartTLS and Auth first.
type mailer struct{ server string } // host:port

// Address returns an actor's mailbox from the program's own records, so that the library
// can count the mails to it.
func (m mailer) Address(_ context.Context, actorID string) (string, error) {
	if _, ok := people[actorID]; !ok {
		return "", fmt.Errorf("no address of %q is known", actorID)
	}
	return actorID + "@shop.example", nil
}

// Send returns nil when the server has accepted the mail.
func (m mailer) Send(ctx context.Context, actorID string, message apikey.Message) error {
	to, err := m.Address(ctx, actorID)
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", m.server)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok { // so that a server that hangs does not block the caller
		conn.SetDeadline(deadline)
	}
	client, err := smtp.NewClient(conn, "localhost")
	if err != nil {
		return err
	}
	if err := client.Mail("keys@dashboard.example"); err != nil {
		return err
	}
	if err := client.Rcpt(to); err != nil {
		return err
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if err := write(w, to, message); err != nil {
		return err // without the final dot the server discards the mail
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = client.Quit() // the mail was accepted already, so an error does not matter
	return nil
}

func write(w io.Writer, to string, m apikey.Message) error {
	_, err := fmt.Fprintf(w, "From: keys@dashboard.example\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\nMIME-Version: 1.0\r\n"+
		"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
		to, mime.QEncoding.Encode("utf-8", m.Subject), time.Now().Format(time.RFC1123Z))
	if err != nil {
		return err
	}
	body := quotedprintable.NewWriter(w)
	if _, err := io.WriteString(body, m.Text()); err != nil {
		return err
	}
	return body.Close()
}
