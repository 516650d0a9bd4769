package apitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// answers are the types that a method of the Manager, of a Verifier, a Tx, a Catalog or
// a Key returns. TestEveryAnswerIsListed finds the methods, so that none is forgotten.
var answers = map[string]reflect.Type{
	"Info": reflect.TypeFor[apikey.Info](), "KeyList": reflect.TypeFor[apikey.KeyList](), "Issued": reflect.TypeFor[apikey.Issued](),
	"Provisioned": reflect.TypeFor[apikey.Provisioned](), "Revealed": reflect.TypeFor[apikey.Revealed](), "RevokedAll": reflect.TypeFor[apikey.RevokedAll](),
	"EventList": reflect.TypeFor[apikey.EventList](), "ChainReport": reflect.TypeFor[apikey.ChainReport](), "Challenge": reflect.TypeFor[apikey.Challenge](),
	"CatalogEntry": reflect.TypeFor[apikey.CatalogEntry](), "Rules": reflect.TypeFor[apikey.Rules](),
}

// notObjects are results that are no JSON object.
var notObjects = map[string]string{
	"Grant":      "prints redacted: its text is in Reveal",
	"Enrollment": "prints redacted: its text is in URI",
	"Key":        "its JSON is that of its Info",
	"Tx":         "is no answer",
	"Verifier":   "is no answer",
	"Ability":    "is a text",
	"Mode":       "is a text",
}

// notReadBack are the fields that do not read back, and why.
var notReadBack = map[string]string{
	"CredentialInfo.Pepper": "internal: not written",
	"CorruptError.Detail":   "for operators: not written",
	"CorruptError.Account":  "for operators: not written",
	"Actor.operator":        "written, and never read: whoever writes the JSON would become an Operator",
	"Issued.Token":          "a secret token is written redacted",
	"Revealed.Token":        "a secret token is written redacted",
	"CatalogEntry.Parse":    "code",
}

// otherTags are those of the fields whose member is not called like them, and of those
// that MarshalJSON writes or nothing does.
var otherTags = map[string]string{
	"KeyList.Keys": "data", "EventList.Events": "data",
	"Revealed.HideAfter": "-", "CredentialInfo.Pepper": "-", "CorruptError.Detail": "-", "CorruptError.Account": "-", "CatalogEntry.Parse": "-", "Limits.Overlap": "-",
	"Rules.Skew": "-", "Rules.ChallengeTime": "-", "Rules.GrantTime": "-", "Rules.HideAfter": "-",
}

func TestEveryAnswerIsListed(t *testing.T) {
	found := map[string]bool{}
	for _, s := range sources(t) {
		if s.pkg == "." && !s.test {
			for _, name := range s.results("Manager", "Verifier", "Tx", "Catalog", "Key") {
				found[name] = true
			}
		}
	}
	listed := slices.Sorted(maps.Keys(answers))
	listed = append(listed, slices.Collect(maps.Keys(notObjects))...)
	slices.Sort(listed)
	require.Equal(t, listed, slices.Sorted(maps.Keys(found)), "results of exported methods: answers and notObjects list them")
}

// results lists the exported types that the exported methods of some types return.
func (s source) results(of ...string) (names []string) {
	add := func(name *ast.Ident, f *ast.FuncType) {
		if name.IsExported() && f.Results != nil {
			for _, r := range f.Results.List {
				ast.Inspect(r.Type, func(n ast.Node) bool {
					if _, foreign := n.(*ast.SelectorExpr); foreign {
						return false
					}
					if id, ok := n.(*ast.Ident); ok && id.IsExported() {
						names = append(names, id.Name)
					}
					return true
				})
			}
		}
	}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				continue
			}
			typ := d.Recv.List[0].Type
			if star, ok := typ.(*ast.StarExpr); ok {
				typ = star.X
			}
			if id, ok := typ.(*ast.Ident); ok && slices.Contains(of, id.Name) {
				add(d.Name, d.Type)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				typ, ok := spec.(*ast.TypeSpec)
				if !ok || !slices.Contains(of, typ.Name.Name) {
					continue
				}
				if iface, ok := typ.Type.(*ast.InterfaceType); ok {
					for _, m := range iface.Methods.List {
						add(m.Names[0], m.Type.(*ast.FuncType))
					}
				}
			}
		}
	}
	return names
}

