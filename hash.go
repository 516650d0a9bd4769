package apikey

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
)

// A Hasher turns the text of a secret token into what the store keeps. It is safe for
// concurrent use. [Argon2id] and [HMACSHA256] ship; the package documentation says when
// to choose which.
type Hasher interface {
	// Name is the first field of the encoded form, between two '$'.
	Name() string
	// Hash encodes secret as "$name$…", with a fresh salt if it uses one.
	// Errors: ErrBusy, ErrUnavailable (wrapping ctx.Err()).
	Hash(ctx context.Context, secret []byte) (encoded string, err error)
	// Verify compares in constant time. It returns ErrCorrupt for an encoded form that
	// this Hasher did not make or that asks for more than its maximum cost: a database
	// must not choose what a process spends. Any other error means that the Hasher
	// could not be asked; callers of a Manager or Verifier get ErrUnavailable.
	Verify(ctx context.Context, encoded string, secret []byte) (bool, error)
	// Outdated reports whether encoded, made by this or another Hasher, is to be
	// replaced by a hash of this Hasher at the next use of its token. It must be a
	// strict order (never true both ways between two configurations), so that old and
	// new processes of a rolling deployment do not undo each other's work. Argon2id
	// replaces hashes that cost less and those of HMACSHA256; HMACSHA256 replaces none.
	Outdated(encoded string) bool
}

// Argon2idConfig says what hashing costs. The zero value is the second choice of
// OWASP's Password Storage Cheat Sheet: 19 MiB, two passes, one lane.
type Argon2idConfig struct {
	Memory uint32 // KiB, from 7168 to MaxMemory; 0: 19456
	Time   uint32 // passes, from 1 to 10; 0: 2
	Lanes  uint8  // from 1 to 4; 0: 1
	// Slots is how many hashes run at once; 0: one less than GOMAXPROCS, at least one.
	// So verifying a token that is not in memory never takes the last processor from
	// requests that are answered from memory.
	Slots int
	// MaxMemory bounds all running hashes together, in KiB; 0: 131072 (128 MiB).
	MaxMemory uint32
	// Wait is how long a caller waits for a slot before ErrBusy; 0: 2 s.
	Wait time.Duration
	// MaxWaiting is how many callers may wait; 0: 256. Accounts take turns, whatever
	// each of them asks for, and within an account its keys take turns. RevokeToken has
	// every second turn. Calls that the program makes itself share one line.
	//
	// When the queue is full, a caller of an account with few waiting callers displaces
	// the last one in the longest line, which gets ErrBusy. A caller whose own line is
	// the longest gets ErrBusy at once.
	MaxWaiting int
	// Waited, if set, is called after every wait for a slot, with how long it took and
	// how it ended: nil, ErrBusy, or ErrUnavailable for a caller who left. Waited must
	// return quickly.
	Waited func(d time.Duration, err error)
}

// Argon2id is the default Hasher (RFC 9106, PHC string format). All Managers and
// Verifiers with the same value share its slots, so give the same value to all.
type Argon2id struct {
	memory, time uint32
	lanes        uint8
	maxMemory    uint32
	head         string // of what it writes, up to the salt
	gate         *gate
}

const (
	argonName    = "argon2id"
	argonSaltLen = 16
	argonKeyLen  = 32
	argonMaxTime = 10
	argonMaxLane = 4
	argonMinMem  = 7168 // KiB: the least that OWASP lists, at five passes
)

