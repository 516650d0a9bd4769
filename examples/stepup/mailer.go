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

// mailer is an apikey.Sender and an apikey.Addresser. It sends mail through an SMTP server
// on this machine. If the server is on another machine, call the client's StartTLS and
// Auth first.
type mailer struct {
	server    string // host:port
	from      string
	addresses map[string]string // by actor ID, from the program's own records
}

// Send returns nil when the server has confirmed that it has accepted the mail.
func (m mailer) Send(ctx context.Context, actorID string, message apikey.Message) error {
	to, ok := m.addresses[actorID]
	if !ok {
		return fmt.Errorf("no address of %s is known", actorID)
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
	if err := client.Mail(m.from); err != nil {
		return err
	}
	if err := client.Rcpt(to); err != nil {
		return err
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if err := m.write(w, to, message); err != nil {
		return err // without the final dot the server discards the mail
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = client.Quit() // the mail was accepted already, so an error does not matter
	return nil
}

// Address returns an actor's mailbox, so that the library can count the mails to one
// mailbox, even if different actors ask for them.
func (m mailer) Address(_ context.Context, actorID string) (string, error) {
	return m.addresses[actorID], nil
}

func (m mailer) write(w io.Writer, to string, message apikey.Message) error {
	_, err := fmt.Fprintf(w, "From: %s\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\n"+
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
		m.from, to, mime.QEncoding.Encode("utf-8", message.Subject), time.Now().Format(time.RFC1123Z))
	if err != nil {
		return err
	}
	body := quotedprintable.NewWriter(w)
	if _, err := io.WriteString(body, message.Text()); err != nil {
		return err
	}
	return body.Close()
}
