package sqlstore

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

// recordRows assembles records from a query with one row for each credential, or one row
// for a key without credentials. The rows of a key follow one another; its credentials
// come in any order. A row that cannot be read damages the record of its key, not the
// other records.
type recordRows struct {
	found []found
	row   row
}

// found is a record, or the description of its damage.
type found struct {
	record    apikey.StoreRecord
	damage    damage
	positions []int64 // of the credentials added so far
	// Where the record stands in its list, for cursors. The IDs are as stored, so that a
	// page can end at a damaged row.
	id, event     []byte
	created, feed int64
}

// row has the columns of a key and of one of its credentials, in the order in which every
// dialect selects them.
type row struct {
	verdict                                verdict
	id                                     []byte
	account, name                          string
	mode, kind                             int64
	version                                int64
	head                                   []byte
	needs                                  int64
	mac                                    []byte
	abilities, networks, origins, metadata string
	disabled                               int64
	reason                                 string
	months, recovery                       int64
	createdAt                              moment
	expiresAt, revokedAt, rotateDue        moment
	feed                                   int64
	event                                  []byte
	credential                             []byte
	notBefore, notAfter                    moment
	ended                                  sql.NullInt64
	hint, public                           sql.NullString
	pepper                                 sql.NullInt64
	lastUsed                               moment
	hash                                   sql.NullString
	check, sealed                          []byte
	kek                                    sql.NullString
	position                               sql.NullInt64
}

// scan reads the next row. The variables in first receive the columns that the query
// selects before those of the key. If an outer join found no key, only they are read.
func (rr *recordRows) scan(rows *sql.Rows, first ...any) error {
	rr.row = row{}
	r := &rr.row
	err := rows.Scan(append(first,
		&r.verdict, &r.id, &r.account, &r.name, &r.mode, &r.kind, &r.version, &r.head, &r.needs, &r.mac,
		&r.abilities, &r.networks, &r.origins, &r.metadata, &r.disabled, &r.reason, &r.months, &r.recovery,
		&r.createdAt, &r.expiresAt, &r.revokedAt, &r.rotateDue, &r.feed, &r.event,
		&r.credential, &r.notBefore, &r.notAfter, &r.ended, &r.hint, &r.public, &r.pepper,
		&r.lastUsed, &r.hash, &r.check, &r.sealed, &r.kek, &r.position)...)
	switch {
	case r.verdict != 0:
		return r.verdict.err()
	case r.id == nil && err != nil:
		return nil // an outer join found no key; the error is about its NULL columns
	}
	last := len(rr.found) - 1
	if last < 0 || string(rr.found[last].id) != string(r.id) {
		rr.found = append(rr.found, found{id: r.id, event: r.event, created: r.createdAt.micros, feed: r.feed})
		last++
		if err == nil {
			rr.found[last].record = r.key(&rr.found[last].damage)
		}
	}
	f := &rr.found[last]
	switch {
	case err != nil: // the text of err would quote the value
		f.damage.add("a column is missing or of the wrong type")
	case r.credential != nil:
		f.add(r.position.Int64, r.cred(&f.damage))
	}
	return nil
}

// add inserts a credential in the order of the positions. To let the database sort would
// cost more than the rest of a lookup: MariaDB sorts rows with text columns on disk.
func (f *found) add(position int64, c apikey.StoreCredential) {
	at := len(f.positions)
	for at > 0 && f.positions[at-1] > position {
		at--
	}
	f.positions = slices.Insert(f.positions, at, position)
	f.record.Credentials = slices.Insert(f.record.Credentials, at, c)
}

// corrupt returns the error of a damaged record, nil for an undamaged one.
func (f *found) corrupt() *apikey.CorruptError {
	if f.damage == "" {
		return nil
	}
	e := &apikey.CorruptError{Detail: string(f.damage), Account: f.record.Account}
	if len(f.id) == len(e.Key) {
		e.Key = apikey.KeyID(f.id)
	}
	return e
}