// NewArgon2id returns ErrInvalid if a parameter is out of range.
func NewArgon2id(c Argon2idConfig) (*Argon2id, error) {
	a := &Argon2id{
		memory: cmp.Or(c.Memory, 19456), time: cmp.Or(c.Time, 2), lanes: cmp.Or(c.Lanes, 1),
		maxMemory: cmp.Or(c.MaxMemory, 128<<10),
	}
	switch {
	case a.memory < argonMinMem || a.memory > a.maxMemory:
		return nil, invalid("argon2id memory %d KiB: want %d to MaxMemory (%d)", a.memory, argonMinMem, a.maxMemory)
	case a.time > argonMaxTime || a.lanes > argonMaxLane:
		return nil, invalid("argon2id time %d, lanes %d: want at most %d and %d", a.time, a.lanes, argonMaxTime, argonMaxLane)
	}
	slots := cmp.Or(c.Slots, max(1, runtime.GOMAXPROCS(0)-1))
	if slots < 1 || c.Wait < 0 || c.MaxWaiting < 0 {
		return nil, invalid("argon2id slots, wait and waiting cannot be negative")
	}
	a.head = argonHash{memory: a.memory, time: a.time, lanes: a.lanes}.head()
	a.gate = newGate(int64(a.maxMemory), int64(slots), cmp.Or(c.Wait, 2*time.Second), cmp.Or(c.MaxWaiting, 256))
	a.gate.waited = c.Waited
	return a, nil
}

// Name is "argon2id".
func (*Argon2id) Name() string { return argonName }

// Hash waits for a slot; see [Hasher].
func (a *Argon2id) Hash(ctx context.Context, secret []byte) (string, error) {
	h := argonHash{memory: a.memory, time: a.time, lanes: a.lanes, salt: make([]byte, argonSaltLen)}
	rand.Read(h.salt)
	var err error
	if h.key, err = a.run(ctx, h, secret); err != nil {
		return "", err
	}
	return h.String(), nil
}

// Verify waits for a slot; see [Hasher].
func (a *Argon2id) Verify(ctx context.Context, encoded string, secret []byte) (bool, error) {
	h, err := parseArgon(encoded, a.maxMemory)
	if err != nil {
		return false, err
	}
	key, err := a.run(ctx, h, secret)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key, h.key) == 1, nil
}

// Outdated is true for an argon2id hash that costs less memory × time, and for every
// hash of HMACSHA256; see [Hasher].
func (a *Argon2id) Outdated(encoded string) bool {
	if a.head != "" && strings.HasPrefix(encoded, a.head) { // as most are, on the way of every first verification
		return false
	}
	h, err := parseArgon(encoded, a.maxMemory)
	if err != nil {
		return strings.HasPrefix(encoded, "$"+hmacName+"$")
	}
	return uint64(h.memory)*uint64(h.time) < uint64(a.memory)*uint64(a.time)
}

func (a *Argon2id) run(ctx context.Context, h argonHash, secret []byte) ([]byte, error) {
	if a.gate == nil {
		return nil, invalid("make an Argon2id with NewArgon2id")
	}
	room, err := a.gate.enter(ctx, pathOf(ctx), int64(h.memory))
	if err != nil {
		return nil, err
	}
	defer room.leave()
	return argon2.IDKey(secret, h.salt, h.time, h.memory, h.lanes, argonKeyLen), nil
}

// argonHash is the PHC string: $argon2id$v=19$m=…,t=…,p=…$salt$key.
type argonHash struct {
	memory, time uint32
	lanes        uint8
	salt, key    []byte
}

func (h argonHash) String() string {
	b64 := base64.RawStdEncoding.Strict()
	return h.head() + b64.EncodeToString(h.salt) + "$" + b64.EncodeToString(h.key)
}

func (h argonHash) head() string {
	return fmt.Sprintf("$%s$v=%d$m=%d,t=%d,p=%d$", argonName, argon2.Version, h.memory, h.time, h.lanes)
}

var errArgon = fmt.Errorf("%w: stored hash is not an argon2id string within the limits", ErrCorrupt)

