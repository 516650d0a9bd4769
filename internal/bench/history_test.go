package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

// Recorded histories of issue, verify, rotate and revoke on three verifiers,
// with faults, checked against a model: every answer has to be that of some
// moment between its call and its return.
//
//	local   is told by the Manager before its methods return
//	synced  asks the feed before each verification
//	blind   gets nothing from the feed, and has only MaxAge: its clock moves on
//	        by more than twice that before each verification
//
// A change takes effect on each of them at a moment of its own, between its call
// and its return; so each of them has to agree with the model for itself.

type step struct {
	kind  string // issue, rotate, revoke, verify
	token int    // which of the key's; -1: a forgery with the ID of one
}

// keyState is the model of one key.
type keyState struct {
	live    int // the token that verifies; -1: none
	revoked bool
}

var keyModel = porcupine.Model{
	Init: func() any { return keyState{live: -1} },
	Step: func(s, in, out any) (bool, any) {
		k, op := s.(keyState), in.(step)
		switch op.kind {
		case "issue", "rotate":
			k.live = op.token
			return true, k
		case "revoke":
			k.revoked = true
			return true, k
		}
		return out.(bool) == (op.token >= 0 && op.token == k.live && !k.revoked), k
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprint(in, out) },
}

// faults is a store that lingers before it answers, fails, and loses answers.
type faults struct {
	apikey.Store
	on atomic.Bool
}

var errLost = errors.New("connection reset by peer")

func linger() {
	if rand.IntN(3) > 0 {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
	}
}

func (f *faults) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	r, err := f.Store.Lookup(ctx, id)
	if f.on.Load() {
		linger()
		if rand.IntN(50) == 0 {
			return apikey.StoreRecord{}, errLost
		}
	}
	return r, err
}

func (f *faults) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	err := f.Store.Apply(ctx, changes...)
	if f.on.Load() && err == nil && rand.IntN(30) == 0 {
		return errLost
	}
	return err
}

// deaf is a store whose feed has no news.
type deaf struct{ apikey.Store }

func (d deaf) Changed(ctx context.Context, after apikey.Cursor, limit int) (apikey.StoreChanges, error) {
	if after == "" {
		return d.Store.Changed(ctx, after, limit)
	}
	return apikey.StoreChanges{Next: after, Current: true}, nil
}

// stamped is a store as it is often written: its cursor is a time, taken when a
// transaction begins. One that began earlier and commits later is skipped.
type stamped struct {
	apikey.Store
	mu   sync.Mutex
	last map[apikey.KeyID]int64
}

func (s *stamped) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	began := time.Now().UnixNano()
	linger()
	err := s.Store.Apply(ctx, changes...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		if c.Record != nil {
			s.last[c.Record.ID] = began
		}
	}
	return err
}

func (s *stamped) Changed(ctx context.Context, after apikey.Cursor, _ int) (c apikey.StoreChanges, err error) {
	var from, newest int64
	fmt.Sscan(string(after), &from)
	newest = from
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, at := range s.last {
		if at <= from {
			continue
		}
		newest = max(newest, at)
		if after != "" {
			r, err := s.Store.Get(ctx, id)
			if err != nil {
				return c, err
			}
			c.Records = append(c.Records, r)
		}
	}
	c.Next, c.Current = apikey.Cursor(fmt.Sprint(max(newest, 1))), true
	return c, nil
}

