package wal

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// What follows counts bytes and steps, not time: what grows with the square of the
// logs or the producers is seen with few of them.

// scaleID is the ULID of a producer among many.
func scaleID(n int) ulid.ULID {
	return ulid.ULID{12: byte(n >> 16), 13: byte(n >> 8), 14: byte(n), 15: 1}
}

// crowdedState has logs with so many producers each, that have appended so many
// batches each. Their ULIDs do not come in order.
func crowdedState(tb testing.TB, logs, producers, batches int) *State {
	tb.Helper()
	s := NewState()
	order := rand.New(rand.NewPCG(1, 1)).Perm(producers)
	for n := range uint64(logs) {
		apply(tb, s, Command{Kind: CommandCreateLog, Log: n + 1, Name: fmt.Sprintf("log-%05d", n), ID: scaleID(int(n))})
		for _, p := range order {
			apply(tb, s, Command{Kind: CommandOpenProducer, Log: n + 1, Producer: scaleID(p)})
		}
		for range batches {
			for p := range producers {
				apply(tb, s, appendTo(s, n+1, uint64(p)+1))
			}
		}
	}
	return s
}

func apply(tb testing.TB, s *State, c Command) {
	if err := s.Apply(&c); err != nil {
		tb.Fatal(err)
	}
}

