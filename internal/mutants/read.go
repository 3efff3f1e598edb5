package mutants

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Mutant is one patch.
type Mutant struct {
	Name   string  // of the file, without .patch
	Plants string  // the bug, in words
	Breaks []int   // which promises, by their numbers in docs/durability.md
	Proofs []Proof // asked in order, until one fails

	path string
}

// A Proof is a test that has to fail for a mutant.
type Proof struct {
	Dir  string // of the package, from the root, with slashes
	Test string
}

// String spells a proof as documents do.
func (p Proof) String() string { return p.Dir + "." + p.Test }

// Read reads every patch of a directory, in the order of their names.
func Read(dir string) ([]Mutant, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil {
		return nil, err
	}
	var all []Mutant
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		m, err := parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		m.path, m.Name = path, strings.TrimSuffix(filepath.Base(path), ".patch")
		all = append(all, m)
	}
	return all, nil
}

// parse reads what stands above a patch: paragraphs that begin with "Plants:",
// "Breaks:", the numbers of promises, or "Proof:", a package's directory and a test.
func parse(text string) (Mutant, error) {
	var m Mutant
	head, _, ok := strings.Cut(text, "\n--- a/")
	if !ok {
		return m, errors.New("no patch in it")
	}
	for line := range strings.Lines(head) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, ":")
		switch fields := strings.Fields(value); {
		case line == "":
		case key == "Plants":
			m.Plants = strings.TrimSpace(value)
		case key == "Breaks":
			for n := range strings.SplitSeq(value, ",") {
				promise, err := strconv.Atoi(strings.TrimSpace(n))
				if err != nil || promise < 1 || promise > Promises {
					return m, fmt.Errorf("%q: want numbers of promises, from 1 to %d", value, Promises)
				}
				m.Breaks = append(m.Breaks, promise)
			}
		case key == "Proof" && len(fields) == 2:
			m.Proofs = append(m.Proofs, Proof{fields[0], fields[1]})
		case key == "Proof":
			return m, fmt.Errorf("%q: want a directory and a test", value)
		case m.Plants != "" && m.Breaks == nil && m.Proofs == nil:
			m.Plants += " " + line
		default:
			return m, fmt.Errorf("%q stands in none of Plants, Breaks and Proof", line)
		}
	}
	if m.Plants == "" || m.Breaks == nil || m.Proofs == nil {
		return m, errors.New("it has to say what it plants, which promise that breaks, and which proof is for it")
	}
	return m, nil
}

// Promises is how many there are.
const Promises = 11
