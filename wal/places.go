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

// A movedPlace says where the copies of a log's records lie: of all that it had when
// it was moved, which are those below end. What was appended later lies behind the
// copies, in the journal as in the log.
type movedPlace struct {
	end   LSN         // 0 if none were moved
	total uint64      // framed bytes ever appended below it
	pos   segment.Pos // of the one frame that has them
}

// places say where lies what has a place of its own, wherever it was appended: the
// states of checkpoints, and records that were moved. They are in snapshots.
type places struct {
	// moved has the copies of each log of which there are any.
	moved map[uint64]movedPlace
	// of has the states of each log by name. The slices are never written, so that a
	// snapshot takes those of its cut as they are. By log, since deleting one must not
	// look at those of all the others.
	of map[uint64][]namedPlace
	// in is how many bytes it takes to carry those forward that lie in a segment, of
	// each that has any.
	in map[segment.ID]int64
}

func newPlaces() places {
	return places{moved: map[uint64]movedPlace{}, of: map[uint64][]namedPlace{}, in: map[segment.ID]int64{}}
}

// logPlaces are the places of one log.
type logPlaces struct {
	states []namedPlace
	moved  movedPlace
}

// log returns those of a log, for as long as the caller wants.
func (p *places) log(number uint64) logPlaces { return logPlaces{p.of[number], p.moved[number]} }

func findPlace(places []namedPlace, name string) (int, bool) {
	return slices.BinarySearchFunc(places, name, func(p namedPlace, name string) int { return cmp.Compare(p.name, name) })
}

func (p *places) get(k stateKey) (at statePlace, placed bool) {
	places := p.of[k.log]
	i, placed := findPlace(places, k.name)
	if placed {
		at = places[i].statePlace
	}
	return at, placed
}

func (p *places) set(k stateKey, at statePlace) {
	p.remove(k)
	was := p.of[k.log]
	i, _ := findPlace(was, k.name)
	p.of[k.log] = slices.Concat(was[:i], []namedPlace{{k.name, at}}, was[i:])
	p.count(&at, 1)
}

func (p *places) remove(k stateKey) {
	was := p.of[k.log]
	i, placed := findPlace(was, k.name)
	if !placed {
		return
	}
	p.count(&was[i].statePlace, -1)
	if len(was) == 1 {
		delete(p.of, k.log)
		return
	}
	p.of[k.log] = slices.Concat(was[:i], was[i+1:])
}

func (p *places) removeLog(log uint64) {
	places := p.of[log]
	for i := range places {
		p.count(&places[i].statePlace, -1)
	}
	delete(p.of, log)
	delete(p.moved, log)
}

// moveOverhead is more than what carries a state forward takes besides it.
const moveOverhead = limits.MaxCheckpointNameBytes + 64

func (p *places) count(at *statePlace, sign int64) {
	if at.place.Size == 0 {
		return // there is none
	}
	id := at.pos.Segment
	if p.in[id] += sign * (int64(at.place.Size) + moveOverhead); p.in[id] == 0 {
		delete(p.in, id)
	}
}

// all yields them in no order.
func (p *places) all() iter.Seq2[stateKey, statePlace] {
	return func(yield func(stateKey, statePlace) bool) {
		for log, places := range p.of {
			for i := range places {
				if !yield(stateKey{log, places[i].name}, places[i].statePlace) {
					return
				}
			}
		}
	}
}
