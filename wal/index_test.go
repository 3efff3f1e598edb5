package wal

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// encodeIndex spells an index that knows every log.
func encodeIndex(s *segmentIndex) []byte {
	state := NewState()
	for n, x := range s.logs.all() {
		e := x.end
		l := &logState{number: n, name: fmt.Sprint(n), next: e.next, totalBytes: e.total}
		if e.rewound > 0 {
			l.cuts = []Cut{{Epoch: e.rewound}}
		}
		state.put(l)
	}
	return appendSegmentIndex(nil, s, state)
}

// TestSegmentIndexFind compares finding with looking at every frame, also in
// indexes that were thinned: what is found is a frame at or before the right one,
// no earlier than thinning explains.
func TestSegmentIndexFind(t *testing.T) {
	type frame struct {
		off         int64
		first, next LSN
	}
	for thinned := range 4 {
		s := newSegmentIndex(1)
		var frames []frame
		off, lsn := int64(limits.SegmentHeaderSize), LSN(100)
		for i := range 200 {
			n := uint32(1 + i%5)
			s.add(&Command{Log: 1, First: lsn, Count: n}, off)
			s.add(&Command{Log: 1, First: lsn + LSN(n), Count: n}, off) // a second batch in the frame
			frames = append(frames, frame{off, lsn, lsn + LSN(2*n)})
			lsn += LSN(2 * n)
			off += limits.BlockSize
			if i%60 == 59 && s.stride < 1<<thinned {
				s.thin()
			}
		}
		decoded, err := decodeSegmentIndex(1, encodeIndex(s))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*segmentIndex{s, decoded} {
			if h := (&history{}); s.holds(1, 99, h) || !s.holds(1, 100, h) || !s.holds(1, lsn-1, h) || s.holds(1, lsn, h) || s.holds(2, 100, h) {
				t.Fatal("it holds what it does not, or the other way round")
			}
			for i, f := range frames {
				for lsn := f.first; lsn < f.next; lsn++ {
					got, ok := s.find(1, lsn)
					at := slices.IndexFunc(frames, func(f frame) bool { return f.off == got })
					if !ok || at < 0 || at > i || i-at >= 2*s.stride {
						t.Fatalf("stride %d: LSN %d is in frame %d, found frame %d, %t", s.stride, lsn, i, at, ok)
					}
				}
			}
		}
	}
}

// TestSegmentIndexIsBounded adds more refs, and then more logs, than are kept.
func TestSegmentIndexIsBounded(t *testing.T) {
	s := newSegmentIndex(1)
	for i := range 3 * maxRefs {
		s.add(&Command{Log: 1 + uint64(i%2), First: LSN(i + 1), Count: 2}, int64(i+1)*limits.BlockSize)
	}
	if s.size > maxRefs {
		t.Fatalf("%d refs", s.size)
	}
	// Of every log one ref stays, so it is refs beyond that which are bounded,
	// and adding more logs does not thin again for each.
	stride := s.stride
	for i := range 2 * maxRefs {
		s.add(&Command{Log: 10 + uint64(i), First: 1, Count: 1}, int64(i+1)*limits.BlockSize)
	}
	if s.stride > 64*stride || s.size > maxRefs+s.firsts {
		t.Fatalf("stride %d, %d refs of %d logs", s.stride, s.size, s.firsts)
	}
}

