package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"fmt"
	"image/color"
	"math"
	"math/rand/v2"
	"path/filepath"
	"runtime/debug"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// growth measures what becomes of the figures as keys become more: warm and
// heap by cached keys, cold by rows of SQLite in memory.
func (r *report) growth(largest int, plots string) {
	var warm, bare, heap, cold, raw points
	for n := 1_000; n <= largest; n = next(n, largest) {
		ours, least, bytes := r.warmAt(n)
		warm.add(n, ours)
		bare.add(n, least)
		heap.add(n, bytes)
	}
	for n := 1_000; n <= largest; n = next(n, largest) {
		ours, selected := r.coldAt(n)
		cold.add(n, ours)
		raw.add(n, selected)
	}
	r.add("exponent of warm by cached keys", "", 0, []float64{warm.exponent()})
	r.add("exponent of the floor by keys", "", 0, []float64{bare.exponent()})
	r.add("exponent of heap a key by cached keys", "", 0, []float64{heap.exponent()})
	r.add("exponent of cold with a pepper by rows of SQLite", "", 0.2, []float64{cold.exponent()})
	r.add("exponent of the hand-written SELECT by rows of SQLite", "", 0, []float64{raw.exponent()})
	if plots != "" {
		check(draw(filepath.Join(plots, "warm.svg"), "A warm verification, by cached keys", "ns", warm, bare, "verification", "floor"))
		check(draw(filepath.Join(plots, "cold.svg"), "A cold verification with a pepper, by rows of SQLite", "ns", cold, raw, "verification", "SELECT of the same columns"))
	}
}

// next is 10³, 10⁴, 10⁵ and so on, and last of all the largest.
func next(n, largest int) int {
	if n < largest {
		return min(10*n, largest)
	}
	return largest + 1
}

// warmAt measures n cached keys, and the same tokens in the same order on the
// floor: in another order than that in which they became warm.
func (r *report) warmAt(n int) (ours, least, bytes float64) {
	p, err := newProgram(million{memstore.New()}, plain{}, false, quiet, func(c *apikey.VerifierConfig) {
		c.MaxEntries, c.MaxBytes, c.ReadOnly = n+1, 8<<30, false
	})
	check(err)
	defer p.verifier.Close(background)
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = tokenOf(idOf(i))
	}
	before := liveHeap()
	for _, t := range tokens {
		_, err := p.verifier.Verify(background, t, request)
		check(err)
	}
	bytes = float64(liveHeap()-before) / float64(n)
	f := newFloor(tokens)
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
	batch := min(n, 200_000)
	verify := func(i int) error {
		_, err := p.verifier.Verify(background, tokens[i], request)
		return err
	}
	bare := func(i int) error {
		if f.verify(tokens[i]).IsZero() {
			return errRefused
		}
		return nil
	}
	both := []contender{{"warm", batch, verify}, {"floor", batch, bare}}
	took, near := inTurns(rounds, both...), inTurnsNear(tokens, rounds, both...)
	want := map[int]float64{1_000: 1.3, 10_000: 1.6, 1_000_000: 1.6}[n]
	r.add(fmt.Sprintf("warm at %d cached keys", n), "ns", 0, took[0])
	r.add(fmt.Sprintf("warm ÷ floor at %d cached keys", n), "×", want, over(took[0], took[1]))
	r.add(fmt.Sprintf("warm ÷ floor at %d cached keys, the token's text near", n), "×", 0, over(near[0], near[1]))
	most := 1024.0
	if n >= 100_000 { // where it counts, and the table's least size does not
		most = 700
	}
	r.add(fmt.Sprintf("heap of a warm key at %d", n), "B", most, []float64{bytes})
	return median(took[0]), median(took[1]), bytes
}

// coldAt measures first verifications with a pepper on n rows of SQLite in
// memory, and a SELECT of the same columns with its proof.
func (r *report) coldAt(n int) (ours, selected float64) {
	debug.FreeOSMemory() // a million warm keys were here before
	store, db, err := openSQLite("")
	check(err)
	defer db.Close()
	p, err := newProgram(store, nil, true, quiet, func(c *apikey.VerifierConfig) { c.MaxEntries, c.ReadOnly = -1, true })
	check(err)
	defer p.verifier.Close(background)
	const probes = 500
	issued, err := p.issue(probes)
	check(err)
	check(fill(db, n-probes))
	tokens := texts(issued)
	ids := make([][]byte, probes)
	for i, t := range tokens {
		parsed, err := apikey.ParseToken(t)
		check(err)
		id := parsed.Credential()
		ids[i] = id[:]
	}
	stmt, err := db.Prepare(handWritten)
	check(err)
	defer stmt.Close()
	key := []byte("0123456789abcdef0123456789abcdef")
	took := inTurns(2*rounds,
		contender{"cold", probes, func(i int) error {
			_, err := p.verifier.Verify(ofARequest, tokens[i], request)
			return err
		}},
		contender{"select", probes, func(i int) error {
			if err := selectByHand(stmt, ids[i]); err != nil {
				return err
			}
			mac := hmac.New(sha256.New, key)
			mac.Write([]byte(tokens[i]))
			if subtle.ConstantTimeCompare(mac.Sum(nil), key) == 1 {
				return errRefused
			}
			return nil
		}},
	)
	r.add(fmt.Sprintf("cold with a pepper at %d rows of SQLite", n), "ns", 0, took[0])
	r.add(fmt.Sprintf("cold with a pepper ÷ SELECT and HMAC at %d rows", n), "×", 2, over(took[0], took[1]))
	return median(took[0]), median(took[1])
}