// key reads the columns of the key. An unknown kind is no damage: a newer version may
// have written it, and package apikey refuses kinds that it does not know.
func (r *row) key(d *damage) apikey.StoreRecord {
	rec := apikey.StoreRecord{
		ID:           d.id("id", r.id),
		Account:      r.account,
		Name:         r.name,
		Mode:         apikey.Mode(d.within("mode", r.mode, int64(apikey.Live), int64(apikey.Test))),
		Kind:         apikey.Kind(d.within("kind", r.kind, 1, math.MaxUint8)),
		Version:      uint64(r.version),
		Needs:        uint64(r.needs),
		MAC:          r.mac,
		Disabled:     d.within("disabled", r.disabled, 0, 1) == 1,
		RevokeReason: apikey.Reason(r.reason),
		RotateMonths: int(d.within("rotate_months", r.months, 0, math.MaxInt32)),
		Recoverable:  d.within("recovery", r.recovery, 0, 1) == 1,
		CreatedAt:    r.createdAt.time(),
		ExpiresAt:    r.expiresAt.time(),
		RevokedAt:    r.revokedAt.time(),
		RotateDue:    r.rotateDue.time(),
	}
	if copy(rec.Head[:], r.head) != len(rec.Head) || len(r.head) != len(rec.Head) {
		d.add("head is not 32 bytes")
	}
	d.json("abilities", r.abilities, &rec.Abilities)
	d.json("networks", r.networks, &rec.Networks)
	d.json("origins", r.origins, &rec.Origins)
	d.json("metadata", r.metadata, &rec.Metadata)
	return rec
}

func (r *row) cred(d *damage) apikey.StoreCredential {
	return apikey.StoreCredential{
		ID:        d.id("credential id", r.credential),
		NotBefore: r.notBefore.time(),
		NotAfter:  r.notAfter.time(),
		Ended:     d.within("ended", r.ended.Int64, 0, 1) == 1,
		Hint:      r.hint.String,
		Public:    r.public.String,
		Pepper:    uint8(d.within("pepper", r.pepper.Int64, 0, math.MaxUint8)),
		LastUsed:  r.lastUsed.time(),
		Hash:      r.hash.String,
		Check:     r.check,
		Sealed:    r.sealed,
		SealedKEK: r.kek.String,
	}
}

// damage describes the first damaged column that was found, without its value.
type damage string

func (d *damage) add(what string) {
	if *d == "" {
		*d = damage(what)
	}
}

func (d *damage) id(column string, b []byte) (id [16]byte) {
	if len(b) != len(id) {
		d.add(column + " is not 16 bytes")
	}
	copy(id[:], b)
	return id
}

func (d *damage) within(column string, n, low, high int64) int64 {
	if n < low || n > high {
		d.add(column + " is out of range")
		return low
	}
	return n
}

func (d *damage) json(column, text string, to any) {
	if text != "[]" && text != "{}" && json.Unmarshal([]byte(text), to) != nil {
		d.add(column + " is not readable")
	}
}

// keyArgs returns the columns of a key except its ID, and then the event of the change.
func keyArgs(r *apikey.StoreRecord, event [16]byte) []any {
	return []any{
		r.Account, r.Name, int64(r.Mode), int64(r.Kind), int64(r.Version), r.Head[:], int64(r.Needs), blob(r.MAC),
		list(r.Abilities), list(r.Networks), list(r.Origins), object(r.Metadata),
		flag(r.Disabled), string(r.RevokeReason), int64(r.RotateMonths), flag(r.Recoverable),
		at(r.CreatedAt), orNone(r.ExpiresAt), orNone(r.RevokedAt), orNone(r.RotateDue), event[:],
	}
}

func changeableOf(c *apikey.StoreCredential, position int) changeable {
	return changeable{
		position:  int64(position),
		notBefore: orNone(c.NotBefore), notAfter: orNone(c.NotAfter),
		ended: flag(c.Ended), hint: c.Hint, public: c.Public, pepper: int64(c.Pepper),
	}
}

func (k changeable) args() []any {
	return []any{k.position, k.notBefore, k.notAfter, k.ended, k.hint, k.public, k.pepper}
}

func upkeepArgs(c *apikey.StoreCredential) []any {
	return []any{orNone(c.LastUsed), c.Hash, blob(c.Check), blob(c.Sealed), c.SealedKEK}
}

func itemArgs(it apikey.StoreItem) []any {
	return []any{int64(it.Version), orNone(it.ExpiresAt), it.SealedKEK, blob(it.Data)}
}

