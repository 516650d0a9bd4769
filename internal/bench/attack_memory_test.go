package main

import (
	"fmt"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// A million distinct tokens that nobody issued leave nothing behind, with a
// pepper or without, and none of them reaches argon2.
func TestJunkTakesNoMemory(t *testing.T) {
	const junk, allowed = 1_000_000, 8 << 20
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{})
	must(t, err)
	for _, c := range []struct {
		name     string
		peppered bool
		token    func(known string, i int) string
		reads    int64
	}{
		{"forged tags", true, func(known string, i int) string {
			return checksummed(fmt.Sprintf("%s%011d", known[:len(known)-17], i))
		}, 0},
		{"unknown IDs, without a pepper", false, func(_ string, i int) string { return tokenOf(idOf(1_000 + i)) }, junk},
		{"wrong secrets of a warm ID", false, func(known string, i int) string {
			return checksummed(fmt.Sprintf("%s%08d%s", known[:len(known)-26], i, known[len(known)-18:len(known)-6]))
		}, 0},
	} {
		counted := &hashes{Hasher: argon}
		store := &gauge{Store: memstore.New()}
		p, err := newProgram(store, counted, c.peppered, quiet)
		must(t, err)
		issued, err := p.issue(1)
		must(t, err)
		known := issued[0].Token.Reveal()
		_, err = p.verifier.Verify(background, known, request)
		must(t, err)
		before, reads, runs := liveHeap(), store.reads.Load(), counted.runs.Load()
		for i := range junk {
			if _, err := p.verifier.Verify(background, c.token(known, i), request); err != apikey.ErrInvalidToken {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		growth := int64(liveHeap()) - int64(before)
		reads, runs = store.reads.Load()-reads, counted.runs.Load()-runs
		t.Logf("%d %s: the heap grew by %d KiB; store reads %d, argon2 runs %d", junk, c.name, growth>>10, reads, runs)
		if growth > allowed || runs != 0 || reads > c.reads {
			t.Errorf("%s: want at most %d KiB, %d reads, and no argon2", c.name, allowed>>10, c.reads)
		}
		must(t, p.verifier.Close(background))
	}
}
