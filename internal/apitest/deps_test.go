package apitest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/go-apikey/apikey"

// layers lists the packages of this module from the bottom up; "." is the
// root. A package may import only packages of the layers below its own, so that
// no store imports another, and whoever reads one reads what is below it and
// nothing else. It is a statement of policy, as go/build's deps_test.go is: do
// not edit it to fix a build.
var layers = [][]string{
	{"internal/"},
	{"."},
	{"memstore", "sqlstore", "storetest", "httpauth"},
	{"apikeytest", "admin/internal/"}, // a whole program, for the tests of others; what both fronts of management share
	{"admin"},
	{"admin/keypage"},
	{"examples/stepup/sink"}, // a mail server for the example beside it
	{"examples/"},
}

// only lists imports that not every package may make, with everything from
// outside the standard library, and who may make them. A module that is missing
// here is allowed nobody: whoever embeds the library pays for what it imports.
var only = map[string][]string{
	"golang.org/x/crypto/argon2": {"."},
	"github.com/google/uuid":     {"."},
	"modernc.org/sqlite":         {"examples/"},
	"rsc.io/qr":                  {"admin/keypage"}, // the setup key of an authenticator, as a picture

	"unsafe":        {".", "internal/apitest"},
	"net/http":      {"httpauth", "admin", "admin/internal/door", "admin/keypage", "examples/"}, // the domain knows no transport
	"html/template": {"admin/keypage", "examples/"},                                             // pages are of one package
	"embed":         {"sqlstore", "admin", "admin/keypage", "examples/dashboard"},               // schemas, the description of the JSON API, pages
	"time/tzdata":   {"examples/"},                                                              // 450 kB in each program that links it
	"database/sql":  {"sqlstore", "examples/"},                                                  // nor an engine
	"testing":       {"storetest", "apikeytest"},                                                // linked into a server it registers flags
	"math/rand":     {".", "sqlstore", "storetest"},                                             // for jitter; secrets come from crypto/rand
}

// onlyInTests lists what test files may import besides.
var onlyInTests = []string{
	"github.com/stretchr/testify", "modernc.org/sqlite", "testing", "net/http", "database/sql", "golang.org/x/crypto/argon2", "math/rand", "time/tzdata",
}

// source is one file of this module.
type source struct {
	path string // with '/'
	pkg  string // its directory, "." for the root
	test bool
	text []byte
	fset *token.FileSet
	file *ast.File
}

// sources parses every file of this module. Directories with a go.mod of their
// own are other modules.
func sources(t *testing.T) (all []source) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(root), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if _, err := os.Stat(filepath.Join(root, file, "go.mod")); file != "." && (err == nil || strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") {
			return nil
		}
		s := source{path: file, test: strings.HasSuffix(file, "_test.go"), fset: token.NewFileSet()}
		s.pkg = path.Dir(s.path)
		if s.text, err = os.ReadFile(filepath.Join(root, file)); err != nil {
			return err
		}
		s.file, err = parser.ParseFile(s.fset, file, s.text, parser.ParseComments)
		all = append(all, s)
		return err
	})
	require.NoError(t, err)
	require.NotEmpty(t, all, "a test that reads no file proves nothing")
	for _, pkg := range []string{".", "memstore", "storetest", "internal/base62"} {
		require.True(t, slices.ContainsFunc(all, func(s source) bool { return s.pkg == pkg && !s.test }), "no file of %s was read", pkg)
	}
	return all
}

// within reports whether pkg is the package of a rule, or below it if the rule
// ends in '/'.
func within(pkg, rule string) bool {
	return pkg == rule || strings.HasSuffix(rule, "/") && strings.HasPrefix(pkg, rule)
}

func layerOf(pkg string) int {
	return slices.IndexFunc(layers, func(rules []string) bool {
		return slices.ContainsFunc(rules, func(rule string) bool { return within(pkg, rule) })
	})
}

// ruleOf finds the rule that covers an import path: that of the path or of the
// nearest one above it.
func ruleOf(imported string) (rule []string, found bool) {
	for p := imported; p != "." && p != "/"; p = path.Dir(p) {
		if rule, found = only[p]; found {
			return rule, true
		}
	}
	return nil, false
}

