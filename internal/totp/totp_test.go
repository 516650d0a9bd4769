package totp_test

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey/internal/totp"
)

const seed = "12345678901234567890"

// RFC 4226, appendix D.
func TestHOTPVectors(t *testing.T) {
	codes := strings.Fields("755224 287082 359152 969429 338314 254676 287922 162583 399871 520489")
	require.Len(t, codes, 10)
	for counter, want := range codes {
		require.Equal(t, want, totp.Code([]byte(seed), uint64(counter)))
	}
}

// RFC 6238, appendix B. The codes have eight digits; each seed is as long as the hash.
func TestTOTPVectors(t *testing.T) {
	rows := []struct {
		at                   int64
		sha1, sha256, sha512 string
	}{
		{59, "94287082", "46119246", "90693936"},
		{1111111109, "07081804", "68084774", "25091201"},
		{1111111111, "14050471", "67062674", "99943326"},
		{1234567890, "89005924", "91819424", "93441116"},
		{2000000000, "69279037", "90698825", "38618901"},
		{20000000000, "65353130", "77737706", "47863826"},
	}
	vectors := 0
	for _, r := range rows {
		step := totp.Step(time.Unix(r.at, 0))
		for _, v := range []struct {
			h    func() hash.Hash
			n    int
			want string
		}{{sha1.New, 20, r.sha1}, {sha256.New, 32, r.sha256}, {sha512.New, 64, r.sha512}} {
			require.Equal(t, v.want, totp.HOTP(v.h, []byte(strings.Repeat(seed, 4)[:v.n]), step, 8))
			vectors++
		}
	}
	require.Equal(t, 18, vectors, "with the ten of HOTP: 28")
}

func TestMatch(t *testing.T) {
	now := time.Unix(1234567890, 0)
	at := totp.Step(now)
	for d := -3; d <= 3; d++ {
		step, ok := totp.Match([]byte(seed), totp.Code([]byte(seed), at+uint64(d)), now, 0)
		require.Equal(t, d >= -1 && d <= 1, ok, "step %+d", d)
		if ok {
			require.Equal(t, at+uint64(d), step)
		}
	}
	_, ok := totp.Match([]byte(seed), totp.Code([]byte(seed), at), now, at)
	require.False(t, ok, "a code works once")
	_, ok = totp.Match([]byte(seed), totp.Code([]byte(seed), at-1), now, at)
	require.False(t, ok, "nor does an older one after it")
	for _, junk := range []string{"", "0", "12345", "1234567", "００５９２４", strings.Repeat("0", 1<<20)} {
		_, ok := totp.Match([]byte(seed), junk, now, 0)
		require.False(t, ok)
	}
}
