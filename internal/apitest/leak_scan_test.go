package apitest

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"strings"

	"github.com/stretchr/testify/assert"
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
