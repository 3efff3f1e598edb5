package lint

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/walsvc/walsvc/internal/config"
	"github.com/walsvc/walsvc/internal/mutants"
	"github.com/walsvc/walsvc/internal/server"
	"github.com/walsvc/walsvc/internal/telemetry"
	"github.com/walsvc/walsvc/replay"
)

var rewrite = flag.Bool("rewrite", false, "write what documents have from the sources, instead of comparing it")

// made are the parts of documents that are made from the code: what stands
// between <!-- made: NAME --> and <!-- end -->.
var made = map[string]func() string{
	"flags":   flagsTable,
	"cases":   casesTable,
	"errors":  errorsTable,
	"metrics": metricsTable,
	"mutants": mutantsTable,
}

// codeParts are pieces of documents that are functions of the code, as they stand
// there: between <!-- code: FILE NAME --> and <!-- end -->, where a method's NAME is
// TYPE.METHOD. What a guide shows is then what is compiled, tested and killed.
var codeParts = regexp.MustCompile(`(?s)<!-- code: (\S+\.go) ([\w.]+) -->\n(.*?)<!-- end -->\n`)

var madeParts = regexp.MustCompile(`(?s)<!-- made: (\w+) -->\n(.*?)<!-- end -->\n`)

// TestMade compares what documents have from the code with the code; -rewrite
// writes it.
func TestMade(t *testing.T) {
	r := repository(t)
	found := map[string]bool{}
	for _, name := range r.documents() {
		text := r.read(t, name)
		now := madeParts.ReplaceAllStringFunc(text, func(part string) string {
			m := madeParts.FindStringSubmatch(part)
			produce, ok := made[m[1]]
			if !ok {
				t.Errorf("%s wants %q made, which nobody makes", name, m[1])
				return part
			}
			found[m[1]] = true
			want := produce()
			if m[2] != want && !*rewrite {
				t.Errorf("%s: %q is not what the code says: run make gen; %s", name, m[1], difference(m[2], want))
			}
			return fmt.Sprintf("<!-- made: %s -->\n%s<!-- end -->\n", m[1], want)
		})
		now = codeParts.ReplaceAllStringFunc(now, func(part string) string {
			m := codeParts.FindStringSubmatch(part)
			want, ok := r.function(t, m[1], m[2])
			switch {
			case !ok:
				t.Errorf("%s shows %s of %s, which does not exist", name, m[2], m[1])
				return part
			case m[3] != want && !*rewrite:
				t.Errorf("%s: %s of %s is not what the code says: run make gen; %s", name, m[2], m[1], difference(m[3], want))
			}
			return fmt.Sprintf("<!-- code: %s %s -->\n%s<!-- end -->\n", m[1], m[2], want)
		})
		if now != text && *rewrite {
			r.write(t, name, now)
		}
	}
	for name := range made {
		if !found[name] {
			t.Errorf("no document has %q", name)
		}
	}
}

// function returns a function of a file with its comment, in a fence.
func (r *sourceTree) function(t *testing.T, file, name string) (text string, found bool) {
	t.Helper()
	for _, f := range r.code {
		if f.name != file {
			continue
		}
		for _, d := range f.Decls {
			d, ok := d.(*ast.FuncDecl)
			if !ok || functionName(d) != name {
				continue
			}
			begin := d.Pos()
			if d.Doc != nil {
				begin = d.Doc.Pos()
			}
			source := r.read(t, file)
			return "```go\n" + source[r.fset.Position(begin).Offset:r.fset.Position(d.End()).Offset] + "\n```\n", true
		}
	}
	return "", false
}

// functionName returns a function's name, and a method's as TYPE.METHOD.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	return fmt.Sprintf("%s.%s", of, d.Name.Name)
}

// write replaces the text of a file.
func (r *sourceTree) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.root, filepath.FromSlash(name)), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// difference returns the first lines that differ.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			return fmt.Sprintf("line %d is\n%q, want\n%q", i+1, g[min(i, len(g)-1)], w[min(i, len(w)-1)])
		}
	}
	return "nothing differs"
}

// mutantsTable lists the mutants.
func mutantsTable() string {
	all, err := mutants.Read("../../testdata/mutants")
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	b.WriteString("| mutant | breaks | what it plants | caught by |\n|---|---|---|---|\n")
	for _, m := range all {
		breaks := strings.Trim(fmt.Sprint(m.Breaks), "[]")
		proofs := make([]string, len(m.Proofs))
		for i, p := range m.Proofs {
			proofs[i] = code(p.String())
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", m.Name, strings.ReplaceAll(breaks, " ", ", "), m.Plants, strings.Join(proofs, " or "))
	}
	return b.String()
}

// code spells a word as code, and nothing as nothing.
func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// flagsTable lists the flags of walsvc.
func flagsTable() string {
	var b strings.Builder
	b.WriteString("| flag | default | what it is |\n|---|---|---|\n")
	flags := pflag.NewFlagSet("walsvc", pflag.ContinueOnError)
	flags.SortFlags = false
	config.Flags(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		_, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, "| `--%s` | %s | %s |\n", f.Name, code(f.DefValue), usage)
	})
	return b.String()
}

// casesTable is the tail rule.
func casesTable() string {
	var b strings.Builder
	b.WriteString("| case | verdict | evidence | what is kept | what it means |\n|---|---|---|---|---|\n")
	for _, rule := range replay.Rules() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", code(string(rule.Case)), rule.Verdict, rule.Evidence, rule.Kept, rule.Means)
	}
	return b.String()
}

// metricsTable lists the metrics.
func metricsTable() string {
	var b strings.Builder
	b.WriteString("| metric | type | what it is |\n|---|---|---|\n")
	for _, n := range telemetry.Names() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", n.Name, n.Type, n.Help)
	}
	return b.String()
}

// errorsTable is the error table.
func errorsTable() string {
	var b strings.Builder
	b.WriteString("| reason | code | what it means | what it changed | the Go client repeats | what to do |\n|---|---|---|---|---|---|\n")
	for _, row := range server.Table {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", row.Reason, row.Code, row.Means, row.Effect, cmp.Or(row.Retried, "nothing"), row.Hint)
	}
	return b.String()
}
