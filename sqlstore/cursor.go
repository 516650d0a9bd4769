package sqlstore

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/go-apikey/apikey"
)

// position is where a page ends and what a cursor says: a time in
// microseconds, a Seq or a place in the feed, then the ID that makes it unique.
type position struct {
	at int64
	id []byte
}

// in is where the page ends in a column: a Seq, or else a time.
func (p position) in(column string) any {
	if column == "seq" {
		return p.at
	}
	return moment{p.at, true}
}

// A cursor begins with the list that it is of, so that no list is continued
// with the cursor of another.
const (
	listCursor  = 'k'
	logCursor   = 'e'
	chainCursor = 'c'
	feedCursor  = 'f'
)

func (p position) cursor(list byte) apikey.Cursor {
	b := binary.BigEndian.AppendUint64([]byte{list}, uint64(p.at))
	return apikey.Cursor(base64.RawURLEncoding.EncodeToString(append(b, p.id...)))
}

// parseCursor reads what [position.cursor] wrote, in that one spelling, and nil
// for the start. The ID has 16 bytes unless the page ended at a damaged row.
func parseCursor(c apikey.Cursor, list byte) (*position, error) {
	if c == "" {
		return nil, nil
	}
	const head, longest = 9, 9 + 64
	b, err := base64.RawURLEncoding.DecodeString(string(c[:min(len(c), 2*longest)]))
	if err == nil && len(b) >= head && len(b) <= longest {
		p := &position{int64(binary.BigEndian.Uint64(b[1:])), b[head:]}
		if p.cursor(list) == c {
			return p, nil
		}
	}
	return nil, errNoCursor
}

var errNoCursor = fmt.Errorf("%w: not a cursor of this list", apikey.ErrInvalid)
