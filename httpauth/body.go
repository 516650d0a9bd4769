package httpauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-apikey/apikey"
)

// maxBody bounds the body of a management request. The largest that a Manager accepts
// with the default Limits has less than half of it.
const maxBody = 64 << 10

// Errors of [ReadJSON] about the whole body. [Refused] knows them.
var (
	// ErrBodyTooLarge: the body has more than 64 KiB.
	ErrBodyTooLarge = errors.New("httpauth: the body has more than 64 KiB")
	// ErrMediaType: the Content-Type is not application/json, or names another charset
	// than UTF-8; or a Content-Encoding says that the body is compressed.
	ErrMediaType = errors.New("httpauth: the body is not application/json in UTF-8")
)

// ReadJSON reads the body of a management request into the struct that into points to: an
// [apikey.IssueRequest], an [apikey.UpdateRequest], or a struct of the program's own, which
// may embed one of them. A member is stored in the field with that name in its json tag.
//
// A body is refused rather than guessed at: with a member that no field has (in the exact
// letters), a member twice, a value of another type, null inside an array or an object, a
// time or ID that is zero, or anything after the object. without lists members of the
// struct that the body must not have: the key of an UpdateRequest is that of the URL, so
// "key" is left out there.
//
// null stands for a member that is absent, except for an [apikey.Field], which null clears.
// A body of zero bytes is an object without members. In networks, a bare address stands for
// the network of that address alone.
//
// Errors, each of which [Refused] makes an answer of: ErrBodyTooLarge, ErrMediaType, and
// *[apikey.InvalidError] for each wrong member, with its name as Field, all in one error
// (see [apikey.InvalidFields]). If the body is not JSON, not UTF-8 or not an object, or the
// client hangs up, the error is an InvalidError without a Field.
func ReadJSON(r *http.Request, into any, without ...string) error {
	text, err := readBody(r)
	if err != nil || len(text) == 0 {
		return err
	}
	b := bodyReader{without: without}
	b.object("", text, reflect.ValueOf(into).Elem())
	return errors.Join(b.wrong...)
}

func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || len(text) > maxBody {
		return nil, ErrBodyTooLarge
	}
	switch {
	case err != nil:
		return nil, &apikey.InvalidError{Code: apikey.InvalidMalformed}
	case len(text) == 0:
		return nil, nil
	case !isJSON(r.Header):
		return nil, ErrMediaType
	case !utf8.Valid(text): // encoding/json would replace the wrong bytes
		return nil, &apikey.InvalidError{Code: apikey.InvalidText}
	case !json.Valid(text):
		return nil, &apikey.InvalidError{Code: apikey.InvalidMalformed}
	}
	return text, nil
}

// isJSON reports whether the body says that it is JSON, and is read as it is: a filter
// before the program that unpacks a body, because a header says so, would read another one.
// A form that another site posts cannot say that it is JSON without a preflight.
func isJSON(h http.Header) bool {
	if len(h.Values("Content-Type")) != 1 || len(h.Values("Content-Encoding")) > 0 {
		return false
	}
	media, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return false
	}
	charset, named := params["charset"]
	return !named || strings.EqualFold(charset, "utf-8")
}

// bodyReader reads one body.
type bodyReader struct {
	without []string
	wrong   []error
}

func (b *bodyReader) refuse(field string, code apikey.InvalidCode, value string) {
	b.wrong = append(b.wrong, &apikey.InvalidError{Field: field, Code: code, Value: value})
}

// object reads the members of an object into the fields of a struct. Their names in
// errors begin with prefix.
func (b *bodyReader) object(prefix string, text []byte, into reflect.Value) {
	members, ok := membersOf(text)
	if !ok {
		b.refuse(strings.TrimSuffix(prefix, "."), apikey.InvalidMalformed, "")
		return
	}
	fields := fieldsOf(into.Type())
	seen := map[string]bool{}
	for _, m := range members {
		name := prefix + m.name
		index, known := fields[m.name]
		switch {
		case !known || slices.Contains(b.without, name):
			b.refuse(name, apikey.InvalidUnknown, m.name)
		case seen[m.name]: // two readers could take two values of it
			b.refuse(name, apikey.InvalidSeveral, "")
		default:
			b.member(name, m.value, into.FieldByIndex(index))
		}
		seen[m.name] = true
	}
}

