package apikey

import (
	"context"
	"net/netip"
	"time"
)

// A Store keeps keys. The comments of Store and of the types whose names begin with
// Store are the whole contract, with that of Cursor: a store author needs nothing else. Package storetest checks every sentence that can be tried
// through the interface. The rest is for the store's own tests: a lost connection, a
// damaged row, and a process or machine that stops in the middle.
//
// Concurrency: any goroutine may call any method, on any number of nodes at once. A
// returned value shares no memory with the store, and the store keeps no argument. Get,
// Lookup, List, Items and Apply answer from a node that has every acknowledged change,
// because decisions depend on them; Changed says whether its node has.
//
// Durability: once Apply has returned nil, its changes are never lost. Before that they
// are stored as a whole or not at all, whenever the process, the machine or the
// connection dies. No suite can show that: commit in one transaction of a database that
// waits for its disk, and for a standby where one may take over. A revocation that is
// lost makes a key valid again.
//
// Values:
//   - Times are UTC in whole microseconds (the root truncates before Apply). The zero
//     time means "none" and comes back as the zero time. Times of the years 1 to 9999
//     are kept exactly; other times Apply keeps exactly or refuses with ErrInvalid. A
//     time in a StoreFilter, in a StoreEventFilter or for Purge may be any, and finer
//     than a microsecond: it is compared as it is, and never cut to what a column
//     holds. A time in a StoreUpkeep may be any; if it is finer than a microsecond, its
//     whole microseconds count.
//   - Versions and Seq are 0 to 1<<63 - 1; a version begins at 1. Needs has 64 bits,
//     and comes back with all of them.
//   - Strings are valid UTF-8 without NUL, at most a few kilobytes, and come back byte
//     for byte. IDs, tokens, hashes and strings compare byte by byte, so 'a' is not 'A'
//     (in SQL: a binary collation).
//   - nil and empty slices and maps are the same.
//
// Errors, compared with errors.Is:
//   - ErrNotFound: Get or Lookup found nothing.
//   - ErrConflict: a comparison of Apply failed.
//   - ErrCursorLost: the history of Changed was rewritten.
//   - ErrInvalid: a cursor that this store did not make, a Limit out of its range, a
//     StoreRecord without its Event, an Event whose ID is not the change's, a StoreItem
//     or StoreItemFilter without its name, Chain without Key, a time that cannot be
//     kept.
//   - ErrCorrupt, as *[CorruptError]: Get or Lookup found a row that cannot be read.
//     List and Changed go on with the other rows and name the damaged ones, which count
//     towards the limit. Apply does not check what it replaces: if the version can be
//     compared, a damaged row is replaced by the new one; if it cannot, nothing is
//     written, and the error is ErrConflict or ErrUnavailable.
//   - ErrUnavailable, wrapping the cause: everything else that went wrong.
//   - ctx.Err(), wrapped or not, once the context is done.
//
// No method leaves anything half done.
//
// A cursor names a place in an order, not a filter. With another filter of the same
// method it goes on at that place among what the other filter selects, or is
// ErrInvalid. With another method, and for Events with the other value of Chain, it is
// ErrInvalid.
//
// A store on a database should also offer the following methods. They are not in the
// interface because their types are the store's own:
//
//	In(tx *sql.Tx) apikey.Store
//	InTransaction() bool
//
// In returns the same Store inside a transaction that the caller has begun and will
// end, for [Manager.Tx]; tx is whatever the database's package calls a transaction.
// InTransaction is true for a Store that In returned and false for others, so that
// Manager.Tx can refuse a Store that is in no transaction. Reads in the transaction see
// its writes. Nothing is retried. Get locks what it reads where the engine can. An
// Apply whose comparison failed has written nothing and left no failed statement, so
// that the transaction can go on; the same is true after ErrNotFound and ErrInvalid.
// After any other error the caller can only roll back.
//
//	Purge(ctx context.Context, before time.Time, limit int) (purged int, err error)
//
// Purge removes records whose RevokedAt, and items whose ExpiresAt, is before a time:
// at most limit of them together, in any order, records whole with their credentials.
// Purge keeps the events, is not in Changed, and loses no cursor. Callers repeat it
// until it returns less than limit. A time later than 24 hours ago is ErrInvalid,
// because a retry may still compare with a younger record or item; so is a limit below
// 1. With an error Purge returns 0 and has removed nothing, unless the answer of the
// commit was lost.
type Store interface {
	// Get returns a record by its ID, also a revoked one.
	Get(ctx context.Context, id KeyID) (StoreRecord, error)

	// Lookup returns the whole record that has this credential, live or ended, also a
	// revoked record. It is all that an unknown token costs: one round trip, one index.
	Lookup(ctx context.Context, id CredentialID) (StoreRecord, error)

	// List returns a page of the records that match, CreatedAt descending, then
	// ID descending. A record that exists during the whole walk and matches all
	// the time is seen exactly once, whatever is inserted meanwhile.
	List(ctx context.Context, f StoreFilter) (StorePage, error)

	// Events returns a page of the activity log: newest first (Time, then ID
	// descending), or a key's chain by Seq ascending.
	Events(ctx context.Context, f StoreEventFilter) (StoreEventPage, error)

	// Changed returns the records whose change became visible since the cursor, as they
	// are now: at most limit (1 to 1000), in any order that its cursor can continue.
	// Changed may repeat a record; it never skips one, however late its transaction
	// commits. Upkeep and purging are not changes.
	//
	// The empty cursor returns no records and the position of "now".
	//
	// A cursor also names the last event that it has shown. If the store no longer has
	// that event, or is behind the cursor's position, its history was rewritten:
	// ErrCursorLost.
	Changed(ctx context.Context, after Cursor, limit int) (StoreChanges, error)

	// Items returns items by ID ascending, expired ones too: a store never looks at an
	// expiry, except in Purge.
	Items(ctx context.Context, f StoreItemFilter) (StoreItemPage, error)

	// Apply commits all changes or none, in one transaction.
	//
	//   - A StoreRecord is written if and only if the stored record's Version is the
	//     new Version less one (Version 1: if there is none). Credentials that are not
	//     stored yet are inserted whole; a credential ID that another record lists,
	//     live or ended, is a failed comparison. For a stored credential NotBefore,
	//     NotAfter, Ended, Hint, Public and Pepper are written. Hash, Check, Sealed,
	//     SealedKEK and LastUsed stay as Upkeep made them, whatever the new record
	//     says, except that Sealed and SealedKEK are cleared if the credential is Ended
	//     or the record has RevokedAt. Stored credentials that the record does not list
	//     are dropped. Their order is kept.
	//   - A StoreItem is written, or deleted if Delete is set, if and only if the
	//     stored item's Version is the new Version less one (Version 1: if there is
	//     none).
	//   - The Event is appended; its ID is the change's ID. An ID that exists already
	//     is a failed comparison.
	//
	// Several changes of one record or item are applied in their order. A credential
	// that is Ended, or of a record with RevokedAt, never has a sealed copy afterwards,
	// new ones included. A record that lists one credential twice is a failed
	// comparison.
	//
	// If a comparison fails, nothing is written. If an event with the ID of each change
	// exists, an earlier commit of these same changes succeeded and its answer was
	// lost: Apply returns nil. Otherwise Apply returns ErrConflict. The comparison
	// comes before the search for the events, because it waits for a commit that is
	// under way. (A change without an event is never found: its retry is ErrConflict.)
	// A store retries deadlocks, serialization failures and locked databases itself, a
	// bounded number of times, with jitter.
	Apply(ctx context.Context, changes ...StoreChange) error

	// Upkeep replaces single columns of credentials if they have the given old value.
	// It changes no version, writes no event and is not in Changed. A swap whose old
	// value does not match, or whose credential does not exist, is skipped without an
	// error. The other swaps of the batch are done, in one transaction, in the order of
	// the batch, which may list a credential more than once.
	Upkeep(ctx context.Context, batch []StoreUpkeep) error
}

