package table_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey/internal/table"
)

type value struct {
	hash uint64
	n    int
}

func newTable() *table.Table[value] { return table.New(func(v *value) uint64 { return v.hash }) }

// find returns the value n of a hash, if the table has it.
func find(t *table.Table[value], hash uint64, n int) *value {
	s := t.Search(hash)
	for v := s.Next(); v != nil; v = s.Next() {
		if v.n == n {
			return v
		}
	}
	return nil
}

func TestEmptyTable(t *testing.T) {
	empty := newTable()
	require.Zero(t, empty.Len())
	for _, hash := range []uint64{0, 1, 1 << 56, ^uint64(0)} {
		require.Nil(t, find(empty, hash, 0))
	}
}

// Some hashes are hard for a table: all equal; equal groups; equal tags; two neighbouring
// tags, which a borrow in look can mix up; and the tags 0 and 1, for which tagByte
// returns the same byte.
func TestHashesThatCollide(t *testing.T) {
	for name, hash := range map[string]func(i int) uint64{
		"one hash":            func(int) uint64 { return 7 },
		"one group":           func(i int) uint64 { return uint64(i) << 56 },
		"one tag":             func(i int) uint64 { return uint64(i) },
		"zero and one":        func(i int) uint64 { return uint64(i%2)<<56 | uint64(i/2) },
		"neighbours of a tag": func(i int) uint64 { return uint64(0x80+i%2)<<56 | uint64(i/2) },
		"the last group":      func(i int) uint64 { return ^uint64(0) - uint64(i)<<56 },
		"random":              func(i int) uint64 { return rand.New(rand.NewPCG(1, uint64(i))).Uint64() },
	} {
		t.Run(name, func(t *testing.T) {
			tab := newTable()
			const n = 1000
			for i := range n {
				tab.Add(&value{hash(i), i})
				require.Equal(t, i+1, tab.Len())
			}
			for i := range n {
				require.NotNil(t, find(tab, hash(i), i), i)
				require.Nil(t, find(tab, hash(i), n+i), "a value that is not there")
			}
			for i := 0; i < n; i += 2 {
				tab.Remove(find(tab, hash(i), i))
			}
			for i := 1; i < n; i += 4 {
				tab.Replace(find(tab, hash(i), i), &value{hash(i), -i})
			}
			require.Equal(t, n/2, tab.Len())
			for i := range n {
				here, replaced := i%2 == 1 && i%4 != 1, i%4 == 1
				require.Equal(t, here, find(tab, hash(i), i) != nil, i)
				require.Equal(t, replaced, find(tab, hash(i), -i) != nil, i)
			}
		})
	}
}

// The table is compared with a map, through many rebuilds: a removed value never comes
// back, and a value that the table has is always found.
func TestAgainstAMap(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		tab, model := newTable(), map[int]*value{}
		for step := range 20_000 {
			n := r.IntN(500)
			hash := uint64(n%50) * 0x9E3779B97F4A7C15 // ten values share each hash
			switch v := find(tab, hash, n); {
			case (v == nil) != (model[n] == nil) || v != model[n]:
				t.Fatalf("seed %d, step %d: value %d is %v, want %v", seed, step, n, v, model[n])
			case v == nil:
				v = &value{hash, n}
				tab.Add(v)
				model[n] = v
			case r.IntN(3) == 0:
				w := &value{hash, n}
				tab.Replace(v, w)
				model[n] = w
			default:
				tab.Remove(v)
				delete(model, n)
			}
			require.Equal(t, len(model), tab.Len())
		}
	}
}

// Readers hold no lock. A reader finds each value that nobody removes, even while other
// values are added and removed, and the slots are rebuilt. The race detector checks the
// accesses.
func TestReadersBesideAWriter(t *testing.T) {
	tab := newTable()
	const kept = 100
	hash := func(n int) uint64 { return uint64(n) * 0x9E3779B97F4A7C15 }
	for n := range kept {
		tab.Add(&value{hash(n), n})
	}
	stop, missed := make(chan struct{}), make(chan string, 4)
	var readers sync.WaitGroup
	for r := range 4 {
		readers.Go(func() {
			for n := r; ; n = (n + 1) % kept {
				if find(tab, hash(n), n) == nil {
					missed <- fmt.Sprint(n)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for round := range 20 { // the table grows to 2,000 values and shrinks, and is rebuilt both times
		var all []*value
		for n := range 2_000 {
			v := &value{hash(kept + n), kept + n + round}
			tab.Add(v)
			all = append(all, v)
		}
		for _, v := range all {
			tab.Remove(v)
		}
	}
	close(stop)
	readers.Wait()
	close(missed)
	for n := range missed {
		t.Errorf("value %s was not found", n)
	}
}
