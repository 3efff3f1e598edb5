package segment

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
)

// A gapCut is what a disk may hold after a power cut, and what must be in it.
type gapCut struct {
	at     string
	mem    *disk.Mem
	kept   map[ID]bool  // segments that nobody asked to release
	frames map[int]bool // the numbers of the drafts in them
}

// A gapRun uses a volume, and knows what must be in it after a power cut.
type gapRun struct {
	mem  *disk.Mem
	disk *disk.Faulty
	o    Options

	mu     sync.Mutex // guards what is beneath, for the operations of the pool
	kept   map[ID]bool
	frames map[int]bool
	cuts   []gapCut // since cutting
	shares []float64
	names  bool // only operations on names
}

// newGapRun makes a volume of n segments with a frame in each.
func newGapRun(t *testing.T, n int) (*gapRun, *Journal) {
	r := &gapRun{mem: disk.NewMem(), kept: map[ID]bool{}, frames: map[int]bool{}}
	r.disk = disk.NewFaulty(disk.Record(r.mem, r.cut))
	r.o = testOptions(r.disk)
	j := journalOf(t, r.o, n)
	for i := range n {
		r.kept[ID(i+1)], r.frames[i+1] = true, true
	}
	return r, j
}

// cutting has the power cut after every operation from now on; of what is not synced,
// each share survives once.
func (r *gapRun) cutting(shares ...float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shares = shares
}

func (r *gapRun) cut(op disk.Op) {
	if !mutates(op) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names && op.Kind != disk.OpRename && op.Kind != disk.OpRemove && op.Kind != disk.OpSyncDir {
		return
	}
	for i, share := range r.shares {
		mem := r.mem.CrashClone(rand.New(rand.NewPCG(op.Event, uint64(i))), share)
		// Nobody writes to the maps: change replaces them.
		r.cuts = append(r.cuts, gapCut{fmt.Sprintf("after %d (%s), %.1f survives", op.Event, op, share), mem, r.kept, r.frames})
	}
}