// eventArgs returns the columns of an event. The last argument is 1 if the change writes
// a record too, which gives the event a place in the feed.
func eventArgs(ch apikey.StoreChange) []any {
	e := ch.Event
	return []any{
		e.ID[:], at(e.Time), e.Account, int64(e.Mode), id(e.Key), id(e.Credential), int64(e.Seq),
		e.Actor, string(e.Action), blob(e.Body), e.Hash[:], flag(ch.Record != nil),
	}
}

// moment is a time as the store keeps it, in whole microseconds since 1970, or no time.
// Each engine stores it in a type of its own: see [engine.moment].
type moment struct {
	micros int64
	valid  bool
}

// earliest is the first time that can be stored. The last one depends on the engine: see
// [engine.latest].
var earliest time.Time

// at rounds t down to a microsecond. It is for the two times that lists are ordered by,
// which are always set: their zero is stored as the year 1 and read back as zero. For the
// others see orNone. A time that 64 bits of microseconds cannot hold becomes the nearest
// one that they can; Apply refuses such a time first (see outside).
func at(t time.Time) moment {
	switch {
	case t.Before(earliest):
		t = earliest
	case t.After(latestMicros):
		t = latestMicros
	}
	return moment{t.UnixMicro(), true}
}

// latestMicros is the end of the last year that 64 bits of microseconds can hold.
var latestMicros = time.Date(294_246, 12, 31, 23, 59, 59, 999_999_000, time.UTC)

// outside reports whether a change has a time that the engine cannot store. An error is
// better than to read back a different time.
func outside(ch apikey.StoreChange, latest time.Time) bool {
	var times []time.Time
	if r := ch.Record; r != nil {
		times = append(times, r.CreatedAt, r.ExpiresAt, r.RevokedAt, r.RotateDue)
		for _, c := range r.Credentials {
			times = append(times, c.NotBefore, c.NotAfter, c.LastUsed)
		}
	}
	for _, it := range ch.Items {
		times = append(times, it.ExpiresAt)
	}
	if ch.Event != nil {
		times = append(times, ch.Event.Time)
	}
	return slices.ContainsFunc(times, func(t time.Time) bool { return t.Before(earliest) || t.After(latest) })
}

// orNone is at for all other times: a zero time is stored as NULL.
func orNone(t time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	return at(t)
}

// ceil rounds t up to a microsecond, for the conditions "stored < t" and "stored >= t": t
// may be finer than the stored times.
func ceil(t time.Time) moment { return at(t.Add(time.Microsecond - time.Nanosecond)) }

func (m moment) time() time.Time {
	if !m.valid {
		return time.Time{}
	}
	return time.UnixMicro(m.micros).UTC()
}

// Scan implements [sql.Scanner] for all types in which the drivers return a time.
func (m *moment) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*m = moment{}
	case int64:
		*m = moment{v, true}
	case time.Time:
		*m = moment{v.UnixMicro(), true}
	case string:
		return m.infinite(v)
	case []byte:
		return m.infinite(string(v))
	default:
		return fmt.Errorf("a time came as %T", value)
	}
	return nil
}

// infinite reads PostgreSQL's infinity and -infinity, which are no points in time. This
// package never writes them, but one row with such a value must not make the other rows
// of its page unreadable.
func (m *moment) infinite(text string) error {
	switch text {
	case "infinity":
		*m = moment{math.MaxInt64, true}
	case "-infinity":
		*m = moment{math.MinInt64, true}
	default:
		return errors.New("a time came as text")
	}
	return nil
}

// blob stores an empty blob as NULL: drivers treat the two differently, and for a Store
// they are the same.
func blob(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

func id(b [16]byte) any {
	if b == [16]byte{} {
		return nil
	}
	return b[:]
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// list and object ignore the error of Marshal, because text, prefixes and maps of text
// always marshal.

func list[T string | netip.Prefix](items []T) string {
	if len(items) == 0 {
		return "[]"
	}
	text, _ := json.Marshal(items)
	return string(text)
}

func object(m map[string]string) string {
	if len(m) == 0 {
		return "{}"
	}
	text, _ := json.Marshal(m)
	return string(text)
}