// TestLocateReadsFew: a record's place in a log that has grown evenly is found with the
// indexes of its segment and of a few around it; in one that has not, with no more
// than twice what halving takes. Halving alone reads seven for each.
func TestLocateReadsFew(t *testing.T) {
	for _, c := range []struct {
		name string
		each func(i int) int // bytes of record i
		most int             // indexes read for a record, on average
	}{
		{"even", func(int) int { return 4 << 10 }, 4},
		{"uneven", func(i int) int { return 1 + 40*max(i-900, 0) }, 7},
	} {
		v := openTest(t, disk.NewMem())
		mustCreate(t, v, "log")
		for i := range 1200 {
			mustAppend(t, v, "log", strings.Repeat("x", c.each(i)))
		}
		segments := len(v.journal.Segments())
		if segments < 64 {
			t.Fatalf("%s: %d segments", c.name, segments)
		}
		worst, total, tries := 0, 0, 0
		for lsn := LSN(1); lsn <= 1200; lsn += 7 {
			var x index // one that has read nothing yet
			x.init(v)
			v.mu.RLock()
			x.active, x.places = v.index.active, v.index.places
			number := v.durable.named("log").number
			v.mu.RUnlock()
			pos, err := x.locate(number, lsn, 0)
			if f := frameOf(t, v, "log", lsn); err != nil || f.Pos != pos && !x.movedFrom(number, lsn, pos) {
				t.Fatalf("%s: LSN %d is at %s, located at %s, %v", c.name, lsn, f.Pos, pos, err)
			}
			worst = max(worst, len(x.cache.entries))
			total += len(x.cache.entries)
			tries++
		}
		if total > c.most*tries {
			t.Errorf("%s: %d indexes of %d segments were read for %d records", c.name, total, segments, tries)
		}
		if bound := 2 * bits.Len(uint(segments)); worst > bound {
			t.Errorf("%s: %d indexes of %d segments were read for a record", c.name, worst, segments)
		}
		closeTest(t, v)
	}
}

// TestInterpolate goes through the ends of what is interpolated.
func TestInterpolate(t *testing.T) {
	for _, c := range []struct {
		lsn, first, next LSN
		n, want          int
	}{
		{1, 1, 101, 10, 0}, {10, 1, 101, 10, 0}, {11, 1, 101, 10, 1}, {100, 1, 101, 10, 9}, {101, 1, 101, 10, 9}, {500, 1, 101, 10, 9},
		{5, 50, 101, 10, 0}, {5, 5, 5, 10, 0}, {5, 5, 4, 10, 0}, {3, 1, 1 << 63, 2, 0}, {1<<63 + 5, 1, 1<<63 + 6, 2, 1},
		{1<<64 - 1, 1, 2, 1000, 999},
	} {
		if got := interpolate(c.lsn, c.first, c.next, c.n); got != c.want {
			t.Errorf("LSN %d of %d to %d in %d: %d, want %d", c.lsn, c.first, c.next, c.n, got, c.want)
		}
	}
}