// change changes what must be in the volume.
func (r *gapRun) change(how func(kept map[ID]bool, frames map[int]bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept, r.frames = maps.Clone(r.kept), maps.Clone(r.frames)
	how(r.kept, r.frames)
}

// release releases segments. They may be gone from now on.
func (r *gapRun) release(j *Journal, ids ...ID) error {
	found, _, err := survivors(j)
	if err != nil {
		return err
	}
	r.change(func(kept map[ID]bool, frames map[int]bool) {
		for _, id := range ids {
			delete(kept, id)
		}
		for _, s := range found {
			if slices.Contains(ids, s.end.End.Segment) {
				delete(frames, s.n)
			}
		}
	})
	return j.Release(ids)
}

// append appends a frame, durably.
func (r *gapRun) append(j *Journal, n int) error {
	_, err := j.Append(testDraft(uint64(n), 40_000))
	if err = errors.Join(err, j.Sync()); err != nil {
		return err
	}
	ids := j.Segments()
	r.change(func(kept map[ID]bool, frames map[int]bool) {
		kept[ids[len(ids)-1]], frames[n] = true, true
	})
	return nil
}

// open opens the volume and resumes.
func (r *gapRun) open() (*Journal, error) {
	j, err := Open(r.o)
	if err != nil {
		return nil, err
	}
	now := gapCut{mem: r.mem, kept: r.kept, frames: r.frames}
	res, err := now.look(j)
	if err == nil {
		_, err = j.Resume(res)
	}
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// look wants in a journal what must be there, and every other segment between the
// oldest and the newest in a gap, and says how to go on.
func (c *gapCut) look(j *Journal) (Resume, error) {
	ids, gaps := j.Segments(), j.Gaps()
	for id := range c.kept {
		if !slices.Contains(ids, id) {
			return Resume{}, fmt.Errorf("segment %s is lost; segments %v, gaps %v", id, ids, gaps)
		}
		if hdr, err := j.Header(id); err != nil || hdr.ID != id {
			return Resume{}, fmt.Errorf("segment %s has the header %+v: %w", id, hdr, err)
		}
	}
	for _, g := range gaps {
		if hdr, err := j.Header(g.From); err != nil || hdr.ID != g.From || hdr.Cut.End.Segment != g.From-1 {
			return Resume{}, fmt.Errorf("gap %s has the header %+v: %w", g, hdr, err)
		}
	}
	at := ids[0]
	for _, id := range ids {
		for ; at < id; at++ {
			if !slices.ContainsFunc(gaps, func(g Gap) bool { return g.covers(at) }) {
				return Resume{}, fmt.Errorf("segment %s is missing and in no gap; segments %v, gaps %v", at, ids, gaps)
			}
		}
		at = id + 1
	}
	found, res, err := survivors(j)
	if err != nil {
		return Resume{}, fmt.Errorf("segments %v, gaps %v: %w", ids, gaps, err)
	}
	for n := range c.frames {
		if !slices.ContainsFunc(found, func(s survivor) bool { return s.n == n }) {
			return Resume{}, fmt.Errorf("frame %d is lost; segments %v, gaps %v", n, ids, gaps)
		}
	}
	return res, nil
}

// check opens what a power cut left, uses it, cuts the power again, and opens that.
func (c *gapCut) check() error {
	again := gapRun{mem: c.mem, kept: c.kept, frames: c.frames, o: testOptions(c.mem)}
	again.o.Rand = rand.NewChaCha8([32]byte{2}) // a later life draws other salts
	j, err := again.open()
	if err != nil {
		return err
	}
	j.recycleReleased() // or wait until the pool has
	err = again.append(j, 1000)
	mem := c.mem.CrashClone(rand.New(rand.NewPCG(3, 4)), 0.5)
	if err = errors.Join(err, j.Close()); err != nil {
		return err
	}
	second := gapCut{mem: mem, kept: again.kept, frames: again.frames}
	if j, err = Open(testOptions(mem)); err == nil {
		_, err = second.look(j)
		err = errors.Join(err, j.Close())
	}
	if err != nil {
		return fmt.Errorf("after the second cut: %w", err)
	}
	return nil
}

// checkAll checks what the run left at every cut.
func (r *gapRun) checkAll(t *testing.T, why string) {
	t.Helper()
	for _, c := range r.cuts {
		if err := c.check(); err != nil {
			t.Errorf("%s%s: %v", why, c.at, err)
			return
		}
	}
}

// gapSteps are releases in a volume of 12 segments that make gaps, grow them at both
// ends, join them, and drop them.
var gapSteps = [][]ID{{5}, {7, 9}, {6}, {4}, {8}, {1, 11}, {2, 3}, {10}}

// TestPowerCutsAroundGaps cuts the power after every operation of a run that releases
// from the middle, in two processes; with readers of what is released, its names go late.
func TestPowerCutsAroundGaps(t *testing.T) {
	for _, pinned := range []bool{false, true} {
		t.Run(fmt.Sprintf("pinned=%v", pinned), func(t *testing.T) {
			t.Parallel()
			testPowerCutsAroundGaps(t, pinned)
		})
	}
}

func testPowerCutsAroundGaps(t *testing.T, pinned bool) {
	r, j := newGapRun(t, 12)
	r.cutting(0, 0.3, 0.7, 1)
	for i, ids := range gapSteps {
		if i == len(gapSteps)/2 {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			var err error
			if j, err = r.open(); err != nil {
				t.Fatal(err)
			}
		}
		unpin := func() error { return nil }
		if pinned {
			reader, err := j.Reader(ids[0])
			if err != nil {
				t.Fatal(err)
			}
			unpin = reader.Close
		}
		err := r.release(j, ids...)
		if err == nil {
			err = r.append(j, 100+i)
		}
		if err = errors.Join(err, unpin()); err != nil {
			t.Fatal(err)
		}
		j.recycleReleased() // or wait until the pool has
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if gaps := gapFiles(t, r.mem); len(gaps) > 0 {
		t.Errorf("files of gaps %v are left where no segment lies before them", gaps)
	}
	if len(r.cuts) < 400 {
		t.Fatalf("%d power cuts", len(r.cuts))
	}
	r.checkAll(t, "")
}

// afterwards are what a process may do to a volume that it finds with gaps.
var afterwards = []struct {
	name string
	do   func(r *gapRun, j *Journal) error
}{
	{"recycles", func(*gapRun, *Journal) error { return nil }},
	{"releases what is before the first gap", func(r *gapRun, j *Journal) error {
		if gaps := j.Gaps(); len(gaps) > 0 {
			return r.release(j, j.Below(gaps[0].From)...)
		}
		return nil
	}},
	{"releases the one before the first gap", func(r *gapRun, j *Journal) error {
		if gaps := j.Gaps(); len(gaps) > 0 {
			return r.release(j, gaps[0].From-1)
		}
		return nil
	}},
	{"releases another one", func(r *gapRun, j *Journal) error {
		ids := j.Segments()
		return r.release(j, ids[max(len(ids), 2)-2]) // unless it is the only one
	}},
}

// TestFailedDirectorySyncOfAGap has each sync of the directory fail in turn of a run that
// releases from the middle. The next process sees more than the disk will ever have. In
// some of its lives a sync fails as well; and whatever it and one more do, the power may
// be cut.
func TestFailedDirectorySyncOfAGap(t *testing.T) {
	for _, after := range afterwards {
		t.Run(after.name, func(t *testing.T) {
			t.Parallel()
			poisoned := 0
			for at := 0; ; at++ {
				for _, second := range []int{0, 2} {
					r, fired := failedSync(t, at)
					if !fired {
						if poisoned < 20 {
							t.Errorf("%d faults poisoned the journal", poisoned)
						}
						return
					}
					poisoned++
					r.names = true  // what is in the files is not what the syncs fail for
					if second > 0 { // the first is Resume's
						r.disk.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSyncDir}, At: second})
						r.live(t, after.do)
						r.disk.Clear()
					}
					r.cutting(0, 0.5)
					r.live(t, after.do)
					r.checkAll(t, fmt.Sprintf("sync %d failed, and then %d: ", at, second))
				}
			}
		})
	}
}

