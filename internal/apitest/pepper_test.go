package apitest

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

func TestNewPepper(t *testing.T) {
	var zeros, ones, last [32]byte
	for i := range ones {
		ones[i] = 0xFF
	}
	last[31] = 1
	for _, c := range []struct {
		slot uint8
		key  [32]byte
		ok   bool
	}{
		{1, ones, true}, {61, ones, true}, {apikey.MaxPepperSlot, last, true}, {1, last, true},
		{0, ones, false}, {62, ones, false}, {255, ones, false}, {1, zeros, false}, {0, zeros, false},
	} {
		p, err := apikey.NewPepper(c.slot, c.key)
		if c.ok {
			require.NoError(t, err)
			require.Equal(t, c.slot, p.Slot())
			continue
		}
		require.ErrorIs(t, err, apikey.ErrInvalid)
		require.Zero(t, p.Slot())
		require.NotContains(t, err.Error(), "255 255")
	}
}

// A forgotten pepper in a list would silently mint without one.
func TestPepperListsAreChecked(t *testing.T) {
	one, two := pepper(t, 1), pepper(t, 2)
	for name, c := range map[string]struct {
		peppers []apikey.Pepper
		wrong   string
	}{
		"one":                  {[]apikey.Pepper{one}, ""},
		"two":                  {[]apikey.Pepper{two, one}, ""},
		"zero":                 {[]apikey.Pepper{{}}, "zero Pepper"},
		"zero among others":    {[]apikey.Pepper{one, {}, two}, "zero Pepper"},
		"twice the same":       {[]apikey.Pepper{one, one}, "two peppers are in slot 1"},
		"two keys in one slot": {[]apikey.Pepper{one, pepperOf(t, 1, 50)}, "two peppers are in slot 1"},
	} {
		e := newEnv(t, noPepper)
		s := e.settings
		s.Peppers = c.peppers
		_, errManager := apikey.NewManager(t.Context(), s, apikey.ManagerConfig{})
		_, errVerifier := apikey.NewVerifier(t.Context(), s, apikey.VerifierConfig{Mode: apikey.Live, ReadOnly: true, Sync: -1})
		_, errHasher := apikey.NewHMACSHA256(c.peppers...)
		for _, err := range []error{errManager, errVerifier, errHasher} {
			if c.wrong == "" {
				require.NoError(t, err, name)
				continue
			}
			require.ErrorIs(t, err, apikey.ErrInvalid, name)
			require.ErrorContains(t, err, c.wrong, name)
		}
	}
	_, err := apikey.NewHMACSHA256()
	require.ErrorIs(t, err, apikey.ErrInvalid)
}

func TestPepperPrintsItsSlot(t *testing.T) {
	p := pepper(t, 42)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		require.Equal(t, "pepper(slot 42)", fmt.Sprintf(format, p), format)
		require.Equal(t, "pepper(slot 42)", fmt.Sprintf(format, &p), format)
	}
	require.Equal(t, "pepper(slot 42)", p.LogValue().String())
	b, err := json.Marshal(map[string]any{"p": p, "q": []apikey.Pepper{{}}})
	require.NoError(t, err)
	require.JSONEq(t, `{"p":"pepper(slot 42)","q":["pepper(slot 0)"]}`, string(b))
}

// subkey is the derivation, written down a second time from its documentation:
// HKDF-SHA-256 without a salt, one info string a purpose.
func subkey(t testing.TB, key [32]byte, purpose string) []byte {
	t.Helper()
	sub, err := hkdf.Key(sha256.New, key[:], nil, "apikey pepper v1 "+purpose, 32)
	require.NoError(t, err)
	return sub
}

func hmacOf(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}

