package mutants

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	plant = flag.Bool("mutants", false, "plant each mutant in a copy of the tree and run its proofs")
	only  = flag.String("mutants.only", "", "plant only mutants whose name matches this regular expression")
)

// proofTimeout bounds the run of one proof. One that hangs has said nothing, so
// it has not caught anything either.
const proofTimeout = 2 * time.Minute

// TestPromises: docs/durability.md tells each promise once, in their order.
func TestPromises(t *testing.T) {
	root, _ := inTree(t)
	text, err := os.ReadFile(filepath.Join(root, "docs", "durability.md"))
	if err != nil {
		t.Fatal(err)
	}
	var told, want []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| [A-Z]`).FindAllSubmatch(text, -1) {
		told = append(told, string(row[1]))
	}
	for promise := range Promises {
		want = append(want, strconv.Itoa(promise+1))
	}
	if !slices.Equal(told, want) {
		t.Errorf("it tells promises %v, want %v", told, want)
	}
}

// TestMutants checks that each mutant still applies to the tree and names
// proofs that exist, so that none of them rots, and that no promise is without. With -mutants it also plants
// each in a copy of the tree, and fails if it survives its proofs, hangs them,
// or does not compile. A proof that fails without any mutant proves nothing:
// all of them have to pass in the copy first.
func TestMutants(t *testing.T) {
	root, mutants := inTree(t)
	if len(mutants) < 15 {
		t.Errorf("%d mutants, want 15 at least", len(mutants))
	}
	broken := map[int]bool{}
	tests := map[string][]string{}
	for _, m := range mutants {
		if err := m.fits(root, tests); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
		for _, promise := range m.Breaks {
			broken[promise] = true
		}
	}
	for promise := range Promises {
		if !broken[promise+1] {
			t.Errorf("no mutant breaks promise %d", promise+1)
		}
	}
	if !*plant || t.Failed() {
		return
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	mutants = slices.DeleteFunc(mutants, func(m Mutant) bool { return !chosen.MatchString(m.Name) })

	l := lab{dir: t.TempDir(), bin: t.TempDir()}
	if err := copyTree(root, l.dir); err != nil {
		t.Fatal(err)
	}
	if err := l.passes(t.Context(), mutants); err != nil {
		t.Fatalf("without a mutant: %v", err)
	}
	var table strings.Builder
	for _, m := range mutants {
		began := time.Now()
		by, err := l.try(t.Context(), m)
		took := time.Since(began).Seconds()
		if err != nil {
			t.Errorf("%s: %v", m.Name, err)
			by = "NOT CAUGHT"
		}
		row := fmt.Sprintf("%-34s %-60s %5.1f s", m.Name, by, took)
		t.Log(row)
		fmt.Fprintln(&table, row)
	}
	t.Logf("%d mutants\n%s", len(mutants), &table)
}

// inTree returns the tree's directory and its mutants.
func inTree(t *testing.T) (root string, mutants []Mutant) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err == nil {
		mutants, err = Read(filepath.Join(root, "testdata", "mutants"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return root, mutants
}

// fits checks that the mutant applies to the tree and that its proofs are
// there. tests caches the tests of packages.
func (m *Mutant) fits(root string, tests map[string][]string) error {
	if err := apply(root, m.path, "--check"); err != nil {
		return err
	}
	for _, p := range m.Proofs {
		known, ok := tests[p.Dir]
		if !ok {
			var err error
			if known, err = testsOf(filepath.Join(root, filepath.FromSlash(p.Dir))); err != nil {
				return err
			}
			tests[p.Dir] = known
		}
		if !slices.Contains(known, p.Test) {
			return fmt.Errorf("package %s has no test %s", p.Dir, p.Test)
		}
	}
	return nil
}

// testsOf returns the names of the tests in a directory.
func testsOf(dir string) (names []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names, nil
}

// apply patches the tree in dir, or checks or undoes that, as the flags say.
func apply(dir, patch string, flags ...string) error {
	cmd := exec.Command("git", append([]string{"apply"}, append(flags, patch)...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git apply %s: %w\n%s", strings.Join(flags, " "), err, out)
	}
	return nil
}

// copyTree copies what git knows of, or would take, as it lies in the tree:
// what is proven is what is there, not what was committed.
func copyTree(from, to string) error {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = from
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("list the tree: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		err := copyFile(filepath.Join(from, name), filepath.Join(to, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, and git was not told yet
		}
		if err != nil {
			return fmt.Errorf("copy the tree: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// A lab is a copy of the tree in which mutants are planted, one at a time.
type lab struct {
	dir string // of the copy
	bin string // for test binaries
}

// passes checks that every proof of the mutants passes as long as none of them
// is planted.
func (l *lab) passes(ctx context.Context, mutants []Mutant) error {
	asked := map[Proof]bool{}
	built := map[string]bool{}
	for _, m := range mutants {
		for _, p := range m.Proofs {
			if asked[p] {
				continue
			}
			asked[p] = true
			if !built[p.Dir] {
				if err := l.build(ctx, p.Dir); err != nil {
					return err
				}
				built[p.Dir] = true
			}
			failed, err := l.run(ctx, p)
			if err != nil {
				return err
			}
			if failed != "" {
				return fmt.Errorf("%s fails", failed)
			}
		}
	}
	return nil
}

// try plants a mutant, asks its proofs, and takes it out again. It returns the
// test that failed, or an error if none did.
func (l *lab) try(ctx context.Context, m Mutant) (by string, err error) {
	if err := apply(l.dir, m.path); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, apply(l.dir, m.path, "--reverse")) }()
	var built string
	for _, p := range m.Proofs {
		if p.Dir != built {
			if err := l.build(ctx, p.Dir); err != nil {
				return "", fmt.Errorf("it is broken, not caught: %w", err)
			}
			built = p.Dir
		}
		failed, err := l.run(ctx, p)
		if err != nil {
			return "", err
		}
		if failed != "" {
			return failed, nil
		}
	}
	return "", fmt.Errorf("it survived %v: %s", m.Proofs, m.Plants)
}

// build compiles the tests of a package, which may be one of a module that is
// apart. The paths are trimmed, so that what one copy of the tree compiled serves
// the next.
func (l *lab) build(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-o", l.binary(dir), ".")
	cmd.Dir = filepath.Join(l.dir, filepath.FromSlash(dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the tests of %s: %w\n%s", dir, err, out)
	}
	return nil
}

func (l *lab) binary(dir string) string {
	return filepath.Join(l.bin, strings.ReplaceAll(dir, "/", "_")+".test")
}

// run runs a proof and returns the test in it that failed, "" if it passed. The
// error says that it did neither.
func (l *lab) run(ctx context.Context, p Proof) (failed string, err error) {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.binary(p.Dir), "-test.run=^"+p.Test+"$", "-test.v", "-test.failfast")
	cmd.Dir = filepath.Join(l.dir, filepath.FromSlash(p.Dir))
	out, err := cmd.CombinedOutput()
	ran, test := readOutput(out)
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: it hung: %w", p, ctx.Err())
	case !ran:
		return "", fmt.Errorf("%s: it did not run: %w\n%s", p, err, out)
	case err == nil:
		return "", nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return "", fmt.Errorf("%s: %w", p, err)
	}
	return p.Dir + "." + test, nil
}

var failLine = regexp.MustCompile(`^\s*--- FAIL: (\S+) `)

// readOutput finds in a verbose test's output whether a test ran, and the first
// one that failed: the innermost, or the last that began if the process died.
func readOutput(out []byte) (ran bool, failed string) {
	var last string
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "=== RUN   "); ok {
			ran, last = true, name
		}
		if m := failLine.FindStringSubmatch(line); m != nil && (failed == "" || strings.HasPrefix(m[1], failed+"/")) {
			failed = m[1]
		}
	}
	if failed == "" {
		failed = last + " (crashed)"
	}
	return ran, failed
}