// objects are the answers, and every struct of the package inside them.
func objects() (all []reflect.Type) {
	var reach func(typ reflect.Type)
	reach = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Slice, reflect.Pointer:
			reach(typ.Elem())
		case reflect.Struct:
			if typ.PkgPath() != module || opaque(typ) || slices.Contains(all, typ) {
				return
			}
			all = append(all, typ)
			for i := range typ.NumField() {
				if f := typ.Field(i); f.IsExported() {
					reach(f.Type)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		reach(answers[name])
	}
	reach(reflect.TypeFor[apikey.CredentialInfo]()) // in a View
	return all
}

// opaque reports whether a type has no field that is a member.
func opaque(typ reflect.Type) bool {
	return strings.HasPrefix(typ.Name(), "View[") || slices.Contains([]string{"Metadata", "Token"}, typ.Name())
}

var snakeCase = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// Every field of every answer is a member called like the field, and no field is
// written by accident.
func TestJSONMembers(t *testing.T) {
	upper := regexp.MustCompile(`([a-z0-9])([A-Z])`)
	seen, fields := map[string]bool{}, 0
	for _, typ := range objects() {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() {
				continue
			}
			fields++
			where := typ.Name() + "." + f.Name
			seen[where] = true
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			require.Equal(t, cmp.Or(otherTags[where], strings.ToLower(upper.ReplaceAllString(f.Name, "${1}_${2}"))), name, where)
		}
	}
	require.Greater(t, fields, 70)
	for where := range otherTags {
		require.True(t, seen[where], "%s does not exist", where)
	}
}

// A jsonFill fills every exported field of an answer.
type jsonFill struct {
	t      *testing.T
	secret apikey.Token // of a secret key
	public apikey.Token // in CredentialInfo.Public
	read   bool         // as it reads back: without what notReadBack lists
	used   map[string]bool
}

func newJSONFill(t *testing.T) *jsonFill {
	e := newEnv(t)
	public := e.issue(func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, []string{"card:tokenise"} })
	return &jsonFill{t: t, secret: e.issue().Token, public: public.Token, used: map[string]bool{}}
}

// of returns a pointer to a filled value.
func (f *jsonFill) of(typ reflect.Type) reflect.Value {
	v := reflect.New(typ)
	f.fill(v.Elem(), typ.Name())
	return v
}

func (f *jsonFill) fill(v reflect.Value, where string) {
	if _, except := notReadBack[where]; except {
		f.used[where] = true
		if f.read {
			return
		}
	}
	if known := f.known(v.Type(), where); known != nil {
		v.Set(reflect.ValueOf(known))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() {
				f.fill(v.Field(i), v.Type().Name()+"."+field.Name)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), where)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			f.fill(v.Index(i), where+"[]")
		}
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(i + 1))
		}
	case reflect.Func:
		v.Set(reflect.MakeFunc(v.Type(), func([]reflect.Value) []reflect.Value { panic("only written") }))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("text <&> \u00e9")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(7)
	}
	require.False(f.t, v.IsZero(), "%s: no value is known for type %s", where, v.Type())
}

// known returns values of the types that fill cannot make, and of those where not every
// value is valid.
func (f *jsonFill) known(typ reflect.Type, where string) any {
	switch typ {
	case reflect.TypeFor[time.Time]():
		return time.Date(2027, 12, 31, 23, 59, 59, 123_456_000, time.UTC)
	case reflect.TypeFor[time.Duration]():
		return 30*time.Second + time.Millisecond
	case reflect.TypeFor[apikey.Token]():
		if where == "CredentialInfo.Public" {
			return f.public
		}
		return f.secret
	case reflect.TypeFor[apikey.Mode]():
		return apikey.Test
	case reflect.TypeFor[apikey.Kind]():
		return apikey.Publishable
	case reflect.TypeFor[apikey.State]():
		return apikey.Suspended
	case reflect.TypeFor[apikey.Actor]():
		a := apikey.Actor{}
		if !f.read {
			a = apikey.Operator("x")
		}
		f.used["Actor.operator"] = true
		v := reflect.ValueOf(&a).Elem()
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.fill(v.Field(i), "Actor."+v.Type().Field(i).Name)
			}
		}
		return a
	case reflect.TypeFor[apikey.Metadata]():
		return apikey.NewMetadata(map[string]string{"Shop ID": "7", "": "empty"})
	case reflect.TypeFor[apikey.Abilities]():
		return apikey.NewView[apikey.Ability](apikey.Scope("payment:*"), apikey.Access{Product: "balance", Level: apikey.Write})
	case reflect.TypeFor[apikey.View[netip.Prefix]]():
		return apikey.NewView(netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32"))
	case reflect.TypeFor[apikey.View[string]]():
		return apikey.NewView("https://shop.example", "")
	case reflect.TypeFor[apikey.View[apikey.CredentialInfo]]():
		one := f.of(reflect.TypeFor[apikey.CredentialInfo]()).Elem().Interface().(apikey.CredentialInfo)
		return apikey.NewView(one, apikey.CredentialInfo{Hint: "abcd"})
	}
	return nil
}

