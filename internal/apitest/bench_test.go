package apitest

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
// first-level cache, and in another than that in which they became warm: then what
// is asked next does not lie where the processor looks ahead.
const fleetSize = 10_000

// fleet is a program with fleetSize warm keys, each with everything a key can
// be restricted by.
type fleet struct {
	store    *memstore.Store
	verifier *apikey.Verifier
	settings apikey.Settings
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
	f.settings = apikey.Settings{Store: f.store, Prefix: prefix, Catalog: catalog, Hashers: []apikey.Hasher{hasher}, Standing: inGoodStanding{}}
	f.config = apikey.VerifierConfig{Mode: apikey.Live, Sync: -1, MaxStale: time.Hour, MaxAge: time.Hour} // of the verification alone
	if peppered {
		f.settings.Peppers = []apikey.Pepper{p}
	}
	manager, err := apikey.NewManager(background, f.settings, apikey.ManagerConfig{})
	require.NoError(b, err)
	for i := range fleetSize {
		issued, err := manager.Issue(apikey.WithActor(background, apikey.Actor{ID: "usr_1", Account: fmt.Sprint("acc_", i/40), Role: "admin"}), apikey.IssueRequest{
			Mode: apikey.Live, Name: "Website", Abilities: []string{"payment:checkout", "payment:refund", "balance=read"},
			Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, ExpiresAt: time.Now().Add(24 * time.Hour),
		})
		require.NoError(b, err)
		f.tokens = append(f.tokens, issued.Token.Reveal())
	}
	f.verifier = f.warmed(b, f.tokens)
	shuffle(f.tokens)
	return f
}

// warmed is a Verifier to which these tokens are warm.
func (f *fleet) warmed(b *testing.B, tokens []string) *apikey.Verifier {
	v, err := apikey.NewVerifier(background, f.settings, f.config)
	require.NoError(b, err)
	for _, token := range tokens {
		_, err := v.Verify(background, token, f.request)
		require.NoError(b, err)
	}
	return v
}

// inGoodStanding is asked at every verification.
type inGoodStanding struct{}

func (inGoodStanding) Allowed(string, apikey.Mode) error { return nil }

func shuffle(tokens []string) {
	rand.Shuffle(len(tokens), func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
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

// BenchmarkRatios measures the floor and the others in turns and reports the median
// of their quotients: on a machine that others use too, the one figure that means
// something. In the names that end in -near the token's text was read just before,
// as a header's has been. ns/op is that of a whole round.
func BenchmarkRatios(b *testing.B) {
	for _, n := range []int{1_000, fleetSize} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { ratios(b, n) })
	}
}

func ratios(b *testing.B, n int) {
	f, plain := fleetOf(b, true).of(b, n), fleetOf(b, false).of(b, n)
	checksum, tag, secret := f.forgeries()
	runs := []struct {
		name, over string
		near       bool
		tokens     []string
		op         func(token string) bool
	}{
		{"floor", "", false, f.tokens, floorOf(f.tokens)},
		{"floor-near", "", true, f.tokens, floorOf(f.tokens)},
		{"floor-no-pepper", "", false, plain.tokens, floorOf(plain.tokens)},
		{"warm", "floor", false, f.tokens, f.accepted},
		{"warm-near", "floor-near", true, f.tokens, f.accepted},
		{"warm-no-pepper", "floor-no-pepper", false, plain.tokens, plain.accepted},
		{"checksum", "floor", false, checksum, f.refused},
		{"tag", "floor", false, tag, f.refused},
		{"secret", "floor", false, secret, f.refused},
	}
	took := map[string][]float64{}
	for b.Loop() {
		for _, run := range runs {
			took[run.name] = append(took[run.name], nanoseconds(b, run.tokens, run.near, run.op))
		}
	}
	for _, run := range runs {
		if run.over == "" {
			b.ReportMetric(median(slices.Clone(took[run.name])), run.name+"-ns")
			continue
		}
		quotients := took[run.name]
		for i := range quotients {
			quotients[i] /= took[run.over][i]
		}
		b.ReportMetric(median(quotients), run.name+"/floor")
	}
}

// of is a fleet of the first n tokens.
func (f *fleet) of(b *testing.B, n int) *fleet {
	few := *f
	few.tokens = slices.Clone(f.tokens[:n])
	few.verifier = few.warmed(b, few.tokens)
	shuffle(few.tokens)
	return &few
}

func floorOf(tokens []string) func(string) bool {
	f := newFloor(tokens)
	return func(token string) bool { return !f.verify(token).IsZero() }
}

func (f *fleet) accepted(token string) bool {
	_, err := f.verifier.Verify(background, token, f.request)
	return err == nil
}

func (f *fleet) refused(token string) bool {
	_, err := f.verifier.Verify(background, token, f.request)
	return err == apikey.ErrInvalidToken
}

// nanoseconds is what a call takes, over 10,000 calls. As many are made before, so
// that what another run left in the processor's caches is nobody's merit.
func nanoseconds(b *testing.B, tokens []string, near bool, op func(string) bool) float64 {
	var took time.Duration
	for pass := range 2 {
		for range fleetSize / len(tokens) {
			for few := range slices.Chunk(tokens, 50) {
				if near {
					readAll(few)
				}
				start := time.Now()
				for _, token := range few {
					if !op(token) {
						b.Fatal("an unexpected answer")
					}
				}
				took += time.Since(start) * time.Duration(pass)
			}
		}
	}
	return float64(took.Nanoseconds()) / fleetSize
}

// readAll has the processor's first cache hold a few texts.
func readAll(texts []string) {
	for _, text := range texts {
		for i := range len(text) {
			lastRead ^= text[i]
		}
	}
}

var lastRead byte

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
			settings := apikey.Settings{Store: store, Prefix: prefix, Catalog: catalog, Hashers: []apikey.Hasher{c.hasher}, Peppers: c.peppers}
			m, err := apikey.NewManager(background, settings, apikey.ManagerConfig{})
			require.NoError(b, err)
			issued, err := m.Issue(apikey.WithActor(background, admin), apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:checkout", "payment:refund", "balance=read"}})
			require.NoError(b, err)
			v, err := apikey.NewVerifier(background, settings, apikey.VerifierConfig{
				Mode: apikey.Live, MaxEntries: -1, ReadOnly: true, Sync: -1, MaxStale: time.Hour,
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
