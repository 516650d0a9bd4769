package main

import (
	"context"
	"fmt"
	"io"

	"github.com/go-apikey/apikey"
)

// printer stands for a mail server: it writes each code to standard output, for whoever
// tries this program there, as a line to paste. A program that serves anybody else sends
// a mail, as examples/stepup does, and writes no code anywhere.
type printer struct{ out io.Writer }

// Send returns an error if the code could not be written: then no challenge is put.
func (p printer) Send(_ context.Context, actorID string, m apikey.Message) error {
	_, err := fmt.Fprintf(p.out, "# mail to %s: %s\nCODE=%s\n", actorID, m.Subject, m.Code())
	return err
}