// Every answer with all of its fields: what it writes, and that it reads back.
func TestAnswersReadBack(t *testing.T) {
	fill := newJSONFill(t)
	var secrets detector
	secrets.learn("secret token", []byte(fill.secret.Reveal()[len("acme_sk_live_")+22:]))
	for _, typ := range objects() {
		t.Run(typ.Name(), func(t *testing.T) {
			fill.t, fill.read = t, false
			filled := fill.of(typ)
			fill.read = true
			want := fill.of(typ)
			text, err := json.Marshal(filled.Interface())
			require.NoError(t, err)
			require.Empty(t, secrets.find(string(text)), "%s", text)
			checkMembers(t, text)
			byValue, err := json.Marshal(filled.Elem().Interface())
			require.NoError(t, err)
			require.Equal(t, string(text), string(byValue))

			for how, read := range map[string]func([]byte, any) error{
				"json.Unmarshal": json.Unmarshal,
				"a strict Decoder": func(b []byte, v any) error {
					d := json.NewDecoder(bytes.NewReader(b))
					d.DisallowUnknownFields()
					return d.Decode(v)
				},
				"json.Unmarshal, with members of a newer version": func(b []byte, v any) error {
					return json.Unmarshal(withMember(t, b), v)
				},
				"json.Unmarshal, into what was there before": func(b []byte, v any) error {
					reflect.ValueOf(v).Elem().Set(filled.Elem())
					forget(reflect.ValueOf(v).Elem()) // a member that is absent keeps, as ever
					return json.Unmarshal(b, v)
				},
			} {
				back := reflect.New(typ)
				require.NoError(t, read(text, back.Interface()), "%s of %s", how, text)
				require.Empty(t, difference(want, back, typ.Name()), "%s of %s", how, text)
			}

			zero := reflect.New(typ)
			text, err = json.Marshal(zero.Interface())
			require.NoError(t, err)
			checkMembers(t, text)
			back := reflect.New(typ)
			require.NoError(t, json.Unmarshal(text, back.Interface()), "%s", text)
			require.Empty(t, difference(zero, back, typ.Name()), "%s", text)

			// Every member null is the zero value too.
			nulls := map[string]any{}
			text, err = json.Marshal(filled.Interface())
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(text, &nulls))
			for name := range nulls {
				nulls[name] = nil
			}
			text, err = json.Marshal(nulls)
			require.NoError(t, err)
			back = reflect.New(typ)
			require.NoError(t, json.Unmarshal(text, back.Interface()), "%s", text)
			require.Empty(t, difference(zero, back, typ.Name()), "%s", text)
		})
	}
	for where := range notReadBack {
		require.True(t, fill.used[where], "%s does not exist", where)
	}
}

// forget clears the fields that do not read back.
func forget(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			forget(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			forget(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			switch field := v.Type().Field(i); {
			case !field.IsExported():
			case notReadBack[v.Type().Name()+"."+field.Name] != "":
				v.Field(i).SetZero()
			default:
				forget(v.Field(i))
			}
		}
	}
}

// checkMembers looks at names and values of everything in a JSON text.
func checkMembers(t *testing.T, text []byte) {
	t.Helper()
	require.NotContains(t, string(text), "0001-01-01")
	var check func(v any, free bool)
	check = func(v any, free bool) {
		switch v := v.(type) {
		case nil:
			t.Errorf("a null in %s", text)
		case []any:
			for _, item := range v {
				check(item, false)
			}
		case map[string]any:
			for name, item := range v {
				if !free && !snakeCase.MatchString(name) {
					t.Errorf("member %q in %s", name, text)
				}
				check(item, name == "metadata")
			}
		}
	}
	var v any
	require.NoError(t, json.Unmarshal(text, &v))
	check(v, false)
}

