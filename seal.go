package apikey

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// A KEK is a key-encryption key: it wraps the data keys that seal recoverable tokens
// and TOTP seeds. [NewLocalKEK] ships; one for a cloud KMS takes about twenty lines
// (Encrypt and Decrypt with additional data, or with an encryption context made of it).
//
// A KEK is safe for concurrent use, keeps no argument, and returns when its context
// ends. A call that hangs is given up after 5 s and costs a goroutine until it returns.
// Verification never calls a KEK.
type KEK interface {
	// ID names the key for ever and is stored with what the key wraps: 1 to 255 bytes.
	ID() string
	// Wrap encrypts a 32-byte data key, bound to aad.
	Wrap(ctx context.Context, dek, aad []byte) ([]byte, error)
	// Unwrap returns the data key, and fails for another aad. An error that wraps
	// ErrCorrupt means that this one value does not open (a KMS: an invalid
	// ciphertext). Any other error means that the KEK could not be asked: callers get
	// ErrUnavailable, and Reseal ends if it happens for two values in a row.
	Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error)
}

// LocalKEK is a KEK in the memory of the process (AES-256-GCM, NIST SP
// 800-38D). It prints as its ID.
type LocalKEK struct {
	id   string
	aead func() cipher.AEAD // in a closure, where no printer follows
	keys *pepperKeys        // of the same key, to compare it with others: see kek_mark.go
}

// NewLocalKEK makes a KEK of 32 secret random bytes. Keep them where the database's
// backups are not. The id has 1 to 255 bytes and must change whenever the key does: a
// Manager refuses to start if its LocalKEK has the ID of another key of its database.
// Errors: ErrInvalid.
func NewLocalKEK(id string, key []byte) (*LocalKEK, error) {
	if id == "" || len(id) > 255 || !storable(id) {
		return nil, invalid("KEK ID %s: want 1 to 255 bytes of valid UTF-8", quote(id))
	}
	if len(key) != 32 || subtle.ConstantTimeCompare(key, make([]byte, 32)) == 1 {
		return nil, invalid("KEK %s: want 32 random bytes, not zeros; got %d bytes (is the text still base64 or hex?)", quote(id), len(key))
	}
	aead := gcm(key)
	return &LocalKEK{id, func() cipher.AEAD { return aead }, newPepperKeys(0, [32]byte(key))}, nil
}

// ID returns the name that NewLocalKEK was given.
func (k *LocalKEK) ID() string { return k.id }

// Wrap implements [KEK].
func (k *LocalKEK) Wrap(_ context.Context, dek, aad []byte) ([]byte, error) {
	return lock(k.aead(), dek, aad), nil
}

// Unwrap implements [KEK].
func (k *LocalKEK) Unwrap(_ context.Context, wrapped, aad []byte) ([]byte, error) {
	return unlock(k.aead(), wrapped, aad)
}

// String names the ID only.
func (k *LocalKEK) String() string { return "kek(" + k.id + ")" }

// GoString is String.
func (k *LocalKEK) GoString() string { return k.String() }

// Format writes String for every verb.
func (k *LocalKEK) Format(s fmt.State, _ rune) { io.WriteString(s, k.String()) }

// LogValue is String.
func (k *LocalKEK) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText is String.
func (k *LocalKEK) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // a key of another length than 16, 24, 32
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func lock(aead cipher.AEAD, plain, aad []byte) []byte {
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	rand.Read(nonce)
	return aead.Seal(nonce, nonce, plain, aad)
}

var errOpen = fmt.Errorf("%w: a sealed value does not open", ErrCorrupt)

func unlock(aead cipher.AEAD, sealed, aad []byte) ([]byte, error) {
	n := aead.NonceSize()
	if len(sealed) < n {
		return nil, errOpen
	}
	plain, err := aead.Open(nil, sealed[:n], sealed[n:], aad)
	if err != nil {
		return nil, errOpen
	}
	return plain, nil
}

// vault seals under the first KEK and opens under any.
type vault struct{ keks []KEK }

func newVault(keks []KEK) (vault, error) {
	ids := map[string]bool{}
	for _, k := range keks {
		if k == nil || k.ID() == "" || len(k.ID()) > 255 || !storable(k.ID()) || ids[k.ID()] {
			return vault{}, invalid("ManagerConfig.KEKs: each has an ID of its own, of 1 to 255 bytes of valid UTF-8")
		}
		ids[k.ID()] = true
	}
	return vault{slices.Clone(keks)}, nil
}

