package integration

import (
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/go-apikey/apikey/examples/stepup/sink"
)

// The mail server of examples/stepup, spoken to by a client that nobody wrote
// for it.

const maxMail = 4 << 10

func dialSink(t *testing.T) (*sink.Server, *smtp.Client) {
	t.Helper()
	s, err := sink.Listen(maxMail)
	must(t, err)
	t.Cleanup(s.Close)
	c, err := smtp.Dial(s.Addr)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return s, c
}

func send(c *smtp.Client, body string, to ...string) error {
	return c.SendMail("keys@acme.example", to, strings.NewReader(body))
}

func wantMails(t *testing.T, s *sink.Server, want ...sink.Mail) {
	t.Helper()
	got := s.Mails()
	same := func(a, b sink.Mail) bool { return a.From == b.From && slices.Equal(a.To, b.To) && a.Data == b.Data }
	if !slices.EqualFunc(got, want, same) {
		t.Fatalf("got %q\nwant %q", got, want)
	}
}

func mailOf(data string, to ...string) sink.Mail {
	return sink.Mail{From: "keys@acme.example", To: to, Data: data}
}

// wantCode is about the answer of the server.
func wantCode(t *testing.T, code int, err error) {
	t.Helper()
	var answer *smtp.SMTPError
	if !errors.As(err, &answer) || answer.Code != code {
		t.Fatalf("got %v, want %d", err, code)
	}
}

func TestSinkTakesMail(t *testing.T) {
	s, c := dialSink(t)
	must(t, send(c, "Subject: one\r\n\r\nfirst\r\n", "a@shop.example", "b@shop.example", "c@shop.example"))
	must(t, c.Noop())
	must(t, send(c, "Subject: two\r\n\r\nsecond: grüß dich\r\n", "a@shop.example"))
	must(t, c.Quit())
	wantMails(t, s,
		mailOf("Subject: one\n\nfirst\n", "a@shop.example", "b@shop.example", "c@shop.example"),
		mailOf("Subject: two\n\nsecond: grüß dich\n", "a@shop.example"),
	)
}

func TestSinkUnstuffsDots(t *testing.T) {
	const body = "Subject: dots\r\n\r\n.\r\n..\r\n.leading\r\ntrailing.\r\n...\r\nQUIT\r\n"
	s, c := dialSink(t)
	must(t, send(c, body, "a@shop.example"))
	must(t, c.Noop())
	wantMails(t, s, mailOf(strings.ReplaceAll(body, "\r\n", "\n"), "a@shop.example"))
}

func TestSinkForgetsWhatWasReset(t *testing.T) {
	s, c := dialSink(t)
	must(t, c.Mail("other@acme.example", nil))
	must(t, c.Rcpt("wrong@shop.example", nil))
	must(t, c.Reset())
	_, err := c.Data()
	wantCode(t, 503, err)
	wantCode(t, 503, c.Rcpt("wrong@shop.example", nil))
	must(t, send(c, "right\r\n", "right@shop.example"))
	wantMails(t, s, mailOf("right\n", "right@shop.example"))
}

func TestSinkRefusesWhatIsTooLarge(t *testing.T) {
	s, c := dialSink(t)
	line := strings.Repeat("x", 62) + "\r\n" // 63 bytes with "\n"
	fits := strings.Repeat(line, maxMail/63) + strings.Repeat("y", maxMail%63-1) + "\r\n"
	wantCode(t, 552, send(c, fits[:len(fits)-2]+"y\r\n", "a@shop.example"))
	wantCode(t, 552, send(c, strings.Repeat(line, 10_000), "a@shop.example"))
	wantMails(t, s)
	must(t, send(c, fits, "a@shop.example")) // the conversation goes on
	wantMails(t, s, mailOf(strings.ReplaceAll(fits, "\r\n", "\n"), "a@shop.example"))
	if n := len(s.Mails()[0].Data); n != maxMail {
		t.Fatalf("the largest mail that fits has %d bytes", n)
	}
}

func TestSinkAnswersWhatItDoesNotKnow(t *testing.T) {
	s, c := dialSink(t)
	wantCode(t, 500, c.Verify("a@shop.example"))
	must(t, send(c, "still here\r\n", "a@shop.example"))
	wantMails(t, s, mailOf("still here\n", "a@shop.example"))
}

// What the client above is too well-behaved to say.
func TestSinkAmongTheRude(t *testing.T) {
	many := strings.Repeat("RCPT TO:<a@shop.example>\r\n", 101)
	for _, c := range []struct{ says, answers string }{
		{"HELO x\r\nQUIT\r\n", "220 250 221"},
		{"ehlo x\r\nmail from:<> BODY=8BITMIME\r\nrcpt to:<a@b>\r\nquit\r\n", "220 250 250 250 221"},
		{"MAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nQUIT\r\n", "220 250 503 221"},
		{"MAIL FROM:<a@b>\r\nNOOP\r\nRCPT TO:<a@b>\r\nEHLO x\r\nDATA\r\nQUIT\r\n", "220 250 250 250 250 503 221"},
		{"MAIL FROM:<a@b>\r\nDATA\r\nQUIT\r\n", "220 250 503 221"},
		{"MAIL FROM:<a@b>\r\nRCPT TO:<>\r\nQUIT\r\n", "220 250 503 221"},
		{"MAIL FROM a@b\r\nRCPT TO: a@b\r\nDATABASE\r\n\r\nGET / HTTP/1.1\r\nQUIT\r\n", "220 500 500 500 500 500 221"},
		{"MAIL FROM:<a@b>\r\n" + many + "QUIT\r\n", "220 250" + strings.Repeat(" 250", 100) + " 503 221"},
		{"NOOP " + strings.Repeat("x", 64<<10) + "\r\nQUIT\r\n", "220"},
		{"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\ncut off", "220 250 250 354"},
	} {
		s, _ := dialSink(t)
		conn, err := net.Dial("tcp", s.Addr)
		must(t, err)
		go func() {
			fmt.Fprint(conn, c.says)
			conn.(*net.TCPConn).CloseWrite()
		}()
		var codes []string
		answers := textproto.NewConn(conn)
		for line, err := answers.ReadLine(); err == nil; line, err = answers.ReadLine() {
			codes = append(codes, line[:3])
		}
		conn.Close()
		if got := strings.Join(codes, " "); got != c.answers {
			t.Errorf("%.60q: got %s, want %s", c.says, got, c.answers)
		}
		wantMails(t, s)
	}
}
