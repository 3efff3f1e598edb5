package wal

import (
	"cmp"
	"iter"
	"slices"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// A stateKey names a checkpoint.
type stateKey struct {
	log  uint64
	name string
}

// A statePlace says where a checkpoint's state lies.
type statePlace struct {
	pos   segment.Pos
	place Place
}

// A namedPlace is where the state of one of a log's checkpoints lies.
type namedPlace struct {
	name string
	statePlace
}

// statePlaces say where the states of checkpoints lie.
type statePlaces struct {
	// of has those of each log by name. The slices are never written, so that a
	// snapshot takes those of its cut as they are. By log, since deleting one must not
	// look at those of all the others.
	of map[uint64][]namedPlace
	// in is how many bytes it takes to carry those forward that lie in a segment, of
	// each that has any.
	in map[segment.ID]int64
}

func newStatePlaces() statePlaces {
	return statePlaces{of: map[uint64][]namedPlace{}, in: map[segment.ID]int64{}}
}

func findPlace(places []namedPlace, name string) (int, bool) {
	return slices.BinarySearchFunc(places, name, func(p namedPlace, name string) int { return cmp.Compare(p.name, name) })
}

func (s *statePlaces) get(k stateKey) (at statePlace, placed bool) {
	places := s.of[k.log]
	i, placed := findPlace(places, k.name)
	if placed {
		at = places[i].statePlace
	}
	return at, placed
}

func (s *statePlaces) set(k stateKey, at statePlace) {
	s.remove(k)
	was := s.of[k.log]
	i, _ := findPlace(was, k.name)
	s.of[k.log] = slices.Concat(was[:i], []namedPlace{{k.name, at}}, was[i:])
	s.count(&at, 1)
}

func (s *statePlaces) remove(k stateKey) {
	was := s.of[k.log]
	i, placed := findPlace(was, k.name)
	if !placed {
		return
	}
	s.count(&was[i].statePlace, -1)
	if len(was) == 1 {
		delete(s.of, k.log)
		return
	}
	s.of[k.log] = slices.Concat(was[:i], was[i+1:])
}

func (s *statePlaces) removeLog(log uint64) {
	places := s.of[log]
	for i := range places {
		s.count(&places[i].statePlace, -1)
	}
	delete(s.of, log)
}

// moveOverhead is more than what carries a state forward takes besides it.
const moveOverhead = limits.MaxCheckpointNameBytes + 64

func (s *statePlaces) count(at *statePlace, sign int64) {
	if at.place.Size == 0 {
		return // there is none
	}
	id := at.pos.Segment
	if s.in[id] += sign * (int64(at.place.Size) + moveOverhead); s.in[id] == 0 {
		delete(s.in, id)
	}
}

// all yields them in no order.
func (s *statePlaces) all() iter.Seq2[stateKey, statePlace] {
	return func(yield func(stateKey, statePlace) bool) {
		for log, places := range s.of {
			for i := range places {
				if !yield(stateKey{log, places[i].name}, places[i].statePlace) {
					return
				}
			}
		}
	}
}
