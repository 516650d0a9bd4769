package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rounds is how often everything is measured, in turns.
const rounds = 5

// contender is one way to verify. op is called with 0, 1, 2 and so on.
type contender struct {
	name string
	n    int // calls a batch
	op   func(i int) error
}

// inTurns measures contenders one after the other, again and again, and returns
// nanoseconds a call: a slice of rounds for each. Each batch runs twice and
// counts once, so that what the one before left in the processor's caches is
// nobody's merit.
func inTurns(turns int, all ...contender) [][]float64 { return inTurnsNear(nil, turns, all...) }

// inTurnsNear is inTurns with texts that are read just before the calls that verify
// them, as a header's text has been.
func inTurnsNear(texts []string, turns int, all ...contender) [][]float64 {
	took := make([][]float64, len(all))
	for range turns {
		for c, x := range all {
			runtime.GC() // what the one before left is nobody's burden
			x.batch(texts)
			took[c] = append(took[c], float64(x.batch(texts).Nanoseconds())/float64(x.n))
		}
	}
	return took
}

// few are as many texts as the processor's first cache holds with room to spare.
const few = 50

func (x contender) batch(near []string) (took time.Duration) {
	var read byte
	for lo := 0; lo < x.n; lo += few {
		hi := min(lo+few, x.n)
		if near != nil {
			for _, text := range near[lo:hi] {
				for i := range len(text) {
					read ^= text[i]
				}
			}
		}
		start := time.Now()
		for i := lo; i < hi; i++ {
			if err := x.op(i); err != nil {
				check(fmt.Errorf("%s: %w", x.name, err))
			}
		}
		took += time.Since(start)
	}
	runtime.KeepAlive(read)
	return took
}

// over divides round by round.
func over(a, b []float64) (q []float64) {
	for i := range a {
		q = append(q, a[i]/b[i])
	}
	return q
}

func minus(a, b []float64) (d []float64) {
	for i := range a {
		d = append(d, a[i]-b[i])
	}
	return d
}

func scale(a []float64, by float64) (s []float64) {
	for _, v := range a {
		s = append(s, v*by)
	}
	return s
}

// floor runs the benchmarks of internal/apitest, where the floor is written,
// in turns.
func (r *report) floor() {
	dir, err := os.MkdirTemp("", "bench")
	check(err)
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "api.test")
	build := exec.Command("go", "test", "-c", "-o", binary, "github.com/go-apikey/apikey/internal/apitest")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		check(fmt.Errorf("%w: %s", err, out))
	}
	values := map[string][]float64{}
	for range rounds {
		benchmark(binary, values, "Floor$|Verify|Ratios", "300ms")
	}
	ratios := func(unit string) []float64 { return values["BenchmarkRatios/10000-2 "+unit] }
	for _, size := range []struct {
		n            string
		want, secret float64
	}{{"1000", 1.3, 1}, {"10000", 1.6, 1.25}} {
		at := func(unit string) []float64 { return values["BenchmarkRatios/"+size.n+"-2 "+unit] }
		r.add("warm, every check on, with a pepper ÷ floor, at "+size.n+" keys", "×", size.want, at("warm/floor"))
		r.add("the same with the token's text near, at "+size.n+" keys", "×", size.want, at("warm-near/floor"))
		r.add("warm without a pepper ÷ floor, at "+size.n+" keys", "×", size.want, at("warm-no-pepper/floor"))
		r.add("wrong secret of a warm ID ÷ floor, at "+size.n+" keys", "×", size.secret, at("secret/floor"))
	}
	r.add("bad checksum ÷ floor", "×", 0.4, ratios("checksum/floor"))
	r.add("bad tag ÷ floor", "×", 1.2, ratios("tag/floor"))
	// Wall time an operation on 2 processors is half of CPU time an operation.
	warm := over(values["BenchmarkVerifyWarm/pepper-2 ns/op"], values["BenchmarkVerifyWarm/pepper ns/op"])
	floor := over(values["BenchmarkFloor-2 ns/op"], values["BenchmarkFloor ns/op"])
	r.add("(warm at 2 processors ÷ at 1) ÷ (floor at 2 ÷ at 1)", "×", 1.1, over(warm, floor))
	for _, name := range []string{
		"Floor", "VerifyWarm/pepper", "VerifyForged/checksum", "VerifyForged/tag", "VerifyWrongSecret/pepper",
		"VerifyUnknown/repeated", "VerifyUnknown/distinct", "VerifyCold/argon2", "VerifyCold/proof", "VerifyCold/hmac",
	} {
		r.add("Benchmark"+name, "ns", 0, values["Benchmark"+name+" ns/op"])
	}
	for _, name := range []string{"VerifyWarm/pepper", "VerifyForged/checksum", "VerifyForged/tag", "VerifyWrongSecret/pepper", "VerifyUnknown/distinct"} {
		worst := 0.0
		for _, v := range values["Benchmark"+name+" allocs/op"] {
			worst = max(worst, v)
		}
		r.note("Benchmark%s: at most %.0f allocations an operation.", name, worst)
	}
}

// benchmark runs benchmarks and collects their metrics as "name unit".
// Those of 2 processors have names that end in -2.
func benchmark(binary string, values map[string][]float64, pattern, benchtime string) {
	out, err := exec.Command(binary, "-test.run", "^$", "-test.bench", pattern, "-test.benchtime", benchtime, "-test.cpu", "1,2").CombinedOutput()
	if err != nil {
		check(fmt.Errorf("%w: %s", err, out))
	}
	for line := range bytes.Lines(out) {
		fields := strings.Fields(string(line))
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := fields[0]
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			check(err)
			values[name+" "+fields[i+1]] = append(values[name+" "+fields[i+1]], v)
		}
	}
}

// liveHeap is what is reachable.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[len(s)/2]
}
