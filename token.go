package apikey

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strings"
	"unsafe"

	"github.com/go-apikey/apikey/internal/base62"
)

// Token is the text that a client presents, such as
//
//	acme_sk_live_<credential ID 22><secret 33><pepper slot 1><tag 11><CRC-32 6>
//
// in base62 without separators, so that a double click selects all of it. With the CRC,
// anyone can refuse a typing error offline. With the tag (64 bits of HMAC-SHA-256 under
// a pepper, zeros without one), a server refuses forgeries without a store. The secret
// has 196 random bits.
//
// A Token prints redacted, whatever prints it, except that the JSON of a publishable
// token is its text: everybody may know it. [Token.Reveal] is the only way to the text of
// a secret one. The zero Token is no token, and its Reveal returns "".
type Token struct{ v *secretText }

const (
	idLen     = base62.IDLen
	secretLen = 33
	slotLen   = 1
	tagLen    = 11
	crcLen    = 6
	bodyLen   = idLen + secretLen + slotLen + tagLen + crcLen
	headLen   = len("_sk_live_") // one length for all four
	maxPrefix = 20
	maxToken  = maxPrefix + headLen + bodyLen

	untagged = "00000000000"
)

// ParseToken checks the form and the checksum of a token, without a store: a secret
// scanner needs no more. A token that parses need not verify. Its error is
// ErrInvalidToken.
func ParseToken(text string) (Token, error) {
	if _, ok := parseToken(text); !ok {
		return Token{}, ErrInvalidToken
	}
	return newToken(text), nil
}

// ClaimedMode returns the mode that the head of a presented text claims ("_live_" or
// "_test_"), and 0 for a text that has the length or the head of no token. It says which
// Verifier to ask and proves nothing: it reads neither the checksum nor the secret, and
// anybody can write either mode into a text. It allocates nothing.
func ClaimedMode(presented string) Mode {
	if !hasTokenLength(presented) {
		return 0
	}
	h := headOf(presented)
	if h == nil {
		return 0
	}
	return h.mode
}

func newToken(text string) Token {
	return Token{&secretText{func() string { return text }}}
}

// Reveal returns the secret text. Show it to its owner and drop it.
func (t Token) Reveal() string {
	if t.v == nil {
		return ""
	}
	return t.v.reveal()
}

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t.v == nil }

// Credential returns the ID that the token carries; zero for the zero Token.
func (t Token) Credential() CredentialID { p, _ := parseToken(t.Reveal()); return p.id }

// Mode returns the mode that the token claims; zero for the zero Token.
func (t Token) Mode() Mode { p, _ := parseToken(t.Reveal()); return p.mode }

// Kind returns the kind that the token claims; zero for the zero Token.
func (t Token) Kind() Kind { p, _ := parseToken(t.Reveal()); return p.kind }

// Hint returns the last four characters, by which people tell tokens apart. They are
// part of the checksum, so they give away at most 24 of the secret's 196 bits.
func (t Token) Hint() string {
	text := t.Reveal()
	return text[max(0, len(text)-4):]
}

// String shows the head and the hint: "acme_sk_live_…Q3fG". That text is no token.
func (t Token) String() string {
	text := t.Reveal()
	if text == "" {
		return ""
	}
	// A publishable token comes from a column, which may hold anything.
	return text[:max(0, len(text)-bodyLen)] + redaction + t.Hint()
}

// GoString is String.
func (t Token) GoString() string { return t.String() }

// Format writes String for every verb.
func (t Token) Format(s fmt.State, _ rune) { io.WriteString(s, t.String()) }

// LogValue is String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText is String: XML and the like carry the redacted form.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalJSON writes the text of a publishable token. Of any other token, and of text
// that is none, it writes String.
func (t Token) MarshalJSON() ([]byte, error) {
	if traits(t.Kind()).published {
		return json.Marshal(t.Reveal())
	}
	return json.Marshal(t.String())
}

// UnmarshalText reads the whole text of a token, secret or publishable, as [ParseToken]
// does. A redacted form cannot be undone: the empty text, and every text with a "…", is
// read as the zero Token. The error for any other text is ErrInvalidToken.
func (t *Token) UnmarshalText(text []byte) (err error) {
	*t = Token{}
	if len(text) == 0 || strings.Contains(string(text), redaction) {
		return nil
	}
	*t, err = ParseToken(string(text))
	return err
}

// redaction stands where the text of a token is left out. No token has this character.
const redaction = "…"

// parsed is a token that has the one right spelling and a right checksum.
type parsed struct {
	text string
	id   CredentialID
	claims
}

// claims are what a token says of itself. They are proven with the token, and
// the record has to agree.
type claims struct {
	kind Kind
	mode Mode
	slot uint8
}

// A head says what a token is.
type head struct {
	text string
	kind Kind
	mode Mode
}

// heads are the four that there are.
var heads = [...]head{
	{"_sk_live_", Secret, Live}, {"_sk_test_", Secret, Test},
	{"_pk_live_", Publishable, Live}, {"_pk_test_", Publishable, Test},
}

// headOf returns the head of a text that has the length of a token; nil if it has none.
func headOf(text string) *head {
	said := text[len(text)-bodyLen-headLen:][:headLen]
	for i := range heads {
		if h := &heads[i]; said == h.text {
			return h
		}
	}
	return nil
}

