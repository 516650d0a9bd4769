package canon_test

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey/internal/canon"
)

var at = time.Date(2024, 5, 6, 7, 8, 9, 123456000, time.UTC)

func written() canon.Writer {
	w := canon.NewWriter(16) // smaller than what is written
	w.Uint(math.MaxUint64)
	w.Bool(true)
	w.Bool(false)
	w.Text("a\x00b")
	w.Text("")
	w.Bytes([]byte{1, 2})
	w.Fixed([]byte{3, 4, 5})
	w.Texts([]string{"x", "", "yz"})
	w.Texts(nil)
	w.Time(at)
	w.Time(time.Time{})
	return w
}

// stored holds the bytes that written returns. Rows of earlier versions have such bytes
// under their MACs: if the encoding changes by one byte, every key in every database
// becomes invalid.
const stored = "ffffffffffffffff" + "0000000000000001" + "0000000000000000" +
	"0000000000000003" + "610062" + "0000000000000000" + "0000000000000002" + "0102" + "030405" +
	"0000000000000003" + "0000000000000001" + "78" + "0000000000000000" + "0000000000000002" + "797a" +
	"0000000000000000" + "000617c3bb534a80" + "8000000000000000"

func TestBytesNeverChange(t *testing.T) {
	w := written()
	require.Equal(t, stored, hex.EncodeToString(w.Encoded()))
	require.Equal(t, sha256.Sum256(w.Encoded()), w.Sum())
}

// read decodes the bytes that written returned, and reports whether they were complete.
func read(b []byte) (values []any, complete bool) {
	r := canon.NewReader(b)
	fixed := make([]byte, 3)
	values = append(values, r.Uint(), r.Uint(), r.Uint(), r.Text(), r.Text(), r.Text())
	r.Fixed(fixed)
	values = append(values, fixed, r.Texts(), r.Texts(), r.Time(), r.Time())
	return values, r.Complete()
}

func TestReaderReadsWhatWasWritten(t *testing.T) {
	w := written()
	got, complete := read(w.Encoded())
	require.True(t, complete)
	require.Equal(t, []any{uint64(math.MaxUint64), uint64(1), uint64(0), "a\x00b", "", "\x01\x02",
		[]byte{3, 4, 5}, []string{"x", "", "yz"}, []string(nil), at, time.Time{}}, got)
}

// A Reader notices if bytes are cut off or added, at any place.
func TestNothingIsCutOffUnnoticed(t *testing.T) {
	w := written()
	whole := w.Encoded()
	for n := range whole {
		_, complete := read(whole[:n])
		require.False(t, complete, "the first %d of %d bytes", n, len(whole))
	}
	_, complete := read(append(slices.Clone(whole), 0))
	require.False(t, complete, "one byte more")
}

func TestAfterAFailureEverythingIsZero(t *testing.T) {
	var w canon.Writer
	w.Uint(9) // a text of nine bytes; only eight follow
	w.Uint(7)
	r := canon.NewReader(w.Encoded())
	require.Empty(t, r.Text())
	require.False(t, r.OK())
	require.False(t, r.More(), "what is left has lost its meaning")
	require.Zero(t, r.Uint())
	require.Nil(t, r.Texts())
	require.True(t, r.Time().IsZero())
	require.False(t, r.Complete())
}

// An attacker who writes to the database can write any length.
func TestForgedLengthsAllocateNothing(t *testing.T) {
	for _, n := range []uint64{9, 1 << 32, math.MaxInt64, math.MaxUint64} {
		var w canon.Writer
		w.Uint(n)
		w.Uint(0)
		text, texts := true, true
		require.Zero(t, testing.AllocsPerRun(10, func() {
			r := canon.NewReader(w.Encoded())
			r.Text()
			text = r.OK()
			r = canon.NewReader(w.Encoded())
			r.Texts()
			texts = r.OK()
		}), "length %d", n)
		require.False(t, text || texts, "length %d was read", n)
	}
}

// Each time that can be read has only one encoding.
func TestTimesHaveOneSpelling(t *testing.T) {
	for name, micros := range map[string]int64{
		"the zero time by its number":   time.Time{}.UnixMicro(),
		"before the year 1":             time.Time{}.UnixMicro() - 1,
		"after the year 9999":           time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(),
		"the last number that there is": math.MaxInt64,
	} {
		var w canon.Writer
		w.Uint(uint64(micros))
		r := canon.NewReader(w.Encoded())
		require.True(t, r.Time().IsZero(), name)
		require.False(t, r.OK(), name)
	}
	for _, at := range []time.Time{time.UnixMicro(-1).UTC(), time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)} {
		var w canon.Writer
		w.Time(at)
		r := canon.NewReader(w.Encoded())
		require.Equal(t, at, r.Time())
		require.True(t, r.Complete())
	}
}
