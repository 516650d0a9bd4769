package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/go-apikey/apikey"
)

// Get implements [apikey.Store].
func (s *Store) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	if s.tx != nil && s.sql.lock != "" {
		if _, err := s.exec(ctx, s.tx, s.sql.lock, id[:]); err != nil {
			return apikey.StoreRecord{}, s.failure(ctx, "get", s.endTx(err))
		}
	}
	return s.one(ctx, "get", query{sql: s.sql.get, args: []any{id[:]}})
}

// Lookup implements [apikey.Store] with one query, which joins the credential, its key
// and all credentials of that key.
func (s *Store) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	if s.engine.embedded() {
		growStack()
	}
	return s.one(ctx, "lookup", query{sql: s.sql.lookup, args: []any{id[:]}, stmt: s.lookups.ready(ctx, s)})
}

// growStack grows the goroutine's stack while little of it is in use. The calls of an
// engine in this process are deep, and each time the stack grows during them it is
// copied: that costs three microseconds of a cold verification, whose goroutine is new.
//
//go:noinline
func growStack() {
	var room [8 << 10]byte
	useStack(&room)
}

//go:noinline
func useStack(room *[8 << 10]byte) { room[0] = 1 }

// lookups keeps the statement of Lookup prepared for an engine in this process, where
// parsing the text costs more than running the statement. On a server nothing is kept
// prepared, because a pooler in transaction mode gives the connection with the prepared
// statement to another client.
type lookups struct {
	stmt atomic.Pointer[sql.Stmt] // stays open as long as the database
}

// ready returns the prepared statement, or nil if the text must be sent. Callers that
// find no statement each prepare one, and the first one stays: a caller that waited for
// another one's would wait past the end of its own context.
func (l *lookups) ready(ctx context.Context, s *Store) *sql.Stmt {
	if s.tx != nil || !s.engine.embedded() {
		return nil
	}
	if stmt := l.stmt.Load(); stmt != nil {
		return stmt
	}
	stmt, err := s.db.PrepareContext(ctx, s.dialect.named(s.sql.lookup))
	if err != nil { // the query will return the error
		return nil
	}
	if !l.stmt.CompareAndSwap(nil, stmt) {
		stmt.Close()
		return l.stmt.Load()
	}
	return stmt
}

func (s *Store) one(ctx context.Context, op string, q query) (apikey.StoreRecord, error) {
	rr, err := read(ctx, s, op, q, scanRecords)
	switch {
	case err != nil:
		return apikey.StoreRecord{}, err
	case len(rr.found) == 0:
		return apikey.StoreRecord{}, apikey.ErrNotFound
	}
	if corrupt := rr.found[0].corrupt(); corrupt != nil {
		return apikey.StoreRecord{}, corrupt
	}
	return rr.found[0].record, nil
}

func scanRecords(rr *recordRows, rows *sql.Rows) error { return rr.scan(rows) }

// List implements [apikey.Store]. A page is one query: no record of it is put
// together from two versions.
func (s *Store) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	after, limit, err := s.begin(f.After, listCursor, f.Limit)
	if err != nil {
		return apikey.StorePage{}, err
	}
	rr, err := read(ctx, s, "list", s.engine.list(f, after, limit+1), scanRecords)
	if err != nil {
		return apikey.StorePage{}, err
	}
	shown, more := upTo(limit, rr.found)
	var page apikey.StorePage
	page.Records, page.Damaged = split(shown)
	if more {
		last := shown[limit-1]
		page.Next = position{last.created, last.id}.cursor(listCursor)
	}
	return page, nil
}

// Changed implements [apikey.Store].
func (s *Store) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	limit, err := pageSize(limit)
	if err != nil {
		return apikey.StoreChanges{}, err
	}
	return s.engine.changed(ctx, s, after, limit)
}

// Events implements [apikey.Store]. A Chain without a Key is ErrInvalid. If the ID or the
// hash of a row is damaged, that field of the event is zero and Body is as stored: the
// verification of the log reports the damage, and a reader sees that the row exists.
func (s *Store) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	list := byte(logCursor)
	if f.Chain {
		list = chainCursor
	}
	after, limit, err := s.begin(f.After, list, f.Limit)
	if err != nil {
		return apikey.StoreEventPage{}, err
	}
	if f.Chain && f.Key.IsZero() {
		return apikey.StoreEventPage{}, fmt.Errorf("%w: a chain is that of one key", apikey.ErrInvalid)
	}
	all, err := read(ctx, s, "events", s.engine.builder().events(f, after, limit+1), scanEvent)
	if err != nil {
		return apikey.StoreEventPage{}, err
	}
	shown, more := upTo(limit, all)
	var page apikey.StoreEventPage
	for _, e := range shown {
		page.Events = append(page.Events, e.StoreEvent)
	}
	if more {
		last := shown[limit-1]
		at := last.Time.UnixMicro()
		if f.Chain {
			at = int64(last.Seq)
		}
		page.Next = position{at, last.stored}.cursor(list)
	}
	return page, nil
}

