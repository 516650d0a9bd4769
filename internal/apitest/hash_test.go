package apitest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

var theSecret = []byte("acme_sk_live_0fnhLPMkMgQqLbvDmOH4Wz0123456789ABCDEFGHIJKLMNOPQRSTUVW")

func argon(t testing.TB, c apikey.Argon2idConfig) *apikey.Argon2id {
	t.Helper()
	h, err := apikey.NewArgon2id(c)
	require.NoError(t, err)
	return h
}

// hashers are the cheapest of each sort.
func hashers(t *testing.T) map[string]apikey.Hasher {
	return map[string]apikey.Hasher{
		"argon2id":    argon(t, apikey.Argon2idConfig{Memory: 7168, Time: 1}),
		"hmac-sha256": hmacHasher(t, pepper(t, 7)),
	}
}

func TestArgonWritesItsParameters(t *testing.T) {
	const rest = `\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$`
	for _, c := range []struct {
		config apikey.Argon2idConfig
		form   string
	}{
		{apikey.Argon2idConfig{}, `^\$argon2id\$v=19\$m=19456,t=2,p=1` + rest},
		{apikey.Argon2idConfig{Memory: 7168, Time: 1}, `^\$argon2id\$v=19\$m=7168,t=1,p=1` + rest},
		{apikey.Argon2idConfig{Memory: 8000, Time: 3, Lanes: 4}, `^\$argon2id\$v=19\$m=8000,t=3,p=4` + rest},
	} {
		h := argon(t, c.config)
		encoded, err := h.Hash(t.Context(), theSecret)
		require.NoError(t, err)
		require.Regexp(t, regexp.MustCompile(c.form), encoded)
		ok, err := h.Verify(t.Context(), encoded, theSecret)
		require.NoError(t, err)
		require.True(t, ok)
	}
}

func TestHashers(t *testing.T) {
	for name, h := range hashers(t) {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, name, h.Name())
			first, err := h.Hash(t.Context(), theSecret)
			require.NoError(t, err)
			second, err := h.Hash(t.Context(), theSecret)
			require.NoError(t, err)
			require.Equal(t, name != "argon2id", first == second, "argon2id draws a salt, the HMAC needs none")
			for _, encoded := range []string{first, second} {
				require.True(t, strings.HasPrefix(encoded, "$"+name+"$"))
				require.NotContains(t, encoded, string(theSecret[len(theSecret)-12:]))
				ok, err := h.Verify(t.Context(), encoded, theSecret)
				require.NoError(t, err)
				require.True(t, ok)
				for _, wrong := range []string{"", " ", string(theSecret) + "\x00", string(theSecret[1:]), strings.ToLower(string(theSecret)), encoded} {
					ok, err := h.Verify(t.Context(), encoded, []byte(wrong))
					require.NoError(t, err)
					require.False(t, ok, "%q", wrong)
				}
			}
		})
	}
}

// What is in databases has to verify for ever.
func TestHashesOfVersionOneStayReadable(t *testing.T) {
	for _, encoded := range []string{
		"$argon2id$v=19$m=7168,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$1NRxajf7ati0l5NUY38kzrDiprZXRoCYwZCLlWktDXE",
		"$hmac-sha256$7$lw9anl8F8+Ws1UI0jfla11vlu62M/wtf+wRDhXu9oyQ",
	} {
		ok, err := hashers(t)[strings.Split(encoded, "$")[1]].Verify(t.Context(), encoded, theSecret)
		require.NoError(t, err, encoded)
		require.True(t, ok, encoded)
	}
}