// appendTo is the next batch of a slot.
func appendTo(s *State, log, slot uint64) Command {
	l := s.logs.get(log)
	return Command{
		Kind: CommandAppend, Log: log, Epoch: l.epoch, Slot: slot, Sequence: l.producers[slot-1].last + 1,
		First: l.next, Count: 1, RunSum: uint32(l.next) * 2654435761, Checksum: l.checksum + 1, Start: l.totalBytes, Place: Place{Size: 100},
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestAppendBehindFreeze appends behind a freeze, as while a snapshot is written: of
// a log with many producers a batch copies one, and few of its batches. All of them
// would be megabytes, under the volume's lock.
func TestAppendBehindFreeze(t *testing.T) {
	const producers = limits.MaxProducersPerLog
	s := crowdedState(t, 1, producers, limits.ProducerWindow)
	frozen := s.freeze()
	was := appendLogState(nil, frozen[0])
	const piece = 16 * 32
	for _, c := range []struct {
		appends int
		most    uint64
	}{
		{1, 8 * producers * 8},               // the slice of pointers, and whatever else goes on
		{producers, producers * 2 * piece},   // each a piece, and what points to it
		{2 * producers, 2 * producers * 512}, // what was copied is the log's own
	} {
		got := allocated(func() {
			for i := range c.appends {
				apply(t, s, appendTo(s, 1, uint64(i%producers)+1))
			}
		})
		t.Logf("%d appends behind a freeze of %d producers: %d bytes", c.appends, producers, got)
		if got > c.most {
			t.Errorf("%d appends allocate %d bytes, not at most %d", c.appends, got, c.most)
		}
	}
	if !slices.Equal(appendLogState(nil, frozen[0]), was) {
		t.Error("the frozen copy has changed")
	}
}

// TestManyProducers opens as many producers as a log has slots for, and as many
// again, each of which has another one make way.
func TestManyProducers(t *testing.T) {
	const producers = limits.MaxProducersPerLog
	var s *State
	got := allocated(func() { s = crowdedState(t, 1, producers, 0) })
	if most := uint64(producers * 4096); got > most {
		t.Errorf("opening %d producers allocates %d bytes, not at most %d", producers, got, most)
	}
	n := producers
	turn := func(count int) uint64 {
		return allocated(func() {
			for range count {
				apply(t, s, Command{Kind: CommandOpenProducer, Log: 1, Producer: scaleID(n)})
				c := appendTo(s, 1, 1) // so that the next one is opened later
				c.Slot, c.Sequence = 0, 0
				apply(t, s, c)
				n++
			}
		})
	}
	turn(limits.MaxFormerProducers)
	got = turn(producers)
	t.Logf("opening %d producers where as many make way: %d bytes", producers, got)
	if most := uint64(producers * 4096); got > most {
		t.Errorf("opening %d producers where as many make way allocates %d bytes, not at most %d", producers, got, most)
	}
	for _, p := range []int{n - 1, n - producers} {
		if slot := s.logs.get(1).slot(scaleID(p)); slot == 0 || s.logs.get(1).producers[slot-1].id != scaleID(p) {
			t.Errorf("producer %d has slot %d", p, slot)
		}
	}
	if s.logs.get(1).slot(scaleID(n-producers-1)) != 0 || s.logs.get(1).slot(scaleID(n)) != 0 {
		t.Error("who made way has a slot, or who never came")
	}
}

// TestSnapshotShare appends to a volume whose state is larger than what is
// appended between two rolls: snapshots take no more than was appended.
func TestSnapshotShare(t *testing.T) {
	mem := disk.NewMem()
	o := testOptions(mem)
	o.SnapshotEvery = 1
	v, err := Open(t.Context(), "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		mustCreate(t, v, fmt.Sprintf("%s-%d", strings.Repeat("n", 200), i))
	}
	mustCreate(t, v, "log")
	before := writtenBytes(v)
	for range 1500 {
		mustAppend(t, v, "log", strings.Repeat("x", 3000))
	}
	all := writtenBytes(v) - before
	snapshots := all - 1500*limits.BlockSize
	t.Logf("%d bytes of journal, %d of them snapshots and the like", all, snapshots)
	if snapshots > all*6/10 {
		t.Errorf("of %d bytes of journal %d are not what was appended", all, snapshots)
	}
	closeTest(t, v)
}

// writtenBytes returns how long the journal has been.
func writtenBytes(v *Volume) int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return int64(v.last.Pos.Segment)*v.journal.SegmentSize() + v.last.Pos.Offset
}

// TestStatesAreNotCarriedForEver sets checkpoints whose states take more than lies
// between two snapshots, and goes on with another log: the states are carried
// forward as what was appended pays for, not round and round.
func TestStatesAreNotCarriedForEver(t *testing.T) {
	v := openTest(t, disk.NewMem())
	const states, size = 60, 16 << 10
	for i := range states {
		name := fmt.Sprintf("log-%d", i)
		mustCreate(t, v, name)
		mustAppend(t, v, name, "x")
		mustCheckpoint(t, v, name, "cp", 1, strings.Repeat(string(rune('a'+i%26)), size))
	}
	mustCreate(t, v, "busy")
	var segments int
	rec := strings.Repeat("x", 3000)
	const appends = 3000
	for range appends {
		got := mustAppend(t, v, "busy", rec)
		if got.First%20 == 0 {
			mustCheckpoint(t, v, "busy", "cp", got.First, "")
		}
		paceSnapshots(t, v)
	}
	pollUntil(t, "the journal is no longer than four times the states", func() bool {
		segments = v.journal.Space().Segments
		return segments <= 4*states*(size+limits.BlockSize)/limits.MinSegmentSize+12
	})
	written := writtenBytes(v)
	closeTest(t, v)
	// What was appended and set, and no more than that for what was carried; each
	// frame in its blocks. Of that again as much for snapshots.
	bound := int64(2 * 2 * (appends*limits.BlockSize + appends/20*limits.BlockSize + states*(size+2*limits.BlockSize)))
	t.Logf("%d bytes written, at most %d; %d segments", written, bound, segments)
	if written > bound {
		t.Errorf("%d bytes were written, not at most %d", written, bound)
	}
	v = openTest(t, v.fs)
	for i := range states {
		if cp, err := v.Checkpoint(t.Context(), fmt.Sprintf("log-%d", i), "cp"); err != nil || string(cp.State) != strings.Repeat(string(rune('a'+i%26)), size) {
			t.Fatalf("the state of log %d: %d bytes, %v", i, len(cp.State), err)
		}
	}
	closeTest(t, v)
}

// TestStatePlaces sets, moves and removes places at random, and counts anew.
func TestStatePlaces(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	p, want := newPlaces(), map[stateKey]statePlace{}
	for step := range 5000 {
		k := stateKey{rng.Uint64N(5), string(rune('a' + rng.IntN(5)))}
		kept := p.of[k.log]
		was := fmt.Sprint(kept)
		switch rng.IntN(8) {
		case 0:
			p.remove(k)
			delete(want, k)
		case 1:
			p.removeLog(k.log)
			for w := range want {
				if w.log == k.log {
					delete(want, w)
				}
			}
		default:
			at := statePlace{segment.Pos{Segment: segment.ID(1 + rng.IntN(4)), Offset: int64(step)}, Place{Size: rng.Uint32N(3) * 10}}
			p.set(k, at)
			want[k] = at
		}
		if fmt.Sprint(kept) != was {
			t.Fatal("what a snapshot may have taken has changed")
		}
		got, in := map[stateKey]statePlace{}, map[segment.ID]int64{}
		for k, at := range p.all() {
			got[k] = at
			if found, placed := p.get(k); !placed || found != at {
				t.Fatalf("step %d: %v is at %v, %t", step, k, found, placed)
			}
			if at.place.Size > 0 {
				in[at.pos.Segment] += int64(at.place.Size) + moveOverhead
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || fmt.Sprint(in) != fmt.Sprint(p.in) {
			t.Fatalf("step %d: %v in %v, want %v in %v", step, got, p.in, want, in)
		}
	}
}

// TestNames adds, removes and lists names at random, enough for runs to split and
// to end.
func TestNames(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	var n names
	want := map[string]bool{}
	check := func(from string) {
		t.Helper()
		var expect []string
		for name := range want {
			if name >= from {
				expect = append(expect, name)
			}
		}
		slices.Sort(expect)
		if got := slices.Collect(n.from(from)); !slices.Equal(got, expect) {
			t.Fatalf("from %q on there are %d names, want %d", from, len(got), len(expect))
		}
	}
	for step := range 12000 {
		name := fmt.Sprintf("%03x", rng.IntN(1<<12))
		if grow := step/4000 != 1; grow != want[name] {
			if grow {
				n.insert(name)
				want[name] = true
			} else {
				n.remove(name)
				delete(want, name)
			}
		}
		if step%500 == 0 {
			check(fmt.Sprintf("%03x", rng.IntN(1<<12)))
			check("")
		}
		if step == 3999 && len(n.runs) < 4 {
			t.Fatalf("%d names in %d runs", len(want), len(n.runs))
		}
	}
	for name := range want {
		n.remove(name)
	}
	if n.remove("gone"); len(n.runs) != 0 {
		t.Errorf("%d runs of nothing", len(n.runs))
	}
	if got := newNames([]string{"a", "b"}); !slices.Equal(slices.Collect(got.from("aa")), []string{"b"}) {
		t.Error("names that were there are not")
	}
}