// parseArgon takes the one spelling that String writes. The ceilings stop a
// database writer from turning one verification into gigabytes or minutes.
func parseArgon(encoded string, maxMemory uint32) (h argonHash, err error) {
	bad := errArgon
	if len(encoded) > 200 { // before Split, which would copy a megabyte of '$'
		return h, bad
	}
	fields := strings.Split(encoded, "$")
	if len(fields) != 6 || fields[1] != argonName {
		return h, bad
	}
	params := strings.Split(fields[3], ",")
	if len(params) != 3 {
		return h, bad
	}
	var nums [3]uint64
	for i, name := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(params[i], name)
		if nums[i], err = strconv.ParseUint(digits, 10, 32); !ok || err != nil {
			return h, bad
		}
	}
	if nums[0] < 8 || nums[0] > uint64(maxMemory) || nums[1] < 1 || nums[1] > argonMaxTime || nums[2] < 1 || nums[2] > argonMaxLane {
		return h, bad
	}
	h.memory, h.time, h.lanes = uint32(nums[0]), uint32(nums[1]), uint8(nums[2])
	b64 := base64.RawStdEncoding.Strict()
	var err1, err2 error
	h.salt, err1 = b64.DecodeString(fields[4])
	h.key, err2 = b64.DecodeString(fields[5])
	if err1 != nil || err2 != nil || len(h.salt) != argonSaltLen || len(h.key) != argonKeyLen || h.String() != encoded {
		return argonHash{}, bad
	}
	return h, nil
}

// HMACSHA256 hashes with a pepper, about 26,000 times faster than argon2 (the package
// documentation has both figures). A token's secret has 196 random bits, which no
// dictionary shortens. So nothing is lost while the pepper stays secret, and without
// the pepper the stored hash cannot even be tried against guesses.
type HMACSHA256 struct{ ring ring }

const hmacName = "hmac-sha256"

// NewHMACSHA256 takes the peppers of the program: the first hashes, all verify. Its
// error wraps ErrInvalid.
func NewHMACSHA256(peppers ...Pepper) (*HMACSHA256, error) {
	r, err := newRing(peppers)
	if err != nil {
		return nil, err
	}
	if !r.has() {
		return nil, invalid("the HMAC hasher needs a pepper; without one use Argon2id")
	}
	return &HMACSHA256{r}, nil
}

// Name is "hmac-sha256".
func (*HMACSHA256) Name() string { return hmacName }

// Hash never waits; see [Hasher].
func (h *HMACSHA256) Hash(_ context.Context, secret []byte) (string, error) {
	sum := h.ring.minting.mac(purposeHash, secret)
	return encodeHMAC(h.ring.minting.slot, sum[:]), nil
}

// Verify never waits; see [Hasher]. It is false for a hash whose pepper is not
// configured: what a removed pepper made is refused.
func (h *HMACSHA256) Verify(_ context.Context, encoded string, secret []byte) (bool, error) {
	slot, sum, err := parseHMAC(encoded)
	if err != nil {
		return false, err
	}
	k := h.ring.at(slot)
	if k == nil {
		return false, nil
	}
	want := k.mac(purposeHash, secret)
	return subtle.ConstantTimeCompare(want[:], sum) == 1, nil
}

// Outdated is always false: see [Hasher].
func (*HMACSHA256) Outdated(string) bool { return false }

func encodeHMAC(slot uint8, sum []byte) string {
	return fmt.Sprintf("$%s$%d$%s", hmacName, slot, base64.RawStdEncoding.EncodeToString(sum))
}

// parseHMAC takes the one spelling that encodeHMAC writes.
func parseHMAC(encoded string) (slot uint8, sum []byte, err error) {
	bad := fmt.Errorf("%w: stored hash is not an hmac-sha256 string", ErrCorrupt)
	if len(encoded) > 100 {
		return 0, nil, bad
	}
	fields := strings.Split(encoded, "$")
	if len(fields) != 4 {
		return 0, nil, bad
	}
	n, err1 := strconv.ParseUint(fields[2], 10, 8)
	sum, err2 := base64.RawStdEncoding.DecodeString(fields[3])
	slot = uint8(n)
	if err1 != nil || err2 != nil || slot < 1 || slot > MaxPepperSlot || len(sum) != sha256.Size || encodeHMAC(slot, sum) != encoded {
		return 0, nil, bad
	}
	return slot, sum, nil
}

// pickHasher finds the Hasher that made an encoded hash, nil if none did.
func pickHasher(hashers []Hasher, encoded string) Hasher {
	for _, h := range hashers {
		if rest, ok := strings.CutPrefix(encoded, "$"+h.Name()+"$"); ok && rest != "" {
			return h
		}
	}
	return nil
}

var (
	_ Hasher = (*Argon2id)(nil)
	_ Hasher = (*HMACSHA256)(nil)
)
