// Package spell writes values for people.
package spell

import (
	"strconv"
	"strings"
	"time"
)

// Duration writes a duration in its two largest units: "1 hour 30 minutes". Less than a
// second is "0 seconds".
func Duration(d time.Duration) string {
	var parts []string
	for _, unit := range []struct {
		name string
		of   time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		n := int(d / unit.of)
		d -= time.Duration(n) * unit.of
		if n == 0 && parts == nil {
			continue
		}
		if n > 0 {
			parts = append(parts, count(n, unit.name))
		}
		if n == 0 || len(parts) == 2 {
			break // 1 day 5 seconds is a day
		}
	}
	if parts == nil {
		return count(0, "second")
	}
	return strings.Join(parts, " ")
}

func count(n int, unit string) string {
	if n != 1 {
		unit += "s"
	}
	return strconv.Itoa(n) + " " + unit
}
