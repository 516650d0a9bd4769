package apikey

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// ParsePeppers reads peppers from the text of a file or of a secret manager, for
// Settings.Peppers. Each line is slot:key, where slot is a number from 1
// to 61 and key is 64 hexadecimal digits, which are 32 bytes. A line without a slot has
// slot 1. The pepper of the first line mints, all verify:
//
//	# in use since May
//	2:…64 digits…
//	1:…64 digits…
//
// Empty lines, lines that begin with '#', space around each part, Windows line ends and
// a byte order mark are skipped. Make a key with
//
//	openssl rand -hex 32
//
// The error is ErrInvalid and says which line to change and how. It never holds a part
// of the text. A text without a pepper, two peppers in one slot, and one key in two
// slots are errors too.
func ParsePeppers(text string) ([]Pepper, error) {
	lines, err := keyLines("pepper", text)
	if err != nil {
		return nil, err
	}
	peppers := make([]Pepper, len(lines))
	for i, l := range lines {
		if peppers[i], err = l.pepper(lines[:i]); err != nil {
			return nil, err
		}
	}
	return peppers, nil
}

// ParsePepper reads one pepper, for an environment variable: the key alone, which is
// slot 1, or slot:key. See [ParsePeppers], and use that for more than one. Its error is
// ErrInvalid and never holds a part of the text.
func ParsePepper(text string) (Pepper, error) {
	peppers, err := ParsePeppers(text)
	if err == nil && len(peppers) > 1 {
		err = invalid("pepper: the text has %d of them: read them with ParsePeppers", len(peppers))
	}
	if err != nil {
		return Pepper{}, err
	}
	return peppers[0], nil
}

// ParseKEKs reads KEKs from the text of a file or of a secret manager, for
// ManagerConfig.KEKs. Each line is id:key. The id is that of [NewLocalKEK]; it may hold
// colons, and the key follows the last one. The KEK of the first line seals, all open.
// For the rest see [ParsePeppers].
//
// A line without an id gets one that is made from the key, so another key has another
// id. [LocalKEK.ID] says which: write it before the key if the line is to get an id.
//
// The error is ErrInvalid and never holds a part of the text.
func ParseKEKs(text string) ([]KEK, error) {
	lines, err := keyLines("KEK", text)
	if err != nil {
		return nil, err
	}
	keks := make([]KEK, len(lines))
	for i, l := range lines {
		k, err := l.kek(keks[:i], lines[:i])
		if err != nil {
			return nil, err
		}
		keks[i] = k
	}
	return keks, nil
}

// ParseKEK reads one KEK, for an environment variable: the key alone, or id:key. See
// [ParseKEKs], and use that for more than one. Its error is ErrInvalid and never holds
// a part of the text.
func ParseKEK(text string) (*LocalKEK, error) {
	keks, err := ParseKEKs(text)
	if err == nil && len(keks) > 1 {
		err = invalid("KEK: the text has %d of them: read them with ParseKEKs", len(keks))
	}
	if err != nil {
		return nil, err
	}
	return keks[0].(*LocalKEK), nil
}

// ReadSecretFile returns the text of a file of peppers or KEKs, for [ParsePeppers] and
// [ParseKEKs]. It refuses a file that users outside its group can read or change, or
// that its group can change (permission bits 027; not on Windows, which has none), and
// one that is larger than 64 KiB. Both are ErrInvalid, and so is an empty path. Any other
// error is that of package os, such as fs.ErrNotExist.
func ReadSecretFile(path string) (string, error) {
	if path == "" {
		return "", invalid("ReadSecretFile was given no path: mostly the environment variable that names the file of peppers or KEKs is not set")
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", err
	}
	info, err := f.Stat() // of the file that was read, whatever has the name by now
	if err != nil {
		return "", err
	}
	mode := info.Mode().Perm()
	switch {
	case mode&0o027 != 0 && runtime.GOOS != "windows":
		return "", invalid("%s can be read by others or changed by its group (mode %04o): chmod 600 it, and replace what is in it if somebody may have read it", path, mode)
	case len(text) > maxSecretFile:
		return "", invalid("%s is larger than %d bytes: name the right file", path, maxSecretFile)
	}
	return string(text), nil
}

const maxSecretFile = 64 << 10

// keyLine is one key of a text, as it is written there.
type keyLine struct {
	what     string // "pepper" or "KEK", for people
	number   int    // of the line, from 1, for people
	label    string // what is before the last colon
	labelled bool   // there is a colon
	key      [32]byte
}