// failedSync returns a volume on which the process ended that released from the middle,
// since a sync of the directory failed; or false if it has no so many.
func failedSync(t *testing.T, at int) (*gapRun, bool) {
	t.Helper()
	r, fired, err := failedRun(t, disk.Fault{Kinds: []disk.OpKind{disk.OpSyncDir}, At: at})
	if fired && !errors.Is(err, ErrPoisoned) {
		t.Fatalf("sync %d failed, and the caller was told %v", at, err)
	}
	return r, fired
}

// failedRun returns a volume on which a process has released from the middle, into a
// fault; whether the fault was hit, and what the process was told first.
func failedRun(t *testing.T, fault disk.Fault) (r *gapRun, fired bool, told error) {
	t.Helper()
	r, j := newGapRun(t, 12)
	r.disk.Inject(fault)
	for _, ids := range gapSteps {
		if err := r.release(j, ids...); err != nil && told == nil {
			told = err
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	fired = r.disk.Fired() > 0
	r.disk.Clear()
	return r, fired, told
}

// live opens the volume, does something, and closes it.
func (r *gapRun) live(t *testing.T, do func(*gapRun, *Journal) error) {
	t.Helper()
	j, err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	err = do(r, j)
	j.recycleReleased() // or wait until the pool has
	if err != nil && !errors.Is(err, ErrPoisoned) {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEveryOperationFailsAroundGaps fails every operation in turn of a run that releases
// from the middle, and goes on unless that poisons it.
func TestEveryOperationFailsAroundGaps(t *testing.T) {
	kinds := []disk.OpKind{disk.OpCreate, disk.OpWrite, disk.OpSync, disk.OpRename, disk.OpRemove, disk.OpSyncDir}
	for _, mode := range []struct {
		name  string
		fault disk.Fault
	}{
		{"fails", disk.Fault{Kinds: kinds}},
		{"fails and has happened", disk.Fault{Kinds: kinds, Late: true}},
		{"writes half", disk.Fault{Kinds: []disk.OpKind{disk.OpWrite}, Short: true}},
		{"is a sync that fails from then on", disk.Fault{Kinds: []disk.OpKind{disk.OpSyncDir}, Sticky: true}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			for mode.fault.At = 0; ; mode.fault.At++ {
				for i, after := range afterwards[:2] {
					r, fired, _ := failedRun(t, mode.fault)
					if !fired {
						if mode.fault.At < 5 {
							t.Errorf("%d operations", mode.fault.At)
						}
						return
					}
					r.names = true
					r.cutting(0.5)
					r.live(t, after.do)
					r.checkAll(t, fmt.Sprintf("operation %d failed, the next process %s (%d): ", mode.fault.At, after.name, i))
				}
			}
		})
	}
}
