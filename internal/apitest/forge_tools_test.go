package apitest

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/base62"
	"github.com/go-apikey/apikey/storetest"
)

// What an attacker knows of the token format, written down a second time: the
// widths from the right are tag and CRC 17, slot 1, secret 33, ID 22.

// spliceSecret puts another random secret into a token.
func spliceSecret(text string) string {
	n := len(text) - 18
	return text[:n-33] + string(base62.AppendRandom(nil, 33)) + text[n:]
}

// spliceID puts another random credential ID into a token.
func spliceID(text string) string {
	n := len(text) - 18 - 33
	id := storetest.NewCredentialID()
	return text[:n-22] + id.String() + text[n:]
}

// recrc makes the checksum right again.
func recrc(text string) string {
	body := text[:len(text)-6]
	return string(base62.Append([]byte(body), uint64(crc32.ChecksumIEEE([]byte(body))), 6))
}

// retag makes tag and checksum right again, as whoever stole the pepper could.
// The derivation is written here a second time, from the documentation.
func retag(t *testing.T, p apikey.Pepper, text string) string {
	t.Helper()
	key := [32]byte{}
	for i := range key {
		key[i] = p.Slot() + byte(i) // as pepper() makes them
	}
	sub, err := hkdf.Key(sha256.New, key[:], nil, "apikey pepper v1 tag", 32)
	require.NoError(t, err)
	body := []byte(text[:len(text)-17])
	mac := hmac.New(sha256.New, sub)
	mac.Write(body)
	body = base62.Append(body, binary.BigEndian.Uint64(mac.Sum(nil)), 11)
	return recrc(string(body) + "000000")
}

func TestForgeToolsAreFaithful(t *testing.T) {
	e := newEnv(t)
	text := e.issue().Token.Reveal()
	require.Equal(t, text, recrc(text))
	require.Equal(t, text, retag(t, e.settings.Peppers[0], text))
	require.NotEqual(t, text, spliceSecret(text))
	require.Len(t, spliceID(text), len(text))
}