// history records many keys' lives and returns the operations of each key and
// verifier.
func history(t *testing.T, base apikey.Store, keys int) map[string][]porcupine.Operation {
	store := &faults{Store: base}
	hasher := plain{}
	settings := apikey.Settings{Store: store, Prefix: prefix, Catalog: catalog, Hashers: []apikey.Hasher{hasher}}
	config := apikey.VerifierConfig{Mode: apikey.Live, Sync: -1, ReadOnly: true, MaxStale: time.Hour}
	manager, err := apikey.NewManager(background, settings, apikey.ManagerConfig{})
	must(t, err)
	t.Cleanup(func() { manager.Close(background) })
	local, err := manager.NewVerifier(background, config)
	must(t, err)
	synced, err := apikey.NewVerifier(background, settings, config)
	must(t, err)
	t.Cleanup(func() { synced.Close(background) })
	// A key has a blind verifier of its own, with a clock that nobody else moves:
	// a reading that is under way for one caller may be shared by another, which
	// MaxAge allows and the model does not.
	blind := func() (verify func(string) error, end func()) {
		var clock atomic.Int64
		s, c := settings, config
		s.Store, c.MaxAge, c.MaxStale = deaf{store}, time.Minute, 1000*time.Hour
		s.Now = func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
		v, err := apikey.NewVerifier(background, s, c)
		must(t, err)
		return func(token string) error {
			clock.Add(int64(3 * time.Minute))
			_, err := v.Verify(background, token, apikey.Request{})
			return err
		}, func() { v.Close(background) }
	}
	told := func(token string) error { _, err := local.Verify(background, token, apikey.Request{}); return err }
	asking := func(token string) error {
		if err := synced.Sync(background); err != nil {
			return err
		}
		_, err := synced.Verify(background, token, apikey.Request{})
		return err
	}
	store.on.Store(true)
	all := map[string][]porcupine.Operation{}
	var mu sync.Mutex
	start := time.Now()
	now := func() int64 { return time.Since(start).Nanoseconds() }
	var wg sync.WaitGroup
	for key := range keys {
		wg.Go(func() {
			blinded, end := blind()
			defer end()
			nodes := map[string]func(string) error{"local": told, "synced": asking, "blind": blinded}
			for name, ops := range life(manager, nodes, key, now) {
				mu.Lock()
				all[fmt.Sprintf("key %d on %s", key, name)] = ops
				mu.Unlock()
			}
		})
		if key%8 == 7 {
			wg.Wait()
		}
	}
	wg.Wait()
	return all
}

// life is one key: callers on each verifier, and one who changes it.
func life(m *apikey.Manager, nodes map[string]func(string) error, key int, now func() int64) map[string][]porcupine.Operation {
	ctx := actor(fmt.Sprint("acc_", key))
	var mu sync.Mutex
	var changes []porcupine.Operation
	verified := map[string][]porcupine.Operation{}
	change := func(s step, work func() error) bool {
		op := porcupine.Operation{Input: s, Output: true, Call: now()}
		err := work()
		if op.Return = now(); err != nil {
			op.Return = math.MaxInt64 // nobody knows whether, or when
		}
		changes = append(changes, op)
		return err == nil
	}
	var tokens atomic.Pointer[[]string]
	none := []string{}
	tokens.Store(&none)
	learn := func(text string) {
		longer := append(append([]string{}, *tokens.Load()...), text)
		tokens.Store(&longer)
	}
	var id apikey.KeyID
	if !change(step{"issue", 0}, func() error {
		issued, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: abilities})
		if err == nil {
			id = issued.Key.ID
			learn(issued.Token.Reveal())
		}
		return err
	}) {
		return nil
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	client := 1
	for name, verify := range nodes {
		callers := 3
		if name == "blind" {
			callers = 1 // see above
		}
		for range callers {
			client++
			wg.Go(func() {
				for range 40 {
					known := *tokens.Load()
					i := rand.IntN(len(known))
					text, s := known[i], step{"verify", i}
					if rand.IntN(3) == 0 { // the same ID, another secret
						text, s.token = checksummed(string(changed([]byte(text[:len(text)-6]), len(text)-20))), -1
					}
					op := porcupine.Operation{ClientId: client, Input: s, Call: now()}
					err := verify(text)
					op.Return = now()
					op.Output = err == nil
					if errors.Is(err, apikey.ErrUnavailable) || errors.Is(err, apikey.ErrBusy) {
						continue // says nothing
					}
					mu.Lock()
					verified[name] = append(verified[name], op)
					mu.Unlock()
				}
			})
		}
	}
	go func() { wg.Wait(); close(done) }()
	for n := 1; n <= 3; n++ {
		linger()
		if !change(step{"rotate", n}, func() error {
			issued, err := m.Rotate(ctx, apikey.RotateRequest{Key: id})
			if err == nil {
				learn(issued.Token.Reveal())
			}
			return err
		}) {
			break
		}
	}
	linger()
	change(step{"revoke", 0}, func() error { return m.Revoke(ctx, apikey.RevokeRequest{Key: id}) })
	<-done
	all := map[string][]porcupine.Operation{}
	for name, ops := range verified {
		all[name] = append(ops, changes...)
	}
	return all
}