// A database must not choose what we spend, and one value has one spelling.
func TestDamagedHashesAreCorrupt(t *testing.T) {
	const salt, key = "MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
	phc := func(params string) string { return "$argon2id$v=19$" + params + "$" + salt + "$" + key }
	long := strings.Repeat
	for name, damaged := range map[string][]string{
		"argon2id": {
			"", "$", "$$$$$", "argon2id", "$argon2id", "$argon2id$", long("$", 1<<20), "$argon2id$" + long("A", 1<<20),
			phc("m=7168,t=1,p=1")[1:], phc("m=7168,t=1,p=1") + "$", phc("m=7168,t=1,p=1") + "\n", " " + phc("m=7168,t=1,p=1"), "x" + phc("m=7168,t=1,p=1"),
			strings.Replace(phc("m=7168,t=1,p=1"), "argon2id", "argon2i", 1), strings.Replace(phc("m=7168,t=1,p=1"), "argon2id", "Argon2id", 1),
			strings.Replace(phc("m=7168,t=1,p=1"), "v=19", "v=16", 1), strings.Replace(phc("m=7168,t=1,p=1"), "v=19$", "", 1), strings.Replace(phc("m=7168,t=1,p=1"), "v=19", "v=019", 1),
			phc("m=7168,t=1"), phc("t=1,m=7168,p=1"), phc("m=7168,t=1,p=1,x=1"), phc("m=7168,t=1,p=1,"), phc("m=07168,t=1,p=1"), phc("m=+7168,t=1,p=1"), phc("m=7168, t=1, p=1"), phc("M=7168,t=1,p=1"),
			phc("m=-1,t=1,p=1"), phc("m=,t=1,p=1"), phc("m=7168,t=,p=1"), phc("m=7168,t=x,p=1"), phc("m=0x1C00,t=1,p=1"),
			phc("m=0,t=1,p=1"), phc("m=7,t=1,p=1"), phc("m=16385,t=1,p=1"), phc("m=4294967295,t=1,p=1"), phc("m=4294967296,t=1,p=1"), phc("m=18446744073709551616,t=1,p=1"),
			phc("m=7168,t=0,p=1"), phc("m=7168,t=11,p=1"), phc("m=7168,t=4294967295,p=1"), phc("m=7168,t=1,p=0"), phc("m=7168,t=1,p=5"), phc("m=7168,t=1,p=256"), phc("m=7168,t=1,p=257"),
			"$argon2id$v=19$m=7168,t=1,p=1$$" + key, "$argon2id$v=19$m=7168,t=1,p=1$" + salt + "$", "$argon2id$v=19$m=7168,t=1,p=1$" + salt, "$argon2id$v=19$m=7168,t=1,p=1$" + salt + "AA$" + key,
			"$argon2id$v=19$m=7168,t=1,p=1$" + salt + "==$" + key, "$argon2id$v=19$m=7168,t=1,p=1$" + salt[:21] + "h$" + key, "$argon2id$v=19$m=7168,t=1,p=1$" + salt + "$" + key[:42], "$argon2id$v=19$m=7168,t=1,p=1$" + salt + "$" + key + "A",
			"$argon2id$v=19$m=7168,t=1,p=1$" + salt + "$" + key[:42] + "Z", "$argon2id$v=19$m=7168,t=1,p=1$" + salt[:10] + "\n" + salt[10:] + "$" + key, "$argon2id$v=19$m=7168,t=1,p=1$" + long("A", 100) + "$" + key, "$argon2id$v=19$m=7168,t=1,p=1$____0Njc4OWFiY2RlZg$" + key,
			"$hmac-sha256$7$" + key, "$2b$12$KIXQZ1Yk1uJ4r7d5m0w9kO", "$argon2id$v=19$m=7168,t=1,p=1,keyid=AA$" + salt + "$" + key,
		},
		"hmac-sha256": {
			"", "$", "$$$", "hmac-sha256", "$hmac-sha256", "$hmac-sha256$", "$hmac-sha256$7", "$hmac-sha256$7$", long("$", 1<<20), "$hmac-sha256$7$" + long("A", 1<<20),
			"$hmac-sha256$$" + key, "$hmac-sha256$x$" + key, "$hmac-sha256$-7$" + key, "$hmac-sha256$07$" + key, "$hmac-sha256$+7$" + key, "$hmac-sha256$ 7$" + key, "$hmac-sha256$263$" + key,
			"$hmac-sha256$0$" + key, "$hmac-sha256$62$" + key, "$hmac-sha256$255$" + key,
			"x$hmac-sha256$7$" + key, "$hmac-sha256$7$" + key + "$", "$hmac-sha256$7$" + key + "=", "$hmac-sha256$7$" + key[:42], "$hmac-sha256$7$" + key + "AA", "$hmac-sha256$7$" + key[:42] + "Z", "$hmac-sha256$7$" + key + "\n", "$hmac-sha256$7$" + key[:20] + "\n" + key[20:],
			"$HMAC-SHA256$7$" + key, "$hmac-sha512$7$" + key, phc("m=7168,t=1,p=1"),
		},
	} {
		h := hashers(t)[name]
		if name == "argon2id" {
			h = argon(t, apikey.Argon2idConfig{Memory: 7168, Time: 1, MaxMemory: 16384})
		}
		for _, encoded := range damaged {
			begin := time.Now()
			ok, err := h.Verify(t.Context(), encoded, theSecret)
			require.ErrorIs(t, err, apikey.ErrCorrupt, "%.100q", encoded)
			require.False(t, ok)
			require.Less(t, time.Since(begin), 100*time.Millisecond, "%.100q", encoded)
			require.NotContains(t, err.Error(), key)
			allocated := testing.AllocsPerRun(1, func() { h.Verify(t.Context(), encoded, theSecret) })
			require.Less(t, allocated, 40.0, "%.100q", encoded)
		}
	}
}

