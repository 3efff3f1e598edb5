package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestCompare makes a repository whose benchmark says what it costs, changes
// that, and looks for the change.
func TestCompare(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) {
		t.Helper()
		args = append([]string{"-C", root, "-c", "user.name=test", "-c", "user.email=test@example.org"}, args...)
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git: %v\n%s", err, out)
		}
	}
	cost := func(v string) string {
		return "package p\n\nimport \"testing\"\n\nfunc BenchmarkCost(b *testing.B) {\n\tfor b.Loop() {\n\t}\n\tb.ReportMetric(" + v + ", \"trips/op\")\n}\n"
	}
	write("go.mod", "module example.org/m\n\ngo 1.26\n")
	write("p/p_test.go", cost("4"))
	git("init", "--quiet")
	git("add", ".")
	git("commit", "--quiet", "-m", "four")
	write("p/p_test.go", cost("3"))
	write("fresh/p_test.go", cost("1"))

	var out bytes.Buffer
	err := command(t.Context(), []string{"-base", "HEAD", "-root", root, "-count", "6", "-benchtime", "1x", "./p", "./fresh"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`Cost\S*\s+4\.000 .*3\.000 .*-25\.00% \(p=0\.002 n=6\)`).Match(out.Bytes()) {
		t.Errorf("no change of -25%%:\n%s", &out)
	}
	left, err := exec.Command("git", "-C", root, "worktree", "list").Output()
	if err != nil || bytes.Count(left, []byte("\n")) != 1 {
		t.Errorf("worktrees left behind: %v\n%s", err, left)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"-base", "HEAD", "-count", "0"}, {"-base", "no-such-commit"}} {
		if err := command(t.Context(), args, &bytes.Buffer{}); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
