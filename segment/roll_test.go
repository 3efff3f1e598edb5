package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// rollOptions are those of a volume whose segments can be split.
func rollOptions(fs disk.FS) Options {
	o := testOptions(fs)
	o.SegmentSize, o.Spares = 512<<10, 2
	return o
}

// crowd is a disk with room for one segment, and not for a spare.
func crowd(mem *disk.Mem) { mem.SetCapacity(512<<10 + 4*limits.BlockSize) }

// TestRollRecordsSnapshots begins a segment because its header has to say where
// snapshots are: with a spare, and in what is left of the one before.
func TestRollRecordsSnapshots(t *testing.T) {
	for _, full := range []bool{false, true} {
		t.Run(fmt.Sprintf("full=%v", full), func(t *testing.T) {
			mem := disk.NewMem()
			if full {
				crowd(mem)
			}
			o := rollOptions(mem)
			sealed := 0
			o.Events.Sealed = func(ID) { sealed++ }
			j := newJournal(t, o)
			awaitPool(t, j)
			var refs []FrameRef
			for n := range 4 {
				refs = append(refs, appendSync(t, j, testDraft(uint64(n+1), 9000)).Ref)
			}
			j.SetSnapshots(refs[3], refs[2])
			if err := j.Roll(); err != nil || len(j.Segments()) != 1 {
				t.Fatalf("a segment that is not ended was rolled: %v, %v", j.Segments(), err)
			}
			j.EndSegment()
			if s := j.Space(); s.Remaining != 0 {
				t.Errorf("an ended segment has room: %+v", s)
			}
			if err := j.Admit(1, Reserve{Spare: TakeSpare}); full != errors.Is(err, ErrPreparing) {
				t.Errorf("behind an ended segment, before Roll: %v", err)
			}
			if err := j.Roll(); err != nil {
				t.Fatal(err)
			}
			h, err := j.Header(2)
			if err != nil || h.Snapshot != refs[3] || h.OlderSnapshot != refs[2] {
				t.Errorf("%+v, %v", h, err)
			}
			if short := h.Size < o.SegmentSize; short != full || full == (sealed == 1) {
				t.Errorf("%d bytes, %d sealed", h.Size, sealed)
			}
			if err := j.Admit(1, Reserve{Spare: TakeSpare}); err != nil {
				t.Errorf("refused in a fresh segment: %v", err)
			}
			appendSync(t, j, testDraft(5, 9000))
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			again(t, o, 5)
		})
	}
}

// again opens a volume that holds n drafts, and closes it.
func again(t *testing.T, o Options, n int) {
	t.Helper()
	j, last, err := reopen(o, 0, n)
	if err != nil {
		t.Fatal(err)
	}
	if last != n {
		t.Errorf("drafts end at %d, want %d", last, n)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// TestRollWithoutRoom wants a roll that cannot be to leave everything as it is,
// and one whose space somebody else took to be made up for later.
func TestRollWithoutRoom(t *testing.T) {
	mem := disk.NewMem()
	crowd(mem)
	fs := disk.NewFaulty(mem)
	o := rollOptions(fs)
	j := newJournal(t, o)
	awaitPool(t, j)
	n := 0
	next := func(size int) *Draft { n++; return testDraft(uint64(n), size) }
	thief := func(op disk.Op) error {
		if op.Kind == disk.OpCreate {
			mem.SetCapacity(limits.BlockSize) // whatever is given up is gone
		}
		return nil
	}
	appendSync(t, j, next(9000))
	fs.Before(thief)
	j.EndSegment()
	if err := j.Roll(); !errors.Is(err, ErrNoSpace) || j.Poisoned() != nil {
		t.Fatalf("%v, %v", err, j.Poisoned())
	}
	for _, use := range []SpareUse{LeaveSpare, KeepSpare, TakeSpare} {
		if err := j.Admit(1, Reserve{Spare: use}); !errors.Is(err, ErrNoSpace) {
			t.Errorf("admitted where nothing can go: %v", err)
		}
	}
	fs.Before(nil)
	crowd(mem)
	j.EndSegment()
	if err := j.Roll(); err != nil {
		t.Fatal(err)
	}
	for j.Space().Remaining > limits.BlockSize { // until the rest is too little for a segment
		appendSync(t, j, next(100))
	}
	left := j.Space().Remaining
	mem.SetCapacity(limits.BlockSize)
	j.EndSegment()
	if err := j.Roll(); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	if s := j.Space(); s.Remaining != left {
		t.Errorf("%+v, want %d remaining", s, left)
	}
	appendSync(t, j, next(100))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	mem.SetCapacity(0)
	again(t, o, n)
}

// TestPowerCutsInARoll cuts the power after every operation of a roll on a full
// disk, of which nothing that was durable may be lost.
func TestPowerCutsInARoll(t *testing.T) {
	mem := disk.NewMem()
	crowd(mem)
	durable := 0
	var mu sync.Mutex // the preparer works too
	var cuts []powerCut
	fs := disk.Record(mem, func(op disk.Op) {
		mu.Lock()
		defer mu.Unlock()
		if durable == 0 || !mutates(op) {
			return
		}
		for i := range 4 {
			rng := rand.New(rand.NewPCG(op.Event, uint64(i)))
			cuts = append(cuts, powerCut{fmt.Sprintf("after %d (%s)", op.Event, op), mem.CrashClone(rng, float64(i)/3), true, 0, durable})
		}
	})
	j := newJournal(t, rollOptions(fs))
	awaitPool(t, j)
	n := 0
	add := func() {
		n++
		appendSync(t, j, testDraft(uint64(n), 9000))
		mu.Lock()
		durable = n
		mu.Unlock()
	}
	for range 3 {
		add()
		add()
		j.EndSegment()
		if err := j.Roll(); err != nil {
			t.Fatal(err)
		}
	}
	add()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if len(cuts) < 60 {
		t.Fatalf("%d power cuts", len(cuts))
	}
	for _, c := range cuts {
		if err := c.check(); err != nil {
			t.Errorf("%s: %v", c.at, err)
		}
	}
}

// TestReclaim restarts a volume again and again, each time after one frame. What
// the segments leave unused comes back, so that the next one finds room.
func TestReclaim(t *testing.T) {
	mem := disk.NewMem()
	mem.SetCapacity(4*512<<10 + 4*limits.BlockSize)
	o := rollOptions(mem)
	j := newJournal(t, o)
	for n := 1; n <= 30; n++ {
		awaitPool(t, j)
		if err := j.Admit(j.MaxFrame()/2, Reserve{}); err != nil {
			t.Fatalf("life %d: %v", n, err)
		}
		appendSync(t, j, testDraft(uint64(n), 1000))
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		var last int
		var err error
		if j, last, err = reopen(o, 0, n); err != nil || last != n {
			t.Fatalf("life %d: drafts end at %d: %v", n, last, err)
		}
	}
	awaitPool(t, j)
	if full, bytes := j.Releasable(j.Below(1 << 40)); full > 2 || bytes > 30*5*limits.BlockSize {
		t.Errorf("%d segments and %d bytes hold 30 frames", full, bytes)
	}
	// A file that was shortened is no spare.
	ids := j.Segments()
	if err := j.Release(j.Below(ids[len(ids)-1])); err != nil {
		t.Fatal(err)
	}
	awaitPool(t, j)
	for range 20 {
		if err := j.WaitSpace(t.Context(), 20_000, Reserve{}); err != nil {
			t.Fatal(err)
		}
		appendSync(t, j, rawDraft("x", 10_000))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
