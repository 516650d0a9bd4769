package apikey

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/go-apikey/apikey/internal/base62"
)

// A Key is a verified API key or, from management, a described one. It points to
// immutable data: it may be stored, shared between goroutines and compared. It says
// what was true when it was returned, not what is true later. In tests a program can
// use any type of its own that has these two methods.
type Key interface {
	// Info describes the key.
	Info() Info
	// Can reports whether the abilities of the key allow every required one. It is true
	// if none is required.
	Can(required ...Ability) bool
}

// KeyID identifies a key for ever, through every rotation. It is public: the "App ID"
// or "Client ID" of a merchant's key page. It is a UUID of version 7 (RFC 9562), so
// keys sort by age. No key has the zero KeyID.
type KeyID [16]byte

// ParseKeyID reads the 36-character form that [KeyID.String] writes, and no
// other spelling of a UUID. Its error is an *[InvalidError] of the field "key".
func ParseKeyID(s string) (KeyID, error) {
	u, err := parseUUID(s, "key", "a key ID")
	return KeyID(u), err
}

// parseUUID reads the one spelling of a UUID that its String writes.
func parseUUID(s, field, what string) (uuid.UUID, error) {
	u, err := uuid.Parse(s)
	if err != nil || u.String() != s {
		return uuid.UUID{}, wrong(field, InvalidMalformed, "%s looks like 01890a5d-ac96-774b-bcce-b302099a8057, in lower case", what)
	}
	return u, nil
}

// newKeyID draws an ID. IDs of one node sort in the order of their creation.
func newKeyID() KeyID { return KeyID(uuid.Must(uuid.NewV7())) }

// String writes the UUID, in lower case.
func (id KeyID) String() string { return uuid.UUID(id).String() }

// IsZero reports whether the ID is the zero one, which no key has.
func (id KeyID) IsZero() bool { return id == KeyID{} }

// MarshalText writes the UUID.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what [ParseKeyID] reads.
func (id *KeyID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseKeyID(string(text))
	return err
}

// CredentialID identifies one credential: one version of a key's secret. It is public,
// is part of the token, and has the form of a UUID of version 4 (RFC 9562).
//
// The Manager draws 90 of its bits at random for each credential. It draws the last
// four bytes once for an account. So a person who has two tokens can tell that they are
// of one account, and the Verifier can give each account its turn.
type CredentialID [16]byte

// ParseCredentialID reads the 22 base62 characters that
// [CredentialID.String] writes. Its error is an *[InvalidError] of the field "credential".
func ParseCredentialID(s string) (CredentialID, error) {
	id, ok := base62.ID(s)
	if !ok {
		return CredentialID{}, wrong("credential", InvalidMalformed, "a credential ID is 22 characters of 0-9, A-Z, a-z")
	}
	return id, nil
}

// newCredentialID draws an ID with 122 random bits.
func newCredentialID() CredentialID { return CredentialID(uuid.New()) }

// String writes 22 base62 characters.
func (id CredentialID) String() string { return string(base62.AppendID(nil, id)) }