// Not a damage: another configuration's hash, at or below the ceilings.
func TestArgonVerifiesWhatAnotherConfigurationMade(t *testing.T) {
	old := argon(t, apikey.Argon2idConfig{Memory: 8192, Time: 2, Lanes: 2})
	encoded, err := old.Hash(t.Context(), theSecret)
	require.NoError(t, err)
	for maxMemory, want := range map[uint32]bool{8191: false, 8192: true, 65536: true} {
		ok, err := argon(t, apikey.Argon2idConfig{Memory: 7168, Time: 1, MaxMemory: maxMemory}).Verify(t.Context(), encoded, theSecret)
		require.Equal(t, want, ok, maxMemory)
		require.Equal(t, !want, errors.Is(err, apikey.ErrCorrupt), maxMemory)
	}
}

func TestArgonBounds(t *testing.T) {
	for name, c := range map[string]struct {
		config apikey.Argon2idConfig
		ok     bool
	}{
		"zero":                     {apikey.Argon2idConfig{}, true},
		"least":                    {apikey.Argon2idConfig{Memory: 7168, Time: 1, Lanes: 1, Slots: 1, MaxMemory: 7168, Wait: 1, MaxWaiting: 1}, true},
		"most":                     {apikey.Argon2idConfig{Memory: 131072, Time: 10, Lanes: 4, Slots: 1000}, true},
		"more memory, if allowed":  {apikey.Argon2idConfig{Memory: 262144, MaxMemory: 262144}, true},
		"too little memory":        {apikey.Argon2idConfig{Memory: 7167}, false},
		"too much memory":          {apikey.Argon2idConfig{Memory: 131073}, false},
		"default above MaxMemory":  {apikey.Argon2idConfig{MaxMemory: 8192}, false},
		"too many passes":          {apikey.Argon2idConfig{Time: 11}, false},
		"too many lanes":           {apikey.Argon2idConfig{Lanes: 5}, false},
		"negative slots":           {apikey.Argon2idConfig{Slots: -1}, false},
		"negative wait":            {apikey.Argon2idConfig{Wait: -1}, false},
		"negative number waiting":  {apikey.Argon2idConfig{MaxWaiting: -1}, false},
		"everything at its utmost": {apikey.Argon2idConfig{Memory: 1<<32 - 1, Time: 1<<32 - 1, Lanes: 255}, false},
	} {
		_, err := apikey.NewArgon2id(c.config)
		if c.ok {
			require.NoError(t, err, name)
		} else {
			require.ErrorIs(t, err, apikey.ErrInvalid, name)
		}
	}
	var zero apikey.Argon2id
	_, err := zero.Hash(t.Context(), theSecret)
	require.ErrorIs(t, err, apikey.ErrInvalid)
}