// kekTime bounds a KEK that hangs, also one that does not look at its context.
const kekTime = 5 * time.Second

const sealV1 = 1

// seal encrypts with a data key of its own, wrapped by the first KEK:
//
//	version 1 | length of the wrapped key 2 | wrapped key | nonce 12 | ciphertext
//
// aad says what it is and whose; both encryptions are bound to it, so that a
// sealed value that is moved to another row does not open. What was sealed is
// opened once before it is trusted: a KEK that lies is found while the plain
// text is still there.
func (v *vault) seal(ctx context.Context, plain, aad []byte) (sealed []byte, kek string, err error) {
	if len(v.keks) == 0 {
		return nil, "", fmt.Errorf("%w: what is sealed needs a KEK in ManagerConfig.KEKs", ErrUnavailable)
	}
	k := v.keks[0]
	dek := make([]byte, 32)
	rand.Read(dek)
	wrapped, err := bounded(ctx, kekTime, func(ctx context.Context) ([]byte, error) { return k.Wrap(ctx, slices.Clone(dek), slices.Clone(aad)) })
	if err != nil {
		return nil, "", kekError(k.ID(), err)
	}
	if len(wrapped) == 0 || len(wrapped) > 8<<10 {
		return nil, "", kekError(k.ID(), fmt.Errorf("it wrapped a key into %d bytes", len(wrapped)))
	}
	b := []byte{sealV1}
	b = binary.BigEndian.AppendUint16(b, uint16(len(wrapped)))
	b = append(b, wrapped...)
	b = append(b, lock(gcm(dek), plain, aad)...)
	again, err := v.open(ctx, b, k.ID(), aad)
	if err != nil || !slices.Equal(again, plain) {
		return nil, "", kekError(k.ID(), errors.New("it does not unwrap what it wrapped"))
	}
	return b, k.ID(), nil
}

// open decrypts what seal made, by the KEK of that ID.
func (v *vault) open(ctx context.Context, sealed []byte, kek string, aad []byte) ([]byte, error) {
	i := slices.IndexFunc(v.keks, func(k KEK) bool { return k.ID() == kek })
	if i < 0 {
		return nil, fmt.Errorf("%w: KEK %s is not configured: what it sealed opens with it alone", ErrUnavailable, quote(kek))
	}
	if len(sealed) < 3 || sealed[0] != sealV1 {
		return nil, errOpen
	}
	n := int(binary.BigEndian.Uint16(sealed[1:]))
	if len(sealed) < 3+n {
		return nil, errOpen
	}
	// Copies: crypto/cipher decrypts in place for who asks it to.
	wrapped, bound := slices.Clone(sealed[3:3+n]), slices.Clone(aad)
	dek, err := bounded(ctx, kekTime, func(ctx context.Context) ([]byte, error) { return v.keks[i].Unwrap(ctx, wrapped, bound) })
	if errors.Is(err, ErrCorrupt) {
		return nil, fmt.Errorf("%w: %s", err, mayBeOtherKEK(kek))
	}
	if err != nil {
		return nil, kekError(kek, err)
	}
	if len(dek) != 32 {
		return nil, errOpen
	}
	return unlock(gcm(dek), sealed[3+n:], aad)
}

// mayBeOtherKEK is what an operator reads about a value that the KEK of this ID does not
// unwrap. A wrong KEK looks like damage: AES-GCM does not tell the two apart, and a key
// service may not either.
func mayBeOtherKEK(id string) string {
	return "it is damaged, or the KEK " + quote(id) + " in ManagerConfig.KEKs is another key than the one that sealed it under this ID"
}

// errKEK: a KEK could not be asked.
var errKEK = fmt.Errorf("%w: KEK failed", ErrUnavailable)

func kekError(id string, err error) error {
	return fmt.Errorf("%w: %s: %w", errKEK, quote(id), err)
}

// sealedAAD binds a sealed token to its place.
func sealedAAD(r *StoreRecord, id CredentialID) []byte {
	var c canon.Writer
	c.Text("apikey sealed token v1")
	c.Bytes(r.ID[:])
	c.Bytes(id[:])
	c.Text(r.Account)
	c.Uint(uint64(r.Mode))
	return c.Encoded()
}

// secretText keeps a secret where printing cannot follow. A redacting String
// method is not enough: fmt does not call methods of unexported fields, and
// testify's diffs call none and follow pointers. Both stop at a func.
type secretText struct{ reveal func() string }
