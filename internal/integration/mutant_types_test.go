package integration

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// typeChecker checks the types of a package in which one file is another. That takes
// a fiftieth of a second, so that a mutant which does not build, and would prove
// nothing, is found before its turn comes.
type typeChecker struct {
	files    *token.FileSet
	imports  types.Importer
	packages map[string]map[string]*ast.File // by directory and name
}

func newTypeChecker(t *testing.T, root string) *typeChecker {
	t.Helper()
	list := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export", "./...")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := map[string]string{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct{ ImportPath, Export string }
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
	}
	c := &typeChecker{files: token.NewFileSet(), packages: map[string]map[string]*ast.File{}}
	c.imports = importer.ForCompiler(c.files, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	return c
}

// check returns why the package of file does not compile once text is in file.
func (c *typeChecker) check(file, text string) error {
	dir, name := filepath.Split(file)
	known, err := c.parsed(dir)
	if err != nil {
		return err
	}
	changed, err := parser.ParseFile(c.files, name, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	all := []*ast.File{changed}
	for other, f := range known {
		if other != name {
			all = append(all, f)
		}
	}
	_, err = (&types.Config{Importer: c.imports}).Check(changed.Name.Name, c.files, all, nil)
	return err
}

func (c *typeChecker) parsed(dir string) (map[string]*ast.File, error) {
	if c.packages[dir] != nil {
		return c.packages[dir], nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	all := map[string]*ast.File{}
	for _, file := range names {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(c.files, file, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		all[filepath.Base(file)] = f
	}
	c.packages[dir] = all
	return all, nil
}
