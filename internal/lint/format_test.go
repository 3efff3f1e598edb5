package lint

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// spellings are where the code writes what docs/format.md has a table of, under
// these headings: a function of package wal, and the case of its switch.
var spellings = map[string]struct{ function, clause string }{
	"create-log (1)":         {"appendBody", "CommandCreateLog"},
	"delete-log (2)":         {"appendBody", "CommandDeleteLog"},
	"open-producer (3)":      {"appendBody", "CommandOpenProducer"},
	"append (4)":             {"appendBody", "CommandAppend"},
	"append-part (16)":       {"appendBody", "CommandAppendPart"},
	"Records of an append":   {"appendRun", ""},
	"set-checkpoint (5)":     {"appendBody", "CommandSetCheckpoint"},
	"delete-checkpoint (6)":  {"appendBody", "CommandDeleteCheckpoint"},
	"truncate (7)":           {"appendBody", "CommandTruncate"},
	"move-checkpoint (8)":    {"appendBody", "CommandMoveCheckpoint"},
	"set-writer (9)":         {"appendBody", "CommandSetWriter"},
	"set-cursor (10)":        {"appendBody", "CommandSetCursor"},
	"delete-cursor (11)":     {"appendBody", "CommandDeleteCursor"},
	"evict-cursor (12)":      {"appendBody", "CommandEvictCursor"},
	"retire-producer (13)":   {"appendBody", "CommandRetireProducer"},
	"resolve-producer (14)":  {"appendBody", "CommandResolveProducer"},
	"seal-log (15)":          {"appendBody", "CommandSealLog"},
	"rewind (17)":            {"appendBody", "CommandRewind"},
	"move-records (18)":      {"appendBody", "CommandMoveRecords"},
	"Log options":            {"appendOptions", ""},
	"Snapshot part":          {"appendSnapshotHeader", ""},
	"Log state":              {"appendLogState", ""},
	"Places of states":       {"appendPlaces", ""},
	"Place of moved records": {"appendMoved", ""},
	"Segment index":          {"appendSegmentIndex", ""},
}

// TestEngineFormat compares how the fields in docs/format.md are spelled with the
// code that writes them, field by field in the order of the source. Bytes of
// fixed layout are compared by segment.TestFormatDocument.
func TestEngineFormat(t *testing.T) {
	r := repository(t)
	tables := spelledTables(r.read(t, "docs/format.md"))
	for heading, s := range spellings {
		want := r.spelled(s.function, s.clause)
		if len(want) == 0 {
			t.Errorf("%s: wal.%s writes nothing", heading, s.function)
		}
		got := tables[heading]
		if heading == "Snapshot part" {
			// The code has a branch for each value of the byte.
			got = slices.Insert(slices.Clone(got), slices.Index(got[1:], "byte")+2, "byte")
		}
		if !slices.Equal(got, want) {
			t.Errorf("docs/format.md, %s: fields are spelled\n%v, the code writes\n%v", heading, got, want)
		}
	}
	commands := 0
	for _, k := range r.constants("wal", "CommandKind") {
		commands++
		found := false
		for _, s := range spellings {
			found = found || s.clause == k
		}
		if !found {
			t.Errorf("docs/format.md has no table of %s", k)
		}
	}
	if commands == 0 {
		t.Error("package wal has no kinds of commands")
	}
}

// spelledTables returns the second column of the tables headed "field | spelled".
func spelledTables(text string) map[string][]string {
	found, heading, inside := map[string][]string{}, "", false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
		cells := strings.Split(line, "|")
		switch {
		case len(cells) != 5:
			inside = false
		case strings.TrimSpace(cells[1]) == "field" && strings.TrimSpace(cells[2]) == "spelled":
			inside = true
		case inside && !strings.HasPrefix(cells[1], "---"):
			found[heading] = append(found[heading], strings.TrimSpace(cells[2]))
		}
	}
	return found
}

// spelled returns what a function of package wal appends to dst, in order. With
// a clause, it leaves the other cases of its switch out.
func (r *sourceTree) spelled(function, clause string) (out []string) {
	for _, f := range r.code {
		if f.dir != "wal" || f.test {
			continue
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == function {
				ast.Inspect(fn.Body, func(n ast.Node) bool {
					switch n := n.(type) {
					case *ast.CaseClause:
						return clause == "" || len(n.List) == 1 && isNamed(n.List[0], clause)
					case *ast.CallExpr:
						if s := spelling(n); s != "" {
							out = append(out, s)
						}
					}
					return true
				})
			}
		}
	}
	return out
}

// spelling says how a call appends to dst; "" if it does not.
func spelling(call *ast.CallExpr) string {
	if len(call.Args) < 2 || !isNamed(call.Args[0], "dst") {
		return ""
	}
	name := ""
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		name = fn.Name
	case *ast.SelectorExpr:
		name = fn.Sel.Name
	}
	switch name {
	case "AppendUvarint":
		return "varint"
	case "AppendUint32":
		return "u32"
	case "appendString":
		return "string"
	case "appendPlace":
		return "place"
	case "appendRun":
		return "run"
	case "appendOptions":
		return "options"
	case "append":
		if call.Ellipsis != token.NoPos {
			return "ULID"
		}
		return "byte"
	}
	return name
}

func isNamed(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

// constants returns the names of a package's constants of a type.
func (r *sourceTree) constants(dir, typ string) (out []string) {
	for _, f := range r.code {
		for _, d := range f.Decls {
			block, ok := d.(*ast.GenDecl)
			if !ok || f.dir != dir || f.test || block.Tok != token.CONST {
				continue
			}
			for _, s := range block.Specs {
				if v := s.(*ast.ValueSpec); v.Type != nil && isNamed(v.Type, typ) {
					out = append(out, v.Names[0].Name)
				}
			}
		}
	}
	return out
}