// StoreRecord is a key as stored.
type StoreRecord struct {
	ID      KeyID
	Account string // at most 255 bytes
	Name    string
	Mode    Mode
	Kind    Kind
	Version uint64   // 1, 2, 3 …; the Seq of its newest event
	Head    [32]byte // the hash of that event
	Needs   uint64   // features that a verifier must know, one bit each
	// MAC is opaque except for its first byte, the slot of the pepper that made it (see
	// StoreFilter). Empty: none.
	MAC []byte

	Abilities []string // canonical texts, in order; stores never parse them
	Networks  []netip.Prefix
	Origins   []string
	Metadata  map[string]string

	Disabled     bool
	RevokeReason Reason
	RotateMonths int
	Recoverable  bool // a sealed copy of each token is kept

	// RotateDue is compared with StoreFilter.DueBefore. A scheduled rotation does not
	// change it: [Info.RotateDue] also counts the NotBefore of the new credential,
	// which a store does not look at.
	CreatedAt, ExpiresAt, RevokedAt, RotateDue time.Time

	Credentials []StoreCredential // newest first
}

// State returns the state that StoreFilter.State is compared with.
func (r *StoreRecord) State() State {
	switch {
	case !r.RevokedAt.IsZero():
		return Revoked
	case r.Disabled:
		return Suspended
	}
	return Active
}