// handWritten selects what a verification needs, as a program without the
// library would write it: from a credential to its key and all credentials of
// that.
const handWritten = `SELECT k.id, k.account, k.name, k.mode, k.kind, k.version, k.head, k.needs, k.mac, k.abilities,
	k.networks, k.origins, k.metadata, k.disabled, k.revoke_reason, k.rotate_months, k.recovery, k.created_at,
	k.expires_at, k.revoked_at, k.rotate_due,
	c.id, c.not_before, c.not_after, c.ended, c.hint, c.public, c.pepper, c.last_used, c.hash, c.check_value, c.sealed, c.sealed_kek
	FROM apikey_credentials u JOIN apikey_keys k ON k.id = u.key_id JOIN apikey_credentials c ON c.key_id = k.id
	WHERE u.id = ? ORDER BY c.position`

func selectByHand(stmt *sql.Stmt, id []byte) error {
	rows, err := stmt.QueryContext(ofARequest, id)
	if err != nil {
		return err
	}
	defer rows.Close()
	found := 0
	var values [33]any
	var into [33]any
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into[:]...); err != nil {
			return err
		}
		found++
	}
	if found == 0 {
		return errRefused
	}
	return rows.Err()
}

// fill multiplies one key into n rows with IDs of their own, which nobody asks
// for.
func fill(db *sql.DB, n int) error {
	if n <= 0 {
		return nil
	}
	for _, table := range []string{"apikey_keys", "apikey_credentials"} {
		rows, err := db.Query("SELECT name FROM pragma_table_info('" + table + "')")
		if err != nil {
			return err
		}
		var names, values []string
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			names = append(names, name)
			// A counter, mixed: the same in both tables, and far apart in the index.
			const mixed = "unhex(printf('%08x%08x%016x', (i * 2654435761) & 0xffffffff, i, i))"
			switch {
			case name == "id", name == "key_id":
				values = append(values, mixed)
			case name == "feed":
				values = append(values, "1000000000 + i")
			default:
				values = append(values, "t."+name)
			}
		}
		rows.Close()
		_, err = db.Exec("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO "+table+
			" ("+strings.Join(names, ", ")+") SELECT "+strings.Join(values, ", ")+" FROM n, (SELECT * FROM "+table+" LIMIT 1) t", n)
		if err != nil {
			return err
		}
	}
	return nil
}

// points are figures by size.
type points plotter.XYs

func (p *points) add(n int, v float64) { *p = append(*p, plotter.XY{X: float64(n), Y: v}) }

// exponent is b in v = a·n^b, by least squares over the logarithms.
func (p points) exponent() float64 {
	var sx, sy, sxx, sxy float64
	for _, xy := range p {
		x, y := math.Log(xy.X), math.Log(xy.Y)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	n := float64(len(p))
	if n < 2 {
		return 0
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

// powers are ticks at powers of ten, with labels so short that the last one fits.
type powers struct{}

func (powers) Ticks(least, greatest float64) []plot.Tick {
	ticks := plot.LogTicks{Prec: -1}.Ticks(least, greatest)
	for i, t := range ticks {
		if !t.IsMinor() {
			ticks[i].Label = "10" + string([]rune("⁰¹²³⁴⁵⁶⁷⁸⁹")[int(math.Round(math.Log10(t.Value)))])
		}
	}
	return ticks
}

func draw(file, title, unit string, ours, other points, names ...string) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "keys", unit
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, powers{}
	p.Y.Min = 0
	p.Legend.Top, p.Legend.Left = true, true
	for i, xy := range []points{ours, other} {
		line, dots, err := plotter.NewLinePoints(plotter.XYs(xy))
		if err != nil {
			return err
		}
		line.Width = vg.Points(1.5)
		line.Color = []color.Color{color.RGBA{B: 180, A: 255}, color.Gray{120}}[i]
		p.Add(line, dots)
		p.Legend.Add(names[i], line)
	}
	p.X.Max *= 1.3 // room for half of the last label
	return p.Save(16*vg.Centimeter, 10*vg.Centimeter, file)
}
