// Command compare measures the engine's Go benchmarks in this tree and at
// another commit, in turn, and has benchstat compare them.
//
//	go run ./compare -base HEAD~3
//	go run ./compare -base v0.1.0 -bench Append -count 20 ./client ./wal
//
// Both sides are compiled before anything runs, and take turns, first one and
// then the other in front, so that a machine that gets slower slows both.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// engine are the packages that are compared unless others are named.
var engine = []string{"./batcher", "./wal", "./client", "./internal/records"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) (err error) {
	f := flag.NewFlagSet("compare", flag.ContinueOnError)
	base := f.String("base", "", "`commit` to compare this tree with (required)")
	root := f.String("root", "..", "`directory` of the module that is compared")
	pattern := f.String("bench", ".", "`expression` of benchmarks, as go test has it")
	count := f.Int("count", 10, "`times` that each benchmark runs on each side")
	length := f.String("benchtime", "500ms", "`time` of each, or a number of iterations with an x")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	packages := f.Args()
	switch {
	case *base == "":
		return errors.New("-base: name the commit to compare with, as make bench-compare BASE=ref does")
	case *count < 1:
		return errors.New("-count: want 1 and more")
	case len(packages) == 0:
		packages = engine
	}
	dir, err := os.MkdirTemp("", "walsvc-compare-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	before := filepath.Join(dir, "tree")
	if err := run(ctx, *root, os.Stderr, "git", "worktree", "add", "--quiet", "--detach", before, *base); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, run(context.WithoutCancel(ctx), *root, os.Stderr, "git", "worktree", "remove", "--force", before))
	}()

	// The worktree is of the repository, whose root need not be the module's.
	within, err := output(ctx, *root, "git", "rev-parse", "--show-prefix")
	if err != nil {
		return err
	}
	sides := []*side{{name: "base", tree: filepath.Join(before, within)}, {name: "head", tree: *root}}
	for _, s := range sides {
		for i, p := range packages {
			if err := s.compile(ctx, p, filepath.Join(dir, fmt.Sprintf("%s-%d.test", s.name, i))); err != nil {
				return err
			}
		}
	}
	for i := range *count {
		for j, p := range packages {
			fmt.Fprintf(os.Stderr, "%d of %d: %s\n", i+1, *count, p)
			for k := range sides {
				s := sides[(i+k)%len(sides)]
				if s.binaries[j] == "" {
					continue
				}
				err := run(ctx, filepath.Join(s.tree, p), &s.results, s.binaries[j],
					"-test.run", "^$", "-test.bench", *pattern, "-test.benchtime", *length, "-test.benchmem")
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, p, err)
				}
			}
		}
	}
	stat := []string{"tool", "benchstat"}
	for _, s := range sides {
		path := filepath.Join(dir, s.name+".txt")
		if err := os.WriteFile(path, s.results.Bytes(), 0o600); err != nil {
			return err
		}
		stat = append(stat, s.name+"="+path)
	}
	return run(ctx, ".", out, "go", stat...)
}

// A side is a tree with its benchmarks.
type side struct {
	name, tree string
	binaries   []string // of packages; empty if there is none
	results    bytes.Buffer
}

// compile compiles a package's tests. A package that is not there has no
// benchmarks, which is not wrong: it may be new.
func (s *side) compile(ctx context.Context, pkg, to string) error {
	if _, err := os.Stat(filepath.Join(s.tree, pkg)); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "%s has no %s\n", s.name, pkg)
		s.binaries = append(s.binaries, "")
		return nil
	}
	s.binaries = append(s.binaries, to)
	return run(ctx, s.tree, os.Stderr, "go", "test", "-c", "-o", to, pkg)
}

// run runs a program in a directory.
func run(ctx context.Context, dir string, out io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, os.Stderr
	// An interrupt is for the program, too, and removes what it has made.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return nil
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	var b strings.Builder
	err := run(ctx, dir, &b, name, args...)
	return strings.TrimSpace(b.String()), err
}
