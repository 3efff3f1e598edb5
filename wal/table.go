package wal

import (
	"iter"
	"maps"
	"slices"
)

// A table holds something for each of many logs, by their numbers. Numbers are handed
// out one after the other, so those that are used lie together: in pages, that a map
// has. Of thousands of logs that are appended to in turn, a map with an entry for
// each is in no cache when it is asked, twice; one with an entry for a page is.
//
// A number may be anything: what a snapshot or a segment's index says of it is
// believed only later, and a sparse one costs a page.
type table[T any] struct {
	pages map[uint64]*tablePage[T]
	n     int
}

// pageLogs is how many numbers a page has: more make fewer pages, and cost more where
// one log of them is in the table.
const pageLogs = 32

type tablePage[T any] struct {
	n  int // how many are not nil
	of [pageLogs]*T
}

func newTable[T any]() table[T] { return table[T]{pages: map[uint64]*tablePage[T]{}} }

// get returns what there is for a number, nil if nothing.
func (t *table[T]) get(number uint64) *T {
	if p := t.pages[number/pageLogs]; p != nil {
		return p.of[number%pageLogs]
	}
	return nil
}

// set puts what there is for a number, which is not nil, in the place of what was.
func (t *table[T]) set(number uint64, is *T) {
	p := t.pages[number/pageLogs]
	if p == nil {
		p = &tablePage[T]{}
		t.pages[number/pageLogs] = p
	}
	if p.of[number%pageLogs] == nil {
		p.n++
		t.n++
	}
	p.of[number%pageLogs] = is
}

// remove takes out what there is for a number, if anything.
func (t *table[T]) remove(number uint64) {
	p := t.pages[number/pageLogs]
	if p == nil || p.of[number%pageLogs] == nil {
		return
	}
	p.of[number%pageLogs] = nil
	t.n--
	if p.n--; p.n == 0 {
		delete(t.pages, number/pageLogs)
	}
}

// len returns how many numbers there is something for.
func (t *table[T]) len() int { return t.n }

// all yields them in the order of their numbers. What it came past, and what it has not
// come to, may be set in the place of what was, or removed, meanwhile.
func (t *table[T]) all() iter.Seq2[uint64, *T] {
	return func(yield func(uint64, *T) bool) {
		for _, at := range slices.Sorted(maps.Keys(t.pages)) {
			p := t.pages[at]
			if p == nil {
				continue // all of it was removed
			}
			for i := range p.of {
				if is := p.of[i]; is != nil && !yield(at*pageLogs+uint64(i), is) {
					return
				}
			}
		}
	}
}

// clone returns a table of its own, of the same things.
func (t *table[T]) clone() table[T] {
	c := table[T]{pages: make(map[uint64]*tablePage[T], len(t.pages)), n: t.n}
	for at, p := range t.pages {
		of := *p
		c.pages[at] = &of
	}
	return c
}
