package apikey_test

import (
	"bytes"
	"context"
	"encoding"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"go/ast"
	"iter"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// A detector finds secrets in text: any 12 bytes in a row of one, in any of the
// spellings that printers have.
type detector struct {
	begins  [1 << 16]bool // by the first two bytes: most places of a text need no more
	needles map[int]map[string]string
}

const window = 12

// spellings of bytes. Numbers have one to three digits: a needle is cut to the
// width that 12 of them have at least.
var spellings = []struct {
	name  string
	width int
	write func([]byte) string
}{
	{"raw", window, func(b []byte) string { return string(b) }},
	{"hex", 2 * window, hex.EncodeToString},
	{"HEX", 2 * window, func(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }},
	{"base64", 4 * window / 3, base64.StdEncoding.EncodeToString},
	{"base64url", 4 * window / 3, base64.URLEncoding.EncodeToString},
	{"decimal", 2*window - 1, func(b []byte) string { return listed(b, "%d", " ") }},
	{"JSON array", 2*window - 1, func(b []byte) string { return listed(b, "%d", ",") }},
	{"Go syntax", 5*window - 2, func(b []byte) string { return listed(b, "%#x", ", ") }},
	{"hex dump", 3*8 - 1, func(b []byte) string { return listed(b, "%02x", " ") }}, // in groups of eight
}

func listed(b []byte, format, separator string) string {
	parts := make([]string, len(b))
	for i, v := range b {
		parts[i] = fmt.Sprintf(format, v)
	}
	return strings.Join(parts, separator)
}

func (d *detector) learn(name string, secret []byte) {
	for i := range len(secret) - window + 1 {
		for _, s := range spellings {
			needle := s.write(secret[i : i+window])[:s.width]
			if d.needles == nil {
				d.needles = map[int]map[string]string{}
			}
			if d.needles[s.width] == nil {
				d.needles[s.width] = map[string]string{}
			}
			d.needles[s.width][needle] = name + ", " + s.name
			d.begins[uint16(needle[0])<<8|uint16(needle[1])] = true
		}
	}
}

// find names the secret that is in text; "" is none.
func (d *detector) find(text string) string {
	for i := range max(0, len(text)-1) {
		if !d.begins[uint16(text[i])<<8|uint16(text[i+1])] {
			continue
		}
		for width, needles := range d.needles {
			if i+width <= len(text) {
				if name := needles[text[i:i+width]]; name != "" {
					return name
				}
			}
		}
	}
	return ""
}

// printings yields everything that a program may do with a value without
// looking, by name, with what comes out, errors included.
func printings(v any) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, p := range printers {
			if !yield(p.name, p.safely(v)) {
				return
			}
		}
	}
}

type printer struct {
	name  string
	print func(any) string
}

// safely prints a panic's value too: whoever recovers, logs it.
func (p printer) safely(v any) (text string) {
	defer func() {
		if r := recover(); r != nil {
			text = fmt.Sprintf("%v %+v", r, r)
		}
	}()
	return p.print(v)
}

var printers = append([]printer{
	{"json", encoded(json.Marshal)},
	{"xml", encoded(xml.Marshal)},
	{"text", encoded(func(v any) ([]byte, error) {
		if m, ok := v.(encoding.TextMarshaler); ok {
			return m.MarshalText()
		}
		return nil, nil
	})},
	{"gob", func(v any) string {
		var b bytes.Buffer
		return fmt.Sprint(gob.NewEncoder(&b).Encode(v), b.String())
	}},
	{"reflection", func(v any) string {
		var w walker
		w.walk(reflect.ValueOf(v))
		return w.String()
	}},
	{"error", func(v any) string { return fmt.Errorf("failed for %v: %w", v, errors.New("x")).Error() }},
	{"slog JSON", logged(func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) })},
	{"slog text", logged(func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) })},
	{"assert.Equal", failed(func(t assert.TestingT, v any) {
		other := reflect.Zero(reflect.TypeOf(v))
		if other.Kind() == reflect.Pointer { // of a nil pointer there is no diff
			other = reflect.New(other.Type().Elem())
		}
		assert.Equal(t, other.Interface(), v)
	})},
	{"assert.Equal, another type", failed(func(t assert.TestingT, v any) { assert.Equal(t, "x", v) })},
	{"assert.NotEqual", failed(func(t assert.TestingT, v any) { assert.NotEqual(t, v, v) })},
	{"assert.Empty", failed(func(t assert.TestingT, v any) { assert.Empty(t, v) })},
	{"assert.Zero", failed(func(t assert.TestingT, v any) { assert.Zero(t, v) })},
	{"assert.Nil", failed(func(t assert.TestingT, v any) { assert.Nil(t, v) })},
	{"assert.NotNil", failed(func(t assert.TestingT, v any) { assert.NotNil(t, nil, v) })},
	{"assert.Contains", failed(func(t assert.TestingT, v any) { assert.Contains(t, v, "x") })},
	{"assert.ElementsMatch", failed(func(t assert.TestingT, v any) { assert.ElementsMatch(t, []any{v}, []any{1}) })},
}, verbs("%v", "%+v", "%#v", "%x", "%X", "%q", "%s", "%d")...)

