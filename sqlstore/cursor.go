package sqlstore

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/go-apikey/apikey"
)

// position is the end of a page, which a cursor encodes: a time in microseconds, a Seq or
// a place in the feed, then the ID that makes the position unique.
type position struct {
	at int64
	id []byte
}

// in returns p.at as an argument to compare a column with: a Seq is a number, every other
// column a time.
func (p position) in(column string) any {
	if column == "seq" {
		return p.at
	}
	return moment{p.at, true}
}

// The first byte of a cursor names its list, so that a list cannot be continued with the
// cursor of another.
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

// parseCursor decodes the text of [position.cursor], and returns nil for the start of the
// list. It accepts no other spelling of the same position. The ID has 16 bytes unless the
// page ended at a damaged row.
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
