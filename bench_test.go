package apikey_test

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// What a verification costs, beside the least that any verification costs. The
// figures that count are the ratios of one run: internal/bench runs these
// benchmarks in turns and prints them.

// fleetSize keys are asked in random order, so that no benchmark lives in the
// first-level cache.
const fleetSize = 10_000

// fleet is a program with fleetSize warm keys, each with everything a key can
// be restricted by.
type fleet struct {
	store    *memstore.Store
	verifier *apikey.Verifier
	config   apikey.VerifierConfig
	tokens   []string // in the order in which they are asked
	request  apikey.Request
}

var fleets sync.Map // of func() *fleet, by whether there is a pepper

// fleetOf makes a fleet once for all benchmarks of a run.
func fleetOf(b *testing.B, peppered bool) *fleet {
	b.Helper()
	once, _ := fleets.LoadOrStore(peppered, sync.OnceValue(func() *fleet { return newFleet(b, peppered) }))
	return once.(func() *fleet)()
}

func newFleet(b *testing.B, peppered bool) *fleet {
	f := &fleet{
		store: memstore.New(),
		request: apikey.Request{
			Addr:    netip.MustParseAddr("203.0.113.77"),
			Require: []apikey.Ability{apikey.Scope("payment:refund")},
		},
	}
	p, err := apikey.NewPepper(1, [32]byte{1})
	require.NoError(b, err)
	hasher, err := apikey.NewHMACSHA256(p)
	require.NoError(b, err)
	mc := apikey.ManagerConfig{Store: f.store, Prefix: prefix, Catalog: catalog, Hasher: hasher}
	f.config = apikey.VerifierConfig{
		Store: f.store, Prefix: prefix, Mode: apikey.Live, Hashers: []apikey.Hasher{hasher},
		Standing: inGoodStanding{}, Sync: -1, MaxStale: time.Hour, MaxAge: time.Hour, // of the verification alone
	}
	if peppered {
		mc.Peppers = []apikey.Pepper{p}
		f.config.Peppers = mc.Peppers
	}
	manager, err := apikey.NewManager(background, mc)
	require.NoError(b, err)
	f.verifier, err = apikey.NewVerifier(background, f.config)
	require.NoError(b, err)
	for i := range fleetSize {
		issued, err := manager.Issue(apikey.WithActor(background, apikey.Actor{ID: "usr_1", Account: fmt.Sprint("acc_", i/40), Role: "admin"}), apikey.IssueRequest{
			Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:checkout", "payment:refund", "balance=read"},
			Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, ExpiresAt: time.Now().Add(24 * time.Hour),
		})
		require.NoError(b, err)
		f.tokens = append(f.tokens, issued.Token.Reveal())
	}
	shuffle(f.tokens)
	for _, token := range f.tokens {
		_, err := f.verifier.Verify(background, token, f.request)
		require.NoError(b, err)
	}
	return f
}

// inGoodStanding is asked at every verification.
type inGoodStanding struct{}

func (inGoodStanding) Allowed(string, apikey.Mode) error { return nil }

func shuffle(tokens []string) {
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(tokens), func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
}

// BenchmarkFloor is what no verification can do without: look at length and
// prefix, decode the ID by a table, check the CRC-32, hash the token, find the
// ID in a map, compare 32 bytes in constant time, and ask for the time. It
// checks neither account, mode, expiry, state, address nor ability, and nothing
// can be changed or evicted beside it.
func BenchmarkFloor(b *testing.B) {
	f := fleetOf(b, true)
	floor := newFloor(f.tokens)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(fleetSize); pb.Next(); i++ {
			if at := floor.verify(f.tokens[i%fleetSize]); at.IsZero() {
				b.Error("the floor refused a good token")
			}
		}
	})
}

// floor is the map behind BenchmarkFloor.
type floor map[[16]byte][32]byte

func newFloor(tokens []string) floor {
	f := floor{}
	for _, t := range tokens {
		id, _ := decodeID(t[len("acme_sk_live_"):][:22])
		f[id] = sha256.Sum256([]byte(t))
	}
	return f
}

func (f floor) verify(token string) time.Time {
	const head = "acme_sk_live_"
	if len(token) != len(head)+73 || !strings.HasPrefix(token, head) {
		return time.Time{}
	}
	text := unsafe.Slice(unsafe.StringData(token), len(token))
	id, ok := decodeID(token[len(head):][:22])
	sum, okSum := decodeDigits(token[len(token)-6:])
	if !ok || !okSum || uint64(crc32.ChecksumIEEE(text[:len(text)-6])) != sum {
		return time.Time{}
	}
	want, ok := f[id]
	digest := sha256.Sum256(text)
	if !ok || subtle.ConstantTimeCompare(want[:], digest[:]) != 1 {
		return time.Time{}
	}
	return time.Now()
}

