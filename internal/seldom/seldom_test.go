package seldom

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLinesOfOneCauseAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l := Logger(slog.New(slog.NewTextHandler(&b, nil)))
		lines := func() (n int) { defer b.Reset(); return strings.Count(b.String(), "\n") }
		for i := range 4000 {
			l.Error("refused", "code", "busy", "request_id", i)
		}
		require.Equal(t, perMinute, lines())
		l.Error("refused", "code", "internal_error", "key", "a")
		l.With("node", 1).Error("refused", "code", "internal_error", "key", "b")
		require.Equal(t, 2, lines(), "other causes")
		time.Sleep(time.Minute)
		l.Error("refused", "code", "busy")
		require.Contains(t, b.String(), "left_out=3990")
		lines()
		l.Error("refused", "code", "busy")
		require.NotContains(t, b.String(), "left_out")
		lines()
		time.Sleep(time.Minute)
		for i := range 3 * causes {
			l.Error("refused", "key", fmt.Sprint(i))
		}
		require.LessOrEqual(t, lines(), causes+perMinute, "those that are too many share one count")
		time.Sleep(2 * time.Minute)
		l.Error("refused", "key", "1")
		require.Equal(t, 1, lines())
	})
}

// A thousand causes that came once, each with more lines than are written, do not keep
// their counts for ever.
func TestCausesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l := Logger(slog.New(slog.NewTextHandler(&b, nil)))
		for i := range causes {
			for range perMinute + 1 {
				l.Error("refused", "key", fmt.Sprint(i))
			}
		}
		time.Sleep(24 * time.Hour)
		b.Reset()
		for i := range 100 {
			l.Error("another message", "key", fmt.Sprint("other", i))
		}
		require.Equal(t, 100, strings.Count(b.String(), "\n"), "a day later")
		require.Equal(t, 1, strings.Count(b.String(), fmt.Sprint("left_out=", causes)), "what nobody told is told once")
	})
}
