package sqlstore

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"

	"github.com/go-apikey/apikey"
)

// A window is the position of a feed without a counter. Where many write at
// once, changes do not become visible in any order that is known beforehand: a
// place in the feed that is read today may have a neighbour below it tomorrow.
// So a reader begins each walk at a floor, below which nothing can appear any
// more, and sees some changes again, which the contract allows.
//
// What places are is the engine's: numbers of transactions, or times.
type window struct {
	// at, id: what comes next is beyond that key at that place. Without an id a
	// walk begins there.
	at int64
	id []byte
	// floor of the next walk, as the first page of this one has found it. A later
	// page must not: what was written between the two may be behind the walk.
	floor int64
	// shown is the newest place that was ever shown, and event its event: 0 for
	// none. While the event is there, so is every change that was shown, but for one
	// that overlapped it in time and committed later: a standby may have received
	// the one and not the other. Who was shown that one still goes by it.
	shown int64
	event [16]byte
	// server is whose order the places are in, 0 where that is the same on every
	// server. The places of one say nothing on another.
	server int64
}

// windowCursor is what [window.cursor] begins with; see [position.cursor].
const windowCursor = 'w'

func (w window) cursor() apikey.Cursor {
	b := []byte{windowCursor}
	for _, n := range []int64{w.at, w.floor, w.shown, w.server} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(append(b, w.event[:]...), w.id...)
	return apikey.Cursor(base64.RawURLEncoding.EncodeToString(b))
}

// parseWindow reads what [window.cursor] wrote, in that one spelling.
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

// windows are the two queries of a feed that is read by windows. Both begin
// with the columns of seen.
type windows struct {
	now  string                          // no arguments; one row
	page func(w window, limit int) query // then recordRows: the keys beyond w in the order of their places and IDs
}

// seen is what a query of the feed says of the moment of its snapshot.
type seen struct {
	verdict verdict
	server  int64
	// floor: below it nothing appears any more. end: whatever is written from now
	// on is there or beyond.
	floor, end int64
	// known: the store still has what the cursor says was shown. Of the query
	// "now": shown and event are the newest.
	known bool
	shown int64
	event []byte
}

// unfit is an error where the answer is not to be believed at all. One that lags
// says so to the caller, who asks again.
func (n *seen) unfit() error {
	if n.verdict == lags {
		return nil
	}
	return n.verdict.err()
}

// changedByWindow is Changed.
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

// feedNow is Changed of the empty cursor.
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

// fromFloor begins the next walk. It does so no higher than what was shown last,
// although the floor may be: between the two nothing is to be read, but should
// the store lose its newest transactions (a standby takes over that had not got
// them), it goes on from the numbers that it still knows, and those may be below
// a floor that the lost ones had raised.
func (w window) fromFloor() window {
	w.at, w.id, w.floor = min(w.floor, w.shown+1), nil, 0
	return w
}
