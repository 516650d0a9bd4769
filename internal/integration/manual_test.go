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

// These functions are the same as in docs/operations.md, for a restored database:
// TestManualIsThisCode compares them. TestRestoredByThisPage executes them on the
// servers, together with the commands of that page.

// takeAwayAgain repeats the changes that took power away after the backup was made.
// since has the events of OnEvent after that time, oldest first, stored outside the
// database (an Event can be read back from its JSON). It returns the events that
// people have to handle: a rotation, because the merchant's new token is unknown now
// and the old one works again; and an update, because its event names the changed
// fields and not their values.
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
		if err != nil && !errors.Is(err, apikey.ErrNotFound) { // not found: the key was made after the backup
			failed = append(failed, fmt.Errorf("key %s: %w", e.Key, err))
		}
	}
	return look, errors.Join(failed...)
}

// verifyAll verifies the chain of every key, and the events outside the chains. The
// error names the events that are broken. unsure names the events that cannot be
// verified: those made with a retired pepper, or before there was a pepper. Somebody
// who writes to the database may have changed them. So the result is good if there is
// no error, and if unsure names only keys that you expect: those that are older than
// a pepper that you have retired.
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

// verifyOutside verifies each event by itself: events outside the chains (enrolments,
// lifted locks, refusals), and events of keys that do not exist any more. It cannot
// find out that an event outside the chains is missing.
func verifyOutside(ctx context.Context, m *apikey.Manager) (unsure int, err error) {
	var failed []error
	for req := (apikey.EventsRequest{Limit: 1000}); ; {
		log, err := m.Events(ctx, req)
		if err != nil {
			return unsure, errors.Join(append(failed, err)...)
		}
		for _, e := range log.Events {
			switch {
			case e.Doubt == apikey.DoubtFailed: // maybe of a key that does not exist, so verifyAll has not read its chain
				failed = append(failed, fmt.Errorf("event %s was changed, or put there: it calls itself %s by %q", e.ID, e.Action, e.Actor.ID))
			case e.Doubt == apikey.DoubtUnverifiable && (e.Seq == 0 || e.Key.IsZero()): // verifyAll counts the others, by chain
				unsure++
			}
		}
		if req.Cursor = log.Next; req.Cursor == "" {
			return unsure, errors.Join(failed...)
		}
	}
}

const manual = "../../docs/operations.md"

// manualBlocks returns the page's fenced code blocks in one language.
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