var digitValues = func() (t [256]uint8) {
	for i := range t {
		t[i] = 0xFF
	}
	for i, c := range "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" {
		t[c] = uint8(i)
	}
	return t
}()

// decodeDigits reads up to ten base62 digits, which fit 64 bits.
func decodeDigits(s string) (v uint64, ok bool) {
	var bad uint8
	for i := range len(s) {
		d := digitValues[s[i]]
		bad |= d
		v = v*62 + uint64(d)
	}
	return v, bad < 0x80
}

func decodeID(s string) (id [16]byte, ok bool) {
	const base = 839299365868340224 // 62^10
	high, ok1 := decodeDigits(s[:2])
	mid, ok2 := decodeDigits(s[2:12])
	low, ok3 := decodeDigits(s[12:])
	hi, lo := bits.Mul64(high, base)
	lo, carry := bits.Add64(lo, mid, 0)
	hi += carry
	over, hi2 := bits.Mul64(hi, base)
	top, lo2 := bits.Mul64(lo, base)
	lo2, carry = bits.Add64(lo2, low, 0)
	hi2, carry = bits.Add64(hi2, top, carry)
	binary.BigEndian.PutUint64(id[:8], hi2)
	binary.BigEndian.PutUint64(id[8:], lo2)
	return id, ok1 && ok2 && ok3 && over+carry == 0
}

