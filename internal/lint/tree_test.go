package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is this module's path.
const module = "github.com/walsvc/walsvc"

// A sourceFile is one parsed Go file.
type sourceFile struct {
	*ast.File
	name string // from the root, with slashes
	dir  string // of name: also the package's path in the module
	test bool
	// apart is set in modules of their own, which are there for the sake of
	// what they import and which nothing here may import.
	apart bool
}

// A sourceTree is every file of the repository.
type sourceTree struct {
	root  string
	fset  *token.FileSet
	files []string // from the root, with slashes, sorted
	code  []sourceFile
}

// tree reads the repository once for all tests.
var tree = sync.OnceValues(func() (*sourceTree, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	t := &sourceTree{root: root, fset: token.NewFileSet()}
	err = filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if entry.IsDir() {
			if slices.Contains([]string{".git", ".bin", "bin", "walsvc-data"}, name) {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		t.files = append(t.files, name)
		if path.Ext(name) != ".go" {
			return nil
		}
		parsed, err := parser.ParseFile(t.fset, file, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		t.code = append(t.code, sourceFile{File: parsed, name: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go")})
		return nil
	})
	for i := range t.code {
		for dir := t.code[i].dir; dir != "."; dir = path.Dir(dir) {
			t.code[i].apart = t.code[i].apart || slices.Contains(t.files, dir+"/go.mod")
		}
	}
	return t, err
})

// repository returns the tree.
func repository(t *testing.T) *sourceTree {
	t.Helper()
	r, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// read returns the text of a file.
func (r *sourceTree) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// exists reports whether the repository has a file, or a directory with files.
func (r *sourceTree) exists(name string) bool {
	i, found := slices.BinarySearch(r.files, name)
	return found || i < len(r.files) && strings.HasPrefix(r.files[i], name+"/") ||
		slices.ContainsFunc(r.files, func(f string) bool { return strings.HasPrefix(f, name+"/") })
}

// at says where a node is, for people.
func (r *sourceTree) at(n ast.Node) string {
	p := r.fset.Position(n.Pos())
	if name, err := filepath.Rel(r.root, p.Filename); err == nil {
		p.Filename = filepath.ToSlash(name)
	}
	return p.String()
}

// imports returns the paths that a file imports.
func (f sourceFile) imports() []string {
	var out []string
	for _, i := range f.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// ours returns the path within the module, and whether it is in it.
func ours(importPath string) (string, bool) {
	return strings.CutPrefix(importPath, module+"/")
}