// MarshalText writes 22 base62 characters.
func (id CredentialID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what [ParseCredentialID] reads.
func (id *CredentialID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseCredentialID(string(text))
	return err
}

// Mode separates real money from tests. A key has one mode for ever, and nothing
// crosses from one mode to the other. The zero Mode is invalid in a key and in a
// Config, so that a forgotten field cannot mean production; in a filter it selects
// both.
type Mode uint8

const (
	// Live is production.
	Live Mode = 1
	// Test is the sandbox.
	Test Mode = 2
	// AnyMode is for [VerifierConfig.Mode] alone: a small program has one Verifier for
	// both modes. Its handlers have to look at [Info.Mode].
	AnyMode Mode = 255
)

// String is "live" or "test"; for any other value it has the number.
func (m Mode) String() string { return nameOf(modeNames, m, "mode") }

// MarshalText writes "live" or "test".
func (m Mode) MarshalText() ([]byte, error) { return textOf(modeNames, m, "mode") }

// UnmarshalText reads "live" or "test".
func (m *Mode) UnmarshalText(text []byte) error { return valueOf(modeNames, m, text, "mode") }

var modeNames = map[Mode]string{Live: "live", Test: "test"}

// Kind says where a key may be kept. The zero Kind means Secret in an IssueRequest,
// selects all in a filter, and is invalid in a record.
type Kind uint8

const (
	// Secret keys stay on the merchant's server.
	Secret Kind = 1
	// Publishable keys are in every visitor's browser. They identify an account and
	// prove nothing. Their text is stored and can always be shown, and they hold only
	// abilities that the [Catalog] marks publishable.
	Publishable Kind = 2
	// Signature is reserved for a merchant's own public key; this version refuses it.
	Signature Kind = 3
	// SharedSecret is reserved for requests signed with HMAC; this version refuses it.
	SharedSecret Kind = 4
)

// String is "secret" or "publishable"; for any other value it has the number.
func (k Kind) String() string { return nameOf(kindNames, k, "kind") }

// MarshalText writes "secret" or "publishable".
func (k Kind) MarshalText() ([]byte, error) { return textOf(kindNames, k, "kind") }

// UnmarshalText reads "secret" or "publishable".
func (k *Kind) UnmarshalText(text []byte) error { return valueOf(kindNames, k, text, "kind") }

var kindNames = map[Kind]string{Secret: "secret", Publishable: "publishable"}

// kindTraits are what the keys of a kind can do. The zero value can do nothing that
// gives or shows anything, so every field is a permission.
type kindTraits struct {
	// bearer: the key's token alone proves a request. A key of another kind is not
	// issued, and its record is refused.
	bearer bool
	// sealed: the token is a secret. It is stored as hash and check, and shown again
	// only from the sealed copy that a Recoverable key has.
	sealed bool
	// published: the token is no secret. Its text is stored and can always be shown,
	// and the key holds only abilities that the Catalog marks publishable.
	published bool
}

// traits is the one place that says what a kind can do.
func traits(k Kind) kindTraits {
	switch k {
	case Secret:
		return kindTraits{bearer: true, sealed: true}
	case Publishable:
		return kindTraits{bearer: true, published: true}
	}
	return kindTraits{} // a kind that this version does not know
}

// reveals reports whether the token of a key can be shown again.
func (t kindTraits) reveals(recoverable bool) bool { return t.published || t.sealed && recoverable }

// State says whether a key was suspended or revoked. It does not depend on the clock:
// see [Info.Status]. No key has the zero State; in a filter it selects all.
type State uint8

const (
	// Active keys are neither suspended nor revoked. An active key may have expired:
	// expiry is compared with the clock and is not a state.
	Active State = 1
	// Suspended keys are refused until they are resumed.
	Suspended State = 2
	// Revoked keys are refused for ever. Their records stay in the store.
	Revoked State = 3
)

// String is "active", "suspended" or "revoked"; for any other value it has the number.
func (s State) String() string { return nameOf(stateNames, s, "state") }

// MarshalText writes "active", "suspended" or "revoked".
func (s State) MarshalText() ([]byte, error) { return textOf(stateNames, s, "state") }

// UnmarshalText reads what MarshalText writes.
func (s *State) UnmarshalText(text []byte) error { return valueOf(stateNames, s, text, "state") }

var stateNames = map[State]string{Active: "active", Suspended: "suspended", Revoked: "revoked"}

// Info describes a key. It holds no secret and shares no memory that can change: it may
// be logged, stored and sent to the merchant, as JSON too (see "JSON" in the package
// documentation). Times are UTC.
type Info struct {
	ID   KeyID  `json:"id,omitzero"`
	Name string `json:"name"` // given by the merchant; may be empty
	// Credential is the presented one (from Verify) or the current one (from
	// management).
	Credential CredentialID `json:"credential,omitzero"`
	Account    string       `json:"account"`
	Mode       Mode         `json:"mode,omitzero"`
	Kind       Kind         `json:"kind,omitzero"`
	State      State        `json:"state,omitzero"` // without the clock; see [Info.Status]
	// Recoverable: the key's secret token can be shown again; see [Manager.Reveal].
	Recoverable bool `json:"recoverable"`
	// Version counts changes, from 1. IfVersion is compared with it.
	Version uint64 `json:"version"`

	Abilities Abilities          `json:"abilities"`
	Metadata  Metadata           `json:"metadata"`
	Networks  View[netip.Prefix] `json:"networks"` // empty: any address
	Origins   View[string]       `json:"origins"`  // empty: any origin

	CreatedAt    time.Time `json:"created_at,omitzero"`
	ExpiresAt    time.Time `json:"expires_at,omitzero"` // the first instant at which the key is refused; zero: never
	RevokedAt    time.Time `json:"revoked_at,omitzero"` // zero: not revoked
	RevokeReason Reason    `json:"revoke_reason,omitzero"`
	// LastUsed is the last use of any credential of the key. It may be earlier than the
	// real last use, by less than VerifierConfig.LastUsedEvery and 3 s. From Verify it
	// is as old as the record in memory. Zero: never used.
	LastUsed     time.Time `json:"last_used,omitzero"`
	RotateMonths int       `json:"rotate_months,omitzero"` // months after which a rotation is due; 0: never
	// RotateDue is RotateMonths after the key was issued, last rotated, or given
	// another RotateMonths. While a rotation is scheduled, it is RotateMonths after the
	// time of that rotation. The 31st becomes the last day of a shorter month. From
	// Verify it is up to ManagerConfig.Skew early. Zero: never.
	RotateDue time.Time `json:"rotate_due,omitzero"`

	// Credentials, newest first: at most three live ones, and the eight that ended
	// last. From Verify it is empty.
	Credentials View[CredentialInfo] `json:"credentials,omitzero"`
}

// CredentialInfo describes one credential of a key. It holds no secret.
type CredentialInfo struct {
	ID        CredentialID `json:"id,omitzero"`
	Hint      string       `json:"hint"`                // last four characters of the token, for people
	NotBefore time.Time    `json:"not_before,omitzero"` // first instant at which the token is accepted; zero: its creation
	NotAfter  time.Time    `json:"not_after,omitzero"`  // first instant at which the token is refused; zero: never
	LastUsed  time.Time    `json:"last_used,omitzero"`  // as exact as [Info.LastUsed]; zero: never
	Ended     bool         `json:"ended"`               // retired or replaced
	Pepper    uint8        `json:"-"`                   // slot of the pepper that made the tag, 1 to 61; 0: none
	Public    Token        `json:"public,omitzero"`     // the token of a publishable key; zero for others
}

// View is a read-only slice. The zero View is empty, and every empty View is the zero
// one.
type View[T any] struct{ s []T }

// Abilities is a read-only list of abilities.
type Abilities = View[Ability]

// NewView copies items.
func NewView[T any](items ...T) View[T] { return viewOf(slices.Clone(items)) }

// viewOf shares s, which must not be changed afterwards.
func viewOf[T any](s []T) View[T] {
	if len(s) == 0 {
		return View[T]{}
	}
	return View[T]{s}
}

// All yields the items in order.
func (v View[T]) All() iter.Seq[T] { return slices.Values(v.s) }

// Len is the number of items.
func (v View[T]) Len() int { return len(v.s) }

// At returns item i, counted from 0. It panics beyond Len.
func (v View[T]) At(i int) T { return v.s[i] }

// Metadata is read-only text of the program, stored with a key. The zero Metadata is
// empty, and every empty Metadata is the zero one.
type Metadata struct{ m map[string]string }

// NewMetadata copies m. It is for a Key in a program's own tests.
func NewMetadata(m map[string]string) Metadata { return metadataOf(maps.Clone(m)) }

// metadataOf shares m, which must not be changed afterwards.
func metadataOf(m map[string]string) Metadata {
	if len(m) == 0 {
		return Metadata{}
	}
	return Metadata{m}
}

// Get returns the value of name, or "" if there is none.
func (m Metadata) Get(name string) string { return m.m[name] }

// All yields names and values, sorted by name.
func (m Metadata) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m.m)) {
			if !yield(k, m.m[k]) {
				return
			}
		}
	}
}

