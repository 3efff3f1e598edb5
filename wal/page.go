package wal

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// names are the names of the logs in order, so that a page of a listing costs
// what is on it, however many logs there are. They lie in runs, so that one that
// comes or goes moves no more than a run's and the list of runs.
type names struct{ runs [][]string }

// maxRun bounds a run; a run that is full becomes two.
const maxRun = 512

func newNames(sorted []string) (n names) {
	for run := range slices.Chunk(sorted, maxRun/2) {
		n.runs = append(n.runs, slices.Clone(run))
	}
	return n
}

// find returns the run that has the name, or would have it.
func (n *names) find(name string) int {
	i, found := slices.BinarySearchFunc(n.runs, name, func(run []string, name string) int { return cmp.Compare(run[0], name) })
	if !found {
		i--
	}
	return max(i, 0)
}

func (n *names) insert(name string) {
	if len(n.runs) == 0 {
		n.runs = [][]string{{name}}
		return
	}
	r := n.find(name)
	i, _ := slices.BinarySearch(n.runs[r], name)
	run := slices.Insert(n.runs[r], i, name)
	n.runs[r] = run
	if len(run) == maxRun {
		n.runs[r] = run[:maxRun/2]
		n.runs = slices.Insert(n.runs, r+1, slices.Clone(run[maxRun/2:]))
		clear(run[maxRun/2:])
	}
}

func (n *names) remove(name string) {
	if len(n.runs) == 0 {
		return
	}
	r := n.find(name)
	i, found := slices.BinarySearch(n.runs[r], name)
	if !found {
		return
	}
	if n.runs[r] = slices.Delete(n.runs[r], i, i+1); len(n.runs[r]) == 0 {
		n.runs = slices.Delete(n.runs, r, r+1)
	}
}

// from yields the names from first on.
func (n *names) from(first string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if len(n.runs) == 0 {
			return
		}
		r := n.find(first)
		i, _ := slices.BinarySearch(n.runs[r], first)
		for ; r < len(n.runs); r, i = r+1, 0 {
			for _, name := range n.runs[r][i:] {
				if !yield(name) {
					return
				}
			}
		}
	}
}

// name notes what a command is about to do to the names. REQUIRES: mu.
func (v *Volume) name(c *Command) {
	switch c.Kind {
	case CommandCreateLog:
		v.names.insert(c.Name)
	case CommandDeleteLog:
		if l := v.durable.logs.get(c.Log); l != nil {
			v.names.remove(l.name)
		}
	default:
	}
}

// page returns at most limit durable logs whose names begin with prefix and come
// behind after, by name, and whether there are more. REQUIRES: mu is held, for
// reading at least.
func (v *Volume) page(prefix, after string, limit int) (logs []*logState, more bool) {
	for name := range v.names.from(max(prefix, after)) {
		switch {
		case !strings.HasPrefix(name, prefix):
			return logs, false // those behind have another one
		case name == after:
			continue
		case len(logs) == max(limit, 1):
			return logs, true
		}
		logs = append(logs, v.durable.named(name))
	}
	return logs, false
}
