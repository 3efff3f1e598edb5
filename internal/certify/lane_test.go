package certify

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/wal"
)

// single returns the lanes that are cheap to check after every operation, on a
// file system.
func single(fsys disk.FS, name string) lane {
	s := site{fs: fsys, dir: "/d", run: ulid.ULID{1}, round: 3}
	if name == "blocks" {
		return &blocksLane{site: s}
	}
	return &filesLane{site: s}
}

// found checks what is on a file system against what was acknowledged.
func found(t *testing.T, fsys disk.FS, name string, acked uint64) *tally {
	t.Helper()
	got := &tally{LaneResult: LaneResult{Lane: name}}
	if err := single(fsys, name).check(t.Context(), acked, got); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestNoFalseAccusation cuts an honest disk after every operation of a lane:
// whatever of the step under way survives, nothing is amiss; neither if the
// witness heard of every acknowledgement, nor if it heard of none.
func TestNoFalseAccusation(t *testing.T) {
	for name, steps := range map[string]uint64{"blocks": 4, "files": 33} {
		t.Run(name, func(t *testing.T) {
			mem := disk.NewMem()
			if err := mem.MkdirAll("/d"); err != nil {
				t.Fatal(err)
			}
			var (
				rng     = rand.New(rand.NewPCG(7, 7))
				acked   uint64
				begun   bool
				states  int
				dropped int
			)
			fs := disk.Record(mem, func(op disk.Op) {
				if !begun {
					return
				}
				for _, survive := range []float64{0, 0.5, 0.5, 1} {
					crashed := mem.CrashClone(rng, survive)
					for _, heard := range []uint64{acked, acked / 2, 0} {
						got := found(t, crashed, name, heard)
						if len(got.losses) > 0 {
							t.Fatalf("cut at %s of step %d, heard of %d: %+v", op, acked+1, heard, got.losses)
						}
						if got.Acknowledged > acked {
							t.Fatalf("cut at %s of step %d: %d are said to be acknowledged", op, acked+1, got.Acknowledged)
						}
						states++
						dropped += got.dropped
					}
				}
			})
			l := single(fs, name)
			if _, err := l.begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			begun = true
			for n := uint64(1); n <= steps; n++ {
				if err := l.step(t.Context(), n); err != nil {
					t.Fatal(err)
				}
				acked = n
			}
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
			if states < 200 || name == "blocks" && dropped == 0 {
				t.Errorf("%d states, %d blocks dropped that were not synced", states, dropped)
			}
		})
	}
}

// TestEveryLossIsSeen claims, after each step, that one more was acknowledged:
// the check must miss it, whatever kind of step it was.
func TestEveryLossIsSeen(t *testing.T) {
	for _, name := range []string{"blocks", "files"} {
		t.Run(name, func(t *testing.T) {
			mem := disk.NewMem()
			if err := mem.MkdirAll("/d"); err != nil {
				t.Fatal(err)
			}
			l := single(mem, name)
			if _, err := l.begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			for n := uint64(1); n < slots+20; n++ {
				if n > 60 && n < slots-10 { // more of the same
					if err := l.step(t.Context(), n); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if got := found(t, mem.CrashClone(nil, 0), name, n); got.Lost+got.Torn+got.Reappeared == 0 {
					t.Fatalf("step %d was never made, and is not missed", n)
				}
				if err := l.step(t.Context(), n); err != nil {
					t.Fatal(err)
				}
				if got := found(t, mem.CrashClone(nil, 0), name, n); len(got.losses) > 0 {
					t.Fatalf("step %d was made, and is missed: %+v", n, got.losses)
				}
			}
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDamageIsSeen spoils one byte of each file that holds something acknowledged.
func TestDamageIsSeen(t *testing.T) {
	mem := disk.NewMem()
	if err := mem.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"blocks", "files"} {
		l := single(mem, name)
		if _, err := l.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		for n := uint64(1); n <= 43; n++ { // the eleventh generation is renamed
			if err := l.step(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		lane, path string
		slot       uint64
		torn       uint64
	}{
		{"blocks", "/d/blocks", slotOf(43), 1},
		{"blocks", "/d/blocks", slotOf(45), 1}, // of step 0
		{"blocks", "/d/blocks", slotOf(44), 0}, // step 44 may be under way
		{"files", "/d/files/slot-1", 0, 1},
		{"files", "/d/files/slot-2", 0, 1},
		{"files", "/d/files/slot-2", 1, 1},
		{"files", "/d/files/gone-10", 0, 0}, // step 44 removes it
	} {
		crashed := mem.CrashClone(nil, 1)
		flip(t, crashed, tc.path, int64(tc.slot)*limits.BlockSize+100)
		if got := found(t, crashed, tc.lane, 43); got.Torn != tc.torn || got.Lost+got.Reappeared != 0 {
			t.Errorf("block %d of %s: %+v, want %d torn", tc.slot, tc.path, got.losses, tc.torn)
		}
	}
}

// flip changes a byte of a file.
func flip(t *testing.T, fsys disk.FS, path string, at int64) {
	t.Helper()
	f, err := fsys.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestStamps: a block says what it was told to, every byte of it counts, and
// another run's is not taken for one's own.
func TestStamps(t *testing.T) {
	s := stamp{run: ulid.ULID{1, 2}, round: 3, kind: kindFile, place: 5, step: 6}
	block := s.encode()
	if got, ok := decode(block); !ok || got != s {
		t.Fatalf("%+v, %t", got, ok)
	}
	for i := range block {
		block[i] ^= 0x10
		if _, ok := decode(block); ok {
			t.Fatalf("byte %d does not count", i)
		}
		block[i] ^= 0x10
	}
	if _, ok := decode(block[:100]); ok {
		t.Error("a part of a block counts")
	}
	later := s
	later.step++
	if !later.is(s) {
		t.Error("a later step is of another place")
	}
	for _, other := range []stamp{
		{ulid.ULID{1}, 3, kindFile, 5, 6}, {s.run, 4, kindFile, 5, 6}, {s.run, 3, kindBlock, 5, 6}, {s.run, 3, kindFile, 6, 6},
	} {
		if other.is(s) {
			t.Errorf("%+v is taken for %+v", other, s)
		}
	}
}

// TestBatchArithmetic compares the closed forms with counting.
func TestBatchArithmetic(t *testing.T) {
	next := wal.LSN(1)
	for b := uint64(1); b < 200; b++ {
		if got := firstOf(b); got != next {
			t.Fatalf("batch %d begins at %d, want %d", b, got, next)
		}
		for range 1 + b%7 {
			if got := wholeBefore(next); got != b-1 {
				t.Fatalf("before LSN %d are %d batches, want %d", next, got, b-1)
			}
			next++
		}
	}
	at := fmt.Sprint(checkpointAt(0), checkpointAt(31), checkpointAt(32), checkpointAt(63), checkpointAt(64))
	if want := fmt.Sprint(0, 0, firstOf(16)-1, firstOf(16)-1, firstOf(48)-1); at != want {
		t.Errorf("checkpoints at %s, want %s", at, want)
	}
}

// TestSlots: each slot is met once in each round of them.
func TestSlots(t *testing.T) {
	last := map[uint64]uint64{}
	for n := uint64(1); n <= 3*slots; n++ {
		last[slotOf(n)] = n
		for slot := range uint64(slots) {
			if got := lastIn(slot, n); got != last[slot] {
				t.Fatalf("after step %d, slot %d has step %d, want %d", n, slot, got, last[slot])
			}
		}
	}
	if len(last) != slots {
		t.Errorf("%d slots are met, want %d", len(last), slots)
	}
}