// Len is the number of pairs.
func (m Metadata) Len() int { return len(m.m) }

type keyContext struct{}

// NewContext returns a context that carries the verified key, for handlers of
// HTTP, gRPC or a queue.
func NewContext(ctx context.Context, k Key) context.Context {
	return context.WithValue(ctx, keyContext{}, k)
}

// FromContext returns the key that [NewContext] put there, or false if there is none.
func FromContext(ctx context.Context) (Key, bool) {
	k, ok := ctx.Value(keyContext{}).(Key)
	return k, ok
}

// The three small enumerations above share one way to be read and written.

func nameOf[E interface {
	comparable
	~uint8
}](names map[E]string, e E, what string) string {
	if s, ok := names[e]; ok {
		return s
	}
	return fmt.Sprintf("%s(%d)", what, uint8(e))
}

func textOf[E interface {
	comparable
	~uint8
}](names map[E]string, e E, what string) ([]byte, error) {
	if e == 0 { // an Info that was never filled still prints
		return nil, nil
	}
	// So does a value that only a newer version or a damaged event has: one line
	// must not keep a whole page from being shown. It is not read back.
	return []byte(nameOf(names, e, what)), nil
}

func valueOf[E interface {
	comparable
	~uint8
}](names map[E]string, e *E, text []byte, what string) error {
	for v, s := range names {
		if s == string(text) {
			*e = v
			return nil
		}
	}
	known := slices.Sorted(maps.Values(names))
	unknown := wrong(what, InvalidUnknown, "%s must be one of %v", what, known).part(string(text))
	unknown.Known = known
	return unknown
}