// If Outdated were true both ways between two configurations, the old and the
// new nodes of a rolling deploy would rewrite each other's hashes for ever.
func TestOutdatedIsAStrictOrder(t *testing.T) {
	type made struct {
		by      apikey.Hasher
		encoded string
	}
	var all []made
	for _, m := range []uint32{7168, 9216, 14336, 19456, 65536} {
		for _, passes := range []uint32{1, 2, 5, 10} {
			for _, lanes := range []uint8{1, 4} {
				for _, ceiling := range []uint32{m, 131072} {
					all = append(all, made{
						argon(t, apikey.Argon2idConfig{Memory: m, Time: passes, Lanes: lanes, MaxMemory: ceiling}),
						fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", m, passes, lanes),
					})
				}
			}
		}
	}
	for _, slots := range [][]uint8{{1}, {2}, {1, 2}, {2, 1}} {
		var peppers []apikey.Pepper
		for _, slot := range slots {
			peppers = append(peppers, pepper(t, slot))
		}
		h := hmacHasher(t, peppers...)
		encoded, err := h.Hash(t.Context(), theSecret)
		require.NoError(t, err)
		all = append(all, made{h, encoded})
	}
	replaced := 0
	for _, a := range all {
		require.False(t, a.by.Outdated(a.encoded), "its own: %s", a.encoded)
		require.False(t, a.by.Outdated("$unknown$hash"))
		require.False(t, a.by.Outdated(""))
		for _, b := range all {
			if !a.by.Outdated(b.encoded) {
				continue
			}
			replaced++
			require.False(t, b.by.Outdated(a.encoded), "%s and %s replace each other", a.encoded, b.encoded)
			for _, c := range all {
				if b.by.Outdated(c.encoded) {
					require.False(t, c.by.Outdated(a.encoded), "%s, %s, %s go round", a.encoded, b.encoded, c.encoded)
				}
			}
		}
	}
	require.Greater(t, replaced, len(all))
}

func TestOutdated(t *testing.T) {
	cheap, dear := argon(t, apikey.Argon2idConfig{Memory: 7168, Time: 1}), argon(t, apikey.Argon2idConfig{Memory: 8192, Time: 2})
	keyed := hmacHasher(t, pepper(t, 1))
	encoded := func(h apikey.Hasher) string {
		s, err := h.Hash(t.Context(), theSecret)
		require.NoError(t, err)
		return s
	}
	require.True(t, dear.Outdated(encoded(cheap)))
	require.False(t, cheap.Outdated(encoded(dear)))
	require.True(t, cheap.Outdated(encoded(keyed)))
	require.False(t, keyed.Outdated(encoded(cheap)))
	require.False(t, hmacHasher(t, pepper(t, 2), pepper(t, 1)).Outdated(encoded(keyed)))
}

// A pepper that was taken out refuses all that it made: that is what taking it
// out is for, and no damage.
func TestHMACOfARemovedPepperIsNoMatch(t *testing.T) {
	one, two := pepper(t, 1), pepper(t, 2)
	made, err := hmacHasher(t, one).Hash(t.Context(), theSecret)
	require.NoError(t, err)
	for _, c := range []struct {
		name    string
		peppers []apikey.Pepper
		want    bool
	}{
		{"the same", []apikey.Pepper{one}, true},
		{"no longer the first", []apikey.Pepper{two, one}, true},
		{"removed", []apikey.Pepper{two}, false},
		{"another in its slot", []apikey.Pepper{pepperOf(t, 1, 99)}, false},
		{"its key in another slot", []apikey.Pepper{pepperOf(t, 2, 1)}, false},
	} {
		ok, err := hmacHasher(t, c.peppers...).Verify(t.Context(), made, theSecret)
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, ok, c.name)
	}
}

// running counts goroutines by the function that they are in: the one honest
// way to see from outside how many hashes run, and who waits.
func running(function string) int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), function+"(")
}

const (
	hashing = "golang.org/x/crypto/argon2.IDKey"
	queued  = "apikey.(*gate).stand" // after it has joined the queue
)

// eventually spins until something is so; tests that can say what they wait for
// need not sleep.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestSlotsAndMemoryBoundWhatRuns(t *testing.T) {
	for _, c := range []struct {
		name   string
		config apikey.Argon2idConfig
		most   int
	}{
		{"one slot", apikey.Argon2idConfig{Memory: 7168, Time: 2, Slots: 1}, 1},
		{"two slots", apikey.Argon2idConfig{Memory: 7168, Time: 2, Slots: 2}, 2},
		{"memory for one", apikey.Argon2idConfig{Memory: 7168, Time: 2, Slots: 8, MaxMemory: 14335}, 1},
		{"memory for three", apikey.Argon2idConfig{Memory: 7168, Time: 2, Slots: 8, MaxMemory: 28671}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := argon(t, c.config)
			var wg sync.WaitGroup
			var left atomic.Int64
			for range 12 {
				left.Add(1)
				wg.Go(func() {
					defer left.Add(-1)
					if _, err := h.Hash(context.Background(), theSecret); err != nil {
						t.Error(err)
					}
				})
			}
			seen := 0
			for left.Load() > 0 {
				seen = max(seen, running(hashing))
				time.Sleep(100 * time.Microsecond) // leave the processors to what is observed
			}
			wg.Wait()
			require.Equal(t, c.most, seen)
		})
	}
}

