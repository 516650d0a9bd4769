package spell

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDuration(t *testing.T) {
	for text, d := range map[string]time.Duration{
		"0 seconds": 0, "1 second": time.Second, "1 minute 31 seconds": 91 * time.Second, "1 hour": time.Hour, "1 day": 24 * time.Hour,
		"7 days": 168 * time.Hour, "1 day 1 hour": 25 * time.Hour, "2 hours 1 minute": 2*time.Hour + time.Minute + 5*time.Second, "2 days": 48*time.Hour + 5*time.Second,
	} {
		require.Equal(t, text, Duration(d))
	}
}
