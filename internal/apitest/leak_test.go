package apitest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"go/ast"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// shapes are the ways in which a value lies in a program.
type shapes map[string]any

type inPublic[T any] struct{ V T }

type inPrivate[T any] struct{ v T } // fmt does not call its methods

func shapesOf[T any](v T) shapes {
	return shapes{
		"value": v, "pointer": &v, "in an exported field": inPublic[T]{v}, "in an unexported field": inPrivate[T]{v},
		"pointer in an unexported field": &inPrivate[*T]{&v}, "any in an unexported field": inPrivate[any]{v},
		"slice": []T{v}, "map": map[string]T{"k": v}, "slice in an unexported field": inPrivate[[]T]{[]T{v}},
	}
}

// A leakRow is one exported type, filled.
type leakRow struct {
	of     reflect.Type
	shapes shapes
}

func rowOf[T any](v T) leakRow {
	of := reflect.TypeFor[T]()
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	return leakRow{of, shapesOf(v)}
}

// typeName is the name without type arguments.
func (r leakRow) typeName() string { name, _, _ := strings.Cut(r.of.Name(), "["); return name }

func TestNoValuePrintsASecret(t *testing.T) {
	k := newLeakEnv(t)
	values := k.rows()
	// What a flight tidies up after its answer must be over before reflection
	// reads everything. The cache stays as it is: warm.
	require.NoError(t, k.verifier.Close(t.Context()))
	for pkg, rows := range values {
		listed := map[string]bool{}
		for _, row := range rows {
			listed[row.typeName()] = true
			require.Equal(t, strings.TrimSuffix(module+"/"+pkg, "/."), row.of.PkgPath())
			for shape, v := range row.shapes {
				for printing, text := range printings(v) {
					if found := k.find(text); found != "" {
						t.Errorf("%s %s prints in %s: %s\n%.2000s", row.of, shape, printing, found, text)
					}
				}
			}
		}
		for _, s := range sources(t) {
			for _, name := range s.exportedTypes() {
				if s.pkg == pkg && !s.test && !listed[name] {
					t.Errorf("%s.%s is not among the values that are printed here: add a row", pkg, name)
				}
			}
		}
	}
}

// exportedTypes lists the exported types of a file that can hold something:
// neither interfaces nor other names of what is listed already.
func (s source) exportedTypes() (names []string) {
	for _, d := range s.file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range g.Specs {
			if typ, ok := spec.(*ast.TypeSpec); ok && typ.Name.IsExported() && !typ.Assign.IsValid() {
				if _, is := typ.Type.(*ast.InterfaceType); !is {
					names = append(names, typ.Name.Name)
				}
			}
		}
	}
	return names
}

// Types as they would be without care. The same scan has to report them.
type (
	careless struct {
		Text string
		Key  [32]byte
		key  []byte
	}
	// careful is what most libraries do: it is redacted wherever its methods are
	// asked, and only there.
	careful struct{ text string }
)

func (c careless) MarshalText() ([]byte, error) { return []byte(c.Text), nil }

func (careful) String() string               { return "redacted" }
func (careful) GoString() string             { return "redacted" }
func (careful) Format(s fmt.State, _ rune)   { fmt.Fprint(s, "redacted") }
func (careful) LogValue() slog.Value         { return slog.StringValue("redacted") }
func (careful) MarshalText() ([]byte, error) { return []byte("redacted"), nil }

func TestTheScanReportsALeak(t *testing.T) {
	k := newLeakEnv(t)
	text := k.token.Reveal()
	for printing, out := range printings(careless{text, k.key, k.key[:]}) {
		require.NotEmpty(t, k.find(out), "%s of a value that leaks: %s", printing, out)
	}
	type untexted careless // without MarshalText
	for printing, out := range printings(untexted{"", k.key, k.key[:]}) {
		require.Equal(t, printing != "text", k.find(out) != "", "%s of a key that leaks: %s", printing, out)
	}
	leaks := map[string]int{}
	for shape, v := range shapesOf(careful{text}) {
		for printing, out := range printings(v) {
			if k.find(out) != "" {
				leaks[printing]++
			}
			if shape == "value" && strings.HasPrefix(printing, "%") {
				require.Empty(t, k.find(out), "%s", out)
			}
		}
	}
	for _, printing := range []string{"%v", "%+v", "%#v", "%x", "%s", "slog text", "assert.Equal", "assert.Nil"} {
		require.Positive(t, leaks[printing], "%s does not call methods of unexported fields", printing)
	}
	secret := []byte(secretOf(text))
	for i := range len(secret) - window + 1 {
		for _, s := range spellings {
			require.NotEmpty(t, k.find("…"+s.write(secret[i:i+window])+"…"), "place %d, %s", i, s.name)
		}
		require.Empty(t, k.find(string(secret[i:i+window-1])), "11 are not 12")
	}
	require.Empty(t, k.find(k.token.String()))
	require.Empty(t, k.find(strings.Repeat(hex.EncodeToString(bytes.Repeat([]byte{0}, 100)), 100)))
}