// BenchmarkVerifyWarm is a verification with every check on: kind, mode,
// expiry, standing, an address in a network, an ability, and last used.
func BenchmarkVerifyWarm(b *testing.B) {
	for _, peppered := range []bool{true, false} {
		b.Run(pepperName(peppered), func(b *testing.B) {
			f := fleetOf(b, peppered)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.IntN(fleetSize); pb.Next(); i++ {
					if _, err := f.verifier.Verify(background, f.tokens[i%fleetSize], f.request); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func pepperName(peppered bool) string {
	if peppered {
		return "pepper"
	}
	return "no-pepper"
}

// forgeries of every token of a fleet: with a checksum that is wrong; with one
// that anybody can compute, under a tag that only the pepper can make; and with
// another secret for an ID that is warm, which are public.
func (f *fleet) forgeries() (checksum, tag, secret []string) {
	for _, t := range f.tokens {
		checksum = append(checksum, otherLast(t))
		tag = append(tag, recrc(spliceID(spliceSecret(t))))
		secret = append(secret, recrc(spliceSecret(t)))
	}
	return checksum, tag, secret
}

// BenchmarkVerifyForged presents 10,000 distinct forgeries of IDs that nobody
// has.
func BenchmarkVerifyForged(b *testing.B) {
	f := fleetOf(b, true)
	checksum, tag, _ := f.forgeries()
	b.Run("checksum", func(b *testing.B) { refusals(b, f, checksum) })
	b.Run("tag", func(b *testing.B) { refusals(b, f, tag) })
}

// BenchmarkVerifyWrongSecret guesses at secrets of warm keys.
func BenchmarkVerifyWrongSecret(b *testing.B) {
	for _, peppered := range []bool{true, false} {
		b.Run(pepperName(peppered), func(b *testing.B) {
			f := fleetOf(b, peppered)
			_, _, wrong := f.forgeries()
			refusals(b, f, wrong)
		})
	}
}

// BenchmarkVerifyUnknown presents well-formed tokens of IDs that the store does
// not have, in a program without peppers: a read of the store, at most every
// two seconds for each.
func BenchmarkVerifyUnknown(b *testing.B) {
	f := fleetOf(b, false)
	unknown := make([]string, fleetSize)
	for i, t := range f.tokens {
		unknown[i] = recrc(spliceID(t))
	}
	b.Run("distinct", func(b *testing.B) { refusals(b, f, unknown) })
	b.Run("repeated", func(b *testing.B) { refusals(b, f, unknown[:1]) })
}

func refusals(b *testing.B, f *fleet, tokens []string) {
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := f.verifier.Verify(background, tokens[i%len(tokens)], f.request); err != apikey.ErrInvalidToken {
			b.Fatal(err)
		}
		i++
	}
}

// otherLast changes the last character into another digit.
func otherLast(t string) string {
	c := byte('0')
	if t[len(t)-1] == c {
		c = '1'
	}
	return t[:len(t)-1] + string(c)
}

// BenchmarkRatios measures the floor and the others in turns, 2 ms each, and
// reports the median of their quotients: on a machine that others use too, the
// one figure that means something. ns/op is that of a whole round.
func BenchmarkRatios(b *testing.B) {
	f, plain := fleetOf(b, true), fleetOf(b, false)
	floor, plainFloor := newFloor(f.tokens), newFloor(plain.tokens)
	checksum, tag, secret := f.forgeries()
	accepted := func(f *fleet) func(int) bool {
		return func(i int) bool {
			_, err := f.verifier.Verify(background, f.tokens[i], f.request)
			return err == nil
		}
	}
	refused := func(tokens []string) func(int) bool {
		return func(i int) bool {
			_, err := f.verifier.Verify(background, tokens[i], f.request)
			return err == apikey.ErrInvalidToken
		}
	}
	runs := []struct {
		name string
		op   func(i int) bool
	}{
		{"floor", func(i int) bool { return !floor.verify(f.tokens[i]).IsZero() }},
		{"floor-of-the-others", func(i int) bool { return !plainFloor.verify(plain.tokens[i]).IsZero() }},
		{"warm", accepted(f)}, {"warm-no-pepper", accepted(plain)},
		{"checksum", refused(checksum)}, {"tag", refused(tag)}, {"secret", refused(secret)},
	}
	took := make([][]float64, len(runs))
	for b.Loop() {
		for r, run := range runs {
			start := time.Now()
			for i := range 2 * fleetSize {
				if i == fleetSize { // what the one before left in the processor's caches is nobody's merit
					start = time.Now()
				}
				if !run.op(i % fleetSize) {
					b.Fatal(run.name)
				}
			}
			took[r] = append(took[r], float64(time.Since(start).Nanoseconds())/fleetSize)
		}
	}
	b.ReportMetric(median(took[0]), "floor-ns")
	for r, run := range runs[1:] {
		quotients := took[r+1]
		for i := range quotients {
			quotients[i] /= took[0][i]
		}
		b.ReportMetric(median(quotients), run.name+"/floor")
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkVerifyCold is a first verification, of a Verifier without a cache:
// argon2 where there is no pepper, one HMAC where there is, and one of each
// kind where the Hasher is HMACSHA256 and the record has no check yet. The
// store is memory, so that this is the library's part.
func BenchmarkVerifyCold(b *testing.B) {
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{})
	require.NoError(b, err)
	p, err := apikey.NewPepper(1, [32]byte{1})
	require.NoError(b, err)
	quick, err := apikey.NewHMACSHA256(p)
	require.NoError(b, err)
	for _, c := range []struct {
		name    string
		hasher  apikey.Hasher
		peppers []apikey.Pepper
	}{
		{"argon2", argon, nil},
		{"proof", argon, []apikey.Pepper{p}},
		{"hmac", quick, nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			store := memstore.New()
			m, err := apikey.NewManager(background, apikey.ManagerConfig{Store: store, Prefix: prefix, Catalog: catalog, Hasher: c.hasher, Peppers: c.peppers})
			require.NoError(b, err)
			issued, err := m.Issue(apikey.WithActor(background, admin), apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:checkout", "payment:refund", "balance=read"}})
			require.NoError(b, err)
			v, err := apikey.NewVerifier(background, apikey.VerifierConfig{
				Store: store, Prefix: prefix, Mode: apikey.Live, Hashers: []apikey.Hasher{c.hasher}, Peppers: c.peppers,
				MaxEntries: -1, ReadOnly: true, Sync: -1, MaxStale: time.Hour,
			})
			require.NoError(b, err)
			defer v.Close(context.Background())
			token := issued.Token.Reveal()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(background, token, apikey.Request{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWarmHeap is not about time: it reports the heap that a warm key
// takes, with three abilities and no metadata.
func BenchmarkWarmHeap(b *testing.B) {
	f := fleetOf(b, true)
	v, err := apikey.NewVerifier(background, f.config)
	require.NoError(b, err)
	defer v.Close(background)
	before := liveHeap()
	for _, t := range f.tokens {
		_, err := v.Verify(background, t, f.request)
		require.NoError(b, err)
	}
	grown := liveHeap() - before
	runtime.KeepAlive(v)
	for b.Loop() {
	}
	b.ReportMetric(float64(grown)/fleetSize, "B/key")
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
