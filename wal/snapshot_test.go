package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// sampleState is a state with a bit of everything, and where its checkpoints' states lie.
func sampleState(t testing.TB) (*State, places) {
	t.Helper()
	s, err := applyAll(NewState(), sampleHistory())
	if err != nil {
		t.Fatal(err)
	}
	at := newPlaces()
	for _, l := range s.logs.all() {
		if l.next > l.first {
			at.moved[l.number] = movedPlace{l.next, l.totalBytes, segment.Pos{Segment: 9, Offset: limits.BlockSize}}
		}
		for i, cp := range l.checkpoints {
			if cp.size > 0 {
				at.set(stateKey{l.number, cp.name}, statePlace{segment.Pos{Segment: 7, Offset: int64(i+1) * limits.BlockSize}, Place{Block: uint32(i), Offset: 3, Size: cp.size}})
			}
		}
	}
	return s, at
}

// encodeSnapshot spells a state in one piece, as a snapshot's parts do together.
func encodeSnapshot(s *State, at places) []byte {
	logs := s.freeze()
	buf := appendSnapshotStart(nil, s.next, len(logs))
	for _, l := range logs {
		buf = appendSnapshotLog(buf, l, at.log(l.number))
	}
	return buf
}

func TestSnapshotRoundTrip(t *testing.T) {
	for _, empty := range []bool{true, false} {
		state, at := NewState(), newPlaces()
		if !empty {
			state, at = sampleState(t)
		}
		buf := encodeSnapshot(state, at)
		got, gotPlaces, err := decodeSnapshot(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got.Hash() != state.Hash() || got.next != state.next {
			t.Fatal("restored to another state")
		}
		if fmt.Sprint(gotPlaces) != fmt.Sprint(at) {
			t.Fatalf("places %v, want %v", gotPlaces, at)
		}
		// What was restored goes on as the original does.
		for _, c := range []Command{
			{Kind: CommandCreateLog, Log: state.next, Name: "newest"},
			{Kind: CommandAppend, Log: state.next, Epoch: 1, First: 1, Count: 1, Place: Place{Size: 3}},
		} {
			for _, s := range []*State{state, got} {
				if err := s.Apply(&c); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got.Hash() != state.Hash() {
			t.Fatal("the same commands make other states")
		}
		for n := range buf {
			if _, _, err := decodeSnapshot(buf[:n]); !errors.Is(err, ErrBadCommand) {
				t.Fatalf("the first %d of %d bytes: %v", n, len(buf), err)
			}
		}
		if _, _, err := decodeSnapshot(append(slices.Clone(buf), 0)); !errors.Is(err, ErrBadCommand) {
			t.Fatalf("a byte too many: %v", err)
		}
	}
}

// readCounter counts the bytes read from a disk.
type readCounter struct {
	disk.FS
	bytes atomic.Int64
}

func countReads(fs disk.FS) *readCounter {
	c := &readCounter{}
	c.FS = disk.Record(fs, func(op disk.Op) {
		if op.Kind == disk.OpRead && op.Done() {
			c.bytes.Add(op.Len)
		}
	})
	return c
}

// TestSnapshotDue says when, with 32 units between the snapshots of a small state.
func TestSnapshotDue(t *testing.T) {
	for _, c := range []struct {
		size     int64 // of the newest snapshot
		at, roll int64 // how much journal makes the next one due, and does behind a roll
	}{
		{0, 32, 0},
		{1, 32, 8},
		{4, 32, 32},
		{10, 80, 80},
		{16, 128, 128},
		{40, 128, 128}, // 320 would be much to scan
		{64, 128, 128},
		{100, 200, 200},
	} {
		v := &Volume{o: Options{SnapshotEvery: 32}}
		v.snapshots.size = c.size
		for _, d := range []struct {
			rolled bool
			at     int64
		}{{false, c.at}, {true, c.roll}} {
			for v.bytes = 0; v.bytes < 400 && !v.snapshotDue(d.rolled); v.bytes++ {
			}
			if v.bytes != d.at {
				t.Errorf("behind a snapshot of %d, rolled %t: due at %d, want %d", c.size, d.rolled, v.bytes, d.at)
			}
		}
	}
}

// paceSnapshots waits for a snapshot that is due: appends to a disk in memory
// may go faster than the snapshotter's goroutine is scheduled.
func paceSnapshots(t testing.TB, v *Volume) {
	t.Helper()
	pollUntil(t, "the snapshot that is due is whole", func() bool {
		v.mu.RLock()
		defer v.mu.RUnlock()
		// Without room for it, the next append asks for it again.
		return !v.snapshotDue(false) || v.journal.Space().Spares < 2
	})
}

// openingCost returns the bytes that recovery reads.
func openingCost(t *testing.T, fs disk.FS) int64 {
	t.Helper()
	// Without a janitor beside it that reads as well.
	c := countReads(fs)
	if _, _, err := recovered(c); err != nil {
		t.Fatal(err)
	}
	v := openTest(t, fs)
	if r := v.Recovery(); r.Verdict == "damaged" {
		t.Fatalf("%+v", r)
	}
	closeTest(t, v)
	return c.bytes.Load()
}

// TestOpeningCost opens volumes of different lengths: what is read is bounded by
// the distance between snapshots and a segment, not by the journal.
func TestOpeningCost(t *testing.T) {
	rec := strings.Repeat("x", 7000)
	grow := func(v *Volume, segments int) {
		for range segments {
			for rolls := v.Status().Rolls; v.Status().Rolls == rolls; {
				mustAppend(t, v, "log-0", rec)
				paceSnapshots(t, v)
			}
		}
	}
	for _, logs := range []int{1, 1000} {
		t.Run(fmt.Sprintf("logs=%d", logs), func(t *testing.T) {
			fs := disk.NewMem()
			v := openTest(t, fs)
			for i := range logs {
				mustCreate(t, v, fmt.Sprintf("log-%d", i))
				if i > 0 {
					mustAppend(t, v, fmt.Sprintf("log-%d", i), "x")
				}
			}
			grow(v, 10)
			closeTest(t, v)
			few := openingCost(t, fs)
			v = openTest(t, fs)
			grow(v, 100)
			closeTest(t, v)
			many := openingCost(t, fs)
			t.Logf("%d bytes read after 10 segments, %d after 110", few, many)
			// A snapshot of 1,000 logs takes a few of these small segments itself, and twice as much
			// may lie behind it.
			if bound := few + 8*limits.MinSegmentSize; many > bound {
				t.Errorf("opening reads %d bytes, not at most %d", many, bound)
			}
		})
	}
}

// TestOpeningCostOfACrashLoop crashes again and again after a few appends,
// never enough of them for a snapshot within one life of the process.
func TestOpeningCostOfACrashLoop(t *testing.T) {
	ctx := context.Background()
	mem := disk.NewMem()
	o := testOptions(nil)
	o.SnapshotEvery = 1 << 20
	var costs []int64
	var span []segment.ID
	for range 30 {
		c := countReads(mem)
		if len(costs) > 0 { // before, there is no volume
			if _, _, err := recovered(c); err != nil {
				t.Fatal(err)
			}
		}
		costs = append(costs, c.bytes.Load())
		o.FS = mem
		v, err := Open(ctx, "/vol", o)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := v.CreateLog(ctx, "log", LogOptions{}); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			got := mustAppend(t, v, "log", strings.Repeat("x", 3000))
			mustCheckpoint(t, v, "log", "cp", got.First, "")
		}
		pollUntil(t, "the janitor releases what opening does not need", func() bool {
			limit, err := v.oldestNeeded()
			if err != nil {
				t.Fatal(err)
			}
			return v.journal.Segments()[0] >= limit
		})
		span = append(span, v.filling()-v.journal.Segments()[0])
		mem = mem.CrashClone(nil, 0)
		closeTest(t, v)
	}
	t.Logf("bytes read: %d; segments kept: %d", costs, span)
	last := len(costs) - 1
	if most := slices.Max(costs[last-10:]); most > slices.Max(costs[:last-10])+2*limits.MinSegmentSize || most > 12*limits.MinSegmentSize {
		t.Errorf("opening costs more and more: %d", costs)
	}
	if slices.Max(span) > 4*snapshotSegments {
		t.Errorf("a crash loop fills the disk with segments: %d", span)
	}
}
