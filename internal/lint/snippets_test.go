package lint

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var goFences = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// packages are what snippets may use without saying so.
var packages = map[string]string{
	"client":  module + "/client",
	"context": "context",
	"errors":  "errors",
	"fmt":     "fmt",
	"ulid":    "github.com/oklog/ulid/v2",
}

// TestSnippets compiles the Go in documents, each piece as the body of a
// function that has a ctx and returns an error; but for functions of the code, which
// are compiled where they are from.
func TestSnippets(t *testing.T) {
	r := repository(t)
	dir := t.TempDir()
	overlay := map[string]string{}
	n := 0
	for _, name := range r.documents() {
		for _, m := range goFences.FindAllStringSubmatch(codeParts.ReplaceAllString(r.read(t, name), ""), -1) {
			n++
			text := fmt.Sprintf("// Package snippets is from documents.\npackage snippets\n\nimport (\n\t\"context\"\n%s)\n\nfunc snippet%d(ctx context.Context) error {\n%s\treturn nil\n}\n\nvar _ = snippet%d\n",
				importsOf(m[1]), n, m[1], n)
			file := filepath.Join(dir, fmt.Sprintf("%d.go", n))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			// Within the module, so that its go.mod counts, and nowhere on disk.
			overlay[filepath.Join(r.root, "internal", "lint", "snippets", fmt.Sprintf("%d.go", n))] = file
		}
	}
	if n == 0 {
		t.Fatal("no document shows any Go")
	}
	b, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", list, "./internal/lint/snippets")
	build.Dir = r.root
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("the Go in documents does not compile: %v\n%s", err, out)
	}
}

// importsOf returns the import lines that a snippet needs besides context.
func importsOf(text string) string {
	var b strings.Builder
	for name, path := range packages {
		if name != "context" && regexp.MustCompile(`\b`+name+`\.`).MatchString(text) {
			fmt.Fprintf(&b, "\t%q\n", path)
		}
	}
	return b.String()
}
