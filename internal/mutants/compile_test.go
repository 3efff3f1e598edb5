package mutants

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestMutantsCompile plants each mutant in a copy of the tree and checks the types of the
// packages that it is in. A patch that still applies may name what is called
// something else by now, and would be found out only when somebody plants all of them.
func TestMutantsCompile(t *testing.T) {
	root, mutants := inTree(t)
	dir := t.TempDir()
	if err := copyTree(root, dir); err != nil {
		t.Fatal(err)
	}
	c, err := newTypeChecker(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		patch, err := os.ReadFile(m.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := apply(dir, m.path); err != nil {
			t.Errorf("%s: %v", m.Name, err)
			continue
		}
		for _, in := range patched(string(patch)) {
			if err := c.check(dir, in); err != nil {
				t.Errorf("%s: %v", m.Name, err)
			}
		}
		if err := apply(dir, m.path, "--reverse"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTypeChecker: what would not compile is told.
func TestTypeChecker(t *testing.T) {
	root, _ := inTree(t)
	c, err := newTypeChecker(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := copyTree(root, dir); err != nil {
		t.Fatal(err)
	}
	if err := c.check(dir, "internal/limits"); err != nil {
		t.Error(err)
	}
	for _, source := range []string{"var x = notThere", "import \"fmt\"", "func f() { x := 1 }", "func f() int {}"} {
		if err := os.WriteFile(filepath.Join(dir, "internal", "limits", "limits.go"), []byte("package limits\n"+source), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.check(dir, "internal/limits"); err == nil {
			t.Errorf("%s: it compiles", source)
		}
	}
}

// patched returns the directories of the Go files that a patch changes.
func patched(patch string) (dirs []string) {
	for line := range strings.Lines(patch) {
		if file, ok := strings.CutPrefix(strings.TrimSpace(line), "+++ b/"); ok && strings.HasSuffix(file, ".go") {
			dirs = append(dirs, filepath.ToSlash(filepath.Dir(file)))
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// A typeChecker checks packages of the module against what the compiler made of those
// that they import.
type typeChecker struct {
	fset  *token.FileSet
	from  types.Importer
	files map[string][]string // of a package, without tests, by its directory in the tree
}

func newTypeChecker(root string) (*typeChecker, error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export,Dir,GoFiles", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	c := &typeChecker{fset: token.NewFileSet(), files: map[string][]string{}}
	exports := map[string]string{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Export, Dir string
			GoFiles                 []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("list packages: %w", err)
		}
		exports[p.ImportPath] = p.Export
		if in, err := filepath.Rel(root, p.Dir); err == nil && filepath.IsLocal(in) {
			c.files[filepath.ToSlash(in)] = p.GoFiles
		}
	}
	c.from = importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no package %s", path)
		}
		return os.Open(exports[path])
	})
	return c, nil
}

// check checks the package in a directory of a copy of the tree.
func (c *typeChecker) check(tree, in string) error {
	names, ok := c.files[in]
	if !ok {
		return fmt.Errorf("%s is no package of the module", in)
	}
	var files []*ast.File
	for _, name := range names {
		file, err := parser.ParseFile(c.fset, filepath.Join(tree, filepath.FromSlash(in), name), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	var errs []error
	o := types.Config{Importer: c.from, Sizes: types.SizesFor("gc", runtime.GOARCH), Error: func(err error) { errs = append(errs, err) }}
	_, _ = o.Check(in, c.fset, files, nil) // what it returns is the first of errs
	return errors.Join(errs...)
}
