package apikey

import "testing"

// Lines take turns: a line with many callers is not served again before each other line
// that waits. Tests from outside do not see that order, because a line that comes later
// passes the line that had the last turn.
func TestLinesTakeTurns(t *testing.T) {
	var l line
	names := map[*caller]string{}
	for _, name := range []string{"a", "b", "c"} {
		for range 3 {
			c := &caller{}
			names[c] = name
			l.add([]string{name}, c)
		}
	}
	order := ""
	for l.waiting > 0 {
		order += names[l.next()]
	}
	if order != "abcabcabc" {
		t.Errorf("served in the order %s", order)
	}
}
