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

// place is where a row stands in its list, and what a cursor says: a time in
// microseconds, a Seq or a number of the feed; then an ID, which makes every
// place unique.
type place struct {
	at int64
	id [16]byte
}

// start is before every place that a list is walked from.
var start = place{at: math.MinInt64}

func placeAt(t time.Time, id [16]byte) place { return place{t.UnixMicro(), id} }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.at, q.at), bytes.Compare(p.id[:], q.id[:]))
}

// A cursor names its list, so that one cannot be continued with that of
// another.
const (
	listCursor  = "k"
	logCursor   = "e"
	chainCursor = "c"
	feedCursor  = "f"
)

// strict has one spelling for every cursor.
var strict = base64.RawURLEncoding.Strict()

func (p place) cursor(kind string) apikey.Cursor {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.at))
	return apikey.Cursor(kind + strict.EncodeToString(append(b, p.id[:]...)))
}

// parseCursor reads what [place.cursor] wrote; the empty cursor is the start.
func parseCursor(c apikey.Cursor, kind string) (p place, err error) {
	if c == "" {
		return start, nil
	}
	bad := fmt.Errorf("%w: not a cursor of this list", apikey.ErrInvalid)
	if len(c) != len(kind)+strict.EncodedLen(24) || string(c[:len(kind)]) != kind {
		return place{}, bad
	}
	b, err := strict.DecodeString(string(c[len(kind):]))
	if err != nil || len(b) != 24 { // base64 passes over line breaks
		return place{}, bad
	}
	p.at = int64(binary.BigEndian.Uint64(b))
	copy(p.id[:], b[8:])
	return p, nil
}

// Lists are kept oldest first, so that the usual insertion is an append.

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

// newestFirst yields what is older than from.
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

// onward yields what comes after from.
func onward(list []place, from place) iter.Seq[place] {
	i, found := slices.BinarySearchFunc(list, from, place.compare)
	if found {
		i++
	}
	return slices.Values(list[i:])
}
