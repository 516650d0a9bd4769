package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/go-apikey/apikey"
)

// The two functions are those of docs/operations.md, to the letter, for a
// database that was put back: TestRestoredByThisPage executes them on the servers,
// and its commands with them.

// takeAwayAgain repeats what took power away since the moment that the database
// was put back to. since is what OnEvent said, kept elsewhere (an Event's JSON reads
// back), oldest first. What needs people is returned: a rotation, after which the
// merchant's new token is unknown and the old one works again, and an update, of
// which the event says the fields and not the values.
func takeAwayAgain(ctx context.Context, m *apikey.Manager, since []apikey.Event) (look []apikey.Event, err error) {
	var failed []error
	for _, e := range since {
		var err error
		switch e.Action {
		case apikey.ActionRevoke:
			err = m.Revoke(ctx, apikey.RevokeRequest{Key: e.Key, Reason: apikey.ReasonCompromised})
		case apikey.ActionSuspend:
			err = m.Suspend(ctx, e.Key)
		case apikey.ActionRetire, apikey.ActionRevokeToken:
			err = m.Retire(ctx, apikey.RetireRequest{Key: e.Key, Credential: e.Credential})
		default:
			look = append(look, e)
		}
		if err != nil && !errors.Is(err, apikey.ErrNotFound) { // it is younger than the backup, and gone
			failed = append(failed, fmt.Errorf("key %s: %w", e.Key, err))
		}
	}
	return look, errors.Join(failed...)
}

// verifyAll walks the chain of every key, and the events outside the chains. The
// error names what is broken. unsure names what nobody can check: the events of a
// pepper that is gone, or of before there was one. Whoever writes to the database
// can have changed those, so the answer is clean if there is no error and unsure
// names what you expect: keys that are older than a pepper that you have retired.
func verifyAll(ctx context.Context, m *apikey.Manager) (events int, unsure []string, err error) {
	var failed []error
	for list := (apikey.ListRequest{Limit: 1000}); ; {
		page, err := m.List(ctx, list)
		if err != nil {
			return events, unsure, errors.Join(append(failed, err)...)
		}
		for _, damaged := range page.Damaged {
			failed = append(failed, damaged)
		}
		for _, key := range page.Keys {
			report, err := m.VerifyEvents(ctx, key.ID)
			events += report.Events
			if err == nil && report.Broken != nil {
				err = fmt.Errorf("event %d: %s", report.Broken.Seq, report.Broken.Detail)
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("key %s: %w", key.ID, err))
			}
			if n := report.Unverifiable; n > 0 {
				unsure = append(unsure, fmt.Sprintf("key %s: %d of %d events", key.ID, n, report.Events))
			}
		}
		if list.Cursor = page.Next; list.Cursor == "" {
			break
		}
	}
	n, err := verifyOutside(ctx, m)
	if n > 0 {
		unsure = append(unsure, fmt.Sprintf("outside the chains: %d events", n))
	}
	return events, unsure, errors.Join(append(failed, err)...)
}

// verifyOutside looks at every event by itself: those outside the chains (enrolments,
// lifted locks, refusals) and those of keys that are gone. That one is missing outside
// the chains is not found.
func verifyOutside(ctx context.Context, m *apikey.Manager) (unsure int, err error) {
	var failed []error
	for req := (apikey.EventsRequest{Limit: 1000}); ; {
		log, err := m.Events(ctx, req)
		if err != nil {
			return unsure, errors.Join(append(failed, err)...)
		}
		for _, e := range log.Events {
			switch {
			case e.Doubt == apikey.DoubtFailed: // perhaps of a key that is not there, whose chain nobody walks
				failed = append(failed, fmt.Errorf("event %s was changed, or put there: it calls itself %s by %q", e.ID, e.Action, e.Actor.ID))
			case e.Doubt == apikey.DoubtUnverifiable && (e.Seq == 0 || e.Key.IsZero()): // else its chain tells
				unsure++
			}
		}
		if req.Cursor = log.Next; req.Cursor == "" {
			return unsure, errors.Join(failed...)
		}
	}
}

const manual = "../../docs/operations.md"

// manualBlocks are the fenced blocks of the page in one language.
func manualBlocks(t *testing.T, language string) (blocks []string) {
	t.Helper()
	for _, block := range strings.Split(textOf(t, manual), "```"+language+"\n")[1:] {
		block, _, closed := strings.Cut(block, "```")
		if !closed {
			t.Fatal("a block of the page does not end")
		}
		blocks = append(blocks, block)
	}
	return blocks
}

func textOf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return string(text)
}

var pageFunc = regexp.MustCompile(`(?ms)^(// \w+ [^\n]*\n(//[^\n]*\n)*)?func [a-z]\w+\(ctx context\.Context, m .*?^}\n`)

func TestManualIsThisCode(t *testing.T) {
	page := strings.Join(manualBlocks(t, "go"), "\n")
	code := pageFunc.FindAllString(textOf(t, "manual_test.go"), -1)
	for _, f := range code {
		if !strings.Contains(page, f) {
			t.Errorf("the page does not show\n%s", f)
		}
	}
	if len(code) != 3 {
		t.Errorf("%d functions of the page", len(code))
	}
}