// bruteForce finds the frame of a record by looking at every frame there is.
func bruteForce(t *testing.T, v *Volume) map[uint64]map[LSN]segment.Pos {
	t.Helper()
	at := map[uint64]map[LSN]segment.Pos{}
	var b batchFrame
	for _, id := range v.journal.Segments() {
		r, err := v.journal.Reader(id)
		if errors.Is(err, segment.ErrReleased) {
			continue // it held no record: the logs were created in it
		}
		if err != nil {
			t.Fatal(err)
		}
		end := int64(1 << 40)
		if h, err := v.journal.Header(id + 1); err == nil {
			end = h.Cut.End.Offset
		}
		for off := int64(limits.SegmentHeaderSize); off < end; {
			f, err := r.Frame(off)
			if err != nil {
				break
			}
			off += f.Header.Size()
			if err := b.load(f); err != nil {
				t.Fatal(err)
			}
			for _, c := range b.commands {
				if c.Kind != CommandAppend {
					continue
				}
				if at[c.Log] == nil {
					at[c.Log] = map[LSN]segment.Pos{}
				}
				for lsn := c.First; lsn <= c.Last(); lsn++ {
					at[c.Log][lsn] = f.Pos
				}
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// TestLocate looks for records of many logs over many small segments, some of
// them without a seal, with a cold cache and with every hint.
func TestLocate(t *testing.T) {
	const logs = 300
	mem := disk.NewMem()
	rng := rand.New(rand.NewPCG(1, 2))
	v := openTest(t, mem)
	for i := range logs {
		mustCreate(t, v, fmt.Sprintf("log-%d", i))
	}
	check := func(when string) {
		t.Helper()
		at := bruteForce(t, v)
		var b batchFrame
		ids := v.journal.Segments()
		v.mu.Lock()
		logs := v.durable.freeze()
		v.mu.Unlock()
		for _, l := range logs {
			for n := 0; n < 6 && l.next > l.first; n++ {
				lsn := l.first + LSN(rng.IntN(int(l.next-l.first)))
				if n == 0 {
					lsn = l.first
				}
				hint := ids[rng.IntN(len(ids))]
				if n%2 == 0 {
					hint = 0
				}
				pos, err := v.index.locate(l.number, lsn, hint)
				if err != nil {
					t.Fatalf("%s: locate LSN %d of log %d (%d to %d), hint %s: %v", when, lsn, l.number, l.first, l.next-1, hint, err)
				}
				want := at[l.number][lsn]
				if v.index.movedFrom(l.number, lsn, want) {
					continue // since all were looked at
				}
				if pos.Segment != want.Segment || pos.Offset > want.Offset {
					t.Fatalf("%s: LSN %d of log %d is at %s, located at %s", when, lsn, l.number, want, pos)
				}
				h := l.history()
				if err := v.seekFrom(&b, l.number, lsn, pos, &h); err != nil || b.frame.Pos != want {
					t.Fatalf("%s: LSN %d of log %d is not found from %s on: %v", when, lsn, l.number, pos, err)
				}
			}
		}
	}
	check("before the first append")
	for life := range 6 {
		a := newSeat(t, v)
		bindings := make([]*Binding, logs)
		for i := range bindings {
			bindings[i] = a.bind(fmt.Sprintf("log-%d", i), ulid.ULID{})
		}
		for round := range 80 {
			var batches []Batch
			for range 1 + rng.IntN(20) {
				// Some logs are busy, some rare, some come late.
				i := min(rng.IntN(logs), rng.IntN(logs), 50*(life+1)-1)
				batches = append(batches, Batch{Binding: bindings[i], Run: run(strings.Repeat("x", rng.IntN(400)), "y")})
			}
			if got := a.verdicts(batches...); len(got) != len(batches) || slices.ContainsFunc(got, func(v Verdict) bool { return v.Err != nil }) {
				t.Fatalf("%d verdicts on %d batches, or refusals", len(got), len(batches))
			}
			if round == 40 && life == 3 {
				check("while it is open")
			}
		}
		check(fmt.Sprintf("life %d", life))
		if life%2 == 0 {
			crashed := mem.CrashClone(nil, 0) // leaves a segment without a seal
			closeTest(t, v)
			mem = crashed
		} else {
			closeTest(t, v)
		}
		v = openTest(t, mem)
		check(fmt.Sprintf("after life %d", life))
	}
	if n := len(v.journal.Segments()); n < 20 {
		t.Errorf("only %d segments", n)
	}
	closeTest(t, v)
}

// TestIndexWeighsWhatItTakes: what bounds the cache of indexes goes with the memory that they
// take, also of one with a log here and there.
func TestIndexWeighsWhatItTakes(t *testing.T) {
	for _, apart := range []uint64{1, pageLogs, 1000} {
		var s *segmentIndex
		took := allocated(func() {
			s = newSegmentIndex(1)
			for n := range uint64(4000) {
				s.add(&Command{Kind: CommandAppend, Log: (n + 1) * apart, First: 1, Count: 1}, 4096)
			}
		})
		t.Logf("%d apart: %d bytes for a weight of %d", apart, took, s.weight())
		if took > 64*uint64(s.weight()) {
			t.Errorf("logs %d apart: %d bytes for a weight of %d", apart, took, s.weight())
		}
	}
}