// faultOf says what is wrong with one import; "" is nothing.
func faultOf(from string, test bool, imported string) string {
	if rest, ours := strings.CutPrefix(imported+"/", module+"/"); ours {
		to := path.Clean(rest) // "." for the root
		switch {
		case layerOf(from) < 0 || layerOf(to) < 0:
			return fmt.Sprintf("%s or %s has no layer", from, to)
		case !test && layerOf(to) >= layerOf(from):
			return "arrows only downward"
		}
		return ""
	}
	first, _, _ := strings.Cut(imported, "/")
	foreign := strings.Contains(first, ".")
	rule, ruled := ruleOf(imported)
	allowed := slices.ContainsFunc(rule, func(r string) bool { return within(from, r) })
	if test && slices.ContainsFunc(onlyInTests, func(p string) bool { return imported == p || strings.HasPrefix(imported, p+"/") }) {
		allowed = true
	}
	switch {
	case allowed, !foreign && !ruled:
		return ""
	case from == "storetest" && foreign:
		return "authors of other stores would have to require it too"
	}
	return "not allowed here"
}

func TestImportsOnlyGoDown(t *testing.T) {
	arrows := 0
	for _, s := range sources(t) {
		if layerOf(s.pkg) < 0 {
			t.Errorf("%s: package %s has no layer", s.path, s.pkg)
		}
		for _, spec := range s.file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			arrows++
			if fault := faultOf(s.pkg, s.test, imported); fault != "" {
				t.Errorf("%s imports %s: %s", s.path, imported, fault)
			}
		}
	}
	require.Greater(t, arrows, 100)
}

// The rules, tried on imports that nobody has made yet.
func TestImportRulesCatch(t *testing.T) {
	for _, c := range []struct {
		from     string
		test     bool
		imported string
		ok       bool
	}{
		{".", false, module + "/internal/base62", true},
		{"memstore", false, module, true},
		{"examples/gateway", false, module + "/sqlstore", true},
		{".", true, module + "/memstore", true},
		{"internal/base62", false, module, false},
		{"internal/base62", false, module + "/internal/totp", false},
		{".", false, module + "/memstore", false},
		{"sqlstore", false, module + "/memstore", false},
		{"storetest", false, module + "/memstore", false},
		{"httpauth", false, module + "/sqlstore", false},
		{"memstore", false, module + "/examples/gateway", false},
		{"elsewhere", false, module, false},
		{".", false, "golang.org/x/crypto/argon2", true},
		{"sqlstore", false, "golang.org/x/crypto/argon2", false},
		{".", false, "golang.org/x/crypto/bcrypt", false},
		{".", false, "github.com/google/uuid", true},
		{"memstore", false, "github.com/google/uuid", false},
		{"memstore", false, "github.com/stretchr/testify/require", false},
		{"memstore", true, "github.com/stretchr/testify/require", true},
		{"storetest", false, "github.com/stretchr/testify/assert", false},
		{"storetest", false, "testing", true},
		{".", false, "testing", false},
		{"memstore", false, "testing/synctest", false},
		{"sqlstore", false, "modernc.org/sqlite", false},
		{"sqlstore", true, "modernc.org/sqlite", true},
		{"examples/gateway", false, "modernc.org/sqlite", true},
		{".", false, "net/http", false},
		{".", false, "net/http/httptrace", false},
		{".", false, "net/netip", true},
		{"httpauth", false, "net/http", true},
		{"admin/keypage", false, "net/http", true},
		{"admin/keypage", false, module + "/admin", true},
		{"admin", false, module + "/admin/keypage", false},
		{"admin", false, "html/template", false},
		{"admin/keypage", false, "html/template", true},
		{"admin", false, "rsc.io/qr", false},
		{"admin/keypage", false, "rsc.io/qr", true},
		{"examples/dashboard", false, "rsc.io/qr/coding", false},
		{".", false, "embed", false},
		{"admin/keypage", false, "embed", true},
		{"admin", false, "time/tzdata", false},
		{".", false, "database/sql/driver", false},
		{"sqlstore", false, "database/sql/driver", true},
		{"memstore", false, "database/sql", false},
		{".", false, "math/rand/v2", true},
		{"memstore", false, "math/rand/v2", false},
		{"internal/base62", false, "math/rand", false},
		{"sqlstore", false, "unsafe", false},
		{".", true, "github.com/redis/go-redis/v9", false},
	} {
		require.Equal(t, c.ok, faultOf(c.from, c.test, c.imported) == "", "%+v: %s", c, faultOf(c.from, c.test, c.imported))
	}
}

