package wal

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestTable holds a table against a map: what is in it, in which order it comes, and
// that a clone has nothing to do with it any more. Numbers lie together, at both ends of
// all numbers, and far apart.
func TestTable(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		number := func() uint64 {
			switch rng.IntN(4) {
			case 0:
				return ^uint64(0) - rng.Uint64N(3*pageLogs)
			case 1:
				return rng.Uint64() &^ 0xff
			default:
				return rng.Uint64N(5 * pageLogs)
			}
		}
		tab, want := newTable[string](), map[uint64]*string{}
		var cloned table[string]
		var then map[uint64]*string
		for step := range 600 {
			n := number()
			switch rng.IntN(3) {
			case 0:
				is := fmt.Sprint(seed, step)
				tab.set(n, &is)
				want[n] = &is
			case 1:
				tab.remove(n)
				delete(want, n)
			default:
				if got := tab.get(n); got != want[n] {
					t.Fatalf("seed %d: %d has %p, not %p", seed, n, got, want[n])
				}
			}
			if step == 300 {
				cloned, then = tab.clone(), maps.Clone(want)
			}
		}
		sameTable(t, &tab, want)
		sameTable(t, &cloned, then)
		for n := range tab.all() {
			tab.remove(n)
		}
		sameTable(t, &tab, nil)
		if len(tab.pages) != 0 {
			t.Errorf("seed %d: an empty table has %d pages", seed, len(tab.pages))
		}
		sameTable(t, &cloned, then)
	}
}

func sameTable(t *testing.T, tab *table[string], want map[uint64]*string) {
	t.Helper()
	var order []uint64
	for n, is := range tab.all() {
		if order = append(order, n); is != want[n] {
			t.Errorf("%d has %p, not %p", n, is, want[n])
		}
	}
	if !slices.Equal(order, slices.Sorted(maps.Keys(want))) || tab.len() != len(want) {
		t.Errorf("%d in %v, want %v", tab.len(), order, slices.Sorted(maps.Keys(want)))
	}
}

// TestTableChangesUnderway removes, while a table is walked over, what comes next on the same
// page and all of a later one, and sets another thing in the place of what comes.
func TestTableChangesUnderway(t *testing.T) {
	tab := newTable[string]()
	for _, n := range []uint64{1, 2, 3, pageLogs + 1, 2*pageLogs + 1} {
		is := fmt.Sprint(n)
		tab.set(n, &is)
	}
	var got []string
	for n, is := range tab.all() {
		if n == 1 {
			other := "other"
			tab.remove(2)
			tab.set(3, &other)
			tab.remove(pageLogs + 1)
		}
		got = append(got, *is)
	}
	if want := []string{"1", "other", fmt.Sprint(2*pageLogs + 1)}; !slices.Equal(got, want) {
		t.Errorf("came past %q, want %q", got, want)
	}
}