// member reads one value into a field. A struct is read member by member, so that those
// are checked too, unless its type reads itself.
func (b *bodyReader) member(name string, text []byte, into reflect.Value) {
	pointer := into.Addr().Interface()
	_, reads := pointer.(json.Unmarshaler)
	isNull := string(text) == "null"
	switch {
	case isNull && !reads:
		return
	case into.Kind() == reflect.Struct && !reads && !isText(pointer):
		b.object(name+".", text, into)
		return
	}
	if t := into.Type(); t == reflect.TypeFor[[]netip.Prefix]() || t == reflect.TypeFor[apikey.Field[[]netip.Prefix]]() {
		text = withBits(text)
	}
	err := json.Unmarshal(text, pointer)
	if err == nil {
		zero, hasZero := into.Interface().(interface{ IsZero() bool })
		if !isNull && (hasZero && zero.IsZero() || !strict(text, maxDepth)) {
			b.refuse(name, apikey.InvalidMalformed, "")
		}
		return
	}
	if own, ok := errors.AsType[*apikey.InvalidError](err); ok { // of a type of the root, which knows more
		named := *own
		named.Field = name
		b.wrong = append(b.wrong, &named)
		return
	}
	b.refuse(name, apikey.InvalidMalformed, wrongPart(text, into.Type()))
}

// isText reports whether a type reads itself from a JSON string, so that it has no members.
func isText(pointer any) bool {
	_, ok := pointer.(interface{ UnmarshalText([]byte) error })
	return ok
}

// fieldsOf returns where the members of a struct are stored, by name.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if have, taken := fields[name]; name == "" || name == "-" || !f.IsExported() || taken && len(have) <= len(f.Index) {
			continue // as encoding/json has it, a field hides one of the same name that is deeper
		}
		fields[name] = f.Index
	}
	return fields
}

type jsonMember struct {
	name  string
	value json.RawMessage
}

// membersOf splits valid JSON into the members of an object, in their order.
func membersOf(text []byte) (members []jsonMember, ok bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return nil, false
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, false
		}
		m := jsonMember{name: name.(string)}
		if err := d.Decode(&m.value); err != nil {
			return nil, false
		}
		members = append(members, m)
	}
	return members, true
}

// maxDepth bounds how deep values nest. Each level is read anew, so without a bound a
// body of 64 KiB would take seconds.
const maxDepth = 8

// strict reports whether the value has no null inside it, which encoding/json reads as
// the empty value, no object with a member twice, and at most depth levels.
func strict(text []byte, depth int) bool {
	if depth == 0 {
		return false
	}
	switch text[0] {
	case '{':
		members, ok := membersOf(text)
		seen := map[string]bool{}
		for _, m := range members {
			if seen[m.name] || string(m.value) == "null" || !strict(m.value, depth-1) {
				return false
			}
			seen[m.name] = true
		}
		return ok
	case '[':
		var items []json.RawMessage
		if json.Unmarshal(text, &items) != nil {
			return false
		}
		for _, item := range items {
			if string(item) == "null" || !strict(item, depth-1) {
				return false
			}
		}
	}
	return true
}

// withBits gives each bare address in an array of networks its own length. An address
// with a zone stays as it is, and is refused: no client's address has one.
func withBits(text []byte) []byte {
	var items []string
	if json.Unmarshal(text, &items) != nil {
		return text
	}
	for i, item := range items {
		if a, err := netip.ParseAddr(item); err == nil && a.Zone() == "" {
			items[i] = netip.PrefixFrom(a, a.BitLen()).String()
		}
	}
	written, err := json.Marshal(items)
	if err != nil || items == nil {
		return text
	}
	return written
}

// wrongPart returns what is wrong in a value that its type has refused: the first string
// of an array that is refused alone, or the string itself. It is empty for anything else.
func wrongPart(text []byte, t reflect.Type) string {
	var one string
	if json.Unmarshal(text, &one) == nil {
		return one
	}
	var items []json.RawMessage
	if json.Unmarshal(text, &items) != nil {
		return ""
	}
	for _, item := range items {
		alone := slices.Concat([]byte("["), item, []byte("]"))
		if json.Unmarshal(alone, reflect.New(t).Interface()) != nil && json.Unmarshal(item, &one) == nil {
			return one
		}
	}
	return ""
}
