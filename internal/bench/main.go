// Command bench measures the verification of keys beside its floor and beside
// what programs use instead, in one run, and prints a table:
//
//	go run . -md ../../docs/figures.md -json ../../docs/figures.json -plots ../../docs
//
// A figure that counts is a quotient of two things measured in turns, with the
// median of at least five rounds and the least and the greatest of them: on a
// machine that others use too, nothing else can be repeated.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	md := flag.String("md", "", "write the table in markdown to this file too")
	js := flag.String("json", "", "write the table in JSON to this file")
	plots := flag.String("plots", "", "write SVG plots into this folder")
	largest := flag.Int("largest", 1_000_000, "the largest number of keys for growth")
	serve := flag.String("serve", "", "be the server for the load generator: noop or guard")
	flag.Parse()
	if *serve != "" {
		check(serveHTTP(*serve))
		return
	}
	start := time.Now()
	r := &report{Machine: machine(), Go: runtime.Version(), Date: start.UTC().Format(time.DateOnly)}
	r.floor()
	r.peers()
	r.middleware()
	r.load()
	r.growth(*largest, *plots)
	r.Took = time.Since(start).Round(time.Second).String()
	r.write(os.Stdout)
	if *md != "" {
		var b strings.Builder
		r.write(&b)
		check(os.WriteFile(*md, []byte(b.String()), 0o644))
	}
	if *js != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		check(err)
		check(os.WriteFile(*js, append(data, '\n'), 0o644))
	}
}

// report is the table.
type report struct {
	Machine, Go, Date, Took string
	Rows                    []row
	Notes                   []string `json:",omitempty"`
}

// row is one figure: the median of its rounds, and their spread.
type row struct {
	Name             string
	Median, Min, Max float64
	Unit             string  // "×" for quotients
	Want             float64 `json:",omitempty"` // at most; negative: at least
	Rounds           int
}

// add appends the median of the rounds. want is what it should be at most, or
// at least if it is negative; 0: it is only told.
func (r *report) add(name, unit string, want float64, rounds []float64) float64 {
	s := slices.Sorted(slices.Values(rounds))
	if len(s) == 0 {
		log.Fatalf("%s was not measured", name)
	}
	w := row{Name: name, Median: s[len(s)/2], Min: s[0], Max: s[len(s)-1], Unit: unit, Want: want, Rounds: len(s)}
	r.Rows = append(r.Rows, w)
	log.Printf("%-60s %s %s", name, number(w.Median), unit)
	return w.Median
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
	log.Printf(format, args...)
}

// met says whether a figure is what it should be.
func (w row) met() string {
	switch {
	case w.Want == 0:
		return ""
	case w.Want > 0 && w.Median <= w.Want, w.Want < 0 && w.Median >= -w.Want:
		return "yes"
	}
	return "**no**"
}

// write prints markdown, quotients first.
func (r *report) write(w io.Writer) {
	fmt.Fprintf(w, "%s, %s, %s; measured in %s.\n\n", r.Machine, r.Go, r.Date, r.Took)
	fmt.Fprintln(w, "| figure | median | least – greatest | rounds | wanted | met |\n| --- | ---: | ---: | ---: | ---: | --- |")
	for _, quotients := range []bool{true, false} {
		for _, row := range r.Rows {
			if (row.Unit == "×") != quotients {
				continue
			}
			want := ""
			switch {
			case row.Want > 0:
				want = "≤ " + number(row.Want)
			case row.Want < 0:
				want = "≥ " + number(-row.Want)
			}
			fmt.Fprintf(w, "| %s | %s %s | %s – %s | %d | %s | %s |\n", row.Name, number(row.Median), row.Unit, number(row.Min), number(row.Max), row.Rounds, want, row.met())
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "\n%s\n", n)
	}
}

func number(v float64) string {
	switch {
	case v != 0 && v < 0.1 && v > -0.1:
		return fmt.Sprintf("%.4f", v)
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// machine names the processor and how many of it this process may use.
func machine() string {
	name := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
			name, _, _ = strings.Cut(rest, "\n")
		}
	}
	return fmt.Sprintf("%s, %d processors", name, runtime.GOMAXPROCS(0))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