// The module itself requires nothing that its packages may not import.
func TestRequirementsAreThoseOfTheImports(t *testing.T) {
	direct := 0
	for line := range strings.Lines(textOf(t, "go.mod")) {
		fields := strings.Fields(line)
		if len(fields) != 2 || !strings.HasPrefix(fields[1], "v") || !strings.Contains(fields[0], ".") {
			continue // indirect ones have a comment
		}
		direct++
		known := slices.Contains(onlyInTests, fields[0])
		for imported := range only {
			known = known || imported == fields[0] || strings.HasPrefix(imported, fields[0]+"/")
		}
		require.True(t, known, "go.mod requires %s", fields[0])
	}
	require.Positive(t, direct)
}

// Every exported name says what it means. Error, String and Unwrap mean what
// they mean everywhere.
func TestEveryExportedNameIsDocumented(t *testing.T) {
	seen := 0
	packages := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || strings.HasPrefix(s.pkg, "examples/") {
			continue
		}
		packages[s.pkg] = packages[s.pkg] || s.file.Doc.Text() != ""
		for _, d := range s.file.Decls {
			for name, documented := range exported(d) {
				seen++
				if !documented {
					t.Errorf("%s: %s has no doc comment", s.path, name)
				}
			}
		}
	}
	require.Greater(t, seen, 150)
	for pkg, documented := range packages {
		if !documented {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// exported finds the exported names of a declaration, and whether each has a
// comment of its own or, in a group, the group's.
func exported(d ast.Decl) map[string]bool {
	names := map[string]bool{}
	switch d := d.(type) {
	case *ast.FuncDecl:
		if !d.Name.IsExported() || slices.Contains([]string{"Error", "String", "Unwrap"}, d.Name.Name) {
			break
		}
		name := d.Name.Name
		if d.Recv != nil {
			receiver := receiverOf(d)
			if !ast.IsExported(receiver) {
				break
			}
			name = receiver + "." + name
		}
		names[name] = d.Doc.Text() != ""
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					names[spec.Name.Name] = d.Doc.Text() != "" && len(d.Specs) == 1 || spec.Doc.Text() != ""
				}
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					if n.IsExported() {
						names[n.Name] = d.Doc.Text() != "" || spec.Doc.Text() != "" || spec.Comment.Text() != ""
					}
				}
			}
		}
	}
	return names
}

func receiverOf(d *ast.FuncDecl) string {
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}

// What does not fit on a few screens is not read. Counted without comments and
// blank lines; tables of tests are functions too, but may be long.
func TestFilesAndFunctionsAreShort(t *testing.T) {
	const maxFile, maxFunc = 400, 60
	functions := 0
	for _, s := range sources(t) {
		code := s.codeLines()
		if len(code) >= maxFile && !s.test {
			t.Errorf("%s has %d lines of code, want less than %d", s.path, len(code), maxFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.test {
				continue
			}
			functions++
			first, last := s.fset.Position(f.Pos()).Line, s.fset.Position(f.End()).Line
			n := 0
			for line := range code {
				if line >= first && line <= last {
					n++
				}
			}
			if n >= maxFunc {
				t.Errorf("%s: %s has %d lines of code, want less than %d", s.path, f.Name.Name, n, maxFunc)
			}
		}
	}
	require.Greater(t, functions, 200)
}

// codeLines is the set of lines with at least one token on them.
func (s source) codeLines() map[int]bool {
	lines := map[int]bool{}
	fset := token.NewFileSet()
	file := fset.AddFile(s.path, -1, len(s.text))
	var scan scanner.Scanner
	scan.Init(file, s.text, nil, 0) // comments are skipped
	for {
		pos, tok, lit := scan.Scan()
		if tok == token.EOF {
			return lines
		}
		if tok == token.SEMICOLON && lit == "\n" {
			continue
		}
		first := file.Line(pos)
		for line := first; line <= first+strings.Count(lit, "\n"); line++ { // raw strings
			lines[line] = true
		}
	}
}