// What is stored was made under the subkey of its purpose, and begins with the
// slot. A restarted program, and one of another year, makes the same.
func TestPurposesAreApart(t *testing.T) {
	var key [32]byte
	for i := range key {
		key[i] = 1 + byte(i) // as pepper(t, 1) makes it
	}
	e := newEnv(t)
	issued := e.issue()
	text := issued.Token.Reveal()
	proven := text[:len(text)-slotWidth-tagWidth-crcWidth]
	r, err := e.store.Get(t.Context(), issued.Key.ID)
	require.NoError(t, err)
	check := hmacOf(subkey(t, key, "proof"), proven)
	require.Equal(t, append([]byte{1}, check...), r.Credentials[0].Check)
	require.Equal(t, text, retag(t, e.settings.Peppers[0], text))

	ok, err := hmacHasher(t, pepper(t, 1)).Verify(t.Context(), r.Credentials[0].Hash, []byte(proven))
	require.NoError(t, err)
	require.True(t, ok)
	seen := map[string]string{}
	for _, purpose := range []string{"tag", "proof", "hash", "code", "row", "event", "mark"} {
		sub := string(subkey(t, key, purpose))
		require.Empty(t, seen[sub])
		seen[sub] = purpose
	}
	events, err := e.store.Events(t.Context(), apikey.StoreEventFilter{Key: issued.Key.ID})
	require.NoError(t, err)
	require.Equal(t, hmacOf(subkey(t, key, "event"), string(events.Events[0].Body)), events.Events[0].Hash[:])
	require.Equal(t, events.Events[0].Hash, r.Head)
	require.Equal(t, byte(1), r.MAC[0])
	require.Len(t, r.MAC, 33)
}

// Without a pepper the check is 32 bits: enough to turn junk away, too little
// to guess a secret by.
func TestCheckWithoutAPepperIsShort(t *testing.T) {
	e := newEnv(t, noPepper)
	issued := e.issue()
	text := issued.Token.Reveal()
	sum := sha256.Sum256([]byte("apikey check v1\x00" + text[:len(text)-slotWidth-tagWidth-crcWidth]))
	r, err := e.store.Get(t.Context(), issued.Key.ID)
	require.NoError(t, err)
	require.Equal(t, append([]byte{0}, sum[:4]...), r.Credentials[0].Check)
	require.Empty(t, r.MAC)
}

// Every slot mints its own digit, and tokens of all of them verify together.
func TestEverySlot(t *testing.T) {
	t.Parallel()
	var all []apikey.Pepper
	for slot := uint8(1); slot <= apikey.MaxPepperSlot; slot++ {
		all = append(all, pepper(t, slot))
	}
	e := newEnv(t, func(e *env) { e.settings.Peppers = all })
	digits := map[string]bool{}
	for _, p := range all {
		m := e.newManager(func(c *managerConfig) {
			c.Peppers, c.Limits.LiveKeys = append([]apikey.Pepper{p}, without(all, p)...), 100
		})
		issued, err := m.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.NoError(t, err)
		text := issued.Token.Reveal()
		digits[text[len(text)-crcWidth-tagWidth-slotWidth:][:slotWidth]] = true
		require.NoError(t, e.verify(issued.Token))
		foreign := e.newVerifier(func(c *verifierConfig) { c.Peppers = without(all, p) })
		_, err = foreign.Verify(t.Context(), text, apikey.Request{})
		require.ErrorIs(t, err, apikey.ErrInvalidToken)
	}
	require.Len(t, digits, apikey.MaxPepperSlot)
	require.False(t, digits["0"])
}

func without(all []apikey.Pepper, p apikey.Pepper) (others []apikey.Pepper) {
	for _, other := range all {
		if other.Slot() != p.Slot() {
			others = append(others, other)
		}
	}
	return others
}

func TestPepperErrorsNameTheSlotAlone(t *testing.T) {
	e := newEnv(t)
	for name, peppers := range map[string][]apikey.Pepper{
		"wrong key":    {pepperOf(t, 1, 99)},
		"forgotten":    nil,
		"another slot": {pepper(t, 2)},
	} {
		s := e.settings
		s.Peppers = peppers
		s.Hashers = []apikey.Hasher{argon(t, apikey.Argon2idConfig{})}
		_, err := apikey.NewVerifier(t.Context(), s, e.vc)
		require.ErrorIs(t, err, apikey.ErrPepper, name)
		require.Contains(t, err.Error(), "slot 1", name)
		require.Less(t, len(err.Error()), 200, name)
		require.False(t, strings.Contains(err.Error(), "{"), name)
	}
}
