package segment

import (
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// TestRecycleWithoutRoomForAName: a directory that has no room for another name
// keeps a released segment's file for a while, and poisons nothing.
func TestRecycleWithoutRoomForAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := disk.NewFaulty(disk.NewMem())
		o := testOptions(fs)
		o.Spares = 4
		j := newJournal(t, o)
		for n := uint64(1); len(j.Segments()) < 6; n++ {
			if _, err := j.Append(testDraft(n, 20_000)); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
		awaitPool(t, j)
		there := func() bool {
			entries, err := fs.List(o.Dir)
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(entries, func(e disk.Entry) bool { return e.Name == segmentName(1) })
		}
		fs.Inject(disk.Fault{
			Kinds: []disk.OpKind{disk.OpRename}, Err: syscall.ENOSPC, Sticky: true,
			Only: func(op disk.Op) bool { return strings.HasSuffix(op.Name, segmentName(1)) },
		})
		if err := j.Release(j.Below(2)); err != nil {
			t.Fatalf("release: %v", err)
		}
		synctest.Wait()
		if !there() || j.Poisoned() != nil {
			t.Errorf("still there: %v; poisoned: %v", there(), j.Poisoned())
		}
		fs.Clear()
		<-time.After(2 * retryMin)
		synctest.Wait()
		if there() || j.Poisoned() != nil {
			t.Errorf("still there: %v; poisoned: %v", there(), j.Poisoned())
		}
		if _, err := j.Append(testDraft(1000, 100)); err != nil {
			t.Error(err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestWhatIsOver: what is recycled is kept up to limits.MaxSpares, and the rest
// is removed.
func TestWhatIsOver(t *testing.T) {
	fs := disk.NewMem()
	j := newJournal(t, testOptions(fs))
	for n := uint64(1); len(j.Segments()) < limits.MaxSpares+4; n++ {
		if _, err := j.Append(testDraft(n, 20_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	awaitPool(t, j)
	ids := j.Segments()
	if err := j.Release(j.Below(ids[len(ids)-1])); err != nil {
		t.Fatal(err)
	}
	if got := j.Space().Spares; got != limits.MaxSpares {
		t.Errorf("%d spares, want %d", got, limits.MaxSpares)
	}
	entries, err := fs.List(j.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := limits.MaxSpares + 1 + 2; len(entries) != want { // the last segment, LOCK and VOLUME
		t.Errorf("%d files are left, want %d: %v", len(entries), want, entries)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// TestRecycleWhatHasAnotherName: a name that came back, of a file that holds another
// segment by now, is removed, and the file neither shortened nor filled again.
func TestRecycleWhatHasAnotherName(t *testing.T) {
	fs := disk.NewMem()
	o := testOptions(fs)
	j := newJournal(t, o)
	for n := uint64(1); len(j.Segments()) < 4; n++ {
		appendSync(t, j, testDraft(n, 20_000))
	}
	awaitPool(t, j)
	// The first is the third now, as a link would be, and nobody has looked at it.
	j.mu.Lock()
	delete(j.headers, 1)
	j.mu.Unlock()
	src, err := fs.Open(filepath.Join(o.Dir, segmentName(3)), false)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := fs.Open(filepath.Join(o.Dir, segmentName(1)), true)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, limits.SegmentHeaderSize)
	if _, err := src.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := dst.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(src.Close(), dst.Close()); err != nil {
		t.Fatal(err)
	}
	if !j.BeganAnotherLife(1) || j.BeganAnotherLife(2) {
		t.Errorf("the first is another life: %v; the second: %v", j.BeganAnotherLife(1), j.BeganAnotherLife(2))
	}
	spares := j.Space().Spares
	if err := j.Release(j.Below(3)); err != nil {
		t.Fatal(err)
	}
	if got := j.Space().Spares - spares; got != 1 {
		t.Errorf("%d spares more, want one", got)
	}
	if ids := j.Segments(); ids[0] != 3 {
		t.Errorf("segments %v are left", ids)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// TestShrink: a large file is given up bit by bit before it is removed, with pauses, and
// a file that cannot be is removed as it is.
func TestShrink(t *testing.T) { synctest.Test(t, testShrink) }

func testShrink(t *testing.T) {
	fs := disk.NewFaulty(disk.NewMem())
	j := newJournal(t, testOptions(fs))
	path := filepath.Join(j.o.Dir, "over"+tmpSuffix)
	f, err := fs.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(3*shrinkBy+5), f.Close()); err != nil {
		t.Fatal(err)
	}
	var sizes []int64
	fs.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpTruncate}, Sticky: true, Only: func(op disk.Op) bool {
		if op.Kind != disk.OpTruncate || op.Name != filepath.Base(path) {
			return false
		}
		sizes = append(sizes, op.Offset)
		return len(sizes) > 2
	}, Err: syscall.EIO})
	began := time.Now()
	j.shrink("over" + tmpSuffix)
	if paused := time.Since(began); paused != 3*shrinkPause {
		t.Errorf("paused for %v, want thrice %v", paused, shrinkPause)
	}
	if want := []int64{2*shrinkBy + 5, shrinkBy + 5, 5}; !slices.Equal(sizes, want) {
		t.Errorf("shrunk to %d, want %d", sizes, want)
	}
	if j.Poisoned() != nil {
		t.Error("poisoned by a file that nobody needs")
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// TestShrunkWhileAnotherProcessReads: who reads a volume that another process
// writes finds a file that is being given up gone, and not damaged.
func TestShrunkWhileAnotherProcessReads(t *testing.T) {
	fs := disk.NewMem()
	o := testOptions(fs)
	j := newJournal(t, o)
	first := appendSync(t, j, rawDraft("x", 10_000))
	for len(j.Segments()) < 2 {
		appendSync(t, j, rawDraft("x", 10_000))
	}
	o.ReadOnly = true
	r := mustReader(t, mustOpen(t, o), 1)
	name := segmentName(1) + tmpSuffix
	if err := j.unname(segmentName(1), name); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Open(filepath.Join(o.Dir, name), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(limits.SegmentHeaderSize), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Frame(first.Ref.Pos.Offset); !errors.Is(err, ErrReleased) {
		t.Errorf("%v, want ErrReleased", err)
	}
}

// TestRenamesAreSyncedOneByOne: a sync of the directory that fails may take others'
// renames with it, so there are none between a rename and its sync.
func TestRenamesAreSyncedOneByOne(t *testing.T) {
	fs := disk.NewFaulty(disk.NewMem())
	var pending, overtaken atomic.Bool
	fs.Before(func(op disk.Op) error {
		switch op.Kind {
		case disk.OpRename:
			if !pending.CompareAndSwap(false, true) {
				overtaken.Store(true)
			}
			for range 100 {
				runtime.Gosched() // let those come who may
			}
		case disk.OpSyncDir:
			pending.Store(false)
		default:
		}
		return nil
	})
	j := newJournal(t, testOptions(fs))
	for n := uint64(1); n < 200; n++ {
		appendSync(t, j, testDraft(n, 15_000))
		if ids := j.Segments(); len(ids) > 4 {
			if err := j.Release(j.Below(ids[len(ids)-1])); err != nil {
				t.Fatal(err)
			}
		}
	}
	if overtaken.Load() {
		t.Error("a name was changed while the change of another one was not synced yet")
	}
}