// keyLines reads all lines that are neither empty nor comments. No two have one key:
// otherwise a leaked key could stay in use under a new slot or ID.
func keyLines(what, text string) (lines []keyLine, err error) {
	if !storable(text) {
		return nil, invalid("%s: the file is not text: write its key as 64 hexadecimal digits (xxd -p -c 64), or %s", what, makeKey)
	}
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		l := keyLine{what: what, number: number}
		key := line
		if at := strings.LastIndexByte(line, ':'); at >= 0 {
			l.labelled, l.label, key = true, strings.TrimSpace(line[:at]), strings.TrimSpace(line[at+1:])
		}
		if l.key, err = parseKey(key); err != nil {
			return nil, l.wrong("%w", err)
		}
		for _, other := range lines {
			if subtle.ConstantTimeCompare(l.key[:], other.key[:]) == 1 {
				return nil, l.wrong("has the key of line %d again: %s", other.number, makeKey)
			}
		}
		lines = append(lines, l)
	}
	if lines == nil {
		return nil, invalid("%s: there is none in the text: %s", what, makeKey)
	}
	return lines, nil
}

// wrong is an ErrInvalid about a line. Nothing in it may come from the line: where the
// parts are in the wrong order, the label is the secret.
func (l keyLine) wrong(format string, args ...any) error {
	return invalid("%s, line %d: "+format, append([]any{l.what, l.number}, args...)...)
}

func (l keyLine) pepper(before []keyLine) (Pepper, error) {
	slot, ok := l.slot()
	if !ok {
		return Pepper{}, l.wrong("want a slot from 1 to %d before the colon (an ID is written there if this is the text of KEKs)", MaxPepperSlot)
	}
	for _, other := range before {
		if taken, _ := other.slot(); taken == slot {
			return Pepper{}, l.wrong("has the slot of line %d: give each pepper a slot of its own (a line without one has slot 1)", other.number)
		}
	}
	return NewPepper(slot, l.key)
}

func (l keyLine) slot() (slot uint8, ok bool) {
	if !l.labelled {
		return 1, true
	}
	n, err := strconv.ParseUint(l.label, 10, 8)
	return uint8(n), err == nil && n >= 1 && n <= MaxPepperSlot
}

func (l keyLine) kek(before []KEK, lines []keyLine) (*LocalKEK, error) {
	id := l.label
	switch {
	case !l.labelled:
		id = kekIDOf(l.key)
	case id == "" || len(id) > 255:
		return nil, l.wrong("want an ID of 1 to 255 bytes before the colon")
	case looksLikeKey(id):
		// IDs are stored and printed.
		return nil, l.wrong("has a key before the colon, where its ID belongs")
	}
	for i, other := range before {
		if other.ID() == id {
			return nil, l.wrong("has the ID of line %d: give each KEK an ID of its own", lines[i].number)
		}
	}
	return NewLocalKEK(id, l.key[:])
}

// kekIDOf makes an ID that another key does not have and that says nothing of the key.
// The ID is stored with what the KEK seals, so this derivation must not change.
func kekIDOf(key [32]byte) string {
	id, err := hkdf.Key(sha256.New, key[:], nil, "apikey kek id v1", 8)
	if err != nil {
		panic(err) // for lengths beyond 255 blocks only
	}
	return "kek-" + hex.EncodeToString(id)
}

const makeKey = "make one with openssl rand -hex 32"

// parseKey reads 64 hexadecimal digits. Its errors do not hold those of package hex,
// which quote the text.
func parseKey(text string) (key [32]byte, err error) {
	b, err := hex.DecodeString(text)
	switch {
	case text == "":
		return key, errors.New("has no key: " + makeKey)
	case err == nil && len(b) != len(key):
		return key, fmt.Errorf("has %d bytes, want 32: %s", len(b), makeKey)
	case err == nil && subtle.ConstantTimeCompare(b, key[:]) == 1:
		return key, errors.New("is all zeros, want 32 random bytes: " + makeKey)
	case err == nil:
		return [32]byte(b), nil
	case errors.Is(err, hex.ErrLength):
		return key, fmt.Errorf("has %d hexadecimal digits, want 64: %s", len(text), makeKey)
	case isBase64(text):
		return key, errors.New("is base64, want 64 hexadecimal digits: convert it with base64 -d | xxd -p -c 64")
	}
	return key, fmt.Errorf("has %d characters and not all are hexadecimal digits, want 64: %s", len(text), makeKey)
}

// looksLikeKey reports whether text is a secret rather than a name: 16 bytes or more in
// hexadecimal, or a key in base64.
func looksLikeKey(text string) bool {
	b, err := hex.DecodeString(text)
	return err == nil && len(b) >= 16 || isBase64(text)
}

// isBase64 reports whether text is 32 bytes in base64, of either alphabet.
func isBase64(text string) bool {
	text = strings.TrimRight(text, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := encoding.DecodeString(text); err == nil && len(b) == 32 {
			return true
		}
	}
	return false
}