// withMember adds a member to each object but Metadata.
func withMember(t *testing.T, text []byte) []byte {
	var add func(v any)
	add = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				add(item)
			}
		case map[string]any:
			for name, item := range v {
				if name != "metadata" {
					add(item)
				}
			}
			v["of_a_newer_version"] = []any{map[string]any{"a": 1.5}, nil}
		}
	}
	var v any
	require.NoError(t, json.Unmarshal(text, &v))
	add(v)
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return text
}

// difference returns where two values of a type differ; "" is nowhere. Tokens are
// compared by their texts, and times with their zones. Both have to be addressable.
func difference(a, b reflect.Value, where string) string {
	if a.Kind() == reflect.Pointer {
		if a.IsNil() || b.IsNil() {
			if a.IsNil() != b.IsNil() {
				return where + ": one is nil"
			}
			return ""
		}
		return difference(a.Elem(), b.Elem(), where)
	}
	a, b = opened(a), opened(b)
	switch x := a.Interface().(type) {
	case apikey.Token:
		if x.Reveal() != b.Interface().(apikey.Token).Reveal() || x.IsZero() != b.Interface().(apikey.Token).IsZero() {
			return where + ": another token"
		}
		return ""
	case time.Time:
		if y := b.Interface().(time.Time); x != y {
			return fmt.Sprintf("%s: %v, %v", where, x, y)
		}
		return ""
	}
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			if d := difference(a.Field(i), b.Field(i), where+"."+a.Type().Field(i).Name); d != "" {
				return d
			}
		}
		return ""
	case reflect.Slice:
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return fmt.Sprintf("%s: %d, %d items", where, a.Len(), b.Len())
		}
		for i := range a.Len() {
			if d := difference(a.Index(i), b.Index(i), fmt.Sprintf("%s[%d]", where, i)); d != "" {
				return d
			}
		}
		return ""
	}
	if !reflect.DeepEqual(a.Interface(), b.Interface()) {
		return fmt.Sprintf("%s: %#v, %#v", where, a, b)
	}
	return ""
}

// opened returns a value that reflection lets one read, also if it is in an unexported
// field.
func opened(v reflect.Value) reflect.Value {
	return reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
}

// A comparison that never finds a difference would prove nothing.
func TestDifferenceIsFound(t *testing.T) {
	fill := newJSONFill(t)
	for _, typ := range objects() {
		for i := range typ.NumField() {
			if f := typ.Field(i); f.IsExported() {
				a, b := fill.of(typ), fill.of(typ)
				b.Elem().Field(i).SetZero()
				require.NotEmpty(t, difference(a, b, typ.Name()), "%s.%s", typ.Name(), f.Name)
			}
		}
	}
	infos := []apikey.Info{{ExpiresAt: time.Unix(0, 0).UTC()}, {ExpiresAt: time.Unix(0, 0).In(time.FixedZone("", 60))}}
	require.NotEmpty(t, difference(reflect.ValueOf(&infos[0]), reflect.ValueOf(&infos[1]), ""), "another zone")
}

// The texts of what is enumerated are no Go names.
func TestEnumeratedTextsAreNoGoNames(t *testing.T) {
	text := regexp.MustCompile(`^[a-z][a-z_]*(\.[a-z_]+)?$`)
	found := 0
	for _, s := range sources(t) {
		if s.pkg != "." || s.test {
			continue
		}
		for _, d := range s.file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, spec := range g.Specs {
				c := spec.(*ast.ValueSpec)
				if c.Type == nil || !c.Names[0].IsExported() || len(c.Values) == 0 {
					continue
				}
				if value, ok := c.Values[0].(*ast.BasicLit); ok && value.Kind == token.STRING {
					found++
					unquoted, err := strconv.Unquote(value.Value)
					require.NoError(t, err)
					require.Regexp(t, text, unquoted, c.Names[0].Name)
				}
			}
		}
	}
	require.Greater(t, found, 35, "actions, outcomes, doubts, reasons and statuses were read")
	for _, v := range []any{apikey.Live, apikey.Test, apikey.Secret, apikey.Publishable, apikey.Active, apikey.Suspended, apikey.Revoked} {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		require.Regexp(t, `^"[a-z]+"$`, string(b))
	}
}
