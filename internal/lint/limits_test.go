package lint

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/format"
	"go/importer"
	"go/token"
	"go/types"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLimitsDoc compares docs/limits.md with internal/limits; -rewrite writes it.
func TestLimitsDoc(t *testing.T) {
	const source, doc = "internal/limits/limits.go", "docs/limits.md"
	r := repository(t)
	want := limitsDoc(t, r, source)
	if *rewrite {
		r.write(t, doc, want)
		return
	}
	if got := r.read(t, doc); got != want {
		t.Errorf("%s is not what %s makes it: run make gen; %s", doc, source, difference(got, want))
	}
}

// limitsDoc returns the document made from the constants of a file: a table for
// each block of them, and the relations that the compiler holds.
func limitsDoc(t *testing.T, r *sourceTree, source string) string {
	t.Helper()
	var file *ast.File
	for _, f := range r.code {
		if f.name == source {
			file = f.File
		}
	}
	info := types.Info{Defs: map[*ast.Ident]types.Object{}}
	checker := types.Config{Importer: importer.ForCompiler(r.fset, "source", nil)}
	if _, err := checker.Check(module+"/internal/limits", r.fset, []*ast.File{file}, &info); err != nil {
		t.Fatal(err)
	}

	var b strings.Builder
	b.WriteString("# Limits\n\nEvery bound of walsvc. Made from [limits.go](../internal/limits/limits.go) by `make gen`; a test compares.\n" +
		"What a client can meet is also told by `AdminService.GetServerInfo`, under the same names.\n")
	for _, d := range file.Decls {
		block, ok := d.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST {
			continue
		}
		first := block.Specs[0].(*ast.ValueSpec)
		title, text, _ := strings.Cut(flat(block.Doc), ".")
		if first.Names[0].Name == "_" {
			title, _, _ = strings.Cut(title, ":")
			fmt.Fprintf(&b, "\n## %s\n\nThe compiler holds these: none may be negative.\n\n| what holds | because it is not negative |\n|---|---|\n", title)
			for _, s := range block.Specs {
				v := s.(*ast.ValueSpec)
				fmt.Fprintf(&b, "| %s | `%s` |\n", flat(v.Comment), relation(t, v.Values[0]))
			}
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s| name | value | meaning |\n|---|---:|---|\n", title, strings.TrimLeft(text, " "))
		meaning := ""
		for _, s := range block.Specs {
			v := s.(*ast.ValueSpec)
			// Constants in one paragraph share the comment above the first.
			if v.Doc != nil {
				meaning = flat(v.Doc)
			}
			value := info.Defs[v.Names[0]].(*types.Const)
			said := meaning
			if after, alone := strings.CutPrefix(meaning, value.Name()+" "); alone && !strings.HasPrefix(after, "and ") {
				said = strings.TrimPrefix(after, "is ")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", value.Name(), inUnits(value), said)
		}
	}
	return b.String()
}

// relation returns the expression inside the conversion of a relation.
func relation(t *testing.T, e ast.Expr) string {
	t.Helper()
	var b strings.Builder
	if err := format.Node(&b, token.NewFileSet(), e.(*ast.CallExpr).Args[0]); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// flat returns a comment on one line.
func flat(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }

// inUnits spells a bound as people say it. That it is one of bytes is in its name.
func inUnits(c *types.Const) string {
	n, _ := constant.Int64Val(c.Val())
	if strings.HasSuffix(c.Type().String(), "time.Duration") {
		return time.Duration(n).String()
	}
	if !sizes.MatchString(c.Name()) || c.Name() == "MaxPageSize" {
		return thousands(n)
	}
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= unit.size && n%unit.size == 0 {
			return fmt.Sprintf("%d %s", n/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// sizes are the names of bounds in bytes; a page is counted in entries.
var sizes = regexp.MustCompile(`(Bytes|State|Size)$`)

// thousands spells a number with commas.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