// Errors, logs, hooks and events of everything that is told a token.
func TestNothingSaysASecret(t *testing.T) {
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			k := newLeakEnv(t, program)
			text := k.token.Reveal()
			said := k.said()
			attempts := map[string]string{"right": text, "bad tag": withField(text, "00000000000", crcWidth), "unknown ID": spliceID(text), "wrong secret": spliceSecret(text), "other mode": withHead(text, "acme_sk_test_"), "other kind": withHead(text, "acme_pk_live_"), "other prefix": withHead(text, "beta_sk_live_"), "cut": text[:60], "long": text + text}
			for what, presented := range attempts {
				for _, v := range []*apikey.Verifier{k.verifier, k.newVerifier()} {
					_, err := v.Verify(t.Context(), presented, apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:verify")}})
					require.Error(t, err, what)
					said.add(err)
				}
				_, err := apikey.ParseToken(presented)
				said.add(err)
				_, err = apikey.ParseKeyID(presented)
				said.add(err)
				_, err = apikey.ParseCredentialID(presented)
				said.add(err)
			}
			// A record that fails on the way says what, not for whom.
			stored, err := k.store.Get(t.Context(), k.id)
			require.NoError(t, err)
			require.NoError(t, k.store.Upkeep(t.Context(), []apikey.StoreUpkeep{{
				Credential: k.token.Credential(), OldHash: stored.Credentials[0].Hash, NewHash: "$argon2id$v=19$damaged",
			}}))
			_, err = k.newVerifier().Verify(t.Context(), text, apikey.Request{})
			require.ErrorIs(t, err, apikey.ErrCorrupt)
			said.add(err)
			k.rewrite(k.id, func(r *apikey.StoreRecord) { r.Mode = 77 })
			require.NoError(t, k.verifier.Sync(t.Context()))
			said.add(k.verify(k.token))
			said.add(k.manager.RevokeToken(k.ctx, spliceSecret(text), "lost"))
			said.add(k.manager.RevokeToken(k.ctx, text, apikey.ReasonCompromised))
			_, err = k.manager.Update(k.ctx, apikey.UpdateRequest{Key: k.id, Name: apikey.Set(strings.Repeat("x", 1000))})
			said.add(err)
			report, err := k.manager.VerifyEvents(k.ctx, k.id)
			said.add(report, err)
			list, err := k.manager.Events(k.ctx, apikey.EventsRequest{})
			said.add(list, err)
			events, err := k.store.Events(t.Context(), apikey.StoreEventFilter{})
			said.add(events, err)
			for _, e := range events.Events {
				said.add(string(e.Body))
			}
			require.Greater(t, said.Len(), 10_000)
			require.Empty(t, k.find(said.String()), said.String())
		})
	}
}

// saidText collects everything that is said, from whatever goroutine.
type saidText struct {
	mu sync.Mutex
	recorder
}

func (s *saidText) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recorder.Write(p)
}

func (s *saidText) add(values ...any) {
	for _, v := range values {
		fmt.Fprintf(s, "%v %+v %#v\n", v, v, v)
		var corrupt *apikey.CorruptError
		if err, ok := v.(error); ok && errors.As(err, &corrupt) {
			fmt.Fprintf(s, "%+v\n", *corrupt)
		}
	}
}

// said begins to listen: to the log at its most talkative, and to every hook.
func (k *leakEnv) said() *saidText {
	s := &saidText{}
	logger := slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug}))
	trace := &apikey.Trace{
		Verified:    func(v apikey.VerifiedTrace) { s.add(v) },
		InactiveKey: func(i apikey.Info, err error) { s.add(i, err) },
		Corrupt:     func(err *apikey.CorruptError) { s.add(err) },
		Denied:      func(a apikey.Actor, _ apikey.Action, _ apikey.KeyID, err error) { s.add(a, err) },
	}
	k.settings.Logger, k.settings.Trace = logger, trace
	k.mc.OnEvent = func(e apikey.Event) { s.add(e) }
	k.restart()
	logger.DebugContext(context.Background(), "listening")
	return s
}
