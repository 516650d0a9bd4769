package main

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// Timing: Welch's t-test over two classes in random order, the slowest twentieth
// left out (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?",
// 2017). |t| < 4.5 where a secret decides.

const significant = 4.5

func welch(a, b []float64) float64 {
	ma, va := moments(a)
	mb, vb := moments(b)
	return (ma - mb) / math.Sqrt(va/float64(len(a))+vb/float64(len(b)))
}

func moments(v []float64) (mean, variance float64) {
	for _, x := range v {
		mean += x
	}
	mean /= float64(len(v))
	for _, x := range v {
		variance += (x - mean) * (x - mean)
	}
	return mean, variance / float64(len(v)-1)
}

// leakage measures n calls of one of two operations, chosen at random.
func leakage(n int, first, second func()) (t, difference float64) {
	classes := [2]func(){first, second}
	var took [2][]float64
	for range n/50 + 10 { // warm up
		first()
		second()
	}
	for range n {
		c := rand.IntN(2)
		start := time.Now()
		classes[c]()
		took[c] = append(took[c], float64(time.Since(start).Nanoseconds()))
	}
	all := slices.Sorted(slices.Values(slices.Concat(took[0], took[1])))
	limit := all[len(all)*95/100]
	for c := range took {
		took[c] = slices.DeleteFunc(took[c], func(v float64) bool { return v > limit })
	}
	m0, _ := moments(took[0])
	m1, _ := moments(took[1])
	return welch(took[0], took[1]), m0 - m1
}

// hold repeats a test that found something: noise does not come three times.
func hold(t *testing.T, name string, n int, first, second func()) {
	t.Helper()
	for try := range 3 {
		value, difference := leakage(n, first, second)
		t.Logf("%s: t = %.2f, difference %.1f ns, %d samples", name, value, difference, n)
		if math.Abs(value) < significant {
			return
		}
		if try == 2 {
			t.Errorf("%s: |t| = %.2f three times, want < %v", name, math.Abs(value), significant)
		}
	}
}

// changed replaces one digit by another.
func changed(s []byte, at int) []byte {
	c := slices.Clone(s)
	if c[at] = 'A'; s[at] == 'A' {
		c[at] = 'B'
	}
	return c
}

func TestTimingOfHashers(t *testing.T) {
	secret := []byte(tokenOf(idOf(1)))
	secret = secret[:len(secret)-18]
	from := len(secret) - 33
	pepper, err := apikey.NewPepper(1, [32]byte{1})
	must(t, err)
	quick, err := apikey.NewHMACSHA256(pepper)
	must(t, err)
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{})
	must(t, err)
	for _, c := range []struct {
		hasher apikey.Hasher
		n      int
	}{{quick, attempts(1_000_000)}, {argon, attempts(2_000)}} {
		encoded, err := c.hasher.Hash(background, secret)
		must(t, err)
		ask := func(secret []byte) func() {
			return func() {
				if ok, err := c.hasher.Verify(background, encoded, secret); ok || err != nil {
					t.Error(ok, err)
				}
			}
		}
		first, middle, last := ask(changed(secret, from)), ask(changed(secret, from+16)), ask(changed(secret, from+32))
		hold(t, c.hasher.Name()+", wrong at first or last character", c.n, first, last)
		hold(t, c.hasher.Name()+", wrong at first or middle character", c.n, first, middle)
	}
}

func TestTimingOfWarmAndTag(t *testing.T) {
	p, err := newProgram(memstore.New(), nil, true, quiet)
	must(t, err)
	issued, err := p.issue(1)
	must(t, err)
	text := issued[0].Token.Reveal()
	_, err = p.verifier.Verify(background, text, request)
	must(t, err)
	ask := func(token string) func() {
		return func() {
			if _, err := p.verifier.Verify(background, token, request); err != apikey.ErrInvalidToken {
				t.Error(err)
			}
		}
	}
	wrong := func(text string, at int) string { return checksummed(string(changed([]byte(text[:len(text)-6]), at))) }
	n := attempts(1_000_000)
	secret := len(text) - 18 - 33
	hold(t, "warm comparison, secret wrong at first or last character", n, ask(wrong(text, secret)), ask(wrong(text, secret+32)))
	// Of an unknown ID, so that the tag decides. The first digit of a tag holds
	// the highest bits: 'A' and 'B' fit.
	id := len("acme_sk_live_")
	other := text[:id] + idOf(7).String() + text[id+22:]
	tag := len(other) - 17
	hold(t, "tag, wrong at first or last character", n, ask(wrong(other, tag)), ask(wrong(other, tag+10)))
}

// Whether an ID exists is public by design: it is on every key page, and a
// refusal without a store read is what makes a flood cheap. The gap is told, not
// hidden by hashes for nothing.
func TestTimingOfExistenceIsTold(t *testing.T) {
	p, err := newProgram(memstore.New(), nil, false, quiet)
	must(t, err)
	issued, err := p.issue(1)
	must(t, err)
	text := issued[0].Token.Reveal()
	_, err = p.verifier.Verify(background, text, request)
	must(t, err)
	known := checksummed(string(changed([]byte(text[:len(text)-6]), len(text)-20)))
	unknown := tokenOf(idOf(7))
	ask := func(token string) func() {
		return func() {
			if _, err := p.verifier.Verify(background, token, request); err != apikey.ErrInvalidToken {
				t.Error(err)
			}
		}
	}
	value, difference := leakage(attempts(1_000_000), ask(known), ask(unknown))
	t.Logf("a known, warm ID and an unknown one, both with a wrong secret: t = %.1f, difference %.0f ns", value, difference)
}

// Place for the factors: TOTP and e-mailed codes, digit by digit, on the Factor
// directly.