// A walker writes every string and every byte that reflection can reach: more
// than any printer follows, and all that a debugger's or an error tracker's
// dump of variables would. Only what a closure holds is out of its reach.
type walker struct {
	strings.Builder
	seen map[walked]bool
}

type walked struct {
	at uintptr
	of reflect.Type
}

func (w *walker) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		fmt.Fprintln(w, v.String())
	case reflect.Pointer, reflect.Map:
		here := walked{v.Pointer(), v.Type()}
		if w.seen == nil {
			w.seen = map[walked]bool{}
		}
		if v.IsNil() || w.seen[here] || v.Type() == reflect.TypeOf(reflect.TypeOf(0)) { // the runtime's own
			return
		}
		w.seen[here] = true
		if v.Kind() == reflect.Pointer {
			w.walk(v.Elem())
			return
		}
		for entries := v.MapRange(); entries.Next(); {
			w.walk(entries.Key())
			w.walk(entries.Value())
		}
	case reflect.Interface:
		w.walk(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			w.walk(v.Field(i))
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if e := v.Index(i); e.Kind() == reflect.Uint8 {
				fmt.Fprintf(w, "%02x", e.Uint())
			} else {
				w.walk(e)
			}
		}
		fmt.Fprintln(w)
	}
}

func encoded(encode func(any) ([]byte, error)) func(any) string {
	return func(v any) string {
		b, err := encode(v)
		return fmt.Sprint(string(b), err)
	}
}

func logged(handler func(*bytes.Buffer) slog.Handler) func(any) string {
	return func(v any) string {
		var b bytes.Buffer
		slog.New(handler(&b)).With("with", v).Info("message", "value", v, slog.Group("group", "value", v))
		return b.String()
	}
}

// failed catches what a failing assertion would write into a build log.
func failed(check func(assert.TestingT, any)) func(any) string {
	return func(v any) string {
		var r recorder
		check(&r, v)
		return r.String()
	}
}

type recorder struct{ strings.Builder }

func (r *recorder) Errorf(format string, args ...any) { fmt.Fprintf(r, format, args...) }

func verbs(formats ...string) (list []printer) {
	for _, f := range formats {
		list = append(list, printer{f, func(v any) string { return fmt.Sprintf(f, v) }})
	}
	return list
}

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
	for pkg, rows := range k.rows() {
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
			require.NoError(t, k.store.Upkeep(t.Context(), []apikey.Upkeep{{
				Credential: k.token.Credential(), OldHash: stored.Credentials[0].Hash, NewHash: "$argon2id$v=19$damaged",
			}}))
			_, err = k.newVerifier().Verify(t.Context(), text, apikey.Request{})
			require.ErrorIs(t, err, apikey.ErrCorrupt)
			said.add(err)
			k.rewrite(k.id, func(r *apikey.Record) { r.Mode = 77 })
			require.NoError(t, k.verifier.Sync(t.Context()))
			said.add(k.verify(k.token))
			said.add(k.manager.RevokeToken(k.ctx, spliceSecret(text), "lost"))
			said.add(k.manager.RevokeToken(k.ctx, text, apikey.ReasonCompromised))
			_, err = k.manager.Update(k.ctx, apikey.UpdateRequest{Key: k.id, Name: apikey.Set(strings.Repeat("x", 1000))})
			said.add(err)
			report, err := k.manager.VerifyEvents(k.ctx, apikey.VerifyEventsRequest{Key: k.id})
			said.add(report, err)
			list, err := k.manager.Events(k.ctx, apikey.EventsRequest{})
			said.add(list, err)
			events, err := k.store.Events(t.Context(), apikey.EventFilter{})
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
		Verified: func(v apikey.VerifiedTrace) { s.add(v) },
		DeadKey:  func(i apikey.Info, err error) { s.add(i, err) },
		Corrupt:  func(err *apikey.CorruptError) { s.add(err) },
		Denied:   func(a apikey.Actor, _ apikey.Action, _ apikey.KeyID, err error) { s.add(a, err) },
	}
	k.vc.Logger, k.vc.Trace, k.mc.Logger, k.mc.Trace = logger, trace, logger, trace
	k.mc.OnEvent = func(e apikey.Event) { s.add(e) }
	k.verifier = k.newVerifier()
	k.mc.Local = []*apikey.Verifier{k.verifier}
	k.manager = k.newManager()
	logger.DebugContext(context.Background(), "listening")
	return s
}
