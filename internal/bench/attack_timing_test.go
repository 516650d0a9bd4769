package main

import (
	"context"
	"encoding/base32"
	"fmt"
	"math"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/totp"
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

// leakage measures n calls of op on one of two inputs, chosen at random and
// copied into one buffer: of two buffers one lies better.
func leakage(n int, first, second []byte, op func([]byte)) (t, difference float64) {
	inputs := [2][]byte{first, second}
	buffer := make([]byte, len(first), 256)
	var took [2][]float64
	for i := range n + n/50 + 10 {
		c := rand.IntN(2)
		copy(buffer, inputs[c])
		start := time.Now()
		op(buffer)
		d := float64(time.Since(start).Nanoseconds())
		if i >= n/50+10 { // warm
			took[c] = append(took[c], d)
		}
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
func hold(t *testing.T, name string, n int, first, second []byte, op func([]byte)) {
	t.Helper()
	for try := range 3 {
		value, difference := leakage(n, first, second, op)
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
		ask := func(secret []byte) {
			if ok, err := c.hasher.Verify(background, encoded, secret); ok || err != nil {
				t.Error(ok, err)
			}
		}
		first, middle, last := changed(secret, from), changed(secret, from+16), changed(secret, from+32)
		hold(t, c.hasher.Name()+", wrong at first or last character", c.n, first, last, ask)
		hold(t, c.hasher.Name()+", wrong at first or middle character", c.n, first, middle, ask)
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
	ask := refusedBy(t, p)
	wrong := func(text string, at int) []byte {
		return []byte(checksummed(string(changed([]byte(text[:len(text)-6]), at))))
	}
	n := attempts(1_000_000)
	secret := len(text) - 18 - 33
	hold(t, "warm comparison, secret wrong at first or last character", n, wrong(text, secret), wrong(text, secret+32), ask)
	// Of an unknown ID, so that the tag decides. The first digit of a tag holds
	// the highest bits: 'A' and 'B' fit.
	id := len("acme_sk_live_")
	other := text[:id] + idOf(7).String() + text[id+22:]
	tag := len(other) - 17
	hold(t, "tag, wrong at first or last character", n, wrong(other, tag), wrong(other, tag+10), ask)
}

// refusedBy presents a token that is to be refused. The text is not copied: it
// has to lie where it was put.
func refusedBy(t *testing.T, p *program) func([]byte) {
	return func(token []byte) {
		if _, err := p.verifier.Verify(background, unsafe.String(&token[0], len(token)), request); err != apikey.ErrInvalidToken {
			t.Error(err)
		}
	}
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
	value, difference := leakage(attempts(1_000_000), []byte(known), []byte(unknown), refusedBy(t, p))
	t.Logf("a known, warm ID and an unknown one, both with a wrong secret: t = %.1f, difference %.0f ns", value, difference)
}

// The codes of the factors, on the Factor directly: it takes the same time
// whichever digit is the wrong one.
func TestTimingOfFactors(t *testing.T) {
	pepper, err := apikey.NewPepper(1, [32]byte{1})
	must(t, err)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	app, err := apikey.NewTOTP("Acme", func() time.Time { return now })
	must(t, err)
	enrolled, uri, err := app.Enroll(background, apikey.Actor{ID: "usr_1"})
	must(t, err)
	u, err := url.Parse(uri)
	must(t, err)
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(u.Query().Get("secret"))
	must(t, err)

	var box mailbox
	mail, err := apikey.NewEmailCode(&box, pepper)
	must(t, err)
	challenge := apikey.Challenge{ID: "0123456789012345678901", ExpiresAt: now.Add(10 * time.Minute)}
	state, send, err := mail.Begin(background, apikey.Actor{}, challenge, nil)
	must(t, err)
	must(t, send(background))

	for _, c := range []struct {
		name            string
		factor          apikey.Factor
		enrolled, state []byte
		right           string
	}{
		{"TOTP", app, enrolled, nil, totp.Code(seed, totp.Step(now))},
		{"e-mailed code", mail, nil, state, box.code},
	} {
		ask := func(code []byte) {
			if _, ok, err := c.factor.Check(background, apikey.Actor{}, challenge, c.enrolled, c.state, string(code)); ok || err != nil {
				t.Error(ok, err)
			}
		}
		if _, ok, err := c.factor.Check(background, apikey.Actor{}, challenge, c.enrolled, c.state, c.right); !ok || err != nil {
			t.Fatalf("%s: the right code: %v %v", c.name, ok, err)
		}
		wrong := func(at int) []byte {
			code := []byte(c.right)
			code[at] = '0' + (code[at]-'0'+1)%10
			return code
		}
		for at := 1; at < len(c.right); at++ {
			hold(t, fmt.Sprintf("%s, wrong at digit 1 or %d", c.name, at+1), attempts(1_000_000), wrong(0), wrong(at), ask)
		}
	}
}

// mailbox keeps the code of the last mail.
type mailbox struct{ code string }

func (b *mailbox) Send(_ context.Context, _ string, m apikey.Message) error {
	b.code = regexp.MustCompile(`\d{6}`).FindString(m.Text())
	return nil
}
