package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// refuseNames has a file system refuse that segments get their names, for want of
// room. Whatever is given up for them is gone to somebody else.
func refuseNames(f *disk.Faulty) {
	f.Inject(disk.Fault{
		Kinds: []disk.OpKind{disk.OpRename}, Err: syscall.ENOSPC, Sticky: true,
		Only: func(op disk.Op) bool { return strings.HasSuffix(op.To, segmentSuffix) },
	})
}

// TestNoRoomForASegmentsName: frames that were admitted wait for the name of the
// segment that they are to go to, nothing else is admitted meanwhile, and all goes on
// when there is room.
func TestNoRoomForASegmentsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disks := disk.NewFaulty(disk.NewMem())
		o := testOptions(disks)
		told := 0
		o.Events.PrepareFailed = func(err error) {
			if told++; !errors.Is(err, ErrNoSpace) {
				t.Errorf("told %v", err)
			}
		}
		j := newJournal(t, o)
		awaitPool(t, j)
		refuseNames(disks)
		const frames = 8
		appended := make(chan error)
		go func() {
			for n := range uint64(frames) {
				_, err := j.Append(testDraft(n+1, 20_000))
				appended <- errors.Join(err, j.Sync())
			}
		}()
		for disks.Fired() == 0 {
			select {
			case err := <-appended:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(time.Second):
			}
		}
		<-time.After(10 * retryMin)
		for _, use := range []SpareUse{LeaveSpare, KeepSpare, TakeSpare} {
			if err := j.Admit(1, Reserve{Spare: use}); !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("admitted behind frames that wait for room: %v", err)
			}
		}
		if s := j.Space(); j.Poisoned() != nil || !errors.Is(s.PrepareError, ErrNoSpace) || told != 1 {
			t.Errorf("poisoned: %v; %+v; told %d times", j.Poisoned(), s, told)
		}
		durable := int(j.Durable())
		if durable == 0 || durable == frames {
			t.Fatalf("%d frames are durable", durable)
		}
		disks.Clear()
		for range frames - durable {
			if err := <-appended; err != nil {
				t.Fatal(err)
			}
		}
		awaitPool(t, j)
		if err := j.Admit(1, Reserve{}); err != nil {
			t.Errorf("refused where there is room again: %v", err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		again(t, o, frames)
	})
}

// TestDrainEndsTheWaitForRoom ends a journal on a disk that nobody makes room on.
func TestDrainEndsTheWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disks := disk.NewFaulty(disk.NewMem())
		o := testOptions(disks)
		j := newJournal(t, o)
		awaitPool(t, j)
		refuseNames(disks)
		ended := make(chan int)
		go func() {
			for n := 1; ; n++ {
				_, err := j.Append(testDraft(uint64(n), 20_000))
				if errors.Is(err, ErrClosed) && !errors.Is(err, ErrNoSpace) {
					ended <- n
					return
				}
				if err = errors.Join(err, j.Sync()); err != nil {
					t.Error(err)
				}
			}
		}()
		synctest.Wait()
		j.Drain()
		n := <-ended
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		disks.Clear()
		again(t, o, n-1)
	})
}

// fillDisk takes every block of the disk that is left.
func fillDisk(t *testing.T, mem *disk.Mem) {
	t.Helper()
	f, err := mem.Open("/ballast", true)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = mem.Create("/ballast")
	}
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	free, err := mem.Free("/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, free&^(limits.BlockSize-1)), size); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), mem.SyncDir("/"), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestPowerCutsWithoutRoomForNames rolls, and opens, on a disk without a single
// free block that takes one for every name: what is dead makes room for it. The
// power is cut after every operation, and nothing that was durable may be lost.
func TestPowerCutsWithoutRoomForNames(t *testing.T) {
	mem := disk.NewMem()
	mem.SetNamesTakeRoom(true)
	mem.SetCapacity(4 << 20)
	durable := 0
	var mu sync.Mutex // the preparer works too
	var cuts []powerCut
	refused := 0
	disks := disk.Record(mem, func(op disk.Op) {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == disk.OpRename && errors.Is(op.Err, syscall.ENOSPC) {
			refused++
		}
		if durable == 0 || !mutates(op) {
			return
		}
		for i := range 2 {
			rng := rand.New(rand.NewPCG(op.Event, uint64(i)))
			cuts = append(cuts, powerCut{fmt.Sprintf("after %d (%s)", op.Event, op), mem.CrashClone(rng, float64(i)/2), true, 0, durable})
		}
	})
	o := rollOptions(disks)
	j := newJournal(t, o)
	awaitPool(t, j)
	for n := 1; len(j.Segments()) < 3; n++ {
		fillDisk(t, mem)
		appendSync(t, j, testDraft(uint64(n), 20_000))
		mu.Lock()
		durable = n
		mu.Unlock()
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if len(cuts) < 60 || refused < 2 {
		t.Fatalf("%d power cuts, %d names refused", len(cuts), refused)
	}
	for _, c := range cuts {
		if err := c.check(); err != nil {
			t.Errorf("%s: %v", c.at, err)
		}
	}
}

// TestResumeRemovesWithoutRoomForNames opens a volume whose last segments have to go,
// on a disk without room for the names under which they do.
func TestResumeRemovesWithoutRoomForNames(t *testing.T) {
	first := disk.NewMem()
	j := newJournal(t, testOptions(first))
	for n := range 14 {
		appendSync(t, j, rawDraft(fmt.Sprintf("meta %d", n+1), 10_000))
	}
	awaitPool(t, j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, spares := range []bool{true, false} {
		t.Run(fmt.Sprintf("spares=%v", spares), func(t *testing.T) {
			mem := first.CrashClone(nil, 1)
			if !spares {
				for _, name := range names(t, mem) {
					if isSpareName(name) {
						if err := mem.Remove(filepath.Join(testOptions(mem).Dir, name)); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := mem.SyncDir(testOptions(mem).Dir); err != nil {
					t.Fatal(err)
				}
			}
			mem.SetCapacity(4 << 20)
			fillDisk(t, mem)
			mem.SetNamesTakeRoom(true)
			var cuts []*disk.Mem
			var mu sync.Mutex
			disks := disk.Record(mem, func(op disk.Op) {
				mu.Lock()
				defer mu.Unlock()
				if mutates(op) {
					for i := range 4 {
						cuts = append(cuts, mem.CrashClone(rand.New(rand.NewPCG(op.Event, uint64(i))), 0.5))
					}
				}
			})
			o := testOptions(disks)
			j := mustOpen(t, o)
			found, r, err := survivors(j)
			if err != nil {
				t.Fatal(err)
			}
			r.Cut, r.Rewrite = found[3].end, []Draft{found[5].d}
			newest := j.Segments()[len(j.Segments())-1]
			if newest < 4 {
				t.Fatalf("segments %v", j.Segments())
			}
			r.DeadFrom = Pos{newest, limits.SegmentHeaderSize}
			if _, err := j.Resume(r); err != nil {
				t.Fatal(err)
			}
			if ids := j.Segments(); !slices.Equal(ids, []ID{1, 2}) {
				t.Errorf("segments %v", ids)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(cuts) < 20 {
				t.Fatalf("%d cuts", len(cuts))
			}
			for i, mem := range cuts {
				j, err := Open(testOptions(mem))
				if err != nil {
					t.Fatalf("cut %d: %v", i, err)
				}
				found, _, err := survivors(j)
				if err == nil {
					_, err = checkSurvivors(found, 0, 5)
				}
				if err = errors.Join(err, j.Close()); err != nil {
					t.Errorf("cut %d: %v", i, err)
				}
			}
		})
	}
}
