package memstore

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

// place is the position of a row in its list, and the content of a cursor. at is a time
// in microseconds, a Seq, or a number of the feed. id makes every place unique.
type place struct {
	at int64
	id [16]byte
}

// start comes before every other place: a list is read from its beginning.
var start = place{at: math.MinInt64}

func placeAt(t time.Time, id [16]byte) place { return place{t.UnixMicro(), id} }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.at, q.at), bytes.Compare(p.id[:], q.id[:]))
}

// A cursor begins with the kind of its list, so that it is refused for another list.
const (
	listCursor  = "k"
	logCursor   = "e"
	chainCursor = "c"
	feedCursor  = "f"
)

// strict accepts only one spelling of each cursor.
var strict = base64.RawURLEncoding.Strict()

func (p place) cursor(kind string) apikey.Cursor {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.at))
	return apikey.Cursor(kind + strict.EncodeToString(append(b, p.id[:]...)))
}

// parseCursor decodes a cursor made by [place.cursor]. The empty cursor is the start.
func parseCursor(c apikey.Cursor, kind string) (p place, err error) {
	if c == "" {
		return start, nil
	}
	bad := fmt.Errorf("%w: not a cursor of this list", apikey.ErrInvalid)
	if len(c) != len(kind)+strict.EncodedLen(24) || string(c[:len(kind)]) != kind {
		return place{}, bad
	}
	b, err := strict.DecodeString(string(c[len(kind):]))
	if err != nil || len(b) != 24 { // base64 ignores line breaks, so b may be too short
		return place{}, bad
	}
	p.at = int64(binary.BigEndian.Uint64(b))
	copy(p.id[:], b[8:])
	return p, nil
}

// Lists are sorted, oldest first, so that most insertions are appends.

func insert(list []place, p place) []place {
	i, found := slices.BinarySearchFunc(list, p, place.compare)
	if found {
		return list
	}
	return slices.Insert(list, i, p)
}

func remove(list []place, p place) []place {
	if i, found := slices.BinarySearchFunc(list, p, place.compare); found {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// newestFirst yields the places before from, the newest first. If from is start, it
// yields all of them.
func newestFirst(list []place, from place) iter.Seq[place] {
	end := len(list)
	if from != start {
		end, _ = slices.BinarySearchFunc(list, from, place.compare)
	}
	return func(yield func(place) bool) {
		for _, p := range slices.Backward(list[:end]) {
			if !yield(p) {
				return
			}
		}
	}
}

// onward yields the places after from, the oldest first.
func onward(list []place, from place) iter.Seq[place] {
	i, found := slices.BinarySearchFunc(list, from, place.compare)
	if found {
		i++
	}
	return slices.Values(list[i:])
}
