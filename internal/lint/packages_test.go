package lint

import (
	"fmt"
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestPackageComments checks that each package says once what it is.
func TestPackageComments(t *testing.T) {
	r := repository(t)
	comments := map[string][]string{}
	for _, f := range r.code {
		if f.test {
			continue
		}
		if _, ok := comments[f.dir]; !ok {
			comments[f.dir] = nil
		}
		if f.Doc == nil {
			continue
		}
		comments[f.dir] = append(comments[f.dir], f.name)
		begins := "Package " + f.Name.Name + " "
		if f.Name.Name == "main" {
			begins = "Command " + path.Base(f.dir) + " "
		}
		if !strings.HasPrefix(f.Doc.Text(), begins) {
			t.Errorf("%s: the package comment does not begin with %q", f.name, begins)
		}
	}
	for dir, files := range comments {
		if len(files) != 1 {
			t.Errorf("package %s has %d package comments, want 1: %q", dir, len(files), files)
		}
	}
}

// TestGenerated checks that generated code says so, and that nothing else does.
func TestGenerated(t *testing.T) {
	for _, f := range repository(t).code {
		if is, says := strings.HasSuffix(f.name, ".pb.go"), ast.IsGenerated(f.File); is != says {
			t.Errorf("%s: generated %t, says so %t", f.name, is, says)
		}
	}
}

// maxFile bounds a file of the repository in bytes: what everybody clones for ever.
const maxFile = 1 << 20

// TestFiles checks every file for what does not belong in a repository.
func TestFiles(t *testing.T) {
	r := repository(t)
	// Spelled in two parts, since this file is checked as well.
	unfinished := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)
	for _, name := range r.files {
		info, err := os.Stat(filepath.Join(r.root, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > maxFile {
			t.Errorf("%s has %d bytes, want at most %d", name, info.Size(), maxFile)
			continue
		}
		if name == "go.sum" || name == "LICENSE" || strings.Contains(name, "testdata/") {
			continue
		}
		text := r.read(t, name)
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			continue // not text
		}
		for i, line := range strings.Split(text, "\n") {
			if unfinished.MatchString(line) {
				t.Errorf("%s:%d: unfinished work: %s", name, i+1, strings.TrimSpace(line))
			}
			if line != strings.TrimRight(line, " \t\r") {
				t.Errorf("%s:%d: space at the end of the line", name, i+1)
			}
		}
		if !strings.HasSuffix(text, "\n") {
			t.Errorf("%s: no newline at the end", name)
		}
	}
}

// TestTests checks what tests must not do, and what they must.
func TestTests(t *testing.T) {
	r := repository(t)
	starts := map[string]string{} // package -> where its code starts a goroutine
	verifies := map[string]bool{} // package -> its tests look for goroutines left behind
	tested := map[string]bool{}
	for _, f := range r.code {
		tested[f.dir] = tested[f.dir] || f.test
		// In a bubble of synctest, time passes by itself once everybody waits:
		// sleeping there is saying when, not hoping.
		bubble := slices.Contains(f.imports(), "testing/synctest")
		ast.Inspect(f.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				if !f.test {
					starts[f.dir] = r.at(n)
				}
			case *ast.CallExpr:
				s, ok := n.Fun.(*ast.SelectorExpr)
				if !ok {
					break
				}
				switch call := fmt.Sprintf("%s.%s", s.X, s.Sel.Name); {
				case !f.test && s.Sel.Name == "Go" && len(n.Args) == 1:
					starts[f.dir] = r.at(n)
				case call == "goleak.VerifyTestMain":
					verifies[f.dir] = true
				case f.test && call == "time.Sleep" && !bubble:
					t.Errorf("%s: a test that sleeps is slow on a good day and wrong on a bad one", r.at(n))
				case !f.test && call == "time.Sleep":
					t.Errorf("%s: sleeping cannot be cancelled; wait on a timer and a context", r.at(n))
				}
			}
			return true
		})
	}
	for dir, at := range starts {
		if tested[dir] && !verifies[dir] {
			t.Errorf("%s: package %s starts goroutines, but its tests do not call goleak.VerifyTestMain", at, dir)
		}
	}
}