// parseToken reads a token with any prefix.
func parseToken(text string) (p parsed, ok bool) {
	if !p.read(text) || !p.wellFormed() || !validPrefix(p.prefix()) {
		return parsed{}, false
	}
	return p, true
}

// read reads from the right, because a prefix may hold '_': checksum, head and
// ID, which lead to what is known of the token. The length is bounded before
// anything else, so that a megabyte in a header costs nothing. It fills what its
// caller has: a result of this size is copied as long as it is made.
func (p *parsed) read(text string) (ok bool) {
	if !hasTokenLength(text) {
		return false
	}
	n := len(text)
	crc, ok := base62.Uint(text[n-crcLen:], 32)
	if !ok || uint32(crc) != crc32.ChecksumIEEE(bytesOf(text[:n-crcLen])) {
		return false
	}
	p.text = text
	p.slot, ok = base62.Digit(text[n-crcLen-tagLen-slotLen])
	if !ok {
		return false
	}
	h := headOf(text)
	if h == nil {
		return false
	}
	p.kind, p.mode = h.kind, h.mode
	p.id, ok = base62.ID(text[n-bodyLen:][:idLen])
	return ok
}

func hasTokenLength(text string) bool {
	return len(text) > headLen+bodyLen && len(text) <= maxToken
}

// wellFormed looks at the rest of what read has read. Where a proof decides it
// is not needed: text that equals a token that was proven has its form.
func (p *parsed) wellFormed() bool {
	body := p.text[len(p.text)-bodyLen:]
	tag := body[idLen+secretLen+slotLen:][:tagLen]
	_, ok := base62.Uint(tag, 64)
	return ok && base62.Valid(body[idLen:][:secretLen]) && (p.slot != 0 || tag == untagged)
}

// proven is the part that is hashed: everything up to the end of the secret,
// so that prefix, kind, mode and ID are bound by the hash.
func (p *parsed) proven() string { return p.text[:len(p.text)-slotLen-tagLen-crcLen] }

func (p *parsed) prefix() string { return p.text[:len(p.text)-bodyLen-headLen] }

// tagHolds reports whether the tag was made with the pepper of the token's
// slot. A CRC is no secret: anyone can relabel a token and compute a new one.
// The tag is what stops relabelled and invented tokens before any store read.
func (p *parsed) tagHolds(k *pepperKeys) bool {
	tag := len(p.text) - tagLen - crcLen
	said, ok := base62.Uint(p.text[tag:][:tagLen], 64)
	var got, want [8]byte
	binary.BigEndian.PutUint64(got[:], said)
	binary.BigEndian.PutUint64(want[:], tagOf(k, p.text[:tag]))
	return ok && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// mint draws a secret and writes a token. With no pepper the slot is 0.
func mint(prefix string, kind Kind, mode Mode, id CredentialID, k *pepperKeys) parsed {
	b := make([]byte, 0, maxToken)
	b = append(b, prefix...)
	for _, h := range heads {
		if h.kind == kind && h.mode == mode {
			b = append(b, h.text...)
		}
	}
	b = base62.AppendID(b, id)
	b = base62.AppendRandom(b, secretLen)
	p := parsed{id: id, claims: claims{kind: kind, mode: mode}}
	if k != nil {
		p.slot = k.slot
	}
	b = base62.Append(b, uint64(p.slot), slotLen)
	if k == nil {
		b = append(b, untagged...)
	} else {
		b = base62.Append(b, tagOf(k, string(b)), tagLen)
	}
	b = base62.Append(b, uint64(crc32.ChecksumIEEE(b)), crcLen)
	p.text = string(b)
	return p
}

func tagOf(k *pepperKeys, text string) uint64 {
	sum := k.mac(purposeTag, bytesOf(text))
	return binary.BigEndian.Uint64(sum[:8])
}

// makeCheck makes what a credential keeps beside its hash, beginning with the slot of
// the pepper that made it.
//
// With a pepper it is a whole HMAC, which decides by itself: a restarted
// process needs one row and no argon2. Without one it is 32 bits of a
// domain-separated SHA-256: enough that a flood of wrong secrets with right
// checksums never reaches argon2, little enough that, with the hint's 24 bits
// known too, 140 stay unknown to whoever reads the database.
func makeCheck(k *pepperKeys, p parsed) []byte {
	if k == nil {
		sum := sha256.Sum256([]byte("apikey check v1\x00" + p.proven()))
		return append([]byte{0}, sum[:4]...)
	}
	sum := k.mac(purposeProof, bytesOf(p.proven()))
	return append([]byte{k.slot}, sum[:]...)
}

// validPrefix: lower case, so that it survives every alphabet that secret
// scanners and logs fold; bounded, so that tokens are.
func validPrefix(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return s != "" && len(s) <= maxPrefix
}

func checkPrefix(s string) error {
	if !validPrefix(s) {
		return invalid("prefix %s: want 1 to %d of a-z, 0-9 and '_', such as your product's name", quote(s), maxPrefix)
	}
	return nil
}

// bytesOf looks at a string's bytes without copying it. Callers only read:
// hashes and comparisons, whose []byte parameters would make a copy escape.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// sameText compares in time that depends on the lengths alone.
func sameText(a, b string) bool {
	return subtle.ConstantTimeCompare(bytesOf(a), bytesOf(b)) == 1
}

var _ fmt.Formatter = Token{}
var _ slog.LogValuer = Token{}