// One caller hashes, one waits, and the next is told at once to come back.
func TestBusy(t *testing.T) {
	slow := apikey.Argon2idConfig{Memory: 65536, MaxMemory: 65536, Time: 10, Slots: 1}
	begin := func(t *testing.T, h *apikey.Argon2id) (wait func()) {
		done := make(chan error, 1)
		go func() { _, err := h.Hash(context.Background(), theSecret); done <- err }()
		eventually(t, "a hash runs", func() bool { return running(hashing) == 1 })
		return func() { require.NoError(t, <-done) }
	}
	t.Run("by time", func(t *testing.T) {
		slow := slow
		slow.Wait = time.Millisecond
		h := argon(t, slow)
		defer begin(t, h)()
		_, err := h.Hash(context.Background(), theSecret)
		require.ErrorIs(t, err, apikey.ErrBusy)
		_, err = h.Verify(context.Background(), "$argon2id$v=19$m=7168,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", theSecret)
		require.ErrorIs(t, err, apikey.ErrBusy)
	})
	t.Run("by number", func(t *testing.T) {
		slow := slow
		slow.Wait, slow.MaxWaiting = time.Minute, 1
		h := argon(t, slow)
		defer begin(t, h)()
		ctx, leave := context.WithCancel(context.Background())
		waiter := make(chan error, 1)
		go func() { _, err := h.Hash(ctx, theSecret); waiter <- err }()
		eventually(t, "a caller waits", func() bool { return running(queued) == 1 })
		_, err := h.Hash(context.Background(), theSecret)
		require.ErrorIs(t, err, apikey.ErrBusy)
		leave()
		require.ErrorIs(t, <-waiter, context.Canceled, "who hangs up leaves the queue")
	})
}

// Who has hung up already costs nothing, whether there is room or not.
func TestCancelledCallerRunsNoHash(t *testing.T) {
	h := argon(t, apikey.Argon2idConfig{Memory: 7168, Time: 1})
	encoded, err := h.Hash(t.Context(), theSecret)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = h.Hash(ctx, theSecret)
	require.ErrorIs(t, err, context.Canceled)
	ok, err := h.Verify(ctx, encoded, theSecret)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, ok)
}

// Waits for a slot are told: how long, and how they ended.
func TestHashWaitsAreTold(t *testing.T) {
	var mu sync.Mutex
	ended := map[error]int{}
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 7168, Time: 1, Slots: 1, MaxWaiting: 3, Waited: func(d time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		ended[err]++
		if d < 0 {
			t.Error("a negative wait")
		}
	}})
	require.NoError(t, err)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range 32 {
		wg.Go(func() {
			<-begin
			argon.Hash(background, []byte("secret"))
		})
	}
	close(begin)
	wg.Wait()
	require.NotZero(t, ended[nil])
	require.NotZero(t, ended[apikey.ErrBusy])
	require.Less(t, ended[nil]+ended[apikey.ErrBusy], 32, "who finds a free slot does not wait")
}

// failing is a Hasher that asks somebody who does not answer.
type failing struct{ apikey.Hasher }

func (failing) Verify(context.Context, string, []byte) (bool, error) {
	return false, errors.New("kms: connection refused")
}

// What a program's own Hasher fails with is our failure, whatever it says.
func TestAHasherThatFails(t *testing.T) {
	e := newEnv(t, noPepper)
	k := e.issue()
	v := e.newVerifier(func(c *verifierConfig) { c.Hashers = []apikey.Hasher{failing{c.Hashers[0]}} })
	err := verifyBy(v, k.Token)
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorContains(t, err, "kms: connection refused")
}
