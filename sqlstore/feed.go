package sqlstore

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"

	"github.com/go-apikey/apikey"
)

// A window is a cursor's position in a feed without a counter (PostgreSQL, MariaDB). If
// many transactions write at once, their changes become visible in an order that is not
// known beforehand: a change may still appear below a place that was read already. So a
// reader reads the feed in passes. Each pass begins at a floor, below which no change can
// appear any more, and returns some changes again, which the contract allows.
//
// A place is a number that the engine gives to a change: the number of its transaction
// (PostgreSQL) or the time of its write (MariaDB).
type window struct {
	// at, id: the next page begins after this key at this place. Without an id a pass
	// begins at this place.
	at int64
	id []byte
	// floor is where the next pass will begin, as the first page of this pass found it. A
	// later page must not set it: a change that was written after the first page may be
	// at a place that this pass has left behind.
	floor int64
	// shown is the newest place that was ever shown, and event its event; 0 if none was.
	// While the store has that event, it has every change that was shown, with one
	// exception: a change whose transaction overlapped that of the event and committed
	// later. A standby may have received the event and not that change. A reader that was
	// shown the change goes on using it.
	shown int64
	event [16]byte
	// server identifies the server that numbered the places, 0 where all servers use the
	// same numbers. The places of one server mean nothing on another.
	server int64
}

// windowCursor is the first byte of a cursor of [window.cursor], as listCursor is of
// others.
const windowCursor = 'w'

func (w window) cursor() apikey.Cursor {
	b := []byte{windowCursor}
	for _, n := range []int64{w.at, w.floor, w.shown, w.server} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(append(b, w.event[:]...), w.id...)
	return apikey.Cursor(base64.RawURLEncoding.EncodeToString(b))
}

// parseWindow decodes the text of [window.cursor]. It accepts no other spelling of the
// same window.
func parseWindow(c apikey.Cursor) (window, error) {
	const head, longest = 1 + 4*8 + 16, 1 + 4*8 + 16 + 64
	b, err := base64.RawURLEncoding.DecodeString(string(c[:min(len(c), 2*longest)]))
	if err == nil && len(b) >= head && len(b) <= longest {
		number := func(i int) int64 { return int64(binary.BigEndian.Uint64(b[1+8*i:])) }
		w := window{at: number(0), floor: number(1), shown: number(2), server: number(3), event: [16]byte(b[head-16 : head]), id: b[head:]}
		if w.cursor() == c {
			return w, nil
		}
	}
	return window{}, errNoCursor
}

// windows are the two queries of a feed whose cursor is a window. Both select the columns
// of seen first.
type windows struct {
	now  string                          // no arguments; one row
	page func(w window, limit int) query // then rows for recordRows: the keys after w by place, ID
}

// seen is the state of the feed in the snapshot of a query.
type seen struct {
	verdict verdict
	server  int64
	// floor: no change can appear below it any more. end: every later change is at end or
	// above it.
	floor, end int64
	// known: the store still has the event that the cursor names. shown, event: the
	// newest place and its event; only the query "now" selects them.
	known bool
	shown int64
	event []byte
}

// unfit returns an error if the answer must not be used at all. If the server lags, it
// returns nil: Changed then returns no changes and Current false, and its caller asks
// again.
func (n *seen) unfit() error {
	if n.verdict == lags {
		return nil
	}
	return n.verdict.err()
}

// changedByWindow implements Changed with a window as the cursor.
func (s *Store) changedByWindow(ctx context.Context, cursor apikey.Cursor, limit int, feed windows) (apikey.StoreChanges, error) {
	if cursor == "" {
		return s.feedNow(ctx, feed)
	}
	w, err := parseWindow(cursor)
	if err != nil {
		return apikey.StoreChanges{}, err
	}
	type page struct {
		recordRows
		seen
	}
	p, err := read(ctx, s, "changed", feed.page(w, limit+1), func(p *page, rows *sql.Rows) error {
		return errors.Join(p.scan(rows, &p.verdict, &p.server, &p.seen.floor, &p.end, &p.known), p.unfit())
	})
	switch {
	case err != nil:
		return apikey.StoreChanges{}, err
	case p.verdict == lags:
		return apikey.StoreChanges{Next: cursor}, nil
	case w.server != p.server, w.shown != 0 && !p.known, p.end < w.at:
		return apikey.StoreChanges{}, apikey.ErrCursorLost
	}
	shown, more := upTo(limit, p.found)
	changes := apikey.StoreChanges{More: more, Current: true}
	changes.Records, changes.Damaged = split(shown)
	if len(w.id) == 0 {
		w.floor = p.seen.floor
	}
	if len(shown) > 0 {
		last := shown[len(shown)-1]
		w.at, w.id = last.feed, last.id
		if last.feed >= w.shown {
			w.shown, w.event = last.feed, [16]byte{}
			copy(w.event[:], last.event)
		}
	}
	if !more {
		w = w.fromFloor()
	}
	changes.Next = w.cursor()
	return changes, nil
}

// feedNow implements Changed for the empty cursor.
func (s *Store) feedNow(ctx context.Context, feed windows) (apikey.StoreChanges, error) {
	now, err := read(ctx, s, "changed", query{sql: feed.now}, func(now *seen, rows *sql.Rows) error {
		return errors.Join(rows.Scan(&now.verdict, &now.server, &now.floor, &now.end, &now.shown, &now.event), now.unfit())
	})
	if err != nil || now.verdict == lags {
		return apikey.StoreChanges{}, err
	}
	w := window{floor: now.floor, shown: now.shown, server: now.server}
	copy(w.event[:], now.event)
	return apikey.StoreChanges{Next: w.fromFloor().cursor(), Current: true}, nil
}

// fromFloor begins the next pass at the floor, but not above the place after the newest
// shown one. If the floor is higher, there is nothing to read between the two. But the
// store may lose its newest transactions, when a standby takes over that had not received
// them. The new primary then continues from the numbers that it knows, and those may be
// below a floor that the lost transactions had raised.
func (w window) fromFloor() window {
	w.at, w.id, w.floor = min(w.floor, w.shown+1), nil, 0
	return w
}