// StoreCredential is one credential of a record, as stored. Its ID is unique among
// all records.
type StoreCredential struct {
	ID CredentialID
	// [NotBefore, NotAfter); zero: no bound.
	NotBefore, NotAfter time.Time
	Ended               bool
	Hint                string // at most 4 bytes
	Public              string // a publishable token; "" for others
	Pepper              uint8  // slot of the pepper that made its tag; 0: none

	// Columns that belong to Upkeep.
	LastUsed  time.Time
	Hash      string
	Check     []byte
	Sealed    []byte
	SealedKEK string
}

// StoreChange is one unit of an Apply.
type StoreChange struct {
	ID     [16]byte     // the event's ID
	Record *StoreRecord // nil: items or an event alone
	Items  []StoreItem
	Event  *StoreEvent // required with a StoreRecord
}

// StoreItem is a small versioned value with an expiry: a challenge, a count of wrong
// answers, a provision mark, an idempotency key. Kind and ID name it.
type StoreItem struct {
	Kind      StoreItemKind
	ID        string // at most 255 bytes
	Version   uint64
	Delete    bool
	ExpiresAt time.Time // zero: never
	SealedKEK string    // ID of the KEK that sealed Data; "" if none did
	Data      []byte    // at most 64 KiB
}

// StoreItemKind separates the items of different purposes; at most 32 bytes.
type StoreItemKind string

// StoreUpkeep is up to three swaps on one credential, live or ended, each independent
// of the others: of LastUsed if it is later than the zero time, of the hash if NewHash
// is not empty, of the sealed copy if NewSealed is not empty. An empty old value means
// that none is stored.
type StoreUpkeep struct {
	Credential CredentialID
	// LastUsed is written if no time is stored, if the stored time is before
	// UsedBefore, or if the stored time is later than the store's own clock (the
	// database's) says it is now. The stored time moves forward only, so a UsedBefore
	// that is zero or later than LastUsed counts as LastUsed.
	//
	// A LastUsed that is later than the store's clock is written as the time of that
	// clock. So a node whose clock was years ahead leaves no time in the future, and a
	// time that such a node wrote is replaced at the next use.
	LastUsed time.Time
	// UsedBefore lets many nodes write one time a minute: each passes the beginning of
	// the minute, and only the first of them writes.
	UsedBefore time.Time
	// NewHash and NewCheck together replace hash and check if the hash is OldHash.
	OldHash, NewHash string
	NewCheck         []byte
	// NewSealed and NewKEK together replace the sealed copy if it is OldSealed, except
	// in an ended credential or a revoked record.
	OldSealed, NewSealed []byte
	NewKEK               string
}

// Cursor is a position in a list. Only the store that made it can read it. It is text
// that can stand in a URL. The empty Cursor is the start.
type Cursor string

// StoreEvent is an event as stored. The columns are there to search by. Body is the
// event itself and is kept byte for byte.
type StoreEvent struct {
	ID         [16]byte // unique
	Time       time.Time
	Account    string
	Mode       Mode
	Key        KeyID // zero: about no key
	Credential CredentialID
	Seq        uint64 // of the key's chain; 0: outside it
	Actor      string // the actor's ID
	Action     Action
	Body       []byte
	Hash       [32]byte
}

// StoreChanges is one page of the change feed.
type StoreChanges struct {
	Records []StoreRecord
	Damaged []*CorruptError // rows that cannot be read; the feed goes on
	Next    Cursor          // where to continue
	More    bool            // there is more to fetch at once
	// Current says that the answering node has every acknowledged change. A lagging
	// replica says false, and its answer proves nothing.
	Current bool
}
