package main

import "testing"

// The floor refuses what a verification refuses by form, checksum or secret, so
// it does the work that it is said to do.
func TestFloorDecides(t *testing.T) {
	tokens := []string{tokenOf(idOf(0)), tokenOf(idOf(1))}
	f := newFloor(tokens)
	for _, token := range tokens {
		if f.verify(token).IsZero() {
			t.Errorf("%s is refused", token)
		}
	}
	text := tokens[0]
	for name, wrong := range map[string]string{
		"length":   text + "0",
		"prefix":   checksummed("acmf" + text[4:len(text)-6]),
		"checksum": text[:len(text)-1] + string(changed([]byte(text), len(text)-1)[len(text)-1:]),
		"digit":    checksummed(text[:20] + "-" + text[21:len(text)-6]),
		"ID":       tokenOf(idOf(2)),
		"secret":   checksummed(string(changed([]byte(text[:len(text)-6]), len(text)-20))),
	} {
		if !f.verify(wrong).IsZero() {
			t.Errorf("wrong %s is taken", name)
		}
	}
}
