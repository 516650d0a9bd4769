// Package sink is a mail server for tests and examples. It stores all mail that it
// receives, and forwards none. It speaks SMTP (RFC 5321) on the loopback interface,
// without TLS and without authentication.
package sink

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Server receives mail until it is closed. It is safe for concurrent use.
type Server struct {
	Addr     string // host:port
	listener net.Listener
	limit    int64
	hangUp   context.CancelFunc
	wg       sync.WaitGroup
	mu       sync.Mutex
	mails    []Mail
}

// Mail is a mail that was received completely.
type Mail struct {
	From string
	To   []string // the recipients of the envelope, in order
	Data string   // header and body; lines end in "\n"
}

// Listen starts a server on a free port. The server refuses mails larger than limit bytes.
func Listen(limit int) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{Addr: listener.Addr().String(), listener: listener, limit: int64(limit), hangUp: cancel}
	s.wg.Go(func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			forget := context.AfterFunc(ctx, func() { conn.Close() })
			s.wg.Go(func() { defer forget(); s.serve(conn) })
		}
	})
	return s, nil
}

// Mails returns the mails that were received so far, the oldest first.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Close closes all connections. It returns when all goroutines of the server have ended.
func (s *Server) Close() {
	s.listener.Close()
	s.hangUp()
	s.wg.Wait()
}

var command = regexp.MustCompile(`(?i)^(MAIL FROM|RCPT TO):<([^<>\s]*)>|^(DATA|RSET|NOOP|QUIT|HELO|EHLO)\b`)

func (s *Server) serve(conn net.Conn) {
	defer conn.Close()
	in, mail, answer := bufio.NewReader(conn), Mail{}, "220 sink"
	for answer != "" {
		fmt.Fprintf(conn, "%s\r\n", answer)
		line, err := in.ReadSlice('\n')
		if err != nil { // also if a line is too long for the buffer
			return
		}
		said := append(command.FindSubmatch(line), nil, nil, nil, nil)
		verb, path := strings.ToUpper(string(said[1])+string(said[3])), string(said[2])
		switch {
		case verb == "":
			answer = "500 unknown command"
		case verb == "QUIT":
			fmt.Fprint(conn, "221 bye\r\n")
			return
		case verb == "MAIL FROM" && mail.To == nil:
			mail.From, mail.To, answer = path, []string{}, "250 ok"
		case verb == "RCPT TO" && mail.To != nil && path != "" && len(mail.To) < 100:
			mail.To, answer = append(mail.To, path), "250 ok"
		case verb == "DATA" && len(mail.To) > 0:
			answer, mail = s.data(conn, in, mail), Mail{}
		case verb == "MAIL FROM", verb == "RCPT TO", verb == "DATA":
			answer = "503 not now"
		case verb == "NOOP":
			answer = "250 ok"
		default:
			answer, mail = "250 ok", Mail{}
		}
	}
}

// data reads a mail up to the line with only a dot, and returns the answer to send. It
// returns "" if the connection ends before that.
func (s *Server) data(conn net.Conn, in *bufio.Reader, mail Mail) (answer string) {
	fmt.Fprint(conn, "354 go on\r\n")
	body, text := textproto.NewReader(in).DotReader(), strings.Builder{}
	n, err := io.Copy(&text, io.LimitReader(body, s.limit+1))
	if _, end := io.Copy(io.Discard, body); err != nil || end != nil { // read to the end, or the rest would be read as commands
		return ""
	}
	if n > s.limit {
		return "552 mail is too large"
	}
	mail.Data = text.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = append(s.mails, mail)
	return "250 ok"
}
