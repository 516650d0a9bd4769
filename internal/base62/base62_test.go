package base62_test

import (
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey/internal/base62"
)

// reference encodes an ID with math/big: slow, but independent of this package.
func reference(id [16]byte) string {
	s := new(big.Int).SetBytes(id[:]).Text(62)
	s = strings.Map(func(r rune) rune { // in the alphabet of math/big, lower case comes first
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, s)
	return strings.Repeat("0", base62.IDLen-len(s)) + s
}

func TestIDAgainstBigInt(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ids := [][16]byte{{}, {15: 1}, {15: 61}, {15: 62}}
	ids = append(ids, [16]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255})
	for range 20_000 {
		var id [16]byte
		for i := range id {
			id[i] = byte(r.Uint32())
		}
		clear(id[:r.IntN(16)])
		ids = append(ids, id)
	}
	for _, id := range ids {
		text := string(base62.AppendID(nil, id))
		require.Equal(t, reference(id), text)
		back, ok := base62.ID(text)
		require.True(t, ok, text)
		require.Equal(t, id, back)
	}
}

func TestIDRefusesWhatOverflows(t *testing.T) {
	limit := new(big.Int).Lsh(big.NewInt(1), 128)
	first := reference([16]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255})
	require.Equal(t, "7n42DGM5Tflk9n8mt7Fhc7", first)
	for _, s := range []string{"7n42DGM5Tflk9n8mt7Fhc8", "7n42DGM5Tflk9n8mt7Fhcz", "7n42DGM5Tflk9n8mt7FhdA", "80" + strings.Repeat("0", 20), strings.Repeat("z", 22)} {
		_, ok := base62.ID(s)
		require.False(t, ok, s)
	}
	require.Equal(t, 129, limit.BitLen())
	for _, s := range []string{"", "0", strings.Repeat("0", 21), strings.Repeat("0", 23), strings.Repeat("0", 21) + "_", strings.Repeat("0", 21) + "\xff", "é" + strings.Repeat("0", 20)} {
		_, ok := base62.ID(s)
		require.False(t, ok, "%q", s)
	}
}

func TestUint(t *testing.T) {
	for _, c := range []struct {
		s    string
		bits int
		v    uint64
		ok   bool
	}{
		{"0", 64, 0, true}, {"z", 64, 61, true}, {"10", 64, 62, true},
		{"4gfFC3", 32, 1<<32 - 1, true}, {"4gfFC4", 32, 0, false}, {"zzzzzz", 32, 0, false},
		{"LygHa16AHYF", 64, 1<<64 - 1, true}, {"LygHa16AHYG", 64, 0, false}, {"zzzzzzzzzzz", 64, 0, false},
		{"", 64, 0, false}, {"-1", 64, 0, false}, {"000000000000", 64, 0, false}, {"a b", 64, 0, false},
	} {
		v, ok := base62.Uint(c.s, c.bits)
		require.Equal(t, c.ok, ok, c.s)
		if ok {
			require.Equal(t, c.v, v)
			require.Equal(t, c.s, string(base62.Append(nil, v, len(c.s))))
		}
	}
}

// 62 digits, 20,000 draws each. With a modulo bias, which maps the bytes 248 to 255 to
// the first eight digits, these digits would appear 25 % more often. Chi-square with 61
// degrees of freedom exceeds 130 once in 10^6 runs.
func TestRandomIsUniform(t *testing.T) {
	const n = 62 * 20_000
	var counts [256]int
	text := base62.AppendRandom(nil, n)
	require.Len(t, text, n)
	for _, b := range text {
		counts[b]++
	}
	var chi float64
	for i := range len(base62.Alphabet) {
		d := float64(counts[base62.Alphabet[i]]) - n/62
		chi += d * d / (n / 62)
	}
	require.Less(t, chi, 130.0)
	require.True(t, base62.Valid(string(text)))
	require.False(t, base62.Valid("a_b"))
}

func FuzzID(f *testing.F) {
	f.Add(strings.Repeat("0", 22))
	f.Add("7n42DGM5Tflk9n8mt7Fhc7")
	f.Add("7n42DGM5Tflk9n8mt7Fhc8")
	f.Fuzz(func(t *testing.T, s string) {
		if id, ok := base62.ID(s); ok && string(base62.AppendID(nil, id)) != s {
			t.Fatalf("%q decodes but does not re-encode to itself", s)
		}
	})
}