// illegal checks histories and names those that no order explains; explain prints
// their operations.
func illegal(t *testing.T, all map[string][]porcupine.Operation, explain bool) (bad []string) {
	operations := 0
	for name, ops := range all {
		operations += len(ops)
		switch porcupine.CheckOperationsTimeout(keyModel, ops, 20*time.Second) {
		case porcupine.Illegal:
			bad = append(bad, name)
			slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
			for _, op := range ops {
				if !explain {
					break
				}
				t.Logf("%s: from %d to %d: %v %v", name, op.Call, op.Return, op.Input, op.Output)
			}
		case porcupine.Unknown:
			t.Errorf("%s: not decided within its time", name)
		}
	}
	if operations == 0 {
		t.Fatal("nothing was recorded")
	}
	t.Logf("%d histories, %d operations, %d illegal", len(all), operations, len(bad))
	return bad
}

func TestHistories(t *testing.T) {
	if bad := illegal(t, history(t, memstore.New(), max(64, attempts(6_400))), true); len(bad) > 0 {
		t.Errorf("no order of the operations explains: %v", bad)
	}
}

// A cursor that is a time is caught.
func TestHistoriesCatchACursorByTimestamp(t *testing.T) {
	for range 5 {
		if bad := illegal(t, history(t, &stamped{Store: memstore.New(), last: map[apikey.KeyID]int64{}}, 64), false); len(bad) > 0 {
			for _, name := range bad {
				if !strings.HasSuffix(name, "synced") {
					t.Errorf("%s is illegal too, which the cursor does not explain", name)
				}
			}
			return
		}
	}
	t.Error("survived")
}

// Guards taken out of the source, as an overlay of the compiler, are caught.
func TestHistoriesCatchMutants(t *testing.T) {
	root, err := filepath.Abs("../..")
	must(t, err)
	for _, m := range []struct{ name, file, old, new string }{
		{"the fence is gone", "cache.go", "current = c.generation(id) == gen", "current = true || c.generation(id) == gen"},
		{"MaxAge is gone", "verify_find.go", "age := elapsed(now, readAt)", "age := min(elapsed(now, readAt), 0)"},
		{"a proof is shared between different tokens of one ID", "verify_find.go",
			"proofKey{digest, v.cache.since(p.id)}", "proofKey{[32]byte(append(p.id[:], p.id[:]...)), v.cache.since(p.id)}"},
	} {
		t.Run(m.name, func(t *testing.T) {
			source, err := os.ReadFile(filepath.Join(root, m.file))
			must(t, err)
			if n := strings.Count(string(source), m.old); n != 1 {
				t.Fatalf("the patch no longer applies: %s has its text %d times", m.file, n)
			}
			dir := t.TempDir()
			mutated, overlay, binary := filepath.Join(dir, m.file), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "mutant.test")
			must(t, os.WriteFile(mutated, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600))
			data, _ := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, m.file): mutated}})
			must(t, os.WriteFile(overlay, data, 0o600))
			if out, err := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, ".").CombinedOutput(); err != nil {
				t.Fatalf("the mutant does not build, so it proves nothing: %v\n%s", err, out)
			}
			for range 5 {
				out, err := exec.Command(binary, "-test.run", "^TestHistories$", "-test.timeout", "120s").CombinedOutput()
				if err != nil && strings.Contains(string(out), "no order of the operations explains") {
					return
				}
			}
			t.Error("survived")
		})
	}
}