// event is an event and its ID as stored.
type event struct {
	apikey.StoreEvent
	stored []byte
}

func scanEvent(all *[]event, rows *sql.Rows) error {
	var (
		e                      event
		verdict                verdict
		at                     moment
		mode, seq              int64
		key, cred, hash        []byte
		account, actor, action string
	)
	if err := rows.Scan(&verdict, &e.stored, &at, &account, &mode, &key, &cred, &seq, &actor, &action, &e.Body, &hash); err != nil {
		return err
	}
	if verdict != 0 {
		return verdict.err()
	}
	// A column of the wrong length was changed outside the store. It is not cut to the
	// right length: the event would look intact, but SQL filters compare the whole value
	// and would silently miss it.
	sized(e.ID[:], e.stored)
	sized(e.Key[:], key)
	sized(e.Credential[:], cred)
	sized(e.Hash[:], hash)
	if mode < 0 || mode > math.MaxUint8 {
		mode = math.MaxUint8
	}
	e.Time, e.Account, e.Mode, e.Seq = at.time(), account, apikey.Mode(mode), uint64(seq)
	e.Actor, e.Action = actor, apikey.Action(action)
	*all = append(*all, e)
	return nil
}

// sized copies a value of the right length. Any other value is left out, so the field is
// zero.
func sized(to, stored []byte) {
	if len(to) == len(stored) {
		copy(to, stored)
	}
}

// Items implements [apikey.Store]. A filter without a Kind is ErrInvalid.
func (s *Store) Items(ctx context.Context, f apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	limit, err := pageSize(f.Limit)
	if err != nil {
		return apikey.StoreItemPage{}, err
	}
	if f.Kind == "" {
		return apikey.StoreItemPage{}, fmt.Errorf("%w: items are read by Kind", apikey.ErrInvalid)
	}
	locked := s.tx != nil && f.ID != "" // the caller is about to change it
	all, err := read(ctx, s, "items", s.engine.items(f, limit+1, locked), scanItem)
	if err != nil {
		return apikey.StoreItemPage{}, err
	}
	shown, more := upTo(limit, all)
	page := apikey.StoreItemPage{Items: shown}
	for i := range shown {
		shown[i].Kind = f.Kind
	}
	if more {
		page.Next = shown[limit-1].ID
	}
	return page, nil
}

func scanItem(all *[]apikey.StoreItem, rows *sql.Rows) error {
	var (
		it      apikey.StoreItem
		verdict verdict
		id, kek sql.NullString
		version sql.NullInt64
		expires moment
	)
	if err := rows.Scan(&verdict, &id, &version, &expires, &kek, &it.Data); err != nil {
		return err
	}
	if verdict != 0 {
		return verdict.err()
	}
	if id.Valid { // if not, an outer join found no item
		it.ID, it.Version, it.ExpiresAt, it.SealedKEK = id.String, uint64(version.Int64), expires.time(), kek.String
		*all = append(*all, it)
	}
	return nil
}

// begin checks the cursor and the limit of a paged list. A cursor is text from outside:
// if no row can have its time, this store did not make it.
func (s *Store) begin(after apikey.Cursor, list byte, limit int) (*position, int, error) {
	limit, err := pageSize(limit)
	if err != nil {
		return nil, 0, err
	}
	from, err := parseCursor(after, list)
	if from != nil && list != chainCursor && (from.at < at(earliest).micros || from.at > at(s.engine.latest()).micros) {
		return nil, 0, errNoCursor
	}
	return from, limit, err
}

func pageSize(limit int) (int, error) {
	switch {
	case limit == 0:
		return 100, nil
	case limit < 1 || limit > 1000:
		return 0, fmt.Errorf("%w: a limit is 1 to 1000, or 0 for 100", apikey.ErrInvalid)
	}
	return limit, nil
}

// upTo removes the extra row, which only shows whether there are more rows.
func upTo[T any](limit int, rows []T) (shown []T, more bool) {
	return rows[:min(limit, len(rows))], len(rows) > limit
}

// split separates the records from the damaged rows.
func split(rows []found) (records []apikey.StoreRecord, damaged []*apikey.CorruptError) {
	for i := range rows {
		if corrupt := rows[i].corrupt(); corrupt != nil {
			damaged = append(damaged, corrupt)
		} else {
			records = append(records, rows[i].record)
		}
	}
	return records, damaged
}
